//! What ends a command from outside.

use tokio::signal::unix::{SignalKind, signal};

/// Completes when somebody wants the command to end: ctrl-c, or what a service manager or a closed terminal sends.
pub async fn stopped() {
    let wait = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => signal.recv().await,
            // what cannot be listened for ends the process by itself
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = wait(SignalKind::interrupt()) => {}
        _ = wait(SignalKind::terminate()) => {}
        _ = wait(SignalKind::hangup()) => {}
    }
}
