//! Where a run's journal lies on the target's disks: written once they are mounted, looked at after a power cut.
//!
//! In the store's own tree, because that is on a disk on every NixOS, also where the root is in memory.

use std::path::{Path, PathBuf};

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

    /// Removes the folders that were made for the journal, as far as nothing else is in them. Blocks.
    pub fn leave_place_on_target(&self) {
        for folder in Path::new(FOLDER).ancestors() {
            if folder == Path::new(TARGET) {
                return;
            }
            // one that is in use, or mounted, stays
            let _ = std::fs::remove_dir(self.at(&folder.to_string_lossy()));
        }
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

#[cfg(test)]
mod tests {
    use crate::machine::stage::Stage;

    #[tokio::test]
    async fn disks_that_were_only_formatted_have_no_folder_of_ours() {
        let stage = Stage::new().mounted().file("mnt/boot/keep", "");
        let machine = stage.machine();
        let place = machine.place_on_target().await.unwrap();
        assert!(place.parent().unwrap().is_dir());
        machine.leave_place_on_target();
        assert!(!machine.at("/mnt/nix").exists() && machine.at("/mnt/boot").exists());
        // and what somebody else has put there stays
        let stage = stage.file("mnt/nix/store/x", "");
        machine.place_on_target().await.unwrap();
        machine.leave_place_on_target();
        assert!(machine.at("/mnt/nix/store").exists() && !machine.at("/mnt/nix/var").exists());
        drop(stage);
    }
}
