//! Disks that something holds when the run lets go of them.
//!
//! Covers: agent/src/steps/seal.rs, agent/src/machine/mounts.rs.

use landfall_tests::machine::spec::{Boot, Spec};

use super::{LONG, Site};

/// Says how it is called, and stays in the folder that is about to be unmounted: what is mounted below it is not held.
const HOLD: &str = "cd /mnt && { setsid sleep 3600 </dev/null >/dev/null 2>&1 & echo $!; }";

#[test]
#[cfg_attr(
    not(feature = "scenarios"),
    ignore = "starts a machine; `cargo verify --all` runs it"
)]
fn disks_that_were_held_are_let_go_of_by_the_same_command() {
    let site = Site::new(Spec::of(Boot::Installer));
    let words = ["--phases", "disko,install,reboot"];
    let mut run = site.landfall("demo", &words);
    run.wait_step("/copy", LONG).unwrap();
    let holder = site.said(HOLD);
    let told = run.end(LONG).unwrap();
    assert_eq!(
        (told.code, told.failure(), told.state()),
        (Some(3), Some("LF1604"), Some("installed")),
        "{}",
        told.stderr
    );
    assert!(told.stderr.contains("held by"), "{}", told.stderr);
    let formatted = site.formatted("vda");
    let mounted = site.said("grep -c ' /mnt' /proc/self/mountinfo");
    assert_eq!(mounted.trim_end(), "1", "what was not held is let go of");

    // nothing is mounted any more in which it could be looked at what was done: it is not done again
    site.said(&format!("kill {holder}"));
    let told = site.landfall("demo", &words).end(LONG).unwrap();
    assert_eq!(
        (told.code, told.state()),
        (Some(0), Some("verified")),
        "{}",
        told.stderr
    );
    // told again with the number that it had; what is done again has another
    for (step, times) in [
        ("/format", 1),
        ("/mount", 1),
        ("/copy", 1),
        ("/install", 1),
        ("/seal", 2),
    ] {
        assert_eq!(told.begun(step), times, "{step}");
    }
    assert_eq!(site.formatted("vda"), formatted, "formatted again");
    site.runs("demo");
    site.leaves_nothing_here();
}
