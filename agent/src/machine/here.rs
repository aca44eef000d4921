//! What does not change while this agent process lives, and the order it has to take up if it does not.

use std::{
    collections::HashSet,
    fs,
    io::ErrorKind,
    os::unix::fs::symlink,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use landfall_proto::{
    failure::Failure,
    order::{Input, RunId},
};

use super::{Machine, broken, files, spool};

/// Is there once the controller has let go of the run.
const LET_GO: &str = "let-go";
/// Names the order for which the disks were about to be sealed.
const SEALED_FOR: &str = "sealed-for";
/// Names the run whose format has ended well. A link: it lies in its inode alone, and takes no room from a `/run` that is
/// full (tmpfs keeps the text of a short one there).
const FORMATTED: &str = "formatted";

/// What does not change while this agent process lives.
#[derive(Debug, Clone)]
pub struct Here {
    /// BLAKE3 of the running program.
    pub build: String,
    /// Id the kernel gave this boot.
    pub boot_id: String,
    /// Whether this system is an installer.
    pub installer: bool,
    /// Run that booted this system by kexec, empty for none.
    pub kexec_marker: String,
    /// Seconds without contact after which the machine boots its old system again, 0 for never.
    pub return_after: u64,
    /// Differs between agent processes.
    pub process: u64,
}

impl Machine {
    /// Looks at what does not change. Hashes the own program, so it takes a moment.
    pub fn here(&self) -> Result<Here, Failure> {
        let boot_id = self
            .read("/proc/sys/kernel/random/boot_id")
            .unwrap_or_default();
        let build = spool::hash(Path::new("/proc/self/exe"))?;
        let seed = format!("{boot_id} {} {:?}", std::process::id(), SystemTime::now());
        let mut process = [0; 8];
        process.copy_from_slice(&blake3::hash(seed.as_bytes()).as_bytes()[..8]);
        let marker = self.marker();
        Ok(Here {
            build,
            boot_id,
            installer: self.is_installer(),
            return_after: self.return_after(),
            kexec_marker: marker.map(|marker| marker.run.into()).unwrap_or_default(),
            process: u64::from_le_bytes(process),
        })
    }

    /// Returns the order that is open: one that was begun here and has not ended.
    pub fn open_order(&self) -> Result<Option<Vec<u8>>, Failure> {
        let path = self.dir().join("open-order.json");
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(broken(format!("cannot read {}", path.display()))(error)),
        }
    }

    /// Remembers an order until it has ended, so that an agent that comes after a crash goes on with it.
    pub fn set_open_order(&self, order: &[u8]) -> Result<(), Failure> {
        files::write(&self.dir().join("open-order.json"), order, 0o600)
    }

    /// Whether the controller has let go of the run, and its end is for the agent alone.
    pub fn is_let_go(&self) -> bool {
        self.dir().join(LET_GO).exists()
    }

    /// Remembers that the controller has let go, or that one has come back.
    pub fn set_let_go(&self, let_go: bool) -> Result<(), Failure> {
        match let_go {
            true => files::write(&self.dir().join(LET_GO), b"", 0o600),
            false => self.forget(LET_GO),
        }
    }

    fn forget(&self, name: &str) -> Result<(), Failure> {
        let path = self.dir().join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(broken(format!("cannot remove {}", path.display()))(error))
            }
            _ => Ok(()),
        }
    }

    /// Remembers for which order the disks are about to be sealed.
    pub fn set_sealed_for(&self, order: &str) -> Result<(), Failure> {
        files::write(&self.dir().join(SEALED_FOR), order.as_bytes(), 0o600)
    }

    /// Whether it was this order for which the disks were about to be sealed.
    pub fn is_sealed_for(&self, order: &str) -> bool {
        let kept = files::read(&self.dir().join(SEALED_FOR), order.len() as u64);
        kept.is_some_and(|kept| kept == order.as_bytes())
    }

    /// Remembers that something is done to the disks: whatever was about to be sealed on them is no longer all there is.
    pub fn forget_seal(&self) -> Result<(), Failure> {
        self.forget(SEALED_FOR)
    }

    /// Remembers that the format of this run has ended well, before anything is looked at.
    pub fn set_formatted(&self, run: &RunId) -> Result<(), Failure> {
        self.forget(FORMATTED)?;
        let path = self.dir().join(FORMATTED);
        symlink(run.as_str(), &path).map_err(broken(format!("cannot make {}", path.display())))
    }

    /// Whether the format of this run has ended well.
    pub fn is_formatted(&self, run: &RunId) -> bool {
        let named = fs::read_link(self.dir().join(FORMATTED));
        named.is_ok_and(|named| named == Path::new(run.as_str()))
    }

    /// Forgets the open order, and what was delivered for it.
    pub fn close_order(&self) {
        // what stays is an order that has ended: taking it up again finds every step done
        let _ = fs::remove_file(self.dir().join("open-order.json"));
        let _ = fs::remove_file(self.dir().join("supplied.json"));
    }

    /// Returns what the controller said to be there for the open order. What cannot be read has to be said again.
    pub fn supplied(&self) -> HashSet<Input> {
        let bytes = fs::read(self.dir().join("supplied.json")).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Remembers what the controller said to be there: nobody says it a second time to an agent that comes after a crash.
    pub fn set_supplied(&self, inputs: &HashSet<Input>) -> Result<(), Failure> {
        let names = serde_json::to_vec(inputs).expect("names are plain data");
        files::write(&self.dir().join("supplied.json"), &names, 0o600)
    }
}

/// Returns the wall clock, in seconds since 1970; for people only, since targets' clocks are wrong.
pub fn wall_clock() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
