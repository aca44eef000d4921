//! What a person or a program sees of a run: a picture on a terminal, lines in a log, JSON for programs.
//!
//! Knows events, and but for `show.rs` never the engine; decides nothing about the run. A screen that is gone stops
//! nothing.
//! Start at [`Screen`]; `view.rs` is what all screens know, `replay.rs` runs them from a recording.

mod ask;
mod disks;
mod json;
mod lines;
mod link;
mod live;
pub mod replay;
mod show;
pub(crate) mod text;
mod view;

use std::{
    io::{self, IsTerminal, Write},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use indicatif::ProgressDrawTarget;
use landfall_proto::{
    event::{Event, Kind},
    facts::{Disk, Facts},
    order::DiskoMode,
};

pub use self::{
    ask::{Asking, Pause},
    disks::{disks_table, machine_line},
    show::show,
};
use self::{
    json::{Aside, Json},
    lines::Lines,
    link::Link,
    live::Live,
    text::Paint,
    view::View,
};
use crate::{
    exit::{self, Ended, MachineState, Trail, printable},
    remote::link::LinkView,
    request::Output,
};

/// How a run is shown.
#[derive(Debug)]
pub enum Style {
    /// Plain lines with times to stderr.
    Lines {
        /// 1 shows the output of programs too.
        verbosity: u8,
    },
    /// A picture on the terminal that is stderr.
    Live {
        /// 1 shows the output of programs too.
        verbosity: u8,
        /// Whether text may be colored.
        color: bool,
    },
    /// JSON Lines to stdout.
    Json,
}

/// A screen, shared by whoever has something to show. Clones are the same screen.
#[derive(Debug, Clone)]
pub struct Screen {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    kind: Shown,
    host: String,
    color: bool,
    view: View,
    trail: Trail,
    link: Link,
    record: Option<Json>,
    /// When the newest event came; its time is that of the view.
    newest: Instant,
    /// What came while somebody else had the terminal; none while nobody has.
    held: Option<Vec<Told>>,
}

#[derive(Debug)]
enum Shown {
    Lines(Lines),
    Live(Live),
    Json(Json),
}

#[derive(Debug, Clone)]
enum Told {
    Event(Event),
    Link(LinkView),
    Note(String),
    Warning(String),
    Disks(Vec<Disk>, Vec<String>),
}

impl Style {
    /// Chooses: JSON where it is asked for, else a picture where stderr is a terminal, else lines.
    ///
    /// `NO_COLOR` and `TERM=dumb` are respected.
    pub fn choose(output: Output) -> Self {
        let Output { json, verbosity } = output;
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        match (json, io::stderr().is_terminal() && !is_dumb) {
            (true, _) => Self::Json,
            (false, true) => Self::Live {
                verbosity,
                color: colors(),
            },
            (false, false) => Self::Lines { verbosity },
        }
    }
}

/// Whether text on stderr may be colored.
pub fn colors() -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    io::stderr().is_terminal() && !is_dumb && !is_set("NO_COLOR")
}

impl Screen {
    /// Makes a screen for a run against a host.
    pub fn new(style: Style, host: &str) -> Self {
        let kind = match style {
            Style::Lines { verbosity } => {
                Shown::Lines(Lines::new(Box::new(io::stderr()), verbosity))
            }
            Style::Live { verbosity, color } => Shown::Live(Live::new(
                ProgressDrawTarget::stderr(),
                Paint(color),
                verbosity,
            )),
            Style::Json => Shown::Json(Json::new(Box::new(io::stdout()), host)),
        };
        Self::with(kind, host, colors())
    }

    /// Records everything from now on, for `landfall replay`, whatever the screen shows.
    pub fn record_to(&self, out: Box<dyn Write + Send>) {
        let mut shared = self.lock();
        let json = Json::new(out, &shared.host);
        shared.record = Some(json);
    }

