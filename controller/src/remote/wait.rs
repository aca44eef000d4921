//! Waiting for a machine that boots: until ssh answers and the boot id is another one.
//!
//! An open port proves nothing: the old system answers until the very end.

use std::time::Duration;

use landfall_proto::failure::Failure;
use tokio::time::Instant;

use super::{
    classify::{SshError, Trouble},
    probe::{self, Machine},
    ssh::{Output, Ssh},
};

/// One try, from the first packet to the answer.
const TRY: Duration = Duration::from_secs(30);
/// The same where a person may have to type a passphrase.
const TRY_PERSON: Duration = Duration::from_secs(180);
/// Pause between two tries: short beside any boot, long beside a login.
const PAUSE: Duration = Duration::from_secs(2);
/// Logins refused for this long are no longer a machine that is still booting.
pub const REFUSED_FOR: Duration = Duration::from_secs(180);

/// What a try saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// The system that was there before still answers.
    OldBoot,
    /// ssh did not get through.
    Trouble(Trouble),
    /// Somebody is logged in, and does not answer as a Linux machine would.
    NoAnswer,
    /// The machine answers, and is not yet what is waited for.
    NotYet(String),
}

impl Seen {
    /// Says it in a few words, for progress lines.
    pub fn words(&self) -> String {
        match self {
            Self::OldBoot => "the old system still answers".to_owned(),
            Self::Trouble(trouble) => trouble.seen(),
            Self::NoAnswer => "the login shell does not answer".to_owned(),
            Self::NotYet(what) => what.clone(),
        }
    }
}

/// Waits until the machine answers from another boot than `old_boot`, and `accept` is content with what it is.
///
/// `ways` are logins to the same machine; each is taken where those before it are refused. `accept` returns what is missing. `seen` hears of every try. Another host key stops the waiting at once, and so does
/// whatever else waiting cannot mend; a refused login does so after three minutes. A failure of the waiting itself has no
/// code: which boot it was is the caller's to know.
pub async fn for_boot(
    ways: &[Ssh],
    old_boot: &str,
    deadline: Duration,
    mut accept: impl FnMut(&Machine) -> Result<(), String>,
    mut seen: impl FnMut(&Seen, Duration),
) -> Result<Machine, Failure> {
    let began = Instant::now();
    let mut refused_since = None;
    let mut last = None;
    loop {
        let left = deadline.saturating_sub(began.elapsed());
        let (ssh, result) = try_ways(ways, left).await;
        let what = match result {
            Ok(output) => match probe::read(&output.stdout) {
                None => Seen::NoAnswer,
                Some(machine) if machine.boot_id == old_boot => Seen::OldBoot,
                Some(machine) => match accept(&machine) {
                    Ok(()) => return Ok(machine),
                    Err(missing) => Seen::NotYet(missing),
                },
            },
            Err(error) => {
                refused_since = match error.trouble {
                    Trouble::AuthRefused => refused_since.or(Some(Instant::now())),
                    _ => None,
                };
                let refused = refused_since.is_some_and(|since| since.elapsed() > REFUSED_FOR);
                if refused || !error.trouble.may_pass() {
                    return Err(stopped(ssh, error));
                }
                Seen::Trouble(error.trouble)
            }
        };
        // whose key it showed is not the machine that is waited for
        ways.iter().for_each(Ssh::forget_first);
        let elapsed = began.elapsed();
        seen(&what, elapsed);
        if elapsed + PAUSE >= deadline {
            // a try that the deadline cut short says less than the one before it
            let cut_short = left < TRY && matches!(what, Seen::Trouble(Trouble::TimedOut));
            let last = last.filter(|_| cut_short).unwrap_or(what);
            return Err(late(ssh, deadline, &last));
        }
        last = Some(what);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Asks the machine by the first way in that is not refused, or the last one.
async fn try_ways(ways: &[Ssh], left: Duration) -> (&Ssh, Result<Output, SshError>) {
    let (last, before) = ways.split_last().expect("there is a way in");
    for ssh in before {
        let result = try_way(ssh, left).await;
        if !matches!(&result, Err(error) if error.trouble == Trouble::AuthRefused) {
            return (ssh, result);
        }
        ssh.forget_first();
    }
    (last, try_way(last, left).await)
}

async fn try_way(ssh: &Ssh, left: Duration) -> Result<Output, SshError> {
    let longest = if ssh.asks() { TRY_PERSON } else { TRY };
    let patience = longest.min(left).max(Duration::from_secs(1));
    ssh.run(&probe::script(), &[], patience).await
}

fn stopped(ssh: &Ssh, error: SshError) -> Failure {
    let failure = Failure::from(error);
    failure.under(format!(
        "cannot find {} again after its boot",
        ssh.destination()
    ))
}

fn late(ssh: &Ssh, deadline: Duration, last: &Seen) -> Failure {
    let failure = Failure::new(format!(
        "cannot find {} again after its boot",
        ssh.destination()
    ))
    .because(format!("waiting {} s for it to answer", deadline.as_secs()))
    .because(format!("the last try: {}", last.words()));
    match last {
        Seen::OldBoot => {
            failure.hint("the old system goes on: look at its kernel log with `dmesg | tail`")
        }
        _ => {
            failure.hint("look at the machine's console; does it have the same address as before?")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn closed_port_is_told_and_waited_for_until_the_deadline() {
        // a port that was just free: nobody listens there
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        drop(socket);
        let ssh = Ssh::new("nobody@127.0.0.1").port(Some(port));
        let mut heard = Vec::new();
        let result = for_boot(
            &[ssh],
            "old",
            Duration::from_secs(1),
            |_| Ok(()),
            |seen, _| heard.push(seen.clone()),
        )
        .await;
        assert_eq!(heard, [Seen::Trouble(Trouble::Refused)]);
        assert_eq!(
            result.unwrap_err().causes[1],
            "the last try: connection refused"
        );
    }
}
