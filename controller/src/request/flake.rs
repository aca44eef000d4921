//! A configuration of a flake, and the attributes that are looked up in it.

use std::{fmt, str::FromStr};

use super::Invalid;

/// A NixOS configuration of a flake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flake {
    /// The flake, as Nix takes it.
    pub uri: String,
    /// Attribute path of the configuration's `config`.
    config: String,
}

impl Flake {
    /// Returns what Nix takes for an attribute below the configuration's `config`, such as `system.build.toplevel`.
    pub fn attribute(&self, below: &str) -> String {
        format!("{}#{}.{below}", self.uri, self.config)
    }

    /// Returns what Nix takes for an attribute of the configuration itself, such as `pkgs.stdenv.hostPlatform.system`.
    ///
    /// None for an attribute path that was given verbatim and does not end in `config`.
    pub fn beside_config(&self, below: &str) -> Option<String> {
        let configuration = self.config.strip_suffix(".config")?;
        Some(format!("{}#{configuration}.{below}", self.uri))
    }
}

impl fmt::Display for Flake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.uri, self.config)
    }
}

impl FromStr for Flake {
    type Err = Invalid;

    /// Splits at the last `#`. A name that does not begin with `nixosConfigurations.` is that of a configuration.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (uri, name) = text.rsplit_once('#').unwrap_or((text, ""));
        if name.is_empty() {
            return Err(Invalid(format!(
                "it names no configuration; to install `nixosConfigurations.foo`, append `#foo`: `{uri}#foo` [LF0411]"
            )));
        }
        if text.contains(char::is_control) {
            return Err(Invalid("it contains a control character".to_owned()));
        }
        let uri = if uri.is_empty() { "." } else { uri };
        Ok(Self {
            uri: uri.to_owned(),
            config: config(name)?,
        })
    }
}

fn config(name: &str) -> Result<String, Invalid> {
    if name
        .strip_prefix("nixosConfigurations.")
        .is_some_and(|rest| !rest.is_empty())
    {
        return Ok(name.to_owned());
    }
    let quoted = name
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    let bare = quoted.unwrap_or(name);
    if bare.is_empty() || bare.contains(['"', '\\', '#']) || bare.contains("${") {
        return Err(Invalid(format!("`{name}` is no name of a configuration")));
    }
    Ok(format!("nixosConfigurations.\"{bare}\".config"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(text.parse::<Flake>().unwrap().attribute("x"), expected);
    }

    #[test]
    fn name_becomes_a_configuration() {
        check(".#demo", ".#nixosConfigurations.\"demo\".config.x");
        check("#demo", ".#nixosConfigurations.\"demo\".config.x");
        check(".#my.host", ".#nixosConfigurations.\"my.host\".config.x");
        check(
            ".#\"my.host\"",
            ".#nixosConfigurations.\"my.host\".config.x",
        );
        check(
            "git+file:/a#b#demo",
            "git+file:/a#b#nixosConfigurations.\"demo\".config.x",
        );
        check(
            "github:a/b?dir=c#demo",
            "github:a/b?dir=c#nixosConfigurations.\"demo\".config.x",
        );
    }

    #[test]
    fn whole_attribute_path_is_kept() {
        check(
            ".#nixosConfigurations.m.config.virtualisation.vmVariant",
            ".#nixosConfigurations.m.config.virtualisation.vmVariant.x",
        );
    }

    #[test]
    fn what_lies_beside_config_is_found_only_where_there_is_one() {
        let flake: Flake = ".#demo".parse().unwrap();
        assert_eq!(
            flake.beside_config("pkgs.system").unwrap(),
            ".#nixosConfigurations.\"demo\".pkgs.system"
        );
        let flake: Flake = ".#nixosConfigurations.m.config.a".parse().unwrap();
        assert_eq!(flake.beside_config("pkgs.system"), None);
    }

    #[test]
    fn missing_name_says_what_to_append() {
        for text in [".", ".#", "github:a/b"] {
            let error = text.parse::<Flake>().unwrap_err().to_string();
            assert!(error.contains("append `#foo`"), "{error}");
        }
    }

    #[test]
    fn names_that_would_end_the_quotes_are_refused() {
        for text in [
            ".#a\"b",
            ".#a${b}",
            ".#a\\b",
            ".#\"\"",
            ".#nixosConfigurations.\n",
            ".#a\u{7}",
        ] {
            assert!(text.parse::<Flake>().is_err(), "{text:?}");
        }
    }
}
