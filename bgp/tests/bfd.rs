//! BFD beside BGP over loopback sockets: it comes with the session, its failure ends the session and keeps the
//! routes, AdminDown ends nothing, and it can be turned off and changed under way.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use bfd::io::{Bfd, Key, Settings};
use bfd::packet::{Diagnostic, Packet, State};
use bgp::io::{DynamicPeers, Liveness, Neighbor, Originated, Speaker, SpeakerConfig};
use bgp::policy::Admission;
use bgp::types::Prefix;
use bgp::view::PeerView;

const ASN: u32 = 64512;
const QUICK: Settings = Settings { min_tx_millis: 50, min_rx_millis: 50, multiplier: 3, multihop: false };
/// As quick, and more patient than a machine that stands still for a moment: for sessions that must not fall.
const PATIENT: Settings = Settings { multiplier: 40, ..QUICK };

/// A hub with BFD for its dynamic peers, and a leaf that announces one route.
async fn pair(net: u8) -> (Speaker, Speaker) {
    let address = |n| Ipv4Addr::new(127, 39, net, n);
    let hub_config = SpeakerConfig::new(ASN, Ipv4Addr::new(10, 255, 0, 1));
    let hub = Speaker::start(hub_config, vec![SocketAddr::from((address(1), 0))]).await.expect("hub");
    let group = DynamicPeers {
        options: Default::default(),
        name: "leaves".into(),
        source_prefixes: vec![format!("127.39.{net}.0/24").parse().expect("a prefix")],
        remote_asn: ASN,
        route_reflector_client: true,
        limit: 10,
        admission: Admission::Open,
    };
    hub.set_liveness(hub_liveness(Some(QUICK))).await;
    hub.set_dynamic_peers(vec![group]).await;
    let leaf = Speaker::start(SpeakerConfig::new(ASN, Ipv4Addr::new(10, 255, 0, 2)), Vec::new());
    let leaf = leaf.await.expect("leaf");
    let mut neighbor = Neighbor::new("hub", IpAddr::V4(address(1)), ASN);
    neighbor.port = hub.listening()[0].port();
    neighbor.local_address = Some(IpAddr::V4(address(2)));
    leaf.set_neighbors(vec![neighbor]).await;
    let client = Prefix::from(Ipv4Addr::new(10, 80, 2, 20));
    leaf.originate(vec![Originated::new(client, Ipv4Addr::new(10, 255, 0, 2))]).await;
    (hub, leaf)
}

fn hub_liveness(settings: Option<Settings>) -> Liveness {
    let dynamic_peers = settings.map(|s| ("leaves".to_string(), s)).into_iter().collect();
    Liveness { neighbors: BTreeMap::new(), dynamic_peers }
}

/// Waits until a speaker's one neighbour is as wanted.
async fn until(speaker: &Speaker, what: &str, is: impl Fn(&PeerView) -> bool) -> PeerView {
    let begin = Instant::now();
    loop {
        let peers = speaker.peers().await;
        if let Some(peer) = peers.first().filter(|p| is(p)) {
            return peer.clone();
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "{what}: {peers:#?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn state(peer: &PeerView) -> &str {
    peer.bfd.as_ref().map_or("none", |b| &b.state)
}

/// Both ends come Up with the session, follow other settings, and AdminDown or its end ends nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bfd_comes_and_goes_with_the_wish_and_the_session_stays() {
    let (hub, leaf) = pair(0).await;
    let slow = until(&hub, "established", |p| p.state == "Established").await;
    assert_eq!(state(&slow), "Down", "the leaf has none: that changes nothing");
    let neighbors = BTreeMap::from([("hub".to_string(), PATIENT)]);
    hub.set_liveness(hub_liveness(Some(PATIENT))).await;
    leaf.set_liveness(Liveness { neighbors, dynamic_peers: BTreeMap::new() }).await;
    until(&hub, "up", |p| state(p) == "Up").await;
    until(&leaf, "quick", |p| p.bfd.as_ref().is_some_and(|b| b.detection_time_millis == 2000)).await;
    hub.set_liveness(hub_liveness(Some(Settings { min_tx_millis: 200, ..PATIENT }))).await;
    until(&leaf, "slower", |p| p.bfd.as_ref().is_some_and(|b| b.detection_time_millis == 8000)).await;
    hub.set_liveness(hub_liveness(None)).await;
    until(&leaf, "administratively down", |p| state(p) == "Down").await;
    let (hub, leaf) = (&hub.peers().await[0], &leaf.peers().await[0]);
    assert_eq!((state(hub), hub.established_count, leaf.established_count), ("none", 1, 1));
    assert_eq!(leaf.bfd.as_ref().map(|b| (b.ups, b.downs)), Some((1, 1)), "no fall by the changes before");
}

/// A peer whose BFD falls silent loses its session at once, with its reason, and keeps its routes as stale; a new
/// session gets a new BFD session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_ends_the_session_and_keeps_the_routes() {
    let (hub, leaf) = pair(1).await;
    let up = until(&hub, "a route", |p| p.prefixes_accepted == 1 && p.bfd.is_some()).await;
    let first = up.bfd.expect("a session").discriminator;
    let peer = UdpSocket::bind("127.39.1.2:50001").expect("a socket");
    peer.set_ttl(255).expect("TTL");
    let packet = Packet {
        diagnostic: Diagnostic::NONE,
        state: State::Init,
        poll: false,
        final_: false,
        control_plane_independent: true,
        demand: false,
        multiplier: 3,
        my_discriminator: 5,
        your_discriminator: first,
        desired_min_tx_micros: 50_000,
        required_min_rx_micros: 50_000,
        required_min_echo_rx_micros: 0,
    };
    // The hub's socket may not be there yet: said until it is heard, and then no more.
    let says = async {
        loop {
            // Nobody listening at the moment is told as an error of the next datagram.
            let _ = peer.send_to(&packet.encode(), "127.39.1.1:3784");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        _ = until(&hub, "up", |p| state(p) == "Up") => {}
        () = says => {}
    }
    let lost = until(&hub, "the fall", |p| p.last_error.is_some()).await;
    let error = lost.last_error.as_deref().unwrap_or_default();
    assert!(error.starts_with("BFD down: Control Detection Time Expired"), "{error}");
    assert_eq!(lost.prefixes_accepted, 1, "kept, stale or already confirmed: {lost:#?}");
    let back = until(&hub, "the next session", |p| p.established_count == 2 && p.bfd.is_some()).await;
    assert_ne!(back.bfd.expect("a session").discriminator, first);
    let leaf = until(&leaf, "back", |p| p.state == "Established").await;
    assert_eq!((leaf.established_count, leaf.prefixes_stale), (2, 0));
}

/// A peer that holds its end down on purpose has not failed (RFC 5882 section 3.2).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_held_down_on_purpose_keeps_its_session() {
    let (hub, _leaf) = pair(2).await;
    until(&hub, "established", |p| p.bfd.is_some()).await;
    let other = Bfd::start(1).expect("BFD");
    let address = |n| IpAddr::V4(Ipv4Addr::new(127, 39, 2, n));
    let id = other.add(Key { local: address(2), remote: address(1), multihop: false }, QUICK).expect("room");
    until(&hub, "up", |p| state(p) == "Up").await;
    other.remove(id);
    let fell = until(&hub, "down", |p| state(p) == "Down").await;
    assert_eq!((fell.state.as_str(), fell.established_count), ("Established", 1));
}
