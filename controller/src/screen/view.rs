//! What is known about a run, as a screen needs it: the state of its phases, and the agent's steps inside them.
//!
//! Pure: time is that of the events.

use std::collections::VecDeque;

use landfall_proto::{
    event::{Event, Kind, Outcome, Unit},
    report::{RunState, Status},
};

use super::text;
use crate::exit::printable;

/// Over how many milliseconds a rate is measured.
const WINDOW_MS: u64 = 10_000;
/// Below this many milliseconds of measuring, no rate is shown.
const SHORTEST_MS: u64 = 1_000;

/// What is known about a run.
#[derive(Debug, Default)]
pub(super) struct View {
    /// The phases.
    pub(super) state: RunState,
    /// The agent's steps inside the phase that is under way or was last, in the order in which they began.
    pub(super) inner: Vec<Inner>,
    /// Milliseconds since the run began, at the newest event.
    pub(super) at_ms: u64,
    meter: Meter,
}

/// A step of the agent inside a phase.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Inner {
    pub(super) name: String,
    /// Absent where its beginning was not seen.
    pub(super) began_ms: Option<u64>,
    pub(super) ended_ms: Option<u64>,
    pub(super) status: Status,
}

/// How a thing that is over is to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Quiet,
    Careful,
    Bad,
}

/// The newest progress and words of whatever is under way.
#[derive(Debug, Default)]
struct Meter {
    step: String,
    latest: Option<String>,
    unit: Option<Unit>,
    total: Option<u64>,
    samples: VecDeque<(u64, u64)>,
}

impl View {
    /// Takes an event in.
    pub(super) fn take(&mut self, event: &Event) {
        self.at_ms = self.at_ms.max(event.at_ms);
        let path = event.step.as_deref().unwrap_or_default();
        match path.split_once('/') {
            Some((_, inner)) => self.take_inner(inner, event),
            None => {
                // an event that does not follow shows a gap nobody can fill here; later ones are as good
                let _ = self.state.apply(event);
                if matches!(event.kind, Kind::StepStarted { .. }) {
                    // what the agent has begun goes on in the next phase, but for what kexec ended
                    self.inner
                        .retain(|inner| inner.status == Status::Running && inner.name != "kexec");
                }
            }
        }
        self.meter.take(path, event);
    }

    /// Returns the number of a phase, from 1, and how many there are.
    pub(super) fn number(&self, phase: &str) -> (usize, usize) {
        let steps = &self.state.steps;
        let at = steps
            .iter()
            .position(|step| step.name == phase)
            .map_or(0, |at| at + 1);
        (at, steps.len())
    }

    /// Returns how long a phase took.
    pub(super) fn took_ms(&self, phase: &str) -> Option<u64> {
        let step = self.state.step(phase)?;
        Some(step.ended_ms?.saturating_sub(step.started_ms?))
    }

    /// Returns the newest words of what is under way: what it waits for, or a line of output.
    pub(super) fn latest(&self) -> Option<&str> {
        self.meter.latest.as_deref()
    }

    /// Returns the path of the step that spoke last.
    pub(super) fn speaker(&self) -> &str {
        &self.meter.step
    }

    /// Returns how far what is under way is: with a bar for a terminal, in words for a log.
    pub(super) fn progress(&self, now_ms: u64, with_bar: bool) -> Option<String> {
        self.meter.shown(now_ms, with_bar)
    }

    /// Returns the time of each phase and of all, a row each.
    pub(super) fn times(&self) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        for step in &self.state.steps {
            let time = match (&step.status, self.took_ms(&step.name)) {
                (Status::Waiting, _) => continue,
                (Status::Finished(Outcome::Skipped { .. }), _) => "skipped".to_owned(),
                (Status::Finished(Outcome::Recovered), _) => "done before".to_owned(),
                (Status::Failed(_), Some(ms)) => format!("{}, failed", text::span_ms(ms)),
                (_, Some(ms)) => text::span_ms(ms),
                (_, None) => "unfinished".to_owned(),
            };
            rows.push(vec![step.name.clone(), time]);
        }
        rows.push(vec!["all".to_owned(), text::span_ms(self.at_ms)]);
        rows
    }

    fn take_inner(&mut self, name: &str, event: &Event) {
        let status = match &event.kind {
            Kind::StepStarted { .. } => Status::Running,
            Kind::StepFinished { outcome } => Status::Finished(outcome.clone()),
            Kind::StepFailed { failure } => Status::Failed(failure.clone()),
            _ => return,
        };
        let at = self.inner.iter().position(|inner| inner.name == name);
        let began = status == Status::Running;
        let ended_ms = (!began).then_some(event.at_ms);
        match at {
            Some(at) => {
                let inner = &mut self.inner[at];
                if began {
                    inner.began_ms = Some(event.at_ms);
                }
                (inner.ended_ms, inner.status) = (ended_ms, status);
            }
            None => {
                let name = printable(name);
                self.inner.push(Inner {
                    name,
                    began_ms: began.then_some(event.at_ms),
                    ended_ms,
                    status,
                });
            }
        }
    }
}

