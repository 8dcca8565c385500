//! Views: what the speaker shows of itself. Nothing here changes anything.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::ingress::prefix_limit;
use super::multipath::EQUAL;
use super::{Conn, Speaker};
use crate::egress::Member;
use crate::message::Address;
use crate::peer::{Dial, Origin, Peer, Totals};
use crate::policy::RejectReason;
use crate::reflect::Audience;
use crate::rib::{Held, PathInfo, Table};
use crate::session::{Millis, State};
use crate::store::SourceId;
use crate::types::Prefix;
use crate::view::{PeerView, RejectedView, RouteQuery, RouteView, SpeakerView};

/// Rejected routes that are shown at most.
const REJECTED_SHOWN: usize = 10_000;

impl Speaker {
    /// The speaker as a whole.
    pub fn summary(&self, now: Millis) -> SpeakerView {
        SpeakerView {
            asn: self.config.asn,
            router_id: self.config.router_id.0,
            cluster_id: self.config.cluster_id.0,
            uptime_secs: (now - self.started_at) / 1000,
            restarting: self.restarting.is_some(),
            restart_awaited: self.restarting.as_ref().map_or(0, |(_, expected)| expected.len()),
            restart_secs_left: self
                .restarting
                .as_ref()
                .map_or(0, |(until, _)| until.saturating_sub(now).div_ceil(1000)),
            established: self.established_count(),
            prefixes: self.v4.advertised_count() + self.v6.advertised_count(),
            paths: self.v4.path_count() + self.v6.path_count(),
            attribute_sets: self.store.len(),
            refused: self.refused.iter().map(|(why, n)| (why.to_string(), *n)).collect(),
            md5_dropped: BTreeMap::new(),
            ttl_dropped: 0,
            findings: Vec::new(),
            log_bytes: self.log.bytes(),
        }
    }

    /// Every neighbour: configured, connected, or admitted and awaited.
    pub fn peers(&self, now: Millis) -> Vec<PeerView> {
        let awaited = self.awaited().map(|(g, address, policy)| {
            let origin = Origin::Dynamic {
                group: g.name.clone(),
                client: g.route_reflector_client,
                remote_asn: g.remote_asn,
                options: g.options.clone(),
                policy: Some(policy.clone().into()),
            };
            let peer = Peer::new(crate::types::PeerKey::Dynamic(address), address, origin, self.started_at);
            self.peer_view(&peer, now)
        });
        let mut all: Vec<PeerView> =
            self.peers.values().map(|p| self.peer_view(p, now)).chain(awaited).collect();
        all.sort_by(|a, b| (&a.name, a.address).cmp(&(&b.name, b.address)));
        all
    }

    fn peer_view(&self, peer: &Peer, now: Millis) -> PeerView {
        let conns = || peer.conns.iter().filter_map(|s| self.conn(*s));
        let conn =
            conns().max_by_key(|c| c.session.state() as u8 * u8::from(c.session.state() != State::Closed));
        let negotiated = conn.and_then(|c| c.session.negotiated());
        let held = [SourceHeld::of(&self.v4, peer.source), SourceHeld::of(&self.v6, peer.source)];
        let sum = |of: fn(&Held) -> u32| held.iter().map(|h| u64::from(of(&h.0))).sum::<u64>();
        let unkept = conns().map(|c| c.unkept).sum::<u64>();
        let mut totals = peer.totals;
        for c in conns() {
            totals.add(&Totals { bytes_out: c.out.sent, ..c.totals });
        }
        let (dynamic, leaf) = match &peer.origin {
            Origin::Named(_) => (None, None),
            Origin::Dynamic { group, policy, .. } => {
                (Some(group.clone()), policy.as_ref().map(|p| p.owner.clone()))
            }
        };
        let last_error = peer.last_error.clone();
        PeerView {
            name: peer.name(),
            address: peer.address,
            remote_asn: peer.remote_asn(),
            state: state_of(peer, conn).to_string(),
            since_secs: now.saturating_sub(peer.since) / 1000,
            dynamic,
            leaf,
            router_id: negotiated.map(|n| n.peer.router_id.0),
            client: peer.client(),
            hold_time_secs: negotiated.map_or(0, |n| n.hold_secs),
            guards: guards(&self.guard_of(peer.address)),
            capabilities: negotiated.map(capabilities).unwrap_or_default(),
            prefixes_received: sum(|h| h.paths),
            prefixes_accepted: sum(Held::accepted),
            prefixes_rejected: sum(Held::rejected) + unkept,
            rejected_by_reason: rejected_by_reason(&held),
            rejections_total: totals.rejections,
            prefixes_stale: sum(|h| h.stale),
            prefixes_long_lived_stale: sum(|h| h.long_lived),
            prefixes_sent: conn.map_or(0, |c| self.sent_to(c)),
            treated_as_withdraw: totals.treated_as_withdraw,
            attributes_discarded: totals.attributes_discarded,
            notifications_sent: totals.notifications_sent,
            notifications_received: totals.notifications_received,
            prefix_limit: prefix_limit(peer.policy().map(|p| &**p), peer.options().max_prefixes),
            prefix_warning_percent: peer.options().prefix_warning_percent,
            near_prefix_limit: conns().any(|c| c.near_limit),
            prefix_warnings: totals.prefix_warnings,
            last_error,
            kept_down: peer.kept_down.clone(),
            established_count: peer.established_count,
            messages_in: totals.messages_in,
            updates_in: totals.updates_in,
            bytes_in: totals.bytes_in,
            bytes_out: totals.bytes_out,
            // Filled in by who has the sockets.
            bfd: None,
            slow: conn.is_some_and(|c| c.out.behind.is_some()),
        }
    }

