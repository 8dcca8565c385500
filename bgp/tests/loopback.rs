//! Speakers over real sockets on loopback: a hub, leaves that dial it, and the hub's death and return.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp::io::{DynamicPeers, Neighbor, Originated, RouteQuery, Speaker, SpeakerConfig};
use bgp::policy::{Admission, ImportPolicy};
use bgp::types::Prefix;

const ASN: u32 = 64512;

fn leaf_address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 40, 0, n)
}

/// Loopback addresses carry the sessions, but are no next hops.
fn overlay_address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 255, 0, n)
}

fn client(n: u8) -> Prefix {
    Prefix::from(Ipv4Addr::new(10, 80, n, 20))
}

async fn hub(port: u16) -> Speaker {
    let config = SpeakerConfig::new(ASN, Ipv4Addr::new(10, 255, 0, 1));
    let listen = SocketAddr::from(([127, 40, 0, 1], port));
    // The former hub's sockets close in their own time.
    let deadline = Instant::now() + Duration::from_secs(20);
    let hub = loop {
        match Speaker::start(config.clone(), vec![listen]).await {
            Ok(hub) => break hub,
            Err(error) if Instant::now() > deadline => panic!("hub: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    hub.set_dynamic_peers(vec![leaves(&[2, 3, 4])]).await;
    hub
}

fn leaves(admitted: &[u8]) -> DynamicPeers {
    let policy = |n: u8| {
        let owned = BTreeSet::from([client(n)]);
        let policy = ImportPolicy {
            owner: format!("leaf{n}"),
            owned,
            next_hop: overlay_address(n),
            max_prefixes: 16,
            passes_on: Default::default(),
        };
        (IpAddr::V4(leaf_address(n)), Arc::new(policy))
    };
    let admitted: HashMap<_, _> = admitted.iter().map(|n| policy(*n)).collect();
    DynamicPeers {
        name: "leaves".into(),
        source_prefixes: vec!["127.40.0.0/24".parse().expect("a prefix")],
        remote_asn: ASN,
        route_reflector_client: true,
        limit: 100,
        admission: Admission::Enrolled(Arc::new(admitted)),
        options: Default::default(),
    }
}

async fn leaf(n: u8, port: u16) -> Speaker {
    let mut config = SpeakerConfig::new(ASN, Ipv4Addr::new(10, 255, 0, n));
    config.publish_best_paths = true;
    let leaf = Speaker::start(config, Vec::new()).await.expect("leaf");
    let mut neighbor = Neighbor::new("hub", IpAddr::from([127, 40, 0, 1]), ASN);
    neighbor.port = port;
    neighbor.local_address = Some(leaf_address(n).into());
    neighbor.fail_static_secs = 3600;
    leaf.set_neighbors(vec![neighbor]).await;
    let rogue = Prefix::from(Ipv4Addr::new(10, 99, 0, n));
    let route = |p| Originated::new(p, overlay_address(n));
    leaf.originate(vec![route(client(n)), route(rogue)]).await;
    leaf
}

/// Waits until the leaf has exactly these routes of others; fails after ten seconds.
async fn learned(leaf: &Speaker, want: &[u8], stale: bool) {
    let mut paths = leaf.best_paths();
    let want: BTreeSet<Prefix> = want.iter().map(|n| client(*n)).collect();
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let now = paths.borrow_and_update().clone();
        let learned = now.routes.iter().filter(|(_, r)| !r.local);
        let got: BTreeSet<Prefix> = learned.clone().map(|(p, _)| *p).collect();
        if got == want && learned.clone().all(|(_, r)| r.stale == stale) {
            return;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "wanted {want:?} (stale {stale}), have {now:?}");
        let _ = tokio::time::timeout(left, paths.changed()).await;
    }
}

/// The hub reflects what its admissions cover and nothing else; its death, orderly or not, takes no route from a
/// leaf; its return refreshes them; a revoked leaf's routes go at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_with_three_leaves_lives_dies_and_returns() {
    let first = hub(0).await;
    let port = first.listening()[0].port();
    let (two, three, four) = (leaf(2, port).await, leaf(3, port).await, leaf(4, port).await);
    learned(&two, &[3, 4], false).await;
    learned(&three, &[2, 4], false).await;
    learned(&four, &[2, 3], false).await;

    let rejected = first.rejected().await;
    assert_eq!(rejected.len(), 3, "one rogue route of each leaf: {rejected:?}");
    assert!(rejected.iter().all(|r| r.reason.as_str() == "not-owned"));
    let query = RouteQuery { prefix: Some(client(3)), ..RouteQuery::default() };
    let seen = &two.routes(query).await.routes[0];
    assert_eq!(seen.originator_id, Ipv4Addr::new(10, 255, 0, 3));
    assert_eq!(seen.cluster_list, [Ipv4Addr::new(10, 255, 0, 1)]);
    assert_eq!(seen.next_hop, IpAddr::V4(overlay_address(3)));

    first.shutdown("upgrade").await;
    learned(&two, &[3, 4], true).await;
    let peers = two.peers().await;
    assert!(peers[0].last_error.as_deref().is_some_and(|e| e.contains("upgrade")), "{peers:?}");

    let second = hub(port).await;
    learned(&two, &[3, 4], false).await;
    drop(second);
    learned(&three, &[2, 4], true).await;

    let third = hub(port).await;
    learned(&three, &[2, 4], false).await;
    learned(&two, &[3, 4], false).await;
    third.set_dynamic_peers(vec![leaves(&[2, 4])]).await;
    learned(&two, &[4], false).await;
    learned(&three, &[2, 4], true).await;
    let refused = Instant::now();
    while third.summary().await.expect("alive").refused.is_empty() {
        assert!(refused.elapsed() < Duration::from_secs(30), "a revoked leaf is refused and counted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    third.shutdown("").await;
}
