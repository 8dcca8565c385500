//! What the hubs reject of a leaf's own routes, asked over the leaf API with the leaf's signature: its operator sees
//! the reasons without access to a hub.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bgp::policy::RejectReason;
use bgp::types::Prefix;
use bgp::view::RejectedView;
use enrollment::io::client::{self, HubApi};
use enrollment::io::keys::NodeKeys;
use enrollment::topology::{Admission, HubNode};
use enrollment::wire::{MAX_REJECTED_ROUTES, RejectedAnswer, RejectedRoute};

/// Asks for what the hubs reject; nobody on a hub.
pub type Rejects = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Vec<RejectedView>> + Send>> + Send + Sync>;

/// For a node that has no hub to ask.
pub fn no_hubs() -> Rejects {
    Arc::new(|| Box::pin(async { Vec::new() }))
}

/// The hub's answer: the first of what it rejects of one leaf, and how many there are.
pub fn answer(rejected: &[RejectedView]) -> RejectedAnswer {
    let route = |r: &RejectedView| RejectedRoute {
        prefix: r.prefix.to_string(),
        next_hop: r.next_hop,
        reason: r.reason.as_str().into(),
    };
    let routes = rejected.iter().take(MAX_REJECTED_ROUTES).map(route).collect();
    RejectedAnswer { routes, total: rejected.len() as u64 }
}

/// What every hub of the admission rejects of this leaf; they are asked at once. A hub that does not answer within
/// `limit` is left out, with a warning in the log.
pub async fn of_hubs(keys: Arc<NodeKeys>, admission: &Admission, limit: Duration) -> Vec<RejectedView> {
    let asked = admission.topology.hubs.iter().map(async |hub| {
        let answer = tokio::time::timeout(limit, of_hub(hub, &keys, admission)).await;
        let routes = answer.unwrap_or_else(|_| Err(format!("no answer within {limit:?}")));
        routes.unwrap_or_else(|error| {
            tracing::warn!(hub = %hub.name, error, "the hub does not say what it rejects");
            Vec::new()
        })
    });
    futures_util::future::join_all(asked).await.concat()
}

async fn of_hub(hub: &HubNode, keys: &NodeKeys, admission: &Admission) -> Result<Vec<RejectedView>, String> {
    let address = SocketAddr::from((hub.overlay, hub.api_port));
    let api = HubApi::new(address, Some(admission.overlay.into()), hub.signing_key);
    let answer = client::rejected(&api, keys, admission).await.map_err(|refusal| refusal.to_string())?;
    if answer.total > answer.routes.len() as u64 {
        tracing::warn!(hub = %hub.name, total = answer.total, shown = answer.routes.len(), "more are rejected");
    }
    answer.routes.iter().map(|route| view(hub, admission, route)).collect()
}

fn view(hub: &HubNode, admission: &Admission, route: &RejectedRoute) -> Result<RejectedView, String> {
    let prefix: Prefix = route.prefix.parse().map_err(|_| format!("{:?} is no prefix", route.prefix))?;
    let reason = RejectReason::ALL.into_iter().find(|r| r.as_str() == route.reason);
    Ok(RejectedView {
        prefix,
        peer: "local".into(),
        peer_address: None,
        leaf: Some(admission.leaf.to_string()),
        next_hop: route.next_hop,
        reason: reason.ok_or_else(|| format!("the reason {:?} is not known here", route.reason))?,
        by: Some(hub.name.to_string()),
    })
}
