//! What is gathered, the most telling first: a line that breaks, or a person who has no time, ends it anywhere.
//!
//! Never named here: what holds secrets only, such as keys of disks, of the host or of the tunnel, shadow files, netrc.

use landfall_proto::order::StoreRoot;

/// Where a piece comes from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source {
    /// The agent's own journals and log.
    Agent,
    /// The kernel's log.
    Kernel,
    /// A file; its end where it is long.
    File(&'static str),
    /// A program that looks at what the kernel or a daemon knows already.
    Program(&'static [&'static str]),
    /// A program that opens disks.
    Probe(&'static [&'static str]),
    /// The facts that decide what can be done. Opens disks.
    Facts,
    /// What runs, and for how long.
    Processes,
    /// Logs of what was built last in a store.
    Builds(StoreRoot),
}

use Source::{Agent, Builds, Facts, File, Kernel, Probe, Processes, Program};

/// All pieces, by the names they have in the bundle.
pub(super) const LIST: &[(&str, Source)] = &[
    ("agent", Agent),
    ("kernel.log", Kernel),
    ("mounts", File("/proc/self/mountinfo")),
    (
        "lsblk.txt",
        // columns that are in sysfs: for others it may open the disks
        Program(&[
            "lsblk",
            "--all",
            "--output",
            "NAME,MAJ:MIN,TYPE,SIZE,RO,RM,MODEL,SERIAL,MOUNTPOINT",
        ]),
    ),
    ("df.txt", Program(&["df", "-k"])),
    ("partitions", File("/proc/partitions")),
    ("swaps", File("/proc/swaps")),
    ("meminfo", File("/proc/meminfo")),
    ("processes.txt", Processes),
    (
        "agent/unit.log",
        Program(&[
            "journalctl",
            "--boot",
            "--no-pager",
            "--lines=1000",
            "--unit=landfall-agent",
        ]),
    ),
    ("nix/installer", Builds(StoreRoot::Installer)),
    ("nix/target", Builds(StoreRoot::Target)),
    ("nix/nix.conf", File("/etc/nix/nix.conf")),
    ("ip-address.txt", Program(&["ip", "address"])),
    (
        "ip-route.txt",
        Program(&["ip", "route", "show", "table", "all"]),
    ),
    ("resolv.conf", File("/etc/resolv.conf")),
    ("cmdline", File("/proc/cmdline")),
    ("os-release", File("/etc/os-release")),
    ("uptime", File("/proc/uptime")),
    ("loadavg", File("/proc/loadavg")),
    ("modules", File("/proc/modules")),
    ("losetup.txt", Program(&["losetup", "--list"])),
    ("mdstat", File("/proc/mdstat")),
    ("dmsetup.txt", Program(&["dmsetup", "ls", "--tree"])),
    ("zpool.txt", Program(&["zpool", "status"])),
    ("efibootmgr.txt", Program(&["efibootmgr", "-v"])),
    (
        "failed-units.txt",
        Program(&["systemctl", "--failed", "--no-pager", "--full"]),
    ),
    (
        "journal.log",
        Program(&["journalctl", "--boot", "--no-pager", "--lines=2000"]),
    ),
    ("facts.json", Facts),
    ("blkid.txt", Probe(&["blkid"])),
    // without locks, for which it would make folders
    (
        "lvs.txt",
        Probe(&[
            "lvs",
            "--nolocking",
            "--readonly",
            "--all",
            "--options",
            "+devices",
        ]),
    ),
    (
        "mdadm.txt",
        Probe(&["mdadm", "--detail", "--scan", "--verbose"]),
    ),
];
