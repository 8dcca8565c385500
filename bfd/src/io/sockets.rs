//! The sockets: one to receive for each of our addresses and hop modes, one to send for each session.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::io::{Error, ErrorKind, IoSliceMut, Result};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::session::Micros;
use crate::sessions::{Departure, Key, SessionId};
use crate::settings::{MULTIHOP_PORT, SINGLE_HOP_PORT};

/// The first source port (RFC 5881 section 4); the last is 65535.
const FIRST_SOURCE_PORT: u16 = 49_152;
/// Source ports that are tried before a session gets none.
const PORT_TRIES: u64 = 64;
/// When an address that could not be had is tried again.
const RETRY_MICROS: Micros = 1_000_000;
/// Class selector 6: before bulk traffic.
const TRAFFIC_CLASS: u32 = 0xc0;

/// Where packets arrive: an address of ours and the hop mode.
type Place = (IpAddr, bool);

/// A datagram as it came.
pub(super) struct Received {
    pub key: Key,
    pub ttl: Option<u8>,
    pub length: usize,
}

/// All sockets.
pub(super) struct Sockets {
    receive: BTreeMap<Place, UdpSocket>,
    send: BTreeMap<SessionId, UdpSocket>,
    retry_at: Micros,
    luck: RandomState,
    tries: u64,
}

fn port(multihop: bool) -> u16 {
    if multihop { MULTIHOP_PORT } else { SINGLE_HOP_PORT }
}

fn socket(address: IpAddr) -> Result<Socket> {
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn receiver((address, multihop): Place) -> Result<UdpSocket> {
    let socket = socket(address)?;
    if address.is_ipv4() {
        setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
    }
    socket.bind(&SocketAddr::new(address, port(multihop)).into())?;
    Ok(socket.into())
}

impl Sockets {
    pub fn new() -> Sockets {
        Sockets {
            receive: BTreeMap::new(),
            send: BTreeMap::new(),
            retry_at: Micros::MAX,
            luck: RandomState::new(),
            tries: 0,
        }
    }

    /// When an address should be tried again.
    pub fn retry_at(&self) -> Micros {
        self.retry_at
    }

    /// Opens what these sessions need and closes the rest; says what went wrong for which session.
    pub fn follow(&mut self, wanted: &[(SessionId, Key)], now: Micros) -> Vec<(SessionId, Option<String>)> {
        let places: BTreeSet<Place> = wanted.iter().map(|(_, k)| (k.local, k.multihop)).collect();
        let ids: BTreeSet<SessionId> = wanted.iter().map(|(id, _)| *id).collect();
        self.receive.retain(|place, _| places.contains(place));
        self.send.retain(|id, _| ids.contains(id));
        self.retry_at = Micros::MAX;
        let mut broken: BTreeMap<Place, String> = BTreeMap::new();
        for place in places {
            if self.receive.contains_key(&place) {
                continue;
            }
            match receiver(place) {
                Ok(socket) => drop(self.receive.insert(place, socket)),
                Err(error) => {
                    broken.insert(place, format!("UDP {}: {error}", SocketAddr::new(place.0, port(place.1))));
                }
            }
        }
        let mut outcome = Vec::new();
        for (id, key) in wanted {
            let mut error = broken.get(&(key.local, key.multihop)).cloned();
            if !self.send.contains_key(id) {
                match self.sender(key.local) {
                    Ok(socket) => drop(self.send.insert(*id, socket)),
                    Err(why) => error = error.or(Some(format!("UDP from {}: {why}", key.local))),
                }
            }
            if error.is_some() {
                self.retry_at = now + RETRY_MICROS;
            }
            outcome.push((*id, error));
        }
        outcome
    }

    /// A socket with a source port that no other session has.
    fn sender(&mut self, local: IpAddr) -> Result<UdpSocket> {
        let socket = socket(local)?;
        if local.is_ipv4() {
            socket.set_ttl_v4(255)?;
            socket.set_tos_v4(TRAFFIC_CLASS)?;
        } else {
            socket.set_unicast_hops_v6(255)?;
            socket.set_tclass_v6(TRAFFIC_CLASS)?;
        }
        for _ in 0..PORT_TRIES {
            self.tries += 1;
            let luck = self.luck.hash_one(self.tries) % u64::from(u16::MAX - FIRST_SOURCE_PORT + 1);
            match socket.bind(&SocketAddr::new(local, FIRST_SOURCE_PORT + luck as u16).into()) {
                Ok(()) => return Ok(socket.into()),
                Err(error) if error.kind() == ErrorKind::AddrInUse => {}
                Err(error) => return Err(error),
            }
        }
        Err(ErrorKind::AddrInUse.into())
    }

    /// The sockets to wait for.
    pub fn receivers(&self) -> impl Iterator<Item = (Place, &UdpSocket)> {
        self.receive.iter().map(|(place, socket)| (*place, socket))
    }

    /// Sends a packet; `Err`: it was not sent, and the next one is due soon.
    pub fn send(&self, departure: &Departure) -> Result<()> {
        let socket = self.send.get(&departure.id).ok_or(Error::from(ErrorKind::NotConnected))?;
        let to = SocketAddr::new(departure.key.remote, port(departure.key.multihop));
        socket.send_to(&departure.octets, to).map(drop)
    }
}

/// Reads one datagram with its TTL; `None`: there is none.
pub(super) fn receive((local, multihop): Place, socket: &UdpSocket, buffer: &mut [u8]) -> Option<Received> {
    let mut control = cmsg_space!(i32);
    let mut slices = [IoSliceMut::new(buffer)];
    let fd = socket.as_raw_fd();
    let message =
        recvmsg::<SockaddrStorage>(fd, &mut slices, Some(&mut control), MsgFlags::MSG_DONTWAIT).ok()?;
    let ttl = message.cmsgs().ok()?.find_map(|c| match c {
        ControlMessageOwned::Ipv4Ttl(ttl) | ControlMessageOwned::Ipv6HopLimit(ttl) => u8::try_from(ttl).ok(),
        _ => None,
    });
    let from = message.address.as_ref()?;
    let remote = match (from.as_sockaddr_in(), from.as_sockaddr_in6()) {
        (Some(v4), _) => IpAddr::V4(v4.ip()),
        (_, Some(v6)) => IpAddr::V6(v6.ip()),
        _ => return None,
    };
    Some(Received { key: Key { local, remote, multihop }, ttl, length: message.bytes })
}
