//! The disks that the configuration names: found on the machine, shown, and agreed to.

use landfall_proto::{
    facts::Disk,
    failure::Failure,
    order::{ConsentedDisk, DiskoMode},
};

use super::Bench;
use crate::{
    check,
    local::nix::Devices,
    request::{Phase, Source},
};

/// Kernel names that say of what kind a disk is, and so stay the same from one kernel to the next.
const KINDS: &[&str] = &["sd", "vd", "xvd", "hd", "nvme", "mmcblk"];

const UNKNOWN: &str =
    "the configuration does not say which disks it uses; continuing because its script does";

impl Bench<'_> {
    /// Finds the disks that the configuration names, and asks about them; none where it cannot be told yet which.
    ///
    /// Looks after the keys that the configuration wants, too: the same evaluation tells of them.
    pub(super) async fn disks(&mut self) -> Result<Option<Vec<ConsentedDisk>>, Failure> {
        if !self.desk.request.phases.has(Phase::Disko) {
            return Ok(None);
        }
        let devices = match (&self.desk.request.source, &self.seen) {
            (Some(Source::Flake(_)), Some((devices, _))) => {
                let devices = devices.clone();
                if devices.is_none() {
                    self.warnings.push(UNKNOWN.to_owned());
                }
                devices
            }
            (Some(Source::Flake(flake)), None) => {
                match self.desk.nix()?.devices(flake, self.cx).await {
                    Ok(devices) => Some(devices),
                    Err(failure) => {
                        self.warnings.push(format!(
                            "{failure}; continuing because the hardware configuration, which is not written yet, may be what it lacks"
                        ));
                        self.check_keys(None).await;
                        return Ok(None);
                    }
                }
            }
            _ => None,
        };
        self.check_keys(devices.as_ref()).await;
        if let Some(devices) = &devices {
            self.check_asked(devices)?;
        }
        let found = self.find_all(&devices.unwrap_or_default())?;
        self.consent(&found).await?;
        Ok(Some(self.as_agreed(found)))
    }

    /// Looks for the disks again, now that everything can be evaluated, and asks only if they are others.
    pub(in crate::phases) async fn disks_again(
        &mut self,
        agreed: Option<&[ConsentedDisk]>,
    ) -> Result<Vec<ConsentedDisk>, Failure> {
        let devices = match &self.seen {
            Some((Some(devices), _)) => devices.clone(),
            _ => {
                self.warnings.push(UNKNOWN.to_owned());
                Devices::default()
            }
        };
        self.check_asked(&devices)?;
        let found = self.find_all(&devices)?;
        if agreed.is_none() {
            self.check_keys(Some(&devices)).await;
        }
        if !agreed.is_some_and(|agreed| same(agreed, &found)) {
            self.consent(&found).await?;
        }
        Ok(self.as_agreed(found))
    }

    /// Returns the disks as they began when somebody agreed, where an earlier command of this run was the one to ask.
    fn as_agreed(&self, found: Vec<ConsentedDisk>) -> Vec<ConsentedDisk> {
        let as_it_began = |disk: ConsentedDisk| match self.desk.past.agreed(&disk) {
            Some(agreed) => ConsentedDisk {
                beginning: agreed.beginning.clone(),
                ..disk
            },
            None => disk,
        };
        found.into_iter().map(as_it_began).collect()
    }

    fn find_all(&mut self, devices: &Devices) -> Result<Vec<ConsentedDisk>, Failure> {
        let mut found = Vec::new();
        for device in &devices.disks {
            match find(&self.facts.disks, device) {
                Some(disk) => found.push(consented(device, disk)),
                None if is_stacked(device) => self.warnings.push(format!(
                    "{device} is no disk of its own and was not looked at; continuing because disko's script looks for it"
                )),
                None if self.facts.installer || is_known(&self.facts.disks, device) => {
                    return Err(self.missing(device));
                }
                None => self.warnings.push(format!(
                    "{device} is not there; continuing because the installer may name the disks otherwise"
                )),
            }
        }
        self.check_twice(&found)?;
        let checks = check::named_disks(self.facts, &self.desk.request, &devices.disks);
        self.warnings.extend(check::warnings(&checks));
        Ok(found)
    }

    fn missing(&self, device: &str) -> Failure {
        let there: Vec<&str> = self
            .facts
            .disks
            .iter()
            .map(|disk| disk.device.as_str())
            .collect();
        let there = match there.is_empty() {
            true => "no disk".to_owned(),
            false => there.join(", "),
        };
        let failure = Failure::new(format!("cannot find disk {device}"))
            .because(format!("the machine has {there}"))
            .hint("correct `disko.devices` in the configuration; names below /dev/disk/by-id stay the same")
            .code("LF0350");
        match self.facts.installer {
            true => failure,
            false => failure.hint(
                "if only the installer sees it, boot that first: `--phases kexec`, then `--phases disko,install,reboot`",
            ),
        }
    }

    /// Refuses a configuration two of whose disks are one.
    fn check_twice(&self, disks: &[ConsentedDisk]) -> Result<(), Failure> {
        for (at, disk) in disks.iter().enumerate() {
            let same = |other: &&ConsentedDisk| {
                let node = |name: &str| find(&self.facts.disks, name).map(|disk| &disk.device);
                node(&other.device) == node(&disk.device)
            };
            if let Some(other) = disks[..at].iter().find(same) {
                return Err(Failure::new("refusing to format the same disk twice")
                    .because(format!("{} and {} are one disk", other.device, disk.device))
                    .hint("correct `disko.devices` in the configuration")
                    .code("LF0351"));
            }
        }
        Ok(())
    }

    /// Shows the disks, and asks, where anything on them will be lost.
    async fn consent(&self, disks: &[ConsentedDisk]) -> Result<(), Failure> {
        let request = &self.desk.request;
        let screen = &self.desk.screen;
        if request.disko_mode == DiskoMode::Mount {
            return Ok(());
        }
        let erased: Vec<String> = match request.disko_mode {
            DiskoMode::Disko => disks.iter().map(|disk| disk.device.clone()).collect(),
            _ => Vec::new(),
        };
        screen.disks(&self.facts.disks, &erased);
        // an earlier command of this run was told yes to these, and its format is not repeated
        let agreed = self.desk.past.has_begun(disks);
        if agreed || request.yes || request.compat || !screen.can_ask() {
            return Ok(());
        }
        let what = match (request.disko_mode, erased.is_empty()) {
            (DiskoMode::Disko, false) => format!("erase {}", erased.join(", ")),
            (DiskoMode::Disko, true) => "erase the disks that the configuration names".to_owned(),
            _ => "format what is not formatted yet".to_owned(),
        };
        let host = &request.target.host;
        if screen.ask(&format!("{what} on {host}?")).await {
            return Ok(());
        }
        Err(Failure::new(format!("refusing to {what}"))
            .because("nobody agreed to it")
            .hint("run the same command again and answer `yes`, or add `--yes`")
            .code("LF0352"))
    }
}

