//! How Nix is called on this machine, and how the stores on the target are opened.

/// How Nix is called on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NixOptions {
    /// Where the system is built.
    pub build_on: BuildOn,
    /// Settings by name and value, in the order given.
    pub settings: Vec<(String, String)>,
    /// Settings of the stores on the target by name and value, in the order given; see [`Self::store_query`].
    pub store_settings: Vec<(String, String)>,
    /// Store from which what is installed is copied; absent for this machine's own.
    pub from: Option<String>,
    /// Whether the target may fetch from substituters what they have.
    pub substitute: bool,
    /// Whether the installer uses the substituters and public keys of the configuration that is installed.
    pub machine_substituters: bool,
    /// Whether the output of builders is shown.
    pub print_build_logs: bool,
    /// Whether an error of the evaluation shows where it came from.
    pub show_trace: bool,
}

/// Where the system is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildOn {
    /// Here where this machine or its builders can, else on the target.
    Auto,
    /// On this machine, and the builders it knows.
    Local,
    /// On the target.
    Remote,
}

/// What becomes of a setting of the store on the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreSetting {
    /// It is a setting of every store that is spoken to as a daemon, ours too.
    Kept,
    /// It has no effect, and this is why.
    Idle(&'static str),
}

impl StoreSetting {
    /// Tells what becomes of the setting with this name.
    ///
    /// nixos-anywhere opens the stores over ssh; landfall opens a socket that leads to the daemon on the target (Nix
    /// manual, "Store types").
    pub fn of(name: &str) -> Self {
        match name {
            "max-connections"
            | "max-connection-age"
            | "path-info-cache-size"
            | "priority"
            | "system-features"
            | "trusted"
            | "want-mass-query" => Self::Kept,
            "compress" => Self::Idle("landfall compresses what it sends, and not twice"),
            "ssh-key" => Self::Idle("Nix does not log in; `-i` names the key of the login"),
            "base64-ssh-public-host-key" => {
                Self::Idle("Nix does not log in; `--host-key` says which host key is taken")
            }
            "remote-program" => Self::Idle("the agent starts the program that answers"),
            "remote-store" => {
                Self::Idle("landfall chooses the store: the installer's own, or the one in /mnt")
            }
            _ => Self::Idle("the store on the target has no such setting"),
        }
    }
}

impl NixOptions {
    /// Returns the settings of the store that have an effect, as they follow `?` in the address of a store; or nothing.
    pub fn store_query(&self) -> String {
        let kept = self
            .store_settings
            .iter()
            .filter(|(name, _)| StoreSetting::of(name) == StoreSetting::Kept);
        let pairs: Vec<String> = kept
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        pairs.join("&")
    }
}
