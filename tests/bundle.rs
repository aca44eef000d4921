//! Bundles: what explains a failure is in them, secrets are not, and they can be read however their making ends.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use landfall_tests::{
    assets::Assets,
    binaries,
    install::{Ended, Operator, ROOT, reach, run},
    link::{Conditions, proxy::Line},
    namespace::{SSHD, Size, Target},
    ssh::Ssh,
};
use nix::fcntl::{Flock, FlockArg};
use tempfile::TempDir;
use tokio::{runtime::Runtime, sync::watch};

/// Each command ends within; seen: 6 s.
const ENDS: Duration = Duration::from_secs(120);
const SIZE: Size = Size {
    disks: [32 << 20, 32 << 20],
    run: 64 << 20,
};
/// Where secrets lie about on the target: settings, a command line, and what programs say.
const SECRETS: [&str; 4] = [
    "inSettings1f3a",
    "inWords77c2",
    "inAddress09be",
    "inOutput5d4e",
];

#[test]
fn bundle_without_a_machine_has_what_this_side_knows() {
    let home = TempDir::with_prefix("bundle-").unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let number = port.local_addr().unwrap().port().to_string();
    drop(port);
    let file = home.path().join("b.tar.gz");
    let mut landfall = Command::new(binaries::controller());
    landfall.args([
        "bundle",
        "-p",
        &number,
        "--host-key",
        "SHA256:uNiVztksCsDhcc0u9e8BrwJXVGDjMGkiz1Ktm2RHp8s",
    ]);
    landfall.arg(ROOT).arg("--output").arg(&file);
    landfall
        .env_clear()
        .env("HOME", home.path())
        .env("PATH", std::env::var_os("PATH").unwrap());
    let ended = run(&mut landfall, ENDS, || {}).unwrap();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("connection refused"),
        "{}",
        ended.stderr
    );
    assert!(!ended.stderr.contains("\nstate: "), "{}", ended.stderr);
    assert_eq!(printed(&ended), file);
    let bundle = Unpacked::of(&file);
    let manifest = bundle.read("MANIFEST.txt");
    assert!(
        manifest.contains("\nbroke off: cannot connect to "),
        "{manifest}"
    );
    assert!(bundle.read("landfall/words.txt").contains(" bundle -p "));
    assert!(
        bundle
            .read("landfall/broke-off.txt")
            .contains("connection refused")
    );
    // nobody has driven it, and nothing says that somebody has
    let left = fs::read_dir(home.path().join(".local/state/landfall"));
    assert!(left.is_err(), "{left:?}");
}

