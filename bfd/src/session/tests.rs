use super::*;
use proptest::prelude::*;

fn quick(tx: u32, rx: u32, multiplier: u8) -> Settings {
    Settings { min_tx_millis: tx, min_rx_millis: rx, multiplier, multihop: false }
}

/// Two machines over a wire of a millisecond, on a virtual clock.
struct Pair {
    ends: [Session; 2],
    wire: Vec<(Micros, usize, Packet)>,
    /// Every packet that was sent: when, by whom, what.
    sent: Vec<(Micros, usize, Packet)>,
    changes: Vec<(Micros, usize, Change)>,
    now: Micros,
    cut: bool,
}

impl Pair {
    fn new(a: Settings, b: Settings) -> Pair {
        let ends = [Session::new(a, 11, 5, 0), Session::new(b, 22, 77, 0)];
        Pair { ends, wire: Vec::new(), sent: Vec::new(), changes: Vec::new(), now: 0, cut: false }
    }

    fn until(&mut self, end: Micros) {
        loop {
            let timers = self.ends.iter().map(Session::deadline);
            let next = timers.chain(self.wire.iter().map(|w| w.0)).min().unwrap_or(Micros::MAX);
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            let mut out = Vec::new();
            let due: Vec<_> = self.wire.extract_if(.., |w| w.0 <= self.now).collect();
            for (_, to, packet) in due {
                let change = self.ends[to].receive(&packet, self.now, &mut out);
                self.emit(to, &mut out, change);
            }
            for at in 0..2 {
                let change = self.ends[at].tick(self.now, &mut out);
                self.emit(at, &mut out, change);
            }
        }
    }

    fn emit(&mut self, by: usize, out: &mut Vec<Packet>, change: Change) {
        for packet in out.drain(..) {
            self.sent.push((self.now, by, packet));
            if !self.cut {
                self.wire.push((self.now + 1000, 1 - by, packet));
            }
        }
        if change != Change::None {
            self.changes.push((self.now, by, change));
        }
    }

    fn states(&self) -> [State; 2] {
        [self.ends[0].state(), self.ends[1].state()]
    }
}

/// Both ends are Up within two slow intervals, then agree on the slower side's wish by a Poll Sequence.
#[test]
fn two_ends_come_up_slowly_and_then_speed_up() {
    let mut pair = Pair::new(quick(300, 300, 3), quick(50, 100, 5));
    pair.until(2_100_000);
    assert_eq!(pair.states(), [State::Up, State::Up]);
    assert_eq!(pair.ends[0].tx_interval(), 300_000);
    assert_eq!(pair.ends[1].tx_interval(), 300_000, "not more often than the other side can take");
    assert_eq!(pair.ends[0].detection_time(), 5 * 300_000);
    assert_eq!(pair.ends[1].detection_time(), 3 * 300_000);
    for by in 0..2 {
        let slow = pair.sent.iter().filter(|(_, who, p)| *who == by && p.state != State::Up);
        assert!(slow.clone().all(|(.., p)| p.desired_min_tx_micros >= SLOW_MICROS));
        let polls = pair.sent.iter().filter(|(_, who, p)| *who == by && p.poll).count();
        let finals = pair.sent.iter().filter(|(_, who, p)| *who != by && p.final_).count();
        assert!(polls >= 1 && polls == finals, "{polls} polls, {finals} answers");
        assert!(!pair.ends[by].polling, "the sequence has ended");
    }
}

/// Packets leave at 75 to 100 % of the interval, never all alike.
#[test]
fn packets_are_jittered_within_the_limits() {
    let mut pair = Pair::new(quick(50, 50, 3), quick(50, 50, 3));
    pair.until(20_000_000);
    let times: Vec<Micros> = pair
        .sent
        .iter()
        .filter(|(at, by, p)| *by == 0 && *at > 4_000_000 && !p.final_)
        .map(|s| s.0)
        .collect();
    let gaps: Vec<Micros> = times.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(gaps.len() > 300 && gaps.iter().all(|g| (37_500..=50_000).contains(g)), "{gaps:?}");
    assert!(gaps.iter().min() < Some(&40_000) && gaps.iter().max() > Some(&47_500));
}

/// A cut wire is noticed within the detection time and not before it, on both ends, with diagnostic 1.
#[test]
fn a_cut_is_noticed_in_time() {
    let mut pair = Pair::new(quick(50, 50, 3), quick(50, 50, 3));
    pair.until(5_000_000);
    pair.changes.clear();
    pair.cut = true;
    pair.wire.clear();
    pair.until(6_000_000);
    for by in 0..2 {
        let (at, _, change) = pair.changes.iter().find(|c| c.1 == by).expect("it noticed");
        let Change::Fell(fall) = change else { panic!("{change:?}") };
        assert_eq!(fall.diagnostic, Diagnostic::TIME_EXPIRED);
        assert!((5_100_000..=5_151_000).contains(at), "{at}");
    }
    assert_eq!(pair.states(), [State::Down, State::Down]);
    let fell = pair.changes.iter().map(|c| c.0).min().expect("a fall");
    let told = pair.sent.iter().find(|(at, _, p)| *at >= fell && p.state == State::Down).expect("a packet").0;
    assert!((100_000..=151_000).contains(&(told - fell)), "the owner is told first: {}", told - fell);
    assert_eq!(pair.ends[0].remote().discriminator, 0, "RFC 5880 section 6.8.1: forgotten");
    pair.cut = false;
    pair.until(9_000_000);
    assert_eq!(pair.states(), [State::Up, State::Up], "it heals by itself");
}

