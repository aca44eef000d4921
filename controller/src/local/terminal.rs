//! The terminal from which this program was started, for what a person types and nobody may see.
//!
//! Not stdin: that may be a file or a pipe while somebody sits there all the same.

use std::{
    fs,
    io::Write,
    os::fd::AsFd,
    sync::{Arc, Mutex, PoisonError},
};

use nix::{
    sys::termios::{self, LocalFlags, SetArg, Termios},
    unistd,
};
use secrecy::zeroize::{Zeroize, Zeroizing};
use tokio::sync::oneshot::{self, error::TryRecvError::Empty};

use super::{child::printable, secret::Secret};

/// Longest line that a terminal hands over (N_TTY_BUF_SIZE).
const LONGEST: usize = 4096;

/// The terminal from which this program was started.
#[derive(Debug)]
pub struct Terminal {
    file: Arc<fs::File>,
    hidden: Hidden,
    /// A line that somebody has been asked for and that nobody waits for any more: its thread still reads, and what is
    /// typed from now on goes to whoever asks next.
    pending: Option<oneshot::Receiver<Option<Secret>>>,
}

/// Shows again what is typed, as soon as one of its owners says so.
#[derive(Debug, Clone, Default)]
pub struct Hidden(Arc<Mutex<Option<Before>>>);

/// A terminal, and how it was before.
type Before = (Arc<fs::File>, Termios);

impl Terminal {
    /// Opens it, if there is one and this program is the one that may ask there now.
    ///
    /// A program in the background that asks would be stopped.
    pub fn open() -> Option<Self> {
        let file = fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/tty")
            .ok()?;
        let foreground = unistd::tcgetpgrp(&file).ok()?;
        (foreground == unistd::getpgrp()).then(|| Self {
            file: Arc::new(file),
            hidden: Hidden::default(),
            pending: None,
        })
    }

    /// Returns the handle that ends the hiding, whoever is asked at that time.
    pub fn hidden(&self) -> Hidden {
        self.hidden.clone()
    }

    /// Shows something.
    pub fn tell(&self, text: &str) {
        // nobody sees it: nobody can be told
        let _ = writeln!(&*self.file, "{}", printable(text));
    }

    /// Asks, and returns the line that is typed; none at the end of input.
    ///
    /// Without `echo` nobody sees what is typed, and what was typed before the question is no answer to it.
    pub async fn ask(&mut self, question: &str, echo: bool) -> Option<Secret> {
        let _shown = (!echo).then(|| self.hidden.begin(&self.file));
        // what was typed for a question that nobody waits for any more must not answer another one
        let gone = |line: &mut oneshot::Receiver<_>| !matches!(line.try_recv(), Err(Empty));
        if self.pending.as_mut().is_some_and(gone) {
            self.pending = None;
        }
        let asked =
            write!(&*self.file, "{}", printable(question)).and_then(|()| (&*self.file).flush());
        asked.ok()?;
        let line = match &mut self.pending {
            Some(line) => line,
            None => {
                let line = read_line(Arc::clone(&self.file))?;
                self.pending.insert(line)
            }
        };
        let answer = line.await.ok().flatten();
        self.pending = None;
        if !echo {
            let _ = writeln!(&*self.file);
        }
        answer
    }
}

impl Hidden {
    fn begin(&self, terminal: &Arc<fs::File>) -> Shown {
        if let Ok(before) = termios::tcgetattr(terminal) {
            let mut quiet = before.clone();
            quiet.local_flags.remove(LocalFlags::ECHO);
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // where it cannot be hidden, it is seen; that is no reason to fail
            if termios::tcsetattr(terminal, SetArg::TCSAFLUSH, &quiet).is_ok() {
                *kept = Some((Arc::clone(terminal), before));
            }
        }
        Shown(self.clone())
    }

    /// Shows again what is typed.
    pub fn end(&self) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((terminal, before)) = kept.take() {
            let _ = termios::tcsetattr(&terminal, SetArg::TCSADRAIN, &before);
        }
    }
}

struct Shown(Hidden);

