//! Whether the machine is found again: what its network is made of, and what a stock installer makes of it.
//!
//! A stock installer writes a unit for each interface that has a hardware address. The unit is matched by that address
//! alone, and of several the first by name wins. It restores static addresses and routes, and asks for DHCP; it knows no
//! bonds, VLANs, bridges, tunnels, rules, name servers or packet sizes (nixos-images, restore_routes.py).

use std::net::IpAddr;

use landfall_proto::facts::{Facts, Interface, Route};

use super::{Check, Group, Image, Wanted};

/// Packets that every wire carries.
const MTU: u32 = 1500;

pub(super) fn checks(facts: &Facts, wanted: &Wanted) -> Vec<Check> {
    let mut checks = vec![way_out(facts)];
    if !wanted.kexec {
        return checks;
    }
    checks.extend(interfaces(facts, wanted));
    checks.extend(gateways(facts, wanted));
    checks.extend(rules(facts));
    checks.extend(packets(facts));
    checks.extend(names(facts));
    checks
}

/// Where packets to everywhere leave.
fn way_out(facts: &Facts) -> Check {
    let name = "way-out";
    let Some(routes) = &facts.routes else {
        return Check::unknown(Group::Network, name, "the kernel does not tell its routes");
    };
    let family = |v6: bool| {
        let mut routes = routes.iter().filter(|route| is_default(route));
        routes.find(|route| route.v6 == v6).map(words)
    };
    let found = match (family(false), family(true)) {
        (Some(v4), Some(v6)) => format!("IPv4 {v4}, IPv6 {v6}"),
        (Some(v4), None) => format!("IPv4 {v4}; no IPv6"),
        (None, Some(v6)) => format!("IPv6 {v6}; no IPv4"),
        (None, None) => "none: everything is sent from here".to_owned(),
    };
    Check::ok(Group::Network, name, found)
}

fn words(route: &Route) -> String {
    match &route.gateway {
        Some(gateway) => format!("through {gateway} ({})", route.interface),
        None => format!("on {}", route.interface),
    }
}

fn is_default(route: &Route) -> bool {
    route.to == "default"
}

/// What becomes of an interface's addresses in a stock installer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Kept,
    Doubtful(&'static str),
    Lost(&'static str),
}

fn interfaces(facts: &Facts, wanted: &Wanted) -> Vec<Check> {
    let name = "interfaces";
    let carriers = carriers(facts);
    if carriers.is_empty() {
        let found = "no interface with an address is seen";
        return vec![Check::unknown(Group::Network, name, found)];
    }
    let fates: Vec<(&Interface, Fate)> = carriers
        .into_iter()
        .map(|interface| (interface, fate(interface, &facts.interfaces)))
        .collect();
    let all_lost = fates.iter().all(|(_, fate)| matches!(fate, Fate::Lost(_)));
    let checks = fates.iter().map(|(interface, fate)| {
        let (Fate::Doubtful(why) | Fate::Lost(why)) = *fate else {
            return Check::ok(Group::Network, name, shown(interface));
        };
        let found = format!("{} {why}", interface.name);
        let check = if all_lost && wanted.image == Image::Stock {
            Check::failure(Group::Network, name, "LF0325", found)
        } else {
            let because = match fate {
                Fate::Lost(_) if all_lost => "the image is not the stock one, and may do better",
                Fate::Lost(_) => "there is another way out",
                _ => "it often does",
            };
            Check::warning(Group::Network, name, found, because)
        };
        check
            .advise("name an image that brings this network up: `--kexec FILE`, built with its configuration")
            .advise("or boot an installer from a medium, and set its network there")
            .advise("have the console at hand")
    });
    checks.collect()
}

/// Returns the interfaces that packets to everywhere leave through; where no route is known, all that have addresses.
fn carriers(facts: &Facts) -> Vec<&Interface> {
    let routes = facts.routes.iter().flatten();
    let out: Vec<&str> = routes
        .filter(|route| is_default(route))
        .map(|route| route.interface.as_str())
        .collect();
    let through = |interface: &&Interface| out.contains(&interface.name.as_str());
    let found: Vec<&Interface> = facts.interfaces.iter().filter(through).collect();
    if !found.is_empty() {
        return found;
    }
    // networks of programs on the machine itself lead nowhere
    let plain = |interface: &&Interface| {
        !interface.addresses.is_empty() && interface.kind.as_deref() != Some("virtual")
    };
    facts.interfaces.iter().filter(plain).collect()
}

fn fate(interface: &Interface, all: &[Interface]) -> Fate {
    let kind = match interface.kind.as_deref() {
        Some("wifi" | "wlan") => {
            return Fate::Lost(
                "is a wireless network, whose password a stock installer does not have",
            );
        }
        Some("vlan") => return Fate::Lost("is a VLAN, whose tag a stock installer does not set"),
        Some("tun" | "wireguard" | "ppp" | "wwan") => {
            return Fate::Lost("is a tunnel, which a stock installer does not build");
        }
        kind => kind,
    };
    let first = first_of_address(interface, all);
    let set_by_hand = interface.leased.as_ref().is_some_and(Vec::is_empty);
    match kind {
        None if first.is_none_or(|first| first.name == interface.name) => Fate::Kept,
        None => Fate::Doubtful(
            "shares its hardware address with another interface, which a stock installer takes for it",
        ),
        Some("bond" | "bridge") => match first {
            None => Fate::Lost(
                "has a hardware address that no wire has, by which a stock installer would know it",
            ),
            Some(first) if first.name != interface.name && set_by_hand => Fate::Lost(
                "hands its hardware address to one of its parts, so that a stock installer drops the addresses that were set by hand",
            ),
            Some(_) if kind == Some("bond") => {
                Fate::Doubtful("is a bond, of which a stock installer uses one wire alone")
            }
            Some(_) => Fate::Doubtful(
                "is a bridge, which a stock installer does not build: its addresses go to the wire",
            ),
        },
        Some(_) => {
            Fate::Doubtful("is made by software in a way that a stock installer does not repeat")
        }
    }
}

/// Returns the interface whose unit wins on the wire that has this interface's hardware address; none where no wire has.
fn first_of_address<'a>(interface: &Interface, all: &'a [Interface]) -> Option<&'a Interface> {
    let mac = interface.mac.as_ref()?;
    let same = || all.iter().filter(|other| other.mac.as_ref() == Some(mac));
    let on_wire = same().any(|other| other.kind.is_none());
    same().filter(|_| on_wire).min_by_key(|other| &other.name)
}

