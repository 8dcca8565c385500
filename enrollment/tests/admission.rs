//! The judgement as tables and properties: pure, no clock, no disk.

mod common;

use common::*;
use enrollment::identity::{LeafName, SigningKey, WireguardKey};
use enrollment::invite::Invite;
use enrollment::io::keys::NodeKeys;
use enrollment::policy::{InviteOrder, TOMBSTONE_LIMIT, TOMBSTONE_SECS};
use enrollment::reason::{ReasonCode, Refusal};
use enrollment::registry::{Admissions, State};
use enrollment::wire::{
    AddClaimRequest, Challenge, Envelope, Operation, POSSESSION_DOMAIN, ReleaseClaimRequest, RenewRequest,
};
use enrollment::{admit, life};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

const CHALLENGE: Challenge = Challenge([6; 32]);

struct World {
    state: State,
    hub: NodeKeys,
    now: u64,
    next: u64,
}

impl World {
    fn new() -> Self {
        let hub = keys(1000);
        Self { state: State::new(Arc::new(settings(&hub))), hub, now: NOW, next: 0 }
    }

    fn invite(&mut self, order: InviteOrder) -> Result<Invite, Refusal> {
        self.next += 1;
        let (id, secret) = secret(self.next);
        let (invite, change) = admit::invite(&self.state, order, id, secret, self.now)?;
        self.state.apply(&[change], self.now);
        Ok(invite)
    }

    fn apply(&mut self, decision: Result<admit::Decision, Refusal>) -> Result<LeafName, Refusal> {
        let decision = decision?;
        if !decision.changes.is_empty() {
            self.state.apply(&decision.changes, self.now);
        }
        Ok(decision.leaf)
    }

    fn enroll(&mut self, invite: &Invite, keys: &NodeKeys, claims: &[Ipv4Addr]) -> Result<LeafName, Refusal> {
        let envelope = enroll_envelope(invite, keys, CHALLENGE, claims);
        self.enroll_by(&envelope, invite.foyer_address)
    }

    fn enroll_by(&mut self, envelope: &Envelope, source: Ipv4Addr) -> Result<LeafName, Refusal> {
        self.apply(admit::enroll(&self.state, envelope, IpAddr::V4(source), self.now))
    }

    fn later(&mut self, leaf: &LeafName, op: Operation, envelope: &Envelope) -> Result<LeafName, Refusal> {
        let source = self.state.leaf(leaf).map_or(Ipv4Addr::LOCALHOST, |leaf| leaf.overlay);
        self.apply(admit::leaf_request(&self.state, op, envelope, IpAddr::V4(source), self.now))
    }

    fn next_head(&self, leaf: &LeafName) -> enrollment::wire::Head {
        let counter = self.state.leaf(leaf).map_or(0, |leaf| leaf.counter) + 1;
        head(leaf, self.hub.signing_key(), CHALLENGE, counter)
    }

    fn renew(&mut self, leaf: &LeafName, keys: &NodeKeys) -> Result<LeafName, Refusal> {
        let request = RenewRequest { head: self.next_head(leaf) };
        self.later(leaf, Operation::Renew, &Envelope::signed(Operation::Renew, &request, keys.signing()))
    }

    fn add(&mut self, leaf: &LeafName, keys: &NodeKeys, address: Ipv4Addr) -> Result<LeafName, Refusal> {
        let request = AddClaimRequest { head: self.next_head(leaf), address };
        self.later(
            leaf,
            Operation::AddClaim,
            &Envelope::signed(Operation::AddClaim, &request, keys.signing()),
        )
    }

    fn release(
        &mut self,
        leaf: &LeafName,
        keys: &NodeKeys,
        address: Ipv4Addr,
        generation: Option<u64>,
    ) -> Result<LeafName, Refusal> {
        let request = ReleaseClaimRequest { head: self.next_head(leaf), address, generation };
        let envelope = Envelope::signed(Operation::ReleaseClaim, &request, keys.signing());
        self.later(leaf, Operation::ReleaseClaim, &envelope)
    }

