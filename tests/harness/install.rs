//! The operator at work: landfall against a machine, with a memory that starts empty.

use std::{
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::{assets::Assets, machine::Machine, patience, ssh::Ssh, waits};

/// The login of most tests.
pub const ROOT: &str = "root@127.0.0.1";

/// An operator who has never used landfall before, and whose folders are gone with this value.
#[derive(Debug)]
pub struct Operator {
    home: TempDir,
}

impl Operator {
    /// Makes the folders.
    pub fn new() -> Result<Self> {
        let home = TempDir::with_prefix("operator-").context("making a home")?;
        let operator = Self { home };
        for folder in [operator.state(), operator.runtime(), operator.temporary()] {
            fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
        }
        Ok(operator)
    }

    /// The program under test in this operator's environment; what it is told is the caller's.
    #[must_use]
    pub fn command(&self, assets: &Assets, program: impl AsRef<OsStr>) -> Command {
        let mut command = assets.operator_command(program);
        command.env("LANDFALL_AGENT_DIR", assets.agents());
        command
            .env("HOME", self.home.path())
            .env("XDG_STATE_HOME", self.state());
        command
            .env("XDG_RUNTIME_DIR", self.runtime())
            .env("TMPDIR", self.temporary());
        command
    }

    /// `$XDG_STATE_HOME`: what is remembered about hosts, in `landfall/<host>/`.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.home.path().join("state")
    }

    /// `$XDG_RUNTIME_DIR`: sockets. Nothing is left there by a run that is over.
    #[must_use]
    pub fn runtime(&self) -> PathBuf {
        self.home.path().join("run")
    }

    /// `$TMPDIR`. Nothing is left there by a run that is over.
    #[must_use]
    pub fn temporary(&self) -> PathBuf {
        self.home.path().join("tmp")
    }

    /// `landfall`, as cargo builds it for tests, with everything it takes to reach `machine`, which
    /// it may erase; what to do there is the caller's to add.
    #[must_use]
    pub fn landfall(&self, assets: &Assets, machine: &Machine) -> Command {
        self.landfall_as(assets, machine, ROOT)
    }

    /// The same with another login: `user@127.0.0.1`, or `127.0.0.1` alone.
    #[must_use]
    pub fn landfall_as(&self, assets: &Assets, machine: &Machine, host: &str) -> Command {
        let mut command = self.command(assets, crate::binaries::controller());
        command.args(reach(machine.ssh_login(), host));
        command
    }

    /// The store path of something that the fixture has, such as
    /// `nixosConfigurations.demo.config.system.build.toplevel`; built if it has to be.
    pub fn build(&self, assets: &Assets, attribute: &str) -> Result<String> {
        let mut nix = self.command(assets, "nix");
        nix.args(["build", "--no-link", "--print-out-paths"]);
        nix.arg(format!("{}#{attribute}", assets.fixture_flake().display()));
        let built = waits::on("build", || nix.output()).context("starting nix")?;
        ensure!(
            built.status.success(),
            "{}",
            String::from_utf8_lossy(&built.stderr)
        );
        Ok(String::from_utf8(built.stdout)?.trim_end().to_owned())
    }
}

/// How a command ended, and what it said.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; none if it was killed, at the deadline or by somebody else.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// What it told the person who waited.
    pub stderr: String,
}

/// Runs `command` without a terminal until it ends; kills it when `deadline` is over.
///
/// `look` is called again and again while it runs.
pub fn run(command: &mut Command, deadline: Duration, mut look: impl FnMut()) -> Result<Ended> {
    let desk = TempDir::with_prefix("desk-").context("making a folder for what is said")?;
    let (out, err) = (desk.path().join("out"), desk.path().join("err"));
    command
        .stdin(Stdio::null())
        .stdout(File::create(&out)?)
        .stderr(File::create(&err)?);
    let begun = Instant::now();
    let mut child = command.spawn().context("starting the command")?;
    let ended = patience::until("the command's end", deadline, || {
        look();
        Ok(child.try_wait()?)
    });
    let code = match ended {
        Ok(status) => status.code(),
        Err(_) => {
            child.kill()?;
            child.wait()?;
            None
        }
    };
    let stderr = String::from_utf8_lossy(&fs::read(&err)?).into_owned();
    let stdout = fs::read(&out)?;
    let lines = stdout.split(|byte| *byte == b'\n');
    let records: Vec<_> = lines
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    waits::add_run(&records, begun.elapsed());
    Ok(Ended {
        code,
        stdout,
        stderr,
    })
}

/// The arguments that lead to a machine of the rig, before and after its kexec, and let landfall
/// erase it. The last one is `host`.
#[must_use]
pub fn reach(ssh: &Ssh, host: &str) -> Vec<String> {
    let port = ssh.port.to_string();
    let words = ["-i", path(&ssh.key), "-p", &port];
    // the line's port stays what it is, whatever answers at its other end
    let after = ["--post-kexec-ssh-port", &port];
    let policy = ["--host-key-policy", "accept-new", "--yes", host];
    let all = words.into_iter().chain(after).chain(policy);
    all.map(str::to_owned).collect()
}

fn path(path: &Path) -> &str {
    path.to_str().expect("the rig's paths are text")
}
