//! The link to the agent: calls that survive lost connections, and a run followed across them.
//!
//! Every call is repeatable by design of the wire, so a call whose answer was lost is simply made again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use landfall_proto::{
    facts::Facts,
    order::{Describer, Input, KeyPath, Order, RunId, StorePath},
    v1, wire,
};
use tokio::{
    sync::{Mutex, MutexGuard, watch},
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Response, Status};

use super::{
    channel::{self, Caller, Client, Connection, Use},
    light::Light,
    link::LinkView,
    ssh::{Ssh, quote},
    tls::Trust,
    trouble::{self, LinkError, Meaning},
    upload::{self, Placed},
};
use crate::local::{keys::Credentials, secret::Secret};

/// A call that changes or asks something small.
const CALL: Duration = Duration::from_secs(30);
/// Looking at a machine with many disks.
const INSPECT: Duration = Duration::from_secs(120);
/// Describing the hardware: the agent ends the program after 300 s, and one call may wait for another.
const DESCRIBE: Duration = Duration::from_secs(630);
/// Bytes a second at which a key still arrives in time.
const KEY_PACE: u64 = 16 << 10;
/// One try to connect: ssh's own login, TLS, Hello. A person may have to type a passphrase.
const CONNECT: Duration = Duration::from_secs(60);
const CONNECT_PERSON: Duration = Duration::from_secs(180);
/// First and longest pause between two tries.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// Silence that a ping every 10 s does not explain.
const SILENCE: Duration = Duration::from_secs(13);
/// Connections that break one after the other without one answered call.
const BROKEN_IN_A_ROW: u32 = 10;
/// Logins refused one after the other: a machine that boots refuses for a moment, and one that bans counts.
const REFUSED_IN_A_ROW: u32 = 5;
/// Agents started anew while one connection is being made.
const REVIVALS: u32 = 3;

/// How to reach an agent.
#[derive(Debug, Clone)]
pub struct Reach {
    /// The machine, its host key pinned.
    pub ssh: Ssh,
    /// Where its agent lies.
    pub placed: Placed,
    /// The agent's folder, such as `/run/landfall`.
    pub folder: String,
    /// The keys of this run.
    pub credentials: Credentials,
    /// How long a lost machine is waited for.
    pub reconnect_timeout: Duration,
    /// Whether an agent that is no longer there is started again.
    pub revive: bool,
}

/// The link to an agent. Clones share it.
#[derive(Debug, Clone)]
pub struct Link {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    reach: Reach,
    trust: Trust,
    controller: u64,
    /// Whether it drives the machine; until then it only looks.
    drives: AtomicBool,
    current: Mutex<Option<Arc<Session>>>,
    view: watch::Sender<LinkView>,
    /// Where the reader is among the light events.
    light: Mutex<Light>,
    /// Connections that broke since the last answered call.
    broken: AtomicU32,
}

/// A connection that has said Hello.
#[derive(Debug)]
pub(super) struct Session {
    connection: Connection,
    pub(super) hello: v1::HelloReply,
    _watch: AbortOnDropHandle<()>,
}

/// What the agent said to a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Started {
    /// The run begins.
    Now,
    /// The run was there already: it is under way, goes on, or has ended.
    AlreadyThere,
    /// Another run holds the machine.
    OtherRun(String),
}

/// What a program wrote about the hardware of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// What it wrote to its standard output.
    pub output: Vec<u8>,
    /// The end of what it wrote to its standard error.
    pub complaints: String,
}

impl Link {
    /// Connects, and comes back once the agent has said Hello. Only looks, until [`take`](Self::take).
    pub async fn connect(reach: Reach) -> Result<Self, landfall_proto::failure::Failure> {
        let link = Self::new(reach)?;
        link.hello().await?;
        Ok(link)
    }

