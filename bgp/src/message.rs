//! Messages on the wire: framing, OPEN, NOTIFICATION, ROUTE-REFRESH and the three sections of an UPDATE.
//!
//! The codec crate `rustbgpd-wire` is used here (and in `notification`) and nowhere else. Framing, attributes and NLRI are read by hand,
//! because they are the hot path and need no allocation.

mod notification;

use std::net::Ipv4Addr;

use bytes::{Bytes, BytesMut};
use rustbgpd_wire::{
    AddPathFamily, AddPathMode, Afi, Capability, GracefulRestartFamily, LlgrFamily, OpenMessage, Safi,
};

use crate::types::{Family, RouterId};

pub use notification::{Notification, cease};

/// Octets of a message header (RFC 4271 section 4.1).
pub const HEADER_LEN: usize = 19;
/// The longest message without RFC 8654.
pub const MAX_LEN: usize = 4096;
/// The longest message with RFC 8654, which OPEN and KEEPALIVE never use.
pub const EXTENDED_MAX_LEN: usize = 65535;
/// A whole KEEPALIVE.
pub const KEEPALIVE: [u8; HEADER_LEN] =
    [255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 19, 4];

/// The type of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 1: opens a session.
    Open,
    /// 2: routes.
    Update,
    /// 3: an error that ends the session.
    Notification,
    /// 4: a sign of life.
    Keepalive,
    /// 5: asks for all routes again (RFC 2918).
    RouteRefresh,
}

/// Reads the header of the first message in `buf`: its type and whole length. `None`: not all of it is there.
/// A header that breaks the rules gives the NOTIFICATION to answer with.
pub fn frame(buf: &[u8], extended: bool) -> Result<Option<(Kind, usize)>, Notification> {
    let Some(header) = buf.first_chunk::<HEADER_LEN>() else {
        return if buf.iter().take(16).all(|b| *b == 255) {
            Ok(None)
        } else {
            Err(Notification::new(1, 1, Vec::new()))
        };
    };
    if header[..16] != [255; 16] {
        return Err(Notification::new(1, 1, Vec::new()));
    }
    let length = u16::from_be_bytes([header[16], header[17]]);
    let (kind, min, max) = match header[18] {
        1 => (Kind::Open, 29, MAX_LEN),
        2 => (Kind::Update, 23, if extended { EXTENDED_MAX_LEN } else { MAX_LEN }),
        3 => (Kind::Notification, 21, if extended { EXTENDED_MAX_LEN } else { MAX_LEN }),
        4 => (Kind::Keepalive, HEADER_LEN, HEADER_LEN),
        5 => (Kind::RouteRefresh, 23, if extended { EXTENDED_MAX_LEN } else { MAX_LEN }),
        other => return Err(Notification::new(1, 3, vec![other])),
    };
    let whole = usize::from(length);
    if whole < min || whole > max {
        return Err(Notification::new(1, 2, length.to_be_bytes().to_vec()));
    }
    Ok((buf.len() >= whole).then_some((kind, whole)))
}

/// Appends a message of type `kind` with `body`.
pub fn put(out: &mut Vec<u8>, kind: u8, body: &[u8]) {
    let at = begin(out, kind);
    out.extend_from_slice(body);
    finish(out, at);
}

/// Appends a header whose length [`finish`] fills in; returns where it starts.
pub fn begin(out: &mut Vec<u8>, kind: u8) -> usize {
    let at = out.len();
    out.extend_from_slice(&[255; 16]);
    out.extend_from_slice(&[0, 0, kind]);
    at
}

/// Fills in the length of the message that starts at `at` and ends here.
pub fn finish(out: &mut [u8], at: usize) {
    let len = (out.len() - at) as u16;
    out[at + 16..at + 18].copy_from_slice(&len.to_be_bytes());
}

