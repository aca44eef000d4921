//! What the controller sends: blobs into the spool, store connections to a nix daemon, and the word that an input is
//! there. Steps wait here, and only here.

use std::{
    collections::HashSet,
    future::Future,
    io::Read,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex},
};

use landfall_proto::{
    failure::Failure,
    order::{Blob, Input, NixSettings, StoreRoot},
    stream::mux::{Accept, Accepted},
    wire::{CHUNK_MAX, Target},
};
use tokio::{
    io::{AsyncWriteExt, DuplexStream},
    sync::{oneshot, watch},
};
use tokio_util::io::SyncIoBridge;

use crate::{
    machine::{
        Machine,
        spool::{Incoming, Spool},
    },
    settings,
    steps::Deliveries,
};

/// Bytes between a stream and what takes it.
const PIPE: usize = CHUNK_MAX;

/// Everything that has been delivered, and a place to wait for the rest.
#[derive(Debug)]
pub(crate) struct Arrivals {
    machine: Machine,
    supplied: watch::Sender<HashSet<Input>>,
    blobs: watch::Sender<u64>,
    nix: Mutex<NixSettings>,
}

impl Arrivals {
    pub(crate) fn new(machine: Machine) -> Self {
        let supplied = watch::Sender::new(HashSet::new());
        Self {
            machine,
            supplied,
            blobs: watch::Sender::new(0),
            nix: Mutex::default(),
        }
    }

    /// Remembers that an input is there, also for an agent that comes after this one.
    pub(crate) fn supply(&self, input: Input) -> Result<(), Failure> {
        let mut kept = Ok(());
        self.supplied.send_if_modified(|inputs| {
            if !inputs.insert(input) {
                return false;
            }
            kept = self.machine.set_supplied(inputs);
            if kept.is_err() {
                inputs.remove(&input);
            }
            kept.is_ok()
        });
        kept
    }

    /// Forgets all inputs but these, and takes the settings of this run.
    pub(crate) fn begin(&self, inputs: HashSet<Input>, nix: NixSettings) -> Result<(), Failure> {
        self.machine.set_supplied(&inputs)?;
        self.supplied.send_replace(inputs);
        *self.nix.lock().expect("no holder panics") = nix;
        Ok(())
    }

    /// Returns where blobs are kept: where that is, is known once it is known what they are for.
    fn spool(&self) -> Result<Spool, Failure> {
        Spool::open(self.machine.spool_dir())
    }

    async fn receive(self: Arc<Self>, blob: Blob) -> Result<Accepted, String> {
        let (io, local) = tokio::io::duplex(PIPE);
        let spool = self.spool().map_err(|failure| failure.in_one_line())?;
        if spool.complete(&blob).is_some() {
            // by itself: a verdict is asked for only once this end has been let go of
            tokio::spawn(drain(local));
            return Ok(Accepted {
                resume_from: blob.size,
                io,
                verdict: Box::pin(async { Ok(()) }),
            });
        }
        let opened = tokio::task::spawn_blocking(move || spool.receive(&blob)).await;
        let incoming = opened
            .map_err(|e| e.to_string())?
            .map_err(|failure| failure.in_one_line())?;
        let resume_from = incoming.length();
        let (tell, verdict) = oneshot::channel();
        let bridge = SyncIoBridge::new(local);
        let writer = tokio::task::spawn_blocking(move || {
            let kept = keep(incoming, bridge);
            if kept.is_ok() {
                self.blobs.send_modify(|count| *count += 1);
            }
            // nobody asks when the stream broke
            let _ = tell.send(kept.map(drop).map_err(|failure| failure.in_one_line()));
        });
        drop(writer);
        let verdict = async {
            verdict
                .await
                .unwrap_or_else(|_| Err("the writer ended".into()))
        };
        Ok(Accepted {
            resume_from,
            io,
            verdict: Box::pin(verdict),
        })
    }

    async fn converse(self: Arc<Self>, root: StoreRoot) -> Result<Accepted, String> {
        let nix = self.nix.lock().expect("no holder panics").clone();
        let command = self
            .machine
            .blocking(move |machine| machine.nix_daemon(root, &nix))
            .await
            .map_err(|failure| failure.in_one_line())?;
        let daemon = self
            .machine
            .programs()
            .pipe(&command)
            .await
            .map_err(|failure| failure.in_one_line())?;
        let (io, local) = tokio::io::duplex(PIPE);
        let jobs = std::thread::available_parallelism().map_or(1, |jobs| jobs.get() as u64);
        tokio::spawn(async move {
            let (mut stdin, mut stdout, guard) = daemon.split();
            let (read, mut write) = tokio::io::split(local);
            let (tell, version) = oneshot::channel();
            let feed = async {
                // an end that is gone shows in the other direction
                let _ = settings::pass(read, &mut stdin, version, jobs).await;
                drop(stdin);
            };
            let answer = async {
                if settings::hear_version(&mut stdout, &mut write, tell)
                    .await
                    .is_ok()
                {
                    let _ = tokio::io::copy(&mut stdout, &mut write).await;
                }
                let _ = write.shutdown().await;
            };
            tokio::join!(feed, answer);
            drop(guard);
        });
        Ok(Accepted {
            resume_from: 0,
            io,
            verdict: Box::pin(async { Ok(()) }),
        })
    }
}

impl Deliveries for Arc<Arrivals> {
    async fn blob(&self, blob: &Blob) -> Result<PathBuf, Failure> {
        let mut blobs = self.blobs.subscribe();
        loop {
            if let Some(path) = self.spool()?.complete(blob) {
                return Ok(path);
            }
            if blobs.changed().await.is_err() {
                return Err(Failure::new("cannot wait for a blob")
                    .because("the agent is ending")
                    .code("LF0904"));
            }
        }
    }

    async fn input(&self, input: Input) -> Result<(), Failure> {
        let mut supplied = self.supplied.subscribe();
        match supplied.wait_for(|inputs| inputs.contains(&input)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Failure::new("cannot wait for an input")
                .because("the agent is ending")
                .code("LF0904")),
        }
    }
}

/// Answers streams with what arrives here.
#[derive(Debug)]
pub(crate) struct Door(pub(crate) Arc<Arrivals>);

impl Accept for Door {
    fn accept(
        &self,
        target: Target,
    ) -> Pin<Box<dyn Future<Output = Result<Accepted, String>> + Send + '_>> {
        let arrivals = Arc::clone(&self.0);
        Box::pin(async move {
            match target {
                Target::Blob(blob) => arrivals.receive(blob).await,
                Target::Store(root) => arrivals.converse(root).await,
            }
        })
    }
}

/// Keeps what comes through the bridge until it ends, then checks the whole.
fn keep(
    mut incoming: Incoming,
    mut bridge: SyncIoBridge<DuplexStream>,
) -> Result<PathBuf, Failure> {
    let mut buffer = vec![0; CHUNK_MAX];
    loop {
        let read = bridge.read(&mut buffer).map_err(|error| {
            Failure::new("cannot receive a blob")
                .because("reading the stream")
                .caused_by(&error)
                .code("LF0313")
        })?;
        if read == 0 {
            // tells the other direction that the verdict is due only after it is known: the bridge closes on return
            return incoming.finish();
        }
        incoming.write(&buffer[..read])?;
    }
}

/// Takes what comes and throws it away.
async fn drain(mut local: DuplexStream) {
    // what breaks off is not missed
    let _ = tokio::io::copy(&mut local, &mut tokio::io::sink()).await;
}
