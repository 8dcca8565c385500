//! What a peer can make the speaker keep, with virtual time: marks of refreshes, attributes, peers, connections.

mod wire;

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bgp::egress::SLICES;
use bgp::message::{KEEPALIVE, Notification, put};
use bgp::policy::{Admission, ImportPolicy};
use bgp::settings::{DynamicPeers, SpeakerConfig};
use bgp::speaker::{Action, ConnId, Direction, Speaker};
use bgp::types::Prefix;
use wire::{ASN, Heard, announce, body, greeting, nlri, update, usual};

const PEER: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 2);

fn speaker(limit: usize, admission: Admission) -> Speaker {
    let mut speaker = Speaker::new(SpeakerConfig::new(ASN, Ipv4Addr::new(10, 255, 0, 1)), 7, 0);
    let group = DynamicPeers {
        name: "leaves".into(),
        source_prefixes: vec!["10.0.0.0/8".parse().expect("a prefix")],
        remote_asn: ASN,
        route_reflector_client: true,
        limit,
        admission,
        options: Default::default(),
    };
    speaker.set_dynamic_peers(vec![group], 0);
    speaker
}

fn connect(speaker: &mut Speaker, from: Ipv4Addr) -> ConnId {
    speaker.connected(IpAddr::V4(from), Direction::In, 0).expect("admitted")
}

fn up(speaker: &mut Speaker) -> ConnId {
    let id = connect(speaker, PEER);
    speaker.received(id, &greeting(PEER, true), 0);
    id
}

/// What the speaker sends to a connection now.
fn read(speaker: &mut Speaker, id: ConnId) -> Heard {
    let mut heard = Heard::default();
    speaker.flush();
    loop {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let n = speaker.gather(id, &mut slices);
        let octets: Vec<u8> = slices[..n].iter().flat_map(|s| s.to_vec()).collect();
        if octets.is_empty() {
            return heard;
        }
        heard.hear(&octets);
        speaker.wrote(id, octets.len(), 0);
    }
}

/// The NOTIFICATION with which the speaker has closed its one connection.
fn closed(speaker: &mut Speaker) -> Option<Notification> {
    let Some(Action::Close(_, last)) = speaker.next_action() else { return None };
    let mut heard = Heard::default();
    heard.hear(&last);
    heard.notification
}

/// A hundred thousand requests that nobody reads the answer of: one mark for the beginning, one for the end.
#[test]
fn refreshes_that_nobody_reads_leave_one_mark() {
    let mut s = speaker(4, Admission::Open);
    let id = up(&mut s);
    read(&mut s, id);
    let mut ask = Vec::new();
    put(&mut ask, 5, &[0, 1, 0, 1]);
    for _ in 0..100 {
        s.received(id, &ask.repeat(1000), 0);
    }
    let heard = read(&mut s, id);
    assert_eq!(heard.messages[4], 2, "BoRR and EoRR");
    s.received(id, &ask, 0);
    assert_eq!(read(&mut s, id).messages[4], 2, "the next one is answered as ever");
}

/// Rejected routes whose attributes are 60 KiB are counted and not kept; small ones are kept and shown.
#[test]
fn rejected_routes_are_not_kept_with_long_attributes() {
    let policy = ImportPolicy {
        owner: "leaf".into(),
        owned: [].into(),
        next_hop: PEER,
        max_prefixes: 16,
        passes_on: Default::default(),
    };
    let admitted = [(IpAddr::V4(PEER), Arc::new(policy))].into_iter().collect();
    let mut s = speaker(4, Admission::Enrolled(Arc::new(admitted)));
    let id = up(&mut s);
    for n in 0..100 {
        let mut all = usual(PEER, 100);
        all.push((0xc0, 99, vec![n; 60_000]));
        s.received(id, &announce(&all, &[Prefix::from(Ipv4Addr::new(10, 80, 0, n))]), 0);
    }
    s.flush();
    let summary = s.summary(0);
    assert_eq!((summary.paths, s.peers(0)[0].prefixes_rejected), (0, 100));
    assert!(summary.attribute_sets < 20, "{} long sets that nothing uses", summary.attribute_sets);
    s.received(id, &announce(&usual(PEER, 100), &[Prefix::from(Ipv4Addr::new(10, 80, 0, 1))]), 0);
    assert_eq!(s.rejected().len(), 1);
}

/// Long attribute sets of routes that came and went are few.
#[test]
fn unused_attribute_sets_are_bounded_by_size() {
    let mut s = speaker(4, Admission::Open);
    let id = up(&mut s);
    let route = [Prefix::from(Ipv4Addr::new(10, 80, 0, 1))];
    for n in 0..200u32 {
        let mut all = usual(PEER, n);
        all.push((0xc0, 99, vec![7; 60_000]));
        s.received(id, &announce(&all, &route), 0);
        s.received(id, &update(&body(&nlri(&route), &[], &[])), 0);
        s.flush();
    }
    assert!(s.summary(0).attribute_sets < 20, "{}", s.summary(0).attribute_sets);
}

/// Dynamic peers from ever new addresses are shown for a while, but not all of them.
#[test]
fn peers_that_have_gone_are_remembered_within_a_bound() {
    let mut s = speaker(4, Admission::Open);
    for n in 0..5000u32 {
        let id = connect(&mut s, Ipv4Addr::from(0x0a00_0000 + n));
        s.closed(id, "gone", u64::from(n));
        while s.next_action().is_some() {}
    }
    let peers = s.peers(5000);
    assert!((1000..=1028).contains(&peers.len()), "{}", peers.len());
    assert!(peers.iter().any(|p| p.address == IpAddr::from([10, 0, 19, 135])), "the last one is shown");
}

/// Who never sends an OPEN, or never the end of one, is let go after 30 seconds.
#[test]
fn a_connection_without_an_open_ends_after_thirty_seconds() {
    for said in [0, 1, 18, 28] {
        let mut s = speaker(4, Admission::Open);
        let id = connect(&mut s, PEER);
        let hello = greeting(PEER, true);
        let mut now = 0;
        for octet in &hello[..said] {
            now += 1000;
            s.received(id, &[*octet], now);
            s.tick(now);
        }
        s.tick(29_999);
        assert_eq!(closed(&mut s), None, "{said} octets");
        s.tick(30_000);
        let n = closed(&mut s).expect("a NOTIFICATION");
        assert_eq!((n.code, n.subcode), (4, 0), "{said} octets");
    }
}

/// Octets that make no whole message are no sign of life: the hold time ends the session.
#[test]
fn octets_without_a_whole_message_keep_no_session() {
    let mut s = speaker(4, Admission::Open);
    let id = up(&mut s);
    let mut now = 0;
    for octet in &KEEPALIVE[..18] {
        now += 4_900;
        s.received(id, &[*octet], now);
        s.tick(now);
    }
    assert_eq!(closed(&mut s), None);
    s.tick(90_000);
    let n = closed(&mut s).expect("a NOTIFICATION");
    assert_eq!((n.code, n.subcode), (4, 0));
}
