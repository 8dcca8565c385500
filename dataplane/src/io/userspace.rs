//! The in-process dataplane: gotatun's WireGuard between a TUN device and UDP, with ipip wrapped and unwrapped on
//! the way. The TUN device goes with the process; a restart therefore interrupts traffic until the next handshake.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use gotatun::device::{Device, DeviceBuilder, Peer};
use gotatun::noise::TimerParams;
use gotatun::packet::{Ip, Packet, PacketBufPool};
use gotatun::tun::tun::AsyncDevice;
use gotatun::tun::{IpRecv, IpSend, MtuWatcher};
use gotatun::udp::socket::{UdpSocket, UdpSocketFactory};
use gotatun::udp::{UdpTransportFactory, UdpTransportFactoryParams};
use gotatun::x25519;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::io::reconciler::REFRESH;
use crate::plan;
use crate::state::{Line, PrivateKey, PublicKey, TUN_INTERFACE, WireguardPeer};
use crate::tunnel::{self, Incoming, Outgoing, Table};
use crate::view::DropReason;

/// Packets that may wait between decryption and encryption when this node relays.
const RELAY_QUEUE: usize = 4096;
/// Packets that are read from the TUN device in one go.
const BATCH: usize = 32;
/// Octets of socket buffer asked for in each direction.
const SOCKET_BUFFER: usize = 4 << 20;

/// How long a handshake that was asked for is waited for.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);
/// Up to how many peers are read whenever they are looked at.
const FEW_PEERS: usize = 32;

type Transports = (Factory, ToTun, FromTun);

/// Counters and the current table, shared by the packet tasks.
#[derive(Default)]
pub(crate) struct Shared {
    generation: AtomicU64,
    table: RwLock<Arc<Table>>,
    drops: [AtomicU64; DropReason::ALL.len()],
    relayed: AtomicU64,
    passed_on: AtomicU64,
    packet_id: AtomicU16,
    /// Where packets for the second WireGuard go; the first one alone reads the TUN device.
    second: RwLock<Option<mpsc::Sender<Packet<Ip>>>>,
}

