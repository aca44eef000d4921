//! What a code means: a page for every failure that a person can meet, and what became of nixos-anywhere's messages.
//!
//! The pages are the text files in `pages/`; `landfall explain` prints them and `docs/errors.md` is made of them. Pure:
//! nothing here looks at a machine. How a page is written is said in [`page`].

mod markdown;
pub mod page;
mod text;

use std::{fmt::Write, sync::LazyLock};

use landfall_proto::failure::Failure;

pub use self::markdown::markdown;
use self::page::{Gone, Page};

/// Pages about the same part of the work.
#[derive(Debug)]
pub struct Block {
    /// What they are about.
    pub title: &'static str,
    /// The pages, by code.
    pub pages: Vec<Page>,
}

/// Title and text of each block, in the order of their codes.
const TEXTS: &[(&str, &str)] = &[
    ("Reaching the machine", include_str!("pages/connection.txt")),
    ("The machine as it is", include_str!("pages/machine.txt")),
    ("Working with the agent", include_str!("pages/agent.txt")),
    (
        "Booting the installer, and its image",
        include_str!("pages/installer.txt"),
    ),
    ("Choosing the disks", include_str!("pages/disks.txt")),
    ("Nix", include_str!("pages/nix.txt")),
    ("Hardware", include_str!("pages/hardware.txt")),
    (
        "The command, and the operator's machine",
        include_str!("pages/command.txt"),
    ),
    ("The installed system", include_str!("pages/installed.txt")),
    ("Files and keys", include_str!("pages/files.txt")),
    ("What is remembered", include_str!("pages/run.txt")),
    ("At work on the machine", include_str!("pages/target.txt")),
];

static BLOCKS: LazyLock<Vec<Block>> = LazyLock::new(|| {
    let block = |&(title, text): &(&'static str, &'static str)| Block {
        title,
        pages: page::read(text).expect("the pages that come with the program are well formed"),
    };
    TEXTS.iter().map(block).collect()
});

static GONE: LazyLock<Vec<Gone>> = LazyLock::new(|| {
    page::read_gone(include_str!("pages/gone.txt"))
        .expect("the pages that come with the program are well formed")
});

/// Most codes that are named where one is not known.
const NEAR: usize = 12;

/// Returns all pages, in blocks.
pub fn blocks() -> &'static [Block] {
    &BLOCKS
}

/// Returns all pages, by code.
pub fn all() -> impl Iterator<Item = &'static Page> {
    BLOCKS.iter().flat_map(|block| &block.pages)
}

/// Returns nixos-anywhere's messages whose cause is no more.
pub fn gone() -> &'static [Gone] {
    &GONE
}

/// Returns the page of a code, whatever its case.
pub fn page(code: &str) -> Option<&'static Page> {
    all().find(|page| page.code.eq_ignore_ascii_case(code))
}

/// Returns every code with its title, a line each.
pub fn list() -> String {
    let mut text = String::new();
    for block in blocks() {
        if !text.is_empty() {
            text.push('\n');
        }
        let _ = writeln!(text, "{}", block.title);
        for page in &block.pages {
            let _ = writeln!(text, "  {}  {}", page.code, page.title);
        }
    }
    text
}

/// Answers a question: a code, the number of a message in nixos-anywhere's manual, or words of a title or a message.
///
/// Where several pages fit, they are listed.
pub fn answer(question: &str) -> Result<String, Failure> {
    let question = question.trim();
    if let Some(page) = page(question) {
        return Ok(text::page(page));
    }
    if is_code(question) {
        return Err(unknown(question));
    }
    let (pages, gone) = match question.parse::<u8>() {
        Ok(id) => of_id(id),
        Err(_) => like(question),
    };
    match (&pages[..], &gone[..]) {
        ([], []) => Err(Failure::new(format!("cannot explain `{question}`"))
            .because("no page is about these words")
            .hint("see all pages: `landfall explain`")
            .code("LF0440")),
        ([page], []) => Ok(text::page(page)),
        (pages, gone) => Ok(text::several(pages, gone)),
    }
}

