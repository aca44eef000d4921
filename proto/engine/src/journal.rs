//! The journal: JSON Lines, one header, then every heavy event with the proof it rests on.
//!
//! A line is on stable storage before anybody is told of it. The torn last line that a power cut leaves is cut off when
//! the journal is opened; anything else that is wrong stops the run, with file and line. Format: decision 0002.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use landfall_proto::{
    event::{Event, Kind},
    order::RunId,
    report::{Illegal, RunState},
};
use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, fallocate},
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::copy::Copy;

/// Version of the format; another one is refused.
const FORMAT: u32 = 1;
/// Largest journal that is read, in bytes. A run writes a few dozen lines.
const SIZE_MAX: u64 = 16 << 20;

/// First line of a journal: what this run is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the format.
    pub format: u32,
    /// The run.
    pub run: RunId,
    /// Names of its steps, in order.
    pub plan: Vec<String>,
    /// BLAKE3 of the order or request it serves.
    pub order: String,
    /// Version of the program that began it.
    pub version: String,
    /// Wall clock when it began, seconds since 1970; for people only.
    pub began: u64,
}

impl Header {
    /// Makes a header of the current format.
    pub fn new(run: RunId, plan: &[&str], order: String, began: u64) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let plan = plan.iter().map(|&name| name.to_owned()).collect();
        Self {
            format: FORMAT,
            run,
            plan,
            order,
            version,
            began,
        }
    }
}

/// Every later line: a heavy event, and what proves it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// The event.
    pub event: Event,
    /// What the step handed on, for a step that ended well.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub proof: Option<Value>,
}

/// Reads a proof that is there: that of a step which hands nothing on is `null`, and no less a proof.
fn present<'de, D: Deserializer<'de>>(source: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(source).map(Some)
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be read or written.
    #[error("writing journal {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A line that is not the last is damaged, or the header is.
    #[error("reading journal {} line {line}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// The lines do not follow each other. Somebody wrote to it.
    #[error("following journal {} line {line}", path.display())]
    Illegal {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// What does not follow.
        #[source]
        source: Illegal,
    },
    /// It belongs to something else.
    #[error("journal {} is of another {what}", path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// Run, plan, order or format.
        what: &'static str,
    },
    /// It is larger than any run makes it.
    #[error("journal {} has {size} bytes, more than any run writes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
}

/// Where a journal is kept.
pub trait Store: Send {
    /// Appends bytes and returns only once they would survive a crash.
    fn append(&mut self, bytes: &[u8]) -> Result<(), JournalError>;

    /// Sees to it that the next lines find room, whoever fills the place meanwhile.
    fn reserve(&mut self) -> Result<(), JournalError> {
        Ok(())
    }
}

/// Room that is kept for the lines to come: an end of a step with its proof takes some kilobytes.
const RESERVE: u64 = 64 << 10;

/// A journal in a file.
#[derive(Debug)]
pub struct FileStore {
    path: PathBuf,
    file: File,
    /// Length of the lines that were appended whole.
    whole: u64,
    /// Up to where the file system has given room.
    reserved: u64,
}

impl Store for FileStore {
    fn append(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        let written = self.write(bytes);
        written.map_err(|source| JournalError::Io {
            path: self.path.clone(),
            source,
        })?;
        // whoever has to be sure asks for it
        let _ = self.reserve();
        Ok(())
    }

    /// Takes the room from the file system (fallocate(2)); the file's length stays what it is.
    fn reserve(&mut self) -> Result<(), JournalError> {
        if self.reserved >= self.whole + RESERVE / 2 {
            return Ok(());
        }
        let end = i64::try_from(self.whole).unwrap_or(i64::MAX);
        let flags = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match fallocate(&self.file, flags, end, RESERVE.cast_signed()) {
            Ok(()) => self.reserved = self.whole + RESERVE,
            // a file system that keeps no room: what it has is seen when a line is written
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::ENODEV) => {}
            Err(error) => {
                return Err(JournalError::Io {
                    path: self.path.clone(),
                    source: error.into(),
                });
            }
        }
        Ok(())
    }
}

impl FileStore {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        // a line of which an earlier call wrote only a part would spoil this one; cutting gives back the room too
        if self.file.metadata()?.len() != self.whole {
            self.file.set_len(self.whole)?;
            self.reserved = self.whole;
        }
        self.file.seek(SeekFrom::Start(self.whole))?;
        self.file.write_all(bytes)?;
        self.file.sync_data()?;
        self.whole += bytes.len() as u64;
        Ok(())
    }
}

