//! Getting in without a key and becoming root without leave: by passwords that are asked, given, wrong, or of no use.
//!
//! Covers: controller/src/remote/askpass.rs, controller/src/desk/login.rs.
//! Covers: controller/src/remote/probe.rs.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use landfall_tests::{
    assets::Assets,
    binaries,
    install::{self, Operator},
    machine::{
        Machine,
        spec::{Boot, Spec},
    },
    patience,
};
use nix::pty::openpty;
use tempfile::TempDir;

/// Debian logs in after 13 to 30 s under emulation; with others beside it, much later.
const BOOTS: Duration = Duration::from_secs(240);
/// Every refusal comes within; PAM makes each wrong password wait for some seconds.
const ENDS: Duration = Duration::from_secs(180);
/// From Debian to the installer, or an empty disk to a formatted one.
const LONG: Duration = Duration::from_secs(600);
/// An installation takes 100 s on an idle host of two cores.
const INSTALLS: Duration = Duration::from_secs(900);

/// What no file, line or argument may show.
const LOGIN: &str = "Long in the 1ogin";
const SUDO: &str = "Short in the sud0";
const PHRASE: &str = "Nothing but a phra5e";

/// Users with passwords: `admin` may use sudo with it, `half` needs none for a shell, `seat` needs a terminal, `plain` may
/// not use it. `admin` is asked by the server's own words, all others by ssh's.
const USERS: &str = r#"
set -e
for user in admin half seat plain; do
  useradd --create-home --shell /bin/bash $user
  echo "$user:Long in the 1ogin" | chpasswd
done
echo 'Defaults:admin passprompt="not this one", lecture=always
admin ALL=(ALL:ALL) ALL
half ALL=(ALL:ALL) ALL, NOPASSWD: /bin/sh, /usr/bin/sh
Defaults:seat requiretty
seat ALL=(ALL:ALL) ALL' > /etc/sudoers.d/login
chmod 440 /etc/sudoers.d/login
echo 'PasswordAuthentication yes
KbdInteractiveAuthentication yes
Match User admin
  PasswordAuthentication no
Match User half,seat,plain
  KbdInteractiveAuthentication no' > /etc/ssh/sshd_config.d/00-login.conf
systemctl reload ssh
"#;

#[test]
#[cfg_attr(
    not(feature = "scenarios"),
    ignore = "starts a machine; `cargo verify --all` runs it"
)]
fn passwords_lead_to_root_and_no_further() {
    let desk = Desk::new();
    desk.refuses_keys_that_ssh_would_not_use();
    desk.refuses_logins();
    desk.refuses_sudo();
    desk.is_root_by_given_passwords();
    desk.asks_for_a_passphrase_once();
    desk.asks_on_a_terminal();
    desk.gets_in_again();
    desk.shows_no_secret();
}

#[test]
#[cfg_attr(
    not(feature = "scenarios"),
    ignore = "starts a machine; `cargo verify --all` runs it"
)]
fn user_of_the_old_system_need_not_be_one_of_the_new() {
    let assets = assets();
    let machine = Machine::ready(&assets, Spec::of(Boot::Target)).unwrap();
    machine.wait_ssh(BOOTS).unwrap();
    let operator = Operator::new().unwrap();
    let mut landfall = operator.landfall_as(&assets, &machine, "op@127.0.0.1");
    let flake = format!("{}#demo", assets.fixture_flake().display());
    landfall.args(["--flake", &flake, "--kexec"]);
    landfall.arg(assets.installer_tarball());
    let ended = install::run(&mut landfall, INSTALLS, || {}).unwrap();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let said = "127.0.0.1 is installed and verified\n";
    assert!(ended.stderr.contains(said), "{}", ended.stderr);
    assert!(!machine.ssh("id op").unwrap().status.success());
}

/// An operator without a key, and a Debian whose users have passwords.
struct Desk {
    assets: Assets,
    operator: Operator,
    machine: Machine,
    folder: TempDir,
    /// All that was said.
    said: Mutex<String>,
}

