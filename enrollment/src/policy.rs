//! The hub's constants and what they permit: prefixes, limits, and which addresses can be claimed at all.

use crate::endpoint::Endpoint;
use crate::identity::{LeafName, SigningKey, WireguardKey};
use crate::invite::TlsDoor;
use crate::reason::{ReasonCode, Refusal};
use crate::registry::HubRecord;
use crate::topology::HubNode;
use ipnet::{IpNet, Ipv4Net};
use std::net::Ipv4Addr;

/// Default overlay prefix.
pub const OVERLAY_PREFIX: &str = "10.255.0.0/20";
/// Default TCP port of the leaf API.
pub const API_PORT: u16 = 8443;
/// Default autonomous system.
pub const ASN: u32 = 64512;
/// Default life of a lease in seconds (24 h).
pub const LEASE_SECS: u64 = 24 * 3600;
/// Default time that a leaf keeps everything without a hub, in seconds (12 h).
pub const FAIL_STATIC_SECS: u64 = 12 * 3600;
/// Default life of an invite in seconds (1 h).
pub const INVITE_SECS: u64 = 3600;
/// Longest life of an invite in seconds (30 days).
pub const MAX_INVITE_SECS: u64 = 30 * 24 * 3600;
/// Default for how many addresses a leaf may own.
pub const MAX_CLAIMS: u32 = 64;
/// From how many source prefixes an invite may be used at most.
pub const MAX_SOURCES: usize = 16;
/// How many machines may wait for approval by one invite, beside its uses.
pub const WAITING_BESIDE_USES: usize = 8;
/// How many machines may wait for approval in all.
pub const WAITING_LIMIT: usize = 1024;
/// How long a request for approval is remembered after it was made or decided, in seconds (7 days).
pub const WAITING_SECS: u64 = 7 * 24 * 3600;
/// How long the former keys of a leaf still sign its requests after a rotation, in seconds.
pub const KEY_OVERLAP_SECS: u64 = 120;
/// How long the tunnel of a leaf that leaves stays, so that it hears the answer, in seconds.
pub const LEAVE_SECS: u64 = 2;
/// How long both owners of a moved address may announce it, unless the new one does before, in seconds.
pub const MOVE_SECS: u64 = 180;
/// How long a spent or expired invite keeps its foyer address, so that the API can say what is wrong with it (24 h).
pub const TOMBSTONE_SECS: u64 = 24 * 3600;
/// How many such invites keep theirs at most.
pub const TOMBSTONE_LIMIT: usize = 64;

/// What the hub is: its place in the overlay, its public keys, and its constants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubSettings {
    /// Its name.
    pub name: LeafName,
    /// The prefix of all overlay addresses.
    pub overlay_prefix: Ipv4Net,
    /// The hub's own overlay address.
    pub overlay: Ipv4Addr,
    /// The foyer, inside or outside the overlay prefix; leaves never get an address out of it.
    pub foyer_prefix: Ipv4Net,
    /// The hub's address in the foyer.
    pub foyer_hub: Ipv4Addr,
    /// Where its WireGuard answers: public addresses, or names as they were written.
    pub endpoints: Vec<Endpoint>,
    /// Its WireGuard key.
    pub wireguard_key: WireguardKey,
    /// The key that signs its answers.
    pub signing_key: SigningKey,
    /// Where it serves enrollment over TLS on the underlay, if it does; written into each invite.
    pub tls: Option<TlsDoor>,
    /// TCP port of the leaf API.
    pub api_port: u16,
    /// The fabric's autonomous system.
    pub asn: u32,
    /// Life of a lease in seconds; at least twice the fail-static time.
    pub lease_secs: u64,
    /// How long leaves keep everything without a hub, in seconds.
    pub fail_static_secs: u64,
    /// After how long a leaf whose lease ran out, that left or was revoked, is forgotten; `None` = never.
    pub forget_leaves_secs: Option<u64>,
    /// The hubs that this one was told when it joined, itself among them; empty: it is the first.
    pub known_hubs: Vec<HubRecord>,
    /// Whether all hubs decide one after the other on one database: then nothing is divided among them.
    pub one_registry: bool,
    /// Whether this hub was restored and writes nothing of its own, its own record neither, before
    /// [`crate::io::store::Registry::introduce`]: what the other hub has of it must come first.
    pub hears_first: bool,
}

/// Why settings cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// There must be room for a hub, leaves and a foyer.
    #[error(
        "overlay prefix {0} is too small: it needs a length of 23 or less to hold leaves and the foyer's /24"
    )]
    TooSmall(Ipv4Net),
}

