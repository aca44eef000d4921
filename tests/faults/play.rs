//! One run: gives the command until it succeeds, while what was drawn goes wrong.

use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Child,
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use landfall_tests::{
    link::{
        Carrier, Change,
        gauge::{Direction, Trap},
    },
    patience,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, syncfs},
};
use serde_json::Value;
use tokio::sync::oneshot;

use super::{
    bench::{Bench, Site},
    fixture,
    schedule::{Fault, Kind, When},
};

/// The longest that one command may take; every wait in it has an end before.
const COMMAND: Duration = Duration::from_secs(180);
/// As often as a person gives the same command again, and one more.
const COMMANDS: usize = 8;
/// Fills what is to be full.
const FILLER: &str = ".filler";
/// What a person has to decide about: a format that was interrupted, and disks of which nothing is known.
pub(crate) const UNDECIDED: [&str; 2] = ["LF0902", "LF0905"];
/// As often as somebody looks who else on the two machines could read a secret.
const PRY_EVERY: Duration = Duration::from_millis(700);

/// One command, from its start to its end.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// Its exit code; none if it was killed, by this program or at the deadline.
    pub(crate) code: Option<i32>,
    /// Whether it was ended because it did not end.
    pub(crate) hung: bool,
    /// The code of the failure that it ended with.
    pub(crate) failure: Option<String>,
    /// What it told, line by line.
    pub(crate) records: Vec<Value>,
    /// Faults that happened during it or before it, since the one before.
    pub(crate) faults: Vec<Kind>,
    /// Whether it had `--fresh`.
    pub(crate) fresh: bool,
    /// Whether the power was cut during it or before it, since the one before, and what lies on the disks was told of.
    pub(crate) bereft: bool,
}

/// What a run was like.
#[derive(Debug)]
pub(crate) struct Played {
    pub(crate) attempts: Vec<Attempt>,
    /// Those of the faults that came to pass.
    pub(crate) happened: Vec<Fault>,
    /// When the agent was killed: seconds since this host was booted.
    pub(crate) kills: Vec<f64>,
    /// Formats that were begun before a power cut, and of which nothing had reached the disks then.
    pub(crate) undone: usize,
    /// Bytes that were delivered to the target and from it.
    pub(crate) passed: [u64; 2],
    pub(crate) took: Duration,
    /// The folder with what the commands told.
    pub(crate) logs: PathBuf,
    /// Secrets where any process could read them.
    pub(crate) exposed: Vec<String>,
}

impl Played {
    /// How often connections were lost.
    pub(crate) fn cuts(&self) -> u64 {
        let lost = self.happened.iter().filter(|fault| fault.kind.cuts());
        lost.count() as u64
    }

    /// Whether nothing but the line was at fault.
    pub(crate) fn is_of_the_line(&self) -> bool {
        self.happened
            .iter()
            .all(|fault| fault.kind.is_of_the_line())
    }
}

/// The state of a run under way.
struct Stage<'a> {
    bench: &'a mut Bench,
    begun: Instant,
    /// What is still to come, with its number.
    waiting: Vec<Fault>,
    /// What has to be taken back, and when.
    lasting: Vec<(Instant, Fault)>,
    happened: Vec<Fault>,
    /// When a step was first told to have begun.
    steps: HashMap<String, Instant>,
    /// Whether the power was cut after the copy was told to have begun.
    bereft: bool,
    kills: Vec<f64>,
    undone: usize,
    pried: Instant,
    exposed: BTreeSet<String>,
    sprung: mpsc::Receiver<Fault>,
    springs: mpsc::Sender<Fault>,
}

