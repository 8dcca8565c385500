//! `fabric-rr` as a plain reflector with dynamic peers only, killed and started again: no client loses a route, the
//! peers that return are fresh at once, and the routes of one that never returns go when the deferral is over.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bgp::io::{Neighbor, Originated, Speaker, SpeakerConfig};
use bgp::types::Prefix;

const ASN: u32 = 65000;
/// `selectionDeferralSecs` of the reflector.
const DEFERRAL: Duration = Duration::from_secs(5);
/// Longest wait for anything else.
const LIMIT: Duration = Duration::from_secs(20);

fn address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 61, 0, n)
}

fn route(n: u8) -> Prefix {
    Prefix::from(Ipv4Addr::new(10, 61, n, 1))
}

/// A daemon that ends with the test.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn reflector(dir: &Path, port: u16) -> Daemon {
    let config = dir.join("reflector.yaml");
    let text = format!(
        "apiVersion: net.routerd.net/v1alpha1\nkind: BGPRouter\nmetadata: {{name: reflector}}\nspec:\n  \
         asn: {ASN}\n  routerID: 10.61.0.1\n  listen: [\"{}:{port}\"]\n  selectionDeferralSecs: {}\n---\n\
         apiVersion: net.routerd.net/v1alpha1\nkind: BGPDynamicPeer\nmetadata: {{name: clients}}\nspec:\n  \
         sourcePrefixes: [127.61.0.0/24]\n  admission: open\n",
        address(1),
        DEFERRAL.as_secs()
    );
    std::fs::write(&config, text).unwrap();
    let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).unwrap();
    let program = fabric_tests::harness::bin_dir().unwrap().join("fabric-rr");
    let mut command = Command::new(program);
    command.arg("--root").arg(dir).arg("--config").arg(config);
    Daemon(command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
}

async fn client(n: u8, port: u16) -> Speaker {
    let mut config = SpeakerConfig::new(ASN, Ipv4Addr::new(10, 61, 0, n));
    config.publish_best_paths = true;
    let client = Speaker::start(config, Vec::new()).await.unwrap();
    let mut hub = Neighbor::new("hub", address(1).into(), ASN);
    hub.port = port;
    hub.local_address = Some(address(n).into());
    client.set_neighbors(vec![hub]).await;
    client.originate(vec![Originated::new(route(n), Ipv4Addr::new(10, 61, 0, n))]).await;
    client
}

/// The learned routes, each with whether it is stale.
fn learned(client: &Speaker) -> BTreeMap<Prefix, bool> {
    let paths = client.best_paths().borrow().clone();
    paths.routes.iter().filter(|(_, r)| !r.local).map(|(p, r)| (*p, r.stale)).collect()
}

/// Waits until the learned routes are these; meanwhile none of `always` may be missing.
async fn until(client: &Speaker, wanted: &[(u8, bool)], always: &[u8], dir: &Path) {
    let wanted: BTreeMap<Prefix, bool> = wanted.iter().map(|(n, stale)| (route(*n), *stale)).collect();
    let deadline = Instant::now() + LIMIT;
    let mut paths = client.best_paths();
    loop {
        let now = learned(client);
        assert!(always.iter().all(|n| now.contains_key(&route(*n))), "a route was lost: {now:?}");
        if now == wanted {
            return;
        }
        let log = || std::fs::read_to_string(dir.join("log")).unwrap_or_default();
        assert!(Instant::now() < deadline, "wanted {wanted:?}, have {now:?}\n{}", log());
        let _ = tokio::time::timeout(Duration::from_millis(100), paths.changed()).await;
    }
}

fn remembered(dir: &Path) -> Vec<IpAddr> {
    let text = std::fs::read(dir.join("var/lib/fabric/bgp-peers.json")).unwrap_or_default();
    let content: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let peers = content["peers"].as_array().into_iter().flatten();
    peers.filter_map(|p| p.as_str()?.parse().ok()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_reflector_remembers_its_dynamic_peers() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let free = TcpListener::bind(SocketAddr::from((address(1), 0))).unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let first = reflector(dir, port);
    // Whoever finds it listening at once also comes back at once: waits grow with failed attempts only.
    let begin = Instant::now();
    while std::net::TcpStream::connect((address(1), port)).is_err() {
        assert!(begin.elapsed() < LIMIT, "the reflector does not listen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (two, three, four) = (client(2, port).await, client(3, port).await, client(4, port).await);
    for (client, others) in [(&two, [3, 4]), (&three, [2, 4]), (&four, [2, 3])] {
        until(client, &others.map(|n| (n, false)), &[], dir).await;
    }
    let all: Vec<IpAddr> = [2, 3, 4].map(|n| IpAddr::V4(address(n))).into();
    let deadline = Instant::now() + LIMIT;
    while remembered(dir) != all {
        assert!(Instant::now() < deadline, "remembered: {:?}", remembered(dir));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    drop(first);
    // The fourth dies with the reflector and never returns.
    four.shutdown("gone for good").await;
    until(&two, &[(3, true), (4, true)], &[3, 4], dir).await;
    let begin = Instant::now();
    let _second = reflector(dir, port);
    until(&two, &[(3, false), (4, true)], &[3, 4], dir).await;
    let back = begin.elapsed();
    assert!(back < DEFERRAL, "routes flow while End-of-RIB waits: {back:?}");
    until(&three, &[(2, false), (4, true)], &[2, 4], dir).await;
    until(&two, &[(3, false)], &[3], dir).await;
    let flushed = begin.elapsed();
    assert!(flushed >= DEFERRAL - Duration::from_millis(500), "End-of-RIB came after {flushed:?}");
    assert!(flushed < DEFERRAL + LIMIT / 4, "the wait is bounded: {flushed:?}");
    until(&three, &[(2, false)], &[2], dir).await;
    let deadline = Instant::now() + LIMIT;
    while remembered(dir) != all[..2] {
        assert!(Instant::now() < deadline, "the lost one is forgotten: {:?}", remembered(dir));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
