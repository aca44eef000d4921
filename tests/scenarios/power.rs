//! Power that is cut: before the format, in the middle of it, after it, and half way through the copy. The old system is
//! on a disk of its own and boots each time.
//!
//! Covers: agent/src/machine/mend.rs, agent/src/machine/record.rs, agent/src/steps/again.rs.
//! Covers: agent/src/history.rs.

use landfall_tests::{
    machine::spec::{Boot, Spec},
    watched::{Watched, is},
};
use serde_json::Value;

use super::{BOOTS, LONG, Site};

#[test]
#[cfg_attr(
    not(feature = "scenarios"),
    ignore = "starts a machine; `cargo verify --all` runs it"
)]
fn power_cut_anywhere_is_followed_by_the_same_command() {
    let site = Site::new(Spec {
        disks_gib: vec![2, 4],
        ..Spec::of(Boot::Target)
    });

    // before the format: a new run could not do better than the old one does
    let mut run = site.landfall("on-vdb", &[]);
    run.wait_over("kexec", LONG).unwrap();
    site.machine.link().rate(20.0).unwrap();
    run.wait_step("/tools", LONG).unwrap();
    out_and_back(&site, run);
    assert_eq!(
        site.said("blkid -p /dev/vdb || true"),
        "",
        "nothing was formatted"
    );

    // in the middle of it
    let mut run = site.landfall("on-vdb", &[]);
    // there are partitions, and one of them has a file system
    run.wait_for("half a format", LONG, |record| says(record, "mkfs.ext4"))
        .unwrap();
    let told = out_and_back(&site, run);
    assert_eq!(told.begun("/kexec"), 1, "it starts with kexec");
    assert_eq!(told.begun("/format"), 1);

    let refused = site.landfall("on-vdb", &[]).end(LONG).unwrap();
    let code = refused.failure().unwrap_or_default();
    assert!(["LF0902", "LF0905"].contains(&code), "{}", refused.stderr);
    assert_eq!(
        (refused.code, refused.state()),
        (Some(3), Some("erased")),
        "{}",
        refused.stderr
    );
    assert!(refused.stderr.contains("`--fresh`"), "{}", refused.stderr);
    let formats = |record: &Value| says(record, "sgdisk") || says(record, "mkfs");
    assert!(!refused.records.iter().any(formats), "it was formatted");

    // after it
    let mut run = site.landfall("on-vdb", &["--fresh"]);
    run.wait_over("/mount", LONG).unwrap();
    let told = out_and_back(&site, run);
    assert_eq!(told.begun("/format"), 1);
    let formatted = site.formatted("vdb");

    // half way through the copy
    let mut run = site.landfall("on-vdb", &[]);
    run.wait_step("/copy", LONG).unwrap();
    site.machine.link().rate(10.0).unwrap();
    run.wait_for("half of the copy", LONG, is_half_way).unwrap();
    out_and_back(&site, run);
    assert_eq!(site.formatted("vdb"), formatted, "formatted again");

    let told = site.landfall("on-vdb", &[]).end(LONG).unwrap();
    assert_eq!(told.code, Some(0), "{}", told.stderr);
    assert_eq!(told.state(), Some("verified"));
    assert_eq!(site.formatted("vdb"), formatted, "formatted again");
    assert_eq!(site.machine.status().unwrap().boot, Boot::Disk);
    site.runs("on-vdb");
    site.leaves_nothing_here();
}

/// The format's script tells of this program.
fn says(record: &Value, program: &str) -> bool {
    let text = record["text"].as_str().unwrap_or_default();
    is(record, "/format", "line") && text.contains(program)
}

/// Half of what is to be sent has arrived.
fn is_half_way(record: &Value) -> bool {
    let number = |name: &str| record[name].as_u64().unwrap_or_default();
    is(record, "install", "progress") && number("total") > 0 && number("done") * 2 > number("total")
}

/// The power goes, and with it the operator's patience. It comes back, and the old system with it.
fn out_and_back(site: &Site, run: Watched) -> landfall_tests::watched::Told {
    site.machine.power_cut().unwrap();
    let told = run.kill().unwrap();
    assert_eq!(told.code, None, "{}", told.stderr);
    site.machine.link().restore().unwrap();
    site.machine.boot(Boot::Target).unwrap();
    site.machine.wait_ssh(BOOTS).unwrap();
    let release = site.said("cat /etc/os-release");
    assert!(release.contains("ID=debian"), "{release}");
    told
}
