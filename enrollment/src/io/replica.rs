//! The registry's side of replication: what the other hub lacks, and what it sent.

use super::log_store;
use super::schema;
use super::store::{Owner, Registry, failed};
use crate::exchange::{self, BATCH_ENTRIES, BATCH_OCTETS, Batch, Heads, JoinAnswer, Signed, Snapshot};
use crate::identity::{LeafName, SigningKey};
use crate::invite::Invite;
use crate::log::{Actor, Entry, Fact, FactText};
use crate::policy::InviteOrder;
use crate::reason::{ReasonCode, Refusal};
use crate::registry::{Change, HubRecord, State};
use std::net::IpAddr;
use std::sync::Arc;

/// What taking in a batch came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// How many entries were new.
    pub entries: usize,
    /// Whether the whole state was replaced by a snapshot.
    pub replaced: bool,
}

impl Registry {
    /// The ends of all chains here.
    pub async fn heads(&self) -> Result<Heads, Refusal> {
        self.call(|owner| Ok(owner.log.heads().clone())).await
    }

    /// SHA-256 over everything that hubs in step have in common, hexadecimal.
    pub async fn digest(&self) -> Result<String, Refusal> {
        self.call(|owner| Ok(hex(&owner.state.digest()))).await
    }

    /// What a hub that has `have` lacks.
    pub async fn batch(&self, asking: SigningKey, have: Heads) -> Result<Batch, Refusal> {
        self.call(move |owner| owner.batch(&asking, &have)).await
    }

    /// Takes in what another hub sent: every entry at its place in its hub's chain, or none of the batch.
    pub async fn take(&self, batch: Batch) -> Result<Taken, Refusal> {
        self.call(move |owner| owner.take(batch)).await
    }

    /// Makes an invite for a second hub.
    pub async fn create_hub_invite(&self, name: LeafName, expires_in_secs: u64) -> Result<Invite, Refusal> {
        let order = InviteOrder { expires_in_secs, ..InviteOrder::for_site(name) };
        self.make_invite(order, true).await
    }

    /// Lets a hub in by its invite. Gives what it needs to know and the generation that has its tunnel.
    pub async fn join_hub(&self, signed: Signed, source: IpAddr) -> Result<(JoinAnswer, u64), Refusal> {
        self.change(move |owner| {
            let now = (owner.clock)();
            let (request, changes) = owner.state.join_hub(&signed, source, now)?;
            owner.commit(&Actor::Invited(request.invite), "hub/join", &changes, now)?;
            tracing::info!(key = %request.signing_key, "a hub joined");
            Ok((owner.state.join_answer(), owner.state.generation()))
        })
        .await
    }

    /// Takes a hub out for good: nothing that it signs from now on is heard, and another one can join.
    pub async fn retire_hub(&self, name: LeafName) -> Result<u64, Refusal> {
        self.change(move |owner| {
            let now = (owner.clock)();
            let changes = owner.state.retire_hub(&name, now)?;
            owner.commit(&Actor::Admin, "hub/retire", &changes, now)?;
            Ok(owner.state.generation())
        })
        .await
    }

