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
        if end > self.taken + credit::MOST + CHUNK_MAX as u64 {
            return Err(Violation::TooFarAhead(offset));
        }
        if self.end.is_some_and(|last| end > last) {
            return Err(Violation::BehindEnd(offset));
        }
        if chunk_hash(&data) != hash {
            return Err(Violation::WrongHash(offset));
        }
        if offset >= self.taken && !data.is_empty() {
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
            _ if offset < self.received() => Err(Violation::TwoEnds(self.received(), offset)),
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
}
