//! The recipes, what each is made from, and the names that follow from it.
//!
//! Reads files and makes nothing.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use blake3::Hasher;

/// Items that are made from the repository's sources: the agent that the machines take, and the one that none does.
pub(super) const AGENTS: &str = "agents";
pub(super) const FOREIGN: &str = "agent-aarch64";

/// What the agents are compiled from, in the repository.
const AGENT_SOURCES: &[&str] = &["Cargo.toml", "Cargo.lock", "agent", "proto"];

/// One item: how it is called, and what it is made from.
#[derive(Debug)]
pub(super) struct Recipe {
    /// The script's name without `.sh`, and the first half of the item's.
    pub(super) name: &'static str,
    /// How long making it took on two processors with nothing beside it.
    pub(super) seconds: u32,
    /// Items it takes from. The script gets each one's folder in a variable: TARGET_ROOT for target-root.
    pub(super) inputs: &'static [&'static str],
    /// Further files and folders beside the script that it uses.
    files: &'static [&'static str],
}

impl Recipe {
    /// Whether it takes the agent's sources.
    pub(super) fn is_of_sources(&self) -> bool {
        [AGENTS, FOREIGN].contains(&self.name)
    }
}

/// Every recipe stands below those it takes from. The long ones come first where they can.
pub(super) const RECIPES: &[Recipe] = &[
    recipe("workshop", 40, &[], &["debian.sh"]),
    recipe("cross", 60, &[], &[]),
    recipe(AGENTS, 280, &["cross"], &["agent.sh"]),
    // after the other: both want the toolchain to themselves
    recipe(FOREIGN, 200, &["cross", AGENTS], &["agent.sh"]),
    recipe("installer-root", 50, &[], &["debian.sh"]),
    recipe("target-root", 30, &[], &["debian.sh"]),
    recipe("kernel", 30, &[], &["debian.sh"]),
    recipe("kexec", 15, &[], &["debian.sh"]),
    recipe("key", 1, &[], &[]),
    recipe("qemu", 5, &["workshop"], &["debian.sh"]),
    recipe("nix", 3, &["workshop"], &["debian.sh"]),
    recipe("boot", 3, &["kernel", "workshop"], &["debian.sh"]),
    recipe("target", 15, &["kernel", "key", "target-root"], &[]),
    recipe(
        "bare",
        5,
        &["boot", "key", "workshop"],
        &["debian.sh", "bare"],
    ),
    recipe(
        "installer",
        40,
        &["installer-root", "kernel", "kexec", "key", "workshop"],
        &["debian.sh", "installer"],
    ),
    recipe(
        "fixture",
        15,
        &["installer-root", "kernel", "key", "workshop"],
        &["debian.sh", "fixture"],
    ),
];

const fn recipe(
    name: &'static str,
    seconds: u32,
    inputs: &'static [&'static str],
    files: &'static [&'static str],
) -> Recipe {
    Recipe {
        name,
        seconds,
        inputs,
        files,
    }
}

/// Where every item is, or will be.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// The folder of the scripts.
    pub(super) recipes: PathBuf,
    items: BTreeMap<&'static str, PathBuf>,
}

impl Plan {
    /// Names all items: `items/NAME-HASH`, where the hash covers the script, the files it uses and
    /// the hashes of the items it takes from.
    pub(super) fn new(recipes: &Path, repository: &Path, items: &Path) -> Result<Self> {
        let mut hashes = BTreeMap::new();
        for recipe in RECIPES {
            let mut hasher = Hasher::new();
            feed(&mut hasher, recipe.name.as_bytes());
            let script = format!("{}.sh", recipe.name);
            for file in [script.as_str()].iter().chain(recipe.files) {
                hash_tree(&mut hasher, &recipes.join(file))?;
            }
            for input in recipe.inputs {
                let hash: &blake3::Hash = &hashes[input];
                feed(&mut hasher, hash.as_bytes());
            }
            if recipe.is_of_sources() {
                for source in AGENT_SOURCES {
                    hash_tree(&mut hasher, &repository.join(source))?;
                }
            }
            hashes.insert(recipe.name, hasher.finalize());
        }
        let place = |(name, hash): (&'static str, blake3::Hash)| {
            (name, items.join(format!("{name}-{}", &hash.to_hex()[..16])))
        };
        Ok(Self {
            recipes: recipes.to_owned(),
            items: hashes.into_iter().map(place).collect(),
        })
    }

