//! The agent of a run: brought to the machine, ordered, followed, and let go of once its end was seen.

use std::{sync::atomic::Ordering, time::Duration};

use engine::step::Context;
use landfall_proto::{
    event::Unit,
    facts::Facts,
    failure::{Contact, Failure},
    order::{Job, Order, RunId},
    report::{End, RunState},
    stream::mux::Mux,
    v1::HelloReply,
};
use serde::{Deserialize, Serialize};
use tokio_util::task::AbortOnDropHandle;

use super::Desk;
use crate::{
    local::agents,
    remote::{
        agent::{Link, Reach, Started},
        classify::SshError,
        probe::Arch,
        ssh::Ssh,
        upload::{self, Placed},
    },
    request::Phase,
};

/// The agent's folder on the target; in memory on every system that has `/run`.
pub(super) const AGENT_FOLDER: &str = "/run/landfall";

/// How often an agent is asked that still does what an earlier command asked for.
const MAKES_ROOM: Duration = Duration::from_secs(1);

/// What was sent to a machine where no agent has answered yet.
#[derive(Debug, Clone)]
pub(super) struct Landing {
    pub(super) ssh: Ssh,
    pub(super) placed: Placed,
    /// Whether it was not there before.
    pub(super) sent: bool,
    /// Whether it may run already.
    pub(super) started: bool,
}

/// A machine as it was when its agent first answered. Journaled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// Id of this boot.
    pub boot_id: String,
    /// Its processor.
    pub arch: Arch,
    /// Whether it runs an installer.
    pub installer: bool,
    /// Run that booted it by kexec, empty for none.
    pub kexec_marker: String,
    /// Whether its agent knew of this run: the journal there has what was done.
    #[serde(default)]
    pub knows_run: bool,
    /// Whether it is the installed system, so that nothing is left to be done to it. No agent was brought there.
    #[serde(default)]
    pub installed: bool,
    /// Seconds without contact after which it boots its old system again, 0 where it does not.
    #[serde(default)]
    pub return_after: u64,
}

/// The agent that is being talked to.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) link: Link,
    pub(super) mux: Mux,
    pub(super) state: RunState,
    /// Whether it was given an order.
    pub(super) ordered: bool,
    /// Whether that order is about the disks.
    pub(super) installs: bool,
    /// Whether the order was new to it, and nothing that it waits for has been brought since.
    pub(super) unfed: bool,
    /// Whether the order was new to it when this command gave it.
    began: bool,
    _lane: AbortOnDropHandle<()>,
    _view: AbortOnDropHandle<()>,
}

impl Reached {
    /// Refuses to work on disks from a system that is not an installer.
    pub fn check_installer(&self) -> Result<(), Failure> {
        if self.installer {
            return Ok(());
        }
        Err(
            Failure::new("refusing to install from a system that is not an installer")
                .because("its os-release does not say `VARIANT_ID=installer`")
                .hint("add `kexec` to `--phases`")
                .code("LF0331"),
        )
    }
}

impl Desk {
    /// Brings the agent to the machine, starts it, and says Hello. `patience` is how long a first answer is waited for.
    pub async fn reach(
        &self,
        ssh: Ssh,
        patience: Duration,
        cx: &Context,
    ) -> Result<Reached, Failure> {
        let (ssh, placed, arch) = self.land(ssh, patience, cx).await?;
        cx.waiting("the agent to start");
        if let Some(landing) = self.landing.lock().await.as_mut() {
            landing.started = true;
        }
        let deadline = self.request.reconnect_timeout;
        let credentials = self.credentials.for_agent();
        let retrying = |error: &SshError| {
            cx.waiting(format!("the agent to start: {}", error.trouble.seen()));
        };
        upload::start(
            &ssh,
            &placed,
            AGENT_FOLDER,
            &credentials,
            deadline,
            retrying,
        )
        .await?;
        let link = Link::connect(self.way(ssh, placed, deadline, true)).await?;
        let hello = link.hello().await?;
        self.keep_off(&link, &hello).await?;
        link.take().await?;
        let reached = Reached {
            boot_id: hello.boot_id,
            arch,
            installer: hello.installer,
            kexec_marker: hello.kexec_marker,
            knows_run: hello.run_id == self.run.as_str(),
            installed: false,
            return_after: hello.return_after,
        };
        self.returns.store(reached.return_after, Ordering::Relaxed);
        *self.agent.lock().await = Some(self.attend(link));
        // wherever it was on its way to, it is here
        self.set_leaving(false);
        if reached.installer && reached.kexec_marker == self.run.as_str() {
            self.keep_way_in(&self.folder);
        }
        // from here on it takes itself off
        *self.landing.lock().await = None;
        Ok(reached)
    }

