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
    files,
    nix::store,
};

/// Where the store below `/mnt` keeps its books; without them there is no store yet.
const DATABASE: &str = "/mnt/nix/var/nix/db";
const BOOKS: &str = "/mnt/nix/var/nix/db/db.sqlite";
/// Paths that one command line names; each has at most 255 characters.
const AT_ONCE: usize = 500;
/// What SQLite says through Nix of books that never reached the disk whole (sqlite.org, result codes).
const SPOILT: [&str; 5] = [
    "no such table",
    "database disk image is malformed",
    "file is not a database",
    "database schema",
    "is corrupt",
];
/// What Nix says of a path whose files are not what was registered, or are gone (`nix-store --verify`).
const SIGNS: [&str; 2] = ["was modified", "disappeared"];

/// What had to be done to a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mended {
    /// It is as its books say, or there is none yet.
    Nothing,
    /// So many paths were taken out.
    Paths(usize),
    /// Its books could not be read, and are begun anew.
    Books,
}

impl Machine {
    /// Takes every path out of the store below `/mnt` that is not what it was registered as, with all that needs it.
    ///
    /// Reads the whole store. Books that cannot be read are begun anew: what is in the store then counts as not there.
    pub async fn mend_store(&self, cancel: &CancellationToken) -> Result<Mended, Failure> {
        if !self.at(BOOKS).exists() {
            return Ok(Mended::Nothing);
        }
        let mut broken = Vec::new();
        let verify = self.nix_store(&["--verify", "--check-contents"])?;
        let verified = self.programs().run(&verify, cancel, |_, line| {
            broken.extend(named(line));
        });
        let verified = verified.await?;
        if broken.is_empty() && SPOILT.iter().any(|sign| verified.stderr.contains(sign)) {
            self.blocking(|machine| files::remove_directory(&machine.at(DATABASE)))
                .await?;
            return Ok(Mended::Books);
        }
        if broken.is_empty() {
            return checked(verified).map(|_| Mended::Nothing);
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
        Ok(Mended::Paths(gone.len()))
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

    async fn mend(answers: &[(&str, Ended)]) -> (Result<Mended, Failure>, Vec<String>) {
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
        assert_eq!(mended, Ok(Mended::Paths(2)));
        assert_eq!(
            asked[2],
            format!("/usr/bin/{ASKED} --delete --ignore-liveness {A} {B}")
        );
    }

    #[tokio::test]
    async fn store_that_is_whole_is_left_alone() {
        let (mended, asked) = mend(&[("--verify", Ended::answer(0, "", "checking…"))]).await;
        assert_eq!((mended, asked.len()), (Ok(Mended::Nothing), 1));
        let (stage, token) = (Stage::new(), CancellationToken::new());
        assert_eq!(
            stage.machine().mend_store(&token).await,
            Ok(Mended::Nothing)
        );
    }

    #[tokio::test]
    async fn books_that_never_reached_the_disk_are_begun_anew() {
        let said = "error: creating statement: SQL logic error, no such table: ValidPaths (in 'x')";
        let answer = (
            &*format!("/usr/bin/{ASKED} --verify"),
            Ended::answer(1, "", said),
        );
        let stage = Stage::new()
            .file(&BOOKS[1..], "")
            .nix(&[])
            .answer(answer.0, answer.1);
        let (machine, token) = (stage.machine(), CancellationToken::new());
        assert_eq!(machine.mend_store(&token).await, Ok(Mended::Books));
        assert_eq!(machine.mend_store(&token).await, Ok(Mended::Nothing));
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
