//! Looks whether the machine will boot the new system. Boot loaders' exit codes are not believed.
//!
//! What is looked for is what every loader of NixOS leaves behind: an entry that names this system's path, the kernel
//! and initrd that the entry names, and a program that this machine's firmware can start.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use landfall_proto::{facts::Firmware, failure::Failure, order::StorePath};
use serde::{Deserialize, Serialize};

use super::{Machine, TARGET, names_in};

/// Where each loader keeps what it may boot: its name, a directory or file below the boot partition.
const ENTRIES: &[(&str, &str)] = &[
    ("systemd-boot", "loader/entries"),
    ("unified kernel image", "EFI/Linux"),
    ("grub", "grub/grub.cfg"),
    ("extlinux", "extlinux/extlinux.conf"),
    ("limine", "limine/limine.conf"),
    ("limine", "EFI/limine/limine.conf"),
    ("limine", "limine.conf"),
    ("refind", "EFI/refind/refind.conf"),
    ("refind", "efi/refind/refind.conf"),
    ("refind", "efi/boot/refind.conf"),
    ("raspberry pi", "cmdline.txt"),
];

/// Loaders that are not started by UEFI, though the board may have started the installer so: U-Boot does both.
const WITHOUT_EFI: &[&str] = &["extlinux", "raspberry pi"];

/// Directories of `EFI` that hold kernels, not loaders.
const NO_LOADERS: &[&str] = &["nixos", "Linux"];

/// How the new system will be booted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bootable {
    /// Name of the boot loader.
    pub loader: String,
    /// File that names the system.
    pub entry: PathBuf,
    /// What the firmware starts: a program on the EFI partition, or a disk's boot code; nothing where that cannot be told.
    pub starts: Option<String>,
}

/// Why a machine will not boot a system, as far as can be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unbootable {
    /// A file that the boot loader needs is not there.
    Broken(Failure),
    /// Nothing is found that boots it: it may be unknown, or the firmware another one the next time.
    Unknown(Failure),
}

impl Machine {
    /// Looks whether the machine will boot this system. Blocks.
    pub fn bootable(&self, system: &StorePath, firmware: Firmware) -> Result<Bootable, Unbootable> {
        let refused = || Failure::new(format!("cannot boot {}", system.base_name())).code("LF1601");
        let partitions = self.boot_directories();
        let (loader, entry, partition) = find_entry(&partitions, system).ok_or_else(|| {
            refused()
                .because(format!("no boot loader's entry in {} names it", shown(&partitions)))
                .hint("look at the lines of the boot loader above, and at `boot.loader` in the configuration")
                .hint("if it is a loader that landfall does not know, run the same command again with `--no-boot-check`")
        }).map_err(Unbootable::Unknown)?;
        if let Some(missing) = self.missing_file(&entry, &partition, system) {
            let failure = refused()
                .because(format!(
                    "{} names {missing}, which is not there",
                    entry.display()
                ))
                .hint("see whether the boot partition is full: `df -h /mnt/boot`");
            return Err(Unbootable::Broken(failure));
        }
        let is_board = std::env::consts::ARCH != "x86_64";
        let starts = match firmware {
            Firmware::Uefi if is_board && WITHOUT_EFI.contains(&loader) => Ok(None),
            Firmware::Uefi => efi_program(&partitions).map(Some).ok_or_else(|| {
                refused()
                    .because("the machine boots by UEFI, and no EFI program is in the `EFI` directory of any boot partition")
                    .hint("choose a boot loader for UEFI, such as `boot.loader.systemd-boot.enable = true`, or boot the machine in BIOS mode")
            }),
            Firmware::Bios => self.boot_sector().map_err(|disks| {
                refused()
                    .because(format!("the machine boots by BIOS, and there is no boot code on {disks}"))
                    .hint("choose a boot loader for BIOS, such as `boot.loader.grub.device`, or boot the machine in UEFI mode")
            }),
        };
        let starts = starts.map_err(Unbootable::Unknown)?;
        Ok(Bootable {
            loader: loader.to_owned(),
            entry,
            starts,
        })
    }

    /// `/mnt/boot`, and whatever else is mounted as firmware wants it.
    fn boot_directories(&self) -> Vec<PathBuf> {
        let mut directories = vec![self.at(&format!("{TARGET}/boot"))];
        for mount in self.mounts_below(TARGET) {
            let target = mount.target.to_string_lossy();
            if mount.kind == "vfat" || target.contains("/boot") || target.contains("/efi") {
                directories.push(self.at(&target));
            }
        }
        directories.sort();
        directories.dedup();
        directories
    }

