//! Commands that go to a machine and install nothing there: they find the machine, and an agent that may be at work.
//!
//! Such an errand is no run: nothing of it is remembered, and what is on record is only read. Neither does it bring an
//! agent or disturb one. What is done about the one that is found is in [`status`], [`watch`] and [`cancel`].

mod cancel;
mod status;
mod watch;

use std::time::Duration;

use engine::{
    journal::{Header, Journal, JournalError, Store},
    run::Run,
    step::{Context, Done, Repeat, Step},
};
use landfall_proto::{
    event::{Event, Kind},
    failure::Failure,
    order::{DiskoMode, RunId},
    report::RunState,
};
use tokio::sync::{OnceCell, watch::Receiver};
use tokio_util::sync::CancellationToken;

pub use self::{cancel::cancel, status::status, watch::watch};
use crate::{
    cli::{self, Environment, Stop, Task},
    desk::{Desk, Login},
    exit::Trail,
    local::{
        keys::Credentials,
        record::Record,
        said::Said,
        signals::stopped,
        state::{self, RunFolder},
    },
    phases::connect::Connect,
    remote::{link::LinkView, ssh::Ssh, upload},
    request::{Request, Visit},
    screen::{self, Screen},
};

/// Time for the screen to show the last events.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// One way to a machine and back.
#[derive(Debug)]
pub(crate) struct Errand {
    run: Run<Forgetful>,
    desk: Desk,
    way: OnceCell<Ssh>,
    _folder: state::SocketFolder,
}

/// What came of an errand.
#[derive(Debug)]
pub(crate) enum Told<T> {
    Done(T),
    Failed(Failure),
    Stopped,
}

impl Errand {
    /// Prepares for an errand of two steps: to find the machine, and what is to be done then.
    ///
    /// What is on record of a run lets in and is believed, and stays as it is.
    pub(crate) fn begin(
        request: Request,
        step: &str,
        run: Option<(&RunId, &RunFolder)>,
        screen: &Screen,
    ) -> Result<Self, Failure> {
        let folder = state::socket_folder()?;
        let path = folder.path().to_owned();
        let login = Login::open(&request, &path, String::new(), screen)?;
        let own = RunFolder::passing(path.clone());
        let (id, kept) = match run {
            Some((id, folder)) => {
                folder.lend(&own)?;
                (id.clone(), Credentials::kept(&folder.credentials())?)
            }
            None => (RunId::from_bytes(rand::random()), None),
        };
        let credentials = match kept {
            Some(kept) => kept,
            None => Credentials::make()?,
        };
        let header = Header::new(id.clone(), &["connect", step], String::new(), 0);
        let journal = Journal::begin(Forgetful, header).expect("what is forgotten cannot fail");
        let run = Run::begin(journal, CancellationToken::new())?;
        let desk = Desk::new(request, id, own, path, credentials, login, screen.clone());
        Ok(Self {
            run,
            desk,
            way: OnceCell::new(),
            _folder: folder,
        })
    }

    /// Returns how the link is, until the end.
    pub(crate) fn view(&self) -> Receiver<LinkView> {
        self.desk.view.subscribe()
    }

    /// Runs it and shows it, until it is over or somebody stops it.
    pub(crate) async fn run<T>(
        self,
        story: impl AsyncFnOnce(&mut Run<Forgetful>, &Desk, &OnceCell<Ssh>) -> Result<T, Failure>,
        screen: &Screen,
    ) -> Told<T> {
        let Self {
            mut run, desk, way, ..
        } = self;
        let shown = tokio::spawn(screen::show(
            run.board(),
            desk.view.subscribe(),
            screen.clone(),
        ));
        let story = async {
            let found = story(&mut run, &desk, &way).await?;
            run.finish()?;
            Ok(found)
        };
        let told = tokio::select! {
            biased;
            () = stopped() => Told::Stopped,
            told = story => match told {
                Ok(found) => Told::Done(found),
                Err(failure) => Told::Failed(failure),
            },
        };
        tokio::select! {
            _ = desk.leave() => {}
            () = stopped() => screen.note("the agent may still be on the machine"),
        }
        // an errand that was stopped has no last event
        if !matches!(told, Told::Stopped) {
            let _ = tokio::time::timeout(LAST_WORDS, shown).await;
        }
        told
    }
}

/// A journal of which nothing is read again.
#[derive(Debug)]
pub(crate) struct Forgetful;

impl Store for Forgetful {
    fn append(&mut self, _: &[u8]) -> Result<(), JournalError> {
        Ok(())
    }
}

/// Finds the machine, and believes its host key or not.
#[derive(Debug)]
pub(crate) struct Find<'a> {
    pub(crate) desk: &'a Desk,
    pub(crate) way: &'a OnceCell<Ssh>,
}

impl Step for Find<'_> {
    const NAME: &'static str = "connect";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = ();

    async fn run(&self, cx: &Context) -> Result<Done<()>, Failure> {
        let desk = self.desk;
        let connect = Connect { desk };
        let (way, warning) = if desk.is_pinned() {
            (self.known(&connect, cx).await, None)
        } else if let Some(left) = connect.left().await {
            desk.pin_left()?;
            (left, None)
        } else {
            let warning = connect.trust(cx).await?;
            (desk.pinned(desk.ssh()), warning)
        };
        self.way.set(way).expect("the machine is found once");
        Ok(match warning {
            Some(warning) => Done::warned((), warning),
            None => Done::new(()),
        })
    }

    async fn still_true(&self, (): &()) -> bool {
        false
    }
}

