//! `rig verify`, the one door: everything that has to hold before a change lands.
//!
//! Every check runs, whatever became of those before it; only a rig without its parts stops it. Formats,
//! lints and programs are looked at while the rig's parts are made; then every test is run in a
//! process of its own and timed ([`play`]). Which ring a test belongs to is in [`rings`], what it took is
//! in [`clock`], and which scenarios a slice has in [`slice`].

mod build;
mod clock;
mod load;
mod play;
mod rings;
mod slice;

use std::{
    cmp::Reverse,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use self::{
    build::Built,
    clock::{Outcome, Record, Row},
    load::Load,
    play::Job,
    rings::Ring,
    slice::{Candidate, Change},
};
use super::{repository, table};
use crate::{assets::Assets, binaries};

/// Tests with machines that run at once: they wait for each other more than they work.
const LANES: usize = 3;
/// What takes less is not in the table.
const SHORTEST: Duration = Duration::from_secs(2);
/// What a run took the last time that it was recorded.
const TIMES: &str = "tests/times.json";
/// Where the table of that run is shown, between these marks.
const DOCUMENT: &str = "docs/testing.md";
const MARKS: [&str; 2] = ["<!-- times: begin -->\n", "<!-- times: end -->\n"];

#[derive(Debug, Default, clap::Args)]
pub(super) struct Options {
    /// Play every scenario too: layouts of disks, logins, phases one by one, and every cut
    #[arg(long)]
    all: bool,
    /// Play nothing but the scenarios of this commit's slice, for so long, such as 20m
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "all")]
    slice: Option<Duration>,
    /// Run each of the named tests so often, and say how many passed
    #[arg(long, value_name = "N", requires = "names", conflicts_with = "slice")]
    repeat: Option<usize>,
    /// Keep so many processors busy beside the tests
    #[arg(long, value_name = "N", default_value_t = 0)]
    load: usize,
    /// Write what everything took to the table in the documents
    #[arg(long)]
    record: bool,
    /// Only tests with one of these in their name
    names: Vec<String>,
}

/// What happened so far.
struct Report {
    begun: Instant,
    parts: Vec<[String; 3]>,
    record: Record,
    sound: bool,
}

pub(super) fn verify(options: &Options) -> Result<ExitCode> {
    let repository = repository();
    let times = Record::load(&repository.join(TIMES))?;
    let mut report = Report {
        begun: Instant::now(),
        parts: Vec::new(),
        record: Record {
            date: clock::today(),
            machine: clock::machine(),
            ..Record::default()
        },
        sound: true,
    };
    announce(options, &times);
    let _load = Load::begin(options.load)?;
    let whole = options.names.is_empty() && options.slice.is_none();
    let (built, assets) = thread::scope(|scope| {
        let rig = scope.spawn(|| {
            let begun = Instant::now();
            let prepared = match options.all {
                false => Assets::prepare(&repository),
                true => Assets::prepare_all(&repository),
            };
            prepared.map(|_| begun.elapsed())
        });
        let built = prepare(whole, &repository, &mut report);
        (built, rig.join().expect("preparing does not panic"))
    });
    let took = assets.context("preparing the rig")?;
    report.part("rig", took, true);
    let Some(built) = built? else {
        return report.end(options, &repository, &times);
    };

    let begun = Instant::now();
    let (jobs, until) = jobs(options, &repository, &built, &times)?;
    eprintln!("\n--- {} tests, each in a process of its own", jobs.len());
    let environment = vec![(binaries::CONTROLLER, built.controller.clone())];
    let (rows, left) = play::play(jobs, LANES, &environment, until)?;
    for job in &left {
        println!(
            "not begun, since it would not have ended in time: {}",
            job.name
        );
    }
    let passed = rows.iter().all(|row| row.outcome == Outcome::Passed);
    report.part("tests", begun.elapsed(), passed);
    if let Some(times) = options.repeat {
        for (name, (passed, all)) in play::count(&rows) {
            println!("{passed} of {all} passed (asked for {times}): {name}");
        }
    }
    report.record.tests = rows;
    report.end(options, &repository, &times)
}

