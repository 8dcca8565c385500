//! The leaf API through the real listener on loopback: every code of the hub, replays, races, restarts.

mod common;

use common::*;
use enrollment::io::client::{self, HubApi};
use enrollment::io::http::{Applied, Limits};
use enrollment::io::keys::NodeKeys;
use enrollment::policy::InviteOrder;
use enrollment::reason::{ReasonCode, Refusal, Side};
use enrollment::topology::Admission;
use enrollment::wire::{AddClaimRequest, Challenge, Envelope, Operation, ReleaseClaimRequest, RenewRequest};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;

fn foyer(hub: &Hub, invite: &enrollment::invite::Invite) -> HubApi {
    let api = HubApi::of_invite(invite);
    assert_eq!(api.address.port(), hub.port);
    api
}

async fn join(hub: &Hub, site: &str, keys: &NodeKeys, claims: &[Ipv4Addr]) -> Result<Admission, Refusal> {
    let invite = hub.invite(order(site, &["10.0.0.0/8"])).await;
    client::enroll(&foyer(hub, &invite), &invite, keys, claims).await
}

/// The whole life of a leaf through the client: enroll, again, renew, claim, release, topology, revoke.
#[tokio::test]
async fn the_life_of_a_leaf() {
    let hub = Hub::start().await;
    let key = keys(1);
    let invite = hub.invite(order("aws", &["10.81.0.0/16"])).await;
    let text = invite.encode();
    let read = enrollment::invite::Invite::decode(&text).ok().unwrap();
    let claims = [ip("10.81.10.20")];
    let first = client::enroll(&foyer(&hub, &read), &read, &key, &claims).await.unwrap();
    assert_eq!((first.leaf.as_str(), first.overlay), ("aws", ip("127.10.0.2")));
    assert_eq!(first.topology.hubs[0].endpoints, read.hub_endpoints);
    let again = client::enroll(&foyer(&hub, &read), &read, &key, &claims).await.unwrap();
    assert_eq!(again, first);

    let api = HubApi::of_admission(&first).unwrap();
    hub.advance(3600);
    let renewed = client::renew(&api, &key, &first).await.unwrap();
    assert_eq!((renewed.valid_until, renewed.lease_left_secs), (NOW + 3600 + 86_400, 86_400));
    let added = client::add_claim(&api, &key, &renewed, ip("10.81.10.21")).await.unwrap();
    assert_eq!(added.claims.len(), 2);
    // A leaf whose state came from a backup is corrected by itself.
    let generation = added.claims[&ip("10.81.10.21")].generation;
    let released =
        client::release_claim(&api, &key, &first, ip("10.81.10.21"), Some(generation)).await.unwrap();
    assert_eq!(released.claims.len(), 1);
    let before = hub.registry.snapshot().generation;
    assert_eq!(client::topology(&api, &key, &first).await.unwrap().claims, released.claims);
    assert_eq!(hub.registry.snapshot().generation, before, "asking for the topology changes nothing");
    let history = hub.registry.claim_history(Some(ip("10.81.10.21")), 10).await.unwrap();
    let steps: Vec<_> = history.iter().map(|entry| entry.step.as_str()).collect();
    assert_eq!(steps, ["released", "added"]);

    let mut published = hub.registry.watch();
    hub.registry.revoke(name("aws")).await.unwrap();
    assert!(published.has_changed().unwrap());
    assert!(published.borrow_and_update().leaves.is_empty());
    assert_eq!(client::renew(&api, &key, &released).await.unwrap_err().code, ReasonCode::LeaseRevoked);
    assert_eq!(hub.service.refusals()["lease-revoked"], 1);
    assert_eq!(hub.service.grants()["/v1/enroll"], 2);
}

/// Every code that the list gives to the hub comes out of the real API, with its HTTP status, and no other does.
#[tokio::test]
async fn every_code_of_the_hub() {
    let mut seen = BTreeSet::new();
    codes_of_requests(&mut seen).await;
    codes_of_enrollment(&mut seen).await;
    codes_of_leaves(&mut seen).await;
    codes_of_trouble(&mut seen).await;
    codes_of_life(&mut seen).await;
    if !on_postgres() {
        codes_of_two_hubs(&mut seen).await;
    }
    // The database is taken away in tests/postgres/shared.rs, which needs one.
    // Hubs on one database give no name twice: there `name-lost` has no cause.
    let elsewhere = |code: &ReasonCode| {
        *code == ReasonCode::RegistryLost || on_postgres() && *code == ReasonCode::NameLost
    };
    let hub_has = |code: &ReasonCode| code.side() == Side::Hub && !elsewhere(code);
    let declared = ReasonCode::ALL.iter().copied().filter(hub_has).collect();
    assert_eq!(seen, declared);
}

