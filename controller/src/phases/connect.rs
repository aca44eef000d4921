//! Finds the machine, believes its host key once and for all, and brings the agent there.

use std::time::Duration;

use engine::step::{Context, Done, Repeat, Step};
use landfall_proto::failure::Failure;

use super::kexec::Departure;
use crate::{
    desk::{Desk, Reached},
    remote::{
        classify::STRANGER,
        host_key::{self, HostKey, Seen, Verdict},
        ssh::Ssh,
        upload,
    },
};

/// The first login: name lookup, TCP, keys, and perhaps a passphrase.
const FIRST_LOOK: Duration = Duration::from_secs(30);
/// How often a machine is asked that was told to boot the installer.
const PAUSE: Duration = Duration::from_secs(2);
const FIRST_LOOK_PERSON: Duration = Duration::from_secs(180);

/// Finds the machine and brings the agent there.
#[derive(Debug)]
pub struct Connect<'a> {
    /// What all phases share.
    pub desk: &'a Desk,
}

impl Step for Connect<'_> {
    const NAME: &'static str = "connect";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = Reached;

    async fn run(&self, cx: &Context) -> Result<Done<Reached>, Failure> {
        match self.meet(cx).await {
            // it was told to boot the installer, and may have gone there while it was looked at
            Err(_) if self.desk.past.kexec_begun => {
                self.desk.hang_up().await;
                self.meet(cx).await
            }
            met => met,
        }
    }

    async fn still_true(&self, _: &Reached) -> bool {
        // a new process has no connection, whatever the earlier one had; after the reboot it needs none
        self.desk.past.is_done
    }
}

