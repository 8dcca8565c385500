//! Enrollment as a person meets it: quick, and with one reason code for each cause of a refusal.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use enrollment::identity::InviteId;
use enrollment::invite::Invite;
use fabric_tests::Check;
use fabric_tests::ask::{Guest, json, start, stop, words};
use fabric_tests::harness::{Fabric, case, main as run};
use lab::layout::SITES;
use nix::sys::signal::Signal;

/// Longest time that `enroll` may take in the lab, milliseconds.
const ENROLL_MS: u64 = 3000;
/// Longest time for one refused enrollment.
const LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    run(
        "enr",
        vec![
            case("enroll_takes_under_three_seconds_on_every_leaf", |f| async move { quick(&f) }),
            case("no_leaf_dials_before_its_address_is_there", |f| async move { first_dial(&f).await }),
            case("a_spent_invite_says_invite_spent", |f| async move {
                let invite = kept(&f, "aws")?;
                refused(f, invite, "", "invite-spent").await
            }),
            case("an_expired_invite_says_invite_expired", |f| async move {
                let invite = invited(&f, "--site late --expires 1s").await?;
                tokio::time::sleep(Duration::from_millis(1500)).await;
                refused(f, invite, "", "invite-expired").await
            }),
            case("a_damaged_invite_says_invite_malformed", |f| async move {
                let mut invite = invited(&f, "--site torn").await?;
                invite.pop();
                refused(f, invite, "", "invite-malformed").await
            }),
            case("an_invite_that_the_hub_does_not_know_says_invite_unknown", |f| async move {
                let mut invite =
                    Invite::decode(&invited(&f, "--site forged").await?).map_err(|e| e.to_string())?;
                invite.id = InviteId([0x5a; 8]);
                refused(f, invite.encode().to_string(), "", "invite-unknown").await
            }),
            case("a_claim_outside_the_permitted_prefixes_says_claim_not_permitted", |f| async move {
                let invite = invited(&f, "--site wide --permit 10.99.9.0/24").await?;
                refused(f, invite, "--client 10.81.10.77", "claim-not-permitted").await
            }),
            case("a_claim_that_another_leaf_owns_says_claim_conflict_and_names_the_owner", |f| async move {
                let invite = invited(&f, "--site thief --permit 10.81.10.0/24").await?;
                refused(f, invite, "--client 10.81.10.20", "claim-conflict aws").await
            }),
            case("refusals_left_the_hub_as_it_was", |f| async move { four_leaves(&f).await }),
        ],
    )
}

fn quick(f: &Fabric) -> Check {
    let slow = |site: &&lab::report::SiteReport| !site.ok || site.enroll_ms >= ENROLL_MS;
    match f.report.sites.iter().find(slow) {
        None if f.report.sites.len() == 4 => Ok(()),
        None => Err(format!("{} sites", f.report.sites.len())),
        Some(site) => {
            Err(format!("{} took {} ms: {:?} {:?}", site.site, site.enroll_ms, site.reason, site.steps))
        }
    }
}

/// A dial that fails for want of the overlay address costs a retry, which is half of what an enrollment takes.
async fn first_dial(f: &Fabric) -> Check {
    for site in &SITES {
        let node = format!("{}-leaf", site.name);
        let peers = json(&f.lab, &node, "bgp peers").await?;
        let failed = |peer: &&serde_json::Value| {
            peer["last_error"].as_str().is_some_and(|error| error.contains("assign requested address"))
        };
        let peers = peers.as_array().ok_or_else(|| format!("{node} says {peers}"))?;
        if let Some(peer) = peers.iter().find(failed) {
            return Err(format!("{node}: {peer}"));
        }
        if peers.is_empty() {
            return Err(format!("{node} has no peer"));
        }
    }
    Ok(())
}

fn kept(f: &Fabric, site: &str) -> Result<String, String> {
    let file = f.lab.dir().join("keys").join(format!("invite-{site}"));
    std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))
}

async fn invited(f: &Fabric, line: &str) -> Result<String, String> {
    let answer = json(&f.lab, "hub", &format!("invite {line}")).await?;
    answer["invite"].as_str().map(String::from).ok_or_else(|| "the answer has no invite".into())
}

/// A second machine in the place of the pve leaf tries to join; the answer must hold each of the words, and exit
/// status 1.
async fn refused(f: Arc<Fabric>, invite: String, options: &str, wanted: &str) -> Check {
    stop(&f.lab, "pve-leaf", Signal::SIGTERM).await?;
    let root = f.lab.dir().join(format!("stranger-{}", wanted.replace(' ', "-")));
    std::fs::create_dir_all(&root).map_err(|error| error.to_string())?;
    let root = root.display().to_string();
    let daemon = words(&format!("{} --root {root}", f.lab.bin("fabric-leaf").display()));
    let stranger = Guest::start(&f.lab, "pve-leaf", &daemon)?;
    let said = enroll(&f, &root, &invite, options).await;
    let ended = stranger.end().await;
    start(&f.lab, "pve-leaf").await?;
    let (code, said) = said?;
    ended?;
    let missing: Vec<&str> = wanted.split(' ').filter(|word| !said.contains(word)).collect();
    match (code, missing.is_empty()) {
        (Some(1), true) => Ok(()),
        _ => Err(format!("exit status {code:?}, {missing:?} not in: {said}")),
    }
}

async fn enroll(
    f: &Fabric,
    root: &str,
    invite: &str,
    options: &str,
) -> Result<(Option<i32>, String), String> {
    let socket = std::path::Path::new(root).join("run/fabric/leaf.sock");
    let begin = std::time::Instant::now();
    while tokio::net::UnixStream::connect(&socket).await.is_err() {
        if begin.elapsed() > Duration::from_secs(10) {
            return Err("the stranger's daemon does not answer".into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let routerctl = f.lab.bin("routerctl");
    let argv = words(&format!("{} --root {root} enroll - {options} -o json", routerctl.display()));
    let input = format!("{}\n", invite.trim());
    let output =
        f.lab.exec_with("pve-leaf", &argv, Some(&input), LIMIT).await.map_err(|error| error.to_string())?;
    Ok((output.code, format!("{}{}", output.stdout, output.stderr)))
}

async fn four_leaves(f: &Fabric) -> Check {
    let answer = json(&f.lab, "hub", "leaves").await?;
    let leaves: Vec<&str> =
        answer.as_array().into_iter().flatten().filter_map(|leaf| leaf["name"].as_str()).collect();
    let sites: Vec<&str> = SITES.iter().map(|site| site.name).collect();
    if leaves == sites { Ok(()) } else { Err(format!("the hub's leaves are {leaves:?}")) }
}