async fn codes_of_life(seen: &mut BTreeSet<ReasonCode>) {
    let hub = Hub::start().await;
    let waiting = hub.invite(InviteOrder { approve: true, ..order("aws", &[]) }).await;
    let sources = vec!["198.51.100.0/24".parse().unwrap()];
    let elsewhere = hub.invite(InviteOrder { sources, ..order("pve", &[]) }).await;
    let mut ask = async |invite: &enrollment::invite::Invite, n| {
        let code = client::enroll(&foyer(&hub, invite), invite, &keys(n), &[]).await.unwrap_err().code;
        seen.insert(code);
        code
    };
    for n in 0..9 {
        assert_eq!(ask(&waiting, n).await, ReasonCode::ApprovalPending);
    }
    assert_eq!(ask(&waiting, 9).await, ReasonCode::ApprovalFull);
    let print = hub
        .registry
        .view()
        .await
        .unwrap()
        .pending
        .iter()
        .find(|p| p.wireguard_key == keys(0).wireguard_key())
        .unwrap()
        .fingerprint
        .clone();
    hub.registry.decide_pending(print, enrollment::approval::Verdict::Denied).await.unwrap();
    assert_eq!(ask(&waiting, 0).await, ReasonCode::ApprovalDenied);
    assert_eq!(ask(&elsewhere, 20).await, ReasonCode::UnderlayForbidden);
    let gone = join(&hub, "gone", &keys(30), &[]).await.unwrap();
    let api = HubApi::of_admission(&gone).unwrap();
    let last = client::leave(&api, &keys(30), &gone).await.unwrap();
    seen.insert(client::renew(&api, &keys(30), &last).await.unwrap_err().code);
}

async fn codes_of_requests(seen: &mut BTreeSet<ReasonCode>) {
    let limits = Limits { body_timeout: Duration::from_millis(200), ..Limits::default() };
    let hub = Hub::start_with(limits, |_| {}).await;
    let (key, op) = (hub.keys.signing_key(), Operation::Enroll);
    let from = ip("127.10.15.9");
    seen.insert(hub.code(from, op, b"{}").await);
    seen.insert(hub.code(from, op, &vec![b' '; 20_000]).await);
    for (method, path) in
        [("GET", "/v1/enroll"), ("POST", "/v1/admin/apply"), ("DELETE", "/"), ("GET", "/metrics")]
    {
        let (status, answer) = exchange(&mut hub.connect(from).await, method, path, b"").await;
        let refusal = refusal(op, b"", &answer, &key);
        assert_eq!((status, refusal.code), (404, ReasonCode::EndpointUnknown), "{method} {path}");
        seen.insert(refusal.code);
    }
    let mut slow = hub.connect(from).await;
    slow.write_all(b"POST /v1/enroll HTTP/1.1\r\nhost: hub\r\ncontent-length: 100\r\n\r\n{").await.unwrap();
    let (status, answer) = read_answer(&mut slow).await;
    assert_eq!(status, 408);
    seen.insert(refusal(op, b"", &answer, &key).code);
    let outside = hub.code(ip("127.99.0.1"), Operation::Challenge, b"{}").await;
    assert_eq!(outside, ReasonCode::SourceForbidden);

    let rated = Limits { per_source_burst: 3, per_source_per_sec: 1, ..Limits::default() };
    let hub = Hub::start_with(rated, |_| {}).await;
    let mut codes = Vec::new();
    // The fourth, unless the machine stood still for a second meanwhile.
    while codes.last() != Some(&ReasonCode::RateLimited) && codes.len() < 20 {
        codes.push(hub.code(from, op, b"{}").await);
    }
    assert!(codes.len() > 3 && codes.last() == Some(&ReasonCode::RateLimited), "{codes:?}");
    assert_eq!(
        hub.code(ip("127.10.15.10"), op, b"{}").await,
        ReasonCode::RequestMalformed,
        "others are not held up"
    );
    seen.extend(codes);

    let hub = Hub::start_with(Limits { in_flight: 1, ..Limits::default() }, |_| {}).await;
    let mut holder = hub.connect(from).await;
    holder.write_all(b"POST /v1/enroll HTTP/1.1\r\nhost: hub\r\ncontent-length: 100\r\n\r\n").await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut code = hub.code(from, op, b"{}").await;
    while code != ReasonCode::HubBusy && Instant::now() < deadline {
        code = hub.code(from, op, b"{}").await;
    }
    seen.insert(code);
}

