//! Waits until the disko script and what it needs are in the installer's store.

use engine::step::{Context, Done, Repeat, Step};
use landfall_proto::{
    failure::Failure,
    order::{Input, StorePath, StoreRoot},
};
use serde::{Deserialize, Serialize};

use super::Deliveries;
use crate::machine::Machine;

/// Waits for the disko script.
#[derive(Debug)]
pub struct Tools<'a, D> {
    /// The machine.
    pub machine: &'a Machine,
    /// Who brings it.
    pub deliveries: &'a D,
    /// The script.
    pub script: &'a StorePath,
    /// The one that mounts what it made in an earlier boot.
    pub again: Option<&'a StorePath>,
}

/// A script that is complete in the installer's store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolsReady {
    /// The script.
    pub script: StorePath,
}

impl<D: Deliveries> Step for Tools<'_, D> {
    const NAME: &'static str = "tools";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = ToolsReady;

    async fn run(&self, cx: &Context) -> Result<Done<ToolsReady>, Failure> {
        cx.waiting("the disko script");
        self.deliveries.input(Input::DiskoScript).await?;
        for script in [Some(self.script), self.again].into_iter().flatten() {
            if !self.machine.store_has(StoreRoot::Installer, script).await? {
                return Err(Failure::new(format!("cannot use {script}"))
                    .because("it is not complete in the installer's store")
                    .hint("run the same command again; it sends what is missing")
                    .code("LF1302"));
            }
        }
        Ok(Done::new(ToolsReady {
            script: self.script.clone(),
        }))
    }

    async fn still_true(&self, proof: &ToolsReady) -> bool {
        for script in [Some(&proof.script), self.again].into_iter().flatten() {
            let found = self.machine.store_has(StoreRoot::Installer, script).await;
            if !found.unwrap_or(false) {
                return false;
            }
        }
        proof.script == *self.script
    }
}
