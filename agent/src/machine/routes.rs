//! The routes of the old system, as its `ip --json` tells them to the image's own script: mended where the installer would
//! lose them.
//!
//! Pure: JSON in, JSON out.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

/// The list of IPv4 routes, at the top of what is archived for the stock image.
pub(super) const ROUTES: &str = "routes-v4.json";

/// Marks gateways as being on the link where only a route of the kernel's own leads to them; nothing where none does.
///
/// Such a route comes with the address of a peer (`pointopoint`, as some hosters set it), and is no route that the stock
/// image keeps: networkd would refuse the gateway as unreachable. Whatever gateway a kernel has taken is on its link.
pub(super) fn mended(text: &[u8]) -> Option<Vec<u8>> {
    let mut routes: Vec<Value> = serde_json::from_slice(text).ok()?;
    let kept: Vec<Value> = routes
        .iter()
        .filter(|route| stays(route))
        .cloned()
        .collect();
    let mut changed = false;
    for route in &mut routes {
        let gateway = route["gateway"].as_str();
        let gateway = gateway.and_then(|text| text.parse::<Ipv4Addr>().ok());
        let is_reached = |gateway| kept.iter().any(|kept| covers(kept, route, gateway));
        if gateway.is_none_or(is_reached) {
            continue;
        }
        let Some(fields) = route.as_object_mut() else {
            continue;
        };
        let flags = fields.entry("flags").or_insert_with(|| json!([]));
        let Some(flags) = flags.as_array_mut() else {
            continue;
        };
        if !flags.contains(&json!("onlink")) {
            flags.push(json!("onlink"));
            changed = true;
        }
    }
    changed.then(|| serde_json::to_vec(&routes).ok()).flatten()
}

/// Whether a route without a gateway is there in the installer too: somebody has set it, or it comes with an address whose
/// network it is. What a lease brought comes with the next lease.
fn stays(route: &Value) -> bool {
    let is = |protocol: &str| route["protocol"] == protocol;
    let source = route["prefsrc"].as_str().and_then(|text| text.parse().ok());
    let is_own = source.is_none_or(|source| leads_to(&route["dst"], source));
    let is_host = prefix(&route["dst"]).is_none_or(|(_, length)| length == 32);
    let of_address = is("kernel") && !is_host && is_own;
    let set = !["kernel", "dhcp", "ra"].into_iter().any(is);
    route["gateway"].is_null() && (of_address || set)
}

/// Whether a route leads to a gateway, on the same device.
fn covers(kept: &Value, route: &Value, gateway: Ipv4Addr) -> bool {
    kept["dev"] == route["dev"] && leads_to(&kept["dst"], gateway)
}

fn leads_to(dst: &Value, address: Ipv4Addr) -> bool {
    let Some((network, length)) = prefix(dst) else {
        return false;
    };
    let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
    network.to_bits() & mask == address.to_bits() & mask
}

/// Reads what `ip` prints for a destination: an address, or one with the length of its network.
fn prefix(dst: &Value) -> Option<(Ipv4Addr, u32)> {
    let text = dst.as_str()?;
    let (address, length) = text.split_once('/').unwrap_or((text, "32"));
    let length = length.parse().ok().filter(|length| *length <= 32)?;
    Some((address.parse().ok()?, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(others: Value, expected: Option<&[&str]>) {
        let mut routes =
            vec![json!({"dst": "default", "gateway": "192.0.2.1", "dev": "eth0", "flags": []})];
        routes.extend(others.as_array().unwrap().iter().cloned());
        let text = serde_json::to_vec(&routes).unwrap();
        let mended = mended(&text).map(|text| serde_json::from_slice::<Vec<Value>>(&text).unwrap());
        let flags = mended.map(|routes| routes[0]["flags"].clone());
        assert_eq!(flags, expected.map(|flags| json!(flags)));
    }

    #[test]
    fn gateway_that_only_the_kernels_own_route_leads_to_is_on_the_link() {
        let peer =
            json!({"dst": "192.0.2.1", "dev": "eth0", "protocol": "kernel", "scope": "link"});
        check(json!([peer]), Some(&["onlink"]));
        check(json!([]), Some(&["onlink"]));
        // the network of a peer, which is not that of the address
        let peers = json!({"dst": "192.0.2.0/24", "dev": "eth0", "protocol": "kernel", "prefsrc": "198.51.100.7"});
        check(json!([peers]), Some(&["onlink"]));
        // on another device it does not help
        check(
            json!([{"dst": "192.0.2.0/24", "dev": "eth1", "protocol": "kernel"}]),
            Some(&["onlink"]),
        );
    }

    #[test]
    fn gateway_that_is_reached_otherwise_is_left_as_it_is() {
        // comes with an address
        check(
            json!([{"dst": "192.0.2.0/24", "dev": "eth0", "protocol": "kernel"}]),
            None,
        );
        // set by hand
        check(
            json!([{"dst": "192.0.2.1", "dev": "eth0", "protocol": "boot", "scope": "link"}]),
            None,
        );
        check(
            json!([{"dst": "0.0.0.0/0", "dev": "eth0", "scope": "link"}]),
            None,
        );
    }

    #[test]
    fn what_is_no_list_of_routes_is_left_as_it_is() {
        for text in [
            "",
            "{}",
            "[1, null, {}]",
            r#"[{"gateway": "fe80::1", "flags": 1}]"#,
            r#"[{"gateway": "192.0.2.1", "flags": 1}]"#,
        ] {
            assert_eq!(mended(text.as_bytes()), None, "{text}");
        }
    }
}
