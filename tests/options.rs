//! Every option of the command line, in every way in which it can be written, fed to the real program.
//!
//! The table below is held to clap's own list, so that no option is forgotten. Nothing here reaches a machine: a line is
//! seen to be taken, word for word, where it is refused only because it names no machine.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    net::TcpListener,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Output, Stdio},
};

use landfall::cli::{self, Environment, Stop, Task};
use landfall_tests::binaries;

/// What becomes of an option that is given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Twice {
    /// Both count.
    Adds,
    /// The last one counts, and that is told.
    Last,
    /// It says the same twice.
    Same,
    /// It is refused.
    Refused,
}

#[derive(Debug)]
struct Row {
    /// All spellings.
    names: &'static [&'static str],
    /// Words that are right as its values, separated by blanks.
    right: &'static str,
    /// Words that are not.
    wrong: &'static [&'static str],
    twice: Twice,
}

const fn flag(names: &'static [&'static str]) -> Row {
    Row {
        names,
        right: "",
        wrong: &[],
        twice: Twice::Same,
    }
}

const fn last(names: &'static [&'static str], right: &'static str) -> Row {
    Row {
        names,
        right,
        wrong: &[],
        twice: Twice::Last,
    }
}

const fn adds(names: &'static [&'static str], right: &'static str) -> Row {
    Row {
        names,
        right,
        wrong: &[],
        twice: Twice::Adds,
    }
}

impl Row {
    const fn wrong(self, wrong: &'static [&'static str]) -> Self {
        Self { wrong, ..self }
    }

    /// The spelling that messages have.
    fn name(&self) -> &'static str {
        self.names[self.names.len() - 1]
    }

    fn values(&self) -> usize {
        self.right.split_whitespace().count()
    }
}

const TABLE: &[Row] = &[
    Row {
        names: &["--target-host"],
        right: "root@h",
        wrong: &["h:22", "-x", "root@"],
        twice: Twice::Refused,
    },
    last(&["-f", "--flake"], ".#a").wrong(&[".", ".#", "github:a/b", ".#a${b}"]),
    last(&["-s", "--store-paths"], "/disko /system"),
    last(
        &["--generate-hardware-config"],
        "nixos-generate-config ./hardware-configuration.nix",
    )
    .wrong(&["facter f.json", "nixos-facter folder/"]),
    last(&["--extra-files"], "DIR"),
    adds(&["--chown"], "/home/alice 1000:100").wrong(&["/home a:b:c", "/../etc root", "/home :"]),
    flag(&["--copy-host-keys"]),
    adds(&["--copy-host-keys-to"], "/persist/etc/ssh").wrong(&["etc/ssh", "/a/../b"]),
    last(&["--phases"], "kexec").wrong(&["kexec,format", "Kexec", ",", "kexec,"]),
    last(&["--disko-mode"], "mount").wrong(&["destroy", "Disko"]),
    flag(&["--no-disko-deps"]),
    adds(&["--disk-encryption-keys"], "/tmp/disk.key ./key").wrong(&["tmp/key key", "/ key"]),
    flag(&["-y", "--yes"]),
    last(&["--resume"], "auto").wrong(&["always", "Never"]),
    flag(&["--fresh"]),
    flag(&["--detach"]),
    last(&["--boot-timeout"], "20m").wrong(&["soon", "-1"]),
    flag(&["--no-verify"]),
    flag(&["--no-boot-check"]),
    flag(&["--keep-journal"]),
    flag(&["--vm-test"]),
    last(&["--kexec"], "image.tar.gz").wrong(&["ftp://h/x", "https://", "file:///x"]),
    last(&["--kexec-extra-flags"], "--no-sync"),
    flag(&["--force-kexec"]),
    last(&["--return-after"], "15m").wrong(&["soon", "1.5h", "9999999h"]),
    last(&["--post-kexec-ssh-port"], "22").wrong(&["0", "65536", "ssh"]),
    last(&["-i"], "key"),
    last(&["-p", "--ssh-port"], "2222").wrong(&["0", "65536", "ssh"]),
    adds(&["--ssh-option"], "ProxyJump=gate").wrong(&["ProxyJump", "=x"]),
    flag(&["--env-password"]),
    last(&["--sudo-password-file"], "password"),
    flag(&["--env-sudo-password"]),
    last(&["--host-key-policy"], "accept-new").wrong(&["no", "yes"]),
    adds(
        &["--host-key"],
        "SHA256:uNiVztksCsDhcc0u9e8BrwJXVGDjMGkiz1Ktm2RHp8s",
    )
    .wrong(&["MD5:00", "SHA256:x"]),
    last(&["--reconnect-timeout"], "90s").wrong(&["soon", "1.5h", "9999999h"]),
    last(&["--build-on"], "remote").wrong(&["here", "Auto"]),
    adds(&["--option"], "cores 2"),
    last(&["--from"], "https://cache.example.org"),
    adds(&["--ssh-store-setting"], "max-connections 2").wrong(&["Max 1", "compress a&b"]),
    flag(&["--no-substitute-on-destination"]),
    flag(&["--no-use-machine-substituters"]),
    flag(&["-L", "--print-build-logs"]),
    flag(&["--show-trace"]),
    flag(&["-v", "--verbose"]),
    flag(&["--debug"]),
    flag(&["--json"]),
    flag(&["--build-on-remote"]),
    flag(&["--stop-after-disko"]),
    flag(&["--no-reboot"]),
    flag(&["-t", "--tty"]),
];

