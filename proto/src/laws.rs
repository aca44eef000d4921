//! The laws of the fold, checked on stories made at random: whoever reads, and however, sees the same run.

use proptest::{
    collection::vec,
    option,
    prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest},
};

use crate::{
    event::{Event, Kind, Outcome, Unit},
    failure::{Contact, Failure},
    report::{End, History, Illegal, RunState, Status},
};

const STEPS: [&str; 3] = ["inspect", "format", "copy"];

fn failure() -> impl Strategy<Value = Failure> {
    (
        ".{0,8}",
        vec(".{0,8}", 0..3),
        vec(".{0,8}", 0..3),
        "(LF[0-9]{4})?",
    )
        .prop_map(|(what, causes, hints, code)| Failure {
            what,
            causes,
            hints,
            code,
            contact: Contact::Kept,
        })
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Done),
        ".{0,8}".prop_map(|message| Outcome::Warned { message }),
        Just(Outcome::Recovered),
        ".{0,8}".prop_map(|reason| Outcome::Skipped { reason }),
        Just(Outcome::Unknown),
    ]
}

/// Any kind of a transition of a step or of the run, without the first.
fn transition() -> impl Strategy<Value = Kind> {
    prop_oneof![
        4 => (0u32..4).prop_map(|attempt| Kind::StepStarted { attempt }),
        4 => outcome().prop_map(|outcome| Kind::StepFinished { outcome }),
        2 => failure().prop_map(|failure| Kind::StepFailed { failure }),
        1 => ".{0,8}".prop_map(|by| Kind::Aborted { by }),
        1 => Just(Kind::RunFinished),
        1 => Just(Kind::RunFailed),
        2 => Just(Kind::Resumed),
        1 => Just(Kind::Unknown),
    ]
}

fn light_kind() -> impl Strategy<Value = Kind> {
    let unit = prop_oneof![Just(Unit::Bytes), Just(Unit::Paths), Just(Unit::Items)];
    prop_oneof![
        (any::<u64>(), any::<Option<u64>>(), unit).prop_map(|(done, total, unit)| Kind::Progress {
            done,
            total,
            unit
        }),
        ".{0,8}".prop_map(|what| Kind::Waiting { what }),
        (any::<u32>(), ".{0,8}").prop_map(|(attempt, cause)| Kind::Retry { attempt, cause }),
        ".{0,8}".prop_map(|text| Kind::Line { text }),
    ]
}

fn started() -> impl Strategy<Value = Kind> {
    vec("[a-z]{0,3}", 0..4).prop_map(|steps| Kind::RunStarted { steps })
}

/// Any event at all, most of them nonsense.
pub(crate) fn event() -> impl Strategy<Value = Event> {
    let step = option::of(prop_oneof![Just("inspect".to_owned()), "[a-z/]{0,3}"]);
    let kind = prop_oneof![1 => started(), 3 => transition(), 2 => light_kind()];
    let index = prop_oneof![0u64..6, any::<u64>()];
    (index, any::<Option<u64>>(), any::<u64>(), step, kind).prop_map(
        |(index, light, at_ms, step, kind)| Event {
            index,
            light,
            at_ms,
            step,
            kind,
        },
    )
}

/// A run as it is told: every event follows those before it, and the light ones are numbered.
fn story() -> impl Strategy<Value = Vec<Event>> {
    let kind = prop_oneof![transition(), light_kind()];
    let wishes = vec((0..STEPS.len(), 0u64..50, kind), 0..60);
    wishes.prop_map(|wishes| {
        let steps = STEPS.map(str::to_owned).to_vec();
        let (mut teller, mut at_ms) = (Teller::default(), 0);
        teller.tell(Event {
            index: 0,
            light: None,
            at_ms,
            step: None,
            kind: Kind::RunStarted { steps },
        });
        for (step, pause, kind) in wishes {
            at_ms += pause;
            let (index, step) = (teller.state.next, Some(STEPS[step].to_owned()));
            teller.tell(Event {
                index,
                light: None,
                at_ms,
                step,
                kind,
            });
        }
        teller.told
    })
}

/// Tells what is legal, as a board does.
#[derive(Default)]
struct Teller {
    state: RunState,
    history: History,
    told: Vec<Event>,
}

impl Teller {
    fn tell(&mut self, event: Event) {
        if self.state.apply(&event).is_ok() {
            self.told.push(self.history.keep(event));
        }
    }
}

fn fold<'a>(events: impl IntoIterator<Item = &'a Event>) -> RunState {
    let mut state = RunState::default();
    for event in events {
        state.apply(event).unwrap();
    }
    state
}

