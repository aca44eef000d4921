//! Boots the installer, and believes that it did only what cannot be otherwise: another boot, the run's own marker, a host
//! key that the machine had.

use std::time::Duration;

use engine::step::{Context, Done, Repeat, Step};
use landfall_proto::{
    failure::{Contact, Failure},
    order::{self, Job},
};

use super::prepare::Prepared;
use crate::{
    desk::{Desk, Reached},
    remote::{classify::STRANGER, link::LinkView, upload, wait},
};

/// Between two looks whether the machine has gone already, while its agent does not answer.
const PAUSE: Duration = Duration::from_secs(2);
/// What is said of an installer that does not come.
const LATE: &str = "LF0332";

/// Boots the installer.
#[derive(Debug)]
pub struct Kexec<'a> {
    /// What all phases share.
    pub desk: &'a Desk,
    /// The machine as it was found.
    pub machine: &'a Reached,
    /// What was prepared.
    pub prepared: &'a Prepared,
}

impl Step for Kexec<'_> {
    const NAME: &'static str = "kexec";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = Reached;

    async fn run(&self, cx: &Context) -> Result<Done<Reached>, Failure> {
        if self.machine.kexec_marker == self.desk.run.as_str() {
            return Ok(Done::skipped(
                self.machine.clone(),
                "the machine runs the installer that this run booted",
            ));
        }
        let Some(image) = &self.prepared.image else {
            return Ok(Done::skipped(
                self.machine.clone(),
                "the machine runs an installer already",
            ));
        };
        let job = Job::Kexec(order::Kexec {
            image: image.blob.clone(),
            extra_flags: self.desk.request.kexec.extra_flags.clone(),
            authorized_key: self.desk.login.key.clone(),
            kernel: image.kernel,
            initrd: image.initrd,
            return_after: self.desk.request.kexec.return_after.0.as_secs(),
        });
        self.desk.order(job).await?;
        self.desk.send(image.path.clone(), &image.blob, cx).await?;
        let departure = Departure {
            desk: self.desk,
            boot_id: &self.machine.boot_id,
        };
        departure.follow(cx).await?;
        Ok(Done::new(departure.arrive(cx).await?))
    }

    async fn still_true(&self, _: &Reached) -> bool {
        self.desk.past.is_done
    }
}

/// A machine that is leaving its old system for the installer.
#[derive(Debug)]
pub(super) struct Departure<'a> {
    pub(super) desk: &'a Desk,
    /// Id of the boot that ends.
    pub(super) boot_id: &'a str,
}

impl Departure<'_> {
    /// Follows the agent until the kernel is loaded, and lets it go.
    ///
    /// Its last words may be lost with the line: it goes all the same, and a machine that answers from
    /// another boot has gone.
    pub(super) async fn follow(&self, cx: &Context) -> Result<(), Failure> {
        let followed = tokio::select! {
            followed = self.hear_out(cx) => followed,
            () = self.seen_elsewhere() => Ok(()),
        };
        match followed {
            Err(failure) if failure.contact == Contact::Kept || !self.is_elsewhere().await => {
                Err(failure)
            }
            _ => Ok(()),
        }
    }

    /// Hears the agent out. One that comes after it was killed loads anew, and has more to tell.
    async fn hear_out(&self, cx: &Context) -> Result<(), Failure> {
        loop {
            self.desk.follow_to_now(cx).await?;
            if self.desk.part().await? {
                return Ok(());
            }
        }
    }

    /// Completes once the machine answers from another boot. Asks only while the agent does not answer.
    async fn seen_elsewhere(&self) {
        let mut view = self.desk.view.subscribe();
        let lost =
            |view: &LinkView| matches!(view, LinkView::Retrying { .. } | LinkView::Lost { .. });
        while view.wait_for(lost).await.is_ok() {
            if self.is_elsewhere().await {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
        // nobody tells of the link any more
        std::future::pending::<()>().await;
    }

    async fn is_elsewhere(&self) -> bool {
        let answer = upload::probe(&self.desk.installer_ssh()).await;
        answer.is_ok_and(|machine| machine.boot_id != self.boot_id)
    }

    /// Says what becomes of a machine on which no agent has come.
    fn hinted(&self, failure: Failure) -> Failure {
        let after = self.desk.request.kexec.return_after;
        match after.0.is_zero() {
            true => failure,
            false => failure.hint(format!(
                "left alone, the stock installer boots the old system again {after} after its own boot"
            )),
        }
    }

    /// Waits for the installer, and brings the agent there.
    ///
    /// Until that has come to an end the machine counts as being on its way: whoever stops waiting leaves a run to be taken up.
    pub(super) async fn arrive(&self, cx: &Context) -> Result<Reached, Failure> {
        let desk = self.desk;
        desk.set_leaving(true);
        desk.keep_way_in(&desk.folder);
        desk.hang_up().await;
        let arrived = self.installer(cx).await;
        let stays = match &arrived {
            Ok(_) => false,
            // the line may be down, and the machine there all the same; another host key is another machine
            Err(failure) => {
                let out_of_reach = [Contact::Unseen, Contact::Lost, Contact::Gone];
                let unseen = failure.code == LATE || out_of_reach.contains(&failure.contact);
                unseen && failure.code != STRANGER && !self.is_back().await
            }
        };
        desk.set_leaving(stays);
        arrived
    }

    async fn installer(&self, cx: &Context) -> Result<Reached, Failure> {
        let desk = self.desk;
        let ssh = desk.installer_ssh();
        wait::for_boot(
            std::slice::from_ref(&ssh),
            self.boot_id,
            desk.request.installer_boots(),
            |machine| match machine.variant.as_str() {
                "installer" => Ok(()),
                _ => Err("what answers is no installer".to_owned()),
            },
            |seen, _| {
                cx.waiting(format!("the installer: {}", seen.words()));
            },
        )
        .await
        .map_err(|failure| self.hinted(failure).or_code(LATE))?;
        // it has answered once: a line that breaks just then is tried again
        let patience = desk.request.reconnect_timeout;
        let reached = desk.reach(ssh, patience, cx).await?;
        if reached.kexec_marker != desk.run.as_str() {
            return Err(Failure::new("refusing to go on after kexec")
                .because(
                    "the installer that answers was not booted by this run: it has no marker of it",
                )
                .hint("is there another machine at this address? look at the console")
                .code("LF0330"));
        }
        Ok(reached)
    }

    /// Whether the machine answers from the boot that was to end.
    async fn is_back(&self) -> bool {
        let answer = upload::probe(&self.desk.pinned(self.desk.ssh())).await;
        answer.is_ok_and(|machine| machine.boot_id == self.boot_id)
    }
}
