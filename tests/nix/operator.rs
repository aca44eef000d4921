//! The operator's nix as landfall calls it: what is evaluated, where it is built, what is said when it cannot be.

use std::{
    env, fs,
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, net::UnixListener},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
    thread,
};

use engine::{
    journal::{Header, Journal, JournalError, Store},
    run::Run,
    step::{Context, Done, Repeat, Step},
};
use landfall::{
    local::nix::{Derivation, KeyKind, Nix, Survey},
    request::{BuildOn, Flake, NixOptions},
};
use landfall_proto::{
    failure::Failure,
    order::{RunId, StorePath},
};
use landfall_tests::{assets::Assets, install::Operator};
use tempfile::TempDir;

#[tokio::test]
#[cfg_attr(
    not(feature = "machines"),
    ignore = "needs the rig's nix; `cargo verify` runs it"
)]
async fn evaluation_tells_where_a_system_will_be() {
    let desk = Desk::new().await;
    let system = desk.derivation("here", "system.build.toplevel").await;
    assert_eq!(system.system, here());
    assert!(system.drv.as_str().ends_with("-toplevel.drv"), "{system:?}");
    let built = desk.nix.realise(&system, &desk.cx).await.unwrap();
    assert_eq!(Some(built), system.path);
}

#[tokio::test]
#[cfg_attr(
    not(feature = "machines"),
    ignore = "needs the rig's nix; `cargo verify` runs it"
)]
async fn what_is_built_behind_a_socket_is_what_was_evaluated() {
    let desk = Desk::new().await;
    let system = desk.derivation("here", "system.build.toplevel").await;
    let there = desk.listen();
    let built = desk.nix.realise_there(&system, &there, &desk.cx).await;
    assert_eq!(Some(built.unwrap()), system.path);
    assert_eq!(desk.there(&system.path.unwrap()), "toplevel\n");
}

#[tokio::test]
#[cfg_attr(
    not(feature = "machines"),
    ignore = "needs the rig's nix; `cargo verify` runs it"
)]
async fn what_is_installed_can_come_from_another_store() {
    let mut desk = Desk::new().await;
    let system = desk.derivation("unique", "system.build.toplevel").await;
    let path = desk.nix.realise(&system, &desk.cx).await.unwrap();
    let cache = format!("file://{}", desk.folder.path().join("cache").display());
    desk.run("nix", &["copy", "--to", &cache, path.as_str()]);
    desk.run("nix", &["store", "delete", path.as_str()]);
    assert!(!desk.nix.has(&path).await);
    assert_eq!(desk.nix.check_source(&path).await, Ok(()));

    desk.nix = desk.from(&cache);
    assert_eq!(desk.nix.check_source(&path).await, Ok(()));
    let named = desk.nix.check_path(Path::new(path.as_str())).await;
    assert_eq!(named, Ok(path.clone()));
    let there = desk.listen();
    let copied = desk.nix.copy_to(&there, &path, &desk.cx).await;
    assert_eq!(copied, Ok(()));
    assert_eq!(desk.there(&path), "unique\n");

    let other = desk.derivation("here", "system.build.diskoScript").await;
    let missing = desk.nix.check_source(&other.path.unwrap()).await;
    assert_eq!(missing.unwrap_err().code, "LF0369");
}

#[tokio::test]
#[cfg_attr(
    not(feature = "machines"),
    ignore = "needs the rig's nix; `cargo verify` runs it"
)]
async fn machine_builds_for_itself_what_nobody_here_can_build() {
    let desk = Desk::new().await;
    let foreign = desk.derivation("foreign", "system.build.toplevel").await;
    assert_eq!(foreign.system, "riscv64-linux");
    assert!(desk.nix.can_build(&here(), &desk.cx).await);
    assert!(!desk.nix.can_build(&foreign.system, &desk.cx).await);
    assert!(!Path::new("result").exists(), "the trial left a link");
}

#[tokio::test]
#[cfg_attr(
    not(feature = "machines"),
    ignore = "needs the rig's nix; `cargo verify` runs it"
)]
async fn trial_settles_what_the_settings_do_not() {
    let mut desk = Desk::new().await;
    // a machine that leaves its builds to others, and knows none
    desk.nix = desk.with(&[("max-jobs", "0")]);
    assert!(!desk.nix.can_build(&here(), &desk.cx).await);
}

