//! Generated types to and from the types of this crate, with the bounds that foreign input has to keep.

mod piece;

use zeroize::{Zeroize, Zeroizing};

pub use self::piece::{
    NO_MORE, PIECE_MAX, PIECES, Piece, length_of_frame, piece_from_frame, piece_from_wire,
    piece_to_frame, piece_to_wire,
};

use crate::{
    event::Event,
    facts::Facts,
    failure::Failure,
    order::{Blob, BlobHash, Describer, KeyPath, Order, RunId, StorePath, StoreRoot},
    v1,
};

/// Largest order that is read, in bytes.
const ORDER_MAX: usize = 1 << 20;
/// Largest list of facts that is read, in bytes.
const FACTS_MAX: usize = 4 << 20;
/// Largest failure that ends a call, in bytes: it travels in headers, 16 KiB in all, and in base 64.
const FAILURE_MAX: usize = 8 << 10;
/// Largest key file, in bytes.
pub const KEY_MAX: usize = 4 << 20;
/// Largest description of hardware, in bytes.
pub const DESCRIPTION_MAX: usize = 4 << 20;
/// Largest chunk of a stream, in bytes.
pub const CHUNK_MAX: usize = 256 << 10;
/// Largest message of a bulk lane: a chunk and its frame.
pub const LANE_MESSAGE_MAX: usize = CHUNK_MAX + (16 << 10);
/// Largest message of the control lane.
pub const CONTROL_MESSAGE_MAX: usize = 8 << 20;
/// Metadata of every call after Hello: the number of the controller that calls, in decimal.
pub const CONTROLLER: &str = "landfall-controller";

/// Returns the name that an agent has in the tunnel of one operator: which authority's certificate it is to show.
///
/// `authority` is the certificate of the authority, PEM. It is told in the clear, and is no secret.
pub fn agent_name(authority: &str) -> String {
    let hash = blake3::hash(authority.as_bytes()).to_hex();
    format!("{}.landfall-agent", &hash[..32])
}

/// What came over the wire is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is larger than it may be.
    #[error("{what} has {size} bytes, more than {max}")]
    TooLarge {
        /// Name of the message.
        what: &'static str,
        /// Its size.
        size: usize,
        /// The bound.
        max: usize,
    },
    /// It is no JSON of the right shape.
    #[error("reading {what}")]
    Json {
        /// Name of the message.
        what: &'static str,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// A field has no meaning.
    #[error("{0} is missing or unknown")]
    Field(&'static str),
}

fn read<T: serde::de::DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
    max: usize,
) -> Result<T, Unreadable> {
    within(what, bytes.len(), max)?;
    serde_json::from_slice(bytes).map_err(|source| Unreadable::Json { what, source })
}

fn within(what: &'static str, size: usize, max: usize) -> Result<(), Unreadable> {
    if size > max {
        return Err(Unreadable::TooLarge { what, size, max });
    }
    Ok(())
}

fn write<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("types of this crate have only string keys")
}

/// Reads an order.
pub fn order_from_wire(bytes: &[u8]) -> Result<Order, Unreadable> {
    read("the order", bytes, ORDER_MAX)
}

/// Writes an order.
pub fn order_to_wire(order: &Order) -> Vec<u8> {
    write(order)
}

/// Reads facts.
pub fn facts_from_wire(bytes: &[u8]) -> Result<Facts, Unreadable> {
    read("the facts", bytes, FACTS_MAX)
}

/// Writes facts.
pub fn facts_to_wire(facts: &Facts) -> Vec<u8> {
    write(facts)
}

/// Reads why a call failed on the other side; nothing where no such thing was sent.
pub fn failure_from_wire(bytes: &[u8]) -> Option<Failure> {
    read("why it failed", bytes, FAILURE_MAX).ok()
}

/// Writes why a call failed; nothing where it would not fit into the headers that end a call.
pub fn failure_to_wire(failure: &Failure) -> Option<Vec<u8>> {
    Some(write(failure)).filter(|bytes| bytes.len() <= FAILURE_MAX)
}

/// Reads the events of a report.
pub fn events_from_wire(report: &v1::Report) -> Result<Vec<Event>, Unreadable> {
    report
        .events
        .iter()
        .map(|bytes| read("an event", bytes, ORDER_MAX))
        .collect()
}

