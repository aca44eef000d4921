//! Takes up disks that an earlier boot of this run has formatted: the power was cut, and the journal in memory is gone.
//!
//! Never formats. What was done is looked for on the disks themselves: the configuration's own mount script has to find its
//! file systems, and on them has to be what this run wrote there once it had formatted and mounted them.

use engine::{
    journal::Mark,
    step::{Context, Done, Repeat, Step},
};
use landfall_proto::{
    event::{Kind, Outcome},
    failure::Failure,
    order::StorePath,
};

use super::{Format, Formatted, format::NAME};
use crate::machine::{Machine, command::Command, mend::Mended};

/// Mounts what this run has formatted in an earlier boot.
#[derive(Debug)]
pub struct FormatAgain<'a> {
    /// What was ordered then.
    pub format: Format<'a>,
    /// The script that mounts what that made.
    pub script: &'a StorePath,
}

impl Step for FormatAgain<'_> {
    const NAME: &'static str = NAME;
    // it only mounts, and decides by what it finds
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = Formatted;

    async fn run(&self, cx: &Context) -> Result<Done<Formatted>, Failure> {
        self.mount(cx).await?;
        match self.found().await {
            Ok(proof) => {
                self.mend(cx).await?;
                Ok(Done {
                    proof,
                    outcome: Outcome::Recovered,
                })
            }
            Err(why) => {
                self.let_go(cx).await;
                Err(refused().because(why))
            }
        }
    }

    async fn still_true(&self, proof: &Formatted) -> bool {
        self.format.still_true(proof).await
    }
}

impl FormatAgain<'_> {
    async fn mount(&self, cx: &Context) -> Result<(), Failure> {
        let command = Command::new(self.script.as_str());
        let token = cx.cancel_token();
        let programs = self.format.machine.programs();
        let ended = programs.run(&command, &token, |_, line| cx.line(line));
        let mounted = ended.await?.success("cannot mount the disks");
        if let Err(failure) = mounted {
            self.let_go(cx).await;
            return Err(refused().because(failure.in_one_line()));
        }
        Ok(())
    }

    /// Returns what an earlier boot of this run has proved of the disks, if it is still true.
    async fn found(&self) -> Result<Formatted, String> {
        let run = self.format.run.clone();
        let read = move |machine: &Machine| machine.journal_on_target(&run);
        let marks = self.format.machine.blocking(read).await?;
        let proof = marks.iter().rev().find_map(formatted);
        let proof = proof.ok_or("the journal on them does not say that the format ended")?;
        match self.format.still_true(&proof).await {
            true => Ok(proof),
            false => Err("they were partitioned in another way since".to_owned()),
        }
    }

    /// Takes out of the store what the power cut has spoiled: the copy brings it again.
    async fn mend(&self, cx: &Context) -> Result<(), Failure> {
        cx.waiting("what is in the store to be checked: the power was cut");
        match self.format.machine.mend_store(&cx.cancel_token()).await? {
            Mended::Nothing => {}
            Mended::Paths(count) => cx.line(format!(
                "{count} store paths had not reached the disk; they are copied again"
            )),
            Mended::Books => {
                cx.line("the store's books had not reached the disk; all of it is copied again");
            }
        }
        Ok(())
    }

    /// Leaves the disks as they were found, as far as that goes.
    async fn let_go(&self, cx: &Context) {
        let machine = self.format.machine;
        // whoever formats anew lets go of them first
        let _ = machine.unmount_target(&cx.cancel_token()).await;
        machine.close_layers(&cx.cancel_token()).await;
    }
}

/// Returns the proof of a format that ended.
fn formatted(mark: &Mark) -> Option<Formatted> {
    let over = matches!(mark.event.kind, Kind::StepFinished { .. });
    if !over || mark.event.step.as_deref() != Some(NAME) {
        return None;
    }
    serde_json::from_value(mark.proof.clone()?).ok()
}

