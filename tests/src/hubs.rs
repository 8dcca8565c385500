//! Questions to a lab with two hubs, and what must hold there however the hubs share their registry.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lab::layout::{Hubs, Site};
use serde_json::Value;

use crate::Check;
use crate::ask::{eventually, exec, json, kernel_clients, note, now_secs, ping, site};
use crate::flow::{leaf_key, unnoticed_for};
use crate::harness::Fabric;
use crate::stall::Stalls;

/// Longest time for one step of the fabric.
pub const LIMIT: Duration = Duration::from_secs(30);
/// Longest time of each effect of a revocation, seconds.
const SECOND: f64 = 1.0;

/// Waits until every leaf has a session with both hubs, and both registries are one.
///
/// # Errors
/// What is not so in time.
pub async fn served_by_both(f: &Arc<Fabric>) -> Check {
    for hub in Hubs::Two.nodes() {
        let all = || async {
            let peers = json(&f.lab, &hub.name(), "bgp peers").await?;
            let up = |p: &&Value| p["state"] == "Established" && p["client"] == true;
            match peers.as_array().into_iter().flatten().filter(up).count() {
                4 => Ok(()),
                some => Err(format!("{} has sessions with {some} of 4 leaves", hub.name())),
            }
        };
        eventually(LIMIT, all).await?;
    }
    equal(f).await.map(drop)
}

/// Waits until both registries have one digest; gives the time that took.
///
/// # Errors
/// What is not so in time.
pub async fn equal(f: &Arc<Fabric>) -> Result<Duration, String> {
    let look = || async {
        let mut digests = Vec::new();
        for hub in Hubs::Two.nodes() {
            let status = json(&f.lab, &hub.name(), "status").await?;
            let stands = &status["replication"];
            // With each other, or with the database that they share.
            let state = stands["hubs"][0]["state"].as_str().or(stands["database"]["state"].as_str());
            if state != Some("in-step") {
                return Err(format!("{}: {stands}", hub.name()));
            }
            digests.push(stands["digest"].clone());
        }
        if digests[0].is_string() && digests[0] == digests[1] { Ok(()) } else { Err(format!("{digests:?}")) }
    };
    eventually(LIMIT, look).await
}

/// A change of the aws leaf's keys, made three times under flows of so many seconds, costs no packet, and no session
/// of a leaf ends, at either hub.
///
/// # Errors
/// What was noticed, or what failed.
pub async fn with_the_same_sessions<R: Future<Output = Check>>(
    f: &Arc<Fabric>,
    secs: u64,
    change: impl Fn() -> R,
) -> Check {
    served_by_both(f).await?;
    let before = sessions(f).await?;
    unnoticed_for(f, secs, change).await?;
    changed_at_both(f).await?;
    match sessions(f).await? {
        after if after != before => Err(format!("sessions before {before:?}, after {after:?}")),
        _ => served_by_both(f).await,
    }
}

/// Each hub's tunnel with aws has the fresh key, and lives; gives the time that took.
///
/// # Errors
/// What is not so in time.
pub async fn changed_at_both(f: &Arc<Fabric>) -> Result<Duration, String> {
    let begin = Instant::now();
    for hub in Hubs::Two.nodes() {
        let lives = || async {
            let key = leaf_key(f, &hub.name(), "aws").await?;
            let status = json(&f.lab, &hub.name(), "status").await?;
            let peers = status["dataplane"]["peers"].as_array().cloned().unwrap_or_default();
            match peers.iter().find(|peer| peer["public_key"] == key.as_str()) {
                Some(peer) if peer["last_handshake_secs_ago"].is_number() => Ok(()),
                peer => Err(format!("{}: the tunnel with {key}: {peer:?}", hub.name())),
            }
        };
        eventually(LIMIT, lives).await?;
    }
    Ok(begin.elapsed())
}

/// How often each leaf's session came up, at each hub.
///
/// # Errors
/// What a hub says instead.
pub async fn sessions(f: &Fabric) -> Result<Vec<String>, String> {
    let mut counts = Vec::new();
    for hub in Hubs::Two.nodes() {
        let peers = json(&f.lab, &hub.name(), "bgp peers").await?;
        let leaves = peers.as_array().into_iter().flatten().filter(|p| p["client"] == true);
        counts.extend(leaves.map(|p| format!("{} {} {}", hub.name(), p["leaf"], p["established_count"])));
    }
    counts.sort();
    Ok(counts)
}

