//! A run that is left to its agent, and what became of it when somebody comes back.

use std::{sync::atomic::Ordering, time::Duration};

use landfall_proto::failure::{Contact, Failure};
use tokio::time::Instant;

use super::{Desk, agent::AGENT_FOLDER};
use crate::{
    local::state::Alone,
    remote::{
        classify::{LOGIN_REFUSED, may_pass},
        probe::Machine,
        ssh::Ssh,
        upload,
        wait::REFUSED_FOR,
    },
    request::Phase,
};

/// Why the phases that are left are passed over.
pub const ALONE: &str = "the agent does it alone";

/// How long is waited before a machine is asked again that may just be booting.
const PAUSE: Duration = Duration::from_secs(3);

impl Desk {
    /// Leaves the run to the agent, which has all that it waits for. Nobody has to come to see its end.
    ///
    /// Returns false where it has failed meanwhile: that is to be seen now.
    pub async fn hand_over(&self, system: Option<&str>) -> Result<bool, Failure> {
        let (link, next) = self.seen().await?;
        // first here: an agent that is alone and not known to be would be taken for one that is gone
        self.folder.set_alone(&Alone {
            boot_id: link.hello().await?.boot_id,
            system: system.map(str::to_owned),
        })?;
        if !link.release_ahead(&self.run, next).await? {
            self.folder.forget_alone()?;
            return Ok(false);
        }
        self.alone.store(true, Ordering::Relaxed);
        self.hang_up().await;
        Ok(true)
    }

    /// Whether the run was left to its agent by this process.
    pub fn is_handed_over(&self) -> bool {
        self.alone.load(Ordering::Relaxed)
    }

    /// Whether an agent that was left alone by an earlier process has done it all.
    ///
    /// Waits for a machine that is booting or out of reach, as long as the installed system may take to boot. A machine that
    /// lets nobody in counts as done where it was to reboot, for the installer lets this run in: the phase that looks at the
    /// installed system says what it sees. What was left alone stays on record until a machine has told what it is.
    pub async fn is_done_alone(&self) -> Result<bool, Failure> {
        let Some(alone) = self.folder.alone()? else {
            return Ok(false);
        };
        let reboots = self.request.phases.has(Phase::Reboot);
        let Some((ssh, machine)) = self.who_answers().await? else {
            return Ok(reboots);
        };
        let done = if machine.variant == "installer" {
            // it leaves when it is done and there is nothing to reboot for
            let gone = self.is_gone(&ssh, &machine).await?;
            !reboots && gone && machine.boot_id == alone.boot_id
        } else {
            reboots && alone.system.is_some() && alone.system == machine.system
        };
        if !done {
            self.folder.forget_alone()?;
        }
        Ok(done)
    }

    /// Asks the installer, then the installed system, until one of them answers; none where what answers lets nobody in.
    ///
    /// What waiting cannot mend is not waited for: another host key is another machine.
    async fn who_answers(&self) -> Result<Option<(Ssh, Machine)>, Failure> {
        let ways = std::iter::once(self.installer_ssh()).chain(self.booted_ssh());
        let ways: Vec<Ssh> = ways.collect();
        let patience = self.request.system_boots();
        let begun = Instant::now();
        let (mut refused_since, mut told) = (None, String::new());
        loop {
            let mut failures = Vec::new();
            for ssh in &ways {
                match upload::probe(ssh).await {
                    Ok(machine) => return Ok(Some((ssh.clone(), machine))),
                    Err(why) => failures.push(why),
                }
                // whose key it showed need not be the machine's
                ssh.forget_first();
            }
            let may_pass = failures.iter().any(|why| may_pass(&why.code));
            let failure = failures.pop().expect("there is a way in");
            refused_since = match failure.code == LOGIN_REFUSED {
                true => refused_since.or(Some(Instant::now())),
                false => None,
            };
            if refused_since.is_some_and(|since| since.elapsed() > REFUSED_FOR) {
                return Ok(None);
            }
            if !may_pass || begun.elapsed() + PAUSE > patience {
                return Err(failure
                    .under("cannot find out what became of the run that was left to its agent")
                    .contact(Contact::Unseen));
            }
            let seen = failure.in_one_line();
            if told != seen {
                self.screen.note(&format!(
                    "waiting for the machine, which was left to its agent: {seen}"
                ));
                told = seen;
            }
            tokio::time::sleep(PAUSE).await;
        }
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
