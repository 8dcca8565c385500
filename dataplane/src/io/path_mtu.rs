//! Measuring the path MTU toward a peer's endpoint.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use tokio::net::UdpSocket;

/// How long routers on the way have to say that a probe is too large, after each probe.
const WAIT: Duration = Duration::from_millis(120);
/// Probes; each answer can reveal a narrower hop behind the last one.
const PROBES: usize = 6;
/// What is assumed of a path that cannot be measured: the smallest that IPv6 allows (RFC 8200), and rarely undercut.
const FALLBACK: u16 = 1_280;
const IPV4_UDP: usize = 28;
const IPV6_UDP: usize = 48;

/// Octets of the largest IP packet that reaches `to` whole, as far as the path tells; takes 0.2 to 0.7 s.
///
/// Datagrams with "don't fragment" set are sent from a connected socket; each router that cannot pass one answers
/// with its MTU (RFC 1191, RFC 8201), and the kernel keeps the smallest. WireGuard ignores the datagrams at the
/// other end. A path whose routers keep silent is taken to be as wide as the first link.
pub async fn path_mtu(to: SocketAddr) -> u16 {
    measure(to).await.unwrap_or(FALLBACK)
}

async fn measure(to: SocketAddr) -> io::Result<u16> {
    let any: SocketAddr =
        if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { (IpAddr::V6([0; 16].into()), 0).into() };
    let socket = UdpSocket::bind(any).await?;
    if to.is_ipv4() {
        sockopt::set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DO)?;
    } else {
        sockopt::set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DO)?;
    }
    socket.connect(to).await?;
    let known = || if to.is_ipv4() { sockopt::ip_mtu(&socket) } else { sockopt::ipv6_mtu(&socket) };
    let mut mtu = bounded(known()?);
    let headers = if to.is_ipv4() { IPV4_UDP } else { IPV6_UDP };
    let zeros = vec![0u8; usize::from(mtu)];
    for _ in 0..PROBES {
        // Errors are the answer of a router or of a closed port; both leave their mark in the kernel.
        let _ = socket.send(&zeros[..usize::from(mtu).saturating_sub(headers)]).await;
        tokio::time::sleep(WAIT).await;
        let _ = socket.take_error();
        let now = bounded(known()?);
        if now >= mtu {
            break;
        }
        mtu = now;
    }
    Ok(mtu)
}

fn bounded(mtu: u32) -> u16 {
    u16::try_from(mtu).unwrap_or(u16::MAX).clamp(crate::mtu::MIN_PATH, crate::mtu::MAX_PATH)
}
