//! What happens to a leaf after it joined: rotation, moved claims, leaving, revocation, being forgotten. Pure.

use crate::admit::{Decision, client_refusal, revoke_invite};
use crate::claim::{Claim, ClaimStep, Move};
use crate::identity::LeafName;
use crate::policy::{KEY_OVERLAP_SECS, MOVE_SECS};
use crate::reason::{ReasonCode, Refusal};
use crate::registry::{Change, FormerKeys, InviteStatus, Leaf, Revoked, State};
use crate::wire::{Envelope, ROTATE_POSSESSION_DOMAIN, RotateRequest};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Fresh keys for a leaf; `leaf` has been marked as seen. The former ones sign for a while longer, so that an answer
/// that got lost does no harm.
pub(crate) fn rotate(
    state: &State,
    leaf: Leaf,
    request: &RotateRequest,
    envelope: &Envelope,
    now: u64,
) -> Result<Vec<Change>, Refusal> {
    let payload = &[envelope.payload.0.as_slice()];
    let proof = envelope.possession.as_ref();
    if !proof.is_some_and(|p| request.signing_key.verify(ROTATE_POSSESSION_DOMAIN, payload, &p.0)) {
        return Err(Refusal::of(ReasonCode::PossessionInvalid));
    }
    let fresh = [&request.wireguard_key.0, &request.signing_key.0];
    if leaf.wireguard_key == request.wireguard_key && leaf.signing_key == request.signing_key {
        // Asked for again because the answer got lost.
        return Ok(vec![Change::Leaf(Arc::new(leaf))]);
    }
    let taken = |key: &&[u8; 32]| {
        state.leaf_of_key(key).is_some() || state.revoked_key(key).is_some() || state.key_is_fabric_own(key)
    };
    if fresh[0] == fresh[1] || fresh.iter().any(taken) {
        return Err(Refusal::of(ReasonCode::KeyTaken));
    }
    let mut changes = Vec::new();
    if let Some(older) = &leaf.former {
        changes.push(Change::KeysRevoked {
            leaf: leaf.name.clone(),
            wireguard_key: older.wireguard_key,
            signing_key: older.signing_key,
        });
    }
    let former = FormerKeys {
        wireguard_key: leaf.wireguard_key,
        signing_key: leaf.signing_key,
        until: now.saturating_add(KEY_OVERLAP_SECS),
    };
    let next = Leaf {
        wireguard_key: request.wireguard_key,
        signing_key: request.signing_key,
        former: Some(former),
        keys_since: now,
        ..leaf
    };
    changes.push(Change::Leaf(Arc::new(next)));
    Ok(changes)
}

/// The keys of a leaf, former ones too, never come back.
pub(crate) fn revoke_keys(leaf: &Leaf) -> impl Iterator<Item = Change> + use<> {
    let present = (leaf.wireguard_key, leaf.signing_key);
    let former = leaf.former.as_ref().map(|f| (f.wireguard_key, f.signing_key));
    let name = leaf.name.clone();
    std::iter::once(present).chain(former).map(move |(wireguard_key, signing_key)| Change::KeysRevoked {
        leaf: name.clone(),
        wireguard_key,
        signing_key,
    })
}

/// Ends a leaf: its claims are free, its moves over, its keys never come back.
fn end(state: &State, leaf: &Leaf, step: ClaimStep, revoked: Revoked) -> Vec<Change> {
    let name = &leaf.name;
    let removed = |(address, claim)| Change::ClaimRemoved { address, leaf: name.clone(), claim, step };
    let mut changes: Vec<Change> = state.claims_of(name).into_iter().map(removed).collect();
    let moves = state.moves.iter().filter(|(_, moving)| moving.from == *name || moving.to == *name);
    changes.extend(moves.map(|(address, _)| Change::MoveDone(*address)));
    changes.push(Change::Leaf(Arc::new(Leaf { revoked: Some(revoked), ..leaf.clone() })));
    changes.extend(revoke_keys(leaf));
    changes
}

/// A leaf's own wish to leave: its claims are free at once, its tunnel ends when it has heard the answer.
pub(crate) fn leave(state: &State, leaf: &Leaf, now: u64) -> Vec<Change> {
    end(state, leaf, ClaimStep::Left, Revoked { at: now, generation: state.generation, left: true })
}

/// Revokes a leaf: its keys never come back, its claims are free, and the invite that it joined by is closed.
/// Doing it again changes nothing.
pub fn revoke(state: &State, name: &LeafName, now: u64) -> Result<Decision, Refusal> {
    let Some(leaf) = state.leaf(name) else {
        return Err(Refusal::new(ReasonCode::LeafUnknown, format!("there is no leaf {name}")));
    };
    let mut changes = Vec::new();
    if leaf.revoked.is_none() {
        let revoked = Revoked { at: now, generation: state.generation, left: false };
        changes = end(state, leaf, ClaimStep::Revoked, revoked);
        if state.invite(&leaf.invite).is_some_and(|invite| invite.status(now) == InviteStatus::Open) {
            changes.extend(revoke_invite(state, &leaf.invite, now)?);
        }
    }
    Ok(Decision { leaf: name.clone(), changes, refusal: None })
}

/// Gives an owned address to another leaf, by the operator's word. The former owner may announce it until the new one
/// does; from now on its requests about it are refused, because the claim has a higher generation.
pub fn move_claim(state: &State, address: Ipv4Addr, to: &LeafName, now: u64) -> Result<Vec<Change>, Refusal> {
    let Some((from, former)) = state.owner(&address) else {
        let message = format!("nobody owns {address}; `routerctl claims add` on the leaf makes a claim");
        return Err(Refusal::new(ReasonCode::ClaimUnknown, message).about(address));
    };
    let Some(leaf) = state.leaf(to).filter(|leaf| leaf.revoked.is_none()) else {
        return Err(Refusal::new(ReasonCode::LeafUnknown, format!("there is no leaf {to}")));
    };
    if from == to {
        return Ok(Vec::new());
    }
    client_refusal(state, leaf, address, state.claim_count(to) + 1)?;
    let claim = Claim { generation: state.claim_generation_after(state.claim_generation), since: now };
    let moving = Move { from: from.clone(), former: *former, to: to.clone(), until: now + MOVE_SECS };
    Ok(vec![Change::ClaimMoved { address, moving, claim }])
}

/// The moves whose time is up.
pub fn overdue_moves(state: &State, now: u64) -> Vec<Change> {
    let over = state.moves.iter().filter(|(_, moving)| now >= moving.until);
    over.map(|(address, _)| Change::MoveDone(*address)).collect()
}

/// The leaves that have been gone for longer than the policy keeps them; none where it keeps them for ever.
pub fn forgettable_leaves(state: &State, now: u64) -> Vec<Change> {
    let Some(secs) = state.settings.forget_leaves_secs else { return Vec::new() };
    let gone_since = |leaf: &Leaf| leaf.revoked.map_or(leaf.valid_until, |revoked| revoked.at);
    let gone = state.leaves.values().filter(|leaf| now.saturating_sub(gone_since(leaf)) > secs);
    let mut changes = Vec::new();
    for leaf in gone {
        if leaf.revoked.is_none() {
            let revoked = Revoked { at: now, generation: state.generation, left: false };
            changes.extend(end(state, leaf, ClaimStep::Forgotten, revoked));
        }
        changes.push(Change::LeafForgotten(leaf.name.clone()));
    }
    changes
}
