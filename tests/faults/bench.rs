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
    link::{Change, Conditions, gauge::Gauge, proxy::Line},
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
    port: u16,
}

impl Wire {
    fn lay(target: &Target) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let conditions = watch::Sender::new(Conditions::default());
        let far = watch::Sender::new(Some(SSHD));
        let line = Line::bind(None, conditions.subscribe(), far.subscribe())?
            .into_network(target.network()?);
        let (port, gauge) = (line.port(), line.gauge());
        runtime.spawn(async move {
            // the machine is there as long as the line
            let _far = far;
            let _ = Arc::new(line).serve().await;
        });
        Ok(Self {
            conditions,
            gauge,
            runtime,
            port,
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
            port: self.wire.port,
            key: site.assets.key(),
        };
        let flake = format!("{}#loop", site.path("flake").display());
        landfall.args(["--json", "--phases", "disko,install", "--flake", &flake]);
        landfall.arg("--extra-files").arg(site.path("extra"));
        landfall.arg("--copy-host-keys");
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

    /// Whether the new system's disk is mounted.
    pub(crate) fn is_mounted(&self) -> Result<bool> {
        Ok(self
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
