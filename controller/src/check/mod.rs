//! Judges a machine by its facts: each known way to fail is a check with a name, a verdict and advice.
//!
//! Pure, but for the clock in [`Wanted::of`] and for `look`, which is the command `landfall check`. What is judged is
//! what the agent saw; nothing here asks the machine again, and nothing is guessed where a fact is absent. Start at
//! [`checks`].

mod disks;
mod firmware;
mod kexec;
mod look;
mod machine;
mod memory;
mod network;
mod report;
#[cfg(test)]
mod samples;

use std::fmt;

use landfall_proto::{facts::Facts, failure::Failure, image::Size};
use serde::Serialize;

pub use self::look::check;
use crate::{
    local::clock,
    request::{self, Phase, Request},
};

/// What was found out about one way to fail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Where it belongs in a report.
    pub group: Group,
    /// Its name, the same in every version.
    pub name: &'static str,
    /// Whether the machine passes.
    pub verdict: Verdict,
    /// What was found, in a few words.
    pub found: String,
    /// Why it may do nevertheless; empty but for warnings.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub because: &'static str,
    /// What to do about it, most helpful first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub advice: Vec<String>,
    /// Name of the failure that it would become; empty where it is none.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub code: &'static str,
}

/// Whether a machine passes a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing stands in the way.
    Ok,
    /// The fact that decides is absent.
    Unknown,
    /// It may do. A person should know.
    Warning,
    /// It is known to fail.
    Failure,
}

/// Where a check belongs in a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// What it is, and what runs on it.
    Machine,
    /// What landfall may do on it.
    Privileges,
    /// Whether its kernel starts another one.
    Kexec,
    /// Whether the installer fits.
    Memory,
    /// What starts the installed system.
    Firmware,
    /// What is installed on.
    Disks,
    /// Whether it is found again.
    Network,
}

/// What is to be done with the machine, as far as its facts have to allow it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Whether an installer is booted by kexec.
    pub kexec: bool,
    /// Which one.
    pub image: Image,
    /// Whether the machine reboots in the end.
    pub reboot: bool,
    /// Devices that the configuration names; empty where it was not read.
    pub disks: Vec<String>,
    /// The clock of this machine when the facts came, in seconds since 1970.
    pub now: Option<u64>,
}

/// Which installer is booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Image {
    /// The stock one.
    #[default]
    Stock,
    /// One of the operator's, of which nothing is known yet.
    Own,
    /// One that was measured.
    Measured(Size),
}

impl Wanted {
    /// Reads from a request what the machine has to allow.
    pub fn of(request: &Request, facts: &Facts) -> Self {
        let kexec = request.phases.has(Phase::Kexec) && (!facts.installer || request.kexec.force);
        let image = match request.kexec.image {
            request::Image::Default => Image::Stock,
            request::Image::File(_) | request::Image::Url(_) => Image::Own,
        };
        Self {
            kexec,
            image,
            reboot: request.phases.has(Phase::Reboot),
            disks: Vec::new(),
            now: Some(clock::now()).filter(|now| *now > 0),
        }
    }
}

impl Group {
    /// All of them, in the order of a report.
    pub const ALL: [Self; 7] = [
        Self::Machine,
        Self::Privileges,
        Self::Kexec,
        Self::Memory,
        Self::Firmware,
        Self::Disks,
        Self::Network,
    ];

    /// Says what cannot be done when a check of this group fails.
    fn headline(self) -> &'static str {
        match self {
            Self::Kexec | Self::Firmware => "cannot boot an installer by kexec",
            Self::Memory => "cannot boot the installer from memory",
            Self::Network => "refusing to boot an installer that nobody would reach",
            Self::Machine | Self::Privileges | Self::Disks => "cannot install this machine",
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Machine => "machine",
            Self::Privileges => "privileges",
            Self::Kexec => "kexec",
            Self::Memory => "memory",
            Self::Firmware => "firmware",
            Self::Disks => "disks",
            Self::Network => "network",
        })
    }
}

/// Judges the facts, in the order of a report.
pub fn checks(facts: &Facts, wanted: &Wanted) -> Vec<Check> {
    let mut checks = machine::checks(facts, wanted);
    checks.extend(kexec::checks(facts, wanted));
    checks.extend(memory::checks(facts, wanted));
    checks.extend(firmware::checks(facts, wanted));
    checks.extend(disks::checks(facts, wanted));
    checks.extend(network::checks(facts, wanted));
    checks
}

/// Judges whether an installer that was measured fits.
pub fn fits(facts: &Facts, image: Size) -> Vec<Check> {
    let wanted = Wanted {
        kexec: true,
        image: Image::Measured(image),
        ..Wanted::default()
    };
    memory::checks(facts, &wanted)
}

