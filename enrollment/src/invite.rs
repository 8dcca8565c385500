//! The invite: one string that carries everything a leaf needs in order to join.

use crate::endpoint::Endpoint;
use crate::identity::{InviteId, LeafName, SigningKey, WireguardKey};
use crate::reason::{ReasonCode, Refusal};
use crate::signature::{MacKey, sha256};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ipnet::Ipv4Net;
use ring::hkdf;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// What the string of an invite of one hub starts with; the digit is the format's version.
pub const PREFIX: &str = "fabric1-";

/// What the string of an invite of several hubs starts with: the same fields, and the further hubs behind them.
pub const PREFIX_OF_SEVERAL: &str = "fabric2-";

/// What the string of an invite with a door on the underlay starts with: the fields of the version before, with none
/// or more further hubs, and the door behind them.
pub const PREFIX_WITH_DOOR: &str = "fabric3-";

/// What the string of an invite starts with in which a hub is reached by name: the fields of the version before, where
/// an endpoint may be a name, and where a door of no endpoint is none.
pub const PREFIX_WITH_NAMES: &str = "fabric4-";

/// What an endpoint begins with, which says what follows.
const ENDPOINT_NAME: u8 = 1;

/// Further hubs that an invite names at most.
const MAX_FURTHER_HUBS: usize = 3;

/// Strings longer than this are not read at all (characters).
pub const MAX_LENGTH: usize = 4096;

/// The one-time secret of an invite: 32 random bytes; wiped when dropped, never shown but in the string itself.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct InviteSecret([u8; 32]);

impl InviteSecret {
    /// The secret with these bytes; they must come from the system's random generator.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    fn derive(&self, info: &[u8]) -> [u8; 32] {
        let mut out = [0; 32];
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"fabric-invite-1").extract(&self.0);
        prk.expand(&[info], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut out))
            .expect("32 bytes are within HKDF's limit");
        out
    }

    /// The key that signs the first request (RFC 5869, info `mac`); the hub stores this, never the secret.
    pub fn mac_key(&self) -> MacKey {
        MacKey::new(self.derive(b"mac"))
    }

    /// The WireGuard private key of the foyer tunnel (RFC 5869, info `wireguard`).
    pub fn wireguard_private_key(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.derive(b"wireguard"))
    }

    /// The WireGuard public key of the foyer tunnel; the hub stores it.
    pub fn wireguard_key(&self) -> WireguardKey {
        let private = x25519_dalek::StaticSecret::from(*self.wireguard_private_key());
        WireguardKey(x25519_dalek::PublicKey::from(&private).to_bytes())
    }
}

/// A hub at which an invite is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InviteHub {
    /// Where its WireGuard answers.
    pub endpoints: Vec<Endpoint>,
    /// Its WireGuard public key.
    pub wireguard_key: WireguardKey,
    /// The key that signs its answers; the leaf pins it.
    pub signing_key: SigningKey,
}

/// SHA-256 of the public key (SubjectPublicKeyInfo, RFC 7469 section 2.4) of a TLS server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyPin(pub [u8; 32]);

impl KeyPin {
    /// The pin of a key's SubjectPublicKeyInfo (DER).
    pub fn of(public_key_info: &[u8]) -> Self {
        Self(sha256(public_key_info))
    }
}

impl fmt::Display for KeyPin {
    /// As curl's `--pinnedpubkey` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256//{}", STANDARD.encode(self.0))
    }
}

/// Where a hub serves enrollment over TLS on a private underlay, and whom to believe there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsDoor {
    /// Addresses and TCP ports, one at least.
    pub endpoints: Vec<Endpoint>,
    /// The server's key; no name and no authority counts.
    pub pin: KeyPin,
}

/// A decoded invite. It holds a secret and therefore has no `Debug`.
#[derive(Clone)]
pub struct Invite {
    /// Its public number.
    pub id: InviteId,
    /// Its one-time secret.
    pub secret: InviteSecret,
    /// Where the hub's WireGuard answers.
    pub hub_endpoints: Vec<Endpoint>,
    /// The hub's WireGuard public key.
    pub hub_wireguard_key: WireguardKey,
    /// The key that signs the hub's answers; the leaf pins it.
    pub hub_signing_key: SigningKey,
    /// The hub's address in the foyer, where the enrollment API answers.
    pub foyer_hub: Ipv4Addr,
    /// The address that the leaf takes in the foyer.
    pub foyer_address: Ipv4Addr,
    /// The foyer's prefix.
    pub foyer_prefix: Ipv4Net,
    /// TCP port of the leaf API.
    pub api_port: u16,
    /// The site's name; with several uses the leaves are called `SITE-1`, `SITE-2`, and so on.
    pub site: LeafName,
    /// The prefixes out of which the leaf may claim addresses.
    pub permitted: Vec<Ipv4Net>,
    /// How many addresses the leaf may own.
    pub max_claims: u32,
    /// When it ends, seconds since 1970 on the hub's clock; the hub alone judges it.
    pub expires_at: u64,
    /// How many leaves may join by it.
    pub uses: u32,
    /// The fabric's other hubs, at which it is as good; they answer at the same foyer address.
    pub further_hubs: Vec<InviteHub>,
    /// Where the hub that made it serves enrollment over TLS, if it does.
    pub tls: Option<TlsDoor>,
}

