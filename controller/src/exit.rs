//! How a command ends: what is printed about it, and which exit code a script gets to see. The one table.
//!
//! Where the machine stands is a type, never free text. Start at [`Ended`].

use std::{
    collections::BTreeSet,
    fmt,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use landfall_proto::{
    event::{Event, Kind, Outcome},
    failure::{Contact, Failure},
    order::DiskoMode,
};
use serde::{Deserialize, Serialize};

/// What a script may conclude from how landfall ended. Binding: decisions/ and `--help` show the same table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Installed, rebooted, verified, or what else was asked for. Go on.
    Done = 0,
    /// Failed, and no disk was changed. Fix it, run again, or walk away.
    Untouched = 1,
    /// The command line is wrong. clap's own code.
    Usage = 2,
    /// Failed after the point of no return.
    Changed = 3,
    /// Contact was lost; the agent may be going on.
    Unknown = 4,
    /// Installed, but the machine did not come back as expected. Look at its console.
    Unverified = 5,
    /// A broken invariant of landfall itself.
    Bug = 70,
    /// Stopped by ctrl-c. The `state:` line says where.
    Interrupted = 130,
}

impl Exit {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Done,
        Self::Untouched,
        Self::Usage,
        Self::Changed,
        Self::Unknown,
        Self::Unverified,
        Self::Bug,
        Self::Interrupted,
    ];

    /// Returns the number a script sees.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// Returns the one with this number.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|exit| exit.code() == code)
    }

    /// Returns what it means, and what may be done next.
    pub fn meaning(self) -> (&'static str, &'static str) {
        match self {
            Self::Done => ("done: all that was asked for", "go on"),
            Self::Untouched => (
                "failed; no disk was changed",
                "fix, run again, or walk away",
            ),
            Self::Usage => ("the command line is wrong", "read the help"),
            Self::Changed => ("failed after the point of no return", "run again"),
            Self::Unknown => (
                "contact lost; the agent may be going on",
                "look, then run again",
            ),
            Self::Unverified => ("installed, but not back as expected", "look at the console"),
            Self::Bug => ("a bug of landfall", "report it"),
            Self::Interrupted => ("stopped by ctrl-c", "as the `state:` line says"),
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Returns the exit codes as a table for `--help`.
pub fn table() -> String {
    let mut text = "Exit codes:".to_owned();
    for exit in Exit::ALL {
        let (meaning, next) = exit.meaning();
        text += &format!("\n  {:>3}  {meaning:<41}{next}", exit.code());
    }
    text
}

/// Where the machine stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MachineState {
    /// Nothing on it was changed that a reboot does not undo.
    #[default]
    Untouched,
    /// Runs the installer from memory; its disks are as they were.
    Installer,
    /// Written to without having been erased in this run: `--disko-mode mount`, or phase install alone.
    Written,
    /// Disks erased; nothing on them boots.
    Erased,
    /// Left to its agent, which has everything and goes on alone.
    Alone,
    /// Installed, and not seen to have booted.
    Installed,
    /// Runs the installed system, and it is the one that was asked for.
    Verified,
}

impl MachineState {
    /// Returns the sentence that follows the name of the machine.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Untouched => "is untouched",
            Self::Installer => "runs the installer; its disks are unchanged",
            Self::Written => {
                "runs the installer; its disks were written to and are not ready to boot"
            }
            Self::Erased => "runs the installer; its disks are erased and not bootable",
            Self::Alone => "goes on alone: its agent has everything that it needs",
            Self::Installed => "is installed, but not yet seen to have booted",
            Self::Verified => "is installed and verified",
        }
    }

    /// Whether a disk was changed.
    pub fn is_past_return(self) -> bool {
        self > Self::Installer
    }
}

impl fmt::Display for MachineState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Untouched => "untouched",
            Self::Installer => "runs the installer; disks unchanged",
            Self::Written => "disks written to, not ready to boot",
            Self::Erased => "disks erased, not bootable",
            Self::Alone => "left to its agent, which goes on",
            Self::Installed => "installed, not yet booted",
            Self::Verified => "installed and verified",
        })
    }
}

