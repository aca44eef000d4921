//! `landfall check`, seen from outside: what it says of a machine, and that the machine is as it was.
//!
//! Covers: controller/src/check, agent/src/machine/facts.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use landfall_tests::{
    assets::Assets,
    install::Operator,
    machine::{
        Machine,
        spec::{Boot, Spec},
    },
    patience,
};
use serde_json::Value;

/// Debian logs in after 13 to 30 s under emulation; with others beside it, much later.
const BOOTS: Duration = Duration::from_secs(240);

/// Everything about a machine that nobody may change. Words in brackets keep the script from finding itself.
const LOOK: &str = r#"
cat /proc/sys/kernel/random/boot_id
cat /root/.ssh/authorized_keys | sha256sum
find / /run /tmp /dev/shm -xdev -name '*land[f]all*'
ps -eo args | grep '[l]andfall'
systemctl list-units --all --plain --no-legend 'land[f]all*'
grep -v ' /run/user/' /proc/mounts
dd if=/dev/vda bs=1024 count=1 2>/dev/null | sha256sum
"#;

/// Somebody holds the machine as an agent does.
const AT_WORK: &str = "mkdir -p -m 700 /run/landfall && (flock /run/landfall/lock sleep 1000 >/dev/null 2>&1 </dev/null &) && until grep -q FLOCK /proc/locks; do sleep 0.1; done";

struct Scene {
    assets: Assets,
    operator: Operator,
    machine: Machine,
}

/// What was printed, and how it ended.
struct Checked {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Scene {
    fn new(memory_mib: u32) -> Self {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let assets = Assets::prepare(repository).unwrap();
        let spec = Spec {
            memory_mib,
            ..Spec::of(Boot::Target)
        };
        let machine = Machine::ready(&assets, spec).unwrap();
        machine.wait_ssh(BOOTS).unwrap();
        Self {
            operator: Operator::new().unwrap(),
            assets,
            machine,
        }
    }

    /// `landfall check` with these words and all that leads to the machine.
    fn check(&self, words: &[&str]) -> Checked {
        let ssh = self.machine.ssh_login();
        let mut check = self
            .operator
            .command(&self.assets, landfall_tests::binaries::controller());
        check.arg("check").args(words);
        check.arg("-i").arg(&ssh.key);
        check.args(["-p", &ssh.port.to_string()]);
        check.args(["--host-key-policy", "accept-new", "root@127.0.0.1"]);
        run(&mut check)
    }

