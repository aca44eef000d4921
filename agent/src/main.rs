//! Picks what the agent is started as, and turns how it ends into an exit code.

use std::{
    env,
    io::{Read, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use landfall_agent::{
    machine::{Machine, detach, initrd, kexec},
    serve, tunnel,
};
use landfall_proto::{failure::Failure, wire};
use tokio::sync::mpsc;

/// Works for landfall on the machine that is being installed
#[derive(Debug, Parser)]
#[command(name = "landfall-agent", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Do what a controller orders, until it lets go
    Serve {
        /// Directory of the agent, in memory
        #[arg(long, default_value = "/run/landfall")]
        dir: PathBuf,
        /// Begin a session of its own
        #[arg(long, hide = true)]
        leave_session: bool,
    },
    /// Start `serve` away from this login, with certificates from standard input
    Spawn {
        /// Directory of the agent, in memory
        #[arg(long, default_value = "/run/landfall")]
        dir: PathBuf,
        /// Let the controller in to an agent that serves already, and start none
        #[arg(long)]
        only_find: bool,
    },
    /// Join the standard streams to the agent
    Proxy {
        /// Directory of the agent, in memory
        #[arg(long, default_value = "/run/landfall")]
        dir: PathBuf,
    },
    /// Look at the machine and print what is seen as JSON; nothing is changed, and nobody is disturbed
    Facts {
        /// Directory of the agent that may be at work
        #[arg(long, default_value = "/run/landfall")]
        dir: PathBuf,
        /// Take the own program off afterwards, unless somebody else runs it
        #[arg(long)]
        leave: bool,
    },
    /// Gather what explains a failure and write it piece by piece; nothing is changed, and nobody is disturbed
    Gather {
        /// Directory of the agent that may be at work
        #[arg(long, default_value = "/run/landfall")]
        dir: PathBuf,
        /// Take the own program off afterwards, unless somebody else runs it
        #[arg(long)]
        leave: bool,
    },
    /// Print version, protocols and hash as JSON
    Version,
}

fn main() -> ExitCode {
    let mut args = env::args_os();
    let name = args.next().unwrap_or_default();
    let rest: Vec<String> = args.map(|arg| arg.to_string_lossy().into_owned()).collect();
    let applet = initrd::applet(&name, &rest).or_else(|| kexec::applet(&name));
    let result = match applet {
        Some(result) => result,
        None => run(Arguments::parse().command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let mut text = format!("error: {}\n", failure.what);
            failure
                .causes
                .iter()
                .for_each(|cause| text.push_str(&format!("caused by: {cause}\n")));
            failure
                .hints
                .iter()
                .for_each(|hint| text.push_str(&format!("hint: {hint}\n")));
            // whoever closed the stream does not want to know
            let _ = std::io::stderr().write_all(text.as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve { dir, leave_session } => {
            if leave_session {
                // fails only where there is a session of its own already
                let _ = nix::unistd::setsid();
            }
            runtime()?.block_on(serve::serve(&dir))
        }
        Command::Spawn { dir, only_find } => {
            let mut text = String::new();
            // 64 KiB is many times what three certificates take
            std::io::stdin()
                .take(64 << 10)
                .read_to_string(&mut text)
                .map_err(|error| {
                    Failure::new("cannot read the certificates")
                        .caused_by(&error)
                        .code("LF1207")
                })?;
            let credentials = serde_json::from_str(&text).map_err(|error| {
                Failure::new("cannot read the certificates")
                    .caused_by(&error)
                    .code("LF1207")
            })?;
            print(&runtime()?.block_on(serve::spawn(&dir, &credentials, only_find))?)
        }
        Command::Proxy { dir } => tunnel::proxy(&dir),
        Command::Facts { dir, leave } => {
            let machine = Machine::real(dir);
            let printed = print(&runtime()?.block_on(machine.facts()));
            leave_if(leave, &machine);
            printed
        }
        Command::Gather { dir, leave } => {
            let machine = Machine::real(dir);
            let written = runtime()?.block_on(gather(&machine));
            leave_if(leave, &machine);
            written
        }
        Command::Version => print(&serve::identity()?),
    }
}

/// Takes the own program off, unless an agent at work runs from the very same file.
fn leave_if(leave: bool, machine: &Machine) {
    if leave && !machine.program_is_shared() {
        detach::remove_own_program();
    }
}

/// Writes pieces to stdout as they are found.
async fn gather(machine: &Machine) -> Result<(), Failure> {
    let (out, mut pieces) = mpsc::channel(1);
    let write = async move {
        write_out(wire::PIECES)?;
        while let Some(piece) = pieces.recv().await {
            write_out(&wire::piece_to_frame(piece))?;
        }
        write_out(&wire::NO_MORE)
    };
    let ((), written) = tokio::join!(machine.gather(out), write);
    written
}

fn write_out(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    written.map_err(|error| {
        Failure::new("cannot print")
            .caused_by(&error)
            .code("LF1207")
    })
}

fn print(value: &impl serde::Serialize) -> Result<(), Failure> {
    let line = serde_json::to_string(value).expect("what is printed is plain data");
    write_out(format!("{line}\n").as_bytes())
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| {
            Failure::new("cannot start")
                .caused_by(&error)
                .code("LF1207")
        })
}
