//! What one can ask the keeper of a machine, and what it answers: one JSON line each way.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{
    qemu::Off,
    spec::{Boot, Spec},
};
use crate::link::{Change, Conditions};

/// A keeper that is busy starting an emulator answers within this; seen: 1.2 s on a busy host.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request to the keeper.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Ask {
    /// Nothing but the status.
    Status,
    /// Power on; without a choice, what the machine itself would boot.
    Boot {
        /// What to boot.
        boot: Option<Boot>,
    },
    /// Pull the plug.
    PowerCut,
    /// Write memory and devices to files in its folder, and end it.
    Save,
    /// Do something to the line.
    Link {
        /// What to do.
        change: Change,
    },
    /// End the emulator and the keeping. The disks stay.
    Stop,
}

/// The keeper's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Done; this is how things stand now.
    Ok(Box<Status>),
    /// Not done, and why.
    Refused(String),
}

/// How things stand with a machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// Whether it has power.
    pub running: bool,
    /// Why it has none.
    pub off: Option<Off>,
    /// What it booted last.
    pub boot: Boot,
    /// How often it has been given power or was reset, since it is kept.
    pub boots: u32,
    /// Seconds since it last got power.
    pub up_seconds: u64,
    /// Where to log in.
    pub ssh_host: String,
    /// The operator's end of the line.
    pub ssh_port: u16,
    /// The private key that opens it.
    pub key: PathBuf,
    /// Everything its serial console said, over all boots.
    pub serial_log: PathBuf,
    /// The emulator's process.
    pub pid: Option<u32>,
    /// What the line is like.
    pub link: Conditions,
    /// Bytes that the line has delivered to it.
    #[serde(default)]
    pub sent: u64,
    /// As it was ordered.
    pub spec: Spec,
    /// Belongs to a test and ends with it.
    pub ephemeral: bool,
}

/// Asks the keeper of the machine in `folder`.
pub fn ask(folder: &Path, what: &Ask) -> Result<Status> {
    let path = socket(folder);
    let mut stream =
        UnixStream::connect(&path).with_context(|| format!("connecting to {}", path.display()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut question = serde_json::to_vec(what)?;
    question.push(b'\n');
    stream
        .write_all(&question)
        .context("asking the machine's keeper")?;
    let mut answer = String::new();
    BufReader::new(stream)
        .read_line(&mut answer)
        .context("waiting for the machine's keeper")?;
    match serde_json::from_str(&answer).context("reading the keeper's answer")? {
        Answer::Ok(status) => Ok(*status),
        Answer::Refused(why) => bail!("{why}"),
    }
}

/// Where the keeper listens.
#[must_use]
pub fn socket(folder: &Path) -> PathBuf {
    folder.join("control.sock")
}
