//! What the controller and the agent agree on: the wire, the events of a run, the order, the facts.
//!
//! Nothing here opens a file, a socket or a process, and nothing here decides what is done to a machine. What only one
//! side needs never comes in. Start reading at `proto.proto`, then in the order of the modules.

/// The types and stubs generated from `proto.proto`.
pub mod v1 {
    #![allow(
        missing_docs,
        missing_debug_implementations,
        unreachable_pub,
        clippy::all,
        clippy::use_self,
        clippy::wildcard_imports,
        reason = "generated code"
    )]
    tonic::include_proto!("landfall.v1");
}

pub mod event;
pub mod failure;
pub mod report;

pub mod facts;
pub mod image;
pub mod order;
pub mod version;

pub mod redact;

pub mod stream;
pub mod wire;

#[cfg(test)]
mod laws;
