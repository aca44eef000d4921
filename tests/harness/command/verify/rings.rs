//! Which ring a test belongs to, and which rooms of the code it covers, as its own file says it.
//!
//! A test says its ring by the feature without which it is ignored; a file says in a line `Covers:` of
//! its opening what its tests are about.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// How much it takes to run a test.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Ring {
    /// Nothing but the programs: no rig.
    #[default]
    Program,
    /// A part of the rig, most often a machine: a part of every check.
    Machine,
    /// The same, for `--all` and slices of it.
    Scenario,
}

/// What the sources say of one test.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) ring: Ring,
    /// Folders and files, from the repository's root on.
    pub(super) covers: Vec<String>,
}

/// Reads where every test belongs that is not of the first ring, by its name as the test program has it.
pub(super) fn read(tests: &Path) -> Result<BTreeMap<String, Place>> {
    let mut places = BTreeMap::new();
    read_folder(tests, "", &mut places)?;
    Ok(places)
}

fn read_folder(folder: &Path, module: &str, places: &mut BTreeMap<String, Place>) -> Result<()> {
    let reading = || format!("reading {}", folder.display());
    for entry in fs::read_dir(folder).with_context(reading)? {
        let path = entry.with_context(reading)?.path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let inside = format!("{module}{stem}::");
        if path.extension().is_some_and(|ending| ending == "rs") {
            let text = fs::read_to_string(&path).with_context(reading)?;
            places.extend(of_file(&inside, &text));
        } else if path.with_extension("rs").is_file() {
            // the folder of a module: others hold recipes and programs
            read_folder(&path, &inside, places)?;
        }
    }
    Ok(())
}

/// The tests of one file that want a feature.
fn of_file(module: &str, text: &str) -> Vec<(String, Place)> {
    let covers: Vec<String> = text
        .lines()
        .take_while(|line| line.starts_with("//!"))
        .filter_map(|line| line.strip_prefix("//! Covers: "))
        .flat_map(|list| list.trim_end_matches('.').split(", "))
        .map(str::to_owned)
        .collect();
    let mut ring = None;
    let mut found = Vec::new();
    for line in text.lines() {
        ring = match line {
            _ if line.contains("feature = \"machines\"") => Some(Ring::Machine),
            _ if line.contains("feature = \"scenarios\"") => Some(Ring::Scenario),
            _ => ring,
        };
        let function = line.trim_start().strip_prefix("fn ");
        if let (Some(name), Some(ring)) = (function.and_then(|rest| rest.split('(').next()), ring) {
            let covers = covers.clone();
            found.push((format!("{module}{name}"), Place { ring, covers }));
        }
        if function.is_some() {
            ring = None;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Ring, of_file, read};

    const FILE: &str = r#"//! About something.
//!
//! Covers: agent/src/story.rs, controller/src/visit.

#[test]
fn quick() {}

#[test]
#[cfg_attr(
    not(feature = "machines"),
    ignore = "starts a machine"
)]
fn booted() {}

fn help() {}

#[cfg_attr(not(feature = "scenarios"), ignore = "more")]
fn played() {}
"#;

    #[test]
    fn test_is_of_the_ring_whose_feature_it_wants() {
        let found = of_file("a::b::", FILE);
        let rings: Vec<_> = found
            .iter()
            .map(|(name, place)| (name.as_str(), place.ring))
            .collect();
        let expected = [
            ("a::b::booted", Ring::Machine),
            ("a::b::played", Ring::Scenario),
        ];
        assert_eq!(rings, expected);
        let covers = ["agent/src/story.rs", "controller/src/visit"];
        assert_eq!(found[1].1.covers, covers);
    }

    #[test]
    fn every_scenario_says_what_it_covers_and_that_is_there() {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
        let places = read(tests).unwrap();
        assert!(places.len() > 40, "{}", places.len());
        for (name, place) in &places {
            if place.ring == Ring::Scenario {
                assert!(
                    !place.covers.is_empty(),
                    "{name} does not say what it covers"
                );
            }
            for covered in &place.covers {
                assert!(tests.join("..").join(covered).exists(), "{name}: {covered}");
            }
        }
    }
}
