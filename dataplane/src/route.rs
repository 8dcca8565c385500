//! Routes: where they lead, what they must never cover, and the lookup that the in-process path uses.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use imbl::HashMap;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::state::Wished;

/// Where a route of ours leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Wrapped in ipip to the owner's overlay address.
    Owner(Ipv4Addr),
    /// The same to one of several owners, chosen by flow.
    Owners(Owners),
    /// Straight into WireGuard (overlay prefixes).
    Wireguard,
    /// Straight into the second hub's WireGuard.
    SecondWireguard,
}

/// Two to eight owners of one prefix, each with the same share of its flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "Vec<Ipv4Addr>", try_from = "Vec<Ipv4Addr>")]
pub struct Owners {
    count: u8,
    all: [Ipv4Addr; Owners::MAX],
}

impl Owners {
    /// The most owners of one prefix.
    pub const MAX: usize = 8;

    /// The owners in ascending order, each once.
    pub fn as_slice(&self) -> &[Ipv4Addr] {
        &self.all[..usize::from(self.count)]
    }

    /// The owner of a flow with this hash.
    #[inline]
    pub fn of_flow(&self, hash: u32) -> Ipv4Addr {
        let owners = self.as_slice();
        // The upper bits are the better mixed ones.
        owners[((u64::from(hash) * owners.len() as u64) >> 32) as usize]
    }
}

impl TryFrom<Vec<Ipv4Addr>> for Owners {
    type Error = String;

    fn try_from(mut owners: Vec<Ipv4Addr>) -> Result<Owners, String> {
        owners.sort_unstable();
        owners.dedup();
        let count = owners.len();
        if !(2..=Owners::MAX).contains(&count) {
            return Err(format!("{count} owners, not 2 to {}", Owners::MAX));
        }
        let mut all = [Ipv4Addr::UNSPECIFIED; Owners::MAX];
        all[..count].copy_from_slice(&owners);
        Ok(Owners { count: count as u8, all })
    }
}

impl From<Owners> for Vec<Ipv4Addr> {
    fn from(owners: Owners) -> Vec<Ipv4Addr> {
        owners.as_slice().to_vec()
    }
}

impl Target {
    /// To `first`, or to it and the others by flow; at most [`Owners::MAX`] in all.
    pub fn owned_by(first: Ipv4Addr, others: impl IntoIterator<Item = Ipv4Addr>) -> Target {
        let all: Vec<Ipv4Addr> = std::iter::once(first).chain(others).take(Owners::MAX).collect();
        Owners::try_from(all).map_or(Target::Owner(first), Target::Owners)
    }

    /// Everyone to whom packets are wrapped.
    pub fn owners(&self) -> &[Ipv4Addr] {
        match self {
            Target::Owner(owner) => std::slice::from_ref(owner),
            Target::Owners(owners) => owners.as_slice(),
            Target::Wireguard | Target::SecondWireguard => &[],
        }
    }
}

/// Why the host needs a prefix for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProtectedPrefix {
    /// An address of this host on an interface that is not ours (the management address is one of them).
    OwnAddress,
    /// A prefix that is directly connected to an interface that is not ours.
    Connected,
    /// Where a WireGuard peer is: a route over it would put the tunnel into the tunnel.
    Endpoint,
    /// A gateway of a route that is not ours.
    Gateway,
    /// A prefix that somebody else's route in the main table names exactly.
    ForeignRoute,
    /// A prefix that no fabric may route (default, loopback, link-local, multicast).
    Reserved,
}

impl ProtectedPrefix {
    /// Kebab-case name, as in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            ProtectedPrefix::OwnAddress => "own-address",
            ProtectedPrefix::Connected => "connected",
            ProtectedPrefix::Endpoint => "endpoint",
            ProtectedPrefix::Gateway => "gateway",
            ProtectedPrefix::ForeignRoute => "foreign-route",
            ProtectedPrefix::Reserved => "reserved",
        }
    }
}

impl fmt::Display for ProtectedPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A wished route that is not installed, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// What stands in the way.
    pub reason: ProtectedPrefix,
    /// The protected prefix or address.
    pub protects: Ipv4Net,
}

/// What the host needs for itself, as seen in its addresses, routes and WireGuard endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Protection {
    /// Protected prefixes; a single address is a /32.
    pub prefixes: BTreeSet<(Ipv4Net, ProtectedPrefix)>,
}

