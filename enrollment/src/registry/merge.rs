//! How the decisions of two hubs become one state, in whatever order they arrive.
//!
//! A record is joined with what is known of it (a semilattice: the order, grouping and number of joins do not
//! matter), and what is shown follows from all that is known by two rules:
//!
//! 1. A name belongs to the machine that was admitted first, by the hubs' clocks; a second machine under the same name
//!    is kept as its rival, without its claims, and is told `name-lost`.
//! 2. An address belongs to the claim that was made first, of those whose leaf has its name; the others wait.
//!
//! Each claim has a generation that no other has; removal names it, and arrives after it (a hub passes entries on in
//! the order in which it took them in).

use super::{Change, Contender, HubRecord, InviteRecord, Leaf, Revoked, State};
use crate::approval::Pending;
use crate::claim::{Claim, ClaimStep};
use crate::identity::{InviteId, LeafName, SigningKey};
use crate::log::{Fact, StoredInvite};
use crate::signature::sha256;
use serde::Serialize;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// What merging changed: rows of what is shown, and where rivals or waiting claims may be others now.
#[derive(Default, Clone)]
pub struct Merged {
    /// Changes of what is shown.
    pub shown: Vec<Change>,
    /// Names whose machines changed.
    pub names: BTreeSet<LeafName>,
    /// Addresses whose claims changed.
    pub addresses: BTreeSet<Ipv4Addr>,
    /// Whether a machine was forgotten.
    pub machines_gone: bool,
}

impl Leaf {
    /// The signing key that the machine joined with: it names the machine for ever, also over rotation.
    pub fn machine(&self) -> SigningKey {
        self.joined_key.unwrap_or(self.signing_key)
    }

    /// What both records of one machine know.
    fn join(&self, other: &Leaf) -> Leaf {
        let order = self.version.cmp(&other.version);
        // Two hubs may decide in the same generation; any rule will do that looks at the decisions alone.
        let order = order.then_with(|| text(&self.decided()).cmp(&text(&other.decided())));
        let newer = if order.is_ge() { self } else { other };
        let (enrolled_at, overlay) = (self.enrolled_at, self.overlay).min((other.enrolled_at, other.overlay));
        let revoked = match (self.revoked, other.revoked) {
            (Some(a), Some(b)) => Some(Revoked {
                at: a.at.min(b.at),
                generation: a.generation.max(b.generation),
                left: a.left && b.left,
            }),
            (one, another) => one.or(another),
        };
        Leaf {
            enrolled_at,
            overlay,
            revoked,
            joined_key: Some(self.machine()),
            counter: self.counter.max(other.counter),
            valid_until: self.valid_until.max(other.valid_until),
            last_seen: self.last_seen.max(other.last_seen),
            ..newer.clone()
        }
    }

    /// What the operator or the machine decided, without what only grows.
    fn decided(&self) -> Leaf {
        let (revoked, joined_key) = (None, None);
        let (counter, valid_until, last_seen, version, enrolled_at) = Default::default();
        let overlay = Ipv4Addr::UNSPECIFIED;
        Leaf {
            revoked,
            joined_key,
            counter,
            valid_until,
            last_seen,
            version,
            enrolled_at,
            overlay,
            ..self.clone()
        }
    }
}

impl InviteRecord {
    /// What both records of one invite know. Its uses are counted by each hub and added up.
    fn join(&self, other: &InviteRecord) -> InviteRecord {
        let mut used_at = self.used_at;
        used_at.iter_mut().zip(other.used_at).for_each(|(mine, theirs)| *mine = (*mine).max(theirs));
        let used = used_at.iter().fold(0u32, |sum, count| sum.saturating_add(*count));
        let last_used_at = self.last_used_at.max(other.last_used_at);
        let revoked_at = [self.revoked_at, other.revoked_at].into_iter().flatten().min();
        let spent_at = if used >= self.uses { last_used_at } else { None };
        InviteRecord { used_at, used, last_used_at, spent_at, revoked_at, ..self.clone() }
    }
}

/// One text for one record; what is compared and digested.
fn text<T: Serialize>(record: &T) -> String {
    serde_json::to_string(record).expect("records have string keys and no failing serializer")
}

