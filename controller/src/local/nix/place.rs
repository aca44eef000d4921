//! Where a configuration can be built: what this machine's nix says of itself, and a trial where that does not settle it.

use std::time::Duration;

use engine::step::Context;
use serde_json::Value;

use super::Nix;

/// Longest that a trial build may take; a builder that has to be woken up takes its time.
const TRIAL: Duration = Duration::from_secs(120);

/// Settings of this machine's nix, as far as they matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    system: String,
    extra_platforms: Vec<String>,
    max_jobs: Option<u64>,
}

impl Nix {
    /// Whether this machine's nix, with the builders it knows, can build for a system such as `aarch64-linux`.
    pub async fn can_build(&self, system: &str, cx: &Context) -> bool {
        if self.settings().await.is_some_and(|ours| ours.takes(system)) {
            return true;
        }
        cx.waiting(format!("a trial build for {system}"));
        let trial = tokio::time::timeout(TRIAL, self.trial(system)).await;
        trial.unwrap_or(false)
    }

    pub(super) async fn settings(&self) -> Option<Settings> {
        Settings::read(&self.config().await?)
    }

    /// Builds something that was never built before. Leaves no link behind.
    async fn trial(&self, system: &str) -> bool {
        let quoted = |text: &str| Value::from(text).to_string().replace('$', "\\$");
        let name = format!("landfall-trial-{:016x}", rand::random::<u64>());
        let expression = format!(
            r#"derivation {{ name = {}; system = {}; builder = "/bin/sh"; args = [ "-c" "echo > $out" ]; }}"#,
            quoted(&name),
            quoted(system)
        );
        let mut call = self.call("build", None);
        call.args(["--no-link", "--impure", "--expr", &expression]);
        call.run([]).await.is_ok()
    }
}

impl Settings {
    fn read(config: &Value) -> Option<Self> {
        let value = |name: &str| &config[name]["value"];
        let platforms = value("extra-platforms").as_array();
        let platforms = platforms.into_iter().flatten().filter_map(Value::as_str);
        Some(Self {
            system: value("system").as_str()?.to_owned(),
            extra_platforms: platforms.map(str::to_owned).collect(),
            max_jobs: value("max-jobs").as_u64(),
        })
    }

    /// Whether this machine itself runs builders for a system.
    fn takes(&self, system: &str) -> bool {
        let is_ours =
            self.system == system || self.extra_platforms.iter().any(|other| other == system);
        // with builders only, a trial tells
        is_ours && !self.builds_nothing()
    }

    /// Whether all builds are left to other machines.
    pub(super) fn builds_nothing(&self) -> bool {
        self.max_jobs == Some(0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(max_jobs: u64) -> Settings {
        let config = json!({
            "system": { "value": "x86_64-linux", "defaultValue": "x86_64-linux" },
            "extra-platforms": { "value": ["i686-linux", "aarch64-linux"] },
            "max-jobs": { "value": max_jobs },
        });
        Settings::read(&config).unwrap()
    }

    #[test]
    fn system_of_this_machine_and_what_it_emulates_need_no_trial() {
        let ours = settings(4);
        assert!(ours.takes("x86_64-linux") && ours.takes("aarch64-linux"));
        assert!(!ours.takes("riscv64-linux") && !ours.takes("x86_64-darwin"));
    }

    #[test]
    fn machine_that_leaves_all_builds_to_others_is_tried() {
        assert!(!settings(0).takes("x86_64-linux"));
    }

    #[test]
    fn nix_that_does_not_tell_is_unknown() {
        assert_eq!(Settings::read(&json!({})), None);
    }
}
