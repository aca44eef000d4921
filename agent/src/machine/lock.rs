//! One agent per machine: a lock that the kernel lets go of when the process ends, however it ends.

use std::fs::{File, OpenOptions};

use landfall_proto::failure::Failure;
use nix::fcntl::{Flock, FlockArg};

use super::{Machine, broken, files};

/// The lock. Held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Machine {
    /// Whether there is a directory of an agent.
    pub fn has_dir(&self) -> bool {
        self.dir().exists()
    }

    /// Takes the agent's lock, and makes its directory where there is none. None when another agent holds it.
    pub fn lock(&self) -> Result<Option<Lock>, Failure> {
        files::private_directory(self.dir())?;
        let path = self.dir().join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        let file = file.map_err(broken(format!("cannot open {}", path.display())))?;
        Ok(Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .ok()
            .map(|file| Lock { _file: file }))
    }
}
