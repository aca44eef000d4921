//! The operator at work: landfall against a machine, with a memory that starts empty.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::{assets::Assets, machine::Machine, ssh::Ssh};

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
        let mut command = self.command(assets, crate::binaries::controller());
        command.args(reach(machine.ssh_login()));
        command
    }
}

/// The arguments that lead to a machine of the rig, before and after its kexec, and let landfall
/// erase it. The last one is the host.
#[must_use]
pub fn reach(ssh: &Ssh) -> Vec<String> {
    let port = ssh.port.to_string();
    let words = ["-i", path(&ssh.key), "-p", &port];
    // the line's port stays what it is, whatever answers at its other end
    let after = ["--post-kexec-ssh-port", &port];
    let policy = ["--host-key-policy", "accept-new", "--yes", "root@127.0.0.1"];
    let all = words.into_iter().chain(after).chain(policy);
    all.map(str::to_owned).collect()
}

fn path(path: &Path) -> &str {
    path.to_str().expect("the rig's paths are text")
}