/// The graceful restart capability as a peer sent it (RFC 4724, RFC 8538).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GracefulRestart {
    /// R: the sender has restarted.
    pub restarted: bool,
    /// N: NOTIFICATIONs do not end it.
    pub notification: bool,
    /// How long its routes shall be kept after it went away, in seconds, 0 to 4095.
    pub restart_secs: u16,
    /// The families that it covers, by [`Family::index`].
    pub families: [bool; 2],
    /// The families whose forwarding state survived, by [`Family::index`].
    pub forwarding: [bool; 2],
}

/// What one end says of long-lived graceful restart for one family (RFC 9494 section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LongLived {
    /// F: the sender's forwarding state survived its restart.
    pub forwarding: bool,
    /// How long its routes shall be kept after the restart time, in seconds, 0 (not at all) to 16777215.
    pub stale_secs: u32,
}

/// What one end offers of ADD-PATH for a family (RFC 7911 section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AddPath {
    /// It can receive several paths of a prefix.
    pub receive: bool,
    /// It wants to send them.
    pub send: bool,
}

/// An OPEN, ours or a peer's, reduced to what this speaker uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// The AS number, by RFC 6793.
    pub asn: u32,
    /// The hold time in seconds.
    pub hold_secs: u16,
    /// The BGP Identifier.
    pub router_id: RouterId,
    /// The families, by [`Family::index`]. A peer that names none has IPv4.
    pub families: [bool; 2],
    /// Four-octet AS numbers (RFC 6793).
    pub four_octet_as: bool,
    /// Route refresh (RFC 2918).
    pub refresh: bool,
    /// Enhanced route refresh (RFC 7313).
    pub enhanced_refresh: bool,
    /// Extended messages (RFC 8654).
    pub extended: bool,
    /// Graceful restart (RFC 4724).
    pub graceful_restart: Option<GracefulRestart>,
    /// Long-lived graceful restart (RFC 9494), by [`Family::index`].
    pub long_lived: Option<[LongLived; 2]>,
    /// ADD-PATH, by [`Family::index`].
    pub add_path: [AddPath; 2],
}

fn afi(family: Family) -> Afi {
    match family {
        Family::Ipv4 => Afi::Ipv4,
        Family::Ipv6 => Afi::Ipv6,
    }
}

