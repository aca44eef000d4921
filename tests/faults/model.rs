//! What must be true in the end, whatever went wrong. Knows nothing of how landfall does it.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use landfall_tests::{link::gauge::Direction, namespace::Target, patience};
use serde_json::Value;

use super::{
    bench::{Bench, DISK_KEY},
    fixture,
    play::{Attempt, Played},
    schedule::{Fault, Kind, When},
    tree::{self, Tree},
};

/// Every wait of a program that nobody needs any more ends within this.
const LEAVES: Duration = Duration::from_secs(20);
/// Seconds within which the agent has written down that disko's script ended, on a host with much to do.
const SEES: f64 = 1.0;
/// Bytes that may be sent again for a connection that was lost: a chunk on each of the two lanes, and
/// what it takes to log in twice.
const AGAIN: u64 = 2 * (256 << 10) + (64 << 10);
/// What sshd may have taken and not handed on to a program that has no processor (channels.h of OpenSSH: the window of a
/// session); it is gone with its session.
const OF_SSH: u64 = 2 << 20;
/// Bytes to the target and from it by which the agent is there.
const UPLOADED: u64 = 6_000_000;
const ANSWERED: u64 = 64 << 10;
const STORE: &str = "local?root=/mnt";
/// Differs from one installation to the next and says nothing: nix's own books, which nix checks.
const WITHOUT: &[&str] = &[
    "/nix/var/nix",
    "/nix/store/.links",
    "/lost+found",
    "/boot/lost+found",
    "/etc/ssh/ssh_host_ed25519_key",
    "/etc/ssh/ssh_host_ed25519_key.pub",
];

/// How a target is after an installation.
#[derive(Debug)]
pub(crate) struct Truth {
    disk: Tree,
    paths: String,
    boot_code: Vec<u8>,
    mounts: Vec<String>,
    installer: Tree,
    /// Bytes sent to the target and from it.
    pub(crate) passed: [u64; 2],
}

impl Truth {
    /// Looks at a target on which an installation has ended.
    pub(crate) fn of(bench: &Bench, passed: [u64; 2]) -> Result<Self> {
        let target = &bench.target;
        Ok(Self {
            disk: tree::read(&target.path("/mnt"), WITHOUT)?,
            paths: paths(target)?,
            boot_code: boot_code(target)?,
            mounts: target.mounts()?,
            installer: installer(target)?,
            passed,
        })
    }
}

/// Says what is not as it must be.
pub(crate) fn judge(bench: &Bench, truth: &Truth, played: &Played) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    ended(played, &mut wrong);
    told(played, &mut wrong);
    let last = played.attempts.last();
    let is_done = last.is_some_and(|last| last.code == Some(0));
    if is_done {
        // an agent that is about to leave still holds what was sent
        left_over(bench, &mut wrong)?;
    }
    secrets(bench, played, &mut wrong)?;
    witness(bench, played, &mut wrong)?;
    if is_done {
        let now = Truth::of(bench, played.passed)?;
        let differ = tree::differences(&truth.disk, &now.disk, 8);
        wrong.extend(differ.into_iter().map(|line| format!("disk: {line}")));
        if now.paths != truth.paths {
            wrong.push("disk: other store paths are valid".to_owned());
        }
        if now.boot_code != truth.boot_code {
            wrong.push("disk: the boot code is another".to_owned());
        }
        if now.mounts != truth.mounts {
            wrong.push(format!(
                "mounts: {:?}, and should be {:?}",
                now.mounts, truth.mounts
            ));
        }
        let differ = tree::differences(&truth.installer, &now.installer, 8);
        wrong.extend(differ.into_iter().map(|line| format!("installer: {line}")));
        host_key(&bench.target, &mut wrong)?;
        verified(&bench.target, &mut wrong)?;
        sent_again(truth, played, &mut wrong);
    }
    Ok(wrong)
}

/// Commands end, in the end well, and not because of the line.
fn ended(played: &Played, wrong: &mut Vec<String>) {
    for (number, attempt) in played.attempts.iter().enumerate() {
        if attempt.hung {
            wrong.push(format!("command {number} did not end"));
        }
        // a panic, or a way to end that scripts know nothing of
        if attempt
            .code
            .is_some_and(|code| ![0, 1, 3, 4].contains(&code))
        {
            wrong.push(format!("command {number} ended with {:?}", attempt.code));
        }
        // contact that never was cannot be lost: who cannot be reached at first is told so, and nothing has happened
        let met = played.attempts[..=number].iter().any(has_met);
        let failed = attempt
            .code
            .is_some_and(|code| code != 0 && (met || code != 1));
        let of_the_line = attempt.faults.iter().all(|kind| kind.is_of_the_line());
        let only = played
            .happened
            .iter()
            .all(|fault| fault.kind.is_of_the_line());
        if failed && of_the_line && only {
            let code = attempt.failure.as_deref().unwrap_or("no code");
            wrong.push(format!(
                "command {number} failed because of the line ({code})"
            ));
        }
    }
    if played
        .attempts
        .last()
        .is_none_or(|last| last.code != Some(0))
    {
        wrong.push("no command ended well".to_owned());
    }
}

