//! Bytes that nobody may see: passwords and keys, from where they are given to where they are used.
//!
//! Never printed, compared, serialised or journaled; overwritten when the last of their owners is gone.

use std::{fmt, fs, io::Read, path::Path, sync::Arc};

use landfall_proto::failure::Failure;
use secrecy::zeroize::{Zeroize, Zeroizing};

use super::file::cannot;

/// Bytes that nobody may see. Clones share them.
///
/// Only exact-size buffers hold them: growing one would leave a copy behind that nobody overwrites.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<Box<[u8]>>>);

impl Secret {
    /// Takes charge of bytes: where they lay before is overwritten.
    pub fn new(mut bytes: Vec<u8>) -> Self {
        let kept = Self::copied(&bytes);
        bytes.zeroize();
        kept
    }

    /// Copies bytes of somebody who overwrites their own.
    pub fn copied(bytes: &[u8]) -> Self {
        Self(Arc::new(Zeroizing::new(Box::from(bytes))))
    }

    /// Returns the bytes, for the one place where they are used.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Reads a file, a pipe or a process substitution to its end, byte-exact, and only once.
    ///
    /// Waits for whoever writes to a pipe. Refuses more than `max` bytes.
    pub fn read_once(path: &Path, max: usize) -> Result<Self, Failure> {
        let mut bytes = Zeroizing::new(Vec::new());
        // never grows: one byte more than may be there shows that there is too much
        bytes.reserve_exact(max.saturating_add(1));
        let read = fs::File::open(path).and_then(|file| {
            let most = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
            file.take(most).read_to_end(&mut bytes)
        });
        let read = read.map_err(|error| cannot("read", path).caused_by(&error))?;
        if read > max {
            return Err(cannot("read", path).because(format!("it has more than {max} bytes")));
        }
        Ok(Self::copied(&bytes))
    }

    /// Returns the same without the line end that editors and `echo` leave, those of Windows too: one, and no more.
    #[must_use]
    pub fn without_line_end(&self) -> Self {
        let ends: [&[u8]; 2] = [b"\r\n", b"\n"];
        let cut = ends.iter().find_map(|end| self.expose().strip_suffix(*end));
        Self::copied(cut.unwrap_or(self.expose()))
    }

    /// Returns the bytes as a line, ended.
    #[must_use]
    pub fn line(&self) -> Self {
        let mut line = Zeroizing::new(Vec::with_capacity(self.expose().len() + 1));
        line.extend_from_slice(self.expose());
        line.push(b'\n');
        Self::copied(&line)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn secret_does_not_show_itself() {
        let secret = Secret::new(b"hunter2".to_vec());
        assert_eq!(
            format!("{secret:?} {:?}", Some(&secret)),
            "Secret(..) Some(Secret(..))"
        );
        assert_eq!(secret.clone().expose(), b"hunter2");
    }

    #[test]
    fn file_is_read_as_it_is() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"\0key\xff\n\n").unwrap();
        let secret = Secret::read_once(file.path(), 7).unwrap();
        assert_eq!(secret.expose(), b"\0key\xff\n\n");
        assert_eq!(secret.without_line_end().expose(), b"\0key\xff\n");
        let refused = Secret::read_once(file.path(), 6).unwrap_err();
        assert_eq!(refused.causes, ["it has more than 6 bytes"]);
        assert!(Secret::read_once(Path::new("/nonexistent"), 6).is_err());
    }

    #[test]
    fn pipe_is_read_to_its_end() {
        use std::os::fd::AsRawFd;
        let (reader, mut writer) = std::io::pipe().unwrap();
        let path = format!("/dev/fd/{}", reader.as_raw_fd());
        let written = std::thread::spawn(move || {
            writer.write_all(b"from ").unwrap();
            writer.write_all(b"a program").unwrap();
        });
        let secret = Secret::read_once(Path::new(&path), 64).unwrap();
        written.join().unwrap();
        assert_eq!(secret.expose(), b"from a program");
    }

    #[test]
    fn line_has_one_end() {
        assert_eq!(Secret::copied(b"pw").line().expose(), b"pw\n");
        for (text, word) in [
            ("", ""),
            ("pw", "pw"),
            ("pw\n", "pw"),
            ("pw\r\n\r\n", "pw\r\n"),
            ("pw\r", "pw\r"),
        ] {
            let cut = Secret::copied(text.as_bytes()).without_line_end();
            assert_eq!(cut.expose(), word.as_bytes());
        }
    }
}
