//! The in-process dataplane on the host's kernel, in namespaces.

#![allow(missing_docs)]

mod common;

use std::time::Duration;

use common::*;
use dataplane::io::Choice;
use dataplane::state::{Wireguard, WireguardPeer};
use dataplane::view::{Carrier, DropReason};

/// Longest time for what must come before the tunnels' own timers, of 15 s and 25 s, would bring it.
const QUICKLY: Duration = Duration::from_secs(10);
const CLIENT_A: &str = "10.81.10.20";
const CLIENT_B: &str = "10.82.10.20";

fn fabric(narrow: u32) -> (Lab, Node, Node, Node) {
    let lab = sites(narrow);
    let mut hub = lab.node("hub", Choice::InProcess);
    let mut a = lab.node("a", Choice::InProcess);
    let mut b = lab.node("b", Choice::InProcess);
    hub.wish(&hub_wish(&[2, 3]));
    a.wish(&leaf_wish(2, 1500, &[("10.82.10.20/32", 3)]));
    b.wish(&leaf_wish(3, narrow as u16, &[("10.81.10.20/32", 2)]));
    (lab, hub, a, b)
}

/// Two in-process leaves and an in-process hub: a client reaches the other with its own address, large TCP passes a
/// 1,300-octet underlay both ways, and nothing is left when all are removed.
#[test]
fn clients_reach_each_other_through_the_hub() {
    let (lab, hub, a, b) = fabric(1300);
    eventually("first ping", LIMIT, || ping(&lab, "ca", CLIENT_B));
    assert_eq!(exchange(&lab, "ca", "cb", CLIENT_B, 1 << 20), addr(CLIENT_A));
    assert_eq!(exchange(&lab, "cb", "ca", CLIENT_A, 1 << 20), addr(CLIENT_B));
    let report = a.report();
    assert_eq!(report.dataplane, Carrier::InProcess);
    assert_eq!((report.routes_installed, report.clamp), (2, Some(1380)));
    assert!(report.peers.iter().next().unwrap().last_handshake_secs_ago.is_some());
    assert!(hub.report().relayed > 700, "the hub relays in process");
    assert_eq!(hub.report().findings, []);
    for (name, node) in [("hub", hub), ("a", a), ("b", b)] {
        node.remove();
        assert_eq!(traces(&lab, name), "", "{name} leaves nothing");
    }
}

/// Clients of two leaves that reach no hub in common reach each other.
#[test]
fn hubs_relay() {
    hubs_relay_for_each_other([Choice::InProcess; 2]);
}

/// Two owners of one address share its flows; the loss of one moves all.
#[test]
fn equal_owners_share_the_flows() {
    flows_are_shared(Choice::InProcess);
}

/// An inner source that the outer source does not own is dropped and counted; a route change lets it in at once.
#[test]
fn spoofed_inner_source_is_dropped_and_counted() {
    let (lab, _hub, mut a, mut b) = fabric(1500);
    eventually("first ping", LIMIT, || ping(&lab, "cb", CLIENT_A));
    lab.sh("cb", "ip addr add 10.82.10.66/32 dev eth0");
    assert!(!lab.ok("cb", "ping -c3 -i0.2 -W1 -I 10.82.10.66 10.81.10.20"));
    assert_eq!(a.report().drops.get(&DropReason::Spoofed), Some(&3));
    assert!(answered(&lab, "ca", CLIENT_B), "the honest client is not touched");
    a.wish(&leaf_wish(2, 1500, &[("10.82.10.20/32", 3), ("10.82.10.66/32", 3)]));
    assert!(lab.ok("cb", "ping -c1 -W10 -I 10.82.10.66 10.81.10.20"), "owned now");
    b.wish(&leaf_wish(3, 1500, &[]));
    assert!(!ping(&lab, "ca", CLIENT_B), "without a route nothing is wrapped");
}

