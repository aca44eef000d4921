//! Makes the copied system the one that boots, and looks whether it will.

use engine::step::{Context, Done, Repeat, Step};
use landfall_proto::{facts::Firmware, failure::Failure, order::StorePath};
use serde::{Deserialize, Serialize};

use crate::machine::{
    Machine, TARGET,
    bootloader::{Bootable, Unbootable},
    command::{Command, Ended},
};

/// What programs say when a boot loader was not installed, although some of them then end with code 0.
const BAD_SIGNS: &[&str] = &[
    "No space left on device",
    "grub-install: error",
    "is not a FAT EFI System Partition",
    "Could not prepare Boot variable",
    "Failed to install bootloader",
];

/// What stands in a line of which its own program says that it does no harm, as `bootctl --graceful` does.
const HARMLESS: &str = "ignoring";

/// Makes a system the one that boots.
#[derive(Debug)]
pub struct Install<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// The system, complete in the store below `/mnt`.
    pub system: &'a StorePath,
    /// How the machine boots.
    pub firmware: Firmware,
    /// Whether the system may refuse to be installed.
    pub check: bool,
    /// Whether it is refused where nothing is found that boots it.
    pub boot_check: bool,
}

/// A system that will boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// The system.
    pub system: StorePath,
    /// How it will be booted; none where that was not found, and was not asked for.
    pub bootable: Option<Bootable>,
}

impl Step for Install<'_> {
    const NAME: &'static str = "install";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = Installed;

    async fn run(&self, cx: &Context) -> Result<Done<Installed>, Failure> {
        self.machine.forget_seal()?;
        self.machine.blocking(Machine::prepare_target).await?;
        let mut said = Said::default();
        let warning = match self.machine.program("nixos-install") {
            Some(program) => self.by_nixos_install(program, cx, &mut said).await?,
            None => self.by_ourselves(cx, &mut said).await?,
        };
        if let Some(line) = said.bad {
            return Err(Failure::new("cannot install the boot loader")
                .because(format!("it said: {line}"))
                .hint("the lines above show what it did; correct the cause and run the same command again")
                .code("LF1602"));
        }
        let (bootable, doubt) = match self.look().await? {
            Ok(bootable) => (Some(bootable), None),
            Err(failure) if self.boot_check => return Err(failure),
            Err(failure) => (None, Some(failure)),
        };
        let doubt = doubt.map(|failure| {
            format!(
                "{}; continuing because of `--no-boot-check`",
                failure.in_one_line()
            )
        });
        let warnings: Vec<String> = warning.into_iter().chain(doubt).collect();
        let installed = Installed {
            system: self.system.clone(),
            bootable,
        };
        Ok(match warnings.is_empty() {
            true => Done::new(installed),
            false => Done::warned(installed, warnings.join(" · ")),
        })
    }

    async fn still_true(&self, proof: &Installed) -> bool {
        let now = match self.look().await {
            Ok(Ok(bootable)) => Some(bootable),
            Ok(Err(_)) if !self.boot_check => None,
            _ => return false,
        };
        proof.system == *self.system && proof.bootable == now
    }
}

