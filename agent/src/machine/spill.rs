//! Room on a disk of the old system, for an installer's image that the memory is too short for.
//!
//! Only the large files of an image come here, and only until its kernel is loaded. Programs never run from here, and
//! nothing else of the agent's is here: what stays behind if the power goes is one folder, whose name says whose it is.
//! The next agent that comes to this system takes it up, or off.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use landfall_proto::{
    facts::Space,
    image::{Room, Size},
    order::Blob,
};

use super::{Machine, files, spool::Spool};

/// Where it may be, best first: what lies in `/var/tmp` is cleaned away if nobody comes.
const PLACES: [&str; 2] = ["/var/tmp", "/"];
const NAME: &str = "landfall-room";
/// File systems that are on a disk of the machine itself; others may be in memory, or come by the network.
const ON_DISK: [&str; 10] = [
    "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "jfs", "reiserfs", "zfs", "bcachefs",
];

impl Machine {
    /// Returns where blobs are kept that are sent to the agent.
    pub fn spool_dir(&self) -> PathBuf {
        let room = self.spill().unwrap_or_else(|| self.room());
        room.join("spool")
    }

    /// Returns the agent's folder on a disk, if there is one.
    pub fn spill(&self) -> Option<PathBuf> {
        let mut folders = PLACES.iter().filter_map(|place| self.resolved(place));
        folders.find_map(|(folder, _)| Some(folder.join(NAME)).filter(|folder| is_ours(folder)))
    }

    /// Returns how much room there is for it: where it is, or where it would be.
    pub fn spill_space(&self) -> Option<Space> {
        let there = self.spill();
        PLACES.iter().find_map(|place| {
            let (folder, kind) = self.resolved(place)?;
            let own = folder.join(NAME);
            let right = match &there {
                Some(there) => *there == own,
                None => fs::symlink_metadata(&own).is_err(),
            };
            let usable = ON_DISK.contains(&kind.as_str()) && files::is_writable(&folder);
            (right && usable).then(|| Space {
                path: (*place).to_owned(),
                kind,
                free: files::free(&folder).unwrap_or(0),
                held: files::taken(&own),
            })
        })
    }

    /// Chooses where this image shall lie until it is loaded, and makes the folder where that is a disk. Blocks.
    ///
    /// An image that has begun to arrive stays where it is, and makes others go. Where the folder cannot be made, the
    /// memory has to do.
    pub fn make_room_for(&self, image: &Blob, size: Size) {
        let has_begun = Spool::open(self.spool_dir()).is_ok_and(|spool| {
            spool.discard_others(image);
            spool.length(image) > 0
        });
        if has_begun || !self.is_in_memory() {
            return;
        }
        // made for another image, by an earlier try or before this boot
        self.leave_disk();
        let _ = files::remove_directory(&self.kexec_dir());
        let space = self.spill_space();
        let room = size.room(
            self.memory_available(),
            space.as_ref().map(|space| space.free),
        );
        if let (Room::Disk, Some(space)) = (room, space)
            && let Some((folder, _)) = self.resolved(&space.path)
        {
            // one that could not be made is not found, and so not used
            let _ = fs::DirBuilder::new().mode(0o700).create(folder.join(NAME));
        }
    }

    /// Takes the folder off the disk, and all that is in it. Blocks until the disk knows.
    pub fn leave_disk(&self) {
        while let Some(spill) = self.spill() {
            if files::remove_directory(&spill).is_err() {
                return;
            }
            if let Some(parent) = spill.parent() {
                files::settle(parent);
            }
        }
    }

    /// Returns where a directory of the machine really is, and the type of its file system.
    fn resolved(&self, place: &str) -> Option<(PathBuf, String)> {
        let folder = fs::canonicalize(self.at(place)).ok()?;
        let root = fs::canonicalize(&self.root).ok()?;
        let inside = Path::new("/").join(folder.strip_prefix(root).ok()?);
        let kind = self.file_system(&inside);
        Some((folder, kind))
    }
}

/// Whether it is a folder that only this user may enter, and no link to one: in `/var/tmp` anybody may make something.
fn is_ours(folder: &Path) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    fs::symlink_metadata(folder).is_ok_and(|found| {
        found.is_dir() && found.uid() == own && found.permissions().mode() & 0o077 == 0
    })
}

