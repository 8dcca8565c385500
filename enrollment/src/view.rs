//! What people and programs are shown: serde types without a secret in them.

use crate::approval::Verdict;
use crate::claim::ClaimStep;
use crate::identity::{InviteId, LeafName, SigningKey, WireguardKey};
use crate::reason::ReasonCode;
use crate::registry::{BadRecord, Contender, InviteStatus, Leaf, State};
use crate::topology::Admission;
use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};

/// How a leaf stands at the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeafPhase {
    /// Admitted, its lease holds.
    Admitted,
    /// Its lease ran out; it can still renew.
    Expired,
    /// Revoked by the operator.
    Revoked,
    /// It left by itself.
    Left,
    /// The other hub admitted another machine under this name first; it can only be told so.
    NameLost,
}

/// A leaf, seen from the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeafView {
    /// Its name.
    pub name: LeafName,
    /// How it stands.
    pub phase: LeafPhase,
    /// Its overlay address.
    pub overlay: Ipv4Addr,
    /// Its WireGuard key.
    pub wireguard_key: WireguardKey,
    /// What it owns.
    pub claims: Vec<Ipv4Addr>,
    /// Out of which prefixes it may claim.
    pub permitted: Vec<Ipv4Net>,
    /// How many addresses it may own.
    pub max_claims: u32,
    /// When it joined, seconds since 1970.
    pub enrolled_at: u64,
    /// When its lease ends, seconds since 1970.
    pub valid_until: u64,
    /// How long its lease still holds, in seconds.
    pub lease_left_secs: u64,
    /// How long ago it last asked for something, in seconds.
    pub last_seen_secs_ago: u64,
    /// How old its keys are, in seconds.
    pub keys_age_secs: u64,
    /// The BGP session that this hub itself has with it, in RFC 4271's words; none where it was not looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
}

/// A machine that asked to join by an invite that needs approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingView {
    /// What a person compares on both sides.
    pub fingerprint: String,
    /// The site that it wants to be.
    pub site: LeafName,
    /// What the operator said.
    pub verdict: Verdict,
    /// Where on the underlay it asked from.
    pub source: Option<IpAddr>,
    /// What it asks to own.
    pub claims: Vec<Ipv4Addr>,
    /// Whose place it wants.
    pub replaces: Option<LeafName>,
    /// Its WireGuard key.
    pub wireguard_key: WireguardKey,
    /// The invite by which it asks.
    pub invite: InviteId,
    /// How long ago it asked, in seconds.
    pub asked_secs_ago: u64,
}

/// A claim, seen from the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimView {
    /// The address.
    pub address: Ipv4Addr,
    /// Its owner.
    pub owner: LeafName,
    /// Its generation.
    pub generation: u64,
    /// For how long it is owned or waits, in seconds.
    pub age_secs: u64,
    /// Who may still announce it while it moves to its owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moving_from: Option<LeafName>,
    /// Set for a claim that does not own the address: whose was made first, or that its leaf lost its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
}

/// One entry of the claims' history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimHistoryView {
    /// When, seconds since 1970.
    pub at: u64,
    /// The address.
    pub address: Ipv4Addr,
    /// Whose it was or became.
    pub leaf: String,
    /// The generation of that ownership.
    pub generation: u64,
    /// What happened.
    pub step: ClaimStep,
}

/// An invite, seen from the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteView {
    /// Its public number.
    pub id: InviteId,
    /// The site's name.
    pub site: LeafName,
    /// What it is good for.
    pub status: InviteStatus,
    /// How many leaves may join by it.
    pub uses: u32,
    /// How many did.
    pub used: u32,
    /// Out of which prefixes its leaves may claim.
    pub permitted: Vec<Ipv4Net>,
    /// How many addresses each may own.
    pub max_claims: u32,
    /// When it ends, seconds since 1970.
    pub expires_at: u64,
    /// How long it still holds, in seconds.
    pub expires_in_secs: u64,
    /// From which underlay addresses it may be used; empty = any.
    #[serde(default)]
    pub sources: Vec<IpNet>,
    /// Whether a person approves each machine.
    #[serde(default)]
    pub approve: bool,
    /// Whether its machine takes the place of the one enrolled under the site's name.
    #[serde(default)]
    pub replace: bool,
}

