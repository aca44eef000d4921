//! The agent's end of the tunnel: a unix socket that only its own user reaches, and mutual TLS on it.
//!
//! What comes in is handed to gRPC; nothing is decided here. The certificates are the controllers'. Each controller has an
//! authority of its own, made for one run, and says in its first word whose certificate it wants to see; it is believed by
//! that authority alone. So one that comes to look does not shut out the one that drives.
//!
//! ```text
//! tls/<first half of the authority's hash>/ca.pem, cert.pem, key.pem
//! ```

#![expect(clippy::disallowed_methods, reason = "this room is the socket")]

use std::{
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use landfall_proto::{failure::Failure, wire};
use rustls::{
    RootCertStore, ServerConfig,
    server::{Acceptor, WebPkiClientVerifier},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream},
    sync::mpsc,
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::transport::server::Connected;

use crate::{deadman::Contact, departure::Callers, machine::files};

/// Longest that a caller may take to show its certificate.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// Callers that may wait to be served.
const WAITING: usize = 16;
/// Controllers that are let in: one drives, and some look.
const ADMITTED: usize = 16;

/// Certificates for one run, as the controller sends them on standard input; PEM.
///
/// Has no `Debug`, so that the key is never printed.
#[derive(Deserialize)]
#[expect(missing_debug_implementations, reason = "holds a private key")]
pub struct Credentials {
    /// Certificate of the run's authority.
    pub ca: String,
    /// The agent's certificate.
    pub cert: String,
    /// The agent's private key.
    pub key: String,
}

/// A caller that has shown the certificate of this run's controller. Whatever it says is a sign of life.
#[derive(Debug)]
pub(crate) struct Caller(
    TlsStream<UnixStream>,
    Contact,
    #[expect(dead_code, reason = "counts while it lives")] TaskTrackerToken,
);

/// Listens on the socket in `dir` and returns the callers, for as long as somebody takes them.
pub(crate) fn listen(
    dir: &Path,
    contact: Contact,
    all: Callers,
) -> Result<ReceiverStream<io::Result<Caller>>, Failure> {
    let path = socket(dir);
    let cannot = |error: io::Error| {
        Failure::new(format!("cannot listen on {}", path.display()))
            .caused_by(&error)
            .code("LF1207")
    };
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(cannot(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(cannot)?;
    let (callers, stream) = mpsc::channel(WAITING);
    let credentials = dir.join("tls");
    tokio::spawn(async move {
        let closed = callers.clone();
        tokio::select! {
            () = accept(&listener, &credentials, callers, &contact, &all) => {}
            () = closed.closed() => {}
        }
    });
    Ok(ReceiverStream::new(stream))
}

async fn accept(
    listener: &UnixListener,
    dir: &Path,
    callers: mpsc::Sender<io::Result<Caller>>,
    contact: &Contact,
    all: &Callers,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // out of descriptors: some will be closed
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let own = nix::unistd::geteuid().as_raw();
        if stream.peer_cred().is_ok_and(|peer| peer.uid() != own) {
            continue;
        }
        let (callers, dir, contact) = (callers.clone(), dir.to_owned(), contact.clone());
        let entered = all.enter();
        tokio::spawn(async move {
            if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, greet(stream, &dir)).await {
                // nobody serves any more: the caller sees the end of the stream
                let _ = callers.send(Ok(Caller(stream, contact, entered))).await;
            }
        });
    }
}

/// Greets a caller with the certificate that it asks for, read anew: it may have been brought a moment ago.
async fn greet(stream: UnixStream, dir: &Path) -> io::Result<TlsStream<UnixStream>> {
    let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let config = {
        let words = hello.client_hello();
        let name = words.server_name().and_then(authority);
        let name = name.ok_or_else(|| io::Error::other("it asks for nobody"))?;
        configuration(&dir.join(name))?
    };
    hello.into_stream(config).await
}

/// Reads from the name that a caller asks for whose certificate that is.
fn authority(name: &str) -> Option<&str> {
    let hash = name.strip_suffix(".landfall-agent")?;
    let is_hash = hash.len() == 32 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then_some(hash)
}

/// Lets a controller in from now on, beside those that were before it; the oldest of too many is forgotten.
///
/// Its connections go on. If it makes new ones, it has to be let in again.
pub(crate) fn admit(dir: &Path, credentials: &Credentials) -> Result<(), Failure> {
    let all = dir.join("tls");
    let name = wire::agent_name(&credentials.ca);
    let own = all.join(authority(&name).expect("an agent's name is of an authority"));
    files::private_directory(&all)?;
    files::private_directory(&own)?;
    let parts = [
        ("ca", &credentials.ca),
        ("cert", &credentials.cert),
        ("key", &credentials.key),
    ];
    for (name, text) in parts {
        files::write(&own.join(format!("{name}.pem")), text.as_bytes(), 0o600)?;
    }
    files::keep_newest(&all, ADMITTED)
}

/// Reads the certificates of a run.
fn configuration(dir: &Path) -> io::Result<Arc<ServerConfig>> {
    let ca = CertificateDer::from_pem_file(dir.join("ca.pem")).map_err(io::Error::other)?;
    let own = CertificateDer::from_pem_file(dir.join("cert.pem")).map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(dir.join("key.pem")).map_err(io::Error::other)?;
    let mut roots = RootCertStore::empty();
    roots.add(ca).map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(io::Error::other)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![own], key)
        .map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

impl Connected for Caller {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Caller {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.0).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.1.beat();
        }
        polled
    }
}

