//! From the configuration to what is ordered: evaluated here, built where it can be.

use landfall_proto::{
    failure::Failure,
    order::{DiskoMode, NixSettings, StorePath},
};

use super::Bench;
use crate::{
    local::nix::{Derivation, Nix, Origin},
    request::{BuildOn, Phase, Source},
};

const SYSTEM: &str = "system.build.toplevel";

/// What is to be installed, evaluated and not yet built.
#[derive(Debug, Clone, Default)]
pub(in crate::phases) struct Evaluated {
    disko: Option<Made>,
    /// The script that mounts what an earlier boot has formatted.
    again: Option<Made>,
    system: Option<Made>,
}

/// One of the two things that are installed.
#[derive(Debug, Clone)]
enum Made {
    /// It is in a store already.
    Before(StorePath),
    /// It has to be built.
    Now(Derivation),
}

/// What is to be installed, and where each comes from.
#[derive(Debug, Clone, Default)]
pub(in crate::phases) struct Outputs {
    pub(in crate::phases) disko: Option<(StorePath, Origin)>,
    pub(in crate::phases) again: Option<(StorePath, Origin)>,
    pub(in crate::phases) system: Option<(StorePath, Origin)>,
}

impl Bench<'_> {
    /// Evaluates what the phases need. Everything that is wrong with the configuration shows here.
    pub(in crate::phases) async fn evaluate(&mut self) -> Result<Evaluated, Failure> {
        let request = &self.desk.request;
        if !request.phases.has(Phase::Disko) && !request.phases.has(Phase::Install) {
            return Ok(Evaluated::default());
        }
        let nix = self.desk.nix()?;
        let script = request.phases.has(Phase::Disko);
        let script = script.then(|| script_of(request.disko_mode, request.disko_deps));
        let again = self.follows;
        let again = again.then(|| script_of(DiskoMode::Mount, request.disko_deps));
        let system = request.phases.has(Phase::Install);
        let system = system.then(|| SYSTEM.to_owned());
        match &request.source {
            Some(Source::Flake(flake)) => {
                let wanted = [&script, &again, &system];
                let wanted: Vec<String> = wanted.into_iter().flatten().cloned().collect();
                self.cx.waiting("the configuration to be evaluated");
                let survey = nix.survey(flake, &wanted, self.cx).await?;
                let mut made = survey.derivations.into_iter().map(Made::Now);
                self.seen = Some((survey.devices, survey.caches));
                Ok(Evaluated {
                    disko: script.and_then(|_| made.next()),
                    again: again.and_then(|_| made.next()),
                    system: system.and_then(|_| made.next()),
                })
            }
            Some(Source::StorePaths {
                disko: script_path,
                system: system_path,
            }) => {
                if again.is_some() {
                    return Err(nothing_mounts());
                }
                let mut evaluated = Evaluated::default();
                if script.is_some() {
                    evaluated.disko = Some(Made::Before(nix.check_path(script_path).await?));
                }
                if system.is_some() {
                    evaluated.system = Some(Made::Before(nix.check_path(system_path).await?));
                }
                Ok(evaluated)
            }
            // a request is checked: no phase of these is asked for
            None => Ok(Evaluated::default()),
        }
    }

    /// Evaluates what can be while the hardware configuration is not there yet: whether there is such a configuration.
    pub(super) async fn look_ahead(&self) -> Result<(), Failure> {
        match &self.desk.request.source {
            Some(Source::Flake(flake)) => self.desk.nix()?.check_name(flake).await,
            _ => Ok(()),
        }
    }

    /// Builds what is built here, and decides what is built on the machine.
    pub(in crate::phases) async fn build(
        &mut self,
        evaluated: Evaluated,
    ) -> Result<Outputs, Failure> {
        let first = [&evaluated.system, &evaluated.disko];
        if first.iter().all(|made| made.is_none()) {
            return Ok(Outputs::default());
        }
        let nix = self.desk.nix()?;
        let there = match first.into_iter().flatten().find_map(Made::derivation) {
            Some(derivation) => self.builds_there(&nix, &derivation.system).await?,
            None => false,
        };
        let mut outputs = Outputs::default();
        if let Some(made) = evaluated.disko {
            outputs.disko = Some(self.output(&nix, made, there).await?);
        }
        if let Some(made) = evaluated.again {
            outputs.again = Some(self.output(&nix, made, there).await?);
        }
        if let Some(made) = evaluated.system {
            outputs.system = Some(self.output(&nix, made, there).await?);
        }
        Ok(outputs)
    }

    async fn output(
        &self,
        nix: &Nix,
        made: Made,
        there: bool,
    ) -> Result<(StorePath, Origin), Failure> {
        let derivation = match made {
            Made::Before(path) => return Ok((path, Origin::Copied)),
            Made::Now(derivation) => derivation,
        };
        if there {
            let path = derivation.path.clone();
            let path = path.ok_or_else(|| unknown(&derivation))?;
            return Ok((path, Origin::BuiltThere(derivation)));
        }
        if nix.copies_from_elsewhere()
            && let Some(path) = &derivation.path
            && nix.has(path).await
        {
            return Ok((path.clone(), Origin::Copied));
        }
        self.cx.waiting(format!("{} to be built", derivation.drv));
        let path = nix.realise(&derivation, self.cx).await?;
        nix.check_source(&path).await?;
        Ok((path, Origin::Copied))
    }

    /// Decides whether the machine builds for itself.
    async fn builds_there(&mut self, nix: &Nix, system: &str) -> Result<bool, Failure> {
        let machine = &self.facts.arch;
        match self.desk.request.nix.build_on {
            BuildOn::Local => Ok(false),
            BuildOn::Remote => {
                if !system.is_empty() && !runs(machine, system) {
                    self.warnings.push(format!(
                        "the configuration is built on {system}, and the machine is {machine}; continuing because `--build-on remote` asks for it"
                    ));
                }
                Ok(true)
            }
            BuildOn::Auto if system.is_empty() => Ok(false),
            BuildOn::Auto => {
                if nix.can_build(system, self.cx).await {
                    return Ok(false);
                }
                if runs(machine, system) {
                    self.desk.screen.note(&format!(
                        "the machine builds for itself: neither this one nor its builders build for {system}"
                    ));
                    return Ok(true);
                }
                Err(Failure::new(format!("cannot find where to build for {system}"))
                    .because(format!(
                        "neither this machine nor its builders do, and the machine to install is {machine}"
                    ))
                    .hint("name a builder: `--option builders 'ssh://HOST SYSTEM'`")
                    .hint("build it elsewhere, and name the results: `--store-paths DISKO SYSTEM`")
                    .code("LF0371"))
            }
        }
    }

    /// Returns from where the installer's nix may fetch, as the configuration says.
    pub(in crate::phases) fn caches(&mut self) -> NixSettings {
        let options = &self.desk.request.nix;
        if !options.machine_substituters || !options.substitute {
            return NixSettings::default();
        }
        match self.seen.take() {
            Some((_, Some(caches))) => caches,
            Some((_, None)) => {
                self.warnings.push(
                    "the configuration does not say from which caches it fetches; continuing because the installer knows some"
                        .to_owned(),
                );
                NixSettings::default()
            }
            None => NixSettings::default(),
        }
    }
}

