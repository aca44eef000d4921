//! Where the agent lies on the machine, and the scripts that put it there and take it away.
//!
//! Needs of the machine: `sh mkdir chmod rm rmdir mv cat wc`. Pure here: scripts out, answers in.

use landfall_proto::{failure::Failure, order::BlobHash};

use super::shell::{Remote, Root};

/// Where the agent lies, or will lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// A folder of root's that nobody else can enter and that allows programs.
    pub folder: String,
    /// The hash the agent there says it has; none when it is not there or does not run.
    pub there: Option<String>,
    /// How root is reached.
    pub root: Root,
}

/// Where to look, best first: memory before disk, and the root user's own folder last.
const FOLDERS: &str = "/run/landfall-bin /dev/shm/landfall-bin /tmp/landfall-bin /var/tmp/landfall-bin /root/.cache/landfall-bin";

/// Finds a folder that may execute files, and asks an agent that lies there who it is.
///
/// A folder of somebody else's, or a link, is passed over: in `/tmp` anybody may have made it first. One that will not
/// do does not stay. One where the agent lies already is taken before all others, and though nothing more fits in: else
/// two of them lie there.
pub fn search(root: Root, hash: &BlobHash) -> Remote {
    let script = SEARCH
        .replace("@folders@", FOLDERS)
        .replace("@name@", &name(hash));
    Remote::as_root(root, &script)
}

const SEARCH: &str = r##"
umask 077
echo landfall-place-1
own() { [ ! -L "$1" ] && [ -O "$1" ] && chmod 700 "$1" 2>/dev/null; }
there=
for d in @folders@; do
  if [ -x "$d/@name@" ] && own "$d" && a=$("$d/@name@" version 2>/dev/null); then
    there=$d
    echo "folder $d"
    echo "agent $a"
    break
  fi
done
for d in @folders@; do
  [ "$d" != "$there" ] || continue
  [ -d "$d" ] || { [ -z "$there" ] && mkdir -p "$d" 2>/dev/null; } || continue
  own "$d" || continue
  if [ -z "$there" ]; then
    t=$d/.try.$$
    if echo "#!/bin/sh" 2>/dev/null >"$t" && chmod 700 "$t" && "$t" 2>/dev/null; then there=$d; fi
    rm -f "$t"
    # the last word to whoever asked: it ends this script where nobody hears it
    [ "$d" != "$there" ] || echo "folder $d"
  fi
  # what an earlier command left half sent elsewhere is of no use any more
  [ "$d" = "$there" ] || { rm -f "$d/@name@".part*; rmdir "$d" 2>/dev/null; }
done
echo landfall-place-end
"##;

/// Looks what there is of an agent, and changes nothing: its folder, its socket, and programs that may be its own.
pub fn traces(root: Root, agent_folder: &str) -> Remote {
    let script = TRACES
        .replace("@folders@", FOLDERS)
        .replace("@agent@", agent_folder);
    Remote::as_root(root, &script)
}

const TRACES: &str = r#"
echo landfall-place-1
[ -d "@agent@" ] && echo agent-folder
[ -S "@agent@/agent.sock" ] && echo agent-socket
for d in @folders@; do
  [ ! -L "$d" ] && [ -O "$d" ] || continue
  for p in "$d"/landfall-agent-*; do
    if [ -x "$p" ]; then echo "program $p"; fi
  done
done
echo landfall-place-end
"#;

/// What there is of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Traces {
    /// Whether its folder is there.
    pub folder: bool,
    /// Whether a socket is: it serves, or was killed.
    pub socket: bool,
    /// Programs that may be its own: folder and hash.
    pub programs: Vec<(String, BlobHash)>,
}

/// Reads the answer to `traces`; none where the shell did not answer.
pub fn traced(stdout: &[u8]) -> Option<Traces> {
    let text = String::from_utf8_lossy(stdout);
    let lines = between_marks(&text)?;
    let mut traces = Traces::default();
    for line in lines {
        match line {
            "agent-folder" => traces.folder = true,
            "agent-socket" => traces.socket = true,
            _ => traces.programs.extend(program(line)),
        }
    }
    Some(traces)
}

fn program(line: &str) -> Option<(String, BlobHash)> {
    let (folder, name) = line.strip_prefix("program ")?.rsplit_once('/')?;
    let hash = name.strip_prefix("landfall-agent-")?.to_owned();
    let known = FOLDERS.split(' ').any(|known| known == folder);
    let hash = BlobHash::try_from(hash).ok().filter(|_| known)?;
    Some((folder.to_owned(), hash))
}

