//! Landfall is its own `SSH_ASKPASS` helper: what ssh asks is answered by what is known, or by a person.
//!
//! ssh runs the program that `SSH_ASKPASS` names with the question as its argument, and reads the answer from its stdout
//! (ssh(1)). That program is this one: [`help`] hands the question over a socket to the landfall that started ssh. So a
//! secret is in no argument, no environment and no file, and a person is asked once for all logins of a run. Start at
//! [`Asker`]; what a question means is in [`Asked::read`].

use std::{
    collections::HashMap,
    ffi::OsString,
    io::{self, Read, Write},
    os::unix::net::UnixStream as Stream,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use landfall_proto::failure::Failure;
use secrecy::zeroize::Zeroizing;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    process::{Child, Command},
    sync::{mpsc, oneshot},
};
use tokio_util::task::AbortOnDropHandle;

use super::classify::Trouble;
use crate::local::secret::Secret;

/// Variable with the path of the socket; who has it and one argument is a helper.
const SOCKET: &str = "LANDFALL_ASKPASS";
/// Set by ssh: `none` for what is only to be seen, `confirm` for a yes or no.
const HINT: &str = "SSH_ASKPASS_PROMPT";
/// Longest question; keyboard-interactive servers write pages.
const LONGEST: u64 = 64 << 10;
/// Stands before an answer. Without it there is none.
const ANSWER: u8 = b'+';
/// How often a person is asked for the same secret by one ssh.
const TRIES: u32 = 3;

/// A question for a person.
#[derive(Debug)]
pub struct Question {
    /// What is asked. Ends where the answer begins.
    pub text: String,
    /// Whether the answer may be seen.
    pub echo: bool,
    /// Takes the answer; dropped when there is none. Closed when nobody waits for it any more.
    pub answer: oneshot::Sender<Secret>,
}

/// What a person is to hear.
#[derive(Debug)]
pub enum Person {
    /// A question.
    Asked(Question),
    /// Something to be done elsewhere, such as a touch of a security key.
    Told(String),
}

/// Answers ssh's questions for as long as it or a clone of it is there.
#[derive(Debug, Clone)]
pub struct Asker {
    shared: Arc<Shared>,
    program: PathBuf,
    socket: PathBuf,
    _listening: Arc<AbortOnDropHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// The machine as a person knows it: ssh asks by the name under which its key is pinned.
    host: String,
    password: Option<Secret>,
    person: Option<mpsc::Sender<Person>>,
    /// ssh children of ours that run, and whether they were given a password to log in.
    children: Mutex<HashMap<u32, Arc<AtomicBool>>>,
    /// By whom what was asked.
    asked: Mutex<HashMap<(u32, Key), Times>>,
    memory: tokio::sync::Mutex<Memory>,
}

/// What is known by now. Held while a person is asked, so that nobody is asked the same twice.
#[derive(Debug, Default)]
struct Memory {
    /// Answers and their numbers.
    known: HashMap<Key, (u64, Secret)>,
    answers: u64,
}

/// How often one process has asked the same, and the number of the answer that it got last.
#[derive(Debug, Clone, Copy, Default)]
struct Times {
    asked: u32,
    given: Option<u64>,
}

/// What an answer is good for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    /// Logging in to the target as this user, whatever the target is called.
    Login(String),
    /// This very question: the passphrase of one key, the password of one jump host.
    Text(String),
}

/// What the helper hands over.
#[derive(Debug, Serialize, Deserialize)]
struct Handed {
    /// The process that asks.
    asking: u32,
    hint: String,
    prompt: String,
}

/// A question of ssh, understood.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// Nothing is asked.
    Notice,
    /// The password of a user.
    Password { user: String },
    /// What stays the same for a whole run: a passphrase, a PIN.
    Lasting,
    /// What is different each time: a code, a yes or no.
    Once { echo: bool },
}

/// An ssh child that may ask; gone when it has ended.
#[derive(Debug)]
pub(super) struct Ticket {
    shared: Arc<Shared>,
    process: Option<u32>,
    given: Arc<AtomicBool>,
}