impl Inner {
    /// Returns how long it took.
    pub(super) fn took_ms(&self) -> Option<u64> {
        Some(self.ended_ms?.saturating_sub(self.began_ms?))
    }
}

impl Meter {
    fn take(&mut self, path: &str, event: &Event) {
        let quiet = matches!(
            event.kind,
            Kind::RunStarted { .. } | Kind::Resumed | Kind::Unknown
        );
        if path != self.step && !quiet {
            *self = Self {
                step: path.to_owned(),
                ..Self::default()
            };
        }
        match &event.kind {
            Kind::Progress { done, total, unit } => self.sample(event.at_ms, *done, *total, *unit),
            Kind::Line { text } => self.latest = Some(one_line(text)),
            Kind::Waiting { what } => self.latest = Some(format!("waiting for {}", one_line(what))),
            Kind::Retry { attempt, cause } => {
                self.latest = Some(format!("try {attempt} follows: {}", one_line(cause)));
            }
            Kind::StepStarted { .. } | Kind::StepFinished { .. } | Kind::StepFailed { .. } => {
                *self = Self {
                    step: path.to_owned(),
                    ..Self::default()
                };
            }
            _ => {}
        }
    }

    fn sample(&mut self, at_ms: u64, done: u64, total: Option<u64>, unit: Unit) {
        let back = self.samples.back().is_some_and(|&(_, last)| last > done);
        if back || self.unit != Some(unit) {
            self.samples.clear();
        }
        (self.unit, self.total) = (Some(unit), total);
        self.samples.push_back((at_ms, done));
        while self
            .samples
            .get(1)
            .is_some_and(|&(at, _)| at + WINDOW_MS <= at_ms)
        {
            self.samples.pop_front();
        }
    }

    /// Units a second, measured up to now: a stream that stands still slows down.
    fn rate(&self, now_ms: u64) -> Option<u64> {
        let (&(first_at, first), &(last_at, last)) = (self.samples.front()?, self.samples.back()?);
        let ms = now_ms.max(last_at).saturating_sub(first_at);
        let per_second = u128::from(last - first) * 1000 / u128::from(ms.max(1));
        (ms >= SHORTEST_MS && self.samples.len() > 1)
            .then(|| u64::try_from(per_second).unwrap_or(u64::MAX))
    }

    fn shown(&self, now_ms: u64, with_bar: bool) -> Option<String> {
        let &(_, done) = self.samples.back()?;
        let unit = self.unit?;
        let amount = |number: u64| match unit {
            Unit::Bytes => text::size(number),
            Unit::Paths => format!("{number} paths"),
            Unit::Items => number.to_string(),
        };
        let mut shown = match self.total {
            Some(total) => {
                let of = match unit {
                    Unit::Bytes => format!("{} of {}", text::size(done), text::size(total)),
                    _ => format!("{done} of {}", amount(total)),
                };
                let hundredths = (u128::from(done) * 100).checked_div(u128::from(total));
                match hundredths {
                    Some(_) if with_bar => format!("{} {of}", text::bar(done, total)),
                    Some(hundredths) => format!("{of} ({} %)", hundredths.min(100)),
                    None => of,
                }
            }
            None => amount(done),
        };
        if let (Unit::Bytes, Some(rate)) = (unit, self.rate(now_ms)) {
            shown += &format!(", {}/s", text::size(rate));
            let left = self
                .total
                .and_then(|total| total.saturating_sub(done).checked_div(rate));
            if let Some(left) = left.filter(|&left| left > 0) {
                shown += &format!(", {} left", text::span_ms(left.saturating_mul(1000)));
            }
        }
        Some(shown)
    }
}

