//! `landfall bundle HOST`: the bundle that somebody asks for.
//!
//! It is no run: nothing is remembered about the host but the bundle.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

use engine::{
    journal::{Header, Journal},
    run::Run,
    step::{Context, Done, Repeat, Step},
};
use landfall_proto::{failure::Failure, order::RunId};
use tokio_util::sync::CancellationToken;

use super::{Own, now};
use crate::{
    desk::{Desk, Login},
    exit::{self, Ended, Exit, Trail},
    local::{
        bundle::Archive,
        keys::Credentials,
        records::Records,
        state::{self, RunFolder},
    },
    operate,
    phases::connect::Connect,
    remote::{link::LinkView, ssh::Ssh},
    request::Request,
    screen::{self, Screen, Style},
    visit::Forgetful,
};

/// Time for the screen to show the last events.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The machine, and the way to it.
    pub request: Request,
    /// Where the bundle goes, `-` for stdout; none for the folder of the run.
    pub output: Option<PathBuf>,
}

/// Makes a bundle about a machine, prints where it is, and returns whether all of it is there.
pub async fn bundle(wanted: Wanted) -> Exit {
    let screen = Screen::new(
        Style::choose(wanted.request.output),
        &wanted.request.target.host,
    );
    for warning in wanted.request.warnings() {
        screen.warning(&warning);
    }
    let (path, ended) = match make(&wanted, &screen).await {
        Ok((path, None)) => (Some(path), Ended::done(&Trail::default())),
        Ok((path, Some(ended))) => (Some(path), ended),
        Err(failure) => (None, Ended::failed(failure, &Trail::default())),
    };
    screen.close();
    // where the machine stands is not known from this
    let _ = exit::write_failure(&mut io::stderr(), &ended, None, None, screen::colors());
    if let Some(path) = path.filter(|path| !is_stdout(path)) {
        let mut out = io::stdout();
        // nobody reads: the exit code says it too
        let _ = writeln!(out, "{}", path.display()).and_then(|()| out.flush());
    }
    ended.exit
}

fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}

/// Makes the bundle. An error is one of writing it; what else was in the way is told beside where it is.
async fn make(wanted: &Wanted, screen: &Screen) -> Result<(PathBuf, Option<Ended>), Failure> {
    let request = &wanted.request;
    let host = &*request.target.host;
    let records = Records::of(&request.on_record())?;
    let newest = records.newest();
    let run = newest.as_ref().map(|(_, folder)| folder);
    let (path, mut archive) = match &wanted.output {
        Some(path) if is_stdout(path) => (path.clone(), Archive::stdout(host, now())),
        Some(path) => (path.clone(), Archive::create(path, host, now())?),
        None => {
            let path = records.place_for_bundle(run, now())?;
            (path.clone(), Archive::create(&path, host, now())?)
        }
    };
    let own = Own {
        host,
        run,
        failure: None,
    };
    own.add_to(&mut archive)?;
    let archive = Mutex::new(archive);
    let (gathered, link) = drive(request.clone(), newest.clone(), &archive, screen).await;
    let archive = archive.into_inner().expect("nobody panics with it");
    let trail = Trail::default();
    let (gathered, ended) = match gathered {
        Some(Ok(who)) => (Ok(who), None),
        Some(Err(failure)) => (Err(failure.clone()), Some(Ended::failed(failure, &trail))),
        None => {
            let why = Failure::new("somebody pressed ctrl-c").code("LF0921");
            (Err(why), Some(Ended::interrupted(&trail)))
        }
    };
    own.end(archive, &gathered, &link)?;
    if wanted.output.is_none() {
        records.keep_newest_bundles();
    }
    Ok((path, ended))
}

