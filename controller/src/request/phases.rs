//! The phases a user may choose from, always in the one order in which they can be done.

use std::{fmt, str::FromStr};

use super::Invalid;

/// A phase a user may choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Boot the installer.
    Kexec,
    /// Partition, format, mount.
    Disko,
    /// Copy and install the system.
    Install,
    /// Leave the disks clean and boot the installed system.
    Reboot,
}

/// A set of phases that is not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Phases(Vec<Phase>);

impl Phase {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::Kexec, Self::Disko, Self::Install, Self::Reboot];

    /// Returns the name users know.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kexec => "kexec",
            Self::Disko => "disko",
            Self::Install => "install",
            Self::Reboot => "reboot",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Phases {
    /// Whether a phase is to be done.
    pub fn has(&self, phase: Phase) -> bool {
        self.0.contains(&phase)
    }

    /// Whether no phase is done after this one.
    pub fn ends_with(&self, phase: Phase) -> bool {
        self.0.last() == Some(&phase)
    }

    /// Returns all of them.
    pub fn all() -> Self {
        Self(Phase::ALL.to_vec())
    }

    /// Returns the set without some phases; none where nothing is left.
    pub fn without(self, phases: &[Phase]) -> Option<Self> {
        let left: Vec<Phase> = self.iter().filter(|one| !phases.contains(one)).collect();
        (!left.is_empty()).then_some(Self(left))
    }

    /// Returns the phases in the order in which they are done.
    pub fn iter(&self) -> impl Iterator<Item = Phase> {
        self.0.iter().copied()
    }
}

impl FromStr for Phases {
    type Err = Invalid;

    /// Reads a list separated by commas, in any order; blanks around a name are ignored.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let mut asked = Vec::new();
        for name in text.split(',').map(str::trim) {
            let phase = Phase::ALL.into_iter().find(|phase| phase.name() == name);
            asked.push(phase.ok_or_else(|| {
                let all = Phase::ALL.map(Phase::name).join(", ");
                Invalid(format!("`{name}` is no phase; the phases are {all}"))
            })?);
        }
        asked.sort_unstable();
        asked.dedup();
        Ok(Self(asked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_come_in_canonical_order() {
        let phases: Phases = " reboot,kexec , disko,kexec".parse().unwrap();
        assert_eq!(
            phases.iter().collect::<Vec<_>>(),
            [Phase::Kexec, Phase::Disko, Phase::Reboot]
        );
        assert!(!phases.has(Phase::Install));
        assert!(phases.ends_with(Phase::Reboot) && !phases.ends_with(Phase::Disko));
    }

    #[test]
    fn unknown_phase_is_named_with_the_valid_ones() {
        let error = "kexec,format".parse::<Phases>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "`format` is no phase; the phases are kexec, disko, install, reboot"
        );
        for text in ["", ",", "kexec,", "Kexec", "kexec disko"] {
            assert!(text.parse::<Phases>().is_err(), "{text:?}");
        }
    }
}
