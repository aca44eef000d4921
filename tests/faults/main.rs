//! `faults`: installs on targets of namespaces, again and again, while line, controller, agent and disks
//! fail at random, and looks whether everything that was promised holds.

#![expect(clippy::print_stderr, reason = "a main prints its error")]
#![expect(clippy::print_stdout, reason = "the table is what it is for")]

mod bench;
mod draw;
mod fixture;

use std::{path::PathBuf, process::ExitCode, time::Instant};

use anyhow::Result;
use clap::Parser;

/// Install on targets of namespaces while everything around them breaks
#[derive(Debug, Parser)]
#[command(name = "faults")]
struct Arguments {
    /// How many runs
    #[arg(long, default_value_t = 40)]
    runs: u32,
    /// Draw the faults from this number, which each run tells
    #[arg(long)]
    seed: Option<u64>,
    /// The controller under test, instead of the one that cargo builds
    #[arg(long, value_name = "FILE", requires = "agents")]
    landfall: Option<PathBuf>,
    /// The folder of its agents
    #[arg(long, value_name = "DIR", requires = "landfall")]
    agents: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("caused by: {cause}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let site = bench::Site::prepare(arguments.landfall.clone(), arguments.agents.clone())?;
    for _ in 0..arguments.runs {
        let start = Instant::now();
        let bench = bench::Bench::new(&site)?;
        let up = start.elapsed();
        let code = bench.once(&site)?;
        println!("up {up:?}, whole {:?}, code {code:?}", start.elapsed());
        bench.end()?;
        println!("gone after {:?}", start.elapsed());
    }
    Ok(ExitCode::SUCCESS)
}
