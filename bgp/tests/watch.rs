//! What others see of a running speaker: an MRT dump read back by `bgpdump`, a BMP stream received by pmacct's station
//! (Debian packages bgpdump and pmacct; the tests fail without them), and a BMP station that does not read.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bgp::io::{DynamicPeers, Neighbor, Originated, RouteQuery, Speaker, SpeakerConfig, Station};
use bgp::policy::Admission;
use bgp::types::Prefix;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

const ASN: u32 = 64512;
/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(20);

/// A hub on a network of loopback addresses of its own, and leaves that dial it.
async fn hub(net: u8) -> Speaker {
    let config = SpeakerConfig::new(ASN, Ipv4Addr::new(10, 255, 0, 1));
    let listen = SocketAddr::from(([127, net, 0, 1], 0));
    let hub = Speaker::start(config, vec![listen]).await.expect("the hub starts");
    let group = DynamicPeers {
        name: "leaves".into(),
        source_prefixes: vec![format!("127.{net}.0.0/24").parse().expect("a prefix")],
        remote_asn: ASN,
        route_reflector_client: true,
        limit: 100,
        admission: Admission::Open,
        options: Default::default(),
    };
    hub.set_dynamic_peers(vec![group]).await;
    hub
}

async fn leaf(hub: &Speaker, net: u8, n: u8, routes: Vec<Originated>) -> Speaker {
    let mut config = SpeakerConfig::new(ASN, Ipv4Addr::new(10, 255, 0, n));
    config.publish_best_paths = true;
    let leaf = Speaker::start(config, Vec::new()).await.expect("a leaf starts");
    leaf.originate(routes).await;
    let at = hub.listening()[0];
    let mut neighbor = Neighbor::new("hub", at.ip(), ASN);
    neighbor.port = at.port();
    neighbor.local_address = Some(IpAddr::from([127, net, 0, n]));
    leaf.set_neighbors(vec![neighbor]).await;
    leaf
}

fn route(prefix: &str, n: u8, local_pref: u32, communities: &[u32]) -> Originated {
    let next_hop = Ipv4Addr::new(10, 255, 0, n);
    let communities = communities.to_vec();
    Originated { communities, local_pref, ..Originated::new(prefix.parse().expect("a prefix"), next_hop) }
}

