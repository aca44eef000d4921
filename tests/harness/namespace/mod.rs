//! A target without a machine: an installer in namespaces of its own, in half a second.
//!
//! Real: sshd, nix, the file systems, and every program of the installer. Not real: the boot. Its
//! disks are loop devices over files, its memory is this host's, and nobody reboots or boots another
//! kernel there: the capability for it is gone (`enter.sh`), which two looks make sure of before
//! anything is let in (`guard.sh`, [`guard`]). Everything is gone with the value.

mod disk;
mod guard;

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    fcntl::{Flock, FlockArg},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{assets::Assets, patience};

pub use disk::LoopDisk;

/// Where the kernel says which devices a group of processes may use.
const DEVICES: &str = "/sys/fs/cgroup/devices";
/// Where targets have their files: what is written there is flushed as if it were a disk, and nobody
/// waits for one.
const MEMORY: &str = "/dev/shm";
const FOLDERS: &str = "landfall-target-";
/// What a rig holds locked for as long as its target lives.
const ALIVE: &str = "alive";
/// Names of a target's disks in its /dev.
pub const DISKS: [&str; 2] = ["riga", "rigb"];
/// Its sshd, on its own loopback.
pub const SSHD: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 22);
/// From nothing to sshd; seen: 0.4 s, and 3 s on a busy host.
const STARTS: Duration = Duration::from_secs(60);
/// Until the kernel has taken everything down; seen: 40 ms.
const ENDS: Duration = Duration::from_secs(20);

const OS_RELEASE: &str =
    "ID=nixos\nNAME=\"Namespace installer\"\nVERSION_ID=\"25.11\"\nVARIANT_ID=installer\n";
const NIX_CONF: &str = "experimental-features = nix-command flakes\nbuild-users-group =\nsubstituters =\nsandbox = false\n";
const SSHD_CONFIG: &str = "ListenAddress 127.0.0.1
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
UseDNS no
PidFile none
MaxStartups 100
";

/// How large a target is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Bytes of each disk.
    pub disks: [u64; 2],
    /// Bytes that fit into /run.
    pub run: u64,
}

/// A target that runs until this value is dropped.
#[derive(Debug)]
pub struct Target {
    /// None while there is no power.
    life: Option<Life>,
    disks: Vec<LoopDisk>,
    /// How often it was started.
    starts: u32,
    size: Size,
    root: PathBuf,
    _alive: Flock<File>,
    folder: TempDir,
}

/// A target from its start to its end.
#[derive(Debug)]
struct Life {
    keeper: Child,
    /// PID 1 of the target, as it is called here.
    pid: i32,
    group: Group,
}

