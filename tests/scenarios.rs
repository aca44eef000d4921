//! Everything that may befall an installation, on real machines: several faults in one installation, each looked at for
//! itself. What a fault of the line costs in bytes, and faults by chance, are for `cargo faults`.

mod agent;
mod controller;
mod held;
mod line;
mod power;
mod room;
mod stranger;

use std::{path::Path, process::Command, time::Duration};

use anyhow::Result;
use landfall_tests::{
    assets::Assets,
    install::{Operator, ROOT},
    machine::{Machine, spec::Spec},
    watched::Watched,
};

/// Debian logs in after 13 to 30 s under emulation, an installer after 20 to 40 s; with others beside them, much later.
const BOOTS: Duration = Duration::from_secs(240);
/// Longest that any part of an installation may take, and longest that a command may take to end.
const LONG: Duration = Duration::from_secs(900);

/// What the installer's script says last, before the kernel is started.
const LAST_WORD: &str = "machine will boot into nixos";

/// Identity of what was formatted: made at random by every format.
const FORMATTED: &str =
    "blkid -s PARTUUID -o value /dev/vdX1 /dev/vdX2; blkid -s UUID -o value /dev/vdX1 /dev/vdX2";

/// A machine, and an operator who has never been there.
struct Site {
    assets: Assets,
    operator: Operator,
    machine: Machine,
}

impl Site {
    fn new(spec: Spec) -> Self {
        let site = Self::with(|assets| Machine::ready(assets, spec));
        site.machine.wait_ssh(BOOTS).unwrap();
        site
    }

    /// With a machine that has just got power.
    fn dark(spec: Spec) -> Self {
        Self::with(|assets| Machine::start(assets, spec))
    }

    fn with(machine: impl FnOnce(&Assets) -> Result<Machine>) -> Self {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let assets = Assets::prepare(repository).unwrap();
        Self {
            machine: machine(&assets).unwrap(),
            operator: Operator::new().unwrap(),
            assets,
        }
    }

    /// The command that installs a configuration; what else it is told is the caller's to add.
    fn command(&self, configuration: &str, host: &str) -> Command {
        let mut landfall = self.operator.landfall_as(&self.assets, &self.machine, host);
        let flake = self.assets.fixture_flake();
        landfall
            .args(["--json", "--flake"])
            .arg(format!("{}#{configuration}", flake.display()));
        landfall.arg("--kexec").arg(self.assets.installer_tarball());
        landfall
    }

    /// Starts it.
    fn landfall(&self, configuration: &str, more: &[&str]) -> Watched {
        Watched::start(self.command(configuration, ROOT).args(more)).unwrap()
    }

    /// What the operator's nix says that a configuration is.
    fn system(&self, configuration: &str) -> String {
        let attribute = format!("nixosConfigurations.{configuration}.config.system.build.toplevel");
        self.operator.build(&self.assets, &attribute).unwrap()
    }

    #[track_caller]
    fn said(&self, command: &str) -> String {
        let output = self.machine.ssh(command).unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {said}{complained}");
        said
    }

    /// Identity of what was formatted on this disk, such as `vda`.
    #[track_caller]
    fn formatted(&self, disk: &str) -> String {
        let said = self.said(&FORMATTED.replace("vdX", disk));
        assert_eq!(said.lines().count(), 4, "{said}");
        said
    }

    /// The machine runs the configuration, from its own disk and not from memory.
    #[track_caller]
    fn runs(&self, configuration: &str) {
        let running = self.said("readlink -f /run/current-system");
        assert_eq!(running.trim_end(), self.system(configuration));
        let release = self.said("cat /etc/os-release");
        assert!(!release.contains("VARIANT_ID"), "{release}");
    }

    /// The clock of the machine is about as many years ahead of this host's.
    #[track_caller]
    fn is_ahead(&self, years: f64) {
        const YEAR: f64 = 365.25 * 86400.0;
        let there: f64 = self.said("date +%s").trim_end().parse().unwrap();
        let here = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let ahead = (there - here.as_secs_f64()) / YEAR;
        assert!(
            (ahead - years).abs() < 0.1,
            "the clock is {ahead} years ahead"
        );
    }

    /// Nothing of landfall is left with the operator: no process, socket or temporary file.
    fn leaves_nothing_here(&self) {
        for folder in [self.operator.runtime(), self.operator.temporary()] {
            let left: Vec<_> = std::fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect();
            assert!(left.is_empty(), "left over: {left:?}");
        }
    }
}
