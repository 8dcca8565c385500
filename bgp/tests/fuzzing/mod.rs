//! What the fuzzers run: each function takes any octets at all, and panics where something is wrong.
//!
//! `scripts/fuzz` drives them with libFuzzer; the test program `corpus` feeds them every kept input and random
//! ones in a plain `cargo test`.

#![allow(dead_code, reason = "each program uses its part")]

pub mod messages;
pub mod session;
pub mod speaker;

use crate::wire::Offer;

/// A target: its name, which is its corpus's folder, what it runs, and inputs to start from.
pub type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// All targets.
pub const TARGETS: [Target; 3] = [
    ("messages", messages::run, messages::seeds),
    ("session", session::run, session::seeds),
    ("speaker", speaker::run, speaker::seeds),
];

/// Takes numbers off the input; zeros when it has ended.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// Whether there is no more.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next octet.
    pub fn octet(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// The next two octets as a number.
    pub fn short(&mut self) -> u16 {
        u16::from_be_bytes([self.octet(), self.octet()])
    }

    /// An OPEN's capabilities, out of four octets.
    pub fn offer(&mut self) -> Offer {
        let [which, paths, graceful, long] = [self.octet(), self.octet(), self.octet(), self.octet()];
        let bit = |octet: u8, n: u8| octet >> n & 1 == 1;
        let named = |octet: u8, n: u8| bit(octet, n).then_some(bit(octet, n + 1));
        let flags = u16::from(which & 0xc0) << 8;
        let stale = |n: u8| named(long, n).map(|f| (f, u32::from(long >> 4) * 4));
        Offer {
            families: [!bit(which, 0), !bit(which, 1)],
            hold_secs: if bit(which, 5) { 0 } else { 90 },
            refresh: !bit(which, 2),
            enhanced_refresh: !bit(which, 3),
            extended: !bit(which, 4),
            graceful_restart: bit(graceful, 0)
                .then(|| (flags | (u16::from(graceful >> 5) * 4), [named(graceful, 1), named(graceful, 3)])),
            long_lived: [stale(0), stale(2)],
            // 4 is none of the modes that there are.
            add_path: [paths % 5, (paths >> 4) % 5],
        }
    }

    /// The next `len` octets, or as many as there are.
    pub fn octets(&mut self, len: usize) -> &'a [u8] {
        let (these, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        these
    }
}
