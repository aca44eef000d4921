//! Codes of failures: each has a page, each page has a failure, and `docs/errors.md` is what the pages say.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use landfall::explain;
use landfall_tests::binaries;

/// Folders whose failures a person can meet.
const ROOMS: &[&str] = &[
    "agent/src",
    "controller/src",
    "proto/src",
    "proto/engine/src",
];

/// Where failures are made that nobody meets: tests in files of their own.
const ELSEWHERE: &[&str] = &["proto/src/laws.rs", "proto/engine/src/laws/"];

/// Functions that begin a failure and leave its code to whoever called them.
const NAMED_BY_CALLERS: &[&str] = &[
    "controller/src/local/nix/hardware.rs: check_syntax",
    "controller/src/phases/hardware.rs: check",
    "controller/src/phases/hardware.rs: check_json",
    "controller/src/remote/wait.rs: late",
];

#[test]
fn every_code_has_a_page() {
    let known: BTreeSet<&str> = explain::all().map(|page| page.code).collect();
    let unknown: Vec<String> = codes()
        .into_iter()
        .filter(|(code, _)| !known.contains(code.as_str()))
        .map(|(code, file)| format!("{code} in {file}"))
        .collect();
    none("codes without a page", &unknown);
}

#[test]
fn every_page_is_of_a_code_that_is_given() {
    let given = codes();
    let idle: Vec<&str> = explain::all()
        .map(|page| page.code)
        .filter(|code| !given.contains_key(*code))
        .collect();
    none("pages of codes that no failure has", &idle);
}

/// A function that begins a failure names its code, or the file names one for all that have none.
#[test]
fn every_failure_has_a_code() {
    let mut bare = Vec::new();
    for (file, text) in sources() {
        if text.contains(".or_code(") {
            continue;
        }
        for (name, body) in functions(&text) {
            let place = format!("{file}: {name}");
            if body.contains("Failure::new(")
                && !body.contains("code(")
                && !NAMED_BY_CALLERS.contains(&place.as_str())
            {
                bare.push(place);
            }
        }
    }
    none("functions whose failures have no code", &bare);
}

#[test]
fn list_of_errors_is_what_the_pages_say() {
    let path = root().join("docs/errors.md");
    let pages = explain::markdown();
    if std::env::var_os("LANDFALL_WRITE_GOLDEN").is_some() {
        return fs::write(&path, pages).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == pages,
        "docs/errors.md differs; LANDFALL_WRITE_GOLDEN=1 writes it anew"
    );
}

/// Command lines that nixos-anywhere refuses with a message, its words, and the code that stands for them here.
const REFUSED: &[(&str, &str, &str)] = &[
    (
        "-f . h",
        "Please specify the name of the NixOS configuration",
        "LF0411",
    ),
    ("-f .#a", "ssh-host must be set", "LF0412"),
    ("h", "flake must be set", "LF0413"),
    (
        "-f .#a --phases kexec,format h",
        "Unknown phase: format",
        "LF0410",
    ),
    (
        "-f .#a --generate-hardware-config facter ./x h",
        "Unknown hardware config backend: facter",
        "LF0410",
    ),
    (
        "-f .#a h --generate-hardware-config nixos-facter",
        "Missing arguments for --generate-hardware-config <backend> <path>",
        "LF0410",
    ),
    (
        "-f .#a --disko-mode destroy h",
        "Supported values for --disko-mode are disko, mount and format. Unknown mode : destroy",
        "LF0410",
    ),
    (
        "-f .#a --build-on here h",
        "Supported values for --build-on are auto, local and remote. Unknown mode : here",
        "LF0410",
    ),
    (
        "-f .#a --build-on-remote --build-on local h",
        "Conflicting flags: --build-on local and --build-on-remote used.",
        "LF0410",
    ),
    (
        "-s /d /s --disko-mode mount h",
        "--disko-mode cannot be used if --store-paths is used",
        "LF0410",
    ),
    ("-f", "$2: unbound variable", "LF0410"),
    (
        "--vm-test -s /d /s",
        "--vm-test is not supported with --store-paths",
        "LF0416",
    ),
    (
        "--vm-test -f .#a --build-on-remote",
        "--vm-test is not supported with --build-on-remote",
        "LF0416",
    ),
    (
        "--vm-test -f .#a --extra-files /x",
        "--vm-test is not supported with --extra-files",
        "LF0416",
    ),
    (
        "--vm-test -f .#a --disk-encryption-keys /a /b",
        "--vm-test is not supported with --disk-encryption-keys",
        "LF0416",
    ),
    (
        "--vm-test -f .#a --generate-hardware-config nixos-facter ./x",
        "--vm-test is not supported with --generate-hardware-config.",
        "LF0416",
    ),
];

