//! Graceful restart at scale: the reflector is killed and started again, and its clients, as helpers (RFC 4724
//! section 4.2), keep its routes as stale and watch what they are told.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::driver::{Driver, OnLoss, State};
use crate::judge::Digest;
use crate::measure::Plan;
use crate::output;
use crate::reflector::{ADDRESS, Reflector, Target};
use crate::wire::Restart;

/// The restart time that clients and reflector offer, in seconds.
const RESTART_SECS: u16 = 120;
/// How long the reflector is given to write down whom it serves, before it is killed.
const CALM: Duration = Duration::from_secs(3);
/// How much later than the deferral End-of-RIB may come: the daemon's start and a loaded machine.
const LATE: Duration = Duration::from_secs(5);
/// How much earlier, by the clocks of two processes.
const EARLY: Duration = Duration::from_millis(500);

/// What one restart showed.
#[derive(Debug)]
struct Return {
    /// From the start of the new reflector until all who return were up.
    up: Option<Duration>,
    /// Until everything that returned was fresh at everybody.
    fresh: Option<Duration>,
    /// The first and the last End-of-RIB.
    end_of_rib: Option<(Duration, Duration)>,
    /// Clients that were told of a restart (R bit).
    told: usize,
    /// Table routes withdrawn meanwhile.
    withdrawn: u64,
    /// Stale routes that the clients swept at End-of-RIB.
    swept: usize,
    /// Clients whose table is then exactly that of those who returned.
    exact: usize,
}

/// Kills and restarts `fabric-rr` twice: all clients return; all but the last one do. One line a check.
///
/// # Errors
/// When the machine is at fault, or the clients cannot even begin.
pub fn restart(
    target: &Target,
    plan: &Plan,
    deferral: Duration,
    dir: &Path,
) -> io::Result<Vec<(bool, String)>> {
    let mut target = target.clone();
    target.router_extra = format!("  selectionDeferralSecs: {}\n", deferral.as_secs());
    let mut reflector = target.start(dir)?;
    let mut driver = Driver::new(plan.workload(), 0, ADDRESS)?;
    driver.restart = Some(Restart { secs: RESTART_SECS, restarting: false });
    driver.announce_when_up = true;
    if !driver.bring_up(0..plan.n, 8, Instant::now() + plan.effort.give_up) {
        return Err(io::Error::other(format!("only {} of {} sessions came up", driver.up, plan.n)));
    }
    let full = plan.workload().table_len() - plan.m;
    let deadline = Instant::now() + plan.effort.give_up;
    if !driver.until(deadline, |d| d.clients.iter().all(|c| c.held.count == full)) {
        return Err(io::Error::other("the tables did not converge before the restart"));
    }
    driver.on_loss = OnLoss::Keep;

    let (next, all) = again(&target, reflector, &mut driver, plan, (plan.n, deferral), dir)?;
    reflector = next;
    let (last, but_one) = again(&target, reflector, &mut driver, plan, (plan.n - 1, deferral), dir)?;
    drop(last);
    let mut checks = all_return(plan, &all, deferral);
    checks.extend(one_stays_away(plan, &but_one, deferral));
    let faults = driver.judge.faults;
    checks.push((
        faults.none_wrong(),
        format!("faults among all routes received: {:?}", Vec::from_iter(faults.seen())),
    ));
    Ok(checks)
}

/// One restart; the first `returning` clients come back, the others never.
fn again(
    target: &Target,
    reflector: Reflector,
    driver: &mut Driver,
    plan: &Plan,
    (returning, deferral): (usize, Duration),
    dir: &Path,
) -> io::Result<(Reflector, Return)> {
    driver.settle(CALM, CALM * 3);
    let before = driver.judge.table_withdrawn;
    driver.clients.iter_mut().for_each(|c| c.swept = 0);
    reflector.kill();
    // All notice before anyone may return: a connection of the dead must not count as one of the new.
    let noticed = driver.until(Instant::now() + Duration::from_secs(10), |d| d.up == 0);
    if !noticed {
        return Err(io::Error::other(format!("{} sessions outlived the reflector", driver.up)));
    }
    (returning..plan.n).for_each(|at| driver.kill(at));
    let begin = Instant::now();
    let next = target.start(dir)?;
    let (mut up, mut fresh) = (None, None);
    let away = (plan.n - returning) * plan.m;
    driver.until(begin + deferral * 2 + LATE * 2, |d| {
        d.dial_some(0..returning, returning);
        let who = &d.clients[..returning];
        if up.is_none() && who.iter().all(|c| c.state == State::Up) {
            // By when each came up: this look may be late.
            up = who.iter().filter_map(|c| c.up_at).max().map(|at| at.duration_since(begin));
        }
        if fresh.is_none() && up.is_some() && who.iter().all(|c| c.held.stale_count() <= away) {
            fresh = Some(begin.elapsed());
        }
        up.is_some() && who.iter().all(|c| c.end_of_rib.is_some())
    });
    driver.settle(Duration::from_millis(300), Duration::from_secs(3));
    let who = &driver.clients[..returning];
    let ends: Option<Vec<Duration>> = who.iter().map(|c| Some(c.end_of_rib?.duration_since(begin))).collect();
    let ends = ends.unwrap_or_default();
    let shown = Return {
        up,
        fresh,
        end_of_rib: ends.iter().min().copied().zip(ends.iter().max().copied()),
        told: who.iter().filter(|c| c.restart_heard.is_some_and(|r| r.restarting)).count(),
        withdrawn: driver.judge.table_withdrawn - before,
        swept: who.iter().map(|c| c.swept).sum(),
        exact: (0..returning).filter(|at| exact(driver, *at, returning)).count(),
    };
    output::note(&format!("{returning} of {} return: {shown:?}", plan.n));
    Ok((next, shown))
}

