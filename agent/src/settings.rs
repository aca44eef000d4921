//! Keeps the operator's settings of Nix on the operator's machine.
//!
//! A client of a daemon sends its own settings ahead, and a daemon that trusts it takes them over: substituters, build
//! users, hooks and limits that are those of another machine. Over ssh Nix sends none of them. Only the beginning of a
//! conversation is read here, and anything unexpected in it is passed on as it came.

use std::io;

use tokio::{
    io::{
        AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt,
        BufReader,
    },
    sync::oneshot,
};

/// First word of a client (Nix, `worker-protocol.hh`).
const MAGIC: u64 = 0x6e69_7863;
/// From this minor version on both sides tell features after their versions.
const FEATURES: u64 = 38;
/// The operation that sets options.
const SET_OPTIONS: u64 = 19;
/// Most entries of a list, and longest word, that are read; a real configuration has a few dozen, of a few hundred bytes.
const ENTRIES: u64 = 10_000;
const LENGTH: u64 = 1 << 20;

/// Passes a conversation on from the client to the daemon, without the client's settings.
///
/// `daemon` is the version that the daemon tells. `jobs` is how many builds may run at once.
pub(crate) async fn pass(
    client: impl AsyncRead + Unpin,
    to: &mut (impl AsyncWrite + Unpin),
    daemon: oneshot::Receiver<u64>,
    jobs: u64,
) -> io::Result<()> {
    let mut opening = Opening {
        from: BufReader::new(client),
        to: &mut *to,
    };
    opening.pass(daemon, jobs).await?;
    let mut rest = opening.from;
    tokio::io::copy(&mut rest, to).await.map(drop)
}

/// Passes on what a daemon says first, and tells its version.
pub(crate) async fn hear_version(
    from: &mut (impl AsyncRead + Unpin),
    client: &mut (impl AsyncWrite + Unpin),
    tell: oneshot::Sender<u64>,
) -> io::Result<()> {
    let magic = from.read_u64_le().await?;
    let version = from.read_u64_le().await?;
    // a client that is gone asks for nothing
    let _ = tell.send(version);
    client.write_u64_le(magic).await?;
    client.write_u64_le(version).await?;
    client.flush().await
}

