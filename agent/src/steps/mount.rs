//! Makes sure that the new system's file systems are mounted: whatever is written to `/mnt` else fills the memory.

use engine::step::{Context, Done, Repeat, Step};
use landfall_proto::{facts::Mounted, failure::Failure, order::DiskoMode};
use serde::{Deserialize, Serialize};

use super::Formatted;
use crate::machine::{Machine, TARGET};

/// Makes sure that something is mounted at `/mnt`.
#[derive(Debug)]
pub struct Mount<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// The disks, and what the script did to them; nothing when somebody else mounted.
    pub formatted: Option<(&'a Formatted, DiskoMode)>,
    /// Whether this run has begun to take down what was mounted: what is left of it is not enough.
    pub let_go: bool,
}

/// File systems that are mounted below `/mnt`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounts {
    /// The mounts, in the order in which they were made.
    pub mounts: Vec<Mounted>,
}

impl Step for Mount<'_> {
    const NAME: &'static str = "mount";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = Mounts;

    async fn run(&self, _: &Context) -> Result<Done<Mounts>, Failure> {
        if self.let_go {
            return Err(sealed());
        }
        if self.machine.is_mount_point(TARGET) {
            return Ok(Done::new(self.mounts()));
        }
        // nothing else may have been asked for; who wants to write to /mnt looks at the proof
        if let Some((_, DiskoMode::Format)) = self.formatted {
            return Ok(Done::skipped(
                Mounts::default(),
                "a script of mode format mounts nothing",
            ));
        }
        Err(self.missing())
    }

    async fn still_true(&self, proof: &Mounts) -> bool {
        let now = self.mounts();
        proof.mounts.iter().all(|mount| now.mounts.contains(mount))
    }
}

impl Mount<'_> {
    fn mounts(&self) -> Mounts {
        Mounts {
            mounts: self
                .machine
                .mounts_below(TARGET)
                .iter()
                .map(Into::into)
                .collect(),
        }
    }

    fn missing(&self) -> Failure {
        let failure = Failure::new(format!("cannot install to {TARGET}")).code("LF1503");
        match self.formatted {
            None => failure
                .because("nothing is mounted there, and no disko script was asked for")
                .hint("mount the file systems first, or add `disko` to `--phases`"),
            Some(_) => failure
                .because("nothing is mounted there, although the disko script ended well")
                .hint("look at `disko.rootMountPoint`, which must be `/mnt`"),
        }
    }
}

fn sealed() -> Failure {
    Failure::new("refusing to install to disks that were let go of")
        .because("this run has unmounted them for the reboot, and something else is asked for now")
        .hint("`--disko-mode mount` mounts them again, formats nothing, and installs what is asked for")
        .hint("or boot the machine: it has the system that was asked for before")
        .code("LF1504")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{machine::stage::Stage, steps::rehearsal::run};

    #[tokio::test]
    async fn memory_is_not_taken_for_a_disk() {
        let formatted = Formatted {
            layouts: Vec::new(),
            mounts: Vec::new(),
        };
        let mount = async |stage: &Stage, mode: Option<DiskoMode>| {
            let machine = stage.machine();
            let formatted = mode.map(|mode| (&formatted, mode));
            run(&Mount {
                machine: &machine,
                formatted,
                let_go: false,
            })
            .await
        };
        for mode in [None, Some(DiskoMode::Disko), Some(DiskoMode::Mount)] {
            assert_eq!(mount(&Stage::new(), mode).await.unwrap_err().code, "LF1503");
        }
        assert_eq!(
            mount(&Stage::new(), Some(DiskoMode::Format)).await,
            Ok(Mounts::default())
        );
        let mounts = mount(&Stage::new().mounted(), None).await.unwrap();
        assert_eq!(mounts.mounts[0].target, "/mnt");
    }
}
