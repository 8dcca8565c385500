//! The hub's truth as a pure state: leaves, claims and invites, changed only by [`Change`]s that are stored first.

use crate::approval::Pending;
use crate::claim::{Claim, Move};
use crate::identity::{InviteId, LeafName, SigningKey, WireguardKey};
use crate::policy::{HubSettings, TOMBSTONE_LIMIT, TOMBSTONE_SECS};
use crate::topology::{Admission, Topology, renew_after_secs};
use imbl::OrdMap;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

mod hubs;
mod index;
mod merge;
mod records;

pub use hubs::HubRecord;
use index::Index;
pub(crate) use index::numbered;
pub use merge::Merged;
pub use records::*;

/// The registry's state in memory.
pub struct State {
    pub(crate) settings: Arc<HubSettings>,
    pub(crate) generation: u64,
    pub(crate) claim_generation: u64,
    pub(crate) leaves: BTreeMap<LeafName, Arc<Leaf>>,
    pub(crate) invites: BTreeMap<InviteId, Arc<InviteRecord>>,
    pub(crate) owners: BTreeMap<Ipv4Addr, (LeafName, Claim)>,
    pub(crate) bad: Vec<BadRecord>,
    pub(crate) pending: BTreeMap<SigningKey, Arc<Pending>>,
    pub(crate) moves: BTreeMap<Ipv4Addr, Move>,
    claims: HashMap<LeafName, BTreeMap<Ipv4Addr, Claim>>,
    keys: HashMap<[u8; 32], LeafName>,
    revoked: HashMap<[u8; 32], RevokedKey>,
    overlays: BTreeMap<Ipv4Addr, Option<LeafName>>,
    reserved_names: BTreeMap<String, ()>,
    foyer: BTreeMap<Ipv4Addr, InviteId>,
    admitted: OrdMap<LeafName, Arc<Admitted>>,
    machines: BTreeMap<LeafName, BTreeMap<SigningKey, Arc<Leaf>>>,
    contenders: BTreeMap<Ipv4Addr, BTreeMap<u64, Contender>>,
    forgotten: BTreeSet<InviteId>,
    hubs: BTreeMap<SigningKey, Arc<HubRecord>>,
    gone: BTreeSet<SigningKey>,
    index: Index,
}

impl State {
    /// A registry with nothing in it.
    pub fn new(settings: Arc<HubSettings>) -> Self {
        let (leaves, invites, owners, bad) = Default::default();
        let (claims, keys, revoked, overlays) = Default::default();
        let (pending, moves) = Default::default();
        let (reserved_names, foyer, admitted) = Default::default();
        let (machines, contenders, forgotten, hubs, gone) = Default::default();
        Self {
            settings,
            generation: 0,
            claim_generation: 0,
            leaves,
            invites,
            owners,
            bad,
            pending,
            moves,
            claims,
            keys,
            revoked,
            overlays,
            reserved_names,
            foyer,
            admitted,
            machines,
            contenders,
            forgotten,
            hubs,
            gone,
            index: Index::default(),
        }
    }

    /// The hub's constants.
    pub fn settings(&self) -> &HubSettings {
        &self.settings
    }

    /// Replaces the hub's constants.
    pub fn set_settings(&mut self, settings: Arc<HubSettings>) {
        self.settings = settings;
        self.index_places_anew();
        self.generation += 1;
    }

    /// Grows with each change.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The generation is this one at least: another hub had it, or a decision was stored.
    pub fn went_on(&mut self, generation: u64) {
        self.generation = self.generation.max(generation);
    }

    /// Numbers that a former life of this hub may have given out are not given out again.
    pub fn leave_generations_out(&mut self, count: u64) {
        self.generation = self.generation.saturating_add(count);
        self.claim_generation = self.claim_generation.saturating_add(count);
    }

    /// The leaf of a name.
    pub fn leaf(&self, name: &LeafName) -> Option<&Arc<Leaf>> {
        self.leaves.get(name)
    }

