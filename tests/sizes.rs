//! What the programs weigh: on the wire, in memory, and in what they need from a machine.
//!
//! The agent is measured as it travels, the controller as a user builds it.
//!
//! Covers: Cargo.toml, Cargo.lock.

use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use landfall_tests::{assets::Assets, binaries, patience};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
/// At 1 Mbit/s this is 48 s, the longest that anybody should wait before something happens.
const AGENT: u64 = 6_000_000;
/// Rescue systems have 256 MiB in all, most of it taken.
const AGENT_MEMORY: u64 = 32 * MIB;
/// Seen: 13.3 MB, with symbols.
const CONTROLLER: u64 = 20_000_000;

const X86_64: &str = "landfall-agent-x86_64-linux-musl";
const AARCH64: &str = "landfall-agent-aarch64-linux-musl";

#[test]
#[cfg_attr(
    not(feature = "machines"),
    ignore = "needs the rig's agent; `cargo verify` runs it"
)]
fn agent_is_small_and_needs_no_library_and_no_loader() {
    small_and_alone(&agents().join(X86_64), 62);
}

#[test]
#[cfg_attr(
    not(feature = "scenarios"),
    ignore = "builds another agent; `cargo verify --all` runs it"
)]
fn agent_for_aarch64_is_small_and_needs_no_library_and_no_loader() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let agents = Assets::prepare_all(repository).unwrap().foreign_agents();
    small_and_alone(&agents.join(AARCH64), 183);
}

/// Under six megabytes, and for this processor.
fn small_and_alone(agent: &Path, machine: u64) {
    let size = size(agent);
    println!("{}: {size} bytes", agent.display());
    assert!(size < AGENT, "{size} bytes");
    let elf = Elf(fs::read(agent).unwrap());
    assert_eq!(elf.machine(), machine, "it is for another processor");
    assert!(!elf.has_segment(PT_INTERP), "it wants a loader");
    assert!(!elf.needs_libraries(), "it wants libraries");
}

#[test]
#[cfg_attr(
    not(feature = "machines"),
    ignore = "needs the rig's agents; `cargo verify` runs it"
)]
fn idle_agent_uses_less_than_32_mib() {
    let agent = IdleAgent::start(&agents().join(X86_64));
    let most = agent.most_memory();
    println!("idle agent: {} KiB at most", most / 1024);
    assert!(most < AGENT_MEMORY, "{most} bytes");
}

#[test]
#[cfg_attr(
    not(feature = "scenarios"),
    ignore = "builds the release; `cargo verify --all` runs it"
)]
fn controller_is_under_twenty_megabytes() {
    let size = size(binaries::released_controller());
    println!("landfall: {size} bytes");
    assert!(size < CONTROLLER, "{size} bytes");
}

fn agents() -> PathBuf {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    Assets::prepare(repository).unwrap().agents()
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

/// An agent that nobody has called yet, which sees no other process and no mount of this host.
struct IdleAgent {
    folder: TempDir,
    /// Takes the agent with it.
    guard: Child,
}

impl IdleAgent {
    fn start(program: &Path) -> Self {
        let folder = TempDir::with_prefix("idle-").unwrap();
        // a copy: what it is called tells it from every other agent
        fs::copy(program, folder.path().join("agent")).unwrap();
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]);
        unshare.arg("--").arg(folder.path().join("agent"));
        unshare
            .arg("serve")
            .arg("--dir")
            .arg(folder.path().join("dir"));
        let guard = unshare.stdin(Stdio::null()).spawn().unwrap();
        let agent = Self { folder, guard };
        let socket = agent.folder.path().join("dir/agent.sock");
        patience::until("the agent to listen", Duration::from_secs(30), || {
            Ok(UnixStream::connect(&socket).ok())
        })
        .unwrap();
        agent
    }

    /// The most it ever held in memory, in bytes.
    fn most_memory(&self) -> u64 {
        let program = self.folder.path().join("agent");
        let processes = fs::read_dir("/proc")
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let runs = |path: &PathBuf| fs::read_link(path.join("exe")).is_ok_and(|exe| exe == program);
        let process = processes.into_iter().find(runs).unwrap();
        let status = fs::read_to_string(process.join("status")).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = peak.unwrap().trim().strip_suffix(" kB").unwrap();
        kib.parse::<u64>().unwrap() * 1024
    }
}

impl Drop for IdleAgent {
    fn drop(&mut self) {
        let _ = self.guard.kill();
        let _ = self.guard.wait();
    }
}

const PT_DYNAMIC: u64 = 2;
const PT_INTERP: u64 = 3;
const DT_NEEDED: u64 = 1;

/// A program for a 64-bit little-endian machine.
struct Elf(Vec<u8>);

impl Elf {
    fn number(&self, at: u64, bytes: usize) -> u64 {
        let at = usize::try_from(at).unwrap();
        let mut number = [0; 8];
        number[..bytes].copy_from_slice(&self.0[at..at + bytes]);
        u64::from_le_bytes(number)
    }

    fn machine(&self) -> u64 {
        assert_eq!(self.0[..6], *b"\x7fELF\x02\x01");
        self.number(18, 2)
    }

    /// Offset of each program header.
    fn segments(&self) -> impl Iterator<Item = u64> {
        let (table, size, count) = (self.number(32, 8), self.number(54, 2), self.number(56, 2));
        (0..count).map(move |index| table + index * size)
    }

    fn has_segment(&self, kind: u64) -> bool {
        self.segments().any(|header| self.number(header, 4) == kind)
    }

    fn needs_libraries(&self) -> bool {
        // a program that can be loaded anywhere has a dynamic segment, with its own relocations
        let dynamic = self
            .segments()
            .filter(|header| self.number(*header, 4) == PT_DYNAMIC);
        let entries = dynamic.flat_map(|header| {
            let (start, length) = (self.number(header + 8, 8), self.number(header + 32, 8));
            (start..start + length).step_by(16)
        });
        entries
            .into_iter()
            .any(|entry| self.number(entry, 8) == DT_NEEDED)
    }
}
