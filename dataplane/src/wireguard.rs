//! WireGuard keys and peers, and what must change when they differ.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Deref;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::Ipv4Net;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smallvec::SmallVec;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A WireGuard public key (Curve25519 point, 32 octets); text form is standard base64 of 44 characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

/// A WireGuard private key; wiped when dropped, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct PrivateKey([u8; 32]);

/// The text is not the base64 of 32 octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a WireGuard key is the base64 of 32 octets")]
pub struct KeyError;

fn decode(text: &str) -> Result<[u8; 32], KeyError> {
    // Exactly 44 characters: a trailing newline or space is not a key.
    if text.len() != 44 {
        return Err(KeyError);
    }
    let mut bytes = STANDARD.decode(text).map_err(|_| KeyError)?;
    let key = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| KeyError);
    bytes.zeroize();
    key
}

impl PrivateKey {
    /// Wraps 32 octets as they are; X25519 clamps when it uses them.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The octets, for the kernel or the in-process tunnel.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// The public key that belongs to this private key.
    pub fn public(&self) -> PublicKey {
        PublicKey(x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(self.0)).to_bytes())
    }
}

impl PartialEq for PrivateKey {
    /// Takes the same time wherever the keys differ. Clamped bits count as equal, as the kernel clamps on its own.
    fn eq(&self, other: &Self) -> bool {
        clamped(&self.0).iter().zip(clamped(&other.0)).fold(0, |acc, (a, b)| acc | (a ^ b)) == 0
    }
}

impl Eq for PrivateKey {}

fn clamped(key: &[u8; 32]) -> [u8; 32] {
    let mut key = *key;
    key[0] &= 248;
    key[31] = (key[31] & 127) | 64;
    key
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(hidden)")
    }
}

impl FromStr for PrivateKey {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(Self)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(Self)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The prefixes of a peer, each once and in order. One or two, which is what peers have, stand in place: a hub copies and
/// compares those of all its leaves whenever one enrolls.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Vec<Ipv4Net>", into = "Vec<Ipv4Net>")]
pub struct AllowedIps(SmallVec<[Ipv4Net; 2]>);

impl Deref for AllowedIps {
    type Target = [Ipv4Net];
    fn deref(&self) -> &[Ipv4Net] {
        &self.0
    }
}

impl FromIterator<Ipv4Net> for AllowedIps {
    fn from_iter<I: IntoIterator<Item = Ipv4Net>>(nets: I) -> Self {
        let mut all = Self::default();
        all.extend(nets);
        all
    }
}

impl Extend<Ipv4Net> for AllowedIps {
    fn extend<I: IntoIterator<Item = Ipv4Net>>(&mut self, nets: I) {
        self.0.extend(nets);
        self.0.sort_unstable();
        self.0.dedup();
    }
}

impl<const N: usize> From<[Ipv4Net; N]> for AllowedIps {
    fn from(nets: [Ipv4Net; N]) -> Self {
        nets.into_iter().collect()
    }
}

impl From<Vec<Ipv4Net>> for AllowedIps {
    fn from(nets: Vec<Ipv4Net>) -> Self {
        nets.into_iter().collect()
    }
}

impl From<AllowedIps> for Vec<Ipv4Net> {
    fn from(nets: AllowedIps) -> Self {
        nets.0.into_vec()
    }
}

/// One WireGuard peer as wished or as seen.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WireguardPeer {
    /// Where the peer is; `None` means that it roams: what was learned from its packets is kept.
    pub endpoint: Option<SocketAddr>,
    /// Source and destination prefixes of this peer (cryptokey routing); overlay addresses only.
    pub allowed_ips: AllowedIps,
    /// Persistent keepalive in seconds; 0 is off.
    pub keepalive_secs: u16,
}

/// For how long after its last handshake a peer is believed to be where its packets last came from: WireGuard makes a
/// new one every two minutes while there is traffic, and takes no packet three minutes after the last.
const PROVED: Duration = Duration::from_secs(185);

