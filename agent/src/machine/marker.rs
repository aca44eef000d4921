//! What goes through the kexec in files of its own: whose installer it is, and what the old system's agent did.
//!
//! The stock installer puts every `*.json` of the archive behind its initrd below `/root/network`
//! (nixos-images, restore-remote-access). What is found there was made by others, until it is seen to fit.

use std::path::Path;

use landfall_proto::order::RunId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Machine, files};

/// Name of the marker in the archive.
pub(super) const MARKER: &str = "landfall-run.json";
/// Name of what the old system's agent did.
pub(super) const PAST: &str = "landfall-journal.json";
/// Where both are in the installer.
const FOLDER: &str = "/root/network";
/// A marker takes a hundred bytes.
const MARKER_MAX: u64 = 4 << 10;
/// Most that the past may take, in bytes. A run up to its kexec writes a few lines, longer ones for many disks.
pub const PAST_MAX: u64 = 64 << 10;

/// Tells an installer that was booted by kexec from any other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Name of the run that booted it.
    pub run: RunId,
    /// Seconds without contact after which the machine boots its old system again, 0 for never.
    #[serde(default)]
    pub return_after: u64,
}

/// What the agent on the old system did before the kexec. Holds no secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Past {
    /// Name of the run.
    pub run: RunId,
    /// Name of the boot that ended.
    pub boot_id: String,
    /// Public host keys that the installer was given, one line each.
    pub host_keys: Vec<String>,
    /// The lines of its journal, from the first on.
    pub journal: Vec<Value>,
}

impl Machine {
    /// Returns the marker of this installer; none on any other system.
    pub fn marker(&self) -> Option<Marker> {
        serde_json::from_slice(&self.carried(MARKER, MARKER_MAX)?).ok()
    }

    /// Returns the seconds without contact after which this installer boots the old system again, 0 for never.
    pub fn return_after(&self) -> u64 {
        let marker = self.marker().filter(|_| self.is_installer());
        marker.map_or(0, |marker| marker.return_after)
    }

    /// Returns what the old system's agent did; none where nothing was carried over that can be read.
    pub fn past(&self) -> Option<Past> {
        serde_json::from_slice(&self.carried(PAST, PAST_MAX)?).ok()
    }

    fn carried(&self, name: &str, most: u64) -> Option<Vec<u8>> {
        files::read(&self.at(FOLDER).join(Path::new(name)), most)
    }
}

#[cfg(test)]
mod tests {
    use crate::machine::stage::Stage;

    #[test]
    fn marker_is_read_only_where_it_is_one() {
        let run = "07".repeat(16);
        let check = |content: &str, expected: Option<u64>| {
            let stage = Stage::new().file("root/network/landfall-run.json", content);
            let seen = stage.machine().marker();
            assert_eq!(
                seen.map(|marker| marker.return_after),
                expected,
                "{content:.80}"
            );
        };
        check(
            &format!(r#"{{"run":"{run}","return_after":1800}}"#),
            Some(1800),
        );
        check(&format!(r#"{{"run":"{run}"}}"#), Some(0));
        check(r#"{"run":"../../etc","return_after":1}"#, None);
        check(&format!(r#"{{"run":"{run}","return_after":-1}}"#), None);
        check(
            &format!(r#"{{"run":"{run}"}}{}"#, " ".repeat(4 << 10)),
            None,
        );
        check("", None);
        assert_eq!(Stage::new().machine().marker(), None);
    }
}
