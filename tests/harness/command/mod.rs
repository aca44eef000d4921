//! The program `rig`: its commands, and what they print.
//!
//! stdout is what was asked for, stderr is how it goes. `--json` makes stdout one JSON value.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this room is the rig's screen"
)]

mod demo;
mod machines;
mod table;
mod up;
mod verify;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{
    assets::Assets,
    link::{Carrier, Change},
    machine, registry,
};

/// Real machines to install on, without internet: Debian targets, an installer image, a fixture flake.
#[derive(Debug, Parser)]
#[command(
    name = "rig",
    bin_name = "cargo rig",
    version,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install and build everything machines are made of, once
    Setup,
    /// Start a machine in the background, or give power to one that has none
    Up(up::Options),
    /// Remove a machine with its disks; without a name, all of them
    Down {
        /// The machine
        name: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Show all machines
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Log in as root, or run a command there; waits until the machine answers
    Ssh {
        /// The machine
        name: String,
        /// What to run
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Show what a machine's serial console said
    Serial {
        /// The machine
        name: String,
        /// Go on showing what it says
        #[arg(long, short)]
        follow: bool,
    },
    /// Take a machine's power away; `rig up --name NAME` gives it back
    PowerCut {
        /// The machine
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// Show or bend the line between this host and a machine
    Link {
        /// The machine
        name: String,
        #[command(flatten)]
        bend: Bend,
        #[command(flatten)]
        output: Output,
    },
    /// Install a Debian machine, from nothing to a login on the installed system
    Demo(demo::Options),
    /// Check everything: format, lints, tests, the main job on real machines
    Verify(verify::Options),
    /// Keep a machine: what `up` leaves running
    #[command(hide = true)]
    Keep {
        /// The machine
        name: String,
    },
}

#[derive(Debug, clap::Args)]
struct Output {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What to do to a line.
#[derive(Debug, clap::Args)]
struct Bend {
    /// Reset all connections and refuse new ones
    #[arg(long, conflicts_with_all = ["stall", "restore"])]
    cut: bool,
    /// Accept connections and forward nothing
    #[arg(long, conflicts_with = "restore")]
    stall: bool,
    /// Drop the machine's end of all open connections, leave this host's end open and silent
    #[arg(long)]
    half_open: bool,
    /// End every fault and limit
    #[arg(long)]
    restore: bool,
    /// Limit each direction, over all connections; 0 lifts the limit
    #[arg(long, value_name = "MBIT", value_parser = rate)]
    rate: Option<f64>,
    /// Delay every byte, in each direction
    #[arg(long, value_name = "MS")]
    delay: Option<u64>,
}

impl Bend {
    fn change(&self) -> Change {
        let carrier = match (self.cut, self.stall) {
            (true, _) => Some(Carrier::Cut),
            (_, true) => Some(Carrier::Stalled),
            _ => None,
        };
        Change {
            restore: self.restore,
            address: None,
            carrier,
            rate_mbit: self.rate,
            delay_ms: self.delay,
            half_open: self.half_open,
            truncate: false,
        }
    }
}

impl Cli {
    /// Does what was asked for.
    pub fn run(self) -> Result<ExitCode> {
        match self.command {
            Command::Setup => {
                Assets::prepare(&repository())?;
                eprintln!(
                    "the rig is ready: `cargo rig up` starts a machine, `cargo demo` installs one"
                );
            }
            Command::Up(options) => up::up(&options)?,
            Command::Down { name, output } => machines::down(name.as_deref(), output.json)?,
            Command::List { output } => machines::list(output.json)?,
            Command::Ssh { name, command } => return machines::ssh(&name, &command),
            Command::Serial { name, follow } => return machines::serial(&name, follow),
            Command::PowerCut { name, output } => machines::power_cut(&name, output.json)?,
            Command::Link { name, bend, output } => {
                machines::link(&name, bend.change(), output.json)?;
            }
            Command::Demo(options) => return demo::demo(&options),
            Command::Verify(options) => return verify::verify(&options),
            Command::Keep { name } => machine::run_keeper(&registry::folder(&name)?)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The working tree this rig was built from.
fn repository() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests
        .parent()
        .expect("tests/ is in the repository")
        .to_owned()
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate >= 0.0 => Ok(rate),
        _ => Err("expected megabits per second, 0 or more".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
