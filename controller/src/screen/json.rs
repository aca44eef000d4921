//! Events as JSON Lines: a header, then one object a line, each with its `kind`. `replay` reads the same.
//!
//! Format 1. Kinds are added without a new number; readers skip those they do not know.

use std::{
    io::{self, BufRead, Write},
    path::PathBuf,
};

use landfall_proto::{event::Event, facts::Disk, failure::Failure};
use serde::{Deserialize, Serialize};

use super::Told;
use crate::{
    exit::{Ended, MachineState},
    remote::link::LinkView,
};

/// Number of the format; another one is not read.
const FORMAT: u32 = 1;

/// First line of a recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    /// Version of landfall.
    landfall: String,
    format: u32,
    /// The machine, as the user named it.
    pub(super) host: String,
}

/// What is recorded beside the events of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Aside {
    /// Something worth knowing.
    Note { at_ms: u64, text: String },
    /// Something worth knowing, with a reason why going on is right.
    Warning { at_ms: u64, text: String },
    /// The disks of the machine, and those that will be erased.
    Disks {
        at_ms: u64,
        disks: Vec<Disk>,
        erased: Vec<String>,
    },
    /// The state of the link.
    Link { at_ms: u64, link: LinkView },
    /// The last line.
    Ended {
        at_ms: u64,
        exit: u8,
        state: MachineState,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<Failure>,
        /// Where that is explained at length.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bundle: Option<PathBuf>,
    },
}

/// A line of a recording.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Record {
    Event(Event),
    Aside(Aside),
}

/// JSON Lines to a writer.
pub(super) struct Json {
    out: Box<dyn Write + Send>,
}

impl Json {
    /// Writes the header.
    pub(super) fn new(out: Box<dyn Write + Send>, host: &str) -> Self {
        let mut json = Self { out };
        let landfall = env!("CARGO_PKG_VERSION").to_owned();
        json.line(&Header {
            landfall,
            format: FORMAT,
            host: host.to_owned(),
        });
        json
    }

    pub(super) fn event(&mut self, event: &Event) {
        self.line(event);
    }

    /// Writes what was told, and when.
    pub(super) fn told(&mut self, at_ms: u64, told: &Told) {
        let aside = match told.clone() {
            Told::Event(event) => return self.event(&event),
            Told::Link(link) => Aside::Link { at_ms, link },
            Told::Note(text) => Aside::Note { at_ms, text },
            Told::Warning(text) => Aside::Warning { at_ms, text },
            Told::Disks(disks, erased) => Aside::Disks {
                at_ms,
                disks,
                erased,
            },
        };
        self.aside(&aside);
    }

    pub(super) fn aside(&mut self, aside: &Aside) {
        self.line(aside);
    }

    fn line<T: Serialize>(&mut self, value: &T) {
        let text = serde_json::to_string(value).expect("records have only string keys");
        // nobody reads: the run goes on
        let _ = writeln!(self.out, "{text}").and_then(|()| self.out.flush());
    }
}

impl std::fmt::Debug for Json {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Json").finish_non_exhaustive()
    }
}

impl Aside {
    pub(super) fn at_ms(&self) -> u64 {
        match self {
            Self::Note { at_ms, .. }
            | Self::Warning { at_ms, .. }
            | Self::Disks { at_ms, .. }
            | Self::Link { at_ms, .. }
            | Self::Ended { at_ms, .. } => *at_ms,
        }
    }

    pub(super) fn ended(at_ms: u64, ended: &Ended) -> Self {
        let failure = ended.failure.clone();
        Self::Ended {
            at_ms,
            exit: ended.exit.code(),
            state: ended.state,
            failure,
            bundle: ended.bundle.clone(),
        }
    }
}

/// Reads the header of a recording.
pub(super) fn read_header(recording: &mut impl BufRead) -> Result<Header, Failure> {
    let cannot = || {
        Failure::new("cannot read the recording")
            .hint("record a run with `--json > FILE`")
            .code("LF0430")
    };
    let mut line = String::new();
    recording
        .read_line(&mut line)
        .map_err(|error| cannot().because("reading its first line").caused_by(&error))?;
    let header: Header = serde_json::from_str(&line)
        .map_err(|error| cannot().because("parsing its first line").caused_by(&error))?;
    if header.format != FORMAT {
        return Err(cannot().because(format!(
            "it has format {}, this landfall reads {FORMAT}",
            header.format
        )));
    }
    Ok(header)
}

/// Reads the lines after the header; a last line that was cut off is left out.
pub(super) fn read_records(recording: impl BufRead) -> Result<Vec<Record>, Failure> {
    let cannot = || Failure::new("cannot read the recording").code("LF0430");
    let lines = recording.split(b'\n').collect::<io::Result<Vec<_>>>();
    let lines = lines.map_err(|error| cannot().caused_by(&error))?;
    let mut records = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        match parse(line) {
            Ok(record) => records.push(record),
            // a run that was killed leaves half a line
            Err(_) if at + 1 == lines.len() => {}
            Err(error) => {
                let number = at + 2;
                return Err(cannot()
                    .because(format!("parsing its line {number}"))
                    .caused_by(&error));
            }
        }
    }
    Ok(records)
}

fn parse(line: &[u8]) -> serde_json::Result<Record> {
    if let Ok(aside) = serde_json::from_slice(line) {
        return Ok(Record::Aside(aside));
    }
    serde_json::from_slice(line).map(Record::Event)
}

#[cfg(test)]
mod tests {
    use landfall_proto::event::Kind;

    use super::*;

    fn read(text: &str) -> Result<Vec<Record>, Failure> {
        let mut bytes = text.as_bytes();
        read_header(&mut bytes)?;
        read_records(bytes)
    }

    const HEADER: &str = "{\"landfall\":\"0.1.0\",\"format\":1,\"host\":\"h\"}\n";

    #[test]
    fn what_is_written_is_read() {
        let event = Event {
            index: 0,
            light: None,
            at_ms: 7,
            step: Some("disko/format".to_owned()),
            kind: Kind::Line {
                text: "x".to_owned(),
            },
        };
        let link = LinkView::Retrying {
            attempt: 2,
            since_ms: 3,
            seen: "gone".to_owned(),
        };
        let aside = Aside::Link {
            at_ms: 9,
            link: link.clone(),
        };
        let text = format!(
            "{HEADER}{}\n{}\n",
            serde_json::to_string(&event).unwrap(),
            serde_json::to_string(&aside).unwrap()
        );
        assert_eq!(
            read(&text).unwrap(),
            [Record::Event(event), Record::Aside(aside)]
        );
    }

    #[test]
    fn kinds_of_later_versions_are_skipped() {
        let records = read(&format!(
            "{HEADER}{{\"index\":0,\"at_ms\":0,\"kind\":\"sang\"}}\n"
        ))
        .unwrap();
        assert!(matches!(&records[..], [Record::Event(event)] if event.kind == Kind::Unknown));
    }

    #[test]
    fn torn_last_line_is_left_out() {
        assert_eq!(read(&format!("{HEADER}{{\"index\":0,\"at")).unwrap(), []);
        assert!(read(&format!("{HEADER}{{\"index\"\n{{}}\n")).is_err());
    }

    #[test]
    fn what_is_no_recording_is_refused() {
        assert!(read("").is_err());
        assert!(read("{}\n").is_err());
        assert!(read("{\"landfall\":\"9\",\"format\":2,\"host\":\"h\"}\n").is_err());
    }
}
