//! Which key the machine has, and whether it is believed: learned before anybody logs in, pinned ever after.
//!
//! ssh itself does the looking: its `KnownHostsCommand` is told the key that the machine has proved to hold, before ssh
//! decides. `ssh-keyscan` was not taken, since it knows no jump host and no configuration.

use std::{path::Path, time::Duration};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD},
};
use landfall_proto::failure::Failure;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::{
    classify::{SshError, Trouble},
    shell::Remote,
    ssh::{Ssh, Trust},
};
use crate::{local::file, request::HostKeyPolicy};

/// More keys than any machine has; RSA of 16384 bits takes 2800 bytes in base 64.
const KEYS: usize = 16;
const KEY_MAX: usize = 4096;
/// The kinds that sshd makes host keys of.
const KINDS: [&str; 5] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
];

/// A machine's public key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostKey {
    /// Its type, such as `ssh-ed25519`.
    pub kind: String,
    /// The key in base 64, as in known_hosts.
    pub key: String,
    /// `SHA256:…`, as ssh shows it.
    pub fingerprint: String,
}

/// What the first look at a machine found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// The key is trusted already, and the login works.
    Known(HostKey),
    /// Nobody knows the key. Nothing was sent to the machine.
    Unknown(HostKey),
}

/// What follows from a first look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Trusted,
    /// Go on and say this.
    Warn(String),
    /// Go on if a person agrees; the question, without its mark.
    Ask(String),
    /// Stop.
    Refuse(Failure),
}

/// Looks which key the machine has.
///
/// Logs in only with a key that is trusted under the policy; `pins` (fingerprints) stand above everything that ssh
/// knows. A changed key is an error. `folder` holds a file for the time of the call.
pub async fn look(
    ssh: &Ssh,
    policy: HostKeyPolicy,
    pins: &[String],
    folder: &Path,
    deadline: Duration,
) -> Result<Seen, SshError> {
    let trust = match policy {
        _ if !pins.is_empty() => Trust::Fingerprints(pins.to_vec()),
        HostKeyPolicy::Off => Trust::Any,
        HostKeyPolicy::Ask | HostKeyPolicy::Strict | HostKeyPolicy::AcceptNew => Trust::Configured,
    };
    let other = |said: String| SshError {
        destination: ssh.destination().to_owned(),
        trouble: Trouble::Other,
        said,
    };
    let log = tempfile::Builder::new()
        .prefix(".host-key-")
        .tempfile_in(folder);
    let log = log.map_err(|error| other(error.to_string()))?;
    let result = ssh
        .clone()
        .looking(log.path(), trust)
        .run(&Remote::plain("exit 0"), &[], deadline)
        .await;
    let asked = std::fs::read_to_string(log.path()).unwrap_or_default();
    match (result, shown_key(&asked)) {
        (Ok(_), Some(key)) => Ok(Seen::Known(key)),
        (Err(error), Some(key)) if error.trouble == Trouble::HostKeyUnknown => {
            Ok(Seen::Unknown(key))
        }
        (Err(error), _) => Err(error),
        (Ok(_), None) => Err(other(
            "ssh did not say which key the machine has; a shared connection or an older ssh?"
                .to_owned(),
        )),
    }
}

/// Says what follows from a first look.
pub fn decide(
    seen: &Seen,
    policy: HostKeyPolicy,
    pins: &[String],
    host: &str,
    terminal: bool,
) -> Verdict {
    let key = match seen {
        Seen::Known(_) => return Verdict::Trusted,
        Seen::Unknown(key) => key,
    };
    let HostKey {
        kind, fingerprint, ..
    } = key;
    if !pins.is_empty() {
        let failure = Failure::new(format!("refusing to connect to {host}"))
            .because(format!("its key is {fingerprint} ({kind}), and `--host-key` names {}", pins.join(", ")))
            .hint("check the fingerprint on the machine: `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub`")
            .code("LF0106");
        return Verdict::Refuse(failure);
    }
    match policy {
        HostKeyPolicy::AcceptNew | HostKeyPolicy::Off => Verdict::Trusted,
        HostKeyPolicy::Ask if terminal => Verdict::Ask(format!(
            "the key of {host} is not known yet: {fingerprint} ({kind}). Connect"
        )),
        HostKeyPolicy::Ask => Verdict::Warn(format!(
            "the key of {host} was not known: {fingerprint} ({kind}); continuing because nobody can be asked and no later connection accepts another key"
        )),
        HostKeyPolicy::Strict => Verdict::Refuse(
            Failure::new(format!("refusing to connect to {host}"))
                .because(format!("its key {fingerprint} ({kind}) is not known"))
                .hint(format!(
                    "if it is right, name it: `--host-key {fingerprint}`"
                ))
                .code("LF0107"),
        ),
    }
}