#[tokio::test]
#[cfg_attr(
    not(feature = "machines"),
    ignore = "needs the rig's nix; `cargo verify` runs it"
)]
async fn caches_are_read_from_lists_and_from_strings() {
    let desk = Desk::new().await;
    let caches = desk.survey("here").await.unwrap().caches.unwrap();
    assert_eq!(
        caches.substituters,
        ["https://a.example", "https://b.example"]
    );
    assert_eq!(caches.public_keys, ["a-1:AAAA", "b-1:BBBB"]);
}

#[tokio::test]
#[cfg_attr(
    not(feature = "machines"),
    ignore = "needs the rig's nix; `cargo verify` runs it"
)]
async fn disks_and_keys_are_found_however_deep_they_lie() {
    let desk = Desk::new().await;
    let devices = desk.nix.devices(&desk.flake("here"), &desk.cx).await;
    let devices = devices.unwrap();
    assert_eq!(devices.disks, ["/dev/vda", "/dev/vdb"]);
    let seen: Vec<(KeyKind, &str, &str)> = devices
        .keys
        .iter()
        .map(|used| (used.kind, used.file.as_str(), used.device.as_str()))
        .collect();
    assert_eq!(
        seen,
        [
            // the password is not read, since there is a key
            (KeyKind::Key, "/tmp/disk.key", "crypted"),
            (KeyKind::Additional, "/tmp/second.key", "crypted"),
            (KeyKind::Password, "/tmp/password", "inner"),
            (KeyKind::Raw, "/tmp/zfs.key", "tank"),
        ]
    );
    assert_eq!(
        (devices.keys[0].offset, devices.keys[0].size),
        (None, Some(64))
    );
    assert_eq!(devices.asked, [""; 0]);
    let asking = desk.nix.devices(&desk.flake("asking"), &desk.cx).await;
    assert_eq!(asking.unwrap().asked, ["typed", "", "home"]);
}

#[tokio::test]
#[cfg_attr(
    not(feature = "machines"),
    ignore = "needs the rig's nix; `cargo verify` runs it"
)]
async fn one_evaluation_tells_all_that_several_do() {
    let desk = Desk::new().await;
    let survey = desk.survey("here").await.unwrap();
    let script = desk.derivation("here", "system.build.diskoScript").await;
    let system = desk.derivation("here", "system.build.toplevel").await;
    assert_eq!(survey.derivations, [script, system]);
    let devices = desk.nix.devices(&desk.flake("here"), &desk.cx).await;
    assert_eq!(survey.devices, devices.ok());
    // what cannot be told stands in nobody's way
    let survey = desk.survey("silent").await.unwrap();
    assert_eq!((survey.derivations.len(), survey.devices), (2, None));
    assert_eq!(survey.caches, None);

    for (name, code) in [
        ("nobody", "LF0361"),
        ("bare", "LF0362"),
        ("diskless", "LF0363"),
        ("wrong", "LF0364"),
    ] {
        let failure = desk.survey(name).await.unwrap_err();
        assert_eq!(failure.code, code, "{failure:?}");
    }
}

#[tokio::test]
#[cfg_attr(
    not(feature = "machines"),
    ignore = "needs the rig's nix; `cargo verify` runs it"
)]
async fn what_a_configuration_lacks_is_told_apart() {
    let desk = Desk::new().await;
    let failure = async |name: &str, attribute: &str| {
        let flake = desk.flake(name);
        let failed = desk.nix.derivation(&flake, attribute, &desk.cx).await;
        failed.unwrap_err()
    };
    let absent = failure("nobody", "system.build.toplevel").await;
    assert_eq!(absent.code, "LF0361");
    assert!(absent.hints[0].contains("#here`"), "{absent:?}");
    let without_disko = failure("bare", "system.build.diskoScript").await;
    assert_eq!(without_disko.code, "LF0362");
    assert!(without_disko.hints[0].contains("disko.nixosModules.disko"));
    let without_disks = failure("diskless", "system.build.diskoScript").await;
    assert_eq!(without_disks.code, "LF0363");
    let wrong = failure("wrong", "system.build.toplevel").await;
    assert_eq!(wrong.code, "LF0364");
    let causes = wrong.causes.join("\n");
    assert!(causes.contains("Failed assertions"), "{causes}");

    assert_eq!(desk.nix.check_name(&desk.flake("wrong")).await, Ok(()));
    let absent = desk.nix.check_name(&desk.flake("nobody")).await;
    assert_eq!(absent.unwrap_err().code, "LF0361");
}

