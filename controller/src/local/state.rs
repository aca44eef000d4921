//! What is remembered about a host between two commands, and the lock that keeps two of them apart.
//!
//! ```text
//! $XDG_STATE_HOME/landfall/<host>/        only ours
//!   lock                                  held while a command drives the host
//!   run.json                              which run is open, and the command line that asked for it
//!   installer/key, known_hosts            the way into an installer that a run has left running
//!   runs/<run id>/journal.jsonl           what the controller did
//!                 known_hosts             the host key, pinned
//!                 credentials.json        keys of the tunnel, gone with the run
//!                 key, key.pub            login to the installer, gone with the run
//!                 extra-files.tar         what is to be put on the system, gone with the run
//!                 alone.json              that the agent was left alone, until somebody drives again
//!                 events.jsonl            what was shown
//!                 words.txt               the newest command line, without secrets
//!                 bundle-<time>.tar.gz    what explains a failure; of a host the newest five
//! ```

use std::{
    fs,
    io::{self, Read, Seek, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use landfall_proto::{failure::Failure, order::RunId};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use secrecy::zeroize::Zeroizing;
use serde::{Deserialize, Serialize};

use super::{
    file::{self, cannot},
    record::Said,
};

/// What is remembered about one host. Holds the host's lock.
#[derive(Debug)]
pub struct State {
    folder: PathBuf,
    _lock: Flock<fs::File>,
}

/// The run that is open for a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRun {
    /// Its id.
    pub run: RunId,
    /// Hash of what was asked for; another hash means another wish.
    pub order: String,
    /// When it began, in seconds since 1970 by this machine's clock.
    pub began: u64,
    /// The newest command line that asked for it; none where that cannot be written down.
    #[serde(default)]
    pub said: Option<Said>,
}

/// A run that was left to its agent, and what will be found once that is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alone {
    /// Id of the installer's boot.
    pub boot_id: String,
    /// The system that is being installed, where one is.
    pub system: Option<String>,
}

/// Name of the file that says so.
const ALONE: &str = "alone.json";

/// The way into an installer that a run has left running: its login key, which may be the only one, and its host key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WayIn(PathBuf);

/// Name of the machine in the known_hosts file of its way in.
pub const INSTALLER: &str = "landfall-installer";

/// The folder of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFolder(PathBuf);

impl State {
    /// Opens what is remembered about a host (`host` or `host:port`), and keeps every other command off it.
    pub fn open(host: &str) -> Result<Self, Failure> {
        Self::open_in(&base()?, host)
    }

    pub(super) fn open_in(base: &Path, host: &str) -> Result<Self, Failure> {
        let folder = folder_of(base, host);
        file::private_folder(&folder)?;
        let lock = lock(&folder.join("lock"), host)?;
        Ok(Self {
            folder,
            _lock: lock,
        })
    }

    /// Returns the run that is open.
    pub fn current(&self) -> Result<Option<OpenRun>, Failure> {
        open_run(&self.folder)
    }

    /// Remembers a run as the open one, and makes its folder.
    pub fn begin(&self, open: &OpenRun) -> Result<RunFolder, Failure> {
        let run = self.run(&open.run);
        file::private_folder(&run.0)?;
        let bytes = serde_json::to_vec(open).expect("a run is plain data");
        file::write_private(&self.folder.join("run.json"), &bytes)?;
        Ok(run)
    }

