//! The agents that came with this program: one file a processor.

use std::{
    fs,
    path::{Path, PathBuf},
};

use landfall_proto::{
    failure::Failure,
    order::{Blob, BlobHash},
};

use super::file::cannot;

/// An agent ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentFile {
    /// Where it lies.
    pub path: PathBuf,
    /// Its hash and size.
    pub blob: Blob,
}

/// Finds the agent for a processor (`x86_64`, `aarch64`).
///
/// Looks in `$LANDFALL_AGENT_DIR` only, where that is set; else in `agents/` beside this program, else in
/// `../libexec/landfall`.
pub fn find(arch: &str) -> Result<AgentFile, Failure> {
    let named = std::env::var_os("LANDFALL_AGENT_DIR").map(PathBuf::from);
    let program = std::env::current_exe().ok();
    let folders = folders(named, program.as_deref().and_then(Path::parent));
    let name = format!("landfall-agent-{arch}-linux-musl");
    let tried: Vec<PathBuf> = folders.iter().map(|folder| folder.join(&name)).collect();
    let Some(path) = tried.iter().find(|path| path.is_file()) else {
        let mut failure = Failure::new(format!("cannot find the agent for {arch}")).code("LF0206");
        for path in &tried {
            failure = failure.because(format!("there is no {}", path.display()));
        }
        return Err(failure.hint(
            "name the folder that has it: `LANDFALL_AGENT_DIR=DIR landfall …`; `nix build` puts the agents beside landfall",
        ));
    };
    let bytes = fs::read(path).map_err(|error| cannot("read", path).caused_by(&error))?;
    Ok(AgentFile {
        path: path.clone(),
        blob: blob_of(&bytes),
    })
}

fn folders(named: Option<PathBuf>, beside: Option<&Path>) -> Vec<PathBuf> {
    match (named, beside) {
        (Some(named), _) => vec![named],
        (None, Some(beside)) => vec![beside.join("agents"), beside.join("../libexec/landfall")],
        (None, None) => vec![],
    }
}

/// Returns the hash and size of bytes in memory.
pub fn blob_of(bytes: &[u8]) -> Blob {
    Blob {
        hash: hash_of(&blake3::hash(bytes)),
        size: bytes.len() as u64,
    }
}

/// Writes a hash the way orders do.
pub fn hash_of(hash: &blake3::Hash) -> BlobHash {
    BlobHash::try_from(hash.to_hex().to_string()).expect("a BLAKE3 hash has 64 hex digits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_folder_is_the_only_one() {
        let beside = Path::new("/opt/bin");
        assert_eq!(
            folders(Some("/x".into()), Some(beside)),
            [PathBuf::from("/x")]
        );
        assert_eq!(folders(None, Some(beside)).len(), 2);
    }
}
