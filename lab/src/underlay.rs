//! What the programs `ip`, `sysctl` and `nft` are told in order to build the networks under the fabric. Pure:
//! layout in, text out. Interfaces are made inside the lab's own namespaces only; veth pairs are born with
//! both ends there, so the machine's own namespace never sees one.

use std::fmt::Write;
use std::net::Ipv4Addr;

use crate::layout::{Captures, Hubs, LabName, Node, SITES, Site, nodes};

/// The table that plays the reject rule of OCI's host image. Its chain lets no packet be forwarded.
pub const HOST_IMAGE_TABLE: &str = "filter";

/// What one namespace is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// The node.
    pub node: Node,
    /// Lines for `ip -batch`.
    pub ip: String,
    /// `key=value` words for `sysctl -w`.
    pub sysctl: Vec<String>,
    /// Text for `nft -f`; empty when the node has no table.
    pub nft: String,
}

/// Lines for `ip -batch` that make every namespace.
pub fn namespaces(lab: &LabName, hubs: Hubs) -> String {
    nodes(hubs).iter().fold(String::new(), |mut text, node| {
        let _ = writeln!(text, "netns add {}", lab.namespace(node));
        text
    })
}

/// The gateways' setups: they make every link, so they go before [`rest`].
pub fn gateways(lab: &LabName, hubs: Hubs) -> Vec<Setup> {
    SITES.iter().map(|site| gateway(lab, site, hubs)).collect()
}

/// The setups of all other nodes; their links exist by then.
pub fn rest(hubs: Hubs) -> Vec<Setup> {
    let mut setups = vec![inet(hubs)];
    setups.extend(hubs.nodes().iter().map(|hub| host(*hub)));
    setups.extend(SITES.iter().map(|site| host(Node::Leaf(site))));
    setups.extend(SITES.iter().map(|site| host(Node::Client(site))));
    setups
}