/// The beginning of a conversation.
struct Opening<'a, R, W> {
    from: BufReader<R>,
    to: &'a mut W,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Opening<'_, R, W> {
    async fn pass(&mut self, daemon: oneshot::Receiver<u64>, jobs: u64) -> io::Result<()> {
        if self.word().await? != MAGIC {
            return Ok(());
        }
        let client = self.word().await?;
        // a daemon that ends without a word: there is nobody to protect
        let Ok(daemon) = daemon.await else {
            return Ok(());
        };
        if client >> 8 != daemon >> 8 {
            return Ok(());
        }
        if (client & 0xff).min(daemon & 0xff) >= FEATURES {
            for _ in 0..self.count().await? {
                self.text().await?;
            }
        }
        // processor affinity, which is followed by a mask if it is wanted, and space to reserve: both are of the past
        if self.word().await? != 0 {
            self.word().await?;
        }
        self.word().await?;
        match self.word().await? {
            SET_OPTIONS => self.options(jobs).await,
            _ => Ok(()),
        }
    }

    async fn options(&mut self, jobs: u64) -> io::Result<()> {
        let mut options = [0; 12];
        for option in &mut options {
            *option = self.from.read_u64_le().await?;
        }
        // keep-failed, max-jobs, max-silent-time, cores: of the machine that builds; what was asked for stays
        (options[0], options[4], options[5], options[10]) = (0, jobs, 0, 0);
        for option in options {
            self.to.write_u64_le(option).await?;
        }
        let settings = bounded(self.from.read_u64_le().await?, ENTRIES)?;
        for _ in 0..2 * settings {
            let padded = padded(self.from.read_u64_le().await?)?;
            skip(&mut self.from, padded).await?;
        }
        self.to.write_u64_le(0).await?;
        self.to.flush().await
    }

    /// Passes on a word: eight bytes, the lowest first.
    async fn word(&mut self) -> io::Result<u64> {
        let word = self.from.read_u64_le().await?;
        self.to.write_u64_le(word).await?;
        self.to.flush().await?;
        Ok(word)
    }

    async fn count(&mut self) -> io::Result<u64> {
        bounded(self.word().await?, ENTRIES)
    }

    /// Passes on a text: its length, then its bytes, filled up to whole words.
    async fn text(&mut self) -> io::Result<()> {
        let length = padded(self.word().await?)?;
        let mut text = (&mut self.from).take(length);
        let copied = tokio::io::copy(&mut text, self.to).await?;
        self.to.flush().await?;
        match copied == length {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn bounded(number: u64, most: u64) -> io::Result<u64> {
    match number <= most {
        true => Ok(number),
        false => Err(io::Error::other("reading a nix client: a list without end")),
    }
}

fn padded(length: u64) -> io::Result<u64> {
    Ok(bounded(length, LENGTH)?.next_multiple_of(8))
}

async fn skip(from: &mut (impl AsyncBufRead + Unpin), mut length: u64) -> io::Result<()> {
    while length > 0 {
        let there = from.fill_buf().await?.len();
        if there == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let taken = there.min(usize::try_from(length).unwrap_or(there));
        from.consume(taken);
        length -= taken as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: u64 = (1 << 8) | 35;
    const NEW: u64 = (1 << 8) | 38;

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn text(text: &str) -> Vec<u8> {
        let mut bytes = words(&[text.len() as u64]);
        bytes.extend_from_slice(text.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    fn options(settings: &[(&str, &str)]) -> Vec<u8> {
        let fixed = [
            19,
            1,
            1,
            1,
            3,
            16,
            600,
            1,
            7,
            0,
            0,
            4,
            1,
            settings.len() as u64,
        ];
        let texts = settings
            .iter()
            .flat_map(|(name, value)| [text(name), text(value)]);
        [words(&fixed), texts.flatten().collect()].concat()
    }

    /// Returns what the daemon gets of what a client says, byte by byte.
    async fn passed(said: &[u8], daemon: Option<u64>) -> Vec<u8> {
        let (tell, version) = oneshot::channel();
        match daemon {
            Some(daemon) => tell.send(daemon).unwrap(),
            None => drop(tell),
        }
        let (mut client, at) = tokio::io::duplex(3);
        let mut heard = Vec::new();
        let say = async {
            client.write_all(said).await.unwrap();
            drop(client);
        };
        let _ = tokio::join!(say, pass(at, &mut heard, version, 2)).1;
        heard
    }

    #[tokio::test]
    async fn settings_of_the_client_do_not_arrive() {
        let settings = [
            ("substituters", "https://far.example"),
            ("post-build-hook", "/bin/x"),
            ("", "12345678"),
        ];
        let rest: Vec<u8> = (0..=255).collect();
        let said = [
            words(&[MAGIC, VERSION, 0, 0]),
            options(&settings),
            rest.clone(),
        ]
        .concat();
        let fixed = [19, 0, 1, 1, 3, 2, 0, 1, 7, 0, 0, 0, 1, 0];
        let expected = [words(&[MAGIC, VERSION, 0, 0]), words(&fixed), rest].concat();
        assert_eq!(passed(&said, Some(VERSION)).await, expected);
        assert_eq!(passed(&said, Some(NEW)).await, expected);
    }

    #[tokio::test]
    async fn features_and_affinity_are_passed_over() {
        let features = [words(&[2]), text("a-feature"), text("")].concat();
        let greeting = [words(&[MAGIC, NEW]), features, words(&[1, 3, 0])].concat();
        let said = [greeting.clone(), options(&[("a", "b")])].concat();
        let heard = passed(&said, Some(NEW)).await;
        assert_eq!(heard[..greeting.len()], greeting);
        assert_eq!(
            heard[greeting.len()..],
            words(&[19, 0, 1, 1, 3, 2, 0, 1, 7, 0, 0, 0, 1, 0])
        );
    }

    #[tokio::test]
    async fn what_is_not_understood_is_passed_on() {
        let other_operation = words(&[MAGIC, VERSION, 0, 0, 1, 7, 7, 7]);
        assert_eq!(
            passed(&other_operation, Some(VERSION)).await,
            other_operation
        );
        let other_protocol = words(&[5, 6, 7]);
        assert_eq!(passed(&other_protocol, Some(VERSION)).await, other_protocol);
        let silent_daemon = [words(&[MAGIC, VERSION]), options(&[("a", "b")])].concat();
        assert_eq!(passed(&silent_daemon, None).await, silent_daemon);
        assert_eq!(passed(&silent_daemon, Some(2 << 8)).await, silent_daemon);
    }

    #[tokio::test]
    async fn client_cannot_fill_the_memory() {
        for endless in [
            words(&[MAGIC, NEW, u64::MAX]),
            words(&[MAGIC, NEW, 1, u64::MAX]),
            [
                words(&[MAGIC, VERSION, 0, 0]),
                options(&[])[..13 * 8].to_vec(),
                words(&[u64::MAX]),
            ]
            .concat(),
        ] {
            let (tell, version) = oneshot::channel();
            tell.send(NEW).unwrap();
            let mut heard = Vec::new();
            assert!(
                pass(endless.as_slice(), &mut heard, version, 2)
                    .await
                    .is_err()
            );
        }
    }

    #[tokio::test]
    async fn version_of_the_daemon_is_heard() {
        let (tell, version) = oneshot::channel();
        let said = words(&[0x6478_696f, VERSION, 9]);
        let (mut from, mut client) = (said.as_slice(), Vec::new());
        hear_version(&mut from, &mut client, tell).await.unwrap();
        assert_eq!(version.await, Ok(VERSION));
        assert_eq!(client, said[..16]);
        assert_eq!(from, words(&[9]));
    }
}
