//! What the controller asks the agent for, checked when it is made and again when it is read.
//!
//! An order carries no secret: key material travels as streams and never lies in a journal.

#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::image::Size;

/// Name of a run: 32 lower-case hex digits, made by the controller at random.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(String);

/// A path directly below `/nix/store`, in the form Nix accepts.
///
/// 32 characters of Nix's base 32, a dash, and a name of `[0-9a-zA-Z+-._?=]` that does not begin with a dot (Nix manual,
/// "Store path").
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StorePath(String);

/// Where a key file lies on the installer: absolute, without `..`, and not the root itself.
///
/// Doubled slashes, dots and a slash at the end are taken out when it is read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyPath(String);

/// A place inside the installed system, seen from its own root; `/` is that root.
///
/// Normal in the same way as a [`KeyPath`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TargetPath(String);

/// Who shall own something, in the words of chown(1): `user:group`, `user`, `:group`, or `user:`.
///
/// Names or numbers. At least one of the two is there.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ownership {
    /// The user; none to leave it as it is.
    pub user: Option<String>,
    /// The group; none to leave it as it is, empty for the user's own group.
    pub group: Option<String>,
}

/// Whom something in the installed system shall belong to, with all that is below it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// What.
    pub path: TargetPath,
    /// To whom.
    pub owner: Ownership,
}

/// Where the target's Nix may fetch from, besides what its own configuration says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NixSettings {
    /// Binary caches, each without blanks.
    #[serde(default, deserialize_with = "words")]
    pub substituters: Vec<String>,
    /// Keys that sign what comes from them, `name:base64` each.
    #[serde(default, deserialize_with = "words")]
    pub public_keys: Vec<String>,
}

/// Bytes known by their hash: an image or an archive that travels as a blob stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// BLAKE3 of all bytes, 64 lower-case hex digits.
    pub hash: BlobHash,
    /// Length in bytes.
    pub size: u64,
}

/// BLAKE3 of a blob, 64 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BlobHash(String);

/// A word that is not of the form it should have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct Malformed {
    /// What was read, cut to 200 characters.
    pub text: String,
    /// What it should have been.
    pub expected: &'static str,
}

/// What the agent shall do in one life: leave the old system, or install from the installer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The run this belongs to; the same on both sides of kexec.
    pub run: RunId,
    /// The work.
    pub job: Job,
}

/// The work of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Job {
    /// Boot an installer image by kexec.
    Kexec(Kexec),
    /// Partition, install, reboot: the parts that are there.
    Install(Install),
}

/// Booting an installer image by kexec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kexec {
    /// The tarball in the stock layout (`kexec/run` and what it needs), compressed by gzip, xz, zstd or not at all.
    pub image: Blob,
    /// Flags handed to `kexec/run --kexec-extra-flags`.
    pub extra_flags: String,
    /// Public key line that may log in as root to the installer, besides those of the old system.
    pub authorized_key: String,
    /// Length of the kernel in it, in bytes; 0 where that is not known.
    #[serde(default)]
    pub kernel: u64,
    /// Length of the initrd in it, in bytes; 0 where that is not known.
    #[serde(default)]
    pub initrd: u64,
    /// Seconds without contact after which an installer whose disks are untouched boots the old system again; 0 for never.
    #[serde(default)]
    pub return_after: u64,
}

/// Partition, install, reboot: the parts that are there, in this order. By default nothing is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Install {
    /// Files that disko's script reads: keys of encrypted disks. Only where they lie; what is in them never travels in an
    /// order.
    #[serde(default)]
    pub keys: Vec<KeyPath>,
    /// Run disko's script.
    pub disko: Option<Disko>,
    /// Install a system.
    pub system: Option<System>,
    /// Where Nix may fetch from.
    #[serde(default)]
    pub nix: NixSettings,
    /// Reboot at the end.
    pub reboot: bool,
    /// Leave the run's journal on the installed system.
    #[serde(default)]
    pub keep_journal: bool,
}

/// Running a script made by disko.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disko {
    /// The script.
    pub script: StorePath,
    /// What it does.
    pub mode: DiskoMode,
    /// The disks it may change, as they were when a person agreed; empty when they are not known.
    pub disks: Vec<ConsentedDisk>,
    /// The script that mounts what `script` made, where this run may have run that before, in a boot that is over.
    ///
    /// `script` is then not run at all: what it made is looked for on the disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<StorePath>,
}

/// What a disko script does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskoMode {
    /// Destroy, format and mount.
    Disko,
    /// Create what is missing; mounts nothing.
    Format,
    /// Mount only.
    Mount,
}

