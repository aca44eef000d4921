//! The user's own ssh, run as a child: its command line, one command at a time, and tunnels over its standard streams.
//!
//! Their configuration, jump hosts, agents and hardware keys work because nothing of ssh is done here.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    process::{Child, ChildStdin, Command},
};

use super::{
    askpass::{Asker, Ticket},
    classify::{self, SshError, Trouble},
    shell::Remote,
    tunnel::Tunnel,
};
use crate::local::{
    child::{self, Group, Tail},
    secret::Secret,
};

/// How the host key is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
enum HostKeys {
    /// Whichever key is shown is appended to the file.
    Look { log: PathBuf, trust: Trust },
    /// The key in this known_hosts file under this alias, and no other.
    Only {
        file: PathBuf,
        alias: String,
        /// Whether the first key that is shown is written there.
        first: bool,
    },
}

/// Which key is good enough to log in while nothing is pinned yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trust {
    /// One that the user's ssh knows.
    Configured,
    /// One with these fingerprints (`SHA256:…`), whatever the user's ssh knows.
    Fingerprints(Vec<String>),
    /// Any.
    Any,
}

/// How to reach a machine by ssh.
#[derive(Debug, Clone)]
pub struct Ssh {
    program: OsString,
    destination: String,
    port: Option<u16>,
    identities: Vec<PathBuf>,
    run_key: Option<PathBuf>,
    options: Vec<String>,
    host_keys: Option<HostKeys>,
    asker: Option<Asker>,
    passwords: bool,
    sudo: Option<Secret>,
}

/// What a remote command left behind.
#[derive(Debug)]
pub struct Output {
    /// Its exit status; none when a signal ended it.
    pub status: Option<i32>,
    /// What it wrote to stdout.
    pub stdout: Vec<u8>,
    /// The end of what it and ssh wrote to stderr, control characters removed.
    pub stderr: String,
}

impl Ssh {
    /// Names a machine the way the user named it: `host`, `user@host`, an alias of their configuration, or `ssh://…`.
    pub fn new(destination: impl Into<String>) -> Self {
        Self {
            program: "ssh".into(),
            destination: destination.into(),
            port: None,
            identities: Vec::new(),
            run_key: None,
            options: Vec::new(),
            host_keys: None,
            asker: None,
            passwords: true,
            sudo: None,
        }
    }

    /// Sets the port, or takes it from the user's configuration.
    #[must_use]
    pub fn port(mut self, port: Option<u16>) -> Self {
        self.port = port;
        self
    }

    /// Logs in with these keys and no others.
    #[must_use]
    pub fn identities(mut self, identities: Vec<PathBuf>) -> Self {
        self.identities = identities;
        self
    }

    /// Logs in with the key of this run, before any other.
    #[must_use]
    pub fn run_key(mut self, key: Option<PathBuf>) -> Self {
        self.run_key = key;
        self
    }

    /// Adds the user's own `-o` options; they win over ours, except over a pinned host key.
    #[must_use]
    pub fn options(mut self, options: Vec<String>) -> Self {
        self.options = options;
        self
    }

    /// Lets somebody answer what ssh asks; without, it asks nothing.
    #[must_use]
    pub fn asker(mut self, asker: Option<Asker>) -> Self {
        self.asker = asker;
        self
    }

    /// Logs in by keys only: whoever answers is not to hear a password.
    #[must_use]
    pub fn without_passwords(mut self) -> Self {
        self.passwords = false;
        self
    }

    /// Becomes root with this password, where a command needs one.
    #[must_use]
    pub fn sudo(mut self, password: Option<Secret>) -> Self {
        self.sudo = password;
        self
    }

    /// Trusts only the key that this file has under this alias.
    #[must_use]
    pub fn pinned(mut self, file: &Path, alias: &str) -> Self {
        self.host_keys = Some(HostKeys::Only {
            file: file.to_owned(),
            alias: alias.to_owned(),
            first: false,
        });
        self
    }

    /// Takes the first key that the machine shows under this alias, and from then on only that one, until
    /// [`Self::forget_first`]. Nobody knows whose key that is: no password is given to it.
    #[must_use]
    pub fn accepting(mut self, file: &Path, alias: &str) -> Self {
        self.host_keys = Some(HostKeys::Only {
            file: file.to_owned(),
            alias: alias.to_owned(),
            first: true,
        });
        self.without_passwords()
    }