    /// The invite of an id.
    pub fn invite(&self, id: &InviteId) -> Option<&Arc<InviteRecord>> {
        self.invites.get(id)
    }

    /// The leaf that has a key of either kind.
    pub fn leaf_of_key(&self, key: &[u8; 32]) -> Option<&LeafName> {
        self.keys.get(key)
    }

    /// The leaf at an overlay address.
    pub fn leaf_at(&self, overlay: &Ipv4Addr) -> Option<&LeafName> {
        self.overlays.get(overlay).and_then(Option::as_ref)
    }

    /// Who had a key that was revoked.
    pub fn revoked_key(&self, key: &[u8; 32]) -> Option<&RevokedKey> {
        self.revoked.get(key)
    }

    /// The revoked signing keys of a name.
    pub fn revoked_signing_keys<'a>(&'a self, name: &'a LeafName) -> impl Iterator<Item = &'a SigningKey> {
        self.revoked.values().filter(move |key| key.leaf == *name).filter_map(|key| key.signing.as_ref())
    }

    /// What a leaf owns.
    pub fn claims_of(&self, name: &LeafName) -> BTreeMap<Ipv4Addr, Claim> {
        self.claims.get(name).cloned().unwrap_or_default()
    }

    /// How many addresses a leaf owns.
    pub fn claim_count(&self, name: &LeafName) -> usize {
        self.claims.get(name).map_or(0, BTreeMap::len)
    }

    /// What was moved away from a leaf and may still be announced by it.
    pub fn lingering(&self, name: &LeafName) -> BTreeMap<Ipv4Addr, Claim> {
        let own = self.moves.iter().filter(|(_, moving)| moving.from == *name);
        own.map(|(address, moving)| (*address, moving.former)).collect()
    }

    /// The machine of a signing key that waits for approval or was judged.
    pub fn pending(&self, key: &SigningKey) -> Option<&Arc<Pending>> {
        self.pending.get(key)
    }

    /// Who owns an address.
    pub fn owner(&self, address: &Ipv4Addr) -> Option<&(LeafName, Claim)> {
        self.owners.get(address)
    }

    /// Whether a name is free: no leaf has it, and no unreadable record does.
    pub fn name_is_reserved(&self, name: &LeafName) -> bool {
        self.reserved_names.contains_key(name.as_str())
    }

    /// The lowest foyer address that no invite holds; a tombstone gives way when all are taken.
    pub fn free_foyer(&self, now: u64) -> Option<Ipv4Addr> {
        let free =
            self.settings.foyer_addresses().find(|a| !self.foyer.contains_key(a) && self.owns_address(a));
        free.or_else(|| {
            let closed = |id: &InviteId| self.invites.get(id).and_then(|invite| invite.closed_at(now));
            let own = self.foyer.iter().filter(|(address, _)| self.owns_address(address));
            let tombstones = own.filter_map(|(address, id)| Some((closed(id)?, *address)));
            tombstones.min().map(|(_, address)| address)
        })
    }

    /// Whether a key is an invite's foyer key or the hub's own.
    pub fn key_is_fabric_own(&self, key: &[u8; 32]) -> bool {
        *key == self.settings.wireguard_key.0
            || *key == self.settings.signing_key.0
            || self.hubs.values().any(|h| [h.node.signing_key.0, h.node.wireguard_key.0].contains(key))
            || self.all_rivals().any(|rival| [rival.signing_key.0, rival.wireguard_key.0].contains(key))
            || self.foyer.values().any(|id| self.invites.get(id).is_some_and(|i| i.wireguard_key.0 == *key))
    }

    /// Keeps what an unreadable record holds from being given to others, and remembers why it is unreadable.
    pub fn reserve(&mut self, bad: BadRecord, name: Option<&str>, overlay: Option<Ipv4Addr>) {
        if let Some(name) = name {
            self.reserved_names.insert(name.to_owned(), ());
        }
        if let Some(overlay) = overlay {
            self.overlays.insert(overlay, None);
        }
        self.bad.push(bad);
    }

