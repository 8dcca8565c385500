//! Several hubs on one database: who wins, what a loss of the database means, and how a log is shortened or moved in.

#[path = "../common/mod.rs"]
mod common;

use common::*;
use enrollment::exchange::{JoinAnswer, JoinRequest, Signed};
use enrollment::identity::InviteId;
use enrollment::invite::Invite;
use enrollment::io::client::{self, HubApi};
use enrollment::io::database::Address;
use enrollment::io::http::Limits;
use enrollment::io::store::{OpenError, Registry, system_clock};
use enrollment::policy::InviteOrder;
use enrollment::reason::{ReasonCode, Refusal};
use enrollment::topology::Admission;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(20);

fn unlimited() -> Limits {
    Limits { per_source_burst: 100_000, per_source_per_sec: 100_000, ..Limits::default() }
}

async fn hub_on(database: &Address, joined: Option<(&JoinAnswer, Arc<tempfile::TempDir>)>) -> Hub {
    let (answer, folder) = match joined {
        Some((answer, folder)) => (Some(answer.clone()), folder),
        None => (None, Arc::new(tempfile::tempdir().unwrap())),
    };
    let adjust = |settings: &mut enrollment::policy::HubSettings| {
        if let Some(answer) = answer {
            let own = answer.record(&settings.signing_key).unwrap().node.clone();
            (settings.name, settings.overlay) = (own.name, own.overlay);
            settings.known_hubs = answer.hubs;
        }
    };
    Hub::start_on(folder, Some(database.clone()), unlimited(), applied_at_once(), adjust).await
}

/// A further hub, by an invite of the first, on the same database.
async fn join(first: &Hub, called: &str, database: &Address) -> Hub {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let keys = enrollment::io::keys::NodeKeys::load_or_create(folder.path()).ok().unwrap();
    let invite = first.registry.create_hub_invite(name(called), 3600).await.ok().unwrap();
    let request = JoinRequest {
        invite: invite.id,
        to: first.keys.signing_key(),
        wireguard_key: keys.wireguard_key(),
        signing_key: keys.signing_key(),
        endpoints: vec!["203.0.113.6:51820".parse().unwrap()],
    };
    let signed = Signed::join(&request, &invite.mac_key(), keys.signing());
    let (answer, _) = first.registry.join_hub(signed, IpAddr::V4(invite.foyer_address)).await.unwrap();
    hub_on(database, Some((&answer, folder))).await
}

/// The API of one hub for a leaf that any of them admitted.
fn at(hub: &Hub, admission: &Admission) -> HubApi {
    HubApi::new(hub.at(ip("127.0.0.1")), Some(admission.overlay.into()), hub.keys.signing_key())
}

