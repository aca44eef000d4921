//! Looks at the machine and tells what it sees. Changes nothing.

mod kernel;
mod netlink;
mod network;
mod occupied;

use std::os::unix::fs::MetadataExt;

use landfall_proto::facts::{Facts, Firmware, Space};

use super::{Machine, TARGET, command::PATH, files, here::wall_clock, hostkeys::key_at};

/// Programs whose presence decides what can be done, or how.
const PROGRAMS: &[&str] = &[
    "sh",
    "bash",
    "ip",
    "kexec",
    "ssh-keygen",
    "sudo",
    "systemd-run",
    "udevadm",
    "blkid",
    "curl",
    "nix",
    "nix-daemon",
    "nix-store",
    "nixos-install",
    "nixos-generate-config",
    "nixos-facter",
    "zpool",
    "vgchange",
    "cryptsetup",
    "mdadm",
];

/// Without this capability nothing can be installed: `CAP_SYS_ADMIN` (capability.h).
const ADMIN: u64 = 1 << 21;
/// Without this one nothing can be booted: `CAP_SYS_BOOT`.
const BOOT: u64 = 1 << 22;

impl Machine {
    /// Returns all facts. A fact that cannot be read is absent.
    pub async fn facts(&self) -> Facts {
        let mut facts = self.blocking(Self::facts_but_disks).await;
        facts.disks = self.disks().await;
        facts
    }

    /// Returns the name of this boot.
    pub fn boot_id(&self) -> String {
        self.read("/proc/sys/kernel/random/boot_id")
            .unwrap_or_default()
    }

    /// Whether the running system is a NixOS installer.
    pub fn is_installer(&self) -> bool {
        is_installer(&self.os_release())
    }

    /// Returns how the machine booted.
    pub fn firmware(&self) -> Firmware {
        if self.at("/sys/firmware/efi").is_dir() {
            Firmware::Uefi
        } else {
            Firmware::Bios
        }
    }

    /// Returns the bytes of memory that programs can still have.
    pub fn memory_available(&self) -> u64 {
        meminfo(
            &self.read("/proc/meminfo").unwrap_or_default(),
            "MemAvailable",
        )
    }

    /// Whether the kernel refuses to load another one, until the next boot.
    pub fn kexec_load_disabled(&self) -> Option<bool> {
        Some(self.read("/proc/sys/kernel/kexec_load_disabled")?.trim() == "1")
    }

    /// Returns the active word of the kernel's lockdown.
    pub fn lockdown(&self) -> Option<String> {
        let text = self.read("/sys/kernel/security/lockdown")?;
        let (_, active) = text.split_once('[')?;
        Some(active.split_once(']')?.0.to_owned())
    }

    /// Returns where a program is found on the path.
    pub fn program(&self, name: &str) -> Option<String> {
        let places = PATH.split(':').map(|place| format!("{place}/{name}"));
        places.into_iter().find(|path| self.at(path).is_file())
    }

    fn facts_but_disks(&self) -> Facts {
        let uname = nix::sys::utsname::uname();
        let text = |value: &std::ffi::OsStr| value.to_string_lossy().into_owned();
        let release = self.os_release();
        let memory = self.read("/proc/meminfo").unwrap_or_default();
        let kernel = uname
            .as_ref()
            .map(|name| text(name.release()))
            .unwrap_or_default();
        Facts {
            arch: uname
                .as_ref()
                .map(|name| text(name.machine()))
                .unwrap_or_default(),
            os_id: os_release(&release, "ID").unwrap_or_default(),
            os_name: os_release(&release, "PRETTY_NAME").unwrap_or_default(),
            installer: is_installer(&release),
            boot_id: self.boot_id(),
            root: nix::unistd::geteuid().is_root() && self.may(ADMIN) == Some(true),
            may_boot: self.may(BOOT),
            systemd: self.at("/run/systemd/system").is_dir(),
            container: self.container(),
            hypervisor: self.hypervisor(),
            xen: self.xen(),
            board: self.read("/proc/device-tree/model"),
            cpus: self.cpus(),
            clock: Some(wall_clock()).filter(|seconds| *seconds > 0),
            firmware: self.firmware(),
            secure_boot: self.secure_boot(),
            lockdown: self.lockdown(),
            kexec_load_disabled: self.kexec_load_disabled(),
            kexec_supported: self.kexec_supported(),
            kexec_options: self.kexec_options(&kernel),
            ima_signed_kernels: self.ima_signed_kernels(),
            kcore: self
                .at("/proc")
                .is_dir()
                .then(|| self.at("/proc/kcore").exists()),
            kernel,
            memory_total: meminfo(&memory, "MemTotal"),
            memory_available: meminfo(&memory, "MemAvailable"),
            swap_total: memory
                .contains("SwapTotal:")
                .then(|| meminfo(&memory, "SwapTotal")),
            spool: self.spool_space(meminfo(&memory, "MemAvailable")),
            spill: self.spill_space(),
            disks: Vec::new(),
            interfaces: self.interfaces(),
            routes: self.routes(),
            extra_rules: self.extra_rules(),
            nameservers: self.nameservers(),
            programs: PROGRAMS
                .iter()
                .filter(|name| self.program(name).is_some())
                .map(|name| (*name).to_owned())
                .collect(),
            mounts: self.mounts_below(TARGET).iter().map(Into::into).collect(),
            host_keys: self.public_host_keys(),
            occupied: self.occupied(),
        }
    }