/// Takes the rest of the agent from stdin, and checks it. One that is there already, whole, is left as it is.
///
/// Says first from which offset on it wants bytes. What an earlier connection left is copied to a new file: should
/// that connection still deliver bytes, they go to the old one. It may also have been lost with its last word: then all
/// is there.
pub fn receive(root: Root, folder: &str, hash: &BlobHash, size: u64) -> Remote {
    Remote::as_root(root, &receiver(folder, &name(hash), size))
}

fn receiver(folder: &str, name: &str, size: u64) -> String {
    let script = RECEIVE
        .replace("@name@", name)
        .replace("@size@", &size.to_string());
    script.replace("@folder@", folder)
}

const RECEIVE: &str = r#"
umask 077
cd "@folder@" || exit 40
whole() { [ -x @name@ ] && echo "landfall-agent $(./@name@ version)"; }
without() { whole || exit $1; exit 0; }
whole && exit 0
p=@name@.part
if [ -f $p ]; then
  cat $p >$p.$$ && mv $p.$$ $p || without 41
else
  : >$p || without 41
fi
s=$(($(wc -c <$p)))
if [ $s -gt @size@ ]; then : >$p; s=0; fi
echo "landfall-from $s"
cat >>$p || without 42
s=$(($(wc -c <$p)))
if [ $s != @size@ ]; then without 43; fi
chmod 700 $p && mv $p @name@ || without 44
rm -f $p.*
whole
"#;

/// Removes what was sent, whole or in part, and the folder unless something else is in it.
pub fn remove(root: Root, folder: &str, hash: &BlobHash) -> Remote {
    let script = REMOVE
        .replace("@folder@", folder)
        .replace("@name@", &name(hash));
    Remote::as_root(root, &script)
}

const REMOVE: &str = r#"
cd "@folder@" || exit 0
rm -f @name@ @name@.part @name@.part.*
cd / && rmdir "@folder@" 2>/dev/null
exit 0
"#;

/// Removes an agent that is not what it should be.
pub fn discard(root: Root, folder: &str, hash: &BlobHash) -> Remote {
    let path = format!("{folder}/{}", name(hash));
    Remote::as_root(root, &format!("exec rm -f {path} {path}.part"))
}

/// Returns the name of the agent's file.
pub fn name(hash: &BlobHash) -> String {
    format!("landfall-agent-{hash}")
}

/// Reads the answer to `search`.
pub fn found(stdout: &[u8], root: Root, host: &str) -> Result<Place, Failure> {
    let text = String::from_utf8_lossy(stdout);
    let cannot = |why: &str| Failure::new(format!("cannot place the agent on {host}")).because(why);
    let Some(lines) = between_marks(&text) else {
        return Err(cannot("the machine's shell did not answer").code("LF0204"));
    };
    let answer = |word: &str| lines.iter().find_map(|line| line.strip_prefix(word));
    let folder = answer("folder ").filter(|folder| is_plain_path(folder)).ok_or_else(|| {
        cannot("no folder of root's allows programs")
            .because(format!("tried {FOLDERS}"))
            .hint("mount a file system without noexec: `mount -t tmpfs -o mode=700 tmpfs /run/landfall-bin`")
            .code("LF0205")
    })?;
    let there = answer("agent ").and_then(build_of);
    Ok(Place {
        folder: folder.to_owned(),
        there,
        root,
    })
}

/// Returns the lines of an answer; login scripts may say something before and after.
fn between_marks(text: &str) -> Option<Vec<&str>> {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    let end = lines
        .iter()
        .rposition(|line| *line == "landfall-place-end")?;
    let begin = lines[..end]
        .iter()
        .rposition(|line| *line == "landfall-place-1")?;
    Some(lines[begin + 1..end].to_vec())
}

/// Reads the offset that `receive` starts from.
pub fn offset(line: &str) -> Option<u64> {
    line.trim_end().strip_prefix("landfall-from ")?.parse().ok()
}

/// Reads the hash that the agent says it has, from what `receive` prints last; empty when it does not run.
pub fn received(line: &str) -> Option<String> {
    let json = line.trim_end().strip_prefix("landfall-agent")?;
    Some(build_of(json.trim_start()).unwrap_or_default())
}

/// Says what the exit status of `receive` means.
pub fn refused(status: i32) -> &'static str {
    match status {
        40 => "the folder is gone",
        41 => "keeping what is there already; is there room?",
        42 => "writing the agent; is there room?",
        43 => "fewer bytes arrived than were sent",
        44 => "making it a program",
        _ => "the machine's shell failed",
    }
}

