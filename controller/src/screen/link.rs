//! The state of the link in words, and how old they are.

use std::time::{Duration, Instant};

use super::text;
use crate::{exit::printable, remote::link::LinkView};

/// Silence shorter than this is the ordinary pause between two answers.
const QUIET_MS: u64 = 3_000;

/// The link as it was last heard of, with the moment of hearing.
#[derive(Debug)]
pub(super) struct Link {
    view: LinkView,
    heard: Instant,
}

impl Link {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            view: LinkView::default(),
            heard: now,
        }
    }

    /// Takes the newest state; returns a line for a log where there is something new to say.
    ///
    /// Of many tries, the first, second, fourth and so on are told.
    pub(super) fn take(&mut self, view: &LinkView, now: Instant) -> Option<String> {
        let before = std::mem::replace(&mut self.view, view.clone());
        self.heard = now;
        match (&before, view) {
            (
                LinkView::Retrying {
                    attempt: before,
                    seen: seen_before,
                    ..
                },
                LinkView::Retrying { attempt, seen, .. },
            ) => {
                let told = seen != seen_before || (attempt != before && attempt.is_power_of_two());
                told.then(|| self.words(now)).flatten()
            }
            (LinkView::Retrying { .. } | LinkView::Lost { .. }, LinkView::Up) => {
                Some("link is back".to_owned())
            }
            (LinkView::Silent { .. }, LinkView::Silent { .. }) => None,
            _ => self.words(now),
        }
    }

    /// Returns what there is to say about the link now; nothing while it is well.
    pub(super) fn words(&self, now: Instant) -> Option<String> {
        let age = now.saturating_duration_since(self.heard);
        let since = |ms: &u64| text::span(Duration::from_millis(*ms) + age);
        let seen = |seen: &str| {
            if seen.is_empty() {
                String::new()
            } else {
                format!(": {}", printable(seen))
            }
        };
        match &self.view {
            LinkView::Connecting | LinkView::Up => None,
            LinkView::Silent { since_ms } if *since_ms < QUIET_MS => None,
            LinkView::Silent { since_ms } => {
                Some(format!("link is silent for {}", since(since_ms)))
            }
            LinkView::Retrying {
                attempt,
                since_ms,
                seen: what,
            } => Some(format!(
                "link lost{}, trying again (attempt {attempt}){}; the run goes on",
                match Duration::from_millis(*since_ms) + age {
                    short if short < Duration::from_secs(1) => String::new(),
                    long => format!(" {} ago", text::span(long)),
                },
                seen(what)
            )),
            LinkView::Lost { seen: what } => Some(format!("link lost for good{}", seen(what))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retrying(attempt: u32) -> LinkView {
        LinkView::Retrying {
            attempt,
            since_ms: 2000,
            seen: "connection refused".to_owned(),
        }
    }

    #[test]
    fn age_of_a_lost_link_grows_without_news() {
        let now = Instant::now();
        let mut link = Link::new(now);
        assert_eq!(
            link.take(&retrying(3), now).unwrap(),
            "link lost 2.0 s ago, trying again (attempt 3): connection refused; the run goes on"
        );
        let later = link.words(now + Duration::from_secs(10)).unwrap();
        assert!(later.starts_with("link lost 12 s ago"), "{later}");
    }

    #[test]
    fn many_tries_make_few_lines() {
        let now = Instant::now();
        let mut link = Link::new(now);
        let told = (1..=100)
            .filter(|&attempt| link.take(&retrying(attempt), now).is_some())
            .count();
        assert_eq!(told, 7);
        assert_eq!(
            link.take(&LinkView::Up, now).as_deref(),
            Some("link is back")
        );
        assert_eq!(link.take(&LinkView::Up, now), None);
    }
}
