//! Who gets a route (RFC 4456 section 6), and the UPDATEs that say so, encoded once for everybody.

use bytes::Bytes;

use crate::attributes::Attributes;
use crate::message::{Address, EXTENDED_MAX_LEN, HEADER_LEN, MAX_LEN, begin, finish, put_prefix};
use crate::rib::{Change, PathChange};
use crate::store::{AttrId, SourceId, Sources, Store};
use crate::types::Family;

/// A set of sessions: who receives a chunk of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Audience {
    /// Everybody but the source of this uid.
    AllBut(u64),
    /// Route-reflector clients but the source of this uid.
    Clients(u64),
    /// Peers that are not clients.
    NonClients,
    /// The source of this uid alone.
    Only(u64),
}

impl Audience {
    /// Whether a session belongs to it, by its source's uid and whether it is a client.
    #[inline]
    pub fn has(self, uid: u64, client: bool) -> bool {
        match self {
            Audience::AllBut(source) => uid != source,
            Audience::Clients(source) => client && uid != source,
            Audience::NonClients => !client,
            Audience::Only(source) => uid == source,
        }
    }

    /// Who gets a route of this source: a client's goes to everybody else, another peer's to clients alone, our
    /// own to everybody.
    pub fn of(sources: &Sources, source: SourceId) -> Audience {
        match sources.get(source) {
            Some(s) if s.client || s.is_local() => Audience::AllBut(s.uid),
            Some(s) => Audience::Clients(s.uid),
            None => Audience::Clients(u64::MAX),
        }
    }

    /// Who had the route under `self` and does not get the one under `new`: they need a withdrawal.
    fn left_out_by(self, new: Audience) -> Option<Audience> {
        match (self, new) {
            (Audience::AllBut(a), Audience::AllBut(b)) if a == b => None,
            (Audience::Clients(_), Audience::Clients(b)) if self != new => Some(Audience::Only(b)),
            (Audience::Clients(_), Audience::Clients(_)) => None,
            (Audience::AllBut(_), Audience::Clients(_)) => Some(Audience::NonClients),
            (_, Audience::AllBut(b)) => Some(Audience::Only(b)),
            _ => None,
        }
    }
}

/// Whole messages for the same sessions.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// The messages.
    pub bytes: Bytes,
    /// Who receives them.
    pub audience: Audience,
    /// Their family, which a session must have negotiated.
    pub family: Family,
    /// Whether a message is longer than 4,096 octets: only for sessions with extended messages.
    pub extended: bool,
    /// Only for sessions that know long-lived graceful restart (RFC 9494), or only for those that do not.
    pub long_lived: Option<bool>,
    /// 0: best paths, without path identifiers. Else for sessions that are sent so many paths of a prefix, each
    /// with its identifier (RFC 7911); [`crate::settings::AddPathOptions::ALL`]: all of them.
    pub paths: u8,
}

/// A chunk closes at this size, so that no keepalive waits long for the end of one.
const CHUNK_TARGET: usize = 60_000;

/// Changes of one flush, gathered by attribute set and audience. Buffers are kept from flush to flush.
#[derive(Debug, Default)]
pub struct Batch {
    announce: Vec<Group>,
    withdraw: Vec<Group>,
    /// By attribute number: the open group in `announce`, plus one.
    by_attr: Vec<u32>,
    spare: Vec<Vec<u8>>,
    /// Room for the chunk that is being filled.
    room: Vec<u8>,
    /// As [`Chunk::paths`]; with any, every prefix is preceded by its path identifier.
    paths: u8,
}

#[derive(Debug)]
struct Group {
    attr: AttrId,
    audience: Audience,
    nlri: Vec<u8>,
}

impl Batch {
    /// A batch for sessions that are sent so many paths of a prefix.
    pub fn with_paths(paths: u8) -> Batch {
        Batch { paths, ..Batch::default() }
    }

    /// For which sessions it is, as [`Chunk::paths`].
    pub fn paths(&self) -> u8 {
        self.paths
    }

    /// Takes in one change of a path, if it concerns these sessions.
    pub fn path_change<A: Address>(&mut self, sources: &Sources, change: &PathChange<A>) {
        let audience = Audience::of(sources, change.source);
        let (was, is) = (self.sends(change.was), self.sends(change.is));
        if is && (!was || change.changed) {
            self.announce_path(change.attr, audience, change.addr, change.len, change.id);
        } else if was && !is {
            self.withdraw_path(audience, change.addr, change.len, change.id);
        }
    }

