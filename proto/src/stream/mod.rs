//! Resumable byte streams: the one bulk primitive, for images, files and store connections alike.
//!
//! A stream is cut into chunks with offset and hash; any chunk may travel on any lane (a gRPC call over an ssh child of
//! its own). What is in flight is bounded by credit on the sending side; what arrived out of order is bounded by the
//! same window on the receiving side. When a lane is cut, both sides exchange offsets and go on: neither end of a stream
//! ever notices. Opens no file and no socket: ends and lanes are handed in. Start reading at `mux.rs`.

pub mod mux;

mod state;

mod send;

mod receive;

mod credit;

mod codec;

#[cfg(test)]
mod cut;
