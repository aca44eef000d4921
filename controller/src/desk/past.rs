//! What earlier processes of a run have done, as the journal on this machine says.
//!
//! The other journal, the agent's, is in the memory of a machine that may have lost its power since. Nothing here looks at
//! a machine.

use engine::journal::Mark;
use landfall_proto::{
    event::{Kind, Outcome},
    facts::Disk,
    order::{ConsentedDisk, Disko, System},
};
use serde::Deserialize;

use super::{ALONE, Reached};

/// What earlier processes of a run have done.
#[derive(Debug, Clone, Default)]
pub struct Past {
    /// Nothing is left but to look at the machine: it was told to boot the installed system, or its agent has done all alone.
    pub is_done: bool,
    /// The boot of the machine in which an earlier process has seen the run to its end.
    pub ended_in: Option<String>,
    /// The machine was told to boot the installer.
    pub kexec_begun: bool,
    /// The agent was told to change the disks.
    pub disks_begun: bool,
    /// The disks that were found last, as they were then; none where they were not known.
    found: Option<Vec<ConsentedDisk>>,
    /// Every disk that was to be changed, as it was when somebody agreed to that.
    begun: Vec<ConsentedDisk>,
    /// Disks were to be changed of which nobody knew which.
    begun_unknown: bool,
    /// What was to be installed.
    pub system: Option<System>,
    /// An earlier process followed what an earlier boot had formatted; so does every one after it.
    pub followed: bool,
}

/// What of a proof of `prepare` or `build` is of use later.
#[derive(Debug, Deserialize)]
struct Prepared {
    disks: Option<Vec<ConsentedDisk>>,
    disko: Option<Disko>,
    system: Option<System>,
}

impl Past {
    /// Reads it from the marks of a run that is taken up.
    pub fn of(marks: &[Mark]) -> Self {
        let mut past = Self::default();
        let (mut boot_id, mut alone) = (None, false);
        for mark in marks {
            let step = mark.event.step.as_deref().unwrap_or_default();
            match (&mark.event.kind, step) {
                (Kind::Resumed, _) => alone = false,
                (Kind::StepStarted { .. }, "kexec" | "disko" | "install" | "reboot") => {
                    past.begun(step);
                }
                // passed over, it was left to the agent, whose end nobody has seen
                (
                    Kind::StepFinished {
                        outcome: Outcome::Skipped { reason },
                    },
                    _,
                ) if reason == ALONE => alone = true,
                // whatever else it was passed over for, nobody rebooted then, and what was taken for done is looked at anew
                (
                    Kind::StepFinished {
                        outcome: Outcome::Skipped { .. } | Outcome::Recovered,
                    },
                    "reboot",
                ) => {}
                (Kind::StepFinished { .. }, "reboot") => past.is_done = true,
                (Kind::StepFinished { .. }, "prepare" | "build") => past.take(mark),
                (Kind::StepFinished { .. }, "connect" | "kexec") => {
                    boot_id = boot(mark).or(boot_id);
                }
                (Kind::RunFinished, _) if !alone => past.ended_in.clone_from(&boot_id),
                _ => {}
            }
        }
        past
    }

    /// Takes in that a phase has begun that orders something of the agent.
    fn begun(&mut self, phase: &str) {
        self.ended_in = None;
        match phase {
            "kexec" => self.kexec_begun = true,
            "disko" | "install" => self.disks_begun(),
            _ => self.is_done = false,
        }
    }

    fn disks_begun(&mut self) {
        self.disks_begun = true;
        let found = self.found.clone().unwrap_or_default();
        self.begun_unknown |= found.is_empty();
        for disk in found {
            // whoever looks once it was begun sees what became of it
            if self.agreed(&disk).is_none() {
                self.begun.push(disk);
            }
        }
    }

