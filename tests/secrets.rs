//! What was entrusted to landfall is where it was asked to be, and nowhere else: not in a command line, an environment,
//! a log, a journal, a recording, a console or a disk.
//!
//! Covers: controller/src/local/secret.rs, controller/src/local/keys.rs.
//! Covers: agent/src/machine/keys.rs.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
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
use nix::{sys::stat::Mode, unistd::mkfifo};
use tempfile::TempDir;

/// Debian logs in after 13 to 30 s under emulation; with others beside it, much later.
const BOOTS: Duration = Duration::from_secs(240);
/// An installation takes 100 s on an idle host of two cores.
const INSTALLS: Duration = Duration::from_secs(900);

/// Short enough to see what lives for a moment only, long enough to leave the machine to the others.
const PAUSE: Duration = Duration::from_millis(20);

/// A key that is no text, without a newline at its end.
const DISK_KEY: &[u8] = b"disk-key-7f1c\x00\xff 24e9 \n\n tail";
/// What a search for it looks for: the part that is text.
const DISK_KEY_MARK: &str = "disk-key-7f1c";
const DISK_PHRASE: &str = "disk-phrase-90ab";
const SUDO_PASSWORD: &str = "sudo-password-c3d4";
const EXTRA: &str = "extra-secret-e5f6";

#[test]
#[cfg_attr(
    not(feature = "scenarios"),
    ignore = "starts a machine; `cargo verify --all` runs it"
)]
fn secrets_are_only_where_they_were_asked_to_be() {
    let desk = Desk::new();
    let private_key = fs::read_to_string(desk.assets.key()).unwrap();
    // the middle of the key's own base 64, which is like no other key's
    let key_mark = private_key.lines().nth(3).unwrap().to_owned();
    let marks: Vec<String> = [DISK_KEY_MARK, DISK_PHRASE, SUDO_PASSWORD, EXTRA, &key_mark]
        .map(str::to_owned)
        .to_vec();

    let mut landfall = desk.landfall(&private_key).spawn().unwrap();
    let here = WatchHere::begin(marks.clone(), &desk.operator, landfall.id());
    let there = WatchThere::begin(&desk.machine);
    // the old system is at its end, and was told a password
    desk.wait_for(&mut landfall, r#""step":"kexec","kind":"progress""#);
    let debian = desk.written_there();
    assert!(debian.contains("landfall"), "{debian}");
    check("what Debian wrote down", &debian, &marks);
    desk.wait_for(&mut landfall, r#""step":"disko","kind":"step_finished""#);
    // the system travels slowly while the keys are looked at
    desk.machine.link().rate(4.0).unwrap();
    desk.keys_are_in_memory();
    let installer = desk.written_there();
    assert!(installer.contains("disko"), "{installer}");
    check("what the installer wrote down", &installer, &marks);
    desk.machine.link().restore().unwrap();
    let ended = patience::until("landfall", INSTALLS, || Ok(landfall.try_wait()?)).unwrap();
    let said = desk.said();
    assert!(ended.success(), "{said}");
    assert_eq!(
        here.end(),
        Vec::<String>::new(),
        "on the operator's machine"
    );
    let there = there.end();
    assert!(
        there.contains("landfall-agent"),
        "nothing was seen on the target"
    );
    check("a process of the target", &there, &marks);

    check("what landfall said", &said, &marks);
    check("the console", &desk.machine.serial_log(), &marks);
    for path in files_below(&desk.operator.state()) {
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        check(&path.display().to_string(), &text, &marks);
    }

    // what was asked for is there, and is its owner's alone
    let asked = "stat -c '%u:%g %a' /var/lib/demo/secret; cat /var/lib/demo/secret";
    let seen = desk.machine.ssh(asked).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&seen.stdout),
        format!("1000:100 600\n{EXTRA}")
    );

    let _ = desk.machine.ssh("sync; poweroff");
    patience::until("the machine to turn itself off", BOOTS, || {
        Ok((!desk.machine.status()?.running).then_some(()))
    })
    .unwrap();
    let found = search(&desk.machine.disk(0), &marks);
    assert_eq!(found, [EXTRA], "on the installed disk");
}

#[track_caller]
fn check(place: &str, text: &str, marks: &[String]) {
    for mark in marks {
        assert!(!text.contains(mark), "{place} has {mark}");
    }
}

