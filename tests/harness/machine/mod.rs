//! A machine: an emulated computer with disks, firmware, a serial console and one line to it.
//!
//! [`Machine`] is a test's own and ends with it; `rig up` makes the ones that stay. Both are kept by
//! [`keep`] and asked through [`control`]. Where booting is not what is looked at, a machine begins from
//! a [`state`] of one that has booted.

pub mod control;
pub mod disk;
pub mod identity;
pub mod keep;
pub mod qemu;
pub mod qmp;
pub mod spec;
pub mod state;

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{self, Output},
    sync::atomic::{AtomicU32, AtomicUsize, Ordering},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use self::{
    control::{Ask, Status, ask},
    spec::{Begin, Boot, Parts, Spec},
};
use crate::{
    assets::Assets,
    link::{Carrier, Change},
    patience,
    registry::{self, Record},
    ssh::Ssh,
    waits,
};

/// Tests' machines that run at once on this host; each keeps two cores busy while it boots.
const AT_ONCE: u32 = 2;
/// Longest that a test waits for its turn: what others may take.
const WAITS_ITS_TURN: Duration = Duration::from_secs(3600);

/// A machine of a test. Loses power and is removed when it is dropped.
#[derive(Debug)]
pub struct Machine {
    folder: PathBuf,
    keeper: Option<JoinHandle<Result<()>>>,
    ssh: Ssh,
    /// How much of the serial log has been waited for already.
    read: AtomicUsize,
    _slot: Slot,
}

/// A machine's line, as a test bends it.
#[derive(Debug)]
pub struct Link<'a>(&'a Machine);

/// Makes the folder, the disks and the record of a new machine.
pub fn create(
    assets: &Assets,
    name: &str,
    spec: Spec,
    begin: Begin,
    ephemeral: bool,
) -> Result<PathBuf> {
    let folder = registry::folder(name)?;
    ensure!(
        !folder.exists(),
        "there is a machine {name} already; `cargo rig down {name}` removes it"
    );
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let parts = Parts::pick(assets, &spec)?;
    let disks = match &begin {
        Begin::Resume { state } => state::copy(state, &folder, spec.disks_gib.len()),
        _ => disk::create(&folder, parts.image.as_deref(), &spec.disks_gib),
    };
    let made = disks.and_then(|()| {
        let (name, boot) = (name.to_owned(), spec.boot);
        Record {
            name,
            spec,
            parts,
            boot,
            begin,
            port: None,
            ephemeral,
        }
        .save(&folder)
    });
    if made.is_err() {
        registry::remove(&folder)?;
    }
    made.map(|()| folder)
}

impl Machine {
    /// Makes a machine and gives it power; waits for a free slot if others are running.
    pub fn start(assets: &Assets, spec: Spec) -> Result<Self> {
        Self::begun(assets, spec, Begin::PowerOn)
    }

    /// Makes a machine that has booted already, and is somebody of its own; else the same.
    pub fn ready(assets: &Assets, spec: Spec) -> Result<Self> {
        let begin = waits::on("a state", || state::begin(assets, &spec))?;
        waits::on("boot", || Self::begun(assets, spec, begin))
    }

