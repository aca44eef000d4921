//! Machines for tests.

use landfall_proto::facts::{Disk, Facts, Interface, Route, Space};

/// A virtual machine of a provider, with nothing wrong.
pub(super) fn debian() -> Facts {
    Facts {
        arch: "x86_64".into(),
        kernel: "6.12.48+deb13-cloud-amd64".into(),
        os_id: "debian".into(),
        os_name: "Debian GNU/Linux 13 (trixie)".into(),
        root: true,
        systemd: true,
        hypervisor: Some("QEMU Standard PC (i440FX + PIIX, 1996)".into()),
        cpus: Some(2),
        clock: Some(1_800_000_000),
        lockdown: Some("none".into()),
        kexec_load_disabled: Some(false),
        kexec_supported: Some(true),
        kexec_options: Some(vec!["KEXEC".into(), "KEXEC_FILE".into()]),
        ima_signed_kernels: Some(false),
        kcore: Some(true),
        memory_total: 4 << 30,
        memory_available: 3 << 30,
        swap_total: Some(0),
        spool: Some(Space {
            path: "/run".into(),
            kind: "tmpfs".into(),
            free: 800 << 20,
            held: 0,
        }),
        disks: vec![Disk {
            device: "/dev/vda".into(),
            size: 20_000_000_000,
            ..Disk::default()
        }],
        interfaces: vec![Interface {
            name: "ens3".into(),
            mac: Some("52:54:00:00:00:01".into()),
            addresses: vec!["192.0.2.7/24".into(), "fe80::1/64".into()],
            leased: Some(vec!["192.0.2.7/24".into()]),
            state: Some("up".into()),
            mtu: Some(1500),
            ..Interface::default()
        }],
        routes: Some(vec![Route {
            to: "default".into(),
            gateway: Some("192.0.2.1".into()),
            interface: "ens3".into(),
            origin: "dhcp".into(),
            metric: Some(100),
            ..Route::default()
        }]),
        extra_rules: Some(0),
        nameservers: vec!["192.0.2.53".into()],
        ..Facts::default()
    }
}
