//! What the user wants, whole and checked: a value of these types can be acted on without looking again.
//!
//! Nothing here reads a file or the network: whether a path exists or a host answers is found out in `preflight` and
//! `prepare`. Start at [`Request`].

mod effect;
mod flake;
pub mod login;
mod nix;
mod phases;
mod target;
mod visit;
mod words;

use std::{path::PathBuf, time::Duration};

use landfall_proto::{
    failure::Failure,
    order::{DiskoMode, KeyPath, Owner, TargetPath},
};

pub use self::{
    flake::Flake,
    login::{HostKeyPolicy, Login, Privilege},
    nix::{BuildOn, NixOptions, StoreSetting},
    phases::{Phase, Phases},
    target::Target,
    visit::Visit,
    words::{Fingerprint, Image, Invalid, Patience, SshOption},
};

/// What the user wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The machine.
    pub target: Target,
    /// What is installed; absent only where no phase needs it.
    pub source: Option<Source>,
    /// The phases to do.
    pub phases: Phases,
    /// How the installer is booted.
    pub kexec: Kexec,
    /// How to log in.
    pub login: Login,
    /// Where the password is that sudo asks for.
    pub privilege: Privilege,
    /// Which host keys are taken for the machine's own.
    pub host_key: HostKeyPolicy,
    /// Fingerprints of which the machine's key must be one; empty for no such demand.
    pub fingerprints: Vec<Fingerprint>,
    /// What disko does to the disks.
    pub disko_mode: DiskoMode,
    /// Whether disko's script brings its programs along, or uses those of the installer.
    pub disko_deps: bool,
    /// Keys that disko needs, in the order given; no two for the same path.
    pub keys: Vec<Key>,
    /// Directory whose contents are copied to `/` of the installed system.
    pub extra_files: Option<PathBuf>,
    /// Who owns what in the installed system, in the order in which it is done.
    pub owners: Vec<Owner>,
    /// Directories of the installed system that get the installer's host keys, which are those of the old system.
    pub host_keys_to: Vec<TargetPath>,
    /// What is written about the machine's hardware before the configuration is built.
    pub hardware: Option<Hardware>,
    /// Whether the system may check, before it is installed, that it can run on the machine.
    pub check: bool,
    /// Whether a system is refused that nothing is found to boot.
    pub boot_check: bool,
    /// How Nix is called.
    pub nix: NixOptions,
    /// Whether erasing the disks has been agreed to on the command line.
    pub yes: bool,
    /// What is done about a run that broke off.
    pub resume: Resume,
    /// Whether landfall stands in for nixos-anywhere, and so asks nothing that nixos-anywhere does not ask.
    pub compat: bool,
    /// Whether the agent is left alone as soon as it has everything.
    pub detach: bool,
    /// Whether the installed system is waited for and looked at.
    pub verify: bool,
    /// Whether the journal of the run stays on the installed system.
    pub keep_journal: bool,
    /// For how long a lost link is tried again.
    pub reconnect_timeout: Duration,
    /// For how long a machine is waited for that was told to boot, where the user says so.
    pub boot_timeout: Option<Duration>,
    /// What is shown, and where.
    pub output: Output,
    /// What is to be said about the words of the command line, such as that an option is deprecated.
    pub remarks: Vec<String>,
}

/// A configuration that is tested in a virtual machine of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmTest {
    /// The configuration.
    pub flake: Flake,
    /// How Nix is called.
    pub nix: NixOptions,
    /// What is shown, and where.
    pub output: Output,
    /// What is to be said about the words of the command line.
    pub remarks: Vec<String>,
}

/// What is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A configuration of a flake.
    Flake(Flake),
    /// What has been built already.
    StorePaths {
        /// The disko script: a path in the store, or a link to one.
        disko: PathBuf,
        /// `config.system.build.toplevel`: a path in the store, or a link to one.
        system: PathBuf,
    },
}

/// How the installer is booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kexec {
    /// The image.
    pub image: Image,
    /// Flags for the image's own `kexec/run`, empty for none.
    pub extra_flags: String,
    /// Whether it is booted even where an installer runs already.
    pub force: bool,
    /// Time without contact after which an installer whose disks are unchanged boots the old system again; 0 for never.
    pub return_after: Patience,
}