impl State {
    /// A decision of this hub as facts: with the machine that each claim is for, the version of each record, and what
    /// follows for the rivals of a leaf that is revoked.
    pub fn facts(&self, changes: &[Change], now: u64) -> Vec<Fact> {
        let mut facts = Vec::with_capacity(changes.len());
        let mut joining: Option<(LeafName, SigningKey)> = None;
        for change in changes {
            let mut machine = None;
            let change = match change {
                Change::Leaf(leaf) => {
                    let leaf = self.stamped(leaf);
                    joining = Some((leaf.name.clone(), leaf.machine()));
                    if leaf.revoked.is_some() {
                        facts.extend(self.rivals_revoked(&leaf));
                    }
                    Change::Leaf(Arc::new(leaf))
                }
                Change::Invite(invite) => Change::Invite(Arc::new(self.counted(invite, now))),
                Change::ClaimAdded { leaf, .. } => {
                    let here = joining.as_ref().filter(|(name, _)| name == leaf).map(|(_, key)| *key);
                    machine = here.or_else(|| self.leaves.get(leaf).map(|leaf| leaf.machine()));
                    change.clone()
                }
                Change::ClaimMoved { moving, .. } => {
                    machine = self.leaves.get(&moving.to).map(|leaf| leaf.machine());
                    change.clone()
                }
                Change::LeafForgotten(name) => {
                    machine = self.leaves.get(name).map(|leaf| leaf.machine());
                    change.clone()
                }
                _ => change.clone(),
            };
            facts.push(Fact { change, machine });
        }
        facts
    }

    fn stamped(&self, leaf: &Leaf) -> Leaf {
        let mut leaf = leaf.clone();
        let version = self.generation + 1;
        match self.leaves.get(&leaf.name).filter(|before| before.revoked.is_none()) {
            // The same tenancy, whatever its keys are now.
            Some(before) => {
                leaf.joined_key = Some(before.machine());
                leaf.version = if leaf.decided() == before.decided() { before.version } else { version };
            }
            None => {
                leaf.joined_key = leaf.joined_key.or(Some(leaf.signing_key));
                leaf.version = version;
            }
        }
        leaf
    }

    /// Revoking a name revokes every machine that was admitted under it.
    fn rivals_revoked(&self, revoked: &Leaf) -> Vec<Fact> {
        let mut facts = Vec::new();
        let rivals = self.machines_of(&revoked.name).filter(|leaf| leaf.machine() != revoked.machine());
        for leaf in rivals.filter(|leaf| leaf.revoked.is_none()) {
            let (name, wireguard_key, signing_key) =
                (leaf.name.clone(), leaf.wireguard_key, leaf.signing_key);
            let leaf = Leaf { revoked: revoked.revoked, ..Leaf::clone(leaf) };
            facts.push(Fact { change: Change::Leaf(Arc::new(leaf)), machine: None });
            let change = Change::KeysRevoked { leaf: name, wireguard_key, signing_key };
            facts.push(Fact { change, machine: None });
        }
        facts
    }

    fn counted(&self, invite: &InviteRecord, now: u64) -> InviteRecord {
        let mut invite = invite.clone();
        let before = self.invites.get(&invite.id);
        let uses = invite.used.saturating_sub(before.map_or(0, |before| before.used));
        invite.used_at = before.map_or([0; 2], |before| before.used_at);
        let own = &mut invite.used_at[self.hub_index()];
        *own = own.saturating_add(uses);
        let last = before.and_then(|before| before.last_used_at);
        invite.last_used_at = if uses > 0 { last.max(Some(now)) } else { last };
        invite
    }

    /// Takes in facts of any hub; the generation does not grow.
    pub fn merge(&mut self, facts: &[Fact], now: u64) -> Merged {
        let mut merged = Merged::default();
        for fact in facts {
            self.merge_one(fact, now, &mut merged);
        }
        merged
    }

