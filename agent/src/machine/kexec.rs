//! Stands in for the `kexec` of an image while the image's own script loads its kernel, and adds
//! words to the command line of that kernel. No kernel is loaded without its archive, and none is
//! started by the script while the agent lives that is to start it. Everything else is left to the
//! real one, which becomes this process.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::{ffi::OsStrExt, ffi::OsStringExt, fs::symlink, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use landfall_proto::failure::Failure;

use super::{
    Machine, broken, command,
    initrd::{self, AMEND},
    jump,
};

/// Holds the words that are added, in the environment of the stand-in.
pub const WORDS: &str = "LANDFALL_KEXEC_WORDS";

/// Why no kernel was loaded.
pub const NO_ARCHIVE: &str = "the archive with its keys and addresses was not written to the end";

/// Longest command line that is made, in bytes.
///
/// Kernels for x86-64 and arm64 take 2048 with the byte that ends it (`COMMAND_LINE_SIZE`); kexec may add some itself.
const LONGEST: usize = 2048 - 128;

/// After a panic the machine boots what its disks hold: left alone, a kernel stays where it is for ever.
const PANIC: &str = "panic=60";

/// Does the work of `kexec`, if that is the name, with the arguments of this process. Returns what
/// went wrong, or where there is nothing to be done.
pub fn applet(name: &OsStr) -> Option<Result<(), Failure>> {
    let program = Path::new(name);
    (program.file_name()? == "kexec").then(|| stand_in(program))
}

fn stand_in(program: &Path) -> Result<(), Failure> {
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if jumps(&args) && !jump::is_left_to_script(program, command::owner()) {
        return Ok(());
    }
    let amendment = std::env::var_os(AMEND).map(PathBuf::from);
    if loads(&args) && amendment.is_some_and(|amendment| !initrd::done(&amendment).exists()) {
        return Err(Failure::new("refusing to load the installer")
            .because(NO_ARCHIVE)
            .code("LF1406"));
    }
    let words = std::env::var_os(WORDS).unwrap_or_default();
    // the kernel is loaded without the words sooner than not at all
    if let Some(more) = with_words(&args, &words)
        && fs::write(added(program), "").is_ok()
    {
        args = more;
    }
    let real = real(program);
    let error = Command::new(&real).args(args).exec();
    Err(broken(format!("cannot run {}", real.display()))(error))
}

/// Whether a kernel that was loaded is to be started.
fn jumps(args: &[OsString]) -> bool {
    args.iter().any(|arg| arg == "-e" || arg == "--exec")
}

/// Whether a kernel is to be loaded, and not started or unloaded.
fn loads(args: &[OsString]) -> bool {
    let others = [
        "-e",
        "--exec",
        "-u",
        "--unload",
        "-S",
        "--status",
        "-v",
        "--version",
        "-h",
        "--help",
    ];
    !args
        .iter()
        .any(|arg| others.iter().any(|other| arg == other))
}

/// The image's own program, once the agent is in its place.
pub(super) fn real(program: &Path) -> PathBuf {
    program.with_file_name("kexec.image")
}

/// Is there once words were added.
fn added(program: &Path) -> PathBuf {
    program.with_file_name("kexec.added")
}

/// Returns the arguments with the words at the end of the command line; none where there is no whole one, or no room.
fn with_words(args: &[OsString], words: &OsStr) -> Option<Vec<OsString>> {
    // how long it becomes is for the old system's own line to say
    if words.is_empty() || args.iter().any(|arg| arg == "--reuse-cmdline") {
        return None;
    }
    let names = ["--command-line", "--append"];
    // of several the last one counts
    let (at, skip) = (0..args.len()).rev().find_map(|at| {
        let arg = args[at].as_bytes();
        if at > 0 && names.iter().any(|name| args[at - 1] == *name) {
            return Some((at, 0));
        }
        let mut names = names.iter();
        let name = names.find(|name| {
            arg.strip_prefix(name.as_bytes())
                .is_some_and(|r| r.first() == Some(&b'='))
        })?;
        Some((at, name.len() + 1))
    })?;
    let mut arg = args[at].as_bytes().to_vec();
    let line = &arg[skip..];
    let panics = line
        .split(|byte| *byte == b' ')
        .any(|word| word.starts_with(b"panic="));
    if !panics {
        arg.push(b' ');
        arg.extend_from_slice(PANIC.as_bytes());
    }
    arg.push(b' ');
    arg.extend_from_slice(words.as_bytes());
    if arg.len() - skip > LONGEST {
        return None;
    }
    let mut args = args.to_vec();
    args[at] = OsString::from_vec(arg);
    Some(args)
}

