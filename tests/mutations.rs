//! The deliberate mutations of `tests/mutations`: they still fit the code, and the tests that catch them are there.
//!
//! `tests/mutations/run` applies each and runs its test, which takes minutes.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

/// As many as the promises that they break.
const LEAST: usize = 10;

#[test]
fn mutations_still_fit_the_code_and_name_tests_that_exist() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut count = 0;
    let mut said = BTreeSet::new();
    for entry in fs::read_dir(repository.join("tests/mutations")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|kind| kind != "patch") {
            continue;
        }
        count += 1;
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).unwrap();
        let mut lines = text.lines();
        let what = lines.next().unwrap();
        assert!(
            what.ends_with('.') && said.insert(what.to_owned()),
            "{name}: {what}"
        );

        let applies = Command::new("git")
            .args(["apply", "--check"])
            .arg(&path)
            .current_dir(repository)
            .output()
            .unwrap();
        let complained = String::from_utf8_lossy(&applies.stderr);
        assert!(
            applies.status.success(),
            "{name} does not apply: {complained}"
        );

        let test = lines
            .next()
            .and_then(|line| line.strip_prefix("Caught by: "));
        let (package, test) = test.and_then(|test| test.split_once(' ')).unwrap();
        let folder = match package {
            "engine" => "proto/engine",
            "landfall-proto" => "proto",
            "landfall-agent" => "agent",
            "landfall" => "controller",
            other => panic!("{name}: there is no crate {other}"),
        };
        let file = test_file(&repository.join(folder).join("src"), test);
        let function = test.rsplit("::").next().unwrap();
        let there =
            fs::read_to_string(&file).is_ok_and(|text| text.contains(&format!("fn {function}(")));
        assert!(
            there,
            "{name}: there is no test {function} in {}",
            file.display()
        );
    }
    assert!(count >= LEAST, "{count} mutations");
}

/// Returns the file of a test with this path.
fn test_file(src: &Path, test: &str) -> std::path::PathBuf {
    let mut modules: Vec<&str> = test.split("::").collect();
    modules.pop();
    if modules.last() == Some(&"tests")
        && !src.join(modules.join("/")).with_extension("rs").exists()
    {
        modules.pop();
    }
    let path = src.join(modules.join("/"));
    let alone = path.with_extension("rs");
    if alone.exists() {
        alone
    } else {
        path.join("mod.rs")
    }
}
