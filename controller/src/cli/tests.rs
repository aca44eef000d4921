//! What becomes of command lines; `tests/options.rs` has the same for every option.

use std::path::Path;

use landfall_proto::order::DiskoMode;

use super::*;
use crate::request::{
    Backend, BuildOn, Hardware, HostKeyPolicy, Image, Kexec, Phase, Phases, Source,
};

fn task_in(name: &str, line: &str, environment: &Environment) -> Result<Task, Stop> {
    let words = line.split(' ').filter(|word| !word.is_empty());
    let words: Vec<OsString> = [name].into_iter().chain(words).map(Into::into).collect();
    read(&words, environment)
}

fn request_in(name: &str, line: &str, environment: &Environment) -> Request {
    match task_in(name, line, environment) {
        Ok(Task::Install(request)) => *request,
        other => panic!("{line} is not an install: {other:?}"),
    }
}

fn request(line: &str) -> Request {
    request_in("landfall", line, &Environment::default())
}

#[track_caller]
fn refused(line: &str, what: &str) -> Failure {
    match task_in("landfall", line, &Environment::default()) {
        Err(Stop::Sense(failure)) => {
            assert_eq!(failure.what, what);
            assert!(!failure.hints.is_empty(), "{failure:?}");
            failure
        }
        other => panic!("{line} is not refused: {other:?}"),
    }
}

#[test]
fn clap_finds_no_contradiction() {
    Cli::command().debug_assert();
    Predecessor::command().debug_assert();
}

#[test]
fn help_lists_every_exit_code() {
    let help = Cli::command().render_help().to_string();
    let rows = help.split_once("Exit codes:\n").unwrap().1;
    let codes: Vec<u8> = rows
        .lines()
        .filter_map(|row| row.split_whitespace().next()?.parse().ok())
        .collect();
    assert_eq!(codes, exit::Exit::ALL.map(exit::Exit::code));
}

#[test]
fn install_is_what_landfall_does_without_a_command() {
    assert_eq!(request("--flake .#a h"), request("install --flake .#a h"));
    assert_eq!(request("--flake .#a --target-host h"), request("-f .#a h"));
    assert_eq!(request("h --flake=.#a"), request("-f.#a h"));
}

#[test]
fn defaults_do_everything_and_ask() {
    let request = request("-f .#a h");
    assert_eq!(request.phases, Phases::all());
    let kexec = Kexec {
        image: Image::Default,
        extra_flags: String::new(),
        force: false,
        return_after: Kexec::RETURN_AFTER,
    };
    assert_eq!(request.kexec, kexec);
    assert_eq!(request.host_key, HostKeyPolicy::Ask);
    assert_eq!(request.disko_mode, DiskoMode::Disko);
    assert_eq!(request.reconnect_timeout.as_secs(), 3600);
    assert!(request.verify && !request.yes && !request.compat);
    assert!(request.disko_deps && request.check);
    assert!(request.nix.substitute && request.nix.machine_substituters);
    assert_eq!(request.nix.build_on, BuildOn::Auto);
    assert!(request.warnings().is_empty());
}

#[test]
fn options_that_take_two_values_leave_the_host_alone() {
    let request = request(
        "-s /d /s --option a b --chown home 1:2 --disk-encryption-keys /tmp/k k \
         --ssh-store-setting max-connections 2 --generate-hardware-config nixos-facter f.json h \
         --option c -1",
    );
    let source = Source::StorePaths {
        disko: "/d".into(),
        system: "/s".into(),
    };
    assert_eq!(request.source, Some(source));
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    assert_eq!(request.nix.settings, [("a", "b"), ("c", "-1")].map(owned));
    assert_eq!(request.nix.store_query(), "max-connections=2");
    assert_eq!(request.owners[0].path.as_str(), "/home");
    assert_eq!(request.owners[0].owner.to_string(), "1:2");
    assert_eq!(request.keys[0].to.as_str(), "/tmp/k");
    let hardware = Hardware {
        backend: Backend::Facter,
        path: "f.json".into(),
    };
    assert_eq!(request.hardware, Some(hardware));
    assert_eq!(request.target.host, "h");
}

#[test]
fn force_kexec_does_not_swallow_what_follows() {
    assert_eq!(request("-f .#a --force-kexec h").target.host, "h");
    assert!(request("-f .#a h --force-kexec").kexec.force);
}

#[test]
fn debug_is_everything() {
    let request = request("-f .#a --debug h");
    assert_eq!(
        (request.output.verbosity, request.nix.print_build_logs),
        (2, true)
    );
}

#[test]
fn kexec_alone_needs_no_configuration() {
    assert_eq!(request("--phases kexec h").source, None);
}

#[test]
fn host_keys_go_to_each_folder_once() {
    let request = request(
        "-f .#a --copy-host-keys-to /persist/etc/ssh/ --copy-host-keys --copy-host-keys-to /etc/ssh h",
    );
    let folders: Vec<&str> = request
        .host_keys_to
        .iter()
        .map(|folder| folder.as_str())
        .collect();
    assert_eq!(folders, ["/etc/ssh", "/persist/etc/ssh"]);
}

