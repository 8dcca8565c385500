//! The same load with and without a disturbance, in alternating runs: are the others moved?

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::driver::{Driver, State};
use crate::measure::Plan;
use crate::output;
use crate::process::Awake;
use crate::reflector::{ADDRESS, Target};
use crate::scenarios::{self, Churn, quantile};
use crate::storm::{Pace, Storm, Stormed};
use crate::table::{cell, shown};

/// What disturbs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disturbance {
    /// One more client, which reads one octet a second. Without: it is not there.
    SlowClient,
    /// So many connections a second from an address that nobody admits. Without: the same process storms a listener
    /// of its own, with as many, so that it takes as much of the CPUs.
    Storm(u32),
}

/// How long a storm goes on beside the churn, for the cold start before it and the calm between.
const STORM_MORE: Duration = Duration::from_secs(2);

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
    /// What the storm came to.
    pub stormed: Stormed,
    /// Whether the storm went on until the churn's end.
    pub covered: bool,
    /// What is to be said besides.
    pub note: String,
}

/// What a reflector may hold for one client that reads nothing, in KiB, as docs/adr/0008 bounds it: the shared log;
/// the rest of a chunk; a piece of the table and a piece of what was missed, with this workload's attributes of less
/// than 128 octets a set; and 30 octets for each prefix that it must still be told.
pub fn memory_bound_kib(paths: usize) -> u64 {
    let log = 16 * 1024;
    let pieces = 64 + 82 + (2 * 512 * 128) / 1024;
    log + pieces + ((2 * paths + 65_536) * 30 / 1024) as u64
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
    let awake = Awake::start().ok();
    driver.settle(Duration::from_millis(500), Duration::from_secs(3));
    reflector.reset_peak();
    let mut storm = match what {
        Disturbance::Storm(per_s) => Some(Storm::start(pace(per_s, plan), with)?),
        Disturbance::SlowClient => None,
    };
    let cold_s = scenarios::cold(&mut driver, plan.effort.give_up).map_err(io::Error::other)?;
    driver.settle(Duration::from_millis(300), Duration::from_secs(2));
    let (churn_per_s, wound) = churn(&mut driver, plan);
    let peak_kib = reflector.usage().peak_kib;
    let covered = storm.as_mut().is_none_or(Storm::goes_on);
    let stormed = storm.map_or(Ok(Stormed::default()), Storm::end)?;
    drop(awake);
    driver.settle(Duration::from_millis(200), Duration::from_secs(2));
    let exact = tables_exact(&driver, plan) && wound.is_ok() && driver.judge.faults.none_wrong();
    let up = driver.clients[..plan.n].iter().filter(|c| c.state == State::Up).count();
    Ok(Arm { cold_s, churn_per_s, peak_kib, exact, up, stormed, covered, note: note(&driver, &wound) })
}

fn pace(per_s: u32, plan: &Plan) -> Pace {
    Pace::over(per_s, plan.effort.churn + STORM_MORE)
}

/// Whether each client's table has the digest that it must have once all is calm.
pub fn tables_exact(driver: &Driver, plan: &Plan) -> bool {
    (0..plan.n)
        .all(|at| driver.clients[at].held.digest(&plan.workload()) == scenarios::wanted_digest(driver, at))
}

