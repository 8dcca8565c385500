//! One prefix explained: every candidate, what decided between them, and who is told. Nothing here changes anything.

use std::net::IpAddr;

use super::multipath::EQUAL;
use super::{Conn, Speaker};
use crate::attributes::Attributes;
use crate::best_path::Step;
use crate::explain::{Asked, CandidateView, Explanation, RejectionView, StepView, Verdict, WithheldView};
use crate::message::{Address, MAX_LEN};
use crate::reflect::Audience;
use crate::rib::{PathInfo, Table};
use crate::session::{Millis, State};
use crate::store::{AttrId, Costs, SourceId};
use crate::types::{Family, Prefix};

impl Speaker {
    /// Everything that is known of a prefix.
    pub fn explain(&self, asked: Asked, now: Millis) -> Explanation {
        let prefix = match asked {
            Asked::Prefix(prefix) => prefix,
            Asked::Address(IpAddr::V4(a)) => {
                covering(&self.v4, a.to_bits()).unwrap_or(Prefix::host(a.into()))
            }
            Asked::Address(IpAddr::V6(a)) => {
                covering(&self.v6, a.to_bits()).unwrap_or(Prefix::host(a.into()))
            }
        };
        match prefix {
            Prefix::V4(p) => self.explain_in(&self.v4, p.bits(), p.prefix_len(), now),
            Prefix::V6(p) => self.explain_in(&self.v6, p.bits(), p.prefix_len(), now),
        }
    }

    fn explain_in<A: Address>(&self, table: &Table<A>, addr: A, len: u8, now: Millis) -> Explanation {
        let prefix = addr.prefix(len);
        let mut infos = table.explain(addr, len, &self.store, &self.sources);
        self.mark_equal(&mut infos);
        infos.sort_by_key(|i| (!i.best, !i.equal, i.rejected.is_some(), self.tie_break(i)));
        let candidates: Vec<CandidateView> =
            infos.iter().filter_map(|info| self.candidate(prefix, info, &infos, now)).collect();
        let best = infos.iter().find(|i| i.best);
        let decided_by = infos.iter().filter_map(|i| i.lost).max().and_then(|step| {
            let loser = infos.iter().find(|i| i.lost == Some(step))?;
            let lost = self.step(step, loser, &infos)?;
            Some(StepView { had: lost.against, against: lost.had, ..lost })
        });
        let (advertised_to, withheld_from) = match best {
            Some(best) => self.told(best.source, best.attr, A::FAMILY),
            None => Default::default(),
        };
        let outcome = outcome(&infos, advertised_to.len(), decided_by.as_ref());
        Explanation { prefix, outcome, decided_by, candidates, advertised_to, withheld_from }
    }

    /// An order that does not depend on the order of arrival.
    fn tie_break(&self, info: &PathInfo) -> (Option<IpAddr>, u32) {
        (self.sources.get(info.source).map(|s| s.address), info.path_id)
    }

    fn candidate(
        &self,
        prefix: Prefix,
        info: &PathInfo,
        all: &[PathInfo],
        now: Millis,
    ) -> Option<CandidateView> {
        let lost_at = info.lost.and_then(|step| self.step(step, info, all));
        let rejected = info.rejected.map(|reason| {
            let notes = &self.rejections[prefix.family().index()];
            let note = notes.of(info.source, prefix, info.path_id);
            RejectionView {
                reason,
                why: reason.sentence().into(),
                since_secs: note.map_or(0, |n| now.saturating_sub(n.since) / 1000),
                count: note.map_or(1, |n| n.count),
            }
        });
        let (verdict, reason) = match (&rejected, &lost_at) {
            (Some(r), _) => (Verdict::Rejected, format!("rejected: {}", r.reason.as_str())),
            (_, Some(_)) if info.equal => (Verdict::Equal, EQUAL.to_string()),
            (_, Some(step)) => (Verdict::Lost, format!("lost: not the {}", step.step)),
            _ => (Verdict::Chosen, "best".to_string()),
        };
        let path = self.route_view(prefix, info, reason)?;
        Some(CandidateView { verdict, lost_at, rejected, path })
    }

    /// What a path had at the step at which it lost, and what was better.
    fn step(&self, step: Step, loser: &PathInfo, all: &[PathInfo]) -> Option<StepView> {
        let lost = self.store.get(loser.attr)?;
        let winner = match step {
            // MED is compared inside one neighbour AS only: the best path may be of another.
            Step::Med => all
                .iter()
                .filter(|i| i.rejected.is_none() && i.lost.is_none_or(|s| s >= Step::Med))
                .filter(|i| self.store.get(i.attr).is_some_and(|a| a.neighbor_as == lost.neighbor_as))
                .min_by_key(|i| self.store.get(i.attr).and_then(|a| a.med).unwrap_or(0))?,
            _ => all.iter().find(|i| i.best)?,
        };
        Some(StepView {
            step: step.as_str().into(),
            rule: step.rule().into(),
            had: self.value(step, loser, lost),
            against: self.value(step, winner, self.store.get(winner.attr)?),
        })
    }