/// Whether these are the same disks, whatever is on them.
fn same(some: &[ConsentedDisk], others: &[ConsentedDisk]) -> bool {
    some.len() == others.len()
        && some
            .iter()
            .zip(others)
            .all(|(one, other)| one.is_same(other))
}

fn find<'a>(disks: &'a [Disk], device: &str) -> Option<&'a Disk> {
    disks.iter().find(|disk| disk.is_called(device))
}

/// Whether a device is made of others: firmware RAID, multipath, a mapping.
fn is_stacked(device: &str) -> bool {
    const STACKED: [&str; 4] = ["/dev/md", "/dev/mapper/", "/dev/dm-", "/dev/bcache"];
    STACKED.iter().any(|stacked| device.starts_with(stacked))
}

/// Whether the old system would show a disk of this name: it has others of the same kind, or of any kind that it could be.
///
/// Links below /dev/disk are made by udev, whose rules change; a disk is not missed for one of those.
fn is_known(disks: &[Disk], device: &str) -> bool {
    let kind = |name: &str| {
        let name = name.strip_prefix("/dev/")?;
        let kind = name.split(|c: char| c.is_ascii_digit()).next()?;
        let matches = |known: &&&str| match name.starts_with(**known) {
            // a letter for each disk, or a number
            true => kind == **known || kind.len() <= known.len() + 2,
            false => false,
        };
        KINDS.iter().find(matches).copied()
    };
    let wanted = kind(device);
    wanted.is_some() && disks.iter().any(|disk| kind(&disk.device) == wanted)
}

fn consented(device: &str, disk: &Disk) -> ConsentedDisk {
    ConsentedDisk {
        device: device.to_owned(),
        size: disk.size,
        serial: disk.serial.clone(),
        beginning: disk.beginning.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disks(names: &[&str]) -> Vec<Disk> {
        let disk = |name: &&str| Disk {
            device: (*name).to_owned(),
            links: vec!["/dev/disk/by-id/virtio-a".to_owned()],
            ..Disk::default()
        };
        names.iter().map(disk).collect()
    }

    #[test]
    fn disk_is_found_by_any_of_its_names() {
        let disks = disks(&["/dev/vda"]);
        for name in ["/dev/vda", "/dev/disk/by-id/virtio-a"] {
            assert_eq!(find(&disks, name).unwrap().device, "/dev/vda");
        }
        assert_eq!(find(&disks, "/dev/vdb"), None);
    }

    #[test]
    fn disk_is_missed_where_its_siblings_are() {
        let here = disks(&["/dev/vda", "/dev/nvme0n1"]);
        for name in ["/dev/vdb", "/dev/vdaa", "/dev/nvme1n1"] {
            assert!(is_known(&here, name), "{name}");
        }
        // another kernel may call a disk sda; a link is udev's, and mdadm's names are whatever people choose
        for name in [
            "/dev/sda",
            "/dev/disk/by-id/x",
            "/dev/md0",
            "/dev/vdisks",
            "sda",
        ] {
            assert!(!is_known(&here, name), "{name}");
        }
    }
}