    /// Makes other hubs known before the log says so (a hub that joins).
    pub async fn adopt_hubs(&self, hubs: Vec<HubRecord>) -> Result<(), Refusal> {
        self.call(move |owner| {
            let facts = hubs.into_iter().map(|hub| Change::Hub(Arc::new(hub)));
            let facts: Vec<Fact> = facts.map(|change| Fact { change, machine: None }).collect();
            owner.absorb(&[], &facts, owner.state.generation())
        })
        .await
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn refused(why: impl Into<String>) -> Refusal {
    Refusal::new(ReasonCode::AnswerInvalid, why)
}

impl Owner {
    fn batch(&self, asking: &SigningKey, have: &Heads) -> Result<Batch, Refusal> {
        if self.shared.is_some() {
            return Err(refused("this hub's registry is in a database: the other one's must be in it too"));
        }
        let heads = self.log.heads().clone();
        let now = (self.clock)();
        let mut batch = Batch { entries: Vec::new(), snapshot: None, heads, digest: None, now, forked: None };
        for (origin, theirs) in have {
            let differs = match log_store::hash_at(&self.db, origin, theirs.seq).map_err(failed)? {
                Some(hash) => hash != theirs.hash,
                None => false,
            };
            if differs {
                batch.forked = Some(*origin);
                return Ok(batch);
            }
        }
        let from = |origin: &SigningKey| have.get(origin).map_or(0, |head| head.seq);
        let kept = log_store::checkpoints(&self.db).map_err(failed)?;
        if kept.iter().any(|checkpoint| from(&checkpoint.origin) < checkpoint.head.seq) {
            // It replaces what the other has, so it must know all that the other decided.
            if from(asking) <= self.log.head(asking).seq {
                batch.snapshot = Some(self.snapshot());
            }
            return Ok(batch);
        }
        let mut entries: Vec<(i64, Entry)> = Vec::new();
        for (origin, head) in self.log.heads() {
            if from(origin) < head.seq {
                let after = log_store::after(&self.db, origin, from(origin), BATCH_ENTRIES);
                entries.extend(after.map_err(failed)?);
            }
        }
        entries.sort_by_key(|(position, _)| *position);
        let mut octets = 0;
        let fits = |(_, entry): &(i64, Entry)| {
            let before = octets;
            octets += entry.body.0.len();
            before < BATCH_OCTETS
        };
        let entries = entries.into_iter().take(BATCH_ENTRIES).take_while(fits);
        batch.entries = entries.map(|(_, entry)| entry).collect();
        if batch.entries.is_empty() {
            batch.digest = Some(hex(&self.state.digest()));
        }
        Ok(batch)
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let facts = self.state.snapshot().iter().map(FactText::from).collect();
        Snapshot { facts, heads: self.log.heads().clone(), generation: self.state.generation() }
    }

    fn take(&mut self, batch: Batch) -> Result<Taken, Refusal> {
        if self.shared.is_some() {
            return Err(refused("this hub's registry is in a database, which nothing else is taken into"));
        }
        if let Some(snapshot) = batch.snapshot {
            return self.replace(snapshot);
        }
        let entries = self.take_entries(batch.entries)?;
        Ok(Taken { entries, replaced: false })
    }

    /// Entries at their places, all or none; those that are here already are left out. Gives how many were new.
    pub(super) fn take_entries(&mut self, sent: Vec<Entry>) -> Result<usize, Refusal> {
        let mut entries = Vec::new();
        let mut facts = Vec::new();
        let mut generation = self.state.generation();
        let mut known = self.state.log_keys();
        let mut heads = self.log.heads().clone();
        for entry in sent {
            let head = heads.get(&entry.origin).copied().unwrap_or_default();
            if entry.seq <= head.seq {
                continue;
            }
            if !known.contains(&entry.origin) {
                return Err(refused(format!("hub {} is not one of this fabric", entry.origin)));
            }
            let wrong = |error| refused(format!("entry {} of hub {}: {error}", entry.seq, entry.origin));
            heads.insert(entry.origin, entry.follow(&head).map_err(wrong)?);
            let body = entry.open().map_err(wrong)?;
            generation = generation.max(body.generation);
            known.extend(body.changes.iter().filter_map(|fact| match &fact.change {
                Change::Hub(hub) => Some(hub.node.signing_key),
                _ => None,
            }));
            facts.extend(body.changes);
            entries.push(entry);
        }
        if !entries.is_empty() {
            self.absorb(&entries, &facts, generation + 1)?;
        }
        Ok(entries.len())
    }

    /// The hub's own record, and those that it was told when it joined.
    pub(super) fn known_hubs(&mut self, now: u64) -> Result<Option<Change>, Refusal> {
        let settings = self.state.settings.clone();
        let unknown =
            settings.known_hubs.iter().filter(|hub| self.state.hub(&hub.node.signing_key).is_none());
        let told = unknown.map(|hub| Fact { change: Change::Hub(Arc::new(hub.clone())), machine: None });
        let told: Vec<Fact> = told.collect();
        if !told.is_empty() {
            self.absorb(&[], &told, self.state.generation())?;
        }
        Ok(self.state.own_hub_record(now).map(|hub| Change::Hub(Arc::new(hub))))
    }

    /// Facts of other hubs with the entries that say so, all or nothing.
    fn absorb(&mut self, entries: &[Entry], facts: &[Fact], generation: u64) -> Result<(), Refusal> {
        let now = (self.clock)();
        self.begin(now)?;
        let merged = self.state.merge(facts, now);
        let written = self.db.savepoint().and_then(|tx| {
            schema::write_merged(&tx, &self.state, &merged, generation, now)?;
            entries.iter().try_for_each(|entry| log_store::insert(&tx, entry))?;
            tx.commit()
        });
        self.stored(written, now)?;
        self.state.went_on(generation);
        entries.iter().for_each(|entry| self.log.took(entry));
        Ok(())
    }

    /// The other hub's whole state in place of this one, when it knows all that was decided here.
    pub(super) fn replace(&mut self, snapshot: Snapshot) -> Result<Taken, Refusal> {
        let own = self.state.settings().signing_key;
        if snapshot.heads.get(&own).map_or(0, |head| head.seq) < self.log.head(&own).seq {
            return Err(refused("the snapshot does not have all that was decided here"));
        }
        let facts: Option<Vec<Fact>> = snapshot.facts.into_iter().map(FactText::fact).collect();
        let facts = facts.ok_or_else(|| refused("the snapshot has a verifier that is none"))?;
        let now = (self.clock)();
        self.begin(now)?;
        let mut state = State::new(self.state.settings.clone());
        let merged = state.merge(&facts, now);
        let checkpoints = exchange::checkpoints(&snapshot.heads, self.log.signing());
        let generation = snapshot.generation.max(self.state.generation()) + 1;
        let written = self.db.savepoint().and_then(|tx| {
            schema::empty(&tx)?;
            schema::write_merged(&tx, &state, &merged, generation, now)?;
            log_store::restart(&tx, &checkpoints)?;
            tx.commit()
        });
        self.stored(written, now)?;
        self.state = schema::load(&self.db, self.state.settings.clone(), now).map_err(failed)?;
        self.log.restarted(snapshot.heads);
        Ok(Taken { entries: 0, replaced: true })
    }
}