impl Find<'_> {
    /// Returns the way that opens to a machine that a run has known: as installer, as it was before, as what is installed.
    async fn known(&self, connect: &Connect<'_>, cx: &Context) -> Ssh {
        cx.waiting("an answer");
        let desk = self.desk;
        let named = desk.pinned(desk.ssh());
        let mut ways = vec![desk.installer_ssh(), named.clone()];
        ways.extend(connect.left().await);
        ways.extend(desk.booted_ssh());
        for way in ways {
            if upload::probe(&way).await.is_ok() {
                return way;
            }
        }
        // asked once more, it says why not
        named
    }
}

/// Reads the command again that began the run on record, to which the words of this one are added.
///
/// Goes to the folder where it was given: to be called before there are threads.
pub fn recall(visit: &Visit, environment: &Environment) -> Result<Recalled, Failure> {
    let record = Record::of(&visit.request.on_record())?;
    let Some(open) = record.and_then(|record| record.open) else {
        return Ok(Recalled::Nothing);
    };
    let cannot = || {
        Failure::new("cannot read the command on record again")
            .hint("give the command itself again: it goes on with the run")
            .code("LF0912")
    };
    let said = open
        .said
        .ok_or_else(|| cannot().because("it was not kept, since it has words that are no text"))?;
    match cli::read(&said.recall()?, environment) {
        Ok(Task::Install(request)) => Ok(Recalled::Run(
            Box::new(visit.over(*request)),
            Box::new(said),
        )),
        Ok(_) => Err(cannot().because("it does not install")),
        Err(Stop::Sense(failure)) => Err(failure),
        Err(Stop::Words(error)) => Err(cannot().caused_by(&error)),
    }
}

/// What is on record of a command.
#[derive(Debug)]
pub enum Recalled {
    /// No run is open.
    Nothing,
    /// A run is: what it asks for, and the words that did.
    Run(Box<Request>, Box<Said>),
}

/// Returns what has happened to a machine by what is on record, and by what its agent told where it was asked.
fn trail(record: Option<&Record>, agent: Option<&[Event]>, mode: DiskoMode) -> Trail {
    let mut trail = Trail::default();
    trail.set_disko_mode(mode);
    let mut ended = true;
    for event in record.iter().flat_map(|record| &record.events) {
        if event.kind == Kind::Resumed && agent.is_none() {
            trail.missed_some();
        }
        ended = event.step.is_none() && event.kind.is_terminal();
        trail.take(event);
    }
    match agent {
        None if !ended => trail.missed_some(),
        None => {}
        Some(events) => {
            for event in events {
                let step = event.step.as_ref().map(|step| format!("agent/{step}"));
                trail.take(&Event {
                    step,
                    ..event.clone()
                });
            }
        }
    }
    trail
}

/// Returns the state of what is on record.
fn fold(record: &Record) -> RunState {
    let mut state = RunState::default();
    for event in &record.events {
        // what does not follow was refused when it was written
        let _ = state.apply(event);
    }
    state
}

/// Says that there is no run, where one is needed.
fn nothing(host: &str, what: &str) -> Failure {
    Failure::new(format!("cannot {what} {host}"))
        .because("no run is on record here, and no agent works on one there")
        .hint("name the machine as the command that installs does, with its port")
        .code("LF0911")
}

#[cfg(test)]
mod tests {
    use landfall_proto::event::Outcome;

    use super::*;
    use crate::exit::MachineState;

    fn event(index: u64, step: Option<&str>, kind: Kind) -> Event {
        Event {
            index,
            light: None,
            at_ms: 0,
            step: step.map(str::to_owned),
            kind,
        }
    }

    fn record(events: Vec<Event>) -> Record {
        Record {
            run: RunId::from_bytes([7; 16]),
            open: None,
            folder: RunFolder::passing("/nonexistent".into()),
            began: 0,
            events,
        }
    }

    #[test]
    fn what_nobody_was_asked_about_counts_as_done() {
        let record = record(vec![
            event(
                0,
                None,
                Kind::RunStarted {
                    steps: vec!["disko".into()],
                },
            ),
            event(1, Some("disko"), Kind::StepStarted { attempt: 1 }),
        ]);
        let state = |agent: Option<&[Event]>| trail(Some(&record), agent, DiskoMode::Disko).state();
        assert_eq!(state(None), MachineState::Erased);
        assert_eq!(state(Some(&[])), MachineState::Installer);
        let begun = event(1, Some("format"), Kind::StepStarted { attempt: 1 });
        assert_eq!(state(Some(&[begun])), MachineState::Erased);
    }

    #[test]
    fn agent_alone_says_where_the_machine_stands() {
        let outcome = Outcome::Done;
        let events = [event(1, Some("install"), Kind::StepFinished { outcome })];
        let trail = trail(None, Some(&events), DiskoMode::Disko);
        assert_eq!(trail.state(), MachineState::Installed);
    }
}