impl Asker {
    /// Begins to answer on a socket in this folder, which nobody else can enter.
    ///
    /// `password` is for logging in to `host`, and given once to each ssh. Whatever is not known is asked of `person`.
    pub fn listen(
        folder: &Path,
        host: &str,
        password: Option<Secret>,
        person: Option<mpsc::Sender<Person>>,
    ) -> Result<Self, Failure> {
        let cannot = |error: &io::Error| {
            Failure::new("cannot answer what ssh may ask")
                .code("LF0423")
                .because(format!("listening in {}", folder.display()))
                .caused_by(error)
        };
        let socket = folder.join("askpass");
        let listener = UnixListener::bind(&socket).map_err(|error| cannot(&error))?;
        let program = std::env::current_exe().map_err(|error| cannot(&error))?;
        let shared = Arc::new(Shared {
            host: host.to_owned(),
            password,
            person,
            children: Mutex::default(),
            asked: Mutex::default(),
            memory: tokio::sync::Mutex::default(),
        });
        let listening = tokio::spawn(listen(listener, Arc::clone(&shared)));
        Ok(Self {
            shared,
            program,
            socket,
            _listening: Arc::new(AbortOnDropHandle::new(listening)),
        })
    }

    /// Whether there is a person to ask.
    pub fn has_person(&self) -> bool {
        self.shared.person.is_some()
    }

    /// Whether a password was known from the start.
    pub fn has_password(&self) -> bool {
        self.shared.password.is_some()
    }

    /// Starts an ssh that asks here.
    pub(super) fn spawn(&self, command: &mut Command) -> io::Result<(Child, Ticket)> {
        command.envs(self.environment());
        // whoever answers finds the child in the list, however fast it asks
        let mut children = self.shared.children();
        let child = command.spawn()?;
        let given = Arc::new(AtomicBool::new(false));
        let process = child.id();
        if let Some(process) = process {
            children.insert(process, Arc::clone(&given));
        }
        drop(children);
        let shared = Arc::clone(&self.shared);
        Ok((
            child,
            Ticket {
                shared,
                process,
                given,
            },
        ))
    }

    fn environment(&self) -> [(&'static str, OsString); 3] {
        [
            ("SSH_ASKPASS", self.program.clone().into()),
            ("SSH_ASKPASS_REQUIRE", "force".into()),
            (SOCKET, self.socket.clone().into()),
        ]
    }
}

impl Ticket {
    /// Says what a trouble means, knowing whether a password was given.
    pub(super) fn judge(ticket: Option<&Self>, trouble: Trouble) -> Trouble {
        let given = ticket.is_some_and(|ticket| ticket.given.load(Ordering::Relaxed));
        match trouble {
            Trouble::AuthRefused if given => Trouble::PasswordRefused,
            trouble => trouble,
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(process) = self.process {
            self.shared.children().remove(&process);
            // another process may get its number
            self.shared
                .asked()
                .retain(|(asking, _), _| *asking != process);
        }
    }
}

async fn listen(listener: UnixListener, shared: Arc<Shared>) {
    let mut tasks = tokio::task::JoinSet::new();
    // an end of listening is an end of answers: ssh says what it missed
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tasks.spawn(async move {
            // a helper that is gone needs no answer
            let _ = serve(stream, &shared).await;
        });
        while tasks.try_join_next().is_some() {}
    }
}

async fn serve(mut stream: UnixStream, shared: &Shared) -> io::Result<()> {
    let ours = nix::unistd::geteuid().as_raw();
    if stream.peer_cred()?.uid() != ours {
        return Ok(());
    }
    let (read, mut write) = stream.split();
    let mut read = BufReader::new(read.take(LONGEST));
    let mut line = String::new();
    read.read_line(&mut line).await?;
    let handed: Handed = serde_json::from_str(&line)?;
    let mut gone = [0; 1];
    let answer = tokio::select! {
        // its ssh has ended, so nobody needs the answer
        _ = read.read(&mut gone) => None,
        answer = shared.answer(&handed) => answer,
    };
    if let Some(answer) = answer {
        write.write_all(&[ANSWER]).await?;
        write.write_all(answer.expose()).await?;
    }
    write.shutdown().await
}

impl Shared {
    fn children(&self) -> MutexGuard<'_, HashMap<u32, Arc<AtomicBool>>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, handed: &Handed) -> Option<Secret> {
        let asked = Asked::read(&handed.prompt, &handed.hint);
        // one that is not ours was started by ours, for a jump host
        let child = self.children().get(&handed.asking).cloned();
        let key = match (&asked, &child) {
            (Asked::Notice, _) => {
                self.tell(&handed.prompt).await;
                // the helper is ended when it has been done
                return std::future::pending().await;
            }
            (Asked::Once { echo }, _) => return self.ask(handed.prompt.clone(), *echo).await,
            (Asked::Password { user }, Some(_)) => Key::Login(user.clone()),
            _ => Key::Text(handed.prompt.clone()),
        };
        let answer = self.lasting(handed, key.clone()).await;
        if let (Some(child), Some(_), Key::Login(_)) = (child, &answer, &key) {
            child.store(true, Ordering::Relaxed);
        }
        answer
    }

