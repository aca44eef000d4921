//! Whether the machine's kernel starts another one, and who might forbid it.

use landfall_proto::facts::Facts;

use super::{Check, Group, Wanted};

const ELSE: &str = "or boot an installer from a medium or the provider's rescue system";

pub(super) fn checks(facts: &Facts, wanted: &Wanted) -> Vec<Check> {
    if !wanted.kexec {
        let found = match facts.installer {
            true => "not needed: an installer runs already",
            false => "not asked for",
        };
        return vec![Check::ok(Group::Kexec, "kexec", found)];
    }
    // whose kernel it is was told already
    if facts.container.is_some() {
        let found = "this kernel is not the machine's own";
        return vec![Check::unknown(Group::Kexec, "kexec", found)];
    }
    let mut checks = vec![support(facts)];
    checks.extend(disabled(facts));
    checks.extend(lockdown(facts));
    checks.extend(signatures(facts));
    checks.extend(ima(facts));
    checks.extend(hypervisor(facts));
    checks.extend(board(facts));
    checks
}

fn support(facts: &Facts) -> Check {
    let name = "kexec";
    let has = |option: &str| {
        let options = facts.kexec_options.as_ref();
        options.map(|options| options.iter().any(|set| set == option))
    };
    if facts.kexec_supported == Some(false) {
        let found = "this kernel was built without kexec";
        return Check::failure(Group::Kexec, name, "LF0324", found).advise(format!(
            "boot another kernel of the machine's system, {ELSE}"
        ));
    }
    let found = match (has("KEXEC"), has("KEXEC_FILE")) {
        (Some(true), Some(true)) => "supported, by both calls",
        (Some(true), _) => "supported, by kexec_load",
        (_, Some(true)) => "supported, by kexec_file_load alone",
        _ if facts.kexec_supported == Some(true) => "supported",
        _ => return Check::unknown(Group::Kexec, name, "the kernel does not say whether it can"),
    };
    Check::ok(Group::Kexec, name, found)
}

fn disabled(facts: &Facts) -> Option<Check> {
    let name = "kexec-disabled";
    match facts.kexec_load_disabled? {
        false => Some(Check::ok(Group::Kexec, name, "no")),
        true => Some(
            Check::failure(
                Group::Kexec,
                name,
                "LF0321",
                "the kernel forbids it until the next boot (kernel.kexec_load_disabled is 1)",
            )
            .advise(format!(
                "reboot with `kernel.kexec_load_disabled=0`, {ELSE}"
            )),
        ),
    }
}

fn lockdown(facts: &Facts) -> Option<Check> {
    let name = "lockdown";
    match facts.lockdown.as_deref()? {
        "none" => Some(Check::ok(Group::Kexec, name, "none")),
        word => Some(
            Check::failure(
                Group::Kexec,
                name,
                "LF0323",
                format!("the kernel is locked down ({word})"),
            )
            .advise(format!(
                "boot without `lockdown=`, and with Secure Boot off, {ELSE}"
            )),
        ),
    }
}

fn signatures(facts: &Facts) -> Option<Check> {
    let options = facts.kexec_options.as_ref()?;
    let has = |name: &str| options.iter().any(|option| option == name);
    if !has("KEXEC_SIG_FORCE") && !has("KEXEC_VERIFY_SIG") {
        return None;
    }
    let name = "signatures";
    Some(if has("KEXEC") {
        Check::warning(
            Group::Kexec,
            name,
            "the kernel takes only signed kernels by kexec_file_load",
            "kexec_load asks for no signature",
        )
        .advise("should it fail, force the other call: `--kexec-extra-flags --kexec-syscall`")
    } else {
        Check::failure(
            Group::Kexec,
            name,
            "LF0327",
            "the kernel takes only signed kernels, and the installer's is not signed for it",
        )
        .advise(format!(
            "boot another kernel of the machine's system, {ELSE}"
        ))
    })
}

