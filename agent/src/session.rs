//! At most one run on this machine: started once however often it is asked for, watched by any number of readers,
//! taken up again after a crash, let go once the controller has seen its end.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use engine::{
    board::Board,
    journal::{FileStore, Header, Journal},
    run::Run,
};
use landfall_proto::{
    facts::Facts,
    failure::Failure,
    order::{Describer, Input, Job, KeyPath, NixSettings, Order, RunId, StorePath},
    report::End,
    stream::mux::Mux,
    wire::{self, Piece},
};
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use zeroize::Zeroizing;

use crate::{
    deliveries::{Arrivals, Door},
    departure::{Callers, Departure},
    fence::Fence,
    history,
    machine::{
        Machine, files, gather,
        here::{Here, wall_clock},
        reboot,
    },
    story,
};

/// From the end of a run that nobody follows to what is done about it: time to see it, for whoever comes just then.
const GRACE: Duration = Duration::from_secs(10);
/// Longest that a run may take to stop: its programs are killed, and what blocks watches a token.
const STOPS: Duration = Duration::from_secs(60);

/// What came of asking for a run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// It was started, or taken up where it had failed.
    Started,
    /// It is under way, has ended well, or is taken up where the disks could not be sealed: nothing need be brought.
    AlreadyThere,
    /// Another one is under way.
    Other(RunId),
}

/// The one run there can be, and everything readers and streams need.
#[derive(Debug)]
pub(crate) struct Session {
    machine: Machine,
    here: Here,
    callers: Callers,
    arrivals: Arc<Arrivals>,
    mux: Mux,
    current: Mutex<Option<Current>>,
    fence: Fence,
    lane: Mutex<CancellationToken>,
    /// Ends the waiting for the end of a run that was let go of.
    alone: Mutex<CancellationToken>,
    /// Held by whoever puts down a key or describes the hardware: a call that is made again may meet itself.
    turn: tokio::sync::Mutex<()>,
    /// How many orders were begun. Held by whoever puts the open one on record, or takes it off.
    orders: Arc<Mutex<u64>>,
    /// Why nothing may be installed now. Changed only by who holds `current`.
    refusal: Mutex<Option<Failure>>,
    /// Set once there is nothing more to do here.
    over: watch::Sender<bool>,
}

#[derive(Debug)]
struct Current {
    order: Order,
    board: Board,
    cancel: CancellationToken,
    /// Whether nothing was left to be done but to seal the disks, when it was begun.
    sealed: bool,
    /// The jump with which it ends, if that is its end.
    departure: Option<Departure>,
    /// Another one takes its place only once it has ended: what it still does then is done for
    /// nobody.
    _story: AbortOnDropHandle<()>,
}

impl Current {
    /// Whether it is in a step that waits for what the controller brings, which may be left and done again.
    fn is_waiting(&self) -> bool {
        const WAITING: [&str; 5] = ["image", "keys", "tools", "copy", "files"];
        let state = self.board.state();
        WAITING.iter().any(|step| state.is_running(step))
    }
}

impl Session {
    /// Opens the session, and takes up the run that a crash cut off.
    pub(crate) fn open(machine: Machine, callers: Callers) -> Result<Arc<Self>, Failure> {
        let arrivals = Arc::new(Arrivals::new(machine.clone()));
        let mux = Mux::acceptor(Arc::new(Door(Arc::clone(&arrivals))));
        let session = Arc::new(Self {
            here: machine.here()?,
            callers,
            arrivals,
            mux,
            current: Mutex::default(),
            fence: Fence::default(),
            lane: Mutex::default(),
            alone: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            orders: Arc::default(),
            refusal: Mutex::default(),
            over: watch::Sender::new(false),
            machine,
        });
        if let Some(wire) = session.machine.open_order()? {
            let order = wire::order_from_wire(&wire).map_err(|error| {
                Failure::new("cannot take up the run of an earlier agent")
                    .caused_by(&error)
                    .code("LF0901")
            })?;
            // what it waits for may have been brought before the crash
            let begun = session.begin(order, session.machine.supplied())?;
            *session.current() = Some(begun);
            if session.machine.is_let_go() {
                session.go_alone();
            }
        }
        Ok(session)
    }

    /// Returns what does not change while this process lives.
    pub(crate) fn here(&self) -> &Here {
        &self.here
    }

    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    pub(crate) fn run_id(&self) -> Option<RunId> {
        self.current()
            .as_ref()
            .map(|current| current.order.run.clone())
    }

