//! Columns of text, as wide as they have to be.

use std::time::Duration;

/// Lines up `rows` under each other, two spaces apart, without trailing spaces.
pub(super) fn lines<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &[String; N]| {
        let cells = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// `7.3 s`, `4 min 05 s`, `2 h 10 min`.
pub(super) fn time(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", duration.as_secs_f64()),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{lines, time};

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a", "long", "x"], ["long", "b", ""]].map(|row| row.map(ToOwned::to_owned));
        assert_eq!(lines(&rows), ["a     long  x", "long  b"]);
    }

    #[test]
    fn time_is_told_in_two_units_at_most() {
        let told = [0.34, 61.0, 7810.0].map(|s| time(Duration::from_secs_f64(s)));
        assert_eq!(told, ["0.3 s", "1 min 01 s", "2 h 10 min"]);
    }
}
