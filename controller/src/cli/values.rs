//! The words that some options choose from, and options that take two words.

use clap::ValueEnum;
use landfall_proto::{
    failure::Failure,
    order::{DiskoMode, Owner, TargetPath},
};

use crate::request::{Backend, BuildOn, Hardware, HostKeyPolicy, Key, Resume};

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(super) enum Mode {
    /// Destroy, format and mount
    #[default]
    Disko,
    /// Mount what is there
    Mount,
    /// Create what is missing; mounts nothing
    Format,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(super) enum Policy {
    /// Ask on a terminal; without one accept it and warn
    #[default]
    Ask,
    /// Refuse it
    Strict,
    /// Accept it
    AcceptNew,
    /// Accept any key, even one that differs from the known one
    Off,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Place {
    /// Here where this machine or its builders can, else on the target
    #[default]
    Auto,
    /// Here, and on the builders this machine knows
    Local,
    /// On the target
    Remote,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Taking {
    /// Take it up; begin a new run where there is none
    Auto,
    /// Begin a new run
    Never,
    /// Take it up; do nothing where there is none
    Require,
}

/// A shell that completes commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU Bash
    Bash,
    /// Z shell
    Zsh,
    /// fish
    Fish,
}

impl From<Mode> for DiskoMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Disko => Self::Disko,
            Mode::Mount => Self::Mount,
            Mode::Format => Self::Format,
        }
    }
}

impl From<Policy> for HostKeyPolicy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Ask => Self::Ask,
            Policy::Strict => Self::Strict,
            Policy::AcceptNew => Self::AcceptNew,
            Policy::Off => Self::Off,
        }
    }
}

impl From<Taking> for Resume {
    fn from(taking: Taking) -> Self {
        match taking {
            Taking::Auto => Self::Auto,
            Taking::Never => Self::Never,
            Taking::Require => Self::Require,
        }
    }
}

/// Reads `--resume` and its short form `--fresh`.
pub(super) fn resume(taking: Option<Taking>, fresh: bool) -> Result<Resume, Failure> {
    match (taking, fresh) {
        (Some(Taking::Auto | Taking::Require), true) => {
            Err(Failure::new("cannot tell whether to take up the run")
                .because("`--fresh` means `--resume never`, and another `--resume` is given")
                .hint("leave one of them out")
                .code("LF0410"))
        }
        (_, true) => Ok(Resume::Never),
        (Some(taking), false) => Ok(taking.into()),
        (None, false) => Ok(Resume::Auto),
    }
}

impl From<Place> for BuildOn {
    fn from(place: Place) -> Self {
        match place {
            Place::Auto => Self::Auto,
            Place::Local => Self::Local,
            Place::Remote => Self::Remote,
        }
    }
}

/// clap hands the values of an option that takes two and can be repeated over in one row.
pub(super) fn pairs(row: Vec<String>) -> Vec<(String, String)> {
    let mut row = row.into_iter();
    std::iter::from_fn(|| row.next().zip(row.next())).collect()
}

fn unusable(words: &str) -> Failure {
    Failure::new(format!("cannot use `{words}`")).code("LF0410")
}

/// Reads the two words of `--chown`. nixos-anywhere takes a path without its first slash too.
pub(super) fn owner((path, owner): (String, String)) -> Result<Owner, Failure> {
    let cannot = || {
        unusable(&format!("--chown {path} {owner}"))
            .hint("write it as `--chown /home/alice 1000:100`")
            .code("LF0410")
    };
    let whole = match path.starts_with('/') || path.is_empty() {
        true => path.clone(),
        false => format!("/{path}"),
    };
    let whole: TargetPath = whole.parse().map_err(|error| cannot().caused_by(&error))?;
    let owner = owner.parse().map_err(|error| cannot().caused_by(&error))?;
    Ok(Owner { path: whole, owner })
}

/// Reads the words of all `--disk-encryption-keys`.
pub(super) fn keys(row: Vec<String>) -> Result<Vec<Key>, Failure> {
    let mut keys: Vec<Key> = Vec::new();
    for (to, from) in pairs(row) {
        let cannot = || unusable(&format!("--disk-encryption-keys {to} {from}"));
        let hint = "write it as `--disk-encryption-keys REMOTE LOCAL`: the path that disko looks at, then the file here";
        let key = Key {
            to: to
                .parse()
                .map_err(|error| cannot().caused_by(&error).hint(hint))?,
            from: from.clone().into(),
        };
        if from.is_empty() {
            return Err(cannot()
                .because("it names no file on this machine")
                .hint(hint));
        }
        match keys.iter().find(|known| known.to == key.to) {
            None => keys.push(key),
            Some(known) if known.from == key.from => {}
            Some(known) => {
                let other = known.from.display();
                return Err(cannot()
                    .because(format!("{to} is to be filled from {other} too"))
                    .hint("give each remote path once"));
            }
        }
    }
    Ok(keys)
}

/// Reads the two words of `--generate-hardware-config`.
pub(super) fn hardware((backend, path): (String, String)) -> Result<Hardware, Failure> {
    let cannot = || unusable(&format!("--generate-hardware-config {backend} {path}"));
    let program = match &*backend {
        "nixos-generate-config" => Backend::GenerateConfig,
        "nixos-facter" => Backend::Facter,
        _ => {
            return Err(cannot()
                .because(format!(
                    "`{backend}` is no backend; the backends are nixos-generate-config and nixos-facter"
                ))
                .hint("write it as `--generate-hardware-config nixos-generate-config ./hardware-configuration.nix`"));
        }
    };
    if path.is_empty() || path.ends_with('/') {
        return Err(cannot()
            .because("it names no file on this machine")
            .hint("name the file that the configuration imports"));
    }
    Ok(Hardware {
        backend: program,
        path: path.into(),
    })
}

/// Reads the words of all `--ssh-store-setting`, which become part of an address.
pub(super) fn store_settings(row: Vec<String>) -> Result<Vec<(String, String)>, Failure> {
    let settings = pairs(row);
    for (name, value) in &settings {
        let cannot = || unusable(&format!("--ssh-store-setting {name} {value}"));
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || !name.bytes().all(is_name) {
            return Err(cannot()
                .because(format!("`{name}` is no name of a setting"))
                .hint("see the settings of stores: `nix help-stores`"));
        }
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"&#\"<>\\^`{|}".contains(&byte);
        if !value.bytes().all(is_plain) {
            return Err(cannot()
                .because("its value would end in the middle of the store's address")
                .hint("write what is neither a letter nor a digit as `%` and two hex digits, such as `%26` for `&`"));
        }
    }
    Ok(settings)
}
