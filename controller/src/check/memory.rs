//! Whether the installer fits: while it is loaded by the old system, and when it unpacks itself.
//!
//! The kernel that unpacks it cannot be asked any more: it says `Initramfs unpacking failed` to a screen that nobody
//! sees. So that is worked out here.

use landfall_proto::{
    facts::{Facts, Space},
    image::{RESERVE, Room, Size},
};

use super::{Check, Group, Image, Wanted};
use crate::screen::text::size;

/// Least memory with which a stock image has been seen to come up: machines sold with 1 GB report from 940 MiB down to
/// 900, whatever their firmware keeps. Swap does not count: the installer has none.
const STOCK_LEAST: u64 = 896 << 20;
/// Memory with which it has room to work: 1.5 GB, less what firmware and kernel keep of it.
const STOCK_EASY: u64 = 1340 << 20;
/// The stock image, from its larger ones.
const STOCK: Size = Size {
    packed: 350_000_000,
    kernel: 15_000_000,
    initrd: 335_000_000,
};

/// What the new kernel takes beside its files while it unpacks them and nothing runs yet; an estimate, not a small one:
/// a kernel that stops there brings the machine back by a power cycle only.
const UNPACKING: u64 = 128 << 20;
/// What a running installer takes beside its files, before it does anything.
const RUNNING: u64 = 256 << 20;
/// What it takes to be at ease: disko's programs and Nix.
const EASY: u64 = 384 << 20;
/// Memory that a running installer should have left.
const LEFT: u64 = 384 << 20;
const MEASURED: &str = "the image is measured before it is sent";

/// Returns the memory without which the installer does not come up: kernel and initrd as they were loaded, and the
/// initrd once more as it is unpacked; or, since what was loaded is given back then, what was unpacked and what runs.
fn least(image: Size) -> u64 {
    let runs = image.kernel + image.initrd + RUNNING;
    runs.max(image.loading() + UNPACKING)
}

pub(super) fn checks(facts: &Facts, wanted: &Wanted) -> Vec<Check> {
    if facts.memory_total == 0 {
        let found = "the machine does not say how much it has";
        return vec![Check::unknown(Group::Memory, "memory", found)];
    }
    if !wanted.kexec {
        return vec![left(facts)];
    }
    let mut checks = vec![total(facts, wanted)];
    checks.extend(loading(facts, wanted));
    checks.extend(room(facts, wanted));
    checks
}

/// Whether the installer comes up.
fn total(facts: &Facts, wanted: &Wanted) -> Check {
    let name = "memory";
    let has = size(facts.memory_total);
    let (least, easy, says) = match wanted.image {
        Image::Stock => (
            STOCK_LEAST,
            STOCK_EASY,
            "the stock installer needs 1 GB, and 1.5 GB to work at ease".to_owned(),
        ),
        Image::Measured(image) => {
            let least = least(image);
            let says = format!("this installer needs {}", size(least));
            (least, least + EASY, says)
        }
        // what it needs is known once it was measured
        Image::Own => return Check::ok(Group::Memory, name, has),
    };
    let swap = match facts.swap_total {
        Some(1..) => " (swap does not count)",
        _ => "",
    };
    let found = format!("{has} of memory{swap}; {says}");
    if facts.memory_total < least {
        return Check::failure(Group::Memory, name, "LF0341", found)
            .advise("give the machine more memory, if only until it is installed")
            .advise("boot an installer from a medium or by network, which needs less, and run landfall against that")
            .advise("name a smaller image: `--kexec FILE`");
    }
    if facts.memory_total < easy {
        return Check::warning(
            Group::Memory,
            name,
            found,
            "an installation that sends everything and builds nothing there gets by",
        )
        .advise("build here: `--build-on local`; let the configuration's disko layout have swap");
    }
    Check::ok(Group::Memory, name, has)
}

