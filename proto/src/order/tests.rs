//! What is taken for a run, a path, an owner, and what is planned for an order.

use proptest::prelude::{any, proptest};

use super::*;

#[track_caller]
fn check_path(text: &str, valid: bool) {
    assert_eq!(
        StorePath::try_from(text.to_owned()).is_ok(),
        valid,
        "{text}"
    );
}

#[test]
fn store_paths_are_checked() {
    check_path(
        "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-hello-2.12",
        true,
    );
    check_path(
        "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-hello/bin",
        false,
    );
    check_path("/nix/store/0123456789abcdfghijklmnpqrsvwxyz-.hidden", false);
    check_path(
        "/nix/store/0123456789abcdfghijklmnpqrsvwxye-e-is-no-digit",
        false,
    );
    check_path("/nix/store/0123456789abcdfghijklmnpqrsvwxyz-", false);
    check_path("/nix/store/../../etc/passwd", false);
    check_path("/nix/store/é123456789abcdfghijklmnpqrsvwxy-x", false);
    check_path("/tmp/x", false);
}

#[test]
fn plan_names_only_what_was_asked_for() {
    let mut install = Install {
        reboot: true,
        ..Install::default()
    };
    assert_eq!(install.plan(), ["inspect", "seal", "reboot"]);
    install.keys = vec!["/tmp/secret.key".parse().unwrap()];
    assert_eq!(install.plan(), ["inspect", "keys", "seal", "reboot"]);
}

#[track_caller]
fn check_normal(text: &str, expected: Option<&str>) {
    let read = |path: Result<String, Malformed>| path.ok();
    let target = read(text.parse::<TargetPath>().map(String::from));
    assert_eq!(target.as_deref(), expected, "{text}");
    let key = read(text.parse::<KeyPath>().map(String::from));
    let expected = expected.filter(|path| *path != "/");
    assert_eq!(key.as_deref(), expected, "{text}");
}

#[test]
fn paths_have_one_form_and_do_not_climb() {
    check_normal("/tmp/secret.key", Some("/tmp/secret.key"));
    check_normal("//home/./a b//", Some("/home/a b"));
    check_normal("/", Some("/"));
    check_normal("/./", Some("/"));
    check_normal("/home/...", Some("/home/..."));
    for wrong in [
        "",
        ".",
        "tmp/key",
        "/tmp/../etc",
        "/..",
        "/a\0b",
        "/a\nb",
        "/a\u{9b}b",
    ] {
        check_normal(wrong, None);
    }
    let (longest, longer) = ("x".repeat(NAME_MAX), "x".repeat(NAME_MAX + 1));
    check_normal(&format!("/{longest}"), Some(&format!("/{longest}")));
    check_normal(&format!("/{longer}"), None);
    let (longest, longer) = ("/x".repeat(2047), "/x".repeat(2048));
    check_normal(&longest, Some(&longest));
    check_normal(&longer, None);
}

#[track_caller]
fn check_owner(text: &str, expected: Option<(Option<&str>, Option<&str>)>) {
    let read = text.parse::<Ownership>();
    let parts = read.as_ref().ok();
    let parts = parts.map(|owner| (owner.user.as_deref(), owner.group.as_deref()));
    assert_eq!(parts, expected, "{text}");
    if let Ok(owner) = read {
        assert_eq!(owner.to_string(), text);
    }
}

#[test]
fn owners_are_named_as_chown_names_them() {
    check_owner("1000:100", Some((Some("1000"), Some("100"))));
    check_owner("alice", Some((Some("alice"), None)));
    check_owner("alice:", Some((Some("alice"), Some(""))));
    check_owner(":users", Some((None, Some("users"))));
    check_owner("+0:0", Some((Some("+0"), Some("0"))));
    check_owner("4294967294", Some((Some("4294967294"), None)));
    for wrong in [
        "",
        ":",
        "a:b:c",
        "a b",
        "a/b",
        "a\nb",
        "4294967295",
        "99999999999",
        "+alice",
        ":+",
        " alice",
    ] {
        check_owner(wrong, None);
    }
}

#[test]
fn settings_that_would_be_two_are_refused() {
    let read = |words: &[&str]| {
        let value = serde_json::json!({ "substituters": words });
        serde_json::from_value::<NixSettings>(value).is_ok()
    };
    assert!(read(&[
        "https://cache.example.org",
        "s3://bucket?region=eu"
    ]));
    for wrong in ["", "a b", "a\nsandbox = false", "a\tb"] {
        assert!(!read(&["https://cache.example.org", wrong]), "{wrong:?}");
    }
}

#[test]
fn what_an_order_leaves_out_changes_nothing() {
    let toplevel = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-x";
    let system = serde_json::json!({ "toplevel": toplevel, "extra_files": null });
    let value = serde_json::json!({ "disko": null, "system": system, "reboot": false });
    let install: Install = serde_json::from_value(value).unwrap();
    assert_eq!(
        (&install.keys, &install.nix),
        (&Vec::new(), &NixSettings::default())
    );
    let system = install.system.unwrap();
    assert_eq!((system.owners.len(), system.host_keys_to.len()), (0, 0));
    assert!(system.check);
}

/// Checks that what is read is what was written, and that only the right form is read.
fn check_words<T>(text: &str, form: impl Fn(&str) -> bool)
where
    T: std::str::FromStr<Err = Malformed> + fmt::Display + Serialize,
    T: serde::de::DeserializeOwned,
{
    let json = serde_json::to_string(text).unwrap();
    match text.parse::<T>() {
        Ok(word) => {
            assert!(form(text), "{text}");
            assert_eq!(word.to_string(), text);
            assert_eq!(serde_json::to_string(&word).unwrap(), json);
            assert!(serde_json::from_str::<T>(&json).is_ok());
        }
        Err(malformed) => {
            assert!(!form(text), "{text}");
            assert!(malformed.text.chars().count() <= 200);
            assert!(serde_json::from_str::<T>(&json).is_err());
        }
    }
}

fn hex(length: usize) -> impl Fn(&str) -> bool {
    move |text| text.len() == length && !text.contains(|c| !"0123456789abcdef".contains(c))
}

fn store_path(text: &str) -> bool {
    let base = text
        .strip_prefix("/nix/store/")
        .and_then(|base| base.split_once('-'));
    base.is_some_and(|(hash, name)| {
        hash.len() == 32
            && !hash.contains(|c| !"0123456789abcdfghijklmnpqrsvwxyz".contains(c))
            && (1..=211).contains(&name.len())
            && !name.starts_with('.')
            && !name.contains(|c: char| !c.is_ascii_alphanumeric() && !"+-._?=".contains(c))
    })
}

proptest! {
    #[test]
    fn words_are_what_they_look_like(
        any in ".{0,300}",
        digits in "[0-9a-fA-Fg]{31,33}|[0-9a-f]{32}|[0-9a-f]{64}|[0-9a-fé]{62,64}",
        path in "/nix/store/[0-9a-z]{31,33}-.{0,3}|/nix/store/[0-9a-df-np-sv-z]{32}[-./][a-z.?=/]{0,4}|/nix/store/[0-9a-d]{32}-a{205,215}",
    ) {
        for text in [any, digits, path] {
            check_words::<RunId>(&text, hex(32));
            check_words::<BlobHash>(&text, hex(64));
            check_words::<StorePath>(&text, store_path);
        }
    }

    #[test]
    fn run_ids_are_read_as_they_were_made(bytes in any::<[u8; 16]>()) {
        let id = RunId::from_bytes(bytes);
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
    }
}
