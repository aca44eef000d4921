//! The program on the machine is killed in each of its steps, and comes back by itself.
//!
//! Covers: agent/src/session.rs, agent/src/story.rs, agent/src/machine/launch.rs.
//! Covers: proto/engine/src.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use landfall_tests::{
    machine::spec::{Boot, Spec},
    watched::{Told, Watched},
};

use super::{LONG, Site};

/// On the machine: kills the agent as soon as its journal says that the first of these steps has begun, then at the next
/// one, and so on; each time a new one has begun it. In `format` it waits until there is half a disk.
const KILLER: &str = r#"
begun() { cat /run/landfall/runs/*/journal.jsonl 2>/dev/null | grep -c "\"step\":\"$1\",\"kind\":\"step_started\""; }
for step in STEPS; do
  before=$(begun $step)
  [ -z "$first" ] && before=0
  first=no
  until [ "$(begun $step)" -gt "$before" ]; do sleep 0.02; done
  if [ $step = format ]; then until [ -e /dev/vda1 ]; do sleep 0.02; done; fi
  pid=$(pgrep -f '[l]andfall-agent.* serve')
  kill -9 $pid && echo "$step $pid" >> /run/rig-killed
done
"#;

#[test]
#[cfg_attr(
    not(feature = "scenarios"),
    ignore = "starts a machine; `cargo verify --all` runs it"
)]
fn agent_killed_in_every_step_goes_on_and_never_formats_twice_unasked() {
    let site = Site::new(Spec {
        years_ahead: -5,
        ..Spec::of(Boot::Target)
    });
    put_back(&site);
    site.is_ahead(-5.0);

    // in the old system
    kill_in(&site, "image kexec");
    let mut run = site.landfall("demo", &[]);
    run.wait_over("/kexec", LONG).unwrap();
    assert_eq!(killed(&site), ["image", "kexec"]);
    run.wait_over("kexec", LONG).unwrap();

    // in the installer; slow, so that the killer is there before the disko script
    site.machine.link().rate(20.0).unwrap();
    put_back(&site);
    site.is_ahead(-5.0);
    kill_in(&site, "tools format");
    site.machine.link().restore().unwrap();
    let refused = to_the_end(&site, run);
    assert_eq!(killed(&site), ["tools", "format"]);
    assert_eq!(
        (refused.code, refused.failure(), refused.state()),
        (Some(3), Some("LF0902"), Some("erased")),
        "{}",
        refused.stderr
    );
    assert!(!refused.is_over("/format"), "{}", refused.stderr);
    let state = "state: 127.0.0.1 runs the installer; its disks are erased and not bootable";
    assert!(refused.stderr.contains(state), "{}", refused.stderr);

    // half a format is repeated only by who asks for it
    let again = site.landfall("demo", &[]).end(LONG).unwrap();
    assert_eq!(
        (again.code, again.failure()),
        (Some(3), Some("LF0902")),
        "{}",
        again.stderr
    );

    // the order of the new run is another one, so that its journal begins anew
    kill_in(&site, "mount copy files install seal");
    let run = site.landfall("demo", &["--fresh"]);
    let told = to_the_end(&site, run);
    assert_eq!(told.code, Some(0), "{}", told.stderr);
    assert_eq!(told.state(), Some("verified"));
    assert_eq!(told.begun("/format"), 1, "one format for one consent");
    // the seal may be over before the killer has seen it begin: then it is the reboot that is taken up
    for step in ["/copy", "/install"] {
        assert!(told.begun(step) > 1, "nobody was killed in {step}");
    }
    let status = site.machine.status().unwrap();
    assert_eq!((status.boot, status.boots), (Boot::Disk, 2));
    site.runs("demo");
    site.leaves_nothing_here();
}

/// Gives the same command again, as its words say, until it is done or a person has to decide.
fn to_the_end(site: &Site, mut run: Watched) -> Told {
    for _ in 0..8 {
        let told = run.end(LONG).unwrap();
        println!(
            "{:?} {:?} after {} s",
            told.code,
            told.failure(),
            told.took.as_secs()
        );
        if told.code == Some(0) || told.failure() == Some("LF0902") {
            return told;
        }
        // what nix was sending is lost with the daemon it was sent to
        assert!(
            matches!(told.code, Some(1 | 3)),
            "{:?}: {}",
            told.code,
            told.stderr
        );
        run = site.landfall("demo", &[]);
    }
    panic!("it comes to no end");
}

/// Lets the agent be killed in these steps, one after the other.
fn kill_in(site: &Site, steps: &str) {
    let script = KILLER.replace("STEPS", steps);
    site.said(&format!(
        "rm -f /run/rig-killed; cat > /run/rig-killer <<'END'\n{script}\nEND\nsetsid sh /run/rig-killer > /dev/null 2>&1 < /dev/null &"
    ));
}

/// Steps in which it was killed, each another process.
fn killed(site: &Site) -> Vec<String> {
    let said = site.said("cat /run/rig-killed");
    let words: Vec<_> = said
        .lines()
        .filter_map(|line| line.split_once(' '))
        .collect();
    for (index, (step, pid)) in words.iter().enumerate() {
        let before = words[..index].iter().any(|(_, other)| other == pid);
        assert!(!before, "the process of {step} was killed before");
    }
    words.iter().map(|(step, _)| (*step).to_owned()).collect()
}

/// Sets the clock back again: systemd does not believe one that is behind its own release.
fn put_back(site: &Site) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let years = Duration::from_secs(5 * 36525 * 864);
    site.said(&format!("date -s @{}", (now - years).as_secs()));
}
