//! Options about the machine, the way there, and what is shown: the same for every command that looks at a machine.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use landfall_proto::failure::Failure;

use super::{environment::Environment, values::Policy};
use crate::request::{
    Fingerprint, HostKeyPolicy, Login, Output, Patience, Privilege, SshOption, Target, login,
};

#[derive(Debug, Args)]
pub(super) struct HostArgs {
    /// The machine: `user@host`, `ssh://user@host:port`, or an alias of ssh's configuration
    #[arg(value_name = "HOST", conflicts_with = "target_host")]
    host: Option<Target>,
    /// Whatever follows the machine: taken in so that it can be refused in plain words
    #[arg(hide = true)]
    surplus: Vec<String>,
    /// The machine, as an option
    #[arg(long, value_name = "HOST")]
    target_host: Option<Target>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Link")]
pub(super) struct LinkArgs {
    /// Log in with this private key
    #[arg(short, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Port of the machine's ssh server
    #[arg(
        short = 'p',
        long,
        value_name = "PORT",
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    ssh_port: Option<u16>,
    /// Hand an option to ssh (can be repeated)
    #[arg(long, value_name = "KEYWORD=VALUE")]
    ssh_option: Vec<SshOption>,
    /// Log in with the password in the variable SSHPASS
    #[arg(long)]
    env_password: bool,
    /// Take the password for sudo from this file or pipe
    #[arg(long, value_name = "FILE", conflicts_with = "env_sudo_password")]
    sudo_password_file: Option<PathBuf>,
    /// Take the password for sudo from the variable SUDOPASS
    #[arg(long)]
    env_sudo_password: bool,
    /// What to do about a host key that ssh does not know
    #[arg(long, value_enum, default_value_t, value_name = "POLICY")]
    host_key_policy: Policy,
    /// Take only a machine with this host key, by its fingerprint (can be repeated)
    #[arg(long, value_name = "SHA256:…")]
    host_key: Vec<Fingerprint>,
    /// Try again for this long when the link is lost: a number and `s`, `m` or `h`
    #[arg(long, value_name = "TIME", default_value = "1h")]
    reconnect_timeout: Patience,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub(super) struct OutputArgs {
    /// Show the output of programs too
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,
    /// The same as `-vv -L --show-trace`
    #[arg(long)]
    pub(super) debug: bool,
    /// Print events to stdout, one JSON object a line
    #[arg(long)]
    json: bool,
}

/// How the machine is reached.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) login: Login,
    pub(super) privilege: Privilege,
    pub(super) host_key: HostKeyPolicy,
    pub(super) fingerprints: Vec<Fingerprint>,
    pub(super) reconnect_timeout: std::time::Duration,
}

impl HostArgs {
    /// Returns the machine; `verb` says what is to be done with it.
    pub(super) fn target(self, verb: &str) -> Result<Target, Failure> {
        if let Some(word) = self.surplus.first() {
            let failure = Failure::new(format!("cannot {verb} more than one machine at a time"))
                .because(format!("`{word}` is one word too many"))
                .code("LF0415");
            let host = self.host.as_ref().map(|host| &*host.host);
            return Err(match host.filter(|host| super::is_command(host)) {
                Some(command) => failure.hint(format!(
                    "a command stands before its options: `landfall {command} …`"
                )),
                None => failure.hint(
                    "run landfall once for each machine; put quotes around a value with blanks",
                ),
            });
        }
        self.host.or(self.target_host).ok_or_else(|| {
            Failure::new(format!("cannot tell which machine to {verb}"))
                .hint("name it: `landfall … root@HOST`")
                .code("LF0412")
        })
    }
}

impl LinkArgs {
    pub(super) fn way(
        self,
        post_kexec_port: Option<u16>,
        environment: &Environment,
    ) -> Result<Way, Failure> {
        let unset = |what: &str, option: &str, variable: &str| {
            Failure::new(format!("cannot {what} with a password"))
                .because(format!("{variable} is not set, or empty"))
                .hint(format!("set it: `{variable}=… landfall {option} …`"))
                .code("LF0116")
        };
        if self.env_password && !environment.password {
            return Err(unset("log in", "--env-password", login::PASSWORD));
        }
        if self.env_sudo_password && !environment.sudo_password {
            return Err(unset(
                "become root",
                "--env-sudo-password",
                login::SUDO_PASSWORD,
            ));
        }
        Ok(Way {
            login: Login {
                env_key: self.identity.is_none() && environment.private_key,
                identity: self.identity,
                env_password: self.env_password,
                port: self.ssh_port,
                post_kexec_port,
                options: self.ssh_option,
            },
            privilege: Privilege {
                password_file: self.sudo_password_file,
                from_env: self.env_sudo_password,
            },
            host_key: self.host_key_policy.into(),
            fingerprints: self.host_key,
            reconnect_timeout: self.reconnect_timeout.0,
        })
    }
}

impl OutputArgs {
    /// Returns what is shown; build logs that are wanted are lines of a program, which are shown from 1 on.
    pub(super) fn output(&self, build_logs: bool) -> Output {
        Output {
            json: self.json,
            verbosity: match self.debug {
                true => 2,
                false => self.verbose.clamp(u8::from(build_logs), 2),
            },
        }
    }
}