impl Desk {
    fn new() -> Self {
        let assets = assets();
        let machine = Machine::ready(&assets, Spec::of(Boot::Target)).unwrap();
        machine.wait_ssh(BOOTS).unwrap();
        let made = machine.ssh(USERS).unwrap();
        assert!(made.status.success(), "{made:?}");
        // the server begins anew
        machine.wait_ssh(BOOTS).unwrap();
        Self {
            assets,
            operator: Operator::new().unwrap(),
            machine,
            folder: TempDir::with_prefix("login-").unwrap(),
            said: Mutex::default(),
        }
    }

    /// Landfall in a session of its own, so that no terminal of whoever runs this is asked.
    fn landfall(&self, user: &str, words: &[&str]) -> Command {
        self.session(&[], user, words)
    }

    fn session(&self, setsid: &[&str], user: &str, words: &[&str]) -> Command {
        let mut command = self.operator.command(&self.assets, "setsid");
        let port = self.machine.ssh_port().to_string();
        let known = self.folder.path().join("known_hosts");
        let known = format!("UserKnownHostsFile={}", known.display());
        command.args(setsid).arg(binaries::controller());
        command.args(["-p", &port, "--post-kexec-ssh-port", &port]);
        command.args(["--host-key-policy", "accept-new", "--yes"]);
        for option in [
            &*known,
            "GlobalKnownHostsFile=/dev/null",
            "IdentityAgent=none",
        ] {
            command.args(["--ssh-option", option]);
        }
        command.args(words);
        let host = match user {
            "" => "127.0.0.1".to_owned(),
            user => format!("{user}@127.0.0.1"),
        };
        command.arg(host).env("TERM", "dumb");
        for name in ["SSHPASS", "SUDOPASS", "SSH_PRIVATE_KEY"] {
            command.env_remove(name);
        }
        command
    }

