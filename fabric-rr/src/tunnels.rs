//! The WireGuard peers of a hub, from its admissions: pure. What is kept from one set of admissions to the next makes the
//! peers of a hub with thousands of leaves cost what has changed; it decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

use dataplane::state::{Peers, PublicKey, WireguardPeer};
use dataplane::walk::{changed, differing};
use enrollment::endpoint::Endpoint;
use enrollment::identity::{LeafName, WireguardKey};
use enrollment::registry::{Admissions, Admitted};
use imbl::OrdMap;
use ipnet::Ipv4Net;
use std::sync::Arc;

/// How often a hub keeps its tunnel with the other one open, seconds.
const HUB_KEEPALIVE_SECS: u16 = 25;

/// The peers by whose they are; where two have one key, the later of these has it.
#[derive(Default)]
pub struct Tunnels {
    /// Of invites.
    guests: Peers,
    /// The leaves that `members` were made from.
    known: OrdMap<LeafName, Arc<Admitted>>,
    /// Of leaves.
    members: Peers,
    /// Of leaves that are called, of machines that lost their name, and of other hubs.
    others: Peers,
    /// All of them.
    all: Peers,
}

impl Tunnels {
    /// The peers for these admissions: every leaf has its own overlay address alone, every invite its foyer address alone.
    /// `calls` are the leaves that the hub calls by itself, and where: those that have taken fresh keys.
    pub fn of(&mut self, admissions: &Admissions, calls: &BTreeMap<PublicKey, SocketAddr>) -> Peers {
        let before = (self.guests.clone(), self.members.clone(), self.others.clone());
        let guest = |address| peer(address, None, 0);
        self.guests =
            admissions.foyer.iter().map(|one| (public(&one.public_key), guest(one.address))).collect();
        self.follow(&admissions.leaves);
        self.others = others(admissions, calls, &self.members);
        let kinds = [(&before.0, &self.guests), (&before.1, &self.members), (&before.2, &self.others)];
        let keys: BTreeSet<_> = kinds.into_iter().flat_map(|(was, is)| differing(was, is)).copied().collect();
        for key in keys {
            let of = |peers: &Peers| peers.get(&key).cloned();
            let peer = of(&self.others).or_else(|| of(&self.members)).or_else(|| of(&self.guests));
            match peer {
                Some(peer) => drop(self.all.insert(key, peer)),
                None => drop(self.all.remove(&key)),
            }
        }
        self.all.clone()
    }

    fn follow(&mut self, leaves: &OrdMap<LeafName, Arc<Admitted>>) {
        let before = std::mem::replace(&mut self.known, leaves.clone());
        // First who goes: a key may be another leaf's now.
        for leaf in changed(&before, leaves).filter_map(|(_, was, _)| was) {
            self.members.remove(&public(&leaf.wireguard_key));
        }
        let member = |leaf: &Arc<Admitted>| (public(&leaf.wireguard_key), peer(leaf.overlay, None, 0));
        self.members.extend(changed(&before, leaves).filter_map(|(_, _, is)| is).map(member));
        // Where two leaves had one key, the one that is left may be missing now.
        if self.members.len() != leaves.len() {
            self.members = leaves.values().map(member).collect();
        }
    }
}

fn others(admissions: &Admissions, calls: &BTreeMap<PublicKey, SocketAddr>, members: &Peers) -> Peers {
    let called = calls.iter().filter_map(|(key, place)| {
        // A keepalive that is turned on is sent at once, and begins the handshake.
        let peer = WireguardPeer { endpoint: Some(*place), keepalive_secs: 1, ..members.get(key)?.clone() };
        Some((*key, peer))
    });
    let rivals = admissions.rivals.iter().map(|(key, overlay)| (public(key), peer(*overlay, None, 0)));
    let hubs = admissions.hubs.iter().map(|hub| {
        // Hubs are public: each calls the other, so that it does not matter which of them was restarted.
        let endpoint = hub.endpoints.first().and_then(Endpoint::address);
        (public(&hub.wireguard_key), peer(hub.overlay, endpoint, HUB_KEEPALIVE_SECS))
    });
    called.chain(rivals).chain(hubs).collect()
}