impl Target {
    /// Starts a target whose sshd listens, and makes sure that it can harm nothing but its disks.
    ///
    /// The thread that calls this has to outlive the target: the kernel ends both together.
    pub fn start(assets: &Assets, size: Size) -> Result<Self> {
        sweep();
        let folder = tempfile::Builder::new()
            .prefix(FOLDERS)
            .tempdir_in(MEMORY)
            .with_context(|| format!("making a folder in {MEMORY}"))?;
        // whoever sweeps meets it locked, or not at all
        let made = folder.path().join("alive.new");
        let alive = Flock::lock(File::create(&made)?, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, errno)| errno)
            .context("locking a folder")?;
        fs::rename(made, folder.path().join(ALIVE))?;
        furnish(assets, &folder.path().join("lower")).context("furnishing a target")?;
        for made in ["memory", "witness"] {
            fs::create_dir(folder.path().join(made))?;
        }
        let mut target = Self {
            life: None,
            disks: Vec::new(),
            starts: 0,
            size,
            root: assets.installer_root(),
            _alive: alive,
            folder,
        };
        for (index, bytes) in size.disks.into_iter().enumerate() {
            target
                .disks
                .push(LoopDisk::make(&target.disk_file(index), bytes)?);
        }
        target.power_on()?;
        Ok(target)
    }

    /// Starts it anew, with what is on its disks: the same installer with the same host key, and another boot.
    ///
    /// The thread that calls this has to outlive the target.
    pub fn power_on(&mut self) -> Result<()> {
        ensure!(self.life.is_none(), "the target has power");
        let named: Vec<String> = DISKS
            .iter()
            .zip(&self.disks)
            .map(|(name, disk)| format!("{name} {} {}", disk.numbers, disk.sectors))
            .collect();
        let group = Group::make(self.folder.path())?;
        let log = self.log_file(self.starts);
        self.starts += 1;
        let said = File::create(&log)?;

        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare"]);
        command.args(["--mount", "--net", "--pid", "--uts", "--ipc", "--fork"]);
        command.args(["--kill-child", "--propagation", "private"]);
        command.args(["--", "sh", "-c", include_str!("enter.sh")]);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C")
            .env("ROOT", &self.root)
            .env("LOWER", self.folder.path().join("lower"))
            .env("MEMORY", self.folder.path().join("memory"))
            .env("WITNESS", self.folder.path().join("witness"))
            .env("DISKS", named.join("\n"))
            .env("GROUP", &group.0)
            .env("RUN_SIZE", self.size.run.to_string());
        command
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said);
        let keeper = command.spawn().context("starting unshare")?;
        let life = self.life.insert(Life {
            keeper,
            pid: 0,
            group,
        });
        life.pid = patience::until("a target's sshd", STARTS, || {
            let said = fs::read_to_string(&log).unwrap_or_default();
            if life.keeper.try_wait()?.is_some() {
                bail!("the target ended: {}", said.trim());
            }
            match said.contains("Server listening") {
                true => life.find_pid().map(Some),
                false => Ok(None),
            }
        })?;
        let numbers: Vec<&str> = self.disks.iter().map(|disk| &*disk.numbers).collect();
        guard::check(life.pid, &numbers, &life.group.0).context("refusing to use a target")
    }

    /// Takes its power: every process is gone, and all that was in memory, with what nobody had written to the disks.
    pub fn power_off(&mut self) -> Result<()> {
        if !self.has_power() {
            return Ok(());
        }
        // it stands still while its disks are copied, twice for what was just starting; who ends it first finds disks
        // that were unmounted in good order
        for _ in 0..2 {
            for (pid, _) in self.processes()? {
                let _ = kill(Pid::from_raw(pid), Signal::SIGSTOP);
            }
        }
        let kept: Vec<PathBuf> = (0..self.disks.len())
            .map(|index| self.disk_file(index))
            .collect();
        for (disk, file) in self.disks.iter().zip(&kept) {
            disk.copy(file)?;
        }
        self.life = None;
        for (disk, file) in self.disks.iter_mut().zip(&kept) {
            disk.move_to(file)?;
        }
        Ok(())
    }

    /// Whether nothing has ever been written to its disks, as far as a power cut has left anything of it.
    pub fn is_blank(&self) -> Result<bool> {
        for disk in &self.disks {
            if !disk.is_blank()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether it has power.
    #[must_use]
    pub fn has_power(&self) -> bool {
        self.life.is_some()
    }

    /// The file behind a disk, from the next start on.
    fn disk_file(&self, index: usize) -> PathBuf {
        let name = format!("{}-{}", DISKS[index], self.starts);
        self.folder.path().join(name)
    }

    fn log_file(&self, start: u32) -> PathBuf {
        self.folder.path().join(format!("log-{start}"))
    }

    /// PID 1, as it is called here; of no process while there is no power.
    fn pid(&self) -> i32 {
        self.life.as_ref().map_or(0, |life| life.pid)
    }

    /// A path of the target, to look at from here. Follows no absolute symbolic link correctly.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.pid()))
    }

    /// Its network, to connect to [`SSHD`] in.
    pub fn network(&self) -> Result<File> {
        File::open(format!("/proc/{}/ns/net", self.pid())).context("opening a target's network")
    }

    /// Its mounts: where, and of what kind.
    pub fn mounts(&self) -> Result<Vec<String>> {
        let text = fs::read_to_string(format!("/proc/{}/mountinfo", self.pid()));
        let text = text.context("reading a target's mounts")?;
        let shown = |line: &str| {
            let place = line.split(' ').nth(4)?;
            let kind = line.split_once(" - ")?.1.split(' ').next()?;
            Some(format!("{place} {kind}"))
        };
        Ok(text.lines().filter_map(shown).collect())
    }

    /// All its processes but PID 1, and what they were started as; numbers are this host's.
    pub fn processes(&self) -> Result<Vec<(i32, String)>> {
        let mut found = Vec::new();
        let Some(life) = &self.life else {
            return Ok(found);
        };
        let of = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let own = of(life.pid).context("finding a target")?;
        for entry in fs::read_dir("/proc").context("looking at processes")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            if pid == life.pid || of(pid).as_ref() != Some(&own) {
                continue;
            }
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            found.push((pid, words.trim_end().to_owned()));
        }
        Ok(found)
    }

    /// Runs a program of the target inside it, with no more rights than it has there.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let pid = self.pid().to_string();
        let mut command = Command::new("nsenter");
        command.args([
            "--target", &pid, "--mount", "--net", "--pid", "--uts", "--ipc",
        ]);
        command.args(["--root", "--wd=/", "--", "setpriv", "--no-new-privs"]);
        command.args([
            "--bounding-set=-sys_boot,-mknod,-sys_module,-sys_rawio,-sys_time",
            program,
        ]);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        command
    }

    /// How a person gets in, to look around.
    #[must_use]
    pub fn hint(&self) -> String {
        let words = self.command("/bin/sh");
        let words = words.get_args().map(|word| word.to_string_lossy());
        format!("nsenter {}", words.collect::<Vec<_>>().join(" "))
    }

    /// What its sshd said.
    #[must_use]
    pub fn log(&self) -> String {
        let said = (0..self.starts).map(|start| fs::read_to_string(self.log_file(start)));
        said.map(Result::unwrap_or_default).collect()
    }

    /// Ends the target and looks whether anything of it is left on this host.
    pub fn end(mut self) -> Result<()> {
        let group = self.life.take().map(|life| life.group.0.clone());
        let folder = self.folder.path().to_owned();
        drop(self);
        patience::until("a target to be gone", ENDS, || {
            let disks = LoopDisk::attached_below(&folder)?;
            Ok(disks.is_empty().then_some(()))
        })?;
        if let Some(group) = group {
            ensure!(!group.exists(), "{} is left", group.display());
        }
        ensure!(!folder.exists(), "{} is left", folder.display());
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let folder = folder.to_string_lossy();
        ensure!(!mounts.contains(&*folder), "a mount of {folder} is left");
        Ok(())
    }
}

