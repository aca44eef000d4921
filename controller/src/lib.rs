//! The controller: what `landfall` does on the operator's machine.
//!
//! Asks, feeds and watches; the work on the target is the agent's. Reading order is that of the modules.

pub mod cli;
pub mod request;

pub mod bundle;
pub mod operate;
pub mod vm_test;

pub mod story;

pub mod phases;

pub mod check;
pub mod visit;

pub mod desk;

pub mod exit;
pub mod explain;
pub mod screen;

pub mod local;
pub mod remote;
