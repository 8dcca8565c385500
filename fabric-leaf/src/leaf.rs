//! Where admission, BGP and the dataplane meet on a leaf: one pure function from what the hub granted and what
//! BGP chose to what the kernel should have. AllowedIPs, routes, captures and clamp come out of it together, so
//! nothing has to be matched by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use bgp::types::Prefix;
use bgp::view::BestPaths;
use dataplane::state::{
    Capture, Filter, PrivateKey, PublicKey, Target, Tunnel, Wireguard, WireguardPeer, Wished,
};
use enrollment::topology::Admission;
use ipnet::Ipv4Net;

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

/// The wished state of an enrolled leaf.
pub fn wished(
    admission: &Admission,
    key: PrivateKey,
    listen_port: u16,
    best: &BestPaths,
    capture: &CaptureKind,
    underlay: Underlay,
) -> Wished {
    let remote = remote_clients(admission, best);
    let mtus = dataplane::mtu::mtus(underlay.path_mtu, underlay.ipv6);
    let mut routes: BTreeMap<Ipv4Net, Target> =
        remote.iter().map(|(&client, &owner)| (Ipv4Net::from(client), Target::Owner(owner))).collect();
    routes.insert(admission.topology.overlay_prefix, Target::Wireguard);
    let captures = match capture {
        CaptureKind::None => BTreeSet::new(),
        CaptureKind::ProxyArp(interface) => remote
            .keys()
            .map(|&address| Capture::ProxyArp { interface: interface.clone(), address })
            .collect(),
    };
    let wireguard = Wireguard {
        private_key: key,
        listen_port,
        addresses: BTreeSet::from([Ipv4Net::from(admission.overlay)]),
        mtu: mtus.wireguard,
        peers: hub_peers(admission),
    };
    Wished {
        wireguard: Some(wireguard),
        tunnel: Some(Tunnel { local: admission.overlay, mtu: mtus.tunnel }),
        filter: Filter { clamp: (!remote.is_empty()).then_some(mtus.mss), foyer: None },
        routes,
        captures,
    }
}

/// The first hub carries the overlay prefix; every further one its own address.
fn hub_peers(admission: &Admission) -> BTreeMap<PublicKey, WireguardPeer> {
    let peer = |(n, hub): (usize, &enrollment::topology::HubNode)| {
        let allowed = if n == 0 { admission.topology.overlay_prefix } else { Ipv4Net::from(hub.overlay) };
        let peer = WireguardPeer {
            endpoint: hub.endpoints.first().copied(),
            allowed_ips: BTreeSet::from([allowed]),
            keepalive_secs: KEEPALIVE_SECS,
        };
        (PublicKey(hub.wireguard_key.0), peer)
    };
    admission.topology.hubs.iter().enumerate().map(peer).collect()
}

/// Remote clients and their owners' overlay addresses. What is not a host route, what is our own, and what does
/// not point into the overlay is left out: the hub checked it, and a hub is checked too.
pub fn remote_clients(admission: &Admission, best: &BestPaths) -> BTreeMap<Ipv4Addr, Ipv4Addr> {
    let overlay = &admission.topology.overlay_prefix;
    best.routes
        .iter()
        .filter(|(_, path)| !path.local)
        .filter_map(|(prefix, path)| match (prefix.addr(), path.next_hop) {
            (IpAddr::V4(client), IpAddr::V4(owner)) if prefix.is_host() => Some((client, owner)),
            _ => None,
        })
        .filter(|(client, owner)| {
            overlay.contains(owner)
                && !overlay.contains(client)
                && *owner != admission.overlay
                && !admission.claims.contains_key(client)
        })
        .collect()
}

/// The routes that this leaf announces: its granted claims, reachable through itself.
pub fn originated(admission: &Admission) -> Vec<bgp::io::Originated> {
    let announce =
        |&client: &Ipv4Addr| bgp::io::Originated::new(Prefix::host(IpAddr::V4(client)), admission.overlay);
    admission.claims.keys().map(announce).collect()
}
