//! Rules of single RFCs that no other test of the speaker needs.

use super::*;
use crate::message::Refresh;
use crate::peer::{GONE_SHOWN_SECS, STALE_AFTER_RETURN_SECS};

/// A peer with enhanced refresh.
fn enhanced(s: &mut Speaker, n: u8) -> Client {
    let id = s.connected(address(n), Direction::In, 0).expect("admitted");
    let mut open = Open::decode(&open_of(v4(address(n)), None)[HEADER_LEN..]).unwrap();
    (open.enhanced_refresh, open.hold_secs) = (true, 0);
    let mut out = Vec::new();
    open.encode(&mut out);
    out.extend_from_slice(&KEEPALIVE);
    let mut c = Client {
        id,
        address: address(n),
        told: BTreeMap::new(),
        end_of_rib: [0; 2],
        notification: None,
        inbox: Vec::new(),
    };
    c.send(s, &out, 0);
    c.listen(s, 0);
    c
}

fn mark(what: Refresh) -> Vec<u8> {
    let mut out = Vec::new();
    what.encode(Family::Ipv4, &mut out);
    out
}

/// RFC 7313: what is not repeated between the marks goes with the second, or when the second never comes.
#[test]
fn a_refresh_sweeps_what_is_not_repeated() {
    for ends in [true, false] {
        let mut s = open_speaker();
        let mut a = enhanced(&mut s, 2);
        let mut b = enhanced(&mut s, 3);
        a.send(&mut s, &announce(v4(address(2)), &[host(1), host(2)], &[]), 0);
        a.send(&mut s, &mark(Refresh::Begin), 0);
        a.send(&mut s, &announce(v4(address(2)), &[host(2)], &[]), 0);
        b.listen(&mut s, 0);
        assert_eq!(b.prefixes(), [host(1), host(2)], "kept until the end");
        let now = if ends { 0 } else { STALE_AFTER_RETURN_SECS * 1000 };
        if ends {
            a.send(&mut s, &mark(Refresh::End), now);
        } else {
            assert!(s.deadline() <= now, "woken for it");
            s.tick(now - 1);
            b.listen(&mut s, now);
            assert_eq!(b.prefixes().len(), 2);
            s.tick(now);
        }
        b.listen(&mut s, now);
        assert_eq!(b.prefixes(), [host(2)]);
    }
}

/// RFC 7313 the other way: a request is answered between two marks.
#[test]
fn a_refresh_is_sent_between_its_marks() {
    let mut s = open_speaker();
    let a = enhanced(&mut s, 2);
    let mut b = enhanced(&mut s, 3);
    let mut a = a;
    a.send(&mut s, &announce(v4(address(2)), &[host(1)], &[]), 0);
    b.listen(&mut s, 0);
    b.send(&mut s, &mark(Refresh::Request), 0);
    s.flush();
    while b.read_some(&mut s, usize::MAX, 0) > 0 {}
    let octets = b.inbox.clone();
    let at = |what: Refresh| {
        let wanted = mark(what);
        octets.windows(wanted.len()).position(|w| w == wanted).expect("a mark")
    };
    let route = octets.windows(5).position(|w| w == [32, 10, 80, 0, 1]).unwrap_or(usize::MAX);
    assert!(at(Refresh::Begin) < at(Refresh::End));
    assert!(route == usize::MAX || (at(Refresh::Begin) < route && route < at(Refresh::End)));
    b.digest();
    assert_eq!(b.prefixes(), [host(1)]);
}

/// RFC 4271 section 4.2: a hold time of 0 means no keepalives and no silence that is too long.
#[test]
fn a_hold_time_of_zero_never_ends_a_session() {
    let mut s = open_speaker();
    let mut a = enhanced(&mut s, 2);
    let sent = s.peers(0)[0].bytes_out;
    for hour in 1..100 {
        s.tick(hour * 3_600_000);
        a.listen(&mut s, hour * 3_600_000);
    }
    assert_eq!(s.peers(0)[0].state, "Established");
    assert_eq!(s.peers(0)[0].bytes_out, sent, "nothing was sent");
}

/// RFC 9687: who lives and takes nothing goes, with 8/0, after eight minutes at the earliest.
#[test]
fn who_takes_nothing_goes() {
    let mut s = open_speaker();
    let mut a = enhanced(&mut s, 2);
    let b = enhanced(&mut s, 3);
    let mut b = b;
    b.send(&mut s, &announce(v4(address(3)), &[host(1)], &[]), 0);
    b.listen(&mut s, 0);
    s.tick(479_000);
    assert_eq!(s.summary(479_000).established, 2);
    s.tick(481_000);
    a.listen(&mut s, 481_000);
    let n = a.notification.expect("told why");
    assert_eq!((n.code, n.subcode), (8, 0));
    assert_eq!(s.summary(481_000).established, 1);
}

