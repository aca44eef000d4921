//! A bundle: an archive of what explains a failure, which can be read however its making ends.
//!
//! Each file is a whole gzip stream of its own and on the disk before the next one begins: whoever is killed in between
//! leaves an archive that ends early, and that `tar` and its friends open. The manifest comes last.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use landfall_proto::{
    failure::Failure,
    redact::{LONGEST_SECRET, redact},
    wire::Piece,
};
use tar::{Builder, EntryType, Header};

use super::file::cannot;

/// How bundles are called, before a time and after it.
const NAME: (&str, &str) = ("bundle-", ".tar.gz");
/// Bundles of one host that are kept.
const KEPT: usize = 5;
/// Name of the list of what is in it.
const MANIFEST: &str = "MANIFEST.txt";
/// Most that is kept of a file of ours: its end.
const END: u64 = 4 << 20;
/// Files at most, and bytes of them: a machine that says more is not believed.
const MOST: (usize, u64) = (1000, 256 << 20);

/// A bundle that is being written.
pub struct Archive {
    builder: Builder<Vec<u8>>,
    out: Out,
    /// Shown in messages.
    path: PathBuf,
    /// The one folder that all is in.
    folder: String,
    seconds: u64,
    bytes: u64,
    listed: Vec<Listed>,
}

enum Out {
    File(fs::File),
    Stdout(io::Stdout),
}

/// What a bundle has of one piece.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listed {
    name: String,
    /// None where there is nothing.
    size: Option<usize>,
    trouble: String,
}

impl Archive {
    /// Begins a bundle in a new file that only we can read; `seconds` is the time since 1970.
    pub fn create(path: &Path, host: &str, seconds: u64) -> Result<Self, Failure> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path);
        let file = file.map_err(|error| broken(path, &error))?;
        Ok(Self::new(Out::File(file), path, host, seconds))
    }

    /// Begins a bundle that goes to stdout.
    pub fn stdout(host: &str, seconds: u64) -> Self {
        Self::new(
            Out::Stdout(io::stdout()),
            Path::new("stdout"),
            host,
            seconds,
        )
    }

    fn new(out: Out, path: &Path, host: &str, seconds: u64) -> Self {
        let plain = |c: char| {
            if c.is_ascii_alphanumeric() || c == '.' {
                c
            } else {
                '-'
            }
        };
        let host: String = host.chars().map(plain).collect();
        Self {
            builder: Builder::new(Vec::new()),
            out,
            path: path.to_owned(),
            folder: format!("landfall-{host}-{seconds}"),
            seconds,
            bytes: 0,
            listed: Vec::new(),
        }
    }

    /// Adds a piece: its content where there is some, and what was in the way.
    ///
    /// A name that is there already gets a number: the content goes on.
    pub fn add(&mut self, piece: &Piece) -> Result<(), Failure> {
        let Piece {
            name,
            content,
            trouble,
        } = piece;
        self.bytes += content.len() as u64;
        if self.listed.len() >= MOST.0 || self.bytes > MOST.1 {
            return Err(Failure::new("refusing to gather more")
                .because("the machine sends more than a bundle may have")
                .code("LF0920"));
        }
        let same = |listed: &&Listed| {
            listed.name == *name || listed.name.starts_with(&format!("{name}.part"))
        };
        let name = match self.listed.iter().filter(same).count() {
            0 => name.clone(),
            parts => format!("{name}.part{}", parts + 1),
        };
        let is_there = !content.is_empty() || trouble.is_empty();
        if is_there {
            self.write(&name, content)?;
        }
        self.listed.push(Listed {
            name,
            size: is_there.then_some(content.len()),
            trouble: trouble.clone(),
        });
        Ok(())
    }

    /// Adds text of ours, without the secrets in it.
    pub fn add_text(&mut self, name: &str, text: &str) -> Result<(), Failure> {
        self.add(&Piece {
            name: name.to_owned(),
            content: redact(text).into_owned().into_bytes(),
            trouble: String::new(),
        })
    }

    /// Adds the end of a file of ours, without the secrets in it; says so where there is none.
    pub fn add_end_of(&mut self, name: &str, path: &Path) -> Result<(), Failure> {
        let mut piece = Piece {
            name: name.to_owned(),
            ..Piece::default()
        };
        match end_of(path) {
            Ok((text, cut)) => {
                piece.content = text.into_bytes();
                if cut {
                    piece.trouble =
                        format!("only its last {} KiB are here", piece.content.len() >> 10);
                }
            }
            Err(error) => piece.trouble = format!("cannot read {}: {error}", path.display()),
        }
        self.add(&piece)
    }

    /// Adds the list of what there is and what there is not, and ends the bundle.
    ///
    /// `opening` says what it is about, a line each.
    pub fn finish(mut self, opening: &[String]) -> Result<PathBuf, Failure> {
        let text = manifest(opening, &self.listed);
        self.write(MANIFEST, text.as_bytes())?;
        let ended = self.builder.finish();
        ended.map_err(|error| broken(&self.path, &error))?;
        self.flush()?;
        Ok(self.path)
    }

    fn write(&mut self, name: &str, content: &[u8]) -> Result<(), Failure> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        header.set_mtime(self.seconds);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(content.len() as u64);
        let path = format!("{}/{name}", self.folder);
        let added = self.builder.append_data(&mut header, path, content);
        added.map_err(|error| broken(&self.path, &error))?;
        self.flush()
    }

    /// Writes what the builder has made as one gzip stream.
    fn flush(&mut self) -> Result<(), Failure> {
        let made = std::mem::take(self.builder.get_mut());
        let mut write = || -> io::Result<()> {
            let mut packed = GzEncoder::new(Vec::new(), Compression::default());
            packed.write_all(&made)?;
            let packed = packed.finish()?;
            match &mut self.out {
                Out::File(file) => {
                    file.write_all(&packed)?;
                    match file.sync_data() {
                        // what is no file, such as a pipe, needs no flushing
                        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
                        synced => synced,
                    }
                }
                Out::Stdout(stdout) => {
                    stdout.write_all(&packed)?;
                    stdout.flush()
                }
            }
        };
        write().map_err(|error| broken(&self.path, &error))
    }
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Archive")
            .field("path", &self.path)
            .field("listed", &self.listed)
            .finish_non_exhaustive()
    }
}