    pub(crate) fn board(&self) -> Option<Board> {
        self.current().as_ref().map(|current| current.board.clone())
    }

    pub(crate) fn mux(&self) -> Mux {
        self.mux.clone()
    }

    /// Looks at the machine.
    pub(crate) async fn inspect(&self) -> Facts {
        let mut facts = self.machine.facts().await;
        let keys = self.machine.blocking(Machine::keys_of_installer).await;
        // without a folder to keep one in there is no kexec either, which says so
        facts.host_keys = keys.unwrap_or(facts.host_keys);
        facts
    }

    /// Returns who may do what.
    pub(crate) fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Returns what ends when a newer lane comes, or a newer controller than the one that reigns now.
    ///
    /// Ends the lane before: its ssh may be dead without a word.
    pub(crate) fn new_lane(&self, reign: &CancellationToken) -> CancellationToken {
        let mut lane = self.lane.lock().expect("no holder panics");
        lane.cancel();
        *lane = reign.child_token();
        lane.clone()
    }

    /// Starts a run, unless it is there already or another one is under way.
    ///
    /// Another order for the run that is under way is another one too, until the step that it is in has ended: the same
    /// call a little later takes the run up with the new order.
    pub(crate) fn start(&self, order: Order) -> Result<Known, Failure> {
        let mut current = self.current();
        if let Some(known) = current.as_ref() {
            let end = known.board.state().end;
            let same = known.order == order;
            match end {
                None if same => return Ok(Known::AlreadyThere),
                None if known.order.run == order.run => {
                    // something was corrected: whoever waits for what is not wanted any more makes room
                    if known.is_waiting() {
                        known.cancel.cancel();
                    }
                    return Ok(Known::Other(order.run));
                }
                None => return Ok(Known::Other(known.order.run.clone())),
                Some(End::Finished) if same => return Ok(Known::AlreadyThere),
                Some(_) => {}
            }
        }
        let refusal = self.refusal.lock().expect("no holder panics").clone();
        if let (Some(refusal), Job::Install(_)) = (refusal, &order.job) {
            return Err(refusal);
        }
        let begun = self.begin(order, HashSet::new())?;
        // nothing of it is left to be brought: only the seal is made again
        let known = match begun.sealed {
            true => Known::AlreadyThere,
            false => Known::Started,
        };
        *current = Some(begun);
        Ok(known)
    }

    /// Refuses to begin anything on the disks from now on, or stops refusing.
    pub(crate) fn refuse(&self, why: Option<Failure>) {
        // whoever is just beginning has begun when this returns
        let _current = self.current();
        *self.refusal.lock().expect("no holder panics") = why;
    }

    pub(crate) fn refuses(&self) -> bool {
        self.refusal.lock().expect("no holder panics").is_some()
    }

    /// Whether a run is under way that its controller has let go of.
    pub(crate) fn works_alone(&self) -> bool {
        let under_way = |board: Board| board.state().end.is_none();
        self.board().is_some_and(under_way) && self.machine.is_let_go()
    }

    /// Asks the run to stop, and returns whether none is under way any more.
    pub(crate) async fn stop(&self) -> bool {
        self.abort();
        let Some(board) = self.board() else {
            return true;
        };
        tokio::time::timeout(STOPS, board.ended()).await.is_ok()
    }

    /// Remembers that an input is there.
    pub(crate) fn supply(&self, input: Input) -> Result<(), Failure> {
        self.arrivals.supply(input)
    }

    /// Puts a key file where the order says that one lies.
    pub(crate) async fn entrust(
        &self,
        path: KeyPath,
        content: Zeroizing<Vec<u8>>,
    ) -> Result<(), Failure> {
        let ordered = self.current().as_ref().is_some_and(|current| {
            matches!(&current.order.job, Job::Install(install) if install.keys.contains(&path))
        });
        if !ordered {
            return Err(Failure::new(format!("refusing to keep key {path}"))
                .because("the order names no such key")
                .code("LF1312"));
        }
        let _turn = self.turn.lock().await;
        let keep = move |machine: &Machine| machine.keep_key(&path, &content);
        self.machine.blocking(keep).await
    }

    /// Describes the hardware, and returns what the program wrote and what it complained of.
    pub(crate) async fn describe(
        &self,
        describer: Describer,
        program: Option<StorePath>,
    ) -> Result<(Vec<u8>, String), Failure> {
        let _turn = self.turn.lock().await;
        self.machine.describe(describer, program.as_ref()).await
    }

