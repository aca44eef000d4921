//! What is on record about a host, for whoever does not drive it: read beside the lock, and never changed.

use std::path::Path;

use landfall_proto::{event::Event, failure::Failure, order::RunId};

use super::{
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

impl Record {
    /// Returns which run it is, and where it is remembered.
    pub fn place(&self) -> (&RunId, &RunFolder) {
        (&self.run, &self.folder)
    }

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
        let told = of_run.told()?;
        let began = match (&open, told.header) {
            (Some(open), _) => open.began,
            (None, Some(header)) => header.began,
            (None, None) => return Ok(None),
        };
        Ok(Some(Self {
            run,
            open,
            folder: of_run,
            began,
            events: told.events,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use engine::journal::Header;

    use super::{
        super::{said::Said, state::State},
        *,
    };

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
            before: None,
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