/// Whether a client holds the tables of all others that returned, and nothing else.
fn exact(driver: &Driver, client: usize, returning: usize) -> bool {
    let workload = driver.workload();
    let mut wanted = Digest::new(&workload);
    let others = (0..returning).filter(|owner| *owner != client);
    others.flat_map(|owner| workload.table_of(owner)).for_each(|route| wanted.table(route));
    driver.clients[client].held.digest(&workload) == wanted.value
}

fn words(time: Option<Duration>) -> String {
    time.map_or("never".into(), |t| format!("{:.2} s", t.as_secs_f64()))
}

fn all_return(plan: &Plan, all: &Return, deferral: Duration) -> Vec<(bool, String)> {
    let n = plan.n;
    // End-of-RIB says that the table is complete: only when the last one is back, and then at once.
    let (first, last) = (all.end_of_rib.map(|e| e.0), all.end_of_rib.map(|e| e.1));
    let waited = first.zip(all.up).is_some_and(|(end, up)| end >= up);
    let prompt = last.is_some_and(|end| end < deferral);
    let (up, fresh) = (words(all.up), words(all.fresh));
    vec![
        (all.told == n, format!("{} of {n} clients were told of the restart", all.told)),
        (
            all.withdrawn == 0 && all.swept == 0,
            format!("no client removes a route: {} withdrawn, {} swept", all.withdrawn, all.swept),
        ),
        (
            all.exact == n,
            format!("{} of {n} tables exact; all up after {up}, all fresh after {fresh}", all.exact),
        ),
        (
            waited && prompt,
            format!(
                "End-of-RIB when all are back: first {}, last {}, deferral {}",
                words(first),
                words(last),
                words(Some(deferral))
            ),
        ),
    ]
}

fn one_stays_away(plan: &Plan, but_one: &Return, deferral: Duration) -> Vec<(bool, String)> {
    let (n, lost) = (plan.n - 1, (plan.n - 1) * plan.m);
    let ends = but_one.end_of_rib;
    let on_time = ends.is_some_and(|(first, last)| first + EARLY >= deferral && last <= deferral + LATE);
    let soon = but_one.fresh.is_some_and(|fresh| fresh < deferral);
    vec![
        (
            soon,
            format!(
                "one client stays away: the routes of the {n} others are fresh after {}",
                words(but_one.fresh)
            ),
        ),
        (
            on_time,
            format!(
                "End-of-RIB at the deferral bound: {} to {}",
                words(ends.map(|e| e.0)),
                words(ends.map(|e| e.1))
            ),
        ),
        (
            but_one.swept == lost && but_one.withdrawn == 0 && but_one.exact == n,
            format!(
                "its routes alone go, then: {} swept of {lost}, {} withdrawn, {} of {n} tables exact",
                but_one.swept, but_one.withdrawn, but_one.exact
            ),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenarios::{Effort, Scenario};

    const DEFERRAL: Duration = Duration::from_secs(5);

    fn plan() -> Plan {
        Plan { n: 10, m: 3, scenarios: vec![Scenario::Cold], effort: Effort::default(), window: 1 }
    }

    fn right() -> Return {
        let ms = Duration::from_millis;
        Return {
            up: Some(ms(400)),
            fresh: Some(ms(450)),
            end_of_rib: Some((ms(410), ms(460))),
            told: 10,
            withdrawn: 0,
            swept: 0,
            exact: 10,
        }
    }

    /// A restart as it should be passes; each thing that goes wrong turns a check red.
    #[test]
    fn each_check_can_fail() {
        let good = |r: &Return| all_return(&plan(), r, DEFERRAL).iter().all(|(good, _)| *good);
        assert!(good(&right()));
        let (early, late) = (Duration::from_millis(100), Duration::from_secs(6));
        for wrong in [
            Return { told: 9, ..right() },
            Return { withdrawn: 1, ..right() },
            Return { swept: 1, ..right() },
            Return { exact: 9, ..right() },
            Return { end_of_rib: Some((early, late)), ..right() },
            Return { end_of_rib: Some((early, early)), ..right() },
            Return { end_of_rib: None, ..right() },
            Return { up: None, ..right() },
        ] {
            assert!(!good(&wrong), "{wrong:?}");
        }
        let held = || Return { end_of_rib: Some((DEFERRAL, DEFERRAL)), swept: 27, exact: 9, ..right() };
        let good = |r: &Return| one_stays_away(&plan(), r, DEFERRAL).iter().all(|(good, _)| *good);
        assert!(good(&held()));
        for wrong in [
            Return { end_of_rib: Some((early, DEFERRAL)), ..held() },
            Return { end_of_rib: Some((DEFERRAL, DEFERRAL * 3)), ..held() },
            Return { swept: 26, ..held() },
            Return { exact: 8, ..held() },
            Return { fresh: Some(DEFERRAL), ..held() },
        ] {
            assert!(!good(&wrong), "{wrong:?}");
        }
    }
}
