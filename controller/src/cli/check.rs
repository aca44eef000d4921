//! What `landfall check` takes: the way to a machine, and nothing that would change it.

use clap::Args;
use landfall_proto::{failure::Failure, order::DiskoMode};

use super::{
    environment::Environment,
    link::{HostArgs, LinkArgs, OutputArgs},
};
use crate::request::{BuildOn, Image, Kexec, NixOptions, Phases, Request, Resume};

/// What `landfall check` takes.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    host: HostArgs,
    #[command(flatten)]
    link: LinkArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl CheckArgs {
    /// Returns a request for everything, with nothing to install: it is looked at, and never told to the machine.
    pub(super) fn request(
        self,
        environment: &Environment,
        remarks: Vec<String>,
    ) -> Result<Request, Failure> {
        let target = self.host.target("check")?;
        let way = self.link.way(None, environment)?;
        let output = self.output.output(false);
        Ok(Request {
            target,
            source: None,
            phases: Phases::all(),
            kexec: Kexec {
                image: Image::Default,
                extra_flags: String::new(),
                force: false,
            },
            login: way.login,
            privilege: way.privilege,
            host_key: way.host_key,
            fingerprints: way.fingerprints,
            disko_mode: DiskoMode::Disko,
            disko_deps: true,
            keys: Vec::new(),
            extra_files: None,
            owners: Vec::new(),
            host_keys_to: Vec::new(),
            hardware: None,
            check: true,
            nix: NixOptions {
                build_on: BuildOn::Auto,
                settings: Vec::new(),
                store_settings: Vec::new(),
                from: None,
                substitute: true,
                machine_substituters: true,
                print_build_logs: false,
                show_trace: self.output.debug,
            },
            yes: false,
            resume: Resume::Never,
            compat: false,
            detach: false,
            verify: false,
            keep_journal: false,
            reconnect_timeout: way.reconnect_timeout,
            boot_timeout: None,
            output,
            remarks,
        })
    }
}
