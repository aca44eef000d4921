//! Brings the agent to the bare machine: finds a place, sends what is missing, lets it check itself, starts it.

use std::{io::SeekFrom, time::Duration};

use landfall_proto::{facts::Facts, failure::Failure, order::BlobHash, wire};
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, AsyncWriteExt, BufReader},
    time::Instant,
};

use super::{
    classify::{SshError, Trouble},
    place::{self, Place, Traces},
    probe::{self, Lock, Machine},
    shell::{Remote, Root},
    ssh::{Output, Ssh},
};
use crate::local::{agents::AgentFile, child::last_lines, secret::Secret};

/// One question and its answer; a login over a bad link takes a while, a prompt for a passphrase longer.
const ASK: Duration = Duration::from_secs(60);
const ASK_PERSON: Duration = Duration::from_secs(180);
/// Starting the agent: its unit, its socket.
const START: Duration = Duration::from_secs(60);
/// Looking at a machine with many disks.
const LOOK: Duration = Duration::from_secs(120);
/// Pauses between tries.
const PAUSE: [Duration; 4] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
];

/// An agent that lies on the machine and is what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Where.
    pub place: Place,
    /// Its hash.
    pub hash: BlobHash,
}

/// What an agent says when it has been started.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Started {
    /// BLAKE3 of the file it runs from.
    pub build: String,
}

/// Asks the bare machine what it is.
pub async fn probe(ssh: &Ssh) -> Result<Machine, Failure> {
    probe_within(ssh, Duration::ZERO, |_| ()).await
}

/// The same, with tries until the deadline where the line may come back.
pub async fn probe_within(
    ssh: &Ssh,
    deadline: Duration,
    retrying: impl FnMut(&SshError),
) -> Result<Machine, Failure> {
    let script = probe::script();
    let output = insist(ssh, &script, &[], patience(ssh), deadline, retrying).await?;
    probe::read(&output.stdout).ok_or_else(|| {
        let failure = Failure::new(format!("cannot use {}", ssh.destination()))
            .because("its login shell did not run a short sh script to the end")
            .hint(format!(
                "`ssh {} sh -c true` should end without a word",
                ssh.destination()
            ))
            .code("LF0204");
        said(failure, &output)
    })
}

/// Tries a password on the machine's sudo, once. An error is ssh's; what keeps sudo from making root is told beside it.
///
/// Nothing follows the password: a wrong one cannot take anything else for a second try.
pub async fn try_sudo(ssh: &Ssh, password: &Secret) -> Result<Result<(), (Lock, String)>, Failure> {
    let line = password.line();
    let output = ssh
        .run(&probe::try_password(), line.expose(), patience(ssh))
        .await?;
    if output.status == Some(0) {
        return Ok(Ok(()));
    }
    let said = last_lines(&output.stderr, 3).join(" · ");
    Ok(Err((probe::lock(&output.stderr), said)))
}

/// Finds a place for the agent, and whether it is there already. Goes on after a lost connection until the deadline;
/// `retrying` is told what a try met with.
pub async fn search(
    ssh: &Ssh,
    root: Root,
    hash: &BlobHash,
    deadline: Duration,
    retrying: impl FnMut(&SshError),
) -> Result<Place, Failure> {
    let script = place::search(root, hash);
    let output = insist(ssh, &script, &[], patience(ssh), deadline, retrying).await?;
    place::found(&output.stdout, root, ssh.destination()).map_err(|failure| said(failure, &output))
}

/// Looks what there is of an agent, and changes nothing.
pub async fn traces(ssh: &Ssh, root: Root, folder: &str) -> Result<Traces, Failure> {
    let output = ssh
        .run(&place::traces(root, folder), &[], patience(ssh))
        .await?;
    place::traced(&output.stdout).ok_or_else(|| {
        let failure = Failure::new(format!("cannot look for an agent on {}", ssh.destination()));
        said(failure.code("LF0204"), &output)
    })
}

