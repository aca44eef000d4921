//! Who drives this machine: the controller that came last, and of those before it none ever again.
//!
//! Knows controllers by the number that each process chooses. What a caller may do is decided here; what it wants is for
//! `service` to read.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
};

use tokio_util::sync::CancellationToken;

/// Superseded controllers that are remembered. One that was is told so with its next call, and ends.
const REMEMBERED: usize = 256;

/// Who drives this machine.
#[derive(Debug, Default)]
pub(crate) struct Fence {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    holder: Option<u64>,
    reign: CancellationToken,
    /// Newest last.
    superseded: VecDeque<u64>,
}

/// Why a caller may not do what it wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A newer controller has come. Nothing changes that any more.
    Superseded,
    /// It has not said to this agent that it drives.
    Unannounced,
}

impl Fence {
    /// Hears a Hello: lets the newest controller in and the older one out, or somebody who only looks beside it.
    ///
    /// Returns whether another one drives from now on.
    pub(crate) fn greet(&self, controller: u64, only_looks: bool) -> Result<bool, Refusal> {
        let mut inner = self.lock();
        inner.check(controller)?;
        if only_looks || inner.holder == Some(controller) {
            return Ok(false);
        }
        inner.reign.cancel();
        inner.reign = CancellationToken::new();
        if let Some(older) = inner.holder.replace(controller) {
            inner.superseded.push_back(older);
            if inner.superseded.len() > REMEMBERED {
                inner.superseded.pop_front();
            }
        }
        Ok(true)
    }

    /// Lets nobody act but the newest controller. What is returned ends when another one comes.
    pub(crate) fn acts(&self, controller: u64) -> Result<CancellationToken, Refusal> {
        let inner = self.lock();
        inner.check(controller)?;
        match inner.holder == Some(controller) {
            true => Ok(inner.reign.clone()),
            false => Err(Refusal::Unannounced),
        }
    }

    /// Lets everybody look who was not superseded. What is returned ends when that happens.
    pub(crate) fn looks(&self, controller: u64) -> Result<CancellationToken, Refusal> {
        let inner = self.lock();
        inner.check(controller)?;
        Ok(match inner.holder == Some(controller) {
            true => inner.reign.clone(),
            false => CancellationToken::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder panics")
    }
}

impl Inner {
    fn check(&self, controller: u64) -> Result<(), Refusal> {
        match self.superseded.contains(&controller) {
            true => Err(Refusal::Superseded),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superseded_controller_does_not_come_back() {
        let fence = Fence::default();
        fence.greet(1, false).unwrap();
        let reign = fence.acts(1).unwrap();
        // a connection that was made anew
        fence.greet(1, false).unwrap();
        assert!(!reign.is_cancelled());
        fence.greet(2, false).unwrap();
        assert!(reign.is_cancelled());
        for only_looks in [false, true] {
            assert_eq!(fence.greet(1, only_looks), Err(Refusal::Superseded));
        }
        assert_eq!(fence.acts(1).unwrap_err(), Refusal::Superseded);
        assert_eq!(fence.looks(1).unwrap_err(), Refusal::Superseded);
        assert!(!fence.acts(2).unwrap().is_cancelled());
    }

    #[test]
    fn observer_changes_nothing_until_it_drives() {
        let fence = Fence::default();
        fence.greet(1, false).unwrap();
        let reign = fence.acts(1).unwrap();
        fence.greet(2, true).unwrap();
        let looks = fence.looks(2).unwrap();
        assert_eq!(fence.acts(2).unwrap_err(), Refusal::Unannounced);
        assert!(!reign.is_cancelled());
        // whoever drives next does not disturb it
        fence.greet(3, false).unwrap();
        assert!(reign.is_cancelled() && !looks.is_cancelled());
        fence.looks(2).unwrap();
        fence.greet(2, false).unwrap();
        assert!(fence.acts(2).is_ok());
        assert_eq!(fence.acts(3).unwrap_err(), Refusal::Superseded);
    }

    #[test]
    fn only_so_many_are_remembered() {
        let fence = Fence::default();
        let most = REMEMBERED as u64;
        for controller in 0..=most + 1 {
            fence.greet(controller, false).unwrap();
        }
        assert_eq!(fence.looks(1).unwrap_err(), Refusal::Superseded);
        assert_eq!(fence.lock().superseded.len(), REMEMBERED);
    }
}