    /// Runs it to its end; returns the exit code and stderr from `error:` on, without what names a log or a
    /// page.
    #[track_caller]
    fn ends(&self, mut command: Command) -> (i32, String) {
        let path = self.folder.path().join("stderr");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&path).unwrap());
        let mut child = Kept(command.spawn().unwrap());
        let ended = patience::until("landfall to end", ENDS, || Ok(child.0.try_wait()?));
        let said = fs::read_to_string(path).unwrap();
        self.said.lock().unwrap().push_str(&said);
        let status = ended.unwrap_or_else(|error| panic!("{error:#}\n{said}"));
        let error = said.find("error: ").unwrap_or(said.len());
        let of_use =
            |line: &&str| !line.starts_with("log: ") && !line.contains("`landfall explain ");
        let told = said[error..].lines().filter(of_use);
        let told = told.map(|line| format!("{line}\n")).collect();
        (status.code().unwrap_or(-1), told)
    }

    #[track_caller]
    fn refuses(&self, command: Command, words: &str) {
        assert_eq!(self.ends(command), (1, words.to_owned()));
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn root(&self, script: &str) -> String {
        let done = self.machine.ssh(script).unwrap();
        String::from_utf8(done.stdout).unwrap()
    }

    fn refuses_keys_that_ssh_would_not_use(&self) {
        let mut landfall = self.landfall("root", &["--phases", "kexec"]);
        landfall.args(["-i", "/nonexistent"]);
        self.refuses(
            landfall,
            "\
error: cannot log in with /nonexistent [LF0110]
caused by: opening the private key
caused by: No such file or directory (os error 2)
state: 127.0.0.1 is untouched
hint: name a private key that exists: `-i FILE`
",
        );
        let key = self.file("key", "-----BEGIN OPENSSH PRIVATE KEY-----\n");
        let words = ["--phases", "kexec", "-i", key.to_str().unwrap()];
        let landfall = self.landfall("root", &words);
        let mode = "(mode 0644)";
        let (code, said) = self.ends(landfall);
        assert_eq!(code, 1, "{said}");
        assert!(
            said.contains(mode) && said.contains("hint: `chmod 600 "),
            "{said}"
        );
    }

    fn refuses_logins(&self) {
        let phases = ["--phases", "kexec"];
        // nobody can be asked, and nothing was given
        let (code, said) = self.ends(self.landfall("plain", &phases));
        assert_eq!(code, 1, "{said}");
        assert!(
            said.starts_with("error: cannot connect to plain@127.0.0.1 [LF0105]\n")
                && said.contains("hint: it takes passwords too: "),
            "{said}"
        );

        let words = ["--phases", "kexec", "--env-password"];
        let (code, said) = self.ends(self.landfall("plain", &words));
        assert_ne!(code, 0, "{said}");
        assert!(said.contains("SSHPASS is not set"), "{said}");

        for user in ["plain", "admin"] {
            let mut landfall = self.landfall(user, &words);
            landfall.env("SSHPASS", "wrong");
            let (code, said) = self.ends(landfall);
            assert_eq!(code, 1, "{said}");
            assert!(
                said.starts_with(&format!(
                    "error: cannot connect to {user}@127.0.0.1 [LF0115]\ncaused by: password refused\n"
                )) && said.contains("state: 127.0.0.1 is untouched\nhint: check the password: "),
                "{said}"
            );
            // not again and again: an account may be locked for that
            let tries =
                format!("journalctl | grep -c 'sshd:auth.*authentication failure.*user={user}$'");
            assert_eq!(self.root(&tries), "1\n");
        }
    }

    fn refuses_sudo(&self) {
        let log_in = |user: &str, words: &[&str]| {
            let mut landfall = self.landfall(user, words);
            landfall.env("SSHPASS", LOGIN);
            landfall
        };
        let words = ["--phases", "kexec", "--env-password"];
        self.refuses(
            log_in("admin", &words),
            "\
error: cannot become root on admin@127.0.0.1 [LF0203]
caused by: sudo wants the password of admin
caused by: there is no terminal to ask for it
state: 127.0.0.1 is untouched
hint: give it with `--sudo-password-file FILE`, or `SUDOPASS=… landfall --env-sudo-password …`
hint: log in as root: `root@HOST`
",
        );
        let given = ["--phases", "kexec", "--env-password", "--env-sudo-password"];
        let with_sudo = |user: &str, password: &str| {
            let mut landfall = log_in(user, &given);
            landfall.env("SUDOPASS", password);
            landfall
        };
        let (code, said) = self.ends(with_sudo("admin", "wrong"));
        assert_eq!(code, 1, "{said}");
        assert!(
            said.starts_with(
                "error: cannot become root on admin@127.0.0.1 [LF0210]\n\
                 caused by: sudo does not take the password of admin from SUDOPASS\n"
            ),
            "{said}"
        );
        let tries = "journalctl -t sudo | grep -c 'admin : 1 incorrect password attempt'";
        assert_eq!(self.root(tries), "1\n");

        let (code, said) = self.ends(with_sudo("plain", LOGIN));
        assert_eq!(code, 1, "{said}");
        assert!(
            said.starts_with(
                "error: cannot become root on plain@127.0.0.1 [LF0203]\n\
                 caused by: the rules of sudo do not allow it to plain\n\
                 caused by: sudo: "
            ) && said.contains("NOPASSWD: ALL`"),
            "{said}"
        );
        let (code, said) = self.ends(with_sudo("seat", LOGIN));
        assert_eq!(code, 1, "{said}");
        assert!(
            said.starts_with(
                "error: cannot become root on seat@127.0.0.1 [LF0203]\n\
                 caused by: sudo insists on a terminal, which a program cannot give it\n"
            ) && said.contains("hint: add to /etc/sudoers: `Defaults:seat !requiretty`"),
            "{said}"
        );
        self.is_clean();
    }

    /// What comes after `connect` and `preflight`, in which the agent was sent, started and asked.
    fn is_root_by_given_passwords(&self) {
        let missing = self.folder.path().join("none.tar.gz");
        let missing = missing.to_str().unwrap();
        let refused = format!("error: cannot use {missing} as a kexec image");
        let password = self.file("sudo", &format!("{LOGIN}\n"));
        let password = password.to_str().unwrap();
        for user in ["admin", "half"] {
            let mut landfall = self.landfall(
                user,
                &[
                    "--phases",
                    "kexec",
                    "--kexec",
                    missing,
                    "--env-password",
                    "--sudo-password-file",
                    password,
                ],
            );
            landfall.env("SSHPASS", LOGIN);
            let (code, said) = self.ends(landfall);
            assert_eq!(code, 1, "{said}");
            assert!(said.starts_with(&refused), "{said}");
            self.is_clean();
        }
        // from a program, by process substitution
        let landfall = self.landfall(
            "admin",
            &[
                "--phases",
                "kexec",
                "--kexec",
                missing,
                "--env-password",
                "--sudo-password-file",
            ],
        );
        let words: Vec<_> = landfall
            .get_args()
            .map(|word| word.to_str().unwrap().to_owned())
            .collect();
        let (host, words) = words.split_last().unwrap();
        let line = r#"exec "$@" <(printf '%s\n' "$SECRET") "$HOST""#;
        let mut bash = Command::new("bash");
        bash.args(["-c", line, "bash"])
            .arg(landfall.get_program())
            .args(words);
        for (name, value) in landfall.get_envs() {
            match value {
                Some(value) => bash.env(name, value),
                None => bash.env_remove(name),
            };
        }
        bash.env("HOST", host)
            .env("SECRET", LOGIN)
            .env("SSHPASS", LOGIN);
        let (code, said) = self.ends(bash);
        assert_eq!(code, 1, "{said}");
        assert!(said.starts_with(&refused), "{said}");
    }

    /// A key that is only in the environment, without the end of its last line, and under a passphrase.
    fn asks_for_a_passphrase_once(&self) {
        let key = self.folder.path().join("locked");
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", PHRASE, "-f"])
            .arg(&key)
            .status();
        assert!(made.unwrap().success());
        let public = fs::read_to_string(key.with_extension("pub")).unwrap();
        self.root(&format!(
            "cd /home/admin && mkdir .ssh && echo '{}' > .ssh/authorized_keys && chown -R admin: .ssh",
            public.trim_end()
        ));
        let missing = self.folder.path().join("none.tar.gz");
        let words = ["--phases", "kexec", "--kexec", missing.to_str().unwrap()];
        let mut landfall = self.session(&["--ctty"], "admin", &words);
        let private = fs::read_to_string(&key).unwrap();
        landfall.env("SSH_PRIVATE_KEY", private.trim_end());
        let mut typist = Typist::start(landfall);
        typist.answers("/identity': ", "wrong");
        typist.answers("/identity': ", PHRASE);
        typist.answers(" password for admin: ", LOGIN);
        let (status, said) = typist.ends();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains(" as a kexec image"), "{said}");
        assert_eq!(
            said.matches("Enter passphrase for key '").count(),
            2,
            "{said}"
        );
        self.said.lock().unwrap().push_str(&said);
        self.is_clean();
    }

    /// Nothing of landfall is on the machine, or will be in a moment.
    #[track_caller]
    fn is_clean(&self) {
        let look =
            "find / /run /tmp /dev/shm -xdev -name '*land[f]all*'; ps -eo args | grep '[l]andfall'";
        let mut seen = String::new();
        let clean = patience::until("the agent to leave", ENDS, || {
            seen = self.root(look);
            Ok(seen.is_empty().then_some(()))
        });
        assert!(clean.is_ok(), "{seen}");
    }

    /// Both passwords are typed, each once wrong; then the machine is taken to the installer.
    fn asks_on_a_terminal(&self) {
        // sudo's is another one, so that neither is taken for the other
        self.root("echo 'Defaults:admin rootpw' >> /etc/sudoers.d/login; echo 'root:Short in the sud0' | chpasswd");
        let image = self.assets.installer_tarball();
        let words = ["--phases", "kexec", "--kexec", image.to_str().unwrap()];
        let mut typist = Typist::start(self.session(&["--ctty"], "admin", &words));
        typist.answers("admin@127.0.0.1's password: ", "wrong");
        typist.answers("That is not right.\r\nadmin@127.0.0.1's password: ", LOGIN);
        typist.answers(" password for admin: ", "wrong");
        typist.answers(
            "That is not right.\r\n[sudo on 127.0.0.1] password for admin: ",
            SUDO,
        );
        let (status, said) = typist.ends();
        assert!(status.success(), "{said}");
        assert_eq!(said.matches("password: ").count(), 2, "{said}");
        assert_eq!(said.matches("password for admin: ").count(), 2, "{said}");
        self.said.lock().unwrap().push_str(&said);
        assert!(
            self.root("cat /etc/os-release")
                .contains("VARIANT_ID=installer")
        );
    }

    /// The installer knows no password; what opened it is kept for the commands that follow.
    fn gets_in_again(&self) {
        let flake = format!("{}#demo", self.assets.fixture_flake().display());
        for user in ["", "admin"] {
            let words = ["--phases", "disko", "--flake", &flake];
            let (code, said) = self.ends(self.landfall(user, &words));
            assert_eq!(code, 0, "{said}");
        }
        assert!(self.root("cat /proc/mounts").contains(" /mnt "));
    }

    /// Looks at all that was said and everything that is left.
    fn shows_no_secret(&self) {
        let said = self.said.lock().unwrap();
        for secret in [LOGIN, SUDO, PHRASE] {
            assert!(!said.contains(secret), "{said}");
            let home = self.operator.state();
            let found = Command::new("grep")
                .args(["-rlF", secret])
                .args([home.parent().unwrap()])
                .output()
                .unwrap();
            assert_eq!(
                String::from_utf8_lossy(&found.stdout),
                "",
                "files with {secret}"
            );
        }
        let left = fs::read_dir(self.operator.runtime()).unwrap().count();
        assert_eq!(left, 0, "something is left in the folder for sockets");
    }
}

