//! The session machine: any messages, stops and times in any order.

use bgp::message::{HEADER_LEN, Kind, Notification, Open, frame};
use bgp::session::{End, Event, Millis, Negotiated, Session, State};

use super::Input;
use crate::wire::{ASN, Offer, open_of};

/// One input: a list of events.
pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let mut out = Vec::new();
    let mut now: Millis = 0;
    let mut session = Session::start(ours(), ASN, now, &mut out);
    let mut ended = 0;
    for _ in 0..256 {
        if input.is_empty() {
            break;
        }
        let before = session.state();
        let over = event(&mut session, &mut input, &mut now, &mut out);
        ended += usize::from(over);
        let state = session.state();
        assert!(before != State::Closed || state == State::Closed, "the end is the end");
        assert!(state != State::Established || session.negotiated().is_some());
        assert_eq!(over, before != State::Closed && state == State::Closed, "each end is told, once");
        if state == State::Closed {
            assert_eq!(session.deadline(), Millis::MAX);
        } else if let Some(n) = session.negotiated() {
            assert!(n.hold_secs == 0 || n.hold_secs >= 3, "RFC 4271 section 4.2");
            agreed(n);
            assert!(session.deadline() == Millis::MAX || session.deadline() <= now + 65_535_000);
        }
    }
    assert!(ended <= 1);
    let mut sent = &out[..];
    let mut notifications = 0;
    while let Some((kind, whole)) = frame(sent, false).expect("we send only what is well formed") {
        notifications += usize::from(kind == Kind::Notification);
        sent = &sent[whole..];
        assert!(notifications == 0 || sent.is_empty(), "a NOTIFICATION is the last word");
    }
    assert!(sent.is_empty() && notifications <= 1);
}

fn ours() -> Open {
    let octets = open_of([10, 255, 0, 1].into(), &Offer::everything());
    Open::decode(&octets[HEADER_LEN..]).expect("an OPEN")
}

/// Nothing holds that one end alone has offered, and nothing for a family that is not spoken.
fn agreed(n: &Negotiated) {
    let (ours, theirs) = (ours(), &n.peer);
    assert!(n.extended <= theirs.extended && n.enhanced_refresh <= theirs.enhanced_refresh);
    assert_eq!(n.graceful_restart, theirs.graceful_restart);
    assert!(n.long_lived.is_none() || n.graceful_restart.is_some(), "RFC 9494 stands on RFC 4724");
    for i in 0..2 {
        assert!(n.families[i] <= theirs.families[i]);
        let (add_path, offered) = (n.add_path[i], theirs.add_path[i]);
        assert!(add_path.receive <= (n.families[i] && offered.send));
        assert!(add_path.send <= (n.families[i] && offered.receive));
        let most = ours.long_lived.map_or(0, |l| if n.families[i] { l[i].stale_secs } else { 0 });
        assert!(n.long_lived.is_none_or(|l| l[i].stale_secs <= most));
    }
}

/// Plays one event; returns whether the session ended by it.
fn event(session: &mut Session, input: &mut Input<'_>, now: &mut Millis, out: &mut Vec<u8>) -> bool {
    let what = input.octet();
    let mut body = Vec::new();
    let event = match what % 10 {
        0 => {
            let (extended, families) = (what & 16 != 0, [what & 32 == 0, what & 64 == 0]);
            let offer = if what & 128 != 0 {
                input.offer()
            } else {
                Offer { extended, families, ..Offer::default() }
            };
            let theirs = open_of([10, 255, 0, 2].into(), &offer);
            body.extend_from_slice(&theirs[HEADER_LEN..]);
            session.message(Kind::Open, &body, *now, out)
        }
        1 => {
            session.confirm(*now, out);
            return false;
        }
        2 => session.message(Kind::Keepalive, &[], *now, out),
        3 => {
            *now += u64::from(input.short()) * 4;
            session.tick(*now, out)
        }
        4 => session.lost("lost"),
        5 => session.stop(Notification::new(6, input.octet(), input.octets(20).to_vec()), out),
        kind => {
            let len = usize::from(input.octet());
            body.extend_from_slice(input.octets(len));
            let kinds = [Kind::Open, Kind::Update, Kind::Notification, Kind::RouteRefresh];
            session.message(kinds[usize::from(kind) - 6], &body, *now, out)
        }
    };
    matches!(event, Event::Ended(End::Sent(_) | End::Received(_) | End::Lost(_)))
}

/// Seeds: sessions that come up and end in several ways.
pub fn seeds() -> Vec<Vec<u8>> {
    let up = [0u8, 1, 2];
    [
        [&up[..], &[2, 3, 0x10, 0, 2]].concat(),
        [&up[..], &[7, 4, 0, 0, 0, 0, 9, 4, 0, 1, 0, 1]].concat(),
        [&up[..], &[8, 2, 6, 2]].concat(),
        [&up[..], &[3, 0xff, 0xff]].concat(),
        [&[0u8, 5][..], &[4, 1]].concat(),
        vec![16, 1, 2, 4],
        // Everything offered, and a part: ADD-PATH one way, graceful restart for one family alone.
        [&[130, 0x40, 0x33, 0x5f, 0x5f, 1, 2][..], &[9, 4, 0, 1, 1, 1, 9, 4, 0, 1, 2, 1, 4]].concat(),
        vec![130, 0x82, 0x21, 0x47, 0x43, 1, 2, 4],
    ]
    .into()
}
