//! Whether the installer fits: while it is loaded by the old system, and when it unpacks itself.
//!
//! The kernel that unpacks it cannot be asked any more: it says `Initramfs unpacking failed` to a screen that nobody
//! sees. So that is worked out here.

use landfall_proto::facts::{Facts, Space};

use super::{Check, Group, Image, Wanted};
use crate::screen::text::size;

/// What an image takes on the machine, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    /// The tarball as it is sent.
    pub packed: u64,
    /// Its kernel.
    pub kernel: u64,
    /// The initrd of that kernel.
    pub initrd: u64,
}

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

/// What a running installer takes beside its files, before it does anything.
const RUNNING: u64 = 256 << 20;
/// What it takes to be at ease: disko's programs and Nix.
const EASY: u64 = 384 << 20;
/// Memory that a running installer should have left.
const LEFT: u64 = 384 << 20;
const MEASURED: &str = "the image is measured before it is sent";
/// What the agent leaves free where it keeps what is sent to it.
const RESERVE: u64 = 16 << 20;

impl Size {
    /// Returns the memory without which the installer does not come up: kernel and initrd as they were loaded, the
    /// initrd once more as it is unpacked, and what runs then.
    fn least(self) -> u64 {
        self.kernel + 2 * self.initrd + RUNNING
    }

    /// Returns what the files take: sent, and unpacked.
    fn files(self) -> u64 {
        self.packed + self.kernel + self.initrd
    }

    /// Returns what loading it takes: whoever loads it reads the initrd once, and the kernel keeps it once more.
    fn loading(self) -> u64 {
        self.kernel + 2 * self.initrd
    }

    /// Returns what it takes where its files are in memory too. The tarball goes before the rest is loaded, if need be.
    fn all_in_memory(self) -> u64 {
        self.kernel + self.initrd + self.packed.max(self.loading())
    }
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
            let least = image.least();
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

/// Whether the old system can hold what is loaded.
fn loading(facts: &Facts, wanted: &Wanted) -> Option<Check> {
    let name = "memory-free";
    let image = match wanted.image {
        Image::Stock => STOCK,
        Image::Measured(image) => image,
        Image::Own => return None,
    };
    let in_memory = facts.spool.as_ref().is_none_or(is_in_memory);
    let needed = match in_memory {
        true => image.all_in_memory(),
        false => image.loading(),
    };
    let free = size(facts.memory_available);
    if facts.memory_available >= needed {
        return Some(Check::ok(Group::Memory, name, format!("{free} are free")));
    }
    let found = format!(
        "{free} are free, and loading the installer takes {}",
        size(needed)
    );
    let advice = "stop what uses memory on the machine: databases, containers, desktops";
    Some(match fails(wanted, facts.memory_available, needed) {
        true => Check::failure(Group::Memory, name, "LF0341", found).advise(advice),
        false => Check::warning(Group::Memory, name, found, MEASURED).advise(advice),
    })
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

/// Whether the files fit where the agent keeps them.
fn room(facts: &Facts, wanted: &Wanted) -> Option<Check> {
    let name = "room";
    let spool = facts.spool.as_ref()?;
    let image = match wanted.image {
        Image::Stock => STOCK,
        Image::Measured(image) => image,
        Image::Own => return None,
    };
    // room that the memory alone bounds has been judged
    if spool.free >= facts.memory_available && is_in_memory(spool) {
        return None;
    }
    let needed = image.files() + RESERVE;
    let free = format!("{} are free in {}", size(spool.free), spool.path);
    if spool.free >= needed {
        return Some(Check::ok(Group::Memory, name, free));
    }
    let found = format!("{free}, and the installer's files take {}", size(needed));
    let advice = match spool.kind.as_str() {
        "tmpfs" => format!(
            "let it grow: `mount -o remount,size={}M {}`",
            (needed + (64 << 20)) >> 20,
            spool.path
        ),
        _ => format!("remove something there: `df -h {}`", spool.path),
    };
    Some(match fails(wanted, spool.free, needed) {
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
        // 1 MiB of kernel and 100 of initrd: 201 and what runs
        let image = Image::Measured(Size {
            packed: 90 * MIB,
            kernel: MIB,
            initrd: 100 * MIB,
        });
        let failed = check(&with(456, 440), image, "memory", Verdict::Failure);
        assert_eq!(failed.code, "LF0341");
        assert_eq!(
            failed.found,
            "478 MB of memory; this installer needs 479 MB"
        );
        check(&with(457, 440), image, "memory", Verdict::Warning);
        check(&with(1000, 900), image, "memory", Verdict::Ok);
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
