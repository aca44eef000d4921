//! The keeper of one machine: its power, its line, and a socket to ask for things.
//!
//! A machine that resets goes on with what its firmware would find: its own disk if that has a boot
//! sector, else what it booted before, as a machine does whose disks nobody has touched. Runs as a
//! process of its own behind `rig up`, and on a thread of the test otherwise.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::watch,
    time::{Instant, timeout},
};

use super::{
    control::{Answer, Ask, Status, socket},
    disk, identity,
    qemu::{self, Off, Qemu},
    spec::{Begin, Boot, Firmware},
    state::About,
};
use crate::{
    link::{
        Conditions,
        gauge::{Direction, Gauge},
        proxy::{Far, Line},
    },
    registry::{Keeping, Record},
};

/// A boot that ends in a reset within this is no boot.
const TOO_SOON: Duration = Duration::from_secs(4);
/// So many of those in a row, and the machine stays off.
const RESETS_IN_A_ROW: u32 = 4;
/// Another program may take the port that was found free, but hardly this often.
const STARTS: u32 = 3;

struct Keeper {
    folder: PathBuf,
    record: Record,
    port: u16,
    qemu: Option<Qemu>,
    off: Option<Off>,
    boots: u32,
    since: Instant,
    quick_resets: u32,
    far: watch::Sender<Far>,
    conditions: watch::Sender<Conditions>,
    gauge: Arc<Gauge>,
}

/// Gives power to the machine in `folder` and keeps it until somebody asks to stop.
pub async fn keep(folder: &Path) -> Result<()> {
    let _keeping = Keeping::begin(folder)?;
    let mut record = Record::load(folder)?;
    let (far, far_seen) = watch::channel(None);
    let (conditions, conditions_seen) = watch::channel(Conditions::default());
    let line = Arc::new(Line::bind(record.port, conditions_seen, far_seen)?);
    let port = line.port();
    record.port = Some(port);
    let mut keeper = Keeper {
        folder: folder.to_owned(),
        record,
        port,
        qemu: None,
        off: None,
        boots: 0,
        since: Instant::now(),
        quick_resets: 0,
        far,
        conditions,
        gauge: line.gauge(),
    };
    let asked = listen(&socket(folder))?;
    let boot = keeper.record.boot;
    keeper.power_on(boot).await?;

    let carrying = line.serve();
    tokio::pin!(carrying);
    loop {
        tokio::select! {
            off = keeper.lost_power() => keeper.go_on(off).await?,
            Ok((stream, _)) = asked.accept() => {
                if keeper.answer(stream).await == Next::Stop {
                    break;
                }
            }
            result = &mut carrying => return result,
        }
    }
    Ok(())
}

#[derive(PartialEq)]
enum Next {
    Stop,
    GoOn,
}

impl Keeper {
    async fn power_on(&mut self, boot: Boot) -> Result<()> {
        let begin = std::mem::take(&mut self.record.begin);
        let Record {
            name, spec, parts, ..
        } = &self.record;
        if spec.firmware == Firmware::Uefi && !self.folder.join("ovmf-vars.fd").exists() {
            fs::copy(&parts.ovmf_vars, self.folder.join("ovmf-vars.fd"))
                .with_context(|| format!("copying {}", parts.ovmf_vars.display()))?;
        }
        let from = match boot {
            Boot::Disk => "its own disks",
            Boot::Target => "the Debian target",
            Boot::Bare => "the bare target",
            Boot::Installer => "the installer",
        };
        let how = match begin {
            Begin::Resume { .. } => "a state of",
            _ => "from",
        };
        qemu::note(
            &self.folder,
            &format!("boot {} {how} {from}", self.boots + 1),
        )?;
        let mut tries = 1;
        let qemu = loop {
            match Qemu::start(&self.folder, name, spec, parts, boot, &begin).await {
                Ok(qemu) => break qemu,
                Err(error) if tries < STARTS && error.to_string().contains("forwarding") => {
                    tries += 1;
                }
                Err(error) => {
                    self.off = Some(Off::Failed(error.to_string()));
                    return Err(error);
                }
            }
        };
        if let Begin::Resume { state } = &begin {
            identity::give(&self.folder, &About::load(state)?).await?;
        }
        self.far.send_replace(Some(qemu.ssh));
        self.qemu = Some(qemu);
        self.off = None;
        self.boots += 1;
        self.since = Instant::now();
        self.record.boot = boot;
        self.record.save(&self.folder)
    }

    /// Waits until the machine has no power any more; for ever if it has none.
    async fn lost_power(&mut self) -> Off {
        match &mut self.qemu {
            Some(qemu) => qemu.ended(&self.folder).await,
            None => std::future::pending().await,
        }
    }

