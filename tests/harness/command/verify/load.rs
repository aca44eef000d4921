//! Processors that are kept busy beside tests, to see what a slow and busy host does to them.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// Busy processes, ended with this value.
#[derive(Debug)]
pub(super) struct Load(Vec<Child>);

impl Load {
    /// Keeps so many processors busy.
    pub(super) fn begin(processors: usize) -> Result<Self> {
        let mut load = Self(Vec::new());
        for _ in 0..processors {
            // the kernel ends it with the thread that asked
            let busy = Command::new("setpriv")
                .args(["--pdeathsig", "KILL", "sh", "-c", "while :; do :; done"])
                .stdin(Stdio::null())
                .spawn();
            load.0.push(busy.context("starting a load")?);
        }
        Ok(load)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for busy in &mut self.0 {
            let _ = busy.kill();
            let _ = busy.wait();
        }
    }
}
