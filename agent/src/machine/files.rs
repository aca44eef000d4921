//! Writes small files so that a power cut leaves the old or the new one, never half of one.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use landfall_proto::failure::Failure;

use super::broken;

/// Writes a file with this mode: beside it first, then in its place.
///
/// Returns only once the file would survive a power cut.
pub fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), Failure> {
    write_io(path, content, mode).map_err(broken(format!("cannot write {}", path.display())))
}

/// Returns the content of a file; none where it cannot be read, or has more than `most` bytes.
pub fn read(path: &Path, most: u64) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    let file = File::open(path).ok()?;
    file.take(most + 1).read_to_end(&mut content).ok()?;
    (content.len() as u64 <= most).then_some(content)
}

/// Returns the names in a directory, sorted; none where it cannot be read.
pub fn names(directory: &Path) -> Vec<String> {
    super::names_in(directory)
}

/// Lets others read what this process and its programs make, unless it says otherwise.
///
/// A login may hand down another mask, and folders of the new system would be closed to its users. Secrets never rely
/// on the mask.
pub fn usual_umask() {
    use nix::sys::stat::{Mode, umask};
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
}

/// Makes a directory that only root may enter, where there is none.
pub fn private_directory(path: &Path) -> Result<(), Failure> {
    let made = fs::create_dir_all(path);
    let made = made.and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)));
    made.map_err(broken(format!("cannot make {}", path.display())))
}

/// Removes a directory and all that is in it, where there is one.
pub fn remove_directory(path: &Path) -> Result<(), Failure> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(broken(format!("cannot remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

/// Removes all but the newest directories in a directory.
pub fn keep_newest(path: &Path, count: usize) -> Result<(), Failure> {
    let listed = fs::read_dir(path).and_then(|entries| {
        let dated = entries.map(|entry| {
            let entry = entry?;
            Ok((entry.metadata()?.modified()?, entry.path()))
        });
        dated.collect::<std::io::Result<Vec<_>>>()
    });
    let mut all = listed.map_err(broken(format!("cannot list {}", path.display())))?;
    all.sort();
    let too_many = all.len().saturating_sub(count);
    let mut oldest = all.iter().take(too_many);
    oldest.try_for_each(|(_, path)| remove_directory(path))
}

/// Returns how many bytes may still be written where this path is.
pub fn free(path: &Path) -> Result<u64, Failure> {
    let stat = nix::sys::statvfs::statvfs(path).map_err(|error| {
        Failure::new(format!(
            "cannot tell how much space is left at {}",
            path.display()
        ))
        .caused_by(&error)
        .code("LF1206")
    })?;
    Ok(stat.blocks_available() * stat.fragment_size())
}

/// Returns how many bytes the files in a directory and below take.
pub fn taken(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match fs::symlink_metadata(entry.path()) {
        Ok(found) if found.is_dir() => taken(&entry.path()),
        Ok(found) => found.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}

/// Whether something can be made in a directory: by the rights of this process, on a file system that takes it.
pub fn is_writable(directory: &Path) -> bool {
    use nix::unistd::{AccessFlags, access};
    access(directory, AccessFlags::W_OK | AccessFlags::X_OK).is_ok()
}

/// Waits until a power cut would not undo what was made or removed in a directory.
pub fn settle(directory: &Path) {
    // a file system that cannot tell does it in its own time
    let _ = File::open(directory).and_then(|directory| directory.sync_all());
}

fn write_io(path: &Path, content: &[u8], mode: u32) -> std::io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.new"));
    let _ = fs::remove_file(&beside);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(content)?;
    // not left to the umask
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_directories_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let epoch = std::time::SystemTime::UNIX_EPOCH;
        for (name, age) in [("a", 3), ("b", 1), ("c", 2)] {
            let path = dir.path().join(name);
            private_directory(&path).unwrap();
            let made = epoch + std::time::Duration::from_secs(age);
            File::open(&path).unwrap().set_modified(made).unwrap();
        }
        keep_newest(dir.path(), 2).unwrap();
        let left = |name: &str| dir.path().join(name).exists();
        assert_eq!([left("a"), left("b"), left("c")], [true, false, true]);
        keep_newest(dir.path(), 2).unwrap();
        assert!(left("c"));
    }

    #[test]
    fn file_is_replaced_and_has_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write(&path, b"old", 0o644).unwrap();
        write(&path, b"new", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            0o600
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