impl HubSettings {
    /// The settings that follow from the overlay prefix (length 23 or less): the hub gets the first host, the foyer
    /// the last /24 and the hub its first host; everything else has its default and can be set afterwards.
    pub fn derive(
        name: LeafName,
        overlay_prefix: Ipv4Net,
        endpoints: Vec<Endpoint>,
        wireguard_key: WireguardKey,
        signing_key: SigningKey,
    ) -> Result<Self, SettingsError> {
        let overlay_prefix = overlay_prefix.trunc();
        if overlay_prefix.prefix_len() > 23 {
            return Err(SettingsError::TooSmall(overlay_prefix));
        }
        let foyer_net = Ipv4Addr::from_bits(overlay_prefix.broadcast().to_bits() & 0xffff_ff00);
        Ok(Self {
            name,
            overlay_prefix,
            overlay: Ipv4Addr::from_bits(overlay_prefix.network().to_bits() + 1),
            foyer_prefix: Ipv4Net::new_assert(foyer_net, 24),
            foyer_hub: Ipv4Addr::from_bits(foyer_net.to_bits() + 1),
            endpoints,
            wireguard_key,
            signing_key,
            tls: None,
            api_port: API_PORT,
            asn: ASN,
            lease_secs: LEASE_SECS,
            known_hubs: Vec::new(),
            one_registry: false,
            hears_first: false,
            fail_static_secs: FAIL_STATIC_SECS,
            forget_leaves_secs: None,
        })
    }

    /// The hub as leaves see it.
    pub fn node(&self) -> HubNode {
        HubNode {
            name: self.name.clone(),
            overlay: self.overlay,
            wireguard_key: self.wireguard_key,
            signing_key: self.signing_key,
            endpoints: self.endpoints.clone(),
            api_port: self.api_port,
        }
    }

    /// The addresses that leaves can get, from `from` on: the overlay prefix without its ends, the hub and the foyer;
    /// lowest first.
    pub fn leaf_addresses(&self, from: Ipv4Addr) -> impl Iterator<Item = Ipv4Addr> + '_ {
        let (first, last) =
            (self.overlay_prefix.network().to_bits(), self.overlay_prefix.broadcast().to_bits());
        (first.saturating_add(1).max(from.to_bits())..last)
            .map(Ipv4Addr::from_bits)
            .filter(|address| *address != self.overlay && !self.foyer_prefix.contains(address))
    }

    /// The addresses that invites can get in the foyer, lowest first.
    pub fn foyer_addresses(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.foyer_prefix.hosts().filter(|address| *address != self.foyer_hub)
    }

    /// Whether an address can be a client's at all: unicast, and nothing of the fabric's own.
    pub fn check_client_address(&self, address: Ipv4Addr) -> Result<(), Refusal> {
        let why = if self.overlay_prefix.contains(&address) || self.foyer_prefix.contains(&address) {
            "belongs to the overlay"
        } else if self.endpoints.iter().filter_map(Endpoint::address).any(|at| at.ip() == address) {
            "is the hub's own underlay address"
        } else if address.octets()[0] == 0 || address.is_loopback() || address.octets()[0] >= 224 {
            "is no unicast host address"
        } else if address.is_link_local() {
            "is link-local"
        } else {
            return Ok(());
        };
        let message = format!("{address} {why} and cannot be a client's");
        Err(Refusal::new(ReasonCode::ClaimNotPermitted, message).about(address))
    }
}

/// What the operator asks for when making an invite.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InviteOrder {
    /// The site's name; with several uses the leaves are called `SITE-1`, `SITE-2`, and so on.
    pub site: LeafName,
    /// Out of which prefixes the leaf may claim; empty = the private ranges (RFC 1918). At most 64.
    #[serde(default)]
    pub permitted: Vec<Ipv4Net>,
    /// How many addresses a leaf may own (default 64).
    #[serde(default = "default_max_claims")]
    pub max_claims: u32,
    /// For how long it is good, in seconds (default 3600, 1 to 30 days).
    #[serde(default = "default_invite_secs")]
    pub expires_in_secs: u64,
    /// How many leaves may join by it (default 1, 1 to 1000).
    #[serde(default = "default_uses")]
    pub uses: u32,
    /// From which underlay addresses it may be used; empty = any. At most 16.
    #[serde(default)]
    pub sources: Vec<IpNet>,
    /// Whether a person approves each machine before it joins.
    #[serde(default)]
    pub approve: bool,
    /// Whether the machine may take the place of the one that is enrolled under the site's name.
    #[serde(default)]
    pub replace: bool,
}

fn default_max_claims() -> u32 {
    MAX_CLAIMS
}

fn default_invite_secs() -> u64 {
    INVITE_SECS
}

fn default_uses() -> u32 {
    1
}

impl InviteOrder {
    /// An invite for one leaf with every default.
    pub fn for_site(site: LeafName) -> Self {
        Self {
            site,
            permitted: Vec::new(),
            max_claims: MAX_CLAIMS,
            expires_in_secs: INVITE_SECS,
            uses: 1,
            sources: Vec::new(),
            approve: false,
            replace: false,
        }
    }