#[test]
fn what_has_no_effect_is_warned_about() {
    let request = request(
        "-f .#a --phases disko --kexec x --extra-files y --copy-host-keys --chown / 0 \
         --ssh-option StrictHostKeyChecking=no --ssh-store-setting compress true h",
    );
    let warnings = request.warnings();
    assert_eq!(warnings.len(), 6, "{warnings:?}");
    let reasoned = |warning: &String| warning.contains("; continuing because ");
    assert!(warnings.iter().all(reasoned), "{warnings:?}");
}

#[test]
fn options_that_meet_nothing_to_do_are_warned_about() {
    let check = |line: &str, option: &str| {
        let warnings = request(line).warnings();
        let told = format!("`{option}` has no effect; continuing because ");
        assert_eq!(
            warnings.len(),
            usize::from(!option.is_empty()),
            "{warnings:?}"
        );
        assert!(
            warnings.iter().all(|text| text.starts_with(&told)),
            "{warnings:?}"
        );
    };
    check("--phases disko -f .#a --no-verify h", "--no-verify");
    check("-f .#a --no-verify h", "");
    check("-f .#a --from s --build-on remote h", "--from");
    check("-f .#a --from s h", "");
}

#[test]
fn deprecated_spellings_mean_the_new_ones() {
    let check = |old: &str, new: &str| {
        let (old, new) = (request(old), request(new));
        assert_eq!(old.remarks.len(), 1);
        let without = Request {
            remarks: Vec::new(),
            ..old
        };
        assert_eq!(without, new);
    };
    check("-f .#a --build-on-remote h", "-f .#a --build-on remote h");
    check(
        "-f .#a --build-on auto --build-on-remote h",
        "-f .#a --build-on remote h",
    );
    check(
        "-f .#a --stop-after-disko h",
        "-f .#a --phases kexec,disko h",
    );
    check(
        "-f .#a h --no-reboot",
        "-f .#a --phases kexec,disko,install h",
    );
    check("-t -f .#a h", "-f .#a h");
    check("-f .#a --tty h", "-f .#a h");
}

#[test]
fn deprecated_spellings_never_add_a_phase() {
    let phases = |line: &str| request(line).phases.iter().collect::<Vec<_>>();
    assert_eq!(
        phases("-f .#a --phases install,reboot --no-reboot h"),
        [Phase::Install]
    );
    assert_eq!(
        phases("-f .#a --no-reboot --stop-after-disko h"),
        [Phase::Kexec, Phase::Disko]
    );
    refused(
        "-f .#a --phases reboot --no-reboot h",
        "cannot tell what to do",
    );
    refused(
        "-f .#a --phases install --stop-after-disko h",
        "cannot tell what to do",
    );
}

#[test]
fn build_on_local_and_remote_exclude_each_other_in_either_order() {
    for line in [
        "-f .#a --build-on local --build-on-remote h",
        "-f .#a --build-on-remote --build-on local h",
    ] {
        refused(line, "cannot tell where to build");
    }
}

#[test]
fn last_of_a_repeated_option_counts_and_is_told() {
    let request =
        request("-f .#a -f .#b -p 1 --ssh-port=2 --yes --yes --phases kexec --phases disko h");
    assert_eq!(request.source, Some(Source::Flake(".#b".parse().unwrap())));
    assert_eq!(request.port(), Some(2));
    assert_eq!(request.phases.iter().collect::<Vec<_>>(), [Phase::Disko]);
    assert_eq!(request.remarks.len(), 3, "{:?}", request.remarks);
    let told = "`--ssh-port` is given more than once; continuing because the last one counts";
    assert!(request.remarks.iter().any(|remark| remark == told));
}

#[test]
fn machine_is_never_given_twice() {
    for line in [
        "-f .#a --target-host a --target-host b",
        "-f .#a --target-host a b",
    ] {
        let task = task_in("landfall", line, &Environment::default());
        assert!(matches!(task, Err(Stop::Words(_))), "{line}: {task:?}");
    }
    refused(
        "-f .#a a b",
        "cannot install more than one machine at a time",
    );
}

#[test]
fn command_that_does_not_stand_first_is_told() {
    let failure = refused(
        "-v check h",
        "cannot install more than one machine at a time",
    );
    let hint = "a command stands before its options: `landfall check …`";
    assert_eq!(failure.hints, [hint]);
}

#[test]
fn every_word_is_a_host_under_the_old_name() {
    for word in ["check", "install", "explain", "man"] {
        let line = format!("{word} -f .#a");
        let request = request_in("/usr/bin/nixos-anywhere", &line, &Environment::default());
        assert_eq!((&*request.target.host, request.compat), (word, true));
    }
    let task = task_in("landfall", "check h", &Environment::default());
    assert!(matches!(task, Ok(Task::Check(_))), "{task:?}");
}

