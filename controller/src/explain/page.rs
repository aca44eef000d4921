//! A page and how it is written.
//!
//! ```text
//! LF0102 Title of the page
//! ends: untouched lost
//! was: 4 A message of nixos-anywhere, without the parts that vary
//! was: - A message that has no number in its manual
//!
//! What happened, in a paragraph.
//!
//! - A usual cause.
//! - Another one; a line that goes on
//!   is indented.
//!
//! * What to do, with a command in backticks.
//! ```
//!
//! The state of the machine and the exit code are never written down, but follow from the words after `ends:`.

use crate::exit::{Exit, MachineState};

/// What is known about one kind of failure.
#[derive(Debug)]
pub struct Page {
    /// Its stable name, such as `LF0102`.
    pub code: &'static str,
    /// What it is, in a few words.
    pub title: &'static str,
    /// How a command that meets it may end.
    pub endings: Vec<Ending>,
    /// The messages of nixos-anywhere that it takes the place of.
    pub was: Vec<Was>,
    /// What happened.
    pub happened: String,
    /// Why it usually does.
    pub causes: Vec<String>,
    /// What can be done, what helps most often first.
    pub advice: Vec<String>,
}

/// A message of nixos-anywhere.
#[derive(Debug)]
pub struct Was {
    /// Its number in the reference manual.
    pub id: Option<u8>,
    /// Its words, without those that vary.
    pub words: &'static str,
}

/// A message of nixos-anywhere whose cause is no more.
#[derive(Debug)]
pub struct Gone {
    /// The message.
    pub was: Was,
    /// Why it cannot come any more.
    pub why: String,
}

/// How a command ends: where it leaves the machine, and what a script sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// A failure that was seen: the state decides about the exit code.
    Failed(MachineState),
    /// The machine was lost sight of.
    Lost,
    /// The installed system was not seen to be right.
    Unverified,
    /// Nothing was begun, since the command line is wrong.
    Usage,
    /// Landfall itself is wrong.
    Bug,
    /// Somebody stopped it.
    Stopped,
}

const ENDINGS: &[(&str, Ending)] = &[
    ("usage", Ending::Usage),
    ("untouched", Ending::Failed(MachineState::Untouched)),
    ("installer", Ending::Failed(MachineState::Installer)),
    ("written", Ending::Failed(MachineState::Written)),
    ("erased", Ending::Failed(MachineState::Erased)),
    ("installed", Ending::Failed(MachineState::Installed)),
    ("unverified", Ending::Unverified),
    ("lost", Ending::Lost),
    ("bug", Ending::Bug),
    ("stopped", Ending::Stopped),
];

impl Ending {
    /// Returns the exit code.
    pub fn exit(self) -> Exit {
        match self {
            Self::Failed(state) if state.is_past_return() => Exit::Changed,
            Self::Failed(_) => Exit::Untouched,
            Self::Lost => Exit::Unknown,
            Self::Unverified => Exit::Unverified,
            Self::Usage => Exit::Usage,
            Self::Bug => Exit::Bug,
            Self::Stopped => Exit::Interrupted,
        }
    }

    /// Returns what becomes of the machine, as a sentence without its end.
    pub fn sentence(self) -> String {
        match self {
            Self::Failed(state) => format!("the machine {}", state.sentence()),
            Self::Unverified => format!("the machine {}", MachineState::Installed.sentence()),
            Self::Lost => {
                "the `state:` line says where the machine was last seen; the agent may be going on"
                    .to_owned()
            }
            Self::Usage => "nothing was begun".to_owned(),
            Self::Bug => "not known: look at the machine".to_owned(),
            Self::Stopped => "the machine is as the `state:` line says".to_owned(),
        }
    }
}

