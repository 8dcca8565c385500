//! What the speaker shows of itself: plain data for `status`, `routerctl bgp` and the API.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::routes::Routes;
use crate::types::Prefix;

/// One neighbour.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerView {
    /// The configured name, or for a dynamic peer its leaf's name, or its address.
    pub name: String,
    /// The neighbour's address.
    pub address: IpAddr,
    /// The AS number that it must have.
    pub remote_asn: u32,
    /// The session's state in RFC 4271's words: Idle, Connect, Active, OpenSent, OpenConfirm, Established; or KeptDown:
    /// the operator keeps it down.
    pub state: String,
    /// Seconds since it entered that state.
    pub since_secs: u64,
    /// The `BGPDynamicPeer` that admitted it.
    pub dynamic: Option<String>,
    /// The leaf that its admission names.
    pub leaf: Option<String>,
    /// Its BGP Identifier, once its OPEN has been seen.
    pub router_id: Option<Ipv4Addr>,
    /// Whether it is a route-reflector client.
    pub client: bool,
    /// The negotiated hold time in seconds; 0 means no keepalives.
    pub hold_time_secs: u16,
    /// How its connections are guarded: `tcp-md5`, `gtsm`.
    #[serde(default)]
    pub guards: Vec<String>,
    /// Capabilities that hold for the session, by name.
    pub capabilities: Vec<String>,
    /// Prefixes held from it: accepted and rejected.
    pub prefixes_received: u64,
    /// Prefixes held from it that may become best.
    pub prefixes_accepted: u64,
    /// Prefixes from it that are rejected now, the ones too many to be kept included.
    pub prefixes_rejected: u64,
    /// The same by reason.
    pub rejected_by_reason: BTreeMap<String, u64>,
    /// Announcements rejected since the peer has been known; never falls.
    pub rejections_total: u64,
    /// Prefixes kept from a session that was lost (graceful restart or fail static).
    pub prefixes_stale: u64,
    /// Those of them that are kept beyond the restart time (long-lived graceful restart).
    #[serde(default)]
    pub prefixes_long_lived_stale: u64,
    /// Prefixes announced to it and not withdrawn.
    pub prefixes_sent: u64,
    /// UPDATEs from it that RFC 7606 made withdrawals.
    pub treated_as_withdraw: u64,
    /// Attributes from it that RFC 7606 discarded.
    #[serde(default)]
    pub attributes_discarded: u64,
    /// Sessions that we ended with a NOTIFICATION.
    #[serde(default)]
    pub notifications_sent: u64,
    /// Sessions that it ended with a NOTIFICATION.
    #[serde(default)]
    pub notifications_received: u64,
    /// How many accepted prefixes of a family it may hold before its session ends with Cease/1.
    #[serde(default)]
    pub prefix_limit: Option<u32>,
    /// At which share of that there is a warning, in percent.
    #[serde(default)]
    pub prefix_warning_percent: u8,
    /// Whether it is at or above that share now.
    #[serde(default)]
    pub near_prefix_limit: bool,
    /// How often it came to that share.
    #[serde(default)]
    pub prefix_warnings: u64,
    /// The last error in either direction, with its NOTIFICATION code.
    pub last_error: Option<String>,
    /// The operator keeps it down, with this text for it (RFC 9003); may be empty.
    #[serde(default)]
    pub kept_down: Option<String>,
    /// How often it was Established.
    pub established_count: u64,
    /// Messages received in all sessions.
    pub messages_in: u64,
    /// UPDATEs received in all sessions.
    pub updates_in: u64,
    /// Octets received in all sessions.
    pub bytes_in: u64,
    /// Octets sent in all sessions.
    pub bytes_out: u64,
    /// Its BFD session, if it has one.
    #[serde(default)]
    pub bfd: Option<bfd::view::SessionView>,
    /// Whether it is behind the shared log and gets the latest state piece by piece.
    pub slow: bool,
}

