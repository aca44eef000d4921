//! Where a system can live, judged from outside: LUKS, LVM, mdraid and btrfs, each formatted by a script in
//! disko's shape and booted by the installed system's own means. ext4 is everywhere else.
//!
//! Covers: agent/src/machine/stack.rs, agent/src/machine/bootloader.rs.
//! Covers: agent/src/machine/keys.rs, agent/src/steps/seal.rs.

use std::{
    fmt::Write,
    fs::{self, File},
    io::Read,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use landfall_tests::{
    assets::Assets,
    binaries,
    install::{self, Operator, ROOT, reach},
    machine::{
        Machine,
        spec::{Boot, Firmware, Spec},
    },
    patience,
};
use tempfile::TempDir;

/// Debian logs in after 13 to 30 s under emulation; with others beside it, much later.
const BOOTS: Duration = Duration::from_secs(240);
/// An installation takes 100 s on an idle host of two cores.
const INSTALLS: Duration = Duration::from_secs(900);
/// What is left to do where an installer runs already.
const FROM_INSTALLER: [&str; 2] = ["--phases", "disko,install,reboot"];

const MIB: u64 = 1 << 20;
/// Where the ESP of every layout lies on the first disk.
const ESP: std::ops::Range<u64> = MIB..129 * MIB;

#[test]
#[cfg_attr(
    not(feature = "scenarios"),
    ignore = "starts a machine; `cargo verify --all` runs it"
)]
fn encrypted_system_boots_and_only_the_key_that_was_to_stay_is_on_the_disk() {
    let job = Job::new("luks", Spec::of(Boot::Target));
    let keys = Keys::new();
    job.run(&mut keys.landfall(&job));

    job.is_done();
    assert_eq!(
        job.stack("/dev/mapper/crypted"),
        ["crypted crypt", "vda2 part", "vda disk"]
    );
    assert_eq!(job.mounts(), "/ ext4\n/boot vfat\n");
    let header = job.said("cryptsetup luksDump /dev/vda2");
    assert_eq!(header.matches(": luks2\n").count(), 2, "{header}");

    job.turn_off();
    assert_eq!(
        places(&keys.disk, &job.machine.disk(0)),
        [0; 0],
        "the key that formats"
    );
    let boot = places(&keys.boot, &job.machine.disk(0));
    assert!(
        boot.len() == 1 && ESP.contains(&boot[0]),
        "the key that boots is at {boot:?}"
    );
}

#[test]
#[cfg_attr(
    not(feature = "scenarios"),
    ignore = "starts a machine; `cargo verify --all` runs it"
)]
fn system_on_logical_volumes_boots_on_uefi() {
    let job = Job::new("lvm", Spec::of(Boot::Installer).uefi());
    job.run(job.landfall().args(FROM_INSTALLER));

    job.is_done();
    assert_eq!(
        job.stack("/dev/pool/root"),
        ["pool-root lvm", "vda2 part", "vda disk"]
    );
    assert_eq!(job.mounts(), "/ ext4\n/boot vfat\n/home ext4\n");
    let volumes =
        "lvs --noheadings --options lv_name,lv_size --units m --nosuffix pool 2>/dev/null";
    assert_eq!(
        words(&job.said(volumes)),
        ["home 1660.00", "root 2048.00", "swap 256.00"]
    );
    let swaps = job.said("cat /proc/swaps");
    assert_eq!(swaps.matches("partition").count(), 1, "{swaps}");
}

