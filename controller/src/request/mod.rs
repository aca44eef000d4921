//! What the user wants, whole and checked: a value of these types can be acted on without looking again.
//!
//! Nothing here reads a file or the network: whether a path exists or a host answers is found out in `preflight` and
//! `prepare`. Start at [`Request`].

mod flake;
mod phases;
mod target;
mod words;

use std::{path::PathBuf, time::Duration};

use landfall_proto::{failure::Failure, order::DiskoMode};

pub use self::{
    flake::Flake,
    phases::{Phase, Phases},
    target::Target,
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
    /// Which host keys are taken for the machine's own.
    pub host_key: HostKeyPolicy,
    /// Fingerprints of which the machine's key must be one; empty for no such demand.
    pub fingerprints: Vec<Fingerprint>,
    /// What disko does to the disks.
    pub disko_mode: DiskoMode,
    /// Directory whose contents are copied to `/` of the installed system.
    pub extra_files: Option<PathBuf>,
    /// Whether the installed system keeps the installer's host keys, and so those of the old system.
    pub copy_host_keys: bool,
    /// How Nix is called.
    pub nix: NixOptions,
    /// Whether erasing the disks has been agreed to on the command line.
    pub yes: bool,
    /// Whether a run that broke off is left behind instead of taken up.
    pub fresh: bool,
    /// Whether the installed system is waited for and looked at.
    pub verify: bool,
    /// For how long a lost link is tried again.
    pub reconnect_timeout: Duration,
    /// What is shown, and where.
    pub output: Output,
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
}

/// How to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Private key file.
    pub identity: Option<PathBuf>,
    /// Port of the old system; absent for what ssh's own configuration says.
    pub port: Option<u16>,
    /// Port of the installer.
    pub post_kexec_port: Option<u16>,
    /// Options for ssh, in the order given.
    pub options: Vec<SshOption>,
}

/// Which host keys are taken for the machine's own, where no fingerprint was given.
///
/// A key that ssh knows must match under every policy but `Off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostKeyPolicy {
    /// An unknown key is shown and asked about; without a terminal it is accepted with a warning.
    Ask,
    /// An unknown key is refused.
    Strict,
    /// An unknown key is accepted.
    AcceptNew,
    /// Any key is accepted, even one that differs from the known one.
    Off,
}

/// How Nix is called on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NixOptions {
    /// Where the system is built.
    pub build_on: BuildOn,
    /// Settings by name and value, in the order given.
    pub settings: Vec<(String, String)>,
    /// Whether the output of builders is shown.
    pub print_build_logs: bool,
    /// Whether an error of the evaluation shows where it came from.
    pub show_trace: bool,
}

/// Where the system is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildOn {
    /// Where it can be built; today that is this machine and the builders it knows.
    Auto,
    /// On this machine, and the builders it knows.
    Local,
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
                .hint("name one with `--flake URI#NAME` or `--store-paths DISKO SYSTEM`"));
        }
        if let (Some(one), Some(other)) = (self.target.port, self.login.port)
            && one != other
        {
            return Err(Failure::new("cannot tell which port to use")
                .because(format!("the host says {one}, `--ssh-port` says {other}"))
                .hint("give the port once"));
        }
        Ok(self)
    }

    /// Returns a hash of what is to become of the machine: two commands with the same one want the same.
    ///
    /// How it is reached and shown is no part of it.
    pub fn wish(&self) -> String {
        let wish = format!(
            "{:?} {:?} {:?} {:?} {:?} {:?} {:?}",
            self.target.host,
            self.source,
            self.phases,
            self.kexec,
            self.disko_mode,
            self.extra_files,
            self.copy_host_keys
        );
        blake3::hash(wish.as_bytes()).to_hex().to_string()
    }

    /// Returns the port of the old system, where one was given.
    pub fn port(&self) -> Option<u16> {
        self.login.port.or(self.target.port)
    }

    /// Returns what was asked for and will have no effect, a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let kexec = self.phases.has(Phase::Kexec);
        let install = self.phases.has(Phase::Install);
        let disko = self.phases.has(Phase::Disko);
        let useless = [
            (
                !kexec && self.kexec.image != Image::Default,
                "--kexec",
                "kexec",
            ),
            (
                !kexec && !self.kexec.extra_flags.is_empty(),
                "--kexec-extra-flags",
                "kexec",
            ),
            (!kexec && self.kexec.force, "--force-kexec", "kexec"),
            (
                !kexec && self.login.post_kexec_port.is_some(),
                "--post-kexec-ssh-port",
                "kexec",
            ),
            (
                !install && self.extra_files.is_some(),
                "--extra-files",
                "install",
            ),
            (
                !install && self.copy_host_keys,
                "--copy-host-keys",
                "install",
            ),
            (
                !disko && self.disko_mode != DiskoMode::Disko,
                "--disko-mode",
                "disko",
            ),
        ];
        let useless = useless.into_iter().filter(|(useless, ..)| *useless);
        let mut warnings: Vec<String> = useless
            .map(|(_, option, phase)| {
                format!(
                    "`{option}` has no effect; continuing because phase {phase} is not asked for"
                )
            })
            .collect();
        let ours = self.login.options.iter().filter(|option| option.is_ours());
        warnings.extend(ours.map(|option| {
            let name = option.name();
            format!(
                "`--ssh-option {name}=…` has no effect; continuing because `--host-key-policy` decides about host keys"
            )
        }));
        if self.host_key == HostKeyPolicy::Off {
            warnings.push(
                "whoever answers is taken for the machine; continuing because `--host-key-policy off` asks for it"
                    .to_owned(),
            );
        }
        warnings
    }
}
