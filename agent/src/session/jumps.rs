//! The end of the old system, seen from the session: when it jumps, who makes it jump, and when
//! nobody does.

use landfall_proto::{
    order::{Blob, Kexec},
    report::RunState,
};

use super::*;
use crate::machine::{command::Ended, stage::Stage};

const SAID: &str = "machine will boot into nixos in 6s...\n";
/// Longer than a controller is waited for.
const LONG: Duration = Duration::from_secs(60);

/// An old system whose image has arrived, and whose script says this when it is run.
fn stage(script: Ended) -> (Stage, Order) {
    let stage = Stage::new().file("proc/meminfo", "MemAvailable: 1024 kB\n");
    let program = stage.root().join("run/landfall/kexec/kexec/run");
    let stage = stage.answer(&program.to_string_lossy(), script);
    let files = ["run", "bzImage", "initrd", "kexec"].map(|name| (format!("kexec/{name}"), "#!"));
    let files: Vec<_> = files
        .iter()
        .map(|(name, text)| (name.as_str(), *text))
        .collect();
    let tarball = stage.tarball(&files);
    let image = Blob {
        hash: "0".repeat(64).try_into().unwrap(),
        size: stage.machine().size_of(&tarball).unwrap(),
    };
    let spool = stage.machine().spool_dir();
    files::private_directory(&spool).unwrap();
    let content = files::read(&tarball, image.size).unwrap();
    files::write(&spool.join(image.hash.as_str()), &content, 0o600).unwrap();
    let job = Job::Kexec(Kexec {
        image,
        extra_flags: "--reset-vga".to_owned(),
        authorized_key: String::new(),
        kernel: 0,
        initrd: 0,
        return_after: 0,
    });
    let run = RunId::from_bytes([7; 16]);
    (stage, Order { run, job })
}

fn open(stage: &Stage) -> Arc<Session> {
    Session::open(stage.machine(), Callers::new()).unwrap()
}

async fn ended(session: &Session) -> RunState {
    session.board().unwrap().ended().await
}

fn jumps(stage: &Stage) -> usize {
    let real = stage.root().join("run/landfall/kexec/kexec/kexec.image");
    let line = format!("{} -e --reset-vga", real.display());
    stage.asked().iter().filter(|asked| **asked == line).count()
}

async fn jumps_within(stage: &Stage, times: usize, within: Duration) -> bool {
    let jumps = async {
        while jumps(stage) < times {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(within, jumps).await.is_ok()
}

/// Whether the job that the image's script leaves behind is to jump where the agent is killed.
fn script_jumps(stage: &Stage) -> bool {
    let folder = stage.root().join("run/landfall/kexec/kexec");
    files::names(&folder).contains(&"kexec.loaded".to_owned())
}

#[tokio::test(start_paused = true)]
async fn machine_jumps_once_its_last_word_was_heard_and_not_before() {
    const SOON: Duration = Duration::from_secs(1);
    let (stage, order) = stage(Ended::answer(0, SAID, ""));
    let session = open(&stage);
    session.start(order).unwrap();
    let state = ended(&session).await;
    assert_eq!(state.end, Some(End::Finished), "{:?}", state.failure());
    assert!(script_jumps(&stage));
    // all but the last event were seen
    assert!(!session.release(state.next - 1));
    assert!(!jumps_within(&stage, 1, SOON).await);
    // its answer may be lost, and the call be made again
    assert!(session.release(state.next));
    assert!(session.release(state.next));
    assert!(jumps_within(&stage, 1, SOON).await);
    assert!(!jumps_within(&stage, 2, LONG).await);
}

#[tokio::test(start_paused = true)]
async fn machine_jumps_though_its_controller_is_gone_or_another_one_has_come() {
    for comes in [false, true] {
        let (stage, order) = stage(Ended::answer(0, SAID, ""));
        let session = open(&stage);
        session.start(order).unwrap();
        assert_eq!(ended(&session).await.end, Some(End::Finished));
        if comes {
            session.take_back().unwrap();
        }
        assert!(jumps_within(&stage, 1, LONG).await);
    }
}

#[tokio::test(start_paused = true)]
async fn agent_that_comes_after_one_that_was_killed_before_it_jumped_does_it() {
    let (stage, order) = stage(Ended::answer(0, SAID, ""));
    let session = open(&stage);
    session.start(order).unwrap();
    let state = ended(&session).await;
    assert_eq!(state.end, Some(End::Finished));
    drop(session);
    let next = open(&stage);
    // what the first one loaded may be anything by now
    let again = ended(&next).await;
    assert_eq!(again.step("kexec").unwrap().attempt, 2);
    assert!(!next.release(state.next));
    assert!(next.release(again.next));
    assert!(jumps_within(&stage, 1, LONG).await);
    assert!(!jumps_within(&stage, 2, LONG).await);
}

#[tokio::test(start_paused = true)]
async fn run_that_failed_jumps_neither_by_itself_nor_by_its_script() {
    let (stage, order) = stage(Ended::answer(0, "nothing\n", ""));
    let session = open(&stage);
    session.start(order).unwrap();
    let state = ended(&session).await;
    assert_eq!(state.failure().unwrap().code, "LF1405");
    assert!(!jumps_within(&stage, 1, LONG).await);
    assert!(!script_jumps(&stage));
}

#[tokio::test(start_paused = true)]
async fn try_that_fails_keeps_the_script_of_the_one_before_it_from_jumping() {
    let (stage, order) = stage(Ended::answer(0, SAID, ""));
    let session = open(&stage);
    session.start(order.clone()).unwrap();
    assert_eq!(ended(&session).await.end, Some(End::Finished));
    let mut corrected = order;
    if let Job::Kexec(kexec) = &mut corrected.job {
        kexec.extra_flags = String::new();
    }
    let stage = stage.file("proc/sys/kernel/kexec_load_disabled", "1\n");
    assert!(script_jumps(&stage));
    assert_eq!(session.start(corrected), Ok(Known::Started));
    assert_eq!(ended(&session).await.failure().unwrap().code, "LF1401");
    // what follows the end of a run is done a moment later
    tokio::time::sleep(LONG).await;
    assert!(!script_jumps(&stage));
    assert_eq!(jumps(&stage), 0);
}

#[tokio::test(start_paused = true)]
async fn order_that_takes_the_place_of_one_keeps_that_from_jumping() {
    let (stage, order) = stage(Ended::answer(0, SAID, ""));
    let session = open(&stage);
    session.start(order.clone()).unwrap();
    assert_eq!(ended(&session).await.end, Some(End::Finished));
    let mut corrected = order;
    if let Job::Kexec(kexec) = &mut corrected.job {
        kexec.authorized_key = "ssh-ed25519 AAAA run".to_owned();
    }
    assert_eq!(session.start(corrected), Ok(Known::Started));
    assert_eq!(ended(&session).await.end, Some(End::Finished));
    assert!(jumps_within(&stage, 1, LONG).await);
    assert!(!jumps_within(&stage, 2, LONG).await);
}