    /// A key that was revoked earlier (on loading).
    pub fn restore_revoked_key(&mut self, key: [u8; 32], revoked: RevokedKey) {
        self.revoked.insert(key, revoked);
    }

    /// A move that was under way when the hub stopped (on loading).
    pub fn resume_move(&mut self, address: Ipv4Addr, moving: Move, now: u64) {
        let from = moving.from.clone();
        self.moves.insert(address, moving);
        self.refresh(&from, now);
    }

    /// Applies a decision of this hub; the generation grows by one.
    pub fn apply(&mut self, changes: &[Change], now: u64) {
        let facts = self.facts(changes, now);
        self.merge(&facts, now);
        self.generation += 1;
        self.settle(now);
    }

    /// The revoked keys of each leaf, two and two.
    fn revoked_pairs(&self) -> Vec<Change> {
        let mut keys: BTreeMap<&LeafName, (Vec<WireguardKey>, Vec<SigningKey>)> = BTreeMap::new();
        for (key, revoked) in &self.revoked {
            let (wireguard, signing) = keys.entry(&revoked.leaf).or_default();
            match revoked.signing {
                Some(key) => signing.push(key),
                None => wireguard.push(WireguardKey(*key)),
            }
        }
        let mut changes = Vec::new();
        for (leaf, (wireguard, signing)) in keys {
            let (Some(first), Some(second)) = (wireguard.first(), signing.first()) else { continue };
            for index in 0..wireguard.len().max(signing.len()) {
                let wireguard_key = *wireguard.get(index).unwrap_or(first);
                let signing_key = *signing.get(index).unwrap_or(second);
                changes.push(Change::KeysRevoked { leaf: leaf.clone(), wireguard_key, signing_key });
            }
        }
        changes
    }

    /// Makes one record the shown one, with everything that is derived from it; [`State::merge`] decides which is.
    pub(crate) fn apply_one(&mut self, change: &Change, now: u64) {
        match change {
            Change::Leaf(leaf) => self.put_leaf(leaf, now),
            Change::Invite(invite) => {
                if self.foyer_wanted(invite, now) {
                    self.foyer.insert(invite.foyer, invite.id);
                }
                self.invites.insert(invite.id, invite.clone());
            }
            Change::InviteForgotten(id) => {
                if let Some(invite) = self.invites.remove(id)
                    && self.foyer.get(&invite.foyer) == Some(id)
                {
                    self.foyer.remove(&invite.foyer);
                }
            }
            Change::ClaimAdded { address, leaf, claim } => {
                self.claim_generation = self.claim_generation.max(claim.generation);
                self.owners.insert(*address, (leaf.clone(), *claim));
                self.claims.entry(leaf.clone()).or_default().insert(*address, *claim);
                self.refresh(leaf, now);
            }
            Change::ClaimRemoved { address, leaf, .. } => {
                self.owners.remove(address);
                if let Some(claims) = self.claims.get_mut(leaf) {
                    claims.remove(address);
                }
                self.refresh(leaf, now);
            }
            Change::Hub(hub) => {
                self.hubs.insert(hub.node.signing_key, hub.clone());
                self.index_places_anew();
            }
            Change::KeysRevoked { leaf, wireguard_key, signing_key } => {
                for (key, signing) in [(wireguard_key.0, None), (signing_key.0, Some(*signing_key))] {
                    self.keys.remove(&key);
                    self.revoked.insert(key, RevokedKey { leaf: leaf.clone(), signing });
                }
            }
            Change::Pending(pending) => {
                self.pending.insert(pending.signing_key, pending.clone());
            }
            Change::PendingGone(key) => {
                self.pending.remove(key);
            }
            Change::ClaimMoved { address, moving, claim } => {
                self.claim_generation = self.claim_generation.max(claim.generation);
                self.owners.insert(*address, (moving.to.clone(), *claim));
                if let Some(claims) = self.claims.get_mut(&moving.from) {
                    claims.remove(address);
                }
                self.claims.entry(moving.to.clone()).or_default().insert(*address, *claim);
                self.moves.insert(*address, moving.clone());
                self.refresh(&moving.from, now);
                self.refresh(&moving.to, now);
            }
            Change::MoveDone(address) => {
                if let Some(moving) = self.moves.remove(address) {
                    self.refresh(&moving.from, now);
                }
            }
            Change::LeafForgotten(name) => {
                if let Some(leaf) = self.leaves.remove(name) {
                    self.overlays.remove(&leaf.overlay);
                }
                self.claims.remove(name);
                self.index_machines(name);
                self.index_places_anew();
                self.refresh(name, now);
            }
        }
    }