#[test]
fn refused_command_line_names_the_heir_of_the_old_message() {
    for (line, message, code) in REFUSED {
        let words: Vec<&str> = line.split(' ').collect();
        let (exit, stdout, stderr) = landfall(&words);
        let page = format!("\nhint: read more with `landfall explain {code}`\n");
        assert_eq!((exit, stdout.as_str()), (Some(2), ""), "landfall {line}");
        assert!(
            stderr.starts_with("error: ") && stderr.ends_with(&page),
            "landfall {line}: {stderr}"
        );
        let found = explain::answer(message).unwrap();
        assert!(found.contains(code), "{message}: {found}");
    }
}

/// Runs landfall far from the settings of whoever runs the tests.
fn landfall(words: &[&str]) -> (Option<i32>, String, String) {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(binaries::controller());
    command.args(words).env_clear().env("HOME", home.path());
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    (output.status.code(), stdout, stderr)
}

#[test]
fn code_is_explained_on_stdout() {
    let explain = |words: &[&str]| landfall(&[&["explain"], words].concat());
    let (code, stdout, stderr) = explain(&["lf0102"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(
        stdout.starts_with("LF0102  The machine refuses the connection\n"),
        "{stdout}"
    );
    let (code, stdout, _) = explain(&["Failed", "to", "kexec"]);
    assert_eq!(code, Some(0));
    assert!(stdout.contains("LF0332"), "{stdout}");
    let (code, stdout, _) = explain(&[]);
    assert_eq!(code, Some(0));
    assert!(explain::all().all(|page| stdout.contains(page.code)));

    let (code, stdout, stderr) = explain(&["LF0118"]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert!(
        stderr.starts_with("error: cannot explain LF0118 [LF0440]\n")
            && stderr.contains("`landfall explain LF0119`"),
        "{stderr}"
    );
}

#[test]
fn pages_name_options_that_exist() {
    let help = Command::new(binaries::controller())
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let known: BTreeSet<&str> = help
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
        .collect();
    let mut wrong = Vec::new();
    for page in explain::all() {
        let texts = page.causes.iter().chain(&page.advice);
        let typed = texts.flat_map(|text| text.split('`').skip(1).step_by(2));
        for line in typed.filter(|line| line.contains("landfall …") || line.contains("landfall -"))
        {
            // what is handed through to another program is not ours
            let ours = line.replace("--kexec-extra-flags --", "--kexec-extra-flags ");
            let options = ours.split(' ').filter(|word| word.starts_with("--"));
            let unknown = options.filter(|option| !known.contains(option));
            wrong.extend(unknown.map(|option| format!("{}: {option}", page.code)));
        }
    }
    none("options that do not exist", &wrong);
}

#[track_caller]
fn none<T: AsRef<str>>(what: &str, found: &[T]) {
    let found: Vec<&str> = found.iter().map(AsRef::as_ref).collect();
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

/// Every code that the sources give, and one file that does.
fn codes() -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (file, text) in sources() {
        for (at, _) in text.match_indices("LF") {
            let code: String = text[at..].chars().take(6).collect();
            let is_code = code.len() == 6 && code[2..].bytes().all(|byte| byte.is_ascii_digit());
            if is_code {
                all.insert(code, file.clone());
            }
        }
    }
    all
}

/// The sources of the rooms without their tests.
fn sources() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for room in ROOMS {
        collect(&root().join(room), &mut all);
    }
    let shown = |path: &Path| path.strip_prefix(root()).unwrap().display().to_string();
    all.sort();
    all.into_iter()
        .map(|path| (shown(&path), path))
        .filter(|(file, _)| !ELSEWHERE.iter().any(|folder| file.starts_with(folder)))
        .map(|(file, path)| {
            let text = fs::read_to_string(path).unwrap();
            let end = text.find("\n#[cfg(test)]\nmod ").unwrap_or(text.len());
            (file, text[..end].to_owned())
        })
        .collect()
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // the tests of a module may have a file of their own
        if path.file_stem().is_some_and(|stem| stem == "tests") {
            continue;
        }
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|end| end == "rs") {
            into.push(path);
        }
    }
}

/// Name and text of each function, as rustfmt lays them out; a function inside another one belongs to both.
fn functions(text: &str) -> Vec<(String, String)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut all = Vec::new();
    for (begin, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else {
            continue;
        };
        let indent = &line[..line.len() - line.trim_start().len()];
        let last = format!("{indent}}}");
        let length = lines[begin..].iter().position(|line| *line == last);
        let body = &lines[begin..begin + length.unwrap_or(0)];
        all.push((name, body.join("\n")));
    }
    all
}

fn function_name(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "fn")?;
    let before = &words[..at];
    let qualifies = |word: &&str| word.starts_with("pub") || ["async", "const"].contains(word);
    let name = words.get(at + 1)?;
    before
        .iter()
        .all(qualifies)
        .then(|| name.split(['(', '<']).next().unwrap_or(name).to_owned())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}
