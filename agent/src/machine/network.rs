//! Network interfaces, from sysfs and the kernel's list of addresses.

use landfall_proto::facts::Interface;
use nix::{ifaddrs::getifaddrs, sys::socket::SockaddrStorage};

use super::Machine;

impl Machine {
    /// Returns the interfaces other than loopback.
    pub(super) fn interfaces(&self) -> Vec<Interface> {
        let mut addresses = addresses();
        let names = self
            .names("/sys/class/net")
            .into_iter()
            .filter(|name| name != "lo");
        let names = names.filter(|name| self.at(&format!("/sys/class/net/{name}")).is_dir());
        let interface = |name: String| {
            let mac = self.read(&format!("/sys/class/net/{name}/address"));
            let own = addresses.extract_if(.., |(owner, _)| *owner == name);
            Interface {
                mac: mac.filter(|mac| mac.len() == 17 && mac != "00:00:00:00:00:00"),
                kind: self.interface_kind(&name),
                addresses: own.map(|(_, address)| address).collect(),
                name,
            }
        };
        names.map(interface).collect()
    }

    /// Every virtual driver names itself in `uevent`, except tunnels, which show by their files.
    fn interface_kind(&self, name: &str) -> Option<String> {
        let directory = format!("/sys/class/net/{name}");
        let has = |file: &str| self.at(&format!("{directory}/{file}")).exists();
        let uevent = self
            .read(&format!("{directory}/uevent"))
            .unwrap_or_default();
        let named = uevent
            .lines()
            .find_map(|line| line.strip_prefix("DEVTYPE="));
        let kind = match named {
            Some("wlan") => "wifi",
            Some(kind) => kind,
            None if has("tun_flags") => "tun",
            None if has("bonding") => "bond",
            None if has("bridge") => "bridge",
            None if has("device") => return None,
            None => "virtual",
        };
        Some(kind.to_owned())
    }
}

fn addresses() -> Vec<(String, String)> {
    let found = getifaddrs().into_iter().flatten();
    found
        .filter_map(|entry| {
            let address = entry.address?;
            let bits = prefix(&entry.netmask?)?;
            let text = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
                (Some(v4), _) => format!("{}/{bits}", v4.ip()),
                (_, Some(v6)) => format!("{}/{bits}", v6.ip()),
                _ => return None,
            };
            Some((entry.interface_name, text))
        })
        .collect()
}

fn prefix(mask: &SockaddrStorage) -> Option<u32> {
    if let Some(v4) = mask.as_sockaddr_in() {
        return Some(u32::from(v4.ip()).count_ones());
    }
    Some(u128::from(mask.as_sockaddr_in6()?.ip()).count_ones())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::machine::command::Script;

    #[test]
    fn interfaces_say_what_they_are() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, content: &str| {
            let path = root.path().join("sys/class/net").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        write("lo/address", "00:00:00:00:00:00\n");
        write("test0/address", "52:54:00:12:34:56\n");
        write("test0/device/vendor", "");
        write("test0/uevent", "INTERFACE=test0\nIFINDEX=2\n");
        write("test1/uevent", "DEVTYPE=vlan\nINTERFACE=test1\n");
        write("test2/uevent", "DEVTYPE=wlan\n");
        write("test3/tun_flags", "0x1001\n");
        let machine = Machine::scripted(root.path(), root.path(), Script::default());
        let found = machine.interfaces();
        let kinds: Vec<_> = found
            .iter()
            .map(|i| (i.name.as_str(), i.kind.as_deref()))
            .collect();
        let expected = [
            ("test0", None),
            ("test1", Some("vlan")),
            ("test2", Some("wifi")),
            ("test3", Some("tun")),
        ];
        assert_eq!(kinds, expected);
        assert_eq!(found[0].mac.as_deref(), Some("52:54:00:12:34:56"));
    }
}
