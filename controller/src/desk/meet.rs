//! An agent that is at work already, met without bringing one.

use std::time::Duration;

use landfall_proto::failure::Failure;

use super::{Desk, agent::AGENT_FOLDER};
use crate::remote::{
    agent::Link,
    place::Place,
    probe::Machine,
    ssh::Ssh,
    upload::{self, Placed},
};

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
        let traces = upload::traces(&ssh, root, AGENT_FOLDER).await?;
        if !traces.socket {
            return Ok((machine, None));
        }
        let credentials = self.credentials.for_agent();
        for (folder, hash) in traces.programs {
            let place = Place {
                folder,
                there: Some(hash.as_str().to_owned()),
                root,
            };
            let placed = Placed { place, hash };
            // a socket may have been left by an agent that was killed
            if upload::admit(&ssh, &placed, AGENT_FOLDER, &credentials)
                .await
                .is_ok()
            {
                let link = Link::connect(self.way(ssh, placed, patience, false)).await?;
                return Ok((machine, Some(link)));
            }
        }
        Ok((machine, None))
    }
}
