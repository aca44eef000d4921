//! What is on a disk: every file with its kind, owner, mode and content.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// One file, in one line.
pub(crate) type Tree = BTreeMap<String, String>;

/// Reads all that is below `root`; names below `without` are left out.
pub(crate) fn read(root: &Path, without: &[&str]) -> Result<Tree> {
    let mut tree = Tree::new();
    walk(root, "", without, &mut tree)?;
    Ok(tree)
}

/// All files below `root`, which need not be there.
pub(crate) fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if root.is_dir() {
        for name in read(root, &[])?.into_keys() {
            let path = root.join(name.trim_start_matches('/'));
            // whoever leaves just now takes it away
            let is_file = path.symlink_metadata().is_ok_and(|meta| meta.is_file());
            found.extend(is_file.then_some(path));
        }
    }
    Ok(found)
}

fn walk(root: &Path, name: &str, without: &[&str], tree: &mut Tree) -> Result<()> {
    if without.contains(&name) {
        return Ok(());
    }
    let path = match name.strip_prefix('/') {
        Some(below) => root.join(below),
        None => root.to_owned(),
    };
    let context = || format!("looking at {}", path.display());
    let meta = fs::symlink_metadata(&path).with_context(context)?;
    let kind = meta.file_type();
    let content = if kind.is_symlink() {
        format!(
            "-> {}",
            fs::read_link(&path).with_context(context)?.display()
        )
    } else if kind.is_file() {
        let bytes = fs::read(&path).with_context(context)?;
        format!("{} {}", bytes.len(), &blake3::hash(&bytes).to_hex()[..16])
    } else {
        String::new()
    };
    // a link's own mode says nothing
    let mode = if kind.is_symlink() { 0 } else { meta.mode() };
    let line = format!("{mode:o} {}:{} {content}", meta.uid(), meta.gid());
    tree.insert(name.to_owned(), line);
    if kind.is_dir() {
        for entry in fs::read_dir(&path).with_context(context)? {
            let below = entry?.file_name();
            walk(
                root,
                &format!("{name}/{}", below.to_string_lossy()),
                without,
                tree,
            )?;
        }
    }
    Ok(())
}

/// Says how two trees differ, at most `most` lines.
pub(crate) fn differences(wanted: &Tree, found: &Tree, most: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, line) in wanted {
        match found.get(name) {
            None => lines.push(format!("{name} is missing ({line})")),
            Some(other) if other != line => {
                lines.push(format!("{name} is {other}, and should be {line}"));
            }
            Some(_) => {}
        }
    }
    let more = found.iter().filter(|(name, _)| !wanted.contains_key(*name));
    lines.extend(more.map(|(name, line)| format!("{name} is too much ({line})")));
    let count = lines.len();
    if count > most {
        lines.truncate(most);
        lines.push(format!("and {} more", count - most));
    }
    lines
}