impl Machine {
    /// Puts the agent in the place of the image's own `kexec`, if it has one. Blocks.
    pub fn stand_in_for_kexec(&self) -> Result<(), Failure> {
        let program = self.image_kexec();
        if !program.is_file() {
            return Ok(());
        }
        let agent = std::env::current_exe().map_err(broken("cannot find the agent's own file"))?;
        let placed = fs::rename(&program, real(&program)).and_then(|()| symlink(agent, &program));
        placed.map_err(broken(format!(
            "cannot take the place of {}",
            program.display()
        )))
    }

    /// Whether the words were added to the command line of the kernel that was loaded. Blocks.
    pub fn has_added_words(&self) -> bool {
        added(&self.image_kexec()).exists()
    }

    /// Returns where an image has its own `kexec`, in whose place the agent stands.
    pub(super) fn image_kexec(&self) -> PathBuf {
        self.kexec_dir().join("kexec/kexec")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::stage::Stage;

    #[track_caller]
    fn check(args: &[&str], words: &str, expected: Option<&[&str]>) {
        let args: Vec<_> = args.iter().map(OsString::from).collect();
        let expected = expected.map(|args| args.iter().map(OsString::from).collect());
        assert_eq!(with_words(&args, OsStr::new(words)), expected);
    }

    #[test]
    fn words_come_last_on_the_command_line() {
        let line = "init=/nix/store/x/init panic=30 quiet";
        let more = format!("{line} a=b c");
        let load = ["--load", "bzImage", "--initrd=initrd", "--no-checks"];
        let with = |tail: &[&str]| -> Vec<String> {
            load.iter().chain(tail).map(|&arg| arg.to_owned()).collect()
        };
        for name in ["--command-line", "--append"] {
            let (apart, joined) = (format!("{name}={line}"), format!("{name}={more}"));
            for (tail, expected) in [
                (vec![name, line], vec![name, &more]),
                (vec![name, line, "--debug"], vec![name, &more, "--debug"]),
                (vec![&apart], vec![&joined]),
                (vec![&apart, name, line], vec![&apart, name, &more]),
            ] {
                let (args, expected) = (with(&tail), with(&expected));
                let args: Vec<_> = args.iter().map(String::as_str).collect();
                let expected: Vec<_> = expected.iter().map(String::as_str).collect();
                check(&args, "a=b c", Some(&expected));
            }
        }
    }

    #[test]
    fn kernel_that_panics_does_not_stay_there() {
        let check = |line: &str, expected: &str| {
            check(&["--append", line], "w", Some(&["--append", expected]));
        };
        check("quiet", "quiet panic=60 w");
        check("panic=1 quiet", "panic=1 quiet w");
        check("boot.panic=1", "boot.panic=1 panic=60 w");
    }

    #[test]
    fn jump_is_told_from_everything_else() {
        let check = |args: &[&str], expected: bool| {
            let args: Vec<_> = args.iter().map(OsString::from).collect();
            assert_eq!(jumps(&args), expected, "{args:?}");
        };
        check(&["-e"], true);
        check(&["-e", "--reset-vga"], true);
        check(&["--exec"], true);
        check(&["--load", "bzImage", "--append=-e"], false);
        check(&["-u"], false);
        check(&[], false);
    }

    #[test]
    fn calls_that_load_nothing_pass_through() {
        check(&["-e"], "w", None);
        check(&["-e", "--reset-vga"], "w", None);
        check(
            &["--load", "bzImage", "--reuse-cmdline", "--append=x"],
            "w",
            None,
        );
        check(&["--command-line"], "w", None);
        check(&["--command-line", "x"], "", None);
        check(&[], "w", None);
    }

    #[test]
    fn command_line_stays_within_what_kernels_take() {
        let line = "x".repeat(1800);
        let room = LONGEST - line.len() - " panic=60 ".len();
        let fits = "w".repeat(room);
        let expected = format!("--append={line} panic=60 {fits}");
        let line = format!("--append={line}");
        check(&[&line], &fits, Some(&[&expected]));
        check(&[&line], &"w".repeat(room + 1), None);
    }

    #[test]
    fn agent_takes_the_place_of_the_program_if_there_is_one() {
        let stage = Stage::new().file("run/landfall/kexec/kexec/run", "#!");
        stage.machine().stand_in_for_kexec().unwrap();
        let stage = stage.file("run/landfall/kexec/kexec/kexec", "real");
        stage.machine().stand_in_for_kexec().unwrap();
        assert_eq!(stage.read("run/landfall/kexec/kexec/kexec.image"), "real");
        let link = stage.root().join("run/landfall/kexec/kexec/kexec");
        assert_eq!(
            fs::read_link(link).unwrap(),
            std::env::current_exe().unwrap()
        );
        assert!(!stage.machine().has_added_words());
    }
}