    /// Gathers what explains a failure, for as long as somebody takes it: what the run has told, then the machine.
    pub(crate) async fn gather(&self, out: mpsc::Sender<Piece>) {
        if let Some(board) = self.board() {
            let (events, _) = board.report_since(0, 0);
            if out.send(gather::told(&events)).await.is_err() {
                return;
            }
        }
        self.machine.gather(out).await;
    }

    /// Asks the run to stop.
    pub(crate) fn abort(&self) {
        self.abort_unless(&[]);
    }

    /// Asks the run to stop unless it is in one of these steps, and returns in which.
    pub(crate) fn abort_unless(&self, spares: &[String]) -> Option<String> {
        let current = self.current();
        let current = current.as_ref()?;
        // no step can begin in between
        current.board.while_so(|state| {
            let spared = spares.iter().find(|step| state.is_running(step));
            if spared.is_none() {
                current.cancel.cancel();
            }
            spared.cloned()
        })
    }

    /// Lets go of a run whose end the controller has seen: reboots or jumps if that is its end,
    /// else leaves this machine.
    ///
    /// Returns false while the run goes on or has events that were not seen.
    pub(crate) fn release(&self, next: u64) -> bool {
        let (order, state) = match self.current().as_ref() {
            Some(current) => (current.order.clone(), current.board.state()),
            None => return false,
        };
        let Some(end) = state.end else { return false };
        if next < state.next {
            return false;
        }
        if matches!((&order.job, &end), (Job::Install(install), End::Finished) if install.reboot) {
            // nobody says it a second time: an agent that comes after this one, killed before the machine went down, knows
            // it too; where that cannot be written down, this one reboots all the same
            let _ = self.machine.set_let_go(true);
        }
        self.act_on(&order, &end);
        true
    }

    /// Lets go of a run before its end: nobody comes to see that, and it is acted on all the same, a little later.
    ///
    /// Holds for an agent that comes after a crash too, and until a controller comes back to drive. Returns false, and does
    /// nothing, where the run has failed or was stopped: that is for somebody to see.
    pub(crate) fn let_go(self: &Arc<Self>) -> Result<bool, Failure> {
        let end = self.board().and_then(|board| board.state().end);
        if matches!(end, Some(End::Failed | End::Aborted(_))) {
            return Ok(false);
        }
        self.machine.set_let_go(true)?;
        self.go_alone();
        Ok(true)
    }

    /// Takes the run back that an earlier controller has let go of: its end is for the one to see that drives now.
    pub(crate) fn take_back(&self) -> Result<(), Failure> {
        self.alone.lock().expect("no holder panics").cancel();
        self.machine.set_let_go(false)
    }

    fn go_alone(self: &Arc<Self>) {
        let Some((order, board)) = self
            .current()
            .as_ref()
            .map(|current| (current.order.clone(), current.board.clone()))
        else {
            return;
        };
        let taken_back = CancellationToken::new();
        let before = std::mem::replace(
            &mut *self.alone.lock().expect("no holder panics"),
            taken_back.clone(),
        );
        before.cancel();
        let session = Arc::clone(self);
        let alone = async move {
            let state = board.ended().await;
            tokio::time::sleep(GRACE).await;
            if let Some(end) = state.end {
                session.act_on(&order, &end);
            }
        };
        tokio::spawn(taken_back.run_until_cancelled_owned(alone));
    }

    /// Does what the end of a run is for.
    fn act_on(&self, order: &Order, end: &End) {
        match (&order.job, end) {
            // the kernel is about to be replaced: whatever would be cleaned up is gone in a moment
            (Job::Kexec(_), End::Finished) => {
                let current = self.current();
                let departure = current.as_ref().and_then(|run| run.departure.as_ref());
                departure.into_iter().for_each(Departure::is_heard);
            }
            (Job::Install(install), End::Finished) if install.reboot => {
                let machine = self.machine.clone();
                tokio::spawn(async move { reboot::reboot(&machine).await });
            }
            // half an installation stays where it can be taken up again
            (Job::Install(_), End::Failed | End::Aborted(_)) => {}
            (Job::Kexec(_), End::Failed | End::Aborted(_)) | (Job::Install(_), End::Finished) => {
                self.leave();
            }
        }
    }

    /// Ends the agent, of which nothing stays; unless it is needed to boot the old system again.
    pub(crate) fn leave(&self) {
        if self.returns_after() == 0 {
            self.over.send_replace(true);
        }
    }

