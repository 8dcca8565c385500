//! What is measured, each from one moment to another, over clients that are up.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::driver::{Driver, OnLoss, State};
use crate::judge::Fault;

/// A measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// Sessions up and idle; all clients write their tables; until the last one holds all others'.
    Cold,
    /// One more client dials the full reflector; until it holds everything.
    Late,
    /// One route announced, then withdrawn, on idle sessions; until the last of the others has it. The clients
    /// acknowledge at once.
    Latency,
    /// The same with TCP's delayed acknowledgements.
    LatencyDa,
    /// Every client keeps a window of single-route changes under way; a route's next change is sent when all
    /// others have seen its last.
    Churn,
    /// One client's TCP closes; until all others have its withdrawals.
    Loss,
    /// All clients dial at once and announce when up; until all hold everything. On a fresh reflector, alone.
    Ramp,
}

impl Scenario {
    /// All of them.
    pub const ALL: [Scenario; 7] = [
        Scenario::Cold,
        Scenario::Late,
        Scenario::Latency,
        Scenario::LatencyDa,
        Scenario::Churn,
        Scenario::Loss,
        Scenario::Ramp,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Scenario::Cold => "cold",
            Scenario::Late => "late",
            Scenario::Latency => "latency",
            Scenario::LatencyDa => "latency-da",
            Scenario::Churn => "churn",
            Scenario::Loss => "loss",
            Scenario::Ramp => "ramp",
        }
    }

    /// The scenario of a name.
    pub fn of(name: &str) -> Option<Scenario> {
        Scenario::ALL.into_iter().find(|s| s.name() == name)
    }

    /// What it measures, by key; the first is what tables show of it.
    pub fn keys(self) -> &'static [&'static str] {
        match self {
            Scenario::Cold | Scenario::Late | Scenario::Loss => &["all_s"],
            Scenario::Ramp => &["all_s", "established_s"],
            Scenario::Latency | Scenario::LatencyDa => {
                &["announce_p50_us", "announce_p99_us", "withdraw_p50_us", "withdraw_p99_us"]
            }
            Scenario::Churn => &["deliveries_per_s", "changes_per_s"],
        }
    }

    /// Whether more is better.
    pub fn more_is_better(self) -> bool {
        self == Scenario::Churn
    }
}

/// How long and how much.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Rounds of the latency scenarios.
    pub rounds: usize,
    /// Idle time before each of their changes.
    pub gap: Duration,
    /// The longest that they may take.
    pub latency_most: Duration,
    /// How long churn lasts.
    pub churn: Duration,
    /// When a scenario is given up.
    pub give_up: Duration,
}

impl Default for Effort {
    fn default() -> Effort {
        Effort {
            rounds: 1000,
            gap: Duration::from_millis(2),
            latency_most: Duration::from_secs(10),
            churn: Duration::from_secs(10),
            give_up: Duration::from_secs(120),
        }
    }
}

