//! All streams of one side, and which frame a lane shall carry next. Pure: no tasks, no waiting.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound::{Excluded, Unbounded},
    time::Instant,
};

use super::{
    receive::{ReceiveHalf, chunk_hash},
    send::{LaneId, SendHalf},
};
use crate::v1::{self, frame::Kind};

/// Streams that may be open at once.
const STREAMS_MAX: usize = 64;
/// Ended streams that are remembered, for a side that has not heard of the end.
const REMEMBERED: usize = 1024;
/// Answers that may wait for a lane. Who asks for more without reading them gets none.
const ANSWERS_MAX: usize = 4096;

/// One open stream.
#[derive(Debug)]
pub(super) struct Stream {
    /// The frame that opens it, on the side that asked.
    pub(super) open: Option<v1::Open>,
    /// The opener has its answer; the other side has given it.
    pub(super) opened: Option<u64>,
    opened_due: bool,
    open_due: bool,
    pub(super) send: SendHalf,
    pub(super) receive: ReceiveHalf,
}

/// What a frame asks the driver to do.
#[derive(Debug)]
pub(super) enum Asked {
    /// Nothing beyond the state.
    Nothing,
    /// Answer the opening of a stream.
    Accept(v1::Open),
    /// The stream was answered.
    Opened(u64),
    /// The stream broke.
    Broken(u64, String),
}

/// All streams of one side.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) streams: BTreeMap<u64, Stream>,
    lanes: BTreeMap<LaneId, VecDeque<v1::Frame>>,
    /// Streams being accepted.
    accepting: BTreeSet<u64>,
    /// Ended streams: what was received and what was sent, in bytes.
    ended: BTreeMap<u64, (u64, u64)>,
    ended_order: VecDeque<u64>,
    turn: u64,
    next_lane: LaneId,
    pub(super) resent: u64,
}

impl Stream {
    fn new(open: Option<v1::Open>, send_from: u64, receive_from: u64) -> Self {
        let asks = open.is_some();
        Self {
            open,
            opened: None,
            opened_due: false,
            open_due: asks,
            send: SendHalf::new(send_from),
            receive: ReceiveHalf::new(receive_from),
        }
    }
}

impl State {
    /// Adds a stream that this side opens.
    pub(super) fn open(&mut self, open: v1::Open) -> Result<(), String> {
        self.check_room()?;
        self.streams
            .insert(open.stream, Stream::new(Some(open), 0, 0));
        Ok(())
    }

    /// Adds a stream that the other side opened, whose bytes start at `resume_from`.
    pub(super) fn accept(&mut self, id: u64, resume_from: u64) {
        self.accepting.remove(&id);
        let mut stream = Stream::new(None, 0, resume_from);
        stream.opened = Some(resume_from);
        stream.opened_due = true;
        self.streams.insert(id, stream);
    }

    /// Ends a stream badly and tells the other side.
    pub(super) fn reset(&mut self, id: u64, reason: &str) {
        self.accepting.remove(&id);
        if let Some(stream) = self.streams.remove(&id) {
            self.remember(id, &stream);
        }
        self.answer(
            None,
            Kind::Reset(v1::Reset {
                stream: id,
                reason: reason.to_owned(),
            }),
        );
    }

    pub(super) fn attach(&mut self) -> LaneId {
        self.next_lane += 1;
        let mut first = VecDeque::new();
        for (&id, stream) in &mut self.streams {
            stream.open_due = stream.open.is_some() && stream.opened.is_none();
            stream.opened_due = stream.open.is_none();
            stream.send.end_due = stream.send.length().is_some();
            stream.receive.ack_due = true;
            if stream.opened.is_some() {
                first.push_back(sync(id, stream, true));
            }
        }
        self.lanes.insert(self.next_lane, first);
        self.next_lane
    }

    pub(super) fn detach(&mut self, lane: LaneId) {
        self.lanes.remove(&lane);
        let mut lost = Vec::new();
        for (&id, stream) in &mut self.streams {
            if stream.send.lane_lost(lane) {
                lost.push(sync(id, stream, true));
            }
            // what was told on that lane may not have arrived
            stream.send.end_due = stream.send.length().is_some();
            stream.receive.ack_due = true;
            stream.open_due = stream.open.is_some() && stream.opened.is_none();
            stream.opened_due = stream.open.is_none();
        }
        if let Some(queue) = self.lanes.values_mut().next() {
            queue.extend(lost);
        }
    }