fn shown(interface: &Interface) -> String {
    let is_near = |address: &&String| address.starts_with("fe80:");
    let addresses: Vec<&str> = interface
        .addresses
        .iter()
        .filter(|address| !is_near(address))
        .map(String::as_str)
        .collect();
    let how = match &interface.leased {
        Some(leased) if leased.is_empty() && !addresses.is_empty() => ", set by hand",
        Some(leased) if !leased.is_empty() => ", leased",
        _ => "",
    };
    match addresses.is_empty() {
        true => interface.name.clone(),
        false => format!("{} with {}{how}", interface.name, addresses.join(", ")),
    }
}

/// Gateways that lie outside of the machine's own networks.
fn gateways(facts: &Facts, wanted: &Wanted) -> Vec<Check> {
    let outside = |route: &&Route| {
        let gateway = route.gateway.as_ref().and_then(|text| text.parse().ok());
        let interface = facts.interfaces.iter().find(|i| i.name == route.interface);
        let (Some(gateway), Some(interface)) = (gateway, interface) else {
            return false;
        };
        !is_near(gateway)
            && route.v6 == gateway.is_ipv6()
            && !interface.addresses.iter().any(|own| holds(own, gateway))
    };
    let routes = facts.routes.iter().flatten();
    let found = routes.filter(|route| is_default(route) && route.origin != "dhcp");
    let checks = found.filter(outside).map(|route| {
        let gateway = route.gateway.as_deref().unwrap_or_default();
        let found = format!(
            "{gateway} lies outside of the networks of {}",
            route.interface
        );
        match wanted.image {
            // repaired in nixos-images in 2025 (pull request 317)
            Image::Stock => Check::ok(Group::Network, "gateway", found),
            _ => Check::warning(
                Group::Network,
                "gateway",
                found,
                "stock images since 2025 restore such a route",
            )
            .advise("have the console at hand where the image is older"),
        }
    });
    checks.collect()
}

/// Whether an address is meant for the wire it is on alone.
fn is_near(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    }
}

