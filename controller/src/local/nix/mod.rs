//! The operator's nix: evaluates, builds, looks into the store, copies to another one.
//!
//! Runs the user's own program with the user's own settings and environment. Never talks to the target: a copy goes to
//! a socket, whatever is behind it. What nix says while it works is read in [`log`].

mod installable;
mod log;
mod run;

use std::path::{Path, PathBuf};

use engine::step::Context;
use landfall_proto::{failure::Failure, order::StorePath};
use serde_json::Value;

use self::run::Call;
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
                .hint("install it from https://nixos.org/download, or open a new shell if you just did"));
        };
        Ok(Self { options, program })
    }

    /// Builds an attribute below the configuration's `config`, such as `system.build.toplevel`.
    pub async fn build(
        &self,
        flake: &Flake,
        attribute: &str,
        cx: &Context,
    ) -> Result<StorePath, Failure> {
        let installable = flake.attribute(attribute);
        let mut call = self.call("build", Some(cx));
        call.args(["--no-link", "--print-out-paths", "--no-write-lock-file"]);
        self.build_logs(&mut call);
        let headline = format!("cannot build {attribute} of {flake}");
        let out = match call.run([installable.as_str()]).await {
            Ok(out) => out,
            Err(error) => return Err(self.explained(flake, attribute, headline, error).await),
        };
        let text = String::from_utf8_lossy(&out);
        let paths: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        let [path] = paths[..] else {
            return Err(Failure::new(headline)
                .because(format!("nix names {} outputs instead of one", paths.len())));
        };
        path.parse()
            .map_err(|error| Failure::new(headline).caused_by(&error))
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
            Ok(out) => serde_json::from_slice(&out).map_err(|error| {
                Failure::new(headline)
                    .because("parsing JSON of nix eval")
                    .caused_by(&error)
            }),
            Err(error) => Err(self.explained(flake, attribute, headline, error).await),
        }
    }

    /// Returns the store path that a path leads to, checked to be whole in the local store.
    pub async fn check_path(&self, path: &Path) -> Result<StorePath, Failure> {
        let cannot = || {
            Failure::new(format!("cannot use {}", path.display()))
                .hint("name what `nix build --print-out-paths` printed")
        };
        let resolved = tokio::fs::canonicalize(path).await;
        let resolved = resolved.map_err(|error| {
            cannot()
                .because(format!("following {}", path.display()))
                .caused_by(&error)
        })?;
        let store_path: StorePath = resolved
            .to_string_lossy()
            .into_owned()
            .try_into()
            .map_err(|error| cannot().caused_by(&error))?;
        let mut call = self.call("path-info", None);
        match call.run([store_path.as_str()]).await {
            Ok(_) => Ok(store_path),
            Err(error) => Err(error.causes_of(cannot())),
        }
    }

    /// Returns the number of paths in a closure of the local store, and their size in bytes as NARs.
    pub async fn closure_size(&self, path: &StorePath) -> Result<(u64, u64), Failure> {
        let headline = || Failure::new(format!("cannot tell the size of {path}"));
        let mut call = self.call("path-info", None);
        call.args(["--recursive", "--json"]);
        let out = call
            .run([path.as_str()])
            .await
            .map_err(|error| error.causes_of(headline()))?;
        let value: Value = serde_json::from_slice(&out).map_err(|error| {
            headline()
                .because("parsing JSON of nix path-info")
                .caused_by(&error)
        })?;
        log::closure_size(&value)
            .ok_or_else(|| headline().because("reading `narSize` in the JSON of nix path-info"))
    }

    /// Copies a closure to the store whose daemon listens on a socket; what is there already is left out.
    ///
    /// Signatures are not asked for: the store belongs to the machine that is being installed.
    pub async fn copy_to(
        &self,
        socket: &Path,
        path: &StorePath,
        cx: &Context,
    ) -> Result<(), Failure> {
        let mut call = self.call("copy", Some(cx));
        call.args(["--no-check-sigs", "--substitute-on-destination", "--to"]);
        call.args([format!("unix://{}", socket.display())]);
        let copied = call.run([path.as_str()]).await;
        copied
            .map(drop)
            .map_err(|error| error.causes_of(Failure::new(format!("cannot copy {path}"))))
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
        if !error.lacks_attribute() {
            let failure = error.causes_of(Failure::new(headline));
            return match failure.hints.is_empty() {
                true => failure.hint(format!(
                    "see whether nix finds it: `nix flake show {}`",
                    flake.uri
                )),
                false => failure,
            };
        }
        let names = self
            .eval(
                &format!("{}#nixosConfigurations", flake.uri),
                Some("builtins.attrNames"),
                None,
            )
            .await;
        let names: Vec<String> = names
            .ok()
            .and_then(|out| serde_json::from_slice(&out).ok())
            .unwrap_or_default();
        installable::missing(flake, attribute, &names)
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
