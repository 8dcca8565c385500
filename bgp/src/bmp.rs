//! The BGP Monitoring Protocol (RFC 7854), version 3: what stations are told of sessions and of the routes that
//! neighbours send, before policy.
//!
//! UPDATEs are passed on as they came, so watching costs a copy of the octets and nothing where nobody watches.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use crate::message::put_end_of_rib;
use crate::session::{End, Millis};
use crate::types::{Family, RouterId};

/// Octets gathered in one turn before they are handed on at once.
const CHUNK: usize = 256 << 10;

/// The message types that we send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    RouteMonitoring = 0,
    Statistics = 1,
    PeerDown = 2,
    PeerUp = 3,
    Initiation = 4,
    Termination = 5,
}

/// Why we end a session with a station (RFC 7854 section 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TerminationReason {
    /// The speaker is stopping.
    AdministrativelyClosed = 0,
    /// The station does not read fast enough.
    OutOfResources = 2,
}

fn begin(out: &mut Vec<u8>, kind: Kind) -> usize {
    let at = out.len();
    out.extend_from_slice(&[3, 0, 0, 0, 0, kind as u8]);
    at
}

fn finish(out: &mut [u8], at: usize) {
    let len = (out.len() - at) as u32;
    out[at + 1..at + 5].copy_from_slice(&len.to_be_bytes());
}

fn put_tlv(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&(value.len() as u16).to_be_bytes());
    out.extend_from_slice(value);
}

/// The first message to a station (section 4.3).
pub fn put_initiation(out: &mut Vec<u8>, name: &str, description: &str) {
    let at = begin(out, Kind::Initiation);
    put_tlv(out, 1, description.as_bytes());
    put_tlv(out, 2, name.as_bytes());
    finish(out, at);
}

/// The last message to a station (section 4.5).
pub fn put_termination(out: &mut Vec<u8>, reason: TerminationReason) {
    let at = begin(out, Kind::Termination);
    put_tlv(out, 1, &(reason as u16).to_be_bytes());
    finish(out, at);
}

/// Whom a message is about, and when it happened (section 4.2).
#[derive(Debug, Clone, Copy)]
pub struct PeerHeader {
    /// The neighbour's address.
    pub address: IpAddr,
    /// Its AS.
    pub asn: u32,
    /// Its BGP Identifier.
    pub router_id: RouterId,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
}

fn put_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(a) => {
            out.extend_from_slice(&[0; 12]);
            out.extend_from_slice(&a.octets());
        }
        IpAddr::V6(a) => out.extend_from_slice(&a.octets()),
    }
}

impl PeerHeader {
    fn put(&self, out: &mut Vec<u8>) {
        // Type 0: global instance. Flag V: an IPv6 address; L and A stay off: before policy, four-octet AS_PATH.
        out.extend_from_slice(&[0, if self.address.is_ipv6() { 0x80 } else { 0 }]);
        out.extend_from_slice(&[0; 8]);
        put_address(out, self.address);
        out.extend_from_slice(&self.asn.to_be_bytes());
        out.extend_from_slice(&self.router_id.bits().to_be_bytes());
        out.extend_from_slice(&((self.unix_ms / 1000) as u32).to_be_bytes());
        out.extend_from_slice(&((self.unix_ms % 1000 * 1000) as u32).to_be_bytes());
    }

    /// A session has come up (section 4.10): our end, the peer's port, and both OPENs as they were sent.
    pub fn put_up(&self, out: &mut Vec<u8>, local: SocketAddr, remote_port: u16, opens: [&[u8]; 2]) {
        let at = begin(out, Kind::PeerUp);
        self.put(out);
        put_address(out, local.ip().to_canonical());
        out.extend_from_slice(&local.port().to_be_bytes());
        out.extend_from_slice(&remote_port.to_be_bytes());
        opens.iter().for_each(|open| out.extend_from_slice(open));
        finish(out, at);
    }

