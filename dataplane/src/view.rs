//! What the dataplane reports: plain data for status pages, `routerctl` and evidence. No secret is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

use imbl::OrdMap;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize, Serializer};

use crate::preflight::Finding;
use crate::route::ProtectedPrefix;
use crate::state::{AllowedIps, Line, PublicKey};

pub use crate::state::Carrier;

/// The dataplane as last seen by the reconciler.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    /// `kernel` or `in-process`.
    pub dataplane: Carrier,
    /// Why it is that one.
    pub why: String,
    /// Generation of the wish that was last applied; 0 before the first.
    pub generation: u64,
    /// Whether what is seen is what that generation wishes.
    pub converged: bool,
    /// What the last attempt failed with, if it failed.
    pub last_error: Option<String>,
    /// Milliseconds that the last apply took, observation included.
    pub apply_ms: u64,
    /// Repairs since start: times that something of ours had to be put right without a new wish.
    pub repairs: u64,
    /// Our own interfaces.
    pub interfaces: Vec<InterfaceView>,
    /// WireGuard peers.
    pub peers: PeerViews,
    /// Number of routes of ours in the kernel.
    pub routes_installed: usize,
    /// Routes of ours in the kernel.
    pub routes: Vec<RouteView>,
    /// Wished routes that are not installed, with the reason.
    pub routes_rejected: Vec<RejectedRouteView>,
    /// Captures that are in force.
    pub captures: Vec<CaptureView>,
    /// MSS in octets that forwarded SYNs are lowered to.
    pub clamp: Option<u16>,
    /// Packets dropped by us since the table or the process began, by reason.
    pub drops: BTreeMap<DropReason, u64>,
    /// Overlay packets relayed from peer to peer in this process; the kernel dataplane does not count them.
    pub relayed: u64,
    /// Those of them that were wrapped once more, toward another hub; the kernel dataplane does not count them.
    pub passed_on: u64,
    /// Nodes that this hub does not reach itself, each with the hub that carries its packets.
    pub beyond: BTreeMap<Ipv4Addr, Ipv4Addr>,
    /// Host facts that stand in the way.
    pub findings: Vec<Finding>,
    /// Path MTU in octets toward each peer that has a fixed endpoint, measured at start and every minute.
    pub path_mtu: BTreeMap<SocketAddr, u16>,
}

impl Report {
    /// The public keys of peers that have completed a handshake at some time.
    pub fn connected(&self) -> BTreeSet<PublicKey> {
        self.peers.iter().filter(|p| p.last_handshake_secs_ago.is_some()).map(|p| p.public_key).collect()
    }
}

/// WireGuard peers, those of the first line first, then by key; a list where it is written. A copy shares what it has in
/// common with its original: a hub reports thousands whenever one of them changes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(from = "Vec<WireguardPeerView>")]
pub struct PeerViews(OrdMap<(Line, PublicKey), WireguardPeerView>);

impl PeerViews {
    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = &WireguardPeerView> {
        self.0.values()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The peer with this key.
    pub fn get(&self, key: &PublicKey) -> Option<&WireguardPeerView> {
        Line::BOTH.into_iter().find_map(|line| self.0.get(&(line, *key)))
    }

    /// Adds a peer, or replaces it.
    pub fn set(&mut self, peer: WireguardPeerView) {
        self.0.insert((peer.line, peer.public_key), peer);
    }

    /// Takes a peer out.
    pub fn remove(&mut self, line: Line, key: PublicKey) {
        self.0.remove(&(line, key));
    }
}

impl FromIterator<WireguardPeerView> for PeerViews {
    fn from_iter<I: IntoIterator<Item = WireguardPeerView>>(peers: I) -> Self {
        Self(peers.into_iter().map(|peer| ((peer.line, peer.public_key), peer)).collect())
    }
}

impl From<Vec<WireguardPeerView>> for PeerViews {
    fn from(peers: Vec<WireguardPeerView>) -> Self {
        peers.into_iter().collect()
    }
}

impl Serialize for PeerViews {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

/// Why the dataplane itself dropped a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DropReason {
    /// An inner source that the outer source does not own.
    Spoofed,
    /// From or to the foyer, and not TCP to the enrollment API.
    Foyer,
    /// No peer carries this destination.
    NoPeer,
    /// Not a well-formed IPv4 packet.
    Malformed,
    /// Time to live ran out while relaying.
    TtlExceeded,
    /// A queue inside the process was full.
    QueueFull,
}

impl DropReason {
    /// Every reason, in the order of their counters.
    pub const ALL: [DropReason; 6] = [
        DropReason::Spoofed,
        DropReason::Foyer,
        DropReason::NoPeer,
        DropReason::Malformed,
        DropReason::TtlExceeded,
        DropReason::QueueFull,
    ];

