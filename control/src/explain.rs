//! What a node says of one route: BGP's part, whether the next hops resolve and through what, and what the kernel
//! has. Pure: the daemons bring what they know.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bgp::explain::{Explanation, Verdict};
use bgp::policy::RejectReason;
use bgp::types::Prefix;
use bgp::view::RejectedView;
use dataplane::view::{KernelRouteView, Report};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// A WireGuard session whose last handshake is older carries nothing: its keys are void (seconds).
const HANDSHAKE_LIFE_SECS: u64 = 180;

/// The answer to `GET /v1/bgp/explain`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteAnswer {
    /// `hub`, `leaf` or `reflector`: whose answer it is.
    pub role: String,
    /// The speaker's part.
    #[serde(flatten)]
    pub bgp: Explanation,
    /// Every next hop of the paths above.
    pub next_hops: Vec<NextHopView>,
    /// What became of the route in the kernel.
    pub kernel: KernelView,
    /// The hubs that keep this node's own route out: nobody else has it from them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hub_rejections: Vec<HubRejection>,
}

/// A hub's word on a route of the node that asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HubRejection {
    /// The hub's name.
    pub hub: String,
    /// The reason.
    pub reason: RejectReason,
    /// The same in a sentence.
    pub why: String,
}

impl HubRejection {
    /// What of the hubs' rejections is about `prefix`.
    pub fn about(prefix: Prefix, rejected: &[RejectedView]) -> Vec<HubRejection> {
        let about = rejected.iter().filter(|r| r.prefix == prefix);
        about
            .filter_map(|r| {
                Some(HubRejection { hub: r.by.clone()?, reason: r.reason, why: r.reason.sentence().into() })
            })
            .collect()
    }
}

impl RouteAnswer {
    /// Whether a route is chosen, resolves, is where it must be, and is kept out by no hub.
    pub fn good(&self) -> bool {
        let chosen = self.bgp.candidates.iter().find(|c| c.verdict == Verdict::Chosen);
        let resolves = |c: &&bgp::explain::CandidateView| {
            let found = self.next_hops.iter().find(|n| n.next_hop == c.path.next_hop);
            found.is_none_or(|n| n.state != Resolution::Unresolved)
        };
        let kernel = matches!(self.kernel.state, Installed::Yes | Installed::NotNeeded);
        chosen.filter(resolves).is_some() && kernel && self.hub_rejections.is_empty()
    }
}

/// Whether packets can be sent to a next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resolution {
    /// It is this node.
    Own,
    /// Through the peer that is named.
    Resolved,
    /// Not; the reason says why.
    Unresolved,
    /// A reflector without a dataplane does not ask.
    NotAsked,
}

/// A next hop with what it resolves to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NextHopView {
    /// The next hop.
    pub next_hop: IpAddr,
    /// Whether it resolves.
    pub state: Resolution,
    /// The WireGuard peer whose prefix covers it, the longest one.
    pub through: Option<ThroughView>,
    /// Why it does not resolve, or why that is in doubt.
    pub why: Option<String>,
}

/// The tunnel to a next hop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ThroughView {
    /// The WireGuard interface.
    pub device: String,
    /// The peer's public key.
    pub peer: String,
    /// The peer's prefix that covers the next hop.
    pub prefix: Ipv4Net,
    /// Where the peer is in the underlay.
    pub endpoint: Option<SocketAddr>,
    /// Seconds since the last handshake.
    pub handshake_secs: Option<u64>,
}

/// Whether the kernel has the route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Installed {
    /// The kernel has it as it must be.
    Yes,
    /// It should be there and is not, or another route hides it.
    No,
    /// It is kept out on purpose; the reason says why.
    Refused,
    /// Nothing has to be there.
    NotNeeded,
}

/// What the kernel has for the prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelView {
    /// Whether the route is there.
    pub state: Installed,
    /// Why, in a sentence.
    pub why: String,
    /// Routes of the main table that cover the prefix, as the kernel prefers them: the first one is used.
    pub routes: Vec<KernelRouteView>,
    /// With the in-process dataplane: the owner to whom this process wraps packets that the kernel hands to it.
    pub wrapped_to: Option<Ipv4Addr>,
    /// The same: further owners that have their share of the flows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wrapped_also: Vec<Ipv4Addr>,
}

impl KernelView {
    /// Nothing has to be there.
    pub fn not_needed(why: &str) -> KernelView {
        KernelView::of(Installed::NotNeeded, why)
    }

    /// A state with its reason, without routes.
    pub fn of(state: Installed, why: impl Into<String>) -> KernelView {
        KernelView { state, why: why.into(), routes: Vec::new(), wrapped_to: None, wrapped_also: Vec::new() }
    }
}

