//! The agent's life: one per machine, from the first call to the last release.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use landfall_proto::{failure::Failure, v1::agent_server::AgentServer, wire};
use serde::Serialize;
use tonic::transport::Server;

use crate::{
    deadman::{self, Contact},
    departure::Callers,
    history,
    machine::{self, Machine, command, files},
    service::Service,
    session::Session,
    tunnel::{self, Credentials},
};

/// Longest that a started agent may take to answer: a machine under load reads its own file slowly.
const UP_WITHIN: Duration = Duration::from_secs(30);
/// What may be under way to the agent on one bulk stream; the streams' own credit is smaller.
const WINDOW: u32 = 16 << 20;

/// What `spawn` prints, one JSON object.
#[derive(Debug, Serialize)]
pub struct Started {
    /// The socket the agent listens on.
    pub socket: PathBuf,
    /// Its process number.
    pub pid: i32,
    /// BLAKE3 of the file `spawn` ran from; the agent says its own in `Hello`.
    pub build: String,
}

/// What `version` prints, one JSON object.
#[derive(Debug, Serialize)]
pub struct Identity {
    /// Version of the program.
    pub version: &'static str,
    /// Protocols it speaks, oldest and newest.
    pub protocols: [u32; 2],
    /// BLAKE3 of its file.
    pub build: String,
}

/// Tells which program this is.
pub fn identity() -> Result<Identity, Failure> {
    use landfall_proto::version::{PROTOCOL_MAX, PROTOCOL_MIN};
    let build = machine::spool::hash(Path::new("/proc/self/exe"))?;
    Ok(Identity {
        version: env!("CARGO_PKG_VERSION"),
        protocols: [PROTOCOL_MIN, PROTOCOL_MAX],
        build,
    })
}

/// How long callers may take to hear the last answers, once there is nothing more to do.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Serves until there is nothing more to do here.
///
/// Refuses to be the second agent of a machine.
pub async fn serve(dir: &Path) -> Result<(), Failure> {
    let machine = Machine::real(dir);
    let Some(_lock) = machine.lock()? else {
        return Err(Failure::new("refusing to serve twice")
            .because(format!("another agent holds {}", dir.display()))
            .code("LF1207"));
    };
    command::end_leftovers();
    machine.make_room();
    files::usual_umask();
    let (contact, all) = (Contact::new(), Callers::new());
    let callers = tunnel::listen(dir, contact.clone(), all.clone())?;
    history::take_over(&machine);
    let stopped = deadman::take_over(&machine).await;
    let session = Session::open(machine.clone(), all)?;
    deadman::watch(Arc::clone(&session), contact, stopped);
    let service = AgentServer::new(Service {
        session: Arc::clone(&session),
    })
    .max_decoding_message_size(wire::CONTROL_MESSAGE_MAX)
    .max_encoding_message_size(wire::CONTROL_MESSAGE_MAX);
    // no pings from this side: on a slow link they starve behind a bulk lane's bytes and end it (measured: 4 Mbit/s, 56 s)
    let served = Server::builder()
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .add_service(service)
        .serve_with_incoming_shutdown(callers, session.over());
    let too_long = async {
        session.over().await;
        tokio::time::sleep(LAST_WORDS).await;
    };
    tokio::select! {
        served = served => {
            served.map_err(|error| Failure::new("cannot serve").caused_by(&error).code("LF1207"))?;
        }
        // a caller whose link is dead without a word would keep us here for as long as its proxy believes in it
        () = too_long => {}
    }
    // nothing of us stays on a machine that was not installed
    machine::detach::remove_own_program();
    machine.leave_room();
    files::remove_directory(dir)
}

/// Starts an agent that outlives this login, or finds the one that runs, and returns once it answers.
///
/// With `only_find` none is started, and nothing is changed where none runs.
pub async fn spawn(
    dir: &Path,
    credentials: &Credentials,
    only_find: bool,
) -> Result<Started, Failure> {
    let machine = Machine::real(dir);
    let nobody = || {
        Failure::new("cannot find an agent")
            .because(format!("none serves in {}", dir.display()))
            .code("LF1207")
    };
    // the lock would make the folder
    if only_find && !machine.has_dir() {
        return Err(nobody());
    }
    let runs = machine.lock()?.is_none();
    if only_find && !runs {
        return Err(nobody());
    }
    tunnel::admit(dir, credentials)?;
    if !runs {
        machine
            .start_agent(&machine::detach::own_program()?)
            .await?;
    }
    let pid = tunnel::wait_until_up(dir, UP_WITHIN).await?;
    Ok(Started {
        socket: tunnel::socket(dir),
        pid,
        build: identity()?.build,
    })
}
