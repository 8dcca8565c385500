//! Who is in the lab and where: sites, nodes and addresses of the acceptance scenario. Pure.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::error::LabError;

/// How a site's network hands packets for remote clients to the leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Captures {
    /// The provider router's route table points at the leaf.
    RouteTable,
    /// The client has on-link routes, and the leaf answers ARP for the remote clients.
    ProxyArp,
}

/// One site of the scenario.
#[derive(Debug, PartialEq, Eq)]
pub struct Site {
    /// Short name, the prefix of its nodes' names.
    pub name: &'static str,
    /// What its gateway namespace is called: a provider's router (`vpc`) or a NAT box (`nat`).
    pub gateway_role: &'static str,
    /// First address of the site's /24.
    pub network: Ipv4Addr,
    /// The gateway's address inside the site.
    pub gateway: Ipv4Addr,
    /// The leaf.
    pub leaf: Ipv4Addr,
    /// The client, a plain machine that knows nothing of the fabric.
    pub client: Ipv4Addr,
    /// The site's public address (a /30 with [`Site::upstream`]).
    pub public: Ipv4Addr,
    /// The Internet router's end of the public link.
    pub upstream: Ipv4Addr,
    /// MTU of the public link, in bytes, both ends.
    pub public_mtu: u16,
    /// How capture works here.
    pub captures: Captures,
    /// The leaf's host image rejects forwarded packets until told otherwise (as OCI's does).
    pub rejects_forward: bool,
}

/// The hub's private address; it lives in the azure site.
pub const HUB: Ipv4Addr = Ipv4Addr::new(10, 82, 10, 5);
/// The hub's public address, mapped one to one by the azure provider router.
pub const HUB_PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// The second hub's private address, in a lab with two; it lives in the aws site.
pub const HUB_2: Ipv4Addr = Ipv4Addr::new(10, 81, 10, 5);
/// The second hub's public address, mapped one to one by the aws provider router.
pub const HUB_2_PUBLIC: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
/// The sites that the hubs live in.
const HUB_SITES: [&str; 2] = ["azure", "aws"];
/// UDP port of the hub's WireGuard.
pub const HUB_PORT: u16 = 51820;
/// TCP port of the exchange server that each client runs.
pub const AGENT_PORT: u16 = 7;

const fn ip(a: u8, b: u8, c: u8, d: u8) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, d)
}

/// The four sites.
pub static SITES: [Site; 4] = [
    Site {
        name: "aws",
        gateway_role: "vpc",
        network: ip(10, 81, 10, 0),
        gateway: ip(10, 81, 10, 1),
        leaf: ip(10, 81, 10, 10),
        client: ip(10, 81, 10, 20),
        public: ip(198, 51, 100, 2),
        upstream: ip(198, 51, 100, 1),
        public_mtu: 1500,
        captures: Captures::RouteTable,
        rejects_forward: false,
    },
    Site {
        name: "azure",
        gateway_role: "vpc",
        network: ip(10, 82, 10, 0),
        gateway: ip(10, 82, 10, 1),
        leaf: ip(10, 82, 10, 10),
        client: ip(10, 82, 10, 20),
        public: ip(203, 0, 113, 2),
        upstream: ip(203, 0, 113, 1),
        public_mtu: 1500,
        captures: Captures::RouteTable,
        rejects_forward: false,
    },
    Site {
        name: "oci",
        gateway_role: "vpc",
        network: ip(10, 83, 10, 0),
        gateway: ip(10, 83, 10, 1),
        leaf: ip(10, 83, 10, 10),
        client: ip(10, 83, 10, 20),
        public: ip(192, 0, 2, 2),
        upstream: ip(192, 0, 2, 1),
        public_mtu: 1400,
        captures: Captures::RouteTable,
        rejects_forward: true,
    },
    Site {
        name: "pve",
        gateway_role: "nat",
        network: ip(10, 99, 9, 0),
        gateway: ip(10, 99, 9, 1),
        leaf: ip(10, 99, 9, 2),
        client: ip(10, 99, 9, 10),
        public: ip(198, 51, 100, 130),
        upstream: ip(198, 51, 100, 129),
        public_mtu: 1500,
        captures: Captures::ProxyArp,
        rejects_forward: false,
    },
];

impl Site {
    /// The site's prefix, a /24.
    pub fn prefix(&self) -> Ipv4Net {
        Ipv4Net::new_assert(self.network, 24)
    }

    /// The other three sites.
    pub fn others(&self) -> impl Iterator<Item = &'static Site> + use<> {
        let name = self.name;
        SITES.iter().filter(move |other| other.name != name)
    }

    /// The gateway's node.
    pub fn gateway_node(&'static self) -> Node {
        Node::Gateway(self)
    }
}

/// A site by its name.
pub fn site(name: &str) -> Option<&'static Site> {
    SITES.iter().find(|site| site.name == name)
}