/// Everything a run takes, the agents too.
fn assets() -> Assets {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    Assets::prepare(repository).unwrap()
}

/// A landfall on a terminal of its own, and somebody who types there.
struct Typist {
    child: Kept,
    far: File,
    seen: Arc<Mutex<String>>,
    /// How much of it was looked at.
    read: usize,
}

impl Typist {
    /// Starts a command that takes its stdin for its terminal.
    fn start(mut command: Command) -> Self {
        let pty = openpty(None, None).unwrap();
        let near: OwnedFd = pty.slave;
        let mut far = File::from(pty.master);
        command
            .stdin(near.try_clone().unwrap())
            .stdout(near.try_clone().unwrap())
            .stderr(near);
        let child = Kept(command.spawn().unwrap());
        // the near end is closed with the command, and so reading ends
        drop(command);
        let seen = Arc::new(Mutex::new(String::new()));
        let typist = Self {
            child,
            far: far.try_clone().unwrap(),
            seen: Arc::clone(&seen),
            read: 0,
        };
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = far.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
                seen.lock().unwrap().push_str(&text);
            }
        });
        typist
    }

    /// Waits for a prompt, the last thing that is said, and types a line.
    #[track_caller]
    fn answers(&mut self, prompt: &str, line: &str) {
        let wait = patience::until(prompt, ENDS, || {
            let seen = self.seen.lock().unwrap().clone();
            if let Some(status) = self.child.0.try_wait()? {
                anyhow::bail!("it ended already, {status}");
            }
            Ok(seen[self.read..].ends_with(prompt).then_some(seen.len()))
        });
        let seen = self.seen.lock().unwrap().clone();
        self.read = wait.unwrap_or_else(|error| panic!("{error:#}\n{seen}"));
        self.far.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn ends(mut self) -> (ExitStatus, String) {
        let ended = patience::until("landfall to end", LONG, || Ok(self.child.0.try_wait()?));
        let seen = self.seen.lock().unwrap().clone();
        (
            ended.unwrap_or_else(|error| panic!("{error:#}\n{seen}")),
            seen,
        )
    }
}

/// Ends with the test.
struct Kept(Child);

impl Drop for Kept {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}