    /// Forgets the key that was taken because it was the first: it was somebody else's. Pinned ones stay.
    pub fn forget_first(&self) {
        if let Some(HostKeys::Only {
            file, first: true, ..
        }) = &self.host_keys
        {
            // none was taken, or the next try fails and says why
            let _ = std::fs::remove_file(file);
        }
    }

    /// Writes the key that the machine shows to a file, and logs in only if it is trusted.
    pub(super) fn looking(mut self, log: &Path, trust: Trust) -> Self {
        self.host_keys = Some(HostKeys::Look {
            log: log.to_owned(),
            trust,
        });
        self
    }

    /// Returns the machine as the user named it.
    pub fn destination(&self) -> &str {
        &self.destination
    }

    /// Whether a person may be asked, which takes its time.
    pub fn asks(&self) -> bool {
        self.asker.as_ref().is_some_and(Asker::has_person)
    }

    /// Returns ssh's arguments for running `remote` in the login shell.
    pub fn arguments(&self, remote: &str) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        let mut option = |text: String| arguments.extend(["-o".into(), text.into()]);
        for (name, value) in self.host_key_options() {
            option(format!("{name}={value}"));
        }
        let asker = self.asker.as_ref();
        if !self.passwords {
            option("PasswordAuthentication=no".to_owned());
            option("KbdInteractiveAuthentication=no".to_owned());
        } else if asker.is_some_and(|asker| asker.has_password() || !asker.has_person()) {
            // what is known from the start is not more right the second time
            option("NumberOfPasswordPrompts=1".to_owned());
        }
        self.options.iter().cloned().for_each(&mut option);
        for (name, value) in DEFAULTS {
            option(format!("{name}={value}"));
        }
        // the configuration may be less strict
        option("StrictHostKeyChecking=yes".to_owned());
        if asker.is_none() {
            option("BatchMode=yes".to_owned());
        }
        let named = self.run_key.is_some() || !self.identities.is_empty();
        // a password that was given is meant: all the keys of a key agent before it would use up the tries
        if named || asker.is_some_and(Asker::has_password) {
            option("IdentitiesOnly=yes".to_owned());
        }
        for key in self.run_key.iter().chain(&self.identities) {
            arguments.extend(["-i".into(), key.into()]);
        }
        if let Some(port) = self.port {
            arguments.extend(["-p".into(), port.to_string().into()]);
        }
        arguments.extend(["-T", "--", &self.destination, remote].map(OsString::from));
        arguments
    }

    /// Runs a command in the login shell and waits for its end, at most until the deadline.
    ///
    /// An error means that ssh failed; a command that failed has its status in the output. Dropping the future ends ssh.
    pub async fn run(
        &self,
        remote: &Remote,
        input: &[u8],
        deadline: Duration,
    ) -> Result<Output, SshError> {
        let opening = remote.opening(self.sudo.as_ref());
        let stdin = if input.is_empty() && opening.is_none() {
            Stdio::null()
        } else {
            Stdio::piped()
        };
        let (mut child, ticket) = self.spawn(remote, stdin)?;
        let tail = Tail::default();
        let stderr = child.stderr.take().expect("stderr is piped");
        let mut stdout = child.stdout.take().expect("stdout is piped");
        let stdin = child.stdin.take();
        let work = async {
            let feed = async {
                if let Some(mut stdin) = stdin {
                    // whoever does not read to the end says why by its status
                    if let Some(opening) = opening {
                        let _ = stdin.write_all(opening.expose()).await;
                    }
                    let _ = stdin.write_all(input).await;
                    let _ = stdin.shutdown().await;
                }
            };
            let read = read_bounded(&mut stdout);
            let ((), out, ()) = tokio::join!(feed, read, tail.fill(stderr));
            child.wait().await.map(|status| (status, out))
        };
        let done = tokio::time::timeout(deadline, work).await;
        let stderr = tail.text();
        let (status, stdout) = match done {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => return Err(self.trouble(Trouble::Other, error.to_string())),
            Err(_) => return Err(self.trouble(Trouble::TimedOut, stderr)),
        };
        match classify::classify(&stderr, status.code()) {
            Some(trouble) => Err(self.trouble(Ticket::judge(ticket.as_ref(), trouble), stderr)),
            None => Ok(Output {
                status: status.code(),
                stdout,
                stderr,
            }),
        }
    }

    /// Starts a command in the login shell and returns its standard streams as one connection.
    pub fn tunnel(&self, remote: &Remote) -> Result<Tunnel, SshError> {
        let (mut child, ticket) = self.spawn(remote, Stdio::piped())?;
        if let Some(opening) = remote.opening(self.sudo.as_ref()) {
            let stdin = child.stdin.take().expect("stdin is piped");
            let opened = open_with(stdin, &opening);
            let opened = opened.map_err(|error| self.trouble(Trouble::Other, error.to_string()));
            child.stdin = Some(opened?);
        }
        let destination = self.destination.clone();
        Ok(Tunnel::new(child, destination, self.is_pinned(), ticket))
    }

    fn spawn(&self, remote: &Remote, stdin: Stdio) -> Result<(Child, Option<Ticket>), SshError> {
        let mut command = Command::new(&self.program);
        command.args(self.arguments(remote.line()));
        command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // messages are read by a program; keys and agents come from the rest of the environment
        command.env("LC_ALL", "C");
        child::tie(&mut command, Group::Ours);
        let spawned = match &self.asker {
            Some(asker) => asker
                .spawn(&mut command)
                .map(|(child, ticket)| (child, Some(ticket))),
            None => command.spawn().map(|child| (child, None)),
        };
        spawned.map_err(|error| {
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            let trouble = if missing {
                Trouble::NoProgram
            } else {
                Trouble::Other
            };
            self.trouble(trouble, error.to_string())
        })
    }

    fn is_pinned(&self) -> bool {
        matches!(self.host_keys, Some(HostKeys::Only { first: false, .. }))
    }

    fn trouble(&self, trouble: Trouble, said: String) -> SshError {
        let trouble = if self.is_pinned() {
            trouble.when_pinned()
        } else {
            trouble
        };
        SshError {
            destination: self.destination.clone(),
            trouble,
            said,
        }
    }

    fn host_key_options(&self) -> Vec<(&'static str, String)> {
        match &self.host_keys {
            None => vec![],
            Some(HostKeys::Only { file, alias, first }) => {
                let strict = if *first { "accept-new" } else { "yes" };
                vec![
                    ("UserKnownHostsFile", option_path(file)),
                    ("GlobalKnownHostsFile", "/dev/null".to_owned()),
                    ("KnownHostsCommand", "none".to_owned()),
                    ("StrictHostKeyChecking", strict.to_owned()),
                    ("HostKeyAlias", alias.clone()),
                    ("VerifyHostKeyDNS", "no".to_owned()),
                    ("UpdateHostKeys", "no".to_owned()),
                ]
            }
            Some(HostKeys::Look { log, trust }) => look_options(log, trust),
        }
    }
}

