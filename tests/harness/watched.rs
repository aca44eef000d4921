//! A landfall at work, as a test sees it: how far it has come, and how it ends.
//!
//! Knows what `--json` prints and nothing of what it means to a machine.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{patience, waits};

/// How much is shown of what a command told that does not end.
const LAST_WORDS: usize = 30;

/// A command that was started and tells what it does in lines of JSON. Killed when it is dropped.
#[derive(Debug)]
pub struct Watched {
    child: Child,
    folder: TempDir,
    begun: Instant,
    /// How much of what it told has been read.
    read: u64,
    records: Vec<Value>,
}

/// A command that has ended.
#[derive(Debug)]
pub struct Told {
    /// Its exit code; none if it was killed.
    pub code: Option<i32>,
    /// What it told, line by line.
    pub records: Vec<Value>,
    /// What it said to a person.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Watched {
    /// Starts a command that has `--json`.
    pub fn start(command: &mut Command) -> Result<Self> {
        let folder =
            TempDir::with_prefix("watched-").context("making a folder for what is said")?;
        let file = |name: &str| File::create(folder.path().join(name)).context("making a file");
        command
            .stdin(Stdio::null())
            .stdout(file("stdout")?)
            .stderr(file("stderr")?);
        Ok(Self {
            child: command.spawn().context("starting the command")?,
            folder,
            begun: Instant::now(),
            read: 0,
            records: Vec::new(),
        })
    }

    /// Waits until it has told of something, from its beginning on.
    pub fn wait_for(
        &mut self,
        what: &str,
        deadline: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<()> {
        let mut seen = 0;
        patience::until(what, deadline, || {
            let ended = self.child.try_wait()?;
            self.hear()?;
            if self.records[seen..].iter().any(&wanted) {
                return Ok(Some(()));
            }
            seen = self.records.len();
            match ended {
                Some(status) => bail!("it ended before {what}, {status}:\n{}", self.stderr()),
                None => Ok(None),
            }
        })
    }

    /// Waits until a step has begun, named as for [`is`].
    pub fn wait_step(&mut self, step: &str, deadline: Duration) -> Result<()> {
        self.wait_for(step, deadline, |record| is(record, step, "step_started"))
    }

    /// Waits until a step is over.
    pub fn wait_over(&mut self, step: &str, deadline: Duration) -> Result<()> {
        let what = format!("the end of {step}");
        self.wait_for(&what, deadline, |record| is(record, step, "step_finished"))
    }

    /// Kills it as the kernel does when memory is short, and returns what it had told.
    pub fn kill(mut self) -> Result<Told> {
        self.child.kill().context("killing the command")?;
        let status = self.child.wait().context("waiting for the command")?;
        self.told(status.code())
    }

    /// Presses ctrl-c, and waits until it ends.
    pub fn interrupt(self, deadline: Duration) -> Result<Told> {
        let child = i32::try_from(self.child.id()).context("reading the command's id")?;
        signal::kill(Pid::from_raw(child), Signal::SIGINT).context("interrupting the command")?;
        self.end(deadline)
    }

    /// Waits until it ends by itself.
    pub fn end(mut self, deadline: Duration) -> Result<Told> {
        let ended = patience::until("the command's end", deadline, || {
            Ok(self.child.try_wait()?)
        });
        let status = match ended {
            Ok(status) => status,
            Err(error) => {
                self.hear()?;
                return Err(error.context(self.last_words()));
            }
        };
        self.told(status.code())
    }

    /// Says how far it had come: what it said to a person, and the newest of what it told.
    fn last_words(&self) -> String {
        let newest = self.records.len().saturating_sub(LAST_WORDS);
        let lines = self.records[newest..].iter().map(Value::to_string);
        let lines: Vec<String> = lines.collect();
        format!("{}\nit told last:\n{}", self.stderr(), lines.join("\n"))
    }

    fn told(mut self, code: Option<i32>) -> Result<Told> {
        self.hear()?;
        let took = self.begun.elapsed();
        waits::add_run(&self.records, took);
        Ok(Told {
            code,
            records: std::mem::take(&mut self.records),
            stderr: self.stderr(),
            took,
        })
    }

    /// Reads the lines that have come since.
    fn hear(&mut self) -> Result<()> {
        let mut file = File::open(self.folder.path().join("stdout"))?;
        file.seek(SeekFrom::Start(self.read))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        // the last line may be on its way
        let whole = text.iter().rposition(|&byte| byte == b'\n');
        let whole = whole.map_or(0, |at| at + 1);
        for line in text[..whole].split_inclusive(|&byte| byte == b'\n') {
            self.records
                .push(serde_json::from_slice(line).context("reading what it told")?);
        }
        self.read += whole as u64;
        Ok(())
    }

    fn stderr(&self) -> String {
        let bytes = std::fs::read(self.folder.path().join("stderr")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Told {
    /// How often a step has begun, named as for [`is`]; events that were told twice count once.
    #[must_use]
    pub fn begun(&self, step: &str) -> usize {
        let begun = self
            .records
            .iter()
            .filter(|record| is(record, step, "step_started"));
        let mut indices: Vec<_> = begun.map(|record| record["index"].as_u64()).collect();
        indices.sort_unstable();
        indices.dedup();
        indices.len()
    }

    /// Whether a step is told to have ended well.
    #[must_use]
    pub fn is_over(&self, step: &str) -> bool {
        self.records
            .iter()
            .any(|record| is(record, step, "step_finished"))
    }

    /// The code of the failure that it ended with.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.records.last()?["failure"]["code"].as_str()
    }

    /// Where it says that the machine stands.
    #[must_use]
    pub fn state(&self) -> Option<&str> {
        self.records.last()?["state"].as_str()
    }
}

/// Whether a record is an event of this kind, of this step: `kexec` for a phase, `/copy` for a step of the agent, in
/// whichever phase it came.
#[must_use]
pub fn is(record: &Value, step: &str, kind: &str) -> bool {
    let told = record["step"].as_str().unwrap_or_default();
    let of_step = match step.strip_prefix('/') {
        Some(step) => told.rsplit_once('/').is_some_and(|(_, told)| told == step),
        None => told == step,
    };
    of_step && record["kind"] == kind
}
