//! `routerctl lab up --kernel lab`: the whole scenario inside a Linux kernel that runs as a process.

use std::path::PathBuf;
use std::time::Duration;

use ::lab::LabName;
use ::lab::kernel::{ScenarioOptions, ScenarioReport, cached, scenario};
use ::lab::layout::Hubs;

use crate::commands::lab::sites_text;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{self, Answer, Format};

/// Longest time for the scenario, where none is given, seconds. A build of the kernel comes on top.
const LIMIT_SECS: u64 = 600;

/// Runs the scenario.
pub async fn run(
    context: &Context,
    name: LabName,
    hubs: Hubs,
    bin_dir: Option<PathBuf>,
    out: Option<PathBuf>,
    limit_secs: Option<u64>,
) -> Result<Answer, Failure> {
    let out = out.unwrap_or_else(|| format!("lab-kernel-{name}").into());
    if out.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        let failure = Failure::usage(format!("{} is not empty", out.display()));
        return Err(failure.fix("name another folder with --out, or remove that one"));
    }
    let bin_dir = match bin_dir {
        Some(dir) => dir,
        None => beside().ok_or_else(|| {
            Failure::bad("lab-failed", "the folder of this program is not known")
                .fix("name it with --bin-dir DIR")
        })?,
    };
    if context.format == Format::Table && cached().is_none() {
        output::remark("building the lab kernel: once, about 9 minutes on 2 cores");
    }
    let limit = Duration::from_secs(limit_secs.unwrap_or(LIMIT_SECS));
    let report = scenario(&ScenarioOptions { name, hubs, bin_dir, out, limit }).await?;
    context.judged(report.ok, &report, people)
}

fn beside() -> Option<PathBuf> {
    Some(std::env::current_exe().ok()?.parent()?.to_path_buf())
}

fn people(report: &ScenarioReport) -> String {
    let mut parts = sites_text(&report.up.sites);
    parts.push(report.matrix.table().trim_end().to_string());
    let failed: Vec<String> =
        report.exit.iter().filter(|(_, exit)| **exit != 0).map(|(step, _)| step.clone()).collect();
    if !failed.is_empty() {
        parts.push(format!("FAILED: {}; what each said: {}", failed.join(", "), report.out.display()));
    }
    let left = if report.left.is_empty() { "nothing" } else { &report.left };
    let verdict = if report.ok { "passed" } else { "did NOT pass" };
    parts.push(format!(
        "kernel {} {verdict} in {} ms; left behind: {left}; results: {}",
        report.kernel,
        report.elapsed_ms,
        report.out.display()
    ));
    parts.join("\n\n")
}
