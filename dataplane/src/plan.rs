//! The difference between what is seen and what is wished, as changes in the order in which they are safe.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::state::{
    Capture, FilterState, Line, Peers, PrivateKey, PublicKey, Relay, Route, State, Tunnel, Wireguard,
    WireguardPeer, Wished,
};
use crate::walk::differing;

/// One step; each is idempotent, so that a step that is repeated or that finds its work done is no error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Take a proxy neighbour of ours away.
    RemoveCapture(Capture),
    /// Take a route of ours away.
    RemoveRoute(Ipv4Net),
    /// Take the ipip tunnel away.
    RemoveTunnel,
    /// Stop relaying together with other hubs.
    RemoveRelay,
    /// Take one WireGuard peer away.
    RemovePeer(Line, PublicKey),
    /// Take a WireGuard interface away, with its peers and addresses.
    RemoveWireguard(Line),
    /// Make a WireGuard interface, or bring key, port, addresses and MTU in line; peers stay as they are.
    SetWireguard(Line, Device),
    /// Add or correct one peer; no other peer notices.
    SetPeer(Line, PublicKey, WireguardPeer),
    /// Let a fresh key take the place of a former one when its owner calls with it.
    AwaitPeer {
        /// The interface.
        line: Line,
        /// The fresh key.
        fresh: PublicKey,
        /// The key in force.
        former: PublicKey,
    },
    /// Make the ipip tunnel, or bring it in line.
    SetTunnel(Tunnel),
    /// Relay together with other hubs, or bring in line what is wrapped for whom.
    SetRelay(Relay),
    /// Replace our nft table as one transaction.
    SetFilter(FilterState),
    /// Change only who owns what in our nft table.
    SetOwners {
        /// Entries to add.
        add: BTreeSet<(Ipv4Net, Ipv4Addr)>,
        /// Entries to take away first.
        remove: BTreeSet<(Ipv4Net, Ipv4Addr)>,
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
            Change::RemoveRelay => "remove-relay",
            Change::RemovePeer(..) => "remove-peer",
            Change::RemoveWireguard(_) => "remove-wireguard",
            Change::SetWireguard(..) => "set-wireguard",
            Change::SetPeer(..) => "set-peer",
            Change::AwaitPeer { .. } => "await-peer",
            Change::SetTunnel(_) => "set-tunnel",
            Change::SetRelay(_) => "set-relay",
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
        // Field by field: a hub has thousands of peers.
        Device {
            private_key: wireguard.private_key.clone(),
            listen_port: wireguard.listen_port,
            addresses: wireguard.addresses.clone(),
            mtu: wireguard.mtu,
        }
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

/// The peers of each line as they were seen and wished when nothing had to change: what neither side has changed since
/// needs no second look. Whoever knows of none compares all.
#[derive(Debug, Default)]
pub struct Agreed {
    first: (Peers, Peers),
    second: (Peers, Peers),
}

impl Agreed {
    /// The same as [`plan`] at the cost of what has changed since the last time that nothing had to.
    pub fn plan(&mut self, seen: &State, wished: &Wished) -> Vec<Change> {
        let changes = compare(self, seen, wished);
        if changes.is_empty() {
            self.first = agreement(seen.wireguard.as_ref(), wished.wireguard.as_ref());
            self.second = agreement(seen.second.as_ref(), wished.second.as_ref());
        }
        changes
    }
}

/// Where fresh keys are under way, a peer that needs no change now may need one as soon as another one does.
fn agreement(seen: Option<&Wireguard>, wished: Option<&Wireguard>) -> (Peers, Peers) {
    match (seen, wished) {
        (Some(seen), Some(wished)) if seen.former_keys.is_empty() && wished.former_keys.is_empty() => {
            (seen.peers.clone(), wished.peers.clone())
        }
        _ => Default::default(),
    }
}

/// The changes that turn `seen` into `wished`: first what is in the way goes, from the edge inwards, then what is
/// missing comes, from the underlay outwards, filters before routes. Empty if nothing has to change.
pub fn plan(seen: &State, wished: &Wished) -> Vec<Change> {
    compare(&Agreed::default(), seen, wished)
}

fn compare(agreed: &Agreed, seen: &State, wished: &Wished) -> Vec<Change> {
    let goal = State::apart_from_wireguard(wished, seen.protection.clone(), seen.carrier);
    let mut changes = Vec::new();
    changes.extend(seen.captures.difference(&goal.captures).cloned().map(Change::RemoveCapture));
    changes.extend(
        seen.routes.keys().filter(|p| !goal.routes.contains_key(p)).copied().map(Change::RemoveRoute),
    );
    if seen.tunnel.is_some() && goal.tunnel.is_none() {
        changes.push(Change::RemoveTunnel);
    }
    if seen.relay.is_some() && goal.relay.is_none() {
        changes.push(Change::RemoveRelay);
    }
    // The second goes before the first and comes after it: in process it lives by the first one's device.
    if wished.second.is_none() {
        plan_wireguard(Line::Second, &agreed.second, seen.second.as_ref(), None, &mut changes);
    }
    let (first, goal_first) = (seen.wireguard.as_ref(), wished.wireguard.as_ref());
    plan_wireguard(Line::First, &agreed.first, first, goal_first, &mut changes);
    if let Some(second) = &wished.second {
        plan_wireguard(Line::Second, &agreed.second, seen.second.as_ref(), Some(second), &mut changes);
    }
    if let Some(tunnel) = goal.tunnel.filter(|_| goal.tunnel != seen.tunnel) {
        changes.push(Change::SetTunnel(tunnel));
    }
    plan_filter(seen.filter.as_ref(), goal.filter, &mut changes);
    if let Some(relay) = goal.relay.filter(|goal| seen.relay.as_ref() != Some(goal)) {
        changes.push(Change::SetRelay(relay));
    }
    let missing = goal.routes.iter().filter(|(prefix, route)| seen.routes.get(prefix) != Some(route));
    changes.extend(missing.map(|(prefix, route)| Change::SetRoute(*prefix, *route)));
    changes.extend(goal.captures.difference(&seen.captures).cloned().map(Change::AddCapture));
    changes
}

fn plan_wireguard(
    line: Line,
    agreed: &(Peers, Peers),
    seen: Option<&Wireguard>,
    goal: Option<&Wireguard>,
    changes: &mut Vec<Change>,
) {
    let Some(goal) = goal else {
        changes.extend(seen.map(|_| Change::RemoveWireguard(line)));
        return;
    };
    let none = (Peers::new(), BTreeMap::new());
    let (seen_peers, awaited) = seen.map_or((&none.0, &none.1), |w| (&w.peers, &w.former_keys));
    let succeeded = succeeded(seen_peers, goal);
    let kept: BTreeSet<_> = succeeded.values().collect();
    let mut different = Vec::new();
    let since = differing(&agreed.0, seen_peers).chain(differing(&agreed.1, &goal.peers));
    for key in since.collect::<BTreeSet<_>>() {
        match (seen_peers.get(key), goal.peers.get(key)) {
            (None, None) => {}
            (Some(_), None) if kept.contains(key) => {}
            (Some(_), None) => changes.push(Change::RemovePeer(line, *key)),
            (Some(was), Some(peer)) if was.satisfies(peer) => {}
            (_, Some(peer)) => different.push((key, peer)),
        }
    }
    let idle = awaited.keys().filter(|fresh| !goal.peers.contains_key(*fresh));
    changes.extend(idle.map(|key| Change::RemovePeer(line, *key)));
    let device = Device::of(goal);
    if !seen.is_some_and(|w| Device::of(w).satisfies(&device)) {
        changes.push(Change::SetWireguard(line, device));
    }
    for (key, peer) in different {
        match succeeded.get(key) {
            Some(former) if awaited.get(key).is_some_and(|waits| waits[..] == [*former]) => {}
            Some(former) => changes.push(Change::AwaitPeer { line, fresh: *key, former: *former }),
            None => changes.push(Change::SetPeer(line, *key, peer.clone())),
        }
    }
}

/// The former keys in force that stay so for now, by the fresh keys that will take their place. One that carries other
/// prefixes than the fresh one must is replaced at once.
fn succeeded(seen: &Peers, goal: &Wireguard) -> BTreeMap<PublicKey, PublicKey> {
    let stays = |fresh: &PublicKey, former: &PublicKey| match (seen.get(former), goal.peers.get(fresh)) {
        (Some(was), Some(is)) => !goal.peers.contains_key(former) && was.allowed_ips == is.allowed_ips,
        _ => false,
    };
    let mut taken = BTreeSet::new();
    let fresh = goal.former_keys.iter().filter(|(fresh, _)| !seen.contains_key(*fresh));
    let former = |(fresh, former): (&PublicKey, &Vec<PublicKey>)| {
        let found = former.iter().find(|key| stays(fresh, key) && taken.insert(**key))?;
        Some((*fresh, *found))
    };
    fresh.filter_map(former).collect()
}

fn plan_filter(seen: Option<&FilterState>, goal: Option<FilterState>, changes: &mut Vec<Change>) {
    match (seen, goal) {
        (None, None) => {}
        (Some(_), None) => changes.push(Change::RemoveFilter),
        (Some(seen), Some(goal)) if *seen == goal => {}
        // The set of owners exists only in a table that has owners at all.
        (Some(seen), Some(goal))
            if seen.filter == goal.filter
                && seen.relay == goal.relay
                && seen.holds == goal.holds
                && !seen.owners.is_empty()
                && !goal.owners.is_empty() =>
        {
            let add = goal.owners.difference(&seen.owners).copied().collect();
            let remove = seen.owners.difference(&goal.owners).copied().collect();
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
            seen.routes.retain(|_, route| route.target.is_none_or(|target| target.owners().is_empty()));
        }
        Change::SetTunnel(tunnel) => seen.tunnel = Some(tunnel),
        Change::RemoveRelay => seen.relay = None,
        Change::SetRelay(relay) => seen.relay = Some(relay),
        Change::RemoveWireguard(line) => *seen.line_mut(line) = None,
        Change::SetWireguard(line, device) => {
            let seen = seen.line_mut(line);
            let (peers, former_keys) = seen.take().map(|w| (w.peers, w.former_keys)).unwrap_or_default();
            let Device { private_key, listen_port, addresses, mtu } = device;
            *seen = Some(Wireguard { private_key, listen_port, addresses, mtu, peers, former_keys });
        }
        Change::RemovePeer(line, key) => {
            if let Some(wireguard) = seen.line_mut(line) {
                wireguard.peers.remove(&key);
                wireguard.former_keys.retain(|fresh, former| *fresh != key && !former.contains(&key));
            }
        }
        Change::AwaitPeer { line, fresh, former } => {
            if let Some(wireguard) = seen.line_mut(line) {
                wireguard.former_keys.retain(|_, keys| !keys.contains(&former));
                wireguard.former_keys.insert(fresh, vec![former]);
            }
        }
        Change::SetPeer(line, key, mut peer) => {
            if let Some(wireguard) = seen.line_mut(line) {
                wireguard.former_keys.remove(&key);
                let learned = wireguard.peers.get(&key).and_then(|p| p.endpoint);
                peer.endpoint = peer.endpoint.or(learned);
                wireguard.peers.insert(key, peer.clone());
            }
        }
        Change::SetFilter(filter) => seen.filter = Some(filter),
        Change::SetOwners { add, remove } => {
            if let Some(filter) = &mut seen.filter {
                filter.owners.retain(|owner| !remove.contains(owner));
                filter.owners.extend(add);
            }
        }
        Change::RemoveFilter => seen.filter = None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::collection::{btree_map, btree_set, vec};
    use proptest::option;
    use proptest::prelude::*;

    use super::*;
    use crate::state::{Carrier, Filter, Foyer, ProtectedPrefix, Protection, Target};

    fn address() -> impl Strategy<Value = Ipv4Addr> {
        // Few values, so that seen and wished meet.
        (1u8..4, 0u8..6).prop_map(|(third, last)| Ipv4Addr::new(10, 81, third, last))
    }

    fn prefix() -> impl Strategy<Value = Ipv4Net> {
        (address(), prop_oneof![Just(32u8), Just(24), Just(30)])
            .prop_map(|(a, len)| Ipv4Net::new(a, len).unwrap().trunc())
    }

    fn key() -> impl Strategy<Value = PrivateKey> {
        (1u8..5).prop_map(|n| PrivateKey::from_bytes([n * 8; 32]))
    }

    fn peer() -> impl Strategy<Value = WireguardPeer> {
        let endpoint = option::of((address(), 1u16..4).prop_map(|(a, p)| SocketAddr::from((a, p))));
        (endpoint, btree_set(prefix(), 0..3), 0u16..2).prop_map(|(endpoint, allowed_ips, keepalive_secs)| {
            WireguardPeer { endpoint, allowed_ips: allowed_ips.into_iter().collect(), keepalive_secs }
        })
    }

    fn wireguard() -> impl Strategy<Value = Wireguard> {
        let peers = btree_map(key().prop_map(|k| k.public()), peer(), 0..4);
        let former =
            btree_map(key().prop_map(|k| k.public()), vec(key().prop_map(|k| k.public()), 1..3), 0..2);
        (key(), 0u16..3, btree_set(prefix(), 0..3), 1400u16..1402, peers, former).prop_map(
            |(private_key, listen_port, addresses, mtu, peers, former_keys)| Wireguard {
                private_key,
                listen_port,
                addresses,
                mtu,
                peers: peers.into(),
                former_keys,
            },
        )
    }

    /// All who are awaited call.
    fn call(state: &mut State) {
        for wireguard in state.wireguard.iter_mut().chain(&mut state.second) {
            for (fresh, former) in std::mem::take(&mut wireguard.former_keys) {
                let peer = wireguard.peers.remove(&former[0]).expect("the former key is in force");
                wireguard.peers.insert(fresh, peer);
            }
        }
    }

    fn target() -> impl Strategy<Value = Target> {
        prop_oneof![address().prop_map(Target::Owner), Just(Target::Wireguard), Just(Target::SecondWireguard)]
    }

    fn wished() -> impl Strategy<Value = Wished> {
        let tunnel = (address(), 1300u16..1302).prop_map(|(local, mtu)| Tunnel { local, mtu });
        let capture =
            ("lan[0-2]", address()).prop_map(|(interface, address)| Capture::ProxyArp { interface, address });
        let foyer = (prefix(), address()).prop_map(|(prefix, hub)| Foyer { prefix, hub, api_port: 8443 });
        let filter =
            (option::of(1200u16..1202), option::of(foyer)).prop_map(|(clamp, foyer)| Filter { clamp, foyer });
        (
            option::of(wireguard()),
            option::of(wireguard()),
            option::of(tunnel),
            option::of(relay()),
            btree_map(prefix(), target(), 0..6),
            btree_set(capture, 0..4),
            filter,
        )
            .prop_map(|(wireguard, second, tunnel, relay, routes, captures, filter)| Wished {
                wireguard,
                second,
                tunnel,
                relay,
                routes,
                captures,
                filter,
            })
    }

    fn relay() -> impl Strategy<Value = Relay> {
        let beyond = btree_map(address(), address(), 0..3);
        (address(), prefix(), btree_set(address(), 0..3), beyond)
            .prop_map(|(local, overlay, hubs, beyond)| Relay { local, overlay, mtu: 1420, hubs, beyond })
    }

    fn protection() -> impl Strategy<Value = Protection> {
        let reason = prop_oneof![
            Just(ProtectedPrefix::OwnAddress),
            Just(ProtectedPrefix::Connected),
            Just(ProtectedPrefix::ForeignRoute)
        ];
        btree_set((prefix(), reason), 0..3).prop_map(|prefixes| Protection { prefixes })
    }

    fn carrier() -> impl Strategy<Value = Carrier> {
        prop_oneof![Just(Carrier::Kernel), Just(Carrier::InProcess)]
    }

    proptest! {
        /// What is already as wished needs no change.
        #[test]
        fn plan_of_the_same_is_empty(wished in wished(), protection in protection(), carrier in carrier()) {
            prop_assert_eq!(plan(&State::of(&wished, protection, carrier), &wished), []);
        }

        /// Applying the plan to what was seen gives what was wished: nothing else remains, and nothing is left to do,
        /// neither before those with fresh keys have called nor then.
        #[test]
        fn applying_the_plan_gives_the_wish(
            first in wished(),
            second in wished(),
            called in any::<bool>(),
            wished in wished(),
            protection in protection(),
            carrier in carrier(),
        ) {
            let mut state = State::of(&first, protection.clone(), carrier);
            for change in plan(&state, &second) {
                apply(&mut state, change);
            }
            if called {
                call(&mut state);
            }
            for change in plan(&state, &wished) {
                apply(&mut state, change);
            }
            prop_assert_eq!(plan(&state, &wished), []);
            call(&mut state);
            for change in plan(&state, &wished) {
                prop_assert!(matches!(change, Change::SetPeer(..)), "it brings its former keepalive: {}", change.kind());
                apply(&mut state, change);
            }
            prop_assert_eq!(plan(&state, &wished), []);
            let mut goal = State::of(&wished, protection, carrier);
            // A roaming peer keeps the endpoint that was learned, and any port contents who asked for any.
            for line in Line::BOTH {
                let (Some(seen), Some(goal)) = (state.line(line), goal.line_mut(line)) else { continue };
                goal.listen_port = if goal.listen_port == 0 { seen.listen_port } else { goal.listen_port };
                let learned = |(key, peer): (&PublicKey, &WireguardPeer)| {
                    let endpoint = peer.endpoint.or(seen.peers[key].endpoint);
                    (*key, WireguardPeer { endpoint, ..peer.clone() })
                };
                goal.peers = goal.peers.iter().map(learned).collect();
            }
            prop_assert_eq!(state, goal);
        }

        /// Remembering what agreed never hides a change: not of the wish, and not one behind our back.
        #[test]
        fn what_agreed_hides_nothing(
            mut wished in wished(),
            then in vec((key(), option::of(peer()), key(), option::of(peer())), 1..6),
            other in wished(),
            carrier in carrier(),
        ) {
            let (mut agreed, mut state) = (Agreed::default(), State { carrier, ..State::default() });
            let set = |wireguard: &mut Option<Wireguard>, key: PrivateKey, peer| {
                let peers = wireguard.as_mut().map(|w: &mut Wireguard| &mut w.peers);
                match (peers, peer) {
                    (Some(peers), Some(peer)) => drop(peers.insert(key.public(), peer)),
                    (peers, _) => drop(peers.and_then(|peers| peers.remove(&key.public()))),
                }
            };
            for (key, peer, drifted, drift) in then {
                for _ in 0..3 {
                    let changes = agreed.plan(&state, &wished);
                    prop_assert_eq!(&changes, &plan(&state, &wished));
                    changes.into_iter().for_each(|change| apply(&mut state, change));
                }
                set(&mut wished.wireguard, key, peer);
                set(&mut state.wireguard, drifted, drift);
            }
            prop_assert_eq!(agreed.plan(&state, &wished), plan(&state, &wished));
            prop_assert_eq!(agreed.plan(&state, &other), plan(&state, &other));
        }

        /// A change of one peer touches no other peer and not the device.
        #[test]
        fn one_peer_changes_alone(wireguard in wireguard(), new in peer(), key in key()) {
            let before = Wished { wireguard: Some(wireguard.clone()), ..Default::default() };
            let mut after = before.clone();
            after.wireguard.iter_mut().for_each(|w| drop(w.peers.insert(key.public(), new.clone())));
            for change in plan(&State::of(&before, Protection::default(), Carrier::Kernel), &after) {
                prop_assert!(matches!(change, Change::SetPeer(Line::First, k, _) if k == key.public()), "{:?}", change.kind());
            }
        }

        /// A peer with a fresh key keeps the former one until it calls, without any other change; who has nothing to
        /// keep, or is not wished any more, changes at once.
        #[test]
        fn a_fresh_key_waits_for_its_call(mut wireguard in wireguard(), peer in peer(), other in address()) {
            let [former, fresh, next] = [100, 101, 102].map(|n| PublicKey([n; 32]));
            wireguard.former_keys.clear();
            let of = |key, former: &[PublicKey]| {
                let mut wished = wireguard.clone();
                wished.peers.insert(key, peer.clone());
                wished.former_keys.extend((!former.is_empty()).then(|| (key, former.to_vec())));
                Wished { wireguard: Some(wished), ..Default::default() }
            };
            let seen = |wished: &Wished| State::of(wished, Protection::default(), Carrier::Kernel);
            let line = Line::First;
            let awaits = |fresh| Change::AwaitPeer { line, fresh, former };
            let mut state = seen(&of(former, &[]));
            prop_assert_eq!(plan(&state, &of(fresh, &[former])), [awaits(fresh)]);
            apply(&mut state, awaits(fresh));
            prop_assert_eq!(plan(&state, &of(fresh, &[former])), []);
            prop_assert_eq!(plan(&state, &of(next, &[fresh, former])), [Change::RemovePeer(line, fresh), awaits(next)]);
            let at_once = [Change::RemovePeer(line, former), Change::SetPeer(line, fresh, peer.clone())];
            prop_assert_eq!(plan(&state, &of(fresh, &[])), at_once);
            let gone = Wished { wireguard: Some(wireguard.clone()), ..Default::default() };
            for change in plan(&state, &gone) {
                apply(&mut state, change);
            }
            prop_assert_eq!(state.wireguard, Some(wireguard.clone()), "revoked: neither key is left");
            let prefix = Ipv4Net::from(other);
            if peer.allowed_ips[..] != [prefix] {
                let mut elsewhere = of(fresh, &[former]);
                elsewhere.wireguard.iter_mut().flat_map(|w| w.peers.get_mut(&fresh)).for_each(|p| p.allowed_ips = [prefix].into());
                prop_assert_eq!(plan(&seen(&of(former, &[])), &elsewhere).len(), 2, "it has another address");
            }
        }

        /// No route that is planned covers what is protected, and endpoints are protected always.
        #[test]
        fn protected_prefixes_are_never_covered(wished in wished(), protection in protection()) {
            let endpoints: Vec<_> = wished.peers().filter_map(|(_, p)| p.endpoint).collect();
            let state = State { protection: protection.clone(), ..State::default() };
            for change in plan(&state, &wished) {
                if let Change::SetRoute(prefix, _) = change {
                    prop_assert_eq!(protection.objection(prefix), None);
                    for endpoint in &endpoints {
                        prop_assert!(!matches!(endpoint.ip(), std::net::IpAddr::V4(a) if prefix.contains(&a)));
                    }
                }
            }
        }

        /// Filters come before the routes they watch over, and routes go before the tunnel they use.
        #[test]
        fn order_is_safe(before in wished(), wished in wished()) {
            let state = State::of(&before, Protection::default(), Carrier::Kernel);
            let changes = plan(&state, &wished);
            for line in Line::BOTH {
                // What is done to the other interface stands in no order to this one's peers.
                let other = |change: &&Change| match change {
                    Change::SetWireguard(of, _) | Change::SetPeer(of, ..) | Change::AwaitPeer { line: of, .. } => *of != line,
                    _ => false,
                };
                let kinds: Vec<_> = changes.iter().filter(|c| !other(c)).map(Change::kind).collect();
                in_order(&kinds)?;
            }
        }
    }

    fn in_order(kinds: &[&str]) -> Result<(), TestCaseError> {
        let position = |kind| kinds.iter().position(|k| *k == kind);
        let last = |kind| kinds.iter().rposition(|k| *k == kind);
        for (first, then) in [
            ("set-filter", "set-route"),
            ("set-owners", "set-route"),
            ("set-filter", "set-relay"),
            ("set-wireguard", "set-relay"),
            ("remove-relay", "remove-wireguard"),
            ("set-wireguard", "set-peer"),
            ("set-wireguard", "await-peer"),
            ("set-wireguard", "set-route"),
            ("set-tunnel", "set-route"),
            ("set-route", "add-capture"),
            ("remove-capture", "remove-route"),
            ("remove-route", "remove-tunnel"),
            ("remove-route", "remove-wireguard"),
        ] {
            if let (Some(a), Some(b)) = (last(first), position(then)) {
                prop_assert!(a < b, "{first} before {then}: {kinds:?}");
            }
        }
        Ok(())
    }
}
