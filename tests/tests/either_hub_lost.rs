//! A lab with two hubs as they are shipped: either is killed for good in turn while packets flow, and joining, claims and
//! fresh keys go on at the other; both are killed, and a leaf restarts meanwhile. What was lost is printed.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fabric_tests::Check;
use fabric_tests::ask::{
    eventually, json, kernel_clients, leaf, note, other_clients, ping, routerctl, site, start, stop, words,
};
use fabric_tests::flow::dialled;
use fabric_tests::harness::{Fabric, case, main_with};
use fabric_tests::hubs::{LIMIT, served_by_both};
use fabric_tests::stall::Stalls;
use lab::layout::{Hubs, Site};
use nix::sys::signal::Signal;

/// How long packets flow around a hub's death, seconds.
const FLOW_SECS: u64 = 10;
/// Between two pings, milliseconds.
const EVERY_MS: u64 = 50;
/// The longest gap of a flow whose path is not through the dead hub, seconds.
const SECOND: f64 = 1.0;
/// The longest gap of a flow that was over the dead hub, seconds.
const OVER_THE_DEAD: f64 = 5.0;
/// An address of the aws site that no client has.
const SPARE: &str = "10.81.10.77";

fn main() -> ExitCode {
    let cases = vec![
        case("the_second_hub_is_lost_and_returns", |f| lost(f, "hub-2", "hub")),
        case("the_first_hub_is_lost_and_returns", |f| lost(f, "hub", "hub-2")),
        case("both_hubs_are_lost_and_a_leaf_restarts", both_lost),
    ];
    main_with("lost", Hubs::Two, cases)
}

/// The overlay address of a hub.
async fn overlay(f: &Fabric, hub: &str) -> Result<String, String> {
    let status = json(&f.lab, hub, "status").await?;
    status["overlay"].as_str().map(String::from).ok_or_else(|| status.to_string())
}

/// Whether a leaf sends its packets by the hub at this overlay address.
async fn sends_by(f: &Fabric, site: &'static Site, hub: &str) -> Result<bool, String> {
    let status = json(&f.lab, &leaf(site), "status").await?;
    let hubs = status["hubs"].as_array().cloned().unwrap_or_default();
    Ok(hubs.iter().any(|h| h["overlay"] == hub && h["preferred"] == true))
}

/// Lines of a TCP stream that arrived, one every 100 ms, with the longest time between two of them, seconds.
async fn stream(f: Arc<Fabric>, from: &'static Site, to: &'static Site) -> Result<(usize, f64), String> {
    let perl = |script: String| -> Vec<String> {
        words("perl -MIO::Socket::INET -MTime::HiRes=time -e").into_iter().chain([script]).collect()
    };
    let server = perl(
        "alarm 25; $l = IO::Socket::INET->new(LocalPort => 7008, Listen => 1, ReuseAddr => 1) or die $!; \
         $c = $l->accept; while (<$c>) { printf \"%.3f\\n\", time }"
            .into(),
    );
    let (lab, far) = (f.lab.clone(), format!("{}-client", to.name));
    let far = tokio::spawn(async move { lab.exec(&far, &server, LIMIT).await });
    let lines = (FLOW_SECS - 1) * 10;
    let near = perl(format!(
        "alarm 25; {} for (1..{lines}) {{ printf $s \"%04d%1000s\\n\", $_, 'x'; select undef, undef, undef, 0.1 }} close $s",
        dialled(to.client, 7008)
    ));
    f.lab.exec(&format!("{}-client", from.name), &near, LIMIT).await.map_err(|e| e.to_string())?;
    let got = far.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    let times: Vec<f64> = got.stdout.lines().filter_map(|line| line.parse().ok()).collect();
    Ok((times.len(), longest(&times)))
}

fn longest(times: &[f64]) -> f64 {
    times.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max)
}

