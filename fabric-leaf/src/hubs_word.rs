//! What the hubs reject of this leaf's own routes, asked seldom: whoever looks at `status` in a loop must not use up
//! what the hub allows a leaf to ask.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use bgp::view::{PeerView, RejectedView};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use crate::lines::LineKeys;
use crate::membership::Membership;

/// For so long an answer is good enough for `status`.
const LIFE: Duration = Duration::from_secs(2);
/// Longest wait of a person who asks for one route or for the list.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest wait of `status`; it asks only hubs whose session is up.
const GLANCE: Duration = Duration::from_secs(1);

/// The hubs' word on this leaf's routes.
pub struct HubsWord {
    membership: watch::Receiver<Membership>,
    keys: watch::Receiver<Option<LineKeys>>,
    last: Mutex<Option<(Instant, Vec<RejectedView>)>>,
}

impl HubsWord {
    /// Nothing is asked yet.
    pub fn new(membership: watch::Receiver<Membership>, keys: watch::Receiver<Option<LineKeys>>) -> HubsWord {
        HubsWord { membership, keys, last: Mutex::default() }
    }

    /// What every hub rejects now.
    pub async fn now(&self) -> Vec<RejectedView> {
        self.ask(PATIENCE, |_| true).await
    }

    /// What the hubs with an established session rejected at most two seconds ago.
    pub async fn recent(&self, peers: &[PeerView]) -> Vec<RejectedView> {
        let up: BTreeSet<IpAddr> =
            peers.iter().filter(|p| p.state == "Established").map(|p| p.address).collect();
        if up.is_empty() {
            return Vec::new();
        }
        // Who comes meanwhile waits for the same answer instead of asking again.
        let mut last = self.last.lock().await;
        match &*last {
            Some((at, said)) if at.elapsed() < LIFE => said.clone(),
            _ => {
                let said = self.ask(GLANCE, |hub| up.contains(&hub)).await;
                *last = Some((Instant::now(), said.clone()));
                said
            }
        }
    }

    async fn ask(&self, limit: Duration, whom: impl Fn(IpAddr) -> bool) -> Vec<RejectedView> {
        let (state, keys) = (self.membership.borrow().state.clone(), self.keys.borrow().clone());
        let (Some(state), Some(keys)) = (state, keys) else { return Vec::new() };
        let mut admission = state.admission.clone();
        admission.topology.hubs.retain(|hub| whom(hub.overlay.into()));
        control::mine::of_hubs(keys.own, &admission, limit).await
    }
}
