//! The control packet (RFC 5880 section 4.1), without authentication.

use std::fmt;

/// Its length, in octets.
pub const LEN: usize = 24;

/// A session's state, as it stands in packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// The session is held down on purpose.
    AdminDown = 0,
    /// The peer is not heard, or does not hear us.
    Down = 1,
    /// The peer is heard.
    Init = 2,
    /// Both hear each other.
    Up = 3,
}

impl State {
    /// The state's name, as in RFC 5880.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::AdminDown => "AdminDown",
            State::Down => "Down",
            State::Init => "Init",
            State::Up => "Up",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a session left Up last (RFC 5880 section 4.1); any number may come from a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Diagnostic(pub u8);

impl Diagnostic {
    /// Nothing to tell.
    pub const NONE: Diagnostic = Diagnostic(0);
    /// No packet came within the detection time.
    pub const TIME_EXPIRED: Diagnostic = Diagnostic(1);
    /// The peer said Down.
    pub const NEIGHBOR_DOWN: Diagnostic = Diagnostic(3);
    /// It was told to be down.
    pub const ADMINISTRATIVELY_DOWN: Diagnostic = Diagnostic(7);

    /// In RFC 5880's words.
    pub const fn as_str(self) -> &'static str {
        match self.0 {
            0 => "No Diagnostic",
            1 => "Control Detection Time Expired",
            2 => "Echo Function Failed",
            3 => "Neighbor Signaled Session Down",
            4 => "Forwarding Plane Reset",
            5 => "Path Down",
            6 => "Concatenated Path Down",
            7 => "Administratively Down",
            8 => "Reverse Concatenated Path Down",
            _ => "Reserved",
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A control packet. Intervals are in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Why the sender's session left Up last.
    pub diagnostic: Diagnostic,
    /// The sender's state.
    pub state: State,
    /// P: an answer with F is wanted.
    pub poll: bool,
    /// F: this answers a P.
    pub final_: bool,
    /// C: the sender's BFD survives its control plane (RFC 5882 section 4.3).
    pub control_plane_independent: bool,
    /// D: the sender wants no periodic packets.
    pub demand: bool,
    /// How many of its packets may be missed, 1 to 255.
    pub multiplier: u8,
    /// The sender's discriminator, never 0.
    pub my_discriminator: u32,
    /// The receiver's, as the sender knows it; 0: not known.
    pub your_discriminator: u32,
    /// How often the sender wants to send at most.
    pub desired_min_tx_micros: u32,
    /// How often the sender can take a packet; 0: never.
    pub required_min_rx_micros: u32,
    /// How often the sender returns echoes; 0: it does not.
    pub required_min_echo_rx_micros: u32,
}

/// Why octets are no packet for us (RFC 5880 section 6.8.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Fewer octets than its length says, or than the smallest packet has.
    Length,
    /// Another version than 1.
    Version,
    /// A multiplier of 0.
    Multiplier,
    /// The M bit, which is reserved.
    Multipoint,
    /// The sender's discriminator is 0.
    Discriminator,
    /// The A bit: authentication is not in use here.
    Authentication,
}

impl Malformed {
    /// Kebab-case name, as counters show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Malformed::Length => "length",
            Malformed::Version => "version",
            Malformed::Multiplier => "multiplier-zero",
            Malformed::Multipoint => "multipoint",
            Malformed::Discriminator => "discriminator-zero",
            Malformed::Authentication => "authentication",
        }
    }
}

impl Packet {
    /// Reads a packet; octets behind its length are ignored.
    pub fn decode(octets: &[u8]) -> Result<Packet, Malformed> {
        let Some(p) = octets.first_chunk::<LEN>() else { return Err(Malformed::Length) };
        let word = |at: usize| u32::from_be_bytes([p[at], p[at + 1], p[at + 2], p[at + 3]]);
        let flag = |bit: u8| p[1] & bit != 0;
        if p[0] >> 5 != 1 {
            return Err(Malformed::Version);
        }
        if usize::from(p[3]) < LEN || usize::from(p[3]) > octets.len() {
            return Err(Malformed::Length);
        }
        if p[2] == 0 {
            return Err(Malformed::Multiplier);
        }
        if flag(0x01) {
            return Err(Malformed::Multipoint);
        }
        if word(4) == 0 {
            return Err(Malformed::Discriminator);
        }
        if flag(0x04) {
            return Err(Malformed::Authentication);
        }
        let state = match p[1] >> 6 {
            0 => State::AdminDown,
            1 => State::Down,
            2 => State::Init,
            _ => State::Up,
        };
        Ok(Packet {
            diagnostic: Diagnostic(p[0] & 0x1f),
            state,
            poll: flag(0x20),
            final_: flag(0x10),
            control_plane_independent: flag(0x08),
            demand: flag(0x02),
            multiplier: p[2],
            my_discriminator: word(4),
            your_discriminator: word(8),
            desired_min_tx_micros: word(12),
            required_min_rx_micros: word(16),
            required_min_echo_rx_micros: word(20),
        })
    }

