//! The laws of a run: whatever ends a process, the next one goes on as if nothing had been, or refuses.
//!
//! Steps count how often they were done to a machine, and the journal outlives the processes that write it.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use landfall_proto::{
    event::{Kind, Outcome},
    failure::Failure,
    order::RunId,
    report::RunState,
};
use tokio_util::sync::CancellationToken;

use crate::{
    board::Board,
    journal::{Header, Journal, JournalError, Mark, Store},
    run::Run,
    step::{Context, Done, Repeat, Step},
};

mod copied;

mod killed;

mod refused;

mod retried;

const PLAN: [&str; 5] = ["inspect", "format", "copy", "files", "seal"];

/// What was done to a machine, and what is to happen to whoever works on it.
#[derive(Debug, Clone, Default)]
struct Machine {
    done: Arc<Mutex<BTreeMap<&'static str, u32>>>,
    wrong: Arc<Mutex<BTreeMap<&'static str, Wrong>>>,
}

/// What goes wrong with a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Refused,
    Fails,
    Gone,
    Hangs,
}

impl Machine {
    fn times(&self, name: &str) -> u32 {
        self.done.lock().unwrap().get(name).copied().unwrap_or(0)
    }

    fn all_times(&self) -> [u32; 4] {
        ["inspect", "format", "copy", "seal"].map(|name| self.times(name))
    }

    fn goes_wrong(&self, name: &'static str, wrong: Option<Wrong>) {
        let mut wrongs = self.wrong.lock().unwrap();
        match wrong {
            Some(wrong) => wrongs.insert(name, wrong),
            None => wrongs.remove(name),
        };
    }

    fn is(&self, name: &str, wrong: Wrong) -> bool {
        self.wrong.lock().unwrap().get(name) == Some(&wrong)
    }

    async fn work(&self, name: &'static str) -> Result<(), Failure> {
        *self.done.lock().unwrap().entry(name).or_default() += 1;
        if self.is(name, Wrong::Fails) {
            return Err(Failure::new(format!("cannot {name}")));
        }
        if self.is(name, Wrong::Hangs) {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

/// Makes a step that counts how often it was done.
macro_rules! step {
    ($type:ident, $name:literal, $repeat:ident, $proof:ty, $made:expr) => {
        struct $type<'a>(&'a Machine);

        impl Step for $type<'_> {
            const NAME: &'static str = $name;
            const REPEAT: Repeat = Repeat::$repeat;
            type Proof = $proof;

            async fn admit(&self) -> Result<(), Failure> {
                match self.0.is($name, Wrong::Refused) {
                    true => Err(Failure::new(concat!("refusing to ", $name)).code("LF0501")),
                    false => Ok(()),
                }
            }

            async fn run(&self, _: &Context) -> Result<Done<$proof>, Failure> {
                self.0.work($name).await?;
                Ok($made)
            }

            async fn still_true(&self, _: &$proof) -> bool {
                self.0.times($name) > 0 && !self.0.is($name, Wrong::Gone)
            }
        }
    };
}

step!(
    Inspect,
    "inspect",
    Safe,
    String,
    Done::new("seen".to_owned())
);
step!(Format, "format", Never, u32, Done::warned(7, "old disk"));
step!(
    Copy,
    "copy",
    Safe,
    Vec<u8>,
    Done::skipped(vec![1], "all there")
);
step!(Seal, "seal", Never, (), Done::new(()));
// the same step as another version would write it, with another proof
step!(
    NewFormat,
    "format",
    Never,
    Vec<String>,
    Done::new(Vec::new())
);

async fn story(mut run: Run<Memory>, machine: &Machine) -> Result<(), Failure> {
    assert_eq!(run.step(&Inspect(machine)).await?, "seen");
    assert_eq!(run.step(&Format(machine)).await?, 7);
    assert_eq!(run.step(&Copy(machine)).await?, [1]);
    run.skip("files", "none were given")?;
    run.step(&Seal(machine)).await?;
    run.finish()
}

/// A journal in memory, which outlives the processes that write it.
#[derive(Debug, Clone, Default)]
struct Memory {
    bytes: Arc<Mutex<Vec<u8>>>,
    fate: Option<(usize, Fate)>,
    watched: Arc<Mutex<Option<Board>>>,
}

/// What happens at a line of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The process ends, and the line is not written.
    KilledBefore,
    /// The line is written, and the process ends.
    KilledAfter,
    /// From here on there is no room.
    Full,
    /// From here on no room is kept for later.
    Unkept,
}

