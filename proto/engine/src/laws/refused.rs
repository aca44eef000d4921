//! What a later process may do of what an earlier one did, began, or was refused.

use landfall_proto::report::End;
use tokio_util::sync::CancellationToken;

use super::{Fate, Inspect, Life, Machine, Memory, NewFormat, Wrong, live, told};
use crate::run::Run;

#[tokio::test]
async fn every_outcome_is_told_and_recovered_once_it_is_done() {
    let (memory, machine) = (Memory::default(), Machine::default());
    assert_eq!(live(&memory, &machine).await.0, Life::Finished);
    let first = [
        "run started",
        "inspect begins",
        "inspect done",
        "format begins",
        "format warned",
        "copy begins",
        "copy skipped",
        "files skipped",
        "seal begins",
        "seal done",
        "run finished",
    ];
    assert_eq!(told(&memory), first);
    for _ in 0..3 {
        assert_eq!(live(&memory, &machine).await.0, Life::Finished);
        let again = [
            "run resumed",
            "inspect recovered",
            "format recovered",
            "copy recovered",
            "files skipped",
            "seal recovered",
            "run finished",
        ];
        assert_eq!(told(&memory), again);
    }
    assert_eq!(machine.all_times(), [1; 4]);
}

#[tokio::test]
async fn refused_step_can_be_done_by_a_later_process() {
    let (memory, machine) = (Memory::default(), Machine::default());
    machine.goes_wrong("format", Some(Wrong::Refused));
    for first in ["run started", "run resumed"] {
        let (life, state) = live(&memory, &machine).await;
        assert_eq!(
            (life, state.end),
            (Life::Failed("LF0501".to_owned()), Some(End::Failed))
        );
        let told = told(&memory);
        assert_eq!(
            (&*told[0], &told[told.len() - 2..]),
            (
                first,
                &["format failed".to_owned(), "run failed".to_owned()][..]
            )
        );
        assert!(!told.contains(&"format begins".to_owned()));
    }
    machine.goes_wrong("format", None);
    assert_eq!(live(&memory, &machine).await.0, Life::Finished);
    assert_eq!(machine.all_times(), [1; 4]);
}

#[tokio::test]
async fn step_that_must_not_be_repeated_begins_only_where_its_end_can_be_written_down() {
    let (memory, machine) = (Memory::default(), Machine::default());
    let (life, _) = live(&memory.meets(0, Fate::Unkept), &machine).await;
    assert_eq!(life, Life::Failed("LF0901".to_owned()));
    assert!(!told(&memory).contains(&"format begins".to_owned()));
    assert_eq!(machine.times("format"), 0);
    // nothing was begun, so that it can be done once there is room
    assert_eq!(live(&memory, &machine).await.0, Life::Finished);
    assert_eq!(machine.all_times(), [1; 4]);
}

/// A step that must not be repeated stays refused, however often it is asked for.
async fn check_blocked(memory: &Memory, machine: &Machine, why: &str) {
    let before = machine.times("format");
    for _ in 0..3 {
        let (life, state) = live(memory, machine).await;
        assert_eq!(life, Life::Failed("LF0902".to_owned()));
        assert_eq!(
            state.failure().map(|failure| &*failure.causes[0]),
            Some(why)
        );
    }
    // not even a refusal before it begins opens the way
    machine.goes_wrong("format", Some(Wrong::Refused));
    assert_eq!(
        live(memory, machine).await.0,
        Life::Failed("LF0902".to_owned())
    );
    assert_eq!(machine.times("format"), before);
}

#[tokio::test]
async fn step_that_failed_half_way_is_not_repeated() {
    let (memory, machine) = (Memory::default(), Machine::default());
    machine.goes_wrong("format", Some(Wrong::Fails));
    assert_eq!(live(&memory, &machine).await.0, Life::Failed(String::new()));
    machine.goes_wrong("format", None);
    check_blocked(&memory, &machine, "it was cut off half way").await;
}

#[tokio::test]
async fn step_whose_work_is_gone_is_not_repeated() {
    let (memory, machine) = (Memory::default(), Machine::default());
    assert_eq!(live(&memory, &machine).await.0, Life::Finished);
    machine.goes_wrong("format", Some(Wrong::Gone));
    let why = "what it did is no longer found on the machine";
    for _ in 0..3 {
        let (_, state) = live(&memory, &machine).await;
        assert_eq!(
            state.failure().map(|failure| &*failure.causes[0]),
            Some(why)
        );
    }
    assert_eq!(machine.times("format"), 1);
    // and its twin may be
    machine.goes_wrong("format", None);
    machine.goes_wrong("copy", Some(Wrong::Gone));
    assert_eq!(live(&memory, &machine).await.0, Life::Finished);
    assert_eq!(machine.all_times(), [1, 1, 2, 1]);
}

#[tokio::test]
async fn step_whose_proof_cannot_be_read_is_not_repeated() {
    let (memory, machine) = (Memory::default(), Machine::default());
    assert_eq!(live(&memory, &machine).await.0, Life::Finished);
    let mut run = Run::begin(memory.open(), CancellationToken::new()).unwrap();
    run.step(&Inspect(&machine)).await.unwrap();
    let failure = run.step(&NewFormat(&machine)).await.unwrap_err();
    assert_eq!(failure.code, "LF0902");
    assert_eq!(machine.times("format"), 1);
}

#[tokio::test]
async fn step_that_was_passed_over_can_be_done_by_a_later_process() {
    let (memory, machine) = (Memory::default(), Machine::default());
    let mut run = Run::begin(memory.open(), CancellationToken::new()).unwrap();
    run.skip("inspect", "not now").unwrap();
    run.skip("format", "not now").unwrap();
    drop(run);
    assert_eq!(live(&memory, &machine).await.0, Life::Finished);
    assert_eq!(machine.all_times(), [1; 4]);
}
