//! What all phases of a run share: the request, the keys, the screen, and the agent while there is one.
//!
//! Here is what stays the same for a whole run. How this machine gets in is in [`login`]; how the agent is brought there and
//! talked to is in [`agent`], what travels to it in [`deliver`], how the end of its run is heard in [`release`], how it
//! is taken off in [`leave`] or left to itself in [`alone`]. Which order it gets, and when, is for the phases to say.

mod agent;
mod alone;
mod deliver;
mod gather;
mod leave;
mod login;
mod meet;
mod past;
mod release;

use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use landfall_proto::{
    facts::Facts,
    failure::Failure,
    order::{DiskoMode, KeyPath, RunId},
};
use tokio::sync::{Mutex, watch};

use self::agent::{Agent, Landing};
pub use self::{agent::Reached, alone::ALONE, login::Login, past::Past};
use crate::{
    local::{keys::Credentials, nix::Nix, secret::Secret, state::RunFolder},
    remote::{link::LinkView, ssh::Ssh},
    request::{Patience, Phase, Request},
    screen::Screen,
};

/// What all phases of a run share.
#[derive(Debug)]
pub struct Desk {
    /// What the user wants.
    pub request: Request,
    /// The run.
    pub run: RunId,
    /// Where the run is remembered on this machine.
    pub folder: RunFolder,
    /// A short folder for sockets.
    pub sockets: PathBuf,
    /// The keys of the tunnel.
    pub credentials: Credentials,
    /// How this machine gets in.
    pub login: Login,
    /// Where everything is shown.
    pub screen: Screen,
    /// The link, for whoever shows it.
    pub view: watch::Sender<LinkView>,
    /// What earlier processes of this run have done.
    pub past: Past,
    /// Keys for disko and where they go, from `prepare` on. Nothing of them is ever written down.
    pub keys: Mutex<Vec<(KeyPath, Secret)>>,
    /// [`Reached::return_after`] of the machine as it was last reached.
    returns: AtomicU64,
    agent: Mutex<Option<Agent>>,
    landing: Mutex<Option<Landing>>,
    alone: AtomicBool,
    leaving: AtomicBool,
}

impl Desk {
    /// Lays the desk for a run.
    pub fn new(
        request: Request,
        run: RunId,
        folder: RunFolder,
        sockets: PathBuf,
        credentials: Credentials,
        login: Login,
        screen: Screen,
    ) -> Self {
        let view = watch::Sender::default();
        Self {
            request,
            run,
            folder,
            sockets,
            credentials,
            login,
            screen,
            view,
            past: Past::default(),
            keys: Mutex::default(),
            returns: AtomicU64::default(),
            agent: Mutex::default(),
            landing: Mutex::default(),
            alone: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
        }
    }

    /// Says what becomes of a machine whose disks are unchanged when it is left alone now; nothing where it stays as it is.
    pub fn left_alone(&self) -> Option<String> {
        let seconds = self.returns.load(Ordering::Relaxed);
        let after = Patience(Duration::from_secs(seconds));
        (seconds > 0).then(|| {
            format!("left alone with unchanged disks, the machine boots its old system again after {after}")
        })
    }

    /// Says whether the machine is on its way into the installer that this run boots: there only this run's key may open it.
    pub fn set_leaving(&self, leaving: bool) {
        self.leaving.store(leaving, Ordering::Relaxed);
    }

    /// Whether the machine is on its way into the installer.
    pub fn is_on_its_way(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Returns the nix of this machine.
    pub fn nix(&self) -> Result<Nix, Failure> {
        Nix::new(self.request.nix.clone())
    }

    /// Whether this run may have formatted in an earlier boot of the machine, of which its agent knows nothing any more.
    ///
    /// Disks that begin as they did when somebody agreed were not formatted.
    pub fn follows(&self, machine: &Reached, facts: &Facts) -> bool {
        let erases =
            self.request.phases.has(Phase::Disko) && self.request.disko_mode != DiskoMode::Mount;
        erases
            && self.past.disks_begun
            && (self.past.followed || !machine.knows_run)
            && !self.past.left_alone(&facts.disks)
    }

    /// Whether an earlier process of this run has pinned the host key.
    pub fn is_pinned(&self) -> bool {
        self.folder.has_pin()
    }

    /// Pins the host key that was seen first.
    pub fn pinned(&self, ssh: Ssh) -> Ssh {
        ssh.pinned(&self.folder.known_hosts(), &self.alias())
    }

    /// Returns the name under which the host key is pinned, whatever the machine's address becomes.
    pub fn alias(&self) -> String {
        format!("landfall-{}", &self.run.as_str()[..16])
    }
}
