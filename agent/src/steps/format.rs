//! Runs disko's script. From here on the disks are not what they were.

use engine::step::{Context, Done, Repeat, Step};
use landfall_proto::{
    failure::Failure,
    order::{ConsentedDisk, Disko, DiskoMode, RunId},
};
use serde::{Deserialize, Serialize};

use super::ToolsReady;
use crate::machine::{Machine, TARGET, command::Command};

pub(super) const NAME: &str = "format";

/// Runs a script that may erase disks: once, and only on the disks that were agreed to.
#[derive(Debug)]
pub struct Format<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// What was asked for.
    pub order: &'a Disko,
    /// The script, complete.
    pub tools: &'a ToolsReady,
    /// The run that it belongs to.
    pub run: &'a RunId,
}

/// Runs a script that only mounts, which may be done again at any time.
#[derive(Debug)]
pub struct MountOnly<'a>(pub Format<'a>);

/// Disks as the script left them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Formatted {
    /// Device and layout of its partitions, for each disk that was agreed to, or else for each that there is.
    pub layouts: Vec<(String, String)>,
    /// What was mounted below `/mnt`.
    pub mounts: Vec<String>,
}

impl Step for Format<'_> {
    const NAME: &'static str = NAME;
    const REPEAT: Repeat = Repeat::Never;
    type Proof = Formatted;

    async fn admit(&self) -> Result<(), Failure> {
        match self.order.mode {
            DiskoMode::Mount => Ok(()),
            DiskoMode::Disko | DiskoMode::Format => self.consented().await,
        }
    }

    async fn run(&self, cx: &Context) -> Result<Done<Formatted>, Failure> {
        self.machine.forget_seal()?;
        self.execute(cx).await?;
        // looking at the disks takes a while; without the mark the journal's line has to do
        let _ = self.machine.set_formatted(self.run);
        Ok(Done::new(self.formatted().await))
    }

    async fn ended(&self) -> Option<Formatted> {
        match self.machine.is_formatted(self.run) {
            true => Some(self.formatted().await),
            false => None,
        }
    }

    async fn still_true(&self, proof: &Formatted) -> bool {
        let now = self.layouts().await;
        proof.layouts.iter().all(|layout| now.contains(layout))
    }
}

impl Step for MountOnly<'_> {
    const NAME: &'static str = NAME;
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = Formatted;

    async fn run(&self, cx: &Context) -> Result<Done<Formatted>, Failure> {
        self.0.run(cx).await
    }

    async fn still_true(&self, proof: &Formatted) -> bool {
        self.0.still_true(proof).await && self.0.machine.is_mount_point(TARGET)
    }
}

impl Format<'_> {
    async fn consented(&self) -> Result<(), Failure> {
        let agreed = self.order.disks.clone();
        let check = move |machine: &Machine| {
            agreed
                .iter()
                .try_for_each(|disk| match machine.changed_since_consent(disk) {
                    None => Ok(()),
                    Some(change) => Err(refusal(disk, &change)),
                })
        };
        self.machine.blocking(check).await
    }

    async fn execute(&self, cx: &Context) -> Result<(), Failure> {
        let script = self.tools.script.as_str();
        let (command, verb) = (Command::new(script), verb(self.order.mode));
        let token = cx.cancel_token();
        let ended = self
            .machine
            .programs()
            .run(&command, &token, |_, line| cx.line(line))
            .await;
        let ended = ended.map_err(|failure| failure.under(format!("cannot {verb} the disks")))?;
        ended
            .success(&format!("cannot {verb} the disks"))
            .map(drop)
            .map_err(|failure| {
                failure
                    .hint("the lines above the error show which command of the script failed")
                    .code("LF1502")
            })
    }

    async fn formatted(&self) -> Formatted {
        let mounts = self.machine.mounts_below(TARGET);
        let shown = |mount: &crate::machine::mounts::Mount| {
            format!("{} {} {}", mount.target.display(), mount.kind, mount.source)
        };
        Formatted {
            layouts: self.layouts().await,
            mounts: mounts.iter().map(shown).collect(),
        }
    }

    async fn layouts(&self) -> Vec<(String, String)> {
        let mut devices: Vec<_> = self
            .order
            .disks
            .iter()
            .map(|disk| disk.device.clone())
            .collect();
        if devices.is_empty() {
            devices = self
                .machine
                .disks()
                .await
                .into_iter()
                .map(|disk| disk.device)
                .collect();
        }
        let layouts = move |machine: &Machine| {
            let layout = |device: String| machine.layout(&device).map(|layout| (device, layout));
            devices.into_iter().filter_map(layout).collect()
        };
        self.machine.blocking(layouts).await
    }
}