/// Writes a report; `cursor` is what follows its last heavy and its last light event.
pub fn report_to_wire(events: &[Event], cursor: (u64, u64)) -> v1::Report {
    v1::Report {
        events: events.iter().map(write).collect(),
        next: cursor.0,
        light: cursor.1,
    }
}

/// Reads where a key file shall lie, and the file, which is overwritten in memory once it is dropped.
pub fn key_from_wire(
    request: &mut v1::EntrustRequest,
) -> Result<(KeyPath, Zeroizing<Vec<u8>>), Unreadable> {
    let content = Zeroizing::new(std::mem::take(&mut request.content));
    within("the key", content.len(), KEY_MAX)?;
    let path = request.path.parse();
    let path = path.map_err(|_| Unreadable::Field("the key's path"))?;
    Ok((path, content))
}

/// Writes a key file and where it shall lie.
pub fn key_to_wire(run: &RunId, path: &KeyPath, content: &[u8]) -> v1::EntrustRequest {
    v1::EntrustRequest {
        run_id: run.to_string(),
        path: path.to_string(),
        content: content.to_vec(),
    }
}

/// A key does not stay in memory that is used for something else, whatever became of the message.
impl Drop for v1::EntrustRequest {
    fn drop(&mut self) {
        self.content.zeroize();
    }
}

/// Reads which program shall describe the hardware, and where it is; nowhere for the installer's own.
pub fn describer_from_wire(
    request: &v1::DescribeRequest,
) -> Result<(Describer, Option<StorePath>), Unreadable> {
    let describer = Describer::from_name(&request.backend);
    let describer = describer.ok_or(Unreadable::Field("the program that describes hardware"))?;
    if request.program.is_empty() {
        return Ok((describer, None));
    }
    let program = request.program.parse();
    let program = program.map_err(|_| Unreadable::Field("the store path of the program"))?;
    Ok((describer, Some(program)))
}

/// Writes which program shall describe the hardware, and where it is.
pub fn describer_to_wire(describer: Describer, program: Option<&StorePath>) -> v1::DescribeRequest {
    v1::DescribeRequest {
        backend: describer.name().to_owned(),
        program: program.map(StorePath::to_string).unwrap_or_default(),
    }
}

/// Reads a description of hardware.
pub fn description_from_wire(reply: v1::DescribeReply) -> Result<(Vec<u8>, String), Unreadable> {
    within("the description", reply.output.len(), DESCRIPTION_MAX)?;
    Ok((reply.output, reply.complaints))
}

/// What a stream is opened for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Bytes to be kept under their hash.
    Blob(Blob),
    /// A conversation with a nix daemon.
    Store(StoreRoot),
}

/// Reads what a stream is opened for.
pub fn target_from_wire(open: &v1::Open) -> Result<Target, Unreadable> {
    match &open.target {
        Some(v1::open::Target::Blob(blob)) => {
            let hex: String = blob.hash.iter().map(|byte| format!("{byte:02x}")).collect();
            let hash = BlobHash::try_from(hex).map_err(|_| Unreadable::Field("the blob's hash"))?;
            Ok(Target::Blob(Blob {
                hash,
                size: blob.size,
            }))
        }
        Some(v1::open::Target::Store(store)) => StoreRoot::from_name(&store.root)
            .map(Target::Store)
            .ok_or(Unreadable::Field("the store's name")),
        None => Err(Unreadable::Field("what the stream is for")),
    }
}

