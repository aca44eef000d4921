//! Looks at the machine, and finds what is known to fail while the old system still runs.
//!
//! What is known to fail is in [`check`](crate::check); `landfall check` judges by the very same.

use engine::step::{Context, Done, Repeat, Step};
use landfall_proto::{facts::Facts, failure::Failure};

use crate::{
    check::{self, Wanted},
    desk::Desk,
};

/// Looks at the machine.
#[derive(Debug)]
pub struct Preflight<'a> {
    /// What all phases share.
    pub desk: &'a Desk,
}

impl Step for Preflight<'_> {
    const NAME: &'static str = "preflight";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = Facts;

    async fn run(&self, cx: &Context) -> Result<Done<Facts>, Failure> {
        cx.waiting("the agent to look at the machine");
        let facts = self.desk.inspect().await?;
        self.desk.screen.machine(&facts);
        self.desk.pin_for_installer(&facts.host_keys)?;
        let wanted = Wanted::of(&self.desk.request, &facts);
        let checks = check::checks(&facts, &wanted);
        if let Some(failure) = check::failure(&checks) {
            return Err(failure);
        }
        let warnings = check::warnings(&checks);
        Ok(match warnings.is_empty() {
            true => Done::new(facts),
            false => Done::warned(facts, warnings.join(" · ")),
        })
    }

    async fn still_true(&self, _: &Facts) -> bool {
        self.desk.past.is_done
    }
}
