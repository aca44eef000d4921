//! What the operator's machine delivers to the agent: files, connections of stores, and word that an input is there.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use engine::step::Context;
use landfall_proto::{
    event::Unit,
    failure::Failure,
    order::{Blob, Describer, Input, KeyPath, StorePath, StoreRoot},
    v1::Codec,
    wire::Target,
};
use tokio::io::AsyncWriteExt;

use super::Desk;
use crate::{
    local::{file, nix::Origin, secret::Secret},
    remote::{agent::Description, store::StoreSocket},
};

/// How much of a blob is read at once.
const READ: usize = 256 << 10;
/// To so many agents something is delivered, each after the one before it was killed.
const AGENTS: u32 = 5;
/// How often the progress of an upload is told.
const PACE: Duration = Duration::from_millis(200);

impl Desk {
    /// Sends a file to the agent, from where an earlier try broke off.
    ///
    /// An agent that comes after one that was killed knows what that one has kept, and nothing of its streams.
    pub async fn send(&self, path: PathBuf, blob: &Blob, cx: &Context) -> Result<(), Failure> {
        let mut taker = Taker::of(self).await?;
        while let Err(failure) = self.try_to_send(&path, blob, cx).await {
            taker.is_followed(self, failure).await?;
        }
        Ok(())
    }

    /// Brings a path to the store behind a socket, in the way that was decided.
    ///
    /// What arrived before an agent was killed is in the store, and is not brought again.
    pub async fn bring(
        &self,
        path: &StorePath,
        origin: &Origin,
        socket: &StoreSocket,
        cx: &Context,
    ) -> Result<(), Failure> {
        let nix = self.nix()?;
        let mut taker = Taker::of(self).await?;
        while let Err(failure) = nix.bring(path, origin, &socket.path(), cx).await {
            taker.is_followed(self, failure).await?;
        }
        Ok(())
    }

    /// Returns the number of the agent's process that answers now.
    async fn agent_process(&self) -> Result<u64, Failure> {
        Ok(self.link().await?.confirm().await?.process)
    }

    async fn try_to_send(&self, path: &Path, blob: &Blob, cx: &Context) -> Result<(), Failure> {
        let mux = self.mux().await?;
        let cannot = |why: String| {
            Failure::new(format!("cannot send {}", path.display()))
                .because(why)
                .hint("run the same command again; what has arrived is not sent again")
                .code("LF0313")
        };
        let target = Target::Blob(blob.clone());
        let opened = mux.open(&target, Codec::Identity);
        let opened = tokio::time::timeout(self.request.reconnect_timeout, opened).await;
        let opened = opened
            .map_err(|_| cannot("waiting for the agent to take it".to_owned()))?
            .map_err(|broken| cannot(broken.to_string()))?;
        let mut reader = file::read_from(path, opened.resume_from)?;
        let (mut io, done) = (opened.io, opened.done);
        let copy = async {
            let mut at = opened.resume_from;
            let mut told = tokio::time::Instant::now();
            cx.progress(at, Some(blob.size), Unit::Bytes);
            loop {
                let bytes = reader.next(READ).await?;
                if bytes.is_empty() {
                    break;
                }
                // an error here is told in full by `done`
                if io.write_all(&bytes).await.is_err() {
                    break;
                }
                at += bytes.len() as u64;
                if told.elapsed() > PACE {
                    cx.progress(at, Some(blob.size), Unit::Bytes);
                    told = tokio::time::Instant::now();
                }
            }
            let _ = io.shutdown().await;
            cx.progress(at, Some(blob.size), Unit::Bytes);
            Ok::<_, Failure>(())
        };
        copy.await?;
        // the agent checks the whole before it closes its direction
        let _ = tokio::io::copy(&mut io, &mut tokio::io::sink()).await;
        match done.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(broken)) => Err(cannot(format!("agent: {broken}"))),
            Err(_) => Err(cannot("the link was closed".to_owned())),
        }
    }

    /// Makes a socket that stands for a store on the target.
    pub async fn store(&self, root: StoreRoot) -> Result<StoreSocket, Failure> {
        StoreSocket::listen(&self.sockets, self.mux().await?, root)
    }

    /// Hands one key file over, after the order that names it and before [`Input::Keys`] is supplied.
    pub async fn entrust(&self, path: &KeyPath, content: &Secret) -> Result<(), Failure> {
        Ok(self.link().await?.entrust(&self.run, path, content).await?)
    }

    /// Lets a program on the machine describe its hardware: one in the installer's store, else the installer's own.
    pub async fn describe(
        &self,
        describer: Describer,
        program: Option<&StorePath>,
    ) -> Result<Description, Failure> {
        Ok(self.link().await?.describe(describer, program).await?)
    }

    /// Says that an input has been delivered.
    pub async fn supply(&self, input: Input) -> Result<(), Failure> {
        // it may have arrived though nobody answered
        if let Some(agent) = self.agent.lock().await.as_mut() {
            agent.unfed &= input == Input::Keys;
        }
        Ok(self.link().await?.supply(&self.run, input).await?)
    }
}

/// The agent that something is delivered to.
struct Taker {
    process: u64,
    /// How many there may be after it.
    left: u32,
}

impl Taker {
    async fn of(desk: &Desk) -> Result<Self, Failure> {
        Ok(Self {
            process: desk.agent_process().await?,
            left: AGENTS - 1,
        })
    }

    /// Waits for the next agent after a delivery that failed, or fails where the one that it was for is still there.
    ///
    /// Where another controller has taken the run over, or nobody answers any more, that is the reason that is told.
    async fn is_followed(&mut self, desk: &Desk, failure: Failure) -> Result<(), Failure> {
        let before = std::mem::replace(&mut self.process, desk.agent_process().await?);
        if self.left == 0 || self.process == before {
            return Err(failure);
        }
        self.left -= 1;
        Ok(())
    }
}
