//! The end of an agent's run: heard to its last word, and said to have been heard, so that the agent
//! may act on it.

use std::time::Duration;

use engine::step::Context;
use landfall_proto::failure::Failure;
use tokio::time::timeout;

use super::Desk;
use crate::remote::{classify::Trouble, ssh::Ssh, trouble::LinkError, upload};

/// How often an agent is let go that has come anew meanwhile.
const RELEASES: usize = 3;
/// Longest that the answer of an agent is waited for that leaves the old system; as long as the agent
/// waits for word.
const PARTING: Duration = Duration::from_secs(5);

impl Desk {
    /// Tells the agent that the end of its run was seen, so that it may act on it.
    ///
    /// Its answer may be lost, and then what it has booted is met in its place: the installed system, with its own keys
    /// and without an agent. Whoever looks at that system later finds out whether it is the right one. A machine that is in
    /// its old boot still has not heard it.
    pub async fn release(&self, old_boot: &str, cx: &Context) -> Result<(), Failure> {
        for _ in 0..RELEASES {
            let (link, next) = self.seen().await?;
            match link.release(&self.run, next).await {
                Ok(true) => return Ok(()),
                // an agent that came after a crash has told more since
                Ok(false) => self.follow_to_now(cx).await?,
                Err(error) if is_another_system(&error) && !is_at(link.way().0, old_boot).await => {
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(Failure::new("cannot let go of the agent")
            .because("its run has not ended")
            .hint("reboot the machine by hand: `reboot`")
            .code("LF0312"))
    }

    /// Tells the agent that the end of its run was seen, where it goes without that too, a little
    /// later. Returns false where it has told more since.
    ///
    /// It may be gone before its answer has come: that is waited for no longer than it waits itself.
    pub async fn part(&self) -> Result<bool, Failure> {
        let (link, next) = self.seen().await?;
        let released = timeout(PARTING, link.release(&self.run, next)).await;
        Ok(!matches!(released, Ok(Ok(false))))
    }

    /// Follows the agent to the end of its run, and past every event that it has told by now.
    pub async fn follow_to_now(&self, cx: &Context) -> Result<(), Failure> {
        let told = self.link().await?.confirm().await?.events;
        if let Some(agent) = self.agent.lock().await.as_mut()
            && agent.state.next < told
        {
            // an agent that came anew goes on after what was the end
            agent.state.end = None;
        }
        self.follow_until(cx, |state| state.next >= told && state.end.is_some())
            .await
    }
}

/// Whether what answers in the agent's place knows nothing of it.
fn is_another_system(error: &LinkError) -> bool {
    let own = [
        Trouble::HostKeySwapped,
        Trouble::HostKeyChanged,
        Trouble::AuthRefused,
    ];
    match error {
        LinkError::Gone(_) => true,
        LinkError::Ssh(error) | LinkError::Lost { error, .. } => own.contains(&error.trouble),
        _ => false,
    }
}

/// Whether a machine can be asked, and is in this boot.
async fn is_at(ssh: &Ssh, boot: &str) -> bool {
    let seen = upload::probe(ssh).await;
    seen.is_ok_and(|machine| machine.boot_id == boot)
}
