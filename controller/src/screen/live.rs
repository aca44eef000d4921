//! The picture on a terminal: a line for each phase that is over, and below them what is under way, drawn in place.

use std::{
    io::{self, Write},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use landfall_proto::{
    event::{Event, Kind},
    report::Status,
};

use super::{
    text::{self, Paint},
    view::{Tone, View, ending},
};
use crate::exit::printable;

/// Width of the names of phases and steps.
const NAME: usize = 10;

/// The picture on a terminal.
#[derive(Debug)]
pub(super) struct Live {
    all: MultiProgress,
    rows: Vec<ProgressBar>,
    paint: Paint,
    verbosity: u8,
}

impl Live {
    pub(super) fn new(target: ProgressDrawTarget, paint: Paint, verbosity: u8) -> Self {
        let all = MultiProgress::with_draw_target(target);
        Self {
            all,
            rows: Vec::new(),
            paint,
            verbosity,
        }
    }

    /// Shows an event that the view has taken in already.
    pub(super) fn event(&mut self, view: &View, event: &Event) {
        let path = event.step.as_deref().unwrap_or_default();
        let is_phase = !path.contains('/');
        match &event.kind {
            Kind::Resumed if is_phase => self.above("  the run is taken up again"),
            Kind::StepFinished { .. } | Kind::StepFailed { .. } if is_phase => {
                for line in finished(view, path, self.paint) {
                    self.above(&line);
                }
            }
            Kind::Line { .. } if self.verbosity > 0 => {
                let line = format!("        {}", view.latest().unwrap_or_default());
                self.above(&self.paint.dim(&line));
            }
            _ => {}
        }
    }

    /// Draws what is under way as it is now.
    pub(super) fn tick(&mut self, view: &View, now_ms: u64, link: Option<&str>) {
        let frame = frame(view, now_ms, link, self.paint);
        while self.rows.len() > frame.len() {
            if let Some(row) = self.rows.pop() {
                row.finish_and_clear();
                self.all.remove(&row);
            }
        }
        while self.rows.len() < frame.len() {
            let row = self.all.add(ProgressBar::no_length());
            row.set_style(
                ProgressStyle::with_template("{wide_msg}").expect("the template is well formed"),
            );
            self.rows.push(row);
        }
        for (row, line) in self.rows.iter().zip(frame) {
            row.set_message(line);
        }
    }

    /// Writes a line above the picture.
    pub(super) fn above(&self, line: &str) {
        // a terminal that is gone does not stop the run
        let _ = if self.rows.is_empty() {
            // indicatif would end the line by filling it with blanks
            writeln!(io::stderr(), "{line}")
        } else {
            self.all.println(line)
        };
    }

    /// Takes the picture away, so that somebody else may use the terminal.
    pub(super) fn clear(&mut self) {
        for row in self.rows.drain(..) {
            row.finish_and_clear();
            self.all.remove(&row);
        }
        let _ = self.all.clear();
    }
}

/// Returns the lines of a phase that is over, with the agent's steps inside it.
fn finished(view: &View, phase: &str, paint: Paint) -> Vec<String> {
    let Some(step) = view.state.step(phase) else {
        return Vec::new();
    };
    let Some((tone, words)) = ending(&step.status, view.took_ms(phase)) else {
        return Vec::new();
    };
    let mut lines = vec![format!(
        "{}{}",
        head(view, phase, paint),
        toned(tone, &words, paint)
    )];
    lines.extend(inner_lines(view, paint));
    lines
}

/// Returns the lines below those of the phases that are over: what is under way at `now_ms`, and the link.
fn frame(view: &View, now_ms: u64, link: Option<&str>, paint: Paint) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(step) = view.state.running() {
        let began = step.started_ms.unwrap_or(now_ms);
        let time = text::span(Duration::from_millis(now_ms.saturating_sub(began)));
        let speaks = view.speaker() == step.name;
        let progress = view.progress(now_ms, true).filter(|_| speaks);
        let gap = if progress.is_some() { "  " } else { "" };
        lines.push(format!(
            "{}{time}{gap}{}",
            head(view, &step.name, paint),
            progress.unwrap_or_default()
        ));
        lines.extend(inner_lines(view, paint));
        for inner in view
            .inner
            .iter()
            .filter(|inner| inner.status == Status::Running)
        {
            let speaks = view.speaker().rsplit('/').next() == Some(&inner.name);
            let progress = view.progress(now_ms, true).filter(|_| speaks);
            let time = text::span_ms(now_ms.saturating_sub(inner.began_ms.unwrap_or(now_ms)));
            lines.push(format!(
                "{}{}",
                inner_head(&inner.name),
                progress.unwrap_or(time)
            ));
        }
        if let Some(latest) = view.latest() {
            lines.push(paint.dim(&format!("        {latest}")));
        }
    }
    if let Some(link) = link {
        lines.push(paint.careful(&format!("  {link}")));
    }
    lines
}