    /// Leaves an agent alone that is at work on another run: whoever drives that is not to be disturbed.
    async fn keep_off(&self, link: &Link, hello: &HelloReply) -> Result<(), Failure> {
        let Ok(other) = RunId::try_from(hello.run_id.clone()) else {
            return Ok(());
        };
        if other == self.run {
            return Ok(());
        }
        let mut state = RunState::default();
        let all = |state: &RunState| state.next >= hello.events;
        link.follow(&other, &mut state, all, |_| {}).await?;
        match state.end {
            // it is over: the agent is free for the next one
            Some(_) => Ok(()),
            None => Err(other_run(other.as_str())),
        }
    }

    /// Brings the agent to the machine, lets it look without starting it, and takes it off again.
    ///
    /// Disturbs no agent that is at work there, and leaves its file where it was before.
    pub async fn look(&self, ssh: Ssh, cx: &Context) -> Result<Facts, Failure> {
        let (ssh, placed, _) = self.land(ssh, Duration::ZERO, cx).await?;
        let sent = self.landing.lock().await.as_ref().is_some_and(|l| l.sent);
        cx.waiting("the agent to look at the machine");
        let facts = upload::look(&ssh, &placed, AGENT_FOLDER, sent).await?;
        // it has taken itself off
        *self.landing.lock().await = None;
        Ok(facts)
    }

    /// Brings the agent to the machine, and returns the way to it.
    pub(super) async fn land(
        &self,
        ssh: Ssh,
        patience: Duration,
        cx: &Context,
    ) -> Result<(Ssh, Placed, Arch), Failure> {
        cx.waiting("the machine to say what it is");
        let unseen = |error: &SshError| {
            cx.waiting(format!("the machine: {}", error.trouble.seen()));
        };
        let machine = upload::probe_within(&ssh, patience, unseen).await?;
        let arch = machine.arch(ssh.destination())?;
        let (ssh, root) = self.login.root(ssh, &machine).await?;
        let agent = agents::find(arch.name())?;
        let deadline = self.request.reconnect_timeout;
        let size = agent.blob.size;
        let hash = &agent.blob.hash;
        let retrying = |error: &SshError| {
            cx.waiting(format!("a place for the agent: {}", error.trouble.seen()));
        };
        let place = upload::search(&ssh, root, hash, deadline, retrying).await?;
        *self.landing.lock().await = Some(Landing {
            ssh: ssh.clone(),
            placed: Placed {
                place: place.clone(),
                hash: hash.clone(),
            },
            sent: place.there.as_deref() != Some(hash.as_str()),
            started: false,
        });
        let placed = upload::place(
            &ssh,
            place,
            &agent,
            deadline,
            |sent, _| cx.progress(sent, Some(size), Unit::Bytes),
            |error| cx.waiting(format!("the agent to be sent: {}", error.trouble.seen())),
        )
        .await?;
        Ok((ssh, placed, arch))
    }

    pub(super) fn way(
        &self,
        ssh: Ssh,
        placed: Placed,
        reconnect_timeout: Duration,
        revive: bool,
    ) -> Reach {
        Reach {
            ssh,
            placed,
            folder: AGENT_FOLDER.to_owned(),
            credentials: self.credentials.clone(),
            reconnect_timeout,
            revive,
        }
    }
    /// Lets the agent look at the machine.
    pub async fn inspect(&self) -> Result<Facts, Failure> {
        Ok(self.link().await?.inspect().await?)
    }

    /// Gives the agent an order.
    pub async fn order(&self, job: Job) -> Result<(), Failure> {
        let order = Order {
            run: self.run.clone(),
            job,
        };
        let link = self.link().await?;
        if let Some(agent) = self.agent.lock().await.as_mut() {
            agent.ordered = true;
            agent.installs = matches!(order.job, Job::Install(_));
        }
        let patience = tokio::time::Instant::now() + self.request.reconnect_timeout;
        loop {
            match link.start(&order).await? {
                Started::Now => {
                    if let Some(agent) = self.agent.lock().await.as_mut() {
                        agent.unfed = true;
                        agent.began = true;
                    }
                    return Ok(());
                }
                Started::AlreadyThere => return Ok(()),
                // an earlier command asked for something else: the agent ends the step that it is in, and takes this
                Started::OtherRun(run)
                    if run == self.run.as_str() && tokio::time::Instant::now() < patience =>
                {
                    tokio::time::sleep(MAKES_ROOM).await;
                }
                Started::OtherRun(run) => return Err(other_run(&run)),
            }
        }
    }

    /// Follows the agent until all these steps are over, and shows what they tell.
    pub async fn follow(&self, steps: &[&str], cx: &Context) -> Result<(), Failure> {
        self.follow_until(cx, |state| {
            steps.iter().all(|step| state.has_finished(step))
        })
        .await
    }