impl Open {
    /// Appends the whole message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let with = |on: &[bool; 2]| {
            let on = *on;
            Family::ALL.into_iter().filter(move |f| on[f.index()])
        };
        let mut capabilities: Vec<Capability> = with(&self.families)
            .map(|f| Capability::MultiProtocol { afi: afi(f), safi: Safi::Unicast })
            .collect();
        capabilities.extend(self.refresh.then_some(Capability::RouteRefresh));
        capabilities.extend(self.enhanced_refresh.then_some(Capability::EnhancedRouteRefresh));
        capabilities.extend(self.extended.then_some(Capability::ExtendedMessage));
        capabilities.extend(self.graceful_restart.map(|gr| {
            Capability::GracefulRestart {
                restart_state: gr.restarted,
                notification: gr.notification,
                restart_time: gr.restart_secs,
                families: with(&gr.families)
                    .map(|f| GracefulRestartFamily {
                        afi: afi(f),
                        safi: Safi::Unicast,
                        forwarding_preserved: gr.forwarding[f.index()],
                    })
                    .collect(),
            }
        }));
        capabilities.extend(self.long_lived.map(|all| {
            let named = Family::ALL.into_iter().filter(|f| all[f.index()].stale_secs > 0);
            let family = |f: Family| LlgrFamily {
                afi: afi(f),
                safi: Safi::Unicast,
                forwarding_preserved: all[f.index()].forwarding,
                stale_time: all[f.index()].stale_secs,
            };
            Capability::LongLivedGracefulRestart(named.map(family).collect())
        }));
        let add_path: Vec<AddPathFamily> = Family::ALL
            .into_iter()
            .filter_map(|f| {
                let send_receive = match (self.add_path[f.index()].receive, self.add_path[f.index()].send) {
                    (false, false) => return None,
                    (true, false) => AddPathMode::Receive,
                    (false, true) => AddPathMode::Send,
                    (true, true) => AddPathMode::Both,
                };
                Some(AddPathFamily { afi: afi(f), safi: Safi::Unicast, send_receive })
            })
            .collect();
        capabilities.extend((!add_path.is_empty()).then_some(Capability::AddPath(add_path)));
        capabilities.extend(self.four_octet_as.then_some(Capability::FourOctetAs { asn: self.asn }));
        let open = OpenMessage {
            version: 4,
            my_as: u16::try_from(self.asn).unwrap_or(23456),
            hold_time: self.hold_secs,
            bgp_identifier: self.router_id.0,
            capabilities,
        };
        let mut buf = BytesMut::new();
        // At most some 80 octets of capabilities: far below what could not be encoded.
        if open.encode(&mut buf).is_ok() {
            out.extend_from_slice(&buf);
        }
    }

    /// Reads an OPEN's body; an unreadable one gives the NOTIFICATION to answer with.
    pub fn decode(body: &[u8]) -> Result<Open, Notification> {
        let mut buf = Bytes::copy_from_slice(body);
        let open = OpenMessage::decode(&mut buf, body.len()).map_err(|e| {
            let (code, subcode, data) = e.to_notification();
            Notification::new(code.as_u8(), subcode, data.to_vec())
        })?;
        let mut peer = Open {
            asn: u32::from(open.my_as),
            hold_secs: open.hold_time,
            router_id: RouterId(open.bgp_identifier),
            families: [false; 2],
            four_octet_as: false,
            refresh: false,
            enhanced_refresh: false,
            extended: false,
            graceful_restart: None,
            long_lived: None,
            add_path: [AddPath::default(); 2],
        };
        let mut multiprotocol = false;
        for capability in &open.capabilities {
            match capability {
                Capability::MultiProtocol { afi, safi } => {
                    multiprotocol = true;
                    if let Some(f) = Family::from_wire(*afi as u16, *safi as u8) {
                        peer.families[f.index()] = true;
                    }
                }
                Capability::RouteRefresh => peer.refresh = true,
                Capability::EnhancedRouteRefresh => peer.enhanced_refresh = true,
                Capability::ExtendedMessage => peer.extended = true,
                Capability::FourOctetAs { asn } => {
                    peer.four_octet_as = true;
                    peer.asn = *asn;
                }
                Capability::GracefulRestart { restart_state, notification, restart_time, families } => {
                    let mut gr = GracefulRestart {
                        restarted: *restart_state,
                        notification: *notification,
                        restart_secs: *restart_time,
                        ..GracefulRestart::default()
                    };
                    for f in families {
                        if let Some(family) = Family::from_wire(f.afi as u16, f.safi as u8) {
                            gr.families[family.index()] = true;
                            gr.forwarding[family.index()] = f.forwarding_preserved;
                        }
                    }
                    peer.graceful_restart = Some(gr);
                }
                Capability::LongLivedGracefulRestart(families) => {
                    let all = peer.long_lived.get_or_insert_default();
                    for f in families {
                        if let Some(family) = Family::from_wire(f.afi as u16, f.safi as u8) {
                            let (forwarding, stale_secs) = (f.forwarding_preserved, f.stale_time);
                            all[family.index()] = LongLived { forwarding, stale_secs };
                        }
                    }
                }
                Capability::AddPath(families) => {
                    for f in families {
                        if let Some(family) = Family::from_wire(f.afi as u16, f.safi as u8) {
                            let receive = f.send_receive != AddPathMode::Send;
                            let send = f.send_receive != AddPathMode::Receive;
                            peer.add_path[family.index()] = AddPath { receive, send };
                        }
                    }
                }
                // What we do not know, a peer may still offer (RFC 5492 section 3).
                _ => {}
            }
        }
        if !multiprotocol {
            peer.families[Family::Ipv4.index()] = true;
        }
        Ok(peer)
    }
}

