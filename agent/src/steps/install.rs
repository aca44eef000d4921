//! Makes the copied system the one that boots, and looks whether it will.

use engine::step::{Context, Done, Repeat, Step};
use landfall_proto::{facts::Firmware, failure::Failure, order::StorePath};
use serde::{Deserialize, Serialize};

use crate::machine::{
    Machine, TARGET,
    bootloader::Bootable,
    command::{Command, Ended},
};

/// What programs say when a boot loader was not installed, although some of them then end with code 0.
const BAD_SIGNS: &[&str] = &[
    "No space left on device",
    "grub-install: error",
    "is not a FAT EFI System Partition",
    "Could not prepare Boot variable",
    "Failed to install bootloader",
    "Traceback (most recent call last)",
];

/// Makes a system the one that boots.
#[derive(Debug)]
pub struct Install<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// The system, complete in the store below `/mnt`.
    pub system: &'a StorePath,
    /// How the machine boots.
    pub firmware: Firmware,
}

/// A system that will boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// The system.
    pub system: StorePath,
    /// How it will be booted.
    pub bootable: Bootable,
}

impl Step for Install<'_> {
    const NAME: &'static str = "install";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = Installed;

    async fn run(&self, cx: &Context) -> Result<Done<Installed>, Failure> {
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
                .code("LF0602"));
        }
        let bootable = self.look().await?;
        let installed = Installed {
            system: self.system.clone(),
            bootable,
        };
        Ok(match warning {
            None => Done::new(installed),
            Some(warning) => Done::warned(installed, warning),
        })
    }

    async fn still_true(&self, proof: &Installed) -> bool {
        proof.system == *self.system && self.look().await.is_ok_and(|now| now == proof.bootable)
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
        self.run(&command, cx, said)
            .await?
            .success("cannot install the system")?;
        Ok(None)
    }

    async fn by_ourselves(&self, cx: &Context, said: &mut Said) -> Result<Option<String>, Failure> {
        let token = cx.cancel_token();
        self.machine.set_system_profile(self.system, &token).await?;
        let activate = self.machine.inside_target(self.system, "activate");
        let activated = self.run(&activate, cx, said).await?;
        let switch = self
            .machine
            .inside_target(self.system, "bin/switch-to-configuration")
            .arg("boot")
            .env("NIXOS_INSTALL_BOOTLOADER", "1");
        self.run(&switch, cx, said).await?.success("cannot install the boot loader").map_err(
            |failure| {
                failure
                    .hint("the lines above show what it did; correct the cause and run the same command again")
                    .code("LF0602")
            },
        )?;
        // parts of an activation may need a system that runs; all of it is done again at every boot
        let warning =
            "the activation did not end well; continuing because it is done again at every boot";
        Ok((!activated.ok()).then(|| warning.to_owned()))
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

    async fn look(&self) -> Result<Bootable, Failure> {
        let (system, firmware) = (self.system.clone(), self.firmware);
        let look = move |machine: &Machine| {
            machine.sync();
            match machine.system_profile() {
                Some(found) if found == system => machine.bootable(&system, firmware),
                found => {
                    let found = found.map_or_else(|| "nothing".to_owned(), |path| path.to_string());
                    Err(Failure::new(format!("cannot boot {}", system.base_name()))
                        .because(format!("the system profile leads to {found}"))
                        .code("LF0601"))
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
        if self.bad.is_none() && BAD_SIGNS.iter().any(|sign| line.contains(sign)) {
            self.bad = Some(line.to_owned());
        }
    }
}