impl Shared {
    /// Puts a new table in force; packet tasks notice at their next packet.
    pub(crate) fn install(&self, table: Table) {
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Opens or closes the way to the second WireGuard.
    fn lead_to_second(&self, way: Option<mpsc::Sender<Packet<Ip>>>) {
        *self.second.write().unwrap_or_else(PoisonError::into_inner) = way;
        self.generation.fetch_add(1, Ordering::Release);
    }

    fn count(&self, reason: DropReason) {
        self.drops[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Packets dropped so far, by reason; reasons that never happened are left out.
    pub(crate) fn drops(&self) -> BTreeMap<DropReason, u64> {
        let all = DropReason::ALL.into_iter().map(|r| (r, self.drops[r as usize].load(Ordering::Relaxed)));
        all.filter(|(_, count)| *count > 0).collect()
    }

    /// Packets relayed from peer to peer so far.
    pub(crate) fn relayed(&self) -> u64 {
        self.relayed.load(Ordering::Relaxed)
    }

    /// Those of them that were wrapped once more, toward another hub.
    pub(crate) fn passed_on(&self) -> u64 {
        self.passed_on.load(Ordering::Relaxed)
    }
}

/// A packet task's own reference to the table: one atomic load per packet while nothing changes.
struct Reader {
    shared: Arc<Shared>,
    seen: u64,
    table: Arc<Table>,
    second: Option<mpsc::Sender<Packet<Ip>>>,
}

impl Reader {
    fn new(shared: Arc<Shared>) -> Reader {
        let mut reader = Reader { shared, seen: u64::MAX, table: Arc::default(), second: None };
        reader.refresh();
        reader
    }

    #[inline]
    fn refresh(&mut self) {
        let generation = self.shared.generation.load(Ordering::Acquire);
        if generation != self.seen {
            self.table = self.shared.table.read().unwrap_or_else(PoisonError::into_inner).clone();
            self.second = self.shared.second.read().unwrap_or_else(PoisonError::into_inner).clone();
            self.seen = generation;
        }
    }
}

/// From WireGuard to the TUN device, or to another peer.
struct ToTun {
    tun: Arc<AsyncDevice>,
    relay: mpsc::Sender<Packet<Ip>>,
    reader: Reader,
}

impl IpSend for ToTun {
    async fn send(&mut self, packet: Packet<Ip>) -> io::Result<()> {
        self.reader.refresh();
        let mut packet = packet.into_bytes();
        match self.reader.table.incoming(&packet) {
            // A full or absent TUN queue loses the packet, as any interface would; it must not stop the tunnel.
            Incoming::Deliver { offset, len } => {
                if self.tun.send(&packet[offset..offset + len]).await.is_err() {
                    self.reader.shared.count(DropReason::QueueFull);
                }
            }
            Incoming::Relay { offset, len } => {
                packet.truncate(offset + len);
                drop(packet.buf_mut().split_to(offset));
                self.relay(packet);
            }
            Incoming::PassOn { local, hub, len } => {
                packet.truncate(len);
                self.pass_on(packet, local, hub);
            }
            Incoming::Drop(reason) => self.reader.shared.count(reason),
        }
        Ok(())
    }
}

impl ToTun {
    fn relay(&self, mut packet: Packet) {
        let shared = &self.reader.shared;
        if !tunnel::decrement_ttl(&mut packet) {
            return shared.count(DropReason::TtlExceeded);
        }
        self.queue(packet);
    }

    /// Wraps once more, toward another hub.
    fn pass_on(&self, mut packet: Packet, local: Ipv4Addr, hub: Ipv4Addr) {
        let shared = &self.reader.shared;
        if !tunnel::decrement_ttl(&mut packet) {
            return shared.count(DropReason::TtlExceeded);
        }
        let id = shared.packet_id.fetch_add(1, Ordering::Relaxed);
        let Some(header) = tunnel::outer_header(local, hub, &packet, id) else {
            return shared.count(DropReason::Malformed);
        };
        let mut wrapped = bytes::BytesMut::with_capacity(tunnel::HEADER_LEN + packet.len());
        wrapped.extend_from_slice(&header);
        wrapped.extend_from_slice(&packet);
        shared.passed_on.fetch_add(1, Ordering::Relaxed);
        self.queue(Packet::from_bytes(wrapped));
    }

    fn queue(&self, packet: Packet) {
        let shared = &self.reader.shared;
        let Ok(packet) = packet.try_into_ip() else { return shared.count(DropReason::Malformed) };
        match self.relay.try_send(packet) {
            Ok(()) => drop(shared.relayed.fetch_add(1, Ordering::Relaxed)),
            Err(_) => shared.count(DropReason::QueueFull),
        }
    }
}

/// From the TUN device, or from a peer that is relayed, to WireGuard. The second WireGuard has no TUN device: the
/// first one's task hands it its packets in the way of relayed ones.
struct FromTun {
    tun: Option<Arc<AsyncDevice>>,
    relay: mpsc::Receiver<Packet<Ip>>,
    ready: Vec<Packet<Ip>>,
    reader: Reader,
    mtu: watch::Receiver<u16>,
}

impl FromTun {
    /// Takes the packet that lies in `buffer` behind room for an outer header.
    fn take(&mut self, mut buffer: Packet, len: usize) {
        self.reader.refresh();
        let end = tunnel::HEADER_LEN + len;
        let inner = &buffer[tunnel::HEADER_LEN..end];
        let shared = &self.reader.shared;
        let line = match self.reader.table.outgoing(inner) {
            Outgoing::Wrap(local, owner, line) => {
                let id = shared.packet_id.fetch_add(1, Ordering::Relaxed);
                let Some(header) = tunnel::outer_header(local, owner, inner, id) else {
                    return shared.count(DropReason::Malformed);
                };
                buffer[..tunnel::HEADER_LEN].copy_from_slice(&header);
                buffer.truncate(end);
                line
            }
            Outgoing::Plain(line) => {
                buffer.truncate(end);
                drop(buffer.buf_mut().split_to(tunnel::HEADER_LEN));
                line
            }
            Outgoing::Drop(reason) => return shared.count(reason),
        };
        let Ok(packet) = buffer.try_into_ip() else { return };
        match (line, &self.reader.second) {
            (Line::First, _) => self.ready.push(packet),
            (Line::Second, Some(second)) => {
                if second.try_send(packet).is_err() {
                    shared.count(DropReason::QueueFull);
                }
            }
            (Line::Second, None) => shared.count(DropReason::NoPeer),
        }
    }
}

impl IpRecv for FromTun {
    async fn recv<'a>(
        &'a mut self,
        pool: &mut PacketBufPool,
    ) -> io::Result<impl Iterator<Item = Packet<Ip>> + Send + 'a> {
        while self.ready.is_empty() {
            let mut buffer = pool.get();
            tokio::select! {
                read = received(self.tun.as_deref(), &mut buffer[tunnel::HEADER_LEN..]) => match read {
                    Ok(len) => self.take(buffer, len),
                    // The device is gone: the reconciler makes a new one with a new tunnel.
                    Err(error) if is_fatal(&error) => return Err(error),
                    Err(_) => continue,
                },
                count = self.relay.recv_many(&mut self.ready, BATCH) => {
                    if count == 0 {
                        return Err(io::ErrorKind::BrokenPipe.into());
                    }
                    break;
                }
            }
            while let Some(tun) = self.tun.as_deref().filter(|_| self.ready.len() < BATCH) {
                let mut buffer = pool.get();
                // The device is non-blocking: this reads what is already queued.
                let Ok(len) = tun.recv_now(&mut buffer[tunnel::HEADER_LEN..]) else { break };
                self.take(buffer, len);
            }
        }
        Ok(self.ready.drain(..))
    }

    fn mtu(&self) -> MtuWatcher {
        self.mtu.clone().into()
    }
}

/// The next packet of the TUN device; without one there never is any.
async fn received(tun: Option<&AsyncDevice>, buffer: &mut [u8]) -> io::Result<usize> {
    match tun {
        Some(tun) => tun.recv(buffer).await,
        None => std::future::pending().await,
    }
}

/// Reads without waiting.
trait RecvNow {
    fn recv_now(&self, buffer: &mut [u8]) -> io::Result<usize>;
}

impl RecvNow for AsyncDevice {
    fn recv_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let device: &gotatun::tun::tun::Device = self;
        device.recv(buffer)
    }
}