/// What a scenario measured: values by key, or why it has none.
pub type Measured = Result<Vec<(&'static str, f64)>, String>;

/// Runs one scenario; the clients are up, and hold the table where the scenario needs one.
pub fn run(driver: &mut Driver, scenario: Scenario, effort: &Effort) -> Measured {
    driver.quick_ack = matches!(scenario, Scenario::Latency | Scenario::Churn);
    let measured = match scenario {
        Scenario::Cold => cold(driver, effort.give_up).map(|s| vec![("all_s", s)]),
        Scenario::Late => late(driver, effort.give_up),
        Scenario::Latency | Scenario::LatencyDa => latency(driver, effort),
        Scenario::Churn => churn(driver, effort),
        Scenario::Loss => loss(driver, effort.give_up).map(|s| vec![("all_s", s)]),
        Scenario::Ramp => ramp(driver, effort.give_up),
    };
    driver.quick_ack = false;
    driver.judge.seen.clear();
    measured.map_err(|what| match &driver.note {
        Some(note) => format!("{what}; {note}"),
        None => what,
    })
}

/// Serves until every announcing client holds `routes`; seconds since `start`.
fn all_hold(
    driver: &mut Driver,
    who: usize,
    routes: usize,
    start: Instant,
    give_up: Duration,
) -> Result<f64, String> {
    // The clients are looked at one after another: who holds enough is not looked at again.
    let mut first = 0;
    let done = driver.until(start + give_up, |d| {
        while first < who && d.clients[first].held.count == routes {
            first += 1;
        }
        first == who
    });
    let seconds = start.elapsed().as_secs_f64();
    let lacking = driver.clients[..who].iter().filter(|c| c.held.count != routes).count();
    match (done, lacking) {
        (true, 0) => Ok(seconds),
        _ => Err(format!("{lacking} of {who} clients do not hold {routes} routes")),
    }
}

/// Seconds until all announcing clients hold the tables of the others.
pub fn cold(driver: &mut Driver, give_up: Duration) -> Result<f64, String> {
    let workload = driver.workload();
    for at in 0..workload.clients {
        let table = workload.announcements(at);
        driver.queue(at, &table);
    }
    let start = Instant::now();
    (0..workload.clients).for_each(|at| driver.flush(at));
    all_hold(driver, workload.clients, workload.table_len() - workload.routes, start, give_up)
}

fn late(driver: &mut Driver, give_up: Duration) -> Measured {
    let workload = driver.workload();
    let at = workload.clients;
    let start = Instant::now();
    if !driver.bring_up(at..at + 1, 1, start + give_up) {
        return Err("the late client's session did not come up".into());
    }
    let up = start.elapsed().as_secs_f64();
    let full = driver.until(start + give_up, |d| d.clients[at].held.count == workload.table_len());
    let all = start.elapsed().as_secs_f64();
    driver.kill(at);
    match full {
        true => Ok(vec![("all_s", all), ("established_s", up)]),
        false => Err("the late client does not hold everything".into()),
    }
}

fn loss(driver: &mut Driver, give_up: Duration) -> Result<f64, String> {
    let workload = driver.workload();
    let left = workload.clients - 1;
    let start = Instant::now();
    driver.kill(left);
    all_hold(driver, left, workload.table_len() - 2 * workload.routes, start, give_up)
}

fn ramp(driver: &mut Driver, give_up: Duration) -> Measured {
    let workload = driver.workload();
    (driver.on_loss, driver.announce_when_up) = (OnLoss::Redial, true);
    let start = Instant::now();
    let mut up = None;
    let (mut next, want) = (0, workload.table_len() - workload.routes);
    let done = driver.until(start + give_up, |d| {
        // In pieces, so that sessions that are open already are served meanwhile.
        if next < workload.clients {
            let to = (next + 64).min(workload.clients);
            d.dial_some(next..to, 64);
            next = to;
            d.poll(Duration::ZERO);
        } else if d.redials > 0 {
            d.dial_some(0..workload.clients, workload.clients);
        }
        if up.is_none() && d.up == workload.clients {
            up = Some(start.elapsed().as_secs_f64());
        }
        up.is_some()
            && d.clients[..workload.clients].iter().all(|c| c.held.count == want && c.state == State::Up)
    });
    let all = start.elapsed().as_secs_f64();
    (driver.on_loss, driver.announce_when_up) = (OnLoss::Fault, false);
    match up.filter(|_| done) {
        Some(up) => Ok(vec![("all_s", all), ("established_s", up)]),
        None => Err(format!("{} of {} sessions up, not all tables complete", driver.up, workload.clients)),
    }
}

/// The value at a quantile from 0 to 1, by the nearest rank.
pub fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(((values.len() as f64 - 1.0) * q).round() as usize).copied().unwrap_or(f64::NAN)
}

