//! The in-process dataplane: gotatun's WireGuard between a TUN device and UDP, with ipip wrapped and unwrapped on
//! the way. The TUN device goes with the process; a restart therefore interrupts traffic until the next handshake.
//!
//! A fresh key of this node is a second tunnel: it takes the socket over, and the one before it hears for a moment what
//! is on its way to it. Fresh keys of peers: see [`crate::io::heirs`].

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gotatun::device::configure::PeerMut;
use gotatun::device::{Device, DeviceBuilder, Peer};
use gotatun::noise::TimerParams;
use gotatun::tun::tun::AsyncDevice;
use gotatun::x25519;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::io::heirs::Heirs;
use crate::io::packets::{self, FromTun, Shared, ToTun};
use crate::io::reconciler::REFRESH;
use crate::io::sockets::{Factory, Wire};
use crate::plan;
use crate::state::{Line, Peers, PrivateKey, PublicKey, TUN_INTERFACE, WireguardPeer};
use crate::walk::bring_in_line;
use crate::wireguard::settled;

/// How long a handshake that was asked for is waited for.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);
/// How long the packets of a tunnel with a fresh key wait for its first handshake at most.
const FIRST_HANDSHAKE: Duration = Duration::from_secs(1);
/// For how long a tunnel with a former key hears what is on its way to it.
const FADES: Duration = Duration::from_secs(2);
/// Up to how many peers are read whenever they are looked at.
const FEW_PEERS: usize = 32;

pub(crate) type Transports = (Factory, ToTun, FromTun);

/// How soon an unanswered handshake is repeated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// After a second: it may be one of many that call a hub which was restarted.
    Even,
    /// At once, nearly: packets wait for it.
    Quick,
}

/// Timers that find a restarted peer within two seconds instead of fifteen. A receiver answers within a second
/// (WireGuard: ten), a sender that hears nothing for two asks for a new handshake (fifteen), and an unanswered
/// handshake is repeated after one (five). Wire format and key life are as they must be.
fn timers(pace: Pace) -> TimerParams {
    let ms = Duration::from_millis;
    TimerParams {
        keepalive_timeout: ms(900)..=ms(900),
        new_handshake_timeout: ms(2_000)..=ms(2_300),
        rekey_timeout: if pace == Pace::Quick { ms(200)..=ms(200) } else { ms(1_000)..=ms(1_250) },
        ..TimerParams::default()
    }
}

/// What tunnels know of their peers.
pub(crate) type Statuses = imbl::OrdMap<PublicKey, PeerStatus>;

/// A peer as the tunnel knows it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PeerStatus {
    pub(crate) key: PublicKey,
    pub(crate) endpoint: Option<SocketAddr>,
    /// How long ago it was when it was read, and when that was.
    pub(crate) last_handshake: Option<(Duration, Instant)>,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_bytes: u64,
}

impl PeerStatus {
    /// A peer of which no more is known than that it was told.
    pub(crate) fn told(key: PublicKey, peer: &WireguardPeer) -> PeerStatus {
        PeerStatus { key, endpoint: peer.endpoint, last_handshake: None, rx_bytes: 0, tx_bytes: 0 }
    }

    /// How long ago the last handshake was.
    pub(crate) fn age(&self) -> Option<Duration> {
        self.last_handshake.map(|(age, read)| age + read.elapsed())
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
    peers: Peers,
    /// The same with where they are.
    placed: Peers,
    /// Those of them that have fresh keys.
    heirs: Arc<Heirs>,
    tunnel: Option<Running>,
    /// The tunnel before it, which hears until then what is on its way to it.
    fading: Option<(Running, Instant)>,
    mtu: u16,
    /// What was last read of the peers, with what they were told since.
    seen: Statuses,
    /// When it was read; `None`: it must be read.
    read: Option<Instant>,
}

impl Side {
    /// Whether what was last read will do. Few peers are read each time: what a leaf knows of its hubs is never old.
    fn fresh(&self) -> bool {
        self.peers.len() > FEW_PEERS && self.read.is_some_and(|read| read.elapsed() < REFRESH)
    }

    /// A peer with where it is.
    fn place(&self, key: &PublicKey, peer: &WireguardPeer) -> WireguardPeer {
        let settled = |status: &PeerStatus| settled(peer.endpoint, status.endpoint, status.age());
        let endpoint = self.seen.get(key).map_or(peer.endpoint, settled);
        WireguardPeer { endpoint, ..peer.clone() }
    }

