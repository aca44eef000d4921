//! What is written in Nix: the flake and the kexec image.
//!
//! Neither can be built here, since nixpkgs and its cache are out of reach. What can be seen without
//! them is that every file parses, that everything evaluates against `nix/nixpkgs-stub`, and that the
//! image's start script does what the agent relies on.

mod operator;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use landfall_tests::assets::Assets;
use serde_json::{Value, json};
use tempfile::TempDir;

#[test]
#[cfg_attr(
    not(feature = "machines"),
    ignore = "needs the rig's nix; `cargo verify` runs it"
)]
fn every_nix_file_parses() {
    let files = nix_files();
    assert!(files.len() >= 10, "only {files:?}");
    for file in files {
        output(nix("nix-instantiate").arg("--parse").arg(&file));
    }
}

#[test]
#[cfg_attr(
    not(feature = "machines"),
    ignore = "needs the rig's nix; `cargo verify` runs it"
)]
fn image_evaluates_on_both_architectures() {
    let promises = |arch: &str, console: &str| {
        json!({
            "fileName": format!("landfall-kexec-installer-{arch}-linux.tar.gz"),
            "builds": true,
            "variant": "installer",
            "lastConsole": console,
            "hostKeys": ["ed25519", "ecdsa", "rsa"],
            "rootLogin": "prohibit-password",
            "stage1": ["restore-handed-over"],
            "budgetMiB": 400,
        })
    };
    let seen = image("[ ]");
    assert_eq!(
        seen["x86_64-linux"],
        promises("x86_64", "console=ttyS0,115200")
    );
    assert_eq!(
        seen["aarch64-linux"],
        promises("aarch64", "console=ttyS0,115200")
    );
}

#[test]
#[cfg_attr(
    not(feature = "machines"),
    ignore = "needs the rig's nix; `cargo verify` runs it"
)]
fn image_takes_modules_on_top() {
    let seen = image(r#"[ { landfall.image = { name = "mine"; budgetMiB = 512; }; } ]"#);
    assert_eq!(seen["x86_64-linux"]["fileName"], "mine-x86_64-linux.tar.gz");
    assert_eq!(seen["x86_64-linux"]["budgetMiB"], 512);
}

#[test]
#[cfg_attr(
    not(feature = "machines"),
    ignore = "needs the rig's nix; `cargo verify` runs it"
)]
fn stand_in_for_nixpkgs_refuses_what_nixpkgs_does_not_have() {
    let refusals = [
        (
            r#"{ networking.hostname = "x"; }"#,
            "the option `networking.hostname' does not exist",
        ),
        (
            r#"{ services.openssh.enable = "yes"; }"#,
            "a definition for option `services.openssh.enable' is not of type `boolean'",
        ),
        (
            "({ pkgs, ... }: { environment.systemPackages = [ pkgs.gtpfdisk ]; })",
            "attribute 'gtpfdisk' missing",
        ),
    ];
    for (module, refusal) in refusals {
        let output = evaluate_image(&format!("[ {module} ]")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.contains(refusal),
            "{module}: {said}"
        );
    }
}

#[test]
#[cfg_attr(
    not(feature = "machines"),
    ignore = "needs the rig's nix; `cargo verify` runs it"
)]
fn flake_evaluates_to_its_outputs() {
    let mut nix = nix("nix-instantiate");
    nix.args(["--eval", "--strict", "--json"])
        .arg(folder().join("nix/outputs.nix"));
    assert_eq!(parsed(&output(&mut nix)), outputs());
}

#[test]
#[cfg_attr(
    not(feature = "machines"),
    ignore = "needs the rig's nix; `cargo verify` runs it"
)]
fn flake_shows_its_outputs_once_nixpkgs_is_given() {
    // A copy, because a flake is copied into the store whole, build output and all.
    let copy = TempDir::new().unwrap();
    for file in ["flake.nix", "Cargo.toml", "Cargo.lock", "rustfmt.toml"] {
        fs::copy(repository().join(file), copy.path().join(file)).unwrap();
    }
    for folder in [
        "agent",
        "controller",
        "proto",
        "tests/nix/network",
        "kexec-image",
    ] {
        fs::create_dir_all(copy.path().join(folder)).unwrap();
        for file in files_in(&repository().join(folder)) {
            let name = file.file_name().unwrap();
            fs::copy(&file, copy.path().join(folder).join(name)).unwrap();
        }
    }

    let mut nix = nix("nix");
    nix.args([
        "flake",
        "show",
        "--all-systems",
        "--json",
        "--offline",
        "--no-write-lock-file",
    ]);
    nix.args(["--override-input", "nixpkgs"]);
    nix.arg(format!(
        "path:{}",
        folder().join("nix/nixpkgs-stub").display()
    ));
    nix.arg(format!("path:{}", copy.path().display()));
    let shown = parsed(&output(&mut nix));

    let expected = outputs();
    for kind in ["packages", "apps", "checks", "devShells"] {
        for (system, names) in expected[kind].as_object().unwrap() {
            let seen: Vec<&String> = shown[kind][system].as_object().unwrap().keys().collect();
            assert_eq!(json!(seen), *names, "{kind} of {system}");
        }
    }
    assert_eq!(shown["nixosModules"]["kexec-image"]["type"], "nixos-module");
}

