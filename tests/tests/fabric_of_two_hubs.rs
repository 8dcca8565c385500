//! A lab with two hubs as they are shipped, one joined by the other's string: every pair works, and a leaf that the
//! second hub revokes is gone at both. The times are printed.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fabric_tests::Check;
use fabric_tests::ask::{eventually, json, kernel_clients, note, now_secs, ping, site, start, stop};
use fabric_tests::flow::{leaf_key, replace_in_place, rotate, unnoticed};
use fabric_tests::harness::{Fabric, case, main_with};
use fabric_tests::hubs::{LIMIT, served_by_both};
use lab::MatrixOptions;
use lab::layout::Hubs;
use nix::sys::signal::Signal;

/// Longest time of each effect of a revocation, seconds.
const SECOND: f64 = 1.0;
/// Of three changes of keys under two pings every 20 ms, lost at most.
const LOST: usize = 9;

fn main() -> ExitCode {
    let cases = vec![
        case("every_pair_works_with_two_hubs", matrix),
        case("fresh_keys_cost_nothing_at_either_hub", rotated),
        case("enroll_replace_costs_nothing_at_either_hub", replaced),
        case("who_is_killed_right_after_fresh_keys_comes_back", killed),
        case("a_leaf_revoked_at_the_second_hub_is_gone_at_both_within_a_second", revoked),
    ];
    main_with("twoh", Hubs::Two, cases)
}

async fn matrix(f: Arc<Fabric>) -> Check {
    served_by_both(&f).await?;
    let matrix = f.lab.matrix(&MatrixOptions::default()).await.map_err(|error| error.to_string())?;
    note(&format!("{} of {} pairs", matrix.pairs_ok, matrix.pairs_total));
    match (matrix.pairs_ok, matrix.pairs_total) {
        (12, 12) => Ok(()),
        (good, all) => Err(format!("{good} of {all} pairs work")),
    }
}

async fn rotated(f: Arc<Fabric>) -> Check {
    with_the_same_sessions(&f, || rotate(&f)).await
}

async fn replaced(f: Arc<Fabric>) -> Check {
    with_the_same_sessions(&f, || replace_in_place(&f)).await
}

/// The change is noticed by no packet that is counted, and no session of a leaf ends, at either hub.
async fn with_the_same_sessions<R: Future<Output = Check>>(f: &Arc<Fabric>, change: impl Fn() -> R) -> Check {
    served_by_both(f).await?;
    let before = sessions(f).await?;
    let lost: usize = unnoticed(f, change).await?.iter().map(|flow| flow.lost).sum();
    changed_at_both(f).await?;
    match sessions(f).await? {
        after if after != before => Err(format!("sessions before {before:?}, after {after:?}")),
        _ if lost > LOST => Err(format!("{lost} pings lost")),
        _ => served_by_both(f).await,
    }
}

/// Each hub's tunnel with aws has the fresh key, and lives; gives the time that took.
async fn changed_at_both(f: &Arc<Fabric>) -> Result<Duration, String> {
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

/// The second hub, and then the leaf, is killed as soon as the first hub has agreed to fresh keys.
async fn killed(f: Arc<Fabric>) -> Check {
    for node in ["hub-2", "aws-leaf"] {
        served_by_both(&f).await?;
        rotate(&f).await?;
        stop(&f.lab, node, Signal::SIGKILL).await?;
        start(&f.lab, node).await?;
        let begin = Instant::now();
        changed_at_both(&f).await?;
        served_by_both(&f).await?;
        let both = || async {
            let status = json(&f.lab, "aws-leaf", "status").await?;
            if status["phase"] == "Ready" { Ok(()) } else { Err(status["why"].to_string()) }
        };
        eventually(LIMIT, both).await?;
        note(&format!("{node} started again: served by both after {:.1} s", begin.elapsed().as_secs_f64()));
    }
    Ok(())
}

/// How often each leaf's session came up, at each hub.
async fn sessions(f: &Fabric) -> Result<Vec<String>, String> {
    let mut counts = Vec::new();
    for hub in Hubs::Two.nodes() {
        let peers = json(&f.lab, &hub.name(), "bgp peers").await?;
        let leaves = peers.as_array().into_iter().flatten().filter(|p| p["client"] == true);
        counts.extend(leaves.map(|p| format!("{} {} {}", hub.name(), p["leaf"], p["established_count"])));
    }
    counts.sort();
    Ok(counts)
}

/// Revokes oci at the second hub while its client pings aws; prints when each effect was seen.
async fn revoked(f: Arc<Fabric>) -> Check {
    served_by_both(&f).await?;
    let overlay = json(&f.lab, "hub", "leaves show oci").await?["overlay"].clone();
    let pinged = tokio::spawn({
        let f = f.clone();
        async move { ping(&f.lab, site("oci"), site("aws").client, 4, 20).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (wall, begin) = (now_secs(), Instant::now());
    json(&f.lab, "hub-2", "leaves revoke oci").await?;
    let mut times = vec![("command", begin.elapsed().as_secs_f64())];
    for other in site("oci").others() {
        let gone = || async {
            match kernel_clients(&f.lab, other).await?.contains(&site("oci").client) {
                true => Err(format!("{} still has the route", other.name)),
                false => Ok(()),
            }
        };
        eventually(LIMIT, gone).await?;
    }
    times.push(("routes gone", begin.elapsed().as_secs_f64()));
    for (hub, what) in [("hub-2", "session ceased at hub-2"), ("hub", "session ceased at hub")] {
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
    let last = replies.last().copied().ok_or("oci hears nothing")? - wall;
    times.push(("last packet", last.max(0.0)));
    let shown: Vec<String> = times.iter().map(|(what, secs)| format!("{what} {secs:.3} s")).collect();
    note(&format!("revoked at the second hub: {}", shown.join(", ")));
    match times.iter().find(|(_, secs)| *secs >= SECOND) {
        None => Ok(()),
        Some((what, secs)) => Err(format!("{what} after {secs:.3} s")),
    }
}
