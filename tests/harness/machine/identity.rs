//! Who a machine is that begins from a state: host keys, machine id, boot id, clock, random numbers.
//!
//! The boot id is exchanged in its memory while it stands still. Everything else is a script that a
//! shell, left there waiting, takes from the machine's second serial port. The kernel's own random
//! numbers begin anew by themselves: the emulator's generation id tells it.

use std::{
    fs::{self, File, OpenOptions},
    io::Read,
    os::unix::fs::FileExt,
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use memchr::memmem;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::timeout,
};

use super::{qemu::IDENTITY, state::About};

/// Leaves a shell behind that waits for a script, and runs it.
///
/// systemd has it as a unit of its own, so that the login that leaves it ends.
pub const LISTEN: &str = r#"
cat > /run/rig-listen <<'END'
exec < /dev/ttyS1 > /dev/ttyS1 2>&1
umask 077
while IFS= read -r line && [ "$line" != "end" ]; do printf '%s\n' "$line"; done > /run/rig-identity
sh /run/rig-identity
rm -f /run/rig-identity
END
if command -v systemd-run > /dev/null; then
  systemd-run --quiet --collect --unit=rig-identity sh /run/rig-listen
else
  nohup sh /run/rig-listen < /dev/null > /dev/null 2>&1 &
fi
until [ -e /run/rig-identity ]; do sleep 0.1; done
rm -f /run/rig-listen
sync
"#;

/// Exchanges the machine id, and the name of the folder where its journal is looked for.
const MACHINE_ID: &str = r#"
if [ -s /etc/machine-id ]; then
  old=$(cat /etc/machine-id)
  echo $id > /etc/machine-id
  for journal in /run/log/journal /var/log/journal; do
    if [ -d $journal/$old ]; then mv $journal/$old $journal/$id; ln -s $id $journal/$old; fi
  done
fi
"#;

/// The machine is somebody of its own after this; seen: 0.9 s, beside two others 3 s.
const BECOMES: Duration = Duration::from_secs(60);

/// What the script says last. Its own text, which the line echoes, has it in another form.
const DONE: &str = "identity: fresh";

/// A buffer's worth of memory that is searched at a time.
const CHUNK: usize = 1 << 20;

/// Reads a boot id as the kernel tells it.
pub fn boot_id(text: &str) -> Result<[u8; 16]> {
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let number = u128::from_str_radix(&digits, 16).context("reading a boot id")?;
    ensure!(digits.len() == 32, "not a boot id: {text}");
    Ok(number.to_be_bytes())
}

/// A boot id in the forms in which kernel, systemd and its journal keep it: as it is, in digits, and in
/// digits with dashes.
pub fn forms(boot_id: &[u8; 16]) -> [Vec<u8>; 3] {
    let digits = hex(boot_id);
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &digits[part]);
    [
        boot_id.to_vec(),
        digits.clone().into_bytes(),
        parts.join("-").into_bytes(),
    ]
}

/// Where in a file these bytes stand.
pub fn places(memory: &Path, bytes: &[u8]) -> Result<Vec<u64>> {
    let mut file = File::open(memory).with_context(|| format!("opening {}", memory.display()))?;
    let mut places = Vec::new();
    let mut buffer = Vec::with_capacity(CHUNK + bytes.len());
    let mut begin = 0;
    loop {
        let read = file.by_ref().take(CHUNK as u64).read_to_end(&mut buffer)?;
        if read == 0 {
            return Ok(places);
        }
        places.extend(memmem::find_iter(&buffer, bytes).map(|at| begin + at as u64));
        // what stands across the border is found with the next part
        let kept = buffer.len().min(bytes.len() - 1);
        begin += (buffer.len() - kept) as u64;
        buffer.drain(..buffer.len() - kept);
    }
}

/// Gives the memory of a machine that stands still a boot id that no other has.
pub fn give_boot_id(memory: &Path, about: &About) -> Result<()> {
    let mut fresh: [u8; 16] = random()?;
    // as the kernel marks a random one
    fresh[6] = fresh[6] & 0x0f | 0x40;
    fresh[8] = fresh[8] & 0x3f | 0x80;
    let file = OpenOptions::new()
        .write(true)
        .open(memory)
        .with_context(|| format!("opening {}", memory.display()))?;
    for (form, places) in forms(&fresh).iter().zip(&about.places) {
        for place in places {
            file.write_all_at(form, *place)
                .context("writing a boot id")?;
        }
    }
    Ok(())
}