    fn revoke(&mut self, leaf: &LeafName) {
        let decision = life::revoke(&self.state, leaf, self.now);
        self.apply(decision).unwrap();
    }

    fn admissions(&mut self) -> Admissions {
        self.state.settle(self.now);
        self.state.admissions()
    }
}

fn code<T: std::fmt::Debug>(outcome: Result<T, Refusal>) -> ReasonCode {
    outcome.unwrap_err().code
}

/// A site joins: lowest overlay address, its claims, the published admission, and a durable-looking answer.
#[test]
fn a_leaf_joins() {
    let mut world = World::new();
    let invite = world.invite(order("aws", &["10.81.0.0/16"])).unwrap();
    let leaf = world.enroll(&invite, &keys(1), &[ip("10.81.10.20")]).unwrap();
    let admission = world.state.admission(&leaf, NOW).unwrap();
    assert_eq!((leaf.as_str(), admission.overlay), ("aws", ip("127.10.0.2")));
    assert_eq!(admission.claims.keys().copied().collect::<Vec<_>>(), [ip("10.81.10.20")]);
    assert_eq!((admission.lease_left_secs, admission.renew_after_secs), (86_400, 28_800));
    assert!(admission.topology.lease_secs >= 2 * admission.topology.fail_static_secs);
    let admitted = &world.admissions().leaves[&leaf];
    assert_eq!(admitted.claims, admission.claims);
    assert_eq!(admitted.wireguard_key, keys(1).wireguard_key());
}

/// The same keys again: no change at all, the same answer; also when the invite has long expired.
#[test]
fn enrolling_again_changes_nothing() {
    let mut world = World::new();
    let invite = world.invite(order("aws", &["10.81.0.0/16"])).unwrap();
    let claims = [ip("10.81.10.20")];
    let leaf = world.enroll(&invite, &keys(1), &claims).unwrap();
    let (first, generation) = (world.state.admission(&leaf, NOW), world.state.generation());
    world.enroll(&invite, &keys(1), &claims).unwrap();
    let envelope = enroll_envelope(&invite, &keys(1), CHALLENGE, &claims);
    world.enroll_by(&envelope, ip("127.10.0.2")).unwrap();
    assert_eq!((world.state.admission(&leaf, NOW), world.state.generation()), (first, generation));
    world.now += 7200;
    assert_eq!(world.enroll(&invite, &keys(1), &claims), Ok(leaf));
    assert_eq!(world.state.generation(), generation);
    assert_eq!(world.state.invite(&invite.id).unwrap().used, 1);
}

