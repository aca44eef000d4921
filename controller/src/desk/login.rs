//! How this machine gets in, and how it becomes root there: keys, passwords, and who is asked for them.
//!
//! What the user named is looked at before anything else is done. Secrets stay here and in the ssh that uses them.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use landfall_proto::failure::Failure;
use tokio::sync::Mutex;

use super::Desk;
use crate::{
    local::{
        keys,
        secret::Secret,
        state::{INSTALLER, RunFolder, WayIn},
    },
    remote::{
        askpass::Asker,
        host_key,
        probe::{Lock, Machine},
        shell::Root,
        ssh::Ssh,
        upload,
    },
    request::{
        Phase, Request,
        login::{PASSWORD, PRIVATE_KEY, SUDO_PASSWORD},
    },
    screen::{Asking, Screen},
};

/// Longest password; PAM takes 512 bytes, and a pipe takes this at once.
const LONGEST: usize = 1024;
/// How often a person is asked for the password of sudo, and how long the answer is waited for: as sudo does.
const TRIES: usize = 3;
const PATIENCE: Duration = Duration::from_secs(300);

/// How this machine gets in.
#[derive(Debug)]
pub struct Login {
    /// Public line of the key that logs in to the installer.
    pub key: String,
    asker: Option<Asker>,
    identities: Vec<PathBuf>,
    way_in: WayIn,
    host: String,
    /// The password for sudo from the start, and where it came from.
    given: Option<(Secret, String)>,
    /// The one that was right.
    right: Mutex<Option<Secret>>,
    asking: Option<Asking>,
}

impl Login {
    /// Reads what the user named, once, and says what of it cannot be used.
    ///
    /// `folder` is a short one that nobody else can enter and that goes away with the command.
    pub fn open(
        request: &Request,
        folder: &Path,
        key: String,
        screen: &Screen,
    ) -> Result<Self, Failure> {
        let login = &request.login;
        let identity = match &login.identity {
            Some(path) => Some(keys::identity(path, folder)?),
            None if login.env_key => {
                let key = variable(PRIVATE_KEY, "log in with a key", "SSH_PRIVATE_KEY")?;
                Some(keys::keep_key(&key, &folder.join("identity"))?)
            }
            None => None,
        };
        let password = match login.env_password {
            true => Some(variable(
                PASSWORD,
                "log in with a password",
                "--env-password",
            )?),
            false => None,
        };
        let given = given(request)?;
        let asking = screen.asking();
        // without both nothing can be answered, and ssh is not to wait for it
        let asker = match (&password, &asking) {
            (None, None) => None,
            _ => {
                let person = asking.as_ref().map(Asking::questions);
                let host = &request.target.host;
                Some(Asker::listen(folder, host, password, person)?)
            }
        };
        Ok(Self {
            key,
            asker,
            identities: identity.into_iter().collect(),
            way_in: WayIn::to(&request.target.host, installer_port(request))?,
            host: request.target.host.clone(),
            given,
            right: Mutex::default(),
            asking,
        })
    }

    /// Becomes root on a machine, with a password where that is what it takes.
    ///
    /// A password is tried before anything is done with it. One that was given is tried once; a person is asked again.
    pub(super) async fn root(&self, ssh: Ssh, machine: &Machine) -> Result<(Ssh, Root), Failure> {
        if let Some(root) = machine.root {
            return Ok((ssh, root));
        }
        let user = machine.login();
        let host = ssh.destination().to_owned();
        if !machine.wants_password() {
            return Err(machine.no_root(&host));
        }
        let mut right = self.right.lock().await;
        if let Some(known) = &*right
            && upload::try_sudo(&ssh, known).await?.is_ok()
        {
            return Ok((ssh.sudo(Some(known.clone())), Root::SudoPassword));
        }
        let refused = |lock: Lock, said: &str, from: &str| {
            let failure = Failure::new(format!("cannot become root on {host}"));
            let failure = match lock {
                Lock::Password => failure
                    .because(format!("sudo does not take the password of {user} {from}"))
                    .code("LF0210"),
                lock => failure.because(lock.words(&user)).code("LF0203"),
            };
            let failure = failure.because(format!("sudo: {said}"));
            let hint = lock.hint(&user).unwrap_or_else(|| {
                format!("`sudo -k -v` as {user} on the machine shows whether a password is right")
            });
            failure.hint(hint).hint("log in as root: `root@HOST`")
        };
        if let Some((given, from)) = &self.given {
            return match upload::try_sudo(&ssh, given).await? {
                Ok(()) => {
                    *right = Some(given.clone());
                    Ok((ssh.sudo(Some(given.clone())), Root::SudoPassword))
                }
                Err((lock, said)) => Err(refused(lock, &said, from)),
            };
        }
        let Some(asking) = &self.asking else {
            let mut failure = machine.no_root(&host);
            let hint = "give it with `--sudo-password-file FILE`, or `SUDOPASS=… landfall --env-sudo-password …`";
            failure.hints.insert(0, hint.to_owned());
            return Err(failure.because("there is no terminal to ask for it"));
        };
        let mut wrong = None;
        for _ in 0..TRIES {
            let again = wrong.as_ref().map_or("", |_| "That is not right.\n");
            // ends as sudo's own does: programs that type it wait for these words
            let prompt = format!("{again}[sudo on {}] password for {user}: ", self.host);
            let typed = tokio::time::timeout(PATIENCE, asking.ask(&prompt, false)).await;
            let Ok(Some(typed)) = typed else {
                break;
            };
            match upload::try_sudo(&ssh, &typed).await? {
                Ok(()) => {
                    *right = Some(typed.clone());
                    return Ok((ssh.sudo(Some(typed)), Root::SudoPassword));
                }
                Err((Lock::Password, said)) => wrong = Some(said),
                Err((lock, said)) => return Err(refused(lock, &said, "that was typed")),
            }
        }
        Err(match wrong {
            Some(said) => refused(Lock::Password, &said, "that was typed"),
            None => machine.no_root(&host).because("nobody has typed it"),
        })
    }
}

