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

/// What earlier processes of a run have done.
#[derive(Debug, Clone, Default)]
pub struct Past {
    /// The machine was told to boot the installed system: nothing is left but to look at it.
    pub rebooted: bool,
    /// The machine was told to boot the installer.
    pub kexec_begun: bool,
    /// The agent was told to change the disks.
    pub disks_begun: bool,
    /// The disks as they were when somebody agreed to that; none where they were not known.
    agreed: Option<Vec<ConsentedDisk>>,
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
        for mark in marks {
            let step = mark.event.step.as_deref().unwrap_or_default();
            match (&mark.event.kind, step) {
                (Kind::StepStarted { .. }, "kexec") => past.kexec_begun = true,
                (Kind::StepStarted { .. }, "disko" | "install") => past.disks_begun = true,
                (Kind::StepStarted { .. }, "reboot") => past.rebooted = false,
                // passed over, it was left to the agent
                (
                    Kind::StepFinished {
                        outcome: Outcome::Skipped { .. },
                    },
                    "reboot",
                ) => {}
                (Kind::StepFinished { .. }, "reboot") => past.rebooted = true,
                (Kind::StepFinished { .. }, "prepare" | "build") => past.take(mark),
                _ => {}
            }
        }
        past
    }

    fn take(&mut self, mark: &Mark) {
        let proof = mark.proof.clone().unwrap_or_default();
        let Ok(prepared) = serde_json::from_value::<Prepared>(proof) else {
            return;
        };
        // what was agreed to before the disks were touched; whoever looks later sees what became of them
        if !self.disks_begun {
            self.agreed = prepared.disks;
        }
        self.followed |= prepared.disko.is_some_and(|disko| disko.again.is_some());
        self.system = prepared.system.or(self.system.take());
    }

    /// Returns the disks as they were when somebody agreed to their being changed, if that has begun since.
    pub fn agreed(&self) -> Option<&[ConsentedDisk]> {
        self.agreed.as_deref().filter(|_| self.disks_begun)
    }

    /// Whether these disks show that nothing was changed on them yet, though it was to begin: each begins as it did.
    pub fn left_alone(&self, disks: &[Disk]) -> bool {
        let agreed = self.agreed().unwrap_or_default();
        let same = |agreed: &ConsentedDisk| {
            let now = disks.iter().find(|disk| disk.is_called(&agreed.device));
            agreed.beginning.is_some() && now.is_some_and(|now| now.beginning == agreed.beginning)
        };
        !agreed.is_empty() && agreed.iter().all(same)
    }
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
    fn reboot_that_was_begun_again_is_not_over() {
        let done = Some(Value::Null);
        let past = Past::of(&marks(&[("reboot", None), ("reboot", done.clone())]));
        assert!(past.rebooted);
        let past = Past::of(&marks(&[("reboot", done), ("reboot", None)]));
        assert!(!past.rebooted);
    }
}
