//! Where admission, BGP and the dataplane meet on a leaf: one pure function from what the hub granted and what
//! BGP chose to what the kernel should have. AllowedIPs, routes, captures and clamp come out of it together, so
//! nothing has to be matched by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use bgp::types::Prefix;
use bgp::view::{BestPath, BestPaths};
use dataplane::state::{
    Capture, Filter, Line, Peers, PrivateKey, PublicKey, Target, Tunnel, Wireguard, WireguardPeer, Wished,
};
use enrollment::endpoint::Endpoint;
use enrollment::identity::SigningKey;
use enrollment::topology::{Admission, HubNode};
use ipnet::{IpNet, Ipv4Net};

/// Seconds between keepalives toward the hub: below the 30 s after which common NATs forget a UDP flow.
const KEEPALIVE_SECS: u16 = 25;

/// How a site's network is made to hand packets for remote clients to the leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaptureKind {
    /// The network does it by itself (a provider's route table, static routes).
    None,
    /// The leaf answers ARP for remote clients on this interface.
    ProxyArp(String),
}

/// The site's underlay as measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Underlay {
    /// Octets of the largest packet that reaches the hub whole.
    pub path_mtu: u16,
    /// Whether the hub's endpoint has an IPv6 address.
    pub ipv6: bool,
}

/// The wished state of an enrolled leaf; `key` is that of the line to each hub, `preferred` the place of the hub that carries the overlay now.
pub fn wished(
    admission: &Admission,
    key: impl Fn(&SigningKey) -> PrivateKey,
    listen_port: u16,
    best: &BestPaths,
    capture: &CaptureKind,
    underlay: Underlay,
    preferred: usize,
) -> Wished {
    let remote = remote_clients(admission, best);
    let mut mtus = dataplane::mtu::mtus(underlay.path_mtu, underlay.ipv6);
    if admission.topology.hubs.len() > 1 {
        // A hub that does not reach an owner passes the packet on to the other, wrapped once more.
        mtus = mtus.with_room_to_relay();
    }
    let mut routes: BTreeMap<Ipv4Net, Target> = remote
        .iter()
        .map(|(&client, &owner)| (client.into(), target(admission, client, owner, best)))
        .collect();
    routes.extend(overlay_routes(admission, preferred));
    let captures = match capture {
        CaptureKind::None => BTreeSet::new(),
        CaptureKind::ProxyArp(interface) => remote
            .keys()
            .map(|&address| Capture::ProxyArp { interface: interface.clone(), address })
            .collect(),
    };
    let of_hub = |n: usize, listen_port: u16, addresses: BTreeSet<Ipv4Net>| {
        let hub = admission.topology.hubs.get(n)?;
        let (private_key, peers) = (key(&hub.signing_key), Peers::from_iter([hub_peer(admission, hub)]));
        let former_keys = BTreeMap::new();
        Some(Wireguard { private_key, listen_port, addresses, mtu: mtus.wireguard, peers, former_keys })
    };
    Wished {
        wireguard: of_hub(0, listen_port, BTreeSet::from([Ipv4Net::from(admission.overlay)])),
        // The system chooses the second one's port: the leaf calls, and one port cannot serve two interfaces.
        second: of_hub(1, 0, BTreeSet::new()),
        tunnel: Some(Tunnel { local: admission.overlay, mtu: mtus.tunnel }),
        relay: None,
        filter: Filter { clamp: (!remote.is_empty()).then_some(mtus.mss), foyer: None },
        routes,
        captures,
    }
}

/// To the owner that BGP chose, and to those of equal paths, each checked as the first one was.
fn target(admission: &Admission, client: Ipv4Addr, owner: Ipv4Addr, best: &BestPaths) -> Target {
    let prefix = Prefix::host(IpAddr::V4(client));
    let others = best.routes.get(&prefix).map(|path| path.others.clone()).unwrap_or_default();
    let usable = others.iter().filter_map(|other| match other {
        IpAddr::V4(a) if unwanted(admission, prefix, *other).is_none() => Some(*a),
        _ => None,
    });
    Target::owned_by(owner, usable)
}

