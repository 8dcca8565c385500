//! The signed log: one entry for each decision, chained by hashes, signed by the hub that made it. It is what the
//! hubs exchange and what `routerctl audit` reads.
//!
//! What is signed is the very text of the body, with its hub, its number and the hash of the entry before it; nobody
//! has to write the same JSON twice.

use crate::approval::Pending;
use crate::claim::{Claim, ClaimStep, Move};
use crate::identity::{InviteId, LeafName, SigningKey, WireguardKey};
use crate::registry::{Change, HubRecord, InviteRecord, Leaf};
use crate::signature::{MacKey, SigningKeyPair, sha256, signed_bytes};
use crate::wire::Blob;
use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// What an entry's signature is for.
const ENTRY_DOMAIN: &str = "fabric/1 log entry";
/// What a checkpoint's signature is for.
const CHECKPOINT_DOMAIN: &str = "fabric/1 log checkpoint";

/// A hybrid logical clock: the hub's clock where it runs on, a count where it stands still, was set back, or is
/// behind another hub's. Later causes are never later than their effects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Hlc {
    /// Seconds since 1970.
    pub secs: u64,
    /// Order within the second.
    pub count: u32,
}

impl Hlc {
    /// The next time after this one, on a clock that shows `now`.
    pub fn next(self, now: u64) -> Self {
        if now > self.secs { Self { secs: now, count: 0 } } else { Self { count: self.count + 1, ..self } }
    }
}

/// Who caused a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Actor {
    /// Somebody at the administration socket.
    Admin,
    /// Who held an invite.
    Invited(InviteId),
    /// A leaf, by its own key.
    Leaf(LeafName),
    /// The hub itself.
    Hub,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Actor::Admin => f.write_str("admin"),
            Actor::Invited(id) => write!(f, "invite {id}"),
            Actor::Leaf(name) => write!(f, "leaf {name}"),
            Actor::Hub => f.write_str("hub"),
        }
    }
}

/// An invite's stored fields but for its id and its verifier.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredInvite {
    wireguard_key: WireguardKey,
    foyer: Ipv4Addr,
    site: LeafName,
    permitted: Vec<Ipv4Net>,
    max_claims: u32,
    uses: u32,
    used: u32,
    #[serde(default)]
    used_at: [u32; 2],
    #[serde(default)]
    last_used_at: Option<u64>,
    #[serde(default)]
    for_hub: bool,
    created_at: u64,
    created_generation: u64,
    expires_at: u64,
    spent_at: Option<u64>,
    revoked_at: Option<u64>,
    #[serde(default)]
    sources: Vec<IpNet>,
    #[serde(default)]
    approve: bool,
    #[serde(default)]
    replace: bool,
}

impl StoredInvite {
    pub(crate) fn of(invite: &InviteRecord) -> Self {
        Self {
            wireguard_key: invite.wireguard_key,
            foyer: invite.foyer,
            site: invite.site.clone(),
            permitted: invite.permitted.clone(),
            max_claims: invite.max_claims,
            uses: invite.uses,
            used: invite.used,
            used_at: invite.used_at,
            last_used_at: invite.last_used_at,
            for_hub: invite.for_hub,
            created_at: invite.created_at,
            created_generation: invite.created_generation,
            expires_at: invite.expires_at,
            spent_at: invite.spent_at,
            revoked_at: invite.revoked_at,
            sources: invite.sources.clone(),
            approve: invite.approve,
            replace: invite.replace,
        }
    }

    pub(crate) fn with(self, id: InviteId, mac_key: MacKey) -> InviteRecord {
        InviteRecord {
            id,
            mac_key,
            wireguard_key: self.wireguard_key,
            foyer: self.foyer,
            site: self.site,
            permitted: self.permitted,
            max_claims: self.max_claims,
            uses: self.uses,
            used: self.used,
            // Earlier versions knew one hub alone.
            used_at: if self.used_at == [0; 2] { [self.used, 0] } else { self.used_at },
            last_used_at: self.last_used_at.or(self.spent_at),
            for_hub: self.for_hub,
            created_at: self.created_at,
            created_generation: self.created_generation,
            expires_at: self.expires_at,
            spent_at: self.spent_at,
            revoked_at: self.revoked_at,
            sources: self.sources,
            approve: self.approve,
            replace: self.replace,
        }
    }
}

/// A change as every hub understands it.
#[derive(Clone)]
pub struct Fact {
    /// What changed.
    pub change: Change,
    /// For a new claim: which machine of the leaf's name made it.
    pub machine: Option<SigningKey>,
}

