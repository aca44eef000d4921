//! Targets of namespaces, and installations on them while everything around them breaks.

use std::{path::Path, process::Command};

use landfall_tests::{
    assets::Assets,
    binaries,
    namespace::{Size, Target},
};

/// Runs that a check of everything includes: each kind of fault comes first in three of them at least.
const RUNS: [&str; 7] = ["--", "--seed", "1", "--runs", "40", "--lanes", "4"];

#[test]
#[cfg_attr(
    not(feature = "machines"),
    ignore = "starts targets; `cargo verify` runs it"
)]
fn target_can_harm_nothing_and_leaves_nothing() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let assets = Assets::prepare(repository).unwrap();
    let size = Size {
        disks: [16 << 20, 16 << 20],
        run: 16 << 20,
    };
    // whatever this host's disks are called, none of them is there, and no node for one can be made
    let target = Target::start(&assets, size).unwrap();
    for (words, may) in [
        ("test -b /dev/riga && dd if=/dev/riga count=1", true),
        ("mount -t tmpfs none /mnt", true),
        ("mknod /run/disk b 254 0", false),
        ("mknod /run/disk b 7 0", false),
        ("echo 1 > /proc/sys/kernel/sysrq", false),
        ("test -f /proc/sysrq-trigger", false),
        (
            "find /sys/block -mindepth 1 -maxdepth 1 ! -name 'rig[ab]' | grep .",
            false,
        ),
        ("find / -xdev -type b | grep .", false),
    ] {
        let mut shell = target.command("/bin/sh");
        let done = shell.args(["-c", words]).output().unwrap();
        assert_eq!(done.status.success(), may, "{words}: {done:?}");
    }
    assert_eq!(target.processes().unwrap(), []);
    target.end().unwrap();
}

#[test]
#[cfg_attr(
    not(feature = "machines"),
    ignore = "starts targets; `cargo verify` runs it"
)]
fn installation_ends_the_same_whatever_breaks() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let agents = Assets::prepare(repository).unwrap().agents();
    let faults = Command::new(env!("CARGO_BIN_EXE_faults"))
        .args(RUNS)
        .arg("--landfall")
        .arg(binaries::controller())
        .arg("--agents")
        .arg(agents)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&faults.stdout);
    println!("{said}");
    let complained = String::from_utf8_lossy(&faults.stderr);
    // the runs that went wrong are in the first lines that a summary shows
    let wrong = said.lines().filter(|line| !line.contains("  good  "));
    let wrong: Vec<&str> = wrong.take(30).collect();
    assert!(faults.status.success(), "{complained}{}", wrong.join("\n"));
}
