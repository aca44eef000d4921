//! Waits until the system's closure is in the store on the target's disk.

use engine::step::{Context, Done, Repeat, Step};
use landfall_proto::{
    failure::Failure,
    order::{Input, StorePath, StoreRoot},
};
use serde::{Deserialize, Serialize};

use super::{Deliveries, Mounts};
use crate::machine::Machine;

/// Waits for the system.
#[derive(Debug)]
pub struct Copy<'a, D> {
    /// The machine.
    pub machine: &'a Machine,
    /// Who brings it.
    pub deliveries: &'a D,
    /// The system.
    pub system: &'a StorePath,
    /// Where it goes.
    pub mounts: &'a Mounts,
}

/// A system that is complete in the store on the target's disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// The system.
    pub system: StorePath,
}

impl<D: Deliveries> Step for Copy<'_, D> {
    const NAME: &'static str = "copy";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = Copied;

    async fn run(&self, cx: &Context) -> Result<Done<Copied>, Failure> {
        self.machine.forget_seal()?;
        if self.mounts.mounts.is_empty() {
            return Err(Failure::new("cannot install to /mnt")
                .because("nothing is mounted there: a disko script of mode format only creates what is missing")
                .hint("run the same command with `--disko-mode mount`")
                .code("LF1503"));
        }
        cx.waiting("the system's closure");
        self.deliveries.input(Input::System).await?;
        if !self
            .machine
            .store_has(StoreRoot::Target, self.system)
            .await?
        {
            return Err(Failure::new(format!("cannot install {}", self.system))
                .because("it is not complete in the store below /mnt")
                .hint("run the same command again; it sends what is missing")
                .code("LF1303"));
        }
        Ok(Done::new(Copied {
            system: self.system.clone(),
        }))
    }

    async fn still_true(&self, proof: &Copied) -> bool {
        let found = self
            .machine
            .store_has(StoreRoot::Target, &proof.system)
            .await;
        found.unwrap_or(false) && proof.system == *self.system
    }
}

#[cfg(test)]
mod tests {
    use landfall_proto::facts::Mounted;

    use super::*;
    use crate::{
        machine::{command::Ended, stage::Stage},
        steps::rehearsal::{Delivered, run},
    };

    const SYSTEM: &str = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-nixos-system-x";

    async fn copy(mounts: Vec<Mounted>, answer: Ended) -> Result<Copied, Failure> {
        let line = "nix-store --store local?root=/mnt --check-validity";
        let stage = Stage::new().nix(&[(line, answer)]);
        let (machine, deliveries) = (stage.machine(), Delivered("/".into()));
        let (system, mounts) = (SYSTEM.parse().unwrap(), Mounts { mounts });
        run(&Copy {
            machine: &machine,
            deliveries: &deliveries,
            system: &system,
            mounts: &mounts,
        })
        .await
    }

    #[tokio::test]
    async fn disks_that_are_copied_to_are_no_longer_those_that_were_sealed() {
        let line = "nix-store --store local?root=/mnt --check-validity";
        let stage = Stage::new().nix(&[(line, Ended::answer(0, "", ""))]);
        let stage = stage.file("run/landfall/lock", "");
        let (machine, deliveries) = (stage.machine(), Delivered("/".into()));
        machine.set_sealed_for("order").unwrap();
        assert!(machine.is_sealed_for("order") && !machine.is_sealed_for("other"));
        run(&Copy {
            machine: &machine,
            deliveries: &deliveries,
            system: &SYSTEM.parse().unwrap(),
            mounts: &Mounts {
                mounts: vec![Mounted::default()],
            },
        })
        .await
        .unwrap();
        assert!(!machine.is_sealed_for("order"));
    }

    #[tokio::test]
    async fn word_of_the_controller_is_checked() {
        let mounts = || vec![Mounted::default()];
        assert!(copy(mounts(), Ended::answer(0, "", "")).await.is_ok());
        let invalid = Ended::answer(1, "", "error: path is not valid");
        assert_eq!(copy(mounts(), invalid).await.unwrap_err().code, "LF1303");
        let nowhere = copy(Vec::new(), Ended::answer(0, "", "")).await;
        assert_eq!(nowhere.unwrap_err().code, "LF1503");
    }
}