impl Memory {
    fn meets(&self, line: usize, fate: Fate) -> Self {
        Self {
            fate: Some((line, fate)),
            ..self.clone()
        }
    }

    fn lines(&self) -> usize {
        self.bytes
            .lock()
            .unwrap()
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count()
    }

    fn open(&self) -> Journal<Self> {
        let header = Header::new(RunId::from_bytes([7; 16]), &PLAN, "order".to_owned(), 1);
        let bytes = self.bytes.lock().unwrap().clone();
        *self.watched.lock().unwrap() = None;
        Journal::resume(self.clone(), &bytes, header).unwrap()
    }

    fn marks(&self) -> Vec<Mark> {
        self.open().marks
    }
}

impl Store for Memory {
    fn append(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        let at = self
            .fate
            .map(|(line, fate)| (line.checked_sub(self.lines()), fate));
        match at {
            Some((Some(0), Fate::KilledBefore)) => panic!("killed"),
            Some((Some(0) | None, Fate::Full)) => return Err(no_room()),
            _ => self.bytes.lock().unwrap().extend_from_slice(bytes),
        }
        assert_ne!(at, Some((Some(0), Fate::KilledAfter)), "killed");
        let board = self.watched.lock().unwrap().clone();
        if let (Some(board), Ok(mark)) = (board, serde_json::from_slice::<Mark>(bytes)) {
            assert_eq!(
                board.state().next,
                mark.event.index,
                "told before it was journaled"
            );
        }
        Ok(())
    }

    fn reserve(&mut self) -> Result<(), JournalError> {
        match self.fate {
            Some((line, Fate::Unkept)) if self.lines() >= line => Err(no_room()),
            _ => Ok(()),
        }
    }
}

fn no_room() -> JournalError {
    JournalError::Io {
        path: PathBuf::from("memory"),
        source: io::Error::other("no space left"),
    }
}

/// How a process ends.
#[derive(Debug, PartialEq, Eq)]
enum Life {
    Killed,
    Failed(String),
    Finished,
}

/// Lets a process live. A killed one is gone with all it knew.
async fn live(memory: &Memory, machine: &Machine) -> (Life, RunState) {
    let (memory, machine) = (memory.clone(), machine.clone());
    let life = tokio::spawn(async move {
        let run = Run::begin(memory.open(), CancellationToken::new()).unwrap();
        let board = run.board();
        *memory.watched.lock().unwrap() = Some(board.clone());
        let told = story(run, &machine).await;
        let life = match told {
            Ok(()) => Life::Finished,
            Err(failure) => Life::Failed(failure.code),
        };
        (life, board.state())
    });
    life.await.unwrap_or_else(|error| {
        assert!(error.is_panic());
        (Life::Killed, RunState::default())
    })
}

/// Returns what the last process told, in short.
fn told(memory: &Memory) -> Vec<String> {
    let marks = memory.marks();
    let last = marks
        .iter()
        .rposition(|mark| mark.event.kind == Kind::Resumed)
        .unwrap_or(0);
    let short = |mark: &Mark| {
        let (kind, step) = (
            &mark.event.kind,
            mark.event.step.as_deref().unwrap_or("run"),
        );
        let words = match kind {
            Kind::RunStarted { .. } => "started",
            Kind::Resumed => "resumed",
            Kind::StepStarted { .. } => "begins",
            Kind::StepFinished {
                outcome: Outcome::Recovered,
            } => "recovered",
            Kind::StepFinished {
                outcome: Outcome::Skipped { .. },
            } => "skipped",
            Kind::StepFinished {
                outcome: Outcome::Warned { .. },
            } => "warned",
            Kind::StepFinished { .. } => "done",
            Kind::StepFailed { .. } => "failed",
            Kind::RunFailed => "failed",
            Kind::RunFinished => "finished",
            Kind::Aborted { .. } => "aborted",
            _ => "?",
        };
        format!("{step} {words}")
    };
    marks[last..].iter().map(short).collect()
}
