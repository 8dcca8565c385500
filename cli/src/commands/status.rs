//! `routerctl status`: how the node stands, on one page.

use clap::Args;
use control::wire::{MrtDumpView, NodeStatus, ReplicationStatus};
use dataplane::view::Report;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::Answer;
use crate::text::{self, Table};

/// From how far on a clock that differs from the hub's is told, seconds.
const CLOCK_SECS: i64 = 60;

/// Words of `status`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  routerctl status\n  routerctl status -o json\n\n\
    Exit code 1 when the node is not ready; the page says why.")]
pub struct StatusArgs {}

/// Runs the verb.
pub async fn run(context: &Context, _: StatusArgs) -> Result<Answer, Failure> {
    let status: NodeStatus = context.client()?.get("/v1/status").await?;
    context.judged(status.phase == "Ready", &status, people)
}

fn people(status: &NodeStatus) -> String {
    let mut head = vec![
        ("role", status.role.clone()),
        ("name", status.name.clone()),
        ("phase", status.phase.clone()),
        ("version", format!("{}, up {}", status.version, text::seconds(status.uptime_secs))),
        ("overlay", text::or_dash(&status.overlay)),
    ];
    if let Some(enrollment) = &status.enrollment {
        head.push(("enrollment", enrollment.phase_text.clone()));
        if let Some(until) = enrollment.valid_until {
            head.push(("lease until", text::utc(until)));
        }
        head.push(("claims", text::list(&status.claims)));
        if let Some(ahead) = enrollment.clock_ahead_secs.filter(|ahead| ahead.abs() > CLOCK_SECS) {
            let off = text::seconds(ahead.unsigned_abs());
            let word = if ahead > 0 { "ahead of" } else { "behind" };
            head.push(("clock", format!("{off} {word} the hub's; the lease goes by the hub's clock")));
        }
        head.extend(enrollment.replacement.as_ref().map(|told| ("replacement", text::plain(told))));
    } else {
        head.push(("leaves", status.leaves.to_string()));
    }
    let bgp = &status.bgp;
    let sessions = format!("{} of {} sessions established", bgp.established, bgp.peers);
    head.push(("bgp", format!("{sessions}, {} routes accepted, {} rejected", bgp.accepted, bgp.rejected)));
    head.extend(status.mrt_dump.as_ref().map(|dumps| ("mrt dumps", mrt_dumps(dumps))));
    if status.administration_refused > 0 {
        let told = format!("{} requests refused for who asked", status.administration_refused);
        head.push(("administration", told));
    }
    let mut parts = Vec::new();
    if let Some(report) = &status.dataplane {
        head.push(("dataplane", format!("{} ({})", word(&report.dataplane), report.why)));
        head.push(("converged", converged(report)));
        let clamp = report.clamp.map_or_else(|| "none".into(), |mss| format!("{mss} octets"));
        head.push(("mss clamp", clamp));
        parts.push(tunnels(report));
        parts.push(routes(report));
    }
    parts.insert(0, hubs(status));
    parts.insert(0, text::pairs(&head));
    parts.extend(status.replication.as_ref().map(replication));
    for why in &status.why {
        parts.push(format!("not ready: {}", text::plain(why)));
    }
    for (address, refused) in &status.refused {
        let failure = Failure::from(refused.clone());
        let what = format!("claim {address} is refused: {} ({})", failure.message, failure.code);
        parts.push(format!("{}\n  fix: {}", text::plain(&what), text::plain(&failure.fix)));
    }
    for finding in status.dataplane.iter().flat_map(|report| &report.findings) {
        let fix =
            finding.fix.as_ref().map(|fix| format!("\n  fix: {}", text::plain(fix))).unwrap_or_default();
        parts.push(format!("{}: {}{fix}", finding.code, text::plain(&finding.message)));
    }
    parts.retain(|part| !part.is_empty());
    parts.join("\n\n")
}

/// How the dumps of the table went.
fn mrt_dumps(dumps: &MrtDumpView) -> String {
    let newest = dumps.last_written_at.map(|at| format!(", the newest at {}", text::utc(at)));
    let why = dumps.last_error.as_ref().map(|why| format!(": {}", text::plain(why)));
    let (newest, why) = (newest.unwrap_or_default(), why.unwrap_or_default());
    format!("{} written to {}{newest}; {} failed{why}", dumps.written, text::plain(&dumps.file), dumps.failed)
}

