//! The kernel's log: its last words, for failures whose cause only the kernel knows, and ours where nobody else listens.

use std::{
    fs::OpenOptions,
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
};

use nix::fcntl::OFlag;

use super::Machine;

/// Lines that are read at most: a kernel that has a lot to say writes as fast as it is read.
const MOST: usize = 100_000;

impl Machine {
    /// Returns the last lines of the kernel's log; none where it cannot be read. Blocks.
    pub fn kernel_log(&self, lines: usize) -> Vec<String> {
        let mut found = self.kernel_records();
        let found = found.split_off(found.len().saturating_sub(lines));
        found.into_iter().map(|record| record.text).collect()
    }

    /// Returns the kernel's log with times and levels, as `dmesg` does. Blocks.
    pub fn kernel_log_with_times(&self) -> Vec<String> {
        let shown = |Record { level, at_us, text }| {
            format!(
                "[{:>5}.{:06}] <{level}> {text}",
                at_us / 1_000_000,
                at_us % 1_000_000
            )
        };
        self.kernel_records().into_iter().map(shown).collect()
    }

    fn kernel_records(&self) -> Vec<Record> {
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
        while found.len() < MOST {
            match log.read(&mut record) {
                Ok(0) => break,
                Ok(length) => found.extend(read(&String::from_utf8_lossy(&record[..length]))),
                // records were overwritten while reading: the next one is there
                Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EPIPE as i32) => {}
                Err(_) => break,
            }
        }
        found
    }
}

impl Machine {
    /// Says something to whoever looks at the console, where that can be done. Blocks for a moment.
    pub fn tell_kernel(&self, text: &str) {
        let opened = OpenOptions::new().append(true).open(self.at("/dev/kmsg"));
        if let Ok(mut log) = opened {
            // one call is one record; an installer's console shows errors, and nothing below
            let _ = log.write_all(format!("<3>landfall: {text}\n").as_bytes());
        }
    }
}

/// One line of the kernel's log.
#[derive(Debug, PartialEq, Eq)]
struct Record {
    /// 0 is the worst, 7 for whoever debugs.
    level: u8,
    /// Microseconds since the boot.
    at_us: u64,
    text: String,
}

/// `6,339,5140900,-;text`, then lines of details that begin with a blank (Documentation/ABI/testing/dev-kmsg).
fn read(record: &str) -> Option<Record> {
    let (head, text) = record.lines().next()?.split_once(';')?;
    let mut head = head.split(',').map(|number| number.parse::<u64>());
    // the facility is above the level's three bits
    let level = head.next()?.ok()? & 7;
    let at_us = head.nth(1)?.ok()?;
    Some(Record {
        level: u8::try_from(level).ok()?,
        at_us,
        text: text.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_is_read_without_its_details() {
        let record = "12,1,5140900,-;kexec_core: Starting; now\n SUBSYSTEM=x\n";
        let expected = Record {
            level: 4,
            at_us: 5_140_900,
            text: "kexec_core: Starting; now".to_owned(),
        };
        assert_eq!(read(record), Some(expected));
        assert_eq!(read("nothing"), None);
    }
}
