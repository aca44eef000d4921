//! What a line does to connections, seen from the operator's end.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{Far, Line};
use crate::link::{
    Carrier, Change, Conditions,
    gauge::{Direction, Gauge, Trap},
};

/// A machine that sends back what it gets, and the line to it.
struct Rig {
    port: u16,
    machine: SocketAddr,
    far: watch::Sender<Far>,
    conditions: watch::Sender<Conditions>,
    gauge: Arc<Gauge>,
    tasks: [JoinHandle<()>; 2],
}

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Far above what any answer on loopback takes.
const SOON: Duration = Duration::from_secs(10);
/// Nothing came for this long: it is not coming.
const SILENCE: Duration = Duration::from_millis(150);

impl Rig {
    async fn new() -> Self {
        let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
        let machine = listener.local_addr().unwrap();
        let echo = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        let (far, far_seen) = watch::channel(Some(machine));
        let (conditions, conditions_seen) = watch::channel(Conditions::default());
        let line = Arc::new(Line::bind(None, conditions_seen, far_seen).unwrap());
        let (port, gauge) = (line.port(), line.gauge());
        let serve = tokio::spawn(async move { line.serve().await.unwrap() });
        let rig = Self {
            port,
            machine,
            far,
            conditions,
            gauge,
            tasks: [echo, serve],
        };
        drop(rig.connected().await);
        rig
    }

    fn change(&self, change: Change) {
        self.conditions.send_modify(|now| *now = change.apply(*now));
    }

    /// Changes the line after so many more bytes from the operator.
    fn trap(&self, bytes: u64, change: Change) -> oneshot::Receiver<()> {
        self.lay(bytes, change, false)
    }

    fn lay(&self, bytes: u64, change: Change, corrupt: bool) -> oneshot::Receiver<()> {
        let (sprung, told) = oneshot::channel();
        self.gauge.lay(Trap {
            direction: Direction::Up,
            at: self.gauge.passed(Direction::Up) + bytes,
            change,
            corrupt,
            conditions: self.conditions.clone(),
            sprung,
        });
        told
    }

    fn carrier(&self, carrier: Carrier) {
        self.change(Change {
            carrier: Some(carrier),
            ..Change::default()
        });
    }

