//! `cargo demo`, `cargo verify`, `cargo rig` and `cargo faults` begin here: a program without
//! dependencies, built in a second, that says what is going on while cargo builds the others.

#![expect(clippy::print_stderr, reason = "a main tells what happens")]

use std::{
    env, io,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, ExitCode, ExitStatus},
    sync::mpsc,
    thread,
    time::Duration,
};

/// Those with which `rig verify` builds the tests: nothing is built once more with others.
const FEATURES: &str = "landfall-tests/scenarios";

/// Whoever waits longer wants to know what for.
const PATIENCE: Duration = Duration::from_millis(1500);

fn main() -> ExitCode {
    let mut words = env::args().skip(1);
    let Some(program) = words.next() else {
        eprintln!("usage: door PROGRAM [WORD...]");
        return ExitCode::from(2);
    };
    match build(&program) {
        Ok(done) if done.success() => {}
        Ok(_) => return ExitCode::FAILURE,
        Err(error) => return failed(&error),
    }
    match place(&program) {
        Ok(program) => failed(&Command::new(program).args(words).exec()),
        Err(error) => failed(&error),
    }
}

/// Builds the program where it was never built, or a source has changed since.
fn build(program: &str) -> io::Result<ExitStatus> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--workspace", "--features", FEATURES]);
    cargo.args(["--bin", program]);
    if !place(program)?.exists() {
        eprintln!("rig: first, cargo builds the rig itself: one to three minutes on two cores");
        // shown, so that it can be seen to move
        return cargo.status();
    }
    let mut building = cargo.arg("--quiet").spawn()?;
    let (ended, end) = mpsc::channel();
    thread::spawn(move || ended.send(building.wait()));
    end.recv_timeout(PATIENCE).or_else(|_| {
        eprintln!("rig: cargo builds what has changed since the last time");
        end.recv().map_err(io::Error::other)
    })?
}

/// Where cargo puts the program: beside this one.
fn place(program: &str) -> io::Result<PathBuf> {
    Ok(env::current_exe()?.with_file_name(program))
}

fn failed(error: &io::Error) -> ExitCode {
    eprintln!("error: cannot start cargo\ncaused by: {error}");
    ExitCode::FAILURE
}