    /// Whether a path of this rank is among those that these sessions are sent.
    #[inline]
    pub fn sends(&self, rank: u8) -> bool {
        rank != 0 && rank <= self.paths
    }

    /// Adds the announcement of one path.
    pub fn announce_path<A: Address>(&mut self, attr: AttrId, audience: Audience, addr: A, len: u8, id: u32) {
        let group = self.group(attr, audience);
        self.announce[group].nlri.extend_from_slice(&id.to_be_bytes());
        put_prefix(addr, len, &mut self.announce[group].nlri);
    }

    /// Adds the withdrawal of one path.
    pub fn withdraw_path<A: Address>(&mut self, audience: Audience, addr: A, len: u8, id: u32) {
        let group = self.withdraw_group(audience);
        self.withdraw[group].nlri.extend_from_slice(&id.to_be_bytes());
        put_prefix(addr, len, &mut self.withdraw[group].nlri);
    }

    /// Takes in one change of the table.
    pub fn change<A: Address>(&mut self, store: &Store, sources: &Sources, change: Change<A>) {
        let audience = |attr: Option<AttrId>| Some(Audience::of(sources, store.source(attr?)?));
        let (old, new) = (audience(change.old), audience(change.new));
        if let (Some(attr), Some(new)) = (change.new, new) {
            self.announce(attr, new, change.addr, change.len);
        }
        let withdraw = match (old, new) {
            (Some(old), Some(new)) => old.left_out_by(new),
            (old, _) => old,
        };
        if let Some(audience) = withdraw {
            self.withdraw(audience, change.addr, change.len);
        }
    }

    /// Adds an announcement.
    #[inline]
    pub fn announce<A: Address>(&mut self, attr: AttrId, audience: Audience, addr: A, len: u8) {
        let group = self.group(attr, audience);
        put_prefix(addr, len, &mut self.announce[group].nlri);
    }

    /// The open group of an attribute set.
    #[inline]
    fn group(&mut self, attr: AttrId, audience: Audience) -> usize {
        let at = attr.0 as usize;
        if self.by_attr.len() <= at {
            self.by_attr.resize(at + 1, 0);
        }
        if self.by_attr[at] == 0 {
            self.announce.push(Group { attr, audience, nlri: self.spare.pop().unwrap_or_default() });
            self.by_attr[at] = self.announce.len() as u32;
        }
        self.by_attr[at] as usize - 1
    }

    /// Adds a withdrawal.
    pub fn withdraw<A: Address>(&mut self, audience: Audience, addr: A, len: u8) {
        let group = self.withdraw_group(audience);
        put_prefix(addr, len, &mut self.withdraw[group].nlri);
    }

    fn withdraw_group(&mut self, audience: Audience) -> usize {
        // Mostly the same as the last one; else there are a few per source.
        let found = self.withdraw.iter().rposition(|g| g.audience == audience);
        found.unwrap_or_else(|| {
            let nlri = self.spare.pop().unwrap_or_default();
            self.withdraw.push(Group { attr: AttrId::NONE, audience, nlri });
            self.withdraw.len() - 1
        })
    }

    /// How many attribute sets the announcements have.
    pub fn sets(&self) -> usize {
        self.announce.len()
    }

    /// Whether nothing was taken in.
    pub fn is_empty(&self) -> bool {
        self.announce.is_empty() && self.withdraw.is_empty()
    }

    /// Encodes everything and hands out chunks. Withdrawals come first.
    pub fn drain<A: Address>(&mut self, store: &Store, mut emit: impl FnMut(Chunk)) {
        for group in &self.announce {
            self.by_attr[group.attr.0 as usize] = 0;
        }
        self.announce.sort_unstable_by_key(|g| (g.audience, g.attr));
        let bytes = std::mem::take(&mut self.room);
        let mut out = Open { paths: self.paths, bytes, kind: None };
        for group in self.withdraw.drain(..) {
            out.turn((A::FAMILY, group.audience, false, None), &mut emit);
            put_withdrawals::<A>(&group.nlri, &mut out, &mut emit);
            keep(&mut self.spare, group.nlri);
        }
        for group in self.announce.drain(..) {
            if let Some(attributes) = store.get(group.attr) {
                let extended = attributes.blob.len() + attributes.mp_next_hop.len() + 64 > MAX_LEN;
                if extended {
                    // Who cannot take the long message must not keep an older path either.
                    out.turn((A::FAMILY, group.audience, false, None), &mut emit);
                    put_withdrawals::<A>(&group.nlri, &mut out, &mut emit);
                }
                let knows = attributes.long_lived_stale.then_some(true);
                if knows.is_some() {
                    // Nor who does not know the mark: it would prefer the route (RFC 9494 section 4.3).
                    out.turn((A::FAMILY, group.audience, false, Some(false)), &mut emit);
                    put_withdrawals::<A>(&group.nlri, &mut out, &mut emit);
                }
                out.turn((A::FAMILY, group.audience, extended, knows), &mut emit);
                put_announcements::<A>(attributes, &group.nlri, &mut out, &mut emit);
            }
            keep(&mut self.spare, group.nlri);
        }
        out.close(&mut emit);
        self.room = out.bytes;
    }
}

