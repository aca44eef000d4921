//! Phases one by one, as who drives an installation by hand or from a script gives them: each command ends well,
//! leaves the machine where the next one finds it, and needs no memory but the machine's.
//!
//! Covers: controller/src/story.rs, controller/src/request/phases.rs, agent/src/steps/again.rs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use landfall_tests::{
    assets::Assets,
    install::{self, Operator},
    machine::{
        Machine,
        spec::{Boot, Spec},
    },
    watched::{Watched, is},
};
use serde_json::Value;
use tempfile::TempDir;

/// Debian logs in after 13 to 30 s under emulation; with others beside it, much later.
const BOOTS: Duration = Duration::from_secs(240);
/// The longest of these takes 60 s on an idle host of two cores.
const ENDS: Duration = Duration::from_secs(600);

#[test]
#[cfg_attr(
    not(feature = "scenarios"),
    ignore = "starts a machine; `cargo verify --all` runs it"
)]
fn phases_one_by_one_install_a_machine() {
    let job = Job::new();

    // Debian, as somebody who may use sudo, and knows it by a key that the installer does not show
    job.said("mkdir -m 700 /var/lib/keys; mv /etc/ssh/ssh_host_ed25519_key /var/lib/keys/; ln -s ../../var/lib/keys/ssh_host_ed25519_key /etc/ssh/");
    let known = job.said("cat /etc/ssh/ssh_host_ecdsa_key.pub");
    let port = job.machine.ssh_port();
    fs::write(job.known_hosts(), format!("[127.0.0.1]:{port} {known}")).unwrap();
    // whoever stops waiting for the installer finds it with the same run, whose key alone opens it
    job.interrupted_kexec("op@127.0.0.1");
    job.phases("kexec", "op@127.0.0.1");
    assert_eq!(job.pinned_kind(), "ecdsa-sha2-nistp256");
    let release = job.said("cat /etc/os-release");
    for line in ["ID=nixos\n", "VARIANT_ID=installer\n"] {
        assert!(release.contains(line), "{release}");
    }
    assert_eq!(job.said("ls -A /mnt"), "");
    assert_eq!(
        job.said("lsblk --noheadings --raw --output NAME /dev/vda"),
        "vda\n"
    );

    // the installer, as whoever ssh says one is
    job.phases("disko", "127.0.0.1");
    assert_eq!(job.mounts(), "/mnt /dev/vda2\n/mnt/boot /dev/vda1\n");
    assert_eq!(job.said("ls -A /mnt"), "boot\nlost+found\n");

    // what was formatted is taken as it is
    let formatted = job.said("blkid --output value --match-tag UUID /dev/vda2");
    job.said("echo kept > /mnt/kept");
    job.phases("install", "root@127.0.0.1");
    assert_eq!(
        job.said("blkid --output value --match-tag UUID /dev/vda2; cat /mnt/kept"),
        format!("{formatted}kept\n")
    );
    assert_eq!(
        job.said("readlink -f /mnt/nix/var/nix/profiles/system"),
        format!("{}\n", job.toplevel)
    );
    assert_eq!(
        job.said("cat /proc/sys/kernel/hostname"),
        "nixos-installer\n"
    );

    // it leaves only now
    assert_eq!(job.machine.status().unwrap().boots, 1);
    job.phases("reboot", "root@127.0.0.1");
    job.machine.wait_boots(2, BOOTS).unwrap();
    job.machine.wait_ssh(BOOTS).unwrap();
    let status = job.machine.status().unwrap();
    assert_eq!((status.boot, status.boots), (Boot::Disk, 2));
    assert_eq!(
        job.said("readlink -f /run/current-system; cat /kept"),
        format!("{}\nkept\n", job.toplevel)
    );
    let kernel = job.said("dmesg");
    for sign in ["recovery complete", "orphan", "not properly unmounted"] {
        assert!(
            !kernel.contains(sign),
            "the disks were not left clean:\n{kernel}"
        );
    }
}

/// A Debian machine, and an operator who does one thing after the other.
struct Job {
    assets: Assets,
    operator: Operator,
    machine: Machine,
    folder: TempDir,
    /// What the operator's nix says that `demo` is.
    toplevel: String,
}

impl Job {
    fn new() -> Self {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let assets = Assets::prepare(repository).unwrap();
        let machine = Machine::ready(&assets, Spec::of(Boot::Target)).unwrap();
        let operator = Operator::new().unwrap();
        let toplevel = "nixosConfigurations.demo.config.system.build.toplevel";
        let toplevel = operator.build(&assets, toplevel).unwrap();
        machine.wait_ssh(BOOTS).unwrap();
        Self {
            assets,
            operator,
            machine,
            folder: TempDir::with_prefix("separated-").unwrap(),
            toplevel,
        }
    }

    /// Presses ctrl-c while the installer boots.
    fn interrupted_kexec(&self, host: &str) {
        let mut landfall = self.command("kexec", host);
        let mut watched = Watched::start(landfall.arg("--json")).unwrap();
        let boots = |record: &Value| {
            let what = record["what"].as_str().unwrap_or_default();
            is(record, "kexec", "waiting") && what.starts_with("the installer: ")
        };
        watched.wait_for("the installer", ENDS, boots).unwrap();
        let told = watched.interrupt(ENDS).unwrap();
        assert_eq!(told.code, Some(130), "{}", told.stderr);
    }

    /// Runs one command to its end, which has to be a good one.
    fn phases(&self, phases: &str, host: &str) {
        let mut landfall = self.command(phases, host);
        let ended = install::run(&mut landfall, ENDS, || ()).unwrap();
        println!("--phases {phases}\n{}", ended.stderr);
        assert_eq!(ended.code, Some(0), "--phases {phases} as {host}");
    }

    fn command(&self, phases: &str, host: &str) -> Command {
        let mut landfall = self.operator.landfall_as(&self.assets, &self.machine, host);
        landfall
            .arg("--flake")
            .arg(format!("{}#demo", self.assets.fixture_flake().display()));
        landfall.arg("--kexec").arg(self.assets.installer_tarball());
        landfall.args(["--phases", phases]);
        let known = format!("UserKnownHostsFile={}", self.known_hosts().display());
        landfall.args(["--ssh-option", &known]);
        landfall
    }

    /// By what the operator knows machines.
    fn known_hosts(&self) -> PathBuf {
        self.folder.path().join("known_hosts")
    }

    /// Of what kind the key is that the only run so far has pinned.
    fn pinned_kind(&self) -> String {
        let host = format!("landfall/127.0.0.1:{}/runs", self.machine.ssh_port());
        let mut runs = fs::read_dir(self.operator.state().join(host)).unwrap();
        let run = runs.next().unwrap().unwrap().path();
        assert!(runs.next().is_none());
        let pinned = fs::read_to_string(run.join("known_hosts")).unwrap();
        pinned.split(' ').nth(1).unwrap().to_owned()
    }

    /// What is mounted for the new system.
    fn mounts(&self) -> String {
        self.said("while read -r device place rest; do case $place in /mnt*) echo $place $device; esac; done < /proc/mounts")
    }

    #[track_caller]
    fn said(&self, command: &str) -> String {
        text(self.machine.ssh(command).unwrap())
    }
}

/// What was printed by a program that succeeded.
#[track_caller]
fn text(output: Output) -> String {
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
