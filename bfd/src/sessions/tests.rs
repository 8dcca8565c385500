use super::*;
use crate::packet::Diagnostic;
use proptest::prelude::*;

const NOW: Micros = 1_000_000;

fn key(n: u8, multihop: bool) -> Key {
    Key { local: [10, 0, 0, 1].into(), remote: [10, 0, 0, n].into(), multihop }
}

fn packet(state: State, my: u32, your: u32) -> Packet {
    Packet {
        diagnostic: Diagnostic::NONE,
        state,
        poll: false,
        final_: false,
        control_plane_independent: false,
        demand: false,
        multiplier: 3,
        my_discriminator: my,
        your_discriminator: your,
        desired_min_tx_micros: 50_000,
        required_min_rx_micros: 50_000,
        required_min_echo_rx_micros: 0,
    }
}

fn with(limit: usize) -> Sessions {
    Sessions::new(RandomState::new(), limit)
}

fn arrive(sessions: &mut Sessions, key: Key, ttl: u8, packet: &Packet) {
    let octets = packet.encode();
    sessions.receive(&Arrival { key, ttl: Some(ttl), octets: &octets }, NOW, &mut Vec::new());
}

fn state(sessions: &Sessions, key: Key) -> String {
    let view = sessions.view(NOW);
    let of = |s: &&SessionView| s.peer == key.remote && s.multihop == key.multihop;
    view.sessions.iter().find(of).map(|s| s.state.clone()).unwrap_or_default()
}

/// By source before our discriminator is known to the peer, by discriminator and address after; the rest is
/// counted by reason and changes nothing.
#[test]
fn packets_find_their_session_or_are_counted() {
    let mut sessions = with(10);
    let (near, far) = (key(2, false), key(3, true));
    let id = sessions.add(near, Settings::default(), NOW).unwrap().0;
    let far_id = sessions.add(far, Settings::default(), NOW).unwrap().0;
    arrive(&mut sessions, near, 254, &packet(State::Down, 7, 0));
    arrive(&mut sessions, key(9, false), 255, &packet(State::Down, 7, 0));
    arrive(&mut sessions, near, 255, &packet(State::Up, 7, 0));
    arrive(&mut sessions, near, 255, &packet(State::Down, 7, id ^ 1));
    arrive(&mut sessions, near, 255, &packet(State::Down, 7, far_id));
    arrive(&mut sessions, key(2, true), 64, &packet(State::Down, 7, id));
    assert_eq!(state(&sessions, near), "Down");
    let dropped = sessions.view(NOW).dropped;
    let names = ["discriminator-missing", "ttl", "unknown-discriminator", "unknown-source"];
    assert!(names.iter().all(|n| dropped[*n] == 1) && dropped["wrong-address"] == 2, "{dropped:?}");
    arrive(&mut sessions, near, 255, &packet(State::Down, 7, 0));
    assert_eq!(state(&sessions, near), "Init");
    arrive(&mut sessions, near, 255, &packet(State::Init, 7, id));
    assert_eq!(state(&sessions, near), "Up");
    arrive(&mut sessions, far, 3, &packet(State::Init, 8, far_id));
    assert_eq!(state(&sessions, far), "Up", "no TTL rule over several hops");
}

/// One session too many is refused and counted; settings of one that is there change in place.
#[test]
fn sessions_are_bounded() {
    let mut sessions = with(2);
    let first = sessions.add(key(2, false), Settings::default(), NOW).unwrap();
    sessions.add(key(3, false), Settings::default(), NOW).unwrap();
    assert_eq!(sessions.add(key(4, false), Settings::default(), NOW), Err(Full(2)));
    assert_eq!(sessions.view(NOW).refused, 1);
    let other = Settings { multiplier: 5, ..Settings::default() };
    assert_eq!(sessions.add(key(2, false), other, NOW), Ok(first));
}

/// A removed session says AdminDown for the peer's detection time, is no news, and is gone then; added again, it is
/// a new one at once.
#[test]
fn a_removed_session_takes_its_leave() {
    let mut sessions = with(1);
    let key = key(2, false);
    let id = sessions.add(key, Settings::default(), NOW).unwrap();
    arrive(&mut sessions, key, 255, &packet(State::Init, 7, id.0));
    sessions.take_news();
    sessions.remove(id, NOW);
    let mut out = Vec::new();
    sessions.tick(NOW, &mut out);
    let last = Packet::decode(&out.last().unwrap().octets).unwrap();
    assert_eq!((last.state, last.diagnostic), (State::AdminDown, Diagnostic::ADMINISTRATIVELY_DOWN));
    assert!(!sessions.has_news() && sessions.view(NOW).sessions.is_empty());
    assert_eq!(sessions.keys().count(), 1, "its socket is still needed");
    sessions.tick(NOW + 4_000_000, &mut out);
    assert_eq!((sessions.keys().count(), sessions.deadline()), (0, Micros::MAX));

    let id = sessions.add(key, Settings::default(), NOW).unwrap();
    sessions.remove(id, NOW);
    assert_ne!(sessions.add(key, Settings::default(), NOW).unwrap(), id);
    assert_eq!(sessions.keys().count(), 1);
}

/// A fall is told even if the session came Up again before its owner asked.
#[test]
fn no_fall_is_lost() {
    let mut sessions = with(1);
    let key = key(2, false);
    let id = sessions.add(key, Settings::default(), NOW).unwrap();
    arrive(&mut sessions, key, 255, &packet(State::Init, 7, id.0));
    assert_eq!(sessions.take_news()[0].state, State::Up);
    arrive(&mut sessions, key, 255, &packet(State::Down, 8, 0));
    arrive(&mut sessions, key, 255, &packet(State::Down, 8, 0));
    arrive(&mut sessions, key, 255, &packet(State::Up, 8, id.0));
    let news = sessions.take_news();
    assert_eq!((news.len(), news[0].state), (1, State::Up));
    assert_eq!(news[0].fell.unwrap().diagnostic, Diagnostic::NEIGHBOR_DOWN);
    assert!(sessions.take_news().is_empty());
}

proptest! {
    /// Any datagrams from anywhere, sessions coming and going: no panic, never more sessions than the limit, and
    /// the clock always moves on.
    #[test]
    fn any_datagrams_are_taken(
        steps in proptest::collection::vec(
            (0..5u8, 0..6u8, any::<bool>(), proptest::collection::vec(any::<u8>(), 0..40), 0..2_000_000u64), 0..80),
    ) {
        let mut sessions = with(3);
        let mut now = NOW;
        let mut ids = Vec::new();
        for (what, peer, multihop, mut octets, later) in steps {
            now += later;
            let key = key(peer, multihop);
            let mut out = Vec::new();
            match what {
                0 => ids.extend(sessions.add(key, Settings::default(), now)),
                1 => if let Some(id) = ids.pop() { sessions.remove(id, now) },
                2 => {
                    sessions.tick(now, &mut out);
                    prop_assert!(sessions.deadline() > now);
                }
                _ => {
                    if octets.len() >= LEN && what == 4 {
                        octets[0] = 0x20;
                        octets[1] &= !0x05;
                        octets[2] |= 1;
                        octets[3] = LEN as u8;
                        let your = ids.last().map_or(0, |id| id.0);
                        octets[8..12].copy_from_slice(&your.to_be_bytes());
                    }
                    let ttl = Some(octets.first().map_or(255, |o| o | 0xf0));
                    sessions.receive(&Arrival { key, ttl, octets: &octets }, now, &mut out);
                    prop_assert!(out.len() <= 1);
                }
            }
            prop_assert!(sessions.keys().count() <= 3);
            sessions.take_news();
        }
    }
}
