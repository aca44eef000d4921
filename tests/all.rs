//! The one test binary. A file beside this one that is not named here is caught.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(
    clippy::print_stdout,
    reason = "measured figures belong to the record of a test run"
)]

mod attach;
mod bad_input;
mod bundle;
mod check;
mod cli;
mod errors;
mod faults;
mod hardware;
mod install;
mod layouts;
mod login;
mod machine;
mod mutations;
mod nix;
mod options;
mod reliability;
mod remote_build;
mod resume;
mod returned;
mod scenarios;
mod secrets;
mod separated;
mod sizes;
mod tidy;

use std::{fs, path::Path};

#[test]
fn no_file_is_forgotten() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let index = fs::read_to_string(folder.join("all.rs")).unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some(module) = name.strip_suffix(".rs").filter(|module| *module != "all") {
            assert!(
                index.contains(&format!("mod {module};")),
                "{name} is not in all.rs"
            );
        }
    }
}
