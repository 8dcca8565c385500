//! What two hubs say to each other: who joins, and which entries of the log the other lacks.
//!
//! Everything is signed by the speaker's Ed25519 key for the hub that is addressed; an answer is bound to the body of
//! its request, which holds a fresh nonce.

use crate::endpoint::Endpoint;
use crate::identity::{InviteId, SigningKey, WireguardKey};
use crate::log::{Checkpoint, Entry, FactText, Head};
use crate::registry::HubRecord;
use crate::signature::{MacKey, SigningKeyPair, sha256};
use crate::topology::HubNode;
use crate::wire::{Blob, bytes_of};
use ipnet::Ipv4Net;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// Path of [`Pull`] on the hub's overlay address.
pub const PULL_PATH: &str = "/v1/hubs/pull";
/// Path of [`JoinRequest`] in the foyer.
pub const JOIN_PATH: &str = "/v1/hubs/join";
/// The largest request between hubs, in octets.
pub const MAX_REQUEST: usize = 64 * 1024;
/// The largest answer between hubs, in octets: a snapshot of some ten thousand leaves.
pub const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// How many entries one answer holds at most.
pub const BATCH_ENTRIES: usize = 256;
/// After how many octets of bodies an answer takes no further entry.
pub const BATCH_OCTETS: usize = 1024 * 1024;
/// For how long a hub holds a request when it has nothing new, in seconds.
pub const HOLD_SECS: u64 = 20;

const REQUEST_DOMAIN: &str = "fabric/1 hub request";
const ANSWER_DOMAIN: &str = "fabric/1 hub answer";
const JOIN_DOMAIN: &str = "fabric/1 hub join";

/// The ends of the chains that a hub has, by the key of each chain's hub.
pub type Heads = BTreeMap<SigningKey, Head>;

/// Asks for what the speaker lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pull {
    /// The hub that is addressed.
    pub to: SigningKey,
    /// The hub that speaks.
    pub from: SigningKey,
    /// Fresh random bytes.
    pub nonce: Blob,
    /// What the speaker has.
    pub have: Heads,
    /// Whether the answer may wait until there is something new.
    pub hold: bool,
}

/// What the asking hub lacks, in the order in which the answering one took it in.
#[derive(Serialize, Deserialize)]
pub struct Batch {
    /// The next entries, within the bounds of this module.
    pub entries: Vec<Entry>,
    /// The whole state, when the entries that are lacking are kept no longer.
    pub snapshot: Option<Snapshot>,
    /// What the answering hub has.
    pub heads: Heads,
    /// Its registry's digest, hexadecimal, when there is nothing new.
    pub digest: Option<String>,
    /// Its clock, seconds since 1970.
    pub now: u64,
    /// Set when both have an entry of one number that differs: one of them was restored from a backup and went on.
    pub forked: Option<SigningKey>,
}

/// A whole registry, for a hub that is too far behind.
#[derive(Serialize, Deserialize)]
pub struct Snapshot {
    /// Everything that is known.
    pub(crate) facts: Vec<FactText>,
    /// Up to which entries.
    pub(crate) heads: Heads,
    /// The generation.
    pub(crate) generation: u64,
}

/// A message of a hub, as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// The exact bytes (JSON) that were signed.
    pub payload: Blob,
    /// Ed25519 by the speaker; for a join HMAC-SHA256 by the invite's key.
    pub signature: Blob,
    /// A join alone: Ed25519 by the key that joins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub possession: Option<Blob>,
}

impl Signed {
    /// A request of this hub.
    pub fn pull(pull: &Pull, keys: &SigningKeyPair) -> Self {
        let payload = bytes_of(pull);
        let signature = Blob(keys.sign(REQUEST_DOMAIN, &[&payload]));
        Self { payload: Blob(payload), signature, possession: None }
    }

    /// The request, if the hub that it names sent it.
    pub fn open_pull(&self) -> Option<Pull> {
        let pull: Pull = serde_json::from_slice(&self.payload.0).ok()?;
        pull.from.verify(REQUEST_DOMAIN, &[&self.payload.0], &self.signature.0).then_some(pull)
    }

    /// A request to join, by an invite.
    pub fn join(request: &JoinRequest, mac: &MacKey, keys: &SigningKeyPair) -> Self {
        let payload = bytes_of(request);
        let signature = Blob(mac.sign(JOIN_DOMAIN, &[&payload]));
        let possession = Some(Blob(keys.sign(JOIN_DOMAIN, &[&payload])));
        Self { payload: Blob(payload), signature, possession }
    }