/// What a ROUTE-REFRESH asks or marks (RFC 2918, RFC 7313).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refresh {
    /// Send everything again.
    Request,
    /// Everything follows (BoRR).
    Begin,
    /// Everything has been sent (EoRR).
    End,
}

impl Refresh {
    /// Appends the whole message.
    pub fn encode(self, family: Family, out: &mut Vec<u8>) {
        let subtype = match self {
            Refresh::Request => 0,
            Refresh::Begin => 1,
            Refresh::End => 2,
        };
        put(out, 5, &[0, family.afi() as u8, subtype, 1]);
    }

    /// Reads a ROUTE-REFRESH's body. `None`: a family or subtype that is not ours, which is ignored.
    pub fn decode(body: &[u8]) -> Result<Option<(Refresh, Family)>, Notification> {
        let &[a, b, subtype, safi, ..] = body else { return Err(Notification::new(7, 1, body.to_vec())) };
        let refresh = match (subtype, body.len()) {
            (0, _) => Refresh::Request,
            (1, 4) => Refresh::Begin,
            (2, 4) => Refresh::End,
            (1 | 2, _) => return Err(Notification::new(7, 1, body.to_vec())),
            _ => return Ok(None),
        };
        Ok(Family::from_wire(u16::from_be_bytes([a, b]), safi).map(|f| (refresh, f)))
    }
}

/// The three sections of an UPDATE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Update<'a> {
    /// Withdrawn IPv4 routes.
    pub withdrawn: &'a [u8],
    /// Path attributes.
    pub attributes: &'a [u8],
    /// Announced IPv4 routes.
    pub nlri: &'a [u8],
}

impl<'a> Update<'a> {
    /// Splits an UPDATE's body; lengths that do not add up end the session (RFC 7606 section 4).
    pub fn split(body: &'a [u8]) -> Result<Update<'a>, Notification> {
        let bad = || Notification::new(3, 1, Vec::new());
        let (len, rest) = body.split_first_chunk::<2>().ok_or_else(bad)?;
        let (withdrawn, rest) =
            rest.split_at_checked(usize::from(u16::from_be_bytes(*len))).ok_or_else(bad)?;
        let (len, rest) = rest.split_first_chunk::<2>().ok_or_else(bad)?;
        let (attributes, nlri) =
            rest.split_at_checked(usize::from(u16::from_be_bytes(*len))).ok_or_else(bad)?;
        Ok(Update { withdrawn, attributes, nlri })
    }
}

/// An address as the tables and NLRI hold it: 32 or 128 bits, network order from the top.
pub trait Address: Copy + Eq + std::hash::Hash + std::fmt::Debug + 'static {
    /// The family.
    const FAMILY: Family;
    /// The number of bits.
    const BITS: u8;
    /// The address whose first octets are `octets` (at most as many as it has) and whose bits after `len` are 0.
    fn from_octets(octets: &[u8], len: u8) -> Self;
    /// Appends the first `len` bits, in whole octets.
    fn put_octets(self, len: u8, out: &mut Vec<u8>);
    /// The prefix.
    fn prefix(self, len: u8) -> crate::types::Prefix;
    /// A prefix's address and length; `None` for one of another family.
    fn of_prefix(prefix: crate::types::Prefix) -> Option<(Self, u8)>;
    /// The last `bits` bits of a prefix of length `len`, and what is above them.
    fn neighborhood(self, len: u8, bits: u32) -> (Self, u64);
}

impl Address for u32 {
    const FAMILY: Family = Family::Ipv4;
    const BITS: u8 = 32;

