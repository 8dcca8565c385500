//! Loads a running hub with enrollments through its real leaf API, and prints how long they took.
//!
//! `enroll-storm ROOT STORM SEQUENCE [--counts]`: the hub below ROOT gets STORM machines at once, then SEQUENCE more one after the
//! other. It runs where the foyer's addresses can be bound (scripts/enroll-storm gives them to a loopback of its own);
//! every request then comes from the address that the invite names, as it does out of a foyer tunnel. Exit status 1
//! when a machine is refused or absent afterwards, when the 99th percentile of a request at once is 200 ms or more, or when
//! the median time of an enrollment, or the growth of the registry's file, is more than 1.5 times as much in the last
//! three tenths of the sequence as in the first three. With `--counts` times are printed and not judged.
use std::collections::BTreeSet;
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
use enrollment::view::{AuditReport, ClaimView, LeafView};

/// Longest 99th percentile of an enrollment at once.
const P99: Duration = Duration::from_millis(200);
/// How much longer the last part of the sequence may take, and how much faster the file may grow, than the first.
const FLAT: f64 = 1.2;
/// Machines that share an invite, and so its foyer address, in the sequence: each asks twice, and one source may ask 200
/// times at once. The next invite has another address: a spent one keeps its own for a while.
const SHARE: u32 = 20;

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
    let (p50, p99) = (at(&times, 0.5), at(&times, 0.99));
    let (good, slowest) = (times.len(), times.last().copied().unwrap_or_default());
    tell(&format!(
        "{count} at once: {good} admitted in {:.0} ms; a request: median {:.1} ms, p99 {:.1} ms, slowest {:.1} ms",
        ms(whole),
        ms(p50),
        ms(p99),
        ms(slowest)
    ));
    if good < count as usize {
        return Err(format!("{} of {count} were refused", count as usize - good));
    }
    Ok(p99 < P99)
}

/// The time below which this part of the sorted times is.
fn at(times: &[Duration], part: f64) -> Duration {
    let index = ((times.len() as f64 * part).ceil() as usize).saturating_sub(1);
    times.get(index).copied().unwrap_or_default()
}

/// One tenth of the sequence.
struct Tenth {
    median: Duration,
    grown: f64,
}

/// How many times as much as in the first three tenths something is in the last three. The file grows in steps of a
/// checkpoint of the write-ahead log, and a single tenth may have one more than another.
fn drift(tenths: &[Tenth], of: impl Fn(&Tenth) -> f64) -> f64 {
    let (few, count) = (tenths.len().min(3), tenths.len());
    let sum = |tenths: &[Tenth]| tenths.iter().map(&of).sum::<f64>();
    sum(&tenths[count - few..]) / sum(&tenths[..few]).max(f64::MIN_POSITIVE)
}

async fn in_sequence(hub: &Client, paths: &Paths, count: u32) -> Result<bool, String> {
    let tenth = (count / 10).max(1);
    let mut tenths = Vec::new();
    let mut times = Vec::new();
    let (mut size, mut open) = (registry_octets(paths), None);
    for n in 0..count {
        if n % SHARE == 0 {
            open = Some(invite(hub, format!("seq-{n}"), SHARE.min(count - n).max(2)).await?);
        }
        let invite = open.as_ref().ok_or("no invite")?;
        times.push(join(invite, 100_000 + n).await?);
        if (n + 1) % tenth == 0 {
            times.sort();
            let (median, now) = (at(&times, 0.5), registry_octets(paths));
            let grown = now.saturating_sub(size) as f64 / f64::from(tenth);
            tell(&format!(
                "{:>5} in sequence: median {:.2} ms, p99 {:.2} ms; registry {:.1} KiB ({grown:+.0} octets each)",
                n + 1,
                ms(median),
                ms(at(&times, 0.99)),
                now as f64 / 1024.0,
            ));
            tenths.push(Tenth { median, grown });
            size = now;
            times.clear();
        }
    }
    if tenths.is_empty() {
        return Ok(true);
    }
    let (time, growth) = (drift(&tenths, |t| ms(t.median)), drift(&tenths, |t| t.grown));
    tell(&format!("last three tenths against the first three: time x{time:.2}, growth x{growth:.2}"));
    Ok(time <= FLAT && growth <= FLAT)
}

/// Every machine is one leaf, and the log is whole.
async fn counted(hub: &Client, wanted: u32) -> Result<(), String> {
    let leaves: Vec<LeafView> = hub.get("/v1/leaves").await.map_err(|e| e.to_string())?;
    let claims: Vec<ClaimView> = hub.get("/v1/claims").await.map_err(|e| e.to_string())?;
    let report: AuditReport = hub.get("/v1/audit/verify").await.map_err(|e| e.to_string())?;
    let addresses: BTreeSet<_> = leaves.iter().map(|leaf| leaf.overlay).collect();
    let told = format!(
        "{} leaves, {} overlay addresses, {} claims; log: {} entries, {}",
        leaves.len(),
        addresses.len(),
        claims.len(),
        report.entries,
        report.fault.as_ref().map_or("whole", |fault| fault.why.as_str())
    );
    tell(&told);
    let all = [leaves.len(), addresses.len(), claims.len()].iter().all(|n| *n == wanted as usize);
    if all && report.fault.is_none() { Ok(()) } else { Err(format!("{wanted} of each were wanted")) }
}

async fn storm(root: &Path, count: u32, sequence: u32, judged: bool) -> Result<bool, String> {
    let paths = Paths::below(Some(root));
    let hub = Client::new(&paths, Node::Hub);
    let quick = at_once(&hub, count).await?;
    let flat = in_sequence(&hub, &paths, sequence).await?;
    counted(&hub, count + sequence).await?;
    Ok(!judged || (quick && flat))
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let numbers = || Some((words.get(1)?.parse::<u32>().ok()?, words.get(2)?.parse::<u32>().ok()?));
    let judged = match words.get(3).map(String::as_str) {
        None => Some(true),
        Some("--counts") => Some(false),
        Some(_) => None,
    };
    let (Some(root), Some((count, sequence)), Some(judged)) = (words.first(), numbers(), judged) else {
        tell("enroll-storm ROOT STORM SEQUENCE [--counts]");
        return ExitCode::from(2);
    };
    let Ok(runtime) = tokio::runtime::Builder::new_multi_thread().enable_all().build() else {
        return ExitCode::FAILURE;
    };
    match runtime.block_on(storm(Path::new(root), count, sequence, judged)) {
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
