//! What the leaf says to Prometheus; made when it asks.

use std::sync::Arc;

use control::metrics::{Observe, Observed};

use crate::membership::unix_now;
use crate::run::Leaf;
use crate::status;

/// Looks at the leaf.
pub fn observe(leaf: Arc<Leaf>) -> Observe {
    Arc::new(move || {
        let leaf = leaf.clone();
        Box::pin(async move { observed(&leaf).await })
    })
}

async fn observed(leaf: &Leaf) -> Observed {
    let speaker = leaf.speaker.borrow().clone();
    let mut observed =
        Observed { status: Some(status::node(leaf).await), unix_now: unix_now(), ..Observed::default() };
    if let Some(speaker) = speaker {
        observed.speaker = speaker.summary().await;
        observed.peers = speaker.peers().await;
        observed.stations = speaker.stations();
    }
    observed
}
