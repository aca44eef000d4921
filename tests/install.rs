//! The main job, judged from outside: what runs afterwards, from which disk, with which files and
//! keys, and what is left of landfall at both ends.
//!
//! Covers: agent/src/machine/initrd.rs, agent/src/machine/archive.rs, agent/src/steps/kexec.rs.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use landfall_tests::{
    assets::Assets,
    binaries,
    install::{self, Operator},
    machine::{
        Machine,
        spec::{Boot, Spec},
    },
    patience,
};
use serde_json::Value;
use tempfile::TempDir;

/// Debian logs in after 13 to 30 s under emulation; with others beside it, much later.
const BOOTS: Duration = Duration::from_secs(240);
/// An installation takes 100 s on an idle host of two cores.
const INSTALLS: Duration = Duration::from_secs(900);

#[test]
#[cfg_attr(
    not(feature = "machines"),
    ignore = "starts a machine; `cargo verify` runs it"
)]
fn debian_target_becomes_the_installed_system_on_bios() {
    let job = Job::new(Spec::of(Boot::Target));
    let extra = extra_files();
    let mut landfall = job.landfall();
    landfall.arg("--copy-host-keys");
    landfall.arg("--extra-files").arg(extra.path());
    let stdout = job.run(landfall.arg("--json"));

    job.is_done();
    job.identity_is_kept();
    assert_eq!(
        job.said("[ -e /sys/firmware/efi ] || echo BIOS"),
        "BIOS\n",
        "the firmware of the test's machine"
    );
    extra_files_are_there(&job);
    recording_is_one(&job, &stdout);
    job.store_is_whole();
}

#[test]
#[cfg_attr(
    not(feature = "machines"),
    ignore = "starts a machine; `cargo verify` runs it"
)]
fn debian_target_becomes_the_installed_system_on_uefi() {
    let job = Job::new(Spec::of(Boot::Target).uefi());
    job.run(&mut job.landfall());

    job.is_done();
    job.identity_is_new();
    assert_eq!(
        job.said("[ ! -e /sys/firmware/efi ] || echo UEFI"),
        "UEFI\n"
    );
    job.store_is_whole();
}

#[test]
#[cfg_attr(
    not(feature = "scenarios"),
    ignore = "starts a machine; `cargo verify --all` runs it"
)]
fn target_without_tar_cpio_bash_and_friends_is_installed_all_the_same() {
    let job = Job::new(Spec::of(Boot::Bare));
    let missing = "tar cpio gzip xz setsid curl wget nc base64 bash python python3 perl systemctl";
    let found = format!("for name in {missing}; do command -v $name; done; true");
    assert_eq!(job.said(&found), "", "the test's machine has too much");
    job.run(job.landfall().arg("--copy-host-keys"));

    job.is_done();
    job.identity_is_kept();
    job.store_is_whole();
}

/// A machine that is to be installed, and the operator who does it.
struct Job {
    assets: Assets,
    operator: Operator,
    machine: Machine,
    /// What the operator's nix says that `demo` is.
    toplevel: String,
    /// The host key of the machine as it was.
    host_key: String,
    host_key_file: String,
}

impl Job {
    fn new(spec: Spec) -> Self {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let assets = Assets::prepare(repository).unwrap();
        let machine = Machine::ready(&assets, spec).unwrap();
        let operator = Operator::new().unwrap();
        let mut build = operator.command(&assets, "nix");
        build.args(["build", "--no-link", "--print-out-paths"]);
        build.arg(configuration(
            &assets,
            "nixosConfigurations.demo.config.system.build.toplevel",
        ));
        let toplevel = text(build.output().unwrap()).trim_end().to_owned();
        machine.wait_ssh(BOOTS).unwrap();
        let host_key = host_key(&machine);
        let host_key_file = said(&machine, HOST_KEY_FILE);
        Self {
            assets,
            operator,
            machine,
            toplevel,
            host_key,
            host_key_file,
        }
    }

    /// The command of every test here.
    fn landfall(&self) -> Command {
        let mut landfall = self.operator.landfall(&self.assets, &self.machine);
        landfall
            .arg("--flake")
            .arg(configuration(&self.assets, "demo"));
        landfall.arg("--kexec").arg(self.assets.installer_tarball());
        landfall
    }

    /// Runs it to the end, which has to be a good one; returns what it printed.
    fn run(&self, landfall: &mut Command) -> Vec<u8> {
        let begin = Instant::now();
        let ended = install::run(landfall, INSTALLS, || {}).unwrap();
        let took = begin.elapsed().as_secs();
        println!("{}\nlandfall took {took} s", ended.stderr);
        let told = String::from_utf8_lossy(&ended.stdout);
        assert_eq!(ended.code, Some(0), "{told}");
        ended.stdout
    }