/// A [`Fact`] as the log holds it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FactText {
    Leaf(Box<Leaf>),
    /// With the verifier, as the registry stores it; the other hub needs it to admit by this invite.
    Invite {
        id: InviteId,
        verifier: Blob,
        record: Box<StoredInvite>,
    },
    InviteForgotten(InviteId),
    ClaimAdded {
        address: Ipv4Addr,
        leaf: LeafName,
        machine: Option<SigningKey>,
        claim: Claim,
    },
    ClaimRemoved {
        address: Ipv4Addr,
        leaf: LeafName,
        claim: Claim,
        step: ClaimStep,
    },
    KeysRevoked {
        leaf: LeafName,
        wireguard_key: WireguardKey,
        signing_key: SigningKey,
    },
    Pending(Box<Pending>),
    PendingGone(SigningKey),
    ClaimMoved {
        address: Ipv4Addr,
        moving: Move,
        machine: Option<SigningKey>,
        claim: Claim,
    },
    MoveDone(Ipv4Addr),
    LeafForgotten {
        leaf: LeafName,
        machine: Option<SigningKey>,
    },
    Hub(Box<HubRecord>),
}

impl From<&Fact> for FactText {
    fn from(fact: &Fact) -> Self {
        match fact.change.clone() {
            Change::Leaf(leaf) => FactText::Leaf(Box::new(Leaf::clone(&leaf))),
            Change::Invite(invite) => FactText::Invite {
                id: invite.id,
                verifier: Blob(invite.mac_key.0.to_vec()),
                record: Box::new(StoredInvite::of(&invite)),
            },
            Change::InviteForgotten(id) => FactText::InviteForgotten(id),
            Change::ClaimAdded { address, leaf, claim } => {
                FactText::ClaimAdded { address, leaf, machine: fact.machine, claim }
            }
            Change::Hub(hub) => FactText::Hub(Box::new(HubRecord::clone(&hub))),
            Change::ClaimRemoved { address, leaf, claim, step } => {
                FactText::ClaimRemoved { address, leaf, claim, step }
            }
            Change::KeysRevoked { leaf, wireguard_key, signing_key } => {
                FactText::KeysRevoked { leaf, wireguard_key, signing_key }
            }
            Change::Pending(pending) => FactText::Pending(Box::new(Pending::clone(&pending))),
            Change::PendingGone(key) => FactText::PendingGone(key),
            Change::ClaimMoved { address, moving, claim } => {
                FactText::ClaimMoved { address, moving, machine: fact.machine, claim }
            }
            Change::MoveDone(address) => FactText::MoveDone(address),
            Change::LeafForgotten(leaf) => FactText::LeafForgotten { leaf, machine: fact.machine },
        }
    }
}

impl FactText {
    pub(crate) fn fact(self) -> Option<Fact> {
        let mut machine = None;
        let change = match self {
            FactText::Leaf(leaf) => Change::Leaf(Arc::from(leaf)),
            FactText::Invite { id, verifier, record } => {
                let mac_key = MacKey::new(verifier.0.try_into().ok()?);
                Change::Invite(Arc::new(record.with(id, mac_key)))
            }
            FactText::InviteForgotten(id) => Change::InviteForgotten(id),
            FactText::ClaimAdded { address, leaf, machine: of, claim } => {
                machine = of;
                Change::ClaimAdded { address, leaf, claim }
            }
            FactText::ClaimRemoved { address, leaf, claim, step } => {
                Change::ClaimRemoved { address, leaf, claim, step }
            }
            FactText::KeysRevoked { leaf, wireguard_key, signing_key } => {
                Change::KeysRevoked { leaf, wireguard_key, signing_key }
            }
            FactText::Pending(pending) => Change::Pending(Arc::from(pending)),
            FactText::PendingGone(key) => Change::PendingGone(key),
            FactText::ClaimMoved { address, moving, machine: of, claim } => {
                machine = of;
                Change::ClaimMoved { address, moving, claim }
            }
            FactText::MoveDone(address) => Change::MoveDone(address),
            FactText::LeafForgotten { leaf, machine: of } => {
                machine = of;
                Change::LeafForgotten(leaf)
            }
            FactText::Hub(hub) => Change::Hub(Arc::from(hub)),
        };
        Some(Fact { change, machine })
    }
}