impl Drop for Shown {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Reads a line on a thread of its own: one that waits for a person must not keep the runtime from ending.
fn read_line(terminal: Arc<fs::File>) -> Option<oneshot::Receiver<Option<Secret>>> {
    let (answer, answered) = oneshot::channel();
    let read = move || {
        // the asker may be gone
        let _ = answer.send(line_of(terminal.as_fd()));
    };
    std::thread::Builder::new()
        .name("answer".to_owned())
        .spawn(read)
        .ok()?;
    Some(answered)
}

fn line_of(terminal: impl AsFd) -> Option<Secret> {
    let mut line = Zeroizing::new(Vec::with_capacity(LONGEST));
    let mut byte = [0; 1];
    loop {
        match unistd::read(&terminal, &mut byte) {
            Err(nix::errno::Errno::EINTR) => {}
            Ok(1) if byte == *b"\n" => break,
            Ok(1) if line.len() < LONGEST => line.push(byte[0]),
            Ok(1) => {}
            Ok(_) if !line.is_empty() => break,
            Ok(_) | Err(_) => return None,
        }
    }
    byte.zeroize();
    Some(Secret::copied(&line))
}

#[cfg(test)]
mod tests {
    use std::{io::Read, time::Duration};

    use super::*;

    /// A terminal, and the far end of it.
    fn terminal() -> (Terminal, fs::File) {
        let pty = nix::pty::openpty(None, None).unwrap();
        let terminal = Terminal {
            file: Arc::new(fs::File::from(pty.slave)),
            hidden: Hidden::default(),
            pending: None,
        };
        (terminal, fs::File::from(pty.master))
    }

    /// Reads until this is seen, and types the rest.
    fn type_at(
        mut far: fs::File,
        prompt: &'static str,
        typed: &'static str,
    ) -> std::thread::JoinHandle<(String, fs::File)> {
        std::thread::spawn(move || {
            let mut seen = String::new();
            let mut buffer = [0; 256];
            while !seen.ends_with(prompt) {
                let count = far.read(&mut buffer).unwrap();
                seen += &String::from_utf8_lossy(&buffer[..count]);
            }
            far.write_all(typed.as_bytes()).unwrap();
            while !seen.ends_with('\n') {
                let count = far.read(&mut buffer).unwrap();
                seen += &String::from_utf8_lossy(&buffer[..count]);
            }
            (seen, far)
        })
    }

    #[tokio::test]
    async fn what_is_typed_is_read_and_not_shown() {
        let (mut terminal, far) = terminal();
        let far = type_at(far, "password: ", "hunter 2\n");
        let answer = tokio::time::timeout(
            Duration::from_secs(10),
            terminal.ask("\u{1b}[2Jpassword: ", false),
        );
        assert_eq!(answer.await.unwrap().unwrap().expose(), b"hunter 2");
        let (seen, _far) = far.join().unwrap();
        assert_eq!(seen, "password: \r\n");
        let now = termios::tcgetattr(&*terminal.file).unwrap();
        assert!(now.local_flags.contains(LocalFlags::ECHO));
    }

    #[tokio::test]
    async fn question_that_is_given_up_shows_again_what_is_typed() {
        let (mut terminal, _far) = terminal();
        let hidden = terminal.hidden();
        {
            let mut asked = Box::pin(terminal.ask("password: ", false));
            let never = tokio::time::timeout(Duration::from_millis(10), &mut asked);
            assert!(never.await.is_err());
            hidden.end();
        }
        let now = termios::tcgetattr(&*terminal.file).unwrap();
        assert!(now.local_flags.contains(LocalFlags::ECHO));
    }

    #[tokio::test]
    async fn answer_to_a_question_given_up_answers_no_other() {
        let (mut terminal, mut far) = terminal();
        let given_up = terminal.ask("passphrase: ", true);
        let never = tokio::time::timeout(Duration::from_millis(10), given_up);
        assert!(never.await.is_err());
        far.write_all(b"for the jump host\n").unwrap();
        // its reader has it
        while terminal
            .pending
            .as_mut()
            .is_some_and(|line| line.is_empty())
        {
            tokio::task::yield_now().await;
        }
        let far = type_at(far, "password: ", "for the target\n");
        let answer =
            tokio::time::timeout(Duration::from_secs(10), terminal.ask("password: ", false));
        assert_eq!(answer.await.unwrap().unwrap().expose(), b"for the target");
        drop(far.join().unwrap());
    }
}
