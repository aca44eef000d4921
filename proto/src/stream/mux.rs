//! Drives the streams of one side: local ends in and out, lanes attached and lost.
//!
//! Every task belongs to the mux and ends with it.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf},
    sync::{mpsc, oneshot, watch},
};
use tokio_stream::{Stream as Incoming, StreamExt};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    codec::{Decode, Encode},
    state::{Asked, State},
};
use crate::{
    v1,
    wire::{self, CHUNK_MAX, Target},
};

/// Bytes between a local end and its stream.
const PIPE: usize = 256 << 10;

/// Why a stream or a lane is over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Broken(pub String);

/// How a local end says whether all went well, once it has got everything.
pub type Verdict = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// The local end of a stream that was accepted.
pub struct Accepted {
    /// What of the opener's direction is here already, in bytes.
    pub resume_from: u64,
    /// The other half of the local end.
    pub io: DuplexStream,
    /// Asked once the local end has closed its direction; an error resets the stream.
    pub verdict: Verdict,
}

impl fmt::Debug for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accepted")
            .field("resume_from", &self.resume_from)
            .finish_non_exhaustive()
    }
}

/// Answers streams that the other side opens.
pub trait Accept: Send + Sync + 'static {
    /// Makes the local end for a stream, or says why there is none.
    fn accept(
        &self,
        target: Target,
    ) -> Pin<Box<dyn Future<Output = Result<Accepted, String>> + Send + '_>>;
}

/// A stream that this side opened.
#[derive(Debug)]
pub struct Opened {
    /// Offset from which the other side wants this side's bytes.
    pub resume_from: u64,
    /// The stream's bytes. Its end is read also when the stream broke: ask `done`.
    pub io: DuplexStream,
    /// Tells how the stream ended, once both directions are over.
    pub done: oneshot::Receiver<Result<(), Broken>>,
}

/// What was moved, in bytes, over all streams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Read from local ends.
    pub sent: u64,
    /// The same after encoding.
    pub sent_encoded: u64,
    /// Given to local ends.
    pub received: u64,
    /// Given to a lane more than once.
    pub resent: u64,
}

/// The streams of one side. Clones drive the same streams.
#[derive(Clone)]
pub struct Mux {
    inner: Arc<Inner>,
}

impl fmt::Debug for Mux {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mux")
            .field("traffic", &self.traffic())
            .finish_non_exhaustive()
    }
}

struct Inner {
    state: Mutex<State>,
    ends: Mutex<BTreeMap<u64, End>>,
    changed: watch::Sender<u64>,
    accept: Option<Arc<dyn Accept>>,
    cancel: CancellationToken,
    _guard: DropGuard,
    sent: AtomicU64,
    sent_encoded: AtomicU64,
    received: AtomicU64,
    next_stream: AtomicU64,
}

/// What is kept of a stream besides its state.
struct End {
    answered: Option<oneshot::Sender<Result<u64, Broken>>>,
    done: Option<oneshot::Sender<Result<(), Broken>>>,
    cancel: CancellationToken,
}

impl Mux {
    /// Makes the side that opens streams. `seed` makes their numbers differ from those of an earlier process.
    pub fn opener(seed: u64) -> Self {
        Self::new(None, seed)
    }

    /// Makes the side that answers.
    pub fn acceptor(accept: Arc<dyn Accept>) -> Self {
        Self::new(Some(accept), 0)
    }

