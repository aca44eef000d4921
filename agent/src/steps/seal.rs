//! Leaves the disks as a clean shutdown would: nothing in use, everything written.

use engine::step::{Context, Done, Repeat, Step};
use landfall_proto::{failure::Failure, order::KeyPath};
use serde::{Deserialize, Serialize};

use crate::machine::{Machine, TARGET};

/// Lets go of everything on the target's disks.
#[derive(Debug)]
pub struct Seal<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// The order of which all else is done, by its hash: nothing of it is done again when the disks cannot be let go of.
    pub order: &'a str,
    /// Key files that nobody needs any more.
    pub keys: &'a [KeyPath],
}

/// Disks that nobody uses any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// How many mounts were taken down.
    pub unmounted: usize,
    /// Swap areas that were turned off.
    pub swaps: Vec<String>,
    /// ZFS pools that were exported.
    pub pools: Vec<String>,
}

impl Step for Seal<'_> {
    const NAME: &'static str = "seal";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = Sealed;

    async fn run(&self, cx: &Context) -> Result<Done<Sealed>, Failure> {
        self.machine.set_sealed_for(self.order)?;
        let cancel = cx.cancel_token();
        let swaps = self.machine.blocking(Machine::swap_off).await?;
        cx.waiting("what was written to reach the disks");
        self.machine.blocking(Machine::sync).await;
        for on in swaps.on {
            cx.line(format!(
                "swap on {on} stays on; the memory has no room for what is in it"
            ));
        }
        let unmounted = self.machine.unmount_target(&cancel).await?;
        // layers may lie on volumes of a pool, and a pool on layers
        self.machine.close_layers(&cancel).await;
        let pools = self.machine.export_pools(&cancel).await?;
        for open in self.machine.close_layers(&cancel).await {
            cx.line(format!("{open} stays open; nothing uses it"));
        }
        self.machine.blocking(Machine::sync).await;
        let sealed = Sealed {
            unmounted,
            swaps: swaps.off,
            pools,
        };
        // not before: a path of the installer may be one of the new system while that is mounted
        Ok(match self.forget_keys().await {
            None => Done::new(sealed),
            Some(failure) => Done::warned(
                sealed,
                format!(
                    "{}; continuing because it is in memory, which the reboot clears",
                    failure.in_one_line()
                ),
            ),
        })
    }

    async fn still_true(&self, _: &Sealed) -> bool {
        self.machine.mounts_below(TARGET).is_empty()
    }
}

impl Seal<'_> {
    /// Forgets every key it can, and returns why one could not be.
    async fn forget_keys(&self) -> Option<Failure> {
        let keys = self.keys.to_vec();
        let forget = move |machine: &Machine| {
            let forgotten = keys.iter().map(|key| machine.forget_key(key).err());
            forgotten.fold(None, Option::or)
        };
        self.machine.blocking(forget).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{machine::stage::Stage, steps::rehearsal::run};

    #[tokio::test]
    async fn nothing_stays_in_use() {
        let swaps = "Filename Type Size Used Priority\n/dev/vda2 partition 1 0 -2\n/dev/zram0 partition 1 0 5\n";
        let stage = Stage::new()
            .mounted()
            .file("proc/swaps", swaps)
            .file("run/landfall/lock", "");
        let machine = stage.machine();
        let seal = Seal {
            machine: &machine,
            order: "order",
            keys: &[],
        };
        let sealed = run(&seal).await.unwrap();
        let swaps = vec!["/dev/vda2".to_owned()];
        assert_eq!(
            sealed,
            Sealed {
                unmounted: 1,
                swaps,
                pools: Vec::new()
            }
        );
        assert!(!machine.is_mount_point(TARGET));
    }

    #[tokio::test]
    async fn keys_are_forgotten() {
        let memory = "1 0 0:2 / / rw - tmpfs tmpfs rw\n";
        let stage = Stage::new()
            .file("proc/self/mountinfo", memory)
            .file("run/landfall/lock", "");
        let machine = stage.machine();
        let keys = ["/tmp/a.key", "/tmp/b.key"].map(|path| path.parse().unwrap());
        for key in &keys {
            machine.keep_key(key, b"secret").unwrap();
        }
        let seal = Seal {
            machine: &machine,
            order: "order",
            keys: &keys,
        };
        run(&seal).await.unwrap();
        assert_eq!(machine.missing_key(&keys), Some(&keys[0]));
        assert_eq!(machine.missing_key(&keys[1..]), Some(&keys[1]));
    }
}