/// A machine of the lab, each a network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// The router that plays the Internet; it knows public addresses only.
    Inet,
    /// A site's way out: provider router or NAT box. The site's bridge is in it.
    Gateway(&'static Site),
    /// The hub.
    Hub,
    /// The second hub, in a lab with two.
    Hub2,
    /// A site's leaf.
    Leaf(&'static Site),
    /// A site's client.
    Client(&'static Site),
}

impl Node {
    /// The node's name, for example `aws-leaf`.
    pub fn name(&self) -> String {
        match self {
            Node::Inet => "inet".into(),
            Node::Hub => "hub".into(),
            Node::Hub2 => "hub-2".into(),
            Node::Gateway(site) => format!("{}-{}", site.name, site.gateway_role),
            Node::Leaf(site) => format!("{}-leaf", site.name),
            Node::Client(site) => format!("{}-client", site.name),
        }
    }

    /// The node's main address.
    pub fn address(&self) -> Ipv4Addr {
        match self {
            Node::Inet => SITES[0].upstream,
            Node::Hub => HUB,
            Node::Hub2 => HUB_2,
            Node::Gateway(site) => site.gateway,
            Node::Leaf(site) => site.leaf,
            Node::Client(site) => site.client,
        }
    }

    /// The public address that a hub's provider maps to it; none for any other node.
    pub fn hub_public(&self) -> Option<Ipv4Addr> {
        match self {
            Node::Hub => Some(HUB_PUBLIC),
            Node::Hub2 => Some(HUB_2_PUBLIC),
            _ => None,
        }
    }

    /// The fabric daemon that runs on the node.
    pub fn daemon(&self) -> Option<&'static str> {
        match self {
            Node::Hub | Node::Hub2 => Some("fabric-rr"),
            Node::Leaf(_) => Some("fabric-leaf"),
            _ => None,
        }
    }

    /// The site that the node belongs to.
    pub fn site(&self) -> Option<&'static Site> {
        match self {
            Node::Inet => None,
            Node::Hub => site(HUB_SITES[0]),
            Node::Hub2 => site(HUB_SITES[1]),
            Node::Gateway(site) | Node::Leaf(site) | Node::Client(site) => Some(site),
        }
    }
}

/// How many hubs a lab has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hubs {
    /// One, in the azure site.
    #[default]
    One,
    /// A second one in the aws site.
    Two,
}

impl Hubs {
    /// The hubs' nodes, the first one first.
    pub fn nodes(self) -> &'static [Node] {
        match self {
            Hubs::One => &[Node::Hub],
            Hubs::Two => &[Node::Hub, Node::Hub2],
        }
    }
}

/// Every node: the Internet, then the gateways, the hubs, the leaves and the clients.
pub fn nodes(hubs: Hubs) -> Vec<Node> {
    let mut nodes = vec![Node::Inet];
    nodes.extend(SITES.iter().map(Node::Gateway));
    nodes.extend(hubs.nodes());
    nodes.extend(SITES.iter().map(Node::Leaf));
    nodes.extend(SITES.iter().map(Node::Client));
    nodes
}

/// The name of every node that a lab can have.
pub fn node_names() -> Vec<String> {
    nodes(Hubs::Two).iter().map(Node::name).collect()
}

/// A node by its name.
pub fn node(name: &str) -> Result<Node, LabError> {
    nodes(Hubs::Two)
        .into_iter()
        .find(|node| node.name() == name)
        .ok_or_else(|| LabError::UnknownNode(name.into()))
}

/// A lab's name: the prefix of its namespaces, so that labs stand side by side.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabName(String);

impl LabName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The namespace of a node, for example `fab-aws-leaf`.
    pub fn namespace(&self, node: &Node) -> String {
        format!("{}-{}", self.0, node.name())
    }
}

impl Default for LabName {
    fn default() -> Self {
        LabName("fab".into())
    }
}

impl std::fmt::Display for LabName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for LabName {
    type Error = LabError;

    fn try_from(name: String) -> Result<Self, LabError> {
        let letters = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        let starts = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
        if letters && starts && name.len() <= 16 { Ok(LabName(name)) } else { Err(LabError::Name(name)) }
    }
}

impl std::str::FromStr for LabName {
    type Err = LabError;

    fn from_str(name: &str) -> Result<Self, LabError> {
        LabName::try_from(name.to_string())
    }
}

impl From<LabName> for String {
    fn from(name: LabName) -> String {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that every address of a site lies in its prefix and none is used twice.
    #[test]
    fn addresses_are_inside_and_unique() {
        let mut seen = std::collections::BTreeSet::new();
        for site in &SITES {
            for address in [site.gateway, site.leaf, site.client] {
                assert!(site.prefix().contains(&address));
                assert!(seen.insert(address));
            }
            assert!(seen.insert(site.public) && seen.insert(site.upstream));
            let link = Ipv4Net::new(site.public, 30).unwrap().trunc();
            assert!(link.contains(&site.upstream), "{link} {}", site.upstream);
        }
        for hub in Hubs::Two.nodes() {
            assert!(hub.site().unwrap().prefix().contains(&hub.address()));
            assert!(seen.insert(hub.address()) && seen.insert(hub.hub_public().unwrap()));
        }
    }

    /// Proves that names lead back to their nodes and that bad lab names are refused.
    #[test]
    fn names() {
        for node in nodes(Hubs::Two) {
            assert_eq!(super::node(&node.name()).unwrap(), node);
        }
        assert!(super::node("gcp-leaf").is_err());
        assert_eq!("fab".parse::<LabName>().unwrap().namespace(&Node::Hub), "fab-hub");
        for bad in ["", "Fab", "-x", "1a", "a/b", "a b", "abcdefghijklmnopq"] {
            assert!(bad.parse::<LabName>().is_err(), "{bad}");
        }
    }
}
