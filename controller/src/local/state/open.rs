//! Which run is open for a host, and which one was before it.

use std::path::Path;

use landfall_proto::{failure::Failure, order::RunId};
use serde::{Deserialize, Serialize};

use super::run_folder::RunFolder;
use crate::local::{
    file::{self, cannot},
    said::Said,
};

/// The run that is open for a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRun {
    /// Its id.
    pub run: RunId,
    /// Hash of what was asked for; another hash means another wish.
    pub order: String,
    /// When it began, in seconds since 1970 by this machine's clock.
    pub began: u64,
    /// The newest command line that asked for it; none where that cannot be written down.
    #[serde(default)]
    pub said: Option<Said>,
    /// The run that was open before, which counts until this one has ordered something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Box<Self>>,
}

/// Name of the file that says so.
const FILE: &str = "run.json";

impl OpenRun {
    /// Returns the runs that are named here.
    pub(super) fn names(&self) -> Vec<RunId> {
        let before = self.before.iter().map(|before| before.run.clone());
        std::iter::once(self.run.clone()).chain(before).collect()
    }
}

/// Reads which runs are open, the newest first: the one before it only where that has ordered nothing yet.
pub(in crate::local) fn runs(folder: &Path) -> Result<Vec<OpenRun>, Failure> {
    let Some(mut newest) = read(folder)? else {
        return Ok(Vec::new());
    };
    if RunFolder::of(folder, &newest.run).has_ordered() {
        newest.before = None;
    }
    let before = newest.before.as_deref().cloned();
    Ok(std::iter::once(newest).chain(before).collect())
}

/// Returns all runs that are named as open, whatever has become of them.
pub(super) fn names(folder: &Path) -> Result<Vec<RunId>, Failure> {
    Ok(read(folder)?.map(|open| open.names()).unwrap_or_default())
}

pub(super) fn write(folder: &Path, open: &OpenRun) -> Result<(), Failure> {
    let bytes = serde_json::to_vec(open).expect("a run is plain data");
    file::write_private(&folder.join(FILE), &bytes)
}

pub(super) fn remove(folder: &Path) -> Result<(), Failure> {
    file::remove(&folder.join(FILE))
}

fn read(folder: &Path) -> Result<Option<OpenRun>, Failure> {
    let path = folder.join(FILE);
    let Some(bytes) = file::read(&path)? else {
        return Ok(None);
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        cannot("read", &path)
            .caused_by(&error)
            .hint(format!("remove it: `rm {}`", path.display()))
    })
}
