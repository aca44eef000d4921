//! Finds, evaluates, builds, checks and asks everything that can be before the machine is touched.
//!
//! What it takes to get from a configuration to something that can be ordered is in [`outputs`], which disks and keys that
//! is about in [`disks`] and [`keys`]. What a hardware configuration has to be written for first is left to phase `build`.

mod disks;
mod image;
mod keys;
pub(super) mod outputs;

use std::path::PathBuf;

use engine::step::{Context, Done, Repeat, Step};
use landfall_proto::{
    facts::Facts,
    failure::Failure,
    order::{self, Blob, ConsentedDisk, Job, KeyPath, NixSettings},
};
use serde::{Deserialize, Serialize};

pub use self::image::KexecImage;
use self::outputs::Outputs;
use crate::{
    desk::{Desk, Reached},
    local::{
        archive, hardware,
        nix::{Devices, Origin},
    },
    request::{Phase, Request, Source},
};

/// Finds, evaluates, builds, checks and asks.
#[derive(Debug)]
pub struct Prepare<'a> {
    /// What all phases share.
    pub desk: &'a Desk,
    /// The machine.
    pub facts: &'a Facts,
    /// The machine as it was found.
    pub machine: &'a Reached,
}

/// Everything the later phases need. Journaled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// The kexec image; none where an installer runs already or is not asked for.
    pub image: Option<KexecImage>,
    /// Where the keys for disko go. The keys themselves are on the desk.
    pub keys: Vec<KeyPath>,
    /// The disks that somebody agreed to; none where the configuration does not say yet which they are.
    pub disks: Option<Vec<ConsentedDisk>>,
    /// The disko script; none as long as it cannot be evaluated.
    pub disko: Option<order::Disko>,
    /// Where that comes from.
    pub disko_origin: Origin,
    /// Where the script that mounts comes from, which the order names too; none where nothing was formatted before.
    #[serde(default)]
    pub again_origin: Option<Origin>,
    /// The system; none as long as it cannot be evaluated.
    pub system: Option<order::System>,
    /// Where that comes from.
    pub system_origin: Origin,
    /// The packed extra files.
    pub archive: Option<Archive>,
    /// Where the installer's nix may fetch from.
    pub nix: NixSettings,
    /// Whether the machine is rebooted at the end.
    pub reboot: bool,
    /// Whether the journal stays on the installed system.
    #[serde(default)]
    pub keep_journal: bool,
}

/// Packed extra files, kept with the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archive {
    /// The file.
    pub path: PathBuf,
    /// Its hash and size.
    pub blob: Blob,
}

/// What it takes to prepare: used by phase `build` too, which does the rest of the same work.
#[derive(Debug)]
pub(super) struct Bench<'a> {
    pub(super) desk: &'a Desk,
    pub(super) facts: &'a Facts,
    pub(super) cx: &'a Context,
    /// Whether the machine runs the installer that this run booted.
    pub(super) booted_by_us: bool,
    /// Whether an earlier boot of the machine may have formatted for this run: the disks are followed, not formatted.
    pub(super) follows: bool,
    /// What should be known, a sentence each.
    pub(super) warnings: Vec<String>,
    /// What the configuration says of disks and caches, once it was evaluated.
    seen: Option<(Option<Devices>, Option<NixSettings>)>,
}

impl Prepared {
    /// Returns the one order for everything that is done from the installer.
    pub fn job(&self) -> Job {
        Job::Install(order::Install {
            keys: self.keys.clone(),
            disko: self.disko.clone(),
            system: self.system.clone(),
            nix: self.nix.clone(),
            reboot: self.reboot,
            keep_journal: self.keep_journal,
        })
    }

    /// Takes in what is to be installed.
    pub(super) fn set(&mut self, request: &Request, outputs: Outputs) {
        if let Some((script, origin)) = outputs.disko {
            self.disko_origin = origin;
            let again = outputs.again.unzip();
            self.again_origin = again.1;
            self.disko = Some(order::Disko {
                script,
                mode: request.disko_mode,
                disks: self.disks.clone().unwrap_or_default(),
                again: again.0,
            });
        }
        if let Some((toplevel, origin)) = outputs.system {
            self.system_origin = origin;
            self.system = Some(order::System {
                toplevel,
                extra_files: self.archive.as_ref().map(|archive| archive.blob.clone()),
                owners: request.owners.clone(),
                host_keys_to: request.host_keys_to.clone(),
                check: request.check,
                boot_check: request.boot_check,
            });
        }
    }
}

/// Whether the build has to wait for a file that describes the machine's hardware.
pub fn builds_later(request: &Request) -> bool {
    let builds = request.phases.has(Phase::Disko) || request.phases.has(Phase::Install);
    builds && request.hardware.is_some() && matches!(request.source, Some(Source::Flake(_)))
}

impl Step for Prepare<'_> {
    const NAME: &'static str = "prepare";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = Prepared;

    async fn run(&self, cx: &Context) -> Result<Done<Prepared>, Failure> {
        let request = &self.desk.request;
        let mut bench = Bench::new(self.desk, self.facts, cx);
        bench.booted_by_us = self.machine.kexec_marker == self.desk.run.as_str();
        bench.follows = self.desk.follows(self.machine, self.facts);
        // cheap things first: a wrong path should not be found after a long build
        if let Some(hardware) = &request.hardware {
            hardware::check(&hardware.path)?;
        }
        let keys = bench.read_keys().await?;
        let archive = bench.archive().await?;
        let later = builds_later(request);
        let evaluated = match later {
            true => bench.look_ahead().await.map(|()| None),
            false => bench.evaluate().await.map(Some),
        }?;
        // a person is asked before the long work, and may leave then
        let disks = bench.disks().await?;
        let nix = match later {
            true => NixSettings::default(),
            false => bench.caches(),
        };
        let image = bench.image().await?;
        let mut prepared = Prepared {
            image,
            keys,
            disks,
            disko: None,
            disko_origin: Origin::Copied,
            again_origin: None,
            system: None,
            system_origin: Origin::Copied,
            archive,
            nix,
            reboot: request.phases.has(Phase::Reboot),
            keep_journal: request.keep_journal,
        };
        if let Some(evaluated) = evaluated {
            prepared.set(request, bench.build(evaluated).await?);
        }
        Ok(bench.done(prepared))
    }

    async fn still_true(&self, _: &Prepared) -> bool {
        // keys are not kept anywhere: a new process reads them anew, as long as they are needed
        self.desk.past.is_done
    }
}

impl<'a> Bench<'a> {
    pub(super) fn new(desk: &'a Desk, facts: &'a Facts, cx: &'a Context) -> Self {
        Self {
            desk,
            facts,
            cx,
            booted_by_us: false,
            follows: false,
            warnings: Vec::new(),
            seen: None,
        }
    }

    /// Ends the step, with what was found worth knowing.
    pub(super) fn done(self, prepared: Prepared) -> Done<Prepared> {
        match self.warnings.is_empty() {
            true => Done::new(prepared),
            false => Done::warned(prepared, self.warnings.join(" · ")),
        }
    }

    /// Packs the extra files.
    async fn archive(&self) -> Result<Option<Archive>, Failure> {
        let request = &self.desk.request;
        let Some(directory) = &request.extra_files else {
            return Ok(None);
        };
        if !request.phases.has(Phase::Install) {
            return Ok(None);
        }
        self.cx.waiting("the extra files to be packed");
        let packed = archive::pack(directory).await?;
        let path = self.desk.folder.keep_archive(packed.file)?;
        let blob = packed.blob;
        Ok(Some(Archive { path, blob }))
    }
}
