//! Routing netlink: links, addresses, routes and proxy neighbours.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt as _;
use ipnet::Ipv4Net;
use netlink_packet_core::Nla as _;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteIpTunnel, RouteLwEnCapType, RouteLwTunnelEncap,
    RouteMessage, RouteMetric, RouteNextHop, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{Handle, IpVersion, LinkIpIp, LinkUnspec, LinkWireguard, RouteMessageBuilder};

use crate::relay::{RELAY_PRIORITY, RELAY_TABLE};
use crate::state::{ROUTE_PROTOCOL, Route, Target, WIREGUARD_INTERFACE};

/// The kernel's number of the outer destination in an ipip encapsulation.
const LWTUNNEL_IP_DST: u16 = 2;
/// Time to live of packets that the kernel wraps.
const TUNNEL_TTL: u8 = 64;

/// An interface of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    pub(crate) loopback: bool,
    pub(crate) kind: Option<InfoKind>,
}

/// A route of the main table, or of the one for what is passed on to other hubs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KernelRoute {
    pub(crate) prefix: Ipv4Net,
    pub(crate) protocol: u8,
    /// Whether it is in the table for what is passed on.
    pub(crate) relays: bool,
    pub(crate) interface: Option<u32>,
    pub(crate) gateway: Option<Ipv4Addr>,
    pub(crate) scope_link: bool,
    pub(crate) unicast: bool,
    pub(crate) metric: u32,
    pub(crate) source: Option<Ipv4Addr>,
    pub(crate) tunnel_to: Option<Ipv4Addr>,
    /// Further outer destinations of a multipath route.
    pub(crate) tunnel_also: Vec<Ipv4Addr>,
    pub(crate) mtu: u32,
    pub(crate) advmss: u32,
}

/// A proxy neighbour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proxy {
    pub(crate) interface: u32,
    pub(crate) address: Ipv4Addr,
    pub(crate) ours: bool,
}

/// The connection to the kernel of the network namespace in which it was made.
#[derive(Clone)]
pub(crate) struct Netlink {
    handle: Handle,
}

/// A netlink failure with what was being done.
pub(crate) fn failed(what: impl std::fmt::Display, error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => {
            let cause = message.to_io();
            io::Error::new(cause.kind(), format!("{what}: {cause}"))
        }
        other => io::Error::other(format!("{what}: {other}")),
    }
}

/// Turns "it is already so" into success, by errno.
fn already(result: Result<(), rtnetlink::Error>, fine: &[i32]) -> Result<(), rtnetlink::Error> {
    match result {
        Err(rtnetlink::Error::NetlinkError(message))
            if message.to_io().raw_os_error().is_some_and(|errno| fine.contains(&errno)) =>
        {
            Ok(())
        }
        other => other,
    }
}

const ENOENT: i32 = 2;
const ESRCH: i32 = 3;
const EEXIST: i32 = 17;
const ENODEV: i32 = 19;
const EADDRNOTAVAIL: i32 = 99;