    /// A session has ended (section 4.9).
    pub fn put_down(&self, out: &mut Vec<u8>, end: &End) {
        let at = begin(out, Kind::PeerDown);
        self.put(out);
        match end {
            End::Sent(n) => {
                out.push(1);
                n.encode(out);
            }
            End::Received(n) => {
                out.push(3);
                n.encode(out);
            }
            // The connection broke: the remote system closed without a NOTIFICATION.
            End::Lost(_) => out.push(4),
        }
        finish(out, at);
    }

    /// A whole UPDATE of the peer (section 4.6).
    pub fn put_update(&self, out: &mut Vec<u8>, message: &[u8]) {
        let at = begin(out, Kind::RouteMonitoring);
        self.put(out);
        out.extend_from_slice(message);
        finish(out, at);
    }

    /// End-of-RIB of a family: the peer's whole table has been sent (section 5).
    pub fn put_end_of_rib(&self, out: &mut Vec<u8>, family: Family) {
        let mut message = Vec::new();
        put_end_of_rib(family, &mut message);
        self.put_update(out, &message);
    }

    /// Counters (section 4.8).
    pub fn put_statistics(&self, out: &mut Vec<u8>, stats: &Statistics) {
        let at = begin(out, Kind::Statistics);
        self.put(out);
        out.extend_from_slice(&3u32.to_be_bytes());
        put_tlv(out, 0, &(stats.rejected as u32).to_be_bytes());
        put_tlv(out, 7, &stats.held.to_be_bytes());
        put_tlv(out, 11, &(stats.treated_as_withdraw as u32).to_be_bytes());
        finish(out, at);
    }
}

/// What a Statistics Report says of a neighbour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Type 0: announcements rejected by policy, a counter.
    pub rejected: u64,
    /// Type 7: routes in the Adj-RIB-In, a gauge.
    pub held: u64,
    /// Type 11: UPDATEs treated as withdraw, a counter.
    pub treated_as_withdraw: u64,
}

/// Takes chunks of whole BMP messages; `false`: it takes no more and is forgotten.
pub type Sink = Box<dyn FnMut(&Bytes) -> bool + Send>;

/// Where what happens is gathered for the stations.
pub struct Tap {
    sinks: Vec<(u64, Sink)>,
    gathered: Vec<u8>,
    /// Milliseconds since 1970 when the speaker's clock was 0.
    epoch_ms: u64,
}

impl std::fmt::Debug for Tap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tap").field("sinks", &self.sinks.len()).finish_non_exhaustive()
    }
}

impl Tap {
    /// Nobody listens yet.
    pub fn new(epoch_ms: u64) -> Tap {
        Tap { sinks: Vec::new(), gathered: Vec::new(), epoch_ms }
    }

    /// The time of a message, milliseconds since 1970.
    pub fn unix_ms(&self, now: Millis) -> u64 {
        self.epoch_ms + now
    }

    /// Adds a listener under a number that no other has; what was gathered before is not for it.
    pub fn add(&mut self, id: u64, sink: Sink) {
        self.hand_on();
        self.sinks.push((id, sink));
    }

    /// Gathers a message for all.
    pub fn gather(&mut self, put: impl FnOnce(&mut Vec<u8>)) {
        put(&mut self.gathered);
        if self.gathered.len() >= CHUNK {
            self.hand_on();
        }
    }

    /// Gives one listener something of its own, behind what was gathered; whether it is still there.
    pub fn give(&mut self, id: u64, octets: Vec<u8>) -> bool {
        self.hand_on();
        let chunk = Bytes::from(octets);
        self.sinks.retain_mut(|(n, sink)| *n != id || chunk.is_empty() || sink(&chunk));
        self.sinks.iter().any(|(n, _)| *n == id)
    }

    /// Hands on what was gathered; whether anybody still listens.
    pub fn hand_on(&mut self) -> bool {
        if !self.gathered.is_empty() {
            let chunk = Bytes::from(std::mem::take(&mut self.gathered));
            self.sinks.retain_mut(|(_, sink)| sink(&chunk));
        }
        !self.sinks.is_empty()
    }
}
