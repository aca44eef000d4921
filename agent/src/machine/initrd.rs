//! Stands in for `cpio` and `gzip` while an image's own script makes the archive that goes behind its initrd.
//!
//! Old systems often lack both. Being in their place also lets the agent add what the installer needs to be found and
//! entered again: a key of this run, host keys where the old system has none, the run's mark, and what it did so far.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Read, Write},
    os::unix::ffi::OsStrExt,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use cpio::newc::{Builder, ModeFileType, trailer};
use flate2::{Compression, write::GzEncoder};
use landfall_proto::failure::Failure;
use serde::{Deserialize, Serialize};

use super::{
    broken, files,
    hostkeys::{SHOWN, key_at},
    marker::{self, Marker, Past},
    routes,
};

/// Names the file that holds the [`Amendment`], in the environment of the `cpio` stand-in.
pub const AMEND: &str = "LANDFALL_CPIO_AMEND";

const AUTHORIZED_KEYS: &str = "ssh/authorized_keys";
const HOST_KEYS: &str = "ssh/ssh_host_";
/// Where the old system has its host keys.
const HOST_KEYS_OF: &str = "/etc/ssh";

/// What is added to the archive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Amendment {
    /// Public key line that may log in as root besides those of the old system.
    pub authorized_key: String,
    /// Host keys for an archive that has none: name of the file and its content.
    pub host_keys: Vec<(String, String)>,
    /// Whose installer it is.
    pub marker: Marker,
    /// What was done on the old system.
    pub past: Option<Past>,
}

/// Does the work of `cpio` or `gzip` from standard input to standard output, if `name` is one of them. Blocks.
pub fn applet(name: &OsStr, args: &[String]) -> Option<Result<(), Failure>> {
    let (input, output) = (io::stdin().lock(), io::stdout().lock());
    match Path::new(name).file_name()?.to_str()? {
        "cpio" => Some(run_cpio(args, input, output)),
        "gzip" => Some(gzip(args, input, output).map_err(broken("cannot compress"))),
        _ => None,
    }
}

fn run_cpio(args: &[String], input: impl Read, output: impl Write) -> Result<(), Failure> {
    let separator = separator(args)?;
    let amendment = match std::env::var_os(AMEND) {
        Some(path) => {
            let text = fs::read(&path).map_err(broken(format!(
                "cannot read {}",
                Path::new(&path).display()
            )))?;
            let amendment = serde_json::from_slice(&text);
            Some(amendment.map_err(|e| {
                Failure::new("cannot read what to add")
                    .caused_by(&e)
                    .code("LF1206")
            })?)
        }
        None => None,
    };
    let ssh = Path::new(HOST_KEYS_OF);
    archive(
        Path::new("."),
        ssh,
        input,
        separator,
        amendment.as_ref(),
        output,
    )
    .map_err(broken("cannot archive"))?;
    match std::env::var_os(AMEND) {
        Some(path) => files::write(&done(Path::new(&path)), b"", 0o600),
        None => Ok(()),
    }
}

/// Is there once the archive was written to its end, beside what was added to it.
///
/// The image's script may not notice that its archive failed: a shell without `pipefail` looks at the last program alone.
pub fn done(amendment: &Path) -> PathBuf {
    amendment.with_extension("done")
}

/// Understands what is asked of `cpio`: to write the `newc` format, and what ends a name.
fn separator(args: &[String]) -> Result<u8, Failure> {
    let refused = || {
        Failure::new(format!("cannot do `cpio {}`", args.join(" ")))
            .because("this stand-in only knows `cpio -o -H newc`, with -0 and --quiet")
            .code("LF1406")
    };
    let mut separator = b'\n';
    let mut writes = false;
    let mut newc = false;
    let mut args = args.iter().map(String::as_str);
    while let Some(arg) = args.next() {
        match arg {
            "--create" => writes = true,
            "--null" => separator = 0,
            "--quiet" | "--reproducible" => {}
            "--format=newc" => newc = true,
            "-H" | "--format" => newc = args.next() == Some("newc"),
            "-Hnewc" => newc = true,
            _ if arg.starts_with("--owner=") => {}
            "-R" | "--owner" => drop(args.next()),
            _ => {
                let mut letters = arg.strip_prefix('-').ok_or_else(refused)?.chars();
                for letter in letters.by_ref() {
                    match letter {
                        'o' => writes = true,
                        '0' => separator = 0,
                        'H' => newc = args.next() == Some("newc"),
                        _ => return Err(refused()),
                    }
                }
            }
        }
    }
    if writes && newc {
        Ok(separator)
    } else {
        Err(refused())
    }
}