/// Returns in words how a step ended; none for one that has not.
pub(super) fn ending(status: &Status, took_ms: Option<u64>) -> Option<(Tone, String)> {
    let took = |word: &str| match took_ms {
        Some(ms) => format!("{word} {}", text::span_ms(ms)),
        None => word.split(' ').next().unwrap_or_default().to_owned(),
    };
    Some(match status {
        Status::Waiting | Status::Running => return None,
        Status::Finished(Outcome::Done | Outcome::Unknown) => (Tone::Good, took("done in")),
        Status::Finished(Outcome::Warned { message }) => (
            Tone::Careful,
            format!("{}; warning: {}", took("done in"), printable(message)),
        ),
        Status::Finished(Outcome::Recovered) => (Tone::Quiet, "done before".to_owned()),
        Status::Finished(Outcome::Skipped { reason }) => {
            (Tone::Quiet, format!("skipped: {}", printable(reason)))
        }
        Status::Failed(failure) => (
            Tone::Bad,
            format!("{}: {}", took("failed after"), printable(&failure.what)),
        ),
    })
}

/// Cuts text to its first line, without what could steer a terminal.
fn one_line(text: &str) -> String {
    printable(text.lines().next().unwrap_or_default())
        .replace('\t', " ")
        .trim()
        .to_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn event(index: u64, at_ms: u64, step: &str, kind: Kind) -> Event {
        let step = (!step.is_empty()).then(|| step.to_owned());
        Event {
            index,
            light: None,
            at_ms,
            step,
            kind,
        }
    }

    fn progress(done: u64) -> Kind {
        Kind::Progress {
            done,
            total: Some(200_000_000),
            unit: Unit::Bytes,
        }
    }

    #[test]
    fn rate_and_rest_follow_the_last_ten_seconds() {
        let mut view = View::default();
        view.take(&event(0, 0, "install/copy", progress(0)));
        assert_eq!(view.progress(0, false).unwrap(), "0 B of 200 MB (0 %)");
        for second in 1..=20 {
            view.take(&event(
                0,
                second * 1000,
                "install/copy",
                progress(second * 2_000_000),
            ));
        }
        assert_eq!(
            view.progress(20_000, true).unwrap(),
            "[####----------------] 40.0 MB of 200 MB, 2.00 MB/s, 1 min 20 s left"
        );
        assert_eq!(
            view.progress(40_000, false).unwrap(),
            "40.0 MB of 200 MB (20 %), 667 kB/s, 4 min 0 s left"
        );
    }

    #[test]
    fn progress_that_goes_back_is_measured_afresh() {
        let mut view = View::default();
        view.take(&event(0, 0, "kexec", progress(90)));
        view.take(&event(0, 5000, "kexec", progress(10)));
        assert_eq!(view.progress(5000, false).unwrap(), "10 B of 200 MB (0 %)");
    }

    #[test]
    fn steps_of_the_agent_are_kept_with_their_phase() {
        let mut view = View::default();
        view.take(&event(
            0,
            0,
            "",
            Kind::RunStarted {
                steps: vec!["disko".into(), "install".into()],
            },
        ));
        view.take(&event(1, 0, "disko", Kind::StepStarted { attempt: 1 }));
        view.take(&event(
            1,
            5,
            "disko/format",
            Kind::StepStarted { attempt: 1 },
        ));
        view.take(&event(
            2,
            1005,
            "disko/format",
            Kind::StepFinished {
                outcome: Outcome::Done,
            },
        ));
        view.take(&event(
            1,
            1010,
            "disko/format",
            Kind::Line {
                text: "\x1b[2Jx\ny".into(),
            },
        ));
        assert_eq!(view.inner[0].took_ms(), Some(1000));
        assert_eq!(view.latest(), Some("\u{fffd}[2Jx"));
        assert_eq!(view.number("install"), (2, 2));
        view.take(&event(
            2,
            2000,
            "disko",
            Kind::StepFinished {
                outcome: Outcome::Done,
            },
        ));
        view.take(&event(
            3,
            2000,
            "disko/copy",
            Kind::StepStarted { attempt: 1 },
        ));
        view.take(&event(3, 2000, "install", Kind::StepStarted { attempt: 1 }));
        assert_eq!(view.inner.len(), 1, "what has begun goes on");
        assert_eq!(view.inner[0].name, "copy");
        assert_eq!(view.took_ms("disko"), Some(2000));
    }
}