/// The ports of the UDP sockets in this thread's namespace.
fn udp_ports() -> std::collections::BTreeSet<String> {
    let read = |name| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
    let tables = [read("udp"), read("udp6")];
    let local = |line: &str| Some(line.split_whitespace().nth(1)?.rsplit(':').next()?.to_string());
    tables.iter().flat_map(|table| table.lines().skip(1)).filter_map(local).collect()
}

/// The overlay goes through the second WireGuard, both ways, with a dead hub behind the first, and back.
#[test]
fn the_second_wireguard_carries() {
    let (lab, _hub, mut a, _b) = fabric(1500);
    let passes = || {
        eventually("ping", LIMIT, || ping(&lab, "ca", CLIENT_B));
        assert_eq!(exchange(&lab, "ca", "cb", CLIENT_B, 1 << 18), addr(CLIENT_A));
        assert_eq!(exchange(&lab, "cb", "ca", CLIENT_A, 1 << 18), addr(CLIENT_B));
    };
    passes();
    let wish = leaf_wish(2, 1500, &[("10.82.10.20/32", 3)]);
    for _ in 0..2 {
        let report = a.wish(&by_second(&wish));
        assert!(report.converged, "{:?}", report.last_error);
        passes();
        assert_eq!(a.report().peers.len(), 2);
        // Fresh keys leave it at the port that the system chose, where its hub and NAT know it.
        let ports = || lab.within("a", udp_ports);
        let (before, mut fresh) = (ports(), by_second(&wish));
        if let Some(second) = &mut fresh.second {
            second.private_key = dataplane::state::PrivateKey::from_bytes([77; 32]);
        }
        let report = a.wish(&fresh);
        assert!(report.converged, "{:?}", report.last_error);
        assert_eq!((ports(), before.len()), (before, 2));
        a.wish(&wish);
        passes();
        assert_eq!(a.report().peers.len(), 1);
    }
}

/// A leaf takes fresh keys under running pings: not one packet is lost, in either direction.
#[test]
fn fresh_keys_lose_nothing() {
    let (lab, mut hub, mut a, _b) = fabric(1500);
    eventually("first ping", LIMIT, || ping(&lab, "ca", CLIENT_B));
    common::fresh_keys_lose_nothing(&lab, &mut hub, &mut a);
}

/// Fresh keys toward a dead hub do not hold up what goes through the living one. A machine that stands still for a moment
/// holds packets up by itself, so there are three tries; a tunnel that waits does so in each, for a second.
#[test]
fn a_tunnel_that_waits_holds_nobody_else_up() {
    let (lab, _hub, mut a, _b) = fabric(1500);
    let mut wish = by_second(&leaf_wish(2, 1500, &[("10.82.10.20/32", 3)]));
    a.wish(&wish);
    eventually("first ping", LIMIT, || ping(&lab, "ca", CLIENT_B));
    let mut slowest = Vec::new();
    for fresh in [78, 79, 80] {
        let ns = lab.ns("ca");
        let pings = std::thread::spawn(move || {
            run("ip", &["netns", "exec", &ns, "ping", "-q", "-i", "0.01", "-W", "10", "-c", "200", CLIENT_B])
        });
        std::thread::sleep(Duration::from_millis(300));
        wish.wireguard.iter_mut().for_each(|first| first.private_key = key(fresh));
        a.wish(&wish);
        let said = pings.join().unwrap();
        assert!(said.contains(" 200 received"), "{said}");
        let times = said.lines().last().and_then(|line| line.split('/').nth(5)?.parse::<f64>().ok());
        slowest.push(times.unwrap_or_else(|| panic!("no times: {said}")));
        if slowest.last().is_some_and(|ms| *ms < 500.0) {
            return;
        }
    }
    panic!("the slowest ping of each of three tries: {slowest:?} ms");
}

