//! The session machine of one connection (RFC 4271 section 8), from the sending of OPEN to the end.
//!
//! Idle, Connect and Active are about having no connection and belong to [`crate::peer`]. The machine takes a
//! message or the time, writes what is to be sent into a buffer, and says what happened. Any message in any state
//! is allowed; what does not belong gets its NOTIFICATION.

use crate::message::{
    AddPath, GracefulRestart, KEEPALIVE, Kind, LongLived, Notification, Open, Refresh, Update,
};
use crate::types::Family;

/// Milliseconds on a clock that never goes back; its start does not matter.
pub type Millis = u64;

/// How long a peer may take from the connection to Established.
pub const OPEN_HOLD_SECS: u64 = 30;

/// The state, in RFC 4271's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Our OPEN is out.
    OpenSent,
    /// The OPENs agree; a KEEPALIVE is awaited.
    OpenConfirm,
    /// Routes may flow.
    Established,
    /// It is over.
    Closed,
}

/// What holds for a session once both OPENs are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// The peer's OPEN.
    pub peer: Open,
    /// The smaller hold time, in seconds; 0: no timers.
    pub hold_secs: u16,
    /// Families that both named, by [`Family::index`].
    pub families: [bool; 2],
    /// Messages up to 65,535 octets.
    pub extended: bool,
    /// Enhanced route refresh.
    pub enhanced_refresh: bool,
    /// The peer's graceful restart, if we offer it too.
    pub graceful_restart: Option<GracefulRestart>,
    /// The peer's long-lived graceful restart by [`Family::index`], if we offer it too and graceful restart holds
    /// (RFC 9494 section 4.5); the times are the lesser of both ends'.
    pub long_lived: Option<[LongLived; 2]>,
    /// What goes which way with path identifiers, by [`Family::index`]: `receive` in, `send` out.
    pub add_path: [AddPath; 2],
}

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// We sent this NOTIFICATION.
    Sent(Notification),
    /// The peer sent this NOTIFICATION.
    Received(Notification),
    /// The connection broke without one; the text says how.
    Lost(String),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// Nothing for others.
    None,
    /// The peer's OPEN is good: [`Session::confirm`] or [`Session::stop`] must follow.
    Opened,
    /// The session is up.
    Established,
    /// Routes.
    Update(Update<'a>),
    /// A refresh was asked for or marked.
    Refresh(Refresh, Family),
    /// The session is over.
    Ended(End),
}

/// The machine.
#[derive(Debug)]
pub struct Session {
    state: State,
    ours: Open,
    remote_asn: u32,
    negotiated: Option<Negotiated>,
    opened_at: Millis,
    heard_at: Millis,
    keepalive_at: Millis,
}