    fn with(kind: Shown, host: &str, color: bool) -> Self {
        let shared = Shared {
            kind,
            host: host.to_owned(),
            color,
            view: View::default(),
            trail: Trail::default(),
            link: Link::new(Instant::now()),
            record: None,
            newest: Instant::now(),
            held: None,
        };
        Self {
            shared: Arc::new(Mutex::new(shared)),
        }
    }

    /// Shows an event of the run, or of the agent's run inside a phase (`disko/format`).
    pub fn event(&self, event: &Event) {
        let mut shared = self.lock();
        shared.trail.take(event);
        shared.tell(Told::Event(event.clone()));
    }

    /// Takes in what earlier processes did to the machine, and shows nothing of it.
    pub(crate) fn remember(&self, events: &[Event]) {
        let mut shared = self.lock();
        for event in events {
            if event.kind == Kind::Resumed {
                // what the agent told an earlier process is not in our journal
                shared.trail.missed_some();
            }
            shared.trail.take(event);
        }
    }

    /// Takes in where another run has left the machine.
    pub(crate) fn set_before(&self, before: MachineState) {
        self.lock().trail.set_before(before);
    }

    /// Takes in that nothing is known of what earlier processes did to the machine.
    pub(crate) fn lost_sight(&self) {
        self.lock().trail.lost_sight();
    }

    /// Takes in what earlier processes told of this run, of which only the end is news.
    pub fn catch_up(&self, events: &[Event]) {
        let resumed = events
            .iter()
            .rposition(|event| event.kind == Kind::Resumed)
            .unwrap_or(0);
        let mut shared = self.lock();
        for (at, event) in events.iter().enumerate() {
            shared.trail.take(event);
            if at < resumed && !matches!(shared.kind, Shown::Json(_)) {
                shared.view.take(event);
                if let Some(record) = &mut shared.record {
                    record.event(event);
                }
            } else {
                shared.tell(Told::Event(event.clone()));
            }
        }
    }

    /// Shows the state of the link.
    pub fn link(&self, link: &LinkView) {
        self.lock().tell(Told::Link(link.clone()));
    }

    /// Shows something worth knowing.
    pub fn note(&self, text: &str) {
        self.lock().tell(Told::Note(text.to_owned()));
    }

    /// Shows a warning, which says why going on is right: `…; continuing because …`.
    pub fn warning(&self, text: &str) {
        self.lock().tell(Told::Warning(text.to_owned()));
    }

    /// Shows what machine it is.
    pub fn machine(&self, facts: &Facts) {
        let host = self.lock().host.clone();
        self.note(&format!("{host}: {}", machine_line(facts)));
    }

    /// Shows the disks, and which of them will be erased.
    pub fn disks(&self, disks: &[Disk], erased: &[String]) {
        self.lock()
            .tell(Told::Disks(disks.to_vec(), erased.to_vec()));
    }

    /// Sets what disko does to the disks, for whoever asks for the trail.
    pub fn set_disko_mode(&self, mode: DiskoMode) {
        self.lock().trail.set_disko_mode(mode);
    }

    /// Returns what has happened to the machine so far.
    pub fn trail(&self) -> Trail {
        self.lock().trail.clone()
    }

    /// Takes in that events of the agent were missed.
    pub(crate) fn missed_some(&self) {
        self.lock().trail.missed_some();
    }

    /// Draws what moves without news: times, rates, the age of a lost link.
    pub fn tick(&self) {
        self.lock().tick();
    }

    /// Shows how it ended, with the time of each phase, and closes the screen.
    pub fn end(&self, ended: &Ended, log: Option<&Path>) {
        self.lock().end(ended, log);
    }

    /// Takes the picture away; what was shown above it stays.
    pub fn close(&self) {
        if let Shown::Live(live) = &mut self.lock().kind {
            live.clear();
        }
    }