/// The other hub admitted another machine under the name before: the leaf is told when it renews.
async fn codes_of_two_hubs(seen: &mut BTreeSet<ReasonCode>) {
    let (first, second) = (Hub::start().await, Hub::start().await);
    let record = |hub: &Hub, index| {
        let node = hub.registry.snapshot().hub.node();
        enrollment::registry::HubRecord { node, index, joined_at: NOW, version: 2, retired_at: None }
    };
    let hubs = vec![record(&first, 0), record(&second, 1)];
    first.registry.adopt_hubs(hubs.clone()).await.unwrap();
    second.registry.adopt_hubs(hubs).await.unwrap();
    join(&second, "aws", &keys(8), &[]).await.unwrap();
    first.advance(9);
    let admission = join(&first, "aws", &keys(9), &[]).await.unwrap();
    let have = first.registry.heads().await.unwrap();
    let batch = second.registry.batch(first.keys.signing_key(), have).await.unwrap();
    assert!(first.registry.take(batch).await.unwrap().entries > 0);
    let api = HubApi::of_admission(&admission).unwrap();
    let refusal = client::renew(&api, &keys(9), &admission).await.unwrap_err();
    assert_eq!(refusal.code, ReasonCode::NameLost, "{refusal}");
    seen.insert(refusal.code);
}

async fn codes_of_enrollment(seen: &mut BTreeSet<ReasonCode>) {
    let hub = Hub::start().await;
    join(&hub, "aws", &keys(1), &[ip("10.81.10.20")]).await.unwrap();
    let invite = hub.invite(InviteOrder { max_claims: 1, ..order("pve", &["10.81.0.0/16"]) }).await;
    let api = foyer(&hub, &invite);
    let mut tried =
        async |invite: &enrollment::invite::Invite, api: &HubApi, key: &NodeKeys, claims: &[&str]| {
            let claims: Vec<_> = claims.iter().map(|claim| ip(claim)).collect();
            let code = client::enroll(api, invite, key, &claims).await.unwrap_err().code;
            seen.insert(code);
            code
        };
    let unknown = enrollment::invite::Invite { id: secret(9).0, ..invite.clone() };
    assert_eq!(tried(&unknown, &api, &keys(2), &[]).await, ReasonCode::InviteUnknown);
    let wrong = enrollment::invite::Invite { secret: secret(9).1, ..invite.clone() };
    assert_eq!(tried(&wrong, &api, &keys(2), &[]).await, ReasonCode::SignatureInvalid);
    assert_eq!(tried(&invite, &api, &keys(1), &[]).await, ReasonCode::KeyTaken);
    assert_eq!(tried(&invite, &api, &keys(2), &["10.82.1.1"]).await, ReasonCode::ClaimNotPermitted);
    assert_eq!(tried(&invite, &api, &keys(2), &["10.81.10.20"]).await, ReasonCode::ClaimConflict);
    assert_eq!(tried(&invite, &api, &keys(2), &["10.81.1.1", "10.81.1.2"]).await, ReasonCode::ClaimLimit);
    let taken = hub.invite(order("aws", &[])).await;
    assert_eq!(tried(&taken, &foyer(&hub, &taken), &keys(2), &[]).await, ReasonCode::SiteTaken);
    client::enroll(&api, &invite, &keys(2), &[]).await.unwrap();
    assert_eq!(tried(&invite, &api, &keys(3), &[]).await, ReasonCode::InviteSpent);
    let short = hub.invite(InviteOrder { expires_in_secs: 5, ..order("oci", &[]) }).await;
    let withdrawn = hub.invite(order("azure", &[])).await;
    hub.registry.revoke_invite(withdrawn.id).await.unwrap();
    hub.advance(5);
    assert_eq!(tried(&short, &foyer(&hub, &short), &keys(3), &[]).await, ReasonCode::InviteExpired);
    assert_eq!(tried(&withdrawn, &foyer(&hub, &withdrawn), &keys(3), &[]).await, ReasonCode::InviteRevoked);

    let invite = hub.invite(order("gcp", &[])).await;
    let from = invite.foyer_address;
    let foreign = enrollment::invite::Invite { hub_signing_key: keys(5).signing_key(), ..invite.clone() };
    let envelope = enroll_envelope(&foreign, &keys(3), hub.challenge(from).await, &[]);
    assert_eq!(hub.code(from, Operation::Enroll, &json(&envelope)).await, ReasonCode::WrongHub);
    seen.insert(ReasonCode::WrongHub);
    let mut envelope = enroll_envelope(&invite, &keys(3), hub.challenge(from).await, &[]);
    envelope.possession = None;
    assert_eq!(hub.code(from, Operation::Enroll, &json(&envelope)).await, ReasonCode::PossessionInvalid);
    seen.insert(ReasonCode::PossessionInvalid);
    let envelope = enroll_envelope(&invite, &keys(3), Challenge([1; 32]), &[]);
    assert_eq!(hub.code(from, Operation::Enroll, &json(&envelope)).await, ReasonCode::ChallengeInvalid);
    seen.insert(ReasonCode::ChallengeInvalid);

    let tiny = |settings: &mut enrollment::policy::HubSettings| {
        settings.overlay_prefix = "127.10.0.0/30".parse().unwrap()
    };
    let hub = Hub::start_with(Limits::default(), tiny).await;
    join(&hub, "one", &keys(1), &[]).await.unwrap();
    let full = join(&hub, "two", &keys(2), &[]).await.unwrap_err().code;
    assert_eq!(full, ReasonCode::OverlayFull);
    seen.insert(full);
}

