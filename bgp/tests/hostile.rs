//! Hostile peers against the real speaker over real sockets. Each test does its worst to a hub beside two honest
//! clients, and ends with the same question: have they lost their sessions, or is a route of theirs missing or
//! one too many there?

mod wire;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bgp::io::{DynamicPeers, Speaker, SpeakerConfig};
use bgp::message::{KEEPALIVE, put};
use bgp::policy::{Admission, ImportPolicy};
use bgp::types::Prefix;
use bgp::view::PeerView;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, tcp::OwnedWriteHalf};
use wire::{ASN, Attr, Heard, announce, body, greeting, nlri, open, section, update, usual};

const PATIENCE: Duration = Duration::from_secs(20);

/// One hub with its clients, on addresses of its own: `lane` keeps tests apart.
struct Scene {
    hub: Speaker,
    to: SocketAddr,
    lane: u8,
    honest: Vec<Client>,
}

/// A peer made of octets, on a socket.
struct Client {
    address: Ipv4Addr,
    writer: OwnedWriteHalf,
    heard: Arc<Mutex<(Heard, bool)>>,
}

fn overlay(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 255, 0, n)
}

fn owned(n: u8, i: u8) -> Prefix {
    Prefix::from(Ipv4Addr::new(10, 80, n, i))
}

impl Scene {
    /// A hub that admits clients 2 and 3, which are honest and up, and 9, which is neither.
    async fn new(lane: u8) -> Scene {
        let mut config = SpeakerConfig::new(ASN, overlay(1));
        config.hold_time_secs = 90;
        let listen = SocketAddr::from(([127, lane, 0, 1], 0));
        let hub = Speaker::start(config, vec![listen]).await.expect("a hub");
        let to = hub.listening()[0];
        let mut scene = Scene { hub, to, lane, honest: Vec::new() };
        scene.admit(8, 8).await;
        for n in [2, 3] {
            let mut client = scene.client(n, true).await;
            client.send(&announce(&usual(overlay(n), 100), &[owned(n, 1), owned(n, 2)])).await;
            scene.honest.push(client);
        }
        scene.is_whole().await;
        scene
    }