/// Judges the disks that a configuration names, and that are there.
pub fn named_disks(facts: &Facts, request: &Request, devices: &[String]) -> Vec<Check> {
    let wanted = Wanted {
        disks: devices.to_vec(),
        ..Wanted::of(request, facts)
    };
    let checks = disks::checks(facts, &wanted).into_iter();
    // that there are disks was judged when the machine was looked at
    checks.filter(|check| check.name != "disks").collect()
}

/// Returns the failure that the checks amount to, if any fails: the first one's, with what else is in the way.
pub fn failure(checks: &[Check]) -> Option<Failure> {
    let mut failed = checks
        .iter()
        .filter(|check| check.verdict == Verdict::Failure);
    let first = failed.next()?;
    let mut failure = Failure::new(first.group.headline()).because(first.found.clone());
    for advice in &first.advice {
        failure = failure.hint(advice.clone());
    }
    for other in failed {
        failure = failure.hint(format!("and then: {} [{}]", other.found, other.code));
    }
    Some(failure.code(first.code))
}

/// Returns what should be known though it may do, a sentence each.
pub fn warnings(checks: &[Check]) -> Vec<String> {
    let warned = checks
        .iter()
        .filter(|check| check.verdict == Verdict::Warning);
    warned
        .map(|check| format!("{}; continuing because {}", check.found, check.because))
        .collect()
}

impl Check {
    fn new(group: Group, name: &'static str, verdict: Verdict, found: impl Into<String>) -> Self {
        Self {
            group,
            name,
            verdict,
            found: found.into(),
            because: "",
            advice: Vec::new(),
            code: "",
        }
    }

    fn ok(group: Group, name: &'static str, found: impl Into<String>) -> Self {
        Self::new(group, name, Verdict::Ok, found)
    }

    fn unknown(group: Group, name: &'static str, found: impl Into<String>) -> Self {
        Self::new(group, name, Verdict::Unknown, found)
    }

    /// `because` says why it may do nevertheless.
    fn warning(
        group: Group,
        name: &'static str,
        found: impl Into<String>,
        because: &'static str,
    ) -> Self {
        Self {
            because,
            ..Self::new(group, name, Verdict::Warning, found)
        }
    }

    fn failure(
        group: Group,
        name: &'static str,
        code: &'static str,
        found: impl Into<String>,
    ) -> Self {
        Self {
            code,
            ..Self::new(group, name, Verdict::Failure, found)
        }
    }

    fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice.push(advice.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::{samples::debian, *};

    const KEXEC: Wanted = Wanted {
        kexec: true,
        image: Image::Stock,
        disks: Vec::new(),
        now: None,
        reboot: true,
    };

    #[test]
    fn machine_that_passes_everything_has_nothing_to_say() {
        let checks = checks(&debian(), &KEXEC);
        let loud: Vec<_> = checks
            .iter()
            .filter(|check| check.verdict != Verdict::Ok)
            .collect();
        assert_eq!(loud, [] as [&Check; 0]);
        assert_eq!((failure(&checks), warnings(&checks)), (None, vec![]));
    }

    #[test]
    fn groups_come_in_the_order_of_a_report() {
        let checks = checks(&debian(), &KEXEC);
        let mut groups: Vec<Group> = checks.iter().map(|check| check.group).collect();
        assert!(groups.is_sorted(), "{groups:?}");
        groups.dedup();
        assert_eq!(groups, Group::ALL);
    }

    #[test]
    fn machine_of_which_nothing_is_known_is_not_refused() {
        let checks = checks(&Facts::default(), &KEXEC);
        let failed: Vec<_> = checks
            .iter()
            .filter(|check| check.verdict == Verdict::Failure)
            .map(|check| check.name)
            .collect();
        // that the agent is root is its own word, and a machine without memory does not answer
        assert_eq!(failed, ["root"]);
    }

    #[test]
    fn first_failure_gives_the_code_and_names_the_others() {
        let facts = Facts {
            kexec_load_disabled: Some(true),
            memory_total: 256 << 20,
            ..debian()
        };
        let failure = failure(&checks(&facts, &KEXEC)).unwrap();
        assert_eq!(failure.code, "LF0321");
        assert_eq!(failure.what, "cannot boot an installer by kexec");
        let last = failure.hints.last().unwrap();
        assert!(
            last.starts_with("and then: ") && last.ends_with("[LF0341]"),
            "{last}"
        );
    }

    #[test]
    fn every_warning_says_why_going_on_is_right() {
        let facts = Facts {
            secure_boot: Some(true),
            lockdown: Some("none".into()),
            ..debian()
        };
        let warnings = warnings(&checks(&facts, &KEXEC));
        assert_eq!(warnings.len(), 1);
        assert!(
            warnings[0].contains("; continuing because "),
            "{warnings:?}"
        );
    }
}