async fn codes_of_leaves(seen: &mut BTreeSet<ReasonCode>) {
    let hub = Hub::start().await;
    let (a, b) = (keys(1), keys(2));
    let aws = join(&hub, "aws", &a, &[ip("10.81.1.1")]).await.unwrap();
    let pve = join(&hub, "pve", &b, &[]).await.unwrap();
    let api = HubApi::of_admission(&aws).unwrap();
    let mut note = |refusal: Refusal, expected: ReasonCode| {
        assert_eq!(refusal.code, expected);
        seen.insert(expected);
    };
    let nobody = Admission { leaf: name("nobody"), ..aws.clone() };
    note(client::renew(&api, &a, &nobody).await.unwrap_err(), ReasonCode::LeafUnknown);
    note(
        client::release_claim(&api, &a, &aws, ip("10.81.1.9"), None).await.unwrap_err(),
        ReasonCode::ClaimUnknown,
    );
    let stale = client::release_claim(&api, &a, &aws, ip("10.81.1.1"), Some(9999)).await.unwrap_err();
    note(stale, ReasonCode::ClaimStale);
    let elsewhere = HubApi { bind: Some(pve.overlay.into()), ..api.clone() };
    note(client::renew(&elsewhere, &a, &aws).await.unwrap_err(), ReasonCode::SourceForbidden);
    let quarantined = HubApi { bind: Some(ip("127.10.15.2").into()), ..api.clone() };
    note(client::renew(&quarantined, &a, &aws).await.unwrap_err(), ReasonCode::SourceForbidden);
    // From the foyer not even the question whether a leaf exists is answered.
    note(client::renew(&quarantined, &a, &nobody).await.unwrap_err(), ReasonCode::SourceForbidden);

    let challenge = hub.challenge(aws.overlay).await;
    let request = RenewRequest { head: head(&aws.leaf, hub.keys.signing_key(), challenge, 0) };
    let envelope = Envelope::signed(Operation::Renew, &request, a.signing());
    let code = hub.code(aws.overlay, Operation::Renew, &json(&envelope)).await;
    note(Refusal::of(code), ReasonCode::CounterStale);
    hub.registry.revoke(name("aws")).await.unwrap();
    note(client::renew(&api, &a, &aws).await.unwrap_err(), ReasonCode::LeaseRevoked);
}

