//! One question to the bare machine: what are you, and what may be done here?
//!
//! The script is POSIX sh without single quotes, so that it passes through any login shell inside a pair of them, and uses
//! no program beyond `uname id mkdir chmod rm`. Pure here: script out, answer in.

use serde::{Deserialize, Serialize};

use landfall_proto::failure::Failure;

/// What a bare machine answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Name of the kernel, such as `Linux`.
    pub kernel: String,
    /// Machine name of the kernel, such as `x86_64`.
    pub machine: String,
    /// User number of the login.
    pub uid: u32,
    /// `/proc/sys/kernel/random/boot_id`: another value means another boot. Empty where there is none.
    pub boot_id: String,
    /// `ID` of os-release.
    pub os_id: String,
    /// `VARIANT_ID` of os-release; `installer` on an installer.
    pub variant: String,
    /// How root is reached.
    pub root: Option<Root>,
    /// Programs that could make root, but want a password or a terminal.
    pub locked: Vec<String>,
    /// Where `/run/current-system` leads, on a NixOS.
    pub system: Option<String>,
}

/// How root is reached after the login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Root {
    /// The login is root's.
    Already,
    /// By `sudo -n`.
    Sudo,
    /// By `doas -n`.
    Doas,
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
pub fn script() -> String {
    format!("exec sh -c '{SCRIPT}'")
}

const SCRIPT: &str = r#"
PATH=$PATH:/usr/sbin:/usr/bin:/sbin:/bin:/run/wrappers/bin:/run/current-system/sw/bin
echo landfall-probe-1
echo "kernel $(uname -s)"
echo "machine $(uname -m)"
uid=$(id -u)
echo "uid $uid"
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
  for p in sudo doas; do
    if command -v $p >/dev/null 2>&1; then
      if $p -n true </dev/null >/dev/null 2>&1; then echo "root $p"; break; fi
      echo "locked $p"
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
        boot_id: one("boot"),
        os_id: one("os"),
        variant: one("variant"),
        root: match &*one("root") {
            "already" => Some(Root::Already),
            "sudo" => Some(Root::Sudo),
            "doas" => Some(Root::Doas),
            _ => None,
        },
        locked: all("locked"),
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

    /// Returns how root is reached, or says why it is not.
    pub fn root(&self, host: &str) -> Result<Root, Failure> {
        self.root.ok_or_else(|| {
            let failure = Failure::new(format!("cannot become root on {host}")).code("LF0203");
            let failure = match self.locked.first() {
                Some(program) => failure.because(format!(
                    "{program} does not allow it without a password (user number {})",
                    self.uid
                )),
                None => failure.because(format!(
                    "there is neither sudo nor doas (user number {})",
                    self.uid
                )),
            };
            failure
                .hint("log in as root: `root@HOST`, or allow the user `sudo -n` without a password")
        })
    }
}

impl Root {
    /// Returns the words that stand before a command, with a space behind them.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Already => "",
            Self::Sudo => "sudo -n ",
            Self::Doas => "doas -n ",
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
                    boot abc\nos debian\nvariant \"installer\"\nlocked sudo\nlandfall-probe-end\nbye\n";
        let machine = read(text.as_bytes()).unwrap();
        assert_eq!(machine.kernel, "Linux");
        assert_eq!(machine.variant, "installer");
        assert_eq!(machine.arch("h").unwrap(), Arch::X86_64);
        let failure = machine.root("h").unwrap_err();
        assert_eq!(
            failure.causes,
            ["sudo does not allow it without a password (user number 1000)"]
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
        assert_eq!(machine.root("h"), Ok(Root::Already));
    }
}