impl Connect<'_> {
    /// Finds the machine where it is, or where it is going.
    async fn meet(&self, cx: &Context) -> Result<Done<Reached>, Failure> {
        let mut found = self.find(cx).await?;
        let old = !found.proof.installer && !found.proof.installed;
        let may_leave = self.desk.past.kexec_begun && old;
        // nothing of what is done in a system that is about to end would last
        if may_leave && self.desk.is_leaving().await? {
            let departure = Departure {
                desk: self.desk,
                boot_id: &found.proof.boot_id,
            };
            departure.follow(cx).await?;
            found.proof = departure.arrive(cx).await?;
        }
        Ok(found)
    }

    async fn find(&self, cx: &Context) -> Result<Done<Reached>, Failure> {
        let is_pinned = self.desk.is_pinned();
        let installer = match is_pinned {
            true => self.installer(cx).await,
            false => None,
        };
        let installer = match installer {
            Some(ssh) => Some(ssh),
            None => self.left().await,
        };
        if let Some(ssh) = installer {
            if !is_pinned {
                self.desk.pin_left()?;
            }
            let reached = self.desk.reach(ssh, Duration::ZERO, cx).await?;
            return Ok(Done::new(reached));
        }
        if let Some(installed) = self.installed().await {
            return Ok(Done::new(installed));
        }
        // a key that is named stands above the one that was seen before: a rescue system has another
        let warning = match is_pinned && self.desk.fingerprints().is_empty() {
            true => None,
            false => self.trust(cx).await?,
        };
        let ssh = self.desk.pinned(self.desk.ssh());
        let reached = self.desk.reach(ssh, Duration::ZERO, cx).await;
        let reached = reached.map_err(|failure| self.hinted(failure))?;
        Ok(match warning {
            Some(warning) => Done::warned(reached, warning),
            None => Done::new(reached),
        })
    }

    /// Returns the machine if it runs the system that an earlier command of this run has installed.
    ///
    /// It may have been booted before that command could see it: the power was cut, or somebody was faster.
    async fn installed(&self) -> Option<Reached> {
        let desk = self.desk;
        let system = desk
            .past
            .system
            .as_ref()
            .filter(|_| desk.past.disks_begun)?;
        for ssh in desk.booted_ssh() {
            let Ok(machine) = upload::probe(&ssh).await else {
                ssh.forget_first();
                continue;
            };
            let runs_it = machine.system.as_deref() == Some(system.toplevel.as_str());
            return match (runs_it, machine.arch(ssh.destination())) {
                (true, Ok(arch)) if machine.variant != "installer" => Some(Reached {
                    boot_id: machine.boot_id,
                    arch,
                    installer: false,
                    kexec_marker: String::new(),
                    knows_run: false,
                    return_after: 0,
                    installed: true,
                }),
                _ => None,
            };
        }
        None
    }

    /// Says what else may be the matter where an earlier command of this run has begun to change the disks.
    fn hinted(&self, failure: Failure) -> Failure {
        let rescue = "a rescue system has another host key: name it with `--host-key`";
        let is_stranger = failure.code == STRANGER;
        match (self.desk.past.disks_begun, is_stranger) {
            (true, _) => failure
                .hint("the disks were begun: boot any Linux on the machine, or an installer, and run the same command again")
                .hint(rescue),
            (false, true) => failure
                .hint(rescue)
                .hint("the run has changed no disk: `--fresh` begins anew, and looks at the host key anew"),
            (false, false) => failure,
        }
    }

    /// Returns the way to the installer that an earlier process of this run booted, if it answers.
    ///
    /// A machine that was told to boot it is waited for: it may be on its way.
    async fn installer(&self, cx: &Context) -> Option<Ssh> {
        let installer = self.desk.installer_ssh();
        let named = self.desk.pinned(self.desk.ssh());
        let until = tokio::time::Instant::now() + self.desk.request.installer_boots();
        loop {
            match upload::probe(&installer).await {
                Ok(machine) if machine.variant == "installer" => return Some(installer),
                Ok(_) => return None,
                // a rescue system, say: the installer does not come back by itself
                Err(failure) if failure.code == STRANGER => return None,
                Err(_) => {}
            }
            let answers = upload::probe(&named).await.is_ok();
            if answers || !self.desk.past.kexec_begun || tokio::time::Instant::now() > until {
                return None;
            }
            cx.waiting("the machine to answer: it was told to boot the installer");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Returns the way into an installer that an earlier run has left running, if it answers.
    ///
    /// Only that run's key may open it: it was booted from a system that took a password, or another key.
    pub(crate) async fn left(&self) -> Option<Ssh> {
        let desk = self.desk;
        let ssh = desk.left_ssh()?;
        let ssh = match desk.is_pinned() {
            true => desk.pinned(ssh),
            false => ssh,
        };
        // what was named on the command line stands above what was seen before
        let pins = desk.fingerprints();
        if !pins.is_empty() && !desk.left_has_one_of(&pins) {
            return None;
        }
        let machine = upload::probe(&ssh).await.ok()?;
        (machine.variant == "installer").then_some(ssh)
    }

    /// Decides about the host key and pins it. Returns a warning that goes with the decision.
    pub(crate) async fn trust(&self, cx: &Context) -> Result<Option<String>, Failure> {
        let desk = self.desk;
        cx.waiting("an answer");
        let ssh = desk.ssh();
        let policy = desk.request.host_key;
        let pins = desk.fingerprints();
        let patience = if ssh.asks() {
            FIRST_LOOK_PERSON
        } else {
            FIRST_LOOK
        };
        let seen = host_key::look(&ssh, policy, &pins, desk.folder.path(), patience).await?;
        let host = desk.request.target.to_string();
        // a script for nixos-anywhere was never asked about a host key
        let asks = desk.screen.can_ask() && !desk.request.compat;
        let verdict = host_key::decide(&seen, policy, &pins, &host, asks);
        let mut warning = None;
        match verdict {
            Verdict::Trusted => {}
            Verdict::Warn(text) => warning = Some(text),
            Verdict::Ask(question) => {
                if !desk.screen.ask(&format!("{question}?")).await {
                    return Err(refused(&host, key_of(&seen)));
                }
            }
            Verdict::Refuse(failure) => return Err(failure),
        }
        host_key::pin(key_of(&seen), &desk.alias(), &desk.folder.known_hosts())?;
        // what another system told, it tells anew
        desk.folder.forget_installer()?;
        Ok(warning)
    }
}

fn key_of(seen: &Seen) -> &HostKey {
    match seen {
        Seen::Known(key) | Seen::Unknown(key) => key,
    }
}

fn refused(host: &str, key: &HostKey) -> Failure {
    Failure::new(format!("refusing to connect to {host}"))
        .because(format!("nobody agreed to its key {}", key.fingerprint))
        .hint(format!(
            "if it is right, name it: `--host-key {}`",
            key.fingerprint
        ))
        .code("LF0107")
}
