//! Waiting for what only looking can tell: a file that grows, a port that answers.
//!
//! The one place of the rig that sleeps. Whatever can be awaited is awaited instead.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Long enough to cost nothing, short enough that no test waits for it.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Looks until `look` finds something, and hands it on.
///
/// Looks at least once. Fails when `deadline` is over, naming `what` it waited for.
pub fn until<T>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if start.elapsed() >= deadline {
            bail!("waited {} s for {what}", deadline.as_secs());
        }
        pause();
    }
}

/// Lets so much time go by: how long a fault lasts, never a wait for something.
pub fn pass(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        pause();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this module is where the rig waits"
)]
fn pause() {
    std::thread::sleep(LOOK_EVERY);
}