    fn put_leaf(&mut self, leaf: &Arc<Leaf>, now: u64) {
        if let Some(old) = self.leaves.insert(leaf.name.clone(), leaf.clone()) {
            for key in old.all_keys() {
                self.keys.remove(&key);
            }
        }
        if leaf.revoked.is_none() {
            for key in leaf.all_keys() {
                self.keys.insert(key, leaf.name.clone());
            }
        }
        self.overlays.insert(leaf.overlay, Some(leaf.name.clone()));
        self.index_machines(&leaf.name);
        self.index_place(&leaf.name, &leaf.site);
        self.refresh(&leaf.name, now);
    }

    fn foyer_wanted(&self, invite: &InviteRecord, now: u64) -> bool {
        let lives = invite.closed_at(now).is_none_or(|closed| now.saturating_sub(closed) < TOMBSTONE_SECS);
        let holder = self.foyer.get(&invite.foyer).and_then(|id| self.invites.get(id));
        lives && holder.is_none_or(|holder| holder.created_generation <= invite.created_generation)
    }

    /// Rebuilds what is published about one leaf.
    fn refresh(&mut self, name: &LeafName, now: u64) {
        let Some(leaf) = self.leaves.get(name).filter(|leaf| leaf.has_tunnel(now)) else {
            self.admitted.remove(name);
            self.index_admitted(name);
            return;
        };
        let leaving = leaf.revoked.is_some();
        let expired = now >= leaf.valid_until;
        let claims = if expired { BTreeMap::new() } else { self.claims_of(name) };
        let lingering = if expired || leaving { BTreeMap::new() } else { self.lingering(name) };
        let admitted = Admitted {
            name: leaf.name.clone(),
            overlay: leaf.overlay,
            wireguard_key: leaf.wireguard_key,
            claims,
            permitted: leaf.permitted.clone(),
            max_claims: leaf.max_claims,
            valid_until: leaf.valid_until,
            last_seen: leaf.last_seen,
            expired,
            lingering,
            leaving,
        };
        self.admitted.insert(name.clone(), Arc::new(admitted));
        self.index_admitted(name);
    }

    /// Lets time do its work: leases run out, tombstones go. Says whether something changed.
    pub fn settle(&mut self, now: u64) -> bool {
        let names = self.turned(now);
        names.iter().for_each(|name| self.refresh(name, now));
        // Of those that closed in one second the one that was made last stays longest.
        let mut closed: Vec<(u64, u64, Ipv4Addr)> = Vec::new();
        for (address, id) in &self.foyer {
            let invite = self.invites.get(id);
            let at = invite.map_or(Some(0), |invite| invite.closed_at(now));
            let made = invite.map_or(0, |invite| invite.created_generation);
            closed.extend(at.map(|at| (at, made, *address)));
        }
        closed.sort_unstable_by(|a, b| b.cmp(a));
        let gone: Vec<Ipv4Addr> = closed
            .iter()
            .enumerate()
            .filter(|(rank, (at, _, _))| {
                *rank >= TOMBSTONE_LIMIT || now.saturating_sub(*at) >= TOMBSTONE_SECS
            })
            .map(|(_, (_, _, address))| *address)
            .collect();
        self.foyer.retain(|address, _| !gone.contains(address));
        !names.is_empty() || !gone.is_empty()
    }

