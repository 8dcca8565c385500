//! The UDP sockets of the in-process tunnels. A tunnel with a fresh key takes over the socket of the one before it, which
//! goes on hearing what was sent to it; and the answer to a peer's first call with a fresh key of its own is held until
//! that key has taken the former one's place.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gotatun::packet::{Packet, PacketBufPool};
use gotatun::udp::socket::{UdpSocket, UdpSocketFactory};
use gotatun::udp::{UdpRecv, UdpSend, UdpTransportFactory, UdpTransportFactoryParams};
use tokio::sync::{mpsc, watch};

use crate::io::heirs::Heirs;
use crate::io::packets::Shared;
use crate::view::DropReason;

/// Octets of socket buffer asked for in each direction.
const SOCKET_BUFFER: usize = 4 << 20;
/// How long a port may stay taken by the tunnel that has just ended.
const RELEASED_WITHIN: Duration = Duration::from_millis(200);
/// Datagrams that may wait for a tunnel that fades.
const HANDED: usize = 4096;
/// How long nothing must be sent by a tunnel that fades until it counts as quiet, and how long that is waited for.
const QUIET: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(20));

type Datagram = (Packet, SocketAddr);

/// What a tunnel does with the packets of its device and of its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It is about to carry: its first handshake is under way, and the packets wait in the device.
    Waits,
    /// It carries.
    Carries,
    /// It takes no more packets, and hears what is on its way to it; the socket is another one's.
    Fades,
}

/// What the two ends of a tunnel's socket share.
pub(crate) struct Wire {
    turn: watch::Sender<Turn>,
    /// The socket; taken over from another tunnel, or bound.
    socket: Mutex<Option<UdpSocket>>,
    /// What another tunnel hears for this one while it fades.
    handed: (mpsc::Sender<Datagram>, tokio::sync::Mutex<mpsc::Receiver<Datagram>>),
    elder: Mutex<Option<Elder>>,
    /// Whether there is an elder: asked for each packet.
    has_elder: AtomicBool,
    /// Datagrams sent so far.
    sent: AtomicU64,
    pub(crate) heirs: Arc<Heirs>,
    shared: Arc<Shared>,
}

/// The tunnel whose socket this one has taken over.
struct Elder {
    hears: mpsc::Sender<Datagram>,
    /// The session indices that are not its, but were given out by the tunnel that has the socket.
    ours: BTreeSet<u32>,
}

impl Wire {
    /// A tunnel's wire, with the socket of the tunnel before it if that one fades.
    pub(crate) fn new(heirs: Arc<Heirs>, shared: Arc<Shared>, elder: Option<&Wire>) -> Arc<Wire> {
        let socket = elder.and_then(|elder| lock(&elder.socket).clone());
        let hears = elder.map(|elder| Elder { hears: elder.handed.0.clone(), ours: BTreeSet::new() });
        let (handed, hands) = mpsc::channel(HANDED);
        let first = if hears.is_some() { Turn::Waits } else { Turn::Carries };
        Arc::new(Wire {
            turn: watch::channel(first).0,
            socket: Mutex::new(socket),
            handed: (handed, tokio::sync::Mutex::new(hands)),
            has_elder: AtomicBool::new(hears.is_some()),
            elder: Mutex::new(hears),
            sent: AtomicU64::new(0),
            heirs,
            shared,
        })
    }

    /// What the tunnel does.
    pub(crate) fn turn(&self) -> watch::Receiver<Turn> {
        self.turn.subscribe()
    }

    /// From now on the tunnel carries, if it waited for that; whether it did.
    pub(crate) fn carry(&self) -> bool {
        self.turn.send_if_modified(|turn| {
            let waits = *turn == Turn::Waits;
            if waits {
                *turn = Turn::Carries;
            }
            waits
        })
    }

    /// From now on the tunnel takes nothing more. Ends when what it had taken is on its way.
    pub(crate) async fn fade(&self) {
        self.turn.send_replace(Turn::Fades);
        let end = Instant::now() + QUIET.1;
        let mut before = self.sent.load(Ordering::Relaxed);
        while Instant::now() < end {
            tokio::time::sleep(QUIET.0).await;
            let now = self.sent.load(Ordering::Relaxed);
            if std::mem::replace(&mut before, now) == now {
                return;
            }
        }
    }

    /// The tunnel that faded has ended: all that comes is this one's.
    pub(crate) fn alone(&self) {
        self.has_elder.store(false, Ordering::Relaxed);
        *lock(&self.elder) = None;
    }

