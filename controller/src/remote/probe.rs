//! One question to the bare machine: what are you, and what may be done here?
//!
//! The script is POSIX sh without single quotes, so that it passes through any login shell inside a pair of them, and uses
//! no program beyond `uname id readlink` and those that make root. Pure here: script out, answer in.

use landfall_proto::failure::Failure;
use serde::{Deserialize, Serialize};

use super::shell::{Remote, Root};
use crate::local::child::printable;

/// What a bare machine answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Name of the kernel, such as `Linux`.
    pub kernel: String,
    /// Machine name of the kernel, such as `x86_64`.
    pub machine: String,
    /// User number of the login.
    pub uid: u32,
    /// Its name; empty where the machine has none for it.
    #[serde(default)]
    pub user: String,
    /// `/proc/sys/kernel/random/boot_id`: another value means another boot. Empty where there is none.
    pub boot_id: String,
    /// `ID` of os-release.
    pub os_id: String,
    /// `VARIANT_ID` of os-release; `installer` on an installer.
    pub variant: String,
    /// How root is reached.
    pub root: Option<Root>,
    /// Programs that could make root, and did not do so when they were asked.
    pub locked: Vec<Locked>,
    /// Where `/run/current-system` leads, on a NixOS.
    pub system: Option<String>,
}

/// A program that makes root, and did not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locked {
    /// `sudo` or `doas`.
    pub program: String,
    /// What it said, in one line.
    pub said: String,
}

/// A processor for which there is an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Arch {
    /// 64-bit x86.
    #[serde(rename = "x86_64")]
    X86_64,
    /// 64-bit ARM.
    #[serde(rename = "aarch64")]
    Aarch64,
}

const MARK: &str = "landfall-probe-1";
const END: &str = "landfall-probe-end";

/// The question, for any login shell.
pub fn script() -> Remote {
    Remote::plain(format!("exec sh -c '{SCRIPT}'"))
}

/// Tries the password on its stdin, and nothing else.
pub fn try_password() -> Remote {
    Remote::plain(format!(
        "exec env LC_ALL=C {}true",
        Root::SudoPassword.prefix()
    ))
}

const SCRIPT: &str = r#"
PATH=$PATH:/usr/sbin:/usr/bin:/sbin:/bin:/run/wrappers/bin:/run/current-system/sw/bin
echo landfall-probe-1
echo "kernel $(uname -s)"
echo "machine $(uname -m)"
uid=$(id -u)
echo "uid $uid"
echo "user $(id -un 2>/dev/null)"
if [ -r /proc/sys/kernel/random/boot_id ]; then
  read -r x </proc/sys/kernel/random/boot_id
  echo "boot $x"
fi
for f in /etc/os-release /usr/lib/os-release; do
  if [ -r "$f" ]; then
    while IFS== read -r k v; do
      case $k in ID) echo "os $v" ;; VARIANT_ID) echo "variant $v" ;; esac
    done <"$f"
    break
  fi
done
if [ -L /run/current-system ]; then
  echo "system $(readlink /run/current-system)"
fi
if [ "$uid" = 0 ]; then
  echo "root already"
else
  set -f
  for p in sudo doas; do
    if command -v $p >/dev/null 2>&1; then
      k=; if [ $p = sudo ]; then k=-k; fi
      if x=$(LC_ALL=C $p -n $k true 2>&1 </dev/null); then echo "root $p"; break; fi
      echo "locked $p" $x
    fi
  done
fi
echo landfall-probe-end
"#;

/// Reads the answer; none when it is not whole.
///
/// Only what stands between the last pair of marks counts: login scripts print what they like.
pub fn read(stdout: &[u8]) -> Option<Machine> {
    let text = String::from_utf8_lossy(stdout);
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    let end = lines.iter().rposition(|line| *line == END)?;
    let begin = lines[..end].iter().rposition(|line| *line == MARK)?;
    let answers = &lines[begin + 1..end];
    let all = |name: &str| -> Vec<String> {
        let found = answers
            .iter()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        found
            .map(|value| value.trim_matches(|c| c == '"' || c == '\'').to_owned())
            .collect()
    };
    let one = |name: &str| all(name).into_iter().next().unwrap_or_default();
    Some(Machine {
        kernel: one("kernel"),
        machine: one("machine"),
        uid: one("uid").parse().ok()?,
        user: one("user"),
        boot_id: one("boot"),
        os_id: one("os"),
        variant: one("variant"),
        root: match &*one("root") {
            "already" => Some(Root::Already),
            "sudo" => Some(Root::Sudo),
            "doas" => Some(Root::Doas),
            _ => None,
        },
        locked: all("locked").iter().map(|line| Locked::of(line)).collect(),
        system: all("system").into_iter().find(|path| !path.is_empty()),
    })
}

