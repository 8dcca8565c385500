//! The whole table in small pieces, between which routes go on flowing: listings, MRT dumps, a BMP station's start.
//! What changes during a walk may be seen before or after the change; nothing else is missed or seen twice, unless
//! a prefix goes and comes back meanwhile.

use super::Speaker;
use crate::message::Address;
use crate::mrt;
use crate::peer::Peer;
use crate::reflect::Audience;
use crate::rib::{PathInfo, Table};
use crate::session::State;
use crate::store::SourceId;
use crate::types::{Family, Prefix};
use crate::view::{RouteQuery, RouteView};

/// Table entries of one piece.
pub const PIECE: usize = 512;
/// Paths after which a piece ends early.
const PIECE_PATHS: usize = 4096;

/// Where a walk goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    family: Family,
    at: usize,
}

impl Cursor {
    /// The beginning of the table.
    pub const START: Cursor = Cursor { family: Family::Ipv4, at: 0 };

    /// The family of the next piece.
    pub fn family(&self) -> Family {
        self.family
    }
}

/// Which routes are listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listing {
    /// Those that a query selects.
    Routes(RouteQuery),
    /// Everything that a neighbour has sent, accepted or rejected.
    Received(String),
    /// What a neighbour has been told.
    Advertised(String),
}

/// What a dump keeps from piece to piece.
#[derive(Debug, Default)]
pub struct Dump {
    unix_secs: u32,
    sequence: u32,
    /// By [`SourceId::index`]: the uid at the start, and the number in the peer index table.
    peers: Vec<Option<(u64, u16)>>,
}

impl Speaker {
    /// Goes over one piece of the table; `None` at the end. `v4` and `v6` get each prefix with its paths.
    pub(super) fn walk(
        &self,
        from: Cursor,
        v4: impl FnMut(u32, u8, &[PathInfo]),
        v6: impl FnMut(u128, u8, &[PathInfo]),
    ) -> Option<Cursor> {
        match from.family {
            Family::Ipv4 => {
                let next = self.walk_in(&self.v4, from.at, v4);
                Some(next.map_or(Cursor { family: Family::Ipv6, at: 0 }, |at| Cursor { at, ..from }))
            }
            Family::Ipv6 => self.walk_in(&self.v6, from.at, v6).map(|at| Cursor { at, ..from }),
        }
    }

    fn walk_in<A: Address>(
        &self,
        table: &Table<A>,
        from: usize,
        mut each: impl FnMut(A, u8, &[PathInfo]),
    ) -> Option<usize> {
        let mut paths = 0;
        for at in from..from + PIECE {
            if at >= table.scan_bound() {
                return None;
            }
            if let Some((addr, len)) = table.entry(at) {
                let infos = table.explain(addr, len, &self.store, &self.sources);
                paths += infos.len();
                each(addr, len, &infos);
            }
            if paths > PIECE_PATHS {
                return Some(at + 1);
            }
        }
        Some(from + PIECE)
    }

    /// Whether a neighbour of this name or address is known.
    pub fn knows(&self, name: &str) -> bool {
        self.peer_called(name).is_some()
    }

    pub(super) fn peer_called(&self, name: &str) -> Option<&Peer> {
        let owner = |p: &Peer| p.policy().is_some_and(|policy| policy.owner == name);
        self.peers.values().find(|p| p.address.to_string() == name || p.key.to_string() == name || owner(p))
    }

    /// One piece of a listing, in no order; the cursor is where to go on.
    pub fn list(&mut self, what: &Listing, from: Cursor) -> (Vec<RouteView>, Option<Cursor>) {
        if from == Cursor::START {
            self.flush();
        }
        let mut rows = Vec::new();
        let found = std::cell::RefCell::new(&mut rows);
        let next = self.walk(
            from,
            |addr, len, infos| self.list_one(what, addr.prefix(len), infos, &mut found.borrow_mut()),
            |addr, len, infos| self.list_one(what, addr.prefix(len), infos, &mut found.borrow_mut()),
        );
        (rows, next)
    }

