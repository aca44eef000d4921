//! The pages as `docs/errors.md`.

use std::fmt::Write;

use super::{
    blocks, gone,
    page::{Page, Was},
};

const HEAD: &str = "\
# Failures, by code

A failure ends with a code in brackets: `error: cannot connect to root@host [LF0102]`. `landfall explain LF0102` prints
its page; so do a number of nixos-anywhere's reference manual (`landfall explain 8`) and words of a message
(`landfall explain 'Failed to kexec'`). Codes keep their meaning: one that is no longer used is not given to something else.

This file is made of the pages in `controller/src/explain/pages`: `LANDFALL_WRITE_GOLDEN=1 cargo test -p landfall-tests errors`
A test holds it to them.
";

/// Returns the whole of `docs/errors.md`.
pub fn markdown() -> String {
    let mut text = HEAD.to_owned();
    messages(&mut text);
    for block in blocks() {
        let _ = write!(text, "\n## {}\n", block.title);
        for one in &block.pages {
            page(&mut text, one);
        }
    }
    text
}

/// Writes which message of nixos-anywhere has become what.
fn messages(text: &mut String) {
    text.push_str("\n## Messages of nixos-anywhere\n\n");
    text.push_str(
        "The number is that of its reference manual; messages without one are not in it.\n\n",
    );
    text.push_str("| number | message | here |\n|---|---|---|\n");
    let mut rows: Vec<(&Was, Vec<String>)> = Vec::new();
    for page in blocks().iter().flat_map(|block| &block.pages) {
        let here = format!("[{}](#{})", page.code, anchor(page));
        for was in &page.was {
            let same = |(other, _): &&mut (&Was, _)| (other.id, other.words) == (was.id, was.words);
            match rows.iter_mut().find(same) {
                Some((_, heirs)) => heirs.push(here.clone()),
                None => rows.push((was, vec![here.clone()])),
            }
        }
    }
    rows.extend(
        gone()
            .iter()
            .map(|gone| (&gone.was, vec![gone.why.clone()])),
    );
    rows.sort_by_key(|(was, _)| (was.id.is_none(), was.id));
    for (was, heirs) in rows {
        let id = was.id.map_or_else(String::new, |id| id.to_string());
        let _ = writeln!(text, "| {id} | {} | {} |", was.words, heirs.join(", "));
    }
}

fn page(text: &mut String, page: &Page) {
    let _ = write!(
        text,
        "\n### {}: {}\n\n{}\n",
        page.code, page.title, page.happened
    );
    let mut items = |title: &str, items: &[String]| {
        if !items.is_empty() {
            let _ = write!(text, "\n{title}:\n\n");
        }
        for item in items {
            let _ = writeln!(text, "- {item}");
        }
    };
    items("Usual causes", &page.causes);
    items("What to do", &page.advice);
    let endings = page.endings.iter();
    let endings: Vec<String> = endings
        .map(|ending| format!("exit code {}: {}", ending.exit().code(), ending.sentence()))
        .collect();
    items("How it ends", &endings);
}

/// Returns the name that a heading has in a link.
fn anchor(page: &Page) -> String {
    let title = format!("{} {}", page.code, page.title).to_lowercase();
    let kept = title
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_of_the_table_stay_whole() {
        let text = markdown();
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert!(rows.len() > 20);
        for row in rows {
            assert_eq!(row.matches('|').count(), 4, "{row}");
        }
    }
}
