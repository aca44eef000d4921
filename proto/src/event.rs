//! One fact about a run, as journaled, sent, folded and shown.
//!
//! An event is heavy (a transition: it must arrive, it is journaled before it is told) or light (progress, output: a
//! newer one replaces it). Events never carry a secret.

use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// One fact about a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// For a heavy event its own dense number, from 0; for a light one the number of heavy events before it.
    pub index: u64,
    /// Number of a light event within the process that told it; absent from heavy ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub light: Option<u64>,
    /// Milliseconds since the run began (not wall clock: targets' clocks are wrong).
    pub at_ms: u64,
    /// The step this is about; `/` separates a step of the controller from one of the agent inside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// What happened.
    #[serde(flatten)]
    pub kind: Kind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Kind {
    /// The run exists and will do these steps, in this order.
    RunStarted {
        /// Names of the steps.
        steps: Vec<String>,
    },
    /// A step begins.
    StepStarted {
        /// 1 for the first try in this process or an earlier one.
        attempt: u32,
    },
    /// A step got further. Light.
    Progress {
        /// How much is done, in `unit`.
        done: u64,
        /// How much there is in all, when known.
        total: Option<u64>,
        /// What is counted.
        unit: Unit,
    },
    /// The step waits for something outside it. Light.
    Waiting {
        /// What for, and what is seen meanwhile.
        what: String,
    },
    /// A try failed and another one follows. Light.
    Retry {
        /// Number of the try that follows.
        attempt: u32,
        /// Why the last one failed.
        cause: String,
    },
    /// A line of output of a program. Light.
    Line {
        /// The line, without its end, control characters removed.
        text: String,
    },
    /// A step is over, and its proof is journaled.
    StepFinished {
        /// How it ended.
        outcome: Outcome,
    },
    /// A step failed; the run ends with it.
    ///
    /// One that follows no `StepStarted` was refused before it began: it has done nothing.
    StepFailed {
        /// Why.
        failure: Failure,
    },
    /// The run was stopped on request. Terminal.
    Aborted {
        /// Who asked.
        by: String,
    },
    /// All steps are over. Terminal.
    RunFinished,
    /// The run ended with a failed step. Terminal, but the same run may be taken up again by a new process.
    RunFailed,
    /// The run was taken up again by a new process after a failure or a crash.
    Resumed,
    /// A kind that this version does not know. Ignored.
    #[serde(other)]
    Unknown,
}

/// How a step ended well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum Outcome {
    /// The work was done.
    Done,
    /// The work was done, and something should be known about it.
    Warned {
        /// What, and why going on is right.
        message: String,
    },
    /// An earlier process did the work, and the machine still shows it.
    Recovered,
    /// There was nothing to do.
    Skipped {
        /// Why not.
        reason: String,
    },
    /// A word that this version does not know; counts as done.
    #[serde(other)]
    Unknown,
}

/// What a progress figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Store paths.
    Paths,
    /// Anything else.
    #[serde(other)]
    Items,
}

impl Event {
    /// Whether this event has an index of its own, also where its kind is one that this version does not know.
    pub fn is_heavy(&self) -> bool {
        self.kind.is_heavy() || (self.kind == Kind::Unknown && self.light.is_none())
    }
}

impl Kind {
    /// Whether this kind must arrive and is journaled before it is told.
    pub fn is_heavy(&self) -> bool {
        !matches!(
            self,
            Self::Progress { .. }
                | Self::Waiting { .. }
                | Self::Retry { .. }
                | Self::Line { .. }
                | Self::Unknown
        )
    }

    /// Whether nothing follows in this process.
    pub fn is_terminal(&self) -> bool {
        matches!(
            self,
            Self::Aborted { .. } | Self::RunFinished | Self::RunFailed
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_kinds_are_read_as_unknown() {
        let event: Event =
            serde_json::from_str(r#"{"index":3,"at_ms":5,"kind":"teleported","where":"mars"}"#)
                .unwrap();
        assert_eq!(event.kind, Kind::Unknown);
        assert_eq!(event.index, 3);
    }

    #[test]
    fn events_survive_the_round_trip() {
        let event = Event {
            index: 1,
            light: None,
            at_ms: 9,
            step: Some("install/copy".into()),
            kind: Kind::StepFinished {
                outcome: Outcome::Warned {
                    message: "m".into(),
                },
            },
        };
        let text = serde_json::to_string(&event).unwrap();
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
    }
}
