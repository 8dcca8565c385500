//! What the leaf says of itself: derived on request from the owners' views, stored nowhere.

use std::net::{IpAddr, Ipv4Addr};

use bgp::view::PeerView;
use config::Kind;
use control::names::NameView;
use control::wire::{BgpSummary, HubView, NodeStatus, ResourceView};
use dataplane::view::Report;
use enrollment::endpoint::Endpoint;
use enrollment::reason::{ReasonCode, Refusal};
use enrollment::topology::HubNode;
use enrollment::view::{ClientPhase, ClientView};
use serde_json::json;

use crate::enroll::api_error;
use crate::membership::Membership;
use crate::run::Leaf;

/// A hub counts as silent when it has not answered for two refreshes and no session with it is up, seconds.
const SILENT_SECS: u64 = 150;

/// How long a hub may be without a session before it counts as silent, seconds: one that is just being made is no
/// fault.
const SESSION_GRACE_SECS: u64 = 3;

/// The whole leaf at a glance.
pub async fn node(leaf: &Leaf) -> NodeStatus {
    let membership = leaf.membership.borrow().clone();
    let peers = peers(leaf).await;
    let bgp = summary(&peers);
    let report = (**leaf.dataplane.report().borrow()).clone();
    let client = client(&membership, bgp.established > 0);
    let preferred = (*leaf.current.borrow()).and_then(|current| current.preferred);
    let names = leaf.names.borrow().clone();
    let hubs = hubs(&membership, &peers, &report, preferred, &names);
    let mut why = Vec::new();
    if client.phase != ClientPhase::Ready {
        why.push(client.message.clone().unwrap_or_else(|| client.phase_text.clone()));
    }
    if membership.state.is_some() {
        if bgp.established == 0 {
            why.push("no BGP session is established".into());
        }
        if !report.converged {
            why.push(
                report.last_error.clone().unwrap_or_else(|| "the dataplane has not converged yet".into()),
            );
        }
    }
    why.extend(silent_hubs(&hubs));
    why.extend(names.iter().filter_map(NameView::told));
    let hub_rejected = leaf.hubs.recent(&peers).await;
    why.extend(hub_rejected.iter().map(|r| {
        let by = r.by.as_deref().unwrap_or("the hub");
        format!("{by} rejects {}: {} ({})", r.prefix, r.reason.sentence(), r.reason.as_str())
    }));
    why.extend(membership.refused.iter().map(|(address, refusal)| format!("claim {address}: {refusal}")));
    let phase = match (client.phase, why.is_empty()) {
        (ClientPhase::Ready, true) => "Ready".into(),
        (ClientPhase::Ready, false) => "Degraded".into(),
        (phase, _) => format!("{phase:?}"),
    };
    NodeStatus {
        role: "leaf".into(),
        name: client.leaf.as_ref().map_or_else(|| "leaf".into(), ToString::to_string),
        version: env!("CARGO_PKG_VERSION").into(),
        uptime_secs: leaf.started.elapsed().as_secs(),
        phase,
        why,
        overlay: client.overlay,
        claims: client.claims.clone(),
        enrollment: Some(client),
        dataplane: Some(report),
        bgp,
        refused: membership.refused.iter().map(|(&a, refusal)| (a, api_error(refusal))).collect(),
        hub_rejected,
        hubs,
        leaves: 0,
        replication: None,
        mrt_dump: leaf.dumps.as_ref().map(|dumps| dumps.view()),
        administration_refused: leaf.administrators.refused(),
    }
}

/// The hubs that are silent while another one serves: packets pass, and nothing is left should that one go too.
fn silent_hubs(hubs: &[HubView]) -> Vec<String> {
    let up = |hub: &&HubView| hub.session == "Established";
    let Some(serves) = hubs.iter().find(|hub| up(hub) && hub.preferred).or(hubs.iter().find(up)) else {
        return Vec::new();
    };
    let silent = |hub: &&HubView| !up(hub) && hub.session_secs >= SESSION_GRACE_SECS;
    let told = |hub: &HubView| {
        let (code, secs) = (ReasonCode::HubSilent, hub.session_secs);
        let message = format!(
            "{} ({}) is silent for {secs} s; {} alone serves this leaf",
            hub.name, hub.overlay, serves.name
        );
        let refusal = Refusal::new(code, message);
        format!("{refusal}; {}", refusal.fix())
    };
    hubs.iter().filter(silent).map(told).collect()
}

/// How the leaf stands with each hub.
fn hubs(
    membership: &Membership,
    peers: &[PeerView],
    report: &Report,
    preferred: Option<Ipv4Addr>,
    names: &[NameView],
) -> Vec<HubView> {
    let Some(state) = &membership.state else { return Vec::new() };
    let of_hub = |hub: &HubNode| {
        let written: Vec<_> = hub.endpoints.iter().map(ToString::to_string).collect();
        names.iter().filter(|name| written.contains(&name.name)).cloned().collect()
    };
    let view = |hub: &HubNode| {
        let session = peers.iter().find(|peer| peer.address == IpAddr::V4(hub.overlay));
        let tunnel = report.peers.iter().find(|peer| peer.public_key.0 == hub.wireguard_key.0);
        HubView {
            name: hub.name.to_string(),
            overlay: hub.overlay,
            endpoint: tunnel.and_then(|t| t.endpoint).or(hub.endpoints.first().and_then(Endpoint::address)),
            session: session.map_or_else(|| "none".into(), |s| s.state.clone()),
            session_secs: session.map_or(0, |s| s.since_secs),
            bfd: session.and_then(|s| s.bfd.as_ref()).map(|bfd| bfd.state.to_string()),
            handshake_secs_ago: tunnel.and_then(|t| t.last_handshake_secs_ago),
            preferred: preferred == Some(hub.overlay),
            answered: membership.answering == Some(hub.signing_key),
            names: of_hub(hub),
        }
    };
    state.admission.topology.hubs.iter().map(view).collect()
}