    fn new(accept: Option<Arc<dyn Accept>>, seed: u64) -> Self {
        let cancel = CancellationToken::new();
        let inner = Inner {
            state: Mutex::default(),
            ends: Mutex::default(),
            changed: watch::Sender::new(0),
            accept,
            _guard: cancel.clone().drop_guard(),
            cancel,
            sent: AtomicU64::new(0),
            sent_encoded: AtomicU64::new(0),
            received: AtomicU64::new(0),
            next_stream: AtomicU64::new(seed),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Returns what was moved so far.
    pub fn traffic(&self) -> Traffic {
        let state = self.inner.state();
        let open: u64 = state
            .streams
            .values()
            .map(|stream| stream.send.resent)
            .sum();
        Traffic {
            sent: self.inner.sent.load(Relaxed),
            sent_encoded: self.inner.sent_encoded.load(Relaxed),
            received: self.inner.received.load(Relaxed),
            resent: state.resent + open,
        }
    }

    /// Returns how many lanes are up.
    pub fn lanes(&self) -> usize {
        self.inner.state().lanes()
    }

    /// Opens a stream and waits for the answer, for as long as it takes: the caller has the deadline.
    ///
    /// Bytes written to it start at `resume_from`.
    pub async fn open(&self, target: &Target, codec: v1::Codec) -> Result<Opened, Broken> {
        let id = self.inner.next_stream.fetch_add(1, Relaxed);
        let open = v1::Open {
            stream: id,
            codec: codec.into(),
            target: Some(wire::target_to_wire(target)),
        };
        let (answered, answer) = oneshot::channel();
        let (done_tx, done) = oneshot::channel();
        let cancel = self.inner.cancel.child_token();
        let end = End {
            answered: Some(answered),
            done: Some(done_tx),
            cancel: cancel.clone(),
        };
        self.inner.ends().insert(id, end);
        let queued = self.inner.state().open(open);
        if let Err(reason) = queued {
            self.inner.ends().remove(&id);
            return Err(Broken(reason));
        }
        self.inner.bump();
        let mut abandoned = ResetOnDrop {
            inner: Some(&self.inner),
            id,
        };
        let resume_from = answer
            .await
            .unwrap_or_else(|_| Err(Broken("the streams were closed".to_owned())))?;
        abandoned.inner = None;
        let (io, local) = tokio::io::duplex(PIPE);
        let verdict: Verdict = Box::pin(async { Ok(()) });
        self.inner.pump(id, codec, local, verdict, &cancel);
        Ok(Opened {
            resume_from,
            io,
            done,
        })
    }

    /// Carries frames over one lane until it is lost; returns why.
    pub async fn lane<S, E>(&self, out: mpsc::Sender<v1::Frame>, incoming: S) -> Broken
    where
        S: Incoming<Item = Result<v1::Frame, E>> + Unpin,
        E: fmt::Display,
    {
        let lane = self.inner.state().attach();
        self.inner.bump();
        let attached = DetachOnDrop {
            inner: &self.inner,
            lane,
        };
        let why = tokio::select! {
            () = self.write_lane(lane, out) => Broken("the lane was closed".to_owned()),
            why = self.read_lane(lane, incoming) => why,
            () = self.inner.cancel.cancelled() => Broken("the streams were closed".to_owned()),
        };
        drop(attached);
        why
    }

    /// Ends all streams, badly, and refuses new lanes.
    pub fn close(&self, reason: &str) {
        let ids: Vec<u64> = self.inner.ends().keys().copied().collect();
        for id in ids {
            self.inner.state().reset(id, reason);
            self.inner.ended(id, Err(Broken(reason.to_owned())));
        }
        self.inner.cancel.cancel();
        self.inner.bump();
    }

    async fn write_lane(&self, lane: u64, out: mpsc::Sender<v1::Frame>) {
        let mut changed = self.inner.changed.subscribe();
        loop {
            let frame = self.inner.state().next_frame(lane, Instant::now());
            let sent = match frame {
                Some(frame) => out.send(frame).await.is_ok(),
                None => tokio::select! {
                    changed = changed.changed() => changed.is_ok(),
                    () = out.closed() => false,
                },
            };
            if !sent {
                return;
            }
        }
    }

    async fn read_lane<S, E>(&self, lane: u64, mut incoming: S) -> Broken
    where
        S: Incoming<Item = Result<v1::Frame, E>> + Unpin,
        E: fmt::Display,
    {
        loop {
            let frame = match incoming.next().await {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Broken(error.to_string()),
                None => return Broken("the other side ended the lane".to_owned()),
            };
            let asked = self.inner.state().take(lane, frame, Instant::now());
            match asked {
                Asked::Nothing => {}
                Asked::Accept(open) => self.accept(open),
                Asked::Opened(id) => self.inner.answered(id),
                Asked::Broken(id, reason) => self.inner.ended(id, Err(Broken(reason))),
            }
            self.inner.sweep();
            self.inner.bump();
        }
    }

    fn accept(&self, open: v1::Open) {
        let weak = Arc::downgrade(&self.inner);
        let cancel = self.inner.cancel.child_token();
        let Some(accept) = self.inner.accept.clone() else {
            self.inner
                .state()
                .reset(open.stream, "streams are not opened in this direction");
            return;
        };
        let task = async move {
            let id = open.stream;
            let accepted = match wire::target_from_wire(&open) {
                Ok(target) => accept.accept(target).await,
                Err(error) => Err(error.to_string()),
            };
            let Some(inner) = weak.upgrade() else { return };
            match accepted {
                Ok(accepted) => {
                    inner.state().accept(id, accepted.resume_from);
                    let cancel = inner.cancel.child_token();
                    let end = End {
                        answered: None,
                        done: None,
                        cancel: cancel.clone(),
                    };
                    inner.ends().insert(id, end);
                    inner.pump(id, open.codec(), accepted.io, accepted.verdict, &cancel);
                }
                Err(reason) => inner.state().reset(id, &reason),
            }
            inner.bump();
        };
        tokio::spawn(async move {
            tokio::select! { () = task => {}, () = cancel.cancelled() => {} }
        });
    }
}

/// Tells the other side when nobody waits for the answer any more.
struct ResetOnDrop<'a> {
    inner: Option<&'a Arc<Inner>>,
    id: u64,
}

impl Drop for ResetOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(inner) = self.inner {
            inner.ends().remove(&self.id);
            inner.state().reset(self.id, "nobody waits for it any more");
            inner.bump();
        }
    }
}