impl Netlink {
    /// Connects; the connection lives as long as a handle does.
    pub(crate) fn connect() -> io::Result<Netlink> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Netlink { handle })
    }

    /// All interfaces by name.
    pub(crate) async fn links(&self) -> io::Result<BTreeMap<String, Link>> {
        let messages: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.map_err(|e| failed("links", e))?;
        Ok(messages.into_iter().filter_map(link).map(|l| (l.name.clone(), l)).collect())
    }

    /// All IPv4 addresses with the interface index.
    pub(crate) async fn addresses(&self) -> io::Result<Vec<(u32, Ipv4Net)>> {
        let mut request = self.handle.address().get();
        request.message_mut().header.family = AddressFamily::Inet;
        let messages: Vec<_> = request.execute().try_collect().await.map_err(|e| failed("addresses", e))?;
        let address = |m: netlink_packet_route::address::AddressMessage| {
            let find = |local: bool| {
                m.attributes.iter().find_map(|a| match a {
                    AddressAttribute::Local(IpAddr::V4(v4)) if local => Some(*v4),
                    AddressAttribute::Address(IpAddr::V4(v4)) if !local => Some(*v4),
                    _ => None,
                })
            };
            let address = find(true).or_else(|| find(false))?;
            Some((m.header.index, Ipv4Net::new(address, m.header.prefix_len).ok()?))
        };
        Ok(messages.into_iter().filter_map(address).collect())
    }

    /// The IPv4 routes of the main table, and ours of the one for what is passed on.
    pub(crate) async fn routes(&self) -> io::Result<Vec<KernelRoute>> {
        let request = RouteMessageBuilder::<Ipv4Addr>::new().table_id(0).protocol(RouteProtocol::Unspec);
        let request = request.scope(RouteScope::Universe).kind(RouteType::Unspec).build();
        let messages: Vec<RouteMessage> = self
            .handle
            .route()
            .get(request)
            .execute()
            .try_collect()
            .await
            .map_err(|e| failed("routes", e))?;
        Ok(messages.iter().filter_map(route).collect())
    }

    /// The IPv4 proxy neighbours.
    pub(crate) async fn proxies(&self) -> io::Result<Vec<Proxy>> {
        let request = self.handle.neighbours().get().proxies().set_address_family(AddressFamily::Inet);
        let messages: Vec<NeighbourMessage> =
            request.execute().try_collect().await.map_err(|e| failed("proxy neighbours", e))?;
        Ok(messages.iter().filter_map(proxy).collect())
    }

    /// Makes a WireGuard interface.
    pub(crate) async fn add_wireguard(&self, name: &str) -> Result<(), rtnetlink::Error> {
        self.handle.link().add(LinkWireguard::new(name).build()).execute().await
    }

    /// Makes the one ipip interface that takes each packet's outer destination from its route.
    pub(crate) async fn add_ipip(&self, name: &str) -> Result<(), rtnetlink::Error> {
        self.handle.link().add(LinkIpIp::new(name).collect_metadata(true).build()).execute().await
    }

    /// Removes an interface; an absent one is fine.
    pub(crate) async fn remove_link(&self, name: &str) -> io::Result<()> {
        let Some(link) = self.links().await?.remove(name) else { return Ok(()) };
        let result = self.handle.link().del(link.index).execute().await;
        already(result, &[ENODEV]).map_err(|e| failed(format_args!("removing {name}"), e))
    }

    /// Sets the MTU and brings the interface up.
    pub(crate) async fn set_link(&self, link: &Link, mtu: u16) -> io::Result<()> {
        let message = LinkUnspec::new_with_index(link.index).mtu(mtu.into()).up().build();
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(|e| failed(format_args!("bringing {} up", link.name), e))
    }

    /// Adds an address; one that is there is fine.
    pub(crate) async fn add_address(&self, link: &Link, address: Ipv4Net) -> io::Result<()> {
        let request = self.handle.address().add(link.index, address.addr().into(), address.prefix_len());
        already(request.execute().await, &[EEXIST])
            .map_err(|e| failed(format_args!("adding {address} to {}", link.name), e))
    }

    /// Removes an address; one that is absent is fine.
    pub(crate) async fn remove_address(&self, link: &Link, address: Ipv4Net) -> io::Result<()> {
        let message = rtnetlink::AddressMessageBuilder::<Ipv4Addr>::new()
            .index(link.index)
            .address(address.addr(), address.prefix_len())
            .build();
        already(self.handle.address().del(message).execute().await, &[EADDRNOTAVAIL])
            .map_err(|e| failed(format_args!("removing {address} from {}", link.name), e))
    }

    /// Adds or replaces a route of ours through interface `index`; if `wraps`, the interface is the kernel's ipip.
    pub(crate) async fn set_route(
        &self,
        prefix: Ipv4Net,
        route: &Route,
        index: u32,
        wraps: bool,
    ) -> io::Result<()> {
        let mut builder = our_route(prefix, RouteHeader::RT_TABLE_MAIN).scope(RouteScope::Link);
        if let Some(source) = route.source {
            builder = builder.pref_source(source);
        }
        let outer = |owner: Ipv4Addr| outer(route.source, owner);
        let mut several = None;
        match (route.target, wraps) {
            (Some(Target::Owner(owner)), true) => {
                builder = builder.output_interface(index).encap_ip(outer(owner));
            }
            (Some(Target::Owners(owners)), true) => {
                let hops = owners.as_slice().iter().map(|owner| next_hop(index, outer(*owner)));
                several = Some(RouteAttribute::MultiPath(hops.collect()));
            }
            _ => builder = builder.output_interface(index),
        }
        let mut message = builder.build();
        message.attributes.extend(several);
        let metrics = [(route.mtu, RouteMetric::Mtu as fn(u32) -> _), (route.advmss, RouteMetric::Advmss)];
        let metrics: Vec<_> =
            metrics.into_iter().filter(|(n, _)| *n > 0).map(|(n, metric)| metric(n.into())).collect();
        if !metrics.is_empty() {
            message.attributes.push(RouteAttribute::Metrics(metrics));
        }
        let request = self.handle.route().add(message).replace();
        request.execute().await.map_err(|e| failed(format_args!("route {prefix}"), e))
    }

    /// Removes a route of ours; an absent one is fine.
    pub(crate) async fn remove_route(&self, prefix: Ipv4Net) -> io::Result<()> {
        self.remove_route_of(prefix, RouteHeader::RT_TABLE_MAIN).await
    }

    async fn remove_route_of(&self, prefix: Ipv4Net, table: u8) -> io::Result<()> {
        let message = our_route(prefix, table).scope(RouteScope::NoWhere).kind(RouteType::Unspec).build();
        already(self.handle.route().del(message).execute().await, &[ESRCH])
            .map_err(|e| failed(format_args!("removing route {prefix}"), e))
    }

    /// Has packets for `node` wrapped toward `hub` through interface `index`, if they come from WireGuard.
    pub(crate) async fn pass_on(
        &self,
        node: Ipv4Addr,
        local: Ipv4Addr,
        hub: Ipv4Addr,
        index: u32,
    ) -> io::Result<()> {
        let builder = our_route(node.into(), RELAY_TABLE).scope(RouteScope::Link).output_interface(index);
        let message = builder.encap_ip(outer(Some(local), hub)).build();
        let request = self.handle.route().add(message).replace();
        request.execute().await.map_err(|e| failed(format_args!("passing on for {node}"), e))
    }

    /// The end of [`Netlink::pass_on`].
    pub(crate) async fn keep(&self, node: Ipv4Addr) -> io::Result<()> {
        self.remove_route_of(node.into(), RELAY_TABLE).await
    }

    /// Whether packets from WireGuard are looked up in the table for what is passed on.
    pub(crate) async fn relay_rule(&self) -> io::Result<bool> {
        Ok(!self.relay_rules().await?.is_empty())
    }

    async fn relay_rules(&self) -> io::Result<Vec<RuleMessage>> {
        let rules = self.handle.rule().get(IpVersion::V4).execute().try_collect::<Vec<_>>().await;
        let ours = |rule: &RuleMessage| {
            let protocol = RuleAttribute::Protocol(ROUTE_PROTOCOL.into());
            let from = RuleAttribute::Iifname(WIREGUARD_INTERFACE.into());
            rule.header.table == RELAY_TABLE
                && rule.attributes.contains(&protocol)
                && rule.attributes.contains(&from)
        };
        Ok(rules.map_err(|e| failed("rules", e))?.into_iter().filter(ours).collect())
    }

    /// Adds that rule; one that is there is fine.
    pub(crate) async fn add_relay_rule(&self) -> io::Result<()> {
        if self.relay_rule().await? {
            return Ok(());
        }
        let request = self.handle.rule().add().v4().input_interface(WIREGUARD_INTERFACE);
        let mut request =
            request.table_id(RELAY_TABLE.into()).priority(RELAY_PRIORITY).action(RuleAction::ToTable);
        request.message_mut().attributes.push(RuleAttribute::Protocol(ROUTE_PROTOCOL.into()));
        already(request.execute().await, &[EEXIST]).map_err(|e| failed("rule for what is passed on", e))
    }

    /// Removes it.
    pub(crate) async fn remove_relay_rule(&self) -> io::Result<()> {
        for rule in self.relay_rules().await? {
            let removed = self.handle.rule().del(rule).execute().await;
            already(removed, &[ENOENT]).map_err(|e| failed("removing the rule for what is passed on", e))?;
        }
        Ok(())
    }

    /// Adds a proxy neighbour of ours.
    pub(crate) async fn add_proxy(&self, index: u32, address: Ipv4Addr) -> io::Result<()> {
        let mut request = self.handle.neighbours().add(index, address.into()).flags(NeighbourFlags::Proxy);
        request.message_mut().attributes.push(NeighbourAttribute::Protocol(ROUTE_PROTOCOL.into()));
        already(request.execute().await, &[EEXIST])
            .map_err(|e| failed(format_args!("proxy ARP for {address}"), e))
    }

    /// Removes a proxy neighbour; an absent one is fine.
    pub(crate) async fn remove_proxy(&self, index: u32, address: Ipv4Addr) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = index;
        message.header.flags = NeighbourFlags::Proxy;
        message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(address)));
        already(self.handle.neighbours().del(message).execute().await, &[ENOENT, ENODEV])
            .map_err(|e| failed(format_args!("removing proxy ARP for {address}"), e))
    }
}

