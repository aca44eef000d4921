//! Questions to a person: everything else leaves the terminal alone meanwhile.

use std::{
    io::{self, IsTerminal, Write},
    thread,
};

use tokio::sync::oneshot;

use super::{Screen, Shown};
use crate::exit::printable;

/// The terminal, left to whoever holds this. What is told meanwhile is shown afterwards.
#[derive(Debug)]
pub struct Pause {
    screen: Screen,
}

impl Drop for Pause {
    fn drop(&mut self) {
        let mut shared = self.screen.lock();
        for told in shared.held.take().unwrap_or_default() {
            shared.show(told);
        }
    }
}

impl Screen {
    /// Whether there is somebody to ask: stdin and stderr are a terminal.
    pub fn can_ask(&self) -> bool {
        io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Takes the picture away until the answer is dropped.
    pub fn pause(&self) -> Pause {
        let mut shared = self.lock();
        if shared.held.is_none() {
            shared.held = Some(Vec::new());
        }
        if let Shown::Live(live) = &mut shared.kind {
            live.clear();
        }
        drop(shared);
        Pause {
            screen: self.clone(),
        }
    }

    /// Asks a question that is answered by `yes`; anything else, and the end of input, is a no.
    pub async fn ask(&self, question: &str) -> bool {
        let pause = self.pause();
        // nobody sees the question: nobody has agreed
        let mut err = io::stderr();
        let asked = write!(err, "{} [yes/no] ", printable(question)).and_then(|()| err.flush());
        let answer = match asked {
            Ok(()) => read_line().await,
            Err(_) => None,
        };
        drop(pause);
        answer.is_some_and(|line| matches!(line.trim().to_ascii_lowercase().as_str(), "yes" | "y"))
    }
}

/// Reads a line from stdin on a thread of its own: one that waits for a person must not keep the runtime from ending.
async fn read_line() -> Option<String> {
    let (answer, answered) = oneshot::channel();
    let read = move || {
        let mut line = String::new();
        let read = io::stdin().read_line(&mut line);
        // the asker may be gone
        let _ = answer.send(matches!(read, Ok(1..)).then_some(line));
    };
    thread::Builder::new()
        .name("answer".to_owned())
        .spawn(read)
        .ok()?;
    answered.await.ok().flatten()
}
