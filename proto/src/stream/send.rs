//! The sending half of one direction: chunks from the end that produced them until they are acknowledged.

use std::{collections::VecDeque, time::Instant};

use super::credit::Credit;

/// Number of a lane within this process.
pub(super) type LaneId = u64;

#[derive(Debug)]
struct InFlight {
    offset: u64,
    length: u64,
    /// Empty once the receiver is known to have it.
    data: Vec<u8>,
    place: Place,
    sent_at: Option<Instant>,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Place {
    /// Waits for a lane.
    Queued,
    /// Given to this lane.
    On(LaneId),
    /// The receiver has it, but nobody has taken it out there yet.
    Arrived,
}

/// The sending half of one direction of a stream.
#[derive(Debug)]
pub(super) struct SendHalf {
    chunks: VecDeque<InFlight>,
    end: u64,
    acked: u64,
    credit: Credit,
    ended: bool,
    /// A lane was lost: nothing is sent again before the other side has said what it has.
    pub(super) await_sync: bool,
    /// The end is still to be told.
    pub(super) end_due: bool,
    /// Bytes given to a lane more than once.
    pub(super) resent: u64,
}

impl SendHalf {
    pub(super) fn new(from: u64) -> Self {
        Self {
            chunks: VecDeque::new(),
            end: from,
            acked: from,
            credit: Credit::new(),
            ended: false,
            await_sync: false,
            end_due: false,
            resent: 0,
        }
    }

    /// Returns whether another chunk may be put in.
    pub(super) fn has_room(&self) -> bool {
        self.end - self.acked < self.credit.window()
    }

    pub(super) fn push(&mut self, data: Vec<u8>) {
        let length = data.len() as u64;
        let chunk = InFlight {
            offset: self.end,
            length,
            data,
            place: Place::Queued,
            sent_at: None,
        };
        self.chunks.push_back(chunk);
        self.end += length;
    }

    /// Says that nothing will be put in any more.
    pub(super) fn finish(&mut self) {
        self.ended = true;
        self.end_due = true;
    }

    /// Returns the length of the direction, once it is known.
    pub(super) fn length(&self) -> Option<u64> {
        self.ended.then_some(self.end)
    }

    pub(super) fn acked_offset(&self) -> u64 {
        self.acked
    }

    /// Returns whether everything has been acknowledged and nothing more will come.
    pub(super) fn is_done(&self) -> bool {
        self.ended && self.acked == self.end
    }

    /// Gives the oldest waiting chunk to a lane.
    pub(super) fn take(&mut self, lane: LaneId, now: Instant) -> Option<(u64, Vec<u8>)> {
        if self.await_sync {
            return None;
        }
        let chunk = self
            .chunks
            .iter_mut()
            .find(|chunk| chunk.place == Place::Queued)?;
        if chunk.sent_at.is_some() {
            self.resent += chunk.length;
        }
        chunk.place = Place::On(lane);
        chunk.sent_at = Some(now);
        Some((chunk.offset, chunk.data.clone()))
    }

    /// Takes in that the receiver has taken everything below `offset` out of the stream.
    ///
    /// Returns false when that is more than was ever sent.
    pub(super) fn ack(&mut self, offset: u64, now: Instant) -> bool {
        if offset > self.end {
            return false;
        }
        while let Some(first) = self.chunks.front() {
            if first.offset + first.length > offset {
                break;
            }
            if let Some(sent_at) = first.sent_at {
                self.credit
                    .acked(first.length, now.duration_since(sent_at), now);
            }
            self.chunks.pop_front();
        }
        self.acked = self.acked.max(offset);
        true
    }

    /// Takes in what the receiver has: that is not sent again, everything else on no living lane is.
    pub(super) fn sync(&mut self, received: u64) -> bool {
        if received > self.end {
            return false;
        }
        for chunk in &mut self.chunks {
            if chunk.offset + chunk.length <= received {
                chunk.place = Place::Arrived;
                chunk.data = Vec::new();
            }
        }
        self.await_sync = false;
        true
    }

    /// Takes back what a lane carried. Returns whether it carried anything of this stream.
    pub(super) fn lane_lost(&mut self, lane: LaneId) -> bool {
        let mut carried = false;
        for chunk in self
            .chunks
            .iter_mut()
            .filter(|chunk| chunk.place == Place::On(lane))
        {
            chunk.place = Place::Queued;
            carried = true;
        }
        self.await_sync |= carried;
        carried
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrived_is_not_sent_again() {
        let now = Instant::now();
        let mut half = SendHalf::new(0);
        half.push(vec![1; 10]);
        half.push(vec![2; 10]);
        assert_eq!(half.take(1, now).map(|(offset, _)| offset), Some(0));
        assert_eq!(half.take(1, now).map(|(offset, _)| offset), Some(10));
        assert!(half.lane_lost(1));
        assert_eq!(half.take(2, now), None, "nothing before the sync");
        assert!(half.sync(10));
        assert_eq!(half.take(2, now), Some((10, vec![2; 10])));
        assert_eq!(half.resent, 10);
        assert_eq!(half.take(2, now), None);
    }

    #[test]
    fn acknowledging_the_future_is_refused() {
        let mut half = SendHalf::new(0);
        half.push(vec![0; 4]);
        assert!(!half.ack(5, Instant::now()));
        assert!(!half.sync(5));
        assert!(half.ack(4, Instant::now()));
    }
}
