//! Runs a plan step by step: recovers or runs, journals, then tells.

use std::{path::Path, time::Duration};

use landfall_proto::{
    event::{Kind, Outcome},
    failure::Failure,
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

    /// Keeps a copy of the journal at `path` from now on, in a folder that is there.
    ///
    /// It never fails the run. Where it cannot be written now, the next event tries again.
    pub fn keep_copy(&mut self, path: &Path) {
        let _ = self.journal.keep_copy(path);
    }

    /// Ends the copy of the journal: it is removed, or stays as it is now.
    pub fn end_copy(&mut self, stays: bool) {
        // one that cannot be removed says nothing that is wrong
        let _ = self.journal.end_copy(stays);
    }

    /// Returns the board on which this run is told.
    pub fn board(&self) -> Board {
        self.board.clone()
    }

    /// Returns the journal as it is so far.
    pub fn journal(&self) -> &Journal<S> {
        &self.journal
    }

    /// Does a step, or recovers it from the journal, and hands on its proof.
    ///
    /// A step that was cut off and must not be repeated is refused. A failure ends the run.
    pub async fn step<T: Step>(&mut self, step: &T) -> Result<T::Proof, Failure> {
        const { assert!(T::RETRY.tries == 1 || matches!(T::REPEAT, Repeat::Safe)) };
        let planned = self.journal.header.plan.get(self.next).map(String::as_str);
        assert_eq!(planned, Some(T::NAME), "plan and story name the same steps");
        self.next += 1;
        match self.recover_or_run(step).await {
            Ok(proof) => Ok(proof),
            Err(failure) => Err(self.end_failed(T::NAME, failure)),
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
        let skipped = self.mark(Some(name), Kind::StepFinished { outcome }, None);
        skipped.map_err(|failure| self.end_failed(name, failure))
    }

    /// Ends the run after its last step.
    pub fn finish(mut self) -> Result<(), Failure> {
        assert_eq!(
            self.next,
            self.journal.header.plan.len(),
            "all steps of the plan are over"
        );
        self.end(vec![(None, Kind::RunFinished)])
    }

    async fn recover_or_run<T: Step>(&mut self, step: &T) -> Result<T::Proof, Failure> {
        match self.before::<T>() {
            Before::Nothing => {}
            Before::CutOff if T::REPEAT == Repeat::Safe => {}
            Before::CutOff => {
                let proof = step.ended().await;
                let proof = proof.ok_or_else(|| refused::<T>("it was cut off half way"))?;
                self.over::<T>(Outcome::Recovered, &proof)?;
                return Ok(proof);
            }
            Before::Over(proof) => {
                if let Some(proof) = self.still_true(step, proof).await {
                    self.over::<T>(Outcome::Recovered, &proof)?;
                    return Ok(proof);
                }
                if T::REPEAT == Repeat::Never {
                    return Err(refused::<T>(
                        "what it did is no longer found on the machine",
                    ));
                }
            }
        }
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Err(stopped::<T>()),
            admitted = step.admit() => admitted?,
        }
        let done = self.attempts(step).await?;
        self.over::<T>(done.outcome, &done.proof)?;
        Ok(done.proof)
    }

    async fn still_true<T: Step>(&self, step: &T, proof: Value) -> Option<T::Proof> {
        let proof = serde_json::from_value(proof).ok()?;
        step.still_true(&proof).await.then_some(proof)
    }

    fn over<T: Step>(&mut self, outcome: Outcome, proof: &T::Proof) -> Result<(), Failure> {
        let value = serde_json::to_value(proof).map_err(|error| {
            Failure::new(format!("cannot journal {}", T::NAME))
                .caused_by(&error)
                .code("LF0901")
        })?;
        self.mark(Some(T::NAME), Kind::StepFinished { outcome }, Some(value))
    }

    async fn attempts<T: Step>(&mut self, step: &T) -> Result<Done<T::Proof>, Failure> {
        let before = self
            .board
            .state()
            .step(T::NAME)
            .map_or(0, |state| state.attempt);
        let attempt = before.saturating_add(1);
        if T::REPEAT == Repeat::Never {
            // its end has to be remembered, even where somebody fills the place meanwhile
            self.journal
                .reserve()
                .map_err(|error| cannot_journal(&error))?;
        }
        self.mark(Some(T::NAME), Kind::StepStarted { attempt }, None)?;
        let cx = Context::new(T::NAME, self.board.clone(), self.cancel.clone());
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(stopped::<T>()),
            result = self.tries(step, &cx) => result,
        }
    }

    async fn tries<T: Step>(&self, step: &T, cx: &Context) -> Result<Done<T::Proof>, Failure> {
        let mut tries = 1;
        loop {
            let failure = match step.run(cx).await {
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

    /// Returns what the journal says of a step, whatever processes told of it.
    ///
    /// Only a begin and an end with a proof count: a refusal says nothing about what was done before it, and neither
    /// does a story that passed the step over.
    fn before<T: Step>(&self) -> Before {
        let marks = self.journal.marks.iter().rev();
        let mut of_step = marks.filter(|mark| mark.event.step.as_deref() == Some(T::NAME));
        let last = of_step.find_map(|mark| match &mark.event.kind {
            Kind::StepStarted { .. } => Some(Before::CutOff),
            Kind::StepFinished { .. } => mark.proof.clone().map(Before::Over),
            _ => None,
        });
        last.unwrap_or(Before::Nothing)
    }

    /// Ends the run with a failure, and returns it.
    fn end_failed(&mut self, name: &str, failure: Failure) -> Failure {
        let end = match self.cancel.is_cancelled() {
            true => Kind::Aborted {
                by: "request".to_owned(),
            },
            false => Kind::RunFailed,
        };
        let failed = Kind::StepFailed {
            failure: failure.clone(),
        };
        let told = self.end(vec![(Some(name), failed), (None, end)]);
        match told {
            Ok(()) => failure,
            // the first failure is the one to look at
            Err(second) if second.code == failure.code => failure,
            Err(second) => failure.because(second.what),
        }
    }

    /// Tells how the run ended.
    ///
    /// What cannot be journaled is told all the same: whoever waits for the end would wait for ever. To a later process
    /// it is as if this one had been killed.
    fn end(&mut self, told: Vec<(Option<&str>, Kind)>) -> Result<(), Failure> {
        let mut journaled = Ok(());
        for (step, kind) in told {
            let event = self.board.next_heavy(step, kind);
            // nothing after a gap: a journal with one is refused
            if journaled.is_ok() {
                journaled = self.journal.append(Mark {
                    event: event.clone(),
                    proof: None,
                });
            }
            self.board
                .tell_heavy(event)
                .expect("a run tells its own events in order");
        }
        journaled.map_err(|error| cannot_journal(&error))
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

/// What the journal says of a step before this process does it.
#[derive(Debug)]
enum Before {
    /// It has not begun.
    Nothing,
    /// It has begun, and it is not known how far it came.
    CutOff,
    /// It was done, with this proof.
    Over(Value),
}

fn stopped<T: Step>() -> Failure {
    Failure::new(format!("cannot finish {}", T::NAME))
        .because("the run was stopped")
        .code("LF0904")
}

fn cannot_journal(error: &JournalError) -> Failure {
    Failure::new("cannot remember what was done")
        .caused_by(error)
        .code("LF0901")
}

fn refused<T: Step>(why: &str) -> Failure {
    Failure::new(format!("refusing to repeat {}", T::NAME))
        .because(why)
        .hint("look at the machine; `--fresh` begins a new run, and does everything again")
        .code("LF0902")
}
