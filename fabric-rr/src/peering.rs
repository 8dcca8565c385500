//! The sessions between the hubs, derived from the registry alone: pure functions.
//!
//! Hubs are non-clients of each other (RFC 4456 section 4): what one learns from a leaf it tells the other, what it
//! learns from the other it tells its leaves only. Each believes the other as far as the registry that both share
//! goes: routes of admitted leaves, each with its owner's overlay address as next hop.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bgp::io::{DynamicPeers, Liveness, Neighbor};
use bgp::policy::{Admission, ImportPolicy};
use bgp::types::Prefix;
use enrollment::registry::Admissions;
use enrollment::topology::HubNode;
use ipnet::{IpNet, Ipv4Net};

/// Under this name the hub that is dialled shows its sessions with hubs, as if a `BGPDynamicPeer` named them.
pub const HUBS: &str = "hubs";

/// What the speaker is told of the other hubs.
#[derive(Debug, Clone)]
pub struct Peering {
    /// The hubs that this one dials.
    pub dialled: Vec<Neighbor>,
    /// The hubs that dial this one.
    pub dialling: Option<DynamicPeers>,
}

/// The sessions with the other hubs. The one with the higher overlay address dials, so that there is one connection
/// and no collision; `hold_time_secs` is what this hub proposes.
pub fn peering(admissions: &Admissions, hold_time_secs: u16) -> Peering {
    let (own, asn) = (admissions.hub.overlay, admissions.hub.asn);
    // Nobody asks a hub that is alone who owns what.
    let owners = if admissions.hubs.is_empty() { BTreeMap::new() } else { owners(admissions) };
    let owners = Arc::new(owners);
    let (lower, higher): (Vec<&HubNode>, Vec<_>) = admissions.hubs.iter().partition(|hub| hub.overlay < own);
    let dial = |hub: &&HubNode| Neighbor {
        local_address: Some(IpAddr::V4(own)),
        hold_time_secs,
        policy: Some(policy(hub, &owners)),
        ..Neighbor::new(hub.name.to_string(), IpAddr::V4(hub.overlay), asn)
    };
    let accept = |hubs: &[&HubNode]| {
        let source = |hub: &&HubNode| IpNet::V4(Ipv4Net::from(hub.overlay));
        let policies: HashMap<IpAddr, Arc<ImportPolicy>> =
            hubs.iter().map(|hub| (IpAddr::V4(hub.overlay), policy(hub, &owners))).collect();
        DynamicPeers {
            name: HUBS.into(),
            source_prefixes: hubs.iter().map(source).collect(),
            remote_asn: asn,
            route_reflector_client: false,
            limit: hubs.len(),
            admission: Admission::Enrolled(Arc::new(policies)),
            options: Default::default(),
        }
    };
    Peering {
        dialled: lower.iter().map(dial).collect(),
        dialling: (!higher.is_empty()).then(|| accept(&higher)),
    }
}

/// Adds the other hubs to who has BFD: always, so that a dead hub's routes are stale within a second.
pub fn watched(mut liveness: Liveness, peering: &Peering) -> Liveness {
    liveness.neighbors.extend(peering.dialled.iter().map(|hub| (hub.name.clone(), Default::default())));
    liveness
        .dynamic_peers
        .extend(peering.dialling.iter().map(|hubs| (hubs.name.clone(), Default::default())));
    liveness
}

/// Who may be the next hop of which address: its owner, and while it moves its former owner as well.
fn owners(admissions: &Admissions) -> BTreeMap<Prefix, BTreeSet<Ipv4Addr>> {
    let mut owners: BTreeMap<Prefix, BTreeSet<Ipv4Addr>> = BTreeMap::new();
    for leaf in admissions.leaves.values() {
        for &address in leaf.claims.keys().chain(leaf.lingering.keys()) {
            owners.entry(Prefix::host(IpAddr::V4(address))).or_default().insert(leaf.overlay);
        }
    }
    owners
}