    /// Makes a link that connects with its first call.
    pub fn new(reach: Reach) -> Result<Self, landfall_proto::failure::Failure> {
        let trust = Trust::new(&reach.credentials)?;
        let inner = Inner {
            reach,
            trust,
            controller: rand::random(),
            drives: AtomicBool::new(false),
            current: Mutex::default(),
            view: watch::Sender::default(),
            light: Mutex::default(),
            broken: AtomicU32::new(0),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Becomes the one that drives the machine. Whoever did so before is told, and can do nothing there any more.
    pub async fn take(&self) -> Result<(), LinkError> {
        self.inner.drives.store(true, Ordering::Relaxed);
        self.confirm().await.map(drop)
    }

    /// Returns the link as a reader sees it, now and whenever it changes.
    pub fn view(&self) -> watch::Receiver<LinkView> {
        self.inner.view.subscribe()
    }

    /// Returns what the agent said of itself when this connection was made.
    pub async fn hello(&self) -> Result<v1::HelloReply, LinkError> {
        Ok(self.session().await?.hello.clone())
    }

    /// Lets the agent look at the machine.
    pub async fn inspect(&self) -> Result<Facts, LinkError> {
        let reply = self
            .call(INSPECT, |mut client: Client| async move {
                client.inspect(v1::InspectRequest {}).await
            })
            .await?;
        wire::facts_from_wire(&reply.facts).map_err(|error| LinkError::unreadable(&error))
    }

    /// Hands the order over. Repeatable: a run that is there already is not started twice.
    pub async fn start(&self, order: &Order) -> Result<Started, LinkError> {
        use v1::start_reply::Outcome;
        let request = v1::StartRequest {
            run_id: order.run.to_string(),
            order: wire::order_to_wire(order),
        };
        let reply = self
            .call(CALL, |mut client: Client| {
                let request = request.clone();
                async move { client.start(request).await }
            })
            .await?;
        match reply.outcome() {
            Outcome::Started => Ok(Started::Now),
            Outcome::AlreadyThere => Ok(Started::AlreadyThere),
            Outcome::OtherRun => Ok(Started::OtherRun(reply.run_id)),
            Outcome::Unknown => Err(LinkError::Unreadable(
                "it neither started nor refused".to_owned(),
            )),
        }
    }

    /// Says that an input has been delivered.
    pub async fn supply(&self, run: &RunId, input: Input) -> Result<(), LinkError> {
        let request = v1::SupplyRequest {
            run_id: run.to_string(),
            input: input.name().to_owned(),
        };
        self.call(CALL, |mut client: Client| {
            let request = request.clone();
            async move { client.supply(request).await }
        })
        .await?;
        Ok(())
    }

    /// Hands one key file over, to lie where the order says that one does.
    pub async fn entrust(
        &self,
        run: &RunId,
        path: &KeyPath,
        content: &Secret,
    ) -> Result<(), LinkError> {
        let size = content.expose().len() as u64;
        let patience = CALL + Duration::from_secs(size / KEY_PACE);
        self.call(patience, |mut client: Client| {
            // overwrites itself when it was sent
            let request = wire::key_to_wire(run, path, content.expose());
            async move { client.entrust(request).await }
        })
        .await?;
        Ok(())
    }

    /// Lets a program describe the hardware: one in the installer's store, else the installer's own.
    pub async fn describe(
        &self,
        describer: Describer,
        program: Option<&StorePath>,
    ) -> Result<Description, LinkError> {
        let request = wire::describer_to_wire(describer, program);
        let reply = self
            .call(DESCRIBE, |mut client: Client| {
                let request = request.clone();
                async move { client.describe(request).await }
            })
            .await?;
        let (output, complaints) =
            wire::description_from_wire(reply).map_err(|error| LinkError::unreadable(&error))?;
        Ok(Description { output, complaints })
    }

    /// Stops the run, unless it is in one of the steps to be spared, whose name is returned then.
    pub async fn abort(
        &self,
        run: &RunId,
        by: &str,
        spares: &[&str],
    ) -> Result<Option<String>, LinkError> {
        let request = v1::AbortRequest {
            run_id: run.to_string(),
            by: by.to_owned(),
            spares: spares.iter().map(|step| (*step).to_owned()).collect(),
        };
        let reply = self
            .call(CALL, |mut client: Client| {
                let request = request.clone();
                async move { client.abort(request).await }
            })
            .await?;
        Ok(Some(reply.spared).filter(|step| !step.is_empty()))
    }

    /// Says that all events below `next` were seen; returns whether the agent lets go.
    pub async fn release(&self, run: &RunId, next: u64) -> Result<bool, LinkError> {
        self.let_go(run, next, false).await
    }

    /// Lets go of a run that goes on: the agent acts on its end by itself.
    pub async fn release_ahead(&self, run: &RunId, next: u64) -> Result<bool, LinkError> {
        self.let_go(run, next, true).await
    }

    async fn let_go(&self, run: &RunId, next: u64, ahead: bool) -> Result<bool, LinkError> {
        let request = v1::ReleaseRequest {
            run_id: run.to_string(),
            next,
            ahead,
        };
        let reply = self
            .call(CALL, |mut client: Client| {
                let request = request.clone();
                async move { client.release(request).await }
            })
            .await?;
        Ok(reply.released)
    }

    /// Lets go of a machine: of the run that ended there, or, where none was begun, of the agent itself.
    pub async fn leave(&self, run: Option<&RunId>, next: u64) {
        let run_id = run.map(RunId::to_string).unwrap_or_default();
        let request = v1::ReleaseRequest {
            run_id,
            next,
            ahead: false,
        };
        // an agent that is gone already was meant to be
        let _ = self
            .call(CALL, |mut client: Client| {
                let request = request.clone();
                async move { client.release(request).await }
            })
            .await;
    }

    /// Makes sure that the agent answers, on a new connection if it must be; returns how it is now.
    pub async fn confirm(&self) -> Result<v1::HelloReply, LinkError> {
        let request = channel::introduction(self.caller());
        self.call(CALL, |mut client: Client| {
            let request = request.clone();
            async move { client.hello(request).await }
        })
        .await
    }

    fn caller(&self) -> Caller {
        Caller {
            number: self.inner.controller,
            drives: self.inner.drives.load(Ordering::Relaxed),
        }
    }

    /// Returns how the machine is reached, and where the agent lies there.
    pub fn way(&self) -> (&Ssh, &Placed) {
        (&self.inner.reach.ssh, &self.inner.reach.placed)
    }

    /// Closes the connection. The next call makes a new one.
    pub async fn close(&self) {
        *self.inner.current.lock().await = None;
    }

    /// Makes a call until it is answered, the agent says no, or the machine is lost for too long.
    async fn call<T, F>(
        &self,
        patience: Duration,
        call: impl Fn(Client) -> F + Sync,
    ) -> Result<T, LinkError>
    where
        F: Future<Output = Result<Response<T>, Status>> + Send,
        T: Send,
    {
        loop {
            let session = self.session().await?;
            let answer = tokio::time::timeout(patience, call(session.client())).await;
            let error = match answer {
                Ok(Ok(answer)) => {
                    self.answered();
                    return Ok(answer.into_inner());
                }
                Ok(Err(status)) => match trouble::meaning(&status) {
                    Meaning::Final(error) => return Err(error),
                    Meaning::Transport(words) => session.connection.why(&words).await,
                },
                Err(_) => LinkError::Late(patience),
            };
            self.broke(&session, error).await?;
        }
    }

    /// Returns the connection that is up, or makes one.
    pub(super) async fn session(&self) -> Result<Arc<Session>, LinkError> {
        let mut current = self.inner.current.lock().await;
        if let Some(session) = &*current {
            return Ok(Arc::clone(session));
        }
        let session = Arc::new(self.reconnect().await?);
        *current = Some(Arc::clone(&session));
        Ok(session)
    }

    /// Forgets a connection that broke. An error says that making another one would change nothing.
    pub(super) async fn broke(
        &self,
        session: &Arc<Session>,
        error: LinkError,
    ) -> Result<(), LinkError> {
        let mut current = self.inner.current.lock().await;
        if current
            .as_ref()
            .is_some_and(|now| Arc::ptr_eq(now, session))
        {
            *current = None;
            let view = LinkView::Retrying {
                attempt: 1,
                since_ms: 0,
                seen: error.seen(),
            };
            self.inner.view.send_replace(view);
        }
        drop(current);
        let in_a_row = self.inner.broken.fetch_add(1, Ordering::Relaxed) + 1;
        match error {
            LinkError::Ssh(_) | LinkError::Distrust(_) | LinkError::Skew(_) => Err(error),
            error if in_a_row >= BROKEN_IN_A_ROW => Err(error),
            // the pause is longer each time, and none for the first
            _ => {
                tokio::time::sleep(pause(in_a_row - 1)).await;
                Ok(())
            }
        }
    }

    /// Returns where the reader is among the light events; one reader at a time.
    pub(super) async fn light(&self) -> MutexGuard<'_, Light> {
        self.inner.light.lock().await
    }

    /// Notes that a call was answered.
    pub(super) fn answered(&self) {
        self.inner.broken.store(0, Ordering::Relaxed);
    }

    async fn reconnect(&self) -> Result<Session, LinkError> {
        let within = self.inner.reach.reconnect_timeout;
        let began = Instant::now();
        let (mut attempt, mut refused, mut revivals) = (0, 0, 0);
        loop {
            let error = match self.try_connect().await {
                Ok(session) => return Ok(session),
                Err(error) => error,
            };
            attempt += 1;
            let elapsed = began.elapsed();
            let seen = error.seen();
            let login_refused = matches!(&error, LinkError::Lost { error, .. }
                if error.trouble == super::classify::Trouble::AuthRefused);
            refused = if login_refused { refused + 1 } else { 0 };
            let wait = pause(attempt);
            let may_pass = match &error {
                LinkError::Lost { .. } | LinkError::Late(_) => refused < REFUSED_IN_A_ROW,
                LinkError::Gone(_) if self.inner.reach.revive && revivals < REVIVALS => {
                    revivals += 1;
                    // should it fail, the next try says why
                    self.revive().await;
                    true
                }
                _ => false,
            };
            if !may_pass || elapsed + wait >= within {
                self.inner.view.send_replace(LinkView::Lost { seen });
                return Err(match error {
                    LinkError::Lost { error, .. } => LinkError::Lost {
                        within: elapsed,
                        error,
                    },
                    error => error,
                });
            }
            let since_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
            self.inner.view.send_replace(LinkView::Retrying {
                attempt: attempt + 1,
                since_ms,
                seen,
            });
            tokio::time::sleep(wait).await;
        }
    }

    async fn try_connect(&self) -> Result<Session, LinkError> {
        let patience = if self.inner.reach.ssh.asks() {
            CONNECT_PERSON
        } else {
            CONNECT
        };
        let made = tokio::time::timeout(patience, async {
            let connection = self.dial(Use::Control).await?;
            let hello = channel::hello(&connection, self.caller()).await?;
            Ok((connection, hello))
        });
        let (connection, hello) = made.await.unwrap_or(Err(LinkError::Late(patience)))?;
        self.inner.view.send_replace(LinkView::Up);
        let pulse = connection.pulse.clone();
        let view = self.inner.view.clone();
        let watch = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let silent = pulse.silent_for();
                view.send_if_modified(|view| listen(view, silent));
            }
        });
        Ok(Session {
            connection,
            hello,
            _watch: AbortOnDropHandle::new(watch),
        })
    }

    pub(super) async fn dial(&self, purpose: Use) -> Result<Connection, LinkError> {
        let reach = &self.inner.reach;
        let arguments = format!("proxy --dir {}", quote(&reach.folder));
        let command = reach.placed.place.command(&reach.placed.hash, &arguments);
        let (trust, controller) = (&self.inner.trust, self.inner.controller);
        channel::connect(&reach.ssh, &command, trust, controller, purpose).await
    }

    /// Starts the agent again. On another boot there is no such file any more.
    async fn revive(&self) {
        let Reach {
            ssh,
            placed,
            folder,
            credentials,
            ..
        } = &self.inner.reach;
        // whoever revives it tries again
        let (credentials, once) = (credentials.for_agent(), Duration::ZERO);
        let _ = upload::start(ssh, placed, folder, &credentials, once, |_| ()).await;
    }
}

