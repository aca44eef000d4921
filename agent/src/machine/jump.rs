//! The jump from the old system into what was loaded. The agent makes it, by the image's own
//! program; the job that the image's script leaves behind makes it only where the agent was killed.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{
    Machine,
    command::{Command, Ended},
    kexec::real,
    session,
};

/// Longest that the script's job waits for an agent that lives: one that hangs must not hold the
/// machine for ever.
///
/// Far beyond all that the agent waits for itself, and what the disks then take is waited for by
/// either.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Whether the job of an image's script is to jump in the place of the agent that started the
/// script, which is `agent`.
///
/// Blocks for as long as that may still do so itself.
pub(super) fn is_left_to_script(program: &Path, agent: Option<u32>) -> bool {
    waits(program, agent, PATIENCE)
}

fn waits(program: &Path, agent: Option<u32>, patience: Duration) -> bool {
    // somebody has run the script by hand
    let Some(agent) = agent else { return true };
    let until = Instant::now() + patience;
    // not there before the agent has believed the script, nor after the run has failed
    while is_loaded(program) {
        if Instant::now() > until {
            return true;
        }
        if !session::lives(agent) {
            // the last that it did may have been to take it away
            return is_loaded(program);
        }
        thread::sleep(LOOK_AGAIN);
    }
    false
}

/// Is there while what was loaded is to be started.
fn mark(program: &Path) -> PathBuf {
    program.with_file_name("kexec.loaded")
}

fn is_loaded(program: &Path) -> bool {
    mark(program).exists()
}

impl Machine {
    /// Remembers that the kernel is loaded, and is to be started though the agent be killed; or
    /// that it is not. Blocks.
    pub fn set_loaded(&self, loaded: bool) {
        let mark = mark(&self.image_kexec());
        // without it the script's job does nothing, and only the agent jumps
        let _ = match loaded {
            true => fs::write(mark, ""),
            false => fs::remove_file(mark),
        };
    }

    /// Has the kernel start what was loaded, as the image's script would with these flags.
    ///
    /// Returns only where that cannot be done: the kernel's log says why. An image without a
    /// program of its own jumps in a way of its own.
    pub async fn jump(&self, flags: &str) {
        let program = real(&self.image_kexec());
        if !program.is_file() {
            return;
        }
        // what is written yet takes its time to reach the disks, and is not to be cut short
        let command = Command::new(program.to_string_lossy())
            .arg("-e")
            .args(flags.split_whitespace());
        let ended = self
            .programs()
            .run(&command, &CancellationToken::new(), |_, _| ())
            .await;
        let headline = "cannot start the installer";
        let failure = match ended {
            Ok(ended) => Ended::failure(&ended, headline),
            Err(failure) => failure.under(headline),
        };
        self.blocking(move |machine| machine.tell_kernel(&failure.in_one_line()))
            .await;
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command as Program};

    use super::*;
    use crate::machine::stage::Stage;

    const KEXEC: &str = "run/landfall/kexec/kexec/kexec";
    const SOON: Duration = Duration::from_millis(300);
    const LONG: Duration = Duration::from_secs(60);

    /// A machine on which an image's script has loaded a kernel for an agent.
    fn loaded() -> (Stage, PathBuf) {
        let stage = Stage::new().file(&format!("{KEXEC}.image"), "real");
        stage.machine().set_loaded(true);
        let program = stage.root().join(KEXEC);
        (stage, program)
    }

    fn agent() -> Child {
        Program::new("sleep").arg("600").spawn().unwrap()
    }

    fn kill(mut agent: Child) -> u32 {
        agent.kill().unwrap();
        agent.wait().unwrap();
        agent.id()
    }

    #[test]
    fn job_of_the_script_jumps_where_the_agent_was_killed() {
        let (_stage, program) = loaded();
        assert!(waits(&program, Some(kill(agent())), LONG));
        // also while it is waited for
        let agent = agent();
        let pid = agent.id();
        let killed = thread::spawn(move || {
            thread::sleep(SOON);
            kill(agent);
        });
        let begun = Instant::now();
        assert!(waits(&program, Some(pid), LONG));
        assert!(begun.elapsed() >= SOON / 2);
        killed.join().unwrap();
    }

    #[test]
    fn agent_that_is_dead_and_not_yet_buried_is_dead() {
        let (_stage, program) = loaded();
        let mut agent = agent();
        agent.kill().unwrap();
        let begun = Instant::now();
        assert!(waits(&program, Some(agent.id()), LONG));
        assert!(begun.elapsed() < LONG / 2);
        agent.wait().unwrap();
    }

    #[test]
    fn job_of_the_script_waits_for_an_agent_that_lives_and_not_for_ever() {
        let (_stage, program) = loaded();
        let agent = agent();
        let begun = Instant::now();
        assert!(waits(&program, Some(agent.id()), SOON));
        assert!(begun.elapsed() >= SOON);
        kill(agent);
    }

    #[test]
    fn job_of_the_script_does_nothing_unless_the_agent_has_believed_the_script() {
        let (stage, program) = loaded();
        let agent = agent();
        let machine = stage.machine();
        machine.set_loaded(false);
        // a script that jumps before it ends is not waited for by its own agent
        let begun = Instant::now();
        assert!(!waits(&program, Some(agent.id()), LONG));
        assert!(begun.elapsed() < LONG / 2);
        // the run fails while the job waits
        machine.set_loaded(true);
        let failed = thread::spawn(move || {
            thread::sleep(SOON);
            machine.set_loaded(false);
        });
        assert!(!waits(&program, Some(agent.id()), LONG));
        failed.join().unwrap();
        assert!(!waits(&program, Some(kill(agent)), LONG));
    }

    #[test]
    fn script_that_was_run_by_hand_jumps_as_it_always_does() {
        let (stage, program) = loaded();
        stage.machine().set_loaded(false);
        assert!(waits(&program, None, LONG));
    }

    #[tokio::test]
    async fn jump_that_fails_is_told_where_it_is_looked_for() {
        let (stage, program) = loaded();
        let real = real(&program);
        let answer = Ended::answer(1, "", "Nothing has been loaded!");
        let stage = stage
            .answer(&real.to_string_lossy(), answer)
            .file("dev/kmsg", "");
        stage.machine().jump("").await;
        assert_eq!(stage.asked(), [format!("{} -e", real.display())]);
        let log = stage.read("dev/kmsg");
        let said = "cannot start the installer: running";
        assert!(
            log.contains(said) && log.contains("Nothing has been loaded!"),
            "{log}"
        );
    }

    #[tokio::test]
    async fn image_without_a_program_of_its_own_is_left_to_its_script() {
        let stage = Stage::new().file("run/landfall/kexec/kexec/run", "#!");
        stage.machine().jump("--reset-vga").await;
        assert_eq!(stage.asked(), [""; 0]);
    }
}