/// A peer with a fresh key that has not called with it: revoked, it has neither key from that moment; and when the former
/// key's time is up, the fresh one has the place without a call.
#[test]
fn an_awaited_peer_can_be_revoked_and_can_be_late() {
    let (lab, mut hub, mut a, _b) = fabric(1500);
    eventually("first ping", LIMIT, || ping(&lab, "ca", CLIENT_B));
    let with = |key_of: u8, leaf: &mut Node| {
        let mut wished = leaf_wish(2, 1500, &[("10.82.10.20/32", 3)]);
        wished.wireguard.iter_mut().for_each(|wireguard| wireguard.private_key = key(key_of));
        leaf.wish(&wished);
    };
    hub.wish(&awaiting(100, 2));
    assert!(answered(&lab, "ca", CLIENT_B), "the former key holds");
    hub.wish(&hub_wish(&[3]));
    assert!(!ping(&lab, "ca", CLIENT_B), "revoked");
    with(100, &mut a);
    assert!(!ping(&lab, "ca", CLIENT_B), "the fresh key is revoked as well");
    hub.wish(&awaiting(101, 100));
    assert!(!ping(&lab, "ca", CLIENT_B), "no former key is in force that could be kept");
    hub.wish(&awaiting(100, 101));
    eventually("the way back", LIMIT, || ping(&lab, "ca", CLIENT_B));
    hub.wish(&awaiting(102, 100));
    assert!(answered(&lab, "ca", CLIENT_B));
    let mut late = awaiting(102, 100);
    late.wireguard.iter_mut().for_each(|wireguard| wireguard.former_keys.clear());
    hub.wish(&late);
    assert!(!ping(&lab, "ca", CLIENT_B), "the former key's time is up");
    with(102, &mut a);
    eventually("the late one", LIMIT, || ping(&lab, "ca", CLIENT_B));
}

/// All peers carry this prefix and no other.
fn carries(wireguard: &mut Wireguard, prefix: &str) {
    let carries = |(key, peer)| (key, WireguardPeer { allowed_ips: [net(prefix)].into(), ..peer });
    wireguard.peers = std::mem::take(&mut wireguard.peers).into_iter().map(carries).collect();
}

/// From the foyer only TCP to the enrollment API gets anywhere; then the same leaf runs with its own key and address,
/// and the first packet after the change is answered at once.
#[test]
fn key_change_of_enrollment_works_at_once() {
    let lab = sites(1500);
    let mut hub = lab.node("hub", Choice::InProcess);
    let mut other = lab.node("b", Choice::InProcess);
    hub.wish(&hub_wish(&[3]));
    other.wish(&leaf_wish(3, 1500, &[]));
    let mut leaf = lab.node("a", Choice::InProcess);
    let mut foyer = leaf_wish(9, 1500, &[]);
    foyer.tunnel = None;
    foyer.filter = Default::default();
    foyer.routes = [(net("10.255.15.1/32"), dataplane::state::Target::Wireguard)].into();
    if let Some(wireguard) = &mut foyer.wireguard {
        wireguard.addresses = [net("10.255.15.2/32")].into();
        carries(wireguard, "10.255.15.1/32");
    }
    leaf.wish(&foyer);
    lab.within("hub", || {
        for port in [8443, 179] {
            let listener = std::net::TcpListener::bind(("0.0.0.0", port)).unwrap();
            std::thread::spawn(move || while listener.accept().is_ok() {});
        }
    });
    let connects_within = |to: &'static str, limit: Duration| {
        lab.within("a", move || std::net::TcpStream::connect_timeout(&to.parse().unwrap(), limit).is_ok())
    };
    let connects = |to: &'static str| connects_within(to, Duration::from_millis(700));
    assert!(connects_within("10.255.15.1:8443", LIMIT), "the enrollment API answers in the foyer");
    assert!(!connects("10.255.15.1:179"), "nothing else does");
    assert!(!ping(&lab, "a", "10.255.15.1"));
    // A guest that routes more than it was given reaches neither the hub's overlay address nor another leaf.
    if let Some(wireguard) = &mut foyer.wireguard {
        carries(wireguard, "10.255.0.0/20");
    }
    foyer.routes = [(net("10.255.0.0/20"), dataplane::state::Target::Wireguard)].into();
    leaf.wish(&foyer);
    assert!(!connects("10.255.0.1:8443"));
    assert!(!ping(&lab, "a", "10.255.0.3"));
    assert!(hub.report().drops[&DropReason::Foyer] >= 3);
    // Admitted: the hub knows the new key before the leaf changes to it.
    hub.wish(&hub_wish(&[2, 3]));
    let sent_again = || {
        let counters = lab.sh("a", "nstat -asz TcpRetransSegs | grep TcpRetransSegs");
        counters.split_whitespace().nth(1).and_then(|count| count.parse::<u64>().ok()).expect("nstat counts")
    };
    let before = sent_again();
    leaf.wish(&leaf_wish(2, 1500, &[]));
    assert!(connects_within("10.255.0.1:179", LIMIT), "the first connection after the change");
    // Not a time, which the machine has a part in: had the first packet been lost, it would have been sent again.
    assert_eq!(sent_again(), before, "the first packet is answered");
    assert!(answered(&lab, "a", "10.255.0.3"), "and the hub relays to the other leaf");
}

