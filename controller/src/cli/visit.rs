//! What commands take that begin no run: the way to a machine, and what is shown.

use std::path::PathBuf;

use clap::Args;
use landfall_proto::{failure::Failure, order::DiskoMode};

use super::{
    environment::Environment,
    link::{HostArgs, LinkArgs, OutputArgs, Way},
};
use crate::{
    bundle::Wanted,
    request::{BuildOn, Image, Kexec, NixOptions, Output, Phases, Request, Resume, Target},
};

/// What every command takes that goes to a machine and installs nothing.
#[derive(Debug, Args)]
pub(super) struct VisitArgs {
    #[command(flatten)]
    host: HostArgs,
    #[command(flatten)]
    link: LinkArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What `landfall cancel` takes.
#[derive(Debug, Args)]
pub(super) struct CancelArgs {
    #[command(flatten)]
    pub(super) visit: VisitArgs,
    /// Stop it even while it works on the disks, which are of no use then
    #[arg(long, help_heading = "What to do")]
    pub(super) force: bool,
}

/// What `landfall bundle` takes.
#[derive(Debug, Args)]
pub(super) struct BundleArgs {
    #[command(flatten)]
    host: HostArgs,
    /// Write the bundle to this file, `-` for stdout [default: into the folder of the run]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    link: LinkArgs,
    /// Port of the installer's ssh server [default: 22 after kexec]
    #[arg(
        long,
        value_name = "PORT",
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    post_kexec_ssh_port: Option<u16>,
}

impl BundleArgs {
    /// Returns what is asked for.
    pub(super) fn wanted(
        self,
        environment: &Environment,
        remarks: Vec<String>,
    ) -> Result<Wanted, Failure> {
        let target = self.host.target("gather from")?;
        let way = self.link.way(self.post_kexec_ssh_port, environment)?;
        let output = Output {
            json: false,
            verbosity: 0,
        };
        let request = looking(target, way, output, false, remarks);
        Ok(Wanted {
            request,
            output: self.output,
        })
    }
}

impl VisitArgs {
    /// Returns a request for everything, with nothing to install: it is looked at, and never told to the machine.
    pub(super) fn request(
        self,
        verb: &str,
        environment: &Environment,
        remarks: Vec<String>,
    ) -> Result<Request, Failure> {
        let target = self.host.target(verb)?;
        let way = self.link.way(None, environment)?;
        let output = self.output.output(false);
        Ok(looking(target, way, output, self.output.debug, remarks))
    }
}

/// Returns a request for everything, with nothing to install: it is looked at, and never told to the machine.
fn looking(
    target: Target,
    way: Way,
    output: Output,
    show_trace: bool,
    remarks: Vec<String>,
) -> Request {
    Request {
        target,
        source: None,
        phases: Phases::all(),
        kexec: Kexec {
            image: Image::Default,
            extra_flags: String::new(),
            force: false,
            return_after: Kexec::RETURN_AFTER,
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
        boot_check: true,
        nix: NixOptions {
            build_on: BuildOn::Auto,
            settings: Vec::new(),
            store_settings: Vec::new(),
            from: None,
            substitute: true,
            machine_substituters: true,
            print_build_logs: false,
            show_trace,
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
    }
}
