//! What goes out: one log that all sessions share, and each session's place in it.
//!
//! A session sends, in this order: the rest of a chunk that it has begun, its own small messages, pieces of a
//! whole table (at its start, or on refresh), and then the log from its cursor on. A session that cannot keep up
//! is taken off the log; from then on only the set of prefixes that it must hear about is kept for it, so what it
//! costs is bounded by the table, and it gets the latest state, not the history.

use std::collections::VecDeque;
use std::io::IoSlice;

use ahash::RandomState;
use bytes::{Buf, Bytes};
use hashbrown::HashSet;

use crate::attributes::{Walk, code, mp_reach, mp_unreach};
use crate::message::{Address, HEADER_LEN, Kind, Update, frame, next_route};
use crate::reflect::Chunk;
use crate::session::Millis;
use crate::types::Family;

/// Slices that one write gathers at most.
pub const SLICES: usize = 64;

/// What keeping a chunk costs beside its octets: its entry, the allocation's header, the reference count.
const CHUNK_COST: usize = 128;

/// The shared log. Positions grow for ever and are never reused.
#[derive(Debug, Default)]
pub struct Log {
    chunks: VecDeque<Chunk>,
    base: u64,
    bytes: usize,
}

impl Log {
    /// The position after the last chunk.
    pub fn head(&self) -> u64 {
        self.base + self.chunks.len() as u64
    }

    /// Appends a chunk.
    pub fn push(&mut self, chunk: Chunk) {
        self.bytes += chunk.bytes.len() + CHUNK_COST;
        self.chunks.push_back(chunk);
    }

    /// The chunk at a position.
    #[inline]
    pub fn get(&self, at: u64) -> Option<&Chunk> {
        self.chunks.get(usize::try_from(at.checked_sub(self.base)?).ok()?)
    }

    /// Forgets everything before a position.
    pub fn trim(&mut self, to: u64) {
        while self.base < to
            && let Some(chunk) = self.chunks.pop_front()
        {
            self.bytes -= chunk.bytes.len() + CHUNK_COST;
            self.base += 1;
        }
        if self.chunks.is_empty() && self.chunks.capacity() > 4096 {
            self.chunks = VecDeque::new();
        }
    }

    /// Octets held, with what keeping them costs.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The first position from which on at most `bytes` octets are held.
    pub fn last_bytes(&self, bytes: usize) -> u64 {
        let mut sum = 0;
        let kept = self.chunks.iter().rev().take_while(|c| {
            sum += c.bytes.len() + CHUNK_COST;
            sum <= bytes
        });
        self.head() - kept.count() as u64
    }
}

/// Prefixes that a session off the log must still hear about.
#[derive(Debug, Default)]
pub struct Behind {
    /// IPv4 prefixes, each with a path identifier or 0.
    pub v4: HashSet<(u32, u8, u32), RandomState>,
    /// IPv6 prefixes, each with a path identifier or 0.
    pub v6: HashSet<(u128, u8, u32), RandomState>,
}

/// Who an established session is to the log.
#[derive(Debug, Clone, Copy)]
pub struct Member {
    /// Its source's uid: what carries it is not for this session.
    pub uid: u64,
    /// Whether the peer is a client.
    pub client: bool,
    /// Negotiated families, by [`Family::index`].
    pub families: [bool; 2],
    /// Whether messages over 4,096 octets may be sent.
    pub extended: bool,
    /// Whether it knows long-lived graceful restart, and so is sent what is marked LLGR_STALE (RFC 9494).
    pub long_lived: bool,
    /// How many paths of a prefix it is sent with their identifiers ([`Chunk::paths`]), by [`Family::index`].
    pub paths: [u8; 2],
}

impl Member {
    /// Whether a chunk is for this session.
    #[inline]
    pub fn gets(&self, chunk: &Chunk) -> bool {
        chunk.audience.has(self.uid, self.client)
            && self.families[chunk.family.index()]
            && self.paths[chunk.family.index()] == chunk.paths
            && (self.extended || !chunk.extended)
            && chunk.long_lived.is_none_or(|knows| knows == self.long_lived)
    }
}

/// One session's outgoing side.
#[derive(Debug, Default)]
pub struct Outbox {
    begun: Bytes,
    control: VecDeque<Bytes>,
    bulk: VecDeque<Bytes>,
    member: Option<Member>,
    cursor: u64,
    /// Nothing of the table or the log has been sent yet.
    fresh: bool,
    /// Where the table's scan goes on, by family.
    pub snapshot: [Option<usize>; 2],
    /// Set while the session is off the log.
    pub behind: Option<Box<Behind>>,
    /// Markers that wait until the session has sent the log up to a position: End-of-RIB by family.
    pub end_of_rib: [Option<u64>; 2],
    /// The same for the end of a refresh (EoRR).
    pub end_of_refresh: [Option<u64>; 2],
    /// Octets sent.
    pub sent: u64,
    /// When octets last left, or when there were none to send.
    pub progress_at: Millis,
}

