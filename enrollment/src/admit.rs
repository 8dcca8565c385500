//! The judgement: state, request and time in; changes or a refusal out. Nothing here touches the outside.

use crate::approval::{Gate, gate};
use crate::claim::{Claim, ClaimStep};
use crate::identity::LeafName;
use crate::life;
use crate::policy::InviteOrder;
use crate::reason::{ReasonCode, Refusal};
use crate::registry::{Change, InviteRecord, InviteStatus, Leaf, State, numbered};
use crate::wire::{
    AddClaimRequest, EnrollRequest, Envelope, Head, LeaveRequest, Operation, POSSESSION_DOMAIN,
    ReleaseClaimRequest, RenewRequest, RotateRequest,
};
use crate::{
    identity::InviteId,
    invite::{Invite, InviteHub, InviteSecret},
};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// What was decided: whom the answer is about and what must be stored before it goes out (nothing = nothing changed).
#[derive(Clone)]
pub struct Decision {
    /// The leaf that the answer describes.
    pub leaf: LeafName,
    /// To be stored in one transaction, then applied.
    pub changes: Vec<Change>,
    /// What the leaf is told instead of its admission, once the changes are stored.
    pub refusal: Option<Refusal>,
}

impl Decision {
    fn granted(leaf: &LeafName, changes: Vec<Change>) -> Self {
        Self { leaf: leaf.clone(), changes, refusal: None }
    }
}

/// By which door a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Through WireGuard: from the foyer, or from a leaf's own overlay address.
    Tunnel,
    /// Over TLS on the underlay; whoever can reach it may ask to enroll, and nothing else.
    Tls,
}

/// Where a request came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The address inside the tunnel, or of the connection.
    pub source: IpAddr,
    /// The address on the underlay, where the hub could tell.
    pub underlay: Option<IpAddr>,
    /// The door.
    pub door: Door,
}

impl From<IpAddr> for Origin {
    fn from(source: IpAddr) -> Self {
        Self { source, underlay: None, door: Door::Tunnel }
    }
}

fn refuse<T>(code: ReasonCode) -> Result<T, Refusal> {
    Err(Refusal::of(code))
}

/// Judges a first request. The challenge has been used up by the caller; everything else is judged here, the
/// signature before anything that would tell a stranger about the registry.
pub fn enroll(
    state: &State,
    envelope: &Envelope,
    origin: impl Into<Origin>,
    now: u64,
) -> Result<Decision, Refusal> {
    let origin = origin.into();
    let request: EnrollRequest = envelope.open()?;
    let Some(invite) = state.invite(&request.invite).filter(|invite| !invite.for_hub) else {
        return refuse(ReasonCode::InviteUnknown);
    };
    let payload = &[envelope.payload.0.as_slice()];
    if !invite.mac_key.verify(Operation::Enroll.request_domain(), payload, &envelope.signature.0) {
        return refuse(ReasonCode::SignatureInvalid);
    }
    let proof = envelope.possession.as_ref();
    if !proof.is_some_and(|proof| request.signing_key.verify(POSSESSION_DOMAIN, payload, &proof.0)) {
        return refuse(ReasonCode::PossessionInvalid);
    }
    if request.hub != state.settings.signing_key {
        return refuse(ReasonCode::WrongHub);
    }
    let known = leaf_of_keys(state, &request)?;
    check_enroll_source(state, invite, &request, known.as_deref(), origin)?;
    let mut changes = Vec::new();
    let leaf = match known {
        Some(leaf) => enroll_again(state, invite, &leaf, now, &mut changes)?,
        None => match gate(state, invite, &request, origin.underlay, now)? {
            Gate::Open(before) => enroll_new(state, invite, &request, before, now, &mut changes)?,
            Gate::Wait(changes, refusal) => {
                check_open(invite, now)?;
                return Ok(Decision { leaf: invite.site.clone(), changes, refusal: Some(refusal) });
            }
        },
    };
    let wanted: BTreeSet<Ipv4Addr> = request.claims.iter().copied().collect();
    add_claims(state, &leaf, &wanted, now, &mut changes)?;
    Ok(Decision::granted(&leaf.name, changes))
}