/// A disk as it was when a person agreed to erase it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsentedDisk {
    /// Path the configuration names, such as `/dev/vda` or `/dev/disk/by-id/…`.
    pub device: String,
    /// Size in bytes.
    pub size: u64,
    /// Serial number, where the disk has one.
    pub serial: Option<String>,
    /// What its first bytes were, as [`Disk::beginning`](crate::facts::Disk::beginning).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beginning: Option<String>,
}

impl ConsentedDisk {
    /// Whether what is found now is this disk, whatever is on it.
    ///
    /// A serial number that nobody saw when it was agreed to is not missed: the old system may not show it.
    pub fn is_same(&self, now: &Self) -> bool {
        (&self.device, self.size) == (&now.device, now.size)
            && (self.serial.is_none() || self.serial == now.serial)
    }
}

/// Installing a system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    /// `config.system.build.toplevel`.
    pub toplevel: StorePath,
    /// A tar archive unpacked below `/mnt`, owner root.
    pub extra_files: Option<Blob>,
    /// Whom parts of the system shall belong to, in this order, once the extra files are in their places.
    #[serde(default)]
    pub owners: Vec<Owner>,
    /// Folders that get the installer's `/etc/ssh/ssh_host_*` where there are none.
    #[serde(default)]
    pub host_keys_to: Vec<TargetPath>,
    /// Whether the system may refuse to be installed; false sets `NIXOS_NO_CHECK`.
    #[serde(default = "yes")]
    pub check: bool,
    /// Whether a system is refused that nothing is found to boot.
    #[serde(default = "yes")]
    pub boot_check: bool,
}

/// Something a step waits for and the controller delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// The files that disko's script reads are in their places.
    Keys,
    /// The disko script and its closure are in the installer's store.
    DiskoScript,
    /// The system's closure is in the store on the target's disk.
    System,
}

/// A program that describes the hardware of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Describer {
    /// Writes a NixOS module.
    GenerateConfig,
    /// Writes JSON that a NixOS module reads.
    Facter,
}

/// A store on the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreRoot {
    /// The installer's own.
    Installer,
    /// The one below `/mnt`.
    Target,
}

impl Order {
    /// Returns the names of the agent's steps for this order, in the order in which they are done.
    pub fn plan(&self) -> Vec<&'static str> {
        match &self.job {
            Job::Kexec(_) => vec!["inspect", "image", "kexec"],
            Job::Install(install) => install.plan(),
        }
    }
}

impl Kexec {
    /// Returns what the image takes. An initrd of which nothing is known is about as large as the tarball.
    pub fn size(&self) -> Size {
        Size {
            packed: self.image.size,
            kernel: self.kernel,
            initrd: match self.initrd {
                0 => self.image.size,
                initrd => initrd,
            },
        }
    }
}

impl Install {
    fn plan(&self) -> Vec<&'static str> {
        let mut plan = vec!["inspect"];
        if !self.keys.is_empty() {
            plan.push("keys");
        }
        if self.disko.is_some() {
            plan.extend(["tools", "format"]);
        }
        if self.disko.is_some() || self.system.is_some() {
            plan.push("mount");
        }
        if self.system.is_some() {
            plan.extend(["copy", "files", "install"]);
        }
        if self.reboot {
            plan.extend(["seal", "reboot"]);
        }
        plan
    }
}

impl Input {
    /// Returns its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::DiskoScript => "disko_script",
            Self::System => "system",
        }
    }

    /// Reads its name on the wire.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Keys, Self::DiskoScript, Self::System]
            .into_iter()
            .find(|input| input.name() == name)
    }
}

impl Describer {
    /// Returns the program's name, on the wire as in a shell.
    pub fn name(self) -> &'static str {
        match self {
            Self::GenerateConfig => "nixos-generate-config",
            Self::Facter => "nixos-facter",
        }
    }

    /// Reads the program's name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::GenerateConfig, Self::Facter]
            .into_iter()
            .find(|describer| describer.name() == name)
    }
}

impl StoreRoot {
    /// Returns its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Installer => "installer",
            Self::Target => "target",
        }
    }

    /// Reads its name on the wire.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Installer, Self::Target]
            .into_iter()
            .find(|root| root.name() == name)
    }
}

impl StorePath {
    /// Returns the whole path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the last component: hash, dash, name.
    pub fn base_name(&self) -> &str {
        &self.0["/nix/store/".len()..]
    }
}

impl KeyPath {
    /// Returns the whole path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TargetPath {
    /// Returns the path as it is inside the installed system.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the path without its first slash; empty for the root.
    pub fn inside(&self) -> &str {
        &self.0[1..]
    }
}

impl RunId {
    /// Returns the digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Makes an id of 16 random bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl BlobHash {
    /// Returns the digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn malformed(text: &str, expected: &'static str) -> Malformed {
    Malformed {
        text: text.chars().take(200).collect(),
        expected,
    }
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl TryFrom<String> for RunId {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        if is_hex(&text, 32) {
            Ok(Self(text))
        } else {
            Err(malformed(&text, "a run id"))
        }
    }
}

