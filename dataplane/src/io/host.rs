//! The host as the dataplane sees and changes it: one observation, one application of a change, for either carrier.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::Ipv4Net;
use netlink_packet_route::link::InfoKind;

use crate::io::kernel_heirs::Awaited;
use crate::io::netlink::{KernelRoute, Link, Netlink};
use crate::io::packets::Shared;
use crate::io::userspace::{PeerStatus, Statuses, Userspace};
use crate::io::wireguard::GenericNetlink;
use crate::io::{Choice, StartError, netlink, nft};
use crate::plan::{Change, Device};
use crate::reach::Reach;
use crate::relay::RELAY_INTERFACE;
use crate::state::{
    Capture, Carrier, Foyer, Line, ProtectedPrefix, Protection, PublicKey, ROUTE_PROTOCOL, Relay, Route,
    SECOND_INTERFACE, State, TUN_INTERFACE, TUNNEL_INTERFACE, Target, Tunnel, WIREGUARD_INTERFACE, Wireguard,
};
use crate::tunnel::Table;
use crate::view::{DropReason, InterfaceView};
use crate::wireguard::settled;

/// Interface that is made for an instant to learn whether the kernel has a kind of interface.
const PROBE_INTERFACE: &str = "fab-probe";

/// Everything of ours on this host, and the way to change it.
pub(crate) struct Host {
    netlink: Netlink,
    table: nft::Table,
    carrier: Carry,
    /// Tunnel, relay and foyer in force, as last applied.
    tunnel: Option<Tunnel>,
    relay: Option<Relay>,
    foyer: Option<Foyer>,
    /// Where the kernel was told that peers are; what it shows is where they were heard last.
    told: BTreeMap<(Line, PublicKey), SocketAddr>,
    /// Peers of the kernel with fresh keys that have not called with them yet.
    awaited: Awaited,
    /// Which peer carries what, as last compiled.
    reach: Reach,
    /// Where each route was told to lead: in process, the kernel's route says only that it leads to us.
    targets: BTreeMap<Ipv4Net, Target>,
}

enum Carry {
    Kernel(Box<GenericNetlink>),
    InProcess { shared: Arc<Shared>, userspace: Option<Box<Userspace>> },
}

/// One observation: the state, and what only the report needs.
pub(crate) struct Observation {
    pub(crate) state: State,
    pub(crate) links: BTreeMap<String, Link>,
    pub(crate) interfaces: Vec<InterfaceView>,
    pub(crate) peers: Statuses,
    pub(crate) drops: BTreeMap<DropReason, u64>,
    pub(crate) relayed: u64,
    pub(crate) passed_on: u64,
}

impl Host {
    /// Decides who carries, and why, and connects to the kernel.
    pub(crate) async fn open(choice: Choice) -> Result<(Host, String), StartError> {
        let netlink = Netlink::connect().map_err(|e| StartError::Netlink(e.to_string()))?;
        let missing = if choice == Choice::InProcess { None } else { kernel_lacks(&netlink).await? };
        let (carrier, why) = match (choice, missing) {
            (Choice::InProcess, _) => (in_process(), "asked for".to_string()),
            (Choice::Kernel, Some(missing)) => return Err(StartError::KernelLacks { missing }),
            (Choice::Auto, Some(missing)) => (in_process(), format!("the kernel has no {missing}")),
            (choice, None) => {
                let socket = GenericNetlink::connect().map_err(|e| StartError::Netlink(e.to_string()))?;
                let why =
                    if choice == Choice::Kernel { "asked for" } else { "the kernel has wireguard and ipip" };
                (Carry::Kernel(Box::new(socket)), why.to_string())
            }
        };
        if let Carry::InProcess { .. } = carrier {
            Userspace::probe(PROBE_INTERFACE).map_err(StartError::Tun)?;
        }
        let table = nft::Table::default();
        let (told, awaited, reach, targets) = Default::default();
        Ok((
            Host {
                netlink,
                table,
                carrier,
                tunnel: None,
                relay: None,
                foyer: None,
                told,
                awaited,
                reach,
                targets,
            },
            why,
        ))
    }

    /// Who carries packets.
    pub(crate) fn carrier(&self) -> Carrier {
        match self.carrier {
            Carry::Kernel(_) => Carrier::Kernel,
            Carry::InProcess { .. } => Carrier::InProcess,
        }
    }

