//! What the running kernel says of itself: whether it can start another one, and who might forbid it.

use std::io::Read;

use flate2::read::GzDecoder;

use super::super::Machine;

/// Largest kernel configuration that is read; seen: 290 KB.
const CONFIG_MAX: u64 = 2 << 20;

impl Machine {
    /// Whether this kernel can start another one; not known where sysfs is not mounted.
    pub(super) fn kexec_supported(&self) -> Option<bool> {
        if !self.at("/sys/kernel").is_dir() {
            return None;
        }
        let files = ["/sys/kernel/kexec_loaded", "/sys/kernel/kexec/loaded"];
        Some(files.iter().any(|path| self.at(path).exists()))
    }

    /// Returns which options that begin with `KEXEC` are set in the kernel's configuration, where it is found.
    pub(super) fn kexec_options(&self, release: &str) -> Option<Vec<String>> {
        let places = [
            "/proc/config.gz".to_owned(),
            format!("/boot/config-{release}"),
            format!("/lib/modules/{release}/config"),
            format!("/usr/lib/modules/{release}/config"),
        ];
        let text = places.iter().find_map(|path| self.configuration(path))?;
        let set = text.lines().filter_map(|line| {
            let (name, value) = line.strip_prefix("CONFIG_")?.split_once('=')?;
            (name.starts_with("KEXEC") && matches!(value, "y" | "m")).then(|| name.to_owned())
        });
        Some(set.collect())
    }

    /// Whether IMA wants kernels to be signed: by the policy, where it may be read, or by what the kernel was told.
    pub(super) fn ima_signed_kernels(&self) -> Option<bool> {
        if !self.at("/sys/kernel/security").is_dir() {
            return None;
        }
        let cmdline = self.read("/proc/cmdline").unwrap_or_default();
        let told = cmdline.split_whitespace().any(|word| {
            let policies = word.strip_prefix("ima_policy=");
            policies.is_some_and(|policies| policies.split('|').any(|name| name == "secure_boot"))
        });
        let lenient = ["off", "log", "fix"].map(|mode| format!("ima_appraise={mode}"));
        if cmdline
            .split_whitespace()
            .any(|word| lenient.iter().any(|mode| word == mode))
        {
            return Some(false);
        }
        if told {
            return Some(true);
        }
        if !self.at("/sys/kernel/security/ima").is_dir() {
            return Some(false);
        }
        // most kernels let nobody read it
        let policy = self.read("/sys/kernel/security/ima/policy")?;
        let rule =
            |line: &str| line.starts_with("appraise") && line.contains("func=KEXEC_KERNEL_CHECK");
        Some(policy.lines().any(rule))
    }

    /// Returns what kind of guest of Xen this is.
    pub(super) fn xen(&self) -> Option<String> {
        if self.read("/sys/hypervisor/type").as_deref() != Some("xen") {
            return None;
        }
        let capabilities = self.read("/proc/xen/capabilities").unwrap_or_default();
        if capabilities.contains("control_d") {
            return Some("dom0".to_owned());
        }
        Some(
            self.read("/sys/hypervisor/guest_type")
                .unwrap_or_else(|| "unknown".to_owned()),
        )
    }

