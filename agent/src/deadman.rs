//! The dead-man timer: a machine that was booted into the installer by kexec goes back to its old system when nobody has
//! come for long, as long as its disks are what they were.
//!
//! Until an agent is there the installer's own timer does this (`machine::timer`); this one takes its place. Whether a
//! disk was begun is for journals to say, never for a flag in memory. An installer that somebody else booted is left
//! alone.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use landfall_proto::failure::Failure;
use tokio::time::{Instant, sleep};

use crate::{
    history,
    machine::{Machine, TARGET, reboot},
    session::Session,
};

/// How often the installer's own timer is tried to be stopped.
const AGAIN: Duration = Duration::from_secs(10);

/// When something was last heard from a controller. Clones tell the same.
#[derive(Debug, Clone)]
pub(crate) struct Contact {
    began: Instant,
    heard_ms: Arc<AtomicU64>,
}

impl Contact {
    /// Begins with now: somebody has just started this agent.
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            heard_ms: Arc::default(),
        }
    }

    /// Notes that something was heard.
    pub(crate) fn beat(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard_ms.store(now, Ordering::Relaxed);
    }

    fn silent_for(&self) -> Duration {
        let heard = Duration::from_millis(self.heard_ms.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(heard)
    }
}

/// Stops the installer's own timer, if there is one on this machine.
///
/// Before anything else: it knows nothing of what an agent does.
pub(crate) async fn take_over(machine: &Machine) -> Result<(), Failure> {
    match machine.return_after() {
        0 => Ok(()),
        _ => machine.stop_timer().await,
    }
}

/// Watches over the machine for as long as this process lives. `stopped` is what came of [`take_over`].
///
/// Nothing is installed while the installer's own timer might still reboot the machine.
pub(crate) fn watch(session: Arc<Session>, contact: Contact, stopped: Result<(), Failure>) {
    let after = Duration::from_secs(session.here().return_after);
    if after.is_zero() {
        return;
    }
    session.refuse(stopped.err().map(still_running));
    tokio::spawn(async move {
        while session.refuses() {
            sleep(AGAIN).await;
            session.refuse(
                session
                    .machine()
                    .stop_timer()
                    .await
                    .err()
                    .map(still_running),
            );
        }
        wait(&session, &contact, after).await;
    });
}

async fn wait(session: &Session, contact: &Contact, after: Duration) {
    let machine = session.machine();
    loop {
        let left = after.saturating_sub(contact.silent_for());
        if !left.is_zero() {
            sleep(left).await;
            continue;
        }
        if machine.blocking(history::disks_begun).await {
            return;
        }
        // work goes on: ours without a controller, or somebody's without us
        if session.works_alone() || !machine.mounts_below(TARGET).is_empty() {
            contact.beat();
            continue;
        }
        session.refuse(Some(goes_back()));
        let idle = session.stop().await;
        let begun = machine.blocking(history::disks_begun).await;
        if idle && !begun && contact.silent_for() >= after {
            machine.tell_kernel(&why(after));
            reboot::reboot(machine).await;
            // only where it could not be done
        }
        session.refuse(None);
        contact.beat();
    }
}

fn why(after: Duration) -> String {
    let seconds = after.as_secs();
    let time = match seconds % 60 {
        0 => format!("{} min", seconds / 60),
        _ => format!("{seconds} s"),
    };
    format!("nobody has come for {time} and the disks are unchanged: booting the old system again")
}

fn still_running(failure: Failure) -> Failure {
    failure
        .under("cannot keep the installer from booting the old system again")
        .hint("try again in a minute; `systemctl stop landfall-return.timer` on the machine does the same")
        .code("LF1407")
}

fn goes_back() -> Failure {
    Failure::new("refusing to begin")
        .because("the machine boots its old system again, since nobody had come for long")
        .hint("run the same command again once it is up")
        .code("LF1408")
}

#[cfg(test)]
mod tests {
    use landfall_proto::report::End;

    use super::*;
    use crate::{
        departure::Callers,
        machine::{command::Ended, stage::Stage},
        session::tests::order,
    };

    const INSTALLER: &str = "ID=nixos\nVARIANT_ID=installer\n";
    const STOP: &str = "systemctl stop landfall-return.timer";
    const AFTER: Duration = Duration::from_secs(1800);
    const ALMOST: Duration = Duration::from_secs(1790);
    const SOON: Duration = Duration::from_secs(20);

    /// A machine that was booted into the installer by kexec.
    fn stage() -> Stage {
        kexeced().answer(STOP, Ended::answer(0, "", ""))
    }

