//! Builds what had to wait for the hardware configuration.

use engine::step::{Context, Done, Repeat, Step};
use landfall_proto::failure::Failure;

use super::prepare::{Bench, Prepared};
use crate::{
    desk::{Desk, Reached},
    request::Phase,
};

/// Builds what had to wait.
#[derive(Debug)]
pub struct Build<'a> {
    /// What all phases share.
    pub desk: &'a Desk,
    /// The installer.
    pub machine: &'a Reached,
    /// What was prepared without it.
    pub prepared: &'a Prepared,
}

impl Step for Build<'_> {
    const NAME: &'static str = "build";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = Prepared;

    async fn run(&self, cx: &Context) -> Result<Done<Prepared>, Failure> {
        self.machine.check_installer()?;
        let facts = self.desk.inspect().await?;
        let mut bench = Bench::new(self.desk, &facts, cx);
        bench.follows = self.desk.follows(self.machine, &facts);
        let mut prepared = self.prepared.clone();
        let evaluated = bench.evaluate().await?;
        if self.desk.request.phases.has(Phase::Disko) {
            let agreed = prepared.disks.as_deref();
            prepared.disks = Some(bench.disks_again(agreed).await?);
        }
        prepared.nix = bench.caches();
        let outputs = bench.build(evaluated).await?;
        prepared.set(&self.desk.request, outputs);
        Ok(bench.done(prepared))
    }

    async fn still_true(&self, _: &Prepared) -> bool {
        self.desk.past.is_done
    }
}
