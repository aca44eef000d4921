//! How the machine is reached, whom it is believed to be, and how one becomes root on it.
//!
//! Passwords and keys are never here, only where they are to be had.

use std::path::PathBuf;

use super::SshOption;

/// Variable with the password of the login.
pub const PASSWORD: &str = "SSHPASS";

/// Variable with a private key, not the path of one.
pub const PRIVATE_KEY: &str = "SSH_PRIVATE_KEY";

/// Variable with the password that sudo asks for.
pub const SUDO_PASSWORD: &str = "SUDOPASS";

/// How to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Private key file.
    pub identity: Option<PathBuf>,
    /// Whether the private key is the one in the variable [`PRIVATE_KEY`]; never where `identity` names a file.
    pub env_key: bool,
    /// Whether the password is the one in the variable [`PASSWORD`].
    pub env_password: bool,
    /// Port of the old system; absent for what ssh's own configuration says.
    pub port: Option<u16>,
    /// Port of the installer.
    pub post_kexec_port: Option<u16>,
    /// Options for ssh, in the order given.
    pub options: Vec<SshOption>,
}

/// Where the password is that sudo asks for, if it asks. With neither it is asked on a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Privilege {
    /// A file, or a pipe, with nothing but the password.
    pub password_file: Option<PathBuf>,
    /// Whether it is in the variable [`SUDO_PASSWORD`].
    pub from_env: bool,
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
