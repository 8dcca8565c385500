//! Reading the host facts that [`crate::preflight`] judges.

use std::collections::BTreeSet;

use crate::io::nft;
use crate::preflight::{CaptureInterface, HostFacts};
use crate::state::{Carrier, Wished};

async fn read<T: std::str::FromStr>(path: String) -> Option<T> {
    tokio::fs::read_to_string(path).await.ok()?.trim().parse().ok()
}

/// Reads what matters for `wished` with this carrier.
pub(crate) async fn read_host(wished: &Wished, carrier: Carrier) -> HostFacts {
    let conf = "/proc/sys/net/ipv4/conf";
    let interfaces: BTreeSet<&str> = wished.captures.iter().map(|c| c.interface()).collect();
    let all_rp_filter = read::<u8>(format!("{conf}/all/rp_filter")).await.unwrap_or(0);
    let mut facts = HostFacts {
        // A leaf forwards its clients' packets; a hub's kernel relays unless this process does.
        forwards: wished.tunnel.is_some() || (carrier == Carrier::Kernel && wished.wireguard.is_some()),
        ip_forward: read::<u8>("/proc/sys/net/ipv4/ip_forward".into()).await != Some(0),
        ruleset: nft::ruleset().await,
        listen_port: wished.wireguard.as_ref().map(|w| w.listen_port).filter(|port| *port != 0),
        ..HostFacts::default()
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