/// Each wrong thing in a first request has its own code and changes nothing.
#[test]
fn enroll_refusals() {
    let mut world = World::new();
    let first = world.invite(order("aws", &["10.81.0.0/16"])).unwrap();
    world.enroll(&first, &keys(1), &[ip("10.81.10.20")]).unwrap();
    let small =
        InviteOrder { max_claims: 2, ..order("pve", &["10.81.0.0/16", "10.99.9.0/24", "127.10.0.0/16"]) };
    let invite = world.invite(small).unwrap();
    let again = world.invite(order("aws", &["10.81.0.0/16"])).unwrap();
    let short = world.invite(InviteOrder { expires_in_secs: 1, ..order("oci", &[]) }).unwrap();
    let withdrawn = world.invite(order("azure", &[])).unwrap();
    let changes = admit::revoke_invite(&world.state, &withdrawn.id, world.now).unwrap();
    world.state.apply(&changes, world.now);
    world.now += 2;
    let generation = world.state.generation();
    let mixed = |wireguard_key: WireguardKey, signing: &NodeKeys| {
        let request = enroll_request(&invite, signing, CHALLENGE, &[]);
        let request = enrollment::wire::EnrollRequest { wireguard_key, ..request };
        Envelope::enroll(&request, &invite.mac_key(), signing.signing())
    };
    let unknown = Invite { id: secret(99).0, ..invite.clone() };
    let wrong_secret = Invite { secret: secret(98).1, ..invite.clone() };
    let foreign = Invite { hub_signing_key: keys(7).signing_key(), ..invite.clone() };
    let foreign_key = {
        let request = enroll_request(&invite, &keys(2), CHALLENGE, &[]);
        Envelope::enroll(&request, &invite.mac_key(), keys(3).signing())
    };
    let table: Vec<(ReasonCode, Envelope, Ipv4Addr)> = [
        (ReasonCode::InviteUnknown, enroll_envelope(&unknown, &keys(2), CHALLENGE, &[]), &unknown),
        (ReasonCode::SignatureInvalid, enroll_envelope(&wrong_secret, &keys(2), CHALLENGE, &[]), &invite),
        (ReasonCode::PossessionInvalid, foreign_key, &invite),
        (ReasonCode::WrongHub, enroll_envelope(&foreign, &keys(2), CHALLENGE, &[]), &invite),
        (ReasonCode::SourceForbidden, enroll_envelope(&invite, &keys(2), CHALLENGE, &[]), &first),
        (ReasonCode::InviteSpent, enroll_envelope(&first, &keys(2), CHALLENGE, &[]), &first),
        (ReasonCode::InviteExpired, enroll_envelope(&short, &keys(2), CHALLENGE, &[]), &short),
        (ReasonCode::InviteRevoked, enroll_envelope(&withdrawn, &keys(2), CHALLENGE, &[]), &withdrawn),
        (ReasonCode::SiteTaken, enroll_envelope(&again, &keys(2), CHALLENGE, &[]), &again),
        (ReasonCode::KeyTaken, enroll_envelope(&invite, &keys(1), CHALLENGE, &[]), &invite),
        (ReasonCode::KeyTaken, mixed(keys(1).wireguard_key(), &keys(2)), &invite),
        (ReasonCode::KeyTaken, mixed(invite.secret.wireguard_key(), &keys(2)), &invite),
        (ReasonCode::KeyTaken, mixed(world.hub.wireguard_key(), &keys(2)), &invite),
        (ReasonCode::KeyTaken, mixed(WireguardKey(keys(2).signing_key().0), &keys(2)), &invite),
    ]
    .map(|(code, envelope, from)| (code, envelope, from.foyer_address))
    .into();
    for (row, (expected, envelope, source)) in table.into_iter().enumerate() {
        assert_eq!(code(world.enroll_by(&envelope, source)), expected, "row {row}");
    }
    let claims = [
        (ReasonCode::ClaimConflict, vec!["10.99.9.10", "10.81.10.20"]),
        (ReasonCode::ClaimNotPermitted, vec!["10.99.9.10", "10.82.1.1"]),
        (ReasonCode::ClaimNotPermitted, vec!["127.10.0.9"]),
        (ReasonCode::ClaimLimit, vec!["10.99.9.1", "10.99.9.2", "10.99.9.3"]),
    ];
    for (expected, wanted) in claims {
        let wanted: Vec<_> = wanted.into_iter().map(ip).collect();
        assert_eq!(code(world.enroll(&invite, &keys(2), &wanted)), expected, "{wanted:?}");
    }
    assert_eq!(world.state.generation(), generation, "refusals change nothing");
    let conflict = world.enroll(&invite, &keys(2), &[ip("10.81.10.20")]).unwrap_err();
    assert_eq!((conflict.owner.as_deref(), conflict.address), (Some("aws"), Some(ip("10.81.10.20"))));
    assert_eq!(world.enroll(&invite, &keys(2), &[ip("10.99.9.10")]), Ok(name("pve")));
}