/// Writes what a stream is opened for.
pub fn target_to_wire(target: &Target) -> v1::open::Target {
    match target {
        Target::Blob(blob) => {
            let hex = blob.hash.as_str().as_bytes();
            let nibble = |digit: u8| (digit as char).to_digit(16).unwrap_or_default() as u8;
            let hash = hex
                .chunks(2)
                .map(|pair| nibble(pair[0]) << 4 | nibble(pair[1]))
                .collect();
            v1::open::Target::Blob(v1::Blob {
                hash,
                size: blob.size,
            })
        }
        Target::Store(root) => v1::open::Target::Store(v1::Store {
            root: root.name().to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{
        collection::vec,
        option,
        prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest},
        sample::Index,
    };
    use serde_json::Value;

    use super::*;
    use crate::{
        facts::{Disk, Firmware, Interface, Mounted, Part},
        laws,
        order::{
            ConsentedDisk, Disko, DiskoMode, Install, Job, Kexec, NixSettings, Owner, RunId,
            StorePath, System,
        },
    };

    fn blob() -> impl Strategy<Value = Blob> {
        let hash = "[0-9a-f]{64}".prop_map(|hash| BlobHash::try_from(hash).unwrap());
        (hash, any::<u64>()).prop_map(|(hash, size)| Blob { hash, size })
    }

    fn path() -> impl Strategy<Value = StorePath> {
        "/nix/store/[0-9a-df-np-sv-z]{32}-[a-zA-Z0-9+_?=-][a-zA-Z0-9+._?=-]{0,9}"
            .prop_map(|path| path.parse().unwrap())
    }

    fn disko() -> impl Strategy<Value = Disko> {
        let mode = prop_oneof![
            Just(DiskoMode::Disko),
            Just(DiskoMode::Format),
            Just(DiskoMode::Mount)
        ];
        let disk = (any::<String>(), any::<u64>(), any::<Option<String>>()).prop_map(
            |(device, size, serial)| ConsentedDisk {
                device,
                size,
                beginning: serial.clone(),
                serial,
            },
        );
        (path(), mode, vec(disk, 0..3), option::of(path())).prop_map(
            |(script, mode, disks, again)| Disko {
                script,
                mode,
                disks,
                again,
            },
        )
    }

    fn system() -> impl Strategy<Value = System> {
        let folder = || "(/[a-z .]{0,3}x){1,4}|/";
        let owner =
            (folder(), "[a-z]{1,9}(:[a-z0-9]{0,9})?|:[a-z]").prop_map(|(path, owner)| Owner {
                path: path.parse().unwrap(),
                owner: owner.parse().unwrap(),
            });
        let folder = folder().prop_map(|path| path.parse().unwrap());
        let placed = (vec(owner, 0..3), vec(folder, 0..3));
        (path(), option::of(blob()), placed, any::<[bool; 2]>()).prop_map(
            |(toplevel, extra_files, (owners, host_keys_to), [check, boot_check])| System {
                toplevel,
                extra_files,
                owners,
                host_keys_to,
                check,
                boot_check,
            },
        )
    }

    fn order() -> impl Strategy<Value = Order> {
        let kexec = (blob(), any::<String>(), any::<String>(), any::<[u64; 3]>()).prop_map(
            |(image, extra_flags, authorized_key, [kernel, initrd, return_after])| {
                Job::Kexec(Kexec {
                    image,
                    extra_flags,
                    authorized_key,
                    kernel,
                    initrd,
                    return_after,
                })
            },
        );
        let words = || vec("[!-~]{1,9}", 0..3);
        let nix = (words(), words()).prop_map(|(substituters, public_keys)| NixSettings {
            substituters,
            public_keys,
        });
        let key = "(/[a-z .]{0,3}x){1,4}".prop_map(|path| path.parse().unwrap());
        let parts = (
            vec(key, 0..3),
            option::of(disko()),
            option::of(system()),
            nix,
        );
        let install = (parts, any::<bool>(), any::<bool>()).prop_map(
            |((keys, disko, system, nix), reboot, keep_journal)| {
                Job::Install(Install {
                    keys,
                    disko,
                    system,
                    nix,
                    reboot,
                    keep_journal,
                })
            },
        );
        let run = any::<[u8; 16]>().prop_map(RunId::from_bytes);
        (run, prop_oneof![kexec, install]).prop_map(|(run, job)| Order { run, job })
    }

    fn facts() -> impl Strategy<Value = Facts> {
        let texts = || vec(any::<String>(), 0..3);
        let part = (
            any::<String>(),
            any::<u64>(),
            any::<Option<String>>(),
            texts(),
        )
            .prop_map(|(device, size, kind, mounted)| Part {
                device,
                size,
                kind,
                mounted,
                ..Part::default()
            });
        let disk = (
            any::<String>(),
            any::<Option<String>>(),
            any::<bool>(),
            vec(part, 0..2),
        )
            .prop_map(|(device, serial, read_only, parts)| Disk {
                device,
                serial,
                read_only,
                parts,
                ..Disk::default()
            });
        let interface = (any::<String>(), any::<Option<String>>(), texts()).prop_map(
            |(name, mac, addresses)| Interface {
                name,
                mac,
                addresses,
                ..Interface::default()
            },
        );
        let mounted = (any::<String>(), any::<String>(), any::<String>()).prop_map(
            |(source, target, kind)| Mounted {
                source,
                target,
                kind,
            },
        );
        let firmware = prop_oneof![Just(Firmware::Uefi), Just(Firmware::Bios)];
        let devices = (vec(disk, 0..3), vec(interface, 0..3), vec(mounted, 0..3));
        (
            any::<String>(),
            any::<Option<bool>>(),
            any::<u64>(),
            firmware,
            devices,
        )
            .prop_map(
                |(arch, secure_boot, memory_total, firmware, (disks, interfaces, mounts))| Facts {
                    arch,
                    secure_boot,
                    memory_total,
                    firmware,
                    disks,
                    interfaces,
                    mounts,
                    ..Facts::default()
                },
            )
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-z_/]{0,8}".prop_map(Value::from),
        ];
        let word = || {
            prop_oneof![
                Just("run".to_owned()),
                Just("job".to_owned()),
                Just("install".to_owned()),
                Just("kind".to_owned()),
                Just("index".to_owned()),
                Just("disks".to_owned()),
                "[a-z_]{0,8}",
            ]
        };
        leaf.prop_recursive(5, 40, 5, move |inner| {
            prop_oneof![
                vec(inner.clone(), 0..5).prop_map(Value::from),
                vec((word(), inner), 0..5).prop_map(|members| members.into_iter().collect()),
            ]
        })
    }

    /// Reads bytes as everything there is; only what is of the right shape is taken.
    fn read_all(bytes: &[u8]) {
        let _ = order_from_wire(bytes);
        let _ = facts_from_wire(bytes);
        let report = v1::Report {
            events: vec![bytes.to_vec()],
            next: 0,
            light: 0,
        };
        let _ = events_from_wire(&report);
    }

    proptest! {
        #[test]
        fn orders_survive_the_wire(order in order()) {
            prop_assert_eq!(order_from_wire(&order_to_wire(&order)).unwrap(), order);
        }

        #[test]
        fn facts_survive_the_wire(facts in facts()) {
            prop_assert_eq!(facts_from_wire(&facts_to_wire(&facts)).unwrap(), facts);
        }

        #[test]
        fn reports_survive_the_wire(events in vec(laws::event(), 0..9), next in any::<u64>(), light in any::<u64>()) {
            let report = report_to_wire(&events, (next, light));
            prop_assert_eq!((report.next, report.light), (next, light));
            prop_assert_eq!(events_from_wire(&report).unwrap(), events);
        }

        #[test]
        fn targets_survive_the_wire(blob in blob(), installer in any::<bool>()) {
            let root = if installer { StoreRoot::Installer } else { StoreRoot::Target };
            for target in [Target::Blob(blob.clone()), Target::Store(root)] {
                let open = v1::Open { stream: 1, target: Some(target_to_wire(&target)), codec: 0 };
                prop_assert_eq!(target_from_wire(&open).unwrap(), target);
            }
        }

        #[test]
        fn any_bytes_and_any_json_are_read_or_refused(bytes in vec(any::<u8>(), 0..200), json in json()) {
            read_all(&bytes);
            read_all(json.to_string().as_bytes());
        }

        #[test]
        fn damaged_messages_are_read_or_refused(
            order in order(),
            facts in facts(),
            event in laws::event(),
            at in any::<Index>(),
            bytes in vec(any::<u8>(), 0..4),
        ) {
            let event = serde_json::to_vec(&event).unwrap();
            for mut message in [order_to_wire(&order), facts_to_wire(&facts), event] {
                let at = at.index(message.len());
                let end = (at + bytes.len()).min(message.len());
                message.splice(at..end, bytes.iter().copied());
                read_all(&message);
            }
        }

        #[test]
        fn any_target_is_read_or_refused(hash in vec(any::<u8>(), 0..40), root in ".{0,10}") {
            let blob = v1::Blob { hash: hash.clone(), size: 1 };
            let store = v1::Store { root: root.clone() };
            for target in [v1::open::Target::Blob(blob), v1::open::Target::Store(store)] {
                let is_blob = matches!(target, v1::open::Target::Blob(_));
                let open = v1::Open { stream: 1, target: Some(target), codec: 7 };
                let legal = if is_blob { hash.len() == 32 } else { StoreRoot::from_name(&root).is_some() };
                prop_assert_eq!(target_from_wire(&open).is_ok(), legal);
            }
        }

        #[test]
        fn plan_of_any_order_names_each_step_once(order in order()) {
            let plan = order.plan();
            let names: std::collections::BTreeSet<_> = plan.iter().collect();
            prop_assert_eq!(names.len(), plan.len());
            prop_assert!(plan.starts_with(&["inspect"]));
        }
    }

    #[test]
    fn nesting_without_end_is_refused() {
        for (open, close) in [("[", "]"), ("{\"kind\":", "}")] {
            let deep = open.repeat(100_000) + &close.repeat(100_000);
            assert!(order_from_wire(deep.as_bytes()).is_err());
            assert!(facts_from_wire(deep.as_bytes()).is_err());
            let report = v1::Report {
                events: vec![deep.into_bytes()],
                next: 0,
                light: 0,
            };
            assert!(events_from_wire(&report).is_err());
        }
    }

    #[test]
    fn what_is_too_large_is_not_even_parsed() {
        let spaces = vec![b' '; ORDER_MAX + 1];
        let said = order_from_wire(&spaces).unwrap_err().to_string();
        assert_eq!(said, "the order has 1048577 bytes, more than 1048576");
        let mut padded = facts_to_wire(&Facts::default());
        padded.resize(FACTS_MAX, b' ');
        assert!(facts_from_wire(&padded).is_ok());
        padded.push(b' ');
        assert!(facts_from_wire(&padded).is_err());
    }

    #[test]
    fn failure_that_ends_a_call_is_whole_or_not_sent() {
        let failure = Failure::new("cannot describe")
            .because("why")
            .hint("do")
            .code("LF1321");
        let bytes = failure_to_wire(&failure).unwrap();
        assert_eq!(failure_from_wire(&bytes), Some(failure.clone()));
        assert_eq!(failure_from_wire(b""), None);
        assert_eq!(
            failure_to_wire(&failure.because("x".repeat(FAILURE_MAX))),
            None
        );
    }

    fn entrusted(path: &str, size: usize) -> Result<usize, String> {
        let mut request = v1::EntrustRequest {
            run_id: String::new(),
            path: path.to_owned(),
            content: vec![7; size],
        };
        let read = key_from_wire(&mut request);
        read.map(|(_, content)| content.len())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn keys_keep_their_bounds() {
        assert_eq!(entrusted("/tmp/key", 0), Ok(0));
        assert_eq!(entrusted("/tmp/key", KEY_MAX), Ok(KEY_MAX));
        let large = "the key has 4194305 bytes, more than 4194304";
        assert_eq!(entrusted("/tmp/key", KEY_MAX + 1), Err(large.to_owned()));
        let nowhere = "the key's path is missing or unknown";
        assert_eq!(entrusted("", 1), Err(nowhere.to_owned()));
        assert_eq!(entrusted("../etc/shadow", 1), Err(nowhere.to_owned()));
    }

    #[test]
    fn key_arrives_byte_for_byte() {
        let (run, path) = (RunId::from_bytes([1; 16]), "/tmp/a b".parse().unwrap());
        let bytes: Vec<u8> = (0..=255).collect();
        let mut request = key_to_wire(&run, &path, &bytes);
        assert_eq!(request.run_id, run.as_str());
        let (to, content) = key_from_wire(&mut request).unwrap();
        assert_eq!((to, content.as_slice()), (path, bytes.as_slice()));
        assert!(request.content.is_empty(), "there is one copy");
    }

    #[test]
    fn only_the_two_programs_describe_hardware() {
        let store: StorePath = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-x"
            .parse()
            .unwrap();
        for describer in [Describer::GenerateConfig, Describer::Facter] {
            for program in [None, Some(store.clone())] {
                let request = describer_to_wire(describer, program.as_ref());
                assert_eq!(describer_from_wire(&request).unwrap(), (describer, program));
            }
        }
        let wrong = |backend: &str, program: &str| {
            let request = v1::DescribeRequest {
                backend: backend.to_owned(),
                program: program.to_owned(),
            };
            describer_from_wire(&request).unwrap_err().to_string()
        };
        let unknown = "the program that describes hardware is missing or unknown";
        assert_eq!(wrong("sh", ""), unknown);
        let elsewhere = "the store path of the program is missing or unknown";
        assert_eq!(wrong("nixos-facter", "/bin/sh"), elsewhere);
    }

    #[test]
    fn stream_for_nothing_is_refused() {
        let open = v1::Open {
            stream: 1,
            target: None,
            codec: 0,
        };
        let said = target_from_wire(&open).unwrap_err().to_string();
        assert_eq!(said, "what the stream is for is missing or unknown");
    }
}
