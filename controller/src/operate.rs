//! One command from its request to how it ended: what is remembered, who shows it, and who cleans up.

use std::{io::BufWriter, path::PathBuf, time::Duration};

use engine::{
    board::Board,
    journal::{Header, Journal},
    run::Run,
};
use landfall_proto::{
    failure::{Contact, Failure},
    order::RunId,
    report::{Status, StepState},
};
use tokio_util::sync::CancellationToken;

use crate::{
    bundle,
    desk::{Desk, Login, Past},
    exit::{Ended, Exit, MachineState, Trail},
    local::{
        clock::now,
        file,
        keys::{self, Credentials},
        said::Said,
        signals::stopped,
        state::{self, OpenRun, RunFolder, State},
    },
    request::{Request, Resume},
    screen::{self, Screen, Style},
    story,
};

/// Time for the screen to show the last events.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Installs as requested, shows it, and returns how it ended.
///
/// `said` is the command line, which is kept for whoever goes on with the run.
pub async fn install(request: Request, said: Option<Said>) -> Exit {
    let host = request.target.host.clone();
    let screen = Screen::new(Style::choose(request.output), &host);
    screen.set_disko_mode(request.disko_mode);
    for warning in request.warnings() {
        screen.warning(&warning);
    }
    match begin(&request, said, &screen) {
        Ok(begun) => {
            let log = begun.folder.events();
            // a recording that cannot be made is no reason not to install
            if let Ok(recording) = file::append_private(&log) {
                screen.record_to(Box::new(BufWriter::new(recording)));
            }
            // nor are words that cannot be kept
            let _ = file::write_private(&begun.folder.words(), bundle::words().as_bytes());
            let (ended, goes_on) = go(request, &begun, &screen).await;
            // who is killed before the end is told has a run to take up, and finds it done
            screen.end(&ended, Some(&log));
            // keys that cannot be removed are of no use to anybody once the agent is gone
            let _ = begun.settle(goes_on);
            ended.exit
        }
        Err(failure) => {
            let ended = Ended::failed(failure, &screen.trail());
            screen.end(&ended, None);
            ended.exit
        }
    }
}

/// A run that can be told: its host is locked, and its folder is there.
struct Begun {
    state: State,
    folder: RunFolder,
    run: RunId,
    /// Whether an earlier command began it.
    taken_up: bool,
}

/// Takes the host's lock, and takes up the run that broke off, or makes the folder of a new one.
///
/// A run is taken up by a command that wants the same. One that wants something else begins anew, and takes the place of
/// the other once it has ordered something.
fn begin(request: &Request, said: Option<Said>, screen: &Screen) -> Result<Begun, Failure> {
    let host = request.on_record();
    let state = State::open(&host)?;
    let order = request.wish();
    let mut left = state.open_runs()?;
    // of two with the same wish, the older one is what was done on the machine
    let same = left.iter().rposition(|open| open.order == order);
    if request.resume == Resume::Require && same.is_none() {
        return Err(nothing_open(&host));
    }
    if let Some(same) = same.filter(|_| request.resume != Resume::Never) {
        screen.note("taking up the run that broke off");
        // something in it may have been corrected
        let open = OpenRun {
            said,
            ..left.swap_remove(same)
        };
        if let Some(before) = &open.before {
            screen.set_before(left_by(&state.run(&before.run)));
        }
        return Ok(Begun {
            folder: state.begin(&open)?,
            run: open.run,
            state,
            taken_up: true,
        });
    }
    let before = left.pop().map(|left| (state.run(&left.run), left));
    if let Some((folder, _)) = &before {
        // what it did is so until this one does more
        screen.set_before(left_by(folder));
    }
    let run = RunId::from_bytes(rand::random());
    let open = OpenRun {
        run: run.clone(),
        order,
        began: now(),
        said,
        before: before
            .filter(|(folder, _)| folder.has_ordered())
            .map(|(_, left)| Box::new(left)),
    };
    Ok(Begun {
        folder: state.begin(&open)?,
        run,
        state,
        taken_up: false,
    })
}

/// Returns where an earlier run has left the machine, as far as its record says; the worst where it does not.
fn left_by(folder: &RunFolder) -> MachineState {
    let mut trail = Trail::default();
    match folder.told() {
        Err(_) => trail.lost_sight(),
        Ok(told) => {
            if let Some(mode) = told.disko_mode {
                trail.set_disko_mode(mode);
            }
            told.events.iter().for_each(|event| trail.take(event));
            trail.missed_some();
        }
    }
    trail.state()
}

impl Begun {
    /// Leaves on record what can be taken up: this run, or the one that was open before and that it did not come to replace.
    fn settle(&self, goes_on: bool) -> Result<(), Failure> {
        let open = self.state.open_runs()?;
        let stays = open.iter().find(|open| goes_on == (open.run == self.run));
        match stays {
            Some(open) => self.state.begin(open).map(drop),
            None => self.state.end(&self.run),
        }
    }
}

fn nothing_open(host: &str) -> Failure {
    Failure::new(format!("cannot take up a run for {host}"))
        .because("none of this command is on record here")
        .hint("`landfall status HOST` says what is")
        .hint("leave `--resume require` out to begin a new run")
        .code("LF0911")
}