/// Plays a run; what the commands say goes to `logs`.
pub(crate) fn play(
    site: &Site,
    bench: &mut Bench,
    faults: &[Fault],
    logs: &Path,
) -> Result<Played> {
    let (springs, sprung) = mpsc::channel();
    let mut stage = Stage {
        bench,
        begun: Instant::now(),
        waiting: Vec::new(),
        lasting: Vec::new(),
        happened: Vec::new(),
        steps: HashMap::new(),
        bereft: false,
        kills: Vec::new(),
        undone: 0,
        pried: Instant::now(),
        exposed: BTreeSet::new(),
        sprung,
        springs,
    };
    for fault in faults {
        match fault.when {
            When::Byte(direction, at) => stage.lay(*fault, direction, at),
            _ => stage.waiting.push(*fault),
        }
    }
    let mut attempts: Vec<Attempt> = Vec::new();
    loop {
        let fresh = attempts.last().is_some_and(Attempt::is_undecided);
        let attempt = stage.attempt(site, attempts.len(), fresh, logs)?;
        let ended = attempt.code == Some(0) || attempt.hung || attempts.len() + 1 == COMMANDS;
        attempts.push(attempt);
        if ended {
            break;
        }
        // a person looks at what is wrong before the command is given again
        if attempts.last().is_some_and(|last| last.code.is_some()) {
            stage.settle()?;
        }
    }
    stage.bench.wire.gauge.clear();
    stage.settle()?;
    let gauge = &stage.bench.wire.gauge;
    Ok(Played {
        attempts,
        passed: [Direction::Up, Direction::Down].map(|direction| gauge.passed(direction)),
        happened: stage.happened,
        kills: stage.kills,
        undone: stage.undone,
        took: stage.begun.elapsed(),
        logs: logs.to_owned(),
        exposed: stage.exposed.into_iter().collect(),
    })
}

impl Attempt {
    /// Whether a person has to decide what happens to the disks.
    pub(crate) fn is_undecided(&self) -> bool {
        let failure = self.failure.as_deref();
        failure.is_some_and(|failure| UNDECIDED.contains(&failure))
    }
}

