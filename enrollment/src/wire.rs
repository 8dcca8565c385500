//! What travels between leaf and hub: requests, answers and the envelopes that carry their exact signed bytes.

use crate::identity::{InviteId, LeafName, SigningKey, WireguardKey};
use crate::reason::{ReasonCode, Refusal};
use crate::signature::{MacKey, SigningKeyPair, sha256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// The largest request body that the hub reads, in bytes.
pub const MAX_REQUEST_BYTES: usize = 16 * 1024;

/// The largest answer that a leaf reads, in bytes.
pub const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// What a leaf may ask of a hub: this and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Ask for a challenge.
    Challenge,
    /// Join by an invite.
    Enroll,
    /// Prolong the lease.
    Renew,
    /// Claim one more address.
    AddClaim,
    /// Give an address back.
    ReleaseClaim,
    /// Fetch admission and topology; changes nothing.
    Topology,
    /// Ask which of the leaf's own routes the hub rejects; changes nothing.
    Rejected,
    /// Replace both keys by fresh ones.
    Rotate,
    /// Leave the fabric.
    Leave,
}

impl Operation {
    /// All operations.
    pub const ALL: [Operation; 9] = [
        Operation::Challenge,
        Operation::Enroll,
        Operation::Renew,
        Operation::AddClaim,
        Operation::ReleaseClaim,
        Operation::Topology,
        Operation::Rejected,
        Operation::Rotate,
        Operation::Leave,
    ];

    /// The HTTP path; the method is always POST.
    pub const fn path(self) -> &'static str {
        match self {
            Operation::Challenge => "/v1/challenge",
            Operation::Enroll => "/v1/enroll",
            Operation::Renew => "/v1/renew",
            Operation::AddClaim => "/v1/claims/add",
            Operation::ReleaseClaim => "/v1/claims/release",
            Operation::Topology => "/v1/topology",
            Operation::Rejected => "/v1/rejected",
            Operation::Rotate => "/v1/rotate",
            Operation::Leave => "/v1/leave",
        }
    }

    /// The domain under which a request of this kind is signed.
    pub const fn request_domain(self) -> &'static str {
        match self {
            Operation::Challenge => "fabric/1 request challenge",
            Operation::Enroll => "fabric/1 request enroll",
            Operation::Renew => "fabric/1 request renew",
            Operation::AddClaim => "fabric/1 request claim add",
            Operation::ReleaseClaim => "fabric/1 request claim release",
            Operation::Topology => "fabric/1 request topology",
            Operation::Rejected => "fabric/1 request rejected",
            Operation::Rotate => "fabric/1 request rotate",
            Operation::Leave => "fabric/1 request leave",
        }
    }

    /// The domain under which the hub signs its answer to it.
    pub const fn answer_domain(self) -> &'static str {
        match self {
            Operation::Challenge => "fabric/1 answer challenge",
            Operation::Enroll => "fabric/1 answer enroll",
            Operation::Renew => "fabric/1 answer renew",
            Operation::AddClaim => "fabric/1 answer claim add",
            Operation::ReleaseClaim => "fabric/1 answer claim release",
            Operation::Topology => "fabric/1 answer topology",
            Operation::Rejected => "fabric/1 answer rejected",
            Operation::Rotate => "fabric/1 answer rotate",
            Operation::Leave => "fabric/1 answer leave",
        }
    }
}

/// The domain of the proof that the sender holds the signing key that an enroll request registers.
pub const POSSESSION_DOMAIN: &str = "fabric/1 possession enroll";

/// The domain of the proof that comes with an enroll request over TLS ([`Envelope::through_door`]).
pub const DOOR_DOMAIN: &str = "fabric/1 door enroll";

/// The same for a rotate request.
pub const ROTATE_POSSESSION_DOMAIN: &str = "fabric/1 possession rotate";

/// Bytes that travel as standard base64.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Blob(pub Vec<u8>);

impl TryFrom<String> for Blob {
    type Error = base64::DecodeError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        STANDARD.decode(text).map(Self)
    }
}

impl From<Blob> for String {
    fn from(blob: Blob) -> Self {
        STANDARD.encode(blob.0)
    }
}

impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Blob({} bytes)", self.0.len())
    }
}

/// A challenge issued by the hub: 32 random bytes, good for one request, from one address, for a short time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Blob", into = "Blob")]
pub struct Challenge(pub [u8; 32]);