    fn begun(assets: &Assets, spec: Spec, begin: Begin) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let slot = waits::on("others", Slot::take)?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("test-{}-{number}", process::id());
        let folder = create(assets, &name, spec, begin, true)?;
        let keeper = keep_on_thread(&folder)?;
        let first = patience::until("the machine's keeper", Duration::from_secs(60), || {
            if keeper.is_finished() {
                return Ok(Some(None));
            }
            Ok(ask(&folder, &Ask::Status).ok().map(Some))
        })?;
        let Some(status) = first else {
            let why = keeper.join().expect("the keeper does not panic");
            registry::remove(&folder)?;
            return Err(why
                .err()
                .context("the keeper gave up")?
                .context("starting the machine"));
        };
        let ssh = Ssh {
            port: status.ssh_port,
            key: status.key,
        };
        Ok(Self {
            folder,
            keeper: Some(keeper),
            ssh,
            read: AtomicUsize::new(0),
            _slot: slot,
        })
    }

    /// Where the operator's ssh connects to, on 127.0.0.1.
    #[must_use]
    pub fn ssh_port(&self) -> u16 {
        self.ssh.port
    }

    /// How to log in, as an observer.
    #[must_use]
    pub fn ssh_login(&self) -> &Ssh {
        &self.ssh
    }

    /// The line to this machine.
    #[must_use]
    pub fn link(&self) -> Link<'_> {
        Link(self)
    }

    /// How things stand.
    pub fn status(&self) -> Result<Status> {
        ask(&self.folder, &Ask::Status)
    }

    /// Pulls the plug. Connections to the machine hang, as they do when a machine loses power.
    pub fn power_cut(&self) -> Result<()> {
        ask(&self.folder, &Ask::PowerCut).map(drop)
    }

    /// Writes its memory and the state of its devices to its folder, and ends it.
    fn save(&self) -> Result<()> {
        ask(&self.folder, &Ask::Save).map(drop)
    }

    fn folder(&self) -> &Path {
        &self.folder
    }

    /// Gives power again, with the same disks and firmware variables.
    pub fn boot(&self, boot: Boot) -> Result<()> {
        ask(&self.folder, &Ask::Boot { boot: Some(boot) }).map(drop)
    }

    /// Waits until the machine has booted for the `count`th time since it was made.
    pub fn wait_boots(&self, count: u32, deadline: Duration) -> Result<()> {
        waits::on("boot", || {
            patience::until(&format!("boot {count}"), deadline, || {
                Ok((self.status()?.boots >= count).then_some(()))
            })
        })
    }

    /// Runs `command` as root in the machine, to look; exit status 255 is ssh's own.
    pub fn ssh(&self, command: &str) -> Result<Output> {
        self.ssh.run(command)
    }

    /// Waits until a login succeeds; on failure the console's last lines are part of the error.
    pub fn wait_ssh(&self, deadline: Duration) -> Result<()> {
        let waited = waits::on("boot", || self.ssh.wait(deadline));
        waited.with_context(|| self.console_tail())
    }

    /// Waits until the console says `text`, beginning where the last such wait ended.
    pub fn wait_serial(&self, text: &str, deadline: Duration) -> Result<()> {
        patience::until(&format!("{text:?} on the console"), deadline, || {
            let log = self.serial_log();
            let from = self.read.load(Ordering::Relaxed);
            // what the console said between two looks may have been half a character
            let Some(at) = log.get(from..).and_then(|rest| rest.find(text)) else {
                return Ok(None);
            };
            self.read.store(from + at + text.len(), Ordering::Relaxed);
            Ok(Some(()))
        })
        .with_context(|| self.console_tail())
    }

    /// Everything the serial console said, over all boots, with the rig's own marks.
    #[must_use]
    pub fn serial_log(&self) -> String {
        let bytes = fs::read(self.folder.join("serial.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The file behind disk number `index`: 0 is vda. Only to look at, and only without power.
    #[must_use]
    pub fn disk(&self, index: usize) -> PathBuf {
        disk::path(&self.folder, index)
    }

    fn console_tail(&self) -> String {
        let log = self.serial_log();
        let lines: Vec<&str> = log.lines().collect();
        format!(
            "console:\n{}",
            lines[lines.len().saturating_sub(25)..].join("\n")
        )
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if thread::panicking() {
            // captured with the test's output, and shown because it failed
            #[expect(clippy::print_stderr, reason = "a failing test explains itself")]
            {
                eprintln!("{}", self.console_tail());
            }
        }
        let _ = ask(&self.folder, &Ask::Stop);
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
        let _ = registry::remove(&self.folder);
    }
}

impl Link<'_> {
    /// Resets every connection and refuses new ones.
    pub fn cut(&self) -> Result<()> {
        self.change(Change {
            carrier: Some(Carrier::Cut),
            ..Change::default()
        })
    }

    /// Lets connections stand and forwards nothing.
    pub fn stall(&self) -> Result<()> {
        self.change(Change {
            carrier: Some(Carrier::Stalled),
            ..Change::default()
        })
    }

    /// Takes the machine's end from every open connection; the operator's end stays, silent.
    pub fn half_open(&self) -> Result<()> {
        self.change(Change {
            half_open: true,
            ..Change::default()
        })
    }

    /// Back to a line without faults and limits.
    pub fn restore(&self) -> Result<()> {
        self.change(Change {
            restore: true,
            ..Change::default()
        })
    }

    /// Limits each direction, over all connections; zero lifts the limit.
    pub fn rate(&self, mbit: f64) -> Result<()> {
        self.change(Change {
            rate_mbit: Some(mbit),
            ..Change::default()
        })
    }

    /// Lets the machine answer at another address of loopback, and no more at the one it had.
    pub fn move_to(&self, address: Ipv4Addr) -> Result<()> {
        self.change(Change {
            address: Some(address),
            ..Change::default()
        })
    }

    /// Delays every byte, in each direction.
    pub fn delay(&self, delay: Duration) -> Result<()> {
        let delay_ms = Some(u64::try_from(delay.as_millis()).context("a delay of ages")?);
        self.change(Change {
            delay_ms,
            ..Change::default()
        })
    }

    /// Does several things at once.
    pub fn change(&self, change: Change) -> Result<()> {
        ask(&self.0.folder, &Ask::Link { change }).map(drop)
    }
}

fn keep_on_thread(folder: &Path) -> Result<JoinHandle<Result<()>>> {
    let folder = folder.to_owned();
    let keep = move || run_keeper(&folder);
    thread::Builder::new()
        .name("keeper".to_owned())
        .spawn(keep)
        .context("starting a thread")
}

/// Keeps the machine in `folder` on this thread, until somebody asks to stop.
pub fn run_keeper(folder: &Path) -> Result<()> {
    // one thread: the emulator dies with the thread that started it
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(keep::keep(folder))
}

/// The right to run a machine: one of so many files, locked.
#[derive(Debug)]
struct Slot(#[expect(dead_code, reason = "held, not used")] File);

impl Slot {
    /// Waits until one of them is free, whichever process has it.
    fn take() -> Result<Self> {
        let folder = registry::home()?.with_file_name("slots");
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        patience::until("another test to end its machine", WAITS_ITS_TURN, || {
            for number in 0..AT_ONCE {
                let path = folder.join(number.to_string());
                let file = File::create(&path).context("opening a slot")?;
                if file.try_lock().is_ok() {
                    return Ok(Some(Self(file)));
                }
            }
            Ok(None)
        })
    }
}
