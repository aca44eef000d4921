//! How long tests take, what they wait for, and where that is written down.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{super::table, rings::Ring};

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outcome {
    Passed,
    Failed,
    /// It did not end, and was ended.
    Endless,
}

/// One test that was run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) ring: Ring,
    pub(super) outcome: Outcome,
    /// Seconds from its start to its end.
    pub(super) wall: f64,
    /// Seconds of processors, those of all its children included.
    pub(super) cpu: f64,
    /// Seconds that it waited, by what for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) waits: BTreeMap<String, f64>,
}

/// A whole run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The day, as `2026-12-01`.
    pub(super) date: String,
    /// Processors and memory of the machine it ran on.
    pub(super) machine: String,
    /// Seconds of each part: the rig, lints, programs, tests.
    pub(super) parts: BTreeMap<String, f64>,
    /// Seconds of all of it.
    pub(super) wall: f64,
    pub(super) tests: Vec<Row>,
}

impl Record {
    /// Reads a record; an empty one where there is none yet.
    pub(super) fn load(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("parsing {}", path.display()))
    }

    pub(super) fn save(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// How long a test took the last time; as long as a long one, where nobody knows.
    pub(super) fn of(&self, name: &str) -> Duration {
        const UNKNOWN: f64 = 240.0;
        let row = self.tests.iter().find(|row| row.name == name);
        Duration::from_secs_f64(row.map_or(UNKNOWN, |row| row.wall))
    }
}

/// The table of what took longest, with the ring of each.
pub(super) fn table(rows: &[Row], shortest: Duration) -> Vec<String> {
    let mut rows: Vec<&Row> = rows
        .iter()
        .filter(|row| row.wall >= shortest.as_secs_f64() || row.outcome != Outcome::Passed)
        .collect();
    rows.sort_by(|a, b| b.wall.total_cmp(&a.wall));
    let head = ["test", "ring", "time", "processors", "waited for"];
    let mut cells = vec![head.map(str::to_owned)];
    cells.extend(rows.into_iter().map(|row| {
        let ring = match row.ring {
            Ring::Program => "program",
            Ring::Machine => "machine",
            Ring::Scenario => "scenario",
        };
        let name = match row.outcome {
            Outcome::Passed => row.name.clone(),
            Outcome::Failed => format!("FAILED {}", row.name),
            Outcome::Endless => format!("ENDLESS {}", row.name),
        };
        let (wall, cpu) = (seconds(row.wall), seconds(row.cpu));
        [name, ring.to_owned(), wall, cpu, most(&row.waits)]
    }));
    table::lines(&cells)
}

/// What was waited for most, the two longest.
fn most(waits: &BTreeMap<String, f64>) -> String {
    let mut waits: Vec<_> = waits.iter().filter(|(_, time)| **time >= 1.0).collect();
    waits.sort_by(|a, b| b.1.total_cmp(a.1));
    let told = waits.iter().take(2);
    let told: Vec<_> = told
        .map(|(what, time)| format!("{what} {}", seconds(**time)))
        .collect();
    told.join(", ")
}

fn seconds(time: f64) -> String {
    table::time(Duration::from_secs_f64(time))
}

/// What is known of this machine, for a record.
pub(super) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().split(' ').next()?.parse::<u64>().ok())
        .unwrap_or_default();
    format!("{cores} processors, {} GiB", kib.div_ceil(1 << 20))
}

/// Today, as UTC has it.
pub(super) fn today() -> String {
    let date = std::process::Command::new("date")
        .args(["--utc", "+%Y-%m-%d"])
        .output();
    let said = date.map(|said| said.stdout).unwrap_or_default();
    String::from_utf8_lossy(&said).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::{Outcome, Record, Ring, Row, table};

    fn row(name: &str, wall: f64, outcome: Outcome) -> Row {
        Row {
            name: name.to_owned(),
            ring: Ring::Machine,
            outcome,
            wall,
            cpu: wall / 2.0,
            waits: BTreeMap::from([("boot".to_owned(), wall / 3.0), ("copy".to_owned(), 0.2)]),
        }
    }

    #[test]
    fn table_has_the_longest_first_and_every_failure() {
        let rows = [
            row("short", 0.5, Outcome::Passed),
            row("torn", 0.4, Outcome::Failed),
            row("long", 90.0, Outcome::Passed),
        ];
        assert_eq!(
            table(&rows, Duration::from_secs(1)),
            [
                "test         ring     time        processors  waited for",
                "long         machine  1 min 30 s  45.0 s      boot 30.0 s",
                "FAILED torn  machine  0.4 s       0.2 s",
            ]
        );
    }

    #[test]
    fn record_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("times.json");
        assert_eq!(Record::load(&path).unwrap(), Record::default());
        let record = Record {
            date: "2026-12-01".to_owned(),
            tests: vec![row("a", 3.0, Outcome::Passed)],
            ..Record::default()
        };
        record.save(&path).unwrap();
        assert_eq!(Record::load(&path).unwrap(), record);
        assert_eq!(record.of("a"), Duration::from_secs(3));
        assert!(record.of("new") > Duration::from_secs(60));
    }
}
