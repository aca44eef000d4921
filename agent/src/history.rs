//! What agents on this machine have done, as their journals say: carried over a kexec, and asked whether a disk was
//! touched.
//!
//! Journals alone are believed, so that an agent that was started anew judges as the one before it did. Changes nothing
//! but the journal that was carried over.

use std::path::{Path, PathBuf};

use engine::journal::{FileStore, Header, Journal, JournalError, Mark};
use landfall_proto::{
    event::{Event, Kind, Outcome},
    failure::Failure,
    order::{self, Job, Order, RunId},
    report::{RunState, StepState},
    wire,
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    machine::{
        Machine, files,
        marker::{PAST_MAX, Past},
    },
    steps::Loaded,
};

/// The part of a run that is done on the old system, and its last step.
const KEXEC: &str = "kexec";
/// Steps that change a disk, or what is mounted from one.
const ON_DISKS: [&str; 5] = ["format", "mount", "copy", "files", "install"];
/// Largest journal that is read, in bytes. A run writes a few dozen lines.
const JOURNAL_MAX: u64 = 16 << 20;
/// What is carried besides the journal: names, and some host keys.
const BESIDES: u64 = 8 << 10;

/// Returns the folder of a part of a run.
pub(crate) fn folder(machine: &Machine, run: &RunId, part: &str) -> PathBuf {
    runs(machine).join(format!("{run}-{part}"))
}

/// Returns the journal in such a folder.
pub(crate) fn journal(folder: &Path) -> PathBuf {
    folder.join("journal.jsonl")
}

/// Whether all that this very order asks for was done, the disks were about to be sealed for it, and no run was at work on
/// them since.
pub(crate) fn is_sealed_for(machine: &Machine, order: &Order) -> bool {
    machine.is_sealed_for(&whole(order))
}

/// Returns the hash of all that an order asks for. How the disks were found is nothing that it asks for.
pub(crate) fn whole(order: &Order) -> String {
    let mut order = order.clone();
    if let Job::Install(order::Install {
        disko: Some(disko), ..
    }) = &mut order.job
    {
        disko.disks.clear();
    }
    blake3::hash(&wire::order_to_wire(&order))
        .to_hex()
        .to_string()
}

fn runs(machine: &Machine) -> PathBuf {
    machine.dir().join("runs")
}

/// Returns the lines of a journal as far as they may go through a kexec.
pub(crate) fn lines<S>(journal: &Journal<S>) -> Vec<Value> {
    let mut room = PAST_MAX - BESIDES;
    let mut fits = |line: &Value| {
        let left = room.checked_sub(line.to_string().len() as u64 + 1);
        room = left.unwrap_or_default();
        left.is_some()
    };
    let header = std::iter::once(value(&journal.header));
    let marks = journal.marks.iter().map(value);
    header.chain(marks).take_while(|line| fits(line)).collect()
}

fn value(line: &impl Serialize) -> Value {
    serde_json::to_value(line).expect("journal lines have only string keys")
}

/// Puts what was done before the kexec beside what is done here, if this is the installer of that run.
///
/// Done once. What does not fit is left out: it is there to be read by people, and nothing rests on it.
pub(crate) fn take_over(machine: &Machine) {
    let Some(marker) = machine.marker() else {
        return;
    };
    let folder = folder(machine, &marker.run, KEXEC);
    let Some(past) = machine.past().filter(|past| past.run == marker.run) else {
        return;
    };
    if files::names(&folder).is_empty() && write(&folder, past).is_err() {
        // half of a journal is none
        let _ = files::remove_directory(&folder);
    }
}