/// Tells the story of a run, and decides whether it stays on record to be taken up again.
async fn go(request: Request, begun: &Begun, screen: &Screen) -> (Ended, bool) {
    let pinned = begun.folder.has_pin();
    match set_up(request, begun, screen).await {
        Ok(set_up) => {
            let (ended, at_work) = drive(set_up, screen).await;
            // disks half done keep their run on record, and so does a machine that was seen once and is not now
            let unseen = |failure: &Failure| failure.contact == Contact::Unseen;
            let unseen = pinned && ended.failure.as_ref().is_some_and(unseen);
            let taken = |failure: &Failure| failure.contact == Contact::Taken;
            let taken = ended.failure.as_ref().is_some_and(taken);
            let open = screen.trail().has_changed_disks() || unseen || taken || at_work;
            let alone = ended.state == MachineState::Alone;
            let goes_on = alone || (open && ended.exit != Exit::Done);
            (ended, goes_on)
        }
        // what fails on this side says nothing about a run that an earlier command began
        Err(failure) => (Ended::failed(failure, &screen.trail()), begun.taken_up),
    }
}

/// Tells how it ended, and whether an agent may be at work on the run still.
async fn drive((run, mut desk, _sockets): SetUp, screen: &Screen) -> (Ended, bool) {
    let failed = |failure| Ended::failed(failure, &screen.trail());
    let done_alone = tokio::select! {
        biased;
        () = stopped() => return (Ended::interrupted(&screen.trail()), true),
        done = desk.is_done_alone() => done,
    };
    match done_alone {
        Ok(done) => desk.past.is_done |= done,
        // what fails on this side says nothing about the machine
        Err(failure) if failure.contact == Contact::Kept => return (failed(failure), true),
        Err(failure) => return (Ended::lost(failure, &screen.trail()), true),
    }
    let board = run.board();
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
    let bundle = match (&told, failed_phase(&board)) {
        (Some(Err(failure)), Some(phase)) => bundle::after(&desk, &phase, failure).await,
        _ => None,
    };
    // an agent out of reach goes on by itself, and one of somebody else's is theirs
    let ordered = desk.has_ordered().await;
    let at_work = if matches!(contact, Contact::Lost | Contact::Foreign | Contact::Taken) {
        desk.hang_up().await;
        ordered && matches!(contact, Contact::Lost)
    } else {
        tokio::select! {
            at_work = desk.leave() => at_work,
            () = stopped() => {
                screen.note("the agent may still be on the machine");
                ordered
            }
        }
    };
    // who comes to an installer without the run that booted it has no key to it
    let at_work = at_work || desk.is_on_its_way();
    // a screen that hangs must not keep the command from ending
    let _ = tokio::time::timeout(LAST_WORDS, shown).await;
    if matches!(told, Some(Ok(()))) && desk.is_handed_over() {
        screen.note(
            "`landfall status HOST` says how far it is, `landfall attach HOST` goes on with it",
        );
        return (Ended::handed_over(), at_work);
    }
    if matches!(told, Some(Ok(()))) && story::plan(&desk.request).contains(&"reboot") {
        desk.forget_way_in();
    }
    let left_alone = desk.left_alone();
    let hinted = |ended: Ended| match left_alone {
        Some(what) if ended.state == MachineState::Installer => ended.hint(what),
        _ => ended,
    };
    let ended = hinted(match told {
        Some(Ok(())) => Ended::done(&screen.trail()),
        Some(Err(failure)) if matches!(contact, Contact::Gone | Contact::Lost | Contact::Taken) => {
            Ended::lost(failure, &screen.trail())
        }
        Some(Err(failure)) => failed(failure),
        None => Ended::interrupted(&screen.trail()),
    });
    (Ended { bundle, ..ended }, at_work)
}

/// Returns the phase that has failed.
fn failed_phase(board: &Board) -> Option<String> {
    let state = board.state();
    let failed = |step: &&StepState| matches!(step.status, Status::Failed(_));
    state
        .steps
        .iter()
        .find(failed)
        .map(|step| step.name.clone())
}

type SetUp = (Run<engine::journal::FileStore>, Desk, state::SocketFolder);

async fn set_up(request: Request, begun: &Begun, screen: &Screen) -> Result<SetUp, Failure> {
    let (folder, run) = (begun.folder.clone(), begun.run.clone());
    let header = Header::new(run.clone(), &story::plan(&request), request.wish(), now());
    let journal = Journal::open(&folder.journal(), header).map_err(|error| {
        if begun.taken_up {
            screen.lost_sight();
        }
        Failure::new("cannot remember what is done")
            .caused_by(&error)
            .code("LF0901")
    })?;
    let past = Past::of(&journal.marks);
    let run_of = Run::begin(journal, CancellationToken::new())?;
    // where the machine stands is known before anything else can fail
    screen.remember(&run_of.board().report_since(0, 0).0);
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
    let mut desk = Desk::new(
        request,
        run,
        folder,
        path,
        credentials,
        login,
        screen.clone(),
    );
    desk.past = past;
    Ok((run_of, desk, sockets))
}