    fn at(&self, n: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.lane, 0, n)
    }

    /// Admits 2, 3 and 9; 9 owns so many routes and may hold so many.
    async fn admit(&self, owns: u8, max_prefixes: u32) {
        let policy = |n: u8| {
            let owned = (1..=owns).map(|i| owned(n, i)).collect();
            let policy = ImportPolicy {
                owner: format!("leaf{n}"),
                owned,
                next_hop: overlay(n),
                max_prefixes,
                passes_on: Default::default(),
            };
            (IpAddr::V4(self.at(n)), Arc::new(policy))
        };
        let all: HashMap<_, _> = [2, 3, 9].into_iter().map(policy).collect();
        let group = DynamicPeers {
            options: Default::default(),
            name: "leaves".into(),
            source_prefixes: vec![format!("127.{}.0.0/24", self.lane).parse().expect("a prefix")],
            remote_asn: ASN,
            route_reflector_client: true,
            limit: 10,
            admission: Admission::Enrolled(Arc::new(all)),
        };
        self.hub.set_dynamic_peers(vec![group]).await;
    }

    async fn connect(&self, from: Ipv4Addr) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((from, 0)))?;
        socket.connect(self.to).await
    }

    async fn client(&self, n: u8, extended: bool) -> Client {
        let mut client = Client::over(self.connect(self.at(n)).await.expect("connected"), self.at(n));
        client.send(&greeting(overlay(n), extended)).await;
        client
    }

    async fn view(&self, n: u8) -> PeerView {
        let peers = self.hub.peers().await;
        peers.into_iter().find(|v| v.address == IpAddr::V4(self.at(n))).expect("admitted")
    }

    async fn refused(&self, why: &str) -> u64 {
        self.hub.summary().await.expect("alive").refused.get(why).copied().unwrap_or(0)
    }

    /// Waits until the view of 9 is as wanted.
    async fn until(&self, what: &str, is: impl Fn(&PeerView) -> bool) -> PeerView {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let view = self.view(9).await;
            if is(&view) {
                return view;
            }
            assert!(Instant::now() < deadline, "{what}: {view:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The honest clients hold each other's routes and what of 9 is `extra`, and nothing else; their first
    /// sessions are up.
    async fn holds(&self, extra: &[Prefix]) {
        for (me, other) in [(0, 3), (1, 2)] {
            let want: BTreeSet<Prefix> =
                [owned(other, 1), owned(other, 2)].into_iter().chain(extra.iter().copied()).collect();
            let deadline = Instant::now() + PATIENCE;
            loop {
                let told = self.honest[me].told();
                if told == want {
                    break;
                }
                assert!(Instant::now() < deadline, "client {me} holds {told:?}, wanted {want:?}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let view = self.view(me as u8 + 2).await;
            assert_eq!((view.state.as_str(), view.established_count), ("Established", 1), "{view:?}");
            assert_eq!((view.notifications_sent, view.rejections_total), (0, 0), "{view:?}");
            assert!(!self.honest[me].is_over());
        }
    }

    async fn is_whole(&self) {
        self.holds(&[]).await;
    }
}

impl Client {
    fn over(stream: TcpStream, address: Ipv4Addr) -> Client {
        stream.set_nodelay(true).expect("a socket");
        let (mut reader, writer) = stream.into_split();
        let heard = Arc::new(Mutex::new((Heard::default(), false)));
        let shared = Arc::clone(&heard);
        tokio::spawn(async move {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(n @ 1..) = reader.read(&mut buffer).await {
                shared.lock().expect("no panic").0.hear(&buffer[..n]);
            }
            shared.lock().expect("no panic").1 = true;
        });
        Client { address, writer, heard }
    }

    async fn send(&mut self, octets: &[u8]) {
        self.try_send(octets).await.expect("written");
    }

    async fn try_send(&mut self, octets: &[u8]) -> std::io::Result<()> {
        tokio::time::timeout(PATIENCE, self.writer.write_all(octets)).await?
    }

    fn told(&self) -> BTreeSet<Prefix> {
        self.heard.lock().expect("no panic").0.told.keys().copied().collect()
    }

    fn is_over(&self) -> bool {
        self.heard.lock().expect("no panic").1
    }

    /// Waits for the end of the connection; the NOTIFICATION's code and subcode.
    async fn end(&self) -> Option<(u8, u8)> {
        let deadline = Instant::now() + PATIENCE;
        while !self.is_over() {
            assert!(Instant::now() < deadline, "{} is still connected", self.address);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let heard = self.heard.lock().expect("no panic");
        heard.0.notification.as_ref().map(|n| (n.code, n.subcode))
    }
}

/// Routes that 9 does not own, of others too, other people's next hops, host bits and defaults: rejected, counted by
/// reason, told to nobody; its one honest route goes through beside them.
#[tokio::test]
async fn routes_that_are_not_owned_reach_nobody() {
    let scene = Scene::new(60).await;
    let mut nine = scene.client(9, true).await;
    let own = usual(overlay(9), 500);
    nine.send(&announce(&own, &[owned(9, 1)])).await;
    nine.send(&announce(&own, &[owned(2, 1), owned(3, 2), owned(7, 7)])).await;
    nine.send(&announce(&own, &["0.0.0.0/0".parse().unwrap(), "10.80.2.0/24".parse().unwrap()])).await;
    nine.send(&announce(&usual(overlay(2), 500), &[owned(9, 2)])).await;
    let view = scene.until("six rejected", |v| v.prefixes_rejected == 6).await;
    let reasons: Vec<(&str, u64)> = view.rejected_by_reason.iter().map(|(r, n)| (r.as_str(), *n)).collect();
    assert_eq!(
        reasons,
        [("default-route", 1), ("foreign-next-hop", 1), ("not-host-route", 1), ("not-owned", 3)]
    );
    assert_eq!(scene.hub.rejected().await.len(), 6, "each is shown");
    scene.holds(&[owned(9, 1)]).await;
}

/// Our cluster id, our router id, another's ORIGINATOR_ID: rejected; and the path that was accepted before is
/// withdrawn (a reflector that only ignores the new one keeps a route that is no longer there).
#[tokio::test]
async fn a_looped_update_withdraws_the_path_accepted_before() {
    let scene = Scene::new(61).await;
    let mut nine = scene.client(9, true).await;
    let loops: [(Attr, &str); 3] = [
        ((0x80, 10, vec![10, 255, 0, 1]), "cluster-loop"),
        ((0x80, 9, vec![10, 255, 0, 1]), "originator-loop"),
        ((0x80, 9, vec![10, 255, 0, 3]), "foreign-originator"),
    ];
    for (attribute, reason) in loops {
        nine.send(&announce(&usual(overlay(9), 100), &[owned(9, 1)])).await;
        scene.holds(&[owned(9, 1)]).await;
        let mut all = usual(overlay(9), 100);
        all.push(attribute);
        nine.send(&announce(&all, &[owned(9, 1)])).await;
        scene.is_whole().await;
        let view = scene.view(9).await;
        assert_eq!(view.rejected_by_reason.get(reason), Some(&1), "{view:?}");
    }
    assert_eq!(scene.view(9).await.rejections_total, 3);
}

/// An AS_PATH of 255 and of a thousand, and attributes that fill an extended message: taken or contained, and a
/// client without extended messages is told nothing that it cannot read.
#[tokio::test]
async fn long_attributes_are_passed_on_or_contained() {
    let scene = Scene::new(62).await;
    let mut nine = scene.client(9, true).await;
    let path = |segments: usize| {
        let segment: Vec<u8> =
            [2, 255].into_iter().chain([0, 0, 0, 7].into_iter().cycle().take(1020)).collect();
        let mut all = usual(overlay(9), 100);
        all[1].2 = segment.repeat(segments);
        all
    };
    nine.send(&announce(&path(1), &[owned(9, 1)])).await;
    scene.holds(&[owned(9, 1)]).await;
    nine.send(&announce(&path(4), &[owned(9, 2)])).await;
    scene.holds(&[owned(9, 1), owned(9, 2)]).await;
    // 65,535 octets: with our own attributes on top nobody could be sent it.
    let mut huge = usual(overlay(9), 100);
    let room = 65_535 - 19 - 4 - section(&huge).len() - nlri(&[owned(9, 3)]).len() - 4;
    huge.push((0xc0, 99, vec![7; room]));
    let message = announce(&huge, &[owned(9, 3)]);
    assert_eq!(message.len(), 65_535);
    nine.send(&message).await;
    let view = scene.until("contained", |v| v.treated_as_withdraw == 1).await;
    assert!(view.last_error.is_some_and(|e| e.contains("too long to be passed on")));
    scene.holds(&[owned(9, 1), owned(9, 2)]).await;
    // One that is too long for the session ends it.
    let mut short = scene.client(9, false).await;
    short.send(&message[..4096]).await;
    assert_eq!(short.end().await, Some((1, 2)));
    scene.is_whole().await;
}

/// One more prefix than permitted: a warning at three quarters, Cease/1, held down for a while; the change of the
/// admission ends that.
#[tokio::test]
async fn too_many_prefixes_warn_then_cease_then_wait() {
    let scene = Scene::new(63).await;
    let mut nine = scene.client(9, true).await;
    scene.admit(200, 8).await;
    let some = |n: std::ops::RangeInclusive<u8>| n.map(|i| owned(9, i)).collect::<Vec<_>>();
    nine.send(&announce(&usual(overlay(9), 100), &some(1..=6))).await;
    let view = scene.until("a warning", |v| v.prefix_warnings == 1).await;
    assert_eq!((view.state.as_str(), view.prefix_limit), ("Established", Some(8)));
    scene.holds(&some(1..=6)).await;
    nine.send(&announce(&usual(overlay(9), 100), &some(7..=9))).await;
    assert_eq!(nine.end().await, Some((6, 1)));
    scene.is_whole().await;
    let again = scene.client(9, true).await;
    assert_eq!(again.end().await, Some((6, 5)));
    assert_eq!(scene.refused("held-down").await, 1);
    scene.admit(200, 50).await;
    let mut nine = scene.client(9, true).await;
    nine.send(&announce(&usual(overlay(9), 100), &some(1..=9))).await;
    scene.holds(&some(1..=9)).await;
}

/// Three thousand connections from addresses that nobody admitted, each with an OPEN at once: each is refused and
/// counted, and an honest client's change of route goes through in the middle of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_unadmitted_connections_is_counted_and_changes_nothing() {
    const STORM: u64 = 3000;
    let mut scene = Scene::new(64).await;
    let (to, lane) = (scene.to, scene.lane);
    let storm = tokio::spawn(async move {
        let mut sent = 0;
        while sent < STORM {
            let socket = TcpSocket::new_v4().expect("a socket");
            let from = Ipv4Addr::new(127, lane, 0, 20 + (sent % 200) as u8);
            socket.bind(SocketAddr::from((from, 0))).expect("bound");
            if let Ok(Ok(mut stream)) = tokio::time::timeout(PATIENCE, socket.connect(to)).await {
                let _ = stream.write_all(&open(overlay(20), true)).await;
                sent += 1;
            }
        }
    });
    let deadline = Instant::now() + 3 * PATIENCE;
    let mut rounds = 0;
    while scene.refused("not-enrolled").await < STORM {
        let prefix = owned(2, 3 + rounds % 4);
        scene.honest[0].send(&announce(&usual(overlay(2), 100), &[prefix])).await;
        while !scene.honest[1].told().contains(&prefix) {
            assert!(Instant::now() < deadline, "an honest change waits");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        scene.honest[0].send(&update(&body(&nlri(&[prefix]), &[], &[]))).await;
        rounds += 1;
        assert!(Instant::now() < deadline, "{} of {STORM}", scene.refused("not-enrolled").await);
    }
    storm.await.expect("sent");
    scene.is_whole().await;
    assert_eq!(scene.hub.peers().await.len(), 3, "nobody else is remembered");
}

/// An admitted address that opens connection after connection and never sends OPEN keeps one of them; the limit of
/// sessions is not touched.
#[tokio::test]
async fn half_open_sessions_of_one_peer_do_not_add_up() {
    let scene = Scene::new(65).await;
    let mut all = Vec::new();
    for _ in 0..200 {
        all.push(Client::over(scene.connect(scene.at(9)).await.expect("connected"), scene.at(9)));
    }
    for silent in &all[..199] {
        assert_eq!(silent.end().await, Some((6, 7)), "the newest stays");
    }
    assert_eq!(scene.view(9).await.state, "OpenSent");
    let view = scene.view(9).await;
    assert_eq!(view.notifications_sent, 199, "each is counted");
    scene.is_whole().await;
}

/// OPEN after OPEN, an UPDATE before any, a message of no kind, junk: each ends its session with its code.
#[tokio::test]
async fn messages_out_of_turn_end_their_session_alone() {
    let scene = Scene::new(66).await;
    let hello = open(overlay(9), true);
    let mut none = KEEPALIVE.to_vec();
    none[18] = 77;
    let cases: [(Vec<u8>, (u8, u8)); 6] = [
        (hello.repeat(50), (5, 2)),
        ([&greeting(overlay(9), true)[..], &hello.repeat(50)].concat(), (5, 3)),
        (announce(&usual(overlay(9), 100), &[owned(9, 1)]), (5, 1)),
        (KEEPALIVE.repeat(50), (5, 1)),
        (none, (1, 3)),
        (b"GET / HTTP/1.1\r\nHost: hub\r\n\r\n".to_vec(), (1, 1)),
    ];
    for (n, (octets, code)) in cases.into_iter().enumerate() {
        let mut client = Client::over(scene.connect(scene.at(9)).await.expect("connected"), scene.at(9));
        let _ = client.try_send(&octets).await;
        assert_eq!(client.end().await, Some(code), "case {n}");
        let view = scene.until("counted", |v| v.notifications_sent == n as u64 + 1).await;
        assert!(view.last_error.is_some_and(|e| e.starts_with("sent ")));
    }
    scene.is_whole().await;
}

/// A NOTIFICATION is never answered by one, however many come, and whatever is in it.
#[tokio::test]
async fn a_notification_gets_no_notification() {
    let scene = Scene::new(67).await;
    for n in 0..20u8 {
        let mut client = scene.client(9, true).await;
        let mut last = Vec::new();
        put(&mut last, 3, &[n, 255, 255, 255, 255]);
        let _ = client.try_send(&last.repeat(100)).await;
        assert_eq!(client.end().await, None, "no NOTIFICATION comes back");
    }
    let view = scene.until("counted", |v| v.notifications_received == 20).await;
    assert_eq!(view.notifications_sent, 0);
    scene.is_whole().await;
}

/// One octet at a time: the session comes up all the same, and others wait for nothing.
#[tokio::test]
async fn a_slow_sender_delays_only_itself() {
    let mut scene = Scene::new(68).await;
    let mut nine = Client::over(scene.connect(scene.at(9)).await.expect("connected"), scene.at(9));
    let mut octets = greeting(overlay(9), true);
    octets.extend(announce(&usual(overlay(9), 100), &[owned(9, 1)]));
    let half = octets.len() / 2;
    for octet in &octets[..half] {
        nine.send(&[*octet]).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let begin = Instant::now();
    scene.honest[0].send(&announce(&usual(overlay(2), 100), &[owned(2, 5)])).await;
    while !scene.honest[1].told().contains(&owned(2, 5)) {
        assert!(begin.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    scene.honest[0].send(&update(&body(&nlri(&[owned(2, 5)]), &[], &[]))).await;
    for octet in &octets[half..] {
        nine.send(&[*octet]).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    scene.holds(&[owned(9, 1)]).await;
}

/// A peer that asks for everything again without end and reads nothing costs no memory: what is queued for it is
/// bounded.
#[tokio::test]
async fn a_flood_of_refreshes_is_bounded() {
    let scene = Scene::new(69).await;
    let stream = scene.connect(scene.at(9)).await.expect("connected");
    let (reader, writer) = stream.into_split();
    let heard = Arc::new(Mutex::new((Heard::default(), false)));
    let mut nine = Client { address: scene.at(9), writer, heard };
    nine.send(&greeting(overlay(9), true)).await;
    let mut ask = Vec::new();
    put(&mut ask, 5, &[0, 1, 0, 1]);
    let many = ask.repeat(1000);
    for _ in 0..200 {
        nine.send(&many).await;
    }
    let view = scene.until("all taken in", |v| v.messages_in >= 200_000).await;
    assert_eq!(view.state, "Established");
    scene.is_whole().await;
    drop(reader);
}

/// Each test that the threat table of docs/security.md names is there.
#[test]
fn the_threat_table_names_tests_that_exist() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("../docs/security.md")).expect("the page");
    let (_, table) = page.split_once("## What a hostile BGP peer can do").expect("the table");
    let sources: String = ["hostile", "flood", "corpus", "rfc7606", "bounded"]
        .map(|name| std::fs::read_to_string(root.join(format!("tests/{name}.rs"))).expect("a test program"))
        .concat();
    let mut named = 0;
    for row in table.lines().take_while(|l| !l.starts_with("## ")).filter(|l| l.starts_with("| ")).skip(2) {
        let cell = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
        let names: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "no test in: {row}");
        for name in names {
            assert!(sources.contains(&format!("fn {name}(")), "no test {name}");
            named += 1;
        }
    }
    assert!(named >= 14, "{named} tests");
}