    /// Returns the public SSH host keys, one line each, of which the private one is there and nobody else's to read.
    ///
    /// sshd takes no other; a group of its own may read it on Fedora.
    pub fn public_host_keys(&self) -> Vec<String> {
        let is_kept = |private: &str| {
            let found = key_at(&self.at("/etc/ssh").join(private));
            found.is_some_and(|key| key.mode() & 0o037 == 0)
        };
        let names = self.names("/etc/ssh").into_iter();
        let names = names.filter(|name| {
            let private = name.strip_suffix(".pub");
            name.starts_with("ssh_host_") && private.is_some_and(is_kept)
        });
        names
            .filter_map(|name| self.read(&format!("/etc/ssh/{name}")))
            .collect()
    }

    fn os_release(&self) -> String {
        let places = ["/etc/os-release", "/usr/lib/os-release"];
        places
            .into_iter()
            .find_map(|path| self.read(path))
            .unwrap_or_default()
    }

    /// Whether this process has a capability.
    fn may(&self, capability: u64) -> Option<bool> {
        let status = self.read("/proc/self/status")?;
        let all = status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))?;
        let all = u64::from_str_radix(all.trim(), 16).ok()?;
        Some(all & capability != 0)
    }

    fn hypervisor(&self) -> Option<String> {
        let cpu = self.read("/proc/cpuinfo").unwrap_or_default();
        let flags = cpu.lines().find(|line| line.starts_with("flags"));
        let guest = flags
            .is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor"))
            || self.at("/proc/device-tree/hypervisor").exists();
        if !guest {
            return None;
        }
        let dmi = |file: &str| {
            self.read(&format!("/sys/class/dmi/id/{file}"))
                .unwrap_or_default()
        };
        let name = format!("{} {}", dmi("sys_vendor"), dmi("product_name"));
        let name = name.trim();
        Some(if name.is_empty() { "unknown" } else { name }.to_owned())
    }

    /// Returns how much room there is for what is sent to the agent.
    fn spool_space(&self, available: u64) -> Option<Space> {
        let room = self.room();
        let exists = room.ancestors().find(|path| path.is_dir())?;
        let there = Space {
            path: exists.to_str()?.to_owned(),
            kind: self.file_system(exists),
            free: files::free(exists).ok()?,
            held: files::taken(&room),
        };
        // an agent that stays makes itself room that the memory alone bounds
        Some(match self.wants_room() {
            true => Space {
                free: available,
                ..there
            },
            false => there,
        })
    }

    fn secure_boot(&self) -> Option<bool> {
        const NAME: &str =
            "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
        // four bytes of attributes, then the value (UEFI 2.10, 3.3)
        let value = std::fs::read(self.at(NAME)).ok()?;
        Some(*value.get(4)? == 1)
    }
}

/// Returns a field of os-release, without its quotes.
fn os_release(text: &str, name: &str) -> Option<String> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
    Some(value.trim().trim_matches(['"', '\'']).to_owned())
}

fn is_installer(text: &str) -> bool {
    let nixos =
        |name| os_release(text, name).is_some_and(|ids| ids.split(' ').any(|id| id == "nixos"));
    let installer = os_release(text, "VARIANT_ID").as_deref() == Some("installer");
    installer && (nixos("ID") || nixos("ID_LIKE"))
}

