//! Requests and answers on the administration socket, as JSON.
//!
//! | method and path | on | answer |
//! | --- | --- | --- |
//! | `GET /v1/status` | both | [`NodeStatus`] |
//! | `GET /v1/resources/{kind}` | both | list of [`ResourceView`] |
//! | `GET /v1/config` | both | [`ConfigView`] |
//! | `GET /v1/bgp/peers` | both | list of `bgp::view::PeerView` |
//! | `GET /v1/bgp/routes` | both | `bgp::view::RoutePage` |
//! | `GET /v1/bgp/received`, `/v1/bgp/advertised` | both | [`PeerRoutes`] → `bgp::view::RoutePage` |
//! | `POST /v1/bgp/refresh` | both | [`RefreshPeer`] → `bgp::view::RefreshView` |
//! | `POST /v1/bgp/shutdown`, `/v1/bgp/enable`, `/v1/bgp/reset` | both | [`OperatePeer`] → `bgp::view::OperatedView` |
//! | `GET /v1/bgp/mrt` | both | an MRT table dump (RFC 6396), octets |
//! | `GET /v1/bgp/stations` | both | list of `bgp::view::StationView` |
//! | `GET /v1/bgp/explain` | both | [`crate::explain::RouteAnswer`] |
//! | `GET /v1/bgp/rejected` | both | list of `bgp::view::RejectedView` |
//! | `POST /v1/invites` | hub | [`NewInvite`] → [`InviteAnswer`] |
//! | `GET /v1/invites` | hub | list of `enrollment::view::InviteView` |
//! | `POST /v1/invites/{id}/revoke` | hub | [`Done`] |
//! | `GET /v1/pending` | hub | list of `enrollment::view::PendingView` |
//! | `POST /v1/pending/{fingerprint or site}/approve`, `…/deny` | hub | [`Done`] |
//! | `GET /v1/leaves` | hub | list of `enrollment::view::LeafView` |
//! | `POST /v1/leaves/{name}/revoke` | hub | [`Done`] |
//! | `GET /v1/claims` | both | list of `enrollment::view::ClaimView` |
//! | `POST /v1/hubs/invite` | hub | [`NewHubInvite`] → [`InviteAnswer`] |
//! | `POST /v1/hubs/{name}/retire` | hub | [`Done`] |
//! | `GET /v1/audit` | hub | [`AuditPage`] → list of `enrollment::view::AuditEntryView`, newest first |
//! | `GET /v1/audit/verify` | hub | `enrollment::view::AuditReport` |
//! | `GET /v1/claims/history` | hub | [`HistoryFilter`] → list of `enrollment::view::ClaimHistoryView` |
//! | `POST /v1/claims/move` | hub | [`MoveClaim`] → [`Done`] |
//! | `POST /v1/claims/add`, `/v1/claims/release` | leaf | [`ClaimWord`] → [`Done`] |
//! | `POST /v1/leave`, `/v1/rotate` | leaf | [`Done`] |
//! | `POST /v1/enroll` | leaf | [`EnrollRequest`] → lines of [`EnrollProgress`] |
//! | `POST /v1/events` | leaf | [`NewEvent`] → [`EventAnswer`] |
//! | `GET /v1/events` | leaf | list of `federation::view::EventView` |

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A daemon's refusal, the same in the answer, on the command line and in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ApiError {
    /// A code of a closed list, kebab case.
    pub code: String,
    /// What happened, for a person.
    pub message: String,
    /// A command or a sentence that mends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// One configured resource with what became of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceView {
    /// For example `net.routerd.net/v1alpha1`.
    pub api_version: String,
    /// For example `BGPDynamicPeer`.
    pub kind: String,
    /// Name and more.
    pub metadata: Metadata,
    /// As configured, with defaults.
    pub spec: Value,
    /// As seen by the daemon.
    pub status: Value,
}

impl ResourceView {
    /// A configured resource, anything that serializes as a document of `apiVersion`, `kind`, `metadata` and `spec`,
    /// with its status; none if it is no such document.
    pub fn of(document: &impl Serialize, status: Value) -> Option<ResourceView> {
        let mut document = serde_json::to_value(document).ok()?;
        document.as_object_mut()?.insert("status".into(), status);
        serde_json::from_value(document).ok()
    }
}

/// A resource's name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Metadata {
    /// Unique within its Kind.
    pub name: String,
}

/// The configuration as a daemon understood it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConfigView {
    /// The file it came from.
    pub file: String,
    /// Effective configuration with defaults, YAML.
    pub effective: String,
    /// Peers and claims written by hand in it; both are zero on a hub with dynamic peers.
    pub static_peers: usize,
    /// Claims written by hand in it.
    pub static_claims: usize,
}

