//! The command line: clap's types, help texts, and the way from there to a [`Request`].
//!
//! Reads nothing but its arguments. An option is here only if it does what its help says.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use landfall_proto::{
    failure::Failure,
    order::{DiskoMode, TargetPath},
};

use crate::{
    exit,
    request::{
        BuildOn, Fingerprint, Flake, HostKeyPolicy, Image, Kexec, Login, NixOptions, Output,
        Patience, Phases, Privilege, Request, Source, SshOption, Target,
    },
};

const EXAMPLES: &str = "\
Examples:
  landfall --flake .#web root@192.0.2.7
  landfall --flake .#web --phases kexec root@192.0.2.7
  landfall --store-paths ./result-disko ./result-system --yes root@192.0.2.7";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "landfall",
    bin_name = "landfall",
    version,
    about = "Install NixOS on a machine that is reachable over SSH, and keep going when the link does not",
    after_help = format!("{EXAMPLES}\n\n{}", exit::table()),
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    install: InstallArgs,
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Install a machine; what landfall does when no command is named
    #[command(after_help = format!("{EXAMPLES}\n\n{}", exit::table()))]
    Install(Box<InstallArgs>),
    /// Show a run that was recorded with `--json`
    Replay {
        /// The recording; `-` for stdin
        file: PathBuf,
        /// Show the output of programs too
        #[arg(short, long, action = ArgAction::Count)]
        verbose: u8,
    },
}

/// What `landfall install` takes.
#[derive(Debug, Args)]
pub struct InstallArgs {
    /// The machine: `user@host`, `ssh://user@host:port`, or an alias of ssh's configuration
    #[arg(value_name = "HOST", conflicts_with = "target_host")]
    host: Option<Target>,
    /// Whatever follows the machine: taken in so that it can be refused in plain words
    #[arg(hide = true)]
    surplus: Vec<String>,
    /// The machine, as an option
    #[arg(long, value_name = "HOST")]
    target_host: Option<Target>,