    /// Takes note of one peer, as told and as known.
    fn set(&mut self, key: PublicKey, peer: &WireguardPeer) {
        self.peers.insert(key, peer.clone());
        let seen = self.seen.entry(key).or_insert_with(|| PeerStatus::told(key, peer));
        seen.endpoint = peer.endpoint.or(seen.endpoint);
        self.placed.insert(key, self.place(&key, peer));
    }

    fn remove(&mut self, key: &PublicKey) -> Option<WireguardPeer> {
        self.seen.remove(key);
        self.placed.remove(key);
        self.peers.remove(key)
    }

    /// Takes note of what the tunnel knows now.
    fn take(&mut self, statuses: impl Iterator<Item = PeerStatus>) {
        // Who is awaited is no peer yet.
        let told = statuses.filter(|status| self.peers.contains_key(&status.key));
        self.seen = told.map(|status| (status.key, status)).collect();
        self.read = Some(Instant::now());
        let placed: Vec<_> = self.peers.iter().map(|(key, peer)| (*key, self.place(key, peer))).collect();
        bring_in_line(&mut self.placed, placed);
    }

    /// Takes note of who has called with a fresh key, and lets go a tunnel that has faded.
    async fn settle(&mut self) {
        for (fresh, former) in self.heirs.succeeded() {
            if let Some(peer) = self.remove(&former) {
                self.seen.remove(&fresh);
                self.set(fresh, &WireguardPeer { endpoint: None, ..peer });
            }
            self.read = None;
        }
        if self.fading.as_ref().is_some_and(|(_, until)| *until <= Instant::now()) {
            self.end_fading().await;
        }
    }

    async fn end_fading(&mut self) {
        if let Some((faded, _)) = self.fading.take() {
            self.tunnel.iter().for_each(|tunnel| tunnel.wire.alone());
            faded.stop().await;
        }
    }
}

struct Running {
    device: Arc<Device<Transports>>,
    wire: Arc<Wire>,
    private_key: PrivateKey,
    listen_port: u16,
    /// Whether its peers' first handshakes are repeated quickly.
    quick: bool,
    /// Handshakes under way that were asked for at once instead of at the first packet.
    handshakes: JoinSet<()>,
}

impl Running {
    /// Asks for a handshake now if the peer's place is known; an active session makes this a no-op. The first one lets
    /// the packets of a tunnel go that waited for it.
    fn shake_hands(&mut self, key: PublicKey, peer: &WireguardPeer) {
        if peer.endpoint.is_none() {
            return;
        }
        while self.handshakes.try_join_next().is_some() {}
        let (device, wire, quick) = (self.device.clone(), self.wire.clone(), self.quick);
        let key = x25519::PublicKey::from(key.0);
        self.handshakes.spawn(async move {
            // gotatun repeats the initiation by itself; this only bounds the wait for its end.
            let _ = tokio::time::timeout(HANDSHAKE_WAIT, device.force_handshake(&key)).await;
            wire.carry();
            if quick {
                let even = |peer: &mut PeerMut| peer.dangerously_set_timer_params(Some(timers(Pace::Even)));
                // A peer that is gone has no timers.
                let _ = device.write(async |device| device.modify_peer(&key, even).await).await;
            }
        });
    }

    /// The first handshake may fail, and be somebody else's.
    fn carry_in_any_case(&mut self) {
        let wire = self.wire.clone();
        self.handshakes.spawn(async move {
            tokio::time::sleep(FIRST_HANDSHAKE).await;
            wire.carry();
        });
    }

    async fn stop(mut self) {
        self.handshakes.shutdown().await;
        if let Ok(device) = Arc::try_unwrap(self.device) {
            device.stop().await;
        }
    }
}

/// A peer as gotatun has it.
pub(crate) fn build_peer(key: PublicKey, peer: &WireguardPeer, pace: Pace) -> Peer {
    let mut built = Peer::new(x25519::PublicKey::from(key.0)).dangerously_with_timer_params(timers(pace));
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
        let wanted = plan::Device { listen_port, ..device.clone() };
        let side = self.side_mut(line);
        side.end_fading().await;
        match side.tunnel.take() {
            Some(former) if former.listen_port == listen_port => self.take_over(line, former, &wanted).await,
            former => {
                self.end(line, former).await;
                self.start(line, &wanted, None).await
            }
        }
    }