/// What a node says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeStatus {
    /// `hub`, `leaf`, or `reflector` (a hub with no enrollment and no dataplane).
    pub role: String,
    /// The site's name, or the router's.
    pub name: String,
    /// Version of the daemon.
    pub version: String,
    /// Seconds since the daemon started.
    pub uptime_secs: u64,
    /// `Ready`, or what is missing, in one word.
    pub phase: String,
    /// Why the phase is not `Ready`; empty when it is.
    pub why: Vec<String>,
    /// The node's own overlay address.
    pub overlay: Option<Ipv4Addr>,
    /// Enrollment as the leaf sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrollment: Option<enrollment::view::ClientView>,
    /// Interfaces, peers, routes and findings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataplane: Option<dataplane::view::Report>,
    /// Sessions.
    pub bgp: BgpSummary,
    /// The node's own clients' addresses that the fabric knows (leaf).
    #[serde(default)]
    pub claims: Vec<Ipv4Addr>,
    /// Claims asked for and refused, with the reason (leaf).
    #[serde(default)]
    pub refused: BTreeMap<Ipv4Addr, ApiError>,
    /// Routes of this node that its hubs keep out, with the reason (leaf).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hub_rejected: Vec<bgp::view::RejectedView>,
    /// The fabric's hubs in this node's order (leaf).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hubs: Vec<HubView>,
    /// Enrolled leaves (hub).
    #[serde(default)]
    pub leaves: usize,
    /// How the registry stands with the other hubs' (hub).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<ReplicationStatus>,
    /// The dumps of the table that `mrtDump` asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mrt_dump: Option<MrtDumpView>,
    /// Requests on the administration socket that were refused since the daemon started, for who asked.
    #[serde(default)]
    pub administration_refused: u64,
}

/// What became of the dumps of the table (MRT, RFC 6396) since the daemon started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MrtDumpView {
    /// Where the newest one is.
    pub file: String,
    /// Dumps written.
    pub written: u64,
    /// Dumps that could not be written.
    pub failed: u64,
    /// When the newest one was written, seconds since 1970.
    pub last_written_at: Option<u64>,
    /// How large it is, octets.
    pub last_octets: Option<u64>,
    /// Why the last try failed; none when it did not.
    pub last_error: Option<String>,
}

/// A hub, seen from a leaf.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HubView {
    /// Its name.
    pub name: String,
    /// Its overlay address.
    pub overlay: Ipv4Addr,
    /// Where the leaf reaches it.
    pub endpoint: Option<std::net::SocketAddr>,
    /// The BGP session with it, in RFC 4271's words.
    pub session: String,
    /// For how long the session has been so, seconds.
    pub session_secs: u64,
    /// The BFD session beside it, in RFC 5880's words; none without BFD.
    pub bfd: Option<String>,
    /// Seconds since the last handshake with it.
    pub handshake_secs_ago: Option<u64>,
    /// Whether it carries the overlay now.
    pub preferred: bool,
    /// Whether it was the one that answered the leaf last: the lease is from there.
    pub answered: bool,
    /// Its names, and where they lead; none where it is reached by address.
    #[serde(default)]
    pub names: Vec<crate::names::NameView>,
}

/// How a hub's registry stands with the others'.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReplicationStatus {
    /// SHA-256 over everything that hubs in step have in common, hexadecimal.
    pub digest: String,
    /// The other hubs.
    pub hubs: Vec<enrollment::exchange::ReplicaView>,
    /// The database that all hubs share, where the registry is in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<enrollment::view::DatabaseView>,
}

/// Asks for the string by which a second hub joins.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewHubInvite {
    /// The second hub's name.
    pub name: String,
    /// Seconds until it expires.
    pub expires_secs: u64,
}

/// Sessions and routes in numbers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct BgpSummary {
    /// Sessions in state Established.
    pub established: usize,
    /// Sessions known.
    pub peers: usize,
    /// Routes accepted from neighbours.
    pub accepted: u64,
    /// Routes of neighbours that policy keeps out.
    pub rejected: u64,
}

/// Asks the hub for an invite.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewInvite {
    /// The site that it admits.
    pub site: String,
    /// Prefixes whose `/32`s the leaf may claim; empty: the policy's permitted prefixes.
    pub permitted: Vec<String>,
    /// How many claims at most; none: the policy's.
    pub max_claims: Option<u32>,
    /// Seconds until it expires.
    pub expires_secs: u64,
    /// How many leaves it admits.
    pub uses: u32,
    /// Prefixes of the underlay from which it may be used; empty: any.
    #[serde(default)]
    pub sources: Vec<String>,
    /// Whether a person approves each machine.
    #[serde(default)]
    pub approve: bool,
    /// Whether its machine takes the place of the one enrolled under the site's name.
    #[serde(default)]
    pub replace: bool,
}

