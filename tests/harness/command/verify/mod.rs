//! `rig verify`, the one door: everything that has to hold before a change lands.
//!
//! Every check runs, whatever became of those before it; only a rig without its parts stops it.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, ExitCode, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{repository, table};
use crate::assets::Assets;

enum Outcome {
    Passed,
    Failed,
    /// The toolchain has no such command.
    Missing,
}

/// Features of this crate that turn on tests with machines: the main job and what may befall it, and every scenario.
const MACHINES: &str = "landfall-tests/machines";
const SCENARIOS: &str = "landfall-tests/scenarios";

/// Lines and columns of a test's reason to fail that are shown once more at the end.
const REASON: usize = 12;
const WIDTH: usize = 400;
/// Time for what cargo said last to arrive.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Name, and what comes after `cargo`.
const CHECKS: &[(&str, &[&str])] = &[
    ("format", &["fmt", "--all", "--check"]),
    (
        "lints",
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
    ),
    // the tests run the programs as a user does
    ("programs", &["build", "--workspace", "--bins"]),
    (
        "tests",
        &[
            "test",
            "--workspace",
            "--no-fail-fast",
            "--features",
            MACHINES,
            // machines wait for each other more than they work
            "--",
            "--test-threads=3",
        ],
    ),
];

/// Checks everything: with the main job, or with `all` scenarios.
pub(super) fn verify(all: bool) -> Result<ExitCode> {
    let start = Instant::now();
    let repository = repository();
    let (feature, prepared) = match all {
        false => (MACHINES, Assets::prepare(&repository)),
        true => (SCENARIOS, Assets::prepare_all(&repository)),
    };
    prepared.context("preparing the rig")?;
    let mut rows = vec![row("rig", &Outcome::Passed, start.elapsed())];
    let mut sound = true;
    let mut why = Vec::new();
    for (name, arguments) in CHECKS {
        let wanted = |argument: &&'static str| match *argument {
            MACHINES => feature,
            argument => argument,
        };
        let arguments: Vec<&str> = arguments.iter().map(wanted).collect();
        eprintln!("\n--- {name}: cargo {}", arguments.join(" "));
        let start = Instant::now();
        let outcome = if is_there(arguments[0]) {
            match cargo(&arguments, &repository, &mut why)? {
                true => Outcome::Passed,
                false => Outcome::Failed,
            }
        } else {
            Outcome::Missing
        };
        sound &= !matches!(outcome, Outcome::Failed);
        rows.push(row(name, &outcome, start.elapsed()));
    }
    eprintln!();
    // once more where it is seen: what a test said may be thousands of lines above
    for line in why {
        println!("{line}");
    }
    for line in table::lines(&rows) {
        println!("{line}");
    }
    println!(
        "\nafter {}: {}",
        table::time(start.elapsed()),
        if sound { "sound" } else { "NOT SOUND" }
    );
    Ok(if sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs cargo, shows what it says, and keeps of that why tests failed.
fn cargo(arguments: &[&str], folder: &Path, why: &mut Vec<String>) -> Result<bool> {
    let mut child = Command::new("cargo")
        .args(arguments)
        .current_dir(folder)
        .stdout(Stdio::piped())
        .spawn()
        .context("starting cargo")?;
    let out = child.stdout.take().context("hearing cargo")?;
    let (reasons, heard) = mpsc::channel();
    // what a test left behind may hold the pipe open: nobody waits for that
    thread::spawn(move || {
        let mut about = 0;
        for line in BufReader::new(out).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            if line.contains("panicked at ") {
                about = REASON;
            }
            if line.starts_with("stack backtrace:") || line.starts_with("note:") {
                about = 0;
            }
            if about > 0 {
                about -= 1;
                // where nobody hears it any more it is shown all the same
                let _ = reasons.send(line.chars().take(WIDTH).collect());
            }
        }
    });
    let done = child.wait().context("waiting for cargo")?;
    while let Ok(reason) = heard.recv_timeout(LAST_WORDS) {
        why.push(reason);
    }
    Ok(done.success())
}

/// Whether this toolchain has the subcommand; a minimal one lacks fmt and clippy.
fn is_there(subcommand: &str) -> bool {
    let mut probe = Command::new("cargo");
    probe
        .args([subcommand, "--help"])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    probe
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|done| done.success())
}

fn row(name: &str, outcome: &Outcome, time: Duration) -> [String; 3] {
    let word = match outcome {
        Outcome::Passed => "passed",
        Outcome::Failed => "FAILED",
        Outcome::Missing => "skipped: this toolchain does not have it",
    };
    [name.to_owned(), table::time(time), word.to_owned()]
}
