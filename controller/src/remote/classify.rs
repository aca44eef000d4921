//! What OpenSSH's words mean. Pure: text and exit status in, a named trouble out.
//!
//! The texts are those of OpenSSH 8.5 to 10, with messages in English (`LC_ALL=C`).

use landfall_proto::failure::{Contact, Failure};

use crate::local::child::last_lines;

/// Why ssh failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// The name leads to no address.
    NoSuchHost,
    /// Nothing listens on the port, or a firewall says so.
    Refused,
    /// No answer in time.
    TimedOut,
    /// No route.
    Unreachable,
    /// None of the keys or passwords was accepted.
    AuthRefused,
    /// The password that was given is not the right one, or none is taken.
    PasswordRefused,
    /// The machine shows another key than the one that is known. Never gone past.
    HostKeyChanged,
    /// The machine's key is not known.
    HostKeyUnknown,
    /// The machine shows another key than at the beginning of this run. Never gone past.
    HostKeySwapped,
    /// Both sides know ssh, but no common algorithm.
    NoCommonAlgorithm,
    /// The connection was closed before anybody logged in: not an ssh server, overloaded, or shutting down.
    ClosedEarly,
    /// A private key cannot be used: missing, unreadable by its owner alone, or no key.
    BadIdentity,
    /// The machine lets nobody in while it boots or shuts down.
    NotReady,
    /// ssh does not understand an option.
    BadOption,
    /// A connection that was up is gone.
    Lost,
    /// There is no `ssh` on the path.
    NoProgram,
    /// ssh is fine; the command on the other side ended with this status.
    Remote(i32),
    /// Something else.
    Other,
}

/// What ssh met with, and its words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("connecting to {destination}: {}", trouble.seen())]
pub struct SshError {
    /// The machine as the user named it.
    pub destination: String,
    /// Why.
    pub trouble: Trouble,
    /// The end of what ssh wrote to stderr.
    pub said: String,
}

/// Phrases and their meaning; the first that is found wins, so what is more certain comes first.
const PHRASES: &[(&str, Trouble)] = &[
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        Trouble::HostKeyChanged,
    ),
    ("REVOKED HOST KEY DETECTED", Trouble::HostKeyChanged),
    (
        "differs from the key for the IP address",
        Trouble::HostKeyChanged,
    ),
    ("host key is known for", Trouble::HostKeyUnknown),
    ("Host key verification failed", Trouble::HostKeyUnknown),
    ("Bad configuration option", Trouble::BadOption),
    ("unsupported option", Trouble::BadOption),
    ("Bad port", Trouble::BadOption),
    ("bad configuration options", Trouble::BadOption),
    ("missing argument", Trouble::BadOption),
    ("Could not resolve hostname", Trouble::NoSuchHost),
    ("UNPROTECTED PRIVATE KEY FILE", Trouble::BadIdentity),
    ("System is booting up", Trouble::NotReady),
    ("System is going down", Trouble::NotReady),
    ("Identity file", Trouble::BadIdentity),
    ("Load key", Trouble::BadIdentity),
    ("Too many authentication failures", Trouble::AuthRefused),
    ("Permission denied", Trouble::AuthRefused),
    ("No more authentication methods", Trouble::AuthRefused),
    ("Unable to negotiate", Trouble::NoCommonAlgorithm),
    ("no matching", Trouble::NoCommonAlgorithm),
    ("Timeout, server", Trouble::Lost),
    ("client_loop: send disconnect", Trouble::Lost),
    ("closed by remote host", Trouble::Lost),
    ("Connection refused", Trouble::Refused),
    ("No route to host", Trouble::Unreachable),
    ("Network is unreachable", Trouble::Unreachable),
    ("Host is down", Trouble::Unreachable),
    ("Connection timed out", Trouble::TimedOut),
    ("Operation timed out", Trouble::TimedOut),
    ("timed out", Trouble::TimedOut),
    ("banner exchange", Trouble::ClosedEarly),
    ("Connection closed by", Trouble::ClosedEarly),
    ("Connection reset by", Trouble::ClosedEarly),
    ("Broken pipe", Trouble::Lost),
];

