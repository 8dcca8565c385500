//! Two ends in one process over loopback sockets: they come up, tell each other's end, and notice silence. IPv6 is
//! tested with other makes of BFD, for loopback has one address of it.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use bfd::io::{Bfd, Key, News, SessionId, Settings};
use bfd::packet::{Diagnostic, Packet, State};

const QUICK: Settings = Settings { min_tx_millis: 50, min_rx_millis: 50, multiplier: 3, multihop: false };
const LIMIT: Duration = Duration::from_secs(10);

fn pair(a: impl Into<IpAddr>, b: impl Into<IpAddr>, multihop: bool) -> [Key; 2] {
    let (a, b) = (a.into(), b.into());
    [Key { local: a, remote: b, multihop }, Key { local: b, remote: a, multihop }]
}

async fn until(bfd: &Bfd, id: SessionId, done: impl Fn(&News) -> bool) -> News {
    let wait = async {
        loop {
            if let Some(news) = bfd.news().await.into_iter().find(|n| n.id == id && done(n)) {
                return news;
            }
        }
    };
    tokio::time::timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("{:#?}", bfd.view()))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("tokio")
}

/// Over IPv4 with one hop and with several: Up, then a removal that the peer hears as AdminDown.
#[test]
fn two_ends_meet_and_part() {
    runtime().block_on(async {
        for multihop in [false, true] {
            let [a, b] = pair(Ipv4Addr::new(127, 38, 0, 1), Ipv4Addr::new(127, 38, 0, 2), multihop);
            let (left, right) = (Bfd::start(4).unwrap(), Bfd::start(4).unwrap());
            let left_id = left.add(a, QUICK).unwrap();
            let right_id = right.add(b, QUICK).unwrap();
            until(&left, left_id, |n| n.state == State::Up).await;
            until(&right, right_id, |n| n.state == State::Up).await;
            left.remove(left_id);
            let fell = until(&right, right_id, |n| n.fell.is_some()).await.fell.unwrap();
            assert!(fell.administrative && fell.diagnostic == Diagnostic::NEIGHBOR_DOWN, "{fell:?}");
            assert!(left.view().sessions.is_empty());
        }
    });
}

/// A peer whose packets come over a router is not heard; one that speaks and then falls silent is noticed in its
/// detection time, with diagnostic 1.
#[test]
fn silence_is_noticed_and_a_spent_ttl_refused() {
    runtime().block_on(async {
        let [a, b] = pair(Ipv4Addr::new(127, 38, 1, 1), Ipv4Addr::new(127, 38, 1, 2), false);
        let bfd = Bfd::start(4).unwrap();
        let id = bfd.add(a, QUICK).unwrap();
        let peer = UdpSocket::bind((b.local, 50_000)).unwrap();
        let packet = Packet {
            diagnostic: Diagnostic::NONE,
            state: State::Init,
            poll: false,
            final_: false,
            control_plane_independent: false,
            demand: false,
            multiplier: 3,
            my_discriminator: 5,
            your_discriminator: bfd.view().sessions[0].discriminator,
            desired_min_tx_micros: 100_000,
            required_min_rx_micros: 100_000,
            required_min_echo_rx_micros: 0,
        };
        let begin = Instant::now();
        while !bfd.view().dropped.contains_key("ttl") {
            assert!(begin.elapsed() < LIMIT, "{:#?}", bfd.view());
            peer.set_ttl(254).unwrap();
            peer.send_to(&packet.encode(), (a.local, 3784)).unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(bfd.view().sessions[0].packets_in, 0);
        peer.set_ttl(255).unwrap();
        // Its time begins when this is heard; this test may be told that it is up much later.
        let begin = Instant::now();
        peer.send_to(&packet.encode(), (a.local, 3784)).unwrap();
        until(&bfd, id, |n| n.state == State::Up).await;
        assert_eq!(bfd.view().sessions[0].detection_time_millis, 300);
        let fell = until(&bfd, id, |n| n.fell.is_some()).await.fell.unwrap();
        assert!(begin.elapsed() >= Duration::from_millis(300), "not before its time");
        assert!(!fell.administrative && fell.diagnostic == Diagnostic::TIME_EXPIRED, "{fell:?}");
    });
}

/// An address that another program has is said, and had as soon as it is free.
#[test]
fn a_port_that_is_taken_is_shown_and_tried_again() {
    runtime().block_on(async {
        let [a, b] = pair(Ipv4Addr::new(127, 38, 2, 1), Ipv4Addr::new(127, 38, 2, 2), false);
        let thief = UdpSocket::bind((a.local, 3784)).unwrap();
        let (left, right) = (Bfd::start(4).unwrap(), Bfd::start(4).unwrap());
        let left_id = left.add(a, QUICK).unwrap();
        right.add(b, QUICK).unwrap();
        let begin = Instant::now();
        while left.view().sessions[0].error.is_none() {
            assert!(begin.elapsed() < LIMIT);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drop(thief);
        until(&left, left_id, |n| n.state == State::Up).await;
        assert_eq!(left.view().sessions[0].error, None);
    });
}
