//! Starts the agent so that it outlives the login that started it.

use std::{
    fs::OpenOptions,
    process::{Command, Stdio},
};

use landfall_proto::failure::Failure;

use super::{Machine, broken, bus};

/// Name of the transient unit.
const UNIT: &str = "landfall-agent.service";

impl Machine {
    /// Starts `program serve` away from this login: as a transient unit where systemd is PID 1, else in a new session.
    pub async fn start_agent(&self, program: &str) -> Result<(), Failure> {
        let dir = self.dir().to_string_lossy().into_owned();
        let argv = [program, "serve", "--dir", &dir];
        if self.at("/run/systemd/system").exists() {
            match bus::start_unit(UNIT, &argv).await {
                Ok(()) => return Ok(()),
                // a bus that does not answer is no reason not to install
                Err(failure) => self
                    .start_in_session(&argv)
                    .map_err(|other| other.because(failure.to_string()))?,
            }
            return Ok(());
        }
        self.start_in_session(&argv)
    }

    fn start_in_session(&self, argv: &[&str]) -> Result<(), Failure> {
        let path = self.dir().join("agent.log");
        let log = OpenOptions::new().create(true).append(true).open(&path);
        let log = log.map_err(broken(format!("cannot open {}", path.display())))?;
        let again = log.try_clone().map_err(broken("cannot share the log"))?;
        // `serve` leaves this session by itself; a program cannot do that for another one
        Command::new(argv[0])
            .args(&argv[1..])
            .arg("--leave-session")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(again)
            .spawn()
            .map(drop)
            .map_err(broken(format!("cannot start {}", argv[0])))
    }
}

/// Returns the path of the running program.
pub fn own_program() -> Result<String, Failure> {
    let path =
        std::fs::read_link("/proc/self/exe").map_err(broken("cannot find the own program"))?;
    Ok(path.to_string_lossy().into_owned())
}

/// Removes the file of the running program and its folder, if it was sent here by a controller.
pub fn remove_own_program() {
    let Ok(path) = own_program() else { return };
    let Some((folder, name)) = path.rsplit_once('/') else {
        return;
    };
    if name.starts_with("landfall-agent-") {
        // what cannot be removed does no harm
        let _ = std::fs::remove_file(&path);
        // another agent may lie there too: only an empty folder goes
        if folder.ends_with("/landfall-bin") {
            let _ = std::fs::remove_dir(folder);
        }
    }
}
