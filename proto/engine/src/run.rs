//! Runs a plan step by step: recovers or runs, journals, then tells.

use std::time::Duration;

use landfall_proto::{
    event::{Kind, Outcome},
    failure::Failure,
    report::Status,
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{
    board::Board,
    journal::{Journal, JournalError, Mark, Store},
    step::{Context, Done, Repeat, Step},
};

/// A run under way: its journal, its board, and where it is in its plan.
#[derive(Debug)]
pub struct Run<S> {
    journal: Journal<S>,
    board: Board,
    cancel: CancellationToken,
    next: usize,
}

impl<S: Store> Run<S> {
    /// Begins a run, or takes it up where its journal ends.
    ///
    /// The plan is told first, so that a reader knows at once what there is to do.
    pub fn begin(journal: Journal<S>, cancel: CancellationToken) -> Result<Self, Failure> {
        let offset = journal.marks.last().map_or(0, |mark| mark.event.at_ms);
        let board = Board::new(Duration::from_millis(offset));
        for mark in &journal.marks {
            board
                .tell_heavy(mark.event.clone())
                .expect("the journal was checked when it was read");
        }
        let mut run = Self {
            journal,
            board,
            cancel,
            next: 0,
        };
        if run.journal.marks.is_empty() {
            let steps = run.journal.header.plan.clone();
            run.mark(None, Kind::RunStarted { steps }, None)?;
        } else {
            run.mark(None, Kind::Resumed, None)?;
        }
        Ok(run)
    }

    /// Returns the board on which this run is told.
    pub fn board(&self) -> Board {
        self.board.clone()
    }

    /// Does a step, or recovers it from the journal, and hands on its proof.
    ///
    /// A step that was cut off and must not be repeated is refused. A failure ends the run.
    pub async fn step<T: Step>(&mut self, step: &T) -> Result<T::Proof, Failure> {
        let planned = self.journal.header.plan.get(self.next).map(String::as_str);
        assert_eq!(planned, Some(T::NAME), "plan and story name the same steps");
        self.next += 1;
        let done = self.recover_or_run(step).await;
        match done {
            Ok(proof) => Ok(proof),
            Err(failure) => {
                self.end_failed(T::NAME, &failure)?;
                Err(failure)
            }
        }
    }

    /// Passes a step of the plan over.
    pub fn skip(&mut self, name: &str, reason: &str) -> Result<(), Failure> {
        let planned = self.journal.header.plan.get(self.next).map(String::as_str);
        assert_eq!(planned, Some(name), "plan and story name the same steps");
        self.next += 1;
        let outcome = Outcome::Skipped {
            reason: reason.to_owned(),
        };
        self.mark(Some(name), Kind::StepFinished { outcome }, None)
    }

    /// Ends the run after its last step.
    pub fn finish(mut self) -> Result<(), Failure> {
        assert_eq!(
            self.next,
            self.journal.header.plan.len(),
            "all steps of the plan are over"
        );
        self.mark(None, Kind::RunFinished, None)
    }

    async fn recover_or_run<T: Step>(&mut self, step: &T) -> Result<T::Proof, Failure> {
        if let Some(proof) = self.earlier_proof::<T>() {
            if step.still_true(&proof).await {
                let kind = Kind::StepFinished {
                    outcome: Outcome::Recovered,
                };
                let value = serde_json::to_value(&proof).ok();
                self.mark(Some(T::NAME), kind, value)?;
                return Ok(proof);
            }
            if T::REPEAT == Repeat::Never {
                return Err(refused::<T>(
                    "what it did is no longer found on the machine",
                ));
            }
        }
        if self.was_cut_off(T::NAME) && T::REPEAT == Repeat::Never {
            return Err(refused::<T>("it was cut off half way"));
        }
        let done = self.attempts(step).await?;
        let value = serde_json::to_value(&done.proof).map_err(|error| {
            Failure::new(format!("cannot journal {}", T::NAME)).caused_by(&error)
        })?;
        self.mark(
            Some(T::NAME),
            Kind::StepFinished {
                outcome: done.outcome,
            },
            Some(value),
        )?;
        Ok(done.proof)
    }

    async fn attempts<T: Step>(&mut self, step: &T) -> Result<Done<T::Proof>, Failure> {
        let before = self
            .board
            .state()
            .step(T::NAME)
            .map_or(0, |state| state.attempt);
        let attempt = before + 1;
        self.mark(Some(T::NAME), Kind::StepStarted { attempt }, None)?;
        let cx = Context::new(T::NAME, self.board.clone(), self.cancel.clone());
        let mut tries = 1;
        loop {
            let result = tokio::select! {
                biased;
                () = self.cancel.cancelled() => {
                    return Err(Failure::new(format!("cannot finish {}", T::NAME)).because("the run was stopped"));
                }
                result = step.run(&cx) => result,
            };
            let failure = match result {
                Ok(done) => return Ok(done),
                Err(failure) if tries >= T::RETRY.tries => return Err(failure),
                Err(failure) => failure,
            };
            tries += 1;
            let cause = failure.to_string();
            self.board.tell_light(
                Some(T::NAME),
                Kind::Retry {
                    attempt: tries,
                    cause,
                },
            );
            tokio::time::sleep(T::RETRY.pause).await;
        }
    }

    fn earlier_proof<T: Step>(&self) -> Option<T::Proof> {
        let state = self.board.state();
        if !matches!(state.step(T::NAME)?.status, Status::Finished(_)) {
            return None;
        }
        let marks = self.journal.marks.iter().rev();
        let mut of_step = marks.filter(|mark| mark.event.step.as_deref() == Some(T::NAME));
        let proof = of_step.find_map(|mark| mark.proof.clone())?;
        serde_json::from_value(proof).ok()
    }

    fn was_cut_off(&self, name: &str) -> bool {
        let state = self.board.state();
        state
            .step(name)
            .is_some_and(|step| matches!(step.status, Status::Running | Status::Failed(_)))
    }

    fn end_failed(&mut self, name: &str, failure: &Failure) -> Result<(), Failure> {
        let running = self
            .board
            .state()
            .step(name)
            .map(|step| step.status.clone());
        if running != Some(Status::Running) {
            // refused before it began: the journal shows the refusal as a try that failed
            let attempt = self.board.state().step(name).map_or(0, |step| step.attempt) + 1;
            self.mark(Some(name), Kind::StepStarted { attempt }, None)?;
        }
        self.mark(
            Some(name),
            Kind::StepFailed {
                failure: failure.clone(),
            },
            None,
        )?;
        if self.cancel.is_cancelled() {
            self.mark(
                None,
                Kind::Aborted {
                    by: "request".to_owned(),
                },
                None,
            )
        } else {
            self.mark(None, Kind::RunFailed, None)
        }
    }

    fn mark(
        &mut self,
        step: Option<&str>,
        kind: Kind,
        proof: Option<Value>,
    ) -> Result<(), Failure> {
        let event = self.board.next_heavy(step, kind);
        self.journal
            .append(Mark {
                event: event.clone(),
                proof,
            })
            .map_err(|e| cannot_journal(&e))?;
        self.board
            .tell_heavy(event)
            .expect("a run tells its own events in order");
        Ok(())
    }
}

fn cannot_journal(error: &JournalError) -> Failure {
    Failure::new("cannot remember what was done")
        .caused_by(error)
        .code("LF0901")
}

fn refused<T: Step>(why: &str) -> Failure {
    Failure::new(format!("refusing to repeat {}", T::NAME))
        .because(why)
        .hint("look at the machine; `--fresh` begins a new run, and erases what is there")
        .code("LF0902")
}
