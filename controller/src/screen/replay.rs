//! Shows a recorded run: what was written by `--json` goes through the same screens again.

use std::io::BufRead;

use landfall_proto::failure::Failure;

use super::{
    Screen, Style,
    json::{Aside, Record, read_header, read_records},
};
use crate::exit::{Ended, Exit};

/// Shows a recording.
///
/// The end of the recorded run is shown, but is not that of this command.
pub fn replay(mut recording: impl BufRead, style: Style) -> Result<(), Failure> {
    let header = read_header(&mut recording)?;
    let screen = Screen::new(style, &header.host);
    for record in read_records(recording)? {
        match record {
            Record::Event(event) => screen.event(&event),
            Record::Aside(aside) => show(&screen, aside),
        }
    }
    screen.close();
    Ok(())
}

fn show(screen: &Screen, aside: Aside) {
    screen.advance(aside.at_ms());
    match aside {
        Aside::Note { text, .. } => screen.note(&text),
        Aside::Warning { text, .. } => screen.warning(&text),
        Aside::Disks { disks, erased, .. } => screen.disks(&disks, &erased),
        Aside::Link { link, .. } => screen.link(&link),
        Aside::Ended {
            exit,
            state,
            failure,
            bundle,
            ..
        } => {
            if let Some(exit) = Exit::from_code(exit) {
                screen.end(
                    &Ended {
                        exit,
                        state,
                        failure,
                        bundle,
                    },
                    None,
                );
            }
        }
    }
}