    pub(super) fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Returns the frame this lane shall carry next.
    pub(super) fn next_frame(&mut self, lane: LaneId, now: Instant) -> Option<v1::Frame> {
        if let Some(frame) = self.lanes.get_mut(&lane)?.pop_front() {
            return Some(frame);
        }
        // streams take turns, so that a long one does not starve a short one
        let after = self.streams.range((Excluded(self.turn), Unbounded));
        let after: Vec<u64> = after.map(|(&id, _)| id).collect();
        let before: Vec<u64> = self
            .streams
            .range(..=self.turn)
            .map(|(&id, _)| id)
            .collect();
        for id in after.into_iter().chain(before) {
            let stream = self.streams.get_mut(&id)?;
            if let Some(kind) = next_of(id, stream, lane, now) {
                self.turn = id;
                return Some(v1::Frame { kind: Some(kind) });
            }
        }
        None
    }

    /// Takes a frame in that came on `lane`.
    pub(super) fn take(&mut self, lane: LaneId, frame: v1::Frame, now: Instant) -> Asked {
        let Some(kind) = frame.kind else {
            return Asked::Nothing;
        };
        let id = match &kind {
            Kind::Open(open) => return self.take_open(lane, open.clone()),
            Kind::Opened(v1::Opened { stream, .. })
            | Kind::Chunk(v1::Chunk { stream, .. })
            | Kind::Ack(v1::Ack { stream, .. })
            | Kind::End(v1::End { stream, .. })
            | Kind::Reset(v1::Reset { stream, .. })
            | Kind::Sync(v1::Sync { stream, .. }) => *stream,
        };
        if !self.streams.contains_key(&id) {
            self.take_unknown(lane, id, &kind);
            return Asked::Nothing;
        }
        self.take_known(lane, id, kind, now)
    }

    /// Forgets the streams that are over in both directions, and returns their numbers.
    pub(super) fn sweep(&mut self) -> Vec<u64> {
        let over = |stream: &Stream| stream.send.is_done() && stream.receive.is_done();
        let ids: Vec<u64> = self
            .streams
            .iter()
            .filter(|(_, stream)| over(stream))
            .map(|(&id, _)| id)
            .collect();
        for &id in &ids {
            // the last acknowledgement and the end have to be told once more than enough
            if let Some(mut stream) = self.streams.remove(&id) {
                let ack = v1::Ack {
                    stream: id,
                    offset: stream.receive.consumed(),
                };
                self.answer(None, Kind::Ack(ack));
                if let (true, Some(offset)) = (stream.send.end_due, stream.send.length()) {
                    stream.send.end_due = false;
                    self.answer(None, Kind::End(v1::End { stream: id, offset }));
                }
                self.remember(id, &stream);
            }
        }
        ids
    }

