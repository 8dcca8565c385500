//! Routes in: from an UPDATE to the Adj-RIB-In, through the import policy.

use std::collections::HashMap;

use super::{Action, Speaker};
use crate::attributes::{Attributes, Read, mp_reach, mp_unreach};
use crate::malformed::Section;
use crate::message::{Address, Notification, Refresh, Update, cease, next_route};
use crate::peer::STALE_AFTER_RETURN_SECS;
use crate::policy::{ImportPolicy, RejectReason};
use crate::rejections::Rejections;
use crate::rib::Table;
use crate::session::Millis;
use crate::store::{AttrId, SourceId, Store};
use crate::types::{Family, Prefix};

/// Rejected routes that are kept per source; more are counted only, and asked for again when policy changes.
pub const REJECTED_KEPT: u32 = 1024;
/// Attributes of a rejected route that is kept are at most so long, in octets.
pub const REJECTED_OCTETS: usize = 4096;
/// An enrolled neighbour that has announced more rejected routes than are kept and so many on top must go, as one
/// that holds too many accepted ones must.
pub const REJECTIONS_LIMIT: u64 = 100_000;

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
    /// Whether the routes carry path identifiers.
    ids: bool,
    policy: Option<&'a ImportPolicy>,
    now: Millis,
}

/// The routes of one field of an UPDATE, and under which key their attributes are kept.
struct Arrived<'a> {
    form: Form,
    key: &'a [u8],
    family: Family,
    /// The next-hop field of MP_REACH_NLRI where they came in one.
    next_hop: Option<&'a [u8]>,
    nlri: &'a [u8],
}

/// An MP attribute whose routes cannot be read (RFC 4760 section 7).
fn optional_error(value: &[u8]) -> Notification {
    Notification::new(3, 9, value.to_vec())
}

impl Speaker {
    /// Takes in an UPDATE. `Err`: the session must end with this.
    pub(super) fn update(&mut self, slot: usize, update: Update<'_>) -> Result<(), Notification> {
        let Some(Some(conn)) = self.conns.get_mut(slot) else { return Ok(()) };
        let Some(source) = conn.source else { return Ok(()) };
        conn.totals.updates_in += 1;
        let uid = conn.uid;
        if !update.withdrawn.is_empty() {
            let ids = conn.ids[Family::Ipv4.index()];
            withdraw_all::<u32>(&mut self.v4, &mut self.store, source, ids, update.withdrawn)?;
        }
        if update.attributes.is_empty() {
            if update.nlri.is_empty() && update.withdrawn.is_empty() {
                self.end_of_rib_from(slot, Family::Ipv4);
                return Ok(());
            }
            return if update.nlri.is_empty() {
                // Fewer routes can only end the nearness to the limit.
                match self.conn(slot).is_some_and(|c| c.near_limit) {
                    true => self.over_limit(slot),
                    false => Ok(()),
                }
            } else {
                self.treated_as_withdraw(slot, "3/3: there are no attributes".into());
                self.withdraw_family(slot, source, Family::Ipv4, update.nlri)
            };
        }
        // The hot path: these very attributes have come before.
        if let Some(attr) = self.store.find(scoped(uid, Form::Body), update.attributes) {
            self.announce::<u32>(slot, source, attr, update.nlri)?;
            return self.over_limit(slot);
        }
        self.update_with_new_attributes(slot, source, update)
    }

    fn update_with_new_attributes(
        &mut self,
        slot: usize,
        source: SourceId,
        update: Update<'_>,
    ) -> Result<(), Notification> {
        let section = Section::read(update.attributes)?;
        let reachable = section.reach.is_some() || !update.nlri.is_empty();
        let Some(Some(conn)) = self.conns.get_mut(slot) else { return Ok(()) };
        let negotiated = conn.session.negotiated().map_or([false; 2], |n| n.families);
        conn.totals.attributes_discarded += section.discarded;
        let mut why = section.withdraw.as_ref().map(ToString::to_string);
        if let Some(fault) = section.withdraw.as_ref().filter(|_| !reachable && !section.only_unreach()) {
            // Routes may have been meant that nobody can find (RFC 7606 section 5.2).
            return Err(fault.notification());
        }
        if let Some(value) = section.unreach
            && let Some((family, nlri)) = mp_unreach(value)?
            && negotiated[family.index()]
        {
            if nlri.is_empty() && section.only_unreach() && update.withdrawn.is_empty() && !reachable {
                self.end_of_rib_from(slot, family);
            }
            self.withdraw_family(slot, source, family, nlri).map_err(|_| optional_error(value))?;
        }
        if let Some(value) = section.reach
            && let Some((family, next_hop, nlri)) = mp_reach(value)?
            && negotiated[family.index()]
        {
            let form = if family == Family::Ipv4 { Form::Mp4 } else { Form::Mp6 };
            let mut key = vec![next_hop.len() as u8];
            key.extend_from_slice(next_hop);
            key.extend_from_slice(&section.rest);
            let arrived = Arrived { form, key: &key, family, next_hop: Some(next_hop), nlri };
            self.arrived(slot, source, &section, arrived, &mut why).map_err(|_| optional_error(value))?;
        }
        if !update.nlri.is_empty() && negotiated[Family::Ipv4.index()] {
            let (form, family, nlri) = (Form::Body, Family::Ipv4, update.nlri);
            let arrived = Arrived { form, key: &section.rest, family, next_hop: None, nlri };
            self.arrived(slot, source, &section, arrived, &mut why)?;
        }
        if let Some(why) = why {
            self.treated_as_withdraw(slot, why);
        }
        self.over_limit(slot)
    }

