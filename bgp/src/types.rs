//! Identities and addresses that every other module speaks of.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An address family that this speaker carries; the sub-family is unicast in each (RFC 4760).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// AFI 1, SAFI 1.
    Ipv4,
    /// AFI 2, SAFI 1.
    Ipv6,
}

impl Family {
    /// Both families, in AFI order.
    pub const ALL: [Family; 2] = [Family::Ipv4, Family::Ipv6];

    /// The family of an AFI/SAFI pair from the wire, if it is one of ours.
    pub fn from_wire(afi: u16, safi: u8) -> Option<Family> {
        match (afi, safi) {
            (1, 1) => Some(Family::Ipv4),
            (2, 1) => Some(Family::Ipv6),
            _ => None,
        }
    }

    /// The AFI number.
    pub fn afi(self) -> u16 {
        match self {
            Family::Ipv4 => 1,
            Family::Ipv6 => 2,
        }
    }

    /// A dense index: 0 for IPv4, 1 for IPv6.
    pub fn index(self) -> usize {
        match self {
            Family::Ipv4 => 0,
            Family::Ipv6 => 1,
        }
    }

    /// `ipv4` or `ipv6`.
    pub fn as_str(self) -> &'static str {
        match self {
            Family::Ipv4 => "ipv4",
            Family::Ipv6 => "ipv6",
        }
    }
}

/// An IP prefix with its host bits zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Prefix {
    /// An IPv4 prefix.
    V4(Prefix4),
    /// An IPv6 prefix.
    V6(Prefix6),
}

/// An IPv4 prefix with its host bits zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix4 {
    addr: u32,
    len: u8,
}

/// An IPv6 prefix with its host bits zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix6 {
    addr: u128,
    len: u8,
}

impl Prefix4 {
    /// The prefix of `len` bits (0 to 32) that holds `addr`; `None` for a longer one.
    pub fn new(addr: Ipv4Addr, len: u8) -> Option<Prefix4> {
        Prefix4::from_bits(u32::from(addr), len)
    }

    /// As [`Prefix4::new`], from the address as a number.
    pub fn from_bits(addr: u32, len: u8) -> Option<Prefix4> {
        match len {
            0 => Some(Prefix4 { addr: 0, len }),
            1..=32 => Some(Prefix4 { addr: addr & (u32::MAX << (32 - len)), len }),
            _ => None,
        }
    }

    /// The first address.
    pub fn addr(self) -> Ipv4Addr {
        Ipv4Addr::from(self.addr)
    }

    /// The first address as a number.
    pub fn bits(self) -> u32 {
        self.addr
    }

    /// The length, 0 to 32 bits.
    pub fn prefix_len(self) -> u8 {
        self.len
    }
}

impl Prefix6 {
    /// The prefix of `len` bits (0 to 128) that holds `addr`; `None` for a longer one.
    pub fn new(addr: Ipv6Addr, len: u8) -> Option<Prefix6> {
        Prefix6::from_bits(u128::from(addr), len)
    }

    /// As [`Prefix6::new`], from the address as a number.
    pub fn from_bits(addr: u128, len: u8) -> Option<Prefix6> {
        match len {
            0 => Some(Prefix6 { addr: 0, len }),
            1..=128 => Some(Prefix6 { addr: addr & (u128::MAX << (128 - len)), len }),
            _ => None,
        }
    }

    /// The first address.
    pub fn addr(self) -> Ipv6Addr {
        Ipv6Addr::from(self.addr)
    }

    /// The first address as a number.
    pub fn bits(self) -> u128 {
        self.addr
    }

    /// The length, 0 to 128 bits.
    pub fn prefix_len(self) -> u8 {
        self.len
    }
}

impl Prefix {
    /// The prefix of `len` bits that holds `addr`; `None` if `len` is too long for the family.
    pub fn new(addr: IpAddr, len: u8) -> Option<Prefix> {
        match addr {
            IpAddr::V4(a) => Prefix4::new(a, len).map(Prefix::V4),
            IpAddr::V6(a) => Prefix6::new(a, len).map(Prefix::V6),
        }
    }

    /// The host route of one address: `/32` or `/128`.
    pub fn host(addr: IpAddr) -> Prefix {
        match addr {
            IpAddr::V4(a) => Prefix::V4(Prefix4 { addr: u32::from(a), len: 32 }),
            IpAddr::V6(a) => Prefix::V6(Prefix6 { addr: u128::from(a), len: 128 }),
        }
    }

