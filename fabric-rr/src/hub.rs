//! Where enrollment, BGP and the dataplane meet on the hub: pure functions from the admissions to what each of
//! the others should have. Nothing else on the hub decides which peers, prefixes or addresses are permitted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bgp::policy::{Admission, ImportPolicy};
use bgp::types::Prefix;
use dataplane::mtu::IPIP_OVERHEAD;
use dataplane::state::{Filter, Foyer, Peers, PrivateKey, PublicKey, Relay, Target, Wireguard, Wished};
use dataplane::walk::changed;
use enrollment::identity::{LeafName, WireguardKey};
use enrollment::registry::{Admissions, Admitted};
use ipnet::Ipv4Net;

/// The interfaces, peers and filters that the hub's kernel should have. Client addresses occur nowhere in it: the
/// hub relays overlay packets alone.
/// `peers` are what [`crate::tunnels::Tunnels`] makes of the same admissions. `established` are the overlay addresses with
/// which the hub has a session. `held` are the former keys of leaves with fresh ones, which hold until these call.
pub fn wished(
    admissions: &Admissions,
    peers: Peers,
    key: PrivateKey,
    listen_port: u16,
    mtu: u16,
    established: &BTreeSet<IpAddr>,
    held: &BTreeMap<LeafName, Vec<WireguardKey>>,
) -> Wished {
    let hub = &admissions.hub;
    let host = Ipv4Net::from;
    let public = |key: &WireguardKey| PublicKey(key.0);
    let fresh = held.iter().filter_map(|(name, former)| Some((admissions.leaves.get(name)?, former)));
    let former_keys = fresh
        .map(|(leaf, former)| (public(&leaf.wireguard_key), former.iter().map(public).collect::<Vec<_>>()));
    let former_keys = former_keys.collect();
    let wireguard = Wireguard {
        private_key: key,
        listen_port,
        addresses: BTreeSet::from([host(hub.overlay), host(hub.foyer_hub)]),
        mtu,
        peers,
        former_keys,
    };
    let foyer = Foyer { prefix: hub.foyer_prefix, hub: hub.foyer_hub, api_port: hub.api_port };
    Wished {
        wireguard: Some(wireguard),
        second: None,
        tunnel: None,
        relay: relay(admissions, mtu, established),
        routes: BTreeMap::from([(hub.overlay_prefix, Target::Wireguard)]),
        captures: BTreeSet::new(),
        filter: Filter { clamp: None, foyer: Some(foyer) },
    }
}

/// Who is reached through another hub: every leaf with which this one has no session, as long as another hub lives (a
/// session between hubs, like one with a leaf, ends within a second of the path's death). Which of several hubs has a
/// leaf is not known here: the first living one is taken.
fn relay(admissions: &Admissions, mtu: u16, established: &BTreeSet<IpAddr>) -> Option<Relay> {
    let lives = |address: &Ipv4Addr| established.contains(&IpAddr::V4(*address));
    let hubs: BTreeSet<Ipv4Addr> = admissions.hubs.iter().map(|hub| hub.overlay).collect();
    let other = hubs.iter().copied().find(lives);
    let away = admissions.leaves.values().map(|leaf| leaf.overlay).filter(|leaf| !lives(leaf));
    let beyond = other.map(|other| away.map(|leaf| (leaf, other)).collect()).unwrap_or_default();
    let (local, overlay) = (admissions.hub.overlay, admissions.hub.overlay_prefix);
    (!hubs.is_empty()).then_some(Relay { local, overlay, mtu: mtu - IPIP_OVERHEAD, hubs, beyond })
}

/// What each enrolled leaf may announce, by the source address of its session. A policy is made anew when its leaf's
/// admission is another one; the speaker knows the others again.
#[derive(Default)]
pub struct Policies {
    known: Option<Arc<Admissions>>,
    policies: Arc<HashMap<IpAddr, Arc<ImportPolicy>>>,
}

impl Policies {
    /// The policies for these admissions.
    pub fn of(&mut self, admissions: &Arc<Admissions>) -> Admission {
        let before = self.known.replace(admissions.clone());
        let before = before.map(|known| known.leaves.clone()).unwrap_or_default();
        let different: Vec<_> = changed(&before, &admissions.leaves).collect();
        if !different.is_empty() {
            let policies = Arc::make_mut(&mut self.policies);
            // First who goes: an address may have another leaf now.
            for leaf in different.iter().filter_map(|(_, was, _)| *was) {
                policies.remove(&IpAddr::V4(leaf.overlay));
            }
            for leaf in different.iter().filter_map(|(_, _, is)| *is) {
                policies.insert(IpAddr::V4(leaf.overlay), Arc::new(import_policy(leaf)));
            }
        }
        Admission::Enrolled(self.policies.clone())
    }
}

