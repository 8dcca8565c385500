//! Long-lived graceful restart (RFC 9494), rule by rule.

use super::*;
use crate::attributes::{LLGR_STALE, NO_LLGR};
use crate::message::LongLived;

/// The clock runs in milliseconds.
const SEC: u64 = 1000;
const OURS: u32 = 600;

fn speaker() -> Speaker {
    let mut config = config();
    config.long_lived_stale_secs = OURS;
    let mut s = Speaker::new(config, 7, 0);
    s.set_dynamic_peers(vec![group(true, "10.255.0.0/24", Admission::Open)], 0);
    s
}

fn kept(stale_secs: u32) -> Option<[LongLived; 2]> {
    Some([LongLived { forwarding: true, stale_secs }; 2])
}

fn connect(
    s: &mut Speaker,
    n: u8,
    gr: Option<GracefulRestart>,
    long_lived: Option<[LongLived; 2]>,
    now: Millis,
) -> Client {
    let id = s.connected(address(n), Direction::In, now).expect("admitted");
    let mut octets = Vec::new();
    Open { long_lived, ..open_like(v4(address(n)), gr) }.encode(&mut octets);
    Client::greet_with(s, id, address(n), &octets, now)
}

fn marked(communities: &[u32]) -> Vec<u8> {
    let mut all = vec![0xc0, code::COMMUNITIES, communities.len() as u8 * 4];
    communities.iter().for_each(|c| all.extend_from_slice(&c.to_be_bytes()));
    all
}

fn end_of_rib(family: Family) -> Vec<u8> {
    let mut out = Vec::new();
    crate::message::put_end_of_rib(family, &mut out);
    out
}

/// Lets the time pass in steps, as the driver would, with these peers alive.
fn pass(s: &mut Speaker, alive: &mut [&mut Client], from: Millis, to: Millis) {
    let mut at = from;
    while at < to {
        at = (at + 20 * SEC).min(to);
        for c in alive.iter_mut() {
            c.send(s, &KEEPALIVE, at);
        }
        s.tick(at);
        for c in alive.iter_mut() {
            c.listen(s, at);
        }
    }
}

fn communities(c: &Client, n: u8) -> Option<&[u32]> {
    c.told.get(&host(n)).map(|t| &t.communities[..])
}

/// A source of one route, somebody who knows the mark, and somebody who does not; the source's session is lost at 0.
fn lost(theirs: u32, extra: &[u8]) -> (Speaker, Client, Client) {
    let mut s = speaker();
    let mut knows = connect(&mut s, 3, helper(0), kept(1), 0);
    let mut plain = connect(&mut s, 4, helper(120), None, 0);
    let mut source = connect(&mut s, 2, helper(100), kept(theirs), 0);
    source.send(&mut s, &announce(v4(address(2)), &[host(1)], extra), 0);
    s.closed(source.id, "reset", 0);
    knows.listen(&mut s, 0);
    plain.listen(&mut s, 0);
    assert_eq!((communities(&knows, 1).is_some(), communities(&plain, 1).is_some()), (true, true));
    (s, knows, plain)
}

/// Sections 4.2 and 4.3: after the restart time the route is marked, and withdrawn from who does not know the mark;
/// it goes after the lesser of both times.
#[test]
fn routes_outlive_the_restart_time_for_the_lesser_time_and_are_marked() {
    for (theirs, over) in [(300, 400), (5000, 700)] {
        let (mut s, mut knows, mut plain) = lost(theirs, &marked(&[7]));
        pass(&mut s, &mut [&mut knows, &mut plain], 0, 99 * SEC);
        assert_eq!((communities(&knows, 1), communities(&plain, 1)), (Some(&[7][..]), Some(&[7][..])));
        assert!(!s.routes(&RouteQuery::default())[0].long_lived_stale);
        pass(&mut s, &mut [&mut knows, &mut plain], 99 * SEC, 101 * SEC);
        assert_eq!((communities(&knows, 1), communities(&plain, 1)), (Some(&[7, LLGR_STALE][..]), None));
        let view = &s.routes(&RouteQuery::default())[0];
        assert!(view.stale && view.long_lived_stale && view.communities.contains(&"65535:6".to_string()));
        let peers = s.peers(101 * SEC);
        let sent = |n| peers.iter().find(|p| p.address == address(n)).unwrap().prefixes_sent;
        assert_eq!((sent(3), sent(4)), (1, 0));
        let mut late = connect(&mut s, 5, None, None, 101 * SEC);
        late.listen(&mut s, 101 * SEC);
        assert!(late.told.is_empty());
        let late = connect(&mut s, 6, helper(0), kept(1), 101 * SEC);
        assert_eq!(communities(&late, 1), Some(&[7, LLGR_STALE][..]));
        let explained = s.explain(crate::explain::Asked::Prefix(host(1)), 101 * SEC);
        assert_eq!(explained.advertised_to, ["10.255.0.3", "10.255.0.6"]);
        assert!(explained.withheld_from.iter().any(|w| w.peer == "10.255.0.4" && w.why.contains("RFC 9494")));
        pass(&mut s, &mut [&mut knows, &mut plain], 101 * SEC, (over - 1) * SEC);
        assert_eq!(knows.told.len(), 1);
        pass(&mut s, &mut [&mut knows, &mut plain], (over - 1) * SEC, (over + 1) * SEC);
        assert!(knows.told.is_empty() && s.routes(&RouteQuery::default()).is_empty());
    }
}

