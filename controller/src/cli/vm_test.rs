//! What does not go together with `--vm-test`, which has no machine to install on.

use landfall_proto::failure::Failure;

use crate::request::{BuildOn, NixOptions};

/// Options that would change what is tested, why the test cannot have them, and what to do instead.
const REFUSED: &[(&str, &str, &str)] = &[
    (
        "store_paths",
        "the test is built from a configuration, not from a system",
        "name the configuration: `landfall --vm-test --flake URI#NAME`",
    ),
    (
        "extra_files",
        "the virtual machine cannot see files of this machine",
        "leave `--extra-files` out; the configuration must boot without them",
    ),
    (
        "disk_encryption_keys",
        "disko's test brings keys of its own: `secretsecret` in /tmp/secret.key",
        "leave `--disk-encryption-keys` out",
    ),
    (
        "generate_hardware_config",
        "there is no machine whose hardware could be described",
        "let the configuration import a file that is there already, and leave `--generate-hardware-config` out",
    ),
];

/// Options that mean something for the test.
const USED: &[&str] = &[
    "vm_test",
    "flake",
    "build_on",
    "option",
    "print_build_logs",
    "show_trace",
    "verbose",
    "debug",
    // have a sentence of their own, or are refused by it
    "build_on_remote",
    "tty",
    // nothing is asked, and nothing is kept
    "yes",
    "fresh",
    "resume",
];

/// Refuses options that would change what is tested.
pub(super) fn refuse(given: &[(String, String)]) -> Result<(), Failure> {
    let refused = REFUSED.iter().find_map(|(id, why, hint)| {
        let (_, option) = given.iter().find(|(given, _)| given == id)?;
        Some((option, why, hint))
    });
    match refused {
        None => Ok(()),
        Some((option, why, hint)) => Err(cannot(option).because(*why).hint(*hint)),
    }
}

/// Refuses to build elsewhere.
pub(super) fn refuse_remote(nix: &NixOptions) -> Result<(), Failure> {
    match nix.build_on {
        BuildOn::Auto | BuildOn::Local => Ok(()),
        BuildOn::Remote => Err(cannot("--build-on remote")
            .because("the test runs on this machine, and is built here")
            .hint("leave `--build-on remote` out")),
    }
}

fn cannot(option: &str) -> Failure {
    Failure::new(format!("cannot use `{option}` with `--vm-test`")).code("LF0416")
}

/// Returns the sentence about options that mean nothing to the test.
pub(super) fn remark(given: &[(String, String)]) -> Option<String> {
    let idle: Vec<String> = given
        .iter()
        .filter(|(id, _)| !USED.contains(&id.as_str()))
        .map(|(_, option)| format!("`{option}`"))
        .collect();
    let have = match idle.len() {
        0 => return None,
        1 => "has",
        _ => "have",
    };
    Some(format!(
        "{} {have} no effect; continuing because `--vm-test` tests on this machine and reaches no other",
        idle.join(", ")
    ))
}
