//! The check of every route that every client receives, and what each client holds by it.

use ahash::RandomState;
use hashbrown::{HashMap, HashSet};

use crate::wire::{Attributes, next_host};
use crate::workload::{self, FLOOD, FLOODERS, SLOTS, SPACE, TABLE, TABLE_COLOUR, Workload};

/// What can be wrong. The last three are redundant messages that no client is harmed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Fault {
    /// ORIGINATOR_ID is absent or names no client.
    Originator,
    /// CLUSTER_LIST is not the reflector's cluster id alone.
    ClusterList,
    /// The next hop was changed.
    NextHop,
    /// ORIGIN, AS_PATH, MED, LOCAL_PREF or COMMUNITIES were changed.
    Attributes,
    /// An attribute that nobody sent.
    ForeignAttribute,
    /// A message that cannot be read.
    Malformed,
    /// A prefix that nobody announces.
    UnknownPrefix,
    /// A prefix under another client's attributes, or under those of another colour.
    WrongOwner,
    /// The reflector sent a NOTIFICATION.
    Notification,
    /// The reflector closed a session.
    Closed,
    /// A change that did not reach all others.
    Lost,
    /// More routes of a flooder than its prefix limit.
    BeyondLimit,
    /// Own routes sent back (a client drops them by ORIGINATOR_ID).
    OwnRoute,
    /// The same announcement again.
    Duplicate,
    /// A withdrawal of what was not held.
    SpuriousWithdraw,
}

/// The faults by number, with their names in results.
pub const FAULTS: [(Fault, &str); 15] = [
    (Fault::Originator, "originator_id"),
    (Fault::ClusterList, "cluster_list"),
    (Fault::NextHop, "next_hop"),
    (Fault::Attributes, "attributes"),
    (Fault::ForeignAttribute, "foreign_attribute"),
    (Fault::Malformed, "malformed"),
    (Fault::UnknownPrefix, "unknown_prefix"),
    (Fault::WrongOwner, "wrong_owner"),
    (Fault::Notification, "notification"),
    (Fault::Closed, "session_closed"),
    (Fault::Lost, "changes_lost"),
    (Fault::BeyondLimit, "beyond_prefix_limit"),
    (Fault::OwnRoute, "own_route_sent_back"),
    (Fault::Duplicate, "duplicate_announce"),
    (Fault::SpuriousWithdraw, "spurious_withdraw"),
];

/// How often each fault was seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults([u64; FAULTS.len()]);

impl Faults {
    /// Counts one.
    #[inline]
    pub fn add(&mut self, fault: Fault, count: u64) {
        self.0[fault as usize] += count;
    }

    /// How often a fault was seen.
    pub fn of(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }

    /// What came since `before`.
    pub fn since(&self, before: &Faults) -> Faults {
        Faults(std::array::from_fn(|i| self.0[i] - before.0[i]))
    }

    /// Whether nothing is wrong; redundant messages are not wrong.
    pub fn none_wrong(&self) -> bool {
        self.0[..Fault::OwnRoute as usize].iter().all(|n| *n == 0)
    }

    /// Those seen, with their names.
    pub fn seen(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        FAULTS.iter().map(|(f, name)| (*name, self.of(*f))).filter(|(_, n)| *n > 0)
    }
}

/// What one client holds.
#[derive(Debug, Clone, Default)]
pub struct Held {
    table: Vec<u64>,
    slots: Vec<u8>,
    /// Table routes held.
    pub count: usize,
    /// Addresses held of a flooder's routes.
    pub flood: HashSet<u32, RandomState>,
    /// Table routes that a lost session left behind (RFC 4724 section 4.2), until they are refreshed or swept.
    stale: Option<Vec<u64>>,
}