fn import_policy(leaf: &Admitted) -> ImportPolicy {
    ImportPolicy {
        owner: leaf.name.to_string(),
        // What is moving away is still announced here until its new owner does.
        owned: leaf
            .claims
            .keys()
            .chain(leaf.lingering.keys())
            .map(|&a| Prefix::host(IpAddr::V4(a)))
            .collect(),
        next_hop: leaf.overlay,
        max_prefixes: leaf.max_claims.saturating_mul(2).saturating_add(16),
        passes_on: Arc::default(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::tunnels::Tunnels;
    use enrollment::claim::Claim;
    use enrollment::identity::{InviteId, SigningKey};
    use enrollment::policy::HubSettings;
    use enrollment::registry::FoyerPeer;
    use std::net::Ipv4Addr;

    pub(crate) fn admissions(leaves: &[(&str, u8, &[[u8; 4]])]) -> Admissions {
        let hub = HubSettings::derive(
            "hub".parse().unwrap(),
            "10.255.0.0/20".parse().unwrap(),
            Vec::new(),
            WireguardKey([1; 32]),
            SigningKey([2; 32]),
        )
        .unwrap();
        let leaf = |&(name, n, claims): &(&str, u8, &[[u8; 4]])| {
            let admitted = Admitted {
                name: name.parse().unwrap(),
                overlay: Ipv4Addr::new(10, 255, 0, n),
                wireguard_key: WireguardKey([n; 32]),
                claims: claims.iter().map(|&a| (a.into(), Claim { generation: 1, since: 0 })).collect(),
                permitted: Vec::new(),
                max_claims: 8,
                valid_until: 0,
                last_seen: 0,
                expired: false,
                lingering: [(Ipv4Addr::new(10, 9, 9, n), Claim { generation: 1, since: 0 })].into(),
                leaving: false,
            };
            (admitted.name.clone(), Arc::new(admitted))
        };
        let address = hub.foyer_prefix.hosts().nth(5).unwrap();
        let (public_key, invite) = (WireguardKey([9; 32]), InviteId([0; 8]));
        let foyer = vec![FoyerPeer { public_key, address, invite, underlay_matters: false }];
        Admissions {
            generation: 1,
            hub: Arc::new(hub),
            leaves: leaves.iter().map(leaf).collect(),
            foyer,
            moves: BTreeMap::new(),
            hubs: Vec::new(),
            rivals: Vec::new(),
        }
    }

    /// Every leaf gets its own overlay address alone, every invite its foyer address alone; no client address
    /// reaches WireGuard.
    #[test]
    fn wireguard_carries_overlay_addresses_only() {
        let a = admissions(&[("aws", 2, &[[10, 81, 10, 20]]), ("oci", 3, &[[10, 83, 10, 20]])]);
        let key = PrivateKey::from_bytes([3; 32]);
        let peers = Tunnels::default().of(&a, &BTreeMap::new());
        let wished = wished(&a, peers, key, 51820, 1420, &BTreeSet::new(), &BTreeMap::new());
        let wireguard = wished.wireguard.unwrap();
        assert_eq!(wireguard.peers.len(), 3);
        for peer in wireguard.peers.values() {
            assert_eq!(peer.allowed_ips.len(), 1);
            let net = peer.allowed_ips.first().unwrap();
            assert!(net.prefix_len() == 32 && a.hub.overlay_prefix.contains(&net.addr()), "{net}");
        }
        assert_eq!(wished.routes.len(), 1);
        assert!(wished.filter.foyer.is_some(), "an invited machine must be quarantined");
    }

    /// A leaf with a fresh key is called where it was, the others are not called; a former key that holds is beside it.
    #[test]
    fn rotated_leaves_are_called() {
        let mut now = admissions(&[("aws", 2, &[]), ("oci", 3, &[])]);
        let aws = now.leaves.get_mut(&"aws".parse::<LeafName>().unwrap()).unwrap();
        Arc::make_mut(aws).wireguard_key = WireguardKey([7; 32]);
        let calls = BTreeMap::from([(PublicKey([7; 32]), "192.0.2.1:51820".parse().unwrap())]);
        let wireguard = |calls: &_, held: &_| {
            let key = PrivateKey::from_bytes([3; 32]);
            let peers = Tunnels::default().of(&now, calls);
            wished(&now, peers, key, 51820, 1420, &BTreeSet::new(), held).wireguard.unwrap()
        };
        let held = BTreeMap::from([("aws".parse().unwrap(), vec![WireguardKey([2; 32])])]);
        let (fresh, former) = (PublicKey([7; 32]), PublicKey([2; 32]));
        let holds = wireguard(&BTreeMap::new(), &held);
        assert_eq!(holds.former_keys, [(fresh, vec![former])].into());
        assert!(holds.peers[&fresh].endpoint.is_none() && !holds.peers.contains_key(&former));
        let called = wireguard(&calls, &BTreeMap::new());
        assert_eq!(called.peers[&fresh].endpoint, calls.values().next().copied());
        assert!(called.former_keys.is_empty() && called.peers[&PublicKey([3; 32])].endpoint.is_none());
    }

    /// A leaf without a session is reached through the other hub while that one lives; one with a session never is.
    #[test]
    fn who_is_away_is_reached_through_the_other_hub() {
        let mut a = admissions(&[("aws", 2, &[]), ("oci", 3, &[])]);
        let relay = |a: &Admissions, established: &[u8]| {
            let established = established.iter().map(|n| Ipv4Addr::new(10, 255, 0, *n).into()).collect();
            let key = PrivateKey::from_bytes([3; 32]);
            wished(a, Peers::new(), key, 51820, 1440, &established, &BTreeMap::new()).relay
        };
        assert_eq!(relay(&a, &[2]), None, "alone");
        let other = Ipv4Addr::new(10, 255, 0, 9);
        a.hubs = vec![crate::peering::tests::other(other)];
        let beyond = |established: &[u8]| relay(&a, established).unwrap().beyond;
        assert_eq!(beyond(&[2]), BTreeMap::new(), "the other hub is dead");
        assert_eq!(beyond(&[2, 9]), [(Ipv4Addr::new(10, 255, 0, 3), other)].into());
        assert_eq!(beyond(&[2, 3, 9]), BTreeMap::new());
        let both = relay(&a, &[9]).unwrap();
        assert_eq!((both.beyond.len(), both.hubs, both.mtu), (2, [other].into(), 1420));
        assert!(both.overlay.contains(&both.local));
    }

    /// Exactly the leaves that are new, other or gone are found, and an address that changes hands has its new leaf's policy.
    #[test]
    fn only_what_changed_is_walked_on() {
        let before = admissions(&[("aws", 2, &[]), ("oci", 3, &[]), ("pve", 4, &[])]);
        let mut now = before.clone();
        now.leaves.remove(&"oci".parse::<LeafName>().unwrap());
        let azure = &admissions(&[("azure", 3, &[[10, 82, 10, 20]])]).leaves;
        now.leaves.extend(azure.clone());
        Arc::make_mut(now.leaves.get_mut(&"pve".parse::<LeafName>().unwrap()).unwrap()).max_claims = 1;
        let found: Vec<_> = changed(&before.leaves, &now.leaves)
            .map(|(name, was, is)| (name.to_string(), was.is_some(), is.is_some()))
            .collect();
        let expected = [("azure", false, true), ("oci", true, false), ("pve", true, true)];
        assert_eq!(found, expected.map(|(name, was, is)| (name.to_string(), was, is)));
        let mut kept = Policies::default();
        kept.of(&before.into());
        let now = Arc::new(now);
        let Admission::Enrolled(policies) = kept.of(&now) else { panic!("leaves are never open") };
        let Admission::Enrolled(afresh) = Policies::default().of(&now) else {
            panic!("leaves are never open")
        };
        assert_eq!(policies, afresh);
    }

    /// A leaf may announce what it owns and what is moving away from it, from its own address, and nothing that
    /// another owns.
    #[test]
    fn policies_follow_claims() {
        let a = admissions(&[("aws", 2, &[[10, 81, 10, 20]]), ("oci", 3, &[[10, 83, 10, 20]])]);
        let mut kept = Policies::default();
        let Admission::Enrolled(policies) = kept.of(&a.clone().into()) else {
            panic!("leaves are never open")
        };
        let mut now = a.clone();
        Arc::make_mut(now.leaves.get_mut(&"oci".parse::<LeafName>().unwrap()).unwrap()).claims.clear();
        let Admission::Enrolled(then) = kept.of(&now.into()) else { panic!("leaves are never open") };
        let (same, other) = ("10.255.0.2".parse().unwrap(), "10.255.0.3".parse().unwrap());
        assert!(Arc::ptr_eq(&policies[&same], &then[&same]) && policies[&other] != then[&other]);
        let aws = &policies[&"10.255.0.2".parse().unwrap()];
        assert_eq!(aws.next_hop, Ipv4Addr::new(10, 255, 0, 2));
        let owned: BTreeSet<String> = aws.owned.iter().map(ToString::to_string).collect();
        assert_eq!(owned, ["10.81.10.20/32".to_string(), "10.9.9.2/32".to_string()].into());
    }
}