    fn asked(&self) -> MutexGuard<'_, HashMap<(u32, Key), Times>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers what has one answer for the whole run.
    async fn lasting(&self, handed: &Handed, key: Key) -> Option<Secret> {
        let mut memory = self.memory.lock().await;
        let by = (handed.asking, key.clone());
        let before = {
            let mut asked = self.asked();
            let times = asked.entry(by.clone()).or_default();
            times.asked += 1;
            Times {
                asked: times.asked - 1,
                ..*times
            }
        };
        // whoever asks again was given the wrong answer, unless somebody else has found a better one since
        let is_wrong = |number: u64| before.given == Some(number);
        let known = memory.known.get(&key).cloned();
        let (number, secret) = match known.filter(|(number, _)| !is_wrong(*number)) {
            Some(known) => known,
            None => {
                memory.known.remove(&key);
                let secret = self.find(&key, before).await?;
                memory.answers += 1;
                let answer = (memory.answers, secret);
                memory.known.insert(key, answer.clone());
                answer
            }
        };
        if let Some(times) = self.asked().get_mut(&by) {
            times.given = Some(number);
        }
        Some(secret)
    }

    /// Finds an answer that is not known yet, or was wrong.
    async fn find(&self, key: &Key, before: Times) -> Option<Secret> {
        if let (Some(password), Key::Login(_)) = (&self.password, key) {
            return (before.asked == 0).then(|| password.clone());
        }
        let gave_none = before.asked > 0 && before.given.is_none();
        if gave_none || before.asked >= TRIES {
            return None;
        }
        let again = if before.asked > 0 {
            "That is not right.\n"
        } else {
            ""
        };
        let text = match key {
            Key::Login(user) => format!("{user}@{}'s password: ", self.host),
            Key::Text(text) => text.clone(),
        };
        self.ask(format!("{again}{text}"), false).await
    }

    async fn ask(&self, text: String, echo: bool) -> Option<Secret> {
        let (answer, answered) = oneshot::channel();
        let question = Question { text, echo, answer };
        let person = self.person.as_ref()?;
        person.send(Person::Asked(question)).await.ok()?;
        answered.await.ok()
    }

    async fn tell(&self, text: &str) {
        if let Some(person) = &self.person {
            // nobody listens any more: then nobody waits either
            let _ = person.send(Person::Told(text.to_owned())).await;
        }
    }
}

impl Asked {
    /// Reads what ssh asks; its words are those of OpenSSH 8.5 to 10.
    fn read(prompt: &str, hint: &str) -> Self {
        if hint == "none" {
            return Self::Notice;
        }
        if let Some((user, _)) = prompt
            .strip_suffix("'s password: ")
            .and_then(|who| who.rsplit_once('@'))
        {
            return Self::Password {
                user: user.to_owned(),
            };
        }
        // keyboard-interactive: `(user@host) ` and the server's own words
        if let Some((who, words)) = prompt.strip_prefix('(').and_then(|p| p.split_once(") "))
            && let Some((user, _)) = who.rsplit_once('@')
        {
            let words = words.trim().to_ascii_lowercase();
            if words == "password:" || words.starts_with("password for ") {
                return Self::Password {
                    user: user.to_owned(),
                };
            }
        }
        if ["Enter passphrase for ", "Enter PIN for "]
            .iter()
            .any(|begin| prompt.starts_with(begin))
        {
            return Self::Lasting;
        }
        Self::Once {
            echo: hint == "confirm" || prompt.contains("(yes/no"),
        }
    }
}

