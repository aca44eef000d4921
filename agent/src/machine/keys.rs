//! Key files that disko's script reads: for root only, in memory only, and gone without a trace once they were used.
//!
//! Where the file system at a key's path is in memory, the file lies there. Elsewhere it lies in the agent's own folder,
//! and a link at the path leads to it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use landfall_proto::{failure::Failure, order::KeyPath};

use super::{Machine, broken, files};

/// Types of file systems that are never on a disk; `rootfs` is what the kernel unpacks an initrd into.
const IN_MEMORY: &[&str] = &["tmpfs", "ramfs", "rootfs"];

/// What a key is called until it is whole.
const UNFINISHED: &str = ".landfall-key";

impl Machine {
    /// Puts a key file to its path, mode 0600; folders are made with mode 0700. Blocks.
    ///
    /// What was there is replaced in one step. One at a time: unfinished files share a name.
    pub fn keep_key(&self, path: &KeyPath, content: &[u8]) -> Result<(), Failure> {
        let kept = self.put_key(path, content);
        kept.map_err(|failure| {
            failure
                .under(format!("cannot keep key {path}"))
                .hint("name another path in the configuration, such as one below `/tmp`")
                .code("LF1312")
        })
    }

    /// Returns the first of these keys that is not there. Blocks.
    pub fn missing_key<'a>(&self, keys: &'a [KeyPath]) -> Option<&'a KeyPath> {
        keys.iter().find(|key| !self.at(key.as_str()).is_file())
    }

    /// Overwrites and removes key files. Blocks.
    ///
    /// What is no longer as it was put there is left alone: another file system may be mounted over it.
    pub fn forget_key(&self, path: &KeyPath) -> Result<(), Failure> {
        let forgotten = || -> io::Result<()> {
            let (place, kept) = (self.at(path.as_str()), self.kept_key(path));
            match fs::symlink_metadata(&place) {
                Ok(found) if found.is_symlink() && fs::read_link(&place)? == kept => {
                    fs::remove_file(&place)?;
                }
                Ok(found) if found.is_file() && self.in_memory(parent(&place))? => shred(&place)?,
                _ => {}
            }
            match fs::symlink_metadata(&kept) {
                Ok(_) => shred(&kept),
                Err(_) => Ok(()),
            }
        };
        forgotten().map_err(broken(format!("cannot forget key {path}")))
    }

    fn put_key(&self, path: &KeyPath, content: &[u8]) -> Result<(), Failure> {
        let place = self.at(path.as_str());
        let folder = parent(&place);
        let mut made = DirBuilder::new();
        let made = made.recursive(true).mode(0o700).create(folder);
        made.map_err(broken(format!("making {}", folder.display())))?;
        let writing = || broken(format!("writing {}", place.display()));
        if self.in_memory(folder).map_err(writing())? {
            return replace(&place, |file| write(file, content)).map_err(writing());
        }
        let kept = self.kept_key(path);
        files::private_directory(parent(&kept))?;
        let written = replace(&kept, |file| write(file, content));
        written
            .and_then(|()| replace(&place, |link| symlink(&kept, link)))
            .map_err(writing())
    }

    /// Returns where a key lies whose own path is on a disk.
    fn kept_key(&self, path: &KeyPath) -> PathBuf {
        let name = blake3::hash(path.as_str().as_bytes()).to_hex();
        self.dir().join("keys").join(name.as_str())
    }

    /// Whether what is written to a folder stays in memory.
    fn in_memory(&self, folder: &Path) -> io::Result<bool> {
        let (folder, root) = (fs::canonicalize(folder)?, fs::canonicalize(self.at("/"))?);
        let inside = Path::new("/").join(folder.strip_prefix(root).unwrap_or(&folder));
        let mounts = self.mounts();
        // of two mounts at one place, the later one is seen
        let over = mounts
            .iter()
            .filter(|mount| inside.starts_with(&mount.target));
        let kind = over.max_by_key(|mount| mount.target.components().count());
        Ok(kind.is_some_and(|mount| IN_MEMORY.contains(&mount.kind.as_str())))
    }
}

fn parent(path: &Path) -> &Path {
    path.parent()
        .expect("a key's path names a file in a folder")
}

/// Makes something beside its place and moves it there; nothing of it stays beside when that fails.
fn replace(place: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let beside = place.with_file_name(UNFINISHED);
    let _ = fs::remove_file(&beside);
    let replaced = make(&beside).and_then(|()| fs::rename(&beside, place));
    if replaced.is_err() {
        let _ = shred(&beside).or_else(|_| fs::remove_file(&beside));
    }
    replaced
}

fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)?;
    // not left to the umask
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.sync_all()
}

/// Overwrites a file and removes it.
fn shred(path: &Path) -> io::Result<()> {
    let nofollow = nix::libc::O_NOFOLLOW;
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(nofollow)
        .open(path)?;
    let length = file.metadata()?.len();
    overwrite(file, length)?;
    fs::remove_file(path)
}

fn overwrite(mut file: File, length: u64) -> io::Result<()> {
    io::copy(&mut io::Read::take(io::repeat(0), length), &mut file)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;
    use crate::machine::stage::Stage;

    const MEMORY: &str =
        "1 0 0:2 / / rw - rootfs rootfs rw\n2 1 254:1 / /disk rw - ext4 /dev/vda rw\n";

    fn stage() -> Stage {
        Stage::new().file("proc/self/mountinfo", MEMORY)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn names(path: &Path) -> usize {
        fs::read_dir(path).unwrap().count()
    }

    #[test]
    fn key_in_memory_lies_at_its_path() {
        let stage = stage();
        let (machine, path) = (stage.machine(), "/tmp/deep/er/secret.key".parse().unwrap());
        machine.keep_key(&path, b"old").unwrap();
        machine.keep_key(&path, b"a key\n\0").unwrap();
        let place = stage.root().join("tmp/deep/er/secret.key");
        assert_eq!(fs::read(&place).unwrap(), b"a key\n\0");
        assert!(fs::symlink_metadata(&place).unwrap().is_file());
        assert_eq!((mode(&place), mode(parent(&place))), (0o600, 0o700));
        assert_eq!(mode(&stage.root().join("tmp")), 0o700);
        assert_eq!(names(parent(&place)), 1);
        assert_eq!(machine.missing_key(from_ref(&path)), None);
        machine.forget_key(&path).unwrap();
        assert_eq!(machine.missing_key(from_ref(&path)), Some(&path));
        assert_eq!(machine.forget_key(&path), Ok(()));
    }

    #[test]
    fn key_whose_path_is_on_a_disk_never_touches_the_disk() {
        let stage = stage().file("disk/secret.key", "of somebody");
        let (machine, path) = (stage.machine(), "/disk/secret.key".parse().unwrap());
        machine.keep_key(&path, b"key").unwrap();
        let place = stage.root().join("disk/secret.key");
        let kept = fs::read_link(&place).unwrap();
        assert!(kept.starts_with(stage.root().join("run/landfall/keys")));
        assert_eq!(fs::read(&place).unwrap(), b"key");
        assert_eq!((mode(&kept), mode(parent(&kept))), (0o600, 0o700));
        assert_eq!(machine.missing_key(from_ref(&path)), None);
        machine.forget_key(&path).unwrap();
        assert!(!kept.exists());
        assert_eq!(names(&stage.root().join("disk")), 0);
    }

    #[test]
    fn file_that_is_no_key_is_left_alone() {
        let stage = stage().file("disk/secret.key", "of the system");
        let (machine, path) = (stage.machine(), "/disk/secret.key".parse().unwrap());
        machine.forget_key(&path).unwrap();
        assert_eq!(stage.read("disk/secret.key"), "of the system");
        let stage = stage.link("tmp/link", "/etc/passwd");
        stage
            .machine()
            .forget_key(&"/tmp/link".parse().unwrap())
            .unwrap();
        assert!(stage.root().join("tmp/link").is_symlink());
    }

    #[test]
    fn key_is_overwritten_before_it_goes() {
        let stage = stage();
        let (machine, path) = (stage.machine(), "/tmp/secret.key".parse().unwrap());
        machine.keep_key(&path, b"key").unwrap();
        let held = stage.root().join("held");
        fs::hard_link(stage.root().join("tmp/secret.key"), &held).unwrap();
        machine.forget_key(&path).unwrap();
        assert_eq!(fs::read(held).unwrap(), [0; 3]);
    }

    #[test]
    fn key_that_cannot_be_kept_leaves_nothing() {
        let stage = stage().file("tmp/secret.key/file", "");
        let (machine, path) = (stage.machine(), "/tmp/secret.key".parse().unwrap());
        let failure = machine.keep_key(&path, b"key").unwrap_err();
        assert_eq!(failure.what, "cannot keep key /tmp/secret.key");
        assert_eq!(failure.code, "LF1312");
        assert_eq!(names(&stage.root().join("tmp")), 1);
    }
}
