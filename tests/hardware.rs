//! The machine describes its hardware, and the configuration that lacked this is built: the path to the operator's file
//! is the real one, what the programs say is fixed.
//!
//! Covers: controller/src/phases/hardware.rs, controller/src/local/hardware.rs.
//! Covers: agent/src/machine/describe.rs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use landfall_tests::{
    assets::Assets,
    install::{self, Ended, Operator},
    machine::{
        Machine,
        spec::{Boot, Spec},
    },
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The installer logs in after 20 to 40 s under emulation; with others beside it, much later.
const BOOTS: Duration = Duration::from_secs(240);
const ENDS: Duration = Duration::from_secs(600);
/// What is written, as every flake below reads it.
const FILE: &str = "hosts/demo/hardware";

#[test]
#[cfg_attr(
    not(feature = "scenarios"),
    ignore = "starts a machine; `cargo verify --all` runs it"
)]
fn generated_module_becomes_part_of_what_is_installed() {
    let job = Job::new("builtins.isFunction (import ./hosts/demo/hardware)");
    let ended = job.run(&["--phases", "disko,install"], "nixos-generate-config");
    assert_eq!(ended.code, Some(0));

    let module = job.file();
    assert!(module.starts_with("# Do not modify this file!"), "{module}");
    assert!(module.ends_with("}\n"), "{module}");
    let arguments = job.said("cat /run/rig-hardware-calls");
    assert_eq!(
        arguments,
        "nixos-generate-config --show-hardware-config --no-filesystems\n"
    );
    // git knows of it, and nothing is staged
    assert_eq!(job.git(&["ls-files", FILE]), format!("{FILE}\n"));
    let staged = job.git(&["diff", "--cached", "--name-only"]);
    assert_eq!(staged, ".gitignore\nflake.nix\n");
    let profile = job.said("readlink /mnt/nix/var/nix/profiles/system-1-link");
    let system = "nixosConfigurations.demo.config.system.build.toplevel";
    let system = job.operator.build(&job.assets, system).unwrap();
    assert_eq!(profile, format!("{system}\n"));
}

#[test]
#[cfg_attr(
    not(feature = "scenarios"),
    ignore = "starts a machine; `cargo verify --all` runs it"
)]
fn report_is_written_whole_or_the_old_one_stays() {
    let job = Job::new("true");
    // only what this operator has looked up is known
    let alone = ["--option", "flake-registry", ""];
    let words = [["--phases", "kexec"].as_slice(), &alone].concat();
    let describe = || job.run(&words, "nixos-facter");
    fs::create_dir_all(job.path().parent().unwrap()).unwrap();
    fs::write(job.path(), "the old one\n").unwrap();

    for (fault, words) in [("fails", "Input/output error"), ("garbles", "LF0381")] {
        job.said(&format!("touch /run/rig-hardware-{fault}"));
        let ended = describe();
        assert_eq!(ended.code, Some(1), "{fault}");
        assert!(ended.stderr.contains(words), "{fault}");
        assert_eq!(job.file(), "the old one\n", "{fault}");
        assert_eq!(job.beside(), ["hardware"], "{fault}");
        job.said(&format!("rm /run/rig-hardware-{fault}"));
    }

    job.said("touch /run/rig-hardware-complains");
    let ended = describe();
    assert_eq!(ended.code, Some(0));
    assert!(ended.stderr.contains("failed to read the SMBIOS table"));
    let report: Value = serde_json::from_str(&job.file()).unwrap();
    assert_eq!(report["version"], 1);
    assert_eq!(job.beside(), ["hardware"]);

    // an installer without the program gets one that is built here
    job.said("rm /usr/bin/nixos-facter");
    let without = describe();
    assert_eq!(without.code, Some(1));
    assert!(without.stderr.contains("LF0382"));
    assert_eq!(serde_json::from_str::<Value>(&job.file()).unwrap(), report);
    let _nixpkgs = job.nixpkgs();
    assert_eq!(describe().code, Some(0));
    assert_eq!(job.file(), "{\"version\":2}\n");
}

/// An operator with a flake in a git repository, and a machine that runs the installer.
struct Job {
    assets: Assets,
    operator: Operator,
    machine: Machine,
    flake: TempDir,
}

impl Job {
    /// The configuration is one only where `condition` holds.
    fn new(condition: &str) -> Self {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let assets = Assets::prepare(repository).unwrap();
        let machine = Machine::ready(&assets, Spec::of(Boot::Installer)).unwrap();
        let operator = Operator::new().unwrap();
        let flake = TempDir::with_prefix("flake-").unwrap();
        let text = include_str!("hardware/flake.nix")
            .replace("@rig@", assets.fixture_flake().to_str().unwrap())
            .replace("@condition@", condition);
        fs::write(flake.path().join("flake.nix"), text).unwrap();
        fs::write(flake.path().join(".gitignore"), "hosts\n").unwrap();
        let job = Self {
            assets,
            operator,
            machine,
            flake,
        };
        job.git(&["init", "--quiet"]);
        job.git(&["add", "flake.nix", ".gitignore"]);
        job.machine.wait_ssh(BOOTS).unwrap();
        job
    }

    fn run(&self, phases: &[&str], backend: &str) -> Ended {
        let mut landfall = self.operator.landfall(&self.assets, &self.machine);
        let flake = format!("{}#demo", self.flake.path().display());
        landfall.args(["--flake", &flake]).args(phases);
        landfall.args(["--generate-hardware-config", backend]);
        landfall.arg(self.path());
        let ended = install::run(&mut landfall, ENDS, || ()).unwrap();
        println!("{}", ended.stderr);
        ended
    }

    fn path(&self) -> PathBuf {
        self.flake.path().join(FILE)
    }

    fn file(&self) -> String {
        fs::read_to_string(self.path()).unwrap()
    }

    /// What lies in the file's folder.
    fn beside(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path().parent().unwrap()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    /// Makes `nixpkgs`, for this operator, a flake with a nixos-facter of its own.
    fn nixpkgs(&self) -> TempDir {
        let nixpkgs = TempDir::with_prefix("nixpkgs-").unwrap();
        let text = include_str!("hardware/nixpkgs.nix");
        fs::write(nixpkgs.path().join("flake.nix"), text).unwrap();
        let home = self.operator.state().parent().unwrap().to_owned();
        let folder = home.join(".config/nix");
        fs::create_dir_all(&folder).unwrap();
        let registry = json!({
            "version": 2,
            "flakes": [{
                "from": { "type": "indirect", "id": "nixpkgs" },
                "to": { "type": "path", "path": nixpkgs.path() },
            }],
        });
        fs::write(folder.join("registry.json"), registry.to_string()).unwrap();
        nixpkgs
    }

    #[track_caller]
    fn git(&self, words: &[&str]) -> String {
        let mut git = Command::new("git");
        text(
            git.arg("-C")
                .arg(self.flake.path())
                .args(words)
                .output()
                .unwrap(),
        )
    }

    #[track_caller]
    fn said(&self, command: &str) -> String {
        text(self.machine.ssh(command).unwrap())
    }
}

#[track_caller]
fn text(output: Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}