/// RFC 9003: the text of a peer's shutdown is shown, escaped.
#[test]
fn a_peers_shutdown_text_is_shown() {
    let mut s = open_speaker();
    let mut a = enhanced(&mut s, 2);
    let mut last = Vec::new();
    Notification::cease_with_text(2, "disk swap\u{7}").encode(&mut last);
    a.send(&mut s, &last, 0);
    let error = s.peers(0)[0].last_error.clone().unwrap_or_default();
    assert!(error.contains("received 6/2") && error.contains("disk swap\\u{7}"), "{error}");
}

/// RFC 5082: a neighbour whose packets come from too far off connects and is not heard. Its session ends after the
/// time for an OPEN, the error says what may be amiss, and not so for a neighbour without that guard.
#[test]
fn a_neighbour_too_far_off_is_shown_as_such() {
    for (max_hops, hint) in
        [(Some(1), "from at most 1 hop away?"), (Some(3), "from at most 3 hops away?"), (None, "")]
    {
        let mut s = open_speaker();
        let mut near = group(true, "10.255.0.0/28", Admission::Open);
        near.options.guard.max_hops = max_hops;
        s.set_dynamic_peers(vec![near], 0);
        s.connected(address(2), Direction::In, 0).expect("taken");
        s.tick(29_000);
        assert_eq!(s.peers(29_000)[0].state, "OpenSent");
        s.tick(31_000);
        let peer = s.peers(31_000).remove(0);
        let error = peer.last_error.clone().unwrap_or_default();
        assert!(error.starts_with("sent 4/0") && error.ends_with(hint), "{error}");
        assert_eq!(error.contains("GTSM"), max_hops.is_some(), "{error}");
        assert!(peer.established_count == 0 && peer.state != "OpenSent", "{peer:?}");
    }
}

/// RFC 4271 section 6.8: of two connections that both ends opened, the one of the higher identifier stays.
#[test]
fn a_collision_leaves_the_connection_of_the_higher_identifier() {
    for theirs_is_higher in [true, false] {
        let mut config = config();
        config.router_id = Ipv4Addr::new(10, 255, 0, if theirs_is_higher { 1 } else { 200 }).into();
        let mut s = Speaker::new(config, 7, 0);
        s.set_neighbors(vec![Neighbor::new("foreign", address(9), ASN)], 0);
        s.tick(0);
        let key = PeerKey::Named("foreign".into());
        let ours = s.connected(address(9), Direction::Out(key), 0).unwrap();
        let theirs = s.connected(address(9), Direction::In, 0).unwrap();
        for id in [ours, theirs] {
            s.received(id, &open_of(v4(address(9)), None), 0);
        }
        let mut ended = Vec::new();
        while let Some(action) = s.next_action() {
            if let Action::Close(id, last) = action {
                let n = Notification::decode(&last[last.len() - 2..]);
                ended.push((id, n.code, n.subcode));
            }
        }
        let loser = if theirs_is_higher { ours } else { theirs };
        assert_eq!(ended, [(loser, 6, 7)]);
        let winner = if theirs_is_higher { theirs } else { ours };
        s.received(winner, &KEEPALIVE, 0);
        assert_eq!(s.summary(0).established, 1);
    }
}

/// A dynamic peer that has gone is shown for a while and then forgotten.
#[test]
fn an_idle_dynamic_peer_is_forgotten() {
    let mut s = open_speaker();
    let a = enhanced(&mut s, 2);
    s.closed(a.id, "reset", 0);
    s.flush();
    s.tick(GONE_SHOWN_SECS * 1000 - 1);
    assert_eq!(s.peers(0).len(), 1);
    s.tick(GONE_SHOWN_SECS * 1000);
    assert!(s.peers(0).is_empty());
}

/// The warnings that the driver is asked to write: who, how many of how many.
fn warnings(s: &mut Speaker) -> Vec<(String, u32, u32)> {
    let mut all = Vec::new();
    while let Some(action) = s.next_action() {
        if let Action::Warn { peer, held, limit } = action {
            all.push((peer, held, limit));
        }
    }
    all
}

/// One warning for each time that the configured share is reached, none for routes that come and go around it, and
/// the limit of the options is shown.
#[test]
fn a_prefix_warning_is_written_once_per_crossing() {
    let mut s = Speaker::new(config(), 7, 0);
    let mut g = group(true, "10.255.0.0/24", Admission::Open);
    (g.options.max_prefixes, g.options.prefix_warning_percent) = (Some(10), 50);
    s.set_dynamic_peers(vec![g], 0);
    let mut a = enhanced(&mut s, 2);
    let hosts: Vec<Prefix> = (0..10).map(host).collect();
    let name = address(2).to_string();
    let mut say = |s: &mut Speaker, come: &[Prefix], go: &[Prefix]| {
        a.send(s, &announce(v4(address(2)), come, &[]), 0);
        if !go.is_empty() {
            a.send(s, &withdraw(go), 0);
        }
        let view = s.peers(0).remove(0);
        (warnings(s), view.near_prefix_limit, view.prefix_warnings)
    };
    assert_eq!(say(&mut s, &hosts[..4], &[]), (vec![], false, 0));
    assert_eq!(say(&mut s, &hosts[..5], &[]), (vec![(name.clone(), 5, 10)], true, 1));
    assert_eq!(say(&mut s, &hosts[..10], &hosts[4..]), (vec![], true, 1), "one below is not yet below");
    assert_eq!(say(&mut s, &hosts[..6], &hosts[3..6]), (vec![], false, 1));
    assert_eq!(say(&mut s, &hosts[..5], &[]), (vec![(name, 5, 10)], true, 2));
    let view = s.peers(0).remove(0);
    assert_eq!((view.prefix_limit, view.prefix_warning_percent), (Some(10), 50));
}

