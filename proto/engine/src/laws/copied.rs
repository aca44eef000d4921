//! A copy of a journal holds what the journal holds, and never stands in the way of a run.

#![expect(clippy::disallowed_methods, reason = "a test looks at the files")]

use std::path::Path;

use landfall_proto::order::RunId;
use tokio_util::sync::CancellationToken;

use super::{Copy, Format, Inspect, Machine, PLAN};
use crate::{
    journal::{FileStore, Header, Journal, read},
    run::Run,
};

/// Begins or takes up the run whose journal is in this folder.
fn run(folder: &Path) -> Run<FileStore> {
    let header = Header::new(RunId::from_bytes([7; 16]), &PLAN, "order".to_owned(), 1);
    let journal = Journal::open(&folder.join("journal"), header).unwrap();
    Run::begin(journal, CancellationToken::new()).unwrap()
}

#[track_caller]
fn check_same(folder: &Path, copy: &Path) {
    let journal = read(&folder.join("journal")).unwrap().unwrap();
    assert_eq!(read(copy).unwrap().unwrap(), journal);
}

#[tokio::test]
async fn copy_has_all_that_was_journaled_and_is_taken_away_at_the_end() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let place = there.path().join("landfall");
    std::fs::create_dir(&place).unwrap();
    let copy = place.join("journal.jsonl");
    let machine = Machine::default();
    let mut first = run(here.path());
    first.step(&Inspect(&machine)).await.unwrap();
    assert_eq!(read(&copy).unwrap(), None);
    first.keep_copy(&copy);
    check_same(here.path(), &copy);
    first.step(&Format(&machine)).await.unwrap();
    check_same(here.path(), &copy);
    drop(first);
    // a later process begins its copy anew
    let mut second = run(here.path());
    second.keep_copy(&copy);
    check_same(here.path(), &copy);
    second.end_copy(false);
    assert!(!place.exists());
    second.step(&Inspect(&machine)).await.unwrap();
    assert!(!place.exists());
}

#[tokio::test]
async fn copy_that_has_no_place_is_made_up_for_once_it_has() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let copy = there.path().join("missing/journal.jsonl");
    let machine = Machine::default();
    let mut run = run(here.path());
    run.keep_copy(&copy);
    run.step(&Inspect(&machine)).await.unwrap();
    assert!(!copy.exists());
    std::fs::create_dir(there.path().join("missing")).unwrap();
    run.step(&Format(&machine)).await.unwrap();
    check_same(here.path(), &copy);
    run.end_copy(true);
    let kept = read(&copy).unwrap();
    run.step(&Copy(&machine)).await.unwrap();
    assert_eq!(read(&copy).unwrap(), kept);
}

#[tokio::test]
async fn torn_last_line_is_passed_over_and_left_as_it_is() {
    let here = tempfile::tempdir().unwrap();
    let path = here.path().join("journal");
    run(here.path())
        .step(&Inspect(&Machine::default()))
        .await
        .unwrap();
    let whole = read(&path).unwrap().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend(b"{\"event\":");
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(read(&path).unwrap().unwrap(), whole);
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}