    /// Whether what passes must be looked at.
    #[inline]
    fn attends(&self) -> bool {
        self.has_elder.load(Ordering::Relaxed) || self.heirs.awaited()
    }

    /// Looks at what is received: who calls with a fresh key, and what is for the tunnel that fades. Whether it is for
    /// this one.
    fn hear(&self, datagram: &mut Datagram) -> bool {
        self.heirs.hear(&datagram.0);
        let Some(index) = receiver(&datagram.0).filter(|_| self.has_elder.load(Ordering::Relaxed)) else {
            return true;
        };
        let elder = lock(&self.elder);
        match &*elder {
            Some(elder) if !elder.ours.contains(&index) => {
                let datagram = (std::mem::take(&mut datagram.0), datagram.1);
                if elder.hears.try_send(datagram).is_err() {
                    self.shared.count(DropReason::QueueFull);
                }
                false
            }
            // A peer that called meanwhile instead of answering has a session, and says so by its first data.
            Some(_) if word(&datagram.0, 0) == Some(4) => {
                self.carry();
                true
            }
            _ => true,
        }
    }

    /// Looks at what is to be sent: the indices that the tunnel gives out, and answers to calls with fresh keys. What is
    /// held is sent by somebody else.
    fn say(&self, packet: &mut Packet, to: SocketAddr, socket: &UdpSocket) -> Held {
        if let Some(index) = sender(packet)
            && let Some(elder) = &mut *lock(&self.elder)
        {
            elder.ours.insert(index);
        }
        match self.heirs.answers(packet) {
            Some(fresh) => {
                let (heirs, socket, answer) = (self.heirs.clone(), socket.clone(), std::mem::take(packet));
                // Not here: the tunnel's other tasks must be able to send while its peers change.
                tokio::spawn(async move { heirs.succeed(fresh, &socket, answer, to).await });
                Held::Yes
            }
            None => Held::No,
        }
    }
}

#[derive(PartialEq, Eq)]
enum Held {
    Yes,
    No,
}

/// A poisoned lock only means that a holder panicked between two plain operations.
fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

fn word(datagram: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(datagram.get(at..at + 4)?.try_into().ok()?))
}

/// The index of the session, or of the handshake, that a datagram is for (WireGuard paper, 5.4).
fn receiver(datagram: &[u8]) -> Option<u32> {
    match word(datagram, 0)? {
        2 => word(datagram, 8),
        3 | 4 => word(datagram, 4),
        _ => None,
    }
}

/// The index that its sender gives out by a handshake's message.
fn sender(datagram: &[u8]) -> Option<u32> {
    if matches!(word(datagram, 0)?, 1 | 2) { word(datagram, 4) } else { None }
}

/// Sockets whose outer packets may be fragmented: what is too large for the path arrives in pieces instead of not at all
/// (the kernel's WireGuard does the same).
pub(crate) struct Factory(pub(crate) Arc<Wire>);

impl UdpTransportFactory for Factory {
    type Send = Sender;
    type Recv = Receiver;

    async fn bind(&mut self, params: &UdpTransportFactoryParams) -> io::Result<(Sender, Receiver)> {
        let taken = lock(&self.0.socket).clone();
        let fits = |socket: &UdpSocket| socket.local_addr().is_ok_and(|at| at.port() == params.port);
        let socket = match taken.filter(fits) {
            Some(socket) => socket,
            None => {
                // The port may be the same one.
                *lock(&self.0.socket) = None;
                let socket = bound(params).await?;
                *lock(&self.0.socket) = Some(socket.clone());
                socket
            }
        };
        let (wire, turn) = (self.0.clone(), self.0.turn());
        Ok((Sender { socket: socket.clone(), wire: wire.clone() }, Receiver { socket, wire, turn }))
    }
}

async fn bound(params: &UdpTransportFactoryParams) -> io::Result<UdpSocket> {
    use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
    let end = Instant::now() + RELEASED_WITHIN;
    let (socket, _) = loop {
        match UdpSocketFactory::default().bind(params).await {
            // The tunnel before this one had the port; its last task is just ending.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            bound => break bound?,
        }
    };
    sockopt::set_ip_mtu_discover(socket.socket(), Ipv4PathMtuDiscovery::DONT)?;
    if socket.local_addr()?.is_ipv6() {
        sockopt::set_ipv6_mtu_discover(socket.socket(), Ipv6PathMtuDiscovery::DONT)?;
    }
    // Larger buffers need CAP_NET_ADMIN; without it the limit of the host stands.
    let _ = sockopt::set_socket_recv_buffer_size_force(socket.socket(), SOCKET_BUFFER);
    let _ = sockopt::set_socket_send_buffer_size_force(socket.socket(), SOCKET_BUFFER);
    Ok(socket)
}

