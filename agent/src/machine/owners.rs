//! Gives parts of the new system to others, as `chown -R` does: no link is followed, no path is too long.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, ErrorKind, Read},
    os::fd::OwnedFd,
};

use landfall_proto::{
    failure::Failure,
    order::{Owner, Ownership, TargetPath},
};
use nix::{
    fcntl::{AtFlags, OFlag, openat},
    sys::stat::{Mode, SFlag, fstat},
    unistd::{Gid, Uid, fchownat},
};
use tokio_util::sync::CancellationToken;

use super::{
    Machine, broken,
    inside::{Inside, path_to},
};

/// How much of a list of accounts is read.
const ACCOUNTS_MAX: u64 = 4 << 20;

impl Machine {
    /// Gives something in the new system to somebody, with all that is below it, and returns how many files that were.
    /// Blocks.
    pub fn give(&self, owner: &Owner, stop: &CancellationToken) -> Result<u64, Failure> {
        let what = format!("cannot give {} to {}", owner.path, owner.owner);
        let inside = self.inside().map_err(broken(what.clone()))?;
        let (user, group) = self
            .ids(&inside, owner)
            .map_err(|failure| failure.under(what.clone()))?;
        let found = match inside.open(&owner.path, OFlag::O_PATH | OFlag::O_NOFOLLOW) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(Failure::new(what)
                    .because(format!("looking for {} in the new system", owner.path))
                    .caused_by(&error)
                    .hint("bring it with `--extra-files`, or correct the path given to `--chown`")
                    .code("LF1211"));
            }
            found => found.map_err(|error| broken(what.clone())(error).code("LF1211"))?,
        };
        let mut giving = Giving {
            user,
            group,
            stop,
            count: 0,
        };
        let given = giving.all(&found);
        given.map_err(|error| broken(what)(error).code("LF1211"))?;
        Ok(giving.count)
    }

    /// Returns user and group by number: names are the installer's, or else the new system's own.
    fn ids(&self, inside: &Inside, owner: &Owner) -> Result<(Option<Uid>, Option<Gid>), Failure> {
        let Ownership { user, group } = &owner.owner;
        let users = self.accounts(inside, "/etc/passwd");
        let unknown = |what: String| {
            Failure::new(what)
                .because("it is in the lists of neither the installer nor the new system")
                .hint(format!(
                    "accounts of the configuration come to be when it first boots; name them by number, such as `--chown {} 1000:100`",
                    owner.path
                ))
                .code("LF1212")
        };
        let uid = match user {
            None => None,
            Some(user) => {
                let found = number(user).or_else(|| find(&users, user, 2));
                Some(found.ok_or_else(|| unknown(format!("looking for user {user}")))?)
            }
        };
        let gid = match (group.as_deref(), user) {
            (None, _) => None,
            (Some(""), Some(user)) => {
                let found = find(&users, user, 3);
                Some(found.ok_or_else(|| unknown(format!("looking for the group of {user}")))?)
            }
            (Some(group), _) => {
                let groups = self.accounts(inside, "/etc/group");
                let found = number(group).or_else(|| find(&groups, group, 2));
                Some(found.ok_or_else(|| unknown(format!("looking for group {group}")))?)
            }
        };
        Ok((uid.map(Uid::from_raw), gid.map(Gid::from_raw)))
    }

    /// Reads a list of accounts: the installer's, then the new system's.
    fn accounts(&self, inside: &Inside, path: &str) -> Vec<String> {
        let list: TargetPath = path.parse().expect("it is an absolute path");
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
        let own = File::open(self.at(path));
        let new = inside.open(&list, flags).map(File::from);
        let read = |file: File| {
            let mut bytes = Vec::new();
            // what cannot be read names nobody
            let _ = file.take(ACCOUNTS_MAX).read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        };
        [own, new].into_iter().flatten().map(read).collect()
    }
}

/// Returns what is already a number.
fn number(name: &str) -> Option<u32> {
    name.parse().ok()
}

