//! The names of this leaf's hubs: what the tunnels are made of has addresses in their place, and a hub that is silent is
//! looked up again.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bgp::io::Speaker;
use control::names::{Names, Standing};
use control::resolving::{NameViews, Resolving, Standings};
use dataplane::io::Dataplane;
use enrollment::endpoint::Endpoint;
use enrollment::io::leaf_state::LeafState;
use ipnet::IpNet;
use tokio::sync::watch;

use crate::membership::Membership;

/// The file of the names' last addresses, in the state directory.
pub const NAMES_FILE: &str = "names.json";

/// The membership with the names of its hubs looked up, and the names.
pub fn resolved(
    membership: watch::Receiver<Membership>,
    speaker: watch::Receiver<Option<Speaker>>,
    dataplane: Dataplane,
    file: PathBuf,
) -> (watch::Receiver<Membership>, NameViews) {
    let seen = membership.clone();
    let standings: Standings = Arc::new(move || {
        let (seen, speaker, dataplane) = (seen.clone(), speaker.clone(), dataplane.clone());
        Box::pin(async move { standings(&seen, &speaker, &dataplane) })
    });
    Resolving { source: membership, endpoints, own, with, standings, file }.start()
}

fn endpoints(membership: &Membership) -> Vec<Endpoint> {
    let hubs = membership.state.iter().flat_map(|state| &state.admission.topology.hubs);
    hubs.flat_map(|hub| hub.endpoints.iter().cloned()).collect()
}

fn own(membership: &Membership, address: IpAddr) -> bool {
    let overlay =
        |state: &Arc<LeafState>| IpNet::V4(state.admission.topology.overlay_prefix).contains(&address);
    membership.state.as_ref().is_some_and(overlay)
}

fn with(membership: &Membership, names: &Names) -> Membership {
    let mut membership = membership.clone();
    if let Some(state) = membership.state.as_mut().filter(|_| !names.is_empty()) {
        for hub in &mut Arc::make_mut(state).admission.topology.hubs {
            hub.endpoints = names.resolved(&hub.endpoints);
        }
    }
    membership
}

/// A hub whose whole table is there is alive; WireGuard says where it is.
fn standings(
    membership: &watch::Receiver<Membership>,
    speaker: &watch::Receiver<Option<Speaker>>,
    dataplane: &Dataplane,
) -> BTreeMap<Endpoint, Standing> {
    let speaker = speaker.borrow().clone();
    let whole_from = speaker.map(|s| s.best_paths().borrow().whole_from.clone()).unwrap_or_default();
    let report = dataplane.report().borrow().clone();
    let membership = membership.borrow();
    let hubs = membership.state.iter().flat_map(|state| &state.admission.topology.hubs);
    let of = |hub: &enrollment::topology::HubNode| {
        let peer = report.peers.iter().find(|peer| peer.public_key.0 == hub.wireguard_key.0);
        let alive = whole_from.contains(&IpAddr::V4(hub.overlay));
        let stands = Standing { alive, present: peer.and_then(|peer| peer.endpoint) };
        hub.endpoints.iter().map(move |endpoint| (endpoint.clone(), stands)).collect::<Vec<_>>()
    };
    hubs.flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leaf::tests::admission_of_two;

    /// Only what the tunnels are made of changes: a name leads where it led, an address stays.
    #[test]
    fn names_give_way_to_addresses() {
        let name: Endpoint = "hub.example.net:51820".parse().unwrap();
        let mut admission = admission_of_two();
        let other = admission.topology.hubs[1].endpoints.clone();
        admission.topology.hubs[0].endpoints = vec![name.clone()];
        let state = LeafState { admission, answered_at: 1, revoked: false };
        let membership = Membership { state: Some(Arc::new(state)), ..Membership::default() };
        assert_eq!(endpoints(&membership).len(), 1 + other.len());
        let leads = vec!["203.0.113.9:51820".parse().unwrap()];
        let mut names = Names::remembered([(name, leads.clone())].into());
        names.follow(endpoints(&membership).iter());
        let after = with(&membership, &names).state.unwrap();
        let hubs = &after.admission.topology.hubs;
        assert_eq!((hubs[0].endpoints.as_slice(), &hubs[1].endpoints), (&[leads[0].into()][..], &other));
        let overlay = after.admission.topology.overlay_prefix.addr().into();
        assert!(own(&membership, overlay) && !own(&membership, leads[0].ip()));
    }
}