/// One entry of the signed log, without any verifier in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntryView {
    /// The hub that decided, by its signing key.
    pub origin: SigningKey,
    /// Its number among that hub's entries.
    pub seq: u64,
    /// When, seconds since 1970 on that hub's clock.
    pub at: u64,
    /// Who caused it: `admin`, `invite ID`, `leaf NAME` or `hub`.
    pub actor: String,
    /// What was done.
    pub operation: String,
    /// What it changed, a sentence each.
    pub changes: Vec<String>,
    /// Its SHA-256 in hexadecimal, which the next entry carries.
    pub hash: String,
}

/// An entry that does not belong where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditFault {
    /// Whose chain.
    pub origin: SigningKey,
    /// Which entry.
    pub seq: u64,
    /// What is wrong with it.
    pub why: String,
}

/// What following every chain of the log found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditReport {
    /// How many entries were followed and found whole.
    pub entries: u64,
    /// The last good entry of each hub, by its signing key.
    pub hubs: std::collections::BTreeMap<String, u64>,
    /// The first entry that is not as its hub made it.
    pub fault: Option<AuditFault>,
}

/// A machine that lost its name: while the hubs could not talk, the other admitted another one under it first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RivalView {
    /// The name that it was admitted under.
    pub name: LeafName,
    /// The overlay address that it has.
    pub overlay: Ipv4Addr,
    /// Its WireGuard key.
    pub wireguard_key: WireguardKey,
    /// When it was admitted, seconds since 1970.
    pub enrolled_at: u64,
    /// What it is told.
    pub reason: ReasonCode,
}

/// A claim that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingView {
    /// The address.
    pub address: Ipv4Addr,
    /// Whose claim it is.
    pub owner: LeafName,
    /// Whose claim was made first; none: the claim's machine lost its name.
    pub behind: Option<LeafName>,
    /// Its generation.
    pub generation: u64,
    /// Since when, seconds since 1970.
    pub since: u64,
    /// What its leaf is told.
    pub reason: ReasonCode,
}

/// The registry as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryView {
    /// Grows with each change.
    pub generation: u64,
    /// All leaves, revoked ones too.
    pub leaves: Vec<LeafView>,
    /// All claims.
    pub claims: Vec<ClaimView>,
    /// Machines that lost their name to one that was admitted first.
    #[serde(default)]
    pub rivals: Vec<RivalView>,
    /// Claims that wait behind an earlier one, or behind their leaf's name.
    #[serde(default)]
    pub waiting: Vec<WaitingView>,
    /// All invites that are remembered.
    pub invites: Vec<InviteView>,
    /// All machines that wait for approval or were judged.
    pub pending: Vec<PendingView>,
    /// Stored records that cannot be used; each blocks itself alone.
    pub bad_records: Vec<BadRecord>,
}