impl Held {
    /// An empty table for a workload.
    pub fn new(workload: &Workload) -> Held {
        Held {
            table: vec![0; workload.table_len().div_ceil(64)],
            slots: vec![0; workload.slots_len()],
            ..Held::default()
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.table.fill(0);
        self.slots.fill(0);
        self.flood.clear();
        self.count = 0;
        self.stale = None;
    }

    /// Keeps everything as stale.
    pub fn mark_stale(&mut self) {
        // What a second loss finds still stale stays so: the rest becomes stale again.
        self.stale = Some(self.table.clone());
    }

    /// Removes what is still stale; returns how many routes those were.
    pub fn sweep(&mut self) -> usize {
        let Some(stale) = self.stale.take() else { return 0 };
        let gone: usize = stale.iter().map(|w| w.count_ones() as usize).sum();
        self.table.iter_mut().zip(&stale).for_each(|(held, stale)| *held &= !stale);
        self.count -= gone;
        gone
    }

    /// How many routes are stale.
    pub fn stale_count(&self) -> usize {
        self.stale.iter().flatten().map(|w| w.count_ones() as usize).sum()
    }

    /// The colour of a slot; 0: absent.
    #[inline]
    pub fn slot(&self, slot: usize) -> u8 {
        self.slots[slot]
    }

    /// Whether a table route is held.
    pub fn has(&self, route: usize) -> bool {
        self.table[route / 64] & 1 << (route % 64) != 0
    }

    #[inline]
    fn insert(&mut self, route: usize) -> bool {
        let (word, bit) = (route / 64, 1u64 << (route % 64));
        let fresh = self.table[word] & bit == 0;
        self.table[word] |= bit;
        self.count += usize::from(fresh);
        let refreshed = self.stale.as_mut().is_some_and(|stale| {
            let was = stale[word] & bit != 0;
            stale[word] &= !bit;
            was
        });
        fresh || refreshed
    }

    #[inline]
    fn remove(&mut self, route: usize) -> bool {
        let (word, bit) = (route / 64, 1u64 << (route % 64));
        let there = self.table[word] & bit != 0;
        self.table[word] &= !bit;
        self.count -= usize::from(there);
        if let Some(stale) = &mut self.stale {
            stale[word] &= !bit;
        }
        there
    }

    /// A digest of the whole table: every prefix with the attributes that it is held under, in order.
    pub fn digest(&self, workload: &Workload) -> u64 {
        let mut sum = Digest::new(workload);
        (0..workload.table_len()).filter(|g| self.has(*g)).for_each(|g| sum.table(g));
        let slots = self.slots.iter().enumerate().filter(|(_, colour)| **colour != 0);
        slots.for_each(|(slot, colour)| sum.slot(slot, *colour));
        sum.value
    }
}

/// FNV-1a over prefixes and reflected attributes. Each attribute set is hashed once, by owner and colour.
#[derive(Debug)]
pub struct Digest<'a> {
    workload: &'a Workload,
    attributes: Vec<u64>,
    /// The digest so far.
    pub value: u64,
}

fn fnv(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

impl Digest<'_> {
    /// The digest of an empty table.
    pub fn new(workload: &Workload) -> Digest<'_> {
        let one = |client, colour| fnv(FNV_START, &workload.reflected(client, colour).encode());
        let attributes =
            (0..workload.clients).flat_map(|c| (0..=TABLE_COLOUR).map(move |k| one(c, k))).collect();
        Digest { workload, attributes, value: FNV_START }
    }

    fn add(&mut self, host: u32, owner: usize, colour: u8) {
        let attributes = self.attributes[owner * (usize::from(TABLE_COLOUR) + 1) + usize::from(colour)];
        self.value = fnv(fnv(self.value, &host.to_be_bytes()), &attributes.to_be_bytes());
    }

    /// Adds a table route.
    pub fn table(&mut self, route: usize) {
        self.add(TABLE + route as u32, route / self.workload.routes, TABLE_COLOUR);
    }

    /// Adds a slot of a colour.
    pub fn slot(&mut self, slot: usize, colour: u8) {
        self.add(SLOTS + slot as u32, slot / self.workload.slots, colour);
    }
}

/// A slot that a client has seen change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Who saw it.
    pub client: u32,
    /// The slot.
    pub slot: u32,
    /// Its colour now.
    pub colour: u8,
}

#[derive(Debug, Clone, Copy)]
struct Verdict {
    owner: usize,
    colour: u8,
    fault: Option<Fault>,
}

/// Reads UPDATEs by the workload: what is wrong is counted, what changes in a slot is noted.
#[derive(Debug)]
pub struct Judge {
    workload: Workload,
    verdicts: Vec<Verdict>,
    known: HashMap<Box<[u8]>, usize, RandomState>,
    /// What was wrong so far.
    pub faults: Faults,
    /// Slots seen to change, for a scenario to take.
    pub seen: Vec<Seen>,
    /// Announced and withdrawn routes received.
    pub routes_in: u64,
    /// Withdrawals of table routes that were held.
    pub table_withdrawn: u64,
    /// How many routes of a flooder a client may hold; `None`: there is no flooder, its routes are foreign.
    pub flood_limit: Option<usize>,
    /// The most of them that a client has held.
    pub flood_most: usize,
}

