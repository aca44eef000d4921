//! The command line: clap's types, help texts, and the way from there to a [`Task`].
//!
//! Reads nothing but its arguments and which variables are set. An option is here only if it does what its help says.
//! Start at [`read`].

pub mod environment;

mod deprecated;
mod install;
mod link;
mod nix;
pub mod pages;
mod repeated;
mod values;
mod visit;
mod vm_test;

#[cfg(test)]
mod tests;

use std::{ffi::OsString, path::PathBuf};

use clap::{
    ArgAction, ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand, parser::ValueSource,
};
use landfall_proto::failure::Failure;

pub use self::{environment::Environment, values::Shell};
use self::{
    install::InstallArgs,
    visit::{BundleArgs, CancelArgs, VisitArgs},
};
use crate::{
    bundle::Wanted,
    exit,
    request::{Request, Visit, VmTest},
};

const EXAMPLES: &str = "\
Examples:
  landfall --flake .#web root@192.0.2.7
  landfall --flake .#web --phases kexec root@192.0.2.7
  landfall --store-paths ./result-disko ./result-system --yes root@192.0.2.7
  landfall check root@192.0.2.7
  landfall status root@192.0.2.7
  landfall attach root@192.0.2.7";

const ENVIRONMENT: &str = "\
Environment:
  SSH_PRIVATE_KEY  a private key to log in with, where there is no `-i`
  SSHPASS          the password of the login, with `--env-password`
  SUDOPASS         the password for sudo, with `--env-sudo-password`
  NIXOS_NO_CHECK   not empty: install a system that says it cannot run there";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "landfall",
    bin_name = "landfall",
    version,
    about = "Install NixOS on a machine that is reachable over SSH, and keep going when the link does not",
    after_help = after_help(),
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    install: InstallArgs,
}