#[test]
fn bundle_is_asked_for_with_the_way_to_a_machine() {
    let wanted = |line: &str| match task_in("landfall", line, &Environment::default()) {
        Ok(Task::Bundle(wanted)) => *wanted,
        other => panic!("{line} asks for no bundle: {other:?}"),
    };
    let plain = wanted("bundle root@h");
    assert_eq!((&*plain.request.target.host, plain.output), ("h", None));
    let other = wanted("bundle -o - -p 2222 --post-kexec-ssh-port 22 h");
    assert_eq!(other.output.as_deref(), Some(Path::new("-")));
    assert_eq!(other.request.on_record(), "h:2222");
    assert_eq!(other.request.login.post_kexec_port, Some(22));
    refused("bundle", "cannot tell which machine to gather from");
}

#[test]
fn variables_are_seen_and_not_kept() {
    let all = Environment {
        private_key: true,
        password: true,
        sudo_password: true,
        no_check: true,
    };
    let request = request_in("landfall", "-f .#a --env-password h", &all);
    assert!(request.login.env_key && request.login.env_password);
    assert!(!request.privilege.from_env && !request.check);
    let request = request_in("landfall", "-f .#a -i k --env-sudo-password h", &all);
    assert!(!request.login.env_key && !request.login.env_password);
    assert!(request.privilege.from_env);
    refused("-f .#a --env-password h", "cannot log in with a password");
    refused(
        "-f .#a --env-sudo-password h",
        "cannot become root with a password",
    );
}

#[test]
fn test_in_a_virtual_machine_needs_no_host() {
    let test = |line: &str| match task_in("landfall", line, &Environment::default()) {
        Ok(Task::VmTest(test)) => *test,
        other => panic!("{line} is no test: {other:?}"),
    };
    let plain = test("--vm-test --flake .#a");
    assert!(plain.remarks.is_empty() && plain.output.verbosity == 1);
    let idle = test("--vm-test --flake .#a --no-reboot --copy-host-keys root@h");
    let told = "`HOST`, `--copy-host-keys`, `--no-reboot` have no effect; continuing because \
                `--vm-test` tests on this machine and reaches no other";
    assert_eq!(idle.remarks.last().map(String::as_str), Some(told));
}

#[test]
fn test_in_a_virtual_machine_refuses_what_it_cannot_have() {
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
        refused(
            &format!("--vm-test {line}"),
            &format!("cannot use `{option}` with `--vm-test`"),
        );
    }
    refused("--vm-test", "cannot tell what to test");
}

#[test]
fn keys_for_one_path_come_from_one_file() {
    let twice = "-f .#a --disk-encryption-keys /tmp/k a --disk-encryption-keys /tmp//k";
    assert_eq!(request(&format!("{twice} a h")).keys.len(), 1);
    refused(
        &format!("{twice} b h"),
        "cannot use `--disk-encryption-keys /tmp//k b`",
    );
}

#[test]
fn values_of_two_words_are_checked() {
    for (line, option) in [
        ("--chown home alice:users:x", "--chown home alice:users:x"),
        ("--chown ../x 1", "--chown ../x 1"),
        ("--disk-encryption-keys k k", "--disk-encryption-keys k k"),
        (
            "--generate-hardware-config facter x",
            "--generate-hardware-config facter x",
        ),
        ("--ssh-store-setting Max 1", "--ssh-store-setting Max 1"),
        ("--ssh-store-setting a b&c=d", "--ssh-store-setting a b&c=d"),
    ] {
        refused(
            &format!("-f .#a {line} h"),
            &format!("cannot use `{option}`"),
        );
    }
}

#[test]
fn what_may_be_corrected_does_not_begin_anew() {
    let plain = request("-f .#a h").wish();
    for line in [
        "--disk-encryption-keys /tmp/k k",
        "--generate-hardware-config nixos-facter f",
        "--no-disko-deps",
        "--disko-mode format",
        "--phases disko",
    ] {
        assert_ne!(request(&format!("-f .#a {line} h")).wish(), plain, "{line}");
    }
    for line in [
        "-i k",
        "-p 2222",
        "--extra-files d",
        "--chown /home 1",
        "--copy-host-keys",
        "--copy-host-keys-to /persist",
        "--no-use-machine-substituters",
        "--kexec x",
        "--return-after 0",
        "--build-on remote",
        "--option cores 1",
        "--json -vv",
        "--yes",
        "--reconnect-timeout 5m",
        "-t",
    ] {
        assert_eq!(request(&format!("-f .#a {line} h")).wish(), plain, "{line}");
    }
}

#[test]
fn key_is_known_by_its_place_on_the_machine() {
    let wish = |key: &str| request(&format!("-f .#a --disk-encryption-keys {key} h")).wish();
    assert_eq!(wish("/tmp/k /dev/fd/63"), wish("/tmp/k /dev/fd/12"));
    assert_eq!(wish("/tmp/k typo"), wish("/tmp/k corrected"));
    assert_ne!(wish("/tmp/k key"), wish("/tmp/other key"));
}
