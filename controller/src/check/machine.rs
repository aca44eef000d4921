//! What the machine is, what runs on it, and what landfall may do there.

use landfall_proto::facts::Facts;

use super::{Check, Group, Image, Wanted};
use crate::request;

/// Clocks may differ by this much, in seconds: less than any certificate or signature cares about.
const SKEW: u64 = 300;

pub(super) fn checks(facts: &Facts, wanted: &Wanted) -> Vec<Check> {
    let mut checks = vec![system(facts)];
    checks.push(architecture(facts, wanted));
    checks.extend(container(facts, wanted));
    checks.extend(clock(facts, wanted));
    checks.extend(occupied(facts));
    checks.push(root(facts, wanted));
    checks
}

fn system(facts: &Facts) -> Check {
    let name = match facts.os_name.as_str() {
        "" => "an unknown system",
        name => name,
    };
    let found = match (facts.installer, facts.kernel.as_str()) {
        (true, _) => format!("{name}, an installer"),
        (false, "") => name.to_owned(),
        (false, kernel) => format!("{name}, Linux {kernel}"),
    };
    Check::ok(Group::Machine, "system", found)
}

fn architecture(facts: &Facts, wanted: &Wanted) -> Check {
    let name = "architecture";
    if facts.arch.is_empty() {
        return Check::unknown(Group::Machine, name, "the machine does not say");
    }
    let stock = wanted.kexec && wanted.image == Image::Stock;
    if stock && request::Image::stock(&facts.arch).is_none() {
        let found = format!("there is no stock image for {}", facts.arch);
        return Check::failure(Group::Machine, name, "LF0340", found)
            .advise("name an image of your own: `--kexec FILE`");
    }
    let cpus = match facts.cpus {
        Some(1) => ", 1 processor".to_owned(),
        Some(count) => format!(", {count} processors"),
        None => String::new(),
    };
    Check::ok(Group::Machine, name, format!("{}{cpus}", facts.arch))
}

fn container(facts: &Facts, wanted: &Wanted) -> Option<Check> {
    let kind = facts.container.as_ref()?;
    let found = format!("the machine is a container ({kind}), whose kernel is its host's");
    Some(if wanted.kexec {
        Check::failure(Group::Machine, "container", "LF0320", found)
            .advise("install the host, or a virtual machine")
    } else {
        Check::warning(
            Group::Machine,
            "container",
            found,
            "nothing is booted by kexec",
        )
    })
}

fn clock(facts: &Facts, wanted: &Wanted) -> Option<Check> {
    let (there, here) = (facts.clock?, wanted.now?);
    let skew = there.abs_diff(here);
    if skew <= SKEW {
        return Some(Check::ok(Group::Machine, "clock", "right to the minute"));
    }
    let way = if there < here { "behind" } else { "ahead" };
    let found = format!("the machine's clock is {} {way}", rough(skew));
    Some(
        Check::warning(
            Group::Machine,
            "clock",
            found,
            "only caches that it fetches from care",
        )
        .advise("set it: `timedatectl set-ntp true`, or `date -s` with the right time"),
    )
}

fn occupied(facts: &Facts) -> Option<Check> {
    let occupied = facts.occupied.as_ref()?;
    let run = match &occupied.run {
        Some(run) => format!("run {run}"),
        None => "no run yet".to_owned(),
    };
    Some(if occupied.alive {
        Check::warning(
            Group::Machine,
            "agent",
            format!("an agent is at work on the machine ({run})"),
            "it was left alone",
        )
        .advise("wait for it to end before you install; `journalctl -u landfall-agent` on the machine shows it")
    } else {
        Check::warning(
            Group::Machine,
            "agent",
            format!("an installation broke off here ({run})"),
            "the same command takes it up",
        )
        .advise("run the command that broke off again, or begin anew with `--fresh`")
    })
}

