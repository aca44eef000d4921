//! The one fold from events to the state of a run, and the memory that answers "what came after?".
//!
//! Early readers, late readers and readers that lost the link run the same code. Never shows anything to a person.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    event::{Event, Kind, Outcome, Unit},
    failure::Failure,
};

/// Output lines of one step that are kept for late readers.
const LINES_KEPT: usize = 100;

/// Where a step stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Not begun.
    Waiting,
    /// Under way, or cut off by a crash.
    Running,
    /// Over, and well.
    Finished(Outcome),
    /// Over, and not well.
    Failed(Failure),
}

/// One step as a reader sees it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepState {
    /// Its name in the plan.
    pub name: String,
    /// Where it stands.
    pub status: Status,
    /// How often it was begun.
    pub attempt: u32,
    /// Milliseconds since the run began, when it was begun last.
    pub started_ms: Option<u64>,
    /// The same, when it ended.
    pub ended_ms: Option<u64>,
    /// The newest progress: done, total, unit.
    #[serde(skip)]
    pub progress: Option<(u64, Option<u64>, Unit)>,
    /// The newest output line or what it waits for.
    #[serde(skip)]
    pub latest: Option<String>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// All steps are over.
    Finished,
    /// A step failed.
    Failed,
    /// Somebody stopped it.
    Aborted(String),
}

/// A run as a reader sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RunState {
    /// Its steps, in the order of the plan.
    pub steps: Vec<StepState>,
    /// How it ended, if it did.
    pub end: Option<End>,
    /// Number of heavy events seen: the index of the next one.
    pub next: u64,
}

/// An event that cannot follow those before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event {index} does not follow: {why}")]
pub struct Illegal {
    /// Index of the event.
    pub index: u64,
    /// What is wrong with it.
    pub why: String,
}

impl RunState {
    /// Takes an event in.
    ///
    /// Heavy events already seen change nothing, and of unknown kinds only the index counts. A heavy event from further
    /// ahead, or one that is no legal transition, is refused and changes nothing.
    pub fn apply(&mut self, event: &Event) -> Result<(), Illegal> {
        if !event.is_heavy() {
            self.apply_light(event);
            return Ok(());
        }
        if event.index < self.next {
            return Ok(());
        }
        let illegal = |why: &str| Illegal {
            index: event.index,
            why: why.to_owned(),
        };
        if event.index > self.next {
            return Err(illegal(&format!("expected event {}", self.next)));
        }
        self.apply_heavy(event).map_err(illegal)?;
        self.next += 1;
        Ok(())
    }

    /// Whether this step is under way.
    pub fn is_running(&self, name: &str) -> bool {
        let step = self.step(name);
        step.is_some_and(|step| matches!(step.status, Status::Running))
    }

    /// Returns the step of this name.
    pub fn step(&self, name: &str) -> Option<&StepState> {
        self.steps.iter().find(|step| step.name == name)
    }

    /// Whether a step was begun, by whichever process.
    pub fn has_begun(&self, name: &str) -> bool {
        self.step(name).is_some_and(|step| step.attempt > 0)
    }

    /// Whether a step is over, and well.
    pub fn has_finished(&self, name: &str) -> bool {
        self.step(name).is_some_and(StepState::is_finished)
    }

    /// Returns the step that is under way.
    pub fn running(&self) -> Option<&StepState> {
        self.steps
            .iter()
            .find(|step| step.status == Status::Running)
    }

    /// Returns the failure that ended the run.
    pub fn failure(&self) -> Option<&Failure> {
        self.steps.iter().find_map(|step| match &step.status {
            Status::Failed(failure) => Some(failure),
            _ => None,
        })
    }