/// Every altered value of a signed payload, one at a time, is refused, for each kind of request.
#[test]
fn altered_fields() {
    let mut world = World::new();
    let invite = world.invite(order("aws", &["10.81.0.0/16"])).unwrap();
    let fresh = enroll_envelope(&invite, &keys(1), CHALLENGE, &[ip("10.81.1.1"), ip("10.81.1.2")]);
    for altered in alterations(&fresh) {
        let outcome = world.enroll_by(&altered, invite.foyer_address);
        // Another invite id is unknown, and a value that is no value cannot be read; all else fails the signature.
        let known = [ReasonCode::SignatureInvalid, ReasonCode::InviteUnknown, ReasonCode::RequestMalformed];
        let altered = String::from_utf8_lossy(&altered.payload.0).into_owned();
        assert!(known.contains(&code(outcome)), "{altered}");
    }
    let leaf = world.enroll_by(&fresh, invite.foyer_address).unwrap();
    let head = world.next_head(&leaf);
    let key = keys(1);
    let (address, generation) = (ip("10.81.1.3"), Some(1));
    let requests = [
        (
            Operation::Renew,
            Envelope::signed(Operation::Renew, &RenewRequest { head: head.clone() }, key.signing()),
        ),
        (
            Operation::Topology,
            Envelope::signed(Operation::Topology, &RenewRequest { head: head.clone() }, key.signing()),
        ),
        (
            Operation::AddClaim,
            Envelope::signed(
                Operation::AddClaim,
                &AddClaimRequest { head: head.clone(), address },
                key.signing(),
            ),
        ),
        (
            Operation::ReleaseClaim,
            Envelope::signed(
                Operation::ReleaseClaim,
                &ReleaseClaimRequest { head, address: ip("10.81.1.1"), generation },
                key.signing(),
            ),
        ),
    ];
    for (op, envelope) in &requests {
        for altered in alterations(envelope) {
            let known = [ReasonCode::SignatureInvalid, ReasonCode::LeafUnknown, ReasonCode::RequestMalformed];
            let text = String::from_utf8_lossy(&altered.payload.0).into_owned();
            assert!(known.contains(&code(world.later(&leaf, *op, &altered))), "{op:?} {text}");
        }
        // Signed for one operation, sent as another.
        for other in Operation::ALL.iter().filter(|other| *other != op) {
            assert!(world.later(&leaf, *other, envelope).is_err(), "{op:?} as {other:?}");
        }
    }
    for (op, envelope) in &requests[..2] {
        world.later(&leaf, *op, envelope).map_err(|e| panic!("{op:?}: {e}")).unwrap();
        if *op == Operation::Renew {
            assert_eq!(code(world.later(&leaf, *op, envelope)), ReasonCode::CounterStale);
            break;
        }
    }
}

/// The same envelope with one value of its payload changed, for each value; and with each signature damaged.
fn alterations(envelope: &Envelope) -> Vec<Envelope> {
    let value: serde_json::Value = serde_json::from_slice(&envelope.payload.0).unwrap();
    let mut paths = Vec::new();
    collect(&value, String::new(), &mut paths);
    let mut found = Vec::new();
    for path in &paths {
        let mut altered = value.clone();
        let place = altered.pointer_mut(path).unwrap();
        *place = match &*place {
            serde_json::Value::Number(n) => (n.as_u64().unwrap() + 1).into(),
            serde_json::Value::String(text) => other_text(text).into(),
            other => panic!("{other}"),
        };
        let mut envelope = envelope.clone();
        envelope.payload.0 = serde_json::to_vec(&altered).unwrap();
        found.push(envelope);
    }
    assert!(found.len() >= 4, "{paths:?}");
    let mut spaced = envelope.clone();
    spaced.payload.0.push(b' ');
    let mut damaged = envelope.clone();
    damaged.signature.0[0] ^= 1;
    let mut cut = envelope.clone();
    cut.signature.0.pop();
    found.extend([spaced, damaged, cut]);
    found
}

fn collect(value: &serde_json::Value, path: String, paths: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(map) => {
            map.iter().for_each(|(k, v)| collect(v, format!("{path}/{k}"), paths))
        }
        serde_json::Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, v)| collect(v, format!("{path}/{i}"), paths));
        }
        _ => paths.push(path),
    }
}