/// Where a node stands in the overlay.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// The node's own overlay address.
    pub own: Ipv4Addr,
    /// The overlay prefix.
    pub overlay: Ipv4Net,
    /// What the dataplane last saw.
    pub report: &'a Report,
}

/// The next hops of all paths, resolved; `standing`: none on a reflector without a dataplane.
pub fn next_hops(explained: &Explanation, standing: Option<Standing<'_>>) -> Vec<NextHopView> {
    let mut all: Vec<IpAddr> = explained.candidates.iter().map(|c| c.path.next_hop).collect();
    all.sort();
    all.dedup();
    let not_asked = |next_hop| NextHopView {
        next_hop,
        state: Resolution::NotAsked,
        through: None,
        why: Some("this reflector is not in the path of packets".into()),
    };
    all.into_iter().map(|n| standing.map_or_else(|| not_asked(n), |s| resolve(n, s))).collect()
}

/// What a next hop resolves to: the longest WireGuard prefix that covers it.
pub fn resolve(next_hop: IpAddr, standing: Standing<'_>) -> NextHopView {
    let view = |state, through, why: Option<String>| NextHopView { next_hop, state, through, why };
    let unresolved = |why: String| view(Resolution::Unresolved, None, Some(why));
    let IpAddr::V4(address) = next_hop.to_canonical() else {
        return unresolved("the overlay is IPv4".into());
    };
    if address == standing.own {
        return view(Resolution::Own, None, None);
    }
    if !standing.overlay.contains(&address) {
        return unresolved(format!("it is outside the overlay prefix {}", standing.overlay));
    }
    let peers = standing.report.peers.iter();
    let covering = peers.flat_map(|p| p.allowed_ips.iter().map(move |net| (p, net)));
    let longest = covering.filter(|(_, net)| net.contains(&address)).max_by_key(|(_, net)| net.prefix_len());
    let Some((peer, prefix)) = longest else {
        return unresolved("no WireGuard peer carries it".into());
    };
    let wireguard = standing.report.interfaces.iter().find(|i| i.listen_port.is_some());
    let through = ThroughView {
        device: wireguard.map_or_else(|| "WireGuard".into(), |i| i.name.clone()),
        peer: peer.public_key.to_string(),
        prefix: *prefix,
        endpoint: peer.endpoint,
        handshake_secs: peer.last_handshake_secs_ago,
    };
    match peer.last_handshake_secs_ago {
        None => view(Resolution::Unresolved, Some(through), Some("that peer has never answered".into())),
        Some(secs) if secs > HANDSHAKE_LIFE_SECS => {
            view(Resolution::Resolved, Some(through), Some(format!("that peer has been silent for {secs} s")))
        }
        Some(_) => view(Resolution::Resolved, Some(through), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane::state::PublicKey;
    use dataplane::view::WireguardPeerView;

    fn peer(n: u8, net: &str, handshake: Option<u64>) -> WireguardPeerView {
        WireguardPeerView {
            line: Default::default(),
            public_key: PublicKey([n; 32]),
            endpoint: None,
            last_handshake_secs_ago: handshake,
            rx_bytes: 0,
            tx_bytes: 0,
            allowed_ips: [net.parse().unwrap()].into(),
            keepalive_secs: 25,
        }
    }

    /// The longest prefix wins, a direct peer before the hub; what nobody carries, or nobody answers for, does not
    /// resolve.
    #[test]
    fn the_longest_prefix_carries_a_next_hop() {
        let peers = vec![
            peer(1, "10.255.0.0/20", Some(5)),
            peer(2, "10.255.0.3/32", Some(400)),
            peer(3, "10.255.0.4/32", None),
        ];
        let report = Report { peers: peers.into(), ..Report::default() };
        let own = Ipv4Addr::new(10, 255, 0, 2);
        let standing = Standing { own, overlay: "10.255.0.0/20".parse().unwrap(), report: &report };
        let state = |a: &str| resolve(a.parse().unwrap(), standing);
        assert_eq!(state("10.255.0.2").state, Resolution::Own);
        let hub = state("10.255.0.9");
        assert_eq!(
            (hub.state, hub.through.unwrap().peer),
            (Resolution::Resolved, PublicKey([1; 32]).to_string())
        );
        let direct = state("10.255.0.3");
        assert_eq!(direct.through.unwrap().peer, PublicKey([2; 32]).to_string());
        assert_eq!(direct.why.as_deref(), Some("that peer has been silent for 400 s"));
        assert_eq!(state("10.255.0.4").state, Resolution::Unresolved);
        assert_eq!(state("192.0.2.1").state, Resolution::Unresolved);
        let nobody = Standing { report: &Report::default(), ..standing };
        assert_eq!(resolve("10.255.0.9".parse().unwrap(), nobody).state, Resolution::Unresolved);
    }
}