/// Gathers from the machine; none where somebody stopped it.
async fn drive(
    request: Request,
    run: Option<(RunId, RunFolder)>,
    archive: &Mutex<Archive>,
    screen: &Screen,
) -> (Option<Result<String, Failure>>, LinkView) {
    let (mut told, desk, _sockets) = match set_up(request, run, screen) {
        Ok(set_up) => set_up,
        Err(failure) => return (Some(Err(failure)), LinkView::default()),
    };
    let shown = tokio::spawn(screen::show(
        told.board(),
        desk.view.subscribe(),
        screen.clone(),
    ));
    let story = async {
        let who = told
            .step(&Gather {
                desk: &desk,
                archive,
            })
            .await?;
        told.finish()?;
        Ok(who)
    };
    let gathered = tokio::select! {
        biased;
        () = operate::stopped() => None,
        gathered = story => Some(gathered),
    };
    tokio::select! {
        _ = desk.leave() => {}
        () = operate::stopped() => screen.note("the agent may still be on the machine"),
    }
    // what was stopped has no last event
    if gathered.is_some() {
        let _ = tokio::time::timeout(LAST_WORDS, shown).await;
    }
    let link = desk.view.borrow().clone();
    (gathered, link)
}

type SetUp = (Run<Forgetful>, Desk, state::SocketFolder);

fn set_up(
    request: Request,
    run: Option<(RunId, RunFolder)>,
    screen: &Screen,
) -> Result<SetUp, Failure> {
    let sockets = state::socket_folder()?;
    let path = sockets.path().to_owned();
    let login = Login::open(&request, &path, String::new(), screen)?;
    // what is learnt about another machine, or for the first time, is not written down
    let (run, folder) = match run.filter(|(_, folder)| folder.has_pin()) {
        Some(run) => run,
        None => (
            RunId::from_bytes(rand::random()),
            RunFolder::passing(path.clone()),
        ),
    };
    let credentials = match Credentials::kept(&folder.credentials())? {
        Some(kept) => kept,
        None => Credentials::make()?,
    };
    let header = Header::new(run.clone(), &[Gather::NAME], String::new(), 0);
    let journal = Journal::begin(Forgetful, header).expect("what is forgotten cannot fail");
    let told = Run::begin(journal, CancellationToken::new())?;
    let desk = Desk::new(
        request,
        run,
        folder,
        path,
        credentials,
        login,
        screen.clone(),
    );
    Ok((told, desk, sockets))
}

/// Finds the machine, and lets it tell.
struct Gather<'a> {
    desk: &'a Desk,
    archive: &'a Mutex<Archive>,
}

impl Gather<'_> {
    /// Finds the machine: the installer of the run, one that an earlier run has left, or the machine as it was named.
    async fn way(&self, cx: &Context) -> Result<(Ssh, Option<String>), Failure> {
        let connect = Connect { desk: self.desk };
        let is_pinned = self.desk.is_pinned();
        if is_pinned && let Some(installer) = connect.installer(cx).await {
            return Ok((installer, None));
        }
        if let Some(left) = connect.left().await {
            return Ok((left, None));
        }
        let warning = match is_pinned {
            true => None,
            false => connect.trust(cx).await?,
        };
        Ok((self.desk.pinned(self.desk.ssh()), warning))
    }
}

impl Step for Gather<'_> {
    const NAME: &'static str = "gather";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = String;

    async fn run(&self, cx: &Context) -> Result<Done<String>, Failure> {
        let (way, warning) = self.way(cx).await?;
        let take = |piece: landfall_proto::wire::Piece| {
            cx.waiting(format!("what comes after {}", piece.name));
            self.archive
                .lock()
                .expect("nobody panics with it")
                .add(&piece)
        };
        // without the keys of the run, no agent of it lets us in
        let may_call = self.desk.folder.credentials_are_kept();
        let who = self.desk.gather_from(way, may_call, cx, take).await?;
        Ok(match warning {
            Some(warning) => Done::warned(who, warning),
            None => Done::new(who),
        })
    }

    async fn still_true(&self, _: &String) -> bool {
        false
    }
}
