//! A client that appears on one leaf is reachable from the other sites in under a second; one that is gone is gone
//! everywhere.

use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use fabric_tests::Check;
use fabric_tests::ask::{eventually, exec, json, kernel_clients, note, now_secs, ping, routerctl};
use fabric_tests::harness::{Fabric, case, main as run};
use lab::layout::{SITES, site};

/// The client that appears: a second address of the aws site's client machine.
const NEW: Ipv4Addr = Ipv4Addr::new(10, 81, 10, 21);
/// How often a client may appear until all hear it within a second.
const TRIES: usize = 3;
/// Longest time for anything that has no time of its own.
const LIMIT: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    run(
        "new",
        vec![
            case("observed_makes_a_client_reachable_from_three_sites_within_a_second", observed),
            case("observed_again_changes_nothing", again),
            case("observed_of_a_captured_client_is_no_claim", captured),
            case("expired_takes_the_route_away_everywhere", expired),
        ],
    )
}

async fn emit(f: &Fabric, what: &str, subject: Ipv4Addr) -> Check {
    let line = format!("federation event emit --type routerd.client.ipv4.{what} --subject {subject}");
    json(&f.lab, "aws-leaf", &line).await.map(drop)
}

async fn claims(f: &Fabric) -> Result<Vec<String>, String> {
    let answer = json(&f.lab, "hub", "claims").await?;
    let claims = answer.as_array().ok_or("claims: no list")?;
    Ok(claims
        .iter()
        .map(|claim| format!("{} {} {}", claim["address"], claim["owner"], claim["generation"]))
        .collect())
}

/// A machine that stands still for a moment is late by itself, so there are some tries; a fabric that is slow is late in
/// each. A try ends where it began: nobody has the client's route.
async fn observed(f: Arc<Fabric>) -> Check {
    exec(&f.lab, "aws-client", &format!("ip address add {NEW}/24 dev eth0")).await?;
    let mut late = Vec::new();
    while late.len() < TRIES {
        let Some(wrong) = heard_in_time(&f).await? else { return Ok(()) };
        note(&wrong);
        late.push(wrong);
        if late.len() < TRIES {
            emit(&f, "expired", NEW).await?;
            eventually(LIMIT, || gone(&f)).await?;
        }
    }
    Err(format!("in {TRIES} tries: {late:?}"))
}

/// Lets the client appear; gives who heard it too late.
async fn heard_in_time(f: &Fabric) -> Result<Option<String>, String> {
    let aws = site("aws").ok_or("no aws site")?;
    let mut pings = tokio::task::JoinSet::new();
    for other in aws.others() {
        let lab = f.lab.clone();
        pings.spawn(async move { (other.name, ping(&lab, other, NEW, 4, 20).await) });
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let begin = now_secs();
    emit(f, "observed", NEW).await?;
    let (mut heard, mut late) = (0, None);
    while let Some(done) = pings.join_next().await {
        let (name, replies) = done.map_err(|error| error.to_string())?;
        heard += 1;
        let Some(first) = replies?.into_iter().next() else {
            late = Some(format!("{name} hears nothing"));
            continue;
        };
        let waited_ms = (first - begin) * 1000.0;
        if !(0.0..1000.0).contains(&waited_ms) {
            late = Some(format!("{name} heard the client {waited_ms:.0} ms after it was observed"));
        }
    }
    if heard == 3 { Ok(late) } else { Err(format!("{heard} sites")) }
}

async fn again(f: Arc<Fabric>) -> Check {
    let before = claims(&f).await?;
    emit(&f, "observed", NEW).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let after = claims(&f).await?;
    if before == after && after.len() == 5 { Ok(()) } else { Err(format!("{before:?} became {after:?}")) }
}

/// No feedback loop: what a leaf captures for others is never its own client.
async fn captured(f: Arc<Fabric>) -> Check {
    let before = claims(&f).await?;
    let azure = site("azure").ok_or("no azure site")?.client;
    let line = format!("federation event emit --type routerd.client.ipv4.observed --subject {azure}");
    // Refused or stored as a fact: either way it must not become a claim.
    routerctl(&f.lab, "aws-leaf", &line, None).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let after = claims(&f).await?;
    if before == after { Ok(()) } else { Err(format!("{before:?} became {after:?}")) }
}

async fn expired(f: Arc<Fabric>) -> Check {
    emit(&f, "expired", NEW).await?;
    eventually(LIMIT, || gone(&f)).await?;
    match claims(&f).await?.len() {
        4 => Ok(()),
        count => Err(format!("{count} claims are left")),
    }
}

async fn gone(f: &Fabric) -> Check {
    for other in SITES.iter().filter(|site| site.name != "aws") {
        if kernel_clients(&f.lab, other).await?.contains(&NEW) {
            return Err(format!("{} still has the route", other.name));
        }
    }
    Ok(())
}
