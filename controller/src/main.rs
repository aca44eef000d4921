//! Reads the command line, does what it says, and ends with the exit code that says how.

use std::{
    io::BufRead,
    panic::{self, AssertUnwindSafe},
    path::Path,
    process::ExitCode,
};

use clap::Parser;
use landfall::{
    cli::{Cli, Command},
    exit::{self, Ended, Exit},
    local::file,
    operate,
    request::Output,
    screen::{Style, replay},
};
use landfall_proto::failure::Failure;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // clap knows its own way: help to stdout with 0, errors to stderr with 2
            let code = u8::try_from(error.exit_code()).unwrap_or(Exit::Usage.code());
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let exit = match cli.command() {
        Command::Install(args) => match args.request() {
            Ok(request) => run(operate::install(request)),
            Err(failure) => tell(&Ended::usage(failure)),
        },
        Command::Replay { file, verbose } => {
            let style = Style::choose(Output {
                json: false,
                verbosity: verbose.min(2),
            });
            let shown = recording(&file).and_then(|recording| replay::replay(recording, style));
            match shown {
                Ok(()) => Exit::Done,
                Err(failure) => tell(&Ended::usage(failure)),
            }
        }
    };
    exit.into()
}

/// Opens a recording; `-` is stdin.
fn recording(path: &Path) -> Result<Box<dyn BufRead>, Failure> {
    if path == Path::new("-") {
        return Ok(Box::new(std::io::stdin().lock()));
    }
    Ok(Box::new(file::open(path)?))
}

fn run(work: impl Future<Output = Exit>) -> Exit {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            // the panic itself is printed by the standard hook
            let exit = panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on(work)));
            let exit = exit.unwrap_or_else(|_| tell(&bug()));
            // somebody may still be waiting for an answer on the terminal
            runtime.shutdown_background();
            exit
        }
        Err(error) => {
            let failure = Failure::new("cannot start").caused_by(&error);
            tell(&Ended::usage(failure))
        }
    }
}

/// An invariant of ours did not hold; what became of the machine is not known.
fn bug() -> Ended {
    let failure = Failure::new("cannot go on")
        .because("an invariant of landfall does not hold, as printed above")
        .hint("report it, with the newest folder below `~/.local/state/landfall`");
    Ended {
        exit: Exit::Bug,
        ..Ended::usage(failure)
    }
}

/// Prints how a command ended that never had a screen.
fn tell(ended: &Ended) -> Exit {
    // whoever closed stderr does not want to know; the exit code says it too
    let _ = exit::write_failure(
        &mut std::io::stderr(),
        ended,
        None,
        None,
        landfall::screen::colors(),
    );
    ended.exit
}
