//! What the kernel would do with one address: asked of netlink at that moment, apart from the reconciler.

use std::io;
use std::net::Ipv4Addr;

use crate::io::netlink::{KernelRoute, Netlink};
use crate::state::ROUTE_PROTOCOL;
use crate::view::KernelRouteView;

/// The routes of the main table that cover `address`, as the kernel prefers them: the first one is used.
pub async fn kernel_routes(address: Ipv4Addr) -> io::Result<Vec<KernelRouteView>> {
    let netlink = Netlink::connect()?;
    let links = netlink.links().await?;
    let name = |index: u32| links.values().find(|l| l.index == index).map(|l| l.name.clone());
    let mut routes: Vec<KernelRoute> =
        netlink.routes().await?.into_iter().filter(|r| r.prefix.contains(&address)).collect();
    routes.sort_by_key(|r| (std::cmp::Reverse(r.prefix.prefix_len()), r.metric));
    let view = |r: KernelRoute| KernelRouteView {
        prefix: r.prefix,
        device: r.interface.and_then(name),
        gateway: r.gateway,
        tunnel_to: r.tunnel_to,
        tunnel_also: r.tunnel_also,
        source: r.source,
        mtu: r.mtu,
        advmss: r.advmss,
        metric: r.metric,
        protocol: r.protocol,
        ours: r.protocol == ROUTE_PROTOCOL,
    };
    Ok(routes.into_iter().map(view).collect())
}