/// One route's change that is about to be written.
pub struct Change {
    sender: usize,
    slot: usize,
    colour: u8,
    message: Vec<u8>,
}

impl Change {
    /// Lets the sessions be idle; then everything is ready for `sender` to announce (colour 1) or withdraw (0) its
    /// first changing route.
    pub fn new(driver: &mut Driver, effort: &Effort, sender: usize, colour: u8) -> Change {
        let workload = driver.workload();
        let slot = workload.slots_of(sender).start;
        let mut message = Vec::new();
        workload.change(&mut message, &workload.encoded(sender), slot, colour);
        std::thread::sleep(effort.gap);
        driver.poll(Duration::ZERO);
        driver.judge.seen.clear();
        Change { sender, slot, colour, message }
    }

    /// Writes it; microseconds until the last other client has read it.
    ///
    /// # Errors
    /// When a client never does.
    pub fn time(&self, driver: &mut Driver) -> Result<f64, String> {
        let mut left = driver.workload().clients - 1;
        let start = Instant::now();
        driver.send(self.sender, &self.message);
        let done = driver.until(start + Duration::from_secs(10), |d| {
            let hits = |s: &&crate::judge::Seen| s.slot as usize == self.slot && s.colour == self.colour;
            left -= d.judge.seen.iter().filter(hits).count().min(left);
            d.judge.seen.clear();
            left == 0
        });
        let us = start.elapsed().as_secs_f64() * 1e6;
        if !done {
            driver.judge.faults.add(Fault::Lost, left as u64);
            return Err(format!("{left} clients never saw a change of client {}", self.sender));
        }
        Ok(us)
    }
}

fn latency(driver: &mut Driver, effort: &Effort) -> Measured {
    let workload = driver.workload();
    let end = Instant::now() + effort.latency_most;
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..effort.rounds {
        let sender = round % workload.clients;
        for (times, colour) in times.iter_mut().zip([1, 0]) {
            let change = Change::new(driver, effort, sender, colour);
            times.push(change.time(driver)?);
        }
        if Instant::now() > end {
            break;
        }
    }
    let [mut announce, mut withdraw] = times;
    Ok(vec![
        ("announce_p50_us", quantile(&mut announce, 0.5)),
        ("announce_p99_us", quantile(&mut announce, 0.99)),
        ("withdraw_p50_us", quantile(&mut withdraw, 0.5)),
        ("withdraw_p99_us", quantile(&mut withdraw, 0.99)),
        ("rounds", announce.len() as f64),
    ])
}

/// Changes under way, slot by slot: absent, 1, absent, 2, absent, 1, ...
#[derive(Debug)]
pub struct Churn {
    phase: Vec<u8>,
    wanted: Vec<u8>,
    left: Vec<u32>,
    ready: Vec<u32>,
    encoded: Vec<[Vec<u8>; 4]>,
    message: Vec<u8>,
    /// Changes that some client has not seen yet.
    pub under_way: usize,
    /// Changes that all others have seen.
    pub changes: u64,
    /// Changes seen, one for each client that saw it.
    pub deliveries: u64,
    others: u32,
}

impl Churn {
    /// All slots of the workload, absent, ready for their first change; each client's changes reach `others`.
    pub fn new(driver: &Driver, others: usize) -> Churn {
        let workload = driver.workload();
        let slots = workload.slots_len();
        Churn {
            phase: vec![0; slots],
            wanted: vec![0; slots],
            left: vec![0; slots],
            ready: (0..slots as u32).collect(),
            encoded: (0..workload.clients).map(|c| workload.encoded(c)).collect(),
            message: Vec::new(),
            under_way: 0,
            changes: 0,
            deliveries: 0,
            others: others as u32,
        }
    }