/// Section 4.2: NO_LLGR, no agreement, or no graceful restart: gone with the restart time, or at once.
#[test]
fn what_must_not_be_kept_goes_with_the_restart_time() {
    for (theirs, extra) in [(300, marked(&[NO_LLGR])), (0, Vec::new())] {
        let (mut s, mut knows, _plain) = lost(theirs, &extra);
        pass(&mut s, &mut [&mut knows], 0, 101 * SEC);
        assert!(knows.told.is_empty() && s.routes(&RouteQuery::default()).is_empty());
    }
    let mut s = speaker();
    let mut source = connect(&mut s, 2, None, kept(300), 0);
    source.send(&mut s, &announce(v4(address(2)), &[host(1)], &[]), 0);
    s.closed(source.id, "reset", 0);
    s.flush();
    assert!(s.routes(&RouteQuery::default()).is_empty(), "section 4.1: nothing without RFC 4724");
}

/// A restart time of 0 keeps nothing unmarked, and all of it marked.
#[test]
fn without_a_restart_time_routes_are_marked_at_once() {
    let mut s = speaker();
    let mut knows = connect(&mut s, 3, helper(0), kept(1), 0);
    let mut source = connect(&mut s, 2, helper(0), kept(300), 0);
    source.send(&mut s, &announce(v4(address(2)), &[host(1)], &[]), 0);
    s.closed(source.id, "reset", SEC);
    assert!(s.deadline() <= SEC);
    s.tick(SEC);
    knows.listen(&mut s, SEC);
    assert_eq!(communities(&knows, 1), Some(&[LLGR_STALE][..]));
}

/// Off, nothing is offered and nothing is heeded.
#[test]
fn off_it_is_not_offered_and_the_mark_means_nothing() {
    let mut s = open_speaker();
    assert_eq!(s.our_open(&PeerKey::Dynamic(address(2))).long_lived, None);
    let mut source = connect(&mut s, 2, helper(100), kept(300), 0);
    let mut other = connect(&mut s, 3, helper(100), None, 0);
    source.send(&mut s, &announce(v4(address(2)), &[host(1)], &marked(&[LLGR_STALE])), 0);
    other.listen(&mut s, 0);
    assert_eq!(communities(&other, 1), Some(&[LLGR_STALE][..]));
    s.closed(source.id, "reset", 0);
    pass(&mut s, &mut [&mut other], 0, 101 * SEC);
    assert!(other.told.is_empty());
}

/// Section 4.3: the last choice, whatever else speaks for it; a mark that came with the route counts as ours.
#[test]
fn a_marked_route_is_the_last_choice() {
    let mut s = speaker();
    let mut knows = connect(&mut s, 3, helper(0), kept(1), 0);
    let mut one = connect(&mut s, 2, helper(100), kept(300), 0);
    let mut two = connect(&mut s, 5, helper(100), kept(300), 0);
    one.send(&mut s, &announce(v4(address(2)), &[host(1)], &marked(&[LLGR_STALE])), 0);
    knows.listen(&mut s, 0);
    assert_eq!(communities(&knows, 1), Some(&[LLGR_STALE][..]));
    two.send(&mut s, &announce(v4(address(5)), &[host(1)], &[]), 0);
    knows.listen(&mut s, 0);
    assert_eq!(knows.told[&host(1)].next_hop, address(5), "although the other's address is lower");
    let explained = s.explain(crate::explain::Asked::Prefix(host(1)), 0);
    let step = explained.candidates[1].lost_at.as_ref().expect("it lost");
    assert_eq!((step.step.as_str(), step.rule.as_str()), ("before long-lived stale", "RFC 9494 4.3"));
    s.closed(two.id, "reset", 0);
    pass(&mut s, &mut [&mut knows, &mut one], 0, 101 * SEC);
    assert_eq!(knows.told[&host(1)].next_hop, address(2), "both are marked, the other is stale");
}

