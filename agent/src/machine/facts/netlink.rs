//! Questions to the kernel about addresses, routes and rules (rtnetlink(7)): nothing here changes anything.
//!
//! `/proc/net` knows neither who set an address nor which rules there are.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd,
};

use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
        setsockopt, socket, sockopt,
    },
    time::{TimeVal, TimeValLike},
};

pub(super) const V4: u8 = 2;
pub(super) const V6: u8 = 10;

/// Most that is read of one answer: some thousand routes. A router on the net has a million.
const ANSWER_MAX: usize = 512 << 10;
/// The kernel answers at once, or not at all.
const PATIENCE_S: i64 = 2;

const REQUEST_DUMP: u16 = 0x301;
const HEADER: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Question {
    /// All addresses.
    Addresses,
    /// All routes.
    Routes,
    /// All rules.
    Rules,
}

/// One thing the kernel tells: a fixed head, then attributes by number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Told {
    head: Vec<u8>,
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Question {
    /// Number of the question, and length of the head of what is told.
    fn numbers(self) -> (u16, usize) {
        match self {
            Self::Addresses => (22, 8),
            Self::Routes => (26, 12),
            Self::Rules => (34, 12),
        }
    }
}

/// Asks; none where the kernel does not answer. Blocks for as long as it takes the kernel to answer.
pub(super) fn ask(question: Question, family: u8) -> Option<Vec<Told>> {
    let (kind, head) = question.numbers();
    let (flags, protocol) = (SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute);
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol).ok()?;
    setsockopt(
        &socket,
        sockopt::ReceiveTimeout,
        &TimeVal::seconds(PATIENCE_S),
    )
    .ok()?;
    let request = request(kind, family);
    let kernel = NetlinkAddr::new(0, 0);
    sendto(socket.as_raw_fd(), &request, &kernel, MsgFlags::empty()).ok()?;
    let mut all = Vec::new();
    let mut read = 0;
    let mut buffer = vec![0; 64 << 10];
    while read < ANSWER_MAX {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).ok()?;
        read += length;
        let more = parse(&buffer[..length], head, &mut all)?;
        if !more || length == 0 {
            break;
        }
    }
    Some(all)
}

fn request(kind: u16, family: u8) -> Vec<u8> {
    let body = [family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let length = u32::try_from(HEADER + body.len()).expect("a question is short");
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(REQUEST_DUMP.to_ne_bytes());
    // sequence and port: one question a socket
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

/// Reads messages; returns whether there are more to come, none where the kernel refuses.
fn parse(mut bytes: &[u8], head: usize, all: &mut Vec<Told>) -> Option<bool> {
    while bytes.len() >= HEADER {
        let length = number(bytes.get(..4)?)? as usize;
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let message = bytes.get(HEADER..length)?;
        match kind {
            DONE => return Some(false),
            ERROR => return None,
            _ => all.extend(told(message, head)),
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(true)
}

fn told(message: &[u8], head: usize) -> Option<Told> {
    let (head, mut rest) = message.split_at_checked(head)?;
    let mut attributes = Vec::new();
    while rest.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        // two bits of the number are flags
        let kind = u16::from_ne_bytes([rest[2], rest[3]]) & 0x3fff;
        let Some(value) = rest.get(4..length) else {
            break;
        };
        attributes.push((kind, value.to_vec()));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(Told {
        head: head.to_vec(),
        attributes,
    })
}

impl Told {
    /// Returns a byte of the head.
    pub(super) fn byte(&self, at: usize) -> u8 {
        self.head.get(at).copied().unwrap_or(0)
    }

    /// Returns four bytes of the head as a number.
    pub(super) fn word(&self, at: usize) -> u32 {
        self.head.get(at..at + 4).and_then(number).unwrap_or(0)
    }

    /// Returns an attribute that is a number.
    pub(super) fn number(&self, kind: u16) -> Option<u32> {
        number(self.attribute(kind)?)
    }

    /// Returns an attribute that is an address.
    pub(super) fn address(&self, kind: u16) -> Option<IpAddr> {
        address(self.attribute(kind)?)
    }

    /// Returns an attribute that is an address with its family before it.
    pub(super) fn address_with_family(&self, kind: u16) -> Option<IpAddr> {
        address(self.attribute(kind)?.get(2..)?)
    }

    fn attribute(&self, kind: u16) -> Option<&[u8]> {
        let found = self.attributes.iter().find(|(number, _)| *number == kind);
        found.map(|(_, value)| value.as_slice())
    }
}

fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What the kernel would tell.
    pub(in super::super) fn tell(head: &[u8], attributes: &[(u16, &[u8])]) -> Told {
        let attributes = attributes
            .iter()
            .map(|(kind, value)| (*kind, value.to_vec()))
            .collect();
        Told {
            head: head.to_vec(),
            attributes,
        }
    }

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn messages_are_read_one_after_the_other() {
        let mut body = vec![V4, 24, 0x80, 0, 2, 0, 0, 0];
        body.extend([8, 0, 1, 0, 192, 0, 2, 7]);
        body.extend([7, 0, 3, 0, b'e', b't', b'h', 0]);
        let mut bytes = message(20, &body);
        bytes.extend(message(20, &[V6, 64, 0, 0, 3, 0, 0, 0]));
        let mut all = Vec::new();
        assert_eq!(parse(&bytes, 8, &mut all), Some(true));
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].byte(1), all[0].word(4)), (24, 2));
        assert_eq!(all[0].address(1), Some("192.0.2.7".parse().unwrap()));
        assert_eq!(all[0].address(2), None);
        assert_eq!(parse(&message(DONE, &[0; 4]), 8, &mut all), Some(false));
        assert_eq!(parse(&message(ERROR, &[0; 4]), 8, &mut all), None);
    }

    #[test]
    fn damaged_messages_are_no_answer() {
        let mut all = Vec::new();
        let mut bytes = message(20, &[0; 8]);
        bytes[0] = 200;
        assert_eq!(parse(&bytes, 8, &mut all), None);
        bytes[0] = 3;
        assert_eq!(parse(&bytes, 8, &mut all), None);
        // an attribute that claims more than there is
        assert_eq!(
            told(&[0, 0, 0, 0, 40, 0, 1, 0], 4).unwrap(),
            tell(&[0; 4], &[])
        );
        assert!(all.is_empty());
    }

    #[test]
    fn this_kernel_answers() {
        let addresses = ask(Question::Addresses, 0);
        // a sandbox may have no addresses, and some forbid the question
        for told in addresses.into_iter().flatten() {
            assert!(matches!(told.byte(0), V4 | V6), "{told:?}");
        }
    }
}