impl Machine {
    /// Returns the processor, or says why no agent runs here.
    pub fn arch(&self, host: &str) -> Result<Arch, Failure> {
        let cannot = || Failure::new(format!("cannot use {host}"));
        if self.kernel != "Linux" {
            return Err(cannot()
                .because(format!("it runs {}, and kexec needs Linux", self.kernel))
                .hint(
                    "boot any Linux on it, such as a rescue system, and run the same command again",
                )
                .code("LF0201"));
        }
        Arch::of(&self.machine).ok_or_else(|| {
            cannot()
                .because(format!("there is no agent for {}", self.machine))
                .hint("agents exist for x86_64 and aarch64; check the address of the machine")
                .code("LF0202")
        })
    }

    /// Whether root can be reached with a password that is not known yet.
    pub fn wants_password(&self) -> bool {
        let sudo = self.locked.iter().find(|locked| locked.program == "sudo");
        self.root.is_none() && sudo.is_some_and(|sudo| lock(&sudo.said) == Lock::Password)
    }

    /// Says why nobody becomes root here without a password of theirs.
    pub fn no_root(&self, host: &str) -> Failure {
        let failure = Failure::new(format!("cannot become root on {host}")).code("LF0203");
        let as_root = "log in as root: `root@HOST`";
        let user = self.login();
        let (failure, hint) = match self.locked.first() {
            None => (
                failure.because(format!("there is neither sudo nor doas for {user}")),
                None,
            ),
            Some(Locked { program, said }) if program == "doas" => (
                failure.because(format!(
                    "doas does not let {user} without a password, which it reads from a terminal only: {said}"
                )),
                Some(format!("allow it in /etc/doas.conf: `permit nopass {user}`")),
            ),
            Some(Locked { said, .. }) => match lock(said) {
                Lock::Password => (
                    failure.because(format!("sudo wants the password of {user}")),
                    None,
                ),
                lock => (
                    failure
                        .because(lock.words(&user))
                        .because(format!("sudo: {}", said.trim_start_matches("sudo: "))),
                    lock.hint(&user),
                ),
            },
        };
        let failure = failure.hint(as_root);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }

    /// Returns the name of the login, or its number.
    pub fn login(&self) -> String {
        match &*self.user {
            "" => format!("user number {}", self.uid),
            user => user.to_owned(),
        }
    }
}

impl Locked {
    fn of(line: &str) -> Self {
        let (program, said) = line.split_once(' ').unwrap_or((line, ""));
        Self {
            program: program.to_owned(),
            said: printable(said.trim()),
        }
    }
}

/// What keeps sudo from making root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// It wants a password, or wants one that is right.
    Password,
    /// Its rules have no place for this user.
    NotAllowed,
    /// It works on a terminal only.
    Terminal,
    /// Something else, in its own words.
    Other,
}

/// Reads what sudo said. Its words are those of sudo 1.8 to 1.9 and of sudo-rs, in English.
pub fn lock(said: &str) -> Lock {
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if has(&["must have a tty", "tty is required"]) {
        Lock::Terminal
    } else if has(&[
        "not in the sudoers file",
        "may not run sudo",
        "is not allowed to",
        "I'm sorry",
    ]) {
        Lock::NotAllowed
    } else if has(&[
        "password is required",
        "authentication is required",
        "incorrect password",
        "incorrect authentication",
        "no password was provided",
        "uthentication failed",
    ]) {
        Lock::Password
    } else {
        Lock::Other
    }
}

impl Lock {
    /// Says it in a few words.
    pub fn words(self, user: &str) -> String {
        match self {
            Self::Password => format!("sudo wants the password of {user}"),
            Self::NotAllowed => format!("the rules of sudo do not allow it to {user}"),
            Self::Terminal => {
                "sudo insists on a terminal, which a program cannot give it".to_owned()
            }
            Self::Other => format!("sudo does not let {user}"),
        }
    }

    /// Says what can be done on the machine.
    pub fn hint(self, user: &str) -> Option<String> {
        match self {
            Self::Password | Self::Other => None,
            Self::NotAllowed => Some(format!(
                "allow it in /etc/sudoers: `{user} ALL=(ALL) NOPASSWD: ALL`"
            )),
            Self::Terminal => Some(format!(
                "add to /etc/sudoers: `Defaults:{user} !requiretty`"
            )),
        }
    }
}