/// The sending end.
#[derive(Clone)]
pub(crate) struct Sender {
    socket: UdpSocket,
    wire: Arc<Wire>,
}

impl UdpSend for Sender {
    type SendManyBuf = <UdpSocket as UdpSend>::SendManyBuf;

    async fn send_to(&self, mut packet: Packet, to: SocketAddr) -> io::Result<()> {
        if self.wire.attends() && self.wire.say(&mut packet, to, &self.socket) == Held::Yes {
            return Ok(());
        }
        let sent = self.socket.send_to(packet, to).await;
        self.wire.sent.fetch_add(1, Ordering::Relaxed);
        sent
    }

    async fn send_many_to(
        &self,
        buffer: &mut Self::SendManyBuf,
        packets: &mut Vec<Datagram>,
    ) -> io::Result<()> {
        if self.wire.attends() {
            packets.retain_mut(|(packet, to)| self.wire.say(packet, *to, &self.socket) == Held::No);
        }
        let count = packets.len() as u64;
        let sent = self.socket.send_many_to(buffer, packets).await;
        self.wire.sent.fetch_add(count, Ordering::Relaxed);
        sent
    }

    fn max_number_of_packets_to_send(&self) -> usize {
        self.socket.max_number_of_packets_to_send()
    }

    fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        UdpSend::local_addr(&self.socket)
    }

    fn set_fwmark(&self, mark: u32) -> io::Result<()> {
        self.socket.set_fwmark(mark)
    }
}

/// The receiving end.
pub(crate) struct Receiver {
    socket: UdpSocket,
    wire: Arc<Wire>,
    turn: watch::Receiver<Turn>,
}

impl UdpRecv for Receiver {
    type RecvManyBuf = <UdpSocket as UdpRecv>::RecvManyBuf;

    async fn recv_from(&mut self, pool: &mut PacketBufPool) -> io::Result<Datagram> {
        loop {
            if *self.turn.borrow_and_update() == Turn::Fades {
                return self.handed().await;
            }
            let mut datagram = tokio::select! {
                biased;
                _ = self.turn.changed() => continue,
                received = self.socket.recv_from(pool) => received?,
            };
            if !self.wire.attends() || self.wire.hear(&mut datagram) {
                return Ok(datagram);
            }
        }
    }

    async fn recv_many_from(
        &mut self,
        buffer: &mut Self::RecvManyBuf,
        pool: &mut PacketBufPool,
        packets: &mut Vec<Datagram>,
    ) -> io::Result<()> {
        while packets.is_empty() {
            if *self.turn.borrow_and_update() == Turn::Fades {
                packets.push(self.handed().await?);
                break;
            }
            tokio::select! {
                biased;
                _ = self.turn.changed() => continue,
                received = self.socket.recv_many_from(buffer, pool, packets) => received?,
            }
            if self.wire.attends() {
                packets.retain_mut(|datagram| self.wire.hear(datagram));
            }
        }
        Ok(())
    }

    fn enable_udp_gro(&self) -> io::Result<()> {
        self.socket.enable_udp_gro()
    }
}

impl Receiver {
    async fn handed(&self) -> io::Result<Datagram> {
        let next = self.wire.handed.1.lock().await.recv().await;
        next.ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages of WireGuard name the sessions that they are for, and those that they make, where the paper says.
    #[test]
    fn indices_are_where_the_paper_says() {
        let message = |kind: u8, len: usize| {
            let mut bytes = vec![0; len];
            bytes[0] = kind;
            bytes[4..8].copy_from_slice(&7u32.to_le_bytes());
            bytes[8..12].copy_from_slice(&9u32.to_le_bytes());
            bytes
        };
        let both = |kind, len| (sender(&message(kind, len)), receiver(&message(kind, len)));
        assert_eq!(both(1, 148), (Some(7), None));
        assert_eq!(both(2, 92), (Some(7), Some(9)));
        assert_eq!(both(3, 64), (None, Some(7)));
        assert_eq!(both(4, 32), (None, Some(7)));
        assert_eq!(both(5, 32), (None, None));
        for len in 0..12 {
            assert_eq!(receiver(&message(2, 12)[..len]), None, "a short datagram is nobody's");
        }
    }
}