/// An operator with secrets, and a machine on which they have no root login.
struct Desk {
    assets: Assets,
    operator: Operator,
    machine: Machine,
    folder: TempDir,
}

impl Desk {
    fn new() -> Self {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let assets = Assets::prepare(repository).unwrap();
        let machine = Machine::ready(&assets, Spec::of(Boot::Target)).unwrap();
        machine.wait_ssh(BOOTS).unwrap();
        let user = format!(
            "useradd -m -s /bin/sh guard && echo guard:{SUDO_PASSWORD} | chpasswd \
             && echo 'guard ALL=(ALL) ALL' > /etc/sudoers.d/guard && cp -r /root/.ssh /home/guard/ && chown -R guard: /home/guard"
        );
        let made = machine.ssh(&user).unwrap();
        assert!(made.status.success(), "{made:?}");
        let desk = Self {
            assets,
            operator: Operator::new().unwrap(),
            machine,
            folder: TempDir::with_prefix("secrets-").unwrap(),
        };
        let extra = desk.path("extra/var/lib/demo");
        fs::create_dir_all(&extra).unwrap();
        fs::write(extra.join("secret"), EXTRA).unwrap();
        fs::set_permissions(extra.join("secret"), PermissionsExt::from_mode(0o600)).unwrap();
        fs::write(desk.path("sudo"), format!("{SUDO_PASSWORD}\n")).unwrap();
        fs::write(desk.path("phrase"), DISK_PHRASE).unwrap();
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn landfall(&self, private_key: &str) -> Command {
        // read once, as process substitution is
        let pipe = self.path("pipe");
        mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::write(pipe, DISK_KEY)
        });
        let port = self.machine.ssh_port().to_string();
        let flake = format!("{}#demo", self.assets.fixture_flake().display());
        let mut landfall = self.operator.command(&self.assets, binaries::controller());
        landfall.args(["-p", &port, "--post-kexec-ssh-port", &port]);
        landfall.args(["--host-key-policy", "accept-new", "--yes", "--json", "-vv"]);
        landfall.args(["--flake", &flake, "--copy-host-keys"]);
        landfall.arg("--kexec").arg(self.assets.installer_tarball());
        landfall.arg("--sudo-password-file").arg(self.path("sudo"));
        landfall
            .args(["--disk-encryption-keys", "/run/keys/disk.key"])
            .arg(pipe);
        landfall
            .args(["--disk-encryption-keys", "/tmp/phrase"])
            .arg(self.path("phrase"));
        landfall.arg("--extra-files").arg(self.path("extra"));
        landfall.args([
            "--chown",
            "/var/lib/demo/secret",
            "1000:100",
            "guard@127.0.0.1",
        ]);
        landfall
            .env("SSH_PRIVATE_KEY", private_key)
            .stdin(Stdio::null())
            .stdout(File::create(self.path("stdout")).unwrap())
            .stderr(File::create(self.path("stderr")).unwrap());
        landfall
    }

    fn said(&self) -> String {
        let read = |name| fs::read_to_string(self.path(name)).unwrap();
        read("stdout") + &read("stderr")
    }

    #[track_caller]
    fn wait_for(&self, landfall: &mut Child, words: &str) {
        patience::until(words, INSTALLS, || {
            if let Some(status) = landfall.try_wait()? {
                anyhow::bail!("it ended already, {status}:\n{}", self.said());
            }
            Ok(self.said().contains(words).then_some(()))
        })
        .unwrap();
    }

    /// What landfall and the system have written down on the target, whichever system it is.
    fn written_there(&self) -> String {
        let look = "cat /run/landfall/runs/*/* /run/landfall/*.json 2>/dev/null; journalctl --no-pager 2>/dev/null; dmesg";
        String::from_utf8_lossy(&self.machine.ssh(look).unwrap().stdout).into_owned()
    }

    /// The disko script has had its keys, byte for byte, and nobody else can read them.
    fn keys_are_in_memory(&self) {
        let seen = self
            .machine
            .ssh("stat -Lc %a /run/keys/disk.key /tmp/phrase; cat /run/keys/disk.key /tmp/phrase");
        let expected = [b"600\n600\n", DISK_KEY, DISK_PHRASE.as_bytes()].concat();
        assert_eq!(seen.unwrap().stdout, expected);
        let kinds = self
            .machine
            .ssh("stat -fLc %T /run/keys/disk.key /tmp/phrase")
            .unwrap();
        let kinds = String::from_utf8_lossy(&kinds.stdout).into_owned();
        let in_memory = |kind: &str| ["tmpfs", "ramfs"].contains(&kind);
        assert!(
            kinds.lines().count() == 2 && kinds.lines().all(in_memory),
            "{kinds}"
        );
    }
}

