//! Loads the installer. The agent has the kernel start it once the end of the run was heard.
//!
//! Nothing here touches a disk of the old system, except the agent's own directories.

use std::{path::Path, time::Duration};

use engine::step::{Context, Done, Repeat, Step};
use landfall_proto::{
    event::Unit,
    failure::Failure,
    order::{self, RunId},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Arrived;
use crate::machine::{
    Machine,
    command::{Command, Ended, PATH},
    initrd::{AMEND, Amendment},
    kexec::{NO_ARCHIVE, WORDS},
    marker::{Marker, Past},
    timer,
};

/// What an image's script says when the kernel is loaded; the last thing it can say.
const MARKER: &str = "machine will boot into nixos";

/// What is told where the image starts its kernel in a way of its own, or with a very long command line.
const WITHOUT_TIMER: &str = "the installer does not boot the old system again by itself until an agent has come there; continuing because that is needed only if none comes";

/// Copying and compressing the state takes seconds, loading a big initrd on a slow disk a minute.
const DEADLINE: Duration = Duration::from_secs(600);

/// Longest that what was written before may take to reach the disks.
const SYNC: Duration = Duration::from_secs(120);

/// Longest that cleaning the disk may hold up the jump.
const TIDYING: Duration = Duration::from_secs(3);

/// Makes ready to boot the installer by kexec.
#[derive(Debug)]
pub struct Kexec<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// Name of the run, found again in the installer.
    pub run: &'a RunId,
    /// What was asked for.
    pub order: &'a order::Kexec,
    /// The image.
    pub image: &'a Arrived,
    /// The journal of the run so far, for the installer to go on with.
    pub past: &'a [Value],
}

/// An installer that is started as soon as this was heard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// Name of the boot that ends.
    pub boot_id: String,
    /// Public host keys that the installer will have, one line each.
    pub host_keys: Vec<String>,
}

impl Step for Kexec<'_> {
    const NAME: &'static str = "kexec";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = Loaded;

    async fn run(&self, cx: &Context) -> Result<Done<Loaded>, Failure> {
        self.allowed()?;
        self.unpack(cx).await?;
        self.has_memory()?;
        self.sync(cx).await;
        let host_keys = self.prepare().await?;
        self.load(cx).await?;
        self.machine
            .blocking(|machine| machine.set_loaded(true))
            .await;
        self.leave_disk().await;
        let loaded = Loaded {
            boot_id: self.machine.boot_id(),
            host_keys,
        };
        Ok(match self.returns().await {
            true => Done::new(loaded),
            false => Done::warned(loaded, WITHOUT_TIMER),
        })
    }

    /// An agent that starts again in the old system has to load anew: the kernel was not started.
    async fn still_true(&self, _: &Loaded) -> bool {
        false
    }
}