fn keep(spare: &mut Vec<Vec<u8>>, mut nlri: Vec<u8>) {
    if spare.len() < 1024 && nlri.capacity() <= 1 << 16 {
        nlri.clear();
        spare.push(nlri);
    }
}

/// What a chunk is: its family and audience, and as [`Chunk::extended`] and [`Chunk::long_lived`].
type Kind = (Family, Audience, bool, Option<bool>);

/// The chunk that is being filled.
struct Open {
    paths: u8,
    bytes: Vec<u8>,
    kind: Option<Kind>,
}

impl Open {
    fn turn(&mut self, kind: Kind, emit: &mut impl FnMut(Chunk)) {
        if self.kind != Some(kind) {
            self.close(emit);
            self.kind = Some(kind);
        }
    }

    fn close(&mut self, emit: &mut impl FnMut(Chunk)) {
        if let Some((family, audience, extended, long_lived)) = self.kind
            && !self.bytes.is_empty()
        {
            let (bytes, paths) = (Bytes::copy_from_slice(&self.bytes), self.paths);
            self.bytes.clear();
            emit(Chunk { bytes, audience, family, extended, long_lived, paths });
        }
    }

    fn message_done(&mut self, emit: &mut impl FnMut(Chunk)) {
        if self.bytes.len() >= CHUNK_TARGET {
            self.close(emit);
        }
    }
}