/// Sends the agent to its place unless it is there, going on after a lost connection until the deadline.
///
/// `progress` is told how many bytes have left and how many there are; `retrying` what a try met with.
pub async fn place(
    ssh: &Ssh,
    place: Place,
    agent: &AgentFile,
    deadline: Duration,
    mut progress: impl FnMut(u64, u64),
    mut retrying: impl FnMut(&SshError),
) -> Result<Placed, Failure> {
    let until = Instant::now() + deadline;
    let hash = agent.blob.hash.clone();
    if place.there.as_deref() == Some(hash.as_str()) {
        return Ok(Placed { place, hash });
    }
    let mut pauses = pauses();
    let mut discarded = false;
    loop {
        let sent = tokio::time::timeout_at(until, send(ssh, &place, agent, &mut progress)).await;
        let sent = sent.unwrap_or_else(|_| {
            let destination = ssh.destination().to_owned();
            Err(Sending::Ssh(SshError {
                destination,
                trouble: Trouble::TimedOut,
                said: String::new(),
            }))
        });
        match sent {
            Ok(build) if build == hash.as_str() => return Ok(Placed { place, hash }),
            Ok(_) if discarded => {
                return Err(cannot_send(ssh)
                    .because("what arrived is not what was sent, twice")
                    .hint("is the machine's memory or disk broken? run the same command again")
                    .code("LF0207"));
            }
            Ok(_) => {
                discarded = true;
                ssh.run(&place::discard(place.root, &place.folder, &hash), &[], ASK)
                    .await?;
            }
            Err(Sending::Refused(failure)) => return Err(failure),
            Err(Sending::Ssh(error)) => {
                let pause = pauses.next().expect("the pauses have no end");
                if !error.trouble.may_pass() || Instant::now() + pause >= until {
                    return Err(Failure::from(error)
                        .under(format!("cannot send the agent to {}", ssh.destination())));
                }
                retrying(&error);
                tokio::time::sleep(pause).await;
            }
        }
    }
}

enum Sending {
    Ssh(SshError),
    Refused(Failure),
}

/// Sends what is missing in one connection; returns the hash that the agent there says it has.
async fn send(
    ssh: &Ssh,
    place: &Place,
    agent: &AgentFile,
    progress: &mut impl FnMut(u64, u64),
) -> Result<String, Sending> {
    let size = agent.blob.size;
    let command = place::receive(place.root, &place.folder, &agent.blob.hash, size);
    let tunnel = ssh.tunnel(&command).map_err(Sending::Ssh)?;
    let fate = tunnel.fate();
    let (read, mut write) = tokio::io::split(tunnel);
    let mut lines = BufReader::new(read.take(1 << 20)).lines();
    let mut built = None;
    let talk = async {
        while let Some(line) = lines.next_line().await? {
            if let Some(offset) = place::offset(&line) {
                let mut file = tokio::fs::File::open(&agent.path).await?;
                file.seek(SeekFrom::Start(offset)).await?;
                let mut sent = offset;
                let mut buffer = vec![0; 32 << 10];
                progress(sent, size);
                while let count @ 1.. = file.read(&mut buffer).await? {
                    write.write_all(&buffer[..count]).await?;
                    sent += count as u64;
                    progress(sent, size);
                }
                write.shutdown().await?;
            }
            built = place::received(&line).or(built.take());
        }
        std::io::Result::Ok(())
    };
    // a broken pipe only shows that ssh has ended; how it ended is the story
    let talked = talk.await;
    if let (Ok(()), Some(build)) = (&talked, built) {
        return Ok(build);
    }
    let error = fate.told(Duration::from_secs(5)).await;
    match error.trouble {
        Trouble::Remote(status) => {
            let mut failure = cannot_send(ssh)
                .because(place::refused(status))
                .code("LF0208");
            for line in last_lines(&error.said, 3) {
                failure = failure.because(line);
            }
            Err(Sending::Refused(
                failure.hint("`df -h` on the machine shows where there is room"),
            ))
        }
        _ => Err(Sending::Ssh(error)),
    }
}

/// Starts the agent with these credentials (JSON, never kept in the clear on the way), or finds it running.
///
/// Goes on after a lost connection until the deadline; `retrying` is told what a try met with.
pub async fn start(
    ssh: &Ssh,
    placed: &Placed,
    folder: &str,
    credentials: &[u8],
    deadline: Duration,
    retrying: impl FnMut(&SshError),
) -> Result<Started, Failure> {
    let arguments = format!("spawn --dir {}", super::ssh::quote(folder));
    spawn(ssh, placed, &arguments, credentials, deadline, retrying).await
}

