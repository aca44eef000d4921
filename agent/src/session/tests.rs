//! The run of an agent: begun, taken up, and ended by whoever comes after it.

use engine::journal::Mark;
use landfall_proto::{
    event::{Event, Kind, Outcome},
    order::{Install, System},
    report::{RunState, Status},
};

use super::*;
use crate::machine::{command::Ended, stage::Stage};

const MEMORY: &str = "1 0 0:2 / / rw - tmpfs tmpfs rw\n";
const SECRET: &[u8] = b"correct horse battery staple\n";

/// An order of which nothing but the wait for these keys is done.
pub(crate) fn order(keys: &[&str]) -> Order {
    let keys = keys.iter().map(|path| path.parse().unwrap()).collect();
    Order {
        run: RunId::from_bytes([7; 16]),
        job: Job::Install(Install {
            keys,
            ..Install::default()
        }),
    }
}

/// An order to install a system and reboot.
fn installing(toplevel: &str) -> Order {
    rebooting(Some(System {
        toplevel: format!("/nix/store/0123456789abcdfghijklmnpqrsvwxyz-{toplevel}")
            .parse()
            .unwrap(),
        extra_files: None,
        owners: Vec::new(),
        host_keys_to: Vec::new(),
        check: false,
        boot_check: true,
    }))
}

/// An order that ends with a reboot.
fn rebooting(system: Option<System>) -> Order {
    let mut order = order(&[]);
    if let Job::Install(install) = &mut order.job {
        install.system = system;
        install.reboot = true;
    }
    order
}

async fn ended(session: &Session) -> RunState {
    session.board().unwrap().ended().await
}

#[tokio::test]
async fn key_is_where_it_was_asked_for_and_nowhere_else() {
    let stage = Stage::new().file("proc/self/mountinfo", MEMORY);
    let session = Session::open(stage.machine(), Callers::new()).unwrap();
    session.start(order(&["/tmp/secret.key"])).unwrap();
    let entrust = |path: &str| {
        let content = Zeroizing::new(SECRET.to_vec());
        session.entrust(path.parse().unwrap(), content)
    };
    let refused = entrust("/etc/shadow").await.unwrap_err();
    assert_eq!(refused.what, "refusing to keep key /etc/shadow");
    // a call whose answer was lost is made again
    entrust("/tmp/secret.key").await.unwrap();
    entrust("/tmp/secret.key").await.unwrap();
    session.supply(Input::Keys).unwrap();
    assert_eq!(ended(&session).await.end, Some(End::Finished));
    assert_eq!(stage.files_with(SECRET), ["tmp/secret.key"]);
    let (events, _) = session.board().unwrap().report_since(0, 0);
    let told = serde_json::to_string(&events).unwrap();
    assert!(!told.contains("correct horse"));
}

#[tokio::test]
async fn run_without_its_key_fails_and_is_taken_up_with_it() {
    let stage = Stage::new().file("proc/self/mountinfo", MEMORY);
    let session = Session::open(stage.machine(), Callers::new()).unwrap();
    let order = order(&["/tmp/secret.key"]);
    session.start(order.clone()).unwrap();
    session.supply(Input::Keys).unwrap();
    let state = ended(&session).await;
    assert_eq!(state.failure().unwrap().code, "LF1311");
    assert_eq!(session.start(order), Ok(Known::Started));
    let content = Zeroizing::new(SECRET.to_vec());
    let path = "/tmp/secret.key".parse().unwrap();
    session.entrust(path, content).await.unwrap();
    session.supply(Input::Keys).unwrap();
    assert_eq!(ended(&session).await.end, Some(End::Finished));
}

#[tokio::test]
async fn agent_that_comes_after_a_crash_waits_for_nothing_that_was_brought() {
    let stage = Stage::new()
        .file("proc/self/mountinfo", MEMORY)
        .file("run/landfall/lock", "");
    let machine = stage.machine();
    let session = Session::open(machine.clone(), Callers::new()).unwrap();
    session.supply(Input::Keys).unwrap();
    let order = order(&["/tmp/secret.key"]);
    machine
        .set_open_order(&wire::order_to_wire(&order))
        .unwrap();
    let path = "/tmp/secret.key".parse().unwrap();
    machine.keep_key(&path, SECRET).unwrap();
    let after = Session::open(machine.clone(), Callers::new()).unwrap();
    assert_eq!(ended(&after).await.end, Some(End::Finished));
    // another run has its own
    after.start(self::order(&["/tmp/other.key"])).unwrap();
    assert!(machine.supplied().is_empty());
}