impl Protection {
    /// Why `prefix` must not be installed, if so.
    ///
    /// A route may lie *inside* a connected prefix (the same-prefix scenario captures single addresses of it) and
    /// may lie beside it, but must not cover it; single protected addresses must not be covered at all.
    pub fn objection(&self, prefix: Ipv4Net) -> Option<Rejection> {
        if let Some(protects) = reserved(prefix) {
            return Some(Rejection { reason: ProtectedPrefix::Reserved, protects });
        }
        let hit = self.prefixes.iter().find(|(net, reason)| match reason {
            ProtectedPrefix::ForeignRoute => *net == prefix,
            _ => prefix.contains(net),
        });
        hit.map(|(protects, reason)| Rejection { reason: *reason, protects: *protects })
    }

    /// Splits the wished routes into those to install and those to refuse. The wished endpoints protect too.
    pub fn admit(&self, wished: &Wished) -> (BTreeMap<Ipv4Net, Target>, BTreeMap<Ipv4Net, Rejection>) {
        let endpoints = wished.peers().filter_map(|(_, peer)| peer.endpoint);
        let mut all = self.clone();
        for endpoint in endpoints {
            if let std::net::IpAddr::V4(address) = endpoint.ip().to_canonical() {
                all.prefixes.insert((Ipv4Net::from(address), ProtectedPrefix::Endpoint));
            }
        }
        let (mut admitted, mut rejected) = (BTreeMap::new(), BTreeMap::new());
        for (prefix, target) in &wished.routes {
            match all.objection(prefix.trunc()) {
                None => drop(admitted.insert(prefix.trunc(), *target)),
                Some(rejection) => drop(rejected.insert(prefix.trunc(), rejection)),
            }
        }
        (admitted, rejected)
    }
}

/// The reserved prefix that `prefix` touches, if any.
fn reserved(prefix: Ipv4Net) -> Option<Ipv4Net> {
    if prefix.prefix_len() == 0 {
        return Some(prefix);
    }
    let nets = [([0, 0, 0, 0], 8), ([127, 0, 0, 0], 8), ([169, 254, 0, 0], 16), ([224, 0, 0, 0], 3)];
    let mut nets = nets.into_iter().filter_map(|(octets, len)| Ipv4Net::new(octets.into(), len).ok());
    nets.find(|net| net.contains(&prefix) || prefix.contains(net))
}

/// Longest-prefix lookup for the packet path: one hash probe for host routes, a short list for the rest. A copy shares
/// what it has in common with its original.
#[derive(Debug, Clone)]
pub struct Lookup<T> {
    hosts: HashMap<u32, T>,
    /// Longest first: (network, mask, value).
    nets: Vec<(u32, u32, T)>,
}

impl<T> Default for Lookup<T> {
    fn default() -> Self {
        Self { hosts: HashMap::new(), nets: Vec::new() }
    }
}

impl<T: Clone> FromIterator<(Ipv4Net, T)> for Lookup<T> {
    fn from_iter<I: IntoIterator<Item = (Ipv4Net, T)>>(entries: I) -> Self {
        let mut lookup = Lookup::default();
        entries.into_iter().for_each(|(net, value)| drop(lookup.insert(net, value)));
        lookup
    }
}

impl<T: Clone> Lookup<T> {
    /// Sets the value of a prefix; gives the one that it had.
    pub fn insert(&mut self, net: Ipv4Net, value: T) -> Option<T> {
        let (bits, mask) = (net.network().to_bits(), net.netmask().to_bits());
        if net.prefix_len() == 32 {
            return self.hosts.insert(bits, value);
        }
        match self.place(bits, mask) {
            Ok(at) => Some(std::mem::replace(&mut self.nets[at].2, value)),
            Err(at) => {
                self.nets.insert(at, (bits, mask, value));
                None
            }
        }
    }

    /// Takes the value of a prefix out.
    pub fn remove(&mut self, net: Ipv4Net) -> Option<T> {
        let (bits, mask) = (net.network().to_bits(), net.netmask().to_bits());
        if net.prefix_len() == 32 {
            return self.hosts.remove(&bits);
        }
        self.place(bits, mask).ok().map(|at| self.nets.remove(at).2)
    }

    /// Where a prefix shorter than a host route is, or would be.
    fn place(&self, bits: u32, mask: u32) -> Result<usize, usize> {
        self.nets.binary_search_by(|(net, of, _)| (mask, bits).cmp(&(*of, *net)))
    }