    fn merge_one(&mut self, fact: &Fact, now: u64, merged: &mut Merged) {
        match &fact.change {
            Change::Leaf(leaf) => self.merge_leaf(leaf, now, merged),
            Change::Invite(invite) => self.merge_invite(invite, now, merged),
            Change::ClaimAdded { address, leaf, claim } => {
                if self.contend(*address, leaf, fact.machine, *claim) {
                    self.settle_address(*address, ClaimStep::Lost, now, merged);
                }
            }
            Change::ClaimMoved { address, moving, claim } => {
                self.contenders.entry(*address).or_default().remove(&moving.former.generation);
                self.index_claim_end(&moving.from, *address);
                let live = self.contend(*address, &moving.to, fact.machine, *claim);
                merged.addresses.insert(*address);
                let before = Some((moving.from.clone(), moving.former));
                if live && self.owners.get(address).cloned() == before {
                    self.show(fact.change.clone(), now, merged);
                }
                self.settle_address(*address, ClaimStep::Moved, now, merged);
            }
            Change::LeafForgotten(name) => {
                let Some(machine) = fact.machine else { return };
                self.gone.insert(machine);
                merged.machines_gone = true;
                merged.names.insert(name.clone());
                if let Some(machines) = self.machines.get_mut(name) {
                    machines.remove(&machine);
                }
                if self.leaves.get(name).is_some_and(|leaf| leaf.machine() == machine) {
                    self.show(fact.change.clone(), now, merged);
                }
                if self.machines.get(name).is_some_and(|machines| machines.is_empty()) {
                    self.machines.remove(name);
                }
                let ended = self.claims_end(name, machine);
                self.settle_name(name, now, merged);
                self.index_machines(name);
                self.settle_addresses(name, ended, ClaimStep::Forgotten, now, merged);
            }
            Change::Pending(asked) => {
                let known = self.pending.get(&asked.signing_key);
                let joined = known.map_or_else(|| Pending::clone(asked), |known| known.join(asked));
                self.show(Change::Pending(Arc::new(joined)), now, merged);
            }
            Change::PendingGone(_) | Change::MoveDone(_) => {
                self.show(fact.change.clone(), now, merged);
            }
            Change::ClaimRemoved { address, leaf, claim, step } => {
                if let Some(contenders) = self.contenders.get_mut(address) {
                    contenders.remove(&claim.generation);
                }
                self.index_claim_end(leaf, *address);
                self.settle_address(*address, *step, now, merged);
            }
            Change::InviteForgotten(id) => {
                self.forgotten.insert(*id);
                self.show(fact.change.clone(), now, merged);
            }
            Change::KeysRevoked { .. } => self.show(fact.change.clone(), now, merged),
            Change::Hub(hub) => {
                let known = self.hubs.get(&hub.node.signing_key);
                let joined = known.map_or_else(|| HubRecord::clone(hub), |known| known.join(hub));
                self.show(Change::Hub(Arc::new(joined)), now, merged);
            }
        }
    }

    fn show(&mut self, change: Change, now: u64, merged: &mut Merged) {
        self.apply_one(&change, now);
        merged.shown.push(change);
    }

    fn merge_invite(&mut self, invite: &InviteRecord, now: u64, merged: &mut Merged) {
        if self.forgotten.contains(&invite.id) {
            return;
        }
        let known = self.invites.get(&invite.id);
        let joined = known.map_or_else(|| invite.join(invite), |known| known.join(invite));
        self.show(Change::Invite(Arc::new(joined)), now, merged);
    }

    fn merge_leaf(&mut self, leaf: &Leaf, now: u64, merged: &mut Merged) {
        if self.gone.contains(&leaf.machine()) {
            return;
        }
        let machines = self.machines.entry(leaf.name.clone()).or_default();
        let joined = machines.get(&leaf.machine()).map_or_else(|| leaf.join(leaf), |known| known.join(leaf));
        let revoked = joined.revoked.is_some();
        machines.insert(leaf.machine(), Arc::new(joined));
        let before = self.leaves.get(&leaf.name).map(|shown| shown.machine());
        self.settle_name(&leaf.name, now, merged);
        self.index_machines(&leaf.name);
        let after = self.leaves.get(&leaf.name).map(|shown| shown.machine());
        // Claims that the other hub granted meanwhile end with their leaf.
        let ended = if revoked { self.claims_end(&leaf.name, leaf.machine()) } else { BTreeSet::new() };
        if revoked || before != after {
            let step = if revoked { ClaimStep::Revoked } else { ClaimStep::Lost };
            self.settle_addresses(&leaf.name, ended, step, now, merged);
        }
    }

    /// Takes a claim in, unless its machine is revoked or gone.
    fn contend(
        &mut self,
        address: Ipv4Addr,
        leaf: &LeafName,
        machine: Option<SigningKey>,
        claim: Claim,
    ) -> bool {
        let known = self.machines.get(leaf);
        let tenancy = machine.and_then(|machine| known?.get(&machine));
        let gone = machine.is_some_and(|machine| self.gone.contains(&machine));
        if gone || tenancy.is_some_and(|tenancy| tenancy.revoked.is_some()) {
            return false;
        }
        self.claim_generation = self.claim_generation.max(claim.generation);
        let contender = Contender { leaf: leaf.clone(), machine, claim };
        self.contenders.entry(address).or_default().insert(claim.generation, contender);
        self.index_claim(leaf, address);
        true
    }

