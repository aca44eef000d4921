//! The disks of the machine, from sysfs: what they are, what is on them, and whether one is still the same.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use landfall_proto::{
    facts::{Disk, Part},
    order::ConsentedDisk,
};

use super::{Machine, mounts::Mount, mounts::unescape, signature::Signature};

/// Kernel names that are no disks one installs on: loop, RAM, compressed RAM, optical, floppy, and what lies on disks.
const NO_DISKS: &[&str] = &["loop", "ram", "zram", "sr", "fd", "dm-", "md", "nbd", "zd"];

/// Holds a partition table of any kind and the signatures of most file systems.
const BEGINNING: u64 = 1 << 20;

/// sysfs counts in units of 512 bytes, whatever the disk's own sectors are.
const SECTOR: u64 = 512;

impl Machine {
    /// Returns the whole disks and what is on them.
    pub async fn disks(&self) -> Vec<Disk> {
        let mut disks = self.blocking(Self::disks_of_sysfs).await;
        if !self.at("/run/udev/data").is_dir() {
            for part in disks.iter_mut().flat_map(|disk| &mut disk.parts) {
                let Signature { kind, label, .. } = self.blkid_signature(&part.device).await;
                (part.kind, part.label) = (kind, label);
            }
        }
        disks
    }

    /// Says why a disk is not the one that was agreed to, if it is not. Blocks.
    ///
    /// A disk that had no serial number then is known by its size alone.
    pub fn changed_since_consent(&self, agreed: &ConsentedDisk) -> Option<String> {
        let Some(name) = self.block_name(&agreed.device) else {
            return Some("it is not there".to_owned());
        };
        let size = self.block_size(&name);
        if size != agreed.size {
            return Some(format!("size {}, now {size}", agreed.size));
        }
        let serial = self.serial(&name);
        if agreed.serial.is_some() && serial != agreed.serial {
            let show =
                |serial: &Option<String>| serial.clone().unwrap_or_else(|| "none".to_owned());
            return Some(format!(
                "serial {}, now {}",
                show(&agreed.serial),
                show(&serial)
            ));
        }
        None
    }

    /// Returns the layout of a disk's partitions as one line that changes when the layout does. Blocks.
    pub fn layout(&self, device: &str) -> Option<String> {
        let name = self.block_name(device)?;
        let disk = format!("/sys/class/block/{name}");
        let part = |part: &String| {
            let number = |file| {
                self.read(&format!("{disk}/{part}/{file}"))
                    .unwrap_or_default()
            };
            format!(
                "{}:{}+{}",
                number("partition"),
                number("start"),
                number("size")
            )
        };
        let parts: Vec<_> = self.partitions(&name).iter().map(part).collect();
        Some(format!("{} [{}]", self.block_size(&name), parts.join(" ")))
    }

    /// Returns the kernel's name of a block device, given by any path that leads to it.
    pub fn block_name(&self, device: &str) -> Option<String> {
        let mut path = PathBuf::from(device);
        for _ in 0..8 {
            let Ok(target) = std::fs::read_link(self.at(path.to_str()?)) else {
                break;
            };
            path = normal(&path.parent()?.join(target));
        }
        let name = path.file_name()?.to_str()?.to_owned();
        self.at(&format!("/sys/class/block/{name}"))
            .exists()
            .then_some(name)
    }

    /// Returns the kernel's names of the whole disks on which a block device lies, through any layers.
    pub fn disks_under(&self, name: &str) -> Vec<String> {
        let below = self.names(&format!("/sys/class/block/{name}/slaves"));
        let mut disks: Vec<_> = if below.is_empty() {
            vec![self.whole_disk(name)]
        } else {
            below
                .iter()
                .flat_map(|name| self.disks_under(name))
                .collect()
        };
        disks.sort();
        disks.dedup();
        disks
    }

