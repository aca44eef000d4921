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
    report::{End, RunState},
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
    let errand = Errand::begin(
        request,
        "cancel",
        record.as_ref().map(Record::place),
        screen,
    )?;
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
        let host = &self.desk.request.target.host;
        if state.end.is_none() {
            let spares: &[&str] = if self.force { &[] } else { &AT_WORK };
            if let Some(step) = spares.iter().find(|step| state.is_running(step)) {
                return Err(refused(host, step));
            }
            cx.waiting("the agent to stop");
            link.take().await?;
            if let Some(step) = link.abort(&run, "landfall cancel", spares).await? {
                // it has begun since it was looked at, and whoever drove it was sent away
                return Err(refused(host, &step).hint("`landfall attach HOST` goes on with it"));
            }
            end(&link, &run, &mut state, &mut events).await?;
        }
        if state.end == Some(End::Finished) && !self.force {
            too_late(host, &state)?;
        }
        link.take().await?;
        link.leave(Some(&run), state.next).await;
        Ok(Done::new(Some(Stopped { events })))
    }

    async fn still_true(&self, _: &Option<Stopped>) -> bool {
        false
    }
}

/// Sees a run end that was told to stop.
async fn end(
    link: &Link,
    run: &RunId,
    state: &mut RunState,
    events: &mut Vec<Event>,
) -> Result<(), Failure> {
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

/// Refuses to stop a run that has ended well and of which the best is still to come.
fn too_late(host: &str, state: &RunState) -> Result<(), Failure> {
    let is_planned = |step: &str| state.step(step).is_some();
    let refused = Failure::new(format!("refusing to stop the run on {host}"))
        .code("LF0915")
        .contact(Contact::Foreign);
    if is_planned("reboot") {
        return Err(refused
            .because("it has ended well, and the machine reboots once its agent is let go")
            .hint("`landfall attach HOST`, or the command that began it, sees it through")
            .hint("to let the agent go, whatever comes then: `landfall cancel --force HOST`"));
    }
    if is_planned("kexec") {
        return Err(refused
            .because("the machine is about to boot the installer")
            .hint("wait until it has: `landfall status HOST` shows it; then run the same command again")
            .hint("where it never does, let the agent go: `landfall cancel --force HOST`"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_on_the_disks_is_not_stopped_without_force() {
        let is_spared = |step| AT_WORK.contains(&step);
        assert!(is_spared("format") && is_spared("install"));
        assert!(!is_spared("copy") && !is_spared("keys"));
        assert!(refused("h", "format").hints[1].contains("--force"));
    }
}
