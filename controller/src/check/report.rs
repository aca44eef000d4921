//! What `landfall check` prints: a report for people, and one JSON object for programs.

use std::collections::BTreeMap;

use landfall_proto::{facts::Facts, failure::Failure};
use serde::Serialize;

use super::{Check, Group, Verdict};
use crate::{
    exit::printable,
    screen::{disks_table, text::columns},
};

/// Version of the JSON object. Fields are added within a version, and never change their meaning.
const FORMAT: u32 = 1;

/// What came of a look at a machine.
#[derive(Debug)]
pub(super) enum Looked {
    /// It was seen.
    Seen {
        /// What was seen.
        facts: Box<Facts>,
        /// What follows.
        checks: Vec<Check>,
    },
    /// It was not.
    Failed(Failure),
}

/// The one object.
#[derive(Debug, Serialize)]
struct Object<'a> {
    format: u32,
    version: &'static str,
    host: &'a str,
    ready: bool,
    summary: String,
    counts: BTreeMap<&'static str, usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<&'a Failure>,
    checks: &'a [Check],
    #[serde(skip_serializing_if = "Option::is_none")]
    facts: Option<&'a Facts>,
}

impl Looked {
    /// Whether nothing that was seen is known to fail.
    pub(super) fn is_ready(&self) -> bool {
        match self {
            Self::Seen { checks, .. } => count(checks, Verdict::Failure) == 0,
            Self::Failed(_) => false,
        }
    }

    /// Returns the object, without the end of the line.
    pub(super) fn json(&self, host: &str) -> String {
        let (failure, checks, facts) = match self {
            Self::Seen { facts, checks } => (None, checks.as_slice(), Some(facts.as_ref())),
            Self::Failed(failure) => (Some(failure), [].as_slice(), None),
        };
        let counts = [
            ("ok", Verdict::Ok),
            ("unknown", Verdict::Unknown),
            ("warning", Verdict::Warning),
            ("failure", Verdict::Failure),
        ];
        let object = Object {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION"),
            host,
            ready: self.is_ready(),
            summary: match self {
                Self::Seen { checks, .. } => summary(checks),
                Self::Failed(failure) => failure.what.clone(),
            },
            counts: counts
                .into_iter()
                .map(|(name, verdict)| (name, count(checks, verdict)))
                .collect(),
            failure,
            checks,
            facts,
        };
        serde_json::to_string(&object).expect("a report is plain data")
    }
}

/// Returns the report, one string a line. What comes from the machine cannot steer the terminal.
pub(super) fn lines(host: &str, facts: &Facts, checks: &[Check], color: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let rows: Vec<Vec<String>> = checks
        .iter()
        .map(|check| {
            let mark = mark(check.verdict).to_owned();
            vec![mark, check.name.to_owned(), line(&check.found)]
        })
        .collect();
    let laid_out = columns(&rows);
    for group in Group::ALL {
        let of_group = checks
            .iter()
            .zip(&laid_out)
            .filter(|(check, _)| check.group == group);
        let mut seen = false;
        for (check, row) in of_group {
            if !seen {
                lines.push(group.to_string());
                seen = true;
            }
            lines.push(format!("  {}", painted(row, check.verdict, color)));
            let code = match check.code {
                "" => String::new(),
                code => format!("`landfall explain {code}` says more"),
            };
            let advice = check.advice.iter().map(|advice| line(advice));
            let told = advice.chain(Some(code).filter(|code| !code.is_empty()));
            lines.extend(told.map(|advice| format!("           - {advice}")));
        }
        if group == Group::Disks && !facts.disks.is_empty() {
            let table = disks_table(&facts.disks, &[]);
            lines.extend(table.iter().map(|row| format!("           {row}")));
        }
    }
    lines.push(String::new());
    lines.push(line(&format!("{host}: {}", summary(checks))));
    lines
}

/// Says in a sentence what the checks amount to.
fn summary(checks: &[Check]) -> String {
    let failed = count(checks, Verdict::Failure);
    if let Some(first) = checks
        .iter()
        .find(|check| check.verdict == Verdict::Failure)
    {
        let more = match failed - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        return format!("cannot be installed: {}{more}", first.found);
    }
    match count(checks, Verdict::Warning) {
        0 => "ready to be installed".to_owned(),
        1 => "can be installed; 1 thing to look at".to_owned(),
        more => format!("can be installed; {more} things to look at"),
    }
}

fn count(checks: &[Check], verdict: Verdict) -> usize {
    let of = checks.iter().filter(|check| check.verdict == verdict);
    of.count()
}

fn mark(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Unknown => "unknown",
        Verdict::Warning => "warning",
        Verdict::Failure => "FAILS",
    }
}