    fn look(&self) -> String {
        let output = self.machine.ssh(LOOK).unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// doas reads a password from a terminal only, so it is said what is missing; without one it makes root.
    fn doas_with_a_password_is_refused(&self) {
        let rules = |words: &str| {
            // sudo, which is asked first, is out of the way
            let set = format!("chmod 700 /usr/bin/sudo; echo '{words} doer' > /etc/doas.conf");
            assert!(self.machine.ssh(&set).unwrap().status.success());
        };
        rules("permit");
        let mut landfall = self
            .operator
            .landfall_as(&self.assets, &self.machine, "doer@127.0.0.1");
        landfall.args(["--phases", "kexec"]);
        let refused = run(&mut landfall);
        assert_eq!(refused.code, Some(1), "{}", refused.stderr);
        let words = "\
error: cannot become root on doer@127.0.0.1 [LF0203]
caused by: doas does not let doer without a password, which it reads from a terminal only: doas: ";
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
        let hint = "hint: allow it in /etc/doas.conf: `permit nopass doer`\n";
        assert!(refused.stderr.contains(hint), "{}", refused.stderr);
        rules("permit nopass");
    }

    /// The operator's folders are as empty as they were.
    fn remembers_nothing(&self) {
        let folders = [
            self.operator.state(),
            self.operator.runtime(),
            self.operator.temporary(),
        ];
        for folder in folders {
            let left: Vec<_> = std::fs::read_dir(&folder).unwrap().collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }
}

fn run(command: &mut Command) -> Checked {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Checked {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// The one object.
fn object(checked: &Checked) -> Value {
    assert_eq!(checked.stdout.lines().count(), 1, "{}", checked.stdout);
    serde_json::from_str(&checked.stdout).unwrap()
}

/// The verdict on one way to fail.
fn verdict<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    let checks = object["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name)?["verdict"].as_str()
}

#[test]
#[cfg_attr(
    not(feature = "scenarios"),
    ignore = "starts a machine; `cargo verify --all` runs it"
)]
fn machine_that_can_be_installed_is_told_so_and_left_as_it_was() {
    let scene = Scene::new(2048);
    let before = scene.look();

    let report = scene.check(&[]);
    assert_eq!(report.code, Some(0), "{}", report.stderr);
    let last = report.stdout.lines().last().unwrap();
    assert_eq!(
        last, "root@127.0.0.1: ready to be installed",
        "{}",
        report.stdout
    );
    let headings = report.stdout.lines().filter(|line| !line.starts_with(' '));
    let headings: Vec<&str> = headings.filter(|line| !line.contains(':')).collect();
    let groups = "machine privileges kexec memory firmware disks network";
    assert_eq!(headings.join(" ").trim(), groups);
    let disk = "/dev/vda  4.29 GB  -      rig-vda  ext4 \"target\" 4.29 GB on /";
    assert!(report.stdout.contains(disk), "{}", report.stdout);
    assert!(!report.stdout.contains('\x1b'), "{}", report.stdout);
    assert_eq!(scene.look(), before);
    scene.remembers_nothing();

    let checked = scene.check(&["--json"]);
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    let object = object(&checked);
    assert_eq!(object["format"], 1);
    assert_eq!(object["host"], "root@127.0.0.1");
    assert_eq!(object["ready"], true);
    assert_eq!(object["summary"], "ready to be installed");
    assert_eq!(object["facts"]["os_id"], "debian");
    assert_eq!(
        object["facts"]["boot_id"],
        before.lines().next().unwrap(),
        "the machine that was looked at"
    );
    // QEMU's own network: a lease, and a router that answers for both families
    let interface = &object["facts"]["interfaces"][0];
    assert_eq!(interface["name"], "eth0");
    assert_eq!(interface["leased"][0], "10.0.2.15/24");
    let route = &object["facts"]["routes"][0];
    assert_eq!(
        (&route["to"], &route["gateway"]),
        (&"default".into(), &"10.0.2.2".into())
    );
    assert_eq!(object["facts"]["extra_rules"], 0);
    assert_eq!(verdict(&object, "memory"), Some("ok"));
    assert_eq!(scene.look(), before);
    scene.remembers_nothing();
}

#[test]
#[cfg_attr(
    not(feature = "scenarios"),
    ignore = "starts a machine; `cargo verify --all` runs it"
)]
fn initrd_that_would_not_unpack_is_found_before_anything_is_touched() {
    let scene = Scene::new(352);
    let before = scene.look();

    let report = scene.check(&[]);
    assert_eq!(report.code, Some(1), "{}", report.stderr);
    let last = report.stdout.lines().last().unwrap();
    assert!(
        last.starts_with("root@127.0.0.1: cannot be installed: "),
        "{last}"
    );
    assert!(
        last.contains(" of memory; the stock installer needs 1 GB"),
        "{last}"
    );
    assert!(
        report.stdout.contains("`landfall explain LF0341`"),
        "{}",
        report.stdout
    );

    let object = object(&scene.check(&["--json"]));
    assert_eq!(object["ready"], false);
    assert_eq!(verdict(&object, "memory"), Some("failure"));
    assert_eq!(verdict(&object, "kexec"), Some("ok"));

    // an image of one's own is measured: the stand-in installer is smaller, and too large all the same
    let mut install = scene.operator.landfall(&scene.assets, &scene.machine);
    install.args(["--phases", "kexec", "--kexec"]);
    install.arg(scene.assets.installer_tarball());
    let refused = run(&mut install);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    let error = "error: cannot boot the installer from memory [LF0341]\n";
    assert!(refused.stderr.contains(error), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("this installer needs "),
        "{}",
        refused.stderr
    );
    assert!(
        refused.stderr.contains("state: 127.0.0.1 is untouched\n"),
        "{}",
        refused.stderr
    );
    assert_eq!(scene.look(), before);
}

#[test]
#[cfg_attr(
    not(feature = "scenarios"),
    ignore = "starts a machine; `cargo verify --all` runs it"
)]
fn image_that_run_has_no_room_for_boots_where_the_memory_has() {
    let scene = Scene::new(640);
    let image = scene.assets.installer_tarball();
    let free = scene
        .machine
        .ssh("df --output=avail -B1 /run | tail -1")
        .unwrap();
    let free: u64 = String::from_utf8(free.stdout)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    // unpacked it takes as much again
    let packed = std::fs::metadata(&image).unwrap().len();
    assert!(
        free < 2 * packed,
        "the test's machine has {free} bytes in /run"
    );

    let mut install = scene.operator.landfall(&scene.assets, &scene.machine);
    install.args(["--phases", "kexec", "--kexec"]).arg(&image);
    // else an agent stays, to boot the old system again if nobody comes
    install.args(["--return-after", "0"]);
    let booted = run(&mut install);
    assert_eq!(booted.code, Some(0), "{}", booted.stderr);
    let release = scene.machine.ssh("cat /etc/os-release").unwrap();
    let release = String::from_utf8(release.stdout).unwrap();
    assert!(release.contains("VARIANT_ID=installer"), "{release}");
    let left = scene
        .machine
        .ssh("ls -d /run/landfall* 2>/dev/null; grep landfall /proc/mounts");
    let left = String::from_utf8(left.unwrap().stdout).unwrap();
    assert_eq!(left, "", "what is left of landfall in the installer");

    // and an installer is looked at like any other system
    let object = object(&scene.check(&["--json"]));
    assert_eq!(object["facts"]["installer"], true);
    let checks = object["checks"].as_array().unwrap();
    let kexec = checks
        .iter()
        .find(|check| check["name"] == "kexec")
        .unwrap();
    assert_eq!(kexec["found"], "not needed: an installer runs already");
}

