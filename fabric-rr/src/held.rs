//! Which leaves' tunnels still have a former WireGuard key, though the registry knows a fresh one. Pure: what leaves
//! have proved here, who has a session, and the time come in.
//!
//! A leaf with two hubs says to one of them that it has fresh keys; the other learns it from that one. It changes its own
//! tunnel with the leaf when the leaf, which asks for it through that tunnel, knows that it may.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dataplane::state::PublicKey;
use enrollment::identity::{LeafName, WireguardKey};
use enrollment::registry::Admissions;
use tokio::sync::Notify;

use crate::hub;

/// For how long a tunnel keeps a former key at most: who has not asked by then (another machine, a program of an older
/// version) is not going to.
pub(crate) const LONGEST: Duration = Duration::from_secs(2);

/// The tunnels that keep a former key.
#[derive(Debug, Default)]
pub struct Held(BTreeMap<LeafName, Kept>);

#[derive(Debug)]
struct Kept {
    former: WireguardKey,
    until: Instant,
}

impl Held {
    /// Keeps the key of each tunnel whose leaf has another one than before. A leaf that is not admitted any more has no
    /// tunnel at all.
    pub fn hear(&mut self, before: &Admissions, now: &Admissions, at: Instant) {
        self.0.retain(|name, _| now.leaves.contains_key(name));
        for (name, was, is) in hub::changed(&before.leaves, &now.leaves) {
            let (Some(former), Some(leaf)) = (was.map(|leaf| leaf.wireguard_key), is) else { continue };
            if former != leaf.wireguard_key {
                self.0.entry(name.clone()).or_insert(Kept { former, until: at + LONGEST });
            }
        }
    }

    /// Lets go the tunnels that change now, and gives their new keys, each with the former one: their leaves have proved
    /// the new key here, or have no session here that could be disturbed, or had time enough.
    pub fn let_go(
        &mut self,
        now: &Admissions,
        proved: impl Fn(&LeafName) -> Option<WireguardKey>,
        established: &BTreeSet<IpAddr>,
        at: Instant,
    ) -> BTreeMap<PublicKey, PublicKey> {
        let mut changing = BTreeMap::new();
        self.0.retain(|name, kept| {
            let Some(leaf) = now.leaves.get(name) else { return false };
            let lives = established.contains(&IpAddr::V4(leaf.overlay));
            let keeps = lives && at < kept.until && proved(name) != Some(leaf.wireguard_key);
            if !keeps && kept.former != leaf.wireguard_key {
                changing.insert(PublicKey(leaf.wireguard_key.0), PublicKey(kept.former.0));
            }
            keeps
        });
        changing
    }

    /// When the next tunnel has kept its former key for long enough.
    pub fn next(&self) -> Option<Instant> {
        self.0.values().map(|kept| kept.until).min()
    }

    /// The former keys in force.
    pub fn keys(&self) -> BTreeMap<LeafName, WireguardKey> {
        self.0.iter().map(|(name, kept)| (name.clone(), kept.former)).collect()
    }
}

/// The key that each leaf proved last at this hub; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Proved {
    keys: Arc<Mutex<BTreeMap<LeafName, WireguardKey>>>,
    news: Arc<Notify>,
}

impl Proved {
    /// A leaf has proved this key.
    pub(crate) fn hear(&self, leaf: &LeafName, key: WireguardKey) {
        // Nearly every request is by the same key as the one before.
        if self.lock().insert(leaf.clone(), key) != Some(key) {
            self.news.notify_one();
        }
    }

    /// What this leaf proved last.
    pub(crate) fn of(&self, leaf: &LeafName) -> Option<WireguardKey> {
        self.lock().get(leaf).copied()
    }

    /// Ends when a leaf has proved another key than before since this was last awaited.
    pub(crate) async fn changed(&self) {
        self.news.notified().await;
    }

    /// Forgets leaves that are gone, once they are many.
    pub(crate) fn forget(&self, now: &Admissions) {
        let mut keys = self.lock();
        if keys.len() > 2 * now.leaves.len() + 16 {
            keys.retain(|name, _| now.leaves.contains_key(name));
        }
    }

