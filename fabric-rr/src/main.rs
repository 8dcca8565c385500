//! `fabric-rr`: the hub. It runs the enrollment service, WireGuard and a BGP route reflector with dynamic peers;
//! with a configuration that has no `SAMEnrollmentPolicy` it is a plain route reflector, needs no rights and
//! touches no interface.
//!
//! Reading order: `hub` (the pure meeting point), `run` (who owns what), `moves` (claims on
//! their way), `http` and `status` (the
//! administration socket).

mod derive;
mod held;
mod hint;
mod http;
mod hub;
mod join;
mod measured;
mod memory;
mod moves;
mod named;
mod peering;
mod run;
mod status;
mod tls_listener;
mod tunnels;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use control::{Node, Paths};

/// Hub daemon: route reflector, enrollment service and underlay relay.
#[derive(Debug, Parser)]
#[command(version, after_help = "Example: fabric-rr --config examples/reflector-only.yaml --root /tmp/rr")]
struct Arguments {
    /// Puts /etc/fabric, /var/lib/fabric and /run/fabric below this directory
    #[arg(long, env = "FABRIC_ROOT", value_name = "DIR")]
    root: Option<PathBuf>,
    /// Configuration file [default: /etc/fabric/hub.yaml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Raises the limit of open files as far as it goes without rights: each neighbour is a socket, and the usual soft
/// limit of 1,024 would refuse the thousandth leaf.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!("the limit of open files stays at {:?}: {error}", limit.current);
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("FABRIC_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,gotatun=off"));
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    log.with_writer(std::io::stderr).with_ansi(colours).init();

    let paths = Paths::below(arguments.root.as_deref());
    let file = arguments.config.unwrap_or_else(|| paths.config(Node::Hub));
    raise_open_files();
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