/// Whether the operator and the machine have met.
fn has_met(attempt: &Attempt) -> bool {
    let connected =
        |record: &Value| record["step"] == "connect" && record["kind"] == "step_finished";
    attempt.records.iter().any(connected)
}

/// Every watcher was told of every event, in order.
fn told(played: &Played, wrong: &mut Vec<String>) {
    for (number, attempt) in played.attempts.iter().enumerate() {
        let mut last: BTreeMap<bool, u64> = BTreeMap::new();
        let heavy = |record: &&Value| record["light"].is_null() && record["index"].is_u64();
        for record in attempt.records.iter().filter(heavy) {
            let agent = record["step"]
                .as_str()
                .is_some_and(|step| step.contains('/'));
            let index = record["index"].as_u64().unwrap_or_default();
            let next = last.get(&agent).map(|last| last + 1);
            // a process of the agent that takes up a run tells so, which is shown in other words
            let taken_up = agent && next.is_some_and(|next| index > next && index <= next + 2);
            if next.is_some_and(|next| next != index) && !(taken_up && killed(&played.happened)) {
                let who = if agent { "agent" } else { "controller" };
                wrong.push(format!(
                    "events of command {number}: the {who}'s {index} came after {}",
                    index_before(next)
                ));
                break;
            }
            last.insert(agent, index);
        }
    }
}

fn index_before(next: Option<u64>) -> u64 {
    next.unwrap_or_default().saturating_sub(1)
}

/// Disks were formatted once for each consent.
fn witness(bench: &Bench, played: &Played, wrong: &mut Vec<String>) -> Result<()> {
    let ends = bench.witness("end");
    let (begun, ended) = (bench.witness("begin").len(), ends.len());
    let consents = 1 + played
        .attempts
        .iter()
        .filter(|attempt| attempt.fresh)
        .count();
    // what was begun and never reached a disk was not done
    if begun > consents + played.undone {
        wrong.push(format!(
            "disks were formatted {begun} times, agreed to {consents} times"
        ));
    }
    let powerless = played
        .happened
        .iter()
        .any(|fault| fault.kind == Kind::Power);
    let refused = played.attempts.iter().any(Attempt::is_undecided);
    // without power the target forgets what it had not written down
    // nor is anything written down by an agent that is killed before it has looked at what the script left
    let unseen = ends.iter().any(|end| {
        let before = |kill: &f64| *kill >= *end && *kill < end + SEES;
        played.kills.iter().any(before)
    });
    if refused && ended >= begun && !powerless && !unseen {
        wrong.push("a format that had ended was taken for one that had not".to_owned());
    }
    if refused && !killed_the_agent(&played.happened) {
        wrong.push("a format was interrupted, and nobody had killed the agent".to_owned());
    }
    for (number, attempt) in played.attempts.iter().enumerate() {
        // power cuts since the disks were last agreed to
        let since = played.attempts[..=number].iter().rposition(|one| one.fresh);
        let since = &played.attempts[since.unwrap_or(0)..=number];
        let told = since.iter().any(|one| one.bereft);
        if attempt.is_undecided() && told && begun == ended {
            wrong.push(format!(
                "command {number} did not go on with what was on the disks"
            ));
        }
    }
    Ok(())
}

/// Whether a process of the agent came after another.
fn killed(faults: &[Fault]) -> bool {
    faults.iter().any(|fault| !fault.kind.is_of_the_line())
}

fn killed_the_agent(faults: &[Fault]) -> bool {
    faults.iter().any(|fault| {
        matches!(
            fault.kind,
            Kind::Agent | Kind::Both | Kind::DiskFull | Kind::RunFull | Kind::Power
        )
    })
}

/// Nothing of landfall is left on either side.
pub(crate) fn left_over(bench: &Bench, wrong: &mut Vec<String>) -> Result<()> {
    let mut left = Vec::new();
    let gone = patience::until("everybody to leave", LEAVES, || {
        left = bench.everybody()?;
        Ok(left.is_empty().then_some(()))
    });
    if gone.is_err() {
        wrong.extend(
            left.iter()
                .map(|(_, words)| format!("left over: process {words}")),
        );
    }
    for folder in [bench.operator.runtime(), bench.operator.temporary()] {
        for entry in fs::read_dir(&folder).context("looking at the operator's folders")? {
            wrong.push(format!("left over: {}", entry?.path().display()));
        }
    }
    Ok(())
}