/// The leaf that has both keys of the request; none if neither is known.
fn leaf_of_keys(state: &State, request: &EnrollRequest) -> Result<Option<Arc<Leaf>>, Refusal> {
    let keys = [&request.wireguard_key.0, &request.signing_key.0];
    if let Some(revoked) = keys.iter().find_map(|key| state.revoked_key(key)) {
        let message = format!("this key was revoked with leaf {}", revoked.leaf);
        return Err(Refusal::new(ReasonCode::LeaseRevoked, message));
    }
    let own = |rival: &&Arc<Leaf>| rival.signing_key == request.signing_key;
    if let Some(rival) = state.all_rivals().find(own) {
        let message = format!("another machine was admitted as {} before this one", rival.name);
        return Err(Refusal::new(ReasonCode::NameLost, message));
    }
    match keys.map(|key| state.leaf_of_key(key)) {
        [None, None] if keys.iter().any(|key| state.key_is_fabric_own(key)) || keys[0] == keys[1] => {
            refuse(ReasonCode::KeyTaken)
        }
        [None, None] => Ok(None),
        [Some(a), Some(b)] if a == b => {
            let leaf = state.leaf(a).filter(|leaf| {
                leaf.wireguard_key == request.wireguard_key && leaf.signing_key == request.signing_key
            });
            leaf.cloned().map(Some).ok_or_else(|| Refusal::of(ReasonCode::KeyTaken))
        }
        _ => refuse(ReasonCode::KeyTaken),
    }
}

/// Whether a request for the place of a leaf comes through that leaf's own tunnel: the machine replaces itself.
fn replaces_itself(state: &State, invite: &InviteRecord, request: &EnrollRequest, source: IpAddr) -> bool {
    let place = state.leaf(&invite.site).filter(|leaf| leaf.revoked.is_none() && invite.uses == 1);
    (request.replace || invite.replace) && place.is_some_and(|leaf| source == IpAddr::V4(leaf.overlay))
}

/// The foyer address must be the invite's own; an overlay address must be that of the leaf that enrolls again, or
/// whose machine replaces itself. Over TLS the connection's address is that of the underlay.
fn check_enroll_source(
    state: &State,
    invite: &InviteRecord,
    request: &EnrollRequest,
    known: Option<&Leaf>,
    origin: Origin,
) -> Result<(), Refusal> {
    let source = origin.source;
    let own_foyer = source == IpAddr::V4(invite.foyer);
    let tunnel = origin.door == Door::Tunnel;
    let own_overlay = tunnel && known.is_some_and(|leaf| source == IpAddr::V4(leaf.overlay));
    let foyer = matches!(source, IpAddr::V4(ip) if state.settings.foyer_prefix.contains(&ip));
    let itself = tunnel && known.is_none() && replaces_itself(state, invite, request, source);
    if tunnel && !(own_overlay || itself || (foyer && own_foyer)) {
        let message =
            format!("{source} is neither this invite's foyer address nor this leaf's overlay address");
        return Err(Refusal::new(ReasonCode::SourceForbidden, message));
    }
    // A leaf that speaks through its own tunnel was judged when it joined.
    if own_overlay || invite.sources.is_empty() {
        return Ok(());
    }
    let message = match origin.underlay {
        Some(underlay) if invite.sources.iter().any(|prefix| prefix.contains(&underlay)) => return Ok(()),
        Some(underlay) => format!("the invite does not hold for {underlay}"),
        None => {
            "the hub cannot tell this machine's underlay address, and the invite holds for some only".into()
        }
    };
    Err(Refusal::new(ReasonCode::UnderlayForbidden, message))
}

pub(crate) fn check_open(invite: &InviteRecord, now: u64) -> Result<(), Refusal> {
    match invite.status(now) {
        InviteStatus::Open => Ok(()),
        InviteStatus::Spent => refuse(ReasonCode::InviteSpent),
        InviteStatus::Expired => refuse(ReasonCode::InviteExpired),
        InviteStatus::Revoked => refuse(ReasonCode::InviteRevoked),
    }
}

pub(crate) fn spend(invite: &InviteRecord, now: u64) -> Change {
    let used = invite.used.saturating_add(1);
    let spent_at = (used >= invite.uses).then_some(now);
    Change::Invite(Arc::new(InviteRecord { used, spent_at, ..invite.clone() }))
}

