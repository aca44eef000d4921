//! What the agent does to a machine, one step a file, in the order in which the story does them.
//!
//! Steps know the machine and the engine, never each other's insides, and do no input or output of their own. What a
//! step needs from the steps before it, it holds as their proofs.

use std::{future::Future, path::PathBuf};

use landfall_proto::{
    failure::Failure,
    order::{Blob, Input},
};

mod again;
mod copy;
mod files;
mod format;
mod image;
mod inspect;
mod install;
mod kexec;
mod keys;
mod mount;
mod reboot;
#[cfg(test)]
mod rehearsal;
mod seal;
mod tools;

pub use again::FormatAgain;
pub use copy::{Copied, Copy};
pub use files::{Files, Placed};
pub use format::{Format, Formatted, MountOnly};
pub use image::{Arrived, Image};
pub use inspect::{Inspect, Inspected};
pub use install::{Install, Installed};
pub use kexec::{Kexec, Loaded};
pub use keys::{Keys, KeysReady};
pub use mount::{Mount, Mounts};
pub use reboot::{Reboot, Rebooting};
pub use seal::{Seal, Sealed};
pub use tools::{Tools, ToolsReady};

/// What the controller brings while the run goes on.
///
/// Waiting has no end of its own: the run that waits is stopped by dropping the future.
pub trait Deliveries: Sync {
    /// Waits until a blob is complete in the spool, and returns where.
    fn blob(&self, blob: &Blob) -> impl Future<Output = Result<PathBuf, Failure>> + Send;

    /// Waits until the controller said that an input is there.
    fn input(&self, input: Input) -> impl Future<Output = Result<(), Failure>> + Send;
}
