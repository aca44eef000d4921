//! What is mounted where, and mounting: in rooms of programs for setting up, for real only to take down.

use std::{
    ffi::{CString, OsString},
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    time::Duration,
};

use landfall_proto::{facts::Mounted, failure::Failure};
use sys_mount::UnmountFlags;
use tokio_util::sync::CancellationToken;

use super::{Machine, TARGET};

/// How often, and how long apart, a busy mount is tried again: device scanners hold one for a moment.
const BUSY_TRIES: u32 = 10;
const BUSY_PAUSE: Duration = Duration::from_millis(300);

/// A line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// `major:minor` of the device; `0:…` for one that has none.
    pub device: String,
    /// Where it is mounted.
    pub target: PathBuf,
    /// Type of the file system.
    pub kind: String,
    /// Device or name.
    pub source: String,
}

/// A mount namespace and a root for one program, gone with it.
#[derive(Debug, Clone)]
pub struct Room {
    pub(super) root: CString,
    pub(super) binds: Vec<Bind>,
}

#[derive(Debug, Clone)]
pub(super) struct Bind {
    /// What is shown there; nothing for a new, empty file system in memory.
    pub(super) from: Option<CString>,
    pub(super) to: CString,
}

impl Room {
    /// Makes a room with this directory as its root.
    pub fn at(root: &str) -> Self {
        Self {
            root: c_string(root),
            binds: Vec::new(),
        }
    }

    /// Shows a directory of the machine, and all that is mounted below it, under the same name in the room.
    #[must_use]
    pub fn bind(mut self, path: &str) -> Self {
        let to = self.below(path);
        self.binds.push(Bind {
            from: Some(c_string(path)),
            to,
        });
        self
    }

    /// Puts an empty file system in memory there.
    #[must_use]
    pub fn empty(mut self, path: &str) -> Self {
        let to = self.below(path);
        self.binds.push(Bind { from: None, to });
        self
    }

    fn below(&self, path: &str) -> CString {
        let root = self.root.to_str().expect("the root was made of text");
        c_string(&format!("{}{path}", root.trim_end_matches('/')))
    }
}

fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', "")).expect("zero bytes were taken out")
}

impl Machine {
    /// Returns all mounts, in the order in which they were made.
    pub fn mounts(&self) -> Vec<Mount> {
        parse(&self.read("/proc/self/mountinfo").unwrap_or_default())
    }

    /// Returns the mounts at and below a directory, in the order in which they were made.
    pub fn mounts_below(&self, directory: &str) -> Vec<Mount> {
        let mut mounts = self.mounts();
        mounts.retain(|mount| mount.target.starts_with(directory));
        mounts
    }

    /// Whether something is mounted exactly there.
    pub fn is_mount_point(&self, directory: &str) -> bool {
        self.mounts()
            .iter()
            .any(|mount| mount.target == Path::new(directory))
    }

    /// Takes down all mounts at and below `/mnt`, the last one first, and returns how many there were.
    ///
    /// A mount that stays busy is a failure that names who holds it.
    pub async fn unmount_target(&self, cancel: &CancellationToken) -> Result<usize, Failure> {
        let mounts = self.mounts_below(TARGET);
        for mount in mounts.iter().rev() {
            self.unmount(mount, cancel).await?;
        }
        match self.mounts_below(TARGET).last() {
            None => Ok(mounts.len()),
            Some(left) => Err(
                Failure::new(format!("cannot unmount {}", left.target.display()))
                    .because("something mounts it again")
                    .hint("stop what mounts it, then run the same command again")
                    .code("LF1604"),
            ),
        }
    }

    async fn unmount(&self, mount: &Mount, cancel: &CancellationToken) -> Result<(), Failure> {
        let shown = mount.target.display().to_string();
        let mut tries = 1;
        loop {
            let target = mount.target.clone();
            let Err(error) = self
                .blocking(move |machine| machine.unmount_once(&target))
                .await
            else {
                return Ok(());
            };
            let failure = Failure::new(format!("cannot unmount {shown}")).code("LF1604");
            let busy = error.raw_os_error() == Some(nix::errno::Errno::EBUSY as i32);
            if !busy || tries >= BUSY_TRIES {
                return Err(self.blamed(failure.caused_by(&error), &mount.target).await);
            }
            tries += 1;
            tokio::select! {
                () = cancel.cancelled() => return Err(failure.because("the run was stopped")),
                () = tokio::time::sleep(BUSY_PAUSE) => {}
            }
        }
    }

    fn unmount_once(&self, target: &Path) -> std::io::Result<()> {
        if self.programs().are_real() {
            // mountinfo names no links; and NOFOLLOW of sys-mount 3.1 is open(2)'s, which umount2(2) refuses
            return sys_mount::unmount(target, UnmountFlags::empty());
        }
        // a machine below a directory: its list of mounts is a file
        let list = self.at("/proc/self/mountinfo");
        let text = std::fs::read_to_string(&list)?;
        let mut lines: Vec<_> = text.lines().collect();
        lines.retain(|line| parse_line(line).is_none_or(|mount| mount.target != target));
        std::fs::write(list, lines.join("\n"))
    }