    /// A poisoned lock only means that a holder panicked between two plain map operations.
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<LeafName, WireguardKey>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::tests::admissions;

    const OLD: WireguardKey = WireguardKey([2; 32]);
    const FRESH: WireguardKey = WireguardKey([7; 32]);

    fn aws() -> LeafName {
        "aws".parse().unwrap()
    }

    /// The same with another key of aws.
    fn rotated(before: &Admissions, key: WireguardKey) -> Admissions {
        let mut now = before.clone();
        Arc::make_mut(now.leaves.get_mut(&aws()).unwrap()).wireguard_key = key;
        now
    }

    /// A tunnel with a live session keeps its key until its leaf proves the fresh one here, and changes at once when it
    /// does, when the session ends, or when its time is up; without a session it is never kept.
    #[test]
    fn a_tunnel_changes_when_its_leaf_says_so() {
        let before = admissions(&[("aws", 2, &[]), ("oci", 3, &[])]);
        let now = rotated(&before, FRESH);
        let (lives, dead) = (BTreeSet::from(["10.255.0.2".parse().unwrap()]), BTreeSet::new());
        let changes = BTreeMap::from([(PublicKey(FRESH.0), PublicKey(OLD.0))]);
        let begin = Instant::now();
        let held = || {
            let mut held = Held::default();
            held.hear(&before, &now, begin);
            held
        };
        let (nothing, old, fresh) =
            (|_: &LeafName| None, |_: &LeafName| Some(OLD), |_: &LeafName| Some(FRESH));
        let mut asks = held();
        assert_eq!(asks.let_go(&now, nothing, &lives, begin), BTreeMap::new());
        assert_eq!(
            asks.let_go(&now, old, &lives, begin),
            BTreeMap::new(),
            "a proof of the former key is none"
        );
        assert_eq!((asks.keys(), asks.next()), ([(aws(), OLD)].into(), Some(begin + LONGEST)));
        assert_eq!(asks.let_go(&now, fresh, &lives, begin), changes);
        assert_eq!((asks.keys(), asks.next()), (BTreeMap::new(), None));
        assert_eq!(held().let_go(&now, nothing, &dead, begin), changes);
        assert_eq!(held().let_go(&now, nothing, &lives, begin + LONGEST), changes);
        let mut calm = Held::default();
        calm.hear(&now, &now, begin);
        assert_eq!(calm.keys(), BTreeMap::new());
    }

    /// A second rotation does not prolong the first one's time, and changes the tunnel from the key that it has; a leaf
    /// that is revoked meanwhile has no tunnel from that moment.
    #[test]
    fn rotations_follow_each_other_and_revocation_is_immediate() {
        let before = admissions(&[("aws", 2, &[])]);
        let (first, last) = (rotated(&before, WireguardKey([6; 32])), admissions(&[]));
        let second = rotated(&before, FRESH);
        let (begin, lives) = (Instant::now(), BTreeSet::from(["10.255.0.2".parse().unwrap()]));
        let mut held = Held::default();
        held.hear(&before, &first, begin);
        held.hear(&first, &second, begin + LONGEST / 2);
        assert_eq!((held.keys(), held.next()), ([(aws(), OLD)].into(), Some(begin + LONGEST)));
        let stale = |_: &LeafName| Some(WireguardKey([6; 32]));
        assert_eq!(held.let_go(&second, stale, &lives, begin), BTreeMap::new());
        let proved = |_: &LeafName| Some(FRESH);
        let mut other = Held::default();
        other.hear(&before, &first, begin);
        other.hear(&first, &second, begin);
        let changes = BTreeMap::from([(PublicKey(FRESH.0), PublicKey(OLD.0))]);
        assert_eq!(other.let_go(&second, proved, &lives, begin), changes);
        held.hear(&second, &last, begin);
        assert_eq!(held.keys(), BTreeMap::new());
    }
}