impl Outbox {
    /// The outgoing side of a fresh connection.
    pub fn new(now: Millis) -> Outbox {
        Outbox { progress_at: now, ..Outbox::default() }
    }

    /// Queues a small message of this session alone, before all routes.
    pub fn control(&mut self, message: Vec<u8>) {
        if !message.is_empty() {
            self.control.push_back(Bytes::from(message));
        }
    }

    /// Queues routes or markers of this session alone, before the log.
    pub fn bulk(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.bulk.push_back(bytes);
        }
    }

    /// Joins the log at a position.
    pub fn join(&mut self, member: Member, at: u64) {
        self.member = Some(member);
        self.cursor = at;
        self.fresh = true;
    }

    /// Whether this is the first piece of a session that has been sent no route yet: asked once.
    pub fn take_fresh(&mut self) -> bool {
        std::mem::take(&mut self.fresh)
    }

    /// The whole table of now is queued: the log up to its head is no longer needed.
    pub fn skip_to_head(&mut self, log: &Log) {
        self.cursor = log.head();
    }

    /// Who the session is to the log, once established.
    pub fn member(&self) -> Option<&Member> {
        self.member.as_ref()
    }

    /// The first position that the session still needs; `None`: nothing of the log.
    pub fn needs(&self) -> Option<u64> {
        (self.member.is_some() && self.behind.is_none()).then_some(self.cursor)
    }

    /// Whether anything is ready to be written, or can be made so by a refill.
    pub fn has_output(&self, log: &Log) -> bool {
        !self.begun.is_empty()
            || !self.control.is_empty()
            || !self.bulk.is_empty()
            || self.needs_refill()
            || self.needs().is_some_and(|c| c < log.head())
            || (self.behind.is_none() && (self.due(&self.end_of_rib) || self.due(&self.end_of_refresh)))
    }

    fn due(&self, marks: &[Option<u64>; 2]) -> bool {
        marks.iter().flatten().any(|at| *at <= self.cursor)
    }

    /// Whether [`Outbox::bulk`] is empty and the table has more for it.
    pub fn needs_refill(&self) -> bool {
        self.bulk.is_empty() && (self.snapshot.iter().any(Option::is_some) || self.behind.is_some())
    }

    /// Queues the markers whose position has been reached.
    pub fn marks(&mut self, log: &Log) {
        self.skip(log);
        let due = self.due(&self.end_of_rib) || self.due(&self.end_of_refresh);
        if !due || self.behind.is_some() || self.snapshot.iter().any(Option::is_some) {
            return;
        }
        for family in Family::ALL {
            let at = self.cursor;
            let mut out = Vec::new();
            if self.end_of_refresh[family.index()].take_if(|m| *m <= at).is_some() {
                crate::message::Refresh::End.encode(family, &mut out);
            }
            if self.end_of_rib[family.index()].take_if(|m| *m <= at).is_some() {
                crate::message::put_end_of_rib(family, &mut out);
            }
            self.bulk(Bytes::from(out));
        }
    }

    /// Moves the cursor over chunks that are for others.
    fn skip(&mut self, log: &Log) {
        let Some(member) = self.member.filter(|_| self.behind.is_none()) else { return };
        while let Some(chunk) = log.get(self.cursor)
            && !member.gets(chunk)
        {
            self.cursor += 1;
        }
    }

    /// Fills `slices` with what is to be written next; returns how many.
    pub fn gather<'a>(&'a mut self, log: &'a Log, slices: &mut [IoSlice<'a>]) -> usize {
        self.marks(log);
        let own = [&self.begun].into_iter().filter(|b| !b.is_empty()).chain(&self.control).chain(&self.bulk);
        let mut n = 0;
        for bytes in own.take(slices.len()) {
            slices[n] = IoSlice::new(bytes);
            n += 1;
        }
        // Nothing of the log may overtake a table scan that is not finished: it would then be overwritten.
        if self.snapshot.iter().any(Option::is_some) || self.behind.is_some() {
            return n;
        }
        if let Some(member) = &self.member {
            let mut at = self.cursor;
            while n < slices.len()
                && let Some(chunk) = log.get(at)
            {
                if member.gets(chunk) {
                    slices[n] = IoSlice::new(&chunk.bytes);
                    n += 1;
                }
                at += 1;
            }
        }
        n
    }

    /// Counts `n` octets of what [`Outbox::gather`] offered as written.
    pub fn wrote(&mut self, log: &Log, mut n: usize, now: Millis) {
        self.sent += n as u64;
        self.progress_at = now;
        if !self.begun.is_empty() {
            let part = n.min(self.begun.len());
            self.begun.advance(part);
            n -= part;
        }
        for queue in [&mut self.control, &mut self.bulk] {
            while n > 0
                && let Some(mut bytes) = queue.pop_front()
            {
                let part = n.min(bytes.len());
                bytes.advance(part);
                self.begun = bytes;
                n -= part;
            }
        }
        if self.begun.is_empty() {
            self.begun = Bytes::new();
        }
        while n > 0 {
            self.skip(log);
            let Some(chunk) = log.get(self.cursor) else { return };
            let part = n.min(chunk.bytes.len());
            if part < chunk.bytes.len() {
                self.begun = chunk.bytes.slice(part..);
            }
            self.cursor += 1;
            n -= part;
        }
        self.skip(log);
    }

    /// Takes the session off the log: what it has not begun becomes a set of prefixes.
    pub fn fall_behind(&mut self, log: &Log) {
        let Some(member) = self.member.filter(|_| self.behind.is_none()) else { return };
        let mut behind = Box::<Behind>::default();
        while let Some(chunk) = log.get(self.cursor) {
            if member.gets(chunk) {
                behind.add(&chunk.bytes, chunk.paths > 0);
            }
            self.cursor += 1;
        }
        self.behind = Some(behind);
    }

    /// Puts the session back onto the log at its head.
    pub fn catch_up(&mut self, log: &Log) {
        self.behind = None;
        self.cursor = log.head();
    }

    /// The last octets of a session that ends: what it has begun, and its own messages.
    pub fn farewell(&mut self) -> Vec<u8> {
        let mut all = self.begun.to_vec();
        self.control.iter().for_each(|b| all.extend_from_slice(b));
        *self = Outbox { sent: self.sent, ..Outbox::default() };
        all
    }
}

