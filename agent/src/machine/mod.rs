//! The machine: the only room of the agent that reads its files, runs its programs and changes it.
//!
//! It knows nothing of steps or runs. Start with [`Machine`], then [`command`]; `facts` looks, the others act.

#![expect(clippy::disallowed_methods, reason = "this room is the machine")]

use std::path::{Path, PathBuf};

use landfall_proto::failure::Failure;

pub mod archive;
pub mod bootloader;
pub mod bus;
pub mod command;
mod describe;
pub mod detach;
pub mod disks;
pub mod facts;
pub mod files;
pub mod gather;
pub mod here;
pub mod hostkeys;
mod image;
pub mod initrd;
mod inside;
mod jump;
pub mod kexec;
mod keys;
pub mod kmsg;
mod launch;
pub mod lock;
pub mod marker;
pub mod mend;
pub mod mounts;
pub mod nix;
mod owners;
pub mod reboot;
mod record;
pub mod room;
mod routes;
mod script;
mod session;
pub mod signature;
mod spill;
pub mod spool;
pub mod stack;
#[cfg(test)]
pub(crate) mod stage;
mod target;
pub mod timer;

use command::{Programs, Script};

/// Where the new system is put together.
pub const TARGET: &str = "/mnt";

/// The machine the agent runs on.
#[derive(Debug, Clone)]
pub struct Machine {
    root: PathBuf,
    dir: PathBuf,
    programs: Programs,
}

impl Machine {
    /// Returns the machine itself; `dir` is the agent's own directory on it.
    pub fn real(dir: impl Into<PathBuf>) -> Self {
        Self {
            root: PathBuf::from("/"),
            dir: dir.into(),
            programs: Programs::Real,
        }
    }

    /// Returns a machine whose files are below a directory and whose programs are a script.
    pub fn scripted(root: impl Into<PathBuf>, dir: impl Into<PathBuf>, script: Script) -> Self {
        Self {
            root: root.into(),
            dir: dir.into(),
            programs: Programs::Scripted(script),
        }
    }

    /// Returns where a path of the machine is found.
    pub fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Returns the agent's own directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns what runs programs.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Does work that blocks, away from the threads that serve.
    ///
    /// The work cannot be taken back by dropping the future: long work watches a token.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> T {
        let machine = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&machine)).await;
        done.expect("blocking work does not panic and the runtime outlives it")
    }

    fn read(&self, path: &str) -> Option<String> {
        let bytes = std::fs::read(self.at(path)).ok()?;
        Some(
            String::from_utf8_lossy(&bytes)
                .trim_end_matches(['\n', '\0'])
                .to_owned(),
        )
    }

    fn names(&self, path: &str) -> Vec<String> {
        names_in(&self.at(path))
    }
}

/// Returns the names in a directory, sorted; none where it cannot be read.
fn names_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// Turns an error of the operating system into a failure of one layer below its headline.
fn broken(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Failure {
    let what = what.into();
    move |error| Failure::new(what).caused_by(&error).code("LF1206")
}
