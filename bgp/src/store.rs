//! Attribute sets, each held once, and the sources that they come from.
//!
//! A set belongs to one source, because ORIGINATOR_ID makes what is passed on differ by source. So the number of
//! a set also names its source, and whoever holds the number can tell who must not get the route back.

use std::collections::VecDeque;
use std::net::IpAddr;

use ahash::RandomState;
use hashbrown::HashTable;
use ipnet::IpNet;

use crate::attributes::Attributes;
use crate::types::{PeerKey, RouterId};

/// The number of an attribute set; recycled only when nothing refers to the set any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttrId(pub u32);

impl AttrId {
    /// Stands for no set.
    pub const NONE: AttrId = AttrId(u32::MAX);

    /// The set, if it is one.
    pub fn some(self) -> Option<AttrId> {
        (self != AttrId::NONE).then_some(self)
    }
}

/// The number of a source; recycled when its last path is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub u16);

impl SourceId {
    /// Ourselves: the routes that we originate.
    pub const LOCAL: SourceId = SourceId(0);

    /// The number as an index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Where paths come from: a peer under one BGP Identifier, or ourselves.
#[derive(Debug, Clone)]
pub struct Source {
    /// Unique over the life of the speaker; what the shared log goes by.
    pub uid: u64,
    /// Whose paths these are; `None` for our own.
    pub peer: Option<PeerKey>,
    /// The peer's address, the last step of the decision; unspecified for ourselves.
    pub address: IpAddr,
    /// The peer's BGP Identifier.
    pub router_id: RouterId,
    /// Whether it is a route-reflector client.
    pub client: bool,
    /// Whether it is of another AS.
    pub external: bool,
}

/// How far next hops are, by the most specific prefix that holds them; lower is nearer. A leaf knows it of its
/// tunnels, a reflector, which is not in the path of packets, does not: then all are alike.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Costs(Vec<(IpNet, u32)>);

impl Costs {
    /// The cost of a next hop that no prefix holds, where any prefix is told.
    pub const UNKNOWN: u32 = u32::MAX;

    /// As told, in any order.
    pub fn new(mut all: Vec<(IpNet, u32)>) -> Costs {
        all.sort_by_key(|(net, _)| std::cmp::Reverse(net.prefix_len()));
        Costs(all)
    }

    /// How far a next hop is; 0 for all where nothing is told.
    pub fn of(&self, next_hop: IpAddr) -> u32 {
        if self.0.is_empty() {
            return 0;
        }
        let next_hop = next_hop.to_canonical();
        self.0.iter().find(|(net, _)| net.contains(&next_hop)).map_or(Costs::UNKNOWN, |(_, cost)| *cost)
    }
}

impl Source {
    /// Whether these are our own routes.
    pub fn is_local(&self) -> bool {
        self.peer.is_none()
    }
}

/// All sources, and how far what they name as next hops is; number 0 is ourselves.
#[derive(Debug)]
pub struct Sources {
    /// How far next hops are.
    pub costs: Costs,
    slots: Vec<Option<Source>>,
    next_uid: u64,
}

impl Sources {
    /// Only ourselves.
    pub fn new(router_id: RouterId) -> Sources {
        let address = IpAddr::from([0, 0, 0, 0]);
        let own = Source { uid: 0, peer: None, address, router_id, client: false, external: false };
        Sources { costs: Costs::default(), slots: vec![Some(own)], next_uid: 1 }
    }

    /// Takes a number for a peer, with whether it is a client and whether it is of another AS; `None` if all 65,536
    /// are in use.
    pub fn add(
        &mut self,
        peer: PeerKey,
        address: IpAddr,
        router_id: RouterId,
        (client, external): (bool, bool),
    ) -> Option<SourceId> {
        let at = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        let id = SourceId(u16::try_from(at).ok()?);
        let source = Source { uid: self.next_uid, peer: Some(peer), address, router_id, client, external };
        self.next_uid += 1;
        match self.slots.get_mut(at) {
            Some(slot) => *slot = Some(source),
            None => self.slots.push(Some(source)),
        }
        Some(id)
    }

    /// Gives a number back. No path of it may be left.
    pub fn remove(&mut self, id: SourceId) {
        if let Some(slot) = self.slots.get_mut(id.index())
            && id != SourceId::LOCAL
        {
            *slot = None;
        }
    }

    /// The source of this number.
    pub fn get(&self, id: SourceId) -> Option<&Source> {
        self.slots.get(id.index())?.as_ref()
    }

    /// All sources with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (SourceId, &Source)> {
        self.slots.iter().enumerate().filter_map(|(i, s)| Some((SourceId(i as u16), s.as_ref()?)))
    }
}

#[derive(Debug)]
struct Slot {
    attributes: Attributes,
    key: Box<[u8]>,
    hash: u64,
    uid: u64,
    source: SourceId,
    refs: u32,
    idle: bool,
}

/// Keys of sets that were made of others are told apart by this bit from those under which peers sent theirs.
const DERIVED: u64 = 1 << 63;
/// How many sets that no route uses are kept for their next use.
const IDLE_KEPT: usize = 1024;
/// From so many octets on, few are kept: a peer with extended messages could fill the memory with what nobody uses.
const LARGE: usize = 8192;
/// How many then.
const LARGE_KEPT: usize = 16;

/// The interned attribute sets.
#[derive(Debug)]
pub struct Store {
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    index: HashTable<u32>,
    hasher: RandomState,
    idle: VecDeque<u32>,
}

