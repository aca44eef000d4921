//! What was asked for and will have no effect, or less than it seems: a sentence each, with the reason to go on.

use landfall_proto::order::DiskoMode;

use super::{BuildOn, HostKeyPolicy, Image, Kexec, Phase, Request, Source, StoreSetting};

impl Request {
    /// Returns what is to be said before anything is done, a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.remarks.clone();
        warnings.extend(self.without_phase());
        warnings.extend(self.without_work());
        let ours = self.login.options.iter().filter(|option| option.is_ours());
        warnings.extend(ours.map(|option| {
            let name = option.name();
            let why = match name.eq_ignore_ascii_case("BatchMode") {
                true => "landfall answers what ssh asks",
                false => "`--host-key-policy` decides about host keys",
            };
            format!("`--ssh-option {name}=…` has no effect; continuing because {why}")
        }));
        warnings.extend(self.nix.store_settings.iter().filter_map(|(name, _)| {
            let StoreSetting::Idle(reason) = StoreSetting::of(name) else {
                return None;
            };
            Some(format!(
                "`--ssh-store-setting {name}` has no effect; continuing because {reason}"
            ))
        }));
        if self.host_key == HostKeyPolicy::Off {
            warnings.push(
                "whoever answers is taken for the machine; continuing because `--host-key-policy off` asks for it"
                    .to_owned(),
            );
        }
        warnings
    }

    /// Options that belong to a phase that is not asked for.
    fn without_phase(&self) -> impl Iterator<Item = String> {
        let kexec = !self.phases.has(Phase::Kexec);
        let disko = !self.phases.has(Phase::Disko);
        let install = !self.phases.has(Phase::Install);
        let useless = [
            (
                kexec && self.kexec.image != Image::Default,
                "--kexec",
                "kexec",
            ),
            (
                kexec && !self.kexec.extra_flags.is_empty(),
                "--kexec-extra-flags",
                "kexec",
            ),
            (kexec && self.kexec.force, "--force-kexec", "kexec"),
            (
                kexec && self.kexec.return_after != Kexec::RETURN_AFTER,
                "--return-after",
                "kexec",
            ),
            (
                kexec && self.login.post_kexec_port.is_some(),
                "--post-kexec-ssh-port",
                "kexec",
            ),
            (
                disko && self.disko_mode != DiskoMode::Disko,
                "--disko-mode",
                "disko",
            ),
            (disko && !self.disko_deps, "--no-disko-deps", "disko"),
            (
                disko && !self.keys.is_empty(),
                "--disk-encryption-keys",
                "disko",
            ),
            (
                install && self.extra_files.is_some(),
                "--extra-files",
                "install",
            ),
            (install && self.keep_journal, "--keep-journal", "install"),
            (install && !self.owners.is_empty(), "--chown", "install"),
            (
                install && !self.host_keys_to.is_empty(),
                "--copy-host-keys",
                "install",
            ),
            (install && !self.verify, "--no-verify", "install"),
            (install && !self.boot_check, "--no-boot-check", "install"),
        ];
        let useless = useless.into_iter().filter(|(useless, ..)| *useless);
        useless.map(|(_, option, phase)| {
            format!("`{option}` has no effect; continuing because phase {phase} is not asked for")
        })
    }

    /// Options that are about building and copying, where nothing is built or copied.
    fn without_work(&self) -> impl Iterator<Item = String> {
        let disko = self.phases.has(Phase::Disko);
        let copies = disko || self.phases.has(Phase::Install);
        let built = matches!(self.source, Some(Source::StorePaths { .. }));
        let idle = "neither phase disko nor phase install is asked for";
        let boots = self.phases.has(Phase::Kexec) || self.phases.has(Phase::Reboot);
        let stays = "neither phase kexec nor phase reboot is asked for";
        let done = "`--store-paths` names what is built already";
        let remote = self.nix.build_on == BuildOn::Remote;
        let useless = [
            (!copies && self.nix.from.is_some(), "--from", idle),
            (
                !boots && self.boot_timeout.is_some(),
                "--boot-timeout",
                stays,
            ),
            (!copies && remote, "--build-on remote", idle),
            (built && copies && remote, "--build-on remote", done),
            (!copies && self.detach, "--detach", idle),
            (
                !built && copies && remote && self.nix.from.is_some(),
                "--from",
                "the machine builds for itself",
            ),
            (
                !copies && !self.nix.substitute,
                "--no-substitute-on-destination",
                idle,
            ),
            (built && disko && !self.disko_deps, "--no-disko-deps", done),
        ];
        let useless = useless.into_iter().filter(|(useless, ..)| *useless);
        let useless = useless
            .map(|(_, option, why)| format!("`{option}` has no effect; continuing because {why}"));
        let unknown = (built && self.hardware.is_some()).then(|| {
            format!("what is installed does not know the hardware configuration; continuing because {done}")
        });
        useless.chain(unknown)
    }
}
