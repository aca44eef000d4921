//! Boots the installer, and believes that it did only what cannot be otherwise: another boot, the run's own marker, the
//! same host key.

use engine::step::{Context, Done, Repeat, Step};
use landfall_proto::{
    failure::Failure,
    order::{self, Job},
};

use super::prepare::Prepared;
use crate::{
    desk::{Desk, Reached},
    remote::wait,
};

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
        self.desk.follow(&["inspect", "image", "kexec"], cx).await?;
        self.desk.hang_up().await;
        let reached = self.arrive(cx).await?;
        Ok(Done::new(reached))
    }

    async fn still_true(&self, _: &Reached) -> bool {
        self.desk.past.rebooted
    }
}

impl Kexec<'_> {
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

    async fn arrive(&self, cx: &Context) -> Result<Reached, Failure> {
        let desk = self.desk;
        let ssh = desk.installer_ssh();
        wait::for_boot(
            std::slice::from_ref(&ssh),
            &self.machine.boot_id,
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
        .map_err(|failure| self.hinted(failure).or_code("LF0332"))?;
        let reached = desk.reach(ssh, true, cx).await?;
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
}
