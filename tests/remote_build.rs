//! A system that the operator's machine cannot build: evaluated there, built by the machine that gets it, in the store
//! that it will run from.
//!
//! Covers: controller/src/local/nix, controller/src/phases/build.rs, agent/src/settings.rs.

use std::{path::Path, time::Duration};

use landfall_tests::{
    assets::Assets,
    install::{self, Operator},
    machine::{
        Machine,
        spec::{Boot, Spec},
    },
};

/// Debian logs in after 13 to 30 s under emulation; with others beside it, much later.
const BOOTS: Duration = Duration::from_secs(240);
/// An installation takes 100 s on an idle host of two cores, and the build is emulated too.
const INSTALLS: Duration = Duration::from_secs(1200);

const SYSTEM: &str = "nixosConfigurations.elsewhere.config.system.build.toplevel";

#[test]
#[cfg_attr(
    not(feature = "scenarios"),
    ignore = "starts a machine; `cargo verify --all` runs it"
)]
fn machine_builds_its_own_system_and_boots_it() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let assets = Assets::prepare(repository).unwrap();
    let machine = Machine::ready(&assets, Spec::of(Boot::Target)).unwrap();
    let operator = Operator::new().unwrap();
    let flake = assets.fixture_flake().display().to_string();
    let here = operator.build(&assets, SYSTEM).unwrap_err().to_string();
    assert!(here.contains("rig-installer"), "{here}");
    machine.wait_ssh(BOOTS).unwrap();

    let mut landfall = operator.landfall(&assets, &machine);
    landfall.args(["--flake", &format!("{flake}#elsewhere")]);
    landfall.arg("--kexec").arg(assets.installer_tarball());
    landfall.args(["--build-on", "remote", "-L"]);
    let ended = install::run(&mut landfall, INSTALLS, || ()).unwrap();
    println!("{}", ended.stderr);
    assert_eq!(ended.code, Some(0));

    let mut eval = operator.command(&assets, "nix");
    eval.args(["eval", "--raw", &format!("{flake}#{SYSTEM}")]);
    let evaluated = eval.output().unwrap();
    let evaluated = String::from_utf8(evaluated.stdout).unwrap();
    let runs = machine.ssh("readlink -f /run/current-system; cat /etc/marker");
    let runs = String::from_utf8(runs.unwrap().stdout).unwrap();
    assert_eq!(runs, format!("{evaluated}\nelsewhere\n"));

    // it was not built here behind anybody's back
    let mut look = operator.command(&assets, "nix");
    look.args(["path-info", &evaluated]);
    assert!(!look.output().unwrap().status.success());
}
