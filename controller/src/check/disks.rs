//! What is installed on: the machine's disks, and those of them that the configuration names.

use landfall_proto::facts::{Disk, Facts};

use super::{Check, Group, Wanted};
use crate::screen::text::size;

pub(super) fn checks(facts: &Facts, wanted: &Wanted) -> Vec<Check> {
    let mut checks = vec![there(facts)];
    for device in &wanted.disks {
        // one that is not there is what `prepare` fails on
        if let Some(disk) = find(&facts.disks, device) {
            checks.extend(usable(facts, wanted, device, disk));
        }
    }
    checks
}

/// Finds a disk by any of its names.
fn find<'a>(disks: &'a [Disk], device: &str) -> Option<&'a Disk> {
    disks
        .iter()
        .find(|disk| disk.device == device || disk.links.iter().any(|link| link == device))
}

fn there(facts: &Facts) -> Check {
    let name = "disks";
    let writable: Vec<&Disk> = facts.disks.iter().filter(|disk| !disk.read_only).collect();
    if writable.is_empty() {
        let found = match facts.disks.len() {
            0 => "no disk is seen",
            _ => "every disk is read-only",
        };
        return Check::warning(
            Group::Disks,
            name,
            found,
            "the installer may know more of the machine's disks",
        )
        .advise(
            "look whether the machine has a controller that this system has no driver for: `lspci`",
        );
    }
    let total: u64 = writable.iter().map(|disk| disk.size).sum();
    let found = match writable.len() {
        1 => format!("1 disk, {}", size(total)),
        count => format!("{count} disks, {}", size(total)),
    };
    Check::ok(Group::Disks, name, found)
}

/// Says what a disk that will be erased takes with it, or that it may be another one by then.
fn usable(facts: &Facts, wanted: &Wanted, device: &str, disk: &Disk) -> Vec<Check> {
    let mut checks = Vec::new();
    if disk.read_only {
        checks.push(Check::warning(
            Group::Disks,
            "disk-read-only",
            format!("{device} is read-only"),
            "the installer may see it otherwise",
        ));
    }
    for other in &facts.disks {
        let is_wanted = wanted
            .disks
            .iter()
            .any(|device| find(std::slice::from_ref(other), device).is_some());
        if let Some(array) = (!is_wanted).then(|| shared(disk, other)).flatten() {
            checks.push(
                Check::warning(
                    Group::Disks,
                    "disk-shared",
                    format!(
                        "{device} and {} hold {array} together, which is lost with either",
                        other.device
                    ),
                    "the disks to be erased are shown before",
                )
                .advise(format!(
                    "save what {array} holds, or name the other disk too"
                )),
            );
        }
    }
    let by_number = !device.starts_with("/dev/disk/");
    if wanted.kexec && by_number && facts.disks.len() > 1 {
        let stable = disk
            .links
            .iter()
            .find(|link| link.starts_with("/dev/disk/by-id/"));
        let check = Check::warning(
            Group::Disks,
            "disk-name",
            format!("{device} may be another disk in the installer, which counts them anew"),
            "a disk of another size or serial number is refused",
        );
        checks.push(match stable {
            Some(link) => check.advise(format!("name it `{link}` in `disko.devices`")),
            None => check,
        });
    }
    checks
}

/// Returns the name of what two disks hold together: an array, a group of volumes, a pool.
fn shared(one: &Disk, other: &Disk) -> Option<String> {
    let holders = |disk: &Disk| -> Vec<String> {
        let parts = disk.parts.iter();
        parts.flat_map(|part| part.holders.clone()).collect()
    };
    let pools = |disk: &Disk| -> Vec<String> {
        let parts = disk.parts.iter();
        let pools = parts.filter(|part| part.kind.as_deref() == Some("zfs_member"));
        pools.filter_map(|part| part.label.clone()).collect()
    };
    let both =
        |one: Vec<String>, other: Vec<String>| one.into_iter().find(|name| other.contains(name));
    both(holders(one), holders(other)).or_else(|| {
        let pool = both(pools(one), pools(other))?;
        Some(format!("pool {pool}"))
    })
}

#[cfg(test)]
mod tests {
    use landfall_proto::facts::Part;

    use super::{
        super::{Verdict, samples::debian},
        *,
    };

    fn disk(device: &str, id: &str, part: Part) -> Disk {
        Disk {
            device: device.into(),
            links: vec![format!("/dev/disk/by-id/{id}")],
            size: 1_000_000_000_000,
            parts: vec![part],
            ..Disk::default()
        }
    }

    fn held(by: &str) -> Part {
        Part {
            holders: vec![by.into()],
            ..Part::default()
        }
    }

    fn pool(name: &str) -> Part {
        Part {
            kind: Some("zfs_member".into()),
            label: Some(name.into()),
            ..Part::default()
        }
    }

    fn two(one: Part, other: Part) -> Facts {
        Facts {
            disks: vec![
                disk("/dev/sda", "ata-A", one),
                disk("/dev/sdb", "ata-B", other),
            ],
            ..debian()
        }
    }

    #[track_caller]
    fn check(facts: &Facts, kexec: bool, disks: &[&str], expected: &[(&str, Verdict, &str)]) {
        let wanted = Wanted {
            kexec,
            disks: disks.iter().map(|&device| device.to_owned()).collect(),
            ..Wanted::default()
        };
        let checks = checks(facts, &wanted);
        let loud = checks.iter().filter(|check| check.verdict != Verdict::Ok);
        let loud: Vec<_> = loud
            .map(|check| (check.name, check.verdict, check.code))
            .collect();
        assert_eq!(loud, expected, "{checks:?}");
    }

    #[test]
    fn disks_that_are_not_there_are_left_to_who_looks_for_them() {
        let facts = two(Part::default(), Part::default());
        check(&facts, false, &["/dev/disk/by-id/ata-A"], &[]);
        check(&facts, false, &["/dev/disk/by-id/ata-C"], &[]);
    }

    #[test]
    fn disks_that_go_together_are_told() {
        let shared = [("disk-shared", Verdict::Warning, "")];
        for facts in [
            two(held("md0"), held("md0")),
            two(pool("tank"), pool("tank")),
        ] {
            check(&facts, false, &["/dev/sda"], &shared);
            check(&facts, false, &["/dev/sda", "/dev/sdb"], &[]);
        }
        check(&two(held("md0"), held("md1")), false, &["/dev/sda"], &[]);
    }

    #[test]
    fn numbered_names_are_warned_about_where_there_is_a_choice() {
        let facts = two(Part::default(), Part::default());
        check(
            &facts,
            true,
            &["/dev/sda"],
            &[("disk-name", Verdict::Warning, "")],
        );
        check(&debian(), true, &["/dev/vda"], &[]);
    }

    #[test]
    fn machine_without_disks_is_told() {
        let facts = Facts {
            disks: vec![],
            ..debian()
        };
        check(&facts, true, &[], &[("disks", Verdict::Warning, "")]);
    }
}