/// What waiting cannot mend.
const STAYS: [Trouble; 8] = [
    Trouble::HostKeyChanged,
    Trouble::HostKeyUnknown,
    Trouble::HostKeySwapped,
    Trouble::PasswordRefused,
    Trouble::NoCommonAlgorithm,
    Trouble::BadIdentity,
    Trouble::BadOption,
    Trouble::NoProgram,
];

/// Code of a machine that shows another host key.
pub const STRANGER: &str = "LF0106";

/// Code of a machine that lets nobody in.
pub const LOGIN_REFUSED: &str = "LF0105";

/// Whether waiting may help against a failure with this code.
pub fn may_pass(code: &str) -> bool {
    !STAYS.iter().any(|trouble| trouble.code() == code)
}

/// Says what ssh's words and exit status mean; none when it was not ssh that failed.
pub fn classify(said: &str, status: Option<i32>) -> Option<Trouble> {
    match status {
        // 255 is ssh's own word for any trouble of its own; no status: it was killed
        Some(255) | None => {}
        Some(_) => return None,
    }
    // what a jump host says about the real reason comes beside this line, which only says that nothing came
    let (early, rest): (Vec<&str>, Vec<&str>) = said
        .lines()
        .partition(|line| line.starts_with("kex_exchange_identification"));
    let rest = rest.join("\n");
    let known = PHRASES.iter().find(|(phrase, _)| rest.contains(phrase));
    let otherwise = if early.is_empty() {
        Trouble::Other
    } else {
        Trouble::ClosedEarly
    };
    Some(known.map_or(otherwise, |(_, trouble)| *trouble))
}

impl Trouble {
    /// Says in a few words what is seen, for progress lines.
    pub fn seen(self) -> String {
        let words = match self {
            Self::NoSuchHost => "the name leads to no address",
            Self::Refused => "connection refused",
            Self::TimedOut => "no answer",
            Self::Unreachable => "no route to the machine",
            Self::AuthRefused => "login refused",
            Self::PasswordRefused => "password refused",
            Self::HostKeyChanged => "another host key",
            Self::HostKeyUnknown => "unknown host key",
            Self::HostKeySwapped => "another host key than at the beginning of this run",
            Self::NoCommonAlgorithm => "no common algorithm",
            Self::ClosedEarly => "connection closed before login",
            Self::BadIdentity => "unusable private key",
            Self::NotReady => "the machine is not ready for logins",
            Self::BadOption => "ssh does not understand an option",
            Self::Lost => "connection lost",
            Self::NoProgram => "there is no `ssh`",
            Self::Remote(code) => return format!("the command ended with status {code}"),
            Self::Other => "ssh failed",
        };
        words.to_owned()
    }

    /// Says what a trouble means on a connection that trusts one key only.
    pub(super) fn when_pinned(self) -> Self {
        match self {
            Self::HostKeyChanged | Self::HostKeyUnknown => Self::HostKeySwapped,
            other => other,
        }
    }

    /// Whether waiting may help.
    pub fn may_pass(self) -> bool {
        !STAYS.contains(&self)
    }