impl Default for Store {
    fn default() -> Store {
        Store::new(RandomState::new())
    }
}

impl Store {
    /// An empty store; peers choose the keys, so the hasher should be seeded at random.
    pub fn new(hasher: RandomState) -> Store {
        Store { slots: Vec::new(), free: Vec::new(), index: HashTable::new(), hasher, idle: VecDeque::new() }
    }

    /// The set that source `uid` sent under `key` before.
    #[inline]
    pub fn find(&self, uid: u64, key: &[u8]) -> Option<AttrId> {
        let hash = self.hasher.hash_one((uid, key));
        let same = |i: &u32| {
            self.slots[*i as usize].as_ref().is_some_and(|s| s.hash == hash && s.uid == uid && *s.key == *key)
        };
        self.index.find(hash, same).map(|i| AttrId(*i))
    }

    /// Keeps a set under `key`, until nothing has referred to it for a while.
    pub fn insert(&mut self, source: SourceId, uid: u64, key: &[u8], attributes: Attributes) -> AttrId {
        let large = key.len() + attributes.blob.len() > LARGE;
        self.shrink(if large { LARGE_KEPT } else { IDLE_KEPT });
        let hash = self.hasher.hash_one((uid, key));
        let slot = Slot { attributes, key: key.into(), hash, uid, source, refs: 0, idle: true };
        let i = match self.free.pop() {
            Some(i) => {
                self.slots[i as usize] = Some(slot);
                i
            }
            None => {
                self.slots.push(Some(slot));
                (self.slots.len() - 1) as u32
            }
        };
        self.idle.push_back(i);
        let slots = &self.slots;
        self.index.insert_unique(hash, i, |i| slots[*i as usize].as_ref().map_or(0, |s| s.hash));
        AttrId(i)
    }

    /// A set made of another one, for routes of the same source; the same set where `make` changes nothing.
    pub fn derive(
        &mut self,
        from: AttrId,
        make: impl FnOnce(&Attributes) -> Option<Attributes>,
    ) -> Option<AttrId> {
        let slot = self.slots.get(from.0 as usize)?.as_ref()?;
        let made = make(&slot.attributes)?;
        if made == slot.attributes {
            return Some(from);
        }
        // No other key begins so: those of peers are under their own numbers.
        let (source, scope) = (slot.source, DERIVED | slot.uid);
        let key = [&made.mp_next_hop[..], &made.blob].concat();
        match self.find(scope, &key) {
            Some(known) => Some(known),
            None => Some(self.insert(source, scope, &key, made)),
        }
    }

    fn shrink(&mut self, keep: usize) {
        while self.idle.len() > keep {
            let Some(i) = self.idle.pop_front() else { return };
            let Some(slot) = &mut self.slots[i as usize] else { continue };
            slot.idle = false;
            if slot.refs > 0 {
                continue;
            }
            let hash = slot.hash;
            if let Ok(entry) = self.index.find_entry(hash, |j| *j == i) {
                entry.remove();
            }
            self.slots[i as usize] = None;
            self.free.push(i);
        }
    }

    /// Counts one more use.
    #[inline]
    pub fn acquire(&mut self, id: AttrId) {
        if let Some(Some(slot)) = self.slots.get_mut(id.0 as usize) {
            slot.refs += 1;
        }
    }

    /// Counts one use less.
    #[inline]
    pub fn release(&mut self, id: AttrId) {
        if let Some(Some(slot)) = self.slots.get_mut(id.0 as usize) {
            slot.refs -= 1;
            if slot.refs == 0 && !slot.idle {
                slot.idle = true;
                self.idle.push_back(id.0);
            }
        }
    }

    /// The set of this number.
    #[inline]
    pub fn get(&self, id: AttrId) -> Option<&Attributes> {
        Some(&self.slots.get(id.0 as usize)?.as_ref()?.attributes)
    }

    /// The source of this set.
    #[inline]
    pub fn source(&self, id: AttrId) -> Option<SourceId> {
        Some(self.slots.get(id.0 as usize)?.as_ref()?.source)
    }

    /// One more than the highest number given out so far.
    pub fn bound(&self) -> usize {
        self.slots.len()
    }

    /// Sets held, the idle ones included.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether no set is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::Own;
    use crate::types::Family;
    use std::net::Ipv4Addr;

    #[test]
    fn a_set_in_use_stays_and_idle_ones_are_bounded() {
        let own = Own { asn: 1, router_id: 1.into(), cluster_id: 1.into() };
        let one = Attributes::originated(Family::Ipv4, Ipv4Addr::new(10, 0, 0, 1), 100, &[], &own);
        let mut store = Store::default();
        let used = store.insert(SourceId(1), 7, b"used", one.clone());
        store.acquire(used);
        for i in 0..5000u32 {
            let id = store.insert(SourceId(1), 7, &i.to_be_bytes(), one.clone());
            store.acquire(id);
            store.release(id);
        }
        assert!(store.len() <= IDLE_KEPT + 2, "{}", store.len());
        assert_eq!(store.find(7, b"used"), Some(used));
        assert_eq!(store.find(8, b"used"), None, "another source has its own");
        store.release(used);
        for i in 0..5000u32 {
            store.insert(SourceId(1), 9, &i.to_be_bytes(), one.clone());
        }
        assert_eq!(store.find(7, b"used"), None);
    }
}
