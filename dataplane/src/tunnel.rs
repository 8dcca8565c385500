//! ipip on the wire (RFC 2003): one IPv4 header in front of an IPv4 packet, protocol 4; and what becomes of each
//! packet that the in-process dataplane takes from WireGuard or from the TUN device.
//!
//! Absent on purpose: soft state of RFC 2003 section 5 (ICMP from inside the tunnel is not relayed to the sender;
//! route MTU and MSS clamp keep packets below the tunnel's MTU) and reassembly (outer packets are sent whole, and
//! what is too large for the underlay is fragmented outside WireGuard).

use std::collections::HashSet;
use std::net::Ipv4Addr;

use crate::mtu::IPIP_OVERHEAD;
use crate::reach::{Peer, Reach};
use crate::route::Lookup;
use crate::state::{Foyer, Line, Relay, State, Target};
use crate::view::DropReason;

/// Length of the header that ipip adds.
pub const HEADER_LEN: usize = IPIP_OVERHEAD as usize;
/// IP protocol number of ipip.
pub const IPPROTO_IPIP: u8 = 4;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
/// Time to live of outer packets.
const TTL: u8 = 64;

/// The fields of an IPv4 header that decide; made only from a packet whose lengths are consistent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Octets of the header, 20 to 60.
    pub header_len: usize,
    /// Octets of the whole packet by its header; the buffer may be longer (WireGuard pads).
    pub total_len: usize,
    /// Whether the packet is a fragment (first ones included).
    pub fragment: bool,
}

impl Header {
    /// Reads the header of `packet`; `None` if it is not a consistent IPv4 packet.
    #[inline]
    pub fn parse(packet: &[u8]) -> Option<Header> {
        let fixed: &[u8; 20] = packet.first_chunk()?;
        let header_len = usize::from(fixed[0] & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        if fixed[0] >> 4 != 4 || header_len < 20 || total_len < header_len || packet.len() < total_len {
            return None;
        }
        Some(Header {
            source: Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]),
            destination: Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]),
            protocol: fixed[9],
            header_len,
            total_len,
            fragment: u16::from_be_bytes([fixed[6], fixed[7]]) & 0x3fff != 0,
        })
    }
}

