//! One reflector, started, loaded by a list of scenarios, and ended: one result for each scenario.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::driver::Driver;
use crate::process::{self, Awake};
use crate::reflector::{ADDRESS, ASN, CLUSTER_ID, Reflector, Target};
use crate::scenarios::{self, Effort, Scenario};
use crate::workload::Workload;

/// Sessions that are set up at a time, except in the ramp: some listen queues are short.
const AT_ONCE: usize = 8;
/// Calm before each scenario.
const CALM: Duration = Duration::from_secs(1);

/// What one scenario gave, one JSON object a line in results.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// The reflector.
    pub name: String,
    /// Clients.
    pub n: usize,
    /// Routes of each.
    pub m: usize,
    /// The scenario.
    pub scenario: Scenario,
    /// The round.
    pub run: usize,
    /// Whether it came to its end.
    pub ok: bool,
    /// Whether every route received was right.
    pub correct: bool,
    /// Values by key; units are in the keys.
    #[serde(default)]
    pub metrics: BTreeMap<String, f64>,
    /// CPU time of the reflector's processes, to 0.3 s after the end.
    #[serde(default)]
    pub rr_cpu_s: f64,
    /// The most memory that was resident in the scenario, in KiB.
    #[serde(default)]
    pub rr_peak_rss_kb: u64,
    /// CPU time of the generator.
    #[serde(default)]
    pub driver_cpu_s: f64,
    /// CPU time of neither: other work on this machine disturbs a measurement.
    #[serde(default)]
    pub other_cpu_s: f64,
    /// How long the scenario took altogether.
    #[serde(default)]
    pub wall_s: f64,
    /// Whether idle-priority loops kept the CPUs awake.
    #[serde(default)]
    pub awake: bool,
    /// What was wrong or redundant, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub faults: BTreeMap<String, u64>,
    /// What went wrong, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A size and what is measured at it.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Clients.
    pub n: usize,
    /// Routes of each.
    pub m: usize,
    /// The scenarios, in order.
    pub scenarios: Vec<Scenario>,
    /// How long and how much.
    pub effort: Effort,
    /// Changes that each client keeps under way in churn.
    pub window: usize,
}

impl Plan {
    /// The workload of this plan.
    pub fn workload(&self) -> Workload {
        Workload {
            clients: self.n,
            routes: self.m,
            slots: self.window.max(1),
            asn: ASN,
            cluster_id: CLUSTER_ID.into(),
        }
    }
}

/// Starts a reflector, runs the plan's scenarios, and ends it.
///
/// # Errors
/// When the machine is at fault; what the reflector does wrong is in the outcomes.
pub fn measure(target: &Target, name: &str, plan: &Plan, run: usize, dir: &Path) -> io::Result<Vec<Outcome>> {
    let blank = Outcome {
        name: name.to_string(),
        n: plan.n,
        m: plan.m,
        scenario: plan.scenarios[0],
        run,
        ok: false,
        correct: false,
        metrics: BTreeMap::new(),
        rr_cpu_s: 0.0,
        rr_peak_rss_kb: 0,
        driver_cpu_s: 0.0,
        other_cpu_s: 0.0,
        wall_s: 0.0,
        awake: false,
        faults: BTreeMap::new(),
        note: None,
    };
    let reflector = match target.start(dir) {
        Ok(reflector) => reflector,
        Err(error) => return Ok(vec![Outcome { note: Some(error.to_string()), ..blank }]),
    };
    let mut driver = Driver::new(plan.workload(), 1, ADDRESS)?;
    driver.settle(CALM, CALM);
    if let Err(note) = prepare(&mut driver, plan) {
        return Ok(vec![Outcome { note: Some(note), ..blank }]);
    }
    let mut outcomes = Vec::new();
    for scenario in &plan.scenarios {
        let outcome = one(&mut driver, &reflector, *scenario, &plan.effort, &blank);
        let ok = outcome.ok;
        outcomes.push(outcome);
        if !ok {
            break;
        }
    }
    Ok(outcomes)
}

/// Brings the sessions up, and the table where the first scenario wants one.
fn prepare(driver: &mut Driver, plan: &Plan) -> Result<(), String> {
    let first = plan.scenarios[0];
    if first == Scenario::Ramp {
        return Ok(());
    }
    let note = |driver: &Driver| driver.note.clone().unwrap_or_default();
    if !driver.bring_up(0..plan.n, AT_ONCE, Instant::now() + plan.effort.give_up) {
        return Err(format!("only {} of {} sessions came up; {}", driver.up, plan.n, note(driver)));
    }
    if first != Scenario::Cold {
        driver.settle(CALM, CALM * 5);
        scenarios::cold(driver, plan.effort.give_up)
            .map_err(|e| format!("no table: {e}; {}", note(driver)))?;
    }
    Ok(())
}

fn one(
    driver: &mut Driver,
    reflector: &Reflector,
    scenario: Scenario,
    effort: &Effort,
    blank: &Outcome,
) -> Outcome {
    driver.settle(CALM, CALM * 6);
    driver.note = None;
    let own_pid = std::collections::BTreeSet::from([std::process::id()]);
    let faults = driver.judge.faults;
    // Without chrt the CPUs may sleep; the outcome says so.
    let awake = Awake::start().ok();
    reflector.reset_peak();
    let before = (reflector.usage(), process::usage(&own_pid).cpu_s, process::machine_busy_s());
    let start = Instant::now();
    let measured = scenarios::run(driver, scenario, effort);
    let wall_s = start.elapsed().as_secs_f64();
    let driver_cpu_s = process::usage(&own_pid).cpu_s - before.1;
    let idle_loops = awake.as_ref().map_or(0.0, Awake::cpu_s);
    let busy = process::machine_busy_s() - before.2;
    let at_end = reflector.usage();
    let was_awake = awake.is_some();
    drop(awake);
    driver.settle(Duration::from_millis(300), Duration::from_secs(3));
    let after = reflector.usage();
    let faults = driver.judge.faults.since(&faults);
    let rr_cpu_s = after.cpu_s - before.0.cpu_s;
    Outcome {
        scenario,
        ok: measured.is_ok(),
        correct: faults.none_wrong(),
        note: measured.as_ref().err().cloned(),
        metrics: measured.into_iter().flatten().map(|(key, value)| (key.to_string(), value)).collect(),
        rr_cpu_s,
        rr_peak_rss_kb: at_end.peak_kib.max(after.peak_kib),
        driver_cpu_s,
        other_cpu_s: (busy - idle_loops - driver_cpu_s - (at_end.cpu_s - before.0.cpu_s)).max(0.0),
        wall_s,
        awake: was_awake,
        faults: faults.seen().map(|(name, count)| (name.to_string(), count)).collect(),
        ..blank.clone()
    }
}
