//! The machine of one session (RFC 5880 section 6.8): packets and the time in, packets and a deadline out.

use crate::packet::{Diagnostic, Packet, State};
use crate::settings::Settings;

/// Microseconds on a clock that never goes back; its start does not matter.
pub type Micros = u64;

/// How often a session that is not Up sends at most (RFC 5880 section 6.8.3).
pub const SLOW_MICROS: u32 = 1_000_000;
/// How long our owner is ahead of the peer with the news that the peer was not heard. Were the peer told at once, its
/// answer (a router may end its BGP session with a NOTIFICATION that flushes routes) could come before our owner has
/// acted on its own.
pub const OWNER_FIRST_MICROS: u64 = 100_000;

/// A session that was Up and is not any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fall {
    /// Why, as we tell the peer.
    pub diagnostic: Diagnostic,
    /// What the peer said of its own end.
    pub remote_diagnostic: Diagnostic,
    /// The peer holds its session down on purpose: no failure (RFC 5882 section 3.2).
    pub administrative: bool,
}

/// What a packet or the time changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The state that others care about is as before.
    None,
    /// It is Up now.
    Up,
    /// It was Up.
    Fell(Fall),
}

/// What the peer told last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remote {
    /// Its discriminator; 0: not known.
    pub discriminator: u32,
    /// Its state.
    pub state: State,
    /// Its diagnostic.
    pub diagnostic: Diagnostic,
    /// How often it can take a packet, in microseconds; 0: never.
    pub min_rx_micros: u32,
    /// How often it wants to send at most, in microseconds.
    pub min_tx_micros: u32,
    /// Its multiplier.
    pub multiplier: u8,
    /// Whether it wants no periodic packets.
    pub demand: bool,
    /// Whether its BFD survives its control plane.
    pub control_plane_independent: bool,
}

impl Remote {
    /// RFC 5880 section 6.8.1.
    const UNKNOWN: Remote = Remote {
        discriminator: 0,
        state: State::Down,
        diagnostic: Diagnostic::NONE,
        min_rx_micros: 1,
        min_tx_micros: 0,
        multiplier: 0,
        demand: false,
        control_plane_independent: false,
    };
}

/// The machine.
#[derive(Debug, Clone)]
pub struct Session {
    settings: Settings,
    state: State,
    diagnostic: Diagnostic,
    discriminator: u32,
    remote: Remote,
    /// bfd.DesiredMinTxInterval, and the one in use until a Poll Sequence ends.
    tx_offered: u32,
    tx_in_use: u32,
    /// bfd.RequiredMinRxInterval, and the one in use until a Poll Sequence ends.
    rx_offered: u32,
    rx_in_use: u32,
    polling: bool,
    /// The next packet says something new.
    news: bool,
    sent_at: Micros,
    send_at: Micros,
    heard_at: Option<Micros>,
    luck: u64,
}

