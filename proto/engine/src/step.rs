//! One thing that is done to a machine, and what may be done about it after a crash.

use std::{future::Future, time::Duration};

use landfall_proto::{
    event::{Event, Kind, Outcome, Unit},
    failure::Failure,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio_util::sync::CancellationToken;

use crate::board::Board;

/// What may be done when a crash hit in the middle of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Doing it again leads to the same end.
    Safe,
    /// Half of it is worse than none of it. A person has to look. Such a step is tried once.
    Never,
}

/// How often a step is tried before its failure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Number of tries, at least 1.
    pub tries: u32,
    /// Pause between two tries.
    pub pause: Duration,
}

impl Retry {
    /// One try.
    pub const NEVER: Self = Self {
        tries: 1,
        pause: Duration::ZERO,
    };
}

/// What a step that ended well hands back.
#[derive(Debug)]
pub struct Done<P> {
    /// What it hands to the steps after it.
    pub proof: P,
    /// How it ended.
    pub outcome: Outcome,
}

impl<P> Done<P> {
    /// The work was done.
    pub fn new(proof: P) -> Self {
        Self {
            proof,
            outcome: Outcome::Done,
        }
    }

    /// The work was done, and something should be known about it.
    pub fn warned(proof: P, message: impl Into<String>) -> Self {
        Self {
            proof,
            outcome: Outcome::Warned {
                message: message.into(),
            },
        }
    }

    /// There was nothing to do.
    pub fn skipped(proof: P, reason: impl Into<String>) -> Self {
        Self {
            proof,
            outcome: Outcome::Skipped {
                reason: reason.into(),
            },
        }
    }
}

/// One thing that is done to a machine.
pub trait Step {
    /// Its name in the plan.
    const NAME: &'static str;
    /// What may be done when a crash hit in the middle of it.
    const REPEAT: Repeat;
    /// How often it is tried.
    const RETRY: Retry = Retry::NEVER;
    /// What it hands to the steps after it. Journaled, so never a secret.
    type Proof: Serialize + DeserializeOwned + Clone + Send;

    /// Whether it may begin, as far as can be told without changing anything.
    ///
    /// Asked once, before the journal says that the step has begun. A refusal ends the run like any failure, but the
    /// step counts as not begun: a later process may do it, even one that must not be repeated.
    fn admit(&self) -> impl Future<Output = Result<(), Failure>> + Send {
        std::future::ready(Ok(()))
    }

    /// Returns what it would have handed on, where an earlier process was cut off and the machine tells that the work
    /// had ended well all the same.
    ///
    /// Asked only of a step that must not be repeated: between the end of its work and the line of the journal a process
    /// may be killed.
    fn ended(&self) -> impl Future<Output = Option<Self::Proof>> + Send {
        std::future::ready(None)
    }

    /// Does it.
    fn run(&self, cx: &Context) -> impl Future<Output = Result<Done<Self::Proof>, Failure>> + Send;

    /// Whether a proof from an earlier process still describes the machine.
    fn still_true(&self, proof: &Self::Proof) -> impl Future<Output = bool> + Send;
}

/// What a running step may use of its run: telling, and hearing that it shall stop.
#[derive(Debug, Clone)]
pub struct Context {
    step: String,
    board: Board,
    cancel: CancellationToken,
}

impl Context {
    pub(crate) fn new(step: &str, board: Board, cancel: CancellationToken) -> Self {
        Self {
            step: step.to_owned(),
            board,
            cancel,
        }
    }

    /// Tells how far the step is.
    pub fn progress(&self, done: u64, total: Option<u64>, unit: Unit) {
        self.tell(Kind::Progress { done, total, unit });
    }

    /// Tells what the step waits for, and what it sees meanwhile.
    pub fn waiting(&self, what: impl Into<String>) {
        self.tell(Kind::Waiting { what: what.into() });
    }

    /// Tells a line of output of a program.
    pub fn line(&self, text: impl Into<String>) {
        self.tell(Kind::Line {
            text: printable(&text.into()),
        });
    }

    /// Completes when somebody asked the run to stop.
    pub async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    /// Returns the token that is cancelled when somebody asks the run to stop.
    pub fn cancel_token(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// Shows an event of another run inside this step.
    ///
    /// Light for this run's own bookkeeping whatever it was there: that run has a journal of its own.
    pub fn nested(&self, event: &Event) {
        self.board.nested(&self.step, event);
    }

    fn tell(&self, kind: Kind) {
        self.board.tell_light(Some(&self.step), kind);
    }
}

/// Removes control characters, which could steer the terminal of whoever reads.
fn printable(text: &str) -> String {
    text.trim_end()
        .chars()
        .map(|c| {
            if c.is_control() && c != '\t' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}
