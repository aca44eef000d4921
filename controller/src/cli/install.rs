//! Everything that `landfall install` takes, and the way from there to a [`Request`].

use std::path::PathBuf;

use clap::{ArgAction, Args};
use landfall_proto::{failure::Failure, order::TargetPath};

use super::{
    deprecated::DeprecatedArgs,
    environment::Environment,
    link::{HostArgs, LinkArgs, OutputArgs},
    nix::NixArgs,
    values::{Mode, Taking, hardware, keys, owner, pairs, resume},
    vm_test,
};
use crate::request::{Flake, Image, Kexec, Patience, Phases, Request, Source, VmTest};

/// What `landfall install` takes.
#[derive(Debug, Args)]
pub(super) struct InstallArgs {
    #[command(flatten)]
    host: HostArgs,
    #[command(flatten)]
    what: WhatArgs,
    #[command(flatten)]
    work: WorkArgs,
    #[command(flatten)]
    installer: InstallerArgs,
    #[command(flatten)]
    link: LinkArgs,
    #[command(flatten)]
    nix: NixArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    deprecated: DeprecatedArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "What to install")]
struct WhatArgs {
    /// Install this configuration of a flake
    #[arg(short, long, value_name = "URI#NAME")]
    flake: Option<Flake>,
    /// Install what has been built already: a disko script and a system
    #[arg(
        short,
        long,
        num_args = 2,
        action = ArgAction::Set,
        value_names = ["DISKO", "SYSTEM"],
        conflicts_with_all = ["flake", "disko_mode"]
    )]
    store_paths: Option<Vec<PathBuf>>,
    /// Write what BACKEND says about the machine to FILE here, before the configuration is built.
    /// BACKEND is `nixos-generate-config` or `nixos-facter`
    #[arg(long, num_args = 2, action = ArgAction::Set, value_names = ["BACKEND", "FILE"])]
    generate_hardware_config: Option<Vec<String>>,
    /// Copy the contents of this directory to `/` of the installed system, as root's
    #[arg(long, value_name = "DIR")]
    extra_files: Option<PathBuf>,
    /// Give PATH of the installed system and all below it to OWNER: `user`, `user:group` or `:group`,
    /// names or numbers (can be repeated)
    #[arg(long, num_args = 2, value_names = ["PATH", "OWNER"])]
    chown: Vec<String>,
    /// Keep the host keys: copy those of the installer, which are those of the old system
    #[arg(long)]
    copy_host_keys: bool,
    /// Copy the host keys to this directory of the installed system, such as `/persist/etc/ssh`
    /// (can be repeated)
    #[arg(long, value_name = "DIR")]
    copy_host_keys_to: Vec<TargetPath>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "What to do")]
struct WorkArgs {
    /// Do these phases, whatever their order in the list
    #[arg(
        long,
        value_name = "LIST",
        default_value = "kexec,disko,install,reboot"
    )]
    phases: Phases,
    /// What disko does to the disks
    #[arg(long, value_enum, default_value_t, value_name = "MODE")]
    disko_mode: Mode,
    /// Let disko use the programs of the installer instead of sending its own
    #[arg(long)]
    no_disko_deps: bool,
    /// Put the contents of the file or pipe LOCAL at the path REMOTE of the installer, for disko
    /// (can be repeated)
    #[arg(long, num_args = 2, value_names = ["REMOTE", "LOCAL"])]
    disk_encryption_keys: Vec<String>,
    /// Erase the disks without asking
    #[arg(short, long)]
    yes: bool,
    /// What to do about a run of this command that broke off [default: auto]
    #[arg(long, value_enum, value_name = "WHEN")]
    resume: Option<Taking>,
    /// The same as `--resume never`
    #[arg(long)]
    fresh: bool,
    /// Leave as soon as the machine has everything: it does the rest alone
    #[arg(long)]
    detach: bool,
    /// Wait for this long for a machine that boots: a number and `s`, `m` or `h`
    /// [default: 10m for the installer, 15m for the installed system]
    #[arg(long, value_name = "TIME")]
    boot_timeout: Option<Patience>,
    /// Do not wait for the installed system to come up
    #[arg(long)]
    no_verify: bool,
    /// Reboot although nothing was found that boots the system: the boot loader may be one that landfall does not know
    #[arg(long)]
    no_boot_check: bool,
    /// Leave the run's journal on the installed system, in `/nix/var/landfall`
    #[arg(long)]
    keep_journal: bool,
    /// Install nothing: test the configuration and its disks in a virtual machine here
    #[arg(long)]
    vm_test: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Installer")]
