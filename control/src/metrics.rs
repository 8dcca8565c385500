//! What a node says to Prometheus: numbers out of the very views that `routerctl` shows, made when somebody asks and
//! at no other time. Every family is in [`FAMILIES`], and `docs/operations.md` names each.
//!
//! How many lines there are is bounded: reasons and states are closed sets, and of neighbours and tunnels the first
//! [`NAMED`] have lines of their own; how many are left out is a number too.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bgp::view::{PeerView, SpeakerView, StationView};
use dataplane::view::{Report, WireguardPeerView};
use enrollment::exchange::ReplicaView;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::wire::{NodeStatus, ReplicationStatus};

pub mod exposition;

use exposition::{Family, Kind, Page};

/// Neighbours and tunnels with lines of their own.
pub const NAMED: usize = 500;
/// Pages that are made at once; who comes beyond that is told to come again.
const AT_ONCE: usize = 2;
/// Longest time for one page.
const LIMIT: Duration = Duration::from_secs(5);

/// What a page is made of.
#[derive(Debug, Default)]
pub struct Observed {
    /// The node as `status` shows it.
    pub status: Option<NodeStatus>,
    /// The speaker as a whole; none before a leaf is enrolled.
    pub speaker: Option<SpeakerView>,
    /// Its neighbours, by name.
    pub peers: Vec<PeerView>,
    /// Its BMP stations.
    pub stations: Vec<StationView>,
    /// Enrolled leaves by phase (hub).
    pub leaves: BTreeMap<String, u64>,
    /// Seconds until the first lease in force ends (hub).
    pub first_lease_end_secs: Option<u64>,
    /// Claims that the registry holds (hub).
    pub claims: Option<u64>,
    /// Requests of leaves that were granted, by path (hub).
    pub grants: BTreeMap<&'static str, u64>,
    /// Requests of leaves that were refused, by code (hub).
    pub refusals: BTreeMap<&'static str, u64>,
    /// Seconds since 1970 now.
    pub unix_now: u64,
}

macro_rules! families {
    ($($id:ident $name:literal $kind:ident [$($label:literal),*] $help:literal;)*) => {
        $(const $id: Family = Family { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };)*
        /// Every family that a page may have.
        pub const FAMILIES: &[Family] = &[$($id),*];
    };
}