/// Narrows `GET /v1/claims/history`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct HistoryFilter {
    /// Only this address.
    pub address: Option<Ipv4Addr>,
    /// At most so many entries, the newest first.
    pub limit: Option<u32>,
}

/// Gives an owned address to another leaf.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MoveClaim {
    /// The address.
    pub address: Ipv4Addr,
    /// The new owner's name.
    pub to: String,
}

/// An address that a leaf shall own, or own no longer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClaimWord {
    /// The address.
    pub address: Ipv4Addr,
}

/// The invite, shown once. Its text is a secret until it is spent.
#[derive(Clone, Serialize, Deserialize)]
pub struct InviteAnswer {
    /// The string for `routerctl enroll`.
    pub invite: String,
    /// Its public name.
    pub id: String,
    /// The site that it admits.
    pub site: String,
    /// Seconds until it expires.
    pub expires_secs: u64,
}

/// Asks the leaf to join.
#[derive(Clone, Serialize, Deserialize)]
pub struct EnrollRequest {
    /// The invite; none: check and report an enrollment that was made before.
    pub invite: Option<String>,
    /// Clients to claim at once.
    pub clients: Vec<Ipv4Addr>,
    /// Network interface on which clients are captured and observed.
    pub capture_interface: Option<String>,
    /// `none` or `proxy-arp`; none given: as configured.
    pub capture: Option<String>,
    /// Take the place of the machine that is enrolled under the invite's site.
    #[serde(default)]
    pub replace: bool,
}

/// One line of an enrollment's progress.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum EnrollProgress {
    /// A step ended.
    Step(EnrollStep),
    /// The whole ended.
    Done(EnrollSummary),
}

/// One step of an enrollment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EnrollStep {
    /// For example `tunnel`.
    pub name: String,
    /// Milliseconds that it took.
    pub ms: u64,
    /// Whether it succeeded.
    pub ok: bool,
    /// What it found.
    pub detail: String,
}

/// How an enrollment ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EnrollSummary {
    /// Whether the site works.
    pub ok: bool,
    /// Whether anything changed; a second run changes nothing.
    pub changed: bool,
    /// Every step with its time.
    pub steps: Vec<EnrollStep>,
    /// Milliseconds from the request to the probe's answer.
    pub elapsed_ms: u64,
    /// The node's overlay address.
    pub overlay: Option<Ipv4Addr>,
    /// Which dataplane carries the packets, `kernel` or `in-process`.
    pub dataplane: Option<String>,
    /// Host facts that keep packets away, with the command that mends each.
    #[serde(default)]
    pub findings: Vec<dataplane::preflight::Finding>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<ApiError>,
}

/// An event to emit on this node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewEvent {
    /// For example `routerd.client.ipv4.observed`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// For client events the client's IPv4 address.
    pub subject: String,
    /// Free JSON.
    #[serde(default)]
    pub payload: Value,
    /// The same id twice is one event; none: a fresh one.
    #[serde(default)]
    pub id: Option<String>,
    /// Seconds that it holds; none: the group's observation lifetime.
    #[serde(default)]
    pub expires_secs: Option<u64>,
}

/// What became of an event.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EventAnswer {
    /// The event's id.
    pub id: String,
    /// `stored`, `known` or `expired`.
    pub outcome: String,
}

/// A change was made, or was already so.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Done {
    /// Whether anything changed.
    pub changed: bool,
    /// What, in a sentence.
    pub detail: String,
}

/// Narrows `GET /v1/audit`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AuditPage {
    /// How many entries at most.
    pub limit: u32,
}

/// Names the route of `GET /v1/bgp/explain`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RouteName {
    /// A prefix, or an address: then the most specific prefix that covers it.
    pub prefix: String,
}

/// Narrows `GET /v1/bgp/routes`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RouteFilter {
    /// Only this prefix, or the address' host route.
    pub prefix: Option<String>,
    /// Also the prefixes inside it.
    pub longer: Option<bool>,
    /// Only paths received from the neighbour of this name or address.
    pub peer: Option<String>,
    /// At most so many paths: 1 to 100,000, default 1,000.
    pub limit: Option<usize>,
}

/// Names the neighbour of `POST /v1/bgp/refresh`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RefreshPeer {
    /// Its name or address.
    pub peer: String,
}

/// Names the neighbour of `POST /v1/bgp/shutdown`, `/v1/bgp/enable` and `/v1/bgp/reset`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OperatePeer {
    /// Its name or address.
    pub peer: String,
    /// What it is told (RFC 9003), at most 255 octets of UTF-8; nothing where the session is let back.
    #[serde(default)]
    pub text: String,
}

/// Names the neighbour of `GET /v1/bgp/received` and `/v1/bgp/advertised`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerRoutes {
    /// Its name or address.
    pub peer: String,
    /// At most so many routes: 1 to 100,000, default 1,000.
    pub limit: Option<usize>,
}
