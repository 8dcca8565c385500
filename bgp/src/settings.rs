//! What the speaker is told: itself, its neighbours and its own routes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;
use zeroize::Zeroizing;

use crate::policy::{Admission, ImportPolicy};
use crate::types::{ClusterId, Prefix, RouterId};

/// The speaker itself. Start from [`SpeakerConfig::new`].
#[derive(Debug, Clone)]
pub struct SpeakerConfig {
    /// Our AS number, 1 to 4294967295.
    pub asn: u32,
    /// Our BGP Identifier.
    pub router_id: RouterId,
    /// Our cluster id; default the router id.
    pub cluster_id: ClusterId,
    /// The hold time that we propose, in seconds: 0 or 3 to 65535, default 90.
    pub hold_time_secs: u16,
    /// The restart time that we advertise (RFC 4724), in seconds: 0 (off) to 4095, default 120.
    pub graceful_restart_secs: u16,
    /// Long-lived graceful restart (RFC 9494), in seconds: how long neighbours are asked to keep our routes after the
    /// restart time, and the longest that we keep theirs; 0 (off, the default) to 16777215.
    pub long_lived_stale_secs: u32,
    /// Set when the speaker takes over after a restart: it says so (R bit) and holds back End-of-RIB.
    pub restarting: Option<Restarting>,
    /// Whether [`crate::io::Speaker::best_paths`] is kept up to date; a pure reflector leaves it off.
    pub publish_best_paths: bool,
    /// How many equal paths of a prefix [`crate::view::BestPath`] names at most, 1 (the default) to
    /// [`MAXIMUM_PATHS`]; only those of neighbours with [`PeerOptions::multipath`] count.
    pub maximum_paths: u8,
    /// How many sessions, of all kinds, may be there at once; default 10,000.
    pub session_limit: usize,
    /// Octets that the shared log may hold for sessions that lag, default 16 MiB. A session further behind is
    /// taken off the log and gets the latest state piece by piece.
    pub log_limit_bytes: usize,
}

/// The most equal paths that are used at once.
pub const MAXIMUM_PATHS: u8 = 8;

/// The state of a speaker that has been restarted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restarting {
    /// The neighbours whose End-of-RIB is waited for before ours goes out.
    pub expected: BTreeSet<IpAddr>,
    /// The longest wait, in seconds; also ends the wait for peers that never come.
    pub deferral_secs: u32,
}

impl SpeakerConfig {
    /// A speaker with every default.
    pub fn new(asn: u32, router_id: Ipv4Addr) -> SpeakerConfig {
        SpeakerConfig {
            asn,
            router_id: RouterId(router_id),
            cluster_id: ClusterId(router_id),
            hold_time_secs: 90,
            graceful_restart_secs: 120,
            long_lived_stale_secs: 0,
            restarting: None,
            publish_best_paths: false,
            maximum_paths: 1,
            session_limit: 10_000,
            log_limit_bytes: 16 << 20,
        }
    }
}

/// A TCP-MD5 key (RFC 2385). It is shown nowhere, and wiped when its last copy goes.
#[derive(Clone, PartialEq, Eq)]
pub struct Md5Key(Arc<Zeroizing<Vec<u8>>>);

impl Md5Key {
    /// The longest key, in octets: the kernel's limit.
    pub const MAX: usize = 80;

    /// A key of 1 to [`Md5Key::MAX`] octets.
    pub fn new(octets: Vec<u8>) -> Option<Md5Key> {
        let octets = Zeroizing::new(octets);
        (1..=Md5Key::MAX).contains(&octets.len()).then(|| Md5Key(Arc::new(octets)))
    }

    /// The octets, for the kernel alone.
    pub fn octets(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Md5Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Md5Key(..)")
    }
}

/// How a neighbour's TCP connections are guarded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guard {
    /// Every segment must be signed with this key (RFC 2385).
    pub md5: Option<Md5Key>,
    /// The neighbour is at most so many hops away, 1 (on the same link) to 254; packets from further off are
    /// dropped (RFC 5082). It must send with TTL 255, as we do.
    pub max_hops: Option<u8>,
}

impl Guard {
    /// The smallest TTL that is accepted; 0: any.
    pub fn min_ttl(&self) -> u8 {
        self.max_hops.map_or(0, |hops| 255 - hops.saturating_sub(1))
    }

    /// What may be amiss when a neighbour does not answer at all, to be put behind an error: the kernel drops what is
    /// not as it should be without a word. Empty without a guard.
    pub fn hint(&self) -> String {
        let md5 = self.md5.as_ref().map_or("", |_| "; TCP-MD5 is on: is the key the same at both ends?");
        format!("{md5}{}", self.distance_hint())
    }

    /// The same for who has connected, and so has the right key.
    pub fn distance_hint(&self) -> String {
        self.max_hops.map_or(String::new(), |hops| {
            let plural = if hops == 1 { "" } else { "s" };
            format!("; GTSM is on: does it send with TTL 255, from at most {hops} hop{plural} away?")
        })
    }
}