    /// Forgets that a run is open, and its keys. What it did stays on record.
    pub fn end(&self, run: &RunId) -> Result<(), Failure> {
        let run = self.run(run);
        let gone = [
            self.folder.join("run.json"),
            run.credentials(),
            run.key(),
            run.public_key(),
            run.archive(),
        ];
        for path in gone {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(cannot("remove", &path).caused_by(&error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns the folder of a run.
    pub fn run(&self, run: &RunId) -> RunFolder {
        RunFolder(self.folder.join("runs").join(run.as_str()))
    }

    /// Returns the host's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl WayIn {
    /// Returns the way into the installer at this host and port; it may not be there.
    pub fn to(host: &str, port: Option<u16>) -> Result<Self, Failure> {
        Ok(Self::to_in(&base()?, host, port))
    }

    fn to_in(base: &Path, host: &str, port: Option<u16>) -> Self {
        // the port that is not named is the usual one
        let host = match port {
            None | Some(22) => host.to_owned(),
            Some(port) => format!("{host}:{port}"),
        };
        Self(folder_of(base, &host).join("installer"))
    }

    /// Returns the private key.
    pub fn key(&self) -> PathBuf {
        self.0.join("key")
    }

    /// Returns the known_hosts file, in which the machine is called [`INSTALLER`].
    pub fn known_hosts(&self) -> PathBuf {
        self.0.join("known_hosts")
    }

    /// Whether it is there.
    pub fn is_there(&self) -> bool {
        self.key().exists() && self.known_hosts().exists()
    }

    /// Keeps what a run used, for the runs after it.
    pub fn keep(&self, run: &RunFolder) -> Result<(), Failure> {
        if let Some(folder) = self.0.parent() {
            file::private_folder(folder)?;
        }
        file::private_folder(&self.0)?;
        copy_key(&run.known_hosts(), &self.known_hosts(), INSTALLER)?;
        let key = file::read(&run.key())?.map(Zeroizing::new);
        file::write_private(&self.key(), &key.unwrap_or_default())
    }

    /// Lets a run take the machine for the one that it was, under this name.
    pub fn pin(&self, run: &RunFolder, alias: &str) -> Result<(), Failure> {
        copy_key(&self.known_hosts(), &run.known_hosts(), alias)
    }

    /// Forgets it: the installer is gone.
    pub fn forget(&self) {
        // a key that cannot be removed opens nothing any more
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Copies the host keys of a known_hosts file, under another name.
fn copy_key(from: &Path, to: &Path, alias: &str) -> Result<(), Failure> {
    let known = file::read(from)?.unwrap_or_default();
    let renamed: String = String::from_utf8_lossy(&known)
        .lines()
        .filter_map(|line| Some(format!("{alias} {}\n", line.split_once(' ')?.1)))
        .collect();
    file::write_private(to, renamed.as_bytes())
}

impl RunFolder {
    /// Returns the folder of what is no run: it is nowhere on record, and whoever made it removes it.
    pub fn passing(path: PathBuf) -> Self {
        Self(path)
    }

    /// Copies what lets this machine in to another folder, as far as it is there.
    pub fn lend(&self, other: &Self) -> Result<(), Failure> {
        let lent = [
            (self.known_hosts(), other.known_hosts()),
            (self.key(), other.key()),
        ];
        for (from, to) in lent {
            if let Some(bytes) = file::read(&from)?.map(Zeroizing::new) {
                file::write_private(&to, &bytes)?;
            }
        }
        Ok(())
    }

    /// Returns the folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns the controller's journal.
    pub fn journal(&self) -> PathBuf {
        self.0.join("journal.jsonl")
    }

    /// Returns the known_hosts file with the pinned key.
    pub fn known_hosts(&self) -> PathBuf {
        self.0.join("known_hosts")
    }

    /// Whether the host key has been pinned.
    pub fn has_pin(&self) -> bool {
        self.known_hosts().exists()
    }

    /// Returns the keys of the tunnel.
    pub fn credentials(&self) -> PathBuf {
        self.0.join("credentials.json")
    }

    /// Whether the keys of the tunnel are there: the run is open.
    pub fn credentials_are_kept(&self) -> bool {
        self.credentials().exists()
    }

    /// Returns the private key that logs in to the installer.
    pub fn key(&self) -> PathBuf {
        self.0.join("key")
    }

    /// Returns its public line.
    pub fn public_key(&self) -> PathBuf {
        self.0.join("key.pub")
    }

    /// Returns the packed extra files.
    fn archive(&self) -> PathBuf {
        self.0.join("extra-files.tar")
    }

    /// Keeps the packed extra files until the run ends, and returns where.
    pub fn keep_archive(&self, mut file: fs::File) -> Result<PathBuf, Failure> {
        let path = self.archive();
        let mut kept = file::append_private(&path)?;
        // of a command that was killed meanwhile
        kept.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| io::copy(&mut file, &mut kept))
            .map_err(|error| cannot("write", &path).caused_by(&error))?;
        Ok(path)
    }

    /// Remembers that the run was left to its agent.
    pub fn set_alone(&self, alone: &Alone) -> Result<(), Failure> {
        let bytes = serde_json::to_vec(alone).expect("what is remembered is plain data");
        file::write_private(&self.0.join(ALONE), &bytes)
    }

    /// Returns how the run was left to its agent, if it was.
    pub fn alone(&self) -> Result<Option<Alone>, Failure> {
        let path = self.0.join(ALONE);
        let Some(bytes) = file::read(&path)? else {
            return Ok(None);
        };
        let alone = serde_json::from_slice(&bytes);
        alone
            .map(Some)
            .map_err(|error| cannot("read", &path).caused_by(&error))
    }

    /// Forgets that the run was left to its agent: somebody drives it again.
    pub fn forget_alone(&self) -> Result<(), Failure> {
        let path = self.0.join(ALONE);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(cannot("remove", &path).caused_by(&error))
            }
            _ => Ok(()),
        }
    }

    /// Returns the newest command line.
    pub fn words(&self) -> PathBuf {
        self.0.join("words.txt")
    }

    /// Returns the recorded events.
    pub fn events(&self) -> PathBuf {
        self.0.join("events.jsonl")
    }
}

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
    let locked = fs::File::create(&alive).and_then(|file| {
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno.into())
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

fn lock(path: &Path, host: &str) -> Result<Flock<fs::File>, Failure> {
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path);
    let file = file.map_err(|error| cannot("open", path).caused_by(&error))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            // who holds it, for the message of whoever comes second; it may stay unsaid
            let _ = lock
                .set_len(0)
                .and_then(|()| write!(lock, "{}", std::process::id()));
            Ok(lock)
        }
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            let who = match holder.trim() {
                "" => "another landfall".to_owned(),
                pid => format!("another landfall (process {pid})"),
            };
            Err(Failure::new(format!("refusing to drive {host} twice"))
                .because(format!("{who} is at work on it from this machine"))
                .hint("wait for it to end, or stop it with ctrl-c where it runs")
                .code("LF0401"))
        }
        Err((_, error)) => Err(cannot("lock", path).caused_by(&error)),
    }
}

