//! Why something could not be done, in a form that survives the wire and the journal.
//!
//! A failure is told, not branched on: where code decides by the kind of an error, it has an enum of its own.

use std::{error::Error, fmt};

use serde::{Deserialize, Serialize};

/// What a failure says about the other side, for whoever has to leave it in order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Contact {
    /// Nothing: whatever failed, it was not the link.
    #[default]
    Kept,
    /// The machine could not be reached to begin with.
    Unseen,
    /// The machine is reached, and the agent that worked there does not answer: it may have gone on, or be gone.
    Gone,
    /// Machine and agent are out of reach, and the agent may be going on.
    Lost,
    /// The agent is there and is somebody else's.
    Foreign,
    /// Another controller has taken the agent over, and goes on with the run.
    Taken,
}

/// Why something could not be done.
///
/// `what` is a headline (`cannot <verb> <object>`), `causes` are gerunds from the outside in, `hints` end in something
/// that can be typed or done. None of them contains another, and none contains a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What could not be done.
    pub what: String,
    /// Why, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
    /// Stable name of this kind of failure, such as `LF0301`; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub code: String,
    /// What it says about the other side. Known only where the failure was made: never on the wire or in a journal.
    #[serde(skip)]
    pub contact: Contact,
}

impl Failure {
    /// Makes a failure with its headline.
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            causes: Vec::new(),
            hints: Vec::new(),
            code: String::new(),
            contact: Contact::Kept,
        }
    }

    /// Adds one layer of reason below those already there.
    #[must_use]
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Adds an error and everything it was caused by, one layer each.
    #[must_use]
    pub fn caused_by(mut self, error: &dyn Error) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            let text = error.to_string();
            // libraries often repeat their source; one layer says one thing
            if self.causes.last() != Some(&text) {
                self.causes.push(text);
            }
            next = error.source();
        }
        self
    }

    /// Puts this failure's story below a wider headline; hints and code stay.
    #[must_use]
    pub fn under(mut self, what: impl Into<String>) -> Self {
        let inner = std::mem::replace(&mut self.what, what.into());
        self.causes.insert(0, inner);
        self
    }

    /// Joins its layers, for the one line that a status or a broken stream has.
    pub fn in_one_line(&self) -> String {
        let mut line = self.what.clone();
        for cause in &self.causes {
            line.push_str(": ");
            line.push_str(cause);
        }
        line
    }

    /// Adds what can be done next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Names the kind of this failure.
    #[must_use]
    pub fn code(mut self, code: &str) -> Self {
        code.clone_into(&mut self.code);
        self
    }

    /// Names the kind of this failure, unless what it came from has.
    #[must_use]
    pub fn or_code(self, code: &str) -> Self {
        match self.code.is_empty() {
            true => self.code(code),
            false => self,
        }
    }

    /// Says what it means for the contact with the other side.
    #[must_use]
    pub fn contact(mut self, contact: Contact) -> Self {
        self.contact = contact;
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wider_kind_does_not_hide_the_narrower() {
        let narrow = Failure::new("cannot read").code("LF1206").or_code("LF1502");
        assert_eq!(narrow.code, "LF1206");
        assert_eq!(Failure::new("cannot read").or_code("LF1502").code, "LF1502");
    }

    #[test]
    fn layers_keep_their_order() {
        let io = std::io::Error::other("device busy");
        let failure = Failure::new("opening /dev/vda")
            .caused_by(&io)
            .under("cannot format /dev/vda");
        assert_eq!(failure.what, "cannot format /dev/vda");
        assert_eq!(failure.causes, ["opening /dev/vda", "device busy"]);
        let line = "cannot format /dev/vda: opening /dev/vda: device busy";
        assert_eq!(failure.in_one_line(), line);
    }
}
