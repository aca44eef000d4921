//! A run that is followed, taken over, left alone and stopped, on a target of namespaces.
//!
//! Covers: controller/src/visit, agent/src/session.rs, agent/src/fence.rs.

#[path = "faults/bench.rs"]
#[expect(
    dead_code,
    reason = "made for runs with faults, of which there are none here"
)]
mod bench;
#[path = "faults/draw.rs"]
#[expect(
    dead_code,
    reason = "made for runs with faults, of which there are none here"
)]
mod draw;
#[path = "faults/fixture.rs"]
#[expect(
    dead_code,
    reason = "made for runs with faults, of which there are none here"
)]
mod fixture;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use landfall_tests::{
    assets::Assets,
    binaries,
    install::{Operator, ROOT},
    link::{Carrier, Change},
    patience,
};
use serde_json::Value;
use tempfile::TempDir;

use self::bench::{Bench, Site};

/// Longest that any command here may take; alone on a host of two cores each takes seconds.
const LONG: Duration = Duration::from_secs(180);
/// The exit code where disks were changed, if by another run.
const CHANGED: i32 = 3;
/// Slow enough for the copy to take a while.
const SLOW: f64 = 8.0;

/// A target, an operator who installs on it, and what was started.
struct Desk {
    site: Site,
    bench: Bench,
    folder: TempDir,
}

impl Desk {
    fn new() -> Self {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let agents = Assets::prepare(repository).unwrap().agents();
        let landfall = binaries::controller().to_owned();
        let site = Site::prepare(Some(landfall), Some(agents)).unwrap();
        let bench = Bench::new(&site).unwrap();
        let folder = TempDir::with_prefix("attach-").unwrap();
        Self {
            site,
            bench,
            folder,
        }
    }

    fn rate(&self, mbit: f64) {
        self.bench.wire.change(Change {
            rate_mbit: Some(mbit),
            ..Change::default()
        });
    }

    fn carrier(&self, carrier: Carrier) {
        self.bench.wire.change(Change {
            carrier: Some(carrier),
            ..Change::default()
        });
    }

    fn install(&self, name: &str, more: &[&str]) -> Started {
        let mut command = self.bench.command(&self.site, false);
        command.args(more);
        self.start(name, command)
    }

    fn visit(&self, name: &str, operator: &Operator, words: &[&str]) -> Started {
        let assets = &self.site.assets;
        let mut command = operator.command(assets, binaries::controller());
        command.args(words).arg("-i").arg(assets.key());
        command.args(["-p", &self.bench.wire.line.port().to_string()]);
        command.args(["--host-key-policy", "accept-new", ROOT]);
        self.start(name, command)
    }

    /// Another command of the operator who installs.
    fn own(&self, name: &str, words: &[&str]) -> Started {
        self.visit(name, &self.bench.operator, words)
    }

    fn start(&self, name: &str, mut command: Command) -> Started {
        let folder = self.folder.path().join(name);
        fs::create_dir(&folder).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(folder.join("out")).unwrap())
            .stderr(File::create(folder.join("err")).unwrap())
            .spawn()
            .unwrap();
        Started { child, folder }
    }

    /// Starts an installation and lets it get as far as the copy.
    fn installing(&self) -> Started {
        self.rate(SLOW);
        let mut first = self.install("first", &[]);
        first.wait_for(|record| record["step"] == "install" && record["kind"] == "progress");
        first
    }

    /// Waits until the agent has gone; until then it tells whoever asks what it did.
    fn agent_leaves(&self) {
        patience::until("the agent to leave", LONG, || {
            Ok(self.bench.agent()?.is_none().then_some(()))
        })
        .unwrap();
    }

    fn status(&self, name: &str) -> Value {
        let told = self.own(name, &["status", "--json"]).end(0);
        assert_eq!(told.len(), 1, "{told:?}");
        told[0].clone()
    }
}

/// A command under way.
struct Started {
    child: Child,
    folder: PathBuf,
}

impl Started {
    fn records(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.join("out")).unwrap();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines = whole.lines().map(serde_json::from_str);
        lines.collect::<Result<_, _>>().unwrap()
    }

    fn said(&self) -> String {
        fs::read_to_string(self.folder.join("err")).unwrap()
    }

    fn wait_for(&mut self, holds: impl Fn(&Value) -> bool) {
        patience::until("a record", LONG, || {
            assert!(self.child.try_wait()?.is_none(), "{}", self.said());
            Ok(self.records().iter().any(&holds).then_some(()))
        })
        .unwrap();
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn end(mut self, code: i32) -> Vec<Value> {
        let ended = patience::until("the end", LONG, || Ok(self.child.try_wait()?));
        let ended = ended.unwrap_or_else(|_| panic!("{}", self.said()));
        assert_eq!(ended.code(), Some(code), "{}", self.said());
        self.records()
    }
}

/// The attempts at the format that are told.
fn formats(records: &[Value]) -> Vec<u64> {
    let begun = records.iter().filter(|record| {
        record["kind"] == "step_started"
            && record["step"].as_str().unwrap_or("").ends_with("/format")
    });
    begun
        .map(|record| record["attempt"].as_u64().unwrap())
        .collect()
}

