//! Landfall is killed without a warning, and the same command goes on: nothing finished is done again.
//!
//! Covers: controller/src/operate.rs, controller/src/desk, agent/src/story.rs.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
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
use tempfile::TempDir;

/// An installer logs in after 20 to 40 s under emulation; with others beside it, much later.
const BOOTS: Duration = Duration::from_secs(240);
/// Longest that any part of the run may take.
const LONG: Duration = Duration::from_secs(600);

/// Identity of what was formatted: made at random by every format.
const FORMATTED: &str =
    "blkid -s UUID -o value /dev/vda1 /dev/vda2; blkid -s PARTUUID -o value /dev/vda1 /dev/vda2";

#[test]
#[cfg_attr(
    not(feature = "scenarios"),
    ignore = "starts a machine; `cargo verify --all` runs it"
)]
fn killed_controller_is_followed_by_the_same_command() {
    let desk = Desk::new();

    // half of the closure is on the disk
    desk.machine.link().rate(8.0).unwrap();
    let mut first = desk.landfall("first");
    first.wait_for(|record| record["step"] == "install" && record["kind"] == "progress");
    first.kill();
    desk.machine.link().restore().unwrap();
    let formatted = desk.said(FORMATTED);
    assert_eq!(formatted.lines().count(), 4, "{formatted}");

    // what fails on this side does not forget the run, nor where the machine stands
    let refused = desk.landfall_with("refused", &["--sudo-password-file", "/nonexistent"]);
    let (code, said) = refused.fail();
    assert_eq!(code, Some(3), "{said}");
    let stands = "state: 127.0.0.1 runs the installer; its disks are erased and not bootable";
    assert!(said.contains(stands), "{said}");

    // the machine reboots, and nobody sees it come back
    let mut second = desk.landfall("second");
    second.wait_for(|record| record["step"] == "verify" && record["kind"] == "step_started");
    second.kill();
    assert_eq!(
        second.formats(),
        [1],
        "the format of the first command, told again"
    );

    let third = desk.landfall("third");
    let records = third.end();
    let ended = records.last().unwrap();
    assert_eq!(
        (&ended["exit"], &ended["state"]),
        (&0.into(), &"verified".into())
    );
    assert_eq!(desk.said(FORMATTED), formatted);
    assert_eq!(desk.machine.status().unwrap().boot, Boot::Disk);
}

/// An operator, and a machine that runs the installer.
struct Desk {
    assets: Assets,
    operator: Operator,
    machine: Machine,
    folder: TempDir,
}

/// A landfall that was started.
struct Started {
    child: Child,
    folder: std::path::PathBuf,
}

impl Desk {
    fn new() -> Self {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let assets = Assets::prepare(repository).unwrap();
        let machine = Machine::ready(&assets, Spec::of(Boot::Installer)).unwrap();
        machine.wait_ssh(BOOTS).unwrap();
        Self {
            assets,
            operator: Operator::new().unwrap(),
            machine,
            folder: TempDir::with_prefix("resume-").unwrap(),
        }
    }

    /// The same command, whatever it is called here.
    fn landfall(&self, name: &str) -> Started {
        self.landfall_with(name, &[])
    }

    /// The same command in other circumstances.
    fn landfall_with(&self, name: &str, more: &[&str]) -> Started {
        let folder = self.folder.path().join(name);
        fs::create_dir(&folder).unwrap();
        let mut landfall = self.command();
        landfall
            .args(more)
            .stdin(Stdio::null())
            .stdout(File::create(folder.join("stdout")).unwrap())
            .stderr(File::create(folder.join("stderr")).unwrap());
        Started {
            child: landfall.spawn().unwrap(),
            folder,
        }
    }

    fn command(&self) -> Command {
        let mut landfall = self.operator.landfall(&self.assets, &self.machine);
        let flake = format!("{}#demo", self.assets.fixture_flake().display());
        landfall.args([
            "--json",
            "--phases",
            "disko,install,reboot",
            "--flake",
            &flake,
        ]);
        landfall
    }

    fn said(&self, command: &str) -> String {
        let output = self.machine.ssh(command).unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}");
        said
    }
}

impl Started {
    /// Waits until it has told of something.
    #[track_caller]
    fn wait_for(&mut self, wanted: impl Fn(&Value) -> bool) {
        patience::until("landfall to get there", LONG, || {
            if let Some(status) = self.child.try_wait()? {
                anyhow::bail!("it ended already, {status}:\n{}", self.stderr());
            }
            Ok(self.records().iter().any(&wanted).then_some(()))
        })
        .unwrap();
    }

    /// Kills it as the kernel does when memory is short: it has no say in it.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Attempts of formats that it told of.
    fn formats(&self) -> Vec<u64> {
        let records = self.records();
        let begun =
            |record: &&Value| record["step"] == "disko/format" && record["kind"] == "step_started";
        let attempt = |record: &Value| record["attempt"].as_u64().unwrap();
        records.iter().filter(begun).map(attempt).collect()
    }

    /// Waits for its end, which has to be a good one.
    #[track_caller]
    fn end(mut self) -> Vec<Value> {
        let status = patience::until("landfall to end", LONG, || Ok(self.child.try_wait()?));
        assert!(status.unwrap().success(), "{}", self.stderr());
        self.records()
    }

    /// Waits for its end, which has to be a bad one.
    #[track_caller]
    fn fail(mut self) -> (Option<i32>, String) {
        let status = patience::until("landfall to end", LONG, || Ok(self.child.try_wait()?));
        (status.unwrap().code(), self.stderr())
    }

    fn records(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.join("stdout")).unwrap();
        // the last line may be on its way
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn stderr(&self) -> String {
        fs::read_to_string(self.folder.join("stderr")).unwrap()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.kill();
        }
    }
}