async fn eventually<F: Future<Output = Result<(), String>>>(mut check: impl FnMut() -> F) {
    let begin = Instant::now();
    while let Err(wrong) = check().await {
        assert!(begin.elapsed() < LIMIT, "after {LIMIT:?}: {wrong}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn paths(hub: &Speaker, wanted: usize) {
    eventually(|| async {
        let found = hub.routes(RouteQuery::default()).await.total;
        if found == wanted { Ok(()) } else { Err(format!("{found} paths and not {wanted}")) }
    })
    .await;
}

fn needs(program: &str, package: &str) {
    let there = Command::new(program).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(there.is_ok(), "{program} is missing: apt-get install -y {package}");
}

/// Lists are bounded and say how much they leave out; received and advertised agree with what was sent.
#[tokio::test]
async fn listings_are_bounded_and_complete() {
    let hub = hub(41).await;
    let many: Vec<Originated> = (0..3000u32)
        .map(|n| Originated::new(Prefix::from(Ipv4Addr::from(0x0a50_0000 + n)), [10, 255, 0, 2].into()))
        .collect();
    let _two = leaf(&hub, 41, 2, many).await;
    let _three =
        leaf(&hub, 41, 3, vec![route("10.83.0.1/32", 3, 100, &[]), route("10.80.0.1/32", 3, 100, &[])]).await;
    paths(&hub, 3002).await;
    let page = hub.routes(RouteQuery { limit: 10, ..RouteQuery::default() }).await;
    let prefixes: Vec<String> = page.routes.iter().map(|r| r.prefix.to_string()).collect();
    assert_eq!((page.total, prefixes[0].as_str(), prefixes.len()), (3002, "10.80.0.0/32", 10));
    assert_eq!(prefixes[1..3], ["10.80.0.1/32", "10.80.0.1/32"], "both paths, in order");
    let two = "127.41.0.2".to_string();
    assert_eq!(hub.received(two.clone(), 5000).await.total, 3000);
    // What it has sent itself it is not told, and of 10.80.0.1 its own path is the best.
    let told = hub.advertised(two, 5000).await;
    assert_eq!(told.routes.iter().map(|r| r.prefix.to_string()).collect::<Vec<_>>(), ["10.83.0.1/32"]);
    assert_eq!(told.routes[0].cluster_list, [Ipv4Addr::new(10, 255, 0, 1)], "as told: our cluster in front");
    assert_eq!(hub.advertised("127.41.0.3".into(), 5000).await.total, 3000);
    let inside = RouteQuery { prefix: "10.80.1.0/24".parse().ok(), longer: true, ..RouteQuery::default() };
    assert_eq!(hub.routes(inside).await.total, 256);
    assert!(hub.knows("127.41.0.3".into()).await && !hub.knows("127.41.0.9".into()).await);
}

/// `bgpdump` reads from a dump what `bgp routes` shows: every path with its peer and its attributes.
#[tokio::test]
async fn an_mrt_dump_reads_back_equal_to_the_routes() {
    needs("bgpdump", "bgpdump");
    let hub = hub(42).await;
    let _two = leaf(
        &hub,
        42,
        2,
        vec![
            route("10.82.0.1/32", 2, 100, &[]),
            route("10.82.0.2/32", 2, 200, &[64512 << 16 | 7, 64512 << 16 | 8]),
            route("2001:db8:82::1/128", 2, 100, &[]),
        ],
    )
    .await;
    let _three =
        leaf(&hub, 42, 3, vec![route("10.82.0.1/32", 3, 100, &[]), route("10.83.0.0/24", 3, 100, &[])]).await;
    hub.originate(vec![route("10.81.0.1/32", 1, 100, &[])]).await;
    paths(&hub, 6).await;

    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("table.mrt");
    let mut octets = Vec::new();
    let mut dump = hub.dump().await;
    while let Some(piece) = dump.next().await {
        octets.extend_from_slice(&piece);
    }
    std::fs::write(&file, &octets).expect("the dump is written");
    let output = Command::new("bgpdump").arg("-m").arg(&file).output().expect("bgpdump runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read: BTreeSet<String> = text
        .lines()
        .map(|line| {
            // TABLE_DUMP2|time|B|peer|AS|prefix|AS path|origin|next hop|pref|MED|communities|...
            let f: Vec<&str> = line.split('|').collect();
            format!("{} {} {} {} {} {}", f[3], f[5], f[8], f[9], f[7].to_lowercase(), f[11])
        })
        .collect();
    let shown: BTreeSet<String> = hub
        .routes(RouteQuery::default())
        .await
        .routes
        .iter()
        .map(|r| {
            let peer = r.peer_address.unwrap_or(IpAddr::from([0, 0, 0, 0]));
            let communities = r.communities.join(" ");
            format!("{peer} {} {} {} {} {communities}", r.prefix, r.next_hop, r.local_pref, r.origin)
        })
        .collect();
    assert_eq!(read, shown);
    assert_eq!(shown.len(), 6, "nothing was compared twice");
}

/// pmacct's BMP station.
struct Pmbmpd(Child);

impl Pmbmpd {
    fn start(dir: &Path, port: u16) -> Pmbmpd {
        let config = dir.join("pmbmpd.conf");
        let log = dir.join("bmp.json");
        let text = format!(
            "daemonize: false\nbmp_daemon_ip: 127.0.0.1\nbmp_daemon_port: {port}\nbmp_daemon_msglog_file: {}\n\
             logfile: {}\n",
            log.display(),
            dir.join("pmbmpd.log").display()
        );
        std::fs::write(&config, text).expect("the configuration is written");
        let child =
            Command::new("pmbmpd").arg("-f").arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Pmbmpd(child.expect("pmbmpd starts"))
    }
}

impl Drop for Pmbmpd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn events(dir: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(dir.join("bmp.json")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// What pmacct has heard of a kind, with an address and possibly a prefix.
fn heard(dir: &Path, kind: &str, peer: &str, prefix: Option<(&str, &str)>) -> bool {
    events(dir).iter().any(|e| {
        let log = prefix.is_none_or(|(prefix, what)| e["ip_prefix"] == prefix && e["log_type"] == what);
        e["bmp_msg_type"] == kind && e["peer_ip"] == peer && log
    })
}

/// A real receiver understands all that is sent: sessions up and down, the tables of before, what comes later, and
/// statistics.
#[tokio::test]
async fn pmacct_receives_sessions_routes_and_statistics() {
    needs("pmbmpd", "pmacct");
    let dir = tempfile::tempdir().expect("a directory");
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = free.local_addr().expect("a port").port();
    drop(free);
    let hub = hub(43).await;
    let before = leaf(&hub, 43, 2, vec![route("10.82.0.1/32", 2, 100, &[64512 << 16 | 7])]).await;
    paths(&hub, 1).await;
    let _station = Pmbmpd::start(dir.path(), port);
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    hub.monitor(Station { statistics_secs: 1, ..Station::new(at, "hub") });
    let at = dir.path();
    let wants = |kind: &'static str, peer: &'static str, prefix: Option<(&'static str, &'static str)>| async move {
        eventually(|| async {
            if heard(at, kind, peer, prefix) {
                return Ok(());
            }
            Err(format!("no {kind} of {peer} {prefix:?} in {:#?}", events(at)))
        })
        .await;
    };
    wants("peer_up", "127.43.0.2", None).await;
    wants("route_monitor", "127.43.0.2", Some(("10.82.0.1/32", "update"))).await;
    let route_of = events(at).into_iter().find(|e| e["ip_prefix"] == "10.82.0.1/32").expect("heard above");
    assert_eq!((&route_of["bgp_nexthop"], &route_of["local_pref"]), (&"10.255.0.2".into(), &100.into()));
    assert_eq!(route_of["comms"], "64512:7", "{route_of}");

    let _later = leaf(&hub, 43, 3, vec![route("10.83.0.1/32", 3, 100, &[])]).await;
    wants("peer_up", "127.43.0.3", None).await;
    wants("route_monitor", "127.43.0.3", Some(("10.83.0.1/32", "update"))).await;
    before.originate(vec![route("10.82.0.9/32", 2, 100, &[])]).await;
    wants("route_monitor", "127.43.0.2", Some(("10.82.0.9/32", "update"))).await;
    wants("route_monitor", "127.43.0.2", Some(("10.82.0.1/32", "withdraw"))).await;
    wants("stats", "127.43.0.2", None).await;
    before.shutdown("enough").await;
    wants("peer_down", "127.43.0.2", None).await;
    let view = hub.stations().remove(0);
    assert_eq!((view.state.as_str(), view.messages_dropped), ("monitoring", 0));
}

/// Reads BMP messages off a connection for as long as some come; counts them by type.
async fn read_all(stream: &mut tokio::net::TcpStream, quiet: Duration) -> BTreeMap<u8, usize> {
    let mut octets = Vec::new();
    let mut piece = vec![0; 1 << 16];
    while let Ok(Ok(n @ 1..)) = tokio::time::timeout(quiet, stream.read(&mut piece)).await {
        octets.extend_from_slice(&piece[..n]);
    }
    let mut types = BTreeMap::new();
    let mut rest = &octets[..];
    while let [3, a, b, c, d, kind, ..] = rest {
        *types.entry(*kind).or_default() += 1;
        rest = rest.get(u32::from_be_bytes([*a, *b, *c, *d]) as usize..).unwrap_or_default();
    }
    types
}

/// A station that reads nothing loses its session and nothing else is delayed; drops are counted, and when it comes
/// back it gets the whole table.
#[tokio::test]
async fn a_station_that_does_not_read_holds_nothing_up() {
    let deaf = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = deaf.local_addr().expect("a port");
    let hub = hub(44).await;
    hub.monitor(Station { queue_bytes: 256 << 10, statistics_secs: 0, ..Station::new(at, "hub") });
    let (held, _) = deaf.accept().await.expect("the speaker dials");
    let sender = leaf(&hub, 44, 2, Vec::new()).await;
    let receiver = leaf(&hub, 44, 3, Vec::new()).await;
    // Each with attributes of its own: one UPDATE each, so that the stream outgrows every socket buffer.
    let routes = |round: u32| -> Vec<Originated> {
        let one = |n: u32| route(&Ipv4Addr::from(0x0a50_0000 + n).to_string(), 2, 100, &[round << 16 | n]);
        (0..10_000).map(one).collect()
    };
    let mut slowest = Duration::ZERO;
    for round in 1..=8 {
        let begin = Instant::now();
        sender.originate(routes(round)).await;
        let mut best = receiver.best_paths();
        let of_round = |r: &bgp::view::BestPath| r.communities.first().is_some_and(|c| c >> 16 == round);
        let whole = best.wait_for(|b| b.routes.len() == 10_000 && b.routes.values().all(of_round));
        tokio::time::timeout(LIMIT, whole).await.expect("routes pass").expect("the leaf lives");
        slowest = slowest.max(begin.elapsed());
        if hub.stations()[0].overflows > 0 {
            break;
        }
    }
    assert!(slowest < Duration::from_secs(10), "a round took {slowest:?}");
    eventually(|| async {
        let view = hub.stations().remove(0);
        let told = view.overflows == 1 && view.messages_dropped > 0;
        if told { Ok(()) } else { Err(format!("{view:?}")) }
    })
    .await;
    drop(held);
    let (mut again, _) =
        tokio::time::timeout(LIMIT, deaf.accept()).await.expect("it dials again").expect("accepted");
    let types = read_all(&mut again, Duration::from_secs(2)).await;
    // Initiation, both sessions, and one UPDATE for each route, with End-of-RIB of two families for two peers.
    assert_eq!(
        (types.get(&4), types.get(&3), types.get(&0)),
        (Some(&1), Some(&2), Some(&10_004)),
        "{types:?}"
    );
}
