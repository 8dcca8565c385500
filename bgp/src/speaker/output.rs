//! Routes out: what changed goes into the log once, and each session takes from there.

use std::io::IoSlice;

use super::{ConnId, Speaker};
use crate::egress::{Behind, Log, Member};
use crate::message::Address;
use crate::reflect::{Audience, Batch};
use crate::rib::{Change, PathChange, Scan, Table};
use crate::session::Millis;
use crate::settings::AddPathOptions;
use crate::store::{Sources, Store};
use crate::types::Family;

/// Prefixes of one piece of a table scan.
const SCAN: usize = 16_384;
/// Attribute sets of one piece of a table scan: what bounds its octets, at most 4,096 for each set.
const SCAN_SETS: usize = 512;
/// Prefixes of one piece for a session that is off the log; each may have attributes of its own.
const CATCH_UP: usize = 512;
/// Paths that a session off the log may have to be told about, beyond twice those of the table. They are more
/// than the table's when routes come and go: each may have to be withdrawn.
const BEHIND_SPARE: usize = 65_536;

impl Speaker {
    /// Decides everything that changed and puts it into the log.
    pub fn flush(&mut self) {
        if self.tap.is_some() {
            self.tap_hand_on();
        }
        if self.v4.is_dirty() || self.v6.is_dirty() {
            let mut behind: Vec<([u8; 2], &mut Behind)> = self
                .conns
                .iter_mut()
                .flatten()
                .filter_map(|c| Some((c.out.member()?.paths, c.out.behind.as_deref_mut()?)))
                .collect();
            let (store, sources, batch, log) =
                (&mut self.store, &self.sources, &mut self.batch, &mut self.log);
            let before = log.head();
            flush_paths(&mut self.v4, store, sources, &mut self.path_batches, log, |c| {
                for (_, b) in behind.iter_mut().filter(|(paths, _)| paths[0] > 0) {
                    b.v4.insert((c.addr, c.len, c.id));
                }
            });
            flush_paths(&mut self.v6, store, sources, &mut self.path_batches, log, |c| {
                for (_, b) in behind.iter_mut().filter(|(paths, _)| paths[1] > 0) {
                    b.v6.insert((c.addr, c.len, c.id));
                }
            });
            // Both are asked: what was stale and came again as it was changes nothing else.
            let fresh = self.v4.take_freshened() | self.v6.take_freshened();
            self.publish |= fresh && self.config.publish_best_paths;
            let mut changed = self.published.notes(self.config.publish_best_paths && !self.publish);
            if self.config.maximum_paths > 1 {
                // Another path than the best may have come or gone.
                self.v4.marked().for_each(|(addr, len)| changed.note(addr, len));
                self.v6.marked().for_each(|(addr, len)| changed.note(addr, len));
            }
            flush_table(&mut self.v4, store, sources, batch, log, |change| {
                for (_, b) in behind.iter_mut().filter(|(paths, _)| paths[0] == 0) {
                    b.v4.insert((change.addr, change.len, 0));
                }
                changed.note(change.addr, change.len);
            });
            flush_table(&mut self.v6, store, sources, batch, log, |change| {
                for (_, b) in behind.iter_mut().filter(|(paths, _)| paths[1] == 0) {
                    b.v6.insert((change.addr, change.len, 0));
                }
                changed.note(change.addr, change.len);
            });
            if self.log.head() != before {
                self.bound_log();
                self.bound_behind();
            }
        }
        for source in std::mem::take(&mut self.ending) {
            if self.v4.held(source).paths == 0 && self.v6.held(source).paths == 0 {
                self.sources.remove(source);
                self.rejections.iter_mut().for_each(|r| r.forget(source));
            }
        }
    }

    /// Forgets what everybody has sent, and takes sessions off the log that are too far behind.
    fn bound_log(&mut self) {
        self.trim_log();
        if self.log.bytes() > self.config.log_limit_bytes {
            let keep_from = self.log.last_bytes(self.config.log_limit_bytes / 2);
            for conn in self.conns.iter_mut().flatten() {
                if conn.out.needs().is_some_and(|at| at < keep_from) {
                    conn.out.fall_behind(&self.log);
                }
            }
            self.trim_log();
        }
    }

    /// What must be told to a session that takes nothing is bounded too: one beyond it is ended by the next tick,
    /// which is due at once.
    fn bound_behind(&mut self) {
        let most = 2 * (self.v4.path_count() + self.v6.path_count()) + BEHIND_SPARE;
        for conn in self.conns.iter_mut().flatten() {
            if conn.out.behind.as_ref().is_some_and(|b| b.len() > most) {
                conn.overrun = true;
                self.wake_at = 0;
            }
        }
    }

