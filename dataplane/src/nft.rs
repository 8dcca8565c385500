//! Our own nft table `inet fabric`, rendered as one transaction, and recognised again in nft's listing.
//!
//! The table clamps the MSS of forwarded SYNs both ways, keeps the foyer in quarantine, lets nothing leave the
//! overlay unwrapped, and drops ipip whose inner source is not owned by its outer source before the kernel unwraps
//! it. Dropped packets are counted by name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};

use ipnet::Ipv4Net;
use serde_json::Value;

use crate::state::{FilterState, Foyer, RelayFilter};
use crate::view::DropReason;

/// Family and name of our table, as in `nft list table inet fabric`.
pub const TABLE: &str = "inet fabric";

const INTERFACES: &str = r#"{ "fab-wg", "fab-wg1", "fab-ipip", "fab-relay", "fab-tun" }"#;
const UNDERLAY: &str = r#"{ "fab-wg", "fab-tun" }"#;
const WIREGUARDS: &str = r#"{ "fab-wg", "fab-wg1" }"#;

/// The kernel answers a handshake before anybody can see it. Where a fresh key is awaited, that answer (WireGuard's second
/// message, a UDP payload that begins with 2) is dropped, so that nothing follows it before the key has its place.
const ANSWERS: &str = r#"  set awaited {
    type ipv4_addr . inet_service
    flags timeout
  }
  set awaited6 {
    type ipv6_addr . inet_service
    flags timeout
  }
  chain answers {
    type filter hook output priority mangle; policy accept;
    ip daddr . udp dport @awaited @th,64,32 0x2000000 counter drop
    ip6 daddr . udp dport @awaited6 @th,64,32 0x2000000 counter drop
  }
"#;

/// For how long an answer is held at most, seconds: if we die meanwhile, the element goes by itself.
const HELD_SECS: u32 = 4;

/// The transaction that holds answers to this endpoint, or holds them no more.
pub fn hold(peer: SocketAddr, held: bool) -> String {
    let (address, port) = (peer.ip().to_canonical(), peer.port());
    let set = if address.is_ipv4() { "awaited" } else { "awaited6" };
    // Added first, so that it is there to be deleted.
    let mut script = format!("add element {TABLE} {set} {{ {address} . {port} timeout {HELD_SECS}s }}\n");
    if !held {
        let _ = writeln!(script, "delete element {TABLE} {set} {{ {address} . {port} }}");
    }
    script
}

/// The transaction that makes our table hold exactly `filter`, whatever it held before.
pub fn replace(filter: &FilterState) -> String {
    let mut script = format!("table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n");
    for reason in [DropReason::Spoofed, DropReason::Foyer, DropReason::NoPeer] {
        let _ = writeln!(script, "  counter {} {{ }}", reason.as_str());
    }
    if !filter.owners.is_empty() {
        owners(&mut script, &filter.owners);
    }
    if let Some(relay) = &filter.relay {
        relayed(&mut script, relay);
    }
    forward(&mut script, filter);
    if let Some(foyer) = &filter.filter.foyer {
        input(&mut script, foyer);
    }
    if filter.holds {
        script.push_str(ANSWERS);
    }
    script.push_str("}\n");
    script
}

/// The transaction that takes our table away, also if it is not there.
pub fn remove() -> String {
    format!("table {TABLE}\ndelete table {TABLE}\n")
}

/// The transaction that changes only who owns what.
pub fn change_owners(add: &BTreeSet<(Ipv4Net, Ipv4Addr)>, remove: &BTreeSet<(Ipv4Net, Ipv4Addr)>) -> String {
    let mut script = String::new();
    for (verb, entries) in [("delete", remove), ("add", add)] {
        if !entries.is_empty() {
            let _ = writeln!(script, "{verb} element {TABLE} owners {{ {} }}", elements(entries));
        }
    }
    script
}

fn owners(script: &mut String, entries: &BTreeSet<(Ipv4Net, Ipv4Addr)>) {
    // Protocol 4 by number: the name "ipip" is 94 in /etc/protocols. The inner source lies 12 octets into the inner header: bit 256 of the network header if the outer one has no
    // options, which the first rule sees to.
    let _ = write!(
        script,
        r#"  set owners {{
    typeof ip saddr . @nh,256,32
    flags interval
    elements = {{ {} }}
  }}
  chain ownership {{
    type filter hook prerouting priority raw; policy accept;
    iifname {WIREGUARDS} ip protocol 4 ip hdrlength 5 ip saddr . @nh,256,32 @owners accept
    iifname {WIREGUARDS} ip protocol 4 counter name "spoofed" drop
  }}
"#,
        elements(entries)
    );
}