/// The view of a state at `now`.
pub fn registry(state: &State, now: u64) -> RegistryView {
    let shown = state.leaves.values().map(|leaf| (leaf, leaf_phase(leaf, now)));
    let rival = state.all_rivals().map(|leaf| (leaf, LeafPhase::NameLost));
    let leaves = shown.chain(rival).map(|(leaf, phase)| LeafView {
        name: leaf.name.clone(),
        phase,
        overlay: leaf.overlay,
        wireguard_key: leaf.wireguard_key,
        claims: match phase {
            LeafPhase::NameLost => Vec::new(),
            _ => state.claims_of(&leaf.name).into_keys().collect(),
        },
        permitted: leaf.permitted.clone(),
        max_claims: leaf.max_claims,
        enrolled_at: leaf.enrolled_at,
        valid_until: leaf.valid_until,
        lease_left_secs: leaf.valid_until.saturating_sub(now),
        last_seen_secs_ago: now.saturating_sub(leaf.last_seen),
        keys_age_secs: now.saturating_sub(leaf.keys_since.max(leaf.enrolled_at)),
        session: None,
    });
    let claims = state.owners.iter().map(|(address, (owner, claim))| ClaimView {
        address: *address,
        owner: owner.clone(),
        generation: claim.generation,
        age_secs: now.saturating_sub(claim.since),
        moving_from: state.moves.get(address).map(|moving| moving.from.clone()),
        waits: None,
    });
    let pending = state.pending.values().map(|pending| PendingView {
        fingerprint: pending.fingerprint(),
        site: pending.site.clone(),
        verdict: pending.verdict,
        source: pending.underlay,
        claims: pending.claims.clone(),
        replaces: pending.replaces.clone(),
        wireguard_key: pending.wireguard_key,
        invite: pending.invite,
        asked_secs_ago: now.saturating_sub(pending.asked_at),
    });
    let invites = state.invites.values().map(|invite| InviteView {
        id: invite.id,
        site: invite.site.clone(),
        status: invite.status(now),
        uses: invite.uses,
        used: invite.used,
        permitted: invite.permitted.clone(),
        max_claims: invite.max_claims,
        expires_at: invite.expires_at,
        expires_in_secs: invite.expires_at.saturating_sub(now),
        sources: invite.sources.clone(),
        approve: invite.approve,
        replace: invite.replace,
    });
    RegistryView {
        generation: state.generation,
        leaves: leaves.collect(),
        claims: claims.chain(waiting_claims(state, now)).collect(),
        invites: invites.collect(),
        pending: pending.collect(),
        rivals: rivals(state),
        waiting: waiting(state),
        bad_records: state.bad.clone(),
    }
}

fn leaf_phase(leaf: &Leaf, now: u64) -> LeafPhase {
    match leaf.revoked {
        Some(revoked) if revoked.left => LeafPhase::Left,
        Some(_) => LeafPhase::Revoked,
        None if now >= leaf.valid_until => LeafPhase::Expired,
        None => LeafPhase::Admitted,
    }
}

/// The claims that wait, as they stand in the list of claims.
fn waiting_claims(state: &State, now: u64) -> Vec<ClaimView> {
    let view = |waiting: WaitingView| ClaimView {
        address: waiting.address,
        owner: waiting.owner,
        generation: waiting.generation,
        age_secs: now.saturating_sub(waiting.since),
        moving_from: None,
        waits: Some(match waiting.behind {
            Some(owner) => format!("behind {owner}"),
            None => "for its leaf's name".into(),
        }),
    };
    waiting(state).into_iter().map(view).collect()
}

fn rivals(state: &State) -> Vec<RivalView> {
    let view = |leaf: &std::sync::Arc<Leaf>| RivalView {
        name: leaf.name.clone(),
        overlay: leaf.overlay,
        wireguard_key: leaf.wireguard_key,
        enrolled_at: leaf.enrolled_at,
        reason: ReasonCode::NameLost,
    };
    state.all_rivals().map(view).collect()
}

fn waiting(state: &State) -> Vec<WaitingView> {
    let view = |(address, waiting): (Ipv4Addr, &Contender)| {
        let behind = state.owner(&address).map(|(leaf, _)| leaf.clone());
        let reason = if behind.is_some() { ReasonCode::ClaimConflict } else { ReasonCode::NameLost };
        let (owner, generation, since) =
            (waiting.leaf.clone(), waiting.claim.generation, waiting.claim.since);
        WaitingView { address, owner, behind, generation, since, reason }
    };
    state.all_waiting().map(view).collect()
}

/// How a leaf stands, seen from itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientPhase {
    /// Not admitted yet.
    Pending,
    /// Admitted, and the hub answered lately.
    Ready,
    /// The hub does not answer; everything is kept as it was (fail static).
    Stale,
    /// The hub did not answer for longer than the fail-static time.
    Expired,
    /// The hub said that the lease is revoked.
    Revoked,
}