fn history(events: &[Event]) -> History {
    let mut history = History::default();
    for event in events {
        history.keep(event.clone());
    }
    history
}

fn statuses(state: &RunState) -> (Vec<Status>, Option<End>, u64) {
    let statuses = state.steps.iter().map(|step| step.status.clone()).collect();
    (statuses, state.end.clone(), state.next)
}

proptest! {
    #[test]
    fn late_reader_sees_what_an_early_reader_sees(story in story()) {
        for cut in 0..=story.len() {
            let (early, late) = (&story[..cut], history(&story[..cut]).report_since(0, 0));
            prop_assert_eq!(fold(&late), fold(early), "at {}", cut);
        }
    }

    #[test]
    fn events_seen_twice_change_nothing(story in story()) {
        let once = fold(&story);
        prop_assert_eq!(&fold(story.iter().flat_map(|event| [event, event])), &once, "each twice");
        prop_assert_eq!(&fold(story.iter().chain(&story)), &once, "all twice");
        let tail = &story[story.len() / 2..];
        prop_assert_eq!(&fold(story.iter().chain(tail)), &once, "the last half twice");
    }

    #[test]
    fn reader_that_reconnects_anywhere_catches_up(story in story()) {
        for back_at in 0..=story.len() {
            let history = history(&story[..back_at]);
            let all = fold(&story[..back_at]);
            for lost_at in 0..=back_at {
                let cursor = self::history(&story[..lost_at]).cursor();
                let mut reader = fold(&story[..lost_at]);
                for event in history.report_since(cursor.0, cursor.1) {
                    reader.apply(&event).unwrap();
                }
                prop_assert_eq!(&reader, &all, "lost at {}, back at {}", lost_at, back_at);
            }
        }
    }

    #[test]
    fn reader_that_counts_ahead_is_told_nothing(story in story(), next in any::<u64>(), light in any::<u64>()) {
        let history = history(&story);
        let (heavy_end, light_end) = history.cursor();
        for event in history.report_since(next, light) {
            let lacked = match event.light {
                None => (next..heavy_end).contains(&event.index),
                Some(number) => (light..light_end).contains(&number),
            };
            prop_assert!(lacked, "{:?}", event);
        }
    }

    #[test]
    fn unknown_kinds_are_ignored(story in story(), at in any::<proptest::sample::Index>()) {
        // a newer side tells one heavy event more than this one knows
        let at = at.index(story.len()) + 1;
        let step = Some("copy".to_owned());
        let (index, kind) = (fold(&story[..at]).next, Kind::Unknown);
        let unknown = Event { index, light: None, at_ms: 0, step: step.clone(), kind: kind.clone() };
        let shifted = story[at..].iter().map(|event| Event { index: event.index + 1, ..event.clone() });
        let newer: Vec<Event> = story[..at].iter().cloned().chain([unknown]).chain(shifted).collect();
        let (mut seen, plain) = (fold(&newer), fold(&story));
        seen.next -= 1;
        prop_assert_eq!(&seen, &plain);
        // and one light event more
        let light = Event { index, light: Some(99), at_ms: 0, step, kind };
        prop_assert_eq!(&fold(story[..at].iter().chain([&light]).chain(&story[at..])), &plain);
    }

    #[test]
    fn nothing_but_being_taken_up_again_follows_the_end(story in story(), kind in transition(), steps in started()) {
        let mut state = fold(&story);
        let (index, step) = (state.next, Some("copy".to_owned()));
        let end = Event { index, light: None, at_ms: 0, step: None, kind: Kind::RunFailed };
        if state.end.is_none() {
            state.apply(&end).unwrap();
        }
        for kind in [kind, steps, Kind::RunFinished, Kind::RunFailed] {
            let event = Event { index: state.next, light: None, at_ms: 0, step: step.clone(), kind };
            let before = state.clone();
            if state.clone().apply(&event).is_ok() {
                prop_assert!(matches!(event.kind, Kind::Resumed | Kind::Unknown), "{:?}", event);
            } else {
                prop_assert_eq!(&state, &before);
            }
        }
    }

    #[test]
    fn light_event_may_be_dropped_anywhere(story in story(), kept in vec(any::<bool>(), 64)) {
        let heard = story.iter().zip(kept).filter(|(event, kept)| *kept || event.is_heavy());
        prop_assert_eq!(statuses(&fold(heard.map(|(event, _)| event))), statuses(&fold(&story)));
    }

    #[test]
    fn nonsense_is_refused_and_changes_nothing(events in vec(event(), 0..40)) {
        let mut state = RunState::default();
        for event in &events {
            let before = state.clone();
            let applied = state.apply(event);
            prop_assert!(state.next >= before.next);
            prop_assert!(state.next <= before.next + 1);
            if applied.is_err() {
                prop_assert_eq!(&state, &before);
            }
            if state.next > before.next {
                prop_assert_eq!(event.index, before.next);
            }
        }
    }
}

