//! The look from outside, before anything is let into a target: that nothing it does can reach this host.
//!
//! `guard.sh` has looked at the same from inside. Either of them suffices to end a target.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::stat::{major, minor};

/// What could boot, or reach a device past the device cgroup: `CAP_SYS_MODULE`, `CAP_SYS_RAWIO`,
/// `CAP_SYS_BOOT` and `CAP_MKNOD` of capabilities(7).
const FORBIDDEN: u64 = 1 << 16 | 1 << 17 | 1 << 22 | 1 << 27;

/// What a target has none of in common with this host.
const NAMESPACES: &[&str] = &["mnt", "net", "pid", "uts", "ipc"];

/// Fails unless the target whose PID 1 is `pid` here is confined to the disks with these numbers.
pub(super) fn check(pid: i32, disks: &[&str], group: &Path) -> Result<()> {
    let process = Path::new("/proc").join(pid.to_string());
    capabilities(&process)?;
    for kind in NAMESPACES {
        let of = |process: &Path| fs::read_link(process.join("ns").join(kind));
        let (own, here) = (of(&process)?, of(Path::new("/proc/self"))?);
        ensure!(own != here, "it shares the {kind} namespace with this host");
    }
    devices(&process.join("root/dev"), disks)?;
    cgroup(&process, disks, group)
}

fn capabilities(process: &Path) -> Result<()> {
    let status = fs::read_to_string(process.join("status")).context("reading its status")?;
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let line = status.lines().find_map(|line| line.strip_prefix(set));
        let word = line
            .and_then(|line| line.strip_prefix(':'))
            .with_context(|| format!("finding {set}"))?;
        let value =
            u64::from_str_radix(word.trim(), 16).with_context(|| format!("reading {set}"))?;
        ensure!(value & FORBIDDEN == 0, "{set} is {value:x}");
    }
    Ok(())
}

fn devices(dev: &Path, disks: &[&str]) -> Result<()> {
    let mut found = 0;
    for entry in fs::read_dir(dev).context("looking into its /dev")? {
        let entry = entry?;
        if !entry.file_type()?.is_block_device() {
            continue;
        }
        let device = entry.metadata()?.rdev();
        let numbers = format!("{}:{}", major(device), minor(device));
        ensure!(
            disks.contains(&numbers.as_str()),
            "its {} is device {numbers}",
            entry.path().display()
        );
        found += 1;
    }
    ensure!(found == disks.len(), "it has {found} disks");
    Ok(())
}

fn cgroup(process: &Path, disks: &[&str], group: &Path) -> Result<()> {
    let own = fs::read_to_string(process.join("cgroup")).context("reading its control groups")?;
    let name = group
        .file_name()
        .and_then(|name| name.to_str())
        .context("naming its control group")?;
    let member = own
        .lines()
        .any(|line| line.ends_with(&format!(":devices:/{name}")));
    ensure!(member, "it is not in {}", group.display());
    let rules = fs::read_to_string(group.join("devices.list")).context("reading its devices")?;
    for rule in rules.lines() {
        match rule.split(' ').collect::<Vec<_>>()[..] {
            ["c", _, "rw"] => {}
            ["b", numbers, "rw"] if disks.contains(&numbers) => {}
            _ => bail!("it may use {rule}"),
        }
    }
    Ok(())
}
