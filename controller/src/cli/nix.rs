//! Options about Nix: where it builds, where it copies from, and how it is called.

use clap::Args;
use landfall_proto::failure::Failure;

use super::{
    deprecated::DeprecatedArgs,
    values::{Place, pairs, store_settings},
};
use crate::request::NixOptions;

#[derive(Debug, Args)]
#[command(next_help_heading = "Nix")]
pub(super) struct NixArgs {
    /// Where to build [default: auto]
    #[arg(long, value_enum, value_name = "WHERE")]
    build_on: Option<Place>,
    /// Set a setting of Nix (can be repeated)
    #[arg(long, num_args = 2, value_names = ["NAME", "VALUE"], allow_negative_numbers = true)]
    option: Vec<String>,
    /// Copy what is installed from this store instead of this machine's own
    #[arg(long, value_name = "STORE", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    from: Option<String>,
    /// Set a setting of the stores on the target (can be repeated); the value is encoded as in a URL
    #[arg(long, num_args = 2, value_names = ["NAME", "VALUE"])]
    ssh_store_setting: Vec<String>,
    /// Send everything from here: let the target fetch nothing from substituters
    #[arg(long)]
    no_substitute_on_destination: bool,
    /// Do not let the installer use the substituters and public keys of the configuration
    #[arg(long)]
    no_use_machine_substituters: bool,
    /// Show the output of builders
    #[arg(short = 'L', long)]
    pub(super) print_build_logs: bool,
    /// Show where an error of the evaluation comes from
    #[arg(long)]
    show_trace: bool,
}

impl NixArgs {
    /// Returns how Nix is called. With `debug` it tells everything.
    pub(super) fn options(
        self,
        deprecated: &DeprecatedArgs,
        debug: bool,
    ) -> Result<NixOptions, Failure> {
        Ok(NixOptions {
            build_on: deprecated.place(self.build_on)?.into(),
            settings: pairs(self.option),
            store_settings: store_settings(self.ssh_store_setting)?,
            from: self.from,
            substitute: !self.no_substitute_on_destination,
            // a target that may not substitute has no use for substituters
            machine_substituters: !self.no_use_machine_substituters
                && !self.no_substitute_on_destination,
            print_build_logs: self.print_build_logs || debug,
            show_trace: self.show_trace || debug,
        })
    }
}
