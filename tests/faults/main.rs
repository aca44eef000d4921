//! `faults`: installs on targets of namespaces, again and again, while line, controller, agent and disks
//! fail at random, and looks whether everything that was promised holds.

#![expect(clippy::print_stderr, reason = "a main prints its error")]
#![expect(clippy::print_stdout, reason = "the table is what it is for")]

mod bench;
mod draw;
mod fixture;
mod model;
mod play;
mod schedule;
mod table;
mod tree;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use landfall_tests::patience;

use self::{
    bench::{Bench, Site},
    model::{Truth, judge},
    play::play,
    schedule::Kind,
    table::Outcome,
};

/// Install on targets of namespaces while everything around them breaks
#[derive(Debug, Parser)]
#[command(name = "faults")]
struct Arguments {
    /// How many runs
    #[arg(long, default_value_t = 40)]
    runs: u32,
    /// Draw the faults from this number, which each run tells
    #[arg(long)]
    seed: Option<u64>,
    /// Only this run of the seed
    #[arg(long, value_name = "N")]
    only: Option<u32>,
    /// The first fault of each run is of this kind
    #[arg(long)]
    kind: Option<Kind>,
    /// How many runs at a time: they wait more than they work
    #[arg(long, value_name = "N", default_value_t = 6)]
    lanes: usize,
    /// Leave the target of a run that failed as it is for so many seconds, to look at
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    hold: u64,
    /// The controller under test, instead of the one that cargo builds
    #[arg(long, value_name = "FILE", requires = "agents")]
    landfall: Option<PathBuf>,
    /// The folder of its agents
    #[arg(long, value_name = "DIR", requires = "landfall")]
    agents: Option<PathBuf>,
}

fn main() -> ExitCode {
    // `cargo faults` ends in `--` for options of ours; people write another one, as for every other program
    let mut words: Vec<_> = env::args_os().collect();
    if words.get(1).is_some_and(|word| word == "--") {
        words.remove(1);
    }
    match run(&Arguments::parse_from(words)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("caused by: {cause}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let seed = arguments.seed.unwrap_or_else(any);
    let site = Site::prepare(arguments.landfall.clone(), arguments.agents.clone())?;
    let logs = env::temp_dir().join(format!("landfall-faults-{seed}"));
    fs::create_dir_all(&logs).context("making a folder for logs")?;

    let truth = uninterrupted(&site, &logs)?;
    let first = arguments.only.unwrap_or(0);
    let count = arguments.only.map_or(arguments.runs, |_| 1);
    println!(
        "seed {seed}: {count} runs; logs of those that fail are in {}",
        logs.display()
    );
    let begun = Instant::now();
    let next = AtomicU32::new(first);
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..arguments.lanes {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= first + count {
                        break;
                    }
                    let run =
                        table::Run::of(number, one(&site, &truth, arguments, seed, number, &logs));
                    println!("{run}");
                    done.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(run);
                }
            });
        }
    });
    let runs = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    table::show(seed, &runs, &truth, begun.elapsed());
    Ok(match runs.iter().all(table::Run::is_good) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// The run against which all others are held.
fn uninterrupted(site: &Site, logs: &Path) -> Result<Truth> {
    let folder = logs.join("uninterrupted");
    fs::create_dir_all(&folder)?;
    let begun = Instant::now();
    let mut bench = Bench::new(site)?;
    let up = begun.elapsed();
    let played = play(site, &mut bench, &[], &folder)?;
    let codes: Vec<_> = played.attempts.iter().map(|attempt| attempt.code).collect();
    ensure!(
        codes == [Some(0)],
        "the run without faults fails: see {}",
        folder.display()
    );
    // nobody may be at work there when it is looked at
    let mut wrong = Vec::new();
    model::left_over(&bench, &mut wrong)?;
    let truth = Truth::of(&bench, played.passed)?;
    wrong.extend(judge(&bench, &truth, &played)?);
    ensure!(
        wrong.is_empty(),
        "the run without faults: {}",
        wrong.join("; ")
    );
    bench.end()?;
    println!(
        "without faults: target up in {:.1} s, installed in {:.1} s, {} bytes to it, {} from it",
        up.as_secs_f64(),
        played.took.as_secs_f64(),
        played.passed[0],
        played.passed[1]
    );
    Ok(truth)
}

/// One run with faults.
fn one(
    site: &Site,
    truth: &Truth,
    arguments: &Arguments,
    seed: u64,
    number: u32,
    logs: &Path,
) -> Result<Outcome> {
    let faults = schedule::draw(seed, number, arguments.kind);
    let folder = logs.join(number.to_string());
    // of an earlier run with this seed
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let mut bench = Bench::new(site)?;
    let played = play(site, &mut bench, &faults, &folder)?;
    let mut wrong = judge(&bench, truth, &played)?;
    if arguments.hold > 0 && !wrong.is_empty() {
        println!("{number:>4}  {}: {}", bench.target.hint(), wrong.join("; "));
        let enough = Instant::now() + Duration::from_secs(arguments.hold);
        patience::until("a look", Duration::from_secs(arguments.hold + 1), || {
            Ok((Instant::now() >= enough).then_some(()))
        })?;
    }
    fs::write(folder.join("sshd"), bench.target.log())?;
    bench.keep_state(&folder)?;
    if let Err(error) = bench.end() {
        wrong.push(format!("left over: {error:#}"));
    }
    if wrong.is_empty() {
        fs::remove_dir_all(&folder)?;
    } else {
        let text = format!("seed {seed}, run {number}\n{faults:#?}\n{wrong:#?}\n");
        fs::write(folder.join("wrong"), text)?;
    }
    Ok(Outcome {
        faults,
        played,
        wrong,
    })
}

/// A seed that nobody chose.
fn any() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_micros() as u64 % 1_000_000)
}
