//! An agent that is at work already, met without bringing one.

use std::time::Duration;

use landfall_proto::failure::Failure;

use super::{Desk, agent::AGENT_FOLDER};
use crate::remote::{
    agent::Link,
    place::{Place, Traces},
    probe::Machine,
    shell::Root,
    ssh::Ssh,
    upload::{self, Placed},
};

/// How often a socket is asked behind which nobody answers, and how long is waited in between: an agent that was killed comes
/// back within a second.
const TRIES: usize = 3;
const PAUSE: Duration = Duration::from_secs(2);
/// What a program says that finds no agent serving.
const NOT_STARTED: &str = "LF0209";

impl Desk {
    /// Finds what the machine is, and the agent that serves there, as one that only looks; none where none does.
    ///
    /// Brings and starts none. `patience` is how long a lost link is tried again.
    pub async fn meet(
        &self,
        ssh: Ssh,
        patience: Duration,
    ) -> Result<(Machine, Option<Link>), Failure> {
        let machine = upload::probe(&ssh).await?;
        let (ssh, root) = self.login.root(ssh, &machine).await?;
        for attempt in 0..TRIES {
            if attempt > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            let traces = upload::traces(&ssh, root, AGENT_FOLDER).await?;
            if !traces.socket {
                break;
            }
            if let Some(placed) = self.admitted(&ssh, root, traces).await? {
                let link = Link::connect(self.way(ssh, placed, patience, false)).await?;
                return Ok((machine, Some(link)));
            }
        }
        Ok((machine, None))
    }

    /// Lets this process in to the agent that serves there, and returns its program; none where the socket is a dead one's.
    async fn admitted(
        &self,
        ssh: &Ssh,
        root: Root,
        traces: Traces,
    ) -> Result<Option<Placed>, Failure> {
        let credentials = self.credentials.for_agent();
        for (folder, hash) in traces.programs {
            let place = Place {
                folder,
                there: Some(hash.as_str().to_owned()),
                root,
            };
            let placed = Placed { place, hash };
            match upload::admit(ssh, &placed, AGENT_FOLDER, &credentials).await {
                Ok(_) => return Ok(Some(placed)),
                Err(failure) if failure.code == NOT_STARTED => {}
                // a login that was lost says nothing about an agent
                Err(failure) => return Err(failure),
            }
        }
        Ok(None)
    }
}