/// A registry that cannot be written refuses and changes nothing.
async fn codes_of_trouble(seen: &mut BTreeSet<ReasonCode>) {
    let hub = Hub::start().await;
    let aws = join(&hub, "aws", &keys(1), &[]).await.unwrap();
    let invite = hub.invite(order("pve", &[])).await;
    let other = rusqlite::Connection::open(hub.folder.path().join("registry.sqlite")).unwrap();
    other.execute_batch("ALTER TABLE leaves RENAME TO hidden").unwrap();
    let before = hub.registry.snapshot();
    let refusal = client::enroll(&foyer(&hub, &invite), &invite, &keys(2), &[]).await.unwrap_err();
    assert_eq!(refusal.code, ReasonCode::Internal);
    assert_eq!(hub.registry.snapshot(), before, "nothing is published that is not durable");
    other.execute_batch("ALTER TABLE hidden RENAME TO leaves").unwrap();
    client::enroll(&foyer(&hub, &invite), &invite, &keys(2), &[]).await.unwrap();
    client::renew(&HubApi::of_admission(&aws).unwrap(), &keys(1), &aws).await.unwrap();
    seen.insert(refusal.code);
}

/// A captured request does nothing a second time: on the same connection, on another, from elsewhere, at another hub,
/// and after a restart of the hub.
#[tokio::test]
async fn replays() {
    let hub = Hub::start().await;
    let invite = hub.invite(InviteOrder { uses: 5, ..order("edge", &["10.0.0.0/8"]) }).await;
    let from = invite.foyer_address;
    let body = json(&enroll_envelope(&invite, &keys(1), hub.challenge(from).await, &[ip("10.1.1.1")]));
    let mut stream = hub.connect(from).await;
    let (status, answer) = exchange(&mut stream, "POST", Operation::Enroll.path(), &body).await;
    assert_eq!(status, 200);
    let admission: Admission = answer.open(Operation::Enroll, &body, &hub.keys.signing_key()).unwrap();
    hub.registry.revoke(admission.leaf.clone()).await.unwrap();
    let (_, again) = exchange(&mut stream, "POST", Operation::Enroll.path(), &body).await;
    let again = refusal(Operation::Enroll, &body, &again, &hub.keys.signing_key());
    assert_eq!(again.code, ReasonCode::ChallengeInvalid);
    assert_eq!(hub.code(from, Operation::Enroll, &body).await, ReasonCode::ChallengeInvalid);
    assert_eq!(hub.code(ip("127.10.15.77"), Operation::Enroll, &body).await, ReasonCode::ChallengeInvalid);

    // An answer belongs to one request: neither its bytes altered, nor for another request, nor for another operation.
    let key = hub.keys.signing_key();
    let opened = |answer: &enrollment::wire::SignedAnswer, op, body: &[u8]| {
        answer.open::<Admission>(op, body, &key).map_err(|refusal| refusal.code)
    };
    let mut other_body = body.clone();
    other_body.push(b' ');
    assert_eq!(opened(&answer, Operation::Enroll, &other_body), Err(ReasonCode::AnswerInvalid));
    assert_eq!(opened(&answer, Operation::Renew, &body), Err(ReasonCode::AnswerInvalid));
    let mut altered = answer.clone();
    let text = String::from_utf8(altered.payload.0).unwrap().replace("10.1.1.1", "10.1.1.2");
    altered.payload.0 = text.into_bytes();
    assert_eq!(opened(&altered, Operation::Enroll, &body), Err(ReasonCode::AnswerInvalid));
    altered.signature = None;
    assert_eq!(opened(&altered, Operation::Enroll, &body), Err(ReasonCode::AnswerInvalid));
    let stranger = keys(66).signing_key();
    assert_eq!(
        answer.open::<Admission>(Operation::Enroll, &body, &stranger).unwrap_err().code,
        ReasonCode::AnswerInvalid
    );

    let other = Hub::start().await;
    assert_eq!(other.code(from, Operation::Enroll, &body).await, ReasonCode::ChallengeInvalid);
    // A hub in the middle that hands on another hub's challenge gets a request that the other does not take.
    let relayed = json(&enroll_envelope(&invite, &keys(9), other.challenge(from).await, &[]));
    assert_eq!(other.code(from, Operation::Enroll, &relayed).await, ReasonCode::InviteUnknown);

    let folder = hub.folder.clone();
    drop(hub);
    let hub = Hub::start_in(folder, Limits::default(), applied_at_once(), |_| {}).await;
    assert_eq!(hub.code(from, Operation::Enroll, &body).await, ReasonCode::ChallengeInvalid);
    assert!(hub.registry.snapshot().leaves.is_empty(), "still revoked");
}

