//! Nix on the target: its programs, and the two stores there are.

use std::path::Path;

use landfall_proto::{
    failure::Failure,
    order::{StorePath, StoreRoot},
};
use tokio_util::sync::CancellationToken;

use super::{Machine, TARGET, command::Command};

/// Where Nix is looked for on systems of all kinds.
const PLACES: &[&str] = &[
    "/run/current-system/sw/bin",
    "/nix/var/nix/profiles/default/bin",
    "/usr/sbin",
    "/usr/bin",
    "/usr/local/bin",
    "/sbin",
    "/bin",
];

/// Returns how Nix names a store.
pub fn store(root: StoreRoot) -> &'static str {
    match root {
        StoreRoot::Installer => "local",
        StoreRoot::Target => "local?root=/mnt",
    }
}

impl Machine {
    /// Finds a program of Nix.
    pub fn nix_program(&self, name: &str) -> Result<String, Failure> {
        let found = PLACES.iter().map(|place| format!("{place}/{name}"));
        let mut found = found.filter(|path| self.at(path).exists());
        found.next().ok_or_else(|| {
            Failure::new(format!("cannot find {name}"))
                .because(format!("it is in none of {}", PLACES.join(", ")))
                .hint("use an installer that has Nix; `--force-kexec` boots into one")
                .code("LF1301")
        })
    }

    /// Whether a path and all it needs is registered in a store.
    pub async fn store_has(&self, root: StoreRoot, path: &StorePath) -> Result<bool, Failure> {
        let headline = format!("cannot tell whether {path} is complete");
        let program = self.nix_program("nix-store")?;
        let command = Command::new(program)
            .args(["--store", store(root), "--check-validity"])
            .arg(path.as_str());
        let ended = self
            .programs()
            .ask(&command)
            .await
            .map_err(|failure| failure.under(&headline))?;
        if ended.ok() {
            return Ok(true);
        }
        if ended.stderr.contains("is not valid") {
            Ok(false)
        } else {
            Err(ended.failure(&headline).code("LF1304"))
        }
    }

    /// Makes the command that serves a store on its standard streams.
    ///
    /// Refuses the store below `/mnt` as long as nothing is mounted there: it would fill the memory.
    pub fn nix_daemon(&self, root: StoreRoot) -> Result<Command, Failure> {
        if root == StoreRoot::Target && !self.is_mount_point(TARGET) {
            return Err(Failure::new("refusing to open the store below /mnt")
                .because("nothing is mounted at /mnt")
                .code("LF1503"));
        }
        Ok(Command::new(self.nix_program("nix-daemon")?).args(["--stdio", "--store", store(root)]))
    }

    /// Makes a system the current generation of the profile below `/mnt`.
    pub async fn set_system_profile(
        &self,
        system: &StorePath,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let command = Command::new(self.nix_program("nix-env")?)
            .args(["--store", store(StoreRoot::Target)])
            .args(["-p", "/mnt/nix/var/nix/profiles/system", "--set"])
            .arg(system.as_str());
        let ended = self.programs().run(&command, cancel, |_, _| ()).await?;
        ended
            .success("cannot set the system profile")
            .map(drop)
            .map_err(|failure| failure.code("LF1603"))
    }

    /// Returns the store path to which the system profile below `/mnt` leads.
    pub fn system_profile(&self) -> Option<StorePath> {
        let profiles = Path::new("/mnt/nix/var/nix/profiles");
        let mut link = profiles.join("system");
        // system -> system-1-link -> /nix/store/…; absolute links are meant inside the new system
        for _ in 0..4 {
            let target = std::fs::read_link(self.at(link.to_str()?)).ok()?;
            if let Ok(path) = target.to_str()?.parse() {
                return Some(path);
            }
            link = match target.strip_prefix("/") {
                Ok(inside) => Path::new("/mnt").join(inside),
                Err(_) => profiles.join(target),
            };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;
    use crate::machine::command::{Ended, Script};

    const SYSTEM: &str = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-nixos-system-x-25.11";

    fn machine(root: &Path, script: Script) -> Machine {
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        for name in ["nix-store", "nix-env", "nix-daemon"] {
            fs::write(root.join("usr/bin").join(name), "").unwrap();
        }
        Machine::scripted(root, root, script)
    }

    #[tokio::test]
    async fn store_that_broke_is_not_taken_for_a_missing_path() {
        let root = tempfile::tempdir().unwrap();
        let path = SYSTEM.parse().unwrap();
        let check = async |answer: Ended| {
            let script =
                Script::default().when("/usr/bin/nix-store --store local?root=/mnt", answer);
            machine(root.path(), script)
                .store_has(StoreRoot::Target, &path)
                .await
        };
        assert_eq!(check(Ended::answer(0, "", "")).await, Ok(true));
        let missing = format!("error: path '{SYSTEM}' is not valid");
        assert_eq!(check(Ended::answer(1, "", &missing)).await, Ok(false));
        let broken = "error: opening lock file: No space left on device";
        let failure = check(Ended::answer(1, "", broken)).await.unwrap_err();
        assert_eq!(
            failure.causes,
            ["running /usr/bin/nix-store", "exit code 1", broken]
        );
    }

    #[test]
    fn profile_is_followed_inside_the_new_system() {
        let root = tempfile::tempdir().unwrap();
        let profiles = root.path().join("mnt/nix/var/nix/profiles");
        fs::create_dir_all(&profiles).unwrap();
        symlink(SYSTEM, profiles.join("system-1-link")).unwrap();
        symlink("system-1-link", profiles.join("system")).unwrap();
        let machine = machine(root.path(), Script::default());
        assert_eq!(machine.system_profile().unwrap().as_str(), SYSTEM);
        fs::remove_file(profiles.join("system")).unwrap();
        symlink(
            "/nix/var/nix/profiles/system-1-link",
            profiles.join("system"),
        )
        .unwrap();
        assert_eq!(machine.system_profile().unwrap().as_str(), SYSTEM);
        fs::remove_file(profiles.join("system-1-link")).unwrap();
        assert_eq!(machine.system_profile(), None);
    }
}