const NO_HOST: &str = "error: cannot tell which machine to install [LF0412]";

/// Whom a line with this option alone is refused for lacking.
fn lacks(row: &Row) -> &'static str {
    match row.name() {
        "--target-host" => "error: cannot tell what to install [LF0413]",
        "--vm-test" => "error: cannot tell what to test [LF0413]",
        _ => NO_HOST,
    }
}

/// Runs the program with words that are separated by blanks.
fn run(program: &Path, line: &str) -> Output {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(program);
    command.args(line.split_whitespace());
    command
        .env_clear()
        .env("HOME", home.path())
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("SSHPASS", "secret of the login")
        .env("SUDOPASS", "secret of sudo");
    command.current_dir(home.path()).stdin(Stdio::null());
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// The line is one of usage: exit code 2, nothing on stdout. Returns the first line of stderr.
#[track_caller]
fn refused(line: &str) -> String {
    let output = run(binaries::controller(), line);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "landfall {line}\n{stderr}");
    assert_eq!(text(&output.stdout), "", "landfall {line}");
    assert!(stderr.contains("\nhint: "), "landfall {line}\n{stderr}");
    stderr.lines().next().unwrap_or_default().to_owned()
}

#[track_caller]
fn refused_for(line: &str, first: &str) {
    assert_eq!(refused(line), first, "landfall {line}");
}

fn read(line: &str) -> Result<Task, Stop> {
    let words = ["landfall"].into_iter().chain(line.split_whitespace());
    let words: Vec<OsString> = words.map(OsString::from).collect();
    let environment = Environment {
        password: true,
        sudo_password: true,
        ..Environment::default()
    };
    cli::read(&words, &environment)
}

fn spellings(command: &clap::Command) -> BTreeSet<String> {
    let options = command.get_arguments().filter(|arg| !arg.is_positional());
    options
        .flat_map(|arg| {
            let short = arg.get_short_and_visible_aliases().unwrap_or_default();
            let long = arg.get_long_and_visible_aliases().unwrap_or_default();
            let short = short.into_iter().map(|short| format!("-{short}"));
            short.chain(long.into_iter().map(|long| format!("--{long}")))
        })
        .collect()
}

#[test]
fn no_option_is_missing_from_the_table() {
    let rows = TABLE.iter().flat_map(|row| row.names);
    let rows: BTreeSet<String> = rows.map(|name| (*name).to_owned()).collect();
    assert_eq!(rows, spellings(&cli::command()));
}