/// The same machine again: by the same invite it changes nothing; by another one of its site it widens what it may.
fn enroll_again(
    state: &State,
    invite: &InviteRecord,
    leaf: &Arc<Leaf>,
    now: u64,
    changes: &mut Vec<Change>,
) -> Result<Arc<Leaf>, Refusal> {
    let lease_due = leaf.valid_until.saturating_sub(now) < state.settings.lease_secs / 3 * 2;
    let mut next = Leaf::clone(leaf);
    if leaf.invite != invite.id {
        if leaf.site != invite.site {
            let message = format!("these keys belong to leaf {}", leaf.name);
            return Err(Refusal::new(ReasonCode::KeyTaken, message));
        }
        check_open(invite, now)?;
        changes.push(spend(invite, now));
        next.permitted.extend(invite.permitted.iter().filter(|p| !leaf.permitted.contains(p)));
        next.permitted.sort();
        next.max_claims = next.max_claims.max(invite.max_claims);
        next.invite = invite.id;
    } else if !lease_due {
        return Ok(leaf.clone());
    }
    next.valid_until = now.saturating_add(state.settings.lease_secs);
    next.last_seen = now;
    let next = Arc::new(next);
    changes.push(Change::Leaf(next.clone()));
    Ok(next)
}

/// A machine that the hub does not know.
fn enroll_new(
    state: &State,
    invite: &InviteRecord,
    request: &EnrollRequest,
    replaced: Option<Arc<Leaf>>,
    now: u64,
    changes: &mut Vec<Change>,
) -> Result<Arc<Leaf>, Refusal> {
    let approved = state.pending(&request.signing_key).is_some();
    // A person's word may come after the invite's time; it must not come after its withdrawal or last use.
    if !(approved && invite.status(now) == InviteStatus::Expired) {
        check_open(invite, now)?;
    }
    if approved {
        changes.push(Change::PendingGone(request.signing_key));
    }
    let name = match &replaced {
        Some(leaf) => leaf.name.clone(),
        None => new_name(state, invite)?,
    };
    let (mut permitted, mut max_claims) = (invite.permitted.clone(), invite.max_claims);
    if let Some(leaf) = &replaced {
        changes.extend(life::revoke_keys(leaf));
        permitted.extend(leaf.permitted.iter().filter(|prefix| !invite.permitted.contains(prefix)));
        permitted.sort();
        max_claims = max_claims.max(leaf.max_claims);
    }
    // A revoked or replaced leaf's place comes back to the new machine of its site.
    let before = state.leaf(&name);
    let overlay = match before {
        Some(before) => before.overlay,
        None => state.free_overlay().ok_or_else(|| Refusal::of(ReasonCode::OverlayFull))?,
    };
    let leaf = Arc::new(Leaf {
        name,
        site: invite.site.clone(),
        overlay,
        wireguard_key: request.wireguard_key,
        signing_key: request.signing_key,
        permitted,
        max_claims,
        counter: 0,
        invite: invite.id,
        enrolled_at: now,
        valid_until: now.saturating_add(state.settings.lease_secs),
        last_seen: now,
        revoked: None,
        former: None,
        keys_since: now,
        joined_key: None,
        version: 0,
    });
    changes.push(spend(invite, now));
    changes.push(Change::Leaf(leaf.clone()));
    Ok(leaf)
}

/// The site's name, or with several uses the lowest free `SITE-N`.
fn new_name(state: &State, invite: &InviteRecord) -> Result<LeafName, Refusal> {
    if invite.uses > 1 {
        let free = state.free_number(&invite.site).and_then(|number| numbered(&invite.site, number));
        return free.ok_or_else(|| Refusal::of(ReasonCode::OverlayFull));
    }
    match state.leaf(&invite.site).map(|leaf| leaf.revoked) {
        None if state.name_is_reserved(&invite.site) => {
            let message = format!("{} has a stored record that the hub cannot read", invite.site);
            Err(Refusal::new(ReasonCode::SiteTaken, message))
        }
        None => Ok(invite.site.clone()),
        // The time counts too: a hub that had not heard of the revocation may be ahead in generations.
        Some(Some(revoked))
            if invite.created_generation > revoked.generation && invite.created_at >= revoked.at =>
        {
            Ok(invite.site.clone())
        }
        Some(Some(_)) => {
            let message = format!("leaf {} was revoked after this invite was made", invite.site);
            Err(Refusal::new(ReasonCode::LeaseRevoked, message))
        }
        Some(None) => {
            let message = format!("another machine is enrolled as {}", invite.site);
            Err(Refusal::new(ReasonCode::SiteTaken, message))
        }
    }
}

