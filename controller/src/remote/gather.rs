//! What explains a failure, from the machine piece by piece: over the link, or, where no agent answers, from one that is
//! started for nothing else.
//!
//! Neither takes a run over, and neither is made again when it breaks: what came until then counts.

use std::time::Duration;

use landfall_proto::{
    failure::Failure,
    v1,
    wire::{self, Piece},
};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

use super::{
    agent::Link,
    ssh::{Ssh, quote},
    trouble::{self, LinkError, Meaning},
    upload::Placed,
};

/// Longest silence between two pieces: the agent gives each 10 s, and a slow line takes minutes for a long one.
const SILENCE: Duration = Duration::from_secs(180);
/// What a login script may say before the first piece.
const NOISE: u64 = 64 << 10;

impl Link {
    /// Lets the agent that answers gather, and hands on what comes; `within` is how long a connection may take.
    ///
    /// Returns which agent that is.
    pub async fn gather(
        &self,
        within: Duration,
        mut take: impl FnMut(Piece) -> Result<(), Failure>,
    ) -> Result<String, Failure> {
        let session = tokio::time::timeout(within, self.session()).await;
        let session = session
            .unwrap_or(Err(LinkError::Late(within)))
            .map_err(|error| broke_off(error.to_string()))?;
        let hello = &session.hello;
        let who = format!(
            "the agent at work there, {} ({})",
            hello.version, hello.build
        );
        let words = |status: tonic::Status| match trouble::meaning(&status) {
            Meaning::Final(error) => broke_off(error.to_string()),
            Meaning::Transport(words) => broke_off(words),
        };
        let pieces = session.client().gather(v1::GatherRequest {}).await;
        let mut pieces = pieces.map_err(words)?.into_inner();
        while let Some(piece) = in_time(pieces.message()).await?.map_err(words)? {
            let piece = wire::piece_from_wire(piece);
            take(piece.map_err(|error| broke_off(trouble::whole(&error)))?)?;
        }
        Ok(who)
    }
}

/// Lets an agent that lies on the machine gather without serving anybody, and hands on what comes.
///
/// One that is at work there, in the same folder, is not disturbed. With `leave` it takes itself off afterwards.
pub async fn gather(
    ssh: &Ssh,
    placed: &Placed,
    folder: &str,
    leave: bool,
    take: impl FnMut(Piece) -> Result<(), Failure>,
) -> Result<String, Failure> {
    let leave = if leave { " --leave" } else { "" };
    let arguments = format!("gather --dir {}{leave}", quote(folder));
    let command = placed.place.command(&placed.hash, &arguments);
    let tunnel = ssh.tunnel(&command).map_err(Failure::from)?;
    let fate = tunnel.fate();
    match read(BufReader::new(tunnel), take).await {
        Ok(()) => Ok(format!(
            "an agent started for it, of this version ({})",
            placed.hash
        )),
        Err(Stop::Refused(failure)) => Err(failure),
        Err(Stop::Broken(why)) => {
            let said = fate.told(Duration::from_secs(5)).await;
            Err(broke_off(why).caused_by(&said))
        }
    }
}

enum Stop {
    /// The stream is over, or makes no sense.
    Broken(String),
    /// Whoever takes the pieces does not want them, or waited too long.
    Refused(Failure),
}

/// Reads pieces from a bare stream up to the word that there are no more.
async fn read(
    mut from: impl AsyncRead + AsyncBufReadExt + Unpin,
    mut take: impl FnMut(Piece) -> Result<(), Failure>,
) -> Result<(), Stop> {
    let broken = |error: std::io::Error| Stop::Broken(error.to_string());
    let mut line = Vec::new();
    let mut noise = (&mut from).take(NOISE);
    while line != wire::PIECES {
        line.clear();
        let read = in_time(noise.read_until(b'\n', &mut line)).await;
        if read.map_err(Stop::Refused)?.map_err(broken)? == 0 {
            return Err(Stop::Broken("no agent says anything".to_owned()));
        }
    }
    loop {
        let mut length = [0; 4];
        let read = in_time(from.read_exact(&mut length)).await;
        read.map_err(Stop::Refused)?.map_err(broken)?;
        let unreadable = |error: wire::Unreadable| Stop::Broken(trouble::whole(&error));
        let mut bytes = vec![0; wire::length_of_frame(length).map_err(unreadable)?];
        if bytes.is_empty() {
            return Ok(());
        }
        let read = in_time(from.read_exact(&mut bytes)).await;
        read.map_err(Stop::Refused)?.map_err(broken)?;
        take(wire::piece_from_frame(&bytes).map_err(unreadable)?).map_err(Stop::Refused)?;
    }
}

async fn in_time<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let done = tokio::time::timeout(SILENCE, work).await;
    done.map_err(|_| broke_off(format!("nothing came for {} s", SILENCE.as_secs())))
}

fn broke_off(why: String) -> Failure {
    Failure::new("cannot gather what explains it from the machine")
        .because(why)
        .hint("run `landfall bundle HOST` once the machine can be reached")
        .code("LF0921")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(name: &str) -> Piece {
        Piece {
            name: name.to_owned(),
            content: b"x\n".to_vec(),
            trouble: String::new(),
        }
    }

    fn stream(names: &[&str]) -> Vec<u8> {
        let mut bytes = b"welcome\n".to_vec();
        bytes.extend(wire::PIECES);
        names
            .iter()
            .for_each(|name| bytes.extend(wire::piece_to_frame(piece(name))));
        bytes
    }

    async fn taken(bytes: &[u8]) -> (Vec<String>, bool) {
        let mut names = Vec::new();
        let read = read(bytes, |piece| {
            names.push(piece.name);
            Ok(())
        });
        let whole = read.await.is_ok();
        (names, whole)
    }

    #[tokio::test]
    async fn what_came_before_the_stream_broke_counts() {
        let mut bytes = stream(&["a", "b"]);
        let whole = [bytes.as_slice(), &wire::NO_MORE].concat();
        assert_eq!(
            taken(&whole).await,
            (vec!["a".to_owned(), "b".to_owned()], true)
        );
        let (_, whole) = taken(&bytes).await;
        assert!(!whole, "nobody said that this was all");
        bytes.pop();
        assert_eq!(taken(&bytes).await, (vec!["a".to_owned()], false));
        assert_eq!(taken(b"sh: no such file\n").await, (vec![], false));
    }

    #[tokio::test]
    async fn name_that_leads_elsewhere_ends_it() {
        let bytes = stream(&["a", "../b", "c"]);
        assert_eq!(taken(&bytes).await, (vec!["a".to_owned()], false));
    }
}
