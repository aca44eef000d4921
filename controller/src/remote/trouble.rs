//! Why a call to the agent did not succeed, told apart so that a caller can do something about it.

use std::{error::Error, time::Duration};

use landfall_proto::{
    failure::{Contact, Failure},
    wire,
};
use tonic::{Code, Status};

use super::{
    classify::{SshError, Trouble},
    tls,
};

/// Why a call to the agent did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The machine was not reached for as long as was allowed. The run may be going on.
    #[error("reaching {} for {} s: {}", .error.destination, .within.as_secs(), .error.trouble.seen())]
    Lost {
        /// How long it was tried.
        within: Duration,
        /// What the last try met with.
        error: SshError,
    },
    /// ssh refuses, and waiting does not help: another host key, an option it does not know.
    #[error("{0}")]
    Ssh(SshError),
    /// The machine is reached; no agent answers there.
    #[error("calling the agent: {0}")]
    Gone(String),
    /// One side does not believe the other's certificate.
    #[error("greeting the agent: {0}")]
    Distrust(String),
    /// The two speak no common protocol.
    #[error("agreeing on a protocol: {0}")]
    Skew(String),
    /// The agent knows no such run.
    #[error("asking for the run: the agent does not know it")]
    UnknownRun,
    /// A newer controller has said Hello.
    #[error("following the run: another landfall has taken over")]
    TakenOver,
    /// The agent says no.
    #[error("{0}")]
    Refused(String),
    /// The agent tried, and says why it could not.
    #[error("{0}")]
    Failed(Failure),
    /// What the agent sent has no meaning.
    #[error("reading the agent's answer: {0}")]
    Unreadable(String),
    /// The agent is reached and does not answer in time.
    #[error("waiting {} s for the agent to answer", .0.as_secs())]
    Late(Duration),
}

/// What the status of a call means.
#[derive(Debug)]
pub(super) enum Meaning {
    /// The connection is gone or no longer good; a new one may do.
    Transport(String),
    /// Asking again changes nothing.
    Final(LinkError),
}

/// Reads the status of a call.
pub(super) fn meaning(status: &Status) -> Meaning {
    let words = whole(status);
    if let Some(failure) = wire::failure_from_wire(status.details()) {
        return Meaning::Final(LinkError::Failed(failure));
    }
    match status.code() {
        Code::NotFound => Meaning::Final(LinkError::UnknownRun),
        Code::Aborted => Meaning::Final(LinkError::TakenOver),
        // only a lane can come before Hello, to an agent that was started anew
        Code::Unauthenticated => Meaning::Final(LinkError::Gone(status.message().to_owned())),
        Code::FailedPrecondition
        | Code::InvalidArgument
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::OutOfRange
        | Code::Unimplemented => Meaning::Final(LinkError::Refused(status.message().to_owned())),
        _ if tls::is_distrust(&words) => Meaning::Final(LinkError::Distrust(words)),
        _ => Meaning::Transport(words),
    }
}

/// Joins an error and its sources without repeating what says the same twice.
pub(super) fn whole(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let layer = match error.downcast_ref::<Status>() {
            Some(status) => status.message().to_owned(),
            None => error.to_string(),
        };
        if !layer.is_empty() && !text.contains(&layer) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&layer);
        }
        next = error.source();
    }
    text
}

impl From<SshError> for LinkError {
    /// A command that ended by itself is an agent that is not there; the rest is ssh's.
    fn from(error: SshError) -> Self {
        match error.trouble {
            Trouble::Remote(status) => {
                let last = error
                    .said
                    .lines()
                    .map(str::trim)
                    .rfind(|line| !line.is_empty());
                let last = last.map_or_else(String::new, |line| format!(": {line}"));
                Self::Gone(format!("its proxy ended with status {status}{last}"))
            }
            trouble if trouble.may_pass() => Self::Lost {
                within: Duration::ZERO,
                error,
            },
            _ => Self::Ssh(error),
        }
    }
}

impl LinkError {
    /// What cannot be read was told.
    pub(super) fn unreadable(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::Unreadable(whole(error))
    }

