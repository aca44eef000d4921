//! What nix says with `--log-format internal-json`: a line in, what it means out. Pure.
//!
//! The numbers are those of `src/libutil/include/nix/util/logging.hh` and have not changed since nix 2.4; numbers and
//! actions that are not known are passed over.

use std::collections::{HashMap, VecDeque};

use serde::Deserialize;
use serde_json::Value;

use crate::local::child::printable;

/// Last lines of a builder that are told when it fails; nix itself tells 10 (`log-lines`), but not in this format.
const LOG_LINES: usize = 10;
/// Longest part of such a line.
const LOG_WIDTH: usize = 200;
/// Builds whose last lines are kept after they ended: the error that names one follows shortly.
const ENDED: usize = 64;
/// Levels up to this one are shown by nix itself when nobody asks for more (`lvlInfo`).
const SHOWN: u64 = 3;
const COPY_PATH: u64 = 100;
const COPY_PATHS: u64 = 103;
const BUILDS: u64 = 104;
const BUILD: u64 = 105;
const RESULT_BUILD_LOG: u64 = 101;
const RESULT_PROGRESS: u64 = 105;
const RESULT_EXPECTED: u64 = 106;
const RESULT_POST_BUILD_LOG: u64 = 107;

/// What a line means to a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// Something to read.
    Line(String),
    /// Output of a builder.
    Build(String),
    /// How many paths are built or copied, and how many there are to be, as far as is known now.
    Progress {
        /// Paths that are done.
        done: u64,
        /// Paths in all.
        total: u64,
    },
}

/// Everything nix said so far, as far as it matters.
#[derive(Debug, Default)]
pub(super) struct Log {
    counted: HashMap<u64, (u64, u64)>,
    over: (u64, u64),
    last: (u64, u64),
    builds: HashMap<u64, Build>,
    ended: VecDeque<Build>,
    errors: Vec<String>,
    trace_cut: bool,
}

/// A build and the last lines of its builder.
#[derive(Debug, Default)]
struct Build {
    derivation: String,
    lines: VecDeque<String>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
enum Action {
    Start {
        id: u64,
        #[serde(default)]
        level: u64,
        #[serde(default)]
        text: String,
        #[serde(rename = "type")]
        kind: u64,
        #[serde(default)]
        fields: Vec<Value>,
    },
    Stop {
        id: u64,
    },
    Result {
        id: u64,
        #[serde(rename = "type")]
        kind: u64,
        #[serde(default)]
        fields: Vec<Value>,
    },
    Msg {
        #[serde(default)]
        level: u64,
        #[serde(default)]
        msg: String,
        raw_msg: Option<String>,
    },
    #[serde(other)]
    Unknown,
}

impl Log {
    /// Takes a line without its end.
    pub(super) fn take(&mut self, line: &str) -> Vec<Said> {
        let Some(json) = line.strip_prefix("@nix ") else {
            return lines(line).map(Said::Line).collect();
        };
        let Ok(action) = serde_json::from_str(json) else {
            return Vec::new();
        };
        match action {
            Action::Start {
                id,
                level,
                text,
                kind,
                fields,
            } => {
                if matches!(kind, COPY_PATHS | BUILDS) {
                    self.counted.insert(id, (0, 0));
                }
                let subject = fields.first().and_then(Value::as_str);
                if let (BUILD, Some(derivation)) = (kind, subject) {
                    let derivation = derivation.to_owned();
                    self.builds.insert(
                        id,
                        Build {
                            derivation,
                            lines: VecDeque::new(),
                        },
                    );
                }
                let text = match (kind, subject) {
                    // where it goes to is a socket of ours
                    (COPY_PATH, Some(path)) => format!("copying {path}"),
                    (BUILD, Some(derivation)) if text.is_empty() => {
                        format!("building {derivation}")
                    }
                    _ if level <= SHOWN => text,
                    _ => String::new(),
                };
                lines(&text).map(Said::Line).collect()
            }
            Action::Stop { id } => {
                if let Some((done, total)) = self.counted.remove(&id) {
                    self.over = (self.over.0 + done, self.over.1 + total);
                }
                if let Some(build) = self.builds.remove(&id) {
                    self.ended.push_back(build);
                    let excess = self.ended.len().saturating_sub(ENDED);
                    self.ended.drain(..excess);
                }
                Vec::new()
            }
            Action::Result {
                id,
                kind: RESULT_PROGRESS,
                fields,
            } => self.progress(id, &fields),
            Action::Result {
                id,
                kind: RESULT_EXPECTED,
                fields,
            } => self.expected(id, &fields),
            Action::Result {
                id,
                kind: RESULT_BUILD_LOG | RESULT_POST_BUILD_LOG,
                fields,
            } => {
                let text = fields.first().and_then(Value::as_str).unwrap_or_default();
                let said: Vec<String> = lines(text).collect();
                if let Some(build) = self.builds.get_mut(&id) {
                    build.keep(&said);
                }
                said.into_iter().map(Said::Build).collect()
            }
            Action::Msg {
                level,
                msg,
                raw_msg,
            } => {
                // without `raw_msg` it is a line of text, such as the list that follows a heading
                if let (0, Some(raw)) = (level, raw_msg) {
                    self.errors.push(printable(&raw).trim().to_owned());
                    self.trace_cut |= msg.contains("--show-trace");
                }
                if level > SHOWN {
                    return Vec::new();
                }
                lines(&msg).map(Said::Line).collect()
            }
            Action::Result { .. } | Action::Unknown => Vec::new(),
        }
    }

