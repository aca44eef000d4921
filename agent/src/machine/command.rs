//! Runs programs: argument vectors, never a shell; an environment made from nothing; a session of their own.
//!
//! No program outlives its owner. When the future that runs it is dropped, the run is stopped or the deadline passes,
//! its whole session is killed; should the agent itself die, the kernel kills the program, and [`end_leftovers`] ends
//! what that program had started.

use std::{
    fmt,
    os::unix::process::ExitStatusExt,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use landfall_proto::failure::Failure;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

pub use super::script::Script;
use super::{
    launch,
    mounts::Room,
    session::{self, Session},
};

/// Where programs are looked for, on an installer and on an old system alike.
pub const PATH: &str = "/run/current-system/sw/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// In the environment of everything the agent starts: the agent's process id, so that a later agent can tell what is left
/// over from one that died.
const MARK: &str = "LANDFALL_CHILD_OF";

/// How much of the standard error output travels in a failure.
const TAIL: usize = 1024;

/// How much of the standard output is kept.
const KEPT: usize = 1 << 20;

/// How long output is still read after the program ended: a daemon it left behind may hold the pipe for ever.
const LINGER: Duration = Duration::from_millis(500);

/// A program to run, with all it gets.
#[derive(Debug, Clone, Default)]
pub struct Command {
    argv: Vec<String>,
    env: Vec<(String, String)>,
    directory: Option<String>,
    input: Option<Vec<u8>>,
    deadline: Option<Duration>,
    pub(super) room: Option<Room>,
    leaves_work: bool,
}

/// How a program ended, and what it said.
#[derive(Debug, Clone, Default)]
pub struct Ended {
    /// Its exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The beginning of its standard output, at most 1 MiB.
    pub stdout: String,
    /// The end of its standard error output, at most 1 KiB.
    pub stderr: String,
    pub(super) program: String,
}

/// Which stream a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error output.
    Err,
}

/// What answers when a program is run: the machine, or a script in tests.
#[derive(Debug, Clone, Default)]
pub enum Programs {
    /// The machine.
    #[default]
    Real,
    /// Answers written down beforehand.
    Scripted(Script),
}

/// A program whose standard streams are in other hands; killed with its session when dropped.
#[derive(Debug)]
pub struct Piped {
    /// Its standard input.
    pub stdin: ChildStdin,
    /// Its standard output.
    pub stdout: ChildStdout,
    child: Child,
    session: Session,
}

