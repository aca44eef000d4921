//! How the agent is taken off a machine, in whichever state it was left.

use std::time::Duration;

use landfall_proto::{
    event::Kind,
    failure::Failure,
    report::{End, RunState},
};

use super::{
    Desk,
    agent::{AGENT_FOLDER, Agent, Landing},
};
use crate::remote::{agent::Link, upload};

/// Longest that taking the agent off may take: a few logins.
const LEAVE: Duration = Duration::from_secs(30);

impl Desk {
    /// Hangs up: the machine is about to boot.
    pub async fn hang_up(&self) {
        *self.agent.lock().await = None;
    }

    /// Whether an agent was given an order by this command.
    pub async fn has_ordered(&self) -> bool {
        let agent = self.agent.lock().await;
        agent.as_ref().is_some_and(|agent| agent.ordered)
    }

    /// Lets an agent go that knows this run, of which an earlier process has seen the end.
    pub async fn let_go_again(&self) -> Result<(), Failure> {
        let link = self.link().await?;
        let hello = link.confirm().await?;
        if hello.run_id == self.run.as_str() {
            link.leave(Some(&self.run), hello.events).await;
            self.hang_up().await;
        }
        Ok(())
    }

    /// Takes the agent off a machine that stays what it was. What cannot be taken off is told, not failed on.
    ///
    /// A run that is under way there is stopped first, unless it is at work on the disks: nobody would feed it any more.
    ///
    /// Returns whether one stays that may be at work on this run, which is not to be forgotten then.
    pub async fn leave(&self) -> bool {
        let ordered = self.has_ordered().await;
        let left = async {
            let agent = self.agent.lock().await.take();
            match (agent, self.landing.lock().await.take()) {
                (Some(agent), _) => self.dismiss(agent).await,
                (None, Some(landing)) => {
                    self.take_back(landing).await;
                    false
                }
                (None, None) => false,
            }
        };
        tokio::time::timeout(LEAVE, left).await.unwrap_or_else(|_| {
            self.screen
                .note("the agent stays on the machine, since the link is gone");
            ordered
        })
    }

    async fn dismiss(&self, agent: Agent) -> bool {
        let (link, mut state) = (agent.link, agent.state);
        if !agent.ordered {
            link.leave(None, 0).await;
            return false;
        }
        // what has not begun waits for something that nobody would bring any more, and would keep every other run out
        let waits = agent.unfed && !state.has_begun("format");
        if agent.installs && state.end.is_none() && !waits {
            // half a format helps nobody: it finishes what it has the inputs for, and the same command takes it up,
            // and what it has begun meanwhile is not known here
            self.screen.missed_some();
            return true;
        }
        let mut missed = false;
        if state.end.is_none() && link.abort(&self.run, "the operator", &[]).await.is_ok() {
            let over = |state: &RunState| state.end.is_some();
            // a run that is not seen to end is not let go of
            let _ = link
                .follow(&self.run, &mut state, over, |event| {
                    missed |= matches!(event.kind, Kind::StepStarted { .. });
                })
                .await;
        }
        if missed {
            self.screen.missed_some();
        }
        if !agent.installs && state.end == Some(End::Finished) {
            // it was too late to stop: the machine boots the installer
            self.set_leaving(true);
        }
        // an order that never arrived has left no run
        let run = (state.next > 0).then_some(&self.run);
        link.leave(run, state.next).await;
        run.is_some() && state.end.is_none()
    }

    async fn take_back(&self, landing: Landing) {
        let Landing {
            ssh,
            placed,
            sent,
            started,
        } = landing;
        if started {
            // it may be coming up just now: one that runs for sure can be told to go
            let credentials = self.credentials.for_agent();
            let once = Duration::ZERO;
            let _ = upload::start(&ssh, &placed, AGENT_FOLDER, &credentials, once, |_| ()).await;
            let way = self.way(ssh.clone(), placed.clone(), Duration::ZERO, false);
            if let Ok(link) = Link::connect(way).await {
                // one that works on something is somebody else's
                let hello = link.hello().await;
                if hello.is_ok_and(|hello| hello.run_id.is_empty()) && link.take().await.is_ok() {
                    link.leave(None, 0).await;
                }
                return;
            }
        }
        if !sent {
            return;
        }
        let removed = upload::remove(&ssh, &placed.place, &placed.hash).await;
        if removed.is_err() {
            self.screen
                .note("what was sent to the machine stays there, since the link is gone");
        }
    }
}