fn root(facts: &Facts, wanted: &Wanted) -> Check {
    let boots = wanted.kexec || wanted.reboot;
    if facts.root && !(boots && facts.may_boot == Some(false)) {
        return Check::ok(Group::Privileges, "root", "the agent may do everything");
    }
    Check::failure(
        Group::Privileges,
        "root",
        "LF0328",
        "the agent is not root, or root may neither mount nor reboot here",
    )
    .advise("log in as root: `root@HOST`, or as a user whom sudo or doas lets be root")
    .advise("in a container, install its host instead")
}

/// Returns a span of time in its largest unit.
fn rough(seconds: u64) -> String {
    let (number, unit) = match seconds {
        0..7200 => (seconds / 60, "minutes"),
        7200..172_800 => (seconds / 3600, "hours"),
        _ => (seconds / 86400, "days"),
    };
    format!("{number} {unit}")
}

#[cfg(test)]
mod tests {
    use landfall_proto::facts::Occupied;

    use super::{
        super::{Verdict, samples::debian},
        *,
    };

    fn kexec() -> Wanted {
        Wanted {
            kexec: true,
            now: Some(1_800_000_000),
            ..Wanted::default()
        }
    }

    #[track_caller]
    fn check(facts: &Facts, wanted: &Wanted, name: &str, verdict: Verdict, found: &str) {
        let checks = checks(facts, wanted);
        let check = checks.iter().find(|check| check.name == name).unwrap();
        assert_eq!((check.verdict, check.found.as_str()), (verdict, found));
    }

    #[test]
    fn container_is_refused_only_where_it_would_have_to_boot() {
        let facts = Facts {
            container: Some("lxc".into()),
            ..debian()
        };
        let found = "the machine is a container (lxc), whose kernel is its host's";
        check(&facts, &kexec(), "container", Verdict::Failure, found);
        let none = Wanted::default();
        check(&facts, &none, "container", Verdict::Warning, found);
    }

    #[test]
    fn processor_without_a_stock_image_needs_one_of_ones_own() {
        let facts = Facts {
            arch: "riscv64".into(),
            cpus: Some(1),
            ..debian()
        };
        let found = "there is no stock image for riscv64";
        check(&facts, &kexec(), "architecture", Verdict::Failure, found);
        let own = Wanted {
            image: Image::Own,
            ..kexec()
        };
        let found = "riscv64, 1 processor";
        check(&facts, &own, "architecture", Verdict::Ok, found);
    }

    #[test]
    fn clocks_that_differ_are_told() {
        let at = |clock| Facts {
            clock: Some(clock),
            ..debian()
        };
        let now = 1_800_000_000;
        let found = "right to the minute";
        check(&at(now - 299), &kexec(), "clock", Verdict::Ok, found);
        let found = "the machine's clock is 60 minutes behind";
        check(&at(now - 3600), &kexec(), "clock", Verdict::Warning, found);
        let found = "the machine's clock is 20833 days behind";
        check(&at(1), &kexec(), "clock", Verdict::Warning, found);
        let found = "the machine's clock is 3 hours ahead";
        check(
            &at(now + 12_000),
            &kexec(),
            "clock",
            Verdict::Warning,
            found,
        );
    }

    #[test]
    fn agents_of_others_are_told() {
        let facts = Facts {
            occupied: Some(Occupied {
                alive: true,
                run: Some("07".into()),
            }),
            ..debian()
        };
        let found = "an agent is at work on the machine (run 07)";
        check(&facts, &kexec(), "agent", Verdict::Warning, found);
    }

    #[test]
    fn rights_that_are_not_used_are_not_missed() {
        let facts = Facts {
            may_boot: Some(false),
            ..debian()
        };
        let found = "the agent may do everything";
        check(&facts, &Wanted::default(), "root", Verdict::Ok, found);
        let found = "the agent is not root, or root may neither mount nor reboot here";
        check(&facts, &kexec(), "root", Verdict::Failure, found);
    }

    #[test]
    fn agent_without_rights_cannot_install() {
        let facts = Facts {
            root: false,
            ..debian()
        };
        let found = "the agent is not root, or root may neither mount nor reboot here";
        check(&facts, &kexec(), "root", Verdict::Failure, found);
    }
}