/// Returns the lines of the agent's steps that are over.
fn inner_lines(view: &View, paint: Paint) -> Vec<String> {
    let over = view.inner.iter().filter_map(|inner| {
        let (tone, words) = ending(&inner.status, inner.took_ms())?;
        Some(format!(
            "{}{}",
            inner_head(&inner.name),
            toned(tone, &words, paint)
        ))
    });
    over.collect()
}

fn head(view: &View, phase: &str, paint: Paint) -> String {
    let (number, count) = view.number(phase);
    format!(
        "  {number}/{count} {} ",
        paint.bold(&format!("{:NAME$}", printable(phase)))
    )
}

fn inner_head(name: &str) -> String {
    format!("        {name:NAME$} ")
}

fn toned(tone: Tone, words: &str, paint: Paint) -> String {
    match tone {
        Tone::Good => paint.good(words),
        Tone::Quiet => paint.dim(words),
        Tone::Careful => paint.careful(words),
        Tone::Bad => paint.bad(words),
    }
}

#[cfg(test)]
mod tests {
    use landfall_proto::event::{Outcome, Unit};

    use super::{super::view::tests::event, *};

    fn story() -> View {
        let mut view = View::default();
        let steps = ["connect", "disko", "install"].map(str::to_owned).to_vec();
        let began = || Kind::StepStarted { attempt: 1 };
        let done = || Kind::StepFinished {
            outcome: Outcome::Done,
        };
        for (at_ms, index, step, kind) in [
            (0, 0, "", Kind::RunStarted { steps }),
            (0, 1, "connect", began()),
            (800, 2, "connect", done()),
            (800, 3, "disko", began()),
            (900, 1, "disko/inspect", began()),
            (1100, 2, "disko/inspect", done()),
            (1100, 3, "disko/tools", began()),
            (
                1200,
                3,
                "disko/tools",
                Kind::Progress {
                    done: 0,
                    total: Some(100),
                    unit: Unit::Bytes,
                },
            ),
            (
                3200,
                3,
                "disko/tools",
                Kind::Progress {
                    done: 50,
                    total: Some(100),
                    unit: Unit::Bytes,
                },
            ),
            (
                3200,
                3,
                "disko/tools",
                Kind::Line {
                    text: "copying path 'x'".into(),
                },
            ),
        ] {
            view.take(&event(index, at_ms, step, kind));
        }
        view
    }

    #[test]
    fn picture_shows_the_phase_its_steps_and_the_link() {
        let lines = frame(&story(), 3300, Some("link lost 2.0 s ago"), Paint(false));
        assert_eq!(
            lines,
            [
                "  2/3 disko      2.5 s",
                "        inspect    done in 0.2 s",
                "        tools      [##########----------] 50 B of 100 B, 23 B/s, 2.0 s left",
                "        copying path 'x'",
                "  link lost 2.0 s ago",
            ]
        );
        assert_eq!(
            finished(&story(), "connect", Paint(false))[0],
            "  1/3 connect    done in 0.8 s"
        );
    }
}
