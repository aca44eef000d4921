//! SSH host keys: made where there are none, carried over from the installer.

use std::{fs, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use landfall_proto::{failure::Failure, order::TargetPath};
use ring::{
    rand::{SecureRandom, SystemRandom},
    signature::{Ed25519KeyPair, KeyPair},
};

use super::{Machine, TARGET, broken, files, inside::path_to};

/// The host keys that the installer's sshd shows.
pub const SHOWN: [&str; 2] = ["ssh_host_rsa_key", "ssh_host_ed25519_key"];

/// Returns what is known of the file of a host key, or where a link to one leads; none where that is empty or no file.
pub(super) fn key_at(path: &Path) -> Option<fs::Metadata> {
    let found = fs::metadata(path).ok()?;
    (found.is_file() && found.len() > 0).then_some(found)
}

/// A host key in the form of files that sshd reads.
#[derive(Clone)]
pub struct HostKey {
    /// Content of the private file. A secret.
    pub private: String,
    /// Content of the public file: one line.
    pub public: String,
}

impl std::fmt::Debug for HostKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostKey")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

impl HostKey {
    /// Makes a new Ed25519 key.
    pub fn generate() -> Result<Self, Failure> {
        let mut seed = [0; 32];
        let mut check = [0; 4];
        let random = SystemRandom::new();
        let filled = random
            .fill(&mut seed)
            .and_then(|()| random.fill(&mut check));
        filled.map_err(|_| {
            Failure::new("cannot make a host key")
                .because("reading random bytes")
                .code("LF1206")
        })?;
        Ok(Self::from_seed(&seed, check))
    }

    fn from_seed(seed: &[u8; 32], check: [u8; 4]) -> Self {
        const KIND: &[u8] = b"ssh-ed25519";
        const COMMENT: &[u8] = b"landfall";
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).expect("a seed has 32 bytes");
        let point = pair.public_key().as_ref();
        let public = strings(&[KIND, point]);
        // the layout is OpenSSH's PROTOCOL.key
        let mut secret = [check, check].concat();
        secret.extend(strings(&[KIND, point, &[seed, point].concat(), COMMENT]));
        secret.extend((1..=8).take((8 - secret.len() % 8) % 8));
        let mut whole = b"openssh-key-v1\0".to_vec();
        whole.extend(strings(&[b"none", b"none", b""]));
        whole.extend(1_u32.to_be_bytes());
        whole.extend(strings(&[&public, &secret]));
        let text = STANDARD.encode(whole);
        let lines: Vec<_> = text
            .as_bytes()
            .chunks(70)
            .map(String::from_utf8_lossy)
            .collect();
        let body = lines.join("\n");
        Self {
            private: format!(
                "-----BEGIN OPENSSH PRIVATE KEY-----\n{body}\n-----END OPENSSH PRIVATE KEY-----\n"
            ),
            public: format!("ssh-ed25519 {} landfall\n", STANDARD.encode(public)),
        }
    }
}

impl Machine {
    /// Whether the running system has a host key that the installer's sshd shows, where it looks for one.
    ///
    /// A link that leads nowhere is none. NixOS names an RSA and an Ed25519 key (`services.openssh.hostKeys`).
    pub fn has_host_keys(&self) -> bool {
        SHOWN
            .iter()
            .any(|name| key_at(&self.at("/etc/ssh").join(name)).is_some())
    }

    /// Returns the key that the installer gets where the old system has none, made when it is asked for first.
    ///
    /// It is kept in the agent's folder, in memory, so that it can be told before it is used. Blocks.
    pub fn spare_host_key(&self) -> Result<HostKey, Failure> {
        let (private, public) = (self.dir().join("host_key"), self.dir().join("host_key.pub"));
        if let (Ok(private), Ok(public)) =
            (fs::read_to_string(&private), fs::read_to_string(&public))
        {
            return Ok(HostKey { private, public });
        }
        let key = HostKey::generate()?;
        // the public one first: it is no key without the other
        files::write(&public, key.public.as_bytes(), 0o600)?;
        files::write(&private, key.private.as_bytes(), 0o600)?;
        Ok(key)
    }

    /// Returns the public host keys that the installer may show, one line each: those of this system that its own sshd would
    /// take, and where it has none that is shown, the one that is made for it. Blocks.
    pub fn keys_of_installer(&self) -> Result<Vec<String>, Failure> {
        let mut keys = self.public_host_keys();
        if !self.has_host_keys() {
            keys.push(self.spare_host_key()?.public.trim_end().to_owned());
        }
        Ok(keys)
    }

