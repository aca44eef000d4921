//! The standard streams of an ssh child as one connection, which knows when it last heard something.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    process::{Child, ChildStdin, ChildStdout},
    sync::watch,
};

use super::{
    askpass::Ticket,
    classify::{self, SshError, Trouble},
};
use crate::local::child::Tail;

/// The standard streams of an ssh child. Dropping it ends ssh.
#[derive(Debug)]
pub struct Tunnel {
    /// None once this direction is closed: a pipe is closed by dropping it.
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    pulse: Pulse,
    /// Told when the streams are gone, so that ssh is ended.
    _hold: watch::Sender<()>,
    fate: Fate,
}

/// When something was last heard. Clones show the same tunnel.
#[derive(Debug, Clone)]
pub struct Pulse {
    began: Instant,
    heard_ms: Arc<AtomicU64>,
}

/// How ssh ended and what it said. Clones show the same tunnel.
#[derive(Debug, Clone)]
pub struct Fate {
    destination: String,
    pinned: bool,
    ticket: Option<Arc<Ticket>>,
    tail: Tail,
    ended: watch::Receiver<Option<Option<i32>>>,
}

impl Tunnel {
    pub(super) fn new(
        mut child: Child,
        destination: String,
        pinned: bool,
        ticket: Option<Ticket>,
    ) -> Self {
        let stdin = Some(child.stdin.take().expect("stdin is piped"));
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        let tail = Tail::default();
        let (ended, ended_rx) = watch::channel(None);
        let (hold, mut held) = watch::channel(());
        // owned by the tunnel: it ends with ssh, and ssh ends with the tunnel
        tokio::spawn({
            let tail = tail.clone();
            async move {
                let status = tokio::select! {
                    ((), status) = async { tokio::join!(tail.fill(stderr), child.wait()) } => status.ok(),
                    // only ever an error: nothing is sent
                    _ = held.changed() => end(child).await,
                };
                let _ = ended.send(Some(status.and_then(|status| status.code())));
            }
        });
        let pulse = Pulse {
            began: Instant::now(),
            heard_ms: Arc::default(),
        };
        let fate = Fate {
            destination,
            pinned,
            ticket: ticket.map(Arc::new),
            tail,
            ended: ended_rx,
        };
        Self {
            stdin,
            stdout,
            pulse,
            _hold: hold,
            fate,
        }
    }

    /// Returns the clock of what was heard.
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Returns what becomes of ssh.
    pub fn fate(&self) -> Fate {
        self.fate.clone()
    }
}

/// Time for ssh to say goodbye after its stdin is closed, so that the far side ends at once and not by a timeout.
const GOODBYE: Duration = Duration::from_secs(2);

async fn end(mut child: Child) -> Option<std::process::ExitStatus> {
    let status = match tokio::time::timeout(GOODBYE, child.wait()).await {
        Ok(status) => status,
        Err(_) => {
            let _ = child.start_kill();
            child.wait().await
        }
    };
    status.ok()
}

impl Pulse {
    fn beat(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard_ms.store(now, Ordering::Relaxed);
    }

    /// Returns how long nothing has been heard.
    pub fn silent_for(&self) -> Duration {
        let heard = Duration::from_millis(self.heard_ms.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(heard)
    }
}

impl Fate {
    /// Waits a moment for ssh to end and says how; a tunnel that ended without saying why counts as lost.
    pub async fn told(mut self, patience: Duration) -> SshError {
        let waited = tokio::time::timeout(patience, self.ended.wait_for(Option::is_some)).await;
        let status = match waited {
            Ok(Ok(status)) => status.flatten(),
            _ => None,
        };
        let said = self.tail.text();
        let trouble = match (classify::classify(&said, status), status) {
            // killed, or not ended yet, without a word: the tunnel is what is known to be gone
            (Some(Trouble::Other), None) => Trouble::Lost,
            (Some(trouble), _) => trouble,
            (None, Some(code)) if code != 0 => Trouble::Remote(code),
            (None, _) => Trouble::Lost,
        };
        let trouble = Ticket::judge(self.ticket.as_deref(), trouble);
        let trouble = if self.pinned {
            trouble.when_pinned()
        } else {
            trouble
        };
        SshError {
            destination: self.destination,
            trouble,
            said,
        }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stdout).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.pulse.beat();
        }
        polled
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stdin {
            Some(stdin) => Pin::new(stdin).poll_write(cx, bytes),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stdin {
            Some(stdin) => Pin::new(stdin).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.as_mut().poll_flush(cx);
        if polled.is_ready() {
            self.stdin = None;
        }
        polled
    }
}
