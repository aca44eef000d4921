//! The programs under test, built as cargo would build them for a person.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use crate::waits;

/// The variable with the path of a `landfall` that is built already, as `rig verify` sets it.
pub const CONTROLLER: &str = "LANDFALL_RIG_CONTROLLER";

/// Returns the path of `landfall`, built when it is first asked for.
pub fn controller() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| match env::var_os(CONTROLLER) {
        Some(built) => built.into(),
        None => build("landfall", &["--workspace"]),
    })
}

/// Returns the path of `landfall` as it is handed out, built when it is first asked for.
pub fn released_controller() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("landfall", &["--package", "landfall", "--release"]))
}

/// Builds a program of some packages and returns where cargo says it is.
///
/// What is built with the whole workspace is there already when a test asks for it.
fn build(program: &str, packages: &[&str]) -> PathBuf {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--message-format=json"]);
    cargo.args(["--bin", program]).args(packages);
    cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")));
    let output = waits::on("build", || cargo.output()).expect("cargo starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let messages = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let executable = messages
        .filter_map(|message: serde_json::Value| Some(message["executable"].as_str()?.to_owned()))
        .next_back();
    let said = String::from_utf8_lossy(&output.stderr);
    executable
        .unwrap_or_else(|| panic!("cargo does not build {program}:\n{said}\n{text}"))
        .into()
}