/// What one entry says.
#[derive(Clone)]
pub struct Body {
    /// When, on the hub's hybrid logical clock.
    pub at: Hlc,
    /// The registry's generation after it.
    pub generation: u64,
    /// Who caused it.
    pub actor: Actor,
    /// What was done, in a word: `enroll`, `claims/add`, `revoke`, and so on.
    pub operation: String,
    /// What it changed.
    pub changes: Vec<Fact>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BodyText {
    at: Hlc,
    generation: u64,
    actor: Actor,
    operation: String,
    changes: Vec<FactText>,
}

/// The end of a hub's chain: how many entries there were, and the hash of the last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The number of the last entry; the first has 1.
    pub seq: u64,
    /// Its hash; zeros before the first.
    pub hash: [u8; 32],
}

/// One entry, as it is stored and exchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The hub that decided, by its signing key.
    pub origin: SigningKey,
    /// Its number among that hub's entries, from 1.
    pub seq: u64,
    /// The hash of that hub's entry before.
    pub previous: Blob,
    /// The exact bytes (JSON) of the body.
    pub body: Blob,
    /// Ed25519 by the hub over number, hash before, and body.
    pub signature: Blob,
}

/// Why an entry does not belong at the end of a chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Entries are missing, or one is there twice.
    #[error("its number is {found}, and {expected} comes next")]
    Sequence {
        /// What comes next.
        expected: u64,
        /// What it is.
        found: u64,
    },
    /// The entry before is not the one that it was made after.
    #[error("the entry before it is not the one that it was made after")]
    Previous,
    /// The hub did not sign these bytes.
    #[error("its signature is not that of its hub: it was altered")]
    Signature,
    /// The body cannot be read.
    #[error("its body cannot be read: {0}")]
    Body(String),
}

impl Entry {
    /// The next entry of a hub after the end of its chain.
    pub fn sign(pair: &SigningKeyPair, after: &Head, body: &Body) -> Self {
        let changes = body.changes.iter().map(FactText::from).collect();
        let Body { at, generation, actor, operation, .. } = body.clone();
        let body = crate::wire::bytes_of(&BodyText { at, generation, actor, operation, changes });
        let seq = after.seq + 1;
        let signature = pair.sign(ENTRY_DOMAIN, &[&seq.to_be_bytes(), &after.hash, &body]);
        Self {
            origin: pair.public(),
            seq,
            previous: Blob(after.hash.to_vec()),
            body: Blob(body),
            signature: Blob(signature),
        }
    }

    /// The hash that the next entry carries: over everything in this one.
    pub fn hash(&self) -> [u8; 32] {
        let seq = self.seq.to_be_bytes();
        let parts = [&self.origin.0[..], &seq, &self.previous.0, &self.body.0, &self.signature.0];
        sha256(&signed_bytes(ENTRY_DOMAIN, &parts))
    }

    /// The end of the chain with this entry, if it belongs there.
    pub fn follow(&self, after: &Head) -> Result<Head, ChainError> {
        if self.seq != after.seq + 1 {
            return Err(ChainError::Sequence { expected: after.seq + 1, found: self.seq });
        }
        if self.previous.0 != after.hash {
            return Err(ChainError::Previous);
        }
        let parts = [&self.seq.to_be_bytes()[..], &self.previous.0, &self.body.0];
        if !self.origin.verify(ENTRY_DOMAIN, &parts, &self.signature.0) {
            return Err(ChainError::Signature);
        }
        Ok(Head { seq: self.seq, hash: self.hash() })
    }

    /// What it says.
    pub fn open(&self) -> Result<Body, ChainError> {
        let text: BodyText =
            serde_json::from_slice(&self.body.0).map_err(|e| ChainError::Body(e.to_string()))?;
        let BodyText { at, generation, actor, operation, changes } = text;
        let changes: Option<Vec<Fact>> = changes.into_iter().map(FactText::fact).collect();
        let changes = changes.ok_or_else(|| ChainError::Body("a verifier has 32 bytes".into()))?;
        Ok(Body { at, generation, actor, operation, changes })
    }
}

/// Where a hub's chain begins after its older entries were removed; signed by the hub that removed them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Whose chain.
    pub origin: SigningKey,
    /// The last entry that was removed.
    pub head: Head,
    /// Ed25519 by the hub that keeps this copy.
    pub signature: Blob,
}

impl Checkpoint {
    /// A checkpoint at this place.
    pub fn sign(pair: &SigningKeyPair, origin: SigningKey, head: Head) -> Self {
        let parts = [&origin.0[..], &head.seq.to_be_bytes(), &head.hash];
        Self { origin, head, signature: Blob(pair.sign(CHECKPOINT_DOMAIN, &parts)) }
    }

    /// Whether this hub made it.
    pub fn is_by(&self, signer: &SigningKey) -> bool {
        let parts = [&self.origin.0[..], &self.head.seq.to_be_bytes(), &self.head.hash];
        signer.verify(CHECKPOINT_DOMAIN, &parts, &self.signature.0)
    }
}