    /// Reads the boot code of a disk: the first 440 bytes of its first sector. Blocks.
    pub fn boot_code(&self, name: &str) -> std::io::Result<[u8; 440]> {
        let mut code = [0; 440];
        File::open(self.at(&format!("/dev/{name}")))?.read_exact(&mut code)?;
        Ok(code)
    }

    /// Returns the hash of a disk's first bytes, where it can be read. Blocks.
    fn beginning(&self, name: &str) -> Option<String> {
        let mut bytes = Vec::new();
        let disk = File::open(self.at(&format!("/dev/{name}"))).ok()?;
        disk.take(BEGINNING).read_to_end(&mut bytes).ok()?;
        Some(blake3::hash(&bytes).to_hex().to_string())
    }

    /// Returns the kernel's name of a block device, given as `major:minor`.
    pub fn block_of_numbers(&self, numbers: &str) -> Option<String> {
        let link = std::fs::read_link(self.at(&format!("/sys/dev/block/{numbers}"))).ok()?;
        Some(link.file_name()?.to_str()?.to_owned())
    }

    fn disks_of_sysfs(&self) -> Vec<Disk> {
        let mounts = self.mounts();
        let swaps = self.swaps();
        let mut names = self.names("/sys/block");
        names.retain(|name| {
            !NO_DISKS.iter().any(|no| name.starts_with(no)) && self.block_size(name) > 0
        });
        let links = self.disk_links();
        names
            .iter()
            .map(|name| self.disk(name, &mounts, &swaps, &links))
            .collect()
    }

    fn disk(
        &self,
        name: &str,
        mounts: &[Mount],
        swaps: &[String],
        links: &[(String, String)],
    ) -> Disk {
        let mut parts = self.partitions(name);
        if parts.is_empty() {
            parts.push(name.to_owned());
        }
        Disk {
            device: format!("/dev/{name}"),
            links: links
                .iter()
                .filter(|(_, to)| to == name)
                .map(|(from, _)| from.clone())
                .collect(),
            size: self.block_size(name),
            model: self.word(&format!("/sys/class/block/{name}/device/model")),
            serial: self.serial(name),
            read_only: self.word(&format!("/sys/class/block/{name}/ro")).as_deref() == Some("1"),
            beginning: self.beginning(name),
            parts: parts
                .iter()
                .map(|part| self.part(part, mounts, swaps))
                .collect(),
        }
    }

    fn part(&self, name: &str, mounts: &[Mount], swaps: &[String]) -> Part {
        let device = format!("/dev/{name}");
        let numbers = self.numbers(name);
        let signature = self.udev_signature(&numbers).unwrap_or_default();
        let here = |mount: &&Mount| mount.device == numbers || mount.source == device;
        let mut mounted: Vec<_> = mounts
            .iter()
            .filter(here)
            .map(|mount| mount.target.to_string_lossy().into_owned())
            .collect();
        if swaps.contains(&device) {
            mounted.push("[swap]".to_owned());
        }
        Part {
            size: self.block_size(name),
            kind: signature.kind,
            label: signature.label,
            mounted,
            holders: self.names(&format!("/sys/class/block/{name}/holders")),
            device,
        }
    }

