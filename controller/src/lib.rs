//! placeholder

pub mod local;
pub mod remote;
