//! Two hubs decide on their own and become one state: properties over random decisions, partitions and deliveries.

mod common;

use common::*;
use enrollment::admit;
use enrollment::identity::{LeafName, SigningKey};
use enrollment::invite::Invite;
use enrollment::io::keys::NodeKeys;
use enrollment::life;
use enrollment::log::Fact;
use enrollment::policy::InviteOrder;
use enrollment::reason::{ReasonCode, Refusal};
use enrollment::registry::{Change, HubRecord, State};
use enrollment::wire::{
    AddClaimRequest, Challenge, EnrollRequest, Envelope, Operation, ReleaseClaimRequest, RenewRequest,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

const CHALLENGE: Challenge = Challenge([6; 32]);

/// One hub: its state, what it decided, how much of the other's it has, and everything in the order it took it in.
struct Side {
    state: State,
    key: SigningKey,
    now: u64,
    decided: Vec<(Vec<Fact>, u64)>,
    heard: usize,
    taken: Vec<Vec<Fact>>,
}

/// Two hubs that know each other.
struct Pair {
    sides: [Side; 2],
    invites: Vec<Invite>,
    names: BTreeMap<u64, LeafName>,
}

fn record(keys: &NodeKeys, index: u8) -> HubRecord {
    let mut settings = settings(keys);
    settings.overlay = ip(if index == 0 { "127.10.0.1" } else { "127.10.0.3" });
    HubRecord { node: settings.node(), index, joined_at: NOW, version: 1, retired_at: None }
}

impl Pair {
    fn new() -> Self {
        let hubs = [keys(1000), keys(1001)];
        let facts: Vec<Fact> = (0..2u8)
            .map(|index| Change::Hub(Arc::new(record(&hubs[usize::from(index)], index))))
            .map(|change| Fact { change, machine: None })
            .collect();
        let side = |index: usize| {
            let mut settings = settings(&hubs[index]);
            settings.overlay = ip(if index == 0 { "127.10.0.1" } else { "127.10.0.3" });
            let key = settings.signing_key;
            let mut state = State::new(Arc::new(settings));
            state.merge(&facts, NOW);
            // The second hub's clock is a little behind.
            let now = NOW - 7 * index as u64;
            Side { state, key, now, decided: Vec::new(), heard: 0, taken: vec![facts.clone()] }
        };
        Self { sides: [side(0), side(1)], invites: Vec::new(), names: BTreeMap::new() }
    }

    /// What the owner of a registry does with a decision.
    fn decide(&mut self, hub: usize, changes: &[Change]) {
        let side = &mut self.sides[hub];
        if changes.is_empty() {
            return;
        }
        let facts = side.state.facts(changes, side.now);
        side.state.merge(&facts, side.now);
        side.state.went_on(side.state.generation() + 1);
        side.decided.push((facts.clone(), side.state.generation()));
        side.taken.push(facts);
    }

    /// Hands up to `count` of the other hub's decisions to `hub`, in their order.
    fn deliver(&mut self, hub: usize, count: usize) {
        let [first, second] = &mut self.sides;
        let (to, from) = if hub == 0 { (first, second) } else { (second, first) };
        for (facts, generation) in from.decided.iter().skip(to.heard).take(count) {
            to.state.merge(facts, to.now);
            to.state.went_on(*generation);
            to.taken.push(facts.clone());
            to.heard += 1;
        }
    }

    fn settle(&mut self) {
        self.deliver(0, usize::MAX);
        self.deliver(1, usize::MAX);
    }

    fn invite(&mut self, hub: usize, site: &str, uses: u32) -> Option<Invite> {
        let (id, secret) = secret(self.invites.len() as u64 + 1);
        let order = InviteOrder { uses, ..order(site, &["10.81.0.0/16"]) };
        let side = &self.sides[hub];
        let (invite, change) = admit::invite(&side.state, order, id, secret, side.now).ok()?;
        self.decide(hub, &[change]);
        self.invites.push(invite.clone());
        Some(invite)
    }

    fn enroll(
        &mut self,
        hub: usize,
        invite: &Invite,
        n: u64,
        claims: &[Ipv4Addr],
    ) -> Result<LeafName, Refusal> {
        let keys = keys(n);
        let side = &self.sides[hub];
        let request = EnrollRequest { hub: side.key, ..enroll_request(invite, &keys, CHALLENGE, claims) };
        let envelope = Envelope::enroll(&request, &invite.mac_key(), keys.signing());
        let source = IpAddr::V4(invite.foyer_address);
        let decision = admit::enroll(&side.state, &envelope, source, side.now)?;
        self.decide(hub, &decision.changes);
        self.names.insert(n, decision.leaf.clone());
        Ok(decision.leaf)
    }

    fn later(&mut self, hub: usize, n: u64, op: Operation, address: Ipv4Addr) -> Result<LeafName, Refusal> {
        let name = self.names.get(&n).cloned().unwrap_or_else(|| common::name("nobody"));
        let (keys, side) = (keys(n), &self.sides[hub]);
        let leaf = side.state.leaf(&name);
        let head = head(&name, side.key, CHALLENGE, leaf.map_or(0, |leaf| leaf.counter) + 1);
        let envelope = match op {
            Operation::AddClaim => Envelope::signed(op, &AddClaimRequest { head, address }, keys.signing()),
            Operation::ReleaseClaim => {
                let request = ReleaseClaimRequest { head, address, generation: None };
                Envelope::signed(op, &request, keys.signing())
            }
            _ => Envelope::signed(op, &RenewRequest { head }, keys.signing()),
        };
        let source = IpAddr::V4(leaf.map_or(Ipv4Addr::LOCALHOST, |leaf| leaf.overlay));
        let decision = admit::leaf_request(&side.state, op, &envelope, source, side.now)?;
        self.decide(hub, &decision.changes);
        Ok(decision.leaf)
    }

    fn revoke(&mut self, hub: usize, name: &LeafName) {
        let side = &self.sides[hub];
        if let Ok(decision) = life::revoke(&side.state, name, side.now) {
            self.decide(hub, &decision.changes);
        }
    }

    /// Everything that must hold once both have heard everything.
    fn check(&self) {
        let [a, b] = &self.sides;
        assert_eq!(a.state.digest(), b.state.digest(), "the hubs differ");
        let owners = |side: &Side| -> BTreeMap<Ipv4Addr, LeafName> {
            (0..=u8::MAX)
                .map(|n| Ipv4Addr::new(10, 81, 0, n))
                .filter_map(|at| side.state.owner(&at).map(|(leaf, _)| (at, leaf.clone())))
                .collect()
        };
        assert_eq!(owners(a), owners(b), "an address has two owners");
        for (address, leaf) in owners(a) {
            let leaf = a.state.leaf(&leaf).expect("an owner exists");
            assert!(leaf.revoked.is_none(), "{address} is owned by a revoked leaf");
        }
        // Nothing is lost: what was granted and not ended is owned or waits.
        let mut granted: BTreeMap<(Ipv4Addr, u64), (LeafName, Option<SigningKey>)> = BTreeMap::new();
        let mut ended: BTreeSet<(Ipv4Addr, u64)> = BTreeSet::new();
        for fact in self.sides.iter().flat_map(|side| side.decided.iter().flat_map(|(facts, _)| facts)) {
            match &fact.change {
                Change::ClaimAdded { address, leaf, claim } => {
                    let before = granted.insert((*address, claim.generation), (leaf.clone(), fact.machine));
                    assert!(before.is_none(), "a generation was given twice");
                }
                Change::ClaimMoved { address, moving, claim } => {
                    let before =
                        granted.insert((*address, claim.generation), (moving.to.clone(), fact.machine));
                    assert!(before.is_none(), "a generation was given twice");
                    ended.insert((*address, moving.former.generation));
                }
                Change::ClaimRemoved { address, claim, .. } => {
                    ended.insert((*address, claim.generation));
                }
                _ => {}
            }
        }
        for ((address, generation), (leaf, machine)) in granted {
            let revoked =
                a.state.machines_of(&leaf).any(|l| Some(l.machine()) == machine && l.revoked.is_some());
            let owned = a.state.owner(&address).is_some_and(|(_, claim)| claim.generation == generation);
            let waits = a.state.waiting(&address).any(|waiting| waiting.claim.generation == generation);
            let gone = revoked || ended.contains(&(address, generation));
            assert_eq!(owned || waits, !gone, "{address} generation {generation} of {leaf}");
        }
        // The order in which the other took it in, and a snapshot, lead to the same.
        for side in &self.sides {
            let mut again = State::new(Arc::new(settings(&keys(1002))));
            side.taken.iter().for_each(|facts| drop(again.merge(facts, NOW)));
            assert_eq!(again.digest(), a.state.digest(), "another order differs");
            let mut copy = State::new(Arc::new(settings(&keys(1003))));
            copy.merge(&side.state.snapshot(), NOW);
            assert_eq!(copy.digest(), a.state.digest(), "a snapshot differs");
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Invite { hub: usize, site: usize, uses: u32 },
    Enroll { hub: usize, invite: usize, machine: u64, claim: u8 },
    Later { hub: usize, machine: u64, op: usize, claim: u8 },
    Revoke { hub: usize, site: usize },
    RevokeInvite { hub: usize, invite: usize },
    Move { hub: usize, claim: u8, site: usize },
    Deliver { hub: usize, count: usize },
    Wait { hub: usize, secs: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let hub = 0..2usize;
    prop_oneof![
        2 => (hub.clone(), 0..3usize, 1..3u32).prop_map(|(hub, site, uses)| Step::Invite { hub, site, uses }),
        5 => (hub.clone(), 0..8usize, 1..6u64, 0..4u8)
            .prop_map(|(hub, invite, machine, claim)| Step::Enroll { hub, invite, machine, claim }),
        6 => (hub.clone(), 1..6u64, 0..3usize, 0..4u8)
            .prop_map(|(hub, machine, op, claim)| Step::Later { hub, machine, op, claim }),
        1 => (hub.clone(), 0..3usize).prop_map(|(hub, site)| Step::Revoke { hub, site }),
        1 => (hub.clone(), 0..8usize).prop_map(|(hub, invite)| Step::RevokeInvite { hub, invite }),
        1 => (hub.clone(), 0..4u8, 0..3usize).prop_map(|(hub, claim, site)| Step::Move { hub, claim, site }),
        3 => (hub.clone(), 1..5usize).prop_map(|(hub, count)| Step::Deliver { hub, count }),
        2 => (hub, 1..20u64).prop_map(|(hub, secs)| Step::Wait { hub, secs }),
    ]
}

fn run(pair: &mut Pair, step: Step) {
    const SITES: [&str; 3] = ["aws", "oci", "pve"];
    match step {
        Step::Invite { hub, site, uses } => drop(pair.invite(hub, SITES[site], uses)),
        Step::Enroll { hub, invite, machine, claim } => {
            if let Some(invite) = pair.invites.get(invite).cloned() {
                let _ = pair.enroll(hub, &invite, machine, &[Ipv4Addr::new(10, 81, 0, claim)]);
            }
        }
        Step::Later { hub, machine, op, claim } => {
            let op = [Operation::Renew, Operation::AddClaim, Operation::ReleaseClaim][op];
            let _ = pair.later(hub, machine, op, Ipv4Addr::new(10, 81, 0, claim));
        }
        Step::Revoke { hub, site } => pair.revoke(hub, &name(SITES[site])),
        Step::RevokeInvite { hub, invite } => {
            if let Some(invite) = pair.invites.get(invite).cloned() {
                let side = &pair.sides[hub];
                let changes = admit::revoke_invite(&side.state, &invite.id, side.now).unwrap_or_default();
                pair.decide(hub, &changes);
            }
        }
        Step::Move { hub, claim, site } => {
            let side = &pair.sides[hub];
            let address = Ipv4Addr::new(10, 81, 0, claim);
            let moved = life::move_claim(&side.state, address, &name(SITES[site]), side.now);
            pair.decide(hub, &moved.unwrap_or_default());
        }
        Step::Deliver { hub, count } => pair.deliver(hub, count),
        Step::Wait { hub, secs } => pair.sides[hub].now += secs,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Any decisions at either hub, any partition, any delivery: equal digests, one owner for each address, nothing lost.
    #[test]
    fn two_hubs_become_one(steps in prop::collection::vec(step(), 1..60)) {
        let mut pair = Pair::new();
        steps.into_iter().for_each(|step| run(&mut pair, step));
        pair.settle();
        pair.check();
        prop_assert_eq!(pair.sides[0].heard, pair.sides[1].decided.len());
    }
}

/// Two machines under one name, admitted while the hubs could not talk: the first keeps it on both hubs, the other is
/// told, keeps its record and its claim in waiting, and goes with the name when that is revoked.
#[test]
fn the_first_admission_keeps_the_name() {
    let mut pair = Pair::new();
    let invite = pair.invite(0, "aws", 1).unwrap();
    pair.settle();
    pair.enroll(1, &invite, 2, &[ip("10.81.0.2")]).unwrap();
    pair.sides[0].now += 60;
    pair.enroll(0, &invite, 1, &[ip("10.81.0.1")]).unwrap();
    pair.settle();
    pair.check();
    for hub in [0, 1] {
        let state = &pair.sides[hub].state;
        assert_eq!(state.leaf(&name("aws")).unwrap().signing_key, keys(2).signing_key());
        let rivals: Vec<_> = state.rivals(&name("aws")).map(|leaf| leaf.signing_key).collect();
        assert_eq!(rivals, [keys(1).signing_key()]);
        assert_eq!(state.owner(&ip("10.81.0.1")), None);
        assert_eq!(state.waiting(&ip("10.81.0.1")).count(), 1);
        assert_eq!(state.invite(&invite.id).unwrap().used, 2, "both uses are shown");
        let refusal = pair.later(hub, 1, Operation::Renew, ip("10.81.0.1")).unwrap_err();
        assert_eq!(refusal.code, ReasonCode::NameLost);
        let refusal = pair.enroll(hub, &invite, 1, &[]).unwrap_err();
        assert_eq!(refusal.code, ReasonCode::NameLost);
    }
    pair.revoke(1, &name("aws"));
    pair.settle();
    pair.check();
    let code = pair.later(0, 1, Operation::Renew, ip("10.81.0.1")).unwrap_err().code;
    assert_eq!(code, ReasonCode::LeaseRevoked, "a rival does not inherit a revoked name");
}

/// One address granted to two leaves: the first claim owns it on both hubs; the other waits and gets it when it is free.
#[test]
fn the_first_claim_owns_the_address() {
    let mut pair = Pair::new();
    let address = ip("10.81.0.9");
    for (n, site) in [(1, "aws"), (2, "oci")] {
        let invite = pair.invite(0, site, 1).unwrap();
        pair.settle();
        pair.enroll(0, &invite, n, &[]).unwrap();
    }
    pair.settle();
    pair.sides[1].now = pair.sides[0].now + 1;
    pair.later(1, 2, Operation::AddClaim, address).unwrap();
    pair.sides[0].now += 2;
    pair.later(0, 1, Operation::AddClaim, address).unwrap();
    pair.settle();
    pair.check();
    assert!(pair.sides.iter().all(|side| side.state.owner(&address).unwrap().0 == name("oci")));
    pair.later(0, 2, Operation::ReleaseClaim, address).unwrap();
    pair.settle();
    pair.check();
    assert!(pair.sides.iter().all(|side| side.state.owner(&address).unwrap().0 == name("aws")));
}

/// A revocation at one hub ends what the other granted meanwhile: the lease's renewal and a new claim.
#[test]
fn a_revocation_is_sticky_on_both() {
    let mut pair = Pair::new();
    let invite = pair.invite(0, "aws", 1).unwrap();
    pair.enroll(0, &invite, 1, &[]).unwrap();
    pair.settle();
    pair.revoke(0, &name("aws"));
    pair.sides[1].now += 100;
    pair.later(1, 1, Operation::Renew, ip("10.81.0.1")).unwrap();
    pair.later(1, 1, Operation::AddClaim, ip("10.81.0.1")).unwrap();
    pair.settle();
    pair.check();
    for side in &pair.sides {
        assert!(side.state.leaf(&name("aws")).unwrap().revoked.is_some());
        assert_eq!(side.state.owner(&ip("10.81.0.1")), None);
    }
}

/// The same machine at both hubs, because the first answer was lost: one leaf with the claims of both.
#[test]
fn one_machine_at_both_hubs_is_one_leaf() {
    let mut pair = Pair::new();
    let invite = pair.invite(0, "aws", 1).unwrap();
    pair.settle();
    pair.enroll(0, &invite, 1, &[ip("10.81.0.1")]).unwrap();
    pair.enroll(1, &invite, 1, &[ip("10.81.0.2")]).unwrap();
    pair.settle();
    pair.check();
    for side in &pair.sides {
        assert_eq!(side.state.rivals(&name("aws")).count(), 0);
        assert_eq!(side.state.claims_of(&name("aws")).len(), 2);
    }
}
