//! The other machine: ssh before the agent is there, the agent's link afterwards.
//!
//! Never decides what is done to the machine. Start reading at `ssh.rs`.
#![expect(clippy::disallowed_methods, reason = "this room runs ssh and holds sockets")]

pub mod ssh;
pub mod tunnel;

pub mod classify;
pub mod host_key;

pub mod probe;
pub mod place;
pub mod upload;

pub mod link;
pub mod trouble;
pub mod tls;
mod channel;
pub mod agent;
pub mod follow;
pub mod store;

pub mod wait;

