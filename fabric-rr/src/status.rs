//! What the hub says of itself: derived on request from the owners' views, stored nowhere.

use bgp::view::PeerView;
use config::Kind;
use control::names::NameView;
use control::wire::{BgpSummary, NodeStatus, ReplicationStatus, ResourceView};
use enrollment::io::follow::Replication;
use enrollment::view::DatabaseView;
use serde_json::json;

use crate::run::Hub;

/// The whole hub at a glance.
pub async fn node(hub: &Hub) -> NodeStatus {
    let peers = hub.speaker.peers().await;
    let bgp = summary(&peers);
    let dataplane = hub.enrolled.as_ref().map(|e| (**e.dataplane.report().borrow()).clone());
    let mut why = hub.speaker.summary().await.map(|s| s.findings).unwrap_or_default();
    if let Some(report) = dataplane.as_ref().filter(|report| !report.converged) {
        why.push(report.last_error.clone().unwrap_or_else(|| "the dataplane has not converged yet".into()));
    }
    let database = hub.enrolled.as_ref().and_then(|enrolled| enrolled.registry.database());
    why.extend(database.filter(|view| view.state != "in-step").map(|view| without_database(&view)));
    let names = hub.enrolled.as_ref().map(|enrolled| enrolled.names.borrow().clone()).unwrap_or_default();
    why.extend(names.iter().filter_map(NameView::told));
    NodeStatus {
        role: if hub.enrolled.is_some() { "hub" } else { "reflector" }.into(),
        name: hub.name.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        uptime_secs: hub.started.elapsed().as_secs(),
        phase: if why.is_empty() { "Ready" } else { "Degraded" }.into(),
        why,
        overlay: hub.enrolled.as_ref().map(|e| e.settings.overlay),
        enrollment: None,
        dataplane,
        bgp,
        claims: Vec::new(),
        refused: Default::default(),
        hub_rejected: Vec::new(),
        hubs: Vec::new(),
        leaves: hub.enrolled.as_ref().map_or(0, |e| e.registry.snapshot().leaves.len()),
        replication: replication(hub).await,
        mrt_dump: hub.dumps.as_ref().map(|dumps| dumps.view()),
        administration_refused: hub.administrators.refused(),
    }
}

/// Enrolled leaves notice nothing, so this is what the operator has to see.
fn without_database(view: &DatabaseView) -> String {
    let (address, since) = (&view.address, view.since_secs);
    let error = view.error.as_deref().unwrap_or("not connected yet");
    format!(
        "registry database {address} lost {since} s ago: {error}; served from memory, nothing new is decided"
    )
}

/// None without enrollment, or when the registry does not answer.
async fn replication(hub: &Hub) -> Option<ReplicationStatus> {
    let enrolled = hub.enrolled.as_ref()?;
    let digest = enrolled.registry.digest().await.ok()?;
    let hubs = enrolled.replication.as_ref().map(Replication::views).unwrap_or_default();
    Some(ReplicationStatus { digest, hubs, database: enrolled.registry.database() })
}

fn summary(peers: &[PeerView]) -> BgpSummary {
    BgpSummary {
        established: peers.iter().filter(|p| p.state == "Established").count(),
        peers: peers.len(),
        accepted: peers.iter().map(|p| p.prefixes_accepted).sum(),
        rejected: peers.iter().map(|p| p.prefixes_rejected).sum(),
    }
}

/// The configured resources of one Kind, each with what became of it.
pub async fn resources(hub: &Hub, kind: Kind) -> Vec<ResourceView> {
    let mut views = Vec::new();
    for resource in hub.effective.effective().into_iter().filter(|r| r.kind == kind) {
        let status = status_of(hub, kind, resource.name.as_str()).await;
        views.extend(ResourceView::of(&resource, status));
    }
    views
}

async fn status_of(hub: &Hub, kind: Kind, name: &str) -> serde_json::Value {
    match kind {
        Kind::BgpRouter => json!(hub.speaker.summary().await),
        Kind::BgpDynamicPeer => {
            let peers: Vec<PeerView> = hub
                .speaker
                .peers()
                .await
                .into_iter()
                .filter(|p| p.dynamic.as_deref() == Some(name))
                .collect();
            let total = summary(&peers);
            json!({
                "discovered": total.peers,
                "established": total.established,
                "prefixesAccepted": total.accepted,
                "prefixesRejected": total.rejected,
                "peers": peers,
            })
        }
        Kind::BgpPeer => json!(hub.speaker.peers().await.into_iter().find(|p| p.name == name)),
        Kind::WireGuardInterface => {
            json!(hub.enrolled.as_ref().map(|e| (**e.dataplane.report().borrow()).clone()))
        }
        Kind::SamEnrollmentPolicy => json!(hub.enrolled.as_ref().map(|e| {
            let now = e.registry.snapshot();
            let claims: usize = now.leaves.values().map(|l| l.claims.len()).sum();
            let tls = e.settings.tls.as_ref().map(|door| {
                json!({ "endpoints": door.endpoints, "pin": door.pin.to_string(),
                    "handshakesFailed": e.service.handshakes_failed() })
            });
            json!({ "leaves": now.leaves.len(), "claims": claims, "generation": now.generation,
                "hub": now.hub.overlay, "foyer": now.hub.foyer_prefix, "tls": tls })
        })),
        Kind::SamEnrollmentClient | Kind::EventGroup => serde_json::Value::Null,
    }
}
