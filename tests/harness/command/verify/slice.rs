//! A part of the scenarios: which ones belong to a commit, and in which order.
//!
//! Every scenario is of one of N slices, as equal in time as they can be; a commit's own hash says which
//! is its. What covers rooms that changed comes first, of whichever slice.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};

/// How far back a change reaches: a day's work lands several times.
const SINCE: &str = "4 hours";

/// One scenario, as far as choosing goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) name: String,
    pub(super) expected: Duration,
    pub(super) covers: Vec<String>,
}

/// A commit, and the files that changed up to it.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// The commit's hash, in hexadecimal digits.
    pub(super) commit: String,
    pub(super) files: Vec<String>,
}

impl Change {
    /// Asks git about the last commit of `repository`, and those of some hours before it.
    pub(super) fn read(repository: &Path) -> Result<Self> {
        let git = |arguments: &[&str]| -> Result<String> {
            let output = Command::new("git")
                .args(arguments)
                .current_dir(repository)
                .output()
                .context("starting git")?;
            let complained = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "git {arguments:?}: {complained}");
            Ok(String::from_utf8_lossy(&output.stdout)
                .trim_end()
                .to_owned())
        };
        let commit = git(&["rev-parse", "HEAD"])?;
        let date = git(&["show", "--no-patch", "--format=%cI", "HEAD"])?;
        let since = format!("--since={date} - {SINCE}");
        let files = git(&["log", "--name-only", "--format=", &since])?;
        Ok(Self {
            commit,
            files: files.lines().map(str::to_owned).collect(),
        })
    }

    fn touches(&self, rooms: &[String]) -> bool {
        let inside = |file: &String, room: &String| {
            let rest = file.strip_prefix(room.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.files
            .iter()
            .any(|file| rooms.iter().any(|room| inside(file, room)))
    }
}

/// Puts candidates into slices of about `time`, played in so many lanes.
pub(super) fn slices(
    mut candidates: Vec<Candidate>,
    time: Duration,
    lanes: usize,
) -> Vec<Vec<Candidate>> {
    let whole: f64 = candidates
        .iter()
        .map(|one| one.expected.as_secs_f64())
        .sum();
    let of_one = time.as_secs_f64() * f64::from(u32::try_from(lanes).unwrap_or(1));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a number of slices"
    )]
    let count = ((whole / of_one.max(1.0)).ceil() as usize).max(1);
    // the longest first, each to the slice that has least
    candidates.sort_by(|a, b| b.expected.cmp(&a.expected).then(a.name.cmp(&b.name)));
    let mut slices = vec![(Duration::ZERO, Vec::new()); count];
    for candidate in candidates {
        let least = slices.iter_mut().min_by_key(|(time, _)| *time);
        if let Some((time, slice)) = least {
            *time += candidate.expected;
            slice.push(candidate);
        }
    }
    slices.into_iter().map(|(_, slice)| slice).collect()
}

/// What is to be played of these, in order: what covers the change, then the rest of the commit's slice.
pub(super) fn choose(slices: &[Vec<Candidate>], change: &Change) -> Vec<Candidate> {
    let digits = change.commit.get(..8).unwrap_or_default();
    let number = usize::from_str_radix(digits, 16).unwrap_or_default();
    let own = &slices[number % slices.len()];
    let covering = slices
        .iter()
        .flatten()
        .filter(|one| change.touches(&one.covers));
    let mut chosen: Vec<Candidate> = covering.cloned().collect();
    for one in own {
        if !chosen.contains(one) {
            chosen.push(one.clone());
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use super::{Candidate, Change, choose, slices};

    fn candidate(name: &str, seconds: u64, covers: &str) -> Candidate {
        Candidate {
            name: name.to_owned(),
            expected: Duration::from_secs(seconds),
            covers: vec![covers.to_owned()],
        }
    }

    fn some() -> Vec<Candidate> {
        vec![
            candidate("a", 300, "agent/src/steps"),
            candidate("b", 200, "controller/src/visit"),
            candidate("c", 200, "agent/src/story.rs"),
            candidate("d", 100, "controller/src"),
            candidate("e", 90, "proto"),
        ]
    }

    fn names(of: &[Candidate]) -> Vec<&str> {
        of.iter().map(|one| one.name.as_str()).collect()
    }

    #[test]
    fn every_scenario_is_of_one_slice_and_some_commit_plays_it() {
        let slices = slices(some(), Duration::from_secs(450), 1);
        assert_eq!(slices.len(), 2);
        let mut played = BTreeSet::new();
        for commit in ["00000000ff", "00000001ff"] {
            let change = Change {
                commit: commit.to_owned(),
                files: Vec::new(),
            };
            let chosen = choose(&slices, &change);
            assert!(names(&chosen).len() >= 2, "{chosen:?}");
            played.extend(chosen.into_iter().map(|one| one.name));
        }
        assert_eq!(played.len(), some().len());
        assert_eq!(slices.concat().len(), some().len());
    }

    #[test]
    fn what_covers_the_change_comes_first() {
        let slices = slices(some(), Duration::from_secs(450), 1);
        let change = Change {
            commit: "00000000ff".to_owned(),
            files: vec![
                "proto/src/wire.rs".to_owned(),
                "agent/src/story.rs".to_owned(),
            ],
        };
        let chosen = choose(&slices, &change);
        let first: BTreeSet<_> = names(&chosen[..2]).into_iter().collect();
        assert_eq!(first, BTreeSet::from(["c", "e"]));
    }

    #[test]
    fn room_is_not_taken_for_another_that_begins_like_it() {
        let change = Change {
            commit: String::new(),
            files: vec!["controller/src/visitor.rs".to_owned()],
        };
        assert!(!change.touches(&["controller/src/visit".to_owned()]));
        assert!(change.touches(&["controller/src".to_owned()]));
    }
}