/// Splits an NLRI field on prefix borders into pieces of at most `room` octets, at least one prefix each.
fn pieces(nlri: &[u8], room: usize, ids: bool) -> impl Iterator<Item = &[u8]> {
    let mut rest = nlri;
    let id = if ids { 4 } else { 0 };
    std::iter::from_fn(move || {
        let mut end = 0;
        while let Some(len) = rest.get(end + id) {
            let next = end + id + 1 + usize::from(len.div_ceil(8));
            if next > room && end > 0 {
                break;
            }
            end = next.min(rest.len());
        }
        let (piece, after) = rest.split_at(end);
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

fn put_withdrawals<A: Address>(nlri: &[u8], out: &mut Open, emit: &mut impl FnMut(Chunk)) {
    for piece in pieces(nlri, MAX_LEN - HEADER_LEN - 16, out.paths > 0) {
        let at = begin(&mut out.bytes, 2);
        match A::FAMILY {
            Family::Ipv4 => {
                out.bytes.extend_from_slice(&(piece.len() as u16).to_be_bytes());
                out.bytes.extend_from_slice(piece);
                out.bytes.extend_from_slice(&[0, 0]);
            }
            Family::Ipv6 => {
                let value = piece.len() as u16 + 3;
                out.bytes.extend_from_slice(&[0, 0]);
                out.bytes.extend_from_slice(&(value + 4).to_be_bytes());
                out.bytes.extend_from_slice(&[0x90, 15]);
                out.bytes.extend_from_slice(&value.to_be_bytes());
                out.bytes.extend_from_slice(&[0, 2, 1]);
                out.bytes.extend_from_slice(piece);
            }
        }
        finish(&mut out.bytes, at);
        out.message_done(emit);
    }
}

fn put_announcements<A: Address>(
    attributes: &Attributes,
    nlri: &[u8],
    out: &mut Open,
    emit: &mut impl FnMut(Chunk),
) {
    let fixed = HEADER_LEN + 4 + attributes.blob.len() + attributes.mp_next_hop.len() + 9;
    let limit = if fixed + 21 > MAX_LEN { EXTENDED_MAX_LEN } else { MAX_LEN };
    let Some(room) = limit.checked_sub(fixed).filter(|room| *room >= 21) else { return };
    for piece in pieces(nlri, room, out.paths > 0) {
        let at = begin(&mut out.bytes, 2);
        out.bytes.extend_from_slice(&[0, 0]);
        match A::FAMILY {
            Family::Ipv4 => {
                out.bytes.extend_from_slice(&(attributes.blob.len() as u16).to_be_bytes());
                out.bytes.extend_from_slice(&attributes.blob);
                out.bytes.extend_from_slice(piece);
            }
            Family::Ipv6 => {
                // MP_REACH_NLRI comes first (RFC 7606 section 5.1).
                let hop = &attributes.mp_next_hop;
                let value = (5 + hop.len() + piece.len()) as u16;
                let all = value as usize + 4 + attributes.blob.len();
                out.bytes.extend_from_slice(&(all as u16).to_be_bytes());
                out.bytes.extend_from_slice(&[0x90, 14]);
                out.bytes.extend_from_slice(&value.to_be_bytes());
                out.bytes.extend_from_slice(&[0, 2, 1, hop.len() as u8]);
                out.bytes.extend_from_slice(hop);
                out.bytes.push(0);
                out.bytes.extend_from_slice(piece);
                out.bytes.extend_from_slice(&attributes.blob);
            }
        }
        finish(&mut out.bytes, at);
        out.message_done(emit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::{Attributes, Own};
    use crate::message::{Kind, Update, frame, next_prefix};
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    /// Every pair of audiences, every kind of session: whoever had the old route and does not get the new one is
    /// told to withdraw, and nobody who gets the new one is.
    #[test]
    fn a_change_of_source_leaves_nobody_with_the_old_route() {
        let sessions = [(1, true), (2, true), (3, false), (4, false), (5, true), (6, false)];
        let routes = [
            Audience::AllBut(0),
            Audience::AllBut(1),
            Audience::AllBut(2),
            Audience::Clients(3),
            Audience::Clients(4),
        ];
        for old in routes {
            for new in routes {
                let gone = old.left_out_by(new);
                for (uid, client) in sessions {
                    let told = gone.is_some_and(|g| g.has(uid, client));
                    let (had, gets) = (old.has(uid, client), new.has(uid, client));
                    assert!(!had || gets || told, "{old:?} {new:?} {uid}: keeps the old route");
                    assert!(!(gets && told), "{old:?} {new:?} {uid}: loses the new route");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_reads_back_and_fits(
            prefixes in proptest::collection::vec((any::<u128>(), 0..=128u8), 1..3000),
            communities in 0..1500usize,
        ) {
            let own = Own { asn: 1, router_id: 9.into(), cluster_id: 9.into() };
            let communities = vec![7; communities];
            let hop = Ipv4Addr::new(10, 0, 0, 1);
            let six = Attributes::originated(Family::Ipv6, hop, 100, &communities, &own);
            let mut store = Store::default();
            let id = store.insert(SourceId(0), 0, b"", six.clone());
            let mut batch = Batch::default();
            for (addr, len) in &prefixes {
                batch.announce(id, Audience::AllBut(0), u128::from_octets(&addr.to_be_bytes(), *len), *len);
            }
            let mut seen = Vec::new();
            let mut failed = None;
            batch.drain::<u128>(&store, |chunk| {
                let mut buf = &chunk.bytes[..];
                while !buf.is_empty() {
                    let Ok(Some((Kind::Update, whole))) = frame(buf, chunk.extended) else {
                        failed = Some("frame");
                        return;
                    };
                    let update = Update::split(&buf[HEADER_LEN..whole]).unwrap();
                    for a in crate::attributes::Walk(update.attributes).filter(|a| a.code == 14) {
                        let (_, next_hop, mut nlri) = crate::attributes::mp_reach(a.value).unwrap().unwrap();
                        assert_eq!(next_hop, &*six.mp_next_hop);
                        while let Some(p) = next_prefix::<u128>(&mut nlri).unwrap() {
                            seen.push(p);
                        }
                    }
                    buf = &buf[whole..];
                }
            });
            prop_assert_eq!(failed, None);
            let want: Vec<(u128, u8)> =
                prefixes.iter().map(|(a, l)| (u128::from_octets(&a.to_be_bytes(), *l), *l)).collect();
            prop_assert_eq!(seen, want);
            prop_assert!(batch.is_empty());
        }
    }
}