/// Only another hub may have the kernel unwrap a packet here, only one from node to node of the overlay, and it goes
/// to a peer and nowhere else.
fn relayed(script: &mut String, relay: &RelayFilter) {
    let RelayFilter { local, overlay, hubs } = relay;
    let hubs: Vec<String> = hubs.iter().map(ToString::to_string).collect();
    let hubs = hubs.join(", ");
    let may = if hubs.is_empty() { String::new() } else { format!("ip saddr != {{ {hubs} }} ") };
    let nodes = if hubs.is_empty() { local.to_string() } else { format!("{local}, {hubs}") };
    let _ = write!(
        script,
        r#"  chain taken-over {{
    type filter hook prerouting priority raw; policy accept;
    iifname {WIREGUARDS} ip protocol 4 ip daddr {local} {may}counter name "spoofed" drop
    iifname "fab-relay" ip saddr != {overlay} counter name "spoofed" drop
    iifname "fab-relay" ip daddr != {overlay} counter name "spoofed" drop
    iifname "fab-relay" ip saddr {{ {nodes} }} counter name "spoofed" drop
    iifname "fab-relay" ip daddr {{ {nodes} }} counter name "spoofed" drop
  }}
  chain taken-over-input {{
    type filter hook input priority mangle; policy accept;
    iifname "fab-relay" counter name "no-peer" drop
  }}
"#
    );
}

fn elements(entries: &BTreeSet<(Ipv4Net, Ipv4Addr)>) -> String {
    let element = |(net, owner): &(Ipv4Net, Ipv4Addr)| {
        let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
        if first == last {
            format!("{owner} . {first:#x}")
        } else {
            format!("{owner} . {first:#x}-{last:#x}")
        }
    };
    entries.iter().map(element).collect::<Vec<_>>().join(", ")
}

fn forward(script: &mut String, filter: &FilterState) {
    script.push_str("  chain forward {\n    type filter hook forward priority mangle; policy accept;\n");
    if let Some(foyer) = &filter.filter.foyer {
        let _ = writeln!(script, "    ip saddr {} counter name \"foyer\" drop", foyer.prefix);
        let _ = writeln!(
            script,
            "    iifname {INTERFACES} ip daddr {} counter name \"foyer\" drop",
            foyer.prefix
        );
    }
    // In process, fab-tun carries unwrapped client packets too, and the process itself lets no overlay packet out.
    let onward = if filter.relay.is_some() { r#"{ "fab-wg", "fab-relay" }"# } else { r#""fab-wg""# };
    let _ = writeln!(script, "    iifname \"fab-wg\" oifname != {onward} counter name \"no-peer\" drop");
    if filter.relay.is_some() {
        // What another hub has wrapped goes to a peer: never out of the overlay, never to a hub once more.
        script.push_str("    iifname \"fab-relay\" oifname != \"fab-wg\" counter name \"no-peer\" drop\n");
    }
    // The second WireGuard is a leaf's: nothing passes from one hub to the other through it.
    script.push_str("    iifname \"fab-wg1\" counter name \"no-peer\" drop\n");
    if let Some(mss) = filter.filter.clamp {
        for direction in ["iifname", "oifname"] {
            let _ = writeln!(
                script,
                "    {direction} {INTERFACES} tcp flags & (syn | rst) == syn tcp option maxseg size > {mss} \
                 tcp option maxseg size set {mss}"
            );
        }
    }
    script.push_str("  }\n");
}

fn input(script: &mut String, foyer: &Foyer) {
    let Foyer { prefix, hub, api_port } = foyer;
    let _ = write!(
        script,
        r#"  chain input {{
    type filter hook input priority mangle; policy accept;
    iifname {UNDERLAY} ip saddr {prefix} ip daddr {hub} tcp dport {api_port} accept
    iifname {UNDERLAY} ip saddr {prefix} counter name "foyer" drop
    iifname {UNDERLAY} ip daddr {prefix} counter name "foyer" drop
  }}
"#
    );
}

/// Our table as nft lists it: what identifies its rules, its owners and its counters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listing {
    /// Chains and rules without handles and counts; equal texts are equal rules.
    pub shape: String,
    /// The set of owners.
    pub owners: BTreeSet<(Ipv4Net, Ipv4Addr)>,
    /// Packets dropped, by named counter.
    pub drops: BTreeMap<DropReason, u64>,
}

/// Reads what `nft -j list table inet fabric` printed; `None` if it is not such a listing.
pub fn parse(json: &str) -> Option<Listing> {
    let mut root: Value = serde_json::from_str(json).ok()?;
    let items = root.get_mut("nftables")?.as_array_mut()?;
    let mut listing = Listing::default();
    for item in items {
        if let Some(counter) = item.get("counter").filter(|c| c.get("name").is_some()) {
            let reason = DropReason::ALL.into_iter().find(|r| counter["name"] == r.as_str());
            listing.drops.extend(reason.zip(counter["packets"].as_u64()));
        } else if let Some(set) = item.get("set").filter(|s| s["name"] == "owners") {
            listing.owners = set["elem"].as_array().into_iter().flatten().filter_map(owner).collect();
        } else if item.get("chain").is_some() || item.get("rule").is_some() {
            forget(item);
            listing.shape.push_str(&item.to_string());
        }
    }
    Some(listing)
}