    /// Returns the seconds without contact after which the machine boots its old system again; 0 if it does not.
    pub(crate) fn returns_after(&self) -> u64 {
        match self.here.return_after {
            0 => 0,
            _ if history::disks_begun(&self.machine) => 0,
            seconds => seconds,
        }
    }

    /// Completes once there is nothing more to do here.
    pub(crate) async fn over(&self) {
        let mut over = self.over.subscribe();
        // the sender lives as long as the session
        let _ = over.wait_for(|over| *over).await;
    }

    fn current(&self) -> MutexGuard<'_, Option<Current>> {
        self.current.lock().expect("no holder of the run panics")
    }

    /// Makes the journal of a run, or opens it, and tells its story from there on; these inputs are there already.
    fn begin(&self, order: Order, inputs: HashSet<Input>) -> Result<Current, Failure> {
        let wire = wire::order_to_wire(&order);
        let part = match order.job {
            Job::Kexec(_) => "kexec",
            Job::Install(_) => "install",
        };
        let dir = history::folder(&self.machine, &order.run, part);
        files::private_directory(&dir)?;
        let hash = blake3::hash(&lasting(&order)).to_hex().to_string();
        let header = Header::new(order.run.clone(), &order.plan(), hash, wall_clock());
        let journal = Journal::open(&history::journal(&dir), header).map_err(|error| {
            Failure::new("cannot take up the run")
                .caused_by(&error)
                .code("LF0901")
        })?;
        if let Job::Kexec(kexec) = &order.job {
            self.machine.make_room_for(&kexec.image, kexec.size());
        }
        let nix = match &order.job {
            Job::Install(install) => install.nix.clone(),
            Job::Kexec(_) => NixSettings::default(),
        };
        // before the order: an agent that takes it up goes on with what it had
        self.arrivals.begin(inputs, nix)?;
        let number = {
            let mut begun = self.orders.lock().expect("no holder panics");
            *begun += 1;
            self.machine.set_open_order(&wire)?;
            *begun
        };
        let sealed = history::is_sealed_for(&self.machine, &order);
        let cancel = CancellationToken::new();
        let run = Run::begin(journal, cancel.clone())?;
        let board = run.board();
        let departure = Departure::of(&order, &self.callers);
        let story = self.tell(run, order.clone(), number, departure.clone());
        Ok(Current {
            order,
            board,
            cancel,
            sealed,
            departure,
            _story: story,
        })
    }

    /// Tells the story of an order, and takes it off record unless an agent that comes after a crash has to act on its end.
    ///
    /// If it ends with a jump, makes that.
    fn tell(
        &self,
        run: Run<FileStore>,
        order: Order,
        number: u64,
        departure: Option<Departure>,
    ) -> AbortOnDropHandle<()> {
        let (machine, arrivals) = (self.machine.clone(), Arc::clone(&self.arrivals));
        let orders = Arc::clone(&self.orders);
        AbortOnDropHandle::new(tokio::spawn(async move {
            // how it ended is on the board
            let ended = story::tell(run, &order, &machine, &arrivals).await;
            let boots = match &order.job {
                Job::Install(install) => install.reboot,
                Job::Kexec(_) => true,
            };
            let is_acted_on = machine.is_let_go() || (boots && ended.is_ok());
            {
                let begun = orders.lock().expect("no holder panics");
                // the end was seen before this, and another order may be on record by now
                if !is_acted_on && *begun == number {
                    machine.close_order();
                }
                if departure.is_some() && ended.is_err() && *begun == number {
                    machine.set_loaded(false);
                }
            }
            // the journal says that it is over, which the board alone would not prove
            if let (Some(departure), Ok(())) = (departure, ended) {
                departure.go(&machine).await;
            }
        }))
    }
}

/// Returns what of an order must not change while its run is taken up: what was done to the disks.
///
/// Everything else may be corrected after a failure. Each step looks whether what it did is what is wanted now.
fn lasting(order: &Order) -> Vec<u8> {
    match &order.job {
        // nothing is done with anything else of it that is not done again
        Job::Kexec(kexec) => {
            serde_json::to_vec(&(&order.run, &kexec.image)).expect("an order is plain data")
        }
        Job::Install(install) => {
            let disko = install.disko.as_ref();
            let done = disko.map(|disko| (&disko.script, disko.mode));
            serde_json::to_vec(&(&order.run, done)).expect("an order is plain data")
        }
    }
}

#[cfg(test)]
mod jumps;
#[cfg(test)]
pub(crate) mod tests;