/// An open journal and what it says.
#[derive(Debug)]
pub struct Journal<S> {
    store: S,
    copy: Option<Copy>,
    /// What the run is.
    pub header: Header,
    /// What has happened so far.
    pub marks: Vec<Mark>,
}

impl Journal<FileStore> {
    /// Opens the journal at `path`, or begins it with `header` where there is none.
    ///
    /// An existing journal must be of the same run, plan and order.
    pub fn open(path: &Path, header: Header) -> Result<Self, JournalError> {
        let io = |source| JournalError::Io {
            path: path.to_owned(),
            source,
        };
        let mut file = open_private(path).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        if size > SIZE_MAX {
            return Err(JournalError::TooLarge {
                path: path.to_owned(),
                size,
            });
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        let whole = whole(&bytes);
        if whole < bytes.len() {
            file.set_len(whole as u64).map_err(io)?;
            file.sync_data().map_err(io)?;
        }
        let store = FileStore {
            path: path.to_owned(),
            file,
            whole: whole as u64,
            reserved: 0,
        };
        if whole == 0 {
            let journal = Self::begin(store, header)?;
            sync_directory(path).map_err(io)?;
            return Ok(journal);
        }
        let (found, marks) = parse(path, &bytes[..whole])?;
        check_header(path, &found, &header)?;
        Ok(Self {
            store,
            copy: None,
            header: found,
            marks,
        })
    }
}

impl<S: Store> Journal<S> {
    /// Begins an empty journal.
    pub fn begin(mut store: S, header: Header) -> Result<Self, JournalError> {
        store.append(&line(&header))?;
        Ok(Self {
            store,
            copy: None,
            header,
            marks: Vec::new(),
        })
    }

    /// Appends a mark. Returns only once it would survive a crash.
    pub fn append(&mut self, mark: Mark) -> Result<(), JournalError> {
        self.store.append(&line(&mark))?;
        self.marks.push(mark);
        // what cannot be copied now comes with the next mark
        let _ = self.copy_out();
        Ok(())
    }

    /// Sees to it that what follows a step which must not be repeated can be written down.
    pub(crate) fn reserve(&mut self) -> Result<(), JournalError> {
        self.store.reserve()
    }

    /// Keeps a copy at `path` from now on, replaced whole with each mark; its folder must be there.
    pub(crate) fn keep_copy(&mut self, path: &Path) -> io::Result<()> {
        self.copy = Some(Copy::at(path));
        self.copy_out()
    }

    /// Keeps no copy any more, and removes the one there is unless it shall stay.
    pub(crate) fn end_copy(&mut self, stays: bool) -> io::Result<()> {
        match self.copy.take() {
            Some(copy) if !stays => copy.remove(),
            _ => Ok(()),
        }
    }

    fn copy_out(&self) -> io::Result<()> {
        let Some(copy) = &self.copy else {
            return Ok(());
        };
        let mut lines = line(&self.header);
        self.marks.iter().for_each(|mark| lines.extend(line(mark)));
        copy.write(&lines)
    }
}

/// Reads a journal without taking it up: its header and its whole lines; nothing where there is none.
///
/// Changes nothing, not even a torn last line, which is passed over.
#[expect(
    clippy::disallowed_methods,
    reason = "the journal is the one file the engine may touch"
)]
pub fn read(path: &Path) -> Result<Option<(Header, Vec<Mark>)>, JournalError> {
    let io = |source| JournalError::Io {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(io)?,
    };
    let size = file.metadata().map_err(io)?.len();
    if size > SIZE_MAX {
        return Err(JournalError::TooLarge {
            path: path.to_owned(),
            size,
        });
    }
    let mut bytes = Vec::new();
    file.take(SIZE_MAX).read_to_end(&mut bytes).map_err(io)?;
    let whole = whole(&bytes);
    match whole {
        0 => Ok(None),
        whole => parse(path, &bytes[..whole]).map(Some),
    }
}

/// Returns how many bytes the lines have that are whole.
fn whole(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .rposition(|&byte| byte == b'\n')
        .map_or(0, |at| at + 1)
}