    /// What a request to join says; it means nothing before [`Signed::joins`] holds.
    pub fn read_join(&self) -> Option<JoinRequest> {
        serde_json::from_slice(&self.payload.0).ok()
    }

    /// Whether a request to join holds the invite's secret and the key that joins.
    pub fn joins(&self, request: &JoinRequest, mac: &MacKey) -> bool {
        let payload = &[self.payload.0.as_slice()];
        let possession = self.possession.as_ref();
        mac.verify(JOIN_DOMAIN, payload, &self.signature.0)
            && possession.is_some_and(|proof| request.signing_key.verify(JOIN_DOMAIN, payload, &proof.0))
    }

    /// An answer to the request with this body.
    pub fn answer<T: Serialize>(answer: &T, body: &[u8], keys: &SigningKeyPair) -> Self {
        let payload = bytes_of(answer);
        let signature = Blob(keys.sign(ANSWER_DOMAIN, &[&sha256(body), &payload]));
        Self { payload: Blob(payload), signature, possession: None }
    }

    /// The answer, if this hub signed it for the request with this body.
    pub fn open_answer<T: DeserializeOwned>(&self, body: &[u8], hub: &SigningKey) -> Option<T> {
        let parts = [&sha256(body)[..], &self.payload.0];
        let good = hub.verify(ANSWER_DOMAIN, &parts, &self.signature.0);
        good.then(|| serde_json::from_slice(&self.payload.0).ok()).flatten()
    }
}

/// A second hub asks to join. The invite is good for one key: the same request again gets the same answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// By which invite.
    pub invite: InviteId,
    /// The hub that is addressed.
    pub to: SigningKey,
    /// Its WireGuard key.
    pub wireguard_key: WireguardKey,
    /// Its signing key.
    pub signing_key: SigningKey,
    /// Where leaves and the other hub reach its WireGuard.
    pub endpoints: Vec<Endpoint>,
}

/// What a hub that joined needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinAnswer {
    /// All hubs, the one that joined among them.
    pub hubs: Vec<HubRecord>,
    /// The prefix of all overlay addresses.
    pub overlay_prefix: Ipv4Net,
    /// The foyer.
    pub foyer_prefix: Ipv4Net,
    /// The hubs' address in the foyer.
    pub foyer_hub: Ipv4Addr,
    /// The fabric's autonomous system.
    pub asn: u32,
}

impl JoinAnswer {
    /// The record of the hub with this key.
    pub fn record(&self, key: &SigningKey) -> Option<&HubRecord> {
        self.hubs.iter().find(|hub| hub.node.signing_key == *key)
    }
}

/// How a hub stands with the other one, seen from here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaView {
    /// The other hub.
    pub hub: HubNode,
    /// `in-step`, `behind`, `silent`, `forked`, or `starting`.
    pub state: String,
    /// How many of its entries are lacking here, by its last answer.
    pub lag_entries: u64,
    /// How long ago it last answered, in seconds; none: never since the start.
    pub answered_secs_ago: Option<u64>,
    /// By how much its clock is ahead of this one, in seconds.
    pub clock_ahead_secs: i64,
    /// Its registry's digest, by its last answer.
    pub digest: Option<String>,
    /// Why the last attempt failed, if it did.
    pub error: Option<String>,
}

/// Where the chains of a registry begin after a snapshot was taken over.
pub(crate) fn checkpoints(heads: &Heads, keys: &SigningKeyPair) -> Vec<Checkpoint> {
    heads.iter().map(|(origin, head)| Checkpoint::sign(keys, *origin, *head)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request is its speaker's own, and an answer belongs to one request of one hub.
    #[test]
    fn messages_are_bound_to_speaker_and_request() {
        let (a, b) = (SigningKeyPair::from_seed(&[1; 32]), SigningKeyPair::from_seed(&[2; 32]));
        let nonce = Blob(vec![9; 16]);
        let (to, from) = (b.public(), a.public());
        let pull = Pull { to, from, nonce, have: Heads::new(), hold: false };
        assert_eq!(Signed::pull(&pull, &a).open_pull(), Some(pull.clone()));
        assert_eq!(Signed::pull(&pull, &b).open_pull(), None, "signed by another hub");
        let answer = Signed::answer(&7u8, b"question", &b);
        assert_eq!(answer.open_answer(b"question", &b.public()), Some(7u8));
        assert_eq!(answer.open_answer::<u8>(b"another", &b.public()), None);
        assert_eq!(answer.open_answer::<u8>(b"question", &a.public()), None);
    }
}
