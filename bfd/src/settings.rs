//! How quick a session is.

/// The port of single-hop control packets (RFC 5881 section 4).
pub const SINGLE_HOP_PORT: u16 = 3784;
/// The port of multihop control packets (RFC 5883 section 5).
pub const MULTIHOP_PORT: u16 = 4784;
/// The shortest interval that is offered, in milliseconds.
pub const SHORTEST_MILLIS: u32 = 50;
/// The longest interval that is offered, in milliseconds.
pub const LONGEST_MILLIS: u32 = 60_000;
/// The smallest detection multiplier that is offered: one lost packet is no failure.
pub const SMALLEST_MULTIPLIER: u8 = 2;

/// What a session offers its peer. Each side sends as often as both permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How often we want to send at most, in milliseconds, 50 to 60,000, default 300.
    pub min_tx_millis: u32,
    /// How often we can take a packet, in milliseconds, 50 to 60,000, default 300.
    pub min_rx_millis: u32,
    /// How many of our packets in a row the peer must miss, 2 to 255, default 3.
    pub multiplier: u8,
    /// Whether routers may lie between (RFC 5883): UDP port 4784 and any TTL.
    pub multihop: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { min_tx_millis: 300, min_rx_millis: 300, multiplier: 3, multihop: false }
    }
}

impl Settings {
    /// The same, inside the ranges.
    #[must_use]
    pub fn clamped(self) -> Settings {
        Settings {
            min_tx_millis: self.min_tx_millis.clamp(SHORTEST_MILLIS, LONGEST_MILLIS),
            min_rx_millis: self.min_rx_millis.clamp(SHORTEST_MILLIS, LONGEST_MILLIS),
            multiplier: self.multiplier.max(SMALLEST_MULTIPLIER),
            multihop: self.multihop,
        }
    }
}