impl Behind {
    /// How many prefixes there are.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds every prefix that our own messages in `bytes` name.
    fn add(&mut self, bytes: &[u8], ids: bool) {
        let mut rest = bytes;
        while let Ok(Some((Kind::Update, whole))) = frame(rest, true) {
            if let Ok(update) = Update::split(&rest[HEADER_LEN..whole]) {
                add_all::<u32>(&mut self.v4, update.withdrawn, ids);
                add_all::<u32>(&mut self.v4, update.nlri, ids);
                for a in Walk(update.attributes) {
                    match a.code {
                        code::MP_REACH => {
                            if let Ok(Some((_, _, nlri))) = mp_reach(a.value) {
                                add_all::<u128>(&mut self.v6, nlri, ids);
                            }
                        }
                        code::MP_UNREACH => {
                            if let Ok(Some((_, nlri))) = mp_unreach(a.value) {
                                add_all::<u128>(&mut self.v6, nlri, ids);
                            }
                        }
                        _ => {}
                    }
                }
            }
            rest = &rest[whole..];
        }
    }
}

fn add_all<A: Address>(set: &mut HashSet<(A, u8, u32), RandomState>, mut nlri: &[u8], ids: bool) {
    while let Ok(Some(route)) = next_route::<A>(&mut nlri, ids) {
        set.insert(route);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reflect::Audience;
    use proptest::prelude::*;

    fn chunk(n: usize, audience: Audience) -> Chunk {
        Chunk {
            bytes: Bytes::from(vec![n as u8; 10 + n % 7]),
            audience,
            family: Family::Ipv4,
            extended: false,
            long_lived: None,
            paths: 0,
        }
    }

    proptest! {
        /// However the socket cuts the writes, a session sends its own messages whole, in order, and of the log
        /// exactly what is for it.
        #[test]
        fn writes_of_any_size_lose_and_reorder_nothing(
            chunks in proptest::collection::vec(1..4u64, 0..100),
            writes in proptest::collection::vec(1..40usize, 0..400),
            controls in proptest::collection::vec(0..300usize, 0..6),
        ) {
            let (families, paths) = ([true; 2], [0; 2]);
            let member = Member { uid: 1, client: true, families, extended: false, long_lived: false, paths };
            let mut log = Log::default();
            let mut out = Outbox::default();
            out.join(member, 0);
            let mut want = Vec::new();
            for (n, source) in chunks.iter().enumerate() {
                let c = chunk(n, Audience::AllBut(*source));
                if *source != 1 {
                    want.extend_from_slice(&c.bytes);
                }
                log.push(c);
            }
            let mut got = Vec::new();
            let mut own = 0;
            for (i, n) in writes.iter().chain(std::iter::repeat_n(&1000, 200)).enumerate() {
                if controls.contains(&i) {
                    out.control(vec![255; 5]);
                    own += 5;
                }
                let mut slices = [IoSlice::new(&[]); SLICES];
                let k = out.gather(&log, &mut slices);
                let all: Vec<u8> = slices[..k].iter().flat_map(|s| s.to_vec()).collect();
                let n = (*n).min(all.len());
                got.extend_from_slice(&all[..n]);
                out.wrote(&log, n, 0);
            }
            prop_assert!(!out.has_output(&log));
            prop_assert_eq!(got.iter().filter(|b| **b == 255).count(), own);
            let mut at = 0;
            while at < got.len() {
                if got[at] == 255 {
                    prop_assert_eq!(&got[at..at + 5], [255; 5], "whole");
                    got.drain(at..at + 5);
                } else {
                    at += 10 + usize::from(got[at]) % 7;
                }
            }
            prop_assert_eq!(got, want);
        }
    }
}
