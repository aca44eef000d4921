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
    /// Whether the agent runs as root with all capabilities that writing to disks takes.
    pub root: bool,
    /// Whether the agent may start another kernel or reboot.
    #[serde(default)]
    pub may_boot: Option<bool>,
    /// Whether systemd is PID 1.
    pub systemd: bool,
    /// Kind of container, as far as `/run/systemd/container` or PID 1's environment tells.
    pub container: Option<String>,
    /// Name of the hypervisor from DMI, if the processor says there is one.
    pub hypervisor: Option<String>,
    /// Kind of guest of Xen: `PV`, `HVM`, `PVH`, or `dom0` for the domain that drives the hardware.
    pub xen: Option<String>,
    /// Name of the board from the device tree.
    pub board: Option<String>,
    /// Processors that are running.
    pub cpus: Option<u32>,
    /// The machine's clock, in seconds since 1970.
    pub clock: Option<u64>,
    /// How the machine booted.
    pub firmware: Firmware,
    /// Whether UEFI Secure Boot is on.
    pub secure_boot: Option<bool>,
    /// The active word of `/sys/kernel/security/lockdown`.
    pub lockdown: Option<String>,
    /// `/proc/sys/kernel/kexec_load_disabled`.
    pub kexec_load_disabled: Option<bool>,
    /// Whether this kernel can start another one.
    pub kexec_supported: Option<bool>,
    /// Which options of the kernel's configuration that begin with `KEXEC` are set, such as `KEXEC_SIG_FORCE`.
    pub kexec_options: Option<Vec<String>>,
    /// Whether IMA wants kernels to be signed.
    pub ima_signed_kernels: Option<bool>,
    /// Whether there is `/proc/kcore`.
    pub kcore: Option<bool>,
    /// `MemTotal`, in bytes.
    pub memory_total: u64,
    /// `MemAvailable`, in bytes.
    pub memory_available: u64,
    /// `SwapTotal`, in bytes.
    pub swap_total: Option<u64>,
    /// Where the agent keeps what is sent to it.
    pub spool: Option<Space>,
    /// Where it keeps the large files of an installer's image for which the memory is too short: on a disk of the old
    /// system. None where there is no such place.
    #[serde(default)]
    pub spill: Option<Space>,
    /// Whole disks, without loop, RAM and optical drives.
    pub disks: Vec<Disk>,
    /// Network interfaces other than loopback.
    pub interfaces: Vec<Interface>,
    /// Routes of the main table, those to everywhere first; the rest may be cut short.
    pub routes: Option<Vec<Route>>,
    /// Number of routing rules besides those that every kernel begins with.
    pub extra_rules: Option<u32>,
    /// Addresses of name servers.
    pub nameservers: Vec<String>,
    /// Which of the programs of interest are on the path.
    pub programs: Vec<String>,
    /// Source, target and type of each mount at or below `/mnt`.
    pub mounts: Vec<Mounted>,
    /// Public SSH host keys of the running system, one line each.
    pub host_keys: Vec<String>,
    /// What an agent other than the one that looks is doing, or left behind.
    pub occupied: Option<Occupied>,
}

/// An agent's work on the machine, seen by another one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Occupied {
    /// Whether that agent is running.
    pub alive: bool,
    /// The run that was begun and has not ended.
    pub run: Option<String>,
}

/// Space in a file system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Space {
    /// A directory in it.
    pub path: String,
    /// Type of the file system; empty where it is not known.
    pub kind: String,
    /// Bytes that may still be written.
    pub free: u64,
    /// Bytes that the agent has taken there already.
    pub held: u64,
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
    /// BLAKE3 of its first MiB, hex: another one means that somebody has written a partition table or a signature.
    ///
    /// None where it could not be read. Every new table is another one, since its identifiers are made at random.
    #[serde(default)]
    pub beginning: Option<String>,
    /// What is on it.
    pub parts: Vec<Part>,
}

impl Disk {
    /// Whether a path of the configuration leads here.
    pub fn is_called(&self, path: &str) -> bool {
        self.device == path || self.links.iter().any(|link| link == path)
    }
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
    /// Those of them that end by themselves: leased, or announced by a router, and so not set by hand.
    pub leased: Option<Vec<String>>,
    /// Address of the other end, where an address is one end of a line.
    pub peers: Vec<String>,
    /// The bond or bridge it is a part of.
    pub part_of: Option<String>,
    /// `up`, `down`, `unknown`, … as the kernel says.
    pub state: Option<String>,
    /// Largest packet, in bytes.
    pub mtu: Option<u32>,
}

/// A route.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Route {
    /// Whether it is one of IPv6.
    pub v6: bool,
    /// Network it leads to, `default` for everywhere.
    pub to: String,
    /// Address of the next router; none where what it leads to is on the wire itself.
    pub gateway: Option<String>,
    /// Interface it leads through.
    pub interface: String,
    /// Who set it, such as `dhcp`, `ra`, `static`, `boot`, `kernel`, or a number.
    pub origin: String,
    /// Whether its gateway counts as on the wire, whatever the addresses say.
    pub on_link: bool,
    /// Preference, the smallest first.
    pub metric: Option<u32>,
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
