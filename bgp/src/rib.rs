//! One family's table: every neighbour's Adj-RIB-In, and per prefix what has been advertised from it.
//!
//! A path is 28 octets and a prefix 16 (IPv4), in two arrays that refer to each other by number. Each source's
//! paths form a list, so that its loss costs what it held, and each prefix's paths form a chain. Changes only
//! mark a prefix; [`Table::flush`] decides, once for however many changes came together.

use ahash::RandomState;
use hashbrown::HashTable;

use crate::best_path::{Candidate, Step, decide};
use crate::message::Address;
use crate::policy::RejectReason;
use crate::store::{AttrId, SourceId, Sources, Store};

mod long_lived;
mod paths;
pub use paths::PathChange;

const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Net<A> {
    addr: A,
    /// The chain of paths; in a free entry, the next free one.
    head: u32,
    /// What the last flush advertised.
    advertised: AttrId,
    len: u8,
    dirty: bool,
}

#[derive(Debug, Clone, Copy)]
struct Path {
    net: u32,
    next: u32,
    attr: AttrId,
    before: u32,
    after: u32,
    path_id: u32,
    source: SourceId,
    /// 0 for an accepted path, else [`RejectReason::code`].
    verdict: u8,
    kept: Kept,
}

/// Whether a path is kept from a session that was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// It is not: its session is up.
    Live,
    /// For the restart time, or until a refresh ends.
    Stale,
    /// Beyond it (RFC 9494).
    LongLived,
}

/// What the table holds from one source.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    first: u32,
    /// Paths, rejected ones included.
    pub paths: u32,
    /// Rejected paths by reason code; index 0 counts the accepted ones.
    pub by_verdict: [u32; RejectReason::ALL.len() + 1],
    /// Paths kept from a lost session.
    pub stale: u32,
    /// Those of them that are kept beyond the restart time.
    pub long_lived: u32,
    /// Prefixes advertised with a path from it.
    pub advertised: u32,
    /// Those of them that are marked LLGR_STALE.
    pub advertised_marked: u32,
}

impl Default for Held {
    fn default() -> Held {
        Held {
            first: NONE,
            paths: 0,
            by_verdict: [0; RejectReason::ALL.len() + 1],
            stale: 0,
            long_lived: 0,
            advertised: 0,
            advertised_marked: 0,
        }
    }
}

impl Held {
    /// Paths that may become best.
    pub fn accepted(&self) -> u32 {
        self.by_verdict[0]
    }

    /// Paths kept although the import policy rejected them.
    pub fn rejected(&self) -> u32 {
        self.paths - self.by_verdict[0]
    }
}

/// A prefix whose advertised path changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change<A> {
    /// The prefix's address.
    pub addr: A,
    /// The prefix's length.
    pub len: u8,
    /// What was advertised.
    pub old: Option<AttrId>,
    /// What is advertised now.
    pub new: Option<AttrId>,
}

/// Whether [`Table::scan`] goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scan {
    /// More is welcome.
    On,
    /// This piece is large enough.
    Enough,
}

/// One path, for showing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathInfo {
    /// Its attributes.
    pub attr: AttrId,
    /// Its source.
    pub source: SourceId,
    /// Why it was rejected; `None` if it was not.
    pub rejected: Option<RejectReason>,
    /// Whether it is kept from a lost session.
    pub stale: bool,
    /// At which step of the decision it lost; `None` for the best and for rejected ones.
    pub lost: Option<Step>,
    /// Whether it is the best.
    pub best: bool,
    /// Whether it is used beside the best; filled in by who knows how many may be.
    pub equal: bool,
    /// Its path identifier (RFC 7911), 0 without ADD-PATH.
    pub path_id: u32,
    /// The identifier under which it goes out on sessions with ADD-PATH.
    pub sent_id: u32,
    /// Its rank as of the last flush: 1 for the best, 0 for none or while no session is sent several paths.
    pub rank: u8,
}

/// Neighbouring prefixes that share a run of buckets, as a number of bits.
const RUN: u32 = 6;