/// Writes the key down as the only one for this alias.
pub fn pin(key: &HostKey, alias: &str, path: &Path) -> Result<(), Failure> {
    file::write_private(
        path,
        format!("{alias} {} {}\n", key.kind, key.key).as_bytes(),
    )
}

/// Pins for the installer what is pinned already, and the keys that the machine itself says it has.
///
/// The installer takes them over, and may show another one than the old system: its sshd need not know every kind. Lines
/// that are no key are passed over.
pub fn pin_for_installer(
    pinned: &Path,
    told: &[String],
    alias: &str,
    path: &Path,
) -> Result<(), Failure> {
    let mut text = String::from_utf8_lossy(&file::read(pinned)?.unwrap_or_default()).into_owned();
    for line in told.iter().take(KEYS) {
        let key = line.split(' ').nth(1).filter(|key| key.len() <= KEY_MAX);
        let Some((kind, key)) = key.and_then(plain) else {
            continue;
        };
        let line = format!("{alias} {kind} {key}\n");
        if KINDS.contains(&&*kind) && !text.contains(&line) {
            text.push_str(&line);
        }
    }
    file::write_private(path, text.as_bytes())
}

/// Returns the fingerprints of the keys in a known_hosts file, as ssh shows them.
pub fn pinned_fingerprints(known_hosts: &Path) -> Vec<String> {
    let text = file::read(known_hosts).ok().flatten().unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let keys = text.lines().filter_map(|line| line.split(' ').nth(2));
    let blobs = keys.filter_map(|key| STANDARD.decode(key).ok());
    let hash = |blob: Vec<u8>| STANDARD_NO_PAD.encode(digest(&SHA256, &blob));
    blobs.map(|blob| format!("SHA256:{}", hash(blob))).collect()
}

/// Finds the last key that ssh asked about.
fn shown_key(asked: &str) -> Option<HostKey> {
    asked.lines().rev().find_map(|line| {
        let mut words = line.split(' ');
        let (reason, _, key, fingerprint) =
            (words.next()?, words.next()?, words.next()?, words.next()?);
        let shown = matches!(reason, "HOSTNAME" | "ADDRESS");
        let (kind, key) = if shown { plain(key)? } else { return None };
        Some(HostKey {
            kind,
            key,
            fingerprint: fingerprint.to_owned(),
        })
    })
}

