//! What lies between disks and file systems: swap, ZFS, LUKS, LVM, md. Closed from the top down.

use landfall_proto::failure::Failure;
use tokio_util::sync::CancellationToken;

use super::{Machine, command::Command};

/// More layers than anybody stacks.
const ROUNDS: usize = 16;

/// A device that lies on others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Name of the kernel, such as `dm-0`.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Names of the devices that lie on it.
    pub holders: Vec<String>,
}

/// What a layer is, and what is needed to close it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// LUKS or another encryption, with its name below `/dev/mapper`.
    Crypt(String),
    /// A logical volume.
    Lvm,
    /// A software RAID.
    Md,
}

/// Swap areas, once they were to be turned off.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swaps {
    /// Those that are off.
    pub off: Vec<String>,
    /// Those that stay on.
    pub on: Vec<String>,
}

impl Machine {
    /// Turns off all swap but what lies in memory. Blocks.
    ///
    /// What the memory has no room for stays on: a reboot needs nothing of it.
    pub fn swap_off(&self) -> Result<Swaps, Failure> {
        let mut swaps = self.swaps();
        swaps.retain(|path| !path.starts_with("/dev/zram"));
        let mut turned = Swaps::default();
        for path in swaps {
            let off = match self.programs().are_real() {
                true => sys_mount::swapoff(&path),
                false => Ok(()),
            };
            match off {
                Ok(()) => turned.off.push(path),
                Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ENOMEM as i32) => {
                    turned.on.push(path);
                }
                Err(error) => {
                    return Err(Failure::new(format!("cannot turn off swap on {path}"))
                        .caused_by(&error)
                        .hint("see what uses it, then run the same command again: `swapon --show`")
                        .code("LF1605"));
                }
            }
        }
        Ok(turned)
    }

    /// Exports all ZFS pools, so that the installed system may import them.
    pub async fn export_pools(&self, cancel: &CancellationToken) -> Result<Vec<String>, Failure> {
        if self.program("zpool").is_none() || !self.at("/sys/module/zfs").is_dir() {
            return Ok(Vec::new());
        }
        let headline = "cannot export the ZFS pools";
        let list = Command::new("zpool").args(["list", "-H", "-o", "name"]);
        let listed = self
            .programs()
            .ask(&list)
            .await
            .map_err(|failure| failure.under(headline))?;
        let pools: Vec<_> = listed
            .success(headline)
            .map_err(|failure| failure.code("LF1606"))?
            .stdout
            .lines()
            .map(str::to_owned)
            .collect();
        if !pools.is_empty() {
            let export = Command::new("zpool").args(["export", "-a"]);
            let ended = self.programs().run(&export, cancel, |_, _| ()).await?;
            ended.success(headline).map_err(|failure| {
                failure
                    .hint("see what uses a pool with `zfs mount` and `fuser -vm`, end it, and run the same command again")
                    .code("LF1606")
            })?;
        }
        Ok(pools)
    }

    /// Closes the layers above the disks, as far as there are programs to do so, and names what stays open.
    ///
    /// A layer that stays open is no harm: nothing is mounted from it any more, and what was written is on the disks.
    pub async fn close_layers(&self, cancel: &CancellationToken) -> Vec<String> {
        let mut left = self.layers();
        for _ in 0..ROUNDS {
            for command in closing(&left) {
                // whether it worked shows in the next look
                let _ = self.programs().run(&command, cancel, |_, _| ()).await;
            }
            let now = self.layers();
            if now.is_empty() || now == left {
                break;
            }
            left = now;
        }
        self.layers().into_iter().map(|layer| layer.name).collect()
    }

    fn layers(&self) -> Vec<Layer> {
        let layer = |name: String| {
            let block = format!("/sys/class/block/{name}");
            let uuid = self.read(&format!("{block}/dm/uuid")).unwrap_or_default();
            let kind = if uuid.starts_with("CRYPT-") {
                Kind::Crypt(self.read(&format!("{block}/dm/name"))?)
            } else if uuid.starts_with("LVM-") {
                Kind::Lvm
            } else if self.at(&format!("{block}/md")).is_dir() {
                Kind::Md
            } else {
                return None;
            };
            let holders = self.names(&format!("{block}/holders"));
            Some(Layer {
                name,
                kind,
                holders,
            })
        };
        self.names("/sys/block")
            .into_iter()
            .filter_map(layer)
            .collect()
    }
}

