//! Where a packet was last seen: counters in each namespace on the way of one echo request and its reply, told
//! apart from all other traffic by the ICMP identifier. Pure: the tables' text, their reading, the verdict.

use serde_json::Value;

use crate::layout::{Captures, Node, Site};

/// Which of the two packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Packet {
    /// The caller's.
    Request,
    /// The called one's.
    Reply,
}

/// Which side of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// On its way in.
    Entered,
    /// On its way out.
    Left,
}

/// A place where the packet can be seen.
pub type Point = (Packet, Node, Side);

/// How often the packet was seen at each node: request entered, request left, reply entered, reply left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    counts: [u64; 4],
}

impl Counts {
    fn get(&self, packet: Packet, side: Side) -> u64 {
        self.counts[index(packet, side)]
    }
}

const NAMES: [&str; 4] = ["request_entered", "request_left", "reply_entered", "reply_left"];

fn index(packet: Packet, side: Side) -> usize {
    usize::from(packet == Packet::Reply) * 2 + usize::from(side == Side::Left)
}

/// The nodes on the way from one client to another, in order. On the hub only the outer packet can be seen.
pub fn way(from: &'static Site, to: &'static Site) -> Vec<Node> {
    let mut nodes = vec![Node::Client(from)];
    if from.captures == Captures::RouteTable {
        nodes.push(from.gateway_node());
    }
    nodes.extend([Node::Leaf(from), Node::Hub, Node::Leaf(to), Node::Client(to)]);
    nodes
}

/// Every point of the request's way and then of the reply's.
pub fn points(from: &'static Site, to: &'static Site) -> Vec<Point> {
    let mut points = Vec::new();
    for (packet, way) in [(Packet::Request, way(from, to)), (Packet::Reply, way(to, from))] {
        let last = way.len() - 1;
        for (at, node) in way.into_iter().enumerate() {
            if at > 0 {
                points.push((packet, node, Side::Entered));
            }
            if at < last {
                points.push((packet, node, Side::Left));
            }
        }
    }
    points
}

/// The text for `nft -f` that counts at a node the echoes with an identifier: as they are, or wrapped in ipip.
pub fn table(name: &str, identifier: u16, node: &Node) -> String {
    let counters: String = NAMES.iter().map(|name| format!(" counter {name} {{ }}\n")).collect();
    // Before any other table's chains on the way in, and before address translation on the way out.
    let hooks = [("prerouting", -350, Side::Entered), ("postrouting", 50, Side::Left)];
    let mut text = format!("table inet {name} {{\n{counters}");
    for (hook, priority, side) in hooks {
        text.push_str(&format!(" chain {hook} {{\n  type filter hook {hook} priority {priority}\n"));
        for (packet, kind, code) in [(Packet::Request, "echo-request", 8), (Packet::Reply, "echo-reply", 0)] {
            let counter = NAMES[index(packet, side)];
            let rule = match node {
                // Inner IP header at the transport offset: its payload begins 20 octets on.
                Node::Hub | Node::Hub2 => {
                    format!("meta l4proto 4 @th,72,8 1 @th,160,8 {code} @th,192,16 {identifier}")
                }
                _ => format!("meta l4proto icmp icmp type {kind} icmp id {identifier}"),
            };
            text.push_str(&format!("  {rule} counter name {counter}\n"));
        }
        text.push_str(" }\n");
    }
    text + "}\n"
}

/// Reads the counters out of `nft -j list table`.
pub fn counts(json: &str) -> Counts {
    let value: Value = serde_json::from_str(json).unwrap_or_default();
    let mut counts = Counts::default();
    for item in value.get("nftables").and_then(Value::as_array).into_iter().flatten() {
        let Some(counter) = item.get("counter") else { continue };
        let name = counter.get("name").and_then(Value::as_str).unwrap_or("");
        if let Some(at) = NAMES.iter().position(|known| *known == name) {
            counts.counts[at] = counter.get("packets").and_then(Value::as_u64).unwrap_or(0);
        }
    }
    counts
}

/// The last point at which the packet was seen, in words.
pub fn verdict(points: &[Point], seen: impl Fn(&Node) -> Counts) -> String {
    let was_seen = |(packet, node, side): &Point| seen(node).get(*packet, *side) > 0;
    let Some(last) = points.iter().rposition(was_seen) else {
        return "no echo request left the client".into();
    };
    let (packet, node, side) = &points[last];
    let name = match packet {
        Packet::Request => "echo request",
        Packet::Reply => "echo reply",
    };
    let Some((_, next, next_side)) = points.get(last + 1) else {
        return "an echo came back while its way was watched".into();
    };
    match (side, next == node) {
        (Side::Entered, true) if *packet == Packet::Request && points[last + 1].0 == Packet::Reply => {
            format!("{name}: last seen entering {}, which sent no reply", node.name())
        }
        (Side::Entered, _) => format!("{name}: last seen entering {}, not seen leaving it", node.name()),
        (Side::Left, _) => {
            let verb = if *next_side == Side::Entered { "entering" } else { "leaving" };
            let hub =
                if *next == Node::Hub { " (a hub that relays in its process shows nothing)" } else { "" };
            format!("{name}: last seen leaving {}, not seen {verb} {}{hub}", node.name(), next.name())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::site;

    fn seen_until(points: &[Point], last: usize) -> impl Fn(&Node) -> Counts + use<> {
        let seen: Vec<Point> = points[..=last].to_vec();
        move |node| {
            let mut counts = Counts::default();
            for (packet, at, side) in &seen {
                if at == node {
                    counts.counts[index(*packet, *side)] = 3;
                }
            }
            counts
        }
    }

    /// Proves that the way begins and ends at the clients and that pve's NAT box is not on it.
    #[test]
    fn the_way() {
        let (aws, pve) = (site("aws").unwrap(), site("pve").unwrap());
        let names = |from, to| way(from, to).iter().map(Node::name).collect::<Vec<_>>();
        assert_eq!(names(aws, pve), ["aws-client", "aws-vpc", "aws-leaf", "hub", "pve-leaf", "pve-client"]);
        assert_eq!(names(pve, aws), ["pve-client", "pve-leaf", "hub", "aws-leaf", "aws-client"]);
        assert_eq!(points(aws, pve).len(), 10 + 8);
    }

    /// Proves the verdict at each kind of point.
    #[test]
    fn verdicts() {
        let points = points(site("aws").unwrap(), site("oci").unwrap());
        let at = |last| verdict(&points, seen_until(&points, last));
        assert_eq!(verdict(&points, |_| Counts::default()), "no echo request left the client");
        assert_eq!(at(0), "echo request: last seen leaving aws-client, not seen entering aws-vpc");
        assert_eq!(at(3), "echo request: last seen entering aws-leaf, not seen leaving it");
        assert!(at(4).contains("not seen entering hub (a hub that relays"));
        assert_eq!(at(7), "echo request: last seen entering oci-leaf, not seen leaving it");
        assert_eq!(at(9), "echo request: last seen entering oci-client, which sent no reply");
        assert_eq!(at(12), "echo reply: last seen leaving oci-vpc, not seen entering oci-leaf");
        assert_eq!(at(points.len() - 1), "an echo came back while its way was watched");
    }

    /// Proves that counters are read and that anything else reads as nothing seen.
    #[test]
    fn reading() {
        let json =
            r#"{"nftables":[{"metainfo":{}},{"counter":{"name":"reply_left","packets":2,"bytes":9}}]}"#;
        assert_eq!(counts(json).get(Packet::Reply, Side::Left), 2);
        assert_eq!(counts("nonsense"), Counts::default());
    }
}
