//! Gathers what explains a failure, for people: journals, logs, disks, mounts, addresses, processes.
//!
//! Changes nothing and waits for nobody: each piece has its time, and one that cannot be had says why. Secrets are taken out
//! before anything leaves this room, and files that hold nothing else are not read. Start at [`Machine::gather`]; what is
//! gathered, and in which order, is in `list`.

mod ends;
mod list;
mod processes;
#[cfg(test)]
mod tests;

use std::time::Duration;

use landfall_proto::{event::Event, failure::Failure, redact::redact, wire::Piece};
use tokio::{sync::mpsc, time::Instant};

use self::list::{LIST, Source};
use super::{
    Machine,
    command::{Command, PATH},
};

/// Longest that one piece may take.
const EACH: Duration = Duration::from_secs(10);
/// Longest that all of them may take; whoever reads them slowly has the time that it takes.
const ALL: Duration = Duration::from_secs(60);
/// Most that is kept of a piece: its end.
const MOST: usize = 1 << 20;
/// Most that a program may write.
const WRITES: u64 = 4 << 20;

impl Machine {
    /// Gathers piece after piece, the most telling first, for as long as somebody takes them.
    ///
    /// What opens disks is left out while a run is open here: a partition that is open for a moment is one whose table
    /// cannot be read anew, and a volume that cannot be closed.
    pub async fn gather(&self, out: mpsc::Sender<Piece>) {
        let mut spent = Duration::ZERO;
        for (name, source) in LIST {
            let began = Instant::now();
            let found = async {
                let left = ALL.saturating_sub(spent).min(EACH);
                in_time(name, left, self.look(name, source)).await
            };
            let found = tokio::select! {
                found = found => found,
                // nobody listens: what runs is ended
                () = out.closed() => return,
            };
            spent += began.elapsed();
            for piece in found {
                if out.send(piece).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Looks at one thing. Programs that take too long are ended with the future.
    async fn look(&self, name: &str, source: &Source) -> Vec<Piece> {
        match *source {
            Source::File(path) => {
                let (name, path) = (name.to_owned(), self.at(path));
                vec![self.blocking(move |_| ends::file(&name, &path)).await]
            }
            Source::Program(line) => vec![self.program_says(name, line).await],
            Source::Probe(line) => match self.is_at_work() {
                true => vec![lacking(name, AT_WORK)],
                false => vec![self.program_says(name, line).await],
            },
            Source::Facts => match self.is_at_work() {
                true => vec![lacking(name, AT_WORK)],
                false => {
                    let facts = serde_json::to_string_pretty(&self.facts().await);
                    vec![piece(name, &facts.unwrap_or_default())]
                }
            },
            Source::Kernel => {
                let log = self.blocking(Self::kernel_log_with_times).await;
                vec![match log.is_empty() {
                    true => lacking(name, "/dev/kmsg cannot be read"),
                    false => piece(name, &log.join("\n")),
                }]
            }
            Source::Agent => self.blocking(Self::own_records).await,
            Source::Builds(root) => self.build_logs(root).await,
            Source::Processes => {
                let name = name.to_owned();
                vec![
                    self.blocking(move |machine| piece(&name, &machine.processes()))
                        .await,
                ]
            }
        }
    }

    /// Returns what a program says that only looks.
    async fn program_says(&self, name: &str, line: &[&str]) -> Piece {
        let (program, arguments) = line.split_first().expect("a program has a name");
        let Some(path) = self.program(program) else {
            return lacking(name, &format!("there is no `{program}` in {PATH}"));
        };
        let command = Command::new(path).args(arguments.iter().copied());
        self.said_by(name, &command).await
    }

    /// Returns what a command says, with its complaints where it failed.
    async fn said_by(&self, name: &str, command: &Command) -> Piece {
        match self.programs().capture(command, WRITES).await {
            Ok((bytes, ended)) => {
                let mut piece = piece(name, &String::from_utf8_lossy(&bytes));
                if !ended.ok() {
                    add_trouble(&mut piece, &ended.failure("it failed").in_one_line());
                }
                piece
            }
            Err(failure) => failed(name, &failure),
        }
    }

    /// Whether a run is open here, whose steps may be at work on the disks.
    fn is_at_work(&self) -> bool {
        !matches!(self.open_order(), Ok(None))
    }
}

const AT_WORK: &str =
    "not looked at, since a run is open here and disks that are opened may be in its way";

/// Waits for pieces; says so where they do not come.
async fn in_time(
    name: &str,
    within: Duration,
    pieces: impl Future<Output = Vec<Piece>>,
) -> Vec<Piece> {
    if within.is_zero() {
        return vec![lacking(name, "no time was left for it")];
    }
    let found = tokio::time::timeout(within, pieces).await;
    found.unwrap_or_else(|_| {
        let why = format!("it did not come within {} s", within.as_secs());
        vec![lacking(name, &why)]
    })
}

/// Makes a piece of the events that a run has told, output of programs included.
pub fn told(events: &[Event]) -> Piece {
    let lines = events
        .iter()
        .filter_map(|event| serde_json::to_string(event).ok());
    let lines: Vec<String> = lines.collect();
    piece("agent/events.jsonl", &lines.join("\n"))
}

/// Makes a piece of text: its end, without secrets.
fn piece(name: &str, text: &str) -> Piece {
    let clean = redact(text);
    let mut kept = clean.as_ref();
    if kept.len() > MOST {
        let mut cut = kept.len() - MOST;
        while !kept.is_char_boundary(cut) {
            cut += 1;
        }
        kept = &kept[cut..];
        // half a line says nothing
        kept = kept.split_once('\n').map_or(kept, |(_, rest)| rest);
    }
    let trouble = match kept.len() == clean.len() {
        true => String::new(),
        false => format!("only its last {} KiB are here", kept.len() >> 10),
    };
    Piece {
        name: name.to_owned(),
        content: kept.as_bytes().to_vec(),
        trouble,
    }
}

/// Makes a piece of which there is nothing.
fn lacking(name: &str, why: &str) -> Piece {
    Piece {
        name: name.to_owned(),
        content: Vec::new(),
        trouble: redact(why).into_owned(),
    }
}

fn failed(name: &str, failure: &Failure) -> Piece {
    lacking(name, &failure.in_one_line())
}

fn add_trouble(piece: &mut Piece, why: &str) {
    let sep = if piece.trouble.is_empty() { "" } else { "; " };
    piece.trouble = format!("{}{sep}{}", piece.trouble, redact(why.trim()));
}
