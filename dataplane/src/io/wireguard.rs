//! The kernel's WireGuard by generic netlink.

use std::io;
use std::net::IpAddr;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use ipnet::Ipv4Net;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_packet_generic::GenlMessage;
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute, WireguardCmd,
    WireguardMessage, WireguardPeer as NetlinkPeer, WireguardPeerAttribute, WireguardPeerFlags,
};
use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};

use crate::io::userspace::{PeerStatus, Statuses};
use crate::plan;
use crate::state::{Peers, PrivateKey, PublicKey, WireguardPeer};

/// The generic netlink socket; requests are answered by the kernel at once, so they are made synchronously.
pub(crate) struct GenericNetlink {
    socket: Socket,
    family: u16,
    sequence: u32,
}

/// A WireGuard interface as the kernel has it.
pub(crate) struct KernelWireguard {
    pub(crate) private_key: Option<PrivateKey>,
    pub(crate) listen_port: u16,
    pub(crate) peers: Peers,
    pub(crate) status: Statuses,
}

impl GenericNetlink {
    /// Connects; fails if the kernel has no WireGuard.
    pub(crate) fn connect() -> io::Result<GenericNetlink> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let mut netlink = GenericNetlink { socket, family: 0, sequence: 0 };
        let name = vec![GenlCtrlAttrs::FamilyName("wireguard".into())];
        let request = GenlMessage::from_payload(GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: name });
        let answers = netlink.request(request, NLM_F_REQUEST | NLM_F_ACK)?;
        let id = answers.iter().flat_map(|a| &a.payload.nlas).find_map(|attribute| match attribute {
            GenlCtrlAttrs::FamilyId(id) => Some(*id),
            _ => None,
        });
        netlink.family = id.ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?;
        Ok(netlink)
    }

    /// Sends one request and collects the answers up to their end.
    fn request<T>(&mut self, mut message: GenlMessage<T>, flags: u16) -> io::Result<Vec<GenlMessage<T>>>
    where
        GenlMessage<T>: NetlinkSerializable + NetlinkDeserializable,
        T: netlink_packet_generic::GenlFamily + netlink_packet_core::Emitable + std::fmt::Debug,
    {
        message.finalize();
        if self.family != 0 {
            message.set_resolved_family_id(self.family);
        }
        self.sequence = self.sequence.wrapping_add(1);
        let mut packet = NetlinkMessage::from(message);
        packet.header.flags = flags;
        packet.header.sequence_number = self.sequence;
        packet.finalize();
        let mut buffer = vec![0; packet.buffer_len()];
        packet.serialize(&mut buffer);
        self.socket.send(&buffer, 0)?;
        self.collect()
    }

    fn collect<T>(&self) -> io::Result<Vec<GenlMessage<T>>>
    where
        GenlMessage<T>: NetlinkDeserializable,
    {
        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let packet = NetlinkMessage::<GenlMessage<T>>::deserialize(rest).map_err(io::Error::other)?;
                let len = (packet.header.length as usize).next_multiple_of(4).min(rest.len());
                rest = &rest[len.max(1)..];
                if packet.header.sequence_number != self.sequence {
                    continue;
                }
                match packet.payload {
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => Ok(answers),
                            Some(_) => Err(error.to_io()),
                        };
                    }
                    NetlinkPayload::InnerMessage(message) => answers.push(message),
                    _ => {}
                }
            }
        }
    }

    fn set(&mut self, attributes: Vec<WireguardAttribute>) -> io::Result<()> {
        let message = WireguardMessage { cmd: WireguardCmd::SetDevice, attributes };
        self.request(GenlMessage::from_payload(message), NLM_F_REQUEST | NLM_F_ACK).map(drop)
    }

    /// Sets key and port of `interface`, each only if it differs: either one ends all sessions or moves the socket.
    pub(crate) fn set_device(&mut self, interface: &str, device: &plan::Device) -> io::Result<()> {
        let seen = self.get(interface)?;
        let mut attributes = vec![WireguardAttribute::IfName(interface.into())];
        if seen.private_key.as_ref() != Some(&device.private_key) {
            attributes.push(WireguardAttribute::PrivateKey(*device.private_key.expose()));
        }
        if device.listen_port != 0 && seen.listen_port != device.listen_port {
            attributes.push(WireguardAttribute::ListenPort(device.listen_port));
        }
        let fresh_key = seen.private_key.is_some_and(|key| key != device.private_key);
        if attributes.len() > 1 {
            self.set(attributes)?;
        }
        // What is sent waits for the handshake from here on. A keepalive that is turned on again begins it at once.
        for (key, peer) in seen.peers.into_iter().filter(|(_, peer)| fresh_key && peer.keepalive_secs > 0) {
            for keepalive_secs in [0, peer.keepalive_secs] {
                self.set_peer(
                    interface,
                    key,
                    &WireguardPeer { keepalive_secs, endpoint: None, ..peer.clone() },
                )?;
            }
        }
        Ok(())
    }

    /// Adds or corrects one peer of `interface`; its sessions go on.
    pub(crate) fn set_peer(
        &mut self,
        interface: &str,
        key: PublicKey,
        peer: &WireguardPeer,
    ) -> io::Result<()> {
        self.set_peers(interface, vec![attributes(key, peer)])
    }

    /// Gives the prefixes of one peer to the one that takes its place, removes the first, and calls the other where it was
    /// heard.
    pub(crate) fn succeed(
        &mut self,
        interface: &str,
        (fresh, from): (PublicKey, std::net::SocketAddr),
        former: PublicKey,
        peer: &WireguardPeer,
    ) -> io::Result<()> {
        let heir = |keepalive_secs| {
            attributes(fresh, &WireguardPeer { endpoint: Some(from), keepalive_secs, ..peer.clone() })
        };
        // A keepalive that is turned on is sent at once, and begins a handshake; but not by a peer that has answered one
        // within five seconds, and so it is a new one.
        self.set_peers(interface, vec![removal(fresh), heir(1), removal(former)])?;
        self.set_peers(interface, vec![heir(peer.keepalive_secs)])
    }

    /// Removes one peer of `interface`.
    pub(crate) fn remove_peer(&mut self, interface: &str, key: PublicKey) -> io::Result<()> {
        self.set_peers(interface, vec![removal(key)])
    }

    fn set_peers(&mut self, interface: &str, peers: Vec<NetlinkPeer>) -> io::Result<()> {
        self.set(vec![WireguardAttribute::IfName(interface.into()), WireguardAttribute::Peers(peers)])
    }

    /// Reads `interface` with its peers.
    pub(crate) fn get(&mut self, interface: &str) -> io::Result<KernelWireguard> {
        let attributes = vec![WireguardAttribute::IfName(interface.into())];
        let message = WireguardMessage { cmd: WireguardCmd::GetDevice, attributes };
        let answers = self.request(GenlMessage::from_payload(message), NLM_F_REQUEST | NLM_F_DUMP)?;
        let (peers, status) = Default::default();
        let mut device = KernelWireguard { private_key: None, listen_port: 0, peers, status };
        for attribute in answers.into_iter().flat_map(|a| a.payload.attributes) {
            match attribute {
                WireguardAttribute::PrivateKey(key) => device.private_key = Some(PrivateKey::from_bytes(key)),
                WireguardAttribute::ListenPort(port) => device.listen_port = port,
                WireguardAttribute::Peers(peers) => peers.into_iter().for_each(|p| device.add(p)),
                _ => {}
            }
        }
        Ok(device)
    }
}