/// At which share of its prefix limit a neighbour is warned of, in percent, unless said otherwise.
pub const PREFIX_WARNING_PERCENT: u8 = 75;

/// What a neighbour's sessions have beyond the plain ones; everything is off by default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerOptions {
    /// How its connections are guarded.
    pub guard: Guard,
    /// What of ADD-PATH is offered.
    pub add_path: AddPathOptions,
    /// How many accepted paths of one family it may hold before the session ends with Cease/1 (RFC 4486); an
    /// admission's own limit holds beside it. `None`: any number.
    pub max_prefixes: Option<u32>,
    /// At which share of that limit there is a warning, in percent: 1 to 100, default [`PREFIX_WARNING_PERCENT`].
    pub prefix_warning_percent: u8,
    /// Whether its paths may be used beside equal ones ([`SpeakerConfig::maximum_paths`]). Off for who speaks for
    /// claims: a claim has one owner.
    pub multipath: bool,
}

impl Default for PeerOptions {
    fn default() -> PeerOptions {
        PeerOptions {
            guard: Guard::default(),
            add_path: AddPathOptions::default(),
            max_prefixes: None,
            prefix_warning_percent: PREFIX_WARNING_PERCENT,
            multipath: false,
        }
    }
}

/// What of ADD-PATH is offered to a neighbour, for both families (RFC 7911).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AddPathOptions {
    /// Whether several paths of one prefix are taken from it.
    pub receive: bool,
    /// How many it is sent, if it asks: 0 the best alone, [`AddPathOptions::ALL`] all, else the best so many.
    pub send: u8,
}

impl AddPathOptions {
    /// Stands for all paths.
    pub const ALL: u8 = u8::MAX;
}

/// Neighbours that no configuration names: whoever connects from these prefixes.
#[derive(Debug, Clone)]
pub struct DynamicPeers {
    /// The name of the `BGPDynamicPeer`.
    pub name: String,
    /// Where they may connect from.
    pub source_prefixes: Vec<IpNet>,
    /// Their AS number. Only internal peers are served: one that differs from ours refuses each with 2/2
    /// (`docs/adr/0024-internal-peers-only.md`).
    pub remote_asn: u32,
    /// Whether they are route-reflector clients.
    pub route_reflector_client: bool,
    /// How many sessions at once; one more is refused with Cease/8 (out of resources) and counted.
    pub limit: usize,
    /// Who is admitted.
    pub admission: Admission,
    /// What holds for each of them; a key is the same for all.
    pub options: PeerOptions,
}

/// A neighbour that we dial, and that may dial us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbor {
    /// Its name, unique.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Its TCP port.
    pub port: u16,
    /// Its AS number; must be ours.
    pub remote_asn: u32,
    /// The address to dial from; `None` leaves it to the kernel.
    pub local_address: Option<IpAddr>,
    /// Whether it is a route-reflector client of ours.
    pub route_reflector_client: bool,
    /// The hold time that we propose to it, in seconds; 0 or 3 to 65535.
    pub hold_time_secs: u16,
    /// How long its routes are kept after its session is lost in whatever way, orderly shutdown included, in
    /// seconds; 0: only what graceful restart demands. A leaf's default is 12 hours (fail static).
    pub fail_static_secs: u32,
    /// What holds for its sessions, whoever dials.
    pub options: PeerOptions,
    /// What it may send; `None`: everything.
    pub policy: Option<Arc<ImportPolicy>>,
}

impl Neighbor {
    /// A neighbour on port 179 with every default.
    pub fn new(name: impl Into<String>, address: IpAddr, remote_asn: u32) -> Neighbor {
        Neighbor {
            name: name.into(),
            address,
            port: 179,
            remote_asn,
            local_address: None,
            route_reflector_client: false,
            hold_time_secs: 90,
            fail_static_secs: 0,
            options: PeerOptions::default(),
            policy: None,
        }
    }
}

/// With whom there is a BFD session for as long as the BGP session is Established.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Liveness {
    /// By the name of the [`Neighbor`].
    pub neighbors: BTreeMap<String, bfd::settings::Settings>,
    /// With every dynamic peer, by the name of its [`DynamicPeers`].
    pub dynamic_peers: BTreeMap<String, bfd::settings::Settings>,
}

/// A route that this speaker originates.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Originated {
    /// The prefix.
    pub prefix: Prefix,
    /// The next hop that others shall use; for an IPv6 prefix it is sent IPv4-mapped.
    pub next_hop: Ipv4Addr,
    /// Standard communities, `AS << 16 | value`.
    pub communities: Vec<u32>,
    /// LOCAL_PREF, default 100.
    pub local_pref: u32,
}

impl Originated {
    /// A route with LOCAL_PREF 100 and no communities.
    pub fn new(prefix: Prefix, next_hop: Ipv4Addr) -> Originated {
        Originated { prefix, next_hop, communities: Vec::new(), local_pref: 100 }
    }
}