    /// Removes interfaces of ours that a run with the other carrier left behind.
    pub(crate) async fn remove_strays(&self) -> io::Result<()> {
        let strays: &[&str] = match self.carrier {
            Carry::Kernel(_) => &[],
            Carry::InProcess { .. } => {
                &[RELAY_INTERFACE, TUNNEL_INTERFACE, WIREGUARD_INTERFACE, SECOND_INTERFACE]
            }
        };
        for name in strays {
            self.netlink.remove_link(name).await?;
        }
        Ok(())
    }

    /// Looks at everything of ours, and at what of the host protects it from us; `afresh` also at what nobody but
    /// us should have touched, and where peers are at this moment (else, if they are many: a second ago at most).
    pub(crate) async fn observe(&mut self, afresh: bool) -> io::Result<Observation> {
        let links = self.netlink.links().await?;
        let addresses = self.netlink.addresses().await?;
        let (passing, routes) = self.netlink.routes().await?.into_iter().partition::<Vec<_>, _>(|r| r.relays);
        let proxies = self.netlink.proxies().await?;
        let table = self.table.observe(afresh).await;
        let names: BTreeMap<u32, &str> = links.values().map(|l| (l.index, l.name.as_str())).collect();
        let captures = proxies.iter().filter(|p| p.ours).filter_map(|p| {
            let interface = names.get(&p.interface)?.to_string();
            Some(Capture::ProxyArp { interface, address: p.address })
        });
        let (wireguard, mut peers) = self.observe_wireguard(Line::First, &links, &addresses, afresh).await?;
        let (second, more) = self.observe_wireguard(Line::Second, &links, &addresses, afresh).await?;
        peers.extend(more);
        // A table that we cannot vouch for is shown as empty, so that it is replaced or removed, never left.
        let filter = table.filter.or_else(|| table.exists.then(Default::default));
        let state = State {
            tunnel: self.observe_tunnel(&links, wireguard.as_ref()),
            relay: self.observe_relay(&links, &passing, wireguard.is_some()).await?,
            captures: captures.collect(),
            routes: self.ours(&routes, &names),
            filter,
            protection: protection(&links, &addresses, &routes),
            carrier: self.carrier(),
            wireguard,
            second,
        };
        let (relayed, passed_on) = self.relayed();
        let drops = match &self.carrier {
            Carry::Kernel(_) => table.drops,
            Carry::InProcess { shared, .. } => {
                let mut drops = shared.drops();
                for (reason, count) in table.drops {
                    *drops.entry(reason).or_default() += count;
                }
                drops
            }
        };
        let interfaces = interfaces(&links, &addresses, &state);
        Ok(Observation { state, links, interfaces, peers, drops, relayed, passed_on })
    }

    /// Packets relayed from peer to peer so far, and those of them that went to another hub; 0 where the kernel carries.
    pub(crate) fn relayed(&self) -> (u64, u64) {
        match &self.carrier {
            Carry::Kernel(_) => (0, 0),
            Carry::InProcess { shared, .. } => (shared.relayed(), shared.passed_on()),
        }
    }

    /// Whether peers of the kernel are awaited with fresh keys, so that it must be asked for them.
    pub(crate) fn awaits(&self) -> bool {
        Line::BOTH.into_iter().any(|line| self.awaited.any(line))
    }

    /// Gives the places of those who have called to their fresh keys.
    pub(crate) async fn let_succeed(&mut self) -> io::Result<()> {
        let Carry::Kernel(socket) = &mut self.carrier else { return Ok(()) };
        for line in Line::BOTH {
            if self.awaited.any(line) {
                self.awaited.settle(socket, &self.table, line).await?;
            }
        }
        Ok(())
    }

    /// What is known of the peers now.
    pub(crate) async fn peers(&mut self) -> io::Result<Statuses> {
        match &mut self.carrier {
            Carry::Kernel(socket) => {
                let status = |name| socket.get(name).map(|d| d.status).unwrap_or_default();
                Ok([WIREGUARD_INTERFACE, SECOND_INTERFACE].into_iter().flat_map(status).collect())
            }
            Carry::InProcess { userspace, .. } => match userspace {
                Some(userspace) => {
                    let first = userspace.status(Line::First, true).await;
                    Ok(first.union(userspace.status(Line::Second, true).await))
                }
                None => Ok(Statuses::new()),
            },
        }
    }