#[cfg(test)]
impl<S: Store> Journal<S> {
    /// Takes up a journal of whole lines that a test keeps.
    pub(crate) fn resume(store: S, bytes: &[u8], header: Header) -> Result<Self, JournalError> {
        if bytes.is_empty() {
            return Self::begin(store, header);
        }
        let path = Path::new("memory");
        let (found, marks) = parse(path, bytes)?;
        check_header(path, &found, &header)?;
        Ok(Self {
            store,
            copy: None,
            header: found,
            marks,
        })
    }
}

fn line<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(value).expect("journal lines have only string keys");
    bytes.push(b'\n');
    bytes
}

fn parse(path: &Path, bytes: &[u8]) -> Result<(Header, Vec<Mark>), JournalError> {
    let damaged = |line, source| JournalError::Damaged {
        path: path.to_owned(),
        line: line + 1,
        source,
    };
    let mut lines = bytes.split_inclusive(|&byte| byte == b'\n').enumerate();
    let first = lines.next().map_or(&[][..], |(_, line)| line);
    let header: Header = serde_json::from_slice(first).map_err(|source| damaged(0, source))?;
    let mut state = RunState::default();
    let mut marks = Vec::new();
    for (number, line) in lines {
        let mark: Mark = serde_json::from_slice(line).map_err(|source| damaged(number, source))?;
        let before = state.next;
        let applied = state.apply(&mark.event).and_then(|()| {
            let why = match &mark.event.kind {
                Kind::Unknown => "its kind is not known to this version",
                _ if state.next == before => "it is there already, or belongs in no journal",
                _ => return Ok(()),
            };
            Err(Illegal {
                index: mark.event.index,
                why: why.to_owned(),
            })
        });
        applied.map_err(|source| JournalError::Illegal {
            path: path.to_owned(),
            line: number + 1,
            source,
        })?;
        marks.push(mark);
    }
    Ok((header, marks))
}