/// Leaves and invited machines are behind NAT or move: their endpoints are learned, and they keep them open.
fn peer(address: Ipv4Addr, endpoint: Option<SocketAddr>, keepalive_secs: u16) -> WireguardPeer {
    WireguardPeer { endpoint, allowed_ips: [Ipv4Net::from(address)].into(), keepalive_secs }
}

fn public(key: &WireguardKey) -> PublicKey {
    PublicKey(key.0)
}

#[cfg(test)]
mod tests {
    use enrollment::identity::InviteId;
    use enrollment::registry::FoyerPeer;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::hub::tests::admissions;
    use crate::peering::tests::other;

    /// All at once, as one reads it: whoever comes later has a key that several have.
    fn afresh(
        admissions: &Admissions,
        calls: &BTreeMap<PublicKey, SocketAddr>,
    ) -> BTreeMap<PublicKey, WireguardPeer> {
        let mut peers = BTreeMap::new();
        for one in &admissions.foyer {
            peers.insert(public(&one.public_key), peer(one.address, None, 0));
        }
        for leaf in admissions.leaves.values() {
            let called = calls.get(&public(&leaf.wireguard_key)).copied();
            peers
                .insert(public(&leaf.wireguard_key), peer(leaf.overlay, called, u16::from(called.is_some())));
        }
        for (key, overlay) in &admissions.rivals {
            peers.insert(public(key), peer(*overlay, None, 0));
        }
        for hub in &admissions.hubs {
            peers.insert(public(&hub.wireguard_key), peer(hub.overlay, None, HUB_KEEPALIVE_SECS));
        }
        peers
    }

    fn step(now: &mut Admissions, calls: &mut BTreeMap<PublicKey, SocketAddr>, (what, n, key): (u8, u8, u8)) {
        let wireguard = WireguardKey([key; 32]);
        let name: LeafName = format!("leaf-{n}").parse().unwrap();
        let overlay = Ipv4Addr::new(10, 255, 0, n);
        match what {
            0 | 1 => {
                let mut leaf = admissions(&[("leaf", n, &[])]).leaves.values().next().unwrap().clone();
                let made = Arc::make_mut(&mut leaf);
                (made.name, made.wireguard_key) = (name.clone(), wireguard);
                now.leaves.insert(name, leaf);
            }
            2 => drop(now.leaves.remove(&name)),
            3 => {
                let (invite, underlay_matters) = (InviteId([n; 8]), false);
                now.foyer.push(FoyerPeer {
                    public_key: wireguard,
                    address: overlay,
                    invite,
                    underlay_matters,
                });
            }
            4 => drop(now.foyer.pop()),
            5 => match calls.remove(&public(&wireguard)) {
                Some(_) => {}
                None => drop(calls.insert(public(&wireguard), "192.0.2.1:51820".parse().unwrap())),
            },
            6 => match now.rivals.pop() {
                Some(_) => {}
                None => now.rivals.push((wireguard, overlay)),
            },
            _ => match now.hubs.pop() {
                Some(_) => {}
                None => now.hubs.push(other(overlay)),
            },
        }
    }

    proptest! {
        /// After any history the peers are those that the admissions say, also where keys are had twice.
        #[test]
        fn peers_are_what_the_admissions_say(steps in vec((0u8..8, 0u8..8, 0u8..10), 1..40)) {
            let (mut now, mut calls, mut kept) = (admissions(&[]), BTreeMap::new(), Tunnels::default());
            for one in steps {
                step(&mut now, &mut calls, one);
                let peers: BTreeMap<_, _> = kept.of(&now, &calls).into_iter().collect();
                prop_assert_eq!(peers, afresh(&now, &calls), "after {:?}", one);
            }
        }
    }

    /// A leaf that comes leaves all others shared with what was there before.
    #[test]
    fn one_more_leaf_is_one_more_peer() {
        let names: Vec<String> = (2..200).map(|n| format!("leaf-{n}")).collect();
        let leaves: Vec<(&str, u8, &[[u8; 4]])> =
            names.iter().zip(2..).map(|(name, n)| (name.as_str(), n, &[][..])).collect();
        let (mut kept, none) = (Tunnels::default(), BTreeMap::new());
        let before = kept.of(&admissions(&leaves[1..]), &none);
        let now = kept.of(&admissions(&leaves), &none);
        assert_eq!(differing(&before, &now).collect::<Vec<_>>(), [&PublicKey([2; 32])]);
    }
}
