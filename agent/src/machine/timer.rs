//! The installer's own timer that boots the old system again if nobody comes: the installer runs nothing of ours yet, so
//! its systemd has to do it.
//!
//! Its units travel as credentials on the kernel's command line (systemd.system-credentials(7)), which systemd 256 and
//! later make units of; older ones pass them over. Decision 6.

use base64::{Engine, engine::general_purpose::STANDARD};
use landfall_proto::failure::Failure;

use super::{Machine, TARGET, bus, command::Command};

/// Name of the timer in the installer.
const UNIT: &str = "landfall-return.timer";
/// What it starts.
const SERVICE: &str = "landfall-return.service";

/// Returns the words on the kernel's command line that start the timer, for this many seconds after the boot.
pub fn words(seconds: u64) -> String {
    // neither waits for the system to have come up: one that hangs is one in which nobody comes
    let timer =
        format!("[Unit]\nDefaultDependencies=no\n[Timer]\nOnBootSec={seconds}\nAccuracySec=1\n");
    // needs no program of the image; and whoever has mounted something there is at work
    let service = format!(
        "[Unit]\nDefaultDependencies=no\nConditionPathIsMountPoint=!{TARGET}\nSuccessAction=reboot\n"
    );
    let unit = |name: &str, text: &str| {
        let text = STANDARD.encode(text);
        format!("systemd.set_credential_binary=systemd.extra-unit.{name}:{text}")
    };
    // the first is for the initrd, which ends its timer when it hands over
    let wants = format!("rd.systemd.wants={UNIT} systemd.wants={UNIT}");
    [unit(UNIT, &timer), unit(SERVICE, &service), wants].join(" ")
}

impl Machine {
    /// Stops the timer, for good. A machine without systemd, or without the timer, has none that runs.
    pub async fn stop_timer(&self) -> Result<(), Failure> {
        if !self.programs().are_real() {
            let asked = Command::new("systemctl").arg("stop").arg(UNIT);
            return self.programs().ask(&asked).await.map(drop);
        }
        if !self.at("/run/systemd/system").exists() {
            return Ok(());
        }
        bus::stop_unit(UNIT).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timer_is_told_in_words_without_blanks() {
        let words = words(1800);
        let words: Vec<_> = words.split(' ').collect();
        assert_eq!(words.len(), 4);
        let decoded = |word: &str, name: &str| {
            let prefix = format!("systemd.set_credential_binary=systemd.extra-unit.{name}:");
            let text = STANDARD.decode(word.strip_prefix(&prefix).unwrap());
            String::from_utf8(text.unwrap()).unwrap()
        };
        let timer = decoded(words[0], "landfall-return.timer");
        assert!(timer.contains("\nOnBootSec=1800\n"), "{timer}");
        let service = decoded(words[1], "landfall-return.service");
        assert!(service.contains("\nConditionPathIsMountPoint=!/mnt\n"));
        assert!(service.contains("\nSuccessAction=reboot\n"));
        assert_eq!(words[2], "rd.systemd.wants=landfall-return.timer");
        assert_eq!(words[3], "systemd.wants=landfall-return.timer");
    }
}
