//! The emulator's control socket (QMP): commands one after the other, and the reason of its last
//! shutdown.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

/// The emulator opens its control socket within this; seen: 0.3 s on a busy host.
const OPENS: Duration = Duration::from_secs(20);
/// A command is answered within this; seen: 0.1 s, while the host was busy.
const ANSWERS: Duration = Duration::from_secs(60);
/// A machine is written to or read from a file within this; seen: 1.2 s on a busy host.
const MIGRATES: Duration = Duration::from_secs(120);
/// How often the emulator is asked whether that is done.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// An open control socket.
#[derive(Debug)]
pub struct Monitor {
    writer: OwnedWriteHalf,
    answers: mpsc::Receiver<Value>,
    /// Ends with the socket, and hands out the reason of the last shutdown it was told.
    listening: JoinHandle<Option<String>>,
}

impl Monitor {
    /// Waits until the emulator has made the socket, and opens it.
    pub async fn open(path: &Path) -> Result<Self> {
        let opened = timeout(OPENS, async {
            loop {
                if let Ok(stream) = UnixStream::connect(path).await {
                    break stream;
                }
                sleep(LOOK_EVERY).await;
            }
        });
        let stream = opened
            .await
            .context("waiting for the emulator's control socket")?;
        let (reader, writer) = stream.into_split();
        let (answer, answers) = mpsc::channel(1);
        let mut monitor = Self {
            writer,
            answers,
            listening: tokio::spawn(listen(reader, answer)),
        };
        monitor.execute("qmp_capabilities", json!({})).await?;
        Ok(monitor)
    }

    /// Has the emulator do something, and returns its answer.
    pub async fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        let told = || format!("telling the emulator to {command}");
        self.writer
            .write_all(line.as_bytes())
            .await
            .with_context(told)?;
        let answer = timeout(ANSWERS, self.answers.recv()).await;
        let answer = answer.with_context(told)?.with_context(told)?;
        match &answer["error"]["desc"] {
            Value::Null => Ok(answer["return"].clone()),
            why => bail!("the emulator does not {command}: {why}"),
        }
    }

    /// Writes the state of all devices to a file; the machine stands still from then on.
    ///
    /// Memory that is a shared file is left out: the file has it.
    pub async fn save(&mut self, file: &Path) -> Result<()> {
        self.execute("stop", json!({})).await?;
        self.leave_shared_memory_out().await?;
        self.execute("migrate", json!({ "uri": uri(file) })).await?;
        self.migrated().await
    }

    /// Reads what [`Monitor::save`] wrote into an emulator that waits for it, and lets it run.
    pub async fn resume(&mut self, file: &Path) -> Result<()> {
        self.leave_shared_memory_out().await?;
        self.execute("migrate-incoming", json!({ "uri": uri(file) }))
            .await?;
        self.migrated().await?;
        self.execute("cont", json!({})).await.map(drop)
    }

    /// Waits until the emulator ends, and returns why it said that it does.
    pub async fn closed(&mut self) -> Option<String> {
        (&mut self.listening).await.ok().flatten()
    }

    async fn leave_shared_memory_out(&mut self) -> Result<()> {
        let shared = json!({ "capability": "x-ignore-shared", "state": true });
        self.execute(
            "migrate-set-capabilities",
            json!({ "capabilities": [shared] }),
        )
        .await
        .map(drop)
    }

    async fn migrated(&mut self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let state = self.execute("query-migrate", json!({})).await?;
            match state["status"].as_str() {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => bail!("the emulator failed: {state}"),
                _ if begun.elapsed() > MIGRATES => bail!("the emulator does not end: {state}"),
                _ => sleep(LOOK_EVERY).await,
            }
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

fn uri(file: &Path) -> String {
    format!("file:{}", file.display())
}

/// Hands answers on until the emulator closes; keeps the reason of its shutdown.
async fn listen(stream: OwnedReadHalf, answer: mpsc::Sender<Value>) -> Option<String> {
    let mut lines = BufReader::new(stream).lines();
    let mut reason = None;
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(told) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        if told["event"] == "SHUTDOWN" {
            reason = told["data"]["reason"].as_str().map(ToOwned::to_owned);
        }
        if told.get("return").is_some() || told.get("error").is_some() {
            // an answer that nobody waits for any more
            let _ = answer.try_send(told);
        }
    }
    reason
}
