//! From a configuration to a path in a store: evaluated here, built here or behind a socket.
//!
//! What was evaluated is what is built: a build names the derivation, so that a flake that changes meanwhile changes
//! nothing.

use std::path::Path;

use engine::step::Context;
use landfall_proto::{failure::Failure, order::StorePath};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Nix, copy::address, parsed, run};
use crate::request::Flake;

/// Tells of a derivation what is known without building it.
pub(super) const DERIVATION: &str = r#"it:
  if it ? drvPath then {
    drv = it.drvPath;
    output = it.outputName or "out";
    path = it.outPath;
    system = it.system or it.drvAttrs.system or "";
  } else throw "it is no derivation""#;

/// What is to be built, as far as it is known without building it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Derivation {
    /// The derivation, in this machine's store.
    pub drv: StorePath,
    /// Which of its outputs.
    pub output: String,
    /// Where that output will be; none where only building it tells.
    pub path: Option<StorePath>,
    /// On what it is built, such as `x86_64-linux`; empty where it does not say.
    pub system: String,
}

/// Where something that goes to the target comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A store that this machine copies from.
    Copied,
    /// It is built in the target's own store.
    BuiltThere(Derivation),
}

impl Nix {
    /// Evaluates an attribute below the configuration's `config` that is built, such as `system.build.toplevel`.
    pub async fn derivation(
        &self,
        flake: &Flake,
        attribute: &str,
        cx: &Context,
    ) -> Result<Derivation, Failure> {
        let value = self
            .eval_json(flake, attribute, Some(DERIVATION), cx)
            .await?;
        Derivation::read(&value, &format!("cannot evaluate {attribute} of {flake}"))
    }

    /// Builds a derivation on this machine, or on the builders it knows.
    pub async fn realise(
        &self,
        derivation: &Derivation,
        cx: &Context,
    ) -> Result<StorePath, Failure> {
        self.build(&derivation.installable(), &[], cx).await
    }

    /// Builds a derivation in the store whose daemon listens on a socket: what evaluating it made goes there first.
    pub async fn realise_there(
        &self,
        derivation: &Derivation,
        socket: &Path,
        cx: &Context,
    ) -> Result<StorePath, Failure> {
        let store = address(socket, &self.options);
        let mut args = vec!["--eval-store", "auto", "--store", &store];
        // those of this machine's settings are of no use there: the machine has no keys to log in to them
        if !self
            .options
            .settings
            .iter()
            .any(|(name, _)| name == "builders")
        {
            args.extend(["--option", "builders", ""]);
        }
        if self
            .settings()
            .await
            .is_some_and(|ours| ours.builds_nothing())
        {
            args.extend(["--option", "max-jobs", "1"]);
        }
        self.build(&derivation.installable(), &args, cx).await
    }

    /// Builds a package or a test of a flake on this machine, or on the builders it knows.
    pub async fn build_installable(
        &self,
        installable: &str,
        cx: &Context,
    ) -> Result<StorePath, Failure> {
        self.build(installable, &["--no-write-lock-file"], cx).await
    }

    /// Builds the test of a configuration in a virtual machine of this machine's.
    pub async fn install_test(&self, flake: &Flake, cx: &Context) -> Result<StorePath, Failure> {
        let test = self
            .derivation(flake, "system.build.installTest", cx)
            .await?;
        self.realise(&test, cx).await
    }

    async fn build(
        &self,
        installable: &str,
        args: &[&str],
        cx: &Context,
    ) -> Result<StorePath, Failure> {
        let headline = || Failure::new(format!("cannot build {installable}")).code("LF0365");
        let mut call = self.call("build", Some(cx));
        call.args(["--no-link", "--print-out-paths"]);
        call.args(args);
        self.build_logs(&mut call);
        let out = call.run([installable]).await;
        let out = out.map_err(|error| error.causes_of(headline()))?;
        one_path(&out).map_err(|cause| {
            headline()
                .because(cause)
                .hint("see which nix it is: `nix --version`")
                .code("LF0370")
        })
    }

    /// Takes what evaluating made to the target's store in the way that was decided.
    ///
    /// What is built there must turn out to be what was ordered.
    pub async fn bring(
        &self,
        path: &StorePath,
        origin: &Origin,
        socket: &Path,
        cx: &Context,
    ) -> Result<(), Failure> {
        let Origin::BuiltThere(derivation) = origin else {
            return self.copy_to(socket, path, cx).await;
        };
        let built = self.realise_there(derivation, socket, cx).await;
        let built = built.map_err(|mut failure| {
            // the builder's log is on the machine, in a store that nobody asks
            failure.hints.retain(|hint| !hint.contains("nix log"));
            failure.hint("build it here with `--build-on local`, if this machine can")
        })?;
        if built == *path {
            return Ok(());
        }
        Err(Failure::new(format!("refusing to install {built}"))
            .because(format!("the machine was told to expect {path}"))
            .hint("begin anew with `--fresh`")
            .code("LF0367"))
    }
}

impl Derivation {
    /// Reads what [`DERIVATION`] told.
    pub(super) fn read(told: &Value, headline: &str) -> Result<Self, Failure> {
        let word = |name: &str| told[name].as_str().unwrap_or_default().to_owned();
        let drv = word("drv").try_into().map_err(|error| {
            Failure::new(headline)
                .caused_by(&error)
                .hint("use a nix whose store is /nix/store")
                .code("LF0370")
        })?;
        Ok(Self {
            drv,
            output: word("output"),
            // of a content-addressed derivation this is a placeholder
            path: word("path").try_into().ok(),
            system: word("system"),
        })
    }

    fn installable(&self) -> String {
        format!("{}^{}", self.drv, self.output)
    }
}

/// Reads the one path that a build printed.
fn one_path(out: &[u8]) -> Result<StorePath, String> {
    let text = String::from_utf8_lossy(out);
    let paths: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    let [path] = paths[..] else {
        return Err(format!("nix names {} outputs instead of one", paths.len()));
    };
    path.parse()
        .map_err(|error: landfall_proto::order::Malformed| error.to_string())
}

impl Nix {
    /// Reads a setting of nix as JSON; none where nix does not tell.
    pub(super) async fn config(&self) -> Option<Value> {
        let mut shown: Result<Vec<u8>, run::Error> = self.show("config show").await;
        if shown.is_err() {
            // the name it had until nix 2.19
            shown = self.show("show-config").await;
        }
        parsed(&shown.ok()?, String::new(), "config show").ok()
    }

    async fn show(&self, verb: &'static str) -> Result<Vec<u8>, run::Error> {
        let mut call = self.call(verb, None);
        call.args(["--json"]);
        call.run([]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_prints_one_path_or_is_refused() {
        let path = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-x";
        assert_eq!(
            one_path(format!("{path}\n").as_bytes()),
            Ok(path.parse().unwrap())
        );
        for out in ["", &format!("{path}\n{path}-doc\n"), "/tmp/x\n"] {
            assert!(one_path(out.as_bytes()).is_err(), "{out}");
        }
    }
}