/// A hub that starts anew is found again within seconds by leaves that send, although all its sessions are lost.
#[test]
fn restarted_hub_is_found_again() {
    let (lab, hub, _a, _b) = fabric(1500);
    eventually("first ping", LIMIT, || ping(&lab, "ca", CLIENT_B));
    hub.kill();
    assert!(!ping(&lab, "ca", CLIENT_B));
    let mut hub = lab.node("hub", Choice::InProcess);
    hub.wish(&hub_wish(&[2, 3]));
    eventually("ping after the hub's restart", QUICKLY, || ping(&lab, "ca", CLIENT_B));
}

/// A hub that remembers where its leaves were calls them as soon as it is back, although they are silent.
#[test]
fn remembering_hub_calls_its_leaves() {
    let (lab, hub, _a, _b) = fabric(1500);
    eventually("first ping", LIMIT, || ping(&lab, "ca", CLIENT_B));
    hub.kill();
    let folder = tempfile::tempdir().unwrap();
    let memory = folder.path().join("peers.json");
    let start = || Node::start_remembering(lab.ns("hub"), Choice::InProcess, Some(memory.clone()));
    let mut hub = start();
    hub.wish(&hub_wish(&[2, 3]));
    eventually("ping after the restart", QUICKLY, || ping(&lab, "ca", CLIENT_B));
    eventually("written", LIMIT, || memory.exists());
    hub.kill();
    let mut hub = start();
    hub.wish(&hub_wish(&[2, 3]));
    // Nobody calls the hub meanwhile: the leaves' next keepalive is 25 s away.
    eventually("calls", QUICKLY, || lab.ok("hub", "ping -c1 -W1 10.255.0.2"));
    eventually("ping by the remembered ways", QUICKLY, || ping(&lab, "ca", CLIENT_B));
}

/// Adding, changing and removing peers at the hub loses no packet of the others, and a roaming peer stays known.
#[test]
fn changes_of_one_peer_disturb_no_other() {
    let (lab, mut hub, _a, _b) = fabric(1500);
    eventually("first ping", LIMIT, || ping(&lab, "ca", CLIENT_B));
    let pinger = {
        let ns = lab.ns("ca");
        std::thread::spawn(move || {
            run("ip", &["netns", "exec", &ns, "ping", "-q", "-i", "0.005", "-c", "300", "-W", "10", CLIENT_B])
        })
    };
    for round in 0..20u8 {
        let others: Vec<u8> = (10..10 + round % 7).collect();
        hub.wish(&hub_wish(&[&[2, 3], others.as_slice()].concat()));
    }
    let output = pinger.join().unwrap();
    assert!(output.contains(" 0% packet loss"), "{output}");
    let report = hub.report();
    assert!(report.peers.iter().filter(|p| p.endpoint.is_some()).count() == 2, "{:?}", report.peers);
}