    fn list_one(&self, what: &Listing, prefix: Prefix, infos: &[PathInfo], rows: &mut Vec<RouteView>) {
        match what {
            Listing::Routes(query) => self.select(prefix, infos.to_vec(), query, rows),
            Listing::Received(name) => {
                let Some(source) = self.peer_called(name).and_then(|p| p.source) else { return };
                if infos.iter().any(|i| i.source == source) {
                    let query =
                        RouteQuery { rejected: true, peer: Some(name.clone()), ..RouteQuery::default() };
                    self.select(prefix, infos.to_vec(), &query, rows);
                }
            }
            Listing::Advertised(name) => self.advertised_to(name, prefix, infos, rows),
        }
    }

    /// The paths of a prefix as a neighbour was told them: the best, or with ADD-PATH as many as it is sent.
    fn advertised_to(&self, name: &str, prefix: Prefix, infos: &[PathInfo], rows: &mut Vec<RouteView>) {
        let Some(peer) = self.peer_called(name) else { return };
        let up = |slot: &&usize| self.conn(**slot).is_some_and(|c| c.session.state() == State::Established);
        let conn = peer.conns.iter().find(up).and_then(|slot| self.conn(*slot));
        let Some(conn) = conn else { return };
        let most = conn.out.member().map_or(0, |m| m.paths[prefix.family().index()]);
        for info in infos.iter().filter(|i| i.rejected.is_none()) {
            if most == 0 && !info.best || most > 0 && !(1..=most).contains(&info.rank) {
                continue;
            }
            let audience = Audience::of(&self.sources, info.source);
            if self.withheld(conn, audience, info.attr, prefix.family()).is_some() {
                continue;
            }
            let Some(mut view) = self.route_view(prefix, info, "advertised".into()) else { continue };
            // As told: with the identifier that we gave it, and our own cluster in front (RFC 4456 section 8).
            view.path_id = if most > 0 { info.sent_id } else { 0 };
            if info.source != SourceId::LOCAL {
                view.cluster_list.insert(0, self.own.cluster_id.0);
            }
            rows.push(view);
        }
    }

    /// Starts an MRT dump: the record that numbers the peers.
    pub fn dump_start(&mut self, unix_secs: u32, out: &mut Vec<u8>) -> Dump {
        self.flush();
        let mut dump = Dump { unix_secs, ..Dump::default() };
        let mut peers = Vec::new();
        for (id, source) in self.sources.iter() {
            dump.peers.resize(id.index() + 1, None);
            dump.peers[id.index()] = u16::try_from(peers.len()).ok().map(|n| (source.uid, n));
            peers.push((source.router_id, source.address, self.config.asn));
        }
        mrt::put_peers(out, unix_secs, self.config.router_id, "", &peers);
        dump
    }

    /// One piece of an MRT dump: every accepted path. Those of peers that came after its start are left out.
    pub fn dump(&self, dump: &mut Dump, from: Cursor, out: &mut Vec<u8>) -> Option<Cursor> {
        let both = std::cell::RefCell::new((dump, out));
        self.walk(
            from,
            |addr, len, infos| self.dump_one(&mut both.borrow_mut(), (addr, len), infos),
            |addr, len, infos| self.dump_one(&mut both.borrow_mut(), (addr, len), infos),
        )
    }

    fn dump_one<A: Address>(
        &self,
        (dump, out): &mut (&mut Dump, &mut Vec<u8>),
        prefix: (A, u8),
        infos: &[PathInfo],
    ) {
        let entry = |info: &PathInfo| {
            let source = self.sources.get(info.source)?;
            let (uid, peer) = (*dump.peers.get(info.source.index())?)?;
            Some(mrt::Entry {
                peer,
                path_id: info.path_id,
                attributes: self.store.get(info.attr)?,
                router_id: source.router_id,
                local: source.is_local(),
            })
            .filter(|_| uid == source.uid)
        };
        let entries: Vec<mrt::Entry<'_>> =
            infos.iter().filter(|i| i.rejected.is_none()).filter_map(entry).collect();
        let (secs, sequence) = (dump.unix_secs, &mut dump.sequence);
        mrt::put_routes(out, secs, sequence, prefix, &entries);
    }
}