impl Invite {
    /// Every hub at which it is good, the one that made it first.
    pub fn hubs(&self) -> Vec<InviteHub> {
        let first = InviteHub {
            endpoints: self.hub_endpoints.clone(),
            wireguard_key: self.hub_wireguard_key,
            signing_key: self.hub_signing_key,
        };
        std::iter::once(first).chain(self.further_hubs.iter().cloned()).collect()
    }

    /// The WireGuard private key of the foyer tunnel.
    pub fn wireguard_private_key(&self) -> Zeroizing<[u8; 32]> {
        self.secret.wireguard_private_key()
    }

    /// The key that signs the first request.
    pub fn mac_key(&self) -> MacKey {
        self.secret.mac_key()
    }

    /// The key that proves to the hub that made the invite, over TLS, that its WireGuard key is held.
    pub fn door_key(&self) -> MacKey {
        MacKey::shared(&self.secret.wireguard_private_key(), &self.hub_wireguard_key)
    }

    /// Where the enrollment API answers inside the foyer tunnel.
    pub fn api_address(&self) -> SocketAddr {
        SocketAddr::from((self.foyer_hub, self.api_port))
    }

    /// Whether a hub is reached by name.
    fn has_names(&self) -> bool {
        let further = self.further_hubs.iter().flat_map(|hub| &hub.endpoints);
        let door = self.tls.iter().flat_map(|door| &door.endpoints);
        self.hub_endpoints.iter().chain(further).chain(door).any(|endpoint| endpoint.name().is_some())
    }

    /// The string: its prefix and base64url of the fields and 4 bytes of their SHA-256. An invite of one hub without a
    /// door on the underlay is written as `fabric1-`, which every leaf reads.
    pub fn encode(&self) -> Zeroizing<String> {
        let mut out = Zeroizing::new(Vec::with_capacity(256));
        out.extend_from_slice(&self.id.0);
        out.extend_from_slice(&self.secret.0);
        out.extend_from_slice(&self.hub_wireguard_key.0);
        out.extend_from_slice(&self.hub_signing_key.0);
        out.extend_from_slice(&self.foyer_hub.octets());
        out.extend_from_slice(&self.foyer_address.octets());
        put_net(&mut out, &self.foyer_prefix);
        out.extend_from_slice(&self.api_port.to_be_bytes());
        out.extend_from_slice(&self.max_claims.to_be_bytes());
        out.extend_from_slice(&self.expires_at.to_be_bytes());
        out.extend_from_slice(&self.uses.to_be_bytes());
        put_count(&mut out, self.site.as_str().len());
        out.extend_from_slice(self.site.as_str().as_bytes());
        put_endpoints(&mut out, &self.hub_endpoints);
        put_count(&mut out, self.permitted.len());
        for prefix in self.permitted.iter().take(255) {
            put_net(&mut out, prefix);
        }
        let further = self.further_hubs.iter().take(MAX_FURTHER_HUBS);
        let prefix = match (&self.tls, further.len()) {
            _ if self.has_names() => PREFIX_WITH_NAMES,
            (Some(_), _) => PREFIX_WITH_DOOR,
            (None, 0) => PREFIX,
            (None, _) => PREFIX_OF_SEVERAL,
        };
        if prefix != PREFIX {
            put_count(&mut out, further.len());
        }
        for hub in further {
            out.extend_from_slice(&hub.wireguard_key.0);
            out.extend_from_slice(&hub.signing_key.0);
            put_endpoints(&mut out, &hub.endpoints);
        }
        if let Some(door) = &self.tls {
            put_endpoints(&mut out, &door.endpoints);
            out.extend_from_slice(&door.pin.0);
        } else if prefix == PREFIX_WITH_NAMES {
            put_endpoints(&mut out, &[]);
        }
        let sum = sha256(&out);
        out.extend_from_slice(&sum[..4]);
        Zeroizing::new(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(out.as_slice())))
    }

    /// Reads the string; blanks around it are forgiven, anything else wrong is `invite-malformed`.
    pub fn decode(text: &str) -> Result<Self, Refusal> {
        let damaged = |why: &str| Refusal::new(ReasonCode::InviteMalformed, why);
        let text = text.trim();
        if text.len() > MAX_LENGTH {
            return Err(damaged("the string is far too long for an invite"));
        }
        let prefixes = [PREFIX, PREFIX_OF_SEVERAL, PREFIX_WITH_DOOR, PREFIX_WITH_NAMES];
        let found = prefixes.into_iter().find_map(|prefix| Some((prefix, text.strip_prefix(prefix)?)));
        let why = "an invite starts with `fabric1-`, `fabric2-`, `fabric3-` or `fabric4-`";
        let (prefix, body) = found.ok_or_else(|| damaged(why))?;
        let bytes = URL_SAFE_NO_PAD.decode(body).map(Zeroizing::new);
        let bytes = bytes.map_err(|_| damaged("the string has characters that no invite has, or is cut"))?;
        let split = bytes.len().checked_sub(4).ok_or_else(|| damaged("the string is cut"))?;
        let (fields, sum) = bytes.split_at(split);
        if sha256(fields)[..4] != *sum {
            return Err(damaged("the checksum does not match: a part is missing or altered"));
        }
        let mut fields = Fields(fields);
        let invite = fields.invite().and_then(|mut invite| {
            if prefix != PREFIX {
                // Without any, or without a door, the string would be of a version before.
                let least = usize::from(prefix == PREFIX_OF_SEVERAL);
                invite.further_hubs = fields.further_hubs(least)?;
            }
            match prefix {
                PREFIX_WITH_DOOR => invite.tls = Some(fields.door()?),
                PREFIX_WITH_NAMES if fields.0.first() == Some(&0) => drop(fields.byte()),
                PREFIX_WITH_NAMES => invite.tls = Some(fields.door()?),
                _ => {}
            }
            (invite.has_names() == (prefix == PREFIX_WITH_NAMES)).then_some(invite)
        });
        let invite = invite.ok_or_else(|| damaged("the fields are not those of an invite"))?;
        if fields.0.is_empty() { Ok(invite) } else { Err(damaged("there is more in it than an invite has")) }
    }
}

