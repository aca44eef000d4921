//! A machine made of a directory and a script, on which steps are rehearsed.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use super::{
    Machine,
    command::{Ended, Script},
};

/// A machine made of a directory and a script.
#[derive(Debug)]
pub(crate) struct Stage {
    dir: tempfile::TempDir,
    script: Script,
}

impl Stage {
    /// Makes a machine with nothing on it.
    pub(crate) fn new() -> Self {
        let stage = Self {
            dir: tempfile::tempdir().unwrap(),
            script: Script::default(),
        };
        stage.file("proc/sys/kernel/random/boot_id", "boot-1\n")
    }

    /// Puts a file on it.
    pub(crate) fn file(self, path: &str, content: &str) -> Self {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    /// Lets nobody else read a file.
    pub(crate) fn private(self, path: &str) -> Self {
        let ours = fs::Permissions::from_mode(0o600);
        fs::set_permissions(self.dir.path().join(path), ours).unwrap();
        self
    }

    /// Puts a symbolic link on it.
    pub(crate) fn link(self, path: &str, target: &str) -> Self {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
        self
    }

    /// Mounts a disk of 1 GiB with serial number `A` at `/mnt`.
    pub(crate) fn mounted(self) -> Self {
        self.disk().file(
            "proc/self/mountinfo",
            "1 0 254:0 / /mnt rw - ext4 /dev/vda rw\n",
        )
    }

    /// Plugs in a disk of 1 GiB with serial number `A`, and boot code on it.
    pub(crate) fn disk(self) -> Self {
        self.file("sys/class/block/vda/size", "2097152\n")
            .file("sys/class/block/vda/serial", "A\n")
            .file("sys/block/vda/size", "2097152\n")
            .file("dev/vda", &"x".repeat(512))
            .link("sys/dev/block/254:0", "../../block/vda")
    }

    /// Installs programs of Nix, and what they answer.
    pub(crate) fn nix(self, answers: &[(&str, Ended)]) -> Self {
        let programs = ["nix-store", "nix-env", "nix-daemon"];
        let stage = programs.iter().fold(self, |stage, name| {
            stage.file(&format!("usr/bin/{name}"), "")
        });
        answers.iter().fold(stage, |stage, (line, answer)| {
            stage.answer(&format!("/usr/bin/{line}"), answer.clone())
        })
    }

    /// Adds an answer to a command line.
    pub(crate) fn answer(mut self, line: &str, answer: Ended) -> Self {
        self.script = self.script.when(line, answer);
        self
    }

    /// Puts a tar archive on it, made of names and contents, and returns where.
    pub(crate) fn tarball(&self, files: &[(&str, &str)]) -> PathBuf {
        let path = self.dir.path().join("archive.tar");
        let mut builder = tar::Builder::new(fs::File::create(&path).unwrap());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o755);
            header.set_size(content.len() as u64);
            builder
                .append_data(&mut header, name, content.as_bytes())
                .unwrap();
        }
        builder.finish().unwrap();
        path
    }

    /// Returns the machine.
    pub(crate) fn machine(&self) -> Machine {
        Machine::scripted(
            self.dir.path(),
            self.dir.path().join("run/landfall"),
            self.script.clone(),
        )
    }

    /// Reads a file.
    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.dir.path().join(path)).unwrap()
    }

    /// Returns the files in which some bytes are found.
    pub(crate) fn files_with(&self, bytes: &[u8]) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.dir.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                // sockets and links to nowhere hold nothing
                let content = fs::read(&path).unwrap_or_default();
                if content.windows(bytes.len()).any(|window| window == bytes) {
                    let inside = path.strip_prefix(self.dir.path()).unwrap();
                    found.push(inside.display().to_string());
                }
            }
        }
        found
    }

    /// Returns the directory the machine is made of.
    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the command lines that were asked so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.script.asked()
    }
}
