//! Nix on the target: its programs, and the two stores there are.

use std::{fs::DirBuilder, os::unix::fs::DirBuilderExt, path::Path};

use landfall_proto::{
    failure::Failure,
    order::{NixSettings, StorePath, StoreRoot},
};
use tokio_util::sync::CancellationToken;

use super::{Machine, TARGET, broken, command::Command, files};

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

/// Where builds in the store below `/mnt` have their temporary files: on the disk, since memory is small.
///
/// What newer versions of Nix use by themselves (2.30, `build-dir` of a local store).
const BUILDS: &str = "/mnt/nix/var/nix/builds";

/// Group of the users that build, where the configuration names no other.
const BUILDERS: &str = "nixbld";

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

    /// Makes the command that serves a store on its standard streams, also to build in it. Blocks.
    ///
    /// Refuses the store below `/mnt` as long as nothing is mounted there: it would fill the memory.
    pub fn nix_daemon(&self, root: StoreRoot, settings: &NixSettings) -> Result<Command, Failure> {
        if root == StoreRoot::Target && !self.is_mount_point(TARGET) {
            return Err(Failure::new("refusing to open the store below /mnt")
                .because("nothing is mounted at /mnt")
                .code("LF1503"));
        }
        let command = Command::new(self.nix_program("nix-daemon")?)
            .args(["--stdio", "--store", store(root)])
            .env("NIX_CONFIG", self.nix_config(root, settings));
        match root {
            StoreRoot::Installer => Ok(command),
            // before 2.30 builds go where temporary files go, which is memory on an installer
            StoreRoot::Target => Ok(command.env("TMPDIR", self.builds()?)),
        }
    }

    /// Removes what builds in the store below `/mnt` left behind. Blocks.
    pub fn forget_builds(&self) -> Result<(), Failure> {
        files::remove_directory(&self.at(BUILDS))
    }

    /// Makes the folder for temporary files of builds; Nix refuses one that others may write to.
    fn builds(&self) -> Result<&'static str, Failure> {
        let path = self.at(BUILDS);
        let mut made = DirBuilder::new();
        let made = made.recursive(true).mode(0o755).create(&path);
        made.map_err(broken(format!("cannot make {BUILDS}")))?;
        Ok(BUILDS)
    }

    /// Returns what the installer's Nix is told beyond its own configuration, one setting a line.
    fn nix_config(&self, root: StoreRoot, settings: &NixSettings) -> String {
        let mut lines = Vec::new();
        let mut substituters = settings.substituters.clone();
        if root == StoreRoot::Target {
            // what the installer has need not come from far away; `nixos-install` does the same
            substituters.push("local?trusted=1".to_owned());
            lines.push(format!("build-dir = {BUILDS}"));
        }
        if !substituters.is_empty() {
            lines.push(format!("extra-substituters = {}", substituters.join(" ")));
        }
        if !settings.public_keys.is_empty() {
            let keys = settings.public_keys.join(" ");
            lines.push(format!("extra-trusted-public-keys = {keys}"));
        }
        if !self.has_build_users() {
            lines.push("build-users-group =".to_owned());
        }
        lines.join("\n")
    }

    /// Whether there are users to build as; without, Nix builds nothing as root unless it is told to need none.
    fn has_build_users(&self) -> bool {
        let configured = self.read("/etc/nix/nix.conf").unwrap_or_default();
        let configured = configured.lines().rev().find_map(|line| {
            let (name, value) = line.split_once('=')?;
            (name.trim() == "build-users-group").then(|| value.trim().to_owned())
        });
        let group = configured.unwrap_or_else(|| BUILDERS.to_owned());
        let groups = self.read("/etc/group").unwrap_or_default();
        let mut groups = groups
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>());
        let found = groups.find(|fields| fields[0] == group);
        found.is_some_and(|fields| fields.get(3).is_some_and(|members| !members.is_empty()))
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
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
    };

    use super::*;
    use crate::machine::{
        command::{Ended, Script},
        stage::Stage,
    };

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

    #[track_caller]
    fn check_config(stage: &Stage, root: StoreRoot, settings: &NixSettings, expected: &[&str]) {
        let config = stage.machine().nix_config(root, settings);
        assert_eq!(config.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn daemon_builds_on_the_disk_with_the_settings_of_the_order() {
        let settings = NixSettings {
            substituters: vec![
                "https://a.example".to_owned(),
                "https://b.example".to_owned(),
            ],
            public_keys: vec!["a:AAAA".to_owned(), "b:BBBB".to_owned()],
        };
        let stage = Stage::new().file("etc/group", "nixbld:x:30000:nixbld1,nixbld2\n");
        let keys = "extra-trusted-public-keys = a:AAAA b:BBBB";
        let far = "extra-substituters = https://a.example https://b.example";
        check_config(&stage, StoreRoot::Installer, &settings, &[far, keys]);
        let near = format!("{far} local?trusted=1");
        let on_disk = "build-dir = /mnt/nix/var/nix/builds";
        check_config(
            &stage,
            StoreRoot::Target,
            &settings,
            &[on_disk, &near, keys],
        );
        check_config(&stage, StoreRoot::Installer, &NixSettings::default(), &[]);
    }

    #[test]
    fn installer_without_build_users_builds_without() {
        let (none, alone) = (NixSettings::default(), ["build-users-group ="]);
        let check = |stage: &Stage, expected: &[&str]| {
            check_config(stage, StoreRoot::Installer, &none, expected);
        };
        check(&Stage::new(), &alone);
        let other = "sandbox = true\nbuild-users-group = builders\n";
        let stage = Stage::new().file("etc/nix/nix.conf", other);
        check(&stage, &alone);
        check(&stage.file("etc/group", "builders:x:5:one\n"), &[]);
        check(&Stage::new().file("etc/group", "nixbld:x:5:\n"), &alone);
    }

    #[test]
    fn folder_of_builds_is_for_root_to_write_to_and_goes() {
        let stage = Stage::new().mounted().nix(&[]);
        let machine = stage.machine();
        let none = NixSettings::default();
        machine.nix_daemon(StoreRoot::Target, &none).unwrap();
        let made = stage.root().join("mnt/nix/var/nix/builds");
        assert_eq!(fs::metadata(&made).unwrap().permissions().mode() & 0o022, 0);
        machine.forget_builds().unwrap();
        assert!(!made.exists());
        assert!(
            Stage::new()
                .nix(&[])
                .machine()
                .nix_daemon(StoreRoot::Target, &none)
                .is_err()
        );
    }
}
