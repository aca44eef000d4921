//! One command installs a machine over a line that is cut at every stage.
//!
//! Covers: proto/src/stream, controller/src/remote, agent/src/tunnel.rs.

use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use landfall_tests::{
    machine::spec::{Boot, Spec},
    patience,
    watched::{Watched, is},
};
use tempfile::TempDir;

use super::{BOOTS, LAST_WORD, LONG, Site};

/// A fault that is over before anybody gives up.
const SHORT: Duration = Duration::from_secs(4);
/// ssh itself gives up a silent connection after 45 s.
const BEYOND_SSH: Duration = Duration::from_secs(55);
/// What a lost connection may cost: a chunk on each of two lanes, what was in the emulator's own network, two logins.
const AGAIN: u64 = 2 * (256 << 10) + (512 << 10);

/// The name of the machine in the operator's configuration of ssh.
const NAME: &str = "box";
const MOVED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

#[test]
#[cfg_attr(
    not(feature = "scenarios"),
    ignore = "starts a machine; `cargo verify --all` runs it"
)]
fn one_command_installs_over_a_line_that_is_cut_at_every_stage() {
    let site = Site::new(Spec::of(Boot::Target));
    let names = Names::new();
    names.lead_to(Ipv4Addr::LOCALHOST);
    let mut landfall = site.command("demo", &format!("root@{NAME}"));
    let mut run = Watched::start(names.known_to(&mut landfall)).unwrap();
    let line = Line(&site);

    cut_while_the_image_is_sent(&site, &line, &mut run);
    cut_from_the_last_word_of_the_old_system_until_the_installer_answers(&line, &mut run);

    run.wait_step("/format", LONG).unwrap();
    line.cut(SHORT);

    // slow enough that there is something left to send
    run.wait_step("/copy", LONG).unwrap();
    site.machine.link().rate(20.0).unwrap();
    run.wait_for("the copy", LONG, |record| is(record, "install", "progress"))
        .unwrap();
    line.stall(BEYOND_SSH);
    // and while it is away, the machine gets another address
    site.machine.link().cut().unwrap();
    patience::pass(SHORT);
    names.lead_to(MOVED);
    site.machine.link().move_to(MOVED).unwrap();
    site.machine.link().restore().unwrap();

    run.wait_step("/install", LONG).unwrap();
    line.cut(SHORT);

    run.wait_step("reboot", LONG).unwrap();
    line.cut(SHORT);

    run.wait_step("verify", LONG).unwrap();
    line.cut(SHORT);

    let told = run.end(LONG).unwrap();
    assert_eq!(told.code, Some(0), "{}", told.stderr);
    assert_eq!(told.state(), Some("verified"));
    for step in ["/kexec", "/format", "/install"] {
        assert_eq!(told.begun(step), 1, "{step} was done again");
    }
    // the observer knows the old address only
    site.machine.link().move_to(Ipv4Addr::LOCALHOST).unwrap();
    site.machine.wait_ssh(BOOTS).unwrap();
    let status = site.machine.status().unwrap();
    assert_eq!((status.boot, status.boots), (Boot::Disk, 2));
    site.runs("demo");
    site.leaves_nothing_here();
    println!("landfall took {} s", told.took.as_secs());
}

fn cut_while_the_image_is_sent(site: &Site, line: &Line<'_>, run: &mut Watched) {
    run.wait_step("kexec", LONG).unwrap();
    let before = site.machine.status().unwrap().sent;
    site.machine.link().rate(200.0).unwrap();
    for count in 1..=2 {
        let some = |record: &serde_json::Value| {
            let done = record["done"].as_u64().unwrap_or_default();
            is(record, "kexec", "progress") && done > count * (16 << 20)
        };
        run.wait_for("a part of the image", LONG, some).unwrap();
        site.machine.link().cut().unwrap();
        patience::pass(SHORT);
        site.machine.link().restore().unwrap();
        site.machine.link().rate(200.0).unwrap();
    }
    run.wait_over("/image", LONG).unwrap();
    site.machine.link().restore().unwrap();
    let sent = site.machine.status().unwrap().sent - before;
    let image = fs::metadata(site.assets.installer_tarball()).unwrap().len();
    println!("{sent} bytes were sent for an image of {image}");
    assert!(
        sent <= image + image / 100 + 2 * AGAIN,
        "{sent} bytes were sent for an image of {image}"
    );
    let _ = line;
}

/// Nobody hears that the kernel was started, nor sees the old system go.
fn cut_from_the_last_word_of_the_old_system_until_the_installer_answers(
    line: &Line<'_>,
    run: &mut Watched,
) {
    run.wait_for("the old system's last word", LONG, |record| {
        let text = record["text"].as_str().unwrap_or_default();
        is(record, "/kexec", "line") && text.contains(LAST_WORD)
    })
    .unwrap();
    // the kernel is started 6 s after that word
    line.cut(Duration::from_secs(12));
    line.stall(SHORT);
    line.cut(SHORT);
}

/// The line to the machine, with faults that last a while.
struct Line<'a>(&'a Site);

impl Line<'_> {
    fn cut(&self, lasts: Duration) {
        self.0.machine.link().cut().unwrap();
        self.heal(lasts);
    }

    fn stall(&self, lasts: Duration) {
        self.0.machine.link().stall().unwrap();
        self.heal(lasts);
    }

    fn heal(&self, lasts: Duration) {
        patience::pass(lasts);
        self.0.machine.link().restore().unwrap();
    }
}

/// The operator's own configuration of ssh, in which the machine has a name.
struct Names(TempDir);

impl Names {
    fn new() -> Self {
        let folder = TempDir::with_prefix("names-").unwrap();
        let ssh = folder.path().join("ssh");
        let names = Self(folder);
        // ssh looks for its configuration where the password file says that home is
        let script = format!(
            "#!/bin/sh\nexec {} -F {} \"$@\"\n",
            which("ssh").display(),
            names.configuration().display()
        );
        fs::write(&ssh, script).unwrap();
        fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).unwrap();
        names
    }

    fn configuration(&self) -> PathBuf {
        self.0.path().join("config")
    }

    /// The machine is at this address from now on.
    fn lead_to(&self, address: Ipv4Addr) {
        let (draft, path) = (self.0.path().join("draft"), self.configuration());
        fs::write(&draft, format!("Host {NAME}\n  HostName {address}\n")).unwrap();
        fs::rename(draft, path).unwrap();
    }

    /// Lets a command use it.
    fn known_to<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let path = command
            .get_envs()
            .find(|(name, _)| *name == "PATH")
            .and_then(|(_, value)| value.map(ToOwned::to_owned))
            .or_else(|| std::env::var_os("PATH"))
            .unwrap();
        let all = [self.0.path().to_owned()].into_iter();
        let all = all.chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(all).unwrap())
    }
}

fn which(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let found = std::env::split_paths(&path).map(|folder| folder.join(program));
    found
        .into_iter()
        .find(|path| Path::new(path).is_file())
        .unwrap()
}