/// Another value of the same kind.
fn other_text(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let at = bytes.iter().position(u8::is_ascii_alphanumeric).unwrap();
    bytes[at] = match bytes[at] {
        b'1' => b'2',
        b'a' => b'b',
        digit if digit.is_ascii_digit() => b'1',
        _ => b'a',
    };
    String::from_utf8(bytes).unwrap()
}

/// A proof for another domain, or none, does not count.
#[test]
fn possession_is_needed() {
    let mut world = World::new();
    let invite = world.invite(order("aws", &[])).unwrap();
    let mut envelope = enroll_envelope(&invite, &keys(1), CHALLENGE, &[]);
    let other = keys(1).signing().sign(Operation::Enroll.request_domain(), &[&envelope.payload.0]);
    envelope.possession.as_mut().unwrap().0 = other;
    assert_eq!(code(world.enroll_by(&envelope, invite.foyer_address)), ReasonCode::PossessionInvalid);
    envelope.possession = None;
    assert_eq!(code(world.enroll_by(&envelope, invite.foyer_address)), ReasonCode::PossessionInvalid);
    assert_ne!(POSSESSION_DOMAIN, Operation::Enroll.request_domain());
}

/// Later requests: each wrong thing has its own code.
#[test]
fn later_refusals() {
    let mut world = World::new();
    let (a, b) = (keys(1), keys(2));
    let invite = world.invite(InviteOrder { max_claims: 2, ..order("aws", &["10.81.0.0/16"]) }).unwrap();
    let aws = world.enroll(&invite, &a, &[ip("10.81.1.1")]).unwrap();
    let invite = world.invite(order("pve", &["10.81.0.0/16"])).unwrap();
    let pve = world.enroll(&invite, &b, &[ip("10.81.1.2")]).unwrap();

    assert_eq!(code(world.renew(&name("nobody"), &a)), ReasonCode::LeafUnknown);
    assert_eq!(code(world.renew(&aws, &b)), ReasonCode::SignatureInvalid);
    assert_eq!(code(world.add(&aws, &a, ip("10.81.1.2"))), ReasonCode::ClaimConflict);
    assert_eq!(code(world.add(&aws, &a, ip("10.82.1.2"))), ReasonCode::ClaimNotPermitted);
    assert_eq!(code(world.release(&aws, &a, ip("10.81.1.2"), None)), ReasonCode::ClaimUnknown);
    assert_eq!(code(world.release(&aws, &a, ip("10.81.1.1"), Some(77))), ReasonCode::ClaimStale);
    world.add(&aws, &a, ip("10.81.1.3")).unwrap();
    world.add(&aws, &a, ip("10.81.1.3")).unwrap();
    assert_eq!(code(world.add(&aws, &a, ip("10.81.1.4"))), ReasonCode::ClaimLimit);

    let request = RenewRequest { head: head(&aws, keys(9).signing_key(), CHALLENGE, 100) };
    let foreign = Envelope::signed(Operation::Renew, &request, a.signing());
    assert_eq!(code(world.later(&aws, Operation::Renew, &foreign)), ReasonCode::WrongHub);
    let request = RenewRequest { head: world.next_head(&aws) };
    let renewal = Envelope::signed(Operation::Renew, &request, a.signing());
    assert_eq!(code(world.later(&pve, Operation::Renew, &renewal)), ReasonCode::SourceForbidden);
    world.later(&aws, Operation::Renew, &renewal).unwrap();
    let again = world.later(&aws, Operation::Renew, &renewal).unwrap_err();
    assert_eq!((again.code, again.last_counter), (ReasonCode::CounterStale, Some(request.head.counter)));
    let request = RenewRequest { head: head(&aws, world.hub.signing_key(), CHALLENGE, u64::MAX) };
    let last = Envelope::signed(Operation::Renew, &request, a.signing());
    assert_eq!(code(world.later(&aws, Operation::Renew, &last)), ReasonCode::CounterStale);
}

