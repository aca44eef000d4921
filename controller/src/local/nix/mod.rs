//! The operator's nix: evaluates, builds, looks into the store, copies to another one.
//!
//! Runs the user's own program with the user's own settings and environment. Never talks to the target: a copy, or a
//! build on the target, goes to a socket, whatever is behind it. What nix says while it works is read in [`log`]; start
//! reading at [`build`].

mod build;
mod configuration;
mod copy;
mod hardware;
mod installable;
mod log;
mod place;
mod run;

use std::path::PathBuf;

use engine::step::Context;
use landfall_proto::failure::Failure;
use serde_json::Value;

use self::run::Call;
pub use self::{
    build::{Derivation, Origin},
    configuration::{Devices, KeyKind, KeyUse, Survey},
};
use crate::request::{Flake, NixOptions};

/// The nix of this machine.
#[derive(Debug, Clone)]
pub struct Nix {
    options: NixOptions,
    program: PathBuf,
}

impl Nix {
    /// Looks for `nix` on the path.
    pub fn new(options: NixOptions) -> Result<Self, Failure> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut candidates = std::env::split_paths(&path).map(|folder| folder.join("nix"));
        let Some(program) = candidates.find(|candidate| candidate.is_file()) else {
            return Err(Failure::new("cannot find nix")
                .because("looking for `nix` in the folders of PATH")
                .hint("install it from https://nixos.org/download, or open a new shell if you just did")
                .code("LF0360"));
        };
        Ok(Self::at(program, options))
    }

    /// Takes the `nix` at this path.
    pub fn at(program: PathBuf, options: NixOptions) -> Self {
        Self { options, program }
    }

    /// Evaluates an attribute below the configuration's `config`, after `apply` where it is given.
    pub async fn eval_json(
        &self,
        flake: &Flake,
        attribute: &str,
        apply: Option<&str>,
        cx: &Context,
    ) -> Result<Value, Failure> {
        let headline = format!("cannot evaluate {attribute} of {flake}");
        match self
            .eval(&flake.attribute(attribute), apply, Some(cx))
            .await
        {
            Ok(out) => parsed(&out, headline, "eval"),
            Err(error) => Err(self.explained(flake, attribute, headline, error).await),
        }
    }

    async fn eval(
        &self,
        installable: &str,
        apply: Option<&str>,
        cx: Option<&Context>,
    ) -> Result<Vec<u8>, run::Error> {
        let mut call = self.call("eval", cx);
        call.args(["--json", "--no-write-lock-file"]);
        if let Some(apply) = apply {
            call.args(["--apply", apply]);
        }
        call.run([installable]).await
    }

    /// Puts nix's words below a headline; where the attribute is missing, says what there is.
    async fn explained(
        &self,
        flake: &Flake,
        attribute: &str,
        headline: String,
        error: run::Error,
    ) -> Failure {
        if error.lacks_attribute() {
            let names = self.names(flake).await.unwrap_or_default();
            return installable::missing(flake, attribute, &names);
        }
        let no_disks = error.says("No disks defined");
        let failure = error.causes_of(Failure::new(headline));
        if no_disks {
            return installable::without_disks(failure);
        }
        let failure = match failure.hints.is_empty() {
            true => failure.hint(format!(
                "see whether nix finds it: `nix flake show {}`",
                flake.uri
            )),
            false => failure,
        };
        failure.code("LF0364")
    }

    /// Returns the names of the flake's configurations. Evaluates none of them.
    async fn names(&self, flake: &Flake) -> Result<Vec<String>, run::Error> {
        let all = format!("{}#nixosConfigurations", flake.uri);
        let out = self.eval(&all, Some("builtins.attrNames"), None).await?;
        Ok(serde_json::from_slice(&out).unwrap_or_default())
    }

    fn build_logs(&self, call: &mut Call<'_>) {
        if self.options.print_build_logs {
            call.show_build_logs();
        }
    }

    fn call<'a>(&self, verb: &'static str, cx: Option<&'a Context>) -> Call<'a> {
        let mut call = Call::new(&self.program, verb, cx);
        if self.options.show_trace {
            call.args(["--show-trace"]);
        }
        for (name, value) in &self.options.settings {
            call.args(["--option", name.as_str(), value.as_str()]);
        }
        call
    }
}

fn parsed(json: &[u8], headline: String, verb: &str) -> Result<Value, Failure> {
    serde_json::from_slice(json).map_err(|error| {
        Failure::new(headline)
            .because(format!("parsing JSON of nix {verb}"))
            .caused_by(&error)
            .hint("see which nix it is: `nix --version`")
            .code("LF0370")
    })
}
