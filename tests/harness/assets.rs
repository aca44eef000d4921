//! What machines are made of, and what the operator works with: all of it made here, from package
//! registries, once.
//!
//! A recipe is a shell script in `tests/recipes`; what it makes is an *item*, a folder named by the
//! hash of the recipe and everything it was made from. An item exists whole or not at all. Reading
//! order: [`recipe`], [`cache`], [`host`].

mod cache;
mod host;
mod recipe;

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use self::{cache::Cache, recipe::Plan};

/// How nix is set up on the operator's side: no public cache to wait for, no build users.
const NIX_CONFIG: &str = "experimental-features = nix-command flakes
substituters =
build-users-group =
sandbox = false
warn-dirty = false";

/// Runs a program with the rig's nix store at /nix, in a mount namespace of its own: this machine's
/// /nix is a mount point at most.
const AT_NIX: &str = r#"mkdir -p /nix && mount --bind "$0" /nix && exec "$@""#;

/// The finished items.
#[derive(Clone, Debug)]
pub struct Assets {
    root: PathBuf,
    plan: Plan,
}

impl Assets {
    /// Makes what is missing, and installs the Debian packages that this takes.
    ///
    /// `repository` is where the agents are built from. Waits while another process prepares. Takes
    /// milliseconds when nothing is missing.
    pub fn prepare(repository: &Path) -> Result<Self> {
        Self::make(repository, false)
    }

    /// Makes what no machine of the rig takes, too: the agent for aarch64.
    pub fn prepare_all(repository: &Path) -> Result<Self> {
        Self::make(repository, true)
    }

    fn make(repository: &Path, foreign: bool) -> Result<Self> {
        let assets = Self::plan(repository)?;
        let cache = Cache::new(&assets.root, foreign);
        if cache.missing(&assets.plan).next().is_some() {
            cache.fill(&assets.plan, repository)?;
        }
        fs::create_dir_all(assets.root.join("store/nix")).context("making the operator's store")?;
        cache.touch(&assets.plan);
        Ok(assets)
    }

    /// Takes what is there and makes nothing.
    ///
    /// Fails when a machine could not be started. Does not look at the agents: their sources change
    /// more often than a machine's parts, and a machine starts without them.
    pub fn open() -> Result<Self> {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .expect("tests/ is in the repository");
        let assets = Self::plan(repository)?;
        let missing = Cache::new(&assets.root, false)
            .missing(&assets.plan)
            .map(|recipe| recipe.name)
            .find(|name| *name != recipe::AGENTS);
        if let Some(name) = missing {
            anyhow::bail!("the rig lacks `{name}`: run `cargo rig setup`");
        }
        Ok(assets)
    }

    /// Takes what a target of namespaces is made of, and makes nothing.
    pub fn of_namespaces(repository: &Path) -> Result<Self> {
        let assets = Self::plan(repository)?;
        let names = ["installer-root", "workshop", "key", "nix"];
        if let Some(name) = names.iter().find(|name| !assets.item(name).is_dir()) {
            anyhow::bail!("the rig lacks `{name}`: run `cargo rig setup`");
        }
        fs::create_dir_all(assets.root.join("store/nix")).context("making the operator's store")?;
        Ok(assets)
    }

    /// An executable: QEMU with its own libraries and firmware.
    #[must_use]
    pub fn qemu(&self) -> PathBuf {
        self.item("qemu").join("qemu")
    }

    /// The code of a UEFI firmware.
    #[must_use]
    pub fn ovmf_code(&self) -> PathBuf {
        self.item("qemu").join("OVMF_CODE.fd")
    }

    /// The empty variables of that firmware, to be copied for each machine.
    #[must_use]
    pub fn ovmf_vars(&self) -> PathBuf {
        self.item("qemu").join("OVMF_VARS.fd")
    }

    /// The kernel of every machine, as its distribution has it.
    #[must_use]
    pub fn kernel_image(&self) -> PathBuf {
        self.item("kernel").join("bzImage")
    }

    /// The kernel of the machines that are taken over, not compressed.
    #[must_use]
    pub fn target_kernel(&self) -> PathBuf {
        self.item("boot").join("kernel")
    }

    /// Its initramfs, which boots whatever is on /dev/vda.
    #[must_use]
    pub fn target_initrd(&self) -> PathBuf {
        self.item("boot").join("initrd")
    }

    /// A Debian with systemd and sshd. Raw, 2 GiB, sparse.
    ///
    /// The rig's key lets in root and `op`, who may use sudo; `asked`, whom sudo asks for the password
    /// `let me in`, with which ssh lets in too; and `doer`, who may use doas.
    #[must_use]
    pub fn target_disk(&self) -> PathBuf {
        self.item("target").join("disk.raw")
    }

