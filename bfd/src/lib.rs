//! BFD (RFC 5880): whether a peer still answers, known within a few hundred milliseconds.
//!
//! Asynchronous mode over one hop (RFC 5881, UDP port 3784, only packets with TTL 255) and over several (RFC 5883,
//! UDP port 4784). A tour, in reading order:
//!
//! 1. [`settings`]: how quick a session is; [`view`]: what is shown of one.
//! 2. [`packet`]: the 24 octets of a control packet.
//! 3. [`session`]: the machine of one session, with its timers (RFC 5880 section 6.8).
//! 4. [`sessions`]: all of them: who a packet is for, what is refused, what has changed.
//! 5. [`io`]: the same with sockets, the clock and a thread of its own, so that nothing else delays it.
//!
//! Absent: the echo function (our Required Min Echo RX Interval is 0, so no peer may use it), demand mode of our own
//! (a peer's is respected), and authentication: packets that carry it are refused and counted. What protects a
//! session is the TTL of a single hop and 32 random bits of discriminator.

pub mod io;
pub mod packet;
pub mod session;
pub mod sessions;
pub mod settings;
pub mod view;
