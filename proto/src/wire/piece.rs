//! Pieces of what explains a failure: through a call, or through the bare streams of a program.

use prost::Message;

use super::{Unreadable, within};
use crate::v1;

/// Largest piece, in bytes.
pub const PIECE_MAX: usize = 2 << 20;
/// Longest reason why a piece is not whole, in bytes.
const TROUBLE_MAX: usize = 16 << 10;
/// What comes before pieces in a bare stream; what is before that belongs to somebody else.
pub const PIECES: &[u8] = b"landfall-pieces-1\n";

/// What comes behind the last piece in a bare stream.
pub const NO_MORE: [u8; 4] = [0; 4];

/// A piece of what explains a failure.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Piece {
    /// A relative file name of `[a-z0-9./-]`, such as `kernel.log`.
    pub name: String,
    /// What is in it.
    pub content: Vec<u8>,
    /// Why it is not whole, empty where it is.
    pub trouble: String,
}

/// Reads a piece.
pub fn piece_from_wire(piece: v1::Piece) -> Result<Piece, Unreadable> {
    within("the piece", piece.content.len(), PIECE_MAX)?;
    within("what is said of a piece", piece.trouble.len(), TROUBLE_MAX)?;
    if !is_name(&piece.name) {
        return Err(Unreadable::Field("the name of a piece"));
    }
    Ok(Piece {
        name: piece.name,
        content: piece.content,
        trouble: piece.trouble,
    })
}

/// Writes a piece. What is said of it is cut where it is too long.
pub fn piece_to_wire(piece: Piece) -> v1::Piece {
    let mut trouble = piece.trouble;
    let mut most = trouble.len().min(TROUBLE_MAX);
    while !trouble.is_char_boundary(most) {
        most -= 1;
    }
    trouble.truncate(most);
    v1::Piece {
        name: piece.name,
        content: piece.content,
        trouble,
    }
}

/// Writes a piece to a bare stream: how many bytes follow, then those.
pub fn piece_to_frame(piece: Piece) -> Vec<u8> {
    let bytes = piece_to_wire(piece).encode_to_vec();
    let length = u32::try_from(bytes.len()).expect("pieces are small");
    [&length.to_be_bytes()[..], &bytes].concat()
}

/// Returns how many bytes follow in a bare stream.
pub fn length_of_frame(bytes: [u8; 4]) -> Result<usize, Unreadable> {
    let length = u32::from_be_bytes(bytes) as usize;
    within("the piece", length, PIECE_MAX + 2 * TROUBLE_MAX)?;
    Ok(length)
}

/// Reads what follows.
pub fn piece_from_frame(bytes: &[u8]) -> Result<Piece, Unreadable> {
    let piece = v1::Piece::decode(bytes).map_err(|_| Unreadable::Field("a piece"))?;
    piece_from_wire(piece)
}

/// Whether a name leads to a place below the folder it is joined to, and nowhere else.
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-');
    let is_part =
        |part: &str| !part.is_empty() && !part.starts_with('.') && part.bytes().all(plain);
    name.len() <= 100 && name.split('/').all(is_part)
}

#[cfg(test)]
mod tests {
    use proptest::{
        collection::vec,
        prelude::{any, prop_assert, prop_assert_eq, proptest},
    };

    use super::*;

    fn piece(name: &str, size: usize) -> v1::Piece {
        v1::Piece {
            name: name.to_owned(),
            content: vec![7; size],
            trouble: String::new(),
        }
    }

    #[test]
    fn names_lead_nowhere_else() {
        for name in ["kernel.log", "agent/journal-install.jsonl", "0"] {
            assert!(piece_from_wire(piece(name, 0)).is_ok(), "{name}");
        }
        let long = "x".repeat(101);
        for name in [
            "",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a//b",
            "a/",
            "./a",
            "A",
            "a b",
            "a\n",
            ".ssh",
            &long,
        ] {
            assert!(piece_from_wire(piece(name, 0)).is_err(), "{name}");
        }
    }

    #[test]
    fn pieces_keep_their_bounds() {
        assert!(piece_from_wire(piece("a", PIECE_MAX)).is_ok());
        assert!(piece_from_wire(piece("a", PIECE_MAX + 1)).is_err());
        assert!(length_of_frame([0xff; 4]).is_err());
        let wordy = Piece {
            name: "a".to_owned(),
            trouble: "é".repeat(TROUBLE_MAX),
            ..Piece::default()
        };
        let cut = piece_from_wire(piece_to_wire(wordy)).unwrap();
        assert_eq!(cut.trouble.len(), TROUBLE_MAX);
    }

    proptest! {
        #[test]
        fn pieces_survive_a_bare_stream(content in vec(any::<u8>(), 0..99), trouble in ".{0,20}") {
            let piece = Piece { name: "a/b.log".to_owned(), content, trouble };
            let frame = piece_to_frame(piece.clone());
            let (length, bytes) = frame.split_at(4);
            prop_assert_eq!(length_of_frame(length.try_into().unwrap()).unwrap(), bytes.len());
            prop_assert_eq!(piece_from_frame(bytes).unwrap(), piece);
        }

        #[test]
        fn any_frame_is_read_or_refused(bytes in vec(any::<u8>(), 0..200)) {
            if let Ok(piece) = piece_from_frame(&bytes) {
                prop_assert!(is_name(&piece.name));
            }
        }
    }
}