/// Tells the machine in `folder`, which has just begun from a state, who it is.
pub async fn give(folder: &Path, about: &About) -> Result<()> {
    let script = script(about)?;
    let mut last = String::new();
    let told = async {
        let stream = UnixStream::connect(folder.join(IDENTITY)).await?;
        let (reader, mut writer) = stream.into_split();
        let mut lines = BufReader::new(reader).lines();
        writer.write_all(script.as_bytes()).await?;
        while let Some(line) = lines.next_line().await? {
            if line.contains(DONE) {
                return Ok(());
            }
            last = line;
        }
        bail!("its line ended")
    };
    let told = timeout(BECOMES, told).await.context("waiting for it");
    told.flatten()
        .with_context(|| format!("telling a machine who it is; it said last: {last}"))
}

/// What the machine does to be somebody of its own. In words that busybox knows too.
fn script(about: &About) -> Result<String> {
    let mut text = String::from("set -e\numask 022\n");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    text += &format!("date -s @{} > /dev/null\n", now.as_secs());
    let (seed, id): ([u8; 32], [u8; 16]) = (random()?, random()?);
    text += &format!("echo {} > /dev/urandom\n", hex(&seed));
    text += &format!("id={}\n{MACHINE_ID}", hex(&id));
    for (file, content) in host_keys(&about.keys)? {
        text += &format!("cat > /etc/ssh/{file} <<'END'\n{content}END\n");
    }
    // sshd begins anew, and says so by this file once it listens with the new keys
    text += "daemon=$(cat /run/sshd.pid)\nrm -f /run/sshd.pid\nkill -HUP $daemon\n";
    text += "until [ -s /run/sshd.pid ]; do sleep 0.05; done\n";
    text += "printf 'identity: %s\\n' fresh\nend\n";
    Ok(text)
}

/// New host keys of these kinds: the names of their files, and what is in them.
fn host_keys(kinds: &[String]) -> Result<Vec<(String, String)>> {
    let desk = TempDir::with_prefix("keys-").context("making a folder for keys")?;
    let mut making = Vec::new();
    for kind in kinds {
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", kind, "-N", "", "-C", "rig", "-f"]);
        keygen.arg(desk.path().join(format!("ssh_host_{kind}_key")));
        making.push(keygen.spawn().context("starting ssh-keygen")?);
    }
    for mut keygen in making {
        ensure!(keygen.wait()?.success(), "ssh-keygen makes no key");
    }
    let mut files = Vec::new();
    for kind in kinds {
        for ending in ["", ".pub"] {
            let name = format!("ssh_host_{kind}_key{ending}");
            let content = fs::read_to_string(desk.path().join(&name))?;
            files.push((name, content));
        }
    }
    Ok(files)
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("reading random numbers")?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{About, CHUNK, boot_id, forms, give_boot_id, places, script};

    const ID: &str = "0f1e2d3c-4b5a-4697-8879-6a5b4c3d2e1f\n";

    #[test]
    fn boot_id_is_exchanged_wherever_it_stands_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let memory = folder.path().join("memory");
        let id = boot_id(ID).unwrap();
        let mut bytes = vec![7; 2 * CHUNK + 100];
        let spots = [0, CHUNK - 5, CHUNK + 40, 2 * CHUNK + 84];
        for spot in spots {
            bytes[spot..spot + 16].copy_from_slice(&id);
        }
        let text = b"_BOOT_ID=0f1e2d3c4b5a469788796a5b4c3d2e1f\n";
        bytes[900..900 + text.len()].copy_from_slice(text);
        fs::write(&memory, &bytes).unwrap();
        let about = About {
            places: forms(&id).map(|form| places(&memory, &form).unwrap()),
            keys: Vec::new(),
        };
        assert_eq!(about.places[0], spots.map(|spot| spot as u64));
        assert_eq!(about.places[1..], [vec![909], vec![]]);

        give_boot_id(&memory, &about).unwrap();
        let after = fs::read(&memory).unwrap();
        let fresh = &after[..16];
        assert_ne!(fresh, id);
        let digits = forms(&fresh.try_into().unwrap())[1].clone();
        bytes[909..941].copy_from_slice(&digits);
        for spot in spots {
            assert_eq!(&after[spot..spot + 16], fresh);
            bytes[spot..spot + 16].copy_from_slice(fresh);
        }
        assert_eq!(after, bytes);
    }

    #[test]
    fn no_two_machines_are_told_the_same() {
        let about = About {
            places: Default::default(),
            keys: vec!["ed25519".to_owned()],
        };
        let (one, other) = (script(&about).unwrap(), script(&about).unwrap());
        for begin in ["id=", "echo ", "ssh-ed25519 "] {
            let said = |text: &str| -> Vec<String> {
                let lines = text.lines().filter(|line| line.starts_with(begin));
                lines.map(str::to_owned).collect()
            };
            assert_eq!(said(&one).len(), 1, "{begin}: {one}");
            assert_ne!(said(&one), said(&other));
        }
    }

    #[test]
    fn text_that_is_no_boot_id_is_refused() {
        assert!(boot_id("0f1e").is_err());
        assert!(boot_id("").is_err());
    }
}
