//! One installation's surroundings: a target, the line to it, and an operator who has never been there.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use landfall_tests::{
    assets::Assets,
    binaries,
    install::{Operator, ROOT, reach},
    link::{Change, Conditions, gauge::Gauge, proxy::Line},
    namespace::{SSHD, Size, Target},
    patience,
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
pub struct Site {
    pub assets: Assets,
    landfall: PathBuf,
    agents: PathBuf,
    folder: TempDir,
}

impl Site {
    pub fn prepare(landfall: Option<PathBuf>, agents: Option<PathBuf>) -> Result<Self> {
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
pub struct Wire {
    pub conditions: watch::Sender<Conditions>,
    pub gauge: Arc<Gauge>,
    pub runtime: Runtime,
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

    pub fn change(&self, change: Change) {
        self.conditions.send_modify(|now| *now = change.apply(*now));
    }
}

/// A target, the line to it and an operator.
#[derive(Debug)]
pub struct Bench {
    pub target: Target,
    pub wire: Wire,
    pub operator: Operator,
}

impl Bench {
    pub fn new(site: &Site) -> Result<Self> {
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
    fn command(&self, site: &Site) -> Command {
        let mut landfall = self.operator.command(&site.assets, &site.landfall);
        landfall.env("LANDFALL_AGENT_DIR", &site.agents);
        let ssh = Ssh {
            port: self.wire.port,
            key: site.assets.key(),
        };
        let flake = format!("{}#loop", site.path("flake").display());
        landfall.args(["--json", "--phases", "disko,install", "--flake", &flake]);
        landfall.arg("--extra-files").arg(site.path("extra"));
        landfall.arg("--copy-host-keys").args(reach(&ssh, ROOT));
        landfall.stdin(Stdio::null()).process_group(0);
        landfall
    }

    pub fn once(&self, site: &Site) -> Result<Option<i32>> {
        let folder = PathBuf::from("/tmp/faults-dev/once");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        let mut child = self
            .command(site)
            .stdout(File::create(folder.join("stdout"))?)
            .stderr(File::create(folder.join("stderr"))?)
            .spawn()?;
        let ended = patience::until("landfall", Duration::from_secs(120), || {
            Ok(child.try_wait()?)
        });
        if ended.is_err() {
            child.kill()?;
            child.wait()?;
        }
        fs::write(folder.join("sshd"), self.target.log())?;
        Ok(ended?.code())
    }

    pub fn end(self) -> Result<()> {
        drop(self.wire);
        self.target.end()
    }
}