    /// The first address.
    pub fn addr(self) -> IpAddr {
        match self {
            Prefix::V4(p) => IpAddr::V4(p.addr()),
            Prefix::V6(p) => IpAddr::V6(p.addr()),
        }
    }

    /// The length in bits.
    pub fn prefix_len(self) -> u8 {
        match self {
            Prefix::V4(p) => p.len,
            Prefix::V6(p) => p.len,
        }
    }

    /// The family.
    pub fn family(self) -> Family {
        match self {
            Prefix::V4(_) => Family::Ipv4,
            Prefix::V6(_) => Family::Ipv6,
        }
    }

    /// Whether it is a single address: `/32` or `/128`.
    pub fn is_host(self) -> bool {
        match self {
            Prefix::V4(p) => p.len == 32,
            Prefix::V6(p) => p.len == 128,
        }
    }

    /// Whether it covers everything: length 0.
    pub fn is_default(self) -> bool {
        self.prefix_len() == 0
    }

    /// Whether `addr` lies inside.
    pub fn contains(self, addr: IpAddr) -> bool {
        Prefix::new(addr, self.prefix_len()) == Some(self)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr(), self.prefix_len())
    }
}

/// Why a text is no prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no prefix: wanted ADDRESS/LENGTH with host bits zero, or an ADDRESS")]
pub struct PrefixParseError(String);

impl FromStr for Prefix {
    type Err = PrefixParseError;

    fn from_str(s: &str) -> Result<Prefix, PrefixParseError> {
        let bad = || PrefixParseError(s.to_string());
        let Some((addr, len)) = s.split_once('/') else {
            return Ok(Prefix::host(s.parse().map_err(|_| bad())?));
        };
        let addr: IpAddr = addr.parse().map_err(|_| bad())?;
        let prefix = Prefix::new(addr, len.parse().map_err(|_| bad())?).ok_or_else(bad)?;
        if prefix.addr() == addr { Ok(prefix) } else { Err(bad()) }
    }
}

impl From<ipnet::Ipv4Net> for Prefix {
    fn from(n: ipnet::Ipv4Net) -> Prefix {
        let addr = u32::from(n.network());
        Prefix::V4(Prefix4 { addr, len: n.prefix_len() })
    }
}

impl From<Ipv4Addr> for Prefix {
    fn from(a: Ipv4Addr) -> Prefix {
        Prefix::host(IpAddr::V4(a))
    }
}

impl From<Prefix> for ipnet::IpNet {
    fn from(p: Prefix) -> ipnet::IpNet {
        match p {
            Prefix::V4(p) => ipnet::Ipv4Net::new_assert(p.addr(), p.len).into(),
            Prefix::V6(p) => ipnet::Ipv6Net::new_assert(p.addr(), p.len).into(),
        }
    }
}

impl Serialize for Prefix {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Prefix, D::Error> {
        let s = String::deserialize(d)?;
        s.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! dotted_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Ipv4Addr);

        impl $name {
            /// The four octets as a number.
            pub fn bits(self) -> u32 {
                u32::from(self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<Ipv4Addr> for $name {
            fn from(a: Ipv4Addr) -> $name {
                $name(a)
            }
        }

        impl From<u32> for $name {
            fn from(bits: u32) -> $name {
                $name(Ipv4Addr::from(bits))
            }
        }
    };
}

dotted_id! {
    /// A BGP Identifier: four octets, not zero, unique inside an AS (RFC 6286).
    RouterId
}
dotted_id! {
    /// A route-reflection cluster (RFC 4456); two hubs of one fabric may share one or have their own.
    ClusterId
}

/// Who a neighbour is, over all its connections: a configured name, or for a dynamic peer its address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerKey {
    /// A `Neighbor` of the configuration, by its name.
    Named(String),
    /// A dynamic peer, by its source address.
    Dynamic(IpAddr),
}

impl fmt::Display for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerKey::Named(n) => n.fmt(f),
            PeerKey::Dynamic(a) => a.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_read_back_as_written_and_refuse_host_bits() {
        for s in ["10.1.2.3/32", "0.0.0.0/0", "10.0.0.0/8", "2001:db8::/32", "::1/128"] {
            assert_eq!(s.parse::<Prefix>().unwrap().to_string(), s);
        }
        assert_eq!("10.1.2.3".parse::<Prefix>().unwrap().to_string(), "10.1.2.3/32");
        for s in ["10.1.2.3/24", "10.1.2.3/33", "::1/129", "x/8", "", "10.0.0.0/-1"] {
            assert!(s.parse::<Prefix>().is_err(), "{s}");
        }
    }
}
