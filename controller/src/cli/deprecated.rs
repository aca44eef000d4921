//! Spellings that nixos-anywhere has given up and still takes: each is taken, with its meaning and a warning.

use clap::Args;
use landfall_proto::failure::Failure;

use super::values::Place;
use crate::request::{Phase, Phases};

#[derive(Debug, Args)]
#[command(next_help_heading = "Deprecated")]
pub(super) struct DeprecatedArgs {
    /// The same as `--build-on remote`
    #[arg(long)]
    build_on_remote: bool,
    /// Leave out the phases install and reboot
    #[arg(long)]
    stop_after_disko: bool,
    /// Leave out the phase reboot
    #[arg(long)]
    no_reboot: bool,
    /// No effect: whether there is a terminal is seen without it
    #[arg(short, long)]
    tty: bool,
}

impl DeprecatedArgs {
    /// Returns a sentence for each that was given.
    pub(super) fn remarks(&self) -> Vec<String> {
        let told = [
            (
                self.build_on_remote,
                "`--build-on-remote` is deprecated; continuing because it means `--build-on remote`",
            ),
            (
                self.stop_after_disko,
                "`--stop-after-disko` is deprecated; continuing because it means `--phases kexec,disko`",
            ),
            (
                self.no_reboot,
                "`--no-reboot` is deprecated; continuing because it means `--phases kexec,disko,install`",
            ),
            (
                self.tty,
                "`--tty` is deprecated and has no effect; continuing because a terminal is found without it",
            ),
        ];
        let told = told.into_iter().filter(|(given, _)| *given);
        told.map(|(_, sentence)| sentence.to_owned()).collect()
    }

    /// Returns where to build, in the new spelling.
    pub(super) fn place(&self, place: Option<Place>) -> Result<Place, Failure> {
        match place {
            Some(Place::Local) if self.build_on_remote => {
                Err(Failure::new("cannot tell where to build")
                    .because("`--build-on local` and `--build-on-remote` exclude each other")
                    .hint("leave `--build-on-remote` out, or write `--build-on remote`")
                    .code("LF0410"))
            }
            _ if self.build_on_remote => Ok(Place::Remote),
            place => Ok(place.unwrap_or_default()),
        }
    }

    /// Takes away the phases that are to be left out. Never adds one: what was not asked for may erase a disk.
    pub(super) fn phases(&self, phases: Phases) -> Result<Phases, Failure> {
        let (out, option): (&[Phase], _) = match (self.stop_after_disko, self.no_reboot) {
            (true, _) => (&[Phase::Install, Phase::Reboot], "--stop-after-disko"),
            (false, true) => (&[Phase::Reboot], "--no-reboot"),
            (false, false) => return Ok(phases),
        };
        phases.without(out).ok_or_else(|| {
            Failure::new("cannot tell what to do")
                .because(format!("`{option}` leaves out every phase of `--phases`"))
                .hint(format!(
                    "leave `{option}` out, and name the phases: `--phases LIST`"
                ))
                .code("LF0410")
        })
    }
}