fn is_fatal(error: &io::Error) -> bool {
    const EBADF: i32 = 9;
    const ENODEV: i32 = 19;
    const EBADFD: i32 = 77;
    matches!(error.raw_os_error(), Some(EBADF | ENODEV | EBADFD))
}

/// How long a port may stay taken by the tunnel that has just ended.
const RELEASED_WITHIN: Duration = Duration::from_millis(200);

/// UDP sockets whose outer packets may be fragmented: what is too large for the path arrives in pieces instead of
/// not at all (the kernel's WireGuard does the same).
struct Factory(UdpSocketFactory);

impl UdpTransportFactory for Factory {
    type Send = UdpSocket;
    type Recv = UdpSocket;

    async fn bind(&mut self, params: &UdpTransportFactoryParams) -> io::Result<(UdpSocket, UdpSocket)> {
        use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
        let end = Instant::now() + RELEASED_WITHIN;
        let (send, recv) = loop {
            match self.0.bind(params).await {
                // The tunnel before this one had the port; its last task is just ending.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                bound => break bound?,
            }
        };
        sockopt::set_ip_mtu_discover(send.socket(), Ipv4PathMtuDiscovery::DONT)?;
        if send.local_addr()?.is_ipv6() {
            sockopt::set_ipv6_mtu_discover(send.socket(), Ipv6PathMtuDiscovery::DONT)?;
        }
        // Larger buffers need CAP_NET_ADMIN; without it the limit of the host stands.
        let _ = sockopt::set_socket_recv_buffer_size_force(send.socket(), SOCKET_BUFFER);
        let _ = sockopt::set_socket_send_buffer_size_force(send.socket(), SOCKET_BUFFER);
        Ok((send, recv))
    }
}

/// Timers that find a restarted peer within two seconds instead of fifteen. A receiver answers within a second
/// (WireGuard: ten), a sender that hears nothing for two asks for a new handshake (fifteen), and an unanswered
/// handshake is repeated after one (five). Wire format and key life are as they must be.
fn timers() -> TimerParams {
    let ms = Duration::from_millis;
    TimerParams {
        keepalive_timeout: ms(900)..=ms(900),
        new_handshake_timeout: ms(2_000)..=ms(2_300),
        rekey_timeout: ms(1_000)..=ms(1_250),
        ..TimerParams::default()
    }
}