/// The outer header for `inner`, a packet of `inner.len()` octets that `Header::parse` accepted.
///
/// "Don't fragment" stays off: an outer packet is sized by the tunnel's MTU, and where a kernel on the way has a
/// smaller one, a fragment is better than a black hole. The type of service is the inner one (RFC 2003 section 3.1).
#[inline]
pub fn outer_header(local: Ipv4Addr, owner: Ipv4Addr, inner: &[u8], id: u16) -> Option<[u8; HEADER_LEN]> {
    let total = u16::try_from(inner.len() + HEADER_LEN).ok()?;
    let mut header = [0u8; HEADER_LEN];
    header[0] = 0x45;
    header[1] = *inner.get(1)?;
    header[2..4].copy_from_slice(&total.to_be_bytes());
    header[4..6].copy_from_slice(&id.to_be_bytes());
    header[8] = TTL;
    header[9] = IPPROTO_IPIP;
    header[12..16].copy_from_slice(&local.octets());
    header[16..20].copy_from_slice(&owner.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    Some(header)
}

fn checksum(header: &[u8; HEADER_LEN]) -> u16 {
    let words = header.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Lowers the time to live by one and mends the checksum (RFC 1624); `false` if it ran out.
#[inline]
pub fn decrement_ttl(packet: &mut [u8]) -> bool {
    let Some(header) = packet.first_chunk_mut::<20>() else { return false };
    if header[8] <= 1 {
        return false;
    }
    header[8] -= 1;
    // HC' = ~(~HC + ~m + m'); the word holds TTL and protocol, so m' = m - 0x0100 and HC grows by 0x0100.
    let sum = u32::from(u16::from_be_bytes([header[10], header[11]])) + 0x0100;
    let sum = (sum & 0xffff) + (sum >> 16);
    header[10..12].copy_from_slice(&(sum as u16).to_be_bytes());
    true
}

/// What the in-process path has to know, compiled from wished and seen state; looked at for every packet.
#[derive(Debug, Default)]
pub struct Table {
    /// Outer source of wrapped packets; `None` is no tunnel.
    local: Option<Ipv4Addr>,
    /// This node's addresses on the fabric.
    own: HashSet<u32>,
    routes: Lookup<Target>,
    /// Peer by AllowedIPs.
    peers: Lookup<Peer>,
    /// Whether there are two WireGuard interfaces at all.
    two_lines: bool,
    foyer: Option<Foyer>,
    relay: Option<Relay>,
}

/// What becomes of a packet from the TUN device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outgoing {
    /// Wrapped with this outer source and destination, then into this WireGuard.
    Wrap(Ipv4Addr, Ipv4Addr, Line),
    /// Into this WireGuard as it is.
    Plain(Line),
    /// Dropped.
    Drop(DropReason),
}

/// What becomes of a packet from WireGuard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incoming {
    /// To the TUN device from this offset on, `len` octets: 0 as it is, else the inner packet of ipip.
    Deliver {
        /// Octets to skip.
        offset: usize,
        /// Octets to write.
        len: usize,
    },
    /// Back into WireGuard for another peer, after `decrement_ttl`.
    Relay {
        /// Octets to skip: 0, or the header with which another hub had wrapped it.
        offset: usize,
        /// Octets of the packet.
        len: usize,
    },
    /// Back into WireGuard for another hub, after `decrement_ttl`, wrapped with this outer source and destination.
    PassOn {
        /// This hub's overlay address.
        local: Ipv4Addr,
        /// The other's.
        hub: Ipv4Addr,
        /// Octets of the packet.
        len: usize,
    },
    /// Dropped.
    Drop(DropReason),
}

impl Table {
    /// Compiles the table from what is now in force; `reach` is what the table before this one left.
    pub fn compile(state: &State, foyer: Option<Foyer>, reach: &mut Reach) -> Table {
        let wireguard = state.wireguard.as_ref();
        let routes = state.routes.iter().filter_map(|(net, route)| Some((*net, route.target?)));
        Table {
            local: state.tunnel.map(|t| t.local),
            own: wireguard.into_iter().flat_map(|w| &w.addresses).map(|a| a.addr().to_bits()).collect(),
            routes: routes.collect(),
            peers: reach.follow(state),
            two_lines: state.second.is_some(),
            foyer,
            relay: state.relay.clone().filter(|_| state.tunnel.is_none()),
        }
    }

    /// Through which WireGuard an overlay address is reached.
    #[inline]
    fn line(&self, overlay: Ipv4Addr) -> Line {
        match self.two_lines && self.routes.find(overlay) == Some(&Target::SecondWireguard) {
            true => Line::Second,
            false => Line::First,
        }
    }

    /// What becomes of `packet`, read from the TUN device.
    #[inline]
    pub fn outgoing(&self, packet: &[u8]) -> Outgoing {
        let Some(header) = Header::parse(packet) else { return Outgoing::Drop(DropReason::Malformed) };
        match (self.routes.find(header.destination), self.local) {
            (Some(Target::Owner(owner)), Some(local)) => Outgoing::Wrap(local, *owner, self.line(*owner)),
            (Some(Target::Owners(owners)), Some(local)) => {
                let owner = owners.of_flow(flow_hash(&header, packet));
                Outgoing::Wrap(local, owner, self.line(owner))
            }
            _ if self.peers.find(header.destination).is_some() => {
                Outgoing::Plain(self.line(header.destination))
            }
            _ => Outgoing::Drop(DropReason::NoPeer),
        }
    }