impl Kexec {
    /// How long nobody comes who is not coming any more, unless a user says otherwise.
    pub const RETURN_AFTER: Patience = Patience(Duration::from_secs(30 * 60));
}

/// A key for disko, as a file of the installer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Where the configuration looks for it.
    pub to: KeyPath,
    /// Where it is on this machine: a file, or a pipe that can be read once.
    pub from: PathBuf,
}

/// A description of the machine's hardware that is written into the configuration before it is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hardware {
    /// The program that describes it.
    pub backend: Backend,
    /// The file that is written, on this machine.
    pub path: PathBuf,
}

/// What is done about a run of the same command that broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Resume {
    /// It is taken up; where there is none, another one begins.
    #[default]
    Auto,
    /// It is left behind, and another one begins.
    Never,
    /// It is taken up; where there is none, nothing is done.
    Require,
}

/// A program that describes hardware.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Writes a module of NixOS.
    GenerateConfig,
    /// Writes a report in JSON.
    Facter,
}

/// What is shown, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    /// Whether events go to stdout, one JSON object a line.
    pub json: bool,
    /// 0 for the story, 1 for the output of programs too, 2 for everything.
    pub verbosity: u8,
}

impl Request {
    /// Checks what only the whole can tell, and hands the request back.
    pub fn checked(self) -> Result<Self, Failure> {
        let needs = self
            .phases
            .iter()
            .find(|phase| matches!(phase, Phase::Disko | Phase::Install));
        if let (None, Some(phase)) = (&self.source, needs) {
            return Err(Failure::new("cannot tell what to install")
                .because(format!("phase {phase} needs a configuration"))
                .hint("name one with `--flake URI#NAME` or `--store-paths DISKO SYSTEM`")
                .code("LF0413"));
        }
        if let (Some(one), Some(other)) = (self.target.port, self.login.port)
            && one != other
        {
            return Err(Failure::new("cannot tell which port to use")
                .because(format!("the host says {one}, `--ssh-port` says {other}"))
                .hint("give the port once")
                .code("LF0414"));
        }
        Ok(self)
    }

    /// Returns a hash of what a run cannot change its mind about: two commands with the same one are one run.
    ///
    /// That is the host, the configuration, the phases, what disko does to the disks, where its keys lie on the machine, and
    /// whether and how the hardware is described. Everything else may be corrected after a
    /// failure without beginning anew, which would erase the disks again: files, owners, host keys, where the keys come
    /// from, how the machine is reached, where it is built, what is shown.
    pub fn wish(&self) -> String {
        let keys: Vec<_> = self.keys.iter().map(|key| &key.to).collect();
        let wish = format!(
            "{:?} {:?} {:?} {:?} {:?} {keys:?} {:?}",
            self.target.host,
            self.source,
            self.phases,
            self.disko_mode,
            self.disko_deps,
            self.hardware
        );
        blake3::hash(wish.as_bytes()).to_hex().to_string()
    }

    /// Whether the agent is left alone as soon as it has everything: where there is something to give it.
    pub fn hands_over(&self) -> bool {
        self.detach && (self.phases.has(Phase::Disko) || self.phases.has(Phase::Install))
    }

    /// Returns how long the installer is waited for, from the last word of the old system to its first; seen: 25 s under
    /// emulation, minutes on servers whose network cards take their time.
    pub fn installer_boots(&self) -> Duration {
        self.boot_timeout.unwrap_or(Duration::from_secs(600))
    }

    /// Returns how long the installed system is waited for, from the reboot to the first login: firmware of servers takes
    /// minutes.
    pub fn system_boots(&self) -> Duration {
        self.boot_timeout.unwrap_or(Duration::from_secs(900))
    }

    /// Returns the name under which the machine is on record.
    pub fn on_record(&self) -> String {
        match self.port() {
            Some(port) => format!("{}:{port}", self.target.host),
            None => self.target.host.clone(),
        }
    }

    /// Returns the port of the old system, where one was given.
    pub fn port(&self) -> Option<u16> {
        self.login.port.or(self.target.port)
    }
}
