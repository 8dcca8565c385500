//! What the fuzzers run: each function takes any octets at all, and panics where something is wrong.
//!
//! `scripts/fuzz` drives them with libFuzzer; the test program `corpus` feeds them every kept input and random
//! ones in a plain `cargo test`.

#![allow(dead_code, reason = "each program uses its part")]

pub mod messages;
pub mod session;
pub mod speaker;

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

    /// The next `len` octets, or as many as there are.
    pub fn octets(&mut self, len: usize) -> &'a [u8] {
        let (these, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        these
    }
}