/// Returns a field of `/proc/meminfo`, in bytes.
fn meminfo(text: &str, name: &str) -> u64 {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let value = value.and_then(|value| value.trim().strip_suffix("kB"));
    value
        .and_then(|value| value.trim().parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, path::Path};

    use super::*;
    use crate::machine::command::Script;

    fn machine(root: &Path, files: &[(&str, &str)]) -> Machine {
        for (path, content) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        Machine::scripted(root, root, Script::default())
    }

    #[test]
    fn installer_is_known_by_its_variant() {
        let check = |text: &str, expected: bool| assert_eq!(is_installer(text), expected, "{text}");
        check(include_str!("../testdata/os-release/nixos-installer"), true);
        check(include_str!("../testdata/os-release/nixos"), false);
        check(include_str!("../testdata/os-release/debian"), false);
        check("ID=fedora\nVARIANT_ID=installer\n", false);
        check(
            "ID=mine\nID_LIKE=\"x nixos\"\nVARIANT_ID='installer'\n",
            true,
        );
    }

    #[test]
    fn names_of_systems_lose_their_quotes() {
        let text = include_str!("../testdata/os-release/debian");
        assert_eq!(os_release(text, "ID").as_deref(), Some("debian"));
        assert_eq!(
            os_release(text, "PRETTY_NAME").as_deref(),
            Some("Debian GNU/Linux 13 (trixie)")
        );
        assert_eq!(os_release(text, "VARIANT_ID"), None);
    }

    #[test]
    fn memory_is_counted_in_bytes() {
        let text = "MemTotal:        2014312 kB\nMemFree:  12 kB\nMemAvailable:    1804328 kB\n";
        assert_eq!(meminfo(text, "MemTotal"), 2_062_655_488);
        assert_eq!(meminfo(text, "MemAvailable"), 1_847_631_872);
        assert_eq!(meminfo(text, "Nothing"), 0);
    }

    #[tokio::test]
    async fn uefi_machine_with_secure_boot_is_told() {
        let root = tempfile::tempdir().unwrap();
        let variable = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
        let files = [
            (variable, "\u{6}\0\0\0\u{1}"),
            (
                "sys/kernel/security/lockdown",
                "none [integrity] confidentiality\n",
            ),
            ("proc/sys/kernel/kexec_load_disabled", "0\n"),
            ("proc/1/environ", "PATH=/bin\0container=lxc\0"),
            ("proc/cpuinfo", "flags\t\t: fpu hypervisor lm\n"),
            ("sys/class/dmi/id/sys_vendor", "QEMU\n"),
            ("etc/ssh/ssh_host_rsa_key.pub", "ssh-rsa AAAA root@old\n"),
            ("etc/ssh/ssh_host_rsa_key", "secret"),
            ("usr/bin/sh", ""),
        ];
        let machine = machine(root.path(), &files);
        let key = root.path().join("etc/ssh/ssh_host_rsa_key");
        let mode = |mode| fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        // sshd would not take it
        mode(0o644);
        assert_eq!(machine.public_host_keys(), [""; 0]);
        mode(0o640);
        let facts = machine.facts().await;
        assert_eq!(facts.firmware, Firmware::Uefi);
        assert_eq!(facts.secure_boot, Some(true));
        assert_eq!(facts.lockdown.as_deref(), Some("integrity"));
        assert_eq!(facts.kexec_load_disabled, Some(false));
        assert_eq!(facts.container.as_deref(), Some("lxc"));
        assert_eq!(facts.hypervisor.as_deref(), Some("QEMU"));
        assert_eq!(facts.host_keys, ["ssh-rsa AAAA root@old"]);
        assert_eq!(facts.programs, ["sh"]);
    }

    #[tokio::test]
    async fn bare_machine_has_few_facts() {
        let root = tempfile::tempdir().unwrap();
        let facts = machine(root.path(), &[]).facts().await;
        assert_eq!(facts.firmware, Firmware::Bios);
        assert_eq!(
            (facts.secure_boot, facts.lockdown, facts.container),
            (None, None, None)
        );
        assert!(!facts.installer && !facts.systemd && facts.disks.is_empty());
    }
}
