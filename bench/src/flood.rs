//! A flooder beside honest clients: ten million prefixes against the reflector's prefix limit, again and again.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::driver::{Driver, State};
use crate::measure::Plan;
use crate::output;
use crate::paired::tables_exact;
use crate::reflector::{ADDRESS, ASN, Target};
use crate::scenarios::{self, Churn};
use crate::table::shown;
use crate::wire::{self, kind};
use crate::workload::{self, FLOOD, FLOODERS, TABLE_COLOUR, Workload};

/// What the flooder announces in each session, if it is let.
pub const PREFIXES: usize = 10_000_000;
/// How many of its sessions must have been ended by the limit in a run, at least.
const LEAST_CEASED: u64 = 3;
/// How much more memory a flooder may cost at the reflector's peak, in KiB: the shared log, which it fills, and 512
/// octets for each of its routes up to the limit.
fn memory_bound_kib(limit: usize) -> u64 {
    16 * 1024 + (limit * 512 / 1024) as u64
}
/// How long a run may take beyond its churn until the flooder has had its turns.
const MOST_MORE: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(5);
/// What is written at once.
const PIECE: usize = 64 * 1024;

/// What a flooder has done so far.
#[derive(Debug, Default)]
struct Counts {
    /// Prefixes that TCP took, over all sessions.
    written: AtomicU64,
    /// Sessions that came up.
    up: AtomicU64,
    /// Sessions that a NOTIFICATION 6/1 ended.
    ceased: AtomicU64,
    /// Sessions that the reflector ended without the flooder hearing why: it wrote on, and the reset of its connection
    /// overtook the NOTIFICATION.
    cut: AtomicU64,
    /// Times that the same address was turned away right afterwards.
    refused: AtomicU64,
    over: AtomicBool,
}

impl Counts {
    fn of(&self, count: &AtomicU64) -> u64 {
        count.load(Ordering::Relaxed)
    }

    fn add(&self, count: &AtomicU64, more: u64) {
        count.fetch_add(more, Ordering::Relaxed);
    }

    fn over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn enough(&self) -> bool {
        self.of(&self.written) >= PREFIXES as u64 && self.of(&self.ceased) >= LEAST_CEASED
    }
}

/// A flooder in a thread of its own: it comes back from the same address at once, and from the next one when it is
/// turned away, with the same prefixes each time.
#[derive(Debug)]
struct Flooder {
    counts: Arc<Counts>,
    thread: JoinHandle<io::Result<()>>,
}

impl Flooder {
    fn start(workload: &Workload) -> Flooder {
        let counts = Arc::new(Counts::default());
        let (shared, workload) = (Arc::clone(&counts), *workload);
        let thread = std::thread::spawn(move || {
            for client in FLOODERS..workload::CLIENTS {
                if shared.over() {
                    break;
                }
                let updates = updates(&workload, client);
                session(client, &updates, &shared)?;
                if !shared.over() && dial(client).is_ok_and(|mut stream| open(&mut stream, client).is_err()) {
                    shared.add(&shared.refused, 1);
                }
            }
            Ok(())
        });
        Flooder { counts, thread }
    }
}

/// All that a flooder announces, encoded. Each comes under attributes of its own, its identifier among them.
fn updates(workload: &Workload, client: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let hosts = (0..PREFIXES).map(|i| FLOOD + i as u32);
    wire::announce(&mut out, &workload.sent(client, TABLE_COLOUR).encode(), hosts);
    out
}

fn dial(client: usize) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::from((workload::source(client), 0)).into())?;
    socket.connect_timeout(&SocketAddr::V4(ADDRESS).into(), ANSWER)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    Ok(stream)
}

/// Brings a session up; an error: it was turned away.
fn open(stream: &mut TcpStream, client: usize) -> io::Result<Vec<u8>> {
    stream.write_all(&wire::open(ASN, 180, workload::identifier(client), None))?;
    stream.write_all(&wire::keepalive())?;
    let (mut got, mut buffer, mut opened) = (Vec::new(), [0; 4096], false);
    loop {
        while let Some((message, len)) = wire::frame(&got).map_err(io::Error::other)? {
            let what = message.kind;
            got.drain(..len);
            match what {
                kind::OPEN => opened = true,
                kind::KEEPALIVE if opened => return Ok(got),
                _ => return Err(io::Error::other(format!("message {what} instead of a session"))),
            }
        }
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => got.extend_from_slice(&buffer[..n]),
        }
    }
}

