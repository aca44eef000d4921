//! How much of a stream may be in flight: about 1.5 times what the link carries in one round trip.
//!
//! More would only fill queues, behind which everything else on the link waits; less would leave the link idle.

use std::time::{Duration, Instant};

/// Least credit, in bytes: one chunk.
const LEAST: u64 = 256 << 10;
/// Most credit, in bytes; also bounds what the receiver has to keep.
pub(super) const MOST: u64 = 8 << 20;
/// Credit before anything was measured, in bytes.
const FIRST: u64 = 1 << 20;
/// Shortest time over which goodput is measured; shorter ones see bursts.
const SPAN: Duration = Duration::from_millis(100);
/// Round trips below this are counted as this: on a fast link the scheduler is the latency.
const LEAST_ROUND_TRIP: Duration = Duration::from_millis(10);

/// Credit of one direction of one stream.
#[derive(Debug)]
pub(super) struct Credit {
    window: u64,
    round_trip: Option<Duration>,
    acked: u64,
    since: Option<Instant>,
}

impl Credit {
    pub(super) fn new() -> Self {
        Self {
            window: FIRST,
            round_trip: None,
            acked: 0,
            since: None,
        }
    }

    /// Returns how many bytes may be unacknowledged.
    pub(super) fn window(&self) -> u64 {
        self.window
    }

    /// Takes in that `bytes` were acknowledged that had been sent `round_trip` ago.
    pub(super) fn acked(&mut self, bytes: u64, round_trip: Duration, now: Instant) {
        let least = self
            .round_trip
            .map_or(round_trip, |known| known.min(round_trip));
        self.round_trip = Some(least);
        let since = *self.since.get_or_insert(now);
        self.acked += bytes;
        let span = now.duration_since(since);
        if span < SPAN.max(least) {
            return;
        }
        let goodput = self.acked as f64 / span.as_secs_f64();
        let wanted = 1.5 * goodput * least.max(LEAST_ROUND_TRIP).as_secs_f64();
        self.window = (wanted as u64).clamp(LEAST, MOST);
        self.acked = 0;
        self.since = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_grows_to_what_the_link_carries_and_no_further() {
        // 12.5 MB/s at 100 ms: one round trip holds 1.25 MB
        let (rate, round_trip) = (12.5e6, Duration::from_millis(100));
        let mut credit = Credit::new();
        let mut now = Instant::now();
        for _ in 0..100 {
            let carried = (credit.window() as f64).min(rate * round_trip.as_secs_f64()) as u64;
            now += round_trip;
            credit.acked(carried, round_trip, now);
        }
        assert!(
            (1_800_000..2_000_000).contains(&credit.window()),
            "{}",
            credit.window()
        );
    }

    #[test]
    fn credit_stays_within_its_bounds() {
        let mut credit = Credit::new();
        let mut now = Instant::now();
        for bytes in [1, 1, 1 << 40, 1 << 40] {
            now += Duration::from_secs(1);
            credit.acked(bytes, Duration::from_secs(1), now);
            assert!((LEAST..=MOST).contains(&credit.window()));
        }
    }
}
