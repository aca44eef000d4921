//! Keys of encrypted disks: read once, kept on the desk, and compared with what the configuration wants.

use std::time::Duration;

use landfall_proto::{
    failure::Failure,
    order::{DiskoMode, KeyPath},
};

use super::Bench;
use crate::{
    local::{
        nix::{Devices, KeyKind, KeyUse},
        secret::Secret,
    },
    request::{Key, Phase, Source},
};

/// Largest key; disko and cryptsetup read 8 MiB at most, and the wire takes 4 MiB.
const KEY_MAX: usize = 4 << 20;
/// Longest that the writer of a pipe is waited for: it may ask a person something.
const PATIENCE: Duration = Duration::from_secs(600);
/// Length of a key for ZFS of keyformat raw.
const RAW: usize = 32;

impl Bench<'_> {
    /// Reads the keys onto the desk, each of them once, and returns where they go.
    pub(super) async fn read_keys(&self) -> Result<Vec<KeyPath>, Failure> {
        let request = &self.desk.request;
        if !request.phases.has(Phase::Disko) {
            return Ok(Vec::new());
        }
        let mut keys = Vec::new();
        for key in &request.keys {
            self.cx.waiting(format!("the key for {}", key.to));
            keys.push((key.to.clone(), read(key).await?));
        }
        let paths = keys.iter().map(|(path, _)| path.clone()).collect();
        *self.desk.keys.lock().await = keys;
        Ok(paths)
    }

    /// Refuses, or warns about, passphrases that somebody would have to type.
    pub(super) fn check_asked(&mut self, devices: &Devices) -> Result<(), Failure> {
        let warning = asked(devices, self.desk.request.disko_mode)?;
        self.warnings.extend(warning);
        Ok(())
    }

    /// Warns about keys that the configuration reads in another way than somebody may think, and those it lacks.
    pub(super) async fn check_keys(&mut self, devices: Option<&Devices>) {
        let keys = self.desk.keys.lock().await;
        let uses = devices.map(|devices| devices.keys.as_slice());
        self.warnings.extend(newlines(uses, &keys));
        if matches!(self.desk.request.source, Some(Source::Flake(_))) {
            let paths: Vec<&str> = keys.iter().map(|(path, _)| path.as_str()).collect();
            self.warnings
                .extend(missing(uses.unwrap_or_default(), &paths));
        }
    }
}

/// Refuses a configuration whose script would ask somebody for a passphrase: nobody sits at its terminal.
///
/// What is there already may have been opened by hand, and is not asked about then: that is a warning.
fn asked(devices: &Devices, mode: DiskoMode) -> Result<Option<String>, Failure> {
    let Some(name) = devices.asked.first() else {
        return Ok(None);
    };
    let device = match name.as_str() {
        "" => "an encrypted device".to_owned(),
        name => name.to_owned(),
    };
    let asks = format!(
        "disko's script asks for the passphrase of {device} while it runs, and nobody can type it there"
    );
    if mode != DiskoMode::Disko {
        return Ok(Some(format!(
            "{asks}; continuing because it does not ask for what is open already"
        )));
    }
    Err(Failure::new("refusing to begin what would stop half way")
        .because(asks)
        .hint("name a file in the configuration (`passwordFile` of a LUKS device, `keylocation = \"file:///tmp/disk.key\"` of ZFS) and bring it with `--disk-encryption-keys /tmp/disk.key LOCAL`")
        .code("LF0354"))
}

async fn read(key: &Key) -> Result<Secret, Failure> {
    let cannot = |cause: String| {
        Failure::new(format!("cannot read the key for {}", key.to))
            .because(cause)
            .hint("name a file that can be read: `--disk-encryption-keys REMOTE LOCAL`")
            .code("LF0602")
    };
    let from = key.from.clone();
    let read = tokio::task::spawn_blocking(move || Secret::read_once(&from, KEY_MAX));
    let read = tokio::time::timeout(PATIENCE, read).await;
    let secret = match read {
        Ok(Ok(Ok(secret))) => secret,
        Ok(Ok(Err(failure))) => {
            let inner = failure.what.replacen("cannot read", "reading", 1);
            let story = failure
                .causes
                .into_iter()
                .fold(cannot(inner), Failure::because);
            return Err(story);
        }
        Ok(Err(error)) => return Err(cannot(error.to_string())),
        Err(_) => {
            return Err(cannot(format!(
                "waiting for the end of {}",
                key.from.display()
            )));
        }
    };
    if secret.expose().is_empty() {
        return Err(cannot(format!("{} is empty", key.from.display()))
            .hint("see what the program that writes it says"));
    }
    Ok(secret)
}

/// Says where a newline at the end of a key becomes a part of it. Without `uses` it is not known how keys are read.
fn newlines(uses: Option<&[KeyUse]>, keys: &[(KeyPath, Secret)]) -> Vec<String> {
    let mut warnings = Vec::new();
    for (path, secret) in keys.iter().filter(|(_, key)| key.expose().ends_with(b"\n")) {
        let Some(uses) = uses else {
            warnings.push(format!(
                "the key for {path} ends in a newline; continuing because it is not known how disko reads it: for a `passwordFile` the newline is no part of the key, for a `keyFile` it is"
            ));
            continue;
        };
        let length = secret.expose().len();
        let of_file = uses.iter().filter(|used| used.file == path.as_str());
        warnings.extend(of_file.filter_map(|used| newline(path, length, used)));
    }
    warnings
}

