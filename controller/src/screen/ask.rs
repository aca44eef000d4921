//! Questions to a person: everything else leaves the terminal alone meanwhile.

use std::{
    io::{self, IsTerminal, Write},
    thread,
};

use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::{Screen, Shown};
use crate::{
    exit::printable,
    local::{
        secret::Secret,
        terminal::{Hidden, Terminal},
    },
    remote::askpass::{Person, Question},
};

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

/// Asks a person one question after the other, until it is dropped.
#[derive(Debug)]
pub struct Asking {
    questions: mpsc::Sender<Person>,
    hidden: Hidden,
    _task: AbortOnDropHandle<()>,
}

impl Asking {
    /// Returns where questions are taken.
    pub fn questions(&self) -> mpsc::Sender<Person> {
        self.questions.clone()
    }

    /// Asks, and waits for the answer; none where somebody does not want to give one.
    pub async fn ask(&self, text: &str, echo: bool) -> Option<Secret> {
        let (answer, answered) = oneshot::channel();
        let text = text.to_owned();
        let question = Question { text, echo, answer };
        self.questions.send(Person::Asked(question)).await.ok()?;
        answered.await.ok()
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        // the task ends a moment later, perhaps after this program
        self.hidden.end();
    }
}

impl Screen {
    /// Whether there is somebody to ask: stdin and stderr are a terminal.
    pub fn can_ask(&self) -> bool {
        io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Begins to ask for secrets, if there is a terminal where somebody could type them; stdin need not be it.
    pub fn asking(&self) -> Option<Asking> {
        let terminal = Terminal::open()?;
        let hidden = terminal.hidden();
        let (questions, asked) = mpsc::channel(1);
        let task = tokio::spawn(attend(self.clone(), terminal, asked));
        Some(Asking {
            questions,
            hidden,
            _task: AbortOnDropHandle::new(task),
        })
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

async fn attend(screen: Screen, mut terminal: Terminal, mut asked: mpsc::Receiver<Person>) {
    while let Some(person) = asked.recv().await {
        match person {
            Person::Told(text) => {
                let _pause = screen.pause();
                terminal.tell(&text);
            }
            Person::Asked(question) => {
                let _pause = screen.pause();
                let Question {
                    text,
                    echo,
                    mut answer,
                } = question;
                let typed = tokio::select! {
                    () = answer.closed() => None,
                    typed = terminal.ask(&text, echo) => typed,
                };
                if let Some(typed) = typed {
                    // whoever asked may have ended just now
                    let _ = answer.send(typed);
                }
            }
        }
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
