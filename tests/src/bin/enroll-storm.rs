//! Loads a running hub with enrollments through its real leaf API, and prints how long they took.
//!
//! `enroll-storm ROOT STORM SEQUENCE`: the hub below ROOT gets STORM machines at once, then SEQUENCE more one after the
//! other. It runs where the foyer's addresses can be bound (scripts/enroll-storm gives them to a loopback of its own);
//! every request then comes from the address that the invite names, as it does out of a foyer tunnel. Exit status 1
//! when a machine is refused, when the 99th percentile of a request at once is 200 ms or more, or when the last tenth of
//! the sequence takes more than twice the time of the first.
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use control::wire::{InviteAnswer, NewInvite};
use control::{Client, Node, Paths};
use enrollment::invite::Invite;
use enrollment::io::client::{self, HubApi};
use enrollment::io::keys::NodeKeys;

/// Longest 99th percentile of an enrollment at once.
const P99: Duration = Duration::from_millis(200);
/// Machines that share an invite in the sequence: below what one source may ask at once.
const SHARE: u32 = 50;

async fn invite(hub: &Client, site: String, uses: u32) -> Result<Invite, String> {
    let new = NewInvite {
        site,
        permitted: Vec::new(),
        max_claims: None,
        expires_secs: 3600,
        uses,
        sources: Vec::new(),
        approve: false,
        replace: false,
    };
    let answer: InviteAnswer = hub.post("/v1/invites", &new).await.map_err(|e| e.to_string())?;
    Invite::decode(&answer.invite).map_err(|e| e.to_string())
}

/// One machine joins; how long its request took, from connecting to the answer.
async fn join(invite: &Invite, n: u32) -> Result<Duration, String> {
    let keys = NodeKeys::generate().map_err(|e| e.to_string())?;
    let mut api = HubApi::of_invite(invite);
    api.answer_timeout = Duration::from_secs(30);
    let claim = std::net::Ipv4Addr::from_bits(0x0a50_0000 + n);
    let begin = Instant::now();
    client::enroll(&api, invite, &keys, &[claim]).await.map_err(|e| format!("machine {n}: {e}"))?;
    Ok(begin.elapsed())
}

/// Prints a line; where nobody reads it, nothing is lost.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn registry_octets(paths: &Paths) -> u64 {
    let size = |path: PathBuf| std::fs::metadata(path).map_or(0, |meta| meta.len());
    let file = paths.registry();
    size(file.with_extension("sqlite-wal")) + size(file)
}

async fn at_once(hub: &Client, count: u32) -> Result<bool, String> {
    let mut invites = Vec::new();
    for n in 0..count {
        invites.push(Arc::new(invite(hub, format!("storm-{n}"), 1).await?));
    }
    let begin = Instant::now();
    let mut jobs = tokio::task::JoinSet::new();
    for (n, invite) in (0..).zip(invites) {
        jobs.spawn(async move { join(&invite, n).await });
    }
    let outcomes = jobs.join_all().await;
    let whole = begin.elapsed();
    for refused in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
        tell(&format!("refused: {refused}"));
    }
    let mut times: Vec<Duration> = outcomes.into_iter().filter_map(Result::ok).collect();
    times.sort();
    let at = |part: f64| times.get(((times.len() as f64 * part).ceil() as usize).saturating_sub(1)).copied();
    let (p50, p99) = (at(0.5).unwrap_or_default(), at(0.99).unwrap_or(Duration::MAX));
    let (good, slowest) = (times.len(), times.last().copied().unwrap_or_default());
    tell(&format!(
        "{count} at once: {good} admitted in {:.0} ms; a request: median {:.1} ms, p99 {:.1} ms, slowest {:.1} ms",
        ms(whole),
        ms(p50),
        ms(p99),
        ms(slowest)
    ));
    Ok(good == count as usize && p99 < P99)
}

async fn in_sequence(hub: &Client, paths: &Paths, count: u32) -> Result<bool, String> {
    let tenth = (count / 10).max(1);
    let mut means = Vec::new();
    let (mut grown, mut part, mut open) = (registry_octets(paths), Duration::ZERO, None);
    for n in 0..count {
        if n % SHARE == 0 {
            open = Some(invite(hub, format!("seq-{n}"), SHARE.min(count - n).max(2)).await?);
        }
        let invite = open.as_ref().ok_or("no invite")?;
        part += join(invite, 100_000 + n).await?;
        if (n + 1) % tenth == 0 {
            let size = registry_octets(paths);
            let mean = part / tenth;
            tell(&format!(
                "{:>5} in sequence: {:.2} ms each, registry {:.1} KiB ({:+.0} octets each)",
                n + 1,
                ms(mean),
                size as f64 / 1024.0,
                (size as f64 - grown as f64) / f64::from(tenth)
            ));
            means.push(mean);
            (grown, part) = (size, Duration::ZERO);
        }
    }
    let (first, last) =
        (means.first().copied().unwrap_or_default(), means.last().copied().unwrap_or_default());
    Ok(last <= 2 * first)
}

async fn storm(root: &Path, count: u32, sequence: u32) -> Result<bool, String> {
    let paths = Paths::below(Some(root));
    let hub = Client::new(&paths, Node::Hub);
    let quick = at_once(&hub, count).await?;
    let flat = in_sequence(&hub, &paths, sequence).await?;
    Ok(quick && flat)
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let numbers = || Some((words.get(1)?.parse::<u32>().ok()?, words.get(2)?.parse::<u32>().ok()?));
    let (Some(root), Some((count, sequence))) = (words.first(), numbers()) else {
        tell("enroll-storm ROOT STORM SEQUENCE");
        return ExitCode::from(2);
    };
    let Ok(runtime) = tokio::runtime::Builder::new_multi_thread().enable_all().build() else {
        return ExitCode::FAILURE;
    };
    match runtime.block_on(storm(Path::new(root), count, sequence)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            tell("not good enough");
            ExitCode::FAILURE
        }
        Err(error) => {
            tell(&error);
            ExitCode::FAILURE
        }
    }
}
