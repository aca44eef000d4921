//! Lets the agent leave the disks clean and boot the installed system.

use engine::step::{Context, Done, Repeat, Step};
use landfall_proto::failure::Failure;

use super::prepare::Prepared;
use crate::{
    desk::{ALONE, Desk, Reached},
    request::Phase,
};

/// Leaves the disks clean and reboots.
#[derive(Debug)]
pub struct Reboot<'a> {
    /// What all phases share.
    pub desk: &'a Desk,
    /// The installer.
    pub machine: &'a Reached,
    /// What was prepared.
    pub prepared: &'a Prepared,
}

impl Step for Reboot<'_> {
    const NAME: &'static str = "reboot";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = ();

    async fn run(&self, cx: &Context) -> Result<Done<()>, Failure> {
        if self.desk.is_handed_over() {
            return Ok(Done::skipped((), ALONE));
        }
        self.machine.check_installer()?;
        self.desk.order(self.prepared.job()).await?;
        self.desk
            .follow_phase(Phase::Reboot, &["reboot"], cx)
            .await?;
        // the agent reboots only once it knows that its last word was heard
        self.desk.release(&self.machine.boot_id, cx).await?;
        self.desk.hang_up().await;
        Ok(Done::new(()))
    }

    async fn still_true(&self, _proof: &()) -> bool {
        self.desk.past.is_done
    }
}
