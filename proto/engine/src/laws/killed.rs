//! Killed anywhere, a run ends as if nothing had been, and nothing is done twice that must not be.
//!
//! A model beside the engine predicts what was done to the machine, and how each process ends.

use landfall_proto::{
    event::Kind,
    report::{End, StepState},
};
use tokio_util::sync::CancellationToken;

use super::{Fate, Inspect, Life, Machine, Memory, Wrong, live};
use crate::run::Run;

/// What a step of the model has in its journal.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Nothing,
    Begun,
    Over,
}

/// The machine and its journal as they should be.
struct Model {
    lines: usize,
    known: [Known; 4],
    done: [u32; 4],
}

struct Dead;

impl Model {
    fn new() -> Self {
        Self {
            lines: 1,
            known: [Known::Nothing; 4],
            done: [0; 4],
        }
    }

    fn line(&mut self, fate: (usize, Fate), effect: Option<(usize, Known)>) -> Result<(), Dead> {
        if fate == (self.lines, Fate::KilledBefore) {
            return Err(Dead);
        }
        if let Some((step, known)) = effect {
            self.known[step] = known;
        }
        self.lines += 1;
        if fate == (self.lines - 1, Fate::KilledAfter) {
            Err(Dead)
        } else {
            Ok(())
        }
    }

    fn live(&mut self, fate: (usize, Fate)) -> Result<Life, Dead> {
        self.line(fate, None)?;
        for step in 0..4 {
            let never = step == 1 || step == 3;
            if step == 3 {
                // files were passed over
                self.line(fate, None)?;
            }
            match self.known[step] {
                Known::Begun if never => {
                    self.line(fate, None)?;
                    self.line(fate, None)?;
                    return Ok(Life::Failed("LF0902".to_owned()));
                }
                Known::Over => self.line(fate, Some((step, Known::Over)))?,
                _ => {
                    self.line(fate, Some((step, Known::Begun)))?;
                    self.done[step] += 1;
                    self.line(fate, Some((step, Known::Over)))?;
                }
            }
        }
        self.line(fate, None)?;
        Ok(Life::Finished)
    }
}

/// Lets one process after the other meet its fate, and a last one live.
async fn check(fates: &[(usize, Fate)]) {
    let (memory, machine, mut model) = (Memory::default(), Machine::default(), Model::new());
    drop(memory.open());
    for &(line, fate) in fates {
        let line = memory.lines() + line;
        let expected = model.live((line, fate)).unwrap_or(Life::Killed);
        let (life, _) = live(&memory.meets(line, fate), &machine).await;
        assert_eq!(life, expected, "{fates:?}");
        assert_eq!(machine.all_times(), model.done, "{fates:?}");
        assert_eq!(memory.lines(), model.lines, "{fates:?}");
    }
    let expected = model
        .live((usize::MAX, Fate::KilledBefore))
        .unwrap_or(Life::Killed);
    let (life, state) = live(&memory, &machine).await;
    assert_eq!(life, expected, "{fates:?}");
    assert_eq!(machine.all_times(), model.done, "{fates:?}");
    assert!(
        machine.times("format") <= 1 && machine.times("seal") <= 1,
        "{fates:?}"
    );
    let over = state.steps.iter().all(StepState::is_finished);
    let (end, finished) = match life {
        Life::Finished => (End::Finished, true),
        _ => (End::Failed, false),
    };
    assert_eq!((state.end, over), (Some(end), finished), "{fates:?}");
}

#[tokio::test]
async fn run_killed_at_any_line_does_nothing_twice_that_must_not_be() {
    let fates = || (0..13).flat_map(|line| [(line, Fate::KilledBefore), (line, Fate::KilledAfter)]);
    for first in fates() {
        check(&[first]).await;
        for second in fates() {
            check(&[first, second]).await;
        }
    }
}

#[tokio::test]
async fn run_cut_off_at_any_byte_is_taken_up() {
    let memory = Memory::default();
    assert_eq!(live(&memory, &Machine::default()).await.0, Life::Finished);
    let all = memory.bytes.lock().unwrap().clone();
    for cut in 0..=all.len() {
        // what `Journal::open` leaves of it; the file's own tests hold it to that
        let whole = all[..cut]
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |at| at + 1);
        let (memory, machine) = (Memory::default(), Machine::default());
        memory
            .bytes
            .lock()
            .unwrap()
            .extend_from_slice(&all[..whole]);
        // a line says that a step began: then it may have been done, and here it was
        let begun = |name: &str| {
            memory.marks().iter().any(|mark| {
                mark.event.step.as_deref() == Some(name)
                    && matches!(mark.event.kind, Kind::StepStarted { .. })
            })
        };
        for name in ["inspect", "format", "copy", "seal"] {
            if whole > 0 && begun(name) {
                machine.work(name).await.unwrap();
            }
        }
        for _ in 0..2 {
            let (life, _) = live(&memory, &machine).await;
            assert_ne!(life, Life::Killed, "cut at byte {cut}");
            assert!(machine.times("format") <= 1 && machine.times("seal") <= 1);
        }
    }
}

#[tokio::test]
async fn nothing_is_told_that_is_not_journaled_but_the_end() {
    // the store itself looks at the board at every line
    let (memory, machine) = (Memory::default(), Machine::default());
    let (life, state) = live(&memory, &machine).await;
    assert_eq!(life, Life::Finished);
    assert_eq!(state.next as usize, memory.marks().len());
    for line in 2..12 {
        let memory = Memory::default();
        drop(memory.open());
        let (life, state) = live(&memory.meets(line, Fate::Full), &Machine::default()).await;
        assert_eq!(life, Life::Failed("LF0901".to_owned()));
        // a step that failed and a run that did, or the run that finished: told, so that nobody waits for ever
        let end = match line {
            11 => (line, Some(End::Finished)),
            _ => (line + 1, Some(End::Failed)),
        };
        assert_eq!((state.next as usize, state.end), end);
        assert_eq!(memory.marks().len(), line - 1);
    }
}

#[tokio::test]
async fn full_journal_does_not_hide_why_a_step_failed() {
    let (memory, machine) = (Memory::default(), Machine::default());
    machine.goes_wrong("inspect", Some(Wrong::Fails));
    let full = memory.meets(3, Fate::Full);
    let mut run = Run::begin(full.open(), CancellationToken::new()).unwrap();
    let failure = run.step(&Inspect(&machine)).await.unwrap_err();
    assert_eq!(failure.what, "cannot inspect");
    assert_eq!(failure.causes, ["cannot remember what was done"]);
}

#[tokio::test]
async fn watcher_of_a_run_that_cannot_be_journaled_sees_its_end() {
    let (memory, machine) = (Memory::default(), Machine::default());
    let full = memory.meets(3, Fate::Full);
    let mut run = Run::begin(full.open(), CancellationToken::new()).unwrap();
    let (board, mut heard) = (run.board(), run.board().listen());
    let failure = run.step(&Inspect(&machine)).await.unwrap_err();
    let state = board.ended().await;
    assert_eq!(
        (state.end.as_ref(), state.failure()),
        (Some(&End::Failed), Some(&failure))
    );
    let told: Vec<_> = std::iter::from_fn(|| heard.try_recv().ok()).collect();
    assert_eq!(told.last().unwrap().kind, Kind::RunFailed);
    // to the next process the step was cut off
    let (life, state) = live(&memory, &machine).await;
    assert_eq!((life, state.end), (Life::Finished, Some(End::Finished)));
}
