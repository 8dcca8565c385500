//! What BMP stations are told (RFC 7854): sessions and UPDATEs as they happen, and at a station's start the tables.

use std::collections::BTreeMap;

use super::walked::Cursor;
use super::{Conn, Speaker};
use crate::bmp::{PeerHeader, Sink, Statistics, Tap};
use crate::message::{Address, EXTENDED_MAX_LEN, HEADER_LEN, MAX_LEN, begin, finish, put_prefix};
use crate::mrt::as_received;
use crate::rib::PathInfo;
use crate::session::{End, Millis, State};
use crate::store::{AttrId, SourceId};
use crate::types::Family;

/// Whom a session's messages are about, and whether its routes carry path identifiers (RFC 7911), by
/// [`Family::index`].
type Headers = BTreeMap<SourceId, (PeerHeader, [bool; 2])>;

impl Conn {
    /// Whom BMP messages about this session are about.
    fn bmp_header(&self, tap: &Tap, now: Millis) -> Option<PeerHeader> {
        let peer = &self.session.negotiated()?.peer;
        let address = self.ends?.1.ip().to_canonical();
        Some(PeerHeader { address, asn: peer.asn, router_id: peer.router_id, unix_ms: tap.unix_ms(now) })
    }

    fn put_up(&self, header: &PeerHeader, out: &mut Vec<u8>) {
        if let Some((local, remote)) = self.ends {
            header.put_up(out, local, remote.port(), [&self.opens.0, &self.opens.1]);
        }
    }
}

impl Speaker {
    /// Passes an UPDATE on as it came.
    #[cold]
    pub(super) fn tap_update(tap: &mut Tap, conn: &Conn, message: &[u8], now: Millis) {
        if let Some(header) = conn.bmp_header(tap, now).filter(|_| conn.source.is_some()) {
            tap.gather(|out| header.put_update(out, message));
        }
    }

    pub(super) fn tap_up(&mut self, slot: usize, now: Millis) {
        if let (Some(tap), Some(Some(conn))) = (&mut self.tap, self.conns.get(slot))
            && let Some(header) = conn.bmp_header(tap, now)
        {
            tap.gather(|out| conn.put_up(&header, out));
        }
    }

    pub(super) fn tap_down(&mut self, conn: &Conn, end: &End, now: Millis) {
        if let Some(tap) = &mut self.tap
            && let Some(header) = conn.bmp_header(tap, now).filter(|_| conn.source.is_some())
        {
            tap.gather(|out| header.put_down(out, end));
        }
    }

    /// Hands on what was gathered; without listeners nothing is gathered any more.
    pub(super) fn tap_hand_on(&mut self) {
        if self.tap.as_mut().is_some_and(|tap| !tap.hand_on()) {
            self.tap = None;
        }
    }

    /// A station listens from now on. It is told of every established session at once; its tables follow by
    /// [`Speaker::bmp_table`]. Returns its number. `unix_ms`: the time of `now`.
    pub fn bmp_add(&mut self, sink: Sink, now: Millis, unix_ms: u64) -> u64 {
        let mut tap = self.tap.take().unwrap_or_else(|| Box::new(Tap::new(unix_ms.saturating_sub(now))));
        self.serial += 1;
        let id = self.serial;
        tap.add(id, sink);
        let mut up = Vec::new();
        for conn in self.established_conns() {
            if let Some(header) = conn.bmp_header(&tap, now) {
                conn.put_up(&header, &mut up);
            }
        }
        tap.give(id, up);
        self.tap = Some(tap);
        id
    }

    fn established_conns(&self) -> impl Iterator<Item = &Conn> {
        let up = |c: &&Conn| c.session.state() == State::Established && c.source.is_some();
        self.conns.iter().flatten().filter(up)
    }

    /// One piece of all Adj-RIBs-In for one station; `None` at the end, or when the station has gone.
    pub fn bmp_table(&mut self, id: u64, from: Cursor, now: Millis) -> Option<Cursor> {
        let mut tap = self.tap.take()?;
        let of = |c: &Conn| Some((c.source?, (c.bmp_header(&tap, now)?, c.ids)));
        let headers: Headers = self.established_conns().filter_map(of).collect();
        let mut groups: BTreeMap<(SourceId, AttrId), Vec<u8>> = BTreeMap::new();
        let found = std::cell::RefCell::new(&mut groups);
        let next = self.walk(
            from,
            |addr, len, infos| gather(&mut found.borrow_mut(), &headers, (addr, len), infos),
            |addr, len, infos| gather(&mut found.borrow_mut(), &headers, (addr, len), infos),
        );
        let mut out = Vec::new();
        for ((source, attr), nlri) in &groups {
            if let Some((header, ids)) = headers.get(source) {
                let ids = ids[from.family().index()];
                self.put_group(header, (*source, *attr), (nlri, ids), from, &mut out);
            }
        }
        if next.is_none() {
            for (header, _) in headers.values() {
                Family::ALL.into_iter().for_each(|family| header.put_end_of_rib(&mut out, family));
            }
        }
        let there = tap.give(id, out);
        self.tap = Some(tap);
        next.filter(|_| there)
    }