struct DetachOnDrop<'a> {
    inner: &'a Arc<Inner>,
    lane: u64,
}

impl Drop for DetachOnDrop<'_> {
    fn drop(&mut self) {
        self.inner.state().detach(self.lane);
        self.inner.bump();
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the streams panics")
    }

    fn ends(&self) -> MutexGuard<'_, BTreeMap<u64, End>> {
        self.ends.lock().expect("no holder of the ends panics")
    }

    fn bump(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn sweep(&self) {
        let over = self.state().sweep();
        for id in over {
            self.ended(id, Ok(()));
        }
    }

    fn answered(&self, id: u64) {
        let resume_from = self
            .state()
            .streams
            .get(&id)
            .and_then(|stream| stream.opened);
        let answered = self.ends().get_mut(&id).and_then(|end| end.answered.take());
        if let (Some(answered), Some(from)) = (answered, resume_from) {
            // whoever waited may have given up
            let _ = answered.send(Ok(from));
        }
    }

    fn ended(&self, id: u64, how: Result<(), Broken>) {
        let Some(end) = self.ends().remove(&id) else {
            return;
        };
        end.cancel.cancel();
        if let (Some(answered), Err(broken)) = (end.answered, &how) {
            let _ = answered.send(Err(broken.clone()));
        }
        if let Some(done) = end.done {
            let _ = done.send(how);
        }
    }

    fn broken(&self, id: u64, reason: &str) {
        self.state().reset(id, reason);
        self.ended(id, Err(Broken(reason.to_owned())));
        self.bump();
    }

    /// Starts the two tasks of a stream.
    fn pump(
        self: &Arc<Self>,
        id: u64,
        codec: v1::Codec,
        io: DuplexStream,
        verdict: Verdict,
        cancel: &CancellationToken,
    ) {
        let (read, write) = tokio::io::split(io);
        let (inner, stop) = (Arc::downgrade(self), cancel.clone());
        tokio::spawn(async move {
            let changed = inner.upgrade().map(|inner| inner.changed.subscribe());
            let Some(changed) = changed else { return };
            let work = pump_out(&inner, id, codec, read, verdict, changed);
            let result = tokio::select! { r = work => r, () = stop.cancelled() => return };
            if let (Err(reason), Some(inner)) = (result, inner.upgrade()) {
                inner.broken(id, &reason);
            }
        });
        let (inner, stop) = (Arc::downgrade(self), cancel.clone());
        tokio::spawn(async move {
            let changed = inner.upgrade().map(|inner| inner.changed.subscribe());
            let Some(changed) = changed else { return };
            let work = pump_in(&inner, id, codec, write, changed);
            let result = tokio::select! { r = work => r, () = stop.cancelled() => return };
            if let (Err(reason), Some(inner)) = (result, inner.upgrade()) {
                inner.broken(id, &reason);
            }
        });
    }
}

