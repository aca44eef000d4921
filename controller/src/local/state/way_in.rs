//! The way into an installer that outlives the run that booted it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use landfall_proto::failure::Failure;
use secrecy::zeroize::Zeroizing;

use super::{
    place::{base, folder_of},
    run_folder::RunFolder,
};
use crate::local::file;

/// The way into an installer that a run has left running: its login key, which may be the only one, and its host key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WayIn(PathBuf);

/// Name of the machine in the known_hosts file of its way in.
pub const INSTALLER: &str = "landfall-installer";

impl WayIn {
    /// Returns the way into the installer at this host and port; it may not be there.
    pub fn to(host: &str, port: Option<u16>) -> Result<Self, Failure> {
        Ok(Self::to_in(&base()?, host, port))
    }

    fn to_in(base: &Path, host: &str, port: Option<u16>) -> Self {
        // the port that is not named is the usual one
        let host = match port {
            None | Some(22) => host.to_owned(),
            Some(port) => format!("{host}:{port}"),
        };
        Self(folder_of(base, &host).join("installer"))
    }

    /// Returns the private key.
    pub fn key(&self) -> PathBuf {
        self.0.join("key")
    }

    /// Returns the known_hosts file, in which the machine is called [`INSTALLER`].
    pub fn known_hosts(&self) -> PathBuf {
        self.0.join("known_hosts")
    }

    /// Whether it is there.
    pub fn is_there(&self) -> bool {
        self.key().exists() && self.known_hosts().exists()
    }

    /// Keeps what a run used, for the runs after it.
    pub fn keep(&self, run: &RunFolder) -> Result<(), Failure> {
        if let Some(folder) = self.0.parent() {
            file::private_folder(folder)?;
        }
        file::private_folder(&self.0)?;
        copy_key(&run.known_installer(), &self.known_hosts(), INSTALLER)?;
        let key = file::read(&run.key())?.map(Zeroizing::new);
        file::write_private(&self.key(), &key.unwrap_or_default())
    }

    /// Lets a run take the machine for the one that it was, under this name.
    pub fn pin(&self, run: &RunFolder, alias: &str) -> Result<(), Failure> {
        copy_key(&self.known_hosts(), &run.known_hosts(), alias)
    }

    /// Forgets it: the installer is gone.
    pub fn forget(&self) {
        // a key that cannot be removed opens nothing any more
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Copies the host keys of a known_hosts file, under another name.
fn copy_key(from: &Path, to: &Path, alias: &str) -> Result<(), Failure> {
    let known = file::read(from)?.unwrap_or_default();
    let renamed: String = String::from_utf8_lossy(&known)
        .lines()
        .filter_map(|line| Some(format!("{alias} {}\n", line.split_once(' ')?.1)))
        .collect();
    file::write_private(to, renamed.as_bytes())
}

#[cfg(test)]
mod tests {
    use landfall_proto::order::RunId;

    use super::{super::State, *};

    #[test]
    fn way_in_outlives_the_run_that_made_it() {
        let base = tempfile::tempdir().unwrap();
        let state = State::open_in(base.path(), "h:2222").unwrap();
        let id = RunId::from_bytes([7; 16]);
        let run = state.run(&id);
        file::private_folder(run.path()).unwrap();
        fs::write(run.key(), "secret").unwrap();
        fs::write(run.known_hosts(), "landfall-07 ssh-ed25519 AAAA\n").unwrap();
        let way = WayIn::to_in(base.path(), "h", Some(22));
        assert!(!way.is_there());
        way.keep(&run).unwrap();
        state.end(&id).unwrap();

        let way = WayIn::to_in(base.path(), "h", None);
        assert!(way.is_there());
        assert_eq!(fs::read(way.key()).unwrap(), b"secret");
        way.pin(&run, "landfall-08").unwrap();
        assert_eq!(
            fs::read_to_string(run.known_hosts()).unwrap(),
            "landfall-08 ssh-ed25519 AAAA\n"
        );
        way.forget();
        assert!(!way.is_there());
    }
}