impl Life {
    fn find_pid(&self) -> Result<i32> {
        let keeper = self.keeper.id();
        let path = format!("/proc/{keeper}/task/{keeper}/children");
        let children = fs::read_to_string(path).context("finding PID 1")?;
        children.trim().parse().context("finding PID 1")
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        // PID 1 dies with it, and takes every process of the target along
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
        self.group.wait_empty();
    }
}

/// A group of processes that may use those devices only that `enter.sh` allows.
#[derive(Debug)]
struct Group(PathBuf);

impl Group {
    fn make(folder: &Path) -> Result<Self> {
        let name = folder.file_name().context("naming a control group")?;
        let group = Self(Path::new(DEVICES).join(name));
        fs::create_dir(&group.0).with_context(|| {
            format!(
                "making {} (the device cgroup of version 1)",
                group.0.display()
            )
        })?;
        fs::write(group.0.join("devices.deny"), "a").context("forbidding all devices")?;
        Ok(group)
    }

    fn wait_empty(&self) {
        // what does not end stays in the group, and is told of by who looks for it
        let _ = patience::until("a target's processes to end", ENDS, || {
            let tasks = fs::read_to_string(self.0.join("tasks")).unwrap_or_default();
            Ok(tasks.is_empty().then_some(()))
        });
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Removes what targets have left whose rig was killed: folders, and groups without processes.
fn sweep() {
    for entry in fs::read_dir(MEMORY).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(FOLDERS);
        // one that has no lock yet is just being made
        let Some(alive) = ours
            .then(|| File::open(entry.path().join(ALIVE)).ok())
            .flatten()
        else {
            continue;
        };
        if let Ok(dead) = Flock::lock(alive, FlockArg::LockExclusiveNonblock) {
            let _ = fs::remove_dir(Path::new(DEVICES).join(entry.file_name()));
            let _ = fs::remove_dir_all(entry.path());
            drop(dead);
        }
    }
}

/// Writes what makes an installer of the installer's root.
fn furnish(assets: &Assets, lower: &Path) -> Result<()> {
    let put = |path: &str, content: &[u8], mode: u32| -> Result<()> {
        let path = lower.join(path);
        fs::create_dir_all(path.parent().context("finding a folder")?)?;
        fs::write(&path, content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        Ok(())
    };
    let authorized =
        fs::read(assets.key().with_extension("pub")).context("reading the rig's key")?;
    put("root/.ssh/authorized_keys", &authorized, 0o600)?;
    for private in ["root", "root/.ssh"] {
        fs::set_permissions(lower.join(private), fs::Permissions::from_mode(0o700))?;
    }
    put("etc/os-release", OS_RELEASE.as_bytes(), 0o644)?;
    put("etc/nix/nix.conf", NIX_CONF.as_bytes(), 0o644)?;
    put("etc/rig/sshd_config", SSHD_CONFIG.as_bytes(), 0o644)?;
    put("etc/rig/guard.sh", include_bytes!("guard.sh"), 0o644)?;
    let key = lower.join("etc/ssh/ssh_host_ed25519_key");
    fs::create_dir_all(lower.join("etc/ssh"))?;
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&key)
        .status();
    ensure!(
        made.context("starting ssh-keygen")?.success(),
        "no host key"
    );
    Ok(())
}
