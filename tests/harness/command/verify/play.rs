//! Runs tests, each in a process of its own: several at a time, the long ones first, none without an
//! end; and measures what each took.
//!
//! A process of its own can be timed, ended and counted with all its children. What a test said is shown
//! when it failed.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    sys::{
        signal::{Signal, killpg},
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::Pid,
};
use tempfile::TempDir;

use super::{
    clock::{Outcome, Row},
    rings::Ring,
};
use crate::{command::table, patience, waits};

/// A test that takes longer does not end: the longest takes a quarter of that on an idle host.
const ENDLESS: Duration = Duration::from_secs(30 * 60);

/// Lines of what a failed test said that are shown.
const SHOWN: usize = 60;

/// Ticks of a processor's clock in a second, as /proc counts them (proc_pid_stat(5)).
const TICKS: f64 = 100.0;

/// One run of one test.
#[derive(Clone, Debug)]
pub(super) struct Job {
    /// As it is shown and remembered.
    pub(super) name: String,
    pub(super) ring: Ring,
    /// How long it is likely to take.
    pub(super) expected: Duration,
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    /// Where the program is run: the folder of its crate.
    pub(super) folder: PathBuf,
}

/// What the tests find in their environment.
pub(super) type Environment = Vec<(&'static str, PathBuf)>;

/// Runs all jobs in so many lanes; begins none that would not end before `until`.
///
/// Returns a row for each that was run, in the order in which they ended, and those that were left.
pub(super) fn play(
    mut jobs: Vec<Job>,
    lanes: usize,
    environment: &Environment,
    until: Option<Instant>,
) -> Result<(Vec<Row>, Vec<Job>)> {
    let desk = TempDir::with_prefix("verify-").context("making a folder for what tests say")?;
    let count = jobs.len();
    // taken from the end
    jobs.reverse();
    let (open, left) = (Mutex::new(jobs), Mutex::new(Vec::new()));
    let (rows, wrong) = (Mutex::new(Vec::new()), Mutex::new(None));
    std::thread::scope(|scope| {
        for lane in 0..lanes {
            let (open, left, rows, wrong, desk) = (&open, &left, &rows, &wrong, desk.path());
            scope.spawn(move || {
                while let Some(job) = take(open, left, until) {
                    let folder = desk.join(lane.to_string());
                    match one(&job, &folder, environment) {
                        Ok(row) => {
                            let mut rows = lock(rows);
                            show(&row, &folder, rows.len() + 1, count);
                            rows.push(row);
                        }
                        Err(error) => {
                            lock(wrong).get_or_insert(error);
                            return;
                        }
                    }
                }
            });
        }
    });
    if let Some(error) = wrong.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    let left = left.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok((rows, left))
}

/// The next job that ends in time; those that would not are put aside.
fn take(open: &Mutex<Vec<Job>>, left: &Mutex<Vec<Job>>, until: Option<Instant>) -> Option<Job> {
    loop {
        let job = lock(open).pop()?;
        if until.is_none_or(|until| Instant::now() + job.expected <= until) {
            return Some(job);
        }
        lock(left).push(job);
    }
}

fn one(job: &Job, folder: &Path, environment: &Environment) -> Result<Row> {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).context("making a folder for what a test says")?;
    let waited = folder.join("waits");
    let said = File::create(folder.join("said")).context("writing what a test says")?;
    // setpriv only asks the kernel for a signal and becomes the test: it ends with this thread
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL"])
        .arg(&job.program)
        .args(&job.arguments)
        .current_dir(&job.folder)
        .env("CARGO_MANIFEST_DIR", &job.folder)
        .env(waits::FILE, &waited)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .stderr(said);
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let begun = Instant::now();
    let mut child = command.spawn().context("starting a test")?;
    let (outcome, cpu) = end(&mut child)?;
    Ok(Row {
        name: job.name.clone(),
        ring: job.ring,
        outcome,
        wall: begun.elapsed().as_secs_f64(),
        cpu,
        waits: waits::read(&waited),
    })
}