    async fn blamed(&self, failure: Failure, target: &Path) -> Failure {
        let target = target.to_owned();
        let holders = self.blocking(move |machine| machine.holders(&target)).await;
        let mut failure = failure;
        for holder in holders.iter().take(10) {
            failure = failure.because(format!("held by {holder}"));
        }
        if holders.is_empty() {
            failure.hint("look for what holds it: `fuser -vm` on the mount point")
        } else {
            failure.hint("end what holds it, then run the same command again")
        }
    }

    /// Names the processes that use anything below a directory: by working directory, root, or open file.
    pub fn holders(&self, directory: &Path) -> Vec<String> {
        let mut holders = Vec::new();
        for pid in self
            .names("/proc")
            .iter()
            .filter(|name| name.parse::<u32>().is_ok())
        {
            let mut links = vec![format!("/proc/{pid}/cwd"), format!("/proc/{pid}/root")];
            let files = format!("/proc/{pid}/fd");
            links.extend(
                self.names(&files)
                    .iter()
                    .map(|number| format!("{files}/{number}")),
            );
            let used = links.iter().find_map(|link| {
                let path = std::fs::read_link(self.at(link)).ok()?;
                path.starts_with(directory).then_some(path)
            });
            if let Some(path) = used {
                let name = self.read(&format!("/proc/{pid}/comm")).unwrap_or_default();
                holders.push(format!("{name} (pid {pid}) through {}", path.display()));
            }
        }
        holders
    }
}

impl From<&Mount> for Mounted {
    fn from(mount: &Mount) -> Self {
        Self {
            source: mount.source.clone(),
            target: mount.target.to_string_lossy().into_owned(),
            kind: mount.kind.clone(),
        }
    }
}

fn parse(mountinfo: &str) -> Vec<Mount> {
    mountinfo.lines().filter_map(parse_line).collect()
}

/// `36 35 98:0 /sub /mnt rw,noatime master:1 - ext4 /dev/root rw`: optional fields end with a dash (proc(5)).
fn parse_line(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(2);
    let mut after = after.split(' ');
    Some(Mount {
        device: before.next()?.to_owned(),
        target: PathBuf::from(unescape(before.nth(1)?)),
        kind: after.next()?.to_owned(),
        source: unescape(after.next()?).to_string_lossy().into_owned(),
    })
}

/// The kernel writes blanks and backslashes as three octal digits.
pub(super) fn unescape(text: &str) -> OsString {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = text.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\');
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::command::Script;

    const MOUNTINFO: &str = "\
22 1 0:21 / / rw,relatime shared:1 - tmpfs tmpfs rw
40 22 254:2 / /mnt rw,relatime shared:9 - ext4 /dev/vda2 rw
41 40 254:1 / /mnt/boot rw,relatime - vfat /dev/vda1 rw
42 40 0:50 /sub /mnt/a\\040b rw master:3 propagate_from:2 - btrfs /dev/vdb rw,subvol=/sub
43 22 0:51 / /mnt2 rw - tmpfs none rw
";

    fn machine(root: &Path) -> Machine {
        std::fs::create_dir_all(root.join("proc/self")).unwrap();
        std::fs::write(root.join("proc/self/mountinfo"), MOUNTINFO).unwrap();
        Machine::scripted(root, root, Script::default())
    }

    #[test]
    fn mounts_are_read_with_their_escapes() {
        let mounts = parse(MOUNTINFO);
        assert_eq!(mounts.len(), 5);
        assert_eq!(
            mounts[3],
            Mount {
                device: "0:50".to_owned(),
                target: PathBuf::from("/mnt/a b"),
                kind: "btrfs".to_owned(),
                source: "/dev/vdb".to_owned(),
            }
        );
    }

    #[test]
    fn only_whole_names_are_below() {
        let root = tempfile::tempdir().unwrap();
        let below = machine(root.path()).mounts_below("/mnt");
        let targets: Vec<_> = below
            .iter()
            .map(|mount| mount.target.to_str().unwrap())
            .collect();
        assert_eq!(targets, ["/mnt", "/mnt/boot", "/mnt/a b"]);
        assert!(machine(root.path()).is_mount_point("/mnt"));
        assert!(!machine(root.path()).is_mount_point("/mnt/home"));
    }

    #[tokio::test]
    async fn everything_below_is_taken_down_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let machine = machine(root.path());
        assert_eq!(
            machine.unmount_target(&CancellationToken::new()).await,
            Ok(3)
        );
        let left: Vec<_> = machine
            .mounts()
            .into_iter()
            .map(|mount| mount.target)
            .collect();
        assert_eq!(left, [Path::new("/"), Path::new("/mnt2")]);
    }

    #[test]
    fn who_holds_a_directory_is_named() {
        let root = tempfile::tempdir().unwrap();
        let machine = machine(root.path());
        std::fs::create_dir_all(root.path().join("proc/812/fd")).unwrap();
        std::fs::write(root.path().join("proc/812/comm"), "nix-daemon\n").unwrap();
        std::os::unix::fs::symlink("/mnt/nix/store", root.path().join("proc/812/fd/7")).unwrap();
        let holders = machine.holders(Path::new("/mnt"));
        assert_eq!(holders, ["nix-daemon (pid 812) through /mnt/nix/store"]);
        assert_eq!(
            machine.holders(Path::new("/mnt/home")),
            Vec::<String>::new()
        );
    }
}
