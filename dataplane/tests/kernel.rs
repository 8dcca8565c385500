//! The kernel dataplane: needs a kernel with WireGuard and ipip, so run these inside the lab kernel
//! (`cargo test -p fabric-dataplane --test kernel -- --ignored` on a host that has both).

#![allow(missing_docs)]

mod common;

use std::time::Duration;

use common::*;
use dataplane::io::Choice;
use dataplane::view::{Carrier, DropReason};

const CLIENT_A: &str = "10.81.10.20";
const CLIENT_B: &str = "10.82.10.20";

fn fabric(narrow: u32, choices: [Choice; 3]) -> (Lab, Node, Node, Node) {
    let lab = sites(narrow);
    let [mut hub, mut a, mut b] = [("hub", choices[0]), ("a", choices[1]), ("b", choices[2])]
        .map(|(name, choice)| lab.node(name, choice));
    hub.wish(&hub_wish(&[2, 3]));
    a.wish(&leaf_wish(2, 1500, &[("10.82.10.20/32", 3)]));
    b.wish(&leaf_wish(3, narrow as u16, &[("10.81.10.20/32", 2)]));
    (lab, hub, a, b)
}

fn passes(lab: &Lab) {
    eventually("first ping", LIMIT, || ping(lab, "ca", CLIENT_B));
    assert_eq!(exchange(lab, "ca", "cb", CLIENT_B, 1 << 20), addr(CLIENT_A));
    assert_eq!(exchange(lab, "cb", "ca", CLIENT_A, 1 << 20), addr(CLIENT_B));
}

/// Kernel WireGuard and kernel ipip everywhere: clients reach each other, and removal leaves nothing.
#[test]
#[ignore = "needs a kernel with WireGuard and ipip"]
fn kernel_everywhere() {
    let (lab, hub, a, b) = fabric(1300, [Choice::Auto; 3]);
    passes(&lab);
    let report = a.report();
    assert_eq!(report.dataplane, Carrier::Kernel);
    assert_eq!((report.routes_installed, report.clamp), (2, Some(1380)));
    assert!(report.converged && report.repairs == 0, "{report:?}");
    assert!(report.peers.iter().next().unwrap().last_handshake_secs_ago.is_some());
    assert_eq!(hub.report().findings, []);
    for (name, node) in [("hub", hub), ("a", a), ("b", b)] {
        node.remove();
        assert_eq!(traces(&lab, name), "", "{name} leaves nothing");
    }
}

/// The overlay goes through the second WireGuard, both ways, with a dead hub behind the first; and nothing is left.
#[test]
#[ignore = "needs a kernel with WireGuard and ipip"]
fn the_second_wireguard_carries() {
    let (lab, _hub, mut a, _b) = fabric(1500, [Choice::Kernel; 3]);
    passes(&lab);
    let wish = leaf_wish(2, 1500, &[("10.82.10.20/32", 3)]);
    let report = a.wish(&by_second(&wish));
    assert!(report.converged, "{:?}", report.last_error);
    passes(&lab);
    assert!(lab.ok("a", "ip route get 10.255.0.3 | grep -q fab-wg1"));
    assert_eq!(a.report().peers.len(), 2);
    a.wish(&wish);
    passes(&lab);
    assert!(!lab.ok("a", "ip link show fab-wg1"));
    a.wish(&by_second(&wish));
    a.remove();
    assert_eq!(traces(&lab, "a"), "");
}

/// A leaf takes fresh keys under running pings, whoever carries at it and at the hub.
#[test]
#[ignore = "needs a kernel with WireGuard and ipip"]
fn fresh_keys_lose_nothing() {
    let (kernel, process) = (Choice::Kernel, Choice::InProcess);
    for (at_hub, at_leaf) in [(kernel, kernel), (kernel, process), (process, kernel)] {
        let (lab, mut hub, mut a, _b) = fabric(1500, [at_hub, at_leaf, kernel]);
        eventually("first ping", LIMIT, || ping(&lab, "ca", CLIENT_B));
        common::fresh_keys_lose_nothing(&lab, &mut hub, &mut a);
    }
}

/// Who is awaited in the kernel and revoked has neither key, and nothing of it is left.
#[test]
#[ignore = "needs a kernel with WireGuard and ipip"]
fn an_awaited_peer_can_be_revoked() {
    let (lab, mut hub, _a, _b) = fabric(1500, [Choice::Kernel; 3]);
    eventually("first ping", LIMIT, || ping(&lab, "ca", CLIENT_B));
    hub.wish(&awaiting(100, 2));
    assert!(answered(&lab, "ca", CLIENT_B), "the former key holds");
    assert_eq!(hub.report().peers.len(), 3);
    hub.wish(&hub_wish(&[3]));
    assert!(!ping(&lab, "ca", CLIENT_B), "revoked");
    assert_eq!(hub.report().peers.len(), 2);
    hub.remove();
    assert_eq!(traces(&lab, "hub"), "");
}

/// Clients of two leaves that reach no hub in common reach each other: the kernel wraps for the other hub, and unwraps
/// what the other one, in process, has wrapped.
#[test]
#[ignore = "needs a kernel with WireGuard and ipip"]
fn hubs_relay() {
    hubs_relay_for_each_other([Choice::Kernel, Choice::InProcess]);
}

