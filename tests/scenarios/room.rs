//! Machines that are too small: for the installer, and for the system.
//!
//! Covers: controller/src/check/memory.rs, agent/src/machine/room.rs.

use std::fs::File;

use landfall_tests::machine::spec::{Boot, Spec};

use super::{BOOTS, LONG, Site};

#[test]
#[cfg_attr(
    not(feature = "scenarios"),
    ignore = "starts a machine; `cargo verify --all` runs it"
)]
fn machine_without_memory_for_the_installer_is_left_as_it_was() {
    let site = Site::new(Spec {
        memory_mib: 320,
        ..Spec::of(Boot::Target)
    });
    let boot = site.said("cat /proc/sys/kernel/random/boot_id");
    let told = site.landfall("demo", &[]).end(LONG).unwrap();
    assert_eq!(
        (told.code, told.failure(), told.state()),
        (Some(1), Some("LF0341"), Some("untouched")),
        "{}",
        told.stderr
    );
    assert_eq!(told.begun("kexec"), 0, "{}", told.stderr);
    assert_eq!(site.said("cat /proc/sys/kernel/random/boot_id"), boot);
    assert_eq!(site.said("find / -xdev -name '*landfall*'"), "");
    site.leaves_nothing_here();
}

#[test]
#[cfg_attr(
    not(feature = "scenarios"),
    ignore = "starts a machine; `cargo verify --all` runs it"
)]
fn disk_too_small_for_the_system_is_told_and_nothing_counts_as_done() {
    let site = Site::dark(Spec::of(Boot::Installer));
    site.machine.power_cut().unwrap();
    // 128 MiB of it are for boot files, and the system has 54
    let disk = File::options().write(true).open(site.machine.disk(0));
    disk.unwrap().set_len(176 << 20).unwrap();
    site.machine.boot(Boot::Installer).unwrap();
    site.machine.wait_ssh(BOOTS).unwrap();

    let more = ["--phases", "disko,install,reboot"];
    let told = site.landfall("demo", &more).end(LONG).unwrap();
    assert_eq!(
        (told.code, told.state()),
        (Some(3), Some("erased")),
        "{}",
        told.stderr
    );
    assert!(told.failure().is_some_and(|code| code.starts_with("LF")));
    assert!(
        told.stderr.contains("No space left on device"),
        "{}",
        told.stderr
    );
    for step in ["/copy", "/install", "install", "reboot"] {
        assert!(!told.is_over(step), "{step} counts as done");
    }
    assert_eq!(
        site.said("ls -d /mnt/nix/var/nix/profiles/system* 2>/dev/null || true"),
        ""
    );
    assert_eq!(site.machine.status().unwrap().boots, 2, "it was rebooted");

    // the same command meets the same disk, and does not format it again
    let formatted = site.formatted("vda");
    let again = site.landfall("demo", &more).end(LONG).unwrap();
    assert_eq!(again.code, Some(3), "{}", again.stderr);
    assert_eq!(again.failure(), told.failure());
    assert_eq!(site.formatted("vda"), formatted);
}