/// Waits until every hub has what the first has.
async fn in_step(hubs: &[&Hub]) -> Duration {
    let begin = Instant::now();
    loop {
        let mut digests = Vec::new();
        for hub in hubs {
            digests.push(hub.registry.digest().await.unwrap());
        }
        let attached =
            hubs.iter().all(|hub| hub.registry.database().is_some_and(|view| view.state == "in-step"));
        if attached && digests.iter().all(|digest| *digest == digests[0]) {
            return begin.elapsed();
        }
        let views: Vec<_> = hubs.iter().map(|hub| hub.registry.database()).collect();
        assert!(begin.elapsed() < LIMIT, "not in step: {views:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn enroll(hub: &Hub, site: &str, n: u64, order: InviteOrder) -> Admission {
    let invite = hub.invite(InviteOrder { site: name(site), ..order }).await;
    client::enroll(&HubApi::of_invite(&invite), &invite, &keys(n), &[]).await.unwrap()
}

/// Two leaves race for one `/32` through two hubs, a thousand times: exactly one owner, always, at both hubs, and the
/// loser is told who. A third hub that joins afterwards knows it all.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_races_through_two_hubs() {
    let cluster = Cluster::of_all_tests();
    let database = schema(&cluster, &cluster.fresh());
    let first = hub_on(&database, None).await;
    let second = join(&first, "hub-2", &database).await;
    let wide = InviteOrder { max_claims: 2000, ..order("x", &["10.0.0.0/8"]) };
    let mut last_a = enroll(&first, "site-a", 1, wide.clone()).await;
    let mut last_b = enroll(&second, "site-b", 2, wide).await;
    assert_ne!(last_a.overlay, last_b.overlay);
    in_step(&[&first, &second]).await;
    let (api_a, api_b) = (at(&first, &last_a), at(&second, &last_b));
    let (mut won, begin) = ([0, 0], Instant::now());
    for round in 0..1000u32 {
        let address = Ipv4Addr::from_bits(0x0a50_0000 + round);
        let (keys_a, keys_b) = (keys(1), keys(2));
        let (a, b) = tokio::join!(
            client::add_claim(&api_a, &keys_a, &last_a, address),
            client::add_claim(&api_b, &keys_b, &last_b, address)
        );
        let (loser, owner) = match (a, b) {
            (Ok(now), Err(refusal)) => {
                last_a = now;
                won[0] += 1;
                (refusal, "site-a")
            }
            (Err(refusal), Ok(now)) => {
                last_b = now;
                won[1] += 1;
                (refusal, "site-b")
            }
            (a, b) => panic!("round {round}: {a:?} and {b:?}"),
        };
        assert_eq!((loser.code, loser.owner.as_deref()), (ReasonCode::ClaimConflict, Some(owner)));
    }
    println!("1,000 races through two hubs in {:?}: won {won:?}", begin.elapsed());
    assert!(won[0] > 0 && won[1] > 0, "both hubs decide: {won:?}");
    let third = join(&second, "hub-3", &database).await;
    in_step(&[&first, &second, &third]).await;
    for hub in [&first, &second, &third] {
        let claims = hub.registry.view().await.unwrap().claims;
        assert_eq!(claims.len(), 1000, "one owner each");
        let report = hub.registry.verify_audit().await.unwrap();
        assert_eq!(report.fault, None);
        assert_eq!(hub.registry.snapshot().hubs.len(), 2, "the two others");
    }
}

/// Fifty machines use one invite at once, half of them at each hub: one joins.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_use_is_one_use_at_all_hubs() {
    let cluster = Cluster::of_all_tests();
    let database = schema(&cluster, &cluster.fresh());
    let first = hub_on(&database, None).await;
    let second = join(&first, "hub-2", &database).await;
    let invite = first.invite(order("aws", &[])).await;
    in_step(&[&first, &second]).await;
    let mut tries = tokio::task::JoinSet::new();
    for n in 0..50 {
        let hub = if n % 2 == 0 { &first } else { &second };
        let invite = Invite { hub_signing_key: hub.keys.signing_key(), ..invite.clone() };
        let api =
            HubApi::new(hub.at(ip("127.0.0.1")), Some(invite.foyer_address.into()), invite.hub_signing_key);
        tries.spawn(async move { client::enroll(&api, &invite, &keys(100 + n), &[]).await });
    }
    let outcomes = tries.join_all().await;
    let refused = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
    let good = |refusal: &&Refusal| [ReasonCode::InviteSpent, ReasonCode::SiteTaken].contains(&refusal.code);
    assert_eq!(refused.filter(good).count(), 49, "{outcomes:?}");
    in_step(&[&first, &second]).await;
    assert_eq!(second.registry.view().await.unwrap().leaves.len(), 1);
}

