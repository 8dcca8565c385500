//! The decision process (RFC 4271 section 9.1.2, RFC 4456 section 9): which of several paths is best, and at
//! which step each other one lost.
//!
//! Steps remove paths from the whole set, as the RFC words it, so that the outcome does not depend on the order
//! of arrival, MED included. Every next hop counts as reachable: a reflector is not in the path, and a leaf
//! resolves next hops itself; how far one is, a leaf tells ([`crate::store::Costs`]).
//!
//! Several paths through different next hops may tie up to [`Step::is_tie_break`]: those are [`equal`], and a leaf
//! that is told to may use them beside the best one.

use std::net::IpAddr;

use crate::attributes::Attributes;

/// One accepted path.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Its attributes.
    pub attributes: &'a Attributes,
    /// Whether we originate it.
    pub local: bool,
    /// Whether it is kept from a session that was lost.
    pub stale: bool,
    /// Whether its peer is of another AS.
    pub external: bool,
    /// How far its next hop is, lower is nearer; the same for all where nobody tells.
    pub next_hop_cost: u32,
    /// The address of the peer that it came from.
    pub peer_address: IpAddr,
    /// Its path identifier (RFC 7911), 0 without ADD-PATH.
    pub path_id: u32,
}

/// A step of the decision, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// One without the mark LLGR_STALE before any with it (RFC 9494 section 4.4).
    LongLived,
    /// Highest LOCAL_PREF.
    LocalPref,
    /// Our own before a learned one.
    Local,
    /// Shortest AS_PATH.
    AsPathLength,
    /// Lowest ORIGIN.
    Origin,
    /// Lowest MED among paths through the same neighbour AS.
    Med,
    /// One from a live session before a stale one (ours; identical routes of two reflectors meet here).
    Fresh,
    /// One of an external peer before one of an internal peer.
    External,
    /// The nearest next hop.
    NextHopCost,
    /// Lowest originator, or router id.
    RouterId,
    /// Shortest CLUSTER_LIST.
    ClusterListLength,
    /// Lowest peer address.
    PeerAddress,
    /// Lowest path identifier.
    PathId,
}

impl Step {
    /// Every step, in order.
    pub const ALL: [Step; 13] = [
        Step::LongLived,
        Step::LocalPref,
        Step::Local,
        Step::AsPathLength,
        Step::Origin,
        Step::Med,
        Step::Fresh,
        Step::External,
        Step::NextHopCost,
        Step::RouterId,
        Step::ClusterListLength,
        Step::PeerAddress,
        Step::PathId,
    ];

    /// Whether the step says nothing of how good a path is, and only makes the choice definite.
    pub fn is_tie_break(self) -> bool {
        self >= Step::RouterId
    }

    /// The step in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Step::LongLived => "before long-lived stale",
            Step::LocalPref => "highest LOCAL_PREF",
            Step::Local => "originated here",
            Step::AsPathLength => "shortest AS_PATH",
            Step::Origin => "lowest ORIGIN",
            Step::Med => "lowest MED",
            Step::Fresh => "live before stale",
            Step::External => "external before internal",
            Step::NextHopCost => "nearest next hop",
            Step::RouterId => "lowest originator or router id",
            Step::ClusterListLength => "shortest CLUSTER_LIST",
            Step::PeerAddress => "lowest peer address",
            Step::PathId => "lowest path id",
        }
    }
}

