//! Peers that take fresh keys, in process. WireGuard gives an address to one key: the fresh one takes the former one's
//! place at the instant in which its owner calls with it. What came before that call was by the former key and is
//! decrypted already; what comes after it waits for our answer, which is sent when the place has changed hands. So
//! nothing is lost.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use gotatun::device::Device;
use gotatun::noise::handshake::parse_handshake_anon;
use gotatun::packet::{Packet, WgKind};
use gotatun::udp::UdpSend as _;
use gotatun::udp::socket::UdpSocket;
use gotatun::x25519;

use crate::io::userspace::{Pace, Transports, build_peer};
use crate::state::{AllowedIps, PrivateKey, PublicKey, WireguardPeer};

/// Calls of one peer that may be under way; the oldest one is forgotten for one more.
const CALLS: usize = 8;
/// By how much the answer goes ahead of the packets that wait for it.
const HEAD_START: Duration = Duration::from_millis(1);
/// A handshake's first and second message begin so.
const INITIATION: [u8; 4] = [1, 0, 0, 0];
const RESPONSE: [u8; 4] = [2, 0, 0, 0];
/// Length of a handshake's first message, octets.
const INITIATION_LEN: usize = 148;

/// The peers of one line with fresh keys that are awaited.
#[derive(Default)]
pub(crate) struct Heirs {
    /// Whether anybody is: asked for each packet.
    some: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    awaited: BTreeMap<PublicKey, Awaited>,
    succeeded: Vec<(PublicKey, PublicKey)>,
    tunnel: Option<Tunnel>,
}

struct Awaited {
    former: PublicKey,
    allowed_ips: AllowedIps,
    /// Sender indices of the calls that were heard.
    calls: VecDeque<u32>,
}

#[derive(Clone)]
struct Tunnel {
    device: Weak<Device<Transports>>,
    secret: x25519::StaticSecret,
    public: x25519::PublicKey,
}

impl Heirs {
    /// The tunnel that these peers are of; nobody is awaited any more.
    pub(crate) fn begin(&self, device: &Arc<Device<Transports>>, key: &PrivateKey) {
        let secret = x25519::StaticSecret::from(*key.expose());
        let public = x25519::PublicKey::from(&secret);
        let mut inner = self.lock();
        inner.tunnel = Some(Tunnel { device: Arc::downgrade(device), secret, public });
        inner.awaited.clear();
        self.note(&inner);
    }

    /// Whether anybody is awaited.
    #[inline]
    pub(crate) fn awaited(&self) -> bool {
        self.some.load(Ordering::Relaxed)
    }

    /// Those who are, by fresh key, each with the former one.
    pub(crate) fn former_keys(&self) -> BTreeMap<PublicKey, Vec<PublicKey>> {
        self.lock().awaited.iter().map(|(fresh, awaited)| (*fresh, vec![awaited.former])).collect()
    }

    /// From now on `fresh` is awaited, in place of who was for the same former key. The tunnel has it as a peer without
    /// prefixes.
    pub(crate) fn wait(&self, fresh: PublicKey, former: PublicKey, allowed_ips: AllowedIps) {
        let mut inner = self.lock();
        inner.awaited.retain(|_, awaited| awaited.former != former);
        inner.awaited.insert(fresh, Awaited { former, allowed_ips, calls: VecDeque::new() });
        self.note(&inner);
    }

    /// Nobody is awaited by this key any more, be it a fresh or a former one; the fresh ones that were.
    pub(crate) fn forget(&self, key: PublicKey) -> Vec<PublicKey> {
        if !self.awaited() {
            return Vec::new();
        }
        let mut inner = self.lock();
        let of = |(fresh, awaited): (&PublicKey, &Awaited)| *fresh == key || awaited.former == key;
        let gone: Vec<_> = inner.awaited.iter().filter(|&one| of(one)).map(|(fresh, _)| *fresh).collect();
        gone.iter().for_each(|fresh| drop(inner.awaited.remove(fresh)));
        self.note(&inner);
        gone
    }

    /// Who has called since this was last asked: the fresh keys with the former ones.
    pub(crate) fn succeeded(&self) -> Vec<(PublicKey, PublicKey)> {
        std::mem::take(&mut self.lock().succeeded)
    }