    fn code(self) -> &'static str {
        match self {
            Self::NoSuchHost => "LF0101",
            Self::Refused => "LF0102",
            Self::TimedOut => "LF0103",
            Self::Unreachable => "LF0104",
            Self::AuthRefused => LOGIN_REFUSED,
            Self::HostKeyChanged | Self::HostKeySwapped => STRANGER,
            Self::HostKeyUnknown => "LF0107",
            Self::NoCommonAlgorithm => "LF0108",
            Self::ClosedEarly => "LF0109",
            Self::BadIdentity => "LF0110",
            Self::NotReady => "LF0111",
            Self::BadOption => "LF0112",
            Self::Lost => "LF0113",
            Self::NoProgram => "LF0114",
            Self::PasswordRefused => "LF0115",
            Self::Remote(_) | Self::Other => "LF0119",
        }
    }

    fn hint(self, destination: &str) -> Option<String> {
        let hint = match self {
            Self::NoSuchHost => format!("check the name; `ssh {destination}` should log you in"),
            Self::Refused => {
                "is the port right (`-p PORT`), and does sshd run on the machine?".to_owned()
            }
            Self::TimedOut | Self::Unreachable => format!(
                "is the machine up, and does a firewall or a VPN stand between? try `ssh -v {destination}`"
            ),
            Self::AuthRefused => format!(
                "name a key the machine accepts with `-i FILE`, or load one with `ssh-add`; `ssh {destination}` should log you in"
            ),
            Self::PasswordRefused => format!(
                "check the password: `ssh {destination}` should log you in with it; for root, many machines take keys only"
            ),
            Self::HostKeyChanged => format!(
                "if the machine was reinstalled on purpose, forget its old key with `ssh-keygen -R {}`; if not, somebody may stand between",
                host_of(destination)
            ),
            Self::HostKeyUnknown => format!(
                "log in once with `ssh {destination}` to check the key, or name it with `--host-key SHA256:…`"
            ),
            Self::HostKeySwapped => {
                "look at the machine's console: is this still the same machine? compare `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub`".to_owned()
            }
            Self::NoCommonAlgorithm => {
                "allow the algorithm that the machine offers, such as `--ssh-option HostKeyAlgorithms=+ssh-rsa`".to_owned()
            }
            Self::ClosedEarly => {
                format!("does an ssh server listen on this port? try `ssh -v {destination}`")
            }
            Self::BadIdentity => {
                "name a private key that only you can read with `-i FILE` (`chmod 600 FILE`)".to_owned()
            }
            Self::NotReady => "run the same command again in a minute".to_owned(),
            Self::BadOption => {
                "check `--ssh-option` and `~/.ssh/config`; ssh has to be OpenSSH 8.5 or newer (`ssh -V`)".to_owned()
            }
            Self::Lost => "run the same command again: it goes on where it broke off".to_owned(),
            Self::NoProgram => "install OpenSSH's client, so that `ssh -V` works".to_owned(),
            Self::Remote(_) | Self::Other => format!("try `ssh -v {destination}`"),
        };
        Some(hint)
    }
}

/// Lines of ssh that say nothing about why.
fn is_noise(line: &str) -> bool {
    line.starts_with("Warning: Permanently added")
        || line.starts_with("debug")
        || line.starts_with("** ")
}

/// Picks the lines of ssh that say why: of its page about a changed key the new fingerprint and where the old one stands.
fn telling(trouble: Trouble, said: &str) -> Vec<String> {
    let lines = said.lines().filter(|line| !is_noise(line));
    if matches!(trouble, Trouble::HostKeyChanged | Trouble::HostKeySwapped) {
        let of_use = |line: &&str| {
            line.starts_with("SHA256:")
                || line.starts_with("Offending")
                || line.contains("key is known for")
        };
        return lines.filter(of_use).map(str::to_owned).collect();
    }
    last_lines(&lines.collect::<Vec<_>>().join("\n"), 3)
}

/// Whether the machine named a password among the ways to log in.
fn takes_passwords(said: &str) -> bool {
    let ways = said
        .lines()
        .filter_map(|line| line.split_once("Permission denied (")?.1.split(')').next());
    ways.flat_map(|ways| ways.split(','))
        .any(|way| matches!(way, "password" | "keyboard-interactive"))
}

impl From<SshError> for Failure {
    fn from(error: SshError) -> Self {
        let mut failure = Self::new(format!("cannot connect to {}", error.destination))
            .because(error.trouble.seen())
            .code(error.trouble.code())
            .contact(Contact::Unseen);
        for line in telling(error.trouble, &error.said) {
            failure = failure.because(format!("ssh: {}", line.trim_start_matches("ssh: ")));
        }
        if let Some(hint) = error.trouble.hint(&error.destination) {
            failure = failure.hint(hint);
        }
        if error.trouble == Trouble::AuthRefused && takes_passwords(&error.said) {
            failure = failure.hint(
                "it takes passwords too: run this on a terminal to be asked, or `SSHPASS=… landfall --env-password …`",
            );
        }
        failure
    }
}

