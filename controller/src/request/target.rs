//! The machine as a user names it: `host`, `user@host`, `ssh://user@host:port`, an address of either kind.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use super::Invalid;

/// Characters that ssh refuses in a name, because they could reach a shell through `ProxyCommand`.
const REFUSED: &[char] = &[
    '\'', '"', '`', '$', '\\', ';', '&', '<', '>', '|', '(', ')', '{', '}', ',', '#', '?',
];

/// The machine as a user names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The user; absent for the one that ssh's own configuration names.
    pub user: Option<String>,
    /// Name, alias of ssh's own configuration, or address without brackets.
    pub host: String,
    /// Port from an address of the form `ssh://host:port`.
    pub port: Option<u16>,
}

impl fmt::Display for Target {
    /// Writes `user@host`, the form ssh takes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.user {
            Some(user) => write!(f, "{user}@{}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

impl FromStr for Target {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (rest, is_url) = match text.strip_prefix("ssh://") {
            Some(rest) => (rest.strip_suffix('/').unwrap_or(rest), true),
            None => (text, false),
        };
        let (user, place) = match rest.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, rest),
        };
        let user = user.map(checked_user).transpose()?;
        let (host, port) = place_and_port(place, is_url)?;
        Ok(Self {
            user,
            host: checked_host(host)?,
            port,
        })
    }
}

fn checked_user(user: &str) -> Result<String, Invalid> {
    let refused =
        user.is_empty() || user.starts_with('-') || !is_plain(user) || user.contains([':', '/']);
    if refused {
        Err(Invalid(format!("`{user}` is no name of a user")))
    } else {
        Ok(user.to_owned())
    }
}

fn checked_host(host: &str) -> Result<String, Invalid> {
    if host.is_empty() {
        return Err(Invalid("it names no host".to_owned()));
    }
    if host.starts_with('-') || !is_plain(host) || host.contains(['/', '[', ']', '@']) {
        return Err(Invalid(format!("`{host}` is no name of a host")));
    }
    if host.contains(':') && !is_v6(host) {
        return Err(Invalid(format!(
            "`{host}` is neither a host nor an IPv6 address; give the port with `-p`, or write `ssh://host:port`"
        )));
    }
    Ok(host.to_owned())
}

/// Splits `[address]:port` and `host:port`; the latter only in a URL, where a bare IPv6 address cannot stand.
fn place_and_port(place: &str, is_url: bool) -> Result<(&str, Option<u16>), Invalid> {
    if let Some(rest) = place.strip_prefix('[') {
        let (host, after) = rest
            .split_once(']')
            .ok_or_else(|| Invalid("`]` is missing".to_owned()))?;
        if !is_v6(host) {
            return Err(Invalid(format!("`{host}` is no IPv6 address")));
        }
        return match after.strip_prefix(':') {
            _ if after.is_empty() => Ok((host, None)),
            Some(port) => Ok((host, Some(number(port)?))),
            None => Err(Invalid(format!("`{after}` cannot follow an address"))),
        };
    }
    match place.split_once(':') {
        Some((host, port)) if is_url => Ok((host, Some(number(port)?))),
        _ => Ok((place, None)),
    }
}

fn number(port: &str) -> Result<u16, Invalid> {
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let number = port.parse().ok().filter(|&number| digits && number != 0);
    number.ok_or_else(|| Invalid(format!("`{port}` is no port")))
}

/// Whether it is an IPv6 address, with or without a zone such as `%eth0`.
fn is_v6(text: &str) -> bool {
    let (address, zone) = text.split_once('%').unwrap_or((text, "0"));
    address.parse::<Ipv6Addr>().is_ok() && !zone.is_empty() && !zone.contains([':', '%'])
}

fn is_plain(text: &str) -> bool {
    !text.contains(|c: char| c.is_whitespace() || c.is_control() || REFUSED.contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, user: Option<&str>, host: &str, port: Option<u16>) {
        let target: Target = text.parse().unwrap();
        assert_eq!(
            (target.user.as_deref(), &*target.host, target.port),
            (user, host, port),
            "{text}"
        );
    }

    #[track_caller]
    fn refuse(text: &str) {
        assert!(text.parse::<Target>().is_err(), "{text:?} is taken");
    }

    #[test]
    fn hosts_are_read_in_every_form() {
        check("h", None, "h", None);
        check("root@h", Some("root"), "h", None);
        check("root@192.0.2.7", Some("root"), "192.0.2.7", None);
        check("a@corp@h", Some("a@corp"), "h", None);
        check("ssh://root@h:2222", Some("root"), "h", Some(2222));
        check("ssh://h", None, "h", None);
        check("ssh://h:22/", None, "h", Some(22));
        check("2001:db8::1", None, "2001:db8::1", None);
        check("root@fe80::1%eth0", Some("root"), "fe80::1%eth0", None);
        check("root@[2001:db8::1]", Some("root"), "2001:db8::1", None);
        check("[2001:db8::1]:2222", None, "2001:db8::1", Some(2222));
        check("ssh://root@[::1]:2222", Some("root"), "::1", Some(2222));
    }

    #[test]
    fn what_could_be_an_option_or_reach_a_shell_is_refused() {
        for text in [
            "-oProxyCommand=x",
            "root@-h",
            "-l@h",
            "a b",
            "h;id",
            "$(id)@h",
            "h`id`",
            "h\n",
            "a|b",
        ] {
            refuse(text);
        }
    }

    #[test]
    fn half_an_address_is_refused() {
        for text in [
            "",
            "@h",
            "root@",
            "h:22",
            "h:",
            "[::1",
            "[h]",
            "[::1]x",
            "[::1]:",
            "ssh://",
            "ssh://h:0",
            "ssh://h:70000",
            "ssh://h:+1",
            "ssh://h/path",
            "ssh://u:pw@h",
            "1:2:3",
            "http://h",
        ] {
            refuse(text);
        }
    }

    #[test]
    fn ssh_gets_back_what_was_named() {
        assert_eq!(
            "ssh://root@[::1]:22".parse::<Target>().unwrap().to_string(),
            "root@::1"
        );
    }
}
