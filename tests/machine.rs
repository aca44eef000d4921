//! The rig's own promises: what a test relies on when it cuts a machine's power or line.

use std::time::Duration;

use landfall_tests::{
    assets::Assets,
    machine::{
        Machine,
        spec::{Boot, Spec},
    },
};

/// Debian logs in after 13 to 30 s under emulation; with others beside it, much later.
const BOOTS: Duration = Duration::from_secs(240);

#[test]
#[cfg_attr(
    not(feature = "machines"),
    ignore = "starts a machine; `cargo verify` runs it"
)]
fn machine_that_lost_power_boots_from_the_same_disks() {
    let assets = Assets::open().unwrap();
    let machine = Machine::start(&assets, Spec::of(Boot::Target)).unwrap();
    machine.wait_ssh(BOOTS).unwrap();
    assert_eq!(said(&machine, "echo kept > /root/kept && sync"), "");

    machine.power_cut().unwrap();
    assert!(!machine.status().unwrap().running);
    machine.boot(Boot::Target).unwrap();

    machine.wait_ssh(BOOTS).unwrap();
    assert_eq!(said(&machine, "cat /root/kept"), "kept\n");
}

#[test]
#[cfg_attr(
    not(feature = "machines"),
    ignore = "starts a machine; `cargo verify` runs it"
)]
fn machine_that_resets_leaves_the_kernel_it_was_given_as_soon_as_its_disk_boots() {
    let assets = Assets::open().unwrap();
    let machine = Machine::start(&assets, Spec::of(Boot::Bare)).unwrap();
    machine.wait_ssh(BOOTS).unwrap();

    // nothing to boot on the disk: the machine comes back as it was
    let reset = "sync; echo b > /proc/sysrq-trigger";
    let _ = machine.ssh(&format!("({reset}) >/dev/null 2>&1 &"));
    machine.wait_boots(2, BOOTS).unwrap();
    machine.wait_ssh(BOOTS).unwrap();
    assert_eq!(machine.status().unwrap().boot, Boot::Bare);

    // with a boot sector, firmware has it
    let sign = r"printf '\125\252' | dd of=/dev/vda bs=1 seek=510 conv=notrunc";
    let _ = machine.ssh(&format!("({sign}; {reset}) >/dev/null 2>&1 &"));
    machine.wait_boots(3, BOOTS).unwrap();
    assert_eq!(machine.status().unwrap().boot, Boot::Disk);
}

fn said(machine: &Machine, command: &str) -> String {
    let output = machine.ssh(command).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