/// One session: up, then all prefixes as fast as TCP takes them, until the reflector ends it.
fn session(client: usize, updates: &[u8], counts: &Counts) -> io::Result<()> {
    let mut stream = dial(client)?;
    let rest = open(&mut stream, client)?;
    counts.add(&counts.up, 1);
    let mut reading = stream.try_clone()?;
    let reader = std::thread::spawn(move || until_end(&mut reading, rest));
    let (mut written, mut broken) = (0, false);
    for piece in updates.chunks(PIECE) {
        // An error is the reflector's end of the session; the reader knows why.
        broken = stream.write_all(piece).is_err();
        if broken || counts.over() {
            break;
        }
        written += piece.len();
    }
    counts.add(&counts.written, (written as f64 / updates.len() as f64 * PREFIXES as f64) as u64);
    if counts.over() {
        let _ = stream.shutdown(Shutdown::Both);
    }
    let end = reader.join().map_err(|_| io::Error::other("the flooder's reader panicked"))?;
    match end {
        Some([6, 1]) => counts.add(&counts.ceased, 1),
        None if broken => counts.add(&counts.cut, 1),
        _ => {}
    }
    Ok(())
}

/// Reads until the session ends; the NOTIFICATION's code and subcode, if there was one.
fn until_end(stream: &mut TcpStream, mut got: Vec<u8>) -> Option<[u8; 2]> {
    let mut buffer = vec![0; PIECE];
    loop {
        let mut at = 0;
        while let Some((message, len)) = wire::frame(&got[at..]).ok()? {
            if message.kind == kind::NOTIFICATION {
                return message.body.first_chunk().copied();
            }
            at += len;
        }
        got.drain(..at);
        match stream.read(&mut buffer).ok()? {
            0 => return None,
            n => got.extend_from_slice(&buffer[..n]),
        }
    }
}

/// What the flooder did in one run: prefixes written; sessions up, ended by the limit in its hearing, ended without
/// it, and turned away afterwards.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Turns {
    written: u64,
    up: u64,
    ceased: u64,
    cut: u64,
    refused: u64,
}

/// What one run gave.
#[derive(Debug, Clone, PartialEq)]
struct Run {
    cold_s: f64,
    churn_per_s: f64,
    peak_kib: u64,
    exact: bool,
    up: usize,
    left: usize,
    most: usize,
    note: String,
    flood: Turns,
}

/// One run without a flooder and one with, a fresh reflector each, with this prefix limit for all neighbours. The
/// honest must keep their sessions and have exact tables, without a route of the flooder in the end and never with more
/// than its limit; the flooder must be ended by the limit and turned away; the reflector's peak memory has its bound.
///
/// # Errors
/// When a run cannot begin.
pub fn flood(target: &Target, plan: &Plan, limit: usize, dir: &Path) -> io::Result<Vec<(bool, String)>> {
    let target = Target { peers_extra: format!("  maxPrefixes: {limit}\n"), ..target.clone() };
    let mut runs = Vec::new();
    for with in [false, true] {
        let work = dir.join(format!("flood-{with}"));
        let one = run(&target, plan, with.then_some(limit), &work)?;
        std::fs::remove_dir_all(&work)?;
        output::note(&format!(
            "{} a flooder: cold {}, churn {}, peak {} KiB{}",
            if with { "with" } else { "without" },
            shown("all_s", one.cold_s),
            shown("per_s", one.churn_per_s),
            one.peak_kib,
            one.note
        ));
        runs.push(one);
    }
    Ok(judge(&runs[0], &runs[1], plan.n, limit))
}

fn judge(without: &Run, with: &Run, n: usize, limit: usize) -> Vec<(bool, String)> {
    let good = [without, with].iter().filter(|r| r.exact && r.up == n && r.left == 0).count();
    let Turns { written, up, ceased, cut, refused } = with.flood;
    let more = with.peak_kib.saturating_sub(without.peak_kib);
    let (millions, bound, most) = (written as f64 / 1e6, memory_bound_kib(limit), with.most);
    vec![
        (
            good == 2,
            format!("{good} of 2 runs: all {n} others up, their tables exact, no route of the flooder left"),
        ),
        (
            // The last session may have been the flooder's own to end.
            written >= PREFIXES as u64 && ceased >= LEAST_CEASED && cut <= ceased && up - ceased - cut <= 1,
            format!(
                "{millions:.1} million prefixes written in {up} sessions, {ceased} ended by 6/1, {cut} reset before \
                 the flooder had read it"
            ),
        ),
        (
            most <= limit,
            format!("{most} of its routes at once at most with an honest client (limit {limit})"),
        ),
        (refused + 1 >= ceased + cut, format!("turned away {refused} times when it came back at once")),
        (more <= bound, format!("its memory at the reflector's peak: {more} KiB (bound {bound} KiB)")),
    ]
}

