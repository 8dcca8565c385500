//! What can be wished of the dataplane, and what can be seen of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

pub use crate::capture::Capture;
use crate::mtu;
pub use crate::relay::{Relay, RelayFilter};
pub use crate::route::{Owners, ProtectedPrefix, Protection, Target};
pub use crate::wireguard::{AllowedIps, PrivateKey, PublicKey, WireguardPeer};

/// Name of the kernel WireGuard interface.
pub const WIREGUARD_INTERFACE: &str = "fab-wg";
/// Name of the kernel's second WireGuard interface, toward the second hub.
pub const SECOND_INTERFACE: &str = "fab-wg1";
/// Name of the kernel ipip interface.
pub const TUNNEL_INTERFACE: &str = "fab-ipip";
/// Name of the TUN interface of the in-process dataplane.
pub const TUN_INTERFACE: &str = "fab-tun";
/// Number in `rtm_protocol` (and in a proxy neighbour's protocol) that marks what is ours.
pub const ROUTE_PROTOCOL: u8 = 84;

/// One of the two WireGuard interfaces of a node. Each has its own table of AllowedIPs, so that a leaf with two hubs
/// takes overlay packets from either of them, whichever it sends through itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// `fab-wg`: every node has it.
    #[default]
    First,
    /// `fab-wg1`: toward the second hub.
    Second,
}

impl Line {
    /// Both.
    pub const BOTH: [Line; 2] = [Line::First, Line::Second];

    /// The target of routes straight into it.
    pub const fn target(self) -> Target {
        match self {
            Line::First => Target::Wireguard,
            Line::Second => Target::SecondWireguard,
        }
    }
}

/// Everything a daemon wants of the dataplane; the default wants nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Wished {
    /// The encrypted underlay; `None` takes it away.
    pub wireguard: Option<Wireguard>,
    /// The same toward the second hub; only beside the first, and without addresses of its own.
    pub second: Option<Wireguard>,
    /// The leaf-to-leaf encapsulation; `None` takes it away (a pure hub needs none).
    pub tunnel: Option<Tunnel>,
    /// What a hub passes on to other hubs, and takes from them; only on a node without a tunnel.
    pub relay: Option<Relay>,
    /// Routes to install in the main table with protocol 84.
    pub routes: BTreeMap<Ipv4Net, Target>,
    /// How the site's network is made to hand packets for remote clients to this node.
    pub captures: BTreeSet<Capture>,
    /// What our own nft table does.
    pub filter: Filter,
}

/// Peers by public key. A hub has thousands: a copy shares what it has in common with its original, and two maps are
/// compared without looking at what they share.
pub type Peers = imbl::OrdMap<PublicKey, WireguardPeer>;

/// A WireGuard interface with its peers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Wireguard {
    /// This node's key.
    #[serde(skip)]
    pub private_key: PrivateKey,
    /// UDP port to listen on; 0 is any.
    pub listen_port: u16,
    /// Addresses on the interface, with the prefix length they are added with (normally /32).
    pub addresses: BTreeSet<Ipv4Net>,
    /// MTU of the interface in octets, 576 to 9,000; see [`mtu::mtus`].
    pub mtu: u16,
    /// Peers by public key.
    pub peers: Peers,
    /// Peers with fresh keys: by fresh key, the former ones. A former key that is in force stays so until the peer calls
    /// with the fresh one, which then takes its place with nothing lost; what is seen has one former key, and the fresh one
    /// is not among the peers until then.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub former_keys: BTreeMap<PublicKey, Vec<PublicKey>>,
}

/// The ipip tunnel (RFC 2003) from this node to every owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// Outer source: this node's overlay address.
    pub local: Ipv4Addr,
    /// Largest inner packet in octets; see [`mtu::mtus`].
    pub mtu: u16,
}

/// What our own nft table `inet fabric` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Filter {
    /// TCP MSS in octets that SYNs forwarded through fabric interfaces are lowered to, both ways.
    pub clamp: Option<u16>,
    /// The quarantine of nodes that are still enrolling.
    pub foyer: Option<Foyer>,
}

/// The quarantine: who comes from `prefix` reaches TCP `hub:api_port` and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foyer {
    /// Addresses of nodes that are enrolling.
    pub prefix: Ipv4Net,
    /// The hub's own address in the foyer.
    pub hub: Ipv4Addr,
    /// TCP port of the enrollment API.
    pub api_port: u16,
}

/// A route of ours as it must be, or is, in the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where it leads; `None` is a route of our protocol that leads somewhere we never send.
    pub target: Option<Target>,
    /// Preferred source address for packets of this node itself.
    pub source: Option<Ipv4Addr>,
    /// Route MTU in octets, 0 for none.
    pub mtu: u16,
    /// Advertised MSS in octets, 0 for none.
    pub advmss: u16,
}

/// What is there: ours in full, and of the host only what protects it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// Our WireGuard interface, whoever carries it.
    pub wireguard: Option<Wireguard>,
    /// The one toward the second hub.
    pub second: Option<Wireguard>,
    /// Our ipip tunnel, whoever carries it.
    pub tunnel: Option<Tunnel>,
    /// How this hub relays together with others.
    pub relay: Option<Relay>,
    /// Routes with our protocol number in the main table.
    pub routes: BTreeMap<Ipv4Net, Route>,
    /// Proxy neighbours with our protocol number.
    pub captures: BTreeSet<Capture>,
    /// What our nft table holds; `None` if the table is absent or is not as we would write it.
    pub filter: Option<FilterState>,
    /// What a learned route must not cover.
    pub protection: Protection,
    /// Who carries packets here.
    pub carrier: Carrier,
}