fn refused() -> Failure {
    Failure::new("refusing to format the disks a second time")
        .because("this run began to format them before the machine was booted anew, and what is on them does not show that it ended")
        .hint("look at the disks: `lsblk -f` on the machine")
        .hint("`--fresh` begins a new run, and formats them again")
        .code("LF0905")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use engine::{
        journal::{Header, Journal},
        run::Run,
    };
    use landfall_proto::order::{Disko, DiskoMode, RunId};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        machine::{TARGET, command::Ended, stage::Stage},
        steps::ToolsReady,
    };

    const FORMAT: &str = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-disko";
    const MOUNT: &str = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-mount";

    fn stage(mounts: Ended) -> Stage {
        Stage::new()
            .mounted()
            .file("mnt/etc/NIXOS", "")
            .answer(FORMAT, Ended::answer(0, "", ""))
            .answer(MOUNT, mounts)
    }

    fn disko() -> Disko {
        Disko {
            script: FORMAT.parse().unwrap(),
            mode: DiskoMode::Disko,
            disks: Vec::new(),
            again: Some(MOUNT.parse().unwrap()),
        }
    }

    /// A boot of the machine: its journal is gone with it.
    fn boot(folder: &Path, run: u8) -> Run<engine::journal::FileStore> {
        let header = Header::new(RunId::from_bytes([run; 16]), &[NAME], String::new(), 0);
        let journal = Journal::open(&folder.join("journal"), header).unwrap();
        Run::begin(journal, CancellationToken::new()).unwrap()
    }

    /// Formats as the first boot of run 1 does; the power goes before or after the journal lies on the disks.
    async fn first(stage: &Stage, leaves_journal: bool) -> Formatted {
        let (order, machine) = (disko(), stage.machine());
        let tools = ToolsReady {
            script: order.script.clone(),
        };
        let folder = tempfile::tempdir().unwrap();
        let mut run = boot(folder.path(), 1);
        let format = Format {
            machine: &machine,
            order: &order,
            tools: &tools,
            run: &RunId::from_bytes([1; 16]),
        };
        let formatted = run.step(&format).await.unwrap();
        if leaves_journal {
            run.keep_copy(&machine.place_on_target().await.unwrap());
        }
        formatted
    }

    /// Returns which of disko's scripts were run.
    fn scripts(stage: &Stage) -> Vec<String> {
        let mut asked = stage.asked();
        asked.retain(|line| line.starts_with("/nix/store/"));
        asked
    }

    async fn again(stage: &Stage, id: u8) -> Result<Formatted, Failure> {
        let (order, machine) = (disko(), stage.machine());
        let (script, run) = (order.again.clone().unwrap(), RunId::from_bytes([id; 16]));
        let tools = ToolsReady {
            script: order.script.clone(),
        };
        let format = Format {
            machine: &machine,
            order: &order,
            tools: &tools,
            run: &run,
        };
        let step = FormatAgain {
            format,
            script: &script,
        };
        let folder = tempfile::tempdir().unwrap();
        boot(folder.path(), id).step(&step).await
    }

    #[tokio::test]
    async fn what_an_earlier_boot_formatted_is_mounted_and_not_formatted() {
        let stage = stage(Ended::answer(0, "", ""));
        let formatted = first(&stage, true).await;
        for _ in 0..2 {
            assert_eq!(again(&stage, 1).await, Ok(formatted.clone()));
        }
        assert_eq!(scripts(&stage), [FORMAT, MOUNT, MOUNT]);
    }

    #[tokio::test]
    async fn disks_without_the_journal_of_this_run_are_left_to_a_person() {
        let stage = stage(Ended::answer(0, "", ""));
        first(&stage, false).await;
        let refused = again(&stage, 1).await.unwrap_err();
        assert_eq!(refused.code, "LF0905");
        assert_eq!(refused.causes[1], "there is no journal of this run on them");
        // nobody else's disks stay mounted
        assert!(!stage.machine().is_mount_point(TARGET));
        assert_eq!(scripts(&stage), [FORMAT, MOUNT]);
    }

    #[tokio::test]
    async fn disks_of_another_run_are_left_to_a_person() {
        let stage = stage(Ended::answer(0, "", ""));
        first(&stage, true).await;
        let refused = again(&stage, 2).await.unwrap_err();
        assert_eq!(refused.code, "LF0905");
        assert!(refused.causes[1].starts_with("the journal on them is of run 0101"));
    }

    #[tokio::test]
    async fn disks_that_cannot_be_mounted_are_left_to_a_person() {
        let stage = stage(Ended::answer(1, "", "no such device"));
        first(&stage, true).await;
        let refused = again(&stage, 1).await.unwrap_err();
        assert_eq!(refused.code, "LF0905");
        assert!(refused.causes[1].contains("no such device"));
    }
}