    async fn observe_wireguard(
        &mut self,
        line: Line,
        links: &BTreeMap<String, Link>,
        addresses: &[(u32, Ipv4Net)],
        afresh: bool,
    ) -> io::Result<(Option<Wireguard>, Statuses)> {
        let name = self.carrier().interface(line.target());
        let Some(link) = links.get(name) else { return Ok((None, Statuses::new())) };
        let addresses = addresses.iter().filter(|(index, _)| *index == link.index).map(|(_, a)| *a).collect();
        // In process both have one device, whose addresses and MTU are the first one's.
        let shared = line == Line::Second && name == TUN_INTERFACE;
        // A link that is down does not carry; MTU 0 makes the plan set the device again.
        let mtu = if link.up { u16::try_from(link.mtu).unwrap_or(u16::MAX) } else { 0 };
        match &mut self.carrier {
            Carry::Kernel(socket) => {
                let (device, former_keys) = self.awaited.settle(socket, &self.table, line).await?;
                let Some(private_key) = device.private_key else { return Ok((None, device.status)) };
                let (listen_port, mut peers) = (device.listen_port, device.peers);
                for status in device.status.values() {
                    let told = self.told.get(&(line, status.key)).copied();
                    if let Some(peer) = peers.get_mut(&status.key) {
                        peer.endpoint = settled(told, status.endpoint, status.age());
                    }
                }
                let seen = Wireguard { private_key, listen_port, addresses, mtu, peers, former_keys };
                Ok((Some(seen), device.status))
            }
            Carry::InProcess { userspace, .. } => {
                let Some(userspace) = userspace else { return Ok((None, Statuses::new())) };
                let Some((private_key, listen_port, told_mtu)) = userspace.device(line) else {
                    return Ok((None, Statuses::new()));
                };
                let (addresses, mtu) = if shared { (Default::default(), told_mtu) } else { (addresses, mtu) };
                let status = userspace.status(line, afresh).await;
                let (peers, former_keys) = (userspace.peers(line), userspace.former_keys(line));
                let seen = Wireguard { private_key, listen_port, addresses, mtu, peers, former_keys };
                Ok((Some(seen), status))
            }
        }
    }

    /// The tunnel as last applied, if the interface that carries it is as it must be.
    fn observe_tunnel(
        &self,
        links: &BTreeMap<String, Link>,
        wireguard: Option<&Wireguard>,
    ) -> Option<Tunnel> {
        match self.carrier {
            Carry::Kernel(_) => {
                let link = links.get(TUNNEL_INTERFACE)?;
                let mtu = if link.up { u16::try_from(link.mtu).unwrap_or(u16::MAX) } else { 0 };
                // The interface knows no local address (each route does); after a restart it is taken from
                // WireGuard, and a wrong guess costs one idempotent change.
                let local = self.tunnel.map(|t| t.local);
                let first = || wireguard.and_then(|w| w.addresses.first()).map(|a| a.addr());
                Some(Tunnel { local: local.or_else(first).unwrap_or(std::net::Ipv4Addr::UNSPECIFIED), mtu })
            }
            Carry::InProcess { .. } => self.tunnel.filter(|_| wireguard.is_some()),
        }
    }

    /// What is passed on to other hubs and taken from them, if what carries it is as it must be.
    async fn observe_relay(
        &self,
        links: &BTreeMap<String, Link>,
        passing: &[KernelRoute],
        wireguard: bool,
    ) -> io::Result<Option<Relay>> {
        if !matches!(self.carrier, Carry::Kernel(_)) {
            return Ok(self.relay.clone().filter(|_| wireguard));
        }
        let Some(link) = links.get(RELAY_INTERFACE) else { return Ok(None) };
        // What a previous run left is no wish's: it is brought in line, or taken away.
        let nothing = std::net::Ipv4Addr::UNSPECIFIED;
        let unknown = || Relay {
            local: nothing,
            overlay: nothing.into(),
            mtu: 0,
            hubs: Default::default(),
            beyond: BTreeMap::new(),
        };
        let mut relay = self.relay.clone().unwrap_or_else(unknown);
        let whole = link.up && self.netlink.relay_rule().await?;
        relay.mtu = if whole { u16::try_from(link.mtu).unwrap_or(u16::MAX) } else { 0 };
        let beyond = passing.iter().filter(|r| r.interface == Some(link.index));
        relay.beyond = beyond.filter_map(|r| Some((r.prefix.addr(), r.tunnel_to?))).collect();
        Ok(Some(relay))
    }