/// Where a prefix is in the index. Neighbours lie side by side, for they mostly come together: taking in a whole
/// table, and making room for one, then walks through memory in order and not at random. Which neighbourhood lies
/// where is keyed, so no peer can choose prefixes that collide.
fn place<A: Address>(hasher: &RandomState, addr: A, len: u8) -> u64 {
    let (above, low) = addr.neighborhood(len, RUN);
    let at = hasher.hash_one((above, len)) & !((1 << RUN) - 1) | low;
    // The table tells entries of one group apart by the top seven bits.
    at ^ low << 57
}

/// The table of one family.
#[derive(Debug)]
pub struct Table<A> {
    nets: Vec<Net<A>>,
    free_net: u32,
    paths: Vec<Path>,
    free_path: u32,
    index: HashTable<u32>,
    hasher: RandomState,
    dirty: Vec<u32>,
    held: Vec<Held>,
    advertised: usize,
    path_count: usize,
    ranks: paths::Ranks,
    /// A stale path was announced again since this was last asked.
    freshened: bool,
}

impl<A: Address> Table<A> {
    /// An empty table; peers choose the prefixes, so the hasher should be seeded at random.
    pub fn new(hasher: RandomState) -> Table<A> {
        Table {
            nets: Vec::new(),
            free_net: NONE,
            paths: Vec::new(),
            free_path: NONE,
            index: HashTable::new(),
            hasher,
            dirty: Vec::new(),
            held: Vec::new(),
            advertised: 0,
            path_count: 0,
            ranks: paths::Ranks::default(),
            freshened: false,
        }
    }

    /// Takes a path into the Adj-RIB-In of `source`, in place of an earlier one with this prefix and path id.
    /// The verdict is 0 for an accepted path, else [`RejectReason::code`].
    pub fn announce(
        &mut self,
        store: &mut Store,
        source: SourceId,
        (addr, len, path_id): (A, u8, u32),
        attr: AttrId,
        verdict: u8,
    ) {
        let net = self.net(addr, len);
        if self.held.len() <= source.index() {
            self.held.resize(source.index() + 1, Held::default());
        }
        let held = &mut self.held[source.index()];
        let mut at = self.nets[net as usize].head;
        while at != NONE {
            let path = &mut self.paths[at as usize];
            if path.source == source && path.path_id == path_id {
                if path.kept != Kept::Live {
                    held.stale -= 1;
                    held.long_lived -= u32::from(path.kept == Kept::LongLived);
                    path.kept = Kept::Live;
                    self.freshened = true;
                } else if path.attr == attr && path.verdict == verdict {
                    return;
                }
                held.by_verdict[usize::from(path.verdict)] -= 1;
                held.by_verdict[usize::from(verdict)] += 1;
                store.acquire(attr);
                store.release(path.attr);
                path.attr = attr;
                path.verdict = verdict;
                self.ranks.changed(at);
                return self.mark(net);
            }
            at = path.next;
        }
        store.acquire(attr);
        held.paths += 1;
        held.by_verdict[usize::from(verdict)] += 1;
        let path = Path {
            net,
            next: self.nets[net as usize].head,
            attr,
            before: NONE,
            after: held.first,
            path_id,
            source,
            verdict,
            kept: Kept::Live,
        };
        let i = if self.free_path == NONE {
            self.paths.push(path);
            (self.paths.len() - 1) as u32
        } else {
            let i = self.free_path;
            self.free_path = self.paths[i as usize].next;
            self.paths[i as usize] = path;
            i
        };
        if held.first != NONE {
            self.paths[held.first as usize].before = i;
        }
        held.first = i;
        self.ranks.added(i);
        self.nets[net as usize].head = i;
        self.path_count += 1;
        self.mark(net);
    }

