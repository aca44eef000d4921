//! The keys of one run: certificates for the tunnel, and a key pair to log in to the installer.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use landfall_proto::{failure::Failure, wire};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ED25519, date_time_ymd,
};
use secrecy::{
    ExposeSecret, SecretString,
    zeroize::{Zeroize, Zeroizing},
};
use serde::{Deserialize, Serialize};

use super::{child, file, secret::Secret};

/// Certificates and keys of one run, PEM. The authority's own key is forgotten as soon as it has signed two.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Certificate of the run's authority.
    pub authority: String,
    /// Certificate of the agent.
    pub agent_certificate: String,
    /// Key of the agent.
    pub agent_key: SecretString,
    /// Certificate of the controller.
    pub own_certificate: String,
    /// Key of the controller.
    pub own_key: SecretString,
}

/// The form in which they are kept on this machine.
#[derive(Serialize, Deserialize)]
struct Kept {
    authority: String,
    agent_certificate: String,
    agent_key: String,
    own_certificate: String,
    own_key: String,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.agent_key.zeroize();
        self.own_key.zeroize();
    }
}

/// The form in which the agent wants its own.
#[derive(Serialize)]
struct OfAgent<'a> {
    ca: &'a str,
    cert: &'a str,
    key: &'a str,
}

impl Credentials {
    /// Makes a new set.
    ///
    /// Valid from 1975 to 4096: a target without a battery believes in 1980 or in next century, and a run's keys are
    /// gone long before anything could expire.
    pub fn make() -> Result<Self, Failure> {
        make().map_err(|error| {
            Failure::new("cannot make keys for the tunnel")
                .caused_by(&error)
                .code("LF0422")
        })
    }

    /// Returns what `spawn` reads: the authority, and the agent's own certificate and key.
    pub fn for_agent(&self) -> Zeroizing<Vec<u8>> {
        let part = OfAgent {
            ca: &self.authority,
            cert: &self.agent_certificate,
            key: self.agent_key.expose_secret(),
        };
        Zeroizing::new(serde_json::to_vec(&part).expect("strings are JSON"))
    }

    /// Writes the whole set to a file that only we can read.
    pub fn keep(&self, path: &Path) -> Result<(), Failure> {
        let kept = Kept {
            authority: self.authority.clone(),
            agent_certificate: self.agent_certificate.clone(),
            agent_key: self.agent_key.expose_secret().to_owned(),
            own_certificate: self.own_certificate.clone(),
            own_key: self.own_key.expose_secret().to_owned(),
        };
        let bytes = Zeroizing::new(serde_json::to_vec(&kept).expect("strings are JSON"));
        file::write_private(path, &bytes)
    }

    /// Reads a set that was kept; none when there is none.
    pub fn kept(path: &Path) -> Result<Option<Self>, Failure> {
        let Some(bytes) = file::read(path)?.map(Zeroizing::new) else {
            return Ok(None);
        };
        let kept: Kept = serde_json::from_slice(&bytes)
            .map_err(|error| file::cannot("read", path).caused_by(&error))?;
        Ok(Some(Self {
            authority: kept.authority.clone(),
            agent_certificate: kept.agent_certificate.clone(),
            agent_key: kept.agent_key.as_str().into(),
            own_certificate: kept.own_certificate.clone(),
            own_key: kept.own_key.as_str().into(),
        }))
    }
}

fn make() -> Result<Credentials, rcgen::Error> {
    let mut params = params(vec![], "landfall run")?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate_for(&PKCS_ED25519)?)?;
    let pem = authority.pem();
    let sign = |name: &str, usage: ExtendedKeyUsagePurpose| {
        let mut params = self::params(vec![name.to_owned()], name)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let certificate = params.signed_by(&key, &authority)?;
        Ok::<_, rcgen::Error>((certificate.pem(), SecretString::from(key.serialize_pem())))
    };
    let agent = wire::agent_name(&pem);
    let (agent_certificate, agent_key) = sign(&agent, ExtendedKeyUsagePurpose::ServerAuth)?;
    let (own_certificate, own_key) = sign("landfall", ExtendedKeyUsagePurpose::ClientAuth)?;
    Ok(Credentials {
        authority: pem,
        agent_certificate,
        agent_key,
        own_certificate,
        own_key,
    })
}

fn params(names: Vec<String>, common: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, common);
    params.not_before = date_time_ymd(1975, 1, 1);
    params.not_after = date_time_ymd(4096, 1, 1);
    Ok(params)
}

/// Largest private key: RSA of 16384 bits has 13 KiB.
const KEY_MAX: usize = 64 << 10;

