//! `docs/reliability.md` names tests that exist.

use std::{fs, path::Path, process::Command};

#[test]
fn page_on_cuts_names_tests_that_exist() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let page = fs::read_to_string(repository.join("docs/reliability.md")).unwrap();
    let listed = Command::new("git")
        .args(["ls-files", "*.rs"])
        .current_dir(repository)
        .output()
        .unwrap();
    let paths = String::from_utf8(listed.stdout).unwrap();
    let sources = paths
        .lines()
        .map(|path| fs::read_to_string(repository.join(path)).unwrap());
    let sources: String = sources.collect();

    // a claim has several words, and nothing else on the page is written like one
    let is_claim = |word: &&str| {
        word.matches('_').count() >= 3 && word.chars().all(|c| c.is_ascii_lowercase() || c == '_')
    };
    let claims: Vec<&str> = page.split('`').filter(is_claim).collect();
    assert!(claims.len() >= 10, "{claims:?}");
    for claim in claims {
        assert!(
            sources.contains(&format!("fn {claim}(")),
            "there is no test {claim}"
        );
    }
}