/// Colors the mark at the beginning of a row.
fn painted(row: &str, verdict: Verdict, color: bool) -> String {
    let mark = mark(verdict);
    let paint = match verdict {
        Verdict::Ok => "32",
        Verdict::Unknown => "2",
        Verdict::Warning => "33",
        Verdict::Failure => "1;31",
    };
    match row.strip_prefix(mark) {
        Some(rest) if color => format!("\x1b[{paint}m{mark}\x1b[0m{rest}"),
        _ => row.to_owned(),
    }
}

fn line(text: &str) -> String {
    printable(text).replace(['\n', '\t'], " ")
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Wanted, checks, samples::debian},
        *,
    };

    const KEXEC: Wanted = Wanted {
        kexec: true,
        image: super::super::Image::Own,
        disks: Vec::new(),
        now: None,
        reboot: true,
    };

    fn report(facts: &Facts) -> String {
        let checks = checks(facts, &KEXEC);
        lines("root@web", facts, &checks, false).join("\n")
    }

    #[test]
    fn machine_that_passes_is_ready() {
        let expected = "\
machine
  ok  system          Debian GNU/Linux 13 (trixie), Linux 6.12.48+deb13-cloud-amd64
  ok  architecture    x86_64, 2 processors
privileges
  ok  root            the agent may do everything
kexec
  ok  kexec           supported, by both calls
  ok  kexec-disabled  no
  ok  lockdown        none
  ok  hypervisor      QEMU Standard PC (i440FX + PIIX, 1996)
memory
  ok  memory          4.29 GB
firmware
  ok  firmware        BIOS, or whatever stands in for it
disks
  ok  disks           1 disk, 20.0 GB
           device    size     model  serial  contents
           /dev/vda  20.0 GB  -      -       empty
network
  ok  way-out         IPv4 through 192.0.2.1 (ens3); no IPv6
  ok  interfaces      ens3 with 192.0.2.7/24, leased
  ok  names           192.0.2.53

root@web: ready to be installed";
        assert_eq!(report(&debian()), expected);
    }

    #[test]
    fn failures_come_with_advice_and_a_page() {
        let facts = Facts {
            lockdown: Some("integrity".into()),
            kexec_load_disabled: Some(true),
            ..debian()
        };
        let report = report(&facts);
        let expected = "  FAILS  lockdown        the kernel is locked down (integrity)
           - boot without `lockdown=`, and with Secure Boot off, or boot an installer from a medium or the provider's rescue system
           - `landfall explain LF0323` says more";
        assert!(report.contains(expected), "{report}");
        let last = "root@web: cannot be installed: the kernel forbids it until the next boot (kernel.kexec_load_disabled is 1) (and 1 more)";
        assert!(report.ends_with(last), "{report}");
    }

    #[test]
    fn words_of_the_machine_stay_on_their_line() {
        let facts = Facts {
            os_name: "Evil\x1b[2J\nok  root".into(),
            ..debian()
        };
        let report = report(&facts);
        assert!(
            report.contains("Evil\u{fffd}[2J ok  root, Linux"),
            "{report}"
        );
    }

    #[test]
    fn colors_change_no_word() {
        let facts = debian();
        let checks = checks(&facts, &KEXEC);
        let colored = lines("h", &facts, &checks, true).join("\n");
        let plain = colored.replace("\x1b[32m", "").replace("\x1b[0m", "");
        assert_eq!(plain, lines("h", &facts, &checks, false).join("\n"));
        assert_ne!(colored, plain);
    }

    #[test]
    fn object_has_facts_and_checks() {
        let facts = debian();
        let looked = Looked::Seen {
            checks: checks(&facts, &KEXEC),
            facts: Box::new(facts),
        };
        let object: serde_json::Value = serde_json::from_str(&looked.json("web")).unwrap();
        assert_eq!(object["format"], 1);
        assert_eq!(object["ready"], true);
        assert_eq!(object["counts"]["failure"], 0);
        assert_eq!(object["facts"]["disks"][0]["device"], "/dev/vda");
        assert_eq!(object["checks"][0]["name"], "system");
        assert_eq!(object["checks"][0]["verdict"], "ok");
        assert_eq!(object.get("failure"), None);
    }

    #[test]
    fn machine_that_was_not_seen_is_an_object_too() {
        let failure = Failure::new("cannot reach web").code("LF0101");
        let looked = Looked::Failed(failure);
        let object: serde_json::Value = serde_json::from_str(&looked.json("web")).unwrap();
        assert_eq!(object["ready"], false);
        assert_eq!(object["failure"]["code"], "LF0101");
        assert_eq!(object["checks"], serde_json::json!([]));
        assert_eq!(object.get("facts"), None);
    }
}
