//! The observer's ssh: how the rig and its tests look at a machine, apart from what is tested.
//!
//! Takes nothing from the user's configuration and remembers no host key.

use std::{
    io::Read,
    net::{Ipv4Addr, TcpStream},
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::patience;

/// One look at a machine takes no longer; seen: 2 s for a login on a busy host.
const LOOK: Duration = Duration::from_secs(60);
/// A try while waiting: a machine that is booting accepts and says nothing.
const TRY: Duration = Duration::from_secs(10);

/// A machine that is up greets within this, over the slowest line that is shown.
const BANNER: Duration = Duration::from_secs(5);

/// A way to log in as root.
#[derive(Clone, Debug)]
pub struct Ssh {
    /// The operator's end of the line.
    pub port: u16,
    /// The private key.
    pub key: PathBuf,
}

impl Ssh {
    /// The command line up to and including the host.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new("ssh");
        self.arguments(&mut command);
        command
    }

    /// Runs `what` in the machine's shell; fails only if ssh cannot be started.
    ///
    /// Exit status 255 is ssh's own, 124 says that it took more than a minute.
    pub fn run(&self, what: &str) -> Result<Output> {
        self.run_within(what, LOOK)
    }

    /// Waits until a login succeeds.
    pub fn wait(&self, deadline: Duration) -> Result<()> {
        patience::until(&format!("ssh on port {}", self.port), deadline, || {
            let done = self.run_within("true", TRY)?;
            Ok(done.status.success().then_some(()))
        })
    }

    /// Waits until something that speaks ssh answers; cheaper than a login on a slow line.
    pub fn wait_banner(&self, deadline: Duration) -> Result<()> {
        patience::until(&format!("ssh on port {}", self.port), deadline, || {
            Ok(self.banner().ok())
        })
    }

    /// Whether something that speaks ssh answers now.
    pub fn banner(&self) -> Result<()> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(BANNER))?;
        let mut greeting = [0; 4];
        stream.read_exact(&mut greeting)?;
        ensure!(
            &greeting == b"SSH-",
            "port {} does not speak ssh",
            self.port
        );
        Ok(())
    }

    /// The same, with another time than a minute.
    pub fn run_within(&self, what: &str, deadline: Duration) -> Result<Output> {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=2", &deadline.as_secs().to_string(), "ssh"]);
        self.arguments(&mut command);
        command.arg("--").arg(what).stdin(Stdio::null());
        command.output().context("starting ssh")
    }

    fn arguments(&self, command: &mut Command) {
        command.args(["-F", "/dev/null", "-i"]).arg(&self.key);
        for option in [
            "IdentitiesOnly=yes",
            "BatchMode=yes",
            "UserKnownHostsFile=/dev/null",
            "StrictHostKeyChecking=no",
            "LogLevel=ERROR",
            "ConnectTimeout=10",
            "ServerAliveInterval=10",
            "ServerAliveCountMax=6",
        ] {
            command.args(["-o", option]);
        }
        command.args(["-p", &self.port.to_string(), "root@127.0.0.1"]);
    }
}
