//! One call of nix: its arguments, what it says while it works, how it ended.

use std::{
    ffi::OsStr,
    path::Path,
    process::{ExitStatus, Stdio},
};

use engine::step::Context;
use landfall_proto::{event::Unit, failure::Failure};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{ChildStderr, ChildStdout, Command},
};

use super::log::{Log, Said};
use crate::local::child::{self, Group, GroupGuard, Tail, last_lines};

/// Lines of one error of nix that are told; a builder's own last lines are among them.
const LINES: usize = 15;

/// A call that has not been made yet.
pub(super) struct Call<'a> {
    command: Command,
    verb: &'static str,
    cx: Option<&'a Context>,
    build_logs: bool,
}

/// Why a call of nix failed.
#[derive(Debug)]
pub(super) enum Error {
    /// It could not be run, or could not be heard.
    Program(std::io::Error),
    /// It said that it failed.
    Ended {
        /// The command, such as `build`.
        verb: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// Its errors, outermost first.
        errors: Vec<String>,
        /// What can be done about them.
        hints: Vec<String>,
    },
}

impl<'a> Call<'a> {
    /// Makes a call of a verb of one word or two, such as `config show`.
    pub(super) fn new(program: &Path, verb: &'static str, cx: Option<&'a Context>) -> Self {
        let mut command = Command::new(program);
        command.args(["--extra-experimental-features", "nix-command flakes"]);
        command.args(["--log-format", "internal-json"]);
        command.args(verb.split(' '));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        child::tie(&mut command, Group::Own);
        Self {
            command,
            verb,
            cx,
            build_logs: false,
        }
    }

    pub(super) fn args<S: AsRef<OsStr>>(&mut self, args: impl IntoIterator<Item = S>) {
        self.command.args(args);
    }

    pub(super) fn show_build_logs(&mut self) {
        self.build_logs = true;
    }

    /// Runs it on installables and returns what it wrote to stdout. Dropped half way, everything it started is killed.
    ///
    /// Installables are never taken for options, whatever they begin with.
    pub(super) async fn run<const N: usize>(
        &mut self,
        installables: [&str; N],
    ) -> Result<Vec<u8>, Error> {
        if N > 0 {
            self.command.arg("--").args(installables);
        }
        let mut child = self.command.spawn().map_err(Error::Program)?;
        let mut guard = GroupGuard::new(&child);
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        let (out, (log, tail)) =
            tokio::try_join!(read_all(stdout), self.listen(stderr)).map_err(Error::Program)?;
        let status = child.wait().await.map_err(Error::Program)?;
        guard.release();
        if status.success() {
            // nix counts a path before it is copied, so its last figure is one short
            if let (Some(cx), total @ 1..) = (self.cx, log.total()) {
                cx.progress(total, Some(total), Unit::Paths);
            }
            return Ok(out);
        }
        let mut errors = log.errors();
        if errors.is_empty() {
            errors = last_lines(&tail.text(), LINES);
        }
        Err(Error::Ended {
            verb: self.verb,
            status,
            errors,
            hints: log.hints(),
        })
    }

    /// Tells what nix says until it says no more. Returns what it meant, and the end of what is not in its own format.
    async fn listen(&self, stderr: ChildStderr) -> std::io::Result<(Log, Tail)> {
        let (mut log, tail) = (Log::default(), Tail::default());
        let mut lines = BufReader::new(stderr).split(b'\n');
        while let Some(line) = lines.next_segment().await? {
            let line = String::from_utf8_lossy(&line);
            if !line.starts_with("@nix ") {
                tail.add(line.as_bytes());
                tail.add(b"\n");
            }
            for said in log.take(&line) {
                self.tell(said);
            }
        }
        Ok((log, tail))
    }

    fn tell(&self, said: Said) {
        let Some(cx) = self.cx else { return };
        match said {
            Said::Line(text) => cx.line(text),
            Said::Build(text) if self.build_logs => cx.line(text),
            Said::Build(_) => {}
            Said::Progress { done, total } => cx.progress(done, Some(total), Unit::Paths),
        }
    }
}

impl Error {
    /// Whether a flake lacks the attribute that was asked for.
    pub(super) fn lacks_attribute(&self) -> bool {
        self.says("does not provide attribute")
    }

    /// Whether one of nix's errors contains these words.
    pub(super) fn says(&self, words: &str) -> bool {
        matches!(self, Self::Ended { errors, .. }
            if errors.iter().any(|error| error.contains(words)))
    }

    /// Puts the causes below a headline.
    pub(super) fn causes_of(self, failure: Failure) -> Failure {
        match self {
            Self::Program(error) => failure.because("running nix").caused_by(&error),
            Self::Ended {
                verb,
                status,
                errors,
                hints,
            } => {
                let mut failure = failure.because(format!("running nix {verb}: {status}"));
                for error in &errors {
                    failure = failure.because(last_lines(error, LINES).join("\n"));
                }
                hints.into_iter().fold(failure, Failure::hint)
            }
        }
    }
}

async fn read_all(mut from: ChildStdout) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).await?;
    Ok(bytes)
}
