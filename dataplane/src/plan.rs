//! The difference between what is seen and what is wished, as changes in the order in which they are safe.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::state::{
    Capture, FilterState, PrivateKey, PublicKey, Route, State, Target, Tunnel, Wireguard, WireguardPeer,
    Wished,
};

/// One step; each is idempotent, so that a step that is repeated or that finds its work done is no error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Take a proxy neighbour of ours away.
    RemoveCapture(Capture),
    /// Take a route of ours away.
    RemoveRoute(Ipv4Net),
    /// Take the ipip tunnel away.
    RemoveTunnel,
    /// Take one WireGuard peer away.
    RemovePeer(PublicKey),
    /// Take the WireGuard interface away, with its peers and addresses.
    RemoveWireguard,
    /// Make the WireGuard interface, or bring key, port, addresses and MTU in line; peers stay as they are.
    SetWireguard(Device),
    /// Add or correct one peer; no other peer notices.
    SetPeer(PublicKey, WireguardPeer),
    /// Make the ipip tunnel, or bring it in line.
    SetTunnel(Tunnel),
    /// Replace our nft table as one transaction.
    SetFilter(FilterState),
    /// Change only who owns what in our nft table.
    SetOwners {
        /// Entries to add.
        add: BTreeMap<Ipv4Net, Ipv4Addr>,
        /// Entries to take away first.
        remove: BTreeMap<Ipv4Net, Ipv4Addr>,
    },
    /// Take our nft table away.
    RemoveFilter,
    /// Add or replace a route of ours.
    SetRoute(Ipv4Net, Route),
    /// Add a proxy neighbour.
    AddCapture(Capture),
}

impl Change {
    /// Kebab-case name of the kind of change.
    pub const fn kind(&self) -> &'static str {
        match self {
            Change::RemoveCapture(_) => "remove-capture",
            Change::RemoveRoute(_) => "remove-route",
            Change::RemoveTunnel => "remove-tunnel",
            Change::RemovePeer(_) => "remove-peer",
            Change::RemoveWireguard => "remove-wireguard",
            Change::SetWireguard(_) => "set-wireguard",
            Change::SetPeer(..) => "set-peer",
            Change::SetTunnel(_) => "set-tunnel",
            Change::SetFilter(_) => "set-filter",
            Change::SetOwners { .. } => "set-owners",
            Change::RemoveFilter => "remove-filter",
            Change::SetRoute(..) => "set-route",
            Change::AddCapture(_) => "add-capture",
        }
    }
}

/// What a WireGuard interface is, apart from its peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// This node's key.
    pub private_key: PrivateKey,
    /// UDP port to listen on; 0 is any.
    pub listen_port: u16,
    /// Addresses of the interface.
    pub addresses: BTreeSet<Ipv4Net>,
    /// MTU in octets.
    pub mtu: u16,
}

impl Device {
    fn of(wireguard: &Wireguard) -> Device {
        let Wireguard { private_key, listen_port, addresses, mtu, peers: _ } = wireguard.clone();
        Device { private_key, listen_port, addresses, mtu }
    }

    /// Whether this device needs no change to be as `wished`; port 0 is content with any port.
    fn satisfies(&self, wished: &Device) -> bool {
        let port_fits = wished.listen_port == 0 || wished.listen_port == self.listen_port;
        port_fits
            && self.private_key == wished.private_key
            && self.addresses == wished.addresses
            && self.mtu == wished.mtu
    }
}

/// The changes that turn `seen` into `wished`: first what is in the way goes, from the edge inwards, then what is
/// missing comes, from the underlay outwards, filters before routes. Empty if nothing has to change.
pub fn plan(seen: &State, wished: &Wished) -> Vec<Change> {
    let goal = State::of(wished, seen.protection.clone(), seen.carrier);
    let mut changes = Vec::new();
    changes.extend(seen.captures.difference(&goal.captures).cloned().map(Change::RemoveCapture));
    changes.extend(
        seen.routes.keys().filter(|p| !goal.routes.contains_key(p)).copied().map(Change::RemoveRoute),
    );
    if seen.tunnel.is_some() && goal.tunnel.is_none() {
        changes.push(Change::RemoveTunnel);
    }
    plan_wireguard(seen.wireguard.as_ref(), goal.wireguard.as_ref(), &mut changes);
    if let Some(tunnel) = goal.tunnel.filter(|_| goal.tunnel != seen.tunnel) {
        changes.push(Change::SetTunnel(tunnel));
    }
    plan_filter(seen.filter.as_ref(), goal.filter, &mut changes);
    let missing = goal.routes.iter().filter(|(prefix, route)| seen.routes.get(prefix) != Some(route));
    changes.extend(missing.map(|(prefix, route)| Change::SetRoute(*prefix, *route)));
    changes.extend(goal.captures.difference(&seen.captures).cloned().map(Change::AddCapture));
    changes
}

