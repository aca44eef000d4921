//! Names in a flake that are not there, and what there is instead. Pure.

use landfall_proto::failure::Failure;

use super::Nix;
use crate::request::Flake;

/// Most configurations that are listed; more would hide the error.
const LISTED: usize = 20;

impl Nix {
    /// Refuses a name that is not among the flake's configurations. Evaluates none of them.
    pub async fn check_name(&self, flake: &Flake) -> Result<(), Failure> {
        let Some(name) = configuration(flake) else {
            return Ok(());
        };
        match self.names(flake).await {
            Ok(names) if names.contains(&name) => Ok(()),
            Ok(names) => Err(missing(flake, "", &names)),
            Err(error) if error.lacks_attribute() => Err(missing(flake, "", &[])),
            Err(error) => Err(error
                .causes_of(Failure::new(format!("cannot evaluate {}", flake.uri)).code("LF0364"))
                .hint(format!(
                    "see whether nix finds it: `nix flake show {}`",
                    flake.uri
                ))),
        }
    }
}

/// Says that disko has nothing to do.
pub(super) fn without_disks(failure: Failure) -> Failure {
    failure
        .hint("import the file with the disks: `modules = [ ./disk-config.nix … ]`")
        .hint("see what the configuration has: `disko.devices.disk`")
        .code("LF0363")
}

/// Says that an attribute is missing. `names` are the flake's configurations, empty when they are not known.
pub(super) fn missing(flake: &Flake, attribute: &str, names: &[String]) -> Failure {
    let wanted = configuration(flake);
    if let Some(name) = names.iter().find(|name| wanted.as_ref() == Some(name)) {
        let failure = Failure::new(format!("cannot find {attribute} in {flake}"))
            .because(format!("configuration {name} has no such attribute"))
            .code("LF0362");
        return if attribute.contains("disko") || attribute.ends_with("Script") {
            failure.hint("add disko's module to the configuration: `modules = [ disko.nixosModules.disko … ]`")
        } else {
            failure.hint(format!("see what there is: `nix repl {}`", flake.uri))
        };
    }
    let failure = match wanted {
        Some(name) => Failure::new(format!("cannot find {name} in {}", flake.uri))
            .because("the flake has no such configuration")
            .code("LF0361"),
        None => Failure::new(format!("cannot find {attribute} in {flake}")).code("LF0362"),
    };
    if names.is_empty() {
        return failure.hint(format!(
            "see what the flake has: `nix flake show {}`",
            flake.uri
        ));
    }
    let more = if names.len() > LISTED { ", …" } else { "" };
    let listed: Vec<String> = names
        .iter()
        .take(LISTED)
        .map(|name| format!("`--flake {}#{name}`", flake.uri))
        .collect();
    failure.hint(format!(
        "choose one that exists: {}{more}",
        listed.join(", ")
    ))
}

/// Returns the name of the configuration, where the flake was given by one.
fn configuration(flake: &Flake) -> Option<String> {
    let whole = flake.to_string();
    let name = whole
        .strip_prefix(&flake.uri)?
        .strip_prefix("#nixosConfigurations.")?
        .strip_suffix(".config")?;
    let bare = name
        .strip_prefix('"')
        .and_then(|name| name.strip_suffix('"'))
        .unwrap_or(name);
    Some(bare.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        vec!["demo".to_owned(), "other".to_owned()]
    }

    #[test]
    fn missing_configuration_lists_those_that_exist() {
        let failure = missing(
            &".#dmeo".parse().unwrap(),
            "system.build.toplevel",
            &names(),
        );
        assert_eq!(failure.what, "cannot find dmeo in .");
        assert_eq!(
            failure.hints,
            ["choose one that exists: `--flake .#demo`, `--flake .#other`"]
        );
    }

    #[test]
    fn configuration_without_disko_is_told_apart() {
        let failure = missing(
            &".#demo".parse().unwrap(),
            "system.build.diskoScript",
            &names(),
        );
        assert_eq!(
            failure.what,
            "cannot find system.build.diskoScript in .#nixosConfigurations.\"demo\".config"
        );
        assert_eq!(failure.causes, ["configuration demo has no such attribute"]);
        assert!(failure.hints[0].contains("disko.nixosModules.disko"));
    }

    #[test]
    fn unknown_configurations_are_not_listed() {
        let failure = missing(&"/x#demo".parse().unwrap(), "a", &[]);
        assert_eq!(
            failure.hints,
            ["see what the flake has: `nix flake show /x`"]
        );
    }
}