#[test]
#[cfg_attr(
    not(feature = "machines"),
    ignore = "starts targets; `cargo verify` runs it"
)]
fn failed_installation_leaves_a_bundle_without_secrets() {
    let bench = Bench::new();
    let mut talker = bench.talk();
    let ended = bench.fails();
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    let path = |label: &str| {
        let line = ended
            .stderr
            .lines()
            .find_map(|line| line.strip_prefix(label));
        PathBuf::from(line.unwrap_or_else(|| panic!("no `{label}`: {}", ended.stderr)))
    };
    let bundle = path("bundle: ");
    assert_eq!(bundle.parent(), path("log: ").parent());
    let mode = fs::metadata(&bundle).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // what the program said is on the operator's screen and in their log, as it was
    let log = fs::read_to_string(path("log: ")).unwrap();
    assert!(log.contains(SECRETS[3]), "{log}");

    let own = [
        "landfall/failure.txt",
        "landfall/journal.jsonl",
        "landfall/events.jsonl",
        "landfall/words-of-run.txt",
        "landfall/link.json",
    ];
    let theirs = [
        "agent/events.jsonl",
        "mounts",
        "processes.txt",
        "nix/nix.conf",
        "facts.json",
        "cmdline",
    ];
    let unpacked = Unpacked::of(&bundle);
    unpacked.has(&own);
    unpacked.has(&theirs);
    unpacked.has_journal();
    unpacked.has_no_secret();
    assert!(
        unpacked
            .read("processes.txt")
            .contains("--token [redacted]")
    );
    assert!(
        unpacked
            .read("agent/events.jsonl")
            .contains("https://u:[redacted]@")
    );
    assert!(
        unpacked
            .read("MANIFEST.txt")
            .contains("\ngathered by: the agent at work there, ")
    );

    // somebody drives the machine from here: asking for a bundle disturbs neither them nor the agent
    let lock = bench.lock();
    let agents = bench.agents();
    let ended = bench.ask(&[]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let asked = printed(&ended);
    assert_eq!(asked.parent(), bundle.parent());
    let unpacked = Unpacked::of(&asked);
    unpacked.has(&own[1..]);
    unpacked.has(&theirs);
    unpacked.has_journal();
    unpacked.has_no_secret();
    assert_eq!(bench.agents(), agents);
    drop(lock);

    // to a pipe, and where the agent at work is gone: from its journal
    bench.kill(&agents);
    let ended = bench.ask(&["--output", "-"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let piped = bench.folder.path().join("piped.tar.gz");
    fs::write(&piped, &ended.stdout).unwrap();
    let unpacked = Unpacked::of(&piped);
    unpacked.has(&theirs[1..]);
    unpacked.has_journal();
    unpacked.has_no_secret();
    assert!(
        unpacked
            .read("MANIFEST.txt")
            .contains("\ngathered by: an agent started for it, ")
    );
    assert_eq!(bench.agents(), Vec::<i32>::new());

    talker.kill().unwrap();
    talker.wait().unwrap();
    bench.target.end().unwrap();
}

/// The file that a command has printed, and nothing else.
#[track_caller]
fn printed(ended: &Ended) -> PathBuf {
    let out = std::str::from_utf8(&ended.stdout).unwrap();
    let line = out
        .strip_suffix('\n')
        .unwrap_or_else(|| panic!("{out:?}: {}", ended.stderr));
    assert!(!line.contains('\n'), "{out}");
    PathBuf::from(line)
}

/// A bundle as `tar` unpacks it.
struct Unpacked {
    folder: TempDir,
    top: PathBuf,
}

impl Unpacked {
    #[track_caller]
    fn of(file: &Path) -> Self {
        let folder = TempDir::with_prefix("unpacked-").unwrap();
        let mut tar = Command::new("tar");
        tar.arg("-xzf").arg(file).arg("-C").arg(folder.path());
        let tar = tar.output().unwrap();
        assert!(tar.status.success() && tar.stderr.is_empty(), "{tar:?}");
        let mut tops = fs::read_dir(folder.path()).unwrap();
        let top = tops.next().unwrap().unwrap().path();
        assert!(tops.next().is_none(), "all is in one folder");
        Self { folder, top }
    }

    #[track_caller]
    fn read(&self, name: &str) -> String {
        let read = fs::read_to_string(self.top.join(name));
        read.unwrap_or_else(|error| panic!("{name}: {error}; {:?}", self.names()))
    }

    #[track_caller]
    fn has(&self, names: &[&str]) {
        for name in names {
            assert!(!self.read(name).is_empty(), "{name}");
        }
    }

    /// The agent's journal says what has failed.
    #[track_caller]
    fn has_journal(&self) {
        let names = self.names();
        let journal = names
            .iter()
            .find(|name| name.starts_with("agent/journal-install-"));
        let journal = journal.unwrap_or_else(|| panic!("{names:?}"));
        assert!(
            self.read(journal).contains("step_failed"),
            "{}",
            self.read(journal)
        );
    }

    #[track_caller]
    fn has_no_secret(&self) {
        for name in self.names() {
            let bytes = fs::read(self.top.join(&name)).unwrap();
            let text = String::from_utf8_lossy(&bytes);
            for secret in SECRETS {
                assert!(!text.contains(secret), "{secret} in {name}");
            }
        }
    }

    fn names(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.strip_prefix(&self.top) {
                    Ok(name) if path.is_file() => found.push(name.display().to_string()),
                    _ => folders.push(path),
                }
            }
        }
        found.sort();
        found
    }
}

/// A target, the line to it, and an operator whose disko script fails.
struct Bench {
    assets: Assets,
    operator: Operator,
    target: Target,
    port: u16,
    folder: TempDir,
    _line: Runtime,
}

impl Bench {
    fn new() -> Self {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let assets = Assets::prepare(repository).unwrap();
        let target = Target::start(&assets, SIZE).unwrap();
        let settings = target.path("/etc/nix/nix.conf");
        let mut text = fs::read_to_string(&settings).unwrap();
        text += &format!("access-tokens = github.com={}\n", SECRETS[0]);
        fs::write(&settings, text).unwrap();
        let line = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let entered = line.enter();
        let conditions = watch::Sender::new(Conditions::default());
        let far = watch::Sender::new(Some(SSHD));
        let wire = Line::bind(None, conditions.subscribe(), far.subscribe()).unwrap();
        wire.reach_in(target.network().unwrap());
        let port = wire.port();
        line.spawn(async move {
            // both ends are there as long as the line
            let _ends = (conditions, far);
            let _ = Arc::new(wire).serve().await;
        });
        drop(entered);
        Self {
            assets,
            operator: Operator::new().unwrap(),
            target,
            port,
            folder: TempDir::with_prefix("bundle-").unwrap(),
            _line: line,
        }
    }

    /// A program of the target with a secret among its words.
    fn talk(&self) -> Child {
        let mut shell = self.target.command("/bin/sh");
        let words = format!("sleep 600; : --token {}", SECRETS[1]);
        shell.args(["-c", &words]).spawn().unwrap()
    }

    /// Runs a disko script that talks too much and fails.
    fn fails(&self) -> Ended {
        let script = self.folder.path().join("disko");
        let text = format!(
            "#!/bin/sh\necho fetching https://u:{}@cache.example.org/x\necho password={} >&2\nexit 7\n",
            SECRETS[2], SECRETS[3]
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
        let mut add = self.operator.command(&self.assets, "nix-store");
        let added = add.arg("--add").arg(&script).output().unwrap();
        assert!(added.status.success(), "{added:?}");
        let path = String::from_utf8(added.stdout).unwrap();
        let path = path.trim_end();
        let mut landfall = self.landfall();
        landfall.args(["-v", "--phases", "disko", "--store-paths", path, path]);
        landfall.args(reach(&self.ssh(), ROOT));
        run(&mut landfall, ENDS, || {}).unwrap()
    }

    fn ask(&self, words: &[&str]) -> Ended {
        let mut landfall = self.landfall();
        let ssh = self.ssh();
        landfall.args(["bundle", "-p", &ssh.port.to_string(), "-i"]);
        landfall.arg(&ssh.key);
        landfall.args(["--host-key-policy", "accept-new", ROOT]);
        landfall.args(words);
        run(&mut landfall, ENDS, || {}).unwrap()
    }

    fn landfall(&self) -> Command {
        let mut command = self.operator.command(&self.assets, binaries::controller());
        command.stdin(Stdio::null());
        command
    }

    fn ssh(&self) -> Ssh {
        Ssh {
            port: self.port,
            key: self.assets.key(),
        }
    }

    /// Holds what a command holds that drives the target.
    fn lock(&self) -> Flock<fs::File> {
        let host = format!("landfall/127.0.0.1:{}/lock", self.port);
        let file = fs::File::open(self.operator.state().join(host)).unwrap();
        Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap()
    }

    /// Agents at work.
    fn agents(&self) -> Vec<i32> {
        let all = self.target.processes().unwrap().into_iter();
        let serves = |words: &str| words.contains("landfall-agent") && words.contains(" serve");
        all.filter(|(_, words)| serves(words))
            .map(|(pid, _)| pid)
            .collect()
    }

    fn kill(&self, agents: &[i32]) {
        use nix::{sys::signal::Signal, unistd::Pid};
        for agent in agents {
            nix::sys::signal::kill(Pid::from_raw(*agent), Signal::SIGKILL).unwrap();
        }
        landfall_tests::patience::until("the agent to be gone", ENDS, || {
            Ok(self.agents().is_empty().then_some(()))
        })
        .unwrap();
    }
}