/// Fifty machines with one one-use invite at the same moment: exactly one wins, the others are told that it is spent.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_uses_of_one_invite() {
    let hub = Arc::new(Hub::start().await);
    let invite = Arc::new(hub.invite(order("aws", &["10.0.0.0/8"])).await);
    let mut jobs = tokio::task::JoinSet::new();
    for n in 0..50 {
        let (api, invite) = (foyer(&hub, &invite), invite.clone());
        jobs.spawn(async move { client::enroll(&api, &invite, &keys(n), &[ip("10.81.10.20")]).await });
    }
    let outcomes = jobs.join_all().await;
    let won = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    let spent =
        |outcome: &&Result<_, Refusal>| outcome.as_ref().is_err_and(|e| e.code == ReasonCode::InviteSpent);
    assert_eq!((won, outcomes.iter().filter(spent).count()), (1, 49));
    assert_eq!(hub.registry.snapshot().leaves.len(), 1);
}

/// Leaves that race for one `/32`, over and over: always exactly one owner, and the losers are told who.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn races_for_one_address() {
    let hub = Hub::start().await;
    let mut leaves = Vec::new();
    for n in 0..4 {
        let admission = join(&hub, &format!("site-{n}"), &keys(n), &[]).await.unwrap();
        leaves.push((HubApi::of_admission(&admission).unwrap(), Arc::new(keys(n)), admission));
    }
    for round in 0..25u8 {
        let address = Ipv4Addr::new(10, 80, 0, round);
        let mut jobs = tokio::task::JoinSet::new();
        for (api, keys, last) in leaves.clone() {
            jobs.spawn(async move { client::add_claim(&api, &keys, &last, address).await });
        }
        let outcomes = jobs.join_all().await;
        let snapshot = hub.registry.snapshot();
        let owners: Vec<_> =
            snapshot.leaves.values().filter(|leaf| leaf.claims.contains_key(&address)).collect();
        assert_eq!(owners.len(), 1);
        for refusal in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
            assert_eq!(refusal.code, ReasonCode::ClaimConflict);
            assert_eq!(refusal.owner.as_deref(), Some(owners[0].name.as_str()));
        }
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    }
}

/// A hundred machines enroll at once: all are admitted, each with its own overlay address.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_at_once() {
    let hub = Arc::new(Hub::start().await);
    let mut jobs = tokio::task::JoinSet::new();
    for n in 0..100 {
        let invite = hub.invite(order(&format!("site-{n}"), &["10.0.0.0/8"])).await;
        let api = foyer(&hub, &invite);
        jobs.spawn(async move {
            client::enroll(&api, &invite, &keys(n), &[Ipv4Addr::from(0x0a50_0000 + n as u32)])
                .await
                .unwrap()
                .overlay
        });
    }
    let overlays: BTreeSet<_> = jobs.join_all().await.into_iter().collect();
    assert_eq!((overlays.len(), hub.registry.snapshot().leaves.len()), (100, 100));
}

/// Everything is as before after a restart: admissions, claims, foyer, generation; and no secret is in the files.
#[tokio::test]
async fn a_restart_loses_nothing() {
    use base64::Engine;
    let hub = Hub::start().await;
    let first = join(&hub, "aws", &keys(1), &[ip("10.81.1.1"), ip("10.81.1.2")]).await.unwrap();
    join(&hub, "gone", &keys(2), &[ip("10.82.1.1")]).await.unwrap();
    hub.registry.revoke(name("gone")).await.unwrap();
    let open = hub.invite(order("pve", &["10.0.0.0/8"])).await;
    let before = hub.registry.snapshot();
    let view = hub.registry.view().await.unwrap();
    let folder = hub.folder.clone();
    let text = open.encode();
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(&text["fabric1-".len()..]).unwrap();
    let (secret, private) = (&bytes[8..40], open.wireguard_private_key());
    for file in ["registry.sqlite", "registry.sqlite-wal"] {
        let path = folder.path().join(file);
        let stored = std::fs::read(&path).unwrap();
        for hidden in [secret, private.as_slice(), text.as_bytes()] {
            assert!(!stored.windows(hidden.len()).any(|window| window == hidden), "a secret is in {file}");
        }
        use std::os::unix::fs::MetadataExt;
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600, "{file}");
    }
    drop(hub);
    let same_port = before.hub.api_port;
    let hub = Hub::start_in(folder, Limits::default(), applied_at_once(), |s| s.api_port = same_port).await;
    assert_eq!(*hub.registry.snapshot(), *before);
    assert_eq!(hub.registry.view().await.unwrap(), view);
    let api = HubApi { address: hub.at(ip("127.10.0.1")), ..HubApi::of_admission(&first).unwrap() };
    client::renew(&api, &keys(1), &first).await.unwrap();
    let next = hub.invite(order("next", &["10.0.0.0/8"])).await;
    assert_ne!(next.foyer_address, open.foyer_address);
}