    #[inline]
    fn from_octets(octets: &[u8], len: u8) -> u32 {
        if let Ok(all) = <[u8; 4]>::try_from(octets)
            && len == 32
        {
            return u32::from_be_bytes(all);
        }
        let mut all = [0; 4];
        all[..octets.len()].copy_from_slice(octets);
        u32::from_be_bytes(all) & u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)
    }

    #[inline]
    fn put_octets(self, len: u8, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_be_bytes()[..usize::from(len.div_ceil(8))]);
    }

    fn prefix(self, len: u8) -> crate::types::Prefix {
        let p = crate::types::Prefix::new(Ipv4Addr::from(self).into(), len.min(32));
        p.unwrap_or(crate::types::Prefix::host(Ipv4Addr::from(self).into()))
    }

    fn of_prefix(prefix: crate::types::Prefix) -> Option<(u32, u8)> {
        match prefix {
            crate::types::Prefix::V4(p) => Some((p.bits(), p.prefix_len())),
            crate::types::Prefix::V6(_) => None,
        }
    }

    #[inline]
    fn neighborhood(self, len: u8, bits: u32) -> (u32, u64) {
        let number = self.checked_shr(Self::BITS.saturating_sub(len.into())).unwrap_or(0);
        (number >> bits, (number & ((1 << bits) - 1)).into())
    }
}

impl Address for u128 {
    const FAMILY: Family = Family::Ipv6;
    const BITS: u8 = 128;

    fn from_octets(octets: &[u8], len: u8) -> u128 {
        let mut all = [0; 16];
        all[..octets.len()].copy_from_slice(octets);
        u128::from_be_bytes(all) & u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
    }

    fn put_octets(self, len: u8, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_be_bytes()[..usize::from(len.div_ceil(8))]);
    }

    fn prefix(self, len: u8) -> crate::types::Prefix {
        let addr = std::net::Ipv6Addr::from(self);
        crate::types::Prefix::new(addr.into(), len.min(128))
            .unwrap_or(crate::types::Prefix::host(addr.into()))
    }

    fn of_prefix(prefix: crate::types::Prefix) -> Option<(u128, u8)> {
        match prefix {
            crate::types::Prefix::V4(_) => None,
            crate::types::Prefix::V6(p) => Some((p.bits(), p.prefix_len())),
        }
    }

    #[inline]
    fn neighborhood(self, len: u8, bits: u32) -> (u128, u64) {
        let number = self.checked_shr(Self::BITS.saturating_sub(len.into())).unwrap_or(0);
        (number >> bits, (number & ((1 << bits) - 1)) as u64)
    }
}

/// Takes the next prefix off an NLRI field; a length or an end that cannot be gives 3/10 (RFC 4271 section 6.3).
#[inline]
pub fn next_prefix<A: Address>(field: &mut &[u8]) -> Result<Option<(A, u8)>, Notification> {
    let Some((&len, rest)) = field.split_first() else { return Ok(None) };
    let bad = || Notification::new(3, 10, Vec::new());
    if len > A::BITS {
        return Err(bad());
    }
    let (octets, rest) = rest.split_at_checked(usize::from(len.div_ceil(8))).ok_or_else(bad)?;
    *field = rest;
    Ok(Some((A::from_octets(octets, len), len)))
}

/// Reads the first route of an NLRI field whose routes carry path identifiers (RFC 7911 section 3).
#[inline]
pub fn next_path<A: Address>(field: &mut &[u8]) -> Result<Option<(A, u8, u32)>, Notification> {
    if field.is_empty() {
        return Ok(None);
    }
    let (id, rest) = field.split_first_chunk::<4>().ok_or_else(|| Notification::new(3, 10, Vec::new()))?;
    let mut rest = rest;
    let prefix = next_prefix::<A>(&mut rest)?.ok_or_else(|| Notification::new(3, 10, Vec::new()))?;
    *field = rest;
    Ok(Some((prefix.0, prefix.1, u32::from_be_bytes(*id))))
}

/// Reads the first route of an NLRI field, whose routes carry path identifiers if `ids` says so; else the
/// identifier is 0.
#[inline]
pub fn next_route<A: Address>(field: &mut &[u8], ids: bool) -> Result<Option<(A, u8, u32)>, Notification> {
    if ids { next_path(field) } else { Ok(next_prefix(field)?.map(|(addr, len)| (addr, len, 0))) }
}

