//! `landfall check HOST`: the way to the machine, one look at it, and away again.
//!
//! It is no run: nothing is remembered about the host, its lock is not taken, and a run that is open stays as it is. On
//! the machine the agent only looks. It serves nobody, so that one that is at work there is not disturbed.

use std::io::{self, IsTerminal, Write};

use engine::{
    run::Run,
    step::{Context, Done, Repeat, Step},
};
use landfall_proto::{facts::Facts, failure::Failure};
use tokio::sync::OnceCell;

use super::{Wanted, checks, report};
use crate::{
    desk::Desk,
    exit::{Ended, Exit},
    remote::ssh::Ssh,
    request::Request,
    screen::{self, Screen, Style},
    visit::{Errand, Find, Forgetful, Told},
};

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
        Told::Done(facts) => {
            screen.close();
            let checks = checks(&facts, &Wanted::of(&request, &facts));
            let facts = Box::new(facts);
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

async fn drive(request: Request, screen: &Screen) -> Told<Facts> {
    let errand = match Errand::begin(request, "look", None, screen) {
        Ok(errand) => errand,
        Err(failure) => return Told::Failed(failure),
    };
    let look = async |run: &mut Run<Forgetful>, desk: &Desk, way: &OnceCell<Ssh>| {
        run.step(&Find { desk, way }).await?;
        run.step(&Look { desk, way }).await
    };
    errand.run(look, screen).await
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