/// A claim that moves gets a higher generation, so that its former owner's late release cannot touch it.
#[test]
fn generations_fence() {
    let mut world = World::new();
    let (a, b, address) = (keys(1), keys(2), ip("10.81.1.1"));
    let invite = world.invite(order("aws", &["10.81.0.0/16"])).unwrap();
    let aws = world.enroll(&invite, &a, &[address]).unwrap();
    let invite = world.invite(order("pve", &["10.81.0.0/16"])).unwrap();
    let pve = world.enroll(&invite, &b, &[]).unwrap();
    let first = world.state.owner(&address).unwrap().1.generation;
    world.release(&aws, &a, address, Some(first)).unwrap();
    assert!(world.state.owner(&address).is_none());
    world.add(&pve, &b, address).unwrap();
    assert!(world.state.owner(&address).unwrap().1.generation > first);
    world.release(&pve, &b, address, None).unwrap();
    world.add(&pve, &b, address).unwrap();
    assert_eq!(code(world.release(&pve, &b, address, Some(first))), ReasonCode::ClaimStale);
}

/// Revocation is sticky: not the key, not the old invite, not a replay brings the leaf back; a new invite brings the
/// site back at its old overlay address, for new keys only.
#[test]
fn revocation_is_sticky() {
    let mut world = World::new();
    let a = keys(1);
    let other = world.invite(order("aws", &["10.81.0.0/16"])).unwrap();
    let invite = world.invite(order("aws", &["10.81.0.0/16"])).unwrap();
    let aws = world.enroll(&invite, &a, &[ip("10.81.1.1")]).unwrap();
    let overlay = world.state.leaf(&aws).unwrap().overlay;
    let next = world.invite(order("pve", &["10.81.0.0/16"])).unwrap();
    world.revoke(&aws);
    world.revoke(&aws);
    assert!(!world.admissions().leaves.contains_key(&aws));
    assert_eq!(code(world.renew(&aws, &a)), ReasonCode::LeaseRevoked);
    assert_eq!(code(world.add(&aws, &a, ip("10.81.1.1"))), ReasonCode::LeaseRevoked);
    assert_eq!(code(world.enroll(&invite, &a, &[])), ReasonCode::LeaseRevoked);
    assert_eq!(code(world.enroll(&next, &a, &[])), ReasonCode::LeaseRevoked, "by another site's invite");
    assert_eq!(
        code(world.enroll(&other, &keys(2), &[])),
        ReasonCode::LeaseRevoked,
        "by an invite from before"
    );
    let pve = world.enroll(&next, &keys(3), &[ip("10.81.1.1")]).unwrap();
    assert_ne!(world.state.leaf(&pve).unwrap().overlay, overlay, "a site's address is kept for it");
    let new = world.invite(order("aws", &["10.81.0.0/16"])).unwrap();
    assert_eq!(code(world.enroll(&new, &a, &[])), ReasonCode::LeaseRevoked);
    assert_eq!(world.enroll(&new, &keys(4), &[]), Ok(aws.clone()));
    assert_eq!(world.state.leaf(&aws).unwrap().overlay, overlay);
    assert_eq!(code(world.renew(&aws, &a)), ReasonCode::LeaseRevoked, "the old machine is told why");
    assert_eq!(world.renew(&aws, &keys(4)), Ok(aws));
}

/// An invite with several uses names its leaves one after the other; revoking one of them closes it.
#[test]
fn several_uses() {
    let mut world = World::new();
    let invite = world.invite(InviteOrder { uses: 3, ..order("edge", &["10.81.0.0/16"]) }).unwrap();
    assert_eq!(world.enroll(&invite, &keys(1), &[]), Ok(name("edge-1")));
    assert_eq!(world.enroll(&invite, &keys(1), &[]), Ok(name("edge-1")));
    assert_eq!(world.enroll(&invite, &keys(2), &[]), Ok(name("edge-2")));
    world.revoke(&name("edge-1"));
    assert_eq!(code(world.enroll(&invite, &keys(3), &[])), ReasonCode::InviteRevoked);
}

