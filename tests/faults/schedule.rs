//! What goes wrong in one run, drawn from a seed: which faults, when, for how long.

use std::{fmt, time::Duration};

use clap::ValueEnum;
use landfall_tests::link::gauge::Direction;

use super::draw::Draw;

/// A way in which things go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    /// Connections are reset, new ones refused, for a while.
    Cut,
    /// Nothing moves for a while.
    Stall,
    /// Open connections lose their far end without a word.
    HalfOpen,
    /// Open connections end as if all had been said.
    Truncate,
    /// One byte arrives as another one.
    Corrupt,
    /// Every byte is under way longer, for a while.
    Delay,
    /// The line is slow, for a while.
    Rate,
    /// The controller is killed; the same command is given again.
    Controller,
    /// The agent is killed.
    Agent,
    /// Both are killed at once.
    Both,
    /// The disk is full, for a while.
    DiskFull,
    /// The installer's memory is full, for a while.
    RunFull,
    /// The target loses its power: what runs, what is in memory, and what was not written to the disks yet.
    Power,
}

/// All of them, in the order of the table.
pub(crate) const KINDS: [Kind; 13] = [
    Kind::Cut,
    Kind::Stall,
    Kind::HalfOpen,
    Kind::Truncate,
    Kind::Corrupt,
    Kind::Delay,
    Kind::Rate,
    Kind::Controller,
    Kind::Agent,
    Kind::Both,
    Kind::DiskFull,
    Kind::RunFull,
    Kind::Power,
];

/// When it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// When so many bytes have been delivered.
    Byte(Direction, u64),
    /// So long after the first command was given.
    Time(Duration),
    /// So long after a step was first told to have begun.
    Step(&'static str, Duration),
}

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) when: When,
    /// How long it lasts, where it does; else how long nobody does anything about it.
    pub(crate) lasts: Duration,
    /// Milliseconds of a delay, megabits of a rate.
    pub(crate) amount: u64,
}

/// What an uninterrupted run sends and how long it takes, roughly: faults are drawn from all of it.
const UP: u64 = 28_000_000;
const DOWN: u64 = 400_000;
const TAKES: u64 = 8_000;

/// Steps during which something may be killed or filled, as events name them.
const STEPS: [&str; 10] = [
    "connect",
    "preflight",
    "prepare",
    "tools",
    "format",
    "mount",
    "copy",
    "install",
    "files",
    "disko",
];
/// Steps that write to the disk.
const WRITES: [&str; 3] = ["copy", "files", "install"];

/// Draws what goes wrong in run `number`. The first fault's kind goes round, so that each is drawn, unless it is chosen.
pub(crate) fn draw(seed: u64, number: u32, chosen: Option<Kind>) -> Vec<Fault> {
    let mut draw = Draw::of(&[seed, u64::from(number)]);
    let first = chosen.unwrap_or(KINDS[number as usize % KINDS.len()]);
    let more = *draw.one(&[0, 0, 1, 1, 2, 3]);
    let mut faults = vec![fault(&mut draw, first)];
    for _ in 0..more {
        let kind = *draw.one(&KINDS);
        faults.push(fault(&mut draw, kind));
    }
    faults
}

fn fault(draw: &mut Draw, kind: Kind) -> Fault {
    let millis = |draw: &mut Draw, range| Duration::from_millis(draw.within(range));
    let when = match kind {
        Kind::Controller | Kind::Agent | Kind::Both | Kind::RunFull | Kind::Power => {
            match draw.below(3) {
                0 => When::Time(millis(draw, 0..TAKES)),
                _ => When::Step(draw.one::<&'static str>(&STEPS), millis(draw, 0..600)),
            }
        }
        Kind::DiskFull => When::Step(draw.one::<&'static str>(&WRITES), millis(draw, 0..600)),
        _ => byte(draw),
    };
    let lasts = match kind {
        Kind::HalfOpen | Kind::Truncate | Kind::Corrupt => Duration::ZERO,
        Kind::Controller | Kind::Agent | Kind::Both | Kind::Power => millis(draw, 0..1_500),
        _ => millis(draw, 0..5_000),
    };
    let amount = match kind {
        Kind::Delay => draw.within(5..80),
        Kind::Rate => draw.within(4..60),
        _ => 0,
    };
    Fault {
        kind,
        when,
        lasts,
        amount,
    }
}

/// A byte of the run; early ones are drawn more often than their share: that is where a session begins.
fn byte(draw: &mut Draw) -> When {
    match draw.below(6) {
        0 => When::Byte(Direction::Down, draw.below(DOWN)),
        1 => When::Byte(Direction::Up, draw.below(UP / 500)),
        _ => When::Byte(Direction::Up, draw.below(UP)),
    }
}

impl Kind {
    /// Whether only the line is concerned, so that no command may fail of it.
    pub(crate) fn is_of_the_line(self) -> bool {
        self <= Self::Rate
    }

    /// Whether connections are lost by it.
    pub(crate) fn cuts(self) -> bool {
        self <= Self::Corrupt
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cut => "cut",
            Self::Stall => "stall",
            Self::HalfOpen => "half-open",
            Self::Truncate => "truncate",
            Self::Corrupt => "corrupt",
            Self::Delay => "delay",
            Self::Rate => "rate",
            Self::Controller => "controller killed",
            Self::Agent => "agent killed",
            Self::Both => "both killed",
            Self::DiskFull => "disk full",
            Self::RunFull => "/run full",
            Self::Power => "power cut",
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        match self.kind {
            Kind::Delay => write!(f, " {} ms", self.amount)?,
            Kind::Rate => write!(f, " {} Mbit/s", self.amount)?,
            _ => {}
        }
        match self.when {
            When::Byte(direction, at) => write!(f, " at byte {at} {direction:?}")?,
            When::Time(time) => write!(f, " at {} ms", time.as_millis())?,
            When::Step(step, after) => write!(f, " {} ms into {step}", after.as_millis())?,
        }
        match self.lasts.as_millis() {
            0 => Ok(()),
            lasts => write!(f, " for {lasts} ms"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{KINDS, draw};

    #[test]
    fn run_can_be_drawn_again() {
        assert_eq!(draw(7, 12, None), draw(7, 12, None));
        assert_ne!(draw(7, 12, None), draw(8, 12, None));
    }

    #[test]
    fn every_kind_is_drawn() {
        let count = KINDS.len() as u32;
        for kind in KINDS {
            assert!((0..count).any(|number| draw(1, number, None)[0].kind == kind));
        }
    }
}
