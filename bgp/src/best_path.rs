//! The decision process (RFC 4271 section 9.1.2, RFC 4456 section 9): which of several paths is best, and at
//! which step each other one lost.
//!
//! Steps remove paths from the whole set, as the RFC words it, so that the outcome does not depend on the order
//! of arrival, MED included. Every next hop counts as reachable: a reflector is not in the path, and a leaf
//! resolves next hops itself. All peers are internal.

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
    round.keep_lowest(Step::RouterId, |p| p.attributes.originator);
    round.keep_lowest(Step::ClusterListLength, |p| p.attributes.cluster_count);
    round.keep_lowest(Step::PeerAddress, |p| p.peer_address);
    round.keep_lowest(Step::PathId, |p| p.path_id);
    lost.iter().position(Option::is_none)
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
mod tests {
    use super::*;
    use crate::attributes::Own;
    use crate::types::Family;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn attributes(change: impl FnOnce(&mut Attributes)) -> Attributes {
        let own = Own { asn: 1, router_id: 9.into(), cluster_id: 9.into() };
        let mut a = Attributes::originated(Family::Ipv4, Ipv4Addr::new(10, 0, 0, 1), 100, &[], &own);
        change(&mut a);
        a
    }

    fn candidate(attributes: &Attributes) -> Candidate<'_> {
        let peer_address = IpAddr::from([10, 0, 0, 1]);
        Candidate { attributes, local: false, stale: false, peer_address, path_id: 0 }
    }

    #[test]
    fn each_step_decides_when_those_before_it_tie() {
        let base = attributes(|_| {});
        type Change = fn(&mut Attributes);
        let worse: [(Step, Change); 7] = [
            (Step::LongLived, |a| (a.long_lived_stale, a.local_pref) = (true, 200)),
            (Step::LocalPref, |a| a.local_pref = 99),
            (Step::AsPathLength, |a| a.as_path_len = 1),
            (Step::Origin, |a| a.origin = 1),
            (Step::Med, |a| a.med = Some(1)),
            (Step::RouterId, |a| a.originator = 10.into()),
            (Step::ClusterListLength, |a| a.cluster_count = 1),
        ];
        let mut lost = Vec::new();
        for (step, change) in worse {
            let other = attributes(change);
            assert_eq!(decide(&[candidate(&other), candidate(&base)], &mut lost), Some(1));
            assert_eq!(lost, [Some(step), None]);
        }
        type Flag = fn(&mut Candidate<'_>);
        let flags: [(Step, Flag); 4] = [
            (Step::Fresh, |c| c.stale = true),
            (Step::PeerAddress, |c| c.peer_address = [10, 0, 0, 2].into()),
            (Step::PathId, |c| c.path_id = 1),
            (Step::Local, |_| {}),
        ];
        for (step, change) in flags {
            let (mut bad, mut good) = (candidate(&base), candidate(&base));
            change(&mut bad);
            good.local = step == Step::Local;
            assert_eq!(decide(&[bad, good], &mut lost), Some(1));
            assert_eq!(lost, [Some(step), None]);
        }
        assert_eq!(decide(&[], &mut lost), None);
    }

    #[test]
    fn med_counts_only_inside_one_neighbour_as() {
        let through = |neighbor_as, med, originator: u32| {
            attributes(|a| {
                (a.neighbor_as, a.med, a.originator) = (neighbor_as, Some(med), originator.into());
            })
        };
        let (a, b, c) = (through(1, 10, 3), through(2, 5, 2), through(1, 5, 9));
        let mut lost = Vec::new();
        let all = [candidate(&a), candidate(&b), candidate(&c)];
        assert_eq!(decide(&all, &mut lost), Some(1));
        assert_eq!(lost, [Some(Step::Med), None, Some(Step::RouterId)]);
    }

    proptest! {
        #[test]
        fn the_outcome_does_not_depend_on_the_order(
            paths in proptest::collection::vec((0..3u32, 0..3u32, 0..3u8, 0..3u32, 0..3u32, 0..3u32), 1..7),
            turn in 0..7usize,
        ) {
            let all: Vec<Attributes> = paths.iter().map(|p| attributes(|a| {
                (a.local_pref, a.as_path_len, a.origin) = (p.0, p.1, p.2);
                (a.neighbor_as, a.med, a.originator) = (p.3, Some(p.4), p.5.into());
            })).collect();
            let candidates: Vec<Candidate<'_>> = all.iter().enumerate().map(|(i, a)| {
                let peer_address = IpAddr::from([10, 0, 0, i as u8]);
                Candidate { peer_address, ..candidate(a) }
            }).collect();
            let mut turned = candidates.clone();
            turned.rotate_left(turn % candidates.len());
            let mut lost = Vec::new();
            let one = decide(&candidates, &mut lost).map(|i| candidates[i].peer_address);
            prop_assert_eq!(lost.iter().filter(|l| l.is_none()).count(), 1);
            let two = decide(&turned, &mut lost).map(|i| turned[i].peer_address);
            prop_assert_eq!(one, two);
        }
    }
}