    /// Forgets what everybody has sent.
    pub fn trim_log(&mut self) {
        let needed = self.conns.iter().flatten().filter_map(|c| c.out.needs()).min();
        self.log.trim(needed.unwrap_or(self.log.head()));
    }

    /// The first connection from slot `from` on that has something to write.
    pub fn next_with_output(&self, from: usize) -> Option<ConnId> {
        let conns = self.conns.iter().enumerate().skip(from);
        conns
            .filter_map(|(slot, c)| Some((slot, c.as_ref()?)))
            .find(|(_, c)| c.out.has_output(&self.log))
            .map(|(slot, c)| ConnId { slot, serial: c.serial })
    }

    /// Fills `slices` with what the connection shall write next; returns how many.
    pub fn gather<'a>(&'a mut self, id: ConnId, slices: &mut [IoSlice<'a>]) -> usize {
        if !self.live(id) {
            return 0;
        }
        while self.conn(id.slot).is_some_and(|c| c.out.needs_refill()) {
            self.refill(id.slot);
        }
        match &mut self.conns[id.slot] {
            Some(conn) => conn.out.gather(&self.log, slices),
            None => 0,
        }
    }

    /// Whether the connection has something to write.
    pub fn has_output(&self, id: ConnId) -> bool {
        self.live(id) && self.conn(id.slot).is_some_and(|c| c.out.has_output(&self.log))
    }

    /// Counts `n` of the gathered octets as written.
    pub fn wrote(&mut self, id: ConnId, n: usize, now: Millis) {
        if self.live(id)
            && let Some(conn) = &mut self.conns[id.slot]
        {
            conn.out.wrote(&self.log, n, now);
        }
    }

    /// Gives a session the next piece of the table, or of what it missed.
    fn refill(&mut self, slot: usize) {
        let Some(Some(conn)) = self.conns.get_mut(slot) else { return };
        let Some(member) = conn.out.member().copied() else { return };
        let (store, sources) = (&self.store, &self.sources);
        let mut batches = Batches { best: &mut self.batch, paths: &mut self.path_batches };
        let mut pieces = Vec::new();
        let small = self.v4.scan_bound() <= SCAN && self.v6.scan_bound() <= SCAN;
        let fresh = conn.out.take_fresh();
        if fresh {
            // The scan begins now: what the log says up to its head is in it.
            conn.out.skip_to_head(&self.log);
        }
        let scanning: Vec<Family> =
            Family::ALL.into_iter().filter(|f| conn.out.snapshot[f.index()].is_some()).collect();
        for family in scanning.iter().take(if fresh && small { 2 } else { 1 }) {
            let from = conn.out.snapshot[family.index()].unwrap_or(0);
            let next = match family {
                Family::Ipv4 => scan(&self.v4, from, store, sources, &mut batches, &member, &mut pieces),
                Family::Ipv6 => scan(&self.v6, from, store, sources, &mut batches, &member, &mut pieces),
            };
            conn.out.snapshot[family.index()] = next;
            if next.is_none() {
                // What changed during the scan is in the log up to here; only then is the picture whole.
                for mark in [&mut conn.out.end_of_rib, &mut conn.out.end_of_refresh] {
                    if let Some(at) = &mut mark[family.index()] {
                        *at = self.log.head();
                    }
                }
            }
        }
        if scanning.is_empty()
            && let Some(mut behind) = conn.out.behind.take()
        {
            let v4: Vec<(u32, u8, u32)> = behind.v4.extract_if(|_| true).take(CATCH_UP).collect();
            catch_up(&self.v4, &v4, store, sources, &mut batches, &member, &mut pieces);
            let v6: Vec<(u128, u8, u32)> = behind.v6.extract_if(|_| true).take(CATCH_UP).collect();
            catch_up(&self.v6, &v6, store, sources, &mut batches, &member, &mut pieces);
            if behind.v4.is_empty() && behind.v6.is_empty() {
                conn.out.catch_up(&self.log);
            } else {
                conn.out.behind = Some(behind);
            }
        }
        for piece in pieces {
            conn.out.bulk(piece);
        }
    }

    /// Has paths ranked for as many as some session is sent, and no further.
    pub(super) fn settle_paths(&mut self) {
        let members = self.conns.iter().flatten().filter_map(|c| c.out.member());
        let mut wanted: Vec<u8> = members.flat_map(|m| m.paths).filter(|n| *n > 0).collect();
        wanted.sort_unstable();
        wanted.dedup();
        if wanted.is_empty() && self.path_batches.is_empty() {
            return;
        }
        self.flush();
        self.path_batches.retain(|b| wanted.contains(&b.paths()));
        for n in &wanted {
            if !self.path_batches.iter().any(|b| b.paths() == *n) {
                self.path_batches.push(Batch::with_paths(*n));
            }
        }
        let ordered = wanted.iter().filter(|n| **n < AddPathOptions::ALL).max().copied().unwrap_or(0);
        let depth = (!wanted.is_empty()).then_some(ordered);
        self.v4.rank_paths(depth, &self.store, &self.sources);
        self.v6.rank_paths(depth, &self.store, &self.sources);
    }
}