impl Judge {
    /// A judge of a workload.
    pub fn new(workload: Workload) -> Judge {
        Judge {
            workload,
            verdicts: Vec::new(),
            known: HashMap::default(),
            faults: Faults::default(),
            seen: Vec::new(),
            routes_in: 0,
            table_withdrawn: 0,
            flood_limit: None,
            flood_most: 0,
        }
    }

    /// The workload.
    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    fn verdict(&mut self, attributes: &[u8]) -> Verdict {
        if let Some(at) = self.known.get(attributes) {
            return self.verdicts[*at];
        }
        let verdict = self.decide(attributes);
        self.known.insert(attributes.into(), self.verdicts.len());
        self.verdicts.push(verdict);
        verdict
    }

    /// Whose attributes these are, and the first thing that is wrong with them.
    fn decide(&self, bytes: &[u8]) -> Verdict {
        let wrong = |fault| Verdict { owner: usize::MAX, colour: 0, fault: Some(fault) };
        let Some(got) = Attributes::decode(bytes) else { return wrong(Fault::Malformed) };
        let flooder = |c: usize| self.flood_limit.is_some() && c >= FLOODERS;
        let known = |c: &usize| *c < self.workload.clients || flooder(*c);
        let owner = got.originator.and_then(workload::client_of).filter(known);
        let Some(owner) = owner else { return wrong(Fault::Originator) };
        let colour = (1..=TABLE_COLOUR).find(|k| self.workload.sent(owner, *k).med == got.med);
        let Some(colour) = colour else { return wrong(Fault::Attributes) };
        let want = self.workload.reflected(owner, colour);
        let fault = if !got.foreign.is_empty() {
            Some(Fault::ForeignAttribute)
        } else if got.cluster_list != want.cluster_list {
            Some(Fault::ClusterList)
        } else if got.next_hop != want.next_hop {
            Some(Fault::NextHop)
        } else {
            (got != want).then_some(Fault::Attributes)
        };
        Verdict { owner, colour, fault }
    }

    /// Takes the three parts of an UPDATE that `client` has received.
    pub fn update(
        &mut self,
        client: usize,
        held: &mut Held,
        withdrawn: &[u8],
        attributes: &[u8],
        nlri: &[u8],
    ) {
        if !withdrawn.is_empty() {
            self.withdrawn(client, held, withdrawn);
        }
        if !nlri.is_empty() {
            self.announced(client, held, attributes, nlri);
        }
    }

    fn announced(&mut self, client: usize, held: &mut Held, attributes: &[u8], mut nlri: &[u8]) {
        let Verdict { owner, colour, fault } = self.verdict(attributes);
        let count = (nlri.len() / 5) as u64;
        self.routes_in += count;
        if let Some(fault) = fault {
            self.faults.add(fault, count.max(1));
        }
        if owner == usize::MAX {
            return;
        }
        if owner == client {
            self.faults.add(Fault::OwnRoute, count);
            return;
        }
        if owner >= FLOODERS {
            return self.flooded(held, nlri);
        }
        let (table, slots) = (self.workload.table_of(owner), self.workload.slots_of(owner));
        let mut again = 0;
        while let Some(host) = next_host(&mut nlri) {
            let route = host.wrapping_sub(TABLE) as usize;
            if table.contains(&route) && colour == TABLE_COLOUR {
                again += u64::from(!held.insert(route));
                continue;
            }
            let slot = host.wrapping_sub(SLOTS) as usize;
            if slots.contains(&slot) && colour != TABLE_COLOUR {
                if std::mem::replace(&mut held.slots[slot], colour) == colour {
                    again += 1;
                } else {
                    self.seen.push(Seen { client: client as u32, slot: slot as u32, colour });
                }
                continue;
            }
            let known = route < self.workload.table_len() || slot < self.workload.slots_len();
            self.faults.add(if known { Fault::WrongOwner } else { Fault::UnknownPrefix }, 1);
        }
        self.faults.add(Fault::Duplicate, again);
        if !nlri.is_empty() {
            self.faults.add(Fault::UnknownPrefix, 1);
        }
    }

    /// Takes a flooder's routes: as many as its limit are its good right.
    fn flooded(&mut self, held: &mut Held, mut nlri: &[u8]) {
        let mut again = 0;
        while let Some(host) = next_host(&mut nlri) {
            if (host.wrapping_sub(FLOOD) as usize) < SPACE {
                again += u64::from(!held.flood.insert(host));
            } else {
                self.faults.add(Fault::WrongOwner, 1);
            }
        }
        self.flood_most = self.flood_most.max(held.flood.len());
        let beyond = held.flood.len() > self.flood_limit.unwrap_or_default();
        self.faults.add(Fault::BeyondLimit, u64::from(beyond));
        self.faults.add(Fault::Duplicate, again);
        self.faults.add(Fault::UnknownPrefix, u64::from(!nlri.is_empty()));
    }