    /// Applies one change.
    pub(crate) async fn apply(
        &mut self,
        change: &Change,
        links: &mut BTreeMap<String, Link>,
    ) -> io::Result<()> {
        if let Change::RemoveWireguard(line) = change {
            self.awaited.end(*line);
        }
        match change {
            Change::SetWireguard(line, device) => self.set_wireguard(*line, device, links).await,
            Change::RemoveWireguard(Line::Second) => match &mut self.carrier {
                Carry::InProcess { userspace: Some(userspace), .. } => {
                    userspace.remove_second().await;
                    Ok(())
                }
                _ => {
                    links.remove(SECOND_INTERFACE);
                    self.netlink.remove_link(SECOND_INTERFACE).await
                }
            },
            Change::RemoveWireguard(Line::First) => {
                if let Carry::InProcess { userspace, .. } = &mut self.carrier
                    && let Some(mut userspace) = userspace.take()
                {
                    userspace.stop().await;
                }
                let name = self.carrier().interface(Target::Wireguard);
                links.remove(name);
                self.netlink.remove_link(name).await
            }
            Change::SetPeer(line, key, peer) => match &mut self.carrier {
                Carry::Kernel(socket) => {
                    socket.set_peer(kernel_name(*line), *key, peer)?;
                    self.awaited.has_its_place(*line, *key);
                    match peer.endpoint {
                        Some(endpoint) => drop(self.told.insert((*line, *key), endpoint)),
                        None => drop(self.told.remove(&(*line, *key))),
                    }
                    Ok(())
                }
                Carry::InProcess { userspace, .. } => present(userspace)?.set_peer(*line, *key, peer).await,
            },
            Change::AwaitPeer { line, fresh, former } => match &mut self.carrier {
                Carry::Kernel(socket) => {
                    self.awaited.add(socket, &self.table, *line, (*fresh, *former)).await
                }
                Carry::InProcess { userspace, .. } => {
                    present(userspace)?.await_peer(*line, *fresh, *former).await
                }
            },
            Change::RemovePeer(line, key) => match &mut self.carrier {
                Carry::Kernel(socket) => {
                    self.told.remove(&(*line, *key));
                    self.awaited.forget(socket, *line, *key)?;
                    socket.remove_peer(kernel_name(*line), *key)
                }
                Carry::InProcess { userspace, .. } => present(userspace)?.remove_peer(*line, *key).await,
            },
            Change::SetTunnel(tunnel) => self.set_tunnel(*tunnel, links).await,
            Change::RemoveTunnel => {
                self.tunnel = None;
                links.remove(TUNNEL_INTERFACE);
                self.netlink.remove_link(TUNNEL_INTERFACE).await
            }
            Change::SetRelay(relay) => self.set_relay(relay, links).await,
            Change::RemoveRelay => {
                self.relay = None;
                links.remove(RELAY_INTERFACE);
                // The routes go with their interface.
                self.netlink.remove_relay_rule().await?;
                self.netlink.remove_link(RELAY_INTERFACE).await
            }
            Change::SetFilter(filter) => {
                self.foyer = filter.filter.foyer;
                self.table.apply(change).await
            }
            Change::RemoveFilter => {
                self.foyer = None;
                self.table.apply(change).await
            }
            Change::SetOwners { .. } => self.table.apply(change).await,
            Change::SetRoute(prefix, route) => self.set_route(*prefix, route, links).await,
            Change::RemoveRoute(prefix) => {
                self.targets.remove(prefix);
                self.netlink.remove_route(*prefix).await
            }
            Change::AddCapture(capture) => {
                let link = named(links, capture.interface())?;
                self.netlink.add_proxy(link.index, capture.address()).await
            }
            Change::RemoveCapture(capture) => match links.get(capture.interface()) {
                Some(link) => self.netlink.remove_proxy(link.index, capture.address()).await,
                None => Ok(()),
            },
        }
    }

