//! The attack table of docs/security.md where no other test has it: races by the thousand, floods, bodies without end,
//! and a leaf's credentials against everything that is the operator's. All through the real listener on loopback.

#![allow(clippy::print_stderr)] // the rates seen are part of what this test shows

mod common;

use common::*;
use enrollment::io::client::{self, HubApi};
use enrollment::io::http::Limits;
use enrollment::io::keys::NodeKeys;
use enrollment::policy::InviteOrder;
use enrollment::reason::ReasonCode;
use enrollment::topology::Admission;
use enrollment::wire::{Envelope, Operation, RenewRequest};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Two leaves race for one `/32`, a thousand times: always exactly one owner, and the loser is told who. On PostgreSQL
/// fewer times, for `postgres/shared.rs` has a thousand through two hubs.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_races() {
    let limits = Limits { per_source_burst: 100_000, per_source_per_sec: 100_000, ..Limits::default() };
    let hub = Hub::start_with(limits, |_| {}).await;
    let mut leaves = Vec::new();
    for n in 0..2 {
        let wide = InviteOrder { max_claims: 2000, ..order(&format!("site-{n}"), &["10.0.0.0/8"]) };
        let invite = hub.invite(wide).await;
        let admission = client::enroll(&HubApi::of_invite(&invite), &invite, &keys(n), &[]).await.unwrap();
        leaves.push((HubApi::of_admission(&admission).unwrap(), keys(n), admission));
    }
    let [(api_a, keys_a, last_a), (api_b, keys_b, last_b)] = leaves.try_into().ok().unwrap();
    let (mut last_a, mut last_b, mut won) = (last_a, last_b, [0, 0]);
    let rounds = if on_postgres() { 100 } else { 1000 };
    for round in 0..rounds {
        let address = Ipv4Addr::from_bits(0x0a50_0000 + round);
        let (a, b) = tokio::join!(
            client::add_claim(&api_a, &keys_a, &last_a, address),
            client::add_claim(&api_b, &keys_b, &last_b, address)
        );
        let loser = match (a, b) {
            (Ok(now), Err(refusal)) => {
                last_a = now;
                won[0] += 1;
                refusal
            }
            (Err(refusal), Ok(now)) => {
                last_b = now;
                won[1] += 1;
                refusal
            }
            (a, b) => panic!("round {round}: {a:?} and {b:?}"),
        };
        assert_eq!(loser.code, ReasonCode::ClaimConflict);
        let snapshot = hub.registry.snapshot();
        let mut owners = snapshot.leaves.values().filter(|leaf| leaf.claims.contains_key(&address));
        let owner = owners.next().expect("an owner");
        assert!(owners.next().is_none());
        assert_eq!(loser.owner.as_deref(), Some(owner.name.as_str()));
    }
    assert!(won[0] + won[1] == rounds, "{won:?}");
}

/// The paths of the administration socket, with a leaf's own well-signed request: every one is unknown on the leaf API,
/// whatever the method.
#[tokio::test]
async fn a_leaf_administers_nothing() {
    let hub = Hub::start().await;
    let invite = hub.invite(order("aws", &[])).await;
    let aws = client::enroll(&HubApi::of_invite(&invite), &invite, &keys(1), &[]).await.unwrap();
    let before = hub.registry.snapshot();
    // The routes of the socket as they stand in the code: a new one cannot be forgotten here.
    let routes =
        concat!(include_str!("../../fabric-rr/src/http.rs"), include_str!("../../control/src/speaker.rs"));
    let mut tried = 0;
    for path in routes.split(".route(\"").skip(1).filter_map(|rest| rest.split('"').next()) {
        let path = path
            .replace("{name}", "aws")
            .replace("{id}", "00")
            .replace("{what}", "aws")
            .replace("{kind}", "BGPRouter");
        for method in ["GET", "POST", "PUT", "DELETE"] {
            let challenge = hub.challenge(aws.overlay).await;
            let head = head(&aws.leaf, hub.keys.signing_key(), challenge, 1);
            let body = json(&Envelope::signed(Operation::Renew, &RenewRequest { head }, keys(1).signing()));
            let (status, answer) = exchange(&mut hub.connect(aws.overlay).await, method, &path, &body).await;
            let refusal = refusal(Operation::Renew, &body, &answer, &hub.keys.signing_key());
            assert_eq!((status, refusal.code), (404, ReasonCode::EndpointUnknown), "{method} {path}");
            tried += 1;
        }
    }
    assert!(tried > 60, "{tried}");
    assert_eq!(*hub.registry.snapshot(), *before);
}