fn ima(facts: &Facts) -> Option<Check> {
    match facts.ima_signed_kernels {
        Some(true) => Some(
            Check::failure(
                Group::Kexec,
                "ima",
                "LF0327",
                "IMA's policy takes only signed kernels, and the installer's is not signed for it",
            )
            .advise(format!(
                "boot without `ima_policy=secure_boot` and `ima_appraise=enforce`, {ELSE}"
            )),
        ),
        // a kernel that shows its policy to nobody is the rule, not a reason to worry
        Some(false) | None => None,
    }
}

fn hypervisor(facts: &Facts) -> Option<Check> {
    let name = "hypervisor";
    let xen = |what: &str| {
        let found = format!("the machine is {what} of Xen, where the hypervisor starts kernels");
        Check::failure(Group::Kexec, name, "LF0326", found)
    };
    match facts.xen.as_deref() {
        Some("PV") => {
            return Some(xen("a paravirtual guest").advise(
                "switch the machine to HVM or PVH with its provider, or boot an installer there",
            ));
        }
        Some("dom0") => {
            return Some(
                xen("the first domain")
                    .advise("boot its kernel without Xen, or boot an installer from a medium"),
            );
        }
        _ => {}
    }
    let vendor = facts.hypervisor.as_deref()?;
    if vendor.contains("Microsoft") {
        return Some(
            Check::warning(
                Group::Kexec,
                name,
                format!("{vendor}: its graphics driver has hung kexec on Azure"),
                "it does not on every machine",
            )
            .advise("have the console at hand, and a way to reset the machine"),
        );
    }
    if vendor.contains("Bochs") || vendor.contains("RHEL 5") || vendor.contains("RHEL 6") {
        return Some(
            Check::warning(
                Group::Kexec,
                name,
                format!(
                    "{vendor}: a hypervisor of 2014 or older, under which new kernels may not start"
                ),
                "many do",
            )
            .advise("have the console at hand, and a way to reset the machine"),
        );
    }
    let xen = match facts.xen.as_deref() {
        Some(kind) => format!(" (Xen {kind})"),
        None => String::new(),
    };
    Some(Check::ok(Group::Kexec, name, format!("{vendor}{xen}")))
}