fn build_of(json: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(json).ok()?;
    Some(value.get("build")?.as_str()?.to_owned())
}

fn is_plain_path(path: &str) -> bool {
    path.starts_with('/')
        && path
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c))
}

impl Place {
    /// Returns the command that runs the agent as root with these arguments, none of which is quoted.
    pub fn command(&self, hash: &BlobHash, arguments: &str) -> Remote {
        let script = format!("exec {}/{} {arguments}", self.folder, name(hash));
        Remote::as_root(self.root, &script)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write, path::Path, process::Stdio};

    use super::*;

    /// A program that says who it is, and what its own script says about receiving it.
    const AGENT: &str = "#!/bin/sh\necho '{\"build\":\"ab\"}'\n";

    fn received_in(folder: &Path, bytes: &[u8]) -> (String, Option<i32>) {
        let script = receiver(folder.to_str().unwrap(), "agent", AGENT.len() as u64);
        let mut sh = std::process::Command::new("sh");
        sh.args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut sh = sh.spawn().unwrap();
        // who has all there is reads nothing
        let _ = sh.stdin.take().unwrap().write_all(bytes);
        let output = sh.wait_with_output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        (said, output.status.code())
    }

    #[test]
    fn agent_is_received_in_pieces_and_no_piece_twice() {
        let folder = tempfile::tempdir().unwrap();
        let receive = |bytes: &str| received_in(folder.path(), bytes.as_bytes());
        let (first, rest) = AGENT.split_at(10);
        assert_eq!(receive(first), ("landfall-from 0\n".to_owned(), Some(43)));
        // somebody was killed in the middle of it
        fs::write(folder.path().join("agent.part.7"), "").unwrap();
        let whole = "landfall-agent {\"build\":\"ab\"}\n";
        let (said, status) = receive(rest);
        assert_eq!(
            (said, status),
            (format!("landfall-from 10\n{whole}"), Some(0))
        );
        let names = fs::read_dir(folder.path()).unwrap();
        assert_eq!(names.count(), 1);
        // the connection was lost with the last word
        assert_eq!(receive(""), (whole.to_owned(), Some(0)));
    }

    #[test]
    fn scripts_pass_through_any_login_shell() {
        for script in [SEARCH, TRACES, RECEIVE, REMOVE] {
            assert!(!script.contains('\'') && !script.contains('\\'));
        }
    }

    #[test]
    fn place_is_read_from_between_the_marks() {
        let text = b"noise\nlandfall-place-1\nfolder /dev/shm/landfall-bin\nagent {\"build\":\"ab\"}\nlandfall-place-end\n";
        let place = found(text, Root::Already, "h").unwrap();
        assert_eq!(place.folder, "/dev/shm/landfall-bin");
        assert_eq!(place.there.as_deref(), Some("ab"));
    }

    #[test]
    fn machine_without_a_place_is_told() {
        let failure =
            found(b"landfall-place-1\nlandfall-place-end\n", Root::Sudo, "h").unwrap_err();
        assert_eq!(failure.causes[0], "no folder of root's allows programs");
        assert!(
            found(
                b"landfall-place-1\nfolder /a b\nlandfall-place-end\n",
                Root::Sudo,
                "h"
            )
            .is_err()
        );
    }

    #[test]
    fn traces_are_read_word_for_word() {
        let hash = "ab".repeat(32);
        let text = format!(
            "noise\nlandfall-place-1\nagent-folder\nagent-socket\n\
             program /tmp/landfall-bin/landfall-agent-{hash}\n\
             program /tmp/landfall-bin/landfall-agent-{hash}.part\n\
             program /tmp/else/landfall-agent-{hash}\nlandfall-place-end\nagent-socket\n"
        );
        let traces = traced(text.as_bytes()).unwrap();
        assert!(traces.folder && traces.socket);
        let hash = BlobHash::try_from(hash).unwrap();
        assert_eq!(traces.programs, [("/tmp/landfall-bin".to_owned(), hash)]);
        let none = traced(b"landfall-place-1\nlandfall-place-end\n");
        assert_eq!(none, Some(Traces::default()));
        assert_eq!(traced(b"landfall-place-1\n"), None);
    }

    #[test]
    fn agent_that_does_not_run_is_not_there() {
        let text = b"landfall-place-1\nfolder /x\nagent \nlandfall-place-end\n";
        assert_eq!(found(text, Root::Already, "h").unwrap().there, None);
    }
}
