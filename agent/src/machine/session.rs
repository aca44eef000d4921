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

/// Kills every process that has this entry in its environment, except this one.
pub(super) fn kill_marked(entry: &str) {
    for pid in all().filter(|pid| *pid != getpid()) {
        let Ok(environ) = std::fs::read(format!("/proc/{pid}/environ")) else {
            continue;
        };
        if environ
            .split(|byte| *byte == 0)
            .any(|found| found == entry.as_bytes())
        {
            let _ = signal(pid, Signal::SIGKILL);
        }
    }
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
    fn session_is_found_behind_any_name() {
        assert_eq!(session_of("812 (sh) S 1 812 800 0 -1 4194560"), Some(800));
        assert_eq!(session_of("812 (a) b) R 2 3) S 1 812 801 0 -1"), Some(801));
        assert_eq!(session_of("812 (sh) Z 1 812 800 0 -1"), None);
        assert_eq!(session_of(""), None);
    }
}