impl Install<'_> {
    async fn by_nixos_install(
        &self,
        program: String,
        cx: &Context,
        said: &mut Said,
    ) -> Result<Option<String>, Failure> {
        let command = Command::new(program)
            .args([
                "--no-root-passwd",
                "--no-channel-copy",
                "--system",
                self.system.as_str(),
            ])
            .args(["--root", TARGET]);
        let command = self.unchecked(command);
        self.run(&command, cx, said)
            .await?
            .success("cannot install the system")
            .map_err(|failure| failure.code("LF1603"))?;
        Ok(None)
    }

    async fn by_ourselves(&self, cx: &Context, said: &mut Said) -> Result<Option<String>, Failure> {
        let token = cx.cancel_token();
        self.machine.set_system_profile(self.system, &token).await?;
        let activate = self.machine.inside_target(self.system, "activate");
        let activate = self.unchecked(activate);
        // what it says is not about the boot loader
        let activated = self.run(&activate, cx, &mut Said::default()).await?;
        let switch = self
            .machine
            .inside_target(self.system, "bin/switch-to-configuration")
            .arg("boot")
            .env("NIXOS_INSTALL_BOOTLOADER", "1");
        let switch = self.unchecked(switch);
        self.run(&switch, cx, said).await?.success("cannot install the boot loader").map_err(
            |failure| {
                failure
                    .hint("the lines above show what it did; correct the cause and run the same command again")
                    .code("LF1602")
            },
        )?;
        // parts of an activation may need a system that runs; all of it is done again at every boot
        let warning =
            "the activation did not end well; continuing because it is done again at every boot";
        Ok((!activated.ok()).then(|| warning.to_owned()))
    }

    /// Tells the system's own programs to refuse nothing, where that was asked for.
    fn unchecked(&self, command: Command) -> Command {
        match self.check {
            true => command,
            false => command.env("NIXOS_NO_CHECK", "1"),
        }
    }

    async fn run(
        &self,
        command: &Command,
        cx: &Context,
        said: &mut Said,
    ) -> Result<Ended, Failure> {
        let token = cx.cancel_token();
        let told = |line: &str| {
            said.hear(line);
            cx.line(line);
        };
        let mut told = told;
        self.machine
            .programs()
            .run(command, &token, |_, line| told(line))
            .await
    }

    /// Looks how the system will be booted. The outer error is one that nobody can pass over: it is another system, or half
    /// of one.
    async fn look(&self) -> Result<Result<Bootable, Failure>, Failure> {
        let (system, firmware) = (self.system.clone(), self.firmware);
        let look = move |machine: &Machine| {
            machine.sync();
            match machine.system_profile() {
                Some(found) if found == system => match machine.bootable(&system, firmware) {
                    Ok(bootable) => Ok(Ok(bootable)),
                    Err(Unbootable::Unknown(failure)) => Ok(Err(failure)),
                    Err(Unbootable::Broken(failure)) => Err(failure),
                },
                found => {
                    let found = found.map_or_else(|| "nothing".to_owned(), |path| path.to_string());
                    Err(Failure::new(format!("cannot boot {}", system.base_name()))
                        .because(format!("the system profile leads to {found}"))
                        .code("LF1601"))
                }
            }
        };
        self.machine.blocking(look).await
    }
}

/// What was heard from programs that is not to be believed silently.
#[derive(Debug, Default)]
struct Said {
    bad: Option<String>,
}