/// Reads which run is open.
pub(super) fn open_run(folder: &Path) -> Result<Option<OpenRun>, Failure> {
    let path = folder.join("run.json");
    let Some(bytes) = file::read(&path)? else {
        return Ok(None);
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        cannot("read", &path)
            .caused_by(&error)
            .hint(format!("remove it: `rm {}`", path.display()))
    })
}

/// Returns the folder of a host, where everything about it is remembered.
pub(super) fn folder_of(base: &Path, host: &str) -> PathBuf {
    base.join("landfall").join(folder_name(host))
}

pub(super) fn base() -> Result<PathBuf, Failure> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_STATE_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".local/state")))
        .ok_or_else(|| {
            Failure::new("cannot find a folder for what is remembered")
                .because("neither XDG_STATE_HOME nor HOME is an absolute path")
                .hint("name one: `XDG_STATE_HOME=/var/lib/landfall landfall …`")
                .code("LF0421")
        })
}

/// Writes a host as one name of a folder; different hosts have different names.
pub(super) fn folder_name(host: &str) -> String {
    let mut name = String::new();
    for byte in host.to_lowercase().bytes() {
        match byte {
            b'.' if name.is_empty() => name.push_str("%2e"),
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b':' => name.push(char::from(byte)),
            _ => name.push_str(&format!("%{byte:02x}")),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_run() -> OpenRun {
        OpenRun {
            run: RunId::from_bytes([7; 16]),
            order: "x".into(),
            began: 1,
            said: None,
        }
    }

    #[test]
    fn second_command_for_the_same_host_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let first = State::open_in(base.path(), "h").unwrap();
        let refused = State::open_in(base.path(), "h").unwrap_err();
        assert_eq!(refused.what, "refusing to drive h twice");
        assert!(
            refused.causes[0].contains(&std::process::id().to_string()),
            "{refused:?}"
        );
        State::open_in(base.path(), "other").unwrap();
        drop(first);
        State::open_in(base.path(), "h").unwrap();
    }

    #[test]
    fn open_run_is_remembered_until_it_ends() {
        let base = tempfile::tempdir().unwrap();
        let state = State::open_in(base.path(), "h").unwrap();
        assert_eq!(state.current().unwrap(), None);
        let folder = state.begin(&open_run()).unwrap();
        fs::write(folder.key(), "secret").unwrap();
        assert_eq!(state.current().unwrap(), Some(open_run()));
        state.end(&open_run().run).unwrap();
        assert_eq!(state.current().unwrap(), None);
        assert!(!folder.key().exists() && folder.path().exists());
    }

    #[test]
    fn way_in_outlives_the_run_that_made_it() {
        let base = tempfile::tempdir().unwrap();
        let state = State::open_in(base.path(), "h:2222").unwrap();
        let run = state.begin(&open_run()).unwrap();
        fs::write(run.key(), "secret").unwrap();
        fs::write(run.known_hosts(), "landfall-07 ssh-ed25519 AAAA\n").unwrap();
        let way = WayIn::to_in(base.path(), "h", Some(22));
        assert!(!way.is_there());
        way.keep(&run).unwrap();
        state.end(&open_run().run).unwrap();

        let way = WayIn::to_in(base.path(), "h", None);
        assert!(way.is_there());
        assert_eq!(fs::read(way.key()).unwrap(), b"secret");
        way.pin(&run, "landfall-08").unwrap();
        assert_eq!(
            fs::read_to_string(run.known_hosts()).unwrap(),
            "landfall-08 ssh-ed25519 AAAA\n"
        );
        way.forget();
        assert!(!way.is_there());
    }

    #[test]
    fn hosts_do_not_leave_their_folder() {
        assert_eq!(folder_name("Host.example:22"), "host.example:22");
        assert_eq!(folder_name("../x"), "%2e.%2fx");
        assert_eq!(folder_name("fe80::1%eth0"), "fe80::1%25eth0");
    }

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
