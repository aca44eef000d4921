//! `rig demo`: the main job as a user sees it, on a Debian machine of the rig.

use std::{
    path::Path,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{machines, repository, table, up};
use crate::{
    assets::Assets,
    install::{ROOT, reach},
    machine::control::Status,
    registry,
    ssh::Ssh,
};

const NAME: &str = "demo";
/// Debian logs in after 13 to 17 s under emulation; on a busy host three times that.
const BOOTS: Duration = Duration::from_secs(180);

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// UEFI firmware instead of BIOS
    #[arg(long)]
    uefi: bool,
    /// Leave the installed machine running
    #[arg(long)]
    keep: bool,
}

pub(super) fn demo(options: &Options) -> Result<ExitCode> {
    let mut clock = Clock::start();
    let repository = repository();
    headline("the rig's parts");
    let assets = Assets::prepare(&repository)?;
    clock.lap("rig's parts");

    headline("the controller: cargo build --release --package landfall");
    build(&repository)?;
    clock.lap("controller");

    headline("a Debian machine to install on");
    if registry::folder(NAME)?.exists() {
        machines::remove(NAME)?;
    }
    let machine = up::start(&up::Options::named(NAME, options.uefi))?;
    let ssh = Ssh {
        port: machine.ssh_port,
        key: machine.key.clone(),
    };
    eprintln!("waiting for its login: about 10 s under emulation");
    ssh.wait(BOOTS).context("the machine does not answer")?;
    up::show(&machine);
    look(
        &ssh,
        "grep PRETTY_NAME= /etc/os-release; uname -r; lsblk --output NAME,SIZE,FSTYPE,MOUNTPOINTS",
    )?;
    clock.lap("Debian boots");

    let install = install(&repository, &assets, &ssh);
    headline(&shown(&install));
    let code = run(install)?;
    clock.lap("landfall");
    if code != 0 {
        eprintln!("\nlandfall ended with exit code {code}; the machine is left as it is:");
        eprintln!("  cargo rig ssh {NAME}       look around");
        eprintln!("  cargo rig serial {NAME}    what its console said");
        eprintln!("  cargo rig down {NAME}      remove it");
        return Ok(ExitCode::from(code));
    }

    headline("a login on the installed system");
    ssh.wait(BOOTS)
        .context("the installed system does not answer")?;
    look(
        &ssh,
        "cat /etc/os-release; echo; readlink -f /run/current-system; uname -r; \
         lsblk --output NAME,SIZE,FSTYPE,MOUNTPOINTS 2>/dev/null || df -h",
    )?;
    clock.lap("login");

    headline("time");
    for line in table::lines(&clock.laps) {
        println!("{line}");
    }
    finish(options, &machine)?;
    Ok(ExitCode::SUCCESS)
}

fn build(repository: &Path) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo
        .args(["build", "--release", "--package", "landfall"])
        .current_dir(repository);
    let done = cargo.status().context("starting cargo")?;
    ensure!(done.success(), "cannot build the controller");
    Ok(())
}

/// The command a user would type, in the operator's environment.
fn install(repository: &Path, assets: &Assets, ssh: &Ssh) -> Command {
    let mut landfall = assets.operator_command(repository.join("target/release/landfall"));
    landfall
        .arg("--flake")
        .arg(format!("{}#demo", assets.fixture_flake().display()));
    landfall.arg("--kexec").arg(assets.installer_tarball());
    landfall.arg("--copy-host-keys").args(reach(ssh, ROOT));
    landfall.env("LANDFALL_AGENT_DIR", assets.agents());
    landfall
}

/// The command from the word `landfall` on.
fn shown(command: &Command) -> String {
    let words = command
        .get_args()
        .map(|word| word.to_string_lossy().into_owned());
    let own = words
        .skip_while(|word| !word.ends_with("/landfall"))
        .skip(1);
    format!("landfall {}", own.collect::<Vec<_>>().join(" "))
}

/// Runs `command` on this terminal. ctrl-c is the command's business: the rig outlives it, to say
/// what became of the machine.
fn run(command: Command) -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut child = tokio::process::Command::from(command)
            .spawn()
            .context("starting landfall")?;
        let status = loop {
            tokio::select! {
                status = child.wait() => break status.context("waiting for landfall")?,
                _ = tokio::signal::ctrl_c() => {}
            }
        };
        Ok(status
            .code()
            .and_then(|code| u8::try_from(code).ok())
            .unwrap_or(1))
    })
}

fn look(ssh: &Ssh, command: &str) -> Result<()> {
    let seen = ssh.run(command)?;
    print!("{}", String::from_utf8_lossy(&seen.stdout));
    ensure!(
        seen.status.success(),
        "{}",
        String::from_utf8_lossy(&seen.stderr).trim()
    );
    Ok(())
}

fn finish(options: &Options, machine: &Status) -> Result<()> {
    println!();
    if options.keep {
        println!("the machine stays, as {NAME}:");
        println!("  cargo rig ssh {NAME}          log in");
        println!(
            "  cargo rig power-cut {NAME}    pull the plug; `cargo rig up --name {NAME}` boots it again"
        );
        println!("  cargo rig serial {NAME}       what its console said");
        println!("  cargo rig down {NAME}         remove it");
        return Ok(());
    }
    machines::remove(NAME)?;
    println!(
        "the machine on port {} is gone again; next:",
        machine.ssh_port
    );
    println!("  cargo demo --keep     leave it running, and log in with `cargo rig ssh {NAME}`");
    if !options.uefi {
        println!("  cargo demo --uefi     the same with UEFI firmware");
    }
    println!("  cargo rig up          a Debian machine to try landfall on by hand");
    println!("  cargo verify          all tests, with real machines");
    Ok(())
}

fn headline(text: &str) {
    eprintln!("\n--- {text}");
}

/// What took how long.
struct Clock {
    lap: Instant,
    laps: Vec<[String; 2]>,
}

impl Clock {
    fn start() -> Self {
        Self {
            lap: Instant::now(),
            laps: Vec::new(),
        }
    }

    fn lap(&mut self, name: &str) {
        self.laps
            .push([name.to_owned(), table::time(self.lap.elapsed())]);
        self.lap = Instant::now();
    }
}