    /// Returns a kernel or initrd that the system's entry names and that is nowhere.
    fn missing_file(&self, entry: &Path, partition: &Path, system: &StorePath) -> Option<String> {
        if entry
            .extension()
            .is_some_and(|extension| extension == "efi")
        {
            return None;
        }
        let text = String::from_utf8_lossy(&fs::read(entry).ok()?).into_owned();
        let named = named_files(&text, system.base_name());
        named
            .into_iter()
            .find(|name| !self.found(name, entry, partition))
    }

    fn found(&self, name: &str, entry: &Path, partition: &Path) -> bool {
        let relative = name.trim_start_matches('/');
        let mut places = vec![partition.join(relative), self.at(TARGET).join(relative)];
        places.extend(entry.parent().map(|directory| directory.join(relative)));
        // a loader that reads the root file system names the store from that file system's own root
        places.extend(
            name.find("/nix/store/")
                .map(|at| self.at(TARGET).join(&name[at + 1..])),
        );
        places.extend(
            name.find("/boot/")
                .map(|at| self.at(TARGET).join(&name[at + 1..])),
        );
        places.extend(
            name.find("/kernels/")
                .map(|at| partition.join(&name[at + 1..])),
        );
        places
            .iter()
            .any(|place| fs::metadata(place).is_ok_and(|found| found.len() > 0))
    }

    /// Returns the disk whose boot code is there; nothing where disks cannot be told; an error names the disks without.
    fn boot_sector(&self) -> Result<Option<String>, String> {
        if std::env::consts::ARCH != "x86_64" {
            return Ok(None);
        }
        let mounts = self.mounts_below(TARGET);
        let root_and_boot = mounts.iter().filter(|mount| {
            mount.target == Path::new(TARGET) || mount.target.starts_with(format!("{TARGET}/boot"))
        });
        let named = |mount: &super::mounts::Mount| {
            // btrfs mounts have numbers of their own, their source leads to the device
            self.block_of_numbers(&mount.device)
                .or_else(|| self.block_name(&mount.source))
        };
        let mut disks: Vec<_> = root_and_boot
            .filter_map(named)
            .flat_map(|name| self.disks_under(&name))
            .collect();
        disks.sort();
        disks.dedup();
        let mut read: Vec<_> = Vec::new();
        for disk in &disks {
            match self.boot_code(disk) {
                Ok(code) if code.iter().any(|byte| *byte != 0) => {
                    return Ok(Some(format!("boot code of /dev/{disk}")));
                }
                Ok(_) => read.push(format!("/dev/{disk}")),
                Err(_) => {}
            }
        }
        if read.is_empty() {
            Ok(None)
        } else {
            Err(read.join(", "))
        }
    }
}

fn find_entry(
    partitions: &[PathBuf],
    system: &StorePath,
) -> Option<(&'static str, PathBuf, PathBuf)> {
    for partition in partitions {
        for (loader, place) in ENTRIES {
            let place = partition.join(place);
            let files: Vec<_> = if place.is_dir() {
                names_in(&place)
                    .into_iter()
                    .map(|name| place.join(name))
                    .collect()
            } else {
                vec![place]
            };
            let entry = files
                .into_iter()
                .find(|file| mentions(file, system.base_name().as_bytes()));
            if let Some(entry) = entry {
                return Some((loader, entry, partition.clone()));
            }
        }
    }
    None
}

/// Whether a file holds these bytes. Reads piece by piece: a unified image has a hundred MiB.
fn mentions(file: &Path, needle: &[u8]) -> bool {
    let Ok(mut file) = File::open(file) else {
        return false;
    };
    let mut buffer = Vec::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        let Ok(read) = file.read(&mut piece) else {
            return false;
        };
        if read == 0 {
            return false;
        }
        buffer.extend_from_slice(&piece[..read]);
        if buffer.windows(needle.len()).any(|window| window == needle) {
            return true;
        }
        buffer.drain(..buffer.len().saturating_sub(needle.len()));
    }
}