/// Picks the best of `paths`; `lost` receives for each path the step at which it went, `None` for the best.
/// Returns `None` only for no paths at all.
pub fn decide(paths: &[Candidate<'_>], lost: &mut Vec<Option<Step>>) -> Option<usize> {
    lost.clear();
    lost.resize(paths.len(), None);
    let mut round = Round { paths, lost, left: paths.len() };
    round.keep_lowest(Step::LongLived, |p| p.attributes.long_lived_stale);
    round.keep_lowest(Step::LocalPref, |p| u32::MAX - p.attributes.local_pref);
    round.keep_lowest(Step::Local, |p| !p.local);
    round.keep_lowest(Step::AsPathLength, |p| p.attributes.as_path_len);
    round.keep_lowest(Step::Origin, |p| p.attributes.origin);
    round.lose_by_med();
    round.keep_lowest(Step::Fresh, |p| p.stale);
    round.keep_lowest(Step::External, |p| !p.external);
    round.keep_lowest(Step::NextHopCost, |p| p.next_hop_cost);
    round.keep_lowest(Step::RouterId, |p| p.attributes.originator);
    round.keep_lowest(Step::ClusterListLength, |p| p.attributes.cluster_count);
    round.keep_lowest(Step::PeerAddress, |p| p.peer_address);
    round.keep_lowest(Step::PathId, |p| p.path_id);
    lost.iter().position(Option::is_none)
}

/// Which of `paths` may be used beside the best one: equal to it up to the tie-breaks, permitted, and each through a
/// next hop of its own. At most `max` next hops in all, the best path's and then the lowest; in that order. `lost` is
/// as [`decide`] left it; each path comes with its next hop and whether it may be one of several.
pub fn equal(paths: &[(IpAddr, bool)], lost: &[Option<Step>], max: usize) -> Vec<usize> {
    let Some(best) = lost.iter().position(Option::is_none) else { return Vec::new() };
    if max < 2 || !paths[best].1 {
        return Vec::new();
    }
    let ties = |i: &usize| lost[*i].is_some_and(Step::is_tie_break) && paths[*i].1;
    let mut others: Vec<usize> = (0..paths.len()).filter(ties).collect();
    // The step at which a path lost breaks the tie among paths with one next hop, then the place: what is used is
    // the next hop, so that the outcome is the same for any order of arrival.
    others.sort_by_key(|i| (paths[*i].0, std::cmp::Reverse(lost[*i])));
    others.dedup_by_key(|i| paths[*i].0);
    others.retain(|i| paths[*i].0 != paths[best].0);
    others.truncate(max - 1);
    others
}

struct Round<'a, 'p> {
    paths: &'a [Candidate<'p>],
    lost: &'a mut [Option<Step>],
    left: usize,
}

impl Round<'_, '_> {
    /// Removes every path whose `key` is not the lowest.
    fn keep_lowest<K: Ord>(&mut self, step: Step, key: impl Fn(&Candidate<'_>) -> K) {
        if self.left < 2 {
            return;
        }
        let alive = self.paths.iter().zip(self.lost.iter()).filter(|(_, lost)| lost.is_none());
        let Some(lowest) = alive.map(|(p, _)| key(p)).min() else { return };
        self.lose(step, |p| key(p) > lowest);
    }

    /// Removes every path for which another one through the same neighbour AS has a lower MED.
    fn lose_by_med(&mut self) {
        if self.left < 2 {
            return;
        }
        let med = |p: &Candidate<'_>| p.attributes.med.unwrap_or(0);
        let mut lowest: Vec<(u32, u32)> = Vec::with_capacity(4);
        for (path, _) in self.paths.iter().zip(self.lost.iter()).filter(|(_, lost)| lost.is_none()) {
            match lowest.iter_mut().find(|(neighbor, _)| *neighbor == path.attributes.neighbor_as) {
                Some((_, m)) => *m = med(path).min(*m),
                None => lowest.push((path.attributes.neighbor_as, med(path))),
            }
        }
        self.lose(Step::Med, |p| {
            lowest.iter().any(|(neighbor, m)| *neighbor == p.attributes.neighbor_as && med(p) > *m)
        });
    }

    fn lose(&mut self, step: Step, loses: impl Fn(&Candidate<'_>) -> bool) {
        for (path, lost) in self.paths.iter().zip(self.lost.iter_mut()) {
            if lost.is_none() && loses(path) {
                *lost = Some(step);
                self.left -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests;
