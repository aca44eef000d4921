//! Network interfaces, addresses, routes and name servers: from sysfs and the kernel's own lists.

use std::net::IpAddr;

use landfall_proto::facts::{Interface, Route};
use nix::{ifaddrs::getifaddrs, sys::socket::SockaddrStorage};

use super::{
    super::Machine,
    netlink::{self, Question, Told},
};

/// Routes that are told; a router has more than anybody reads.
const ROUTES_MAX: usize = 64;
/// Number of the table that programs mean when they name none.
const MAIN: u32 = 254;

/// An address with what only the kernel knows of it.
#[derive(Debug, PartialEq, Eq)]
struct Address {
    interface: u32,
    text: String,
    peer: Option<String>,
    leased: bool,
}

impl Machine {
    /// Returns the interfaces other than loopback.
    pub(super) fn interfaces(&self) -> Vec<Interface> {
        let mut addresses = addresses();
        let known: Option<Vec<Address>> = self
            .ask_kernel(Question::Addresses, 0)
            .map(|told| told.iter().filter_map(address).collect());
        let names = self
            .names("/sys/class/net")
            .into_iter()
            .filter(|name| name != "lo");
        let names = names.filter(|name| self.at(&format!("/sys/class/net/{name}")).is_dir());
        let interface = |name: String| {
            let file = |file: &str| self.read(&format!("/sys/class/net/{name}/{file}"));
            let index: Option<u32> = file("ifindex").and_then(|number| number.parse().ok());
            let own = addresses.extract_if(.., |(owner, _)| *owner == name);
            let known = known.as_ref().map(|known| {
                let own = known.iter().filter(|a| Some(a.interface) == index);
                own.collect::<Vec<_>>()
            });
            let leased = known.as_ref().map(|known| {
                let leased = known.iter().filter(|address| address.leased);
                leased.map(|address| address.text.clone()).collect()
            });
            let peers = known.iter().flatten().filter_map(|a| a.peer.clone());
            let master = std::fs::read_link(self.at(&format!("/sys/class/net/{name}/master"))).ok();
            let master = master.and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
            Interface {
                mac: file("address").filter(|mac| mac.len() == 17 && mac != "00:00:00:00:00:00"),
                kind: self.interface_kind(&name),
                addresses: own.map(|(_, address)| address).collect(),
                leased,
                peers: peers.collect(),
                part_of: master,
                state: file("operstate"),
                mtu: file("mtu").and_then(|bytes| bytes.parse().ok()),
                name,
            }
        };
        names.map(interface).collect()
    }

    /// Returns the routes of the main table, those to everywhere first.
    pub(super) fn routes(&self) -> Option<Vec<Route>> {
        let mut told = self.ask_kernel(Question::Routes, netlink::V4)?;
        told.extend(
            self.ask_kernel(Question::Routes, netlink::V6)
                .unwrap_or_default(),
        );
        let names = self.interface_names();
        let name = |index: u32| {
            let found = names.iter().find(|(number, _)| *number == index);
            found.map(|(_, name)| name.clone()).unwrap_or_default()
        };
        let mut routes: Vec<Route> = told.iter().filter_map(|told| route(told, &name)).collect();
        routes.sort_by_key(|route| route.to != "default");
        routes.truncate(ROUTES_MAX);
        Some(routes)
    }

    /// Returns how many routing rules there are besides those that every kernel begins with.
    pub(super) fn extra_rules(&self) -> Option<u32> {
        let told = self.ask_kernel(Question::Rules, 0)?;
        u32::try_from(told.iter().filter(|told| !is_first_rule(told)).count()).ok()
    }

    /// Returns the name servers that are asked in the end, not the one on this machine that asks them.
    pub(super) fn nameservers(&self) -> Vec<String> {
        let read = |path| nameservers(&self.read(path).unwrap_or_default());
        let servers = read("/etc/resolv.conf");
        let is_own = |server: &String| {
            server
                .parse()
                .is_ok_and(|address: IpAddr| address.is_loopback())
        };
        if servers.is_empty() || !servers.iter().all(is_own) {
            return servers;
        }
        let behind = read("/run/systemd/resolve/resolv.conf");
        if behind.is_empty() { servers } else { behind }
    }