    fn withdrawn(&mut self, client: usize, held: &mut Held, mut routes: &[u8]) {
        self.routes_in += (routes.len() / 5) as u64;
        let mut spurious = 0;
        while let Some(host) = next_host(&mut routes) {
            let route = host.wrapping_sub(TABLE) as usize;
            if route < self.workload.table_len() {
                let there = held.remove(route);
                spurious += u64::from(!there);
                self.table_withdrawn += u64::from(there);
                continue;
            }
            if self.flood_limit.is_some() && (host.wrapping_sub(FLOOD) as usize) < SPACE {
                spurious += u64::from(!held.flood.remove(&host));
                continue;
            }
            let slot = host.wrapping_sub(SLOTS) as usize;
            if slot >= self.workload.slots_len() {
                self.faults.add(Fault::UnknownPrefix, 1);
            } else if std::mem::take(&mut held.slots[slot]) == 0 {
                spurious += 1;
            } else {
                self.seen.push(Seen { client: client as u32, slot: slot as u32, colour: 0 });
            }
        }
        self.faults.add(Fault::SpuriousWithdraw, spurious);
        if !routes.is_empty() {
            self.faults.add(Fault::UnknownPrefix, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    const WORKLOAD: Workload = Workload { clients: 3, routes: 10, slots: 2, asn: 65000, cluster_id: 9 };

    fn hosts(list: &[u32]) -> Vec<u8> {
        list.iter().flat_map(|h| std::iter::once(32).chain(h.to_be_bytes())).collect()
    }

    fn judged(client: usize, attributes: &Attributes, list: &[u32]) -> (Judge, Held) {
        let mut judge = Judge::new(WORKLOAD);
        let mut held = Held::new(&WORKLOAD);
        judge.update(client, &mut held, &[], &attributes.encode(), &hosts(list));
        (judge, held)
    }

    /// A right route is held and nothing is counted against it.
    #[test]
    fn a_right_route_is_held() {
        let (judge, held) = judged(0, &WORKLOAD.reflected(1, TABLE_COLOUR), &[TABLE + 10, TABLE + 19]);
        assert!(judge.faults.none_wrong());
        assert_eq!(judge.faults.seen().count(), 0);
        assert_eq!((held.count, held.has(10), held.has(11)), (2, true, false));
    }

    /// Whatever is wrong with a route has its own name.
    #[test]
    fn each_fault_is_named() {
        let right = || WORKLOAD.reflected(1, TABLE_COLOUR);
        let at = [TABLE + 10];
        for (attributes, list, fault) in [
            (Attributes { originator: None, ..right() }, &at, Fault::Originator),
            (Attributes { cluster_list: vec![9, 9], ..right() }, &at, Fault::ClusterList),
            (Attributes { next_hop: 1, ..right() }, &at, Fault::NextHop),
            (Attributes { local_pref: Some(1), ..right() }, &at, Fault::Attributes),
            (Attributes { communities: vec![], ..right() }, &at, Fault::Attributes),
            (Attributes { as_path: vec![], ..right() }, &at, Fault::Attributes),
            (Attributes { med: None, ..right() }, &at, Fault::Attributes),
            (right(), &[TABLE + 20], Fault::WrongOwner),
            (right(), &[SLOTS + 2], Fault::WrongOwner),
            (right(), &[SLOTS + 6], Fault::UnknownPrefix),
            (right(), &[TABLE + 30], Fault::UnknownPrefix),
        ] {
            let (judge, _) = judged(0, &attributes, list);
            assert_eq!(judge.faults.of(fault), 1, "{fault:?}: {attributes:?}");
            assert!(!judge.faults.none_wrong());
        }
        let mut foreign = right().encode();
        foreign.extend_from_slice(&[0xc0, 32, 0]);
        let mut judge = Judge::new(WORKLOAD);
        judge.update(0, &mut Held::new(&WORKLOAD), &[], &foreign, &hosts(&at));
        assert_eq!(judge.faults.of(Fault::ForeignAttribute), 1);
        for (i, (fault, _)) in FAULTS.iter().enumerate() {
            assert_eq!(*fault as usize, i);
        }
    }

    /// Redundant messages are counted and are not wrong.
    #[test]
    fn redundant_is_not_wrong() {
        let (mut judge, mut held) = judged(1, &WORKLOAD.reflected(1, TABLE_COLOUR), &[TABLE + 10]);
        assert_eq!((judge.faults.of(Fault::OwnRoute), held.count), (1, 0));
        let twice = WORKLOAD.reflected(0, TABLE_COLOUR).encode();
        judge.update(1, &mut held, &[], &twice, &hosts(&[TABLE, TABLE]));
        judge.update(1, &mut held, &hosts(&[TABLE, TABLE]), &[], &[]);
        assert_eq!((judge.faults.of(Fault::Duplicate), judge.faults.of(Fault::SpuriousWithdraw)), (1, 1));
        assert!(judge.faults.none_wrong());
        assert_eq!(judge.table_withdrawn, 1);
    }

    /// A flooder's routes are taken up to its limit, with its own attributes, and only where a flooder is expected.
    #[test]
    fn a_flooders_routes_are_taken_up_to_its_limit() {
        let attributes = WORKLOAD.reflected(FLOODERS + 3, TABLE_COLOUR).encode();
        let (judge, _) = judged(0, &WORKLOAD.reflected(FLOODERS + 3, TABLE_COLOUR), &[FLOOD]);
        assert_eq!(judge.faults.of(Fault::Originator), 1, "no flooder is expected");
        let (mut judge, mut held) = (Judge::new(WORKLOAD), Held::new(&WORKLOAD));
        judge.flood_limit = Some(2);
        judge.update(0, &mut held, &[], &attributes, &hosts(&[FLOOD, FLOOD + 9_999_999]));
        judge.update(0, &mut held, &hosts(&[FLOOD]), &attributes, &hosts(&[FLOOD + 1]));
        assert_eq!((judge.faults.seen().count(), held.flood.len(), held.count), (0, 2, 0));
        judge.update(0, &mut held, &[], &attributes, &hosts(&[FLOOD + 2]));
        assert_eq!(judge.faults.of(Fault::BeyondLimit), 1);
        judge.update(0, &mut held, &[], &attributes, &hosts(&[TABLE]));
        assert_eq!((judge.faults.of(Fault::WrongOwner), held.count), (1, 0));
        let other = Attributes { med: None, ..WORKLOAD.reflected(FLOODERS, TABLE_COLOUR) };
        judge.update(0, &mut held, &[], &other.encode(), &hosts(&[FLOOD]));
        assert_eq!(judge.faults.of(Fault::Attributes), 1);
    }

    /// The digest tells a missing route, an extra one and another colour; a right table has that of the workload.
    #[test]
    fn digests_tell_tables_apart() {
        let mut judge = Judge::new(WORKLOAD);
        let mut held = Held::new(&WORKLOAD);
        for owner in [1, 2] {
            let mut out = Vec::new();
            let table = WORKLOAD.table_of(owner).map(|g| TABLE + g as u32);
            wire::announce(&mut out, &WORKLOAD.reflected(owner, TABLE_COLOUR).encode(), table);
            let (w, a, n) = wire::split(&out[wire::HEADER..]).unwrap();
            judge.update(0, &mut held, w, a, n);
        }
        let mut want = Digest::new(&WORKLOAD);
        (10..30).for_each(|g| want.table(g));
        assert_eq!(held.digest(&WORKLOAD), want.value);
        judge.update(0, &mut held, &[], &WORKLOAD.reflected(1, 2).encode(), &hosts(&[SLOTS + 3]));
        assert_eq!(judge.seen, [Seen { client: 0, slot: 3, colour: 2 }]);
        let other = held.digest(&WORKLOAD);
        assert_ne!(other, want.value);
        want.slot(3, 3);
        assert_ne!(other, want.value, "another colour");
        judge.update(0, &mut held, &hosts(&[SLOTS + 3, TABLE + 10]), &[], &[]);
        assert_ne!(held.digest(&WORKLOAD), other, "a route less");
    }

    /// Stale routes live until they are refreshed or swept.
    #[test]
    fn stale_routes_are_refreshed_or_swept() {
        let (mut judge, mut held) =
            judged(0, &WORKLOAD.reflected(1, TABLE_COLOUR), &[TABLE + 10, TABLE + 11]);
        held.mark_stale();
        assert_eq!((held.count, held.stale_count()), (2, 2));
        judge.update(0, &mut held, &[], &WORKLOAD.reflected(1, TABLE_COLOUR).encode(), &hosts(&[TABLE + 11]));
        assert_eq!(judge.faults.seen().count(), 0, "a refreshed route is no duplicate");
        assert_eq!((held.count, held.stale_count()), (2, 1));
        assert_eq!((held.sweep(), held.count, held.has(10), held.has(11)), (1, 1, false, true));
        assert_eq!(held.sweep(), 0);
    }
}
