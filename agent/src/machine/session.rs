//! Ends sessions of processes: a group alone is not enough, since programs such as `timeout` make groups of their own.

use std::path::Path;

use nix::{
    sys::signal::{Signal, kill as signal, killpg},
    unistd::{Pid, getpid},
};

/// A session of processes, killed when this is dropped.
#[derive(Debug)]
pub(super) struct Session(Option<Pid>);

impl Session {
    /// Takes over the session that this process leads.
    pub(super) fn of(leader: Option<Pid>) -> Self {
        Self(leader)
    }

    /// Lets the session live on.
    pub(super) fn let_go(&mut self) {
        self.0 = None;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            kill(leader);
        }
    }
}

/// Kills every process of the session that this process began.
fn kill(leader: Pid) {
    // a process may fork between the look and the kill; a few rounds catch its children
    for _ in 0..5 {
        let _ = killpg(leader, Signal::SIGKILL);
        let members = of_session(leader);
        if members.is_empty() {
            return;
        }
        for member in members {
            let _ = signal(member, Signal::SIGKILL);
        }
    }
}

/// Kills every process in whose environment this variable names a process that is dead.
pub(super) fn kill_orphans(variable: &str) {
    for pid in all().filter(|pid| *pid != getpid()) {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let owner = owner(&environ, variable);
        if owner.is_some_and(|owner| !Path::new(&format!("/proc/{owner}")).exists()) {
            let _ = signal(pid, Signal::SIGKILL);
        }
    }
}

/// Whether a process is there that has not ended.
pub(super) fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    session_of(&stat).is_some()
}

fn owner(environ: &[u8], variable: &str) -> Option<u32> {
    let text = String::from_utf8_lossy(environ);
    let mut entries = text.split('\0');
    entries.find_map(|entry| {
        entry
            .strip_prefix(variable)?
            .strip_prefix('=')?
            .parse()
            .ok()
    })
}

fn of_session(leader: Pid) -> Vec<Pid> {
    let member = |pid: &Pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        session_of(&stat) == Some(leader.as_raw())
    };
    all().filter(member).collect()
}

fn all() -> impl Iterator<Item = Pid> {
    let entries = std::fs::read_dir(Path::new("/proc"))
        .into_iter()
        .flatten()
        .flatten();
    entries.filter_map(|entry| Some(Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)))
}

/// Reads the session from a line of `/proc/PID/stat`; none for a process that is already dead.
fn session_of(stat: &str) -> Option<i32> {
    // the name in brackets may hold anything, brackets and spaces included
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        None
    } else {
        fields.nth(2)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_is_read_from_an_environment() {
        assert_eq!(owner(b"PATH=/bin\0OF=812\0A=\xff\0", "OF"), Some(812));
        assert_eq!(owner(b"OFF=812\0OF=x\0", "OF"), None);
        assert_eq!(owner(b"", "OF"), None);
    }

    #[test]
    fn session_is_found_behind_any_name() {
        assert_eq!(session_of("812 (sh) S 1 812 800 0 -1 4194560"), Some(800));
        assert_eq!(session_of("812 (a) b) R 2 3) S 1 812 801 0 -1"), Some(801));
        assert_eq!(session_of("812 (sh) Z 1 812 800 0 -1"), None);
        assert_eq!(session_of(""), None);
    }
}