type WeakInner = std::sync::Weak<Inner>;

/// Moves bytes from a local end into its stream.
async fn pump_out(
    weak: &WeakInner,
    id: u64,
    codec: v1::Codec,
    mut read: ReadHalf<DuplexStream>,
    verdict: Verdict,
    mut changed: watch::Receiver<u64>,
) -> Result<(), String> {
    let mut encode = Encode::new(codec).map_err(|error| error.to_string())?;
    let mut buffer = vec![0; CHUNK_MAX];
    loop {
        loop {
            let room = match weak.upgrade() {
                Some(inner) => inner
                    .state()
                    .streams
                    .get(&id)
                    .map(|stream| stream.send.has_room()),
                None => None,
            };
            match room {
                Some(true) => break,
                Some(false) => changed.changed().await.map_err(|e| e.to_string())?,
                None => return Ok(()),
            }
        }
        let length = read
            .read(&mut buffer)
            .await
            .map_err(|error| error.to_string())?;
        if length == 0 {
            break;
        }
        let encoded = encode
            .encode(&buffer[..length])
            .map_err(|error| error.to_string())?;
        let Some(inner) = weak.upgrade() else {
            return Ok(());
        };
        inner.sent.fetch_add(length as u64, Relaxed);
        inner.sent_encoded.fetch_add(encoded.len() as u64, Relaxed);
        if let Some(stream) = inner.state().streams.get_mut(&id) {
            encoded
                .chunks(CHUNK_MAX)
                .for_each(|piece| stream.send.push(piece.to_vec()));
        }
        inner.bump();
    }
    verdict.await?;
    if let Some(inner) = weak.upgrade() {
        if let Some(stream) = inner.state().streams.get_mut(&id) {
            stream.send.finish();
        }
        inner.sweep();
        inner.bump();
    }
    Ok(())
}

/// Moves bytes from a stream to its local end.
async fn pump_in(
    weak: &WeakInner,
    id: u64,
    codec: v1::Codec,
    mut write: WriteHalf<DuplexStream>,
    mut changed: watch::Receiver<u64>,
) -> Result<(), String> {
    let mut decode = Decode::new(codec).map_err(|error| error.to_string())?;
    // a local end that has gone away wants no more bytes; the other side is still told that they arrived
    let mut listening = true;
    loop {
        let Some(inner) = weak.upgrade() else {
            return Ok(());
        };
        let next = match inner.state().streams.get_mut(&id) {
            None => return Ok(()),
            Some(stream) => match stream.receive.take() {
                Some(data) => Some(data),
                None if stream.receive.is_drained() => break,
                None => None,
            },
        };
        drop(inner);
        let Some(data) = next else {
            changed.changed().await.map_err(|error| error.to_string())?;
            continue;
        };
        let mut rest = &data[..];
        loop {
            let piece = decode
                .decode(&mut rest)
                .map_err(|error| error.to_string())?;
            if listening && !piece.is_empty() {
                listening = write.write_all(&piece).await.is_ok();
            }
            if let Some(inner) = weak.upgrade() {
                inner.received.fetch_add(piece.len() as u64, Relaxed);
            }
            if rest.is_empty() && !decode.may_hold_more(piece.len()) {
                break;
            }
        }
        let Some(inner) = weak.upgrade() else {
            return Ok(());
        };
        if let Some(stream) = inner.state().streams.get_mut(&id) {
            stream.receive.consume(data.len() as u64);
        }
        inner.bump();
    }
    // closing may fail only because the end is gone
    let _ = write.shutdown().await;
    if let Some(inner) = weak.upgrade() {
        if let Some(stream) = inner.state().streams.get_mut(&id) {
            stream.receive.closed = true;
        }
        inner.sweep();
        inner.bump();
    }
    Ok(())
}