/// Reads the pages of a block.
pub fn read(text: &'static str) -> Result<Vec<Page>, String> {
    let mut pages: Vec<Page> = Vec::new();
    for line in text.lines() {
        let is_title = line.len() > 7
            && line.starts_with("LF")
            && line.as_bytes()[2..6].iter().all(u8::is_ascii_digit);
        if is_title {
            let (code, title) = line.split_at(6);
            let title = title.trim();
            pages.push(Page {
                code,
                title,
                endings: Vec::new(),
                was: Vec::new(),
                happened: String::new(),
                causes: Vec::new(),
                advice: Vec::new(),
            });
            continue;
        }
        match pages.last_mut() {
            Some(page) => page.take(line)?,
            None if line.is_empty() => {}
            None => return Err(format!("before the first page: {line}")),
        }
    }
    Ok(pages)
}

impl Page {
    fn take(&mut self, line: &'static str) -> Result<(), String> {
        let begins = |mark| line.strip_prefix(mark).map(str::to_owned);
        if let Some(words) = line.strip_prefix("ends: ") {
            for word in words.split_whitespace() {
                let known = ENDINGS.iter().find(|(name, _)| *name == word);
                let (_, ending) = known.ok_or_else(|| format!("{}: {line}", self.code))?;
                self.endings.push(*ending);
            }
        } else if let Some(words) = line.strip_prefix("was: ") {
            self.was.push(was(words)?);
        } else if let Some(cause) = begins("- ") {
            self.causes.push(cause);
        } else if let Some(advice) = begins("* ") {
            self.advice.push(advice);
        } else if let Some(more) = line.strip_prefix("  ") {
            let open = self.advice.last_mut().or(self.causes.last_mut());
            let open = open.ok_or_else(|| format!("{}: {line}", self.code))?;
            *open += " ";
            *open += more.trim();
        } else if !line.is_empty() {
            if !self.happened.is_empty() {
                self.happened += " ";
            }
            self.happened += line.trim();
        }
        Ok(())
    }
}

/// Reads the messages that cannot come any more: a line each, and why in the lines below it.
pub fn read_gone(text: &'static str) -> Result<Vec<Gone>, String> {
    let mut all: Vec<Gone> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        match (line.strip_prefix("  "), all.last_mut()) {
            (Some(why), Some(gone)) => {
                if !gone.why.is_empty() {
                    gone.why += " ";
                }
                gone.why += why.trim();
            }
            (Some(_), None) => return Err(line.to_owned()),
            (None, _) => all.push(Gone {
                was: was(line)?,
                why: String::new(),
            }),
        }
    }
    Ok(all)
}

fn was(text: &'static str) -> Result<Was, String> {
    let (id, words) = text.split_once(' ').ok_or(text)?;
    let id = match id {
        "-" => None,
        id => Some(id.parse().map_err(|_| text)?),
    };
    Ok(Was { id, words })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_is_read_as_it_is_written() {
        let text = "LF0001 A title\nends: untouched lost\nwas: 4 Words\nwas: - More\n\nIt\nhappened.\n\n- why\n  so\n\n* do\n  `this`\n";
        let [page] = &read(text).unwrap()[..] else {
            unreachable!()
        };
        assert_eq!((page.code, page.title), ("LF0001", "A title"));
        assert_eq!(
            page.endings,
            [Ending::Failed(MachineState::Untouched), Ending::Lost]
        );
        let was: Vec<_> = page.was.iter().map(|was| (was.id, was.words)).collect();
        assert_eq!(was, [(Some(4), "Words"), (None, "More")]);
        assert_eq!(page.happened, "It happened.");
        assert_eq!(
            (&page.causes[..], &page.advice[..]),
            (&["why so".to_owned()][..], &["do `this`".to_owned()][..])
        );
    }

    #[test]
    fn page_that_is_written_wrong_is_refused() {
        assert!(read("words\n").is_err());
        assert!(read("LF0001 A title\nends: somehow\n").is_err());
        assert!(read("LF0001 A title\nwas: x words\n").is_err());
        assert!(read("LF0001 A title\n  of nothing\n").is_err());
    }

    #[test]
    fn exit_code_follows_from_the_state() {
        let exits = ENDINGS.iter().map(|(_, ending)| ending.exit().code());
        assert_eq!(exits.collect::<Vec<_>>(), [2, 1, 1, 3, 3, 3, 5, 4, 70, 130]);
    }
}
