//! A lab with two hubs as they are shipped, one joined by the other's string: every pair works, and a leaf that the
//! second hub revokes is gone at both. The times are printed.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use fabric_tests::Check;
use fabric_tests::ask::{eventually, json, note, site, start, stop};
use fabric_tests::flow::{replace_in_place, rotate};
use fabric_tests::harness::{Fabric, case, main_with};
use fabric_tests::hubs::{LIMIT, changed_at_both, revoked_at, served_by_both, with_the_same_sessions};
use lab::MatrixOptions;
use lab::layout::Hubs;
use nix::sys::signal::Signal;

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
    with_the_same_sessions(&f, 9, || rotate(&f)).await
}

async fn replaced(f: Arc<Fabric>) -> Check {
    with_the_same_sessions(&f, 9, || replace_in_place(&f)).await
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

async fn revoked(f: Arc<Fabric>) -> Check {
    let others: Vec<_> = site("oci").others().collect();
    revoked_at(&f, site("oci"), "hub-2", &others).await
}
