//! What is remembered about a host between two commands, and the lock that keeps two of them apart.
//!
//! ```text
//! $XDG_STATE_HOME/landfall/<host>/        only ours
//!   lock                                  held while a command drives the host
//!   run.json                              which run is open, and the command line that asked for it
//!   installer/key, known_hosts            the way into an installer that a run has left running
//!   runs/<run id>/journal.jsonl           what the controller did
//!                 known_hosts             the host key, pinned
//!                 installer_known_hosts   the same, and the machine's other keys: one of them the installer shows
//!                 credentials.json        keys of the tunnel, gone with the run
//!                 key, key.pub            login to the installer, gone with the run
//!                 extra-files.tar         what is to be put on the system, gone with the run
//!                 alone.json              that the agent was left alone, until somebody drives again
//!                 events.jsonl            what was shown
//!                 words.txt               the newest command line, without secrets
//!                 bundle-<time>.tar.gz    what explains a failure; of a host the newest five
//! ```
//!
//! A run that begins while another one is open takes its place once it has ordered something; until then both are on record,
//! since the other one may be at work on the machine.

mod open;
mod place;
mod run_folder;
mod sockets;
mod way_in;

use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
};

use landfall_proto::{failure::Failure, order::RunId};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

pub use self::{
    open::OpenRun,
    run_folder::{Alone, RunFolder},
    sockets::{SocketFolder, socket_folder},
    way_in::{INSTALLER, WayIn},
};
pub(super) use self::{
    open::runs,
    place::{base, folder_of},
};
use super::file::{self, cannot};

/// What is remembered about one host. Holds the host's lock.
#[derive(Debug)]
pub struct State {
    folder: PathBuf,
    _lock: Flock<fs::File>,
}

impl State {
    /// Opens what is remembered about a host (`host` or `host:port`), and keeps every other command off it.
    pub fn open(host: &str) -> Result<Self, Failure> {
        Self::open_in(&base()?, host)
    }

    pub(super) fn open_in(base: &Path, host: &str) -> Result<Self, Failure> {
        let folder = folder_of(base, host);
        file::private_folder(&folder)?;
        let lock = lock(&folder.join("lock"), host)?;
        Ok(Self {
            folder,
            _lock: lock,
        })
    }

    /// Returns the runs that are open, the newest first: two where the newer one has ordered nothing yet.
    pub fn open_runs(&self) -> Result<Vec<OpenRun>, Failure> {
        open::runs(&self.folder)
    }

    /// Remembers a run as the open one, with the one before it that it names, and makes its folder.
    ///
    /// The keys of every other run that was open are removed.
    pub fn begin(&self, open: &OpenRun) -> Result<RunFolder, Failure> {
        let run = self.run(&open.run);
        file::private_folder(run.path())?;
        let left = open::names(&self.folder)?;
        let kept = open.names();
        // first: nothing leads to them any more once their run is no longer named
        for run in left.iter().filter(|run| !kept.contains(run)) {
            self.run(run).remove_keys()?;
        }
        open::write(&self.folder, open)?;
        Ok(run)
    }

    /// Forgets that a run is open, and the keys of all that were. What they did stays on record.
    pub fn end(&self, run: &RunId) -> Result<(), Failure> {
        let left = open::names(&self.folder)?;
        open::remove(&self.folder)?;
        let removed = left.iter().chain([run]);
        let removed = removed.map(|run| self.run(run).remove_keys());
        // what cannot be removed of one keeps nothing of another
        removed.collect::<Vec<_>>().into_iter().collect()
    }

    /// Returns the folder of a run.
    pub fn run(&self, run: &RunId) -> RunFolder {
        RunFolder::of(&self.folder, run)
    }

    /// Returns the host's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

fn lock(path: &Path, host: &str) -> Result<Flock<fs::File>, Failure> {
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path);
    let file = file.map_err(|error| cannot("open", path).caused_by(&error))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            // who holds it, for the message of whoever comes second; it may stay unsaid
            let _ = lock
                .set_len(0)
                .and_then(|()| write!(lock, "{}", std::process::id()));
            Ok(lock)
        }
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            let who = match holder.trim() {
                "" => "another landfall".to_owned(),
                pid => format!("another landfall (process {pid})"),
            };
            Err(Failure::new(format!("refusing to drive {host} twice"))
                .because(format!("{who} is at work on it from this machine"))
                .hint("wait for it to end, or stop it with ctrl-c where it runs")
                .code("LF0401"))
        }
        Err((_, error)) => Err(cannot("lock", path).caused_by(&error)),
    }
}

#[cfg(test)]
mod tests {
    use engine::journal::Header;

    use super::*;

    fn open_run(byte: u8) -> OpenRun {
        OpenRun {
            run: RunId::from_bytes([byte; 16]),
            order: "x".into(),
            began: 1,
            said: None,
            before: None,
        }
    }

    #[test]
    fn second_command_for_the_same_host_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let first = State::open_in(base.path(), "h").unwrap();
        let refused = State::open_in(base.path(), "h").unwrap_err();
        assert_eq!(refused.what, "refusing to drive h twice");
        assert!(
            refused.causes[0].contains(&std::process::id().to_string()),
            "{refused:?}"
        );
        State::open_in(base.path(), "other").unwrap();
        drop(first);
        State::open_in(base.path(), "h").unwrap();
    }

    #[test]
    fn open_run_is_remembered_until_it_ends() {
        let base = tempfile::tempdir().unwrap();
        let state = State::open_in(base.path(), "h").unwrap();
        assert_eq!(state.open_runs().unwrap(), []);
        let folder = state.begin(&open_run(7)).unwrap();
        fs::write(folder.key(), "secret").unwrap();
        assert_eq!(state.open_runs().unwrap(), [open_run(7)]);
        state.end(&open_run(7).run).unwrap();
        assert_eq!(state.open_runs().unwrap(), []);
        assert!(!folder.key().exists() && folder.path().exists());
    }

    #[test]
    fn run_stays_open_until_the_one_that_takes_its_place_has_ordered_something() {
        let base = tempfile::tempdir().unwrap();
        let state = State::open_in(base.path(), "h").unwrap();
        let old = open_run(7);
        let folder = state.begin(&old).unwrap();
        fs::write(folder.key(), "secret").unwrap();

        let new = OpenRun {
            before: Some(Box::new(old.clone())),
            ..open_run(8)
        };
        let taking = state.begin(&new).unwrap();
        assert_eq!(state.open_runs().unwrap(), [new.clone(), old.clone()]);
        // it was refused: the other one is taken up as it was
        state.begin(&old).unwrap();
        assert_eq!(state.open_runs().unwrap(), std::slice::from_ref(&old));
        assert!(folder.key().exists());

        state.begin(&new).unwrap();
        let header = Header::new(new.run.clone(), &["connect"], "x".into(), 1);
        let header = serde_json::to_string(&header).unwrap();
        let ordered =
            r#"{"event":{"index":0,"at_ms":0,"step":"disko","kind":"step_started","attempt":1}}"#;
        fs::write(taking.journal(), format!("{header}\n{ordered}\n")).unwrap();
        let alone = open_run(8);
        assert_eq!(state.open_runs().unwrap(), std::slice::from_ref(&alone));
        assert!(folder.key().exists());
        state.begin(&alone).unwrap();
        assert!(!folder.key().exists());
    }
}
