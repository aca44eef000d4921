//! What starts the installed system, and whether it lets it.

use landfall_proto::facts::{Facts, Firmware};

use super::{Check, Group, Wanted};

pub(super) fn checks(facts: &Facts, wanted: &Wanted) -> Vec<Check> {
    let firmware = match facts.firmware {
        Firmware::Uefi => "UEFI",
        Firmware::Bios => "BIOS, or whatever stands in for it",
    };
    let mut checks = vec![Check::ok(Group::Firmware, "firmware", firmware)];
    checks.extend(secure_boot(facts, wanted));
    checks
}

fn secure_boot(facts: &Facts, wanted: &Wanted) -> Option<Check> {
    let name = "secure-boot";
    if !facts.secure_boot? {
        return Some(Check::ok(Group::Firmware, name, "off"));
    }
    let turn_off = "turn Secure Boot off in the firmware's setup";
    // where the kernel says that it is not locked down, it starts what is not signed
    if wanted.kexec && facts.lockdown.as_deref() != Some("none") {
        let found = "UEFI Secure Boot is on, and the installer's kernel is not signed for it";
        return Some(Check::failure(Group::Firmware, name, "LF0322", found).advise(turn_off));
    }
    Some(
        Check::warning(
            Group::Firmware,
            name,
            "UEFI Secure Boot is on: the installed system boots only if its boot loader is signed with a key that the machine knows",
            "the configuration may see to that",
        )
        .advise(turn_off)
        .advise("or sign the boot loader, with lanzaboote and keys that were enrolled before"),
    )
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Verdict, samples::debian},
        *,
    };

    #[track_caller]
    fn check(on: bool, lockdown: Option<&str>, kexec: bool, verdict: Verdict) {
        let facts = Facts {
            secure_boot: Some(on),
            lockdown: lockdown.map(str::to_owned),
            ..debian()
        };
        let wanted = Wanted {
            kexec,
            ..Wanted::default()
        };
        let checks = checks(&facts, &wanted);
        assert_eq!(
            (checks[1].name, checks[1].verdict),
            ("secure-boot", verdict)
        );
    }

    #[test]
    fn secure_boot_stands_in_the_way_of_unsigned_kernels() {
        check(false, None, true, Verdict::Ok);
        check(true, None, true, Verdict::Failure);
        check(true, Some("integrity"), true, Verdict::Failure);
    }

    #[test]
    fn secure_boot_that_nobody_enforces_is_warned_about() {
        check(true, Some("none"), true, Verdict::Warning);
        check(true, None, false, Verdict::Warning);
    }

    #[test]
    fn machine_without_secure_boot_has_nothing_to_say_about_it() {
        assert_eq!(checks(&debian(), &Wanted::default()).len(), 1);
    }
}