/// Writes the journal that was carried over, and that the kexec was done: otherwise nobody were here.
fn write(folder: &Path, past: Past) -> Result<(), Failure> {
    let unfit = |error: &dyn std::error::Error| {
        Failure::new("cannot read what was done before the kexec")
            .caused_by(error)
            .code("LF0901")
    };
    let first = past.journal.first().cloned().unwrap_or_default();
    let found: Header = serde_json::from_value(first).map_err(|error| unfit(&error))?;
    let names: Vec<&str> = found.plan.iter().map(String::as_str).collect();
    // of this format and run, whatever it says
    let header = Header::new(past.run, &names, found.order.clone(), found.began);
    let mut text = String::new();
    for line in &past.journal {
        text += &format!("{line}\n");
    }
    files::private_directory(folder)?;
    let path = journal(folder);
    files::write(&path, text.as_bytes(), 0o600)?;
    let proof = Loaded {
        boot_id: past.boot_id,
        host_keys: past.host_keys,
    };
    let mut journal = Journal::open(&path, header).map_err(|error| unfit(&error))?;
    finish(&mut journal, &proof).map_err(|error| unfit(&error))
}

/// Appends that the kexec was done, where all before it is there.
fn finish(journal: &mut Journal<FileStore>, proof: &Loaded) -> Result<(), JournalError> {
    let mut state = RunState::default();
    for mark in &journal.marks {
        // checked when it was read
        let _ = state.apply(&mark.event);
    }
    let mut before = state.steps.iter().filter(|step| step.name != KEXEC);
    if !before.all(StepState::is_finished) {
        return Ok(());
    }
    let at_ms = journal.marks.last().map_or(0, |mark| mark.event.at_ms);
    let attempt = state.step(KEXEC).map_or(0, |step| step.attempt) + 1;
    let outcome = Outcome::Done;
    let rest = [
        (Some(KEXEC), Kind::StepStarted { attempt }, None),
        (
            Some(KEXEC),
            Kind::StepFinished { outcome },
            Some(value(proof)),
        ),
        (None, Kind::RunFinished, None),
    ];
    for (step, kind, proof) in rest {
        let event = Event {
            index: state.next,
            light: None,
            at_ms,
            step: step.map(str::to_owned),
            kind,
        };
        if state.apply(&event).is_err() {
            break;
        }
        journal.append(Mark { event, proof })?;
    }
    Ok(())
}

/// Whether a run on this machine has begun to change its disks. What is in doubt counts as begun.
pub(crate) fn disks_begun(machine: &Machine) -> bool {
    let runs = runs(machine);
    let mut names = files::names(&runs).into_iter();
    names.any(|name| {
        let journal = journal(&runs.join(&name));
        let is_there = files::names(&runs.join(&name)).contains(&"journal.jsonl".to_owned());
        name.ends_with("-install")
            && is_there
            && files::read(&journal, JOURNAL_MAX).is_none_or(|text| has_begun(&text))
    })
}

fn has_begun(text: &[u8]) -> bool {
    let mut marks = text.split(|byte| *byte == b'\n').skip(1);
    marks.any(|line| {
        let mark: Option<Mark> = serde_json::from_slice(line).ok();
        !line.is_empty() && mark.is_none_or(|mark| is_on_disks(&mark.event))
    })
}