    /// Sets the time of the run to that of a recording.
    fn advance(&self, at_ms: u64) {
        let mut shared = self.lock();
        shared.view.at_ms = shared.view.at_ms.max(at_ms);
        shared.newest = Instant::now();
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // a panic while drawing must not hide how the run ends
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn tell(&mut self, told: Told) {
        match &mut self.held {
            Some(held) => held.push(told),
            None => self.show(told),
        }
    }

    fn show(&mut self, told: Told) {
        if let Told::Event(event) = &told {
            self.view.take(event);
            self.newest = Instant::now();
        }
        let at_ms = self.now_ms();
        if let Some(record) = &mut self.record {
            record.told(at_ms, &told);
        }
        if let Shown::Json(json) = &mut self.kind {
            return json.told(at_ms, &told);
        }
        match told {
            Told::Event(event) => match &mut self.kind {
                Shown::Lines(lines) => lines.event(&self.view, &event),
                Shown::Live(live) => live.event(&self.view, &event),
                Shown::Json(_) => {}
            },
            Told::Link(view) => {
                let line = self.link.take(&view, Instant::now());
                // the picture shows the link as long as it is lost
                if let (Shown::Lines(lines), Some(line)) = (&mut self.kind, line) {
                    lines.at(at_ms, &line);
                }
            }
            Told::Note(text) => self.line(at_ms, &printable(&text)),
            Told::Warning(text) => {
                let label = Paint(self.color).careful("warning:");
                self.line(at_ms, &format!("{label} {}", printable(&text)));
            }
            Told::Disks(disks, erased) => {
                for row in disks_table(&disks, &erased) {
                    self.plain(&format!("  {row}"));
                }
            }
        }
    }

    /// Writes a line for people with what belongs before it.
    fn line(&mut self, at_ms: u64, line: &str) {
        match &mut self.kind {
            Shown::Lines(lines) => lines.at(at_ms, line),
            _ => self.plain(&format!("  {line}")),
        }
    }

    /// Writes a line for people as it is.
    fn plain(&mut self, line: &str) {
        match &mut self.kind {
            Shown::Lines(lines) => lines.plain(line),
            Shown::Live(live) => live.above(line),
            Shown::Json(_) => {}
        }
    }

    fn tick(&mut self) {
        if self.held.is_some() {
            return;
        }
        let now_ms = self.now_ms();
        match &mut self.kind {
            Shown::Live(live) => {
                let link = self.link.words(Instant::now());
                live.tick(&self.view, now_ms, link.as_deref());
            }
            Shown::Lines(lines) => lines.tick(&self.view, now_ms),
            Shown::Json(_) => {}
        }
    }

    /// Returns the time of the run now: that of the newest event, and what has passed since it came.
    fn now_ms(&self) -> u64 {
        let since = u64::try_from(self.newest.elapsed().as_millis()).unwrap_or(0);
        self.view.at_ms + since
    }

    fn end(&mut self, ended: &Ended, log: Option<&Path>) {
        for told in self.held.take().unwrap_or_default() {
            self.show(told);
        }
        if let Shown::Live(live) = &mut self.kind {
            live.clear();
        }
        let now_ms = self.now_ms();
        let last = Aside::ended(now_ms, ended);
        if let Some(record) = &mut self.record {
            record.aside(&last);
        }
        if let Shown::Json(json) = &mut self.kind {
            json.aside(&last);
        }
        if !self.view.state.steps.is_empty() {
            self.plain("time per phase:");
            for row in text::columns(&self.view.times()) {
                self.plain(&format!("  {row}"));
            }
        }
        if ended.failure.is_none() {
            let sentence = format!("{} {}", self.host, ended.state.sentence());
            self.plain(&printable(&sentence));
        }
        let (host, color) = (self.host.clone(), self.color);
        let mut text = Vec::new();
        // nobody reads: the exit code says it too
        let _ = exit::write_failure(&mut text, ended, Some(&host), log, color);
        let _ = match &mut self.kind {
            Shown::Lines(lines) => lines.write(&text),
            _ => io::stderr().write_all(&text),
        };
    }
}
