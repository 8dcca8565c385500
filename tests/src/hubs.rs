//! Questions to a lab with two hubs.

use std::sync::Arc;
use std::time::Duration;

use lab::layout::Hubs;
use serde_json::Value;

use crate::Check;
use crate::ask::{eventually, json};
use crate::harness::Fabric;

/// Longest time for one step of the fabric.
pub const LIMIT: Duration = Duration::from_secs(30);

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
            let state = &status["replication"]["hubs"][0]["state"];
            if state != "in-step" {
                return Err(format!("{}: the other hub is {state}", hub.name()));
            }
            digests.push(status["replication"]["digest"].clone());
        }
        if digests[0].is_string() && digests[0] == digests[1] { Ok(()) } else { Err(format!("{digests:?}")) }
    };
    eventually(LIMIT, look).await
}
