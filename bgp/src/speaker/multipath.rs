//! Equal paths (multipath): which are used beside the best one, and how far next hops are.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::Speaker;
use crate::best_path::{Step, equal};
use crate::rib::PathInfo;
use crate::store::Costs;

/// What is said of a path that is used beside the best.
pub(super) const EQUAL: &str = "equal to the best up to the tie-breaks, used beside it";

impl Speaker {
    /// Tells how far next hops are, by the most specific prefix that holds them; lower is nearer. Every prefix with
    /// several paths is decided anew. Told nothing, all next hops are alike.
    pub fn set_next_hop_costs(&mut self, costs: Vec<(IpNet, u32)>) {
        let costs = Costs::new(costs);
        if costs != self.sources.costs {
            self.sources.costs = costs;
            self.v4.mark_contested();
            self.v6.mark_contested();
        }
    }

    /// Marks what is used beside the best of these, all paths of one prefix.
    pub(super) fn mark_equal(&self, infos: &mut [PathInfo]) {
        let max = usize::from(self.config.maximum_paths);
        if max < 2 {
            return;
        }
        let accepted: Vec<usize> = (0..infos.len()).filter(|i| infos[*i].rejected.is_none()).collect();
        let Some(paths) = accepted.iter().map(|i| self.usable(&infos[*i])).collect::<Option<Vec<_>>>() else {
            return;
        };
        let lost: Vec<Option<Step>> = accepted.iter().map(|i| infos[*i].lost).collect();
        for beside in equal(&paths, &lost, max) {
            infos[accepted[beside]].equal = true;
        }
    }

    /// A path's next hop, and whether it may be one of several.
    fn usable(&self, info: &PathInfo) -> Option<(IpAddr, bool)> {
        let next_hop = self.store.get(info.attr)?.next_hop.to_canonical();
        let peer = self.sources.get(info.source)?.peer.as_ref().and_then(|key| self.peers.get(key));
        Some((next_hop, peer.is_some_and(|p| p.options().multipath)))
    }

    /// The next hops of the paths that are used beside the best one.
    pub(super) fn equal_next_hops(&self, infos: &[PathInfo]) -> Arc<[IpAddr]> {
        let beside = infos.iter().filter(|i| i.equal).filter_map(|i| self.store.get(i.attr));
        let mut all: Vec<IpAddr> = beside.map(|a| a.next_hop.to_canonical()).collect();
        all.sort_unstable();
        all.into()
    }
}