    /// Our routes as the plan sees them.
    fn ours(&self, routes: &[KernelRoute], names: &BTreeMap<u32, &str>) -> BTreeMap<Ipv4Net, Route> {
        let route = |r: &KernelRoute| {
            let device = r.interface.and_then(|index| names.get(&index)).copied();
            let target = match (self.carrier(), device, r.tunnel_to) {
                (Carrier::Kernel, Some(TUNNEL_INTERFACE), Some(owner)) => {
                    Some(Target::owned_by(owner, r.tunnel_also.iter().copied()))
                }
                (Carrier::Kernel, Some(WIREGUARD_INTERFACE), None) => Some(Target::Wireguard),
                (Carrier::Kernel, Some(SECOND_INTERFACE), None) => Some(Target::SecondWireguard),
                (Carrier::InProcess, Some(TUN_INTERFACE), None) => self.targets.get(&r.prefix).copied(),
                _ => None,
            };
            let narrow = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
            Route { target, source: r.source, mtu: narrow(r.mtu), advmss: narrow(r.advmss) }
        };
        routes.iter().filter(|r| r.protocol == ROUTE_PROTOCOL).map(|r| (r.prefix, route(r))).collect()
    }

    /// Puts the packet table of the in-process carrier in line with `state`.
    pub(crate) fn compile(&mut self, state: &State) {
        if let Carry::InProcess { shared, .. } = &self.carrier {
            shared.install(Table::compile(state, self.foyer, &mut self.reach));
        }
    }

    async fn set_wireguard(
        &mut self,
        line: Line,
        device: &Device,
        links: &mut BTreeMap<String, Link>,
    ) -> io::Result<()> {
        let name = self.carrier().interface(line.target());
        match &mut self.carrier {
            Carry::InProcess { userspace, .. } if line == Line::Second => {
                // The device and its addresses are the first one's.
                return present(userspace)?.set_device(line, device).await;
            }
            Carry::Kernel(_) => {
                if !links.contains_key(name) {
                    self.netlink
                        .add_wireguard(name)
                        .await
                        .map_err(|e| netlink::failed(format_args!("making {name}"), e))?;
                }
            }
            Carry::InProcess { shared, userspace } => {
                if userspace.is_none() || !links.contains_key(name) {
                    if let Some(mut old) = userspace.take() {
                        old.stop().await;
                    }
                    *userspace = Some(Box::new(Userspace::open(shared.clone())?));
                }
            }
        }
        *links = self.netlink.links().await?;
        let link = named(links, name)?.clone();
        match &mut self.carrier {
            Carry::Kernel(socket) => socket.set_device(name, device)?,
            Carry::InProcess { userspace, .. } => present(userspace)?.set_device(line, device).await?,
        }
        self.netlink.set_link(&link, device.mtu).await?;
        let seen = self.netlink.addresses().await?;
        let seen: Vec<_> =
            seen.into_iter().filter(|(index, _)| *index == link.index).map(|(_, a)| a).collect();
        for address in device.addresses.iter().filter(|a| !seen.contains(a)) {
            self.netlink.add_address(&link, *address).await?;
        }
        for address in seen.iter().filter(|a| !device.addresses.contains(a)) {
            self.netlink.remove_address(&link, *address).await?;
        }
        quiet(name).await;
        *links = self.netlink.links().await?;
        Ok(())
    }

    async fn set_tunnel(&mut self, tunnel: Tunnel, links: &mut BTreeMap<String, Link>) -> io::Result<()> {
        if let Carry::Kernel(_) = self.carrier {
            if !links.contains_key(TUNNEL_INTERFACE) {
                let made = self.netlink.add_ipip(TUNNEL_INTERFACE).await;
                made.map_err(|e| netlink::failed("making fab-ipip", e))?;
                *links = self.netlink.links().await?;
            }
            let link = named(links, TUNNEL_INTERFACE)?;
            self.netlink.set_link(link, tunnel.mtu).await?;
            quiet(TUNNEL_INTERFACE).await;
            *links = self.netlink.links().await?;
        }
        self.tunnel = Some(tunnel);
        Ok(())
    }