/// A peer that starts again, and one that is held down on purpose, end the session with diagnostic 3.
#[test]
fn what_the_peer_says_is_followed() {
    for administrative in [false, true] {
        let mut pair = Pair::new(quick(300, 300, 3), quick(300, 300, 3));
        pair.until(5_000_000);
        pair.changes.clear();
        if administrative {
            let now = pair.now;
            pair.ends[1].disable(now);
        } else {
            pair.ends[1] = Session::new(quick(300, 300, 3), 33, 9, pair.now);
        }
        pair.until(5_010_000);
        let (_, by, Change::Fell(fall)) = pair.changes[0] else { panic!("{:?}", pair.changes) };
        assert_eq!(
            (by, fall.diagnostic, fall.administrative),
            (0, Diagnostic::NEIGHBOR_DOWN, administrative)
        );
        pair.until(9_000_000);
        let end = if administrative { State::Down } else { State::Up };
        assert_eq!(pair.ends[0].state(), end);
    }
}

/// Other parameters while Up: nobody falls, slower sending waits for the peer's answer (RFC 5880 section 6.8.3).
#[test]
fn parameters_change_without_a_fall() {
    let mut pair = Pair::new(quick(50, 50, 3), quick(50, 50, 3));
    pair.until(5_000_000);
    pair.changes.clear();
    let now = pair.now;
    pair.ends[0].set(quick(1000, 400, 3), now);
    assert_eq!(pair.ends[0].tx_interval(), 50_000, "not before the peer knows");
    pair.until(5_010_000);
    assert_eq!(pair.ends[0].tx_interval(), 1_000_000);
    pair.until(15_000_000);
    let now = pair.now;
    pair.ends[0].set(quick(50, 50, 2), now);
    pair.until(20_000_000);
    assert!(pair.changes.is_empty(), "{:?}", pair.changes);
    assert_eq!((pair.ends[0].detection_time(), pair.ends[1].detection_time()), (150_000, 100_000));
}

/// A peer in demand mode gets no periodic packets, one that takes none gets none at all, and our end stays.
#[test]
fn demand_and_zero_intervals_are_respected() {
    let mut pair = Pair::new(quick(300, 300, 3), quick(300, 300, 3));
    pair.until(5_000_000);
    let mut theirs = Packet { demand: true, ..pair.ends[1].packet() };
    let mut session = pair.ends[0].clone();
    let mut out = Vec::new();
    session.receive(&theirs, 5_000_000, &mut out);
    session.tick(5_300_000, &mut out);
    assert!(out.is_empty() && session.state() == State::Up);
    theirs = Packet { demand: false, required_min_rx_micros: 0, ..theirs };
    session.receive(&theirs, 5_300_000, &mut out);
    session.tick(5_900_000, &mut out);
    assert!(out.is_empty());
    session.receive(&Packet { poll: true, ..theirs }, 5_900_000, &mut out);
    assert!(out.len() == 1 && out[0].final_ && !out[0].poll);
}

fn any_packet() -> impl Strategy<Value = Packet> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let word = || prop_oneof![Just(0), Just(1), Just(11), 0..2_000_000u32, any::<u32>()];
    (0..4u8, flags, 1..=255u8, word(), word(), word(), word(), 0..32u8).prop_map(
        |(state, (poll, final_, c, demand), multiplier, my, your, tx, rx, diagnostic)| Packet {
            diagnostic: Diagnostic(diagnostic),
            state: [State::AdminDown, State::Down, State::Init, State::Up][usize::from(state)],
            poll,
            final_,
            control_plane_independent: c,
            demand,
            multiplier,
            my_discriminator: my.max(1),
            your_discriminator: your,
            desired_min_tx_micros: tx,
            required_min_rx_micros: rx,
            required_min_echo_rx_micros: 0,
        },
    )
}

proptest! {
    /// Any packets at any times, parameters changed and the session held down in between: no panic, at most one
    /// answer to a packet and only to a P, a deadline that moves on, never Up without a peer that speaks.
    #[test]
    fn any_input_is_taken(
        steps in proptest::collection::vec((0..6u8, any_packet(), 0..3_000_000u64), 0..60), seed: u64,
    ) {
        let mut session = Session::new(quick(50, 50, 3), 11, seed, 0);
        let mut now = 0;
        for (what, packet, later) in steps {
            now += later;
            let mut out = Vec::new();
            match what {
                0 => session.set(quick(packet.desired_min_tx_micros / 1000, 300, packet.multiplier), now),
                1 if packet.poll => session.disable(now),
                2 => {
                    session.tick(now, &mut out);
                    prop_assert!(out.len() <= 1 && session.deadline() > now);
                }
                _ => {
                    session.receive(&packet, now, &mut out);
                    prop_assert_eq!(out.len(), usize::from(packet.poll && session.state() != State::AdminDown));
                }
            }
            for sent in out {
                prop_assert!(!(sent.poll && sent.final_));
                prop_assert_eq!(Packet::decode(&sent.encode()), Ok(sent));
            }
            prop_assert!(session.state() != State::Up || session.heard_at.is_some());
        }
    }
}