    fn take_open(&mut self, lane: LaneId, open: v1::Open) -> Asked {
        let id = open.stream;
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.opened_due = true;
            return Asked::Nothing;
        }
        if self.accepting.contains(&id) || self.ended.contains_key(&id) {
            return Asked::Nothing;
        }
        if let Err(reason) = self.check_room() {
            self.answer(Some(lane), Kind::Reset(v1::Reset { stream: id, reason }));
            return Asked::Nothing;
        }
        self.accepting.insert(id);
        Asked::Accept(open)
    }

    fn take_known(&mut self, lane: LaneId, id: u64, kind: Kind, now: Instant) -> Asked {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Asked::Nothing;
        };
        let legal = match kind {
            Kind::Opened(v1::Opened { resume_from, .. }) => match &stream.open {
                Some(open) if stream.opened.is_none() && resume_from <= furthest_start(open) => {
                    stream.opened = Some(resume_from);
                    stream.open_due = false;
                    stream.send = SendHalf::new(resume_from);
                    return Asked::Opened(id);
                }
                Some(_) if stream.opened.is_none() => Err("a start beyond the end".to_owned()),
                _ => Ok(()),
            },
            Kind::Chunk(chunk) => stream
                .receive
                .chunk(chunk.offset, &chunk.hash, chunk.data)
                .map_err(|violation| violation.to_string()),
            Kind::Ack(ack) => {
                let legal = stream.send.ack(ack.offset, now);
                legal
                    .then_some(())
                    .ok_or_else(|| "an acknowledgement of what was not sent".into())
            }
            Kind::End(end) => stream.receive.end(end.offset).map_err(|v| v.to_string()),
            Kind::Sync(sync_frame) => {
                let legal = stream.send.sync(sync_frame.received);
                if legal && sync_frame.reply_wanted {
                    let reply = sync(id, stream, false);
                    queue(self.lanes.get_mut(&lane), reply);
                }
                legal
                    .then_some(())
                    .ok_or_else(|| "a sync beyond what was sent".into())
            }
            Kind::Reset(reset) => {
                if let Some(stream) = self.streams.remove(&id) {
                    self.remember(id, &stream);
                }
                return Asked::Broken(id, reset.reason);
            }
            Kind::Open(_) => Ok(()),
        };
        match legal {
            Ok(()) => Asked::Nothing,
            Err(reason) => {
                self.reset(id, &reason);
                Asked::Broken(id, reason)
            }
        }
    }

    fn take_unknown(&mut self, lane: LaneId, id: u64, kind: &Kind) {
        let wants_answer = matches!(
            kind,
            Kind::Chunk(_) | Kind::End(_) | Kind::Sync(_) | Kind::Opened(_)
        );
        if !wants_answer || self.accepting.contains(&id) {
            return;
        }
        if let Some(&(received, sent)) = self.ended.get(&id) {
            self.answer(
                Some(lane),
                Kind::Ack(v1::Ack {
                    stream: id,
                    offset: received,
                }),
            );
            self.answer(
                Some(lane),
                Kind::End(v1::End {
                    stream: id,
                    offset: sent,
                }),
            );
        } else {
            let reason = "the stream is not known here any more".to_owned();
            self.answer(Some(lane), Kind::Reset(v1::Reset { stream: id, reason }));
        }
    }

    /// Queues a frame on a lane, or on any. Without a lane nobody is there to hear it.
    fn answer(&mut self, lane: Option<LaneId>, kind: Kind) {
        let lane = match lane {
            Some(lane) => self.lanes.get_mut(&lane),
            None => self.lanes.values_mut().next(),
        };
        queue(lane, v1::Frame { kind: Some(kind) });
    }

    fn remember(&mut self, id: u64, stream: &Stream) {
        self.resent += stream.send.resent;
        let sent = stream.send.length().unwrap_or(stream.send.acked_offset());
        self.ended.insert(id, (stream.receive.consumed(), sent));
        self.ended_order.push_back(id);
        if self.ended_order.len() > REMEMBERED
            && let Some(oldest) = self.ended_order.pop_front()
        {
            self.ended.remove(&oldest);
        }
    }

    fn check_room(&self) -> Result<(), String> {
        if self.streams.len() + self.accepting.len() < STREAMS_MAX {
            return Ok(());
        }
        Err(format!("{STREAMS_MAX} streams are open already"))
    }
}

fn queue(lane: Option<&mut VecDeque<v1::Frame>>, frame: v1::Frame) {
    if let Some(lane) = lane.filter(|lane| lane.len() < ANSWERS_MAX) {
        lane.push_back(frame);
    }
}

/// Returns the largest offset from which a stream may be asked for.
fn furthest_start(open: &v1::Open) -> u64 {
    match &open.target {
        Some(v1::open::Target::Blob(blob)) => blob.size,
        _ => 0,
    }
}

fn sync(id: u64, stream: &Stream, reply_wanted: bool) -> v1::Frame {
    let received = stream.receive.received();
    v1::Frame {
        kind: Some(Kind::Sync(v1::Sync {
            stream: id,
            received,
            reply_wanted,
        })),
    }
}

