//! Runs single steps in tests: a run that forgets, and deliveries that are there already.

use std::path::PathBuf;

use engine::{
    journal::{Header, Journal, JournalError, Store},
    run::Run,
    step::Step,
};
use landfall_proto::{
    failure::Failure,
    order::{Blob, Input, RunId},
};
use tokio_util::sync::CancellationToken;

use super::Deliveries;

/// Runs a step on its own.
pub(super) async fn run<T: Step>(step: &T) -> Result<T::Proof, Failure> {
    let header = Header::new(RunId::from_bytes([1; 16]), &[T::NAME], String::new(), 0);
    let journal = Journal::begin(Forgetful, header).unwrap();
    Run::begin(journal, CancellationToken::new())
        .unwrap()
        .step(step)
        .await
}

/// A journal that keeps nothing.
struct Forgetful;

impl Store for Forgetful {
    fn append(&mut self, _: &[u8]) -> Result<(), JournalError> {
        Ok(())
    }
}

/// Deliveries that are there already; every blob is this file.
pub(super) struct Delivered(pub(super) PathBuf);

impl Deliveries for Delivered {
    async fn blob(&self, _: &Blob) -> Result<PathBuf, Failure> {
        Ok(self.0.clone())
    }

    async fn input(&self, _: Input) -> Result<(), Failure> {
        Ok(())
    }
}

/// A blob with this length and no particular content.
pub(super) fn blob(size: u64) -> Blob {
    Blob {
        hash: "0".repeat(64).try_into().unwrap(),
        size,
    }
}
