//! The receiving half of one direction: puts chunks in order, once each, within a bound.

use std::collections::BTreeMap;

use super::credit;
use crate::wire::CHUNK_MAX;

/// What the other side did against the rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    #[error("a chunk of {0} bytes is larger than allowed")]
    ChunkTooLarge(usize),
    #[error("the chunk at {0} does not have the hash it came with")]
    WrongHash(u64),
    #[error("the chunk at {0} is further ahead than any credit")]
    TooFarAhead(u64),
    #[error("the chunk at {0} lies over another one")]
    Overlapping(u64),
    #[error("the chunk at {0} reaches over the end of the stream")]
    BehindEnd(u64),
    #[error("the stream ends at {0} and at {1}")]
    TwoEnds(u64, u64),
}

/// The receiving half of one direction of a stream.
#[derive(Debug)]
pub(super) struct ReceiveHalf {
    /// Everything below has been handed to the local end.
    taken: u64,
    waiting: BTreeMap<u64, Vec<u8>>,
    /// Everything below has been used by the local end.
    consumed: u64,
    end: Option<u64>,
    /// The other side shall be told what was consumed.
    pub(super) ack_due: bool,
    /// The local end has seen the end.
    pub(super) closed: bool,
}

impl ReceiveHalf {
    pub(super) fn new(from: u64) -> Self {
        Self {
            taken: from,
            waiting: BTreeMap::new(),
            consumed: from,
            end: None,
            ack_due: false,
            closed: false,
        }
    }

    /// Takes a chunk in. One that is there already changes nothing.
    pub(super) fn chunk(
        &mut self,
        offset: u64,
        hash: &[u8],
        data: Vec<u8>,
    ) -> Result<(), Violation> {
        if data.len() > CHUNK_MAX {
            return Err(Violation::ChunkTooLarge(data.len()));
        }
        let Some(end) = offset.checked_add(data.len() as u64) else {
            return Err(Violation::TooFarAhead(offset));
        };
        if end - self.taken.min(end) > credit::MOST + CHUNK_MAX as u64 {
            return Err(Violation::TooFarAhead(offset));
        }
        if self.end.is_some_and(|last| end > last) {
            return Err(Violation::BehindEnd(offset));
        }
        if chunk_hash(&data) != hash {
            return Err(Violation::WrongHash(offset));
        }
        if offset >= self.taken && !data.is_empty() {
            // a sender cuts its bytes once: else a few of them would be enough to fill the memory
            if self
                .waiting
                .get(&offset)
                .is_some_and(|known| known.len() != data.len())
                || self.overlaps(offset, end)
            {
                return Err(Violation::Overlapping(offset));
            }
            self.waiting.entry(offset).or_insert(data);
        } else {
            // seen before: its acknowledgement may have been lost
            self.ack_due = true;
        }
        Ok(())
    }

    /// Takes in where the direction ends.
    pub(super) fn end(&mut self, offset: u64) -> Result<(), Violation> {
        match self.end {
            Some(known) if known != offset => Err(Violation::TwoEnds(known, offset)),
            _ if offset < self.furthest() => Err(Violation::TwoEnds(self.furthest(), offset)),
            _ => {
                self.end = Some(offset);
                Ok(())
            }
        }
    }

    /// Hands on the next chunk in order.
    pub(super) fn take(&mut self) -> Option<Vec<u8>> {
        let data = self.waiting.remove(&self.taken)?;
        self.taken += data.len() as u64;
        Some(data)
    }

    /// Takes in that the local end has used `length` more bytes.
    pub(super) fn consume(&mut self, length: u64) {
        self.consumed += length;
        self.ack_due = true;
    }

    pub(super) fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Returns up to where there is no gap.
    pub(super) fn received(&self) -> u64 {
        let mut at = self.taken;
        while let Some(data) = self.waiting.get(&at) {
            at += data.len() as u64;
        }
        at
    }

    /// Returns up to where there is anything.
    fn furthest(&self) -> u64 {
        let last = self.waiting.last_key_value();
        last.map_or(self.taken, |(&at, data)| at + data.len() as u64)
    }

    /// Returns whether a waiting chunk that begins elsewhere has some of these bytes.
    fn overlaps(&self, offset: u64, end: u64) -> bool {
        let before = self.waiting.range(..offset).next_back();
        let after = self.waiting.range(offset + 1..end).next();
        before.is_some_and(|(&at, data)| at + data.len() as u64 > offset) || after.is_some()
    }