#[tokio::test]
#[cfg_attr(
    not(feature = "machines"),
    ignore = "needs the rig's nix; `cargo verify` runs it"
)]
async fn hardware_configuration_is_parsed_and_not_evaluated() {
    let desk = Desk::new().await;
    let module = b"{ config, modulesPath, ... }:\n{ imports = [ (modulesPath + \"/x\") ]; }\n";
    assert_eq!(desk.nix.check_syntax(module).await, Ok(()));
    let torn = desk.nix.check_syntax(&module[..40]).await.unwrap_err();
    assert!(torn.causes[0].contains("syntax error"), "{torn:?}");
}

#[test]
#[cfg_attr(
    not(feature = "machines"),
    ignore = "needs the rig's nix; `cargo verify` runs it"
)]
fn test_of_a_configuration_is_built_and_its_path_printed() {
    let (assets, operator) = (Assets::open().unwrap(), Operator::new().unwrap());
    let folder = scratch(&assets);
    let test = |name: &str| {
        let controller = landfall_tests::binaries::controller();
        let mut landfall = operator.command(&assets, controller);
        let flake = format!("{}/flake#{name}", folder.path().display());
        landfall.args(["--vm-test", "--flake", &flake]);
        landfall.output().unwrap()
    };

    let passed = test("here");
    let said = String::from_utf8_lossy(&passed.stderr);
    assert_eq!(passed.status.code(), Some(0), "{said}");
    assert!(said.contains("the machine has booted"), "{said}");
    let path = String::from_utf8(passed.stdout).unwrap();
    assert!(path.ends_with("-install-test\n"), "{path}");

    let failed = test("foreign");
    let said = String::from_utf8_lossy(&failed.stderr);
    assert_eq!(failed.status.code(), Some(1), "{said}");
    assert!(
        said.contains("it did not boot") && said.contains("LF0365"),
        "{said}"
    );
    assert!(failed.stdout.is_empty());

    let without = test("bare");
    let said = String::from_utf8_lossy(&without.stderr);
    assert_eq!(without.status.code(), Some(1), "{said}");
    assert!(said.contains("LF0362"), "{said}");
    assert!(!Path::new("result").exists(), "the build left a link");
}

/// The system that this machine builds for.
fn here() -> String {
    format!("{}-linux", env::consts::ARCH)
}

/// An operator's machine with a flake on it.
struct Desk {
    assets: Assets,
    folder: TempDir,
    nix: Nix,
    cx: Context,
}

impl Desk {
    async fn new() -> Self {
        let assets = Assets::open().unwrap();
        let folder = scratch(&assets);
        // nix sees the rig's store, and nobody else does
        for name in ["nix", "nix-instantiate"] {
            wrap(&assets, name, &folder.path().join("bin").join(name));
        }
        let nix = Nix::at(folder.path().join("bin/nix"), options(&[]));
        Self {
            assets,
            folder,
            nix,
            cx: context().await,
        }
    }

    fn with(&self, settings: &[(&str, &str)]) -> Nix {
        Nix::at(self.folder.path().join("bin/nix"), options(settings))
    }

    fn flake(&self, name: &str) -> Flake {
        let flake = format!("{}/flake#{name}", self.folder.path().display());
        flake.parse().unwrap()
    }

    async fn derivation(&self, name: &str, attribute: &str) -> Derivation {
        let flake = self.flake(name);
        let derivation = self.nix.derivation(&flake, attribute, &self.cx).await;
        derivation.unwrap()
    }

    fn from(&self, store: &str) -> Nix {
        let from = Some(store.to_owned());
        let options = NixOptions {
            from,
            ..options(&[])
        };
        Nix::at(self.folder.path().join("bin/nix"), options)
    }

    async fn survey(&self, name: &str) -> Result<Survey, Failure> {
        let wanted = ["system.build.diskoScript", "system.build.toplevel"].map(str::to_owned);
        self.nix.survey(&self.flake(name), &wanted, &self.cx).await
    }

    /// Runs a program of the operator's.
    fn run(&self, program: &str, words: &[&str]) {
        let program = self.folder.path().join("bin").join(program);
        let output = Command::new(program).args(words).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    }