/// Looks at what needs no rig, and builds the tests; nothing where they cannot be built.
fn prepare(whole: bool, repository: &Path, report: &mut Report) -> Result<Option<Built>> {
    if whole {
        for (name, arguments) in build::CHECKS {
            let begun = Instant::now();
            let passed = build::check(arguments, repository)?;
            report.part(name, begun.elapsed(), passed);
        }
    }
    let begun = Instant::now();
    let built = build::tests(repository)?;
    report.part("programs", begun.elapsed(), built.is_some());
    Ok(built)
}

/// What is to be run, in order, and when the last one has to have ended.
fn jobs(
    options: &Options,
    repository: &Path,
    built: &Built,
    times: &Record,
) -> Result<(Vec<Job>, Option<Instant>)> {
    let places = rings::read(&repository.join("tests"))?;
    let place = |name: &str| places.get(name).cloned().unwrap_or_default();
    let mut jobs = built.jobs()?;
    for name in places.keys() {
        let known = jobs.iter().any(|job| job.name == *name);
        ensure!(
            known,
            "{name} is in a file of tests/, and the test program does not have it"
        );
    }
    for job in &mut jobs {
        job.ring = place(&job.name).ring;
        job.expected = times.of(&job.name);
    }
    let named = |job: &Job| {
        options
            .names
            .iter()
            .any(|name| job.name.contains(name.as_str()))
    };
    if let Some(time) = options.slice {
        let until = Instant::now() + time;
        let scenarios = jobs.iter().filter(|job| job.ring == Ring::Scenario);
        let candidates = scenarios.map(|job| Candidate {
            name: job.name.clone(),
            expected: job.expected,
            covers: place(&job.name).covers,
        });
        let slices = slice::slices(candidates.collect(), time, LANES);
        let chosen = slice::choose(&slices, &Change::read(repository)?);
        let of = |one: Candidate| jobs.iter().find(|job| job.name == one.name).cloned();
        return Ok((chosen.into_iter().filter_map(of).collect(), Some(until)));
    }
    jobs.retain(|job| match options.names.is_empty() {
        true => options.all || job.ring != Ring::Scenario,
        false => named(job),
    });
    ensure!(!jobs.is_empty(), "no test has that in its name");
    // what takes longest decides when the last one ends
    jobs.sort_by_key(|job| Reverse(job.expected));
    let repeat = options.repeat.unwrap_or(1);
    Ok((std::iter::repeat_n(jobs, repeat).flatten().collect(), None))
}

/// Says what is going to happen, before anything does.
fn announce(options: &Options, times: &Record) {
    let what = match (options.names.is_empty(), options.all, options.slice) {
        (false, ..) => "the tests that were named".to_owned(),
        (_, true, _) => "everything, every scenario too".to_owned(),
        (_, _, Some(time)) => format!("a slice of the scenarios, {} at most", table::time(time)),
        _ => "everything but the scenarios of --all".to_owned(),
    };
    eprintln!("rig: checking {what}");
    if times.wall > 0.0 {
        let time = table::time(Duration::from_secs_f64(times.wall));
        let (date, machine) = (&times.date, &times.machine);
        eprintln!(
            "rig: all of it took {time} on {date} ({machine}); the first time, the rig's parts take 5 to 10 min more"
        );
    }
}

impl Report {
    fn part(&mut self, name: &str, took: Duration, passed: bool) {
        self.sound &= passed;
        let word = if passed { "passed" } else { "FAILED" };
        self.parts
            .push([name.to_owned(), table::time(took), word.to_owned()]);
        self.record
            .parts
            .insert(name.to_owned(), took.as_secs_f64());
    }

