//! Looks at the machine before anything is changed.

use engine::step::{Context, Done, Repeat, Step};
use landfall_proto::{
    facts::{Disk, Firmware},
    failure::Failure,
};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;

/// Looks at the machine.
#[derive(Debug)]
pub struct Inspect<'a> {
    /// The machine.
    pub machine: &'a Machine,
}

/// The machine as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspected {
    /// Name of the boot in which it was looked at.
    pub boot_id: String,
    /// How the machine booted.
    pub firmware: Firmware,
    /// Its disks.
    pub disks: Vec<Disk>,
}

impl Step for Inspect<'_> {
    const NAME: &'static str = "inspect";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = Inspected;

    async fn run(&self, _: &Context) -> Result<Done<Inspected>, Failure> {
        let disks = self.machine.disks().await;
        let (boot_id, firmware) = (self.machine.boot_id(), self.machine.firmware());
        Ok(Done::new(Inspected {
            boot_id,
            firmware,
            disks,
        }))
    }

    async fn still_true(&self, proof: &Inspected) -> bool {
        proof.boot_id == self.machine.boot_id()
    }
}