/// How a leaf of two hubs stands with each.
fn hubs(status: &NodeStatus) -> String {
    if status.hubs.len() < 2 {
        return String::new();
    }
    let head = ["HUB", "OVERLAY", "ENDPOINT", "SESSION", "FOR", "BFD", "HANDSHAKE", "CARRIES", "LEASE"];
    let mut table = Table::new(head, "");
    for hub in &status.hubs {
        let ago = hub.handshake_secs_ago.map(|secs| format!("{} ago", text::seconds(secs)));
        let mark = |yes: bool, word: &str| if yes { word.to_string() } else { "-".into() };
        table.row([
            hub.name.clone(),
            hub.overlay.to_string(),
            text::or_dash(&hub.endpoint),
            hub.session.clone(),
            text::seconds(hub.session_secs),
            text::or_dash(&hub.bfd),
            ago.unwrap_or_else(|| "never".into()),
            mark(hub.preferred, "overlay"),
            mark(hub.answered, "answers"),
        ]);
    }
    table.to_string()
}

/// The other hubs, and whether the registries agree.
fn replication(replication: &ReplicationStatus) -> String {
    let digest = |digest: &str| digest.chars().take(16).collect::<String>();
    let mut own = format!("registry digest  {}", digest(&replication.digest));
    if let Some(view) = &replication.database {
        let since = text::seconds(view.since_secs);
        let told = if view.notifications { "told of changes" } else { "asked for changes" };
        let (address, state, tls) = (text::plain(&view.address), &view.state, &view.tls);
        own += &format!("\nregistry database  {address}: {state} for {since}, position {}", view.position);
        own += &format!(", sslmode {tls}, {told}");
    }
    if replication.hubs.is_empty() {
        return own;
    }
    let head = ["OTHER HUB", "OVERLAY", "STATE", "LAG", "ANSWERED", "CLOCK AHEAD", "DIGEST"];
    let mut table = Table::new(head, "");
    for hub in &replication.hubs {
        let ago = hub.answered_secs_ago.map(|secs| format!("{} ago", text::seconds(secs)));
        table.row([
            hub.hub.name.to_string(),
            hub.hub.overlay.to_string(),
            hub.state.clone(),
            format!("{} entries", hub.lag_entries),
            ago.unwrap_or_else(|| "never".into()),
            format!("{}s", hub.clock_ahead_secs),
            text::or_dash(&hub.digest.as_deref().map(digest)),
        ]);
    }
    let errors = replication.hubs.iter().filter_map(|hub| {
        hub.error.as_ref().map(|error| format!("\n{}: {}", hub.hub.name, text::plain(error)))
    });
    format!("{own}\n\n{table}{}", errors.collect::<String>())
}

/// A serialised enum's word.
fn word<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(String::from)).unwrap_or_default()
}

fn converged(report: &Report) -> String {
    match (&report.last_error, report.converged) {
        (Some(error), _) => format!("no: {error}"),
        (None, true) => format!("yes, {} routes installed", report.routes_installed),
        (None, false) => "not yet".into(),
    }
}

fn tunnels(report: &Report) -> String {
    if report.peers.is_empty() {
        return String::new();
    }
    let mut table =
        Table::new(["WIREGUARD PEER", "ENDPOINT", "HANDSHAKE", "RECEIVED", "SENT", "ALLOWED IPS"], "");
    for peer in report.peers.iter() {
        let ago = peer.last_handshake_secs_ago.map(|secs| format!("{} ago", text::seconds(secs)));
        table.row([
            peer.public_key.to_string(),
            text::or_dash(&peer.endpoint),
            ago.unwrap_or_else(|| "never".into()),
            text::octets(peer.rx_bytes),
            text::octets(peer.tx_bytes),
            text::list(peer.allowed_ips.iter()),
        ]);
    }
    table.to_string()
}

fn routes(report: &Report) -> String {
    if report.routes.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["ROUTE", "OWNER", "DEVICE", "MTU", "ADVMSS"], "");
    for route in &report.routes {
        let (mtu, advmss) = (route.mtu.to_string(), route.advmss.to_string());
        let owners: Vec<_> = route.owner.iter().chain(&route.owners_also).collect();
        table.row([route.prefix.to_string(), text::list(&owners), route.device.clone(), mtu, advmss]);
    }
    table.to_string()
}
