//! What the hub says to Prometheus; made when it asks.

use std::sync::Arc;

use control::metrics::{Observe, Observed};

use crate::run::Hub;
use crate::status;

/// Looks at the hub.
pub fn observe(hub: Arc<Hub>) -> Observe {
    Arc::new(move || {
        let hub = hub.clone();
        Box::pin(async move { observed(&hub).await })
    })
}

async fn observed(hub: &Hub) -> Observed {
    let mut observed = Observed {
        status: Some(status::node(hub).await),
        speaker: hub.speaker.summary().await,
        peers: hub.speaker.peers().await,
        stations: hub.speaker.stations(),
        ..Observed::default()
    };
    let Some(enrolled) = &hub.enrolled else { return observed };
    observed.grants = enrolled.service.grants();
    observed.refusals = enrolled.service.refusals();
    if let Ok(view) = enrolled.registry.view().await {
        for leaf in &view.leaves {
            *observed.leaves.entry(format!("{:?}", leaf.phase)).or_default() += 1;
        }
        let in_force = view.leaves.iter().map(|l| l.lease_left_secs).filter(|secs| *secs > 0);
        observed.first_lease_end_secs = in_force.min();
        observed.claims = Some(view.claims.len() as u64);
    }
    observed
}
