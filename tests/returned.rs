//! Nobody comes to the installer any more: the machine boots its old system again, and nothing of it was changed.
//!
//! Covers: agent/src/deadman.rs, agent/src/machine/timer.rs, controller/src/desk/alone.rs.

use std::{
    fs::{self, File},
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use landfall_tests::{
    assets::Assets,
    install::{self, Operator},
    machine::{
        Machine,
        spec::{Boot, Spec},
    },
    patience,
};
use serde_json::Value;

/// Debian logs in after 13 to 30 s under emulation, and an installer after 20 to 40 s; with others beside it, much later.
const BOOTS: Duration = Duration::from_secs(240);
/// Longest that any part may take.
const LONG: Duration = Duration::from_secs(600);

/// What would show that somebody was at work on the old system.
const OLD_SYSTEM: &str =
    "blkid /dev/vda; sha256sum /root/.ssh/* /etc/ssh/*; find / -xdev -name '*landfall*'";

#[test]
#[cfg_attr(
    not(feature = "scenarios"),
    ignore = "starts a machine; `cargo verify --all` runs it"
)]
fn machine_goes_back_when_nobody_comes() {
    let job = Job::new();
    let old_system = job.said(OLD_SYSTEM);
    assert!(!old_system.contains("landfall"), "{old_system}");
    let mut boots = vec![job.boot_id()];

    // the installer boots, and no agent ever comes there
    job.kexec_and_be_killed("60s");
    job.machine.link().cut().unwrap();
    job.machine
        .wait_serial("NixOS-shaped installer", BOOTS)
        .unwrap();
    job.machine.wait_boots(2, BOOTS).unwrap();
    job.machine.link().restore().unwrap();
    job.machine.wait_ssh(BOOTS).unwrap();
    assert_eq!(job.said(OLD_SYSTEM), old_system);
    boots.push(job.boot_id());

    // an agent has come, however slowly a machine boots here, and takes the place of the timer
    let said = job.kexec("3m");
    let stands =
        "left alone with unchanged disks, the machine boots its old system again after 3 min";
    assert!(said.contains(stands), "{said}");
    boots.push(job.boot_id());
    let timer = "systemctl show -P ActiveState landfall-return.timer";
    assert_eq!(job.said(timer), "inactive\n");
    let journal = job.said("cat /run/landfall/runs/*-kexec/journal.jsonl");
    for event in [r#""step":"image""#, r#""step":"kexec""#, "run_finished"] {
        assert!(journal.contains(event), "{journal}");
    }
    job.machine.wait_boots(3, LONG).unwrap();
    job.machine.wait_ssh(BOOTS).unwrap();
    assert_eq!(job.said(OLD_SYSTEM), old_system);
    boots.push(job.boot_id());
    boots.sort();
    boots.dedup();
    assert_eq!(boots.len(), 4);
}

/// A Debian machine, and an operator who goes no further than to the installer.
struct Job {
    assets: Assets,
    operator: Operator,
    machine: Machine,
}

impl Job {
    fn new() -> Self {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let assets = Assets::prepare(repository).unwrap();
        let machine = Machine::ready(&assets, Spec::of(Boot::Target)).unwrap();
        machine.wait_ssh(BOOTS).unwrap();
        Self {
            assets,
            operator: Operator::new().unwrap(),
            machine,
        }
    }

    fn landfall(&self, return_after: &str) -> std::process::Command {
        let mut landfall = self.operator.landfall(&self.assets, &self.machine);
        landfall.arg("--kexec").arg(self.assets.installer_tarball());
        landfall.args(["--phases", "kexec", "--return-after", return_after]);
        landfall
    }

    /// Boots the installer, and returns what was said.
    fn kexec(&self, return_after: &str) -> String {
        let mut landfall = self.landfall(return_after);
        let ended = install::run(&mut landfall, LONG, || ()).unwrap();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended.stderr
    }

    /// Boots the installer, and kills landfall once the kernel is loaded.
    fn kexec_and_be_killed(&self, return_after: &str) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stdout");
        let mut landfall = self.landfall(return_after);
        landfall
            .arg("--json")
            .stdin(Stdio::null())
            .stdout(File::create(&path).unwrap());
        let mut child = landfall.spawn().unwrap();
        let loaded = patience::until("the kernel to be loaded", LONG, || {
            if let Some(status) = child.try_wait()? {
                anyhow::bail!("landfall ended already, {status}");
            }
            let text = fs::read_to_string(&path)?;
            // the last line may be on its way
            let mut records = text
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok());
            let is_loaded = |record: Value| {
                record["step"] == "kexec/kexec" && record["kind"] == "step_finished"
            };
            Ok(records.any(is_loaded).then_some(()))
        });
        child.kill().unwrap();
        child.wait().unwrap();
        loaded.unwrap();
    }

    fn boot_id(&self) -> String {
        self.said("cat /proc/sys/kernel/random/boot_id")
    }

    #[track_caller]
    fn said(&self, command: &str) -> String {
        let Output { status, stdout, .. } = self.machine.ssh(command).unwrap();
        let said = String::from_utf8_lossy(&stdout).into_owned();
        assert!(status.success(), "{command}: {said}");
        said
    }
}
