//! `routerctl matrix`: whether every client of a lab reaches every other.

use std::path::PathBuf;

use ::lab::{LabName, Matrix, MatrixOptions};
use clap::Args;

use crate::commands::lab::open;
use crate::context::Context;
use crate::failure::Failure;
use crate::io::files;
use crate::output::Answer;

/// Words of `matrix`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  routerctl matrix --lab fab\n  routerctl matrix --lab fab --junit matrix.xml -o json\n\n\
    Exit code 1 when a pair is red; the table says which of ping, SSH, TCP and source address failed, and where \
    the packet was last seen."
)]
pub struct MatrixArgs {
    /// The lab
    #[arg(long, visible_alias = "name", value_name = "NAME", default_value = "fab")]
    lab: LabName,
    /// Where the lab keeps its state [default: /run/fabric-lab]
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// Also writes the result as JUnit XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Pairs that are tried at the same moment
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=12))]
    parallel: u8,
    /// Longest time for each of ping, SSH and TCP, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=300))]
    limit: u64,
    /// Does not look for where a failed pair's packets end
    #[arg(long)]
    no_trace: bool,
}

/// Runs the verb.
pub async fn run(context: &Context, args: MatrixArgs) -> Result<Answer, Failure> {
    let lab = open(&args.lab, args.base.as_deref())?;
    let options =
        MatrixOptions { parallel: args.parallel.into(), limit_secs: args.limit, trace: !args.no_trace };
    let matrix = lab.matrix(&options).await?;
    if let Some(file) = &args.junit {
        files::write(file, &matrix.junit())?;
    }
    context.judged(matrix.ok(), &matrix, |m: &Matrix| m.table().trim_end().to_string())
}