/// Adds those of the wished claims that the leaf does not own yet: all of them, or none and the reason.
fn add_claims(
    state: &State,
    leaf: &Leaf,
    wanted: &BTreeSet<Ipv4Addr>,
    now: u64,
    changes: &mut Vec<Change>,
) -> Result<(), Refusal> {
    let mut count = state.claim_count(&leaf.name);
    let mut generation = state.claim_generation;
    for address in wanted {
        if let Some((owner, _)) = state.owner(address) {
            if *owner == leaf.name {
                continue;
            }
            return Err(Refusal::conflict(*address, owner));
        }
        count += 1;
        client_refusal(state, leaf, *address, count)?;
        generation = state.claim_generation_after(generation);
        let claim = Claim { generation, since: now };
        changes.push(Change::ClaimAdded { address: *address, leaf: leaf.name.clone(), claim });
    }
    Ok(())
}

/// Whether a leaf may own an address as its claim number `count`.
pub(crate) fn client_refusal(
    state: &State,
    leaf: &Leaf,
    address: Ipv4Addr,
    count: usize,
) -> Result<(), Refusal> {
    state.settings.check_client_address(address)?;
    if !leaf.permitted.iter().any(|prefix| prefix.contains(&address)) {
        let permitted: Vec<String> = leaf.permitted.iter().map(ToString::to_string).collect();
        let message = format!("{address} is outside {}", permitted.join(", "));
        return Err(Refusal::new(ReasonCode::ClaimNotPermitted, message).about(address));
    }
    if count > leaf.max_claims as usize {
        let message = format!("{address} would be claim number {count} of at most {}", leaf.max_claims);
        return Err(Refusal::new(ReasonCode::ClaimLimit, message).about(address));
    }
    Ok(())
}

/// Judges a later request, signed by the leaf's own key. `operation` is neither `Challenge` nor `Enroll`.
pub fn leaf_request(
    state: &State,
    operation: Operation,
    envelope: &Envelope,
    source: IpAddr,
    now: u64,
) -> Result<Decision, Refusal> {
    match operation {
        Operation::Topology | Operation::Rejected => {
            let request: RenewRequest = envelope.open()?;
            let leaf = speaker(state, operation, &request.head, envelope, source, now)?;
            Ok(Decision::granted(&leaf.name, Vec::new()))
        }
        Operation::Renew => {
            let request: RenewRequest = envelope.open()?;
            let leaf = counted(state, operation, &request.head, envelope, source, now)?;
            Ok(Decision::granted(&leaf.name, vec![seen(state, leaf, &request.head, now)]))
        }
        Operation::AddClaim => {
            let request: AddClaimRequest = envelope.open()?;
            let leaf = counted(state, operation, &request.head, envelope, source, now)?;
            let mut changes = vec![seen(state, leaf, &request.head, now)];
            add_claims(state, leaf, &BTreeSet::from([request.address]), now, &mut changes)?;
            Ok(Decision::granted(&leaf.name, changes))
        }
        Operation::ReleaseClaim => {
            let request: ReleaseClaimRequest = envelope.open()?;
            let leaf = counted(state, operation, &request.head, envelope, source, now)?;
            let mut changes = vec![seen(state, leaf, &request.head, now)];
            changes.push(release(state, leaf, &request)?);
            Ok(Decision::granted(&leaf.name, changes))
        }
        Operation::Rotate => {
            let request: RotateRequest = envelope.open()?;
            let leaf = counted(state, operation, &request.head, envelope, source, now)?;
            let seen = seen_leaf(state, leaf, &request.head, now);
            Ok(Decision::granted(&leaf.name, life::rotate(state, seen, &request, envelope, now)?))
        }
        Operation::Leave => {
            let request: LeaveRequest = envelope.open()?;
            let leaf = counted(state, operation, &request.head, envelope, source, now)?;
            let seen = seen_leaf(state, leaf, &request.head, now);
            Ok(Decision::granted(&leaf.name, life::leave(state, &seen, now)))
        }
        Operation::Challenge | Operation::Enroll => refuse(ReasonCode::EndpointUnknown),
    }
}

