use super::*;
use crate::attributes::Own;
use crate::types::Family;
use proptest::prelude::*;
use std::net::Ipv4Addr;

/// A path with everything that a step looks at.
#[derive(Debug, Clone)]
struct Path {
    attributes: Attributes,
    local: bool,
    stale: bool,
    external: bool,
    next_hop_cost: u32,
    peer_address: IpAddr,
    path_id: u32,
}

fn path() -> Path {
    let own = Own { asn: 1, router_id: 9.into(), cluster_id: 9.into() };
    Path {
        attributes: Attributes::originated(Family::Ipv4, Ipv4Addr::new(10, 0, 0, 1), 100, &[], &own),
        local: false,
        stale: false,
        external: false,
        next_hop_cost: 10,
        peer_address: IpAddr::from([10, 0, 0, 1]),
        path_id: 0,
    }
}

impl Path {
    fn candidate(&self) -> Candidate<'_> {
        Candidate {
            attributes: &self.attributes,
            local: self.local,
            stale: self.stale,
            external: self.external,
            next_hop_cost: self.next_hop_cost,
            peer_address: self.peer_address,
            path_id: self.path_id,
        }
    }
}

/// Makes a path worse at one step and nowhere before it.
fn worsen(step: Step, p: &mut Path) {
    let a = &mut p.attributes;
    match step {
        Step::LongLived => a.long_lived_stale = true,
        Step::LocalPref => a.local_pref = 99,
        // Being learned is what is worse: `better` makes the other one our own.
        Step::Local => {}
        Step::AsPathLength => a.as_path_len = 1,
        Step::Origin => a.origin = 1,
        Step::Med => a.med = Some(1),
        Step::Fresh => p.stale = true,
        Step::External => {}
        Step::NextHopCost => p.next_hop_cost = 20,
        Step::RouterId => a.originator = 10.into(),
        Step::ClusterListLength => a.cluster_count = 1,
        Step::PeerAddress => p.peer_address = [10, 0, 0, 2].into(),
        Step::PathId => p.path_id = 1,
    }
}

/// Makes a path better at one step.
fn better(step: Step, p: &mut Path) {
    match step {
        Step::Local => p.local = true,
        Step::External => p.external = true,
        _ => {}
    }
}

/// Each step decides once, between two paths that tie at all steps before it, although the winner is worse at every
/// step after it, in both orders of arrival.
#[test]
fn each_step_decides_when_those_before_it_tie() {
    let mut lost = Vec::new();
    for (n, step) in Step::ALL.into_iter().enumerate() {
        let (mut bad, mut good) = (path(), path());
        worsen(step, &mut bad);
        better(step, &mut good);
        for later in &Step::ALL[n + 1..] {
            worsen(*later, &mut good);
            better(*later, &mut bad);
        }
        assert_eq!(decide(&[bad.candidate(), good.candidate()], &mut lost), Some(1), "{step:?}");
        assert_eq!(lost, [Some(step), None]);
        assert_eq!(decide(&[good.candidate(), bad.candidate()], &mut lost), Some(0), "{step:?}");
        assert_eq!(lost, [None, Some(step)]);
    }
    assert_eq!(decide(&[], &mut lost), None);
}

/// The list of steps is in the order in which they decide, and each says in its own words what it keeps and where
/// that is written.
#[test]
fn every_step_has_its_words() {
    assert!(Step::ALL.is_sorted());
    let words: std::collections::BTreeSet<_> = Step::ALL.iter().map(|s| (s.as_str(), s.rule())).collect();
    assert_eq!(words.len(), Step::ALL.len());
}

