//! The command line of the real program: what it takes, what it refuses, and in which words.
//!
//! Nothing here names a host that exists. Every option in every way to write it is in `options.rs`.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use landfall_tests::binaries;

/// Runs landfall with words that are separated by blanks, far from the settings of whoever runs the tests.
fn landfall(line: &str) -> Output {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(binaries::controller());
    command.args(line.split(' ').filter(|word| !word.is_empty()));
    command
        .env_clear()
        .env("HOME", home.path())
        .env("PATH", std::env::var_os("PATH").unwrap());
    command.current_dir(home.path()).stdin(Stdio::null());
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// The line is one of usage: exit code 2, nothing on stdout, and this is the first line of stderr.
#[track_caller]
fn refused(line: &str, first: &str) {
    let output = landfall(line);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "landfall {line}\n{stderr}");
    assert_eq!(text(&output.stdout), "", "landfall {line}");
    assert_eq!(
        stderr.lines().next(),
        Some(first),
        "landfall {line}\n{stderr}"
    );
}

#[track_caller]
fn golden(name: &str, actual: &str) {
    let path = folder().join(name);
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    if actual != expected && std::env::var_os("LANDFALL_WRITE_GOLDEN").is_some() {
        return std::fs::write(&path, actual).unwrap();
    }
    assert_eq!(
        actual, expected,
        "{name} differs; LANDFALL_WRITE_GOLDEN=1 writes it anew"
    );
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

#[test]
fn help_is_as_written() {
    let output = landfall("--help");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stderr), "");
    golden("help.txt", text(&output.stdout));
}

#[test]
fn help_of_install_tells_the_same_options() {
    let options = |line| {
        let output = landfall(line);
        let options = text(&output.stdout).split_once("\nOptions:\n").unwrap().1;
        // only the whole program has a version
        options.replace("  -V, --version\n          Print version\n\n", "")
    };
    assert_eq!(options("install --help"), options("--help"));
}

#[test]
fn readme_and_help_have_the_same_exit_codes() {
    let readme = std::fs::read_to_string(folder().join("../../README.md")).unwrap();
    let rows = readme
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let told: Vec<String> = rows
        .filter(|row| row.starts_with(|first: char| first.is_ascii_digit()))
        .map(|row| row.replace(" | ", " "))
        .collect();
    let output = landfall("--help");
    let help = text(&output.stdout).split_once("Exit codes:\n").unwrap().1;
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(help.lines().map(words).collect::<Vec<_>>(), told);
}

