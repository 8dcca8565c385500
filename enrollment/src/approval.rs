//! Machines that wait for a person's word, and the word. Pure.

use crate::identity::{InviteId, LeafName, SigningKey, WireguardKey};
use crate::policy::{WAITING_BESIDE_USES, WAITING_LIMIT, WAITING_SECS};
use crate::reason::{ReasonCode, Refusal};
use crate::registry::{Change, InviteRecord, Leaf, State};
use crate::signature::sha256;
use crate::wire::EnrollRequest;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// What the operator said, the weaker word first: where two hubs were told different things, the stronger holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Nothing yet.
    Waiting,
    /// It may join.
    Approved,
    /// It may not.
    Denied,
}

/// A machine that asked to join by an invite that needs approval, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// The key that signs for it.
    pub signing_key: SigningKey,
    /// Its WireGuard key.
    pub wireguard_key: WireguardKey,
    /// The invite by which it asks.
    pub invite: InviteId,
    /// The invite's site.
    pub site: LeafName,
    /// What it asks to own.
    pub claims: Vec<Ipv4Addr>,
    /// Where on the underlay it asked from, if the hub could tell.
    pub underlay: Option<IpAddr>,
    /// Whose place it wants.
    pub replaces: Option<LeafName>,
    /// When it asked, seconds since 1970.
    pub asked_at: u64,
    /// What the operator said.
    pub verdict: Verdict,
    /// When, seconds since 1970.
    pub decided_at: Option<u64>,
}

impl Pending {
    /// What a person compares on both sides: 8 bytes of the SHA-256 of both keys, in hexadecimal.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.signing_key, &self.wireguard_key)
    }

    /// What both hubs know of one machine's request: of two questions the later one, of two answers to one question the
    /// operator's word, and of two such words the refusal.
    pub(crate) fn join(&self, other: &Pending) -> Pending {
        let order = |p: &Pending| (p.asked_at, p.wireguard_key.0, p.invite.0, p.claims.clone());
        let same = self.invite == other.invite
            && self.wireguard_key == other.wireguard_key
            && self.claims == other.claims;
        let weight = |p: &Pending| (p.verdict, p.decided_at, p.asked_at);
        let other_wins = if same { weight(other) > weight(self) } else { order(other) > order(self) };
        if other_wins { other.clone() } else { self.clone() }
    }

    /// Whether a request is covered by what was asked: the same machine and invite, and no claim beside those shown.
    fn same_question(&self, invite: &InviteRecord, request: &EnrollRequest) -> bool {
        let shown = |claim: &Ipv4Addr| self.claims.contains(claim);
        self.invite == invite.id
            && self.wireguard_key == request.wireguard_key
            && request.claims.iter().all(shown)
    }
}

/// The fingerprint of a machine's two keys: 16 hexadecimal digits.
pub fn fingerprint(signing_key: &SigningKey, wireguard_key: &WireguardKey) -> String {
    let sum = sha256(&[signing_key.0, wireguard_key.0].concat());
    sum[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What stands between a machine and its admission.
pub(crate) enum Gate {
    /// Nothing; the machine takes the place of this leaf, if one is named.
    Open(Option<Arc<Leaf>>),
    /// The operator's word; what is stored, and what the machine is told.
    Wait(Vec<Change>, Refusal),
}

/// Judges whether a machine that the hub does not know may join now.
pub(crate) fn gate(
    state: &State,
    invite: &InviteRecord,
    request: &EnrollRequest,
    underlay: Option<IpAddr>,
    now: u64,
) -> Result<Gate, Refusal> {
    let active = |leaf: &&Arc<Leaf>| leaf.revoked.is_none() && invite.uses == 1;
    let taken = state.leaf(&invite.site).filter(active).cloned();
    let wants_place = taken.is_some() && (request.replace || invite.replace);
    let replaces = taken.filter(|_| wants_place);
    let permitted = invite.replace || replaces.is_none();
    if permitted && !invite.approve {
        return Ok(Gate::Open(replaces));
    }
    let known = state.pending(&request.signing_key).filter(|p| p.same_question(invite, request));
    match known.map(|p| p.verdict) {
        Some(Verdict::Approved) => return Ok(Gate::Open(replaces)),
        Some(Verdict::Denied) => return Err(Refusal::of(ReasonCode::ApprovalDenied)),
        Some(Verdict::Waiting) => return Ok(Gate::Wait(Vec::new(), waits(request))),
        None => {}
    }
    let waiting = |p: &&Arc<Pending>| p.verdict == Verdict::Waiting && p.signing_key != request.signing_key;
    let by_invite = state.pending.values().filter(waiting).filter(|p| p.invite == invite.id).count();
    let in_all = state.pending.values().filter(waiting).count();
    if by_invite >= invite.uses as usize + WAITING_BESIDE_USES || in_all >= WAITING_LIMIT {
        return Err(Refusal::of(ReasonCode::ApprovalFull));
    }
    let mut claims = request.claims.clone();
    claims.sort_unstable();
    let pending = Pending {
        signing_key: request.signing_key,
        wireguard_key: request.wireguard_key,
        invite: invite.id,
        site: invite.site.clone(),
        claims,
        underlay,
        replaces: replaces.map(|leaf| leaf.name.clone()),
        asked_at: now,
        verdict: Verdict::Waiting,
        decided_at: None,
    };
    Ok(Gate::Wait(vec![Change::Pending(Arc::new(pending))], waits(request)))
}

fn waits(request: &EnrollRequest) -> Refusal {
    let print = fingerprint(&request.signing_key, &request.wireguard_key);
    Refusal::new(ReasonCode::ApprovalPending, format!("waits for approval at the hub as {print}"))
}

/// Stores the operator's word on the machine that `what` names, by fingerprint or by site if only one waits there.
pub fn decide(
    state: &State,
    what: &str,
    verdict: Verdict,
    now: u64,
) -> Result<(Arc<Pending>, Vec<Change>), Refusal> {
    let unknown = |message: String| Refusal::new(ReasonCode::PendingUnknown, message);
    let by_print = state.pending.values().find(|pending| pending.fingerprint() == what);
    let waiting = |p: &&Arc<Pending>| p.verdict == Verdict::Waiting && p.site.as_str() == what;
    let mut by_site = state.pending.values().filter(waiting);
    let found = match (by_print, by_site.next(), by_site.next()) {
        (Some(found), _, _) | (None, Some(found), None) => found,
        (None, Some(_), Some(_)) => {
            return Err(unknown(format!("several machines wait for {what}: name one by its fingerprint")));
        }
        (None, None, _) => return Err(unknown(format!("{what}: nothing with this name waits"))),
    };
    let pending = Arc::new(Pending { verdict, decided_at: Some(now), ..Pending::clone(found) });
    let changed = found.verdict != verdict;
    let changes = if changed { vec![Change::Pending(pending.clone())] } else { Vec::new() };
    Ok((pending, changes))
}

/// The requests that nobody asks for any more.
pub fn forgettable(state: &State, now: u64) -> Vec<Change> {
    let old = |p: &&Arc<Pending>| now.saturating_sub(p.decided_at.unwrap_or(p.asked_at)) > WAITING_SECS;
    state.pending.values().filter(old).map(|p| Change::PendingGone(p.signing_key)).collect()
}
