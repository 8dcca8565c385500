//! Routes in: from an UPDATE to the Adj-RIB-In, through the import policy.

use super::Speaker;
use crate::attributes::{Attributes, Read, Walk, code, mp_reach, mp_unreach};
use crate::message::{Address, Notification, Refresh, Update, cease, next_prefix};
use crate::policy::{ImportPolicy, RejectReason};
use crate::rib::Table;
use crate::session::Millis;
use crate::store::{AttrId, SourceId, Store};
use crate::types::{Family, Prefix};

/// Rejected routes that are kept per source; more are counted only, and asked for again when policy changes.
pub const REJECTED_KEPT: u32 = 1024;

/// Which form an attribute set came in; part of its key, so that forms cannot be taken for each other.
#[derive(Clone, Copy)]
enum Form {
    Body = 0,
    Mp4 = 1,
    Mp6 = 2,
    Originated = 3,
}

fn scoped(uid: u64, form: Form) -> u64 {
    uid << 2 | form as u64
}

/// What the routes of one UPDATE share.
struct Arrival<'a> {
    source: SourceId,
    attr: AttrId,
    policy: Option<&'a ImportPolicy>,
}

impl Speaker {
    /// Takes in an UPDATE. `Err`: the session must end with this.
    pub(super) fn update(
        &mut self,
        slot: usize,
        update: Update<'_>,
        now: Millis,
    ) -> Result<(), Notification> {
        let Some(Some(conn)) = self.conns.get_mut(slot) else { return Ok(()) };
        let Some(source) = conn.source else { return Ok(()) };
        conn.totals.updates_in += 1;
        let uid = conn.uid;
        if !update.withdrawn.is_empty() {
            withdraw_all::<u32>(&mut self.v4, &mut self.store, source, update.withdrawn)?;
        }
        if update.attributes.is_empty() {
            if update.nlri.is_empty() && update.withdrawn.is_empty() {
                self.end_of_rib_from(slot, Family::Ipv4);
                return Ok(());
            }
            return if update.nlri.is_empty() {
                Ok(())
            } else {
                self.treat_as_withdraw(slot, source, Family::Ipv4, update.nlri, "3/3 no attributes".into())
            };
        }
        // The hot path: these very attributes have come before.
        if let Some(attr) = self.store.find(scoped(uid, Form::Body), update.attributes) {
            self.announce::<u32>(slot, source, attr, update.nlri)?;
            return self.over_limit(slot);
        }
        self.update_with_new_attributes(slot, source, update, now)
    }

    fn update_with_new_attributes(
        &mut self,
        slot: usize,
        source: SourceId,
        update: Update<'_>,
        now: Millis,
    ) -> Result<(), Notification> {
        let (mut reach, mut unreach) = (None, None);
        let mut rest = Vec::new();
        let mut at = update.attributes;
        let mut walk = Walk(at);
        while let Some(a) = walk.next() {
            let whole = &at[..at.len() - walk.0.len()];
            at = walk.0;
            let twice = match a.code {
                code::MP_REACH => reach.replace(a.value).is_some(),
                code::MP_UNREACH => unreach.replace(a.value).is_some(),
                _ => {
                    rest.extend_from_slice(whole);
                    false
                }
            };
            if twice {
                return Err(Notification::new(3, 1, Vec::new()));
            }
        }
        // What could not be walked is judged with the rest.
        rest.extend_from_slice(at);
        if let Some(value) = unreach
            && let Some((family, nlri)) = mp_unreach(value)?
        {
            if nlri.is_empty() && reach.is_none() && update.nlri.is_empty() {
                self.end_of_rib_from(slot, family);
            }
            self.withdraw_family(source, family, nlri)?;
        }
        if let Some(value) = reach
            && let Some((family, next_hop, nlri)) = mp_reach(value)?
        {
            let form = if family == Family::Ipv4 { Form::Mp4 } else { Form::Mp6 };
            let mut key = vec![next_hop.len() as u8];
            key.extend_from_slice(next_hop);
            key.extend_from_slice(&rest);
            match self.attributes(slot, source, form, &key, &rest, family, Some(next_hop))? {
                Ok(attr) if family == Family::Ipv4 => self.announce::<u32>(slot, source, attr, nlri)?,
                Ok(attr) => self.announce::<u128>(slot, source, attr, nlri)?,
                Err(why) => self.treat_as_withdraw(slot, source, family, nlri, why)?,
            }
        }
        if !update.nlri.is_empty() {
            match self.attributes(slot, source, Form::Body, &rest, &rest, Family::Ipv4, None)? {
                Ok(attr) => self.announce::<u32>(slot, source, attr, update.nlri)?,
                Err(why) => self.treat_as_withdraw(slot, source, Family::Ipv4, update.nlri, why)?,
            }
        }
        let _ = now;
        self.over_limit(slot)
    }