/// Where the agent keeps the image until it is loaded, by the arithmetic that it decides with itself.
struct Place<'a> {
    image: Size,
    /// What programs can still have, with what the agent has taken already.
    memory: u64,
    in_memory: bool,
    space: Option<&'a Space>,
}

impl<'a> Place<'a> {
    fn of(facts: &'a Facts, image: Size) -> Self {
        let spool = facts.spool.as_ref();
        let held = spool.filter(|spool| is_in_memory(spool));
        let memory = facts.memory_available + held.map_or(0, |spool| spool.held);
        let spill = facts.spill.as_ref();
        let room = image.room(memory, spill.map(with_held));
        let space = match room {
            Room::Disk if spool.is_none_or(is_in_memory) => spill,
            _ => spool,
        };
        Self {
            image,
            memory,
            in_memory: space.is_none_or(is_in_memory),
            space,
        }
    }

    fn loading(&self) -> u64 {
        match self.in_memory {
            true => self.image.all_in_memory(),
            false => self.image.loading(),
        }
    }
}

/// Whether the old system can hold what is loaded.
fn loading(facts: &Facts, wanted: &Wanted) -> Option<Check> {
    let name = "memory-free";
    let place = Place::of(facts, known(wanted)?);
    let needed = place.loading();
    let free = size(place.memory);
    if place.memory >= needed {
        return Some(Check::ok(Group::Memory, name, format!("{free} are free")));
    }
    let found = format!(
        "{free} are free, and loading the installer takes {}",
        size(needed)
    );
    let check = match fails(wanted, place.memory, needed) {
        true => Check::failure(Group::Memory, name, "LF0341", found),
        false => Check::warning(Group::Memory, name, found, MEASURED),
    };
    let check =
        check.advise("stop what uses memory on the machine: databases, containers, desktops");
    Some(match &facts.spill {
        Some(spill) if place.in_memory && place.memory >= place.image.loading() => {
            check.advise(format!(
                "or have {} free in {}, where its files may lie meanwhile: `df -h {}`",
                size(place.image.files() + RESERVE),
                spill.path,
                spill.path
            ))
        }
        _ => check,
    })
}

/// What the image takes, as far as that is known.
fn known(wanted: &Wanted) -> Option<Size> {
    match wanted.image {
        Image::Stock => Some(STOCK),
        Image::Measured(image) => Some(image),
        Image::Own => None,
    }
}

/// Whether too little is too little for sure: what was not measured may be a little smaller.
fn fails(wanted: &Wanted, there: u64, needed: u64) -> bool {
    match wanted.image {
        Image::Measured(_) => there < needed,
        _ => there < needed / 100 * 85,
    }
}

fn is_in_memory(spool: &Space) -> bool {
    matches!(spool.kind.as_str(), "tmpfs" | "ramfs" | "")
}

/// What may be written there, with what the agent has written already.
fn with_held(space: &Space) -> u64 {
    space.free.saturating_add(space.held)
}

/// Whether the files fit where the agent keeps them.
fn room(facts: &Facts, wanted: &Wanted) -> Option<Check> {
    let name = "room";
    let place = Place::of(facts, known(wanted)?);
    let space = place.space?;
    let there = with_held(space);
    // room that the memory alone bounds has been judged
    if place.in_memory && there >= place.memory {
        return None;
    }
    let needed = place.image.files() + RESERVE;
    let free = format!("{} are free in {}", size(there), space.path);
    if there >= needed {
        let spills = facts.spill.as_ref() == Some(space);
        let found = match spills {
            true => format!("{free}, where the installer's files lie until they are loaded"),
            false => free,
        };
        return Some(Check::ok(Group::Memory, name, found));
    }
    let found = format!("{free}, and the installer's files take {}", size(needed));
    let advice = match space.kind.as_str() {
        "tmpfs" => format!(
            "let it grow: `mount -o remount,size={}M {}`",
            (needed + (64 << 20)) >> 20,
            space.path
        ),
        _ => format!("remove something there: `df -h {}`", space.path),
    };
    Some(match fails(wanted, there, needed) {
        true => Check::failure(Group::Memory, name, "LF0329", found).advise(advice),
        false => Check::warning(Group::Memory, name, found, MEASURED).advise(advice),
    })
}