#[test]
fn each_option_is_taken_alone() {
    for row in TABLE {
        for name in row.names {
            refused_for(&format!("{name} {}", row.right), lacks(row));
        }
    }
}

#[test]
fn each_option_takes_its_value_behind_an_equals_sign() {
    for row in TABLE {
        for name in row.names {
            let is_long = name.starts_with("--");
            let joined = match is_long {
                true => format!("{name}={}", row.right),
                false => format!("{name}{}", row.right),
            };
            match row.values() {
                0 if is_long => {
                    let first = refused(&format!("{name}=1"));
                    assert!(first.contains("unexpected value '1'"), "{first}");
                }
                0 => {}
                1 => refused_for(&joined, lacks(row)),
                // only one value can stand there
                _ => {
                    let first = refused(&joined);
                    assert!(first.starts_with("error: 2 values required"), "{first}");
                }
            }
        }
    }
}

#[test]
fn each_option_can_be_repeated_or_says_why_not() {
    for row in TABLE {
        let (first, second) = (row.names[0], row.name());
        let line = format!("{first} {} {second} {}", row.right, row.right);
        if row.twice == Twice::Refused {
            let first = refused(&line);
            assert!(first.contains("cannot be used multiple times"), "{first}");
            continue;
        }
        refused_for(&line, lacks(row));
        let remarks = match read(&format!("-f .#a {line} h")) {
            // two of it, and the one of this line
            _ if row.name() == "--flake" => continue,
            Ok(Task::Install(request)) => request.remarks,
            Ok(Task::VmTest(test)) => test.remarks,
            // what excludes `-f` has its own test
            other => match read(&format!("--phases kexec {line} h")) {
                Ok(Task::Install(request)) => request.remarks,
                _ => panic!("{line}: {other:?}"),
            },
        };
        let told = remarks
            .iter()
            .any(|remark| remark.starts_with(&format!("`{second}` is given more than once; ")));
        assert_eq!(told, row.twice == Twice::Last, "{line}: {remarks:?}");
    }
}

#[test]
fn no_option_goes_without_its_value() {
    for row in TABLE.iter().filter(|row| row.values() > 0) {
        for name in row.names {
            let first = refused(name);
            let one = first.starts_with("error: a value is required for '");
            let two = first.starts_with("error: 2 values required");
            assert!(one || two, "{name}: {first}");
            assert!(first.contains(row.name()), "{name}: {first}");
            // the next option is no value, but where values look like options
            if row.name() == "--kexec-extra-flags" {
                refused_for(&format!("{name} --yes"), NO_HOST);
                continue;
            }
            let first = refused(&format!("{name} --yes"));
            assert!(first.contains(row.name()), "{name}: {first}");
            if row.values() == 2 {
                let first = refused(&format!("{name} one --yes"));
                assert!(
                    first.starts_with("error: 2 values required"),
                    "{name}: {first}"
                );
            }
        }
    }
}

#[test]
fn no_wrong_value_is_taken() {
    for row in TABLE {
        for wrong in row.wrong {
            let name = row.name();
            let line = match row.values() {
                1 => format!("-f .#a {name}={wrong} h"),
                _ => format!("-f .#a {name} {wrong} h"),
            };
            let first = refused(&line);
            assert!(first.contains(name), "{line}: {first}");
            assert!(
                first.starts_with("error: invalid value '")
                    || first.starts_with("error: cannot use `"),
                "{line}: {first}"
            );
        }
    }
}

#[test]
fn no_option_swallows_the_host_or_is_taken_for_it() {
    for row in TABLE {
        let name = row.name();
        if matches!(name, "--target-host" | "--vm-test") {
            continue;
        }
        let base = match name {
            "--flake" | "--store-paths" | "--phases" => "",
            "--no-reboot" | "--stop-after-disko" => "-f .#a",
            _ => "--phases kexec",
        };
        for name in row.names {
            for line in [
                format!("{base} {name} {} root@h", row.right),
                format!("root@h {base} {name} {}", row.right),
                format!("{name} {} root@h {base}", row.right),
            ] {
                match read(&line) {
                    Ok(Task::Install(request)) => {
                        assert_eq!(request.target.to_string(), "root@h", "{line}");
                    }
                    other => panic!("{line}: {other:?}"),
                }
            }
        }
    }
}