/// A body without end, and one that comes an octet at a time, end by their limits and hold up nobody.
#[tokio::test]
async fn bodies_without_end() {
    let limits = Limits { body_timeout: Duration::from_millis(300), ..Limits::default() };
    let hub = Hub::start_with(limits, |_| {}).await;
    let from = ip("127.10.15.9");
    let begin = Instant::now();
    let mut endless = hub.connect(from).await;
    endless
        .write_all(b"POST /v1/enroll HTTP/1.1\r\nhost: hub\r\ntransfer-encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(4096));
    let mut sent = 0u64;
    while begin.elapsed() < Duration::from_secs(20) && endless.write_all(chunk.as_bytes()).await.is_ok() {
        sent += 4096;
        tokio::task::yield_now().await;
    }
    assert!(begin.elapsed() < Duration::from_secs(20), "it took {sent} octets and went on");
    let mut slow = hub.connect(from).await;
    slow.write_all(b"POST /v1/enroll HTTP/1.1\r\nhost: hub\r\ncontent-length: 100\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    let (mut reading, mut writing) = slow.split();
    let dribble = async {
        while writing.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        read = reading.read_exact(&mut answer) => drop(read.unwrap()),
        () = dribble => panic!("no answer before the end"),
    }
    assert_eq!(&answer[9..12], b"408");
    hub.challenge(ip("127.10.15.10")).await;
}

/// What a flood has to reach at least, junk requests a second from its first to its last moment.
const FLOOD_PER_SEC: f64 = 10_000.0;

/// Junk from eight sources, as fast as it goes and more than 10,000 requests a second, while three leaves renew: every
/// renewal is granted within a second. On PostgreSQL within three: each waits for a second process, which has to share
/// the cores with the flood. A refusal for the rate ends its connection, so that what was sent behind it on the same
/// one costs the hub nothing: it hears fewer requests than are sent, and the test prints both numbers.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn junk_while_leaves_renew() {
    let hub = Arc::new(Hub::start_with(Limits::default(), |_| {}).await);
    let mut leaves = Vec::new();
    for n in 0..3 {
        let invite = hub.invite(order(&format!("site-{n}"), &[])).await;
        let admission = client::enroll(&HubApi::of_invite(&invite), &invite, &keys(n), &[]).await.unwrap();
        leaves.push((HubApi::of_admission(&admission).unwrap(), keys(n), admission));
    }
    // A machine that stands still for a moment sends little and is late by itself, so there are three rounds; a hub that a
    // flood holds up is late in each.
    let limit = Duration::from_secs(if on_postgres() { 3 } else { 1 });
    let mut seen = Vec::new();
    for _ in 0..3 {
        let (rate, slowest) = flooded(&hub, &mut leaves).await;
        if rate >= FLOOD_PER_SEC && slowest < limit {
            return;
        }
        seen.push(format!("{slowest:?} at {rate:.0} junk requests a second"));
    }
    panic!("the slowest renewal of each of three rounds: {seen:?}");
}

/// Three seconds of the flood; gives the junk requests that were sent in each, and how long the slowest renewal took.
async fn flooded(hub: &Arc<Hub>, leaves: &mut [(HubApi, NodeKeys, Admission)]) -> (f64, Duration) {
    let sent = Arc::new(AtomicU64::new(0));
    let mut flood = tokio::task::JoinSet::new();
    let (begin, before) = (Instant::now(), heard(hub));
    for n in 0..8u8 {
        flood.spawn(junk(hub.clone(), Ipv4Addr::new(127, 10, 15, 200 + n), sent.clone()));
    }
    let (mut slowest, mut renewals) = (Duration::ZERO, 0);
    // At least three of each leaf, however slow the machine is.
    while begin.elapsed() < Duration::from_secs(3) || renewals < 9 {
        for (api, keys, last) in leaves.iter_mut() {
            let start = Instant::now();
            let counter = last.counter;
            *last = client::renew(api, keys, last).await.unwrap();
            assert!(last.counter > counter, "a renewal is what the hub decided, not what it knew");
            slowest = slowest.max(start.elapsed());
            renewals += 1;
        }
        // Below what one source may ask in the long run.
        tokio::time::sleep(Duration::from_millis(120)).await;
    }
    let secs = begin.elapsed().as_secs_f64();
    let rate = sent.load(Ordering::Relaxed) as f64 / secs;
    let refused = (heard(hub) - before) as f64 / secs;
    flood.abort_all();
    eprintln!(
        "{rate:.0} junk requests a second sent over {secs:.1} s, {refused:.0} heard and refused; all {renewals} renewals \
         granted, the slowest in {slowest:?}"
    );
    assert!(hub.service.refusals()["rate-limited"] > 100);
    (rate, slowest)
}

/// How many requests the hub has refused.
fn heard(hub: &Hub) -> u64 {
    hub.service.refusals().values().sum()
}

/// Junk from one source without end, a hundred requests a write, over a new connection whenever the hub ends one.
async fn junk(hub: Arc<Hub>, source: Ipv4Addr, sent: Arc<AtomicU64>) {
    let junk = "POST /v1/enroll HTTP/1.1\r\nhost: hub\r\ncontent-length: 2\r\n\r\n{}".repeat(100);
    loop {
        let mut stream = hub.connect(source).await;
        while stream.write_all(junk.as_bytes()).await.is_ok() {
            sent.fetch_add(100, Ordering::Relaxed);
            if stream.read(&mut [0; 65_536]).await.map_or(true, |count| count == 0) {
                break;
            }
        }
    }
}
