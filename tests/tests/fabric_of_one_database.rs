//! A lab with two hubs that share a PostgreSQL: fresh keys agreed at either of them in turn end no session and break no
//! stream, and a leaf that either revokes is gone at both. The times are printed.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fabric_tests::Check;
use fabric_tests::ask::site;
use fabric_tests::flow::{replace_in_place_by, rotate};
use fabric_tests::harness::{Fabric, case, main_sharing};
use fabric_tests::hubs::{answered, asks_first, revoked_at, served_by_both, with_the_same_sessions};
use lab::layout::Hubs;
use scratch_postgres::Cluster;

/// How long the flows under three changes are, each of which is led to the other hub first.
const FLOW_SECS: u64 = 11;

fn main() -> ExitCode {
    let cases = vec![
        case("fresh_keys_from_either_hub_cost_nothing", rotated),
        case("enroll_replace_at_either_hub_costs_nothing", replaced),
        case("a_leaf_revoked_at_either_hub_is_gone_at_both_within_a_second", revoked),
    ];
    let listed = std::env::args().any(|word| word == "--list");
    let cluster = (!listed).then(Cluster::start);
    let registry = cluster.as_ref().map(|cluster| cluster.schema_url("fabric"));
    main_sharing("pg", Hubs::Two, registry, cases)
}

/// The hubs in turn, for as often as it is asked.
fn in_turn() -> impl Fn() -> String {
    let asked = AtomicUsize::new(0);
    move || {
        let hubs = Hubs::Two.nodes();
        hubs[asked.fetch_add(1, Ordering::Relaxed) % hubs.len()].name()
    }
}

async fn rotated(f: Arc<Fabric>) -> Check {
    let next = in_turn();
    let change = || async {
        let hub = next();
        asks_first(&f, &hub).await?;
        rotate(&f).await?;
        answered(&f, &hub).await
    };
    with_the_same_sessions(&f, FLOW_SECS, change).await
}

async fn replaced(f: Arc<Fabric>) -> Check {
    let next = in_turn();
    let change = || async {
        let hub = next();
        asks_first(&f, &hub).await?;
        replace_in_place_by(&f, &hub).await?;
        answered(&f, &hub).await
    };
    with_the_same_sessions(&f, FLOW_SECS, change).await
}

async fn revoked(f: Arc<Fabric>) -> Check {
    served_by_both(&f).await?;
    let [aws, azure, oci, pve] = ["aws", "azure", "oci", "pve"].map(site);
    revoked_at(&f, oci, "hub-2", &[aws, azure, pve]).await?;
    revoked_at(&f, azure, "hub", &[aws, pve]).await
}