    /// Routes with the same attributes as UPDATEs, each as long as it may be.
    fn put_group(
        &self,
        header: &PeerHeader,
        (source, attr): (SourceId, AttrId),
        (nlri, ids): (&[u8], bool),
        from: Cursor,
        out: &mut Vec<u8>,
    ) {
        let (Some(a), Some(s)) = (self.store.get(attr), self.sources.get(source)) else { return };
        let section = as_received(a, s.router_id, s.is_local());
        let fixed = HEADER_LEN + 4 + section.len() + a.mp_next_hop.len() + 16;
        let most = if fixed + LONGEST_ROUTE > MAX_LEN { EXTENDED_MAX_LEN } else { MAX_LEN };
        let mut rest = nlri;
        while !rest.is_empty() {
            let piece = whole_routes(rest, ids, most.saturating_sub(fixed).max(LONGEST_ROUTE));
            let mut message = Vec::new();
            let at = begin(&mut message, 2);
            match from.family() {
                Family::Ipv4 => {
                    message.extend_from_slice(&[0, 0]);
                    message.extend_from_slice(&(section.len() as u16).to_be_bytes());
                    message.extend_from_slice(&section);
                    message.extend_from_slice(&rest[..piece]);
                }
                Family::Ipv6 => {
                    let value = 5 + a.mp_next_hop.len() + piece;
                    message.extend_from_slice(&[0, 0]);
                    message.extend_from_slice(&((section.len() + value + 4) as u16).to_be_bytes());
                    message.extend_from_slice(&[0x90, 14]);
                    message.extend_from_slice(&(value as u16).to_be_bytes());
                    message.extend_from_slice(&[0, 2, 1, a.mp_next_hop.len() as u8]);
                    message.extend_from_slice(&a.mp_next_hop);
                    message.push(0);
                    message.extend_from_slice(&rest[..piece]);
                    message.extend_from_slice(&section);
                }
            }
            finish(&mut message, at);
            header.put_update(out, &message);
            rest = &rest[piece..];
        }
    }

    /// A Statistics Report of every established session.
    pub fn bmp_statistics(&mut self, id: u64, now: Millis) -> bool {
        let Some(mut tap) = self.tap.take() else { return false };
        let mut out = Vec::new();
        for conn in self.established_conns() {
            let (Some(header), Some(source)) = (conn.bmp_header(&tap, now), conn.source) else { continue };
            let before = self.peers.get(&conn.peer).map(|p| p.totals).unwrap_or_default();
            let stats = Statistics {
                rejected: before.rejections + conn.totals.rejections,
                held: u64::from(self.v4.held(source).paths) + u64::from(self.v6.held(source).paths),
                treated_as_withdraw: before.treated_as_withdraw + conn.totals.treated_as_withdraw,
            };
            header.put_statistics(&mut out, &stats);
        }
        let there = tap.give(id, out);
        self.tap = Some(tap);
        there
    }
}

fn gather<A: Address>(
    groups: &mut BTreeMap<(SourceId, AttrId), Vec<u8>>,
    headers: &Headers,
    (addr, len): (A, u8),
    infos: &[PathInfo],
) {
    for info in infos.iter().filter(|i| !i.stale) {
        let Some((_, ids)) = headers.get(&info.source) else { continue };
        let nlri = groups.entry((info.source, info.attr)).or_default();
        if ids[A::FAMILY.index()] {
            nlri.extend_from_slice(&info.path_id.to_be_bytes());
        }
        put_prefix(addr, len, nlri);
    }
}

/// The longest route in NLRI, octets: a path identifier, a length, an IPv6 address.
const LONGEST_ROUTE: usize = 4 + 1 + 16;

/// How many octets of `nlri`, with or without path identifiers, are whole routes that fit into `room`; at least one.
fn whole_routes(nlri: &[u8], ids: bool, room: usize) -> usize {
    let before = if ids { 4 } else { 0 };
    let mut at = 0;
    while let Some(len) = nlri.get(at + before) {
        let next = at + before + 1 + usize::from(len.div_ceil(8));
        if at > 0 && next > room {
            break;
        }
        at = next;
    }
    at.min(nlri.len())
}
