//! What `route explain` says, from a real speaker with fixed inputs and a clock of the test's own, as golden files.
//! `UPDATE_SNAPSHOTS=1` renews them.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use ::bgp::attributes::{Attributes, Own};
use ::bgp::explain::{Asked, Verdict};
use ::bgp::message::{KEEPALIVE, Open, put, put_prefix};
use ::bgp::policy::{Admission, ImportPolicy, RejectReason};
use ::bgp::settings::{DynamicPeers, Originated, PeerOptions, SpeakerConfig};
use ::bgp::speaker::{ConnId, Direction, Speaker};
use ::bgp::types::{Family, Prefix};
use ::bgp::view::RejectedView;
use control::explain::{HubRejection, Installed, KernelView, RouteAnswer, Standing, next_hops};
use dataplane::state::PublicKey;
use dataplane::view::{InterfaceView, KernelRouteView, Report, WireguardPeerView};

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::people;
use crate::output::Format;

const ASN: u32 = 64512;
/// When the questions are asked, milliseconds after the start.
const NOW: u64 = 3_600_000;

fn overlay(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 255, 0, n)
}

fn connect(speaker: &mut Speaker, n: u8) -> ConnId {
    let id = speaker.connected(overlay(n).into(), Direction::In, 0).expect("admitted");
    let open = Open {
        add_path: Default::default(),
        asn: ASN,
        hold_secs: 0,
        router_id: overlay(n).into(),
        families: [true; 2],
        four_octet_as: true,
        refresh: true,
        enhanced_refresh: false,
        extended: false,
        graceful_restart: None,
        long_lived: None,
    };
    let mut octets = Vec::new();
    open.encode(&mut octets);
    octets.extend_from_slice(&KEEPALIVE);
    speaker.received(id, &octets, 0);
    id
}

fn announce(speaker: &mut Speaker, id: ConnId, host: [u8; 4], next_hop: Ipv4Addr, pref: u32, at: u64) {
    let own = Own { asn: 1, router_id: 1.into(), cluster_id: 1.into() };
    let a = Attributes::originated(Family::Ipv4, next_hop, pref, &[64512 << 16 | 7], &own);
    let mut body = vec![0, 0];
    body.extend_from_slice(&(a.blob.len() as u16).to_be_bytes());
    body.extend_from_slice(&a.blob);
    put_prefix(u32::from_be_bytes(host), 32, &mut body);
    let mut message = Vec::new();
    put(&mut message, 2, &body);
    speaker.received(id, &message, at);
    speaker.flush();
}

/// A reflector with three enrolled leaves; `aws` and `azure` both own 10.81.10.20, as during a move.
fn hub() -> Speaker {
    let mut speaker = Speaker::new(SpeakerConfig::new(ASN, overlay(1)), 7, 0);
    let policy = |name: &str, n: u8, owned: &[[u8; 4]]| {
        let owned = owned.iter().map(|a| Prefix::host(Ipv4Addr::from(*a).into())).collect();
        let policy = ImportPolicy {
            owner: name.into(),
            owned,
            next_hop: overlay(n),
            max_prefixes: 9,
            passes_on: Default::default(),
        };
        (overlay(n).into(), Arc::new(policy))
    };
    let all: HashMap<_, _> = [
        policy("aws", 2, &[[10, 81, 10, 20]]),
        policy("azure", 3, &[[10, 81, 10, 20], [10, 82, 10, 20]]),
        policy("oci", 4, &[]),
    ]
    .into();
    let group = DynamicPeers {
        options: Default::default(),
        name: "fullmesh-leaves".into(),
        source_prefixes: vec!["10.255.0.0/20".parse().unwrap()],
        remote_asn: ASN,
        route_reflector_client: true,
        limit: 10,
        admission: Admission::Enrolled(Arc::new(all)),
    };
    speaker.set_dynamic_peers(vec![group], 0);
    let [aws, azure, oci] = [2, 3, 4].map(|n| connect(&mut speaker, n));
    announce(&mut speaker, aws, [10, 81, 10, 20], overlay(2), 100, 60_000);
    announce(&mut speaker, azure, [10, 81, 10, 20], overlay(3), 90, 61_000);
    announce(&mut speaker, azure, [10, 82, 10, 20], overlay(3), 100, 61_000);
    for at in [100_000, 200_000, 300_000] {
        announce(&mut speaker, oci, [10, 82, 10, 20], overlay(4), 100, at);
        announce(&mut speaker, oci, [10, 83, 10, 20], overlay(4), 100, at);
    }
    speaker
}

/// The hub's WireGuard: it hears `aws` and `azure`, and has a peer for nobody else.
fn report() -> Report {
    tunnels(&[2, 3])
}

