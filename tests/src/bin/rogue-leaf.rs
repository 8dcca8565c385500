//! A leaf that turned hostile: it has the right keys of an enrolled leaf and announces a `/32` that is not its own.
//! Its administration socket says what its speaker and its hub say, as a leaf's does. Used by the acceptance tests in place of `fabric-leaf`; it runs until it is killed.
//!
//! `rogue-leaf ROOT ADDRESS`: `ROOT` is the leaf's `--root`, `ADDRESS` what it announces beside its own claims.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bgp::io::{Neighbor, Originated, Speaker, SpeakerConfig};
use bgp::types::Prefix;
use dataplane::io::{Choice, Dataplane};
use dataplane::state::{
    Filter, Peers, PrivateKey, PublicKey, Target, Tunnel, Wireguard, WireguardPeer, Wished,
};
use enrollment::io::keys::NodeKeys;
use enrollment::io::leaf_state::LeafState;
use enrollment::topology::Admission;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Some(never) => match never {},
        None => ExitCode::FAILURE,
    }
}

async fn run() -> Option<std::convert::Infallible> {
    let mut words = std::env::args().skip(1);
    let root = PathBuf::from(words.next()?);
    let rogue: Ipv4Addr = words.next()?.parse().ok()?;
    let paths = control::Paths::below(Some(&root));
    let admission = LeafState::load(&paths.leaf_state()).ok()??.admission;
    let keys = NodeKeys::load(&paths.state).ok()??;
    let key = PrivateKey::from_bytes(*keys.wireguard_private_key());

    let dataplane = Dataplane::start(Choice::Auto).await.ok()?;
    dataplane.wish(1, wished(&admission, key)?);
    let mut report = dataplane.report();
    report.wait_for(|report| report.converged && report.generation == 1).await.ok()?;

    let mut config = SpeakerConfig::new(admission.topology.asn, admission.overlay);
    config.hold_time_secs = 9;
    let speaker = Speaker::start(config, Vec::new()).await.ok()?;
    let announced = admission.claims.keys().copied().chain([rogue]);
    let route = |address| Originated::new(Prefix::host(IpAddr::V4(address)), admission.overlay);
    speaker.originate(announced.map(route).collect()).await;
    let hub = admission.topology.hubs.first()?;
    let mut neighbor = Neighbor::new("hub", IpAddr::V4(hub.overlay), admission.topology.asn);
    neighbor.local_address = Some(IpAddr::V4(admission.overlay));
    speaker.set_neighbors(vec![neighbor]).await;
    let find = Arc::new(move || Some(speaker.clone()));
    let keys = Arc::new(keys);
    let rejects = Arc::new(move || {
        let (keys, admission) = (keys.clone(), admission.clone());
        Box::pin(async move { control::mine::of_hubs(keys, &admission, Duration::from_secs(3)).await })
            as Pin<Box<_>>
    });
    let admin = control::server::listen(&paths.socket(control::Node::Leaf)).ok()?;
    axum::serve(admin, control::speaker::router(find, rejects)).await.ok()?;
    None
}

/// The tunnel of an honest leaf.
fn wished(admission: &Admission, private_key: PrivateKey) -> Option<Wished> {
    let hub = admission.topology.hubs.first()?;
    let overlay = admission.topology.overlay_prefix;
    let mtus = dataplane::mtu::mtus(1400, false);
    let peer = WireguardPeer {
        endpoint: Some(hub.endpoints.first()?.address()?),
        allowed_ips: [overlay].into(),
        keepalive_secs: 25,
    };
    let wireguard = Wireguard {
        private_key,
        listen_port: 0,
        addresses: BTreeSet::from([admission.overlay.into()]),
        mtu: mtus.wireguard,
        peers: Peers::unit(PublicKey(hub.wireguard_key.0), peer),
        former_keys: BTreeMap::new(),
    };
    Some(Wished {
        wireguard: Some(wireguard),
        second: None,
        tunnel: Some(Tunnel { local: admission.overlay, mtu: mtus.tunnel }),
        relay: None,
        routes: BTreeMap::from([(overlay, Target::Wireguard)]),
        captures: BTreeSet::new(),
        filter: Filter::default(),
    })
}
