//! The house rules that a program can check. Each failure names every place at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Who may know whom, among our own crates.
const EDGES: &[(&str, &[&str])] = &[
    ("landfall-proto", &[]),
    ("engine", &["landfall-proto"]),
    ("landfall-agent", &["engine", "landfall-proto"]),
    ("landfall", &["engine", "landfall-proto"]),
    ("landfall-door", &[]),
    (
        "landfall-tests",
        &["engine", "landfall", "landfall-agent", "landfall-proto"],
    ),
];

/// The rooms that do what is forbidden elsewhere: files, processes, sockets.
const IO_ROOMS: &[&str] = &[
    "agent/src/machine/mod.rs",
    "agent/src/tunnel.rs",
    "controller/src/local/mod.rs",
    "controller/src/remote/mod.rs",
    "proto/engine/src/copy.rs",
    "proto/engine/src/journal.rs",
    "proto/engine/src/laws/copied.rs",
    "tests/harness/patience.rs",
];

const LONGEST_FILE: usize = 800;
const NAMES_OF_NOTHING: &[&str] = &[
    "utils", "util", "helpers", "helper", "common", "manager", "misc",
];

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    let without = manifests().into_iter().filter(|path| {
        let text = fs::read_to_string(path).unwrap();
        !text.contains("[lints]\nworkspace = true")
    });
    none(
        "crates without `[lints] workspace = true`",
        without.map(shown),
    );
}

#[test]
fn crates_know_only_whom_they_may() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root());
    let output = cargo.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let allowed: BTreeMap<_, _> = EDGES.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let Some(may) = allowed.get(name) else {
            wrong.push(format!("{name} is not in the list"));
            continue;
        };
        for dependency in package["dependencies"].as_array().unwrap() {
            let other = dependency["name"].as_str().unwrap();
            if allowed.contains_key(other) && !may.contains(&other) {
                wrong.push(format!("{name} -> {other}"));
            }
        }
    }
    none("edges between crates", wrong);
}

#[test]
fn every_module_says_what_it_is_for() {
    let silent = sources()
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//!"));
    none(
        "modules that do not open with `//!`",
        silent.map(|(path, _)| shown(path)),
    );
}

#[test]
fn no_file_is_too_long_to_read() {
    let long = sources().into_iter().filter_map(|(path, text)| {
        let count = text.lines().count();
        (count > LONGEST_FILE).then(|| format!("{}: {count} lines", shown(path)))
    });
    none("files that want to be two", long);
}

#[test]
fn only_the_listed_rooms_do_io() {
    let opens = concat!("expect(clippy::disallowed_", "methods");
    let rooms: BTreeSet<String> = sources()
        .into_iter()
        .filter(|(_, text)| text.replace(char::is_whitespace, "").contains(opens))
        .map(|(path, _)| shown(path))
        .collect();
    let listed: BTreeSet<String> = IO_ROOMS.iter().map(|room| (*room).to_owned()).collect();
    none(
        "rooms that open the I/O lint and are not listed",
        rooms.difference(&listed),
    );
    none(
        "rooms that are listed and do no I/O",
        listed.difference(&rooms),
    );
}

#[test]
fn lints_are_opened_with_a_reason() {
    let marks = [concat!("[", "allow("), concat!("[", "expect(")];
    let mut bare = Vec::new();
    for (path, text) in sources() {
        for mark in marks {
            let attributes = text
                .split(mark)
                .skip(1)
                .filter_map(|rest| rest.split(']').next());
            let silent = attributes.filter(|attribute| !attribute.contains("reason ="));
            bare.extend(silent.map(|attribute| format!("{}: {mark}{attribute}", shown(&path))));
        }
    }
    none("lints opened without a reason", bare);
}

#[test]
fn what_is_left_to_do_has_a_number() {
    let mark = concat!("TO", "DO");
    let bare = lines().into_iter().filter_map(|(place, line)| {
        let rest = line.split_once(mark)?.1;
        (!rest.starts_with("(#")).then_some(place)
    });
    none("things left to do without a number", bare);
}

#[test]
fn every_test_runs() {
    let skipped = lines().into_iter().filter_map(|(place, line)| {
        let ignored = [concat!("#[", "ignore"), concat!("should_", "panic")];
        ignored
            .iter()
            .any(|word| line.contains(word))
            .then_some(place)
    });
    none("tests that are ignored or expect a panic", skipped);
}

#[test]
fn names_are_of_things() {
    let empty = tracked().into_iter().filter(|path| {
        let stem = |part: &std::ffi::OsStr| Path::new(part).file_stem().map(ToOwned::to_owned);
        path.iter()
            .filter_map(stem)
            .any(|name| NAMES_OF_NOTHING.iter().any(|nothing| name == *nothing))
    });
    none(
        "files and folders whose name says nothing",
        empty.map(|path| path.display().to_string()),
    );
}

#[test]
fn golden_files_are_all_used() {
    let tests: String = sources().into_iter().map(|(_, text)| text).collect();
    let unused = tracked().into_iter().filter(|path| {
        let golden = path.iter().any(|part| part == "golden");
        let name = path.file_name().unwrap().to_string_lossy();
        golden && !tests.contains(&*name) && !tests.contains(name.trim_end_matches(".txt"))
    });
    none(
        "golden files no test reads",
        unused.map(|path| path.display().to_string()),
    );
}

#[track_caller]
fn none<T: AsRef<str>>(what: &str, found: impl IntoIterator<Item = T>) {
    let found: Vec<String> = found
        .into_iter()
        .map(|one| one.as_ref().to_owned())
        .collect();
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// Everything git knows or would take, relative to the root.
fn tracked() -> Vec<PathBuf> {
    let mut git = Command::new("git");
    git.args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ])
    .current_dir(root());
    let output = git.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let all: BTreeSet<PathBuf> = text
        .split('\0')
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .collect();
    // what is deleted and not yet committed is still listed
    all.into_iter()
        .filter(|path| root().join(path).is_file())
        .collect()
}

/// Our Rust files with their text.
fn sources() -> Vec<(PathBuf, String)> {
    let rust = tracked()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|end| end == "rs"));
    rust.map(|path| {
        (
            root().join(&path),
            fs::read_to_string(root().join(path)).unwrap(),
        )
    })
    .collect()
}

/// Every line of our Rust files with its place.
fn lines() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for (path, text) in sources() {
        let path = shown(path);
        for (index, line) in text.lines().enumerate() {
            all.push((format!("{path}:{}", index + 1), line.to_owned()));
        }
    }
    all
}

fn manifests() -> Vec<PathBuf> {
    let all = tracked()
        .into_iter()
        .filter(|path| path.ends_with("Cargo.toml"));
    all.filter(|path| path.components().count() > 1)
        .map(|path| root().join(path))
        .collect()
}

fn shown(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    path.strip_prefix(root())
        .unwrap_or(path)
        .display()
        .to_string()
}
