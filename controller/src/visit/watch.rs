//! `landfall attach HOST` where nothing is on record: follows a run that somebody else drives, and disturbs nobody.

use engine::{
    run::Run,
    step::{Context, Done, Repeat, Step},
};
use landfall_proto::{
    event::Event,
    failure::{Contact, Failure},
    order::RunId,
    report::{End, RunState},
};
use tokio::sync::OnceCell;

use super::{Errand, Find, Forgetful, Told, nothing};
use crate::{
    desk::Desk,
    exit::{Ended, Exit},
    remote::ssh::Ssh,
    request::Request,
    screen::{Screen, Style},
};

/// Follows the run that is under way on a machine to its end, and returns how it ended.
pub async fn watch(request: Request) -> Exit {
    let screen = Screen::new(Style::choose(request.output), &request.target.host);
    for warning in request.warnings() {
        screen.warning(&warning);
    }
    let ended = match follow(request, &screen).await {
        Told::Done(()) => Ended::done(&screen.trail()),
        Told::Stopped => Ended::interrupted(&screen.trail()),
        Told::Failed(failure) if matches!(failure.contact, Contact::Lost | Contact::Gone) => {
            Ended::lost(failure, &screen.trail())
        }
        Told::Failed(failure) => Ended::failed(failure, &screen.trail()),
    };
    screen.end(&ended, None);
    ended.exit
}

async fn follow(request: Request, screen: &Screen) -> Told<()> {
    let errand = match Errand::begin(request, "watch", None, screen) {
        Ok(errand) => errand,
        Err(failure) => return Told::Failed(failure),
    };
    let watch = async |run: &mut Run<Forgetful>, desk: &Desk, way: &OnceCell<Ssh>| {
        run.step(&Find { desk, way }).await?;
        run.step(&Watch { desk, way }).await
    };
    errand.run(watch, screen).await
}

/// Watches the agent's run.
struct Watch<'a> {
    desk: &'a Desk,
    way: &'a OnceCell<Ssh>,
}

impl Step for Watch<'_> {
    const NAME: &'static str = "watch";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = ();

    async fn run(&self, cx: &Context) -> Result<Done<()>, Failure> {
        let request = &self.desk.request;
        let way = self.way.get().expect("the machine was found before");
        let none = || nothing(&request.target.host, "attach to");
        let patience = request.reconnect_timeout;
        let (_, link) = self.desk.meet(way.clone(), patience).await?;
        let link = link.ok_or_else(none)?;
        let run = RunId::try_from(link.hello().await?.run_id).map_err(|_| none())?;
        self.desk
            .screen
            .note("somebody else drives this run: it is only followed here");
        let mut state = RunState::default();
        let never = |_: &RunState| false;
        let tell = |event: &Event| {
            if event.step.is_some() {
                cx.nested(event);
            }
        };
        link.follow(&run, &mut state, never, tell).await?;
        match (state.failure(), &state.end) {
            (Some(failure), _) => Err(failure.clone()),
            (None, Some(End::Aborted(by))) => Err(Failure::new("cannot follow the run to its end")
                .because(format!("{by} stopped it"))
                .code("LF0311")),
            // what comes then has another agent
            (None, _) if state.step("kexec").is_some() => Err(boots_installer()),
            (None, _) => Ok(Done::new(())),
        }
    }

    async fn still_true(&self, (): &()) -> bool {
        false
    }
}

fn boots_installer() -> Failure {
    Failure::new("cannot follow the run to its end")
        .because("the machine boots the installer, and the agent that was followed has ended with the old system")
        .hint("`landfall attach HOST` follows what is done there, once the run goes on: `landfall status HOST` shows it")
        .code("LF0916")
        .contact(Contact::Gone)
}