#[test]
fn version_is_one_line() {
    let output = landfall("--version");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        text(&output.stdout),
        format!("landfall {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn option_without_its_value_is_refused() {
    let lacks =
        |option: &str| format!("error: a value is required for '{option}' but none was supplied");
    for (line, option) in [
        ("-f", "--flake <URI#NAME>"),
        ("--target-host", "--target-host <HOST>"),
        ("--extra-files", "--extra-files <DIR>"),
        ("--phases", "--phases <LIST>"),
        ("--kexec", "--kexec <FILE|URL>"),
        ("--kexec-extra-flags", "--kexec-extra-flags <FLAGS>"),
        ("-i", "-i <FILE>"),
        ("-p", "--ssh-port <PORT>"),
        ("--post-kexec-ssh-port", "--post-kexec-ssh-port <PORT>"),
        ("--ssh-option", "--ssh-option <KEYWORD=VALUE>"),
        ("--host-key", "--host-key <SHA256:…>"),
        ("--reconnect-timeout", "--reconnect-timeout <TIME>"),
    ] {
        refused(line, &lacks(option));
    }
    refused("-f --yes", &lacks("--flake <URI#NAME>"));
    refused(
        "-s /disko",
        "error: 2 values required for '--store-paths <DISKO> <SYSTEM>' but 1 was provided",
    );
    refused(
        "--option cores",
        "error: 2 values required for '--option <NAME> <VALUE>' but 1 was provided",
    );
}

#[test]
fn wrong_value_is_refused_with_the_reason() {
    for (line, first) in [
        (
            "--phases kexec,format",
            "error: invalid value 'kexec,format' for '--phases <LIST>': \
             `format` is no phase; the phases are kexec, disko, install, reboot",
        ),
        (
            "-f github:a/b",
            "error: invalid value 'github:a/b' for '--flake <URI#NAME>': it names no configuration; \
             to install `nixosConfigurations.foo`, append `#foo`: `github:a/b#foo` [LF0411]",
        ),
        (
            "-p 0",
            "error: invalid value '0' for '--ssh-port <PORT>': 0 is not in 1..=65535",
        ),
        (
            "-p 65536",
            "error: invalid value '65536' for '--ssh-port <PORT>': 65536 is not in 1..=65535",
        ),
        (
            "-p ssh",
            "error: invalid value 'ssh' for '--ssh-port <PORT>': invalid digit found in string",
        ),
        (
            "--disko-mode destroy",
            "error: invalid value 'destroy' for '--disko-mode <MODE>'",
        ),
        (
            "--build-on here",
            "error: invalid value 'here' for '--build-on <WHERE>'",
        ),
        (
            "--host-key-policy no",
            "error: invalid value 'no' for '--host-key-policy <POLICY>'",
        ),
        (
            "--ssh-option ProxyJump",
            "error: invalid value 'ProxyJump' for '--ssh-option <KEYWORD=VALUE>': write it as `Keyword=value`",
        ),
        (
            "--host-key MD5:00",
            "error: invalid value 'MD5:00' for '--host-key <SHA256:…>': \
             a fingerprint is `SHA256:` and 43 characters, as `ssh-keygen -l` prints it",
        ),
        (
            "--reconnect-timeout soon",
            "error: invalid value 'soon' for '--reconnect-timeout <TIME>': write it as `90s`, `15m` or `2h`",
        ),
        (
            "--kexec ftp://h/x",
            "error: invalid value 'ftp://h/x' for '--kexec <FILE|URL>': \
             `ftp` is not supported; use https, http or a path",
        ),
        (
            "--yes=1",
            "error: unexpected value '1' for '--yes' found; no more were expected",
        ),
        (
            "-f .#a host:22",
            "error: invalid value 'host:22' for '[HOST]': `host:22` is neither a host nor an \
          IPv6 address; give the port with `-p`, or write `ssh://host:port`",
        ),
        (
            "-f .#a root@",
            "error: invalid value 'root@' for '[HOST]': it names no host",
        ),
        (
            "-f .#a --target-host=-x",
            "error: invalid value '-x' for '--target-host <HOST>': `-x` is no name of a host",
        ),
    ] {
        refused(line, first);
    }
}

#[test]
fn what_only_the_whole_tells_is_refused_with_a_hint() {
    for (line, stderr) in [
        (
            "",
            "error: cannot tell which machine to install [LF0412]\n\
             hint: name it: `landfall … root@HOST`\n\
             hint: read more with `landfall explain LF0412`\n",
        ),
        (
            "h",
            "error: cannot tell what to install [LF0413]\n\
             caused by: phase disko needs a configuration\n\
             hint: name one with `--flake URI#NAME` or `--store-paths DISKO SYSTEM`\n\
             hint: read more with `landfall explain LF0413`\n",
        ),
        (
            "-f .#a h i",
            "error: cannot install more than one machine at a time [LF0415]\n\
             caused by: `i` is one word too many\n\
             hint: run landfall once for each machine; put quotes around a value with blanks\n\
             hint: read more with `landfall explain LF0415`\n",
        ),
        (
            "-f .#a -p 22 ssh://h:2222",
            "error: cannot tell which port to use [LF0414]\n\
             caused by: the host says 2222, `--ssh-port` says 22\n\
             hint: give the port once\n\
             hint: read more with `landfall explain LF0414`\n",
        ),
    ] {
        let output = landfall(line);
        assert_eq!(text(&output.stderr), stderr, "landfall {line}");
        assert_eq!(
            (output.status.code(), text(&output.stdout)),
            (Some(2), ""),
            "landfall {line}"
        );
    }
}

#[test]
fn recording_is_shown_as_its_maker_saw_it() {
    let output = landfall(&format!(
        "replay {}",
        folder().join("recording.jsonl").display()
    ));
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), ""));
    golden("replay.txt", text(&output.stderr));
}

#[test]
fn recording_of_another_format_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.jsonl");
    std::fs::write(
        &file,
        "{\"landfall\":\"9.0.0\",\"format\":9,\"host\":\"h\"}\n",
    )
    .unwrap();
    let output = landfall(&format!("replay {}", file.display()));
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        text(&output.stderr),
        "error: cannot read the recording [LF0430]\n\
         caused by: it has format 9, this landfall reads 1\n\
         hint: record a run with `--json > FILE`\n\
         hint: read more with `landfall explain LF0430`\n"
    );
}