/// What an installer that runs has left.
fn left(facts: &Facts) -> Check {
    let name = "memory";
    let found = format!(
        "{} of memory, {} are free",
        size(facts.memory_total),
        size(facts.memory_available)
    );
    if facts.memory_available >= LEFT {
        return Check::ok(Group::Memory, name, found);
    }
    Check::warning(
        Group::Memory,
        name,
        found,
        "what is installed goes to the disks",
    )
    .advise("build here: `--build-on local`")
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Verdict, samples::debian},
        *,
    };

    const MIB: u64 = 1 << 20;

    fn kexec(image: Image) -> Wanted {
        Wanted {
            kexec: true,
            image,
            ..Wanted::default()
        }
    }

    fn with(total: u64, available: u64) -> Facts {
        Facts {
            memory_total: total * MIB,
            memory_available: available * MIB,
            ..debian()
        }
    }

    #[track_caller]
    fn check(facts: &Facts, image: Image, name: &str, verdict: Verdict) -> Check {
        let checks = checks(facts, &kexec(image));
        let check = checks.into_iter().find(|check| check.name == name).unwrap();
        assert_eq!(check.verdict, verdict, "{check:?}");
        check
    }

    #[test]
    fn stock_image_needs_what_machines_of_one_gigabyte_have() {
        use Verdict::{Failure, Ok, Warning};
        for (total, verdict) in [
            (512, Failure),
            (895, Failure),
            (896, Warning),
            (960, Warning),
            (1430, Ok),
            (16_000, Ok),
        ] {
            check(&with(total, total - 100), Image::Stock, "memory", verdict);
        }
    }

    #[test]
    fn initrd_that_would_not_unpack_is_found_before() {
        // 1 MiB of kernel and 100 of initrd, and what runs
        let image = Image::Measured(Size {
            packed: 90 * MIB,
            kernel: MIB,
            initrd: 100 * MIB,
        });
        let failed = check(&with(356, 340), image, "memory", Verdict::Failure);
        assert_eq!(failed.code, "LF0341");
        assert_eq!(
            failed.found,
            "373 MB of memory; this installer needs 374 MB"
        );
        check(&with(357, 340), image, "memory", Verdict::Warning);
        check(&with(1000, 900), image, "memory", Verdict::Ok);
        // a large one is unpacked before anything runs: 400 MB on a machine sold with 1 GB
        let large = Image::Measured(Size {
            packed: 400_000_000,
            kernel: 15_000_000,
            initrd: 385_000_000,
        });
        check(&with(876, 800), large, "memory", Verdict::Failure);
        check(&with(878, 800), large, "memory", Verdict::Warning);
    }

    #[test]
    fn swap_does_not_count() {
        let facts = Facts {
            swap_total: Some(8 << 30),
            ..with(512, 400)
        };
        let failed = check(&facts, Image::Stock, "memory", Verdict::Failure);
        assert!(failed.found.contains("(swap does not count)"), "{failed:?}");
    }

    #[test]
    fn image_must_fit_beside_what_runs() {
        let image = Image::Measured(Size {
            packed: 90 * MIB,
            kernel: MIB,
            initrd: 100 * MIB,
        });
        // unpacked, read and loaded
        let failed = check(&with(1000, 301), image, "memory-free", Verdict::Failure);
        assert_eq!(failed.code, "LF0341");
        check(&with(1000, 302), image, "memory-free", Verdict::Ok);
        let on_disk = |available| Facts {
            spool: Some(Space {
                path: "/run".into(),
                kind: "ext4".into(),
                free: 1 << 40,
                held: 0,
            }),
            ..with(1000, available)
        };
        check(&on_disk(201), image, "memory-free", Verdict::Ok);
        check(&on_disk(200), image, "memory-free", Verdict::Failure);
        // what is only estimated may be a little smaller
        let stock = |available, verdict| {
            check(&with(2000, available), Image::Stock, "memory-free", verdict);
        };
        stock(1000, Verdict::Ok);
        stock(900, Verdict::Warning);
        stock(800, Verdict::Failure);
    }

    /// A machine as it is sold with 1 GB, and what is free on its disk.
    fn small(disk: u64) -> Facts {
        Facts {
            spill: Some(Space {
                path: "/var/tmp".into(),
                kind: "ext4".into(),
                free: disk * MIB,
                held: 0,
            }),
            ..with(960, 820)
        }
    }

    #[test]
    fn machine_of_one_gigabyte_takes_the_stock_image_by_its_disk() {
        use Verdict::{Failure, Ok};
        let bare = check(&with(960, 820), Image::Stock, "memory-free", Failure);
        assert_eq!(bare.advice.len(), 1, "{bare:?}");
        check(&small(700), Image::Stock, "memory-free", Ok);
        let room = check(&small(700), Image::Stock, "room", Ok);
        assert!(
            room.found.contains("are free in /var/tmp, where "),
            "{room:?}"
        );
        let full = check(&small(300), Image::Stock, "memory-free", Failure);
        assert_eq!(
            full.advice[1],
            "or have 717 MB free in /var/tmp, where its files may lie meanwhile: `df -h /var/tmp`"
        );
        // memory that would not even load it is not helped by a disk
        let busy = Facts {
            memory_available: 500 * MIB,
            ..small(700)
        };
        let busy = check(&busy, Image::Stock, "memory-free", Failure);
        assert!(busy.found.ends_with("takes 685 MB"), "{busy:?}");
    }

    #[test]
    fn what_has_arrived_already_counts_as_free() {
        let mut begun = small(500);
        begun.spill.as_mut().unwrap().held = 200 * MIB;
        check(&begun, Image::Stock, "memory-free", Verdict::Ok);
        check(&begun, Image::Stock, "room", Verdict::Ok);
        let spool = |held| Facts {
            spool: Some(Space {
                path: "/run".into(),
                kind: "tmpfs".into(),
                free: 800 * MIB,
                held,
            }),
            ..with(2000, 800)
        };
        check(&spool(0), Image::Stock, "memory-free", Verdict::Failure);
        check(&spool(300 * MIB), Image::Stock, "memory-free", Verdict::Ok);
    }

    #[test]
    fn spool_that_is_too_small_is_told_with_what_to_do() {
        let image = Image::Measured(Size {
            packed: 90 * MIB,
            kernel: MIB,
            initrd: 100 * MIB,
        });
        let spool = |free: u64| Facts {
            spool: Some(Space {
                path: "/run".into(),
                kind: "tmpfs".into(),
                free: free * MIB,
                held: 0,
            }),
            ..with(2000, 1800)
        };
        check(&spool(207), image, "room", Verdict::Ok);
        // as much as the memory: whether it is enough was said about that
        let checks = checks(&spool(1800), &kexec(image));
        assert!(
            checks.iter().all(|check| check.name != "room"),
            "{checks:?}"
        );
        let failed = check(&spool(206), image, "room", Verdict::Failure);
        assert_eq!(failed.code, "LF0329");
        assert_eq!(
            failed.advice,
            ["let it grow: `mount -o remount,size=271M /run`"]
        );
    }

    #[test]
    fn installer_of_ones_own_is_judged_once_it_was_measured() {
        let checks = checks(&with(256, 200), &kexec(Image::Own));
        assert_eq!(checks.len(), 1);
        assert_eq!(checks[0].verdict, Verdict::Ok);
    }

    #[test]
    fn installer_that_runs_is_asked_what_is_left() {
        let verdict = |available| checks(&with(1000, available), &Wanted::default())[0].verdict;
        assert_eq!(
            (verdict(384), verdict(383)),
            (Verdict::Ok, Verdict::Warning)
        );
    }
}