    fn apply_heavy(&mut self, event: &Event) -> Result<(), &'static str> {
        if event.kind == Kind::Unknown {
            return Ok(());
        }
        if let Kind::RunStarted { steps } = &event.kind {
            if self.next > 0 {
                return Err("the run has already started");
            }
            self.steps = steps.iter().map(|name| StepState::new(name)).collect();
            return Ok(());
        }
        if self.next == 0 {
            return Err("the run has not started");
        }
        if event.kind == Kind::Resumed {
            self.end = None;
            // what ended the attempt before does not end this one
            for step in &mut self.steps {
                if matches!(step.status, Status::Failed(_)) {
                    step.status = Status::Waiting;
                }
            }
            return Ok(());
        }
        if self.end.is_some() {
            return Err("the run has ended");
        }
        match &event.kind {
            Kind::Aborted { by } => self.end = Some(End::Aborted(by.clone())),
            Kind::RunFinished => self.end = Some(End::Finished),
            Kind::RunFailed => self.end = Some(End::Failed),
            kind => {
                let name = event.step.as_deref().ok_or("it names no step")?;
                let step = self.steps.iter_mut().find(|step| step.name == name);
                step.ok_or("the plan has no such step")?
                    .apply(kind, event.at_ms)?;
            }
        }
        Ok(())
    }

    fn apply_light(&mut self, event: &Event) {
        // heavy events that were told after it are here already: it is old
        if event.index < self.next {
            return;
        }
        let Some(name) = event.step.as_deref() else {
            return;
        };
        let Some(step) = self.steps.iter_mut().find(|step| step.name == name) else {
            return;
        };
        match &event.kind {
            Kind::Progress { done, total, unit } => step.progress = Some((*done, *total, *unit)),
            Kind::Waiting { what: text } | Kind::Line { text } => {
                step.latest = Some(text.clone());
            }
            Kind::Retry { cause, .. } => step.latest = Some(cause.clone()),
            _ => {}
        }
    }
}

impl StepState {
    /// Whether it is over, and well.
    pub fn is_finished(&self) -> bool {
        matches!(self.status, Status::Finished(_))
    }

    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            status: Status::Waiting,
            attempt: 0,
            started_ms: None,
            ended_ms: None,
            progress: None,
            latest: None,
        }
    }

    fn apply(&mut self, kind: &Kind, at_ms: u64) -> Result<(), &'static str> {
        match kind {
            Kind::StepStarted { attempt } => {
                if self.is_finished() && *attempt <= self.attempt {
                    return Err("the step is over");
                }
                self.status = Status::Running;
                self.attempt = *attempt;
                self.started_ms = Some(at_ms);
                self.ended_ms = None;
                self.progress = None;
            }
            Kind::StepFinished { outcome } => {
                let without_start = matches!(outcome, Outcome::Recovered | Outcome::Skipped { .. });
                if self.status != Status::Running && !without_start {
                    return Err("the step is not under way");
                }
                self.status = Status::Finished(outcome.clone());
                self.ended_ms = Some(at_ms);
            }
            Kind::StepFailed { failure } => {
                if self.status != Status::Running {
                    // refused before it began
                    self.started_ms = None;
                    self.progress = None;
                }
                self.status = Status::Failed(failure.clone());
                self.ended_ms = Some(at_ms);
            }
            _ => {}
        }
        Ok(())
    }
}

/// The events of a run, kept so that any reader can catch up.
///
/// Keeps all heavy events, and of each step the newest progress, the newest word on what it waits for or tries again,
/// and its last lines, so that its size does not grow with the length of the run.
#[derive(Debug, Default)]
pub struct History {
    heavy: Vec<Event>,
    light: BTreeMap<(String, Light), Vec<Event>>,
    next_light: u64,
}

/// What a light event replaces: the older ones of its sort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Light {
    Progress,
    Word,
    Line,
}

impl Light {
    fn of(kind: &Kind) -> Self {
        match kind {
            Kind::Progress { .. } => Self::Progress,
            Kind::Line { .. } => Self::Line,
            _ => Self::Word,
        }
    }

    fn kept(self) -> usize {
        match self {
            Self::Progress | Self::Word => 1,
            Self::Line => LINES_KEPT,
        }
    }
}

impl History {
    /// Keeps an event and gives light ones their number.
    pub fn keep(&mut self, mut event: Event) -> Event {
        if event.is_heavy() {
            self.heavy.push(event.clone());
            return event;
        }
        event.light = Some(self.next_light);
        self.next_light += 1;
        let sort = Light::of(&event.kind);
        let slot = self
            .light
            .entry((event.step.clone().unwrap_or_default(), sort))
            .or_default();
        if slot.len() >= sort.kept() {
            slot.remove(0);
        }
        slot.push(event.clone());
        event
    }

    /// Returns what a reader lacks that has seen heavy events below `next` and light ones below `light`.
    pub fn report_since(&self, next: u64, light: u64) -> Vec<Event> {
        let from = usize::try_from(next)
            .unwrap_or(usize::MAX)
            .min(self.heavy.len());
        let mut events: Vec<Event> = self.heavy[from..].to_vec();
        let newer = self
            .light
            .values()
            .flatten()
            .filter(|event| event.light >= Some(light));
        events.extend(newer.cloned());
        // a light event comes after the heavy ones that were told before it
        events.sort_by_key(|event| (event.index, event.light.is_none(), event.light));
        events
    }

    /// Returns the index of the next heavy and the number of the next light event.
    pub fn cursor(&self) -> (u64, u64) {
        (self.heavy.len() as u64, self.next_light)
    }
}