/// A configured limit warns at three quarters and ends the session beyond it, for open neighbours too.
#[test]
fn a_configured_prefix_limit_warns_and_ends() {
    let mut s = Speaker::new(config(), 7, 0);
    let mut g = group(true, "10.255.0.0/24", Admission::Open);
    g.options.max_prefixes = Some(4);
    s.set_dynamic_peers(vec![g], 0);
    let mut a = enhanced(&mut s, 2);
    let hosts: Vec<Prefix> = (0..5).map(host).collect();
    a.send(&mut s, &announce(v4(address(2)), &hosts[..3], &[]), 0);
    assert_eq!(s.peers(0)[0].prefix_warnings, 1);
    a.send(&mut s, &announce(v4(address(2)), &hosts, &[]), 0);
    a.listen(&mut s, 0);
    let n = a.notification.expect("told why");
    assert_eq!((n.code, n.subcode, &n.data[..]), (6, 1, &[0, 1, 1, 0, 0, 0, 4][..]));
}

/// RFC 4456 section 6, every pair: who hears a route, by whether source and receiver are clients. A non-client may be
/// another reflector.
#[test]
fn who_hears_whom() {
    for (source, receiver, hears) in [(2, 3, true), (2, 0x103, true), (0x102, 3, true), (0x102, 0x103, false)]
    {
        let at = |n: u16| IpAddr::from([10, 255, (n >> 8) as u8, n as u8]);
        let mut s = open_speaker();
        let mut a = Client::connect(&mut s, at(source), None, 0);
        let mut b = Client::connect(&mut s, at(receiver), None, 0);
        a.send(&mut s, &announce(v4(at(source)), &[host(1)], &[]), 0);
        a.listen(&mut s, 0);
        b.listen(&mut s, 0);
        assert_eq!(!b.prefixes().is_empty(), hears, "{source:x} {receiver:x}");
        assert!(a.prefixes().is_empty(), "never back to the source");
    }
}

/// An operator's request names every family spoken, and only a neighbour that is up and offers it is asked.
#[test]
fn a_neighbour_is_asked_for_its_routes_again() {
    use crate::speaker::RefreshError;
    let mut s = open_speaker();
    assert_eq!(s.ask_refresh("10.255.0.2").unwrap_err(), RefreshError::Unknown);
    let mut a = enhanced(&mut s, 2);
    let plain = Client::connect(&mut s, address(3), None, 0);
    let asked = s.ask_refresh("10.255.0.2").unwrap();
    assert_eq!((asked.enhanced, asked.families.join(" ")), (true, "ipv4-unicast ipv6-unicast".into()));
    assert!(!s.ask_refresh("10.255.0.3").unwrap().enhanced);
    let mut requests = Vec::new();
    Family::ALL.iter().for_each(|f| Refresh::Request.encode(*f, &mut requests));
    let mut slices = [IoSlice::new(&[]); SLICES];
    let n = s.gather(a.id, &mut slices);
    let sent: Vec<u8> = slices[..n].iter().flat_map(|s| s.to_vec()).collect();
    assert_eq!(sent, requests);
    a.listen(&mut s, 0);
    // What is not repeated between its marks is swept, as ever.
    a.send(&mut s, &announce(v4(address(2)), &[host(1), host(2)], &[]), 0);
    a.send(&mut s, &mark(Refresh::Begin), 0);
    a.send(&mut s, &announce(v4(address(2)), &[host(2)], &[]), 0);
    a.send(&mut s, &mark(Refresh::End), 0);
    assert_eq!(s.routes(&RouteQuery::default()).len(), 1);
    s.closed(plain.id, "reset", 0);
    assert_eq!(s.ask_refresh("10.255.0.3").unwrap_err(), RefreshError::NotEstablished);
    let id = s.connected(address(4), Direction::In, 0).unwrap();
    let without = Open { refresh: false, ..open_like(v4(address(4)), None) };
    let mut octets = Vec::new();
    without.encode(&mut octets);
    let _without = Client::greet_with(&mut s, id, address(4), &octets, 0);
    assert_eq!(s.ask_refresh("10.255.0.4").unwrap_err(), RefreshError::NotOffered);
}
