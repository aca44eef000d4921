//! Puts the operator's files and the installer's host keys into the new system.

use engine::step::{Context, Done, Repeat, Step};
use landfall_proto::{event::Unit, failure::Failure, order::System};
use serde::{Deserialize, Serialize};

use super::{Deliveries, Mounts};
use crate::machine::{Machine, archive::Links};

/// Puts files below `/mnt`.
#[derive(Debug)]
pub struct Files<'a, D> {
    /// The machine.
    pub machine: &'a Machine,
    /// Who brings them.
    pub deliveries: &'a D,
    /// What was asked for.
    pub order: &'a System,
    /// Where they go.
    pub mounts: &'a Mounts,
}

/// Files that are in their places.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// Hash of the archive they came from.
    pub archive: Option<String>,
    /// How many files were given to somebody.
    #[serde(default)]
    pub given: u64,
    /// How many host key files were copied.
    pub host_keys: usize,
}

impl<D: Deliveries> Step for Files<'_, D> {
    const NAME: &'static str = "files";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = Placed;

    async fn run(&self, cx: &Context) -> Result<Done<Placed>, Failure> {
        self.machine.forget_seal()?;
        let archive = self.unpack(cx).await?;
        let given = self.give(cx).await?;
        let mut host_keys = 0;
        for folder in self.order.host_keys_to.clone() {
            let copied = self
                .machine
                .blocking(move |machine| machine.copy_host_keys(&folder));
            host_keys += copied.await?;
        }
        let placed = Placed {
            archive,
            given,
            host_keys,
        };
        match self.is_nothing() {
            true => Ok(Done::skipped(placed, "no files to add")),
            false => Ok(Done::new(placed)),
        }
    }

    /// Cheap to do again, and it heals what was changed in between.
    async fn still_true(&self, _: &Placed) -> bool {
        self.is_nothing()
    }
}

impl<D: Deliveries> Files<'_, D> {
    fn is_nothing(&self) -> bool {
        let System {
            extra_files,
            owners,
            host_keys_to,
            ..
        } = self.order;
        extra_files.is_none() && owners.is_empty() && host_keys_to.is_empty()
    }

    async fn give(&self, cx: &Context) -> Result<u64, Failure> {
        let mut given = 0;
        for owner in self.order.owners.clone() {
            let stop = cx.cancel_token().child_token();
            let _stopped_when_dropped = stop.clone().drop_guard();
            let give = self
                .machine
                .blocking(move |machine| machine.give(&owner, &stop));
            given += give.await?;
        }
        Ok(given)
    }

    async fn unpack(&self, cx: &Context) -> Result<Option<String>, Failure> {
        let Some(blob) = &self.order.extra_files else {
            return Ok(None);
        };
        cx.waiting("the extra files");
        let (archive, total) = (self.deliveries.blob(blob).await?, blob.size);
        let stop = cx.cancel_token().child_token();
        let _stopped_when_dropped = stop.clone().drop_guard();
        let told = cx.clone();
        let progress = move |done| told.progress(done, Some(total), Unit::Bytes);
        let unpacked = self.machine.blocking(move |machine| {
            machine.unpack_to_target(&archive, Links::Anywhere, &stop, progress)
        });
        unpacked.await?;
        Ok(Some(blob.hash.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use landfall_proto::order::Owner;

    use super::*;
    use crate::{
        machine::stage::Stage,
        steps::rehearsal::{Delivered, blob, run},
    };

    #[tokio::test]
    async fn files_and_host_keys_come_to_their_places() {
        let stage = Stage::new()
            .file("mnt/etc/hostname", "old")
            .file("etc/ssh/ssh_host_ed25519_key", "the installer's")
            .file("etc/ssh/ssh_host_rsa_key", "the installer's")
            .file("etc/passwd", "");
        let archive = stage.tarball(&[
            ("etc/hostname", "new"),
            ("etc/ssh/ssh_host_rsa_key", "given"),
        ]);
        let order = System {
            toplevel: "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-x"
                .parse()
                .unwrap(),
            extra_files: Some(blob(1)),
            owners: Vec::new(),
            host_keys_to: vec!["/etc/ssh".parse().unwrap()],
            check: true,
            boot_check: true,
        };
        let (machine, deliveries, mounts) =
            (stage.machine(), Delivered(archive), Mounts::default());
        let step = Files {
            machine: &machine,
            deliveries: &deliveries,
            order: &order,
            mounts: &mounts,
        };
        let placed = run(&step).await.unwrap();
        assert_eq!(
            placed,
            Placed {
                archive: Some("0".repeat(64)),
                given: 0,
                host_keys: 1
            }
        );
        assert_eq!(stage.read("mnt/etc/hostname"), "new");
        assert_eq!(stage.read("mnt/etc/ssh/ssh_host_rsa_key"), "given");
        assert_eq!(
            stage.read("mnt/etc/ssh/ssh_host_ed25519_key"),
            "the installer's"
        );
    }

    #[tokio::test]
    async fn owners_are_set_after_the_files_came_and_before_the_host_keys() {
        let stage = Stage::new()
            .file("mnt/x", "")
            .file("etc/ssh/ssh_host_ed25519_key", "private");
        let archive = stage.tarball(&[("home/user/file", "x")]);
        let own = nix::unistd::geteuid().as_raw();
        let owner = |path: &str| Owner {
            path: path.parse().unwrap(),
            owner: own.to_string().parse().unwrap(),
        };
        let mut order = System {
            toplevel: "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-x"
                .parse()
                .unwrap(),
            extra_files: Some(blob(1)),
            owners: vec![owner("/home/user")],
            host_keys_to: vec!["/persist".parse().unwrap()],
            check: true,
            boot_check: true,
        };
        let (machine, deliveries) = (stage.machine(), Delivered(archive));
        let place = async |order: &System| {
            let step = Files {
                machine: &machine,
                deliveries: &deliveries,
                order,
                mounts: &Mounts::default(),
            };
            run(&step).await
        };
        let placed = place(&order).await.unwrap();
        assert_eq!((placed.given, placed.host_keys), (2, 1));
        order.owners.push(owner("/home/nobody"));
        assert_eq!(place(&order).await.unwrap_err().code, "LF1211");
    }
}