/// What an operator has done to a neighbour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OperatedView {
    /// The neighbour.
    pub peer: String,
    /// Its address.
    pub address: IpAddr,
    /// Whether it was otherwise before.
    pub changed: bool,
}

/// What a neighbour has been asked to send again (RFC 2918).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefreshView {
    /// The neighbour.
    pub peer: String,
    /// Its address.
    pub address: IpAddr,
    /// The families asked for, by name.
    pub families: Vec<String>,
    /// Whether it marks the begin and the end of its answer, so that what it does not repeat is removed (RFC 7313).
    pub enhanced: bool,
}

/// One path of one route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteView {
    /// The prefix.
    pub prefix: Prefix,
    /// The next hop, as received.
    pub next_hop: IpAddr,
    /// The neighbour that it came from; `local` for an originated one.
    pub peer: String,
    /// The neighbour's address.
    pub peer_address: Option<IpAddr>,
    /// The leaf that the neighbour's admission names.
    pub leaf: Option<String>,
    /// The router that brought it into the AS.
    pub originator_id: Ipv4Addr,
    /// The clusters that it passed before us.
    pub cluster_list: Vec<Ipv4Addr>,
    /// Whether it is the best path of its prefix.
    pub best: bool,
    /// Whether it is used beside the best, to which it is equal (multipath).
    #[serde(default)]
    pub equal: bool,
    /// Why it is best, why another one is, or why it was rejected.
    pub reason: String,
    /// LOCAL_PREF.
    pub local_pref: u32,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// ORIGIN: `igp`, `egp` or `incomplete`.
    pub origin: String,
    /// Standard communities as `AS:value`.
    pub communities: Vec<String>,
    /// Extended communities (RFC 4360): route targets and origins as `rt:AS:value` and `soo:AS:value`, others as 16
    /// hexadecimal digits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extended_communities: Vec<String>,
    /// Large communities (RFC 8092) as `AS:value:value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub large_communities: Vec<String>,
    /// AS_PATH as text.
    pub as_path: String,
    /// Its path identifier as received (RFC 7911), 0 without.
    #[serde(default)]
    pub path_id: u32,
    /// Whether the import policy accepted it.
    pub accepted: bool,
    /// Whether it is kept from a session that was lost.
    pub stale: bool,
    /// Whether it is marked LLGR_STALE: kept beyond the restart time, by us or by whoever passed it on (RFC 9494).
    #[serde(default)]
    pub long_lived_stale: bool,
}

/// Routes, the first ones by prefix, and how many there are in all.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoutePage {
    /// The routes.
    pub routes: Vec<RouteView>,
    /// How many would be here without a limit.
    pub total: usize,
}

/// One route that was rejected and is kept in the Adj-RIB-In.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RejectedView {
    /// The prefix.
    pub prefix: Prefix,
    /// The neighbour that sent it.
    pub peer: String,
    /// The neighbour's address.
    pub peer_address: Option<IpAddr>,
    /// The leaf that the neighbour's admission names.
    pub leaf: Option<String>,
    /// The next hop that it had.
    pub next_hop: IpAddr,
    /// Why.
    pub reason: crate::policy::RejectReason,
    /// Who rejects it: a hub that this leaf has asked; none: this node itself.
    #[serde(default)]
    pub by: Option<String>,
}

/// Which routes to show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteQuery {
    /// Only this prefix.
    pub prefix: Option<Prefix>,
    /// Only paths from the peer of this name or address.
    pub peer: Option<String>,
    /// Only best paths.
    pub best_only: bool,
    /// Also rejected paths.
    pub rejected: bool,
    /// Also the prefixes inside `prefix`.
    pub longer: bool,
    /// At most so many paths, default 10,000.
    pub limit: usize,
}

impl Default for RouteQuery {
    fn default() -> RouteQuery {
        RouteQuery {
            prefix: None,
            peer: None,
            best_only: false,
            rejected: false,
            longer: false,
            limit: 10_000,
        }
    }
}