    async fn set_relay(&mut self, relay: &Relay, links: &mut BTreeMap<String, Link>) -> io::Result<()> {
        if let Carry::Kernel(_) = self.carrier {
            if !links.contains_key(RELAY_INTERFACE) {
                let made = self.netlink.add_ipip(RELAY_INTERFACE).await;
                made.map_err(|e| netlink::failed(format_args!("making {RELAY_INTERFACE}"), e))?;
                *links = self.netlink.links().await?;
            }
            let link = named(links, RELAY_INTERFACE)?.clone();
            if !link.up || link.mtu != u32::from(relay.mtu) {
                self.netlink.set_link(&link, relay.mtu).await?;
                quiet(RELAY_INTERFACE).await;
                *links = self.netlink.links().await?;
            }
            let routes = self.netlink.routes().await?;
            let seen: BTreeMap<_, _> =
                routes.iter().filter(|r| r.relays).map(|r| (r.prefix.addr(), r.tunnel_to)).collect();
            for node in seen.keys().filter(|node| !relay.beyond.contains_key(node)) {
                self.netlink.keep(*node).await?;
            }
            for (&node, &hub) in
                relay.beyond.iter().filter(|(node, hub)| seen.get(node) != Some(&Some(**hub)))
            {
                self.netlink.pass_on(node, relay.local, hub, link.index).await?;
            }
            self.netlink.add_relay_rule().await?;
        }
        self.relay = Some(relay.clone());
        Ok(())
    }

    async fn set_route(
        &mut self,
        prefix: Ipv4Net,
        route: &Route,
        links: &BTreeMap<String, Link>,
    ) -> io::Result<()> {
        let Some(target) = route.target else { return Ok(()) };
        let link = named(links, self.carrier().interface(target))?;
        let wraps = link.name == TUNNEL_INTERFACE;
        self.netlink.set_route(prefix, route, link.index, wraps).await?;
        self.targets.insert(prefix, target);
        Ok(())
    }

    /// Takes everything of ours away, whoever made it, as far as possible; the first failure is returned.
    pub(crate) async fn remove(&mut self) -> io::Result<()> {
        let mut links = self.netlink.links().await?;
        let routes = self.netlink.routes().await?;
        let proxies = self.netlink.proxies().await?;
        let mut result = Ok(());
        for proxy in proxies.iter().filter(|p| p.ours) {
            result = result.and(self.netlink.remove_proxy(proxy.interface, proxy.address).await);
        }
        for route in routes.iter().filter(|r| r.protocol == ROUTE_PROTOCOL && !r.relays) {
            result = result.and(self.netlink.remove_route(route.prefix).await);
        }
        result = result.and(self.apply(&Change::RemoveRelay, &mut links).await);
        result = result.and(self.apply(&Change::RemoveTunnel, &mut links).await);
        for line in [Line::Second, Line::First] {
            result = result.and(self.apply(&Change::RemoveWireguard(line), &mut links).await);
        }
        for name in [RELAY_INTERFACE, TUNNEL_INTERFACE, WIREGUARD_INTERFACE, SECOND_INTERFACE, TUN_INTERFACE]
        {
            result = result.and(self.netlink.remove_link(name).await);
        }
        if self.table.observe(true).await.exists {
            result = result.and(self.apply(&Change::RemoveFilter, &mut links).await);
        }
        result
    }
}

fn in_process() -> Carry {
    Carry::InProcess { shared: Arc::default(), userspace: None }
}

fn present(userspace: &mut Option<Box<Userspace>>) -> io::Result<&mut Userspace> {
    userspace.as_deref_mut().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no fab-tun"))
}

pub(crate) const fn kernel_name(line: Line) -> &'static str {
    Carrier::Kernel.interface(line.target())
}

fn named<'a>(links: &'a BTreeMap<String, Link>, name: &str) -> io::Result<&'a Link> {
    links
        .get(name)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("there is no interface {name}")))
}

/// Kinds of interface that the kernel dataplane needs and this kernel cannot make.
async fn kernel_lacks(netlink: &Netlink) -> Result<Option<&'static str>, StartError> {
    const EPERM: i32 = 1;
    let links = netlink.links().await.map_err(|e| StartError::Netlink(e.to_string()))?;
    for (kind, existing) in [("wireguard", WIREGUARD_INTERFACE), ("ipip", TUNNEL_INTERFACE)] {
        if links.contains_key(existing) {
            continue;
        }
        let made = match kind {
            "wireguard" => netlink.add_wireguard(PROBE_INTERFACE).await,
            _ => netlink.add_ipip(PROBE_INTERFACE).await,
        };
        match made {
            Ok(()) => {
                netlink.remove_link(PROBE_INTERFACE).await.map_err(|e| StartError::Netlink(e.to_string()))?;
            }
            Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code() == -EPERM => {
                return Err(StartError::NotPermitted(message.to_io()));
            }
            Err(_) => return Ok(Some(kind)),
        }
    }
    Ok(None)
}

