//! `routerctl evidence`: a lab's evidence bundle.

use std::path::PathBuf;

use ::lab::{EvidenceReport, LabName, Matrix};
use clap::Args;

use crate::commands::lab::open;
use crate::context::Context;
use crate::failure::Failure;
use crate::io::files;
use crate::output::Answer;
use crate::text;

/// Words of `evidence`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    routerctl evidence --lab fab --out evidence\n  \
    routerctl evidence --lab fab --out evidence --matrix matrix.json\n\n\
    The bundle holds each node's configuration with an explanation, the boundary check, convergence, the matrix, \
    each node's status, the provider routing, a manifest with SHA-256 of each file, and the search for secrets.\n\
    Exit code 1 when one of the seven points of the acceptance scenario fails, or a secret would be shown.")]
pub struct EvidenceArgs {
    /// The lab
    #[arg(long, visible_alias = "name", value_name = "NAME", default_value = "fab")]
    lab: LabName,
    /// Where the lab keeps its state [default: /run/fabric-lab]
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// The folder of the bundle; it must be absent or empty
    #[arg(long, value_name = "DIR", default_value = "evidence")]
    out: PathBuf,
    /// A result of `routerctl matrix -o json` to put in [default: the matrix is run now]
    #[arg(long, value_name = "FILE")]
    matrix: Option<PathBuf>,
}

/// Runs the verb.
pub async fn run(context: &Context, args: EvidenceArgs) -> Result<Answer, Failure> {
    let lab = open(&args.lab, args.base.as_deref())?;
    let matrix = args.matrix.map(read).transpose()?;
    let report = lab.evidence(&args.out, matrix).await?;
    context.judged(report.ok, &report, people)
}

fn read(file: PathBuf) -> Result<Matrix, Failure> {
    let text = files::read(&file)?.ok_or_else(|| {
        Failure::usage(format!("there is no {}", file.display())).fix("make it: `routerctl matrix -o json`")
    })?;
    serde_json::from_str(&text).map_err(|error| {
        Failure::usage(format!("{} is no matrix: {error}", file.display()))
            .fix("make it: `routerctl matrix -o json`")
    })
}

fn people(report: &EvidenceReport) -> String {
    let mut lines: Vec<String> = Vec::new();
    for point in &report.points {
        let mark = if point.ok { "ok    " } else { "FAILED" };
        lines.push(format!("{}  {mark}  {}: {}", point.number, point.title, text::plain(&point.detail)));
    }
    let (files, secrets) = (report.files, report.secrets_looked_for);
    lines.push(format!("{files} files in {}; none of {secrets} secrets is in them", report.dir.display()));
    lines.join("\n")
}
