//! The table against a naive oracle.

use super::*;
use crate::attributes::{Attributes, Own};
use crate::types::{Family, PeerKey};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

/// By source and path id: attributes, verdict, staleness.
type NaivePaths = BTreeMap<(u16, u32), (AttrId, u8, bool)>;

/// The table, and beside it the same in maps, decided by looking at everything.
struct Pair {
    table: Table<u32>,
    store: Store,
    sources: Sources,
    sets: Vec<Vec<AttrId>>,
    naive: BTreeMap<(u32, u8), NaivePaths>,
    told: BTreeMap<(u32, u8), AttrId>,
}

impl Pair {
    fn new() -> Pair {
        let own = Own { asn: 1, router_id: 9.into(), cluster_id: 9.into() };
        let mut sources = Sources::new(own.router_id);
        let mut store = Store::default();
        let mut sets = Vec::new();
        for s in 1..=4u16 {
            let address = IpAddr::from([10, 0, 0, s as u8]);
            let id = sources
                .add(PeerKey::Dynamic(address), address, u32::from(s).into(), (true, false))
                .expect("there is room");
            let mut of_source = Vec::new();
            for pref in [100, 200] {
                let next_hop = Ipv4Addr::new(10, 0, 0, s as u8);
                let mut a = Attributes::originated(Family::Ipv4, next_hop, pref, &[], &own);
                a.originator = u32::from(5 - s).into();
                of_source.push(store.insert(id, u64::from(s), &[s as u8, pref as u8], a));
                store.acquire(*of_source.last().unwrap());
            }
            sets.push(of_source);
        }
        let (naive, told) = Default::default();
        Pair { table: Table::new(RandomState::new()), store, sources, sets, naive, told }
    }

    fn flush(&mut self) {
        let told = &mut self.told;
        self.table.flush(&mut self.store, &self.sources, |_, c| {
            assert_eq!(told.get(&(c.addr, c.len)).copied(), c.old);
            assert_ne!(c.old, c.new);
            match c.new {
                Some(new) => told.insert((c.addr, c.len), new),
                None => told.remove(&(c.addr, c.len)),
            };
        });
    }

    fn check(&self) {
        let best: BTreeMap<(u32, u8), AttrId> = self
            .naive
            .iter()
            .filter_map(|(prefix, paths)| {
                let paths: Vec<_> = paths.iter().filter(|(_, (_, verdict, _))| *verdict == 0).collect();
                let candidates: Vec<Candidate<'_>> = paths
                    .iter()
                    .map(|((source, path_id), (attr, _, stale))| Candidate {
                        attributes: self.store.get(*attr).unwrap(),
                        local: false,
                        stale: *stale,
                        external: false,
                        next_hop_cost: 0,
                        peer_address: self.sources.get(SourceId(*source)).unwrap().address,
                        path_id: *path_id,
                    })
                    .collect();
                Some((*prefix, paths[decide(&candidates, &mut Vec::new())?].1.0))
            })
            .collect();
        assert_eq!(self.told, best);
        let mut scanned = BTreeMap::new();
        let mut from = Some(0);
        while let Some(at) = from {
            from = self.table.scan(at, 3, |a, l, attr| {
                assert!(scanned.insert((a, l), attr).is_none());
                if a % 2 == 0 { Scan::On } else { Scan::Enough }
            });
        }
        assert_eq!(scanned, best);
        assert_eq!(self.table.advertised_count(), best.len());
        assert_eq!(self.table.path_count(), self.naive.values().map(BTreeMap::len).sum::<usize>());
        for s in 1..=4u16 {
            let held = self.table.held(SourceId(s));
            let of = || self.naive.values().flatten().filter(|((source, _), _)| *source == s);
            assert_eq!(held.paths as usize, of().count());
            assert_eq!(held.accepted() as usize, of().filter(|(_, p)| p.1 == 0).count());
            assert_eq!(held.stale as usize, of().filter(|(_, p)| p.2).count());
            assert_eq!(self.table.of_source(SourceId(s)).count(), of().count());
            let advertised = best.values().filter(|a| self.store.source(**a) == Some(SourceId(s)));
            assert_eq!(held.advertised as usize, advertised.count());
        }
    }

    fn forget_empty(&mut self) {
        self.naive.retain(|_, paths| !paths.is_empty());
    }
}

#[derive(Debug, Clone)]
enum Op {
    Announce(u16, u32, u8, u32, usize, u8),
    Withdraw(u16, u32, u8, u32),
    Stale(u16),
    Purge(u16, bool),
    Revise(u16, u8),
    Flush,
}

fn op() -> impl Strategy<Value = Op> {
    let source = 1..=4u16;
    prop_oneof![
        8 => (source.clone(), 0..6u32, 30..=32u8, 0..2u32, 0..2usize, 0..4u8)
            .prop_map(|(s, a, l, id, set, v)| Op::Announce(s, a << 8, l, id, set, v.saturating_sub(2))),
        4 => (source.clone(), 0..6u32, 30..=32u8, 0..2u32)
            .prop_map(|(s, a, l, id)| Op::Withdraw(s, a << 8, l, id)),
        1 => source.clone().prop_map(Op::Stale),
        1 => (source.clone(), any::<bool>()).prop_map(|(s, b)| Op::Purge(s, b)),
        1 => (source, 30..=32u8).prop_map(|(s, l)| Op::Revise(s, l)),
        2 => Just(Op::Flush),
    ]
}

proptest! {
    #[test]
    fn the_table_agrees_with_a_naive_one(ops in proptest::collection::vec(op(), 1..120)) {
        let mut p = Pair::new();
        for op in ops {
            match op {
                Op::Announce(s, addr, len, id, set, verdict) => {
                    let attr = p.sets[usize::from(s) - 1][set];
                    p.table.announce(&mut p.store, SourceId(s), (addr, len, id), attr, verdict);
                    p.naive.entry((addr, len)).or_default().insert((s, id), (attr, verdict, false));
                }
                Op::Withdraw(s, addr, len, id) => {
                    let was = p.naive.get_mut(&(addr, len)).and_then(|n| n.remove(&(s, id))).is_some();
                    prop_assert_eq!(p.table.withdraw(&mut p.store, SourceId(s), (addr, len, id)), was);
                }
                Op::Stale(s) => {
                    p.table.mark_stale(SourceId(s));
                    let all = p.naive.values_mut().flatten();
                    all.filter(|(k, _)| k.0 == s).for_each(|(_, path)| path.2 = true);
                }
                Op::Purge(s, only_stale) => {
                    p.table.purge(&mut p.store, SourceId(s), only_stale);
                    for n in p.naive.values_mut() {
                        n.retain(|k, path| k.0 != s || (only_stale && !path.2));
                    }
                }
                Op::Revise(s, reject_len) => {
                    let judge = |len: u8| if len == reject_len { 3 } else { 0 };
                    p.table.revise(&p.store, SourceId(s), |_, len, _, _| judge(len));
                    for ((_, len), n) in &mut p.naive {
                        n.iter_mut().filter(|(k, _)| k.0 == s).for_each(|(_, path)| path.1 = judge(*len));
                    }
                }
                Op::Flush => {
                    p.flush();
                    p.forget_empty();
                    p.check();
                }
            }
        }
        p.flush();
        p.forget_empty();
        p.check();
        for s in 1..=4 {
            p.table.purge(&mut p.store, SourceId(s), false);
        }
        p.flush();
        prop_assert_eq!(p.table.prefixes().count(), 0);
    }
}
