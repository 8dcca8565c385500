//! The seven points of the acceptance scenario. Each function looks at a lab and says what is wrong with it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use lab::layout::{Node, SITES};
use lab::{Lab, MatrixOptions};
use serde_json::Value;

use crate::ask::{all_clients, json, kernel_clients, leaf, other_clients, single};
use crate::{Check, evidence};

/// Kinds of which the hub's configuration must hold none: peers and claims written by hand.
const BY_HAND: [&str; 5] =
    ["BGPPeer", "WireGuardPeer", "OverlayPeer", "SAMEnrollmentClaim", "RemoteAddressClaim"];

/// 1: the hub's configuration holds no static claim and no per-leaf peer.
pub async fn hub_configures_nobody(lab: &Lab) -> Check {
    let paths = control::Paths::below(Some(&lab.node_dir(&Node::Hub)));
    let file = paths.config(control::Node::Hub);
    let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    if let Some(kind) = BY_HAND.iter().find(|kind| text.contains(&format!("kind: {kind}"))) {
        return Err(format!("the hub's file holds a {kind}"));
    }
    for site in &SITES {
        for address in [site.client, site.leaf] {
            if text.contains(&format!("{address}")) {
                return Err(format!("the hub's file names {address} of {}", site.name));
            }
        }
    }
    let client = control::Client::new(&paths, control::Node::Hub);
    let seen: control::wire::ConfigView =
        client.get("/v1/config").await.map_err(|error| error.to_string())?;
    match (seen.static_peers, seen.static_claims) {
        (0, 0) => Ok(()),
        (peers, claims) => Err(format!("the hub counts {peers} static peers and {claims} static claims")),
    }
}

/// 2: `SAMEnrollmentClient` says `Ready` on all four leaves.
pub async fn leaves_are_ready(lab: &Lab) -> Check {
    for site in &SITES {
        let answer = json(lab, &leaf(site), "get SAMEnrollmentClient").await?;
        let status = &single(&answer)?["status"];
        if status["phase"] != "Ready" {
            return Err(format!("{}: {} ({})", site.name, status["phase"], status["why"]));
        }
    }
    Ok(())
}

/// 3: the hub discovered four peers by `BGPDynamicPeer/fullmesh-leaves`, all `Established`.
pub async fn four_dynamic_peers(lab: &Lab) -> Check {
    let answer = json(lab, "hub", "get BGPDynamicPeer/fullmesh-leaves").await?;
    let peers = single(&answer)?["status"]["peers"].as_array().cloned().unwrap_or_default();
    let wrong: Vec<String> = peers
        .iter()
        .filter(|peer| peer["state"] != "Established")
        .map(|peer| format!("{} is {}", peer["name"], peer["state"]))
        .collect();
    let leaves: BTreeSet<&str> = peers.iter().filter_map(|peer| peer["leaf"].as_str()).collect();
    let sites: BTreeSet<&str> = SITES.iter().map(|site| site.name).collect();
    match (wrong.is_empty(), leaves == sites, peers.len()) {
        (true, true, 4) => Ok(()),
        (false, ..) => Err(wrong.join(", ")),
        _ => Err(format!("{} peers of {leaves:?}", peers.len())),
    }
}

/// 4: the hub accepted four routes, exactly the clients', and rejected none.
pub async fn hub_accepts_exactly_the_clients(lab: &Lab) -> Check {
    let status = json(lab, "hub", "status").await?;
    let (accepted, rejected) = (&status["bgp"]["accepted"], &status["bgp"]["rejected"]);
    if *accepted != 4 || *rejected != 0 {
        return Err(format!("accepted {accepted}, rejected {rejected}"));
    }
    let routes = best_routes(lab, "hub").await?;
    if routes == all_clients() { Ok(()) } else { Err(format!("the hub's routes are {routes:?}")) }
}

/// The host routes that are best on a node.
pub async fn best_routes(lab: &Lab, node: &str) -> Result<BTreeSet<Ipv4Addr>, String> {
    let answer = json(lab, node, "bgp routes").await?;
    let routes = answer.as_array().ok_or("bgp routes: no list")?;
    let host = |route: &Value| route["prefix"].as_str()?.strip_suffix("/32")?.parse::<Ipv4Addr>().ok();
    Ok(routes.iter().filter(|route| route["best"] == true).filter_map(host).collect())
}

/// 5: each leaf's kernel has every other client's `/32`, no other, and the leaf serves its own.
pub async fn leaves_installed_the_others(lab: &Lab) -> Check {
    for site in &SITES {
        let routes = kernel_clients(lab, site).await?;
        if routes != other_clients(site) {
            return Err(format!("{} has routes to {routes:?}", site.name));
        }
        let status = json(lab, &leaf(site), "status").await?;
        let claims = status["claims"].as_array().cloned().unwrap_or_default();
        if claims != [Value::from(site.client.to_string())] {
            return Err(format!("{} serves {claims:?}", site.name));
        }
    }
    Ok(())
}

/// 6: all twelve directed pairs pass ping, SSH, one MiB over TCP, and see the true source address.
pub async fn all_pairs_pass(lab: &Lab) -> Check {
    let matrix = lab.matrix(&MatrixOptions::default()).await.map_err(|error| error.to_string())?;
    if matrix.pairs_total != 12 {
        return Err(format!("{} pairs were tried", matrix.pairs_total));
    }
    let mut wrong = Vec::new();
    for pair in &matrix.pairs {
        let red = pair.checks().into_iter().filter(|(_, check)| !check.ok);
        wrong.extend(red.map(|(name, check)| {
            format!(
                "{} to {}: {name}: {}",
                pair.from,
                pair.to,
                check.error.lines().next().unwrap_or_default()
            )
        }));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

/// 7: the evidence in `dir` is whole, as its manifest says, and holds no secret of the lab.
pub fn evidence_is_sound(lab: &Lab, dir: &std::path::Path) -> Check {
    evidence::complete(dir)?;
    evidence::manifest_holds(dir)?;
    evidence::no_secret(dir, &evidence::secrets_of(&lab.dir())?)
}