/// Our own interfaces need neither IPv6 addresses nor redirects, and their sources are checked exactly elsewhere.
async fn quiet(interface: &str) {
    // With two hubs, packets come in by one WireGuard and their answers leave by the other: where the host asks for the
    // strict check on every interface, the larger number here (loose) is what holds.
    // The same for what another hub passes on: its source is the other way.
    let loose = [SECOND_INTERFACE, WIREGUARD_INTERFACE, RELAY_INTERFACE].contains(&interface);
    let reverse_path = if loose { "2" } else { "0" };
    let settings =
        [("ipv6", "disable_ipv6", "1"), ("ipv4", "send_redirects", "0"), ("ipv4", "rp_filter", reverse_path)];
    for (family, key, value) in settings {
        // A kernel without IPv6 has no such file, and none of these is needed for packets to pass.
        let _ = tokio::fs::write(format!("/proc/sys/net/{family}/conf/{interface}/{key}"), value).await;
    }
}

fn is_ours(name: &str) -> bool {
    [WIREGUARD_INTERFACE, SECOND_INTERFACE, TUNNEL_INTERFACE, RELAY_INTERFACE, TUN_INTERFACE].contains(&name)
}

/// What must not be covered: addresses, connected prefixes and gateways of interfaces that are not ours, and the
/// exact prefixes of routes that are not ours.
fn protection(
    links: &BTreeMap<String, Link>,
    addresses: &[(u32, Ipv4Net)],
    routes: &[KernelRoute],
) -> Protection {
    let foreign: BTreeMap<u32, &Link> =
        links.values().filter(|l| !is_ours(&l.name) && !l.loopback).map(|l| (l.index, l)).collect();
    let mut prefixes = std::collections::BTreeSet::new();
    for (_, address) in addresses.iter().filter(|(index, _)| foreign.contains_key(index)) {
        prefixes.insert((Ipv4Net::from(address.addr()), ProtectedPrefix::OwnAddress));
        if address.prefix_len() < 32 {
            prefixes.insert((address.trunc(), ProtectedPrefix::Connected));
        }
    }
    for route in routes.iter().filter(|r| r.protocol != ROUTE_PROTOCOL) {
        if route.interface.is_some_and(|index| !foreign.contains_key(&index)) {
            continue;
        }
        if let Some(gateway) = route.gateway {
            prefixes.insert((gateway.into(), ProtectedPrefix::Gateway));
        }
        if route.prefix.prefix_len() > 0 {
            let connected = route.scope_link && route.unicast && route.gateway.is_none();
            let reason = if connected { ProtectedPrefix::Connected } else { ProtectedPrefix::ForeignRoute };
            prefixes.insert((route.prefix, reason));
        }
    }
    Protection { prefixes }
}

fn interfaces(
    links: &BTreeMap<String, Link>,
    addresses: &[(u32, Ipv4Net)],
    state: &State,
) -> Vec<InterfaceView> {
    let view = |link: &Link| {
        let carries = ![TUNNEL_INTERFACE, RELAY_INTERFACE].contains(&link.name.as_str());
        let line = if link.name == SECOND_INTERFACE { Line::Second } else { Line::First };
        let wireguard = state.line(line);
        InterfaceView {
            name: link.name.clone(),
            kind: match &link.kind {
                Some(InfoKind::IpIp) => "ipip".into(),
                Some(kind) => kind.to_string(),
                None => "unknown".into(),
            },
            mtu: link.mtu,
            up: link.up,
            addresses: addresses.iter().filter(|(i, _)| *i == link.index).map(|(_, a)| *a).collect(),
            listen_port: wireguard.filter(|_| carries).map(|w| w.listen_port),
            public_key: wireguard.filter(|_| carries).map(|w| w.private_key.public()),
        }
    };
    links.values().filter(|l| is_ours(&l.name)).map(view).collect()
}

/// The IPv4 endpoints of peers, which protect themselves from those of our routes that would cover them.
pub(crate) fn endpoints<'a>(
    peers: &'a Statuses,
    routes: &'a BTreeMap<Ipv4Net, Target>,
) -> impl Iterator<Item = (Ipv4Net, ProtectedPrefix)> + 'a {
    let endpoint = |p: &PeerStatus| match p.endpoint?.ip().to_canonical() {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    };
    let covered = peers.values().filter_map(endpoint).filter(|v4| routes.keys().any(|net| net.contains(v4)));
    covered.map(|v4| (Ipv4Net::from(v4), ProtectedPrefix::Endpoint))
}
