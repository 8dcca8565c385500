//! A second hub joins by its invite and both follow each other, over HTTP on loopback.

mod common;

use common::*;
use enrollment::exchange::JoinAnswer;
use enrollment::io::follow::Replication;
use enrollment::io::http::{Limits, Service};
use enrollment::io::hub_http::{self, HubService};
use enrollment::io::keys::NodeKeys;
use enrollment::io::listener::serve_router;
use enrollment::io::store::Registry;
use enrollment::reason::ReasonCode;
use enrollment::wire::{Challenge, EnrollRequest, Envelope};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A hub with its listeners and its following.
struct Node {
    registry: Registry,
    replication: Replication,
    port: u16,
    listeners: Vec<JoinHandle<()>>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.listeners.iter().for_each(JoinHandle::abort);
    }
}

async fn start(folder: &Path, keys: Arc<NodeKeys>, port: u16, joined: Option<&JoinAnswer>) -> Node {
    let mut settings = settings(&keys);
    if let Some(answer) = joined {
        let own = answer.record(&keys.signing_key()).unwrap();
        settings.name = own.node.name.clone();
        settings.overlay = own.node.overlay;
        settings.endpoints = own.node.endpoints.clone();
        settings.known_hubs = answer.hubs.clone();
    }
    let overlay = listen(settings.overlay, port).await;
    settings.api_port = overlay.local_addr().unwrap().port();
    let (port, foyer_hub) = (settings.api_port, settings.foyer_hub);
    let registry = Registry::open(&folder.join("registry.sqlite"), settings, keys.clone()).await.unwrap();
    let limits = Limits { per_source_burst: 10_000, ..Limits::default() };
    let leaves = Service::new(registry.clone(), keys.clone(), limits, applied_at_once());
    let hubs = HubService::new(registry.clone(), keys.clone(), applied_at_once());
    let router = enrollment::io::http::router(leaves).merge(hub_http::router(hubs));
    let mut listeners = vec![tokio::spawn(serve_router(overlay, router.clone()))];
    if joined.is_none() {
        listeners.push(tokio::spawn(serve_router(listen(foyer_hub, port).await, router)));
    }
    let replication = Replication::start(registry.clone(), keys);
    Node { registry, replication, port, listeners }
}

/// One port for every address of both hubs. Below those that the kernel gives away (`ip_local_port_range`), because one
/// that is free at the first address may be in use at the second by then; another process has another one.
fn free_port() -> u16 {
    10_000 + (std::process::id() % 20_000) as u16
}

/// A port that was ours a moment ago may need a moment.
async fn listen(address: Ipv4Addr, port: u16) -> TcpListener {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        match TcpListener::bind((address, port)).await {
            Ok(listener) => return listener,
            Err(error) => assert!(Instant::now() < end, "{address}:{port}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until both say that they are in step, and their digests agree.
async fn in_step(first: &Node, second: &Node) -> Duration {
    let begin = Instant::now();
    loop {
        let equal = first.registry.digest().await.unwrap() == second.registry.digest().await.unwrap();
        let views = [first.replication.views(), second.replication.views()];
        let told = views.iter().all(|views| views.len() == 1 && views[0].state == "in-step");
        if equal && told && views.iter().all(|views| views[0].lag_entries == 0) {
            return begin.elapsed();
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "not in step: {views:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The whole way: joining by one string, following both ways, a hub away and back, and retirement.
#[tokio::test]
async fn a_second_hub_joins_and_both_follow() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (one, two) = (Arc::new(keys(1)), Arc::new(keys(2)));
    let first = start(folders[0].path(), one.clone(), free_port(), None).await;
    first.registry.create_invite(order("before", &[])).await.ok().unwrap();
    let invite = first.registry.create_hub_invite(name("hub-2"), 3600).await.ok().unwrap();
    let text = invite.encode();
    let read = enrollment::invite::Invite::decode(&text).ok().unwrap();
    let endpoints = vec!["203.0.113.6:51820".parse().unwrap()];

    let request = EnrollRequest {
        invite: invite.id,
        hub: one.signing_key(),
        challenge: Challenge([1; 32]),
        wireguard_key: keys(9).wireguard_key(),
        signing_key: keys(9).signing_key(),
        claims: vec![],
        replace: false,
    };
    let envelope = Envelope::enroll(&request, &invite.mac_key(), keys(9).signing());
    let leaf = first.registry.enroll(envelope, IpAddr::V4(invite.foyer_address)).await;
    assert_eq!(leaf.unwrap_err().code, ReasonCode::InviteUnknown, "a hub's invite admits no leaf");

    let answer = hub_http::join(&read, &two, endpoints.clone()).await.unwrap();
    let again = hub_http::join(&read, &two, endpoints.clone()).await.unwrap();
    assert_eq!(answer, again, "the answer got lost: the same again");
    let record = answer.record(&two.signing_key()).unwrap();
    assert_eq!((record.index, record.node.name.as_str()), (1, "hub-2"));
    let stranger = hub_http::join(&read, &keys(3), endpoints.clone()).await.unwrap_err();
    assert_eq!(stranger.code, ReasonCode::InviteSpent);
    let third = first.registry.create_hub_invite(name("hub-3"), 3600).await.ok().unwrap();
    let third = hub_http::join(&third, &keys(3), endpoints).await.unwrap_err();
    assert_eq!(third.code, ReasonCode::SiteTaken, "{third}");

    let second = start(folders[1].path(), two.clone(), first.port, Some(&answer)).await;
    in_step(&first, &second).await;
    assert_eq!(second.registry.view().await.unwrap().invites.len(), 3);
    second.registry.create_invite(order("aws", &[])).await.ok().unwrap();
    first.registry.create_invite(order("oci", &[])).await.ok().unwrap();
    in_step(&first, &second).await;

    // The second is away; the first goes on; the second returns and is in step again.
    drop(second);
    first.registry.create_invite(order("pve", &[])).await.ok().unwrap();
    let second = start(folders[1].path(), two.clone(), first.port, Some(&answer)).await;
    in_step(&first, &second).await;
    assert_eq!(second.registry.view().await.unwrap().invites.len(), 6);
    for node in [&first, &second] {
        let report = node.registry.verify_audit().await.unwrap();
        assert_eq!((report.fault, report.hubs.len()), (None, 2));
    }

    // A retired hub is not served any more.
    first.registry.retire_hub(name("hub-2")).await.unwrap();
    assert!(first.registry.snapshot().hubs.is_empty());
    let end = Instant::now() + Duration::from_secs(20);
    while !second.replication.views().iter().all(|view| view.state == "silent") {
        assert!(Instant::now() < end, "{:?}", second.replication.views());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Nobody but the other hub, from its own address, is served entries.
#[tokio::test]
async fn strangers_get_no_entries() {
    let folder = tempfile::tempdir().unwrap();
    let first = start(folder.path(), Arc::new(keys(1)), 0, None).await;
    let hub = first.registry.snapshot().hub.node();
    let stranger = hub_http::pull(&keys(7), ip("127.10.0.9"), &hub, Default::default(), false).await;
    let message = stranger.err().unwrap().message;
    assert!(message.contains("403"), "{message}");
}
