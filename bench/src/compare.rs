//! Reflectors side by side: alternating rounds, one fresh process each.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::measure::{Outcome, Plan, measure};
use crate::output;
use crate::reflector::Target;
use crate::scenarios::{Effort, Scenario};
use crate::table::{Table, table};

/// A size and its scenarios out of `10x1000:cold,late`.
///
/// # Errors
/// Says what is wrong with the words.
pub fn plan(words: &str, effort: Effort, window: usize) -> Result<Plan, String> {
    let (size, list) =
        words.split_once(':').ok_or_else(|| format!("'{words}' is not like 10x1000:cold,late"))?;
    let (n, m) = size.split_once('x').ok_or_else(|| format!("'{size}' is not like 10x1000"))?;
    let number = |word: &str| word.parse::<usize>().map_err(|e| format!("'{word}': {e}"));
    let scenario = |name: &str| {
        let known = Scenario::ALL.map(Scenario::name).join(", ");
        Scenario::of(name).ok_or_else(|| format!("no scenario '{name}'; there are {known}"))
    };
    let scenarios: Vec<Scenario> = list.split(',').map(scenario).collect::<Result<_, _>>()?;
    if scenarios.contains(&Scenario::Ramp) && scenarios.len() > 1 {
        return Err("ramp needs a fresh reflector: give it alone".into());
    }
    let plan = Plan { n: number(n)?, m: number(m)?, scenarios, effort, window };
    match plan.workload().fits() {
        true => Ok(plan),
        false => Err(format!("{size} does not fit: at least 2 clients, at most 16,777,216 routes in all")),
    }
}

/// The plans of a suite, in the words of [`plan`].
pub fn suite(name: &str) -> Option<&'static [&'static str]> {
    match name {
        "quick" => Some(&[
            "4x1:cold,latency",
            "10x1000:cold,late,latency,churn,loss",
            "100x100:cold,late,latency,churn,loss",
            "100x1:ramp",
        ]),
        "daily" => Some(&[
            "4x1:cold,latency",
            "10x1000:cold,late,latency,latency-da,churn,loss",
            "100x1000:cold,late,latency,churn,loss",
            "500x1:ramp",
        ]),
        "full" => Some(&[
            "4x1:cold,latency,latency-da",
            "10x1000:cold,late,latency,latency-da,churn,loss",
            "100x1000:cold,late,latency,latency-da,churn,loss",
            "10x100000:cold,late,loss",
            "500x1:ramp",
            "1000x10:ramp",
        ]),
        _ => None,
    }
}

/// What is compared, how often, and where results go.
#[derive(Debug)]
pub struct Comparison {
    /// The reflectors; ours first.
    pub targets: Vec<Target>,
    /// Sizes and scenarios.
    pub plans: Vec<Plan>,
    /// Rounds.
    pub rounds: usize,
}

/// Runs all rounds, round by round; results as they come in `results.jsonl`, the table in `table.md` and `table.json`.
///
/// # Errors
/// When the machine is at fault.
pub fn compare(all: &Comparison, out: &Path) -> io::Result<Table> {
    fs::create_dir_all(out)?;
    let mut lines = File::create(out.join("results.jsonl"))?;
    let mut outcomes: Vec<Outcome> = Vec::new();
    for (at, plan) in all.plans.iter().enumerate() {
        // What failed at a size is not tried again at it.
        let mut failed = vec![false; all.targets.len()];
        for round in 1..=all.rounds {
            for (target, failed) in all.targets.iter().zip(&mut failed).filter(|(_, failed)| !**failed) {
                let name = target.make.name();
                output::note(&format!("{} x {}: {name}, round {round} of {}", plan.n, plan.m, all.rounds));
                let dir = out.join(format!("work/{name}-{at}-{round}"));
                for outcome in measure(target, name, plan, round, &dir)? {
                    *failed |= !outcome.ok;
                    writeln!(lines, "{}", serde_json::to_string(&outcome)?)?;
                    outcomes.push(outcome);
                }
                fs::remove_dir_all(&dir)?;
            }
        }
    }
    let ours = all.targets.first().map_or("", |t| t.make.name());
    let table = table(&outcomes, ours);
    fs::write(out.join("table.md"), table.markdown())?;
    fs::write(out.join("table.json"), serde_json::to_string_pretty(&table)?)?;
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words make plans; wrong words say what is wrong.
    #[test]
    fn words_make_plans() {
        let made = plan("10x1000:cold,latency-da", Effort::default(), 64).expect("a plan");
        assert_eq!((made.n, made.m, made.scenarios), (10, 1000, vec![Scenario::Cold, Scenario::LatencyDa]));
        for wrong in
            ["10x1000", "10:cold", "ax1:cold", "10x1:cold,ramp", "10x1:flood", "1x1:cold", "100x1000000:cold"]
        {
            assert!(plan(wrong, Effort::default(), 64).is_err(), "{wrong}");
        }
        for name in ["quick", "daily", "full"] {
            for words in suite(name).expect("a suite") {
                plan(words, Effort::default(), 64).expect("a plan");
            }
        }
    }
}