#[test]
fn what_excludes_each_other_is_refused() {
    let twin = |one: &str, other: &str| {
        format!("error: the argument '{one}' cannot be used with '{other}'")
    };
    let flake = "--flake <URI#NAME>";
    let paths = "--store-paths <DISKO> <SYSTEM>";
    let mode = "--disko-mode <MODE>";
    let two = "error: cannot tell where to build [LF0410]".to_owned();
    for (line, first) in [
        ("-f .#a -s /d /s h", twin(flake, paths)),
        ("-s /d /s -f .#a h", twin(flake, paths)),
        ("-s /d /s --disko-mode mount h", twin(paths, mode)),
        ("--disko-mode mount -s /d /s h", twin(paths, mode)),
        (
            "--sudo-password-file f --env-sudo-password -f .#a h",
            twin("--sudo-password-file <FILE>", "--env-sudo-password"),
        ),
        ("-f .#a --build-on local --build-on-remote h", two.clone()),
        ("-f .#a --build-on-remote --build-on local h", two),
        (
            "-f .#a --fresh --resume require h",
            "error: cannot tell whether to take up the run [LF0410]".to_owned(),
        ),
        (
            "-f .#a --resume auto --fresh h",
            "error: cannot tell whether to take up the run [LF0410]".to_owned(),
        ),
        (
            "-f .#a --phases reboot --no-reboot h",
            "error: cannot tell what to do [LF0410]".to_owned(),
        ),
        (
            "-f .#a a b",
            "error: cannot install more than one machine at a time [LF0415]".to_owned(),
        ),
        (
            "h",
            "error: cannot tell what to install [LF0413]".to_owned(),
        ),
    ] {
        let told = refused(line);
        // clap names the one that comes second first
        let words = |text: &str| text.split('\'').map(str::to_owned).collect::<BTreeSet<_>>();
        assert_eq!(words(&told), words(&first), "landfall {line}");
    }
}

#[test]
fn test_in_a_virtual_machine_refuses_what_it_refused_before() {
    for (line, option) in [
        ("-s /d /s", "--store-paths"),
        ("-f .#a --build-on remote", "--build-on remote"),
        ("-f .#a --build-on-remote", "--build-on remote"),
        ("-f .#a --extra-files d", "--extra-files"),
        (
            "-f .#a --disk-encryption-keys /k k",
            "--disk-encryption-keys",
        ),
        (
            "-f .#a --generate-hardware-config nixos-facter f",
            "--generate-hardware-config",
        ),
    ] {
        let first = format!("error: cannot use `{option}` with `--vm-test` [LF0416]");
        refused_for(&format!("{line} --vm-test"), &first);
        refused_for(&format!("--vm-test {line} h"), &first);
    }
}

/// Returns a port on which nobody listens any more.
fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn host_is_the_one_that_is_called() {
    let port = closed_port();
    for line in [
        "--force-kexec root@127.0.0.1",
        "root@127.0.0.1 --force-kexec",
        "--kexec-extra-flags --no-sync root@127.0.0.1",
        "--option cores -1 root@127.0.0.1 --ssh-store-setting compress true",
        "--tty --stop-after-disko root@127.0.0.1 --no-reboot",
        "--target-host root@127.0.0.1",
        "--chown a 1 root@127.0.0.1 --copy-host-keys-to /persist",
    ] {
        let output = run(
            binaries::controller(),
            &format!("--phases kexec -p {port} {line}"),
        );
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "landfall {line}\n{stderr}");
        let error = "error: cannot connect to root@127.0.0.1 [LF0102]\n";
        assert!(stderr.contains(error), "landfall {line}\n{stderr}");
        let warned = |words: &str| stderr.contains(&format!("warning: {words}"));
        assert_eq!(warned("`--tty` is deprecated"), line.contains("--tty"));
        assert_eq!(
            warned("`--no-reboot` is deprecated"),
            line.contains("--no-reboot")
        );
        assert_eq!(
            warned("`--ssh-store-setting compress` has no effect"),
            line.contains("compress"),
            "{stderr}"
        );
    }
}