    /// Takes in the routes of one field, or withdraws them; a reason for the latter goes to `why`.
    fn arrived(
        &mut self,
        slot: usize,
        source: SourceId,
        section: &Section<'_>,
        arrived: Arrived<'_>,
        why: &mut Option<String>,
    ) -> Result<(), Notification> {
        let known = match &section.withdraw {
            Some(_) => None,
            None => match self.attributes(slot, source, section, &arrived) {
                Ok(attr) => Some(attr),
                Err(reason) => {
                    why.get_or_insert(reason);
                    None
                }
            },
        };
        match (known, arrived.family) {
            (None, family) => self.withdraw_family(slot, source, family, arrived.nlri),
            (Some(attr), Family::Ipv4) => self.announce::<u32>(slot, source, attr, arrived.nlri),
            (Some(attr), Family::Ipv6) => self.announce::<u128>(slot, source, attr, arrived.nlri),
        }
    }

    /// The number of an attribute set, new or known; the error says why its routes count as withdrawn.
    fn attributes(
        &mut self,
        slot: usize,
        source: SourceId,
        section: &Section<'_>,
        arrived: &Arrived<'_>,
    ) -> Result<AttrId, String> {
        let Some(conn) = self.conn(slot) else { return Err(String::new()) };
        let scope = scoped(conn.uid, arrived.form);
        if let Some(attr) = self.store.find(scope, arrived.key) {
            return Ok(attr);
        }
        let Some(peer) = self.sources.get(source).map(|s| s.router_id) else { return Err(String::new()) };
        match Attributes::of(&section.rest, arrived.family, arrived.next_hop, peer, &self.own) {
            Read::Good(mut attributes) => {
                if self.config.long_lived_stale_secs > 0 {
                    attributes.heed_mark();
                }
                Ok(self.store.insert(source, scope, arrived.key, *attributes))
            }
            Read::Withdraw(why) => Err(why),
        }
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
        let now = self.now;
        let (table, store, rejections) = self.parts();
        let ids = conn.ids[A::FAMILY.index()];
        let arrival = Arrival { source, attr, ids, policy: conn.policy.as_deref(), now };
        let outcome = arrival.announce_all(table, store, rejections, nlri);
        let (rejected, unkept) = *outcome.as_ref().unwrap_or(&(0, 0));
        conn.totals.rejections += rejected;
        conn.unkept += unkept;
        self.conns[slot] = Some(conn);
        outcome.map(|_| ())
    }

    fn withdraw_family(
        &mut self,
        slot: usize,
        source: SourceId,
        family: Family,
        nlri: &[u8],
    ) -> Result<(), Notification> {
        let ids = self.conn(slot).is_some_and(|c| c.ids[family.index()]);
        match family {
            Family::Ipv4 => withdraw_all::<u32>(&mut self.v4, &mut self.store, source, ids, nlri),
            Family::Ipv6 => withdraw_all::<u128>(&mut self.v6, &mut self.store, source, ids, nlri),
        }
    }

    /// Counts and shows an UPDATE whose routes were withdrawn for its faults.
    fn treated_as_withdraw(&mut self, slot: usize, why: String) {
        if let Some(Some(conn)) = self.conns.get_mut(slot) {
            conn.totals.treated_as_withdraw += 1;
            if let Some(peer) = self.peers.get_mut(&conn.peer) {
                peer.last_error = Some(format!("UPDATE treated as withdraw: {why}"));
            }
        }
    }

