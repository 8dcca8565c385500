//! What an operator does to one neighbour, and what it hears of that.

use super::*;
use crate::speaker::OperateError;

fn ended_with(c: &Client) -> ((u8, u8), (u8, u8), Option<String>) {
    let n = c.notification.as_ref().expect("a NOTIFICATION");
    ((n.code, n.subcode), n.cause(), n.text())
}

/// Two clients, helpers of graceful restart or not; the first has announced a route.
fn two(graceful: bool) -> (Speaker, Client, Client) {
    let mut s = open_speaker();
    let gr = helper(120).filter(|_| graceful);
    let mut a = Client::connect(&mut s, address(2), gr, 0);
    let b = Client::connect(&mut s, address(3), gr, 0);
    a.send(&mut s, &announce(Ipv4Addr::new(10, 255, 0, 2), &[host(1)], &[]), 0);
    (s, a, b)
}

/// RFC 9003, RFC 8538: a dynamic neighbour that is shut down hears why, as a hard reset where it would keep our routes
/// otherwise; its routes go, it is refused with the same words and counted, is never forgotten, and comes back when it
/// is let.
#[test]
fn a_neighbour_that_is_shut_down_hears_why_and_stays_away() {
    for graceful in [true, false] {
        let (mut s, mut a, mut b) = two(graceful);
        b.listen(&mut s, 0);
        assert!(b.told.contains_key(&host(1)));

        let done = s.keep_down("10.255.0.2", "disk swap", 10).unwrap();
        assert_eq!((done.address, done.changed), (address(2), true));
        assert!(!s.keep_down("10.255.0.2", "disk swap", 10).unwrap().changed);
        a.listen(&mut s, 10);
        let outer = if graceful { (6, 9) } else { (6, 2) };
        assert_eq!(ended_with(&a), (outer, (6, 2), Some("disk swap".into())));
        b.listen(&mut s, 10);
        assert!(!b.told.contains_key(&host(1)), "its routes go at once");

        let refused = s.connected(address(2), Direction::In, 20).unwrap_err();
        let heard = Notification::decode(&refused[crate::message::HEADER_LEN..]);
        assert_eq!(((heard.code, heard.subcode), heard.text()), ((6, 2), Some("disk swap".into())));
        assert_eq!(s.summary(20).refused["kept-down"], 1);
        s.tick(3_600_000);
        let shown = |s: &Speaker| s.peers(3_600_000).into_iter().find(|p| p.address == address(2)).unwrap();
        assert_eq!(
            (shown(&s).state.as_str(), shown(&s).kept_down.as_deref()),
            ("KeptDown", Some("disk swap"))
        );

        assert!(s.enable("10.255.0.2", 3_600_000).unwrap().changed);
        assert!(!s.enable("10.255.0.2", 3_600_000).unwrap().changed);
        Client::connect(&mut s, address(2), None, 3_600_001);
        assert_eq!((shown(&s).state.as_str(), shown(&s).kept_down), ("Established", None));
    }
    let mut s = open_speaker();
    assert_eq!(s.keep_down("nobody", "", 0), Err(OperateError::Unknown));
    assert_eq!(s.reset("nobody", "", 0), Err(OperateError::Unknown));
}

/// A neighbour that we dial is not dialled while it is kept down, not even when its configuration changes, refused
/// when it dials, and dialled at once when it is let back.
#[test]
fn a_neighbour_that_is_kept_down_is_not_dialled() {
    let mut s = Speaker::new(config(), 7, 0);
    let dials = |s: &mut Speaker, now| {
        s.tick(now);
        std::iter::from_fn(|| s.next_action()).filter(|a| matches!(a, Action::Dial { .. })).count()
    };
    s.set_neighbors(vec![Neighbor::new("foreign", address(9), ASN)], 0);
    assert_eq!(dials(&mut s, 0), 1);
    s.keep_down("foreign", "", 0).unwrap();
    s.dial_failed(&PeerKey::Named("foreign".into()), "no answer", 100);
    assert_eq!(dials(&mut s, 60_000), 0);
    s.set_neighbors(vec![Neighbor { port: 1790, ..Neighbor::new("foreign", address(9), ASN) }], 60_000);
    assert_eq!(dials(&mut s, 120_000), 0);
    assert!(s.connected(address(9), Direction::In, 120_000).is_err());
    s.enable("foreign", 120_000).unwrap();
    assert_eq!(dials(&mut s, 120_000), 1);
}

/// An admitted leaf can be kept down before it has ever connected, by its name; one whose admission ends is gone.
#[test]
fn a_leaf_can_be_kept_down_before_it_comes() {
    let mut s = Speaker::new(config(), 7, 0);
    s.set_dynamic_peers(vec![group(true, "10.255.0.0/24", admit(&[(2, &[host(1)])]))], 0);
    assert_eq!(s.keep_down("leaf2", "", 0).unwrap().peer, "leaf2");
    assert!(s.connected(address(2), Direction::In, 1).is_err());
    assert_eq!(s.peers(1).len(), 1);
    s.set_dynamic_peers(vec![group(true, "10.255.0.0/24", admit(&[]))], 2);
    assert_eq!(s.peers(2).len(), 0);
}

/// RFC 8538: a reset loses no route where both keep them over NOTIFICATIONs, and all where they do not.
#[test]
fn a_reset_keeps_routes_where_both_agreed() {
    for graceful in [true, false] {
        let (mut s, mut a, mut b) = two(graceful);
        s.reset("10.255.0.2", "once more", 10).unwrap();
        a.listen(&mut s, 10);
        assert_eq!(ended_with(&a), ((6, 4), (6, 4), Some("once more".into())));
        b.listen(&mut s, 10);
        assert_eq!(b.told.contains_key(&host(1)), graceful);
        assert_eq!(s.reset("10.255.0.2", "", 20), Err(OperateError::NoSession));
    }
}

/// RFC 8538 section 3: who is de-configured keeps none of our routes.
#[test]
fn a_neighbour_that_is_removed_gets_a_hard_reset() {
    let mut s = open_speaker();
    let mut a = Client::connect(&mut s, address(2), helper(120), 0);
    s.set_dynamic_peers(Vec::new(), 1);
    a.listen(&mut s, 1);
    assert_eq!(ended_with(&a), ((6, 9), (6, 3), Some("no longer admitted".into())));
}

/// The words inside a hard reset, as FRR sends it, are shown.
#[test]
fn the_words_inside_a_hard_reset_are_shown() {
    let mut s = open_speaker();
    let mut a = Client::connect(&mut s, address(2), helper(120), 0);
    let mut last = Vec::new();
    Notification::cease_with_text(2, "maintenance").into_hard_reset().encode(&mut last);
    a.send(&mut s, &last, 0);
    let error = s.peers(0)[0].last_error.clone().unwrap_or_default();
    assert!(
        error.starts_with("received 6/9") && error.contains("6/2") && error.contains("maintenance"),
        "{error}"
    );
}