impl Kexec<'_> {
    fn allowed(&self) -> Result<(), Failure> {
        let refused = Failure::new("cannot boot the installer by kexec");
        if self.machine.kexec_load_disabled() == Some(true) {
            return Err(refused
                .because("the kernel takes no other kernel until the next boot (kexec_load_disabled is 1)")
                .hint("remove `kernel.kexec_load_disabled` from `/etc/sysctl.d` and reboot, or boot an installer by hand")
                .code("LF1401"));
        }
        match self.machine.lockdown().as_deref() {
            None | Some("none") => Ok(()),
            // an image that is signed may still be loaded; ours and the stock ones are not
            Some(level) => Err(refused
                .because(format!(
                    "the kernel is locked down ({level}), as Secure Boot demands"
                ))
                .hint("turn Secure Boot off in the firmware, or boot an installer by hand")
                .code("LF1402")),
        }
    }

    async fn unpack(&self, cx: &Context) -> Result<(), Failure> {
        let (archive, total) = (self.image.path.clone(), self.image.size);
        let stop = cx.cancel_token().child_token();
        let _stopped_when_dropped = stop.clone().drop_guard();
        let told = cx.clone();
        let progress = move |done| told.progress(done, Some(total), Unit::Bytes);
        let unpacked = self.machine.blocking(move |machine| {
            // an image that ran once has its initrd changed in place
            machine.unpack_image(&archive, &stop, progress)
        });
        unpacked.await
    }

    fn has_memory(&self) -> Result<(), Failure> {
        let size = |name: &str| {
            self.machine
                .size_of(&self.machine.kexec_dir().join("kexec").join(name))
        };
        let headline = "cannot boot the installer by kexec";
        let under = |failure: Failure| failure.under(headline).code("LF1403");
        let (kernel, initrd) = (
            size("bzImage").map_err(under)?,
            size("initrd").map_err(under)?,
        );
        // the image as it is loaded, and once more while the new kernel unpacks it
        let needed = kernel + 2 * initrd;
        let mut available = self.machine.memory_available();
        if available < needed {
            // unpacked it is needed no more: should this agent end now, it has to be sent again
            self.machine.forget_archive(&self.image.path);
            available = self.machine.memory_available();
        }
        if available >= needed {
            return Ok(());
        }
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        Err(Failure::new(headline)
            .because(format!(
                "{} MiB of memory are available, {} MiB are needed",
                available >> 20,
                mib(needed)
            ))
            .because(format!(
                "the kernel has {} MiB, its initrd {} MiB",
                mib(kernel),
                mib(initrd)
            ))
            .hint("stop programs on the target, or give the machine more memory")
            .code("LF1404"))
    }

    /// Writes out what is in memory: `kexec -e` does so too, and the machine answers as before for as long as that takes.
    async fn sync(&self, cx: &Context) {
        cx.waiting("what was written to reach the disks");
        // a file server that is gone must not keep it for ever
        let _ = tokio::time::timeout(SYNC, self.machine.blocking(Machine::sync)).await;
    }

    async fn prepare(&self) -> Result<Vec<String>, Failure> {
        let authorized_key = self.order.authorized_key.clone();
        let marker = Marker {
            run: self.run.clone(),
            return_after: self.order.return_after,
        };
        let journal = self.past.to_vec();
        let prepare = move |machine: &Machine| {
            let mut amendment = Amendment {
                authorized_key,
                host_keys: Vec::new(),
                marker,
                past: None,
            };
            let public = machine.keys_of_installer()?;
            if !machine.has_host_keys() {
                let key = machine.spare_host_key()?;
                let name = "ssh_host_ed25519_key";
                amendment.host_keys = vec![
                    (name.to_owned(), key.private),
                    (format!("{name}.pub"), key.public),
                ];
            }
            amendment.past = Some(Past {
                run: amendment.marker.run.clone(),
                boot_id: machine.boot_id(),
                host_keys: public.clone(),
                journal,
            });
            machine.stand_in(&amendment)?;
            machine.stand_in_for_kexec()?;
            Ok(public)
        };
        self.machine.blocking(prepare).await
    }

    async fn load(&self, cx: &Context) -> Result<(), Failure> {
        let dir = self.machine.kexec_dir();
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut command = Command::new(text(&dir.join("kexec/run")))
            .env("PATH", format!("{}:{PATH}", text(&dir.join("bin"))))
            .env("TMPDIR", text(&dir))
            .env(AMEND, text(&dir.join("amend.json")))
            .directory(text(&dir))
            .deadline(DEADLINE)
            .leaves_work();
        // the script takes over the keys of whoever became root
        for name in ["SUDO_USER", "DOAS_USER"] {
            if let Ok(user) = std::env::var(name) {
                command = command.env(name, user);
            }
        }
        if !self.order.extra_flags.is_empty() {
            command = command
                .arg("--kexec-extra-flags")
                .arg(&self.order.extra_flags);
        }
        if self.order.return_after > 0 {
            command = command.env(WORDS, timer::words(self.order.return_after));
        }
        let mut said = false;
        let told = |line: &str| {
            said |= line.contains(MARKER);
            cx.line(line);
        };
        let mut told = told;
        let token = cx.cancel_token();
        let ended = self
            .machine
            .programs()
            .run(&command, &token, |_, line| told(line))
            .await;
        let ended = ended.map_err(|failure| failure.under("cannot boot the installer by kexec"))?;
        if ended.ok() && said {
            Ok(())
        } else {
            Err(self.explained(&ended).await)
        }
    }

    /// Takes off the disk what the memory was too short for: the kernel has it now.
    async fn leave_disk(&self) {
        let leave = self.machine.blocking(Machine::leave_disk);
        // a file server that is gone must not keep it for ever
        let _ = tokio::time::timeout(TIDYING, leave).await;
    }

    /// Whether the installer has its timer, as far as it was asked for.
    async fn returns(&self) -> bool {
        let has_timer = self.machine.blocking(Machine::has_added_words);
        self.order.return_after == 0 || has_timer.await
    }

    async fn explained(&self, ended: &Ended) -> Failure {
        let mut failure = ended
            .failure("cannot boot the installer by kexec")
            .code("LF1405");
        if ended.stderr.contains(NO_ARCHIVE) {
            return failure.because(NO_ARCHIVE).code("LF1406");
        }
        if ended.ok() {
            failure = failure.because(format!("it did not say `{MARKER}`"));
        }
        let log = self.machine.blocking(|machine| machine.kernel_log(5)).await;
        for line in log {
            failure = failure.because(format!("kernel: {line}"));
        }
        failure.hint("the old system still runs; see its whole log with `dmesg`")
    }
}