    /// The packet's octets.
    pub fn encode(&self) -> [u8; LEN] {
        let mut out = [0; LEN];
        out[0] = 1 << 5 | self.diagnostic.0 & 0x1f;
        out[1] = (self.state as u8) << 6
            | u8::from(self.poll) << 5
            | u8::from(self.final_) << 4
            | u8::from(self.control_plane_independent) << 3
            | u8::from(self.demand) << 1;
        out[2] = self.multiplier;
        out[3] = LEN as u8;
        let words = [
            self.my_discriminator,
            self.your_discriminator,
            self.desired_min_tx_micros,
            self.required_min_rx_micros,
            self.required_min_echo_rx_micros,
        ];
        for (at, word) in words.into_iter().enumerate() {
            out[4 + 4 * at..8 + 4 * at].copy_from_slice(&word.to_be_bytes());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UP: [u8; LEN] =
        [0x23, 0xe8, 3, 24, 0, 0, 0, 7, 0, 0, 0, 9, 0, 0x04, 0x93, 0xe0, 0, 0, 0xc3, 0x50, 0, 0, 0, 0];

    /// Each field stands where RFC 5880 section 4.1 draws it.
    #[test]
    fn the_fields_are_where_the_rfc_draws_them() {
        let packet = Packet::decode(&UP).unwrap();
        assert_eq!(packet.diagnostic, Diagnostic::NEIGHBOR_DOWN);
        assert_eq!(packet.state, State::Up);
        assert!(packet.poll && packet.control_plane_independent && !packet.final_ && !packet.demand);
        assert_eq!((packet.multiplier, packet.my_discriminator, packet.your_discriminator), (3, 7, 9));
        assert_eq!((packet.desired_min_tx_micros, packet.required_min_rx_micros), (300_000, 50_000));
        assert_eq!(packet.encode(), UP);
    }

    /// RFC 5880 section 6.8.6: each rule refuses by its own name.
    #[test]
    fn what_breaks_a_rule_is_refused_by_name() {
        type Change = fn(&mut Vec<u8>);
        let cases: [(Malformed, Change); 9] = [
            (Malformed::Length, |p| p.truncate(23)),
            (Malformed::Length, |p| p[3] = 25),
            (Malformed::Length, |p| p[3] = 23),
            (Malformed::Version, |p| p[0] = 0x40),
            (Malformed::Version, |p| p[0] = 0),
            (Malformed::Multiplier, |p| p[2] = 0),
            (Malformed::Multipoint, |p| p[1] |= 1),
            (Malformed::Discriminator, |p| p[4..8].fill(0)),
            (Malformed::Authentication, |p| p[1] |= 4),
        ];
        for (why, change) in cases {
            let mut octets = UP.to_vec();
            change(&mut octets);
            assert_eq!(Packet::decode(&octets), Err(why));
        }
    }

    proptest! {
        /// Any octets are taken without panic, and what is accepted is written back as it was.
        #[test]
        fn any_octets_are_taken(octets in proptest::collection::vec(any::<u8>(), 0..64), valid: bool) {
            let mut octets = octets;
            if valid && octets.len() >= LEN {
                octets[0] = octets[0] & 0x1f | 0x20;
                octets[1] &= !0x05;
                octets[3] = LEN as u8;
            }
            if let Ok(packet) = Packet::decode(&octets) {
                let mut again = octets[..LEN].to_vec();
                again[3] = LEN as u8;
                prop_assert_eq!(&packet.encode()[..], &again[..]);
            }
        }
    }
}
