//! Room for what is sent to the agent: a file system in memory of its own, where the one it is on is kept small.
//!
//! `/run` may take a tenth or a fifth of the memory on most systems, and an installer's image does not fit there twice
//! on a machine of 2 GB that could hold it easily. What is in memory anyway may be bounded by the memory alone.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{Machine, files};

/// Only below this folder: a directory somewhere else was chosen by somebody, with the room it has.
const SMALL: &str = "/run";
/// What it may take at most. What it does take is what is in it.
const OPTIONS: &str = "mode=0700,size=90%";

impl Machine {
    /// Returns where what is sent is kept, and unpacked.
    pub fn room(&self) -> PathBuf {
        let room = self.own_room();
        if room.is_dir() {
            room
        } else {
            self.dir().to_owned()
        }
    }

    /// Makes room, unless there is some already. Without it, what is there has to do. Blocks.
    pub fn make_room(&self) {
        let room = self.own_room();
        if !self.wants_room() || self.has_room() || files::private_directory(&room).is_err() {
            return;
        }
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        if mount(Some("tmpfs"), &room, Some("tmpfs"), flags, Some(OPTIONS)).is_err() {
            // an empty folder would be taken for it
            let _ = std::fs::remove_dir(&room);
        }
    }

    /// Gives the memory back, and all that is in it; and what is on a disk. Blocks.
    pub fn leave_room(&self) {
        self.leave_disk();
        if self.has_room() {
            // a file that is still open goes when it is closed
            let _ = umount2(&self.own_room(), MntFlags::MNT_DETACH);
        }
    }

    /// Whether this agent would make room, or an earlier one has.
    pub fn wants_room(&self) -> bool {
        self.programs().are_real() && self.dir().starts_with(SMALL) && self.is_in_memory()
    }

    fn own_room(&self) -> PathBuf {
        self.dir().join("room")
    }

    fn has_room(&self) -> bool {
        self.own_room()
            .to_str()
            .is_some_and(|room| self.is_mount_point(room))
    }

    /// Whether the agent's directory is in memory.
    pub(super) fn is_in_memory(&self) -> bool {
        let exists = self.dir().ancestors().find(|path| path.is_dir());
        exists.is_some_and(|path| self.file_system(path) == "tmpfs")
    }

    /// Returns the type of the file system that a path is on; empty where that is not known.
    pub(super) fn file_system(&self, path: &Path) -> String {
        let mounts = self.mounts();
        let above = mounts
            .iter()
            .filter(|mount| path.starts_with(&mount.target));
        // of those on one place the last is seen
        let under = above.max_by_key(|mount| mount.target.components().count());
        under.map(|mount| mount.kind.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::machine::stage::Stage;

    #[test]
    fn machine_that_is_not_real_gets_no_mounts() {
        let stage = Stage::new().file("run/landfall/lock", "");
        let machine = stage.machine();
        machine.make_room();
        assert_eq!(machine.room(), machine.dir());
        assert!(!machine.wants_room());
    }

    #[test]
    fn file_system_is_that_of_the_nearest_mount() {
        let mounts = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:2 / /run rw - tmpfs tmpfs rw\n3 1 0:3 / /runner rw - xfs x rw\n4 2 0:4 / /run/x rw - ramfs x rw\n";
        let stage = Stage::new().file("proc/self/mountinfo", mounts);
        let machine = stage.machine();
        let check = |path: &str, kind: &str| {
            assert_eq!(machine.file_system(Path::new(path)), kind, "{path}");
        };
        check("/run", "tmpfs");
        check("/run/landfall", "tmpfs");
        check("/run/x/y", "ramfs");
        check("/srv", "ext4");
        let bare = Stage::new().machine();
        assert_eq!(bare.file_system(Path::new("/run")), "");
    }
}
