//! The runs that are remembered of a host, for those who only look: takes no lock, and changes nothing that others rely on.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use landfall_proto::{failure::Failure, order::RunId};

use super::{
    bundle, file,
    state::{self, OpenRun, RunFolder, base, folder_of},
};

/// What is remembered about one host.
#[derive(Debug, Clone)]
pub struct Records {
    folder: PathBuf,
}

impl Records {
    /// Returns the records of a host (`host` or `host:port`); there may be none.
    pub fn of(host: &str) -> Result<Self, Failure> {
        Ok(Self::of_in(&base()?, host))
    }

    pub(super) fn of_in(base: &Path, host: &str) -> Self {
        Self {
            folder: folder_of(base, host),
        }
    }

    /// Returns the run that is open, else the one that something was last written down of.
    pub fn newest(&self) -> Option<(RunId, RunFolder)> {
        let open = self.open().ok().flatten();
        let id = open.map(|open| open.run).or_else(|| self.last_written())?;
        let folder = self.run(&id);
        Some((id, folder))
    }

    /// Returns the run that is open: of two, the one that has ordered something.
    pub(super) fn open(&self) -> Result<Option<OpenRun>, Failure> {
        Ok(state::runs(&self.folder)?.pop())
    }

    /// Returns where a run is remembered.
    pub(super) fn run(&self, id: &RunId) -> RunFolder {
        RunFolder::of(&self.folder, id)
    }

    /// Returns the run that was written to last.
    pub(super) fn last_written(&self) -> Option<RunId> {
        let entries = fs::read_dir(self.runs()).into_iter().flatten().flatten();
        let dated = entries.filter_map(|entry| {
            let id = RunId::try_from(entry.file_name().into_string().ok()?).ok()?;
            let journal = fs::metadata(self.run(&id).journal());
            let written = journal.and_then(|meta| meta.modified());
            Some((written.unwrap_or(SystemTime::UNIX_EPOCH), id))
        });
        let newest = dated.max_by_key(|(written, _)| *written);
        newest.map(|(_, id)| id)
    }

    /// Returns where a bundle is to lie that is made now, about this run or about none. Makes the folder.
    pub fn place_for_bundle(
        &self,
        run: Option<&RunFolder>,
        seconds: u64,
    ) -> Result<PathBuf, Failure> {
        let folder = run.map_or(self.folder.as_path(), RunFolder::path);
        file::private_folder(folder)?;
        Ok(folder.join(bundle::name(seconds)))
    }

    /// Removes bundles but the newest.
    pub fn keep_newest_bundles(&self) {
        let runs = fs::read_dir(self.runs()).into_iter().flatten().flatten();
        let runs = runs.map(|entry| entry.path());
        bundle::keep_newest(runs.chain([self.folder.clone()]));
    }

    fn runs(&self) -> PathBuf {
        self.folder.join("runs")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn run_that_is_open_comes_before_the_newest() {
        let base = tempfile::tempdir().unwrap();
        let records = Records::of_in(base.path(), "h");
        assert_eq!(records.newest(), None);
        let ids = [1, 2].map(|byte| RunId::from_bytes([byte; 16]));
        for (id, age) in ids.iter().zip([100, 10]) {
            let folder = records.runs().join(id.as_str());
            fs::create_dir_all(&folder).unwrap();
            let journal = fs::File::create(folder.join("journal.jsonl")).unwrap();
            journal
                .set_modified(SystemTime::now() - Duration::from_secs(age))
                .unwrap();
        }
        fs::create_dir(records.runs().join("other")).unwrap();
        assert_eq!(records.newest().unwrap().0, ids[1]);
        let open = OpenRun {
            run: ids[0].clone(),
            order: String::new(),
            began: 0,
            said: None,
            before: None,
        };
        fs::write(
            records.folder.join("run.json"),
            serde_json::to_vec(&open).unwrap(),
        )
        .unwrap();
        let (id, folder) = records.newest().unwrap();
        assert_eq!(id, ids[0]);
        assert!(folder.path().ends_with(id.as_str()));
        assert!(!records.folder.join("lock").exists());
    }
}
