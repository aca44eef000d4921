//! What came of it, for a person: a line for each run, and how often each kind of fault came to pass.

use std::{fmt, time::Duration};

use anyhow::Result;

use super::{
    model::Truth,
    play::Played,
    schedule::{Fault, KINDS},
};

/// How a run went.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) faults: Vec<Fault>,
    pub(crate) played: Played,
    /// What was not as it must be.
    pub(crate) wrong: Vec<String>,
}

/// A run, and how it went, if it could be had.
#[derive(Debug)]
pub(crate) struct Run {
    number: u32,
    outcome: Result<Outcome>,
}

impl Run {
    pub(crate) fn of(number: u32, outcome: Result<Outcome>) -> Self {
        Self { number, outcome }
    }

    pub(crate) fn is_good(&self) -> bool {
        matches!(&self.outcome, Ok(outcome) if outcome.wrong.is_empty())
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>4}  ", self.number)?;
        let outcome = match &self.outcome {
            Ok(outcome) => outcome,
            Err(error) => return write!(f, "the rig failed: {error:#}"),
        };
        let played = &outcome.played;
        let codes: Vec<String> = played
            .attempts
            .iter()
            .map(|attempt| match (attempt.code, &attempt.failure) {
                (Some(0), _) => "done".to_owned(),
                (Some(code), failure) => {
                    format!("{code} {}", failure.as_deref().unwrap_or("?"))
                }
                (None, _) if attempt.hung => "hung".to_owned(),
                (None, _) => "killed".to_owned(),
            })
            .collect();
        let word = if outcome.wrong.is_empty() {
            "good"
        } else {
            "WRONG"
        };
        let took = played.took.as_secs_f64();
        write!(f, "{word:<5} {took:>6.1} s  {:<40} ", codes.join(", "))?;
        let shown: Vec<String> = outcome
            .faults
            .iter()
            .map(|fault| {
                let came = played.happened.contains(fault);
                format!("{}{fault}", if came { "" } else { "(not) " })
            })
            .collect();
        f.write_str(&shown.join(" | "))?;
        for wrong in &outcome.wrong {
            write!(f, "\n      - {wrong}")?;
        }
        Ok(())
    }
}

/// Prints the end: each kind of fault, and the runs to look at.
pub(crate) fn show(seed: u64, runs: &[Run], truth: &Truth, took: Duration) {
    let outcomes = || runs.iter().filter_map(|run| run.outcome.as_ref().ok());
    println!(
        "\n{:<20}{:>7}{:>10}{:>8}",
        "fault", "drawn", "happened", "runs"
    );
    for kind in KINDS {
        let of = |fault: &&Fault| fault.kind == kind;
        let drawn: usize = outcomes()
            .map(|one| one.faults.iter().filter(of).count())
            .sum();
        let came: usize = outcomes()
            .map(|one| one.played.happened.iter().filter(of).count())
            .sum();
        let runs =
            outcomes().filter(|one| one.played.happened.iter().any(|fault| fault.kind == kind));
        println!("{kind:<20}{drawn:>7}{came:>10}{:>8}", runs.count());
    }
    let again = outcomes().filter(|one| one.played.is_of_the_line() && one.played.cuts() > 0);
    let again =
        again.map(|one| one.played.passed[0].saturating_sub(truth.passed[0]) / one.played.cuts());
    if let Some(most) = again.max() {
        println!("\nbytes sent again for a lost connection: {most} at most");
    }
    let bad: Vec<&Run> = runs.iter().filter(|run| !run.is_good()).collect();
    println!(
        "seed {seed}: {} runs in {:.0} s, {:.1} s each, {} of them bad",
        runs.len(),
        took.as_secs_f64(),
        took.as_secs_f64() / runs.len().max(1) as f64,
        bad.len()
    );
    for run in bad {
        println!("  cargo faults -- --seed {seed} --only {}", run.number);
    }
}