families! {
    BUILD "fabric_build_info" Gauge ["role", "version"] "Always 1; the role and version of the daemon.";
    UPTIME "fabric_uptime_seconds" Gauge [] "Seconds since the daemon started.";
    READY "fabric_ready" Gauge [] "1 when the node says Ready, else 0.";
    ADMIN_REFUSED "fabric_administration_refused_total" Counter [] "Requests on the administration socket that were refused for who asked.";
    SESSIONS "fabric_bgp_sessions" Gauge ["state"] "Neighbours by the state of their session.";
    PREFIXES "fabric_bgp_prefixes" Gauge [] "Prefixes with a best path.";
    PATHS "fabric_bgp_paths" Gauge [] "Paths held, rejected ones included.";
    SETS "fabric_bgp_attribute_sets" Gauge [] "Distinct attribute sets held.";
    LOG "fabric_bgp_log_bytes" Gauge [] "Octets of the shared log that some session has not yet been sent.";
    RESTARTING "fabric_bgp_restarting" Gauge [] "1 while End-of-RIB is held back after a restart.";
    REFUSED "fabric_bgp_connections_refused_total" Counter ["reason"] "Connections refused.";
    MD5 "fabric_bgp_md5_dropped_total" Counter ["kind"] "Segments that the kernel dropped for TCP-MD5, on the whole host.";
    TTL "fabric_bgp_ttl_dropped_total" Counter [] "Segments that the kernel dropped because they came from too far off (GTSM), on the whole host.";
    REJECTED "fabric_bgp_rejected_routes" Gauge ["reason"] "Routes of neighbours that are kept out now.";
    OMITTED "fabric_bgp_peers_omitted" Gauge [] "Neighbours without lines of their own: only the first 500 by name have some.";
    UP "fabric_bgp_peer_established" Gauge ["peer"] "1 while the session is Established.";
    ESTABLISHED "fabric_bgp_peer_established_total" Counter ["peer"] "Times that the session came up.";
    ACCEPTED "fabric_bgp_peer_accepted_prefixes" Gauge ["peer"] "Prefixes held from the neighbour that may become best.";
    PEER_REJECTED "fabric_bgp_peer_rejected_prefixes" Gauge ["peer"] "Prefixes of the neighbour that are kept out now.";
    STALE "fabric_bgp_peer_stale_prefixes" Gauge ["peer"] "Prefixes kept from a session that was lost.";
    SENT "fabric_bgp_peer_sent_prefixes" Gauge ["peer"] "Prefixes announced to the neighbour.";
    LIMIT_PREFIXES "fabric_bgp_peer_prefix_limit" Gauge ["peer"] "Accepted prefixes of a family at which the session ends.";
    WARNINGS "fabric_bgp_peer_prefix_warnings_total" Counter ["peer"] "Times that it came near its prefix limit.";
    REJECTIONS "fabric_bgp_peer_rejections_total" Counter ["peer"] "Announcements of the neighbour that were rejected.";
    UPDATES "fabric_bgp_peer_received_updates_total" Counter ["peer"] "UPDATEs received.";
    MESSAGES "fabric_bgp_peer_received_messages_total" Counter ["peer"] "Messages received.";
    BYTES_IN "fabric_bgp_peer_received_bytes_total" Counter ["peer"] "Octets received.";
    BYTES_OUT "fabric_bgp_peer_sent_bytes_total" Counter ["peer"] "Octets sent.";
    NOTIFIED "fabric_bgp_peer_sent_notifications_total" Counter ["peer"] "Sessions that we ended with a NOTIFICATION.";
    NOTIFICATIONS "fabric_bgp_peer_received_notifications_total" Counter ["peer"] "Sessions that it ended with a NOTIFICATION.";
    WITHDRAWN "fabric_bgp_peer_treated_as_withdraw_total" Counter ["peer"] "Malformed UPDATEs that counted as withdrawals (RFC 7606).";
    DISCARDED "fabric_bgp_peer_discarded_attributes_total" Counter ["peer"] "Malformed attributes that were left out (RFC 7606).";
    SLOW "fabric_bgp_peer_slow" Gauge ["peer"] "1 while it is behind the shared log and is sent the latest state piece by piece.";
    BFD_UP "fabric_bfd_up" Gauge ["peer"] "1 while its BFD session is Up.";
    BFD_DOWNS "fabric_bfd_downs_total" Counter ["peer"] "Times that its BFD session left Up.";
    BFD_IN "fabric_bfd_received_packets_total" Counter ["peer"] "BFD packets received.";
    BFD_OUT "fabric_bfd_sent_packets_total" Counter ["peer"] "BFD packets sent.";
    BMP_UP "fabric_bmp_station_monitoring" Gauge ["station"] "1 while the BMP station has all tables.";
    BMP_SENT "fabric_bmp_station_sent_messages_total" Counter ["station"] "BMP messages written to it.";
    BMP_DROPPED "fabric_bmp_station_dropped_messages_total" Counter ["station"] "BMP messages dropped because it did not read.";
    BMP_QUEUED "fabric_bmp_station_queued_bytes" Gauge ["station"] "Octets that wait for it.";
    MRT_WRITTEN "fabric_mrt_dumps_written_total" Counter [] "MRT dumps of the table that were written.";
    MRT_FAILED "fabric_mrt_dumps_failed_total" Counter [] "MRT dumps of the table that could not be written.";
    LEAVES "fabric_leaves" Gauge ["phase"] "Enrolled leaves by phase (hub).";
    LEASE_FIRST "fabric_lease_first_end_seconds" Gauge [] "Seconds until the first lease in force ends (hub).";
    CLAIMS "fabric_claims" Gauge [] "Claimed addresses: of the whole fabric on a hub, granted to this leaf on a leaf.";
    CLAIMS_REFUSED "fabric_claims_refused" Gauge [] "Claims that the hub refuses this leaf.";
    OWN_REJECTED "fabric_own_routes_rejected" Gauge ["reason"] "Routes of this leaf that a hub keeps out.";
    LEASE_LEFT "fabric_lease_left_seconds" Gauge [] "Seconds until this leaf's lease ends; negative once it has.";
    HUB_SILENT "fabric_hub_silent_seconds" Gauge [] "Seconds since a hub last answered this leaf.";
    GRANTED "fabric_requests_granted_total" Counter ["operation"] "Requests of leaves that were granted (hub).";
    REQUESTS_REFUSED "fabric_requests_refused_total" Counter ["code"] "Requests of leaves that were refused (hub).";
    LAG "fabric_replication_lag_entries" Gauge ["hub"] "Entries of the other hub that are lacking here.";
    IN_STEP "fabric_replication_in_step" Gauge ["hub"] "1 while the registries are in step.";
    ANSWERED "fabric_replication_answered_seconds" Gauge ["hub"] "Seconds since the other hub last answered.";
    CONVERGED "fabric_dataplane_converged" Gauge ["carrier"] "1 when the kernel has what is wished; who carries packets.";
    ROUTES "fabric_dataplane_routes" Gauge [] "Routes of ours in the kernel.";
    ROUTES_REJECTED "fabric_dataplane_routes_rejected" Gauge ["reason"] "Wished routes that are not installed, by what stands in the way.";
    CAPTURES "fabric_dataplane_captures" Gauge [] "Captures in force.";
    REPAIRS "fabric_dataplane_repairs_total" Counter [] "Times that something of ours had to be put right.";
    APPLY "fabric_dataplane_apply_seconds" Gauge [] "Time that the last apply took.";
    DROPS "fabric_dataplane_dropped_packets_total" Counter ["reason"] "Packets that the dataplane itself dropped.";
    RELAYED "fabric_dataplane_relayed_packets_total" Counter [] "Overlay packets relayed in this process.";
    PASSED_ON "fabric_dataplane_passed_on_packets_total" Counter [] "Those of them that went to another hub.";
    FINDINGS "fabric_dataplane_findings" Gauge [] "Facts of the host that stand in the way.";
    WG_AGE "fabric_wireguard_handshake_age_seconds" Gauge ["public_key"] "Seconds since the last handshake.";
    WG_IN "fabric_wireguard_received_bytes_total" Counter ["public_key"] "Octets received through the tunnel.";
    WG_OUT "fabric_wireguard_sent_bytes_total" Counter ["public_key"] "Octets sent through the tunnel.";
}