fn newline(path: &KeyPath, length: usize, used: &KeyUse) -> Option<String> {
    let device = match used.device.as_str() {
        "" => String::new(),
        name => format!(" of {name}"),
    };
    // bytes beyond the size are not read
    let end = used.size.map(|size| size + used.offset.unwrap_or(0));
    let option = match used.kind {
        KeyKind::Password => return None,
        KeyKind::Raw if length == RAW => return None,
        KeyKind::Raw => {
            return Some(format!(
                "the key for {path} ends in a newline and has {length} bytes; continuing, although ZFS{device} takes a raw key of {RAW} bytes only"
            ));
        }
        _ if end.is_some_and(|end| end < length as u64) => return None,
        KeyKind::Key => "keyFile",
        KeyKind::Additional => "additionalKeyFiles",
    };
    Some(format!(
        "the key for {path} ends in a newline, and as `{option}`{device} the newline is a part of the key; continuing because that may be meant: a password typed at boot will not open it, and `printf %s` writes a key without one"
    ))
}

/// Names the files that disko reads keys from and that nobody brings.
fn missing(uses: &[KeyUse], keys: &[&str]) -> Vec<String> {
    // what the script brings along itself, and devices of the machine, are there by then
    let is_there = |file: &str| file.starts_with("/nix/store/") || file.starts_with("/dev/");
    let mut files: Vec<&KeyUse> = Vec::new();
    for used in uses {
        let known = keys.contains(&used.file.as_str()) || is_there(&used.file);
        if !known && !files.iter().any(|other| other.file == used.file) {
            files.push(used);
        }
    }
    let sentence = |used: &KeyUse| {
        let device = match used.device.as_str() {
            "" => String::new(),
            name => format!(" for {name}"),
        };
        format!(
            "disko reads {}{device}, which no `--disk-encryption-keys` brings; continuing because the installer may have it",
            used.file
        )
    };
    files.into_iter().map(sentence).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(kind: KeyKind, file: &str) -> KeyUse {
        KeyUse {
            kind,
            file: file.to_owned(),
            device: "crypted".to_owned(),
            offset: None,
            size: None,
        }
    }

    #[track_caller]
    fn check(used: KeyUse, content: &[u8], word: Option<&str>) {
        let keys = [(used.file.parse().unwrap(), Secret::copied(content))];
        let warnings = newlines(Some(&[used]), &keys);
        assert_eq!(warnings.len(), usize::from(word.is_some()), "{warnings:?}");
        assert!(
            warnings.iter().all(|text| text.contains(word.unwrap())
                && text.contains("; continuing")
                && !text.contains("hunter2")),
            "{warnings:?}"
        );
    }

    #[test]
    fn newline_is_told_where_it_becomes_part_of_the_key() {
        let file = "/tmp/disk.key";
        check(
            used(KeyKind::Key, file),
            b"hunter2\n",
            Some("`keyFile` of crypted"),
        );
        check(
            used(KeyKind::Additional, file),
            b"hunter2\n",
            Some("`additionalKeyFiles`"),
        );
        check(used(KeyKind::Password, file), b"hunter2\n", None);
        check(used(KeyKind::Key, file), b"hunter2", None);
    }

    #[test]
    fn newline_beyond_the_size_of_the_key_does_not_matter() {
        let sized = |size| KeyUse {
            size: Some(size),
            ..used(KeyKind::Key, "/tmp/disk.key")
        };
        check(sized(7), b"hunter2\n", None);
        check(sized(8), b"hunter2\n", Some("newline"));
    }

    #[test]
    fn raw_key_of_zfs_may_end_in_any_byte() {
        let raw = || used(KeyKind::Raw, "/tmp/zfs.key");
        check(raw(), &[b'\n'; 32], None);
        check(raw(), &[b'\n'; 33], Some("33 bytes"));
    }

    #[test]
    fn newline_is_told_where_nobody_knows_what_it_does() {
        let keys = [("/tmp/disk.key".parse().unwrap(), Secret::copied(b"a\n"))];
        assert_eq!(newlines(None, &keys).len(), 1);
        assert!(newlines(Some(&[]), &keys).is_empty());
    }

    #[test]
    fn keys_that_nobody_brings_are_named_once() {
        let uses = [
            used(KeyKind::Key, "/tmp/disk.key"),
            used(KeyKind::Additional, "/tmp/disk.key"),
            used(KeyKind::Key, "/tmp/brought.key"),
            used(
                KeyKind::Password,
                "/nix/store/00000000000000000000000000000000-key",
            ),
            used(KeyKind::Key, "/dev/disk/by-id/usb-stick"),
        ];
        assert_eq!(
            missing(&uses, &["/tmp/brought.key"]),
            [
                "disko reads /tmp/disk.key for crypted, which no `--disk-encryption-keys` brings; continuing because the installer may have it"
            ]
        );
    }

    #[tokio::test]
    async fn empty_key_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let key = Key {
            to: "/tmp/disk.key".parse().unwrap(),
            from: file.path().to_owned(),
        };
        let failure = read(&key).await.unwrap_err();
        assert_eq!(failure.what, "cannot read the key for /tmp/disk.key");
        assert!(failure.causes[0].ends_with("is empty"));
    }

    #[tokio::test]
    async fn missing_key_is_found_early() {
        let key = Key {
            to: "/tmp/disk.key".parse().unwrap(),
            from: "/nonexistent/key".into(),
        };
        let failure = read(&key).await.unwrap_err();
        assert_eq!(failure.causes[0], "reading /nonexistent/key");
        assert_eq!(failure.code, "LF0602");
    }
}