/// What a change says, for people; never a verifier.
pub fn summary(change: &Change) -> String {
    match change {
        Change::Leaf(leaf) if leaf.revoked.is_some() => format!("leaf {} revoked", leaf.name),
        Change::Leaf(leaf) => format!("leaf {} at {}, counter {}", leaf.name, leaf.overlay, leaf.counter),
        Change::Invite(invite) if invite.revoked_at.is_some() => format!("invite {} revoked", invite.id),
        Change::Invite(invite) => {
            format!("invite {} for {}, used {}/{}", invite.id, invite.site, invite.used, invite.uses)
        }
        Change::InviteForgotten(id) => format!("invite {id} forgotten"),
        Change::ClaimAdded { address, leaf, claim } => {
            format!("{address} owned by {leaf} (generation {})", claim.generation)
        }
        Change::ClaimRemoved { address, leaf, step, .. } => {
            format!("{address} no longer owned by {leaf} ({})", step.as_str())
        }
        Change::KeysRevoked { leaf, .. } => format!("keys of {leaf} revoked"),
        Change::Pending(pending) => {
            format!("{} at {}: {:?}", pending.fingerprint(), pending.site, pending.verdict).to_lowercase()
        }
        Change::PendingGone(_) => "request for approval is over".into(),
        Change::ClaimMoved { address, moving, claim } => {
            format!("{address} moved from {} to {} (generation {})", moving.from, moving.to, claim.generation)
        }
        Change::MoveDone(address) => format!("{address} has moved"),
        Change::LeafForgotten(name) => format!("leaf {name} forgotten"),
        Change::Hub(hub) if hub.retired_at.is_some() => format!("hub {} retired", hub.node.name),
        Change::Hub(hub) => format!("hub {} at {}", hub.node.name, hub.node.overlay),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn body(operation: &str) -> Body {
        let claim = Claim { generation: 3, since: 9 };
        let change =
            Change::ClaimAdded { address: [10, 0, 0, 1].into(), leaf: "aws".parse().unwrap(), claim };
        let at = Hlc { secs: 5, count: 0 };
        let change = Fact { change, machine: Some(SigningKey([7; 32])) };
        Body { at, generation: 7, actor: Actor::Admin, operation: operation.into(), changes: vec![change] }
    }

    /// The clock never stands still and never goes back, whatever the wall clock does.
    #[test]
    fn the_clock_only_goes_on() {
        let mut clock = Hlc::default();
        for now in [5, 5, 3, 0, 6, 6] {
            let next = clock.next(now);
            assert!(next > clock, "{next:?}");
            clock = next;
        }
        assert_eq!(clock, Hlc { secs: 6, count: 1 });
    }

    /// An entry fits once, at its place, and reads back what was put in.
    #[test]
    fn a_chain_is_followed() {
        let pair = SigningKeyPair::from_seed(&[4; 32]);
        let first = Entry::sign(&pair, &Head::default(), &body("one"));
        let head = first.follow(&Head::default()).unwrap();
        let second = Entry::sign(&pair, &head, &body("two"));
        assert_eq!(second.follow(&head).unwrap().seq, 2);
        assert_eq!(second.follow(&Head::default()), Err(ChainError::Sequence { expected: 1, found: 2 }));
        let other = Entry::sign(&pair, &Head::default(), &body("other")).follow(&Head::default()).unwrap();
        assert_eq!(second.follow(&other), Err(ChainError::Previous));
        let read = second.open().unwrap();
        assert_eq!((read.operation.as_str(), read.changes.len(), read.at.secs), ("two", 1, 5));
        let checkpoint = Checkpoint::sign(&pair, pair.public(), head);
        assert!(checkpoint.is_by(&pair.public()));
        assert!(!Checkpoint { head: other, ..checkpoint }.is_by(&pair.public()));
    }

    proptest! {
        /// One altered bit anywhere in an entry is seen.
        #[test]
        fn an_altered_bit_is_seen(at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let pair = SigningKeyPair::from_seed(&[4; 32]);
            let mut entry = Entry::sign(&pair, &Head::default(), &body("one"));
            let lengths = [entry.previous.0.len(), entry.body.0.len(), entry.signature.0.len()];
            let index = at.index(lengths.iter().sum());
            let fields = [&mut entry.previous.0, &mut entry.body.0, &mut entry.signature.0];
            let mut offset = index;
            for field in fields {
                if offset < field.len() { field[offset] ^= 1 << bit; break; }
                offset -= field.len();
            }
            prop_assert!(entry.follow(&Head::default()).is_err());
        }
    }
}
