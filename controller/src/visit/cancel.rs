//! `landfall cancel HOST`: stops the run that is under way on a machine, and forgets it here.

use std::time::Duration;

use engine::{
    run::Run,
    step::{Context, Done, Repeat, Step},
};
use landfall_proto::{
    event::Event,
    failure::{Contact, Failure},
    order::RunId,
    report::{RunState, Status},
};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use super::{Errand, Find, Forgetful, Told, nothing, trail};
use crate::{
    desk::Desk,
    exit::{Ended, Exit},
    local::{record::Record, state::State},
    remote::{agent::Link, ssh::Ssh},
    request::Request,
    screen::{Screen, Style},
};

/// What is left half done by being stopped: disks that are of no use, or a machine that does not boot.
const AT_WORK: [&str; 5] = ["format", "install", "seal", "reboot", "kexec"];
/// Longest that the agent may take to stop: it ends its programs, and unmounts nothing.
const STOPS: Duration = Duration::from_secs(60);

/// Stops the run of a machine, says where that leaves the machine, and forgets the run.
///
/// A step at work on the disks is stopped with `force` only.
pub async fn cancel(request: Request, force: bool) -> Exit {
    let host = request.target.host.clone();
    let screen = Screen::new(Style::choose(request.output), &host);
    let ended = match stop(request, force, &screen).await {
        Ok(ended) => ended,
        Err(failure) if matches!(failure.contact, Contact::Lost | Contact::Taken) => {
            Ended::lost(failure, &screen.trail())
        }
        Err(failure) => Ended::failed(failure, &screen.trail()),
    };
    screen.end(&ended, None);
    ended.exit
}

async fn stop(request: Request, force: bool, screen: &Screen) -> Result<Ended, Failure> {
    let (host, mode) = (request.target.host.clone(), request.disko_mode);
    let name = request.on_record();
    let record = Record::of(&name)?.filter(|record| record.open.is_some());
    // whoever drives it from this machine is to be stopped where it runs; without a record nobody does
    let state = match &record {
        Some(_) => Some(State::open(&name)?),
        None => None,
    };
    if let Some(record) = &record {
        screen.remember(&record.events);
    }
    let errand = Errand::begin(request, "cancel", record.as_ref(), screen)?;
    let cancel = async |run: &mut Run<Forgetful>, desk: &Desk, way: &OnceCell<Ssh>| {
        run.step(&Find { desk, way }).await?;
        run.step(&Cancel { desk, way, force }).await
    };
    let stopped = match errand.run(cancel, screen).await {
        Told::Done(stopped) => stopped,
        Told::Failed(failure) => return Err(failure),
        Told::Stopped => return Ok(Ended::interrupted(&screen.trail())),
    };
    if record.is_none() && stopped.is_none() {
        return Err(nothing(&host, "cancel the run of"));
    }
    if let (Some(state), Some(record)) = (&state, &record) {
        state.end(&record.run)?;
    }
    let events = stopped.as_ref().map(|stopped| &*stopped.events);
    let trail = trail(record.as_ref(), events, mode);
    screen.note(match trail.state().is_past_return() {
        true => "the run is stopped; to go on, begin anew with the command that installs",
        false => "the run is stopped; a reboot of the machine brings its old system back",
    });
    Ok(Ended::done(&trail))
}

/// What an agent told until it had stopped.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stopped {
    events: Vec<Event>,
}

/// Stops the agent's run, and lets the agent go.
struct Cancel<'a> {
    desk: &'a Desk,
    way: &'a OnceCell<Ssh>,
    force: bool,
}

impl Step for Cancel<'_> {
    const NAME: &'static str = "cancel";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = Option<Stopped>;

    async fn run(&self, cx: &Context) -> Result<Done<Option<Stopped>>, Failure> {
        let way = self.way.get().expect("the machine was found before");
        let patience = self.desk.request.reconnect_timeout;
        let (_, link) = self.desk.meet(way.clone(), patience).await?;
        let Some(link) = link else {
            return Ok(Done::skipped(None, "no agent works there"));
        };
        let hello = link.hello().await?;
        let Ok(run) = RunId::try_from(hello.run_id) else {
            return Ok(Done::skipped(None, "its agent has no run"));
        };
        let (mut state, mut events) = (RunState::default(), Vec::new());
        let all = |state: &RunState| state.next >= hello.events;
        let tell = |event: &Event| {
            // the screen says where the machine stands, whatever comes of this
            if event.step.is_some() {
                cx.nested(event);
            }
            events.push(event.clone());
        };
        link.follow(&run, &mut state, all, tell).await?;
        if state.end.is_none() {
            if let (Some(step), false) = (at_work(&state), self.force) {
                return Err(refused(&self.desk.request.target.host, step));
            }
            cx.waiting("the agent to stop");
            end(&link, &run, &mut state, &mut events).await?;
        }
        link.take().await?;
        link.leave(Some(&run), state.next).await;
        Ok(Done::new(Some(Stopped { events })))
    }

    async fn still_true(&self, _: &Option<Stopped>) -> bool {
        false
    }
}

/// Takes the run over, stops it, and sees it end.
async fn end(
    link: &Link,
    run: &RunId,
    state: &mut RunState,
    events: &mut Vec<Event>,
) -> Result<(), Failure> {
    link.take().await?;
    link.abort(run, "landfall cancel").await?;
    let over = |state: &RunState| state.end.is_some();
    let stopped = link.follow(run, state, over, |event| events.push(event.clone()));
    match tokio::time::timeout(STOPS, stopped).await {
        Ok(followed) => Ok(followed?),
        Err(_) => Err(Failure::new("cannot stop the run")
            .because(format!(
                "waiting {} s for the agent to end it",
                STOPS.as_secs()
            ))
            .hint("reboot the machine to be rid of it: `ssh root@HOST reboot`")
            .code("LF0914")
            .contact(Contact::Lost)),
    }
}

/// Returns the step under way that is not stopped without a word.
fn at_work(state: &RunState) -> Option<&str> {
    let running = |name: &&str| {
        let step = state.step(name);
        step.is_some_and(|step| matches!(step.status, Status::Running))
    };
    AT_WORK.into_iter().find(running)
}

fn refused(host: &str, step: &str) -> Failure {
    let why = match step {
        "format" => "half a format is of no use, and is not repeated without being asked for",
        "kexec" => "the machine is about to boot the installer",
        _ => "the system on the disks may not boot then",
    };
    Failure::new(format!("refusing to stop {step} on {host}"))
        .because(why)
        .hint("wait until it is over: `landfall status HOST` shows it")
        .hint("to stop it all the same: `landfall cancel --force HOST`")
        .code("LF0913")
        .contact(Contact::Foreign)
}

#[cfg(test)]
mod tests {
    use landfall_proto::event::Kind;

    use super::*;

    #[track_caller]
    fn check(running: &str, at_work: Option<&str>) {
        let steps = vec![running.to_owned()];
        let mut state = RunState::default();
        for (index, step, kind) in [
            (0, None, Kind::RunStarted { steps }),
            (
                1,
                Some(running.to_owned()),
                Kind::StepStarted { attempt: 1 },
            ),
        ] {
            let event = Event {
                index,
                light: None,
                at_ms: 0,
                step,
                kind,
            };
            state.apply(&event).unwrap();
        }
        assert_eq!(super::at_work(&state), at_work);
    }

    #[test]
    fn work_on_the_disks_is_not_stopped_without_force() {
        check("format", Some("format"));
        check("install", Some("install"));
        check("copy", None);
        check("keys", None);
        assert!(refused("h", "format").hints[1].contains("--force"));
    }
}
