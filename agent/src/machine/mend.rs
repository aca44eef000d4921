//! What a power cut leaves of the store on the target's disks: paths that are registered, and whose files never reached the
//! disk. Nix syncs its books, not what they are about (`fsync-store-paths` is off, and costs a sync per file).
//!
//! Such paths are taken out of the store, so that the next copy brings them again. Nothing is repaired here: what is whole
//! is known only to whoever sends it.

use std::collections::BTreeSet;

use landfall_proto::{
    failure::Failure,
    order::{StorePath, StoreRoot},
};
use tokio_util::sync::CancellationToken;

use super::{
    Machine,
    command::{Command, Ended, Stream},
    nix::store,
};

/// Where the store below `/mnt` keeps its books; without them there is no store yet.
const BOOKS: &str = "/mnt/nix/var/nix/db/db.sqlite";
/// Paths that one command line names; each has at most 255 characters.
const AT_ONCE: usize = 500;
/// What Nix says of a path whose files are not what was registered, or are gone (`nix-store --verify`).
const SIGNS: [&str; 2] = ["was modified", "disappeared"];

impl Machine {
    /// Takes every path out of the store below `/mnt` that is not what it was registered as, with all that needs it.
    ///
    /// Reads the whole store. Returns how many paths were taken out; none where there is no store yet.
    pub async fn mend_store(&self, cancel: &CancellationToken) -> Result<usize, Failure> {
        if !self.at(BOOKS).exists() {
            return Ok(0);
        }
        let mut broken = Vec::new();
        let verify = self.nix_store(&["--verify", "--check-contents"])?;
        let verified = self.programs().run(&verify, cancel, |_, line| {
            broken.extend(named(line));
        });
        let verified = verified.await?;
        if broken.is_empty() {
            return checked(verified).map(|_| 0);
        }
        let mut gone = BTreeSet::new();
        for some in broken.chunks(AT_ONCE) {
            gone.extend(self.who_needs(some, cancel).await?);
        }
        let gone: Vec<_> = gone.into_iter().collect();
        let delete = self.nix_store(&["--delete", "--ignore-liveness"])?;
        // all at once: what is needed by a path that stays is not deleted
        let delete = delete.args(gone.iter().map(StorePath::as_str));
        checked(self.programs().run(&delete, cancel, |_, _| ()).await?)?;
        Ok(gone.len())
    }

    /// Returns these paths and all that need them, as far as they are registered.
    async fn who_needs(
        &self,
        paths: &[StorePath],
        cancel: &CancellationToken,
    ) -> Result<Vec<StorePath>, Failure> {
        let mut found = Vec::new();
        let query = self.nix_store(&["--query", "--referrers-closure"])?;
        let query = query.args(paths.iter().map(StorePath::as_str));
        let asked = self.programs().run(&query, cancel, |stream, line| {
            if stream == Stream::Out {
                found.extend(line.parse::<StorePath>());
            }
        });
        checked(asked.await?)?;
        Ok(found)
    }

    fn nix_store(&self, words: &[&str]) -> Result<Command, Failure> {
        let program = self.nix_program("nix-store")?;
        let store = store(StoreRoot::Target);
        Ok(Command::new(program)
            .args(["--store", store])
            .args(words.iter().copied()))
    }
}

fn checked(ended: Ended) -> Result<Ended, Failure> {
    let checked = ended.success("cannot check what is in the store below /mnt");
    checked.map_err(|failure| failure.code("LF1304"))
}

/// Returns the path that a line says something bad of.
fn named(line: &str) -> Option<StorePath> {
    if !SIGNS.iter().any(|sign| line.contains(sign)) {
        return None;
    }
    let (_, rest) = line.split_once("path '")?;
    rest.split_once('\'')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::stage::Stage;

    const A: &str = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-a";
    const B: &str = "/nix/store/1123456789abcdfghijklmnpqrsvwxyz-b";
    const ASKED: &str = "nix-store --store local?root=/mnt";

    async fn mend(answers: &[(&str, Ended)]) -> (Result<usize, Failure>, Vec<String>) {
        let answers: Vec<_> = answers
            .iter()
            .map(|(words, answer)| (format!("{ASKED} {words}"), answer.clone()))
            .collect();
        let answers: Vec<_> = answers
            .iter()
            .map(|(l, a)| (l.as_str(), a.clone()))
            .collect();
        let stage = Stage::new().file(&BOOKS[1..], "").nix(&answers);
        let mended = stage.machine().mend_store(&CancellationToken::new()).await;
        (mended, stage.asked())
    }

    #[tokio::test]
    async fn broken_path_goes_with_all_that_needs_it() {
        let said = format!("error: path '{A}' was modified! expected hash 'x', got 'y'");
        let needed = Ended::answer(0, &format!("{A}\n{B}\n"), "");
        let (mended, asked) = mend(&[
            ("--verify", Ended::answer(1, "", &said)),
            ("--query", needed),
            ("--delete", Ended::answer(0, "", "")),
        ])
        .await;
        assert_eq!(mended, Ok(2));
        assert_eq!(
            asked[2],
            format!("/usr/bin/{ASKED} --delete --ignore-liveness {A} {B}")
        );
    }

    #[tokio::test]
    async fn store_that_is_whole_is_left_alone() {
        let (mended, asked) = mend(&[("--verify", Ended::answer(0, "", "checking…"))]).await;
        assert_eq!((mended, asked.len()), (Ok(0), 1));
        let (stage, token) = (Stage::new(), CancellationToken::new());
        assert_eq!(stage.machine().mend_store(&token).await, Ok(0));
    }

    #[tokio::test]
    async fn store_that_cannot_be_checked_is_not_believed() {
        let (mended, _) =
            mend(&[("--verify", Ended::answer(1, "", "error: disk I/O error"))]).await;
        assert_eq!(mended.unwrap_err().code, "LF1304");
    }

    #[test]
    fn only_what_is_said_of_a_path_is_believed() {
        let check = |line: &str, expected: Option<&str>| {
            assert_eq!(named(line).as_ref().map(StorePath::as_str), expected);
        };
        check(
            &format!("path '{A}' disappeared, but it still has valid referrers!"),
            Some(A),
        );
        check(&format!("checking path '{A}'"), None);
        check("path '/etc/passwd' was modified", None);
        check("path 'was modified", None);
    }
}
