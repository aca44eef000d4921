//! One installation's surroundings: a target, the line to it, and an operator who has never been there.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use anyhow::{Context, Result};
use landfall_tests::{
    assets::Assets,
    binaries,
    install::{Operator, ROOT, reach},
    link::{
        Change, Conditions,
        gauge::Gauge,
        proxy::{Far, Line},
    },
    namespace::{SSHD, Size, Target},
    ssh::Ssh,
};
use tempfile::TempDir;
use tokio::{runtime::Runtime, sync::watch};

use super::fixture;

/// 200 MiB for the system, 64 MiB for its boot files; a little more than it takes.
const SIZE: Size = Size {
    disks: [200 << 20, 64 << 20],
    run: 64 << 20,
};

/// Where the disko script reads the key of the disks.
pub(crate) const DISK_KEY: &str = "/tmp/disk.key";

/// What all runs share.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) assets: Assets,
    landfall: PathBuf,
    agents: PathBuf,
    folder: TempDir,
}

impl Site {
    pub(crate) fn prepare(landfall: Option<PathBuf>, agents: Option<PathBuf>) -> Result<Self> {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("finding the repository")?;
        let (assets, landfall, agents) = match (landfall, agents) {
            (Some(landfall), Some(agents)) => {
                (Assets::of_namespaces(repository)?, landfall, agents)
            }
            _ => {
                let assets = Assets::prepare(repository)?;
                let agents = assets.agents();
                (assets, binaries::released_controller().to_owned(), agents)
            }
        };
        let folder = TempDir::with_prefix("faults-").context("making a folder")?;
        fixture::flake(&assets, &folder.path().join("flake"))?;
        fixture::extra(&folder.path().join("extra"))?;
        fixture::disk_key(&folder.path().join("key"))?;
        Ok(Self {
            assets,
            landfall,
            agents,
            folder,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// The line to a target, which only the operator uses.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) conditions: watch::Sender<Conditions>,
    pub(crate) gauge: Arc<Gauge>,
    pub(crate) runtime: Runtime,
    pub(crate) line: Arc<Line>,
    far: watch::Sender<Far>,
}

impl Wire {
    fn lay(target: &Target) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let conditions = watch::Sender::new(Conditions::default());
        let far = watch::Sender::new(Some(SSHD));
        let line = Arc::new(Line::bind(None, conditions.subscribe(), far.subscribe())?);
        line.reach_in(target.network()?);
        let served = Arc::clone(&line);
        runtime.spawn(async move {
            let _ = served.serve().await;
        });
        Ok(Self {
            conditions,
            gauge: line.gauge(),
            runtime,
            line,
            far,
        })
    }

    pub(crate) fn change(&self, change: Change) {
        self.conditions.send_modify(|now| *now = change.apply(*now));
    }
}

/// A target, the line to it and an operator.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) target: Target,
    pub(crate) wire: Wire,
    pub(crate) operator: Operator,
}

impl Bench {
    pub(crate) fn new(site: &Site) -> Result<Self> {
        let target = Target::start(&site.assets, SIZE)?;
        let wire = Wire::lay(&target)?;
        let bench = Self {
            target,
            wire,
            operator: Operator::new()?,
        };
        Ok(bench)
    }

    /// The command that is given again and again.
    pub(crate) fn command(&self, site: &Site, fresh: bool) -> Command {
        let mut landfall = self.operator.command(&site.assets, &site.landfall);
        landfall.env("LANDFALL_AGENT_DIR", &site.agents);
        let ssh = Ssh {
            port: self.wire.line.port(),
            key: site.assets.key(),
        };
        let flake = format!("{}#loop", site.path("flake").display());
        landfall.args(["--json", "--phases", "disko,install", "--flake", &flake]);
        landfall.arg("--extra-files").arg(site.path("extra"));
        landfall.arg("--copy-host-keys");
        landfall
            .args(["--disk-encryption-keys", DISK_KEY])
            .arg(site.path("key"));
        if fresh {
            landfall.arg("--fresh");
        }
        landfall.args(reach(&ssh, ROOT));
        // nothing of it outlives this program
        let mut bound = Command::new("setpriv");
        bound
            .args(["--pdeathsig", "KILL"])
            .arg(landfall.get_program());
        bound.args(landfall.get_args());
        for (name, value) in landfall.get_envs() {
            match value {
                Some(value) => bound.env(name, value),
                None => bound.env_remove(name),
            };
        }
        bound.stdin(Stdio::null()).process_group(0);
        bound
    }

    /// Takes the target's power: what is connected hangs, and nobody answers.
    pub(crate) fn power_off(&mut self) -> Result<()> {
        self.wire.far.send_replace(None);
        self.target.power_off()
    }

    /// Gives the power back; nothing if it is there.
    pub(crate) fn power_on(&mut self) -> Result<()> {
        if self.target.has_power() {
            return Ok(());
        }
        self.target.power_on()?;
        self.wire.line.reach_in(self.target.network()?);
        self.wire.far.send_replace(Some(SSHD));
        Ok(())
    }

    /// The agent at work, as it is called on this host.
    pub(crate) fn agent(&self) -> Result<Option<i32>> {
        let processes = self.target.processes()?;
        let serves = |words: &str| words.contains("landfall-agent") && words.contains(" serve");
        Ok(processes
            .into_iter()
            .find(|(_, words)| serves(words))
            .map(|(pid, _)| pid))
    }

    /// Processes of the operator: those that know this operator's home.
    pub(crate) fn processes(&self) -> Result<Vec<(i32, String)>> {
        let home = self.operator.runtime();
        let home = home.to_str().context("naming a folder")?;
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").context("looking at processes")? {
            let process = entry?.path();
            let read = |file: &str| fs::read(process.join(file)).unwrap_or_default();
            let knows = String::from_utf8_lossy(&read("environ")).contains(home);
            let pid = process
                .file_name()
                .and_then(|name| name.to_str()?.parse().ok());
            if let (true, Some(pid)) = (knows, pid) {
                let words = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
                found.push((pid, words.trim_end().to_owned()));
            }
        }
        Ok(found)
    }

    /// All processes on both sides.
    pub(crate) fn everybody(&self) -> Result<Vec<(i32, String)>> {
        let mut found = self.target.processes()?;
        found.extend(self.processes()?);
        Ok(found)
    }

    /// When disko's script did this (`begin`, `end`) to format, in seconds since this host was booted: it tells so at a
    /// place that is not on its disks.
    pub(crate) fn witness(&self, what: &str) -> Vec<f64> {
        let path = self.target.path("/var/witness/disks");
        let text = fs::read_to_string(path).unwrap_or_default();
        let what = format!("{what} disko ");
        let when = text.lines().filter_map(|line| line.strip_prefix(&what));
        when.filter_map(|when| when.parse().ok()).collect()
    }

    /// Whether the new system's disk is mounted.
    pub(crate) fn is_mounted(&self) -> Result<bool> {
        Ok(self.target.has_power()
            && self
                .target
                .mounts()?
                .iter()
                .any(|mount| mount == "/mnt ext4"))
    }

    /// Copies what landfall remembers of the target, before it is forgotten.
    pub(crate) fn keep_state(&self, folder: &Path) -> Result<()> {
        let copied = Command::new("cp")
            .args(["-a", "--"])
            .arg(self.operator.state())
            .arg(folder.join("state"))
            .status();
        copied.context("starting cp")?;
        Ok(())
    }

    pub(crate) fn end(self) -> Result<()> {
        drop(self.wire);
        self.target.end()
    }
}
