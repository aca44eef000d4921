//! A run that is left to its agent, and what became of it when somebody comes back.

use std::{sync::atomic::Ordering, time::Duration};

use landfall_proto::failure::Failure;

use super::{Desk, agent::AGENT_FOLDER};
use crate::{
    local::state::Alone,
    remote::{probe::Machine, ssh::Ssh, upload},
    request::Phase,
};

/// Why the phases that are left are passed over.
pub const ALONE: &str = "the agent does it alone";

/// How often a machine is asked that may just be booting, and how long is waited in between.
const TRIES: usize = 4;
const PAUSE: Duration = Duration::from_secs(3);

impl Desk {
    /// Leaves the run to the agent, which has all that it waits for. Nobody has to come to see its end.
    pub async fn hand_over(&self, system: Option<&str>) -> Result<(), Failure> {
        let (link, next) = {
            let agent = self.agent.lock().await;
            let agent = agent.as_ref().ok_or_else(super::agent::no_agent)?;
            (agent.link.clone(), agent.state.next)
        };
        // first here: an agent that is alone and not known to be would be taken for one that is gone
        self.folder.set_alone(&Alone {
            boot_id: link.hello().await?.boot_id,
            system: system.map(str::to_owned),
        })?;
        link.release_ahead(&self.run, next).await?;
        self.alone.store(true, Ordering::Relaxed);
        self.hang_up().await;
        Ok(())
    }

    /// Whether the run was left to its agent by this process.
    pub fn is_handed_over(&self) -> bool {
        self.alone.load(Ordering::Relaxed)
    }

    /// Whether an agent that was left alone by an earlier process has done it all, as far as can be seen from here.
    ///
    /// What is booting or out of reach counts as done where the machine was to reboot: the phase that looks at the
    /// installed system waits for it and says what it sees.
    pub async fn is_done_alone(&self) -> Result<bool, Failure> {
        let Some(alone) = self.folder.alone()? else {
            return Ok(false);
        };
        let reboots = self.request.phases.has(Phase::Reboot);
        let done = match self.who_answers().await {
            Some((ssh, machine)) if machine.variant == "installer" => {
                // it leaves when it is done and there is nothing to reboot for
                let gone = self.is_gone(&ssh, &machine).await?;
                !reboots && gone && machine.boot_id == alone.boot_id
            }
            Some((_, machine)) => reboots && alone.system == machine.system,
            None => reboots,
        };
        if !done {
            self.folder.forget_alone()?;
        }
        Ok(done)
    }

    /// Asks the installer, then the installed system, a few times.
    async fn who_answers(&self) -> Option<(Ssh, Machine)> {
        let ways = std::iter::once(self.installer_ssh()).chain(self.booted_ssh());
        let ways: Vec<Ssh> = ways.collect();
        for attempt in 0..TRIES {
            if attempt > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            for ssh in &ways {
                if let Ok(machine) = upload::probe(ssh).await {
                    return Some((ssh.clone(), machine));
                }
            }
        }
        None
    }

    /// Whether nothing is left of the agent.
    async fn is_gone(&self, ssh: &Ssh, machine: &Machine) -> Result<bool, Failure> {
        let Some(root) = machine.root else {
            return Ok(false);
        };
        let traces = upload::traces(ssh, root, AGENT_FOLDER).await?;
        Ok(!traces.folder)
    }
}
