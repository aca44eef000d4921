//! Looks at the machine, and finds what is known to fail while the old system still runs.

use engine::step::{Context, Done, Repeat, Step};
use landfall_proto::{facts::Facts, failure::Failure};

use crate::{desk::Desk, request::Phase};

/// Looks at the machine.
#[derive(Debug)]
pub struct Preflight<'a> {
    /// What all phases share.
    pub desk: &'a Desk,
}

impl Step for Preflight<'_> {
    const NAME: &'static str = "preflight";
    const REPEAT: Repeat = Repeat::Safe;
    type Proof = Facts;

    async fn run(&self, cx: &Context) -> Result<Done<Facts>, Failure> {
        cx.waiting("the agent to look at the machine");
        let facts = self.desk.inspect().await?;
        self.desk.screen.machine(&facts);
        let kexecs = self.desk.request.phases.has(Phase::Kexec)
            && (!facts.installer || self.desk.request.kexec.force);
        if kexecs {
            check_kexec(&facts)?;
        }
        let warnings = warnings(&facts, kexecs);
        Ok(match warnings.is_empty() {
            true => Done::new(facts),
            false => Done::warned(facts, warnings.join(" · ")),
        })
    }

    async fn still_true(&self, _: &Facts) -> bool {
        self.desk.past.rebooted
    }
}

/// Refuses where booting an installer by kexec is known to fail.
fn check_kexec(facts: &Facts) -> Result<(), Failure> {
    let cannot =
        |why: &str| Failure::new("cannot boot an installer by kexec").because(why.to_owned());
    if let Some(container) = &facts.container {
        return Err(cannot(&format!(
            "the machine is a container ({container}), whose kernel is its host's"
        ))
        .hint("install the host, or a virtual machine")
        .code("LF0320"));
    }
    if facts.kexec_load_disabled == Some(true) {
        return Err(cannot(
            "the kernel forbids it until the next boot (kernel.kexec_load_disabled is 1)",
        )
        .hint("reboot with `kernel.kexec_load_disabled=0`, or boot an installer from a medium")
        .code("LF0321"));
    }
    if facts.secure_boot == Some(true) {
        return Err(cannot(
            "UEFI Secure Boot is on, and the installer's kernel is not signed for it",
        )
        .hint("turn Secure Boot off in the firmware's setup")
        .code("LF0322"));
    }
    if let Some(word) = facts.lockdown.as_deref().filter(|word| *word != "none") {
        return Err(cannot(&format!("the kernel is locked down ({word})"))
            .hint("boot without `lockdown=`, and with Secure Boot off")
            .code("LF0323"));
    }
    Ok(())
}

/// Says what often goes wrong and need not.
fn warnings(facts: &Facts, kexecs: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    if !kexecs {
        return warnings;
    }
    for interface in facts
        .interfaces
        .iter()
        .filter(|interface| !interface.addresses.is_empty())
    {
        // their addresses are put on the bare wire by the stock image (nixos-images, restore_routes)
        let built = interface
            .kind
            .as_deref()
            .filter(|kind| matches!(*kind, "bond" | "vlan" | "bridge"));
        if let Some(kind) = built {
            warnings.push(format!(
                "{} is a {kind}, which a stock installer does not rebuild; continuing because another interface may do",
                interface.name
            ));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(facts: &Facts, code: Option<&str>) {
        assert_eq!(
            check_kexec(facts)
                .err()
                .map(|failure| failure.code)
                .as_deref(),
            code
        );
    }

    #[test]
    fn machine_that_cannot_kexec_is_refused() {
        check(&Facts::default(), None);
        check(
            &Facts {
                lockdown: Some("none".into()),
                secure_boot: Some(false),
                ..Facts::default()
            },
            None,
        );
        check(
            &Facts {
                lockdown: Some("integrity".into()),
                ..Facts::default()
            },
            Some("LF0323"),
        );
        check(
            &Facts {
                secure_boot: Some(true),
                ..Facts::default()
            },
            Some("LF0322"),
        );
        check(
            &Facts {
                kexec_load_disabled: Some(true),
                ..Facts::default()
            },
            Some("LF0321"),
        );
        check(
            &Facts {
                container: Some("lxc".into()),
                ..Facts::default()
            },
            Some("LF0320"),
        );
    }
}
