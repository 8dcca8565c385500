//! The same load with and without a disturbance, in alternating runs: are the others moved?

use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::driver::{Driver, State};
use crate::measure::Plan;
use crate::output;
use crate::process::Awake;
use crate::reflector::{ADDRESS, Target};
use crate::scenarios::{self, Churn};
use crate::storm;
use crate::table::{cell, shown};

/// What disturbs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disturbance {
    /// One more client, which reads one octet a second. Without: it is not there.
    SlowClient,
    /// Connections from addresses that nobody admits, as fast as one process makes them. Without: the same process
    /// storms a listener of its own, so that it takes as much of the CPUs.
    Storm,
}

/// A storm of fewer connections in a run is none.
const LEAST_STORM: u64 = 200;

/// What one run gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Arm {
    /// Seconds until all undisturbed clients held everything.
    pub cold_s: f64,
    /// Deliveries a second in churn.
    pub churn_per_s: f64,
    /// The most memory of the reflector that was resident, in KiB.
    pub peak_kib: u64,
    /// Whether every undisturbed client's final table is exact and nothing was wrong.
    pub exact: bool,
    /// Sessions of undisturbed clients that are up at the end.
    pub up: usize,
    /// Connections that the storm made.
    pub stormed: u64,
    /// What is to be said besides.
    pub note: String,
}

/// The octets that a reflector may hold for one client that does not read, in KiB: the shared log's limit
/// (64 MiB of messages, doubled for what stands around each small one), and 128 octets for every route of the table.
pub fn memory_bound_kib(routes: usize) -> u64 {
    2 * 64 * 1024 + (routes * 128 / 1024) as u64
}

/// One run, with the disturbance or without.
///
/// # Errors
/// When the load cannot begin.
pub fn arm(target: &Target, plan: &Plan, what: Disturbance, with: bool, dir: &Path) -> io::Result<Arm> {
    let reflector = target.start(dir)?;
    let mut driver = Driver::new(plan.workload(), 1, ADDRESS)?;
    driver.settle(Duration::from_millis(300), Duration::from_secs(1));
    if what == Disturbance::SlowClient && with {
        driver.slow = Some(plan.n);
    }
    let all = plan.n + usize::from(driver.slow.is_some());
    if !driver.bring_up(0..all, 8, Instant::now() + plan.effort.give_up) {
        let note = driver.note.clone().unwrap_or_default();
        return Err(io::Error::other(format!("only {} of {all} sessions came up; {note}", driver.up)));
    }
    driver.note = None;
    let storm = (what == Disturbance::Storm).then(|| Storm::start(with)).transpose()?;
    let awake = Awake::start().ok();
    driver.settle(Duration::from_millis(500), Duration::from_secs(3));
    reflector.reset_peak();
    let cold_s = scenarios::cold(&mut driver, plan.effort.give_up).map_err(io::Error::other)?;
    driver.settle(Duration::from_millis(300), Duration::from_secs(2));
    let (churn_per_s, wound) = churn(&mut driver, plan);
    let peak_kib = reflector.usage().peak_kib;
    let stormed = storm.map_or(Ok(0), Storm::end)?;
    drop(awake);
    driver.settle(Duration::from_millis(200), Duration::from_secs(2));
    let digests = (0..plan.n)
        .all(|at| driver.clients[at].held.digest(&plan.workload()) == scenarios::wanted_digest(&driver, at));
    let up = driver.clients[..plan.n].iter().filter(|c| c.state == State::Up).count();
    let slow = match driver.slow {
        Some(at) => {
            format!("the slow one is {:?} and has read {} octets", driver.clients[at].state, driver.slow_read)
        }
        None => String::new(),
    };
    let faults: Vec<_> = driver.judge.faults.seen().collect();
    let note = format!("{slow} {wound:?} {faults:?}");
    let exact = digests && wound.is_ok() && driver.judge.faults.none_wrong();
    Ok(Arm { cold_s, churn_per_s, peak_kib, exact, up, stormed, note })
}

fn churn(driver: &mut Driver, plan: &Plan) -> (f64, Result<(), String>) {
    driver.quick_ack = true;
    driver.judge.seen.clear();
    let mut churn = Churn::new(driver, plan.n - 1);
    let start = Instant::now();
    driver.until(start + plan.effort.churn, |d| {
        churn.step(d, true);
        false
    });
    let rate = churn.deliveries as f64 / start.elapsed().as_secs_f64();
    (rate, scenarios::wind_down(driver, &mut churn, Duration::from_secs(20)))
}

/// This program in another process, storming.
#[derive(Debug)]
struct Storm(Child);

impl Storm {
    fn start(at_reflector: bool) -> io::Result<Storm> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--here", "storm"]);
        if !at_reflector {
            command.arg("--at-itself");
        }
        Ok(Storm(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?))
    }

    /// Ends it; how many connections it has made.
    fn end(mut self) -> io::Result<u64> {
        drop(self.0.stdin.take());
        let output = self.0.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        said.trim()
            .parse()
            .map_err(|_| io::Error::other(format!("the storm ended without a count: '{said}'")))
    }
}

/// What pairs of runs showed.
#[derive(Debug)]
pub struct Verdict {
    /// One line a check: whether it holds, and its figures.
    pub checks: Vec<(bool, String)>,
}