    /// Prefixes that are advertised to a session: those of every source whose audience it belongs to.
    fn sent_to(&self, conn: &Conn) -> u64 {
        let Some(member) = conn.out.member() else { return 0 };
        let mut sum = 0;
        for (id, source) in self.sources.iter() {
            let gets = source.uid != member.uid && (member.client || source.client || source.is_local());
            for (i, held) in [(0, self.v4.held(id)), (1, self.v6.held(id))] {
                sum += if gets && member.families[i] && member.paths[i] == 0 {
                    u64::from(held.advertised - if member.long_lived { 0 } else { held.advertised_marked })
                } else {
                    0
                };
            }
        }
        sum + self.paths_sent_to(&self.v4, member) + self.paths_sent_to(&self.v6, member)
    }

    /// Paths that are advertised to a session with their identifiers.
    fn paths_sent_to<A: Address>(&self, table: &Table<A>, member: &Member) -> u64 {
        let Some(batch) = self.path_batches.iter().find(|b| b.paths() == member.paths[A::FAMILY.index()])
        else {
            return 0;
        };
        let mut sum = 0;
        table.scan_paths(0, usize::MAX, |_, _, _, attr, rank| {
            let audience = self.store.source(attr).map(|s| Audience::of(&self.sources, s));
            let kept = !member.long_lived && self.store.get(attr).is_some_and(|a| a.long_lived_stale);
            let sent =
                !kept && batch.sends(rank) && audience.is_some_and(|a| a.has(member.uid, member.client));
            sum += u64::from(sent);
        });
        sum
    }

    /// The paths that `query` selects, by prefix, the best first.
    pub fn routes(&self, query: &RouteQuery) -> Vec<RouteView> {
        let mut all = Vec::new();
        match query.prefix {
            Some(Prefix::V4(p)) if !query.longer => {
                let infos = self.v4.explain(p.bits(), p.prefix_len(), &self.store, &self.sources);
                self.select(Prefix::V4(p), infos, query, &mut all);
            }
            Some(Prefix::V6(p)) if !query.longer => {
                let infos = self.v6.explain(p.bits(), p.prefix_len(), &self.store, &self.sources);
                self.select(Prefix::V6(p), infos, query, &mut all);
            }
            _ => {
                self.routes_in(&self.v4, query, &mut all);
                self.routes_in(&self.v6, query, &mut all);
                all.sort_by_key(|r| r.prefix);
            }
        }
        all.truncate(query.limit);
        all
    }

    fn routes_in<A: Address>(&self, table: &Table<A>, query: &RouteQuery, all: &mut Vec<RouteView>) {
        for (addr, len) in table.prefixes() {
            let infos = table.explain(addr, len, &self.store, &self.sources);
            self.select(addr.prefix(len), infos, query, all);
        }
    }

