//! Which leaves have taken fresh WireGuard keys so lately that they may still use the former ones. Pure: the time comes
//! in.
//!
//! A hub that knows a leaf's fresh key leaves the former one in force until the leaf calls with the fresh one: the leaf
//! has to hear the answer first, or, at the other hub, has to hear that this one knows the key too.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dataplane::state::PublicKey;
use dataplane::walk::changed;
use enrollment::identity::{LeafName, WireguardKey};
use enrollment::registry::Admissions;

/// For how long a former key holds at most: who has not called by then (another machine that replaces a living one, and
/// never comes) is not going to.
pub(crate) const LONGEST: Duration = Duration::from_secs(3);

/// The former keys that hold.
#[derive(Debug, Default)]
pub struct Held(BTreeMap<LeafName, Vec<Kept>>);

#[derive(Debug, Clone, Copy)]
struct Kept {
    former: WireguardKey,
    until: Instant,
}

impl Held {
    /// Keeps the key of each leaf that has another one than before. A leaf that is not admitted any more has none.
    pub fn hear(&mut self, before: &Admissions, now: &Admissions, at: Instant) {
        self.0.retain(|name, _| now.leaves.contains_key(name));
        for (name, was, is) in changed(&before.leaves, &now.leaves) {
            let (Some(former), Some(leaf)) = (was.map(|leaf| leaf.wireguard_key), is) else { continue };
            if former != leaf.wireguard_key {
                self.0.entry(name.clone()).or_default().push(Kept { former, until: at + LONGEST });
            }
        }
    }

    /// Lets go the keys whose time is up, and gives the leaves' present keys, each with the former ones that went.
    pub fn let_go(&mut self, now: &Admissions, at: Instant) -> BTreeMap<PublicKey, Vec<PublicKey>> {
        let mut gone: BTreeMap<PublicKey, Vec<PublicKey>> = BTreeMap::new();
        self.0.retain(|name, kept| {
            let Some(leaf) = now.leaves.get(name) else { return false };
            let fresh = PublicKey(leaf.wireguard_key.0);
            for over in kept.extract_if(.., |kept| kept.until <= at) {
                gone.entry(fresh).or_default().push(PublicKey(over.former.0));
            }
            !kept.is_empty()
        });
        gone
    }

    /// When the next key has held for long enough.
    pub fn next(&self) -> Option<Instant> {
        self.0.values().flatten().map(|kept| kept.until).min()
    }

    /// The former keys that hold, the latest first.
    pub fn keys(&self) -> BTreeMap<LeafName, Vec<WireguardKey>> {
        let keys = |kept: &Vec<Kept>| kept.iter().rev().map(|kept| kept.former).collect();
        self.0.iter().map(|(name, kept)| (name.clone(), keys(kept))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::hub::tests::admissions;

    const OLD: WireguardKey = WireguardKey([2; 32]);
    const FRESH: WireguardKey = WireguardKey([7; 32]);
    const FRESHER: WireguardKey = WireguardKey([8; 32]);

    fn aws() -> LeafName {
        "aws".parse().unwrap()
    }

    /// The same with another key of aws.
    fn rotated(before: &Admissions, key: WireguardKey) -> Admissions {
        let mut now = before.clone();
        Arc::make_mut(now.leaves.get_mut(&aws()).unwrap()).wireguard_key = key;
        now
    }

    /// A former key holds for its time, and no longer because another one follows it.
    #[test]
    fn a_former_key_holds_for_its_time() {
        let before = admissions(&[("aws", 2, &[]), ("oci", 3, &[])]);
        let (now, then) = (rotated(&before, FRESH), rotated(&before, FRESHER));
        let begin = Instant::now();
        let mut held = Held::default();
        held.hear(&now, &now, begin);
        assert_eq!((held.keys(), held.next()), (BTreeMap::new(), None));
        held.hear(&before, &now, begin);
        assert_eq!((held.keys(), held.next()), ([(aws(), vec![OLD])].into(), Some(begin + LONGEST)));
        held.hear(&now, &then, begin + LONGEST / 2);
        assert_eq!((held.keys(), held.next()), ([(aws(), vec![FRESH, OLD])].into(), Some(begin + LONGEST)));
        assert_eq!(held.let_go(&then, begin), BTreeMap::new());
        let present = PublicKey(FRESHER.0);
        assert_eq!(held.let_go(&then, begin + LONGEST), [(present, vec![PublicKey(OLD.0)])].into());
        assert_eq!(held.keys(), [(aws(), vec![FRESH])].into());
        assert_eq!(held.let_go(&then, begin + LONGEST * 2), [(present, vec![PublicKey(FRESH.0)])].into());
        assert_eq!((held.keys(), held.next()), (BTreeMap::new(), None));
    }

    /// A leaf that is revoked has no key at all from that moment.
    #[test]
    fn revocation_is_immediate() {
        let before = admissions(&[("aws", 2, &[])]);
        let (now, begin) = (rotated(&before, FRESH), Instant::now());
        let mut held = Held::default();
        held.hear(&before, &now, begin);
        held.hear(&now, &admissions(&[]), begin);
        assert_eq!(held.keys(), BTreeMap::new());
    }
}