fn look_options(log: &Path, trust: &Trust) -> Vec<(&'static str, String)> {
    let pins: &[String] = if let Trust::Fingerprints(pins) = trust {
        pins
    } else {
        &[]
    };
    let mut options = vec![
        ("KnownHostsCommand", known_hosts_command(log, pins)),
        ("FingerprintHash", "sha256".to_owned()),
        ("UpdateHostKeys", "no".to_owned()),
    ];
    let strict = if *trust == Trust::Any { "no" } else { "yes" };
    options.push(("StrictHostKeyChecking", strict.to_owned()));
    if *trust != Trust::Configured {
        options.push(("UserKnownHostsFile", "/dev/null".to_owned()));
        options.push(("GlobalKnownHostsFile", "/dev/null".to_owned()));
        options.push(("VerifyHostKeyDNS", "no".to_owned()));
    }
    options
}

/// Ours, below the user's. A command in the user's configuration would take the place of the one that is run, a shared
/// connection would survive the old kernel in name only, and an escape character would eat bytes of a tunnel.
///
/// A connection that is dead without a word is noticed after 20 s of silence. Not so a slow one: the far side tells of
/// every 96 KiB that it has taken, which is once in 20 s at 40 kbit/s.
const DEFAULTS: &[(&str, &str)] = &[
    ("ConnectTimeout", "10"),
    ("ServerAliveInterval", "5"),
    ("ServerAliveCountMax", "3"),
    ("RemoteCommand", "none"),
    ("PermitLocalCommand", "no"),
    ("ControlMaster", "no"),
    ("ControlPath", "none"),
    ("ClearAllForwardings", "yes"),
    ("ForwardAgent", "no"),
    ("ForwardX11", "no"),
    ("EscapeChar", "none"),
    ("VisualHostKey", "no"),
];