fn is_on_disks(event: &Event) -> bool {
    let step = event.step.as_deref().unwrap_or_default();
    ON_DISKS.contains(&step) && matches!(event.kind, Kind::StepStarted { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{marker::Marker, stage::Stage};

    const PLAN: [&str; 3] = ["inspect", "image", "kexec"];

    fn run() -> RunId {
        RunId::from_bytes([7; 16])
    }

    #[test]
    fn sealed_order_is_known_however_its_disks_look_by_now() {
        let stage = Stage::new();
        let machine = stage.machine();
        let order = |disk: &str, reboot: bool| Order {
            run: run(),
            job: Job::Install(order::Install {
                disko: Some(order::Disko {
                    script: "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-x"
                        .parse()
                        .unwrap(),
                    mode: order::DiskoMode::Disko,
                    disks: vec![order::ConsentedDisk {
                        device: "/dev/vda".to_owned(),
                        size: 1,
                        serial: None,
                        beginning: Some(disk.to_owned()),
                    }],
                    again: None,
                }),
                reboot,
                ..order::Install::default()
            }),
        };
        files::private_directory(machine.dir()).unwrap();
        let mine = order("as it was", true);
        assert!(!is_sealed_for(&machine, &mine), "nothing was kept");
        machine.set_sealed_for(&whole(&mine)).unwrap();
        assert!(is_sealed_for(&machine, &mine));
        assert!(is_sealed_for(&machine, &order("formatted", true)));
        assert!(!is_sealed_for(&machine, &order("as it was", false)));
        machine.forget_seal().unwrap();
        machine.forget_seal().unwrap();
        assert!(!is_sealed_for(&machine, &mine));
    }

    /// The journal of an old system on which everything but the kexec is done.
    fn old_system(folder: &Path, steps: &[&str]) -> Vec<Value> {
        files::private_directory(folder).unwrap();
        let header = Header::new(run(), &PLAN, "order".to_owned(), 1);
        let mut journal: Journal<FileStore> = Journal::open(&journal(folder), header).unwrap();
        let mut tell = |step: Option<&str>, kind, proof| {
            let event = Event {
                index: journal.marks.len() as u64,
                light: None,
                at_ms: 5,
                step: step.map(str::to_owned),
                kind,
            };
            journal.append(Mark { event, proof }).unwrap();
        };
        let all = PLAN.map(str::to_owned).to_vec();
        tell(None, Kind::RunStarted { steps: all }, None);
        for step in steps {
            tell(Some(step), Kind::StepStarted { attempt: 1 }, None);
            let outcome = Outcome::Done;
            tell(
                Some(step),
                Kind::StepFinished { outcome },
                Some(Value::Null),
            );
        }
        lines(&journal)
    }

    fn past(journal: Vec<Value>) -> Past {
        Past {
            run: run(),
            boot_id: "boot-0".to_owned(),
            host_keys: vec!["ssh-rsa BBBB".to_owned()],
            journal,
        }
    }

    /// An installer that was handed this.
    fn installer(marker: &RunId, past: &Past) -> Stage {
        let marker = Marker {
            run: marker.clone(),
            return_after: 0,
        };
        let marker = serde_json::to_string(&marker).unwrap();
        let past = serde_json::to_string(past).unwrap();
        Stage::new()
            .file("root/network/landfall-run.json", &marker)
            .file("root/network/landfall-journal.json", &past)
    }

    fn taken_over(stage: &Stage) -> Option<Journal<FileStore>> {
        let machine = stage.machine();
        take_over(&machine);
        let folder = folder(&machine, &run(), KEXEC);
        let header = Header::new(run(), &PLAN, "order".to_owned(), 1);
        let is_there = !files::names(&folder).is_empty();
        is_there.then(|| Journal::open(&super::journal(&folder), header).unwrap())
    }

    #[test]
    fn journal_goes_on_in_the_installer() {
        let dir = tempfile::tempdir().unwrap();
        let before = old_system(dir.path(), &["inspect", "image"]);
        let stage = installer(&run(), &past(before.clone()));
        let journal = taken_over(&stage).unwrap();
        let all = lines(&journal);
        assert_eq!(all[..before.len()], before);
        let kinds: Vec<_> = journal.marks[5..]
            .iter()
            .map(|mark| &mark.event.kind)
            .collect();
        let outcome = Outcome::Done;
        assert_eq!(
            kinds,
            [
                &Kind::StepStarted { attempt: 1 },
                &Kind::StepFinished { outcome },
                &Kind::RunFinished
            ]
        );
        let proof = journal.marks[6].proof.clone().unwrap();
        assert_eq!(proof["boot_id"], "boot-0");
        assert_eq!(proof["host_keys"][0], "ssh-rsa BBBB");
        // an agent that starts again finds it done
        drop(journal);
        assert_eq!(lines(&taken_over(&stage).unwrap()), all);
    }

    #[test]
    fn journal_that_was_cut_off_is_not_made_whole() {
        let dir = tempfile::tempdir().unwrap();
        let before = old_system(dir.path(), &["inspect"]);
        let journal = taken_over(&installer(&run(), &past(before.clone()))).unwrap();
        assert_eq!(lines(&journal), before);
    }

    #[test]
    fn foreign_journal_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let before = old_system(dir.path(), &["inspect", "image"]);
        let check = |marker: &RunId, past: &Past| {
            assert!(taken_over(&installer(marker, past)).is_none(), "{past:?}");
        };
        check(&RunId::from_bytes([8; 16]), &past(before.clone()));
        check(&run(), &past(Vec::new()));
        check(&run(), &past(before[1..].to_vec()));
        let mut twice = before.clone();
        twice.push(before[1].clone());
        check(&run(), &past(twice));
        let mut other = before.clone();
        other[0]["run"] = "08".repeat(16).into();
        check(&run(), &past(other));
        let mut large = past(before);
        large.boot_id = "x".repeat(64 << 10);
        check(&run(), &large);
    }

    #[test]
    fn only_so_much_is_carried() {
        let dir = tempfile::tempdir().unwrap();
        old_system(dir.path(), &["inspect"]);
        let header = Header::new(run(), &PLAN, "order".to_owned(), 1);
        let mut journal = Journal::open(&super::journal(dir.path()), header).unwrap();
        let event = Event {
            index: 3,
            light: None,
            at_ms: 5,
            step: Some("image".to_owned()),
            kind: Kind::StepStarted { attempt: 1 },
        };
        let proof = Some("x".repeat(60 << 10).into());
        let kept = lines(&journal).len();
        journal.append(Mark { event, proof }).unwrap();
        assert_eq!(lines(&journal).len(), kept);
    }

    #[test]
    fn disks_are_begun_when_a_journal_says_so() {
        let begun = |step: &str| {
            format!(
                r#"{{"event":{{"index":1,"at_ms":1,"step":"{step}","kind":"step_started","attempt":1}}}}"#
            )
        };
        let over = r#"{"event":{"index":1,"at_ms":1,"step":"format","kind":"step_finished","outcome":{"how":"skipped","reason":"x"}}}"#;
        let check = |name: &str, lines: &[&str], expected: bool| {
            let text = ["header"]
                .iter()
                .chain(lines)
                .map(|line| format!("{line}\n"));
            let text: String = text.collect();
            let stage =
                Stage::new().file(&format!("run/landfall/runs/{name}/journal.jsonl"), &text);
            assert_eq!(disks_begun(&stage.machine()), expected, "{name}: {lines:?}");
        };
        for step in ON_DISKS {
            check("07-install", &[&begun(step)], true);
            check("07-install", &[&begun("tools"), &begun(step), over], true);
        }
        for step in ["inspect", "keys", "tools", "seal", "reboot"] {
            check("07-install", &[&begun(step)], false);
        }
        check("07-install", &[], false);
        check("07-install", &[over], false);
        check("07-kexec", &[&begun("format")], false);
        // refused before it began
        let failure = Failure::new("refusing to format").code("LF1501");
        let refused = Mark {
            event: Event {
                index: 1,
                light: None,
                at_ms: 1,
                step: Some("format".to_owned()),
                kind: Kind::StepFailed { failure },
            },
            proof: None,
        };
        check("07-install", &[&value(&refused).to_string()], false);
        // what cannot be read may be anything
        check("07-install", &[&begun("tools"), "{"], true);
        check("07-install", &["\0\0\0\0"], true);
        let stage = Stage::new().file("run/landfall/runs/07-install/other", "");
        assert!(!disks_begun(&stage.machine()));
        assert!(!disks_begun(&Stage::new().machine()));
    }
}