    /// Returns the paths of the swap areas in use.
    pub fn swaps(&self) -> Vec<String> {
        let text = self.read("/proc/swaps").unwrap_or_default();
        let paths = text
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().next());
        paths
            .map(|path| unescape(path).to_string_lossy().into_owned())
            .collect()
    }

    fn partitions(&self, name: &str) -> Vec<String> {
        let disk = format!("/sys/class/block/{name}");
        let mut parts = self.names(&disk);
        parts.retain(|part| self.at(&format!("{disk}/{part}/partition")).exists());
        parts.sort_by_key(|part| {
            self.word(&format!("{disk}/{part}/partition"))
                .and_then(|number| number.parse::<u32>().ok())
        });
        parts
    }

    fn whole_disk(&self, name: &str) -> String {
        if !self
            .at(&format!("/sys/class/block/{name}/partition"))
            .exists()
        {
            return name.to_owned();
        }
        // the entry is a link into the device tree, where a partition lies below its disk
        let link =
            std::fs::read_link(self.at(&format!("/sys/class/block/{name}"))).unwrap_or_default();
        let disk = link
            .parent()
            .and_then(Path::file_name)
            .and_then(|disk| disk.to_str());
        disk.unwrap_or(name).to_owned()
    }

    fn block_size(&self, name: &str) -> u64 {
        let sectors = self.word(&format!("/sys/class/block/{name}/size"));
        sectors
            .and_then(|sectors| sectors.parse::<u64>().ok())
            .unwrap_or(0)
            * SECTOR
    }

    fn numbers(&self, name: &str) -> String {
        self.word(&format!("/sys/class/block/{name}/dev"))
            .unwrap_or_default()
    }

    /// The same on the old system and on the installer, whatever their udev: the kernel's own words come first.
    fn serial(&self, name: &str) -> Option<String> {
        let block = format!("/sys/class/block/{name}");
        let own = ["serial", "device/serial"].iter();
        let own = own
            .filter_map(|file| self.word(&format!("{block}/{file}")))
            .next();
        own.or_else(|| {
            let page = std::fs::read(self.at(&format!("{block}/device/vpd_pg80"))).ok()?;
            vpd_serial(&page)
        })
        .or_else(|| self.word(&format!("{block}/device/wwid")))
        .or_else(|| self.udev_signature(&self.numbers(name))?.serial)
    }

    fn disk_links(&self) -> Vec<(String, String)> {
        let mut links = Vec::new();
        for kind in self.names("/dev/disk") {
            for link in self.names(&format!("/dev/disk/{kind}")) {
                let path = format!("/dev/disk/{kind}/{link}");
                if let Some(name) = self.block_name(&path) {
                    links.push((path, name));
                }
            }
        }
        links
    }

    fn word(&self, path: &str) -> Option<String> {
        let text = self.read(path)?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }
}

