//! Everything that touches sockets, netlink, programs and the clock.

mod announce;
mod facts;
mod heirs;
mod host;
mod kernel_heirs;
mod lookup;
mod memory;
mod netlink;
mod nft;
mod packets;
mod path_mtu;
mod reconciler;
mod sockets;
mod userspace;
mod wireguard;

pub use lookup::kernel_routes;
pub use path_mtu::path_mtu;
pub use reconciler::Dataplane;

use serde::{Deserialize, Serialize};

/// Who shall carry the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// The kernel if it has both WireGuard and ipip, else this process.
    #[default]
    Auto,
    /// The kernel, or an error.
    Kernel,
    /// This process.
    InProcess,
}

/// Why a dataplane could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel dataplane was asked for and the kernel lacks something.
    #[error(
        "this kernel has no {missing}; use the in-process dataplane or load the module (modprobe {missing})"
    )]
    KernelLacks {
        /// `wireguard` or `ipip`.
        missing: &'static str,
    },
    /// Routes and interfaces cannot be changed without this right.
    #[error("changing interfaces and routes needs the right CAP_NET_ADMIN: {0}")]
    NotPermitted(std::io::Error),
    /// The TUN device cannot be made.
    #[error("a TUN device cannot be made; it needs /dev/net/tun and the right CAP_NET_ADMIN: {0}")]
    Tun(String),
    /// Netlink does not answer.
    #[error("netlink: {0}")]
    Netlink(String),
}