/// WireGuard with a peer for each of these overlay addresses.
fn tunnels(to: &[u8]) -> Report {
    let peer = |n: u8| WireguardPeerView {
        line: Default::default(),
        public_key: PublicKey([n; 32]),
        endpoint: Some(format!("192.0.2.{n}:51820").parse().unwrap()),
        last_handshake_secs_ago: Some(u64::from(n)),
        rx_bytes: 0,
        tx_bytes: 0,
        allowed_ips: [overlay(n).into()].into(),
        keepalive_secs: 0,
    };
    let interface = InterfaceView {
        name: "fab-wg".into(),
        kind: "wireguard".into(),
        mtu: 1420,
        up: true,
        addresses: Vec::new(),
        listen_port: Some(51820),
        public_key: None,
    };
    Report { peers: to.iter().copied().map(peer).collect(), interfaces: vec![interface], ..Report::default() }
}

fn ask(speaker: &Speaker, what: &str, own: u8, report: &Report, kernel: KernelView) -> RouteAnswer {
    let bgp = speaker.explain(Asked::Address(what.parse().unwrap()), NOW);
    let standing = Standing { own: overlay(own), overlay: "10.255.0.0/20".parse().unwrap(), report };
    let next_hops = next_hops(&bgp, Some(standing));
    let role = if own == 1 { "hub" } else { "leaf" };
    RouteAnswer { role: role.into(), bgp, next_hops, kernel, hub_rejections: Vec::new() }
}

/// The kernel's route on a leaf to 10.82.10.20.
fn installed() -> KernelRouteView {
    KernelRouteView {
        prefix: "10.82.10.20/32".parse().unwrap(),
        device: Some("fab-ipip".into()),
        gateway: None,
        tunnel_to: Some(overlay(3)),
        tunnel_also: Vec::new(),
        source: Some(overlay(2)),
        mtu: 1340,
        advmss: 1300,
        metric: 0,
        protocol: 84,
        ours: true,
    }
}

fn relayed() -> KernelView {
    KernelView::not_needed("a hub relays overlay packets and needs no client route")
}

/// Compares with the golden files of this name in all three formats, or renews them.
fn golden(name: &str, answer: &RouteAnswer) {
    let sent = serde_json::to_string(answer).unwrap();
    assert_eq!(serde_json::from_str::<RouteAnswer>(&sent).as_ref().ok(), Some(answer), "{sent}");
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/explain");
    for (format, end) in [(Format::Table, "txt"), (Format::Json, "json"), (Format::Yaml, "yaml")] {
        let now = format.render(answer, people).unwrap() + "\n";
        let file = dir.join(format!("{name}.{end}"));
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(&file, &now).unwrap();
        }
        let golden = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(now, golden, "{}: UPDATE_SNAPSHOTS=1 renews it", file.display());
    }
}

/// JSON of which only one thing is asked: that no object has a key twice. Readers differ in what they make of that:
/// some take the first value, some the last, and our own refuses the answer.
struct KeysOnce;

impl<'de> Deserialize<'de> for KeysOnce {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<KeysOnce, D::Error> {
        from.deserialize_any(KeysOnce)
    }
}

impl<'de> Visitor<'de> for KeysOnce {
    type Value = KeysOnce;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON whose objects have each key once")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<KeysOnce, M::Error> {
        let mut seen = HashSet::new();
        while let Some((key, KeysOnce)) = map.next_entry::<String, KeysOnce>()? {
            if let Some(twice) = seen.replace(key) {
                return Err(M::Error::custom(format!("{twice} occurs twice")));
            }
        }
        Ok(self)
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<KeysOnce, S::Error> {
        while seq.next_element::<KeysOnce>()?.is_some() {}
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<KeysOnce, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<KeysOnce, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<KeysOnce, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<KeysOnce, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<KeysOnce, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<KeysOnce, E> {
        Ok(self)
    }
}

/// Every golden JSON has each key once in each object, and is what a program reads back as the same answer.
#[test]
fn no_key_occurs_twice() {
    let twice = serde_json::from_str::<KeysOnce>(r#"[{"a": {"b": 1, "c": [], "b": 2}}]"#);
    assert!(twice.err().unwrap().to_string().contains("b occurs twice"));
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/explain");
    let mut checked = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "json") {
            let text = std::fs::read_to_string(&path).unwrap();
            if let Err(error) = serde_json::from_str::<KeysOnce>(&text) {
                panic!("{}: {error}", path.display());
            }
            serde_json::from_str::<RouteAnswer>(&text).unwrap();
            checked += 1;
        }
    }
    assert!(checked >= 9, "{checked} golden files");
}

/// Two leaves announce one address: the one with the higher LOCAL_PREF is chosen, the other's page says where it lost.
#[test]
fn a_chosen_and_a_losing_route() {
    let answer = ask(&hub(), "10.81.10.20", 1, &report(), relayed());
    assert!(answer.good());
    assert_eq!(answer.bgp.advertised_to, ["azure", "oci"]);
    golden("chosen-and-losing", &answer);
}

/// A route chosen at one neighbour and rejected three times from another, and one that is rejected altogether.
#[test]
fn rejected_routes() {
    let speaker = hub();
    let chosen = ask(&speaker, "10.82.10.20", 1, &report(), relayed());
    assert!(chosen.good());
    golden("chosen-and-rejected", &chosen);
    let rejected = ask(&speaker, "10.83.10.20", 1, &report(), relayed());
    assert!(!rejected.good());
    let note = rejected.bgp.candidates[0].rejected.clone().unwrap();
    assert_eq!((note.count, note.since_secs), (3, 3500));
    golden("rejected", &rejected);
}

