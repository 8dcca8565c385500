//! What ADD-PATH (RFC 7911) needs beside the best path: the rank of every path, and what of that changed.
//!
//! A path goes out under the number of its place in the table, which it keeps for as long as it lives; a
//! replacement of the same source (and identifier as received) takes its place. Nothing of this is kept, and
//! nothing costs anything, while no session is sent more than the best path.

use super::{NONE, PathInfo, Table, candidate};
use crate::best_path::{Candidate, decide};
use crate::message::Address;
use crate::store::{AttrId, SourceId, Sources, Store};

/// The rank of a path behind those whose order matters to somebody.
const LAST: u8 = u8::MAX;

/// A change of one path: of its rank, or of its attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathChange<A> {
    /// The prefix's address.
    pub addr: A,
    /// The prefix's length.
    pub len: u8,
    /// The identifier under which the path goes out.
    pub id: u32,
    /// Where the path is from.
    pub source: SourceId,
    /// Its attributes; [`AttrId::NONE`] once it is gone.
    pub attr: AttrId,
    /// Its rank before: 1 for the best, 0 for none.
    pub was: u8,
    /// Its rank now.
    pub is: u8,
    /// Whether its attributes changed.
    pub changed: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Rank {
    rank: u8,
    changed: bool,
}

#[derive(Debug)]
struct Removed {
    net: u32,
    id: u32,
    rank: u8,
    source: SourceId,
}

/// The ranks as of the last flush, by the paths' numbers.
#[derive(Debug, Default)]
pub(super) struct Ranks {
    on: bool,
    /// Up to which rank the order matters; all others have [`LAST`].
    depth: u8,
    of: Vec<Rank>,
    removed: Vec<Removed>,
}

impl Ranks {
    #[inline]
    pub(super) fn changed(&mut self, path: u32) {
        if self.on {
            self.of[path as usize].changed = true;
        }
    }

    #[inline]
    pub(super) fn added(&mut self, path: u32) {
        if self.on {
            let i = path as usize;
            self.of.resize(self.of.len().max(i + 1), Rank::default());
            self.of[i] = Rank::default();
        }
    }

    #[inline]
    pub(super) fn removed(&mut self, path: u32, net: u32, source: SourceId) {
        if self.on {
            let rank = std::mem::take(&mut self.of[path as usize]).rank;
            if rank != 0 {
                self.removed.push(Removed { net, id: path + 1, rank, source });
            }
        }
    }
}

impl<A: Address> Table<A> {
    /// Starts or goes on to rank paths, in order up to `depth`; `None` stops. Nothing may wait for a flush.
    pub fn rank_paths(&mut self, depth: Option<u8>, store: &Store, sources: &Sources) {
        let Some(depth) = depth else {
            self.ranks = Ranks::default();
            return;
        };
        if self.ranks.on && self.ranks.depth == depth {
            return;
        }
        let of = vec![Rank::default(); self.paths.len()];
        self.ranks = Ranks { on: true, depth, of, removed: Vec::new() };
        for i in 0..self.nets.len() {
            if self.nets[i].head != NONE && self.index_holds(i as u32) {
                self.rank_net(i as u32, store, sources, &mut |_| {});
            }
        }
    }

    /// Whether a net is in use: a free entry's `head` is the next free one.
    fn index_holds(&self, i: u32) -> bool {
        let net = &self.nets[i as usize];
        self.find(net.addr, net.len) == Some(i)
    }

    /// Ranks the paths of every marked prefix anew and hands each change to `emit`. To be called before
    /// [`Table::flush`], which takes the marks away.
    pub fn flush_paths(&mut self, store: &Store, sources: &Sources, mut emit: impl FnMut(PathChange<A>)) {
        if !self.ranks.on {
            return;
        }
        for gone in std::mem::take(&mut self.ranks.removed) {
            let net = &self.nets[gone.net as usize];
            let (addr, len, id, source) = (net.addr, net.len, gone.id, gone.source);
            emit(PathChange {
                addr,
                len,
                id,
                source,
                attr: AttrId::NONE,
                was: gone.rank,
                is: 0,
                changed: true,
            });
        }
        for at in 0..self.dirty.len() {
            self.rank_net(self.dirty[at], store, sources, &mut emit);
        }
    }

    fn rank_net(&mut self, net: u32, store: &Store, sources: &Sources, emit: &mut impl FnMut(PathChange<A>)) {
        let mut left: Vec<u32> = Vec::new();
        let mut ranked: Vec<(u32, u8)> = Vec::new();
        let mut at = self.nets[net as usize].head;
        while let Some(path) = self.paths.get(at as usize) {
            if path.verdict == 0 {
                left.push(at);
            } else {
                ranked.push((at, 0));
            }
            at = path.next;
        }
        let mut lost = Vec::new();
        for rank in 1..=self.ranks.depth {
            let candidates: Vec<Candidate<'_>> =
                left.iter().filter_map(|i| candidate(&self.paths[*i as usize], store, sources)).collect();
            let Some(best) = decide(&candidates, &mut lost) else { break };
            ranked.push((left.remove(best), rank));
        }
        ranked.extend(left.into_iter().map(|i| (i, LAST)));
        let (addr, len) = (self.nets[net as usize].addr, self.nets[net as usize].len);
        for (i, is) in ranked {
            let path = &self.paths[i as usize];
            let before = std::mem::replace(&mut self.ranks.of[i as usize], Rank { rank: is, changed: false });
            if before.rank != is || before.changed {
                let (id, source, attr) = (i + 1, path.source, path.attr);
                let changed = before.changed;
                emit(PathChange { addr, len, id, source, attr, was: before.rank, is, changed });
            }
        }
    }

    /// As [`Table::scan`], for every ranked path: its prefix, identifier, attributes and rank.
    pub fn scan_paths(
        &self,
        from: usize,
        count: usize,
        mut each: impl FnMut(A, u8, u32, AttrId, u8),
    ) -> Option<usize> {
        let to = self.nets.len().min(from.saturating_add(count));
        for (i, net) in self.nets.get(from..to)?.iter().enumerate() {
            if net.head == NONE || !self.index_holds((from + i) as u32) {
                continue;
            }
            let mut at = net.head;
            while let Some(path) = self.paths.get(at as usize) {
                each(net.addr, net.len, at + 1, path.attr, self.rank(at));
                at = path.next;
            }
        }
        (to < self.nets.len()).then_some(to)
    }

    /// The attributes and rank of the path that goes out under an identifier; `None` if there is none.
    pub fn ranked_path(&self, addr: A, len: u8, id: u32) -> Option<(AttrId, u8)> {
        let mut at = self.nets[self.find(addr, len)? as usize].head;
        while let Some(path) = self.paths.get(at as usize) {
            if at + 1 == id {
                return Some((path.attr, self.rank(at)));
            }
            at = path.next;
        }
        None
    }

    /// Fills in under which identifier and rank the paths of a net go out; they are in the chain's order.
    pub(super) fn sent_as(&self, net: u32, infos: &mut [PathInfo]) {
        let mut at = self.nets[net as usize].head;
        for info in infos {
            let Some(path) = self.paths.get(at as usize) else { return };
            (info.sent_id, info.rank) = (at + 1, self.rank(at));
            at = path.next;
        }
    }

    fn rank(&self, path: u32) -> u8 {
        self.ranks.of.get(path as usize).map_or(0, |r| r.rank)
    }
}
