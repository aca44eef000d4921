//! Generated types to and from the types of this crate, with the bounds that foreign input has to keep.

use crate::{
    event::Event,
    facts::Facts,
    order::{Blob, BlobHash, Order, StoreRoot},
    v1,
};

/// Largest order that is read, in bytes.
const ORDER_MAX: usize = 1 << 20;
/// Largest list of facts that is read, in bytes.
const FACTS_MAX: usize = 4 << 20;
/// Largest chunk of a stream, in bytes.
pub const CHUNK_MAX: usize = 256 << 10;
/// Largest message of a bulk lane: a chunk and its frame.
pub const LANE_MESSAGE_MAX: usize = CHUNK_MAX + (16 << 10);
/// Largest message of the control lane.
pub const CONTROL_MESSAGE_MAX: usize = 8 << 20;

/// What came over the wire is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is larger than it may be.
    #[error("{what} has {size} bytes, more than {max}")]
    TooLarge {
        /// Name of the message.
        what: &'static str,
        /// Its size.
        size: usize,
        /// The bound.
        max: usize,
    },
    /// It is no JSON of the right shape.
    #[error("reading {what}")]
    Json {
        /// Name of the message.
        what: &'static str,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// A field has no meaning.
    #[error("{0} is missing or unknown")]
    Field(&'static str),
}

fn read<T: serde::de::DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
    max: usize,
) -> Result<T, Unreadable> {
    if bytes.len() > max {
        return Err(Unreadable::TooLarge {
            what,
            size: bytes.len(),
            max,
        });
    }
    serde_json::from_slice(bytes).map_err(|source| Unreadable::Json { what, source })
}

fn write<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("types of this crate have only string keys")
}

/// Reads an order.
pub fn order_from_wire(bytes: &[u8]) -> Result<Order, Unreadable> {
    read("the order", bytes, ORDER_MAX)
}

/// Writes an order.
pub fn order_to_wire(order: &Order) -> Vec<u8> {
    write(order)
}

/// Reads facts.
pub fn facts_from_wire(bytes: &[u8]) -> Result<Facts, Unreadable> {
    read("the facts", bytes, FACTS_MAX)
}

/// Writes facts.
pub fn facts_to_wire(facts: &Facts) -> Vec<u8> {
    write(facts)
}

/// Reads the events of a report.
pub fn events_from_wire(report: &v1::Report) -> Result<Vec<Event>, Unreadable> {
    report
        .events
        .iter()
        .map(|bytes| read("an event", bytes, ORDER_MAX))
        .collect()
}

/// Writes a report; `cursor` is what follows its last heavy and its last light event.
pub fn report_to_wire(events: &[Event], cursor: (u64, u64)) -> v1::Report {
    v1::Report {
        events: events.iter().map(write).collect(),
        next: cursor.0,
        light: cursor.1,
    }
}

/// What a stream is opened for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Bytes to be kept under their hash.
    Blob(Blob),
    /// A conversation with a nix daemon.
    Store(StoreRoot),
}

/// Reads what a stream is opened for.
pub fn target_from_wire(open: &v1::Open) -> Result<Target, Unreadable> {
    match &open.target {
        Some(v1::open::Target::Blob(blob)) => {
            let hex: String = blob.hash.iter().map(|byte| format!("{byte:02x}")).collect();
            let hash = BlobHash::try_from(hex).map_err(|_| Unreadable::Field("the blob's hash"))?;
            Ok(Target::Blob(Blob {
                hash,
                size: blob.size,
            }))
        }
        Some(v1::open::Target::Store(store)) => StoreRoot::from_name(&store.root)
            .map(Target::Store)
            .ok_or(Unreadable::Field("the store's name")),
        None => Err(Unreadable::Field("what the stream is for")),
    }
}

/// Writes what a stream is opened for.
pub fn target_to_wire(target: &Target) -> v1::open::Target {
    match target {
        Target::Blob(blob) => {
            let hex = blob.hash.as_str().as_bytes();
            let nibble = |digit: u8| (digit as char).to_digit(16).unwrap_or_default() as u8;
            let hash = hex
                .chunks(2)
                .map(|pair| nibble(pair[0]) << 4 | nibble(pair[1]))
                .collect();
            v1::open::Target::Blob(v1::Blob {
                hash,
                size: blob.size,
            })
        }
        Target::Store(root) => v1::open::Target::Store(v1::Store {
            root: root.name().to_owned(),
        }),
    }
}