/// The enrollment as the leaf sees it. A session with the hub is as good an answer as one of its API.
fn client(membership: &Membership, session_up: bool) -> ClientView {
    let silent = if session_up { Some(0) } else { membership.silent_secs() };
    let admission = membership.state.as_ref().map(|s| &s.admission);
    let revoked = membership.state.as_ref().is_some_and(|s| s.revoked);
    let phase = ClientPhase::of(admission, revoked, silent.unwrap_or(0), SILENT_SECS);
    let mut view = ClientView::of(admission, phase, silent);
    if let Some(error) = membership.last_error.as_ref().filter(|_| phase != ClientPhase::Ready) {
        view.reason = Some(error.code);
        view.message = Some(error.message.clone());
    }
    view.clock_ahead_secs = membership.state.as_ref().map(|s| {
        let ahead = i128::from(s.answered_at) - i128::from(s.admission.hub_time);
        i64::try_from(ahead).unwrap_or(i64::MAX)
    });
    view.replacement = membership.replacement.as_ref().map(|refusal| format!("{refusal}; {}", refusal.fix()));
    let waits = |error: &enrollment::reason::Refusal| {
        matches!(
            error.code,
            enrollment::reason::ReasonCode::ApprovalPending | enrollment::reason::ReasonCode::ApprovalDenied
        )
    };
    if membership.state.is_none() && !membership.last_error.as_ref().is_some_and(waits) {
        view.message = Some("not enrolled: run `routerctl enroll STRING`".into());
    }
    view
}

/// The sessions; none before the enrollment.
pub async fn peers(leaf: &Leaf) -> Vec<PeerView> {
    let speaker = leaf.speaker.borrow().clone();
    match speaker {
        Some(speaker) => speaker.peers().await,
        None => Vec::new(),
    }
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
pub async fn resources(leaf: &Leaf, config: &config::Config, kind: Kind) -> Vec<ResourceView> {
    let mut views = Vec::new();
    for resource in config.effective().into_iter().filter(|r| r.kind == kind) {
        let status = status_of(leaf, kind, resource.name.as_str()).await;
        views.extend(ResourceView::of(&resource, status));
    }
    views
}

async fn status_of(leaf: &Leaf, kind: Kind, name: &str) -> serde_json::Value {
    match kind {
        Kind::SamEnrollmentClient => {
            let node = node(leaf).await;
            let mut status = json!(node.enrollment);
            if let Some(status) = status.as_object_mut() {
                // The site is ready when everything is, not when the hub has answered alone.
                status.insert("phase".into(), json!(node.phase));
                status.insert("why".into(), json!(node.why));
                status.insert("refused".into(), json!(node.refused));
            }
            status
        }
        Kind::BgpRouter => {
            let speaker = leaf.speaker.borrow().clone();
            match speaker {
                Some(speaker) => json!(speaker.summary().await),
                None => serde_json::Value::Null,
            }
        }
        Kind::BgpPeer => json!(peers(leaf).await.into_iter().find(|p| p.name == name)),
        Kind::WireGuardInterface => json!((**leaf.dataplane.report().borrow()).clone()),
        Kind::EventGroup => json!(leaf.federation.status().await.ok()),
        Kind::BgpDynamicPeer | Kind::SamEnrollmentPolicy => serde_json::Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(name: &str, session: &str, session_secs: u64) -> HubView {
        HubView {
            name: name.into(),
            overlay: Ipv4Addr::new(10, 255, 0, 1),
            endpoint: None,
            session: session.into(),
            session_secs,
            bfd: None,
            handshake_secs_ago: None,
            preferred: false,
            answered: false,
            names: Vec::new(),
        }
    }

    /// One of two hubs that is silent is named with its reason code and the fix; one that is just dialled is not, and
    /// with no hub at all that is what is said, not this.
    #[test]
    fn a_silent_hub_beside_a_living_one_is_named() {
        let [lives, dead] = [hub("hub-2", "Established", 60), hub("hub", "Idle", 12)];
        let told = silent_hubs(&[dead.clone(), lives.clone()]);
        assert_eq!(told.len(), 1);
        for word in ["hub-silent", "hub (10.255.0.1) is silent for 12 s", "hub-2 alone", "routerctl status"] {
            assert!(told[0].contains(word), "{word}: {told:?}");
        }
        assert!(silent_hubs(&[hub("hub", "Connect", 1), lives.clone()]).is_empty());
        assert!(silent_hubs(&[lives.clone(), lives]).is_empty());
        assert!(silent_hubs(&[dead.clone(), dead]).is_empty());
    }
}