    /// The same, but systemd does not answer.
    fn kexeced() -> Stage {
        let marker = format!(r#"{{"run":"{}","return_after":1800}}"#, "07".repeat(16));
        Stage::new()
            .file("root/network/landfall-run.json", &marker)
            .file("etc/os-release", INSTALLER)
            .file("dev/kmsg", "")
    }

    /// An agent that has just started on it.
    async fn agent(stage: &Stage) -> (Arc<Session>, Contact) {
        let contact = Contact::new();
        let stopped = take_over(&stage.machine()).await;
        let session = Session::open(stage.machine(), Callers::new()).unwrap();
        watch(Arc::clone(&session), contact.clone(), stopped);
        (session, contact)
    }

    fn reboots(stage: &Stage) -> usize {
        stage
            .asked()
            .iter()
            .filter(|line| *line == "reboot")
            .count()
    }

    /// It was rebooted once, on threads that may be late.
    async fn has_gone_back(stage: &Stage) {
        for _ in 0..100_000 {
            if reboots(stage) > 0 {
                break;
            }
            a_thread_came_round().await;
        }
        assert_eq!(reboots(stage), 1);
    }

    /// Waits in real time, during which the clock stands.
    async fn a_thread_came_round() {
        tokio::task::spawn_blocking(|| ()).await.unwrap();
    }

    /// Lets time pass, and what is due then be done.
    async fn pass(time: Duration) {
        tokio::time::sleep(time).await;
        for _ in 0..20 {
            a_thread_came_round().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn machine_goes_back_when_nobody_comes() {
        let stage = stage();
        let _agent = agent(&stage).await;
        assert_eq!(
            stage.asked(),
            [STOP],
            "the installer's own timer is stopped"
        );
        pass(ALMOST).await;
        assert_eq!(reboots(&stage), 0);
        pass(SOON).await;
        has_gone_back(&stage).await;
        let said = "nobody has come for 30 min and the disks are unchanged";
        assert!(stage.read("dev/kmsg").contains(said));
    }

    #[tokio::test(start_paused = true)]
    async fn contact_begins_the_time_anew() {
        let stage = stage();
        let (_session, contact) = agent(&stage).await;
        for _ in 0..3 {
            pass(ALMOST).await;
            contact.beat();
        }
        assert_eq!(reboots(&stage), 0);
        pass(AFTER + SOON).await;
        has_gone_back(&stage).await;
    }

    #[tokio::test(start_paused = true)]
    async fn only_machines_that_may_go_back_do() {
        let run = "07".repeat(16);
        let marker = "root/network/landfall-run.json";
        let journal = format!("run/landfall/runs/{run}-install/journal.jsonl");
        let begun = |step: &str| {
            format!(
                "header\n{{\"event\":{{\"index\":1,\"at_ms\":1,\"step\":\"{step}\",\"kind\":\"step_started\",\"attempt\":1}}}}\n"
            )
        };
        let check = async |what: &str, stage: Stage, goes_back: bool| {
            let _agent = agent(&stage).await;
            pass(AFTER + SOON).await;
            match goes_back {
                true => has_gone_back(&stage).await,
                false => assert_eq!(reboots(&stage), 0, "{what}"),
            }
        };
        check("as it was booted", stage(), true).await;
        check("keys alone", stage().file(&journal, &begun("keys")), true).await;
        check("a format", stage().file(&journal, &begun("format")), false).await;
        check("a copy", stage().file(&journal, &begun("copy")), false).await;
        check(
            "a damaged journal",
            stage().file(&journal, "header\n{\n"),
            false,
        )
        .await;
        check(
            "never",
            stage().file(marker, &format!(r#"{{"run":"{run}"}}"#)),
            false,
        )
        .await;
        check("no mark", stage().file(marker, ""), false).await;
        check(
            "no installer",
            stage().file("etc/os-release", "ID=debian\n"),
            false,
        )
        .await;
        check("somebody at work", stage().mounted(), false).await;
        check(
            "not booted by kexec",
            Stage::new().file("etc/os-release", INSTALLER),
            false,
        )
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn run_that_waits_for_nobody_is_stopped() {
        let stage = stage();
        let (session, _) = agent(&stage).await;
        session.start(order(&["/tmp/secret.key"])).unwrap();
        pass(ALMOST).await;
        assert_eq!(session.board().unwrap().state().end, None);
        pass(SOON).await;
        has_gone_back(&stage).await;
        let end = session.board().unwrap().state().end;
        assert_eq!(end, Some(End::Aborted("request".to_owned())));
    }

    #[tokio::test(start_paused = true)]
    async fn run_that_was_let_go_of_is_not_disturbed() {
        let stage = stage();
        let (session, _) = agent(&stage).await;
        session.start(order(&["/tmp/secret.key"])).unwrap();
        session.let_go().unwrap();
        pass(AFTER + ALMOST).await;
        assert_eq!(session.board().unwrap().state().end, None);
        assert_eq!(reboots(&stage), 0);
        session.abort();
        pass(SOON).await;
        has_gone_back(&stage).await;
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_installed_while_the_own_timer_of_the_installer_runs() {
        // its systemd does not answer
        let stage = kexeced();
        let (session, _) = agent(&stage).await;
        let refused = session.start(order(&[])).unwrap_err();
        assert_eq!(refused.code, "LF1407");
        pass(SOON).await;
        // how often depends on who is faster: the clock, or the thread that asks
        let asked = stage.asked();
        assert!(asked.len() > 1, "it is tried again");
        assert!(asked.iter().all(|line| line == STOP));
        let stage = self::stage();
        let (session, _) = agent(&stage).await;
        session.start(order(&[])).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn agent_stays_to_watch_as_long_as_the_disks_are_unchanged() {
        let stage = stage();
        let (session, _) = agent(&stage).await;
        session.leave();
        let left = tokio::time::timeout(SOON, session.over()).await;
        assert!(left.is_err());
        assert_eq!(session.returns_after(), 1800);
        let run = format!(
            "run/landfall/runs/{}-install/journal.jsonl",
            "07".repeat(16)
        );
        let stage = stage.file(&run, "header\n{\n");
        assert_eq!(session.returns_after(), 0);
        session.leave();
        session.over().await;
        drop(stage);
    }
}
