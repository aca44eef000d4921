//! Builds, checks and asks everything that can be built, checked and asked before the machine is touched.

use std::path::PathBuf;

use engine::step::{Context, Done, Repeat, Step};
use landfall_proto::{
    facts::{Disk, Facts},
    failure::Failure,
    order::{self, Blob, ConsentedDisk, DiskoMode, Job},
};
use serde::{Deserialize, Serialize};

use crate::{
    desk::Desk,
    local::{archive, image},
    request::{Flake, Image, Phase, Source},
};

/// Builds, checks and asks.
#[derive(Debug)]
pub struct Prepare<'a> {
    /// What all phases share.
    pub desk: &'a Desk,
    /// The machine.
    pub facts: &'a Facts,
}

/// Everything the later phases need. Journaled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// The kexec image; none where an installer runs already or is not asked for.
    pub image: Option<KexecImage>,
    /// The disko script.
    pub disko: Option<order::Disko>,
    /// The system.
    pub system: Option<order::System>,
    /// The packed extra files.
    pub archive: Option<PathBuf>,
    /// Whether the machine is rebooted at the end.
    pub reboot: bool,
}

/// A kexec image on this machine, checked to be whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KexecImage {
    /// The file.
    pub path: PathBuf,
    /// Its hash and size.
    pub blob: Blob,
}

impl Prepared {
    /// Returns the one order for everything that is done from the installer.
    pub fn job(&self) -> Job {
        Job::Install(order::Install {
            keys: Vec::new(),
            disko: self.disko.clone(),
            system: self.system.clone(),
            nix: order::NixSettings::default(),
            reboot: self.reboot,
        })
    }

    /// Returns the packed extra files, where there are any.
    pub fn extra_files(&self) -> Option<(PathBuf, Blob)> {
        let blob = self.system.as_ref()?.extra_files.clone()?;
        Some((self.archive.clone()?, blob))
    }
}

impl Step for Prepare<'_> {
    const NAME: &'static str = "prepare";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = Prepared;

    async fn run(&self, cx: &Context) -> Result<Done<Prepared>, Failure> {
        let phases = &self.desk.request.phases;
        // cheap things first: a wrong path should not be found after a long build
        let (archive, extra_files) = self.extra_files(cx).await?;
        let image = self.image(cx).await?;
        let mut warnings = Vec::new();
        let disko = match phases.has(Phase::Disko) {
            true => Some(self.disko(cx, &mut warnings).await?),
            false => None,
        };
        let system = match phases.has(Phase::Install) {
            true => Some(order::System {
                toplevel: self.build("system.build.toplevel", cx).await?,
                extra_files,
                owners: self.desk.request.owners.clone(),
                host_keys_to: self.desk.request.host_keys_to.clone(),
                check: self.desk.request.check,
            }),
            false => None,
        };
        if let Some(disko) = &disko {
            self.consent(disko).await?;
        }
        let reboot = phases.has(Phase::Reboot);
        let prepared = Prepared {
            image,
            disko,
            system,
            archive,
            reboot,
        };
        Ok(match warnings.is_empty() {
            true => Done::new(prepared),
            false => Done::warned(prepared, warnings.join(" · ")),
        })
    }

    async fn still_true(&self, _: &Prepared) -> bool {
        self.desk.past.rebooted
    }
}

