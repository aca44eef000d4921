//! Makes items: each in a folder of its own, renamed into place when it is whole.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Condvar, Mutex},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, anyhow, bail};

use super::{
    host,
    recipe::{FOREIGN, Plan, RECIPES, Recipe},
};

/// Items are made two at a time: unpacking packages keeps one processor busy, and half of that is waiting.
const LANES: u32 = 2;

/// An item that nobody asked for in this time goes; seen: a week between two looks at a branch.
const FORGOTTEN: Duration = Duration::from_secs(14 * 24 * 3600);

/// As much of a failed recipe's output as a person reads.
const LAST_LINES: usize = 15;

/// Mounts that a recipe makes are its own; files it makes are readable whatever root's umask is.
const ALONE: &str = r#"umask 022; exec sh "$0""#;

const UNPOISONED: &str = "no lane panics while it holds the lock";

#[derive(Debug)]
pub(super) struct Cache {
    root: PathBuf,
    /// Whether what no machine takes is wanted too.
    foreign: bool,
}

/// What is done and what is being done.
#[derive(Debug, Default)]
struct Progress {
    taken: BTreeSet<&'static str>,
    done: BTreeSet<&'static str>,
    running: usize,
    /// The first failure. Items that do not need the one that failed are made all the same.
    failed: Option<anyhow::Error>,
}

impl Cache {
    pub(super) fn new(root: &Path, foreign: bool) -> Self {
        Self {
            root: root.to_owned(),
            foreign,
        }
    }