fn is_code(question: &str) -> bool {
    let digits = question.get(2..).unwrap_or_default();
    question
        .get(..2)
        .is_some_and(|prefix| prefix.eq_ignore_ascii_case("LF"))
        && !digits.is_empty()
        && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Says that there is no such code, and which ones are near it.
fn unknown(code: &str) -> Failure {
    let code = code.to_ascii_uppercase();
    let failure = Failure::new(format!("cannot explain {code}"))
        .because("no failure has this code")
        .code("LF0440");
    let near = (2..=code.len()).rev().find_map(|length| {
        let near: Vec<String> = all()
            .filter(|page| page.code.starts_with(&code[..length]))
            .map(|page| format!("`landfall explain {}`", page.code))
            .collect();
        (!near.is_empty() && near.len() <= NEAR).then_some(near)
    });
    match near {
        Some(near) => failure.hint(format!("codes near it: {}", near.join(", "))),
        None => failure.hint("see all codes: `landfall explain`"),
    }
}

type Found = (Vec<&'static Page>, Vec<&'static Gone>);

fn of_id(id: u8) -> Found {
    let pages = all().filter(|page| page.was.iter().any(|was| was.id == Some(id)));
    let gone = gone().iter().filter(|gone| gone.was.id == Some(id));
    (pages.collect(), gone.collect())
}

fn like(question: &str) -> Found {
    let question = question.to_lowercase();
    let fits = |words: &str| {
        let words = words.to_lowercase();
        question.len() > 2 && (words.contains(&question) || question.contains(&words))
    };
    let pages = all()
        .filter(|page| fits(page.title) || page.was.iter().any(|was| fits(was.words)))
        .collect();
    (
        pages,
        gone().iter().filter(|gone| fits(gone.was.words)).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_in_order_and_stand_once() {
        let codes: Vec<&str> = all().map(|page| page.code).collect();
        let mut sorted = codes.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(codes, sorted);
    }

    #[test]
    fn every_message_of_the_manual_has_an_heir() {
        for id in 1..=14 {
            let (pages, gone) = of_id(id);
            assert!(!pages.is_empty() || !gone.is_empty(), "message {id}");
        }
    }

    #[test]
    fn no_page_is_a_stub() {
        for page in all() {
            let code = page.code;
            let whole: usize = page.advice.iter().map(String::len).sum::<usize>()
                + page.causes.iter().map(String::len).sum::<usize>()
                + page.happened.len();
            assert!(whole >= 200, "{code} says next to nothing");
            assert!(!page.endings.is_empty(), "{code} does not say how it ends");
            let typed = |text: &String| text.matches('`').count() >= 2;
            assert!(
                page.advice.iter().any(typed),
                "{code} names nothing to type"
            );
            let all = [&page.causes[..], &page.advice[..]].concat();
            for text in all.iter().chain([&page.happened]) {
                assert!(text.matches('`').count() % 2 == 0, "{code}: {text}");
            }
        }
    }

    #[test]
    fn code_is_explained_in_any_case() {
        let page = answer("lf0102").unwrap();
        assert!(
            page.starts_with("LF0102  The machine refuses the connection\n"),
            "{page}"
        );
        assert_eq!(answer(" LF0102 ").unwrap(), page);
    }

    #[test]
    fn messages_of_nixos_anywhere_lead_to_their_heirs() {
        let check = |question: &str, expected: &str| {
            let text = answer(question).unwrap();
            assert!(text.contains(expected), "{question}: {text}");
        };
        check("1", "LF0341");
        check("10", "LF0201");
        check("no tar command found", "unpacks the image itself");
        check("Failed to kexec into NixOS installer", "LF0332");
        // pasted as it was printed
        check(
            "aborted: This script requires Linux as the operating system, but got Darwin",
            "LF0201",
        );
    }

    #[test]
    fn unknown_code_names_those_near_it() {
        let failure = answer("LF0118").unwrap_err();
        assert_eq!(failure.what, "cannot explain LF0118");
        assert!(
            failure.hints[0].contains("`landfall explain LF0119`"),
            "{failure:?}"
        );
        assert!(!failure.hints[0].contains("LF0102"), "{failure:?}");
        assert_eq!(
            answer("LF99999").unwrap_err().hints,
            ["see all codes: `landfall explain`"]
        );
        assert!(answer("what is this").is_err());
    }
}