/// Each hub carries the whole overlay on an interface of its own: packets are taken from either hub, whichever the
/// leaf sends through itself.
fn hub_peer(admission: &Admission, hub: &HubNode) -> (PublicKey, WireguardPeer) {
    let peer = WireguardPeer {
        // Names have been looked up before.
        endpoint: hub.endpoints.first().and_then(Endpoint::address),
        allowed_ips: [admission.topology.overlay_prefix].into(),
        keepalive_secs: KEEPALIVE_SECS,
    };
    (PublicKey(hub.wireguard_key.0), peer)
}

/// The overlay through the preferred hub; with two, each hub itself through its own interface.
fn overlay_routes(admission: &Admission, preferred: usize) -> Vec<(Ipv4Net, Target)> {
    let lines: Vec<_> = admission.topology.hubs.iter().zip(Line::BOTH).collect();
    let carries = lines.get(preferred).map_or(Line::First, |(_, line)| *line);
    let mut routes = vec![(admission.topology.overlay_prefix, carries.target())];
    if lines.len() > 1 {
        routes.extend(lines.iter().map(|(hub, line)| (Ipv4Net::from(hub.overlay), line.target())));
    }
    routes
}

/// What it costs to reach an owner through a tunnel of its own.
const DIRECT_COST: u32 = 10;
/// What it costs through a hub that relays.
const RELAYED_COST: u32 = 20;

/// How far next hops are, for the decision process (RFC 4271 section 9.1.2.2 e): by the WireGuard peer that carries
/// them. What no peer carries has no cost, and is the last choice.
pub fn next_hop_costs(wished: &Wished) -> Vec<(IpNet, u32)> {
    let peers = wished.wireguard.iter().chain(&wished.second).flat_map(|w| w.peers.values());
    let cost = |net: &Ipv4Net| if net.prefix_len() == 32 { DIRECT_COST } else { RELAYED_COST };
    peers.flat_map(|p| p.allowed_ips.iter()).map(|net| (IpNet::V4(*net), cost(net))).collect()
}

/// Remote clients and their owners' overlay addresses. What is not a host route, what is our own, and what does
/// not point into the overlay is left out: the hub checked it, and a hub is checked too.
pub fn remote_clients(admission: &Admission, best: &BestPaths) -> BTreeMap<Ipv4Addr, Ipv4Addr> {
    best.routes
        .iter()
        .filter(|(prefix, path)| !path.local && unwanted(admission, **prefix, path.next_hop).is_none())
        .filter(|(_, path)| !is_overruled(admission, best, path))
        .filter_map(|(prefix, path)| match (prefix.addr(), path.next_hop) {
            (IpAddr::V4(client), IpAddr::V4(owner)) => Some((client, owner)),
            _ => None,
        })
        .collect()
}

/// Whether a path is kept from a lost session with one hub while the other, which has the same table, does not have it
/// any more. Without a living hub everything is kept (fail static).
fn is_overruled(admission: &Admission, best: &BestPaths, path: &BestPath) -> bool {
    let is_hub = |at: &IpAddr| admission.topology.hubs.iter().any(|hub| IpAddr::V4(hub.overlay) == *at);
    path.stale && path.from.as_ref().is_some_and(is_hub) && best.whole_from.iter().any(is_hub)
}

/// Why a learned best path makes no route here; `None` if it does.
pub fn unwanted(admission: &Admission, prefix: Prefix, next_hop: IpAddr) -> Option<&'static str> {
    let overlay = &admission.topology.overlay_prefix;
    match (prefix.addr(), next_hop) {
        _ if !prefix.is_host() => Some("not a single address: a leaf installs host routes only"),
        (IpAddr::V4(client), _) if overlay.contains(&client) => Some("it lies inside the overlay prefix"),
        (IpAddr::V4(client), _) if admission.claims.contains_key(&client) => {
            Some("it is this leaf's own claim")
        }
        (IpAddr::V4(_), IpAddr::V4(owner)) if owner == admission.overlay => {
            Some("the next hop is this leaf itself")
        }
        (IpAddr::V4(_), IpAddr::V4(owner)) if overlay.contains(&owner) => None,
        (IpAddr::V4(_), _) => Some("the next hop is outside the overlay prefix"),
        (IpAddr::V6(_), _) => Some("the overlay carries IPv4 only"),
    }
}

