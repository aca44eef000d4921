//! Starts programs: each in a session of its own that the kernel kills with the agent, and in a room where there is one.

use std::{
    ffi::CStr,
    io,
    sync::{OnceLock, mpsc},
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{prctl, signal::Signal},
    unistd::{Pid, chdir, chroot, getpid, getppid, mkdir, setsid},
};
use tokio::process::Child;

use super::{mounts::Room, session::Session};

/// Starts a program in a session of its own, from a thread that lives as long as the agent.
///
/// The kernel's `PR_SET_PDEATHSIG` looks at the *thread* that started a program: one of the runtime's threads may end
/// early and would take the program with it.
pub(super) async fn start(
    mut prepared: std::process::Command,
    room: Option<Room>,
) -> io::Result<(Child, Session)> {
    type Job = Box<dyn FnOnce() + Send>;
    static STARTER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (jobs, inbox) = mpsc::channel::<Job>();
        std::thread::spawn(move || inbox.into_iter().for_each(|job| job()));
        jobs
    });
    before_exec(&mut prepared, room);
    let runtime = tokio::runtime::Handle::current();
    let (answer, answered) = tokio::sync::oneshot::channel();
    let job = move || {
        let _inside = runtime.enter();
        let started = tokio::process::Command::from(prepared)
            .kill_on_drop(true)
            .spawn();
        let started = started.map(|child| {
            let leader = child
                .id()
                .and_then(|id| i32::try_from(id).ok())
                .map(Pid::from_raw);
            (child, Session::of(leader))
        });
        // nobody waits any more: the program is dropped here, and killed with it
        drop(answer.send(started));
    };
    starter
        .send(Box::new(job))
        .expect("the starting thread lives as long as the agent");
    answered
        .await
        .expect("the starting thread answers every job")
}

/// Arranges what happens in the new process before it becomes the program.
#[expect(
    unsafe_code,
    reason = "a new process can be shaped only between fork and exec"
)]
fn before_exec(command: &mut std::process::Command, room: Option<Room>) {
    use std::os::unix::process::CommandExt;
    let agent = getpid();
    let prepare = move || -> std::io::Result<()> {
        setsid()?;
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // an agent that was killed before this line would be survived
        if getppid() != agent {
            return Err(Errno::ESRCH.into());
        }
        if let Some(room) = &room {
            enter(room)?;
        }
        Ok(())
    };
    // SAFETY: runs in the child of a process with threads, so it must not allocate or lock: it only makes system
    // calls with strings that were made before the fork.
    unsafe { command.pre_exec(prepare) };
}

/// Enters a room. Allocates nothing.
fn enter(room: &Room) -> nix::Result<()> {
    const NONE: Option<&CStr> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(
        NONE,
        c"/",
        NONE,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        NONE,
    )?;
    for bind in &room.binds {
        match mkdir(
            bind.to.as_c_str(),
            nix::sys::stat::Mode::from_bits_truncate(0o755),
        ) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error),
        }
        match &bind.from {
            Some(from) => {
                let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
                mount(Some(from.as_c_str()), bind.to.as_c_str(), NONE, flags, NONE)?;
            }
            None => {
                let (name, flags) = (Some(c"tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV);
                mount(name, bind.to.as_c_str(), name, flags, Some(c"mode=0755"))?;
            }
        }
    }
    chroot(room.root.as_c_str())?;
    chdir(c"/")
}
