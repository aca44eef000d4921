//! What the recipes need from this machine: Debian packages.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, bail, ensure};

/// Packages that recipes and machines call programs of.
const PACKAGES: &[&str] = &[
    "ca-certificates",
    "cpio",
    "debian-archive-keyring",
    "dpkg-dev",
    "e2fsprogs",
    "gcc",
    "gzip",
    "kmod",
    "libc6-dev",
    "make",
    "mmdebstrap",
    "openssh-client",
    "patchelf",
    "python3-pip",
    "squashfs-tools",
    "util-linux",
    "xz-utils",
    "zstd",
];

/// Installs the packages that are missing. Needs root and a Debian.
pub(super) fn install_missing() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "`rig setup` makes root file systems: run it as root"
    );
    ensure!(
        Path::new("/usr/bin/apt-get").exists(),
        "`rig setup` knows Debian only: run it on Debian 12 or newer"
    );
    let missing: Vec<&str> = PACKAGES
        .iter()
        .copied()
        .filter(|name| !installed(name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    apt_get(&["update"])?;
    let install = [
        "install",
        "-y",
        "--no-install-recommends",
        "-o",
        "DPkg::Lock::Timeout=600",
    ];
    apt_get(&[install.as_slice(), missing.as_slice()].concat())
}

fn installed(package: &str) -> bool {
    let query = Command::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status}", package])
        .output();
    query.is_ok_and(|output| output.stdout == b"installed")
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let output = Command::new("apt-get")
        .arg("-qq")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output()
        .context("starting apt-get")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`apt-get {}` failed: {}", arguments.join(" "), said.trim());
    }
    Ok(())
}
