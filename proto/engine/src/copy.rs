//! A copy of a journal in a second place, which survives what its first place does not: a journal in memory is gone with the
//! power.
//!
//! It is whole in each of its states, and best effort: a place that is full, read-only or gone never fails the run whose
//! journal is copied. What it lacks then comes with the next mark. Nothing ever takes a run up from a copy; it is looked
//! at, with [`journal::read`](crate::journal::read).

#![expect(
    clippy::disallowed_methods,
    reason = "the journal is the one file the engine may touch, and this is its copy"
)]

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Where a journal is copied to.
#[derive(Debug)]
pub(crate) struct Copy(PathBuf);

impl Copy {
    pub(crate) fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Puts all lines in the place of those that are there, so that a power cut leaves the old ones or the new ones.
    pub(crate) fn write(&self, lines: &[u8]) -> io::Result<()> {
        let beside = self.0.with_extension("new");
        let _ = fs::remove_file(&beside);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)?;
        let written = file.write_all(lines).and_then(|()| file.sync_all());
        if written.is_err() {
            // half of it takes room that the run may need
            let _ = fs::remove_file(&beside);
        }
        written?;
        fs::rename(&beside, &self.0)?;
        match self.0.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }

    /// Removes it, and its folder where nothing else is in it.
    pub(crate) fn remove(&self) -> io::Result<()> {
        fs::remove_file(&self.0)?;
        if let Some(folder) = self.0.parent() {
            // somebody else's things stay
            let _ = fs::remove_dir(folder);
        }
        Ok(())
    }
}
