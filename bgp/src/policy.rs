//! What a neighbour may send: admission and the import policy compiled from it.
//!
//! The policy is applied in the Adj-RIB-In, before best path and reflection. A rejected route stays there
//! (within a bound), with its reason, so that a later claim can make it accepted without asking again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::types::Prefix;

/// What one enrolled neighbour may send (ownership); from another hub what it may pass on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportPolicy {
    /// The leaf's name, shown beside the neighbour.
    pub owner: String,
    /// The host routes that the neighbour's claims own; nothing else is accepted.
    pub owned: BTreeSet<Prefix>,
    /// The only next hop that its routes may have: its own overlay address.
    pub next_hop: Ipv4Addr,
    /// How many accepted prefixes it may hold (0: none) before the session ends with Cease/1 (RFC 4486).
    pub max_prefixes: u32,
    /// What it may pass on for others (another reflector of the same fabric): by prefix, the next hops that the route
    /// may have. Empty for a neighbour that speaks for itself alone.
    pub passes_on: Arc<BTreeMap<Prefix, BTreeSet<Ipv4Addr>>>,
}

/// Who may connect from a range of addresses, and under which policy.
#[derive(Debug, Clone)]
pub enum Admission {
    /// Anybody, and every route: a plain reflector on a trusted network.
    Open,
    /// Enrolled neighbours only, by their source address; any other source is refused and counted.
    Enrolled(Arc<HashMap<IpAddr, Arc<ImportPolicy>>>),
}

/// Why a route was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum RejectReason {
    /// No claim of this neighbour owns the prefix.
    NotOwned = 1,
    /// A prefix that is not a single address, from a neighbour that may send host routes only.
    NotHostRoute,
    /// A default route, from a neighbour that may send host routes only.
    DefaultRoute,
    /// The next hop is not the neighbour's own overlay address.
    ForeignNextHop,
    /// ORIGINATOR_ID or CLUSTER_LIST say that the neighbour passes on another's route, which a leaf may not.
    ForeignOriginator,
    /// CLUSTER_LIST holds our own cluster id (RFC 4456 section 8).
    ClusterLoop,
    /// ORIGINATOR_ID is our own router id (RFC 4456 section 8).
    OriginatorLoop,
    /// AS_PATH holds our own AS (RFC 4271 section 9.1.2).
    AsLoop,
    /// The next hop cannot be one: zero, loopback, multicast, or of the wrong family.
    InvalidNextHop,
}

impl RejectReason {
    /// Every reason, in code order.
    pub const ALL: [RejectReason; 9] = [
        RejectReason::NotOwned,
        RejectReason::NotHostRoute,
        RejectReason::DefaultRoute,
        RejectReason::ForeignNextHop,
        RejectReason::ForeignOriginator,
        RejectReason::ClusterLoop,
        RejectReason::OriginatorLoop,
        RejectReason::AsLoop,
        RejectReason::InvalidNextHop,
    ];

    /// The reason as shown to people, kebab-case.
    pub fn as_str(self) -> &'static str {
        match self {
            RejectReason::NotOwned => "not-owned",
            RejectReason::NotHostRoute => "not-host-route",
            RejectReason::DefaultRoute => "default-route",
            RejectReason::ForeignNextHop => "foreign-next-hop",
            RejectReason::ForeignOriginator => "foreign-originator",
            RejectReason::ClusterLoop => "cluster-loop",
            RejectReason::OriginatorLoop => "originator-loop",
            RejectReason::AsLoop => "as-loop",
            RejectReason::InvalidNextHop => "invalid-next-hop",
        }
    }

    /// The reason with this code (1 to 9), the form in which the RIB keeps it.
    pub fn from_code(code: u8) -> Option<RejectReason> {
        RejectReason::ALL.get(usize::from(code).checked_sub(1)?).copied()
    }

    /// The code, 1 to 9.
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// What the import policy looks at in a route's attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportFacts {
    /// The next hop.
    pub next_hop: IpAddr,
    /// Whether another router's route is passed on: ORIGINATOR_ID other than the neighbour's id, or CLUSTER_LIST.
    pub foreign_originator: bool,
}