impl TryFrom<Blob> for Challenge {
    type Error = &'static str;
    fn try_from(blob: Blob) -> Result<Self, Self::Error> {
        blob.0.try_into().map(Self).map_err(|_| "a challenge has 32 bytes")
    }
}

impl From<Challenge> for Blob {
    fn from(challenge: Challenge) -> Self {
        Blob(challenge.0.to_vec())
    }
}

/// A signed request: the payload's exact bytes and the signature over them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// The exact bytes (JSON) that were signed.
    pub payload: Blob,
    /// HMAC-SHA256 by the invite's key (enroll) or Ed25519 by the leaf's key (everything else).
    pub signature: Blob,
    /// Enroll and rotate alone: Ed25519 by the key that is registered, over the same payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub possession: Option<Blob>,
    /// Enroll over TLS alone: HMAC-SHA256 by what the invite's WireGuard key and the hub's have in common.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub door: Option<Blob>,
}

impl Envelope {
    /// The same request as it is made over TLS, with the proof that its sender holds the invite's WireGuard key. In the
    /// foyer the handshake proves it; without either, who has read the hub's registry could use its open invites.
    pub fn through_door(mut self, key: &MacKey) -> Self {
        self.door = Some(Blob(key.sign(DOOR_DOMAIN, &[&self.payload.0])));
        self
    }

    /// Whether that proof is there and right.
    pub fn came_through_door(&self, key: &MacKey) -> bool {
        self.door.as_ref().is_some_and(|proof| key.verify(DOOR_DOMAIN, &[&self.payload.0], &proof.0))
    }

    /// The first request, signed by the invite's key, with the proof of the leaf's own.
    pub fn enroll(request: &EnrollRequest, mac: &MacKey, keys: &SigningKeyPair) -> Self {
        let payload = bytes_of(request);
        let signature = Blob(mac.sign(Operation::Enroll.request_domain(), &[&payload]));
        let possession = Some(Blob(keys.sign(POSSESSION_DOMAIN, &[&payload])));
        Self { payload: Blob(payload), signature, possession, door: None }
    }

    /// A later request, signed by the leaf's own key.
    pub fn signed<T: Serialize>(operation: Operation, request: &T, keys: &SigningKeyPair) -> Self {
        let payload = bytes_of(request);
        let signature = Blob(keys.sign(operation.request_domain(), &[&payload]));
        Self { payload: Blob(payload), signature, possession: None, door: None }
    }

    /// A rotation, signed by the old key, with the proof of the new one.
    pub fn rotate(request: &RotateRequest, old: &SigningKeyPair, new: &SigningKeyPair) -> Self {
        let payload = bytes_of(request);
        let signature = Blob(old.sign(Operation::Rotate.request_domain(), &[&payload]));
        let possession = Some(Blob(new.sign(ROTATE_POSSESSION_DOMAIN, &[&payload])));
        Self { payload: Blob(payload), signature, possession, door: None }
    }

    /// The payload's content.
    pub fn open<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        serde_json::from_slice(&self.payload.0).map_err(|e| malformed(&e))
    }
}

/// Asks for a challenge; the nonce makes the signed answer belong to this question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChallengeRequest {
    /// Random bytes of the leaf's own.
    pub nonce: Challenge,
}

/// The hub's challenge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChallengeAnswer {
    /// To be put into the next request.
    pub challenge: Challenge,
    /// For how long it is good, in seconds.
    pub valid_secs: u64,
}

/// The first request of a leaf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrollRequest {
    /// The invite by which it joins.
    pub invite: InviteId,
    /// The hub that is addressed, by its signing key.
    pub hub: SigningKey,
    /// The hub's challenge.
    pub challenge: Challenge,
    /// The leaf's fresh WireGuard key.
    pub wireguard_key: WireguardKey,
    /// The leaf's fresh signing key.
    pub signing_key: SigningKey,
    /// The addresses that it claims at once.
    pub claims: Vec<Ipv4Addr>,
    /// It wants the place of the machine that is enrolled under the invite's site.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replace: bool,
}

/// What every later request says first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The leaf that speaks.
    pub leaf: LeafName,
    /// The hub that is addressed, by its signing key.
    pub hub: SigningKey,
    /// The hub's challenge.
    pub challenge: Challenge,
    /// Above every counter that this leaf used before.
    pub counter: u64,
}

