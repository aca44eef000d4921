//! Child processes that never outlive this one, and the end of what they said.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
};

/// What is kept of a program's stderr. Enough for any message of ssh or nix, and a bound on what a banner can do.
const TAIL_MAX: usize = 32 << 10;

/// Which process group a child belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Ours: it may ask for a passphrase on the terminal.
    Ours,
    /// Its own: ctrl-c reaches only us, and its own children die with it.
    Own,
}

/// Variables that hold secrets meant for this program alone.
const SECRETS: [&str; 3] = ["SSHPASS", "SUDOPASS", "SSH_PRIVATE_KEY"];

/// Ties a child to this process: killed when its handle is dropped, and, on Linux, when this process dies. It does not
/// get to see the secrets that this process was given in its environment.
///
/// Spawn it from a thread of the runtime that lives as long as the runtime: the kernel watches the thread.
pub fn tie(command: &mut Command, group: Group) {
    command.kill_on_drop(true);
    for name in SECRETS {
        command.env_remove(name);
    }
    if group == Group::Own {
        command.process_group(0);
    }
    die_with_parent(command);
}

#[cfg(target_os = "linux")]
#[expect(
    unsafe_code,
    reason = "the standard library has no safe way to ask for a death signal"
)]
fn die_with_parent(command: &mut Command) {
    use nix::{
        errno::Errno,
        sys::{prctl, signal::Signal},
        unistd::{getpid, getppid},
    };
    let landfall = getpid();
    let prepare = move || -> std::io::Result<()> {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // a command that was killed before this line would be survived
        match getppid() == landfall {
            true => Ok(()),
            false => Err(Errno::ESRCH.into()),
        }
    };
    // SAFETY: between fork and exec only system calls are made, which are async-signal-safe and allocate nothing.
    unsafe {
        command.pre_exec(prepare);
    }
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent(_: &mut Command) {}

/// Kills a whole process group when it is dropped.
#[derive(Debug)]
pub struct GroupGuard(Option<nix::unistd::Pid>);

impl GroupGuard {
    /// Takes charge of the group led by this child.
    pub fn new(child: &tokio::process::Child) -> Self {
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        Self(pid.map(nix::unistd::Pid::from_raw))
    }

    /// Lets the group be: its leader has ended.
    pub fn release(&mut self) {
        self.0 = None;
    }
}

impl Drop for GroupGuard {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // it may have ended by itself
            let _ = nix::sys::signal::killpg(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// The end of what a program said, bounded. Clones show the same program.
#[derive(Clone, Default)]
pub struct Tail(Arc<Mutex<Vec<u8>>>);

impl Tail {
    /// Reads until the program closes its end.
    pub async fn fill(&self, mut from: impl AsyncRead + Unpin) {
        let mut buffer = vec![0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            self.add(&buffer[..count]);
        }
    }

    /// Adds bytes, forgetting the oldest ones beyond the bound.
    pub fn add(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(bytes);
        let excess = kept.len().saturating_sub(TAIL_MAX);
        kept.drain(..excess);
    }

    /// Returns what was kept, with control characters made harmless.
    pub fn text(&self) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        printable(&String::from_utf8_lossy(&kept))
    }
}

impl fmt::Debug for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tail").field(&self.text()).finish()
    }
}

/// Removes what could steer the terminal of whoever reads; keeps line ends and tabs.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\n' | '\t' => out.push(c),
            '\r' => {}
            '\u{1b}' if chars.peek() == Some(&'[') => {
                // colours: the sequence ends with its first letter
                chars.by_ref().find(char::is_ascii_alphabetic);
            }
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Returns the last lines that say something, at most `count` of them and 1 KiB.
pub fn last_lines(text: &str, count: usize) -> Vec<String> {
    let said: Vec<&str> = text
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect();
    let mut room = 1024_usize;
    let mut kept = Vec::new();
    for line in said.iter().rev().take(count) {
        let Some(rest) = room.checked_sub(line.len()) else {
            if kept.is_empty() {
                kept.push(line.chars().take(256).collect());
            }
            break;
        };
        room = rest;
        kept.push((*line).to_owned());
    }
    kept.reverse();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_cannot_steer_the_terminal() {
        assert_eq!(
            printable("\u{1b}[31mred\u{1b}[0m\u{7} \u{1b}]0;x\r\n"),
            "red\u{fffd} \u{fffd}]0;x\n"
        );
    }

    #[tokio::test]
    async fn child_does_not_get_the_secrets_of_this_process() {
        let mut command = Command::new("env");
        command.env_clear().env("SEEN", "1");
        for name in SECRETS {
            command.env(name, "hunter2");
        }
        tie(&mut command, Group::Own);
        let output = command.output().await.unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "SEEN=1\n");
    }

    #[test]
    fn tail_keeps_the_newest_bytes() {
        let tail = Tail::default();
        tail.add(&vec![b'a'; TAIL_MAX]);
        tail.add(b"end");
        assert_eq!(tail.text().len(), TAIL_MAX);
        assert!(tail.text().ends_with("aend"));
    }

    #[test]
    fn last_lines_are_bounded() {
        assert_eq!(last_lines("a\n\nb\nc\n", 2), ["b", "c"]);
        let long = "x".repeat(5000);
        assert_eq!(last_lines(&long, 3), ["x".repeat(256)]);
    }
}
