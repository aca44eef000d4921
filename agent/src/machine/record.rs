//! Where a run's journal lies on the target's disks: written once they are mounted, looked at after a power cut.
//!
//! In the store's own tree, because that is on a disk on every NixOS, also where the root is in memory.

use std::path::PathBuf;

use engine::journal::{self, Mark};
use landfall_proto::order::RunId;

use super::{Machine, TARGET, files};

/// Folder of the journal on the target.
const FOLDER: &str = "/mnt/nix/var/landfall";
const NAME: &str = "journal.jsonl";

impl Machine {
    /// Makes the folder of the journal on the target's disks, and returns where the journal lies in it.
    ///
    /// Nowhere where nothing is mounted, or no folder can be made: a disk that is full is full for the journal too.
    pub async fn place_on_target(&self) -> Option<PathBuf> {
        self.blocking(|machine| {
            let folder = machine.at(FOLDER);
            let mounted = machine.is_mount_point(TARGET);
            let made = mounted && files::private_directory(&folder).is_ok();
            if made {
                // what the journal says of the disks has to be on them before it is
                machine.sync();
            }
            made.then(|| folder.join(NAME))
        })
        .await
    }

    /// Reads the journal on the target's disks, which has to be that of a run; says why not. Blocks.
    ///
    /// Whoever formats the disks makes it go away, so that it speaks of what is on them now.
    pub fn journal_on_target(&self, run: &RunId) -> Result<Vec<Mark>, String> {
        match journal::read(&self.at(FOLDER).join(NAME)) {
            Ok(Some((header, marks))) if header.run == *run => Ok(marks),
            Ok(Some((header, _))) => Err(format!("the journal on them is of run {}", header.run)),
            Ok(None) => Err("there is no journal of this run on them".to_owned()),
            Err(error) => Err(format!("their journal cannot be followed: {error}")),
        }
    }
}
