//! Neighbours: who may connect, who is dialled, and what outlives a session.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::{Action, Conn, Direction, Speaker};
use crate::attributes::Attributes;
use crate::egress::Member;
use crate::message::{Notification, cease};
use crate::peer::{
    Dial, FIRST_RETRY_MS, GONE_SHOWN_SECS, GOOD_SESSION_MS, HELD_DOWN_SECS, Origin, Peer,
    STALE_AFTER_RETURN_SECS,
};
use crate::policy::{Admission, ImportPolicy};
use crate::session::{End, Millis, State};
use crate::settings::{DynamicPeers, Neighbor, Originated};
use crate::store::SourceId;
use crate::types::{Family, PeerKey, Prefix};

/// The NOTIFICATION code of silence (RFC 4271 section 4.5).
const HOLD_TIMER_EXPIRED: u8 = 4;
/// Dynamic peers that have gone and are still shown: at most so many beyond the limit of sessions.
const GONE_KEPT: usize = 1024;

type Refusal = (&'static str, Notification);

impl Speaker {
    /// Whose connection this is, and whether we dialled it.
    pub(super) fn admit(
        &mut self,
        remote: IpAddr,
        direction: Direction,
        now: Millis,
    ) -> Result<(PeerKey, bool), Refusal> {
        if self.stopped {
            return Err(("shutting-down", Notification::cease(cease::ADMINISTRATIVE_SHUTDOWN)));
        }
        if self.conns.len() - self.free.len() >= self.config.session_limit {
            return Err(("session-limit", Notification::cease(cease::OUT_OF_RESOURCES)));
        }
        match direction {
            Direction::Out(key) if self.peers.contains_key(&key) => self.unless_kept_down(key, true),
            Direction::Out(_) => Err(("neighbour-removed", Notification::cease(cease::PEER_DECONFIGURED))),
            Direction::In => {
                let named = |p: &&Peer| p.address == remote && matches!(p.origin, Origin::Named(_));
                match self.peers.values().find(named) {
                    Some(peer) => self.unless_kept_down(peer.key.clone(), false),
                    None => {
                        let key = self.admit_dynamic(remote, now)?;
                        self.unless_kept_down(key, false)
                    }
                }
            }
        }
    }

    /// Refuses a neighbour that the operator keeps down, with his words (RFC 9003).
    fn unless_kept_down(&self, key: PeerKey, outbound: bool) -> Result<(PeerKey, bool), Refusal> {
        match self.peers.get(&key).and_then(|p| p.kept_down.as_deref()) {
            Some(text) => Err(("kept-down", super::operated::kept_down(text))),
            None => Ok((key, outbound)),
        }
    }

    fn admit_dynamic(&mut self, remote: IpAddr, now: Millis) -> Result<PeerKey, Refusal> {
        let origin = self.dynamic_origin(remote).ok_or_else(|| {
            let known = self.groups.iter().any(|g| g.source_prefixes.iter().any(|p| p.contains(&remote)));
            let why = if known { "not-enrolled" } else { "no-source-prefix" };
            (why, Notification::cease(cease::CONNECTION_REJECTED))
        })?;
        let key = PeerKey::Dynamic(remote);
        let Origin::Dynamic { group, .. } = &origin else { return Ok(key) };
        let limit = self.groups.iter().find(|g| g.name == *group).map_or(0, |g| g.limit);
        let of_group = |p: &&Peer| matches!(&p.origin, Origin::Dynamic { group: g, .. } if g == group);
        let known = self.peers.get(&key).is_some_and(|p| !p.conns.is_empty());
        if self.peers.get(&key).is_some_and(|p| p.held_down_until > now) {
            return Err(("held-down", Notification::cease(cease::CONNECTION_REJECTED)));
        }
        // Counting is needed only where the limit can be reached at all.
        if !known
            && self.conns.len() >= limit
            && self.peers.values().filter(of_group).filter(|p| !p.conns.is_empty()).count() >= limit
        {
            return Err(("dynamic-peer-limit", Notification::cease(cease::OUT_OF_RESOURCES)));
        }
        match self.peers.get_mut(&key) {
            Some(peer) => peer.origin = origin,
            None => {
                self.forget_one(limit);
                self.peers.insert(key.clone(), Peer::new(key.clone(), remote, origin, now));
            }
        }
        Ok(key)
    }

    /// Where sources come and go, those that have gone are shown only while there are not too many of them.
    fn forget_one(&mut self, limit: usize) {
        if self.peers.len() < limit.saturating_add(GONE_KEPT) {
            return;
        }
        let idle = |p: &&Peer| {
            let dynamic = matches!(p.origin, Origin::Dynamic { .. });
            dynamic && p.conns.is_empty() && p.source.is_none() && p.kept_down.is_none()
        };
        if let Some(key) = self.peers.values().filter(idle).min_by_key(|p| p.since).map(|p| p.key.clone()) {
            self.peers.remove(&key);
        }
    }

    /// What the most specific matching group says of an address; `None`: it may not connect.
    pub(super) fn dynamic_origin(&self, remote: IpAddr) -> Option<Origin> {
        let matches = self.groups.iter().flat_map(|g| g.source_prefixes.iter().map(move |p| (g, p)));
        let (group, _) = matches.filter(|(_, p)| p.contains(&remote)).max_by_key(|(_, p)| p.prefix_len())?;
        let policy = match &group.admission {
            Admission::Open => None,
            Admission::Enrolled(all) => Some(Arc::clone(all.get(&remote)?)),
        };
        Some(Origin::Dynamic {
            group: group.name.clone(),
            client: group.route_reflector_client,
            remote_asn: group.remote_asn,
            policy,
            options: group.options.clone(),
        })
    }

    /// A session came up: gives it its source, a place on the log, and the whole table.
    pub(super) fn established(&mut self, slot: usize, now: Millis) {
        self.flush();
        let Some(conn) = self.conn(slot) else { return };
        let Some(negotiated) = conn.session.negotiated().cloned() else { return };
        let key = conn.peer.clone();
        let Some(peer) = self.peers.get(&key) else { return };
        let (address, client, kept) = (peer.address, peer.client(), peer.source);
        let external = peer.remote_asn() != self.config.asn;
        let (fail_static, send_paths) = (peer.fail_static_secs() > 0, peer.add_path().send);
        let router_id = negotiated.peer.router_id;
        let same = kept
            .filter(|s| self.sources.get(*s).is_some_and(|s| s.router_id == router_id && s.client == client));
        if let (Some(old), None) = (kept, same) {
            self.drop_source(old);
            if let Some(peer) = self.peers.get_mut(&key) {
                peer.nothing_kept();
            }
        }
        let source =
            match same.or_else(|| self.sources.add(key.clone(), address, router_id, (client, external))) {
                Some(source) => source,
                None => return self.stop(slot, Notification::cease(cease::OUT_OF_RESOURCES), now),
            };
        for family in Family::ALL {
            // RFC 4724 section 4.2; fail static needs no forwarding bit, for next hops are not the peer's.
            let gr = negotiated.graceful_restart.unwrap_or_default();
            let survives = gr.families[family.index()] && gr.forwarding[family.index()];
            if !(self.survives_long(&key, &negotiated, family).unwrap_or(survives) || fail_static) {
                self.purge_stale(&key, source, family);
            }
        }
        let uid = self.sources.get(source).map_or(u64::MAX, |s| s.uid);
        let head = self.log.head();
        let restarting = self.restarting.is_some();
        if let Some(Some(conn)) = self.conns.get_mut(slot) {
            conn.source = Some(source);
            conn.uid = uid;
            conn.established_at = now;
            conn.ended = negotiated.families.map(|on| !on || negotiated.graceful_restart.is_none());
            let families = negotiated.families;
            conn.ids = negotiated.add_path.map(|a| a.receive);
            let paths = negotiated.add_path.map(|a| if a.send { send_paths } else { 0 });
            let (extended, long_lived) = (negotiated.extended, negotiated.long_lived.is_some());
            conn.out.join(Member { uid, client, families, extended, long_lived, paths }, head);
            conn.out.snapshot = families.map(|on| on.then_some(0));
            if !restarting {
                conn.out.end_of_rib = families.map(|on| on.then_some(head));
            }
        }
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.source = Some(source);
            peer.since = now;
            peer.established_count += 1;
            peer.graceful = negotiated.graceful_restart.is_some();
            if peer.stale_until.is_some() || peer.long_lived_until.iter().any(Option::is_some) {
                peer.stale_until = Some(now + STALE_AFTER_RETURN_SECS * 1000);
                self.wake(now + STALE_AFTER_RETURN_SECS * 1000);
            }
        }
        self.remembered_version += 1;
        // RFC 4724 section 4.1: one without graceful restart, or one that has restarted itself and waits for us as
        // we would for it, is not waited for.
        if negotiated.graceful_restart.is_none_or(|gr| gr.restarted) {
            self.no_longer_expected(address);
        }
        self.settle_paths();
        if let Some(Some(conn)) = self.conns.get(slot) {
            let deadline = conn.session.deadline();
            self.wake(deadline);
        }
        self.tap_up(slot, now);
        self.publish |= self.config.publish_best_paths;
        self.watch(slot);
    }

    /// The peer has sent everything of a family: what is stale still, is gone.
    pub(super) fn end_of_rib_from(&mut self, slot: usize, family: Family) {
        let Some(Some(conn)) = self.conns.get_mut(slot) else { return };
        let Some(source) = conn.source else { return };
        let key = conn.peer.clone();
        conn.ended[family.index()] = true;
        // No order of the families is prescribed (RFC 4724 section 2).
        let last = conn.ended == [true; 2];
        self.purge_stale(&key, source, family);
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let address = peer.address;
        if self.v4.held(source).stale == 0 && self.v6.held(source).stale == 0 {
            peer.stale_until = None;
        }
        self.publish |= self.config.publish_best_paths;
        if last {
            self.no_longer_expected(address);
        }
    }

    pub(super) fn no_longer_expected(&mut self, address: IpAddr) {
        if let Some((_, expected)) = &mut self.restarting {
            expected.remove(&address);
            if expected.is_empty() {
                self.restart_done();
            }
        }
    }

    /// The restart is over: everybody gets the End-of-RIB that was held back.
    pub(super) fn restart_done(&mut self) {
        self.flush();
        self.restarting = None;
        self.remembered_version += 1;
        let head = self.log.head();
        for conn in self.conns.iter_mut().flatten().filter(|c| c.source.is_some()) {
            if let Some(member) = conn.out.member() {
                conn.out.end_of_rib = member.families.map(|on| on.then_some(head));
            }
        }
    }

    /// What remains when a session is over.
    pub(super) fn session_over(&mut self, slot: usize, conn: Conn, end: End, now: Millis) {
        self.tap_down(&conn, &end, now);
        let luck = self.luck();
        let Some(peer) = self.peers.get_mut(&conn.peer) else { return };
        peer.conns.retain(|s| *s != slot);
        peer.totals.add(&conn.totals);
        match &end {
            End::Sent(n) if (n.code, n.subcode) == (6, cease::MAX_PREFIXES) => {
                peer.totals.notifications_sent += 1;
                peer.held_down_until = now + HELD_DOWN_SECS * 1000;
            }
            End::Sent(_) => peer.totals.notifications_sent += 1,
            End::Received(_) => peer.totals.notifications_received += 1,
            End::Lost(_) => {}
        }
        if peer.conns.is_empty() || conn.source.is_some() {
            peer.since = now;
        }
        peer.last_error = Some(match &end {
            // Its SYN was taken, and what came after it was not heard.
            End::Sent(n) if n.code == HOLD_TIMER_EXPIRED && conn.source.is_none() => {
                format!("sent {n}{}", peer.options().guard.distance_hint())
            }
            End::Sent(n) => format!("sent {n}"),
            End::Received(n) => format!("received {n}"),
            End::Lost(how) => how.clone(),
        });
        if conn.source.is_some() && now >= conn.established_at + GOOD_SESSION_MS {
            peer.backoff_ms = FIRST_RETRY_MS;
        }
        peer.retry(now, luck);
        let retry = peer.dial;
        if let Some(source) = conn.source {
            self.retain(&conn, source, &end, now);
            self.publish |= self.config.publish_best_paths;
            self.remembered_version += 1;
        }
        if conn.session.negotiated().is_some_and(|n| n.add_path.iter().any(|a| a.send)) {
            self.settle_paths();
        }
        if let Dial::At(at) = retry {
            self.wake(at);
        }
        self.wake(now + GONE_SHOWN_SECS * 1000);
    }

    /// Removes a source with all its paths.
    pub(super) fn drop_source(&mut self, source: SourceId) {
        for family in Family::ALL {
            self.purge_family(source, family, false);
        }
        self.ending.push(source);
    }

    /// A dialled connection did not come about.
    pub fn dial_failed(&mut self, key: &PeerKey, why: &str, now: Millis) {
        let luck = self.luck();
        let Some(peer) = self.peers.get_mut(key) else { return };
        if peer.dial == Dial::Trying {
            peer.last_error = Some(why.to_string());
            peer.retry(now, luck);
            if let Dial::At(at) = peer.dial {
                self.wake(at);
            }
        }
    }

    pub(super) fn tick_peers(&mut self, now: Millis) {
        let mut expired = Vec::new();
        let mut long_expired = Vec::new();
        let mut gone = Vec::new();
        for (key, peer) in &mut self.peers {
            if peer.stale_until.is_some_and(|at| at <= now) {
                expired.push(key.clone());
            }
            if peer.long_lived_until.iter().flatten().any(|at| *at <= now) {
                long_expired.push(key.clone());
            }
            if let (Dial::At(at), Origin::Named(n)) = (peer.dial, &peer.origin)
                && at <= now
                && !self.stopped
            {
                peer.dial = Dial::Trying;
                let to = SocketAddr::new(n.address, n.port);
                let (from, guard) = (n.local_address, n.options.guard.clone());
                self.actions.push_back(Action::Dial { peer: key.clone(), to, from, guard });
            }
            let dynamic = matches!(peer.origin, Origin::Dynamic { .. });
            let idle = dynamic && peer.conns.is_empty() && peer.kept_down.is_none();
            let forgotten = peer.since + GONE_SHOWN_SECS * 1000;
            if idle && peer.source.is_none() && forgotten <= now {
                gone.push(key.clone());
            }
            let stale = peer.stale_until.filter(|at| *at > now);
            let dial = if let Dial::At(at) = peer.dial { Some(at).filter(|_| !self.stopped) } else { None };
            let forget = idle.then_some(forgotten.max(now + 1000));
            let long = peer.long_lived_until.into_iter().flatten().filter(|at| *at > now);
            let next = [stale, dial, forget].into_iter().flatten().chain(long).min().unwrap_or(Millis::MAX);
            self.wake_at = self.wake_at.min(next);
        }
        gone.iter().for_each(|key| drop(self.peers.remove(key)));
        expired.iter().for_each(|key| self.retention_over(key, now));
        long_expired.iter().for_each(|key| self.long_lived_over(key, now));
    }

    /// Replaces the dynamic peers.
    pub fn set_dynamic_peers(&mut self, groups: Vec<DynamicPeers>, now: Millis) {
        self.now = now;
        self.groups = groups;
        let dynamic: Vec<(PeerKey, IpAddr)> = self
            .peers
            .values()
            .filter(|p| matches!(p.origin, Origin::Dynamic { .. }))
            .map(|p| (p.key.clone(), p.address))
            .collect();
        for (key, address) in dynamic {
            match self.dynamic_origin(address) {
                Some(origin) => self.renew(&key, origin, now),
                None => self.expel(&key, "no longer admitted", now),
            }
        }
        self.expect_only_admitted();
    }

    /// After a restart, whoever may not come any more is not waited for.
    fn expect_only_admitted(&mut self) {
        let Some((_, expected)) = &self.restarting else { return };
        let named = |a: &IpAddr| self.peers.values().any(|p| p.address == *a);
        let barred: Vec<IpAddr> =
            expected.iter().filter(|a| !named(a) && self.dynamic_origin(**a).is_none()).copied().collect();
        for address in barred {
            self.no_longer_expected(address);
        }
    }

    /// The neighbours that keep our routes over our restart, and those still waited for after the last one: whom
    /// to expect ([`crate::settings::Restarting`]) should this process end now.
    pub fn remembered(&self) -> BTreeSet<IpAddr> {
        let held = self.peers.values().filter(|p| p.graceful && p.source.is_some()).map(|p| p.address);
        let awaited = self.restarting.iter().flat_map(|(_, expected)| expected.iter().copied());
        held.chain(awaited).collect()
    }

    /// Grows whenever [`Speaker::remembered`] or [`Speaker::all_established`] may answer otherwise; a shutdown forgets
    /// nobody.
    pub fn remembered_version(&self) -> u64 {
        self.remembered_version
    }

    /// Gives a dynamic peer what its group and admission say now.
    fn renew(&mut self, key: &PeerKey, origin: Origin, now: Millis) {
        let Some(peer) = self.peers.get_mut(key) else { return };
        let same_kind = match (&peer.origin, &origin) {
            (
                Origin::Dynamic { client, remote_asn, policy, options, .. },
                Origin::Dynamic { client: c, remote_asn: r, policy: p, options: o, .. },
            ) => client == c && remote_asn == r && policy.is_some() == p.is_some() && options == o,
            _ => false,
        };
        let policy_changed = match (peer.policy(), &origin) {
            (Some(old), Origin::Dynamic { policy: Some(new), .. }) => {
                !Arc::ptr_eq(old, new) && **old != **new
            }
            _ => false,
        };
        peer.origin = origin;
        if policy_changed {
            peer.held_down_until = 0;
        }
        if !same_kind {
            let conns = peer.conns.clone();
            for slot in conns {
                self.stop(slot, Notification::cease(cease::OTHER_CONFIGURATION_CHANGE), now);
            }
            // What is kept of one that is away was let in by rules that hold no longer.
            let Some(peer) = self.peers.get_mut(key) else { return };
            peer.nothing_kept();
            if let Some(source) = peer.source.take() {
                self.remembered_version += 1;
                self.drop_source(source);
            }
        } else if policy_changed {
            self.policy_changed(key, now);
        }
    }

    /// The soft refresh of one neighbour.
    fn policy_changed(&mut self, key: &PeerKey, now: Millis) {
        let Some(peer) = self.peers.get(key) else { return };
        let (policy, source, conns) = (peer.policy().cloned(), peer.source, peer.conns.clone());
        let mut up = None;
        for slot in conns {
            if let Some(Some(conn)) = self.conns.get_mut(slot) {
                conn.policy.clone_from(&policy);
                up = conn.source.map(|_| slot).or(up);
            }
        }
        if let Some(source) = source {
            self.judge_again(source, up, policy.as_deref());
        }
        if let Some(slot) = up
            && let Err(n) = self.over_limit(slot)
        {
            self.stop(slot, n, now);
        }
    }

    /// Ends what a neighbour has, at once and with its routes.
    fn expel(&mut self, key: &PeerKey, why: &str, now: Millis) {
        let conns = self.peers.get(key).map(|p| p.conns.clone()).unwrap_or_default();
        for slot in conns {
            let n = Notification::cease_with_text(cease::PEER_DECONFIGURED, why);
            let n = self.hard_where_agreed(slot, n);
            self.stop(slot, n, now);
        }
        self.remembered_version += 1;
        if let Some(source) = self.peers.remove(key).and_then(|p| p.source) {
            self.drop_source(source);
        }
    }

    /// Replaces the neighbours that are dialled.
    pub fn set_neighbors(&mut self, neighbors: Vec<Neighbor>, now: Millis) {
        let wished: BTreeMap<PeerKey, Neighbor> =
            neighbors.into_iter().map(|n| (PeerKey::Named(n.name.clone()), n)).collect();
        // A neighbour that changes stays as the operator left it.
        let down = |p: &Peer| Some((p.key.clone(), p.kept_down.clone()?));
        let mut kept_down: BTreeMap<PeerKey, String> = self.peers.values().filter_map(down).collect();
        let named: Vec<PeerKey> =
            self.peers.keys().filter(|k| matches!(k, PeerKey::Named(_))).cloned().collect();
        for key in named {
            let same = |n: &Neighbor| {
                matches!(self.peers.get(&key).map(|p| &p.origin), Some(Origin::Named(old)) if {
                    // How long routes are kept, and which are accepted, changes nothing for the session.
                    let (fail_static_secs, policy) = (n.fail_static_secs, n.policy.clone());
                    old.policy.is_some() == policy.is_some()
                        && Neighbor { fail_static_secs, policy, ..old.clone() } == *n
                })
            };
            if !wished.get(&key).is_some_and(same) {
                self.expel(&key, "neighbour removed or changed", now);
            }
        }
        for (key, n) in wished {
            match self.peers.get_mut(&key) {
                Some(peer) => {
                    let before = peer.policy().cloned();
                    peer.origin = Origin::Named(n);
                    if before.as_ref() != peer.policy() {
                        self.policy_changed(&key, now);
                    }
                }
                None => {
                    let mut peer = Peer::new(key.clone(), n.address.to_canonical(), Origin::Named(n), now);
                    peer.kept_down = kept_down.remove(&key);
                    if peer.kept_down.is_some() {
                        peer.dial = Dial::Rest;
                    }
                    self.peers.insert(key, peer);
                    self.wake(now);
                }
            }
        }
    }

    /// Sets the routes that we originate.
    pub fn originate(&mut self, routes: Vec<Originated>) {
        let mut wished = BTreeSet::new();
        for route in routes {
            wished.insert(route.prefix);
            let family = route.prefix.family();
            let mut key = vec![family.index() as u8];
            key.extend_from_slice(&route.next_hop.octets());
            key.extend_from_slice(&route.local_pref.to_be_bytes());
            route.communities.iter().for_each(|c| key.extend_from_slice(&c.to_be_bytes()));
            let own = self.own;
            let attr = self.own_attributes(&key, || {
                Attributes::originated(family, route.next_hop, route.local_pref, &route.communities, &own)
            });
            match route.prefix {
                Prefix::V4(p) => {
                    let id = (p.bits(), p.prefix_len(), 0);
                    self.v4.announce(&mut self.store, SourceId::LOCAL, id, attr, 0);
                }
                Prefix::V6(p) => {
                    let id = (p.bits(), p.prefix_len(), 0);
                    self.v6.announce(&mut self.store, SourceId::LOCAL, id, attr, 0);
                }
            }
        }
        for gone in std::mem::take(&mut self.originated).difference(&wished) {
            match gone {
                Prefix::V4(p) => {
                    self.v4.withdraw(&mut self.store, SourceId::LOCAL, (p.bits(), p.prefix_len(), 0));
                }
                Prefix::V6(p) => {
                    self.v6.withdraw(&mut self.store, SourceId::LOCAL, (p.bits(), p.prefix_len(), 0));
                }
            }
        }
        self.originated = wished;
    }

    /// Enrolled addresses without a peer of their own, with their group: they have not connected yet.
    pub(super) fn awaited(&self) -> impl Iterator<Item = (&DynamicPeers, IpAddr, &ImportPolicy)> {
        self.groups.iter().flat_map(|g| {
            let enrolled = match &g.admission {
                Admission::Open => None,
                Admission::Enrolled(all) => Some(all.iter()),
            };
            enrolled
                .into_iter()
                .flatten()
                .filter(|(a, _)| !self.peers.contains_key(&PeerKey::Dynamic(**a)))
                .map(move |(a, p)| (g, *a, p.as_ref()))
        })
    }

    /// The neighbours with an established session, by address.
    pub fn all_established(&self) -> BTreeSet<IpAddr> {
        let up = self.conns.iter().flatten().filter(|c| c.session.state() == State::Established);
        up.filter_map(|c| Some(self.peers.get(&c.peer)?.address)).collect()
    }

    /// How many sessions are Established.
    pub(super) fn established_count(&self) -> usize {
        self.conns.iter().flatten().filter(|c| c.session.state() == State::Established).count()
    }
}
