//! Commands for the machine's login shell, and how they become root there.
//!
//! Pure: words out. What must be written to a command's stdin before anything else is said here too.

use serde::{Deserialize, Serialize};

use crate::local::secret::Secret;

/// How root is reached after the login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Root {
    /// The login is root's.
    Already,
    /// By `sudo -n`.
    Sudo,
    /// By `sudo -S`, with a password that was found to be right.
    SudoPassword,
    /// By `doas -n`.
    Doas,
}

impl Root {
    /// Returns the words that stand before a command, with a space behind them.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Already => "",
            Self::Sudo => "sudo -n ",
            Self::SudoPassword => WITH_PASSWORD,
            Self::Doas => "doas -n ",
        }
    }
}

/// The words before a command that make root by a password on stdin: asked for anew each time, and without a prompt
/// that would mix with what is said.
const WITH_PASSWORD: &str = "sudo -S -k -p \"\" ";

/// A command for the login shell of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    line: String,
    wants_password: bool,
}

/// Follows the password on stdin: all that comes behind it is the command's own.
const GO: &str = "landfall-go";

/// Reads up to that line.
///
/// sudo reads the password byte by byte and no further, but not at all where its rules let this command pass without
/// one. Then the password is what comes first here, and is passed over. A shell's `read` takes no byte beyond the line.
const GATE: &str = r#"while IFS= read -r l; do if [ "$l" = landfall-go ]; then break; fi; done
"#;

impl Remote {
    /// A command as whoever logs in.
    pub fn plain(line: impl Into<String>) -> Self {
        Self {
            line: line.into(),
            wants_password: false,
        }
    }

    /// A script for a POSIX shell as root. It has no single quotes, so that it passes through any login shell.
    pub fn as_root(root: Root, script: &str) -> Self {
        debug_assert!(!script.contains('\''), "{script}");
        let gate = if root == Root::SudoPassword { GATE } else { "" };
        Self {
            line: format!("exec {}sh -c '{gate}{script}'", root.prefix()),
            wants_password: root == Root::SudoPassword,
        }
    }

    /// Returns it as ssh takes it.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// Returns what its stdin begins with; none where that belongs to the command from the first byte.
    pub(super) fn opening(&self, password: Option<&Secret>) -> Option<Secret> {
        if !self.wants_password {
            return None;
        }
        // without one, sudo says what is missing
        let password = password.map_or(&b""[..], Secret::expose);
        Some(Secret::new(
            [password, b"\n", GO.as_bytes(), b"\n"].concat(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn root_needs_nothing_on_stdin() {
        let command = Remote::as_root(Root::Already, "id");
        assert_eq!(command.line(), "exec sh -c 'id'");
        assert!(command.opening(Some(&Secret::copied(b"pw"))).is_none());
        assert_eq!(
            Remote::as_root(Root::Sudo, "id").line(),
            "exec sudo -n sh -c 'id'"
        );
    }

    /// Runs the command with a sudo that reads so many lines.
    fn payload(lines: usize) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let sudo = folder.path().join("sudo");
        let reads = "read -r word; ".repeat(lines);
        std::fs::write(
            &sudo,
            format!("#!/bin/sh\n{reads}while [ \"$1\" != sh ]; do shift; done; exec \"$@\"\n"),
        )
        .unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&sudo, mode).unwrap();
        let command = Remote::as_root(Root::SudoPassword, "exec cat");
        let path = std::env::var("PATH").unwrap();
        let mut shell = Command::new("sh")
            .args(["-c", command.line()])
            .env("PATH", format!("{}:{path}", folder.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let opening = command
            .opening(Some(&Secret::copied(b"pass word")))
            .unwrap();
        let mut stdin = shell.stdin.take().unwrap();
        stdin.write_all(opening.expose()).unwrap();
        stdin.write_all(b"\0pay\nload").unwrap();
        drop(stdin);
        shell.wait_with_output().unwrap().stdout
    }

    #[test]
    fn command_gets_its_own_bytes_whether_sudo_wants_a_password_or_not() {
        assert_eq!(payload(1), b"\0pay\nload");
        assert_eq!(payload(0), b"\0pay\nload");
    }
}
