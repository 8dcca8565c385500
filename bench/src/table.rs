//! Medians, their spread, and the ratio to the best peer, as text and as JSON.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use crate::measure::Outcome;
use crate::scenarios::{Scenario, quantile};

/// One cell: a reflector's values of one key at one size, over all rounds.
#[derive(Debug, Clone, Serialize)]
pub struct Cell {
    /// The median.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
    /// Over how many rounds.
    pub rounds: usize,
}

/// One row of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Clients.
    pub n: usize,
    /// Routes of each.
    pub m: usize,
    /// The scenario.
    pub scenario: Scenario,
    /// What was measured.
    pub key: String,
    /// Values by reflector; those of runs that failed or were incorrect are left out.
    pub cells: BTreeMap<String, Cell>,
    /// The best of the others.
    pub best_peer: Option<String>,
    /// How many times better than the best of the others ours is; below 1: worse.
    pub ratio: Option<f64>,
}

/// All rows, and what went wrong.
#[derive(Debug, Clone, Serialize)]
pub struct Table {
    /// The reflector that is compared with the others.
    pub ours: String,
    /// The rows, by size, scenario and key.
    pub rows: Vec<Row>,
    /// Runs that failed or were incorrect, in words.
    pub failures: Vec<String>,
    /// Names of the reflectors, in the order of the columns.
    pub names: Vec<String>,
}

/// The median, the least and the most; `None` of nothing.
pub fn cell(values: &mut [f64]) -> Option<Cell> {
    let rounds = values.len();
    let median = quantile(values, 0.5);
    Some(Cell { median, least: *values.first()?, most: *values.last()?, rounds })
}

fn value(outcome: &Outcome, key: &str) -> Option<f64> {
    match key {
        "rr_cpu_s" => Some(outcome.rr_cpu_s),
        "rr_peak_rss_kb" => Some(outcome.rr_peak_rss_kb as f64),
        _ => outcome.metrics.get(key).copied(),
    }
}

/// The keys that a table shows of a scenario.
fn keys(scenario: Scenario) -> impl Iterator<Item = &'static str> {
    let costs: &[&str] = if scenario == Scenario::Cold { &["rr_cpu_s", "rr_peak_rss_kb"] } else { &[] };
    scenario.keys().iter().chain(costs).copied()
}

/// The table of all outcomes, seen from `ours`.
pub fn table(outcomes: &[Outcome], ours: &str) -> Table {
    let mut names: Vec<String> = Vec::new();
    for outcome in outcomes {
        if !names.contains(&outcome.name) {
            names.push(outcome.name.clone());
        }
    }
    let sizes: BTreeSet<_> = outcomes.iter().map(|o| (o.n, o.m, o.scenario)).collect();
    let rows = sizes.iter().flat_map(|size| keys(size.2).map(move |key| (size, key)));
    let rows = rows.map(|((n, m, scenario), key)| row(outcomes, ours, (*n, *m, *scenario), key)).collect();
    let failed = outcomes.iter().filter(|o| !o.ok || !o.correct);
    let failures = failed.map(|o| {
        let what = o.note.clone().unwrap_or_else(|| format!("{:?}", o.faults));
        format!("{} {} x {} {} run {}: {what}", o.name, o.n, o.m, o.scenario.name(), o.run)
    });
    Table { ours: ours.to_string(), rows, failures: failures.collect(), names }
}

fn row(outcomes: &[Outcome], ours: &str, (n, m, scenario): (usize, usize, Scenario), key: &str) -> Row {
    let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let counted = outcomes.iter().filter(|o| o.ok && o.correct && (o.n, o.m, o.scenario) == (n, m, scenario));
    for outcome in counted {
        if let Some(value) = value(outcome, key) {
            values.entry(outcome.name.clone()).or_default().push(value);
        }
    }
    let cells: BTreeMap<String, Cell> =
        values.into_iter().filter_map(|(name, mut v)| Some((name, cell(&mut v)?))).collect();
    let more = scenario.more_is_better() && scenario.keys().contains(&key);
    let others = cells.iter().filter(|(name, _)| *name != ours);
    let by = |a: &(&String, &Cell), b: &(&String, &Cell)| a.1.median.total_cmp(&b.1.median);
    let best = if more { others.max_by(by) } else { others.min_by(by) };
    let ratio = best.zip(cells.get(ours)).map(|((_, best), own)| match more {
        true => own.median / best.median,
        false => best.median / own.median,
    });
    let best_peer = best.map(|(name, _)| name.clone());
    Row { n, m, scenario, key: key.to_string(), best_peer, ratio: ratio.filter(|r| r.is_finite()), cells }
}