#[test]
#[cfg_attr(
    not(feature = "machines"),
    ignore = "starts a target; `cargo verify` runs it"
)]
fn run_goes_on_by_attach_and_is_followed_by_others() {
    let desk = Desk::new();
    let before = desk.own("before", &["status"]);
    before.end(1);
    desk.installing().kill();

    let during = desk.status("during");
    assert_eq!(during["state"], "erased", "{during}");
    assert_eq!(during["record"]["open"], true, "{during}");
    assert_eq!(during["agent"]["run"], during["record"]["run"], "{during}");

    // what cannot begin beside it does not make it forgotten
    for (name, words) in [("fresh", ["--fresh"]), ("other-wish", ["--no-disko-deps"])] {
        let told = desk.install(name, &words).end(CHANGED);
        let code = &told.last().unwrap()["failure"]["code"];
        assert_eq!(code, "LF0310", "{told:?}");
        let after = desk.status(&format!("after-{name}"));
        assert_eq!(after["record"], during["record"]);
    }

    // whoever has nothing on record only looks
    let other = Operator::new().unwrap();
    let mut follows = desk.visit("follows", &other, &["attach", "--json"]);
    follows.wait_for(|record| record["step"] == "watch/format");
    desk.rate(0.0);
    let records = desk.own("attach", &["attach", "--json"]).end(0);
    assert_eq!(formats(&records), [1]);
    let seen = follows.end(0);
    assert_eq!(formats(&seen), [1]);
    assert_eq!(desk.status("after")["record"]["open"], false);
    desk.agent_leaves();
    desk.own("nothing", &["attach"]).end(1);
    desk.bench.end().unwrap();
}

#[test]
#[cfg_attr(
    not(feature = "scenarios"),
    ignore = "starts a target; `cargo verify --all` runs it"
)]
fn command_that_was_killed_before_it_forgot_its_run_finds_it_done() {
    let desk = Desk::new();
    let first = desk.installing();
    let state = &desk.bench.operator.state();
    let kept = desk.folder.path().join("kept");
    let copy = |from: &Path, to: &Path, how: &[&str]| {
        let mut command = Command::new("cp");
        command.args(how).arg("-aT").args([from, to]);
        assert!(command.status().unwrap().success());
    };
    copy(state, &kept, &[]);
    desk.rate(0.0);
    assert_eq!(formats(&first.end(0)), [1]);
    desk.agent_leaves();
    assert_eq!(desk.status("after")["record"]["open"], false);

    // what the end has removed is there again, and what it has written stays
    copy(&kept, state, &["--no-clobber"]);
    assert_eq!(desk.status("again")["record"]["open"], true);
    let told = desk.install("second", &[]).end(0);
    assert_eq!(formats(&told), [] as [u64; 0], "{told:?}");
    assert_eq!(told.last().unwrap()["state"], "installed", "{told:?}");
    assert_eq!(desk.status("ended")["record"]["open"], false);
    desk.bench.end().unwrap();
}

#[test]
#[cfg_attr(
    not(feature = "machines"),
    ignore = "starts a target; `cargo verify` runs it"
)]
fn older_controller_is_told_and_leaves_the_run_to_the_newer() {
    let desk = Desk::new();
    let older = desk.installing();
    // another computer with the same memory
    let other = Operator::new().unwrap();
    let copied = Command::new("cp")
        .args(["-aT", "--"])
        .args([desk.bench.operator.state(), other.state()])
        .status();
    assert!(copied.unwrap().success());
    let newer = desk.visit("newer", &other, &["attach", "--json"]);
    let told = older.end(4);
    assert_eq!(told.last().unwrap()["failure"]["code"], "LF0306");
    desk.rate(0.0);
    assert_eq!(formats(&newer.end(0)), [1]);
    desk.bench.end().unwrap();
}

#[test]
#[cfg_attr(
    not(feature = "scenarios"),
    ignore = "starts a target; `cargo verify --all` runs it"
)]
fn run_that_is_left_alone_is_finished_alone() {
    let desk = Desk::new();
    let patience = ["--detach", "--boot-timeout", "5s"];
    let told = desk.install("detach", &patience).end(0);
    assert_eq!(told.last().unwrap()["state"], "alone");
    assert_eq!(desk.status("alone")["record"]["alone"], true);
    desk.agent_leaves();
    let profile = desk.bench.target.path("/mnt/nix/var/nix/profiles/system");
    assert!(fs::symlink_metadata(profile).is_ok());

    // who cannot see the machine does not know that it is done
    desk.carrier(Carrier::Cut);
    let told = desk.own("unseen", &["attach", "--json"]).end(4);
    assert_eq!(told.last().unwrap()["state"], "erased", "{told:?}");
    desk.carrier(Carrier::Up);
    assert_eq!(desk.status("still-alone")["record"]["alone"], true);
    let told = desk.own("attach", &["attach", "--json"]).end(0);
    assert_eq!(told.last().unwrap()["state"], "installed");
    desk.bench.end().unwrap();
}

#[test]
#[cfg_attr(
    not(feature = "machines"),
    ignore = "starts a target; `cargo verify` runs it"
)]
fn run_is_stopped_by_cancel_and_forgotten() {
    let desk = Desk::new();
    desk.installing().kill();
    desk.own("cancel", &["cancel"]).end(0);
    let after = desk.status("after");
    assert_eq!(after["record"]["open"], false, "{after}");
    assert_eq!(after["agent"]["end"], "aborted", "{after}");
    desk.bench.end().unwrap();
}