/// Returns the commands that close whatever has nothing on it.
fn closing(layers: &[Layer]) -> Vec<Command> {
    let top: Vec<_> = layers
        .iter()
        .filter(|layer| layer.holders.is_empty())
        .collect();
    let mut commands = Vec::new();
    if top.iter().any(|layer| layer.kind == Kind::Lvm) {
        // all volumes at once: the parts of a pool go in an order that only LVM knows
        commands.push(Command::new("vgchange").arg("-an"));
    }
    for layer in top {
        match &layer.kind {
            Kind::Crypt(name) => commands.push(Command::new("cryptsetup").args(["close", name])),
            Kind::Md => {
                let device = format!("/dev/{}", layer.name);
                commands.push(Command::new("mdadm").args(["--stop", &device]));
            }
            Kind::Lvm => {}
        }
    }
    commands
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::machine::command::{Ended, Script};

    fn layer(name: &str, kind: Kind, holders: &[&str]) -> Layer {
        let holders = holders.iter().map(|&holder| holder.to_owned()).collect();
        Layer {
            name: name.to_owned(),
            kind,
            holders,
        }
    }

    fn crypt(name: &str) -> Kind {
        Kind::Crypt(name.to_owned())
    }

    #[track_caller]
    fn check(layers: &[Layer], expected: &[&str]) {
        let lines: Vec<_> = closing(layers).iter().map(Command::line).collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn what_carries_nothing_is_closed_first() {
        let luks_on_lvm = [
            layer("dm-0", Kind::Lvm, &["dm-1"]),
            layer("dm-1", crypt("root"), &[]),
        ];
        check(&luks_on_lvm, &["cryptsetup close root"]);
        let lvm_on_luks = [
            layer("dm-0", crypt("all"), &["dm-1", "dm-2"]),
            layer("dm-1", Kind::Lvm, &[]),
        ];
        check(&lvm_on_luks, &["vgchange -an"]);
        let luks_on_raid = [
            layer("md127", Kind::Md, &["dm-0"]),
            layer("dm-0", crypt("root"), &[]),
        ];
        check(&luks_on_raid, &["cryptsetup close root"]);
        check(&luks_on_raid[..0], &[]);
        check(
            &[layer("md127", Kind::Md, &[])],
            &["mdadm --stop /dev/md127"],
        );
    }

    #[tokio::test]
    async fn layer_that_stays_open_is_named_once() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, content: &str| {
            let path: &Path = &root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        write("sys/block/dm-0/x", "");
        write("sys/class/block/dm-0/dm/uuid", "CRYPT-LUKS2-0-root\n");
        write("sys/class/block/dm-0/dm/name", "root\n");
        write("sys/block/vda/x", "");
        let script = Script::default().when("cryptsetup", Ended::answer(5, "", "in use"));
        let machine = Machine::scripted(root.path(), root.path(), script.clone());
        assert_eq!(
            machine.close_layers(&CancellationToken::new()).await,
            ["dm-0"]
        );
        assert_eq!(script.asked(), ["cryptsetup close root"]);
    }

    #[tokio::test]
    async fn pools_are_exported_only_where_there_are_some() {
        let root = tempfile::tempdir().unwrap();
        let check = async |pools: &str, expected: &[&str]| {
            let script = Script::default()
                .when("zpool list", Ended::answer(0, pools, ""))
                .when("zpool export -a", Ended::answer(0, "", ""));
            let machine = Machine::scripted(root.path(), root.path(), script.clone());
            machine
                .export_pools(&CancellationToken::new())
                .await
                .unwrap();
            assert_eq!(script.asked(), expected);
        };
        check("rpool\n", &[]).await;
        fs::create_dir_all(root.path().join("usr/sbin")).unwrap();
        fs::create_dir_all(root.path().join("sys/module/zfs")).unwrap();
        fs::write(root.path().join("usr/sbin/zpool"), "").unwrap();
        check("", &["zpool list -H -o name"]).await;
        check("rpool\n", &["zpool list -H -o name", "zpool export -a"]).await;
    }
}
