//! Lets the machine describe its hardware, and writes that into the operator's configuration.

use std::path::PathBuf;

use engine::step::{Context, Done, Repeat, Step};
use landfall_proto::{
    failure::Failure,
    order::{Describer, StorePath, StoreRoot},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    desk::{Desk, Reached},
    local::hardware::{self, Change},
    request::{self, Backend},
};

/// Describes the hardware.
#[derive(Debug)]
pub struct Hardware<'a> {
    /// What all phases share.
    pub desk: &'a Desk,
    /// The installer.
    pub machine: &'a Reached,
}

/// A description of hardware that was written. Journaled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Described {
    /// The file; none where none was asked for.
    pub path: Option<PathBuf>,
}

impl Step for Hardware<'_> {
    const NAME: &'static str = "hardware";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = Described;

    async fn run(&self, cx: &Context) -> Result<Done<Described>, Failure> {
        self.machine.check_installer()?;
        let Some(wanted) = &self.desk.request.hardware else {
            return Ok(Done::skipped(
                Described { path: None },
                "no hardware configuration is asked for",
            ));
        };
        let (report, mut warnings) = self.report(wanted, cx).await?;
        let change = hardware::write(&wanted.path, &report)?;
        cx.line(match change {
            Change::New => format!("{} is new", wanted.path.display()),
            Change::Changed => format!("{} has changed", wanted.path.display()),
            Change::Same => format!("{} stays the same", wanted.path.display()),
        });
        if let Err(failure) = hardware::show_to_git(&wanted.path).await {
            let cause = failure.causes.join(": ");
            warnings.push(format!(
                "{failure}: {cause}; continuing because a flake that is no git repository sees it all the same"
            ));
        }
        let described = Described {
            path: Some(wanted.path.clone()),
        };
        Ok(match warnings.is_empty() {
            true => Done::new(described),
            false => Done::warned(described, warnings.join(" · ")),
        })
    }

    async fn still_true(&self, proof: &Described) -> bool {
        // what somebody has corrected by hand since then is kept
        let is_there = proof.path.as_ref().is_some_and(|path| path.is_file());
        self.desk.past.is_done || is_there
    }
}

impl Hardware<'_> {
    /// Returns a whole and valid description, and what should be known about it.
    async fn report(
        &self,
        wanted: &request::Hardware,
        cx: &Context,
    ) -> Result<(Vec<u8>, Vec<String>), Failure> {
        let describer = match wanted.backend {
            Backend::GenerateConfig => Describer::GenerateConfig,
            Backend::Facter => Describer::Facter,
        };
        let program = self.program(describer, cx).await?;
        cx.waiting(format!("{} to describe the hardware", describer.name()));
        let described = self.desk.describe(describer, program.as_ref()).await?;
        let (report, complaints) = (described.output, described.complaints);
        let complaints: Vec<&str> = complaints.lines().map(str::trim).collect();
        complaints.iter().for_each(|line| cx.line(*line));
        self.check(describer, &report).await.map_err(|failure| {
            failure
                .under(format!("cannot use what {} wrote", describer.name()))
                .hint(format!("{} is as it was", wanted.path.display()))
                .hint(format!(
                    "see what it says: `ssh root@{} {}`",
                    self.desk.request.target.host,
                    command(describer)
                ))
                .code("LF0381")
        })?;
        let last = complaints.iter().rev().find(|line| !line.is_empty());
        let warnings = last.map(|line| {
            format!(
                "{} complains: {line}; continuing because what it wrote is whole",
                describer.name()
            )
        });
        Ok((report, warnings.into_iter().collect()))
    }

    /// Brings nixos-facter to an installer that has none, and returns where it is there.
    async fn program(
        &self,
        describer: Describer,
        cx: &Context,
    ) -> Result<Option<StorePath>, Failure> {
        let facts = self.desk.inspect().await?;
        let has = |name: &str| facts.programs.iter().any(|program| program == name);
        if describer != Describer::Facter || has(describer.name()) {
            return Ok(None);
        }
        let nix = self.desk.nix()?;
        cx.waiting("nixos-facter to be built: the installer has none");
        let built = nix.facter(&facts.arch, cx).await.map_err(|failure| {
            failure
                .under("cannot find nixos-facter")
                .hint("use an installer that has it: `--kexec FILE|URL`")
                .hint("let nixos-generate-config do it: `--generate-hardware-config nixos-generate-config FILE`")
                .code("LF0382")
        })?;
        let socket = self.desk.store(StoreRoot::Installer).await?;
        nix.copy_own(&socket.path(), &built, cx).await?;
        Ok(Some(built))
    }

    async fn check(&self, describer: Describer, report: &[u8]) -> Result<(), Failure> {
        if report.trim_ascii().is_empty() {
            return Err(Failure::new("it wrote nothing"));
        }
        match describer {
            Describer::Facter => check_json(report),
            Describer::GenerateConfig => self.desk.nix()?.check_syntax(report).await,
        }
    }
}

/// Refuses what is no object of JSON.
fn check_json(report: &[u8]) -> Result<(), Failure> {
    match serde_json::from_slice(report) {
        Ok(Value::Object(_)) => Ok(()),
        Ok(_) => Err(Failure::new("reading JSON").because("it is no object")),
        Err(error) => Err(Failure::new("reading JSON").caused_by(&error)),
    }
}

/// Returns what a person types to see the same.
fn command(describer: Describer) -> &'static str {
    match describer {
        Describer::GenerateConfig => {
            "nixos-generate-config --show-hardware-config --no-filesystems"
        }
        Describer::Facter => "nixos-facter",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_is_one_whole_object() {
        assert!(check_json(b"{\"version\":1}\n").is_ok());
        for torn in ["", "{\"version\":1", "[]", "null", "copying path\n{}"] {
            assert!(check_json(torn.as_bytes()).is_err(), "{torn}");
        }
    }
}
