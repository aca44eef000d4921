//! The small words of a command line: each is read once, and what is read is right.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

/// Why a word of the command line is not taken; completes "invalid value …: ".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

/// A kexec image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Image {
    /// The stock image for the target's processor.
    Default,
    /// A file on this machine.
    File(PathBuf),
    /// To be fetched over HTTP or HTTPS.
    Url(String),
}

/// An option for ssh, `Keyword=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshOption(String);

/// Fingerprint of a host key: `SHA256:` and 43 digits of base 64, as `ssh-keygen -l` prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint(String);

/// A span of time: a number and `s`, `m` or `h`; seconds where there is no letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience(pub Duration);

impl Image {
    /// Returns the address of the stock image for a processor, where there is one.
    pub fn stock(arch: &str) -> Option<String> {
        const STOCK: &str =
            "https://github.com/nix-community/nixos-images/releases/download/nixos-26.05";
        let known = matches!(arch, "x86_64" | "aarch64");
        known.then(|| format!("{STOCK}/nixos-kexec-installer-noninteractive-{arch}-linux.tar.gz"))
    }
}

impl FromStr for Image {
    type Err = Invalid;

    /// A word with a scheme is an address, any other one is a file: a mistyped path is never looked for on the network.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return match text {
                "" => Err(Invalid("it names no file".to_owned())),
                path => Ok(Self::File(path.into())),
            };
        };
        match scheme {
            "http" | "https" if !rest.is_empty() && !rest.contains(char::is_whitespace) => {
                Ok(Self::Url(text.to_owned()))
            }
            "http" | "https" => Err(Invalid("it is no address".to_owned())),
            "file" => Err(Invalid(format!("give the path itself: `{rest}`"))),
            _ => Err(Invalid(format!(
                "`{scheme}` is not supported; use https, http or a path"
            ))),
        }
    }
}

impl SshOption {
    /// Returns it as ssh takes it after `-o`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the keyword.
    pub fn name(&self) -> &str {
        self.0.split_once('=').map_or(&*self.0, |(name, _)| name)
    }

    /// Whether landfall sets this option itself, so that the user's has no effect.
    pub fn is_ours(&self) -> bool {
        ["StrictHostKeyChecking", "KnownHostsCommand", "BatchMode"]
            .iter()
            .any(|ours| ours.eq_ignore_ascii_case(self.name()))
    }
}

impl FromStr for SshOption {
    type Err = Invalid;

    /// Takes every form that ssh takes after `-o` (`ssh_config(5)`): `Keyword=value`, `Keyword value`, `Keyword = value`.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let wrong = || Invalid("write it as `Keyword=value`".to_owned());
        let end = text
            .find(|c: char| !c.is_ascii_alphanumeric())
            .ok_or_else(wrong)?;
        let (name, rest) = text.split_at(end);
        let rest = rest.trim_start_matches([' ', '\t']);
        let value = rest.strip_prefix('=').unwrap_or(rest).trim();
        let separated = rest.len() < text.len() - end || rest.starts_with('=');
        if name.is_empty() || !separated || value.is_empty() || value.contains(char::is_control) {
            return Err(wrong());
        }
        Ok(Self(format!("{name}={value}")))
    }
}

impl Fingerprint {
    /// Returns it as `ssh-keygen -l` prints it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Fingerprint {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let text = text.trim_end_matches('=');
        let digits = text.strip_prefix("SHA256:").unwrap_or_default();
        let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
        if digits.len() == 43 && digits.bytes().all(is_digit) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Invalid(
                "a fingerprint is `SHA256:` and 43 characters, as `ssh-keygen -l` prints it"
                    .to_owned(),
            ))
        }
    }
}

impl fmt::Display for Patience {
    /// Writes it in the largest unit that it is whole in.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            _ if !seconds.is_multiple_of(60) || seconds == 0 => write!(f, "{seconds} s"),
            _ if !seconds.is_multiple_of(3600) => write!(f, "{} min", seconds / 60),
            _ => write!(f, "{} h", seconds / 3600),
        }
    }
}

