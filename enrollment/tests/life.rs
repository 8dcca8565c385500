//! A leaf's life through the real API on loopback: approval, sources, replacement, moved claims, rotation, leaving.

mod common;

use common::*;
use enrollment::approval::Verdict;
use enrollment::claim::ClaimStep;
use enrollment::invite::Invite;
use enrollment::io::client::{self, HubApi};
use enrollment::io::http::{Limits, Service, Underlay};
use enrollment::policy::{InviteOrder, KEY_OVERLAP_SECS, LEAVE_SECS, MOVE_SECS, WAITING_SECS};
use enrollment::reason::{ReasonCode, Refusal};
use enrollment::topology::Admission;
use enrollment::view::LeafPhase;
use enrollment::wire::{RejectedAnswer, RejectedRoute};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

async fn join(hub: &Hub, site: &str, n: u64, claims: &[Ipv4Addr]) -> Admission {
    let invite = hub.invite(order(site, &["10.0.0.0/8"])).await;
    client::enroll(&HubApi::of_invite(&invite), &invite, &keys(n), claims).await.unwrap()
}

async fn ask(invite: &Invite, n: u64, claims: &[Ipv4Addr]) -> Result<Admission, ReasonCode> {
    let answer = client::enroll(&HubApi::of_invite(invite), invite, &keys(n), claims).await;
    answer.map_err(|refusal| refusal.code)
}

fn api(admission: &Admission) -> HubApi {
    HubApi::of_admission(admission).unwrap()
}

/// A machine waits, is shown with what it asks, and joins by itself once approved, also after the invite's time and
/// over a restart of the hub; an approval covers what was asked and nothing else; a denied one stays denied.
#[tokio::test]
async fn approval() {
    let hub = Hub::start().await;
    let invite = hub.invite(InviteOrder { approve: true, ..order("aws", &["10.81.0.0/16"]) }).await;
    let claims = [ip("10.81.1.1")];
    let refusal = client::enroll(&HubApi::of_invite(&invite), &invite, &keys(1), &claims).await.unwrap_err();
    assert_eq!(refusal.code, ReasonCode::ApprovalPending);
    assert_eq!(ask(&invite, 1, &claims).await.unwrap_err(), ReasonCode::ApprovalPending);
    assert_eq!(ask(&invite, 2, &[]).await.unwrap_err(), ReasonCode::ApprovalPending);
    let waiting = hub.registry.view().await.unwrap().pending;
    assert_eq!(waiting.len(), 2);
    let shown = waiting.iter().find(|p| p.claims == claims).unwrap();
    assert!(refusal.message.contains(&shown.fingerprint), "both sides show one fingerprint: {refusal}");
    assert_eq!((shown.site.as_str(), shown.wireguard_key), ("aws", keys(1).wireguard_key()));

    let several = hub.registry.decide_pending("aws".into(), Verdict::Approved).await.unwrap_err();
    assert_eq!(several.code, ReasonCode::PendingUnknown);
    let nobody = hub.registry.decide_pending("pve".into(), Verdict::Approved).await.unwrap_err();
    assert_eq!(nobody.code, ReasonCode::PendingUnknown);
    let print = shown.fingerprint.clone();
    assert!(hub.registry.decide_pending(print.clone(), Verdict::Approved).await.unwrap().0);
    assert!(!hub.registry.decide_pending(print, Verdict::Approved).await.unwrap().0, "again changes nothing");
    let other = hub.registry.decide_pending("aws".into(), Verdict::Denied).await.unwrap();
    assert!(other.0);
    assert_eq!(ask(&invite, 2, &[]).await.unwrap_err(), ReasonCode::ApprovalDenied);

    let (folder, port) = (hub.folder.clone(), hub.port);
    drop(hub);
    let hub = Hub::start_in(folder, Limits::default(), applied_at_once(), |s| s.api_port = port).await;
    hub.advance(7200);
    let api = HubApi { address: hub.at(invite.foyer_hub), ..HubApi::of_invite(&invite) };
    let more = [ip("10.81.1.1"), ip("10.81.1.2")];
    let answer = client::enroll(&api, &invite, &keys(1), &more).await.unwrap_err();
    assert_eq!(answer.code, ReasonCode::InviteExpired, "another question needs another word");
    let admission = client::enroll(&api, &invite, &keys(1), &claims).await.unwrap();
    assert_eq!(admission.claims.len(), 1);
    let left = hub.registry.view().await.unwrap().pending;
    assert_eq!(left.len(), 1, "only the denied one is remembered");
    hub.advance(WAITING_SECS + 1);
    hub.registry.tick().await.unwrap();
    assert!(hub.registry.view().await.unwrap().pending.is_empty());
}

