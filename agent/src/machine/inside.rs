//! Places in the new system, reached so that no link leads out of it: links are followed as they will be once it runs.

use std::{
    io::{self, ErrorKind},
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
};

use landfall_proto::order::TargetPath;
use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2},
    sys::stat::{Mode, mkdirat},
};

use super::{Machine, TARGET};

/// How often a place is looked for again when something on the way was renamed meanwhile.
const RACES: u32 = 10;

/// The new system, taken as a root of its own.
#[derive(Debug)]
pub(super) struct Inside {
    root: OwnedFd,
}

impl Machine {
    /// Takes what is below `/mnt` as a root of its own.
    pub(super) fn inside(&self) -> io::Result<Inside> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = open(&self.at(TARGET), flags, Mode::empty())?;
        Ok(Inside { root })
    }
}

impl Inside {
    /// Opens what is at a path.
    pub(super) fn open(&self, path: &TargetPath, flags: OFlag) -> io::Result<OwnedFd> {
        self.open_below(path.inside(), flags)
    }

    /// Opens a folder, and makes it and those above it where there are none, mode 0755.
    pub(super) fn make(&self, path: &TargetPath) -> io::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let mut folder = self.open_below("", flags)?;
        let ends = path.inside().match_indices('/').map(|(end, _)| end);
        for end in ends.chain([path.inside().len()]) {
            let so_far = &path.inside()[..end];
            folder = match self.open_below(so_far, flags) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    let name = so_far.rsplit('/').next().unwrap_or(so_far);
                    match mkdirat(&folder, name, Mode::from_bits_truncate(0o755)) {
                        Ok(()) | Err(Errno::EEXIST) => {}
                        Err(error) => return Err(error.into()),
                    }
                    self.open_below(so_far, flags)?
                }
                found => found?,
            };
        }
        Ok(folder)
    }

    fn open_below(&self, path: &str, flags: OFlag) -> io::Result<OwnedFd> {
        let path = if path.is_empty() { "." } else { path };
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let mut races = 0;
        loop {
            match openat2(&self.root, path, how) {
                Err(Errno::EAGAIN) if races < RACES => races += 1,
                opened => return Ok(opened?),
            }
        }
    }
}

/// Returns a path to something open, for calls that take nothing else.
pub(super) fn path_to(open: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::machine::stage::Stage;

    fn target(path: &str) -> TargetPath {
        path.parse().unwrap()
    }

    #[test]
    fn links_lead_where_they_will_lead_once_the_system_runs() {
        let stage = Stage::new()
            .file("mnt/persist/home/file", "inside")
            .file("persist/home/file", "outside")
            .link("mnt/home", "/persist/home")
            .link("mnt/up", "../../../../persist/home");
        let inside = stage.machine().inside().unwrap();
        for path in ["/home/file", "/up/file"] {
            let found = inside.open(&target(path), OFlag::O_RDONLY).unwrap();
            assert_eq!(fs::read(path_to(&found)).unwrap(), b"inside", "{path}");
        }
    }

    #[test]
    fn folders_are_made_inside() {
        let stage = Stage::new()
            .file("mnt/persist/x", "")
            .link("mnt/etc", "/persist")
            .link("mnt/nowhere", "/gone");
        let inside = stage.machine().inside().unwrap();
        let made = inside.make(&target("/etc/ssh/keys")).unwrap();
        fs::write(path_to(&made).join("key"), "k").unwrap();
        assert_eq!(stage.read("mnt/persist/ssh/keys/key"), "k");
        let made = fs::metadata(stage.root().join("mnt/persist/ssh")).unwrap();
        assert_eq!(made.permissions().mode() & 0o022, 0);
        assert!(inside.make(&target("/")).is_ok());
        assert!(inside.make(&target("/nowhere/ssh")).is_err());
        assert!(inside.make(&target("/persist/x/ssh")).is_err());
        assert!(!stage.root().join("gone").exists());
    }
}
