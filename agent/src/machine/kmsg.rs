//! The kernel's last words, for failures whose cause only the kernel knows.

use std::{fs::OpenOptions, io::Read, os::unix::fs::OpenOptionsExt};

use nix::fcntl::OFlag;

use super::Machine;

impl Machine {
    /// Returns the last lines of the kernel's log; none where it cannot be read. Blocks.
    pub fn kernel_log(&self, lines: usize) -> Vec<String> {
        let flags = OFlag::O_NONBLOCK.bits();
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(self.at("/dev/kmsg"));
        let Ok(mut log) = opened else {
            return Vec::new();
        };
        let mut found = Vec::new();
        let mut record = [0; 8192];
        loop {
            match log.read(&mut record) {
                Ok(0) => break,
                Ok(length) => found.extend(text(&String::from_utf8_lossy(&record[..length]))),
                // records were overwritten while reading: the next one is there
                Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EPIPE as i32) => {}
                Err(_) => break,
            }
        }
        found.split_off(found.len().saturating_sub(lines))
    }
}

/// `6,339,5140900,-;text`, then lines of details that begin with a blank (Documentation/ABI/testing/dev-kmsg).
fn text(record: &str) -> Option<String> {
    let (_, text) = record.lines().next()?.split_once(';')?;
    Some(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_is_cut_down_to_its_text() {
        let record = "4,1,5,-;kexec_core: Starting; now\n SUBSYSTEM=x\n";
        assert_eq!(text(record).as_deref(), Some("kexec_core: Starting; now"));
        assert_eq!(text("nothing"), None);
    }
}