fn plan_wireguard(seen: Option<&Wireguard>, goal: Option<&Wireguard>, changes: &mut Vec<Change>) {
    let Some(goal) = goal else {
        changes.extend(seen.map(|_| Change::RemoveWireguard));
        return;
    };
    let none = BTreeMap::new();
    let seen_peers = seen.map_or(&none, |w| &w.peers);
    changes
        .extend(seen_peers.keys().filter(|k| !goal.peers.contains_key(k)).copied().map(Change::RemovePeer));
    let device = Device::of(goal);
    if !seen.is_some_and(|w| Device::of(w).satisfies(&device)) {
        changes.push(Change::SetWireguard(device));
    }
    let differs =
        |key: &PublicKey, peer: &WireguardPeer| !seen_peers.get(key).is_some_and(|p| p.satisfies(peer));
    let peers = goal.peers.iter().filter(|(key, peer)| differs(key, peer));
    changes.extend(peers.map(|(key, peer)| Change::SetPeer(*key, peer.clone())));
}

fn plan_filter(seen: Option<&FilterState>, goal: Option<FilterState>, changes: &mut Vec<Change>) {
    match (seen, goal) {
        (None, None) => {}
        (Some(_), None) => changes.push(Change::RemoveFilter),
        (Some(seen), Some(goal)) if *seen == goal => {}
        // The set of owners exists only in a table that has owners at all.
        (Some(seen), Some(goal))
            if seen.filter == goal.filter && !seen.owners.is_empty() && !goal.owners.is_empty() =>
        {
            let lacks = |map: &BTreeMap<Ipv4Net, Ipv4Addr>, p: &Ipv4Net, o: &Ipv4Addr| map.get(p) != Some(o);
            let add = goal.owners.iter().filter(|(p, o)| lacks(&seen.owners, p, o));
            let add = add.map(|(p, o)| (*p, *o)).collect();
            let remove = seen.owners.iter().filter(|(p, o)| lacks(&goal.owners, p, o));
            let remove = remove.map(|(p, o)| (*p, *o)).collect();
            changes.push(Change::SetOwners { add, remove });
        }
        (_, Some(goal)) => changes.push(Change::SetFilter(goal)),
    }
}

/// What `seen` is after `change`, as a faithful kernel would have it. Tests hold the plan to it.
pub fn apply(seen: &mut State, change: Change) {
    match change {
        Change::RemoveCapture(capture) => drop(seen.captures.remove(&capture)),
        Change::AddCapture(capture) => drop(seen.captures.insert(capture)),
        Change::RemoveRoute(prefix) => drop(seen.routes.remove(&prefix)),
        Change::SetRoute(prefix, route) => drop(seen.routes.insert(prefix, route)),
        Change::RemoveTunnel => {
            seen.tunnel = None;
            seen.routes.retain(|_, route| !matches!(route.target, Some(Target::Owner(_))));
        }
        Change::SetTunnel(tunnel) => seen.tunnel = Some(tunnel),
        Change::RemoveWireguard => seen.wireguard = None,
        Change::SetWireguard(device) => {
            let peers = seen.wireguard.take().map(|w| w.peers).unwrap_or_default();
            let Device { private_key, listen_port, addresses, mtu } = device;
            seen.wireguard = Some(Wireguard { private_key, listen_port, addresses, mtu, peers });
        }
        Change::RemovePeer(key) => {
            seen.wireguard.iter_mut().for_each(|w| drop(w.peers.remove(&key)));
        }
        Change::SetPeer(key, mut peer) => {
            if let Some(wireguard) = &mut seen.wireguard {
                let learned = wireguard.peers.get(&key).and_then(|p| p.endpoint);
                peer.endpoint = peer.endpoint.or(learned);
                wireguard.peers.insert(key, peer.clone());
            }
        }
        Change::SetFilter(filter) => seen.filter = Some(filter),
        Change::SetOwners { add, remove } => {
            if let Some(filter) = &mut seen.filter {
                filter.owners.retain(|p, o| remove.get(p) != Some(o));
                filter.owners.extend(add.clone());
            }
        }
        Change::RemoveFilter => seen.filter = None,
    }
}
