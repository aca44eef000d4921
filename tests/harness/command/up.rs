//! `rig up`: a machine that stays.

use std::{
    env,
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use super::{repository, table};
use crate::{
    assets::Assets,
    machine::{
        self,
        control::{Ask, Status, ask},
        spec::{Begin, Boot, Firmware, Spec},
        state,
    },
    patience,
    registry::{self, Record},
};

/// A keeper starts its machine within this; seen: 1.5 s on a busy host.
const STARTS: Duration = Duration::from_secs(60);

#[derive(Debug, Default, clap::Args)]
pub(super) struct Options {
    /// What to call it [default: the first free one of m1, m2, ...]
    #[arg(long)]
    name: Option<String>,
    /// Memory [default: 1536]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(128..=262_144))]
    memory: Option<u32>,
    /// A disk; the first is vda (can be repeated) [default: one of 4]
    #[arg(long, value_name = "GIB", value_parser = clap::value_parser!(u32).range(1..=1024))]
    disk: Vec<u32>,
    /// UEFI firmware instead of BIOS
    #[arg(long)]
    uefi: bool,
    /// What to boot [default: target, or what the machine itself would boot next]
    #[arg(long)]
    boot: Option<Boot>,
    /// Boot it; otherwise it goes on from the state of one that has booted
    #[arg(long)]
    cold: bool,
    /// Without a way out of the machine's own network
    #[arg(long)]
    offline: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Options {
    /// A new machine with this name, that boots.
    pub(super) fn named(name: &str, uefi: bool) -> Self {
        Self {
            name: Some(name.to_owned()),
            uefi,
            cold: true,
            ..Self::default()
        }
    }

    fn spec(&self) -> Spec {
        let plain = Spec::default();
        Spec {
            memory_mib: self.memory.unwrap_or(plain.memory_mib),
            disks_gib: if self.disk.is_empty() {
                plain.disks_gib
            } else {
                self.disk.clone()
            },
            firmware: if self.uefi {
                Firmware::Uefi
            } else {
                Firmware::Bios
            },
            boot: self.boot.unwrap_or(plain.boot),
            offline: self.offline,
            years_ahead: plain.years_ahead,
        }
    }

    fn orders_parts(&self) -> bool {
        self.memory.is_some() || !self.disk.is_empty() || self.uefi || self.offline
    }
}

pub(super) fn up(options: &Options) -> Result<()> {
    let status = start(options)?;
    if options.json {
        println!("{}", serde_json::to_string(&status)?);
    } else {
        show(&status);
        eprintln!(
            "\n`cargo rig ssh {}` logs in as soon as it answers",
            status.name
        );
    }
    Ok(())
}

/// Starts a machine, or gives power to the one of that name.
pub(super) fn start(options: &Options) -> Result<Status> {
    let name = match &options.name {
        Some(name) => name.clone(),
        None => free_name()?,
    };
    let folder = registry::folder(&name)?;
    if folder.join("machine.json").exists() {
        ensure!(
            !options.orders_parts(),
            "machine {name} exists and keeps its memory, disks and firmware; \
             `cargo rig down {name}` removes it"
        );
        return power_on(&name, &folder, options.boot);
    }
    let assets = match Assets::open() {
        Ok(assets) => assets,
        Err(_) => Assets::prepare(&repository())?,
    };
    let spec = options.spec();
    let begin = match options.cold {
        true => Begin::PowerOn,
        false => {
            if !state::is_there(&assets, &spec)? {
                eprintln!("rig: a machine is booted once, to go on from there: about a minute");
            }
            state::begin(&assets, &spec)?
        }
    };
    let folder = machine::create(&assets, &name, spec, begin, false)?;
    let started = keep(&name, &folder);
    if started.is_err() {
        registry::remove(&folder)?;
    }
    started
}

fn power_on(name: &str, folder: &Path, boot: Option<Boot>) -> Result<Status> {
    if registry::is_kept(folder) {
        return ask(folder, &Ask::Boot { boot });
    }
    // its keeper ended with the host, or was killed
    let mut record = Record::load(folder)?;
    record.boot = match boot {
        Some(boot) => boot,
        None if machine::disk::bootable(folder, record.spec.disks_gib.len())?.is_some() => {
            Boot::Disk
        }
        None => record.boot,
    };
    record.save(folder)?;
    keep(name, folder)
}

/// Leaves a keeper behind, in a session of its own, and waits for its first answer.
fn keep(name: &str, folder: &Path) -> Result<Status> {
    let words = folder.join("keeper.log");
    let log = File::create(&words).with_context(|| format!("making {}", words.display()))?;
    let rig = env::current_exe().context("finding this program")?;
    let mut keeper = Command::new("setsid")
        .arg(rig)
        .args(["keep", name])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("starting setsid")?;
    patience::until("the machine's keeper", STARTS, || {
        if keeper.try_wait()?.is_some() {
            let words = fs::read_to_string(&words).unwrap_or_default();
            bail!("cannot start machine {name}\n{}", words.trim_end());
        }
        Ok(ask(folder, &Ask::Status).ok())
    })
}

fn free_name() -> Result<String> {
    for number in 1.. {
        let name = format!("m{number}");
        if !registry::folder(&name)?.exists() {
            return Ok(name);
        }
    }
    unreachable!("there are more numbers than machines")
}

/// Prints what one needs to use the machine.
pub(super) fn show(status: &Status) {
    let spec = &status.spec;
    let firmware = match spec.firmware {
        Firmware::Bios => "BIOS",
        Firmware::Uefi => "UEFI",
    };
    let disks: Vec<String> = spec
        .disks_gib
        .iter()
        .map(|gib| format!("{gib} GiB"))
        .collect();
    let row = |what: &str, value: String| [format!("  {what}"), value];
    let mut rows = vec![
        row("boots", format!("{}, {firmware}", status.boot.name())),
        row(
            "has",
            format!("{} MiB memory, disks {}", spec.memory_mib, disks.join(", ")),
        ),
        row(
            "ssh",
            format!("root@{} port {}", status.ssh_host, status.ssh_port),
        ),
        row("key", status.key.display().to_string()),
        row("serial log", status.serial_log.display().to_string()),
    ];
    if let Some(pid) = status.pid {
        rows.push(row("pid", pid.to_string()));
    }
    println!("machine {} is on", status.name);
    for line in table::lines(&rows) {
        println!("{line}");
    }
}