    /// Returns how many processors run: `0-3,5` are five.
    pub(super) fn cpus(&self) -> Option<u32> {
        let online = self.read("/sys/devices/system/cpu/online")?;
        let range = |range: &str| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            last.checked_sub(first)?.checked_add(1)
        };
        online
            .split(',')
            .map(range)
            .try_fold(0_u32, |sum, count| sum.checked_add(count?))
    }

    /// Returns the kind of container, as far as one shows.
    pub(super) fn container(&self) -> Option<String> {
        if let Some(kind) = self.read("/run/systemd/container") {
            return Some(kind);
        }
        let environ = self.read("/proc/1/environ").unwrap_or_default();
        let named = environ
            .split('\0')
            .find_map(|entry| entry.strip_prefix("container="))
            .filter(|kind| !kind.is_empty());
        if let Some(kind) = named {
            return Some(kind.to_owned());
        }
        let has = |path: &str| self.at(path).exists();
        let release = self.read("/proc/sys/kernel/osrelease").unwrap_or_default();
        let kind = if has("/proc/vz") && !has("/proc/bc") {
            "openvz"
        } else if release.contains("Microsoft") || release.contains("WSL") {
            "wsl"
        } else if has("/run/.containerenv") {
            "podman"
        } else if has("/.dockerenv") {
            "docker"
        } else {
            return None;
        };
        Some(kind.to_owned())
    }

    fn configuration(&self, path: &str) -> Option<String> {
        let file = std::fs::File::open(self.at(path)).ok()?;
        let mut text = String::new();
        let read = if path.ends_with(".gz") {
            GzDecoder::new(file)
                .take(CONFIG_MAX)
                .read_to_string(&mut text)
        } else {
            file.take(CONFIG_MAX).read_to_string(&mut text)
        };
        read.ok().map(|_| text)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use flate2::{Compression, write::GzEncoder};

    use crate::machine::{Machine, stage::Stage};

    const CONFIG: &str = "CONFIG_KEXEC_CORE=y\n# CONFIG_KEXEC is not set\nCONFIG_KEXEC_FILE=y\nCONFIG_KEXEC_SIG_FORCE=y\nCONFIG_X=y\n";

    #[test]
    fn kernel_that_can_start_another_says_so() {
        let check = |files: &[&str], expected: Option<bool>| {
            let stage = files
                .iter()
                .fold(Stage::new(), |stage, path| stage.file(path, "0\n"));
            assert_eq!(stage.machine().kexec_supported(), expected, "{files:?}");
        };
        check(&[], None);
        check(&["sys/kernel/mm"], Some(false));
        check(&["sys/kernel/kexec_loaded"], Some(true));
        check(&["sys/kernel/kexec/loaded"], Some(true));
    }

    #[test]
    fn configuration_is_found_plain_and_compressed() {
        let set = ["KEXEC_CORE", "KEXEC_FILE", "KEXEC_SIG_FORCE"].map(str::to_owned);
        let options = |machine: &Machine| machine.kexec_options("6.1");
        let none = Stage::new();
        assert_eq!(options(&none.machine()), None);
        let plain = Stage::new().file("boot/config-6.1", CONFIG);
        assert_eq!(options(&plain.machine()), Some(set.to_vec()));
        let packed = Stage::new().file("proc/uptime", "");
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(CONFIG.as_bytes()).unwrap();
        fs::write(packed.root().join("proc/config.gz"), gzip.finish().unwrap()).unwrap();
        assert_eq!(options(&packed.machine()), Some(set.to_vec()));
    }

    #[test]
    fn policy_that_wants_signed_kernels_is_seen() {
        let check = |files: &[(&str, &str)], expected: Option<bool>| {
            let stage = files
                .iter()
                .fold(Stage::new(), |stage, (path, text)| stage.file(path, text));
            let seen = stage.machine().ima_signed_kernels();
            assert_eq!(seen, expected, "{files:?}");
        };
        let policy = "sys/kernel/security/ima/policy";
        check(&[], None);
        check(&[("sys/kernel/security/lsm", "x")], Some(false));
        check(&[("sys/kernel/security/ima/violations", "0\n")], None);
        check(
            &[(policy, "measure func=KEXEC_KERNEL_CHECK\n")],
            Some(false),
        );
        let rule = "dont_measure x\nappraise func=KEXEC_KERNEL_CHECK appraise_type=imasig\n";
        check(&[(policy, rule)], Some(true));
        let cmdline = ("proc/cmdline", "quiet ima_policy=tcb|secure_boot\n");
        check(&[("sys/kernel/security/lsm", "x"), cmdline], Some(true));
        let lenient = ("proc/cmdline", "ima_policy=secure_boot ima_appraise=log\n");
        check(&[(policy, rule), lenient], Some(false));
    }

    #[test]
    fn guests_of_xen_are_told_apart() {
        let xen = || Stage::new().file("sys/hypervisor/type", "xen\n");
        assert_eq!(Stage::new().machine().xen(), None);
        let guest = xen().file("sys/hypervisor/guest_type", "PV\n");
        assert_eq!(guest.machine().xen().as_deref(), Some("PV"));
        let first = guest.file("proc/xen/capabilities", "control_d\n");
        assert_eq!(first.machine().xen().as_deref(), Some("dom0"));
        assert_eq!(xen().machine().xen().as_deref(), Some("unknown"));
    }

    #[test]
    fn processors_are_counted_over_gaps() {
        let check = |online: &str, expected: Option<u32>| {
            let stage = Stage::new().file("sys/devices/system/cpu/online", online);
            assert_eq!(stage.machine().cpus(), expected, "{online}");
        };
        check("0\n", Some(1));
        check("0-3,5\n", Some(5));
        check("3-0\n", None);
        check("x\n", None);
    }

    #[test]
    fn containers_are_known_by_their_marks() {
        let check = |path: &str, text: &str, expected: Option<&str>| {
            let stage = Stage::new().file(path, text);
            assert_eq!(stage.machine().container().as_deref(), expected, "{path}");
        };
        check("proc/1/environ", "PATH=/bin\0container=lxc\0", Some("lxc"));
        check("proc/1/environ", "PATH=/bin\0container=\0", None);
        check(
            "run/systemd/container",
            "systemd-nspawn\n",
            Some("systemd-nspawn"),
        );
        check("proc/vz/veinfo", "", Some("openvz"));
        check(".dockerenv", "", Some("docker"));
        let wsl = "5.15.90.1-microsoft-standard-WSL2\n";
        check("proc/sys/kernel/osrelease", wsl, Some("wsl"));
        check("proc/sys/kernel/osrelease", "6.1.0-28-amd64\n", None);
    }
}
