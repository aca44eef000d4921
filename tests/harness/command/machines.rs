//! Commands on machines that exist.

use std::{
    fs,
    io::IsTerminal,
    path::Path,
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use super::table;
use crate::{
    link::{Carrier, Change},
    machine::{
        control::{Ask, Status, ask},
        qemu::Off,
    },
    patience, registry,
    registry::Record,
    ssh::Ssh,
};

/// A machine under emulation logs in after 13 to 30 s; with another one beside it, twice that.
const LOGIN: Duration = Duration::from_secs(180);
const KEEPER_ENDS: Duration = Duration::from_secs(10);

pub(super) fn down(name: Option<&str>, as_json: bool) -> Result<()> {
    let names = match name {
        Some(name) => {
            registry::find(name)?;
            vec![name.to_owned()]
        }
        // machines of tests end with their tests
        None => {
            let all = registry::list()?.into_iter();
            all.filter(|record| !record.ephemeral)
                .map(|record| record.name)
                .collect()
        }
    };
    for name in &names {
        remove(name)?;
        if !as_json {
            eprintln!("machine {name} is gone, with its disks");
        }
    }
    if as_json {
        println!("{}", json!({ "removed": names }));
    } else if names.is_empty() {
        eprintln!("there are no machines");
    }
    Ok(())
}

/// Ends a machine and removes its disks.
pub(super) fn remove(name: &str) -> Result<()> {
    let folder = registry::find(name)?;
    if ask(&folder, &Ask::Stop).is_err() {
        end_keeper(&folder)?;
    }
    patience::until("the machine's keeper to end", KEEPER_ENDS, || {
        Ok((!registry::is_kept(&folder)).then_some(()))
    })?;
    registry::remove(&folder)
}

/// Ends a keeper that does not answer, by its id; the emulator ends with it.
fn end_keeper(folder: &Path) -> Result<()> {
    let Some(pid) = registry::keeper(folder) else {
        return Ok(());
    };
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let name = folder
        .file_name()
        .context("a machine has a name")?
        .as_encoded_bytes();
    let is_keeper = words
        .windows(2)
        .any(|pair| pair == [b"keep".as_slice(), name]);
    ensure!(
        is_keeper,
        "process {pid} holds {} and is no keeper",
        folder.display()
    );
    kill(Pid::from_raw(pid), Signal::SIGKILL).with_context(|| format!("ending process {pid}"))
}

pub(super) fn list(as_json: bool) -> Result<()> {
    let mut all = Vec::new();
    for record in registry::list()? {
        let status = ask(&registry::folder(&record.name)?, &Ask::Status).ok();
        all.push((record, status));
    }
    if as_json {
        let known: Vec<_> = all
            .iter()
            .map(|(record, status)| as_value(record, status))
            .collect();
        println!("{}", serde_json::to_string(&known)?);
        return Ok(());
    }
    if all.is_empty() {
        eprintln!("there are no machines; `cargo rig up` starts one");
        return Ok(());
    }
    let head = [
        "NAME", "POWER", "BOOT", "SSH PORT", "MEMORY", "DISKS", "LINK",
    ];
    let mut rows = vec![head.map(ToOwned::to_owned)];
    rows.extend(
        all.iter()
            .map(|(record, status)| row(record, status.as_ref())),
    );
    for line in table::lines(&rows) {
        println!("{line}");
    }
    Ok(())
}

fn as_value(record: &Record, status: &Option<Status>) -> serde_json::Value {
    match status {
        Some(status) => json!(status),
        None => json!({ "name": record.name, "running": false, "spec": record.spec }),
    }
}

fn row(record: &Record, status: Option<&Status>) -> [String; 7] {
    let power = match status.map(|status| (status.running, &status.off)) {
        Some((true, _)) => {
            let up = status.map_or(0, |status| status.up_seconds);
            format!("on for {}", table::time(Duration::from_secs(up)))
        }
        Some((_, Some(Off::PowerCut))) => "off (power cut)".to_owned(),
        Some((_, Some(Off::Shutdown))) => "off (shut down)".to_owned(),
        Some((_, Some(Off::Failed(why)))) => format!("off ({why})"),
        _ => "off".to_owned(),
    };
    let disks: Vec<String> = record
        .spec
        .disks_gib
        .iter()
        .map(ToString::to_string)
        .collect();
    let dash = || "-".to_owned();
    [
        record.name.clone(),
        power,
        record.boot.name().to_owned(),
        status.map_or_else(dash, |status| status.ssh_port.to_string()),
        format!("{} MiB", record.spec.memory_mib),
        format!("{} GiB", disks.join("+")),
        status.map_or_else(dash, |status| status.link.to_string()),
    ]
}

pub(super) fn ssh(name: &str, command: &[String]) -> Result<ExitCode> {
    let status = status(name)?;
    ensure!(
        status.running,
        "machine {name} has no power; `cargo rig up --name {name}` gives it some"
    );
    ensure!(
        status.link.carrier == Carrier::Up,
        "the line to {name} is {}; `cargo rig link {name} --restore` ends that",
        status.link
    );
    let ssh = Ssh {
        port: status.ssh_port,
        key: status.key,
    };
    if ssh.banner().is_err() {
        eprintln!("waiting for machine {name} to answer ...");
        ssh.wait_banner(LOGIN)
            .with_context(|| format!("its console is in {}", status.serial_log.display()))?;
    }
    let mut login = ssh.command();
    if command.is_empty() && std::io::stdin().is_terminal() {
        login.arg("-t");
    }
    let done = login.args(command).status().context("starting ssh")?;
    Ok(done
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from))
}

pub(super) fn serial(name: &str, follow: bool) -> Result<ExitCode> {
    let path = registry::find(name)?.join("serial.log");
    let mut command = if follow {
        Command::new("tail")
    } else {
        Command::new("cat")
    };
    if follow {
        command.args(["-n", "+1", "-F"]);
    }
    let done = command.arg(&path).status().context("starting tail")?;
    Ok(if done.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

pub(super) fn power_cut(name: &str, as_json: bool) -> Result<()> {
    let status = tell(name, &Ask::PowerCut)?;
    if as_json {
        println!("{}", serde_json::to_string(&status)?);
    } else {
        eprintln!("machine {name} has no power; `cargo rig up --name {name}` gives it back");
    }
    Ok(())
}

pub(super) fn link(name: &str, change: Change, as_json: bool) -> Result<()> {
    let ask = if change.is_empty() {
        Ask::Status
    } else {
        Ask::Link { change }
    };
    let status = tell(name, &ask)?;
    if as_json {
        println!("{}", serde_json::to_string(&status.link)?);
    } else {
        println!("the line to {name}: {}", status.link);
    }
    Ok(())
}

/// How things stand with the machine of that name.
pub(super) fn status(name: &str) -> Result<Status> {
    tell(name, &Ask::Status)
}

fn tell(name: &str, what: &Ask) -> Result<Status> {
    let folder = registry::find(name)?;
    ensure!(
        registry::is_kept(&folder),
        "nobody keeps machine {name} since its keeper ended; `cargo rig up --name {name}` does"
    );
    ask(&folder, what)
}