    async fn go_on(&mut self, off: Off) -> Result<()> {
        self.lights_out(off.clone());
        if off != Off::Reset {
            return qemu::note(&self.folder, "power off");
        }
        let quick = self.since.elapsed() < TOO_SOON;
        self.quick_resets = if quick { self.quick_resets + 1 } else { 0 };
        if self.quick_resets >= RESETS_IN_A_ROW {
            let why = format!("reset itself {RESETS_IN_A_ROW} times in a row, each within seconds");
            qemu::note(&self.folder, &why)?;
            self.off = Some(Off::Failed(why));
            return Ok(());
        }
        let boot = self.natural_boot()?;
        if let Err(error) = self.power_on(boot).await {
            qemu::note(&self.folder, &format!("{error:#}"))?;
        }
        Ok(())
    }

    /// What the machine boots when nobody chooses.
    fn natural_boot(&self) -> Result<Boot> {
        let own = disk::bootable(&self.folder, self.record.spec.disks_gib.len())?;
        Ok(own.map_or(self.record.boot, |_| Boot::Disk))
    }

    fn lights_out(&mut self, off: Off) {
        self.far.send_replace(None);
        self.qemu = None;
        self.off = Some(off);
    }

    async fn answer(&mut self, stream: UnixStream) -> Next {
        // whoever connects and says nothing does not hold up the machine
        let done = timeout(Duration::from_secs(5), read(stream)).await;
        let Ok(Ok((ask, mut stream))) = done else {
            return Next::GoOn;
        };
        let stop = matches!(ask, Ask::Stop);
        let answer = match self.obey(ask).await {
            Ok(()) => Answer::Ok(Box::new(self.status())),
            Err(error) => Answer::Refused(format!("{error:#}")),
        };
        if let Ok(mut line) = serde_json::to_vec(&answer) {
            line.push(b'\n');
            let _ = timeout(Duration::from_secs(5), stream.write_all(&line)).await;
        }
        if stop { Next::Stop } else { Next::GoOn }
    }

    async fn obey(&mut self, ask: Ask) -> Result<()> {
        let name = &self.record.name;
        match ask {
            Ask::Status => Ok(()),
            Ask::Boot { .. } if self.qemu.is_some() => {
                bail!("{name} is running already; `cargo rig power-cut {name}` ends that")
            }
            Ask::Boot { boot } => {
                self.quick_resets = 0;
                let boot = boot.map_or_else(|| self.natural_boot(), Ok)?;
                self.power_on(boot).await
            }
            Ask::PowerCut if self.qemu.is_none() => bail!("{name} has no power already"),
            Ask::PowerCut => {
                self.cut_power().await;
                qemu::note(&self.folder, "power cut")
            }
            Ask::Save => {
                let qemu = self.qemu.as_mut().context("it has no power")?;
                qemu.save(&self.folder).await?;
                self.lights_out(Off::PowerCut);
                Ok(())
            }
            Ask::Link { change } => {
                self.conditions.send_modify(|now| *now = change.apply(*now));
                Ok(())
            }
            Ask::Stop => {
                self.cut_power().await;
                Ok(())
            }
        }
    }

    async fn cut_power(&mut self) {
        // the line first: nobody at its other end may see the emulator's sockets close
        self.far.send_replace(None);
        if let Some(qemu) = &mut self.qemu {
            qemu.cut().await;
        }
        self.lights_out(Off::PowerCut);
    }

    fn status(&self) -> Status {
        Status {
            name: self.record.name.clone(),
            running: self.qemu.is_some(),
            off: self.off.clone(),
            boot: self.record.boot,
            boots: self.boots,
            up_seconds: self.since.elapsed().as_secs(),
            ssh_host: "127.0.0.1".to_owned(),
            ssh_port: self.port,
            key: self.record.parts.key.clone(),
            serial_log: self.folder.join("serial.log"),
            pid: self.qemu.as_ref().map(|qemu| qemu.pid),
            link: *self.conditions.borrow(),
            sent: self.gauge.passed(Direction::Up),
            spec: self.record.spec.clone(),
            ephemeral: self.record.ephemeral,
        }
    }
}

async fn read(stream: UnixStream) -> Result<(Ask, UnixStream)> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    Ok((serde_json::from_str(&line)?, stream.into_inner()))
}

fn listen(path: &Path) -> Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", path.display()));
        }
        _ => {}
    }
    UnixListener::bind(path).with_context(|| format!("listening on {}", path.display()))
}