/// A second invite of the same site, with the same keys, widens what the leaf may and is spent by it.
#[test]
fn a_second_invite_widens() {
    let mut world = World::new();
    let invite = world.invite(InviteOrder { max_claims: 1, ..order("aws", &["10.81.0.0/16"]) }).unwrap();
    let aws = world.enroll(&invite, &keys(1), &[ip("10.81.1.1")]).unwrap();
    let wider = world.invite(order("aws", &["10.91.0.0/16"])).unwrap();
    let claims = [ip("10.81.1.1"), ip("10.91.1.1")];
    assert_eq!(world.enroll(&wider, &keys(1), &claims), Ok(aws.clone()));
    let leaf = world.state.leaf(&aws).unwrap();
    assert_eq!((leaf.permitted.len(), leaf.max_claims, leaf.overlay), (2, 64, ip("127.10.0.2")));
    assert_eq!(code(world.enroll(&wider, &keys(2), &[])), ReasonCode::InviteSpent);
}

/// An expired lease loses its routes but not its tunnel nor its addresses, and renewing brings all back.
#[test]
fn leases_run_out_and_come_back() {
    let mut world = World::new();
    let invite = world.invite(order("aws", &["10.81.0.0/16"])).unwrap();
    let aws = world.enroll(&invite, &keys(1), &[ip("10.81.1.1")]).unwrap();
    assert!(world.state.next_deadline(world.now).unwrap() <= NOW + 86_400);
    world.now += 86_400;
    let admitted = world.admissions().leaves[&aws].clone();
    assert!(admitted.expired && admitted.claims.is_empty());
    let invite = world.invite(order("pve", &["10.81.0.0/16"])).unwrap();
    assert_eq!(code(world.enroll(&invite, &keys(2), &[ip("10.81.1.1")])), ReasonCode::ClaimConflict);
    world.renew(&aws, &keys(1)).unwrap();
    let admitted = world.admissions().leaves[&aws].clone();
    assert!(!admitted.expired && admitted.claims.len() == 1);
    assert_eq!(admitted.valid_until, world.now + 86_400);
}

/// Spent and expired invites keep their foyer peer for a day, at most 64 of them, and open ones come first.
#[test]
fn foyer_tombstones() {
    let mut world = World::new();
    let invite = world.invite(order("aws", &[])).unwrap();
    world.enroll(&invite, &keys(1), &[]).unwrap();
    let foyer = world.admissions().foyer;
    assert_eq!((foyer.len(), foyer[0].address), (1, ip("127.10.15.2")));
    assert_eq!(foyer[0].public_key, invite.secret.wireguard_key());
    world.now += TOMBSTONE_SECS - 1;
    assert_eq!(world.admissions().foyer.len(), 1);
    world.now += 1;
    assert_eq!(world.admissions().foyer.len(), 0);
    for n in 0..100 {
        world.now += 1;
        world.invite(InviteOrder { expires_in_secs: 10, ..order(&format!("site-{n}"), &[]) }).unwrap();
    }
    world.now += 10;
    assert_eq!(world.admissions().foyer.len(), TOMBSTONE_LIMIT);
    let mut open = 0;
    let refused = loop {
        match world.invite(order("more", &[])) {
            Ok(_) => open += 1,
            Err(refusal) => break refusal,
        }
    };
    assert_eq!((open, refused.code), (253, ReasonCode::FoyerFull));
    let foyer = world.admissions().foyer;
    let addresses: BTreeSet<_> = foyer.iter().map(|peer| peer.address).collect();
    assert_eq!((foyer.len(), addresses.len()), (253, 253));
}

#[derive(Debug, Clone)]
enum Step {
    Invite { site: u8, uses: u32 },
    Enroll { invite: usize, key: u64, claims: Vec<u8> },
    Add { key: u64, address: u8 },
    Release { key: u64, address: u8 },
    Renew { key: u64 },
    Revoke { key: u64 },
    Wait { secs: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u8..4, 1u32..3).prop_map(|(site, uses)| Step::Invite { site, uses }),
        (0usize..8, 0u64..6, prop::collection::vec(0u8..8, 0..3))
            .prop_map(|(invite, key, claims)| Step::Enroll { invite, key, claims }),
        (0u64..6, 0u8..8).prop_map(|(key, address)| Step::Add { key, address }),
        (0u64..6, 0u8..8).prop_map(|(key, address)| Step::Release { key, address }),
        (0u64..6).prop_map(|key| Step::Renew { key }),
        (0u64..6).prop_map(|key| Step::Revoke { key }),
        (1u64..90_000).prop_map(|secs| Step::Wait { secs }),
    ]
}

