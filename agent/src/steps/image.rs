//! Waits for the installer's image.

use std::path::PathBuf;

use engine::step::{Context, Done, Repeat, Step};
use landfall_proto::{failure::Failure, order::Blob};
use serde::{Deserialize, Serialize};

use super::Deliveries;
use crate::machine::Machine;

/// Waits for the installer's image.
#[derive(Debug)]
pub struct Image<'a, D> {
    /// The machine.
    pub machine: &'a Machine,
    /// Who brings it.
    pub deliveries: &'a D,
    /// What is waited for.
    pub blob: &'a Blob,
}

/// An image that arrived whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrived {
    /// Where it lies.
    pub path: PathBuf,
    /// Its length in bytes.
    pub size: u64,
}

impl<D: Deliveries> Step for Image<'_, D> {
    const NAME: &'static str = "image";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = Arrived;

    async fn run(&self, cx: &Context) -> Result<Done<Arrived>, Failure> {
        cx.waiting("the installer's image");
        let path = self.deliveries.blob(self.blob).await?;
        Ok(Done::new(Arrived {
            path,
            size: self.blob.size,
        }))
    }

    async fn still_true(&self, proof: &Arrived) -> bool {
        let (path, size) = (proof.path.clone(), proof.size);
        self.machine
            .blocking(move |machine| machine.has_file(&path, size))
            .await
    }
}
