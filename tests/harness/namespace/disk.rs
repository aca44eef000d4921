//! Disks that are files, attached as loop devices: only such that this rig made, and gone with it.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::patience;

/// Until nothing has been written for as long as a copy takes; the kernel writes what is old every few seconds.
const RESTS: Duration = Duration::from_secs(20);

/// A loop device over a file of the rig.
///
/// The kernel takes it down by itself once nobody has it open, so that it outlives neither this value
/// and the target that mounts it, nor a rig that was killed.
#[derive(Debug)]
pub struct LoopDisk {
    /// `major:minor` of the device.
    pub numbers: String,
    /// Its size in sectors of 512 bytes.
    pub sectors: u64,
    file: PathBuf,
    _held: File,
}

impl LoopDisk {
    /// Makes a file of zeros and attaches it.
    pub fn make(file: &Path, bytes: u64) -> Result<Self> {
        File::create_new(file)
            .and_then(|made| made.set_len(bytes))
            .with_context(|| format!("making {}", file.display()))?;
        Self::attach(file)
    }

    /// Copies what has been written to this disk, and not what somebody still keeps in memory: what there is after
    /// a power cut. Whoever could write has to be stopped; the kernel's own writing is waited for.
    pub fn copy(&self, to: &Path) -> Result<()> {
        let stat = Path::new("/sys/dev/block").join(&self.numbers).join("stat");
        let written =
            || fs::read_to_string(&stat).with_context(|| format!("reading {}", stat.display()));
        patience::until("a disk at rest", RESTS, || {
            let before = written()?;
            let copied = Command::new("cp")
                .args(["--sparse=always", "--"])
                .args([&self.file, to])
                .status()
                .context("starting cp")?;
            ensure!(copied.success(), "cannot copy {}", self.file.display());
            Ok((written()? == before).then_some(()))
        })
    }

    /// Whether its file holds nothing but zeros, as it did when it was made; a copy does where nothing was written.
    pub fn is_blank(&self) -> Result<bool> {
        let meta = fs::metadata(&self.file);
        let meta = meta.with_context(|| format!("looking at {}", self.file.display()))?;
        Ok(meta.blocks() == 0)
    }

    /// Becomes a disk with this file behind it; the file before is removed.
    pub fn move_to(&mut self, file: &Path) -> Result<()> {
        let before = std::mem::replace(self, Self::attach(file)?);
        fs::remove_file(&before.file).with_context(|| format!("removing {}", before.file.display()))
    }

    /// Attaches a file.
    pub fn attach(file: &Path) -> Result<Self> {
        let node = PathBuf::from(losetup(&["--find", "--show"], file)?);
        let name = node
            .file_name()
            .context("reading the name of a loop device")?
            .to_owned();
        let held = OpenOptions::new()
            .read(true)
            .open(&node)
            .with_context(|| format!("opening {}", node.display()))?;
        let kernel = Path::new("/sys/block").join(name);
        let say = |about: &str| -> Result<String> {
            let path = kernel.join(about);
            let text = fs::read_to_string(&path);
            Ok(text
                .with_context(|| format!("reading {}", path.display()))?
                .trim_end()
                .to_owned())
        };
        // nothing but the file that was just made may ever be behind it
        let behind = say("loop/backing_file")?;
        ensure!(
            Path::new(&behind) == file,
            "refusing to use {}: {behind} is behind it",
            node.display()
        );
        // in use by us: it goes as soon as it is in nobody's
        losetup(&["--detach"], &node)?;
        ensure!(
            say("loop/autoclear")? == "1",
            "{} would stay when the rig ends",
            node.display()
        );
        Ok(Self {
            numbers: say("dev")?,
            sectors: say("size")?.parse().context("reading a size")?,
            file: file.to_owned(),
            _held: held,
        })
    }

    /// The files below `folder` that are attached somewhere on this machine.
    pub fn attached_below(folder: &Path) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/sys/block").context("looking at block devices")? {
            let behind = fs::read_to_string(entry?.path().join("loop/backing_file"));
            let behind = PathBuf::from(behind.unwrap_or_default().trim_end());
            if behind.starts_with(folder) {
                found.push(behind);
            }
        }
        Ok(found)
    }
}

fn losetup(words: &[&str], path: &Path) -> Result<String> {
    let mut command = Command::new("losetup");
    let output = command
        .args(words)
        .arg(path)
        .output()
        .context("starting losetup")?;
    ensure!(
        output.status.success(),
        "losetup: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
