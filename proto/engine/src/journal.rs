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
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

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
}

/// A journal in a file.
#[derive(Debug)]
pub struct FileStore {
    path: PathBuf,
    file: File,
    /// Length of the lines that were appended whole.
    whole: u64,
}

impl Store for FileStore {
    fn append(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        let written = self.write(bytes);
        written.map_err(|source| JournalError::Io {
            path: self.path.clone(),
            source,
        })
    }
}

impl FileStore {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        // a line of which an earlier call wrote only a part would spoil this one
        self.file.set_len(self.whole)?;
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
        let whole = bytes
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |at| at + 1);
        if whole < bytes.len() {
            file.set_len(whole as u64).map_err(io)?;
            file.sync_data().map_err(io)?;
        }
        let store = FileStore {
            path: path.to_owned(),
            file,
            whole: whole as u64,
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
            header,
            marks: Vec::new(),
        })
    }

    /// Appends a mark. Returns only once it would survive a crash.
    pub fn append(&mut self, mark: Mark) -> Result<(), JournalError> {
        self.store.append(&line(&mark))?;
        self.marks.push(mark);
        Ok(())
    }
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
    reason = "the journal and its directory are what the engine opens"
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
