//! The ends of files: those of the agent, and logs of builds.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use landfall_proto::{order::StoreRoot, redact::LONGEST_SECRET, wire::Piece};
use nix::fcntl::OFlag;

use super::{MOST, lacking, piece};
use crate::machine::{Machine, command::Command, names_in, nix::store};

/// Runs of which the journal is taken, at most: those that began last.
const RUNS: usize = 6;
/// Logs of builds that are taken from a store, at most: the newest.
const BUILDS: usize = 3;
/// Folders of logs, and logs, that are looked at.
const LOOKED_AT: usize = 20_000;

impl Machine {
    /// Takes the journals of runs, the order that is open, and the agent's log where it has one. Blocks.
    pub(super) fn own_records(&self) -> Vec<Piece> {
        let runs = newest(&self.dir().join("runs"), RUNS);
        let journals = runs.iter().filter_map(|run| {
            let part = run.file_name()?.to_str()?.rsplit_once('-')?;
            let short = part.0.get(..8)?;
            let name = format!("agent/journal-{}-{short}.jsonl", part.1);
            Some(file(&name, &run.join("journal.jsonl")))
        });
        let mut pieces: Vec<Piece> = journals.collect();
        if pieces.is_empty() {
            pieces.push(lacking("agent/journal.jsonl", "no run has begun here"));
        }
        for (name, own) in [
            ("agent/order.json", "open-order.json"),
            ("agent/agent.log", "agent.log"),
        ] {
            let path = self.dir().join(own);
            if path.exists() {
                pieces.push(file(name, &path));
            }
        }
        pieces
    }

    /// Takes the logs of what was built last in a store.
    ///
    /// They are compressed, and only Nix is sure to read them.
    pub(super) async fn build_logs(&self, root: StoreRoot) -> Vec<Piece> {
        let (folder, name) = match root {
            StoreRoot::Installer => ("/nix/var/log/nix/drvs", "nix/installer"),
            StoreRoot::Target => ("/mnt/nix/var/log/nix/drvs", "nix/target"),
        };
        let found = self
            .blocking(move |machine| newest_logs(&machine.at(folder)))
            .await;
        let Ok(program) = self.nix_program("nix-store") else {
            return Vec::new();
        };
        let mut pieces = Vec::new();
        for (number, derivation) in found.iter().enumerate() {
            let command = Command::new(program.clone())
                .args(["--store", store(root), "--read-log"])
                .arg(derivation);
            let mut piece = self
                .said_by(&format!("{name}-{}.log", number + 1), &command)
                .await;
            let title = format!("{derivation}\n");
            piece.content.splice(0..0, title.into_bytes());
            pieces.push(piece);
        }
        pieces
    }
}

/// Takes the end of a file. Blocks, though not on a pipe.
pub(super) fn file(name: &str, path: &Path) -> Piece {
    match end_of(path) {
        Ok(bytes) => piece(name, &String::from_utf8_lossy(&bytes)),
        Err(error) => lacking(name, &format!("cannot read {}: {error}", path.display())),
    }
}

/// Reads the end of a file, and so much before it that no secret begins there unseen.
fn end_of(path: &Path) -> std::io::Result<Vec<u8>> {
    const READ: usize = MOST + LONGEST_SECRET;
    let mut file: File = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(std::io::Error::other("it is no file"));
    }
    file.seek(SeekFrom::Start(meta.len().saturating_sub(READ as u64)))?;
    let mut bytes = Vec::new();
    // files of the kernel say that they are empty
    file.take(READ as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Returns what is in a folder and was changed last, newest first.
fn newest(folder: &Path, most: usize) -> Vec<PathBuf> {
    let mut found: Vec<(SystemTime, PathBuf)> = Vec::new();
    for name in names_in(folder).into_iter().take(LOOKED_AT) {
        let path = folder.join(name);
        if let Ok(meta) = fs::symlink_metadata(&path) {
            found.push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), path));
        }
    }
    found.sort();
    found.reverse();
    found.truncate(most);
    found.into_iter().map(|(_, path)| path).collect()
}

/// Returns the derivations whose logs are newest. The log of `/nix/store/abcd….drv` is `ab/cd….drv`, or that with `.bz2`.
pub(super) fn newest_logs(folder: &Path) -> Vec<String> {
    // a folder changes when a log comes into it
    let mut found: Vec<(SystemTime, String)> = Vec::new();
    for folder in newest(folder, BUILDS) {
        for log in newest(&folder, BUILDS) {
            let name = log.file_name().and_then(|name| name.to_str());
            let start = folder.file_name().and_then(|name| name.to_str());
            let (Some(name), Some(start)) = (name, start) else {
                continue;
            };
            let time = fs::symlink_metadata(&log).and_then(|meta| meta.modified());
            let derivation = format!("/nix/store/{start}{}", name.trim_end_matches(".bz2"));
            found.push((time.unwrap_or(SystemTime::UNIX_EPOCH), derivation));
        }
    }
    found.sort();
    found.reverse();
    found.truncate(BUILDS);
    found
        .into_iter()
        .map(|(_, derivation)| derivation)
        .collect()
}