impl Made {
    fn derivation(&self) -> Option<&Derivation> {
        match self {
            Self::Now(derivation) => Some(derivation),
            Self::Before(_) => None,
        }
    }
}

/// Returns the attribute of the script that disko makes for a mode, with its programs or without.
fn script_of(mode: DiskoMode, deps: bool) -> String {
    let mode = match mode {
        DiskoMode::Disko => "disko",
        DiskoMode::Format => "format",
        DiskoMode::Mount => "mount",
    };
    let deps = if deps { "" } else { "NoDeps" };
    format!("system.build.{mode}Script{deps}")
}

/// Whether a machine with this processor runs builders for a system, as far as its kernel is concerned.
fn runs(machine: &str, system: &str) -> bool {
    system == format!("{machine}-linux") || (machine == "x86_64" && system == "i686-linux")
}

/// Paths that were named one by one have no script that only mounts.
fn nothing_mounts() -> Failure {
    Failure::new("refusing to format the disks a second time")
        .because("an earlier command of this run has begun to change them, in a boot of the machine that is over")
        .because("`--store-paths` names no script that mounts what the disko script made")
        .hint("name the configuration itself: `landfall --flake '.#NAME' --disko-mode mount HOST` mounts what is there, and formats nothing")
        .hint("`--fresh` begins a new run, and erases the disks again")
        .code("LF0903")
}

fn unknown(derivation: &Derivation) -> Failure {
    Failure::new(format!("cannot order {}", derivation.drv))
        .because("where it will be is known only once it is built")
        .hint("build it here: `--build-on local`")
        .code("LF0372")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn script_is_chosen_by_mode_and_dependencies() {
        assert_eq!(
            script_of(DiskoMode::Disko, true),
            "system.build.diskoScript"
        );
        assert_eq!(
            script_of(DiskoMode::Mount, true),
            "system.build.mountScript"
        );
        assert_eq!(
            script_of(DiskoMode::Format, false),
            "system.build.formatScriptNoDeps"
        );
    }

    #[test]
    fn machine_builds_for_its_own_processor() {
        assert!(runs("x86_64", "x86_64-linux") && runs("x86_64", "i686-linux"));
        assert!(runs("aarch64", "aarch64-linux"));
        assert!(!runs("x86_64", "aarch64-linux") && !runs("x86_64", "x86_64-darwin"));
    }
}
