//! The failure bundle: one archive with all that explains why a run failed, from both sides.
//!
//! Made by `landfall bundle HOST`, and by itself when work on a machine fails. What this machine knows comes first, for
//! it cannot fail to come; then what the machine has, piece by piece, until that breaks off. It drives nothing: no lock is
//! taken, no run is taken over, and nothing is changed.

mod after;
mod ask;

use std::path::PathBuf;

use landfall_proto::{failure::Failure, redact::redact};

pub(crate) use self::after::after;
pub use self::ask::{Wanted, bundle};
use crate::{
    local::{bundle::Archive, state::RunFolder},
    remote::link::LinkView,
};

/// What this side knows.
#[derive(Debug)]
struct Own<'a> {
    host: &'a str,
    run: Option<&'a RunFolder>,
    failure: Option<&'a Failure>,
}

impl Own<'_> {
    /// Writes it down.
    fn add_to(&self, archive: &mut Archive) -> Result<(), Failure> {
        if let Some(failure) = self.failure {
            archive.add_text("landfall/failure.txt", &words_of(failure))?;
        }
        archive.add_text("landfall/words.txt", &words())?;
        if let Some(run) = self.run {
            archive.add_end_of("landfall/words-of-run.txt", &run.words())?;
            archive.add_end_of("landfall/journal.jsonl", &run.journal())?;
            archive.add_end_of("landfall/events.jsonl", &run.events())?;
        }
        Ok(())
    }

    /// Ends a bundle: what became of the link, what the other side said or why it did not, and what is in it.
    fn end(
        &self,
        mut archive: Archive,
        gathered: &Result<String, Failure>,
        link: &LinkView,
    ) -> Result<PathBuf, Failure> {
        let link = serde_json::to_string(link).expect("the state of a link is plain data");
        archive.add_text("landfall/link.json", &link)?;
        let mut opening = vec![
            format!(
                "What explains a failure of landfall {} on {}.",
                env!("CARGO_PKG_VERSION"),
                self.host
            ),
            String::new(),
        ];
        let run = self.run.and_then(|run| run.path().file_name()?.to_str());
        opening.push(format!("run: {}", run.unwrap_or("none is known here")));
        match gathered {
            Ok(who) => opening.push(format!("gathered by: {who}")),
            Err(failure) => {
                archive.add_text("landfall/broke-off.txt", &words_of(failure))?;
                opening.push(format!("broke off: {}", redact(&failure.in_one_line())));
            }
        }
        archive.finish(&opening)
    }
}

/// Returns a failure as text.
fn words_of(failure: &Failure) -> String {
    let mut text = format!("error: {} [{}]\n", failure.what, failure.code);
    for cause in &failure.causes {
        text += &format!("caused by: {cause}\n");
    }
    for hint in &failure.hints {
        text += &format!("hint: {hint}\n");
    }
    text
}

/// Returns the words of this command, without secrets.
pub(crate) fn words() -> String {
    let words: Vec<String> = std::env::args_os()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    redact(&words.join(" ")).into_owned()
}