/// Runs pairs in alternating order. The undisturbed clients must keep exact tables and all their sessions, and a slow
/// client's memory its bound; with `timed`, the medians with and without may differ by `tolerance` at most.
///
/// # Errors
/// When a run cannot begin.
pub fn paired(
    target: &Target,
    plan: &Plan,
    what: Disturbance,
    (pairs, timed, tolerance): (usize, bool, f64),
    dir: &Path,
) -> io::Result<Verdict> {
    let mut arms: [Vec<Arm>; 2] = Default::default();
    for pair in 0..pairs {
        // With first in every other pair, so that a drift of the machine spoils neither.
        for with in [pair % 2 == 1, pair % 2 == 0] {
            let work = dir.join(format!("{pair}-{with}"));
            let one = arm(target, plan, what, with, &work)?;
            std::fs::remove_dir_all(&work)?;
            let words = if with { "with" } else { "without" };
            let (cold, churn) = (shown("all_s", one.cold_s), shown("per_s", one.churn_per_s));
            output::note(&format!(
                "pair {} {words}: cold {cold}, churn {churn}, peak {} KiB, {} connections of a storm; {}",
                pair + 1,
                one.peak_kib,
                one.stormed,
                one.note
            ));
            arms[usize::from(with)].push(one);
        }
    }
    Ok(judge(&arms, plan, what, timed.then_some(tolerance)))
}

fn judge(arms: &[Vec<Arm>; 2], plan: &Plan, what: Disturbance, tolerance: Option<f64>) -> Verdict {
    let [without, with] = arms;
    let mut checks = Vec::new();
    let good = arms.iter().flatten().filter(|a| a.exact && a.up == plan.n).count();
    let runs = without.len() + with.len();
    checks
        .push((good == runs, format!("{good} of {runs} runs: all {} others up, their tables exact", plan.n)));
    if what == Disturbance::SlowClient {
        let peak = |arms: &[Arm]| arms.iter().map(|a| a.peak_kib).max().unwrap_or_default();
        let (more, bound) = (peak(with).saturating_sub(peak(without)), memory_bound_kib(plan.n * plan.m));
        checks.push((more <= bound, format!("its memory at the reflector: {more} KiB (bound {bound} KiB)")));
    }
    if what == Disturbance::Storm {
        let least = arms.iter().flatten().map(|a| a.stormed).min().unwrap_or_default();
        checks.push((least >= LEAST_STORM, format!("at least {least} connections of the storm in each run")));
    }
    for (key, name, of) in [
        ("all_s", "cold", (|a: &Arm| a.cold_s) as fn(&Arm) -> f64),
        ("per_s", "churn", |a: &Arm| 1.0 / a.churn_per_s),
    ] {
        let cells = arms.each_ref().map(|arms| cell(&mut arms.iter().map(of).collect::<Vec<_>>()));
        let [Some(a), Some(b)] = cells else { continue };
        let slower = b.median / a.median - 1.0;
        let value = |v: f64| shown(key, if key == "per_s" { 1.0 / v } else { v });
        let range =
            |c: &crate::table::Cell| format!("{} ({} to {})", value(c.median), value(c.least), value(c.most));
        let figures = format!(
            "{name} of the others: {} without, {} with: {:+.1} %",
            range(&a),
            range(&b),
            slower * 100.0
        );
        match tolerance {
            Some(most) => {
                checks.push((slower <= most, format!("{figures} (at most {:+.1} %)", most * 100.0)))
            }
            None => output::note(&figures),
        }
    }
    Verdict { checks }
}

/// Runs the storm until standard input closes; prints how many connections it made.
///
/// # Errors
/// When its own listener cannot be opened.
pub fn run_storm(at_itself: bool) -> io::Result<()> {
    let done = storm::run(at_itself)?;
    output::line(&done.to_string());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenarios::{Effort, Scenario};

    fn arm(cold_s: f64, churn_per_s: f64, peak_kib: u64) -> Arm {
        Arm { cold_s, churn_per_s, peak_kib, exact: true, up: 10, stormed: 500, note: String::new() }
    }

    fn verdict(with: Arm, tolerance: Option<f64>) -> Vec<bool> {
        by(Disturbance::SlowClient, with, tolerance)
    }

    fn by(what: Disturbance, with: Arm, tolerance: Option<f64>) -> Vec<bool> {
        let plan =
            Plan { n: 10, m: 10, scenarios: vec![Scenario::Cold], effort: Effort::default(), window: 1 };
        let arms = [vec![arm(0.1, 1e6, 10_000)], vec![with]];
        judge(&arms, &plan, what, tolerance).checks.into_iter().map(|(good, _)| good).collect()
    }

    /// Each thing that may go wrong turns its own check red: tables, memory, cold, churn.
    #[test]
    fn each_check_can_fail() {
        let bound = memory_bound_kib(100);
        assert_eq!(verdict(arm(0.104, 0.97e6, 10_000 + bound), Some(0.05)), [true; 4]);
        assert_eq!(verdict(Arm { exact: false, ..arm(0.1, 1e6, 0) }, None), [false, true]);
        assert_eq!(verdict(Arm { up: 9, ..arm(0.1, 1e6, 0) }, None), [false, true]);
        assert_eq!(verdict(arm(0.1, 1e6, 10_001 + bound), None), [true, false]);
        assert_eq!(verdict(arm(0.11, 1e6, 0), Some(0.05)), [true, true, false, true]);
        assert_eq!(verdict(arm(0.1, 0.9e6, 0), Some(0.05)), [true, true, true, false]);
        assert_eq!(by(Disturbance::Storm, arm(0.1, 1e6, 0), Some(0.05)), [true; 4]);
        assert_eq!(by(Disturbance::Storm, Arm { stormed: 3, ..arm(0.1, 1e6, 0) }, None), [true, false]);
    }
}