    /// Says in a few words what is seen, for progress lines.
    pub(super) fn seen(&self) -> String {
        match self {
            Self::Lost { error, .. } | Self::Ssh(error) => error.trouble.seen(),
            Self::Gone(_) => "no agent there".to_owned(),
            other => other.to_string(),
        }
    }
}

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Self {
        let again = "run the same command again: it goes on where it broke off";
        match error {
            LinkError::Lost { within, error } => Self::from(error)
                .because(format!("trying again for {} s", within.as_secs()))
                .under("cannot follow the run")
                .hint(again)
                .code("LF0301")
                .contact(Contact::Lost),
            LinkError::Ssh(error) => Self::from(error),
            LinkError::Gone(why) => Self::new("cannot reach the agent")
                .because(why)
                .hint(again)
                .code("LF0302")
                .contact(Contact::Gone),
            LinkError::Distrust(why) => Self::new("refusing to talk to the agent")
                .because("one side does not believe the other's certificate")
                .because(why)
                .hint("an agent of another run may be there; reboot the machine and run the same command again")
                .code("LF0303")
                .contact(Contact::Foreign),
            LinkError::Skew(why) => Self::new("cannot talk to the agent")
                .because(why)
                .hint("use the landfall that started this run, or reboot the machine and begin anew")
                .code("LF0304"),
            LinkError::UnknownRun => Self::new("cannot follow the run")
                .because("the agent does not know it; the machine was rebooted, or the agent removed itself")
                .hint(again)
                .code("LF0305"),
            LinkError::TakenOver => Self::new("cannot go on with the run")
                .because("another landfall has taken it over, and goes on with it")
                .hint("look for another terminal or machine where landfall runs for this host")
                .hint("to take it back: `landfall attach HOST`")
                .code("LF0306")
                .contact(Contact::Taken),
            LinkError::Refused(why) => {
                Self::new("cannot give the agent its order").because(format!("agent: {why}")).code("LF0307")
            }
            LinkError::Failed(failure) => failure,
            LinkError::Unreadable(why) => Self::new("cannot understand the agent").because(why).code("LF0308"),
            LinkError::Late(patience) => Self::new("cannot reach the agent")
                .because(format!("it is there and did not answer for {} s", patience.as_secs()))
                .hint(again)
                .code("LF0309")
                .contact(Contact::Lost),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_of_a_broken_connection_may_be_tried_again() {
        assert!(matches!(
            meaning(&Status::unavailable("broken pipe")),
            Meaning::Transport(_)
        ));
        assert!(matches!(
            meaning(&Status::unknown("h2 protocol error")),
            Meaning::Transport(_)
        ));
    }

    #[test]
    fn refusals_of_the_agent_are_final() {
        let check = |status: Status, expected: LinkError| {
            let Meaning::Final(error) = meaning(&status) else {
                unreachable!("{status:?}")
            };
            assert_eq!(error, expected);
        };
        check(Status::not_found("x"), LinkError::UnknownRun);
        check(Status::aborted("x"), LinkError::TakenOver);
        let early = LinkError::Gone("x".into());
        check(Status::unauthenticated("x"), early);
        check(
            Status::failed_precondition("no"),
            LinkError::Refused("no".into()),
        );
        let failure = Failure::new("cannot describe the hardware").code("LF1321");
        let details = wire::failure_to_wire(&failure).unwrap();
        let status = Status::with_details(Code::FailedPrecondition, "cannot", details.into());
        check(status, LinkError::Failed(failure));
        let alert = "received fatal alert: CertificateRequired";
        check(Status::unknown(alert), LinkError::Distrust(alert.into()));
    }

    #[test]
    fn machine_that_was_taken_over_is_left_to_who_drives_it() {
        let failure = Failure::from(LinkError::TakenOver);
        assert_eq!(
            (&*failure.code, failure.contact),
            ("LF0306", Contact::Taken)
        );
        assert!(
            failure
                .hints
                .iter()
                .any(|hint| hint.contains("`landfall attach HOST`"))
        );
    }

    #[test]
    fn proxy_that_ends_is_an_agent_that_is_gone() {
        let error = SshError {
            destination: "h".into(),
            trouble: Trouble::Remote(127),
            said: "sh: landfall-agent: not found\n".into(),
        };
        let expected = "its proxy ended with status 127: sh: landfall-agent: not found";
        assert_eq!(LinkError::from(error), LinkError::Gone(expected.into()));
    }
}
