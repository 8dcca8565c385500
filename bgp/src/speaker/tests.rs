//! The whole speaker against small peers made of octets, with virtual time.

mod add_path;
mod long_lived;
mod multipath;
mod operated;
mod protocol;
mod restart;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;
use crate::attributes::{Attributes, Walk, code, mp_reach, mp_unreach};
use crate::egress::SLICES;
use crate::message::{Address, KEEPALIVE, Kind, Update, next_prefix, put, put_prefix};
use crate::policy::Admission;
use crate::settings::{Neighbor, Originated, PeerOptions, Restarting};
use crate::types::Family;
use crate::view::RouteQuery;

mod publish;
mod slow;

const ASN: u32 = 64512;

/// A peer as the wire shows it: what it was told, by prefix.
struct Client {
    id: ConnId,
    address: IpAddr,
    told: BTreeMap<Prefix, Told>,
    end_of_rib: [usize; 2],
    notification: Option<Notification>,
    inbox: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    next_hop: IpAddr,
    originator: Ipv4Addr,
    clusters: Vec<Ipv4Addr>,
    communities: Vec<u32>,
}

fn address(n: u8) -> IpAddr {
    IpAddr::from([10, 255, 0, n])
}

fn config() -> SpeakerConfig {
    let mut config = SpeakerConfig::new(ASN, Ipv4Addr::new(10, 255, 0, 1));
    config.cluster_id = Ipv4Addr::new(9, 9, 9, 9).into();
    config
}

fn group(client: bool, net: &str, admission: Admission) -> DynamicPeers {
    DynamicPeers {
        name: net.into(),
        source_prefixes: vec![net.parse().unwrap()],
        remote_asn: ASN,
        route_reflector_client: client,
        limit: 50,
        admission,
        options: PeerOptions::default(),
    }
}

fn open_speaker() -> Speaker {
    let mut s = Speaker::new(config(), 7, 0);
    let all = [group(true, "10.255.0.0/24", Admission::Open), group(false, "10.255.1.0/24", Admission::Open)];
    s.set_dynamic_peers(all.into(), 0);
    s
}

fn open_like(router_id: Ipv4Addr, graceful_restart: Option<GracefulRestart>) -> Open {
    Open {
        asn: ASN,
        hold_secs: 90,
        router_id: router_id.into(),
        families: [true; 2],
        four_octet_as: true,
        refresh: true,
        enhanced_refresh: false,
        extended: false,
        graceful_restart,
        long_lived: None,
        add_path: [AddPath::default(); 2],
    }
}

fn open_of(router_id: Ipv4Addr, graceful_restart: Option<GracefulRestart>) -> Vec<u8> {
    let mut out = Vec::new();
    open_like(router_id, graceful_restart).encode(&mut out);
    out
}

fn helper(restart_secs: u16) -> Option<GracefulRestart> {
    let all = [true; 2];
    Some(GracefulRestart {
        restart_secs,
        notification: true,
        families: all,
        forwarding: all,
        restarted: false,
    })
}

/// An UPDATE that announces host routes with a next hop.
fn announce(next_hop: Ipv4Addr, hosts: &[Prefix], extra: &[u8]) -> Vec<u8> {
    let own = Own { asn: 1, router_id: 1.into(), cluster_id: 1.into() };
    let a = Attributes::originated(Family::Ipv4, next_hop, 100, &[], &own);
    let mut body = vec![0, 0];
    body.extend_from_slice(&((a.blob.len() + extra.len()) as u16).to_be_bytes());
    body.extend_from_slice(&a.blob);
    body.extend_from_slice(extra);
    hosts.iter().for_each(|p| put_v4(*p, &mut body));
    let mut out = Vec::new();
    put(&mut out, 2, &body);
    out
}

fn withdraw(hosts: &[Prefix]) -> Vec<u8> {
    let mut nlri = Vec::new();
    hosts.iter().for_each(|p| put_v4(*p, &mut nlri));
    let mut body = (nlri.len() as u16).to_be_bytes().to_vec();
    body.extend_from_slice(&nlri);
    body.extend_from_slice(&[0, 0]);
    let mut out = Vec::new();
    put(&mut out, 2, &body);
    out
}

