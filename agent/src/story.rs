//! What happens in what order on the target. Start reading here.
//!
//! Each step takes the proofs of those before it, so that copying to what was not found mounted does not compile. The plan
//! that goes with the story is [`Order::plan`]: both sides know it.

use std::sync::Arc;

use engine::{journal::Store, run::Run};
use landfall_proto::{
    facts::Firmware,
    failure::Failure,
    order::{self, DiskoMode, Job, Order, RunId},
};

use crate::{
    deliveries::Arrivals,
    history,
    machine::Machine,
    steps::{
        Copy, Files, Format, FormatAgain, Formatted, Image, Inspect, Install, Kexec, Keys, Mount,
        MountOnly, Reboot, Seal, Tools,
    },
};

/// Tells the story of an order from wherever its journal ends.
pub(crate) async fn tell(
    mut run: Run<impl Store>,
    order: &Order,
    machine: &Machine,
    deliveries: &Arc<Arrivals>,
) -> Result<(), Failure> {
    match &order.job {
        Job::Kexec(kexec) => leave(&mut run, order, kexec, machine, deliveries).await?,
        Job::Install(install) => {
            self::install(&mut run, order, install, machine, deliveries).await?;
        }
    }
    run.finish()
}

/// Leaves the old system for an installer.
async fn leave(
    run: &mut Run<impl Store>,
    order: &Order,
    kexec: &order::Kexec,
    machine: &Machine,
    deliveries: &Arc<Arrivals>,
) -> Result<(), Failure> {
    run.step(&Inspect { machine }).await?;
    let image = run
        .step(&Image {
            machine,
            deliveries,
            blob: &kexec.image,
        })
        .await?;
    let past = history::lines(run.journal());
    run.step(&Kexec {
        machine,
        run: &order.run,
        order: kexec,
        image: &image,
        past: &past,
    })
    .await?;
    Ok(())
}

/// Installs from the installer: the parts that were ordered.
///
/// Where the disks of the very same order began to be sealed, all that comes before was done, and there is nothing mounted
/// any more in which it could be looked at.
async fn install(
    run: &mut Run<impl Store>,
    order: &Order,
    install: &order::Install,
    machine: &Machine,
    deliveries: &Arc<Arrivals>,
) -> Result<(), Failure> {
    let seen = run.step(&Inspect { machine }).await?;
    if history::is_sealed_for(machine, order) {
        let done = |step: &&str| !["inspect", "seal", "reboot"].contains(step);
        for step in order.plan().into_iter().filter(done) {
            run.skip(step, "it was done before the disks were sealed")?;
        }
    } else {
        fill(run, order, install, machine, deliveries, seen.firmware).await?;
    }

    // nothing is left of which a later boot would have to know
    run.end_copy(install.keep_journal);
    machine.blocking(Machine::leave_place_on_target).await;
    if install.reboot {
        let sealed = run
            .step(&Seal {
                machine,
                order: &history::whole(order),
                keys: &install.keys,
            })
            .await?;
        run.step(&Reboot {
            machine,
            sealed: &sealed,
        })
        .await?;
    }
    Ok(())
}

/// Puts on the disks what was ordered. From the format on they are not what they were.
async fn fill(
    run: &mut Run<impl Store>,
    order: &Order,
    install: &order::Install,
    machine: &Machine,
    deliveries: &Arc<Arrivals>,
    firmware: Firmware,
) -> Result<(), Failure> {
    if !install.keys.is_empty() {
        run.step(&Keys {
            machine,
            deliveries,
            keys: &install.keys,
            needed: !run.board().state().has_finished("format"),
        })
        .await?;
    }
    let formatted = match &install.disko {
        Some(disko) => {
            let formatted = format(run, &order.run, disko, machine, deliveries).await?;
            Some((formatted, disko.mode))
        }
        None => None,
    };
    let formatted = formatted
        .as_ref()
        .map(|(formatted, mode)| (formatted, *mode));

    // a script that only creates what is missing may leave nothing mounted, and need not when nothing is installed
    if install.disko.is_none() && install.system.is_none() {
        return Ok(());
    }
    // a power cut does not take it away any more when it is told that the disks are mounted
    if let Some(place) = machine.place_on_target().await {
        run.keep_copy(&place);
    }
    let mounts = run
        .step(&Mount {
            machine,
            formatted,
            let_go: run.board().state().has_begun("seal"),
        })
        .await?;
    let Some(system) = &install.system else {
        return Ok(());
    };
    let toplevel = &system.toplevel;
    run.step(&Copy {
        machine,
        deliveries,
        system: toplevel,
        mounts: &mounts,
    })
    .await?;
    run.step(&Files {
        machine,
        deliveries,
        order: system,
        mounts: &mounts,
    })
    .await?;
    run.step(&Install {
        machine,
        system: toplevel,
        firmware,
        check: system.check,
        boot_check: system.boot_check,
    })
    .await?;
    Ok(())
}

async fn format(
    run: &mut Run<impl Store>,
    id: &RunId,
    disko: &order::Disko,
    machine: &Machine,
    deliveries: &Arc<Arrivals>,
) -> Result<Formatted, Failure> {
    let tools = run
        .step(&Tools {
            machine,
            deliveries,
            script: &disko.script,
            again: disko.again.as_ref(),
        })
        .await?;
    let format = Format {
        machine,
        order: disko,
        tools: &tools,
        run: id,
    };
    match (disko.mode, &disko.again) {
        (DiskoMode::Mount, _) => run.step(&MountOnly(format)).await,
        (DiskoMode::Disko | DiskoMode::Format, Some(script)) => {
            run.step(&FormatAgain { format, script }).await
        }
        (DiskoMode::Disko | DiskoMode::Format, None) => run.step(&format).await,
    }
}