/// Waits for the end, and reads what it took before the kernel forgets.
fn end(child: &mut Child) -> Result<(Outcome, f64)> {
    let pid = Pid::from_raw(i32::try_from(child.id()).context("reading a test's id")?);
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
    let ended = patience::until("the test's end", ENDLESS, || {
        let ended = waitid(Id::Pid(pid), flags).context("waiting for a test")?;
        Ok(ended.pid().is_some().then_some(()))
    });
    if ended.is_err() {
        // with all that it started and that stayed in its group
        let _ = killpg(pid, Signal::SIGKILL);
    }
    let cpu = fs::read_to_string(format!("/proc/{pid}/stat")).map_or(0.0, |stat| processors(&stat));
    let status = child.wait().context("waiting for a test")?;
    let outcome = match (ended, status.success()) {
        (Err(_), _) => Outcome::Endless,
        (Ok(()), true) => Outcome::Passed,
        (Ok(()), false) => Outcome::Failed,
    };
    Ok((outcome, cpu))
}

/// Seconds of processors of a process and its children that were waited for, from its `stat` in /proc.
fn processors(stat: &str) -> f64 {
    // the name before it may hold anything
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(4);
    ticks
        .filter_map(|field| field.parse::<f64>().ok())
        .sum::<f64>()
        / TICKS
}

fn show(row: &Row, folder: &Path, number: usize, count: usize) {
    let (word, time) = match row.outcome {
        Outcome::Passed => ("passed", row.wall),
        Outcome::Failed => ("FAILED", row.wall),
        Outcome::Endless => ("ENDLESS", row.wall),
    };
    let time = table::time(Duration::from_secs_f64(time));
    println!("{number:>4} of {count}  {word}  {time:>12}  {}", row.name);
    if row.outcome != Outcome::Passed {
        let said = fs::read(folder.join("said")).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = said.lines().collect();
        for line in &lines[lines.len().saturating_sub(SHOWN)..] {
            println!("      | {line}");
        }
    }
}

/// Counts outcomes of the same name: how many of how many passed.
pub(super) fn count(rows: &[Row]) -> BTreeMap<&str, (usize, usize)> {
    let mut counts = BTreeMap::new();
    for row in rows {
        let (passed, all) = counts.entry(row.name.as_str()).or_insert((0, 0));
        *passed += usize::from(row.outcome == Outcome::Passed);
        *all += 1;
    }
    counts
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Job, Outcome, Ring, count, play, processors};

    fn job(name: &str, script: &str, expected: u64) -> Job {
        Job {
            name: name.to_owned(),
            ring: Ring::Program,
            expected: Duration::from_secs(expected),
            program: "/bin/sh".into(),
            arguments: vec!["-c".to_owned(), script.to_owned()],
            folder: std::env::temp_dir(),
        }
    }

    #[test]
    fn outcome_time_and_processors_of_children_are_told() {
        let busy = "sh -c 'i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done'";
        let jobs = vec![job("busy", busy, 1), job("torn", "exit 3", 1)];
        let (rows, left) = play(jobs, 1, &Vec::new(), None).unwrap();
        assert!(left.is_empty());
        assert_eq!(rows[0].outcome, Outcome::Passed);
        assert!(rows[0].cpu > 0.02 && rows[0].wall > 0.02, "{rows:?}");
        assert_eq!(
            (rows[1].name.as_str(), rows[1].outcome),
            ("torn", Outcome::Failed)
        );
        let counts: Vec<_> = count(&rows).into_values().collect();
        assert_eq!(counts, [(1, 1), (0, 1)]);
    }

    #[test]
    fn what_would_not_end_in_time_is_not_begun() {
        let until = Instant::now() + Duration::from_secs(60);
        let jobs = vec![
            job("short", "true", 1),
            job("long", "true", 3600),
            job("last", "true", 2),
        ];
        let (rows, left) = play(jobs, 1, &Vec::new(), Some(until)).unwrap();
        let names: Vec<_> = rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, ["short", "last"]);
        assert_eq!(left[0].name, "long");
    }

    #[test]
    fn processors_are_read_whatever_the_name_is() {
        let stat = "12 (a) b) S 1 1 1 0 -1 4194560 1 2 3 4 150 50 25 75 20 0 1 0 5";
        assert!((processors(stat) - 3.0).abs() < f64::EPSILON);
    }
}