#[cfg(test)]
mod tests {
    use landfall_proto::image::Size;

    use super::*;
    use crate::{
        machine::stage::Stage,
        steps::rehearsal::{blob, run},
    };

    const MEMORY: &str = "MemAvailable: 1024 kB\n";
    const SAID: &str = "+ kexec --load\nmachine will boot into nixos in 6s...\n";

    /// An old system that needs a kernel of 100 bytes and an initrd of 1000.
    fn stage(answer: Ended) -> (Stage, String) {
        let stage = Stage::new().file("proc/meminfo", MEMORY);
        let program = stage
            .root()
            .join("run/landfall/kexec/kexec/run")
            .display()
            .to_string();
        (stage.answer(&program, answer), program)
    }

    async fn load(stage: &Stage, extra_flags: &str) -> Result<Loaded, Failure> {
        let order = order::Kexec {
            image: blob(4096),
            extra_flags: extra_flags.to_owned(),
            authorized_key: "ssh-ed25519 AAAA run".to_owned(),
            kernel: 100,
            initrd: 1000,
            return_after: 0,
        };
        load_as(stage, &order).await.0
    }

    /// Returns also whether the installer has its timer.
    async fn load_as(stage: &Stage, order: &order::Kexec) -> (Result<Loaded, Failure>, bool) {
        let (kernel, initrd) = ("k".repeat(100), "i".repeat(1000));
        let files = [
            ("kexec/run", "#!"),
            ("kexec/bzImage", &kernel),
            ("kexec/initrd", &initrd),
            ("kexec/kexec", "real"),
        ];
        let image = Arrived {
            path: stage.tarball(&files),
            size: 4096,
        };
        let (machine, name) = (stage.machine(), RunId::from_bytes([7; 16]));
        let kexec = Kexec {
            machine: &machine,
            run: &name,
            order,
            image: &image,
            past: &["header".into()],
        };
        (run(&kexec).await, kexec.returns().await)
    }

    #[tokio::test]
    async fn installer_is_loaded_with_what_it_needs_to_be_entered() {
        let (stage, program) = stage(Ended::answer(0, SAID, ""));
        let loaded = load(&stage, "--reset-vga --x").await.unwrap();
        assert_eq!(loaded.boot_id, "boot-1");
        assert_eq!(
            stage.asked(),
            [format!("{program} --kexec-extra-flags --reset-vga --x")]
        );
        let amendment: Amendment =
            serde_json::from_str(&stage.read("run/landfall/kexec/amend.json")).unwrap();
        assert_eq!(amendment.marker.run.as_str(), "07".repeat(16));
        let past = amendment.past.unwrap();
        assert_eq!(
            (past.run, past.boot_id),
            (amendment.marker.run, loaded.boot_id)
        );
        assert_eq!(
            (past.host_keys, past.journal),
            (loaded.host_keys.clone(), vec!["header".into()])
        );
        assert_eq!(amendment.authorized_key, "ssh-ed25519 AAAA run");
        // this system has no host keys: the installer's is told, so that it can be known again
        assert_eq!(amendment.host_keys[1].1.trim_end(), loaded.host_keys[0]);
    }