/// A return keeps what is marked until End-of-RIB; what came again is fresh, the rest is swept.
#[test]
fn a_return_freshens_and_end_of_rib_sweeps() {
    let (mut s, mut knows, mut plain) = lost(300, &[]);
    pass(&mut s, &mut [&mut knows, &mut plain], 0, 150 * SEC);
    let mut source = connect(&mut s, 2, helper(100), kept(300), 150 * SEC);
    knows.listen(&mut s, 150 * SEC);
    assert_eq!(communities(&knows, 1), Some(&[LLGR_STALE][..]));
    source.send(&mut s, &announce(v4(address(2)), &[host(1), host(2)], &[]), 150 * SEC);
    knows.listen(&mut s, 150 * SEC);
    plain.listen(&mut s, 150 * SEC);
    assert_eq!((communities(&knows, 1), communities(&plain, 1)), (Some(&[][..]), Some(&[][..])));
    s.closed(source.id, "reset", 151 * SEC);
    pass(&mut s, &mut [&mut knows, &mut plain], 151 * SEC, 300 * SEC);
    assert_eq!((knows.told.len(), plain.told.len()), (2, 0));
    let mut source = connect(&mut s, 2, helper(100), kept(300), 300 * SEC);
    source.send(&mut s, &announce(v4(address(2)), &[host(2)], &[]), 300 * SEC);
    for family in Family::ALL {
        source.send(&mut s, &end_of_rib(family), 300 * SEC);
    }
    knows.listen(&mut s, 300 * SEC);
    assert_eq!(knows.prefixes(), [host(2)]);
    pass(&mut s, &mut [&mut knows, &mut source], 300 * SEC, 900 * SEC);
    assert_eq!(knows.prefixes(), [host(2)], "nothing of the old timers is left");
}

/// Section 4.2: one that comes back without its forwarding state, or without the capability, keeps nothing; one that
/// comes and goes without an End-of-RIB puts nothing off; one that never ends its table is ended.
#[test]
fn a_return_puts_nothing_off() {
    let forgot = Some([LongLived { forwarding: false, stale_secs: 300 }; 2]);
    for back in [forgot, None] {
        let (mut s, mut knows, mut plain) = lost(300, &[]);
        pass(&mut s, &mut [&mut knows, &mut plain], 0, 150 * SEC);
        connect(&mut s, 2, helper(100), back, 150 * SEC);
        knows.listen(&mut s, 150 * SEC);
        assert!(knows.told.is_empty());
    }
    let (mut s, mut knows, mut plain) = lost(300, &[]);
    pass(&mut s, &mut [&mut knows, &mut plain], 0, 150 * SEC);
    for at in [150, 250, 350] {
        let source = connect(&mut s, 2, helper(100), kept(300), at * SEC);
        s.closed(source.id, "reset", at * SEC);
        pass(&mut s, &mut [&mut knows, &mut plain], at * SEC, (at + 49) * SEC);
        assert_eq!(knows.told.len(), 1, "{at}");
        pass(&mut s, &mut [&mut knows, &mut plain], (at + 49) * SEC, (at + 100) * SEC);
    }
    assert!(knows.told.is_empty(), "400 s after the first loss");
    let (mut s, mut knows, mut plain) = lost(600, &[]);
    pass(&mut s, &mut [&mut knows, &mut plain], 0, 150 * SEC);
    let mut source = connect(&mut s, 2, helper(100), kept(600), 150 * SEC);
    pass(&mut s, &mut [&mut knows, &mut plain, &mut source], 150 * SEC, 509 * SEC);
    assert_eq!(knows.told.len(), 1);
    pass(&mut s, &mut [&mut knows, &mut plain, &mut source], 509 * SEC, 511 * SEC);
    assert!(knows.told.is_empty(), "no End-of-RIB for 360 s");
}

/// An end that graceful restart does not cover takes everything along, also what was kept for long before.
#[test]
fn a_hard_reset_ends_it() {
    let (mut s, mut knows, mut plain) = lost(300, &[]);
    pass(&mut s, &mut [&mut knows, &mut plain], 0, 150 * SEC);
    let mut source = connect(&mut s, 2, helper(100), kept(300), 150 * SEC);
    let mut hard = Vec::new();
    Notification::cease(cease::HARD_RESET).encode(&mut hard);
    source.send(&mut s, &hard, 150 * SEC);
    knows.listen(&mut s, 150 * SEC);
    assert!(knows.told.is_empty() && s.routes(&RouteQuery::default()).is_empty());
}