impl TryFrom<String> for BlobHash {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        if is_hex(&text, 64) {
            Ok(Self(text))
        } else {
            Err(malformed(&text, "a BLAKE3 hash"))
        }
    }
}

impl TryFrom<String> for StorePath {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        let valid = text.strip_prefix("/nix/store/").is_some_and(|base| {
            let (Some(hash), Some(name)) = (base.get(..32), base.get(33..)) else {
                return false;
            };
            base.as_bytes()[32] == b'-'
                && hash
                    .bytes()
                    .all(|b| b"0123456789abcdfghijklmnpqrsvwxyz".contains(&b))
                && (1..=211).contains(&name.len())
                && !name.starts_with('.')
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"+-._?=".contains(&b))
        });
        if valid {
            Ok(Self(text))
        } else {
            Err(malformed(&text, "a store path"))
        }
    }
}

impl TryFrom<String> for KeyPath {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        let path = normal(&text).filter(|path| path != "/");
        path.map(Self)
            .ok_or_else(|| malformed(&text, "an absolute path to a file, without `..`"))
    }
}

impl TryFrom<String> for TargetPath {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        let path = normal(&text);
        path.map(Self)
            .ok_or_else(|| malformed(&text, "an absolute path without `..`"))
    }
}

impl TryFrom<String> for Ownership {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        let owner = || {
            let (user, group) = match text.split_once(':') {
                Some((user, group)) => (user, Some(group)),
                None => (text.as_str(), None),
            };
            let legal = match (user, group) {
                ("", None | Some("")) => false,
                (user, group) => is_name(user) && is_name(group.unwrap_or_default()),
            };
            legal.then(|| Self {
                user: Some(user.to_owned()).filter(|user| !user.is_empty()),
                group: group.map(str::to_owned),
            })
        };
        owner().ok_or_else(|| {
            malformed(
                &text,
                "an owner: `user`, `user:group`, `:group` or `user:`, names or numbers",
            )
        })
    }
}

impl From<Ownership> for String {
    fn from(owner: Ownership) -> Self {
        owner.to_string()
    }
}

impl fmt::Display for Ownership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.user.as_deref().unwrap_or_default())?;
        match &self.group {
            Some(group) => write!(f, ":{group}"),
            None => Ok(()),
        }
    }
}

impl std::str::FromStr for Ownership {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        Self::try_from(text.to_owned())
    }
}

/// Longest path that the kernel takes in one call, with its zero byte (`PATH_MAX`).
const PATH_MAX: usize = 4096;
/// Longest name of one file (`NAME_MAX`).
const NAME_MAX: usize = 255;

/// Returns an absolute path in its one normal form; nothing where it has none.
fn normal(text: &str) -> Option<String> {
    let inside = text.strip_prefix('/')?;
    let mut path = String::new();
    for part in inside.split('/') {
        match part {
            "" | "." => {}
            ".." => return None,
            part if part.len() > NAME_MAX || part.contains(char::is_control) => return None,
            part => {
                path.push('/');
                path.push_str(part);
            }
        }
    }
    if path.is_empty() {
        path.push('/');
    }
    (path.len() < PATH_MAX).then_some(path)
}

/// Whether this may be the name or the number of a user or a group; an empty one may.
fn is_name(text: &str) -> bool {
    let digits = text.strip_prefix('+').unwrap_or(text);
    let number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if number || digits.len() < text.len() {
        // the largest number is how chown(2) is told to leave the owner alone
        return digits.parse::<u32>().is_ok_and(|id| id != u32::MAX);
    }
    text.len() <= NAME_MAX
        && !text.contains(|c: char| c == ':' || c == '/' || c.is_control() || c.is_whitespace())
}

/// Reads settings that Nix takes apart at blanks, and that come one to a line.
fn words<'de, D: serde::Deserializer<'de>>(source: D) -> Result<Vec<String>, D::Error> {
    let words = Vec::<String>::deserialize(source)?;
    match words.iter().find(|word| !is_word(word)) {
        None => Ok(words),
        Some(word) => Err(serde::de::Error::custom(malformed(
            word,
            "one word for a setting of Nix",
        ))),
    }
}

fn is_word(text: &str) -> bool {
    (1..=PATH_MAX).contains(&text.len())
        && !text.contains(|c: char| c.is_control() || c.is_whitespace())
}

fn yes() -> bool {
    true
}

macro_rules! text_type {
    ($($name:ident),*) => {$(
        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl std::str::FromStr for $name {
            type Err = Malformed;
            fn from_str(text: &str) -> Result<Self, Malformed> {
                Self::try_from(text.to_owned())
            }
        }
    )*};
}
text_type!(RunId, StorePath, BlobHash, KeyPath, TargetPath);
