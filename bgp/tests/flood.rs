//! Ten million prefixes from one enrolled leaf, and what they cost the hub. A program of its own, for it reads the
//! memory of its process.

mod wire;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp::io::{DynamicPeers, Speaker, SpeakerConfig};
use bgp::policy::{Admission, ImportPolicy};
use bgp::types::Prefix;
use wire::{ASN, Heard, announce, body, greeting, nlri, section, update, usual};

/// What the flood may cost beyond what the process had before it, in MiB.
const BOUND_MIB: u64 = 48;
const WANTED: u32 = 10_000_000;

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("VmRSS");
    line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).expect("a number") / 1024
}

fn overlay(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 255, 0, n)
}

/// The flood's session ends with Cease/1 after a hundredth of it, the next tries are refused while it is held down
/// and cut however much they send, all is counted, memory stays under the bound throughout, and an honest session is
/// what it was.
#[test]
fn ten_million_prefixes_cost_the_flooder_its_session_and_nobody_anything() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let hub = runtime.block_on(async {
        let config = SpeakerConfig::new(ASN, overlay(1));
        let hub = Speaker::start(config, vec![SocketAddr::from(([127, 70, 0, 1], 0))]).await.expect("a hub");
        hub.set_dynamic_peers(vec![leaves()]).await;
        hub
    });
    let to = hub.listening()[0];
    let mut honest = connect(2, to);
    honest.write_all(&announce(&usual(overlay(2), 100), &[honest_route()])).expect("written");
    let before = resident_mib();
    let (mut most, mut sent, mut sessions, mut cut) = (0, 0u32, 0, 0);
    while sent < WANTED && sessions < 1000 {
        sessions += 1;
        let mut flooder = connect(9, to);
        let mut broken = false;
        while sent < WANTED && !broken {
            broken = flooder.write_all(&thousand(sent)).is_err();
            sent += if broken { 0 } else { 1000 };
            most = most.max(resident_mib());
        }
        cut += u32::from(broken);
        if sessions == 1 {
            assert_eq!(
                why_it_ended(&mut flooder),
                Some((6, 1)),
                "it wrote on and on, and may read why all the same"
            );
        }
    }
    assert!(
        sent >= WANTED && cut + 1 >= sessions && sessions > 1,
        "{sent} in {sessions} sessions, {cut} cut"
    );
    let peers = runtime.block_on(hub.peers());
    let view = |n: u8| peers.iter().find(|v| v.address == IpAddr::from([127, 70, 0, n])).expect("a peer");
    assert!(view(9).last_error.as_deref().is_some_and(|e| e.starts_with("sent 6/1 ")), "{:?}", view(9));
    // Counted up to the limit; what came after the end of the session is never looked at.
    let rejected = view(9).rejections_total;
    assert!((100_000..110_000).contains(&rejected), "{rejected}");
    assert_eq!((view(2).state.as_str(), view(2).established_count), ("Established", 1));
    let summary = runtime.block_on(hub.summary()).expect("alive");
    assert_eq!(summary.refused.get("held-down"), Some(&(u64::from(sessions) - 1)), "{summary:?}");
    assert_eq!((summary.prefixes, summary.paths), (1, 1), "only the honest route is there");
    assert!(most < before + BOUND_MIB, "{most} MiB at most, {before} MiB before");
    // The honest client was told nothing of it all.
    honest.set_read_timeout(Some(Duration::from_millis(300))).expect("a socket");
    let mut heard = Heard::default();
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = honest.read(&mut buffer) {
        heard.hear(&buffer[..n]);
    }
    assert!(heard.told.is_empty() && heard.notification.is_none());
}

/// Code and subcode of the NOTIFICATION that waits in a connection which the hub has closed.
fn why_it_ended(stream: &mut TcpStream) -> Option<(u8, u8)> {
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
    let mut heard = Heard::default();
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        heard.hear(&buffer[..n]);
    }
    heard.notification.map(|n| (n.code, n.subcode))
}

fn honest_route() -> Prefix {
    Prefix::from(Ipv4Addr::new(10, 80, 2, 1))
}

/// A thousand host routes that nobody owns, the ones from number `from` on.
fn thousand(from: u32) -> Vec<u8> {
    let all = section(&usual(overlay(9), 100));
    let routes = |n: u32| Prefix::from(Ipv4Addr::from(0x1e00_0000 + n));
    let some: Vec<Prefix> = (from..from + 500).map(routes).collect();
    let more: Vec<Prefix> = (from + 500..from + 1000).map(routes).collect();
    [update(&body(&[], &all, &nlri(&some))), update(&body(&[], &all, &nlri(&more)))].concat()
}

fn leaves() -> DynamicPeers {
    let policy = |n: u8| {
        let owned = [honest_route()].into();
        let policy = ImportPolicy {
            owner: format!("leaf{n}"),
            owned,
            next_hop: overlay(n),
            max_prefixes: 16,
            passes_on: Default::default(),
        };
        (IpAddr::from([127, 70, 0, n]), Arc::new(policy))
    };
    DynamicPeers {
        options: Default::default(),
        name: "leaves".into(),
        source_prefixes: vec!["127.70.0.0/24".parse().expect("a prefix")],
        remote_asn: ASN,
        route_reflector_client: true,
        limit: 10,
        admission: Admission::Enrolled(Arc::new(
            [policy(2), policy(9)].into_iter().collect::<HashMap<_, _>>(),
        )),
    }
}

/// A connection from a client's address, with its OPEN sent.
fn connect(n: u8, to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 70, 0, n], 0)).into()).expect("bound");
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = socket.connect(&to.into()) {
        assert!(Instant::now() < deadline, "{error}");
    }
    let mut stream = TcpStream::from(socket);
    stream.set_write_timeout(Some(Duration::from_secs(20))).expect("a socket");
    let _ = stream.write_all(&greeting(overlay(n), true));
    stream
}