/// Two machines are approved for one one-use invite: the second hears that it is spent.
#[tokio::test]
async fn approval_spends_nothing_twice() {
    let hub = Hub::start().await;
    let invite = hub.invite(InviteOrder { approve: true, ..order("aws", &[]) }).await;
    for n in [1, 2] {
        assert_eq!(ask(&invite, n, &[]).await.unwrap_err(), ReasonCode::ApprovalPending);
    }
    for waiting in hub.registry.view().await.unwrap().pending {
        hub.registry.decide_pending(waiting.fingerprint, Verdict::Approved).await.unwrap();
    }
    ask(&invite, 1, &[]).await.unwrap();
    assert_eq!(ask(&invite, 2, &[]).await.unwrap_err(), ReasonCode::InviteSpent);
}

/// An invite that holds for some sources is refused from elsewhere on the underlay, and where the hub cannot tell.
#[tokio::test]
async fn sources() {
    let hub = Hub::start().await;
    let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::new(std::sync::Mutex::new(None::<IpAddr>));
    let told = seen.clone();
    let underlay: Underlay = Arc::new(move |_| {
        let found = *told.lock().unwrap();
        Box::pin(async move { found })
    });
    let (registry, limits) = (hub.registry.clone(), Limits::default());
    let service = Service::with_underlay(registry, hub.keys.clone(), limits, applied_at_once(), underlay);
    let serving = tokio::spawn(enrollment::io::listener::serve(listener, service));
    let sources = vec!["198.51.100.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
    let invite = hub.invite(InviteOrder { sources, ..order("aws", &[]) }).await;
    let mut api = HubApi::of_invite(&invite);
    api.address.set_port(port);
    for (from, fine) in [(None, false), (Some("192.0.2.7"), false), (Some("198.51.100.9"), true)] {
        *seen.lock().unwrap() = from.map(|from| from.parse().unwrap());
        let answer = client::enroll(&api, &invite, &keys(1), &[]).await;
        match answer {
            Ok(_) => assert!(fine, "{from:?}"),
            Err(refusal) => {
                assert_eq!((refusal.code, fine), (ReasonCode::UnderlayForbidden, false), "{from:?}")
            }
        }
    }
    assert_eq!(hub.registry.snapshot().leaves.len(), 1);
    serving.abort();
}

/// A new machine takes over name, address and claims: by an invite made for it, or by approval; the old machine's
/// keys are revoked, and without the hub's word nothing is taken over.
#[tokio::test]
async fn replacement() {
    let hub = Hub::start().await;
    let old = join(&hub, "pve", 1, &[ip("10.99.9.10")]).await;
    let plain = hub.invite(order("pve", &["10.0.0.0/8"])).await;
    assert_eq!(ask(&plain, 2, &[]).await.unwrap_err(), ReasonCode::SiteTaken);

    let mistyped = InviteOrder { replace: true, ..order("pwe", &["10.99.9.0/24"]) };
    let refused = hub.registry.create_invite(mistyped).await.err().map(|refusal| refusal.code);
    assert_eq!(refused, Some(ReasonCode::LeafUnknown));
    let invite = hub.invite(InviteOrder { replace: true, ..order("pve", &["10.99.9.0/24"]) }).await;
    let new = ask(&invite, 2, &[]).await.unwrap();
    assert_eq!((&new.leaf, new.overlay, &new.claims), (&old.leaf, old.overlay, &old.claims));
    assert!(new.permitted.contains(&"10.0.0.0/8".parse().unwrap()));
    assert_eq!(new.wireguard_key, keys(2).wireguard_key());
    let late = client::renew(&api(&old), &keys(1), &old).await.unwrap_err();
    assert_eq!(late.code, ReasonCode::LeaseRevoked);
    client::renew(&api(&new), &keys(2), &new).await.unwrap();

    let wants = async |n: u64| {
        let api = HubApi::of_invite(&plain);
        client::join(&api, &plain, &keys(n), &[], true).await.map_err(|refusal| refusal.code)
    };
    assert_eq!(wants(3).await.unwrap_err(), ReasonCode::ApprovalPending);
    let waiting = hub.registry.view().await.unwrap().pending;
    assert_eq!(waiting[0].replaces.as_ref().unwrap().as_str(), "pve");
    assert_eq!(wants(3).await.unwrap_err(), ReasonCode::ApprovalPending);
    hub.registry.decide_pending("pve".into(), Verdict::Approved).await.unwrap();
    let third = wants(3).await.unwrap();
    assert_eq!((third.overlay, third.claims.len()), (old.overlay, 1));
    let late = client::renew(&api(&new), &keys(2), &new).await.unwrap_err();
    assert_eq!(late.code, ReasonCode::LeaseRevoked);

    // The machine itself, through its own tunnel; nobody else's tunnel will do.
    let other = join(&hub, "aws", 7, &[]).await;
    let invite = hub.invite(InviteOrder { replace: true, ..order("pve", &["10.99.9.0/24"]) }).await;
    let through = async |leaf| client::join(&api(leaf), &invite, &keys(4), &[], true).await;
    assert_eq!(through(&other).await.unwrap_err().code, ReasonCode::SourceForbidden);
    let fourth = through(&third).await.unwrap();
    assert_eq!((fourth.overlay, fourth.claims.len()), (old.overlay, 1));
    let late = client::renew(&api(&third), &keys(3), &third).await.unwrap_err();
    assert_eq!(late.code, ReasonCode::LeaseRevoked);
}

/// A machine that replaces itself by an invite with approval waits as any other: over a restart of the hub, with its
/// former keys in force; what was shown covers fewer claims and no further one; a refusal leaves it as it was.
#[tokio::test]
async fn replacement_in_place_waits() {
    let hub = Hub::start().await;
    let old = join(&hub, "pve", 1, &[ip("10.99.9.10")]).await;
    let order = InviteOrder { replace: true, approve: true, ..order("pve", &["10.99.9.0/24"]) };
    let invite = hub.invite(order).await;
    let asked = async |at: &HubApi, n: u64, claims: &[Ipv4Addr]| {
        client::join(at, &invite, &keys(n), claims, true).await.map_err(|refusal| refusal.code)
    };
    let through = async |n: u64, claims: &[Ipv4Addr]| asked(&api(&old), n, claims).await;
    let both = [ip("10.99.9.10"), ip("10.99.9.11")];
    assert_eq!(through(2, &both).await.unwrap_err(), ReasonCode::ApprovalPending);
    assert_eq!(through(2, &both[..1]).await.unwrap_err(), ReasonCode::ApprovalPending);
    let waiting = hub.registry.view().await.unwrap().pending;
    assert_eq!(waiting.len(), 1);
    assert_eq!(
        (waiting[0].replaces.clone().unwrap(), waiting[0].claims.as_slice()),
        (old.leaf.clone(), &both[..])
    );
    client::renew(&api(&old), &keys(1), &old).await.unwrap();
    hub.registry.decide_pending("pve".into(), Verdict::Denied).await.unwrap();
    assert_eq!(through(2, &both[..1]).await.unwrap_err(), ReasonCode::ApprovalDenied);
    assert_eq!(hub.registry.snapshot().leaves[&old.leaf].wireguard_key, keys(1).wireguard_key());

    assert_eq!(through(3, &both[..1]).await.unwrap_err(), ReasonCode::ApprovalPending);
    let (folder, port) = (hub.folder.clone(), hub.port);
    drop(hub);
    let hub = Hub::start_in(folder, Limits::default(), applied_at_once(), |s| s.api_port = port).await;
    let restarted = HubApi { address: hub.at(old.topology.hubs[0].overlay), ..api(&old) };
    assert_eq!(asked(&restarted, 3, &both[..1]).await.unwrap_err(), ReasonCode::ApprovalPending);
    hub.registry.decide_pending("pve".into(), Verdict::Approved).await.unwrap();
    assert_eq!(
        asked(&restarted, 3, &both).await.unwrap_err(),
        ReasonCode::ApprovalPending,
        "one claim was not shown"
    );
    hub.registry.decide_pending("pve".into(), Verdict::Approved).await.unwrap();
    let new = asked(&restarted, 3, &both).await.unwrap();
    assert_eq!((new.overlay, new.wireguard_key, new.claims.len()), (old.overlay, keys(3).wireguard_key(), 2));
    assert!(hub.registry.view().await.unwrap().pending.iter().all(|p| p.verdict == Verdict::Denied));
    let late = client::renew(&restarted, &keys(1), &old).await.unwrap_err();
    assert_eq!(late.code, ReasonCode::LeaseRevoked);
}

/// A move changes the owner at once and fences the former one, whose route is kept until the new one's is there.
#[tokio::test]
async fn moved_claims() {
    let hub = Hub::start().await;
    let address = ip("10.81.1.1");
    let mut aws = join(&hub, "aws", 1, &[address]).await;
    let azure = join(&hub, "azure", 2, &[]).await;
    let to = |leaf: &str| hub.registry.move_claim(address, name(leaf));
    assert_eq!(to("nobody").await.unwrap_err().code, ReasonCode::LeafUnknown);
    assert_eq!(to("aws").await.unwrap(), None);
    assert!(to("azure").await.unwrap().is_some());

    let now = hub.registry.snapshot();
    assert!(now.leaves[&azure.leaf].claims.contains_key(&address));
    assert!(!now.leaves[&aws.leaf].claims.contains_key(&address));
    assert!(now.leaves[&aws.leaf].lingering.contains_key(&address), "make before break");
    let generation = now.leaves[&azure.leaf].claims[&address].generation;
    assert!(generation > aws.claims[&address].generation);
    aws = client::topology(&api(&aws), &keys(1), &aws).await.unwrap();
    assert!(aws.claims.contains_key(&address), "the former owner still announces it");

    hub.registry.move_done(address).await.unwrap();
    assert!(hub.registry.snapshot().leaves[&aws.leaf].lingering.is_empty());
    let old = aws.claims[&address].generation;
    let conflict = client::add_claim(&api(&aws), &keys(1), &aws, address).await.unwrap_err();
    assert_eq!((conflict.code, conflict.owner.as_deref()), (ReasonCode::ClaimConflict, Some("azure")));
    let late = client::release_claim(&api(&aws), &keys(1), &aws, address, Some(old)).await.unwrap_err();
    assert_eq!((late.code, late.owner.as_deref()), (ReasonCode::ClaimStale, Some("azure")));
    assert_eq!(hub.registry.snapshot().leaves[&azure.leaf].claims[&address].generation, generation);
    let history = hub.registry.claim_history(Some(address), 10).await.unwrap();
    let steps: Vec<_> = history.iter().map(|entry| (entry.leaf.as_str(), entry.step)).collect();
    let expected = [("azure", ClaimStep::Added), ("aws", ClaimStep::Moved), ("aws", ClaimStep::Added)];
    assert_eq!(steps, expected);

    // Back again, and nobody ends it: time does, over a restart too.
    to("aws").await.unwrap();
    let (folder, port) = (hub.folder.clone(), hub.port);
    drop(hub);
    let hub = Hub::start_in(folder, Limits::default(), applied_at_once(), |s| s.api_port = port).await;
    assert!(hub.registry.snapshot().leaves[&azure.leaf].lingering.contains_key(&address));
    hub.advance(MOVE_SECS);
    hub.registry.tick().await.unwrap();
    assert!(hub.registry.snapshot().moves.is_empty());
    assert!(hub.registry.snapshot().leaves[&aws.leaf].claims.contains_key(&address));
}

/// A move cannot go where the new owner's admission does not permit it, or has no room.
#[tokio::test]
async fn moves_are_judged_like_claims() {
    let hub = Hub::start().await;
    let address = ip("10.81.1.1");
    join(&hub, "aws", 1, &[address]).await;
    let invite = hub.invite(order("azure", &["10.82.0.0/16"])).await;
    ask(&invite, 2, &[]).await.unwrap();
    let invite = hub.invite(InviteOrder { max_claims: 0, ..order("oci", &["10.81.0.0/16"]) }).await;
    ask(&invite, 3, &[]).await.unwrap();
    for (leaf, code) in [("azure", ReasonCode::ClaimNotPermitted), ("oci", ReasonCode::ClaimLimit)] {
        assert_eq!(hub.registry.move_claim(address, name(leaf)).await.unwrap_err().code, code);
    }
    let nobodys = hub.registry.move_claim(ip("10.81.9.9"), name("aws")).await.unwrap_err();
    assert_eq!(nobodys.code, ReasonCode::ClaimUnknown);
}

/// Fresh keys: the old ones sign for the overlap and not longer, a lost answer does no harm, and no key of the leaf's
/// past or of anybody else is taken.
#[tokio::test]
async fn rotation() {
    let hub = Hub::start().await;
    let first = join(&hub, "aws", 1, &[ip("10.81.1.1")]).await;
    let other = join(&hub, "azure", 9, &[]).await;
    let rotate = async |old: u64, new: u64, last: &Admission| {
        let answer = client::rotate(&api(last), &keys(old), &keys(new), last).await;
        answer.map_err(|refusal| refusal.code)
    };
    assert_eq!(rotate(1, 9, &first).await.unwrap_err(), ReasonCode::KeyTaken);
    let second = rotate(1, 2, &first).await.unwrap();
    assert_eq!(second.wireguard_key, keys(2).wireguard_key());
    assert_eq!((second.overlay, &second.claims), (first.overlay, &first.claims));
    assert_eq!(rotate(1, 2, &second).await.unwrap().wireguard_key, keys(2).wireguard_key(), "asked again");
    assert_eq!(hub.registry.snapshot().leaves[&first.leaf].wireguard_key, keys(2).wireguard_key());
    client::renew(&api(&second), &keys(1), &second).await.unwrap();
    client::renew(&api(&second), &keys(2), &second).await.unwrap();
    hub.advance(KEY_OVERLAP_SECS);
    let late = client::renew(&api(&second), &keys(1), &second).await.unwrap_err();
    assert_eq!(late.code, ReasonCode::SignatureInvalid);
    assert_eq!(rotate(2, 1, &second).await.unwrap_err(), ReasonCode::KeyTaken, "not back to former keys");
    let third = rotate(2, 3, &second).await.unwrap();
    assert_eq!(rotate(3, 1, &third).await.unwrap_err(), ReasonCode::KeyTaken);
    hub.registry.revoke(first.leaf.clone()).await.unwrap();
    for n in [1, 2, 3] {
        let late = client::renew(&api(&third), &keys(n), &third).await.unwrap_err();
        assert_eq!(late.code, ReasonCode::LeaseRevoked, "key {n}");
    }
    client::renew(&api(&other), &keys(9), &other).await.unwrap();
}

/// A rotate request that does not prove the new key, or is altered in any field, changes nothing.
#[tokio::test]
async fn a_rotation_proves_its_key() {
    use enrollment::wire::{Envelope, Operation, RotateRequest};
    let hub = Hub::start().await;
    let aws = join(&hub, "aws", 1, &[]).await;
    let request = RotateRequest {
        head: head(&aws.leaf, hub.keys.signing_key(), hub.challenge(aws.overlay).await, 5),
        wireguard_key: keys(2).wireguard_key(),
        signing_key: keys(2).signing_key(),
    };
    let unproved = Envelope::rotate(&request, keys(1).signing(), keys(3).signing());
    let code = hub.code(aws.overlay, Operation::Rotate, &json(&unproved)).await;
    assert_eq!(code, ReasonCode::PossessionInvalid);
    let fresh = RotateRequest {
        head: head(&aws.leaf, hub.keys.signing_key(), hub.challenge(aws.overlay).await, 5),
        ..request
    };
    let mut altered = Envelope::rotate(&fresh, keys(1).signing(), keys(2).signing());
    let text = String::from_utf8(altered.payload.0).unwrap();
    altered.payload.0 =
        text.replace(&keys(2).wireguard_key().to_string(), &keys(4).wireguard_key().to_string()).into();
    let code = hub.code(aws.overlay, Operation::Rotate, &json(&altered)).await;
    assert_eq!(code, ReasonCode::SignatureInvalid);
    assert_eq!(hub.registry.snapshot().leaves[&aws.leaf].wireguard_key, keys(1).wireguard_key());
}

/// Leaving frees the claims at once, ends the tunnel a moment later, keeps the history, and is final for these keys;
/// a new invite brings the place back to a new machine.
#[tokio::test]
async fn leaving() {
    let hub = Hub::start().await;
    let aws = join(&hub, "aws", 1, &[ip("10.81.1.1")]).await;
    let last = client::leave(&api(&aws), &keys(1), &aws).await.unwrap();
    assert!(last.claims.is_empty());
    let now = hub.registry.snapshot();
    assert!(now.leaves[&aws.leaf].leaving && now.leaves[&aws.leaf].claims.is_empty());
    let code = client::renew(&api(&aws), &keys(1), &last).await.unwrap_err().code;
    assert_eq!(code, ReasonCode::LeafLeft);
    hub.advance(LEAVE_SECS);
    hub.registry.tick().await.unwrap();
    assert!(hub.registry.snapshot().leaves.is_empty());
    let view = hub.registry.view().await.unwrap();
    assert_eq!(view.leaves[0].phase, LeafPhase::Left);
    let history = hub.registry.claim_history(None, 10).await.unwrap();
    assert_eq!(history[0].step, ClaimStep::Left);
    let again = join(&hub, "aws", 2, &[ip("10.81.1.1")]).await;
    assert_eq!(again.overlay, aws.overlay);
}

/// Leaves that are long gone are forgotten where the policy says so, and only there; what they held is free then.
#[tokio::test]
async fn forgotten_leaves() {
    for policy in [None, Some(30 * 86_400)] {
        let limits = Limits { per_source_burst: 1000, ..Limits::default() };
        let hub = Hub::start_with(limits, |settings| settings.forget_leaves_secs = policy).await;
        let silent = join(&hub, "silent", 1, &[ip("10.81.1.1")]).await;
        join(&hub, "revoked", 2, &[]).await;
        hub.registry.revoke(name("revoked")).await.unwrap();
        hub.advance(20 * 86_400);
        let alive = join(&hub, "alive", 3, &[]).await;
        hub.registry.tick().await.unwrap();
        assert_eq!(hub.registry.view().await.unwrap().leaves.len(), 3);
        hub.advance(12 * 86_400);
        client::renew(&api(&alive), &keys(3), &alive).await.unwrap();
        hub.registry.tick().await.unwrap();
        let left = hub.registry.view().await.unwrap().leaves;
        assert_eq!(left.len(), if policy.is_some() { 1 } else { 3 }, "{policy:?}");
        if policy.is_some() {
            let late: Result<_, Refusal> = client::renew(&api(&silent), &keys(1), &silent).await;
            assert_eq!(late.unwrap_err().code, ReasonCode::LeafUnknown);
            let next = join(&hub, "next", 4, &[ip("10.81.1.1")]).await;
            assert_eq!(next.overlay, silent.overlay, "the address is free again");
            let old = hub.invite(order("silent", &[])).await;
            assert_eq!(ask(&old, 1, &[]).await.unwrap_err(), ReasonCode::LeaseRevoked, "its keys are not");
        }
    }
}

/// A leaf is told what the hub rejects of itself: as the leaf that signed, from its own address, and of no other.
#[tokio::test]
async fn a_leaf_hears_what_is_rejected_of_itself() {
    let hub = Hub::start().await;
    let aws = join(&hub, "aws", 1, &[]).await;
    let azure = join(&hub, "azure", 2, &[]).await;
    let none = client::rejected(&api(&aws), &keys(1), &aws).await.unwrap();
    assert_eq!(none.total, 0, "nobody tells the service anything yet");
    let rejected = RejectedRoute {
        prefix: "10.81.10.66/32".into(),
        next_hop: aws.overlay.into(),
        reason: "not-owned".into(),
    };
    let (of_aws, told) = (RejectedAnswer { routes: vec![rejected], total: 1 }, aws.overlay);
    let answer = of_aws.clone();
    hub.service.tell_rejected(Arc::new(move |leaf| {
        let answer = if leaf == told { answer.clone() } else { RejectedAnswer::default() };
        Box::pin(async move { answer })
    }));
    assert_eq!(client::rejected(&api(&aws), &keys(1), &aws).await.unwrap(), of_aws);
    let other = client::rejected(&api(&azure), &keys(2), &azure).await.unwrap();
    assert_eq!(other, RejectedAnswer::default());
    // Another's key, and another's address with the right key.
    let foreign_key = client::rejected(&api(&aws), &keys(2), &aws).await.unwrap_err();
    assert_eq!(foreign_key.code, ReasonCode::SignatureInvalid);
    let foreign_address = client::rejected(&api(&azure), &keys(1), &aws).await.unwrap_err();
    assert_eq!(foreign_address.code, ReasonCode::SourceForbidden);
    // From the foyer, and by who was revoked.
    let foyer = HubApi::of_invite(&hub.invite(order("oci", &["10.0.0.0/8"])).await);
    let from_foyer = client::rejected(&foyer, &keys(1), &aws).await.unwrap_err();
    assert_eq!(from_foyer.code, ReasonCode::SourceForbidden);
    hub.registry.revoke(aws.leaf.clone()).await.ok().unwrap();
    let revoked = client::rejected(&api(&aws), &keys(1), &aws).await.unwrap_err();
    assert_eq!(revoked.code, ReasonCode::LeaseRevoked);
}