/// The routes that this leaf announces: its granted claims, reachable through itself.
pub fn originated(admission: &Admission) -> Vec<bgp::io::Originated> {
    let announce =
        |&client: &Ipv4Addr| bgp::io::Originated::new(Prefix::host(IpAddr::V4(client)), admission.overlay);
    admission.claims.keys().map(announce).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use bgp::view::BestPath;
    use enrollment::claim::Claim;
    use enrollment::identity::{InviteId, WireguardKey};
    use enrollment::topology::{HubNode, Topology};
    use proptest::prelude::*;

    /// The aws leaf at 10.255.0.2 with these claims, fail static 12 h.
    pub(crate) fn admission(own: &[Ipv4Addr]) -> Admission {
        let hub = HubNode {
            name: "hub".parse().unwrap(),
            overlay: Ipv4Addr::new(10, 255, 0, 1),
            wireguard_key: WireguardKey([1; 32]),
            signing_key: SigningKey([2; 32]),
            endpoints: vec!["203.0.113.5:51820".parse().unwrap()],
            api_port: 8443,
        };
        let topology = Topology {
            generation: 1,
            overlay_prefix: "10.255.0.0/20".parse().unwrap(),
            asn: 64512,
            lease_secs: 86_400,
            fail_static_secs: 43_200,
            hubs: vec![hub],
        };
        Admission {
            leaf: "aws".parse().unwrap(),
            invite: InviteId([0; 8]),
            overlay: Ipv4Addr::new(10, 255, 0, 2),
            wireguard_key: WireguardKey([3; 32]),
            claims: own.iter().map(|&a| (a, Claim { generation: 1, since: 0 })).collect(),
            permitted: Vec::new(),
            max_claims: 8,
            counter: 0,
            lease_left_secs: 86_400,
            renew_after_secs: 28_800,
            valid_until: 0,
            hub_time: 0,
            topology,
        }
    }

    fn path(next_hop: Ipv4Addr) -> BestPath {
        BestPath {
            next_hop: next_hop.into(),
            others: Vec::new().into(),
            originator: next_hop,
            communities: Vec::new().into(),
            local_pref: 100,
            local: false,
            stale: false,
            from: Some(Ipv4Addr::new(10, 255, 0, 1).into()),
        }
    }

    /// An address near the interesting ones: clients, own clients, the overlay, the underlay.
    fn address() -> impl Strategy<Value = Ipv4Addr> {
        let bases = [[10, 81, 10, 0], [10, 82, 10, 0], [10, 255, 0, 0], [10, 255, 15, 0], [203, 0, 113, 0]];
        (prop::sample::select(bases.to_vec()), 0u8..8).prop_map(|([a, b, c, _], d)| Ipv4Addr::new(a, b, c, d))
    }

    proptest! {
        /// Whatever BGP says: client addresses stay out of AllowedIPs, every captured address has a route to its
        /// owner, nothing of the overlay, of the leaf itself or of its own clients is routed away or captured.
        #[test]
        fn allowed_ips_routes_and_captures_agree(
            own in prop::collection::vec(address(), 0..3),
            learned in prop::collection::btree_map((address(), 24u8..=32), address(), 0..12),
        ) {
            let admission = admission(&own);
            let routes = learned.iter().filter_map(|(&(a, len), &owner)| {
                Some((Prefix::new(a.into(), len)?, path(owner)))
            });
            let best = BestPaths { generation: 1, routes: routes.collect(), whole: true, ..BestPaths::default() };
            let capture = CaptureKind::ProxyArp("eth0".into());
            let underlay = Underlay { path_mtu: 1400, ipv6: false };
            let key = |_: &SigningKey| PrivateKey::from_bytes([9; 32]);
            let wished = wished(&admission, key, 51820, &best, &capture, underlay, 0);

            let overlay = admission.topology.overlay_prefix;
            for peer in wished.wireguard.as_ref().unwrap().peers.values() {
                prop_assert!(peer.allowed_ips.iter().all(|net| overlay.contains(net)));
            }
            for (net, target) in &wished.routes {
                if let Target::Owner(owner) = target {
                    prop_assert!(net.prefix_len() == 32 && !overlay.contains(net));
                    prop_assert!(overlay.contains(owner) && *owner != admission.overlay);
                    prop_assert!(!own.contains(&net.addr()));
                }
            }
            for Capture::ProxyArp { address, .. } in &wished.captures {
                prop_assert!(matches!(wished.routes.get(&Ipv4Net::from(*address)), Some(Target::Owner(_))), "one owner");
            }
            let remote = wished.routes.values().filter(|t| matches!(t, Target::Owner(_))).count();
            prop_assert_eq!(remote, wished.captures.len());
            prop_assert_eq!(wished.filter.clamp.is_some(), remote > 0);
        }
    }

    /// The leaf of [`admission`] with a second hub.
    pub(crate) fn admission_of_two() -> Admission {
        let mut admission = admission(&[]);
        let second = HubNode {
            name: "hub2".parse().unwrap(),
            overlay: Ipv4Addr::new(10, 255, 0, 9),
            wireguard_key: WireguardKey([5; 32]),
            signing_key: SigningKey([6; 32]),
            endpoints: vec!["203.0.113.9:51820".parse().unwrap()],
            api_port: 8443,
        };
        admission.topology.hubs.push(second);
        admission
    }

    /// Each hub has its own interface with the whole overlay behind it; which one carries the overlay is one route, and
    /// nothing else changes with it.
    #[test]
    fn two_hubs_two_lines() {
        let admission = admission_of_two();
        let overlay = admission.topology.overlay_prefix;
        let both = [0, 1].map(|preferred| {
            let key = |_: &SigningKey| PrivateKey::from_bytes([9; 32]);
            let underlay = Underlay { path_mtu: 1400, ipv6: false };
            wished(&admission, key, 51820, &BestPaths::default(), &CaptureKind::None, underlay, preferred)
        });
        let [first, second] = &both;
        assert_eq!(first.routes[&overlay], Target::Wireguard);
        assert_eq!(second.routes[&overlay], Target::SecondWireguard);
        for wished in &both {
            assert_eq!(wished.routes[&Ipv4Addr::new(10, 255, 0, 1).into()], Target::Wireguard);
            assert_eq!(wished.routes[&Ipv4Addr::new(10, 255, 0, 9).into()], Target::SecondWireguard);
            for (line, key) in [(&wished.wireguard, [1; 32]), (&wished.second, [5; 32])] {
                let peers = &line.as_ref().unwrap().peers;
                assert_eq!((peers.len(), &peers[&PublicKey(key)].allowed_ips), (1, &[overlay].into()));
            }
        }
        assert_eq!((&first.wireguard, &first.second), (&second.wireguard, &second.second));
        assert!(first.second.as_ref().unwrap().addresses.is_empty());
        let room = |wished: &Wished| wished.wireguard.as_ref().unwrap().mtu - wished.tunnel.unwrap().mtu;
        assert_eq!(room(first), 2 * dataplane::mtu::IPIP_OVERHEAD, "a hub may wrap once more");
    }

    /// What a lost hub had announced stays while no hub lives, and goes when a living one's whole table lacks it.
    #[test]
    fn a_living_hub_overrules_a_dead_one() {
        let admission = admission_of_two();
        let [first, second] = [1, 9].map(|n| IpAddr::V4(Ipv4Addr::new(10, 255, 0, n)));
        let client = Prefix::host("10.82.10.20".parse().unwrap());
        let count = |from: Option<IpAddr>, stale: bool, whole_from: &[IpAddr]| {
            let path = BestPath { from, stale, ..path(Ipv4Addr::new(10, 255, 0, 3)) };
            let whole_from = whole_from.iter().copied().collect();
            let routes = std::iter::once((client, path)).collect();
            remote_clients(&admission, &BestPaths { routes, whole_from, ..BestPaths::default() }).len()
        };
        assert_eq!(count(Some(first), false, &[first, second]), 1);
        assert_eq!(count(Some(first), true, &[]), 1, "fail static");
        assert_eq!(count(Some(first), true, &[second]), 0, "withdrawn at the living hub");
        let router = "192.0.2.7".parse().unwrap();
        assert_eq!(count(Some(router), true, &[second]), 1, "another router's restart is no hub's business");
        assert_eq!(count(Some(first), true, &[router]), 1, "another router's table is no hub's");
        assert_eq!(count(None, true, &[second]), 1, "remembered ones have their own end");
    }

    /// With a 1,400-octet underlay the numbers are those of the MTU rule, and the hub carries the overlay alone.
    #[test]
    fn underlay_decides_the_mtu() {
        let best = BestPaths {
            generation: 1,
            routes: std::iter::once((
                Prefix::host("10.82.10.20".parse().unwrap()),
                path(Ipv4Addr::new(10, 255, 0, 3)),
            ))
            .collect(),
            whole: true,
            ..BestPaths::default()
        };
        let underlay = Underlay { path_mtu: 1400, ipv6: false };
        let key = |_: &SigningKey| PrivateKey::from_bytes([9; 32]);
        let wished = wished(&admission(&[]), key, 51820, &best, &CaptureKind::None, underlay, 0);
        let tunnel = wished.tunnel.unwrap().mtu;
        assert_eq!(tunnel, dataplane::mtu::tunnel_mtu(1400, false));
        assert_eq!(wished.filter.clamp, Some(dataplane::mtu::mss(tunnel)));
        assert!(wished.captures.is_empty());
    }

    /// Equal paths make one route to all their owners; next hops that no route may have are left out of it.
    #[test]
    fn equal_paths_share_a_route() {
        let owner = |n: u8| Ipv4Addr::new(10, 255, 0, n);
        let client = Ipv4Addr::new(10, 88, 0, 1);
        let target = |others: &[IpAddr]| {
            let shared = BestPath { others: others.into(), ..path(owner(5)) };
            let routes = std::iter::once((Prefix::host(client.into()), shared)).collect();
            let best = BestPaths { generation: 1, routes, whole: true, ..BestPaths::default() };
            let underlay = Underlay { path_mtu: 1400, ipv6: false };
            let key = |_: &SigningKey| PrivateKey::from_bytes([9; 32]);
            let wished = wished(&admission(&[]), key, 51820, &best, &CaptureKind::None, underlay, 0);
            wished.routes[&Ipv4Net::from(client)]
        };
        assert_eq!(target(&[]), Target::Owner(owner(5)));
        let (self_, outside) = (owner(2).into(), Ipv4Addr::new(192, 0, 2, 1).into());
        assert_eq!(target(&[self_, outside]), Target::Owner(owner(5)));
        assert_eq!(target(&[owner(4).into(), self_]).owners(), [owner(4), owner(5)]);
    }

    /// An owner with a tunnel of its own is nearer than one behind the hub; what no tunnel carries has no cost.
    #[test]
    fn costs_follow_the_tunnels() {
        let best = BestPaths::default();
        let underlay = Underlay { path_mtu: 1400, ipv6: false };
        let key = |_: &SigningKey| PrivateKey::from_bytes([9; 32]);
        let mut wished = wished(&admission(&[]), key, 51820, &best, &CaptureKind::None, underlay, 0);
        let owner = Ipv4Addr::new(10, 255, 0, 9);
        let cost = |wished: &Wished, a: Ipv4Addr| bgp::store::Costs::new(next_hop_costs(wished)).of(a.into());
        assert_eq!(cost(&wished, owner), RELAYED_COST);
        let direct = WireguardPeer { allowed_ips: [owner.into()].into(), ..Default::default() };
        wished.wireguard.as_mut().unwrap().peers.insert(PublicKey([7; 32]), direct);
        assert_eq!(cost(&wished, owner), DIRECT_COST);
        assert_eq!(cost(&wished, Ipv4Addr::new(192, 0, 2, 1)), bgp::store::Costs::UNKNOWN);
    }
}
