//! How long the routes of a lost session are kept: for the restart time (RFC 4724) or as fail static says, and then,
//! marked, for the long-lived stale time (RFC 9494).

use std::collections::HashMap;

use super::{Conn, Speaker};
use crate::message::LongLived;
use crate::rib::Table;
use crate::session::{End, Millis, Negotiated};
use crate::store::{AttrId, SourceId, Store};
use crate::types::{Family, PeerKey};

impl Speaker {
    /// What our OPENs say of RFC 9494, which is nothing without graceful restart (section 4.1).
    pub(super) fn long_lived_offer(&self) -> Option<[LongLived; 2]> {
        let stale_secs = self.config.long_lived_stale_secs;
        let on = stale_secs > 0 && self.config.graceful_restart_secs > 0;
        // As with graceful restart, our restart disturbs no forwarding.
        on.then_some([LongLived { forwarding: true, stale_secs }; 2])
    }

    /// A session of `source` has ended: keeps its routes, or not.
    pub(super) fn retain(&mut self, conn: &Conn, source: SourceId, end: &End, now: Millis) {
        let Some(peer) = self.peers.get_mut(&conn.peer) else { return };
        let negotiated = conn.session.negotiated();
        let gr = negotiated.and_then(|n| n.graceful_restart);
        let survives = gr.is_some_and(|gr| peer.survives(end, &gr));
        let long = negotiated.and_then(|n| n.long_lived).filter(|_| survives);
        let long_secs = long.map_or([0; 2], |l| l.map(|l| l.stale_secs));
        let keep_secs = peer.retention_secs(end, gr.as_ref());
        let covered = gr.map_or([false; 2], |gr| gr.families);
        let fail_static = peer.fail_static_secs() > 0;
        if keep_secs == 0 && long_secs == [0; 2] {
            peer.source = None;
            peer.nothing_kept();
            return self.drop_source(source);
        }
        let until = now + keep_secs * 1000;
        peer.stale_until = Some(until);
        peer.long_lived_secs = long_secs;
        self.wake(until);
        for family in Family::ALL {
            let for_a_while = covered[family.index()] || fail_static;
            match family {
                Family::Ipv4 => self.v4.mark_stale(source),
                Family::Ipv6 => self.v6.mark_stale(source),
            }
            if !for_a_while {
                self.keep_long(&conn.peer, source, family, now);
            }
        }
    }

    /// The time for which stale routes are kept is over: they go, or stay marked for longer.
    pub(super) fn retention_over(&mut self, key: &PeerKey, now: Millis) {
        let Some(peer) = self.peers.get_mut(key) else { return };
        peer.stale_until = None;
        self.remembered_version += 1;
        let Some(source) = peer.source else { return };
        let up = self.is_up(key);
        for family in Family::ALL {
            if up {
                self.purge_stale(key, source, family);
            } else {
                self.keep_long(key, source, family, now);
            }
        }
        self.forget_empty(key);
        self.publish |= self.config.publish_best_paths;
    }

    /// The long-lived stale time of some family is over.
    pub(super) fn long_lived_over(&mut self, key: &PeerKey, now: Millis) {
        let Some(peer) = self.peers.get_mut(key) else { return };
        let over = peer.long_lived_until.each_mut().map(|until| until.take_if(|at| *at <= now).is_some());
        let Some(source) = peer.source else { return };
        for family in Family::ALL.into_iter().filter(|f| over[f.index()]) {
            match family {
                Family::Ipv4 => self.v4.purge_long(&mut self.store, source),
                Family::Ipv6 => self.v6.purge_long(&mut self.store, source),
            }
        }
        self.forget_empty(key);
        self.publish |= self.config.publish_best_paths;
    }

    /// Whether what is kept of a family beyond the restart time stays, now that the peer is back (RFC 9494 section
    /// 4.2). `None`: nothing is kept so.
    pub(super) fn survives_long(&self, key: &PeerKey, back: &Negotiated, family: Family) -> Option<bool> {
        self.peers.get(key)?.long_lived_until[family.index()]?;
        let long = back.long_lived.map(|l| l[family.index()]).unwrap_or_default();
        Some(long.forwarding && long.stale_secs > 0)
    }

    /// Removes what is stale of a family, however long it was to be kept.
    pub(super) fn purge_stale(&mut self, key: &PeerKey, source: SourceId, family: Family) {
        self.purge_family(source, family, true);
        if let Some(peer) = self.peers.get_mut(key) {
            peer.long_lived_until[family.index()] = None;
        }
    }

    /// Marks what is stale of a family and keeps it for the long-lived stale time, if there is one.
    fn keep_long(&mut self, key: &PeerKey, source: SourceId, family: Family, now: Millis) {
        let Some(peer) = self.peers.get_mut(key) else { return };
        let i = family.index();
        let stale = [self.v4.held(source).stale, self.v6.held(source).stale][i];
        if peer.long_lived_secs[i] == 0 || stale == 0 {
            return self.purge_stale(key, source, family);
        }
        let over = now + u64::from(peer.long_lived_secs[i]) * 1000;
        // A session that came and went without an End-of-RIB puts nothing off.
        let until = *peer.long_lived_until[i].get_or_insert(over);
        self.wake(until);
        match family {
            Family::Ipv4 => mark_all(&mut self.v4, &mut self.store, source),
            Family::Ipv6 => mark_all(&mut self.v6, &mut self.store, source),
        }
    }

    /// Gives up the source of a peer that is away and of which nothing is kept any more.
    fn forget_empty(&mut self, key: &PeerKey) {
        let up = self.is_up(key);
        let Some(peer) = self.peers.get_mut(key) else { return };
        let waits = peer.stale_until.is_some() || peer.long_lived_until.iter().any(Option::is_some);
        if !up
            && !waits
            && let Some(source) = peer.source.take()
        {
            self.remembered_version += 1;
            self.drop_source(source);
        }
    }

    fn is_up(&self, key: &PeerKey) -> bool {
        self.conns_of(key).any(|(_, c)| c.source.is_some())
    }
}

/// Marks the stale paths of a source; each set of attributes is made once.
fn mark_all<A: crate::message::Address>(table: &mut Table<A>, store: &mut Store, source: SourceId) {
    let mut known: HashMap<AttrId, Option<AttrId>> = HashMap::new();
    table.keep_long(store, source, |store, attr| {
        *known.entry(attr).or_insert_with(|| store.derive(attr, |a| a.long_lived()))
    });
}
