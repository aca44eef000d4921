//! What is installed: the flake beside this file, filled with what it is made of, and extra files.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use landfall_tests::assets::Assets;
use memchr::memmem;

use super::draw::Draw;

/// Bytes of the files that are copied, one path each: small ones in between, and one that takes a while.
const BALLAST: [usize; 16] = [
    1 << 20,
    3 << 20,
    4 << 10,
    70 << 10,
    8 << 20,
    1,
    300 << 10,
    2 << 20,
    12 << 10,
    600 << 10,
    100,
    1 << 20,
    30 << 10,
    5 << 20,
    256 << 10,
    40 << 10,
];

const FILES: &[(&str, &str)] = &[
    ("flake.nix", include_str!("fixture/flake.nix")),
    ("disks", include_str!("fixture/disks")),
    ("activate", include_str!("fixture/activate")),
    (
        "switch-to-configuration",
        include_str!("fixture/switch-to-configuration"),
    ),
];

/// Extra files: name, bytes, mode.
const EXTRA: &[(&str, usize, u32)] = &[
    ("etc/noise", 100, 0o400),
    ("etc/tool", 20_000, 0o755),
    ("home/alice/letter", 3_000_000, 0o640),
    ("home/alice/.ssh/id", 400, 0o600),
    ("var/empty file", 0, 0o644),
];

/// A secret in an extra file, which is where it belongs.
const PASSWORD: (&str, &str) = ("etc/password", "correct-horse-5a1f-battery-staple");
/// The key that disks would be encrypted with.
const DISK_KEY: &str = "disk-key-7be2-nobody-writes-this-down";

/// Writes the flake to `folder`. The same bytes each time, so that nix builds it once.
pub(crate) fn flake(assets: &Assets, folder: &Path) -> Result<()> {
    for (name, text) in FILES {
        write(&folder.join(name), text.as_bytes(), 0o644)?;
    }
    let bin = folder.join("parts/busybox/bin");
    fs::create_dir_all(&bin)?;
    let busybox = bin.join("busybox");
    fs::copy(assets.busybox(), &busybox).context("taking busybox")?;
    // not the copy: another test may just be forking, and hold it open for writing still
    let listed = Command::new(assets.busybox()).arg("--list").output();
    let listed = listed.context("starting busybox")?;
    ensure!(listed.status.success(), "busybox does not say what it has");
    for applet in String::from_utf8(listed.stdout)?.lines() {
        if applet != "busybox" {
            symlink("busybox", bin.join(applet)).with_context(|| format!("linking {applet}"))?;
        }
    }
    let mut draw = Draw::of(&[1]);
    for (index, size) in BALLAST.iter().enumerate() {
        let path = folder.join(format!("parts/ballast/p{index:02}"));
        write(&path, &draw.bytes(*size), 0o644)?;
    }
    Ok(())
}

/// Writes the extra files to `folder`.
pub(crate) fn extra(folder: &Path) -> Result<PathBuf> {
    let mut draw = Draw::of(&[2]);
    for (name, size, mode) in EXTRA {
        write(&folder.join(name), &draw.bytes(*size), *mode)?;
    }
    write(&folder.join(PASSWORD.0), PASSWORD.1.as_bytes(), 0o400)?;
    symlink("letter", folder.join("home/alice/link")).context("linking")?;
    let private = folder.join("home/alice/.ssh");
    fs::set_permissions(private, Permissions::from_mode(0o700))?;
    Ok(folder.to_owned())
}

/// Writes the disks' key to `file`.
pub(crate) fn disk_key(file: &Path) -> Result<()> {
    write(file, DISK_KEY.as_bytes(), 0o600)
}

/// Whether a secret is in `text`.
pub(crate) fn tells_secrets(text: &[u8]) -> bool {
    let within = |secret: &str| memmem::find(text, secret.as_bytes()).is_some();
    within(PASSWORD.1) || within(DISK_KEY)
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let context = || format!("writing {}", path.display());
    fs::create_dir_all(path.parent().context("finding a folder")?).with_context(context)?;
    fs::write(path, content).with_context(context)?;
    fs::set_permissions(path, Permissions::from_mode(mode)).with_context(context)
}