    /// The value of the longest prefix that holds `address`.
    #[inline]
    pub fn find(&self, address: Ipv4Addr) -> Option<&T> {
        let bits = address.to_bits();
        self.hosts.get(&bits).or_else(|| {
            self.nets.iter().find(|(net, mask, _)| bits & mask == *net).map(|(_, _, value)| value)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Peers, PrivateKey, Wireguard, WireguardPeer};

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn host() -> Protection {
        let prefixes = [
            (net("10.81.10.10/32"), ProtectedPrefix::OwnAddress),
            (net("10.81.10.0/24"), ProtectedPrefix::Connected),
            (net("10.81.10.1/32"), ProtectedPrefix::Gateway),
            (net("192.168.7.0/24"), ProtectedPrefix::ForeignRoute),
        ];
        Protection { prefixes: prefixes.into() }
    }

    /// What a learned route may and may not cover, case by case.
    #[test]
    fn objections() {
        let cases = [
            ("10.81.10.20/32", None),
            ("10.81.10.128/25", None),
            ("10.82.10.20/32", None),
            ("10.81.10.10/32", Some(ProtectedPrefix::OwnAddress)),
            ("10.81.10.1/32", Some(ProtectedPrefix::Gateway)),
            ("10.81.10.0/24", Some(ProtectedPrefix::Connected)),
            ("10.0.0.0/8", Some(ProtectedPrefix::Connected)),
            ("0.0.0.0/0", Some(ProtectedPrefix::Reserved)),
            ("0.0.0.0/1", Some(ProtectedPrefix::Reserved)),
            ("127.0.0.5/32", Some(ProtectedPrefix::Reserved)),
            ("224.0.0.5/32", Some(ProtectedPrefix::Reserved)),
            ("169.254.169.254/32", Some(ProtectedPrefix::Reserved)),
            ("192.168.7.0/24", Some(ProtectedPrefix::ForeignRoute)),
            ("192.168.7.5/32", None),
        ];
        for (prefix, expected) in cases {
            let got = host().objection(net(prefix)).map(|r| r.reason);
            match expected {
                // Several protections can be hit by one short prefix; any of them refuses it.
                Some(ProtectedPrefix::Connected) => assert!(got.is_some(), "{prefix}"),
                _ => assert_eq!(got, expected, "{prefix}"),
            }
        }
    }

    /// An overlay route never covers a WireGuard endpoint, although the host knows nothing of it yet.
    #[test]
    fn wished_endpoints_are_protected() {
        let peer =
            WireguardPeer { endpoint: Some("203.0.113.9:51820".parse().unwrap()), ..Default::default() };
        let key = PrivateKey::from_bytes([3; 32]);
        let wireguard = Wireguard {
            private_key: key.clone(),
            listen_port: 0,
            addresses: BTreeSet::new(),
            mtu: 1420,
            peers: Peers::unit(key.public(), peer),
            former_keys: Default::default(),
        };
        let routes = [(net("203.0.113.0/24"), Target::Wireguard), (net("203.0.112.0/24"), Target::Wireguard)];
        let wished = Wished { wireguard: Some(wireguard), routes: routes.into(), ..Default::default() };
        let (admitted, rejected) = Protection::default().admit(&wished);
        assert_eq!(admitted.into_keys().collect::<Vec<_>>(), [net("203.0.112.0/24")]);
        assert_eq!(rejected[&net("203.0.113.0/24")].reason, ProtectedPrefix::Endpoint);
    }

    /// The lookup finds the longest match, host routes first.
    #[test]
    fn longest_match() {
        let table: Lookup<u8> = [(net("10.0.0.0/8"), 8), (net("10.1.0.0/16"), 16), (net("10.1.2.3/32"), 32)]
            .into_iter()
            .collect();
        let find = |a: &str| table.find(a.parse().unwrap()).copied();
        assert_eq!(find("10.1.2.3"), Some(32));
        assert_eq!(find("10.1.2.4"), Some(16));
        assert_eq!(find("10.9.9.9"), Some(8));
        assert_eq!(find("11.0.0.1"), None);
        let (mut less, copy) = (table.clone(), table);
        assert_eq!(
            (less.remove(net("10.1.0.0/16")), less.insert(net("10.1.2.3/32"), 33)),
            (Some(16), Some(32))
        );
        assert_eq!((less.insert(net("10.0.0.0/8"), 9), less.remove(net("10.2.0.0/16"))), (Some(8), None));
        let both = |a: &str| [&less, &copy].map(|table| table.find(a.parse().unwrap()).copied());
        assert_eq!(both("10.1.2.4"), [Some(9), Some(16)]);
        assert_eq!(both("10.1.2.3"), [Some(33), Some(32)]);
    }
}