#[cfg(test)]
mod tests {
    use landfall_proto::order::BlobHash;

    use super::*;
    use crate::machine::stage::Stage;

    const MIB: u64 = 1 << 20;
    const DISK: &str =
        "1 0 0:1 / / rw - tmpfs tmpfs rw\n2 1 8:1 / /var/tmp rw - ext4 /dev/sda1 rw\n";
    const SIZE: Size = Size {
        packed: MIB,
        kernel: MIB,
        initrd: MIB,
    };

    /// A machine with a folder for temporary files on a disk, and so much memory that programs can have.
    fn stage(mounts: &str, mib: u64) -> Stage {
        let memory = format!("MemAvailable: {} kB\n", mib << 10);
        Stage::new()
            .file("proc/self/mountinfo", mounts)
            .file("proc/meminfo", &memory)
            .file("var/tmp/other", "somebody else's")
    }

    fn image(digit: &str) -> Blob {
        Blob {
            hash: BlobHash::try_from(digit.repeat(64)).unwrap(),
            size: MIB,
        }
    }

    /// Where the image goes, seen from the root of the machine.
    fn goes_to(stage: &Stage) -> String {
        let machine = stage.machine();
        machine.make_room_for(&image("a"), SIZE);
        let spool = machine.spool_dir();
        let inside = spool.strip_prefix(stage.root()).unwrap();
        inside.to_str().unwrap().to_owned()
    }

    const ON_DISK: &str = "var/tmp/landfall-room/spool";
    const IN_MEMORY: &str = "run/landfall/spool";

    #[test]
    fn disk_is_used_only_where_memory_is_short() {
        let short = stage(DISK, 60);
        assert_eq!(goes_to(&short), ON_DISK);
        let folder = short.root().join("var/tmp/landfall-room");
        let mode = fs::metadata(&folder).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700);
        short.machine().leave_room();
        assert!(!folder.exists());
        assert_eq!(short.read("var/tmp/other"), "somebody else's");

        assert_eq!(goes_to(&stage(DISK, 100)), IN_MEMORY);
    }

    #[test]
    fn what_is_no_disk_is_not_used() {
        for kind in ["tmpfs", "nfs4", "overlay"] {
            let mounts = DISK.replace("ext4", kind);
            assert_eq!(goes_to(&stage(&mounts, 60)), IN_MEMORY, "{kind}");
        }
        // the root file system, where /var/tmp is none
        let mounts = "1 0 8:1 / / rw - xfs /dev/sda1 rw\n2 1 0:1 / /run rw - tmpfs tmpfs rw\n\
            3 1 0:2 / /var/tmp rw - tmpfs tmpfs rw\n";
        let stage = stage(mounts, 60);
        assert_eq!(stage.machine().spill_space().unwrap().path, "/");
    }

    #[test]
    fn image_goes_on_where_it_has_begun_to_arrive() {
        let stage = stage(DISK, 60);
        let part = format!("{ON_DISK}/{}.part", "a".repeat(64));
        assert_eq!(goes_to(&stage), ON_DISK);
        let stage = stage.file(&part, "half");
        // the agent was killed, and somebody has ended meanwhile
        let stage = stage.file("proc/meminfo", "MemAvailable: 900000 kB\n");
        assert_eq!(goes_to(&stage), ON_DISK);
        assert_eq!(stage.read(&part), "half");
        assert!(stage.machine().spill_space().unwrap().held > 0);
        // another image does not
        let machine = stage.machine();
        machine.make_room_for(&image("b"), SIZE);
        assert!(machine.spill().is_none());
    }

    #[test]
    fn folder_of_somebody_else_is_left_alone() {
        let taken = stage(DISK, 60).link("var/tmp/landfall-room", "/etc");
        assert_eq!(goes_to(&taken), IN_MEMORY);
        let open = stage(DISK, 60).file("var/tmp/landfall-room/theirs", "x");
        let folder = open.root().join("var/tmp/landfall-room");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(goes_to(&open), IN_MEMORY);
        open.machine().leave_room();
        assert_eq!(open.read("var/tmp/landfall-room/theirs"), "x");
    }
}
