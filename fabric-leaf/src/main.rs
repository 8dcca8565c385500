//! `fabric-leaf`: a site's router. It enrolls at the hub, brings up WireGuard and ipip, announces its clients'
//! `/32`s over iBGP, installs everyone else's and captures local traffic for them.
//!
//! Reading order: `leaf` (the pure meeting point), `run` (who owns what), `membership` (admission, lease and
//! claims), `words` (what a person tells it to do at the hub), `enroll` (one enrollment, step by step), `waiting` (for a person's word), `converge` (from membership and best paths to the kernel),
//! `preferred` (which hub carries the overlay), `hint` (a hub's word that there is news), `named` (where the hubs' names lead),
//! `remembered` (the routes over a restart), `settings`, `probe`, `http` and `status` (the administration socket).

mod converge;
mod enroll;
mod explained;
mod hint;
mod http;
mod hubs_word;
mod leaf;
mod lines;
mod measured;
mod membership;
mod named;
mod preferred;
mod probe;
mod remembered;
mod run;
mod settings;
mod status;
mod turns;
mod waiting;
mod words;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use control::{Node, Paths};

/// Leaf daemon: joins a site to the fabric.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example: fabric-leaf --root /tmp/leaf\nThen: routerctl --root /tmp/leaf enroll STRING"
)]
struct Arguments {
    /// Puts /etc/fabric, /var/lib/fabric and /run/fabric below this directory
    #[arg(long, env = "FABRIC_ROOT", value_name = "DIR")]
    root: Option<PathBuf>,
    /// Configuration file [default: /etc/fabric/leaf.yaml; none is needed before the enrollment]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("FABRIC_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,gotatun=off"));
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    log.with_writer(std::io::stderr).with_ansi(colours).init();

    let paths = Paths::below(arguments.root.as_deref());
    let file = arguments.config.unwrap_or_else(|| paths.config(Node::Leaf));
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run::run(paths, file)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
