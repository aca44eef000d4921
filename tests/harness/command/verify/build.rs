//! What cargo does for `rig verify`: looks, and builds every test once, with one set of features.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{play::Job, rings::Ring};

/// Turns on every test: which of them are run is chosen here.
const FEATURES: &str = "landfall-tests/scenarios";
/// The test program whose tests get a process each.
const APART: &str = "all";

/// Name, and what comes after `cargo`.
pub(super) const CHECKS: &[(&str, &[&str])] = &[
    ("format", &["fmt", "--all", "--check"]),
    (
        "lints",
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--features",
            FEATURES,
            "--",
            "-D",
            "warnings",
        ],
    ),
];

/// The programs that were built.
#[derive(Debug)]
pub(super) struct Built {
    /// `landfall`.
    pub(super) controller: PathBuf,
    /// Test programs by name, such as `landfall-agent landfall_agent`, each with the folder of its crate.
    tests: BTreeMap<String, (PathBuf, PathBuf)>,
}

/// Whether a check passes; one that this toolchain lacks is said to be left out.
pub(super) fn check(arguments: &[&str], repository: &Path) -> Result<bool> {
    eprintln!("\n--- cargo {}", arguments.join(" "));
    let mut probe = cargo(&[arguments[0], "--help"], repository);
    let there = probe.stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !there.is_ok_and(|done| done.success()) {
        println!("left out: this toolchain has no cargo {}", arguments[0]);
        return Ok(true);
    }
    let done = cargo(arguments, repository).status();
    Ok(done.context("starting cargo")?.success())
}

/// Builds all programs and tests; nothing where they do not compile.
pub(super) fn tests(repository: &Path) -> Result<Option<Built>> {
    let (mut tests, mut controller) = (BTreeMap::new(), None);
    for words in [["test", "--no-run"].as_slice(), &["build", "--bins"]] {
        let mut arguments = words.to_vec();
        arguments.extend(["--workspace", "--features", FEATURES]);
        eprintln!("\n--- cargo {}", arguments.join(" "));
        arguments.push("--message-format=json-render-diagnostics");
        let mut command = cargo(&arguments, repository);
        let output = command.stderr(Stdio::inherit()).output();
        let output = output.context("starting cargo")?;
        if !output.status.success() {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let messages = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        for message in messages {
            let Some(program) = program(&message) else {
                continue;
            };
            if program.is_test {
                tests.insert(program.name, (program.path, program.folder));
            } else if program.name.ends_with(" landfall") {
                controller = Some(program.path);
            }
        }
    }
    let controller = controller.context("cargo built no landfall")?;
    ensure!(tests.len() > 4, "cargo built {} test programs", tests.len());
    Ok(Some(Built { controller, tests }))
}

struct Program {
    name: String,
    path: PathBuf,
    folder: PathBuf,
    is_test: bool,
}

/// A program that cargo tells of.
fn program(message: &Value) -> Option<Program> {
    let manifest = Path::new(message["manifest_path"].as_str()?);
    let folder = manifest.parent()?.to_owned();
    let target = message["target"]["name"].as_str()?;
    let kind = message["target"]["kind"][0].as_str()?;
    let package = folder.file_name()?.to_string_lossy().into_owned();
    Some(Program {
        name: match kind {
            "bin" => format!("{package} program {target}"),
            _ => format!("{package} {target}"),
        }
        .replace("controller program landfall", "controller landfall"),
        path: message["executable"].as_str()?.into(),
        folder,
        is_test: message["profile"]["test"].as_bool()?,
    })
}

impl Built {
    /// One job for each test program, and one for each test of the rig's.
    pub(super) fn jobs(&self) -> Result<Vec<Job>> {
        let mut jobs = Vec::new();
        for (name, (program, folder)) in &self.tests {
            let apart = name.ends_with(&format!(" {APART}"));
            let listed = list(program, folder)?;
            let job = |name: &str, arguments: &[&str]| Job {
                name: name.to_owned(),
                ring: Ring::Program,
                expected: Duration::ZERO,
                program: program.clone(),
                arguments: arguments.iter().map(|&word| word.to_owned()).collect(),
                folder: folder.clone(),
            };
            if apart {
                jobs.extend(listed.iter().map(|test| job(test, &["--exact", test])));
            } else if !listed.is_empty() {
                jobs.push(job(name, &[]));
            }
        }
        Ok(jobs)
    }
}

/// The tests of a program.
fn list(program: &Path, folder: &Path) -> Result<Vec<String>> {
    let mut command = Command::new(program);
    command
        .args(["--list", "--format", "terse"])
        .current_dir(folder);
    let output = command.output().context("listing tests")?;
    ensure!(
        output.status.success(),
        "{} lists no tests",
        program.display()
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let names = text.lines().filter_map(|line| line.strip_suffix(": test"));
    Ok(names.map(str::to_owned).collect())
}

fn cargo(arguments: &[&str], folder: &Path) -> Command {
    let mut cargo = Command::new("cargo");
    cargo
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null());
    cargo
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::program;

    #[test]
    fn program_is_named_by_its_crate_and_target() {
        let message = json!({
            "reason": "compiler-artifact",
            "manifest_path": "/w/agent/Cargo.toml",
            "target": { "name": "landfall_agent", "kind": ["lib"] },
            "profile": { "test": true },
            "executable": "/t/landfall_agent-1",
        });
        let program = program(&message).unwrap();
        assert_eq!(program.name, "agent landfall_agent");
        assert!(program.is_test);
        let library = json!({ "target": { "name": "x" }, "executable": null });
        assert!(super::program(&library).is_none());
    }
}