fn next_of(id: u64, stream: &mut Stream, lane: LaneId, now: Instant) -> Option<Kind> {
    if std::mem::take(&mut stream.open_due) {
        return stream.open.clone().map(Kind::Open);
    }
    let resume_from = stream.opened?;
    if std::mem::take(&mut stream.opened_due) {
        return Some(Kind::Opened(v1::Opened {
            stream: id,
            resume_from,
        }));
    }
    if std::mem::take(&mut stream.receive.ack_due) {
        return Some(Kind::Ack(v1::Ack {
            stream: id,
            offset: stream.receive.consumed(),
        }));
    }
    if let Some((offset, data)) = stream.send.take(lane, now) {
        let hash = chunk_hash(&data).to_vec();
        return Some(Kind::Chunk(v1::Chunk {
            stream: id,
            offset,
            hash,
            data,
        }));
    }
    if std::mem::take(&mut stream.send.end_due) {
        let offset = stream.send.length()?;
        return Some(Kind::End(v1::End { stream: id, offset }));
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::{
        collection::vec,
        prelude::{Just, Strategy, any, prop_assert, prop_oneof, proptest},
    };

    use super::*;
    use crate::{stream::credit, wire::CHUNK_MAX};

    /// What happens to one side.
    #[derive(Debug, Clone)]
    enum Event {
        Frame(v1::Frame),
        Open(u64),
        Push(u64, usize),
        Take(u64),
        Finish(u64),
        Attach,
        Detach(LaneId),
        Carry,
    }

    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![6 => 0u64..4, 2 => 0u64..200, 1 => Just(u64::MAX), 1 => any::<u64>()]
    }

    fn target() -> impl Strategy<Value = Option<v1::open::Target>> {
        let blob = number().prop_map(|size| {
            Some(v1::open::Target::Blob(v1::Blob {
                hash: vec![0; 32],
                size,
            }))
        });
        let store = Just(Some(v1::open::Target::Store(v1::Store {
            root: "target".to_owned(),
        })));
        prop_oneof![blob, store, Just(None)]
    }

    fn frame() -> impl Strategy<Value = v1::Frame> {
        let chunk = (number(), number(), vec(any::<u8>(), 0..6), any::<bool>());
        let kind = prop_oneof![
            (number(), target()).prop_map(|(stream, target)| {
                Kind::Open(v1::Open {
                    stream,
                    target,
                    codec: 1,
                })
            }),
            (number(), number()).prop_map(|(stream, resume_from)| {
                Kind::Opened(v1::Opened {
                    stream,
                    resume_from,
                })
            }),
            chunk.prop_map(|(stream, offset, data, honest)| {
                let hash = if honest {
                    chunk_hash(&data).to_vec()
                } else {
                    vec![1]
                };
                Kind::Chunk(v1::Chunk {
                    stream,
                    offset,
                    hash,
                    data,
                })
            }),
            (number(), number()).prop_map(|(stream, offset)| Kind::Ack(v1::Ack { stream, offset })),
            (number(), number()).prop_map(|(stream, offset)| Kind::End(v1::End { stream, offset })),
            number().prop_map(|stream| Kind::Reset(v1::Reset {
                stream,
                reason: String::new()
            })),
            (number(), number(), any::<bool>()).prop_map(|(stream, received, reply_wanted)| {
                Kind::Sync(v1::Sync {
                    stream,
                    received,
                    reply_wanted,
                })
            }),
        ];
        proptest::option::weighted(0.95, kind).prop_map(|kind| v1::Frame { kind })
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            12 => frame().prop_map(Event::Frame),
            1 => number().prop_map(Event::Open),
            1 => (number(), 1usize..6).prop_map(|(id, length)| Event::Push(id, length)),
            2 => number().prop_map(Event::Take),
            1 => number().prop_map(Event::Finish),
            1 => Just(Event::Attach),
            1 => (0u64..4).prop_map(Event::Detach),
            3 => Just(Event::Carry),
        ]
    }

    fn happen(state: &mut State, event: Event, now: Instant) {
        let stream = |state: &mut State, id, act: &dyn Fn(&mut Stream)| {
            state.streams.get_mut(&id).map(act);
        };
        match event {
            Event::Frame(frame) => match state.take(1, frame, now) {
                Asked::Accept(open) => state.accept(open.stream, furthest_start(&open)),
                Asked::Nothing | Asked::Opened(_) | Asked::Broken(..) => {}
            },
            Event::Open(id) if !state.streams.contains_key(&id) => {
                let target = v1::Blob {
                    hash: vec![0; 32],
                    size: 100,
                };
                let target = Some(v1::open::Target::Blob(target));
                // refused when there are too many
                let _ = state.open(v1::Open {
                    stream: id,
                    target,
                    codec: 1,
                });
            }
            Event::Push(id, length) => stream(state, id, &|stream| {
                if stream.opened.is_some()
                    && stream.open.is_some()
                    && stream.send.length().is_none()
                {
                    stream.send.push(vec![0; length]);
                }
            }),
            Event::Take(id) => stream(state, id, &|stream| {
                if let Some(data) = stream.receive.take() {
                    stream.receive.consume(data.len() as u64);
                }
                stream.receive.closed |= stream.receive.is_drained();
            }),
            Event::Finish(id) => stream(state, id, &|stream| stream.send.finish()),
            Event::Attach => drop(state.attach()),
            Event::Detach(lane) => state.detach(lane),
            Event::Carry => drop(state.next_frame(1, now)),
            Event::Open(_) => {}
        }
        state.sweep();
    }

    proptest! {
        #[test]
        fn whatever_the_other_side_sends_is_bounded(events in vec(event(), 0..400)) {
            let (mut state, now) = (State::default(), Instant::now());
            state.attach();
            for event in events {
                happen(&mut state, event, now);
                prop_assert!(state.streams.len() + state.accepting.len() <= STREAMS_MAX);
                prop_assert!(state.ended.len() <= REMEMBERED);
                prop_assert!(state.ended_order.len() <= REMEMBERED);
                for stream in state.streams.values() {
                    let waiting = stream.receive.waiting_bytes();
                    prop_assert!(waiting <= credit::MOST + CHUNK_MAX as u64);
                }
            }
        }
    }

    fn frame_of(kind: Kind) -> v1::Frame {
        v1::Frame { kind: Some(kind) }
    }

    fn store(stream: u64) -> v1::Open {
        let target = v1::open::Target::Store(v1::Store {
            root: "target".to_owned(),
        });
        v1::Open {
            stream,
            target: Some(target),
            codec: 1,
        }
    }

    #[test]
    fn one_stream_more_than_there_may_be_is_refused() {
        let (mut state, now) = (State::default(), Instant::now());
        let lane = state.attach();
        for id in 0..STREAMS_MAX as u64 {
            let asked = state.take(lane, frame_of(Kind::Open(store(id))), now);
            assert!(matches!(asked, Asked::Accept(_)));
        }
        let asked = state.take(lane, frame_of(Kind::Open(store(99))), now);
        assert!(matches!(asked, Asked::Nothing));
        let reset = v1::Reset {
            stream: 99,
            reason: "64 streams are open already".to_owned(),
        };
        assert_eq!(
            state.next_frame(lane, now),
            Some(frame_of(Kind::Reset(reset)))
        );
    }

    #[test]
    fn stream_with_the_largest_number_takes_its_turn() {
        let (mut state, now) = (State::default(), Instant::now());
        let lane = state.attach();
        state.accept(u64::MAX, 0);
        state.accept(1, 0);
        let answered: Vec<_> = std::iter::from_fn(|| state.next_frame(lane, now)).collect();
        let opened = |stream| {
            frame_of(Kind::Opened(v1::Opened {
                stream,
                resume_from: 0,
            }))
        };
        assert_eq!(answered, [opened(1), opened(u64::MAX)]);
    }

    #[test]
    fn start_beyond_the_end_is_refused() {
        let now = Instant::now();
        for (resume_from, legal) in [(0, true), (100, true), (101, false), (u64::MAX, false)] {
            let mut state = State::default();
            let lane = state.attach();
            let blob = v1::open::Target::Blob(v1::Blob {
                hash: vec![0; 32],
                size: 100,
            });
            state
                .open(v1::Open {
                    stream: 1,
                    target: Some(blob),
                    codec: 1,
                })
                .unwrap();
            let opened = frame_of(Kind::Opened(v1::Opened {
                stream: 1,
                resume_from,
            }));
            let asked = state.take(lane, opened, now);
            assert_eq!(matches!(asked, Asked::Opened(1)), legal, "{resume_from}");
            assert_eq!(state.streams.contains_key(&1), legal);
        }
    }

    #[test]
    fn who_asks_without_reading_fills_nothing() {
        let (mut state, now) = (State::default(), Instant::now());
        let lane = state.attach();
        state.accept(1, 0);
        for stream in [1, 2] {
            for _ in 0..2 * ANSWERS_MAX {
                let sync = v1::Sync {
                    stream,
                    received: 0,
                    reply_wanted: true,
                };
                state.take(lane, frame_of(Kind::Sync(sync)), now);
            }
        }
        assert_eq!(state.lanes[&lane].len(), ANSWERS_MAX);
    }

    #[test]
    fn frame_that_is_read_after_its_lane_was_lost_brings_no_lane_back() {
        let (mut state, now) = (State::default(), Instant::now());
        let lane = state.attach();
        state.accept(1, 0);
        state.detach(lane);
        let sync = v1::Sync {
            stream: 1,
            received: 0,
            reply_wanted: true,
        };
        state.take(lane, frame_of(Kind::Sync(sync)), now);
        assert_eq!(state.lanes(), 0);
    }
}
