//! Where on this machine something is remembered of a host.

use std::path::{Path, PathBuf};

use landfall_proto::failure::Failure;

/// Returns the folder of a host, where everything about it is remembered.
pub(in crate::local) fn folder_of(base: &Path, host: &str) -> PathBuf {
    base.join("landfall").join(folder_name(host))
}

pub(in crate::local) fn base() -> Result<PathBuf, Failure> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_STATE_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".local/state")))
        .ok_or_else(|| {
            Failure::new("cannot find a folder for what is remembered")
                .because("neither XDG_STATE_HOME nor HOME is an absolute path")
                .hint("name one: `XDG_STATE_HOME=/var/lib/landfall landfall …`")
                .code("LF0421")
        })
}

/// Writes a host as one name of a folder; different hosts have different names.
fn folder_name(host: &str) -> String {
    let mut name = String::new();
    for byte in host.to_lowercase().bytes() {
        match byte {
            b'.' if name.is_empty() => name.push_str("%2e"),
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b':' => name.push(char::from(byte)),
            _ => name.push_str(&format!("%{byte:02x}")),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_do_not_leave_their_folder() {
        assert_eq!(folder_name("Host.example:22"), "host.example:22");
        assert_eq!(folder_name("../x"), "%2e.%2fx");
        assert_eq!(folder_name("fe80::1%eth0"), "fe80::1%25eth0");
    }
}