struct InstallerArgs {
    /// Boot this installer image, a tarball in the stock layout [default: the stock image]
    #[arg(long, value_name = "FILE|URL")]
    kexec: Option<Image>,
    /// Hand these flags to the image's `kexec/run`
    #[arg(
        long,
        value_name = "FLAGS",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    kexec_extra_flags: String,
    /// Boot the installer even where one runs already
    #[arg(long)]
    force_kexec: bool,
    /// Boot the old system again when nobody has come to the installer for this long and the disks are
    /// unchanged; 0 for never
    #[arg(long, value_name = "TIME", default_value = "30m")]
    return_after: Patience,
    /// Port of the installer's ssh server [default: 22 after kexec]
    #[arg(
        long,
        value_name = "PORT",
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    post_kexec_ssh_port: Option<u16>,
}

impl InstallArgs {
    /// Whether nothing is to be installed, but tested.
    pub(super) fn is_vm_test(&self) -> bool {
        self.work.vm_test
    }

    /// Returns what the user wants, whole and checked. Every failure is one of usage.
    pub(super) fn request(
        self,
        environment: &Environment,
        compat: bool,
        mut remarks: Vec<String>,
    ) -> Result<Request, Failure> {
        remarks.extend(self.deprecated.remarks());
        let target = self.host.target("install")?;
        let way = self
            .link
            .way(self.installer.post_kexec_ssh_port, environment)?;
        let output = self.output.output(self.nix.print_build_logs);
        let owners = pairs(self.what.chown).into_iter().map(owner);
        let hardware = only_pair(self.what.generate_hardware_config).map(hardware);
        let etc_ssh = self.what.copy_host_keys.then(etc_ssh);
        let request = Request {
            target,
            source: source(self.what.flake, self.what.store_paths),
            phases: self.deprecated.phases(self.work.phases)?,
            kexec: Kexec {
                image: self.installer.kexec.unwrap_or(Image::Default),
                extra_flags: self.installer.kexec_extra_flags,
                force: self.installer.force_kexec,
                return_after: self.installer.return_after,
            },
            login: way.login,
            privilege: way.privilege,
            host_key: way.host_key,
            fingerprints: way.fingerprints,
            disko_mode: self.work.disko_mode.into(),
            disko_deps: !self.work.no_disko_deps,
            keys: keys(self.work.disk_encryption_keys)?,
            extra_files: self.what.extra_files,
            owners: owners.collect::<Result<_, _>>()?,
            host_keys_to: each_once(etc_ssh.into_iter().chain(self.what.copy_host_keys_to)),
            hardware: hardware.transpose()?,
            check: !environment.no_check,
            boot_check: !self.work.no_boot_check,
            nix: self.nix.options(&self.deprecated, self.output.debug)?,
            yes: self.work.yes,
            resume: resume(self.work.resume, self.work.fresh)?,
            compat,
            detach: self.work.detach,
            verify: !self.work.no_verify,
            keep_journal: self.work.keep_journal,
            reconnect_timeout: way.reconnect_timeout,
            boot_timeout: self.work.boot_timeout.map(|patience| patience.0),
            output,
            remarks,
        };
        request.checked()
    }

    /// Returns what is to be tested. `given` are the options on the command line, by id and as users know them.
    pub(super) fn vm_test(
        self,
        given: &[(String, String)],
        mut remarks: Vec<String>,
    ) -> Result<VmTest, Failure> {
        vm_test::refuse(given)?;
        remarks.extend(self.deprecated.remarks());
        remarks.extend(vm_test::remark(given));
        let output = self.output.output(true);
        let nix = self.nix.options(&self.deprecated, self.output.debug)?;
        vm_test::refuse_remote(&nix)?;
        let flake = self.what.flake.ok_or_else(|| {
            Failure::new("cannot tell what to test")
                .because("`--vm-test` needs a configuration of a flake")
                .hint("name one: `landfall --vm-test --flake URI#NAME`")
                .code("LF0413")
        })?;
        Ok(VmTest {
            flake,
            nix,
            output,
            remarks,
        })
    }
}

fn source(flake: Option<Flake>, store_paths: Option<Vec<PathBuf>>) -> Option<Source> {
    let store_paths = store_paths.and_then(|paths| <[PathBuf; 2]>::try_from(paths).ok());
    match (flake, store_paths) {
        (Some(flake), _) => Some(Source::Flake(flake)),
        (None, Some([disko, system])) => Some(Source::StorePaths { disko, system }),
        (None, None) => None,
    }
}

/// Where `--copy-host-keys` copies them to.
fn etc_ssh() -> TargetPath {
    "/etc/ssh".parse().expect("this is a normal path")
}

fn only_pair(words: Option<Vec<String>>) -> Option<(String, String)> {
    pairs(words?).pop()
}

fn each_once<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    all.fold(Vec::new(), |mut once, one| {
        if !once.contains(&one) {
            once.push(one);
        }
        once
    })
}