impl AsyncWrite for Caller {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Returns the path of the agent's socket.
pub fn socket(dir: &Path) -> PathBuf {
    dir.join("agent.sock")
}

/// Waits until an agent listens in `dir`, and returns its process number.
pub(crate) async fn wait_until_up(dir: &Path, within: Duration) -> Result<i32, Failure> {
    let path = socket(dir);
    let mut last = None;
    let answered = async {
        loop {
            match UnixStream::connect(&path).await {
                Ok(stream) => return stream.peer_cred().ok().and_then(|peer| peer.pid()),
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    if let Ok(pid) = tokio::time::timeout(within, answered).await {
        return Ok(pid.unwrap_or_default());
    }
    let mut failure = Failure::new("cannot start the agent")
        .code("LF1207")
        .because(format!(
            "waiting {} s for an answer on {}",
            within.as_secs(),
            path.display()
        ));
    if let Some(error) = last {
        failure = failure.caused_by(&error);
    }
    Err(failure.hint(format!(
        "look at {} and `journalctl -u landfall-agent`",
        dir.join("agent.log").display()
    )))
}

/// Carries bytes between this process's standard streams and the agent, until either side ends.
///
/// Blocks; two threads copy.
pub fn proxy(dir: &Path) -> Result<(), Failure> {
    use std::{fs::File, net::Shutdown, os::fd::AsFd, os::unix::net::UnixStream};
    let path = socket(dir);
    let cannot = |error: io::Error| {
        Failure::new("cannot reach the agent")
            .because(format!("connecting to {}", path.display()))
            .code("LF1207")
            .caused_by(&error)
    };
    let mut outward = UnixStream::connect(&path).map_err(cannot)?;
    let mut inward = outward.try_clone().map_err(cannot)?;
    // as plain files: the library's own stdout keeps bytes back until a line ends
    let mut stdin = File::from(io::stdin().as_fd().try_clone_to_owned().map_err(cannot)?);
    let mut stdout = File::from(io::stdout().as_fd().try_clone_to_owned().map_err(cannot)?);
    std::thread::spawn(move || {
        // an end that is gone ends the other direction too
        let _ = relay(&mut stdin, &mut inward);
        let _ = inward.shutdown(Shutdown::Both);
    });
    match relay(&mut outward, &mut stdout) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(cannot(error)),
        _ => Ok(()),
    }
}

/// Copies until the end, each piece as soon as it is there.
///
/// Not by `io::copy`: that uses splice(2), which waits for more with the pipe locked, so that sshd cannot read what is
/// in it already.
fn relay(from: &mut impl io::Read, to: &mut impl io::Write) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => to.write_all(&buffer[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