/// One element of the set: `{"concat": [owner, first]}` or `{"concat": [owner, {"range": [first, last]}]}`.
fn owner(element: &Value) -> Option<(Ipv4Net, Ipv4Addr)> {
    let concat = element.get("concat")?;
    let owner: Ipv4Addr = concat.get(0)?.as_str()?.parse().ok()?;
    let bits = |v: &Value| u32::try_from(v.as_u64()?).ok();
    let source = concat.get(1)?;
    let (first, last) = match source.get("range") {
        Some(range) => (bits(range.get(0)?)?, bits(range.get(1)?)?),
        None => (bits(source)?, bits(source)?),
    };
    let len = (first ^ last).leading_zeros() as u8;
    Some((Ipv4Net::new(Ipv4Addr::from_bits(first), len).ok()?, owner))
}

/// Takes away what differs between two listings of the same rules.
fn forget(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for key in ["handle", "packets", "bytes"] {
                map.remove(key);
            }
            map.values_mut().for_each(forget);
        }
        Value::Array(items) => items.iter_mut().for_each(forget),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Filter;

    /// The listing of nft 1.0.6 is understood: owners with and without a range, counters, rules without handles.
    #[test]
    fn listing_is_understood() {
        let json = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}}, {"table": {"family": "inet", "name": "fabric", "handle": 3}},
            {"counter": {"family": "inet", "name": "spoofed", "table": "fabric", "handle": 3, "packets": 7, "bytes": 90}},
            {"set": {"family": "inet", "name": "owners", "table": "fabric", "type": ["ipv4_addr", "integer"], "handle": 5,
             "elem": [{"concat": ["10.255.0.2", {"range": [173080576, 173080831]}]}, {"concat": ["10.255.0.3", 173146122]}]}},
            {"chain": {"family": "inet", "table": "fabric", "name": "forward", "handle": 2}}]}"#;
        let listing = parse(json).unwrap();
        assert_eq!(listing.drops[&DropReason::Spoofed], 7);
        let owners = [("10.81.0.0/24", "10.255.0.2"), ("10.82.0.10/32", "10.255.0.3")];
        assert_eq!(listing.owners, owners.map(|(n, o)| (n.parse().unwrap(), o.parse().unwrap())).into());
        assert_eq!(listing.shape, parse(&json.replace(r#""handle": 2"#, r#""handle": 99"#)).unwrap().shape);
        assert_eq!(parse("not json"), None);
    }

    /// ipip is protocol 4; by its name nft would match protocol 94 and check nothing.
    #[test]
    fn ipip_is_matched_by_number() {
        let owners = [("10.82.10.20/32".parse().unwrap(), "10.255.0.3".parse().unwrap())].into();
        let script = replace(&FilterState { owners, ..Default::default() });
        assert_eq!(script.matches("ip protocol 4 ").count(), 2);
        assert!(!script.contains("protocol ipip"));
    }

    /// Only another hub's wrapped packets are let in for unwrapping, they go to a peer alone, and without other hubs there
    /// is none of it.
    #[test]
    fn only_hubs_hand_packets_over() {
        let hubs = ["10.255.0.5".parse().unwrap(), "10.255.0.6".parse().unwrap()].into();
        let (local, overlay) = ("10.255.0.1".parse().unwrap(), "10.255.0.0/20".parse().unwrap());
        let relay = Some(RelayFilter { local, overlay, hubs });
        let script = replace(&FilterState { relay, ..Default::default() });
        for rule in [
            "ip protocol 4 ip daddr 10.255.0.1 ip saddr != { 10.255.0.5, 10.255.0.6 } counter name \"spoofed\" drop",
            "iifname \"fab-relay\" ip saddr != 10.255.0.0/20 counter",
            "iifname \"fab-relay\" ip daddr { 10.255.0.1, 10.255.0.5, 10.255.0.6 } counter",
            "iifname \"fab-relay\" oifname != \"fab-wg\" counter name \"no-peer\" drop",
            "iifname \"fab-wg\" oifname != { \"fab-wg\", \"fab-relay\" } counter",
        ] {
            assert!(script.contains(rule), "{rule}\n{script}");
        }
        let alone = replace(&FilterState::default());
        assert!(!alone.contains("taken-over") && alone.contains("iifname \"fab-wg\" oifname != \"fab-wg\" "));
    }

    /// Both directions are clamped to the number; without a clamp no MSS is touched.
    #[test]
    fn clamp_goes_both_ways() {
        let filter = Filter { clamp: Some(1300), foyer: None };
        let script = replace(&FilterState { filter, ..Default::default() });
        assert_eq!(script.matches("maxseg size set 1300").count(), 2);
        assert!(!replace(&FilterState::default()).contains("maxseg"));
    }
}