#[test]
#[cfg_attr(
    not(feature = "scenarios"),
    ignore = "starts a machine; `cargo verify --all` runs it"
)]
fn system_on_a_mirror_of_two_disks_boots_with_both() {
    let disks_gib = vec![2, 2];
    let job = Job::new(
        "mdraid",
        Spec {
            disks_gib,
            ..Spec::of(Boot::Installer)
        },
    );
    job.run(job.landfall().args(FROM_INSTALLER));

    job.is_done();
    let stack = job.stack("/dev/md/root");
    for part in ["vda2 part", "vdb1 part"] {
        assert!(stack.contains(&part.to_owned()), "{stack:?}");
    }
    assert_eq!(job.mounts(), "/ ext4\n/boot vfat\n");
    let status = job.said("cat /proc/mdstat");
    assert!(
        status.contains("active raid1") && status.contains("[2/2] [UU]"),
        "{status}"
    );
}

#[test]
#[cfg_attr(
    not(feature = "scenarios"),
    ignore = "starts a machine; `cargo verify --all` runs it"
)]
fn system_on_subvolumes_of_btrfs_boots() {
    let job = Job::new("btrfs", Spec::of(Boot::Installer));
    job.run(job.landfall().args(FROM_INSTALLER));

    job.is_done();
    assert_eq!(
        job.mounts(),
        "/ btrfs\n/boot vfat\n/home btrfs\n/nix btrfs\n"
    );
    let subvolumes = "while read -r device place kind options rest; do case $kind in btrfs) echo $device $place ${options##*,};; esac; done < /proc/mounts | sort";
    assert_eq!(
        words(&job.said(subvolumes)),
        [
            "/dev/vda2 / subvol=/root",
            "/dev/vda2 /home subvol=/home",
            "/dev/vda2 /nix subvol=/nix",
        ]
    );
}

/// A machine that is to be installed with a layout, and the operator who does it.
struct Job {
    layout: &'static str,
    assets: Assets,
    operator: Operator,
    machine: Machine,
    /// What the operator's nix says that the layout's system is.
    toplevel: String,
}

impl Job {
    fn new(layout: &'static str, spec: Spec) -> Self {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let assets = Assets::prepare(repository).unwrap();
        let machine = Machine::ready(&assets, spec).unwrap();
        let operator = Operator::new().unwrap();
        let toplevel = format!("nixosConfigurations.{layout}.config.system.build.toplevel");
        let toplevel = operator.build(&assets, &toplevel).unwrap();
        machine.wait_ssh(BOOTS).unwrap();
        Self {
            layout,
            assets,
            operator,
            machine,
            toplevel,
        }
    }

    fn landfall(&self) -> Command {
        let mut landfall = self.operator.landfall(&self.assets, &self.machine);
        landfall.args(self.what());
        landfall
    }

    fn what(&self) -> Vec<String> {
        let flake = format!("{}#{}", self.assets.fixture_flake().display(), self.layout);
        let image = self.assets.installer_tarball().display().to_string();
        let words = ["--flake", &flake, "--kexec", &image, "--json"];
        words.map(str::to_owned).into()
    }

    /// Runs it to the end, which has to be a good one. Whatever lies between disks and file systems
    /// has to be closed by then.
    fn run(&self, landfall: &mut Command) {
        let begin = Instant::now();
        let ended = install::run(landfall, INSTALLS, || ()).unwrap();
        println!(
            "{}\nlandfall took {} s",
            ended.stderr,
            begin.elapsed().as_secs()
        );
        let out = String::from_utf8_lossy(&ended.stdout);
        assert_eq!(ended.code, Some(0), "{out}");
        assert!(!out.contains("stays open"), "{out}");
    }

    /// The system that was asked for runs, from a disk that was left as a clean shutdown leaves it.
    fn is_done(&self) {
        let status = self.machine.status().unwrap();
        assert_eq!((status.boot, status.boots), (Boot::Disk, 2));
        let running = "readlink -f /run/current-system; cat /etc/hostname";
        assert_eq!(
            self.said(running),
            format!("{}\n{}\n", self.toplevel, self.layout)
        );
        let efi = self.said("[ ! -e /sys/firmware/efi ] || echo UEFI");
        assert_eq!(efi.is_empty(), status.spec.firmware == Firmware::Bios);
        let kernel = self.said("dmesg");
        for sign in [
            "recovery complete",
            "orphan",
            "not properly unmounted",
            "replaying log",
        ] {
            assert!(
                !kernel.contains(sign),
                "the disks were not left clean:\n{kernel}"
            );
        }
    }