    /// A neighbour that holds more than its admission or its options allow must go (RFC 4486 subcode 1); at the
    /// configured share of it there is a warning.
    pub(super) fn over_limit(&mut self, slot: usize) -> Result<(), Notification> {
        let Some(conn) = self.conn(slot) else { return Ok(()) };
        let limit = prefix_limit(conn.policy.as_deref(), conn.max_prefixes);
        let Some(max_prefixes) = limit else { return Ok(()) };
        let Some(source) = conn.source else { return Ok(()) };
        let flood = conn.unkept > REJECTIONS_LIMIT;
        let mut most = 0;
        for (family, held) in [(Family::Ipv4, self.v4.held(source)), (Family::Ipv6, self.v6.held(source))] {
            most = held.accepted().max(most);
            if held.accepted() > max_prefixes || flood {
                let mut data = family.afi().to_be_bytes().to_vec();
                data.push(1);
                data.extend_from_slice(&max_prefixes.to_be_bytes());
                return Err(Notification::new(6, cease::MAX_PREFIXES, data));
            }
        }
        self.near_limit(slot, most, max_prefixes);
        Ok(())
    }

    /// Warns once each time that a neighbour comes to the configured share of its prefix limit. It counts as below
    /// again a tenth of the limit further down: a route that comes and goes must not fill the log.
    fn near_limit(&mut self, slot: usize, held: u32, max_prefixes: u32) {
        let Some(Some(conn)) = self.conns.get_mut(slot) else { return };
        let Some(peer) = self.peers.get_mut(&conn.peer) else { return };
        let percent = u64::from(peer.options().prefix_warning_percent);
        let share = u64::from(held) * 100;
        let reached = held > 0 && share >= u64::from(max_prefixes) * percent;
        let below = share < u64::from(max_prefixes) * percent.saturating_sub(10).max(1);
        if reached && !conn.near_limit {
            conn.near_limit = true;
            conn.totals.prefix_warnings += 1;
            peer.last_error = Some(format!("warning: {held} prefixes of at most {max_prefixes}"));
            let name = peer.policy().map_or_else(|| peer.key.to_string(), |p| p.owner.clone());
            self.actions.push_back(Action::Warn { peer: name, held, limit: max_prefixes });
        } else if held == 0 || below {
            conn.near_limit = false;
        }
    }

    /// Judges what a source has sent by its policy of now; asks for what was too much to be kept.
    pub(super) fn judge_again(
        &mut self,
        source: SourceId,
        slot: Option<usize>,
        policy: Option<&ImportPolicy>,
    ) {
        let now = self.now;
        let before = (rejected_of(&self.v4, source), rejected_of(&self.v6, source));
        self.v4.revise(&self.store, source, |a, len, attr, store| verdict(a, len, attr, store, policy));
        self.v6.revise(&self.store, source, |a, len, attr, store| verdict(a, len, attr, store, policy));
        note_revised(&self.v4, &mut self.rejections[0], source, &before.0, now);
        note_revised(&self.v6, &mut self.rejections[1], source, &before.1, now);
        let Some(Some(conn)) = slot.and_then(|s| self.conns.get_mut(s)) else { return };
        if conn.unkept > 0 && conn.ask_refresh().is_some() {
            conn.unkept = 0;
        }
    }