impl FromStr for Patience {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let wrong = || Invalid("write it as `90s`, `15m` or `2h`".to_owned());
        let digits = text.trim_end_matches(['s', 'm', 'h']);
        let factor = match &text[digits.len()..] {
            "" | "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(wrong()),
        };
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        let seconds = number
            .checked_mul(factor)
            .filter(|&seconds| seconds <= 365 * 86400);
        Ok(Self(Duration::from_secs(seconds.ok_or_else(|| {
            Invalid("that is more than a year".to_owned())
        })?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check<T: FromStr>(text: &str, valid: bool) {
        assert_eq!(text.parse::<T>().is_ok(), valid, "{text:?}");
    }

    #[test]
    fn mistyped_path_is_never_an_address() {
        assert_eq!(
            "./no-such.tar.gz".parse(),
            Ok(Image::File("./no-such.tar.gz".into()))
        );
        assert_eq!("https.tar".parse(), Ok(Image::File("https.tar".into())));
        assert_eq!(
            "https://h/x.tar".parse(),
            Ok(Image::Url("https://h/x.tar".to_owned()))
        );
        check::<Image>("", false);
        check::<Image>("https://", false);
        check::<Image>("https://h/a b", false);
        check::<Image>("ftp://h/x", false);
        check::<Image>("file:///x", false);
    }

    #[test]
    fn stock_image_exists_for_two_processors() {
        assert!(Image::stock("x86_64").is_some_and(|url| url.ends_with("-x86_64-linux.tar.gz")));
        assert!(Image::stock("aarch64").is_some());
        assert_eq!(Image::stock("riscv64"), None);
    }

    #[test]
    fn ssh_options_are_keyword_and_value() {
        check::<SshOption>("ProxyJump=a,b", true);
        check::<SshOption>("ProxyCommand=ssh -W %h:%p gate", true);
        check::<SshOption>("ProxyJump", false);
        check::<SshOption>("=x", false);
        check::<SshOption>("A=", false);
        check::<SshOption>("A-B=x", false);
        check::<SshOption>(" A=x", false);
        check::<SshOption>("A=x\ny", false);
        check::<SshOption>("-oA=x", false);
    }

    #[test]
    fn ssh_options_may_have_blanks_instead() {
        for text in ["Port=22", "Port 22", "Port = 22", "Port\t22 "] {
            assert_eq!(text.parse::<SshOption>().unwrap().as_str(), "Port=22");
        }
        let proxy: SshOption = "ProxyCommand ssh -W a=b gate".parse().unwrap();
        assert_eq!(proxy.as_str(), "ProxyCommand=ssh -W a=b gate");
    }

    #[test]
    fn host_key_options_of_ssh_are_ours() {
        assert!(
            "stricthostkeychecking=no"
                .parse::<SshOption>()
                .unwrap()
                .is_ours()
        );
        assert!(
            !"ServerAliveInterval=5"
                .parse::<SshOption>()
                .unwrap()
                .is_ours()
        );
    }

    #[test]
    fn fingerprints_are_sha256() {
        let good = "SHA256:uNiVztksCsDhcc0u9e8BrwJXVGDjMGkiz1Ktm2RHp8s";
        check::<Fingerprint>(good, true);
        check::<Fingerprint>(&format!("{good}="), true);
        check::<Fingerprint>(&good[..40], false);
        check::<Fingerprint>(&good[7..], false);
        check::<Fingerprint>("MD5:16:27:ac:a5:76:28:2d:36:63:1b:56:4d:eb:df:a6:48", false);
        check::<Fingerprint>("", false);
    }

    #[test]
    fn patience_has_a_unit() {
        #[track_caller]
        fn check(text: &str, seconds: Option<u64>) {
            let read = text
                .parse::<Patience>()
                .ok()
                .map(|patience| patience.0.as_secs());
            assert_eq!(read, seconds, "{text:?}");
        }
        check("0", Some(0));
        check("90", Some(90));
        check("90s", Some(90));
        check("15m", Some(900));
        check("2h", Some(7200));
        check("", None);
        check("m", None);
        check("1hh", None);
        check("-1", None);
        check("+1", None);
        check("1.5h", None);
        check("99999999999999999999", None);
        check("9999999999h", None);
        let shown = |text: &str| text.parse::<Patience>().unwrap().to_string();
        let all = ["0", "90", "1800", "3600", "5400"].map(shown);
        assert_eq!(all, ["0 s", "90 s", "30 min", "1 h", "90 min"]);
    }
}