    /// What a step looks at in a path.
    fn value(&self, step: Step, info: &PathInfo, a: &Attributes) -> String {
        match step {
            Step::LongLived => if a.long_lived_stale { "long-lived stale" } else { "not marked" }.into(),
            Step::LocalPref => a.local_pref.to_string(),
            Step::Local => if info.source == SourceId::LOCAL { "own" } else { "learned" }.into(),
            Step::AsPathLength => a.as_path_len.to_string(),
            Step::Origin => super::shown::origin(a.origin).into(),
            Step::Med => a.med.unwrap_or(0).to_string(),
            Step::Fresh => if info.stale { "stale" } else { "live" }.into(),
            Step::External => {
                let external = self.sources.get(info.source).is_some_and(|s| s.external);
                if external { "external" } else { "internal" }.into()
            }
            Step::NextHopCost => match self.sources.costs.of(a.next_hop) {
                Costs::UNKNOWN => format!("{}, nothing leads there", a.next_hop),
                cost => format!("{} at cost {cost}", a.next_hop),
            },
            Step::RouterId => a.originator.to_string(),
            Step::ClusterListLength => a.cluster_count.to_string(),
            Step::PeerAddress => {
                self.sources.get(info.source).map_or_else(String::new, |s| s.address.to_string())
            }
            Step::PathId => info.path_id.to_string(),
        }
    }

    /// Whom a route of this source and these attributes is advertised to, and who is left out and why.
    fn told(&self, source: SourceId, attr: AttrId, family: Family) -> (Vec<String>, Vec<WithheldView>) {
        let audience = Audience::of(&self.sources, source);
        let (mut told, mut withheld) = (Vec::new(), Vec::new());
        for conn in self.conns.iter().flatten().filter(|c| c.session.state() == State::Established) {
            let peer = self.name_of(conn);
            match self.withheld(conn, audience, attr, family) {
                None => told.push(peer),
                Some(why) => withheld.push(WithheldView { peer, why: why.into() }),
            }
        }
        told.sort();
        withheld.sort_by(|a, b| a.peer.cmp(&b.peer));
        (told, withheld)
    }

    /// Why a session does not get what goes to `audience`; `None` if it does.
    pub(super) fn withheld(
        &self,
        conn: &Conn,
        audience: Audience,
        attr: AttrId,
        family: Family,
    ) -> Option<&'static str> {
        let Some(member) = conn.out.member() else { return Some("the session has just come up") };
        let long = self.store.get(attr).is_none_or(|a| a.blob.len() + a.mp_next_hop.len() + 64 > MAX_LEN);
        if matches!(audience, Audience::AllBut(uid) | Audience::Clients(uid) if uid == member.uid) {
            Some("it came from there (RFC 4456 6)")
        } else if !audience.has(member.uid, member.client) {
            Some("a non-client's route goes to clients alone (RFC 4456 6)")
        } else if !member.families[family.index()] {
            Some("the family is not negotiated")
        } else if long && !member.extended {
            Some("longer than 4,096 octets, and no extended messages (RFC 8654)")
        } else if !member.long_lived && self.store.get(attr).is_some_and(|a| a.long_lived_stale) {
            Some("long-lived stale, and no long-lived graceful restart (RFC 9494 4.3)")
        } else {
            None
        }
    }

    /// The name under which a connection's neighbour is shown.
    pub(super) fn name_of(&self, conn: &Conn) -> String {
        let peer = self.peers.get(&conn.peer);
        let leaf = peer.and_then(|p| p.policy()).map(|p| p.owner.clone());
        leaf.unwrap_or_else(|| conn.peer.to_string())
    }
}

/// The most specific prefix with a path that covers an address.
fn covering<A: Address>(table: &Table<A>, addr: A) -> Option<Prefix> {
    let mut octets = Vec::new();
    addr.put_octets(A::BITS, &mut octets);
    (0..=A::BITS).rev().find_map(|len| {
        let net = A::from_octets(&octets[..usize::from(len.div_ceil(8))], len);
        table.has(net, len).then(|| net.prefix(len))
    })
}

fn outcome(infos: &[PathInfo], told: usize, decided_by: Option<&StepView>) -> String {
    let rejected = infos.iter().filter(|i| i.rejected.is_some()).count();
    let accepted = infos.len() - rejected;
    match (accepted, rejected) {
        (0, 0) => "no neighbour has sent it and it is not our own".into(),
        (0, n) => format!("not chosen: every path of {n} is rejected"),
        (1, _) => format!("chosen: the only accepted path of {}, advertised to {told}", infos.len()),
        _ if infos.iter().any(|i| i.equal) => {
            let used = 1 + infos.iter().filter(|i| i.equal).count();
            format!(
                "chosen: {used} equal paths of {accepted} accepted ones share it, the best is advertised to {told}"
            )
        }
        _ => {
            let step = decided_by.map_or_else(String::new, |s| format!(" by {} ({})", s.step, s.rule));
            format!("chosen among {accepted} accepted paths{step}, advertised to {told}")
        }
    }
}
