//! Carries connections from the operator's port to the machine's, under the line's conditions.
//!
//! Each direction of a connection is a reader, a queue and a writer:
//!
//! ```text
//!   read -> wait for the shared line (rate) -> queue, stamped with its arrival -> wait (delay) -> write
//! ```
//!
//! The rate is taken before the queue, so the sender feels back-pressure and the queue holds no more
//! than what is under way.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    sched::{CloneFlags, setns},
    sys::socket::{setsockopt, sockopt::Linger},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::{mpsc, oneshot, watch},
    task::{JoinSet, yield_now},
    time::{Instant, sleep_until, timeout},
};

use super::{
    Carrier, Conditions,
    gauge::{Direction, Gauge},
};

/// One read; small enough that a slow line is shared fairly.
const CHUNK: usize = 16 * 1024;
/// Chunks under way per direction: 8 MiB, above bandwidth times delay of every line that is shown.
const UNDER_WAY: usize = 512;
/// A connection that lost its far end is kept this long: about what a kernel retransmits for.
const HOLD: Duration = Duration::from_secs(15 * 60);
/// Between the end of the machine's sockets and the news that the machine is off; seen: 4 ms.
const NEWS: Duration = Duration::from_millis(40);

/// Where the machine's end of the line is; `None` while the machine has no power.
pub type Far = Option<SocketAddr>;

/// The operator's end of the line, and all that passes over it.
#[derive(Debug)]
pub struct Line {
    /// Bound and never listening: keeps the port while the line is cut.
    _holder: TcpSocket,
    port: u16,
    conditions: watch::Receiver<Conditions>,
    far: watch::Receiver<Far>,
    /// Counts signs of life from the machine: what hangs since a power cut is reset by one.
    alive: watch::Sender<u64>,
    up: Pace,
    down: Pace,
    gauge: Arc<Gauge>,
    /// The network that the machine is in, where that is not this host's.
    network: Mutex<Option<Arc<File>>>,
}

/// How one connection came to its end.
enum End {
    /// Both sides closed.
    Closed,
    /// The line was cut, or one side reset it.
    Reset,
    /// The machine lost its power: the operator's end hangs until it is heard of again.
    Dead,
    /// The line forgot this connection: the operator's end hangs.
    Forgotten,
}

impl Line {
    /// Takes a loopback port: the one that is asked for if it is free, else any.
    pub fn bind(
        port: Option<u16>,
        conditions: watch::Receiver<Conditions>,
        far: watch::Receiver<Far>,
    ) -> Result<Self> {
        let usual = Conditions::default().address;
        let holder = match port.map(|port| hold(usual, port)) {
            Some(Ok(holder)) => holder,
            Some(Err(_)) | None => hold(usual, 0).context("taking a port on loopback")?,
        };
        let port = holder.local_addr().context("asking for the port")?.port();
        let (up, down) = (Pace::default(), Pace::default());
        Ok(Self {
            _holder: holder,
            port,
            conditions,
            far,
            alive: watch::Sender::new(0),
            up,
            down,
            gauge: Arc::default(),
            network: Mutex::default(),
        })
    }

    /// Reaches the machine in a network namespace of its own from now on.
    pub fn reach_in(&self, network: File) {
        let mut held = self.network.lock().unwrap_or_else(PoisonError::into_inner);
        *held = Some(Arc::new(network));
    }

    /// Counts what this line carries.
    #[must_use]
    pub fn gauge(&self) -> Arc<Gauge> {
        Arc::clone(&self.gauge)
    }

    /// The operator's port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Carries connections; ends only when the port cannot be listened on.
    pub async fn serve(self: Arc<Self>) -> Result<()> {
        let mut conditions = self.conditions.clone();
        loop {
            became(&mut conditions, |now| now.carrier != Carrier::Cut).await;
            let address = conditions.borrow().address;
            let listener = hold(address, self.port)
                .and_then(|socket| socket.listen(128))
                .context("listening for the operator")?;
            let mut open = JoinSet::new();
            loop {
                tokio::select! {
                    () = became(&mut conditions, |now| now.is_away(address)) => break,
                    Ok((client, _)) = listener.accept() => {
                        open.spawn(Arc::clone(&self).carry(client, address));
                    }
                    Some(_) = open.join_next() => {}
                }
            }
            drop(listener);
            // each connection sees the cut and resets itself
            while open.join_next().await.is_some() {}
        }
    }

    /// One connection, from its acceptance to its end.
    async fn carry(self: Arc<Self>, mut client: TcpStream, address: Ipv4Addr) {
        // a line has no opinion on small packets: the ends have theirs
        let _ = client.set_nodelay(true);
        let cut = async {
            let mut conditions = self.conditions.clone();
            became(&mut conditions, |now| now.is_away(address)).await;
        };
        let end = tokio::select! {
            () = cut => End::Reset,
            end = self.forward(&mut client) => end,
        };
        if !matches!(end, End::Closed) {
            reset(&client);
        }
    }