    /// A machine below a directory has no kernel.
    fn ask_kernel(&self, question: Question, family: u8) -> Option<Vec<Told>> {
        if !self.programs().are_real() {
            return None;
        }
        netlink::ask(question, family)
    }

    fn interface_names(&self) -> Vec<(u32, String)> {
        let names = self.names("/sys/class/net").into_iter();
        let named = names.filter_map(|name| {
            let index = self.read(&format!("/sys/class/net/{name}/ifindex"))?;
            Some((index.parse().ok()?, name))
        });
        named.collect()
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

/// Reads an address: struct ifaddrmsg, then IFA_ADDRESS, IFA_LOCAL and IFA_FLAGS (linux/if_addr.h).
fn address(told: &Told) -> Option<Address> {
    const PERMANENT: u32 = 0x80;
    let (bits, index) = (told.byte(1), told.word(4));
    let flags = told.number(8).unwrap_or_else(|| told.byte(2).into());
    let (address, local) = (told.address(1), told.address(2));
    let own = local.or(address)?;
    let peer = address.filter(|address| *address != own);
    Some(Address {
        interface: index,
        text: format!("{own}/{bits}"),
        peer: peer.map(|peer| peer.to_string()),
        leased: flags & PERMANENT == 0,
    })
}

/// Reads a route: struct rtmsg, then RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_TABLE, RTA_VIA (linux/rtnetlink.h).
fn route(told: &Told, name: &impl Fn(u32) -> String) -> Option<Route> {
    const UNICAST: u8 = 1;
    const ON_LINK: u32 = 4;
    const CLONED: u32 = 0x200;
    let table = told.number(15).unwrap_or_else(|| told.byte(4).into());
    let flags = told.word(8);
    if table != MAIN || told.byte(7) != UNICAST || flags & CLONED != 0 {
        return None;
    }
    let to = match (told.byte(1), told.address(1)) {
        (0, _) => "default".to_owned(),
        (bits, to) => format!("{}/{bits}", to?),
    };
    let gateway = told.address(5).or_else(|| told.address_with_family(18));
    Some(Route {
        v6: told.byte(0) == netlink::V6,
        to,
        gateway: gateway.map(|gateway| gateway.to_string()),
        interface: told.number(4).map(name).unwrap_or_default(),
        origin: origin(told.byte(5)),
        on_link: flags & ON_LINK != 0,
        metric: told.number(6),
    })
}

/// Names who set a route, as iproute2 does (rt_protos).
fn origin(number: u8) -> String {
    let name = match number {
        1 => "redirect",
        2 => "kernel",
        3 => "boot",
        4 => "static",
        9 => "ra",
        16 => "dhcp",
        number => return number.to_string(),
    };
    name.to_owned()
}

/// Whether it is `0: from all lookup local`, `32766: … main` or `32767: … default`: struct fib_rule_hdr, FRA_PRIORITY.
fn is_first_rule(told: &Told) -> bool {
    let priority = told.number(6).unwrap_or(0);
    let everywhere = told.byte(1) == 0 && told.byte(2) == 0;
    everywhere && matches!(priority, 0 | 32766 | 32767)
}

/// Returns the name servers of a resolv.conf(5).
fn nameservers(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then_some(words.next()?)
    });
    lines.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;
    use crate::machine::{command::Script, facts::netlink::tests::tell};

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
        write("test0/operstate", "up\n");
        write("test0/mtu", "1500\n");
        write("test4/bonding/mode", "802.3ad 4\n");
        symlink("../test4", root.path().join("sys/class/net/test0/master")).unwrap();
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
            ("test4", Some("bond")),
        ];
        assert_eq!(kinds, expected);
        assert_eq!(found[0].mac.as_deref(), Some("52:54:00:12:34:56"));
        assert_eq!(found[0].part_of.as_deref(), Some("test4"));
        assert_eq!(
            (found[0].state.as_deref(), found[0].mtu),
            (Some("up"), Some(1500))
        );
        // nobody was asked who set the addresses
        assert_eq!(found[0].leased, None);
    }

    #[test]
    fn leased_addresses_and_ends_of_lines_are_told_apart() {
        // index 2; IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS
        let leased = tell(
            &[2, 24, 0, 0, 2, 0, 0, 0],
            &[(1, &[192, 0, 2, 7]), (2, &[192, 0, 2, 7]), (8, &[0; 4])],
        );
        let line = tell(
            &[2, 32, 0x80, 0, 3, 0, 0, 0],
            &[(1, &[198, 51, 100, 1]), (2, &[192, 0, 2, 9])],
        );
        let expected = |interface, text: &str, peer: Option<&str>, leased| Address {
            interface,
            text: text.to_owned(),
            peer: peer.map(str::to_owned),
            leased,
        };
        assert_eq!(
            address(&leased),
            Some(expected(2, "192.0.2.7/24", None, true))
        );
        assert_eq!(
            address(&line),
            Some(expected(3, "192.0.2.9/32", Some("198.51.100.1"), false))
        );
    }

    #[test]
    fn routes_of_the_main_table_are_read() {
        let name = |index| format!("test{index}");
        let oif: (u16, &[u8]) = (4, &[2, 0, 0, 0]);
        let default = tell(
            &[2, 0, 0, 0, 254, 16, 0, 1, 4, 0, 0, 0],
            &[(5, &[192, 0, 2, 1]), oif, (6, &[100, 0, 0, 0])],
        );
        let expected = Route {
            to: "default".into(),
            gateway: Some("192.0.2.1".into()),
            interface: "test2".into(),
            origin: "dhcp".into(),
            on_link: true,
            metric: Some(100),
            ..Route::default()
        };
        assert_eq!(route(&default, &name), Some(expected));
        // an IPv4 route through an IPv6 gateway: RTA_VIA
        let mut via = vec![10, 0, 0xfe, 0x80];
        via.resize(18, 1);
        let via = tell(&[2, 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0], &[oif, (18, &via)]);
        let gateway = route(&via, &name).unwrap().gateway.unwrap();
        assert!(gateway.starts_with("fe80:"), "{gateway}");
        let local = tell(
            &[2, 32, 0, 0, 255, 2, 0, 2, 0, 0, 0, 0],
            &[(1, &[192, 0, 2, 7])],
        );
        let unreachable = tell(&[10, 0, 0, 0, 254, 2, 0, 7, 0, 0, 0, 0], &[oif]);
        assert_eq!(
            (route(&local, &name), route(&unreachable, &name)),
            (None, None)
        );
    }

    #[test]
    fn only_rules_of_somebody_count() {
        let main = tell(&[2; 0], &[(6, &32766_u32.to_ne_bytes())]);
        let from = tell(&[2, 0, 24, 0], &[(6, &32765_u32.to_ne_bytes())]);
        assert_eq!((is_first_rule(&main), is_first_rule(&from)), (true, false));
    }

    #[test]
    fn name_servers_behind_the_own_one_are_found() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, content: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        let machine = Machine::scripted(root.path(), root.path(), Script::default());
        assert_eq!(machine.nameservers(), [""; 0]);
        write(
            "etc/resolv.conf",
            "# own\nnameserver 127.0.0.53\noptions edns0\n",
        );
        assert_eq!(machine.nameservers(), ["127.0.0.53"]);
        let behind = "nameserver 192.0.2.53\nnameserver 2001:db8::53\n";
        write("run/systemd/resolve/resolv.conf", behind);
        assert_eq!(machine.nameservers(), ["192.0.2.53", "2001:db8::53"]);
    }
}