/// Returns the host part of a destination.
fn host_of(destination: &str) -> &str {
    let text = destination.strip_prefix("ssh://").unwrap_or(destination);
    text.rsplit_once('@').map_or(text, |(_, host)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(said: &str, expected: Trouble) {
        assert_eq!(classify(said, Some(255)), Some(expected), "{said}");
    }

    #[test]
    fn words_of_openssh_are_understood() {
        check(
            "ssh: Could not resolve hostname nosuch.invalid: Name or service not known\r\n",
            Trouble::NoSuchHost,
        );
        check(
            "ssh: connect to host 127.0.0.1 port 1: Connection refused\r\n",
            Trouble::Refused,
        );
        check(
            "ssh: connect to host 192.0.2.1 port 22: Connection timed out\r\n",
            Trouble::TimedOut,
        );
        check(
            "Connection timed out during banner exchange\nConnection to 127.0.0.1 port 9 timed out\n",
            Trouble::TimedOut,
        );
        check(
            "ssh: connect to host 192.0.2.1 port 22: No route to host\n",
            Trouble::Unreachable,
        );
        check(
            "ssh: connect to host ::1 port 22: Network is unreachable\n",
            Trouble::Unreachable,
        );
        check(
            "root@127.0.0.1: Permission denied (publickey).\n",
            Trouble::AuthRefused,
        );
        check(
            "Received disconnect from 127.0.0.1 port 2222:2: Too many authentication failures\n",
            Trouble::AuthRefused,
        );
        check(
            "No ED25519 host key is known for [127.0.0.1]:2222 and you have requested strict checking.\n\
             Host key verification failed.\n",
            Trouble::HostKeyUnknown,
        );
        check(
            "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\nHost key verification failed.\n",
            Trouble::HostKeyChanged,
        );
        check(
            "Unable to negotiate with 127.0.0.1 port 22: no matching host key type found. Their offer: ssh-rsa\n",
            Trouble::NoCommonAlgorithm,
        );
        check(
            "kex_exchange_identification: read: Connection reset by peer\nConnection reset by 127.0.0.1 port 22\n",
            Trouble::ClosedEarly,
        );
        check(
            "kex_exchange_identification: Connection closed by remote host\n",
            Trouble::ClosedEarly,
        );
        check(
            "Connection closed by 127.0.0.1 port 2222\n",
            Trouble::ClosedEarly,
        );
        check(
            "Warning: Identity file /nokey not accessible: No such file or directory.\n\
             root@127.0.0.1: Permission denied (publickey).\n",
            Trouble::BadIdentity,
        );
        check(
            "command-line: line 0: Bad configuration option: foo\n",
            Trouble::BadOption,
        );
        check("client_loop: send disconnect: Broken pipe\n", Trouble::Lost);
        check("Timeout, server 127.0.0.1 not responding.\n", Trouble::Lost);
        check(
            "Connection to 127.0.0.1 closed by remote host.\n",
            Trouble::Lost,
        );
        check(
            "channel 0: open failed: connect failed: Connection refused\nstdio forwarding failed\n\
             Connection closed by UNKNOWN port 65535\n",
            Trouble::Refused,
        );
        check(
            "\"System is booting up. Unprivileged users are not permitted to log in yet.\"\nConnection closed by 127.0.0.1 port 22\n",
            Trouble::NotReady,
        );
        check("what is this\n", Trouble::Other);
    }

    #[test]
    fn command_that_fails_is_no_trouble_of_ssh() {
        assert_eq!(classify("Permission denied", Some(1)), None);
        assert_eq!(classify("", Some(0)), None);
    }

    #[test]
    fn failure_says_what_was_seen_and_what_to_type() {
        let error = SshError {
            destination: "root@h".into(),
            trouble: Trouble::Refused,
            said: "ssh: connect to host h port 22: Connection refused\n".into(),
        };
        let failure = Failure::from(error);
        assert_eq!(failure.what, "cannot connect to root@h");
        assert_eq!(
            failure.causes,
            [
                "connection refused",
                "ssh: connect to host h port 22: Connection refused"
            ]
        );
        assert_eq!(failure.hints.len(), 1);
    }

    #[test]
    fn machine_that_takes_passwords_is_told() {
        let hints = |said: &str| {
            let error = SshError {
                destination: "op@h".into(),
                trouble: Trouble::AuthRefused,
                said: said.to_owned(),
            };
            Failure::from(error).hints.len()
        };
        assert_eq!(hints("op@h: Permission denied (publickey).\n"), 1);
        assert_eq!(hints("op@h: Permission denied (publickey,password).\n"), 2);
    }

    #[test]
    fn host_is_found_in_any_form() {
        assert_eq!(host_of("root@h"), "h");
        assert_eq!(host_of("ssh://root@h:22"), "h:22");
        assert_eq!(host_of("h"), "h");
    }
}