impl Arch {
    /// Reads the kernel's name for it.
    ///
    /// `armv8l` is what a 64-bit kernel tells a 32-bit shell.
    pub fn of(machine: &str) -> Option<Self> {
        match machine {
            "x86_64" | "amd64" => Some(Self::X86_64),
            "aarch64" | "arm64" | "armv8l" => Some(Self::Aarch64),
            _ => None,
        }
    }

    /// Returns its name in file names and in Nix systems.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn script_passes_through_any_login_shell() {
        assert!(!SCRIPT.contains('\''));
        // fish treats a backslash before a backslash or a quote as an escape, even here
        assert!(!SCRIPT.contains('\\'));
        assert!(SCRIPT.contains(MARK) && SCRIPT.contains(END));
    }

    #[test]
    fn noise_of_login_scripts_is_passed_over() {
        let text = "Welcome!\nkernel FreeBSD\nlandfall-probe-1\nkernel Linux\nmachine x86_64\nuid 1000\n\
                    boot abc\nos debian\nvariant \"installer\"\nuser op\n\
                    locked sudo sudo: a password is required\nlandfall-probe-end\nbye\n";
        let machine = read(text.as_bytes()).unwrap();
        assert_eq!(machine.kernel, "Linux");
        assert_eq!(machine.variant, "installer");
        assert_eq!(machine.arch("h").unwrap(), Arch::X86_64);
        assert!(machine.wants_password());
        assert_eq!(
            machine.no_root("h").causes,
            ["sudo wants the password of op"]
        );
    }

    #[track_caller]
    fn refuses(answer: &str, causes: &[&str], hints: usize) {
        let text = format!(
            "landfall-probe-1\nkernel Linux\nuid 1000\nuser op\n{answer}\nlandfall-probe-end"
        );
        let machine = read(text.as_bytes()).unwrap();
        assert!(!machine.wants_password(), "{machine:?}");
        let failure = machine.no_root("h");
        assert_eq!(failure.causes, causes);
        assert_eq!(failure.hints.len(), hints, "{failure:?}");
    }

    #[test]
    fn refusal_names_what_is_missing() {
        refuses("", &["there is neither sudo nor doas for op"], 1);
        refuses(
            "locked doas doas: Authentication required",
            &[
                "doas does not let op without a password, which it reads from a terminal only: doas: Authentication required",
            ],
            2,
        );
        refuses(
            "locked sudo sudo: sorry, you must have a tty to run sudo",
            &[
                "sudo insists on a terminal, which a program cannot give it",
                "sudo: sorry, you must have a tty to run sudo",
            ],
            2,
        );
        refuses(
            "locked sudo sudo: I'm sorry op. I'm afraid I can't do that",
            &[
                "the rules of sudo do not allow it to op",
                "sudo: I'm sorry op. I'm afraid I can't do that",
            ],
            2,
        );
    }

    #[test]
    fn words_of_sudo_are_understood() {
        let check = |said: &str, lock: Lock| assert_eq!(super::lock(said), lock, "{said}");
        check("sudo: a password is required", Lock::Password);
        check(
            "sudo: interactive authentication is required",
            Lock::Password,
        );
        check(
            "sudo: no password was provided\nsudo: 1 incorrect password attempt",
            Lock::Password,
        );
        check("sudo: Authentication failed, try again.", Lock::Password);
        check(
            "plain is not in the sudoers file.\nThis incident has been reported to the administrator.",
            Lock::NotAllowed,
        );
        check(
            "Sorry, user plain may not run sudo on target.",
            Lock::NotAllowed,
        );
        check(
            "sudo: account validation failure, is your account locked?",
            Lock::Other,
        );
    }

    #[test]
    fn answer_that_breaks_off_is_no_answer() {
        assert_eq!(
            read(b"landfall-probe-1\nkernel Linux\nmachine x86_64\nuid 0\n"),
            None
        );
        assert_eq!(read(b""), None);
    }

    #[test]
    fn machines_without_agent_are_named() {
        let mut machine = read(
            b"landfall-probe-1\nkernel Darwin\nmachine riscv64\nuid 0\nroot already\nlandfall-probe-end",
        )
        .unwrap();
        assert_eq!(
            machine.arch("h").unwrap_err().causes,
            ["it runs Darwin, and kexec needs Linux"]
        );
        machine.kernel = "Linux".to_owned();
        assert_eq!(
            machine.arch("h").unwrap_err().causes,
            ["there is no agent for riscv64"]
        );
        assert_eq!(machine.root, Some(Root::Already));
    }
}