/// The batches that encode for one session at a time.
struct Batches<'a> {
    best: &'a mut Batch,
    paths: &'a mut [Batch],
}

impl Batches<'_> {
    /// The batch for sessions that are sent so many paths; `None`: for those that are sent the best.
    fn of(&mut self, paths: u8) -> Option<&mut Batch> {
        self.paths.iter_mut().find(|b| b.paths() == paths)
    }
}

/// Ranks the paths of one table and puts what changed into the log, for each number of paths that is sent.
fn flush_paths<A: Address>(
    table: &mut Table<A>,
    store: &Store,
    sources: &Sources,
    batches: &mut [Batch],
    log: &mut Log,
    mut each: impl FnMut(&PathChange<A>),
) {
    if batches.is_empty() {
        return;
    }
    table.flush_paths(store, sources, |change| {
        each(&change);
        batches.iter_mut().for_each(|b| b.path_change(sources, &change));
    });
    for batch in batches {
        batch.drain::<A>(store, |chunk| log.push(chunk));
    }
}

/// Decides one table.
fn flush_table<A: Address>(
    table: &mut Table<A>,
    store: &mut Store,
    sources: &Sources,
    batch: &mut Batch,
    log: &mut Log,
    mut each: impl FnMut(&Change<A>),
) {
    table.flush(store, sources, |store, change| {
        each(&change);
        batch.change(store, sources, change);
    });
    batch.drain::<A>(store, |chunk| log.push(chunk));
}

fn scan<A: Address>(
    table: &Table<A>,
    from: usize,
    store: &Store,
    sources: &Sources,
    batches: &mut Batches<'_>,
    member: &Member,
    pieces: &mut Vec<bytes::Bytes>,
) -> Option<usize> {
    if let Some(batch) = batches.of(member.paths[A::FAMILY.index()]) {
        let next = table.scan_paths(from, SCAN, |addr, len, id, attr, rank| {
            let audience = store.source(attr).map(|s| Audience::of(sources, s));
            if let Some(audience) = audience.filter(|a| batch.sends(rank) && a.has(member.uid, member.client))
            {
                batch.announce_path(attr, audience, addr, len, id);
            }
        });
        batch.drain::<A>(store, |chunk| pieces.extend(member.gets(&chunk).then_some(chunk.bytes)));
        return next;
    }
    let batch = &mut *batches.best;
    let next = table.scan(from, SCAN, |addr, len, attr| {
        let Some(source) = store.source(attr) else { return Scan::On };
        let audience = Audience::of(sources, source);
        if audience.has(member.uid, member.client) {
            batch.announce(attr, audience, addr, len);
        }
        if batch.sets() < SCAN_SETS { Scan::On } else { Scan::Enough }
    });
    batch.drain::<A>(store, |chunk| pieces.extend(member.gets(&chunk).then_some(chunk.bytes)));
    next
}

fn catch_up<A: Address>(
    table: &Table<A>,
    prefixes: &[(A, u8, u32)],
    store: &Store,
    sources: &Sources,
    batches: &mut Batches<'_>,
    member: &Member,
    pieces: &mut Vec<bytes::Bytes>,
) {
    if let Some(batch) = batches.of(member.paths[A::FAMILY.index()]) {
        for (addr, len, id) in prefixes {
            let path = table.ranked_path(*addr, *len, *id).filter(|(_, rank)| batch.sends(*rank));
            let audience =
                path.and_then(|(attr, _)| Some((attr, Audience::of(sources, store.source(attr)?))));
            match audience.filter(|(_, audience)| audience.has(member.uid, member.client)) {
                Some((attr, audience)) => batch.announce_path(attr, audience, *addr, *len, *id),
                None => batch.withdraw_path(Audience::Only(member.uid), *addr, *len, *id),
            }
        }
        return batch.drain::<A>(store, |chunk| pieces.extend(member.gets(&chunk).then_some(chunk.bytes)));
    }
    let batch = &mut *batches.best;
    for (addr, len, _) in prefixes {
        let attr = table.advertised(*addr, *len);
        let audience = attr.and_then(|a| Some((a, Audience::of(sources, store.source(a)?))));
        match audience.filter(|(_, audience)| audience.has(member.uid, member.client)) {
            Some((attr, audience)) => batch.announce(attr, audience, *addr, *len),
            None => batch.withdraw(Audience::Only(member.uid), *addr, *len),
        }
    }
    batch.drain::<A>(store, |chunk| pieces.extend(member.gets(&chunk).then_some(chunk.bytes)));
}
