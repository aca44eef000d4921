//! What has passed a line, byte by byte, and what is to happen to the line at one of them.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::{oneshot, watch};

use super::{Change, Conditions};

/// Which way a byte goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the operator to the machine.
    Up,
    /// From the machine to the operator.
    Down,
}

/// Counts the bytes that were delivered in each direction, over all connections.
#[derive(Debug, Default)]
pub struct Gauge {
    up: AtomicU64,
    down: AtomicU64,
    traps: Mutex<Vec<Trap>>,
}

/// A change of the line that a byte sets off: the bytes before it are delivered, those after it meet
/// the changed line.
#[derive(Debug)]
pub struct Trap {
    /// The direction whose bytes are counted.
    pub direction: Direction,
    /// How many bytes are delivered before it.
    pub at: u64,
    /// What happens to the line then.
    pub change: Change,
    /// Whether the byte after them arrives as another one.
    pub corrupt: bool,
    /// The line's conditions.
    pub conditions: watch::Sender<Conditions>,
    /// Who wants to know.
    pub sprung: oneshot::Sender<()>,
}

impl Gauge {
    /// How much was delivered.
    #[must_use]
    pub fn passed(&self, direction: Direction) -> u64 {
        self.counter(direction).load(Ordering::Relaxed)
    }

    /// Lays a trap; one for a byte that has passed is sprung by the next one.
    pub fn lay(&self, trap: Trap) {
        self.lock().push(trap);
    }

    /// Forgets all traps that were not sprung.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// Says how many of `count` bytes may be delivered now, and what is to be sprung after them.
    pub(super) fn pass(&self, direction: Direction, count: usize) -> (usize, Option<Trap>) {
        let mut traps = self.lock();
        let counter = self.counter(direction);
        let before = counter.load(Ordering::Relaxed);
        let first = traps
            .iter()
            .enumerate()
            .filter(|(_, trap)| trap.direction == direction)
            .min_by_key(|(_, trap)| trap.at)
            .map(|(index, trap)| (index, trap.at.saturating_sub(before)));
        let (count, sprung) = match first {
            Some((index, left)) if left <= count as u64 => {
                (left as usize, Some(traps.swap_remove(index)))
            }
            _ => (count, None),
        };
        counter.fetch_add(count as u64, Ordering::Relaxed);
        (count, sprung)
    }

    fn counter(&self, direction: Direction) -> &AtomicU64 {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Trap>> {
        self.traps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trap {
    /// Changes the line.
    pub(super) fn spring(self) {
        self.conditions
            .send_modify(|now| *now = self.change.apply(*now));
        // who does not wait for it any more need not know
        let _ = self.sprung.send(());
    }
}