/// Returns a private key file that ssh will take, or says why it would not.
///
/// ssh passes over one that others can read with a warning, and then fails for another reason. One that can be read only
/// once, such as a process substitution, is copied to `folder`, which nobody else can enter.
pub fn identity(path: &Path, folder: &Path) -> Result<PathBuf, Failure> {
    let cannot = || {
        Failure::new(format!("cannot log in with {}", path.display()))
            .because("opening the private key")
            .code("LF0110")
    };
    let about = fs::metadata(path).map_err(|error| {
        cannot()
            .caused_by(&error)
            .hint("name a private key that exists: `-i FILE`")
    })?;
    if about.is_dir() {
        return Err(cannot()
            .because("it is a directory")
            .hint("name the file of a private key: `-i FILE`"));
    }
    if !about.is_file() {
        return keep_key(&Secret::read_once(path, KEY_MAX)?, &folder.join("identity"));
    }
    let begin = fs::File::open(path).and_then(|mut file| {
        let mut begin = [0; 11];
        std::io::Read::read(&mut file, &mut begin).map(|_| begin)
    });
    let begin = begin.map_err(|error| {
        cannot().caused_by(&error).hint(format!(
            "let yourself read it: `chmod 600 {}`",
            path.display()
        ))
    })?;
    // a public key stands for one that a key agent holds; of those ssh asks nothing
    let is_private = &begin == b"-----BEGIN ";
    let ours = about.uid() == nix::unistd::getuid().as_raw();
    if is_private && ours && about.mode() & 0o077 != 0 {
        return Err(cannot()
            .because(format!(
                "others can read it (mode {:04o}), so ssh would not use it",
                about.mode() & 0o7777
            ))
            .hint(format!("`chmod 600 {}`", path.display())));
    }
    Ok(path.to_owned())
}

/// Writes a private key to a file that ssh takes. One without an end of its last line is of no use to ssh.
pub fn keep_key(key: &Secret, path: &Path) -> Result<PathBuf, Failure> {
    file::write_private(path, key.without_line_end().line().expose())?;
    Ok(path.to_owned())
}

/// Makes the key pair that logs in to the installer, unless it is there, and returns its public line.
///
/// `ssh-keygen` makes it: it comes with the ssh that will use it.
pub async fn login_key(path: &Path, comment: &str) -> Result<String, Failure> {
    let cannot = || Failure::new("cannot make a key for the installer").code("LF0422");
    let public = path.with_extension("pub");
    if !path.exists() {
        let mut command = tokio::process::Command::new("ssh-keygen");
        command
            .args(["-q", "-t", "ed25519", "-N", "", "-C", comment, "-f"])
            .arg(path);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        child::tie(&mut command, child::Group::Own);
        let output = command.output().await.map_err(|error| {
            let hint = "install OpenSSH's client, so that `ssh-keygen` works";
            cannot()
                .because("running ssh-keygen")
                .caused_by(&error)
                .hint(hint)
        })?;
        if !output.status.success() {
            let mut failure = cannot().because(format!("ssh-keygen ended with {}", output.status));
            let said = child::printable(&String::from_utf8_lossy(&output.stderr));
            for line in child::last_lines(&said, 3) {
                failure = failure.because(line);
            }
            return Err(failure);
        }
    }
    let line = file::read(&public)?
        .ok_or_else(|| cannot().because(format!("there is no {}", public.display())))?;
    Ok(String::from_utf8_lossy(&line).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_survive_being_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials.json");
        assert!(Credentials::kept(&path).unwrap().is_none());
        let made = Credentials::make().unwrap();
        made.keep(&path).unwrap();
        let kept = Credentials::kept(&path).unwrap().unwrap();
        assert_eq!(kept.own_key.expose_secret(), made.own_key.expose_secret());
        assert_eq!(kept.authority, made.authority);
    }

    #[test]
    fn key_that_ssh_would_pass_over_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("id");
        let check = |mode: u32, content: &str| {
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            identity(&path, folder.path())
        };
        let private = "-----BEGIN OPENSSH PRIVATE KEY-----\n";
        assert_eq!(check(0o600, private), Ok(path.clone()));
        assert_eq!(check(0o644, "ssh-ed25519 AAAA me"), Ok(path.clone()));
        let refused = check(0o644, private).unwrap_err();
        assert_eq!(
            refused.causes[1],
            "others can read it (mode 0644), so ssh would not use it"
        );
        let missing = identity(Path::new("/nonexistent"), folder.path()).unwrap_err();
        assert_eq!(missing.what, "cannot log in with /nonexistent");
        assert!(identity(folder.path(), folder.path()).is_err());
    }

    #[test]
    fn key_from_a_pipe_is_kept_with_a_line_end() {
        use std::{io::Write, os::fd::AsRawFd};
        let folder = tempfile::tempdir().unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"-----BEGIN X-----\nkey").unwrap();
        drop(writer);
        let path = format!("/dev/fd/{}", reader.as_raw_fd());
        let kept = identity(Path::new(&path), folder.path()).unwrap();
        assert_eq!(fs::read(&kept).unwrap(), b"-----BEGIN X-----\nkey\n");
        assert_eq!(fs::metadata(&kept).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn agent_gets_its_own_key_and_no_other() {
        let made = Credentials::make().unwrap();
        let text = String::from_utf8(made.for_agent().to_vec()).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["key"], made.agent_key.expose_secret());
        assert_eq!(value.as_object().unwrap().len(), 3);
        assert!(!format!("{made:?}").contains("PRIVATE"));
    }
}