    /// The folder of an item, whether it exists or not.
    pub(super) fn item(&self, name: &str) -> PathBuf {
        self.items[name].clone()
    }

    /// All items' folders.
    pub(super) fn items(&self) -> impl Iterator<Item = &Path> {
        self.items.values().map(PathBuf::as_path)
    }
}

/// Length first, so that no two lists of texts are the same bytes.
fn feed(hasher: &mut Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

/// Names below `path`, contents, and who may execute; in the order of names.
fn hash_tree(hasher: &mut Hasher, path: &Path) -> Result<()> {
    let reading = || format!("reading {}", path.display());
    let meta = fs::metadata(path).with_context(reading)?;
    feed(
        hasher,
        path.file_name().unwrap_or_default().as_encoded_bytes(),
    );
    if !meta.is_dir() {
        hasher.update(&[u8::from(meta.permissions().mode() & 0o111 != 0)]);
        feed(hasher, &fs::read(path).with_context(reading)?);
        return Ok(());
    }
    let mut entries = fs::read_dir(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(reading)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    hasher.update(&(entries.len() as u64).to_le_bytes());
    entries
        .iter()
        .try_for_each(|entry| hash_tree(hasher, &entry.path()))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::{Plan, RECIPES};

    fn sample(folder: &Path) {
        for recipe in RECIPES {
            fs::write(folder.join(format!("{}.sh", recipe.name)), recipe.name).unwrap();
        }
        for shared in ["agent.sh", "debian.sh", "Cargo.toml", "Cargo.lock"] {
            fs::write(folder.join(shared), shared).unwrap();
        }
        for tree in ["bare", "installer", "fixture", "agent", "proto"] {
            fs::create_dir(folder.join(tree)).unwrap();
            fs::write(folder.join(tree).join("file"), tree).unwrap();
        }
    }

    fn changed_by(change: impl FnOnce(&Path)) -> Vec<&'static str> {
        let folder = tempfile::tempdir().unwrap();
        sample(folder.path());
        let plan = || Plan::new(folder.path(), folder.path(), Path::new("/items")).unwrap();
        let before = plan();
        change(folder.path());
        let after = plan();
        let names = RECIPES.iter().map(|recipe| recipe.name);
        names
            .filter(|name| before.item(name) != after.item(name))
            .collect()
    }

    #[test]
    fn item_takes_its_name_from_all_it_is_made_from() {
        let kernel = changed_by(|folder| fs::write(folder.join("kernel.sh"), "new").unwrap());
        assert_eq!(
            kernel,
            ["kernel", "boot", "target", "bare", "installer", "fixture"]
        );
        let bare = changed_by(|folder| fs::write(folder.join("bare/file"), "new").unwrap());
        assert_eq!(bare, ["bare"]);
        let source = changed_by(|folder| fs::write(folder.join("agent/new"), "new").unwrap());
        assert_eq!(source, ["agents", "agent-aarch64"]);
    }

    #[test]
    fn nothing_changed_keeps_all_names() {
        assert!(changed_by(|_| ()).is_empty());
    }

    #[test]
    fn every_script_has_its_place() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
        let mut scripts: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter_map(|name| name.strip_suffix(".sh").map(str::to_owned))
            .filter(|name| !["agent", "debian"].contains(&name.as_str()))
            .collect();
        let mut names: Vec<_> = RECIPES.iter().map(|recipe| recipe.name).collect();
        scripts.sort();
        names.sort_unstable();
        assert_eq!(scripts, names);
    }
}