/// What is not ours survives, what covers the host is refused with its reason, and what is ours is repaired.
#[test]
fn only_ours_is_touched() {
    let lab = sites(1500);
    lab.sh(
        "a",
        "ip route add 10.99.0.0/24 via 198.51.101.1; ip route add 10.98.1.1/32 dev lan proto 77; \
         ip neigh add proxy 10.77.0.1 dev lan; nft add table inet other; nft add chain inet other c",
    );
    let before = traces_of_others(&lab);
    let mut a = lab.node("a", Choice::InProcess);
    let mut wished = leaf_wish(
        2,
        1500,
        &[
            ("10.82.10.20/32", 3),
            ("10.81.10.10/32", 3),
            ("10.81.0.0/16", 3),
            ("198.51.100.2/32", 3),
            ("198.51.101.1/32", 3),
            ("10.99.0.0/24", 3),
            ("10.81.10.77/32", 3),
        ],
    );
    let capture = |address: &str| dataplane::state::Capture::ProxyArp {
        interface: "lan".into(),
        address: addr(address),
    };
    wished.captures = [capture("10.82.10.20"), capture("10.81.10.77")].into();
    let report = a.wish(&wished);
    let rejected: Vec<_> =
        report.routes_rejected.iter().map(|r| format!("{} {}", r.prefix, r.reason.as_str())).collect();
    assert_eq!(
        rejected,
        [
            "10.81.0.0/16 connected",
            "10.81.10.10/32 own-address",
            "10.99.0.0/24 foreign-route",
            "198.51.100.2/32 endpoint",
            "198.51.101.1/32 gateway",
        ]
    );
    assert_eq!(report.routes_installed, 3);
    assert_eq!(lab.sh("a", "ip neigh show proxy | wc -l").trim(), "3");
    // Somebody deletes and spoils what is ours: it comes back by itself.
    lab.sh(
        "a",
        "ip route del 10.82.10.20/32; ip link set fab-tun mtu 1000; ip addr flush dev fab-tun; \
         nft flush chain inet fabric forward; ip neigh del proxy 10.82.10.20 dev lan; \
         ip route add 10.55.0.1/32 dev fab-tun proto 84",
    );
    eventually("repair", LIMIT, || {
        let report = a.dataplane.report().borrow().clone();
        report.converged
            && report.repairs > 0
            && lab.ok(
                "a",
                "ip route show 10.82.10.20 | grep -q mtu; ip addr show fab-tun | grep -q 10.255.0.2/32",
            )
            && lab.ok(
                "a",
                "ip link show fab-tun | grep -q 'mtu 1440'; nft list table inet fabric | grep -q maxseg",
            )
            && lab.ok("a", "ip neigh show proxy | grep -q 10.82.10.20; ! ip route | grep -q 10.55.0.1")
    });
    a.remove();
    assert_eq!(traces_of_others(&lab), before);
    assert!(!lab.ok("a", "ip link show fab-tun"));
}

fn traces_of_others(lab: &Lab) -> String {
    lab.sh(
        "a",
        "ip -4 route show table all | sort; ip neigh show proxy; nft list ruleset; ip -o link | wc -l",
    )
}

/// A host firewall that rejects FORWARD is a finding with its fix; run as it is printed, the finding disappears and
/// packets pass. The same for forwarding that is off and for capture interfaces.
#[test]
fn findings_are_fixed_by_their_commands() {
    let (lab, _hub, mut a, _b) = fabric(1500);
    lab.sh(
        "a",
        "nft add table ip filter; \
         nft 'add chain ip filter FORWARD { type filter hook forward priority 0; policy accept; }'; \
         nft add rule ip filter FORWARD ct state established,related accept; \
         nft add rule ip filter FORWARD reject with icmp type host-prohibited; \
         sysctl -qw net.ipv4.ip_forward=0 net.ipv4.conf.lan.rp_filter=1",
    );
    let mut wished = leaf_wish(2, 1500, &[("10.82.10.20/32", 3)]);
    let capture = dataplane::state::Capture::ProxyArp { interface: "lan".into(), address: addr(CLIENT_B) };
    wished.captures = [capture].into();
    a.wish(&wished);
    assert!(!ping(&lab, "ca", CLIENT_B));
    let findings = a.report().findings.clone();
    let codes: Vec<_> = findings.iter().map(|f| f.code.as_str()).collect();
    assert_eq!(codes, ["ip-forward-off", "host-forward-drops", "rp-filter-strict", "proxy-arp-delayed"]);
    for finding in &findings {
        lab.sh("a", finding.fix.as_deref().unwrap());
    }
    assert_eq!(a.report().findings, []);
    eventually("ping after the fixes", LIMIT, || ping(&lab, "ca", CLIENT_B));
    assert!(answered(&lab, "cb", CLIENT_A));
}

