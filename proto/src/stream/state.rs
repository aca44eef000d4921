//! All streams of one side, and which frame a lane shall carry next. Pure: no tasks, no waiting.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
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
        let after: Vec<u64> = self
            .streams
            .range(self.turn + 1..)
            .map(|(&id, _)| id)
            .collect();
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
            Kind::Opened(opened) => {
                if stream.open.is_some() && stream.opened.is_none() {
                    stream.opened = Some(opened.resume_from);
                    stream.open_due = false;
                    stream.send = SendHalf::new(opened.resume_from);
                    return Asked::Opened(id);
                }
                Ok(())
            }
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
                    self.lanes.entry(lane).or_default().push_back(reply);
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
        let queue = match lane {
            Some(lane) => self.lanes.get_mut(&lane),
            None => self.lanes.values_mut().next(),
        };
        if let Some(queue) = queue {
            queue.push_back(v1::Frame { kind: Some(kind) });
        }
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