    /// Copies the installer's host keys to a folder of the new system, where there are none, and returns how many files
    /// that were. Blocks.
    ///
    /// No link leads out of the new system. A public key goes only beside its own private one.
    pub fn copy_host_keys(&self, folder: &TargetPath) -> Result<usize, Failure> {
        let made = self.inside().and_then(|inside| inside.make(folder));
        let made = made.map_err(broken(format!("cannot make {TARGET}{folder}")))?;
        let (from, to) = (self.at("/etc/ssh"), path_to(&made));
        let cannot = |what: &str, name: &str| broken(format!("cannot {what} host key {name}"));
        let mut names = self.names("/etc/ssh");
        names.retain(|name| name.starts_with("ssh_host_"));
        let mut count = 0;
        for name in names.iter().filter(|name| !present(&to.join(name))) {
            let private = name.strip_suffix(".pub");
            let other = private.is_some_and(|private| {
                let (ours, theirs) = (fs::read(from.join(private)), fs::read(to.join(private)));
                theirs.is_ok_and(|theirs| ours.is_ok_and(|ours| ours != theirs))
            });
            if other {
                continue;
            }
            let content = fs::read(from.join(name)).map_err(cannot("read", name))?;
            let mode = private.map_or(0o600, |_| 0o644);
            files::write(&to.join(name), &content, mode).map_err(|failure| {
                failure.under(format!("cannot copy host key {name} to {folder}"))
            })?;
            count += 1;
        }
        Ok(count)
    }
}

fn present(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Strings of the SSH protocol: four bytes of length, then the bytes (RFC 4251, 5).
fn strings(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        let length = u32::try_from(part.len()).expect("keys are short");
        out.extend(length.to_be_bytes());
        out.extend_from_slice(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::machine::stage::Stage;

    const HOST_KEYS: [&str; 5] = [
        "ssh_host_ed25519_key",
        "ssh_host_ed25519_key.pub",
        "ssh_host_rsa_key",
        "ssh_host_rsa_key.pub",
        "sshd_config",
    ];

    #[test]
    fn host_key_is_what_openssh_reads() {
        let dir = tempfile::tempdir().unwrap();
        let key = HostKey::from_seed(&[7; 32], [1, 2, 3, 4]);
        files::write(&dir.path().join("key"), key.private.as_bytes(), 0o600).unwrap();
        let asked = std::process::Command::new("ssh-keygen")
            .args(["-y", "-f"])
            .arg(dir.path().join("key"))
            .output();
        let Ok(answer) = asked else {
            assert!(
                key.public
                    .starts_with("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI")
            );
            return;
        };
        assert_eq!(String::from_utf8(answer.stdout).unwrap(), key.public);
    }

    #[test]
    fn key_that_the_installer_will_get_is_told_before_and_stays_the_same() {
        let stage = Stage::new()
            .file("run/landfall/lock", "")
            .file("etc/ssh/ssh_host_ecdsa_key", "private")
            .private("etc/ssh/ssh_host_ecdsa_key")
            .file(
                "etc/ssh/ssh_host_ecdsa_key.pub",
                "ecdsa-sha2-nistp256 AAAA\n",
            )
            .link("etc/ssh/ssh_host_ed25519_key", "/nowhere");
        let machine = stage.machine();
        let told = machine.keys_of_installer().unwrap();
        let spare = machine.spare_host_key().unwrap();
        assert_eq!(told, ["ecdsa-sha2-nistp256 AAAA", spare.public.trim_end()]);
        assert_eq!(machine.keys_of_installer(), Ok(told));
        let stage = stage.file("etc/ssh/ssh_host_rsa_key", "private");
        assert_eq!(stage.machine().keys_of_installer().unwrap().len(), 1);
    }

    #[test]
    fn host_keys_do_not_replace_those_that_are_there() {
        let stage = Stage::new().file("mnt/etc/ssh/ssh_host_rsa_key", "own");
        let stage = HOST_KEYS.iter().fold(stage, |stage, name| {
            stage.file(&format!("etc/ssh/{name}"), name)
        });
        for name in HOST_KEYS {
            let path = stage.root().join("etc/ssh").join(name);
            fs::set_permissions(path, fs::Permissions::from_mode(0o444)).unwrap();
        }
        let machine = stage.machine();
        let folder = "/etc/ssh".parse().unwrap();
        assert_eq!(machine.copy_host_keys(&folder), Ok(2));
        assert_eq!(machine.copy_host_keys(&folder), Ok(0));
        let to = stage.root().join("mnt/etc/ssh");
        assert_eq!(stage.read("mnt/etc/ssh/ssh_host_rsa_key"), "own");
        assert!(!to.join("sshd_config").exists());
        assert!(
            !to.join("ssh_host_rsa_key.pub").exists(),
            "it is of another key"
        );
        let mode = |name| fs::metadata(to.join(name)).unwrap().permissions().mode() & 0o7777;
        let modes = (
            mode("ssh_host_ed25519_key"),
            mode("ssh_host_ed25519_key.pub"),
        );
        assert_eq!(modes, (0o600, 0o644));
        // as a crash between the two leaves it
        fs::remove_file(to.join("ssh_host_ed25519_key.pub")).unwrap();
        assert_eq!(machine.copy_host_keys(&folder), Ok(1));
    }

    #[test]
    fn host_keys_go_to_a_folder_that_outlives_the_root() {
        let stage = Stage::new()
            .file("etc/ssh/ssh_host_ed25519_key", "private")
            .file("mnt/persist/x", "")
            .link("mnt/var", "/persist");
        let folder = "/var/ssh/keys".parse().unwrap();
        assert_eq!(stage.machine().copy_host_keys(&folder), Ok(1));
        let path = "mnt/persist/ssh/keys/ssh_host_ed25519_key";
        assert_eq!(stage.read(path), "private");
    }
}
