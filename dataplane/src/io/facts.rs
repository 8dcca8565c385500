//! Reading the host facts that [`crate::preflight`] judges.

use std::collections::{BTreeMap, BTreeSet};

use crate::io::nft;
use crate::preflight::{CaptureInterface, HostFacts};
use crate::state::{Carrier, Target, Wished};

async fn read<T: std::str::FromStr>(path: String) -> Option<T> {
    tokio::fs::read_to_string(path).await.ok()?.trim().parse().ok()
}

/// Reads what matters for `wished` with this carrier.
pub(crate) async fn read_host(wished: &Wished, carrier: Carrier) -> HostFacts {
    let conf = "/proc/sys/net/ipv4/conf";
    let interfaces: BTreeSet<&str> = wished.captures.iter().map(|c| c.interface()).collect();
    let all_rp_filter = read::<u8>(format!("{conf}/all/rp_filter")).await.unwrap_or(0);
    let listen_port = wished.wireguard.as_ref().map(|w| w.listen_port).filter(|port| *port != 0);
    let kernel = carrier == Carrier::Kernel;
    // A leaf forwards its clients' packets; a hub's kernel relays unless this process does.
    let relays = kernel && listen_port.is_some();
    let underlay = carrier.interface(Target::Wireguard).to_string();
    // A hub is called by its leaves, and the kernel takes ipip as packets for this node; all else is answers.
    let called = listen_port.is_some() || (kernel && wished.tunnel.is_some());
    let inner = wished.tunnel.map(|t| carrier.interface(Target::Owner(t.local)).to_string());
    let mut facts = HostFacts {
        forwards: wished.tunnel.is_some() || relays,
        ip_forward: read::<u8>("/proc/sys/net/ipv4/ip_forward".into()).await != Some(0),
        ruleset: nft::ruleset().await,
        forward_interface: inner,
        relay_interface: relays.then(|| underlay.clone()),
        input_interface: called.then_some(underlay),
        listen_port,
        captures: BTreeMap::new(),
    };
    for name in interfaces {
        let own = read::<u8>(format!("{conf}/{name}/rp_filter")).await;
        let delay = read::<u32>(format!("/proc/sys/net/ipv4/neigh/{name}/proxy_delay")).await;
        let interface = CaptureInterface {
            exists: own.is_some(),
            rp_filter: own.unwrap_or(0).max(all_rp_filter),
            proxy_delay: delay.unwrap_or(0),
        };
        facts.captures.insert(name.to_string(), interface);
    }
    facts
}
