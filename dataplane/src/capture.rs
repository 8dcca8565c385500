//! Captures: how a site's network hands packets for a remote client to this node.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// One capture that this node's own kernel can make. (Captures at a provider are not the dataplane's.)
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Capture {
    /// Answer ARP for `address` on `interface` with our own MAC address (a proxy neighbour entry).
    ProxyArp {
        /// Interface towards the clients.
        interface: String,
        /// The remote client's address.
        address: Ipv4Addr,
    },
}

impl Capture {
    /// The captured address.
    pub fn address(&self) -> Ipv4Addr {
        match self {
            Capture::ProxyArp { address, .. } => *address,
        }
    }

    /// The interface that the capture works on.
    pub fn interface(&self) -> &str {
        match self {
            Capture::ProxyArp { interface, .. } => interface,
        }
    }

    /// Name of the method in reports.
    pub fn method(&self) -> &'static str {
        match self {
            Capture::ProxyArp { .. } => "proxy-arp",
        }
    }
}