/// Kills a hub for good under two pings and a TCP stream, uses the other one for everything, and takes the dead one
/// back.
async fn lost(f: Arc<Fabric>, dead: &'static str, alive: &'static str) -> Check {
    served_by_both(&f).await?;
    let at = overlay(&f, dead).await?;
    let flows = [(site("aws"), site("oci")), (site("pve"), site("azure"))];
    let mut through = Vec::new();
    for (from, to) in flows {
        through.push(sends_by(&f, from, &at).await? || sends_by(&f, to, &at).await?);
    }
    let pings = flows.map(|(from, to)| {
        let f = f.clone();
        tokio::spawn(async move { ping(&f.lab, from, to.client, FLOW_SECS, EVERY_MS).await })
    });
    let streamed = tokio::spawn(stream(f.clone(), site("azure"), site("pve")));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let stalls = Stalls::watch();
    stop(&f.lab, dead, Signal::SIGKILL).await?;
    let used = all_goes_on(&f, alive).await;
    let mut gaps = Vec::new();
    for pinged in pings {
        let replies = pinged.await.map_err(|e| e.to_string())??;
        let sent = (FLOW_SECS * 1000 / EVERY_MS) as usize;
        gaps.push((longest(&replies), sent.saturating_sub(replies.len())));
    }
    let (lines, pause) = streamed.await.map_err(|e| e.to_string())??;
    let stood = stalls.allow(0.0);
    let way = |through: &bool| if *through { "over it" } else { "over the other hub" };
    let shown: Vec<String> = (gaps.iter().zip(&through))
        .map(|((gap, lost), through)| format!("{gap:.2} s {} ({lost} lost)", way(through)))
        .collect();
    note(&format!(
        "{dead} killed: longest gaps of the pings {}, of the TCP stream {pause:.2} s, {lines} of {} lines",
        shown.join(" and "),
        (FLOW_SECS - 1) * 10
    ));
    used?;
    start(&f.lab, dead).await?;
    let begin = Instant::now();
    served_by_both(&f).await?;
    note(&format!(
        "{dead} is back, every session and equal digests after {:.1} s",
        begin.elapsed().as_secs_f64()
    ));
    let claims = json(&f.lab, dead, "claims").await?;
    if claims.to_string().contains(SPARE) {
        return Err(format!("{dead} does not know that {SPARE} was released: {claims}"));
    }
    let limit = |through: &bool| stood + if *through { OVER_THE_DEAD } else { SECOND };
    let short = gaps.iter().zip(&through).all(|((gap, _), through)| *gap <= limit(through));
    let whole = lines == (FLOW_SECS as usize - 1) * 10;
    // A stream waits for TCP's own retransmission, which doubles its patience.
    match short && whole && pause <= 2.0 * (OVER_THE_DEAD + stood) {
        true => Ok(()),
        false => Err(format!(
            "{shown:?}, {pause:.2} s in the stream, {lines} lines; the machine stood still for {stood:.2} s"
        )),
    }
}

/// An invite, an enrollment, a claim and fresh keys while one hub is dead.
async fn all_goes_on(f: &Arc<Fabric>, alive: &str) -> Check {
    let begin = Instant::now();
    let invite = json(&f.lab, alive, "invite --site azure --permit 10.82.20.0/24").await?;
    let invite = invite["invite"].as_str().ok_or("no invite")?.to_string();
    let widened = routerctl(&f.lab, "azure-leaf", "enroll - -o json", Some(&format!("{invite}\n"))).await?;
    if !widened.ok() {
        return Err(format!("enrolling while a hub is dead: {}", widened.detail()));
    }
    let enrolled = begin.elapsed();
    json(&f.lab, "aws-leaf", &format!("claims add {SPARE}")).await?;
    let spare = SPARE.parse().map_err(|e| format!("{SPARE}: {e}"))?;
    let there = |wanted: bool| {
        move || async move {
            match kernel_clients(&f.lab, site("oci")).await?.contains(&spare) {
                has if has == wanted => Ok(()),
                has => Err(format!("oci: route to {SPARE}: {has}")),
            }
        }
    };
    eventually(LIMIT, there(true)).await?;
    let claimed = begin.elapsed() - enrolled;
    json(&f.lab, "aws-leaf", &format!("claims release {SPARE}")).await?;
    eventually(LIMIT, there(false)).await?;
    json(&f.lab, "pve-leaf", "rotate").await?;
    note(&format!(
        "meanwhile at {alive}: enrolled in {:.1} s, a claim was everywhere in {:.1} s, fresh keys",
        enrolled.as_secs_f64(),
        claimed.as_secs_f64()
    ));
    Ok(())
}

/// No hub at all: routes stay, and a leaf that is killed and started comes up with its last good state.
async fn both_lost(f: Arc<Fabric>) -> Check {
    served_by_both(&f).await?;
    let oci = site("oci");
    let before = kernel_clients(&f.lab, oci).await?;
    for hub in ["hub", "hub-2"] {
        stop(&f.lab, hub, Signal::SIGKILL).await?;
    }
    stop(&f.lab, "oci-leaf", Signal::SIGKILL).await?;
    start(&f.lab, "oci-leaf").await?;
    let as_it_was = || async {
        let now = kernel_clients(&f.lab, oci).await?;
        if now == before { Ok(()) } else { Err(format!("{now:?}, before {before:?}")) }
    };
    let took = eventually(LIMIT, as_it_was).await?;
    let kept = kernel_clients(&f.lab, site("aws")).await?;
    note(&format!(
        "both hubs dead: a restarted leaf has its {} routes after {:.1} s",
        before.len(),
        took.as_secs_f64()
    ));
    for hub in ["hub", "hub-2"] {
        start(&f.lab, hub).await?;
    }
    served_by_both(&f).await?;
    let heard = || async {
        let replies = ping(&f.lab, oci, site("aws").client, 1, 100).await?;
        if replies.is_empty() { Err("oci does not reach aws again".into()) } else { Ok(()) }
    };
    eventually(LIMIT, heard).await?;
    let all = before.is_superset(&other_clients(oci)) && kept.is_superset(&other_clients(site("aws")));
    if all { Ok(()) } else { Err(format!("{before:?} {kept:?}")) }
}
