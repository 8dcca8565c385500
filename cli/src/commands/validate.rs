//! `routerctl validate`: every mistake of configuration files at once.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::Answer;
use crate::text;

/// Words of `validate`.
#[derive(Debug, Args)]
#[command(after_help = "Example: routerctl validate /etc/fabric/hub.yaml")]
pub struct ValidateArgs {
    /// Files, or folders of .yaml files; together one node's configuration
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

#[derive(Serialize)]
struct Verdict {
    ok: bool,
    role: Option<&'static str>,
    resources: usize,
    mistakes: Vec<MistakeView>,
}

#[derive(Serialize)]
struct MistakeView {
    file: String,
    line: usize,
    column: usize,
    message: String,
}

/// Runs the verb.
pub fn run(context: &Context, args: ValidateArgs) -> Result<Answer, Failure> {
    let verdict = match config::io::load(&args.files) {
        Ok(config) => {
            let resources = config.effective().len();
            Verdict { ok: true, role: Some(config.role().as_str()), resources, mistakes: Vec::new() }
        }
        Err(mistakes) => {
            let view = |mistake: &config::Mistake| MistakeView {
                file: mistake.at.file.to_string(),
                line: mistake.at.line,
                column: mistake.at.column,
                message: mistake.problem.to_string(),
            };
            Verdict { ok: false, role: None, resources: 0, mistakes: mistakes.iter().map(view).collect() }
        }
    };
    context.judged(verdict.ok, &verdict, people)
}

fn people(verdict: &Verdict) -> String {
    if let Some(role) = verdict.role {
        return format!("fine: a {role} with {} resources, defaults included", verdict.resources);
    }
    let place = |m: &MistakeView| match m.line {
        0 => m.file.clone(),
        _ => format!("{}:{}:{}", m.file, m.line, m.column),
    };
    let line = |m: &MistakeView| text::plain(&format!("{}: {}", place(m), m.message));
    let count = verdict.mistakes.len();
    let mut lines: Vec<String> = verdict.mistakes.iter().map(line).collect();
    lines.push(format!("{count} mistake{}", if count == 1 { "" } else { "s" }));
    lines.join("\n")
}
