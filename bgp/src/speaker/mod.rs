//! The whole speaker, without sockets and without a clock.
//!
//! The driver tells it what came ([`Speaker::connected`], [`Speaker::received`], [`Speaker::closed`]) and what time
//! it is ([`Speaker::tick`]), calls [`Speaker::flush`] when it has handed over everything that was waiting, and
//! then writes what [`Speaker::gather`] offers. [`Speaker::next_action`] says which connections to open or close.
//! Reading order: this file (connections), `ingress` (routes in), `output` (routes out), `publish`
//! (best paths), `neighbors` (configuration, and what outlives a session), `long_lived` (for how
//! much longer), `refresh` (asked by us), `operated` (by a person), `shown`, `explained` and `walked`
//! (views), `watched` (BMP).

mod explained;
mod guard;
mod ingress;
mod liveness;
mod long_lived;
mod multipath;
mod neighbors;
mod operated;
mod output;
mod publish;
mod refresh;
mod shown;
#[cfg(test)]
mod tests;
mod walked;
mod watched;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ahash::RandomState;

use crate::attributes::Own;
use crate::bmp::Tap;
use crate::egress::{Log, Outbox};
use crate::message::{AddPath, GracefulRestart, HEADER_LEN, Notification, Open, cease, frame};
use crate::peer::{Dial, Origin, Peer, Totals};
use crate::policy::ImportPolicy;
use crate::reflect::Batch;
use crate::rejections::Rejections;
use crate::rib::Table;
use crate::session::{End, Event, Millis, Session, State};
use crate::settings::{DynamicPeers, Guard, Liveness, SpeakerConfig};
use crate::store::{SourceId, Sources, Store};
use crate::types::{Family, PeerKey, Prefix};

pub use operated::{OperateError, TEXT_MAX};
pub use refresh::RefreshError;
pub use walked::{Cursor, Dump, Listing};

/// A connection; never the same for two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId {
    slot: usize,
    serial: u64,
}

impl ConnId {
    /// A small number that no other open connection has.
    pub fn slot(self) -> usize {
        self.slot
    }
}

/// Who opened a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Direction {
    /// The peer did.
    In,
    /// We dialled this neighbour.
    Out(PeerKey),
}

/// What the driver shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Write these last octets if that is possible at once, then close.
    Close(ConnId, Vec<u8>),
    /// Open a connection; the outcome goes to [`Speaker::connected`] or [`Speaker::dial_failed`].
    Dial {
        /// Whom this is for.
        peer: PeerKey,
        /// Where to.
        to: SocketAddr,
        /// From which address.
        from: Option<IpAddr>,
        /// How the connection is guarded.
        guard: Guard,
    },
    /// Have a BFD session with these settings beside this connection, or none; it ends with the connection. Its
    /// fall goes to [`Speaker::bfd_fell`].
    Watch(ConnId, Option<bfd::settings::Settings>),
    /// Write a warning: the neighbour has come near its prefix limit.
    Warn {
        /// The neighbour's name.
        peer: String,
        /// Accepted prefixes that it holds of one family.
        held: u32,
        /// How many it may hold.
        limit: u32,
    },
}

/// One connection with its session.
#[derive(Debug)]
struct Conn {
    serial: u64,
    peer: PeerKey,
    outbound: bool,
    session: Session,
    /// The beginning of a message whose rest has not come yet.
    partial: Vec<u8>,
    out: Outbox,
    source: Option<SourceId>,
    /// The BFD session that was asked for.
    bfd: Option<bfd::settings::Settings>,
    uid: u64,
    /// Families whose incoming routes carry path identifiers.
    ids: [bool; 2],
    /// Until when a refresh that the peer has begun may last, by family.
    refresh_until: [Option<Millis>; 2],
    max_prefixes: Option<u32>,
    policy: Option<Arc<ImportPolicy>>,
    established_at: Millis,
    /// Families of which the peer has sent everything: End-of-RIB came, or none is to come.
    ended: [bool; 2],
    /// Rejected announcements that were too many to be kept.
    unkept: u64,
    /// Whether it holds at least three quarters of what it may.
    near_limit: bool,
    /// It takes nothing and has to be told more than is kept for it.
    overrun: bool,
    totals: Totals,
    /// Our end of the connection and the peer's, as far as the driver has told.
    ends: Option<(SocketAddr, SocketAddr)>,
    /// Both OPENs as they were sent, ours first: stations want them (RFC 7854 section 4.10).
    opens: (Box<[u8]>, Box<[u8]>),
}