    /// The number of an attribute set, new or known; the inner error says why its routes count as withdrawn.
    #[allow(
        clippy::too_many_arguments,
        reason = "the two callers are above, and each part is a different slice"
    )]
    fn attributes(
        &mut self,
        slot: usize,
        source: SourceId,
        form: Form,
        key: &[u8],
        section: &[u8],
        family: Family,
        next_hop: Option<&[u8]>,
    ) -> Result<Result<AttrId, String>, Notification> {
        let Some(conn) = self.conn(slot) else { return Ok(Err(String::new())) };
        let scope = scoped(conn.uid, form);
        if let Some(attr) = self.store.find(scope, key) {
            return Ok(Ok(attr));
        }
        let Some(peer) = self.sources.get(source).map(|s| s.router_id) else { return Ok(Err(String::new())) };
        Ok(match Attributes::read(section, family, next_hop, peer, &self.own)? {
            Read::Good(attributes) => Ok(self.store.insert(source, scope, key, *attributes)),
            Read::Withdraw(why) => Err(why),
        })
    }

    /// The number of the attribute set of a route of our own.
    pub(super) fn own_attributes(&mut self, key: &[u8], make: impl FnOnce() -> Attributes) -> AttrId {
        let scope = scoped(0, Form::Originated);
        match self.store.find(scope, key) {
            Some(attr) => attr,
            None => self.store.insert(SourceId::LOCAL, scope, key, make()),
        }
    }

    fn announce<A: Address>(
        &mut self,
        slot: usize,
        source: SourceId,
        attr: AttrId,
        nlri: &[u8],
    ) -> Result<(), Notification>
    where
        Self: Tables<A>,
    {
        let Some(mut conn) = self.conns[slot].take() else { return Ok(()) };
        let (table, store) = self.parts();
        let arrival = Arrival { source, attr, policy: conn.policy.as_deref() };
        let outcome = arrival.announce_all(table, store, nlri);
        let (rejected, unkept) = *outcome.as_ref().unwrap_or(&(0, 0));
        conn.totals.rejections += rejected;
        conn.unkept += unkept;
        self.conns[slot] = Some(conn);
        outcome.map(|_| ())
    }

    fn withdraw_family(&mut self, source: SourceId, family: Family, nlri: &[u8]) -> Result<(), Notification> {
        match family {
            Family::Ipv4 => withdraw_all::<u32>(&mut self.v4, &mut self.store, source, nlri),
            Family::Ipv6 => withdraw_all::<u128>(&mut self.v6, &mut self.store, source, nlri),
        }
    }

    fn treat_as_withdraw(
        &mut self,
        slot: usize,
        source: SourceId,
        family: Family,
        nlri: &[u8],
        why: String,
    ) -> Result<(), Notification> {
        if let Some(Some(conn)) = self.conns.get_mut(slot) {
            conn.totals.treated_as_withdraw += 1;
            if let Some(peer) = self.peers.get_mut(&conn.peer) {
                peer.last_error = Some(format!("UPDATE treated as withdraw: {why}"));
            }
        }
        self.withdraw_family(source, family, nlri)
    }

    /// An admitted neighbour that holds more than its admission allows must go (RFC 4486 subcode 1).
    pub(super) fn over_limit(&mut self, slot: usize) -> Result<(), Notification> {
        let Some(conn) = self.conn(slot) else { return Ok(()) };
        let (Some(policy), Some(source)) = (&conn.policy, conn.source) else { return Ok(()) };
        for (family, held) in [(Family::Ipv4, self.v4.held(source)), (Family::Ipv6, self.v6.held(source))] {
            if held.accepted() > policy.max_prefixes {
                let mut data = family.afi().to_be_bytes().to_vec();
                data.push(1);
                data.extend_from_slice(&policy.max_prefixes.to_be_bytes());
                return Err(Notification::new(6, cease::MAX_PREFIXES, data));
            }
        }
        Ok(())
    }

    /// Judges what a source has sent by its policy of now; asks for what was too much to be kept.
    pub(super) fn judge_again(
        &mut self,
        source: SourceId,
        slot: Option<usize>,
        policy: Option<&ImportPolicy>,
    ) {
        self.v4.revise(&self.store, source, |a, len, attr, store| verdict(a, len, attr, store, policy));
        self.v6.revise(&self.store, source, |a, len, attr, store| verdict(a, len, attr, store, policy));
        let Some(Some(conn)) = slot.and_then(|s| self.conns.get_mut(s)) else { return };
        let can_refresh = conn.session.negotiated().filter(|n| n.peer.refresh).map(|n| n.families);
        if let Some(families) = can_refresh
            && std::mem::take(&mut conn.unkept) > 0
        {
            let mut out = Vec::new();
            for family in Family::ALL.into_iter().filter(|f| families[f.index()]) {
                Refresh::Request.encode(family, &mut out);
            }
            conn.out.control(out);
        }
    }

    /// A ROUTE-REFRESH of the peer: it wants everything, or marks that it sends everything.
    pub(super) fn refresh(&mut self, slot: usize, refresh: Refresh, family: Family) {
        let Some(Some(conn)) = self.conns.get_mut(slot) else { return };
        let Some(negotiated) = conn.session.negotiated() else { return };
        let Some(source) = conn.source.filter(|_| negotiated.families[family.index()]) else { return };
        let enhanced = negotiated.enhanced_refresh;
        match refresh {
            Refresh::Request => {
                if enhanced {
                    let mut out = Vec::new();
                    Refresh::Begin.encode(family, &mut out);
                    conn.out.bulk(out.into());
                    conn.out.end_of_refresh[family.index()] = Some(self.log.head());
                }
                conn.out.snapshot[family.index()] = Some(0);
            }
            Refresh::Begin if enhanced => match family {
                Family::Ipv4 => self.v4.mark_stale(source),
                Family::Ipv6 => self.v6.mark_stale(source),
            },
            Refresh::End if enhanced => self.purge_family(source, family, true),
            Refresh::Begin | Refresh::End => {}
        }
    }

    /// Removes a source's paths of one family, or only its stale ones.
    pub(super) fn purge_family(&mut self, source: SourceId, family: Family, only_stale: bool) {
        match family {
            Family::Ipv4 => self.v4.purge(&mut self.store, source, only_stale),
            Family::Ipv6 => self.v6.purge(&mut self.store, source, only_stale),
        }
    }
}

