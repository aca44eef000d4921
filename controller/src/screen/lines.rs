//! Plain lines with the time since the run began, for logs and pipes: each says one thing and stays true.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use landfall_proto::event::{Event, Kind};

use super::{
    text,
    view::{View, ending},
};
use crate::exit::printable;

/// Progress is told this often: a log is read later.
const PROGRESS_MS: u64 = 10_000;
/// After this long without a line, one says that the run is alive: some services end jobs that are silent.
const SILENCE: Duration = Duration::from_secs(60);

/// Plain lines.
pub(super) struct Lines {
    out: Box<dyn Write + Send>,
    verbosity: u8,
    last_line: Instant,
    last_progress: Option<(String, u64)>,
    last_waiting: String,
}

impl Lines {
    pub(super) fn new(out: Box<dyn Write + Send>, verbosity: u8) -> Self {
        Self {
            out,
            verbosity,
            last_line: Instant::now(),
            last_progress: None,
            last_waiting: String::new(),
        }
    }

    /// Shows an event that the view has taken in already.
    pub(super) fn event(&mut self, view: &View, event: &Event) {
        let path = event.step.as_deref().unwrap_or_default();
        let (phase, inner) = path
            .split_once('/')
            .map_or((path, None), |(phase, inner)| (phase, Some(inner)));
        let status = match inner {
            None => view
                .state
                .step(phase)
                .map(|step| (&step.status, view.took_ms(phase))),
            Some(inner) => {
                let inner = view.inner.iter().find(|known| known.name == inner);
                inner.map(|inner| (&inner.status, inner.took_ms()))
            }
        };
        match &event.kind {
            Kind::RunStarted { steps } if inner.is_none() => {
                self.at(
                    event.at_ms,
                    &format!("phases: {}", printable(&steps.join(", "))),
                );
            }
            Kind::Resumed if inner.is_none() => self.at(event.at_ms, "the run is taken up again"),
            Kind::StepStarted { attempt } => {
                let again = if *attempt > 1 {
                    format!(", attempt {attempt}")
                } else {
                    String::new()
                };
                self.step(view, event, &format!("begins{again}"));
            }
            Kind::StepFinished { .. } | Kind::StepFailed { .. } => {
                if let Some((_, words)) = status.and_then(|(status, took)| ending(status, took)) {
                    self.step(view, event, &words);
                }
            }
            Kind::Progress { .. } => self.progress(view, event),
            Kind::Retry { .. } => self.latest(view, event),
            Kind::Waiting { .. } => {
                let latest = view.latest().unwrap_or_default();
                if latest != self.last_waiting {
                    latest.clone_into(&mut self.last_waiting);
                    self.latest(view, event);
                }
            }
            Kind::Line { .. } if self.verbosity > 0 => self.latest(view, event),
            Kind::Aborted { by } if inner.is_none() => {
                self.at(event.at_ms, &format!("stopped by {}", printable(by)));
            }
            _ => {}
        }
    }

    /// Says that the run is alive, when nothing was said for long.
    pub(super) fn tick(&mut self, view: &View, now_ms: u64) {
        let path = view.speaker();
        if self.last_line.elapsed() < SILENCE || path.is_empty() || view.state.end.is_some() {
            return;
        }
        let words = view
            .progress(now_ms, false)
            .or_else(|| view.latest().map(str::to_owned));
        let line = format!(
            "{}: {}",
            name(view, path),
            words.unwrap_or_else(|| "under way".to_owned())
        );
        self.at(now_ms, &line);
    }

    /// Writes a line with its time.
    pub(super) fn at(&mut self, at_ms: u64, text: &str) {
        self.plain(&format!("[{}] {text}", text::clock(at_ms)));
    }

    /// Writes lines as they are.
    pub(super) fn plain(&mut self, text: &str) {
        self.last_line = Instant::now();
        // nobody reads: the run goes on
        let _ = writeln!(self.out, "{text}").and_then(|()| self.out.flush());
    }

    /// Writes text that is laid out already.
    pub(super) fn write(&mut self, text: &[u8]) -> io::Result<()> {
        self.out.write_all(text)?;
        self.out.flush()
    }

    fn step(&mut self, view: &View, event: &Event, words: &str) {
        let path = event.step.as_deref().unwrap_or_default();
        self.at(event.at_ms, &format!("{}: {words}", name(view, path)));
    }

    fn latest(&mut self, view: &View, event: &Event) {
        if let Some(latest) = view.latest() {
            self.step(view, event, latest);
        }
    }

    fn progress(&mut self, view: &View, event: &Event) {
        let path = event.step.as_deref().unwrap_or_default();
        let first = self
            .last_progress
            .as_ref()
            .is_none_or(|(last, _)| last != path);
        let due = self
            .last_progress
            .as_ref()
            .is_none_or(|&(_, at)| event.at_ms >= at + PROGRESS_MS);
        if first {
            // nothing is known of its rate yet
            self.last_progress = Some((path.to_owned(), event.at_ms));
        } else if due {
            self.last_progress = Some((path.to_owned(), event.at_ms));
            if let Some(words) = view.progress(event.at_ms, false) {
                self.step(view, event, &words);
            }
        }
    }
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines")
            .field("verbosity", &self.verbosity)
            .finish_non_exhaustive()
    }
}

/// Returns `5/8 disko/format` for `disko/format`.
fn name(view: &View, path: &str) -> String {
    let phase = path.split('/').next().unwrap_or_default();
    let path = printable(path);
    match view.number(phase) {
        (0, _) => path,
        (number, count) => format!("{number}/{count} {path}"),
    }
}