fn board(facts: &Facts) -> Option<Check> {
    let board = facts.board.as_deref()?;
    if board.contains("Raspberry Pi") {
        return Some(
            Check::warning(
                Group::Kexec,
                "board",
                format!("{board}: its processors have refused to stop for kexec"),
                "the old system goes on when they do",
            )
            .advise("should it fail, write an image to its card instead"),
        );
    }
    if facts.arch == "aarch64" && facts.kcore == Some(false) {
        return Some(
            Check::warning(
                Group::Kexec,
                "board",
                format!(
                    "{board}: there is no /proc/kcore, in which kexec looks for the kernel's place"
                ),
                "not every version of kexec looks there",
            )
            .advise("boot a kernel with CONFIG_PROC_KCORE"),
        );
    }
    Some(Check::ok(Group::Kexec, "board", board))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Verdict, samples::debian},
        *,
    };

    fn wanted() -> Wanted {
        Wanted {
            kexec: true,
            ..Wanted::default()
        }
    }

    /// All that is not ok, as name, verdict and code.
    #[track_caller]
    fn check(facts: &Facts, expected: &[(&str, Verdict, &str)]) {
        let checks = checks(facts, &wanted());
        let loud = checks.iter().filter(|check| check.verdict != Verdict::Ok);
        let loud: Vec<_> = loud
            .map(|check| (check.name, check.verdict, check.code))
            .collect();
        assert_eq!(loud, expected);
    }

    fn options(set: &[&str]) -> Option<Vec<String>> {
        Some(set.iter().map(|&option| option.to_owned()).collect())
    }

    #[test]
    fn kernel_that_takes_no_other_is_refused() {
        use Verdict::Failure;
        check(&debian(), &[]);
        let disabled = Facts {
            kexec_load_disabled: Some(true),
            ..debian()
        };
        check(&disabled, &[("kexec-disabled", Failure, "LF0321")]);
        let locked = Facts {
            lockdown: Some("integrity".into()),
            ..debian()
        };
        check(&locked, &[("lockdown", Failure, "LF0323")]);
        let without = Facts {
            kexec_supported: Some(false),
            kexec_options: options(&[]),
            ..debian()
        };
        check(&without, &[("kexec", Failure, "LF0324")]);
        let ima = Facts {
            ima_signed_kernels: Some(true),
            ..debian()
        };
        check(&ima, &[("ima", Failure, "LF0327")]);
    }

    #[test]
    fn kernel_that_does_not_say_is_not_judged() {
        let silent = Facts {
            kexec_supported: None,
            kexec_options: None,
            lockdown: None,
            kexec_load_disabled: None,
            ima_signed_kernels: None,
            ..debian()
        };
        check(&silent, &[("kexec", Verdict::Unknown, "")]);
    }

    #[test]
    fn signatures_matter_where_there_is_no_other_call() {
        let both = Facts {
            kexec_options: options(&["KEXEC", "KEXEC_FILE", "KEXEC_SIG_FORCE"]),
            ..debian()
        };
        check(&both, &[("signatures", Verdict::Warning, "")]);
        let one = Facts {
            kexec_options: options(&["KEXEC_FILE", "KEXEC_SIG", "KEXEC_SIG_FORCE"]),
            ..debian()
        };
        check(&one, &[("signatures", Verdict::Failure, "LF0327")]);
        let unforced = Facts {
            kexec_options: options(&["KEXEC_FILE", "KEXEC_SIG"]),
            ..debian()
        };
        check(&unforced, &[]);
    }

    #[test]
    fn xen_starts_kernels_of_some_guests_only_itself() {
        let xen = |kind: &str| Facts {
            xen: Some(kind.into()),
            hypervisor: Some("Xen HVM domU".into()),
            ..debian()
        };
        check(&xen("PV"), &[("hypervisor", Verdict::Failure, "LF0326")]);
        check(&xen("dom0"), &[("hypervisor", Verdict::Failure, "LF0326")]);
        check(&xen("HVM"), &[]);
        check(&xen("PVH"), &[]);
    }

    #[test]
    fn machines_with_a_history_are_warned_about() {
        let of = |vendor: &str| Facts {
            hypervisor: Some(vendor.into()),
            ..debian()
        };
        let warned = [("hypervisor", Verdict::Warning, "")];
        check(&of("Microsoft Corporation Virtual Machine"), &warned);
        check(&of("Bochs Bochs"), &warned);
        check(&of("QEMU Standard PC (i440FX + PIIX, 1996)"), &[]);
        let pi = Facts {
            board: Some("Raspberry Pi 4 Model B Rev 1.4".into()),
            arch: "aarch64".into(),
            ..debian()
        };
        check(&pi, &[("board", Verdict::Warning, "")]);
    }

    #[test]
    fn kernel_of_a_host_is_not_looked_at() {
        let facts = Facts {
            container: Some("lxc".into()),
            lockdown: Some("integrity".into()),
            ..debian()
        };
        check(&facts, &[("kexec", Verdict::Unknown, "")]);
    }

    #[test]
    fn installer_needs_no_kexec() {
        let facts = Facts {
            kexec_load_disabled: Some(true),
            ..debian()
        };
        let check = |facts: &Facts, found: &str| {
            let checks = checks(facts, &Wanted::default());
            assert_eq!(checks[0].found, found);
            assert_eq!((checks.len(), checks[0].verdict), (1, Verdict::Ok));
        };
        check(&facts, "not asked for");
        let installer = Facts {
            installer: true,
            ..facts
        };
        check(&installer, "not needed: an installer runs already");
    }
}
