//! Waits for the installed system and looks whether it is the one that was asked for.

use std::time::Duration;

use engine::step::{Context, Done, Repeat, Step};
use landfall_proto::failure::Failure;

use super::prepare::Prepared;
use crate::{
    desk::{Desk, Reached},
    remote::wait,
};

/// From the reboot to the first login: firmware of servers takes minutes.
const BOOT: Duration = Duration::from_secs(900);

/// Waits for the installed system.
#[derive(Debug)]
pub struct Verify<'a> {
    /// What all phases share.
    pub desk: &'a Desk,
    /// The installer.
    pub machine: &'a Reached,
    /// What was prepared.
    pub prepared: &'a Prepared,
}

impl Step for Verify<'_> {
    const NAME: &'static str = "verify";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = ();

    async fn run(&self, cx: &Context) -> Result<Done<()>, Failure> {
        let Some(system) = &self.prepared.system else {
            return Ok(Done::skipped((), "no system was installed"));
        };
        let desk = self.desk;
        if !desk.request.verify {
            return Ok(Done::skipped((), "`--no-verify`"));
        }
        let keeps_key = system
            .host_keys_to
            .iter()
            .any(|folder| folder.as_str() == "/etc/ssh");
        let known = desk.folder.path().join("installed_known_hosts");
        let ways = desk.installed_ssh().into_iter().map(|ssh| match keeps_key {
            true => desk.pinned(ssh),
            // the first boot makes new keys: whoever logs in with our key, knows the system and is not the installer
            false => ssh.accepting(&known, &desk.alias()),
        });
        let ways: Vec<_> = ways.collect();
        let toplevel = system.toplevel.as_str();
        let found = wait::for_boot(
            &ways,
            &self.machine.boot_id,
            BOOT,
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