/// Takes what step `copy` tells next.
fn take(state: &mut RunState, kind: Kind) -> Result<(), Illegal> {
    state.apply(&Event {
        index: state.next,
        light: None,
        at_ms: 7,
        step: Some("copy".to_owned()),
        kind,
    })
}

#[track_caller]
fn check(kinds: &[Kind], refused: Option<&str>) {
    let mut state = RunState::default();
    let (last, before) = kinds.split_last().unwrap();
    for kind in before {
        take(&mut state, kind.clone()).unwrap();
    }
    let why = take(&mut state, last.clone())
        .err()
        .map(|illegal| illegal.why);
    assert_eq!(why.as_deref(), refused, "{last:?}");
}

#[test]
fn only_legal_transitions_are_taken() {
    let run = || Kind::RunStarted {
        steps: vec!["copy".to_owned()],
    };
    let start = |attempt| Kind::StepStarted { attempt };
    let over = |outcome| Kind::StepFinished { outcome };
    let failed = || Kind::StepFailed {
        failure: Failure::new("cannot go on"),
    };
    check(&[start(1)], Some("the run has not started"));
    check(&[Kind::Resumed], Some("the run has not started"));
    check(&[run(), run()], Some("the run has already started"));
    check(
        &[Kind::Unknown, start(1)],
        Some("the plan has no such step"),
    );
    check(
        &[run(), over(Outcome::Done)],
        Some("the step is not under way"),
    );
    check(&[run(), over(Outcome::Recovered)], None);
    check(&[run(), start(1), over(Outcome::Done)], None);
    check(
        &[run(), start(1), over(Outcome::Done), start(1)],
        Some("the step is over"),
    );
    check(&[run(), start(1), over(Outcome::Done), start(2)], None);
    // refused before it began, and begun after all once the run is taken up again
    check(
        &[run(), failed(), Kind::RunFailed, start(1)],
        Some("the run has ended"),
    );
    check(
        &[run(), failed(), Kind::RunFailed, Kind::Resumed, start(1)],
        None,
    );
}

#[test]
fn refused_step_never_began() {
    let mut state = RunState::default();
    let failure = Failure::new("refusing to copy");
    let kinds = [
        Kind::RunStarted {
            steps: vec!["copy".to_owned()],
        },
        Kind::StepFailed {
            failure: failure.clone(),
        },
        Kind::RunFailed,
    ];
    for (index, kind) in (0..).zip(kinds) {
        let step = Some("copy".to_owned());
        state
            .apply(&Event {
                index,
                light: None,
                at_ms: 9,
                step,
                kind,
            })
            .unwrap();
    }
    let copy = state.step("copy").unwrap();
    assert_eq!((copy.attempt, copy.started_ms), (0, None));
    assert_eq!(
        (state.failure(), &state.end),
        (Some(&failure), &Some(End::Failed))
    );
}

#[test]
fn history_does_not_grow_with_the_output() {
    let mut history = History::default();
    for n in 0..10_000u64 {
        for kind in [
            Kind::Line {
                text: n.to_string(),
            },
            Kind::Waiting {
                what: n.to_string(),
            },
            Kind::Progress {
                done: n,
                total: None,
                unit: Unit::Bytes,
            },
        ] {
            history.keep(Event {
                index: 0,
                light: None,
                at_ms: 0,
                step: None,
                kind,
            });
        }
    }
    let kept = history.report_since(0, 0);
    assert_eq!(kept.len(), 102);
    assert_eq!(
        kept[0].kind,
        Kind::Line {
            text: "9900".to_owned()
        }
    );
    assert_eq!(history.cursor(), (0, 30_000));
}

#[test]
fn what_ended_a_run_is_no_failure_of_it_once_it_is_taken_up() {
    let mut state = RunState::default();
    let failure = Failure::new("cannot copy");
    let kinds = [
        Kind::RunStarted {
            steps: vec!["copy".to_owned()],
        },
        Kind::StepStarted { attempt: 1 },
        Kind::StepFailed {
            failure: failure.clone(),
        },
        Kind::RunFailed,
    ];
    for kind in kinds {
        take(&mut state, kind).unwrap();
    }
    assert_eq!(state.failure(), Some(&failure));
    take(&mut state, Kind::Resumed).unwrap();
    assert_eq!((state.failure(), state.end.as_ref()), (None, None));
    assert_eq!(state.steps[0].attempt, 1);
}
