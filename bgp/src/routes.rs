//! A map of routes that is cheap to publish: a copy shares everything, and a change copies only its own share.
//!
//! Who reads the best paths keeps them as they were for as long as it likes; the speaker changes its own copy
//! meanwhile. A plain map would have to be copied whole for that at every change.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::ops::Index;
use std::sync::Arc;

use crate::types::Prefix;
use crate::view::BestPath;

/// Shares of the map. With 100,000 routes a change copies some 400 entries.
const SHARES: usize = 256;

type Share = BTreeMap<Prefix, BestPath>;

/// Best paths by prefix. Cloning costs `SHARES` reference counts, a change the size of one share.
#[derive(Debug, Clone)]
pub struct Routes {
    shares: Vec<Arc<Share>>,
    len: usize,
}

impl Default for Routes {
    fn default() -> Routes {
        Routes { shares: vec![Arc::default(); SHARES], len: 0 }
    }
}

/// Prefixes come from hubs that the leaf trusts with its routes already: the hash spreads, it does not defend.
fn share(prefix: &Prefix) -> usize {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(prefix) as usize % SHARES
}

impl Routes {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The path of a prefix.
    pub fn get(&self, prefix: &Prefix) -> Option<&BestPath> {
        self.shares[share(prefix)].get(prefix)
    }

    /// Sets or removes the path of a prefix.
    pub fn set(&mut self, prefix: Prefix, path: Option<BestPath>) {
        let share = &mut self.shares[share(&prefix)];
        if share.get(&prefix) == path.as_ref() {
            return;
        }
        let share = Arc::make_mut(share);
        let (came, went) = match path {
            Some(path) => (1, usize::from(share.insert(prefix, path).is_some())),
            None => (0, usize::from(share.remove(&prefix).is_some())),
        };
        self.len = self.len + came - went;
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Prefix, &BestPath)> + Clone {
        self.shares.iter().flat_map(|s| s.iter())
    }

    /// All paths, in no order.
    pub fn values(&self) -> impl Iterator<Item = &BestPath> {
        self.iter().map(|(_, path)| path)
    }
}

impl FromIterator<(Prefix, BestPath)> for Routes {
    fn from_iter<I: IntoIterator<Item = (Prefix, BestPath)>>(all: I) -> Routes {
        let mut routes = Routes::default();
        all.into_iter().for_each(|(prefix, path)| routes.set(prefix, Some(path)));
        routes
    }
}

impl Index<&Prefix> for Routes {
    type Output = BestPath;

    fn index(&self, prefix: &Prefix) -> &BestPath {
        &self.shares[share(prefix)][prefix]
    }
}

impl PartialEq for Routes {
    fn eq(&self, other: &Routes) -> bool {
        self.len == other.len
            && self.shares.iter().zip(&other.shares).all(|(a, b)| Arc::ptr_eq(a, b) || a == b)
    }
}

impl Eq for Routes {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn path(local_pref: u32) -> BestPath {
        BestPath {
            next_hop: Ipv4Addr::LOCALHOST.into(),
            others: Arc::new([]),
            originator: Ipv4Addr::LOCALHOST,
            communities: Arc::new([]),
            local_pref,
            local: false,
            stale: false,
            from: None,
        }
    }

    proptest! {
        /// Any changes leave what a plain map would hold, and a copy made before is not touched by them.
        #[test]
        fn behaves_as_a_map_and_copies_stay(
            changes in proptest::collection::vec((0..40u32, proptest::option::of(0..3u32)), 0..200),
            copied_at in 0..200usize,
        ) {
            let mut plain = BTreeMap::new();
            let mut routes = Routes::default();
            let mut copies = None;
            for (i, (host, change)) in changes.iter().enumerate() {
                if i == copied_at {
                    copies = Some((plain.clone(), routes.clone()));
                }
                let prefix = Prefix::host(Ipv4Addr::from(*host).into());
                routes.set(prefix, change.map(path));
                match change {
                    Some(pref) => drop(plain.insert(prefix, path(*pref))),
                    None => drop(plain.remove(&prefix)),
                }
            }
            for (plain, routes) in copies.into_iter().chain([(plain, routes)]) {
                prop_assert_eq!(routes.len(), plain.len());
                prop_assert_eq!(routes.is_empty(), plain.is_empty());
                for (prefix, path) in &plain {
                    prop_assert_eq!(routes.get(prefix), Some(path));
                }
                prop_assert_eq!(routes, plain.into_iter().collect::<Routes>());
            }
        }
    }

    /// A change of one route leaves all other shares shared with the copy that a reader holds.
    #[test]
    fn a_change_copies_one_share() {
        let all = (0..10_000u32).map(|i| (Prefix::host(Ipv4Addr::from(i).into()), path(1)));
        let mut routes: Routes = all.collect();
        let held = routes.clone();
        routes.set(Prefix::host(Ipv4Addr::from(77).into()), Some(path(2)));
        let same = routes.shares.iter().zip(&held.shares).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert_eq!(same, SHARES - 1);
        assert!(routes.shares.iter().all(|s| s.len() < 100), "spread");
    }
}