/// The whole command line under the name `nixos-anywhere`: a word is never a command, for it may be a host.
#[derive(Debug, Parser)]
#[command(
    name = "nixos-anywhere",
    bin_name = "nixos-anywhere",
    version,
    about = "Install NixOS on a machine that is reachable over SSH. This is landfall, which under this name asks nothing that nixos-anywhere does not ask",
    after_help = after_help(),
    max_term_width = 100
)]
struct Predecessor {
    #[command(flatten)]
    install: InstallArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install a machine; what landfall does when no command is named
    #[command(after_help = after_help())]
    Install(Box<InstallArgs>),
    /// Look whether a machine can be installed, and change nothing
    #[command(after_help = after_help())]
    Check(Box<VisitArgs>),
    /// Gather what explains a failure into one file, without secrets, and change nothing
    #[command(after_help = after_help())]
    Bundle(Box<BundleArgs>),
    /// Go on with the run that is open for a machine, or follow one that somebody else drives
    #[command(after_help = after_help())]
    Attach(Box<VisitArgs>),
    /// Say how far the run of a machine is, and change nothing
    #[command(after_help = after_help())]
    Status(Box<VisitArgs>),
    /// Stop the run that is under way on a machine, and forget it
    #[command(after_help = after_help())]
    Cancel(Box<CancelArgs>),
    /// Say what an error means, and what to do about it
    Explain {
        /// A code such as `LF0102`, or words of a message; without any, all codes are listed
        words: Vec<String>,
    },
    /// Show a run that was recorded with `--json`
    Replay {
        /// The recording; `-` for stdin
        file: PathBuf,
        /// Show the output of programs too
        #[arg(short, long, action = ArgAction::Count)]
        verbose: u8,
    },
    /// Print the completions of this command line for a shell
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Print the manual page
    Man {
        /// Write the pages of landfall and of each command to files in this directory instead
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// What one command line asks for.
#[derive(Debug)]
pub enum Task {
    /// Install a machine.
    Install(Box<Request>),
    /// Look at a machine.
    Check(Box<Request>),
    /// Gather what explains a failure.
    Bundle(Box<Wanted>),
    /// Go on with a run, or follow it.
    Attach(Box<Visit>),
    /// Say how far a run is.
    Status(Box<Visit>),
    /// Stop a run, even while it works on the disks where that is said.
    Cancel(Box<Visit>, bool),
    /// Test a configuration on this machine.
    VmTest(Box<VmTest>),
    /// Explain a code, or what words are about; empty for the list of codes.
    Explain(String),
    /// Show a recording.
    Replay {
        /// The recording; `-` for stdin.
        file: PathBuf,
        /// As in [`crate::request::Output`].
        verbosity: u8,
    },
    /// Print completions.
    Completions(Shell),
    /// Print the manual page, or write all of them to a directory.
    Man(Option<PathBuf>),
}

/// Why a command line leads to no task.
#[derive(Debug)]
pub enum Stop {
    /// clap says it all: help that was asked for, or what is wrong with a word.
    Words(clap::Error),
    /// The words are right one by one, and make no sense together.
    Sense(Failure),
}

/// Reads a whole command line, the name of the program first.
pub fn read(words: &[OsString], environment: &Environment) -> Result<Task, Stop> {
    let compat = words
        .first()
        .is_some_and(|word| environment::is_predecessor(word));
    let command = match compat {
        true => Predecessor::command(),
        false => Cli::command(),
    };
    let (matches, remarks) = repeated::parse(command.clone(), words).map_err(Stop::Words)?;
    let given = given(&command, &matches);
    if compat {
        let line = Predecessor::from_arg_matches(&matches).map_err(Stop::Words)?;
        return install(line.install, environment, true, &given, remarks);
    }
    let line = Cli::from_arg_matches(&matches).map_err(Stop::Words)?;
    match line.command {
        None => install(line.install, environment, false, &given, remarks),
        Some(Command::Install(args)) => install(*args, environment, false, &given, remarks),
        Some(Command::Check(args)) => {
            let request = args.request("check", environment, remarks);
            request.map(Box::new).map(Task::Check).map_err(Stop::Sense)
        }
        Some(Command::Bundle(args)) => {
            let wanted = args.wanted(environment, remarks);
            wanted.map(Box::new).map(Task::Bundle).map_err(Stop::Sense)
        }
        Some(Command::Attach(args)) => {
            let request = args.request("attach to", environment, remarks);
            visit(request, given).map(Task::Attach)
        }
        Some(Command::Status(args)) => {
            let request = args.request("tell about", environment, remarks);
            visit(request, given).map(Task::Status)
        }
        Some(Command::Cancel(args)) => {
            let request = args
                .visit
                .request("cancel the run of", environment, remarks);
            visit(request, given).map(|visit| Task::Cancel(visit, args.force))
        }
        Some(Command::Explain { words }) => Ok(Task::Explain(words.join(" "))),
        Some(Command::Replay { file, verbose }) => Ok(Task::Replay {
            file,
            verbosity: verbose.min(2),
        }),
        Some(Command::Completions { shell }) => Ok(Task::Completions(shell)),
        Some(Command::Man { dir }) => Ok(Task::Man(dir)),
    }
}

fn visit(
    request: Result<Request, Failure>,
    given: Vec<(String, String)>,
) -> Result<Box<Visit>, Stop> {
    let request = request.map_err(Stop::Sense)?;
    let given = given.into_iter().map(|(id, _)| id).collect();
    Ok(Box::new(Visit { request, given }))
}

fn install(
    args: InstallArgs,
    environment: &Environment,
    compat: bool,
    given: &[(String, String)],
    remarks: Vec<String>,
) -> Result<Task, Stop> {
    let task = match args.is_vm_test() {
        true => args
            .vm_test(given, remarks)
            .map(|test| Task::VmTest(Box::new(test))),
        false => args
            .request(environment, compat, remarks)
            .map(|request| Task::Install(Box::new(request))),
    };
    task.map_err(Stop::Sense)
}

/// Returns the options of the command that stand on the command line: by id, and as users know them.
fn given(command: &clap::Command, matches: &ArgMatches) -> Vec<(String, String)> {
    let (command, matches) = match matches.subcommand() {
        None => (command, matches),
        Some((name, matches)) => match command.find_subcommand(name) {
            Some(command) => (command, matches),
            None => return Vec::new(),
        },
    };
    let given = command.get_arguments().filter(|arg| {
        matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine)
    });
    given
        .map(|arg| (arg.get_id().to_string(), shown(arg)))
        .collect()
}

/// Returns an option as users know it.
fn shown(arg: &clap::Arg) -> String {
    match (arg.get_long(), arg.get_short()) {
        (Some(long), _) => format!("--{long}"),
        (None, Some(short)) => format!("-{short}"),
        (None, None) => "HOST".to_owned(),
    }
}

/// Returns all that clap knows about the command line, for whoever describes it.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Whether a word would be a command, stood it first.
fn is_command(word: &str) -> bool {
    command().find_subcommand(word).is_some()
}

fn after_help() -> String {
    format!("{EXAMPLES}\n\n{ENVIRONMENT}\n\n{}", exit::table())
}
