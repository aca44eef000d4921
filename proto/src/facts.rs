//! What the agent saw on the machine: plain data, no judgement.
//!
//! A fact that could not be read is absent, never guessed. What follows from the facts is decided by the controller.

use serde::{Deserialize, Serialize};

/// What the agent saw on the machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// Machine name of the kernel, such as `x86_64`.
    pub arch: String,
    /// Release of the kernel.
    pub kernel: String,
    /// `ID` of os-release.
    pub os_id: String,
    /// `PRETTY_NAME` of os-release.
    pub os_name: String,
    /// Whether `VARIANT_ID` is `installer` on a NixOS.
    pub installer: bool,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Whether the agent runs as root with all capabilities it needs.
    pub root: bool,
    /// Whether systemd is PID 1.
    pub systemd: bool,
    /// Kind of container, as far as `/run/systemd/container` or PID 1's environment tells.
    pub container: Option<String>,
    /// Name of the hypervisor from DMI, if the processor says there is one.
    pub hypervisor: Option<String>,
    /// How the machine booted.
    pub firmware: Firmware,
    /// Whether UEFI Secure Boot is on.
    pub secure_boot: Option<bool>,
    /// The active word of `/sys/kernel/security/lockdown`.
    pub lockdown: Option<String>,
    /// `/proc/sys/kernel/kexec_load_disabled`.
    pub kexec_load_disabled: Option<bool>,
    /// `MemTotal`, in bytes.
    pub memory_total: u64,
    /// `MemAvailable`, in bytes.
    pub memory_available: u64,
    /// Whole disks, without loop, RAM and optical drives.
    pub disks: Vec<Disk>,
    /// Network interfaces other than loopback.
    pub interfaces: Vec<Interface>,
    /// Which of the programs of interest are on the path.
    pub programs: Vec<String>,
    /// Source, target and type of each mount at or below `/mnt`.
    pub mounts: Vec<Mounted>,
    /// Public SSH host keys of the running system, one line each.
    pub host_keys: Vec<String>,
}

/// How the machine booted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Firmware {
    /// `/sys/firmware/efi` is there.
    Uefi,
    /// It is not.
    #[default]
    Bios,
}

/// A whole disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Disk {
    /// Kernel name with `/dev/`.
    pub device: String,
    /// Links below `/dev/disk` that lead here.
    pub links: Vec<String>,
    /// Size in bytes.
    pub size: u64,
    /// Model, as the drive says.
    pub model: Option<String>,
    /// Serial number, as the drive says.
    pub serial: Option<String>,
    /// Whether it is marked read-only.
    pub read_only: bool,
    /// What is on it.
    pub parts: Vec<Part>,
}

/// Something on a disk: a partition, or the disk itself where it has none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Part {
    /// Kernel name with `/dev/`.
    pub device: String,
    /// Size in bytes.
    pub size: u64,
    /// File system or other signature.
    pub kind: Option<String>,
    /// Label of the file system.
    pub label: Option<String>,
    /// Where it is mounted.
    pub mounted: Vec<String>,
    /// Kernel names of devices on top of it: LVM, md, LUKS.
    pub holders: Vec<String>,
}

/// A network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Hardware address.
    pub mac: Option<String>,
    /// `bond`, `vlan`, `bridge`, `wifi`, … for anything that is no plain wire.
    pub kind: Option<String>,
    /// Addresses with prefix length.
    pub addresses: Vec<String>,
}

/// A mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mounted {
    /// Device or name.
    pub source: String,
    /// Mount point.
    pub target: String,
    /// Type of the file system.
    pub kind: String,
}