/// A value with its unit, to three digits.
pub fn shown(key: &str, value: f64) -> String {
    let digits = |v: f64| match v.abs() {
        a if a >= 100.0 => format!("{v:.0}"),
        a if a >= 10.0 => format!("{v:.1}"),
        _ => format!("{v:.2}"),
    };
    if key.ends_with("_us") {
        format!("{} µs", digits(value))
    } else if key.ends_with("per_s") {
        format!("{} M/s", digits(value / 1e6))
    } else if key.ends_with("_kb") {
        format!("{} MiB", digits(value / 1024.0))
    } else if value < 1.0 {
        format!("{} ms", digits(value * 1e3))
    } else {
        format!("{} s", digits(value))
    }
}

impl Cell {
    /// Median and spread, in words.
    pub fn shown(&self, key: &str) -> String {
        format!("{} ({} to {})", shown(key, self.median), shown(key, self.least), shown(key, self.most))
    }
}

impl Table {
    /// The table in Markdown: median (least to most), and the ratio to the best peer.
    pub fn markdown(&self) -> String {
        let mut out =
            format!("| clients × routes | measured | {} | ratio | best peer |\n", self.names.join(" | "));
        out += &format!("|{}\n", " --- |".repeat(self.names.len() + 4));
        for row in &self.rows {
            let cell = |name: &String| row.cells.get(name).map_or("-".to_string(), |c| c.shown(&row.key));
            let cells: Vec<String> = self.names.iter().map(cell).collect();
            let ratio = row.ratio.map_or("-".to_string(), |r| format!("{r:.2}"));
            let best = row.best_peer.as_deref().unwrap_or("-");
            let (n, m, what) = (row.n, row.m, row.scenario.name());
            out +=
                &format!("| {n} × {m} | {what} `{}` | {} | {ratio} | {best} |\n", row.key, cells.join(" | "));
        }
        for failure in &self.failures {
            out += &format!("\nfailed: {failure}\n");
        }
        out
    }
}

/// One line of the comparison of two generators: their ratios of ours to one peer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Agreement {
    /// Size, scenario and key.
    pub what: String,
    /// The peer.
    pub peer: String,
    /// The ratio by this generator: least, median, most over pairs of rounds.
    pub own: [f64; 3],
    /// The same by the other generator.
    pub other: [f64; 3],
    /// Whether the two ranges, widened by the tolerance, meet.
    pub agree: bool,
}

type Series = BTreeMap<(String, String), BTreeMap<String, Vec<f64>>>;

/// Values by size, scenario, key and reflector, out of JSON lines in this generator's or the other's form.
fn series(lines: &str) -> Series {
    let mut found = Series::new();
    let rows = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    for row in rows.filter(|r| r["ok"] == true && r["correct"] == true) {
        let (Some(name), Some(scenario)) = (row["name"].as_str(), row["scenario"].as_str()) else { continue };
        let Some(known) = Scenario::of(scenario) else { continue };
        let size = format!("{} x {} {scenario}", row["n"], row["m"]);
        for key in known.keys() {
            if let Some(value) = row["metrics"][*key].as_f64() {
                let at = found.entry((size.clone(), key.to_string())).or_default();
                at.entry(name.to_string()).or_default().push(value);
            }
        }
    }
    found
}

/// How many times better ours is than a peer, round by round: least, median, most. Rounds alternate, so pairs share
/// the machine's mood.
fn ratios(ours: &[f64], peer: &[f64], more_is_better: bool) -> Option<[f64; 3]> {
    let ratio = |(o, p): (&f64, &f64)| if more_is_better { o / p } else { p / o };
    let mut all: Vec<f64> = ours.iter().zip(peer).map(ratio).collect();
    let cell = cell(&mut all)?;
    Some([cell.least, cell.median, cell.most])
}

