//! `landfall check HOST`: the way to the machine, one look at it, and away again.
//!
//! It is no run: nothing is remembered about the host, its lock is not taken, and a run that is open stays as it is. On
//! the machine the agent only looks. It serves nobody, so that one that is at work there is not disturbed.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use engine::{
    journal::{Header, Journal, JournalError, Store},
    run::Run,
    step::{Context, Done, Repeat, Step},
};
use landfall_proto::{facts::Facts, failure::Failure, order::RunId};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::{Wanted, checks, report};
use crate::{
    desk::{Desk, Login},
    exit::{Ended, Exit},
    local::{
        keys::Credentials,
        state::{self, RunFolder},
    },
    operate,
    phases::connect::Connect,
    remote::ssh::Ssh,
    request::Request,
    screen::{self, Screen, Style},
};

/// Time for the screen to show the last events.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Looks at the machine, prints what was found, and returns whether it can be installed.
pub async fn check(request: Request) -> Exit {
    let host = request.target.to_string();
    let json = request.output.json;
    // stdout has the one object, so events are for people
    let mut output = request.output;
    output.json = false;
    let screen = Screen::new(Style::choose(output), &request.target.host);
    for warning in request.warnings() {
        screen.warning(&warning);
    }
    let (looked, ended) = match drive(request.clone(), &screen).await {
        Told::Seen(facts) => {
            screen.close();
            let checks = checks(&facts, &Wanted::of(&request, &facts));
            (report::Looked::Seen { facts, checks }, None)
        }
        Told::Failed(failure) => {
            let ended = Ended::failed(failure.clone(), &screen.trail());
            (report::Looked::Failed(failure), Some(ended))
        }
        Told::Stopped => {
            let ended = Ended::interrupted(&screen.trail());
            let failure = ended
                .failure
                .clone()
                .unwrap_or_else(|| Failure::new("stopped").code("LF0480"));
            (report::Looked::Failed(failure), Some(ended))
        }
    };
    if let Some(ended) = &ended {
        screen.end(ended, None);
    }
    print(&looked, &host, json);
    match (&ended, looked.is_ready()) {
        (Some(ended), _) => ended.exit,
        (None, true) => Exit::Done,
        (None, false) => Exit::Untouched,
    }
}

fn print(looked: &report::Looked, host: &str, json: bool) {
    let color = io::stdout().is_terminal() && screen::colors();
    let text = match looked {
        _ if json => looked.json(host) + "\n",
        report::Looked::Seen { facts, checks } => {
            report::lines(host, facts, checks, color).join("\n") + "\n"
        }
        report::Looked::Failed(_) => return,
    };
    let mut out = io::stdout();
    // nobody reads: the exit code says it too
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

enum Told {
    Seen(Box<Facts>),
    Failed(Failure),
    Stopped,
}

async fn drive(request: Request, screen: &Screen) -> Told {
    let (mut run, desk, _folder) = match set_up(request, screen) {
        Ok(set_up) => set_up,
        Err(failure) => return Told::Failed(failure),
    };
    let shown = tokio::spawn(screen::show(
        run.board(),
        desk.view.subscribe(),
        screen.clone(),
    ));
    let way = OnceCell::new();
    let story = async {
        run.step(&Find {
            desk: &desk,
            way: &way,
        })
        .await?;
        let facts = run
            .step(&Look {
                desk: &desk,
                way: &way,
            })
            .await?;
        run.finish()?;
        Ok(facts)
    };
    let told = tokio::select! {
        biased;
        () = operate::stopped() => Told::Stopped,
        told = story => match told {
            Ok(facts) => Told::Seen(Box::new(facts)),
            Err(failure) => Told::Failed(failure),
        },
    };
    tokio::select! {
        () = desk.leave() => {}
        () = operate::stopped() => screen.note("the agent may still be on the machine"),
    }
    // a look that was stopped has no last event
    if !matches!(told, Told::Stopped) {
        let _ = tokio::time::timeout(LAST_WORDS, shown).await;
    }
    told
}

type SetUp = (Run<Forgetful>, Desk, state::SocketFolder);

fn set_up(request: Request, screen: &Screen) -> Result<SetUp, Failure> {
    let folder = state::socket_folder()?;
    let path = folder.path().to_owned();
    let login = Login::open(&request, &path, String::new(), screen)?;
    let run = RunId::from_bytes(rand::random());
    let header = Header::new(run.clone(), &["connect", "look"], String::new(), 0);
    let journal = Journal::begin(Forgetful, header).expect("what is forgotten cannot fail");
    let run_of = Run::begin(journal, CancellationToken::new())?;
    let desk = Desk::new(
        request,
        run,
        RunFolder::passing(path.clone()),
        path,
        Credentials::make()?,
        login,
        screen.clone(),
    );
    Ok((run_of, desk, folder))
}

/// A journal of which nothing is read again.
pub(crate) struct Forgetful;

impl Store for Forgetful {
    fn append(&mut self, _: &[u8]) -> Result<(), JournalError> {
        Ok(())
    }
}

/// Finds the machine, and believes its host key or not.
struct Find<'a> {
    desk: &'a Desk,
    way: &'a OnceCell<Ssh>,
}

impl Step for Find<'_> {
    const NAME: &'static str = "connect";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = ();

    async fn run(&self, cx: &Context) -> Result<Done<()>, Failure> {
        let connect = Connect { desk: self.desk };
        let (way, warning) = match connect.left().await {
            Some(left) => {
                self.desk.pin_left()?;
                (left, None)
            }
            None => {
                let warning = connect.trust(cx).await?;
                (self.desk.pinned(self.desk.ssh()), warning)
            }
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

/// Lets the agent look.
struct Look<'a> {
    desk: &'a Desk,
    way: &'a OnceCell<Ssh>,
}

impl Step for Look<'_> {
    const NAME: &'static str = "look";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = Facts;

    async fn run(&self, cx: &Context) -> Result<Done<Facts>, Failure> {
        let way = self.way.get().expect("the machine was found before");
        Ok(Done::new(self.desk.look(way.clone(), cx).await?))
    }

    async fn still_true(&self, _: &Facts) -> bool {
        false
    }
}