    /// Ends a tunnel that is not taken over.
    async fn end(&mut self, line: Line, former: Option<Running>) {
        self.side_mut(line).tunnel = former;
        self.stop_line(line).await;
    }

    /// A tunnel with another key in the place of `former`: nothing that either of them is sent is lost.
    async fn take_over(&mut self, line: Line, former: Running, wanted: &plan::Device) -> io::Result<()> {
        let started = self.start(line, wanted, Some(&former)).await;
        match started {
            Ok(()) => self.side_mut(line).fading = Some((former, Instant::now() + FADES)),
            Err(_) => self.end(line, Some(former)).await,
        }
        started
    }

    async fn start(&mut self, line: Line, wanted: &plan::Device, former: Option<&Running>) -> io::Result<()> {
        let heirs = self.side(line).heirs.clone();
        let wire = Wire::new(heirs.clone(), self.shared.clone(), former.map(|former| &*former.wire));
        let (mtu, reads) = (self.mtu.subscribe(), line == Line::First);
        let (to_tun, from_tun, relay) =
            packets::ends(self.tun.clone(), reads, &self.shared, mtu, wire.turn());
        if line == Line::Second {
            self.shared.lead_to_second(Some(relay));
        }
        let pace = if former.is_some() { Pace::Quick } else { Pace::Even };
        if let Some(former) = former {
            former.wire.fade().await;
        }
        let key = x25519::StaticSecret::from(*wanted.private_key.expose());
        let device = DeviceBuilder::new()
            .with_udp(Factory(wire.clone()))
            .with_ip_pair(to_tun, from_tun)
            .with_private_key(key)
            .with_listen_port(wanted.listen_port)
            .with_peers(self.side(line).peers.iter().map(|(key, peer)| build_peer(*key, peer, pace)))
            .build()
            .await
            .map_err(io::Error::other)?;
        let device = Arc::new(device);
        heirs.begin(&device, &wanted.private_key);
        if self.side(line).peers.is_empty() {
            // Without peers gotatun opens no socket, and adding the first peer later would open none either; a
            // change to the whole list of peers, even from none to none, does.
            device.write(async |d| d.clear_peers()).await.map_err(io::Error::other)?;
        }
        let listen_port = device.read(async |d| d.listen_port()).await;
        let private_key = wanted.private_key.clone();
        let (quick, handshakes) = (former.is_some(), JoinSet::new());
        let mut running = Running { device, wire, private_key, listen_port, quick, handshakes };
        for (key, peer) in &self.side(line).peers {
            running.shake_hands(*key, peer);
        }
        running.carry_in_any_case();
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
        side.settle().await;
        // Who was awaited has its place now.
        side.heirs.forget(key);
        side.set(key, peer);
        let Some(running) = &mut side.tunnel else { return Ok(()) };
        let wanted = build_peer(key, peer, Pace::Even);
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

    /// Lets a fresh key take the place of a former one when its owner calls with it.
    pub(crate) async fn await_peer(
        &mut self,
        line: Line,
        fresh: PublicKey,
        former: PublicKey,
    ) -> io::Result<()> {
        let side = self.side_mut(line);
        side.settle().await;
        let (Some(peer), Some(running)) = (side.peers.get(&former), &side.tunnel) else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "there is no peer with the former key"));
        };
        let (heirs, allowed_ips) = (&side.heirs, peer.allowed_ips.clone());
        let heir = build_peer(fresh, &WireguardPeer::default(), Pace::Even);
        let added = running.device.write(async |device| {
            device.add_peer(heir);
            heirs.wait(fresh, former, allowed_ips);
        });
        added.await.map_err(io::Error::other)
    }

    /// Removes one peer, or one that is awaited.
    pub(crate) async fn remove_peer(&mut self, line: Line, key: PublicKey) -> io::Result<()> {
        let side = self.side_mut(line);
        side.settle().await;
        side.remove(&key);
        let Some(running) = &side.tunnel else { return Ok(()) };
        let heirs = &side.heirs;
        let removed = running.device.write(async |device| {
            for key in heirs.forget(key).into_iter().chain([key]) {
                device.remove_peer(&x25519::PublicKey::from(key.0)).await;
            }
        });
        removed.await.map_err(io::Error::other)
    }

    /// Those who are awaited, by fresh key, each with the former one.
    pub(crate) fn former_keys(&self, line: Line) -> BTreeMap<PublicKey, Vec<PublicKey>> {
        self.side(line).heirs.former_keys()
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
        let side = self.side_mut(line);
        side.end_fading().await;
        if let Some(running) = side.tunnel.take() {
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

    /// Peers as they were told, with where they are by what was last read of them.
    pub(crate) fn peers(&self, line: Line) -> Peers {
        self.side(line).placed.clone()
    }

    /// What a tunnel knows of its peers: now if `afresh`, else a second ago at most. (The library walks a tree for
    /// each peer: a thousand take milliseconds, and each machine that enrolls would cost that twice.)
    pub(crate) async fn status(&mut self, line: Line, afresh: bool) -> Statuses {
        let side = self.side_mut(line);
        side.settle().await;
        let Some(running) = &side.tunnel else { return Statuses::new() };
        if !afresh && side.fresh() {
            return side.seen.clone();
        }
        let stats = running.device.peers().await;
        let now = Instant::now();
        let status = |s: gotatun::device::configure::PeerStats| PeerStatus {
            key: PublicKey(s.peer.public_key.to_bytes()),
            endpoint: s.peer.endpoint,
            last_handshake: s.stats.last_handshake.map(|age| (age, now)),
            rx_bytes: s.stats.rx_bytes as u64,
            tx_bytes: s.stats.tx_bytes as u64,
        };
        side.take(stats.into_iter().map(status));
        side.seen.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> PublicKey {
        PublicKey([n as u8; 32])
    }

    fn heard(n: usize, place: &str, ago: Duration) -> PeerStatus {
        let (last_handshake, endpoint) = (Some((ago, Instant::now())), place.parse().ok());
        PeerStatus { last_handshake, endpoint, ..PeerStatus::told(key(n), &WireguardPeer::default()) }
    }

    fn side(peers: usize, read_ago: Duration) -> Side {
        let mut side = Side::default();
        (0..peers).for_each(|n| side.set(key(n), &WireguardPeer::default()));
        side.take((0..peers).map(|n| heard(n, "192.0.2.1:51820", Duration::from_secs(2))));
        side.read = Instant::now().checked_sub(read_ago);
        side
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
        let (age, ago) = (Duration::from_secs(2), Duration::from_millis(700));
        let read = Instant::now().checked_sub(ago).unwrap();
        let status = PeerStatus { last_handshake: Some((age, read)), ..heard(1, "", age) };
        assert!(status.age() >= Some(age + ago));
    }

    /// Where peers are is what was last read and told, whichever came later; who is gone is nowhere, and what a read finds
    /// unchanged is still shared with what was seen before.
    #[test]
    fn peers_are_where_they_were_heard() {
        let mut side = side(200, Duration::ZERO);
        let (before, here) = (side.placed.clone(), "192.0.2.1:51820".parse().ok());
        assert!(before.len() == 200 && before.values().all(|peer| peer.endpoint == here));
        side.take((0..200).map(|n| heard(n, "192.0.2.1:51820", Duration::from_secs(1))));
        assert!(side.placed.ptr_eq(&before), "nothing has moved");
        let statuses = (0..200).map(|n| heard(n, "192.0.2.1:51820", Duration::from_secs(1)));
        let moved = heard(7, "192.0.2.9:51820", Duration::from_secs(1));
        side.take(statuses.chain([moved, heard(201, "192.0.2.9:51820", Duration::ZERO)]));
        assert_eq!(crate::walk::differing(&before, &side.placed).collect::<Vec<_>>(), [&key(7)]);
        let told = WireguardPeer { endpoint: "192.0.2.8:51820".parse().ok(), ..Default::default() };
        side.set(key(8), &told);
        side.set(key(201), &WireguardPeer::default());
        assert_eq!((&side.placed[&key(8)], side.placed[&key(201)].endpoint), (&told, None));
        assert_eq!(side.remove(&key(9)), Some(WireguardPeer::default()));
        assert!(!side.placed.contains_key(&key(9)) && !side.seen.contains_key(&key(9)));
    }
}