/// Takes the plain key out of a certificate; a plain key stays what it is.
///
/// After kexec the same key is shown without its certificate. Layout: openssh's PROTOCOL.certkeys.
fn plain(key: &str) -> Option<(String, String)> {
    let blob = STANDARD.decode(key).ok()?;
    let mut rest = &blob[..];
    let mut field = || -> Option<&[u8]> {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (field, after) = after.split_at_checked(length)?;
        rest = after;
        Some(field)
    };
    let kind = String::from_utf8(field()?.to_vec()).ok()?;
    let Some(base) = kind.strip_suffix("-cert-v01@openssh.com") else {
        return Some((kind, key.to_owned()));
    };
    let parts = match base {
        "ssh-ed25519" => 1,
        "ssh-rsa" => 2,
        _ if base.starts_with("ecdsa-sha2-") => 2,
        _ => return None,
    };
    let _nonce = field()?;
    let mut out = Vec::new();
    let mut put = |field: &[u8]| {
        out.extend(u32::try_from(field.len()).unwrap_or_default().to_be_bytes());
        out.extend(field);
    };
    put(base.as_bytes());
    for _ in 0..parts {
        put(field()?);
    }
    Some((base.to_owned(), STANDARD.encode(out)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAAAC3NzaC1lZDI1NTE5AAAAINr3qOvnWNilGncbvRSsa5IXtzUuQ5V2JpzF3yvmVtUh";
    const FINGERPRINT: &str = "SHA256:8VqR2eqNmXqCHeNqrk+XdE+kCmbhN9QNXtrfrIcRgLg";

    fn unknown() -> Seen {
        let asked = format!("ORDER NONE NONE NONE\nHOSTNAME ssh-ed25519 {KEY} {FINGERPRINT}\n");
        Seen::Unknown(shown_key(&asked).unwrap())
    }

    #[test]
    fn key_is_read_from_what_ssh_asked() {
        let Seen::Unknown(key) = unknown() else {
            unreachable!()
        };
        assert_eq!(
            (&*key.kind, &*key.key, &*key.fingerprint),
            ("ssh-ed25519", KEY, FINGERPRINT)
        );
        assert_eq!(shown_key("ORDER NONE NONE NONE\n"), None);
    }

    #[test]
    fn fingerprints_are_those_that_ssh_shows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("known_hosts");
        assert_eq!(pinned_fingerprints(&path), [""; 0]);
        file::write_private(
            &path,
            format!("m ssh-ed25519 {KEY}\nm ssh-rsa\n").as_bytes(),
        )
        .unwrap();
        assert_eq!(pinned_fingerprints(&path), [FINGERPRINT]);
    }

    #[test]
    fn installer_may_show_any_key_that_the_old_system_had() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let ecdsa = {
            let field = |bytes: &[u8]| [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat();
            STANDARD.encode(
                [
                    field(b"ecdsa-sha2-nistp256"),
                    field(b"nistp256"),
                    field(&[4; 65]),
                ]
                .concat(),
            )
        };
        let pinned = format!("m ecdsa-sha2-nistp256 {ecdsa}\n");
        file::write_private(&path("pinned"), pinned.as_bytes()).unwrap();
        let told = [
            format!("ssh-ed25519 {KEY} root@m"),
            format!("ecdsa-sha2-nistp256 {ecdsa} root@m"),
            format!("ssh-ed25519 {KEY}"),
            "ssh-ed25519".to_owned(),
            "ssh-ed25519 !\nother ssh-ed25519 AAAA".to_owned(),
            format!("ssh-ed25519 {}", STANDARD.encode(b"\0\0\0\x04none")),
        ];
        pin_for_installer(&path("pinned"), &told, "m", &path("all")).unwrap();
        let all = std::fs::read_to_string(path("all")).unwrap();
        assert_eq!(all, format!("{pinned}m ssh-ed25519 {KEY}\n"));
    }

    #[test]
    fn certificate_is_reduced_to_its_key() {
        let field = |bytes: &[u8]| [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat();
        let plain_blob = STANDARD.decode(KEY).unwrap();
        let certificate = [
            field(b"ssh-ed25519-cert-v01@openssh.com"),
            field(&[7; 32]),
            field(&plain_blob[plain_blob.len() - 32..]),
            vec![0; 100],
        ];
        let certificate = STANDARD.encode(certificate.concat());
        assert_eq!(
            plain(&certificate),
            Some(("ssh-ed25519".to_owned(), KEY.to_owned()))
        );
        assert_eq!(plain("AAAA"), None);
    }

    #[test]
    fn policy_decides_about_unknown_keys_only() {
        let Seen::Unknown(key) = unknown() else {
            unreachable!()
        };
        assert_eq!(
            decide(&Seen::Known(key), HostKeyPolicy::Strict, &[], "h", false),
            Verdict::Trusted
        );
        let decide = |policy, terminal| decide(&unknown(), policy, &[], "h", terminal);
        assert_eq!(decide(HostKeyPolicy::AcceptNew, false), Verdict::Trusted);
        assert!(matches!(decide(HostKeyPolicy::Ask, true), Verdict::Ask(_)));
        assert!(matches!(
            decide(HostKeyPolicy::Ask, false),
            Verdict::Warn(_)
        ));
        assert!(matches!(
            decide(HostKeyPolicy::Strict, true),
            Verdict::Refuse(_)
        ));
    }

    #[test]
    fn other_key_than_the_named_one_is_refused() {
        let pins = ["SHA256:other".to_owned()];
        let verdict = decide(&unknown(), HostKeyPolicy::AcceptNew, &pins, "h", true);
        assert!(matches!(verdict, Verdict::Refuse(_)));
    }
}