/// Two owners of one address share its flows by one kernel route with two ways; the loss of one moves all.
#[test]
#[ignore = "needs a kernel with WireGuard and ipip"]
fn equal_owners_share_the_flows() {
    flows_are_shared(Choice::Kernel);
}

/// Kernel and in-process nodes speak with each other, whichever of the three is which.
#[test]
#[ignore = "needs a kernel with WireGuard and ipip"]
fn kernel_and_in_process_interoperate() {
    let (k, p) = (Choice::Kernel, Choice::InProcess);
    for choices in [[k, k, p], [p, k, p], [p, k, k], [k, p, p]] {
        let (lab, _hub, _a, _b) = fabric(1300, choices);
        passes(&lab);
    }
}

/// A daemon that dies and comes back finds its kernel state, changes nothing, and no packet is lost meanwhile.
#[test]
#[ignore = "needs a kernel with WireGuard and ipip"]
fn restart_keeps_traffic_flowing() {
    let (lab, _hub, a, _b) = fabric(1500, [Choice::Kernel; 3]);
    passes(&lab);
    let before =
        lab.sh("a", "ip -d link show fab-wg | head -1; ip -d link show fab-ipip | head -1; ip route");
    let pinger = {
        let ns = lab.ns("ca");
        std::thread::spawn(move || {
            run("ip", &["netns", "exec", &ns, "ping", "-i", "0.02", "-c", "100", "-W", "1", CLIENT_B])
        })
    };
    std::thread::sleep(Duration::from_millis(200));
    a.kill();
    let mut a = lab.node("a", Choice::Kernel);
    let report = a.wish(&leaf_wish(2, 1500, &[("10.82.10.20/32", 3)]));
    assert!(report.converged);
    let output = pinger.join().unwrap();
    assert!(output.contains(" 0% packet loss"), "{output}");
    let after = lab.sh("a", "ip -d link show fab-wg | head -1; ip -d link show fab-ipip | head -1; ip route");
    assert_eq!(before, after);
}

/// Inner sources that the outer source does not own are dropped before the kernel unwraps them, and counted.
#[test]
#[ignore = "needs a kernel with WireGuard and ipip"]
fn spoofed_inner_source_is_dropped_and_counted() {
    let (lab, _hub, a, mut b) = fabric(1500, [Choice::Kernel; 3]);
    passes(&lab);
    assert_eq!(a.report().drops.get(&DropReason::Spoofed), Some(&0));
    // b's client takes an address that b does not own.
    lab.sh("cb", "ip addr add 10.82.10.66/32 dev eth0");
    b.wish(&leaf_wish(3, 1500, &[("10.81.10.20/32", 2), ("10.81.10.0/25", 2)]));
    assert!(!lab.ok("cb", "ping -c3 -i0.2 -W1 -I 10.82.10.66 10.81.10.20"));
    assert_eq!(a.report().drops.get(&DropReason::Spoofed), Some(&3));
    assert!(answered(&lab, "ca", CLIENT_B), "the honest client is not touched");
}

/// The foyer is in quarantine with the kernel's forwarding too, and what is spoiled is repaired.
#[test]
#[ignore = "needs a kernel with WireGuard and ipip"]
fn foyer_is_quarantined_and_spoils_are_repaired() {
    let (lab, hub, mut a, _b) = fabric(1500, [Choice::Kernel; 3]);
    passes(&lab);
    lab.sh(
        "a",
        "ip route del 10.82.10.20/32; ip link set fab-ipip mtu 1000; ip link set fab-wg down; \
         nft delete table inet fabric; ip route add 10.55.0.1/32 dev fab-wg proto 84 || true",
    );
    eventually("repair", LIMIT, || {
        a.dataplane.report().borrow().repairs > 0
            && ping(&lab, "ca", CLIENT_B)
            && lab.ok(
                "a",
                "ip link show fab-ipip | grep -q 'mtu 1420'; nft list table inet fabric | grep -q maxseg",
            )
    });
    let mut foyer = leaf_wish(9, 1500, &[]);
    if let Some(wireguard) = &mut foyer.wireguard {
        wireguard.addresses = [net("10.255.15.2/32")].into();
    }
    (foyer.tunnel, foyer.filter) = (None, Default::default());
    a.wish(&foyer);
    lab.within("hub", || {
        for port in [8443, 179] {
            let listener = std::net::TcpListener::bind(("0.0.0.0", port)).unwrap();
            std::thread::spawn(move || while listener.accept().is_ok() {});
        }
    });
    let connects = |to: &'static str| {
        lab.within("a", move || {
            std::net::TcpStream::connect_timeout(&to.parse().unwrap(), Duration::from_secs(1)).is_ok()
        })
    };
    assert!(connects("10.255.15.1:8443"));
    assert!(!connects("10.255.15.1:179"));
    assert!(!connects("10.255.0.1:8443"));
    assert!(!ping(&lab, "a", "10.255.0.3"));
    assert!(hub.report().drops[&DropReason::Foyer] >= 3);
    a.wish(&leaf_wish(2, 1500, &[("10.82.10.20/32", 3)]));
    assert!(connects("10.255.0.1:179"), "the first connection after the key change");
}