/// What has happened to the machine, gathered from the events of a run and of the agent's run inside it.
///
/// Knows the steps by name: `kexec`, `reboot`, `verify` of the controller; `format`, `copy`, `files`, `install`, `seal`
/// of the agent. Whatever is in doubt counts as done to the machine.
#[derive(Debug, Clone, Default)]
pub struct Trail {
    begun: BTreeSet<String>,
    over: BTreeSet<String>,
    failed: Option<String>,
    mode: Option<DiskoMode>,
    before: MachineState,
}

impl Trail {
    /// Sets what disko does to the disks; until then it is taken to erase them.
    pub fn set_disko_mode(&mut self, mode: DiskoMode) {
        self.mode = Some(mode);
    }

    /// Takes in where another run has left the machine, which is so until this one does more to it.
    pub fn set_before(&mut self, before: MachineState) {
        self.before = before;
    }

    /// Takes an event in. Events seen twice change nothing.
    pub fn take(&mut self, event: &Event) {
        let Some(step) = event.step.clone() else {
            return;
        };
        match &event.kind {
            Kind::StepStarted { .. } => {
                self.over.remove(&step);
                self.begun.insert(step);
            }
            // a step that was passed over did nothing, but where kexec had nothing to do there is an installer
            Kind::StepFinished {
                outcome: Outcome::Skipped { .. },
            } if step != "kexec" => {}
            Kind::StepFinished { .. } => {
                self.begun.insert(step.clone());
                self.over.insert(step);
            }
            Kind::StepFailed { .. } if !step.contains('/') => self.failed = Some(step),
            _ => {}
        }
    }

    /// Takes in that events of the agent were missed: the phase under way may have done all that it does to disks.
    pub fn missed_some(&mut self) {
        for (phase, worst) in [("disko", "disko/format"), ("install", "install/install")] {
            if self.begun.contains(phase) && !self.over.contains(phase) {
                self.begun.insert(worst.to_owned());
            }
        }
    }

    /// Takes in that nothing is known of what was done: the worst is assumed.
    pub fn lost_sight(&mut self) {
        self.begun.insert("disko/format".to_owned());
    }

    /// Returns where the machine stands.
    pub fn state(&self) -> MachineState {
        let state = self.of_this_run();
        match state.is_past_return() {
            true => state,
            false => state.max(self.before),
        }
    }

    /// Whether this run has changed a disk.
    pub fn has_changed_disks(&self) -> bool {
        self.of_this_run().is_past_return()
    }

    fn of_this_run(&self) -> MachineState {
        let begun = |step: &str| self.begun.contains(step);
        let over = |step: &str| self.over.contains(step);
        let written = ["copy", "files", "install"];
        let creates = self.mode != Some(DiskoMode::Mount);
        let erases = creates && self.mode != Some(DiskoMode::Format);
        if over("verify") {
            MachineState::Verified
        } else if over("install") || agent(&self.over, "install") {
            MachineState::Installed
        } else if erases && (over("disko") || agent(&self.begun, "format")) {
            MachineState::Erased
        } else if (creates && agent(&self.begun, "format"))
            || written.iter().any(|step| agent(&self.begun, step))
        {
            MachineState::Written
        } else if over("kexec") || begun("disko") || begun("install") {
            MachineState::Installer
        } else {
            MachineState::Untouched
        }
    }

    /// Returns the exit code for a failure now.
    pub fn exit_on_failure(&self) -> Exit {
        match self.state() {
            MachineState::Installed if self.failed.as_deref() == Some("verify") => Exit::Unverified,
            state if state.is_past_return() => Exit::Changed,
            _ => Exit::Untouched,
        }
    }
}

/// Whether the agent's step of this name is in a set of paths such as `disko/format`.
fn agent(paths: &BTreeSet<String>, name: &str) -> bool {
    paths
        .iter()
        .filter_map(|path| path.rsplit_once('/'))
        .any(|(_, step)| step == name)
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    /// The exit code.
    pub exit: Exit,
    /// Where the machine stands, as far as it was seen.
    pub state: MachineState,
    /// Why it did not end well.
    pub failure: Option<Failure>,
    /// Where that is explained at length.
    pub bundle: Option<PathBuf>,
}

