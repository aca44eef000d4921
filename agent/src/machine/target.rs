//! The new system below `/mnt`: what it needs before anything is started inside it, and starting it there.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
};

use landfall_proto::{failure::Failure, order::StorePath};

use super::{Machine, TARGET, broken, command::Command, mounts::Room};

impl Machine {
    /// Makes what every NixOS has before it is first activated: a place for temporary files, and its mark. Blocks.
    ///
    /// What builds on the disk left behind goes.
    pub fn prepare_target(&self) -> Result<(), Failure> {
        self.forget_builds()?;
        let prepare = || -> std::io::Result<()> {
            let temporary = self.at(&format!("{TARGET}/tmp"));
            fs::create_dir_all(&temporary)?;
            fs::set_permissions(&temporary, Permissions::from_mode(0o1777))?;
            let etc = self.at(&format!("{TARGET}/etc"));
            fs::create_dir_all(&etc)?;
            if !etc.join("NIXOS").exists() {
                fs::write(etc.join("NIXOS"), "")?;
            }
            // boot loaders look there for what is mounted
            if fs::symlink_metadata(etc.join("mtab")).is_err() {
                symlink("/proc/mounts", etc.join("mtab"))?;
            }
            Ok(())
        };
        prepare().map_err(broken("cannot prepare /mnt"))
    }

    /// Makes a command that runs one of the system's own programs inside it, with devices and firmware in reach.
    pub fn inside_target(&self, system: &StorePath, program: &str) -> Command {
        let room = Room::at(TARGET)
            .bind("/dev")
            .bind("/proc")
            .bind("/sys")
            .empty("/run");
        Command::new(format!("{system}/{program}"))
            .env("PATH", format!("{system}/sw/bin:{system}/sw/sbin"))
            .env(
                "LOCALE_ARCHIVE",
                format!("{system}/sw/lib/locale/locale-archive"),
            )
            .inside(room)
    }

    /// Writes all that is in memory to the disks. Blocks.
    pub fn sync(&self) {
        nix::unistd::sync();
    }
}
