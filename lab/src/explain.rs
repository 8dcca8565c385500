//! Explains a node's configuration to a reader of the evidence: who the node is and what each of its files and
//! resources is there for. Pure.

use std::fmt::Write;

use crate::layout::{Captures, HUB_2_PUBLIC, HUB_PUBLIC, Node};

/// What a Kind of resource says, in a sentence.
fn meaning(kind: &str) -> &'static str {
    match kind {
        "BGPRouter" => "this node's BGP speaker; unset keys are derived",
        "BGPDynamicPeer" => {
            "BGP neighbours that nobody names: accepted from the overlay and bound to their enrollment"
        }
        "BGPPeer" => "a BGP neighbour written by hand",
        "WireGuardInterface" => "the encrypted underlay; its peers come from the registry",
        "WireGuardPeer" => "a WireGuard peer written by hand",
        "OverlayPeer" => "an overlay neighbour written by hand",
        "SAMEnrollmentPolicy" => "who may enroll and what may be claimed; no leaf is named in it",
        "SAMEnrollmentClient" => "how this leaf enrolls; its admission comes from the hub",
        "SAMEnrollmentClaim" | "RemoteAddressClaim" => "an owned address written by hand",
        "AddressMobilityDomain" => "the addresses that may move between sites",
        "EventGroup" => "the group whose events this node hears",
        _ => "see the reference of Kinds",
    }
}

/// The explanation of a node as Markdown; `files` are its configuration files with the `Kind/name` of each
/// resource in them.
pub fn node(node: &Node, files: &[(String, Vec<String>)]) -> String {
    let mut text = format!("# {}\n\n{}\n", node.name(), role(node));
    if files.is_empty() {
        text.push_str("\nIt has no configuration file: all that it needs came with its enrollment.\n");
    }
    for (file, resources) in files {
        let _ = write!(text, "\n## {file}\n\n");
        for resource in resources {
            let kind = resource.split('/').next().unwrap_or("");
            let _ = writeln!(text, "- `{resource}`: {}", meaning(kind));
        }
    }
    text
}

fn role(node: &Node) -> String {
    match node {
        Node::Hub => format!(
            "The hub: route reflector, enrollment service and relay of the overlay. Inside it is {}, its provider maps \
             {HUB_PUBLIC} to it. Leaves, claims and invites are in its registry and in no file of its configuration.",
            node.address()
        ),
        Node::Hub2 => format!(
            "The second hub: it joined the first one by one string, shares its registry, and does the same for every \
             leaf. Inside it is {}, its provider maps {HUB_2_PUBLIC} to it.",
            node.address()
        ),
        Node::Leaf(site) => {
            let capture = match site.captures {
                Captures::RouteTable => "the provider's route table sends packets for remote clients to it",
                Captures::ProxyArp => "it answers ARP for remote clients",
            };
            format!(
                "The leaf of {}, {}, behind the public address {} (MTU {}). Its client is {}. Capture: {capture}.",
                site.name, site.leaf, site.public, site.public_mtu, site.client
            )
        }
        other => format!("{}, {}.", other.name(), other.address()),
    }
}

/// What the bundle holds, for its README.
pub const README: &str = "\
# Evidence of the acceptance scenario

| file | what it is |
| --- | --- |
| `acceptance.json` | the points of the scenario, each judged |
| `boundary.json` | the hub's configuration read again: no static claim, no per-leaf peer |
| `nodes/NODE/config/` | the node's configuration files as they are |
| `nodes/NODE/explanation.md` | who the node is, what each resource is there for |
| `nodes/NODE/status.json` | what the node says of itself |
| `nodes/NODE/routes.txt` | the fabric's routes in its kernel |
| `convergence/` | what `routerctl get`, `bgp`, `leaves` and `claims` answered |
| `matrix.json`, `matrix.txt`, `matrix.xml` | every directed pair of clients |
| `routing/` | the route tables of the providers' routers and of the clients |
| `scan.json` | the search for secrets in all of these files |
| `manifest.json` | SHA-256 of every file but itself |

Check the manifest: `jq -r '.files[] | \"\\(.sha256)  \\(.path)\"' manifest.json | sha256sum -c`
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::nodes;

    /// Proves that every node is explained and every resource named.
    #[test]
    fn explained() {
        for at in nodes(crate::layout::Hubs::Two) {
            assert!(node(&at, &[]).starts_with(&format!("# {}\n\n", at.name())));
        }
        let files = [("hub.yaml".to_string(), vec!["BGPDynamicPeer/fullmesh-leaves".to_string()])];
        let text = node(&Node::Hub, &files);
        assert!(
            text.contains("`BGPDynamicPeer/fullmesh-leaves`: BGP neighbours that nobody names"),
            "{text}"
        );
    }
}