    /// Removes a path of `source`; returns whether there was one.
    pub fn withdraw(
        &mut self,
        store: &mut Store,
        source: SourceId,
        (addr, len, path_id): (A, u8, u32),
    ) -> bool {
        let Some(net) = self.find(addr, len) else { return false };
        let mut at = self.nets[net as usize].head;
        while at != NONE {
            let path = &self.paths[at as usize];
            if path.source == source && path.path_id == path_id {
                self.remove(store, at);
                return true;
            }
            at = path.next;
        }
        false
    }

    fn find(&self, addr: A, len: u8) -> Option<u32> {
        let hash = place(&self.hasher, addr, len);
        let same = |i: &u32| {
            let net = &self.nets[*i as usize];
            net.addr == addr && net.len == len
        };
        self.index.find(hash, same).copied()
    }

    fn net(&mut self, addr: A, len: u8) -> u32 {
        let hash = place(&self.hasher, addr, len);
        let (nets, hasher) = (&self.nets, &self.hasher);
        let entry = self.index.entry(
            hash,
            |i| nets[*i as usize].addr == addr && nets[*i as usize].len == len,
            |i| place(hasher, nets[*i as usize].addr, nets[*i as usize].len),
        );
        match entry {
            hashbrown::hash_table::Entry::Occupied(at) => *at.get(),
            hashbrown::hash_table::Entry::Vacant(at) => {
                let net = Net { addr, head: NONE, advertised: AttrId::NONE, len, dirty: false };
                let i = if self.free_net == NONE { self.nets.len() as u32 } else { self.free_net };
                at.insert(i);
                if self.free_net == NONE {
                    self.nets.push(net);
                } else {
                    self.free_net = self.nets[i as usize].head;
                    self.nets[i as usize] = net;
                }
                i
            }
        }
    }

    fn mark(&mut self, net: u32) {
        let entry = &mut self.nets[net as usize];
        if !entry.dirty {
            entry.dirty = true;
            self.dirty.push(net);
        }
    }

    fn remove(&mut self, store: &mut Store, i: u32) {
        let path = self.paths[i as usize];
        let held = &mut self.held[path.source.index()];
        held.paths -= 1;
        held.by_verdict[usize::from(path.verdict)] -= 1;
        held.stale -= u32::from(path.kept != Kept::Live);
        held.long_lived -= u32::from(path.kept == Kept::LongLived);
        match path.before {
            NONE => held.first = path.after,
            before => self.paths[before as usize].after = path.after,
        }
        if path.after != NONE {
            self.paths[path.after as usize].before = path.before;
        }
        let head = &mut self.nets[path.net as usize].head;
        if *head == i {
            *head = path.next;
        } else {
            let mut at = *head;
            while self.paths[at as usize].next != i {
                at = self.paths[at as usize].next;
            }
            self.paths[at as usize].next = path.next;
        }
        store.release(path.attr);
        self.ranks.removed(i, path.net, path.source);
        self.paths[i as usize].next = self.free_path;
        self.free_path = i;
        self.path_count -= 1;
        self.mark(path.net);
    }

    /// What is held from a source.
    pub fn held(&self, source: SourceId) -> Held {
        self.held.get(source.index()).copied().unwrap_or_default()
    }

    /// Marks every path of a source as kept from a lost session.
    pub fn mark_stale(&mut self, source: SourceId) {
        let mut at = self.held(source).first;
        while at != NONE {
            let path = &mut self.paths[at as usize];
            if path.kept == Kept::Live {
                path.kept = Kept::Stale;
                self.held[source.index()].stale += 1;
            }
            let (net, alone) = (path.net, path.next == NONE);
            at = path.after;
            if !alone || self.paths[self.nets[net as usize].head as usize].next != NONE {
                self.mark(net);
            }
        }
    }

    /// Removes every path of a source, or only its stale ones.
    pub fn purge(&mut self, store: &mut Store, source: SourceId, only_stale: bool) {
        let held = self.held(source);
        if only_stale && held.stale == 0 {
            return;
        }
        let mut at = held.first;
        while at != NONE {
            let path = self.paths[at as usize];
            if path.kept != Kept::Live || !only_stale {
                self.remove(store, at);
            }
            at = path.after;
        }
    }