/// What waits for approval at one hub is approved at another; a revocation is everywhere at once.
#[tokio::test]
async fn decisions_reach_the_other_hub() {
    let cluster = Cluster::of_all_tests();
    let database = schema(&cluster, &cluster.fresh());
    let first = hub_on(&database, None).await;
    let second = join(&first, "hub-2", &database).await;
    let invite = first.invite(InviteOrder { approve: true, ..order("aws", &[]) }).await;
    let ask = || async { client::enroll(&HubApi::of_invite(&invite), &invite, &keys(1), &[]).await };
    assert_eq!(ask().await.unwrap_err().code, ReasonCode::ApprovalPending);
    in_step(&[&first, &second]).await;
    let begin = Instant::now();
    while second.registry.view().await.unwrap().pending.is_empty() {
        assert!(begin.elapsed() < LIMIT);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let verdict = enrollment::approval::Verdict::Approved;
    second.registry.decide_pending("aws".into(), verdict).await.unwrap();
    ask().await.unwrap();
    in_step(&[&first, &second]).await;
    first.registry.revoke(name("aws")).await.unwrap();
    let took = in_step(&[&first, &second]).await;
    assert!(second.registry.snapshot().leaves.is_empty());
    println!("a revocation was at the other hub after {took:?}");
}

/// The database stops: both hubs serve what they have and say so, what would have to be decided is refused with
/// `registry-lost`, no lease runs out meanwhile; it returns, and both go on, also with what one of them was asked in
/// between. A frozen database is the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_database_stops_and_returns() {
    let cluster = Cluster::start();
    let database = schema(&cluster, "one");
    let first = hub_on(&database, None).await;
    let second = join(&first, "hub-2", &database).await;
    let aws = enroll(&first, "aws", 1, order("aws", &["10.81.0.0/16"])).await;
    let invite = first.invite(order("oci", &["10.83.0.0/16"])).await;
    in_step(&[&first, &second]).await;
    for frozen in [false, true] {
        let before = second.registry.snapshot().leaves.clone();
        if frozen {
            cluster.freeze(true)
        } else {
            cluster.stop()
        }
        for hub in [&first, &second] {
            let begin = Instant::now();
            while hub.registry.database().unwrap().state != "lost" {
                assert!(begin.elapsed() < LIMIT, "{:?}", hub.registry.database());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let refused = client::renew(&at(hub, &aws), &keys(1), &aws).await.unwrap_err();
            assert_eq!(refused.code, ReasonCode::RegistryLost, "{refused}");
            assert!(refused.code.is_transient());
            let begin = Instant::now();
            let operator = hub.registry.revoke(name("aws")).await.unwrap_err();
            assert_eq!(operator.code, ReasonCode::RegistryLost);
            // Without asking the database, which would take the three seconds that a question may.
            assert!(begin.elapsed() < Duration::from_secs(2), "refused at once: {:?}", begin.elapsed());
            // The longest lease is over by the clock, and nobody could have renewed it.
            hub.advance(10 * 365 * 86_400);
            hub.registry.tick().await.unwrap();
            assert_eq!(hub.registry.snapshot().leaves, before, "served from memory");
        }
        let asked = client::enroll(&HubApi::of_invite(&invite), &invite, &keys(3), &[]).await;
        assert!(asked.is_err_and(|refusal| refusal.code == ReasonCode::RegistryLost));
        if frozen {
            cluster.freeze(false)
        } else {
            cluster.go()
        }
        in_step(&[&first, &second]).await;
        assert!(!first.registry.snapshot().leaves.values().any(|leaf| leaf.expired));
        client::renew(&at(&second, &aws), &keys(1), &aws).await.unwrap();
        in_step(&[&first, &second]).await;
    }
    enroll(&second, "pve", 4, order("pve", &[])).await;
    in_step(&[&first, &second]).await;
}

/// A hub starts without its database from its own copy; one that never had it cannot, and says why.
#[tokio::test]
async fn a_start_without_the_database() {
    let cluster = Cluster::start();
    let database = schema(&cluster, "one");
    let hub = hub_on(&database, None).await;
    enroll(&hub, "aws", 1, order("aws", &[])).await;
    let (keys, path) = (hub.keys.clone(), hub.folder.path().join("registry.sqlite"));
    let settings = settings(&keys);
    let folder = hub.folder.clone();
    drop(hub);
    cluster.stop();
    let open = |path: &Path| {
        let (path, database) = (path.to_owned(), Some(database.clone()));
        let (settings, keys) = (settings.clone(), keys.clone());
        async move { Registry::open_shared(&path, database, settings, keys, system_clock()).await }
    };
    let anew = open(&folder.path().join("anew.db")).await.err();
    assert!(matches!(anew, Some(OpenError::Shared { .. })), "{anew:?}");
    let again = open(&path).await.unwrap();
    assert_eq!(again.snapshot().leaves.len(), 1);
    assert_eq!(again.database().unwrap().state, "lost");
    cluster.go();
    let begin = Instant::now();
    while again.database().unwrap().state != "in-step" {
        assert!(begin.elapsed() < LIMIT, "{:?}", again.database());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    again.create_invite(order("oci", &[])).await.ok().unwrap();
}

/// A registry that was in a file moves into an empty database; its log is shortened there, and a hub that joins
/// later begins with the signed snapshot. A database that went back to an old copy gets what it lost again.
#[tokio::test]
async fn a_registry_moves_in() {
    let cluster = Cluster::of_all_tests();
    let (database, other) = (schema(&cluster, &cluster.fresh()), schema(&cluster, &cluster.fresh()));
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let alone = Hub::start_on(folder.clone(), None, unlimited(), applied_at_once(), |_| {}).await;
    enroll(&alone, "aws", 1, order("aws", &[])).await;
    let waits = alone.invite(InviteOrder { approve: true, ..order("waits", &[]) }).await;
    let asked = client::enroll(&HubApi::of_invite(&waits), &waits, &keys(2), &[]).await;
    assert_eq!(asked.unwrap_err().code, ReasonCode::ApprovalPending);
    drop(alone);

    let start = |database: &Address| {
        let (folder, database) = (folder.clone(), Some(database.clone()));
        async move { Hub::start_on(folder, database, unlimited(), applied_at_once(), |_| {}).await }
    };
    let first = start(&database).await;
    let second = join(&first, "hub-2", &database).await;
    in_step(&[&first, &second]).await;
    let view = second.registry.view().await.unwrap();
    assert_eq!((view.leaves.len(), view.pending.len()), (1, 1));
    for n in 0..10 {
        first.invite(order(&format!("site-{n}"), &[])).await;
    }
    second.registry.compact_database(3).await.unwrap();
    let third = join(&first, "hub-3", &database).await;
    in_step(&[&first, &second, &third]).await;
    assert_eq!(third.registry.view().await.unwrap().leaves.len(), 1);

    // Another, empty database in place of this one: the first hub to come brings all of it, the next adds nothing.
    first.invite(order("late", &[])).await;
    in_step(&[&first, &second, &third]).await;
    let invites = first.registry.view().await.unwrap().invites.len();
    drop((first, second, third));
    let first = start(&other).await;
    let view = first.registry.view().await.unwrap();
    assert_eq!((view.leaves.len(), view.invites.len()), (1, invites));
    let fourth = join(&first, "hub-4", &other).await;
    first.invite(order("after", &[])).await;
    in_step(&[&first, &fourth]).await;
}

/// Whoever can write to the database cannot decide: an entry that no hub signed is not taken in, and the hub says so.
#[tokio::test]
async fn an_altered_entry_is_refused() {
    let cluster = Cluster::of_all_tests();
    let of = cluster.fresh();
    let database = schema(&cluster, &of);
    let first = hub_on(&database, None).await;
    let second = join(&first, "hub-2", &database).await;
    in_step(&[&first, &second]).await;
    let schema = cluster.schema_url(&of).split("%3D").nth(1).unwrap().to_owned();
    let forged = format!(
        "SET search_path = {schema}; INSERT INTO fabric_log SELECT position + 1, origin, seq + 1, previous, body,
         signature FROM fabric_log ORDER BY position DESC LIMIT 1; UPDATE fabric_registry SET position = position + 1"
    );
    assert!(cluster.sql(&forged));
    let begin = Instant::now();
    while second.registry.database().unwrap().state != "lost" {
        assert!(begin.elapsed() < LIMIT);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let refusal = second.registry.revoke_invite(InviteId([1; 8])).await.unwrap_err();
    assert_eq!(refusal.code, ReasonCode::RegistryLost);
    assert!(refusal.message.contains("entry"), "{refusal}");
    assert_eq!(second.registry.snapshot().hubs.len(), 1, "served from memory");
}