fn policy(hub: &HubNode, owners: &Arc<BTreeMap<Prefix, BTreeSet<Ipv4Addr>>>) -> Arc<ImportPolicy> {
    Arc::new(ImportPolicy {
        owner: hub.name.to_string(),
        owned: BTreeSet::new(),
        next_hop: hub.overlay,
        // What nobody owns is rejected anyway; this bounds what is accepted.
        max_prefixes: u32::try_from(owners.len()).unwrap_or(u32::MAX).saturating_add(16),
        passes_on: Arc::clone(owners),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::hub::tests::admissions;
    use bgp::policy::{ImportFacts, RejectReason};
    use enrollment::identity::{SigningKey, WireguardKey};

    /// Another hub at this overlay address.
    pub(crate) fn other(overlay: Ipv4Addr) -> HubNode {
        HubNode {
            name: "other".parse().unwrap(),
            overlay,
            wireguard_key: WireguardKey([7; 32]),
            signing_key: SigningKey([8; 32]),
            endpoints: Vec::new(),
            api_port: 8443,
        }
    }

    fn with_other(overlay: Ipv4Addr) -> Admissions {
        let mut a = admissions(&[("aws", 2, &[[10, 81, 10, 20]]), ("oci", 3, &[[10, 83, 10, 20]])]);
        a.hubs = vec![other(overlay)];
        a
    }

    /// One of two hubs dials, the other accepts, neither takes the other for a client, and both have BFD.
    #[test]
    fn one_side_dials() {
        let first = peering(&with_other(Ipv4Addr::new(10, 255, 0, 9)), 90);
        assert!(first.dialled.is_empty());
        let accepted = first.dialling.as_ref().unwrap();
        assert!(!accepted.route_reflector_client && accepted.limit == 1);
        assert!(watched(Liveness::default(), &first).dynamic_peers.contains_key(HUBS));

        let mut second = with_other(Ipv4Addr::new(10, 255, 0, 1));
        Arc::make_mut(&mut second.hub).overlay = Ipv4Addr::new(10, 255, 0, 9);
        let second = peering(&second, 90);
        assert!(second.dialling.is_none());
        assert_eq!(second.dialled[0].name, "other");
        assert!(!second.dialled[0].route_reflector_client);
        assert!(watched(Liveness::default(), &second).neighbors.contains_key("other"));
    }

    /// Alone, a hub has no such session.
    #[test]
    fn a_single_hub_has_none() {
        let alone = peering(&admissions(&[]), 90);
        assert!(alone.dialled.is_empty() && alone.dialling.is_none());
    }

    /// The other hub may pass on an admitted leaf's route with that leaf's next hop, what is moving with both; not
    /// one leaf's address with another's next hop, nor its own, nor what nobody owns.
    #[test]
    fn the_other_hub_is_believed_as_far_as_the_registry_goes() {
        let mut a = with_other(Ipv4Addr::new(10, 255, 0, 1));
        Arc::make_mut(&mut a.hub).overlay = Ipv4Addr::new(10, 255, 0, 9);
        let policy = peering(&a, 90).dialled[0].policy.clone().unwrap();
        let try_it = |prefix: &str, n: u8| {
            let next_hop = IpAddr::V4(Ipv4Addr::new(10, 255, 0, n));
            policy.accept(prefix.parse().unwrap(), &ImportFacts { next_hop, foreign_originator: true })
        };
        assert_eq!(try_it("10.81.10.20/32", 2), Ok(()));
        assert_eq!(try_it("10.9.9.3/32", 3), Ok(()), "what is moving away");
        assert_eq!(try_it("10.81.10.20/32", 3), Err(RejectReason::ForeignNextHop));
        assert_eq!(try_it("10.81.10.20/32", 1), Err(RejectReason::ForeignNextHop));
        assert_eq!(try_it("10.77.0.1/32", 2), Err(RejectReason::NotOwned));
        assert_eq!(try_it("10.255.0.2/32", 2), Err(RejectReason::NotOwned));
    }
}
