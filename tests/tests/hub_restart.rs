//! The hub's daemon is killed and started again: the leaves come back by themselves, claims are as before, and
//! nothing between the sites is lost for longer than the restart takes.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fabric_tests::ask::{eventually, json, kernel_clients, other_clients, ping, start, stop};
use fabric_tests::harness::{Fabric, case, main as run};
use fabric_tests::stall::Stalls;
use fabric_tests::{Check, points};
use lab::layout::SITES;
use nix::sys::signal::Signal;

/// How long the pings run, seconds.
const PINGS_SECS: u64 = 25;
/// Longest time until all is as before.
const LIMIT: Duration = Duration::from_secs(60);
/// Time between pings, milliseconds.
const INTERVAL_MS: u64 = 50;

fn main() -> ExitCode {
    run(
        "hub",
        vec![
            case("killed_and_started_again_the_fabric_loses_nothing_for_longer_than_the_restart", restart),
            case("while_the_hub_is_away_leaves_keep_their_routes", fail_static),
            case("a_leaf_that_restarts_while_the_hub_is_away_has_its_last_routes", reborn),
        ],
    )
}

async fn claims(f: &Fabric) -> Result<Vec<String>, String> {
    let answer = json(&f.lab, "hub", "claims").await?;
    let claims = answer.as_array().ok_or("claims: no list")?;
    Ok(claims
        .iter()
        .map(|claim| format!("{} {} {}", claim["address"], claim["owner"], claim["generation"]))
        .collect())
}

async fn restart(f: Arc<Fabric>) -> Check {
    let before = claims(&f).await?;
    let mut pings = tokio::task::JoinSet::new();
    for (from, to) in SITES.iter().zip(SITES.iter().cycle().skip(1)) {
        let lab = f.lab.clone();
        pings.spawn(async move { (from.name, ping(&lab, from, to.client, PINGS_SECS, INTERVAL_MS).await) });
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (stalls, begin) = (Stalls::watch(), Instant::now());
    stop(&f.lab, "hub", Signal::SIGKILL).await?;
    start(&f.lab, "hub").await?;
    eventually(LIMIT, || points::four_dynamic_peers(&f.lab)).await?;
    eventually(LIMIT, || points::hub_accepts_exactly_the_clients(&f.lab)).await?;
    let restart = begin.elapsed();
    let allowed = stalls.allow(restart.as_secs_f64() + INTERVAL_MS as f64 / 1000.0);
    while let Some(done) = pings.join_next().await {
        let (name, replies) = done.map_err(|error| error.to_string())?;
        let replies = replies?;
        let gap = longest_gap(&replies).ok_or_else(|| format!("{name} hears nothing"))?;
        if gap > allowed {
            return Err(format!("{name} heard nothing for {gap:.2} s; the restart took {restart:?}"));
        }
    }
    let after = claims(&f).await?;
    if before == after { Ok(()) } else { Err(format!("{before:?} became {after:?}")) }
}

fn longest_gap(replies: &[f64]) -> Option<f64> {
    replies.windows(2).map(|pair| pair[1] - pair[0]).max_by(f64::total_cmp)
}

async fn fail_static(f: Arc<Fabric>) -> Check {
    stop(&f.lab, "hub", Signal::SIGKILL).await?;
    // Longer than the hold time: sessions are lost, routes are not.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let mut wrong = Vec::new();
    for site in &SITES {
        let routes = kernel_clients(&f.lab, site).await?;
        if routes != other_clients(site) {
            wrong.push(format!("{} has routes to {routes:?}", site.name));
        }
    }
    start(&f.lab, "hub").await?;
    eventually(LIMIT, || points::leaves_are_ready(&f.lab)).await?;
    eventually(LIMIT, || points::all_pairs_pass(&f.lab)).await?;
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

async fn reborn(f: Arc<Fabric>) -> Check {
    stop(&f.lab, "hub", Signal::SIGKILL).await?;
    stop(&f.lab, "aws-leaf", Signal::SIGKILL).await?;
    start(&f.lab, "aws-leaf").await?;
    let aws = SITES.iter().find(|site| site.name == "aws").ok_or("no aws site")?;
    let restored = eventually(LIMIT, || async {
        match kernel_clients(&f.lab, aws).await? {
            routes if routes == other_clients(aws) => Ok(()),
            routes => Err(format!("the restarted leaf has routes to {routes:?}")),
        }
    })
    .await;
    start(&f.lab, "hub").await?;
    eventually(LIMIT, || points::leaves_are_ready(&f.lab)).await?;
    eventually(LIMIT, || points::all_pairs_pass(&f.lab)).await?;
    restored.map(drop)
}