/// A stored record that cannot be read is reported; it keeps its address and claims from others and blocks nobody.
#[tokio::test]
async fn a_bad_record_blocks_itself_alone() {
    let hub = Hub::start().await;
    let aws = join(&hub, "aws", &keys(1), &[ip("10.81.1.1")]).await.unwrap();
    let pve = join(&hub, "pve", &keys(2), &[ip("10.81.1.2")]).await.unwrap();
    let folder = hub.folder.clone();
    drop(hub);
    let db = rusqlite::Connection::open(folder.path().join("registry.sqlite")).unwrap();
    db.execute("UPDATE leaves SET record = '{\"name\":' WHERE name = 'aws'", []).unwrap();
    db.execute("INSERT INTO invites (id, mac_key, record) VALUES ('zz', x'00', '{}')", []).unwrap();
    db.execute("INSERT INTO claims (address, leaf, generation, since) VALUES ('10.1', 'pve', 1, 1)", [])
        .unwrap();
    db.execute("INSERT INTO claims (address, leaf, generation, since) VALUES ('10.9.9.9', 'Ä', 1, 1)", [])
        .unwrap();
    drop(db);
    let limits = Limits { per_source_burst: 1000, ..Limits::default() };
    let hub = Hub::start_in(folder, limits, applied_at_once(), |_| {}).await;
    let tables: BTreeMap<_, usize> = hub.registry.view().await.unwrap().bad_records.into_iter().fold(
        BTreeMap::new(),
        |mut counts, bad| {
            *counts.entry(bad.table).or_default() += 1;
            counts
        },
    );
    assert_eq!(tables, [("claims".into(), 2), ("invites".into(), 1), ("leaves".into(), 1)].into());
    let api = HubApi { address: hub.at(ip("127.10.0.1")), ..HubApi::of_admission(&pve).unwrap() };
    client::renew(&api, &keys(2), &pve).await.unwrap();
    let conflict = client::add_claim(&api, &keys(2), &pve, ip("10.81.1.1")).await.unwrap_err();
    assert_eq!((conflict.code, conflict.owner.as_deref()), (ReasonCode::ClaimConflict, Some("aws")));
    let conflict = client::add_claim(&api, &keys(2), &pve, ip("10.9.9.9")).await.unwrap_err();
    assert_eq!(conflict.code, ReasonCode::ClaimConflict);
    assert_eq!(join(&hub, "aws", &keys(3), &[]).await.unwrap_err().code, ReasonCode::SiteTaken);
    let next = join(&hub, "oci", &keys(4), &[]).await.unwrap();
    assert!(next.overlay != aws.overlay && next.overlay != pve.overlay);
}

/// The answer to a change waits until the dataplane has it, but never longer than a second; a renewal does not wait.
#[tokio::test]
async fn answers_wait_for_the_dataplane() {
    let done = Arc::new(AtomicBool::new(false));
    let seen = done.clone();
    let slowly: Applied = Arc::new(move |_| {
        let done = seen.clone();
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            done.store(true, Ordering::SeqCst);
        })
    });
    let folder = || Arc::new(tempfile::tempdir().unwrap());
    let hub = Hub::start_in(folder(), Limits::default(), slowly, |_| {}).await;
    join(&hub, "aws", &keys(1), &[]).await.unwrap();
    assert!(done.load(Ordering::SeqCst));
    let never: Applied = Arc::new(|_| Box::pin(std::future::pending()));
    let hub = Hub::start_in(folder(), Limits::default(), never, |_| {}).await;
    let start = Instant::now();
    let admission = join(&hub, "aws", &keys(1), &[]).await.unwrap();
    // Without its bound it would wait for ever.
    assert!((1..10).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    // A machine that stands still for a moment is late by itself, but not three times; who waits is late each time.
    let (api, mut last, mut times) = (HubApi::of_admission(&admission).unwrap(), admission, Vec::new());
    for _ in 0..3 {
        let start = Instant::now();
        last = client::renew(&api, &keys(1), &last).await.unwrap();
        times.push(start.elapsed());
    }
    assert!(times.iter().any(|took| *took < Duration::from_millis(900)), "{times:?}");
}

