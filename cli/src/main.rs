//! `routerctl`: everything a person types.
//!
//! Reading order: [`args`] (the verbs), [`context`] (which node, which directories, which format), one file a verb
//! under [`commands`], [`failure`] (what went wrong, how to mend it, the exit code), [`text`] (tables), and
//! [`output`], the only place that prints.
//!
//! Exit codes: 0 fine, 1 the answer is bad, 2 wrong usage, 3 the daemon cannot be reached.

mod args;
mod commands;
mod context;
mod failure;
mod io;
mod output;
mod qr;
mod text;

use clap::Parser;

use crate::args::Cli;
use crate::context::Context;
use crate::failure::Failure;

fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    let context = Context::new(&cli.global);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let failure = Failure::bad("internal", format!("cannot start: {error}"))
                .fix("check the limits of this shell: `ulimit -a`");
            return output::failure(context.format, &failure);
        }
    };
    match runtime.block_on(commands::run(&context, cli.verb)) {
        Ok(answer) => output::answer(answer),
        Err(failure) => output::failure(context.format, &failure),
    }
}