/// A leaf with its own route, one that it installs, and one whose next hop no tunnel carries.
#[test]
fn a_leaf_with_an_unresolvable_route() {
    let mut speaker = Speaker::new(SpeakerConfig::new(ASN, overlay(2)), 7, 0);
    let group = DynamicPeers {
        options: Default::default(),
        name: "hub".into(),
        source_prefixes: vec!["10.255.0.1/32".parse().unwrap()],
        remote_asn: ASN,
        route_reflector_client: false,
        limit: 1,
        admission: Admission::Open,
    };
    speaker.set_dynamic_peers(vec![group], 0);
    speaker.originate(vec![Originated::new("10.81.10.20/32".parse().unwrap(), overlay(2))]);
    let hub = connect(&mut speaker, 1);
    announce(&mut speaker, hub, [10, 82, 10, 20], overlay(3), 100, 1000);
    announce(&mut speaker, hub, [10, 84, 10, 20], overlay(9), 100, 1000);
    let report = report();
    let kernel = KernelView {
        routes: vec![installed()],
        ..KernelView::of(Installed::Yes, "carried by the kernel dataplane")
    };
    golden("leaf-installed", &ask(&speaker, "10.82.10.20", 2, &report, kernel));
    let missing = KernelView::of(Installed::No, "absent: the dataplane is about to install it");
    let unresolvable = ask(&speaker, "10.84.10.20", 2, &report, missing);
    assert!(!unresolvable.good());
    golden("unresolvable", &unresolvable);
    let own = KernelView::not_needed("an own client: the site's own routing delivers");
    let mut answer = ask(&speaker, "10.81.10.20", 2, &report, own);
    assert!(answer.good());
    golden("own", &answer);
    let rejected = |prefix: &str, by: Option<&str>| RejectedView {
        prefix: prefix.parse().unwrap(),
        peer: "local".into(),
        peer_address: None,
        leaf: Some("aws".into()),
        next_hop: overlay(2).into(),
        reason: RejectReason::NotOwned,
        by: by.map(Into::into),
    };
    let said = [rejected("10.81.10.20/32", Some("hub")), rejected("10.81.10.21/32", Some("hub"))];
    answer.hub_rejections = HubRejection::about(answer.bgp.prefix, &said);
    assert!(!answer.good());
    golden("own-rejected-by-the-hub", &answer);
    let unknown = ask(&speaker, "10.99.0.1", 2, &report, KernelView::not_needed("no path is chosen"));
    assert!(!unknown.good());
    golden("unknown", &unknown);
}

/// A leaf that shares the flows to a prefix between two of three equal paths (`maximumPaths: 2`): the page has the
/// chosen one, the one beside it, the one too many, and one that lost before the tie-breaks.
#[test]
fn equal_paths_that_share_a_route() {
    let config = SpeakerConfig { maximum_paths: 2, ..SpeakerConfig::new(ASN, overlay(2)) };
    let mut speaker = Speaker::new(config, 7, 0);
    let group = DynamicPeers {
        options: PeerOptions { multipath: true, ..PeerOptions::default() },
        name: "routers".into(),
        source_prefixes: vec!["10.255.0.0/28".parse().unwrap()],
        remote_asn: ASN,
        route_reflector_client: false,
        limit: 9,
        admission: Admission::Open,
    };
    speaker.set_dynamic_peers(vec![group], 0);
    for (n, pref) in [(3, 100), (4, 100), (5, 100), (6, 90)] {
        let router = connect(&mut speaker, n);
        announce(&mut speaker, router, [10, 85, 10, 20], overlay(n), pref, 1000);
    }
    let kernel = KernelView {
        routes: vec![KernelRouteView {
            prefix: "10.85.10.20/32".parse().unwrap(),
            tunnel_also: vec![overlay(4)],
            ..installed()
        }],
        ..KernelView::of(Installed::Yes, "carried by the kernel dataplane")
    };
    let answer = ask(&speaker, "10.85.10.20", 2, &tunnels(&[3, 4, 5, 6]), kernel);
    assert!(answer.good());
    let verdicts = answer.bgp.candidates.iter().map(|c| c.verdict).collect::<Vec<_>>();
    assert_eq!(verdicts, [Verdict::Chosen, Verdict::Equal, Verdict::Lost, Verdict::Lost]);
    golden("equal", &answer);
}

/// The pages differ from each other: a golden file that says the same for all would prove nothing.
#[test]
fn pages_differ() {
    let pages: HashSet<&str> = [
        include_str!("../../../tests/golden/explain/chosen-and-losing.txt"),
        include_str!("../../../tests/golden/explain/rejected.txt"),
        include_str!("../../../tests/golden/explain/unresolvable.txt"),
        include_str!("../../../tests/golden/explain/unknown.txt"),
        include_str!("../../../tests/golden/explain/equal.txt"),
    ]
    .into();
    assert_eq!(pages.len(), 5);
}