impl Desk {
    /// Returns how the machine is reached as the user named it, its host key not yet pinned.
    ///
    /// Without phase kexec it is an installer already, and reached as root whatever user was named, as nixos-anywhere
    /// does.
    pub fn ssh(&self) -> Ssh {
        let target = &self.request.target;
        let destination = match self.request.phases.has(Phase::Kexec) {
            true => target.to_string(),
            false => format!("root@{}", target.host),
        };
        self.ssh_to(&destination, self.request.port())
    }

    /// Returns how the installed system is reached, best first: it may not know the user of the old one.
    ///
    /// Without a password: those of the old system are none of its business.
    fn installed_ssh(&self) -> Vec<Ssh> {
        let target = &self.request.target;
        let root = format!("root@{}", target.host);
        let mut names = vec![target.to_string(), root];
        names.dedup();
        names
            .iter()
            .map(|name| self.ssh_to(name, self.request.port()).without_passwords())
            .collect()
    }

    /// Returns how the installed system is believed to be the machine, once it has booted.
    ///
    /// Where it does not keep the host keys the first boot makes new ones: whoever logs in with our key, knows the system
    /// and is not the installer.
    pub fn booted_ssh(&self) -> Vec<Ssh> {
        let keeps_key =
            (self.request.host_keys_to.iter()).any(|folder| folder.as_str() == "/etc/ssh");
        let known = self.folder.path().join("installed_known_hosts");
        let believed = |ssh: Ssh| match keeps_key {
            true => self.known(ssh),
            false => ssh.accepting(&known, &self.alias()),
        };
        self.installed_ssh().into_iter().map(believed).collect()
    }

    /// Returns the fingerprints of which the machine's key must be one.
    pub fn fingerprints(&self) -> Vec<String> {
        let pins = self.request.fingerprints.iter();
        pins.map(|pin| pin.as_str().to_owned()).collect()
    }

    /// Returns how the installer is reached: as root, with the key of this run too.
    ///
    /// Without a password: whoever has booted it has the key, and the old system, which may still answer, is not asked.
    pub fn installer_ssh(&self) -> Ssh {
        let host = &self.request.target.host;
        let ssh = self.ssh_to(&format!("root@{host}"), installer_port(&self.request));
        self.known(ssh.run_key(Some(self.folder.key())).without_passwords())
    }

    /// Knows the machine by any of the keys that it told of, once it runs a system that takes them over.
    fn known(&self, ssh: Ssh) -> Ssh {
        ssh.pinned(&self.folder.known_installer(), &self.alias())
    }

    /// Takes what a pinned machine says of its host keys for what the installer may show.
    pub fn pin_for_installer(&self, told: &[String]) -> Result<(), Failure> {
        let (pinned, all) = (
            self.folder.known_hosts(),
            self.folder.installer_known_hosts(),
        );
        host_key::pin_for_installer(&pinned, told, &self.alias(), &all)
    }