    /// The claims of a machine end. Gives the addresses that it contended for: what it owned leaves an empty place,
    /// which settling the address notices.
    fn claims_end(&mut self, name: &LeafName, machine: SigningKey) -> BTreeSet<Ipv4Addr> {
        let addresses = self.claimed_by(name);
        let ended = |c: &Contender| c.leaf == *name && c.machine == Some(machine);
        for address in &addresses {
            if let Some(claims) = self.contenders.get_mut(address) {
                claims.retain(|_, claim| !ended(claim));
            }
            self.index_claim_end(name, *address);
        }
        addresses
    }

    /// Settles these addresses and all that a name contends for or owns.
    fn settle_addresses(
        &mut self,
        name: &LeafName,
        mut addresses: BTreeSet<Ipv4Addr>,
        step: ClaimStep,
        now: u64,
        merged: &mut Merged,
    ) {
        addresses.extend(self.claimed_by(name));
        addresses.extend(self.claims_of(name).into_keys());
        addresses.into_iter().for_each(|address| self.settle_address(address, step, now, merged));
    }

    /// Rule 1: the name's holder is the live machine that was admitted first; without one, the last that was revoked.
    fn settle_name(&mut self, name: &LeafName, now: u64, merged: &mut Merged) {
        let machines = self.machines.get(name).into_iter().flat_map(|machines| machines.values());
        let live = machines.clone().filter(|leaf| leaf.revoked.is_none());
        let first = live.min_by_key(|leaf| (leaf.enrolled_at, leaf.machine()));
        let last = || machines.max_by_key(|leaf| (leaf.revoked.map(|revoked| revoked.at), leaf.machine()));
        merged.names.insert(name.clone());
        if let Some(holder) = first.or_else(last).cloned()
            && self.leaves.get(name) != Some(&holder)
        {
            self.show(Change::Leaf(holder), now, merged);
        }
    }

    /// Rule 2: the owner is the first claim of those whose leaf holds its name.
    fn settle_address(&mut self, address: Ipv4Addr, step: ClaimStep, now: u64, merged: &mut Merged) {
        merged.addresses.insert(address);
        let claims = self.contenders.get(&address).into_iter().flat_map(|claims| claims.values());
        let good = claims.filter(|contender| self.holds_name(contender));
        let first = good.min_by_key(|contender| (contender.claim.since, contender.claim.generation));
        let wanted = first.map(|contender| (contender.leaf.clone(), contender.claim));
        let present = self.owners.get(&address).cloned();
        if self.contenders.get(&address).is_some_and(|claims| claims.is_empty()) {
            self.contenders.remove(&address);
        }
        if present == wanted {
            return;
        }
        if let Some((leaf, claim)) = present {
            self.show(Change::ClaimRemoved { address, leaf, claim, step }, now, merged);
        }
        if let Some((leaf, claim)) = wanted {
            self.show(Change::ClaimAdded { address, leaf, claim }, now, merged);
        }
    }

    fn holds_name(&self, contender: &Contender) -> bool {
        match self.leaves.get(&contender.leaf) {
            Some(holder) => {
                holder.revoked.is_none() && contender.machine.is_none_or(|key| key == holder.machine())
            }
            // The holder's record cannot be read: what it owns stays its own.
            None => true,
        }
    }

    /// Every machine that was admitted under a name.
    pub fn machines_of(&self, name: &LeafName) -> impl Iterator<Item = &Arc<Leaf>> {
        self.machines.get(name).into_iter().flat_map(|machines| machines.values())
    }

    /// The machines that were admitted under a name and do not hold it.
    pub fn rivals<'a>(&'a self, name: &'a LeafName) -> impl Iterator<Item = &'a Arc<Leaf>> {
        let holder = self.leaves.get(name).map(|leaf| leaf.machine());
        self.machines_of(name).filter(move |leaf| Some(leaf.machine()) != holder)
    }

    /// Every machine that lost its name to one that was admitted first, and is not revoked.
    pub fn all_rivals(&self) -> impl Iterator<Item = &Arc<Leaf>> {
        self.contested().flat_map(|name| self.rivals(name)).filter(|leaf| leaf.revoked.is_none())
    }