impl Session {
    pub(super) fn client(&self) -> Client {
        self.connection.client.clone()
    }

    pub(super) async fn why(&self, words: &str) -> LinkError {
        self.connection.why(words).await
    }
}

/// Notes silence, or its end; returns whether the view changed.
fn listen(view: &mut LinkView, silent: Duration) -> bool {
    let next = if silent > SILENCE {
        LinkView::Silent {
            since_ms: u64::try_from(silent.as_millis()).unwrap_or(u64::MAX),
        }
    } else {
        LinkView::Up
    };
    if *view == next || !matches!(view, LinkView::Up | LinkView::Silent { .. }) {
        return false;
    }
    *view = next;
    true
}

/// Returns the pause before a try; doubled each time, up to its bound, none before the first.
fn pause(attempt: u32) -> Duration {
    if attempt == 0 {
        return Duration::ZERO;
    }
    PAUSE
        .0
        .saturating_mul(1 << (attempt - 1).min(8))
        .min(PAUSE.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound() {
        assert_eq!(pause(0), Duration::ZERO);
        assert_eq!(pause(1), Duration::from_millis(500));
        assert_eq!(pause(3), Duration::from_secs(2));
        assert_eq!(pause(1000), Duration::from_secs(10));
    }

    #[test]
    fn silence_is_noted_only_while_connected() {
        let mut view = LinkView::Up;
        assert!(!listen(&mut view, Duration::from_secs(1)));
        assert!(listen(&mut view, Duration::from_secs(20)));
        assert_eq!(view, LinkView::Silent { since_ms: 20_000 });
        assert!(listen(&mut view, Duration::from_secs(1)));
        let mut view = LinkView::Lost {
            seen: String::new(),
        };
        assert!(!listen(&mut view, Duration::from_secs(20)));
    }
}