    /// Returns nix's errors, outermost first: nix tells what went wrong before what that means.
    pub(super) fn errors(&self) -> Vec<String> {
        let mut told: Vec<String> = self.errors.last().cloned().into_iter().collect();
        if let Some(first) = self.errors.first()
            && !told.contains(first)
        {
            told.push(first.clone());
        }
        // a daemon puts them into the error itself
        let has_lines = told.iter().any(|text| text.contains("log lines:"));
        if let Some(build) = self.failed_build().filter(|_| !has_lines) {
            let lines: Vec<String> = build.lines.iter().map(|line| format!("> {line}")).collect();
            told.push(lines.join("\n"));
        }
        told.retain(|text| !text.is_empty());
        told
    }

    /// Returns what can be done about the errors.
    pub(super) fn hints(&self) -> Vec<String> {
        let log = self
            .failed_build()
            .map(|build| format!("see all the builder said: `nix log {}`", build.derivation));
        let trace = self
            .trace_cut
            .then(|| "see where it comes from with `--show-trace`".to_owned());
        log.into_iter().chain(trace).collect()
    }

    /// Returns how many paths there were to build or copy.
    pub(super) fn total(&self) -> u64 {
        self.last.1
    }

    /// Finds the build that the first error names.
    fn failed_build(&self) -> Option<&Build> {
        let first = self.errors.first()?;
        let mut builds = self.ended.iter().chain(self.builds.values());
        builds.find(|build| first.contains(&build.derivation))
    }

    /// Says how much a copy is, as NARs: what travels is compressed.
    fn expected(&self, id: u64, fields: &[Value]) -> Vec<Said> {
        let [kind, bytes, ..] = fields else {
            return Vec::new();
        };
        match (kind.as_u64(), bytes.as_u64()) {
            (Some(COPY_PATH), Some(bytes @ 1..)) if self.counted.contains_key(&id) => {
                let megabytes = bytes as f64 / 1e6;
                vec![Said::Line(format!("{megabytes:.1} MB to copy"))]
            }
            _ => Vec::new(),
        }
    }

