//! Reads the command line, does what it says, and ends with the exit code that says how.

use std::{
    ffi::OsString,
    io::{self, BufRead, Write},
    panic::{self, AssertUnwindSafe},
    path::Path,
    process::ExitCode,
};

use landfall::{
    bundle, check,
    cli::{self, Environment, Stop, Task, pages},
    exit::{self, Ended, Exit},
    explain,
    local::{file, said::Said},
    operate,
    remote::askpass,
    request::{Output, Request, Visit},
    screen::{Style, replay},
    visit::{self, Recalled},
    vm_test,
};
use landfall_proto::failure::Failure;

fn main() -> ExitCode {
    // ssh has a question for the landfall that started it
    if let Some(code) = askpass::help() {
        return code;
    }
    let words: Vec<OsString> = std::env::args_os().collect();
    let exit = match cli::read(&words, &Environment::look()) {
        Ok(task) => perform(task, &words),
        Err(Stop::Sense(failure)) => tell(&Ended::usage(failure)),
        Err(Stop::Words(error)) => {
            // clap knows its own way: help to stdout with 0, errors to stderr with 2
            let code = u8::try_from(error.exit_code()).unwrap_or(Exit::Usage.code());
            let _ = error.print();
            if code == Exit::Usage.code() {
                let _ = writeln!(io::stderr(), "{}", page_of(&error.to_string()));
            }
            return ExitCode::from(code);
        }
    };
    exit.into()
}

/// Leads from clap's words to the page about them: one of their own where they name a code.
fn page_of(words: &str) -> String {
    let code = words
        .split_once("[LF")
        .and_then(|(_, rest)| rest.get(..4))
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
        .unwrap_or("0410");
    format!("hint: read more with `landfall explain LF{code}`")
}

fn perform(task: Task, words: &[OsString]) -> Exit {
    match task {
        Task::Install(request) => run(operate::install(*request, Said::of(words))),
        Task::Attach(visit) => attach(*visit),
        Task::Status(visit) => run(visit::status(as_recorded(*visit))),
        Task::Cancel(visit, force) => run(visit::cancel(as_recorded(*visit), force)),
        Task::Check(request) => run(check::check(*request)),
        Task::Bundle(wanted) => run(bundle::bundle(*wanted)),
        Task::VmTest(test) => run(vm_test::vm_test(*test)),
        Task::Explain(words) if words.is_empty() => usage(print(explain::list().as_bytes())),
        Task::Explain(words) => {
            usage(explain::answer(&words).and_then(|text| print(text.as_bytes())))
        }
        Task::Replay { file, verbosity } => usage(show(&file, verbosity)),
        Task::Completions(shell) => {
            let mut text = Vec::new();
            pages::completions(shell, &mut text);
            usage(print(&text))
        }
        Task::Man(folder) => usage(manual(folder.as_deref())),
    }
}

/// Goes on with the run on record, as its own command would, or follows one that somebody else drives.
///
/// No thread runs yet: the command is read where it was given.
fn attach(visit: Visit) -> Exit {
    match visit::recall(&visit, &Environment::look()) {
        Ok(Recalled::Run(request, said)) => run(operate::install(*request, Some(*said))),
        Ok(Recalled::Nothing) => run(visit::watch(visit.request)),
        Err(failure) => tell(&Ended::usage(failure)),
    }
}

/// Returns what the run on record asks for, by which its machine is found; else what this command says itself.
fn as_recorded(visit: Visit) -> Request {
    match visit::recall(&visit, &Environment::look()) {
        Ok(Recalled::Run(request, _)) => *request,
        Ok(Recalled::Nothing) | Err(_) => visit.request,
    }
}

/// Ends a command that touches no machine: if it fails, it was asked for something that is not there.
fn usage(done: Result<(), Failure>) -> Exit {
    match done {
        Ok(()) => Exit::Done,
        Err(failure) => tell(&Ended::usage(failure)),
    }
}

/// Writes data to stdout.
fn print(text: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        // whoever has read enough closes it
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new("cannot write to stdout")
                .caused_by(&error)
                .code("LF0420"))
        }
        _ => Ok(()),
    }
}

/// Prints the manual page, or writes all of them to a folder.
fn manual(folder: Option<&Path>) -> Result<(), Failure> {
    let cannot = |error: io::Error| {
        Failure::new("cannot make the manual pages")
            .caused_by(&error)
            .code("LF0420")
    };
    let pages = pages::manual().map_err(cannot)?;
    let Some(folder) = folder else {
        let (_, first) = &pages[0];
        return print(first);
    };
    for (name, page) in &pages {
        file::write_public(&folder.join(name), page)?;
    }
    Ok(())
}

/// Shows a recorded run.
fn show(path: &Path, verbosity: u8) -> Result<(), Failure> {
    let style = Style::choose(Output {
        json: false,
        verbosity,
    });
    replay::replay(recording(path)?, style)
}

/// Opens a recording; `-` is stdin.
fn recording(path: &Path) -> Result<Box<dyn BufRead>, Failure> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin().lock()));
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
            let failure = Failure::new("cannot start")
                .caused_by(&error)
                .code("LF0402");
            tell(&Ended::usage(failure))
        }
    }
}

/// An invariant of ours did not hold; what became of the machine is not known.
fn bug() -> Ended {
    let failure = Failure::new("cannot go on")
        .because("an invariant of landfall does not hold, as printed above")
        .hint("report it, with what `landfall bundle HOST` gathers")
        .code("LF0470");
    Ended {
        exit: Exit::Bug,
        ..Ended::usage(failure)
    }
}

/// Prints how a command ended that never had a screen.
fn tell(ended: &Ended) -> Exit {
    // whoever closed stderr does not want to know; the exit code says it too
    let _ = exit::write_failure(
        &mut io::stderr(),
        ended,
        None,
        None,
        landfall::screen::colors(),
    );
    ended.exit
}
