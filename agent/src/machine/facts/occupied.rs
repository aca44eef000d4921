//! Whether another agent is at work on the machine, or left a run behind: seen without touching what is its own.

use std::os::unix::fs::MetadataExt;

use landfall_proto::{facts::Occupied, wire};

use super::super::Machine;

impl Machine {
    /// Returns what another agent is doing here, or left behind.
    ///
    /// Its lock is not tried, since an agent that starts just then would find it taken: `/proc/locks` shows it.
    pub(super) fn occupied(&self) -> Option<Occupied> {
        let lock = std::fs::metadata(self.dir().join("lock")).ok()?;
        let locks = self.read("/proc/locks").unwrap_or_default();
        let holder = holder(&locks, lock.dev(), lock.ino());
        if holder == Some(std::process::id()) {
            return None;
        }
        let order = self.open_order().ok().flatten();
        let run = order.and_then(|wire| wire::order_from_wire(&wire).ok());
        let run = run.map(|order| order.run.to_string());
        let alive = holder.is_some();
        (alive || run.is_some()).then_some(Occupied { alive, run })
    }

    /// Whether another process runs from the same file as this one.
    pub fn program_is_shared(&self) -> bool {
        let exe = |pid: &str| std::fs::read_link(self.at(&format!("/proc/{pid}/exe"))).ok();
        let Some(own) = exe("self") else {
            return false;
        };
        let me = std::process::id().to_string();
        let pids = self.names("/proc").into_iter();
        let mut others = pids.filter(|name| name.parse::<u32>().is_ok() && *name != me);
        others.any(|pid| exe(&pid).as_ref() == Some(&own))
    }
}

/// Finds the process that holds a lock: `4: FLOCK  ADVISORY  WRITE 1234 00:19:567 0 EOF` (proc_locks(5)).
fn holder(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, found, ..] = words[..] else {
            return None;
        };
        (found == file).then(|| pid.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use landfall_proto::order::{Blob, BlobHash, Job, Kexec, Order, RunId};

    use super::*;
    use crate::machine::stage::Stage;

    fn lock_line(stage: &Stage, pid: u32) -> String {
        let lock = std::fs::metadata(stage.root().join("run/landfall/lock")).unwrap();
        let (major, minor) = (
            nix::sys::stat::major(lock.dev()),
            nix::sys::stat::minor(lock.dev()),
        );
        let inode = lock.ino();
        format!(
            "1: POSIX  ADVISORY  WRITE 3 00:19:1 0 EOF\n2: FLOCK  ADVISORY  WRITE {pid} {major:02x}:{minor:02x}:{inode} 0 EOF\n"
        )
    }

    #[test]
    fn machine_without_an_agent_is_free() {
        assert_eq!(Stage::new().machine().occupied(), None);
        let left = Stage::new().file("run/landfall/lock", "");
        assert_eq!(left.machine().occupied(), None);
    }

    #[test]
    fn agent_at_work_is_seen_by_its_lock() {
        let stage = Stage::new().file("run/landfall/lock", "");
        let locks = lock_line(&stage, 1);
        let stage = stage.file("proc/locks", &locks);
        let alive = Occupied {
            alive: true,
            run: None,
        };
        assert_eq!(stage.machine().occupied(), Some(alive));
        let own = lock_line(&stage, std::process::id());
        assert_eq!(stage.file("proc/locks", &own).machine().occupied(), None);
    }

    #[test]
    fn program_is_shared_with_whoever_runs_from_the_same_file() {
        let own = "/run/landfall-bin/landfall-agent-1";
        let stage = Stage::new()
            .link("proc/self/exe", own)
            .link(&format!("proc/{}/exe", std::process::id()), own)
            .link("proc/7/exe", "/usr/sbin/sshd");
        assert!(!stage.machine().program_is_shared());
        let stage = stage.link("proc/8/exe", own);
        assert!(stage.machine().program_is_shared());
    }

    #[test]
    fn run_that_was_left_behind_is_named() {
        let stage = Stage::new().file("run/landfall/lock", "");
        let order = Order {
            run: RunId::from_bytes([7; 16]),
            job: Job::Kexec(Kexec {
                image: Blob {
                    hash: BlobHash::try_from("a".repeat(64)).unwrap(),
                    size: 1,
                },
                extra_flags: String::new(),
                authorized_key: String::new(),
                kernel: 0,
                initrd: 0,
                return_after: 0,
            }),
        };
        let machine = stage.machine();
        machine
            .set_open_order(&wire::order_to_wire(&order))
            .unwrap();
        let left = Occupied {
            alive: false,
            run: Some("07".repeat(16)),
        };
        assert_eq!(machine.occupied(), Some(left));
    }
}