    /// Whether a step of the agent's was over before this command gave its order, or is over by now.
    ///
    /// What was done for another order may have to be done again, and counts for nothing.
    pub async fn is_over(&self, step: &str, cx: &Context) -> Result<bool, Failure> {
        if self
            .agent
            .lock()
            .await
            .as_ref()
            .is_some_and(|agent| agent.began)
        {
            return Ok(false);
        }
        let events = self.link().await?.confirm().await?.events;
        let over = |state: &RunState| state.has_finished(step);
        self.follow_until(cx, |state| over(state) || state.next >= events)
            .await?;
        let agent = self.agent.lock().await;
        Ok(agent.as_ref().is_some_and(|agent| over(&agent.state)))
    }

    /// Whether the agent has all that it takes to boot the installer, and nothing has kept it from doing so.
    pub async fn is_leaving(&self) -> Result<bool, Failure> {
        let link = self.link().await?;
        let hello = link.hello().await?;
        if hello.run_id != self.run.as_str() {
            return Ok(false);
        }
        // apart from what is followed: its failure, if there was one, is an earlier command's
        let mut state = RunState::default();
        let all = |state: &RunState| state.next >= hello.events;
        link.follow(&self.run, &mut state, all, |_| {}).await?;
        Ok(state.has_finished("image") && matches!(state.end, None | Some(End::Finished)))
    }

    /// Follows the agent until a phase of what it installs is over, of which these are the last steps.
    ///
    /// The last phase that was asked for is followed to the end of its run: an agent whose end was not seen would stay, and
    /// not reboot.
    pub async fn follow_phase(
        &self,
        phase: Phase,
        steps: &[&str],
        cx: &Context,
    ) -> Result<(), Failure> {
        match self.request.phases.ends_with(phase) {
            true => self.follow_until(cx, |state| state.end.is_some()).await,
            false => self.follow(steps, cx).await,
        }
    }

    pub(super) async fn follow_until(
        &self,
        cx: &Context,
        over: impl Fn(&RunState) -> bool,
    ) -> Result<(), Failure> {
        let (link, mut state) = {
            let mut agent = self.agent.lock().await;
            let agent = agent.as_mut().ok_or_else(no_agent)?;
            (agent.link.clone(), std::mem::take(&mut agent.state))
        };
        let followed = link.follow(&self.run, &mut state, over, |event| {
            if event.step.is_some() {
                cx.nested(event);
            }
        });
        let followed = followed.await;
        let (failure, end) = (state.failure().cloned(), state.end.clone());
        if let Some(agent) = self.agent.lock().await.as_mut() {
            agent.state = state;
        }
        followed?;
        match (failure, end) {
            (Some(failure), _) => Err(failure),
            (None, Some(End::Aborted(by))) => Err(Failure::new("cannot finish the run")
                .because(format!("{by} stopped it"))
                .hint("run the same command again")
                .code("LF0311")),
            _ => Ok(()),
        }
    }

    /// Keeps a lane under the streams and the view of the link up to date, for as long as the agent is talked to.
    fn attend(&self, link: Link) -> Agent {
        let mux = Mux::opener(rand::random());
        let lane = tokio::spawn({
            let (link, mux) = (link.clone(), mux.clone());
            async move {
                let end = link.keep_lane(&mux).await;
                mux.close(&end.to_string());
            }
        });
        let forward = tokio::spawn({
            let (mut from, to) = (link.view(), self.view.clone());
            async move {
                loop {
                    to.send_replace(from.borrow_and_update().clone());
                    if from.changed().await.is_err() {
                        return;
                    }
                }
            }
        });
        Agent {
            link,
            mux,
            state: RunState::default(),
            ordered: false,
            installs: false,
            unfed: false,
            began: false,
            _lane: AbortOnDropHandle::new(lane),
            _view: AbortOnDropHandle::new(forward),
        }
    }
    pub(super) async fn link(&self) -> Result<Link, Failure> {
        Ok(self.seen().await?.0)
    }

    /// Returns the way to the agent, and how many of its events were seen.
    pub(super) async fn seen(&self) -> Result<(Link, u64), Failure> {
        let agent = self.agent.lock().await;
        let agent = agent.as_ref().ok_or_else(no_agent)?;
        Ok((agent.link.clone(), agent.state.next))
    }

    pub(super) async fn mux(&self) -> Result<Mux, Failure> {
        self.agent
            .lock()
            .await
            .as_ref()
            .map(|agent| agent.mux.clone())
            .ok_or_else(no_agent)
    }
}

fn other_run(run: &str) -> Failure {
    Failure::new("cannot begin the run")
        .because(format!("run {run} is under way on the machine"))
        .hint("`landfall status HOST` shows it, `landfall attach HOST` follows it to its end")
        .hint("`landfall cancel HOST` stops it")
        .code("LF0310")
        .contact(Contact::Foreign)
}

fn no_agent() -> Failure {
    Failure::new("cannot call the agent")
        .because("it was never reached")
        .hint("run the same command again")
        .code("LF0302")
}