/// Writes the files that are named on the input, relative to a directory, and what is to be added.
///
/// `ssh` is where the host keys were copied from. The stock image copies links as links, and its installer stops in the
/// middle of its boot over one that leads nowhere: such a key is read where it is, or left out.
fn archive(
    directory: &Path,
    ssh: &Path,
    mut names: impl Read,
    separator: u8,
    amendment: Option<&Amendment>,
    mut output: impl Write,
) -> io::Result<()> {
    let mut list = Vec::new();
    names.read_to_end(&mut list)?;
    let names: Vec<_> = list
        .split(|byte| *byte == separator)
        .filter(|name| !name.is_empty())
        .collect();
    let names: Vec<_> = names
        .into_iter()
        .map(|name| Path::new(OsStr::from_bytes(name)))
        .collect();
    let inside = |name: &Path| match name.strip_prefix(".") {
        Ok(rest) if rest != Path::new("") => rest.to_string_lossy().into_owned(),
        _ => name.to_string_lossy().into_owned(),
    };
    if names.is_empty() {
        return Err(io::Error::other("no file is named: is there no `find`?"));
    }
    let mut has_host_keys = false;
    for name in &names {
        let name_inside = inside(name);
        if let Some(key) = name_inside
            .strip_prefix("ssh/")
            .filter(|_| name_inside.starts_with(HOST_KEYS))
        {
            let written = write_host_key(
                &directory.join(name),
                &ssh.join(key),
                &name_inside,
                &mut output,
            )?;
            has_host_keys |= written && SHOWN.contains(&key);
            continue;
        }
        let more = amendment.filter(|_| inside(name) == AUTHORIZED_KEYS);
        write_file(&directory.join(name), &inside(name), more, &mut output)?;
    }
    if let Some(amendment) = amendment {
        let has = |beginning: &str| names.iter().any(|name| inside(name).starts_with(beginning));
        if !has("ssh/") {
            entry("ssh", ModeFileType::Directory, 0o700, b"", &mut output)?;
        }
        if !has(AUTHORIZED_KEYS) {
            let keys = format!("{}\n", amendment.authorized_key);
            entry(
                AUTHORIZED_KEYS,
                ModeFileType::Regular,
                0o600,
                keys.as_bytes(),
                &mut output,
            )?;
        }
        if !has_host_keys {
            for (name, content) in &amendment.host_keys {
                let mode = if Path::new(name).extension().is_some() {
                    0o644
                } else {
                    0o600
                };
                let name = format!("ssh/{name}");
                entry(
                    &name,
                    ModeFileType::Regular,
                    mode,
                    content.as_bytes(),
                    &mut output,
                )?;
            }
        }
        let marker = serde_json::to_vec(&amendment.marker)?;
        let past = amendment
            .past
            .as_ref()
            .map(serde_json::to_vec)
            .transpose()?;
        let files = [(marker::MARKER, Some(marker)), (marker::PAST, past)];
        for (name, content) in files {
            if let Some(content) = content {
                entry(name, ModeFileType::Regular, 0o600, &content, &mut output)?;
            }
        }
    }
    trailer(&mut output)?;
    output.flush()
}

/// Writes a host key: as it was copied, or where that is a link, what it leads to in the old system. Returns whether there
/// was one.
fn write_host_key(
    copied: &Path,
    original: &Path,
    name: &str,
    output: &mut impl Write,
) -> io::Result<bool> {
    let is_link = fs::symlink_metadata(copied).is_ok_and(|found| found.is_symlink());
    let source = if is_link { original } else { copied };
    let Some(found) = key_at(source) else {
        return Ok(false);
    };
    let mode = found.mode() & 0o7777;
    entry(
        name,
        ModeFileType::Regular,
        mode,
        &fs::read(source)?,
        output,
    )?;
    Ok(true)
}