/// The path MTU toward the hub is measured through routers with narrower links, and the report tells it.
#[test]
fn path_mtu_is_measured() {
    let lab = sites(1300);
    lab.cable(("net", "far0", "203.0.113.1/24"), ("hub", "far", "203.0.113.2/24"), 1280);
    let b = lab.node("b", Choice::InProcess);
    let measure = |to: &str| {
        let to = to.parse().unwrap();
        lab.within("b", move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(dataplane::io::path_mtu(to))
        })
    };
    assert_eq!(measure("198.51.100.2:51820"), 1300);
    assert_eq!(measure("203.0.113.2:51820"), 1280);
    let a = |to: &str| {
        let to = to.parse().unwrap();
        lab.within("a", move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(dataplane::io::path_mtu(to))
        })
    };
    assert_eq!(a("198.51.100.2:51820"), 1500);
    assert_eq!(a("203.0.113.2:51820"), 1280, "behind a wide first link");
    assert_eq!(a("192.0.2.1:1"), 1500, "a silent path is as wide as the first link");
    let mut b = b;
    b.wish(&leaf_wish(3, 1300, &[]));
    eventually("measured by the reconciler", LIMIT, || {
        b.dataplane.report().borrow().path_mtu.get(&HUB.parse().unwrap()) == Some(&1300)
    });
}

/// A TUN device that somebody deletes under us is made again, with everything on it, and traffic goes on.
#[test]
fn deleted_tun_is_made_again() {
    let (lab, _hub, a, _b) = fabric(1500);
    eventually("first ping", LIMIT, || ping(&lab, "ca", CLIENT_B));
    lab.sh("a", "ip link del fab-tun");
    eventually("ping over the new device", LIMIT, || ping(&lab, "ca", CLIENT_B));
    let report = a.report();
    assert!(report.converged && report.repairs >= 1, "{report:?}");
}

/// Everything can be wished away and back again, piece by piece.
#[test]
fn wishes_can_be_taken_back() {
    let (lab, _hub, mut a, _b) = fabric(1500);
    eventually("first ping", LIMIT, || ping(&lab, "ca", CLIENT_B));
    a.wish(&Default::default());
    assert_eq!(traces(&lab, "a"), "");
    a.wish(&leaf_wish(2, 1500, &[("10.82.10.20/32", 3)]));
    eventually("ping again", LIMIT, || ping(&lab, "ca", CLIENT_B));
}

/// A client that was asking by ARP before the capture appeared hears of it at once: its own next question would come
/// a minute later here.
#[test]
fn new_capture_is_announced() {
    let (lab, _hub, mut a, _b) = fabric(1500);
    lab.sh("ca", "sysctl -qw net.ipv4.neigh.eth0.retrans_time_ms=60000");
    lab.sh("cb", "ip addr add 10.81.10.77/32 dev lo");
    lab.sh("b", "ip route add 10.81.10.77/32 via 10.82.10.20");
    let ns = lab.ns("ca");
    let asking = std::thread::spawn(move || {
        run("ip", &["netns", "exec", &ns, "ping", "-c1", "-W5", "10.81.10.77"]);
    });
    eventually("the question", LIMIT, || lab.ok("ca", "ip neigh show 10.81.10.77 | grep -q INCOMPLETE"));
    let mut wished = leaf_wish(2, 1500, &[("10.82.10.20/32", 3), ("10.81.10.77/32", 3)]);
    wished.captures =
        [dataplane::state::Capture::ProxyArp { interface: "lan".into(), address: addr("10.81.10.77") }]
            .into();
    a.wish(&wished);
    asking.join().expect("the ping that waited for ARP is answered");
}