    fn progress(&mut self, id: u64, fields: &[Value]) -> Vec<Said> {
        let (Some(counted), [done, expected, ..]) = (self.counted.get_mut(&id), fields) else {
            return Vec::new();
        };
        *counted = (done.as_u64().unwrap_or(0), expected.as_u64().unwrap_or(0));
        let sum = self
            .counted
            .values()
            .fold(self.over, |sum, one| (sum.0 + one.0, sum.1 + one.1));
        if sum == self.last || sum.1 == 0 {
            return Vec::new();
        }
        self.last = sum;
        vec![Said::Progress {
            done: sum.0,
            total: sum.1,
        }]
    }
}

impl Build {
    fn keep(&mut self, said: &[String]) {
        self.lines.extend(
            said.iter()
                .map(|line| line.chars().take(LOG_WIDTH).collect()),
        );
        let excess = self.lines.len().saturating_sub(LOG_LINES);
        self.lines.drain(..excess);
    }
}

fn lines(text: &str) -> impl Iterator<Item = String> {
    let text = printable(text);
    let lines: Vec<String> = text
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect();
    lines.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What nix 2.26 said, shortened.
    const COPY: &str = r#"@nix {"action":"start","id":1,"level":0,"parent":0,"text":"","type":103}
@nix {"action":"start","id":2,"level":6,"parent":0,"text":"querying info about missing paths","type":0}
@nix {"action":"stop","id":2}
@nix {"action":"stop","id":1}
@nix {"action":"start","id":9,"level":3,"parent":0,"text":"copying 12 paths","type":103}
@nix {"action":"result","fields":[100,51161704],"id":9,"type":106}
@nix {"action":"result","fields":[0,12,1,0],"id":9,"type":105}
@nix {"action":"start","fields":["/nix/store/r0bab9r670hzk4m3kjijbmpnx4rm4pdi-busybox","local","unix:///tmp/s"],"id":10,"level":3,"parent":0,"text":"copying path '/nix/store/r0bab9r670hzk4m3kjijbmpnx4rm4pdi-busybox' to 'unix:///tmp/s'","type":100}
@nix {"action":"result","fields":[8,2077240,0,0],"id":10,"type":105}
@nix {"action":"stop","id":10}
@nix {"action":"result","fields":[1,12,1,0],"id":9,"type":105}
@nix {"action":"result","fields":[1,12,1,0],"id":9,"type":105}"#;

    fn read(text: &str) -> (Log, Vec<Said>) {
        let mut log = Log::default();
        let said = text.lines().flat_map(|line| log.take(line)).collect();
        (log, said)
    }

    #[test]
    fn copied_paths_are_counted_and_named() {
        let (log, said) = read(COPY);
        assert_eq!(
            said,
            [
                Said::Line("copying 12 paths".into()),
                Said::Line("51.2 MB to copy".into()),
                Said::Progress { done: 0, total: 12 },
                Said::Line("copying /nix/store/r0bab9r670hzk4m3kjijbmpnx4rm4pdi-busybox".into()),
                Said::Progress { done: 1, total: 12 },
            ]
        );
        assert_eq!(log.total(), 12);
        assert!(log.errors().is_empty());
    }

    #[test]
    fn failed_builder_is_heard() {
        let (log, said) = read(
            r#"@nix {"action":"start","fields":["/nix/store/mawgnwim3px5bqb2y4hf6x2wnwfpj9pz-x.drv","",1,1],"id":9,"level":3,"parent":0,"text":"building '/nix/store/mawgnwim3px5bqb2y4hf6x2wnwfpj9pz-x.drv'","type":105}
@nix {"action":"result","fields":["hello"],"id":9,"type":101}
@nix {"action":"result","fields":["boom"],"id":9,"type":101}
@nix {"action":"stop","id":9}
@nix {"action":"msg","column":null,"file":null,"level":0,"line":null,"msg":"\u001b[31;1merror:\u001b[0m \u001b[35;1m\u001b[0mbuilder for '\u001b[35;1m/nix/store/mawgnwim3px5bqb2y4hf6x2wnwfpj9pz-x.drv\u001b[0m' failed with exit code 3\u001b[0m","raw_msg":"\u001b[35;1m\u001b[0mbuilder for '\u001b[35;1m/nix/store/mawgnwim3px5bqb2y4hf6x2wnwfpj9pz-x.drv\u001b[0m' failed with exit code 3\u001b[0m"}
@nix {"action":"msg","column":null,"file":null,"level":0,"line":null,"msg":"\u001b[31;1merror:\u001b[0m 1 dependencies of derivation 'y.drv' failed to build","raw_msg":"1 dependencies of derivation 'y.drv' failed to build"}"#,
        );
        assert_eq!(said[1], Said::Build("hello".into()));
        assert_eq!(
            log.errors(),
            [
                "1 dependencies of derivation 'y.drv' failed to build",
                "builder for '/nix/store/mawgnwim3px5bqb2y4hf6x2wnwfpj9pz-x.drv' failed with exit code 3",
                "> hello\n> boom",
            ]
        );
        assert_eq!(
            log.hints(),
            [
                "see all the builder said: `nix log /nix/store/mawgnwim3px5bqb2y4hf6x2wnwfpj9pz-x.drv`"
            ]
        );
    }

    #[test]
    fn error_is_told_without_its_trace_and_colours() {
        let (log, said) = read(
            r#"@nix {"action":"msg","level":0,"msg":"don't know how to build these paths:"}
@nix {"action":"msg","column":null,"file":null,"level":0,"line":null,"msg":"\u001b[31;1merror:\u001b[0m\n       … while calling the '\u001b[35;1mthrow\u001b[0m' builtin\n       (stack trace truncated; use '\u001b[35;1m--show-trace\u001b[0m' to show the full, detailed trace)\n\n       \u001b[31;1merror:\u001b[0m no such thing\n       second line","raw_msg":"no such thing\nsecond line"}"#,
        );
        assert_eq!(log.errors(), ["no such thing\nsecond line"]);
        assert_eq!(log.hints(), ["see where it comes from with `--show-trace`"]);
        assert_eq!(said.len(), 6);
        assert_eq!(
            said[2],
            Said::Line("       … while calling the 'throw' builtin".into())
        );
    }

    #[test]
    fn lines_of_others_are_passed_on() {
        let (_, said) =
            read("Host key verification failed.\n@nix {\"action\":\"dance\"}\n@nix {torn");
        assert_eq!(said, [Said::Line("Host key verification failed.".into())]);
    }
}