/// Who carries the packets: the kernel's own WireGuard and ipip, or this process over a TUN device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Carrier {
    /// Interfaces `fab-wg` and `fab-ipip`.
    #[default]
    Kernel,
    /// Interface `fab-tun`, WireGuard and ipip in this process.
    InProcess,
}

impl Carrier {
    /// `kernel` or `in-process`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Carrier::Kernel => "kernel",
            Carrier::InProcess => "in-process",
        }
    }

    /// The interface that a route to `target` names.
    pub const fn interface(self, target: Target) -> &'static str {
        match (self, target) {
            (Carrier::InProcess, _) => TUN_INTERFACE,
            (Carrier::Kernel, Target::Owner(_) | Target::Owners(_)) => TUNNEL_INTERFACE,
            (Carrier::Kernel, Target::Wireguard) => WIREGUARD_INTERFACE,
            (Carrier::Kernel, Target::SecondWireguard) => SECOND_INTERFACE,
        }
    }
}

impl std::fmt::Display for Carrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The whole content of our nft table: the filter, and which inner source may come from which outer source.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FilterState {
    /// Clamp and foyer.
    pub filter: Filter,
    /// Client prefix and the overlay address of an owner of it, checked before the kernel unwraps ipip; empty in process.
    pub owners: BTreeSet<(Ipv4Net, Ipv4Addr)>,
    /// What may be unwrapped for other hubs; none in process.
    pub relay: Option<RelayFilter>,
    /// Whether the kernel's answers to calls with fresh keys can be held: on a hub, and not in process.
    pub holds: bool,
}

impl State {
    /// One of the WireGuard interfaces.
    pub fn line(&self, line: Line) -> Option<&Wireguard> {
        match line {
            Line::First => self.wireguard.as_ref(),
            Line::Second => self.second.as_ref(),
        }
    }

    /// The same, to be changed.
    pub(crate) fn line_mut(&mut self, line: Line) -> &mut Option<Wireguard> {
        match line {
            Line::First => &mut self.wireguard,
            Line::Second => &mut self.second,
        }
    }

    /// The state in which nothing is left to do for `wished`, on a host with this `protection`.
    pub fn of(wished: &Wished, protection: Protection, carrier: Carrier) -> State {
        // Whoever has a fresh key has called with it.
        let settled = |w: &Wireguard| Wireguard { former_keys: BTreeMap::new(), ..w.clone() };
        State {
            wireguard: wished.wireguard.as_ref().map(settled),
            second: wished.second.as_ref().map(settled),
            ..State::apart_from_wireguard(wished, protection, carrier)
        }
    }

    /// The same without the WireGuard interfaces.
    pub(crate) fn apart_from_wireguard(wished: &Wished, protection: Protection, carrier: Carrier) -> State {
        let (routes, _) = protection.admit(wished);
        let routes: BTreeMap<_, _> = routes.into_iter().map(|(p, t)| (p, wished.route(t))).collect();
        let filter = wished.filter_state(&routes, carrier);
        State {
            wireguard: None,
            second: None,
            tunnel: wished.tunnel,
            relay: wished.relay.clone(),
            routes,
            captures: wished.captures.clone(),
            filter: (filter != FilterState::default()).then_some(filter),
            protection,
            carrier,
        }
    }
}

impl Wished {
    /// The WireGuard peers of both interfaces.
    pub fn peers(&self) -> impl Iterator<Item = (&PublicKey, &WireguardPeer)> {
        self.wireguard.iter().chain(&self.second).flat_map(|w| &w.peers)
    }

    /// How a route to `target` is written: its MTU, MSS and source address.
    pub fn route(&self, target: Target) -> Route {
        let mtu = match target {
            Target::Owner(_) | Target::Owners(_) => self.tunnel.map_or(0, |t| t.mtu),
            Target::Wireguard => self.wireguard.as_ref().map_or(0, |w| w.mtu),
            Target::SecondWireguard => self.second.as_ref().map_or(0, |w| w.mtu),
        };
        let overlay = self.tunnel.map(|t| t.local);
        let source = overlay.or_else(|| {
            let first = self.wireguard.as_ref()?.addresses.first()?;
            Some(first.addr())
        });
        Route { target: Some(target), source, mtu, advmss: if mtu == 0 { 0 } else { mtu::mss(mtu) } }
    }

    /// The content of our nft table when `routes` are installed. In process, ipip is checked by the process.
    pub fn filter_state(&self, routes: &BTreeMap<Ipv4Net, Route>, carrier: Carrier) -> FilterState {
        let owners = routes.iter().flat_map(|(prefix, route)| {
            let owners = route.target.as_ref().map_or(&[][..], Target::owners);
            owners.iter().map(|owner| (*prefix, *owner))
        });
        let kernel = carrier == Carrier::Kernel;
        let owners = owners.filter(|_| kernel).collect();
        let relay = self.relay.as_ref().filter(|_| kernel).map(Relay::filter);
        let holds = kernel && self.filter.foyer.is_some();
        FilterState { filter: self.filter, owners, relay, holds }
    }
}