impl Stage<'_> {
    fn lay(&self, fault: Fault, direction: Direction, at: u64) {
        let wire = &self.bench.wire;
        let (sprung, told) = oneshot::channel();
        wire.gauge.lay(Trap {
            direction,
            at,
            change: begin(&fault),
            corrupt: fault.kind == Kind::Corrupt,
            conditions: wire.conditions.clone(),
            sprung,
        });
        let springs = self.springs.clone();
        wire.runtime.spawn(async move {
            if told.await.is_ok() {
                let _ = springs.send(fault);
            }
        });
    }

    /// One command.
    fn attempt(&mut self, site: &Site, number: usize, fresh: bool, logs: &Path) -> Result<Attempt> {
        let (out, err) = (
            logs.join(format!("{number}.jsonl")),
            logs.join(format!("{number}.stderr")),
        );
        let mut command = self.bench.command(site, fresh);
        command
            .stdout(File::create(&out)?)
            .stderr(File::create(&err)?);
        let before = self.happened.len();
        if fresh {
            // what is told from here on is of another installation
            self.steps.remove("copy");
        }
        let mut child = command.spawn().context("starting landfall")?;
        let mut killed = None;
        let ended = patience::until("landfall", COMMAND, || {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status.code()));
            }
            self.hear(&out)?;
            self.pry()?;
            killed = self.now(&mut child, &out)?;
            Ok(killed.map(|_| None))
        });
        let hung = ended.is_err();
        if hung {
            child.kill()?;
            child.wait()?;
        }
        if let Some(pause) = killed {
            let until = Instant::now() + pause;
            patience::until("a person", pause + COMMAND, || {
                self.lift()?;
                Ok((Instant::now() >= until).then_some(()))
            })?;
        }
        let records = records(&out)?;
        // who is killed after the last word has ended
        let is_done = records.last().is_some_and(|last| last["exit"] == 0);
        let ended = match (killed, is_done) {
            (Some(_), true) => Ok(Some(0)),
            _ => ended,
        };
        let failure = records
            .last()
            .and_then(|last| last["failure"]["code"].as_str());
        Ok(Attempt {
            code: ended.unwrap_or(None),
            hung,
            failure: failure.map(str::to_owned),
            faults: self.happened[before..]
                .iter()
                .map(|fault| fault.kind)
                .collect(),
            fresh,
            bereft: std::mem::take(&mut self.bereft),
            records,
        })
    }

    /// Notes when steps began.
    fn hear(&mut self, out: &Path) -> Result<()> {
        for record in records(out)? {
            if record["kind"] == "step_started"
                && let Some(step) = record["step"].as_str()
            {
                let name = step.rsplit('/').next().unwrap_or(step).to_owned();
                self.steps.entry(name).or_insert_with(Instant::now);
            }
        }
        Ok(())
    }

    /// Lets happen what is due. Says how long nobody gives a command, if the controller was killed.
    fn now(&mut self, child: &mut Child, out: &Path) -> Result<Option<Duration>> {
        self.lift()?;
        for fault in std::mem::take(&mut self.waiting) {
            let due = match fault.when {
                When::Time(after) => Some(self.begun + after),
                When::Step(step, after) => self.steps.get(step).map(|began| *began + after),
                When::Byte(..) => None,
            };
            if due.is_none_or(|due| due > Instant::now()) {
                self.waiting.push(fault);
                continue;
            }
            // nobody comes back for an agent that is killed while it leaves
            let agent = matches!(fault.kind, Kind::Agent | Kind::Both);
            let told = records(out)?;
            let late = (agent && is_over(&told)) || has_ended(&told);
            let struck = match late {
                true => Struck::TooLate,
                false => self.strike(&fault, child)?,
            };
            match struck {
                Struck::Yes => self.happened.push(fault),
                Struck::TooLate => {}
                Struck::TooEarly => self.waiting.push(fault),
                Struck::Lasts => {
                    self.happened.push(fault);
                    self.lasting.push((Instant::now() + fault.lasts, fault));
                }
                Struck::Killed => {
                    self.happened.push(fault);
                    return Ok(Some(fault.lasts));
                }
            }
        }
        Ok(None)
    }

    fn strike(&mut self, fault: &Fault, child: &mut Child) -> Result<Struck> {
        let inside = matches!(fault.kind, Kind::RunFull | Kind::Power);
        if inside && !self.bench.target.has_power() {
            return Ok(Struck::TooEarly);
        }
        match fault.kind {
            Kind::Controller => {
                child.kill()?;
                child.wait()?;
                Ok(Struck::Killed)
            }
            Kind::Agent => Ok(match self.kill_agent()? {
                true => {
                    self.kills.push(uptime()?);
                    Struck::Yes
                }
                // it may come yet
                false => Struck::TooEarly,
            }),
            Kind::Both => {
                let _ = self.kill_agent()?;
                self.kills.push(uptime()?);
                child.kill()?;
                child.wait()?;
                Ok(Struck::Killed)
            }
            Kind::DiskFull => match self.bench.is_mounted()? {
                true => self.fill("/mnt").map(|()| Struck::Lasts),
                false => Ok(Struck::TooLate),
            },
            Kind::RunFull => self.fill("/run").map(|()| Struck::Lasts),
            Kind::Power => {
                self.make_room_for_good()?;
                self.bereft = self.steps.contains_key("copy");
                let begun = self.bench.witness("begin").len();
                self.bench.power_off()?;
                if self.bench.target.is_blank()? {
                    self.undone = begun;
                }
                Ok(Struck::Lasts)
            }
            _ => {
                self.bench.wire.change(begin(fault));
                Ok(Struck::Lasts)
            }
        }
    }

    fn kill_agent(&self) -> Result<bool> {
        let agent = self.bench.agent()?;
        Ok(agent.is_some_and(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok()))
    }

    fn filler(&self, place: &str) -> PathBuf {
        self.bench.target.path(&format!("{place}/{FILLER}"))
    }

    fn fill(&self, place: &str) -> Result<()> {
        let mut file = File::create(self.filler(place)).context("filling a disk")?;
        let block = vec![0x55; 1 << 20];
        for size in [1 << 20, 4096, 1] {
            // until nothing fits any more
            while file.write(&block[..size]).is_ok_and(|count| count > 0) {}
        }
        let _ = file.sync_all();
        Ok(())
    }

    /// Takes back what has lasted long enough, and begins to count for what a byte set off.
    fn lift(&mut self) -> Result<()> {
        while let Ok(fault) = self.sprung.try_recv() {
            self.happened.push(fault);
            self.lasting.push((Instant::now() + fault.lasts, fault));
        }
        let now = Instant::now();
        let (over, still): (Vec<_>, Vec<_>) =
            self.lasting.drain(..).partition(|(until, _)| *until <= now);
        self.lasting = still;
        for (_, fault) in over {
            self.end(&fault)?;
        }
        Ok(())
    }

    fn end(&mut self, fault: &Fault) -> Result<()> {
        let mut change = Change::default();
        match fault.kind {
            Kind::Cut | Kind::Stall => change.carrier = Some(Carrier::Up),
            Kind::Delay => change.delay_ms = Some(0),
            Kind::Rate => change.rate_mbit = Some(0.0),
            Kind::Power => return self.bench.power_on(),
            Kind::DiskFull => return self.empty("/mnt"),
            Kind::RunFull => return self.empty("/run"),
            _ => return Ok(()),
        }
        self.bench.wire.change(change);
        Ok(())
    }

    fn empty(&self, place: &str) -> Result<()> {
        match fs::remove_file(self.filler(place)) {
            // who formats anew empties it too
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context("emptying a disk")
            }
            _ => Ok(()),
        }
    }

    /// Takes back what fills the disk: nobody finds it there once that is not mounted any more.
    fn make_room_for_good(&mut self) -> Result<()> {
        let full = |(_, fault): &(Instant, Fault)| fault.kind == Kind::DiskFull;
        if self.lasting.iter().any(full) && self.bench.is_mounted()? {
            self.empty("/mnt")?;
            syncfs(File::open(self.bench.target.path("/mnt"))?).context("writing a disk")?;
        }
        self.lasting.retain(|lasting| !full(lasting));
        Ok(())
    }

    /// Looks for secrets in what every process may read of others.
    fn pry(&mut self) -> Result<()> {
        if self.pried.elapsed() < PRY_EVERY {
            return Ok(());
        }
        self.pried = Instant::now();
        for (pid, words) in self.bench.everybody()? {
            let process = Path::new("/proc").join(pid.to_string());
            for file in ["cmdline", "environ"] {
                // who has ended has nothing to hide
                let text = fs::read(process.join(file)).unwrap_or_default();
                if fixture::tells_secrets(&text) {
                    self.exposed.insert(format!("{file} of {words}"));
                }
            }
        }
        Ok(())
    }

    /// Waits until nothing is wrong any more.
    fn settle(&mut self) -> Result<()> {
        patience::until("all to be well", COMMAND, || {
            self.lift()?;
            Ok(self.lasting.is_empty().then_some(()))
        })
    }
}