    /// Returns how an installer is reached that an earlier run has left running, if one has; nobody else is let in.
    pub fn left_ssh(&self) -> Option<Ssh> {
        let way_in = &self.login.way_in;
        let host = &self.request.target.host;
        way_in.is_there().then(|| {
            self.ssh_to(&format!("root@{host}"), installer_port(&self.request))
                .run_key(Some(way_in.key()))
                .without_passwords()
                .pinned(&way_in.known_hosts(), INSTALLER)
        })
    }

    /// Whether the machine that an earlier run has left had one of these keys, before it became an installer or since.
    pub fn left_has_one_of(&self, fingerprints: &[String]) -> bool {
        host_key::pinned_fingerprints(&self.login.way_in.known_hosts())
            .iter()
            .any(|pinned| fingerprints.contains(pinned))
    }

    /// Takes the machine for the one that an earlier run has left running, from now on.
    pub fn pin_left(&self) -> Result<(), Failure> {
        self.login.way_in.pin(&self.folder, &self.alias())
    }

    /// Keeps the way into the installer that this run has booted, for the runs after it.
    pub fn keep_way_in(&self, folder: &RunFolder) {
        // a later command then has to be let in by what it is given
        if self.login.way_in.keep(folder).is_err() {
            self.screen
                .note("the key for the installer cannot be kept for later commands");
        }
    }

    /// Forgets the way into the installer: it does not run any more.
    pub fn forget_way_in(&self) {
        self.login.way_in.forget();
    }

    fn ssh_to(&self, destination: &str, port: Option<u16>) -> Ssh {
        let options = self.request.login.options.iter();
        Ssh::new(destination)
            .port(port)
            .identities(self.login.identities.clone())
            .options(options.map(|option| option.as_str().to_owned()).collect())
            .asker(self.login.asker.clone())
    }
}

/// Returns the port on which the installer listens.
fn installer_port(request: &Request) -> Option<u16> {
    if !request.phases.has(Phase::Kexec) {
        return request.port();
    }
    match (request.login.post_kexec_port, request.port()) {
        (Some(port), _) => Some(port),
        // as nixos-anywhere does: the stock installer listens on 22, whatever the old system did
        (None, Some(_)) => Some(22),
        (None, None) => None,
    }
}

/// Reads the password for sudo from where it was said to be, and says where that was.
fn given(request: &Request) -> Result<Option<(Secret, String)>, Failure> {
    let privilege = &request.privilege;
    if let Some(path) = &privilege.password_file {
        let read = Secret::read_once(path, LONGEST);
        let password = read.map_err(|failure| {
            failure
                .hint("name a file with nothing but the password: `--sudo-password-file FILE`")
                .code("LF0116")
        })?;
        let from = format!("from {}", path.display());
        return checked(password.without_line_end(), &from).map(|password| Some((password, from)));
    }
    if !privilege.from_env {
        return Ok(None);
    }
    let password = variable(
        SUDO_PASSWORD,
        "become root with a password",
        "--env-sudo-password",
    )?;
    Ok(Some((password, format!("from {SUDO_PASSWORD}"))))
}

/// Reads a variable that was announced by this word.
fn variable(name: &str, what: &str, word: &str) -> Result<Secret, Failure> {
    use std::os::unix::ffi::OsStringExt;
    let value = std::env::var_os(name).filter(|value| !value.is_empty());
    let value = value.ok_or_else(|| {
        Failure::new(format!("cannot {what}"))
            .because(format!("{name} is not set, or empty"))
            .hint(format!("set it: `{name}=… landfall {word} …`"))
            .code("LF0116")
    })?;
    let secret = Secret::new(value.into_vec());
    if name == PRIVATE_KEY {
        return Ok(secret);
    }
    checked(secret, &format!("from {name}"))
}

/// Refuses what cannot be one line of input.
fn checked(password: Secret, from: &str) -> Result<Secret, Failure> {
    let bytes = password.expose();
    let why = if bytes.is_empty() {
        "it is empty"
    } else if bytes.contains(&b'\n') || bytes.contains(&0) {
        "it has more than one line"
    } else if bytes.len() > LONGEST {
        "it is too long"
    } else {
        return Ok(password);
    };
    Err(Failure::new(format!("cannot use the password {from}"))
        .because(why)
        .hint("give the password alone, such as with `printf %s`")
        .code("LF0116"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_is_one_line() {
        assert!(checked(Secret::copied(b"pass word"), "from x").is_ok());
        for bad in [&b""[..], b"a\nb", b"a\0", &[b'a'; LONGEST + 1]] {
            let refused = checked(Secret::copied(bad), "from x").unwrap_err();
            assert_eq!(refused.what, "cannot use the password from x");
        }
    }
}