    /// The recipes that are wanted and whose item does not exist.
    pub(super) fn missing(&self, plan: &Plan) -> impl Iterator<Item = &'static Recipe> {
        RECIPES
            .iter()
            .filter(|recipe| self.foreign || recipe.name != FOREIGN)
            .filter(|recipe| !plan.item(recipe.name).is_dir())
    }

    /// Makes all missing items. One process at a time; the others wait and find them made.
    pub(super) fn fill(&self, plan: &Plan, repository: &Path) -> Result<()> {
        for folder in ["items", "logs"] {
            fs::create_dir_all(self.root.join(folder)).context("making the cache")?;
        }
        let _lock = self.lock()?;
        host::install_missing()?;
        // left by a setup that was killed
        let work = self.root.join("work");
        if work.exists() {
            fs::remove_dir_all(&work).context("clearing what an earlier setup left")?;
        }
        let start = Instant::now();
        let made = self.make_all(plan, repository)?;
        self.forget(plan);
        if made > 0 {
            say(&format!(
                "ready after {:.0} s",
                start.elapsed().as_secs_f64()
            ));
        }
        Ok(())
    }

    /// Marks items as used.
    pub(super) fn touch(&self, plan: &Plan) {
        for item in plan.items() {
            if let Ok(folder) = File::open(item) {
                // a cache that is read-only is still a cache
                let _ = folder.set_modified(SystemTime::now());
            }
        }
    }

    fn lock(&self) -> Result<File> {
        let file = File::create(self.root.join("lock")).context("opening the lock of the cache")?;
        if file.try_lock().is_err() {
            say("waiting for another setup");
            file.lock().context("waiting for another setup")?;
        }
        Ok(file)
    }

    fn make_all(&self, plan: &Plan, repository: &Path) -> Result<usize> {
        let missing: Vec<&Recipe> = self.missing(plan).collect();
        if let [_, ..] = &missing[..] {
            let seconds: u32 = missing.iter().map(|recipe| recipe.seconds).sum();
            let names: Vec<_> = missing.iter().map(|recipe| recipe.name).collect();
            say(&format!(
                "making what machines take, {} at a time, about {} min: {}",
                LANES,
                (seconds / LANES).div_ceil(60),
                names.join(", ")
            ));
        }
        let mut progress = Progress::default();
        for recipe in RECIPES {
            if !missing.iter().any(|other| other.name == recipe.name) {
                progress.done.insert(recipe.name);
            }
        }
        let (progress, changed) = (Mutex::new(progress), Condvar::new());
        thread::scope(|scope| {
            for _ in 0..LANES {
                scope.spawn(|| self.lane(plan, repository, &missing, &progress, &changed));
            }
        });
        let progress = progress
            .into_inner()
            .map_err(|_| anyhow!("a lane panicked"))?;
        match progress.failed {
            Some(error) => Err(error),
            None => Ok(missing.len()),
        }
    }

    /// Takes one item after the other whose inputs are there, until none is left.
    fn lane(
        &self,
        plan: &Plan,
        repository: &Path,
        missing: &[&'static Recipe],
        progress: &Mutex<Progress>,
        changed: &Condvar,
    ) {
        let lock = || progress.lock().expect(UNPOISONED);
        loop {
            let mut state = lock();
            let recipe = loop {
                let ready = missing.iter().find(|recipe| {
                    !state.taken.contains(recipe.name)
                        && recipe.inputs.iter().all(|input| state.done.contains(input))
                });
                match ready {
                    Some(recipe) => break recipe,
                    None if state.running == 0 => return,
                    None => state = changed.wait(state).expect(UNPOISONED),
                }
            };
            state.running += 1;
            state.taken.insert(recipe.name);
            drop(state);

            say(&format!(
                "{:<15}begun, takes {} s",
                recipe.name, recipe.seconds
            ));
            let start = Instant::now();
            let made = self.make(plan, repository, recipe);
            let mut state = lock();
            state.running -= 1;
            match made {
                Ok(()) => {
                    say(&format!(
                        "{:<15}made in {:.1} s",
                        recipe.name,
                        start.elapsed().as_secs_f64()
                    ));
                    state.done.insert(recipe.name);
                }
                Err(error) => {
                    say(&format!("{:<15}failed", recipe.name));
                    state.failed = state.failed.take().or(Some(error));
                }
            }
            changed.notify_all();
        }
    }

    /// Runs one recipe.
    fn make(&self, plan: &Plan, repository: &Path, recipe: &Recipe) -> Result<()> {
        let work = self.root.join("work").join(recipe.name);
        let (out, scratch) = (work.join("out"), work.join("scratch"));
        let item = plan.item(recipe.name);
        let log = self.root.join("logs").join(format!("{}.log", recipe.name));
        for folder in [&out, &scratch] {
            fs::create_dir_all(folder).context("making a folder to work in")?;
        }
        let output = File::create(&log).with_context(|| format!("writing {}", log.display()))?;

        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "--", "sh", "-c", ALONE])
            .arg(plan.recipes.join(format!("{}.sh", recipe.name)))
            .current_dir(&scratch)
            .env("LC_ALL", "C")
            .env("RECIPES", &plan.recipes)
            .env("OUT", &out)
            .env("FINAL", &item)
            .env("WORK", &scratch)
            // of the cargo that runs us, and of no use to anybody below
            .env_remove("LD_LIBRARY_PATH")
            .env_remove("CARGO_TARGET_DIR")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        for input in recipe.inputs {
            command.env(input.to_uppercase().replace('-', "_"), plan.item(input));
        }
        if recipe.is_of_sources() {
            command
                .env("REPOSITORY", repository)
                .env("BUILD", self.root.join("build"));
        }
        let status = command.status().context("starting unshare")?;
        if !status.success() {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
            bail!(
                "cannot make `{}` ({status}); last lines of {}:\n{last}",
                recipe.name,
                log.display()
            );
        }
        fs::rename(&out, &item).with_context(|| format!("moving {} into place", recipe.name))?;
        // what is left of the work is in nobody's way: the next setup clears it too
        let _ = fs::remove_dir_all(&work);
        Ok(())
    }

    /// Removes items of other plans that nobody has used for long.
    fn forget(&self, plan: &Plan) {
        let kept: BTreeSet<&Path> = plan.items().collect();
        let entries = fs::read_dir(self.root.join("items"))
            .into_iter()
            .flatten()
            .flatten();
        for entry in entries {
            let used = entry.metadata().and_then(|meta| meta.modified());
            let age = used
                .ok()
                .and_then(|used| used.elapsed().ok())
                .unwrap_or_default();
            if age > FORGOTTEN && !kept.contains(entry.path().as_path()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// One line for the person who waits.
fn say(line: &str) {
    // nobody to tell is no reason to stop
    let _ = writeln!(io::stderr(), "rig: {line}");
}
