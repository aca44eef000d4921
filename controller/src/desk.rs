//! What all phases of a run share: the request, the keys, the screen, and the agent while there is one.
//!
//! Reaches and follows the agent on behalf of the phases; which order it gets, and when, is theirs to say.

use std::{path::PathBuf, time::Duration};

use engine::step::Context;
use landfall_proto::{
    event::{Kind, Unit},
    facts::Facts,
    failure::Failure,
    order::{Blob, Job, Order, RunId, StoreRoot},
    report::{End, RunState, Status},
    stream::mux::Mux,
    v1::Codec,
    wire::Target,
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::AsyncWriteExt,
    sync::{Mutex, watch},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    local::{agents, file, keys::Credentials, nix::Nix, state::RunFolder},
    remote::{
        agent::{Link, Reach, Started},
        link::LinkView,
        probe::{Arch, Root},
        ssh::Ssh,
        store::StoreSocket,
        upload::{self, Placed},
    },
    request::Request,
    screen::Screen,
};

/// The agent's folder on the target; in memory on every system that has `/run`.
const AGENT_FOLDER: &str = "/run/landfall";
/// Longest that taking the agent off may take: a few logins.
const LEAVE: Duration = Duration::from_secs(30);
/// How much of a blob is read at once.
const READ: usize = 256 << 10;
/// How often the progress of an upload is told.
const PACE: Duration = Duration::from_millis(200);

impl Reached {
    /// Refuses to work on disks from a system that is not an installer.
    pub fn check_installer(&self) -> Result<(), Failure> {
        if self.installer {
            return Ok(());
        }
        Err(
            Failure::new("refusing to install from a system that is not an installer")
                .because("its os-release does not say `VARIANT_ID=installer`")
                .hint("add `kexec` to `--phases`")
                .code("LF0331"),
        )
    }
}

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
    /// Public line of the key that logs in to the installer.
    pub login_key: String,
    /// Where everything is shown.
    pub screen: Screen,
    /// The link, for whoever shows it.
    pub view: watch::Sender<LinkView>,
    /// What earlier processes of this run have done.
    pub past: Past,
    agent: Mutex<Option<Agent>>,
    landing: Mutex<Option<Landing>>,
}

/// What earlier processes of this run have done, as the journal says.
#[derive(Debug, Clone, Copy, Default)]
pub struct Past {
    /// The machine was told to boot the installed system: nothing is left but to look at it.
    pub rebooted: bool,
    /// The machine was told to boot the installer.
    pub kexec_begun: bool,
    /// The agent was told to change the disks.
    pub disks_begun: bool,
}

impl Past {
    /// Reads it from the state of a run that is taken up.
    pub fn of(state: &RunState) -> Self {
        let step = |name| state.step(name);
        let over = |name| step(name).is_some_and(|s| matches!(s.status, Status::Finished(_)));
        let begun = |name| step(name).is_some_and(|s| s.attempt > 0);
        Self {
            rebooted: over("reboot"),
            kexec_begun: begun("kexec"),
            disks_begun: begun("disko") || begun("install"),
        }
    }
}

/// What was sent to a machine where no agent has answered yet.
#[derive(Debug, Clone)]
struct Landing {
    ssh: Ssh,
    placed: Placed,
    /// Whether it was not there before.
    sent: bool,
    /// Whether it may run already.
    started: bool,
}

/// A machine as it was when its agent first answered. Journaled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// Id of this boot.
    pub boot_id: String,
    /// Its processor.
    pub arch: Arch,
    /// Whether it runs an installer.
    pub installer: bool,
    /// Run that booted it by kexec, empty for none.
    pub kexec_marker: String,
}

/// The agent that is being talked to.
#[derive(Debug)]
struct Agent {
    link: Link,
    mux: Mux,
    state: RunState,
    /// Whether it was given an order.
    ordered: bool,
    /// Whether that order is about the disks.
    installs: bool,
    _lane: AbortOnDropHandle<()>,
    _view: AbortOnDropHandle<()>,
}

impl Desk {
    /// Lays the desk for a run.
    pub fn new(
        request: Request,
        run: RunId,
        folder: RunFolder,
        sockets: PathBuf,
        credentials: Credentials,
        login_key: String,
        screen: Screen,
    ) -> Self {
        let view = watch::Sender::default();
        Self {
            request,
            run,
            folder,
            sockets,
            credentials,
            login_key,
            screen,
            view,
            past: Past::default(),
            agent: Mutex::default(),
            landing: Mutex::default(),
        }
    }