    fn take(&mut self, mark: &Mark) {
        let proof = mark.proof.clone().unwrap_or_default();
        let Ok(prepared) = serde_json::from_value::<Prepared>(proof) else {
            return;
        };
        self.found = prepared.disks;
        self.followed |= prepared.disko.is_some_and(|disko| disko.again.is_some());
        self.system = prepared.system.or(self.system.take());
    }

    /// Returns a disk as it was when somebody agreed to its being changed, if that was to begin since.
    pub fn agreed(&self, disk: &ConsentedDisk) -> Option<&ConsentedDisk> {
        self.begun.iter().find(|begun| begun.is_same(disk))
    }

    /// Whether somebody agreed to just these disks being changed, and that was to begin since.
    pub fn has_begun(&self, disks: &[ConsentedDisk]) -> bool {
        match disks {
            [] => self.disks_begun && self.begun_unknown,
            disks => disks.iter().all(|disk| self.agreed(disk).is_some()),
        }
    }

    /// Whether these disks show that nothing was changed on them yet, though it was to begin: each begins as it did.
    pub fn left_alone(&self, disks: &[Disk]) -> bool {
        let same = |agreed: &ConsentedDisk| {
            let now = disks.iter().find(|disk| disk.is_called(&agreed.device));
            agreed.beginning.is_some() && now.is_some_and(|now| now.beginning == agreed.beginning)
        };
        !self.begun_unknown && !self.begun.is_empty() && self.begun.iter().all(same)
    }
}

/// Returns the boot in which a phase found the machine.
fn boot(mark: &Mark) -> Option<String> {
    let proof = mark.proof.clone()?;
    Some(serde_json::from_value::<Reached>(proof).ok()?.boot_id)
}

#[cfg(test)]
mod tests {
    use landfall_proto::event::Event;
    use serde_json::{Value, json};

    use super::*;

    fn marks(marks: &[(&str, Option<Value>)]) -> Vec<Mark> {
        let mark = |(index, (step, proof)): (u64, &(&str, Option<Value>))| Mark {
            event: Event {
                index,
                light: None,
                at_ms: 0,
                step: Some((*step).to_owned()),
                kind: match proof {
                    Some(_) => Kind::StepFinished {
                        outcome: Outcome::Done,
                    },
                    None => Kind::StepStarted { attempt: 1 },
                },
            },
            proof: proof.clone(),
        };
        (0..).zip(marks).map(mark).collect()
    }

    fn prepared(beginning: &str) -> Option<Value> {
        let disk = json!({"device": "/dev/vda", "size": 1, "serial": null, "beginning": beginning});
        Some(json!({"disks": [disk], "system": null}))
    }

    fn disk(beginning: Option<&str>) -> Vec<Disk> {
        vec![Disk {
            device: "/dev/vda".to_owned(),
            beginning: beginning.map(str::to_owned),
            ..Disk::default()
        }]
    }

    #[test]
    fn disks_are_held_against_what_was_agreed_to_before_they_were_touched() {
        let past = Past::of(&marks(&[
            ("prepare", prepared("a")),
            ("disko", None),
            ("prepare", prepared("b")),
        ]));
        assert!(past.disks_begun);
        assert!(past.left_alone(&disk(Some("a"))));
        assert!(!past.left_alone(&disk(Some("b"))));
        assert!(!past.left_alone(&disk(None)));
        assert!(!past.left_alone(&[]));
    }

    #[test]
    fn disk_that_nobody_agreed_to_is_asked_about_and_is_not_untouched_for_another_s_sake() {
        let other = |beginning: &str| {
            let disk =
                json!({"device": "/dev/vdb", "size": 1, "serial": null, "beginning": beginning});
            Some(json!({"disks": [disk], "system": null}))
        };
        let agreed = |name: &str| ConsentedDisk {
            device: name.to_owned(),
            size: 1,
            serial: None,
            beginning: None,
        };
        // killed before anything was changed, corrected, begun with another disk
        let mut told = marks(&[
            ("prepare", prepared("a")),
            ("disko", None),
            ("prepare", other("a")),
        ]);
        let past = Past::of(&told);
        assert!(past.has_begun(&[agreed("/dev/vda")]));
        assert!(!past.has_begun(&[agreed("/dev/vdb")]));
        assert!(!past.has_begun(&[agreed("/dev/vda"), agreed("/dev/vdb")]));
        assert!(!past.has_begun(&[]));
        told.extend(marks(&[("disko", None)]));
        let past = Past::of(&told);
        assert!(past.has_begun(&[agreed("/dev/vdb")]));
        let both = |second: &str| {
            let mut disks = [disk(Some("a")), disk(Some(second))].concat();
            disks[1].device = "/dev/vdb".to_owned();
            disks
        };
        assert!(past.left_alone(&both("a")));
        assert!(!past.left_alone(&both("formatted")));
    }