/// Time publishes by itself: a lease that runs out takes its claims out of the admissions.
#[tokio::test]
async fn leases_run_out_by_themselves() {
    let hub = Hub::start_with(Limits::default(), |settings| settings.lease_secs = 2).await;
    let aws = join(&hub, "aws", &keys(1), &[ip("10.81.1.1")]).await.unwrap();
    let mut published = hub.registry.watch();
    published.borrow_and_update();
    hub.advance(2);
    let expired = published.wait_for(|admissions| admissions.leaves[&aws.leaf].expired);
    let admissions = tokio::time::timeout(Duration::from_secs(20), expired).await.unwrap().unwrap().clone();
    assert!(admissions.leaves[&aws.leaf].claims.is_empty());
    let renewed = client::renew(&HubApi::of_admission(&aws).unwrap(), &keys(1), &aws).await.unwrap();
    assert_eq!(renewed.claims.len(), 1);
    assert!(!hub.registry.snapshot().leaves[&aws.leaf].expired);
}

/// Junk from one address does not hinder another that renews.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn junk_does_not_hinder_others() {
    let hub = Arc::new(Hub::start_with(Limits::default(), |_| {}).await);
    let mut last = join(&hub, "aws", &keys(1), &[]).await.unwrap();
    let api = HubApi::of_admission(&last).unwrap();
    let flooding = hub.clone();
    let flood = tokio::spawn(async move {
        let mut stream = flooding.connect(ip("127.10.15.200")).await;
        loop {
            let head = "POST /v1/enroll HTTP/1.1\r\nhost: hub\r\ncontent-length: 2\r\n\r\n{}";
            let sent = stream.write_all(head.repeat(50).as_bytes()).await;
            let read = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 65536]).await;
            if sent.is_err() || read.is_ok_and(|count| count == 0) {
                stream = flooding.connect(ip("127.10.15.200")).await;
            }
        }
    });
    for _ in 0..20 {
        let start = Instant::now();
        last = client::renew(&api, &keys(1), &last).await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }
    flood.abort();
    assert!(hub.service.refusals()["rate-limited"] > 0);
}

/// A key with a newline, a name with a blank, an unknown field, a body that is no JSON: `request-malformed`, signed.
#[tokio::test]
async fn malformed_values() {
    let hub = Hub::start().await;
    let invite = hub.invite(order("aws", &[])).await;
    let from = invite.foyer_address;
    let good = String::from_utf8(json(&enroll_request(&invite, &keys(1), Challenge([1; 32]), &[]))).unwrap();
    let key = keys(1).wireguard_key().to_string();
    let cases = [
        good.replace(&key, &format!("{key}\\n")),
        good.replace(&key, &key[..40]),
        good.replace("\"claims\":[]", "\"claims\":[\"10.1.1.1/24\"]"),
        good.replace("\"claims\":[]", "\"claims\":[],\"claims\":[]"),
        good.replace("\"claims\":[]", "\"claims\":[],\"admin\":true"),
        "[".repeat(10_000),
        String::new(),
    ];
    for payload in cases {
        let payload = payload.into_bytes();
        let signature = invite.mac_key().sign(Operation::Enroll.request_domain(), &[&payload]);
        let envelope = serde_json::json!({
            "payload": enrollment::wire::Blob(payload), "signature": enrollment::wire::Blob(signature),
        });
        assert_eq!(hub.code(from, Operation::Enroll, &json(&envelope)).await, ReasonCode::RequestMalformed);
    }
    let head = head(&name("aws"), hub.keys.signing_key(), Challenge([1; 32]), 1);
    let bodies = [
        json(&AddClaimRequest { head: head.clone(), address: ip("10.1.1.1") }),
        json(&ReleaseClaimRequest { head, address: ip("10.1.1.1"), generation: None }),
    ];
    for body in bodies {
        assert_eq!(
            hub.code(ip("127.10.0.2"), Operation::AddClaim, &body).await,
            ReasonCode::RequestMalformed
        );
    }
}
