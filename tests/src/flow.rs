//! A leaf gets fresh keys while a ping and a TCP stream go on.

use std::future::Future;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use lab::layout::Site;
use serde_json::Value;

use crate::Check;
use crate::ask::{client, json, note, ping, routerctl, site, words};
use crate::harness::Fabric;

/// What a ping from one client and a TCP stream to it came to.
#[derive(Debug)]
pub struct Flow {
    /// Pings without an answer.
    pub lost: usize,
    /// Longest time between two answers, seconds.
    pub gap: f64,
    /// Whether every line of the stream came.
    pub stream: bool,
}

impl std::fmt::Display for Flow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stream = if self.stream { "whole" } else { "BROKEN" };
        write!(f, "{} pings lost, longest gap {:.2} s, TCP stream {stream}", self.lost, self.gap)
    }
}

/// The begin of a Perl script that has `$s` connected to the address and port, once somebody listens there.
pub fn dialled(address: Ipv4Addr, port: u16) -> String {
    format!(
        "for (1..100) {{ last if $s = IO::Socket::INET->new(PeerAddr => '{address}:{port}', Timeout => 5); \
         select undef, undef, undef, 0.1 }} $s or die $!; $s->autoflush(1);"
    )
}

/// Pings every 20 ms from the client `here`, and a TCP stream to it, for some seconds, with the client `there`.
pub fn flow(
    f: &Arc<Fabric>,
    here: &'static Site,
    there: &'static Site,
    secs: u64,
) -> tokio::task::JoinHandle<Result<Flow, String>> {
    const EVERY_MS: u64 = 20;
    let f = f.clone();
    tokio::spawn(async move {
        let perl = |script: String| words("perl -MIO::Socket::INET -e").into_iter().chain([script]).collect();
        let (limit, lines) = (Duration::from_secs(secs + 20), secs * 10);
        let server: Vec<String> = perl(format!(
            "alarm {}; $l = IO::Socket::INET->new(LocalPort => 7007, Listen => 1, ReuseAddr => 1) or die $!; \
             $c = $l->accept; print while <$c>",
            secs + 15
        ));
        let (lab, at) = (f.lab.clone(), client(here));
        let far = tokio::spawn(async move { lab.exec(&at, &server, limit).await });
        let (pinging, to) = (f.clone(), there.client);
        let pinged = tokio::spawn(async move { ping(&pinging.lab, here, to, secs, EVERY_MS).await });
        let near: Vec<String> = perl(format!(
            "{} for (1..{lines}) {{ printf $s \"%04d%2000s\\n\", $_, 'x'; select undef, undef, undef, 0.1 }} close $s",
            dialled(here.client, 7007)
        ));
        f.lab.exec(&client(there), &near, limit).await.map_err(|e| e.to_string())?;
        let got = far.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        let replies = pinged.await.map_err(|e| e.to_string())??;
        let gap = replies.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
        let lost = ((secs * 1000 / EVERY_MS) as usize).saturating_sub(replies.len());
        Ok(Flow { lost, gap, stream: got.stdout.lines().count() as u64 == lines })
    })
}

/// The WireGuard key of a leaf, as a hub knows it.
///
/// # Errors
/// What the hub says instead.
pub async fn leaf_key(f: &Fabric, hub: &str, name: &str) -> Result<String, String> {
    let shown = json(&f.lab, hub, &format!("leaves show {name}")).await?;
    shown["wireguard_key"].as_str().map(String::from).ok_or_else(|| shown.to_string())
}

/// While `change` is made three times, a ping from aws and a TCP stream to it go on, and so do others between other sites:
/// not one packet is lost.
///
/// # Errors
/// What was noticed, or what failed.
pub async fn unnoticed<R>(f: &Arc<Fabric>, change: impl Fn() -> R) -> Check
where
    R: Future<Output = Check>,
{
    unnoticed_for(f, 9, change).await
}

/// The same with changes that take longer, while flows of so many seconds go on.
///
/// # Errors
/// What was noticed, or what failed.
pub async fn unnoticed_for<R>(f: &Arc<Fabric>, secs: u64, change: impl Fn() -> R) -> Check
where
    R: Future<Output = Check>,
{
    let before = leaf_key(f, "hub", "aws").await?;
    let own = flow(f, site("aws"), site("oci"), secs);
    let others = flow(f, site("pve"), site("azure"), secs);
    tokio::time::sleep(Duration::from_secs(2)).await;
    for _ in 0..3 {
        change().await?;
        tokio::time::sleep(Duration::from_millis(1500)).await;
    }
    let (own, others) = (own.await.map_err(|e| e.to_string())??, others.await.map_err(|e| e.to_string())??);
    if leaf_key(f, "hub", "aws").await? == before {
        return Err("the key is the old one".into());
    }
    let told = format!("of three changes: {own}; between other sites: {others}");
    let status = json(&f.lab, "aws-leaf", "status").await?;
    let fine = [own, others].iter().all(|flow| flow.stream && flow.lost == 0);
    note(&told);
    if fine && status["phase"] == "Ready" { Ok(()) } else { Err(told) }
}

/// An invite that the hub makes of this order.
///
/// # Errors
/// Why it made none.
pub async fn invited(f: &Fabric, line: &str) -> Result<String, String> {
    invited_at(f, "hub", line).await
}

/// An invite that one of the hubs makes of this order.
///
/// # Errors
/// Why it made none.
pub async fn invited_at(f: &Fabric, hub: &str, line: &str) -> Result<String, String> {
    let answer = json(&f.lab, hub, &format!("invite {line}")).await?;
    answer["invite"].as_str().map(String::from).ok_or_else(|| "the answer has no invite".into())
}

/// The aws leaf takes fresh keys.
///
/// # Errors
/// Why it did not.
pub async fn rotate(f: &Fabric) -> Check {
    json(&f.lab, "aws-leaf", "rotate").await.map(drop)
}

/// The aws machine enrolls in its own place; doing it again with the same invite changes nothing.
///
/// # Errors
/// Why it did not.
pub async fn replace_in_place(f: &Fabric) -> Check {
    replace_in_place_by(f, "hub").await
}

/// The same by an invite that one of the hubs makes.
///
/// # Errors
/// Why it did not.
pub async fn replace_in_place_by(f: &Fabric, hub: &str) -> Check {
    let invite = invited_at(f, hub, "--replace aws").await?;
    let line = format!("{invite}\n");
    for changed in [true, false] {
        let done = routerctl(&f.lab, "aws-leaf", "enroll - --replace -o json", Some(&line)).await?;
        let said: Value =
            serde_json::from_str(&done.stdout).map_err(|e| format!("{e}: {}", done.detail()))?;
        if !done.ok() || said["changed"] != changed {
            return Err(format!("enroll --replace: {said}"));
        }
    }
    Ok(())
}