/// Does what a helper does, where this process is one: hands the question over, and prints the answer.
///
/// Returns none in every other process.
pub fn help() -> Option<ExitCode> {
    let socket = std::env::var_os(SOCKET)?;
    let mut arguments = std::env::args_os().skip(1);
    let (Some(prompt), None) = (arguments.next(), arguments.next()) else {
        return None;
    };
    let answered = hand_over(Path::new(&socket), &prompt.to_string_lossy());
    Some(match answered {
        Ok(()) => ExitCode::SUCCESS,
        // ssh takes this for no answer
        Err(_) => ExitCode::FAILURE,
    })
}

fn hand_over(socket: &Path, prompt: &str) -> io::Result<()> {
    // whoever waits for the end of what ssh says does not wait for this process
    let null = std::fs::OpenOptions::new().write(true).open("/dev/null")?;
    nix::unistd::dup2_stderr(&null)?;
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)?;
    let asking = nix::unistd::getppid().as_raw();
    let handed = Handed {
        asking: u32::try_from(asking).unwrap_or_default(),
        hint: std::env::var(HINT).unwrap_or_default(),
        prompt: prompt.to_owned(),
    };
    let mut stream = Stream::connect(socket)?;
    let mut line = serde_json::to_vec(&handed)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    // no buffer of the standard library comes between: nobody would overwrite it
    let mut first = [0];
    stream.read_exact(&mut first)?;
    let mut answer = Zeroizing::new(Vec::with_capacity(4096));
    stream.read_to_end(&mut answer)?;
    // a line is what ssh reads; an answer has no other
    answer.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&answer)?;
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn questions_of_openssh_are_understood() {
        let password = |user: &str| Asked::Password {
            user: user.to_owned(),
        };
        let check = |prompt: &str, asked: Asked| assert_eq!(Asked::read(prompt, ""), asked);
        check("op@192.0.2.7's password: ", password("op"));
        check("a@corp@h's password: ", password("a@corp"));
        check("(nixos@landfall-07) Password: ", password("nixos"));
        check("(op@h) Password for op@target:", password("op"));
        check(
            "Enter passphrase for key '/home/me/.ssh/id_ed25519': ",
            Asked::Lasting,
        );
        check("Enter PIN for ED25519-SK key /k: ", Asked::Lasting);
        check("(op@h) Verification code: ", Asked::Once { echo: false });
        check("(op@h) New password: ", Asked::Once { echo: false });
        check(
            "Are you sure you want to continue connecting (yes/no/[fingerprint])? ",
            Asked::Once { echo: true },
        );
        let touch = "Confirm user presence for key ED25519-SK SHA256:x";
        assert_eq!(Asked::read(touch, "none"), Asked::Notice);
    }

    /// Somebody who gives these answers, one after the other, and then none.
    fn person(answers: &[&str]) -> (mpsc::Sender<Person>, Arc<Mutex<Vec<String>>>) {
        let (sender, mut questions) = mpsc::channel(1);
        let heard = Arc::new(Mutex::new(Vec::new()));
        let mut answers: std::collections::VecDeque<_> = answers
            .iter()
            .map(|a| Secret::copied(a.as_bytes()))
            .collect();
        let hears = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Some(Person::Asked(question)) = questions.recv().await {
                hears.lock().unwrap().push(question.text);
                if let Some(answer) = answers.pop_front() {
                    question.answer.send(answer).unwrap();
                }
            }
        });
        (sender, heard)
    }

    fn shared(password: Option<&str>, person: Option<mpsc::Sender<Person>>) -> Shared {
        Shared {
            host: "h".to_owned(),
            password: password.map(|text| Secret::copied(text.as_bytes())),
            person,
            children: Mutex::new([7, 8].map(|id| (id, Arc::default())).into()),
            asked: Mutex::default(),
            memory: tokio::sync::Mutex::default(),
        }
    }

    async fn said(shared: &Shared, asking: u32, prompt: &str) -> Option<String> {
        let handed = Handed {
            asking,
            hint: String::new(),
            prompt: prompt.to_owned(),
        };
        let answer = shared.answer(&handed).await?;
        Some(String::from_utf8(answer.expose().to_vec()).unwrap())
    }

    const LOGIN: &str = "op@h's password: ";
    const PINNED: &str = "op@landfall-0123's password: ";

    #[tokio::test]
    async fn password_is_asked_once_for_all_logins() {
        let (sender, heard) = person(&["right"]);
        let shared = shared(None, Some(sender));
        assert_eq!(said(&shared, 7, LOGIN).await.as_deref(), Some("right"));
        assert_eq!(said(&shared, 8, PINNED).await.as_deref(), Some("right"));
        assert_eq!(*heard.lock().unwrap(), [LOGIN]);
    }

    #[tokio::test]
    async fn wrong_password_is_asked_again_and_not_for_ever() {
        let (sender, heard) = person(&["a", "b", "c", "d"]);
        let shared = shared(None, Some(sender));
        for answer in [Some("a"), Some("b"), Some("c"), None] {
            assert_eq!(said(&shared, 7, LOGIN).await.as_deref(), answer);
        }
        assert_eq!(
            heard.lock().unwrap()[1],
            format!("That is not right.\n{LOGIN}")
        );
    }

    #[tokio::test]
    async fn password_that_was_right_later_is_kept() {
        let (sender, heard) = person(&["wrong", "right"]);
        let shared = shared(None, Some(sender));
        assert_eq!(said(&shared, 7, LOGIN).await.as_deref(), Some("wrong"));
        assert_eq!(said(&shared, 8, LOGIN).await.as_deref(), Some("wrong"));
        assert_eq!(said(&shared, 7, LOGIN).await.as_deref(), Some("right"));
        assert_eq!(said(&shared, 8, LOGIN).await.as_deref(), Some("right"));
        assert_eq!(heard.lock().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn given_password_is_tried_once_by_each_login_and_nobody_is_asked() {
        let (sender, heard) = person(&["other"]);
        let shared = shared(Some("given"), Some(sender));
        assert_eq!(said(&shared, 7, LOGIN).await.as_deref(), Some("given"));
        assert_eq!(said(&shared, 7, LOGIN).await, None);
        assert_eq!(said(&shared, 8, PINNED).await.as_deref(), Some("given"));
        assert!(heard.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn jump_host_does_not_get_the_password_of_the_machine() {
        let shared = shared(Some("given"), None);
        assert_eq!(said(&shared, 99, "op@jump's password: ").await, None);
    }

    #[tokio::test]
    async fn who_gives_no_answer_is_not_asked_again() {
        let (sender, heard) = person(&[]);
        let shared = shared(None, Some(sender));
        assert_eq!(said(&shared, 7, LOGIN).await, None);
        assert_eq!(said(&shared, 7, LOGIN).await, None);
        assert_eq!(heard.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn codes_are_asked_each_time_and_passphrases_once() {
        let (sender, heard) = person(&["1", "2", "phrase"]);
        let shared = shared(None, Some(sender));
        let code = "(op@h) Verification code: ";
        assert_eq!(said(&shared, 7, code).await.as_deref(), Some("1"));
        assert_eq!(said(&shared, 8, code).await.as_deref(), Some("2"));
        let key = "Enter passphrase for key '/k': ";
        assert_eq!(said(&shared, 7, key).await.as_deref(), Some("phrase"));
        assert_eq!(said(&shared, 8, key).await.as_deref(), Some("phrase"));
        assert_eq!(heard.lock().unwrap().len(), 3);
    }

    #[tokio::test]
    async fn login_that_was_given_a_password_is_judged_by_it() {
        let folder = tempfile::tempdir().unwrap();
        let password = Secret::copied(b"given");
        let asker = Asker::listen(folder.path(), "h", Some(password), None).unwrap();
        let mut command = Command::new("sleep");
        command.arg("60").kill_on_drop(true);
        let (child, ticket) = asker.spawn(&mut command).unwrap();
        let judge = || Ticket::judge(Some(&ticket), Trouble::AuthRefused);
        assert_eq!(judge(), Trouble::AuthRefused);
        // what a helper does, over the socket
        let handed = Handed {
            asking: child.id().unwrap(),
            hint: String::new(),
            prompt: LOGIN.to_owned(),
        };
        let mut helper = UnixStream::connect(&asker.socket).await.unwrap();
        let line = serde_json::to_string(&handed).unwrap() + "\n";
        helper.write_all(line.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read = helper.read_to_string(&mut answer);
        tokio::time::timeout(Duration::from_secs(10), read)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(answer, "+given");
        assert_eq!(judge(), Trouble::PasswordRefused);
        assert!(!format!("{asker:?}").contains("given\""));
    }
}
