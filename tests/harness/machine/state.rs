//! Machines that have booted once and are kept standing still: what another one begins from, in
//! seconds.
//!
//! A state is a folder named by the hash of everything it came from: disks, firmware variables, memory
//! and the state of the devices, all of one moment. It is made when it is first asked for. What begins
//! from it has the same past and an identity of its own: host keys, machine id, boot id, clock and
//! random numbers ([`identity`](super::identity)).

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{
    Machine, disk, identity,
    qemu::{DEVICES, MEMORY},
    spec::{Begin, Boot, Parts, Spec},
};
use crate::assets::Assets;

/// A system logs in and comes to rest within this; seen: 50 s beside two others.
const RESTS: Duration = Duration::from_secs(240);

/// Waits until nothing is being started any more, where there is somebody to ask.
const REST: &str = "command -v systemctl > /dev/null || exit 0; systemctl is-system-running --wait";

/// A state takes half a gigabyte; seen: some days between two looks at a branch.
const FORGOTTEN: Duration = Duration::from_secs(4 * 24 * 3600);

const ABOUT: &str = "state.json";
const FIRMWARE: &str = "ovmf-vars.fd";

/// What is known of a state beside its files.
#[derive(Debug, Serialize, Deserialize)]
pub struct About {
    /// Where in its memory its boot id stands, in each of its forms.
    pub places: [Vec<u64>; 3],
    /// Which host keys it has, such as `ed25519`.
    pub keys: Vec<String>,
}

impl About {
    /// Reads what is known of the state in `folder`.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join(ABOUT);
        let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("parsing {}", path.display()))
    }
}

/// Returns how a machine of this kind begins: from a state, which is made if there is none, or with
/// power, where a state would not do.
///
/// Blocks, while another process makes it too.
pub fn begin(assets: &Assets, spec: &Spec) -> Result<Begin> {
    let Some(state) = place(assets, spec)? else {
        return Ok(Begin::PowerOn);
    };
    fs::create_dir_all(assets.states()).context("making the folder of states")?;
    let lock = state.with_extension("lock");
    let lock = File::create(&lock).with_context(|| format!("opening {}", lock.display()))?;
    lock.lock().context("waiting for another who makes it")?;
    if !state.join(ABOUT).exists() {
        make(assets, spec, &state).context("making a state of a machine")?;
        forget(&assets.states());
    }
    // used: not to be forgotten soon
    File::open(&state)
        .and_then(|folder| folder.set_modified(SystemTime::now()))
        .context("touching the state")?;
    Ok(Begin::Resume { state })
}

/// Whether a machine of this kind begins at once.
pub fn is_there(assets: &Assets, spec: &Spec) -> Result<bool> {
    let state = place(assets, spec)?;
    Ok(state.is_none_or(|state| state.join(ABOUT).exists()))
}

/// Where the state of such a machine is kept, if one would do.
fn place(assets: &Assets, spec: &Spec) -> Result<Option<PathBuf>> {
    // the next kernel would ask the clock of the state; and its own disks are nobody else's
    if spec.years_ahead != 0 || spec.boot == Boot::Disk {
        return Ok(None);
    }
    let parts = Parts::pick(assets, spec)?;
    Ok(Some(assets.states().join(name(spec, &parts)?)))
}

/// Removes states that no machine has begun from for long: their rig has changed since.
fn forget(states: &Path) {
    for entry in fs::read_dir(states).into_iter().flatten().flatten() {
        let used = entry.metadata().and_then(|about| about.modified());
        let age = used.ok().and_then(|used| used.elapsed().ok());
        if age.is_some_and(|age| age > FORGOTTEN) && entry.path().join(ABOUT).exists() {
            // one that stays costs room and nothing else
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Fills the folder of a new machine from a state.
pub fn copy(state: &Path, folder: &Path, disks: usize) -> Result<()> {
    let about = About::load(state)?;
    std::thread::scope(|scope| {
        let memory = scope.spawn(|| {
            let memory = folder.join(MEMORY);
            disk::copy_sparse(&state.join(MEMORY), &memory)?;
            identity::give_boot_id(&memory, &about)
        });
        for index in 0..disks {
            disk::copy_sparse(&disk::path(state, index), &disk::path(folder, index))?;
        }
        if state.join(FIRMWARE).exists() {
            fs::copy(state.join(FIRMWARE), folder.join(FIRMWARE)).context("copying variables")?;
        }
        memory.join().expect("copying does not panic")
    })
}

/// Says which machine it is a state of: all that it is made from, and how the rig makes it.
fn name(spec: &Spec, parts: &Parts) -> Result<String> {
    // how it reaches the world is not the machine's business
    let spec = Spec {
        offline: false,
        ..spec.clone()
    };
    let mut hasher = blake3::Hasher::new();
    for text in [
        include_str!("state.rs"),
        include_str!("identity.rs"),
        include_str!("qemu.rs"),
        &serde_json::to_string(&(&spec, parts))?,
    ] {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    let hash = hasher.finalize().to_hex();
    Ok(format!("{}-{}", spec.boot.name(), &hash[..16]))
}

/// Boots a machine, lets it come to rest, and keeps it.
fn make(assets: &Assets, spec: &Spec, state: &Path) -> Result<()> {
    let machine = Machine::begun(assets, spec.clone(), Begin::Saveable)?;
    machine.wait_ssh(RESTS)?;
    machine.ssh_login().run_within(REST, RESTS)?;
    let said = |command: &str| -> Result<String> {
        let output = machine.ssh(command)?;
        let complained = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{command}: {complained}");
        Ok(String::from_utf8(output.stdout)?)
    };
    let keys = said("cd /etc/ssh && ls ssh_host_*_key")?;
    let keys = keys.lines().filter_map(|file| {
        file.strip_prefix("ssh_host_")?
            .strip_suffix("_key")
            .map(str::to_owned)
    });
    let keys = keys.collect();
    let boot_id = identity::boot_id(&said("cat /proc/sys/kernel/random/boot_id")?)?;
    said(identity::LISTEN)?;
    machine.save()?;

    let draft = state.with_extension("new");
    if draft.exists() {
        fs::remove_dir_all(&draft).context("clearing a state that was not finished")?;
    }
    fs::create_dir(&draft).context("making a state's folder")?;
    let folder = machine.folder();
    for index in 0..spec.disks_gib.len() {
        let path = disk::path(folder, index);
        fs::rename(&path, disk::path(&draft, index)).context("keeping a disk")?;
    }
    for name in [DEVICES, FIRMWARE] {
        let file = folder.join(name);
        if file.exists() {
            fs::rename(&file, draft.join(name)).with_context(|| format!("keeping {name}"))?;
        }
    }
    // pages of zeros are left out
    disk::copy_sparse(&folder.join(MEMORY), &draft.join(MEMORY))?;
    let mut places = [const { Vec::new() }; 3];
    for (places, form) in places.iter_mut().zip(identity::forms(&boot_id)) {
        *places = identity::places(&draft.join(MEMORY), &form)?;
    }
    ensure!(!places[0].is_empty(), "its memory has no boot id");
    let about = About { places, keys };
    fs::write(draft.join(ABOUT), serde_json::to_vec(&about)?).context("writing about a state")?;
    fs::rename(&draft, state).context("moving a state into place")
}
