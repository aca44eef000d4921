//! What the command line takes from around it: the name it was started under, and which variables are set.
//!
//! Looks whether a variable is there, never keeps what is in it.

use std::{env, ffi::OsStr, path::Path};

use crate::request::login;

/// Name of the program whose command lines landfall takes.
pub const PREDECESSOR: &str = "nixos-anywhere";

/// Variable that, with anything in it, keeps a system from checking whether it can run before it is installed.
pub const NO_CHECK: &str = "NIXOS_NO_CHECK";

/// Which of the variables that landfall reads have anything in them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Environment {
    /// `SSH_PRIVATE_KEY`.
    pub private_key: bool,
    /// `SSHPASS`.
    pub password: bool,
    /// `SUDOPASS`.
    pub sudo_password: bool,
    /// `NIXOS_NO_CHECK`.
    pub no_check: bool,
}

impl Environment {
    /// Looks at the variables of this process.
    pub fn look() -> Self {
        let set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        Self {
            private_key: set(login::PRIVATE_KEY),
            password: set(login::PASSWORD),
            sudo_password: set(login::SUDO_PASSWORD),
            no_check: set(NO_CHECK),
        }
    }
}

/// Whether the first word of a command line says that landfall stands in for nixos-anywhere.
pub(super) fn is_predecessor(word: &OsStr) -> bool {
    Path::new(word).file_name() == Some(OsStr::new(PREDECESSOR))
}
