//! The bundle that is made by itself, before the agent is let go of.

use std::{path::PathBuf, sync::Mutex, time::Duration};

use landfall_proto::failure::{Contact, Failure};

use super::Own;
use crate::{
    desk::Desk,
    local::{bundle::Archive, clock::now, records::Records, signals::stopped},
};

/// Longest that a command ends later for it.
const PATIENCE: Duration = Duration::from_secs(30);
/// Phases that fail on this machine, or by what was asked for: the other one has nothing to say about it.
const NOT_ITS_FAULT: [&str; 3] = ["connect", "preflight", "prepare"];

/// Gathers what explains that this phase failed, where the machine can be asked. Ctrl-c skips it.
///
/// Returns where it is. Whatever goes wrong here is no failure of the run, and is told as a note at most.
pub(crate) async fn after(desk: &Desk, phase: &str, failure: &Failure) -> Option<PathBuf> {
    let can_be_asked = match failure.contact {
        Contact::Kept | Contact::Gone => desk.has_agent().await,
        // out of reach, or somebody else's
        _ => false,
    };
    if !can_be_asked || NOT_ITS_FAULT.contains(&phase) {
        return None;
    }
    desk.screen
        .note("gathering what explains it; ctrl-c skips that");
    match gather(desk, failure).await {
        Ok(path) => Some(path),
        Err(failure) => {
            desk.screen.note(&failure.in_one_line());
            None
        }
    }
}

async fn gather(desk: &Desk, failure: &Failure) -> Result<PathBuf, Failure> {
    let records = Records::of(&desk.request.on_record())?;
    let host = &*desk.request.target.host;
    let path = records.place_for_bundle(Some(&desk.folder), now())?;
    let mut archive = Archive::create(&path, host, now())?;
    let own = Own {
        host,
        run: Some(&desk.folder),
        failure: Some(failure),
    };
    own.add_to(&mut archive)?;
    let archive = Mutex::new(archive);
    let take = |piece| archive.lock().expect("nobody panics with it").add(&piece);
    let machine = async {
        match failure.contact {
            Contact::Gone => desk.gather_beside(take).await,
            _ => desk.gather(take).await,
        }
    };
    let broke_off = |why: &str| Err(Failure::new(why).code("LF0921"));
    let gathered = tokio::select! {
        biased;
        () = stopped() => broke_off("somebody pressed ctrl-c"),
        gathered = tokio::time::timeout(PATIENCE, machine) => gathered
            .unwrap_or_else(|_| broke_off(&format!("it took more than {} s", PATIENCE.as_secs()))),
    };
    let archive = archive.into_inner().expect("nobody panics with it");
    let link = desk.view.borrow().clone();
    let path = own.end(archive, &gathered, &link)?;
    records.keep_newest_bundles();
    Ok(path)
}
