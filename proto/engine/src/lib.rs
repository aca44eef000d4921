//! How work is done and remembered: steps with proofs, a journal before every event, one fold for all readers.
//!
//! Knows nothing of disks, ssh or Nix, and opens no file but its own journal and the copy of it. Reading order is that of the modules.

pub mod step;

pub mod run;

pub mod journal;

mod copy;

pub mod board;

#[cfg(test)]
mod laws;