/// Appends one prefix as NLRI.
#[inline]
pub fn put_prefix<A: Address>(addr: A, len: u8, out: &mut Vec<u8>) {
    out.push(len);
    addr.put_octets(len, out);
}

/// Appends the End-of-RIB marker of a family (RFC 4724 section 2).
pub fn put_end_of_rib(family: Family, out: &mut Vec<u8>) {
    match family {
        Family::Ipv4 => put(out, 2, &[0, 0, 0, 0]),
        Family::Ipv6 => put(out, 2, &[0, 0, 0, 6, 0x80, 15, 3, 0, 2, 1]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn an_open() -> Open {
        Open {
            asn: 4_200_000_001,
            hold_secs: 90,
            router_id: RouterId(Ipv4Addr::new(10, 0, 0, 1)),
            families: [true, true],
            four_octet_as: true,
            refresh: true,
            enhanced_refresh: true,
            extended: true,
            graceful_restart: Some(GracefulRestart {
                restarted: true,
                notification: true,
                restart_secs: 120,
                families: [true, true],
                forwarding: [true, false],
            }),
            long_lived: None,
            add_path: [AddPath { receive: true, send: false }, AddPath { receive: true, send: true }],
        }
    }

    #[test]
    fn an_open_reads_back_as_sent() {
        let mut out = Vec::new();
        an_open().encode(&mut out);
        assert_eq!(frame(&out, false), Ok(Some((Kind::Open, out.len()))));
        assert_eq!(Open::decode(&out[HEADER_LEN..]), Ok(an_open()));
    }

    #[test]
    fn bad_headers_get_their_codes() {
        let mut m = KEEPALIVE;
        m[3] = 0;
        assert_eq!(frame(&m, false).unwrap_err(), Notification::new(1, 1, vec![]));
        assert_eq!(frame(&m[..5], false).unwrap_err().subcode, 1, "junk is refused before a whole header");
        let mut m = KEEPALIVE;
        m[17] = 20;
        assert_eq!(frame(&m, false).unwrap_err(), Notification::new(1, 2, vec![0, 20]));
        let mut m = KEEPALIVE;
        m[18] = 9;
        assert_eq!(frame(&m, false).unwrap_err(), Notification::new(1, 3, vec![9]));
        let mut m = KEEPALIVE;
        (m[16], m[17], m[18]) = (0x10, 0x01, 2);
        assert_eq!(frame(&m, false).unwrap_err().subcode, 2, "4097 octets need RFC 8654");
        assert_eq!(frame(&m, true), Ok(None));
    }

    proptest! {
        #[test]
        fn any_octets_are_read_without_panic(buf in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = frame(&buf, true);
            let _ = Open::decode(&buf);
            let _ = Notification::decode(&buf).to_string();
            let _ = Refresh::decode(&buf);
            if let Ok(u) = Update::split(&buf) {
                let mut nlri = u.nlri;
                while let Ok(Some(_)) = next_prefix::<u32>(&mut nlri) {}
                let mut nlri = u.withdrawn;
                while let Ok(Some(_)) = next_prefix::<u128>(&mut nlri) {}
            }
        }

        #[test]
        fn prefixes_round_trip(addr: u128, len in 0..=128u8) {
            let six = u128::from_octets(&addr.to_be_bytes(), len);
            let mut out = Vec::new();
            put_prefix(six, len, &mut out);
            prop_assert_eq!(next_prefix::<u128>(&mut out.as_slice()), Ok(Some((six, len))));
            let len = len / 4;
            let four = u32::from_octets(&(addr as u32).to_be_bytes(), len);
            let mut out = Vec::new();
            put_prefix(four, len, &mut out);
            prop_assert_eq!(next_prefix::<u32>(&mut out.as_slice()), Ok(Some((four, len))));
        }
    }
}
