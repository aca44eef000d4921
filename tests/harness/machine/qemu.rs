//! One run of the emulator, from power-on to the moment it ends, and why it ended.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::Write,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use super::{
    disk,
    qmp::Monitor,
    spec::{Begin, Boot, Firmware, Parts, Spec},
};

/// In a machine's folder: its memory, the state of its devices, and the socket of its second serial port.
pub const MEMORY: &str = "memory";
pub const DEVICES: &str = "devices";
pub const IDENTITY: &str = "identity.sock";

/// What everything before the installed system gets on its command line.
///
/// The second half spares the kernel tests of itself, protection against others, and waiting: 3 s of a
/// processor until a login under TCG.
const CONSOLE: &str = "console=ttyS0 panic=30 loglevel=4 net.ifnames=0 mitigations=off init_on_alloc=0 lsm=landlock cryptomgr.notests tsc=reliable rcupdate.rcu_expedited=1";
/// The reason is told before the emulator ends. On a busy host it is read much later, and a machine whose reset is not known
/// stays off.
const REASON_COMES: Duration = Duration::from_secs(30);

/// Why a machine has no power any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Off {
    /// The guest asked for a reset: it goes on with whatever its firmware finds.
    Reset,
    /// The guest switched itself off.
    Shutdown,
    /// The rig pulled the plug.
    PowerCut,
    /// The emulator itself ended; the text is its last words.
    Failed(String),
}

/// A running emulator.
#[derive(Debug)]
pub struct Qemu {
    child: Child,
    monitor: Monitor,
    /// Where the guest's port 22 can be reached.
    pub ssh: SocketAddr,
    /// Process id.
    pub pid: u32,
}

impl Qemu {
    /// Gives power to the machine in `folder`, or lets it go on from a state.
    ///
    /// The emulator dies with the thread that calls this, however that ends.
    pub async fn start(
        folder: &Path,
        name: &str,
        spec: &Spec,
        parts: &Parts,
        boot: Boot,
        begin: &Begin,
    ) -> Result<Self> {
        let ssh = free_port()?;
        let words = folder.join("qemu.log");
        let errors = OpenOptions::new().create(true).append(true).open(&words)?;
        // setpriv only asks the kernel for a signal and becomes the emulator
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(&parts.qemu)
            .args(arguments(folder, name, spec, parts, boot, ssh, begin)?)
            .stdin(Stdio::null())
            .stdout(errors.try_clone()?)
            .stderr(errors)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("starting setpriv")?;
        let pid = child.id().context("the emulator ended at once")?;
        let socket = folder.join("qmp.sock");
        let opened = async {
            let mut monitor = Monitor::open(&socket).await?;
            if let Begin::Resume { state } = begin {
                monitor.resume(&state.join(DEVICES)).await?;
            }
            Ok::<_, anyhow::Error>(monitor)
        };
        let monitor = tokio::select! {
            monitor = opened => monitor?,
            _ = child.wait() => bail!("the emulator ended at once: {}", last_words(&words)),
        };
        if matches!(begin, Begin::Resume { .. }) {
            // the emulator has it open, and nobody else wants it
            fs::remove_file(folder.join(MEMORY)).context("forgetting the memory's file")?;
        }
        Ok(Self {
            child,
            monitor,
            ssh,
            pid,
        })
    }

    /// Writes everything that is not on its disks to [`MEMORY`] and [`DEVICES`] in its folder, and ends it.
    ///
    /// It has to have begun as [`Begin::Saveable`].
    pub async fn save(&mut self, folder: &Path) -> Result<()> {
        self.monitor.save(&folder.join(DEVICES)).await?;
        self.cut().await;
        Ok(())
    }

    /// Waits until the emulator ends.
    pub async fn ended(&mut self, folder: &Path) -> Off {
        let status = self.child.wait().await;
        let told = timeout(REASON_COMES, self.monitor.closed()).await;
        match (status, told) {
            (_, Ok(Some(reason))) if reason == "guest-reset" => Off::Reset,
            (_, Ok(Some(reason))) if reason.starts_with("guest-") => Off::Shutdown,
            _ => Off::Failed(last_words(&folder.join("qemu.log"))),
        }
    }

    /// Ends the emulator as a power cut ends a machine; what the guest had not written is lost.
    pub async fn cut(&mut self) {
        let _ = self.child.start_kill();
        let _ = self.child.wait().await;
    }
}

