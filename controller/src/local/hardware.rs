//! The file about the machine's hardware, on its way into the operator's configuration.
//!
//! Whatever goes wrong, the file that was there stays as it was.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use landfall_proto::failure::Failure;
use nix::unistd::{AccessFlags, access};
use tokio::process::Command;

use super::{
    child::{self, Group, last_lines, printable},
    file::cannot,
};

/// Longest that git may take; it does not look at the network for this.
const GIT: Duration = Duration::from_secs(30);
/// Mode of a file that was not there before, less what the umask takes.
const MODE: u32 = 0o644;

/// What a write has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// There was no such file.
    New,
    /// It says something else now.
    Changed,
    /// It says what it said before.
    Same,
}

/// Refuses a path that cannot be written to, without writing.
pub fn check(path: &Path) -> Result<(), Failure> {
    let refuse = |cause: String| {
        Err(cannot("write", path)
            .because(cause)
            .hint("name another file: `--generate-hardware-config BACKEND FILE`")
            .code("LF0380"))
    };
    if path.file_name().is_none() || path.is_dir() {
        return refuse("it is a folder".to_owned());
    }
    if path.exists() && access(path, AccessFlags::W_OK).is_err() {
        return refuse("it may not be written to".to_owned());
    }
    let mut above = absolute(path);
    while above.pop() {
        if !above.exists() {
            continue;
        }
        if !above.is_dir() {
            return refuse(format!("{} is no folder", above.display()));
        }
        return match access(&above, AccessFlags::W_OK | AccessFlags::X_OK) {
            Ok(()) => Ok(()),
            Err(error) => refuse(format!("writing in {}: {error}", above.display())),
        };
    }
    Ok(())
}

/// Writes the file, and the folders above it that are missing: either all of it or nothing. A file that was there keeps
/// its mode, and a link stays one.
pub fn write(path: &Path, bytes: &[u8]) -> Result<Change, Failure> {
    let write = || -> std::io::Result<Change> {
        let path = fs::canonicalize(path).unwrap_or_else(|_| absolute(path));
        let folder = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder)?;
        let (change, permissions) = match fs::metadata(&path) {
            Ok(old) if fs::read(&path)? == bytes => (Change::Same, Some(old.permissions())),
            Ok(old) => (Change::Changed, Some(old.permissions())),
            Err(_) => (Change::New, None),
        };
        if change == Change::Same {
            return Ok(change);
        }
        let mut temporary = tempfile::Builder::new()
            .prefix(".landfall-")
            .permissions(fs::Permissions::from_mode(MODE))
            .tempfile_in(folder)?;
        temporary.write_all(bytes)?;
        if let Some(permissions) = permissions {
            temporary.as_file().set_permissions(permissions)?;
        }
        temporary.as_file().sync_all()?;
        temporary.persist(&path).map_err(|error| error.error)?;
        Ok(change)
    };
    write().map_err(|error| {
        cannot("write", path)
            .caused_by(&error)
            .hint("what was there is still there; see who may write: `ls -ld` and the folder")
            .code("LF0380")
    })
}

/// Makes the file known to the git repository it lies in, so that a flake there sees it. Its content is not staged.
///
/// Returns whether there is such a repository. A repository without git is none.
pub async fn show_to_git(path: &Path) -> Result<bool, Failure> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| absolute(path));
    let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
    let inside = git(&folder, &["rev-parse", "--is-inside-work-tree"]).await;
    if !matches!(inside, Ok(said) if said.trim() == "true") {
        return Ok(false);
    }
    let name = path.to_string_lossy();
    let added = git(&folder, &["add", "--intent-to-add", "--force", "--", &name]).await;
    added.map(|_| true).map_err(|cause| {
        Failure::new(format!("cannot show {} to git", path.display()))
            .because(cause)
            .code("LF0380")
    })
}

async fn git(folder: &Path, words: &[&str]) -> Result<String, String> {
    let mut command = Command::new("git");
    command.arg("-C").arg(folder).args(words);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    child::tie(&mut command, Group::Own);
    let words = format!("running git {}", words[0]);
    let output = tokio::time::timeout(GIT, command.output())
        .await
        .map_err(|_| format!("{words}: it takes too long"))?
        .map_err(|error| format!("{words}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = printable(&String::from_utf8_lossy(&output.stderr));
    Err(format!("{words}: {}", last_lines(&said, 4).join("\n")))
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn new_file_comes_with_the_folders_above_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts/web/hardware.nix");
        assert_eq!(check(&path), Ok(()));
        assert_eq!(write(&path, b"{ }\n"), Ok(Change::New));
        assert_eq!(fs::read(&path).unwrap(), b"{ }\n");
        assert_eq!(write(&path, b"{ }\n"), Ok(Change::Same));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn file_keeps_its_mode_and_a_link_leads_where_it_led() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("real", &link).unwrap();
        assert_eq!(write(&link, b"new"), Ok(Change::Changed));
        assert_eq!(
            (fs::read(&path).unwrap(), mode(&path)),
            (b"new".to_vec(), 0o640)
        );
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("real"));
    }

    #[test]
    fn folder_is_no_file_to_write_to() {
        let folder = tempfile::tempdir().unwrap();
        assert!(check(folder.path()).is_err());
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(check(&file.join("below/x.nix")).is_err());
    }

    #[tokio::test]
    async fn file_outside_of_a_repository_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.nix");
        fs::write(&path, "").unwrap();
        assert_eq!(show_to_git(&path).await, Ok(false));
    }

    #[tokio::test]
    async fn ignored_file_is_shown_to_git_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let run = async |words: &[&str]| git(folder.path(), words).await;
        if run(&["init", "--quiet"]).await.is_err() {
            // a machine without git has no repositories either
            return;
        }
        fs::write(folder.path().join(".gitignore"), "*.nix\n").unwrap();
        let path = folder.path().join("x.nix");
        fs::write(&path, "{ }").unwrap();
        assert_eq!(show_to_git(&path).await, Ok(true));
        let listed = run(&["ls-files", "--", "x.nix"]).await.unwrap();
        assert_eq!(listed, "x.nix\n");
        let staged = run(&["diff", "--cached", "--name-only"]).await.unwrap();
        assert_eq!(staged, "");
    }
}
