//! Archives in their places: the installer's image in the agent's directory, the operator's files below `/mnt`.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use landfall_proto::failure::Failure;
use tokio_util::sync::CancellationToken;

use super::{
    Machine, TARGET,
    archive::{Apart, Links, unpack},
    broken, files,
    initrd::{self, Amendment},
};

/// Files of an image that are not needed any more once the kernel is loaded; all others are small.
const LARGE: [&str; 2] = ["kexec/bzImage", "kexec/initrd"];

impl Machine {
    /// Returns where the installer's image is unpacked.
    pub fn kexec_dir(&self) -> PathBuf {
        self.room().join("kexec")
    }

    /// Unpacks the installer's image into its directory, which is emptied first. Blocks.
    ///
    /// Where a disk has the image, it has the large files of it too, and they are left there as links.
    pub fn unpack_image(
        &self,
        archive: &Path,
        stop: &CancellationToken,
        progress: impl FnMut(u64),
    ) -> Result<(), Failure> {
        let directory = self.kexec_dir();
        let spill = self.spill();
        let apart = spill.as_deref().map(|folder| Apart {
            names: &LARGE,
            folder,
        });
        files::remove_directory(&directory)?;
        files::private_directory(&directory)?;
        unpack(archive, &directory, apart, Links::Inside, stop, progress)
    }

    /// Unpacks an archive below `/mnt`. Blocks.
    pub fn unpack_to_target(
        &self,
        archive: &Path,
        links: Links,
        stop: &CancellationToken,
        progress: impl FnMut(u64),
    ) -> Result<(), Failure> {
        unpack(archive, &self.at(TARGET), None, links, stop, progress)
    }

    /// Removes an archive that was sent, which gives its memory back. Blocks.
    pub fn forget_archive(&self, archive: &Path) {
        // one that cannot be removed takes memory that may not be there: whoever needs it sees that
        let _ = fs::remove_file(archive);
    }

    /// Puts the agent in the place of `cpio` and `gzip`, and beside it what it shall add. Blocks.
    pub fn stand_in(&self, amendment: &Amendment) -> Result<(), Failure> {
        let dir = self.kexec_dir();
        let text = serde_json::to_vec(amendment).expect("an amendment is plain data");
        let path = dir.join("amend.json");
        files::write(&path, &text, 0o600)?;
        // of an earlier try
        let _ = fs::remove_file(initrd::done(&path));
        let bin = dir.join("bin");
        files::private_directory(&bin)?;
        let agent = std::env::current_exe().map_err(broken("cannot find the agent's own file"))?;
        for name in ["cpio", "gzip"] {
            let link = bin.join(name);
            let _ = fs::remove_file(&link);
            symlink(&agent, &link).map_err(broken(format!("cannot make {}", link.display())))?;
        }
        Ok(())
    }

    /// Whether a file of this length is there. Blocks.
    pub fn has_file(&self, path: &Path, size: u64) -> bool {
        fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == size)
    }

    /// Returns the length of a file. Blocks.
    pub fn size_of(&self, path: &Path) -> Result<u64, Failure> {
        let found =
            fs::metadata(path).map_err(broken(format!("cannot find {}", path.display())))?;
        Ok(found.len())
    }
}