/// The endpoint that counts as a peer's present one when it is compared with the wish: a peer that has moved, and has
/// proved itself where it is now by a handshake, is left there; what it was told is then as good as done. Another
/// wish, or silence, ends that.
pub fn settled(
    told: Option<SocketAddr>,
    seen: Option<SocketAddr>,
    last_handshake: Option<Duration>,
) -> Option<SocketAddr> {
    match told {
        Some(told) if seen.is_some() && last_handshake.is_some_and(|age| age < PROVED) => Some(told),
        _ => seen,
    }
}

impl WireguardPeer {
    /// Whether a peer that is seen as `self` needs no change to be as `wished`.
    pub fn satisfies(&self, wished: &WireguardPeer) -> bool {
        (wished.endpoint.is_none() || self.endpoint == wished.endpoint)
            && self.allowed_ips == wished.allowed_ips
            && self.keepalive_secs == wished.keepalive_secs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However they are given, prefixes are equal when they are the same, and read back as they were written.
    #[test]
    fn prefixes_are_a_set() {
        let net = |text: &str| text.parse::<Ipv4Net>().unwrap();
        let (one, two, three) = (net("10.0.0.1/32"), net("10.0.0.2/32"), net("10.1.0.0/24"));
        let all = AllowedIps::from([three, one, two, one]);
        assert_eq!(all[..], [one, two, three]);
        let mut grown = AllowedIps::from(vec![two]);
        grown.extend([one, three, two]);
        assert_eq!(grown, all);
        let text = serde_json::to_string(&all).unwrap();
        assert_eq!(serde_json::from_str::<AllowedIps>(&text).unwrap(), all);
        assert_eq!(text, r#"["10.0.0.1/32","10.0.0.2/32","10.1.0.0/24"]"#);
    }

    /// A key with a newline or of the wrong length is refused; a right one survives the round trip.
    #[test]
    fn keys_parse_exactly() {
        let key = PrivateKey::from_bytes([7; 32]).public();
        assert_eq!(key.to_string().parse::<PublicKey>(), Ok(key));
        assert!(format!("{key}\n").parse::<PublicKey>().is_err());
        assert!("AAAA".parse::<PublicKey>().is_err());
        assert!("é".repeat(22).parse::<PublicKey>().is_err());
        assert_eq!(serde_json::from_str::<PublicKey>(&serde_json::to_string(&key).unwrap()).unwrap(), key);
    }

    /// Debug output of a private key says nothing about it.
    #[test]
    fn private_key_is_silent() {
        assert_eq!(format!("{:?}", PrivateKey::from_bytes([1; 32])), "PrivateKey(hidden)");
    }

    /// Who has moved and is heard there stays there; who is silent, or is wished elsewhere, is called as wished.
    #[test]
    fn a_peer_that_moved_is_not_called_back() {
        let [home, away, new] = [1, 2, 3].map(|n| SocketAddr::from(([192, 0, 2, n], 51820)));
        let peer = |endpoint| WireguardPeer { endpoint, ..Default::default() };
        let needs_nothing = |told, age, wish| {
            let age = (age > 0).then_some(Duration::from_secs(age));
            peer(settled(told, Some(away), age)).satisfies(&peer(Some(wish)))
        };
        assert!(needs_nothing(Some(home), 30, home));
        assert!(!needs_nothing(Some(home), 200, home), "silent for long");
        assert!(!needs_nothing(Some(home), 0, home), "never heard");
        assert!(!needs_nothing(Some(home), 30, new), "another wish");
        assert!(!needs_nothing(None, 30, home), "it was never told");
        assert_eq!(settled(None, Some(away), None), Some(away), "a roaming peer is where it was heard");
    }

    /// The kernel gives a clamped key back; that is the same key.
    #[test]
    fn clamped_key_is_the_same_key() {
        let raw = [0xff; 32];
        assert_eq!(PrivateKey::from_bytes(raw), PrivateKey::from_bytes(clamped(&raw)));
        assert_ne!(PrivateKey::from_bytes([1; 32]), PrivateKey::from_bytes([9; 32]));
    }

    /// A roaming peer that has an endpoint by now needs no change.
    #[test]
    fn roaming_peer_keeps_its_endpoint() {
        let wished = WireguardPeer::default();
        let seen = WireguardPeer { endpoint: Some("192.0.2.1:5".parse().unwrap()), ..Default::default() };
        assert!(seen.satisfies(&wished));
        assert!(!wished.satisfies(&seen));
    }
}
