//! The other machine: ssh before the agent is there, the agent's link afterwards.
//!
//! Never decides what is done to the machine. Start reading at `ssh.rs`.
#![expect(
    clippy::disallowed_methods,
    reason = "this room runs ssh and holds sockets"
)]

pub mod shell;
pub mod ssh;
pub mod tunnel;

pub mod askpass;

pub mod classify;
pub mod host_key;

pub mod place;
pub mod probe;
pub mod upload;

pub mod agent;
mod channel;
pub mod follow;
pub mod gather;
mod light;
pub mod link;
pub mod store;
pub mod tls;
pub mod trouble;

pub mod wait;