fn check(world: &mut World, revoked: &BTreeSet<SigningKey>) {
    let admissions = world.admissions();
    let mut owners: BTreeMap<Ipv4Addr, &LeafName> = BTreeMap::new();
    let (mut overlays, mut tunnels) = (BTreeSet::new(), BTreeSet::new());
    for (leaf, admitted) in &admissions.leaves {
        assert!(overlays.insert(admitted.overlay), "{} twice", admitted.overlay);
        assert!(tunnels.insert(admitted.wireguard_key));
        assert!(admissions.hub.overlay_prefix.contains(&admitted.overlay));
        assert!(
            !admissions.hub.foyer_prefix.contains(&admitted.overlay)
                && admitted.overlay != admissions.hub.overlay
        );
        assert!(admitted.claims.len() <= admitted.max_claims as usize);
        assert!(!revoked.contains(&world.state.leaf(leaf).unwrap().signing_key), "{leaf} is back");
        for address in admitted.claims.keys() {
            assert_eq!(owners.insert(*address, leaf), None, "{address} has two owners");
            assert!(admitted.permitted.iter().any(|prefix| prefix.contains(address)));
        }
    }
    let foyer: BTreeSet<_> = admissions.foyer.iter().map(|peer| peer.address).collect();
    assert_eq!(foyer.len(), admissions.foyer.len(), "foyer addresses are unique");
    assert!(admissions.foyer.iter().all(|peer| tunnels.insert(peer.public_key)), "tunnel keys are unique");
}

proptest! {
    /// Whatever is asked in whatever order: one owner for each `/32`, one leaf for each overlay address and key, nothing
    /// outside what is permitted, and no revoked key ever comes back.
    #[test]
    fn random_admissions(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        let (mut invites, mut revoked) = (Vec::new(), BTreeSet::new());
        let address = |n: u8| Ipv4Addr::new(10, 80 + n / 4, 0, n);
        for step in steps {
            let of_key = |world: &World, key: u64| world.state.leaf_of_key(&keys(key).signing_key().0).cloned();
            match step {
                Step::Invite { site, uses } => {
                    let wide = InviteOrder { uses, max_claims: 3, ..order(&format!("s{site}"), &["10.80.0.0/16"]) };
                    invites.extend(world.invite(wide));
                }
                Step::Enroll { invite, key, claims } if !invites.is_empty() => {
                    let invite: &Invite = &invites[invite % invites.len()];
                    let claims: Vec<_> = claims.into_iter().map(address).collect();
                    let _ = world.enroll(&invite.clone(), &keys(key), &claims);
                }
                Step::Enroll { .. } => {}
                Step::Add { key, address: n } => {
                    if let Some(leaf) = of_key(&world, key) {
                        let _ = world.add(&leaf, &keys(key), address(n));
                    }
                }
                Step::Release { key, address: n } => {
                    if let Some(leaf) = of_key(&world, key) {
                        let _ = world.release(&leaf, &keys(key), address(n), None);
                    }
                }
                Step::Renew { key } => {
                    if let Some(leaf) = of_key(&world, key) {
                        prop_assert!(world.renew(&leaf, &keys(key)).is_ok());
                    }
                }
                Step::Revoke { key } => {
                    if let Some(leaf) = of_key(&world, key) {
                        revoked.insert(keys(key).signing_key());
                        world.revoke(&leaf);
                    }
                }
                Step::Wait { secs } => world.now += secs,
            }
            check(&mut world, &revoked);
        }
    }
}