    /// Shows everything, writes it down, and says how to exit.
    fn end(mut self, options: &Options, repository: &Path, times: &Record) -> Result<ExitCode> {
        self.record.wall = self.begun.elapsed().as_secs_f64();
        let rows = &self.record.tests;
        println!();
        for line in clock::table(rows, SHORTEST) {
            println!("{line}");
        }
        println!();
        for line in table::lines(&self.parts) {
            println!("{line}");
        }
        let file = repository.join("target/verify.json");
        fs::create_dir_all(repository.join("target")).context("making a folder for the times")?;
        self.record.save(&file)?;
        if options.record {
            record(&self.record, repository, times)?;
        }
        let failed = rows.iter().filter(|row| row.outcome != Outcome::Passed);
        let failed = failed.count();
        println!("\ntimes: {}", file.display());
        println!(
            "after {}: {}\n",
            table::time(self.begun.elapsed()),
            if self.sound { "sound" } else { "NOT SOUND" }
        );
        println!("{} passed, {failed} failed", rows.len() - failed);
        Ok(match self.sound {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }
}

/// Keeps the times of this run, and of tests that it did not run the times that were known.
fn record(new: &Record, repository: &Path, old: &Record) -> Result<()> {
    let mut merged = new.clone();
    let known = |name: &str, rows: &[Row]| rows.iter().any(|row| row.name == name);
    let others = old.tests.iter().filter(|row| !known(&row.name, &new.tests));
    merged.tests.extend(others.cloned());
    merged.tests.sort_by(|a, b| a.name.cmp(&b.name));
    merged.save(&repository.join(TIMES))?;

    let document: PathBuf = repository.join(DOCUMENT);
    let text = fs::read_to_string(&document).context("reading the document of tests")?;
    let (before, rest) = text
        .split_once(MARKS[0])
        .context("the table has no beginning")?;
    let (_, after) = rest.split_once(MARKS[1]).context("the table has no end")?;
    let table = clock::table(&merged.tests, SHORTEST).join("\n");
    let (date, machine) = (&new.date, &new.machine);
    let wall = table::time(Duration::from_secs_f64(new.wall));
    let shown = format!("{date}, {machine}: {wall} in all.\n\n```text\n{table}\n```\n");
    let text = format!("{before}{}{shown}{}{after}", MARKS[0], MARKS[1]);
    fs::write(&document, text).context("writing the document of tests")
}

/// Reads `90s`, `20m` or `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let unit = |ending: char| text.strip_suffix(ending).map(str::parse::<u64>);
    let seconds = match (unit('s'), unit('m'), unit('h')) {
        (Some(Ok(seconds)), ..) => Some(seconds),
        (_, Some(Ok(minutes)), _) => minutes.checked_mul(60),
        (.., Some(Ok(hours))) => hours.checked_mul(3600),
        _ => None,
    };
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| "expected a time such as 90s, 20m or 1h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_of_a_slice_has_a_unit() {
        assert_eq!(duration("20m"), Ok(Duration::from_secs(1200)));
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        for wrong in ["20", "m", "-1m", "1.5h", ""] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn record_keeps_what_was_not_run_and_the_text_around_the_table() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("docs")).unwrap();
        fs::create_dir_all(folder.path().join("tests")).unwrap();
        let document = folder.path().join(DOCUMENT);
        fs::write(
            &document,
            format!("above\n{}old\n{}below\n", MARKS[0], MARKS[1]),
        )
        .unwrap();
        let row = |name: &str, wall: f64| Row {
            name: name.to_owned(),
            ring: Ring::Machine,
            outcome: Outcome::Passed,
            wall,
            cpu: 1.0,
            waits: std::collections::BTreeMap::new(),
        };
        let of = |tests| Record {
            tests,
            ..Record::default()
        };
        let old = of(vec![row("a", 5.0), row("b", 6.0)]);
        record(&of(vec![row("a", 7.0)]), folder.path(), &old).unwrap();
        let kept = Record::load(&folder.path().join(TIMES)).unwrap();
        assert_eq!(kept.tests, [row("a", 7.0), row("b", 6.0)]);
        let text = fs::read_to_string(document).unwrap();
        assert!(
            text.starts_with("above\n") && text.ends_with("below\n"),
            "{text}"
        );
        assert!(text.contains("7.0 s") && !text.contains("old"), "{text}");
    }
}
