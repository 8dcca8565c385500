//! Two sorted maps side by side: a hub compares those of all its leaves whenever one of them changes, and looks nothing up.

use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Each key of either map once, in order, with what it has in each.
pub fn side_by_side<'a, K: Ord, A, B>(
    first: &'a BTreeMap<K, A>,
    second: &'a BTreeMap<K, B>,
) -> impl Iterator<Item = (&'a K, Option<&'a A>, Option<&'a B>)> {
    let (mut first, mut second) = (first.iter().peekable(), second.iter().peekable());
    std::iter::from_fn(move || {
        let order = match (first.peek(), second.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        let a = if order.is_le() { first.next() } else { None };
        let b = if order.is_ge() { second.next() } else { None };
        let key = a.map(|(key, _)| key).or(b.map(|(key, _)| key))?;
        Some((key, a.map(|(_, value)| value), b.map(|(_, value)| value)))
    })
}

#[cfg(test)]
mod tests {
    use proptest::collection::btree_map;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Nothing is passed over, said twice or put beside another key's.
        #[test]
        fn every_key_once(first in btree_map(0u8..20, 0u8..4, 0..12), second in btree_map(0u8..20, 0u8..4, 0..12)) {
            let walked: Vec<_> = side_by_side(&first, &second).collect();
            let keys: std::collections::BTreeSet<_> = first.keys().chain(second.keys()).collect();
            let looked_up: Vec<_> = keys.into_iter().map(|key| (key, first.get(key), second.get(key))).collect();
            prop_assert_eq!(walked, looked_up);
        }
    }
}