/// A peer as the tunnel knows it.
#[derive(Clone)]
pub(crate) struct PeerStatus {
    pub(crate) key: PublicKey,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) last_handshake: Option<Duration>,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_bytes: u64,
}

impl PeerStatus {
    /// A peer of which no more is known than that it was told.
    fn told(key: PublicKey, peer: &WireguardPeer) -> PeerStatus {
        PeerStatus { key, endpoint: peer.endpoint, last_handshake: None, rx_bytes: 0, tx_bytes: 0 }
    }
}

/// The running tunnel and what it was told.
pub(crate) struct Userspace {
    tun: Arc<AsyncDevice>,
    shared: Arc<Shared>,
    mtu: watch::Sender<u16>,
    first: Side,
    second: Side,
}

/// One of the two WireGuards.
#[derive(Default)]
struct Side {
    peers: BTreeMap<PublicKey, WireguardPeer>,
    tunnel: Option<Running>,
    mtu: u16,
    /// What was last read of the peers, with what they were told since.
    seen: BTreeMap<PublicKey, PeerStatus>,
    /// When it was read; `None`: it must be read.
    read: Option<Instant>,
}

impl Side {
    /// Whether what was last read will do. Few peers are read each time: what a leaf knows of its hubs is never old.
    fn fresh(&self) -> bool {
        self.peers.len() > FEW_PEERS && self.read.is_some_and(|read| read.elapsed() < REFRESH)
    }

    /// What was last read, with handshakes as old as they are now.
    fn statuses(&self) -> Vec<PeerStatus> {
        let since = self.read.map_or(Duration::ZERO, |read| read.elapsed());
        let aged = |s: &PeerStatus| PeerStatus {
            last_handshake: s.last_handshake.map(|age| age + since),
            ..s.clone()
        };
        self.seen.values().map(aged).collect()
    }
}

struct Running {
    device: Arc<Device<Transports>>,
    private_key: PrivateKey,
    listen_port: u16,
    /// Handshakes under way that were asked for at once instead of at the first packet.
    handshakes: JoinSet<()>,
}

impl Running {
    /// Asks for a handshake now if the peer's place is known; an active session makes this a no-op.
    fn shake_hands(&mut self, key: PublicKey, peer: &WireguardPeer) {
        if peer.endpoint.is_none() {
            return;
        }
        while self.handshakes.try_join_next().is_some() {}
        let device = self.device.clone();
        let key = x25519::PublicKey::from(key.0);
        self.handshakes.spawn(async move {
            // gotatun repeats the initiation by itself; this only bounds the wait for its end.
            let _ = tokio::time::timeout(HANDSHAKE_WAIT, device.force_handshake(&key)).await;
        });
    }

    async fn stop(mut self) {
        self.handshakes.shutdown().await;
        if let Ok(device) = Arc::try_unwrap(self.device) {
            device.stop().await;
        }
    }
}

fn build_peer(key: PublicKey, peer: &WireguardPeer) -> Peer {
    let mut built = Peer::new(x25519::PublicKey::from(key.0)).dangerously_with_timer_params(timers());
    built.endpoint = peer.endpoint;
    // The prefix type is of a crate that gotatun does not re-export; its text form is.
    built.allowed_ips = peer.allowed_ips.iter().filter_map(|net| net.to_string().parse().ok()).collect();
    built.keepalive = (peer.keepalive_secs > 0).then_some(peer.keepalive_secs);
    built
}

impl Userspace {
    /// Makes a TUN device for an instant, to learn whether this process may.
    pub(crate) fn probe(name: &str) -> Result<(), String> {
        let mut configuration = gotatun::tun::tun::Configuration::default();
        configuration.tun_name(name);
        gotatun::tun::tun::create(&configuration).map(drop).map_err(|e| e.to_string())
    }

    /// Makes the TUN device; addresses, MTU and state of the link come from netlink.
    pub(crate) fn open(shared: Arc<Shared>) -> io::Result<Userspace> {
        let mut configuration = gotatun::tun::tun::Configuration::default();
        configuration.tun_name(TUN_INTERFACE);
        let tun = gotatun::tun::tun::create_as_async(&configuration).map_err(io::Error::other)?;
        let (mtu, _) = watch::channel(crate::mtu::MIN_PATH);
        let (first, second) = (Side::default(), Side::default());
        Ok(Userspace { tun: Arc::new(tun), shared, mtu, first, second })
    }

