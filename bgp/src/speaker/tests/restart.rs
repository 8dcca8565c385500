//! Who is waited for after our own restart, and who is remembered for the next one.

use super::*;

fn restarted(expected: &[u8]) -> Speaker {
    let mut config = config();
    let expected = expected.iter().map(|n| address(*n)).collect();
    config.restarting = Some(Restarting { expected, deferral_secs: 60 });
    let mut s = Speaker::new(config, 7, 0);
    s.set_dynamic_peers(vec![group(true, "10.255.0.0/24", Admission::Open)], 0);
    s
}

fn end_of_rib(family: Family) -> Vec<u8> {
    let mut out = Vec::new();
    crate::message::put_end_of_rib(family, &mut out);
    out
}

/// RFC 4724 section 4.1: whoever has restarted too, and whoever keeps nothing, is not waited for.
#[test]
fn a_peer_that_restarted_too_or_has_no_graceful_restart_is_not_waited_for() {
    let both = helper(120).map(|gr| GracefulRestart { restarted: true, ..gr });
    for gr in [None, both] {
        let mut s = restarted(&[2]);
        assert!(s.summary(0).restarting);
        let mut a = Client::connect(&mut s, address(2), gr, 0);
        a.listen(&mut s, 0);
        assert_eq!((a.end_of_rib, s.summary(0).restarting), ([1, 1], false));
    }
}

/// The wait ends with the last family's End-of-RIB, whichever family that is.
#[test]
fn end_of_rib_is_awaited_for_every_family_in_any_order() {
    let mut s = restarted(&[2]);
    let mut a = Client::connect(&mut s, address(2), helper(120), 0);
    a.send(&mut s, &end_of_rib(Family::Ipv6), 0);
    assert!(s.summary(0).restarting, "IPv4 is still to come");
    a.send(&mut s, &end_of_rib(Family::Ipv4), 0);
    assert!(!s.summary(0).restarting);
}

/// A peer that the configuration no longer lets in would be waited for in vain.
#[test]
fn whom_nobody_admits_is_not_waited_for() {
    let mut s = restarted(&[2]);
    s.set_dynamic_peers(vec![group(true, "10.7.0.0/24", Admission::Open)], 0);
    assert!(!s.summary(0).restarting);
}

/// Remembered is who holds our routes: from Established until its retention is over, and whoever is still awaited.
#[test]
fn peers_are_remembered_for_as_long_as_their_routes_are_kept() {
    let mut s = restarted(&[9]);
    let all = |s: &Speaker| s.remembered().into_iter().collect::<Vec<_>>();
    assert_eq!(all(&s), [address(9)], "not forgotten by a second crash");
    let before = s.remembered_version();
    let a = Client::connect(&mut s, address(2), helper(120), 0);
    let _plain = Client::connect(&mut s, address(3), None, 0);
    assert_eq!(all(&s), [address(2), address(9)], "without graceful restart it keeps nothing for us");
    assert_ne!(s.remembered_version(), before);
    s.closed(a.id, "reset", 1000);
    assert_eq!(all(&s), [address(2), address(9)], "gone, but kept");
    s.tick(60_000);
    assert_eq!(all(&s), [address(2)], "the deferral is over: it never came");
    let before = s.remembered_version();
    s.tick(121_000);
    assert!(all(&s).is_empty() && s.remembered_version() != before);
}

/// A range that was open and now wants enrollment: what is kept of a neighbour that is away goes too, for nobody has
/// said that it owns that.
#[test]
fn routes_kept_of_one_that_is_away_obey_a_new_kind_of_admission() {
    let mut s = open_speaker();
    let a = Client::connect(&mut s, address(2), helper(120), 0);
    let mut b = Client::connect(&mut s, address(3), helper(120), 0);
    s.received(a.id, &announce(v4(address(2)), &[host(1)], &[]), 0);
    s.closed(a.id, "reset", 1000);
    b.listen(&mut s, 1000);
    assert!(b.told.contains_key(&host(1)), "kept");
    s.set_dynamic_peers(vec![group(true, "10.255.0.0/24", admit(&[(2, &[host(7)]), (3, &[])]))], 2000);
    assert!(s.routes(&RouteQuery::default()).is_empty());
    let view = s.peers(2000).into_iter().find(|v| v.address == address(2)).expect("still admitted");
    assert_eq!((view.prefixes_stale, view.prefixes_received), (0, 0), "{view:?}");
}