fn put_net(out: &mut Vec<u8>, net: &Ipv4Net) {
    out.extend_from_slice(&net.network().octets());
    out.push(net.prefix_len());
}

fn put_endpoints(out: &mut Vec<u8>, endpoints: &[Endpoint]) {
    put_count(out, endpoints.len());
    for endpoint in endpoints.iter().take(255) {
        match endpoint {
            Endpoint::Name(name, _) => {
                out.push(ENDPOINT_NAME);
                put_count(out, name.as_str().len());
                out.extend_from_slice(name.as_str().as_bytes());
            }
            Endpoint::Address(SocketAddr::V4(at)) => {
                out.push(4);
                out.extend_from_slice(&at.ip().octets());
            }
            Endpoint::Address(SocketAddr::V6(at)) => {
                out.push(6);
                out.extend_from_slice(&at.ip().octets());
            }
        }
        out.extend_from_slice(&endpoint.port().to_be_bytes());
    }
}

/// Counts are one byte; callers write at most 255 items.
fn put_count(out: &mut Vec<u8>, count: usize) {
    out.push(u8::try_from(count).unwrap_or(u8::MAX));
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn net(&mut self) -> Option<Ipv4Net> {
        let address = Ipv4Addr::from(self.take::<4>()?);
        let net = Ipv4Net::new(address, self.byte()?).ok()?;
        (net.network() == address).then_some(net)
    }

    fn endpoint(&mut self) -> Option<Endpoint> {
        let ip = match self.byte()? {
            ENDPOINT_NAME => {
                let name = self.text()?.parse().ok()?;
                return Some(Endpoint::Name(name, u16::from_be_bytes(self.take()?)));
            }
            4 => IpAddr::from(self.take::<4>()?),
            6 => IpAddr::from(self.take::<16>()?),
            _ => return None,
        };
        Some(SocketAddr::new(ip, u16::from_be_bytes(self.take()?)).into())
    }

    fn text(&mut self) -> Option<&str> {
        let length = usize::from(self.byte()?);
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }

    fn name(&mut self) -> Option<LeafName> {
        self.text()?.parse().ok()
    }

    fn invite(&mut self) -> Option<Invite> {
        Some(Invite {
            id: InviteId(self.take()?),
            secret: InviteSecret(self.take()?),
            hub_wireguard_key: WireguardKey(self.take()?),
            hub_signing_key: SigningKey(self.take()?),
            foyer_hub: Ipv4Addr::from(self.take::<4>()?),
            foyer_address: Ipv4Addr::from(self.take::<4>()?),
            foyer_prefix: self.net()?,
            api_port: u16::from_be_bytes(self.take()?),
            max_claims: u32::from_be_bytes(self.take()?),
            expires_at: u64::from_be_bytes(self.take()?),
            uses: u32::from_be_bytes(self.take()?),
            site: self.name()?,
            hub_endpoints: self.endpoints()?,
            permitted: (0..self.byte()?).map(|_| self.net()).collect::<Option<_>>()?,
            further_hubs: Vec::new(),
            tls: None,
        })
    }

    fn endpoints(&mut self) -> Option<Vec<Endpoint>> {
        (0..self.byte()?).map(|_| self.endpoint()).collect()
    }

    fn door(&mut self) -> Option<TlsDoor> {
        let door = TlsDoor { endpoints: self.endpoints()?, pin: KeyPin(self.take()?) };
        (!door.endpoints.is_empty()).then_some(door)
    }

    fn further_hubs(&mut self, least: usize) -> Option<Vec<InviteHub>> {
        let count = usize::from(self.byte()?);
        let hub = |fields: &mut Self| {
            Some(InviteHub {
                wireguard_key: WireguardKey(fields.take()?),
                signing_key: SigningKey(fields.take()?),
                endpoints: fields.endpoints()?,
            })
        };
        (least..=MAX_FURTHER_HUBS).contains(&count).then(|| (0..count).map(|_| hub(self)).collect())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn sample() -> Invite {
        Invite {
            id: InviteId([1; 8]),
            secret: InviteSecret::new([2; 32]),
            hub_endpoints: vec!["203.0.113.5:51820".parse().unwrap(), "[2001:db8::5]:51820".parse().unwrap()],
            hub_wireguard_key: WireguardKey([3; 32]),
            hub_signing_key: SigningKey([4; 32]),
            foyer_hub: "10.255.15.1".parse().unwrap(),
            foyer_address: "10.255.15.2".parse().unwrap(),
            foyer_prefix: "10.255.15.0/24".parse().unwrap(),
            api_port: 8443,
            site: "aws".parse().unwrap(),
            permitted: vec!["10.81.0.0/16".parse().unwrap(), "192.168.7.0/24".parse().unwrap()],
            max_claims: 64,
            expires_at: 1_800_000_000,
            uses: 1,
            further_hubs: Vec::new(),
            tls: None,
        }
    }

    fn sample_with_door() -> Invite {
        let endpoints = vec!["10.0.0.5:8443".parse().unwrap(), "[fd00::5]:8443".parse().unwrap()];
        Invite { tls: Some(TlsDoor { endpoints, pin: KeyPin::of(b"key") }), ..sample() }
    }

    /// A door on the underlay is in the string with its pin, beside none and beside several further hubs; a leaf of a
    /// version before is told that this is no invite that it knows, and no string reads as another version.
    #[test]
    fn a_string_names_the_door() {
        let of_two = Invite { further_hubs: sample_of_two().further_hubs, ..sample_with_door() };
        for made in [sample_with_door(), of_two] {
            let text = made.encode();
            assert!(text.starts_with(PREFIX_WITH_DOOR) && text.len() < 500, "{} characters", text.len());
            let read = Invite::decode(&text).ok().unwrap();
            assert_eq!((&read.tls, read.hubs(), &*read.encode()), (&made.tls, made.hubs(), &*text));
            assert!(Invite::decode(&text.replacen('3', "2", 1)).is_err());
            assert!(Invite::decode(&text.replacen('3', "1", 1)).is_err());
            assert!(Invite::decode(&sample_of_two().encode().replacen('2', "3", 1)).is_err());
        }
        let nowhere = TlsDoor { endpoints: Vec::new(), pin: KeyPin::of(b"key") };
        assert!(Invite::decode(&Invite { tls: Some(nowhere), ..sample() }.encode()).is_err());
    }

    fn sample_of_two() -> Invite {
        let second = InviteHub {
            endpoints: vec!["198.51.100.7:51820".parse().unwrap()],
            wireguard_key: WireguardKey([5; 32]),
            signing_key: SigningKey([6; 32]),
        };
        Invite { further_hubs: vec![second], ..sample() }
    }

    /// An invite of two hubs names both, in a string of bearable length; one of a single hub is a string of the
    /// version before, and neither reads as the other.
    #[test]
    fn a_string_names_both_hubs() {
        let (made, text) = (sample_of_two(), sample_of_two().encode());
        assert!(text.starts_with(PREFIX_OF_SEVERAL) && text.len() < 400, "{} characters", text.len());
        let read = Invite::decode(&text).ok().unwrap();
        assert_eq!((read.hubs(), &*read.encode()), (made.hubs(), &*text));
        assert!(sample().encode().starts_with(PREFIX) && sample().hubs().len() == 1);
        assert!(Invite::decode(&text.replacen('2', "1", 1)).is_err());
        assert!(Invite::decode(&sample().encode().replacen('1', "2", 1)).is_err());
    }

    /// Hubs and a door that have names are written with them, each in turn, and no version before reads that.
    #[test]
    fn a_string_carries_names() {
        let name = || "hub.example.net:51820".parse::<Endpoint>().unwrap();
        let mut with = [sample(), sample(), sample_of_two(), sample_with_door(), sample_with_door()];
        with[0].hub_endpoints = vec![name()];
        with[1].hub_endpoints.push(name());
        with[2].further_hubs[0].endpoints = vec![name()];
        with[3].hub_endpoints = vec![name()];
        with[4].tls.as_mut().unwrap().endpoints.push(name().at_port(8443));
        for made in with {
            let text = made.encode();
            assert!(text.starts_with(PREFIX_WITH_NAMES) && text.len() < 500, "{} characters", text.len());
            let read = Invite::decode(&text).ok().unwrap();
            assert_eq!((&read.tls, read.hubs(), &*read.encode()), (&made.tls, made.hubs(), &*text));
            for earlier in ["1", "2", "3"] {
                assert!(Invite::decode(&text.replacen('4', earlier, 1)).is_err(), "{earlier}");
            }
        }
        assert!(Invite::decode(&sample_with_door().encode().replacen('3', "4", 1)).is_err(), "no name in it");
        assert!(sample().encode().starts_with(PREFIX), "without a name it is written as ever");
    }

    /// Every field survives the string, and what is derived from the secret is the same on both sides.
    #[test]
    fn a_string_reads_back() {
        let (made, text) = (sample(), sample().encode());
        let read = Invite::decode(&format!(" {}\n", *text)).ok().unwrap();
        assert_eq!(*read.encode(), *text);
        assert_eq!(read.hub_endpoints, made.hub_endpoints);
        assert_eq!(read.permitted, made.permitted);
        assert_eq!(read.site, made.site);
        assert_eq!(read.secret.wireguard_key(), made.secret.wireguard_key());
        assert!(made.mac_key().verify("d", &[b"x"], &read.mac_key().sign("d", &[b"x"])));
        assert!(text.len() < 300, "{} characters", text.len());
    }

    /// The three things derived from or equal to the secret differ from each other.
    #[test]
    fn derived_keys_are_separate() {
        let secret = InviteSecret::new([2; 32]);
        assert_ne!(secret.mac_key().0, *secret.wireguard_private_key());
        assert_ne!(secret.mac_key().0, secret.0);
    }

    /// Every single changed, cut or added character is seen: `invite-malformed`.
    #[test]
    fn damage_is_seen() {
        for text in
            [sample().encode(), sample_of_two().encode(), sample_with_door().encode(), named().encode()]
        {
            damaged_everywhere(&text);
        }
        assert!(Invite::decode(&"fabric1-A".repeat(9999)).is_err());
    }

    fn named() -> Invite {
        Invite { hub_endpoints: vec!["hub.example.net:51820".parse().unwrap()], ..sample() }
    }

    fn damaged_everywhere(text: &str) {
        for at in 0..text.len() {
            let mut altered = text.as_bytes().to_vec();
            altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
            let altered = String::from_utf8(altered).unwrap();
            assert_eq!(
                Invite::decode(&altered).err().unwrap().code,
                ReasonCode::InviteMalformed,
                "{altered}"
            );
            assert!(Invite::decode(&text[..at]).is_err());
        }
        assert!(Invite::decode(&format!("{text}A")).is_err());
    }

    proptest! {
        /// No text makes the decoder panic, even with a right checksum.
        #[test]
        fn any_bytes_are_survived(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let sum = sha256(&bytes);
            bytes.extend_from_slice(&sum[..4]);
            for prefix in [PREFIX, PREFIX_OF_SEVERAL, PREFIX_WITH_DOOR, PREFIX_WITH_NAMES] {
                let _ = Invite::decode(&format!("{prefix}{}", URL_SAFE_NO_PAD.encode(&bytes)));
            }
        }
    }
}