/// Returns the name of a bundle that is made now.
pub fn name(seconds: u64) -> String {
    format!("{}{seconds}{}", NAME.0, NAME.1)
}

/// Removes bundles of a host but the newest. `folders` are those in which bundles lie.
pub fn keep_newest(folders: impl Iterator<Item = PathBuf>) {
    let mut found: Vec<(u64, PathBuf)> = Vec::new();
    for folder in folders {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let seconds = name.to_str().and_then(|name| {
                name.strip_prefix(NAME.0)?
                    .strip_suffix(NAME.1)?
                    .parse()
                    .ok()
            });
            found.extend(seconds.map(|seconds| (seconds, entry.path())));
        }
    }
    found.sort();
    found.reverse();
    for (_, old) in found.iter().skip(KEPT) {
        // one that cannot be removed takes room, and does no other harm
        let _ = fs::remove_file(old);
    }
}

/// Reads the end of a file, without the secrets in it; and whether that is not all.
fn end_of(path: &Path) -> io::Result<(String, bool)> {
    // so much more that no secret begins unseen
    const READ: u64 = END + LONGEST_SECRET as u64;
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(READ)))?;
    let mut bytes = Vec::new();
    file.take(READ).read_to_end(&mut bytes)?;
    let text = redact(&String::from_utf8_lossy(&bytes)).into_owned();
    if length <= END {
        return Ok((text, false));
    }
    // whole lines only
    let cut = text.len().saturating_sub(END as usize);
    let line = text.as_bytes()[cut..]
        .iter()
        .position(|byte| *byte == b'\n');
    let kept = line.map_or("", |line| &text[cut + line + 1..]);
    Ok((kept.to_owned(), true))
}