    /// Judges every path of a source again: `judge` gives the new verdict for a prefix and its attributes.
    pub fn revise(&mut self, store: &Store, source: SourceId, judge: impl Fn(A, u8, AttrId, &Store) -> u8) {
        let mut at = self.held(source).first;
        while at != NONE {
            let path = self.paths[at as usize];
            let net = &self.nets[path.net as usize];
            let verdict = judge(net.addr, net.len, path.attr, store);
            if verdict != path.verdict {
                let held = &mut self.held[source.index()];
                held.by_verdict[usize::from(path.verdict)] -= 1;
                held.by_verdict[usize::from(verdict)] += 1;
                self.paths[at as usize].verdict = verdict;
                self.mark(path.net);
            }
            at = path.after;
        }
    }

    /// Every prefix of a source with its attributes and verdict.
    pub fn of_source(&self, source: SourceId) -> impl Iterator<Item = (A, u8, u32, AttrId, u8)> + '_ {
        let mut at = self.held(source).first;
        std::iter::from_fn(move || {
            let path = self.paths.get(at as usize)?;
            at = path.after;
            let net = &self.nets[path.net as usize];
            Some((net.addr, net.len, path.path_id, path.attr, path.verdict))
        })
    }

    /// Whether a stale path became fresh since this was last asked: what is advertised may be as before all the same.
    pub fn take_freshened(&mut self) -> bool {
        std::mem::take(&mut self.freshened)
    }

    /// Whether a prefix waits for [`Table::flush`].
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Decides every marked prefix anew and hands each change to `emit`, while both its sets are still held.
    pub fn flush(&mut self, store: &mut Store, sources: &Sources, mut emit: impl FnMut(&Store, Change<A>)) {
        let mut lost = Vec::new();
        let mut dirty = std::mem::take(&mut self.dirty);
        for i in dirty.drain(..) {
            let net = self.nets[i as usize];
            let new = self.best(net.head, store, sources, &mut lost).unwrap_or(AttrId::NONE);
            let entry = &mut self.nets[i as usize];
            entry.dirty = false;
            if new != net.advertised {
                entry.advertised = new;
                let (new, old) = (new.some(), net.advertised.some());
                if let Some(new) = new {
                    store.acquire(new);
                    self.count_advertised(store, new, true);
                }
                emit(store, Change { addr: net.addr, len: net.len, old, new });
                if let Some(old) = old {
                    self.count_advertised(store, old, false);
                    store.release(old);
                }
            }
            let entry = &self.nets[i as usize];
            if entry.head == NONE && entry.advertised == AttrId::NONE {
                self.drop_net(i);
            }
        }
        self.dirty = dirty;
        if self.dirty.capacity() > 1 << 16 {
            self.dirty = Vec::new();
        }
    }

    fn count_advertised(&mut self, store: &Store, attr: AttrId, up: bool) {
        let Some(source) = store.source(attr) else { return };
        let marked = u32::from(store.get(attr).is_some_and(|a| a.long_lived_stale));
        let held = &mut self.held[source.index()];
        if up {
            held.advertised += 1;
            held.advertised_marked += marked;
            self.advertised += 1;
        } else {
            held.advertised -= 1;
            held.advertised_marked -= marked;
            self.advertised -= 1;
        }
    }

    fn drop_net(&mut self, i: u32) {
        let net = self.nets[i as usize];
        let hash = place(&self.hasher, net.addr, net.len);
        if let Ok(entry) = self.index.find_entry(hash, |j| *j == i) {
            entry.remove();
        }
        self.nets[i as usize].len = 0;
        self.nets[i as usize].head = self.free_net;
        self.free_net = i;
    }

    fn best(
        &self,
        head: u32,
        store: &Store,
        sources: &Sources,
        lost: &mut Vec<Option<Step>>,
    ) -> Option<AttrId> {
        let first = self.paths.get(head as usize)?;
        if first.next == NONE {
            return (first.verdict == 0).then_some(first.attr);
        }
        let chain: Vec<&Path> = self.chain(head).filter(|p| p.verdict == 0).collect();
        let candidates: Vec<Candidate<'_>> =
            chain.iter().filter_map(|p| candidate(p, store, sources)).collect();
        Some(chain.get(decide(&candidates, lost)?)?.attr)
    }

    fn chain(&self, head: u32) -> impl Iterator<Item = &Path> {
        let mut at = head;
        std::iter::from_fn(move || {
            let path = self.paths.get(at as usize)?;
            at = path.next;
            Some(path)
        })
    }

    /// What the last flush advertised for a prefix.
    pub fn advertised(&self, addr: A, len: u8) -> Option<AttrId> {
        self.nets[self.find(addr, len)? as usize].advertised.some()
    }

    /// Up to `count` entries from number `from`, or fewer when `each` says that it has enough: every advertised
    /// prefix among them goes to `each`. Returns where to go on, `None` at the end. Prefixes that change meanwhile
    /// may be left out; the log has them.
    pub fn scan(
        &self,
        from: usize,
        count: usize,
        mut each: impl FnMut(A, u8, AttrId) -> Scan,
    ) -> Option<usize> {
        let mut to = self.nets.len().min(from + count);
        for (i, net) in self.nets.get(from..to)?.iter().enumerate() {
            if let Some(attr) = net.advertised.some()
                && each(net.addr, net.len, attr) == Scan::Enough
            {
                to = from + i + 1;
                break;
            }
        }
        (to < self.nets.len()).then_some(to)
    }

    /// One more than the highest number that [`Table::scan`] can reach.
    pub fn scan_bound(&self) -> usize {
        self.nets.len()
    }

    /// All paths of a prefix as the decision sees them now.
    pub fn explain(&self, addr: A, len: u8, store: &Store, sources: &Sources) -> Vec<PathInfo> {
        match self.find(addr, len) {
            Some(i) => self.explain_net(i, store, sources),
            None => Vec::new(),
        }
    }

    fn explain_net(&self, i: u32, store: &Store, sources: &Sources) -> Vec<PathInfo> {
        let mut infos: Vec<PathInfo> = self
            .chain(self.nets[i as usize].head)
            .map(|p| PathInfo {
                attr: p.attr,
                source: p.source,
                rejected: RejectReason::from_code(p.verdict),
                stale: p.kept != Kept::Live,
                lost: None,
                best: false,
                equal: false,
                path_id: p.path_id,
                sent_id: 0,
                rank: 0,
            })
            .collect();
        self.sent_as(i, &mut infos);
        let chain = self.chain(self.nets[i as usize].head).filter(|p| p.verdict == 0);
        let candidates: Vec<Candidate<'_>> = chain.filter_map(|p| candidate(p, store, sources)).collect();
        let mut lost = Vec::new();
        if decide(&candidates, &mut lost).is_some() {
            for (info, lost) in infos.iter_mut().filter(|i| i.rejected.is_none()).zip(lost) {
                info.lost = lost;
                info.best = lost.is_none();
            }
        }
        infos
    }

    /// Every prefix that has a path or is still advertised, in no order.
    pub fn prefixes(&self) -> impl Iterator<Item = (A, u8)> + '_ {
        self.index.iter().map(|i| (self.nets[*i as usize].addr, self.nets[*i as usize].len))
    }

    /// How many prefixes are advertised.
    pub fn advertised_count(&self) -> usize {
        self.advertised
    }

    /// How many paths are held.
    pub fn path_count(&self) -> usize {
        self.path_count
    }
}

fn candidate<'a>(path: &Path, store: &'a Store, sources: &Sources) -> Option<Candidate<'a>> {
    let source = sources.get(path.source)?;
    let attributes = store.get(path.attr)?;
    Some(Candidate {
        attributes,
        local: source.is_local(),
        stale: path.kept != Kept::Live,
        external: source.external,
        next_hop_cost: sources.costs.of(attributes.next_hop),
        peer_address: source.address,
        path_id: path.path_id,
    })
}

mod shown;
#[cfg(test)]
mod tests;
