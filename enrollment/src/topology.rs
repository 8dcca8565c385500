//! What a leaf gets back: its admission and the hubs it talks to, in durations rather than dates.

use crate::claim::Claim;
use crate::endpoint::Endpoint;
use crate::identity::{InviteId, LeafName, SigningKey, WireguardKey};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// A hub, as leaves see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubNode {
    /// Its name.
    pub name: LeafName,
    /// Its address in the overlay: BGP (TCP 179) and the leaf API answer there.
    pub overlay: Ipv4Addr,
    /// Its WireGuard key.
    pub wireguard_key: WireguardKey,
    /// The key that signs its answers.
    pub signing_key: SigningKey,
    /// Where its WireGuard answers.
    pub endpoints: Vec<Endpoint>,
    /// TCP port of the leaf API.
    pub api_port: u16,
}

/// What is the same for every leaf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// The registry's generation when it was made; higher is newer.
    pub generation: u64,
    /// The prefix of all overlay addresses.
    pub overlay_prefix: Ipv4Net,
    /// The autonomous system of the fabric (iBGP).
    pub asn: u32,
    /// How long a lease holds from each renewal, in seconds.
    pub lease_secs: u64,
    /// How long a leaf keeps everything when no hub answers, in seconds; at most half the lease.
    pub fail_static_secs: u64,
    /// The hubs.
    pub hubs: Vec<HubNode>,
}

/// The hub's answer to enroll, renew, claim and topology requests: all that the leaf derives its state from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// The leaf's name.
    pub leaf: LeafName,
    /// The invite it joined by.
    pub invite: InviteId,
    /// Its overlay address; also its BGP router id.
    pub overlay: Ipv4Addr,
    /// The WireGuard key that the hub has of it.
    pub wireguard_key: WireguardKey,
    /// What it owns.
    pub claims: BTreeMap<Ipv4Addr, Claim>,
    /// Out of which prefixes it may claim.
    pub permitted: Vec<Ipv4Net>,
    /// How many addresses it may own.
    pub max_claims: u32,
    /// The last counter that the hub accepted from it; the next request's is higher.
    pub counter: u64,
    /// How long the lease holds from this answer on, in seconds.
    pub lease_left_secs: u64,
    /// When to renew, counted from this answer, in seconds (a third of the lease's life; the leaf adds jitter).
    pub renew_after_secs: u64,
    /// When the lease ends on the hub's clock, seconds since 1970; for display, both sides show the same.
    pub valid_until: u64,
    /// The hub's clock at this answer, seconds since 1970; tells a leaf that its own is off.
    pub hub_time: u64,
    /// Hubs and constants.
    pub topology: Topology,
}

/// When to renew, in seconds from the answer: a third of the lease, spread by up to a tenth either way.
/// `spread` is 0.0 to 1.0 and picks the place in it.
pub fn renew_after_secs(lease_secs: u64, spread: f64) -> u64 {
    let third = lease_secs as f64 / 3.0;
    ((third * (0.9 + 0.2 * spread.clamp(0.0, 1.0))) as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Renewal falls at a third of the lease, a tenth of it around.
    #[test]
    fn renewal_is_at_a_third() {
        assert_eq!(renew_after_secs(86_400, 0.5), 28_800);
        assert_eq!(renew_after_secs(86_400, 0.0), 25_920);
        assert_eq!(renew_after_secs(86_400, 9.0), 31_680);
        assert_eq!(renew_after_secs(0, f64::NAN), 1);
    }
}
