//! Churn at full rate for minutes: memory flat, no session lost, every client's final table exact.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::driver::{Driver, State};
use crate::measure::Plan;
use crate::output;
use crate::reflector::{ADDRESS, Reflector, Target};
use crate::scenarios::{self, Churn};

/// The part of the run, from its start, in which memory may still grow to its working size.
const WARM_UP: f64 = 0.2;

/// Resident memory at a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Seconds from the start of the churn.
    pub at_s: f64,
    /// Resident memory of the reflector, in KiB.
    pub rss_kib: f64,
}

/// The straight line through samples: its value at their first, and its slope in KiB a second.
pub fn line(samples: &[Sample]) -> Option<(f64, f64)> {
    let n = samples.len() as f64;
    let start = samples.first()?.at_s;
    let (x, y) = (|s: &Sample| s.at_s - start, |s: &Sample| s.rss_kib);
    let mean = |of: &dyn Fn(&Sample) -> f64| samples.iter().map(of).sum::<f64>() / n;
    let (mx, my) = (mean(&x), mean(&y));
    let spread = mean(&|s| (x(s) - mx).powi(2));
    if spread == 0.0 {
        return None;
    }
    let slope = mean(&|s| (x(s) - mx) * (y(s) - my)) / spread;
    Some((my - slope * mx, slope))
}

/// How much the line may rise over the run, in KiB: a twentieth of its start, and a MiB at least.
pub fn may_rise(start_kib: f64) -> f64 {
    (start_kib / 20.0).max(1024.0)
}

/// What a soak showed.
#[derive(Debug)]
pub struct Soaked {
    /// One line a check: whether it holds, and its figures.
    pub checks: Vec<(bool, String)>,
}

/// Soaks a reflector; the plan's churn time is the soak's.
///
/// # Errors
/// When the machine is at fault, or the load cannot even begin.
pub fn soak(target: &Target, plan: &Plan, dir: &Path) -> io::Result<Soaked> {
    let mut reflector = target.start(dir)?;
    let mut driver = Driver::new(plan.workload(), 0, ADDRESS)?;
    let begin = |driver: &mut Driver| {
        if !driver.bring_up(0..plan.n, 8, Instant::now() + plan.effort.give_up) {
            return Err(format!("only {} of {} sessions came up", driver.up, plan.n));
        }
        driver.settle(Duration::from_millis(200), Duration::from_secs(5));
        scenarios::cold(driver, plan.effort.give_up)
    };
    begin(&mut driver).map_err(io::Error::other)?;
    driver.quick_ack = true;
    driver.judge.seen.clear();
    let mut churn = Churn::new(&driver, plan.n - 1);
    let (samples, seconds) = load(&mut driver, &reflector, &mut churn, plan.effort.churn);
    let (changes, deliveries) = (churn.changes, churn.deliveries);
    let wound = scenarios::wind_down(&mut driver, &mut churn, Duration::from_secs(30));
    driver.settle(Duration::from_millis(300), Duration::from_secs(5));

    let mut checks = Vec::new();
    let rate = deliveries as f64 / seconds;
    checks.push((
        changes > 0 && wound.is_ok(),
        format!(
            "{changes} changes, {deliveries} deliveries in {seconds:.0} s ({rate:.0} a second); {wound:?}"
        ),
    ));
    checks.push(memory(&samples));
    let up = driver.clients.iter().filter(|c| c.state == State::Up).count();
    let alive = reflector.alive();
    checks.push((
        alive && up == plan.n && driver.redials == 0,
        format!("{up} of {} sessions never lost", plan.n),
    ));
    let seen: Vec<_> = driver.judge.faults.seen().collect();
    checks.push((driver.judge.faults.none_wrong(), format!("faults among all routes received: {seen:?}")));
    let exact = (0..plan.n).filter(|at| {
        driver.clients[*at].held.digest(&plan.workload()) == scenarios::wanted_digest(&driver, *at)
    });
    let exact = exact.count();
    checks.push((
        exact == plan.n,
        format!("{exact} of {} final tables have the digest of the workload", plan.n),
    ));
    Ok(Soaked { checks })
}

fn load(driver: &mut Driver, reflector: &Reflector, churn: &mut Churn, time: Duration) -> (Vec<Sample>, f64) {
    let start = Instant::now();
    let (mut samples, mut next, mut said) = (Vec::new(), start, start);
    driver.until(start + time, |d| {
        churn.step(d, true);
        let now = Instant::now();
        if now >= next {
            next = now + Duration::from_millis(500);
            let usage = reflector.usage();
            samples.push(Sample { at_s: (now - start).as_secs_f64(), rss_kib: usage.rss_kib as f64 });
            if now - said >= Duration::from_secs(30) {
                said = now;
                let at = (now - start).as_secs();
                output::note(&format!(
                    "{at} s: {} KiB resident, {} deliveries",
                    usage.rss_kib, churn.deliveries
                ));
            }
        }
        false
    });
    (samples, start.elapsed().as_secs_f64())
}

/// Whether memory is flat: the line through the samples after the warm-up rises by no more than [`may_rise`].
fn memory(samples: &[Sample]) -> (bool, String) {
    let last = samples.last().map_or(0.0, |s| s.at_s);
    let steady: Vec<Sample> = samples.iter().copied().filter(|s| s.at_s >= last * WARM_UP).collect();
    let Some((start, slope)) = line(&steady) else { return (false, "too few samples of memory".into()) };
    let over = last - steady[0].at_s;
    let (rise, most) = (slope * over, may_rise(start));
    let peak = samples.iter().map(|s| s.rss_kib).fold(0.0, f64::max);
    let text = format!(
        "resident memory {start:.0} KiB, slope {:.1} KiB a minute: {rise:.0} KiB over {over:.0} s (bound {most:.0}); peak {peak:.0} KiB",
        slope * 60.0
    );
    (rise <= most, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(slope: f64) -> Vec<Sample> {
        (0..100u32)
            .map(|i| (f64::from(i), f64::from(i % 3)))
            .map(|(at_s, noise)| Sample { at_s, rss_kib: 40_000.0 + noise + slope * at_s })
            .collect()
    }

    /// A flat series passes with its noise, a leak of 2 % a minute does not, and no samples are no pass.
    #[test]
    fn a_leak_is_seen() {
        let (start, slope) = line(&samples(5.0)).expect("a line");
        assert!((slope - 5.0).abs() < 0.01 && (start - 40_001.0).abs() < 1.0, "{start} {slope}");
        assert!(memory(&samples(0.0)).0);
        assert!(!memory(&samples(40.0)).0, "{:?}", memory(&samples(40.0)));
        assert!(!memory(&[]).0);
        assert_eq!(may_rise(100.0), 1024.0);
    }
}