/// The emulator's command line.
fn arguments(
    folder: &Path,
    name: &str,
    spec: &Spec,
    parts: &Parts,
    boot: Boot,
    ssh: SocketAddr,
    begin: &Begin,
) -> Result<Vec<OsString>> {
    let mut line = Line(Vec::new());
    line.two("-name", name);
    let shared = match begin {
        Begin::PowerOn => None,
        Begin::Saveable => Some("on"),
        // what the machine writes is its own
        Begin::Resume { .. } => Some("off"),
    };
    match shared {
        None => line.two("-machine", "q35"),
        Some(shared) => {
            let size = spec.memory_mib;
            let options = format!(",id=memory,size={size}M,share={shared}");
            let before = "memory-backend-file,mem-path=";
            line.file("-object", before, &folder.join(MEMORY), &options);
            line.two("-machine", "q35,memory-backend=memory");
        }
    }
    if matches!(begin, Begin::Resume { .. }) {
        line.two("-incoming", "defer");
    }
    // no kvm: the device may be there and hang every stock kernel
    line.two("-accel", "tcg,thread=multi");
    line.two("-cpu", "max");
    line.two("-smp", "2");
    line.two("-m", &spec.memory_mib.to_string());
    // without defaults there is no drive for discs that a disko script could trip over
    line.one("-nodefaults");
    line.two("-vga", "std");
    line.two("-display", "none");
    line.two("-action", "reboot=shutdown");
    line.file(
        "-qmp",
        "unix:",
        &folder.join("qmp.sock"),
        ",server=on,wait=off",
    );
    line.file(
        "-chardev",
        "file,id=serial,append=on,path=",
        &folder.join("serial.log"),
        "",
    );
    line.two("-serial", "chardev:serial");
    // through which a machine that begins from a state learns who it is
    line.file(
        "-chardev",
        "socket,id=identity,server=on,wait=off,path=",
        &folder.join(IDENTITY),
        "",
    );
    line.two("-serial", "chardev:identity");
    // tells a kernel that goes on from a state that its random numbers are known to others
    line.two("-device", "vmgenid,guid=auto");
    if spec.firmware == Firmware::Uefi {
        let vars = folder.join("ovmf-vars.fd");
        line.file(
            "-drive",
            "if=pflash,format=raw,readonly=on,file=",
            &parts.ovmf_code,
            "",
        );
        line.file("-drive", "if=pflash,format=raw,file=", &vars, "");
    }
    // a firmware that is not told tries the first disk and no other
    let boots = disk::bootable(folder, spec.disks_gib.len())?.filter(|_| boot == Boot::Disk);
    for index in 0..spec.disks_gib.len() {
        let disk = disk::name(index);
        let options = format!(",if=none,format=raw,discard=unmap,id={disk}");
        line.file("-drive", "file=", &disk::path(folder, index), &options);
        let first = if index > 0 && boots == Some(index) {
            ",bootindex=1"
        } else {
            ""
        };
        line.two(
            "-device",
            &format!("virtio-blk-pci,drive={disk},serial=rig-{disk}{first}"),
        );
    }
    if spec.years_ahead != 0 {
        line.two("-rtc", &format!("base={}", clock(spec.years_ahead)?));
    }
    let way_out = if spec.offline { ",restrict=on" } else { "" };
    line.two(
        "-netdev",
        &format!("user,id=net,hostfwd=tcp:{ssh}-:22{way_out}"),
    );
    line.two("-device", "virtio-net-pci,netdev=net");
    line.two("-device", "virtio-rng-pci");
    let kernel = match boot {
        Boot::Target | Boot::Bare => Some((&parts.target, format!("root=/dev/vda rw {CONSOLE}"))),
        Boot::Installer => Some((&parts.installer, CONSOLE.to_owned())),
        Boot::Disk => None,
    };
    if let Some((kernel, append)) = kernel {
        line.file("-kernel", "", &kernel.image, "");
        line.file("-initrd", "", &kernel.initrd, "");
        line.two("-append", &append);
    }
    Ok(line.0)
}

/// What a clock says that is so many years ahead of this host's, in the emulator's words.
fn clock(years_ahead: i32) -> Result<String> {
    let said = std::process::Command::new("date")
        .args(["--utc", "+%Y-%m-%dT%H:%M:%S"])
        .arg(format!("--date={years_ahead} years"))
        .output()
        .context("starting date")?;
    ensure!(said.status.success(), "date does not know that year");
    Ok(String::from_utf8(said.stdout)?.trim_end().to_owned())
}

struct Line(Vec<OsString>);

impl Line {
    fn one(&mut self, option: &str) {
        self.0.push(option.into());
    }

    fn two(&mut self, option: &str, value: &str) {
        self.0.extend([option.into(), value.into()]);
    }

    /// A path inside an option list; the emulator reads two commas as one.
    fn file(&mut self, option: &str, before: &str, path: &Path, after: &str) {
        let plain = before.is_empty() && after.is_empty();
        let mut value = OsString::from(before);
        match path.to_str() {
            Some(text) if !plain => value.push(text.replace(',', ",,")),
            _ => value.push(path),
        }
        value.push(after);
        self.0.extend([option.into(), value]);
    }
}

/// A port nobody has at the moment. Another program may take it before the emulator does; the
/// emulator then ends at once, and its keeper tries again.
fn free_port() -> Result<SocketAddr> {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("finding a free port")?;
    probe.local_addr().context("finding a free port")
}

fn last_words(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    last.unwrap_or("it said nothing").to_owned()
}

/// Writes a line of the rig's own into the serial log, so that boots can be told apart.
pub fn note(folder: &Path, text: &str) -> Result<()> {
    let path = folder.join("serial.log");
    let mut log: File = OpenOptions::new().create(true).append(true).open(&path)?;
    writeln!(log, "\n=== rig: {text} ===").with_context(|| format!("writing {}", path.display()))
}