impl Session {
    /// A fresh connection: writes our OPEN.
    pub fn start(ours: Open, remote_asn: u32, now: Millis, out: &mut Vec<u8>) -> Session {
        ours.encode(out);
        Session {
            state: State::OpenSent,
            ours,
            remote_asn,
            negotiated: None,
            opened_at: now,
            heard_at: now,
            keepalive_at: now,
        }
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// What was agreed, from OpenConfirm on.
    pub fn negotiated(&self) -> Option<&Negotiated> {
        self.negotiated.as_ref()
    }

    /// Whether long messages may come in.
    pub fn extended(&self) -> bool {
        self.negotiated.as_ref().is_some_and(|n| n.extended)
    }

    /// Takes a whole message; `body` is what follows its header.
    pub fn message<'a>(&mut self, kind: Kind, body: &'a [u8], now: Millis, out: &mut Vec<u8>) -> Event<'a> {
        self.heard_at = now;
        match (self.state, kind) {
            (State::Closed, _) => Event::None,
            (_, Kind::Notification) => {
                self.state = State::Closed;
                Event::Ended(End::Received(Notification::decode(body)))
            }
            (State::OpenSent, Kind::Open) => match self.check_open(body) {
                Ok(negotiated) => {
                    self.negotiated = Some(negotiated);
                    Event::Opened
                }
                Err(n) => self.stop(n, out),
            },
            (State::OpenConfirm, Kind::Keepalive) => {
                self.state = State::Established;
                Event::Established
            }
            (State::Established, Kind::Keepalive) => Event::None,
            (State::Established, Kind::Update) => match Update::split(body) {
                Ok(update) => Event::Update(update),
                Err(n) => self.stop(n, out),
            },
            (State::Established, Kind::RouteRefresh) => match Refresh::decode(body) {
                Ok(Some((refresh, family))) => Event::Refresh(refresh, family),
                Ok(None) => Event::None,
                Err(n) => self.stop(n, out),
            },
            // RFC 6608: which state did not expect the message.
            (State::OpenSent, _) => self.stop(Notification::new(5, 1, Vec::new()), out),
            (State::OpenConfirm, _) => self.stop(Notification::new(5, 2, Vec::new()), out),
            (State::Established, _) => self.stop(Notification::new(5, 3, Vec::new()), out),
        }
    }

    fn check_open(&self, body: &[u8]) -> Result<Negotiated, Notification> {
        let peer = Open::decode(body)?;
        if peer.asn != self.remote_asn || peer.asn != self.ours.asn {
            return Err(Notification::new(2, 2, Vec::new()));
        }
        if peer.router_id.bits() == 0 || peer.router_id == self.ours.router_id {
            return Err(Notification::new(2, 3, Vec::new()));
        }
        if matches!(peer.hold_secs, 1 | 2) {
            return Err(Notification::new(2, 6, Vec::new()));
        }
        if !peer.four_octet_as {
            // Names the capability that is missing (RFC 5492 section 5).
            let mut data = vec![65, 4];
            data.extend_from_slice(&self.ours.asn.to_be_bytes());
            return Err(Notification::new(2, 7, data));
        }
        let both = |i: usize| peer.families[i] && self.ours.families[i];
        let families = [both(0), both(1)];
        if families == [false, false] {
            return Err(Notification::new(2, 7, vec![1, 4, 0, 1, 0, 1]));
        }
        let graceful_restart = peer.graceful_restart.filter(|_| self.ours.graceful_restart.is_some());
        let long_lived = match (peer.long_lived, self.ours.long_lived) {
            (Some(theirs), Some(ours)) if graceful_restart.is_some() => Some([0, 1].map(|i| LongLived {
                stale_secs: if families[i] { theirs[i].stale_secs.min(ours[i].stale_secs) } else { 0 },
                ..theirs[i]
            })),
            _ => None,
        };
        Ok(Negotiated {
            hold_secs: peer.hold_secs.min(self.ours.hold_secs),
            families,
            extended: peer.extended && self.ours.extended,
            enhanced_refresh: peer.enhanced_refresh && self.ours.enhanced_refresh,
            graceful_restart,
            long_lived,
            add_path: [0, 1].map(|i| AddPath {
                receive: families[i] && self.ours.add_path[i].receive && peer.add_path[i].send,
                send: families[i] && self.ours.add_path[i].send && peer.add_path[i].receive,
            }),
            peer,
        })
    }

    /// Agrees to the peer's OPEN: writes the KEEPALIVE that says so.
    pub fn confirm(&mut self, now: Millis, out: &mut Vec<u8>) {
        if self.state == State::OpenSent && self.negotiated.is_some() {
            self.state = State::OpenConfirm;
            self.keepalive_at = now;
            out.extend_from_slice(&KEEPALIVE);
        }
    }

    /// Ends the session with a NOTIFICATION.
    pub fn stop(&mut self, n: Notification, out: &mut Vec<u8>) -> Event<'static> {
        if self.state == State::Closed {
            return Event::None;
        }
        self.state = State::Closed;
        n.encode(out);
        Event::Ended(End::Sent(n))
    }

    /// The connection is gone.
    pub fn lost(&mut self, how: &str) -> Event<'static> {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Closed => Event::None,
            _ => Event::Ended(End::Lost(how.to_string())),
        }
    }

    /// Does what the time demands: a KEEPALIVE, or the end.
    pub fn tick(&mut self, now: Millis, out: &mut Vec<u8>) -> Event<'static> {
        if self.state == State::Closed {
            return Event::None;
        }
        if now >= self.hold_deadline() {
            return self.stop(Notification::new(4, 0, Vec::new()), out);
        }
        if now >= self.keepalive_deadline() {
            self.keepalive_at = now;
            out.extend_from_slice(&KEEPALIVE);
        }
        Event::None
    }

    /// When [`Session::tick`] has something to do; [`Millis::MAX`]: never.
    pub fn deadline(&self) -> Millis {
        match self.state {
            State::Closed => Millis::MAX,
            _ => self.hold_deadline().min(self.keepalive_deadline()),
        }
    }

    fn hold_deadline(&self) -> Millis {
        match (self.state, self.hold_ms()) {
            (State::OpenSent, _) => self.opened_at + OPEN_HOLD_SECS * 1000,
            (_, 0) => Millis::MAX,
            (_, hold) => self.heard_at + hold,
        }
    }

    fn keepalive_deadline(&self) -> Millis {
        match (self.state, self.hold_ms()) {
            (State::OpenSent, _) | (_, 0) => Millis::MAX,
            (_, hold) => self.keepalive_at + hold / 3,
        }
    }

    fn hold_ms(&self) -> u64 {
        self.negotiated.as_ref().map_or(0, |n| u64::from(n.hold_secs) * 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{HEADER_LEN, frame};
    use proptest::prelude::*;

    pub(crate) fn open(id: u32) -> Open {
        Open {
            asn: 64512,
            hold_secs: 9,
            router_id: id.into(),
            families: [true, true],
            four_octet_as: true,
            refresh: true,
            enhanced_refresh: true,
            extended: true,
            graceful_restart: None,
            long_lived: None,
            add_path: [AddPath::default(); 2],
        }
    }

    fn body(open: &Open) -> Vec<u8> {
        let mut out = Vec::new();
        open.encode(&mut out);
        out.split_off(HEADER_LEN)
    }

    fn up() -> Session {
        let mut out = Vec::new();
        let mut s = Session::start(open(1), 64512, 0, &mut out);
        assert_eq!(s.message(Kind::Open, &body(&open(2)), 0, &mut out), Event::Opened);
        s.confirm(0, &mut out);
        assert_eq!(s.message(Kind::Keepalive, &[], 0, &mut out), Event::Established);
        s
    }

    #[test]
    fn bad_opens_get_their_codes() {
        type Change = fn(&mut Open);
        let cases: [(u8, Change); 6] = [
            (2, |o| o.asn = 1),
            (3, |o| o.router_id = 0.into()),
            (3, |o| o.router_id = 1.into()),
            (6, |o| o.hold_secs = 2),
            (7, |o| o.four_octet_as = false),
            (7, |o| o.families = [false, false]),
        ];
        for (subcode, change) in cases {
            let mut theirs = open(2);
            change(&mut theirs);
            let mut s = Session::start(open(1), 64512, 0, &mut Vec::new());
            let mut octets = body(&theirs);
            if theirs.families == [false, false] {
                // A peer without any family means IPv4, so name one that is not ours: IPv4 multicast.
                let mut o = open(2);
                o.families = [true, false];
                octets = body(&o);
                let at = octets.windows(4).position(|w| w == [0, 1, 0, 1]).unwrap();
                octets[at + 3] = 2;
            }
            let event = s.message(Kind::Open, &octets, 0, &mut Vec::new());
            let Event::Ended(End::Sent(n)) = event else { panic!("{event:?}") };
            assert_eq!((n.code, n.subcode), (2, subcode));
        }
    }

    #[test]
    fn keepalives_flow_at_a_third_and_silence_ends_the_session() {
        let mut s = up();
        let mut out = Vec::new();
        assert_eq!(s.deadline(), 3000);
        assert_eq!(s.tick(2999, &mut out), Event::None);
        assert!(out.is_empty());
        s.tick(3000, &mut out);
        assert_eq!(out, KEEPALIVE);
        s.message(Kind::Keepalive, &[], 5000, &mut out);
        assert_eq!(s.tick(13_999, &mut out), Event::None);
        let Event::Ended(End::Sent(n)) = s.tick(14_000, &mut out) else { panic!() };
        assert_eq!((n.code, n.subcode), (4, 0));
        assert_eq!(s.deadline(), Millis::MAX);
    }

    proptest! {
        #[test]
        fn any_messages_and_times_are_taken_without_panic(
            events in proptest::collection::vec(
                (0..8u8, proptest::collection::vec(any::<u8>(), 0..40), 0..20_000u64), 0..40)
        ) {
            let mut out = Vec::new();
            let mut now = 0;
            let mut s = Session::start(open(1), 64512, now, &mut out);
            for (what, octets, later) in events {
                now += later;
                let before = s.state();
                match what {
                    0 => drop(s.message(Kind::Open, &octets, now, &mut out)),
                    1 => drop(s.message(Kind::Open, &body(&open(2)), now, &mut out)),
                    2 => drop(s.message(Kind::Keepalive, &[], now, &mut out)),
                    3 => drop(s.message(Kind::Update, &octets, now, &mut out)),
                    4 => drop(s.message(Kind::RouteRefresh, &octets, now, &mut out)),
                    5 => s.confirm(now, &mut out),
                    6 => drop(s.tick(now, &mut out)),
                    _ => drop(s.message(Kind::Notification, &octets, now, &mut out)),
                }
                prop_assert!(before != State::Closed || s.state() == State::Closed);
                prop_assert!(s.state() != State::Established || s.negotiated().is_some());
            }
            let mut sent = &out[..];
            while let Some((_, whole)) = frame(sent, false).expect("we send only what is well formed") {
                sent = &sent[whole..];
            }
            prop_assert!(sent.is_empty());
        }
    }
}