    /// A connection that is known to reach the machine.
    async fn connected(&self) -> TcpStream {
        let listening = async {
            loop {
                if let Ok(stream) = TcpStream::connect((LOOPBACK, self.port)).await {
                    break stream;
                }
                tokio::task::yield_now().await;
            }
        };
        let mut stream = timeout(SOON, listening).await.unwrap();
        assert_eq!(echoed(&mut stream, b"hello").await, b"hello");
        stream
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn echoed(stream: &mut TcpStream, text: &[u8]) -> Vec<u8> {
    stream.write_all(text).await.unwrap();
    let mut back = vec![0; text.len()];
    timeout(SOON, stream.read_exact(&mut back))
        .await
        .unwrap()
        .unwrap();
    back
}

async fn is_reset(stream: &mut TcpStream) -> bool {
    let read = timeout(SOON, stream.read(&mut [0])).await.unwrap();
    read.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
}

async fn is_silent(stream: &mut TcpStream) -> bool {
    timeout(SILENCE, stream.read(&mut [0])).await.is_err()
}

#[tokio::test]
async fn machine_that_moves_answers_at_its_new_address_and_no_other() {
    let rig = Rig::new().await;
    let mut open = rig.connected().await;
    let moved = Ipv4Addr::new(127, 0, 0, 2);
    rig.change(Change {
        address: Some(moved),
        ..Change::default()
    });
    assert!(is_reset(&mut open).await);
    let found = async {
        loop {
            if let Ok(stream) = TcpStream::connect((moved, rig.port)).await {
                break stream;
            }
            tokio::task::yield_now().await;
        }
    };
    let mut stream = timeout(SOON, found).await.unwrap();
    assert_eq!(echoed(&mut stream, b"hello").await, b"hello");
    let old = TcpStream::connect((LOOPBACK, rig.port)).await;
    assert_eq!(
        old.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );
}

#[tokio::test]
async fn cut_resets_what_is_open_and_refuses_what_is_new() {
    let rig = Rig::new().await;
    let mut open = rig.connected().await;
    rig.carrier(Carrier::Cut);
    assert!(is_reset(&mut open).await);
    let new = TcpStream::connect((LOOPBACK, rig.port)).await;
    assert_eq!(
        new.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );
}

#[tokio::test]
async fn restored_line_is_on_the_same_port() {
    let rig = Rig::new().await;
    let mut open = rig.connected().await;
    rig.carrier(Carrier::Cut);
    assert!(is_reset(&mut open).await);
    rig.change(Change {
        restore: true,
        ..Change::default()
    });
    rig.connected().await;
}

#[tokio::test]
async fn stalled_line_accepts_and_delivers_later() {
    let rig = Rig::new().await;
    let mut open = rig.connected().await;
    rig.carrier(Carrier::Stalled);
    let mut new = TcpStream::connect((LOOPBACK, rig.port)).await.unwrap();
    open.write_all(b"a").await.unwrap();
    new.write_all(b"b").await.unwrap();
    assert!(is_silent(&mut open).await && is_silent(&mut new).await);
    rig.carrier(Carrier::Up);
    for (mut stream, sent) in [(open, b'a'), (new, b'b')] {
        assert_eq!(
            timeout(SOON, stream.read_u8()).await.unwrap().unwrap(),
            sent
        );
    }
}

#[tokio::test]
async fn half_open_connection_hangs_and_a_new_one_passes() {
    let rig = Rig::new().await;
    let mut open = rig.connected().await;
    rig.change(Change {
        half_open: true,
        ..Change::default()
    });
    assert!(is_silent(&mut open).await);
    rig.connected().await;
    open.write_all(b"anyone?").await.unwrap();
    assert!(is_silent(&mut open).await);
}

#[tokio::test]
async fn rate_is_shared_by_all_connections() {
    let rig = Rig::new().await;
    let (mut one, mut two) = (rig.connected().await, rig.connected().await);
    rig.change(Change {
        rate_mbit: Some(8.0),
        ..Change::default()
    });
    let text = vec![7; 100_000];
    let start = Instant::now();
    tokio::join!(echoed(&mut one, &text), echoed(&mut two, &text));
    // 200 kB at 1 MB/s
    assert!(
        start.elapsed() >= Duration::from_millis(195),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn delay_counts_in_both_directions() {
    let rig = Rig::new().await;
    let mut open = rig.connected().await;
    rig.change(Change {
        delay_ms: Some(60),
        ..Change::default()
    });
    let start = Instant::now();
    echoed(&mut open, b"ping").await;
    assert!(
        start.elapsed() >= Duration::from_millis(120),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn machine_without_power_is_silent_and_resets_when_it_is_back() {
    let rig = Rig::new().await;
    let mut open = rig.connected().await;
    rig.far.send_replace(None);
    assert!(is_silent(&mut open).await);
    rig.far.send_replace(Some(rig.machine));
    assert!(is_silent(&mut open).await);
    rig.connected().await;
    assert!(is_reset(&mut open).await);
}

#[tokio::test]
async fn connection_the_machine_closes_is_closed_here() {
    let rig = Rig::new().await;
    let mut open = rig.connected().await;
    open.shutdown().await.unwrap();
    assert_eq!(
        timeout(SOON, open.read(&mut [0])).await.unwrap().unwrap(),
        0
    );
}

#[tokio::test]
async fn line_changes_at_the_byte_that_was_chosen() {
    let rig = Rig::new().await;
    let mut open = rig.connected().await;
    let stall = Change {
        carrier: Some(Carrier::Stalled),
        ..Change::default()
    };
    let sprung = rig.trap(3, stall);
    open.write_all(b"abcdef").await.unwrap();
    timeout(SOON, sprung).await.unwrap().unwrap();
    let before = rig.gauge.passed(Direction::Up);
    assert!(is_silent(&mut open).await);
    rig.carrier(Carrier::Up);
    let mut back = [0; 6];
    timeout(SOON, open.read_exact(&mut back))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&back, b"abcdef");
    assert_eq!(rig.gauge.passed(Direction::Up), before + 3);
}

#[tokio::test]
async fn truncated_stream_ends_as_if_all_had_been_said() {
    let rig = Rig::new().await;
    let mut open = rig.connected().await;
    let truncate = Change {
        truncate: true,
        ..Change::default()
    };
    let sprung = rig.trap(0, truncate);
    open.write_all(b"anyone?").await.unwrap();
    timeout(SOON, sprung).await.unwrap().unwrap();
    assert_eq!(
        timeout(SOON, open.read(&mut [0])).await.unwrap().unwrap(),
        0
    );
    rig.connected().await;
}

#[tokio::test]
async fn one_byte_arrives_as_another() {
    let rig = Rig::new().await;
    let mut open = rig.connected().await;
    let sprung = rig.lay(2, Change::default(), true);
    assert_eq!(echoed(&mut open, b"aaaaaa").await, b"aa`aaa");
    timeout(SOON, sprung).await.unwrap().unwrap();
    assert_eq!(echoed(&mut open, b"aaa").await, b"aaa");
}