/// Which table holds a family, beside the attribute store.
trait Tables<A> {
    fn parts(&mut self) -> (&mut Table<A>, &mut Store);
}

impl Tables<u32> for Speaker {
    fn parts(&mut self) -> (&mut Table<u32>, &mut Store) {
        (&mut self.v4, &mut self.store)
    }
}

impl Tables<u128> for Speaker {
    fn parts(&mut self) -> (&mut Table<u128>, &mut Store) {
        (&mut self.v6, &mut self.store)
    }
}

fn withdraw_all<A: Address>(
    table: &mut Table<A>,
    store: &mut Store,
    source: SourceId,
    mut nlri: &[u8],
) -> Result<(), Notification> {
    while let Some((addr, len)) = next_prefix::<A>(&mut nlri)? {
        table.withdraw(store, source, (addr, len, 0));
    }
    Ok(())
}

/// 0 if a path is accepted, else the code of the reason.
fn verdict<A: Address>(addr: A, len: u8, attr: AttrId, store: &Store, policy: Option<&ImportPolicy>) -> u8 {
    let Some(attributes) = store.get(attr) else { return RejectReason::InvalidNextHop.code() };
    if let Some(reason) = attributes.reject {
        return reason.code();
    }
    let Some(policy) = policy else { return 0 };
    let prefix: Prefix = addr.prefix(len);
    policy.accept(prefix, &attributes.import_facts()).map_or_else(RejectReason::code, |()| 0)
}

impl Arrival<'_> {
    /// Takes every prefix of `nlri` in; returns how many were rejected, and how many of those were not kept.
    fn announce_all<A: Address>(
        &self,
        table: &mut Table<A>,
        store: &mut Store,
        mut nlri: &[u8],
    ) -> Result<(u64, u64), Notification> {
        let (mut rejected, mut unkept) = (0, 0);
        // Without a policy the verdict is the same for all.
        let common = store.get(self.attr).and_then(|a| a.reject).map_or(0, RejectReason::code);
        while let Some((addr, len)) = next_prefix::<A>(&mut nlri)? {
            let verdict = match self.policy {
                None => common,
                policy => verdict(addr, len, self.attr, store, policy),
            };
            if verdict != 0 {
                rejected += 1;
                if table.held(self.source).rejected() >= REJECTED_KEPT {
                    unkept += 1;
                    table.withdraw(store, self.source, (addr, len, 0));
                    continue;
                }
            }
            table.announce(store, self.source, (addr, len, 0), self.attr, verdict);
        }
        Ok((rejected, unkept))
    }
}
