//! Two hubs pass packets on for each other: a packet for a node that this hub has no living tunnel with is wrapped
//! once more (RFC 2003), toward a hub that has one. What was wrapped this way is unwrapped and given to a peer, never
//! wrapped again: so it cannot go round. Packets of the hub itself are not wrapped: what it asks a node over their own
//! tunnel (BFD, BGP) must not be answered by another way.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// Name of the kernel's interface for it.
pub const RELAY_INTERFACE: &str = "fab-relay";
/// Number of the routing table that only packets from WireGuard are looked up in, and in which only our routes are.
pub const RELAY_TABLE: u8 = 84;
/// Priority of the rule that leads there: after the local table (0), long before the main one (32,766).
pub const RELAY_PRIORITY: u32 = 8_400;

/// How a hub relays together with others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relay {
    /// Outer source: this hub's overlay address.
    pub local: Ipv4Addr,
    /// The prefix of all overlay addresses: nothing else is passed on.
    pub overlay: Ipv4Net,
    /// Largest packet that is wrapped without being cut, octets.
    pub mtu: u16,
    /// The hubs that may pass packets on to this one.
    pub hubs: BTreeSet<Ipv4Addr>,
    /// Nodes that this hub does not reach itself, each with the hub that is to carry its packets.
    pub beyond: BTreeMap<Ipv4Addr, Ipv4Addr>,
}

impl Relay {
    /// What the packet filter has to know of it.
    pub fn filter(&self) -> RelayFilter {
        RelayFilter { local: self.local, overlay: self.overlay, hubs: self.hubs.clone() }
    }

    /// Whether a packet from `hub` to this one may be unwrapped into one from `source` to `destination`.
    #[inline]
    pub fn admits(&self, hub: Ipv4Addr, source: Ipv4Addr, destination: Ipv4Addr) -> bool {
        let a_hub = |address: &Ipv4Addr| *address == self.local || self.hubs.contains(address);
        self.hubs.contains(&hub)
            && self.overlay.contains(&source)
            && self.overlay.contains(&destination)
            && !a_hub(&source)
            && !a_hub(&destination)
    }
}

/// Which packets the kernel may unwrap for another hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayFilter {
    /// This hub's overlay address.
    pub local: Ipv4Addr,
    /// The prefix of all overlay addresses.
    pub overlay: Ipv4Net,
    /// Who may wrap.
    pub hubs: BTreeSet<Ipv4Addr>,
}
