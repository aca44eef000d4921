//! What happens in what order, seen from the operator's machine. Start reading here.
//!
//! Each phase takes what the phases before it found out. Between `kexec` and `reboot` the agent works by itself; these
//! phases order, feed and watch.

use engine::{journal::Store, run::Run};
use landfall_proto::failure::Failure;

use crate::{
    desk::Desk,
    phases::{
        build::Build,
        connect::Connect,
        disko::Disko,
        hardware::Hardware,
        install::Install,
        kexec::Kexec,
        preflight::Preflight,
        prepare::{self, Prepare},
        reboot::Reboot,
        verify::Verify,
    },
    request::{Phase, Request},
};

/// Returns the names of the phases that a request asks for, in the order in which they are done.
pub fn plan(request: &Request) -> Vec<&'static str> {
    let mut plan = vec!["connect", "preflight", "prepare"];
    let asked = |phase| request.phases.has(phase);
    plan.extend(asked(Phase::Kexec).then_some("kexec"));
    plan.extend(request.hardware.is_some().then_some("hardware"));
    plan.extend(prepare::builds_later(request).then_some("build"));
    plan.extend(asked(Phase::Disko).then_some("disko"));
    plan.extend(asked(Phase::Install).then_some("install"));
    plan.extend(asked(Phase::Reboot).then_some("reboot"));
    // without a system of ours there is nothing to recognise
    let comes_back = asked(Phase::Install) && asked(Phase::Reboot);
    plan.extend(comes_back.then_some("verify"));
    plan
}

/// Tells the story of a request from wherever its journal ends.
pub async fn tell(mut run: Run<impl Store>, desk: &Desk) -> Result<(), Failure> {
    let plan = plan(&desk.request);
    let asked = |name| plan.contains(&name);

    let mut machine = run.step(&Connect { desk }).await?;
    if machine.installed {
        return look(run, desk).await;
    }
    if !desk.past.is_done && desk.past.ended_in.as_ref() == Some(&machine.boot_id) {
        return end_again(run, desk).await;
    }
    let facts = run.step(&Preflight { desk }).await?;

    // everything that can fail here does so before the machine is touched
    let mut prepared = run
        .step(&Prepare {
            desk,
            facts: &facts,
            machine: &machine,
        })
        .await?;

    if asked("kexec") {
        machine = run
            .step(&Kexec {
                desk,
                machine: &machine,
                prepared: &prepared,
            })
            .await?;
    }

    // what the configuration lacked until now
    if asked("hardware") {
        run.step(&Hardware {
            desk,
            machine: &machine,
        })
        .await?;
    }
    if asked("build") {
        prepared = run
            .step(&Build {
                desk,
                machine: &machine,
                prepared: &prepared,
            })
            .await?;
    }

    // from here on the disks are not what they were
    if asked("disko") {
        run.step(&Disko {
            desk,
            machine: &machine,
            prepared: &prepared,
        })
        .await?;
    }
    if asked("install") {
        run.step(&Install {
            desk,
            machine: &machine,
            prepared: &prepared,
        })
        .await?;
    }
    if asked("reboot") {
        run.step(&Reboot {
            desk,
            machine: &machine,
            prepared: &prepared,
        })
        .await?;
    }
    if asked("verify") {
        run.step(&Verify {
            desk,
            old_boot: &machine.boot_id,
            system: prepared.system.as_ref(),
        })
        .await?;
    }
    // nobody need come back for a machine that nothing was installed on
    let stays = !["disko", "install", "reboot"].into_iter().any(asked);
    if let Some(what) = desk.left_alone().filter(|_| stays) {
        desk.screen.note(&what);
    }
    run.finish()
}

/// Tells the rest of the story where the machine runs the installed system already: it is only looked at.
async fn look(mut run: Run<impl Store>, desk: &Desk) -> Result<(), Failure> {
    for phase in plan(&desk.request).into_iter().skip(1) {
        if phase == "verify" {
            run.step(&Verify {
                desk,
                old_boot: "",
                system: desk.past.system.as_ref(),
            })
            .await?;
        } else {
            run.skip(phase, "the machine runs the installed system")?;
        }
    }
    run.finish()
}

/// Ends a run that an earlier process had seen to its end: it was killed before it could forget it.
async fn end_again(mut run: Run<impl Store>, desk: &Desk) -> Result<(), Failure> {
    desk.let_go_again().await?;
    desk.screen
        .note("all of it was done before; `--fresh` does it anew");
    for phase in plan(&desk.request).into_iter().skip(1) {
        run.skip(phase, "it was done before")?;
    }
    run.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{self, Environment, Task};

    #[track_caller]
    fn check(line: &str, between: &[&str]) {
        let words = line.split(' ').map(Into::into);
        let words: Vec<_> = std::iter::once("landfall".into()).chain(words).collect();
        let Ok(Task::Install(request)) = cli::read(&words, &Environment::default()) else {
            panic!("{line} is not an install");
        };
        let expected = [&["connect", "preflight", "prepare"], between].concat();
        assert_eq!(plan(&request), expected, "{line}");
    }

    #[test]
    fn phases_that_were_not_asked_for_are_not_planned() {
        let all = ["kexec", "disko", "install", "reboot", "verify"];
        check("-f .#a h", &all);
        check("-f .#a --no-reboot h", &all[..3]);
        check("--phases kexec h", &all[..1]);
    }

    #[test]
    fn what_the_hardware_has_to_be_known_for_is_built_after_it() {
        let backend = "--generate-hardware-config nixos-facter facter.json";
        check(
            &format!("-f .#a --phases kexec,disko {backend} h"),
            &["kexec", "hardware", "build", "disko"],
        );
        check(
            &format!("--phases kexec {backend} h"),
            &["kexec", "hardware"],
        );
        // what was built before does not know of it
        check(
            &format!("-s /d /s --phases disko {backend} h"),
            &["hardware", "disko"],
        );
    }
}