    /// The claims of an address that wait behind its owner's.
    pub fn waiting(&self, address: &Ipv4Addr) -> impl Iterator<Item = &Contender> {
        let owner = self.owners.get(address).map(|(_, claim)| claim.generation);
        let claims = self.contenders.get(address).into_iter().flat_map(|claims| claims.values());
        claims.filter(move |contender| Some(contender.claim.generation) != owner)
    }

    /// All claims that wait, with their addresses.
    pub fn all_waiting(&self) -> impl Iterator<Item = (Ipv4Addr, &Contender)> {
        self.contenders.keys().flat_map(|address| self.waiting(address).map(|waiting| (*address, waiting)))
    }

    /// SHA-256 over everything that two hubs in step have in common.
    pub fn digest(&self) -> [u8; 32] {
        let mut whole = String::new();
        let mut put = |line: String| {
            whole.push_str(&line);
            whole.push('\n');
        };
        for leaf in self.machines.values().flat_map(|machines| machines.values()) {
            put(text(&**leaf));
        }
        for (address, claims) in &self.contenders {
            for Contender { leaf, machine, claim } in claims.values() {
                put(text(&(address, leaf, machine, claim)));
            }
        }
        for (id, invite) in &self.invites {
            put(text(&(id, StoredInvite::of(invite))));
        }
        let mut keys: Vec<String> =
            self.revoked.iter().map(|(key, revoked)| format!("{key:?} {}", revoked.leaf)).collect();
        keys.sort();
        keys.into_iter().for_each(&mut put);
        for hub in self.hubs.values() {
            put(text(&**hub));
        }
        put(text(&(&self.forgotten, &self.gone)));
        sha256(whole.as_bytes())
    }

    /// The whole state as facts, for a hub that begins anew.
    pub fn snapshot(&self) -> Vec<Fact> {
        let plain = |change| Fact { change, machine: None };
        let invites = self.invites.values().map(|invite| plain(Change::Invite(invite.clone())));
        let forgotten = self.forgotten.iter().map(|id| plain(Change::InviteForgotten(*id)));
        let machines = self.machines.values().flat_map(|machines| machines.values());
        let leaves = machines.map(|leaf| plain(Change::Leaf(leaf.clone())));
        let claims = self.contenders.iter().flat_map(|(address, claims)| {
            claims.values().map(|c| Fact {
                change: Change::ClaimAdded { address: *address, leaf: c.leaf.clone(), claim: c.claim },
                machine: c.machine,
            })
        });
        let hubs = self.hubs.values().map(|hub| plain(Change::Hub(hub.clone())));
        let mut facts: Vec<Fact> = hubs.chain(invites).chain(forgotten).chain(leaves).collect();
        facts.extend(claims);
        facts.extend(self.gone.iter().map(|machine| {
            let change = Change::LeafForgotten("gone".parse().expect("this is a name"));
            Fact { change, machine: Some(*machine) }
        }));
        facts.extend(self.revoked_pairs().into_iter().map(plain));
        facts
    }

    /// Puts a stored machine or claim back that is not shown (on loading).
    pub fn restore(&mut self, rival: Result<Leaf, (Ipv4Addr, Contender)>) {
        match rival {
            Ok(leaf) => {
                let name = leaf.name.clone();
                self.machines.entry(name.clone()).or_default().insert(leaf.machine(), Arc::new(leaf));
                self.index_machines(&name);
            }
            Err((address, contender)) => {
                self.index_claim(&contender.leaf, address);
                let claims = self.contenders.entry(address).or_default();
                claims.insert(contender.claim.generation, contender);
            }
        }
    }

    /// Machines that were forgotten: what another hub still says of them is not heard.
    pub fn gone_machines(&self) -> impl Iterator<Item = &SigningKey> {
        self.gone.iter()
    }

    /// A machine that was forgotten (on loading).
    pub fn restore_gone(&mut self, machine: SigningKey) {
        self.gone.insert(machine);
    }

    /// An invite that is gone for good (on loading).
    pub fn restore_forgotten(&mut self, id: InviteId) {
        self.forgotten.insert(id);
    }

    /// What a claim generation after `after` may be, so that no two hubs give the same one.
    pub fn claim_generation_after(&self, after: u64) -> u64 {
        let next = after + 1;
        if self.owns_number(next) { next } else { next + 1 }
    }
}