    /// Looks for a call by an awaited key in what is received. It says itself who it is from; whether that is true shows
    /// when the tunnel answers it.
    pub(crate) fn hear(&self, datagram: &[u8]) {
        if !self.awaited() || datagram.len() != INITIATION_LEN || !datagram.starts_with(&INITIATION) {
            return;
        }
        let Some(tunnel) = self.lock().tunnel.clone() else { return };
        let Ok(WgKind::HandshakeInit(call)) = Packet::copy_from(datagram).try_into_wg() else { return };
        let Ok(caller) = parse_handshake_anon(&tunnel.secret, &tunnel.public, &call) else { return };
        if let Some(awaited) = self.lock().awaited.get_mut(&PublicKey(caller.peer_static_public)) {
            if awaited.calls.len() == CALLS {
                awaited.calls.pop_front();
            }
            awaited.calls.push_back(caller.peer_index);
        }
    }

    /// Whether what is about to be sent answers a call by an awaited key: by which.
    pub(crate) fn answers(&self, datagram: &[u8]) -> Option<PublicKey> {
        if !self.awaited() || !datagram.starts_with(&RESPONSE) {
            return None;
        }
        let index = u32::from_le_bytes(datagram.get(8..12)?.try_into().ok()?);
        let inner = self.lock();
        let called = inner.awaited.iter().find(|(_, awaited)| awaited.calls.contains(&index))?;
        Some(*called.0)
    }

    /// Puts a fresh key in the former one's place, then sends the answer to its call.
    pub(crate) async fn succeed(&self, fresh: PublicKey, socket: &UdpSocket, answer: Packet, to: SocketAddr) {
        let device = self.lock().tunnel.as_ref().and_then(|tunnel| tunnel.device.upgrade());
        let Some(device) = device else { return };
        // While this lasts the tunnel neither decrypts nor encrypts: what it sends next finds the peer that has heard
        // this answer.
        let done = device
            .write(async |device| {
                // Who is not awaited any more has its place already, or was revoked meanwhile and gets none.
                if let Some(awaited) = self.take(fresh) {
                    device.remove_peer(&x25519::PublicKey::from(awaited.former.0)).await;
                    let allowed_ips = awaited.allowed_ips;
                    let heir =
                        build_peer(fresh, &WireguardPeer { allowed_ips, ..Default::default() }, Pace::Even);
                    device.modify_peer(&heir.public_key, |peer| peer.add_allowed_ips(heir.allowed_ips)).await;
                }
                let sent = socket.send_to(answer, to).await;
                // A kernel makes a session of the answer beside the packets that follow it, and drops those that overtake.
                tokio::time::sleep(HEAD_START).await;
                sent
            })
            .await;
        if !matches!(done, Ok(Ok(()))) {
            tracing::warn!(%to, "a peer's call with its fresh key was not answered; it calls again");
        }
    }

    fn take(&self, fresh: PublicKey) -> Option<Awaited> {
        let mut inner = self.lock();
        let awaited = inner.awaited.remove(&fresh)?;
        inner.succeeded.push((fresh, awaited.former));
        self.note(&inner);
        Some(awaited)
    }

    fn note(&self, inner: &Inner) {
        self.some.store(!inner.awaited.is_empty(), Ordering::Relaxed);
    }

    /// A poisoned lock only means that a holder panicked between two plain operations.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> PublicKey {
        PublicKey([n; 32])
    }

    /// Only who is awaited is, whichever of its keys is named; a former key has one heir.
    #[test]
    fn a_former_key_has_one_heir() {
        let heirs = Heirs::default();
        assert!(!heirs.awaited());
        heirs.wait(key(2), key(1), AllowedIps::default());
        heirs.wait(key(3), key(1), AllowedIps::default());
        heirs.wait(key(5), key(4), AllowedIps::default());
        assert_eq!(heirs.former_keys(), [(key(3), vec![key(1)]), (key(5), vec![key(4)])].into());
        assert_eq!(heirs.forget(key(9)), []);
        assert_eq!(heirs.forget(key(1)), [key(3)]);
        assert_eq!(heirs.forget(key(5)), [key(5)]);
        assert!(!heirs.awaited() && heirs.succeeded().is_empty());
    }

    /// Junk is nobody's call, and answers to others are not held.
    #[test]
    fn junk_is_no_call() {
        let heirs = Heirs::default();
        heirs.wait(key(2), key(1), AllowedIps::default());
        for len in [0, 4, 147, 148, 149] {
            let mut junk = vec![1; len];
            junk.iter_mut().take(4).zip(INITIATION).for_each(|(byte, is)| *byte = is);
            heirs.hear(&junk);
        }
        let mut answer = [0; 92];
        answer[0] = 2;
        assert_eq!(heirs.answers(&answer), None);
        assert_eq!(heirs.answers(&answer[..9]), None);
    }
}