/// One way of a multipath route (RTA_MULTIPATH).
fn next_hop(index: u32, outer: Vec<RouteIpTunnel>) -> RouteNextHop {
    let mut hop = RouteNextHop::default();
    hop.interface_index = index;
    let encap = outer.into_iter().map(RouteLwTunnelEncap::Ip).collect();
    hop.attributes = vec![RouteAttribute::EncapType(RouteLwEnCapType::Ip), RouteAttribute::Encap(encap)];
    hop
}

/// How the kernel wraps toward `to`.
fn outer(from: Option<Ipv4Addr>, to: Ipv4Addr) -> Vec<RouteIpTunnel> {
    let mut outer = vec![RouteIpTunnel::Destination(to), RouteIpTunnel::Ttl(TUNNEL_TTL)];
    outer.extend(from.map(RouteIpTunnel::Source));
    outer
}

fn our_route(prefix: Ipv4Net, table: u8) -> RouteMessageBuilder<Ipv4Addr> {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(prefix.network(), prefix.prefix_len())
        .table_id(table.into())
        .protocol(ROUTE_PROTOCOL.into())
}

fn link(message: LinkMessage) -> Option<Link> {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        loopback: message.header.flags.contains(LinkFlags::Loopback),
        kind: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.into_iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

fn route(message: &RouteMessage) -> Option<KernelRoute> {
    let mut route = KernelRoute {
        prefix: Ipv4Net::new(Ipv4Addr::UNSPECIFIED, message.header.destination_prefix_length).ok()?,
        protocol: message.header.protocol.into(),
        relays: false,
        interface: None,
        gateway: None,
        scope_link: message.header.scope == RouteScope::Link,
        unicast: message.header.kind == RouteType::Unicast,
        metric: 0,
        source: None,
        tunnel_to: None,
        tunnel_also: Vec::new(),
        mtu: 0,
        advmss: 0,
    };
    let mut table = u32::from(message.header.table);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                route.prefix = Ipv4Net::new(*address, message.header.destination_prefix_length).ok()?;
            }
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::Oif(index) => route.interface = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => route.gateway = Some(*address),
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => route.source = Some(*address),
            RouteAttribute::MultiPath(hops) => {
                route.interface = hops.first().map(|hop| hop.interface_index);
                let mut all = hops.iter().filter_map(outer_destination);
                route.tunnel_to = all.next();
                route.tunnel_also = all.collect();
            }
            RouteAttribute::Encap(encaps) => route.tunnel_to = encaps.iter().find_map(tunnel_destination),
            RouteAttribute::Metrics(metrics) => {
                for metric in metrics {
                    match metric {
                        RouteMetric::Mtu(mtu) => route.mtu = *mtu,
                        RouteMetric::Advmss(advmss) => route.advmss = *advmss,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    route.relays = table == u32::from(RELAY_TABLE) && route.protocol == ROUTE_PROTOCOL;
    (route.relays || table == u32::from(RouteHeader::RT_TABLE_MAIN)).then_some(route)
}

fn tunnel_destination(encap: &RouteLwTunnelEncap) -> Option<Ipv4Addr> {
    match encap {
        RouteLwTunnelEncap::Ip(RouteIpTunnel::Destination(owner)) => Some(*owner),
        // Inside a multipath route the codec meets the encapsulation before its type, and leaves it unread.
        RouteLwTunnelEncap::Other(raw) if raw.kind() == LWTUNNEL_IP_DST => {
            let mut octets = [0; 4];
            (raw.value_len() == octets.len()).then(|| raw.emit_value(&mut octets))?;
            Some(octets.into())
        }
        _ => None,
    }
}

fn outer_destination(hop: &RouteNextHop) -> Option<Ipv4Addr> {
    hop.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Encap(encaps) => encaps.iter().find_map(tunnel_destination),
        _ => None,
    })
}

fn proxy(message: &NeighbourMessage) -> Option<Proxy> {
    let mut proxy = Proxy { interface: message.header.ifindex, address: Ipv4Addr::UNSPECIFIED, ours: false };
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => proxy.address = *address,
            NeighbourAttribute::Protocol(protocol) => proxy.ours = u8::from(*protocol) == ROUTE_PROTOCOL,
            _ => {}
        }
    }
    (message.header.flags.contains(NeighbourFlags::Proxy) && !proxy.address.is_unspecified()).then_some(proxy)
}
