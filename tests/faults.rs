//! Targets of namespaces, and installations on them while everything around them breaks.

use std::{path::Path, process::Command};

use landfall_tests::{
    assets::Assets,
    namespace::{Size, Target},
};

/// Runs that a check of everything includes, as seed and number: faults of the line at chosen bytes, which come the same
/// every time. Those of time and chance are for `cargo faults` until every one of them ends well.
const RUNS: [(&str, &str); 2] = [("11", "1"), ("11", "5")];

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
fn installation_ends_the_same_whatever_the_line_does() {
    for (seed, only) in RUNS {
        let faults = Command::new(env!("CARGO_BIN_EXE_faults"))
            .args(["--seed", seed, "--only", only])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&faults.stdout);
        println!("{said}");
        let complained = String::from_utf8_lossy(&faults.stderr);
        assert!(faults.status.success(), "{said}\n{complained}");
    }
}
