//! Follows a run on the engine's board and shows it. The only file here that knows the engine.

use std::time::Duration;

use engine::board::Board;
use landfall_proto::event::Event;
use tokio::sync::{broadcast::error::RecvError, watch};

use super::Screen;
use crate::remote::link::LinkView;

/// How often the picture on a terminal is drawn.
const FRAME: Duration = Duration::from_millis(100);

/// Shows a run until it has ended, with everything that was told before.
///
/// A reader that fell behind reads the report instead; nothing heavy is lost, and nothing is shown twice. Of the agent's
/// own events, which are told to live listeners only, those missed stay missed.
pub async fn show(board: Board, mut link: watch::Receiver<LinkView>, screen: Screen) {
    let mut live = board.listen();
    let (events, mut seen) = board.report_since(0, 0);
    screen.catch_up(&events);
    let mut ended = is_over(&events);
    let mut linked = true;
    let mut frame = tokio::time::interval(FRAME);
    frame.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    while !ended {
        tokio::select! {
            told = live.recv() => match told {
                Ok(event) => {
                    if !is_seen(&event, &mut seen) {
                        screen.event(&event);
                        ended = is_over(std::slice::from_ref(&event));
                    }
                }
                Err(RecvError::Lagged(_)) => {
                    live = board.listen();
                    let (events, next) = board.report_since(seen.0, seen.1);
                    events.iter().for_each(|event| screen.event(event));
                    screen.missed_some();
                    seen = next;
                    ended = is_over(&events);
                }
                Err(RecvError::Closed) => break,
            },
            changed = link.changed(), if linked => match changed {
                Ok(()) => {
                    let view = link.borrow_and_update().clone();
                    screen.link(&view);
                }
                Err(_) => linked = false,
            },
            _ = frame.tick() => screen.tick(),
        }
    }
    screen.tick();
}

/// Whether one of these events of the run itself is the last.
fn is_over(events: &[Event]) -> bool {
    // a run that was taken up again has had a last event before
    events
        .last()
        .is_some_and(|event| event.step.is_none() && event.kind.is_terminal())
}