impl ImportPolicy {
    /// Whether the neighbour may send `prefix` with these attributes.
    pub fn accept(&self, prefix: Prefix, facts: &ImportFacts) -> Result<(), RejectReason> {
        if prefix.is_default() {
            Err(RejectReason::DefaultRoute)
        } else if !prefix.is_host() {
            Err(RejectReason::NotHostRoute)
        } else if let Some(owners) = self.passes_on.get(&prefix) {
            let owner = |next_hop| matches!(next_hop, IpAddr::V4(next_hop) if owners.contains(&next_hop));
            if owner(facts.next_hop) { Ok(()) } else { Err(RejectReason::ForeignNextHop) }
        } else if !self.owned.contains(&prefix) {
            Err(RejectReason::NotOwned)
        } else if facts.next_hop != IpAddr::V4(self.next_hop) {
            Err(RejectReason::ForeignNextHop)
        } else if facts.foreign_originator {
            Err(RejectReason::ForeignOriginator)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_owned_host_route_with_the_own_next_hop_passes() {
        let own = Ipv4Addr::new(10, 255, 0, 2);
        let policy = ImportPolicy {
            owner: "aws".into(),
            owned: ["10.81.10.20/32".parse().unwrap()].into(),
            next_hop: own,
            max_prefixes: 8,
            passes_on: Arc::default(),
        };
        let facts = |nh: Ipv4Addr, foreign| ImportFacts { next_hop: nh.into(), foreign_originator: foreign };
        let try_it = |p: &str, f| policy.accept(p.parse().unwrap(), &f);
        assert_eq!(try_it("10.81.10.20/32", facts(own, false)), Ok(()));
        assert_eq!(try_it("10.81.10.21/32", facts(own, false)), Err(RejectReason::NotOwned));
        assert_eq!(try_it("10.81.10.0/24", facts(own, false)), Err(RejectReason::NotHostRoute));
        assert_eq!(try_it("0.0.0.0/0", facts(own, false)), Err(RejectReason::DefaultRoute));
        let other = Ipv4Addr::new(10, 255, 0, 3);
        assert_eq!(try_it("10.81.10.20/32", facts(other, false)), Err(RejectReason::ForeignNextHop));
        assert_eq!(try_it("10.81.10.20/32", facts(own, true)), Err(RejectReason::ForeignOriginator));
    }

    /// Another reflector may pass on what somebody owns, with the owner's next hop and whatever originator.
    #[test]
    fn a_reflector_passes_on_what_others_own() {
        let owner = Ipv4Addr::new(10, 255, 0, 2);
        let policy = ImportPolicy {
            owner: "hub-2".into(),
            owned: [].into(),
            next_hop: Ipv4Addr::new(10, 255, 0, 4),
            max_prefixes: 8,
            passes_on: Arc::new([("10.81.10.20/32".parse().unwrap(), [owner].into())].into()),
        };
        let facts = |nh: Ipv4Addr| ImportFacts { next_hop: nh.into(), foreign_originator: true };
        let try_it = |p: &str, f| policy.accept(p.parse().unwrap(), &f);
        assert_eq!(try_it("10.81.10.20/32", facts(owner)), Ok(()));
        assert_eq!(try_it("10.81.10.20/32", facts(policy.next_hop)), Err(RejectReason::ForeignNextHop));
        assert_eq!(try_it("10.81.10.21/32", facts(owner)), Err(RejectReason::NotOwned));
        assert_eq!(try_it("0.0.0.0/0", facts(owner)), Err(RejectReason::DefaultRoute));
    }

    #[test]
    fn reason_codes_read_back() {
        for r in RejectReason::ALL {
            assert_eq!(RejectReason::from_code(r.code()), Some(r));
        }
        assert_eq!(RejectReason::from_code(0), None);
        assert_eq!(RejectReason::from_code(10), None);
    }
}