/// The ratios of `ours` to every peer by both generators, side by side. They agree where the ranges of their
/// rounds meet once each is widened by `tolerance` (0.25: a quarter).
pub fn agreement(own: &str, other: &str, ours: &str, tolerance: f64) -> Vec<Agreement> {
    let (own, other) = (series(own), series(other));
    let mut all = Vec::new();
    for ((size, key), names) in &own {
        let Some(others) = other.get(&(size.clone(), key.clone())) else { continue };
        for peer in names.keys().filter(|name| *name != ours) {
            let more = key.ends_with("per_s");
            let by = |set: &BTreeMap<String, Vec<f64>>| ratios(set.get(ours)?, set.get(peer)?, more);
            let (Some(own), Some(other)) = (by(names), by(others)) else { continue };
            let wide = |r: &[f64; 3]| (r[0] / (1.0 + tolerance), r[2] * (1.0 + tolerance));
            let (a, b) = (wide(&own), wide(&other));
            let what = format!("{size} {key}");
            all.push(Agreement { what, peer: peer.clone(), own, other, agree: a.0 <= b.1 && b.0 <= a.1 });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(name: &str, scenario: Scenario, key: &str, value: f64) -> Outcome {
        let line = serde_json::json!({"name": name, "n": 10, "m": 1000, "scenario": scenario, "run": 1, "ok": true,
            "correct": true, "metrics": {key: value}});
        serde_json::from_value(line).expect("an outcome")
    }

    /// Medians over rounds, the best peer by the right direction, and incorrect runs left out.
    #[test]
    fn ratios_are_to_the_best_correct_peer() {
        let cold = |name, value| outcome(name, Scenario::Cold, "all_s", value);
        let churn = |name, value| outcome(name, Scenario::Churn, "deliveries_per_s", value);
        let mut wrong = cold("quick", 0.001);
        wrong.correct = false;
        let all = [
            cold("ours", 0.01),
            cold("ours", 0.03),
            cold("ours", 0.02),
            cold("bird", 0.1),
            cold("frr", 0.2),
            wrong,
            churn("ours", 8e6),
            churn("bird", 2e6),
            churn("frr", 4e6),
        ];
        let table = table(&all, "ours");
        let row = |s| table.rows.iter().find(|r| r.scenario == s).expect("a row");
        assert_eq!(
            (row(Scenario::Cold).ratio, row(Scenario::Cold).best_peer.as_deref()),
            (Some(5.0), Some("bird"))
        );
        assert_eq!(
            (row(Scenario::Churn).ratio, row(Scenario::Churn).best_peer.as_deref()),
            (Some(2.0), Some("frr"))
        );
        assert_eq!(table.failures.len(), 1);
        let text = table.markdown();
        assert!(text.contains("20.0 ms (10.0 ms to 30.0 ms)") && text.contains("failed: quick"), "{text}");
    }

    /// Two generators agree when their ranges meet, and not when they are far apart.
    #[test]
    fn agreement_is_judged_by_ranges() {
        let lines = |values: &[(&str, f64)]| {
            let all = values.iter().map(|(name, v)| outcome(name, Scenario::Cold, "all_s", *v));
            all.map(|o| serde_json::to_string(&o).unwrap() + "\n").collect::<String>()
        };
        let own = lines(&[("ours", 0.01), ("bird", 0.05), ("ours", 0.01), ("bird", 0.06)]);
        let near = lines(&[("ours", 0.02), ("bird", 0.14)]);
        let far = lines(&[("ours", 0.02), ("bird", 0.4)]);
        let found = agreement(&own, &near, "ours", 0.25);
        assert_eq!((found.len(), found[0].agree, found[0].peer.as_str()), (1, true, "bird"));
        assert!((found[0].own[0] - 5.0).abs() < 1e-9 && (found[0].own[2] - 6.0).abs() < 1e-9);
        assert!(!agreement(&own, &far, "ours", 0.25)[0].agree);
        assert!(agreement(&own, "", "ours", 0.25).is_empty());
        let churn = |name, value| outcome(name, Scenario::Churn, "deliveries_per_s", value);
        let lines = [churn("ours", 8e6), churn("bird", 2e6)]
            .map(|o| serde_json::to_string(&o).unwrap() + "\n")
            .concat();
        assert_eq!(agreement(&lines, &lines, "ours", 0.25)[0].own, [4.0; 3], "more is better");
    }
}
