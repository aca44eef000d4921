//! Gathering, rehearsed.

use landfall_proto::wire::piece_to_wire;

use super::*;
use crate::machine::{command::Ended, stage::Stage};

const SECRET: &str = "hunter2hunter2";

/// A machine on which something has failed, and on which secrets lie about.
fn stage() -> Stage {
    Stage::new()
        .file("proc/self/mountinfo", "1 0 0:2 / / rw - tmpfs tmpfs rw\n")
        .file(
            "proc/cmdline",
            &format!("quiet rd.password={SECRET} ip=dhcp\n"),
        )
        .file("proc/uptime", "100.00 50.00\n")
        .file(
            "proc/7/stat",
            "7 (curl) S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 5000 1000 25 0",
        )
        .file("proc/7/cmdline", &format!("curl\0--token\0{SECRET}\0h\0"))
        .file("proc/7/environ", &format!("PASSWORD={SECRET}\0"))
        .file(
            "etc/nix/nix.conf",
            &format!("access-tokens = github.com={SECRET}\n"),
        )
        .file(
            "run/landfall/runs/0707070707-install/journal.jsonl",
            "{\"index\":0}\n",
        )
        .file("run/landfall/tls/key.pem", SECRET)
        .file("tmp/disk.key", SECRET)
        .file("usr/bin/lsblk", "")
        .answer("/usr/bin/lsblk", Ended::answer(0, "vda\n", ""))
        .file("usr/bin/ip", "")
        .answer(
            "/usr/bin/ip address",
            Ended::answer(1, "eth0\n", "no route to https://u:hunter2hunter2@h\n"),
        )
        .file("usr/bin/blkid", "")
        .answer("/usr/bin/blkid", Ended::answer(0, "/dev/vda1\n", ""))
}

async fn gathered(stage: &Stage) -> Vec<Piece> {
    let (out, mut pieces) = mpsc::channel(1);
    let machine = stage.machine();
    let take = async {
        let mut found = Vec::new();
        while let Some(piece) = pieces.recv().await {
            found.push(piece);
        }
        found
    };
    let ((), found) = tokio::join!(machine.gather(out), take);
    found
}

fn named<'a>(pieces: &'a [Piece], name: &str) -> (&'a str, &'a str) {
    let piece = pieces.iter().find(|piece| piece.name == name);
    let piece = piece.unwrap_or_else(|| panic!("there is no {name}"));
    (std::str::from_utf8(&piece.content).unwrap(), &piece.trouble)
}

#[tokio::test]
async fn everything_comes_or_says_why_not() {
    let stage = stage();
    let pieces = gathered(&stage).await;
    let piece = |name| named(&pieces, name);
    assert_eq!(pieces[0].name, "agent/journal-install-07070707.jsonl");
    assert_eq!(
        piece("agent/journal-install-07070707.jsonl"),
        ("{\"index\":0}\n", "")
    );
    assert_eq!(piece("lsblk.txt"), ("vda\n", ""));
    assert_eq!(piece("blkid.txt"), ("/dev/vda1\n", ""));
    let (found, why) = piece("ip-address.txt");
    assert_eq!(found, "eth0\n");
    assert!(
        why.contains("exit code 1") && why.contains("no route to"),
        "{why}"
    );
    let (found, why) = piece("zpool.txt");
    assert!(
        found.is_empty() && why.starts_with("there is no `zpool`"),
        "{why}"
    );
    assert!(piece("swaps").1.starts_with("cannot read "));
    assert!(
        piece("processes.txt")
            .0
            .contains("curl --token [redacted] h")
    );
    assert!(piece("facts.json").0.contains("\"boot_id\": \"boot-1\""));
    for piece in pieces {
        let name = piece.name.clone();
        assert!(
            landfall_proto::wire::piece_from_wire(piece_to_wire(piece)).is_ok(),
            "{name}"
        );
    }
}

#[tokio::test]
async fn nothing_that_comes_is_secret() {
    for piece in gathered(&stage()).await {
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&piece.content),
            piece.trouble
        );
        assert!(!text.contains(SECRET), "{}: {text}", piece.name);
    }
}

#[tokio::test]
async fn disks_are_left_alone_while_a_run_is_open() {
    let stage = stage().file("run/landfall/open-order.json", "{}");
    let pieces = gathered(&stage).await;
    for name in ["blkid.txt", "facts.json", "lvs.txt"] {
        assert_eq!(named(&pieces, name), ("", AT_WORK));
    }
    assert_eq!(named(&pieces, "agent/order.json"), ("{}", ""));
    let opens = ["blkid", "lvs", "mdadm"];
    let asked = stage.asked();
    assert!(
        !asked
            .iter()
            .any(|line| opens.iter().any(|program| line.contains(program))),
        "{asked:?}"
    );
}

#[tokio::test]
async fn nobody_who_listens_ends_it() {
    let stage = stage();
    let (out, mut pieces) = mpsc::channel(1);
    let machine = stage.machine();
    let take = async move {
        pieces.recv().await.unwrap();
        drop(pieces);
    };
    tokio::join!(machine.gather(out), take);
    assert!(!stage.asked().iter().any(|line| line.contains("blkid")));
}

#[tokio::test]
async fn piece_that_does_not_come_is_told() {
    let soon = Duration::from_millis(20);
    let found = in_time("x", soon, std::future::pending()).await;
    assert_eq!(found, [lacking("x", "it did not come within 0 s")]);
    let found = in_time("x", Duration::ZERO, std::future::pending()).await;
    assert_eq!(found, [lacking("x", "no time was left for it")]);
}

#[test]
fn long_text_keeps_its_end_and_no_part_of_a_secret() {
    let line = "é".repeat(50) + "\n";
    let key = format!(
        "-----BEGIN PRIVATE KEY-----\n{}-----END PRIVATE KEY-----\n",
        "a2V5\n".repeat(2000)
    );
    let text = format!(
        "{}{key}{}",
        line.repeat(20_000),
        line.repeat(MOST / line.len() - 20)
    );
    let piece = piece("x", &text);
    assert!(piece.content.len() <= MOST && piece.content.len() > MOST - 200);
    assert!(
        piece.trouble.starts_with("only its last 10"),
        "{}",
        piece.trouble
    );
    let kept = String::from_utf8(piece.content).unwrap();
    assert!(kept.ends_with(&line) && !kept.contains("a2V5"));
}

#[test]
fn logs_of_builds_are_found_by_their_derivations() {
    let stage = Stage::new()
        .file("nix/var/log/nix/drvs/ab/cd-one.drv.bz2", "")
        .file("nix/var/log/nix/drvs/ef/gh-two.drv", "");
    let found = ends::newest_logs(&stage.machine().at("/nix/var/log/nix/drvs"));
    assert_eq!(found.len(), 2);
    assert!(
        found.contains(&"/nix/store/abcd-one.drv".to_owned()),
        "{found:?}"
    );
    assert!(
        found.contains(&"/nix/store/efgh-two.drv".to_owned()),
        "{found:?}"
    );
}