/// Whether an event was in a report already; moves the cursor past it. The agent's events have numbers of their own.
fn is_seen(event: &Event, seen: &mut (u64, u64)) -> bool {
    if event.step.as_deref().is_some_and(|step| step.contains('/')) {
        return false;
    }
    let (cursor, number) = match event.light {
        Some(light) => (&mut seen.1, light),
        None => (&mut seen.0, event.index),
    };
    let before = number < *cursor;
    *cursor = (*cursor).max(number + 1);
    before
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    use engine::{
        journal::{Header, Journal, JournalError, Store},
        run::Run,
        step::{Context, Done, Repeat, Step},
    };
    use landfall_proto::{event::Kind, failure::Failure, order::RunId};
    use tokio_util::sync::CancellationToken;

    use super::{
        super::{Json, Lines, Shown, view},
        *,
    };
    use crate::exit;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Page {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    struct Nowhere;

    impl Store for Nowhere {
        fn append(&mut self, _: &[u8]) -> Result<(), JournalError> {
            Ok(())
        }
    }

    struct Talk(u64);

    impl Step for Talk {
        const NAME: &'static str = "talk";
        const REPEAT: Repeat = Repeat::Safe;
        type Proof = ();

        async fn run(&self, cx: &Context) -> Result<Done<()>, Failure> {
            for number in 0..self.0 {
                cx.line(format!("line {number}"));
            }
            let inner = Event {
                index: 0,
                light: None,
                at_ms: 0,
                step: Some("inner".to_owned()),
                kind: Kind::StepStarted { attempt: 1 },
            };
            cx.nested(&inner);
            Ok(Done::new(()))
        }

        async fn still_true(&self, (): &()) -> bool {
            true
        }
    }

    fn run() -> Run<Nowhere> {
        let header = Header::new(RunId::from_bytes([7; 16]), &["talk"], String::new(), 0);
        let journal = Journal::begin(Nowhere, header).unwrap();
        Run::begin(journal, CancellationToken::new()).unwrap()
    }

    fn json() -> (Screen, Page) {
        let page = Page::default();
        let json = Json::new(Box::new(page.clone()), "h");
        (Screen::with(Shown::Json(json), "h", false), page)
    }

    fn kinds(page: &Page) -> Vec<String> {
        let text = page.text();
        let lines = text.lines().skip(1);
        lines
            .map(|line| {
                let value: serde_json::Value = serde_json::from_str(line).unwrap();
                value["kind"].as_str().unwrap().to_owned()
            })
            .collect()
    }

    async fn story(lines: u64, screen: &Screen) {
        let mut run = run();
        let (_link, view) = watch::channel(LinkView::Up);
        let showing = tokio::spawn(show(run.board(), view, screen.clone()));
        // the screen listens before the run goes on
        tokio::task::yield_now().await;
        run.step(&Talk(lines)).await.unwrap();
        run.finish().unwrap();
        showing.await.unwrap();
    }

    #[tokio::test]
    async fn events_are_shown_once_and_in_order() {
        let (screen, page) = json();
        story(2, &screen).await;
        let expected = [
            "run_started",
            "step_started",
            "line",
            "line",
            "step_started",
            "step_finished",
            "run_finished",
        ];
        assert_eq!(kinds(&page), expected);
    }

    #[tokio::test]
    async fn screen_that_falls_behind_loses_nothing_heavy() {
        let (screen, page) = json();
        story(20_000, &screen).await;
        let heavy: Vec<String> = kinds(&page)
            .into_iter()
            .filter(|kind| kind != "line")
            .collect();
        assert_eq!(
            heavy,
            [
                "run_started",
                "step_started",
                "step_finished",
                "run_finished"
            ]
        );
    }

    #[tokio::test]
    async fn what_comes_during_a_question_is_shown_after_it() {
        let (screen, page) = json();
        let pause = screen.pause();
        story(0, &screen).await;
        assert_eq!(kinds(&page), [""; 0]);
        drop(pause);
        assert_eq!(kinds(&page).len(), 5);
        assert_eq!(screen.trail().state(), exit::MachineState::Untouched);
    }

    #[tokio::test]
    async fn recording_holds_what_the_screen_shows_and_how_it_ended() {
        let page = Page::default();
        let lines = Lines::new(Box::new(Page::default()), 0);
        let screen = Screen::with(Shown::Lines(lines), "h", false);
        screen.record_to(Box::new(page.clone()));
        screen.warning("odd; continuing because it is a test");
        story(0, &screen).await;
        screen.end(&exit::Ended::done(&screen.trail()), None);
        let kinds = kinds(&page);
        assert_eq!(kinds.first().map(String::as_str), Some("warning"));
        assert_eq!(kinds.last().map(String::as_str), Some("ended"));
        assert_eq!(kinds.len(), 7);
    }

    #[test]
    fn phases_of_an_earlier_process_are_not_told_again() {
        let page = Page::default();
        let lines = Lines::new(Box::new(page.clone()), 0);
        let screen = Screen::with(Shown::Lines(lines), "h", false);
        let event = |index, step: &str, kind| view::tests::event(index, 1000 * index, step, kind);
        screen.catch_up(&[
            event(
                0,
                "",
                Kind::RunStarted {
                    steps: vec!["kexec".to_owned()],
                },
            ),
            event(1, "kexec", Kind::StepStarted { attempt: 1 }),
            event(2, "", Kind::Resumed),
            event(3, "kexec", Kind::StepStarted { attempt: 2 }),
        ]);
        assert_eq!(
            page.text(),
            "[00:02] the run is taken up again\n[00:03] 1/1 kexec: begins, attempt 2\n"
        );
    }
}
