//! What a stream's bytes look like on the wire: as they are, or as one zstd stream flushed per read.

use std::io;

use zstd::stream::raw::{Decoder, Encoder, InBuffer, Operation, OutBuffer};

use crate::v1;

/// Fast enough to keep up with a gigabit, and most of what zstd can gain on store paths.
const LEVEL: i32 = 3;
/// Bytes that are decoded before they are handed on, so that a small chunk cannot fill the memory.
const STEP: usize = 128 << 10;

/// Encodes what one end produces.
pub(super) enum Encode {
    Identity,
    Zstd(Box<Encoder<'static>>),
}

/// Decodes what the other end receives.
pub(super) enum Decode {
    Identity,
    Zstd(Box<Decoder<'static>>),
}

impl Encode {
    pub(super) fn new(codec: v1::Codec) -> io::Result<Self> {
        Ok(match codec {
            v1::Codec::Zstd => Self::Zstd(Box::new(Encoder::new(LEVEL)?)),
            _ => Self::Identity,
        })
    }

    /// Encodes bytes so that the receiver can decode all of them at once.
    pub(super) fn encode(&mut self, data: &[u8]) -> io::Result<Vec<u8>> {
        let Self::Zstd(encoder) = self else {
            return Ok(data.to_vec());
        };
        let mut out = vec![0; zstd::zstd_safe::compress_bound(data.len()) + 1024];
        let mut output = OutBuffer::around(&mut out[..]);
        let mut input = InBuffer::around(data);
        while input.pos() < data.len() {
            encoder.run(&mut input, &mut output)?;
        }
        // the bound leaves room for the flush
        while encoder.flush(&mut output)? > 0 {
            if output.pos() == output.capacity() {
                return Err(io::Error::other("zstd wants more room than its own bound"));
            }
        }
        let length = output.pos();
        out.truncate(length);
        Ok(out)
    }
}

impl Decode {
    pub(super) fn new(codec: v1::Codec) -> io::Result<Self> {
        Ok(match codec {
            v1::Codec::Zstd => Self::Zstd(Box::new(Decoder::new()?)),
            _ => Self::Identity,
        })
    }

    /// Decodes from `data`, advancing it, and returns at most a bounded piece; empty when `data` is used up.
    pub(super) fn decode(&mut self, data: &mut &[u8]) -> io::Result<Vec<u8>> {
        let Self::Zstd(decoder) = self else {
            return Ok(std::mem::take(data).to_vec());
        };
        let mut out = vec![0; STEP];
        let mut output = OutBuffer::around(&mut out[..]);
        let mut input = InBuffer::around(data);
        decoder.run(&mut input, &mut output)?;
        let (read, length) = (input.pos(), output.pos());
        if read == 0 && length == 0 && !data.is_empty() {
            return Err(io::Error::other("the zstd stream does not go on"));
        }
        *data = &data[read..];
        out.truncate(length);
        Ok(out)
    }

    /// Returns whether a piece of this length means that more may be waiting inside the decoder.
    pub(super) fn may_hold_more(&self, length: usize) -> bool {
        matches!(self, Self::Zstd(_)) && length == STEP
    }
}
