//! The MTU rule: what fits into WireGuard and ipip on a measured path.
//!
//! WireGuard adds 32 octets of its own, UDP 8, IPv4 20 or IPv6 40: 60 or 80 in all. It pads the inner packet to 16
//! octets, but never above its own MTU, so a peer with a larger MTU pads what we could not receive. Therefore the
//! tunnel keeps `ceil16(tunnel + 20) + overhead <= path`.

use serde::{Deserialize, Serialize};

/// Octets of an IPv4 header without options, which is all that ipip adds (RFC 2003).
pub const IPIP_OVERHEAD: u16 = 20;
/// Octets of IPv4 and TCP headers without options: MTU minus this is the MSS (RFC 879).
pub const TCP_OVERHEAD: u16 = 40;
/// Smallest path MTU that is believed; a smaller measurement is taken as this (RFC 791: every host takes 576).
pub const MIN_PATH: u16 = 576;
/// Largest path MTU that is used; larger ones bring nothing and cost buffers.
pub const MAX_PATH: u16 = 9_000;

/// Octets that WireGuard, UDP and IP add to a padded packet: 60 over IPv4, 80 over IPv6.
pub const fn wireguard_overhead(ipv6: bool) -> u16 {
    if ipv6 { 80 } else { 60 }
}

/// The MTUs that follow from one measured path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mtus {
    /// Of the WireGuard interface: a multiple of 16, so that padding never exceeds the path.
    pub wireguard: u16,
    /// Of the ipip tunnel.
    pub tunnel: u16,
    /// TCP MSS inside the tunnel.
    pub mss: u16,
}

impl Mtus {
    /// The same where a hub may have to wrap a packet once more, to pass it on to another hub: with room for that
    /// header nothing is cut on the way, whichever way it takes.
    #[must_use]
    pub fn with_room_to_relay(self) -> Mtus {
        let tunnel = self.tunnel - IPIP_OVERHEAD;
        Mtus { tunnel, mss: mss(tunnel), ..self }
    }
}

/// The MTUs for a path that carries IP packets of at most `path_mtu` octets; `ipv6` says what carries WireGuard.
pub fn mtus(path_mtu: u16, ipv6: bool) -> Mtus {
    let room = path_mtu.clamp(MIN_PATH, MAX_PATH) - wireguard_overhead(ipv6);
    let wireguard = room & !15;
    let tunnel = wireguard - IPIP_OVERHEAD;
    Mtus { wireguard, tunnel, mss: mss(tunnel) }
}

/// Largest inner packet of the ipip tunnel on such a path, in octets.
pub fn tunnel_mtu(path_mtu: u16, ipv6: bool) -> u16 {
    mtus(path_mtu, ipv6).tunnel
}

/// TCP MSS for packets of at most `mtu` octets over IPv4.
pub const fn mss(mtu: u16) -> u16 {
    mtu.saturating_sub(TCP_OVERHEAD)
}

/// Octets of the outer packet that carries an inner packet of `inner` octets through ipip and WireGuard.
pub const fn outer_len(inner: u16, ipv6: bool) -> u16 {
    (inner + IPIP_OVERHEAD).next_multiple_of(16) + wireguard_overhead(ipv6)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For every path MTU the padded packet fits, and one octet more of tunnel would waste nothing or not fit.
    #[test]
    fn rule_holds_for_every_path() {
        for ipv6 in [false, true] {
            for path in MIN_PATH..=MAX_PATH {
                let mtus = super::mtus(path, ipv6);
                assert!(outer_len(mtus.tunnel, ipv6) <= path, "path {path}");
                assert!(outer_len(mtus.tunnel + 1, ipv6) > path, "path {path}: room for one more octet");
                assert_eq!(mtus.wireguard % 16, 0);
                assert_eq!(mtus.tunnel + IPIP_OVERHEAD, mtus.wireguard);
                assert_eq!(mtus.mss + TCP_OVERHEAD, mtus.tunnel);
            }
        }
    }

    /// The measured case: behind a path of 1280 a tunnel of 1196 works and 1197 stalls.
    #[test]
    fn measured_case() {
        assert_eq!(tunnel_mtu(1280, false), 1196);
        assert_eq!(tunnel_mtu(1500, false), 1420);
        assert_eq!(tunnel_mtu(1400, false), 1308);
        assert_eq!(tunnel_mtu(1300, false), 1212);
    }

    /// What a leaf of two hubs sends, wrapped once more, is no larger than what it may send through one hub.
    #[test]
    fn there_is_room_to_relay() {
        for path in [MIN_PATH, 1300, 1500, MAX_PATH] {
            let (plain, roomy) = (mtus(path, false), mtus(path, false).with_room_to_relay());
            assert_eq!(roomy.tunnel + 2 * IPIP_OVERHEAD, plain.wireguard);
            assert_eq!((roomy.wireguard, roomy.mss + TCP_OVERHEAD), (plain.wireguard, roomy.tunnel));
        }
    }

    /// Nonsense from a measurement cannot make a nonsensical tunnel.
    #[test]
    fn extremes_are_bounded() {
        assert_eq!(mtus(0, true).wireguard, 496);
        assert_eq!(mtus(u16::MAX, false).wireguard, 8928);
    }
}