/// Whether a network, written as an address with its prefix length, holds an address.
fn holds(network: &str, address: IpAddr) -> bool {
    let Some((own, bits)) = network.split_once('/') else {
        return false;
    };
    let (Ok(own), Ok(bits)) = (own.parse::<IpAddr>(), bits.parse::<u32>()) else {
        return false;
    };
    let prefix = |number: u128, width: u32| match width.checked_sub(bits) {
        Some(rest) => number.checked_shr(rest).unwrap_or(0),
        None => number,
    };
    match (own, address) {
        (IpAddr::V4(own), IpAddr::V4(other)) => {
            prefix(u32::from(own).into(), 32) == prefix(u32::from(other).into(), 32)
        }
        (IpAddr::V6(own), IpAddr::V6(other)) => {
            prefix(u128::from(own), 128) == prefix(u128::from(other), 128)
        }
        _ => false,
    }
}

fn rules(facts: &Facts) -> Option<Check> {
    let count = facts.extra_rules.filter(|count| *count > 0)?;
    let rules = if count == 1 {
        "rule chooses"
    } else {
        "rules choose"
    };
    Some(
        Check::warning(
            Group::Network,
            "rules",
            format!(
                "{count} {rules} between tables of routes, which a stock installer does not restore"
            ),
            "the main table is restored",
        )
        .advise("have the console at hand where the machine is reached by such a rule: `ip rule`"),
    )
}

fn packets(facts: &Facts) -> Option<Check> {
    let small = carriers(facts)
        .into_iter()
        .find(|interface| interface.mtu.is_some_and(|mtu| mtu < MTU))?;
    Some(
        Check::warning(
            Group::Network,
            "packets",
            format!(
                "{} carries packets of {} bytes alone, and a stock installer begins with {MTU}",
                small.name,
                small.mtu.unwrap_or(MTU)
            ),
            "most networks say so when a packet is too large",
        )
        .advise("have the console at hand: `ip link set mtu` in the installer sets it right"),
    )
}