impl Session {
    /// A session in Down that speaks first. `discriminator` is ours and not 0; `luck` is any number, for the jitter.
    pub fn new(settings: Settings, discriminator: u32, luck: u64, now: Micros) -> Session {
        let settings = settings.clamped();
        let mut session = Session {
            settings,
            state: State::Down,
            diagnostic: Diagnostic::NONE,
            discriminator,
            remote: Remote::UNKNOWN,
            tx_offered: 0,
            tx_in_use: 0,
            rx_offered: settings.min_rx_millis * 1000,
            rx_in_use: settings.min_rx_millis * 1000,
            polling: false,
            news: true,
            sent_at: now,
            send_at: now,
            heard_at: None,
            luck: luck | 1,
        };
        session.tx_offered = session.wished_tx();
        session.tx_in_use = session.tx_offered;
        session
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Why it left Up last.
    pub fn diagnostic(&self) -> Diagnostic {
        self.diagnostic
    }

    /// Our discriminator.
    pub fn discriminator(&self) -> u32 {
        self.discriminator
    }

    /// What the peer told last.
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// What it offers.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// How often it sends, before jitter, in microseconds.
    pub fn tx_interval(&self) -> u32 {
        self.tx_in_use.max(self.remote.min_rx_micros)
    }

    /// How long the peer may be silent, in microseconds (RFC 5880 section 6.8.4); 0: nothing was heard yet.
    pub fn detection_time(&self) -> u64 {
        u64::from(self.remote.multiplier) * u64::from(self.rx_in_use.max(self.remote.min_tx_micros))
    }

    /// How long the peer may not hear from us, in microseconds: what it computes from our last packet.
    pub fn peer_detection_time(&self) -> u64 {
        u64::from(self.settings.multiplier) * u64::from(self.tx_offered.max(self.remote.min_rx_micros))
    }

    fn wished_tx(&self) -> u32 {
        let wished = self.settings.min_tx_millis * 1000;
        if self.state == State::Up { wished } else { wished.max(SLOW_MICROS) }
    }

    /// Other parameters, without an interruption: a Poll Sequence tells the peer (RFC 5880 section 6.8.3).
    pub fn set(&mut self, settings: Settings, now: Micros) {
        let settings = settings.clamped();
        if settings == self.settings {
            return;
        }
        self.settings = settings;
        self.offer(now);
    }

    /// Offers what the state and the settings wish, and polls where that is a change.
    fn offer(&mut self, now: Micros) {
        let (tx, rx) = (self.wished_tx(), self.settings.min_rx_millis * 1000);
        if (tx, rx) == (self.tx_offered, self.rx_offered) {
            return;
        }
        let up = self.state == State::Up;
        // While Up, slower sending and a shorter detection time wait until the peer has agreed.
        if !(up && tx > self.tx_in_use) {
            self.tx_in_use = tx;
        }
        if !(up && rx < self.rx_in_use) {
            self.rx_in_use = rx;
        }
        (self.tx_offered, self.rx_offered) = (tx, rx);
        self.polling = self.state == State::Up;
        self.news = true;
        self.send_at = self.send_at.min(now);
    }

    /// Enters a state, and tells the peer at once.
    fn enter(&mut self, state: State, diagnostic: Diagnostic, now: Micros) {
        self.state = state;
        self.diagnostic = diagnostic;
        self.polling = false;
        self.tx_in_use = self.tx_offered;
        self.rx_in_use = self.rx_offered;
        self.offer(now);
        self.news = true;
        self.send_at = now;
    }

    /// Holds the session down (RFC 5880 section 6.8.16).
    pub fn disable(&mut self, now: Micros) {
        self.enter(State::AdminDown, Diagnostic::ADMINISTRATIVELY_DOWN, now);
    }

    /// Takes a packet that is for this session; pushes what must be answered at once.
    pub fn receive(&mut self, packet: &Packet, now: Micros, out: &mut Vec<Packet>) -> Change {
        self.remote = Remote {
            discriminator: packet.my_discriminator,
            state: packet.state,
            diagnostic: packet.diagnostic,
            min_rx_micros: packet.required_min_rx_micros,
            min_tx_micros: packet.desired_min_tx_micros,
            multiplier: packet.multiplier,
            demand: packet.demand,
            control_plane_independent: packet.control_plane_independent,
        };
        if packet.final_ && self.polling {
            self.polling = false;
            self.tx_in_use = self.tx_offered;
            self.rx_in_use = self.rx_offered;
        }
        if self.state == State::AdminDown {
            return Change::None;
        }
        self.heard_at = Some(now);
        let change = self.follow(packet.state, now);
        // A shorter interval holds from now on, not from the next packet on.
        self.send_at = self.send_at.min(self.sent_at.saturating_add(u64::from(self.tx_interval())));
        if packet.poll {
            out.push(Packet { poll: false, final_: true, ..self.packet() });
        }
        change
    }

    /// The state machine of RFC 5880 section 6.8.6.
    fn follow(&mut self, theirs: State, now: Micros) -> Change {
        let fall = |administrative| {
            Change::Fell(Fall {
                diagnostic: Diagnostic::NEIGHBOR_DOWN,
                remote_diagnostic: self.remote.diagnostic,
                administrative,
            })
        };
        match (self.state, theirs) {
            (State::Up, State::AdminDown | State::Down) => {
                let change = fall(theirs == State::AdminDown);
                self.enter(State::Down, Diagnostic::NEIGHBOR_DOWN, now);
                change
            }
            (State::Init, State::AdminDown) => {
                self.enter(State::Down, Diagnostic::NEIGHBOR_DOWN, now);
                Change::None
            }
            (State::Down, State::Down) => {
                self.enter(State::Init, self.diagnostic, now);
                Change::None
            }
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => {
                self.enter(State::Up, Diagnostic::NONE, now);
                Change::Up
            }
            _ => Change::None,
        }
    }

    /// Does what the time demands: a packet, or the end of patience.
    pub fn tick(&mut self, now: Micros, out: &mut Vec<Packet>) -> Change {
        let mut change = Change::None;
        if now >= self.detect_at() {
            self.heard_at = None;
            if matches!(self.state, State::Init | State::Up) {
                if self.state == State::Up {
                    change = Change::Fell(Fall {
                        diagnostic: Diagnostic::TIME_EXPIRED,
                        remote_diagnostic: self.remote.diagnostic,
                        administrative: false,
                    });
                }
                self.enter(State::Down, Diagnostic::TIME_EXPIRED, now);
                self.send_at = now + OWNER_FIRST_MICROS;
            }
            // Nobody is there: the next packet may come from a peer that has started again.
            let told = self.remote;
            self.remote = Remote {
                diagnostic: told.diagnostic,
                control_plane_independent: told.control_plane_independent,
                ..Remote::UNKNOWN
            };
        }
        if now >= self.send_deadline() {
            self.news = false;
            self.sent_at = now;
            self.send_at = now + self.jittered();
            out.push(self.packet());
        }
        change
    }

    /// When [`Session::tick`] has something to do; [`Micros::MAX`]: never.
    pub fn deadline(&self) -> Micros {
        self.send_deadline().min(self.detect_at())
    }

    fn send_deadline(&self) -> Micros {
        let silent = self.remote.demand
            && self.state == State::Up
            && self.remote.state == State::Up
            && !self.polling
            && !self.news;
        if silent || self.remote.min_rx_micros == 0 { Micros::MAX } else { self.send_at }
    }

    fn detect_at(&self) -> Micros {
        self.heard_at.map_or(Micros::MAX, |at| at.saturating_add(self.detection_time()))
    }

    /// The interval, shortened by 0 to 25 %, or by 10 to 25 % where one lost packet matters (section 6.8.7).
    fn jittered(&mut self) -> u64 {
        self.luck ^= self.luck << 13;
        self.luck ^= self.luck >> 7;
        self.luck ^= self.luck << 17;
        let interval = u64::from(self.tx_interval());
        let most = if self.settings.multiplier == 1 { 90 } else { 100 };
        let permille = 750 + self.luck % (most * 10 - 750 + 1);
        interval * permille / 1000
    }

    fn packet(&self) -> Packet {
        Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            poll: self.polling,
            final_: false,
            // BFD ends with the daemon that it runs in.
            control_plane_independent: false,
            demand: false,
            multiplier: self.settings.multiplier,
            my_discriminator: self.discriminator,
            your_discriminator: self.remote.discriminator,
            desired_min_tx_micros: self.tx_offered,
            required_min_rx_micros: self.rx_offered,
            required_min_echo_rx_micros: 0,
        }
    }
}

#[cfg(test)]
mod tests;
