//! The operator's program is killed in every phase, and the same command is given again.
//!
//! Covers: controller/src/operate.rs, controller/src/desk, controller/src/local/state.

use landfall_tests::{
    machine::spec::{Boot, Spec},
    watched::{Told, is},
};

use super::{LAST_WORD, LONG, Site};

/// Where it is killed, in the order of the story. `kexec` is left twice: while the image is sent, and after the old
/// system's last word.
const PHASES: [&str; 9] = [
    "connect",
    "preflight",
    "prepare",
    "kexec",
    "the last word",
    "disko",
    "install",
    "reboot",
    "verify",
];

#[test]
#[cfg_attr(
    not(feature = "scenarios"),
    ignore = "starts a machine; `cargo verify --all` runs it"
)]
fn controller_killed_in_every_phase_is_followed_by_the_same_command() {
    // the keys of the tunnel hold however wrong the clock is
    let site = Site::new(Spec {
        years_ahead: 5,
        ..Spec::of(Boot::Target)
    });
    site.is_ahead(5.0);

    let mut killed: Vec<Told> = Vec::new();
    for phase in PHASES {
        let mut run = site.landfall("demo", &[]);
        match phase {
            "the last word" => run.wait_for(phase, LONG, |record| {
                let text = record["text"].as_str().unwrap_or_default();
                is(record, "/kexec", "line") && text.contains(LAST_WORD)
            }),
            "kexec" | "install" => {
                run.wait_for(phase, LONG, |record| is(record, phase, "progress"))
            }
            "disko" => run.wait_step("/format", LONG),
            _ => run.wait_step(phase, LONG),
        }
        .unwrap_or_else(|error| panic!("in {phase}: {error:#}"));
        if phase == "disko" {
            site.is_ahead(5.0);
        }
        let told = run.kill().unwrap();
        assert_eq!(told.code, None, "{phase}: it ended before it was killed");
        println!("killed in {phase} after {} s", told.took.as_secs());
        killed.push(told);
    }
    let told = site.landfall("demo", &[]).end(LONG).unwrap();
    assert_eq!(told.code, Some(0), "{}", told.stderr);
    assert_eq!(told.state(), Some("verified"));

    // the agent goes on by itself; who comes back is told the same events, with the same numbers
    killed.push(told);
    for told in &killed {
        assert!(told.begun("/format") <= 1, "formatted twice");
    }
    let attempts = killed.iter().flat_map(|told| &told.records);
    let formats: Vec<_> = attempts
        .filter(|record| is(record, "/format", "step_started"))
        .map(|record| (record["index"].as_u64(), record["attempt"].as_u64()))
        .collect();
    assert!(
        formats.iter().all(|format| *format == formats[0]),
        "{formats:?}"
    );

    let status = site.machine.status().unwrap();
    assert_eq!((status.boot, status.boots), (Boot::Disk, 2));
    site.runs("demo");
    site.leaves_nothing_here();
}
