//! What is on record about a host, for whoever does not drive it: read beside the lock, and never changed.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use engine::journal::{Header, Mark};
use landfall_proto::{event::Event, failure::Failure, order::RunId};
use serde::{Deserialize, Serialize};

use super::{
    file::{self, cannot},
    records::Records,
    state::{self, OpenRun, RunFolder},
};

/// What is on record about a host.
#[derive(Debug)]
pub struct Record {
    /// The run that is open, or the newest of those that ended.
    pub run: RunId,
    /// The same, where it is open.
    pub open: Option<OpenRun>,
    /// Where it is remembered.
    pub folder: RunFolder,
    /// When it began, in seconds since 1970 by this machine's clock.
    pub began: u64,
    /// What was journaled of it.
    pub events: Vec<Event>,
}

/// A command line, to be read again. No secret is ever in one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// Its words, the name of the program first.
    pub words: Vec<String>,
    /// Where it was given.
    pub directory: PathBuf,
}

impl Record {
    /// Reads what is on record about a host (`host` or `host:port`); none where nothing is.
    pub fn of(host: &str) -> Result<Option<Self>, Failure> {
        Self::of_in(&state::base()?, host)
    }

    fn of_in(base: &Path, host: &str) -> Result<Option<Self>, Failure> {
        let records = Records::of_in(base, host);
        let open = records.open()?;
        let run = match &open {
            Some(open) => Some(open.run.clone()),
            None => records.last_written(),
        };
        let Some(run) = run else { return Ok(None) };
        let of_run = records.run(&run);
        let (header, events) = journal(&of_run.journal())?;
        let began = match (&open, header) {
            (Some(open), _) => open.began,
            (None, Some(header)) => header.began,
            (None, None) => return Ok(None),
        };
        Ok(Some(Self {
            run,
            open,
            folder: of_run,
            began,
            events,
        }))
    }
}

/// Reads the whole lines of a journal that somebody may be writing to.
fn journal(path: &Path) -> Result<(Option<Header>, Vec<Event>), Failure> {
    let bytes = file::read(path)?.unwrap_or_default();
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let mut lines = lines.filter(|line| line.ends_with(b"\n"));
    let read = || -> serde_json::Result<_> {
        let header = lines.next().map(serde_json::from_slice).transpose()?;
        let marks = lines.map(serde_json::from_slice::<Mark>);
        let events = marks.map(|mark| Ok(mark?.event));
        Ok((header, events.collect::<serde_json::Result<_>>()?))
    };
    read().map_err(|error| cannot("read", path).caused_by(&error).code("LF0901"))
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{super::state::State, *};

    #[test]
    fn record_is_read_beside_the_lock_and_after_the_end() {
        let base = tempfile::tempdir().unwrap();
        let read = || Record::of_in(base.path(), "h").unwrap();
        assert!(read().is_none() && !base.path().join("landfall").exists());
        let state = State::open_in(base.path(), "h").unwrap();
        let run = RunId::from_bytes([7; 16]);
        let open = OpenRun {
            run: run.clone(),
            order: "x".into(),
            began: 1,
            said: Said::of(&["landfall".into(), "h".into()]),
        };
        let folder = state.begin(&open).unwrap();
        let header = Header::new(run.clone(), &["connect"], "x".into(), 1);
        let header = serde_json::to_string(&header).unwrap();
        let whole = r#"{"event":{"index":0,"at_ms":0,"kind":"resumed"}}"#;
        fs::write(folder.journal(), format!("{header}\n{whole}\n{{\"event\":")).unwrap();
        let record = read().unwrap();
        assert_eq!(record.open, Some(open));
        // what is being written is left out
        assert_eq!(record.events.len(), 1);
        state.end(&run).unwrap();
        let record = read().unwrap();
        assert_eq!((record.open, record.run), (None, run));
    }
}
