//! One command from its request to how it ended: what is remembered, who shows it, and who cleans up.

use std::{
    io::BufWriter,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use engine::{
    journal::{Header, Journal},
    run::Run,
};
use landfall_proto::{
    failure::{Contact, Failure},
    order::RunId,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    desk::{Desk, Login, Past},
    exit::{Ended, Exit},
    local::{
        file,
        keys::{self, Credentials},
        state::{self, OpenRun, RunFolder, State},
    },
    request::Request,
    screen::{self, Screen, Style},
    story,
};

/// Time for the screen to show the last events.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Installs as requested, shows it, and returns how it ended.
pub async fn install(request: Request) -> Exit {
    let host = request.target.host.clone();
    let screen = Screen::new(Style::choose(request.output), &host);
    screen.set_disko_mode(request.disko_mode);
    for warning in request.warnings() {
        screen.warning(&warning);
    }
    let (ended, log) = match begin(&request, &screen) {
        Ok((state, folder, run)) => {
            let log = folder.events();
            // a recording that cannot be made is no reason not to install
            if let Ok(recording) = file::append_private(&log) {
                screen.record_to(Box::new(BufWriter::new(recording)));
            }
            let pinned = folder.has_pin();
            let ended = drive(request, &state, folder, &run, &screen).await;
            // disks half done keep their run on record, and so does a machine that was seen once and is not now
            let unseen = |failure: &Failure| failure.contact == Contact::Unseen;
            let unseen = pinned && ended.failure.as_ref().is_some_and(unseen);
            let goes_on = (ended.state.is_past_return() || unseen) && ended.exit != Exit::Done;
            if !goes_on {
                // keys that cannot be removed are of no use to anybody once the agent is gone
                let _ = state.end(&run);
            }
            (ended, Some(log))
        }
        Err(failure) => (Ended::failed(failure, &screen.trail()), None),
    };
    screen.end(&ended, log.as_deref());
    ended.exit
}

/// Takes the host's lock, and takes up the run that broke off, or makes the folder of a new one.
///
/// A run is taken up by a command that wants the same. One that wants something else begins anew.
fn begin(request: &Request, screen: &Screen) -> Result<(State, RunFolder, RunId), Failure> {
    let host = match request.port() {
        Some(port) => format!("{}:{port}", request.target.host),
        None => request.target.host.clone(),
    };
    let state = State::open(&host)?;
    let order = request.wish();
    if let Some(open) = state
        .current()?
        .filter(|open| open.order == order && !request.fresh)
    {
        let folder = state.run(&open.run);
        screen.note("taking up the run that broke off");
        return Ok((state, folder, open.run));
    }
    let run = RunId::from_bytes(rand::random());
    let open = OpenRun {
        run: run.clone(),
        order,
        began: now(),
    };
    let folder = state.begin(&open)?;
    Ok((state, folder, run))
}

async fn drive(
    request: Request,
    state: &State,
    folder: RunFolder,
    run_id: &RunId,
    screen: &Screen,
) -> Ended {
    let failed = |failure| Ended::failed(failure, &screen.trail());
    let (run, desk, _sockets) = match set_up(request, state, folder, run_id, screen).await {
        Ok(set_up) => set_up,
        Err(failure) => return failed(failure),
    };
    let shown = tokio::spawn(screen::show(
        run.board(),
        desk.view.subscribe(),
        screen.clone(),
    ));
    let told = tokio::select! {
        // the terminal interrupts our children too: why they failed is known first
        biased;
        () = stopped() => None,
        told = story::tell(run, &desk) => Some(told),
    };
    let contact = match &told {
        Some(Err(failure)) => failure.contact,
        _ => Contact::Kept,
    };
    // an agent out of reach goes on by itself, and one of somebody else's is theirs
    if matches!(contact, Contact::Lost | Contact::Foreign) {
        desk.hang_up().await;
    } else {
        tokio::select! {
            () = desk.leave() => {}
            () = stopped() => screen.note("the agent may still be on the machine"),
        }
    }
    // a screen that hangs must not keep the command from ending
    let _ = tokio::time::timeout(LAST_WORDS, shown).await;
    if matches!(told, Some(Ok(()))) && story::plan(&desk.request).contains(&"reboot") {
        desk.forget_way_in();
    }
    match told {
        Some(Ok(())) => Ended::done(&screen.trail()),
        Some(Err(failure)) if matches!(contact, Contact::Gone | Contact::Lost) => {
            Ended::lost(failure, &screen.trail())
        }
        Some(Err(failure)) => failed(failure),
        None => Ended::interrupted(&screen.trail()),
    }
}

/// Completes when somebody wants the command to end: ctrl-c, or what a service manager or a closed terminal sends.
pub(crate) async fn stopped() {
    let wait = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => signal.recv().await,
            // what cannot be listened for ends the process by itself
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = wait(SignalKind::interrupt()) => {}
        _ = wait(SignalKind::terminate()) => {}
        _ = wait(SignalKind::hangup()) => {}
    }
}

type SetUp = (Run<engine::journal::FileStore>, Desk, tempfile::TempDir);

async fn set_up(
    request: Request,
    state: &State,
    folder: RunFolder,
    run: &RunId,
    screen: &Screen,
) -> Result<SetUp, Failure> {
    let sockets = state::socket_folder()?;
    let path: PathBuf = sockets.path().to_owned();
    let key = keys::login_key(&folder.key(), &format!("landfall-{run}")).await?;
    let login = Login::open(&request, &path, key, screen)?;
    let credentials = match Credentials::kept(&folder.credentials())? {
        Some(kept) => kept,
        None => {
            let made = Credentials::make()?;
            made.keep(&folder.credentials())?;
            made
        }
    };
    let order = state.current()?.map(|open| open.order).unwrap_or_default();
    let header = Header::new(run.clone(), &story::plan(&request), order, now());
    let journal = Journal::open(&folder.journal(), header).map_err(|error| {
        Failure::new("cannot remember what is done")
            .caused_by(&error)
            .code("LF0901")
    })?;
    let run_of = Run::begin(journal, CancellationToken::new())?;
    let past = Past::of(&run_of.board().state());
    let mut desk = Desk::new(
        request,
        run.clone(),
        folder,
        path,
        credentials,
        login,
        screen.clone(),
    );
    desk.past = past;
    Ok((run_of, desk, sockets))
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