/// A peer as it must be, without any other prefix.
fn attributes(key: PublicKey, peer: &WireguardPeer) -> NetlinkPeer {
    let mut attributes = vec![
        WireguardPeerAttribute::PublicKey(key.0),
        WireguardPeerAttribute::Flags(WireguardPeerFlags::ReplaceAllowedIps),
        WireguardPeerAttribute::PersistentKeepalive(peer.keepalive_secs),
    ];
    attributes.extend(peer.endpoint.map(WireguardPeerAttribute::Endpoint));
    let allowed = peer.allowed_ips.iter().map(|net| {
        WireguardAllowedIp(vec![
            WireguardAllowedIpAttr::Family(WireguardAddressFamily::Ipv4),
            WireguardAllowedIpAttr::IpAddr(net.network().into()),
            WireguardAllowedIpAttr::Cidr(net.prefix_len()),
        ])
    });
    attributes.push(WireguardPeerAttribute::AllowedIps(allowed.collect()));
    NetlinkPeer(attributes)
}

fn removal(key: PublicKey) -> NetlinkPeer {
    let flags = WireguardPeerFlags::RemoveMe | WireguardPeerFlags::UpdateOnly;
    NetlinkPeer(vec![WireguardPeerAttribute::PublicKey(key.0), WireguardPeerAttribute::Flags(flags)])
}

impl KernelWireguard {
    /// As if it were not there.
    pub(crate) fn forget(&mut self, key: PublicKey) {
        self.peers.remove(&key);
        self.status.remove(&key);
    }

    /// Takes one peer of a dump; a peer with many AllowedIPs is continued in the next message.
    fn add(&mut self, peer: NetlinkPeer) {
        let key = peer.iter().find_map(|attribute| match attribute {
            WireguardPeerAttribute::PublicKey(key) => Some(PublicKey(*key)),
            _ => None,
        });
        let Some(key) = key else { return };
        let unknown = || PeerStatus::told(key, &WireguardPeer::default());
        let status = self.status.entry(key).or_insert_with(unknown);
        let entry = self.peers.entry(key).or_default();
        for attribute in peer.0 {
            match attribute {
                WireguardPeerAttribute::Endpoint(endpoint) => {
                    entry.endpoint = Some(endpoint);
                    status.endpoint = Some(endpoint);
                }
                WireguardPeerAttribute::PersistentKeepalive(secs) => entry.keepalive_secs = secs,
                WireguardPeerAttribute::LastHandshake(time) if time.seconds > 0 => {
                    let then =
                        UNIX_EPOCH.checked_add(std::time::Duration::from_secs(time.seconds.unsigned_abs()));
                    let ago = then.and_then(|then| SystemTime::now().duration_since(then).ok());
                    status.last_handshake = Some((ago.unwrap_or_default(), Instant::now()));
                }
                WireguardPeerAttribute::RxBytes(bytes) => status.rx_bytes = bytes,
                WireguardPeerAttribute::TxBytes(bytes) => status.tx_bytes = bytes,
                WireguardPeerAttribute::AllowedIps(list) => {
                    entry.allowed_ips.extend(list.iter().filter_map(net))
                }
                _ => {}
            }
        }
    }
}

fn net(allowed: &WireguardAllowedIp) -> Option<Ipv4Net> {
    let (mut address, mut len) = (None, None);
    for attribute in &allowed.0 {
        match attribute {
            WireguardAllowedIpAttr::IpAddr(IpAddr::V4(v4)) => address = Some(*v4),
            WireguardAllowedIpAttr::Cidr(cidr) => len = Some(*cidr),
            _ => {}
        }
    }
    Ipv4Net::new(address?, len?).ok()
}
