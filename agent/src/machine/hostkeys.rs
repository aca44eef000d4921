//! SSH host keys: made where there are none, carried over from the installer.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use landfall_proto::{failure::Failure, order::TargetPath};
use ring::{
    rand::{SecureRandom, SystemRandom},
    signature::{Ed25519KeyPair, KeyPair},
};

use super::{Machine, TARGET, broken, files};

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
    /// Whether the running system has host keys where sshd looks first.
    pub fn has_host_keys(&self) -> bool {
        self.names("/etc/ssh")
            .iter()
            .any(|name| name.starts_with("ssh_host_"))
    }

    /// Copies the installer's host keys to a folder of the new system, where there are none, and returns how many. Blocks.
    pub fn copy_host_keys(&self, folder: &TargetPath) -> Result<usize, Failure> {
        let from = self.at("/etc/ssh");
        let to = self.at(&format!("{TARGET}{folder}"));
        fs::create_dir_all(&to).map_err(broken(format!("cannot make {}", to.display())))?;
        let names = self
            .names("/etc/ssh")
            .into_iter()
            .filter(|name| name.starts_with("ssh_host_"));
        let mut count = 0;
        for name in names.filter(|name| !present(&to.join(name))) {
            let source = from.join(&name);
            let content =
                fs::read(&source).map_err(broken(format!("cannot read {}", source.display())))?;
            let mode = fs::metadata(&source).map_or(0o600, |found| found.permissions().mode());
            let mode = if name.ends_with(".pub") {
                mode & 0o644
            } else {
                mode & 0o600
            };
            files::write(&to.join(name), &content, mode)?;
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
    use super::*;
    use crate::machine::command::Script;

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
    fn host_keys_do_not_replace_those_that_are_there() {
        let root = tempfile::tempdir().unwrap();
        let machine = Machine::scripted(root.path(), root.path(), Script::default());
        let (from, to) = (root.path().join("etc/ssh"), root.path().join("mnt/etc/ssh"));
        fs::create_dir_all(&from).unwrap();
        fs::create_dir_all(&to).unwrap();
        for name in [
            "ssh_host_rsa_key",
            "ssh_host_rsa_key.pub",
            "ssh_host_ed25519_key",
            "sshd_config",
        ] {
            fs::write(from.join(name), "new").unwrap();
            fs::set_permissions(from.join(name), fs::Permissions::from_mode(0o644)).unwrap();
        }
        fs::write(to.join("ssh_host_rsa_key"), "own").unwrap();
        assert_eq!(machine.copy_host_keys(&"/etc/ssh".parse().unwrap()), Ok(2));
        assert_eq!(fs::read(to.join("ssh_host_rsa_key")).unwrap(), b"own");
        assert!(!to.join("sshd_config").exists());
        let mode = |name| fs::metadata(to.join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(
            (mode("ssh_host_ed25519_key"), mode("ssh_host_rsa_key.pub")),
            (0o600, 0o644)
        );
    }
}
