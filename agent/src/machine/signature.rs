//! What is on a block device: what udev found out, or `blkid` where there is no udev.

use super::{Machine, command::Command};

/// What was found on a block device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signature {
    /// File system or other signature.
    pub kind: Option<String>,
    /// Label of the file system.
    pub label: Option<String>,
    /// Serial number of the drive.
    pub serial: Option<String>,
    /// Identity of the partition table, or of the partition.
    pub table: Option<String>,
}

impl Machine {
    /// Returns what udev knows of a device, given as `major:minor`; nothing without udev.
    pub(super) fn udev_signature(&self, numbers: &str) -> Option<Signature> {
        Some(parse_udev(
            &self.read(&format!("/run/udev/data/b{numbers}"))?,
        ))
    }

    /// Asks `blkid`, for systems without udev. An empty answer where it is missing.
    pub(super) async fn blkid_signature(&self, device: &str) -> Signature {
        let command = Command::new("blkid").args(["-o", "export", device]);
        let answer = self.programs().ask(&command).await;
        answer
            .map(|ended| parse_blkid(&ended.stdout))
            .unwrap_or_default()
    }
}

fn parse_udev(data: &str) -> Signature {
    let property = |name: &str| {
        let found = data.lines().find_map(|line| {
            line.strip_prefix("E:")?
                .strip_prefix(name)?
                .strip_prefix('=')
        });
        found.filter(|value| !value.is_empty()).map(str::to_owned)
    };
    Signature {
        kind: property("ID_FS_TYPE")
            .or_else(|| Some(format!("{} table", property("ID_PART_TABLE_TYPE")?))),
        label: property("ID_FS_LABEL"),
        serial: property("ID_SERIAL_SHORT").or_else(|| property("ID_SERIAL")),
        table: property("ID_PART_ENTRY_UUID").or_else(|| property("ID_PART_TABLE_UUID")),
    }
}

fn parse_blkid(export: &str) -> Signature {
    let value = |name: &str| {
        let found = export
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        found.filter(|value| !value.is_empty()).map(str::to_owned)
    };
    Signature {
        kind: value("TYPE").or_else(|| Some(format!("{} table", value("PTTYPE")?))),
        label: value("LABEL"),
        serial: None,
        table: value("PARTUUID").or_else(|| value("PTUUID")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn udev_and_blkid_say_the_same() {
        let udev = "S:disk/by-label/nixos\nE:ID_SERIAL=QEMU_HARDDISK_42\nE:ID_SERIAL_SHORT=42\nE:ID_FS_TYPE=ext4\n\
                    E:ID_FS_LABEL=nixos\nE:ID_PART_ENTRY_UUID=ab-cd\nE:ID_PART_TABLE_UUID=ff\n";
        let blkid = "DEVNAME=/dev/vda2\nLABEL=nixos\nUUID=1\nTYPE=ext4\nPARTUUID=ab-cd\n";
        let signature = Signature {
            kind: some("ext4"),
            label: some("nixos"),
            serial: some("42"),
            table: some("ab-cd"),
        };
        assert_eq!(parse_udev(udev), signature);
        assert_eq!(
            parse_blkid(blkid),
            Signature {
                serial: None,
                ..signature
            }
        );
    }

    #[test]
    fn table_without_file_system_is_a_table() {
        assert_eq!(
            parse_udev("E:ID_PART_TABLE_TYPE=gpt\n").kind,
            some("gpt table")
        );
        assert_eq!(parse_blkid("PTTYPE=dos\n").kind, some("dos table"));
        assert_eq!(parse_udev("E:ID_SERIAL=x\n").kind, None);
    }
}
