//! Lets the agent run disko's script: the disks are not what they were from here on.

use engine::step::{Context, Done, Repeat, Step};
use landfall_proto::{
    failure::Failure,
    order::{Input, StoreRoot},
};

use super::prepare::Prepared;
use crate::{
    desk::{ALONE, Desk, Reached},
    request::Phase,
};

/// Partitions, formats and mounts.
#[derive(Debug)]
pub struct Disko<'a> {
    /// What all phases share.
    pub desk: &'a Desk,
    /// The installer.
    pub machine: &'a Reached,
    /// What was prepared.
    pub prepared: &'a Prepared,
}

impl Step for Disko<'_> {
    const NAME: &'static str = "disko";
    // whether the disks may be touched again is for the agent to say, who can look at them
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = ();

    async fn run(&self, cx: &Context) -> Result<Done<()>, Failure> {
        self.machine.check_installer()?;
        self.desk.order(self.prepared.job()).await?;
        self.entrust(cx).await?;
        if let Some(disko) = &self.prepared.disko {
            let socket = self.desk.store(StoreRoot::Installer).await?;
            self.desk
                .bring(&disko.script, &self.prepared.disko_origin, &socket, cx)
                .await?;
            if let (Some(script), Some(origin)) = (&disko.again, &self.prepared.again_origin) {
                self.desk.bring(script, origin, &socket, cx).await?;
            }
            self.desk.supply(Input::DiskoScript).await?;
        }
        let request = &self.desk.request;
        let hands_over = request.hands_over() && !request.phases.has(Phase::Install);
        if hands_over && self.desk.hand_over(None).await? {
            return Ok(Done::skipped((), ALONE));
        }
        let steps = ["inspect", "tools", "format", "mount"];
        self.desk.follow_phase(Phase::Disko, &steps, cx).await?;
        Ok(Done::new(()))
    }

    async fn still_true(&self, _proof: &()) -> bool {
        self.desk.past.is_done
    }
}

impl Disko<'_> {
    /// Hands the keys over, of which nothing but their places is written down anywhere.
    async fn entrust(&self, cx: &Context) -> Result<(), Failure> {
        let mut keys = self.desk.keys.lock().await;
        if keys.is_empty() {
            return Ok(());
        }
        for (path, key) in keys.iter() {
            cx.waiting(format!("the key {path} to be handed over"));
            self.desk.entrust(path, key).await?;
        }
        self.desk.supply(Input::Keys).await?;
        // overwritten here, now that the agent has them
        keys.clear();
        if !self.prepared.reboot {
            self.desk.screen.note(
                "the keys stay in the memory of the installer until it ends, since phase reboot is not asked for",
            );
        }
        Ok(())
    }
}