/// What is left of landfall on the disk of the old system, seen from the installer.
const LEFT: &str = "mkdir -p /old && mount -o ro /dev/vda /old && find /old -xdev -name '*landfall*' -o -xdev -path '/old/var/tmp/*' ! -path '/old/var/tmp/systemd-private-*'; umount /old";

#[test]
#[cfg_attr(
    not(feature = "scenarios"),
    ignore = "starts a machine; `cargo verify --all` runs it"
)]
fn image_lies_on_the_disk_where_memory_is_short_and_leaves_nothing_there() {
    // unpacked and loaded in memory alone the image takes 205 MB, with what shall be left over 272 MB, and the old system
    // has less; from a disk 133 MB do
    let scene = Scene::new(448);
    let held = scene.machine.ssh("head -c 112M /dev/zero > /dev/shm/held");
    assert!(held.unwrap().status.success());
    let image = scene.assets.installer_tarball();
    let folder = "/var/tmp/landfall-room";
    scene.doas_with_a_password_is_refused();

    let object = object(&scene.check(&["--json"]));
    assert_eq!(object["facts"]["spill"]["path"], "/var/tmp");
    assert_eq!(object["facts"]["spill"]["kind"], "ext4");

    // in the midst of the upload the agent is killed; another one goes on with what has arrived
    let mut install = scene
        .operator
        .landfall_as(&scene.assets, &scene.machine, "doer@127.0.0.1");
    install.args(["--phases", "kexec", "--kexec"]).arg(&image);
    let mut running = install
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let kill = format!(
        "test $(stat -c %s {folder}/spool/*.part) -gt 10000000 && stat -c '%a %U' {folder} && kill -9 $(pgrep -f 'landfall-agent-.* [s]erve')"
    );
    let killed = patience::until("a part of the image", BOOTS, || {
        anyhow::ensure!(running.try_wait()?.is_none(), "landfall has ended");
        let tried = scene.machine.ssh(&kill)?;
        Ok(tried.status.success().then_some(tried.stdout))
    });
    let killed = killed.inspect_err(|_| drop(running.kill()));
    let booted = running.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&booted.stderr);
    assert_eq!(killed.unwrap(), b"700 root\n", "{told}");
    assert_eq!(booted.status.code(), Some(0), "{told}");

    let release = scene.machine.ssh("cat /etc/os-release").unwrap();
    let release = String::from_utf8(release.stdout).unwrap();
    assert!(release.contains("VARIANT_ID=installer"), "{release}");
    let left = scene.machine.ssh(LEFT).unwrap();
    assert!(left.status.success(), "{left:?}");
    assert_eq!(String::from_utf8(left.stdout).unwrap(), "");
}

#[test]
#[cfg_attr(
    not(feature = "scenarios"),
    ignore = "starts a machine; `cargo verify --all` runs it"
)]
fn agent_at_work_is_told_and_not_disturbed() {
    let scene = Scene::new(2048);
    assert!(scene.machine.ssh(AT_WORK).unwrap().status.success());
    let before = scene.look();

    let checked = scene.check(&["--json"]);
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    let object = object(&checked);
    assert_eq!(object["facts"]["occupied"]["alive"], true);
    assert_eq!(verdict(&object, "agent"), Some("warning"));
    assert_eq!(
        verdict(&object, "memory"),
        Some("ok"),
        "what can be seen is shown"
    );
    assert_eq!(scene.look(), before);
    let held = scene
        .machine
        .ssh("flock -n /run/landfall/lock true")
        .unwrap();
    assert!(!held.status.success(), "the lock is held as before");
    scene.remembers_nothing();
}
