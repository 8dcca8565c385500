//! The in-process dataplane on the host's kernel, in namespaces.

#![allow(missing_docs)]

mod common;

use std::time::{Duration, Instant};

use common::*;
use dataplane::io::Choice;
use dataplane::view::Carrier;

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
    let started = Instant::now();
    eventually("first ping", Duration::from_secs(3), || ping(&lab, "ca", CLIENT_B));
    println!("first ping after {:?}", started.elapsed());
    assert_eq!(exchange(&lab, "ca", "cb", CLIENT_B, 1 << 20), addr(CLIENT_A));
    assert_eq!(exchange(&lab, "cb", "ca", CLIENT_A, 1 << 20), addr(CLIENT_B));
    let report = a.report();
    assert_eq!(report.dataplane, Carrier::InProcess);
    assert_eq!((report.routes_installed, report.clamp), (2, Some(1380)));
    assert!(report.peers[0].last_handshake_secs_ago.is_some());
    assert!(hub.report().relayed > 700, "the hub relays in process");
    assert_eq!(hub.report().findings, []);
    for (name, node) in [("hub", hub), ("a", a), ("b", b)] {
        node.remove();
        assert_eq!(traces(&lab, name), "", "{name} leaves nothing");
    }
}
