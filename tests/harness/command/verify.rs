//! `rig verify`, the one door: everything that has to hold before a change lands.
//!
//! Every check runs, whatever became of those before it; only a rig without its parts stops it.

use std::{
    process::{Command, ExitCode, Stdio},
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

/// Features of this crate that turn on tests with machines: the main job and what may befall it, every scenario, and what
/// is cut in them.
const MACHINES: &str = "landfall-tests/machines";
const SCENARIOS: &str = "landfall-tests/scenarios";
const CUTS: &str = "landfall-tests/cuts";

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
        ],
    ),
];

/// Returns the feature for what is asked for; each has all of those before it.
pub(super) fn what(all: bool, cuts: bool) -> &'static str {
    match (all, cuts) {
        (_, true) => CUTS,
        (true, false) => SCENARIOS,
        (false, false) => MACHINES,
    }
}

/// Checks everything, with the machines of this feature.
pub(super) fn verify(feature: &'static str) -> Result<ExitCode> {
    let start = Instant::now();
    let repository = repository();
    Assets::prepare(&repository).context("preparing the rig")?;
    let mut rows = vec![row("rig", &Outcome::Passed, start.elapsed())];
    let mut sound = true;
    for (name, arguments) in CHECKS {
        let wanted = |argument: &&'static str| match *argument {
            MACHINES => feature,
            argument => argument,
        };
        let arguments: Vec<&str> = arguments.iter().map(wanted).collect();
        eprintln!("\n--- {name}: cargo {}", arguments.join(" "));
        let start = Instant::now();
        let outcome = if is_there(arguments[0]) {
            let done = Command::new("cargo")
                .args(&arguments)
                .current_dir(&repository)
                .status();
            if done.context("starting cargo")?.success() {
                Outcome::Passed
            } else {
                Outcome::Failed
            }
        } else {
            Outcome::Missing
        };
        sound &= !matches!(outcome, Outcome::Failed);
        rows.push(row(name, &outcome, start.elapsed()));
    }
    eprintln!();
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