/// Who speaks, if it proves it and may.
fn speaker<'a>(
    state: &'a State,
    operation: Operation,
    head: &Head,
    envelope: &Envelope,
    source: IpAddr,
    now: u64,
) -> Result<&'a Arc<Leaf>, Refusal> {
    let Some(leaf) = state.leaf(&head.leaf) else {
        return refuse(ReasonCode::LeafUnknown);
    };
    let payload = &[envelope.payload.0.as_slice()];
    let signed_by = |key: &crate::identity::SigningKey| {
        key.verify(operation.request_domain(), payload, &envelope.signature.0)
    };
    let former = leaf.former.as_ref().filter(|former| now < former.until);
    if !signed_by(&leaf.signing_key) && !former.is_some_and(|former| signed_by(&former.signing_key)) {
        if state.rivals(&head.leaf).any(|rival| rival.revoked.is_none() && signed_by(&rival.signing_key)) {
            let message = format!("another machine was admitted as {} before this one", head.leaf);
            return Err(Refusal::new(ReasonCode::NameLost, message));
        }
        let revoked = state.revoked_signing_keys(&head.leaf).any(signed_by);
        return refuse(if revoked { ReasonCode::LeaseRevoked } else { ReasonCode::SignatureInvalid });
    }
    if let Some(revoked) = leaf.revoked {
        return refuse(if revoked.left { ReasonCode::LeafLeft } else { ReasonCode::LeaseRevoked });
    }
    if head.hub != state.settings.signing_key {
        return refuse(ReasonCode::WrongHub);
    }
    if source != IpAddr::V4(leaf.overlay) {
        let message = format!("leaf {} speaks from {}, not from {source}", leaf.name, leaf.overlay);
        return Err(Refusal::new(ReasonCode::SourceForbidden, message));
    }
    Ok(leaf)
}

/// The speaker, if its counter is above the last one.
fn counted<'a>(
    state: &'a State,
    operation: Operation,
    head: &Head,
    envelope: &Envelope,
    source: IpAddr,
    now: u64,
) -> Result<&'a Arc<Leaf>, Refusal> {
    let leaf = speaker(state, operation, head, envelope, source, now)?;
    // The largest counter is kept out, so that one request cannot end a leaf's counting.
    if head.counter <= leaf.counter || head.counter > leaf.counter.saturating_add(1 << 32) {
        let message = format!("counter {} does not follow {}", head.counter, leaf.counter);
        let mut refusal = Refusal::new(ReasonCode::CounterStale, message);
        refusal.last_counter = Some(leaf.counter);
        return Err(refusal);
    }
    Ok(leaf)
}

/// The leaf after a request: its counter moved on and its lease prolonged.
fn seen(state: &State, leaf: &Leaf, head: &Head, now: u64) -> Change {
    Change::Leaf(Arc::new(seen_leaf(state, leaf, head, now)))
}

fn seen_leaf(state: &State, leaf: &Leaf, head: &Head, now: u64) -> Leaf {
    let valid_until = leaf.valid_until.max(now.saturating_add(state.settings.lease_secs));
    Leaf { counter: head.counter, last_seen: now, valid_until, ..leaf.clone() }
}

