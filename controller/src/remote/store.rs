//! A unix socket on this machine that behaves like a nix daemon of the target.
//!
//! Each connection is one resumable byte stream; Nix never notices a cut. The socket lies in a directory only this user
//! may enter, and goes away with the value.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use landfall_proto::{
    failure::Failure, order::StoreRoot, stream::mux::Mux, v1::Codec, wire::Target,
};
use tokio::{
    io::copy_bidirectional,
    net::{UnixListener, UnixStream},
    task::JoinSet,
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Longest that the target's nix daemon may take to start, lost links included.
const OPEN_WITHIN: Duration = Duration::from_secs(600);

/// A socket that stands for a store on the target.
#[derive(Debug)]
pub struct StoreSocket {
    folder: tempfile::TempDir,
    _open: DropGuard,
}

impl StoreSocket {
    /// Listens for Nix. `folder` must be short: a unix socket's path has 108 bytes at most (unix(7)).
    pub fn listen(folder: &Path, mux: Mux, root: StoreRoot) -> Result<Self, Failure> {
        let cannot = |error: &std::io::Error| {
            Failure::new("cannot make a socket for nix")
                .because(format!("listening in {}", folder.display()))
                .code("LF0423")
                .caused_by(error)
        };
        let folder = tempfile::Builder::new()
            .prefix("store-")
            .tempdir_in(folder)
            .map_err(|error| cannot(&error))?;
        let listener =
            UnixListener::bind(path_in(folder.path())).map_err(|error| cannot(&error))?;
        let token = CancellationToken::new();
        let open = token.clone().drop_guard();
        tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    () = token.cancelled() => return,
                    Some(_) = connections.join_next() => {}
                    accepted = listener.accept() => match accepted {
                        Ok((stream, _)) => { connections.spawn(carry(stream, mux.clone(), root)); }
                        Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                    },
                }
            }
        });
        Ok(Self {
            folder,
            _open: open,
        })
    }

    /// Returns the path of the socket.
    pub fn path(&self) -> PathBuf {
        path_in(self.folder.path())
    }
}

fn path_in(folder: &Path) -> PathBuf {
    folder.join("s")
}

/// Carries one connection. An end that breaks is seen by Nix as the end of the connection, which it reports.
async fn carry(mut local: UnixStream, mux: Mux, root: StoreRoot) {
    let target = Target::Store(root);
    let opened = tokio::time::timeout(OPEN_WITHIN, mux.open(&target, Codec::Zstd)).await;
    let Ok(Ok(mut stream)) = opened else { return };
    let _ = copy_bidirectional(&mut local, &mut stream.io).await;
    drop(stream.io);
}