    /// Kebab-case name, as in reports and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            DropReason::Spoofed => "spoofed",
            DropReason::Foyer => "foyer",
            DropReason::NoPeer => "no-peer",
            DropReason::Malformed => "malformed",
            DropReason::TtlExceeded => "ttl-exceeded",
            DropReason::QueueFull => "queue-full",
        }
    }
}

/// One interface of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceView {
    /// Name.
    pub name: String,
    /// `wireguard`, `ipip` or `tun`.
    pub kind: String,
    /// MTU in octets.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// IPv4 addresses.
    pub addresses: Vec<Ipv4Net>,
    /// UDP port of WireGuard.
    pub listen_port: Option<u16>,
    /// WireGuard public key.
    pub public_key: Option<PublicKey>,
}

/// One WireGuard peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireguardPeerView {
    /// The interface that it is a peer of; left out where it is the first one.
    #[serde(default, skip_serializing_if = "is_first")]
    pub line: Line,
    /// The peer's key.
    pub public_key: PublicKey,
    /// Where it is, as configured or as learned.
    pub endpoint: Option<SocketAddr>,
    /// Seconds since the last completed handshake.
    pub last_handshake_secs_ago: Option<u64>,
    /// Octets received from it.
    pub rx_bytes: u64,
    /// Octets sent to it.
    pub tx_bytes: u64,
    /// Its overlay prefixes.
    pub allowed_ips: AllowedIps,
    /// Persistent keepalive in seconds, 0 for off.
    pub keepalive_secs: u16,
}

fn is_first(line: &Line) -> bool {
    *line == Line::First
}

/// One route of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteView {
    /// Destination.
    pub prefix: Ipv4Net,
    /// Overlay address of the owner that ipip leads to; `None` is straight into WireGuard.
    pub owner: Option<Ipv4Addr>,
    /// Further owners that have their share of the flows (multipath).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owners_also: Vec<Ipv4Addr>,
    /// Interface.
    pub device: String,
    /// Route MTU in octets, 0 for none.
    pub mtu: u16,
    /// Advertised MSS in octets, 0 for none.
    pub advmss: u16,
}

/// One route of the kernel's main table, whoever made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelRouteView {
    /// Destination.
    pub prefix: Ipv4Net,
    /// Interface.
    pub device: Option<String>,
    /// Next router.
    pub gateway: Option<Ipv4Addr>,
    /// Outer destination, if the kernel wraps packets in ipip.
    pub tunnel_to: Option<Ipv4Addr>,
    /// Further outer destinations of a multipath route.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tunnel_also: Vec<Ipv4Addr>,
    /// Preferred source address.
    pub source: Option<Ipv4Addr>,
    /// Route MTU in octets, 0 for none.
    pub mtu: u32,
    /// Advertised MSS in octets, 0 for none.
    pub advmss: u32,
    /// Metric; the lowest is preferred among routes to the same destination.
    pub metric: u32,
    /// Who made it (`rtm_protocol`).
    pub protocol: u8,
    /// Whether it is ours.
    pub ours: bool,
}

/// One wished route that is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedRouteView {
    /// Destination.
    pub prefix: Ipv4Net,
    /// What stands in the way.
    pub reason: ProtectedPrefix,
    /// The protected prefix.
    pub protects: Ipv4Net,
}

/// One capture in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureView {
    /// Method: `proxy-arp`.
    pub method: String,
    /// Interface.
    pub interface: String,
    /// Captured address.
    pub address: Ipv4Addr,
}