fn release(state: &State, leaf: &Leaf, request: &ReleaseClaimRequest) -> Result<Change, Refusal> {
    let owned = state.owner(&request.address).filter(|(owner, _)| *owner == leaf.name);
    let Some((_, claim)) = owned else {
        let moved = state.moves.get(&request.address).filter(|moving| moving.from == leaf.name);
        if moved.is_some() {
            // The former owner lets go before the new one's route is there: the move is over.
            return Ok(Change::MoveDone(request.address));
        }
        if let (Some((owner, claim)), Some(old)) = (state.owner(&request.address), request.generation)
            && old < claim.generation
        {
            let message = format!("the claim has generation {} and is {owner}'s", claim.generation);
            let mut refusal = Refusal::new(ReasonCode::ClaimStale, message).about(request.address);
            refusal.owner = Some(owner.to_string());
            return Err(refusal);
        }
        let message = format!("{} does not own {}", leaf.name, request.address);
        return Err(Refusal::new(ReasonCode::ClaimUnknown, message).about(request.address));
    };
    if let Some(generation) = request.generation.filter(|generation| *generation != claim.generation) {
        let message = format!("the claim has generation {}, not {generation}", claim.generation);
        return Err(Refusal::new(ReasonCode::ClaimStale, message).about(request.address));
    }
    let (address, leaf, claim) = (request.address, leaf.name.clone(), *claim);
    Ok(Change::ClaimRemoved { address, leaf, claim, step: ClaimStep::Released })
}

/// Makes an invite out of an order and fresh random bytes: the string's content, and what the hub stores of it.
pub fn invite(
    state: &State,
    order: InviteOrder,
    id: InviteId,
    secret: InviteSecret,
    now: u64,
) -> Result<(Invite, Change), Refusal> {
    let order = order.checked(&state.settings)?;
    // A mistyped name would let a new machine in under it, instead of replacing one.
    if order.replace && state.leaf(&order.site).is_none() {
        let message = format!("there is no leaf {} whose machine could be replaced", order.site);
        return Err(Refusal::new(ReasonCode::LeafUnknown, message));
    }
    if state.invite(&id).is_some() {
        return Err(Refusal::new(ReasonCode::InviteInvalid, "the random id exists already; ask again"));
    }
    let foyer = state.free_foyer(now).ok_or_else(|| Refusal::of(ReasonCode::FoyerFull))?;
    let record = InviteRecord {
        id,
        mac_key: secret.mac_key(),
        wireguard_key: secret.wireguard_key(),
        foyer,
        site: order.site,
        permitted: order.permitted,
        max_claims: order.max_claims,
        uses: order.uses,
        used: 0,
        used_at: [0; 2],
        last_used_at: None,
        for_hub: false,
        created_at: now,
        created_generation: state.generation,
        expires_at: now.saturating_add(order.expires_in_secs),
        spent_at: None,
        revoked_at: None,
        sources: order.sources,
        approve: order.approve,
        replace: order.replace,
    };
    let hub = &state.settings;
    let invite = Invite {
        id,
        secret,
        hub_endpoints: hub.endpoints.clone(),
        hub_wireguard_key: hub.wireguard_key,
        hub_signing_key: hub.signing_key,
        foyer_hub: hub.foyer_hub,
        foyer_address: foyer,
        foyer_prefix: hub.foyer_prefix,
        api_port: hub.api_port,
        site: record.site.clone(),
        permitted: record.permitted.clone(),
        max_claims: record.max_claims,
        expires_at: record.expires_at,
        uses: record.uses,
        further_hubs: further_hubs(state),
        tls: hub.tls.clone(),
    };
    Ok((invite, Change::Invite(Arc::new(record))))
}

/// The other hubs, as an invite names them: a leaf can join at any of them.
fn further_hubs(state: &State) -> Vec<InviteHub> {
    let others = state.hub_nodes().into_iter().skip(1);
    let hub = |node: crate::topology::HubNode| InviteHub {
        endpoints: node.endpoints,
        wireguard_key: node.wireguard_key,
        signing_key: node.signing_key,
    };
    others.map(hub).collect()
}

/// Withdraws an invite; doing it again changes nothing.
pub fn revoke_invite(state: &State, id: &InviteId, now: u64) -> Result<Vec<Change>, Refusal> {
    let Some(invite) = state.invite(id) else {
        return Err(Refusal::new(ReasonCode::InviteForeign, format!("there is no invite {id}")));
    };
    if invite.revoked_at.is_some() {
        return Ok(Vec::new());
    }
    Ok(vec![Change::Invite(Arc::new(InviteRecord { revoked_at: Some(now), ..InviteRecord::clone(invite) }))])
}