    /// Takes what was seen, and sends the next change of each slot whose last has reached everybody. With `more`
    /// false only slots that are present change, to absent.
    pub fn step(&mut self, driver: &mut Driver, more: bool) {
        let workload = driver.workload();
        for seen in driver.judge.seen.drain(..) {
            let slot = seen.slot as usize;
            // Extra clients beyond the announcing ones see changes too; nobody waits for them.
            if seen.client as usize >= workload.clients {
                continue;
            }
            self.deliveries += 1;
            if self.wanted[slot] == seen.colour && self.left[slot] > 0 {
                self.left[slot] -= 1;
                if self.left[slot] == 0 {
                    self.changes += 1;
                    self.under_way -= 1;
                    self.ready.push(seen.slot);
                }
            }
        }
        if !more {
            let phase = &self.phase;
            self.ready.retain(|slot| phase[*slot as usize] % 2 == 1);
        }
        let mut ready = std::mem::take(&mut self.ready);
        // By sender, so that each one's changes of this step leave in one write.
        ready.sort_unstable();
        for group in ready.chunk_by(|a, b| *a as usize / workload.slots == *b as usize / workload.slots) {
            let sender = group[0] as usize / workload.slots;
            self.message.clear();
            for slot in group.iter().map(|s| *s as usize) {
                self.phase[slot] = (self.phase[slot] + 1) % 4;
                self.wanted[slot] = [0, 1, 0, 2][usize::from(self.phase[slot])];
                self.left[slot] = self.others;
                workload.change(&mut self.message, &self.encoded[sender], slot, self.wanted[slot]);
            }
            self.under_way += group.len();
            driver.send(sender, &self.message);
        }
        ready.clear();
        self.ready = ready;
    }
}

fn churn(driver: &mut Driver, effort: &Effort) -> Measured {
    driver.judge.seen.clear();
    let mut churn = Churn::new(driver, driver.workload().clients - 1);
    let start = Instant::now();
    driver.until(start + effort.churn, |d| {
        churn.step(d, true);
        false
    });
    let seconds = start.elapsed().as_secs_f64();
    let (changes, deliveries) = (churn.changes as f64, churn.deliveries as f64);
    if driver.broken() {
        return Err("a session was lost".into());
    }
    wind_down(driver, &mut churn, Duration::from_secs(10))?;
    Ok(vec![("deliveries_per_s", deliveries / seconds), ("changes_per_s", changes / seconds)])
}

/// Brings every slot to absent; what does not arrive everywhere is counted as lost.
pub fn wind_down(driver: &mut Driver, churn: &mut Churn, most: Duration) -> Result<(), String> {
    let done = driver.until(Instant::now() + most, |d| {
        churn.step(d, false);
        churn.under_way == 0
    });
    if !done {
        driver.judge.faults.add(Fault::Lost, churn.under_way as u64);
        return Err(format!("{} changes never reached all others", churn.under_way));
    }
    Ok(())
}

/// The digest that a client's table must have once all is calm: all others' tables, no slot.
pub fn wanted_digest(driver: &Driver, client: usize) -> u64 {
    let workload = driver.workload();
    let mut digest = crate::judge::Digest::new(&workload);
    let own = if client < workload.clients { workload.table_of(client) } else { 0..0 };
    (0..workload.table_len()).filter(|g| !own.contains(g)).for_each(|g| digest.table(g));
    digest.value
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names lead back; each scenario has a key.
    #[test]
    fn names_lead_back() {
        for scenario in Scenario::ALL {
            assert_eq!(Scenario::of(scenario.name()), Some(scenario));
            assert!(!scenario.keys().is_empty());
        }
        assert_eq!(Scenario::of("flood"), None);
    }

    /// Quantiles are values that were measured.
    #[test]
    fn quantiles_are_ranks() {
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(quantile(&mut values, 0.5), 51.0);
        assert_eq!(quantile(&mut values, 0.99), 99.0);
        assert_eq!(quantile(&mut values, 1.0), 100.0);
        assert!(quantile(&mut [], 0.5).is_nan());
    }
}