/// Lets these credentials in to an agent that serves there already. Starts none.
pub async fn admit(
    ssh: &Ssh,
    placed: &Placed,
    folder: &str,
    credentials: &[u8],
) -> Result<Started, Failure> {
    let arguments = format!("spawn --only-find --dir {}", super::ssh::quote(folder));
    let once = Duration::ZERO;
    spawn(ssh, placed, &arguments, credentials, once, |_| ()).await
}

async fn spawn(
    ssh: &Ssh,
    placed: &Placed,
    arguments: &str,
    credentials: &[u8],
    deadline: Duration,
    retrying: impl FnMut(&SshError),
) -> Result<Started, Failure> {
    let command = placed.place.command(&placed.hash, arguments);
    let patience = START.max(patience(ssh));
    let output = insist(ssh, &command, credentials, patience, deadline, retrying).await?;
    let text = String::from_utf8_lossy(&output.stdout);
    let started = text
        .lines()
        .rev()
        .find_map(|line| serde_json::from_str(line.trim()).ok());
    if let (Some(0), Some(started)) = (output.status, started) {
        return Ok(started);
    }
    let failure = Failure::new(format!("cannot start the agent on {}", ssh.destination()))
        .hint("run the same command again; `journalctl -u landfall-agent` on the machine may know more")
        .code("LF0209");
    Err(said(failure, &output))
}

/// Lets the agent look at the machine without serving anybody, and take itself off afterwards where it should.
///
/// An agent that is at work there, in the same folder, is not disturbed.
pub async fn look(ssh: &Ssh, placed: &Placed, folder: &str, leave: bool) -> Result<Facts, Failure> {
    let leave = if leave { " --leave" } else { "" };
    let arguments = format!("facts --dir {}{leave}", super::ssh::quote(folder));
    let command = placed.place.command(&placed.hash, &arguments);
    let output = ssh.run(&command, &[], LOOK.max(patience(ssh))).await?;
    // login scripts may say something too
    let facts = output
        .stdout
        .split(|byte| *byte == b'\n')
        .rev()
        .find_map(|line| wire::facts_from_wire(line).ok());
    if let (Some(0), Some(facts)) = (output.status, facts) {
        return Ok(facts);
    }
    let failure = Failure::new(format!("cannot look at {}", ssh.destination()))
        .hint("run the same command again")
        .code("LF0209");
    Err(said(failure, &output))
}

/// Removes what was sent, from a machine where no agent runs.
pub async fn remove(ssh: &Ssh, place: &Place, hash: &BlobHash) -> Result<(), Failure> {
    let script = place::remove(place.root, &place.folder, hash);
    ssh.run(&script, &[], ASK).await?;
    Ok(())
}

/// Runs what may be run twice until it was run to its end: the machine has answered before.
async fn insist(
    ssh: &Ssh,
    command: &Remote,
    input: &[u8],
    patience: Duration,
    deadline: Duration,
    mut retrying: impl FnMut(&SshError),
) -> Result<Output, SshError> {
    let until = Instant::now() + deadline;
    let mut pauses = pauses();
    loop {
        let error = match ssh.run(command, input, patience).await {
            Ok(output) => return Ok(output),
            Err(error) => error,
        };
        let pause = pauses.next().expect("the pauses have no end");
        let may_pass = error.trouble.may_pass() && error.trouble != Trouble::AuthRefused;
        if !may_pass || Instant::now() + pause >= until {
            return Err(error);
        }
        retrying(&error);
        tokio::time::sleep(pause).await;
    }
}

/// Returns the pauses between tries, without end.
fn pauses() -> impl Iterator<Item = Duration> {
    let last = PAUSE[PAUSE.len() - 1];
    PAUSE.into_iter().chain(std::iter::repeat(last))
}

fn patience(ssh: &Ssh) -> Duration {
    if ssh.asks() { ASK_PERSON } else { ASK }
}

fn cannot_send(ssh: &Ssh) -> Failure {
    Failure::new(format!("cannot send the agent to {}", ssh.destination())).code("LF0208")
}

/// Adds what a remote command said and how it ended.
fn said(mut failure: Failure, output: &Output) -> Failure {
    if let Some(status @ 1..) = output.status {
        failure = failure.because(format!("the command ended with status {status}"));
    }
    for line in last_lines(&output.stderr, 3) {
        failure = failure.because(line);
    }
    failure
}
