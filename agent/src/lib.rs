//! The agent: runs on the target, before and after kexec, and does there what was ordered, link or no link.
//!
//! `main` picks the program; `serve` is the agent's life: a tunnel lets the controller in, the service translates its
//! calls for the session, the session keeps at most one run, and the story says in which order its steps are done. Only
//! the machine room touches the machine.

pub mod serve;

pub mod tunnel;

mod service;

mod fence;

mod session;

mod deadman;

mod departure;

mod history;

mod deliveries;

mod settings;

mod story;

pub mod steps;

pub mod machine;