    /// What becomes of `packet`, decrypted by WireGuard, which has already tied its source to the peer.
    #[inline]
    pub fn incoming(&self, packet: &[u8]) -> Incoming {
        let Some(header) = Header::parse(packet) else { return Incoming::Drop(DropReason::Malformed) };
        if let Some(foyer) = &self.foyer
            && (foyer.prefix.contains(&header.source) || foyer.prefix.contains(&header.destination))
            && !foyer_may(foyer, &header, packet)
        {
            return Incoming::Drop(DropReason::Foyer);
        }
        if self.own.contains(&header.destination.to_bits()) {
            if header.protocol == IPPROTO_IPIP && self.local == Some(header.destination) {
                return self.unwrap(&header, packet);
            }
            if let Some(relay) = self
                .relay
                .as_ref()
                .filter(|relay| header.protocol == IPPROTO_IPIP && relay.hubs.contains(&header.source))
            {
                return self.taken_over(relay, &header, packet);
            }
            return Incoming::Deliver { offset: 0, len: header.total_len };
        }
        // Whoever wraps packets himself relays none: a leaf is no way from one hub to the other.
        match (self.peers.find(header.source), self.peers.find(header.destination)) {
            (Some(from), Some(to)) if from != to && self.local.is_none() => {
                let len = header.total_len;
                let beyond =
                    self.relay.as_ref().and_then(|r| Some((r.local, *r.beyond.get(&header.destination)?)));
                match beyond {
                    // Not even once back to the hub that it came from.
                    Some((local, hub)) if hub != header.source => Incoming::PassOn { local, hub, len },
                    _ => Incoming::Relay { offset: 0, len },
                }
            }
            _ => Incoming::Drop(DropReason::NoPeer),
        }
    }

    /// What another hub had wrapped for a peer of this one.
    fn taken_over(&self, relay: &Relay, outer: &Header, packet: &[u8]) -> Incoming {
        let inner = &packet[outer.header_len..outer.total_len];
        let Some(header) = Header::parse(inner).filter(|_| !outer.fragment) else {
            return Incoming::Drop(DropReason::Malformed);
        };
        let quarantined = |foyer: &Foyer| {
            foyer.prefix.contains(&header.source) || foyer.prefix.contains(&header.destination)
        };
        if !relay.admits(outer.source, header.source, header.destination)
            || self.foyer.as_ref().is_some_and(quarantined)
        {
            return Incoming::Drop(DropReason::Spoofed);
        }
        match self.peers.find(header.destination) {
            Some(_) => Incoming::Relay { offset: outer.header_len, len: header.total_len },
            None => Incoming::Drop(DropReason::NoPeer),
        }
    }

    fn unwrap(&self, outer: &Header, packet: &[u8]) -> Incoming {
        let inner = &packet[outer.header_len..outer.total_len];
        let Some(header) = Header::parse(inner).filter(|_| !outer.fragment) else {
            return Incoming::Drop(DropReason::Malformed);
        };
        match self.routes.find(header.source) {
            Some(target) if target.owners().contains(&outer.source) => {
                Incoming::Deliver { offset: outer.header_len, len: header.total_len }
            }
            _ => Incoming::Drop(DropReason::Spoofed),
        }
    }
}