    /// Returns the nix of this machine.
    pub fn nix(&self) -> Result<Nix, Failure> {
        Nix::new(self.request.nix.clone())
    }

    /// Returns how the machine is reached as the user named it, its host key not yet pinned.
    pub fn ssh(&self) -> Ssh {
        self.ssh_to(&self.request.target.to_string(), self.request.port())
    }

    /// Returns how the installer is reached: as root, with the key of this run too.
    pub fn installer_ssh(&self) -> Ssh {
        let host = &self.request.target.host;
        let port = match (self.request.login.post_kexec_port, self.request.port()) {
            (Some(port), _) => Some(port),
            // as nixos-anywhere does: the stock installer listens on 22, whatever the old system did
            (None, Some(_)) => Some(22),
            (None, None) => None,
        };
        let ssh = self.ssh_to(&format!("root@{host}"), port);
        self.pinned(ssh.run_key(Some(self.folder.key())))
    }

    /// Returns how the installed system is reached: as the user named it, or as root.
    pub fn installed_ssh(&self) -> Ssh {
        self.ssh()
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

    /// Brings the agent to the machine, starts it, and says Hello.
    pub async fn reach(&self, ssh: Ssh, revive: bool, cx: &Context) -> Result<Reached, Failure> {
        cx.waiting("the machine to say what it is");
        let machine = upload::probe(&ssh).await?;
        let arch = machine.arch(ssh.destination())?;
        let root: Root = machine.root(ssh.destination())?;
        let agent = agents::find(arch.name())?;
        let deadline = self.request.reconnect_timeout;
        let size = agent.blob.size;
        let hash = &agent.blob.hash;
        let place = upload::search(&ssh, root, hash).await?;
        *self.landing.lock().await = Some(Landing {
            ssh: ssh.clone(),
            placed: Placed {
                place: place.clone(),
                hash: hash.clone(),
            },
            sent: place.there.as_deref() != Some(hash.as_str()),
            started: false,
        });
        let placed = upload::place(
            &ssh,
            place,
            &agent,
            deadline,
            |sent, _| cx.progress(sent, Some(size), Unit::Bytes),
            |error| cx.waiting(format!("the agent to be sent: {}", error.trouble.seen())),
        )
        .await?;
        cx.waiting("the agent to start");
        if let Some(landing) = self.landing.lock().await.as_mut() {
            landing.started = true;
        }
        upload::start(&ssh, &placed, AGENT_FOLDER, &self.credentials.for_agent()).await?;
        let link = Link::connect(self.way(ssh, placed, deadline, revive)).await?;
        let hello = link.hello().await?;
        let reached = Reached {
            boot_id: hello.boot_id,
            arch,
            installer: hello.installer,
            kexec_marker: hello.kexec_marker,
        };
        *self.agent.lock().await = Some(self.attend(link));
        // from here on it takes itself off
        *self.landing.lock().await = None;
        Ok(reached)
    }

    fn way(&self, ssh: Ssh, placed: Placed, reconnect_timeout: Duration, revive: bool) -> Reach {
        Reach {
            ssh,
            placed,
            folder: AGENT_FOLDER.to_owned(),
            credentials: self.credentials.clone(),
            reconnect_timeout,
            revive,
        }
    }

    /// Lets the agent look at the machine.
    pub async fn inspect(&self) -> Result<Facts, Failure> {
        Ok(self.link().await?.inspect().await?)
    }

    /// Gives the agent an order.
    pub async fn order(&self, job: Job) -> Result<(), Failure> {
        let order = Order {
            run: self.run.clone(),
            job,
        };
        let link = self.link().await?;
        if let Some(agent) = self.agent.lock().await.as_mut() {
            agent.ordered = true;
            agent.installs = matches!(order.job, Job::Install(_));
        }
        match link.start(&order).await? {
            Started::Now | Started::AlreadyThere => Ok(()),
            Started::OtherRun(run) => Err(Failure::new("cannot begin the run")
                .because(format!("run {run} is under way on the machine"))
                .hint("wait for it to end; `ps` and `journalctl -u landfall-agent` on the machine show it")
                .code("LF0310")),
        }
    }

    /// Follows the agent until all these steps are over, and shows what they tell.
    pub async fn follow(&self, steps: &[&str], cx: &Context) -> Result<(), Failure> {
        self.follow_until(cx, |state| {
            let finished = |name: &&str| {
                let step = state.step(name);
                step.is_some_and(|step| matches!(step.status, Status::Finished(_)))
            };
            steps.iter().all(finished)
        })
        .await
    }

    /// Follows the agent until its run has ended.
    pub async fn follow_to_the_end(&self, cx: &Context) -> Result<(), Failure> {
        self.follow_until(cx, |state| state.end.is_some()).await
    }

    async fn follow_until(
        &self,
        cx: &Context,
        over: impl Fn(&RunState) -> bool,
    ) -> Result<(), Failure> {
        let (link, mut state) = {
            let mut agent = self.agent.lock().await;
            let agent = agent.as_mut().ok_or_else(no_agent)?;
            (agent.link.clone(), std::mem::take(&mut agent.state))
        };
        let followed = link.follow(&self.run, &mut state, over, |event| {
            if event.step.is_some() {
                cx.nested(event);
            }
        });
        let followed = followed.await;
        let (failure, end) = (state.failure().cloned(), state.end.clone());
        if let Some(agent) = self.agent.lock().await.as_mut() {
            agent.state = state;
        }
        followed?;
        match (failure, end) {
            (Some(failure), _) => Err(failure),
            (None, Some(End::Aborted(by))) => {
                Err(Failure::new("cannot finish the run").because(format!("{by} stopped it")))
            }
            _ => Ok(()),
        }
    }

    /// Tells the agent that the end of its run was seen, so that it may act on it.
    pub async fn release(&self) -> Result<(), Failure> {
        let (link, next) = {
            let agent = self.agent.lock().await;
            let agent = agent.as_ref().ok_or_else(no_agent)?;
            (agent.link.clone(), agent.state.next)
        };
        if link.release(&self.run, next).await? {
            return Ok(());
        }
        Err(Failure::new("cannot let go of the agent").because("its run has not ended"))
    }

    /// Sends a file to the agent, from where an earlier try broke off.
    pub async fn send(&self, path: PathBuf, blob: &Blob, cx: &Context) -> Result<(), Failure> {
        let mux = self.mux().await?;
        let cannot =
            |why: String| Failure::new(format!("cannot send {}", path.display())).because(why);
        let target = Target::Blob(blob.clone());
        let opened = mux.open(&target, Codec::Identity);
        let opened = tokio::time::timeout(self.request.reconnect_timeout, opened).await;
        let opened = opened
            .map_err(|_| cannot("waiting for the agent to take it".to_owned()))?
            .map_err(|broken| cannot(broken.to_string()))?;
        let mut reader = file::read_from(&path, opened.resume_from)?;
        let (mut io, done) = (opened.io, opened.done);
        let copy = async {
            let mut at = opened.resume_from;
            let mut told = tokio::time::Instant::now();
            cx.progress(at, Some(blob.size), Unit::Bytes);
            loop {
                let bytes = reader.next(READ).await?;
                if bytes.is_empty() {
                    break;
                }
                // an error here is told in full by `done`
                if io.write_all(&bytes).await.is_err() {
                    break;
                }
                at += bytes.len() as u64;
                if told.elapsed() > PACE {
                    cx.progress(at, Some(blob.size), Unit::Bytes);
                    told = tokio::time::Instant::now();
                }
            }
            let _ = io.shutdown().await;
            cx.progress(at, Some(blob.size), Unit::Bytes);
            Ok::<_, Failure>(())
        };
        copy.await?;
        // the agent checks the whole before it closes its direction
        let _ = tokio::io::copy(&mut io, &mut tokio::io::sink()).await;
        match done.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(broken)) => Err(cannot(format!("agent: {broken}"))),
            Err(_) => Err(cannot("the link was closed".to_owned())),
        }
    }

    /// Makes a socket that stands for a store on the target.
    pub async fn store(&self, root: StoreRoot) -> Result<StoreSocket, Failure> {
        StoreSocket::listen(&self.sockets, self.mux().await?, root)
    }

    /// Says that an input has been delivered.
    pub async fn supply(&self, input: landfall_proto::order::Input) -> Result<(), Failure> {
        Ok(self.link().await?.supply(&self.run, input).await?)
    }

    /// Hangs up: the machine is about to boot.
    pub async fn hang_up(&self) {
        *self.agent.lock().await = None;
    }

    /// Takes the agent off a machine that stays what it was. What cannot be taken off is told, not failed on.
    ///
    /// A run that is under way there is stopped first, unless it is about the disks: nobody would feed it any more.
    pub async fn leave(&self) {
        let left = async {
            let agent = self.agent.lock().await.take();
            match (agent, self.landing.lock().await.take()) {
                (Some(agent), _) => self.dismiss(agent).await,
                (None, Some(landing)) => self.take_back(landing).await,
                (None, None) => {}
            }
        };
        if tokio::time::timeout(LEAVE, left).await.is_err() {
            self.screen
                .note("the agent stays on the machine, since the link is gone");
        }
    }

    async fn dismiss(&self, agent: Agent) {
        let (link, mut state) = (agent.link, agent.state);
        if !agent.ordered {
            return link.leave(None, 0).await;
        }
        if agent.installs && state.end.is_none() {
            // half a format helps nobody: it finishes what it has the inputs for, and the same command takes it up
            return;
        }
        let mut missed = false;
        if state.end.is_none() && link.abort(&self.run, "the operator").await.is_ok() {
            let over = |state: &RunState| state.end.is_some();
            // a run that is not seen to end is not let go of
            let _ = link
                .follow(&self.run, &mut state, over, |event| {
                    missed |= matches!(event.kind, Kind::StepStarted { .. });
                })
                .await;
        }
        if missed {
            self.screen.missed_some();
        }
        // an order that never arrived has left no run
        let run = (state.next > 0).then_some(&self.run);
        link.leave(run, state.next).await;
    }

    async fn take_back(&self, landing: Landing) {
        let Landing {
            ssh,
            placed,
            sent,
            started,
        } = landing;
        if started {
            // it may be coming up just now: one that runs for sure can be told to go
            let credentials = self.credentials.for_agent();
            let _ = upload::start(&ssh, &placed, AGENT_FOLDER, &credentials).await;
            let way = self.way(ssh.clone(), placed.clone(), Duration::ZERO, false);
            if let Ok(link) = Link::connect(way).await {
                return link.leave(None, 0).await;
            }
        }
        if !sent {
            return;
        }
        let removed = upload::remove(&ssh, &placed.place, &placed.hash).await;
        if removed.is_err() {
            self.screen
                .note("what was sent to the machine stays there, since the link is gone");
        }
    }

    fn ssh_to(&self, destination: &str, port: Option<u16>) -> Ssh {
        let login = &self.request.login;
        let options = login
            .options
            .iter()
            .map(|option| option.as_str().to_owned())
            .collect();
        Ssh::new(destination)
            .port(port)
            .identities(login.identity.iter().cloned().collect())
            .options(options)
            .terminal(self.screen.can_ask())
    }

    /// Keeps a lane under the streams and the view of the link up to date, for as long as the agent is talked to.
    fn attend(&self, link: Link) -> Agent {
        let mux = Mux::opener(rand::random());
        let lane = tokio::spawn({
            let (link, mux) = (link.clone(), mux.clone());
            async move {
                let end = link.keep_lane(&mux).await;
                mux.close(&end.to_string());
            }
        });
        let forward = tokio::spawn({
            let (mut from, to) = (link.view(), self.view.clone());
            async move {
                loop {
                    to.send_replace(from.borrow_and_update().clone());
                    if from.changed().await.is_err() {
                        return;
                    }
                }
            }
        });
        Agent {
            link,
            mux,
            state: RunState::default(),
            ordered: false,
            installs: false,
            _lane: AbortOnDropHandle::new(lane),
            _view: AbortOnDropHandle::new(forward),
        }
    }

    async fn link(&self) -> Result<Link, Failure> {
        self.agent
            .lock()
            .await
            .as_ref()
            .map(|agent| agent.link.clone())
            .ok_or_else(no_agent)
    }

    async fn mux(&self) -> Result<Mux, Failure> {
        self.agent
            .lock()
            .await
            .as_ref()
            .map(|agent| agent.mux.clone())
            .ok_or_else(no_agent)
    }
}

fn no_agent() -> Failure {
    Failure::new("cannot call the agent").because("it was never reached")
}
