//! Tries that follow each other, runs that are stopped, and stories that leave their plan.

use std::time::Duration;

use landfall_proto::{
    event::{Event, Kind, Outcome},
    failure::Failure,
    report::End,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Format, Inspect, Life, Machine, Memory, Wrong, live, told};
use crate::{
    run::Run,
    step::{Context, Done, Repeat, Retry, Step},
};

/// Fails twice, and then not.
struct Flaky<'a>(&'a Machine);

impl Step for Flaky<'_> {
    const NAME: &'static str = "inspect";
    const REPEAT: Repeat = Repeat::Safe;
    const RETRY: Retry = Retry {
        tries: 3,
        pause: Duration::from_secs(10),
    };
    type Proof = ();

    async fn run(&self, _: &Context) -> Result<Done<()>, Failure> {
        let worked = self.0.work("inspect").await;
        if self.0.times("inspect") < 3 {
            return Err(Failure::new(format!(
                "cannot see ({})",
                self.0.times("inspect")
            )));
        }
        worked.map(Done::new)
    }

    async fn still_true(&self, (): &()) -> bool {
        true
    }
}

fn heard(live: &mut tokio::sync::broadcast::Receiver<Event>) -> Vec<Kind> {
    std::iter::from_fn(|| live.try_recv().ok())
        .map(|event| event.kind)
        .collect()
}

fn retry(attempt: u32, cause: &str) -> Kind {
    Kind::Retry {
        attempt,
        cause: cause.to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn every_retry_is_told_and_none_is_journaled() {
    let (memory, machine) = (Memory::default(), Machine::default());
    let mut run = Run::begin(memory.open(), CancellationToken::new()).unwrap();
    let (mut live, began) = (run.board().listen(), Instant::now());
    run.step(&Flaky(&machine)).await.unwrap();
    assert_eq!(began.elapsed(), Duration::from_secs(20));
    let done = Kind::StepFinished {
        outcome: Outcome::Done,
    };
    let all = [
        Kind::StepStarted { attempt: 1 },
        retry(2, "cannot see (1)"),
        retry(3, "cannot see (2)"),
        done,
    ];
    assert_eq!(heard(&mut live), all);
    assert_eq!(
        told(&memory),
        ["run started", "inspect begins", "inspect done"]
    );
}

#[tokio::test(start_paused = true)]
async fn last_try_is_the_failure_that_counts() {
    let (memory, machine) = (Memory::default(), Machine::default());
    machine.goes_wrong("inspect", Some(Wrong::Fails));
    let mut run = Run::begin(memory.open(), CancellationToken::new()).unwrap();
    let failure = run.step(&Flaky(&machine)).await.unwrap_err();
    assert_eq!(
        (failure.what.as_str(), machine.times("inspect")),
        ("cannot inspect", 3)
    );
    assert_eq!(
        told(&memory),
        [
            "run started",
            "inspect begins",
            "inspect failed",
            "run failed"
        ]
    );
}

/// Stops a run after a time, and returns how it ended and when.
async fn stopped_after(seconds: u64, wrong: Option<Wrong>) -> (Memory, Machine, Duration) {
    let (memory, machine, cancel) = (
        Memory::default(),
        Machine::default(),
        CancellationToken::new(),
    );
    if let Some(wrong) = wrong {
        machine.goes_wrong("inspect", Some(wrong));
    }
    let began = Instant::now();
    let mut run = Run::begin(memory.open(), cancel.clone()).unwrap();
    let stop = async {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        cancel.cancel();
        std::future::pending::<()>().await;
    };
    let flaky = Flaky(&machine);
    let failure = tokio::select! {
        failed = run.step(&flaky) => failed.unwrap_err(),
        () = stop => unreachable!(),
    };
    assert_eq!(
        (failure.what.as_str(), &*failure.causes[0]),
        ("cannot finish inspect", "the run was stopped")
    );
    assert_eq!(
        run.board().state().end,
        Some(End::Aborted("request".to_owned()))
    );
    (memory, machine, began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn run_is_stopped_while_a_step_is_under_way() {
    let (memory, machine, after) = stopped_after(25, Some(Wrong::Hangs)).await;
    assert_eq!(
        (machine.times("inspect"), after),
        (1, Duration::from_secs(25))
    );
    assert_eq!(
        told(&memory),
        [
            "run started",
            "inspect begins",
            "inspect failed",
            "run aborted"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn run_is_stopped_while_it_waits_for_another_try() {
    let (_, machine, after) = stopped_after(3, None).await;
    assert_eq!(
        (machine.times("inspect"), after),
        (1, Duration::from_secs(3))
    );
}

#[tokio::test]
async fn run_that_is_stopped_before_a_step_leaves_it_not_begun() {
    let (memory, machine, cancel) = (
        Memory::default(),
        Machine::default(),
        CancellationToken::new(),
    );
    let mut run = Run::begin(memory.open(), cancel.clone()).unwrap();
    run.step(&Inspect(&machine)).await.unwrap();
    cancel.cancel();
    run.step(&Format(&machine)).await.unwrap_err();
    drop(run);
    let stopped = [
        "run started",
        "inspect begins",
        "inspect done",
        "format failed",
        "run aborted",
    ];
    assert_eq!(told(&memory), stopped);
    assert_eq!(live(&memory, &machine).await.0, Life::Finished);
    assert_eq!(machine.all_times(), [1; 4]);
}

#[tokio::test]
async fn story_that_leaves_the_plan_is_caught_before_it_does_anything() {
    let (memory, machine) = (Memory::default(), Machine::default());
    let (kept, touched) = (memory.clone(), machine.clone());
    let jump = tokio::spawn(async move {
        let mut run = Run::begin(kept.open(), CancellationToken::new()).unwrap();
        let _ = run.step(&Format(&touched)).await;
    });
    assert!(jump.await.unwrap_err().is_panic());
    let kept = memory.clone();
    let early = tokio::spawn(async move {
        let run = Run::begin(kept.open(), CancellationToken::new()).unwrap();
        let _ = run.finish();
    });
    assert!(early.await.unwrap_err().is_panic());
    assert_eq!(machine.all_times(), [0; 4]);
    assert_eq!(told(&memory), ["run resumed"]);
}