    /// The same order with its defaults filled in, or which value is wrong (`invite-invalid`).
    pub fn checked(mut self, settings: &HubSettings) -> Result<Self, Refusal> {
        let invalid = |why: String| Err(Refusal::new(ReasonCode::InviteInvalid, why));
        if self.permitted.is_empty() {
            let private = [([10, 0, 0, 0], 8), ([172, 16, 0, 0], 12), ([192, 168, 0, 0], 16)];
            self.permitted = private.map(|(net, length)| Ipv4Net::new_assert(net.into(), length)).into();
        }
        self.permitted.iter_mut().for_each(|prefix| *prefix = prefix.trunc());
        self.permitted.sort();
        self.permitted.dedup();
        if self.permitted.len() > 64 {
            return invalid(format!("{} permitted prefixes; at most 64", self.permitted.len()));
        }
        for prefix in &self.permitted {
            if prefix.prefix_len() == 0 {
                return invalid("0.0.0.0/0 would permit everything; name the site's prefixes".into());
            }
            if settings.overlay_prefix.contains(prefix) || settings.foyer_prefix.contains(prefix) {
                return invalid(format!("{prefix} belongs to the overlay and cannot hold clients"));
            }
        }
        if !(1..=MAX_INVITE_SECS).contains(&self.expires_in_secs) {
            return invalid(format!("a life of {} s; 1 s to {MAX_INVITE_SECS} s", self.expires_in_secs));
        }
        if !(1..=1000).contains(&self.uses) {
            return invalid(format!("{} uses; 1 to 1000", self.uses));
        }
        if self.uses > 1 && self.site.as_str().len() > 58 {
            return invalid("with several uses a site's name has at most 58 characters".into());
        }
        if self.sources.len() > MAX_SOURCES {
            return invalid(format!("{} source prefixes; at most {MAX_SOURCES}", self.sources.len()));
        }
        self.sources.iter_mut().for_each(|prefix| *prefix = prefix.trunc());
        if self.replace && self.uses > 1 {
            return invalid("an invite that replaces a machine has one use".into());
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn settings() -> HubSettings {
        let endpoint = "203.0.113.5:51820".parse().unwrap();
        let prefix = OVERLAY_PREFIX.parse().unwrap();
        let name = "hub".parse().unwrap();
        HubSettings::derive(name, prefix, vec![endpoint], WireguardKey([9; 32]), SigningKey([8; 32])).unwrap()
    }

    /// Everything follows from the overlay prefix as documented.
    #[test]
    fn settings_are_derived() {
        let hub = settings();
        assert_eq!(hub.overlay.to_string(), "10.255.0.1");
        assert_eq!(hub.foyer_prefix.to_string(), "10.255.15.0/24");
        assert_eq!(hub.foyer_hub.to_string(), "10.255.15.1");
        assert_eq!(hub.leaf_addresses(Ipv4Addr::UNSPECIFIED).next().unwrap().to_string(), "10.255.0.2");
        assert_eq!(
            hub.leaf_addresses(Ipv4Addr::new(10, 255, 3, 0)).last().unwrap().to_string(),
            "10.255.14.255"
        );
        assert_eq!(hub.foyer_addresses().count(), 253);
        assert!(hub.lease_secs >= 2 * hub.fail_static_secs);
        let small = "10.0.0.0/24".parse().unwrap();
        let refused = HubSettings::derive(hub.name, small, vec![], hub.wireguard_key, hub.signing_key);
        assert_eq!(refused, Err(SettingsError::TooSmall(small)));
    }

    /// Addresses of the fabric itself and those that are no hosts' can never be claimed.
    #[test]
    fn client_addresses() {
        let bad = [
            "10.255.0.7",
            "10.255.15.9",
            "203.0.113.5",
            "0.0.0.0",
            "127.0.0.1",
            "224.0.0.1",
            "255.255.255.255",
        ];
        for address in bad {
            let refusal = settings().check_client_address(address.parse().unwrap()).unwrap_err();
            assert_eq!(refusal.code, ReasonCode::ClaimNotPermitted, "{address}");
        }
        assert!(settings().check_client_address("10.81.10.20".parse().unwrap()).is_ok());
    }

    /// Each wrong value of an order is named; the defaults are those of the docs.
    #[test]
    fn orders_are_checked() {
        let order = InviteOrder::for_site("aws".parse().unwrap());
        let checked = order.clone().checked(&settings()).unwrap();
        assert_eq!((checked.permitted.len(), checked.uses, checked.expires_in_secs), (3, 1, 3600));
        for wrong in [
            InviteOrder { uses: 0, ..order.clone() },
            InviteOrder { uses: 1001, ..order.clone() },
            InviteOrder { expires_in_secs: 0, ..order.clone() },
            InviteOrder { expires_in_secs: MAX_INVITE_SECS + 1, ..order.clone() },
            InviteOrder { permitted: vec!["0.0.0.0/0".parse().unwrap()], ..order.clone() },
            InviteOrder { permitted: vec!["10.255.3.0/24".parse().unwrap()], ..order.clone() },
            InviteOrder { uses: 2, site: "x".repeat(60).parse().unwrap(), ..order.clone() },
            InviteOrder { uses: 2, replace: true, ..order.clone() },
            InviteOrder { sources: vec!["192.0.2.0/24".parse().unwrap(); 17], ..order.clone() },
        ] {
            assert_eq!(wrong.checked(&settings()).unwrap_err().code, ReasonCode::InviteInvalid);
        }
    }
}
