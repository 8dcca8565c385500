//! The way of packets through the in-process dataplane: between the TUN device and WireGuard, with ipip wrapped and
//! unwrapped, and from peer to peer.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use gotatun::packet::{Ip, Packet, PacketBufPool};
use gotatun::tun::tun::AsyncDevice;
use gotatun::tun::{IpRecv, IpSend, MtuWatcher};
use tokio::sync::{mpsc, watch};

use crate::io::sockets::Turn;
use crate::state::Line;
use crate::tunnel::{self, Incoming, Outgoing, Table};
use crate::view::DropReason;

/// Packets that may wait between decryption and encryption when this node relays.
const RELAY_QUEUE: usize = 4096;
/// Packets that are read from the TUN device in one go.
const BATCH: usize = 32;
/// Packets that a tunnel with a fresh key keeps until its first handshake; more wait in the device.
const HELD: usize = 1024;

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
    pub(crate) fn lead_to_second(&self, way: Option<mpsc::Sender<Packet<Ip>>>) {
        *self.second.write().unwrap_or_else(PoisonError::into_inner) = way;
        self.generation.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn count(&self, reason: DropReason) {
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

/// The two ends of one tunnel that has this device, and the way into it for packets of other tunnels. One without a
/// `reads` has no packets but those.
pub(crate) fn ends(
    tun: Arc<AsyncDevice>,
    reads: bool,
    shared: &Arc<Shared>,
    mtu: watch::Receiver<u16>,
    turn: watch::Receiver<Turn>,
) -> (ToTun, FromTun, mpsc::Sender<Packet<Ip>>) {
    let (relay_in, relay) = mpsc::channel(RELAY_QUEUE);
    let reader = || Reader::new(shared.clone());
    let to_tun = ToTun { tun: tun.clone(), relay: relay_in.clone(), reader: reader() };
    let (tun, ready) = (reads.then_some(tun), Vec::with_capacity(BATCH));
    (to_tun, FromTun { tun, relay, ready, reader: reader(), mtu, turn }, relay_in)
}

/// From WireGuard to the TUN device, or to another peer.
pub(crate) struct ToTun {
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
pub(crate) struct FromTun {
    tun: Option<Arc<AsyncDevice>>,
    relay: mpsc::Receiver<Packet<Ip>>,
    ready: Vec<Packet<Ip>>,
    reader: Reader,
    mtu: watch::Receiver<u16>,
    turn: watch::Receiver<Turn>,
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
        loop {
            let turn = *self.turn.borrow_and_update();
            if turn != Turn::Waits && !self.ready.is_empty() {
                break;
            }
            // Who waits keeps its own packets, while there is room, and hands those of the second tunnel on.
            let reads = turn == Turn::Carries || turn == Turn::Waits && self.ready.len() < HELD;
            let mut buffer = pool.get();
            tokio::select! {
                changed = self.turn.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return Err(io::ErrorKind::BrokenPipe.into()),
                },
                read = received(self.tun.as_deref(), &mut buffer[tunnel::HEADER_LEN..]), if reads => match read {
                    Ok(len) => self.take(buffer, len),
                    // The device is gone: the reconciler makes a new one with a new tunnel.
                    Err(error) if is_fatal(&error) => return Err(error),
                    Err(_) => continue,
                },
                // What was handed to a tunnel that fades is still its.
                count = self.relay.recv_many(&mut self.ready, BATCH), if turn != Turn::Waits => {
                    if count == 0 {
                        return Err(io::ErrorKind::BrokenPipe.into());
                    }
                    continue;
                }
            }
            let room = |ready: usize| turn == Turn::Carries && ready < BATCH;
            while let Some(tun) = self.tun.as_deref().filter(|_| room(self.ready.len())) {
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