/// Finds the first line of an account, by its name or, where the name is a number, by that; and reads a number in it.
fn find(lists: &[String], name: &str, field: usize) -> Option<u32> {
    let lines = lists.iter().flat_map(|list| list.lines());
    let mut accounts = lines.map(|line| line.split(':').collect::<Vec<_>>());
    let account = accounts.find(|fields| {
        let id = fields.get(2).and_then(|id| id.parse::<u32>().ok());
        fields[0] == name || (id.is_some() && id == number(name))
    });
    account?.get(field)?.parse().ok()
}

/// The way through everything below a place.
struct Giving<'a> {
    user: Option<Uid>,
    group: Option<Gid>,
    stop: &'a CancellationToken,
    count: u64,
}

impl Giving<'_> {
    fn all(&mut self, place: &OwnedFd) -> io::Result<()> {
        let itself = AtFlags::AT_EMPTY_PATH | AtFlags::AT_SYMLINK_NOFOLLOW;
        fchownat(place, "", self.user, self.group, itself)?;
        self.count += 1;
        let kind = SFlag::from_bits_truncate(fstat(place)?.st_mode) & SFlag::S_IFMT;
        match kind == SFlag::S_IFDIR {
            true => self.below(place),
            false => Ok(()),
        }
    }

    fn below(&mut self, folder: &OwnedFd) -> io::Result<()> {
        // the list is let go of before the folders in it are opened: one descriptor a level is enough
        let mut folders: Vec<OsString> = Vec::new();
        for entry in fs::read_dir(path_to(folder))? {
            if self.stop.is_cancelled() {
                return Err(io::Error::other("the run was stopped"));
            }
            let (entry, itself) = (entry?, AtFlags::AT_SYMLINK_NOFOLLOW);
            let name = entry.file_name();
            fchownat(folder, name.as_os_str(), self.user, self.group, itself)?;
            self.count += 1;
            if entry.file_type()?.is_dir() {
                folders.push(name);
            }
        }
        for name in folders {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let next = openat(folder, name.as_os_str(), flags, Mode::empty())?;
            self.below(&next)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::{MetadataExt, symlink},
        path::Path,
    };

    use super::*;
    use crate::machine::stage::Stage;

    /// Numbers that the tests may give files: any for root, else their own.
    fn own_ids() -> (u32, u32) {
        match Uid::effective().is_root() {
            true => (1234, 4321),
            false => (Uid::effective().as_raw(), Gid::effective().as_raw()),
        }
    }

    fn owner(path: &str, owner: &str) -> Owner {
        Owner {
            path: path.parse().unwrap(),
            owner: owner.parse().unwrap(),
        }
    }

    fn give(stage: &Stage, path: &str, to: &str) -> Result<u64, Failure> {
        stage
            .machine()
            .give(&owner(path, to), &CancellationToken::new())
    }

    fn ids_of(path: &Path) -> (u32, u32) {
        let found = fs::symlink_metadata(path).unwrap();
        (found.uid(), found.gid())
    }

    #[test]
    fn everything_below_is_given_and_nothing_a_link_leads_to() {
        let stage = Stage::new()
            .file("mnt/home/user/.ssh/id", "key")
            .file("mnt/etc/other", "")
            .file("outside", "")
            .link("mnt/home/user/link", "/etc/other");
        let home = stage.root().join("mnt/home/user");
        symlink(stage.root().join("outside"), home.join(".ssh/out")).unwrap();
        let before = ids_of(&stage.root().join("outside"));
        let (user, group) = own_ids();
        assert_eq!(
            give(&stage, "/home/user", &format!("{user}:{group}")),
            Ok(5)
        );
        for path in ["", ".ssh", ".ssh/id", ".ssh/out", "link"] {
            assert_eq!(ids_of(&home.join(path)), (user, group), "{path}");
        }
        assert_eq!(ids_of(&stage.root().join("mnt/home")), before);
        assert_eq!(ids_of(&stage.root().join("mnt/etc/other")), before);
        assert_eq!(ids_of(&stage.root().join("outside")), before);
    }

    #[test]
    fn link_on_the_way_does_not_lead_out() {
        let stage = Stage::new()
            .file("mnt/persist/user/file", "")
            .file("persist/user/file", "")
            .link("mnt/home", "/persist");
        let before = ids_of(&stage.root().join("persist/user/file"));
        let (user, group) = own_ids();
        give(&stage, "/home/user", &format!("{user}:{group}")).unwrap();
        assert_eq!(
            ids_of(&stage.root().join("mnt/persist/user/file")),
            (user, group)
        );
        assert_eq!(ids_of(&stage.root().join("persist/user/file")), before);
    }

    #[test]
    fn long_path_is_given_whole() {
        let deep = format!("/{}", vec!["a-name-of-some-length"; 60].join("/"));
        let stage = Stage::new().file(&format!("mnt{deep}/file"), "");
        let (user, group) = own_ids();
        assert_eq!(give(&stage, &deep, &format!("{user}:{group}")), Ok(2));
        let file = stage.root().join(format!("mnt{deep}/file"));
        assert_eq!(ids_of(&file), (user, group));
    }

    #[test]
    fn path_that_is_not_there_is_a_failure() {
        let stage = Stage::new().file("mnt/etc/x", "");
        let failure = give(&stage, "/home/user", "0").unwrap_err();
        assert_eq!(failure.what, "cannot give /home/user to 0");
        assert_eq!(failure.code, "LF1211");
        assert_eq!(failure.hints.len(), 1);
    }

    #[test]
    fn what_is_left_out_stays_as_it_was() {
        let stage = Stage::new().file("mnt/file", "");
        let (before, (_, group)) = (ids_of(&stage.root().join("mnt/file")), own_ids());
        give(&stage, "/file", &format!(":{group}")).unwrap();
        assert_eq!(ids_of(&stage.root().join("mnt/file")), (before.0, group));
    }

    #[track_caller]
    fn check_ids(stage: &Stage, to: &str, expected: Option<(Option<u32>, Option<u32>)>) {
        let machine = stage.machine();
        let inside = machine.inside().unwrap();
        let found = machine.ids(&inside, &owner("/home", to));
        let raw = |(user, group): (Option<Uid>, Option<Gid>)| {
            (user.map(Uid::as_raw), group.map(Gid::as_raw))
        };
        let code = found.as_ref().err().map(|failure| failure.code.clone());
        assert_eq!(found.ok().map(raw), expected, "{to}");
        assert_eq!(
            code.as_deref(),
            expected.is_none().then_some("LF1212"),
            "{to}"
        );
    }

    #[test]
    fn names_are_the_installers_and_then_the_new_systems() {
        let stage = Stage::new()
            .file(
                "etc/passwd",
                "root:x:0:0::/root:/bin/sh\nnixos:x:1000:100::/home:/bin/sh\n",
            )
            .file("etc/group", "users:x:100:\nbroken\n")
            .file(
                "mnt/etc/passwd",
                "nixos:x:7:7::/:\nalice:x:1001:200::/home/alice:/bin/sh\n",
            )
            .file("mnt/etc/group", "wheel:x:1:alice\n");
        check_ids(&stage, "nixos:users", Some((Some(1000), Some(100))));
        check_ids(&stage, "alice:wheel", Some((Some(1001), Some(1))));
        check_ids(&stage, "alice:", Some((Some(1001), Some(200))));
        check_ids(&stage, "1001:", Some((Some(1001), Some(200))));
        check_ids(&stage, ":users", Some((None, Some(100))));
        check_ids(&stage, "4711:4712", Some((Some(4711), Some(4712))));
        check_ids(&stage, "+5", Some((Some(5), None)));
        for unknown in ["bob", "alice:bobs", "4711:", "broken", ":broken"] {
            check_ids(&stage, unknown, None);
        }
        let bare = Stage::new().file("mnt/x", "");
        check_ids(&bare, "0:0", Some((Some(0), Some(0))));
        check_ids(&bare, "root", None);
    }

    #[test]
    fn accounts_of_the_new_system_are_not_read_through_links_that_leave() {
        let stage = Stage::new()
            .file("secret", "eve:x:1:1::/:\n")
            .link("mnt/etc/passwd", "../../secret");
        check_ids(&stage, "eve", None);
    }
}
