//! The folder of one run, and what lies in it.

use std::{
    fs,
    io::{self, Seek},
    path::{Path, PathBuf},
};

use engine::journal::{Header, Mark};
use landfall_proto::{
    event::{Event, Kind},
    failure::Failure,
    order::{DiskoMode, RunId},
};
use secrecy::zeroize::Zeroizing;
use serde::{Deserialize, Serialize};

use crate::local::file::{self, cannot};

/// A run that was left to its agent, and what will be found once that is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alone {
    /// Id of the installer's boot.
    pub boot_id: String,
    /// The system that is being installed, where one is.
    pub system: Option<String>,
}

/// Name of the file that says so.
const ALONE: &str = "alone.json";

/// The phases that order something of the agent.
const ORDERS: [&str; 4] = ["kexec", "disko", "install", "reboot"];

/// What the controller's journal of a run says.
#[derive(Debug)]
pub struct Told {
    /// Its first line, where it has one.
    pub header: Option<Header>,
    /// What disko was to do to the disks, where that was prepared.
    pub disko_mode: Option<DiskoMode>,
    /// What happened.
    pub events: Vec<Event>,
}

/// Returns what disko is to do by a proof of `prepare` or `build`.
fn disko_mode(mark: &Mark) -> Option<DiskoMode> {
    let mode = mark.proof.as_ref()?.get("disko")?.get("mode")?;
    serde_json::from_value(mode.clone()).ok()
}

/// The folder of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFolder(PathBuf);

impl RunFolder {
    /// Returns the folder of a run below that of its host.
    pub(in crate::local) fn of(host: &Path, run: &RunId) -> Self {
        Self(host.join("runs").join(run.as_str()))
    }

    /// Returns the folder of what is no run: it is nowhere on record, and whoever made it removes it.
    pub fn passing(path: PathBuf) -> Self {
        Self(path)
    }

    /// Copies what lets this machine in to another folder, as far as it is there.
    pub fn lend(&self, other: &Self) -> Result<(), Failure> {
        let lent = [
            (self.known_hosts(), other.known_hosts()),
            (self.installer_known_hosts(), other.installer_known_hosts()),
            (self.key(), other.key()),
        ];
        for (from, to) in lent {
            if let Some(bytes) = file::read(&from)?.map(Zeroizing::new) {
                file::write_private(&to, &bytes)?;
            }
        }
        Ok(())
    }

    /// Returns the folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns the controller's journal.
    pub fn journal(&self) -> PathBuf {
        self.0.join("journal.jsonl")
    }

    /// Reads the whole lines of the journal, to which somebody may be writing.
    pub fn told(&self) -> Result<Told, Failure> {
        let path = self.journal();
        let bytes = file::read(&path)?.unwrap_or_default();
        let lines = bytes.split_inclusive(|byte| *byte == b'\n');
        let mut lines = lines.filter(|line| line.ends_with(b"\n"));
        let read = || -> serde_json::Result<_> {
            let header = lines.next().map(serde_json::from_slice).transpose()?;
            let marks = lines.map(serde_json::from_slice::<Mark>);
            let marks: Vec<Mark> = marks.collect::<serde_json::Result<_>>()?;
            Ok(Told {
                header,
                disko_mode: marks.iter().rev().find_map(disko_mode),
                events: marks.into_iter().map(|mark| mark.event).collect(),
            })
        };
        read().map_err(|error| cannot("read", &path).caused_by(&error).code("LF0901"))
    }

    /// Whether a phase of this run has begun that orders something of the agent; not where its journal does not say.
    pub fn has_ordered(&self) -> bool {
        let ordered = |event: &Event| {
            let phase = event.step.as_deref().unwrap_or_default();
            matches!(event.kind, Kind::StepStarted { .. }) && ORDERS.contains(&phase)
        };
        self.told()
            .is_ok_and(|told| told.events.iter().any(ordered))
    }

    /// Removes what is of use to the run alone: its keys, and the packed extra files.
    pub(super) fn remove_keys(&self) -> Result<(), Failure> {
        let keys = [
            self.credentials(),
            self.key(),
            self.public_key(),
            self.archive(),
        ];
        keys.iter().try_for_each(|path| file::remove(path))
    }

    /// Returns the known_hosts file with the pinned key.
    pub fn known_hosts(&self) -> PathBuf {
        self.0.join("known_hosts")
    }

    /// Returns the known_hosts file with every key that the installer may show; there once the machine has told them.
    pub fn installer_known_hosts(&self) -> PathBuf {
        self.0.join("installer_known_hosts")
    }

    /// Returns the known_hosts file by which the installer is known.
    pub fn known_installer(&self) -> PathBuf {
        let told = self.installer_known_hosts();
        match told.exists() {
            true => told,
            false => self.known_hosts(),
        }
    }

    /// Forgets the keys that the machine told of.
    pub fn forget_installer(&self) -> Result<(), Failure> {
        file::remove(&self.installer_known_hosts())
    }

    /// Whether the host key has been pinned.
    pub fn has_pin(&self) -> bool {
        self.known_hosts().exists()
    }

    /// Returns the keys of the tunnel.
    pub fn credentials(&self) -> PathBuf {
        self.0.join("credentials.json")
    }

    /// Whether the keys of the tunnel are there: the run is open.
    pub fn credentials_are_kept(&self) -> bool {
        self.credentials().exists()
    }

    /// Returns the private key that logs in to the installer.
    pub fn key(&self) -> PathBuf {
        self.0.join("key")
    }

    /// Returns its public line.
    pub fn public_key(&self) -> PathBuf {
        self.0.join("key.pub")
    }

    /// Returns the packed extra files.
    fn archive(&self) -> PathBuf {
        self.0.join("extra-files.tar")
    }

    /// Keeps the packed extra files until the run ends, and returns where.
    pub fn keep_archive(&self, mut file: fs::File) -> Result<PathBuf, Failure> {
        let path = self.archive();
        let mut kept = file::append_private(&path)?;
        // of a command that was killed meanwhile
        kept.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| io::copy(&mut file, &mut kept))
            .map_err(|error| cannot("write", &path).caused_by(&error))?;
        Ok(path)
    }

    /// Remembers that the run was left to its agent.
    pub fn set_alone(&self, alone: &Alone) -> Result<(), Failure> {
        let bytes = serde_json::to_vec(alone).expect("what is remembered is plain data");
        file::write_private(&self.0.join(ALONE), &bytes)
    }

    /// Returns how the run was left to its agent, if it was.
    pub fn alone(&self) -> Result<Option<Alone>, Failure> {
        let path = self.0.join(ALONE);
        let Some(bytes) = file::read(&path)? else {
            return Ok(None);
        };
        let alone = serde_json::from_slice(&bytes);
        alone
            .map(Some)
            .map_err(|error| cannot("read", &path).caused_by(&error))
    }

    /// Forgets that the run was left to its agent: somebody drives it again.
    pub fn forget_alone(&self) -> Result<(), Failure> {
        file::remove(&self.0.join(ALONE))
    }

    /// Returns the newest command line.
    pub fn words(&self) -> PathBuf {
        self.0.join("words.txt")
    }

    /// Returns the recorded events.
    pub fn events(&self) -> PathBuf {
        self.0.join("events.jsonl")
    }
}
