//! What differs between two maps. A hub compares those of all its leaves whenever one of them changes: it looks at all of
//! them only where the maps have nothing in common.

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

/// The keys that are in one map only or with another value, in order. What the maps share, one being a changed copy of
/// the other, is not looked at.
pub fn differing<'a, K, V>(before: &'a OrdMap<K, V>, now: &'a OrdMap<K, V>) -> impl Iterator<Item = &'a K>
where
    K: Ord,
    V: PartialEq,
{
    changed(before, now).map(|(key, _, _)| key)
}

/// The same keys with what each has in either map.
pub fn changed<'a, K, V>(
    before: &'a OrdMap<K, V>,
    now: &'a OrdMap<K, V>,
) -> impl Iterator<Item = (&'a K, Option<&'a V>, Option<&'a V>)>
where
    K: Ord,
    V: PartialEq,
{
    before.diff(now).map(|item| match item {
        DiffItem::Add(key, is) => (key, None, Some(is)),
        DiffItem::Update { old: (key, was), new: (_, is) } => (key, Some(was), Some(is)),
        DiffItem::Remove(key, was) => (key, Some(was), None),
    })
}

/// Makes `map` what `entries` say; what is so already stays shared with its copies.
pub fn bring_in_line<K, V>(map: &mut OrdMap<K, V>, entries: impl IntoIterator<Item = (K, V)>)
where
    K: Ord + Clone,
    V: Clone + PartialEq,
{
    let now: OrdMap<K, V> = entries.into_iter().collect();
    for (key, _, is) in changed(&map.clone(), &now) {
        match is {
            Some(value) => drop(map.insert(key.clone(), value.clone())),
            None => drop(map.remove(key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    use super::*;

    type Map = BTreeMap<u16, u8>;

    /// A map of many nodes, and a copy of it with some changes.
    fn two() -> impl Strategy<Value = (OrdMap<u16, u8>, OrdMap<u16, u8>)> {
        let steps = vec((0u16..400, proptest::option::of(0u8..3)), 0..60);
        (btree_map(0u16..400, 0u8..3, 0..300), steps).prop_map(|(map, steps)| {
            let before: OrdMap<u16, u8> = map.into();
            let mut now = before.clone();
            for (key, value) in steps {
                match value {
                    Some(value) => drop(now.insert(key, value)),
                    None => drop(now.remove(&key)),
                }
            }
            (before, now)
        })
    }

    fn plain(map: &OrdMap<u16, u8>) -> Map {
        map.iter().map(|(key, value)| (*key, *value)).collect()
    }

    fn looked_up(before: &Map, now: &Map) -> Vec<(u16, Option<u8>, Option<u8>)> {
        let keys: std::collections::BTreeSet<_> = before.keys().chain(now.keys()).copied().collect();
        let all = keys.into_iter().map(|key| (key, before.get(&key).copied(), now.get(&key).copied()));
        all.filter(|(_, was, is)| was != is).collect()
    }

    proptest! {
        /// Nothing that differs is passed over, said twice or put beside another key's, however much is shared.
        #[test]
        fn what_differs_is_found((before, now) in two(), other in btree_map(0u16..400, 0u8..3, 0..300)) {
            let owned = |(key, was, is): (&u16, Option<&u8>, Option<&u8>)| (*key, was.copied(), is.copied());
            let found: Vec<_> = changed(&before, &now).map(owned).collect();
            prop_assert_eq!(found, looked_up(&plain(&before), &plain(&now)));
            let found: Vec<_> = changed(&before, &OrdMap::from(&other)).map(owned).collect();
            prop_assert_eq!(found, looked_up(&plain(&before), &other));
        }

        /// A map that is brought in line is what it was told.
        #[test]
        fn brought_in_line((mut before, now) in two()) {
            let copy = before.clone();
            bring_in_line(&mut before, plain(&now));
            prop_assert_eq!(&before, &now);
            prop_assert_eq!(copy == now, copy == before);
        }
    }
}