/// The fixed link address of a site's machine: `02:00` and the four octets of its address. Fixed, so that
/// the provider router can tell what comes from the leaf.
pub fn link_address(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// The machines on a site's bridge: port name inside the gateway's namespace, and the node.
pub fn ports(site: &'static Site, hubs: Hubs) -> Vec<(&'static str, Node)> {
    let mut ports = vec![("leaf", Node::Leaf(site)), ("client", Node::Client(site))];
    ports.extend(hub_of(site, hubs).map(|hub| ("hub", hub)));
    ports
}

/// The hub that lives in a site.
fn hub_of(site: &Site, hubs: Hubs) -> Option<Node> {
    hubs.nodes().iter().find(|hub| hub.site().is_some_and(|at| at.name == site.name)).copied()
}

fn gateway(lab: &LabName, site: &'static Site, hubs: Hubs) -> Setup {
    let mut ip = String::from("link set lo up\nlink add br0 type bridge forward_delay 0 stp_state 0\n");
    for (port, node) in ports(site, hubs) {
        let (mac, ns) = (link_address(node.address()), lab.namespace(&node));
        let _ = writeln!(ip, "link add {port} type veth peer name eth0 address {mac} netns {ns}");
        let _ = writeln!(ip, "link set {port} master br0 up");
    }
    let (inet, mtu) = (lab.namespace(&Node::Inet), site.public_mtu);
    let _ = writeln!(ip, "link add pub0 mtu {mtu} type veth peer name {} mtu {mtu} netns {inet}", site.name);
    let _ = writeln!(ip, "addr add {}/24 dev br0", site.gateway);
    let _ = writeln!(ip, "link set br0 up");
    let _ = writeln!(ip, "addr add {}/30 dev pub0", site.public);
    let _ = writeln!(ip, "link set pub0 up");
    let _ = writeln!(ip, "route add default via {}", site.upstream);
    if site.captures == Captures::RouteTable {
        for other in site.others() {
            let _ = writeln!(ip, "route add {} via {}", other.prefix(), site.leaf);
        }
    }
    let sysctl = [
        "net.ipv4.ip_forward=1",
        "net.ipv4.conf.all.send_redirects=0",
        "net.ipv4.conf.default.send_redirects=0",
        "net.ipv4.conf.all.rp_filter=0",
        "net.ipv4.conf.default.rp_filter=0",
        "net.bridge.bridge-nf-call-iptables=0",
    ];
    Setup { node: Node::Gateway(site), ip, sysctl: strings(&sysctl), nft: provider_table(site, hubs) }
}

/// Address translation of a gateway, for what leaves by the public link only: what it hands to the leaf keeps
/// its source. A provider's route table sends nothing back that the leaf itself emits for a remote prefix;
/// here, where that would be a loop, it is dropped.
fn provider_table(site: &Site, hubs: Hubs) -> String {
    let mapped = hub_of(site, hubs).and_then(|hub| Some((hub.address(), hub.hub_public()?)));
    let mut text =
        String::from("table ip provider {\n chain before {\n  type nat hook prerouting priority dstnat\n");
    if let Some((hub, public)) = mapped {
        let _ = writeln!(text, "  ip daddr {public} dnat to {hub}");
    }
    text.push_str(" }\n chain after {\n  type nat hook postrouting priority srcnat\n");
    if let Some((hub, public)) = mapped {
        let _ = writeln!(text, "  oifname \"pub0\" ip saddr {hub} snat to {public}");
        let _ = writeln!(
            text,
            "  oifname \"br0\" ip saddr {} ip daddr {hub} ct status dnat snat to {}",
            site.prefix(),
            site.public
        );
    }
    let _ = writeln!(text, "  oifname \"pub0\" ip saddr {} masquerade", site.prefix());
    text.push_str(" }\n chain routed {\n  type filter hook forward priority filter\n");
    if site.captures == Captures::RouteTable {
        let remote: Vec<String> = site.others().map(|other| other.prefix().to_string()).collect();
        let _ = writeln!(
            text,
            "  ether saddr {} ip daddr {{ {} }} counter drop",
            link_address(site.leaf),
            remote.join(", ")
        );
    }
    text.push_str(" }\n}\n");
    text
}

fn inet(hubs: Hubs) -> Setup {
    let mut ip = String::from("link set lo up\n");
    for site in &SITES {
        let _ = writeln!(ip, "addr add {}/30 dev {}", site.upstream, site.name);
        let _ = writeln!(ip, "link set {} up", site.name);
    }
    for hub in hubs.nodes() {
        if let (Some(site), Some(public)) = (hub.site(), hub.hub_public()) {
            let _ = writeln!(ip, "route add {public}/32 via {}", site.public);
        }
    }
    // An Internet provider carries no private address, in either direction.
    let nft = "table ip isp {\n chain carried {\n  type filter hook forward priority filter\n  \
               ip saddr 10.0.0.0/8 counter drop\n  ip daddr 10.0.0.0/8 counter drop\n }\n}\n";
    let sysctl = ["net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0"];
    Setup { node: Node::Inet, ip, sysctl: strings(&sysctl), nft: nft.into() }
}

fn host(node: Node) -> Setup {
    let mut ip = String::from("link set lo up\nlink set eth0 up\n");
    let _ = writeln!(ip, "addr add {}/24 dev eth0", node.address());
    if let Some(site) = node.site() {
        let _ = writeln!(ip, "route add default via {}", site.gateway);
    }
    let mut sysctl = Vec::new();
    let mut nft = String::new();
    match node {
        Node::Client(site) if site.captures == Captures::ProxyArp => {
            for other in site.others() {
                let _ = writeln!(ip, "route add {} dev eth0 scope link", other.prefix());
            }
        }
        Node::Leaf(site) if site.rejects_forward => nft = host_image_table(),
        _ => {}
    }
    if node.daemon().is_some() {
        sysctl = strings(&[
            "net.ipv4.ip_forward=1",
            "net.ipv4.conf.all.rp_filter=0",
            "net.ipv4.conf.default.rp_filter=0",
            "net.ipv4.conf.all.send_redirects=0",
            "net.ipv4.conf.default.send_redirects=0",
        ]);
    }
    Setup { node, ip, sysctl, nft }
}

/// What OCI's images come with: nothing is forwarded.
fn host_image_table() -> String {
    format!(
        "table ip {HOST_IMAGE_TABLE} {{\n chain FORWARD {{\n  type filter hook forward priority filter; policy accept\n  \
         counter reject with icmp type host-prohibited\n }}\n}}\n"
    )
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(name: &str) -> Setup {
        let lab = LabName::default();
        gateways(&lab, Hubs::One)
            .into_iter()
            .chain(rest(Hubs::One))
            .find(|setup| setup.node.name() == name)
            .unwrap()
    }

    /// Proves that every link is made with both ends in namespaces of the lab.
    #[test]
    fn every_link_names_its_namespaces() {
        for setup in gateways(&LabName::default(), Hubs::Two) {
            for line in setup.ip.lines().filter(|line| line.contains("type veth")) {
                assert!(line.contains("netns fab-"), "{line}");
            }
        }
    }

    /// Proves that a provider's route table leads to the leaf, and that no client of a cloud knows the fabric.
    #[test]
    fn route_tables() {
        assert!(text_of("aws-vpc").ip.contains("route add 10.99.9.0/24 via 10.81.10.10"));
        assert!(!text_of("pve-nat").ip.contains("via 10.99.9.2"));
        assert!(!text_of("aws-client").ip.contains("10.82"));
        assert!(text_of("pve-client").ip.contains("route add 10.82.10.0/24 dev eth0 scope link"));
    }

    /// Proves that only oci's leaf rejects forwarding, and that only its public link is narrow.
    #[test]
    fn oci_is_special() {
        assert!(text_of("oci-leaf").nft.contains("host-prohibited"));
        assert!(text_of("aws-leaf").nft.is_empty());
        assert!(text_of("oci-vpc").ip.contains("pub0 mtu 1400"));
        assert!(text_of("aws-vpc").ip.contains("pub0 mtu 1500"));
    }

    /// Proves that a second hub has an address of its own in its site and on the Internet, and that without it nothing
    /// of it is there.
    #[test]
    fn a_second_hub_is_there_only_with_two() {
        let lab = LabName::default();
        let text = |hubs| {
            let setups = gateways(&lab, hubs).into_iter().chain(rest(hubs));
            setups.map(|setup| setup.ip + &setup.nft).collect::<String>()
        };
        let two = text(Hubs::Two);
        assert!(two.contains("ip daddr 198.51.100.10 dnat to 10.81.10.5"));
        assert!(two.contains("route add 198.51.100.10/32 via 198.51.100.2"));
        assert!(!text(Hubs::One).contains("198.51.100.10 ") && !text(Hubs::One).contains("10.81.10.5/"));
    }

    /// Proves that only what leaves by the public link is translated, and the hub's own address one to one.
    #[test]
    fn translation() {
        let azure = text_of("azure-vpc").nft;
        assert!(azure.contains("ip daddr 203.0.113.10 dnat to 10.82.10.5"));
        assert!(azure.contains("oifname \"br0\" ip saddr 10.82.10.0/24 ip daddr 10.82.10.5 ct status dnat"));
        assert!(text_of("pve-nat").nft.contains("oifname \"pub0\" ip saddr 10.99.9.0/24 masquerade"));
    }
}