    /// A root with a shell, sshd and little else. Raw, 1 GiB, sparse.
    #[must_use]
    pub fn bare_disk(&self) -> PathBuf {
        self.item("bare").join("disk.raw")
    }

    /// The stand-in installer in the layout of the stock image, `.tar.gz`.
    ///
    /// Programs that look at hardware say something fixed there; files `/run/rig-hardware-fails`,
    /// `-complains` and `-garbles` make them fail half way, talk on stderr, or end early and well.
    #[must_use]
    pub fn installer_tarball(&self) -> PathBuf {
        self.item("installer").join("kexec.tar.gz")
    }

    /// The installer's kernel, not compressed, to boot it without a kexec.
    #[must_use]
    pub fn installer_kernel(&self) -> PathBuf {
        self.item("installer").join("kernel")
    }

    /// The installer's initramfs, with the rig's key in it.
    #[must_use]
    pub fn installer_initrd(&self) -> PathBuf {
        self.item("installer").join("initrd")
    }

    /// The root file system of the stand-in installer, not to be written to.
    #[must_use]
    pub fn installer_root(&self) -> PathBuf {
        self.item("installer-root").join("root")
    }

    /// A static busybox.
    #[must_use]
    pub fn busybox(&self) -> PathBuf {
        self.item("workshop").join("root/usr/bin/busybox")
    }

    /// A flake with `nixosConfigurations.demo` and its relatives, among them one for each layout of
    /// disks (see `tests/recipes/fixture`).
    #[must_use]
    pub fn fixture_flake(&self) -> PathBuf {
        self.item("fixture").join("flake")
    }

    /// The folder of `landfall-agent-x86_64-linux-musl`.
    ///
    /// Exists after [`Assets::prepare`]; after [`Assets::open`] only while the sources are those of
    /// the last preparation.
    #[must_use]
    pub fn agents(&self) -> PathBuf {
        self.item(recipe::AGENTS)
    }

    /// The folder of `landfall-agent-aarch64-linux-musl`, after [`Assets::prepare_all`].
    #[must_use]
    pub fn foreign_agents(&self) -> PathBuf {
        self.item(recipe::FOREIGN)
    }

    /// The private key that opens every machine and every installed system; `.pub` is beside it.
    #[must_use]
    pub fn key(&self) -> PathBuf {
        self.item("key").join("id")
    }

    /// A folder for PATH: `nix`, `nix-store`, `nix-daemon` and so on, 2.26 or newer.
    #[must_use]
    pub fn nix_bin(&self) -> PathBuf {
        self.item("nix").join("bin")
    }

    /// What nix wants in its environment.
    #[must_use]
    pub fn nix_env(&self) -> Vec<(String, String)> {
        vec![("NIX_CONFIG".into(), NIX_CONFIG.into())]
    }

    /// The folder of machines that have booted once.
    #[must_use]
    pub fn states(&self) -> PathBuf {
        self.root.join("states")
    }

    /// A command on the operator's machine: nix in PATH, and a store at /nix that only it sees.
    ///
    /// The process that is started becomes `program`: its id, signals and exit code are the program's.
    #[must_use]
    pub fn operator_command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--propagation",
            "private",
            "--",
            "sh",
            "-c",
            AT_NIX,
        ]);
        command.arg(self.root.join("store/nix")).arg(program);
        let path = env::var_os("PATH").unwrap_or_default();
        let path = [self.nix_bin()].into_iter().chain(env::split_paths(&path));
        if let Ok(path) = env::join_paths(path) {
            command.env("PATH", path);
        }
        command
            .env_remove("NIX_REMOTE")
            .env_remove("NIX_PATH")
            .envs(self.nix_env());
        command
    }

    fn plan(repository: &Path) -> Result<Self> {
        let root = home()?;
        let plan = Plan::new(
            &repository.join("tests/recipes"),
            repository,
            &root.join("items"),
        )?;
        Ok(Self { root, plan })
    }

    fn item(&self, name: &str) -> PathBuf {
        self.plan.item(name)
    }
}

/// Where items live: `$XDG_CACHE_HOME/landfall-rig`.
fn home() -> Result<PathBuf> {
    let cache = match env::var_os("XDG_CACHE_HOME").filter(|path| Path::new(path).is_absolute()) {
        Some(path) => PathBuf::from(path),
        None => env::home_dir()
            .context("finding the home directory")?
            .join(".cache"),
    };
    Ok(cache.join("landfall-rig"))
}