enum Struck {
    Yes,
    TooEarly,
    TooLate,
    Lasts,
    Killed,
}

/// How a fault of the line begins.
fn begin(fault: &Fault) -> Change {
    let mut change = Change::default();
    match fault.kind {
        Kind::Cut => change.carrier = Some(Carrier::Cut),
        Kind::Stall => change.carrier = Some(Carrier::Stalled),
        Kind::HalfOpen => change.half_open = true,
        Kind::Truncate => change.truncate = true,
        Kind::Delay => change.delay_ms = Some(fault.amount),
        Kind::Rate => change.rate_mbit = Some(fault.amount as f64),
        _ => {}
    }
    change
}

/// Whether a command has told that all is done.
fn is_over(records: &[Value]) -> bool {
    records
        .iter()
        .any(|record| record["kind"] == "run_finished")
}

/// Whether a command has said its last word: it only tidies up.
fn has_ended(records: &[Value]) -> bool {
    records.last().is_some_and(|last| !last["exit"].is_null())
}

/// Seconds since this host was booted, which are those of its namespaces too.
fn uptime() -> Result<f64> {
    let text = fs::read_to_string("/proc/uptime").context("reading the clock")?;
    let seconds = text.split(' ').next().unwrap_or_default();
    seconds.parse().context("reading the clock")
}

fn records(out: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(out).context("reading what landfall told")?;
    // the last line may be on its way
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let lines = whole.lines().map(serde_json::from_str::<Value>);
    lines
        .collect::<Result<_, _>>()
        .context("reading what landfall told")
}
