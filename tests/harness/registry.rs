//! Where machines live: one folder each, under this user's state directory.
//!
//! A folder that exists is a machine, with or without power. Who holds its lock keeps it; a test's
//! machine without a keeper is litter, and is swept.

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::machine::spec::{Begin, Boot, Parts, Spec};

/// A unix socket's path ends here, and the machine's sockets are in its folder.
const LONGEST_SOCKET_PATH: usize = 107;
const LONGEST_SOCKET_NAME: &str = "/identity.sock";

/// What is remembered of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub name: String,
    /// As it was ordered.
    pub spec: Spec,
    /// What it is made of.
    pub parts: Parts,
    /// What the next power-on boots.
    pub boot: Boot,
    /// How it begins, the next time.
    #[serde(default)]
    pub begin: Begin,
    /// The operator's port, once it had one.
    pub port: Option<u16>,
    /// Belongs to a test and ends with it.
    pub ephemeral: bool,
}

/// The folder of all machines: `$XDG_STATE_HOME/landfall-rig/machines`.
pub fn home() -> Result<PathBuf> {
    let state = match env::var_os("XDG_STATE_HOME").filter(|path| Path::new(path).is_absolute()) {
        Some(path) => PathBuf::from(path),
        None => env::home_dir()
            .context("finding the home directory")?
            .join(".local/state"),
    };
    Ok(state.join("landfall-rig/machines"))
}

/// The folder of one machine, whether it exists or not.
pub fn folder(name: &str) -> Result<PathBuf> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    ensure!(
        !name.is_empty() && name.len() <= 32 && name.chars().all(plain),
        "machine names have 1 to 32 of a-z, 0-9 and -; got {name:?}"
    );
    let folder = home()?.join(name);
    ensure!(
        folder.as_os_str().len() + LONGEST_SOCKET_NAME.len() <= LONGEST_SOCKET_PATH,
        "{} is too long for a socket path; set XDG_STATE_HOME to a shorter one",
        folder.display()
    );
    Ok(folder)
}

/// The folder of a machine that exists.
pub fn find(name: &str) -> Result<PathBuf> {
    let folder = folder(name)?;
    if folder.join("machine.json").exists() {
        return Ok(folder);
    }
    let names: Vec<String> = list()?.into_iter().map(|record| record.name).collect();
    match names.as_slice() {
        [] => bail!("there is no machine {name}, nor any other; start one with `cargo rig up`"),
        names => bail!("there is no machine {name}; there is {}", names.join(", ")),
    }
}

/// All machines, by name.
pub fn list() -> Result<Vec<Record>> {
    let home = home()?;
    let entries = match fs::read_dir(&home) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", home.display())),
    };
    let mut records = Vec::new();
    for entry in entries {
        let folder = entry?.path();
        match Record::load(&folder) {
            Ok(record) if record.ephemeral && !is_kept(&folder) => remove(&folder)?,
            Ok(record) => records.push(record),
            // a folder without a record is one that is being made, or removed
            Err(_) => {}
        }
    }
    records.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(records)
}

/// Removes a machine with its disks. Nobody may be keeping it.
pub fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", folder.display()))
        }
        _ => Ok(()),
    }
}

impl Record {
    /// Reads the record of the machine in `folder`.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join("machine.json");
        let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("parsing {}", path.display()))
    }

    /// Writes the record; a reader sees the old or the new one, never half of one.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let (path, draft) = (folder.join("machine.json"), folder.join("machine.json.new"));
        fs::write(&draft, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("writing {}", draft.display()))?;
        fs::rename(&draft, &path).with_context(|| format!("writing {}", path.display()))
    }
}

/// Being the keeper of a machine. Ends with the process at the latest.
#[derive(Debug)]
pub struct Keeping(#[expect(dead_code, reason = "held, not used")] Flock<File>);

impl Keeping {
    /// Becomes the keeper; refuses while there is another.
    pub fn begin(folder: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(lock(folder))
            .with_context(|| format!("opening {}", lock(folder).display()))?;
        let Ok(mut locked) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
            bail!("{} has a keeper already", folder.display());
        };
        locked.set_len(0)?;
        writeln!(locked, "{}", process::id())?;
        Ok(Self(locked))
    }
}

/// Whether somebody keeps the machine in `folder`.
#[must_use]
pub fn is_kept(folder: &Path) -> bool {
    File::open(lock(folder)).is_ok_and(|file| {
        // shared: two who ask at once do not take each other for the keeper
        Flock::lock(file, FlockArg::LockSharedNonblock).is_err()
    })
}

/// The process that keeps the machine in `folder`.
#[must_use]
pub fn keeper(folder: &Path) -> Option<i32> {
    is_kept(folder)
        .then(|| fs::read_to_string(lock(folder)).ok()?.trim().parse().ok())
        .flatten()
}

fn lock(folder: &Path) -> PathBuf {
    folder.join("keeper.lock")
}
