//! The name of the other hub: what the tunnels are made of has addresses in its place, and a hub that is silent is looked
//! up again. This hub's own names are for others; it does not look them up.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bgp::io::Speaker;
use control::names::{Names, Standing};
use control::resolving::{NameViews, Resolving, Standings};
use dataplane::io::Dataplane;
use dataplane::state::PublicKey;
use enrollment::endpoint::Endpoint;
use enrollment::registry::Admissions;
use ipnet::IpNet;
use tokio::sync::watch;

/// The file of the names' last addresses, in the state directory.
pub const NAMES_FILE: &str = "names.json";

/// The admissions with the names of other hubs looked up, and the names.
pub fn resolved(
    admissions: watch::Receiver<Arc<Admissions>>,
    speaker: Speaker,
    dataplane: Dataplane,
    file: PathBuf,
) -> (watch::Receiver<Arc<Admissions>>, NameViews) {
    let seen = admissions.clone();
    let standings: Standings = Arc::new(move || {
        let (now, speaker, dataplane) = (seen.borrow().clone(), speaker.clone(), dataplane.clone());
        Box::pin(async move { standings(&now, &speaker, &dataplane).await })
    });
    Resolving { source: admissions, endpoints, own, with, standings, file }.start()
}

fn endpoints(admissions: &Arc<Admissions>) -> Vec<Endpoint> {
    admissions.hubs.iter().flat_map(|hub| hub.endpoints.iter().cloned()).collect()
}

fn own(admissions: &Arc<Admissions>, address: IpAddr) -> bool {
    IpNet::V4(admissions.hub.overlay_prefix).contains(&address)
}

/// Without a name it is the very same.
fn with(admissions: &Arc<Admissions>, names: &Names) -> Arc<Admissions> {
    let mut admissions = admissions.clone();
    if !names.is_empty() {
        for hub in &mut Arc::make_mut(&mut admissions).hubs {
            hub.endpoints = names.resolved(&hub.endpoints);
        }
    }
    admissions
}

async fn standings(
    admissions: &Admissions,
    speaker: &Speaker,
    dataplane: &Dataplane,
) -> BTreeMap<Endpoint, Standing> {
    let established = speaker.established().await.unwrap_or_default();
    let report = dataplane.report().borrow().clone();
    let of = |hub: &enrollment::topology::HubNode| {
        let peer = report.peers.get(&PublicKey(hub.wireguard_key.0));
        let alive = established.contains(&IpAddr::V4(hub.overlay));
        let stands = Standing { alive, present: peer.and_then(|peer| peer.endpoint) };
        hub.endpoints.iter().map(move |endpoint| (endpoint.clone(), stands)).collect::<Vec<_>>()
    };
    admissions.hubs.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::tests::admissions;
    use crate::peering::tests::other;

    /// The other hub is called where its name led; without a name nothing is copied.
    #[test]
    fn the_other_hub_is_called_by_name() {
        let plain = Arc::new(admissions(&[]));
        assert!(Arc::ptr_eq(&with(&plain, &Names::default()), &plain));
        let name: Endpoint = "hub-2.example.net:51820".parse().unwrap();
        let mut named = admissions(&[]);
        named.hubs = vec![other("10.255.0.9".parse().unwrap())];
        named.hubs[0].endpoints = vec![name.clone()];
        let named = Arc::new(named);
        let leads = "203.0.113.9:51820".parse().unwrap();
        let mut names = Names::remembered([(name, vec![leads])].into());
        names.follow(endpoints(&named).iter());
        assert_eq!(with(&named, &names).hubs[0].endpoints, [leads.into()]);
    }
}
