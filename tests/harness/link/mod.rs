//! The line between operator and machine: a TCP link that can be cut, stalled, slowed and delayed.
//!
//! Works on connections, not on packets: what a sender has handed to its own kernel counts as
//! delivered to the link. Reordering and loss are not shown here.
//! [`Conditions`] is what the line is like, [`Change`] how it gets there, [`proxy`] the carrier;
//! [`gauge`] counts what passes, and changes the line at a byte that was chosen.

pub mod gauge;
pub mod proxy;

use std::{fmt, net::Ipv4Addr, time::Duration};

use serde::{Deserialize, Serialize};

/// Whether the line carries anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Carrier {
    /// Everything is forwarded.
    #[default]
    Up,
    /// Connections are accepted and stay open; not one byte moves until the line is restored.
    Stalled,
    /// Open connections were reset, new ones are refused.
    Cut,
}

/// What the line is like at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conditions {
    /// The address of this host at which the machine answers.
    #[serde(default = "usual_address")]
    pub address: Ipv4Addr,
    /// Whether anything is forwarded.
    pub carrier: Carrier,
    /// Megabits per second in each direction, shared by all connections; none is unlimited.
    pub rate_mbit: Option<f64>,
    /// How long every byte is under way, one direction, in milliseconds.
    pub delay_ms: u64,
    /// How often all open connections lost their far end in silence.
    pub half_opened: u64,
    /// How often all open connections ended as if both sides had said all.
    #[serde(default)]
    pub truncated: u64,
}

fn usual_address() -> Ipv4Addr {
    Ipv4Addr::LOCALHOST
}

impl Default for Conditions {
    fn default() -> Self {
        Self {
            address: usual_address(),
            carrier: Carrier::Up,
            rate_mbit: None,
            delay_ms: 0,
            half_opened: 0,
            truncated: 0,
        }
    }
}

/// What to do to the line; fields that are not set leave things as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Back to a line without faults and limits, at the same address, before anything else is applied.
    #[serde(default)]
    pub restore: bool,
    /// The new address, one of loopback: open connections are reset.
    #[serde(default)]
    pub address: Option<Ipv4Addr>,
    /// The new state of the carrier.
    #[serde(default)]
    pub carrier: Option<Carrier>,
    /// Megabits per second; zero lifts the limit.
    #[serde(default)]
    pub rate_mbit: Option<f64>,
    /// Milliseconds, one direction.
    #[serde(default)]
    pub delay_ms: Option<u64>,
    /// Close the machine's end of every open connection and leave the operator's end open, silent.
    #[serde(default)]
    pub half_open: bool,
    /// End every open connection in good order, wherever its stream is at the moment.
    #[serde(default)]
    pub truncate: bool,
}

impl Change {
    /// Applies this change to `now`.
    #[must_use]
    pub fn apply(&self, now: Conditions) -> Conditions {
        let mut next = now;
        if self.restore {
            next = Conditions {
                address: now.address,
                half_opened: now.half_opened,
                truncated: now.truncated,
                ..Conditions::default()
            };
        }
        if let Some(address) = self.address {
            next.address = address;
        }
        if let Some(carrier) = self.carrier {
            next.carrier = carrier;
        }
        if let Some(rate) = self.rate_mbit {
            next.rate_mbit = (rate > 0.0).then_some(rate);
        }
        if let Some(delay) = self.delay_ms {
            next.delay_ms = delay;
        }
        if self.half_open {
            next.half_opened += 1;
        }
        if self.truncate {
            next.truncated += 1;
        }
        next
    }

    /// Whether this change asks for nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Conditions {
    /// Whether nothing answers at this address.
    #[must_use]
    pub fn is_away(&self, address: Ipv4Addr) -> bool {
        self.carrier == Carrier::Cut || self.address != address
    }

    /// How long one byte is under way.
    #[must_use]
    pub fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms)
    }

    /// How long `bytes` occupy the line.
    #[must_use]
    pub fn airtime(&self, bytes: usize) -> Duration {
        match self.rate_mbit {
            Some(rate) => Duration::from_secs_f64(bytes as f64 * 8.0 / (rate * 1e6)),
            None => Duration::ZERO,
        }
    }
}

impl fmt::Display for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.carrier {
            Carrier::Up => "up",
            Carrier::Stalled => "stalled",
            Carrier::Cut => "cut",
        })?;
        if let Some(rate) = self.rate_mbit {
            write!(f, ", {rate} Mbit/s")?;
        }
        if self.delay_ms > 0 {
            write!(f, ", {} ms each way", self.delay_ms)?;
        }
        if self.address != usual_address() {
            write!(f, ", at {}", self.address)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Carrier, Change, Conditions};

    #[test]
    fn restore_lifts_every_fault_and_limit() {
        let bad = Change {
            carrier: Some(Carrier::Cut),
            rate_mbit: Some(2.0),
            delay_ms: Some(90),
            ..Change::default()
        }
        .apply(Conditions::default());
        let good = Change {
            restore: true,
            ..Change::default()
        }
        .apply(bad);
        assert_eq!(good, Conditions::default());
    }

    #[test]
    fn change_of_one_thing_leaves_the_others() {
        let slow = Change {
            rate_mbit: Some(2.0),
            ..Change::default()
        }
        .apply(Conditions::default());
        let far = Change {
            delay_ms: Some(90),
            ..Change::default()
        }
        .apply(slow);
        assert_eq!(far.to_string(), "up, 2 Mbit/s, 90 ms each way");
        let fast = Change {
            rate_mbit: Some(0.0),
            ..Change::default()
        }
        .apply(far);
        assert_eq!(fast.to_string(), "up, 90 ms each way");
    }
}
