//! `routerctl completions`: the completion script of a shell.

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::Shell;
use serde::Serialize;

use crate::args::Cli;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::Answer;

/// Words of `completions`.
#[derive(Debug, Args)]
#[command(after_help = "Example: routerctl completions bash > /etc/bash_completion.d/routerctl")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: ShellArg,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum ShellArg {
    /// Bash
    Bash,
    /// Z shell
    Zsh,
    /// Fish
    Fish,
}

#[derive(Serialize)]
struct Script {
    shell: ShellArg,
    script: String,
}

/// Runs the verb.
pub fn run(context: &Context, args: CompletionsArgs) -> Result<Answer, Failure> {
    let shell = match args.shell {
        ShellArg::Bash => Shell::Bash,
        ShellArg::Zsh => Shell::Zsh,
        ShellArg::Fish => Shell::Fish,
    };
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "routerctl", &mut bytes);
    let script = String::from_utf8_lossy(&bytes).trim_end().to_string();
    context.answer(&Script { shell: args.shell, script }, |s| s.script.clone())
}