    /// The system that was asked for runs, and landfall is gone from both ends.
    fn is_done(&self) {
        self.own_disk_booted();
        self.file_systems_are_those_of_the_disko_script();
        self.nobody_else_is_let_in();
        self.machine_has_nothing_of_landfall();
        self.operator_keeps_no_secrets();
    }

    fn own_disk_booted(&self) {
        let status = self.machine.status().unwrap();
        assert_eq!((status.boot, status.boots), (Boot::Disk, 2));
        assert_eq!(
            self.said("readlink -f /run/current-system; readlink -f /nix/var/nix/profiles/system"),
            format!("{0}\n{0}\n", self.toplevel)
        );
        let init = format!("init={}/init", self.toplevel);
        let cmdline = self.said("cat /proc/cmdline");
        assert!(
            cmdline.split_whitespace().any(|word| word == init),
            "{cmdline}"
        );
        let release = self.said("cat /etc/os-release");
        assert!(!release.contains("VARIANT_ID"), "{release}");
    }

    fn file_systems_are_those_of_the_disko_script(&self) {
        let mounts = "while read -r device place kind rest; do case $place in / | /boot) echo $device $place $kind; esac; done < /proc/mounts";
        assert_eq!(
            self.said(mounts),
            "/dev/vda2 / ext4\n/dev/vda1 /boot vfat\n"
        );
        let labels = "for part in 1 2; do blkid -s LABEL -o value /dev/vda$part; grep PARTNAME /sys/block/vda/vda$part/uevent; done";
        assert_eq!(
            self.said(labels),
            "ESP\nPARTNAME=disk-main-ESP\nnixos\nPARTNAME=disk-main-root\n"
        );
        let kernel = self.said("dmesg");
        for sign in ["recovery complete", "orphan", "not properly unmounted"] {
            assert!(
                !kernel.contains(sign),
                "the disks were not left clean:\n{kernel}"
            );
        }
    }

    /// Keeping the host keys was asked for.
    fn identity_is_kept(&self) {
        assert_eq!(host_key(&self.machine), self.host_key);
        assert_eq!(self.said(HOST_KEY_FILE), self.host_key_file);
    }

    /// It was not: the first boot made new ones, and the operator remembers which.
    fn identity_is_new(&self) {
        let key = host_key(&self.machine);
        assert_ne!(key, self.host_key);
        assert_eq!(self.said("ls /etc/ssh 2>/dev/null; true"), "");
        let kept = self.kept("installed_known_hosts");
        assert!(kept.contains(&key), "{kept}");
    }

    fn nobody_else_is_let_in(&self) {
        let own = fs::read_to_string(self.assets.key().with_extension("pub")).unwrap();
        assert_eq!(self.said("cat /root/.ssh/authorized_keys"), own);
        assert_eq!(self.said("ls -A /root/.ssh"), "authorized_keys\n");
    }

    fn machine_has_nothing_of_landfall(&self) {
        assert_eq!(self.said("find / /boot -xdev -iname '*landfall*'"), "");
        let programs = self.said("ls -l /proc/[0-9]*/exe 2>/dev/null; true");
        assert!(!programs.contains("landfall"), "{programs}");
        assert_eq!(self.said("ls -A /tmp /root"), "/root:\n.ssh\n\n/tmp:\n");
    }

    fn operator_keeps_no_secrets(&self) {
        for path in files_below(&self.operator.state()) {
            let name = path.file_name().unwrap().to_str().unwrap();
            let known = ["events.jsonl", "journal.jsonl", "lock", "words.txt"].contains(&name);
            assert!(known || name.ends_with("known_hosts"), "{}", path.display());
            let text = fs::read_to_string(&path).unwrap();
            assert!(!text.contains("PRIVATE KEY"), "{}", path.display());
        }
        let pinned = self.kept("known_hosts");
        assert!(pinned.contains(&self.host_key), "{pinned}");

        let nothing: Vec<PathBuf> = Vec::new();
        assert_eq!(entries(&self.operator.runtime()), nothing);
        assert_eq!(entries(&self.operator.temporary()), nothing);
        assert_eq!(processes_of(&self.operator), nothing);
    }

    /// What the operator has on file under this name.
    fn kept(&self, name: &str) -> String {
        let files = files_below(&self.operator.state());
        let file = files.iter().find(|path| path.ends_with(name));
        fs::read_to_string(file.unwrap()).unwrap()
    }

