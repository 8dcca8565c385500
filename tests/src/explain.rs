//! `routerctl route explain` on a running lab: what it says is held against what `ip route` and the hub say.

use lab::Lab;
use lab::layout::SITES;
use serde_json::Value;

use crate::Check;
use crate::ask::{exec, json, leaf, routerctl};

/// Every leaf explains every other client: chosen, its next hop resolves through the hub's tunnel, and the kernel's
/// route is the one that `ip route` shows. The hub says where it came from and that the other three were told.
pub async fn routes_are_explained(lab: &Lab) -> Check {
    for site in &SITES {
        let own = json(lab, &leaf(site), &format!("route explain {}", site.client)).await?;
        want(&own, "/candidates/0/peer", "local")?;
        want(&own, "/kernel/state", "not-needed")?;
        for other in site.others() {
            let seen = json(lab, &leaf(site), &format!("route explain {}", other.client)).await?;
            want(&seen, "/candidates/0/verdict", "chosen")?;
            want(&seen, "/nextHops/0/state", "resolved")?;
            want(&seen, "/kernel/state", "yes")?;
            let prefix = format!("{}/32", other.client);
            want(&seen, "/kernel/routes/0/prefix", &prefix)?;
            let device = seen.pointer("/kernel/routes/0/device").and_then(Value::as_str).unwrap_or_default();
            let shown = exec(lab, &leaf(site), &format!("ip -4 route show {prefix}")).await?;
            if !shown.contains(&format!("dev {device} ")) {
                return Err(format!("{}: explain says {device}, ip route says {shown}", site.name));
            }
            // The owner is named once: by the kernel's own tunnel, or by the process that wraps.
            let owner = seen.pointer("/candidates/0/nextHop").and_then(Value::as_str).unwrap_or_default();
            let by_kernel = seen.pointer("/kernel/routes/0/tunnelTo");
            let by_process = seen.pointer("/kernel/wrappedTo");
            let named = [by_kernel, by_process].into_iter().flatten().filter_map(Value::as_str);
            if named.collect::<Vec<_>>() != [owner] {
                return Err(format!("{}: nobody wraps to {owner}: {}", site.name, seen["kernel"]));
            }
        }
        let hub = json(lab, "hub", &format!("route explain {}", site.client)).await?;
        want(&hub, "/candidates/0/peer", site.name)?;
        want(&hub, "/nextHops/0/state", "resolved")?;
        let mut told: Vec<&str> = site.others().map(|other| other.name).collect();
        told.sort_unstable();
        if hub["advertisedTo"] != Value::from(told) || hub["withheldFrom"][0]["peer"] != site.name {
            return Err(format!("the hub tells {} and not {}", hub["advertisedTo"], hub["withheldFrom"]));
        }
    }
    Ok(())
}

/// The hub says of a route that nobody owns: who sent it, why it is rejected, and that nobody is told.
pub async fn rejection_is_explained(lab: &Lab, route: &str, sender: &str) -> Check {
    let output = routerctl(lab, "hub", &format!("route explain {route} -o json"), None).await?;
    let seen: Value = serde_json::from_str(&output.stdout).map_err(|error| format!("no JSON: {error}"))?;
    if output.ok() {
        return Err(format!("exit status 0 for a rejected route: {seen}"));
    }
    want(&seen, "/candidates/0/peer", sender)?;
    want(&seen, "/candidates/0/rejected/reason", "not-owned")?;
    match seen["advertisedTo"].as_array() {
        Some(told) if told.is_empty() => Ok(()),
        _ => Err(format!("it is advertised to {}", seen["advertisedTo"])),
    }
}

fn want(answer: &Value, at: &str, wanted: &str) -> Check {
    match answer.pointer(at) {
        Some(found) if found == wanted => Ok(()),
        found => Err(format!("{at} is {found:?} and not {wanted}: {answer}")),
    }
}