impl Ended {
    /// All that was asked for is done.
    pub fn done(trail: &Trail) -> Self {
        Self {
            exit: Exit::Done,
            state: trail.state(),
            failure: None,
            bundle: None,
        }
    }

    /// The agent has everything and goes on alone.
    pub fn handed_over() -> Self {
        Self {
            exit: Exit::Done,
            state: MachineState::Alone,
            failure: None,
            bundle: None,
        }
    }

    /// Something failed, and the machine was seen after it.
    pub fn failed(failure: Failure, trail: &Trail) -> Self {
        Self {
            exit: trail.exit_on_failure(),
            state: trail.state(),
            failure: Some(failure),
            bundle: None,
        }
    }

    /// The link is gone for good; the machine may have gone on since it was seen.
    pub fn lost(failure: Failure, trail: &Trail) -> Self {
        let exit = match trail.exit_on_failure() {
            Exit::Unverified => Exit::Unverified,
            _ => Exit::Unknown,
        };
        Self {
            exit,
            state: trail.state(),
            failure: Some(failure),
            bundle: None,
        }
    }

    /// Somebody pressed ctrl-c.
    pub fn interrupted(trail: &Trail) -> Self {
        let failure = Failure::new("stopped by ctrl-c")
            .hint("run the same command again")
            .code("LF0480");
        Self {
            exit: Exit::Interrupted,
            state: trail.state(),
            failure: Some(failure),
            bundle: None,
        }
    }

    /// Adds a hint to the failure, if there is one.
    pub fn hint(mut self, text: String) -> Self {
        self.failure = self.failure.map(|failure| failure.hint(text));
        self
    }

    /// The command line makes no sense.
    pub fn usage(failure: Failure) -> Self {
        Self {
            exit: Exit::Usage,
            state: MachineState::Untouched,
            failure: Some(failure),
            bundle: None,
        }
    }
}

/// Writes how a command ended, in labelled parts, a question answered by each.
///
/// Writes nothing where there was no failure. `host` is left out where none is known: then there is no state either.
/// Text from the machine cannot steer the terminal.
pub fn write_failure(
    out: &mut impl Write,
    ended: &Ended,
    host: Option<&str>,
    log: Option<&Path>,
    color: bool,
) -> io::Result<()> {
    let Some(failure) = &ended.failure else {
        return Ok(());
    };
    let mut part = |label: &str, paint: &str, text: &str| {
        let text = printable(text).trim_end().replace('\n', "\n  ");
        if color {
            writeln!(out, "\x1b[1;{paint}m{label}:\x1b[0m {text}")
        } else {
            writeln!(out, "{label}: {text}")
        }
    };
    let code = if failure.code.is_empty() {
        String::new()
    } else {
        format!(" [{}]", failure.code)
    };
    part("error", "31", &format!("{}{code}", failure.what))?;
    for cause in &failure.causes {
        part("caused by", "31", cause)?;
    }
    if let Some(host) = host {
        part("state", "36", &standing(ended, failure, host))?;
    }
    for hint in &failure.hints {
        part("hint", "32", hint)?;
    }
    if !failure.code.is_empty() {
        let page = format!("read more with `landfall explain {}`", failure.code);
        part("hint", "32", &page)?;
    }
    for (label, path) in [("log", log), ("bundle", ended.bundle.as_deref())] {
        if let Some(path) = path {
            part(label, "36", &path.display().to_string())?;
        }
    }
    Ok(())
}

/// Returns where the machine stands, as far as this command can say.
fn standing(ended: &Ended, failure: &Failure, host: &str) -> String {
    let sentence = ended.state.sentence();
    match ended.exit {
        Exit::Unknown => format!("when last seen, {host} {sentence}; the agent may be going on"),
        _ if failure.contact == Contact::Foreign && !ended.state.is_past_return() => {
            format!(
                "this command changed nothing on {host}; another run is there, and may be changing it"
            )
        }
        _ => format!("{host} {sentence}"),
    }
}

