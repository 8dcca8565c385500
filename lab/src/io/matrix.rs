//! Runs the matrix: every directed pair of clients, several at a time.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::error::LabError;
use crate::io::agent::Exchanged;
use crate::io::clients::{ssh, text};
use crate::io::lab::Lab;
use crate::io::run::{Output, words};
use crate::io::trace;
use crate::layout::{AGENT_PORT, Node, SITES, Site};
use crate::matrix::{Check, Matrix, Pair, source, ssh_source};

/// How to run the matrix.
#[derive(Debug, Clone)]
pub struct MatrixOptions {
    /// Pairs at the same moment, 1 to 12; 4 by default.
    pub parallel: usize,
    /// Longest time for each of ping, SSH and exchange, in seconds; 15 by default.
    pub limit_secs: u64,
    /// Whether the way of a pair that fails is watched; yes by default.
    pub trace: bool,
}

impl Default for MatrixOptions {
    fn default() -> Self {
        MatrixOptions { parallel: 4, limit_secs: 15, trace: true }
    }
}

impl Lab {
    /// Tries every directed pair of clients: ping, SSH, one MiB over TCP, and the source address seen.
    pub async fn matrix(&self, options: &MatrixOptions) -> Result<Matrix, LabError> {
        let begin = Instant::now();
        let room = Arc::new(Semaphore::new(options.parallel.clamp(1, 12)));
        let mut tasks = JoinSet::new();
        for (at, (from, to)) in pairs().enumerate() {
            let (lab, room, options) = (self.clone(), room.clone(), options.clone());
            tasks.spawn(async move {
                let _permit = room.acquire_owned().await;
                (at, try_pair(&lab, from, to, at, &options).await)
            });
        }
        let mut done = Vec::new();
        while let Some(result) = tasks.join_next().await {
            let (at, pair) = result.map_err(|error| LabError::Command {
                what: "a pair's task".into(),
                detail: error.to_string(),
            })?;
            done.push((at, pair?));
        }
        done.sort_by_key(|(at, _)| *at);
        let pairs = done.into_iter().map(|(_, pair)| pair).collect();
        Ok(Matrix::new(self.name().to_string(), pairs, millis(begin.elapsed())))
    }
}

fn pairs() -> impl Iterator<Item = (&'static Site, &'static Site)> {
    SITES.iter().flat_map(|from| from.others().map(move |to| (from, to)))
}

async fn try_pair(
    lab: &Lab,
    from: &'static Site,
    to: &'static Site,
    at: usize,
    options: &MatrixOptions,
) -> Result<Pair, LabError> {
    let limit = Duration::from_secs(options.limit_secs.max(1));
    // Three at once: each takes another road through the fabric's host, and a red pair costs one limit.
    let (ping, ssh, tcp) = tokio::join!(
        ping(lab, from, to, limit),
        session(lab, from, to, limit),
        exchange(lab, from, to, limit)
    );
    let seen = [ssh.1, tcp.1];
    let pair = Pair {
        ok: false,
        from: from.name.into(),
        to: to.name.into(),
        from_address: from.client,
        to_address: to.client,
        ping,
        ssh: ssh.0,
        tcp: tcp.0,
        source: source(from.client, &seen),
        last_seen: None,
    };
    let mut pair = pair.judged();
    if options.trace && !(pair.ping.ok && pair.ssh.ok && pair.tcp.ok) {
        // The pid's low bits keep two matrices on one lab apart.
        let identifier = ((std::process::id() as u16 & 0x0fff) << 4) | (at as u16 + 1);
        // Where small packets pass and sessions do not, large ones are watched.
        let payload = if pair.ping.ok { trace::LARGE } else { trace::SMALL };
        let verdict = trace::last_seen(lab, from, to, identifier, payload).await;
        pair.last_seen =
            Some(verdict.unwrap_or_else(|error| format!("its way could not be watched: {error}")));
    }
    Ok(pair)
}

async fn call(lab: &Lab, from: &'static Site, argv: &[String], limit: Duration) -> Result<Output, Check> {
    let begin = Instant::now();
    let failed = |error: String| Check::failed(Some(millis(begin.elapsed())), error);
    match lab.exec(&Node::Client(from).name(), argv, limit).await {
        Ok(output) if output.ok() => Ok(output),
        Ok(output) => Err(failed(output.detail())),
        Err(LabError::Timeout { secs, .. }) => Err(failed(format!("not done within {secs} s"))),
        Err(error) => Err(failed(error.to_string())),
    }
}

async fn ping(lab: &Lab, from: &'static Site, to: &'static Site, limit: Duration) -> Check {
    let (deadline, address) = (limit.as_secs().to_string(), to.client.to_string());
    let argv = words(["ping", "-n", "-q", "-c", "3", "-i", "0.05", "-w", &deadline, &address]);
    match call(lab, from, &argv, limit + Duration::from_secs(2)).await {
        Ok(output) => Check::passed(millis(output.elapsed)),
        Err(check) => match check.error.lines().find(|line| line.contains("packets transmitted")) {
            Some(line) => Check::failed(check.ms, line),
            None => check,
        },
    }
}

async fn session(
    lab: &Lab,
    from: &'static Site,
    to: &'static Site,
    limit: Duration,
) -> (Check, Option<Ipv4Addr>) {
    let argv = ssh(lab, to, limit.as_secs(), "echo \"$SSH_CONNECTION\"");
    match call(lab, from, &argv, limit + Duration::from_secs(2)).await {
        Ok(output) => match ssh_source(&output.stdout, to.client) {
            Ok(seen) => (Check::passed(millis(output.elapsed)), Some(seen)),
            Err(error) => (Check::failed(Some(millis(output.elapsed)), error), None),
        },
        Err(check) => (check, None),
    }
}

async fn exchange(
    lab: &Lab,
    from: &'static Site,
    to: &'static Site,
    limit: Duration,
) -> (Check, Option<Ipv4Addr>) {
    let (to, limit_ms) = (format!("{}:{AGENT_PORT}", to.client), millis(limit).to_string());
    let routerctl = text(&lab.bin("routerctl"));
    let argv = words([&routerctl, "lab-agent", "exchange", "--to", &to, "--limit-ms", &limit_ms]);
    match call(lab, from, &argv, limit + Duration::from_secs(2)).await {
        Ok(output) => match serde_json::from_str::<Exchanged>(output.stdout.trim()) {
            Ok(done) => (Check::passed(done.ms), Some(done.peer)),
            Err(error) => (Check::failed(Some(millis(output.elapsed)), error.to_string()), None),
        },
        Err(check) => (check, None),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