/// The page.
pub fn page(observed: &Observed) -> String {
    let mut page = Page::default();
    if let Some(status) = &observed.status {
        node(&mut page, status, observed.unix_now);
    }
    if let Some(speaker) = &observed.speaker {
        whole(&mut page, speaker);
    }
    neighbors(&mut page, &observed.peers);
    liveness(&mut page, &observed.peers);
    stations(&mut page, &observed.stations);
    page.family(&LEAVES, labelled(&observed.leaves));
    observed.first_lease_end_secs.iter().for_each(|secs| page.number(&LEASE_FIRST, *secs as f64));
    page.family(&GRANTED, labelled(&observed.grants));
    page.family(&REQUESTS_REFUSED, labelled(&observed.refusals));
    let own = observed.status.as_ref().filter(|s| s.role == "leaf").map(|s| s.claims.len() as u64);
    observed.claims.or(own).iter().for_each(|claims| page.number(&CLAIMS, *claims as f64));
    if let Some(status) = &observed.status {
        status.replication.iter().for_each(|r| replication(&mut page, r));
        status.dataplane.iter().for_each(|report| dataplane(&mut page, report));
    }
    page.into_text()
}

fn labelled<K: ToString>(counts: &BTreeMap<K, u64>) -> Vec<(Vec<String>, f64)> {
    counts.iter().map(|(label, count)| (vec![label.to_string()], *count as f64)).collect()
}

fn counted<T: ToString>(labels: impl IntoIterator<Item = T>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    labels.into_iter().for_each(|label| *counts.entry(label.to_string()).or_default() += 1);
    counts
}

/// A family with one label, and what it says of a thing; `None`: nothing.
type Column<'a, T> = (&'a Family, fn(&T) -> Option<f64>);

