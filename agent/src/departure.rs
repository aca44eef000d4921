//! The end of the old system: the agent has the kernel start what its run has loaded, once the end
//! of that run was heard.
//!
//! A controller says so by letting go of the run, as before a reboot. One that is away hears of it
//! from the installer: it is waited for some seconds, and no longer, whoever else comes meanwhile.

use std::time::Duration;

use landfall_proto::order::{Job, Order};
use tokio::time::timeout;
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

use crate::machine::Machine;

/// Longest that the end of the run is kept for somebody to hear: a line that breaks is made again
/// within a second or two.
const HEARD_WITHIN: Duration = Duration::from_secs(5);
/// Longest that who has heard it may take to hang up: a connection that nobody ends hangs on the
/// other side.
const HANG_UP: Duration = Duration::from_secs(2);

/// Who is connected to this agent. Clones tell the same.
#[derive(Debug, Clone)]
pub(crate) struct Callers(TaskTracker);

impl Callers {
    /// Begins with nobody.
    pub(crate) fn new() -> Self {
        let callers = TaskTracker::new();
        // it can be waited for; whoever comes is counted all the same
        callers.close();
        Self(callers)
    }

    /// Counts one more for as long as what is returned lives.
    pub(crate) fn enter(&self) -> TaskTrackerToken {
        self.0.token()
    }

    /// Completes once there is nobody.
    async fn gone(&self) {
        self.0.wait().await;
    }
}

/// A jump that is to come at the end of a run. Clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Departure {
    flags: String,
    callers: Callers,
    heard: CancellationToken,
}

impl Departure {
    /// Prepares for the end of an order, if that is one to leave the old system.
    pub(crate) fn of(order: &Order, callers: &Callers) -> Option<Self> {
        match &order.job {
            Job::Kexec(kexec) => Some(Self {
                flags: kexec.extra_flags.clone(),
                callers: callers.clone(),
                heard: CancellationToken::new(),
            }),
            Job::Install(_) => None,
        }
    }

    /// Notes that the controller has seen the end of the run.
    pub(crate) fn is_heard(&self) {
        self.heard.cancel();
    }

    /// Jumps, for a run that has ended well and whose journal says so. Returns only where that
    /// could not be done.
    pub(crate) async fn go(&self, machine: &Machine) {
        if timeout(HEARD_WITHIN, self.heard.cancelled()).await.is_ok() {
            let _ = timeout(HANG_UP, self.callers.gone()).await;
        }
        machine.jump(&self.flags).await;
    }
}

#[cfg(test)]
mod tests {
    use landfall_proto::order::{Blob, Kexec, RunId};
    use tokio::time::Instant;

    use super::*;
    use crate::machine::stage::Stage;

    const REAL: &str = "run/landfall/kexec/kexec/kexec.image";

    fn stage() -> Stage {
        Stage::new().file(REAL, "the image's own")
    }

    fn departure(callers: &Callers) -> Departure {
        let order = Order {
            run: RunId::from_bytes([7; 16]),
            job: Job::Kexec(Kexec {
                image: Blob {
                    hash: "0".repeat(64).try_into().unwrap(),
                    size: 1,
                },
                extra_flags: "--reset-vga  -x".to_owned(),
                authorized_key: String::new(),
                kernel: 0,
                initrd: 0,
                return_after: 0,
            }),
        };
        Departure::of(&order, callers).unwrap()
    }

    /// Goes, and returns how long that took.
    async fn went(stage: &Stage, departure: &Departure) -> Duration {
        let begun = Instant::now();
        departure.go(&stage.machine()).await;
        let real = stage.root().join(REAL);
        assert_eq!(
            stage.asked(),
            [format!("{} -e --reset-vga -x", real.display())]
        );
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_waited_for_once_it_was_heard() {
        let departure = departure(&Callers::new());
        departure.is_heard();
        assert!(went(&stage(), &departure).await < Duration::from_millis(100));
    }

    #[tokio::test(start_paused = true)]
    async fn machine_does_not_jump_before_it_was_heard() {
        let (stage, departure) = (stage(), departure(&Callers::new()));
        let going = tokio::spawn({
            let (departure, machine) = (departure.clone(), stage.machine());
            async move { departure.go(&machine).await }
        });
        tokio::time::sleep(HEARD_WITHIN - Duration::from_secs(1)).await;
        assert_eq!(stage.asked(), [""; 0]);
        departure.is_heard();
        going.await.unwrap();
        assert_eq!(stage.asked().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn machine_jumps_though_nobody_hears_it() {
        let callers = Callers::new();
        // one whose line is dead without a word
        let _silent = callers.enter();
        let took = went(&stage(), &departure(&callers)).await;
        assert!(took >= HEARD_WITHIN && took < 2 * HEARD_WITHIN, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_heard_it_may_hang_up_and_holds_it_up_for_a_moment_at_most() {
        let callers = Callers::new();
        let departure = departure(&callers);
        departure.is_heard();
        let caller = callers.enter();
        tokio::spawn(async move {
            tokio::time::sleep(HANG_UP / 2).await;
            drop(caller);
        });
        let took = went(&stage(), &departure).await;
        assert!(took >= HANG_UP / 2 && took < HANG_UP, "{took:?}");

        let _stays = callers.enter();
        let took = went(&self::stage(), &departure).await;
        assert!(took >= HANG_UP && took < HEARD_WITHIN, "{took:?}");
    }
}
