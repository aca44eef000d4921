//! What the controller does, one phase a file, in the order in which the story does them.
//!
//! Phases share the desk and never call each other; what one finds out, the next gets as a value.

pub mod connect;

pub mod preflight;

pub mod prepare;

pub mod kexec;

pub mod hardware;

pub mod build;

pub mod disko;

pub mod install;

pub mod reboot;

pub mod verify;