fn write_file(
    path: &Path,
    name: &str,
    amendment: Option<&Amendment>,
    output: &mut impl Write,
) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    let mode = found.mode() & 0o7777;
    if found.is_dir() {
        return entry(name, ModeFileType::Directory, mode, b"", output);
    }
    if found.is_symlink() {
        let target = fs::read_link(path)?;
        return entry(
            name,
            ModeFileType::Symlink,
            0o777,
            target.as_os_str().as_bytes(),
            output,
        );
    }
    if !found.is_file() {
        return Err(io::Error::other(format!(
            "{name} is neither file, directory nor link"
        )));
    }
    let mut content = fs::read(path)?;
    if name == routes::ROUTES {
        content = routes::mended(&content).unwrap_or(content);
    }
    if let Some(amendment) = amendment {
        if content.last().is_some_and(|last| *last != b'\n') {
            content.push(b'\n');
        }
        content.extend_from_slice(amendment.authorized_key.as_bytes());
        content.push(b'\n');
    }
    entry(name, ModeFileType::Regular, mode, &content, output)
}

fn entry(
    name: &str,
    kind: ModeFileType,
    mode: u32,
    content: &[u8],
    output: &mut impl Write,
) -> io::Result<()> {
    let size = u32::try_from(content.len()).map_err(io::Error::other)?;
    let mut writer = Builder::new(name)
        .mode(mode)
        .set_mode_file_type(kind)
        .write(&mut *output, size);
    writer.write_all(content)?;
    writer.finish().map(drop)
}