    #[tokio::test]
    async fn timer_is_missed_only_where_it_was_asked_for() {
        const REAL: &str = "run/landfall/kexec/kexec/kexec.image";
        let check = async |return_after: u64, has_timer: bool| {
            let (stage, _) = stage(Ended::answer(0, SAID, ""));
            let order = order::Kexec {
                image: blob(4096),
                extra_flags: String::new(),
                authorized_key: String::new(),
                kernel: 100,
                initrd: 1000,
                return_after,
            };
            let (loaded, returns) = load_as(&stage, &order).await;
            loaded.unwrap();
            // the image's script, which would call the stand-in, is a line of this stage
            assert_eq!(returns, has_timer);
            let real = stage.machine().size_of(&stage.root().join(REAL));
            assert!(real.is_ok());
            let amendment = stage.read("run/landfall/kexec/amend.json");
            assert!(amendment.contains(&format!(r#""return_after":{return_after}"#)));
        };
        check(0, true).await;
        check(1800, false).await;
    }

    #[tokio::test]
    async fn host_keys_of_the_old_system_stay() {
        let (stage, _) = stage(Ended::answer(0, SAID, ""));
        let stage = stage
            .file("etc/ssh/ssh_host_rsa_key", "private")
            .private("etc/ssh/ssh_host_rsa_key")
            .file("etc/ssh/ssh_host_rsa_key.pub", "ssh-rsa BBBB\n");
        assert_eq!(load(&stage, "").await.unwrap().host_keys, ["ssh-rsa BBBB"]);
    }

    #[tokio::test]
    async fn script_that_does_not_say_so_has_not_loaded() {
        let (stage, _) = stage(Ended::answer(0, "nothing\n", ""));
        let failure = load(&stage, "").await.unwrap_err();
        assert_eq!(failure.code, "LF1405");
        assert!(failure.causes[2].contains(MARKER), "{failure:?}");
    }

    #[tokio::test]
    async fn archive_that_was_not_made_is_told_as_such() {
        let said = format!("error: refusing to load the installer\ncaused by: {NO_ARCHIVE}");
        let (stage, _) = stage(Ended::answer(1, "", &said));
        assert_eq!(load(&stage, "").await.unwrap_err().code, "LF1406");
    }

    #[tokio::test]
    async fn script_that_fails_after_saying_so_has_not_loaded() {
        let (stage, _) = stage(Ended::answer(
            1,
            SAID,
            "kexec_load failed: Operation not permitted",
        ));
        let failure = load(&stage, "").await.unwrap_err();
        assert_eq!(
            failure.causes[1..],
            ["exit code 1", "kexec_load failed: Operation not permitted"]
        );
    }

    #[tokio::test]
    async fn nothing_is_left_on_the_disk_once_the_kernel_is_loaded() {
        let mounts = "1 0 0:1 / / rw - tmpfs tmpfs rw\n2 1 8:1 / /var/tmp rw - ext4 /dev/sda1 rw\n";
        let check = async |answer: Ended, left: bool| {
            let (stage, program) = stage(answer);
            let stage = stage
                .file("proc/self/mountinfo", mounts)
                .file("var/tmp/other", "");
            let machine = stage.machine();
            machine.make_room_for(&blob(4096), Size::default());
            assert!(machine.spill().is_some());
            let loaded = load(&stage, "").await;
            assert_eq!(stage.asked(), [program], "{loaded:?}");
            // a try that fails can be made again
            let initrd = stage.root().join("var/tmp/landfall-room/initrd");
            let lies = || machine.size_of(&initrd).is_ok();
            assert_eq!((loaded.is_err(), lies()), (left, left));
            machine.leave_room();
            assert!(!lies());
            assert!(machine.spill().is_none());
        };
        check(Ended::answer(0, SAID, ""), false).await;
        check(Ended::answer(1, "", "no"), true).await;
    }

    #[tokio::test]
    async fn archive_makes_way_only_where_memory_is_short() {
        let check = async |memory: &str, stays: bool| {
            let (stage, _) = stage(Ended::answer(0, SAID, ""));
            let stage = stage.file("proc/meminfo", memory);
            let _ = load(&stage, "").await;
            let archive = stage.root().join("archive.tar");
            assert_eq!(stage.machine().size_of(&archive).is_ok(), stays, "{memory}");
        };
        check(MEMORY, true).await;
        check("MemAvailable: 2 kB\n", false).await;
    }

    #[tokio::test]
    async fn kernel_that_takes_no_other_is_not_asked() {
        let check = async |file: &str, content: &str, code: &str| {
            let (stage, _) = stage(Ended::answer(0, SAID, ""));
            let stage = stage.file(file, content);
            assert_eq!(load(&stage, "").await.unwrap_err().code, code);
            assert_eq!(stage.asked(), [""; 0]);
        };
        check("proc/sys/kernel/kexec_load_disabled", "1\n", "LF1401").await;
        check(
            "sys/kernel/security/lockdown",
            "none [integrity] confidentiality\n",
            "LF1402",
        )
        .await;
        check("proc/meminfo", "MemAvailable: 2 kB\n", "LF1404").await;
        let (stage, _) = stage(Ended::answer(0, SAID, ""));
        let stage = stage
            .file("proc/sys/kernel/kexec_load_disabled", "0\n")
            .file(
                "sys/kernel/security/lockdown",
                "[none] integrity confidentiality\n",
            );
        assert!(load(&stage, "").await.is_ok());
    }
}