/// Returns text without what could steer a terminal: control characters other than the end of a line and the tab, and
/// the marks that turn the direction of writing.
pub fn printable(text: &str) -> String {
    let harmful = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
    };
    text.chars()
        .map(|c| if harmful(c) { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trail(events: &[(&str, Kind)]) -> Trail {
        let mut trail = Trail::default();
        for (index, (step, kind)) in events.iter().enumerate() {
            let index = index as u64;
            let step = Some((*step).to_owned());
            trail.take(&Event {
                index,
                light: None,
                at_ms: 0,
                step,
                kind: kind.clone(),
            });
        }
        trail
    }

    fn started() -> Kind {
        Kind::StepStarted { attempt: 1 }
    }

    fn finished(outcome: Outcome) -> Kind {
        Kind::StepFinished { outcome }
    }

    fn done() -> Kind {
        finished(Outcome::Done)
    }

    fn skipped() -> Kind {
        finished(Outcome::Skipped {
            reason: String::new(),
        })
    }

    fn failed() -> Kind {
        Kind::StepFailed {
            failure: Failure::new("cannot go on"),
        }
    }

    #[track_caller]
    fn check(events: &[(&str, Kind)], state: MachineState, exit: Exit) {
        let trail = trail(events);
        assert_eq!((trail.state(), trail.exit_on_failure()), (state, exit));
    }

    #[test]
    fn exit_code_tells_whether_a_disk_was_touched() {
        use MachineState::{Erased, Installed, Installer, Untouched, Verified, Written};
        check(&[], Untouched, Exit::Untouched);
        check(
            &[("kexec", started()), ("kexec/image", started())],
            Untouched,
            Exit::Untouched,
        );
        check(&[("kexec", done())], Installer, Exit::Untouched);
        check(&[("kexec", skipped())], Installer, Exit::Untouched);
        check(
            &[
                ("kexec", done()),
                ("disko", started()),
                ("disko/tools", started()),
            ],
            Installer,
            Exit::Untouched,
        );
        check(
            &[("disko", started()), ("disko/format", started())],
            Erased,
            Exit::Changed,
        );
        check(
            &[("disko", started()), ("disko/format", skipped())],
            Installer,
            Exit::Untouched,
        );
        check(
            &[("kexec", done()), ("disko", finished(Outcome::Recovered))],
            Erased,
            Exit::Changed,
        );
        check(
            &[
                ("disko", skipped()),
                ("install", started()),
                ("install/copy", started()),
            ],
            Written,
            Exit::Changed,
        );
        check(&[("install/install", started())], Written, Exit::Changed);
        check(
            &[("disko/format", done()), ("install/install", started())],
            Erased,
            Exit::Changed,
        );
        check(
            &[("disko", done()), ("install", done())],
            Installed,
            Exit::Changed,
        );
        check(
            &[
                ("install", done()),
                ("reboot", started()),
                ("reboot", failed()),
            ],
            Installed,
            Exit::Changed,
        );
        check(
            &[
                ("install", done()),
                ("reboot", done()),
                ("verify", started()),
                ("verify", failed()),
            ],
            Installed,
            Exit::Unverified,
        );
        check(
            &[("install", done()), ("reboot", done()), ("verify", done())],
            Verified,
            Exit::Changed,
        );
    }

    #[test]
    fn mounting_erases_nothing() {
        let events = [
            ("kexec", done()),
            ("disko", started()),
            ("disko/format", started()),
        ];
        for (mode, state) in [
            (DiskoMode::Disko, MachineState::Erased),
            (DiskoMode::Format, MachineState::Written),
            (DiskoMode::Mount, MachineState::Installer),
        ] {
            let mut trail = trail(&events);
            trail.set_disko_mode(mode);
            assert_eq!(trail.state(), state);
        }
    }

    #[test]
    fn what_was_missed_counts_as_done_to_the_machine() {
        let mut trail = trail(&[("kexec", done()), ("disko", started())]);
        assert_eq!(trail.state(), MachineState::Installer);
        trail.missed_some();
        assert_eq!(trail.state(), MachineState::Erased);
        let mut trail = Trail::default();
        trail.missed_some();
        assert_eq!(trail.state(), MachineState::Untouched);
    }

    #[test]
    fn what_another_run_has_erased_is_not_untouched() {
        let mut trail = trail(&[("kexec", done())]);
        trail.set_before(MachineState::Installed);
        assert_eq!(trail.state(), MachineState::Installed);
        assert!(!trail.has_changed_disks());
        trail.set_before(MachineState::Erased);
        assert_eq!(trail.state(), MachineState::Erased);
        assert_eq!(trail.exit_on_failure(), Exit::Changed);
        trail.set_before(MachineState::Untouched);
        assert_eq!(trail.state(), MachineState::Installer);
        trail.set_before(MachineState::Installed);
        for event in self::trail(&[("disko", started()), ("disko/format", started())]).begun {
            trail.begun.insert(event);
        }
        assert_eq!(trail.state(), MachineState::Erased);
    }

    #[test]
    fn skipped_phases_change_nothing() {
        check(
            &[("disko", skipped()), ("install", skipped())],
            MachineState::Untouched,
            Exit::Untouched,
        );
        check(
            &[("verify", skipped())],
            MachineState::Untouched,
            Exit::Untouched,
        );
    }

    #[test]
    fn codes_are_those_that_scripts_know() {
        assert_eq!(Exit::ALL.map(Exit::code), [0, 1, 2, 3, 4, 5, 70, 130]);
    }

    #[track_caller]
    fn check_text(ended: &Ended, expected: &str) {
        let mut out = Vec::new();
        write_failure(
            &mut out,
            ended,
            Some("host01"),
            Some(Path::new("/log")),
            false,
        )
        .unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn failure_is_told_in_labelled_parts() {
        let failure = Failure::new("cannot format /dev/vda")
            .because("opening /dev/vda for exclusive use")
            .because("device or resource busy\n\x1b[2Jsecond line")
            .hint("unmount /dev/vda1")
            .code("LF0501");
        let trail = trail(&[("kexec", done())]);
        check_text(
            &Ended::failed(failure.clone(), &trail),
            "error: cannot format /dev/vda [LF0501]\n\
             caused by: opening /dev/vda for exclusive use\n\
             caused by: device or resource busy\n  \u{fffd}[2Jsecond line\n\
             state: host01 runs the installer; its disks are unchanged\n\
             hint: unmount /dev/vda1\n\
             hint: read more with `landfall explain LF0501`\n\
             log: /log\n",
        );
        let mut lost = Ended::lost(Failure::new("cannot reach host01"), &trail);
        lost.bundle = Some(PathBuf::from("/bundle"));
        assert_eq!(lost.exit, Exit::Unknown);
        check_text(
            &lost,
            "error: cannot reach host01\n\
             state: when last seen, host01 runs the installer; its disks are unchanged; the agent may be going on\n\
             log: /log\n\
             bundle: /bundle\n",
        );
    }

    #[test]
    fn machine_of_another_run_is_not_told_to_be_untouched() {
        let failure = Failure::new("cannot begin the run").contact(Contact::Foreign);
        check_text(
            &Ended::failed(failure, &Trail::default()),
            "error: cannot begin the run\n\
             state: this command changed nothing on host01; another run is there, and may be changing it\n\
             log: /log\n",
        );
    }

    #[test]
    fn color_changes_no_word() {
        let ended = Ended::usage(Failure::new("cannot tell what to install").hint("say it"));
        let (mut plain, mut colored) = (Vec::new(), Vec::new());
        write_failure(&mut plain, &ended, None, None, false).unwrap();
        write_failure(&mut colored, &ended, None, None, true).unwrap();
        let mut text = String::from_utf8(colored).unwrap();
        while let Some(at) = text.find('\x1b') {
            let end = at + text[at..].find('m').unwrap();
            text.replace_range(at..=end, "");
        }
        assert_eq!(text, String::from_utf8(plain).unwrap());
        assert!(text.ends_with("hint: say it\n"));
    }
}