    /// A device and what it lies on, one by one: name and type.
    fn stack(&self, device: &str) -> Vec<String> {
        let lsblk = format!("lsblk --noheadings --raw --inverse --output NAME,TYPE {device}");
        words(&self.said(&lsblk))
    }

    /// What is mounted from disks, and how, by place.
    fn mounts(&self) -> String {
        self.said("while read -r device place kind rest; do case $kind in ext4 | btrfs | vfat) echo $place $kind; esac; done < /proc/mounts | sort")
    }

    fn turn_off(&self) {
        // the login may end before its shell does
        let _ = self.machine.ssh("poweroff");
        patience::until("the machine to turn itself off", BOOTS, || {
            Ok((!self.machine.status()?.running).then_some(()))
        })
        .unwrap();
    }

    #[track_caller]
    fn said(&self, command: &str) -> String {
        text(self.machine.ssh(command).unwrap())
    }
}

/// Two keys of the same disk, with bytes that a careless program loses. What is looked for is text
/// inside of them.
struct Keys {
    folder: TempDir,
    /// In the key that formats; nobody needs it later.
    disk: String,
    /// In the key that boots, which goes to the ESP with the extra files.
    boot: String,
}

impl Keys {
    fn new() -> Self {
        let folder = TempDir::with_prefix("keys-").unwrap();
        let (disk, boot) = (random(), random());
        let bytes = |text: &str| [b"\0\xff\r\n", text.as_bytes(), b"\0 \n\n"].concat();
        fs::create_dir_all(folder.path().join("extra/boot")).unwrap();
        fs::write(folder.path().join("disk.key"), bytes(&disk)).unwrap();
        fs::write(folder.path().join("extra/boot/boot.key"), bytes(&boot)).unwrap();
        Self { folder, disk, boot }
    }

    /// One key from a file, the other from a pipe that can be read once.
    fn landfall(&self, job: &Job) -> Command {
        let script = r#"exec "$0" "$@" --disk-encryption-keys /tmp/boot.key <(cat "$KEYS/extra/boot/boot.key")"#;
        let mut bash = job.operator.command(&job.assets, "bash");
        bash.args(["-c", script]).arg(binaries::controller());
        bash.args(reach(job.machine.ssh_login(), ROOT))
            .args(job.what());
        bash.args(["--disk-encryption-keys", "/tmp/disk.key"])
            .arg(self.folder.path().join("disk.key"));
        bash.arg("--extra-files")
            .arg(self.folder.path().join("extra"));
        bash.env("KEYS", self.folder.path());
        bash
    }
}

/// 64 letters and digits that nobody has ever seen.
fn random() -> String {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")
        .unwrap()
        .read_exact(&mut bytes)
        .unwrap();
    let mut text = String::new();
    for byte in bytes {
        write!(text, "{byte:02x}").unwrap();
    }
    text
}

/// Where on a disk a text is.
fn places(needle: &str, disk: &Path) -> Vec<u64> {
    let mut grep = Command::new("grep");
    // lines that end at zeros, of which there are many: no line is as long as a disk
    grep.args(["--null-data", "--text", "--fixed-strings"]);
    grep.args(["--byte-offset", "--only-matching", needle]);
    grep.arg(disk).env("LC_ALL", "C");
    let found = String::from_utf8(grep.output().unwrap().stdout).unwrap();
    let place = |found: &str| Some(found.split_once(':')?.0.parse().unwrap());
    found.split('\0').filter_map(place).collect()
}

/// Lines, with single spaces between words.
fn words(text: &str) -> Vec<String> {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    text.lines().map(words).collect()
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
