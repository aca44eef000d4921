//! Reboots the machine: through systemd, which says goodbye to everybody, or by the kernel's own call.

use std::time::Duration;

use nix::sys::reboot::{RebootMode, reboot as reboot_now};

use super::{Machine, bus, command::Command};

/// How long systemd may take to stop what runs. An installer has nothing that takes longer.
const GOODBYE: Duration = Duration::from_secs(60);

/// Reboots the machine. Returns only when that could not be done, or on a machine that is a script.
pub async fn reboot(machine: &Machine) {
    if !machine.programs().are_real() {
        let _ = machine.programs().ask(&Command::new("reboot")).await;
        return;
    }
    machine.blocking(|_| nix::unistd::sync()).await;
    if machine.at("/run/systemd/system").exists() && bus::reboot().await.is_ok() {
        tokio::time::sleep(GOODBYE).await;
    }
    let _ = machine
        .blocking(|_| reboot_now(RebootMode::RB_AUTOBOOT))
        .await;
}