    /// The invites that are closed for longer than `secs` and by which no leaf joined last.
    pub fn forgettable_invites(&self, secs: u64, now: u64) -> Vec<Change> {
        let used: std::collections::BTreeSet<InviteId> =
            self.leaves.values().map(|leaf| leaf.invite).collect();
        let old = |invite: &&Arc<InviteRecord>| {
            invite.closed_at(now).is_some_and(|at| now.saturating_sub(at) > secs)
        };
        let invites = self.invites.values().filter(old).filter(|invite| !used.contains(&invite.id));
        invites.map(|invite| Change::InviteForgotten(invite.id)).collect()
    }

    /// When time changes something next, seconds since 1970.
    pub fn next_deadline(&self, now: u64) -> Option<u64> {
        let tombstones = self.foyer.values().filter_map(|id| self.invites.get(id)).map(|invite| {
            invite.closed_at(now).map_or(invite.expires_at, |closed| closed.saturating_add(TOMBSTONE_SECS))
        });
        let moves = self.moves.values().map(|moving| moving.until);
        self.next_turn().into_iter().chain(tombstones).chain(moves).min()
    }

    /// What is published. Call [`State::settle`] before.
    pub fn admissions(&self) -> Admissions {
        let peers = self.foyer.iter().filter_map(|(address, id)| {
            let invite = self.invites.get(id)?;
            Some(FoyerPeer {
                public_key: invite.wireguard_key,
                address: *address,
                invite: *id,
                underlay_matters: invite.approve || !invite.sources.is_empty(),
            })
        });
        Admissions {
            generation: self.generation,
            hub: self.settings.clone(),
            leaves: self.admitted.clone(),
            foyer: peers.collect(),
            moves: self.moves.clone(),
            hubs: self.hub_nodes().split_off(1),
            rivals: self.rival_tunnels(),
        }
    }

    /// The tunnels of machines that lost their name; those whose address or key another leaf has are left out.
    fn rival_tunnels(&self) -> Vec<(WireguardKey, Ipv4Addr)> {
        let taken = |rival: &Leaf| {
            self.keys.contains_key(&rival.wireguard_key.0)
                || self.admitted.values().any(|leaf| leaf.overlay == rival.overlay)
        };
        let rivals = self.all_rivals().filter(|rival| !taken(rival));
        rivals.map(|rival| (rival.wireguard_key, rival.overlay)).collect()
    }

    /// The answer to a leaf; `None` if there is no such leaf.
    pub fn admission(&self, name: &LeafName, now: u64) -> Option<Admission> {
        let leaf = self.leaves.get(name)?;
        Some(Admission {
            leaf: leaf.name.clone(),
            invite: leaf.invite,
            overlay: leaf.overlay,
            wireguard_key: leaf.wireguard_key,
            claims: self.claims_of(name).into_iter().chain(self.lingering(name)).collect(),
            permitted: leaf.permitted.clone(),
            max_claims: leaf.max_claims,
            counter: leaf.counter,
            lease_left_secs: leaf.valid_until.saturating_sub(now),
            renew_after_secs: renew_after_secs(self.settings.lease_secs, 0.5),
            valid_until: leaf.valid_until,
            hub_time: now,
            topology: Topology {
                generation: self.generation,
                overlay_prefix: self.settings.overlay_prefix,
                asn: self.settings.asn,
                lease_secs: self.settings.lease_secs,
                fail_static_secs: self.settings.fail_static_secs,
                hubs: self.hub_nodes(),
            },
        })
    }
}
