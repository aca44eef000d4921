//! The last step: says that the machine may reboot. It does so once the controller has seen it.

use engine::step::{Context, Done, Repeat, Step};
use landfall_proto::failure::Failure;
use serde::{Deserialize, Serialize};

use super::Sealed;
use crate::machine::Machine;

/// Says that the machine may reboot.
#[derive(Debug)]
pub struct Reboot<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// Its disks, which nobody uses any more.
    pub sealed: &'a Sealed,
}

/// A boot that ends as soon as the controller lets go of the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebooting {
    /// Name of the boot that ends.
    pub boot_id: String,
}

impl Step for Reboot<'_> {
    const NAME: &'static str = "reboot";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = Rebooting;

    async fn run(&self, _: &Context) -> Result<Done<Rebooting>, Failure> {
        Ok(Done::new(Rebooting {
            boot_id: self.machine.boot_id(),
        }))
    }

    async fn still_true(&self, proof: &Rebooting) -> bool {
        proof.boot_id == self.machine.boot_id()
    }
}
