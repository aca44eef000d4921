//! Describes the hardware, by the program that the operator chose.

use std::time::Duration;

use landfall_proto::{
    failure::Failure,
    order::{Describer, StorePath},
    wire::DESCRIPTION_MAX,
};

use super::{Machine, command::Command};

/// Probing every bus of a large server takes a minute.
const DEADLINE: Duration = Duration::from_secs(300);

impl Machine {
    /// Returns what the program writes, and its complaints; nowhere given, it is the installer's own.
    ///
    /// What is returned was written by a program that ended well. Whether it makes sense is not looked at.
    pub async fn describe(
        &self,
        describer: Describer,
        at: Option<&StorePath>,
    ) -> Result<(Vec<u8>, String), Failure> {
        let name = describer.name();
        let what = format!("cannot describe the hardware by {name}");
        let program = match at {
            Some(path) => format!("{path}/bin/{name}"),
            None => self.program(name).unwrap_or_default(),
        };
        if !self.at(&program).is_file() {
            return Err(Failure::new(what)
                .because(match at {
                    Some(path) => format!("{path} has no such program in the installer's store"),
                    None => "the installer has no such program".to_owned(),
                })
                .hint("use an installer that has it, such as the stock image: `--kexec`")
                .code("LF1321"));
        }
        let arguments: &[&str] = match describer {
            Describer::GenerateConfig => &["--show-hardware-config", "--no-filesystems"],
            Describer::Facter => &[],
        };
        let command = Command::new(program)
            .args(arguments.iter().copied())
            .deadline(DEADLINE);
        let captured = self.programs().capture(&command, DESCRIPTION_MAX as u64);
        let (output, ended) = captured
            .await
            .map_err(|failure| failure.under(what.clone()).code("LF1321"))?;
        match ended.ok() {
            true => Ok((output, ended.stderr)),
            false => Err(ended.failure(&what).code("LF1321")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{command::Ended, stage::Stage};

    const STORE: &str = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-nixos-facter";

    #[tokio::test]
    async fn program_is_the_one_that_was_sent_or_the_installers_own() {
        let generate = "/usr/bin/nixos-generate-config --show-hardware-config --no-filesystems";
        let facter = format!("{STORE}/bin/nixos-facter");
        let stage = Stage::new()
            .file("usr/bin/nixos-generate-config", "")
            .file(&facter[1..], "")
            .answer(generate, Ended::answer(0, "{ }\n", "no such bus\n"))
            .answer(&facter, Ended::answer(0, "{}", ""));
        let machine = stage.machine();
        let module = machine.describe(Describer::GenerateConfig, None).await;
        assert_eq!(module, Ok((b"{ }\n".to_vec(), "no such bus\n".to_owned())));
        let path: StorePath = STORE.parse().unwrap();
        let report = machine.describe(Describer::Facter, Some(&path)).await;
        assert_eq!(report, Ok((b"{}".to_vec(), String::new())));
        let missing = machine.describe(Describer::Facter, None).await.unwrap_err();
        assert_eq!(missing.code, "LF1321");
        assert_eq!(stage.asked().len(), 2);
    }

    #[tokio::test]
    async fn half_a_description_is_none() {
        let stage = Stage::new().file("usr/bin/nixos-facter", "").answer(
            "/usr/bin/nixos-facter",
            Ended::answer(1, "{", "cannot probe"),
        );
        let failure = stage
            .machine()
            .describe(Describer::Facter, None)
            .await
            .unwrap_err();
        let expected = [
            "running /usr/bin/nixos-facter",
            "exit code 1",
            "cannot probe",
        ];
        assert_eq!(failure.causes, expected);
    }
}