impl Prepare<'_> {
    /// Finds the kexec image, fetches it where it is elsewhere, and checks that it is one.
    async fn image(&self, cx: &Context) -> Result<Option<KexecImage>, Failure> {
        let request = &self.desk.request;
        let needed =
            request.phases.has(Phase::Kexec) && (!self.facts.installer || request.kexec.force);
        if !needed {
            return Ok(None);
        }
        let path = match &request.kexec.image {
            Image::File(path) => path.clone(),
            Image::Url(url) => image::fetch(url, cx).await?,
            Image::Default => {
                let url = Image::stock(&self.facts.arch).ok_or_else(|| {
                    Failure::new(format!("cannot find a kexec image for {}", self.facts.arch))
                        .because("there are stock images for x86_64 and aarch64 only")
                        .hint("name one of your own: `--kexec FILE`")
                        .code("LF0340")
                })?;
                image::fetch(&url, cx).await?
            }
        };
        cx.waiting("the kexec image to be checked");
        let image = image::check(&path).await?;
        // the image in the spool, unpacked, and the same again in the kernel's hands
        let needed = image.blob.size + 2 * (image.unpacked.kernel + image.unpacked.initrd);
        if self.facts.memory_available < needed {
            return Err(Failure::new("cannot boot the installer from memory")
                .because(format!(
                    "the image needs {} MiB to be loaded, and {} MiB are free",
                    needed >> 20,
                    self.facts.memory_available >> 20
                ))
                .hint("stop what uses memory on the machine, or boot an installer from a medium")
                .code("LF0341"));
        }
        Ok(Some(KexecImage {
            path: image.path,
            blob: image.blob,
        }))
    }

    async fn extra_files(&self, cx: &Context) -> Result<(Option<PathBuf>, Option<Blob>), Failure> {
        let request = &self.desk.request;
        let Some(directory) = &request.extra_files else {
            return Ok((None, None));
        };
        cx.waiting("the extra files to be packed");
        let packed = archive::pack(directory).await?;
        let path = self.desk.folder.keep_archive(packed.file)?;
        Ok((Some(path), Some(packed.blob)))
    }

    async fn disko(
        &self,
        cx: &Context,
        warnings: &mut Vec<String>,
    ) -> Result<order::Disko, Failure> {
        let mode = self.desk.request.disko_mode;
        let attribute = match mode {
            DiskoMode::Disko => "system.build.diskoScript",
            DiskoMode::Format => "system.build.formatScript",
            DiskoMode::Mount => "system.build.mountScript",
        };
        let script = self.build(attribute, cx).await?;
        let disks = match &self.desk.request.source {
            Some(Source::Flake(flake)) => self.disks(flake, cx, warnings).await?,
            _ => Vec::new(),
        };
        Ok(order::Disko {
            script,
            mode,
            disks,
        })
    }

    /// Builds one of the two things that are built, or finds it where it has been built already.
    async fn build(&self, attribute: &str, cx: &Context) -> Result<order::StorePath, Failure> {
        let nix = self.desk.nix()?;
        match &self.desk.request.source {
            Some(Source::Flake(flake)) => nix.build(flake, attribute, cx).await,
            Some(Source::StorePaths { disko, system }) => {
                let path = if attribute.ends_with("toplevel") {
                    system
                } else {
                    disko
                };
                nix.check_path(path).await
            }
            None => Err(Failure::new("cannot tell what to install")),
        }
    }

    /// Finds the disks that the configuration names on the machine.
    async fn disks(
        &self,
        flake: &Flake,
        cx: &Context,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<ConsentedDisk>, Failure> {
        let devices = "devices: builtins.attrValues (builtins.mapAttrs (name: disk: disk.device) devices.disk)";
        let named = self
            .desk
            .nix()?
            .eval_json(flake, "disko.devices", Some(devices), cx)
            .await;
        let Ok(named) = named.map(serde_json::from_value::<Vec<String>>) else {
            warnings.push(
                "the configuration does not say which disks it uses; continuing because its script does".to_owned(),
            );
            return Ok(Vec::new());
        };
        let named = named.map_err(|error| {
            Failure::new("cannot read disko.devices")
                .because("parsing the disks' devices")
                .caused_by(&error)
        })?;
        let mut found = Vec::new();
        for device in named {
            match find(&self.facts.disks, &device) {
                Some(disk) => found.push(consented(&device, disk)),
                None if self.facts.installer => return Err(self.missing(&device)),
                None => warnings.push(format!(
                    "{device} is not there; continuing because the installer may name the disks otherwise"
                )),
            }
        }
        self.check_twice(&found)?;
        Ok(found)
    }

    fn missing(&self, device: &str) -> Failure {
        let there: Vec<&str> = self
            .facts
            .disks
            .iter()
            .map(|disk| disk.device.as_str())
            .collect();
        Failure::new(format!("cannot find disk {device}"))
            .because(format!("the machine has {}", there.join(", ")))
            .hint("correct `disko.devices` in the configuration; names below /dev/disk/by-id stay the same")
            .code("LF0350")
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
    async fn consent(&self, disko: &order::Disko) -> Result<(), Failure> {
        let screen = &self.desk.screen;
        if disko.mode == DiskoMode::Mount {
            return Ok(());
        }
        let erased: Vec<String> = match disko.mode {
            DiskoMode::Disko => disko.disks.iter().map(|disk| disk.device.clone()).collect(),
            _ => Vec::new(),
        };
        screen.disks(&self.facts.disks, &erased);
        if self.desk.request.yes || !screen.can_ask() {
            return Ok(());
        }
        let what = match (disko.mode, erased.is_empty()) {
            (DiskoMode::Disko, false) => format!("erase {}", erased.join(", ")),
            (DiskoMode::Disko, true) => "erase the disks that the configuration names".to_owned(),
            _ => "format what is not formatted yet".to_owned(),
        };
        let host = &self.desk.request.target.host;
        if screen.ask(&format!("{what} on {host}?")).await {
            return Ok(());
        }
        Err(Failure::new(format!("refusing to {what}"))
            .because("nobody agreed to it")
            .hint("run the same command again and answer `yes`, or add `--yes`")
            .code("LF0352"))
    }
}

fn find<'a>(disks: &'a [Disk], device: &str) -> Option<&'a Disk> {
    disks
        .iter()
        .find(|disk| disk.device == device || disk.links.iter().any(|link| link == device))
}

fn consented(device: &str, disk: &Disk) -> ConsentedDisk {
    ConsentedDisk {
        device: device.to_owned(),
        size: disk.size,
        serial: disk.serial.clone(),
    }
}
