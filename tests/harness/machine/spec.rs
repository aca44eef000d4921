//! What a machine is made of, and what it boots.

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::assets::Assets;

/// What a machine boots when it gets power.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Boot {
    /// Debian with sshd and systemd: the machine that is to be reinstalled
    #[default]
    Target,
    /// the same kernel over a root without tar, cpio, curl, bash and python
    Bare,
    /// the stand-in installer, over empty disks
    Installer,
    /// whatever the firmware finds on the machine's own disks
    Disk,
}

impl Boot {
    /// The word a user types.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Target => "target",
            Self::Bare => "bare",
            Self::Installer => "installer",
            Self::Disk => "disk",
        }
    }
}

/// The firmware under it all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    /// SeaBIOS.
    #[default]
    Bios,
    /// OVMF, with variables that outlive reboots and power cuts.
    Uefi,
}

/// A machine as it is ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Disks in GiB, the first is vda; an image that is larger wins.
    pub disks_gib: Vec<u32>,
    /// BIOS or UEFI.
    pub firmware: Firmware,
    /// What the first power-on boots.
    pub boot: Boot,
    /// Without a way out: no route beyond the machine's own network.
    pub offline: bool,
    /// How many years its clock is ahead of this host's; behind it when negative.
    #[serde(default)]
    pub years_ahead: i32,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            memory_mib: 1536,
            disks_gib: vec![4],
            firmware: Firmware::Bios,
            boot: Boot::Target,
            offline: false,
            years_ahead: 0,
        }
    }
}

impl Spec {
    /// A machine that boots `boot`, everything else as it comes.
    #[must_use]
    pub fn of(boot: Boot) -> Self {
        Self {
            boot,
            ..Self::default()
        }
    }

    /// The same with UEFI firmware.
    #[must_use]
    pub fn uefi(self) -> Self {
        Self {
            firmware: Firmware::Uefi,
            ..self
        }
    }
}

/// How a machine begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Begin {
    /// It gets power.
    #[default]
    PowerOn,
    /// The same, with its memory in a file, so that it can be kept as a state.
    Saveable,
    /// It goes on where another one stood still, with the disks and the memory of that one.
    Resume {
        /// The folder of that state.
        state: PathBuf,
    },
}

/// The files a machine is put together from; kept with the machine, so that it boots again after
/// the assets have moved on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// The emulator.
    pub qemu: PathBuf,
    /// UEFI code.
    pub ovmf_code: PathBuf,
    /// UEFI variables, as from the factory.
    pub ovmf_vars: PathBuf,
    /// Kernel and initrd of target and bare.
    pub target: Kernel,
    /// Kernel and initrd of the installer.
    pub installer: Kernel,
    /// The private key that opens target, bare and installer.
    pub key: PathBuf,
    /// What vda is a copy of; none is an empty disk.
    pub image: Option<PathBuf>,
}

/// What is booted without the help of a boot loader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// The kernel image.
    pub image: PathBuf,
    /// Its initrd.
    pub initrd: PathBuf,
}

impl Parts {
    /// Picks from `assets` what such a machine is made from.
    pub fn pick(assets: &Assets, spec: &Spec) -> Result<Self> {
        // UEFI starts what has a stub for it; for a BIOS the kernel need not unpack itself
        let image = |unpacked| match spec.firmware {
            Firmware::Bios => unpacked,
            Firmware::Uefi => assets.kernel_image(),
        };
        Ok(Self {
            qemu: assets.qemu(),
            ovmf_code: assets.ovmf_code(),
            ovmf_vars: assets.ovmf_vars(),
            target: Kernel {
                image: image(assets.target_kernel()),
                initrd: assets.target_initrd(),
            },
            installer: Kernel {
                image: image(assets.installer_kernel()),
                initrd: assets.installer_initrd(),
            },
            key: assets.key(),
            image: match spec.boot {
                Boot::Target => Some(assets.target_disk()),
                Boot::Bare => Some(assets.bare_disk()),
                Boot::Installer | Boot::Disk => None,
            },
        })
    }
}