fn put_v4(prefix: Prefix, out: &mut Vec<u8>) {
    if let Prefix::V4(p) = prefix {
        put_prefix(p.bits(), p.prefix_len(), out);
    }
}

fn p(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn host(n: u8) -> Prefix {
    Prefix::host([10, 80, 0, n].into())
}

impl Client {
    fn connect(s: &mut Speaker, at: IpAddr, gr: Option<GracefulRestart>, now: Millis) -> Client {
        let id = s.connected(at, Direction::In, now).expect("admitted");
        Client::greet(s, id, at, gr, now)
    }

    fn greet(s: &mut Speaker, id: ConnId, at: IpAddr, gr: Option<GracefulRestart>, now: Millis) -> Client {
        Client::greet_with(s, id, at, &open_of(v4(at), gr), now)
    }

    fn greet_with(s: &mut Speaker, id: ConnId, at: IpAddr, open: &[u8], now: Millis) -> Client {
        let mut c = Client {
            id,
            address: at,
            told: BTreeMap::new(),
            end_of_rib: [0; 2],
            notification: None,
            inbox: Vec::new(),
        };
        s.received(id, open, now);
        s.received(id, &KEEPALIVE, now);
        c.listen(s, now);
        c
    }

    fn send(&mut self, s: &mut Speaker, octets: &[u8], now: Millis) {
        s.received(self.id, octets, now);
    }

    /// Reads everything that the speaker has for this client.
    fn listen(&mut self, s: &mut Speaker, now: Millis) {
        s.flush();
        while self.read_some(s, usize::MAX, now) > 0 {}
        let mut others = Vec::new();
        while let Some(action) = s.next_action() {
            match action {
                Action::Close(id, last) if id == self.id => self.inbox.extend_from_slice(&last),
                other => others.push(other),
            }
        }
        s.actions.extend(others);
        self.digest();
    }

    fn read_some(&mut self, s: &mut Speaker, at_most: usize, now: Millis) -> usize {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let k = s.gather(self.id, &mut slices);
        let all: Vec<u8> = slices[..k].iter().flat_map(|s| s.to_vec()).collect();
        let n = all.len().min(at_most);
        s.wrote(self.id, n, now);
        self.inbox.extend_from_slice(&all[..n]);
        n
    }

    fn digest(&mut self) {
        let inbox = std::mem::take(&mut self.inbox);
        let mut rest = &inbox[..];
        while let Some((kind, whole)) =
            frame(rest, false).expect("the speaker sends only what is well formed")
        {
            let body = &rest[HEADER_LEN..whole];
            match kind {
                Kind::Update => self.digest_update(Update::split(body).unwrap()),
                Kind::Notification => self.notification = Some(Notification::decode(body)),
                _ => {}
            }
            rest = &rest[whole..];
        }
        self.inbox = rest.to_vec();
    }

    fn digest_update(&mut self, u: Update<'_>) {
        if u.withdrawn.is_empty() && u.attributes.is_empty() && u.nlri.is_empty() {
            self.end_of_rib[0] += 1;
        }
        self.forget::<u32>(u.withdrawn);
        let all: HashMap<u8, &[u8]> = Walk(u.attributes).map(|a| (a.code, a.value)).collect();
        let ids = |c: u8| {
            let list = all.get(&c).copied().unwrap_or_default().as_chunks::<4>().0;
            list.iter().map(|a| Ipv4Addr::from(*a)).collect::<Vec<_>>()
        };
        let told = |next_hop| Told {
            next_hop,
            originator: ids(code::ORIGINATOR_ID).first().copied().unwrap_or(Ipv4Addr::UNSPECIFIED),
            clusters: ids(code::CLUSTER_LIST),
            communities: ids(code::COMMUNITIES).into_iter().map(u32::from).collect(),
        };
        if let Some(hop) = ids(code::NEXT_HOP).first() {
            self.learn::<u32>(u.nlri, &told(IpAddr::V4(*hop)));
        }
        if let Some(value) = all.get(&code::MP_UNREACH) {
            let (_, nlri) = mp_unreach(value).unwrap().unwrap();
            self.end_of_rib[1] += usize::from(nlri.is_empty());
            self.forget::<u128>(nlri);
        }
        if let Some(value) = all.get(&code::MP_REACH) {
            let (_, hop, nlri) = mp_reach(value).unwrap().unwrap();
            let hop = IpAddr::from(<[u8; 16]>::try_from(hop).unwrap());
            self.learn::<u128>(nlri, &told(hop));
        }
    }

    fn learn<A: Address>(&mut self, mut nlri: &[u8], told: &Told) {
        while let Some((addr, len)) = next_prefix::<A>(&mut nlri).unwrap() {
            self.told.insert(addr.prefix(len), told.clone());
        }
    }

    fn forget<A: Address>(&mut self, mut nlri: &[u8]) {
        while let Some((addr, len)) = next_prefix::<A>(&mut nlri).unwrap() {
            self.told.remove(&addr.prefix(len));
        }
    }

    fn prefixes(&self) -> Vec<Prefix> {
        self.told.keys().copied().collect()
    }
}

fn v4(a: IpAddr) -> Ipv4Addr {
    match a {
        IpAddr::V4(a) => a,
        IpAddr::V6(_) => panic!(),
    }
}

#[test]
fn a_clients_route_reaches_the_others_with_originator_and_cluster() {
    let mut s = open_speaker();
    let mut a = Client::connect(&mut s, address(2), None, 0);
    let mut b = Client::connect(&mut s, address(3), None, 0);
    let hop = Ipv4Addr::new(10, 255, 0, 77);
    a.send(&mut s, &announce(hop, &[host(1)], &[]), 0);
    a.listen(&mut s, 0);
    b.listen(&mut s, 0);
    let clusters = vec![Ipv4Addr::new(9, 9, 9, 9)];
    let (originator, communities) = (v4(address(2)), vec![]);
    let told = Told { next_hop: hop.into(), originator, clusters, communities };
    assert_eq!(b.told.get(&host(1)), Some(&told), "the next hop stays");
    assert!(a.told.is_empty(), "nothing goes back to where it came from");
    assert_eq!(b.end_of_rib, [1, 1]);
    let mut late = Client::connect(&mut s, address(4), None, 0);
    late.listen(&mut s, 0);
    assert_eq!(late.told, b.told);
    s.closed(a.id, "reset", 1);
    b.listen(&mut s, 1);
    assert!(b.told.is_empty());
}

#[test]
fn routes_of_a_non_client_go_to_clients_only() {
    let mut s = open_speaker();
    let mut client = Client::connect(&mut s, address(2), None, 0);
    let mut one = Client::connect(&mut s, [10, 255, 1, 3].into(), None, 0);
    let mut two = Client::connect(&mut s, [10, 255, 1, 4].into(), None, 0);
    one.send(&mut s, &announce(v4(one.address), &[host(1)], &[]), 0);
    client.send(&mut s, &announce(v4(client.address), &[host(2)], &[]), 0);
    for c in [&mut client, &mut one, &mut two] {
        c.listen(&mut s, 0);
    }
    assert_eq!(client.prefixes(), [host(1)]);
    assert_eq!(one.prefixes(), [host(2)]);
    assert_eq!(two.prefixes(), [host(2)]);
}

#[test]
fn a_loop_withdraws_the_path_that_was_accepted_before() {
    let mut s = open_speaker();
    let mut a = Client::connect(&mut s, address(2), None, 0);
    let mut b = Client::connect(&mut s, address(3), None, 0);
    a.send(&mut s, &announce(v4(a.address), &[host(1)], &[]), 0);
    b.listen(&mut s, 0);
    assert_eq!(b.told.len(), 1);
    a.send(&mut s, &announce(v4(a.address), &[host(1)], &[0x80, 10, 4, 9, 9, 9, 9]), 0);
    b.listen(&mut s, 0);
    assert!(b.told.is_empty());
    assert_eq!(s.rejected()[0].reason, crate::policy::RejectReason::ClusterLoop);
}

fn admit(owned: &[(u8, &[Prefix])]) -> Admission {
    let one = |n: u8, prefixes: &[Prefix]| {
        let policy = ImportPolicy {
            owner: format!("leaf{n}"),
            owned: prefixes.iter().copied().collect(),
            next_hop: v4(address(n)),
            max_prefixes: 8,
            passes_on: Default::default(),
        };
        (address(n), Arc::new(policy))
    };
    Admission::Enrolled(Arc::new(owned.iter().map(|(n, p)| one(*n, p)).collect()))
}

#[test]
fn a_claim_added_later_lets_the_route_in_without_a_new_session() {
    let mut s = Speaker::new(config(), 7, 0);
    let set = |s: &mut Speaker, claims: &[(u8, &[Prefix])]| {
        s.set_dynamic_peers(vec![group(true, "10.255.0.0/24", admit(claims))], 0);
    };
    set(&mut s, &[(2, &[host(1)]), (3, &[])]);
    let mut a = Client::connect(&mut s, address(2), None, 0);
    let mut b = Client::connect(&mut s, address(3), None, 0);
    a.send(&mut s, &announce(v4(address(2)), &[host(1), host(2)], &[]), 0);
    b.listen(&mut s, 0);
    assert_eq!(b.prefixes(), [host(1)]);
    let view = s.peers(0).into_iter().find(|v| v.name == "leaf2").unwrap();
    assert_eq!((view.prefixes_accepted, view.prefixes_rejected), (1, 1));
    assert_eq!(view.rejected_by_reason, BTreeMap::from([("not-owned".to_string(), 1)]));
    set(&mut s, &[(2, &[host(2)]), (3, &[])]);
    b.listen(&mut s, 0);
    assert_eq!(b.prefixes(), [host(2)], "the claim moved, and so did the route");
    assert_eq!(a.notification, None);
    set(&mut s, &[(3, &[])]);
    a.listen(&mut s, 0);
    b.listen(&mut s, 0);
    assert_eq!(a.notification.map(|n| (n.code, n.subcode)), Some((6, 3)));
    assert!(b.told.is_empty(), "revocation takes the routes at once");
    assert_eq!(s.connected(address(2), Direction::In, 0).unwrap_err()[19..21], [6, 5]);
    assert_eq!(s.summary(0).refused, BTreeMap::from([("not-enrolled".to_string(), 1)]));
}

#[test]
fn rejected_routes_beyond_the_bound_are_asked_for_again() {
    let mut s = Speaker::new(config(), 7, 0);
    s.set_dynamic_peers(vec![group(true, "10.255.0.0/24", admit(&[(2, &[])]))], 0);
    let mut a = Client::connect(&mut s, address(2), None, 0);
    a.listen(&mut s, 0);
    let many: Vec<Prefix> =
        (0..3000u32).map(|i| Prefix::host(Ipv4Addr::from(0x0a50_0000 + i).into())).collect();
    for some in many.chunks(500) {
        a.send(&mut s, &announce(v4(address(2)), some, &[]), 0);
    }
    assert_eq!(s.summary(0).paths, ingress::REJECTED_KEPT as usize, "bounded");
    assert_eq!(s.peers(0)[0].prefixes_rejected, 3000, "and yet all counted");
    s.set_dynamic_peers(vec![group(true, "10.255.0.0/24", admit(&[(2, &many[2999..])]))], 0);
    s.flush();
    a.read_some(&mut s, usize::MAX, 0);
    assert!(a.inbox.windows(4).any(|w| w == [0, 23, 5, 0]), "ROUTE-REFRESH");
}

#[test]
fn a_hub_that_dies_or_shuts_down_leaves_its_routes_at_the_leaf() {
    for (orderly, fail_static_secs) in [(false, 0), (true, 43_200), (false, 43_200)] {
        let mut config = config();
        config.publish_best_paths = true;
        let mut leaf = Speaker::new(config, 7, 0);
        let mut hub = Neighbor::new("hub", address(9), ASN);
        hub.fail_static_secs = fail_static_secs;
        leaf.set_neighbors(vec![hub], 0);
        leaf.originate(vec![Originated::new(host(50), Ipv4Addr::new(10, 255, 0, 1))]);
        let key = PeerKey::Named("hub".into());
        let dial = |leaf: &mut Speaker, now| {
            leaf.tick(now);
            assert!(matches!(leaf.next_action(), Some(Action::Dial { .. })), "dialled at {now}");
            let id = leaf.connected(address(9), Direction::Out(key.clone()), now).unwrap();
            Client::greet(leaf, id, address(9), helper(120), now)
        };
        let mut hub = dial(&mut leaf, 0);
        hub.listen(&mut leaf, 0);
        assert_eq!(hub.prefixes(), [host(50)], "the leaf's own route goes out");
        hub.send(&mut leaf, &announce(v4(address(2)), &[host(1), host(2)], &[]), 0);
        leaf.flush();
        let paths = leaf.take_best_paths().unwrap();
        assert_eq!(paths.routes.len(), 3);
        assert!(!paths.stale && !paths.whole && paths.routes[&host(50)].local);
        if orderly {
            let mut last = Vec::new();
            Notification::cease_with_text(2, "upgrade").encode(&mut last);
            hub.send(&mut leaf, &last, 1000);
        } else {
            leaf.closed(hub.id, "reset", 1000);
        }
        leaf.flush();
        let paths = leaf.take_best_paths().unwrap();
        assert_eq!(paths.routes.len(), 3, "kept");
        assert!(paths.stale && paths.routes[&host(1)].stale && !paths.routes[&host(50)].stale);
        leaf.next_action();
        let mut hub = dial(&mut leaf, 1250);
        hub.send(&mut leaf, &announce(v4(address(2)), &[host(1)], &[]), 1300);
        leaf.flush();
        let paths = leaf.take_best_paths().unwrap();
        assert_eq!(paths.routes.len(), 3, "until End-of-RIB");
        assert!(
            !paths.routes[&host(1)].stale && paths.routes[&host(2)].stale,
            "what came again is fresh at once"
        );
        let mut end = Vec::new();
        crate::message::put_end_of_rib(Family::Ipv4, &mut end);
        hub.send(&mut leaf, &end, 1300);
        leaf.flush();
        let paths = leaf.take_best_paths().unwrap();
        assert_eq!(paths.routes.len(), 2, "then what was not repeated goes");
        assert!(!paths.stale && !paths.whole, "IPv6 is to come");
        end.clear();
        crate::message::put_end_of_rib(Family::Ipv6, &mut end);
        hub.send(&mut leaf, &end, 1300);
        leaf.flush();
        assert!(leaf.take_best_paths().unwrap().whole);
        leaf.closed(hub.id, "reset", 2000);
        let limit = 2000 + 1000 * u64::from(fail_static_secs.max(120));
        leaf.tick(limit - 1);
        leaf.flush();
        assert_eq!(leaf.take_best_paths().unwrap().routes.len(), 2);
        leaf.tick(limit);
        leaf.flush();
        assert_eq!(leaf.take_best_paths().unwrap().routes.len(), 1, "not for ever");
    }
}

#[test]
fn a_restarted_hub_holds_end_of_rib_back_until_its_leaves_have_sent_theirs() {
    let mut config = config();
    let expected = BTreeSet::from([address(2), address(3)]);
    config.restarting = Some(Restarting { expected, deferral_secs: 60 });
    for everybody_comes in [true, false] {
        let mut s = Speaker::new(config.clone(), 7, 0);
        s.set_dynamic_peers(vec![group(true, "10.255.0.0/24", Admission::Open)], 0);
        let mut a = Client::connect(&mut s, address(2), helper(120), 0);
        a.send(&mut s, &announce(v4(address(2)), &[host(1)], &[]), 0);
        let mut end = Vec::new();
        Family::ALL.iter().for_each(|f| crate::message::put_end_of_rib(*f, &mut end));
        a.send(&mut s, &end, 0);
        a.listen(&mut s, 0);
        assert_eq!(a.end_of_rib, [0, 0]);
        let now = if everybody_comes {
            let mut b = Client::connect(&mut s, address(3), helper(120), 0);
            b.listen(&mut s, 0);
            assert_eq!((b.told.len(), b.end_of_rib), (1, [0, 0]), "routes flow all the same");
            b.send(&mut s, &end, 0);
            b.listen(&mut s, 0);
            assert_eq!(b.end_of_rib, [1, 1]);
            0
        } else {
            assert!(s.deadline() <= 60_000);
            s.tick(60_000);
            60_000
        };
        a.listen(&mut s, now);
        assert_eq!(a.end_of_rib, [1, 1]);
        assert!(!s.summary(now).restarting);
    }
}

#[test]
fn a_second_connection_of_a_peer_replaces_the_first_and_keeps_its_routes_if_it_may() {
    for (gr, kept) in [(helper(120), 1), (None, 0)] {
        let mut s = open_speaker();
        let mut a = Client::connect(&mut s, address(2), gr, 0);
        let mut b = Client::connect(&mut s, address(3), None, 0);
        a.send(&mut s, &announce(v4(address(2)), &[host(1)], &[]), 0);
        b.listen(&mut s, 0);
        let again = Client::connect(&mut s, address(2), gr, 10);
        b.listen(&mut s, 10);
        assert_eq!(b.told.len(), kept);
        a.listen(&mut s, 10);
        assert_eq!(a.notification.map(|n| (n.code, n.subcode)), Some((6, 7)));
        s.received(a.id, &announce(v4(address(2)), &[host(7)], &[]), 10);
        s.closed(a.id, "late news of a dead connection", 10);
        b.listen(&mut s, 10);
        assert_eq!(b.told.len(), kept, "the old connection has no say any more");
        s.received(again.id, &withdraw(&[host(1)]), 10);
        b.listen(&mut s, 10);
        assert!(b.told.is_empty());
    }
}

/// A leaf that reads nothing while everything changes costs no more than the table, and then has the latest state.
#[test]
fn a_slow_session_leaves_the_log_and_ends_up_exact() {
    let mut config = config();
    config.log_limit_bytes = 20_000;
    let mut s = Speaker::new(config, 7, 0);
    s.set_dynamic_peers(vec![group(true, "10.255.0.0/24", Admission::Open)], 0);
    let mut a = Client::connect(&mut s, address(2), None, 0);
    let mut slow = Client::connect(&mut s, address(3), None, 0);
    let mut fast = Client::connect(&mut s, address(4), None, 0);
    let mut was_slow = 0;
    for round in 0..400u32 {
        let hosts: Vec<Prefix> = (0..50)
            .map(|i| Prefix::host(Ipv4Addr::from(0x0a50_0000 + (round * 7 + i) % 900).into()))
            .collect();
        if round % 3 == 0 {
            a.send(&mut s, &withdraw(&hosts), 0);
        } else {
            let hop = Ipv4Addr::from(0x0aff_0100 + round % 5);
            a.send(&mut s, &announce(hop, &hosts, &[]), 0);
        }
        fast.listen(&mut s, 0);
        a.listen(&mut s, 0);
        was_slow += usize::from(s.peers(0).iter().any(|p| p.slow && p.address == address(3)));
        slow.read_some(&mut s, 3, 0);
        s.trim_log();
        assert!(s.summary(0).log_bytes <= 20_000 + 60_000, "round {round}: {}", s.summary(0).log_bytes);
    }
    assert!(was_slow > 100, "{was_slow}");
    slow.listen(&mut s, 0);
    assert_eq!(slow.told, fast.told);
    assert!(!s.peers(0).iter().any(|p| p.slow));
    a.send(&mut s, &announce(v4(address(2)), &[host(200)], &[]), 0);
    slow.listen(&mut s, 0);
    fast.listen(&mut s, 0);
    assert_eq!(slow.told, fast.told, "back on the log");
}

#[test]
fn limits_and_strangers_are_refused_and_counted() {
    let mut s = Speaker::new(config(), 7, 0);
    let mut g = group(true, "10.255.0.0/24", Admission::Open);
    g.limit = 2;
    s.set_dynamic_peers(vec![g], 0);
    let _a = Client::connect(&mut s, address(2), None, 0);
    let b = Client::connect(&mut s, address(3), None, 0);
    assert_eq!(s.connected(address(4), Direction::In, 0).unwrap_err()[19..21], [6, 8]);
    assert_eq!(s.connected([10, 9, 9, 9].into(), Direction::In, 0).unwrap_err()[19..21], [6, 5]);
    s.closed(b.id, "reset", 0);
    Client::connect(&mut s, address(4), None, 0);
    let refused = [("dynamic-peer-limit".to_string(), 1), ("no-source-prefix".to_string(), 1)];
    assert_eq!(s.summary(0).refused, BTreeMap::from(refused));
}

#[derive(Debug, Clone)]
enum Op {
    Announce(usize, u8, u8, u8),
    Withdraw(usize, u8),
    Junk(usize, Vec<u8>),
    Drop(usize),
    Return(usize),
    Claim(u8, u8),
    Later(u32),
    Refresh(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let who = 0..4usize;
    prop_oneof![
        8 => (who.clone(), 0..8u8, 0..6u8, 0..4u8).prop_map(|(w, h, n, kind)| Op::Announce(w, h, n, kind)),
        3 => (who.clone(), 0..8u8).prop_map(|(w, h)| Op::Withdraw(w, h)),
        1 => (who.clone(), proptest::collection::vec(any::<u8>(), 0..40)).prop_map(|(w, j)| Op::Junk(w, j)),
        1 => who.clone().prop_map(Op::Drop),
        2 => who.clone().prop_map(Op::Return),
        2 => (0..8u8, 0..5u8).prop_map(|(h, w)| Op::Claim(h, w)),
        1 => (1..100_000u32).prop_map(Op::Later),
        1 => who.prop_map(Op::Refresh),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Hostile leaves in any order of events: nothing that an admission does not cover is ever best or told to
    /// anybody, and whoever listens has at the end exactly what the table says.
    #[test]
    fn only_what_admissions_cover_is_ever_told(ops in proptest::collection::vec(op(), 1..80)) {
        let mut s = Speaker::new(config(), 7, 0);
        let mut owner: BTreeMap<Prefix, u8> = (0..4).map(|h| (host(h), h % 4)).collect();
        let apply = |s: &mut Speaker, owner: &BTreeMap<Prefix, u8>, now| {
            let mut claims = Vec::new();
            let of: Vec<Vec<Prefix>> = (0..4u8)
                .map(|w| owner.iter().filter(|(_, o)| **o == w).map(|(p, _)| *p).collect())
                .collect();
            of.iter().enumerate().for_each(|(w, prefixes)| claims.push((w as u8 + 2, &prefixes[..])));
            s.set_dynamic_peers(vec![group(true, "10.255.0.0/24", admit(&claims))], now);
        };
        apply(&mut s, &owner, 0);
        let mut now = 0;
        let mut clients: Vec<Client> =
            (0..4).map(|w| Client::connect(&mut s, address(w + 2), helper(30), now)).collect();
        for op in ops {
            match op {
                Op::Announce(w, h, n, kind) => {
                    let hop = v4(address(n + 2));
                    let (prefix, extra): (Prefix, &[u8]) = match kind {
                        0 => (host(h), &[]),
                        1 => (p("10.80.0.0/24"), &[]),
                        2 => (host(h), &[0x80, 9, 4, 1, 2, 3, 4]),
                        _ => (p("0.0.0.0/0"), &[]),
                    };
                    clients[w].send(&mut s, &announce(hop, &[prefix], extra), now);
                }
                Op::Withdraw(w, h) => clients[w].send(&mut s, &withdraw(&[host(h)]), now),
                Op::Junk(w, junk) => clients[w].send(&mut s, &junk, now),
                Op::Drop(w) => s.closed(clients[w].id, "reset", now),
                Op::Return(w) => clients[w] = Client::connect(&mut s, address(w as u8 + 2), helper(30), now),
                Op::Claim(h, w) => {
                    owner.insert(host(h), w);
                    apply(&mut s, &owner, now);
                }
                Op::Later(ms) => {
                    now += u64::from(ms);
                    s.tick(now);
                }
                Op::Refresh(w) => {
                    let mut out = Vec::new();
                    crate::message::Refresh::Request.encode(Family::Ipv4, &mut out);
                    clients[w].send(&mut s, &out, now);
                }
            }
            for c in &mut clients {
                c.listen(&mut s, now);
            }
            let best = s.routes(&RouteQuery { best_only: true, ..RouteQuery::default() });
            for route in &best {
                let leaf = owner.get(&route.prefix).copied();
                prop_assert_eq!(route.peer_address, leaf.map(|w| address(w + 2)), "{:?}", route);
                prop_assert_eq!(Some(route.next_hop), route.peer_address);
            }
            for c in clients.iter().filter(|c| s.conn(c.id.slot()).is_some_and(|x| {
                x.serial == c.id.serial && x.session.state() == State::Established
            })) {
                let want: Vec<Prefix> =
                    best.iter().filter(|r| r.peer_address != Some(c.address)).map(|r| r.prefix).collect();
                prop_assert_eq!(c.prefixes(), want);
            }
        }
    }
}
