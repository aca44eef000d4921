//! Bad input: a clear message, the exit code that says so, and a machine that is as it was.
//!
//! What is compared is all that stderr says from `error:` on. Before that there are only lines with times.

use std::{
    fs::{self, File},
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use landfall_tests::{
    assets::Assets,
    binaries,
    install::Operator,
    machine::{
        Machine,
        spec::{Boot, Spec},
    },
    patience,
};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tempfile::TempDir;

/// Debian logs in after 13 to 30 s under emulation; with others beside it, much later.
const BOOTS: Duration = Duration::from_secs(240);
/// Every refusal comes within; seen: 8 s on an idle host, for seven logins under emulation.
const ENDS: Duration = Duration::from_secs(120);
/// The agent goes by itself, just after landfall has ended.
const LEAVES: Duration = Duration::from_secs(30);

/// Everything about a machine that nobody may change. Words in brackets keep the script from finding itself.
const LOOK: &str = r#"
cat /proc/sys/kernel/random/boot_id
cat /root/.ssh/authorized_keys /home/*/.ssh/authorized_keys | sha256sum
find / /run /tmp /dev/shm -xdev -name '*land[f]all*'
ps -eo args | grep '[l]andfall'
systemctl list-units --all --plain --no-legend 'land[f]all*'
cat /proc/partitions
grep -v ' /run/user/' /proc/mounts
blkid -p /dev/vda
dd if=/dev/vda bs=1024 count=1 2>/dev/null | sha256sum
dd if=/dev/vdb bs=1M count=1 2>/dev/null | sha256sum
"#;

/// Logins that are not root's: one without rights, and two on what says it is another machine.
const USERS: &str = r#"
set -e
for user in plain darwin riscv; do
  useradd --create-home --shell /bin/bash $user
  mkdir -p /home/$user/.ssh /opt/$user
  cp /root/.ssh/authorized_keys /home/$user/.ssh/
  chown -R $user: /home/$user/.ssh
  printf '#!/bin/sh\nPATH=/opt/%s:$PATH exec /bin/sh "$@"\n' $user > /opt/$user/shell
  printf '#!/bin/sh\ncase $1 in -m) echo %s ;; *) echo %s ;; esac\n' \
    $([ $user = darwin ] && echo arm64 Darwin || echo riscv64 Linux) > /opt/$user/uname
  chmod +x /opt/$user/*
done
usermod --shell /opt/darwin/shell darwin
usermod --shell /opt/riscv/shell riscv
"#;

/// Ends as refused: nothing done, and these words, in which volatile parts have names.
struct Refusal<'a> {
    code: i32,
    words: &'a str,
}

const fn refusal(words: &str) -> Refusal<'_> {
    Refusal { code: 1, words }
}

#[test]
fn machine_that_is_not_there_is_told() {
    let desk = Desk::new();
    let words = "\
error: cannot connect to root@no-such-host.invalid [LF0101]
caused by: the name leads to no address
caused by: ssh: Could not resolve hostname no-such-host.invalid: WHY
state: no-such-host.invalid is untouched
hint: check the name; `ssh root@no-such-host.invalid` should log you in
log: LOG
";
    let run = desk.landfall(22, "-f .#a root@no-such-host.invalid");
    // resolvers differ in their words
    let (code, said) = run.end();
    let said = said
        .lines()
        .map(|line| match line.split_once(".invalid: ") {
            Some((name, _)) => format!("{name}.invalid: WHY\n"),
            None => format!("{line}\n"),
        });
    assert_eq!((code, said.collect::<String>().as_str()), (1, words));
}

#[test]
fn port_on_which_nobody_listens_is_told() {
    let desk = Desk::new();
    // a port that was just free
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let number = port.local_addr().unwrap().port();
    drop(port);
    let words = "\
error: cannot connect to root@127.0.0.1 [LF0102]
caused by: connection refused
caused by: ssh: connect to host 127.0.0.1 port PORT: Connection refused
state: 127.0.0.1 is untouched
hint: is the port right (`-p PORT`), and does sshd run on the machine?
log: LOG
";
    let run = desk.landfall(number, "-f .#a root@127.0.0.1");
    run.ends_as(&refusal(words));
}

#[test]
fn server_that_speaks_no_ssh_is_told() {
    let desk = Desk::new();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    // says goodbye to everybody, and ends with the test
    std::thread::spawn(move || server.incoming().for_each(drop));
    let run = desk.landfall(port, "-f .#a root@127.0.0.1");
    let (code, said) = run.end();
    assert_eq!(code, 1, "{said}");
    let first = "error: cannot connect to root@127.0.0.1 [LF0109]\ncaused by: connection closed before login\n";
    assert!(said.starts_with(first), "{said}");
    assert!(said.contains("\nstate: 127.0.0.1 is untouched\n"), "{said}");
}

#[test]
#[cfg_attr(
    not(feature = "machines"),
    ignore = "starts a machine; `cargo verify` runs it"
)]
fn machine_is_as_it_was_after_every_refusal() {
    let target = Target::new();
    target.refuses_logins();
    target.refuses_what_cannot_be_installed_on();
    target.refuses_what_cannot_be_installed();
    target.lets_go_when_it_is_stopped();
}

/// A machine that must not change, and somebody who asks for the wrong things.
struct Target {
    assets: Assets,
    machine: Machine,
    desk: Desk,
    before: String,
}

impl Target {
    fn new() -> Self {
        let assets = Assets::open().unwrap();
        let spec = Spec {
            disks_gib: vec![2, 4],
            ..Spec::of(Boot::Target)
        };
        let machine = Machine::ready(&assets, spec).unwrap();
        machine.wait_ssh(BOOTS).unwrap();
        let made = machine.ssh(USERS).unwrap();
        assert!(made.status.success(), "{made:?}");
        let mut target = Self {
            assets,
            machine,
            desk: Desk::new(),
            before: String::new(),
        };
        target.before = target.look();
        assert!(!target.before.contains("landfall"), "{}", target.before);
        target
    }

    fn look(&self) -> String {
        let seen = self.machine.ssh(LOOK).unwrap();
        String::from_utf8(seen.stdout).unwrap()
    }

    #[track_caller]
    fn is_untouched(&self) {
        let mut now = String::new();
        let waited = patience::until("the machine to be as it was", LEAVES, || {
            now = self.look();
            Ok((now == self.before).then_some(()))
        });
        if waited.is_err() {
            assert_eq!(now, self.before, "the machine was touched");
        }
    }

    /// Starts landfall with these words, which name no machine.
    fn landfall(&self, line: &str) -> Run {
        let port = self.machine.ssh_port();
        let mut command = self.desk.command(port, &format!("{line} root@127.0.0.1"));
        command.arg("-i").arg(self.assets.key());
        self.desk.start(command, port)
    }

    #[track_caller]
    fn refuses(&self, line: &str, words: &str) {
        self.landfall(line).ends_as(&refusal(words));
        self.is_untouched();
    }

    /// The words of a job that is right but for what is added.
    fn job(&self) -> String {
        format!(
            "--flake {}#demo --kexec {}",
            self.assets.fixture_flake().display(),
            self.assets.installer_tarball().display()
        )
    }

    fn refuses_logins(&self) {
        let port = self.machine.ssh_port();
        let other = self.desk.path("other");
        ssh_keygen(&other);
        let mut command = self.desk.command(port, "-f .#a root@127.0.0.1");
        command.arg("-i").arg(&other);
        self.desk.start(command, port).ends_as(&refusal(
            "\
error: cannot connect to root@127.0.0.1 [LF0105]
caused by: login refused
caused by: ssh: root@127.0.0.1: Permission denied (publickey).
state: 127.0.0.1 is untouched
hint: name a key the machine accepts with `-i FILE`, or load one with `ssh-add`; `ssh root@127.0.0.1` should log you in
log: LOG
",
        ));

        // whoever is known under this address has another key
        let key = fs::read_to_string(other.with_extension("pub")).unwrap();
        fs::write(
            self.desk.path("known_hosts"),
            format!("[127.0.0.1]:{port} {key}"),
        )
        .unwrap();
        let (code, said) = self.landfall("-f .#a").end();
        assert_eq!(code, 1, "{said}");
        let first = "error: cannot connect to root@127.0.0.1 [LF0106]\ncaused by: another host key\ncaused by: ssh: SHA256:";
        assert!(said.starts_with(first), "{said}");
        assert!(said.contains("\nstate: 127.0.0.1 is untouched\nhint: if the machine was reinstalled on purpose, forget its old key with `ssh-keygen -R "), "{said}");
        fs::remove_file(self.desk.path("known_hosts")).unwrap();

        let pin = format!("SHA256:{}", "A".repeat(43));
        let (code, said) = self.landfall(&format!("-f .#a --host-key {pin}")).end();
        assert_eq!(code, 1, "{said}");
        assert!(
            said.starts_with(
                "error: refusing to connect to root@127.0.0.1 [LF0106]\ncaused by: its key is SHA256:"
            ) && said.contains(&format!(
                ", and `--host-key` names {pin}\nstate: 127.0.0.1 is untouched\nhint: check the fingerprint on the machine: `ssh-keygen -lf "
            )),
            "{said}"
        );

        let (code, said) = self.landfall("-f .#a --host-key-policy strict").end();
        assert_eq!(code, 1, "{said}");
        assert!(
            said.starts_with(
                "error: refusing to connect to root@127.0.0.1 [LF0107]\ncaused by: its key SHA256:"
            ) && said.contains(") is not known\nstate: 127.0.0.1 is untouched\nhint: if it is right, name it: `--host-key SHA256:"),
            "{said}"
        );
        self.is_untouched();
    }

    fn refuses_what_cannot_be_installed_on(&self) {
        let refuses = |user: &str, words: &str| {
            let port = self.machine.ssh_port();
            let mut command = self.desk.command(port, &format!("-f .#a {user}@127.0.0.1"));
            command.arg("-i").arg(self.assets.key());
            self.desk.start(command, port).ends_as(&refusal(words));
        };
        refuses(
            "plain",
            "\
error: cannot become root on plain@127.0.0.1 [LF0203]
caused by: sudo wants the password of plain
caused by: there is no terminal to ask for it
state: 127.0.0.1 is untouched
hint: give it with `--sudo-password-file FILE`, or `SUDOPASS=… landfall --env-sudo-password …`
hint: log in as root: `root@HOST`
log: LOG
",
        );
        refuses(
            "darwin",
            "\
error: cannot use darwin@127.0.0.1 [LF0201]
caused by: it runs Darwin, and kexec needs Linux
state: 127.0.0.1 is untouched
hint: boot any Linux on it, such as a rescue system, and run the same command again
log: LOG
",
        );
        refuses(
            "riscv",
            "\
error: cannot use riscv@127.0.0.1 [LF0202]
caused by: there is no agent for riscv64
state: 127.0.0.1 is untouched
hint: agents exist for x86_64 and aarch64; check the address of the machine
log: LOG
",
        );
        let port = self.machine.ssh_port();
        let mut command = self.desk.command(port, "-f .#a root@127.0.0.1");
        command.arg("-i").arg(self.assets.key());
        command.env("LANDFALL_AGENT_DIR", "/nonexistent");
        self.desk.start(command, port).ends_as(&refusal(
            "\
error: cannot find the agent for x86_64 [LF0206]
caused by: there is no /nonexistent/landfall-agent-x86_64-linux-musl
state: 127.0.0.1 is untouched
hint: name the folder that has it: `LANDFALL_AGENT_DIR=DIR landfall …`; `nix build` puts the agents beside landfall
log: LOG
",
        ));
        self.is_untouched();
    }

    fn refuses_what_cannot_be_installed(&self) {
        let (flake, kexec) = (self.assets.fixture_flake(), self.assets.installer_tarball());
        let (flake, kexec) = (flake.display(), kexec.display());
        let names = [
            "bootless",
            "broken",
            "btrfs",
            "demo",
            "elsewhere",
            "ext4",
            "luks",
            "lvm",
            "mdraid",
            "on-vdb",
            "on-vdc",
            "second",
        ];
        let choice = names.map(|name| format!("`--flake FLAKE#{name}`"));
        self.refuses(
            &format!("--flake {flake}#nosuch --kexec {kexec}"),
            &"\
error: cannot find nosuch in FLAKE [LF0361]
caused by: the flake has no such configuration
state: 127.0.0.1 is untouched
hint: choose one that exists: CHOICE
log: LOG
"
            .replace("CHOICE", &choice.join(", "))
            .replace("FLAKE", &flake.to_string()),
        );
        self.refuses(
            &format!("--flake {flake}#broken --kexec {kexec}"),
            &"\
error: cannot evaluate FLAKE#nixosConfigurations.\"broken\".config [LF0363]
caused by: running nix eval: exit status: 1
caused by: No disks defined, did you forget to import your disko config?
state: 127.0.0.1 is untouched
hint: see where it comes from with `--show-trace`
hint: import the file with the disks: `modules = [ ./disk-config.nix … ]`
hint: see what the configuration has: `disko.devices.disk`
log: LOG
"
            .replace("FLAKE", &flake.to_string()),
        );
        self.refuses(
            &format!("--flake {flake}#on-vdc --kexec {kexec}"),
            "\
error: cannot find disk /dev/vdc [LF0350]
caused by: the machine has /dev/vda, /dev/vdb
state: 127.0.0.1 is untouched
hint: correct `disko.devices` in the configuration; names below /dev/disk/by-id stay the same
hint: if only the installer sees it, boot that first: `--phases kexec`, then `--phases disko,install,reboot`
log: LOG
",
        );
        self.refuses(
            &format!("--flake {flake}#demo --kexec {kexec} --disk-encryption-keys /tmp/key /nonexistent/key"),
            "\
error: cannot read the key for /tmp/key [LF0602]
caused by: reading /nonexistent/key
caused by: No such file or directory (os error 2)
state: 127.0.0.1 is untouched
hint: name a file that can be read: `--disk-encryption-keys REMOTE LOCAL`
log: LOG
",
        );
        self.refuses(
            &format!("--flake /nonexistent#demo --kexec {kexec}"),
            "\
error: cannot evaluate /nonexistent#nixosConfigurations.\"demo\".config [LF0364]
caused by: running nix eval: exit status: 1
caused by: getting status of '/nonexistent': No such file or directory
state: 127.0.0.1 is untouched
hint: see whether nix finds it: `nix flake show /nonexistent`
log: LOG
",
        );
        let missing = "/nix/store/00000000000000000000000000000000-system";
        self.refuses(
            &format!("--store-paths {missing} {missing} --kexec {kexec}"),
            &"\
error: cannot use PATH [LF0368]
caused by: following PATH
caused by: No such file or directory (os error 2)
state: 127.0.0.1 is untouched
hint: name what `nix build --print-out-paths` printed
log: LOG
"
            .replace("PATH", missing),
        );
        // a path that is there and that nix does not know, as after a build that was cut off
        let invalid = "/nix/store/11111111111111111111111111111111-system";
        self.at_nix(&format!("mkdir -p {invalid}"));
        let words = "\
error: cannot use PATH [LF0368]
caused by: running nix path-info: exit status: 1
caused by: path 'PATH' is not valid
state: 127.0.0.1 is untouched
hint: name what `nix build --print-out-paths` printed
log: LOG
";
        self.refuses(
            &format!("--store-paths {invalid} {invalid} --kexec {kexec}"),
            &words.replace("PATH", invalid),
        );
        self.at_nix(&format!("rmdir {invalid}"));
        let no_directory = self.desk.path("no-directory");
        self.refuses(
            &format!("{} --extra-files {}", self.job(), no_directory.display()),
            &"\
error: cannot pack PATH [LF0601]
caused by: opening it
caused by: No such file or directory (os error 2)
state: 127.0.0.1 is untouched
hint: name a directory that can be read: `--extra-files DIR`
log: LOG
"
            .replace("PATH", &no_directory.display().to_string()),
        );
        self.refuses_images();
    }

    /// Runs a script where the operator's store is.
    fn at_nix(&self, script: &str) {
        let mut shell = self.desk.operator.command(&self.assets, "sh");
        let done = shell.args(["-c", script]).status().unwrap();
        assert!(done.success(), "{script}");
    }

    fn refuses_images(&self) {
        let flake = self.assets.fixture_flake();
        let refuses = |name: &str, rest: &str| {
            let image = self.desk.path(name).display().to_string();
            self.refuses(
                &format!("--flake {}#demo --kexec {image}", flake.display()),
                &format!("error: cannot use {image} as a kexec image [LF0342]\n{rest}log: LOG\n"),
            );
        };
        refuses(
            "none.tar.gz",
            "\
caused by: opening it
caused by: No such file or directory (os error 2)
state: 127.0.0.1 is untouched
hint: name a tarball that can be read: `--kexec FILE`
",
        );
        fs::write(self.desk.path("page.tar.gz"), "<!DOCTYPE html>".repeat(99)).unwrap();
        refuses(
            "page.tar.gz",
            "\
caused by: it is no tarball
state: 127.0.0.1 is untouched
hint: give a tarball with `kexec/run`, compressed by gzip, xz, zstd or not at all
",
        );
        let whole = fs::read(self.assets.installer_tarball()).unwrap();
        fs::write(self.desk.path("cut.tar.gz"), &whole[..200_000]).unwrap();
        refuses(
            "cut.tar.gz",
            "\
caused by: it ends in the middle
caused by: reading what follows kexec/bzImage: incomplete deflate stream
state: 127.0.0.1 is untouched
hint: copy or download it again
",
        );
        fs::create_dir(self.desk.path("kexec")).unwrap();
        fs::write(self.desk.path("kexec/bzImage"), "a kernel").unwrap();
        let tar = Command::new("tar")
            .arg("-C")
            .arg(self.desk.path(""))
            .arg("-czf")
            .arg(self.desk.path("other.tar.gz"))
            .arg("kexec")
            .status();
        assert!(tar.unwrap().success());
        refuses(
            "other.tar.gz",
            "\
caused by: it has no kexec/run
state: 127.0.0.1 is untouched
hint: give an image in the layout of nixos-images, such as `config.system.build.kexecInstallerTarball`
",
        );
    }

    fn lets_go_when_it_is_stopped(&self) {
        let stopped = "\
error: stopped by ctrl-c [LF0480]
state: 127.0.0.1 is untouched
hint: run the same command again
log: LOG
";
        let stopped = Refusal {
            code: 130,
            words: stopped,
        };

        // while the configuration is built, and a second landfall comes
        let slow = self.desk.path("slow");
        fs::create_dir(&slow).unwrap();
        let slow_flake = r#"{ outputs = _: { nixosConfigurations.slow.config.system.build = rec {
          diskoScript = derivation {
            name = "slow"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo begun; exec sleep 7531" ]; PATH = "/bin:/usr/bin";
          };
          toplevel = diskoScript;
        }; }; }"#;
        fs::write(slow.join("flake.nix"), slow_flake).unwrap();
        let mut run = self.landfall(&format!(
            "--flake path:{}#slow --kexec {} -L -v",
            slow.display(),
            self.assets.installer_tarball().display()
        ));
        run.wait_for("begun");
        let second = self.landfall(&self.job());
        let holder = format!("(process {})", run.child.id());
        let (code, said) = second.end();
        assert_eq!(
            (code, said.replace(&holder, "(process ID)").as_str()),
            (
                1,
                "\
error: refusing to drive 127.0.0.1:PORT twice [LF0401]
caused by: another landfall (process ID) is at work on it from this machine
state: 127.0.0.1 is untouched
hint: wait for it to end, or stop it with ctrl-c where it runs
"
            )
        );
        run.interrupt();
        run.ends_as(&stopped);
        self.is_untouched();
        let sleeps = Command::new("pgrep").args(["-f", "sleep 7531"]).status();
        assert!(!sleeps.unwrap().success(), "the builder goes on");

        // while the agent is sent
        self.machine.link().rate(3.0).unwrap();
        let mut run = self.landfall(&format!("{} --json", self.job()));
        run.wait_for(r#""unit":"bytes""#);
        run.interrupt();
        self.machine.link().restore().unwrap();
        run.ends_as(&stopped);
        self.is_untouched();

        // while the image is sent
        let mut run = self.landfall(&format!("{} --json", self.job()));
        run.wait_for(r#""step":"prepare","kind":"step_finished""#);
        self.machine.link().rate(20.0).unwrap();
        run.wait_for(r#""step":"kexec","kind":"progress""#);
        run.interrupt();
        run.ends_as(&stopped);
        self.machine.link().restore().unwrap();
        self.is_untouched();
    }
}

/// Somebody who has never used landfall, and a folder for what they name.
struct Desk {
    operator: Operator,
    folder: TempDir,
}

/// A landfall that was started.
struct Run {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    state: PathBuf,
    port: u16,
}

impl Desk {
    fn new() -> Self {
        Self {
            operator: Operator::new().unwrap(),
            folder: TempDir::with_prefix("bad-input-").unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Landfall with these words, separated by blanks, and without what this machine's own ssh knows.
    fn command(&self, port: u16, line: &str) -> Command {
        let mut command = match Assets::open() {
            Ok(assets) => self.operator.command(&assets, binaries::controller()),
            // whoever asks for no machine needs no nix
            Err(_) => Command::new(binaries::controller()),
        };
        let known = self.path("known_hosts");
        let option = format!("UserKnownHostsFile={}", known.display());
        command.args(["-p", &port.to_string(), "--ssh-option", &option, "--yes"]);
        command.args(["--ssh-option", "GlobalKnownHostsFile=/dev/null"]);
        if !line.contains("--host-key") {
            command.args(["--host-key-policy", "accept-new"]);
        }
        command.args(line.split(' ').filter(|word| !word.is_empty()));
        command
            .env("XDG_STATE_HOME", self.operator.state())
            .env("TERM", "dumb");
        command
    }

    fn landfall(&self, port: u16, line: &str) -> Run {
        self.start(self.command(port, line), port)
    }

    /// Starts it in a process group of its own, as a shell does.
    fn start(&self, mut command: Command, port: u16) -> Run {
        let output = |kind: &str| {
            let name = format!(
                "{kind}-{}",
                fs::read_dir(self.folder.path()).unwrap().count()
            );
            self.path(&name)
        };
        let (stdout, stderr) = (output("stdout"), output("stderr"));
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap());
        Run {
            child: command.spawn().unwrap(),
            stdout,
            stderr,
            state: self.operator.state(),
            port,
        }
    }
}

impl Run {
    /// Waits until it has said this, on either stream.
    #[track_caller]
    fn wait_for(&mut self, words: &str) {
        patience::until(words, ENDS, || {
            let said = read(&self.stdout) + &read(&self.stderr);
            let ended = self.child.try_wait()?;
            anyhow_ended(ended, &said)?;
            Ok(said.contains(words).then_some(()))
        })
        .unwrap();
    }

    /// Does what ctrl-c does: all of the group hear of it.
    fn interrupt(&self) {
        killpg(self.group(), Signal::SIGINT).unwrap();
    }

    #[track_caller]
    fn ends_as(self, refusal: &Refusal<'_>) {
        let (code, said) = self.end();
        assert_eq!((code, said.as_str()), (refusal.code, refusal.words));
    }

    /// Waits for the end; returns the exit code, and stderr from `error:` on with volatile parts named.
    #[track_caller]
    fn end(mut self) -> (i32, String) {
        let ended = patience::until("landfall to end", ENDS, || Ok(self.child.try_wait()?));
        let said = read(&self.stderr);
        let code = ended
            .unwrap_or_else(|error| panic!("{error:#}\n{said}"))
            .code();
        let from = said
            .find("error: ")
            .unwrap_or_else(|| panic!("no error in {said}"));
        let line = |line: &str| match line.strip_prefix("log: ") {
            Some(log) => {
                let log = Path::new(log);
                assert!(log.starts_with(&self.state) && log.is_file(), "{log:?}");
                "log: LOG\n".to_owned()
            }
            None => format!("{line}\n"),
        };
        let page = page_of(&said[from..]);
        let lines = said[from..].lines().filter(|line| *line != page);
        let told: String = lines.map(line).collect();
        let told = told
            .replace(&format!("port {}:", self.port), "port PORT:")
            .replace(&format!("127.0.0.1:{} ", self.port), "127.0.0.1:PORT ");
        (code.unwrap_or(-1), told)
    }

    fn group(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }
}

/// Returns the line that leads to the page of the failure: there is one after each failure, since each has a code.
#[track_caller]
fn page_of(said: &str) -> String {
    let first = said.lines().next().unwrap_or_default();
    let code = first
        .rsplit_once(" [")
        .and_then(|(_, code)| code.strip_suffix(']'));
    let code = code.unwrap_or_else(|| panic!("no code in {said}"));
    let page = format!("hint: read more with `landfall explain {code}`");
    assert_eq!(
        said.lines().filter(|line| *line == page).count(),
        1,
        "{said}"
    );
    page
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = killpg(self.group(), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

fn anyhow_ended(ended: Option<ExitStatus>, said: &str) -> anyhow::Result<()> {
    match ended {
        Some(status) => anyhow::bail!("it ended already, {status}:\n{said}"),
        None => Ok(()),
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

fn ssh_keygen(path: &Path) {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(path)
        .status();
    assert!(made.unwrap().success());
}