impl Command {
    /// Names the program, by path or by a name to be looked for on [`PATH`].
    pub fn new(program: impl Into<String>) -> Self {
        Self {
            argv: vec![program.into()],
            ..Self::default()
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.argv.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<T: Into<String>>(mut self, args: impl IntoIterator<Item = T>) -> Self {
        self.argv.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Sets the directory it starts in.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<String>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Gives it something to read; without, its input is empty.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// Bounds how long it may run.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Runs it in a mount namespace of its own, and in another root.
    #[must_use]
    pub fn inside(mut self, room: Room) -> Self {
        self.room = Some(room);
        self
    }

    /// Lets what it started in the background live on after it ended with code 0.
    #[must_use]
    pub fn leaves_work(mut self) -> Self {
        self.leaves_work = true;
        self
    }

    /// Returns the program's name.
    pub(super) fn program(&self) -> &str {
        &self.argv[0]
    }

    /// Returns the whole command line, for people.
    pub(super) fn line(&self) -> String {
        self.argv.join(" ")
    }

    fn prepared(&self) -> std::process::Command {
        let mut command = std::process::Command::new(&self.argv[0]);
        command.args(&self.argv[1..]).env_clear();
        command
            .env("PATH", PATH)
            .env("HOME", "/root")
            .env("LC_ALL", "C")
            .env(MARK, std::process::id().to_string());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.current_dir(
            self.directory
                .as_deref()
                .filter(|_| self.room.is_none())
                .unwrap_or("/"),
        );
        command.stdin(if self.input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

impl Ended {
    /// Makes an answer for a script.
    pub fn answer(code: i32, stdout: &str, stderr: &str) -> Self {
        Self {
            code: Some(code),
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
            ..Self::default()
        }
    }

    /// Whether it ended with code 0.
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// Turns any end but code 0 into a failure below this headline.
    pub fn success(self, headline: &str) -> Result<Self, Failure> {
        if self.ok() {
            Ok(self)
        } else {
            Err(self.failure(headline))
        }
    }

    /// Makes a failure of how it ended, with its last words.
    pub fn failure(&self, headline: &str) -> Failure {
        let end = match (self.code, self.signal) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("ended by signal {signal}"),
            (None, None) => "no exit code".to_owned(),
        };
        let failure = Failure::new(headline)
            .because(format!("running {}", self.program))
            .because(end)
            .code("LF1205");
        let said = self.stderr.trim();
        if said.is_empty() {
            failure
        } else {
            failure.because(said)
        }
    }
}

impl Programs {
    /// Runs a program to its end, handing on its output line by line.
    ///
    /// Everything in its session is killed when the token is cancelled, the deadline passes or the future is dropped,
    /// and after it has ended too, unless it [leaves work](Command::leaves_work).
    pub async fn run(
        &self,
        command: &Command,
        cancel: &CancellationToken,
        on_line: impl FnMut(Stream, &str) + Send,
    ) -> Result<Ended, Failure> {
        match self {
            Self::Real => run_real(command, cancel, on_line).await,
            Self::Scripted(script) => script.answer(command, on_line),
        }
    }

    /// Whether what is done through this is done to the machine.
    pub fn are_real(&self) -> bool {
        matches!(self, Self::Real)
    }

    /// Runs a program that only looks at something, and returns what it said.
    pub async fn ask(&self, command: &Command) -> Result<Ended, Failure> {
        let command = Command {
            deadline: command.deadline.or(Some(Duration::from_secs(60))),
            ..command.clone()
        };
        self.run(&command, &CancellationToken::new(), |_, _| ())
            .await
    }

    /// Runs a program whose output is wanted byte for byte, and returns that beside how it ended.
    ///
    /// Refuses more than `max` bytes of output. The session is killed as by [`Programs::run`].
    pub async fn capture(&self, command: &Command, max: u64) -> Result<(Vec<u8>, Ended), Failure> {
        match self {
            Self::Real => capture_real(command, max).await,
            Self::Scripted(script) => {
                let ended = script.answer(command, |_, _| ())?;
                Ok((ended.stdout.clone().into_bytes(), ended))
            }
        }
    }

    /// Starts a program whose standard streams are in other hands, such as a daemon that speaks through them.
    ///
    /// Its standard error output goes to the agent's own.
    pub async fn pipe(&self, command: &Command) -> Result<Piped, Failure> {
        let mut prepared = command.prepared();
        prepared
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let (mut child, session) = start(command, prepared).await?;
        let stdin = child.stdin.take().expect("standard input is piped");
        let stdout = child.stdout.take().expect("standard output is piped");
        Ok(Piped {
            stdin,
            stdout,
            child,
            session,
        })
    }
}

impl Piped {
    /// Takes the streams out; the program lives as long as what is left.
    pub fn split(self) -> (ChildStdin, ChildStdout, impl fmt::Debug + Send) {
        (self.stdin, self.stdout, (self.child, self.session))
    }
}

/// Kills what an agent that died had started, and what those programs started in turn.
///
/// The kernel kills only the agent's own children with it. For the start of an agent, before it starts anything.
pub fn end_leftovers() {
    session::kill_orphans(MARK);
}

/// Returns the agent that started this process, or what started it in turn; none where no agent
/// did.
pub(super) fn owner() -> Option<u32> {
    std::env::var(MARK).ok()?.parse().ok()
}

async fn start(
    command: &Command,
    prepared: std::process::Command,
) -> Result<(Child, Session), Failure> {
    let started = launch::start(prepared, command.room.clone()).await;
    started.map_err(|error| cannot_run(command, &error))
}

async fn run_real(
    command: &Command,
    cancel: &CancellationToken,
    mut on_line: impl FnMut(Stream, &str) + Send,
) -> Result<Ended, Failure> {
    let (mut child, mut session) = start(command, command.prepared()).await?;
    if let (Some(input), Some(mut stdin)) = (command.input.clone(), child.stdin.take()) {
        // a program may end without reading; that shows in its exit code
        tokio::spawn(async move { stdin.write_all(&input).await });
    }
    let mut out = Lines::new(child.stdout.take().expect("standard output is piped"));
    let mut err = Lines::new(child.stderr.take().expect("standard error is piped"));
    let mut ended = Ended {
        program: command.argv[0].clone(),
        ..Ended::default()
    };
    let deadline = async {
        match command.deadline {
            Some(deadline) => tokio::time::sleep(deadline).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(deadline);
    let mut status: Option<(ExitStatus, Instant)> = None;
    loop {
        let linger = async {
            match status {
                Some((_, until)) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        // by chance, not in order: a program that floods one stream must not hide the others
        tokio::select! {
            () = cancel.cancelled() => return Err(stopped(command, "the run was stopped")),
            Some(line) = out.next() => {
                if ended.stdout.len() + line.len() < KEPT {
                    ended.stdout.push_str(&line);
                    ended.stdout.push('\n');
                }
                on_line(Stream::Out, &line);
            }
            Some(line) = err.next() => {
                keep_tail(&mut ended.stderr, &line);
                on_line(Stream::Err, &line);
            }
            result = child.wait(), if status.is_none() => {
                let ended = result.map_err(|error| cannot_run(command, &error))?;
                status = Some((ended, Instant::now() + LINGER));
            }
            () = linger => break,
            () = &mut deadline => {
                let seconds = command.deadline.unwrap_or_default().as_secs();
                return Err(stopped(command, &format!("it did not end within {seconds} s")));
            }
        }
        if status.is_some() && out.over && err.over {
            break;
        }
    }
    let (status, _) = status.expect("the loop ends only after the program");
    ended.code = status.code();
    ended.signal = status.signal();
    if command.leaves_work && ended.ok() {
        session.let_go();
    }
    Ok(ended)
}

async fn capture_real(command: &Command, max: u64) -> Result<(Vec<u8>, Ended), Failure> {
    let (mut child, _session) = start(command, command.prepared()).await?;
    let out = child.stdout.take().expect("standard output is piped");
    let mut err = Lines::new(child.stderr.take().expect("standard error is piped"));
    let (mut bytes, mut tail) = (Vec::new(), String::new());
    let read_out = async {
        let read = out.take(max + 1).read_to_end(&mut bytes).await;
        read.map_err(|error| cannot_run(command, &error))?;
        match bytes.len() as u64 > max {
            true => Err(stopped(command, &format!("it wrote more than {max} bytes"))),
            false => Ok(()),
        }
    };
    let read_err = async {
        while let Some(line) = err.next().await {
            keep_tail(&mut tail, &line);
        }
        Ok(())
    };
    let whole = async {
        let reading = async { tokio::try_join!(read_out, read_err).map(drop) };
        tokio::pin!(reading);
        let status = tokio::select! {
            read = &mut reading => {
                read?;
                child.wait().await
            }
            status = child.wait() => {
                // a daemon it left behind may hold the pipes for ever
                if let Ok(read) = tokio::time::timeout(LINGER, reading).await {
                    read?;
                }
                status
            }
        };
        status.map_err(|error| cannot_run(command, &error))
    };
    let status = match command.deadline {
        None => whole.await?,
        Some(deadline) => match tokio::time::timeout(deadline, whole).await {
            Ok(status) => status?,
            Err(_) => {
                let seconds = deadline.as_secs();
                let why = format!("it did not end within {seconds} s");
                return Err(stopped(command, &why));
            }
        },
    };
    let ended = Ended {
        code: status.code(),
        signal: status.signal(),
        stderr: tail,
        program: command.argv[0].clone(),
        ..Ended::default()
    };
    Ok((bytes, ended))
}

/// Lines of a stream that need not be UTF-8, nor have ends.
struct Lines<R> {
    reader: BufReader<R>,
    part: Vec<u8>,
    over: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    fn new(stream: R) -> Self {
        Self {
            reader: BufReader::new(stream),
            part: Vec::new(),
            over: false,
        }
    }

    /// Returns the next line, or nothing at the end. May be dropped at any time without losing a byte.
    async fn next(&mut self) -> Option<String> {
        while !self.over {
            // a progress bar without ends of lines must not fill the memory
            let room = (64 * 1024 - self.part.len()) as u64;
            let mut limited = (&mut self.reader).take(room);
            let read = limited.read_until(b'\n', &mut self.part).await;
            self.over = matches!(read, Ok(0) | Err(_));
            let whole = self.part.last() == Some(&b'\n') || self.part.len() == 64 * 1024;
            if whole || (self.over && !self.part.is_empty()) {
                let line = String::from_utf8_lossy(&self.part).trim_end().to_owned();
                self.part.clear();
                return Some(line);
            }
        }
        None
    }
}

fn keep_tail(tail: &mut String, line: &str) {
    tail.push_str(line);
    tail.push('\n');
    let mut cut = tail.len().saturating_sub(TAIL);
    while !tail.is_char_boundary(cut) {
        cut += 1;
    }
    tail.drain(..cut);
}

pub(super) fn cannot_run(command: &Command, error: &dyn std::error::Error) -> Failure {
    Failure::new(format!("cannot run {}", command.argv[0]))
        .caused_by(error)
        .code("LF1204")
}

fn stopped(command: &Command, why: &str) -> Failure {
    Failure::new(format!("cannot finish {}", command.argv[0]))
        .because(why)
        .code("LF1204")
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, time::Instant};

    use nix::{sys::signal::Signal, unistd::Pid};

    use super::*;

    fn shell(script: &str) -> Command {
        Command::new("sh").args(["-c", script])
    }

    async fn run(command: &Command) -> (Result<Ended, Failure>, Vec<(Stream, String)>) {
        let mut lines = Vec::new();
        let hear = |stream, line: &str| lines.push((stream, line.to_owned()));
        let ended = Programs::Real
            .run(command, &CancellationToken::new(), hear)
            .await;
        (ended, lines)
    }

    #[tokio::test]
    async fn captured_output_is_kept_byte_for_byte() {
        let script = shell("printf 'a\\r\\n\\377 '; echo warning >&2");
        let (bytes, ended) = Programs::Real.capture(&script, 5).await.unwrap();
        assert_eq!(bytes, b"a\r\n\xff ");
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), "warning\n"));
        let failure = Programs::Real.capture(&script, 4).await.unwrap_err();
        assert_eq!(failure.causes, ["it wrote more than 4 bytes"]);
        let endless = shell("while :; do echo x; done");
        assert!(Programs::Real.capture(&endless, 1000).await.is_err());
        let late = shell("sleep 60").deadline(Duration::from_millis(50));
        let failure = Programs::Real.capture(&late, 1000).await.unwrap_err();
        assert_eq!(failure.causes, ["it did not end within 0 s"]);
        let held = shell("echo out; sleep 60 & exit 3");
        let (bytes, ended) = Programs::Real.capture(&held, 1000).await.unwrap();
        assert_eq!((bytes.as_slice(), ended.code), (&b"out\n"[..], Some(3)));
    }

    /// Waits until the process whose id is in a file is dead.
    fn wait_for_end(file: &Path) {
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            let pid = fs::read_to_string(file).unwrap_or_default();
            let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            if !pid.is_empty() && (stat.is_empty() || stat.contains(") Z ")) {
                return;
            }
            std::thread::yield_now();
        }
        panic!("a program outlived its owner");
    }

    #[tokio::test]
    async fn program_sees_only_what_it_was_given() {
        let command = shell("cat; echo $A $HOME; test -z \"$CARGO\"")
            .env("A", "b")
            .input("in\n");
        let (ended, lines) = run(&command).await;
        let ended = ended.unwrap().success("cannot test").unwrap();
        assert_eq!(ended.stdout, "in\nb /root\n");
        assert_eq!(lines[1], (Stream::Out, "b /root".to_owned()));
    }

    #[tokio::test]
    async fn failed_program_is_told_with_its_last_words() {
        let (ended, lines) = run(&shell(
            "yes long | head -n 400 >&2; printf 'no end' >&2; exit 3",
        ))
        .await;
        let failure = ended.unwrap().success("cannot test").unwrap_err();
        assert_eq!(failure.causes[..2], ["running sh", "exit code 3"]);
        assert!(failure.causes[2].ends_with("long\nno end") && failure.causes[2].len() <= TAIL);
        assert_eq!(lines.len(), 401);
        let (ended, _) = run(&shell("kill -9 $$")).await;
        assert_eq!(ended.unwrap().failure("x").causes[1], "ended by signal 9");
        let (ended, _) = run(&Command::new("/nowhere/at/all")).await;
        assert_eq!(ended.unwrap_err().what, "cannot run /nowhere/at/all");
    }

    #[tokio::test]
    async fn nothing_outlives_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let left = |name: &str| {
            let path = dir.path().join(name);
            // in a process group of its own, as `timeout` would make one
            let script = format!(
                "timeout 600 sh -c 'echo $$ > {0}.new; mv {0}.new {0}; sleep 600'",
                path.display()
            );
            (path, script)
        };

        let (path, script) = left("deadline");
        let failure = run(&shell(&script).deadline(Duration::from_secs(1)))
            .await
            .0
            .unwrap_err();
        assert_eq!(failure.causes, ["it did not end within 1 s"]);
        wait_for_end(&path);

        let (path, script) = left("cancelled");
        let token = CancellationToken::new();
        let heard = token.clone();
        let script = format!(
            "({script}) & while ! test -e {}; do :; done; echo go; wait",
            path.display()
        );
        let ended = Programs::Real
            .run(&shell(&script), &token, move |_, _| heard.cancel())
            .await;
        assert_eq!(ended.unwrap_err().causes, ["the run was stopped"]);
        wait_for_end(&path);

        let (path, script) = left("background");
        let script = format!(
            "({script}) & while ! test -e {}; do :; done",
            path.display()
        );
        assert!(run(&shell(&script)).await.0.unwrap().ok());
        wait_for_end(&path);

        let (path, script) = left("dropped");
        let script = format!(
            "({script}) & while ! test -e {}; do :; done; echo go; wait",
            path.display()
        );
        let mut piped = Programs::Real.pipe(&shell(&script)).await.unwrap();
        piped.stdout.read_u8().await.unwrap();
        drop(piped);
        wait_for_end(&path);
    }

    #[tokio::test]
    async fn work_may_be_left_behind_only_by_success() {
        let dir = tempfile::tempdir().unwrap();
        for code in [0, 1] {
            let path = dir.path().join(code.to_string());
            let shown = path.display();
            let script = format!("sleep 600 & echo $! > {shown}; exit {code}");
            assert_eq!(
                run(&shell(&script).leaves_work()).await.0.unwrap().code,
                Some(code)
            );
            if code == 0 {
                let pid = fs::read_to_string(&path).unwrap();
                let pid = Pid::from_raw(pid.trim().parse().unwrap());
                nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
            }
            wait_for_end(&path);
        }
    }

    #[tokio::test]
    async fn room_shows_only_what_was_put_into_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut room = Room::at(dir.path().to_str().unwrap()).empty("/run");
        for path in ["/usr", "/bin", "/lib", "/lib64", "/nix"] {
            if Path::new(path).exists() {
                room = room.bind(path);
            }
        }
        let command = Command::new("/bin/sh")
            .args(["-c", "pwd; echo x > /run/y; echo /*"])
            .inside(room);
        let ended = match run(&command).await.0 {
            Ok(ended) => ended,
            Err(failure) => {
                // only root may make rooms
                assert_eq!(failure.causes, ["Operation not permitted (os error 1)"]);
                return;
            }
        };
        assert!(ended.stdout.starts_with("/\n/bin /lib "), "{ended:?}");
        assert!(!ended.stdout.contains("/tmp"), "{ended:?}");
        let left = fs::read_dir(dir.path().join("run")).unwrap().count();
        assert_eq!(left, 0, "the room is gone with its program");
    }
}
