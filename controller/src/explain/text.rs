//! Pages as text for a terminal.

use super::page::{Gone, Page, Was};

/// Longest line; what is typed is never broken.
const WIDTH: usize = 80;

/// Writes one page.
pub(super) fn page(page: &Page) -> String {
    let mut text = format!("{}  {}\n\n", page.code, page.title);
    text += &wrapped("", &page.happened);
    text += &items("Usual causes", &page.causes);
    text += &items("What to do", &page.advice);
    let endings: Vec<String> = page
        .endings
        .iter()
        .map(|ending| format!("exit code {}: {}", ending.exit().code(), ending.sentence()))
        .collect();
    text += &items("How it ends", &endings);
    let was: Vec<String> = page.was.iter().map(message).collect();
    text + &items("In nixos-anywhere", &was)
}

/// Writes which pages are about the same words, and which messages cannot come any more.
pub(super) fn several(pages: &[&Page], gone: &[&Gone]) -> String {
    let mut text = String::new();
    for page in pages {
        text += &format!("{}  {}\n", page.code, page.title);
    }
    for gone in gone {
        if !text.is_empty() {
            text.push('\n');
        }
        text += &wrapped(
            "",
            &format!("nixos-anywhere's message {}", message(&gone.was)),
        );
        text += &wrapped("  ", &gone.why);
    }
    text
}

fn message(was: &Was) -> String {
    match was.id {
        Some(id) => format!("{id}: “{}”", was.words),
        None => format!("“{}”", was.words),
    }
}

fn items(title: &str, items: &[String]) -> String {
    if items.is_empty() {
        return String::new();
    }
    let items: String = items.iter().map(|item| wrapped("  - ", item)).collect();
    format!("\n{title}:\n{items}")
}

/// Breaks text into lines that begin with `first`, or with as many blanks.
fn wrapped(first: &str, text: &str) -> String {
    let mut out = String::new();
    let mut line = first.to_owned();
    let blank = " ".repeat(first.chars().count());
    let mut empty = true;
    for word in words(text) {
        if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            out += &line;
            out.push('\n');
            line.clone_from(&blank);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line += word;
        empty = false;
    }
    out + &line + "\n"
}

/// Splits at blanks, but not inside of backticks: what is typed stays on one line.
fn words(text: &str) -> Vec<&str> {
    let mut typed = false;
    let split = text.split(move |c| {
        typed ^= c == '`';
        c == ' ' && !typed
    });
    split.filter(|word| !word.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::page::read;

    #[test]
    fn page_answers_one_question_after_the_other() {
        let pages = read(
            "LF0001 It broke\nends: untouched\nwas: 4 It failed\n\nIt did.\n\n- Age.\n\n* Type `true`.\n",
        );
        let expected = "LF0001  It broke\n\nIt did.\n\nUsual causes:\n  - Age.\n\nWhat to do:\n  - Type `true`.\n\n\
                        How it ends:\n  - exit code 1: the machine is untouched\n\nIn nixos-anywhere:\n  - 4: “It failed”\n";
        assert_eq!(page(&pages.unwrap()[0]), expected);
    }

    #[test]
    fn what_is_typed_is_not_broken() {
        let long = "x".repeat(70);
        let text = wrapped("  - ", &format!("{long} `one two three` four"));
        assert_eq!(text, format!("  - {long}\n    `one two three` four\n"));
    }
}
