//! The rig: real machines to install on, without internet, for people and for tests.
//!
//! In reading order: what machines are made of ([`assets`]), a machine ([`machine`]), the line to it
//! ([`link`]), a target without a machine ([`namespace`]), where machines live ([`registry`]), how to look at one ([`ssh`]), the operator who installs one
//! ([`install`]), a landfall at work ([`watched`]), what tests wait for ([`waits`]), and what the program
//! `rig` does with all of it ([`command`]).
//!
//! Nothing here touches this host's disks, boot or kernel: disks are files in the machine's own
//! folder, the network is the emulator's, and every port is on loopback.

pub mod assets;
pub mod binaries;
pub mod command;
pub mod install;
pub mod link;
pub mod machine;
pub mod namespace;
pub mod patience;
pub mod registry;
pub mod ssh;
pub mod waits;
pub mod watched;
