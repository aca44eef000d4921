//! Folders for sockets, which go with the command that made them.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use landfall_proto::failure::Failure;
use nix::fcntl::{Flock, FlockArg};

use crate::local::file::cannot;

/// A folder for sockets, of this command alone; gone with it, or with the next one's if it was killed.
#[derive(Debug)]
pub struct SocketFolder {
    folder: tempfile::TempDir,
    _alive: Flock<fs::File>,
}

/// What a command holds locked for as long as it uses its folder.
const ALIVE: &str = "alive";

impl SocketFolder {
    /// Returns where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Makes a folder for sockets with a path so short that a socket's fits (108 bytes, unix(7)).
///
/// Removes what commands that were killed have left.
pub fn socket_folder() -> Result<SocketFolder, Failure> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let base = runtime
        .filter(|path| path.is_absolute() && path.as_os_str().len() <= 40 && path.is_dir())
        .unwrap_or_else(|| PathBuf::from("/tmp"));
    sweep(&base);
    let ours = fs::Permissions::from_mode(0o700);
    let made = tempfile::Builder::new()
        .prefix(SOCKETS)
        .permissions(ours)
        .tempdir_in(&base);
    let folder = made.map_err(|error| cannot("make a folder in", &base).caused_by(&error))?;
    let alive = folder.path().join(ALIVE);
    // another command that sweeps meets it locked, or not at all
    let made = folder.path().join("alive.new");
    let locked = fs::File::create(&made).and_then(|file| {
        let locked = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, errno)| std::io::Error::from(errno))?;
        fs::rename(&made, &alive)?;
        Ok(locked)
    });
    let locked = locked.map_err(|error| cannot("lock", &alive).caused_by(&error))?;
    Ok(SocketFolder {
        folder,
        _alive: locked,
    })
}

/// How folders for sockets are called.
const SOCKETS: &str = "landfall-";

/// Removes folders whose command is dead. What cannot be looked at or removed is in nobody's way.
fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(SOCKETS)
            // no link is followed: /tmp is everybody's
            && entry.metadata().is_ok_and(|meta| {
                meta.is_dir() && meta.uid() == nix::unistd::geteuid().as_raw()
            });
        // one that has no lock yet is just being made
        let Some(alive) = ours
            .then(|| fs::File::open(entry.path().join(ALIVE)).ok())
            .flatten()
        else {
            continue;
        };
        if let Ok(dead) = Flock::lock(alive, FlockArg::LockExclusiveNonblock) {
            let _ = fs::remove_dir_all(entry.path());
            drop(dead);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_of_a_dead_command_is_removed() {
        let base = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let folder = base.path().join(name);
            fs::create_dir(&folder).unwrap();
            fs::File::create(folder.join(ALIVE)).unwrap()
        };
        drop(make("landfall-dead"));
        let alive = Flock::lock(make("landfall-alive"), FlockArg::LockExclusive).unwrap();
        drop(make("another-dead"));
        sweep(base.path());
        let left = |name: &str| base.path().join(name).exists();
        assert!(!left("landfall-dead") && left("landfall-alive") && left("another-dead"));
        drop(alive);
    }

    #[test]
    fn folder_for_sockets_is_short_and_ours() {
        let folder = socket_folder().unwrap();
        assert!(folder.path().as_os_str().len() < 70);
        assert_eq!(
            fs::metadata(folder.path()).unwrap().permissions().mode() & 0o777,
            0o700
        );
    }
}