    fn side(&self, line: Line) -> &Side {
        match line {
            Line::First => &self.first,
            Line::Second => &self.second,
        }
    }

    fn side_mut(&mut self, line: Line) -> &mut Side {
        match line {
            Line::First => &mut self.first,
            Line::Second => &mut self.second,
        }
    }

    /// Key, port and MTU. A changed key or port makes a new tunnel with the same peers; anything else disturbs none.
    pub(crate) async fn set_device(&mut self, line: Line, device: &plan::Device) -> io::Result<()> {
        if line == Line::First {
            self.mtu.send_replace(device.mtu);
        }
        self.side_mut(line).mtu = device.mtu;
        let port_fits =
            |running: &Running| device.listen_port == 0 || running.listen_port == device.listen_port;
        let running = self.side(line).tunnel.as_ref();
        if running.is_some_and(|r| r.private_key == device.private_key && port_fits(r)) {
            return Ok(());
        }
        // Peers, and NAT on the way, know the port that the system chose: it outlives the key, as in the kernel.
        let listen_port = match (device.listen_port, running) {
            (0, Some(running)) => running.listen_port,
            (port, _) => port,
        };
        self.stop_line(line).await;
        self.start(line, &plan::Device { listen_port, ..device.clone() }).await
    }

    async fn start(&mut self, line: Line, wanted: &plan::Device) -> io::Result<()> {
        let (relay_in, relay_out) = mpsc::channel(RELAY_QUEUE);
        if line == Line::Second {
            self.shared.lead_to_second(Some(relay_in.clone()));
        }
        let to_tun =
            ToTun { tun: self.tun.clone(), relay: relay_in, reader: Reader::new(self.shared.clone()) };
        let from_tun = FromTun {
            tun: (line == Line::First).then(|| self.tun.clone()),
            relay: relay_out,
            ready: Vec::with_capacity(BATCH),
            reader: Reader::new(self.shared.clone()),
            mtu: self.mtu.subscribe(),
        };
        let key = x25519::StaticSecret::from(*wanted.private_key.expose());
        let device = DeviceBuilder::new()
            .with_udp(Factory(UdpSocketFactory::default()))
            .with_ip_pair(to_tun, from_tun)
            .with_private_key(key.clone())
            .with_listen_port(wanted.listen_port)
            .with_peers(self.side(line).peers.iter().map(|(key, peer)| build_peer(*key, peer)))
            .build()
            .await
            .map_err(io::Error::other)?;
        let device = Arc::new(device);
        if self.side(line).peers.is_empty() {
            // Without peers gotatun opens no socket, and adding the first peer later would open none either; a
            // change to the whole list of peers, even from none to none, does.
            device.write(async |d| d.clear_peers()).await.map_err(io::Error::other)?;
        }
        let listen_port = device.read(async |d| d.listen_port()).await;
        let private_key = wanted.private_key.clone();
        let mut running = Running { device, private_key, listen_port, handshakes: JoinSet::new() };
        for (key, peer) in &self.side(line).peers {
            running.shake_hands(*key, peer);
        }
        let side = self.side_mut(line);
        side.tunnel = Some(running);
        // A new tunnel knows nothing of what the one before it had learned.
        side.read = None;
        Ok(())
    }

    /// Adds or corrects one peer; sessions of all others, and of this one, go on.
    pub(crate) async fn set_peer(
        &mut self,
        line: Line,
        key: PublicKey,
        peer: &WireguardPeer,
    ) -> io::Result<()> {
        let side = self.side_mut(line);
        side.peers.insert(key, peer.clone());
        let seen = side.seen.entry(key).or_insert_with(|| PeerStatus::told(key, peer));
        seen.endpoint = peer.endpoint.or(seen.endpoint);
        let Some(running) = &mut side.tunnel else { return Ok(()) };
        let wanted = build_peer(key, peer);
        let public = wanted.public_key;
        running
            .device
            .write(async |device| {
                let (allowed, endpoint) = (wanted.allowed_ips.clone(), peer.endpoint);
                let keepalive = wanted.keepalive;
                let known = device
                    .modify_peer(&public, |known| {
                        known.clear_allowed_ips();
                        known.add_allowed_ips(allowed);
                        known.set_keepalive(keepalive);
                        if endpoint.is_some() {
                            known.set_endpoint(endpoint);
                        }
                    })
                    .await;
                known || device.add_peer(wanted)
            })
            .await
            .map_err(io::Error::other)?;
        running.shake_hands(key, peer);
        Ok(())
    }