    /// What lies at a path in the other store.
    fn there(&self, path: &StorePath) -> String {
        let root = self.folder.path().join("there");
        fs::read_to_string(root.join(&path.as_str()[1..])).unwrap()
    }

    /// Serves an empty store elsewhere, as an agent does; returns the socket.
    fn listen(&self) -> PathBuf {
        let (root, socket) = (
            self.folder.path().join("there"),
            self.folder.path().join("s"),
        );
        let listener = UnixListener::bind(&socket).unwrap();
        let daemon = self.assets.operator_command("nix-daemon");
        let store = format!("local?root={}", root.display());
        let mut daemon = again(&daemon);
        // Debian's nix names a shell for builders that this machine need not have
        let config = "build-users-group =\nsandbox-paths =\nsubstituters =";
        daemon
            .args(["--stdio", "--store", &store])
            .env("NIX_CONFIG", config);
        thread::spawn(move || {
            for connection in listener.incoming() {
                let connection: OwnedFd = connection.unwrap().into();
                let other = connection.try_clone().unwrap();
                let mut daemon = again(&daemon);
                daemon.stdin(Stdio::from(connection)).stdout(other);
                let mut daemon = daemon.spawn().unwrap();
                thread::spawn(move || daemon.wait());
            }
        });
        socket
    }
}

/// The flake of these tests; systems that are files, built by a shell that needs nothing else.
fn scratch(assets: &Assets) -> TempDir {
    let folder = TempDir::with_prefix("flake-").unwrap();
    let shell = assets.fixture_flake().join("parts/busybox/bin/busybox");
    let flake = folder.path().join("flake");
    fs::create_dir(&flake).unwrap();
    fs::copy(shell, flake.join("sh")).unwrap();
    let text = include_str!("scratch.nix").replace("@here@", &here());
    let text = text.replace("@unique@", &folder.path().display().to_string());
    fs::write(flake.join("flake.nix"), text).unwrap();
    fs::create_dir(folder.path().join("bin")).unwrap();
    folder
}

fn options(settings: &[(&str, &str)]) -> NixOptions {
    let word = |text: &str| text.to_owned();
    NixOptions {
        build_on: BuildOn::Auto,
        settings: settings
            .iter()
            .map(|(name, value)| (word(name), word(value)))
            .collect(),
        store_settings: vec![(word("max-connections"), word("2"))],
        from: None,
        substitute: true,
        machine_substituters: true,
        print_build_logs: false,
        show_trace: false,
    }
}

/// Writes a program that runs one of nix's with the rig's store.
fn wrap(assets: &Assets, program: &str, path: &Path) {
    let command = assets.operator_command(program);
    let quoted = |word: &std::ffi::OsStr| {
        let word = word.to_str().unwrap().replace('\'', r"'\''");
        format!("'{word}'")
    };
    let mut script = "#!/bin/sh\n".to_owned();
    for (name, value) in command.get_envs() {
        let name = name.to_str().unwrap();
        script += &match value {
            Some(value) => format!("export {name}={}\n", quoted(value)),
            None => format!("unset {name}\n"),
        };
    }
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<String> = words.map(quoted).collect();
    script += &format!("exec {} \"$@\"\n", words.join(" "));
    fs::write(path, script).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The same command once more.
fn again(command: &Command) -> Command {
    let mut again = Command::new(command.get_program());
    again.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => again.env(name, value),
            None => again.env_remove(name),
        };
    }
    again
}

/// What a step is given by its run, without a run.
async fn context() -> Context {
    let name = RunId::from_bytes([7; 16]);
    let header = Header::new(name, &[Lend::NAME], String::new(), 0);
    let journal = Journal::begin(Nowhere, header).unwrap();
    let mut run = Run::begin(journal, Default::default()).unwrap();
    let lend = Lend(Mutex::default());
    run.step(&lend).await.unwrap();
    lend.0.into_inner().unwrap().unwrap()
}

struct Lend(Mutex<Option<Context>>);

impl Step for Lend {
    const NAME: &'static str = "lend";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = ();

    async fn run(&self, cx: &Context) -> Result<Done<()>, Failure> {
        *self.0.lock().unwrap() = Some(cx.clone());
        Ok(Done::new(()))
    }

    async fn still_true(&self, _: &()) -> bool {
        false
    }
}

struct Nowhere;

impl Store for Nowhere {
    fn append(&mut self, _: &[u8]) -> Result<(), JournalError> {
        Ok(())
    }
}