fn manifest(opening: &[String], listed: &[Listed]) -> String {
    let mut text = opening.join("\n");
    text += "\n\nWhat looks like a password, a key or a token was taken out and reads [redacted]. Look through it nevertheless\nbefore you give it to others: it names hosts, addresses, disks and users.\n";
    text += "\nHere:\n";
    for piece in listed {
        if let Some(size) = piece.size {
            text += &format!("{size:>9}  {}", piece.name);
            if !piece.trouble.is_empty() {
                text += &format!("  ({})", one_line(&piece.trouble));
            }
            text.push('\n');
        }
    }
    let missing = listed.iter().filter(|piece| piece.size.is_none());
    let missing: Vec<String> = missing
        .map(|piece| format!("           {}: {}\n", piece.name, one_line(&piece.trouble)))
        .collect();
    if !missing.is_empty() {
        text += "\nNot here:\n";
        text += &missing.concat();
    }
    text
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn broken(path: &Path, error: &io::Error) -> Failure {
    cannot("write", path)
        .caused_by(error)
        .hint("name another place: `landfall bundle HOST --output FILE`")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn piece(name: &str, content: &str, trouble: &str) -> Piece {
        Piece {
            name: name.to_owned(),
            content: content.as_bytes().to_vec(),
            trouble: trouble.to_owned(),
        }
    }

    /// What `tar` says that is in an archive; it has to like it.
    fn listed(path: &Path) -> Vec<String> {
        let tar = Command::new("tar").arg("-tzf").arg(path).output().unwrap();
        assert!(tar.status.success(), "{tar:?}");
        assert_eq!(String::from_utf8_lossy(&tar.stderr), "");
        String::from_utf8(tar.stdout)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    fn content(path: &Path, name: &str) -> String {
        let mut tar = Command::new("tar");
        tar.arg("-xzOf").arg(path).arg(name);
        String::from_utf8(tar.output().unwrap().stdout).unwrap()
    }

    #[test]
    fn manifest_says_what_is_there_and_what_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name(7));
        let mut archive = Archive::create(&path, "fe80::1%eth0", 7).unwrap();
        archive
            .add(&piece("kernel.log", "panic", "only its end\nis here"))
            .unwrap();
        archive.add(&piece("kernel.log", " at 7", "")).unwrap();
        archive
            .add(&piece("lvs.txt", "", "there is no `lvs`"))
            .unwrap();
        archive.add(&piece("swaps", "", "")).unwrap();
        archive
            .add_text("landfall/words.txt", "landfall --password hunter2")
            .unwrap();
        assert_eq!(archive.finish(&["about host01".to_owned()]).unwrap(), path);
        let top = "landfall-fe80--1-eth0-7";
        let names = [
            "kernel.log",
            "kernel.log.part2",
            "swaps",
            "landfall/words.txt",
            "MANIFEST.txt",
        ];
        assert_eq!(listed(&path), names.map(|name| format!("{top}/{name}")));
        let text = content(&path, &format!("{top}/MANIFEST.txt"));
        assert!(text.starts_with("about host01\n"), "{text}");
        assert!(
            text.contains("        5  kernel.log  (only its end is here)\n"),
            "{text}"
        );
        assert!(
            text.ends_with("Not here:\n           lvs.txt: there is no `lvs`\n"),
            "{text}"
        );
        let words = content(&path, &format!("{top}/landfall/words.txt"));
        assert_eq!(words, "landfall --password [redacted]");
    }

    #[test]
    fn archive_of_a_command_that_was_killed_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.tar.gz");
        let mut archive = Archive::create(&path, "h", 7).unwrap();
        for number in 0..3 {
            archive
                .add(&piece(&format!("{number}.log"), &"x".repeat(1000), ""))
                .unwrap();
            // as it is on the disk now
            let killed = folder.path().join("killed.tar.gz");
            fs::copy(&path, &killed).unwrap();
            let names: Vec<_> = (0..=number)
                .map(|at| format!("landfall-h-7/{at}.log"))
                .collect();
            assert_eq!(listed(&killed), names);
        }
    }

    #[test]
    fn machine_that_never_ends_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let mut archive = Archive::create(&folder.path().join("x"), "h", 7).unwrap();
        archive.bytes = MOST.1;
        assert!(archive.add(&piece("a", "", "nothing")).is_ok());
        assert_eq!(
            archive.add(&piece("a", "x", "")).unwrap_err().code,
            "LF0920"
        );
    }

    #[test]
    fn only_the_newest_are_kept() {
        let base = tempfile::tempdir().unwrap();
        let folder = |run: &str| base.path().join(run);
        for run in ["a", "b"] {
            fs::create_dir(folder(run)).unwrap();
        }
        for seconds in 1..=8 {
            let run = if seconds % 2 == 0 { "a" } else { "b" };
            fs::write(folder(run).join(name(seconds)), "").unwrap();
        }
        for other in ["events.jsonl", "bundle-x.tar.gz"] {
            fs::write(folder("a").join(other), "").unwrap();
        }
        keep_newest([folder("a"), folder("b"), folder("c")].into_iter());
        let left = |run: &str| {
            let mut names: Vec<_> = fs::read_dir(folder(run))
                .unwrap()
                .flatten()
                .map(|e| e.file_name())
                .collect();
            names.sort();
            names
        };
        assert_eq!(
            left("a"),
            [
                "bundle-4.tar.gz",
                "bundle-6.tar.gz",
                "bundle-8.tar.gz",
                "bundle-x.tar.gz",
                "events.jsonl"
            ]
        );
        assert_eq!(left("b"), ["bundle-5.tar.gz", "bundle-7.tar.gz"]);
    }
}