fn note(driver: &Driver, wound: &Result<(), String>) -> String {
    let slow = driver.slow.map(|at| {
        format!("the slow one is {:?} and has read {} octets", driver.clients[at].state, driver.slow_read)
    });
    let faults: Vec<_> = driver.judge.faults.seen().map(|(name, n)| format!("{n} {name}")).collect();
    let parts = [slow, wound.clone().err(), driver.note.clone(), Some(faults.join(", "))];
    parts.into_iter().flatten().filter(|p| !p.is_empty()).map(|p| format!("; {p}")).collect()
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

/// What pairs of runs showed.
#[derive(Debug)]
pub struct Verdict {
    /// One line a check: whether it holds, and its figures.
    pub checks: Vec<(bool, String)>,
}

/// Runs pairs in alternating order, a fresh reflector for each run. The undisturbed clients must keep exact tables and
/// all their sessions, and a slow client's memory its bound; with `timed`, the median of the pairs' ratios, with to
/// without, may be `1 + tolerance` at most.
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
            let storm = match what {
                Disturbance::Storm(_) => {
                    format!(", {} connections in {:.2} s", one.stormed.stood, one.stormed.seconds)
                }
                Disturbance::SlowClient => String::new(),
            };
            let (number, peak) = (pair + 1, one.peak_kib);
            output::note(&format!(
                "pair {number} {words}: cold {cold}, churn {churn}, peak {peak} KiB{storm}{}",
                one.note
            ));
            arms[usize::from(with)].push(one);
        }
    }
    Ok(judge(&arms, plan, what, timed.then_some(tolerance)))
}

fn judge(arms: &[Vec<Arm>; 2], plan: &Plan, what: Disturbance, tolerance: Option<f64>) -> Verdict {
    let [without, with] = arms;
    let good = arms.iter().flatten().filter(|a| a.exact && a.up == plan.n).count();
    let runs = without.len() + with.len();
    let text = format!("{good} of {runs} runs: all {} others up, their tables exact", plan.n);
    let mut checks = vec![(good == runs, text)];
    match what {
        Disturbance::SlowClient => {
            let more = without.iter().zip(with).map(|(a, b)| b.peak_kib.saturating_sub(a.peak_kib)).max();
            let more = more.unwrap_or_default();
            let bound = memory_bound_kib(plan.workload().table_len() + plan.workload().slots_len());
            let text =
                format!("its memory at the reflector, the most of all pairs: {more} KiB (bound {bound} KiB)");
            checks.push((more <= bound, text));
        }
        Disturbance::Storm(per_s) => checks.push(storms(arms, pace(per_s, plan), tolerance.is_some())),
    }
    for measured in [Measured::Cold, Measured::Churn] {
        let (slower, figures) = measured.compare(arms);
        match tolerance {
            Some(most) => {
                let most = 1.0 + most;
                checks.push((slower <= most, format!("{figures} (median at most {most:.2})")));
            }
            None => output::note(&figures),
        }
    }
    Verdict { checks }
}

/// Whether the storm was as large in every run; where times are judged, it must have lasted as long as they did.
fn storms(arms: &[Vec<Arm>; 2], pace: Pace, timed: bool) -> (bool, String) {
    let all = || arms.iter().flatten();
    let least = all().map(|a| a.stormed.stood).min().unwrap_or_default();
    let covered = all().filter(|a| a.covered).count();
    let longest = all().map(|a| a.stormed.seconds).fold(0.0, f64::max);
    let equal = f64::from(least) >= 0.99 * f64::from(pace.count);
    let text = format!(
        "at least {least} of {} connections stood in each run, {} a second, over {longest:.2} s at most; {covered} of \
         {} storms outlasted the load",
        pace.count,
        pace.per_s,
        all().count()
    );
    (equal && (!timed || covered == all().count()), text)
}

/// What is compared.
#[derive(Debug, Clone, Copy)]
enum Measured {
    Cold,
    Churn,
}

impl Measured {
    fn of(self, arm: &Arm) -> f64 {
        match self {
            Measured::Cold => arm.cold_s,
            Measured::Churn => arm.churn_per_s,
        }
    }

    /// How many times worse a value is than another.
    fn worse(self, without: &Arm, with: &Arm) -> f64 {
        match self {
            Measured::Cold => with.cold_s / without.cold_s,
            Measured::Churn => without.churn_per_s / with.churn_per_s,
        }
    }