    async fn forward(&self, client: &mut TcpStream) -> End {
        let Some(mut machine) = self.reach().await else {
            return End::Reset;
        };
        let half_opened = self.counted(|now| now.half_opened);
        let truncated = self.counted(|now| now.truncated);
        let end = {
            let (from_client, to_client) = client.split();
            let (from_machine, to_machine) = machine.split();
            // what one side resets is reset on the other at once
            let both = async {
                tokio::try_join!(
                    self.pump(from_client, to_machine, &self.up, Direction::Up),
                    self.pump(from_machine, to_client, &self.down, Direction::Down),
                )
            };
            tokio::select! {
                // a change that a byte made comes before the bytes after it
                biased;
                () = half_opened => End::Forgotten,
                () = truncated => End::Closed,
                () = self.power_lost() => End::Dead,
                result = both => match result {
                    Ok(_) => End::Closed,
                    Err(_) if self.is_off().await => End::Dead,
                    Err(_) => End::Reset,
                },
            }
        };
        if !matches!(end, End::Closed) {
            reset(&machine);
        }
        drop(machine);
        // in the dark nothing is read and nothing is answered
        let mut alive = self.alive.subscribe();
        let _ = match end {
            End::Dead => timeout(HOLD, alive.changed()).await.is_ok(),
            End::Forgotten => timeout(HOLD, std::future::pending::<()>()).await.is_ok(),
            End::Closed | End::Reset => true,
        };
        end
    }

    /// Connects to the machine; while it has no power, or its port is not there yet, the operator
    /// waits as for a host that does not answer.
    async fn reach(&self) -> Option<TcpStream> {
        let mut far = self.far.clone();
        let deadline = Instant::now() + HOLD;
        while Instant::now() < deadline {
            self.carrying().await;
            let address = *far.borrow_and_update();
            if let Some(address) = address
                && let Ok(stream) = self.connect(address).await
            {
                let _ = stream.set_nodelay(true);
                return Some(stream);
            }
            let _ = timeout(Duration::from_millis(200), far.changed()).await;
        }
        None
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let network = {
            let held = self.network.lock();
            held.unwrap_or_else(PoisonError::into_inner).clone()
        };
        let Some(network) = network else {
            return TcpStream::connect(address).await;
        };
        // a socket belongs to the network its maker was in; the runtime's threads stay where they are
        let (answer, answered) = oneshot::channel();
        std::thread::spawn(move || {
            let inside = setns(&*network, CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
            let made = inside.and_then(|()| std::net::TcpStream::connect(address));
            let _ = answer.send(made);
        });
        let stream = answered.await.map_err(io::Error::other)??;
        stream.set_nonblocking(true)?;
        TcpStream::from_std(stream)
    }

    async fn pump(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        pace: &Pace,
        direction: Direction,
    ) -> io::Result<()> {
        let from_machine = direction == Direction::Down;
        let (queue, mut arrivals) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
        let read = async move {
            loop {
                self.carrying().await;
                let mut chunk = vec![0; CHUNK];
                let count = from.read(&mut chunk).await?;
                if count == 0 {
                    if from_machine && self.is_off().await {
                        return Err(io::ErrorKind::ConnectionReset.into());
                    }
                    return Ok(());
                }
                if from_machine {
                    self.alive.send_modify(|count| *count += 1);
                }
                chunk.truncate(count);
                let now = *self.conditions.borrow();
                sleep_until(pace.reserve(now.airtime(count))).await;
                if queue
                    .send((Instant::now() + now.delay(), chunk))
                    .await
                    .is_err()
                {
                    return Ok(());
                }
            }
        };
        let write = async {
            let mut corrupt = false;
            while let Some((due, mut chunk)) = arrivals.recv().await {
                sleep_until(due).await;
                self.carrying().await;
                let mut rest = &mut chunk[..];
                while !rest.is_empty() {
                    let (count, sprung) = self.gauge.pass(direction, rest.len());
                    let (now, later) = rest.split_at_mut(count);
                    if let (true, Some(first)) = (corrupt, now.first_mut()) {
                        *first ^= 1;
                        corrupt = false;
                    }
                    to.write_all(now).await?;
                    rest = later;
                    if let Some(trap) = sprung {
                        corrupt |= trap.corrupt;
                        trap.spring();
                        yield_now().await;
                        self.carrying().await;
                    }
                }
            }
            to.shutdown().await
        };
        tokio::try_join!(read, write).map(|_| ())
    }

    /// Waits until the line is up: while it is stalled, and once it is cut, until that is noticed.
    async fn carrying(&self) {
        let mut conditions = self.conditions.clone();
        became(&mut conditions, |now| now.carrier == Carrier::Up).await;
    }

    /// Waits until something happens to all open connections; counts from this call.
    fn counted(&self, count: fn(&Conditions) -> u64) -> impl Future<Output = ()> + use<> {
        let mut conditions = self.conditions.clone();
        let before = count(&conditions.borrow());
        async move { became(&mut conditions, |now| count(now) > before).await }
    }

    async fn power_lost(&self) {
        let mut far = self.far.clone();
        became(&mut far, Option::is_none).await;
    }

    /// Whether the machine has no power, counting news that are about to arrive.
    async fn is_off(&self) -> bool {
        timeout(NEWS, self.power_lost()).await.is_ok()
    }
}

/// The shared line in one direction: who comes later waits for who came earlier.
#[derive(Debug, Default)]
struct Pace {
    busy_until: Mutex<Option<Instant>>,
}

impl Pace {
    /// Books `airtime` after all that is booked, and says when it is over.
    fn reserve(&self, airtime: Duration) -> Instant {
        let mut busy_until = self
            .busy_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let end = busy_until.map_or(now, |busy| busy.max(now)) + airtime;
        *busy_until = Some(end);
        end
    }
}

/// Binds a loopback port without listening; port 0 takes any.
fn hold(address: Ipv4Addr, port: u16) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((address, port)))?;
    Ok(socket)
}

/// Makes closing `stream` a reset.
fn reset(stream: &TcpStream) {
    let at_once = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let _ = setsockopt(stream, Linger, &at_once);
}

/// Waits until `fits` holds; for ever if nobody can change the value any more.
async fn became<T>(value: &mut watch::Receiver<T>, fits: impl Fn(&T) -> bool) {
    if value.wait_for(fits).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests;