#[tokio::test]
async fn corrected_order_takes_the_place_of_one_that_waits() {
    let stage = Stage::new().file("proc/self/mountinfo", MEMORY);
    let session = Session::open(stage.machine(), Callers::new()).unwrap();
    let first = order(&["/tmp/secret.key"]);
    session.start(first.clone()).unwrap();
    let mut corrected = first.clone();
    if let Job::Install(install) = &mut corrected.job {
        install.nix.substituters = vec!["https://cache.example".to_owned()];
    }
    let run = first.run.clone();
    // the step waits once it has begun
    let mut known = Ok(Known::AlreadyThere);
    while !matches!(session.board().unwrap().state().end, Some(End::Aborted(_))) {
        known = session.start(corrected.clone());
        tokio::task::yield_now().await;
    }
    assert_eq!(known, Ok(Known::Other(run)));
    assert_eq!(session.start(corrected.clone()), Ok(Known::Started));
    assert_eq!(session.start(corrected), Ok(Known::AlreadyThere));
}

#[tokio::test]
async fn machine_reboots_once_its_last_word_was_heard_and_not_before() {
    let stage = Stage::new().file("proc/self/mountinfo", MEMORY);
    let session = Session::open(stage.machine(), Callers::new()).unwrap();
    session.start(rebooting(None)).unwrap();
    let state = ended(&session).await;
    assert_eq!(state.end, Some(End::Finished));
    let rebooted = || stage.asked().contains(&"reboot".to_owned());
    // all but the last event were seen
    assert!(!session.release(state.next - 1));
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!rebooted());
    assert!(session.release(state.next));
    while !rebooted() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn agent_that_comes_after_the_seal_reboots_once_it_is_released() {
    let stage = Stage::new().file("proc/self/mountinfo", MEMORY);
    let session = Session::open(stage.machine(), Callers::new()).unwrap();
    session.start(rebooting(None)).unwrap();
    assert_eq!(ended(&session).await.end, Some(End::Finished));
    drop(session);
    let next = Session::open(stage.machine(), Callers::new()).unwrap();
    let state = ended(&next).await;
    assert_eq!(state.end, Some(End::Finished));
    assert!(next.release(state.next));
    while !stage.asked().contains(&"reboot".to_owned()) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn agent_that_comes_after_the_one_that_was_released_reboots() {
    let stage = Stage::new().file("proc/self/mountinfo", MEMORY);
    let session = Session::open(stage.machine(), Callers::new()).unwrap();
    session.start(rebooting(None)).unwrap();
    let state = ended(&session).await;
    assert!(session.release(state.next));
    let reboots = || {
        let asked = stage.asked();
        asked.iter().filter(|line| *line == "reboot").count()
    };
    let reboots_again = async |times: usize| {
        let again = async {
            while reboots() < times {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::time::timeout(STOPS, again).await.unwrap();
    };
    reboots_again(1).await;
    // it was killed before the machine went down, and nobody comes to release the next one
    drop(session);
    let _next = Session::open(stage.machine(), Callers::new()).unwrap();
    reboots_again(2).await;
}

#[tokio::test]
async fn agent_that_comes_in_the_middle_of_the_seal_ends_it() {
    // nothing is mounted any more in which it could be looked at what was done before
    let stage = Stage::new().file("proc/self/mountinfo", MEMORY);
    let machine = stage.machine();
    let order = installing("system");
    killed_in("seal", &order, &machine);
    let session = Session::open(machine, Callers::new()).unwrap();
    let state = ended(&session).await;
    assert_eq!(state.end, Some(End::Finished), "{:?}", state.failure());
    for step in ["mount", "copy", "files", "install"] {
        let status = &state.step(step).unwrap().status;
        let skipped = matches!(status, Status::Finished(Outcome::Skipped { .. }));
        assert!(skipped, "{step}: {status:?}");
    }
    assert_eq!(state.step("seal").unwrap().attempt, 2);
    assert!(session.release(state.next));
    while !stage.asked().contains(&"reboot".to_owned()) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn seal_that_failed_is_ended_by_the_same_order_and_refuses_another() {
    let stage = Stage::new()
        .file("proc/self/mountinfo", MEMORY)
        .file("usr/bin/zpool", "")
        .file("sys/module/zfs/version", "")
        .answer("zpool list -H -o name", Ended::answer(0, "rpool\n", ""))
        .answer("zpool export -a", Ended::answer(1, "", "pool is busy"));
    let order = installing("system");
    let machine = stage.machine();
    killed_in("seal", &order, &machine);
    let session = Session::open(machine, Callers::new()).unwrap();
    assert_eq!(ended(&session).await.failure().unwrap().code, "LF1606");

    // there is nothing mounted that another system could be brought to
    assert_eq!(session.start(installing("other")), Ok(Known::Started));
    assert_eq!(ended(&session).await.failure().unwrap().code, "LF1504");

    // what was brought before is not asked for again
    assert_eq!(session.start(order.clone()), Ok(Known::AlreadyThere));
    let state = ended(&session).await;
    assert_eq!(state.failure().unwrap().code, "LF1606");
    assert!(state.has_finished("install"));
}

/// Leaves what an agent leaves that is killed in a step, after all before it were done.
fn killed_in(last: &str, order: &Order, machine: &Machine) {
    let folder = history::folder(machine, &order.run, "install");
    files::private_directory(&folder).unwrap();
    let hash = blake3::hash(&lasting(order)).to_hex().to_string();
    let header = Header::new(order.run.clone(), &order.plan(), hash, 1);
    let mut journal = Journal::open(&history::journal(&folder), header).unwrap();
    let steps = order.plan().into_iter().map(str::to_owned).collect();
    let mut told = vec![(None, Kind::RunStarted { steps })];
    for step in order.plan() {
        told.push((Some(step), Kind::StepStarted { attempt: 1 }));
        if step == last {
            break;
        }
        let outcome = Outcome::Done;
        told.push((Some(step), Kind::StepFinished { outcome }));
    }
    for (index, (step, kind)) in (0..).zip(told) {
        let event = Event {
            index,
            light: None,
            at_ms: 0,
            step: step.map(str::to_owned),
            kind,
        };
        let proof = None;
        journal.append(Mark { event, proof }).unwrap();
    }
    machine.set_sealed_for(&history::whole(order)).unwrap();
    machine.set_open_order(&wire::order_to_wire(order)).unwrap();
}

#[tokio::test]
async fn step_that_is_to_be_spared_is_not_stopped() {
    let stage = Stage::new().file("proc/self/mountinfo", MEMORY);
    let session = Session::open(stage.machine(), Callers::new()).unwrap();
    session.start(order(&["/tmp/secret.key"])).unwrap();
    let board = session.board().unwrap();
    while !board.state().is_running("keys") {
        tokio::task::yield_now().await;
    }
    let spares = |step: &str| session.abort_unless(&[step.to_owned()]);
    assert_eq!(spares("keys"), Some("keys".to_owned()));
    assert_eq!(board.state().end, None);
    assert_eq!(spares("format"), None);
    assert!(matches!(ended(&session).await.end, Some(End::Aborted(_))));
    // what was stopped is for somebody to see, and is not acted on alone
    assert_eq!(session.let_go(), Ok(false));
}

#[tokio::test]
async fn nothing_is_kept_for_nobody() {
    let stage = Stage::new().file("proc/self/mountinfo", MEMORY);
    let session = Session::open(stage.machine(), Callers::new()).unwrap();
    let content = Zeroizing::new(SECRET.to_vec());
    let refused = session.entrust("/tmp/secret.key".parse().unwrap(), content);
    assert_eq!(refused.await.unwrap_err().code, "LF1312");
    assert_eq!(stage.files_with(SECRET), Vec::<String>::new());
}

/// A session whose run waits for a key and is let go of, and that run's end.
async fn let_go(stage: &Stage) -> Arc<Session> {
    let session = Session::open(stage.machine(), Callers::new()).unwrap();
    session.start(order(&["/tmp/secret.key"])).unwrap();
    session.let_go().unwrap();
    let content = Zeroizing::new(SECRET.to_vec());
    let path = "/tmp/secret.key".parse().unwrap();
    session.entrust(path, content).await.unwrap();
    session.supply(Input::Keys).unwrap();
    assert_eq!(ended(&session).await.end, Some(End::Finished));
    session
}

async fn is_over(session: &Session) -> bool {
    let over = tokio::time::timeout(GRACE + Duration::from_secs(5), session.over());
    over.await.is_ok()
}

#[tokio::test]
async fn end_that_nobody_comes_to_see_is_acted_on() {
    let stage = Stage::new().file("proc/self/mountinfo", MEMORY);
    let session = let_go(&stage).await;
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    assert!(is_over(&session).await);
    assert!(begun.elapsed() > GRACE / 2);
}

#[tokio::test]
async fn end_is_acted_on_by_an_agent_that_was_started_anew() {
    let stage = Stage::new().file("proc/self/mountinfo", MEMORY);
    drop(let_go(&stage).await);
    let next = Session::open(stage.machine(), Callers::new()).unwrap();
    assert_eq!(ended(&next).await.end, Some(End::Finished));
    tokio::time::pause();
    assert!(is_over(&next).await);
}

#[tokio::test]
async fn run_that_was_taken_back_waits_for_its_controller() {
    let stage = Stage::new().file("proc/self/mountinfo", MEMORY);
    let session = let_go(&stage).await;
    session.take_back().unwrap();
    tokio::time::pause();
    assert!(!is_over(&session).await);
    let next = session.board().unwrap().state().next;
    assert!(session.release(next));
    assert!(is_over(&session).await);
}