    /// Adds those paths of a prefix that `query` wants, the best first.
    pub(super) fn select(
        &self,
        prefix: Prefix,
        mut infos: Vec<PathInfo>,
        query: &RouteQuery,
        all: &mut Vec<RouteView>,
    ) {
        let inside = |p: Prefix| p.prefix_len() <= prefix.prefix_len() && p.contains(prefix.addr());
        if query.prefix.is_some_and(|p| p != prefix && !(query.longer && inside(p))) {
            return;
        }
        self.mark_equal(&mut infos);
        infos.sort_by_key(|i| (!i.best, !i.equal, i.rejected.is_some(), i.source));
        let deciding = infos.iter().filter_map(|i| i.lost).max();
        let alone = infos.iter().filter(|i| i.rejected.is_none()).count() == 1;
        for info in &infos {
            let wanted = (info.best || !query.best_only) && (info.rejected.is_none() || query.rejected);
            if !wanted {
                continue;
            }
            let reason = match (info.rejected, info.lost, deciding) {
                (Some(why), ..) => format!("rejected: {}", why.as_str()),
                (_, Some(_), _) if info.equal => EQUAL.to_string(),
                (_, Some(step), _) => format!("lost: not the {}", step.as_str()),
                (_, None, Some(step)) if !alone => format!("best: {}", step.as_str()),
                _ => "best: the only path".to_string(),
            };
            let view = self.route_view(prefix, info, reason);
            all.extend(view.filter(|v| match &query.peer {
                Some(p) => v.peer == *p || v.peer_address.is_some_and(|a| a.to_string() == *p),
                None => true,
            }));
        }
    }

    pub(super) fn route_view(&self, prefix: Prefix, info: &PathInfo, reason: String) -> Option<RouteView> {
        let a = self.store.get(info.attr)?;
        let (peer, peer_address, leaf) = self.source_names(info.source);
        Some(RouteView {
            prefix,
            next_hop: a.next_hop,
            peer,
            peer_address,
            leaf,
            originator_id: a.originator.0,
            cluster_list: a.cluster_list(),
            best: info.best,
            equal: info.equal,
            reason,
            local_pref: a.local_pref,
            med: a.med,
            origin: origin(a.origin).to_string(),
            communities: a.communities().iter().map(|c| format!("{}:{}", c >> 16, c & 0xffff)).collect(),
            extended_communities: a.extended_communities().iter().map(extended_community).collect(),
            large_communities: a
                .large_communities()
                .iter()
                .map(|[asn, one, two]| format!("{asn}:{one}:{two}"))
                .collect(),
            as_path: a.as_path(),
            path_id: info.path_id,
            accepted: info.rejected.is_none(),
            stale: info.stale,
            long_lived_stale: a.long_lived_stale,
        })
    }

    fn source_names(&self, id: SourceId) -> (String, Option<IpAddr>, Option<String>) {
        let source = self.sources.get(id);
        let Some((key, address)) = source.and_then(|s| Some((s.peer.as_ref()?, s.address))) else {
            return ("local".to_string(), None, None);
        };
        let leaf = self.peers.get(key).and_then(|p| p.policy()).map(|p| p.owner.clone());
        (leaf.clone().unwrap_or_else(|| key.to_string()), Some(address), leaf)
    }

    /// The rejected routes that are kept.
    pub fn rejected(&self) -> Vec<RejectedView> {
        let mut all = Vec::new();
        for (id, _) in self.sources.iter() {
            self.rejected_in(&self.v4, id, &mut all);
            self.rejected_in(&self.v6, id, &mut all);
        }
        all.sort_by(|a, b| (&a.peer, a.prefix).cmp(&(&b.peer, b.prefix)));
        all
    }

    /// The rejected routes that are kept of the neighbour with this address.
    pub fn rejected_from(&self, address: IpAddr) -> Vec<RejectedView> {
        let mut all = Vec::new();
        for (id, _) in self.sources.iter().filter(|(id, s)| *id != SourceId::LOCAL && s.address == address) {
            self.rejected_in(&self.v4, id, &mut all);
            self.rejected_in(&self.v6, id, &mut all);
        }
        all.sort_by_key(|r| r.prefix);
        all
    }

    fn rejected_in<A: Address>(&self, table: &Table<A>, id: SourceId, all: &mut Vec<RejectedView>) {
        if table.held(id).rejected() == 0 {
            return;
        }
        let (peer, peer_address, leaf) = self.source_names(id);
        for (addr, len, _, attr, verdict) in table.of_source(id) {
            if let Some(reason) = RejectReason::from_code(verdict)
                && let Some(a) = self.store.get(attr)
                && all.len() < REJECTED_SHOWN
            {
                let (peer, leaf) = (peer.clone(), leaf.clone());
                let prefix = addr.prefix(len);
                all.push(RejectedView {
                    prefix,
                    peer,
                    peer_address,
                    leaf,
                    next_hop: a.next_hop,
                    reason,
                    by: None,
                });
            }
        }
    }
}

