//! `rig`: arguments in, exit code out. What the commands do is in the library.

#![expect(clippy::print_stderr, reason = "a main prints its error")]

use std::process::ExitCode;

use clap::Parser;
use landfall_tests::command::Cli;

fn main() -> ExitCode {
    match Cli::parse().run() {
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
