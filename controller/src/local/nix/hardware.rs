//! Programs and files about hardware, as far as nix has to do with them.

use std::process::Stdio;

use engine::step::Context;
use landfall_proto::{failure::Failure, order::StorePath};
use tokio::{io::AsyncWriteExt, process::Command};

use super::Nix;
use crate::local::child::{self, Group, last_lines, printable};

/// Lines of nix's complaint that are told.
const LINES: usize = 8;

impl Nix {
    /// Builds nixos-facter for a machine with this processor, from the nixpkgs that the operator's nix knows.
    pub async fn facter(&self, arch: &str, cx: &Context) -> Result<StorePath, Failure> {
        let installable = format!("nixpkgs#legacyPackages.{arch}-linux.nixos-facter");
        self.build_installable(&installable, cx).await
    }

    /// Refuses what is no expression of Nix.
    pub async fn check_syntax(&self, text: &[u8]) -> Result<(), Failure> {
        let cannot = || Failure::new("cannot parse it as Nix");
        let beside = self.program.with_file_name("nix-instantiate");
        let program = match beside.is_file() {
            true => beside,
            false => "nix-instantiate".into(),
        };
        let mut command = Command::new(program);
        command
            .args(["--parse", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        child::tie(&mut command, Group::Own);
        let io = |error: &std::io::Error| {
            cannot()
                .because("running nix-instantiate --parse")
                .caused_by(error)
        };
        let mut running = command.spawn().map_err(|error| io(&error))?;
        let mut stdin = running.stdin.take().expect("stdin is piped");
        let write = async {
            // it may have seen enough before the end
            let _ = stdin.write_all(text).await;
            drop(stdin);
        };
        let (output, ()) = tokio::join!(running.wait_with_output(), write);
        let output = output.map_err(|error| io(&error))?;
        if output.status.success() {
            return Ok(());
        }
        let said = printable(&String::from_utf8_lossy(&output.stderr));
        Err(cannot().because(last_lines(&said, LINES).join("\n")))
    }
}
