//! Copies the system's closure to the target's disk and lets the agent install it.

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

/// Copies and installs the system.
#[derive(Debug)]
pub struct Install<'a> {
    /// What all phases share.
    pub desk: &'a Desk,
    /// The installer.
    pub machine: &'a Reached,
    /// What was prepared.
    pub prepared: &'a Prepared,
}

impl Step for Install<'_> {
    const NAME: &'static str = "install";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = ();

    async fn run(&self, cx: &Context) -> Result<Done<()>, Failure> {
        self.machine.check_installer()?;
        // the order is whole: where disko was done before, the run is there already
        self.desk.order(self.prepared.job()).await?;
        self.desk.follow(&["mount"], cx).await?;
        if let Some(system) = &self.prepared.system {
            // what was copied for an earlier command is not looked for in a store that may be sealed by now
            if !self.desk.is_over("copy", cx).await? {
                let socket = self.desk.store(StoreRoot::Target).await?;
                let origin = &self.prepared.system_origin;
                self.desk
                    .bring(&system.toplevel, origin, &socket, cx)
                    .await?;
            }
            if let Some(archive) = &self.prepared.archive {
                let path = archive.path.clone();
                self.desk.send(path, &archive.blob, cx).await?;
            }
            self.desk.supply(Input::System).await?;
        }
        let system = self.prepared.system.as_ref();
        let toplevel = system.map(|system| system.toplevel.as_str());
        if self.desk.request.hands_over() && self.desk.hand_over(toplevel).await? {
            return Ok(Done::skipped((), ALONE));
        }
        let steps = ["copy", "files", "install"];
        self.desk.follow_phase(Phase::Install, &steps, cx).await?;
        Ok(Done::new(()))
    }

    async fn still_true(&self, _proof: &()) -> bool {
        self.desk.past.is_done
    }
}
