//! Quantities as people read them, and the few colors.

use std::time::Duration;

/// Whether text may be colored. All text is whole without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Paint(pub(super) bool);

impl Paint {
    pub(super) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    pub(super) fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    pub(super) fn careful(self, text: &str) -> String {
        self.with("33", text)
    }

    pub(super) fn bad(self, text: &str) -> String {
        self.with("31", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.0 {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Returns bytes with three digits and a decimal unit: `999 B`, `1.50 GB`, `512 GB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut number = bytes as f64 / 1000.0;
    let mut unit = 0;
    // 999.5 would be shown as 1000
    while number >= 999.5 && unit + 1 < UNITS.len() {
        number /= 1000.0;
        unit += 1;
    }
    let digits = match number {
        n if n < 9.995 => 2,
        n if n < 99.95 => 1,
        _ => 0,
    };
    format!("{number:.digits$} {}", UNITS[unit])
}

/// Returns a span of time with two units at most: `0.8 s`, `12 s`, `3 min 12 s`, `2 h 5 min`.
pub(super) fn span(span: Duration) -> String {
    let tenths = span.as_millis() / 100;
    let seconds = span.as_secs();
    match seconds {
        0..10 => format!("{}.{} s", tenths / 10, tenths % 10),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// The same for milliseconds.
pub(super) fn span_ms(ms: u64) -> String {
    span(Duration::from_millis(ms))
}

/// Returns the time since the run began: `00:12`, `1:02:03`.
pub(super) fn clock(at_ms: u64) -> String {
    let seconds = at_ms / 1000;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes:02}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// Returns a bar of 20 characters.
pub(super) fn bar(done: u64, total: u64) -> String {
    const WIDTH: u64 = 20;
    let filled = (u128::from(WIDTH) * u128::from(done))
        .checked_div(u128::from(total))
        .unwrap_or(0);
    let filled = usize::try_from(filled.min(u128::from(WIDTH))).unwrap_or(0);
    format!(
        "[{}{}]",
        "#".repeat(filled),
        "-".repeat(WIDTH as usize - filled)
    )
}

/// Lays rows out in columns; the last one is not padded.
pub(crate) fn columns(rows: &[Vec<String>]) -> Vec<String> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..count)
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let line = |row: &Vec<String>| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        let shown = [
            0,
            999,
            1000,
            9_994,
            9_995,
            99_949,
            999_499,
            999_500,
            2_000_398_934_016,
            u64::MAX,
        ]
        .map(size);
        assert_eq!(
            shown,
            [
                "0 B", "999 B", "1.00 kB", "9.99 kB", "10.0 kB", "99.9 kB", "999 kB", "1.00 MB",
                "2.00 TB", "18.4 EB"
            ]
        );
    }

    #[test]
    fn spans_have_two_units_at_most() {
        let shown = [0, 849, 9_999, 10_000, 59_999, 192_000, 7_500_000].map(span_ms);
        assert_eq!(
            shown,
            [
                "0.0 s",
                "0.8 s",
                "9.9 s",
                "10 s",
                "59 s",
                "3 min 12 s",
                "2 h 5 min"
            ]
        );
        assert_eq!([12_000, 3_723_000].map(clock), ["00:12", "1:02:03"]);
    }

    #[test]
    fn bars_are_never_longer_than_they_are() {
        assert_eq!(bar(1, 2), "[##########----------]");
        assert_eq!(bar(9, 2), "[####################]");
        assert_eq!(bar(0, 0), "[--------------------]");
        assert_eq!(bar(u64::MAX, u64::MAX), "[####################]");
    }
}
