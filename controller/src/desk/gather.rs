//! What explains a failure, from the machine: over the link there is, or by an agent that is brought for nothing else.

use std::time::Duration;

use engine::step::Context;
use landfall_proto::{failure::Failure, wire::Piece};

use super::{Desk, agent::AGENT_FOLDER};
use crate::remote::{agent::Link, gather, ssh::Ssh};

/// Longest that a link that is not up may take to come up.
const AT_ONCE: Duration = Duration::from_secs(10);

impl Desk {
    /// Whether an agent was reached, and not hung up on.
    pub async fn has_agent(&self) -> bool {
        self.link().await.is_ok()
    }

    /// Gathers over the link there is, as long as it is up or comes up at once. Returns who gathered.
    pub async fn gather(
        &self,
        take: impl FnMut(Piece) -> Result<(), Failure>,
    ) -> Result<String, Failure> {
        self.link().await?.gather(AT_ONCE, take).await
    }

    /// Gathers without the agent that does not answer any more, from its file.
    pub async fn gather_beside(
        &self,
        take: impl FnMut(Piece) -> Result<(), Failure>,
    ) -> Result<String, Failure> {
        let link = self.link().await?;
        let (ssh, placed) = link.way();
        gather::gather(ssh, placed, AGENT_FOLDER, false, take).await
    }

    /// Brings the agent to the machine and gathers: by one of this run that answers there, else by the one that is brought.
    ///
    /// Takes nothing over, and leaves the agent's file where it was before. Returns who gathered.
    pub async fn gather_from(
        &self,
        ssh: Ssh,
        may_call: bool,
        cx: &Context,
        mut take: impl FnMut(Piece) -> Result<(), Failure>,
    ) -> Result<String, Failure> {
        let (ssh, placed, _) = self.land(ssh, Duration::ZERO, cx).await?;
        let sent = self.landing.lock().await.as_ref().is_some_and(|l| l.sent);
        cx.waiting("what the machine has to say");
        if may_call {
            let way = self.way(ssh.clone(), placed.clone(), Duration::ZERO, false);
            let mut some = false;
            let link = Link::new(way)?;
            let gathered = link.gather(AT_ONCE, |piece| {
                some = true;
                take(piece)
            });
            let gathered = gathered.await;
            if gathered.is_ok() || some {
                return gathered;
            }
        }
        let who = gather::gather(&ssh, &placed, AGENT_FOLDER, sent, take).await?;
        // it has taken itself off
        *self.landing.lock().await = None;
        Ok(who)
    }
}