/// The speaker as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpeakerView {
    /// Our AS number.
    pub asn: u32,
    /// Our BGP Identifier.
    pub router_id: Ipv4Addr,
    /// Our cluster id.
    pub cluster_id: Ipv4Addr,
    /// Seconds since the speaker started.
    pub uptime_secs: u64,
    /// Whether a graceful restart is under way: End-of-RIB is held back.
    pub restarting: bool,
    /// Neighbours whose End-of-RIB is still waited for before ours goes out.
    pub restart_awaited: usize,
    /// Seconds until ours goes out at the latest.
    pub restart_secs_left: u64,
    /// Sessions in state Established.
    pub established: usize,
    /// Prefixes with a best path.
    pub prefixes: usize,
    /// Paths held, rejected ones included.
    pub paths: usize,
    /// Distinct attribute sets held.
    pub attribute_sets: usize,
    /// Connections refused, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Segments that the kernel dropped for TCP-MD5 since the speaker started, on the whole host: `failure` (another
    /// key), `not-found` (unsigned, where a key is set), `unexpected` (signed, where none is).
    #[serde(default)]
    pub md5_dropped: BTreeMap<String, u64>,
    /// Segments that the kernel dropped since the speaker started, on the whole host, because they came from further
    /// off than permitted (GTSM, RFC 5082), over IPv4 and IPv6.
    #[serde(default)]
    pub ttl_dropped: u64,
    /// What keeps the speaker from doing all that it was told, each with its remedy.
    #[serde(default)]
    pub findings: Vec<String>,
    /// Octets in the shared log that some session has not yet been sent.
    pub log_bytes: usize,
}

/// A BMP station (RFC 7854).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StationView {
    /// Where it listens.
    pub address: SocketAddr,
    /// `connecting`, `synchronizing`, `monitoring`, `waiting` (until the next attempt) or `ended`.
    pub state: String,
    /// Sessions so far.
    pub sessions: u64,
    /// BMP messages written to it.
    pub messages_sent: u64,
    /// Octets written to it.
    pub bytes_sent: u64,
    /// Octets that wait for it.
    pub queued_bytes: u64,
    /// BMP messages that were dropped because it did not read, or its session ended.
    pub messages_dropped: u64,
    /// How often its queue was full; each time it starts afresh.
    pub overflows: u64,
    /// Why its last session ended.
    pub last_error: Option<String>,
}

impl Default for StationView {
    fn default() -> StationView {
        StationView {
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
            state: String::new(),
            sessions: 0,
            messages_sent: 0,
            bytes_sent: 0,
            queued_bytes: 0,
            messages_dropped: 0,
            overflows: 0,
            last_error: None,
        }
    }
}

/// The best path of one prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BestPath {
    /// The next hop.
    pub next_hop: IpAddr,
    /// Next hops of paths that are equal to it and may be used beside it, in ascending order; mostly none.
    pub others: Arc<[IpAddr]>,
    /// The router that brought it into the AS (ORIGINATOR_ID, else the peer's id).
    pub originator: Ipv4Addr,
    /// Standard communities.
    pub communities: Arc<[u32]>,
    /// LOCAL_PREF.
    pub local_pref: u32,
    /// Whether we originate it ourselves.
    pub local: bool,
    /// Whether it is kept from a session that was lost.
    pub stale: bool,
    /// The address of the neighbour that it came from; none for one of our own.
    pub from: Option<IpAddr>,
}

/// The best path of every prefix, learned and own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BestPaths {
    /// Grows by one with each publication.
    pub generation: u64,
    /// The paths.
    pub routes: Routes,
    /// Whether any learned route is stale, or no session is up: the picture may be old.
    pub stale: bool,
    /// Whether a neighbour whose session is up has sent its whole table (End-of-RIB, RFC 4724 section 2).
    pub whole: bool,
    /// The neighbours of whom that is true.
    pub whole_from: std::collections::BTreeSet<IpAddr>,
}