impl Said {
    fn hear(&mut self, line: &str) {
        let is_bad = BAD_SIGNS.iter().any(|sign| line.contains(sign));
        if self.bad.is_none() && is_bad && !line.contains(HARMLESS) {
            self.bad = Some(line.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{machine::stage::Stage, steps::rehearsal::run};

    const SYSTEM: &str = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-nixos-system-x";

    /// A target on which the boot loader is as it should be.
    fn stage() -> Stage {
        let entry = format!("linux /k\ninitrd /i\noptions init={SYSTEM}/init\n");
        Stage::new()
            .mounted()
            .link("mnt/nix/var/nix/profiles/system", SYSTEM)
            .file("mnt/boot/loader/entries/nixos-generation-1.conf", &entry)
            .file("mnt/boot/k", "kernel")
            .file("mnt/boot/i", "initrd")
            .file("mnt/boot/EFI/BOOT/BOOTX64.EFI", "x")
    }

    async fn install(stage: &Stage, firmware: Firmware) -> Result<Installed, Failure> {
        let (machine, system) = (stage.machine(), SYSTEM.parse().unwrap());
        run(&Install {
            machine: &machine,
            system: &system,
            firmware,
            check: true,
            boot_check: true,
        })
        .await
    }

    fn by_nixos_install(answer: Ended) -> Stage {
        stage()
            .file("usr/bin/nixos-install", "")
            .answer("/usr/bin/nixos-install", answer)
    }

    #[tokio::test]
    async fn installer_with_nixos_install_uses_it() {
        let stage = by_nixos_install(Ended::answer(0, "installation finished!\n", ""));
        let installed = install(&stage, Firmware::Uefi).await.unwrap();
        assert_eq!(installed.bootable.unwrap().loader, "systemd-boot");
        let line = format!(
            "/usr/bin/nixos-install --no-root-passwd --no-channel-copy --system {SYSTEM} --root /mnt"
        );
        assert_eq!(stage.asked(), [line]);
        assert_eq!(stage.read("mnt/etc/NIXOS"), "");
    }

    #[tokio::test]
    async fn boot_loader_that_failed_is_a_failure_whatever_its_exit_code() {
        let full = Ended::answer(
            0,
            "",
            "cp: error writing '/boot/k': No space left on device",
        );
        let failure = install(&by_nixos_install(full), Firmware::Uefi)
            .await
            .unwrap_err();
        assert_eq!(failure.code, "LF1602");
        assert_eq!(
            failure.causes[0],
            "it said: cp: error writing '/boot/k': No space left on device"
        );

        let nothing_done = by_nixos_install(Ended::answer(0, "", "")).file("mnt/boot/k", "");
        assert_eq!(
            install(&nothing_done, Firmware::Uefi)
                .await
                .unwrap_err()
                .code,
            "LF1601"
        );
    }

    #[tokio::test]
    async fn line_that_says_that_it_does_no_harm_is_believed() {
        let said =
            "Unable to write 'LoaderSystemToken' EFI variable, ignoring: No space left on device";
        let stage = by_nixos_install(Ended::answer(0, "", said));
        assert!(install(&stage, Firmware::Uefi).await.is_ok());
    }

    #[tokio::test]
    async fn boot_loader_that_nobody_knows_is_taken_only_where_that_was_asked_for() {
        let stage = Stage::new()
            .mounted()
            .link("mnt/nix/var/nix/profiles/system", SYSTEM)
            .file("usr/bin/nixos-install", "")
            .answer("/usr/bin/nixos-install", Ended::answer(0, "", ""));
        let (machine, system) = (stage.machine(), SYSTEM.parse().unwrap());
        let with = |boot_check| Install {
            machine: &machine,
            system: &system,
            firmware: Firmware::Uefi,
            check: true,
            boot_check,
        };
        assert_eq!(run(&with(true)).await.unwrap_err().code, "LF1601");
        let installed = run(&with(false)).await.unwrap();
        assert_eq!(installed.bootable, None);
        assert!(with(false).still_true(&installed).await);
        assert!(!with(true).still_true(&installed).await);
    }

    #[tokio::test]
    async fn another_system_in_the_profile_is_a_failure() {
        let stage = Stage::new()
            .mounted()
            .file("usr/bin/nixos-install", "")
            .answer("/usr/bin/nixos-install", Ended::answer(0, "", ""));
        let failure = install(&stage, Firmware::Uefi).await.unwrap_err();
        assert_eq!(failure.causes, ["the system profile leads to nothing"]);
    }

    #[tokio::test]
    async fn installer_without_nixos_install_needs_none() {
        let activate = format!("{SYSTEM}/activate");
        let switch = format!("{SYSTEM}/bin/switch-to-configuration boot");
        let stage = stage()
            .nix(&[("nix-env", Ended::answer(0, "", ""))])
            .answer(&activate, Ended::answer(1, "", "no such user"))
            .answer(&switch, Ended::answer(0, "", ""));
        install(&stage, Firmware::Uefi).await.unwrap();
        let profile =
            "/usr/bin/nix-env --store local?root=/mnt -p /mnt/nix/var/nix/profiles/system --set";
        assert_eq!(
            stage.asked(),
            [format!("{profile} {SYSTEM}"), activate, switch]
        );
    }

    #[test]
    fn system_is_told_to_refuse_nothing_only_where_that_was_asked_for() {
        let (machine, system) = (Stage::new().machine(), SYSTEM.parse().unwrap());
        let told = |check| {
            let install = Install {
                machine: &machine,
                system: &system,
                firmware: Firmware::Uefi,
                check,
                boot_check: true,
            };
            format!("{:?}", install.unchecked(Command::new("x"))).contains("NIXOS_NO_CHECK")
        };
        assert_eq!((told(true), told(false)), (false, true));
    }
}