    /// The median of the pairs' ratios, more than 1 where with is worse, and all figures in words.
    fn compare(self, arms: &[Vec<Arm>; 2]) -> (f64, String) {
        let [without, with] = arms;
        let (name, key) = match self {
            Measured::Cold => ("cold", "all_s"),
            Measured::Churn => ("churn", "per_s"),
        };
        let values = |arms: &[Arm]| {
            let cell = cell(&mut arms.iter().map(|a| self.of(a)).collect::<Vec<_>>());
            cell.map_or_else(|| "nothing".to_string(), |c| c.shown(key))
        };
        let ratios: Vec<f64> = without.iter().zip(with).map(|(a, b)| self.worse(a, b)).collect();
        let listed: Vec<String> = ratios.iter().map(|r| format!("{r:.3}")).collect();
        let mut sorted = ratios;
        let median = quantile(&mut sorted, 0.5);
        let (low, high) = (quantile(&mut sorted, 0.25), quantile(&mut sorted, 0.75));
        let figures = format!(
            "{name} of the others: {} without, {} with; with is {median:.3} times worse by the median of {} pairs, the \
             middle half {low:.3} to {high:.3}, each: {}",
            values(without),
            values(with),
            listed.len(),
            listed.join(" ")
        );
        (median, figures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenarios::{Effort, Scenario};

    const FULL: Stormed = Stormed { stood: 12_000, seconds: 12.0 };
    const STORM: Disturbance = Disturbance::Storm(1000);

    fn arm(cold_s: f64, churn_per_s: f64, peak_kib: u64) -> Arm {
        Arm {
            cold_s,
            churn_per_s,
            peak_kib,
            exact: true,
            up: 10,
            stormed: FULL,
            covered: true,
            note: String::new(),
        }
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

    /// Each thing that may go wrong turns its own check red: tables, memory, storm, cold, churn.
    #[test]
    fn each_check_can_fail() {
        let bound = memory_bound_kib(10 * 10 + 10);
        assert_eq!(verdict(arm(0.104, 0.97e6, 10_000 + bound), Some(0.05)), [true; 4]);
        assert_eq!(verdict(Arm { exact: false, ..arm(0.1, 1e6, 0) }, None), [false, true]);
        assert_eq!(verdict(Arm { up: 9, ..arm(0.1, 1e6, 0) }, None), [false, true]);
        assert_eq!(verdict(arm(0.1, 1e6, 10_001 + bound), None), [true, false]);
        assert_eq!(verdict(arm(0.11, 1e6, 0), Some(0.05)), [true, true, false, true]);
        assert_eq!(verdict(arm(0.1, 0.9e6, 0), Some(0.05)), [true, true, true, false]);
        assert_eq!(by(STORM, arm(0.1, 1e6, 0), Some(0.05)), [true; 4]);
        let less = Stormed { stood: 11_000, ..FULL };
        assert_eq!(by(STORM, Arm { stormed: less, ..arm(0.1, 1e6, 0) }, None), [true, false]);
        let short = Arm { covered: false, ..arm(0.1, 1e6, 0) };
        assert_eq!(by(STORM, short.clone(), None), [true, true]);
        assert_eq!(by(STORM, short, Some(0.05)), [true, false, true, true]);
    }

    /// The median is of the pairs' ratios: a machine that drifts moves both of a pair. Rates stand least first.
    #[test]
    fn ratios_are_by_pair() {
        let without: Vec<Arm> = [1e6, 2e6, 4e6].map(|rate| arm(1e5 / rate, rate, 0)).into();
        let with: Vec<Arm> = without.iter().map(|a| arm(a.cold_s * 1.02, a.churn_per_s / 1.04, 0)).collect();
        let arms = [without, with];
        assert!((Measured::Cold.compare(&arms).0 - 1.02).abs() < 1e-9);
        let (median, words) = Measured::Churn.compare(&arms);
        assert!((median - 1.04).abs() < 1e-9);
        assert!(words.contains("2.00 M/s (1.00 M/s to 4.00 M/s) without"), "{words}");
    }
}