fn gzip(args: &[String], mut input: impl Read, output: impl Write) -> io::Result<()> {
    let level = args
        .iter()
        .filter_map(|arg| arg.strip_prefix('-')?.parse().ok())
        .next_back();
    let mut encoder = GzEncoder::new(output, Compression::new(level.unwrap_or(6).min(9)));
    io::copy(&mut input, &mut encoder)?;
    encoder.finish()?.flush()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, os::unix::fs::symlink};

    use landfall_proto::order::RunId;

    use super::*;

    fn read_back(mut bytes: &[u8]) -> BTreeMap<String, (u32, String)> {
        let mut found = BTreeMap::new();
        loop {
            let mut reader = cpio::newc::Reader::new(bytes).unwrap();
            if reader.entry().is_trailer() {
                return found;
            }
            let (name, mode) = (reader.entry().name().to_owned(), reader.entry().mode());
            let mut content = String::new();
            reader.read_to_string(&mut content).unwrap();
            found.insert(name, (mode, content));
            bytes = reader.finish().unwrap();
        }
    }

    fn amendment() -> Amendment {
        Amendment {
            authorized_key: "ssh-ed25519 AAAA run".to_owned(),
            host_keys: vec![
                ("ssh_host_ed25519_key".to_owned(), "private".to_owned()),
                ("ssh_host_ed25519_key.pub".to_owned(), "public".to_owned()),
            ],
            marker: Marker {
                run: RunId::from_bytes([7; 16]),
                return_after: 1800,
            },
            past: Some(Past {
                run: RunId::from_bytes([7; 16]),
                boot_id: "boot-1".to_owned(),
                host_keys: Vec::new(),
                journal: vec!["header".into()],
            }),
        }
    }

    fn archived(
        dir: &Path,
        names: &str,
        amendment: Option<&Amendment>,
    ) -> BTreeMap<String, (u32, String)> {
        let mut output = Vec::new();
        let ssh = dir.join("etc-ssh");
        archive(dir, &ssh, names.as_bytes(), b'\n', amendment, &mut output).unwrap();
        assert_eq!(output.len() % 4, 0);
        read_back(&output)
    }

    #[test]
    fn archive_holds_what_was_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("ssh")).unwrap();
        fs::write(dir.path().join("addrs.json"), "[1]").unwrap();
        symlink("addrs.json", dir.path().join("link")).unwrap();
        let found = archived(dir.path(), ".\n./ssh\n./addrs.json\n./link\n", None);
        assert_eq!(found["addrs.json"].1, "[1]");
        assert_eq!(found["link"], (0o120_777, "addrs.json".to_owned()));
        assert_eq!(found["ssh"].0 & 0o170_000, 0o040_000);
        assert_eq!(found["."].0 & 0o170_000, 0o040_000);
        assert_eq!(found.len(), 4);
    }

    #[test]
    fn key_of_the_run_joins_those_of_the_old_system() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("ssh")).unwrap();
        fs::write(dir.path().join(AUTHORIZED_KEYS), "ssh-rsa BBBB old").unwrap();
        fs::write(dir.path().join("ssh/ssh_host_rsa_key"), "old").unwrap();
        let names = "./ssh\n./ssh/authorized_keys\n./ssh/ssh_host_rsa_key\n";
        let found = archived(dir.path(), names, Some(&amendment()));
        assert_eq!(
            found[AUTHORIZED_KEYS].1,
            "ssh-rsa BBBB old\nssh-ed25519 AAAA run\n"
        );
        assert!(
            !found.contains_key("ssh/ssh_host_ed25519_key"),
            "it has host keys"
        );
        let run = "07".repeat(16);
        assert_eq!(
            found["landfall-run.json"].1,
            format!(r#"{{"run":"{run}","return_after":1800}}"#)
        );
        assert_eq!(
            found["landfall-journal.json"].1,
            format!(r#"{{"run":"{run}","boot_id":"boot-1","host_keys":[],"journal":["header"]}}"#)
        );
    }

    #[test]
    fn host_keys_that_are_links_are_read_where_they_lead() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for folder in ["ssh", "etc-ssh", "persist"] {
            fs::create_dir(path(folder)).unwrap();
        }
        let names = "./ssh\n./ssh/ssh_host_rsa_key\n./ssh/ssh_host_rsa_key.pub\n";
        for name in ["ssh_host_rsa_key", "ssh_host_rsa_key.pub"] {
            for folder in ["ssh", "etc-ssh"] {
                symlink(format!("../persist/{name}"), path(folder).join(name)).unwrap();
            }
        }
        // they lead nowhere: the installer gets others
        let found = archived(dir.path(), names, Some(&amendment()));
        assert!(!found.contains_key("ssh/ssh_host_rsa_key"), "{found:?}");
        assert_eq!(found["ssh/ssh_host_ed25519_key"].1, "private");

        for name in ["ssh_host_rsa_key", "ssh_host_rsa_key.pub"] {
            fs::write(path("persist").join(name), name).unwrap();
        }
        // the copied links need not lead anywhere for that
        fs::remove_dir_all(path("ssh")).unwrap();
        fs::create_dir(path("ssh")).unwrap();
        for name in ["ssh_host_rsa_key", "ssh_host_rsa_key.pub"] {
            symlink(format!("elsewhere/{name}"), path("ssh").join(name)).unwrap();
        }
        let found = archived(dir.path(), names, Some(&amendment()));
        let (mode, content) = &found["ssh/ssh_host_rsa_key"];
        assert_eq!(
            (mode & 0o170_000, &**content),
            (0o100_000, "ssh_host_rsa_key")
        );
        assert!(!found.contains_key("ssh/ssh_host_ed25519_key"), "{found:?}");
    }

    #[test]
    fn archive_of_nothing_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let nothing = archive(
            dir.path(),
            dir.path(),
            &b"\n"[..],
            b'\n',
            Some(&amendment()),
            Vec::new(),
        );
        assert!(nothing.is_err());
    }

    #[test]
    fn archive_without_keys_gets_them() {
        let dir = tempfile::tempdir().unwrap();
        let found = archived(dir.path(), ".\n", Some(&amendment()));
        assert_eq!(found[AUTHORIZED_KEYS].1, "ssh-ed25519 AAAA run\n");
        assert_eq!(
            found["ssh/ssh_host_ed25519_key"],
            (0o100_600, "private".to_owned())
        );
        assert_eq!(
            found["ssh/ssh_host_ed25519_key.pub"],
            (0o100_644, "public".to_owned())
        );
    }

    #[test]
    fn what_scripts_ask_of_cpio_is_understood() {
        let check = |line: &str, expected: Option<u8>| {
            let args: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
            assert_eq!(separator(&args).ok(), expected, "{line}");
        };
        check("-o -H newc", Some(b'\n'));
        check("-oH newc --quiet", Some(b'\n'));
        check("-0 -o -H newc --owner root:root", Some(0));
        check("-o0H newc", Some(0));
        check("--create --format=newc --null", Some(0));
        check("-o", None);
        check("-o -H odc", None);
        check("-i -H newc", None);
        check("-o -H newc file", None);
    }

    #[test]
    fn gzip_is_read_back_at_any_level() {
        for args in [
            vec![],
            vec!["-9".to_owned()],
            vec!["-c".to_owned(), "-1".to_owned()],
        ] {
            let mut packed = Vec::new();
            gzip(&args, &b"some bytes"[..], &mut packed).unwrap();
            let mut text = String::new();
            flate2::read::GzDecoder::new(packed.as_slice())
                .read_to_string(&mut text)
                .unwrap();
            assert_eq!(text, "some bytes");
        }
    }
}
