//! Waits for the installed system and looks whether it is the one that was asked for.

use engine::step::{Context, Done, Repeat, Step};
use landfall_proto::{failure::Failure, order::System};

use crate::{
    desk::{ALONE, Desk},
    remote::wait,
};

/// Waits for the installed system.
#[derive(Debug)]
pub struct Verify<'a> {
    /// What all phases share.
    pub desk: &'a Desk,
    /// The boot that is over; empty where what answers was not told to boot just now.
    pub old_boot: &'a str,
    /// What was installed.
    pub system: Option<&'a System>,
}

impl Step for Verify<'_> {
    const NAME: &'static str = "verify";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = ();

    async fn run(&self, cx: &Context) -> Result<Done<()>, Failure> {
        let Some(system) = self.system else {
            return Ok(Done::skipped((), "no system was installed"));
        };
        let desk = self.desk;
        if desk.is_handed_over() {
            return Ok(Done::skipped((), ALONE));
        }
        if !desk.request.verify {
            return Ok(Done::skipped((), "`--no-verify`"));
        }
        let ways = desk.booted_ssh();
        let toplevel = system.toplevel.as_str();
        let found = wait::for_boot(
            &ways,
            self.old_boot,
            desk.request.system_boots(),
            |machine| match (machine.variant.as_str(), machine.system.as_deref()) {
                ("installer", _) => Err("an installer answers".to_owned()),
                (_, Some(found)) if found == toplevel => Ok(()),
                (_, Some(found)) => Err(format!("it runs {found}")),
                (_, None) => Err("what answers is no NixOS".to_owned()),
            },
            |seen, _| {
                cx.waiting(format!("the installed system: {}", seen.words()));
            },
        )
        .await;
        match found {
            Ok(_) => Ok(Done::new(())),
            Err(failure) => Err(failure
                .under("cannot verify the installed system")
                .or_code("LF0501")),
        }
    }

    async fn still_true(&self, _proof: &()) -> bool {
        false
    }
}