impl ClientPhase {
    /// The phase that follows from the last admission and how long the hub has been silent.
    /// A hub counts as silent after `grace_secs`.
    pub fn of(admission: Option<&Admission>, revoked: bool, silent_secs: u64, grace_secs: u64) -> Self {
        match admission {
            _ if revoked => ClientPhase::Revoked,
            None => ClientPhase::Pending,
            Some(_) if silent_secs <= grace_secs => ClientPhase::Ready,
            Some(admission) if silent_secs < admission.topology.fail_static_secs => ClientPhase::Stale,
            Some(_) => ClientPhase::Expired,
        }
    }
}

/// The status of `SAMEnrollmentClient`: the leaf's enrollment, seen from itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientView {
    /// How it stands.
    pub phase: ClientPhase,
    /// The same in words, with times when stale: `Stale 00:12/12:00`.
    pub phase_text: String,
    /// Why it is not ready, if the hub or the leaf gave a reason.
    pub reason: Option<ReasonCode>,
    /// The reason in a sentence.
    pub message: Option<String>,
    /// Its name.
    pub leaf: Option<LeafName>,
    /// Its overlay address.
    pub overlay: Option<Ipv4Addr>,
    /// The hub's overlay address.
    pub hub: Option<Ipv4Addr>,
    /// What it owns, by the hub's last answer.
    pub claims: Vec<Ipv4Addr>,
    /// When the lease ends on the hub's clock, seconds since 1970.
    pub valid_until: Option<u64>,
    /// How long ago the hub last answered, in seconds.
    pub last_answer_secs_ago: Option<u64>,
    /// By how much the leaf's clock is ahead of the hub's, in seconds, at the last answer.
    pub clock_ahead_secs: Option<i64>,
    /// How it stands with taking its own place with fresh keys (`enroll --replace`): that it waits for approval, or why
    /// it was not let; meanwhile it goes on as it was.
    #[serde(default)]
    pub replacement: Option<String>,
}

impl ClientView {
    /// The view of an admission and the time since the hub last answered.
    pub fn of(admission: Option<&Admission>, phase: ClientPhase, silent_secs: Option<u64>) -> Self {
        let fail_static = admission.map(|a| a.topology.fail_static_secs);
        let phase_text = match (phase, silent_secs, fail_static) {
            (ClientPhase::Stale | ClientPhase::Expired, Some(silent), Some(limit)) => {
                format!("{phase:?} {}/{}", hours_minutes(silent), hours_minutes(limit))
            }
            _ => format!("{phase:?}"),
        };
        Self {
            phase,
            phase_text,
            reason: None,
            message: None,
            leaf: admission.map(|a| a.leaf.clone()),
            overlay: admission.map(|a| a.overlay),
            hub: admission.and_then(|a| a.topology.hubs.first()).map(|hub| hub.overlay),
            claims: admission.map(|a| a.claims.keys().copied().collect()).unwrap_or_default(),
            valid_until: admission.map(|a| a.valid_until),
            last_answer_secs_ago: silent_secs,
            clock_ahead_secs: None,
            replacement: None,
        }
    }
}

fn hours_minutes(secs: u64) -> String {
    format!("{:02}:{:02}", secs / 3600, secs / 60 % 60)
}

/// How a hub stands with the database that holds the registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseView {
    /// Where it is; never with a password.
    pub address: String,
    /// `in-step`, `lost`, or `starting`.
    pub state: String,
    /// For how long that has been so, in seconds.
    pub since_secs: u64,
    /// Up to which position this hub has the database's log.
    pub position: u64,
    /// Whether the database tells of other hubs' decisions; else it is asked four times a second.
    pub notifications: bool,
    /// How the connection is encrypted, in libpq's words (`sslmode`).
    pub tls: String,
    /// Why it cannot be used, if so.
    pub error: Option<String>,
}