#[test]
fn start_script_hands_over_through_the_cpio_in_path() {
    let image = Unpacked::new();
    let output = image.run(&["--kexec-extra-flags", "--reset-vga"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );

    let loaded = said
        .lines()
        .find(|line| line.starts_with("kexec --load"))
        .expect("it is loaded");
    let initrd = format!("--initrd={}", image.folder().join("initrd").display());
    assert!(
        loaded.contains("--reset-vga") && loaded.contains(&initrd),
        "{loaded}"
    );
    assert!(
        loaded.ends_with("--command-line init=/nix/store/top/init console=ttyS0"),
        "{loaded}"
    );
    assert!(
        said.contains("machine will boot into nixos in 6s..."),
        "{said}"
    );

    // The archive stands behind what was there, and holds what stage 1 looks for.
    let initrd = fs::read_to_string(image.folder().join("initrd")).unwrap();
    let archive = initrd
        .strip_prefix("the initrd\n")
        .expect("what was there stays in front");
    let entries: Vec<&str> = archive.lines().collect();
    assert!(entries.contains(&"cpio -o -H newc"), "{entries:?}");
    for entry in [
        "addrs.json",
        "routes-v4.json",
        "routes-v6.json",
        "ssh/authorized_keys",
    ] {
        assert!(
            entries.contains(&format!("./{entry}").as_str()),
            "{entry} is not in {entries:?}"
        );
    }
}

#[test]
fn start_script_refuses_to_extend_the_initrd_twice() {
    let image = Unpacked::new();
    assert!(image.run(&[]).status.success());
    let once = fs::read(image.folder().join("initrd")).unwrap();
    let second = image.run(&[]);
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("refusing to extend"));
    assert_eq!(fs::read(image.folder().join("initrd")).unwrap(), once);
}

#[test]
fn start_script_loads_nothing_when_the_archive_cannot_be_made() {
    let image = Unpacked::new();
    program(&image.path("bin/cpio"), "exit 1");
    let output = image.run(&[]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        !output.status.success() && !said.contains("kexec --load"),
        "{said}"
    );
}

/// An unpacked image whose programs only say how they were called.
struct Unpacked {
    root: TempDir,
}

impl Unpacked {
    fn new() -> Self {
        let image = Self {
            root: TempDir::new().unwrap(),
        };
        fs::create_dir_all(image.folder()).unwrap();
        fs::create_dir(image.path("bin")).unwrap();

        let script = fs::read_to_string(repository().join("kexec-image/run.sh")).unwrap();
        let script = script.replace("@commandLine@", "'init=/nix/store/top/init console=ttyS0'");
        fs::write(image.folder().join("run"), script).unwrap();
        fs::write(image.folder().join("initrd"), "the initrd\n").unwrap();
        fs::write(image.folder().join("bzImage"), "the kernel").unwrap();
        program(&image.folder().join("ip"), "echo '[]'");
        program(&image.folder().join("kexec"), r#"echo "kexec $*""#);

        program(&image.path("bin/cpio"), r#"cat; echo "cpio $*""#);
        program(&image.path("bin/gzip"), "cat");
        // the jump comes at once, and is the stand-in above
        program(&image.path("bin/sleep"), "exit 0");
        image
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn folder(&self) -> PathBuf {
        self.path("kexec")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let path = format!("{}:{}", self.path("bin").display(), env!("PATH"));
        let mut run = Command::new("sh");
        run.arg(self.folder().join("run"))
            .args(arguments)
            .env("PATH", path);
        run.output().unwrap()
    }
}

fn program(path: &Path, script: &str) {
    fs::write(path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The names the flake promises.
fn outputs() -> Value {
    let everywhere = [
        "agent-aarch64",
        "agent-x86_64",
        "default",
        "landfall",
        "nixos-anywhere",
    ];
    let linux = [
        "agent-aarch64",
        "agent-x86_64",
        "default",
        "kexec-image",
        "landfall",
        "nixos-anywhere",
    ];
    let checks = [
        "clippy",
        "format",
        "kexec-image",
        "kexec-network",
        "kexec-run",
        "landfall",
        "unit-tests",
    ];
    let one = json!({
        "aarch64-darwin": ["default"],
        "aarch64-linux": ["default"],
        "x86_64-darwin": ["default"],
        "x86_64-linux": ["default"],
    });
    json!({
        "packages": {
            "aarch64-darwin": everywhere,
            "aarch64-linux": linux,
            "x86_64-darwin": everywhere,
            "x86_64-linux": linux,
        },
        "apps": one,
        "devShells": one,
        "checks": { "aarch64-linux": checks, "x86_64-linux": checks },
        "modules": ["kexec-image"],
    })
}

fn image(modules: &str) -> Value {
    parsed(&output(&mut evaluate_image(modules)))
}

fn evaluate_image(modules: &str) -> Command {
    let mut nix = nix("nix-instantiate");
    nix.args(["--eval", "--strict", "--json", "--arg", "modules", modules]);
    nix.arg(folder().join("nix/image.nix"));
    nix
}

fn nix(program: &str) -> Command {
    let assets = Assets::open().expect("`cargo rig setup` was run");
    assets.operator_command(program)
}

#[track_caller]
fn output(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    output.stdout
}

fn parsed(json: &[u8]) -> Value {
    serde_json::from_slice(json).unwrap()
}

fn nix_files() -> Vec<PathBuf> {
    let mut files = vec![repository().join("flake.nix")];
    let mut folders = vec![repository().join("kexec-image"), folder().join("nix")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "nix") {
                files.push(path);
            }
        }
    }
    files
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_file()).collect()
}

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn repository() -> &'static Path {
    folder()
        .parent()
        .expect("the tests are a folder of the repository")
}
