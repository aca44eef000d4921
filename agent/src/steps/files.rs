//! Puts the operator's files and the installer's host keys into the new system.

use engine::step::{Context, Done, Repeat, Step};
use landfall_proto::{event::Unit, failure::Failure, order::System};
use serde::{Deserialize, Serialize};

use super::{Deliveries, Mounts};
use crate::machine::{Machine, archive::Links};

/// Puts files below `/mnt`.
#[derive(Debug)]
pub struct Files<'a, D> {
    /// The machine.
    pub machine: &'a Machine,
    /// Who brings them.
    pub deliveries: &'a D,
    /// What was asked for.
    pub order: &'a System,
    /// Where they go.
    pub mounts: &'a Mounts,
}

/// Files that are in their places.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// Hash of the archive they came from.
    pub archive: Option<String>,
    /// How many host key files were copied.
    pub host_keys: usize,
}

impl<D: Deliveries> Step for Files<'_, D> {
    const NAME: &'static str = "files";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = Placed;

    async fn run(&self, cx: &Context) -> Result<Done<Placed>, Failure> {
        let archive = self.unpack(cx).await?;
        let mut host_keys = 0;
        if self.order.copy_host_keys {
            host_keys = self.machine.blocking(Machine::copy_host_keys).await?;
        }
        let placed = Placed { archive, host_keys };
        if self.order.extra_files.is_none() && !self.order.copy_host_keys {
            return Ok(Done::skipped(placed, "no files to add"));
        }
        Ok(Done::new(placed))
    }

    /// Cheap to do again, and it heals what was changed in between.
    async fn still_true(&self, proof: &Placed) -> bool {
        *proof
            == Placed {
                archive: None,
                host_keys: 0,
            }
            && !self.order.copy_host_keys
    }
}

impl<D: Deliveries> Files<'_, D> {
    async fn unpack(&self, cx: &Context) -> Result<Option<String>, Failure> {
        let Some(blob) = &self.order.extra_files else {
            return Ok(None);
        };
        cx.waiting("the extra files");
        let (archive, total) = (self.deliveries.blob(blob).await?, blob.size);
        let stop = cx.cancel_token().child_token();
        let _stopped_when_dropped = stop.clone().drop_guard();
        let told = cx.clone();
        let progress = move |done| told.progress(done, Some(total), Unit::Bytes);
        let unpacked = self.machine.blocking(move |machine| {
            machine.unpack_to_target(&archive, Links::Anywhere, &stop, progress)
        });
        unpacked.await?;
        Ok(Some(blob.hash.to_string()))
    }
}
