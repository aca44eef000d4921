//! The deliberate mutations of `tests/mutations`: they still fit the code, and the tests that catch them are there.
//!
//! `tests/mutations/run` applies them one upon the other and runs the test of each, which takes
//! minutes.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

/// As many as the promises that they break.
const LEAST: usize = 10;

#[test]
fn mutations_still_fit_the_code_and_name_tests_that_exist() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut said = BTreeSet::new();
    let patches = patches(repository);
    for path in &patches {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(path).unwrap();
        let mut lines = text.lines();
        let what = lines.next().unwrap();
        assert!(
            what.ends_with('.') && said.insert(what.to_owned()),
            "{name}: {what}"
        );

        let names: BTreeSet<&str> = text
            .split("mutant(\"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .collect();
        assert_eq!(names, BTreeSet::from([&*name]), "what switches it on");
        if let Err(complained) = apply(repository, [path]) {
            panic!("{name} does not apply: {complained}");
        }

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
    assert!(patches.len() >= LEAST, "{} mutations", patches.len());
}

#[test]
fn mutations_fit_one_upon_the_other() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    if let Err(complained) = apply(repository, &patches(repository)) {
        panic!("they do not apply in the order of their names: {complained}");
    }
}

/// Returns all patches, in the order in which the script applies them.
fn patches(repository: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(repository.join("tests/mutations")).unwrap();
    let mut patches: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "patch"))
        .collect();
    patches.sort_by_key(|path| path.with_extension(""));
    patches
}

/// Looks whether patches apply one upon the other, and returns what git says where they do not.
fn apply<'a>(
    repository: &Path,
    patches: impl IntoIterator<Item = &'a PathBuf>,
) -> Result<(), String> {
    // of several files git would look at each alone
    let mut together = tempfile::NamedTempFile::new().unwrap();
    for patch in patches {
        together.write_all(&fs::read(patch).unwrap()).unwrap();
    }
    let applies = Command::new("git")
        .args(["apply", "--check"])
        .arg(together.path())
        .current_dir(repository)
        .output()
        .unwrap();
    match applies.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&applies.stderr).into_owned()),
    }
}

/// Returns the file of a test with this path.
fn test_file(src: &Path, test: &str) -> PathBuf {
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
