//! A stand-in for all programs of a machine: answers that were written down beforehand.

use std::sync::{Arc, Mutex};

use landfall_proto::failure::Failure;
use nix::errno::Errno;

use super::command::{Command, Ended, Stream, cannot_run};

/// Answers to command lines, and the command lines that were asked.
#[derive(Debug, Clone, Default)]
pub struct Script {
    answers: Vec<(String, Ended)>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Script {
    /// Adds an answer for every command line that begins with these words; the first that fits is given.
    #[must_use]
    pub fn when(mut self, beginning: &str, answer: Ended) -> Self {
        self.answers.push((beginning.to_owned(), answer));
        self
    }

    /// Returns the command lines that were asked so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked
            .lock()
            .expect("nobody panics while holding it")
            .clone()
    }

    pub(super) fn answer(
        &self,
        command: &Command,
        mut on_line: impl FnMut(Stream, &str),
    ) -> Result<Ended, Failure> {
        let line = command.line();
        self.asked
            .lock()
            .expect("nobody panics while holding it")
            .push(line.clone());
        let answer = self
            .answers
            .iter()
            .find(|(beginning, _)| line.starts_with(beginning));
        let Some((_, answer)) = answer else {
            return Err(cannot_run(command, &Errno::ENOENT));
        };
        answer
            .stdout
            .lines()
            .for_each(|line| on_line(Stream::Out, line));
        answer
            .stderr
            .lines()
            .for_each(|line| on_line(Stream::Err, line));
        Ok(Ended {
            program: command.program().to_owned(),
            ..answer.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::command::Programs;

    #[tokio::test]
    async fn script_answers_and_remembers() {
        let script = Script::default().when("zpool list", Ended::answer(0, "tank\n", ""));
        let programs = Programs::Scripted(script.clone());
        let list = Command::new("zpool").args(["list", "-H"]);
        assert_eq!(programs.ask(&list).await.unwrap().stdout, "tank\n");
        assert!(
            programs
                .ask(&Command::new("zpool").arg("export"))
                .await
                .is_err()
        );
        assert_eq!(script.asked(), ["zpool list -H", "zpool export"]);
    }
}
