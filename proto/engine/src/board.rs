//! The folded state of a run on a watch channel: one writer, any number of readers, no queue.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use landfall_proto::{
    event::{Event, Kind},
    report::{History, Illegal, RunState},
};
use tokio::sync::{broadcast, watch};

/// Events that a live listener may lag behind before it is told that it missed some.
const LISTENER_QUEUE: usize = 4096;

/// The board on which a run is told. Clones show the same run.
#[derive(Debug, Clone)]
pub struct Board {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    told: Mutex<Told>,
    changed: watch::Sender<u64>,
    live: broadcast::Sender<Event>,
    began: Instant,
    offset: Duration,
}

#[derive(Debug, Default)]
struct Told {
    state: RunState,
    history: History,
}

impl Board {
    /// Makes a board for a run that began `offset` ago.
    pub fn new(offset: Duration) -> Self {
        let inner = Inner {
            told: Mutex::default(),
            changed: watch::Sender::new(0),
            live: broadcast::Sender::new(LISTENER_QUEUE),
            began: Instant::now(),
            offset,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Returns a copy of the state.
    pub fn state(&self) -> RunState {
        self.lock().state.clone()
    }

    /// Looks at the state and acts on it before it can change. `act` must not wait, and must not ask the board.
    pub fn while_so<T>(&self, act: impl FnOnce(&RunState) -> T) -> T {
        act(&self.lock().state)
    }

    /// Returns what a reader lacks, and its next cursor.
    pub fn report_since(&self, next: u64, light: u64) -> (Vec<Event>, (u64, u64)) {
        let told = self.lock();
        (
            told.history.report_since(next, light),
            told.history.cursor(),
        )
    }

    /// Returns a channel that changes whenever something was told.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    /// Returns a channel with every event told from now on, for readers in the same process.
    pub fn listen(&self) -> broadcast::Receiver<Event> {
        self.inner.live.subscribe()
    }

    /// Waits until the run has ended and returns its state.
    pub async fn ended(&self) -> RunState {
        let mut changes = self.changes();
        loop {
            let state = self.state();
            if state.end.is_some() || changes.changed().await.is_err() {
                return state;
            }
        }
    }

    /// Makes the heavy event that would follow, without telling it.
    pub(crate) fn next_heavy(&self, step: Option<&str>, kind: Kind) -> Event {
        let index = self.lock().state.next;
        Event {
            index,
            light: None,
            at_ms: self.now_ms(),
            step: step.map(str::to_owned),
            kind,
        }
    }

    /// Tells a heavy event that the journal holds already.
    pub(crate) fn tell_heavy(&self, event: Event) -> Result<(), Illegal> {
        let mut told = self.lock();
        told.state.apply(&event)?;
        let event = told.history.keep(event);
        drop(told);
        self.spread(event);
        Ok(())
    }

    pub(crate) fn tell_light(&self, step: Option<&str>, kind: Kind) {
        let mut told = self.lock();
        let index = told.state.next;
        let event = Event {
            index,
            light: None,
            at_ms: self.now_ms(),
            step: step.map(str::to_owned),
            kind,
        };
        // light events are never refused
        let _ = told.state.apply(&event);
        let event = told.history.keep(event);
        drop(told);
        self.spread(event);
    }

    /// Tells an event of another run below a step of this one, to live listeners only.
    pub(crate) fn nested(&self, step: &str, event: &Event) {
        let inner = event.step.as_deref().unwrap_or_default();
        let mut event = event.clone();
        event.step = Some(format!("{step}/{inner}"));
        event.at_ms = self.now_ms();
        self.spread(event);
    }

    fn spread(&self, event: Event) {
        // nobody listening is fine
        let _ = self.inner.live.send(event);
        self.inner.changed.send_modify(|count| *count += 1);
    }

    fn now_ms(&self) -> u64 {
        let at = self.inner.offset + self.inner.began.elapsed();
        u64::try_from(at.as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.inner
            .told
            .lock()
            .expect("no holder of the board panics")
    }
}