/// Returns the kernels and initrds that are named in the part of a configuration that names the system.
fn named_files(text: &str, system: &str) -> Vec<String> {
    let mut parts: Vec<Vec<&str>> = vec![Vec::new()];
    for line in text.lines().map(str::trim) {
        let begins = ["label ", "menuentry "];
        if begins
            .iter()
            .any(|word| line.to_ascii_lowercase().starts_with(word))
        {
            parts.push(Vec::new());
        }
        parts.last_mut().expect("there is a first part").push(line);
    }
    let part = parts
        .into_iter()
        .find(|part| part.iter().any(|line| line.contains(system)));
    let mut files = Vec::new();
    for line in part.unwrap_or_default() {
        let mut words = line.split_whitespace();
        let take = match words
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase()
            .as_str()
        {
            "linux" | "linuxefi" | "kernel" | "loader" => 1,
            "initrd" | "initrdefi" => usize::MAX,
            _ => 0,
        };
        let names = words.take(take).flat_map(|word| word.split(','));
        files.extend(names.map(|name| without_drive(name).to_owned()));
    }
    files
}

/// Grub may put `($drive1)` in front of a name, and a data set of ZFS as `/set@`.
fn without_drive(name: &str) -> &str {
    let name = name
        .strip_prefix('(')
        .and_then(|name| name.split_once(')'))
        .map_or(name, |(_, name)| name);
    name.split_once('@')
        .filter(|(set, _)| !set.contains("/nix/"))
        .map_or(name, |(_, name)| name)
}

fn efi_program(partitions: &[PathBuf]) -> Option<String> {
    for partition in partitions {
        let efi = partition.join("EFI");
        for directory in names_in(&efi)
            .iter()
            .filter(|name| !NO_LOADERS.contains(&name.as_str()))
        {
            let programs = names_in(&efi.join(directory));
            let program = programs
                .iter()
                .find(|name| name.to_ascii_lowercase().ends_with(".efi"));
            if let Some(program) = program {
                return Some(format!("EFI/{directory}/{program}"));
            }
        }
    }
    None
}