/// Nobody finds a secret who looks where landfall has been, at any time. `logs` is what it has said.
fn secrets(bench: &Bench, played: &Played, wrong: &mut Vec<String>) -> Result<()> {
    let exposed = played.exposed.iter();
    wrong.extend(exposed.map(|place| format!("secret: in the {place}")));
    let mut places = vec![bench.operator.state(), bench.operator.temporary()];
    let inside = ["/run", "/tmp", "/root", "/dev/shm", "/var/log"];
    places.extend(inside.map(|place| bench.target.path(place)));
    places.push(played.logs.clone());
    // without phase reboot it stays where disko reads it, in memory; whoever runs landfall is told so
    let right = bench.target.path(DISK_KEY);
    for place in places {
        for file in tree::files(&place)? {
            if file != right && fixture::tells_secrets(&fs::read(&file).unwrap_or_default()) {
                wrong.push(format!("secret: in {}", file.display()));
            }
        }
    }
    if fixture::tells_secrets(bench.target.log().as_bytes()) {
        wrong.push("secret: in sshd's log".to_owned());
    }
    Ok(())
}

/// The host's key went along, and nobody else may read it.
fn host_key(target: &Target, wrong: &mut Vec<String>) -> Result<()> {
    let name = "/etc/ssh/ssh_host_ed25519_key";
    let read = |path: &str| tree::read(&target.path(path), &[]);
    if read(name)? != read(&format!("/mnt{name}"))? {
        wrong.push("disk: the host key is not the installer's".to_owned());
    }
    Ok(())
}

/// Nix finds all paths whole.
fn verified(target: &Target, wrong: &mut Vec<String>) -> Result<()> {
    let mut nix = target.command("nix-store");
    nix.args(["--store", STORE, "--verify", "--check-contents"]);
    let verified = nix.output().context("verifying the store")?;
    let said = String::from_utf8_lossy(&verified.stderr);
    let bad = ["was modified", "disappeared", "error:"];
    if !verified.status.success() || bad.iter().any(|word| said.contains(word)) {
        wrong.push(format!("disk: nix-store --verify says: {}", said.trim()));
    }
    Ok(())
}

/// A lost connection costs no more than what was under way. Who kills a program sends more again.
fn sent_again(truth: &Truth, played: &Played, wrong: &mut Vec<String>) {
    if !played.is_of_the_line() {
        return;
    }
    let cuts = played.happened.iter().filter(|fault| fault.kind.cuts());
    let costs = cuts.map(|cut| match meets_the_upload(cut) {
        true => AGAIN + OF_SSH,
        false => AGAIN,
    });
    let (cuts, lost) = costs.fold((0, 0), |(count, sum), cost| (count + 1, sum + cost));
    let may = truth.passed[0] + truth.passed[0] / 100 + lost;
    if played.passed[0] > may {
        let more = played.passed[0] - truth.passed[0];
        wrong.push(format!(
            "{more} bytes were sent again for {cuts} lost connections"
        ));
    }
}

/// Whether the agent itself was on its way, which ssh carries alone.
fn meets_the_upload(fault: &Fault) -> bool {
    match fault.when {
        When::Byte(Direction::Up, at) => at < UPLOADED,
        When::Byte(Direction::Down, at) => at < ANSWERED,
        _ => false,
    }
}

fn paths(target: &Target) -> Result<String> {
    let mut nix = target.command("nix-store");
    let profile = "/mnt/nix/var/nix/profiles/system";
    let link = fs::read_link(target.path(profile)).context("reading the system's profile")?;
    let generation = Path::new(profile).with_file_name(link);
    let system = fs::read_link(target.path(&generation.to_string_lossy()))?;
    nix.args(["--store", STORE, "--query", "--requisites"])
        .arg(&system);
    let output = nix.output().context("asking for store paths")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut paths: Vec<_> = String::from_utf8(output.stdout)?
        .lines()
        .map(str::to_owned)
        .collect();
    paths.sort();
    Ok(paths.join("\n"))
}

fn boot_code(target: &Target) -> Result<Vec<u8>> {
    let mut dd = target.command("dd");
    dd.args(["if=/dev/riga", "bs=440", "count=1", "status=none"]);
    Ok(dd.output().context("reading the boot code")?.stdout)
}

/// What is in the installer's memory, where landfall has been.
fn installer(target: &Target) -> Result<Tree> {
    let mut all = Tree::new();
    for place in ["/run", "/tmp", "/root"] {
        // blkid remembers what it saw, or does not
        let found = tree::read(&target.path(place), &["/blkid"])?;
        all.extend(
            found
                .into_iter()
                .map(|(name, line)| (format!("{place}{name}"), line)),
        );
    }
    Ok(all)
}
