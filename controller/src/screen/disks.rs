//! The machine and its disks as people compare them with what they expect.

use landfall_proto::facts::{Disk, Facts, Firmware};

use super::text;
use crate::exit::printable;

/// Returns a line about the machine: system, processor, firmware, memory, disks.
pub fn machine_line(facts: &Facts) -> String {
    let firmware = match facts.firmware {
        Firmware::Uefi => "UEFI",
        Firmware::Bios => "BIOS",
    };
    let system = if facts.os_name.is_empty() {
        "an unknown system"
    } else {
        &facts.os_name
    };
    let disks = match facts.disks.len() {
        1 => "1 disk".to_owned(),
        count => format!("{count} disks"),
    };
    let memory = text::size(facts.memory_total);
    printable(&format!(
        "{system}, {}, {firmware}, {memory} of memory, {disks}",
        facts.arch
    ))
    .replace('\n', " ")
}

/// Returns a table of disks: device, size, model, serial number, contents. Devices in `erased`, by any of their names,
/// are marked.
pub fn disks_table(disks: &[Disk], erased: &[String]) -> Vec<String> {
    let head = ["", "device", "size", "model", "serial", "contents"]
        .map(str::to_owned)
        .to_vec();
    let mut rows = vec![head];
    rows.extend(disks.iter().map(|disk| {
        let is_erased = erased
            .iter()
            .any(|name| disk.device == *name || disk.links.contains(name));
        let word = |word: &Option<String>| match word.as_deref().map(str::trim) {
            Some(word) if !word.is_empty() => cell(word),
            _ => "-".to_owned(),
        };
        vec![
            if is_erased { "ERASE" } else { "" }.to_owned(),
            cell(&disk.device),
            text::size(disk.size),
            word(&disk.model),
            word(&disk.serial),
            contents(disk),
        ]
    }));
    if rows.iter().all(|row| row[0].is_empty()) {
        for row in &mut rows {
            row.remove(0);
        }
    }
    text::columns(&rows)
}

fn contents(disk: &Disk) -> String {
    let parts = disk.parts.iter().map(|part| {
        let mut words = vec![part.kind.as_deref().unwrap_or("unknown").to_owned()];
        words.extend(part.label.as_ref().map(|label| format!("\"{label}\"")));
        words.push(text::size(part.size));
        words.extend(part.mounted.iter().map(|at| format!("on {at}")));
        words.extend(
            part.holders
                .iter()
                .map(|holder| format!("used by {holder}")),
        );
        words.join(" ")
    });
    let mut parts: Vec<String> = parts.collect();
    if disk.read_only {
        parts.push("read-only".to_owned());
    }
    if parts.is_empty() {
        "empty".to_owned()
    } else {
        cell(&parts.join(", "))
    }
}

fn cell(text: &str) -> String {
    printable(text).replace(['\n', '\t'], " ")
}

#[cfg(test)]
mod tests {
    use landfall_proto::facts::Part;

    use super::*;

    fn disks() -> Vec<Disk> {
        let part = Part {
            device: "/dev/vda1".into(),
            size: 8_588_886_016,
            kind: Some("ext4".into()),
            label: Some("root".into()),
            mounted: vec!["/".into()],
            holders: vec![],
        };
        let used = Disk {
            device: "/dev/vda".into(),
            links: vec!["/dev/disk/by-id/virtio-A".into()],
            size: 8_589_934_592,
            serial: Some("A".into()),
            parts: vec![part],
            ..Disk::default()
        };
        let empty = Disk {
            device: "/dev/sdb".into(),
            size: 2_000_398_934_016,
            model: Some("Evil\x1b[2J 2TB ".into()),
            ..Disk::default()
        };
        vec![used, empty]
    }

    #[test]
    fn disks_that_will_be_erased_are_marked_by_any_name() {
        assert_eq!(
            disks_table(&disks(), &["/dev/disk/by-id/virtio-A".to_owned()]),
            [
                "       device    size     model         serial  contents",
                "ERASE  /dev/vda  8.59 GB  -             A       ext4 \"root\" 8.59 GB on /",
                "       /dev/sdb  2.00 TB  Evil\u{fffd}[2J 2TB  -       empty",
            ]
        );
    }

    #[test]
    fn table_without_marks_has_no_column_for_them() {
        assert!(disks_table(&disks(), &[])[0].starts_with("device"));
    }

    #[test]
    fn machine_is_told_in_a_line() {
        let facts = Facts {
            os_name: "Debian GNU/Linux 12 (bookworm)".into(),
            arch: "x86_64".into(),
            memory_total: 4_102_344_704,
            disks: disks(),
            ..Facts::default()
        };
        assert_eq!(
            machine_line(&facts),
            "Debian GNU/Linux 12 (bookworm), x86_64, BIOS, 4.10 GB of memory, 2 disks"
        );
    }
}