/// Looks at every process of this machine, again and again.
struct WatchHere {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<String>>,
}

impl WatchHere {
    /// `landfall` is the one process of this operator that was given secrets in its environment.
    fn begin(marks: Vec<String>, operator: &Operator, landfall: u32) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let ours = format!("XDG_STATE_HOME={}", operator.state().display());
        let thread = std::thread::spawn({
            let over = Arc::clone(&over);
            move || {
                let mut found = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    look_at_processes(&marks, landfall, &ours, &mut found);
                    // its end is the pause between two looks
                    let _ = patience::until("the next look", PAUSE, || Ok(None::<()>));
                }
                found
            }
        });
        Self { over, thread }
    }

    /// Returns what was found where it should not be.
    fn end(self) -> Vec<String> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// `landfall` may have them in its environment: itself, and its children for as long as they are still its image. Environments of others than `ours` are those of other tests.
fn look_at_processes(marks: &[String], landfall: u32, ours: &str, found: &mut Vec<String>) {
    let given = fs::read(format!("/proc/{landfall}/cmdline")).unwrap_or_default();
    // the rig's own shell prepares a store first, with what landfall is given
    let program = fs::read_link(format!("/proc/{landfall}/exe")).unwrap_or_default();
    if !program.ends_with("landfall") {
        return;
    }
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.parse::<u32>().is_err() || name == std::process::id().to_string() {
            continue;
        }
        // whoever has ended meanwhile is not there any more
        let read = |room| fs::read(entry.path().join(room)).unwrap_or_default();
        // the words first: who is another program by the time of the second look is looked at again
        let (words, environ) = (read("cmdline"), read("environ"));
        let environ = String::from_utf8_lossy(&environ).into_owned();
        let own = name == landfall.to_string() || words == given;
        let seen = match own || !environ.contains(ours) {
            true => vec![("words", String::from_utf8_lossy(&words).into_owned())],
            false => vec![
                ("words", String::from_utf8_lossy(&words).into_owned()),
                ("environment", environ),
            ],
        };
        for (room, text) in seen {
            for mark in marks.iter().filter(|mark| text.contains(*mark)) {
                let words = String::from_utf8_lossy(&words).replace('\0', " ");
                found.push(format!("{mark} in the {room} of {words}"));
            }
        }
    }
}

/// Looks at every process of the target, through all its systems.
struct WatchThere {
    over: Arc<AtomicBool>,
    thread: JoinHandle<String>,
}

impl WatchThere {
    fn begin(machine: &Machine) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let ssh = machine.ssh_login().clone();
        let thread = std::thread::spawn({
            let over = Arc::clone(&over);
            move || {
                let look = "i=0; while [ $i -lt 40 ]; do cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null; i=$((i+1)); sleep 0.1; done";
                let mut seen = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    // between two systems nobody answers
                    if let Ok(output) = ssh.run(look) {
                        seen.extend(output.stdout);
                    }
                }
                String::from_utf8_lossy(&seen).into_owned()
            }
        });
        Self { over, thread }
    }

    fn end(self) -> String {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Returns which of the marks are anywhere in a file.
fn search(file: &Path, marks: &[String]) -> Vec<String> {
    const AT_ONCE: usize = 4 << 20;
    let overlap = marks.iter().map(String::len).max().unwrap();
    let mut file = File::open(file).unwrap();
    let mut window = Vec::new();
    let mut found = Vec::new();
    loop {
        let kept = window.len().min(overlap);
        window.drain(..window.len() - kept);
        let read = Read::by_ref(&mut file)
            .take(AT_ONCE as u64)
            .read_to_end(&mut window)
            .unwrap();
        if read == 0 {
            return marks
                .iter()
                .filter(|mark| found.contains(*mark))
                .cloned()
                .collect();
        }
        if window.iter().all(|byte| *byte == 0) {
            continue;
        }
        let has = |mark: &&String| memchr::memmem::find(&window, mark.as_bytes()).is_some();
        let new: Vec<String> = marks.iter().filter(has).cloned().collect();
        found.extend(new);
    }
}

/// Files, at any depth.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else if path.is_file() {
            found.push(path);
        }
    }
    found
}