fn shown(partitions: &[PathBuf]) -> String {
    partitions
        .iter()
        .map(|path| path.display().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::command::Script;

    const SYSTEM: &str = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-nixos-system-x";

    struct Target(tempfile::TempDir);

    impl Target {
        fn new() -> Self {
            let target = Self(tempfile::tempdir().unwrap());
            let mounts = "1 0 254:2 / /mnt rw - ext4 /dev/vda2 rw\n2 1 254:1 / /mnt/boot rw - vfat /dev/vda1 rw\n";
            target
                .with("proc/self/mountinfo", mounts)
                .with("sys/class/block/vda/size", "1")
        }

        fn with(self, path: &str, content: &str) -> Self {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
            self
        }

        fn disk(self, code: u8) -> Self {
            fs::create_dir_all(self.0.path().join("sys/dev/block")).unwrap();
            std::os::unix::fs::symlink(
                "../../class/block/vda",
                self.0.path().join("sys/dev/block/254:2"),
            )
            .unwrap();
            let sector = char::from(code).to_string().repeat(512);
            self.with("dev/vda", &sector)
        }

        fn systemd_boot(self) -> Self {
            let entry = format!(
                "title NixOS\nlinux /EFI/nixos/a-linux.efi\ninitrd /EFI/nixos/b-initrd.efi\noptions init={SYSTEM}/init quiet\n"
            );
            self.with("mnt/boot/loader/entries/nixos-generation-1.conf", &entry)
                .with("mnt/boot/EFI/nixos/a-linux.efi", "kernel")
                .with("mnt/boot/EFI/nixos/b-initrd.efi", "initrd")
        }

        fn look(&self, firmware: Firmware) -> Result<Bootable, Unbootable> {
            let root = self.0.path();
            let machine = Machine::scripted(root, root, Script::default());
            machine.bootable(&SYSTEM.parse().unwrap(), firmware)
        }

        #[track_caller]
        fn refuses(&self, firmware: Firmware, cause: &str) {
            let (Unbootable::Broken(failure) | Unbootable::Unknown(failure)) =
                self.look(firmware).unwrap_err();
            assert!(failure.causes[0].contains(cause), "{failure:?}");
            assert_eq!(failure.code, "LF1601");
        }
    }

    #[test]
    fn systemd_boot_boots_a_uefi_machine() {
        let target = Target::new()
            .systemd_boot()
            .with("mnt/boot/EFI/BOOT/BOOTX64.EFI", "x");
        let bootable = target.look(Firmware::Uefi).unwrap();
        assert_eq!(bootable.loader, "systemd-boot");
        assert_eq!(bootable.starts.as_deref(), Some("EFI/BOOT/BOOTX64.EFI"));
    }

    #[test]
    fn loader_for_the_other_firmware_is_refused() {
        let target = Target::new().systemd_boot();
        target.refuses(Firmware::Uefi, "no EFI program");
        if std::env::consts::ARCH == "x86_64" {
            Target::new()
                .systemd_boot()
                .disk(0)
                .refuses(Firmware::Bios, "no boot code on /dev/vda");
        }
    }

    #[test]
    fn entry_of_another_system_is_not_enough() {
        let other = "linux /k\ninitrd /i\noptions init=/nix/store/z-nixos-system-old/init\n";
        let target = Target::new().with("mnt/boot/loader/entries/nixos-generation-1.conf", other);
        target.refuses(Firmware::Uefi, "no boot loader's entry");
        Target::new().refuses(Firmware::Uefi, "no boot loader's entry");
    }

    #[test]
    fn kernel_that_did_not_fit_is_noticed() {
        let target = Target::new()
            .systemd_boot()
            .with("mnt/boot/EFI/nixos/b-initrd.efi", "");
        target.refuses(Firmware::Uefi, "names /EFI/nixos/b-initrd.efi");
    }

    #[test]
    fn grub_boots_a_bios_machine_from_wherever_its_kernels_are() {
        for kernel in [
            "($drive1)//kernels/k",
            "($drive2)/nix/store/k-linux/bzImage",
            "($drive2)/root@/nix/store/k-linux/bzImage",
        ] {
            let config = format!(
                "set timeout=5\nmenuentry \"old\" {{\n linux /gone init=/old/init\n}}\nmenuentry \"NixOS\" {{\n\
                 search --set=drive1 --fs-uuid 1\n  linux {kernel} init={SYSTEM}/init\n  initrd ($drive1)//kernels/i\n}}\n"
            );
            let target = Target::new()
                .with("mnt/boot/grub/grub.cfg", &config)
                .with("mnt/boot/kernels/k", "kernel")
                .with("mnt/boot/kernels/i", "initrd")
                .with("mnt/nix/store/k-linux/bzImage", "kernel")
                .disk(0x33);
            let bootable = target.look(Firmware::Bios).unwrap();
            assert_eq!(bootable.loader, "grub");
            if std::env::consts::ARCH == "x86_64" {
                assert_eq!(bootable.starts.as_deref(), Some("boot code of /dev/vda"));
            }
        }
    }

    #[test]
    fn extlinux_names_files_from_its_own_place() {
        let config = format!(
            "DEFAULT one\nLABEL one\n  LINUX ../nixos/k\n  INITRD ../nixos/i\n  APPEND init={SYSTEM}/init\n"
        );
        let target = Target::new()
            .with("mnt/boot/extlinux/extlinux.conf", &config)
            .with("mnt/boot/nixos/k", "kernel");
        target.refuses(Firmware::Bios, "names ../nixos/i");
        let target = target.with("mnt/boot/nixos/i", "initrd");
        assert_eq!(target.look(Firmware::Bios).unwrap().loader, "extlinux");
    }

    #[test]
    fn refind_boots_a_uefi_machine() {
        let config = format!(
            "timeout 5\nmenuentry \"NixOS\" {{\n  loader /efi/nixos/k.efi\n  initrd /efi/nixos/i.efi\n  options \"init={SYSTEM}/init\"\n}}\n"
        );
        let target = Target::new()
            .with("mnt/boot/efi/refind/refind.conf", &config)
            .with("mnt/boot/EFI/refind/refind_x64.efi", "x")
            .with("mnt/boot/efi/nixos/k.efi", "kernel");
        target.refuses(Firmware::Uefi, "names /efi/nixos/i.efi");
        let target = target.with("mnt/boot/efi/nixos/i.efi", "initrd");
        assert_eq!(target.look(Firmware::Uefi).unwrap().loader, "refind");
    }

    #[test]
    fn board_that_has_efi_may_boot_without_it() {
        let config = format!("LABEL one\n  LINUX ../k\n  APPEND init={SYSTEM}/init\n");
        let target = Target::new()
            .with("mnt/boot/extlinux/extlinux.conf", &config)
            .with("mnt/boot/k", "kernel");
        match std::env::consts::ARCH {
            "x86_64" => target.refuses(Firmware::Uefi, "no EFI program"),
            _ => assert_eq!(target.look(Firmware::Uefi).unwrap().starts, None),
        }
    }

    #[test]
    fn unified_image_is_read_through() {
        let image = format!("{}init={SYSTEM}/init", "x".repeat((1 << 20) - 20));
        let target = Target::new()
            .with("mnt/boot/EFI/Linux/nixos-generation-1.efi", &image)
            .with("mnt/boot/EFI/systemd/systemd-bootx64.efi", "x");
        assert_eq!(
            target.look(Firmware::Uefi).unwrap().loader,
            "unified kernel image"
        );
    }
}
