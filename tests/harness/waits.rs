//! What a test waits for, written down while it runs: booting, kexec, copying, building.
//!
//! `rig verify` names the file in the environment of each test. Without one nothing is written.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, OpenOptions},
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::Value;

/// The variable that names the file.
pub const FILE: &str = "LANDFALL_RIG_WAITS";

/// Does something, and writes down how long it took as waiting for `what`.
pub fn on<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let done = work();
    add(what, begun.elapsed());
    done
}

/// Writes down that so much time went by waiting for `what`.
pub fn add(what: &str, time: Duration) {
    let Some(path) = env::var_os(FILE) else {
        return;
    };
    let line = format!("{what} {}\n", time.as_secs_f64());
    // a figure that is missing fails no test
    if let Ok(mut file) = OpenOptions::new().create(true).append(true).open(path) {
        let _ = file.write_all(line.as_bytes());
    }
}

/// Writes down what an installation waited for, as `--json` told it, and the rest of its time as its own.
pub fn add_run(records: &[Value], took: Duration) {
    let mut begun = BTreeMap::new();
    let mut rest = took;
    let mut image = Duration::ZERO;
    for record in records {
        let step = record["step"].as_str().unwrap_or_default();
        let at = Duration::from_millis(record["at_ms"].as_u64().unwrap_or_default());
        if record["kind"] == "step_started" {
            begun.insert(step, at);
        }
        let Some(begun) = begun
            .get(step)
            .filter(|_| record["kind"] == "step_finished")
        else {
            continue;
        };
        let mut time = at.saturating_sub(*begun);
        let what = match step {
            "prepare" => "build",
            "verify" => "boot",
            "kexec" => {
                time = time.saturating_sub(image);
                "kexec"
            }
            _ => match step.rsplit_once('/') {
                Some(("kexec", "image")) => {
                    image += time;
                    "copy"
                }
                Some((_, "copy" | "tools")) => "copy",
                _ => continue,
            },
        };
        add(what, time);
        rest = rest.saturating_sub(time);
    }
    add("landfall", rest);
}

/// Adds up what was written to a file.
#[must_use]
pub fn read(path: &Path) -> BTreeMap<String, f64> {
    let mut waits = BTreeMap::new();
    for line in fs::read_to_string(path).unwrap_or_default().lines() {
        if let Some((what, seconds)) = line.rsplit_once(' ') {
            let seconds: f64 = seconds.parse().unwrap_or_default();
            *waits.entry(what.to_owned()).or_default() += seconds;
        }
    }
    waits
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::read;

    #[test]
    fn waits_are_added_up_by_what_for() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("waits");
        fs::write(&file, "boot 1.5\ncopy 2\nboot 0.5\n").unwrap();
        let waits = read(&file);
        assert!((waits["boot"] - 2.0).abs() < 1e-9 && (waits["copy"] - 2.0).abs() < 1e-9);
        assert!(read(&folder.path().join("none")).is_empty());
    }
}