    /// Removes one peer.
    pub(crate) async fn remove_peer(&mut self, line: Line, key: PublicKey) -> io::Result<()> {
        let side = self.side_mut(line);
        side.peers.remove(&key);
        side.seen.remove(&key);
        if let Some(running) = &side.tunnel {
            let key = x25519::PublicKey::from(key.0);
            running.device.remove_peer(&key).await.map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// Stops the tunnels and waits until their tasks have let go of the TUN device.
    pub(crate) async fn stop(&mut self) {
        for line in Line::BOTH {
            self.stop_line(line).await;
        }
    }

    async fn stop_line(&mut self, line: Line) {
        if line == Line::Second {
            self.shared.lead_to_second(None);
        }
        if let Some(running) = self.side_mut(line).tunnel.take() {
            running.stop().await;
        }
    }

    /// Takes the second WireGuard away, with its peers.
    pub(crate) async fn remove_second(&mut self) {
        self.stop_line(Line::Second).await;
        self.second = Side::default();
    }

    /// Key, port and MTU that are in force.
    pub(crate) fn device(&self, line: Line) -> Option<(PrivateKey, u16, u16)> {
        let side = self.side(line);
        side.tunnel.as_ref().map(|r| (r.private_key.clone(), r.listen_port, side.mtu))
    }

    /// Peers as they were told, with what was learned of them.
    pub(crate) fn peers(&self, line: Line) -> &BTreeMap<PublicKey, WireguardPeer> {
        &self.side(line).peers
    }

    /// What a tunnel knows of its peers: now if `afresh`, else a second ago at most. (The library walks a tree for
    /// each peer: a thousand take milliseconds, and each machine that enrolls would cost that twice.)
    pub(crate) async fn status(&mut self, line: Line, afresh: bool) -> Vec<PeerStatus> {
        let side = self.side_mut(line);
        let Some(running) = &side.tunnel else { return Vec::new() };
        if !afresh && side.fresh() {
            return side.statuses();
        }
        let stats = running.device.peers().await;
        let status = |s: gotatun::device::configure::PeerStats| PeerStatus {
            key: PublicKey(s.peer.public_key.to_bytes()),
            endpoint: s.peer.endpoint,
            last_handshake: s.stats.last_handshake,
            rx_bytes: s.stats.rx_bytes as u64,
            tx_bytes: s.stats.tx_bytes as u64,
        };
        side.seen = stats.into_iter().map(status).map(|s| (s.key, s)).collect();
        side.read = Some(Instant::now());
        side.statuses()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(peers: usize, read_ago: Duration) -> Side {
        let peers: BTreeMap<_, _> =
            (0..peers).map(|n| (PublicKey([n as u8; 32]), WireguardPeer::default())).collect();
        let heard = |(key, peer): (&PublicKey, &WireguardPeer)| {
            let last_handshake = Some(Duration::from_secs(2));
            (*key, PeerStatus { last_handshake, ..PeerStatus::told(*key, peer) })
        };
        let seen = peers.iter().map(heard).collect();
        Side { peers, seen, read: Instant::now().checked_sub(read_ago), ..Side::default() }
    }

    #[test]
    fn many_peers_are_read_once_a_second_and_few_each_time() {
        let soon = Duration::from_millis(100);
        assert!(side(FEW_PEERS + 1, soon).fresh());
        assert!(!side(FEW_PEERS + 1, REFRESH).fresh());
        assert!(!side(FEW_PEERS, soon).fresh());
        assert!(!Side { read: None, ..side(FEW_PEERS + 1, soon) }.fresh());
    }

    #[test]
    fn a_handshake_that_was_read_a_while_ago_is_that_much_older() {
        let ago = Duration::from_millis(700);
        let told = side(3, ago).statuses();
        assert_eq!(told.len(), 3);
        assert!(told.iter().all(|s| s.last_handshake >= Some(Duration::from_secs(2) + ago)));
    }
}