fn check_header(path: &Path, found: &Header, wanted: &Header) -> Result<(), JournalError> {
    let differs = [
        ("format", found.format != wanted.format),
        ("run", found.run != wanted.run),
        ("plan", found.plan != wanted.plan),
        ("order", found.order != wanted.order),
    ];
    match differs.into_iter().find(|(_, differs)| *differs) {
        Some((what, _)) => Err(JournalError::Other {
            path: path.to_owned(),
            what,
        }),
        None => Ok(()),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the journal is the one file the engine may touch"
)]
fn sync_directory(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn open_private(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use landfall_proto::event::Outcome;
    use tempfile::TempDir;

    use super::*;

    const PLAN: [&str; 2] = ["inspect", "format"];

    fn header() -> Header {
        Header::new(RunId::from_bytes([7; 16]), &PLAN, "order".to_owned(), 1)
    }

    fn mark(index: u64, kind: Kind) -> Mark {
        let proof = matches!(kind, Kind::StepFinished { .. }).then_some(Value::Null);
        let step = Some("inspect".to_owned());
        let event = Event {
            index,
            light: None,
            at_ms: index,
            step,
            kind,
        };
        Mark { event, proof }
    }

    fn marks() -> Vec<Mark> {
        let steps = PLAN.map(str::to_owned).to_vec();
        let kinds = [
            Kind::RunStarted { steps },
            Kind::StepStarted { attempt: 1 },
            Kind::StepFinished {
                outcome: Outcome::Warned {
                    message: "a line\nbreak".to_owned(),
                },
            },
            Kind::RunFailed,
        ];
        (0..)
            .zip(kinds)
            .map(|(index, kind)| mark(index, kind))
            .collect()
    }

    /// A place for one journal.
    struct Place(TempDir);

    impl Place {
        fn new() -> Self {
            Self(TempDir::new().unwrap())
        }

        fn path(&self) -> PathBuf {
            self.0.path().join("journal.jsonl")
        }

        fn put(&self, bytes: &[u8]) {
            let mut file = open_private(&self.path()).unwrap();
            file.set_len(0).unwrap();
            file.write_all(bytes).unwrap();
        }

        fn bytes(&self) -> Vec<u8> {
            let mut bytes = Vec::new();
            open_private(&self.path())
                .unwrap()
                .read_to_end(&mut bytes)
                .unwrap();
            bytes
        }

        fn open(&self) -> Result<Journal<FileStore>, JournalError> {
            Journal::open(&self.path(), header())
        }

        fn written(&self) -> Vec<u8> {
            let mut journal = self.open().unwrap();
            marks()
                .into_iter()
                .for_each(|mark| journal.append(mark).unwrap());
            self.bytes()
        }
    }

    /// Returns an error and its causes, without the place of the file.
    fn said(place: &Place, error: &dyn Error) -> String {
        let causes = std::iter::successors(Some(error), |&error| error.source());
        let all: Vec<String> = causes.map(ToString::to_string).collect();
        all.join(": ")
            .replace(&place.path().display().to_string(), "[JOURNAL]")
    }

    #[track_caller]
    fn check_refused(bytes: &[u8], expected: &str) {
        let place = Place::new();
        place.put(bytes);
        assert_eq!(said(&place, &place.open().unwrap_err()), expected);
        assert_eq!(place.bytes(), bytes, "what is refused is left as it is");
    }

    #[track_caller]
    fn check_header(header: Header, expected: &str) {
        let mut bytes = line(&header);
        bytes.extend(line(&marks()[0]));
        check_refused(&bytes, expected);
    }

    #[test]
    fn what_was_appended_is_read() {
        let place = Place::new();
        place.written();
        let journal = place.open().unwrap();
        assert_eq!((journal.header, journal.marks), (header(), marks()));
    }

    #[test]
    fn proof_of_nothing_is_a_proof() {
        let place = Place::new();
        place.written();
        let proofs: Vec<_> = place
            .open()
            .unwrap()
            .marks
            .into_iter()
            .map(|mark| mark.proof)
            .collect();
        assert_eq!(proofs, [None, None, Some(Value::Null), None]);
    }

    #[test]
    fn journal_is_for_nobody_else() {
        use std::os::unix::fs::PermissionsExt;
        let place = Place::new();
        place.written();
        assert_eq!(
            place.path().metadata().unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn torn_last_line_is_cut_off() {
        let place = Place::new();
        let all = place.written();
        let ends: Vec<usize> = (0..all.len())
            .filter(|&at| all[at] == b'\n')
            .map(|at| at + 1)
            .collect();
        let mut torn = vec![Vec::new()];
        torn.extend((1..=all.len()).map(|cut| all[..cut].to_vec()));
        // what some file systems leave after a power cut
        torn.extend(ends.iter().map(|&end| [&all[..end], &[0; 40]].concat()));
        for bytes in torn {
            place.put(&bytes);
            let whole = ends.iter().filter(|&&end| end <= bytes.len()).count();
            let whole_marks = whole.saturating_sub(1);
            let mut journal = place.open().unwrap();
            assert_eq!(
                journal.marks,
                marks()[..whole_marks],
                "{} bytes",
                bytes.len()
            );
            // the next line does not grow onto the fragment, and the third process reads both
            for mark in &marks()[whole_marks..] {
                journal.append(mark.clone()).unwrap();
            }
            drop(journal);
            assert_eq!(
                place.open().unwrap().marks,
                marks(),
                "{} bytes",
                bytes.len()
            );
            assert_eq!(place.bytes(), all);
        }
    }

    #[test]
    fn line_that_was_written_in_part_does_not_spoil_the_next() {
        let place = Place::new();
        let mut journal = place.open().unwrap();
        journal.append(marks().remove(0)).unwrap();
        // as a full disk leaves it
        journal.store.file.write_all(b"{\"event\":").unwrap();
        for mark in marks().into_iter().skip(1) {
            journal.append(mark).unwrap();
        }
        assert_eq!(place.open().unwrap().marks, marks());
    }

    #[test]
    fn room_for_the_next_lines_is_there_before_they_are_written() {
        use std::os::unix::fs::MetadataExt;
        let place = Place::new();
        let mut journal = place.open().unwrap();
        journal.append(marks().remove(0)).unwrap();
        journal.reserve().unwrap();
        let about = std::fs::metadata(place.path()).unwrap();
        assert!(
            about.blocks() * 512 > about.len() + RESERVE / 2,
            "{about:?}"
        );
        // which nobody takes for lines
        assert_eq!(place.open().unwrap().marks, marks()[..1]);
    }

    #[test]
    fn line_that_cannot_be_brought_to_storage_is_not_written_down() {
        // a file that takes every write and can be synced by nobody: a thread's own name
        let path = PathBuf::from("/proc/thread-self/comm");
        let mut store = FileStore {
            file: open_private(&path).unwrap(),
            path,
            whole: 0,
            reserved: 0,
        };
        store.file.write_all(b"journal").unwrap();
        let error = store.append(b"line\n").unwrap_err();
        assert!(
            matches!(&error, JournalError::Io { source, .. } if source.kind() == io::ErrorKind::InvalidInput),
            "{error:?}"
        );
        assert_eq!(store.whole, 0);
    }

    #[test]
    fn journal_with_nothing_but_a_header_is_taken_up() {
        let place = Place::new();
        place.put(&line(&header()));
        assert_eq!(place.open().unwrap().marks, []);
        assert_eq!(place.bytes(), line(&header()));
    }

    #[test]
    fn bad_line_in_the_middle_is_named() {
        let place = Place::new();
        let mut lines: Vec<Vec<u8>> = place
            .written()
            .split_inclusive(|&byte| byte == b'\n')
            .map(<[u8]>::to_vec)
            .collect();
        lines[2] = b"{\n".to_vec();
        let eof = "EOF while parsing an object at line 2 column 0";
        check_refused(
            &lines.concat(),
            &format!("reading journal [JOURNAL] line 3: {eof}"),
        );
        lines[0] = b"\n".to_vec();
        let eof = "EOF while parsing a value at line 2 column 0";
        check_refused(
            &lines.concat(),
            &format!("reading journal [JOURNAL] line 1: {eof}"),
        );
    }

    #[test]
    fn lines_that_do_not_follow_each_other_are_refused() {
        let with =
            |marks: &[Mark]| [line(&header()), marks.iter().flat_map(line).collect()].concat();
        let mut twice = marks();
        twice.insert(1, twice[0].clone());
        let why = "event 0 does not follow: it is there already, or belongs in no journal";
        check_refused(
            &with(&twice),
            &format!("following journal [JOURNAL] line 3: {why}"),
        );
        let mut gap = marks();
        gap.remove(1);
        let why = "event 2 does not follow: expected event 1";
        check_refused(
            &with(&gap),
            &format!("following journal [JOURNAL] line 3: {why}"),
        );
        let mut light = marks();
        light.insert(
            1,
            mark(
                1,
                Kind::Line {
                    text: String::new(),
                },
            ),
        );
        let why = "event 1 does not follow: it is there already, or belongs in no journal";
        check_refused(
            &with(&light),
            &format!("following journal [JOURNAL] line 3: {why}"),
        );
        let mut unknown = marks();
        unknown[1].event.kind = Kind::Unknown;
        let why = "event 1 does not follow: its kind is not known to this version";
        check_refused(
            &with(&unknown),
            &format!("following journal [JOURNAL] line 3: {why}"),
        );
    }

    #[test]
    fn journal_of_something_else_is_refused() {
        let other = "journal [JOURNAL] is of another";
        check_header(
            Header {
                format: 2,
                ..header()
            },
            &format!("{other} format"),
        );
        let run = RunId::from_bytes([8; 16]);
        check_header(Header { run, ..header() }, &format!("{other} run"));
        let plan = vec!["inspect".to_owned()];
        check_header(Header { plan, ..header() }, &format!("{other} plan"));
        let order = "another".to_owned();
        check_header(Header { order, ..header() }, &format!("{other} order"));
        // a newer build of the same format goes on, and so does a later day
        let place = Place::new();
        place.put(&line(&Header {
            version: "9".to_owned(),
            began: 2,
            ..header()
        }));
        assert_eq!(place.open().unwrap().header.version, "9");
    }

    #[test]
    fn journal_larger_than_any_run_is_refused() {
        let place = Place::new();
        let size = place.written().len() as u64;
        open_private(&place.path())
            .unwrap()
            .set_len(SIZE_MAX + 1)
            .unwrap();
        let error = place.open().unwrap_err();
        assert_eq!(
            said(&place, &error),
            "journal [JOURNAL] has 16777217 bytes, more than any run writes"
        );
        open_private(&place.path())
            .unwrap()
            .set_len(SIZE_MAX)
            .unwrap();
        assert_eq!(place.open().unwrap().marks, marks());
        assert_eq!(place.bytes().len() as u64, size);
    }
}