fn run(target: &Target, plan: &Plan, limit: Option<usize>, dir: &Path) -> io::Result<Run> {
    let reflector = target.start(dir)?;
    let workload = plan.workload();
    let mut driver = Driver::new(workload, 0, ADDRESS)?;
    driver.judge.flood_limit = limit;
    if !driver.bring_up(0..plan.n, 8, Instant::now() + plan.effort.give_up) {
        return Err(io::Error::other(format!("only {} of {} sessions came up", driver.up, plan.n)));
    }
    driver.note = None;
    driver.settle(Duration::from_millis(300), Duration::from_secs(2));
    reflector.reset_peak();
    let flooder = limit.map(|_| Flooder::start(&workload));
    let cold_s = scenarios::cold(&mut driver, plan.effort.give_up).map_err(io::Error::other)?;
    let (churn_per_s, wound) = churn(&mut driver, plan, flooder.as_ref().map(|f| &*f.counts));
    let flood = match flooder {
        Some(flooder) => end(flooder, &mut driver)?,
        None => Turns::default(),
    };
    let held = |d: &Driver| d.clients[..plan.n].iter().map(|c| c.held.flood.len()).sum::<usize>();
    driver.until(Instant::now() + ANSWER, |d| held(d) == 0);
    driver.settle(Duration::from_millis(300), Duration::from_secs(2));
    let faults: String =
        driver.judge.faults.seen().map(|(name, count)| format!("; {count} {name}")).collect();
    let lost = wound.as_ref().err().into_iter().chain(&driver.note).map(|w| format!("; {w}"));
    Ok(Run {
        cold_s,
        churn_per_s,
        peak_kib: reflector.usage().peak_kib,
        exact: tables_exact(&driver, plan) && wound.is_ok() && driver.judge.faults.none_wrong(),
        up: driver.clients[..plan.n].iter().filter(|c| c.state == State::Up).count(),
        left: held(&driver),
        most: driver.judge.flood_most,
        note: faults + &lost.collect::<String>(),
        flood,
    })
}

/// Churn until its time is over and the flooder has had its turns.
fn churn(driver: &mut Driver, plan: &Plan, counts: Option<&Counts>) -> (f64, Result<(), String>) {
    driver.quick_ack = true;
    driver.judge.seen.clear();
    let mut churn = Churn::new(driver, plan.n - 1);
    let start = Instant::now();
    driver.until(start + plan.effort.churn + MOST_MORE, |d| {
        churn.step(d, true);
        start.elapsed() >= plan.effort.churn && counts.is_none_or(Counts::enough)
    });
    let rate = churn.deliveries as f64 / start.elapsed().as_secs_f64();
    (rate, scenarios::wind_down(driver, &mut churn, Duration::from_secs(20)))
}

/// Ends the flooder; the clients are served until it has gone.
fn end(flooder: Flooder, driver: &mut Driver) -> io::Result<Turns> {
    flooder.counts.over.store(true, Ordering::Relaxed);
    driver.until(Instant::now() + 3 * ANSWER, |_| flooder.thread.is_finished());
    flooder.thread.join().map_err(|_| io::Error::other("the flooder panicked"))??;
    let counts = &flooder.counts;
    Ok(Turns {
        written: counts.of(&counts.written),
        up: counts.of(&counts.up),
        ceased: counts.of(&counts.ceased),
        cut: counts.of(&counts.cut),
        refused: counts.of(&counts.refused),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each thing that may go wrong turns its own check red.
    #[test]
    fn each_check_can_fail() {
        let calm = Run {
            cold_s: 0.1,
            churn_per_s: 1e6,
            peak_kib: 50_000,
            exact: true,
            up: 5,
            left: 0,
            most: 0,
            note: String::new(),
            flood: Turns::default(),
        };
        let turns =
            |written, [up, ceased, cut, refused]: [u64; 4]| Turns { written, up, ceased, cut, refused };
        let flooded = Run { flood: turns(12_000_000, [9, 7, 1, 8]), peak_kib: 60_000, ..calm.clone() };
        let red = |with: Run| {
            let checks = judge(&calm, &with, 5, 1000);
            checks.iter().position(|(good, _)| !good)
        };
        assert_eq!(red(flooded.clone()), None);
        assert_eq!(red(Run { exact: false, ..flooded.clone() }), Some(0));
        assert_eq!(red(Run { up: 4, ..flooded.clone() }), Some(0));
        assert_eq!(red(Run { left: 1, ..flooded.clone() }), Some(0));
        assert_eq!(red(Run { flood: turns(9_000_000, [9, 7, 1, 8]), ..flooded.clone() }), Some(1));
        assert_eq!(red(Run { flood: turns(12_000_000, [9, 6, 1, 7]), ..flooded.clone() }), Some(1));
        assert_eq!(red(Run { flood: turns(12_000_000, [9, 4, 5, 8]), ..flooded.clone() }), Some(1));
        assert_eq!(red(Run { flood: turns(12_000_000, [2, 2, 0, 2]), ..flooded.clone() }), Some(1));
        assert_eq!(red(Run { most: 1001, ..flooded.clone() }), Some(2));
        assert_eq!(red(Run { flood: turns(12_000_000, [9, 7, 1, 3]), ..flooded.clone() }), Some(3));
        assert_eq!(red(Run { peak_kib: 50_001 + memory_bound_kib(1000), ..flooded }), Some(4));
    }
}