/// A family for each column, with a line for each thing that has a name.
fn lines<T>(page: &mut Page, named: &[(String, &T)], columns: &[Column<'_, T>]) {
    for (family, of) in columns {
        page.family(family, named.iter().filter_map(|(name, thing)| Some((vec![name.clone()], of(thing)?))));
    }
}

fn bit(on: bool) -> f64 {
    f64::from(u8::from(on))
}

fn node(page: &mut Page, status: &NodeStatus, now: u64) {
    page.family(&BUILD, [(vec![status.role.clone(), status.version.clone()], 1.0)]);
    page.number(&UPTIME, status.uptime_secs as f64);
    page.number(&READY, bit(status.phase == "Ready"));
    page.number(&ADMIN_REFUSED, status.administration_refused as f64);
    if let Some(dumps) = &status.mrt_dump {
        page.number(&MRT_WRITTEN, dumps.written as f64);
        page.number(&MRT_FAILED, dumps.failed as f64);
    }
    if let Some(client) = &status.enrollment {
        page.number(&CLAIMS_REFUSED, status.refused.len() as f64);
        page.family(&OWN_REJECTED, labelled(&counted(status.hub_rejected.iter().map(|r| r.reason.as_str()))));
        client.valid_until.iter().for_each(|until| page.number(&LEASE_LEFT, *until as f64 - now as f64));
        client.last_answer_secs_ago.iter().for_each(|secs| page.number(&HUB_SILENT, *secs as f64));
    }
}

fn whole(page: &mut Page, speaker: &SpeakerView) {
    page.number(&PREFIXES, speaker.prefixes as f64);
    page.number(&PATHS, speaker.paths as f64);
    page.number(&SETS, speaker.attribute_sets as f64);
    page.number(&LOG, speaker.log_bytes as f64);
    page.number(&RESTARTING, bit(speaker.restarting));
    page.family(&REFUSED, labelled(&speaker.refused));
    page.family(&MD5, labelled(&speaker.md5_dropped));
    page.number(&TTL, speaker.ttl_dropped as f64);
}

fn neighbors(page: &mut Page, peers: &[PeerView]) {
    page.family(&SESSIONS, labelled(&counted(peers.iter().map(|p| &p.state))));
    let mut rejected: BTreeMap<&str, u64> = BTreeMap::new();
    for (reason, count) in peers.iter().flat_map(|p| &p.rejected_by_reason) {
        *rejected.entry(reason).or_default() += count;
    }
    page.family(&REJECTED, labelled(&rejected));
    page.number(&OMITTED, peers.len().saturating_sub(NAMED) as f64);
    let columns: [Column<PeerView>; 18] = [
        (&UP, |p| Some(bit(p.state == "Established"))),
        (&ESTABLISHED, |p| Some(p.established_count as f64)),
        (&ACCEPTED, |p| Some(p.prefixes_accepted as f64)),
        (&PEER_REJECTED, |p| Some(p.prefixes_rejected as f64)),
        (&STALE, |p| Some(p.prefixes_stale as f64)),
        (&SENT, |p| Some(p.prefixes_sent as f64)),
        (&LIMIT_PREFIXES, |p| p.prefix_limit.map(f64::from)),
        (&WARNINGS, |p| Some(p.prefix_warnings as f64)),
        (&REJECTIONS, |p| Some(p.rejections_total as f64)),
        (&UPDATES, |p| Some(p.updates_in as f64)),
        (&MESSAGES, |p| Some(p.messages_in as f64)),
        (&BYTES_IN, |p| Some(p.bytes_in as f64)),
        (&BYTES_OUT, |p| Some(p.bytes_out as f64)),
        (&NOTIFIED, |p| Some(p.notifications_sent as f64)),
        (&NOTIFICATIONS, |p| Some(p.notifications_received as f64)),
        (&WITHDRAWN, |p| Some(p.treated_as_withdraw as f64)),
        (&DISCARDED, |p| Some(p.attributes_discarded as f64)),
        (&SLOW, |p| Some(bit(p.slow))),
    ];
    lines(page, &named(peers), &columns);
}

/// The neighbours with lines of their own. A name is not unique where a configured neighbour is called as a leaf is:
/// the second one has its address beside it.
fn named(peers: &[PeerView]) -> Vec<(String, &PeerView)> {
    let mut seen = std::collections::BTreeSet::new();
    let name = |p: &PeerView| match seen.insert(p.name.clone()) {
        true => p.name.clone(),
        false => format!("{} ({})", p.name, p.address),
    };
    peers.iter().take(NAMED).map(name).zip(peers).collect()
}

fn liveness(page: &mut Page, peers: &[PeerView]) {
    let columns: [Column<bfd::view::SessionView>; 4] = [
        (&BFD_UP, |b| Some(bit(b.state == "Up"))),
        (&BFD_DOWNS, |b| Some(b.downs as f64)),
        (&BFD_IN, |b| Some(b.packets_in as f64)),
        (&BFD_OUT, |b| Some(b.packets_out as f64)),
    ];
    let with = named(peers).into_iter().filter_map(|(name, p)| Some((name, p.bfd.as_ref()?)));
    lines(page, &with.collect::<Vec<_>>(), &columns);
}

fn stations(page: &mut Page, stations: &[StationView]) {
    let columns: [Column<StationView>; 4] = [
        (&BMP_UP, |s| Some(bit(s.state == "monitoring"))),
        (&BMP_SENT, |s| Some(s.messages_sent as f64)),
        (&BMP_DROPPED, |s| Some(s.messages_dropped as f64)),
        (&BMP_QUEUED, |s| Some(s.queued_bytes as f64)),
    ];
    let named = stations.iter().map(|s| (s.address.to_string(), s));
    lines(page, &named.collect::<Vec<_>>(), &columns);
}

fn replication(page: &mut Page, replication: &ReplicationStatus) {
    let columns: [Column<ReplicaView>; 3] = [
        (&LAG, |h| Some(h.lag_entries as f64)),
        (&IN_STEP, |h| Some(bit(h.state == "in-step"))),
        (&ANSWERED, |h| h.answered_secs_ago.map(|secs| secs as f64)),
    ];
    let named = replication.hubs.iter().map(|h| (h.hub.name.to_string(), h));
    lines(page, &named.collect::<Vec<_>>(), &columns);
}

fn dataplane(page: &mut Page, report: &Report) {
    page.family(&CONVERGED, [(vec![report.dataplane.to_string()], bit(report.converged))]);
    page.number(&ROUTES, report.routes_installed as f64);
    let rejected = counted(report.routes_rejected.iter().map(|r| r.reason));
    page.family(&ROUTES_REJECTED, labelled(&rejected));
    page.number(&CAPTURES, report.captures.len() as f64);
    page.number(&REPAIRS, report.repairs as f64);
    page.number(&APPLY, report.apply_ms as f64 / 1000.0);
    page.family(&DROPS, report.drops.iter().map(|(r, n)| (vec![r.as_str().to_string()], *n as f64)));
    page.number(&RELAYED, report.relayed as f64);
    page.number(&PASSED_ON, report.passed_on as f64);
    page.number(&FINDINGS, report.findings.len() as f64);
    let columns: [Column<WireguardPeerView>; 3] = [
        (&WG_AGE, |p| p.last_handshake_secs_ago.map(|secs| secs as f64)),
        (&WG_IN, |p| Some(p.rx_bytes as f64)),
        (&WG_OUT, |p| Some(p.tx_bytes as f64)),
    ];
    let tunnels = report.peers.iter().take(NAMED).map(|p| (p.public_key.to_string(), p));
    lines(page, &tunnels.collect::<Vec<_>>(), &columns);
}

/// Looks at the node when somebody asks.
pub type Observe = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Observed> + Send>> + Send + Sync>;

/// Serves `/metrics`, and nothing else, at `address` until the daemon ends.
pub async fn serve(address: SocketAddr, observe: Observe) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let handler = move || answer(slots.clone(), observe.clone());
    let router = Router::new().route("/metrics", get(handler));
    tokio::spawn(enrollment::io::listener::serve_router(listener, router));
    Ok(bound)
}

async fn answer(slots: Arc<Semaphore>, observe: Observe) -> Response {
    let Ok(_slot) = slots.try_acquire() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "others are asking\n").into_response();
    };
    match tokio::time::timeout(LIMIT, observe()).await {
        Ok(observed) => {
            ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], page(&observed)).into_response()
        }
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the daemon did not answer in time\n").into_response(),
    }
}

#[cfg(test)]
mod tests;
