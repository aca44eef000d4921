//! What runs, since when, and in which state: read from `/proc`, without anybody's environment.

use crate::machine::Machine;

/// Ticks a second, in what the kernel tells: the same on every architecture (`USER_HZ`).
const TICKS: u64 = 100;

impl Machine {
    /// Returns a table of all processes. Blocks.
    pub(super) fn processes(&self) -> String {
        let uptime = self.read("/proc/uptime").unwrap_or_default();
        let uptime = uptime
            .split(['.', ' '])
            .next()
            .and_then(|seconds| seconds.parse().ok());
        let mut table = "    PID    PPID S  SECONDS  RSS-KIB COMMAND\n".to_owned();
        let mut pids: Vec<u32> = self
            .names("/proc")
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect();
        pids.sort_unstable();
        for pid in pids {
            let stat = self.read(&format!("/proc/{pid}/stat")).unwrap_or_default();
            let words = self
                .read(&format!("/proc/{pid}/cmdline"))
                .unwrap_or_default();
            if let Some(row) = row(&stat, &words, uptime) {
                table.push_str(&row);
                table.push('\n');
            }
        }
        table
    }
}

/// Makes a row of `/proc/PID/stat` and `/proc/PID/cmdline` (proc(5)); none for one that has ended meanwhile.
fn row(stat: &str, words: &str, uptime: Option<u64>) -> Option<String> {
    // the name in brackets may hold anything, brackets and spaces included
    let (pid, rest) = stat.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let started = number(19)? / TICKS;
    let seconds = uptime.map_or_else(
        || "?".to_owned(),
        |now| now.saturating_sub(started).to_string(),
    );
    let memory = number(21).unwrap_or_default() * 4;
    let words = words.replace('\0', " ");
    let command = match words.trim() {
        "" => format!("[{name}]"),
        words => words.replace('\n', " "),
    };
    Some(format!(
        "{pid:>7} {:>7} {} {seconds:>8} {memory:>8} {command}",
        fields.get(1)?,
        fields.first()?
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_tells_what_runs_and_for_how_long() {
        let stat = "812 (a) b) D 1 812 800 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 5000 1000 25 0";
        assert_eq!(
            row(stat, "sh\0-c\0sleep\n1\0", Some(60)).unwrap(),
            "    812       1 D       10      100 sh -c sleep 1"
        );
        let thread = row(stat, "", None).unwrap();
        assert!(thread.ends_with("        ?      100 [a) b]"), "{thread}");
        assert_eq!(row("", "", Some(1)), None);
    }
}