/// An extended community in words (RFC 4360 sections 3 to 5, RFC 5668).
fn extended_community(c: &[u8; 8]) -> String {
    let [kind, sub, a, b, d, e, f, g] = *c;
    let name = match sub {
        2 => "rt",
        3 => "soo",
        _ => return format!("{:016x}", u64::from_be_bytes(*c)),
    };
    match kind {
        0 => format!("{name}:{}:{}", u16::from_be_bytes([a, b]), u32::from_be_bytes([d, e, f, g])),
        1 => format!("{name}:{}:{}", std::net::Ipv4Addr::new(a, b, d, e), u16::from_be_bytes([f, g])),
        2 => format!("{name}:{}:{}", u32::from_be_bytes([a, b, d, e]), u16::from_be_bytes([f, g])),
        _ => format!("{:016x}", u64::from_be_bytes(*c)),
    }
}

#[cfg(test)]
#[test]
fn extended_communities_in_words() {
    let text = |c: [u8; 8]| extended_community(&c);
    assert_eq!(text([0, 2, 0xfd, 0xe9, 0, 0, 0, 7]), "rt:65001:7");
    assert_eq!(text([1, 3, 10, 0, 0, 1, 0, 7]), "soo:10.0.0.1:7");
    assert_eq!(text([2, 2, 0, 1, 0, 0, 0, 7]), "rt:65536:7");
    assert_eq!(text([3, 11, 0, 0, 0, 0, 0, 100]), "030b000000000064");
}

/// ORIGIN in words (RFC 4271 section 5.1.1).
pub(super) fn origin(code: u8) -> &'static str {
    match code {
        0 => "igp",
        1 => "egp",
        _ => "incomplete",
    }
}

struct SourceHeld(Held);

impl SourceHeld {
    fn of<A: Address>(table: &Table<A>, source: Option<SourceId>) -> SourceHeld {
        SourceHeld(source.map(|s| table.held(s)).unwrap_or_default())
    }
}

fn rejected_by_reason(held: &[SourceHeld; 2]) -> BTreeMap<String, u64> {
    RejectReason::ALL
        .into_iter()
        .map(|r| {
            let n: u32 = held.iter().map(|h| h.0.by_verdict[usize::from(r.code())]).sum();
            (r.as_str().to_string(), u64::from(n))
        })
        .filter(|(_, n)| *n > 0)
        .collect()
}

fn state_of(peer: &Peer, conn: Option<&Conn>) -> &'static str {
    match conn.map(|c| c.session.state()) {
        Some(State::Established) => "Established",
        Some(State::OpenConfirm) => "OpenConfirm",
        Some(State::OpenSent) => "OpenSent",
        Some(State::Closed) | None => match peer.dial {
            Dial::Trying => "Connect",
            Dial::At(_) => "Active",
            Dial::Rest if peer.kept_down.is_some() => "KeptDown",
            Dial::Rest => "Idle",
        },
    }
}

fn guards(guard: &crate::settings::Guard) -> Vec<String> {
    let named = [(guard.md5.is_some(), "tcp-md5"), (guard.max_hops.is_some(), "gtsm")];
    named.iter().filter(|(on, _)| *on).map(|(_, name)| name.to_string()).collect()
}

fn capabilities(n: &crate::session::Negotiated) -> Vec<String> {
    let named = [
        (n.families[0], "ipv4-unicast"),
        (n.families[1], "ipv6-unicast"),
        (n.peer.four_octet_as, "four-octet-as"),
        (n.peer.refresh, "route-refresh"),
        (n.enhanced_refresh, "enhanced-route-refresh"),
        (n.extended, "extended-message"),
        (n.graceful_restart.is_some(), "graceful-restart"),
        (n.long_lived.is_some(), "long-lived-graceful-restart"),
        (n.add_path.iter().any(|a| a.receive), "add-path-receive"),
        (n.add_path.iter().any(|a| a.send), "add-path-send"),
    ];
    named.iter().filter(|(on, _)| *on).map(|(_, name)| name.to_string()).collect()
}