/// The speaker.
#[derive(Debug)]
pub struct Speaker {
    config: SpeakerConfig,
    own: Own,
    v4: Table<u32>,
    v6: Table<u128>,
    store: Store,
    sources: Sources,
    /// Sources without paths, freed by the next flush.
    ending: Vec<SourceId>,
    conns: Vec<Option<Conn>>,
    free: Vec<usize>,
    serial: u64,
    peers: BTreeMap<PeerKey, Peer>,
    groups: Vec<DynamicPeers>,
    liveness: Liveness,
    originated: BTreeSet<Prefix>,
    log: Log,
    batch: Batch,
    /// One for each number of paths that some session is sent.
    path_batches: Vec<Batch>,
    /// What is known of rejected routes, by [`crate::types::Family::index`].
    rejections: [Rejections; 2],
    /// Set while a BMP station listens.
    tap: Option<Box<Tap>>,
    actions: VecDeque<Action>,
    refused: BTreeMap<&'static str, u64>,
    /// Until when End-of-RIB is held back after a restart, and for whom.
    restarting: Option<(Millis, BTreeSet<IpAddr>)>,
    /// Grows whenever [`Speaker::remembered`] or [`Speaker::all_established`] may answer otherwise.
    remembered_version: u64,
    wake_at: Millis,
    /// When something was last told to us.
    now: Millis,
    luck: u64,
    started_at: Millis,
    /// All best paths must be looked at for the next publication.
    publish: bool,
    published: publish::Published,
    generation: u64,
    stopped: bool,
}

impl Speaker {
    /// A speaker without neighbours. `seed` is any number; it spreads retries and keys the hash tables.
    pub fn new(config: SpeakerConfig, seed: u64, now: Millis) -> Speaker {
        let hasher = RandomState::with_seeds(seed, !seed, seed.rotate_left(32), 0x9e37_79b9_7f4a_7c15);
        let own = Own { asn: config.asn, router_id: config.router_id, cluster_id: config.cluster_id };
        let restarting =
            config.restarting.as_ref().map(|r| (now + u64::from(r.deferral_secs) * 1000, r.expected.clone()));
        Speaker {
            own,
            v4: Table::new(hasher.clone()),
            v6: Table::new(hasher.clone()),
            store: Store::new(hasher),
            sources: Sources::new(config.router_id),
            ending: Vec::new(),
            conns: Vec::new(),
            free: Vec::new(),
            serial: 0,
            peers: BTreeMap::new(),
            groups: Vec::new(),
            liveness: Liveness::default(),
            originated: BTreeSet::new(),
            log: Log::default(),
            batch: Batch::default(),
            path_batches: Vec::new(),
            rejections: Default::default(),
            tap: None,
            actions: VecDeque::new(),
            refused: BTreeMap::new(),
            wake_at: restarting.as_ref().map_or(Millis::MAX, |r| r.0),
            restarting,
            now,
            remembered_version: 0,
            luck: seed | 1,
            started_at: now,
            publish: config.publish_best_paths,
            published: publish::Published::default(),
            generation: 0,
            stopped: false,
            config,
        }
    }

    /// What the driver shall do next.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Speaker::tick`] is due; [`Millis::MAX`]: never.
    pub fn deadline(&self) -> Millis {
        self.wake_at
    }

    fn wake(&mut self, at: Millis) {
        self.wake_at = self.wake_at.min(at);
    }

    fn luck(&mut self) -> u64 {
        self.luck ^= self.luck << 13;
        self.luck ^= self.luck >> 7;
        self.luck ^= self.luck << 17;
        self.luck
    }