    #[test]
    fn who_has_followed_once_follows_again() {
        const PATH: &str = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-x";
        let prepared = |again: Option<&str>| {
            let disko = json!({"script": PATH, "mode": "disko", "disks": [], "again": again});
            Some(json!({"disks": [], "disko": disko, "system": null}))
        };
        let past = Past::of(&marks(&[("prepare", prepared(None)), ("disko", None)]));
        assert!(!past.followed);
        let past = Past::of(&marks(&[
            ("prepare", prepared(Some(PATH))),
            ("disko", None),
            ("prepare", prepared(None)),
        ]));
        assert!(past.followed);
    }

    #[test]
    fn disks_that_nobody_knew_are_not_taken_for_untouched() {
        let nothing = Some(json!({"disks": null, "system": null}));
        let past = Past::of(&marks(&[("prepare", nothing), ("disko", None)]));
        assert!(!past.left_alone(&disk(Some("a"))));
        let empty = Some(json!({"disks": [], "system": null}));
        let past = Past::of(&marks(&[("prepare", empty), ("disko", None)]));
        assert!(!past.left_alone(&disk(Some("a"))));
    }

    #[test]
    fn run_has_ended_in_the_boot_that_was_reached_last_until_something_is_ordered_anew() {
        let in_boot = |boot_id: &str| {
            let arch = json!("x86_64");
            Some(json!({"boot_id": boot_id, "arch": arch, "installer": true, "kexec_marker": ""}))
        };
        let mut told = marks(&[
            ("connect", in_boot("old")),
            ("kexec", in_boot("new")),
            ("install", Some(Value::Null)),
        ]);
        assert_eq!(Past::of(&told).ended_in, None);
        let index = 3;
        told.push(Mark {
            event: Event {
                index,
                light: None,
                at_ms: 0,
                step: None,
                kind: Kind::RunFinished,
            },
            proof: None,
        });
        assert_eq!(Past::of(&told).ended_in.as_deref(), Some("new"));
        // who comes back may be killed too, before anything is ordered
        told.extend(marks(&[("connect", None)]));
        assert_eq!(Past::of(&told).ended_in.as_deref(), Some("new"));
        told.extend(marks(&[("disko", None)]));
        assert_eq!(Past::of(&told).ended_in, None);
    }

    #[test]
    fn reboot_that_was_begun_again_is_not_over() {
        let done = Some(Value::Null);
        let past = Past::of(&marks(&[("reboot", None), ("reboot", done.clone())]));
        assert!(past.is_done);
        let past = Past::of(&marks(&[("reboot", done), ("reboot", None)]));
        assert!(!past.is_done);
    }

    #[test]
    fn reboot_that_nobody_saw_is_not_over() {
        let passed_over = |reason: &str| Outcome::Skipped {
            reason: reason.to_owned(),
        };
        for outcome in [
            passed_over(ALONE),
            passed_over("the machine runs the installed system"),
            Outcome::Recovered,
        ] {
            let mut told = marks(&[("reboot", None), ("reboot", Some(Value::Null))]);
            told[1].event.kind = Kind::StepFinished {
                outcome: outcome.clone(),
            };
            assert!(!Past::of(&told).is_done, "{outcome:?}");
        }
    }
}