/// Name servers that nobody will tell the installer.
fn names(facts: &Facts) -> Option<Check> {
    let name = "names";
    if facts.nameservers.is_empty() {
        return None;
    }
    let servers = facts.nameservers.join(", ");
    let carriers = carriers(facts);
    let by_hand = |interface: &&Interface| interface.leased.as_ref().is_some_and(Vec::is_empty);
    if carriers.is_empty() || !carriers.iter().all(by_hand) {
        return Some(Check::ok(Group::Network, name, servers));
    }
    Some(
        Check::warning(
            Group::Network,
            name,
            format!("the addresses are set by hand, and a stock installer will not know the name servers {servers}"),
            "what caches do not give is sent from here",
        )
        .advise("save the wait for caches that are not reached: `--no-substitute-on-destination`"),
    )
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Verdict, samples::debian},
        *,
    };

    const MAC: &str = "52:54:00:12:34:56";

    fn interface(name: &str, kind: Option<&str>, mac: &str) -> Interface {
        Interface {
            name: name.into(),
            kind: kind.map(str::to_owned),
            mac: Some(mac.into()),
            addresses: vec!["192.0.2.7/24".into()],
            leased: Some(vec![]),
            mtu: Some(1500),
            ..Interface::default()
        }
    }

    fn default(interface: &str) -> Route {
        Route {
            to: "default".into(),
            gateway: Some("192.0.2.1".into()),
            interface: interface.into(),
            origin: "static".into(),
            ..Route::default()
        }
    }

    fn facts(interfaces: Vec<Interface>, out: &[&str]) -> Facts {
        Facts {
            interfaces,
            routes: Some(out.iter().map(|name| default(name)).collect()),
            nameservers: vec![],
            ..debian()
        }
    }

    /// All that is not ok, as name, verdict and code.
    #[track_caller]
    fn check(facts: &Facts, image: Image, expected: &[(&str, Verdict, &str)]) {
        let wanted = Wanted {
            kexec: true,
            image,
            ..Wanted::default()
        };
        let checks = checks(facts, &wanted);
        let loud = checks.iter().filter(|check| check.verdict != Verdict::Ok);
        let loud: Vec<_> = loud
            .map(|check| (check.name, check.verdict, check.code))
            .collect();
        assert_eq!(loud, expected, "{checks:?}");
    }

    const LOST: [(&str, Verdict, &str); 1] = [("interfaces", Verdict::Failure, "LF0325")];
    const DOUBTFUL: [(&str, Verdict, &str); 1] = [("interfaces", Verdict::Warning, "")];

    #[test]
    fn network_of_plain_wires_is_kept() {
        let wires = vec![
            interface("eno1", None, MAC),
            interface("eno2", None, "52:54:00:12:34:57"),
        ];
        check(&facts(wires, &["eno1"]), Image::Stock, &[]);
    }

    #[test]
    fn network_that_a_stock_installer_cannot_build_is_refused() {
        for kind in ["vlan", "wifi", "wireguard"] {
            let built = vec![
                interface("eno1", None, MAC),
                interface("up0", Some(kind), MAC),
            ];
            check(&facts(built.clone(), &["up0"]), Image::Stock, &LOST);
            // another image may
            check(&facts(built.clone(), &["up0"]), Image::Own, &DOUBTFUL);
            // another way out will do
            check(&facts(built, &["up0", "eno1"]), Image::Stock, &DOUBTFUL);
        }
    }

    #[test]
    fn unit_that_is_first_by_name_decides_about_bonds_and_bridges() {
        for kind in ["bond", "bridge"] {
            let named = |name: &str| {
                let built = vec![
                    interface("eno1", None, MAC),
                    interface(name, Some(kind), MAC),
                ];
                facts(built, &[name])
            };
            check(&named("a0"), Image::Stock, &DOUBTFUL);
            check(&named("z0"), Image::Stock, &LOST);
            let mut leased = named("z0");
            leased.interfaces[1].leased = Some(vec!["192.0.2.7/24".into()]);
            check(&leased, Image::Stock, &DOUBTFUL);
            let mut made_up = named("a0");
            made_up.interfaces[1].mac = Some("02:00:00:00:00:01".into());
            check(&made_up, Image::Stock, &LOST);
        }
    }

    #[test]
    fn networks_of_programs_do_not_matter() {
        let built = vec![
            interface("eno1", None, MAC),
            interface("docker0", Some("bridge"), "02:42:00:00:00:01"),
        ];
        check(&facts(built, &["eno1"]), Image::Stock, &[]);
    }

    #[test]
    fn gateway_outside_of_the_own_networks_is_seen() {
        let mut outside = facts(vec![interface("eno1", None, MAC)], &["eno1"]);
        outside.interfaces[0].addresses = vec!["198.51.100.7/32".into()];
        check(&outside, Image::Stock, &[]);
        check(&outside, Image::Own, &[("gateway", Verdict::Warning, "")]);
        if let Some(routes) = &mut outside.routes {
            routes[0].origin = "dhcp".into();
        }
        check(&outside, Image::Own, &[]);
    }

    #[test]
    fn what_a_stock_installer_forgets_is_told() {
        let plain = || facts(vec![interface("eno1", None, MAC)], &["eno1"]);
        let ruled = Facts {
            extra_rules: Some(2),
            ..plain()
        };
        check(&ruled, Image::Stock, &[("rules", Verdict::Warning, "")]);
        let named = Facts {
            nameservers: vec!["192.0.2.53".into()],
            ..plain()
        };
        check(&named, Image::Stock, &[("names", Verdict::Warning, "")]);
        let mut small = plain();
        small.interfaces[0].mtu = Some(1400);
        check(&small, Image::Stock, &[("packets", Verdict::Warning, "")]);
    }

    #[test]
    fn ways_out_are_told_for_both_families() {
        let found = |routes: Vec<Route>| {
            let facts = Facts {
                routes: Some(routes),
                ..debian()
            };
            way_out(&facts).found
        };
        let v6 = Route {
            v6: true,
            gateway: Some("fe80::1".into()),
            ..default("eno1")
        };
        assert_eq!(found(vec![]), "none: everything is sent from here");
        assert_eq!(
            found(vec![v6.clone()]),
            "IPv6 through fe80::1 (eno1); no IPv4"
        );
        assert_eq!(
            found(vec![default("eno1"), v6]),
            "IPv4 through 192.0.2.1 (eno1), IPv6 through fe80::1 (eno1)"
        );
    }

    #[test]
    fn networks_hold_their_addresses() {
        let check = |network: &str, address: &str, expected| {
            assert_eq!(
                holds(network, address.parse().unwrap()),
                expected,
                "{network}"
            );
        };
        check("192.0.2.7/24", "192.0.2.1", true);
        check("192.0.2.7/32", "192.0.2.1", false);
        check("0.0.0.0/0", "192.0.2.1", true);
        check("2001:db8::7/64", "2001:db8::1", true);
        check("2001:db8:0:1::7/64", "2001:db8::1", false);
        check("2001:db8::7/0", "::1", true);
        check("192.0.2.7/24", "::1", false);
        check("192.0.2.7/99", "192.0.2.7", true);
        check("nonsense", "192.0.2.7", false);
    }
}