    /// A ROUTE-REFRESH of the peer: it wants everything, or marks that it sends everything.
    pub(super) fn refresh(&mut self, slot: usize, refresh: Refresh, family: Family) {
        let Some(Some(conn)) = self.conns.get_mut(slot) else { return };
        let Some(negotiated) = conn.session.negotiated() else { return };
        let Some(source) = conn.source.filter(|_| negotiated.families[family.index()]) else { return };
        let enhanced = negotiated.enhanced_refresh;
        match refresh {
            // Asked again before the first piece went out: the answer will do for both.
            Refresh::Request if conn.out.snapshot[family.index()] == Some(0) => {}
            Refresh::Request => {
                // One that is under way starts over without another mark: a peer that asks and does not read
                // must not make us keep a mark for each time that it asked.
                if enhanced && conn.out.end_of_refresh[family.index()].replace(self.log.head()).is_none() {
                    let mut out = Vec::new();
                    Refresh::Begin.encode(family, &mut out);
                    conn.out.bulk(out.into());
                }
                conn.out.snapshot[family.index()] = Some(0);
            }
            Refresh::Begin if enhanced => {
                // The end that never comes must not keep what is stale for ever (RFC 7313 section 4).
                let until = self.now + STALE_AFTER_RETURN_SECS * 1000;
                conn.refresh_until[family.index()] = Some(until);
                self.wake(until);
                match family {
                    Family::Ipv4 => self.v4.mark_stale(source),
                    Family::Ipv6 => self.v6.mark_stale(source),
                }
            }
            Refresh::End if enhanced => {
                conn.refresh_until[family.index()] = None;
                self.purge_family(source, family, true);
            }
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

/// Which table holds a family, beside the attribute store and the family's rejections.
trait Tables<A> {
    fn parts(&mut self) -> (&mut Table<A>, &mut Store, &mut Rejections);
}

impl Tables<u32> for Speaker {
    fn parts(&mut self) -> (&mut Table<u32>, &mut Store, &mut Rejections) {
        (&mut self.v4, &mut self.store, &mut self.rejections[0])
    }
}

impl Tables<u128> for Speaker {
    fn parts(&mut self) -> (&mut Table<u128>, &mut Store, &mut Rejections) {
        (&mut self.v6, &mut self.store, &mut self.rejections[1])
    }
}

fn withdraw_all<A: Address>(
    table: &mut Table<A>,
    store: &mut Store,
    source: SourceId,
    ids: bool,
    mut nlri: &[u8],
) -> Result<(), Notification> {
    while let Some(route) = next_route::<A>(&mut nlri, ids)? {
        table.withdraw(store, source, route);
    }
    Ok(())
}

/// The rejected routes of a source, before its policy changes.
fn rejected_of<A: Address>(table: &Table<A>, source: SourceId) -> HashMap<(Prefix, u32), RejectReason> {
    let routes = table.of_source(source);
    let rejected = routes.filter_map(|(addr, len, path_id, _, verdict)| {
        Some(((addr.prefix(len), path_id), RejectReason::from_code(verdict)?))
    });
    rejected.collect()
}

/// Remembers what a changed policy rejects that was accepted before, or rejected for another reason.
fn note_revised<A: Address>(
    table: &Table<A>,
    all: &mut Rejections,
    source: SourceId,
    before: &HashMap<(Prefix, u32), RejectReason>,
    now: Millis,
) {
    for (route, reason) in rejected_of(table, source) {
        if before.get(&route) != Some(&reason) {
            all.note(source, route, reason, None, now);
        }
    }
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
        rejections: &mut Rejections,
        mut nlri: &[u8],
    ) -> Result<(u64, u64), Notification> {
        let (mut rejected, mut unkept) = (0, 0);
        // Without a policy the verdict is the same for all.
        let common = store.get(self.attr).and_then(|a| a.reject).map_or(0, RejectReason::code);
        let small = store.get(self.attr).is_some_and(|a| a.blob.len() <= REJECTED_OCTETS);
        while let Some((addr, len, id)) = next_route::<A>(&mut nlri, self.ids)? {
            let verdict = match self.policy {
                None => common,
                policy => verdict(addr, len, self.attr, store, policy),
            };
            if verdict != 0 {
                rejected += 1;
                if !small || table.held(self.source).rejected() >= REJECTED_KEPT {
                    unkept += 1;
                    table.withdraw(store, self.source, (addr, len, id));
                    continue;
                }
                self.note(table, rejections, (addr, len, id), verdict);
            }
            table.announce(store, self.source, (addr, len, id), self.attr, verdict);
        }
        Ok((rejected, unkept))
    }

    /// Remembers that a route is rejected, before the table knows.
    #[cold]
    fn note<A: Address>(
        &self,
        table: &Table<A>,
        all: &mut Rejections,
        (addr, len, id): (A, u8, u32),
        verdict: u8,
    ) {
        let Some(reason) = RejectReason::from_code(verdict) else { return };
        let held = |addr, len, path_id| table.verdict_of(self.source, (addr, len, path_id));
        all.prune(self.source, |prefix, path_id| {
            A::of_prefix(prefix).is_some_and(|(addr, len)| held(addr, len, path_id).flatten().is_some())
        });
        let before = held(addr, len, id).flatten();
        all.note(self.source, (addr.prefix(len), id), reason, before, self.now);
    }
}

/// How many accepted prefixes of a family a neighbour may hold: by its admission and by its options.
pub(super) fn prefix_limit(policy: Option<&ImportPolicy>, options: Option<u32>) -> Option<u32> {
    [policy.map(|p| p.max_prefixes), options].into_iter().flatten().min()
}
