//! Watches one echo on its way: a counting table in each namespace, three echoes, and the tables gone again.

use std::time::Duration;

use crate::error::LabError;
use crate::io::lab::Lab;
use crate::io::run::words;
use crate::io::underlay::nft;
use crate::layout::{Node, Site};
use crate::trace::{Counts, counts, points, table, verdict, way};

const LIMIT: Duration = Duration::from_secs(10);

/// Payload of a small echo, in octets.
pub const SMALL: u16 = 56;
/// Payload of a large echo, in octets: with its headers as much as a tunnel over a path of 1,500 octets carries.
pub const LARGE: u16 = 1392;

/// Says where an echo from one client to another, with a payload of so many octets, was last seen. `identifier`
/// tells it from all other echoes and is used by one trace at a time.
pub async fn last_seen(
    lab: &Lab,
    from: &'static Site,
    to: &'static Site,
    identifier: u16,
    payload: u16,
) -> Result<String, LabError> {
    let name = format!("lab_trace_{identifier}");
    let mut nodes = way(from, to);
    nodes.extend(way(to, from).into_iter().filter(|node| !way(from, to).contains(node)));
    let echo = Echo { from, to, identifier, payload };
    let seen = watch(lab, &nodes, &name, &echo).await;
    for node in &nodes {
        // A table declared empty and deleted at once: no error where it was never made.
        let text = format!("table inet {name} {{ }}\ndelete table inet {name}\n");
        let _ = nft(&lab.namespace(node), &text).await;
    }
    let seen = seen?;
    let of = |node: &Node| {
        seen.iter().find(|(known, _)| known == node).map_or_else(Counts::default, |(_, counts)| *counts)
    };
    let verdict = verdict(&points(from, to), of);
    Ok(if payload == SMALL { verdict } else { format!("echo of {} octets: {verdict}", payload + 28) })
}

/// One echo that is watched.
struct Echo {
    from: &'static Site,
    to: &'static Site,
    identifier: u16,
    payload: u16,
}

async fn watch(lab: &Lab, nodes: &[Node], name: &str, echo: &Echo) -> Result<Vec<(Node, Counts)>, LabError> {
    for node in nodes {
        nft(&lab.namespace(node), &table(name, echo.identifier, node)).await?;
    }
    let (id, size, to) = (echo.identifier.to_string(), echo.payload.to_string(), echo.to.client.to_string());
    let ping = words([
        "ping", "-n", "-q", "-M", "dont", "-e", &id, "-s", &size, "-c", "3", "-i", "0.2", "-W", "2", &to,
    ]);
    lab.exec(&Node::Client(echo.from).name(), &ping, LIMIT).await?;
    let mut seen = Vec::new();
    for node in nodes {
        let list = words(["nft", "-j", "list", "table", "inet", name]);
        let output = lab.exec(&node.name(), &list, LIMIT).await?;
        seen.push((*node, counts(&output.stdout)));
    }
    Ok(seen)
}