    /// Boots the installer over the same disks and lets nix look at every byte.
    fn store_is_whole(&self) {
        let mut requisites = self.operator.command(&self.assets, "nix-store");
        requisites.args(["--query", "--requisites", &self.toplevel]);
        let asked_for = lines(&text(requisites.output().unwrap()));

        // the login may end before its shell does
        let _ = self.machine.ssh("poweroff");
        patience::until("the machine to turn itself off", BOOTS, || {
            Ok((!self.machine.status()?.running).then_some(()))
        })
        .unwrap();
        self.machine.boot(Boot::Installer).unwrap();
        self.machine.wait_ssh(BOOTS).unwrap();
        self.said("mount /dev/vda2 /mnt");
        let verified = self.said("nix-store --store /mnt --verify --check-contents 2>&1");
        assert!(!verified.contains("disappeared"), "{verified}");
        let query = format!(
            "nix-store --store /mnt --query --requisites {}",
            self.toplevel
        );
        assert_eq!(lines(&self.said(&query)), asked_for);
    }

    #[track_caller]
    fn said(&self, command: &str) -> String {
        said(&self.machine, command)
    }
}

const HOST_KEY_FILE: &str = "cat /etc/ssh/ssh_host_ed25519_key";

/// What the operator brings along: somebody's files on this side, root's on the other.
fn extra_files() -> TempDir {
    let extra = TempDir::with_prefix("extra-").unwrap();
    let folder = extra.path().join("var/lib/demo");
    fs::create_dir_all(&folder).unwrap();
    let mode =
        |path: &Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    fs::write(folder.join("secret"), "brought along\n").unwrap();
    fs::write(folder.join("program"), "#!/bin/sh\n").unwrap();
    symlink("secret", folder.join("latest")).unwrap();
    mode(&folder.join("secret"), 0o600);
    mode(&folder.join("program"), 0o755);
    mode(&folder, 0o750);
    for path in [&folder, &folder.join("secret"), &folder.join("program")] {
        chown(path, Some(4711), Some(4711)).unwrap();
    }
    extra
}

fn extra_files_are_there(job: &Job) {
    let seen = "cd /var/lib && stat -c '%u:%g %a %n' demo demo/secret demo/program && readlink demo/latest && cat demo/latest";
    assert_eq!(
        job.said(seen),
        "0:0 750 demo\n0:0 600 demo/secret\n0:0 755 demo/program\nsecret\nbrought along\n"
    );
}

/// What `--json` printed is a recording: lines of JSON, a header, an end, and `replay` shows it.
fn recording_is_one(job: &Job, recording: &[u8]) {
    let printed = std::str::from_utf8(recording).unwrap();
    let parsed = printed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let records: Vec<Value> = parsed.collect();
    assert_eq!(records[0]["format"], 1);
    assert_eq!(records[0]["host"], "127.0.0.1");
    assert_eq!(records.last().unwrap()["kind"], "ended");
    assert_eq!(records.last().unwrap()["exit"], 0);
    let kept = TempDir::with_prefix("recording-").unwrap();
    let path = kept.path().join("run.jsonl");
    fs::write(&path, recording).unwrap();
    let mut replay = job.operator.command(&job.assets, binaries::controller());
    text(replay.arg("replay").arg(&path).output().unwrap());
}

fn configuration(assets: &Assets, attribute: &str) -> String {
    format!("{}#{attribute}", assets.fixture_flake().display())
}

/// The key with which the machine answers: type and base64.
fn host_key(machine: &Machine) -> String {
    let mut scan = Command::new("ssh-keyscan");
    scan.args(["-T", "30", "-t", "ed25519", "-p"]);
    scan.args([&machine.ssh_port().to_string(), "127.0.0.1"]);
    let scanned = text(scan.output().unwrap());
    let key = scanned.lines().find(|line| !line.starts_with('#'));
    key.and_then(|line| line.split_once(' '))
        .unwrap()
        .1
        .to_owned()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Files and sockets, at any depth.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in entries(folder) {
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// Processes that were started in the operator's environment and have not ended.
fn processes_of(operator: &Operator) -> Vec<PathBuf> {
    let mark = format!("XDG_STATE_HOME={}", operator.state().display());
    let is_ours = |path: &PathBuf| {
        // whoever has ended meanwhile is not there any more
        let environment = fs::read(path.join("environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|word| word == mark.as_bytes())
    };
    let processes = entries(Path::new("/proc")).into_iter();
    processes.filter(is_ours).collect()
}

fn lines(text: &str) -> BTreeSet<String> {
    text.lines().map(str::to_owned).collect()
}

#[track_caller]
fn said(machine: &Machine, command: &str) -> String {
    text(machine.ssh(command).unwrap())
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