/// Largest output of a command that is kept. Ours print less than 4 KiB; a login script may print anything.
const STDOUT_MAX: usize = 1 << 20;

/// Writes the first bytes of a tunnel, which its far side waits for before it says anything.
///
/// They are few: a pipe that is new takes them at once, whether somebody reads or not.
fn open_with(stdin: ChildStdin, opening: &Secret) -> std::io::Result<ChildStdin> {
    use std::io::Write;
    let mut pipe = std::process::ChildStdin::from(stdin.into_owned_fd()?);
    pipe.write_all(opening.expose())?;
    ChildStdin::from_std(pipe)
}

async fn read_bounded(from: &mut (impl tokio::io::AsyncRead + Unpin)) -> Vec<u8> {
    use tokio::io::AsyncReadExt;
    let mut kept = Vec::new();
    let mut buffer = vec![0; 8192];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..count]);
        // what counts comes last, after the noise of login scripts
        let excess = kept.len().saturating_sub(STDOUT_MAX);
        kept.drain(..excess);
    }
    kept
}

/// Writes a path for an option that takes a list of files with `%` and `${}` in them.
fn option_path(path: &Path) -> String {
    format!("\"{}\"", path.display().to_string().replace('%', "%%"))
}

/// The command that ssh asks for known keys: it writes down what it was asked, and knows the keys with these
/// fingerprints.
///
/// Each line is `reason type key fingerprint`; a connection asks more than once.
fn known_hosts_command(log: &Path, pins: &[String]) -> String {
    let log = log.display().to_string().replace('%', "%%");
    let answer = if pins.is_empty() {
        String::new()
    } else {
        format!(
            r#"; case "$4" in {}) echo "$5 $2 $3";; esac"#,
            pins.join("|")
        )
    };
    format!(r#"/bin/sh -c 'echo "$1 $2 $3 $4" >>"$0"{answer}' "{log}" %I %t %K %f %H"#)
}

/// Quotes a word for any login shell that knows single quotes.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:=@,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(ssh: &Ssh) -> String {
        let words = ssh.arguments("true");
        words
            .iter()
            .map(|word| word.to_str().unwrap())
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn options_of_the_user_come_before_ours() {
        let ssh = Ssh::new("root@h").options(vec!["ConnectTimeout=99".into()]);
        let line = line(&ssh);
        assert!(line.find("ConnectTimeout=99").unwrap() < line.find("ConnectTimeout=10").unwrap());
        assert!(line.contains("-o BatchMode=yes"));
        assert!(line.ends_with("-T -- root@h true"));
    }

    #[test]
    fn first_look_is_as_strict_as_the_policy_whatever_the_user_says_to_ssh() {
        let ssh = Ssh::new("root@h").options(vec!["StrictHostKeyChecking=no".into()]);
        let strict = line(&ssh.looking(Path::new("/x/log"), Trust::Configured));
        assert!(
            strict.find("StrictHostKeyChecking=yes") < strict.find("StrictHostKeyChecking=no"),
            "{strict}"
        );
    }

    #[test]
    fn pinned_key_comes_before_options_of_the_user() {
        let ssh = Ssh::new("h")
            .options(vec!["StrictHostKeyChecking=no".into()])
            .pinned(Path::new("/s t/50%"), "run");
        let line = line(&ssh);
        assert!(
            line.starts_with("-o UserKnownHostsFile=\"/s t/50%%\" "),
            "{line}"
        );
        assert!(line.find("Checking=yes").unwrap() < line.find("Checking=no").unwrap());
    }

    #[test]
    fn first_key_is_forgotten_and_a_pinned_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("known_hosts");
        std::fs::write(&file, "run ssh-ed25519 AAAA\n").unwrap();
        Ssh::new("h").pinned(&file, "run").forget_first();
        assert!(file.exists());
        Ssh::new("h").accepting(&file, "run").forget_first();
        assert!(!file.exists());
    }

    #[test]
    fn words_are_quoted_for_every_shell() {
        assert_eq!(quote("/run/landfall"), "/run/landfall");
        assert_eq!(quote("a b"), "'a b'");
        assert_eq!(quote("it's"), r"'it'\''s'");
        assert_eq!(quote(""), "''");
    }
}