    /// Returns how much is kept.
    #[cfg(test)]
    pub(super) fn waiting_bytes(&self) -> u64 {
        self.waiting.values().map(|data| data.len() as u64).sum()
    }

    /// Returns whether everything has been handed on.
    pub(super) fn is_drained(&self) -> bool {
        self.end == Some(self.taken)
    }

    /// Returns whether everything has been used and the local end knows that it was all.
    pub(super) fn is_done(&self) -> bool {
        self.closed && self.end == Some(self.consumed)
    }
}

/// Returns the hash a chunk travels with: the first 16 bytes of its BLAKE3.
pub(super) fn chunk_hash(data: &[u8]) -> [u8; 16] {
    let mut hash = [0; 16];
    hash.copy_from_slice(&blake3::hash(data).as_bytes()[..16]);
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(half: &mut ReceiveHalf, offset: u64, data: &[u8]) -> Result<(), Violation> {
        half.chunk(offset, &chunk_hash(data), data.to_vec())
    }

    #[test]
    fn chunks_out_of_order_and_twice_come_out_once_in_order() {
        let mut half = ReceiveHalf::new(0);
        put(&mut half, 3, b"def").unwrap();
        assert_eq!(half.take(), None);
        put(&mut half, 0, b"abc").unwrap();
        put(&mut half, 3, b"def").unwrap();
        assert_eq!(half.received(), 6);
        assert_eq!(half.take().as_deref(), Some(&b"abc"[..]));
        assert_eq!(half.take().as_deref(), Some(&b"def"[..]));
        put(&mut half, 0, b"abc").unwrap();
        assert_eq!(half.take(), None);
    }

    #[test]
    fn what_was_handed_on_is_not_kept_again() {
        let mut half = ReceiveHalf::new(0);
        put(&mut half, 0, b"abc").unwrap();
        half.take();
        half.consume(3);
        half.ack_due = false;
        put(&mut half, 0, b"abc").unwrap();
        assert_eq!((half.waiting_bytes(), half.ack_due), (0, true));
    }

    #[test]
    fn foreign_input_is_refused() {
        let mut half = ReceiveHalf::new(0);
        assert_eq!(
            half.chunk(0, &[0; 16], vec![1]),
            Err(Violation::WrongHash(0))
        );
        assert_eq!(
            put(&mut half, u64::MAX, b"x"),
            Err(Violation::TooFarAhead(u64::MAX))
        );
        assert_eq!(
            put(&mut half, 1 << 40, b"x"),
            Err(Violation::TooFarAhead(1 << 40))
        );
        half.end(2).unwrap();
        assert_eq!(put(&mut half, 0, b"abc"), Err(Violation::BehindEnd(0)));
        assert_eq!(half.end(3), Err(Violation::TwoEnds(2, 3)));
    }
    #[test]
    fn bytes_that_are_sent_in_many_cuts_fill_nothing() {
        let mut half = ReceiveHalf::new(0);
        let data = vec![0; CHUNK_MAX];
        put(&mut half, 1, &data).unwrap();
        for offset in [0, 2, 100, CHUNK_MAX as u64] {
            assert_eq!(
                put(&mut half, offset, &data),
                Err(Violation::Overlapping(offset))
            );
        }
        assert_eq!(
            put(&mut half, 1, &data[1..]),
            Err(Violation::Overlapping(1))
        );
        // the same one again, and its neighbours
        put(&mut half, 1, &data).unwrap();
        put(&mut half, 0, &data[..1]).unwrap();
        put(&mut half, CHUNK_MAX as u64 + 1, &data).unwrap();
        assert_eq!(half.waiting_bytes(), 2 * CHUNK_MAX as u64 + 1);
    }

    #[test]
    fn end_before_what_is_there_already_is_refused() {
        let mut half = ReceiveHalf::new(0);
        put(&mut half, 3, b"def").unwrap();
        assert_eq!(half.end(5), Err(Violation::TwoEnds(6, 5)));
        assert_eq!(half.end(6), Ok(()));
    }

    #[test]
    fn offsets_at_the_edge_of_numbers_are_no_trap() {
        let mut half = ReceiveHalf::new(u64::MAX - 2);
        put(&mut half, u64::MAX - 2, b"ab").unwrap();
        assert_eq!(
            put(&mut half, u64::MAX, b"c"),
            Err(Violation::TooFarAhead(u64::MAX))
        );
        assert_eq!(half.received(), u64::MAX);
    }
}
