//! A command line that is kept, for whoever goes on with its run.

use std::{ffi::OsString, path::PathBuf};

use landfall_proto::failure::Failure;
use serde::{Deserialize, Serialize};

/// A command line, to be read again. No secret is ever in one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// Its words, the name of the program first.
    pub words: Vec<String>,
    /// Where it was given.
    pub directory: PathBuf,
}

impl Said {
    /// Keeps a command line, if it is text, and where it was given.
    pub fn of(words: &[OsString]) -> Option<Self> {
        let words = words.iter().map(|word| word.to_str().map(str::to_owned));
        Some(Self {
            words: words.collect::<Option<_>>()?,
            directory: std::env::current_dir().ok()?,
        })
    }

    /// Goes to where the words were said, to which the paths among them are relative, and returns them.
    ///
    /// To be called before there are threads: they all have the one directory.
    pub fn recall(&self) -> Result<Vec<OsString>, Failure> {
        std::env::set_current_dir(&self.directory).map_err(|error| {
            Failure::new("cannot read the command on record again")
                .because(format!(
                    "going to {}, where it was given",
                    self.directory.display()
                ))
                .caused_by(&error)
                .hint("give the command itself again, where its files are now")
                .code("LF0912")
        })?;
        Ok(self.words.iter().map(OsString::from).collect())
    }
}