/// Reads the unit serial number page of a SCSI or SATA disk: four bytes of head, then text (SPC-4, 7.8.15).
fn vpd_serial(page: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(page.get(4..)?);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

/// Takes `..` out of a path by its text alone.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::ParentDir => drop(out.pop()),
            std::path::Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;
    use crate::machine::command::Script;

    /// A machine with a virtio disk of two partitions, a SATA disk with LUKS on it, and a DVD drive.
    fn machine(root: &Path) -> Machine {
        let write = |path: &str, content: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        let disks = [
            ("vda", "vda", "254:0", "41943040"),
            ("vda", "vda/vda1", "254:1", "204800"),
            ("vda", "vda/vda2", "254:2", "41736192"),
            ("sda", "sda", "8:0", "1000"),
            ("sr0", "sr0", "11:0", "2097151"),
            ("dm-0", "dm-0", "253:0", "900"),
        ];
        for (disk, path, numbers, sectors) in disks {
            let base = format!("sys/devices/{path}");
            write(&format!("{base}/dev"), numbers);
            write(&format!("{base}/size"), sectors);
            let name = path.rsplit('/').next().unwrap();
            fs::create_dir_all(root.join("sys/class/block")).unwrap();
            symlink(
                format!("../../devices/{path}"),
                root.join("sys/class/block").join(name),
            )
            .unwrap();
            if name == disk {
                fs::create_dir_all(root.join("sys/block")).unwrap();
                symlink(
                    format!("../devices/{path}"),
                    root.join("sys/block").join(name),
                )
                .unwrap();
            }
            write(&format!("dev/{name}"), "");
        }
        for (part, start) in [("1", "2048"), ("2", "206848")] {
            write(&format!("sys/devices/vda/vda{part}/partition"), part);
            write(&format!("sys/devices/vda/vda{part}/start"), start);
        }
        write("sys/devices/vda/serial", "A\n");
        write("sys/devices/vda/ro", "0\n");
        write("sys/devices/sda/device/model", "Disk 9000   \n");
        write("sys/devices/sda/device/vpd_pg80", "\0\u{0}\0\u{8}  WD-42  ");
        write("sys/devices/sda/holders/dm-0", "");
        write("sys/devices/dm-0/slaves/sda", "");
        write(
            "run/udev/data/b254:2",
            "E:ID_FS_TYPE=ext4\nE:ID_FS_LABEL=old\n",
        );
        write(
            "proc/self/mountinfo",
            "1 0 254:2 / / rw - ext4 /dev/root rw\n",
        );
        write(
            "proc/swaps",
            "Filename\tType\tSize\tUsed\tPriority\n/dev/vda1 partition 1 0 -2\n",
        );
        fs::create_dir_all(root.join("dev/disk/by-id")).unwrap();
        symlink("../../vda", root.join("dev/disk/by-id/virtio-A")).unwrap();
        Machine::scripted(root, root, Script::default())
    }

    #[tokio::test]
    async fn disks_are_told_with_what_is_on_them() {
        let root = tempfile::tempdir().unwrap();
        let disks = machine(root.path()).disks().await;
        let devices: Vec<_> = disks.iter().map(|disk| disk.device.as_str()).collect();
        assert_eq!(devices, ["/dev/sda", "/dev/vda"]);
        assert_eq!(disks[0].model.as_deref(), Some("Disk 9000"));
        assert_eq!(disks[0].serial.as_deref(), Some("WD-42"));
        assert_eq!(disks[0].parts[0].holders, ["dm-0"]);
        assert_eq!(disks[1].size, 20 << 30);
        assert_eq!(disks[1].links, ["/dev/disk/by-id/virtio-A"]);
        assert_eq!(disks[1].parts[0].mounted, ["[swap]"]);
        assert_eq!(disks[1].parts[1].mounted, ["/"]);
        assert_eq!(disks[1].parts[1].kind.as_deref(), Some("ext4"));
    }

    #[test]
    fn another_disk_under_the_same_name_is_noticed() {
        let root = tempfile::tempdir().unwrap();
        let machine = machine(root.path());
        let check = |device: &str, size: u64, serial: Option<&str>, expected: Option<&str>| {
            let agreed = ConsentedDisk {
                device: device.to_owned(),
                size,
                serial: serial.map(str::to_owned),
                beginning: None,
            };
            assert_eq!(machine.changed_since_consent(&agreed).as_deref(), expected);
        };
        check("/dev/vda", 20 << 30, Some("A"), None);
        check("/dev/disk/by-id/virtio-A", 20 << 30, Some("A"), None);
        check("/dev/vda", 20 << 30, None, None);
        check("/dev/vda", 20 << 30, Some("B"), Some("serial B, now A"));
        check(
            "/dev/vda",
            1 << 30,
            Some("A"),
            Some("size 1073741824, now 21474836480"),
        );
        check("/dev/vdb", 20 << 30, Some("A"), Some("it is not there"));
    }

    #[test]
    fn layout_names_every_partition() {
        let root = tempfile::tempdir().unwrap();
        let machine = machine(root.path());
        let layout = machine.layout("/dev/vda").unwrap();
        assert_eq!(layout, "21474836480 [1:2048+204800 2:206848+41736192]");
        assert_eq!(machine.layout("/dev/vdz"), None);
    }

    #[test]
    fn disks_are_found_under_layers() {
        let root = tempfile::tempdir().unwrap();
        let machine = machine(root.path());
        assert_eq!(machine.disks_under("dm-0"), ["sda"]);
        assert_eq!(machine.disks_under("vda2"), ["vda"]);
        assert_eq!(machine.disks_under("vda"), ["vda"]);
    }
}