    /// Install this configuration of a flake
    #[arg(short, long, value_name = "URI#NAME", help_heading = "What to install")]
    flake: Option<Flake>,
    /// Install what has been built already: a disko script and a system
    #[arg(
        short,
        long,
        num_args = 2,
        action = ArgAction::Set,
        value_names = ["DISKO", "SYSTEM"],
        conflicts_with_all = ["flake", "disko_mode"],
        help_heading = "What to install"
    )]
    store_paths: Option<Vec<PathBuf>>,
    /// Copy the contents of this directory to `/` of the installed system, as root's
    #[arg(long, value_name = "DIR", help_heading = "What to install")]
    extra_files: Option<PathBuf>,
    /// Keep the host keys: copy those of the installer, which are those of the old system
    #[arg(long, help_heading = "What to install")]
    copy_host_keys: bool,

    /// Do these phases, whatever their order in the list
    #[arg(
        long,
        value_name = "LIST",
        default_value = "kexec,disko,install,reboot",
        help_heading = "What to do"
    )]
    phases: Phases,
    /// What disko does to the disks
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "MODE",
        help_heading = "What to do"
    )]
    disko_mode: Mode,
    /// Erase the disks without asking
    #[arg(short, long, help_heading = "What to do")]
    yes: bool,
    /// Begin a new run instead of taking up the one that broke off
    #[arg(long, help_heading = "What to do")]
    fresh: bool,
    /// Do not wait for the installed system to come up
    #[arg(long, help_heading = "What to do")]
    no_verify: bool,

    /// Boot this installer image, a tarball in the stock layout [default: the stock image]
    #[arg(long, value_name = "FILE|URL", help_heading = "Installer")]
    kexec: Option<Image>,
    /// Hand these flags to the image's `kexec/run`
    #[arg(
        long,
        value_name = "FLAGS",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true,
        help_heading = "Installer"
    )]
    kexec_extra_flags: String,
    /// Boot the installer even where one runs already
    #[arg(long, help_heading = "Installer")]
    force_kexec: bool,

    /// Log in with this private key
    #[arg(short, value_name = "FILE", help_heading = "Link")]
    identity: Option<PathBuf>,
    /// Port of the machine's ssh server
    #[arg(
        short = 'p',
        long,
        value_name = "PORT",
        value_parser = clap::value_parser!(u16).range(1..),
        help_heading = "Link"
    )]
    ssh_port: Option<u16>,
    /// Port of the installer's ssh server [default: 22 after kexec]
    #[arg(
        long,
        value_name = "PORT",
        value_parser = clap::value_parser!(u16).range(1..),
        help_heading = "Link"
    )]
    post_kexec_ssh_port: Option<u16>,
    /// Hand an option to ssh (can be repeated)
    #[arg(long, value_name = "KEYWORD=VALUE", help_heading = "Link")]
    ssh_option: Vec<SshOption>,
    /// What to do about a host key that ssh does not know
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "POLICY",
        help_heading = "Link"
    )]
    host_key_policy: Policy,
    /// Take only a host key with this fingerprint (can be repeated)
    #[arg(long, value_name = "SHA256:…", help_heading = "Link")]
    host_key: Vec<Fingerprint>,
    /// Try again for this long when the link is lost: a number and `s`, `m` or `h`
    #[arg(long, value_name = "TIME", default_value = "1h", help_heading = "Link")]
    reconnect_timeout: Patience,

    /// Where to build
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "WHERE",
        help_heading = "Nix"
    )]
    build_on: Place,
    /// Set a setting of Nix (can be repeated)
    #[arg(long, num_args = 2, value_names = ["NAME", "VALUE"], help_heading = "Nix")]
    option: Vec<String>,
    /// Show the output of builders
    #[arg(short = 'L', long, help_heading = "Nix")]
    print_build_logs: bool,
    /// Show where an error of the evaluation comes from
    #[arg(long, help_heading = "Nix")]
    show_trace: bool,

    /// Show the output of programs too
    #[arg(short, long, action = ArgAction::Count, help_heading = "Output")]
    verbose: u8,
    /// The same as `-vv -L --show-trace`
    #[arg(long, help_heading = "Output")]
    debug: bool,
    /// Print events to stdout, one JSON object a line
    #[arg(long, help_heading = "Output")]
    json: bool,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Mode {
    /// Destroy, format and mount
    #[default]
    Disko,
    /// Mount what is there
    Mount,
    /// Create what is missing and mount
    Format,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Policy {
    /// Ask on a terminal; without one accept it and warn
    #[default]
    Ask,
    /// Refuse it
    Strict,
    /// Accept it
    AcceptNew,
    /// Accept any key, even one that differs from the known one
    Off,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Place {
    /// Where it can be built; today that is here
    #[default]
    Auto,
    /// Here
    Local,
}

impl Cli {
    /// Returns the command, which is to install where none is named.
    pub fn command(self) -> Command {
        self.command
            .unwrap_or_else(|| Command::Install(Box::new(self.install)))
    }
}

impl InstallArgs {
    /// Returns what the user wants, whole and checked. Every failure is one of usage.
    pub fn request(self) -> Result<Request, Failure> {
        if let Some(word) = self.surplus.first() {
            return Err(
                Failure::new("cannot install more than one machine at a time")
                    .because(format!("`{word}` is one word too many"))
                    .hint(
                        "run landfall once for each machine; put quotes around a value with blanks",
                    ),
            );
        }
        let target = self.host.or(self.target_host).ok_or_else(|| {
            Failure::new("cannot tell which machine to install")
                .hint("name it: `landfall … root@HOST`")
        })?;
        let store_paths = self
            .store_paths
            .and_then(|paths| <[PathBuf; 2]>::try_from(paths).ok());
        let source = match (self.flake, store_paths) {
            (Some(flake), _) => Some(Source::Flake(flake)),
            (None, Some([disko, system])) => Some(Source::StorePaths { disko, system }),
            (None, None) => None,
        };
        let request = Request {
            target,
            source,
            phases: self.phases,
            kexec: Kexec {
                image: self.kexec.unwrap_or(Image::Default),
                extra_flags: self.kexec_extra_flags,
                force: self.force_kexec,
            },
            login: Login {
                identity: self.identity,
                env_key: false,
                env_password: false,
                port: self.ssh_port,
                post_kexec_port: self.post_kexec_ssh_port,
                options: self.ssh_option,
            },
            privilege: Privilege {
                password_file: None,
                from_env: false,
            },
            host_key: self.host_key_policy.into(),
            fingerprints: self.host_key,
            disko_mode: self.disko_mode.into(),
            disko_deps: true,
            keys: Vec::new(),
            extra_files: self.extra_files,
            owners: Vec::new(),
            host_keys_to: self.copy_host_keys.then(etc_ssh).into_iter().collect(),
            hardware: None,
            check: true,
            nix: NixOptions {
                build_on: self.build_on.into(),
                settings: pairs(self.option),
                store_settings: Vec::new(),
                from: None,
                substitute: true,
                machine_substituters: true,
                print_build_logs: self.print_build_logs || self.debug,
                show_trace: self.show_trace || self.debug,
            },
            yes: self.yes,
            fresh: self.fresh,
            compat: false,
            verify: !self.no_verify,
            reconnect_timeout: self.reconnect_timeout.0,
            output: Output {
                json: self.json,
                // build logs are lines of a program, which are shown from 1 on
                verbosity: match self.debug {
                    true => 2,
                    false => self.verbose.clamp(u8::from(self.print_build_logs), 2),
                },
            },
            remarks: Vec::new(),
        };
        request.checked()
    }
}

/// Where `--copy-host-keys` copies them to.
fn etc_ssh() -> TargetPath {
    "/etc/ssh".parse().expect("this is a normal path")
}

/// clap hands the values of an option that takes two and can be repeated over in one row.
fn pairs(row: Vec<String>) -> Vec<(String, String)> {
    let mut row = row.into_iter();
    std::iter::from_fn(|| row.next().zip(row.next())).collect()
}

impl From<Mode> for DiskoMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Disko => Self::Disko,
            Mode::Mount => Self::Mount,
            Mode::Format => Self::Format,
        }
    }
}

