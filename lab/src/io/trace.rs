//! Watches one echo on its way: a counting table in each namespace, three echoes, and the tables gone again.

use std::time::Duration;

use crate::error::LabError;
use crate::io::lab::Lab;
use crate::io::run::words;
use crate::io::underlay::nft;
use crate::layout::{Node, Site};
use crate::trace::{Counts, counts, points, table, verdict, way};

const LIMIT: Duration = Duration::from_secs(10);

/// Says where an echo from one client to another was last seen. `identifier` tells it from all other echoes
/// and is used by one trace at a time.
pub async fn last_seen(
    lab: &Lab,
    from: &'static Site,
    to: &'static Site,
    identifier: u16,
) -> Result<String, LabError> {
    let name = format!("lab_trace_{identifier}");
    let mut nodes = way(from, to);
    nodes.extend(way(to, from).into_iter().filter(|node| !way(from, to).contains(node)));
    let seen = watch(lab, &nodes, &name, identifier, from, to).await;
    for node in &nodes {
        // A table declared empty and deleted at once: no error where it was never made.
        let text = format!("table inet {name} {{ }}\ndelete table inet {name}\n");
        let _ = nft(&lab.namespace(node), &text).await;
    }
    let seen = seen?;
    let of = |node: &Node| {
        seen.iter().find(|(known, _)| known == node).map_or_else(Counts::default, |(_, counts)| *counts)
    };
    Ok(verdict(&points(from, to), of))
}

async fn watch(
    lab: &Lab,
    nodes: &[Node],
    name: &str,
    identifier: u16,
    from: &'static Site,
    to: &'static Site,
) -> Result<Vec<(Node, Counts)>, LabError> {
    for node in nodes {
        nft(&lab.namespace(node), &table(name, identifier, node)).await?;
    }
    let (id, address) = (identifier.to_string(), to.client.to_string());
    let ping = words(["ping", "-n", "-q", "-e", &id, "-c", "3", "-i", "0.2", "-w", "2", &address]);
    lab.exec(&Node::Client(from).name(), &ping, LIMIT).await?;
    let mut seen = Vec::new();
    for node in nodes {
        let list = words(["nft", "-j", "list", "table", "inet", name]);
        let output = lab.exec(&node.name(), &list, LIMIT).await?;
        seen.push((*node, counts(&output.stdout)));
    }
    Ok(seen)
}