#[test]
fn unknown_options_are_no_hosts() {
    for (line, word) in [
        ("--flakes .#a h", "--flakes"),
        ("--no-ssh-copy-id -f .#a h", "--no-ssh-copy-id"),
        ("-f .#a h --no-such-option", "--no-such-option"),
        ("-x h", "-x"),
    ] {
        refused_for(line, &format!("error: unexpected argument '{word}' found"));
    }
}

#[test]
fn word_is_a_host_under_the_name_of_the_predecessor() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("nixos-anywhere");
    symlink(binaries::controller(), &program).unwrap();
    let port = closed_port();
    let line = format!("--phases kexec -p {port} --ssh-option HostName=127.0.0.1 check");
    let output = run(&program, &line);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("error: cannot connect to check [LF0102]\n"),
        "{stderr}"
    );
    let help = run(&program, "--help");
    assert_eq!(help.status.code(), Some(0));
    let usage = "\nUsage: nixos-anywhere [OPTIONS] [HOST]\n";
    assert!(text(&help.stdout).contains(usage));
}

/// Returns the words that are names of options in what stands before any value.
fn names(line: &str) -> impl Iterator<Item = String> {
    line.split([' ', ',', '`', '.'])
        .take_while(|word| !word.starts_with(['<', '[']))
        .filter(|word| word.starts_with('-') && *word != "-")
        .map(str::to_owned)
}

#[test]
fn help_manual_and_compatibility_name_the_same_options() {
    let help = run(binaries::controller(), "--help");
    let help: BTreeSet<String> = text(&help.stdout)
        .lines()
        .filter(|line| line.trim_start().starts_with('-') && !line.trim_start().starts_with("- "))
        .flat_map(names)
        .collect();

    let manual = run(binaries::controller(), "man");
    let manual = text(&manual.stdout).replace("\\-", "-");
    let manual = ["\\fB", "\\fR", "\\fI"]
        .iter()
        .fold(manual, |text, font| text.replace(font, ""));
    let manual: BTreeSet<String> = manual
        .split(".TP\n")
        .skip(1)
        .filter_map(|entry| entry.lines().next())
        .flat_map(names)
        .collect();

    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/COMPATIBILITY.md");
    let page = fs::read_to_string(page).unwrap();
    let options = page.split_once("\n## Options\n").unwrap().1;
    let options = options.split_once("\n## ").unwrap().0;
    let rows = options.lines().filter_map(|line| line.strip_prefix("| "));
    let rows = rows.filter_map(|row| row.split(" | ").next());
    let page: BTreeSet<String> = rows.flat_map(names).collect();

    assert_eq!(help, manual);
    assert_eq!(help, page);
}

#[test]
fn each_command_has_a_page_of_the_manual() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(
        binaries::controller(),
        &format!("man --dir {}", folder.path().display()),
    );
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let written: BTreeSet<String> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let command = cli::command();
    let names = command.get_subcommands().map(clap::Command::get_name);
    let mut expected: BTreeSet<String> = names.map(|name| format!("landfall-{name}.1")).collect();
    expected.insert("landfall.1".to_owned());
    assert_eq!(written, expected);
}

#[test]
fn each_shell_completes_every_option() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(binaries::controller(), &format!("completions {shell}"));
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let script = text(&output.stdout);
        for row in TABLE {
            let long = row.name().trim_start_matches('-');
            assert!(script.contains(long), "{shell} does not know {long}");
        }
    }
    let output = run(binaries::controller(), "completions tcsh");
    assert_eq!(output.status.code(), Some(2));
}