impl From<Policy> for HostKeyPolicy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Ask => Self::Ask,
            Policy::Strict => Self::Strict,
            Policy::AcceptNew => Self::AcceptNew,
            Policy::Off => Self::Off,
        }
    }
}

impl From<Place> for BuildOn {
    fn from(place: Place) -> Self {
        match place {
            Place::Auto => Self::Auto,
            Place::Local => Self::Local,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::request::Phase;

    fn request(line: &str) -> Request {
        let words = ["landfall"].into_iter().chain(line.split(' '));
        let Command::Install(args) = Cli::try_parse_from(words).unwrap().command() else {
            panic!("{line} is not an install");
        };
        args.request().unwrap()
    }

    #[test]
    fn clap_finds_no_contradiction() {
        <Cli as CommandFactory>::command().debug_assert();
    }

    #[test]
    fn help_lists_every_exit_code() {
        let help = <Cli as CommandFactory>::command().render_help().to_string();
        let rows = help.split_once("Exit codes:\n").unwrap().1;
        let codes: Vec<u8> = rows
            .lines()
            .filter_map(|row| row.split_whitespace().next()?.parse().ok())
            .collect();
        assert_eq!(codes, exit::Exit::ALL.map(exit::Exit::code));
    }

    #[test]
    fn install_is_what_landfall_does_without_a_command() {
        assert_eq!(request("--flake .#a h"), request("install --flake .#a h"));
        assert_eq!(request("--flake .#a --target-host h"), request("-f .#a h"));
        assert_eq!(request("h --flake=.#a"), request("-f.#a h"));
    }

    #[test]
    fn defaults_do_everything_and_ask() {
        let request = request("-f .#a h");
        assert_eq!(request.phases.iter().collect::<Vec<_>>(), Phase::ALL);
        assert_eq!(
            request.kexec,
            Kexec {
                image: Image::Default,
                extra_flags: String::new(),
                force: false
            }
        );
        assert_eq!(request.host_key, HostKeyPolicy::Ask);
        assert_eq!(request.disko_mode, DiskoMode::Disko);
        assert_eq!(request.reconnect_timeout.as_secs(), 3600);
        assert!(request.verify && !request.yes);
        assert!(request.warnings().is_empty());
    }

    #[test]
    fn options_that_take_two_values_leave_the_host_alone() {
        let request = request("-s /d /s --option a b h --option c d");
        assert_eq!(
            request.source,
            Some(Source::StorePaths {
                disko: "/d".into(),
                system: "/s".into()
            })
        );
        let settings =
            [("a", "b"), ("c", "d")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(request.nix.settings, settings);
        assert_eq!(request.target.host, "h");
    }

    #[test]
    fn force_kexec_does_not_swallow_what_follows() {
        assert_eq!(request("-f .#a --force-kexec h").target.host, "h");
    }

    #[test]
    fn debug_is_everything() {
        let request = request("-f .#a --debug h");
        assert_eq!(
            (request.output.verbosity, request.nix.print_build_logs),
            (2, true)
        );
    }

    #[test]
    fn kexec_alone_needs_no_configuration() {
        assert_eq!(request("--phases kexec h").source, None);
    }

    #[test]
    fn what_has_no_effect_is_warned_about() {
        let request = request(
            "-f .#a --phases disko --kexec x --extra-files y --copy-host-keys --ssh-option UserKnownHostsFile=z h",
        );
        let warnings = request.warnings();
        assert_eq!(warnings.len(), 4, "{warnings:?}");
        assert!(
            warnings
                .iter()
                .all(|warning| warning.contains("; continuing because ")),
            "{warnings:?}"
        );
    }
}