fn verb(mode: DiskoMode) -> &'static str {
    match mode {
        DiskoMode::Disko | DiskoMode::Format => "format",
        DiskoMode::Mount => "mount",
    }
}

fn refusal(disk: &ConsentedDisk, change: &str) -> Failure {
    let device = &disk.device;
    Failure::new(format!("refusing to format {device}, which is not the disk that was agreed to ({change})"))
        .hint("look at the disks with `landfall check`, correct the configuration and run the command again")
        .code("LF1501")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use engine::{
        journal::{Header, Journal},
        run::Run,
    };
    use landfall_proto::{
        event::Outcome,
        report::{Status, StepState},
    };
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        machine::{command::Ended, files, stage::Stage},
        steps::rehearsal::run,
    };

    const SCRIPT: &str = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-disko";

    fn ordered(serial: &str, mode: DiskoMode) -> (Disko, ToolsReady) {
        let disk = ConsentedDisk {
            device: "/dev/vda".to_owned(),
            size: 1 << 30,
            serial: Some(serial.to_owned()),
            beginning: None,
        };
        let order = Disko {
            script: SCRIPT.parse().unwrap(),
            mode,
            disks: vec![disk],
            again: None,
        };
        let tools = ToolsReady {
            script: order.script.clone(),
        };
        (order, tools)
    }

    async fn format(stage: &Stage, serial: &str, mode: DiskoMode) -> Result<Formatted, Failure> {
        let ((order, tools), machine) = (ordered(serial, mode), stage.machine());
        run(&Format {
            machine: &machine,
            order: &order,
            tools: &tools,
            run: &RunId::from_bytes([1; 16]),
        })
        .await
    }

    /// Formats as one process of a run that has a journal here.
    async fn format_on(
        journal: &Path,
        stage: &Stage,
        serial: &str,
    ) -> (Result<Formatted, Failure>, Vec<StepState>) {
        let ((order, tools), machine) = (ordered(serial, DiskoMode::Disko), stage.machine());
        let header = Header::new(RunId::from_bytes([1; 16]), &[NAME], String::new(), 0);
        let journal = Journal::open(journal, header).unwrap();
        let mut run = Run::begin(journal, CancellationToken::new()).unwrap();
        let format = Format {
            machine: &machine,
            order: &order,
            tools: &tools,
            run: &RunId::from_bytes([1; 16]),
        };
        let formatted = run.step(&format).await;
        (formatted, run.board().state().steps)
    }

    #[tokio::test]
    async fn only_the_disk_that_was_agreed_to_is_formatted() {
        let stage = Stage::new()
            .mounted()
            .answer(SCRIPT, Ended::answer(0, "", "+ sgdisk"));
        let failure = format(&stage, "B", DiskoMode::Disko).await.unwrap_err();
        let said = "refusing to format /dev/vda, which is not the disk that was agreed to (serial B, now A)";
        assert_eq!(
            (failure.what.as_str(), failure.code.as_str()),
            (said, "LF1501")
        );
        assert_eq!(stage.asked(), [""; 0]);

        let formatted = format(&stage, "A", DiskoMode::Disko).await.unwrap();
        assert_eq!(stage.asked(), [SCRIPT]);
        assert_eq!(
            formatted.layouts,
            [("/dev/vda".to_owned(), "1073741824 []".to_owned())]
        );
        assert_eq!(formatted.mounts, ["/mnt ext4 /dev/vda"]);
    }

    #[tokio::test]
    async fn refused_disk_does_not_block_the_runs_after_it() {
        let place = tempfile::tempdir().unwrap();
        let journal = place.path().join("journal.jsonl");
        let stage = Stage::new()
            .mounted()
            .answer(SCRIPT, Ended::answer(0, "", ""));
        for _ in 0..2 {
            let (refused, steps) = format_on(&journal, &stage, "B").await;
            assert_eq!(refused.as_ref().unwrap_err().code, "LF1501");
            assert_eq!(steps[0].status, Status::Failed(refused.unwrap_err()));
            assert_eq!(steps[0].attempt, 0);
        }
        assert_eq!(stage.asked(), [""; 0]);
        // the disk that was agreed to is back
        let (formatted, _) = format_on(&journal, &stage, "A").await;
        assert!(formatted.is_ok());
        assert_eq!(stage.asked(), [SCRIPT]);
    }

    #[tokio::test]
    async fn script_that_failed_is_not_run_again() {
        let place = tempfile::tempdir().unwrap();
        let journal = place.path().join("journal.jsonl");
        let stage = Stage::new()
            .disk()
            .answer(SCRIPT, Ended::answer(1, "", "no space"));
        let (failed, _) = format_on(&journal, &stage, "A").await;
        assert_eq!(failed.unwrap_err().code, "LF1502");
        let (refused, _) = format_on(&journal, &stage, "A").await;
        assert_eq!(refused.unwrap_err().code, "LF0902");
        assert_eq!(stage.asked(), [SCRIPT]);
    }

    #[tokio::test]
    async fn format_whose_end_was_not_journaled_is_known_by_its_own_run_alone() {
        let place = tempfile::tempdir().unwrap();
        let stage = Stage::new()
            .mounted()
            .answer(SCRIPT, Ended::answer(0, "", ""));
        files::private_directory(stage.machine().dir()).unwrap();
        let journal = place.path().join("journal.jsonl");
        let (formatted, _) = format_on(&journal, &stage, "A").await;
        // as an agent leaves it that was killed while it looked at the disks
        let text = String::from_utf8(files::read(&journal, 1 << 20).unwrap()).unwrap();
        let cut = text.find("step_finished").unwrap();
        let cut = text[..cut].rfind('\n').unwrap() + 1;
        files::write(&journal, &text.as_bytes()[..cut], 0o600).unwrap();
        let (again, steps) = format_on(&journal, &stage, "A").await;
        assert_eq!(again, formatted);
        assert_eq!(steps[0].status, Status::Finished(Outcome::Recovered));
        assert_eq!(stage.asked(), [SCRIPT]);

        files::write(&journal, &text.as_bytes()[..cut], 0o600).unwrap();
        let other = RunId::from_bytes([2; 16]);
        stage.machine().set_formatted(&other).unwrap();
        let (refused, _) = format_on(&journal, &stage, "A").await;
        assert_eq!(refused.unwrap_err().code, "LF0902");
        assert_eq!(stage.asked(), [SCRIPT]);
    }

    #[tokio::test]
    async fn mounting_asks_for_no_consent() {
        let stage = Stage::new()
            .mounted()
            .answer(SCRIPT, Ended::answer(0, "", ""));
        assert!(format(&stage, "B", DiskoMode::Mount).await.is_ok());
    }

    #[tokio::test]
    async fn script_that_failed_is_a_failure() {
        let answer = Ended::answer(1, "", "/dev/vda1 is apparently in use by the system");
        let stage = Stage::new().disk().answer(SCRIPT, answer);
        let failure = format(&stage, "A", DiskoMode::Disko).await.unwrap_err();
        assert_eq!(failure.what, "cannot format the disks");
        assert_eq!(
            failure.causes[2],
            "/dev/vda1 is apparently in use by the system"
        );
    }
}
