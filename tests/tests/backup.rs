//! A hub on a new machine: the lab's hub is backed up, goes on, is killed and wiped, and comes back out of one file.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use fabric_tests::ask::{eventually, json, routerctl, start, stop};
use fabric_tests::harness::{Fabric, case, main as run};
use fabric_tests::{Check, points};
use lab::layout::{Node, SITES};
use nix::sys::signal::Signal;

/// Longest time until all is as before.
const LIMIT: Duration = Duration::from_secs(40);
const PASSPHRASE: &str = "correct horse battery staple\n";

fn main() -> ExitCode {
    run(
        "bak",
        vec![case("a_wiped_hub_comes_back_out_of_one_file_and_no_leaf_enrolls_again", |f| async move {
            restored(f).await
        })],
    )
}

async fn restored(f: Arc<Fabric>) -> Check {
    let root = f.lab.node_dir(&Node::Hub);
    let file = f.lab.dir().join("hub.backup").display().to_string();
    let overlays = overlays(&f).await?;
    answered(&f, "hub", "invite --site late", None).await?;
    answered(&f, "hub", &format!("backup {file} --passphrase-file -"), Some(PASSPHRASE)).await?;

    // The hub goes on after the backup: a leaf's counter and the claims' numbers are ahead of what will be restored.
    answered(&f, "aws-leaf", "claims add 10.81.10.21", None).await?;
    answered(&f, "aws-leaf", "claims release 10.81.10.21", None).await?;
    stop(&f.lab, "hub", Signal::SIGKILL).await?;
    for folder in ["etc/fabric", "var/lib/fabric", "run/fabric"] {
        std::fs::remove_dir_all(root.join(folder)).map_err(|e| format!("{folder}: {e}"))?;
    }
    let restore = format!("restore {file} --passphrase-file - --no-start");
    let dry = answered(&f, "hub", &format!("{restore} --dry-run -o json"), Some(PASSPHRASE)).await?;
    if !dry.contains("\"changed\": false") || root.join("etc/fabric").exists() {
        return Err(format!("the dry run wrote something: {dry}"));
    }
    answered(&f, "hub", &restore, Some(PASSPHRASE)).await?;
    start(&f.lab, "hub").await?;

    eventually(LIMIT, || points::four_dynamic_peers(&f.lab)).await?;
    eventually(LIMIT, || points::leaves_are_ready(&f.lab)).await?;
    eventually(LIMIT, || points::hub_accepts_exactly_the_clients(&f.lab)).await?;
    eventually(LIMIT, || points::all_pairs_pass(&f.lab)).await?;
    settled(&f, &overlays).await
}

/// What the restored hub says of its leaves and invites.
async fn settled(f: &Fabric, overlays: &[String]) -> Check {
    let now = self::overlays(f).await?;
    if now != overlays {
        return Err(format!("the leaves were {overlays:?} and are {now:?}"));
    }
    let invites = json(&f.lab, "hub", "invite list").await?;
    let open: Vec<_> = invites.as_array().into_iter().flatten().filter(|i| i["status"] == "open").collect();
    if !open.is_empty() {
        return Err(format!("these invites are open: {open:?}"));
    }
    let audit = answered(f, "hub", "audit list", None).await?;
    if !audit.contains("restored") {
        return Err(format!("the log does not say that the hub was restored: {audit}"));
    }
    answered(f, "hub", "audit verify", None).await?;
    let again = routerctl(&f.lab, "hub", "restore /nonexistent", None).await?;
    if again.ok() { Err("a file that is not there was restored".into()) } else { Ok(()) }
}

/// Each leaf with its address and the time that it enrolled.
async fn overlays(f: &Fabric) -> Result<Vec<String>, String> {
    let leaves = json(&f.lab, "hub", "leaves").await?;
    let leaf = |leaf: &serde_json::Value| {
        format!("{} {} {} {}", leaf["name"], leaf["overlay"], leaf["enrolledAt"], leaf["signingKey"])
    };
    let leaves: Vec<String> = leaves.as_array().into_iter().flatten().map(leaf).collect();
    if leaves.len() == SITES.len() { Ok(leaves) } else { Err(format!("the leaves are {leaves:?}")) }
}

/// What a `routerctl` command says; it must end well.
async fn answered(f: &Fabric, node: &str, line: &str, input: Option<&str>) -> Result<String, String> {
    let output = routerctl(&f.lab, node, line, input).await?;
    match output.ok() {
        true => Ok(output.stdout),
        false => Err(format!("routerctl {line} on {node}: {}", output.detail())),
    }
}