/// A number that is the same for every packet of a flow: addresses and protocol, and the ports of TCP and UDP unless
/// the packet is a fragment, whose pieces must stay together. The inputs are under the eyes of the site's own clients
/// alone, so it need not be keyed.
#[inline]
fn flow_hash(header: &Header, packet: &[u8]) -> u32 {
    let ports = match header.protocol {
        IPPROTO_TCP | IPPROTO_UDP if !header.fragment => {
            packet.get(header.header_len..).and_then(|p| p.first_chunk::<4>())
        }
        _ => None,
    };
    let ports = ports.map_or(0, |p| u32::from_be_bytes(*p));
    let mut hash = u64::from(header.source.to_bits()) << 32 | u64::from(header.destination.to_bits());
    hash ^= (u64::from(ports) << 8 | u64::from(header.protocol)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // The finisher of SplitMix64.
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (hash >> 32) as u32
}

/// From the foyer only TCP to the enrollment API is let through, and only to the hub's own foyer address.
fn foyer_may(foyer: &Foyer, header: &Header, packet: &[u8]) -> bool {
    let port = packet.get(header.header_len + 2..header.header_len + 4);
    foyer.prefix.contains(&header.source)
        && header.destination == foyer.hub
        && header.protocol == IPPROTO_TCP
        && !header.fragment
        && port == Some(&foyer.api_port.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::route::Protection;
    use crate::state::{Carrier, Peers, PrivateKey, Tunnel, Wireguard, WireguardPeer, Wished};

    const OWN: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 2);
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 3);
    const THIRD: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 4);
    const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 82, 10, 20);
    const LOCAL_CLIENT: Ipv4Addr = Ipv4Addr::new(10, 81, 10, 20);

    fn packet(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let inner = [&[0, 0][..], payload].concat();
        let mut header = outer_header(source, destination, &inner, 1).unwrap();
        header[2..4].copy_from_slice(&((20 + payload.len()) as u16).to_be_bytes());
        header[9] = protocol;
        header[10..12].fill(0);
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        [&header[..], payload].concat()
    }

    fn peer(net: &str, n: u8) -> (crate::state::PublicKey, WireguardPeer) {
        let allowed_ips = [net.parse().unwrap()].into();
        (PrivateKey::from_bytes([n; 32]).public(), WireguardPeer { allowed_ips, ..Default::default() })
    }

    fn wished(peers: Peers) -> Wished {
        Wished {
            wireguard: Some(Wireguard {
                private_key: PrivateKey::from_bytes([1; 32]),
                listen_port: 0,
                addresses: [OWN.into()].into(),
                mtu: 1440,
                peers,
                former_keys: BTreeMap::new(),
            }),
            second: None,
            tunnel: Some(Tunnel { local: OWN, mtu: 1420 }),
            routes: [
                (CLIENT.into(), Target::Owner(OTHER)),
                ("10.255.0.0/20".parse().unwrap(), Target::Wireguard),
            ]
            .into(),
            ..Default::default()
        }
    }

    fn leaf() -> Table {
        let state = State::of(
            &wished(Peers::from_iter([peer("10.255.0.0/20", 7)])),
            Protection::default(),
            Carrier::InProcess,
        );
        Table::compile(&state, None, &mut Reach::default())
    }

    fn hub(foyer: bool) -> Table {
        let peers = [peer("10.255.0.3/32", 7), peer("10.255.0.4/32", 8), peer("10.255.15.2/32", 9)];
        let peers = peers.into_iter().collect();
        let state =
            State::of(&Wished { tunnel: None, ..wished(peers) }, Protection::default(), Carrier::InProcess);
        let quarantine = Foyer { prefix: "10.255.15.0/24".parse().unwrap(), hub: OWN, api_port: 8443 };
        Table::compile(&state, foyer.then_some(quarantine), &mut Reach::default())
    }

    /// Only the inner source that the outer source owns gets through; the owner is checked exactly.
    #[test]
    fn unwrap_checks_ownership() {
        let inner = packet(CLIENT, LOCAL_CLIENT, 17, b"hello");
        let deliver = |p: &[u8]| leaf().incoming(p);
        assert_eq!(deliver(&packet(OTHER, OWN, 4, &inner)), Incoming::Deliver { offset: 20, len: 25 });
        assert_eq!(deliver(&packet(THIRD, OWN, 4, &inner)), Incoming::Drop(DropReason::Spoofed));
        let own = packet(LOCAL_CLIENT, LOCAL_CLIENT, 17, b"hello");
        assert_eq!(deliver(&packet(OTHER, OWN, 4, &own)), Incoming::Drop(DropReason::Spoofed));
        let overlay = packet(OTHER, OWN, 17, b"hello");
        assert_eq!(deliver(&packet(OTHER, OWN, 4, &overlay)), Incoming::Drop(DropReason::Spoofed));
        assert_eq!(deliver(&packet(OTHER, OWN, 4, b"not IP")), Incoming::Drop(DropReason::Malformed));
        assert_eq!(deliver(&packet(OTHER, OWN, 6, b"BGP")), Incoming::Deliver { offset: 0, len: 23 });
    }

    /// A leaf wraps for the route's owner, passes overlay packets, and sends nothing elsewhere.
    #[test]
    fn outgoing_by_route() {
        let leaf = leaf();
        assert_eq!(
            leaf.outgoing(&packet(LOCAL_CLIENT, CLIENT, 1, b"")),
            Outgoing::Wrap(OWN, OTHER, Line::First)
        );
        assert_eq!(leaf.outgoing(&packet(OWN, THIRD, 6, b"")), Outgoing::Plain(Line::First));
        let unknown = packet(LOCAL_CLIENT, Ipv4Addr::new(8, 8, 8, 8), 1, b"");
        assert_eq!(leaf.outgoing(&unknown), Outgoing::Drop(DropReason::NoPeer));
        assert_eq!(leaf.outgoing(b"junk"), Outgoing::Drop(DropReason::Malformed));
    }

    /// With two hubs, packets take the line that the overlay's route names, each hub its own, and nothing passes from
    /// one hub to the other.
    #[test]
    fn two_lines() {
        let hubs = [Ipv4Addr::new(10, 255, 0, 8), Ipv4Addr::new(10, 255, 0, 9)];
        let leaf = |overlay: Target| {
            let mut wished = wished(Peers::from_iter([peer("10.255.0.0/20", 7)]));
            wished.second = wished.wireguard.clone();
            if let Some(second) = &mut wished.second {
                second.peers = Peers::from_iter([peer("10.255.0.0/20", 8)]);
            }
            wished.routes.insert("10.255.0.0/20".parse().unwrap(), overlay);
            wished.routes.insert(hubs[0].into(), Target::Wireguard);
            wished.routes.insert(hubs[1].into(), Target::SecondWireguard);
            Table::compile(
                &State::of(&wished, Protection::default(), Carrier::InProcess),
                None,
                &mut Reach::default(),
            )
        };
        for (overlay, line) in [(Target::Wireguard, Line::First), (Target::SecondWireguard, Line::Second)] {
            let leaf = leaf(overlay);
            let client = packet(LOCAL_CLIENT, CLIENT, 1, b"");
            assert_eq!(leaf.outgoing(&client), Outgoing::Wrap(OWN, OTHER, line));
            assert_eq!(leaf.outgoing(&packet(OWN, THIRD, 6, b"")), Outgoing::Plain(line));
            assert_eq!(leaf.outgoing(&packet(OWN, hubs[0], 6, b"")), Outgoing::Plain(Line::First));
            assert_eq!(leaf.outgoing(&packet(OWN, hubs[1], 6, b"")), Outgoing::Plain(Line::Second));
            let through = packet(hubs[1], THIRD, 4, b"x");
            assert_eq!(leaf.incoming(&through), Incoming::Drop(DropReason::NoPeer));
        }
    }

    /// Flows to a prefix of several owners are shared between them, each flow and each fragmented packet stays with one,
    /// and every owner, nobody else, may send from there.
    #[test]
    fn several_owners_share_the_flows() {
        let peers = Peers::from_iter([peer("10.255.0.0/20", 7)]);
        let mut wished = wished(peers);
        wished.routes.insert(CLIENT.into(), Target::owned_by(THIRD, [OTHER]));
        let state = State::of(&wished, Protection::default(), Carrier::InProcess);
        let leaf = Table::compile(&state, None, &mut Reach::default());
        let mut count = BTreeMap::new();
        for port in 0..1000u16 {
            let ports = [&port.to_be_bytes()[..], &[0, 53]].concat();
            let sent = packet(LOCAL_CLIENT, CLIENT, 17, &ports);
            let way = leaf.outgoing(&sent);
            assert_eq!(
                way,
                leaf.outgoing(&packet(LOCAL_CLIENT, CLIENT, 17, &[&ports[..], b"more"].concat()))
            );
            let Outgoing::Wrap(OWN, owner, _) = way else { panic!("{way:?}") };
            *count.entry(owner).or_insert(0) += 1;
            let mut fragment = sent.clone();
            fragment[6] = 0x20;
            let mut first = packet(LOCAL_CLIENT, CLIENT, 17, &[0, 1, 0, 53]);
            first[6] = 0x20;
            assert_eq!(leaf.outgoing(&fragment), leaf.outgoing(&first));
        }
        assert_eq!(count.len(), 2);
        assert!(count.values().all(|n| (400..600).contains(n)), "{count:?}");
        let inner = packet(CLIENT, LOCAL_CLIENT, 17, b"hello");
        for owner in [OTHER, THIRD] {
            let delivered = Incoming::Deliver { offset: 20, len: 25 };
            assert_eq!(leaf.incoming(&packet(owner, OWN, 4, &inner)), delivered);
        }
        let stranger = packet(Ipv4Addr::new(10, 255, 0, 9), OWN, 4, &inner);
        assert_eq!(leaf.incoming(&stranger), Incoming::Drop(DropReason::Spoofed));
    }

    /// The hub relays between peers, never back to the sender, never out of the overlay.
    #[test]
    fn hub_relays_between_peers() {
        let hub = hub(true);
        assert_eq!(hub.incoming(&packet(OTHER, THIRD, 4, b"x")), Incoming::Relay { offset: 0, len: 21 });
        assert_eq!(hub.incoming(&packet(OTHER, OTHER, 4, b"x")), Incoming::Drop(DropReason::NoPeer));
        let outside = packet(OTHER, Ipv4Addr::new(8, 8, 8, 8), 17, b"x");
        assert_eq!(hub.incoming(&outside), Incoming::Drop(DropReason::NoPeer));
        assert_eq!(leaf().incoming(&packet(OTHER, THIRD, 4, b"x")), Incoming::Drop(DropReason::NoPeer));
    }

    /// For a node beyond another hub a packet is wrapped once more; what another hub wrapped goes to a peer, and only
    /// to a peer: never on to a hub, not from the foyer, not as if a hub had sent it, and not from anybody but a hub.
    #[test]
    fn hubs_pass_on_once() {
        let [second, beyond] = [Ipv4Addr::new(10, 255, 0, 5), THIRD];
        let peers = [peer("10.255.0.3/32", 7), peer("10.255.0.4/32", 8), peer("10.255.0.5/32", 5)];
        let mut wished = wished(peers.into_iter().collect());
        wished.tunnel = None;
        wished.relay = Some(Relay {
            local: OWN,
            overlay: "10.255.0.0/20".parse().unwrap(),
            mtu: 1420,
            hubs: [second].into(),
            beyond: [(beyond, second)].into(),
        });
        let foyer = Foyer { prefix: "10.255.15.0/24".parse().unwrap(), hub: OWN, api_port: 8443 };
        let hub = Table::compile(
            &State::of(&wished, Protection::default(), Carrier::InProcess),
            Some(foyer),
            &mut Reach::default(),
        );
        let passed = Incoming::PassOn { local: OWN, hub: second, len: 21 };
        assert_eq!(hub.incoming(&packet(OTHER, beyond, 4, b"x")), passed);
        assert_eq!(hub.incoming(&packet(beyond, OTHER, 4, b"x")), Incoming::Relay { offset: 0, len: 21 });
        let from_hub = |inner: &[u8]| hub.incoming(&packet(second, OWN, 4, inner));
        let given = Incoming::Relay { offset: 20, len: 21 };
        assert_eq!(from_hub(&packet(Ipv4Addr::new(10, 255, 0, 77), OTHER, 4, b"x")), given);
        assert_eq!(from_hub(&packet(OTHER, beyond, 4, b"x")), given, "not back");
        let refused = Incoming::Drop(DropReason::Spoofed);
        for (source, destination) in [
            (OWN, OTHER),
            (second, OTHER),
            (OTHER, OWN),
            (OTHER, second),
            (Ipv4Addr::new(8, 8, 8, 8), OTHER),
            (OTHER, Ipv4Addr::new(8, 8, 8, 8)),
            (Ipv4Addr::new(10, 255, 15, 2), OTHER),
            (OTHER, Ipv4Addr::new(10, 255, 15, 2)),
        ] {
            assert_eq!(from_hub(&packet(source, destination, 6, b"x")), refused, "{source} {destination}");
        }
        assert_eq!(from_hub(b"x"), Incoming::Drop(DropReason::Malformed));
        let nobody = packet(OTHER, Ipv4Addr::new(10, 255, 0, 99), 4, b"x");
        assert_eq!(from_hub(&nobody), Incoming::Drop(DropReason::NoPeer));
        let leaf = hub.incoming(&packet(OTHER, OWN, 4, &packet(OTHER, THIRD, 4, b"x")));
        assert_eq!(leaf, Incoming::Deliver { offset: 0, len: 41 }, "a leaf has nothing unwrapped");
    }

    /// Who is in the foyer reaches TCP to the API and nothing else, and nobody else reaches the foyer.
    #[test]
    fn foyer_is_quarantined() {
        let foyer: Ipv4Addr = "10.255.15.2".parse().unwrap();
        let api = [0x30, 0x39, 0x20, 0xfb];
        let refused = Incoming::Drop(DropReason::Foyer);
        let hub = hub(true);
        assert_eq!(hub.incoming(&packet(foyer, OWN, 6, &api)), Incoming::Deliver { offset: 0, len: 24 });
        assert_eq!(hub.incoming(&packet(foyer, OWN, 6, &[0x30, 0x39, 0, 22])), refused);
        assert_eq!(hub.incoming(&packet(foyer, OWN, 17, &api)), refused);
        assert_eq!(hub.incoming(&packet(foyer, OWN, 1, &api)), refused);
        assert_eq!(hub.incoming(&packet(foyer, OTHER, 6, &api)), refused);
        assert_eq!(hub.incoming(&packet(OTHER, foyer, 6, &api)), refused);
        assert_eq!(hub.incoming(&packet(foyer, OWN, 6, &api[..3])), refused);
        let mut fragment = packet(foyer, OWN, 6, &api);
        fragment[6] = 0x20;
        assert_eq!(hub.incoming(&fragment), refused);
        assert_eq!(
            super::tests::hub(false).incoming(&packet(foyer, OTHER, 6, &api)),
            Incoming::Relay { offset: 0, len: 24 }
        );
    }

    proptest! {
        /// No input makes the packet path panic, and what it delivers lies inside the packet.
        #[test]
        fn any_packet_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..120), v4: bool) {
            let mut bytes = bytes;
            if v4 && !bytes.is_empty() {
                bytes[0] = 0x45;
            }
            leaf().outgoing(&bytes);
            for table in [leaf(), hub(true)] {
                if let Incoming::Deliver { offset, len } | Incoming::Relay { offset, len } = table.incoming(&bytes) {
                    prop_assert!(offset + len <= bytes.len());
                }
            }
            decrement_ttl(&mut bytes);
        }

        /// Wrapping yields a header with a right checksum, and lowering the TTL keeps it right.
        #[test]
        fn checksum_stays_right(id: u16, tos: u8, len in 20usize..1500, hops in 1u8..63) {
            let mut inner = vec![0u8; len];
            inner[1] = tos;
            let mut header = outer_header(OWN, OTHER, &inner, id).unwrap();
            prop_assert_eq!(checksum(&header), 0);
            for _ in 0..hops {
                prop_assert!(decrement_ttl(&mut header));
                prop_assert_eq!(checksum(&header), 0);
            }
            let parsed = Header::parse(&[&header[..], &inner].concat()).unwrap();
            prop_assert_eq!((parsed.source, parsed.destination, parsed.total_len), (OWN, OTHER, len + 20));
        }
    }
}