#[test]
fn med_counts_only_inside_one_neighbour_as() {
    let through = |neighbor_as, med, originator: u32| {
        let mut p = path();
        (p.attributes.neighbor_as, p.attributes.med) = (neighbor_as, Some(med));
        p.attributes.originator = originator.into();
        p
    };
    let (a, b, c) = (through(1, 10, 3), through(2, 5, 2), through(1, 5, 9));
    let mut lost = Vec::new();
    let all = [a.candidate(), b.candidate(), c.candidate()];
    assert_eq!(decide(&all, &mut lost), Some(1));
    assert_eq!(lost, [Some(Step::Med), None, Some(Step::RouterId)]);
}

/// What is equal: only what ties, is permitted, and leads elsewhere; never more than permitted.
#[test]
fn equal_paths() {
    let hop = |n: u8| IpAddr::from([10, 255, 0, n]);
    let tie = Some(Step::RouterId);
    let lost = [None, tie, tie, Some(Step::PeerAddress), Some(Step::LocalPref), Some(Step::NextHopCost)];
    let paths = [3, 9, 4, 4, 5, 6].map(|n| (hop(n), true));
    assert_eq!(equal(&paths, &lost, 8), [3, 1], "one of the two through .4, the later one; .9");
    assert_eq!(equal(&paths, &lost, 2), [3]);
    assert!(equal(&paths, &lost, 1).is_empty());
    let only_best = paths.map(|(h, _)| (h, h == hop(3)));
    assert!(equal(&only_best, &lost, 8).is_empty(), "the others may not be one of several");
    let not_best = paths.map(|(h, _)| (h, h != hop(3)));
    assert!(equal(&not_best, &lost, 8).is_empty(), "the best may not be one of several");
    let same = [(hop(3), true), (hop(3), true)];
    assert!(equal(&same, &[None, tie], 8).is_empty(), "two reflectors, one next hop");
}

prop_compose! {
    fn any_path()(
        first in (0..3u32, 0..2u32, 0..2u8, 0..3u32, 0..3u32),
        then in (0..3u32, any::<bool>(), 0..6u8, any::<bool>(), 0..2u32, 0..2u32),
    ) -> Path {
        let mut p = path();
        let a = &mut p.attributes;
        (a.local_pref, a.as_path_len, a.origin, a.neighbor_as) = (first.0, first.1, first.2, first.3);
        (a.med, a.originator, a.long_lived_stale) = (Some(first.4), then.0.into(), then.2 == 5);
        (a.cluster_count, p.stale, p.external, p.next_hop_cost) = (then.5, then.1, then.3, then.4);
        p
    }
}

proptest! {
    /// Any order of arrival chooses the same path, drops each other one at the same step, and finds the same next
    /// hops equal.
    #[test]
    fn the_outcome_does_not_depend_on_the_order(
        mut paths in proptest::collection::vec(any_path(), 1..7),
        hops in proptest::collection::vec(0..4u8, 7),
        order in Just((0..7usize).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        for (i, p) in paths.iter_mut().enumerate() {
            p.peer_address = IpAddr::from([10, 0, 0, i as u8]);
        }
        let one: Vec<usize> = (0..paths.len()).collect();
        let other: Vec<usize> = order.into_iter().filter(|i| *i < paths.len()).collect();
        let outcome = |order: &[usize]| {
            let candidates: Vec<_> = order.iter().map(|i| paths[*i].candidate()).collect();
            let mut lost = Vec::new();
            let best = decide(&candidates, &mut lost).map(|i| order[i]);
            let next: Vec<_> = order.iter().map(|i| (IpAddr::from([10, 255, 0, hops[*i]]), true)).collect();
            let equal: Vec<IpAddr> = equal(&next, &lost, 3).into_iter().map(|i| next[i].0).collect();
            let mut steps: Vec<_> = order.iter().copied().zip(lost).collect();
            steps.sort_unstable_by_key(|(i, _)| *i);
            (best, steps, equal)
        };
        let (first, second) = (outcome(&one), outcome(&other));
        prop_assert_eq!(first.1.iter().filter(|(_, lost)| lost.is_none()).count(), 1);
        prop_assert_eq!(first, second);
    }
}