    /// A connection is open. `Err`: it is not wanted; write these octets and close it.
    pub fn connected(
        &mut self,
        remote: IpAddr,
        direction: Direction,
        now: Millis,
    ) -> Result<ConnId, Vec<u8>> {
        let remote = remote.to_canonical();
        let (key, outbound) = match self.admit(remote, direction, now) {
            Ok(admitted) => admitted,
            Err((why, n)) => {
                *self.refused.entry(why).or_default() += 1;
                let mut out = Vec::new();
                n.encode(&mut out);
                return Err(out);
            }
        };
        // A peer has one connection of each direction under way: the newest.
        let pending: Vec<usize> =
            self.conns_of(&key).filter(|(_, c)| c.outbound == outbound).map(|c| c.0).collect();
        for slot in pending {
            if self.conn(slot).is_some_and(|c| c.session.state() != State::Established) {
                self.stop(slot, Notification::cease(cease::CONNECTION_COLLISION), now);
            }
        }
        let (remote_asn, policy, max_prefixes) = match self.peers.get(&key) {
            Some(peer) => (peer.remote_asn(), peer.policy().cloned(), peer.options().max_prefixes),
            None => (self.config.asn, None, None),
        };
        let mut first = Vec::new();
        let session = Session::start(self.our_open(&key), remote_asn, now, &mut first);
        let mut out = Outbox::new(now);
        let opens = (first.clone().into(), Box::default());
        out.control(first);
        self.wake(session.deadline());
        self.serial += 1;
        let conn = Conn {
            serial: self.serial,
            peer: key.clone(),
            outbound,
            session,
            partial: Vec::new(),
            out,
            source: None,
            bfd: None,
            uid: 0,
            ids: [false; 2],
            refresh_until: [None; 2],
            max_prefixes,
            policy,
            established_at: 0,
            ended: [false; 2],
            unkept: 0,
            near_limit: false,
            overrun: false,
            totals: Totals::default(),
            ends: None,
            opens,
        };
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.conns.push(None);
                self.conns.len() - 1
            }
        };
        self.conns[slot] = Some(conn);
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.conns.push(slot);
            peer.dial = Dial::Rest;
            if peer.conns.len() == 1 {
                peer.since = now;
            }
        }
        Ok(ConnId { slot, serial: self.serial })
    }

    fn our_open(&self, key: &PeerKey) -> Open {
        let offer = self.peers.get(key).map(Peer::add_path).unwrap_or_default();
        let hold_secs = match self.peers.get(key).map(|p| &p.origin) {
            Some(Origin::Named(n)) => n.hold_time_secs,
            _ => self.config.hold_time_secs,
        };
        let graceful_restart = (self.config.graceful_restart_secs > 0).then_some(GracefulRestart {
            restarted: self.restarting.is_some(),
            notification: true,
            restart_secs: self.config.graceful_restart_secs,
            families: [true; 2],
            // Next hops are the owners' and not ours: our restart disturbs no forwarding.
            forwarding: [true; 2],
        });
        Open {
            asn: self.config.asn,
            hold_secs,
            router_id: self.config.router_id,
            families: [true; 2],
            four_octet_as: true,
            refresh: true,
            enhanced_refresh: true,
            extended: true,
            graceful_restart,
            long_lived: self.long_lived_offer(),
            add_path: [AddPath { receive: offer.receive, send: offer.send > 0 }; 2],
        }
    }

    fn conn(&self, slot: usize) -> Option<&Conn> {
        self.conns.get(slot)?.as_ref()
    }

    fn conns_of<'a>(&'a self, key: &PeerKey) -> impl Iterator<Item = (usize, &'a Conn)> {
        let slots = self.peers.get(key).map_or(&[][..], |p| &p.conns);
        slots.iter().filter_map(|slot| Some((*slot, self.conn(*slot)?)))
    }

    fn live(&self, id: ConnId) -> bool {
        self.conn(id.slot).is_some_and(|c| c.serial == id.serial)
    }

    /// Octets came. Everything complete in them is done before this returns, but nothing is sent yet.
    pub fn received(&mut self, id: ConnId, octets: &[u8], now: Millis) {
        self.now = now;
        if !self.live(id) {
            return;
        }
        let Some(conn) = &mut self.conns[id.slot] else { return };
        conn.totals.bytes_in += octets.len() as u64;
        if conn.partial.is_empty() {
            let used = self.messages(id, octets, now);
            if self.live(id)
                && let Some(conn) = &mut self.conns[id.slot]
            {
                conn.partial.extend_from_slice(&octets[used..]);
            }
        } else {
            let mut all = std::mem::take(&mut conn.partial);
            all.extend_from_slice(octets);
            let used = self.messages(id, &all, now);
            if self.live(id)
                && let Some(conn) = &mut self.conns[id.slot]
            {
                all.drain(..used);
                if all.capacity() > 1 << 16 {
                    all.shrink_to_fit();
                }
                conn.partial = all;
            }
        }
    }

    /// Works through whole messages; returns how many octets they were.
    fn messages(&mut self, id: ConnId, octets: &[u8], now: Millis) -> usize {
        let mut at = 0;
        let mut out = Vec::new();
        while let Some(conn) = self.conns[id.slot].as_mut().filter(|c| c.serial == id.serial) {
            let (kind, whole) = match frame(&octets[at..], conn.session.extended()) {
                Ok(Some(found)) => found,
                Ok(None) => return at,
                Err(n) => {
                    self.stop(id.slot, n, now);
                    return octets.len();
                }
            };
            let body = &octets[at + HEADER_LEN..at + whole];
            at += whole;
            conn.totals.messages_in += 1;
            let event = conn.session.message(kind, body, now, &mut out);
            if !out.is_empty() {
                conn.out.control(std::mem::take(&mut out));
            }
            match event {
                Event::None => {}
                Event::Opened => {
                    conn.opens.1 = octets[at - whole..at].into();
                    self.opened(id.slot, now)
                }
                Event::Established => self.established(id.slot, now),
                Event::Update(update) => {
                    if let Some(tap) = &mut self.tap {
                        Speaker::tap_update(tap, conn, &octets[at - whole..at], now);
                    }
                    if let Err(n) = self.update(id.slot, update) {
                        self.stop(id.slot, n, now);
                    }
                }
                Event::Refresh(refresh, family) => self.refresh(id.slot, refresh, family),
                Event::Ended(end) => self.ended(id.slot, end, now),
            }
        }
        at
    }

    /// The peer's OPEN is good: settles a collision (RFC 4271 section 6.8), then agrees.
    fn opened(&mut self, slot: usize, now: Millis) {
        let Some(conn) = self.conn(slot) else { return };
        let Some(negotiated) = conn.session.negotiated() else { return };
        let (key, outbound, theirs) = (conn.peer.clone(), conn.outbound, negotiated.peer.router_id);
        let others: Vec<(usize, bool, State)> = self
            .conns_of(&key)
            .filter(|(other, _)| *other != slot)
            .map(|(other, c)| (other, c.outbound, c.session.state()))
            .collect();
        for (other, other_outbound, state) in others {
            let newest_wins = outbound == other_outbound;
            let keep_ours = self.config.router_id > theirs;
            let this_stays = newest_wins || (state != State::Established && outbound == keep_ours);
            let collision = Notification::cease(cease::CONNECTION_COLLISION);
            if this_stays {
                // The peer opened a new one because it lost the old one: only it can know.
                self.stop(other, collision, now);
            } else {
                return self.stop(slot, collision, now);
            }
        }
        if let Some(conn) = &mut self.conns[slot] {
            let mut out = Vec::new();
            conn.session.confirm(now, &mut out);
            conn.out.control(out);
            let deadline = conn.session.deadline();
            self.wake(deadline);
        }
    }

    /// The connection is gone.
    pub fn closed(&mut self, id: ConnId, how: &str, now: Millis) {
        if self.live(id)
            && let Some(conn) = &mut self.conns[id.slot]
            && let Event::Ended(end) = conn.session.lost(how)
        {
            self.ended(id.slot, end, now);
        }
    }

    /// Ends a session with a NOTIFICATION.
    fn stop(&mut self, slot: usize, n: Notification, now: Millis) {
        let Some(Some(conn)) = self.conns.get_mut(slot) else { return };
        let mut out = Vec::new();
        let event = conn.session.stop(n, &mut out);
        conn.out.control(out);
        if let Event::Ended(end) = event {
            self.ended(slot, end, now);
        }
    }

    /// A session is over: frees its slot, and settles what happens to its routes.
    fn ended(&mut self, slot: usize, end: End, now: Millis) {
        let Some(mut conn) = self.conns.get_mut(slot).and_then(Option::take) else { return };
        self.free.push(slot);
        conn.totals.bytes_out = conn.out.sent;
        let id = ConnId { slot, serial: conn.serial };
        self.actions.push_back(Action::Close(id, conn.out.farewell()));
        self.session_over(slot, conn, end, now);
    }

    /// Names both ends of a connection: ours first.
    pub fn name_ends(&mut self, id: ConnId, local: SocketAddr, remote: SocketAddr) {
        if self.live(id)
            && let Some(conn) = &mut self.conns[id.slot]
        {
            conn.ends = Some((local, remote));
        }
    }

    /// Does what the time demands.
    pub fn tick(&mut self, now: Millis) {
        self.wake_at = Millis::MAX;
        for slot in 0..self.conns.len() {
            self.tick_conn(slot, now);
        }
        self.tick_peers(now);
        if self.restarting.as_ref().is_some_and(|(until, _)| *until <= now) {
            self.restart_done();
        }
        if let Some((until, _)) = &self.restarting {
            self.wake(*until);
        }
    }

    /// Ends the refreshes of a peer that has not ended them itself.
    fn tick_refresh(&mut self, slot: usize, now: Millis) {
        for family in Family::ALL {
            let Some(Some(conn)) = self.conns.get_mut(slot) else { return };
            let until = &mut conn.refresh_until[family.index()];
            let over = until.take_if(|until| *until <= now).is_some();
            let (next, source) = (*until, conn.source);
            if let (true, Some(source)) = (over, source) {
                self.purge_family(source, family, true);
            }
            self.wake(next.unwrap_or(Millis::MAX));
        }
    }

    fn tick_conn(&mut self, slot: usize, now: Millis) {
        self.tick_refresh(slot, now);
        let Some(Some(conn)) = self.conns.get_mut(slot) else { return };
        let mut out = Vec::new();
        let event = conn.session.tick(now, &mut out);
        conn.out.control(out);
        if let Event::Ended(end) = event {
            return self.ended(slot, end, now);
        }
        // RFC 9687: a peer that lives but takes nothing holds up its own routes only, yet not for ever.
        let hold_secs = conn.session.negotiated().map_or(0, |n| u64::from(n.hold_secs));
        let patience = (2 * hold_secs).max(480) * 1000;
        if !conn.out.has_output(&self.log) {
            conn.out.progress_at = now;
        }
        let deadline = conn.session.deadline().min(conn.out.progress_at + patience);
        if conn.overrun {
            self.stop(slot, Notification::cease(cease::OUT_OF_RESOURCES), now);
        } else if now >= conn.out.progress_at + patience {
            self.stop(slot, Notification::new(8, 0, Vec::new()), now);
        } else {
            self.wake(deadline);
        }
    }

    /// Ends every session with Cease/2 and takes no more.
    pub fn shutdown(&mut self, reason: &str, now: Millis) {
        self.stopped = true;
        for slot in 0..self.conns.len() {
            self.stop(slot, Notification::cease_with_text(cease::ADMINISTRATIVE_SHUTDOWN, reason), now);
        }
        self.tap_hand_on();
        self.actions.retain(|a| matches!(a, Action::Close(..)));
    }
}
