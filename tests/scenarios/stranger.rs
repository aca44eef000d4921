//! Whatever answers after kexec is not believed before it has shown who it is.
//!
//! Covers: controller/src/remote/host_key.rs, controller/src/remote/wait.rs.
//! Covers: controller/src/phases/connect.rs.

use std::{fs, path::PathBuf, process::Command};

use landfall_tests::{
    install::ROOT,
    machine::spec::{Boot, Spec},
    watched::{Told, Watched, is},
};
use tempfile::TempDir;

use super::{LONG, Site};

/// Says that it has loaded a kernel, and has not.
const BOASTS: &str = "#!/bin/sh\necho 'machine will boot into nixos in 6s...'\n";
/// Comes after the host keys were gathered for the installer.
const GATHERED: &str = "ip=$here/ip\n";
const OTHER_KEY: &str =
    "rm -f ssh/ssh_host_*; ssh-keygen -q -t ed25519 -N '' -f ssh/ssh_host_ed25519_key\n";

#[test]
#[cfg_attr(
    not(feature = "scenarios"),
    ignore = "starts a machine; `cargo verify --all` runs it"
)]
fn machine_that_is_not_the_installer_that_was_booted_is_not_worked_on() {
    let site = Site::new(Spec::of(Boot::Target));
    let images = Images::new(&site);
    let boot = site.said("cat /proc/sys/kernel/random/boot_id");

    // the old system is still there
    let told = images.kexec(&images.boasting(), &["--boot-timeout", "60s"]);
    assert_eq!(told.code, Some(1), "{}", told.stderr);
    let last = "caused by: the last try: the old system still answers";
    assert!(told.stderr.contains(last), "{}", told.stderr);
    let seen = |record: &&serde_json::Value| {
        let what = record["what"].as_str().unwrap_or_default();
        is(record, "kexec", "waiting") && what.contains("the old system still answers")
    };
    assert!(told.records.iter().any(|record| seen(&record)));
    assert!(!told.is_over("kexec"));
    assert_eq!(site.said("cat /proc/sys/kernel/random/boot_id"), boot);

    // what comes up has another host key than the machine had
    let told = images.kexec(&images.with_another_key(), &[]);
    assert_eq!(
        (told.code, told.failure()),
        (Some(1), Some("LF0106")),
        "{}",
        told.stderr
    );
    assert!(told.stderr.contains("another host key"), "{}", told.stderr);
    assert!(!told.is_over("kexec"));
    assert_eq!(told.begun("disko"), 0);
    // it was the installer, to which the observer's key opens too
    let release = site.said("cat /etc/os-release; ls /run/landfall 2>&1 || true");
    assert!(release.contains("VARIANT_ID=installer"), "{release}");
    assert!(
        release.contains("No such file"),
        "it was worked on: {release}"
    );
    site.leaves_nothing_here();
}

/// Images that are not what they seem.
struct Images<'a> {
    site: &'a Site,
    folder: TempDir,
}

impl<'a> Images<'a> {
    fn new(site: &'a Site) -> Self {
        let folder = TempDir::with_prefix("images-").unwrap();
        Self { site, folder }
    }

    /// Boots an image, and nothing else.
    fn kexec(&self, image: &PathBuf, more: &[&str]) -> Told {
        let mut landfall =
            self.site
                .operator
                .landfall_as(&self.site.assets, &self.site.machine, ROOT);
        landfall.args(["--json", "--phases", "kexec", "--kexec"]);
        landfall.arg(image).args(more);
        Watched::start(&mut landfall).unwrap().end(LONG).unwrap()
    }

    fn boasting(&self) -> PathBuf {
        let place = self.folder.path().join("boasting");
        fs::create_dir_all(place.join("kexec")).unwrap();
        for name in ["bzImage", "initrd", "kexec"] {
            fs::write(place.join("kexec").join(name), "a few bytes").unwrap();
        }
        self.packed("boasting", BOASTS)
    }

    fn with_another_key(&self) -> PathBuf {
        let place = self.folder.path().join("key");
        fs::create_dir(&place).unwrap();
        tar(&[
            "-xzf",
            text(&self.site.assets.installer_tarball()),
            "-C",
            text(&place),
        ]);
        let run = fs::read_to_string(place.join("kexec/run")).unwrap();
        assert_eq!(run.matches(GATHERED).count(), 1);
        let run = run.replace(GATHERED, &format!("{OTHER_KEY}{GATHERED}"));
        self.packed("key", &run)
    }

    /// Puts a folder with this script into a tarball.
    fn packed(&self, name: &str, run: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let place = self.folder.path().join(name);
        let script = place.join("kexec/run");
        fs::write(&script, run).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let image = self.folder.path().join(format!("{name}.tar"));
        tar(&["-cf", text(&image), "-C", text(&place), "kexec"]);
        image
    }
}

fn tar(words: &[&str]) {
    assert!(Command::new("tar").args(words).status().unwrap().success());
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}
