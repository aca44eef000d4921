//! The rig's own promises: what a test relies on when it cuts a machine's power or line.

use std::{
    process::Command,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use landfall_tests::{
    assets::Assets,
    machine::{
        Machine,
        spec::{Boot, Spec},
    },
};

/// Debian logs in after 13 to 30 s under emulation; with others beside it, much later.
const BOOTS: Duration = Duration::from_secs(240);

/// The median of what a machine from a state takes to its first login; 4 s on an idle host.
const ANSWERS: Duration = Duration::from_secs(20);

#[test]
#[cfg_attr(
    not(feature = "machines"),
    ignore = "starts a machine; `cargo verify` runs it"
)]
fn machine_that_lost_power_boots_from_the_same_disks() {
    let assets = Assets::open().unwrap();
    let machine = Machine::ready(&assets, Spec::of(Boot::Target)).unwrap();
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

#[test]
#[cfg_attr(
    not(feature = "machines"),
    ignore = "starts a machine; `cargo verify` runs it"
)]
fn machines_that_begin_from_one_state_are_not_taken_for_each_other() {
    const WHO: &str = "
cat /etc/machine-id
cat /proc/sys/kernel/random/boot_id
ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub | cut -d ' ' -f 2
ssh-keygen -lf /etc/ssh/ssh_host_rsa_key.pub | cut -d ' ' -f 2
head -c 32 /dev/urandom | sha256sum | cut -d ' ' -f 1
";
    let assets = Assets::open().unwrap();
    let one = || {
        let machine = Machine::ready(&assets, Spec::of(Boot::Target)).unwrap();
        machine.wait_ssh(BOOTS).unwrap();
        let who: Vec<String> = said(&machine, WHO).lines().map(str::to_owned).collect();
        let shown = Command::new("ssh-keyscan")
            .args(["-t", "ed25519", "-p", &machine.ssh_port().to_string()])
            .arg("127.0.0.1")
            .output()
            .unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        // what the server shows is what lies on its disk
        let file = said(
            &machine,
            "cut -d ' ' -f 2 /etc/ssh/ssh_host_ed25519_key.pub",
        );
        assert!(shown.contains(file.trim_end()), "{shown}");
        let there: u64 = said(&machine, "date +%s").trim_end().parse().unwrap();
        let here = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        assert!(
            here.as_secs().abs_diff(there) < 60,
            "its clock says {there}"
        );
        // systemd and its journal know the same boot
        let boot = said(
            &machine,
            "logger here; journalctl --boot --output=export --lines=1",
        );
        assert!(boot.contains("_BOOT_ID"), "{boot}");
        who
    };
    let (first, second) = (one(), one());
    assert_eq!(first.len(), 5, "{first:?}");
    for (a, b) in first.iter().zip(&second) {
        assert_ne!(a, b);
        assert!(a.len() > 30, "{a}");
    }
}

#[test]
#[cfg_attr(
    not(feature = "machines"),
    ignore = "starts a machine; `cargo verify` runs it"
)]
fn machine_from_a_state_answers_within_seconds() {
    let assets = Assets::open().unwrap();
    for boot in [Boot::Target, Boot::Installer] {
        // made, if there is none
        drop(Machine::ready(&assets, Spec::of(boot)).unwrap());
        let mut times = Vec::new();
        for _ in 0..3 {
            let begun = Instant::now();
            let machine = Machine::ready(&assets, Spec::of(boot)).unwrap();
            machine.wait_ssh(BOOTS).unwrap();
            times.push(begun.elapsed());
        }
        times.sort();
        println!("{}: {times:?}", boot.name());
        // 4 s at rest; with others beside it, some more
        assert!(times[1] < ANSWERS, "{times:?}");
    }
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