/// Makes this hub the one that the aws leaf asks first: the other one's API is out of its reach for the time of one word,
/// while tunnel, BGP and BFD go on.
///
/// # Errors
/// Why it does not.
pub async fn asks_first(f: &Fabric, hub: &str) -> Check {
    let status = json(&f.lab, "aws-leaf", "status").await?;
    let hubs = status["hubs"].as_array().cloned().unwrap_or_default();
    let other = hubs.iter().find(|view| view["name"] != hub).and_then(|view| view["overlay"].as_str());
    let other = other.ok_or_else(|| format!("no other hub than {hub}: {status}"))?;
    let on = |line: String| async move { exec(&f.lab, "aws-leaf", &line).await };
    on("nft add table ip away".into()).await?;
    on("nft add chain ip away out { type filter hook output priority 0 ; }".into()).await?;
    on(format!("nft add rule ip away out ip daddr {other} tcp dport != 179 reject with tcp reset")).await?;
    let word = json(&f.lab, "aws-leaf", "claims add 10.81.10.99").await;
    on("nft delete table ip away".into()).await?;
    word?;
    json(&f.lab, "aws-leaf", "claims release 10.81.10.99").await?;
    answered(f, hub).await
}

/// The aws leaf's last word was answered by this hub.
///
/// # Errors
/// By whom else.
pub async fn answered(f: &Fabric, hub: &str) -> Check {
    let status = json(&f.lab, "aws-leaf", "status").await?;
    let mut hubs = status["hubs"].as_array().into_iter().flatten();
    match hubs.find(|view| view["answered"] == true) {
        Some(view) if view["name"] == hub => Ok(()),
        view => Err(format!("{hub} should have answered, not {view:?}")),
    }
}

/// Revokes a leaf at one of the hubs while its client pings aws; each effect, at both hubs and at the other leaves that
/// are named, is seen within a second. The times are printed.
///
/// # Errors
/// What took longer.
pub async fn revoked_at(f: &Arc<Fabric>, leaf: &'static Site, at: &str, others: &[&'static Site]) -> Check {
    let overlay = json(&f.lab, at, &format!("leaves show {}", leaf.name)).await?["overlay"].clone();
    let pinged = tokio::spawn({
        let f = f.clone();
        async move { ping(&f.lab, leaf, site("aws").client, 4, 20).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (stalls, wall, begin) = (Stalls::watch(), now_secs(), Instant::now());
    json(&f.lab, at, &format!("leaves revoke {}", leaf.name)).await?;
    let mut times = vec![("command", begin.elapsed().as_secs_f64())];
    for &other in others {
        let gone = || async {
            match kernel_clients(&f.lab, other).await?.contains(&leaf.client) {
                true => Err(format!("{} still has the route", other.name)),
                false => Ok(()),
            }
        };
        eventually(LIMIT, gone).await?;
    }
    times.push(("routes gone", begin.elapsed().as_secs_f64()));
    for (hub, what) in [("hub", "session ceased at hub"), ("hub-2", "session ceased at hub-2")] {
        let ceased = || async {
            let peers = json(&f.lab, hub, "bgp peers").await?;
            let mut peers = peers.as_array().into_iter().flatten();
            match peers.find(|p| p["address"] == overlay && p["state"] == "Established") {
                None => Ok(()),
                Some(peer) => Err(peer.to_string()),
            }
        };
        eventually(LIMIT, ceased).await?;
        times.push((what, begin.elapsed().as_secs_f64()));
    }
    let replies = pinged.await.map_err(|e| e.to_string())??;
    let last = replies.last().copied().ok_or("it hears nothing")? - wall;
    times.push(("last packet", last.max(0.0)));
    let shown: Vec<String> = times.iter().map(|(what, secs)| format!("{what} {secs:.3} s")).collect();
    let allowed = stalls.allow(SECOND);
    note(&format!("{} revoked at {at}, {allowed:.2} s allowed: {}", leaf.name, shown.join(", ")));
    match times.iter().find(|(_, secs)| *secs >= allowed) {
        None => Ok(()),
        Some((what, secs)) => Err(format!("{what} after {secs:.3} s")),
    }
}
