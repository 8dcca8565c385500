//! Which guard (RFC 2385, RFC 5082) belongs to which neighbour's connections.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Speaker;
use crate::peer::Origin;
use crate::settings::{Guard, Md5Key};

impl Speaker {
    /// The TCP-MD5 keys by the prefixes that they are for: what listening sockets must know. A named neighbour
    /// stands here by its address, and so wins over a range that it lies in.
    pub fn md5_keys(&self) -> BTreeMap<IpNet, Md5Key> {
        let ranges = self.groups.iter().flat_map(|g| {
            let key = g.options.guard.md5.clone();
            g.source_prefixes.iter().filter_map(move |net| Some((net.trunc(), key.clone()?)))
        });
        let named = self.peers.values().filter_map(|p| match &p.origin {
            Origin::Named(n) => Some((IpNet::from(p.address), n.options.guard.md5.clone()?)),
            Origin::Dynamic { .. } => None,
        });
        ranges.chain(named).collect()
    }

    /// The guard of connections from an address: the named neighbour's, else the most specific range's.
    pub fn guard_of(&self, remote: IpAddr) -> Guard {
        let remote = remote.to_canonical();
        let named = self.peers.values().find_map(|p| match &p.origin {
            Origin::Named(n) if p.address == remote => Some(&n.options.guard),
            _ => None,
        });
        let range = || {
            let all = self.groups.iter().flat_map(|g| g.source_prefixes.iter().map(move |p| (g, p)));
            all.filter(|(_, p)| p.contains(&remote))
                .max_by_key(|(_, p)| p.prefix_len())
                .map(|(g, _)| &g.options.guard)
        };
        named.or_else(range).cloned().unwrap_or_default()
    }

    /// Counts a connection that the driver sends away for a reason of its own.
    pub fn count_refused(&mut self, why: &'static str) {
        *self.refused.entry(why).or_default() += 1;
    }
}
