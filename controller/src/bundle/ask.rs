//! `landfall bundle HOST`: the bundle that somebody asks for.
//!
//! It is no run: nothing is remembered about the host but the bundle.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Mutex,
};

use engine::{
    run::Run,
    step::{Context, Done, Repeat, Step},
};
use landfall_proto::{failure::Failure, order::RunId};
use tokio::sync::OnceCell;

use super::Own;
use crate::{
    desk::Desk,
    exit::{self, Ended, Exit, Trail},
    local::{bundle::Archive, clock::now, records::Records, state::RunFolder},
    remote::{link::LinkView, ssh::Ssh},
    request::Request,
    screen::{self, Screen, Style},
    visit::{Errand, Find, Forgetful, Told},
};

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
    let (told, link) = drive(request.clone(), newest.as_ref(), &archive, screen).await;
    let archive = archive.into_inner().expect("nobody panics with it");
    let trail = Trail::default();
    let (gathered, ended) = match told {
        Told::Done(who) => (Ok(who), None),
        Told::Failed(failure) => (Err(failure.clone()), Some(Ended::failed(failure, &trail))),
        Told::Stopped => {
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

/// Gathers from the machine. Returns how the link was at the end, too.
async fn drive(
    request: Request,
    run: Option<&(RunId, RunFolder)>,
    archive: &Mutex<Archive>,
    screen: &Screen,
) -> (Told<String>, LinkView) {
    // what is learnt about another machine, or for the first time, is not written down
    let run = run.filter(|(_, folder)| folder.has_pin());
    // without the keys of the run, no agent of it lets us in
    let may_call = run.is_some_and(|(_, folder)| folder.credentials_are_kept());
    let known = run.map(|(id, folder)| (id, folder));
    let errand = match Errand::begin(request, Gather::NAME, known, screen) {
        Ok(errand) => errand,
        Err(failure) => return (Told::Failed(failure), LinkView::default()),
    };
    let link = errand.view();
    let gather = async |run: &mut Run<Forgetful>, desk: &Desk, way: &OnceCell<Ssh>| {
        run.step(&Find { desk, way }).await?;
        run.step(&Gather {
            desk,
            way,
            may_call,
            archive,
        })
        .await
    };
    let told = errand.run(gather, screen).await;
    let link = link.borrow().clone();
    (told, link)
}

/// Lets the machine tell.
struct Gather<'a> {
    desk: &'a Desk,
    way: &'a OnceCell<Ssh>,
    /// Whether an agent of the run would let us in.
    may_call: bool,
    archive: &'a Mutex<Archive>,
}

impl Step for Gather<'_> {
    const NAME: &'static str = "gather";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = String;

    async fn run(&self, cx: &Context) -> Result<Done<String>, Failure> {
        let way = self.way.get().expect("the machine was found before");
        let take = |piece: landfall_proto::wire::Piece| {
            cx.waiting(format!("what comes after {}", piece.name));
            self.archive
                .lock()
                .expect("nobody panics with it")
                .add(&piece)
        };
        let gathered = self.desk.gather_from(way.clone(), self.may_call, cx, take);
        Ok(Done::new(gathered.await?))
    }

    async fn still_true(&self, _: &String) -> bool {
        false
    }
}
