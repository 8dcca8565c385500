//! A lab with two hubs as they are shipped, one joined by the other's string: every pair works, and a leaf that the
//! second hub revokes is gone at both. The times are printed.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fabric_tests::Check;
use fabric_tests::ask::{eventually, json, kernel_clients, note, now_secs, ping, site};
use fabric_tests::harness::{Fabric, case, main_with};
use fabric_tests::hubs::{LIMIT, served_by_both};
use lab::MatrixOptions;
use lab::layout::Hubs;

/// Longest time of each effect of a revocation, seconds.
const SECOND: f64 = 1.0;

fn main() -> ExitCode {
    let cases = vec![
        case("every_pair_works_with_two_hubs", matrix),
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