/// Prolongs the lease, or (as a topology or rejected request) only asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// Who speaks.
    pub head: Head,
}

/// Routes that a [`RejectedAnswer`] holds at most.
pub const MAX_REJECTED_ROUTES: usize = 1_000;

/// What the hub rejects of the leaf that asks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedAnswer {
    /// The routes, the first ones by prefix.
    pub routes: Vec<RejectedRoute>,
    /// How many there are.
    pub total: u64,
}

/// One route that the hub rejects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RejectedRoute {
    /// The prefix.
    pub prefix: String,
    /// The next hop that it had.
    pub next_hop: std::net::IpAddr,
    /// The speaker's code, as `routerctl bgp rejected` on the hub shows it.
    pub reason: String,
}

/// Replaces both keys by fresh ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateRequest {
    /// Who speaks.
    pub head: Head,
    /// The fresh WireGuard key.
    pub wireguard_key: WireguardKey,
    /// The fresh signing key.
    pub signing_key: SigningKey,
}

/// Leaves the fabric: claims, tunnel and keys end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaveRequest {
    /// Who speaks.
    pub head: Head,
}

/// Claims one more address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddClaimRequest {
    /// Who speaks.
    pub head: Head,
    /// The address.
    pub address: Ipv4Addr,
}

/// Gives an address back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseClaimRequest {
    /// Who speaks.
    pub head: Head,
    /// The address.
    pub address: Ipv4Addr,
    /// Only if the claim still has this generation; a claim renewed since stays.
    pub generation: Option<u64>,
}

/// The hub's answer: granted, or refused with a reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer<T> {
    /// Here is what was asked for.
    Granted(T),
    /// Why not.
    Refused(Refusal),
}

/// An answer as it travels. Refusals that come before the request was read whole carry no signature
/// ([`ReasonCode::is_unsigned`]) and mean nothing but "try again".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedAnswer {
    /// The exact bytes (JSON of an [`Answer`]).
    pub payload: Blob,
    /// Ed25519 by the hub over the operation's answer domain, the SHA-256 of the request's body, and the payload.
    pub signature: Option<Blob>,
}

impl SignedAnswer {
    /// Signs an answer to the request with this body.
    pub fn sign<T: Serialize>(op: Operation, body: &[u8], answer: &Answer<T>, hub: &SigningKeyPair) -> Self {
        let payload = bytes_of(answer);
        let signature = hub.sign(op.answer_domain(), &[&sha256(body), &payload]);
        Self { payload: Blob(payload), signature: Some(Blob(signature)) }
    }

    /// A refusal from before the request was known.
    pub fn unsigned(refusal: Refusal) -> Self {
        Self { payload: Blob(bytes_of(&Answer::<()>::Refused(refusal))), signature: None }
    }

    /// The content, if the pinned hub signed it for the request with this body.
    pub fn open<T: DeserializeOwned>(
        &self,
        op: Operation,
        body: &[u8],
        hub: &SigningKey,
    ) -> Result<T, Refusal> {
        let invalid = |why: &str| Refusal::new(ReasonCode::AnswerInvalid, why);
        let Some(signature) = &self.signature else {
            return match serde_json::from_slice::<Answer<()>>(&self.payload.0) {
                Ok(Answer::Refused(refusal)) if refusal.code.is_unsigned() => Err(refusal),
                _ => Err(invalid("the answer is not signed")),
            };
        };
        if !hub.verify(op.answer_domain(), &[&sha256(body), &self.payload.0], &signature.0) {
            return Err(invalid("the answer's signature is not the pinned hub's for this request"));
        }
        match serde_json::from_slice(&self.payload.0) {
            Ok(Answer::Granted(content)) => Ok(content),
            Ok(Answer::Refused(refusal)) => Err(refusal),
            Err(e) => Err(invalid(&format!("the answer cannot be read: {e}"))),
        }
    }
}

/// JSON of one of this module's types.
pub(crate) fn bytes_of<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("types of the wire have string keys and no failing serializer")
}

/// A body that is not what the API expects.
pub(crate) fn malformed(error: &serde_json::Error) -> Refusal {
    Refusal::new(ReasonCode::RequestMalformed, format!("the request cannot be read: {error}"))
}
