//! This machine: files, nix, keys and what is remembered between two commands.
//!
//! Never talks to the target. Start reading at `state/mod.rs`.
#![expect(
    clippy::disallowed_methods,
    reason = "this room is the operator's machine"
)]

pub mod clock;
pub mod file;
pub mod keys;
pub mod record;
pub mod records;
pub mod said;
pub mod secret;
pub mod signals;
pub mod state;
pub mod terminal;

pub mod agents;

pub mod child;

pub mod archive;
pub mod bundle;
pub mod hardware;
pub mod image;
pub mod nix;
